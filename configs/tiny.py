"""The quickstart: a character-level policy on Countdown, on a laptop's CPU.

  make quickstart
or, for one run, after `make quickstart` has made the base policy:
  progrpo train --config configs/tiny.py:progrpo --workdir runs/progrpo

The argument names any method of progrpo_jax/settings/methods.py. Model, data,
budget (`scales.laptop`) and seeds are the same for all methods. So are a clip
of 0.2 / 0.28 and a mean over tokens, unless the method is about these. A
method's keys are set by its function; `scales.compared` and the lines below set
those that need another value than the paper's at this scale. Results:
docs/results.md.
"""

from progrpo_jax.settings import scales


def get_config(method: str = "progrpo"):
  """The quickstart's config of one method."""
  c = scales.compared(scales.laptop(), method)
  a = c.algo
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
