"""Weights of the objective that change from step to step.

Each function computes the next value from the current one and a logged number
only (no clock, no hidden state), so a run that was interrupted and resumed
changes them like an uninterrupted one. A NaN measurement changes nothing.

Runs on the host, in plain Python.
"""

import math


def adapt_entropy_coef(
  coef: float,
  entropy: float,
  *,
  target: float,
  step: float = 0.005,
  low: float = 0.0,
  high: float = 1.0,
) -> float:
  """Returns the weight of the entropy bonus for the next step.

  The weight grows by `step` while the entropy is at or below its target and
  shrinks by `step` while it is above. No constant weight works in general:
  1e-3 does nothing, 1e-2 makes the entropy explode, and the effect of values
  between depends on the data (https://arxiv.org/abs/2505.22617, figure 9).

  See "Skywork Open Reasoner 1" (https://arxiv.org/abs/2505.22312); TRL has the
  same rule and these defaults, with a target of 0.2 nats.

  Args:
    coef: weight of the current step.
    entropy: mean entropy of the policy in the current step, in nats per token.
    target: entropy to hold, in nats per token.
    step: change of the weight per step, positive.
    low: smallest weight.
    high: largest weight.

  Returns:
    Weight of the next step, in [low, high].

  Raises:
    ValueError: `step` is not positive, or `low` is above `high`.
  """
  if step <= 0:
    raise ValueError(f"step must be positive, got {step}")
  if not math.isnan(entropy):
    coef += step if entropy <= target else -step
  return _bounded(coef, low, high)


def entropy_coef_in_force(
  coef: float, entropy: float, *, target: float
) -> float:
  """Returns the weight a step applies: 0 while entropy is above its target.

  `adapt_entropy_coef` lowers the weight slowly. Without this switch the bonus
  would go on raising the entropy until the weight reached its lower bound.

  See "Skywork Open Reasoner 1" (https://arxiv.org/abs/2505.22312).

  Args:
    coef: weight from `adapt_entropy_coef`.
    entropy: last measured entropy, in nats per token; NaN for none.
    target: entropy to hold, in nats per token.

  Returns:
    `coef` or 0.
  """
  return 0.0 if entropy > target else coef


def cycle_on(step: int, on: int, off: int) -> bool:
  """Returns whether a term with `on` and `off` steps is on.

  ProRL v2 (blog of August 2025) applies its length penalty in 100 steps of
  every 600, so that responses become shorter for a while but the policy does
  not forget how to write long ones.

  Args:
    step: number of steps before this one; cycles start at 0 with `on` steps.
    on: number of steps on per cycle; 0 for never.
    off: number of steps off per cycle; 0 for always on.

  Raises:
    ValueError: `on` or `off` is negative, or both are 0.
  """
  if on < 0 or off < 0 or on + off == 0:
    raise ValueError(
      f"a cycle needs on and off at or above 0 and not both 0, got on={on}, "
      f"off={off}"
    )
  return step % (on + off) < on


def _bounded(value: float, low: float, high: float) -> float:
  """Clamps a value to [low, high]; ValueError if low is above high."""
  if low > high:
    raise ValueError(f"low={low} is above high={high}")
  return min(max(value, low), high)
