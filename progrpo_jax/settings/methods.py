"""What each method is: the keys in which it differs from the others.

Figures are the papers'; what a paper leaves open is labelled "ours". Models,
data and scale, and with them what a paper does beside its method, are the
business of the files that call these.
"""


def grpo(c):
  """GRPO (2402.03300): one mean per sequence, symmetric clip, KL 0.04."""
  c = _surrogate(c, "grpo")
  c.algo.aggregate = "sequence_mean"
  c.algo.kl = "k3"
  c.algo.beta = 0.04
  return c


def dr_grpo(c):
  """Dr. GRPO (2503.20783): no division by spread or length, no KL."""
  c = _surrogate(c, "dr_grpo")
  c.algo.advantage = "dr_grpo"
  c.algo.aggregate = "constant"
  return c


def dapo(c):
  """DAPO (2503.14476): decoupled clip, dynamic sampling, overlong shaping."""
  c = _surrogate(c, "dapo", epsilon_high=0.28)
  c.algo.dual_clip = 10.0
  c.algo.dynamic_sampling.enabled = True
  c.algo.dynamic_sampling.filter = "accuracy"
  # The paper's ratio: 4096 of 20480 tokens.
  c.algo.overlong_cache = c.sampling.max_new_tokens // 5
  return c


def progrpo(c):
  """ProGRPO (2602.05281): ARM on a token-level clipped loss, no KL.

  Ours: alpha (the paper's is not known; in docs/study.md 0.3 does a part of
  what 1 does, and with 3 pass@1 does not rise), centring, dynamic sampling off.
  The formula as printed has c(q) in place of the group's mean confidence. Near
  0, as c(q) is on random numbers and on prompts of words, it pushes down all
  that is sampled: docs/results.md, "Which reading of ARM", has a task that is
  hardly learnt with it. `algo.arm.centre=False` is that reading.
  """
  c = _surrogate(c, "progrpo", epsilon_high=0.28)
  c.algo.arm.alpha = 1.0
  c.algo.arm.centre = True
  return c


def prorl(c):
  """ProRL (2505.24864): KL to a reset reference, decoupled clip, hot samples.

  Ours: the trigger of a reset (the paper prints none). The weight and form
  of the KL are those of the technical report 2507.12507.
  """
  c = _surrogate(c, "prorl", epsilon_high=0.4)
  c.algo.kl = "k3"
  c.algo.beta = 1e-4
  c.algo.dynamic_sampling.enabled = True
  c.algo.reset.modes = ("stall",)
  c.algo.reset.optimizer = True
  c.sampling.temperature = 1.2
  return c


def prorl_v2(c):
  """ProRL v2 (blog of August 2025): one scale for all groups, kept optimiser.

  Clip, k2 and bounds of the correction are those of its public scripts. The
  blog resets every 200 to 500 steps or on a spike of the KL or a stall: here
  after 500 at the latest. Ours: what counts as a spike or a stall, the weight
  of the length penalty and its range, the temperature (v1's).
  """
  c = _surrogate(c, "prorl_v2", epsilon_high=0.27)
  c.algo.advantage = "reinforce_pp"
  c.algo.advantage_options = {"baseline": True}
  c.algo.kl = "k2"
  c.algo.beta = 1e-4
  c.algo.dynamic_sampling.enabled = True
  c.algo.reset.modes = ("every", "stall", "kl")
  c.algo.reset.period = 500
  c.algo.reset.optimizer = False
  c.algo.length_penalty.coef = 0.5
  c.algo.length_penalty.on, c.algo.length_penalty.off = 100, 500
  c.algo.truncated_factor = 0.0
  c.algo.correction = "drop"
  c.algo.correction_options = {"low": 0.5, "high": 5.0}
  c.sampling.temperature = 1.2
  return c


def gspo(c):
  """GSPO (2507.18071): the ratio of whole responses, clipped closely."""
  c = _surrogate(c, "gspo")
  c.algo.loss = "gspo"
  c.algo.epsilon, c.algo.epsilon_high = 3e-4, 4e-4
  c.algo.aggregate = "sequence_mean"
  return c


def cispo(c):
  """CISPO (2506.13585): REINFORCE with a capped ratio as its weight.

  Ours: the cap, which the paper does not print; 5 is TRL's.
  """
  c = _surrogate(c, "cispo")
  c.algo.loss = "cispo"
  c.algo.loss_options = {"cap": 5.0}
  return c


def dppo(c):
  """DPPO (2602.04879): masks by the change of a probability, not the ratio.

  The bound is that of its authors' script.
  """
  c = _surrogate(c, "dppo")
  c.algo.loss = "dppo"
  c.algo.loss_options = {"delta": 0.15, "delta_high": 0.15}
  return c


def sapo(c):
  """SAPO (2511.20347): a smooth gate of the ratio in the place of the clip."""
  c = _surrogate(c, "sapo")
  c.algo.loss = "sapo"
  c.algo.loss_options = {"tau_pos": 1.0, "tau_neg": 1.05}
  c.algo.aggregate = "sequence_mean"
  return c


def high_entropy(c):
  """80/20 (2506.01939): learns from the fifth of tokens of highest entropy.

  Its clip is DAPO's, of which it keeps all else too.
  """
  c = _surrogate(c, "high_entropy", epsilon_high=0.28)
  c.algo.loss = "high_entropy"
  c.algo.loss_options = {"share": 0.2}
  c.algo.dual_clip = 10.0
  return c


def vespo(c):
  """VESPO (2602.10693): a smooth weight of the whole response's ratio."""
  c = _surrogate(c, "vespo")
  c.algo.loss = "vespo"
  c.algo.loss_options = {
    "k_pos": 2.0,
    "lambda_pos": 3.0,
    "k_neg": 3.0,
    "lambda_neg": 2.0,
  }
  return c


def flowrl(c):
  """FlowRL (2509.15207): matches the distribution of rewards.

  Ours: the bounds of the weight, which its text names and does not print.
  """
  c = _surrogate(c, "flowrl", epsilon_high=0.28)
  c.algo.loss = "flowrl"
  # The inverse temperature of the rewards; algo.beta is the KL's.
  c.algo.loss_options = {"beta": 15.0}
  c.algo.aggregate = "sequence_mean"
  c.algo.partition_head = True
  c.algo.hold_reference = True
  return c


def clip_cov(c):
  """Clip-Cov (2505.22617): no gradient for a few tokens of high covariance.

  Bounds are those of the text; the released scripts have 1 and 1.
  """
  c = _surrogate(c, "clip_cov")
  c.algo.loss = "clip_cov"
  c.algo.loss_options = {"share": 2e-4, "cov_low": 1.0, "cov_high": 5.0}
  return c


def kl_cov(c):
  """KL-Cov (2505.22617): a KL for the tokens of highest covariance, no clip.

  The share is that of its 7B model; 2e-4 at 32B.
  """
  c = _surrogate(c, "kl_cov")
  c.algo.loss = "kl_cov"
  c.algo.loss_options = {"share": 2e-3, "coef": 1.0}
  return c


def entropy_bonus(c):
  """A fixed entropy bonus, as 2505.22617 tries it in its figure 9.

  There 1e-3 shows no effect, 5e-3 holds the entropy, 1e-2 makes it explode.
  """
  c = _surrogate(c, "entropy_bonus")
  c.algo.entropy_coef = 5e-3
  return c


def adaptive_entropy(c):
  """Skywork-OR1 (2505.22312): an entropy bonus that holds a target.

  Ours: the bounds of the clip.
  """
  c = _surrogate(c, "adaptive_entropy")
  c.algo.entropy_control.target = 0.2
  c.algo.entropy_control.step = 0.005
  return c


def reinforce_pp(c):
  """REINFORCE++ (2501.03262): one baseline and scale for the whole batch.

  Its KL is taken off the reward. Ours: the mean over tokens.
  """
  c = _surrogate(c, "reinforce_pp")
  c.algo.advantage = "reinforce_pp"
  c.algo.reward_kl_coef = 1e-3
  return c


def rloo(c):
  """RLOO (2402.14740): REINFORCE, the others of a group as the baseline.

  The sum of log-probs of a whole response, over a constant. With one update a
  batch, as in the paper, no ratio leaves 1 and the clip is never felt. Ours:
  no KL; the paper, which learns from human preferences, takes one off the
  reward.
  """
  c = _surrogate(c, "rloo")
  c.algo.advantage = "rloo"
  c.algo.aggregate = "constant"
  return c


def repo(c):
  """RePO (2602.10819): hard groups get a rephrased expert solution.

  Ours: both thresholds and the words of the question.
  """
  c = _surrogate(c, "repo")
  c.algo.rephrase.enabled = True
  c.algo.rephrase.min_fail_share = 0.75
  c.algo.rephrase.fail_below = 0.5
  return c


# Advantages that weigh groups or right responses anew, see algos/advantages.py.


def maxrl(c):
  """MaxRL (2602.02710): rewards centred and divided by the group's mean."""
  c = _surrogate(c, "maxrl")
  c.algo.advantage = "maxrl"
  return c


def passk(c):
  """Pass@k training (2508.10751): the reward of k responses together.

  Ours: k 4, of the values that it tries.
  """
  c = _surrogate(c, "passk")
  c.algo.advantage = "passk"
  c.algo.advantage_options = {"k": 4}
  return c


def ucpo(c):
  """UCPO (2605.00365): the right responses' advantage by their rarity."""
  c = _surrogate(c, "ucpo")
  c.algo.advantage = "ucpo"
  c.algo.advantage_options = {"tau": 0.2}
  return c


def unlikeliness(c):
  """Unlikeliness (2506.02355): likely right responses get less reward.

  Ours: no KL; its scripts have one of weight 0.1, and two passes a batch.
  """
  c = _surrogate(c, "unlikeliness")
  c.algo.advantage = "unlikeliness"
  c.algo.advantage_options = {"beta": 0.25}
  return c


def f_grpo(c):
  """F-GRPO (2602.06717): groups weigh less, the more of them is right.

  Ours: gamma, which could not be read.
  """
  c = _surrogate(c, "f_grpo")
  c.algo.advantage = "focal"
  c.algo.advantage_options = {"gamma": 0.5}
  return c


def dra_grpo(c):
  """DRA-GRPO (2505.09655): rewards divided by likeness to the group.

  Ours: likeness by shared 3-grams of tokens, in the place of embeddings.
  """
  c = _surrogate(c, "dra_grpo")
  c.algo.advantage = "dra"
  c.algo.advantage_options = {"n": 3}
  return c


def qae(c):
  """QAE (2509.22611): a quantile of the group as baseline, on DAPO's clip."""
  c = _surrogate(c, "qae", epsilon_high=0.28)
  c.algo.advantage = "quantile"
  c.algo.advantage_options = {"k": 0.4}
  return c


def nsr(c):
  """Weighted-REINFORCE of NSR (2506.01347): wrong responses teach most."""
  c = _surrogate(c, "nsr")
  c.algo.advantage = "nsr"
  c.algo.advantage_options = {"weight": 0.1}
  return c


def gdpo(c):
  """GDPO (2601.05242): each term of a reward on a scale of its own."""
  c = _surrogate(c, "gdpo")
  c.algo.advantage = "gdpo"
  return c


def brorl(c):
  """BroRL (2510.01180): a saturated ProRL run goes on with wide groups.

  Ours: all but the 512 samples of a prompt, which is ProRL v2's.
  """
  c = prorl_v2(c)
  c.method = "brorl"
  c.algo.num_generations = 512
  return c


def _surrogate(c, method: str, epsilon_high: float = 0.2):
  """What most share: group advantages, a clipped mean over tokens, no KL."""
  c.method = method
  c.algo.advantage = "grpo"
  c.algo.loss = "clip"
  c.algo.epsilon, c.algo.epsilon_high = 0.2, epsilon_high
  c.algo.aggregate = "token_mean"
  c.algo.beta = 0.0
  return c
