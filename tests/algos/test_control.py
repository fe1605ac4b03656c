"""Weights that move: their rule in numbers, their bounds, what is refused."""

import math

import pytest

from progrpo_jax.algos import control


@pytest.mark.parametrize(
  "coef, entropy, expected",
  [
    (0.01, 0.1, 0.015),
    (0.01, 0.2, 0.015),  # at the target it still grows
    (0.01, 0.3, 0.005),
    (0.003, 0.3, 0.0),  # not below 0
    (0.998, 0.1, 1.0),
    (0.01, math.nan, 0.01),
    (0.01, math.inf, 0.005),
    (1.7, math.nan, 1.0),  # a start outside the bounds comes within
  ],
)
def test_entropy_coef_moves_by_a_step(coef, entropy, expected):
  moved = control.adapt_entropy_coef(coef, entropy, target=0.2)
  assert moved == pytest.approx(expected, abs=1e-12)


def test_entropy_coef_keeps_its_bounds():
  options = {"target": 0.2, "step": 0.1, "low": 0.05, "high": 0.25}
  coef, seen = 0.05, []
  for entropy in [0.1] * 4 + [0.5] * 4:
    coef = control.adapt_entropy_coef(coef, entropy, **options)
    seen.append(coef)
  assert seen == pytest.approx([0.15, 0.25, 0.25, 0.25, 0.15, 0.05, 0.05, 0.05])


def test_entropy_coef_holds_a_policy_at_its_target():
  # A made-up policy that loses 1% of its entropy a step and gains what the
  # bonus gives. Without control it ends at 0.
  coef, entropy, tail = 0.0, 1.0, []
  for step in range(2000):
    entropy = 0.99 * entropy + 0.02 * coef
    coef = control.adapt_entropy_coef(coef, entropy, target=0.2, step=0.002)
    tail += [entropy] if step >= 1000 else []
  assert 0.1 < min(tail) and max(tail) < 0.3
  assert 1.0 * 0.99**2000 < 1e-8


def test_entropy_coef_is_in_force_up_to_the_target():
  options = {"target": 0.2}
  assert control.entropy_coef_in_force(0.01, 0.19, **options) == 0.01
  assert control.entropy_coef_in_force(0.01, 0.2, **options) == 0.01
  assert control.entropy_coef_in_force(0.01, 0.21, **options) == 0.0
  assert control.entropy_coef_in_force(0.01, math.nan, **options) == 0.01


def test_cycle():
  on = [step for step in range(1400) if control.cycle_on(step, 100, 500)]
  assert on == [*range(100), *range(600, 700), *range(1200, 1300)]
  assert all(control.cycle_on(step, 3, 0) for step in range(9))
  assert not any(control.cycle_on(step, 0, 3) for step in range(9))


@pytest.mark.parametrize(
  "call, word",
  [
    (
      lambda: control.adapt_entropy_coef(0.1, 0.1, target=0.2, step=0.0),
      "step",
    ),
    (
      lambda: control.adapt_entropy_coef(
        0.1, 0.1, target=0.2, low=2.0, high=1.0
      ),
      "low",
    ),
    (lambda: control.cycle_on(0, 0, 0), "not both 0"),
    (lambda: control.cycle_on(0, -1, 5), "on=-1"),
  ],
)
def test_mistakes_are_named(call, word):
  with pytest.raises(ValueError, match=word):
    call()
