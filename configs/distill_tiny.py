"""On-policy distillation on a laptop's CPU: a run teaches the base it began at.

  progrpo train --config configs/distill_tiny.py --workdir runs/distill_tiny

The teacher is the policy at which ProGRPO ends in `make quickstart`, the
student the base that it began at. Any other run of configs/tiny.py can teach
too: name one of its checkpoints in config.algo.distill.teacher. Model, data and
budget are those of configs/tiny.py.

Argument: `alone` (default), in which rewards are measured and teach nothing;
`beside`, which adds the teacher's advantage to that of the rewards, with a
weight of 0.1; or `then`, 50 steps of the first and then rewards alone.

Watch `distill/reverse_kl`, nats a token, which falls to what noise leaves.
"""

from progrpo_jax.settings import methods, scales


def get_config(variant: str = "alone"):
  """Distillation from a run of the quickstart."""
  if variant not in ("alone", "beside", "then"):
    raise ValueError(f"no variant {variant!r}; known: alone, beside, then")
  c = methods.grpo(scales.laptop())
  c.method = "distill"
  # As configs/tiny.py has them for GRPO.
  c.algo.beta = 0.0
  c.algo.aggregate = "token_mean"
  c.algo.epsilon_high = 0.28
  c.algo.distill.teacher = "runs/quickstart/progrpo/checkpoints/100"
  if variant == "beside":
    c.algo.distill.keep_rewards = True
    c.algo.distill.coef = 0.1
  if variant == "then":
    c.schedule = (
      {"name": "rewards", "at_step": 50, "set": {"algo.distill.coef": 0.0}},
    )
  return c
