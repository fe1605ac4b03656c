"""Intervals against exact ones, and how often they hold the true mean."""

import numpy as np
import pytest
import scipy.stats

from progrpo_jax.evaluators import intervals, passk

# How often a 95% interval must hold the true mean.
COVERED = 0.93
_DRAWS = 2500
_SAMPLES = 32


def _coverage(draw, true, size):
  """Share of `_DRAWS` intervals of `size` problems that hold a mean."""
  values = draw(np.random.default_rng(size), (size, _DRAWS))
  _, low, high = intervals.columns(values)
  return np.mean((low <= true + 1e-12) & (true <= high + 1e-12))


def _right_or_wrong(p):
  return lambda rng, shape: (rng.random(shape) < p).astype(float), p


def _spread(p, concentration):
  a, b = p * concentration, (1 - p) * concentration
  return lambda rng, shape: rng.beta(a, b, shape), p


def _few_easy(p, share):
  """A share of the mean comes of problems at 1, the rest lie near 0."""
  easy = p * share
  rest = (p - easy) / (1 - easy)
  return lambda rng, shape: np.where(
    rng.random(shape) < easy, 1.0, rng.beta(20 * rest, 20 * (1 - rest), shape)
  ), p


def _pass_at(k, p):
  """pass@k of 32 samples where pass@1 is spread over problems."""
  table = passk.pass_at_k(_SAMPLES, np.arange(_SAMPLES + 1), k)

  def draw(rng, shape):
    rho = rng.beta(0.8 * p, 0.8 * (1 - p), shape)
    return table[rng.binomial(_SAMPLES, rho)]

  weights = scipy.stats.betabinom.pmf(
    np.arange(_SAMPLES + 1), _SAMPLES, 0.8 * p, 0.8 * (1 - p)
  )
  return draw, float(weights @ table)


@pytest.mark.parametrize("size", [30, 64, 128])
def test_nineteen_of_twenty_intervals_hold_the_mean(size):
  kinds = [_right_or_wrong(1.0), _right_or_wrong(0.998)]
  for p in (0.02, 0.05, 0.1, 0.3, 0.5, 0.9, 0.98):
    kinds += [
      _right_or_wrong(p),
      _pass_at(1, p),
      _pass_at(8, p),
      *(_spread(p, c) for c in (0.3, 5)),
      *(_few_easy(p, share) for share in (0.3, 0.7, 0.9)),
    ]
  worst = min(_coverage(draw, true, size) for draw, true in kinds)
  assert worst >= COVERED


@pytest.mark.parametrize("size", range(30, 140, 10))
def test_of_right_and_wrong_ones_the_coverage_is_exact(size):
  # By the binomial distribution itself: no draw.
  p = np.linspace(0.02, 1, 300)
  c = np.arange(size + 1)
  values = (np.arange(size)[:, None] < c).astype(float)
  _, low, high = intervals.columns(values)
  holds = (low[:, None] <= p) & (p <= high[:, None])
  covered = (scipy.stats.binom.pmf(c[:, None], size, p) * holds).sum(axis=0)
  assert covered.min() >= 0.95 - 1e-9


def test_all_right_is_no_certainty():
  np.testing.assert_allclose(
    intervals.mean(np.ones(64)), [1, 0.94399, 1], atol=1e-5
  )
  np.testing.assert_allclose(
    intervals.mean(np.zeros(64)), [0, 0, 0.05601], atol=1e-5
  )
  # One that is wrong: Clopper and Pearson's.
  wanted = scipy.stats.binomtest(63, 64).proportion_ci(method="exact")
  np.testing.assert_allclose(
    intervals.mean([0.0] + 63 * [1.0]), [63 / 64, wanted.low, wanted.high]
  )


def test_values_that_are_alike_are_no_certainty():
  centre, low, high = intervals.mean(np.full(64, 0.5))
  assert centre == 0.5 and 0.47 < low < 0.485 and 0.515 < high < 0.53


def test_many_values_have_the_normal_interval():
  values = np.random.default_rng(0).random(2000)
  centre, low, high = intervals.mean(values)
  half = 1.96 * values.std() / np.sqrt(2000)
  np.testing.assert_allclose(centre, values.mean(), rtol=1e-12)
  np.testing.assert_allclose([centre - low, high - centre], half, rtol=0.04)
  _, low, high = intervals.mean(values, level=0.5)
  np.testing.assert_allclose((high - low) / 2, 0.6745 / 1.96 * half, rtol=0.06)


def test_the_width_is_near_that_of_a_bootstrap_in_the_middle():
  values = np.random.default_rng(1).beta(0.6, 1.4, 64)
  _, low, high = intervals.mean(values)
  _, least, most = passk.bootstrap(values, seed=0)
  assert most - least < high - low < 1.15 * (most - least)


def test_columns_are_taken_one_by_one():
  values = np.random.default_rng(0).random((50, 3))
  found = np.transpose(intervals.columns(values))
  for column, interval in zip(values.T, found, strict=True):
    np.testing.assert_allclose(interval, intervals.mean(column))


@pytest.mark.parametrize("size", [30, 128])
def test_differences_hold_the_mean(size):
  rng = np.random.default_rng(size)
  table = passk.pass_at_k(64, np.arange(65), 32)
  worst = 1.0
  for up, down in (
    (0.02, 0.0),
    (0.05, 0.0),
    (0.12, 0.0),
    (0.05, 0.05),
    (0.3, 0.1),
  ):
    u = rng.random((500, size))
    a, b = (u < up).astype(float), (u > 1 - down).astype(float)
    worst = min(worst, _held(a, b, up - down))
  for alpha, beta, gain in (
    (0.4, 1.2, 0.1),
    (0.3, 3, 0.05),
    (2, 2, 0.0),
    (5, 0.2, 0.02),
  ):
    # A share of what is missing is gained, another one on each problem.
    rho = rng.beta(alpha, beta, (500, size))
    more = rho + (1 - rho) * gain * rng.beta(1, 1, rho.shape) * 2
    after, before = rng.binomial(64, more), rng.binomial(64, rho)
    true = gain * beta / (alpha + beta)
    worst = min(worst, _held(after / 64, before / 64, true))
    # The estimate is unbiased: no samples are drawn for its mean.
    far = rng.beta(alpha, beta, 400_000)
    gained = far + (1 - far) * gain * rng.beta(1, 1, far.shape) * 2
    true = np.mean((1 - far) ** 32 - (1 - gained) ** 32)
    worst = min(worst, _held(table[after], table[before], true))
  assert worst >= COVERED


def _held(a, b, true):
  found = np.array([intervals.difference(*pair) for pair in zip(a, b)])
  return np.mean((found[:, 1] <= true) & (true <= found[:, 2]))


def test_what_both_share_cancels():
  rng = np.random.default_rng(0)
  b = 0.8 * rng.random(200)
  a = b + 0.1 + 0.01 * rng.random(200)
  centre, low, high = intervals.difference(a, b)
  np.testing.assert_allclose(centre, 0.105, atol=0.001)
  assert 0.095 < low < high < 0.115
  np.testing.assert_allclose(intervals.difference(b, a), [-centre, -high, -low])
  # Unpaired, the interval would be as wide as the hardness is spread.
  _, low, high = intervals.mean(a)
  assert high - low > 0.05


def test_one_problem_that_differs_shows_no_change():
  before = np.ones(64)
  before[0] = 0.872
  centre, low, high = intervals.difference(np.ones(64), before)
  np.testing.assert_allclose(centre, 0.002)
  assert low < 0 < high < 0.03
  centre, low, high = intervals.difference(before, before)
  assert centre == 0 and -0.06 < low < 0 < high == -low


@pytest.mark.parametrize(
  "values, level, word",
  [
    ([], 0.95, r"\(0, 1\)"),
    ([[1.0]], 0.95, r"\(1, 1\)"),
    ([np.nan], 0.95, "outside"),
    ([1.5], 0.95, "outside"),
    ([1.0], 1.0, "level"),
  ],
)
def test_intervals_refuse(values, level, word):
  with pytest.raises(ValueError, match=word):
    intervals.mean(values, level=level)
  with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
    intervals.difference([1, 0], [1, 0, 1])
  with pytest.raises(ValueError, match="outside"):
    intervals.difference([1.5], [1.0])


def _crossed(rng, seeds, problems, of_seed, of_problem, noise):
  """Values with effects of seed and problem, around 0."""
  return (
    of_seed * rng.standard_normal((seeds, 1))
    + of_problem * rng.standard_normal((1, problems))
    + noise * rng.standard_normal((seeds, problems))
  )


def test_over_seeds_is_banerjee_s_interval():
  """Golden numbers: mean squares of a 2 x 3 table, worked by hand."""
  values = [[1.0, 2.0, 6.0], [3.0, 2.0, 10.0]]
  # Means 3 and 5 of the seeds, 2, 2 and 8 of the problems, 4 of all. Mean
  # squares of seeds 6 and of problems 24, each over 6 values; t of one degree
  # of freedom 12.7062, of two 4.30265.
  half = np.sqrt(12.7062**2 * 1 + 4.30265**2 * 4)
  centre, low, high, p = intervals.over_seeds(values)
  np.testing.assert_allclose((centre, low, high), (4, 4 - half, 4 + half), 1e-5)
  # The interval of level 1 - p ends at 0.
  np.testing.assert_allclose(
    intervals.over_seeds(values, level=1 - p)[1], 0, atol=1e-6
  )


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
  ("of_seed", "of_problem", "noise"),
  [
    (0.0, 1.0, 1.0),
    (0.1, 1.0, 0.5),
    (0.03, 0.2, 0.2),
    (0.06, 0.2, 0.2),
    (1.0, 0.2, 1.0),
    (0.0, 0.0, 1.0),
  ],
)
def test_over_seeds_holds_the_mean(seeds, of_seed, of_problem, noise):
  """Whichever of seeds and problems makes the mean vary; in the tail too."""
  rng = np.random.default_rng(seeds)
  draws = 1500
  found = [
    intervals.over_seeds(_crossed(rng, seeds, 64, of_seed, of_problem, noise))
    for _ in range(draws)
  ]
  _, low, high, p = np.transpose(found)
  np.testing.assert_array_equal((low <= 0) & (0 <= high), p >= 0.05)
  for tail in (0.05, 0.0125):
    # Three standard errors above what the level allows.
    most = tail + 3 * np.sqrt(tail * (1 - tail) / draws)
    assert np.mean(p < tail) <= most


def test_over_seeds_is_wider_where_seeds_differ():
  rng = np.random.default_rng(0)
  same = np.repeat(rng.random((1, 50)), 3, axis=0)
  apart = same + [[-0.1], [0.0], [0.1]]
  narrow, wide = intervals.over_seeds(same), intervals.over_seeds(apart)
  assert wide[2] - wide[1] > 2 * (narrow[2] - narrow[1])
  assert intervals.over_seeds(np.zeros((2, 2))) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
  "values", [[[1.0, 0.0]], [[1.0], [0.0]], [[1.0, np.nan], [0.0, 0.0]]]
)
def test_over_seeds_refuses(values):
  with pytest.raises(ValueError, match="two or more|not finite"):
    intervals.over_seeds(values)


def test_holm_is_the_paper_s_procedure():
  """Golden numbers, and never less than the values themselves."""
  np.testing.assert_allclose(
    intervals.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]
  )
  np.testing.assert_allclose(intervals.holm([0.6, 0.7]), [1.0, 1.0])
  assert intervals.holm([]).shape == (0,)


def test_holm_rarely_rejects_a_true_hypothesis():
  p = np.random.default_rng(1).random((4000, 8))
  rejected = [np.any(intervals.holm(row) < 0.05) for row in p]
  assert 0.03 < np.mean(rejected) < 0.06
