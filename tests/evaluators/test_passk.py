"""pass@k against counted subsets, the bound against true pass@k."""

import itertools
import types

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from progrpo_jax.evaluators import intervals, passk


def test_golden():
  np.testing.assert_allclose(
    passk.pass_at_k(16, 3, np.array([1, 2, 4, 8, 16])),
    [3 / 16, 0.35, 0.607143, 0.9, 1],
    atol=5e-7,
  )
  np.testing.assert_allclose(passk.pass_at_k(256, 5, 128), 0.969968, atol=5e-7)


def test_against_every_subset():
  for n in range(1, 8):
    for c in range(n + 1):
      right = [True] * c + [False] * (n - c)
      for k in range(1, n + 1):
        subsets = list(itertools.combinations(right, k))
        share = np.mean([any(subset) for subset in subsets])
        np.testing.assert_allclose(passk.pass_at_k(n, c, k), share, atol=1e-12)


def test_unbiased_over_draws_of_the_samples():
  # E over c ~ Binomial(n, rho) is exactly 1 - (1 - rho)^k.
  n, rho, k = 6, 0.3, 4
  outcomes = itertools.product([0, 1], repeat=n)
  mean = sum(
    rho ** sum(x) * (1 - rho) ** (n - sum(x)) * passk.pass_at_k(n, sum(x), k)
    for x in outcomes
  )
  np.testing.assert_allclose(mean, 1 - (1 - rho) ** k, rtol=1e-12)


def test_exactly_one_when_too_few_are_wrong():
  assert passk.pass_at_k(10, 4, 7) == 1
  assert passk.pass_at_k(10, 4, 6) < 1
  assert passk.pass_at_k(10, 0, 10) == 0


def test_large_numbers_stay_exact():
  n = 10_000
  # One right: every sample is it with probability k / n.
  np.testing.assert_allclose(
    passk.pass_at_k(n, 1, np.array([1, 500, n])), [1 / n, 0.05, 1], rtol=1e-10
  )


def test_broadcasting():
  c = np.array([[0], [1], [4]])
  got = passk.pass_at_k(4, c, np.array([1, 2]))
  assert got.shape == (3, 2)
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, [[0, 0], [0.25, 0.5], [1, 1]], atol=1e-12)
  assert passk.pass_at_k(
    np.array([4, 8]), np.zeros(0, int)[:, None], 2
  ).shape == (0, 2)


@pytest.mark.parametrize(
  "n, c, k",
  [(4, 2, 5), (4, 2, 0), (4, 5, 2), (4, -1, 2), (np.array([8, 4]), 2, 6)],
)
def test_impossible_counts_are_errors(n, c, k):
  with pytest.raises(ValueError, match="pass@k needs"):
    passk.pass_at_k(n, c, k)


@hypothesis.given(st.integers(1, 60), st.data())
@hypothesis.settings(max_examples=80, deadline=None)
def test_monotone_in_both(n, data):
  c = data.draw(st.integers(0, n))
  curve = passk.pass_at_k(n, c, np.arange(1, n + 1))
  assert np.all((curve >= 0) & (curve <= 1))
  assert np.all(np.diff(curve) >= -1e-12)
  np.testing.assert_allclose(curve[0], c / n, atol=1e-12)
  counts = passk.pass_at_k(n, np.arange(n + 1), data.draw(st.integers(1, n)))
  assert np.all(np.diff(counts) >= -1e-12)


RHO = np.array([0.0, 0.1, 0.5, 0.9])


def test_bound_golden():
  k = np.array([2, 4, 8, 16])
  np.testing.assert_allclose(
    passk.bound(RHO, k), [0.4825, 0.732194, 0.928280, 0.994856], atol=1e-6
  )
  true = [np.mean(1 - (1 - RHO) ** each) for each in k]
  np.testing.assert_allclose(
    true, [0.4825, 0.570325, 0.641407, 0.703671], atol=1e-6
  )


@hypothesis.given(
  st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(2, 64)
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_bound_bounds_and_is_met_at_two(rho, k):
  rho = np.array(rho)
  assert passk.bound(rho, k) >= np.mean(1 - (1 - rho) ** k) - 1e-9
  np.testing.assert_allclose(
    passk.bound(rho, 2), np.mean(1 - (1 - rho) ** 2), atol=1e-12
  )


def test_bound_corrects_the_variance_of_estimates():
  c, n = np.array([0, 1, 2, 4]), 4
  variance = np.var(c / n) - np.mean(c * (n - c) / (n**2 * (n - 1)))
  expected = 1 - ((1 - 7 / 16) ** 2 + variance) ** 4
  np.testing.assert_allclose(passk.bound(c / n, 8, n=n), expected, rtol=1e-12)
  np.testing.assert_allclose(
    passk.bound(c / n, 8, n=np.full(4, n)), expected, rtol=1e-12
  )
  # Alike problems: what the estimates differ by is noise, never less than 0.
  alike = np.array([0.5, 0.5])
  np.testing.assert_allclose(passk.bound(alike, 4, n=4), 1 - 0.5**4)


def test_correction_is_unbiased():
  # Problems of rho 0.2 and 0.7 in equal parts, n samples of each, all
  # outcomes weighed: the corrected second moment is the true one.
  n, total = 3, 0.0
  for rho in (0.2, 0.7):
    for c in range(n + 1):
      ways = {0: 1, 1: 3, 2: 3, 3: 1}[c]
      weight = 0.5 * ways * rho**c * (1 - rho) ** (n - c)
      p = c / n
      total += weight * (p**2 - p * (1 - p) / (n - 1))
  np.testing.assert_allclose(total, 0.5 * (0.2**2 + 0.7**2), rtol=1e-12)
  # And that estimator is the one in use (at k = 2 the bound is linear in it).
  p = np.array([0, 1, 2, 3, 3]) / n
  second = np.mean(p**2 - p * (1 - p) / (n - 1))
  np.testing.assert_allclose(
    passk.bound(p, 2, n=n), 1 - (1 - 2 * p.mean() + second), rtol=1e-12
  )


@pytest.mark.parametrize(
  "values, k, n, word",
  [
    (RHO, 1, None, "k >= 2"),
    (RHO, np.array([2, 1]), None, "k >= 2"),
    (RHO, 2, 1, "n >= 2"),
    ([], 2, None, r"\(0,\)"),
    (RHO[None], 2, None, r"\(1, 4\)"),
    ([0.5, 1.2], 2, None, "outside"),
    ([0.5, np.nan], 2, None, "outside"),
  ],
)
def test_bound_refuses(values, k, n, word):
  with pytest.raises(ValueError, match=word):
    passk.bound(values, k, n=n)


def test_bootstrap_matches_the_normal_interval():
  values = np.random.default_rng(0).random(400)
  mean, low, high = passk.bootstrap(values, seed=1)
  half = 1.96 * values.std() / 20
  np.testing.assert_allclose(mean, values.mean(), rtol=1e-12)
  np.testing.assert_allclose([mean - low, high - mean], [half, half], rtol=0.1)
  narrow = passk.bootstrap(values, seed=1, level=0.5)
  np.testing.assert_allclose(
    (narrow[2] - narrow[1]) / 2, 0.6745 / 1.96 * half, rtol=0.15
  )


def test_bootstrap_is_drawn_from_its_seed():
  values = np.random.default_rng(0).random(30)
  once = passk.bootstrap(values, seed=3, resamples=50)
  assert once == passk.bootstrap(values, seed=3, resamples=50)
  assert once != passk.bootstrap(values, seed=4, resamples=50)


def test_bootstrap_of_equal_values_has_no_width():
  assert passk.bootstrap([0.25] * 7, seed=0) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
  "values, level, word",
  [
    ([], 0.95, r"\(0,\)"),
    ([[1.0]], 0.95, r"\(1, 1\)"),
    ([np.nan], 0.95, "finite"),
    ([1.0], 1.0, "level"),
  ],
)
def test_bootstrap_refuses(values, level, word):
  with pytest.raises(ValueError, match=word):
    passk.bootstrap(values, seed=0, level=level)


def test_powers():
  assert passk.powers(1) == [1]
  assert passk.powers(16) == [1, 2, 4, 8, 16]
  assert passk.powers(24) == [1, 2, 4, 8, 16]
  assert passk.powers(0) == []


def test_curve_golden():
  np.testing.assert_allclose(
    passk.curve(16, [3])[0, [0, 1, 3, 7, 15]],
    [0.1875, 0.35, 0.607143, 0.9, 1],
    atol=5e-7,
  )


@hypothesis.given(
  st.lists(
    st.integers(1, 40).flatmap(
      lambda n: st.tuples(st.just(n), st.integers(0, n))
    ),
    min_size=1,
    max_size=6,
  )
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_curve_is_pass_at_k_of_every_k(counts):
  n, c = np.array(counts).T
  found = passk.curve(n, c)
  assert found.shape == (len(n), n.max())
  for values, own_n, own_c in zip(found, n, c):
    np.testing.assert_allclose(
      values[:own_n],
      passk.pass_at_k(own_n, own_c, np.arange(1, own_n + 1)),
      atol=1e-12,
    )
    assert np.isnan(values[own_n:]).all()


@pytest.mark.parametrize(
  "n, c", [(4, [5]), (4, [-1]), (0, [0]), (4, []), (4, [[1]]), ([4, 3], [1, 4])]
)
def test_curve_refuses(n, c):
  with pytest.raises(ValueError):
    passk.curve(np.array(n), np.array(c))


def test_histogram_golden():
  # As floats, 3 of 10 lie below the edge at 0.3, and 0.29 * 100 below 29.
  counts = passk.histogram(10, np.arange(11))
  assert counts.tolist() == [1] * 9 + [2]
  assert passk.histogram(100, [29], bins=100).argmax() == 29
  assert passk.histogram(16, [0, 1, 1, 2, 15, 16]).tolist() == [
    3,
    1,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    2,
  ]
  assert passk.histogram([2, 4], [1, 2], bins=2).tolist() == [0, 2]


@hypothesis.given(st.lists(st.integers(0, 24), max_size=30), st.integers(1, 12))
@hypothesis.settings(max_examples=60, deadline=None)
def test_histogram_holds_every_problem_in_its_bin(counts, bins):
  found = passk.histogram(24, np.array(counts, int), bins)
  assert len(found) == bins and found.sum() == len(counts)
  for i in range(bins):
    assert found[i] == sum(
      i * 24 <= c * bins and (c * bins < (i + 1) * 24 or i == bins - 1)
      for c in counts
    )


@pytest.mark.parametrize(
  "n, c, bins", [(4, [5], 10), (0, [0], 10), (4, [1], 0)]
)
def test_histogram_refuses(n, c, bins):
  with pytest.raises(ValueError):
    passk.histogram(n, c, bins)


def _bound_of_counts(n, c, k):
  """The bound from the pass@2 of n samples per problem, c of them right."""
  return passk.bound_from_pass2(np.mean(passk.pass_at_k(n, c, 2)), k)


def test_bound_from_pass2_golden():
  # c of 4: 0, 1, 2, 4. Wrong pairs among six: 6, 3, 1, 0.
  second = (1 + 3 / 6 + 1 / 6 + 0) / 4
  np.testing.assert_allclose(
    _bound_of_counts(4, [0, 1, 2, 4], np.array([2, 4, 8])),
    [1 - second, 1 - second**2, 1 - second**4],
    rtol=1e-12,
  )
  np.testing.assert_allclose(
    _bound_of_counts([4, 8], [2, 4], 2), 1 - (1 / 6 + 6 / 28) / 2, rtol=1e-12
  )


@hypothesis.given(
  st.lists(st.integers(0, 12), min_size=1, max_size=20), st.integers(2, 32)
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_bound_from_pass2_is_the_corrected_bound(counts, k):
  c, n = np.array(counts), 12
  found = _bound_of_counts(n, c, k)
  rho = c / n
  variance = rho.var() - np.mean(c * (n - c) / (n**2 * (n - 1)))
  corrected = passk.bound(rho, k, n=n)
  if variance > 0:
    np.testing.assert_allclose(found, corrected, atol=1e-12)
  else:  # `bound` stops at a variance of 0
    assert found >= corrected - 1e-12
  # Uncorrected, the bound is lower: noise passes for spread.
  assert found >= passk.bound(rho, k) - 1e-12
  np.testing.assert_allclose(
    _bound_of_counts(n, c, 2), np.mean(passk.pass_at_k(n, c, 2)), atol=1e-12
  )


def test_the_correction_brings_the_bound_to_the_true_one():
  rng = np.random.default_rng(0)
  rho, n, k = np.repeat(RHO, 2000), 4, 8
  c = rng.binomial(n, rho)
  true = passk.bound(RHO, k)
  assert abs(_bound_of_counts(n, c, k) - true) < 0.005
  assert abs(passk.bound(c / n, k) - true) > 0.01


@pytest.mark.parametrize(
  "call, word",
  [
    (lambda: passk.bound_from_pass2(0.5, 1), "k >= 2"),
    (lambda: passk.bound_from_pass2(1.5, 2), r"\[0, 1\]"),
  ],
)
def test_bound_from_pass2_refuses(call, word):
  with pytest.raises(ValueError, match=word):
    call()


def test_problems_with_too_few_samples_have_no_value():
  counts = {"a": (4, 1), "b": (2, 1)}
  assert passk.per_problem(counts, 2) == {"a": 0.5, "b": 1.0}
  assert passk.per_problem(counts, 4) == {"a": 1.0}
  assert passk.per_problem(counts, 8) == {}
  assert passk.mean_of([{"a": 0.5, "b": 1.0}, {"a": 1.0}]) == {"a": 0.75}


def test_difference_matches_problems_by_name():
  a = {f"p{i}": v for i, v in enumerate([0.5, 0.9, 0.2, 0.4])}
  b = {f"p{i}": v for i, v in enumerate([0.4, 0.8, 0.1, 0.3])}
  shuffled = dict(reversed(list(b.items())))
  found = passk.difference(a, shuffled)
  assert found == intervals.difference(list(a.values()), list(b.values()))
  np.testing.assert_allclose(found[0], 0.1, atol=1e-12)
  assert found == passk.difference(a, b)
  assert found == passk.difference({**a, "only a": 1.0}, b)
  with pytest.raises(ValueError, match="4 in one and 1 in the other"):
    passk.difference(a, {"x": 1.0})


def _samples(correct_XG, valid_XG=None, tolerant_XG=None):
  """What `measure` reads of the samples."""
  correct_XG = np.asarray(correct_XG, bool)
  valid_XG = np.ones_like(correct_XG) if valid_XG is None else valid_XG
  return types.SimpleNamespace(
    rows=(None,) * len(correct_XG),
    correct_XG=correct_XG & valid_XG,
    valid_XG=valid_XG,
    tolerant_XG=tolerant_XG,
  )


def test_masked_samples_of_hard_problems_do_not_raise_pass_at_k():
  # Half of the problems are easy, half hard, and 5% of the samples of the
  # hard ones are masked: at k = 32 most of them lack one.
  rng = np.random.default_rng(0)
  rho = np.repeat([0.5, 0.01], 200)
  correct = rng.random((400, 32)) < rho[:, None]
  valid = (rng.random((400, 32)) > 0.05) | (rho > 0.1)[:, None]
  whole = dict(passk.measure(_samples(correct)))
  found = dict(passk.measure(_samples(correct, valid)))
  assert 0.6 < whole["pass@32"] < 0.66
  assert "pass@32" not in found and "pass@32/low" not in found
  assert (
    found["pass@32/at_least"] <= whole["pass@32"] <= (found["pass@32/at_most"])
  )
  # What the problems that take part would have given.
  assert 200 < found["pass@32/num_problems"] < 280
  takes_part = valid.all(axis=1)
  assert correct[takes_part].any(axis=1).mean() > whole["pass@32"] + 0.1
  for k in (1, 2, 4, 8, 16):
    assert found[f"pass@{k}/num_problems"] == 400
    np.testing.assert_allclose(
      found[f"pass@{k}"], whole[f"pass@{k}"], atol=0.01
    )
    assert found[f"pass@{k}/low"] < found[f"pass@{k}"]
  assert found["num_problems"] == 400 and found["num_samples"] == 32


def test_a_problem_takes_part_with_the_samples_that_it_has():
  correct = np.zeros((100, 4), bool)
  correct[0, :2] = correct[1, :1] = True
  valid = np.ones_like(correct)
  valid[0, 3] = valid[99] = False
  found = dict(passk.measure(_samples(correct, valid)))
  assert [found[f"pass@{k}/num_problems"] for k in (1, 2, 4)] == [99, 99, 98]
  np.testing.assert_allclose(found["pass@1"], (2 / 3 + 1 / 4) / 99)
  np.testing.assert_allclose(found["pass@4"], 1 / 98)
  # With one less there are no 98% of the problems.
  valid[98, 0] = False
  found = dict(passk.measure(_samples(correct, valid)))
  assert "pass@4" not in found and "pass@2" in found
  # Those that have four: the second. Of the others the first is right anyway.
  np.testing.assert_allclose(found["pass@4/at_least"], 2 / 100)
  np.testing.assert_allclose(found["pass@4/at_most"], 4 / 100)


def test_where_all_samples_are_masked_there_is_no_number():
  nothing = np.zeros((5, 2), bool)
  found = dict(passk.measure(_samples(nothing, nothing)))
  assert found == {
    "pass@1/num_problems": 0,
    "pass@1/at_least": 0,
    "pass@1/at_most": 1,
    "pass@2/num_problems": 0,
    "pass@2/at_least": 0,
    "pass@2/at_most": 1,
    "num_problems": 5,
    "num_samples": 2,
  }


def test_tolerant_verdicts_have_all_of_it():
  right = np.eye(3, 4, dtype=bool)
  found = dict(passk.measure(_samples(right, tolerant_XG=~right)))
  assert found["tolerant/pass@1"] == 0.75 and found["pass@1"] == 0.25
  assert found["tolerant/pass@4/num_problems"] == 3
