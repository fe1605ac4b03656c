"""ProGRPO on the quickstart's task, with one part of ARM changed.

  progrpo train --config configs/arm_tiny.py:correct --workdir runs/arm_correct

Needs the base policy that `make quickstart` leaves. The argument names the
difference from configs/tiny.py:progrpo:

  correct      re-weights only right responses
  mixed        re-weights only groups with both right and wrong responses
  paper        no centring: the prompt's own confidence, as in the paper
  entropy      confidence over the most uncertain tokens, not the least probable
  all_tokens   confidence over all tokens, which is 1 / perplexity
  weak         alpha 0.1 instead of 1
  strong       alpha 3 instead of 1

Hardware and hours: a run takes about three minutes on two cores. Results of
some variants are in docs/results.md.
"""

from progrpo_jax.settings import methods, scales


def get_config(variant: str = "correct"):
  """ProGRPO at the quickstart's scale, with one thing changed."""
  c = methods.progrpo(scales.laptop())
  arm = c.algo.arm
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
      "all_tokens, weak, strong"
    )
  return c
