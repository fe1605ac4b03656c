"""Weights of the objective that move from step to step.

Each function makes the next step's value from this step's and a number that
the run has logged, and from nothing else: no clock, no state of its own. A run
that was interrupted and resumed therefore moves them as the unbroken one would
have. A measurement that is NaN moves nothing.

Runs on the host, in plain Python.
"""

import math


def adapt_entropy_coef(
    coef: float, entropy: float, *, target: float, step: float = 0.005,
    low: float = 0.0, high: float = 1.0,
) -> float:
  """The weight of the entropy bonus for the next step.

  It grows by `step` while the entropy is at or below its target and shrinks by
  as much while it is above. A constant weight has no good value: 1e-3 does
  nothing, 1e-2 makes the entropy explode, and what lies between depends on the
  data (https://arxiv.org/abs/2505.22617, figure 9).

  See "Skywork Open Reasoner 1" (https://arxiv.org/abs/2505.22312); TRL has the
  same rule and these defaults, with a target of 0.2 nats.

  Args:
    coef: the weight of this step.
    entropy: mean entropy of the policy in this step, in nats per token.
    target: entropy to hold.
    step: how far the weight moves, positive.
    low: the weight stays at or above this.
    high: the weight stays at or below this.

  Returns:
    The weight of the next step, in [low, high].

  Raises:
    ValueError: `step` is not positive, or `low` is above `high`.
  """
  if step <= 0:
    raise ValueError(f"step must be positive, got {step}")
  if not math.isnan(entropy):
    coef += step if entropy <= target else -step
  return _bounded(coef, low, high)


def entropy_coef_in_force(
    coef: float, entropy: float, *, target: float) -> float:
  """The weight that a step applies: 0 while the entropy is above its target.

  The weight itself goes on falling step by step; without this the policy would
  be pushed on upwards until it has come back to its lower bound.

  See "Skywork Open Reasoner 1" (https://arxiv.org/abs/2505.22312).

  Args:
    coef: the weight, from `adapt_entropy_coef`.
    entropy: the last entropy that was measured; NaN for none.
    target: entropy to hold.

  Returns:
    `coef` or 0.
  """
  return 0.0 if entropy > target else coef


def cycle_on(step: int, on: int, off: int) -> bool:
  """Whether what comes and goes in cycles is on: `on` steps, then `off` not.

  ProRL v2 (blog of August 2025) lets its length penalty act for 100 steps of
  every 600, so that responses grow short in between without forgetting how to
  be long.

  Args:
    step: steps done before this one; the cycle begins on, at 0.
    on: steps that it is on; 0 for never.
    off: steps that it is off; 0 for always on.

  Raises:
    ValueError: one of them is negative, or both are 0.
  """
  if on < 0 or off < 0 or on + off == 0:
    raise ValueError(
        f"a cycle needs on and off at or above 0 and not both 0, got on={on}, "
        f"off={off}")
  return step % (on + off) < on


def _bounded(value: float, low: float, high: float) -> float:
  """The value within its bounds."""
  if low > high:
    raise ValueError(f"low={low} is above high={high}")
  return min(max(value, low), high)
