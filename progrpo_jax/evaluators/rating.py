"""A Codeforces-style rating from solved and failed problems.

A solver of rating r solves a problem of rating d with probability
1 / (1 + 10^((d - r) / 400)): the Elo model of M. Mirzayanov, "Open Codeforces
Rating System" (codeforces.com/blog/entry/20762), in which a contestant solves
a problem of their own rating half of the time. Given the problems' ratings,
`rate` returns the maximum-likelihood r and the interval of all r that a
likelihood-ratio test does not reject (S. Wilks, "The Large-Sample Distribution
of the Likelihood Ratio", 1938).

Contests also count the time to a solution and wrong submissions, which are
ignored here, so these ratings are not comparable with contestants' ratings.
"""

from collections.abc import Iterator
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from progrpo_jax.evaluators import samples as samples_lib

_SCALE = 400 / math.log(10)  # rating points to one unit of log-odds
# Quantiles of chi-squared with one degree of freedom, by level.
_QUANTILES = {
  0.5: 0.454936,
  0.8: 1.642374,
  0.9: 2.705543,
  0.95: 3.841459,
  0.99: 6.634897,
}


class Rating(NamedTuple):
  """A rating with its interval, in rating points.

  Attributes:
    value: maximum-likelihood rating; -inf if nothing was solved, inf if every
      problem was.
    low: lower end of the interval; -inf if there is none.
    high: upper end of the interval; inf if there is none.
  """

  value: float
  low: float
  high: float


def rate(
  rating_X: ArrayLike, passed_X: ArrayLike, *, level: float = 0.95
) -> Rating:
  """Returns the rating of a solver.

  Args:
    rating_X: rating of each problem, such as 1500; finite.
    passed_X: whether each problem was solved, or the share of samples that
      solved it.
    level: confidence level of the interval, one of 0.5, 0.8, 0.9, 0.95, 0.99.

  Raises:
    ValueError: there are no problems, the shapes differ, or values lie outside
      their ranges.
  """
  rating_X = np.asarray(rating_X, np.float64)
  passed_X = np.asarray(passed_X, np.float64)
  if (
    rating_X.ndim != 1
    or not rating_X.size
    or (rating_X.shape != passed_X.shape)
  ):
    raise ValueError(
      "rating_X and passed_X must be lists of one length, 1 or more, not of"
      f" shapes {rating_X.shape} and {passed_X.shape}"
    )
  if not np.isfinite(rating_X).all():
    raise ValueError("a problem's rating is not finite; leave such ones out")
  if not ((passed_X >= 0) & (passed_X <= 1)).all():
    raise ValueError("passed_X must lie in [0, 1]")
  if level not in _QUANTILES:
    raise ValueError(f"level must be one of {list(_QUANTILES)}, not {level}")
  # The interval ends where the log-likelihood has fallen by half the quantile.
  value = _likeliest(rating_X, passed_X)
  floor = _log_likelihood(value, rating_X, passed_X) - _QUANTILES[level] / 2
  ends = []
  for sign in (-1, 1):
    if value == sign * math.inf:
      ends.append(value)
      continue
    # From an infinite estimate the search starts far out on that side.
    start = value if math.isfinite(value) else _extreme(rating_X, -sign)
    ends.append(_crossing(start, sign, floor, rating_X, passed_X))
  return Rating(value, *ends)


def measure(samples: samples_lib.Samples) -> Iterator[tuple[str, float]]:
  """Rates the policy on the held-out problems that have a rating.

  A problem's rating is `meta["rating"]` of its row (see `tasks.base.Row`). Each
  problem counts as one attempt, passed by the share of its samples that are
  correct. Samples on which the verifier failed are left out, and so are
  problems without any other sample.

  Args:
    samples: held-out samples.

  Yields:
    `rating` and its interval `rating/low` and `rating/high`, in rating points;
    nothing for a set without ratings. The rating is -inf if no sample is
    correct and inf if all are, and so is that end of the interval; the files
    of a run hold `null` for infinite values.
  """
  valid_XG = np.asarray(samples.valid_XG, bool)
  right_X = (samples.correct_XG & valid_XG).sum(axis=1)
  rated = [
    (row.meta["rating"], right / valid)
    for row, right, valid in zip(samples.rows, right_X, valid_XG.sum(axis=1))
    if valid and "rating" in row.meta
  ]
  if rated:
    rating = rate(*zip(*rated))
    yield "rating", rating.value
    yield "rating/low", rating.low
    yield "rating/high", rating.high


def _likeliest(rating_X, passed_X) -> float:
  """The rating whose expected number of solved problems is the observed one.

  That is the maximum-likelihood rating of the model.
  """
  solved = passed_X.sum()
  if solved == 0:
    return -math.inf
  if (passed_X == 1).all():
    return math.inf
  # If all problems were equally hard, `odds` above their rating would be the
  # answer: the easiest and the hardest problem bracket it.
  odds = _SCALE * math.log(solved / (len(passed_X) - solved))
  low, high = rating_X.min() + odds, rating_X.max() + odds
  return _bisect(lambda r: _chances(r, rating_X).sum() < solved, low, high)


def _chances(rating: float, rating_X):
  """Probability of solving each problem."""
  return 0.5 * (1 + np.tanh((rating - rating_X) / (2 * _SCALE)))


def _log_likelihood(rating: float, rating_X, passed_X) -> float:
  """Log-likelihood of a rating; an infinite estimate fits perfectly: 0."""
  if not math.isfinite(rating):
    return 0.0
  gap_X = (rating - rating_X) / _SCALE
  return float(
    -np.sum(
      passed_X * np.logaddexp(0, -gap_X)
      + (1 - passed_X) * np.logaddexp(0, gap_X)
    )
  )


def _extreme(rating_X, sign: int) -> float:
  """A rating far above (sign 1) or below (sign -1) all problems."""
  spread = 40 * _SCALE + _SCALE * math.log(len(rating_X))
  return float(rating_X.max() + spread if sign > 0 else rating_X.min() - spread)


def _crossing(start, sign: int, floor: float, rating_X, passed_X) -> float:
  """The rating, from start in one direction, where the likelihood hits floor.

  `floor` is a log-likelihood.
  """
  step = _SCALE
  while _log_likelihood(start + sign * step, rating_X, passed_X) > floor:
    step *= 2

  def inside(distance):
    at = start + sign * distance
    return _log_likelihood(at, rating_X, passed_X) > floor

  return start + sign * _bisect(inside, 0.0, step)


def _bisect(below, low: float, high: float) -> float:
  """The point where a predicate turns from true to false, to float accuracy."""
  for _ in range(100):
    middle = (low + high) / 2
    if below(middle):
      low = middle
    else:
      high = middle
  return (low + high) / 2
