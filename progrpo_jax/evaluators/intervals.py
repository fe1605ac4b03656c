"""Intervals of means over problems, which hold at 0 and at 1 as well.

A bootstrap draws what was seen: of 64 problems that are all right it makes
[1, 1], and of 30 whose mean is 0.02 an interval that holds that mean less
than half of the time. Here a mean is treated as a proportion, of as many
problems as would scatter like these ("effective sample size"), with the
Clopper-Pearson interval: E. L. Korn and B. I. Graubard, "Confidence intervals
for proportions with small expected number of positive counts estimated from
survey data" (Survey Methodology 24, 1998). The surprise: the scatter is that
of the values and two more, one at either end of the range, so that values
which happen to be alike do not pass for certainty.

By simulation (tests/evaluators/test_intervals.py), from 30 problems on and for
means from 0.02 to 1, 93% or more of the 95% intervals hold the mean; of a
bootstrap's it may be 5% (30 problems, a mean of 0.998). They are wider. With 64
problems, and a bootstrap's width in brackets: 0.234 (0.220) where problems are
right or wrong at a mean of 0.3; 0.181 (0.171) where their pass@1 is spread as
Beta(0.5, 0.5); 0.085 (0.048) where they are right or wrong at a mean of 0.02,
which the bootstrap's hold 72% of the time.
"""

import numpy as np
import scipy.special

Interval = tuple[float, float, float]

# Parameters of a beta distribution are above 0.
_LEAST = 1e-12

# Half of the least range that differences are taken to have: smaller ones
# that are all there is to see do not bound those of other problems.
_LEAST_RANGE = 0.25


def mean(values_X, *, level: float = 0.95) -> Interval:
  """Mean over problems of values in [0, 1], with its interval.

  It says how far the mean would move on other problems of the same kind.
  Where all values are 0 or 1 it is that of Clopper and Pearson: 64 right ones
  of 64 give 0.944 to 1.

  Args:
    values_X: one value per problem, its pass@k for example.
    level: share of intervals that hold the true mean, at least.

  Returns:
    (mean, low, high).

  Raises:
    ValueError: no problems, values outside [0, 1], or a level outside (0, 1).
  """
  values_X = np.asarray(values_X, np.float64)
  if values_X.ndim != 1:
    raise ValueError(f"takes one value per problem, got {values_X.shape}")
  centre, low, high = columns(values_X[:, None], level=level)
  return float(centre[0]), float(low[0]), float(high[0])


def columns(
    values_XK, *, level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """`mean` of each column of values, a row per problem.

  Returns:
    (mean_K, low_K, high_K); the interval holds for each k by itself.

  Raises:
    ValueError: as for `mean`.
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
  # The scatter of the values and of two more, at 0 and at 1.
  ends_2K = np.broadcast_to([[0.0], [1.0]], (2, values_XK.shape[1]))
  more_XK = np.concatenate([values_XK, ends_2K])
  middle_K, spread_K = more_XK.mean(axis=0), more_XK.var(axis=0)
  # p (1 - p) is the variance of a proportion, the largest there is in [0, 1]
  # at that mean: this is never less than the number of problems.
  number_K = size * middle_K * (1 - middle_K) / spread_K
  right_K, wrong_K = number_K * centre_K, number_K * (1 - centre_K)
  # The quantiles are not defined where none is right, or none is wrong.
  quantile = scipy.special.betaincinv
  low_K = np.where(
      centre_K > 0,
      quantile(np.maximum(right_K, _LEAST), wrong_K + 1, tail), 0.0)
  high_K = np.where(
      centre_K < 1,
      quantile(right_K + 1, np.maximum(wrong_K, _LEAST), 1 - tail), 1.0)
  return centre_K, low_K, high_K


def difference(a_X, b_X, *, level: float = 0.95) -> Interval:
  """Mean of a - b over the same problems, with its interval.

  Paired, so that what makes a problem hard for both cancels. As `mean` on the
  range from the largest difference seen, 0.25 at least, to its opposite: one
  problem of many that differs shows no change, as problems that were not tried
  may differ as much the other way. Where no problem differs the range is that
  of all differences, -1 to 1: it is not known how large one would be.

  By the same simulation 93% or more of these hold the mean where values are
  right or wrong, and of pass@1 and pass@32 of 64 samples. Of pass@1 that a run
  raised by 0.045 they are 0.036 wide for 64 problems where a bootstrap's are
  0.027, of pass@32 0.197 and 0.171. Rare differences much larger than those
  seen (one problem in 20 that changes by 1, among 30 that change by 0.05) are
  covered no better than by a bootstrap.

  Args:
    a_X: one value in [0, 1] per problem.
    b_X: the value of the other run on the same problem.
    level: as for `mean`.

  Returns:
    (mean difference, low, high).

  Raises:
    ValueError: the shapes differ, or as for `mean`.
  """
  a_X, b_X = np.asarray(a_X, np.float64), np.asarray(b_X, np.float64)
  if a_X.shape != b_X.shape:
    raise ValueError(
        f"paired values must match, got shapes {a_X.shape} and {b_X.shape}")
  for values in (a_X, b_X):
    if not np.all((values >= 0) & (values <= 1)):
      raise ValueError("holds values outside [0, 1]")
  change_X = a_X - b_X
  largest = np.abs(change_X).max(initial=0.0)
  largest = max(largest, _LEAST_RANGE) if largest else 1.0
  centre, low, high = mean(
      np.clip((change_X / largest + 1) / 2, 0, 1), level=level)
  return tuple(float(largest * (2 * x - 1)) for x in (centre, low, high))
