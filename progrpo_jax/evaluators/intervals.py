"""Confidence intervals of means over problems, also valid near 0 and 1.

A bootstrap can only resample observed values: 64 correct problems of 64 give
[1, 1], and with 30 problems and a mean of 0.02 its interval contains the true
mean less than half of the time. Here the mean is treated as a proportion with
the Clopper-Pearson interval, at an effective sample size: the number of
right-or-wrong problems whose mean would vary as much as this one. See E. L.
Korn and B. I. Graubard, "Confidence intervals for proportions with small
expected number of positive counts estimated from survey data" (Survey
Methodology 24, 1998). The variance is taken over the values and two more, 0
and 1, so that values which happen to be equal do not look certain.

By simulation (tests/evaluators/test_intervals.py), for 30 problems or more and
means from 0.02 to 1, at least 93% of the 95% intervals contain the mean; with
a bootstrap it can be 5% (30 problems, mean 0.998). The price is width. For 64
problems (bootstrap in brackets): 0.234 (0.220) for right-or-wrong problems
with a mean of 0.3; 0.181 (0.171) for pass@1 distributed as Beta(0.5, 0.5);
0.085 (0.048) for right-or-wrong problems with a mean of 0.02, where 72% of the
bootstrap intervals contain the mean.
"""

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats

Interval = tuple[float, float, float]

# Parameters of a beta distribution must be positive.
_LEAST = 1e-12

# Differences are assumed to range over at least [-0.25, 0.25], even if all
# observed ones are smaller: other problems may differ more.
_LEAST_RANGE = 0.25


def mean(values_X, *, level: float = 0.95) -> Interval:
  """Mean over problems of values in [0, 1], with its interval.

  The interval says how far the mean would move on other problems of the same
  kind. If all problems are right (or all wrong) it is the Clopper-Pearson
  interval: 64 of 64 give 0.944 to 1.

  Args:
    values_X: one value per problem, such as its pass@k.
    level: confidence level, in (0, 1).

  Returns:
    (mean, low, high).

  Raises:
    ValueError: there are no problems, a value is outside [0, 1], or the level
      is outside (0, 1).
  """
  values_X = np.asarray(values_X, np.float64)
  if values_X.ndim != 1:
    raise ValueError(f"takes one value per problem, got {values_X.shape}")
  centre, low, high = columns(values_X[:, None], level=level)
  return float(centre[0]), float(low[0]), float(high[0])


def columns(
  values_XK, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns `mean` of each column of values.

  Args:
    values_XK: values in [0, 1], one row per problem.
    level: confidence level of each interval, in (0, 1).

  Returns:
    (mean_K, low_K, high_K). The level holds for each column separately, not
    for all of them together.

  Raises:
    ValueError: there are no problems, a value is outside [0, 1], or the level
      is outside (0, 1).
  """
  values_XK = np.asarray(values_XK, np.float64)
  if values_XK.ndim != 2 or not values_XK.size:
    raise ValueError(f"takes a row per problem, got {values_XK.shape}")
  if not np.all((values_XK >= 0) & (values_XK <= 1)):
    raise ValueError("holds values outside [0, 1]")
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1), got {level}")
  size, tail = len(values_XK), (1 - level) / 2
  centre_K = values_XK.mean(axis=0)
  # Variance of the values together with one 0 and one 1.
  ends_2K = np.broadcast_to([[0.0], [1.0]], (2, values_XK.shape[1]))
  more_XK = np.concatenate([values_XK, ends_2K])
  middle_K, spread_K = more_XK.mean(axis=0), more_XK.var(axis=0)
  # Effective sample size. p (1 - p) is the largest variance that values in
  # [0, 1] can have at mean p, so it is at least the number of problems.
  number_K = size * middle_K * (1 - middle_K) / spread_K
  right_K, wrong_K = number_K * centre_K, number_K * (1 - centre_K)
  # The beta quantile is undefined at a mean of 0 (low end) or 1 (high end).
  quantile = scipy.special.betaincinv
  low_K = np.where(
    centre_K > 0, quantile(np.maximum(right_K, _LEAST), wrong_K + 1, tail), 0.0
  )
  high_K = np.where(
    centre_K < 1,
    quantile(right_K + 1, np.maximum(wrong_K, _LEAST), 1 - tail),
    1.0,
  )
  return centre_K, low_K, high_K


def difference(a_X, b_X, *, level: float = 0.95) -> Interval:
  """Mean of a - b over the same problems, with its interval.

  Differences are paired by problem, so a problem's difficulty cancels. They
  are rescaled to [0, 1] and passed to `mean`, assuming the range [-d, d] with
  d the largest absolute difference, but at least 0.25. One differing problem
  among many therefore shows no change: an untried problem may differ as much
  in the other direction. If no problem differs, d is 1, since nothing is known
  about the size of differences.

  By the same simulation at least 93% of the intervals contain the mean, for
  right-or-wrong values and for pass@1 and pass@32 of 64 samples. For 64
  problems whose pass@1 rose by 0.045 they are 0.036 wide (bootstrap 0.027),
  for pass@32 0.197 (0.171). Rare differences much larger than the observed
  ones (a change of 1 in one problem of 20, where 30 changed by 0.05) are
  covered no better than by a bootstrap.

  Args:
    a_X: one value in [0, 1] per problem.
    b_X: value of the other run for the same problem, in [0, 1].
    level: confidence level, in (0, 1).

  Returns:
    (mean difference, low, high).

  Raises:
    ValueError: the shapes differ, there are no problems, a value is outside
      [0, 1], or the level is outside (0, 1).
  """
  a_X, b_X = np.asarray(a_X, np.float64), np.asarray(b_X, np.float64)
  if a_X.shape != b_X.shape:
    raise ValueError(
      f"paired values must match, got shapes {a_X.shape} and {b_X.shape}"
    )
  for values in (a_X, b_X):
    if not np.all((values >= 0) & (values <= 1)):
      raise ValueError("holds values outside [0, 1]")
  change_X = a_X - b_X
  largest = np.abs(change_X).max(initial=0.0)
  largest = max(largest, _LEAST_RANGE) if largest else 1.0
  # [-largest, largest] to [0, 1] and back.
  centre, low, high = mean(
    np.clip((change_X / largest + 1) / 2, 0, 1), level=level
  )
  return tuple(float(largest * (2 * x - 1)) for x in (centre, low, high))


def over_seeds(values_SX, *, level: float = 0.95) -> tuple[float, ...]:
  """Mean over seeds and problems, with an interval that holds for both.

  `mean` says how far a mean would move on other problems. Another training
  run moves it too, and averaging over problems does not reduce that part. The
  values are taken as a mean plus an effect of the seed, an effect of the
  problem and noise, all random and normal. The half width h of the interval
  is, with the mean squares of seeds and of problems in this two-way layout,

    h^2 = t_{S-1}^2 MS_seeds / (S X) + t_{X-1}^2 MS_problems / (S X),

  where t_f is Student's quantile with f degrees of freedom (K. S. Banerjee,
  "Approximate Confidence Interval for Linear Functions of Means of k
  Populations When the Population Variances Are Not Equal", Sankhya 22, 1960).
  Each part has its own degrees of freedom, so that an interval of two seeds
  that happen to agree is not narrow: the level is held or exceeded. Two seeds
  have t = 12.7 and settle little. Near 0 and 1 the interval, which is
  symmetric, is only a rough one.

  Args:
    values_SX: one row per seed, one column per problem, such as pass@k or a
      difference of pass@k; at least two of each.
    level: confidence level, in (0, 1).

  Returns:
    (mean, low, high, p): the interval of level 1 - p ends at 0; 1 where the
    mean is 0.

  Raises:
    ValueError: there are fewer than two seeds or problems, a value is not
      finite, or the level is outside (0, 1).
  """
  values_SX = np.asarray(values_SX, np.float64)
  if values_SX.ndim != 2 or min(values_SX.shape) < 2:
    raise ValueError(
      f"takes two or more seeds of two or more problems, got {values_SX.shape}"
    )
  if not np.isfinite(values_SX).all():
    raise ValueError("holds values that are not finite")
  if not 0 < level < 1:
    raise ValueError(f"level must lie in (0, 1), got {level}")
  centre = float(values_SX.mean())
  parts = [
    # The variance of the means is their mean square over the other number.
    (means.var(ddof=1) / len(means), len(means) - 1)
    for means in (values_SX.mean(axis=1), values_SX.mean(axis=0))
  ]

  def half(tail: float) -> float:
    """Half the width of the interval that leaves out a share `tail`."""
    return np.sqrt(
      sum(v * scipy.stats.t.isf(tail / 2, freedom) ** 2 for v, freedom in parts)
    )

  if centre == 0:
    p = 1.0
  elif half(_LEAST) < abs(centre):
    p = _LEAST
  else:
    p = scipy.optimize.brentq(lambda x: half(x) - abs(centre), _LEAST, 1.0)
  width = float(half(1 - level))
  return centre, centre - width, centre + width, float(p)


def holm(p_X) -> np.ndarray:
  """Adjusts p values for the number of comparisons made.

  S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979):
  with the values in rising order, the i-th of m (from 0) is multiplied by
  m - i, and none is smaller than the one before it. Rejecting what is below
  0.05 then rejects any true hypothesis with probability 0.05 at the most.

  Args:
    p_X: p values of one family of comparisons.

  Returns:
    Adjusted values in the same order, at most 1.
  """
  p_X = np.asarray(p_X, np.float64)
  order = np.argsort(p_X, kind="stable")
  steps = p_X[order] * np.arange(len(p_X), 0, -1)
  adjusted_X = np.empty_like(p_X)
  adjusted_X[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
  return adjusted_X
