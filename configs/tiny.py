"""The quickstart: a character-level policy on Countdown, on a laptop's CPU.

  make quickstart
or, for one run, after `make quickstart` has made the base policy:
  progrpo train --config configs/tiny.py:progrpo --workdir runs/progrpo

The argument names any method of progrpo_jax/settings/methods.py. Model, data,
budget (`scales.laptop`) and seeds are the same for all methods. So are a clip
of 0.2 / 0.28 and a mean over tokens, unless the method is about these. A
method's keys are set by its function; `_small` below sets those that need
another value than the paper's at this scale. Results: docs/results.md.
"""

from progrpo_jax.settings import methods, scales


def get_config(method: str = "progrpo"):
  """The quickstart's config of one method."""
  known = {n: f for n, f in vars(methods).items() if not n.startswith("_")}
  if method not in known:
    raise ValueError(f"no method {method!r}; known: {', '.join(sorted(known))}")
  return _small(known[method](scales.laptop()))


def _small(c):
  """A method's numbers at this scale, where they are not the paper's."""
  a, method = c.algo, c.method
  # Without a KL term the reference needs no memory, and plain GRPO is here
  # the baseline that differs from ProGRPO in ARM alone.
  if method == "grpo":
    a.beta = 0.0
    a.aggregate = "token_mean"
  # Bounds of 0.2 and 0.2 are what a paper took over from PPO, not its method.
  if a.epsilon == a.epsilon_high == 0.2:
    a.epsilon_high = 0.28
  # Chosen by measurement (docs/results.md). The prompts are random numbers:
  # c(q) is near 0 whatever the problem, so that without centring ARM would
  # only push down all that is sampled.
  if method == "progrpo":
    a.arm.alpha = 1.0
    a.arm.centre = True
  # 100 steps are to see two resets, and the length penalty come and go.
  if method in ("prorl", "prorl_v2", "brorl"):
    a.reset.modes = ("every",)
    a.reset.period = 40
  if method in ("prorl_v2", "brorl"):
    a.length_penalty.on, a.length_penalty.off = 10, 50
  # As many samples a step as the others, of fewer problems.
  if method == "brorl":
    a.num_generations = 64
    c.train.prompts_per_step = 8
  # With one term it is GRPO with one more scale. The second is DAPO's penalty
  # over the last half of the length that there is.
  if method == "gdpo":
    a.overlong_cache = c.sampling.max_new_tokens // 2
  # The mean of ten tokens is noisier than that of thousands. In the first
  # steps the paper's bounds clip 3 to 5% of all tokens here, updates without
  # an advantage included, and bounds 100 times as wide under 2%.
  if method == "gspo":
    a.epsilon, a.epsilon_high = 3e-3, 4e-3
  # What SAPO is about is its gate: the mean is that of all others here.
  if method == "sapo":
    a.aggregate = "token_mean"
  # Of the 2,600 tokens of a minibatch 2e-4 are not one. KL-Cov takes 2e-4
  # of the tokens at 32B and 2e-3 at 7B: more, the smaller the policy.
  if method == "clip_cov":
    a.loss_options.share = 2e-3
  if method == "kl_cov":
    a.loss_options.share = 2e-2
  # The base has 0.66 nats a token here, and GRPO ends at half of that.
  if method == "adaptive_entropy":
    a.entropy_control.target = 0.5
  # This policy has no words to be asked in: it is shown a solution, then the
  # problem. The quickstart's base was never taught such a question, and none
  # of 190 answers was accepted in six steps: from it, this is plain GRPO.
  if method == "repo":
    a.rephrase.template = "{solution} {prompt}"
    a.rephrase.max_prompt_length = 2 * c.data.max_prompt_length
  return c
