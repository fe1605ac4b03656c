"""What each method is: the keys in which it differs from GRPO.

Figures are the papers'; what a paper leaves open is labelled "ours". Models,
data and scale are the business of the files that call these.
"""


def grpo(c):
  """GRPO (2402.03300): one mean per sequence, symmetric clip, KL 0.04."""
  c.method = "grpo"
  c.algo.advantage = "grpo"
  c.algo.epsilon = c.algo.epsilon_high = 0.2
  c.algo.aggregate = "sequence_mean"
  c.algo.kl = "k3"
  c.algo.beta = 0.04
  return c


def dr_grpo(c):
  """Dr. GRPO (2503.20783): no division by spread or length, no KL."""
  c.method = "dr_grpo"
  c.algo.advantage = "dr_grpo"
  c.algo.epsilon = c.algo.epsilon_high = 0.2
  c.algo.aggregate = "constant"
  c.algo.beta = 0.0
  return c


def dapo(c):
  """DAPO (2503.14476): decoupled clip, dynamic sampling, overlong shaping."""
  c.method = "dapo"
  c.algo.advantage = "grpo"
  c.algo.epsilon, c.algo.epsilon_high = 0.2, 0.28
  c.algo.dual_clip = 10.0
  c.algo.aggregate = "token_mean"
  c.algo.beta = 0.0
  c.algo.dynamic_sampling.enabled = True
  # The paper's ratio: 4096 of 20480 tokens.
  c.algo.overlong_cache = c.sampling.max_new_tokens // 5
  return c


def progrpo(c):
  """ProGRPO (2602.05281): ARM on a token-level clipped loss, no KL.

  Ours: alpha (the paper's is not known), dynamic sampling off.
  """
  c.method = "progrpo"
  c.algo.advantage = "grpo"
  c.algo.epsilon, c.algo.epsilon_high = 0.2, 0.28
  c.algo.aggregate = "token_mean"
  c.algo.beta = 0.0
  c.algo.arm.alpha = 0.3
  return c


def prorl(c):
  """ProRL (2505.24864): KL to a reset reference, decoupled clip, hot samples.

  Ours: the trigger of a reset (the paper prints none). The weight and form
  of the KL are those of the technical report 2507.12507.
  """
  c.method = "prorl"
  c.algo.advantage = "grpo"
  c.algo.epsilon, c.algo.epsilon_high = 0.2, 0.4
  c.algo.aggregate = "token_mean"
  c.algo.kl = "k3"
  c.algo.beta = 1e-4
  c.algo.dynamic_sampling.enabled = True
  c.algo.reset.modes = ("stall",)
  c.algo.reset.optimizer = True
  c.sampling.temperature = 1.2
  return c
