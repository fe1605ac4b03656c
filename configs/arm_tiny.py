"""ProGRPO on the quickstart's task, with ARM taken apart.

  progrpo train --config configs/arm_tiny.py:correct --workdir runs/arm_correct

Needs the base policy that `make quickstart` leaves. The argument names what
differs from configs/tiny.py:progrpo:

  correct      only right responses are re-weighted
  mixed        only groups with right and wrong responses are
  paper        no centring: the prompt's own confidence, as the paper has it
  entropy      the tail of uncertain tokens, not of improbable ones
  all_tokens   confidence over all tokens: 1 / perplexity
  weak         a tenth of the strength
  strong       three times the strength

Hardware and hours: a run takes about three minutes of two cores. Measured
results of some of these are in docs/results.md.
"""

from progrpo_jax.config import methods, scales


def get_config(variant: str = "correct"):
  """ProGRPO at the quickstart's scale, with one thing changed."""
  c = methods.progrpo(scales.laptop())
  arm = c.algo.arm
  arm.alpha, arm.centre = 1.0, True
  if variant == "correct":
    arm.apply_to = "correct"
  elif variant == "mixed":
    arm.active = "mixed"
  elif variant == "paper":
    arm.centre = False
  elif variant == "entropy":
    arm.tail = "entropy"
  elif variant == "all_tokens":
    arm.low_prob_share = arm.prompt_low_prob_share = 1.0
  elif variant == "weak":
    arm.alpha = 0.1
  elif variant == "strong":
    arm.alpha = 3.0
  else:
    raise ValueError(
        f"no variant {variant!r}; known: correct, mixed, paper, entropy, "
        "all_tokens, weak, strong")
  return c
