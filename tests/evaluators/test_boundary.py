"""Regimes: three made-up runs, the k to judge by, and no change at all."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from progrpo_jax.evaluators import boundary, intervals, passk


def _values(values):
  return {f"p{i}": v for i, v in enumerate(values)}


LOW = _values(2 * [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.2, 0.2])
MID = _values(2 * [0.5, 0.6, 0.6, 0.4, 0.7, 0.5, 0.6, 0.6])
HIGH = _values(2 * [0.8, 0.9, 0.9, 0.9, 0.9, 0.8, 1.0, 0.9])


@pytest.mark.parametrize(
  "base, middle, final, regime",
  [
    (LOW, MID, HIGH, "Sustained"),
    (LOW, HIGH, HIGH, "Plateau"),
    (HIGH, MID, LOW, "Diminish"),
    (MID, LOW, MID, "No change shown"),
    # A gain that has shrunk since the middle is no sustained one.
    (LOW, HIGH, MID, "Plateau"),
  ],
)
def test_regimes(base, middle, final, regime):
  found = boundary.regime_of(base, middle, final)
  assert found.regime == regime
  mean = [np.mean(list(v.values())) for v in (base, middle, final)]
  np.testing.assert_allclose([found.base, found.middle, found.final], mean)
  np.testing.assert_allclose(found.gain[0], mean[2] - mean[0])
  np.testing.assert_allclose(found.late[0], mean[2] - mean[1])
  for interval in (found.gain, found.late):
    assert interval[1] <= interval[0] <= interval[2]


def test_intervals_are_those_of_the_paired_differences():
  found = boundary.regime_of(LOW, MID, HIGH, level=0.9)
  a, b = (list(v.values()) for v in (HIGH, LOW))
  np.testing.assert_allclose(
    found.gain, intervals.difference(a, b, level=0.9), rtol=1e-12
  )


def test_a_policy_that_has_nothing_left_to_gain_does_not_diminish():
  # 0.998 to 1: one problem of 64 gained a little.
  base = _values([0.872] + 63 * [1.0])
  final = _values(64 * [1.0])
  found = boundary.regime_of(base, base, final)
  assert found.regime == "No change shown"
  np.testing.assert_allclose(found.gain[0], 0.002)
  assert boundary.regime_of(final, final, base).regime == "No change shown"


@pytest.mark.parametrize(
  "gain, late, regime",
  [
    ((0.1, 0.0, 0.2), (0.1, 0.05, 0.2), "No change shown"),
    ((-0.1, -0.2, 0.0), (0.1, 0.05, 0.2), "No change shown"),
    ((-0.1, -0.2, -1e-6), (0.1, 0.05, 0.2), "Diminish"),
    ((0.1, 1e-6, 0.2), (0.1, 0.0, 0.2), "Plateau"),
    ((0.1, 1e-6, 0.2), (0.1, 1e-6, 0.2), "Sustained"),
    ((0.1, 0.05, 0.2), (-0.1, -0.2, -0.05), "Plateau"),
  ],
)
def test_an_interval_that_touches_0_is_on_no_side_of_it(gain, late, regime):
  assert boundary.regime(gain, late) == regime
  assert regime in boundary.REGIMES


def test_problems_are_matched_by_name():
  shuffled = dict(reversed(list(MID.items())))
  more = {**HIGH, "elsewhere": 0.0}
  assert boundary.regime_of(LOW, shuffled, more) == boundary.regime_of(
    LOW, MID, HIGH
  )
  assert boundary.regime_of(LOW, MID, more).problems == 16
  with pytest.raises(ValueError, match="no problem"):
    boundary.regime_of(LOW, MID, {"elsewhere": 0.0})


def test_k_is_at_most_half_of_the_samples():
  def counts(*n):
    return {i: (each, 0) for i, each in enumerate(n)}

  assert boundary.largest_k(counts(256, 256)) == 128
  assert boundary.largest_k(counts(1024)) == 128
  assert boundary.largest_k(counts(1024), limit=512) == 512
  assert boundary.largest_k(counts(24), counts(16, 32)) == 8
  assert boundary.largest_k(counts(31)) == 8
  assert boundary.largest_k(counts(2)) == 1
  assert boundary.largest_k(counts(1, 256)) is None
  # Of a few problems the verifier failed on a sample, or on all.
  assert boundary.largest_k(counts(31, 0, 32, 32, 32)) == 16
  assert boundary.largest_k() is None


@hypothesis.given(
  st.lists(st.tuples(*[st.integers(0, 16)] * 3), min_size=1, max_size=12)
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_the_label_is_what_the_intervals_say(counts):
  at = [
    passk.per_problem({i: (16, c[t]) for i, c in enumerate(counts)}, 8)
    for t in range(3)
  ]
  found = boundary.regime_of(*at)
  assert found.regime == (
    "Diminish"
    if found.gain[2] < 0
    else "No change shown"
    if found.gain[1] <= 0
    else "Plateau"
    if found.late[1] <= 0
    else "Sustained"
  )
  # The base against itself has gained nothing, and lost nothing.
  assert boundary.regime_of(at[0], at[1], at[0]).regime == "No change shown"


def test_no_change_is_seldom_a_gain_or_a_loss():
  # 60 problems, 32 samples, the same policy three times: a change is claimed
  # where a 95% interval does not hold 0.
  rng = np.random.default_rng(0)
  names = []
  for _ in range(200):
    rho = rng.beta(0.5, 0.5, size=60)
    at = [
      passk.per_problem(
        {i: (32, int(c)) for i, c in enumerate(rng.binomial(32, rho))}, 16
      )
      for _ in range(3)
    ]
    names.append(boundary.regime_of(*at).regime)
  assert names.count("No change shown") >= 185
