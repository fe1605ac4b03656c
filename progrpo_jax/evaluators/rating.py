"""A rating in the manner of Codeforces, from problems solved and failed.

A solver of rating r solves a problem of rating d with probability
1 / (1 + 10^((d - r) / 400)): the Elo model of M. Mirzayanov, "Open Codeforces
Rating System" (codeforces.com/blog/entry/20762), where a problem's rating is
that of a contestant who solves it half of the time. Given the problems'
ratings, `rate` returns the r under which what was seen is likeliest, and the
interval of all r that a likelihood-ratio test does not reject (S. Wilks, "The
Large-Sample Distribution of the Likelihood Ratio", 1938).

Left out: the time to a solution and wrong submissions before it, both of
which count in contests; such a number is not comparable with a contestant's.
"""

from collections.abc import Iterator
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_SCALE = 400 / math.log(10)  # rating points to one unit of log-odds
# Quantiles of chi-squared with one degree of freedom, by level.
_QUANTILES = {0.5: 0.454936, 0.8: 1.642374, 0.9: 2.705543, 0.95: 3.841459,
              0.99: 6.634897}


class Rating(NamedTuple):
  """A rating with its interval, in rating points.

  Attributes:
    value: the likeliest rating; -inf if nothing was solved, inf if all was.
    low: lower end of the interval, -inf where there is none.
    high: upper end, inf where there is none.
  """

  value: float
  low: float
  high: float


def rate(
    rating_N: ArrayLike, passed_N: ArrayLike, *, level: float = 0.95
) -> Rating:
  """Returns the rating of a solver.

  Args:
    rating_N: ratings of the problems, such as 1500; finite.
    passed_N: whether each was solved, or the share of samples that did.
    level: of the interval, one of 0.5, 0.8, 0.9, 0.95, 0.99.

  Raises:
    ValueError: no problems, other shapes, values outside their ranges.
  """
  rating_N = np.asarray(rating_N, np.float64)
  passed_N = np.asarray(passed_N, np.float64)
  if rating_N.ndim != 1 or not rating_N.size or (
      rating_N.shape != passed_N.shape):
    raise ValueError(
        "rating_N and passed_N must be lists of one length, 1 or more, not of"
        f" shapes {rating_N.shape} and {passed_N.shape}")
  if not np.isfinite(rating_N).all():
    raise ValueError("a problem's rating is not finite; leave such ones out")
  if not ((passed_N >= 0) & (passed_N <= 1)).all():
    raise ValueError("passed_N must lie in [0, 1]")
  if level not in _QUANTILES:
    raise ValueError(f"level must be one of {list(_QUANTILES)}, not {level}")
  value = _likeliest(rating_N, passed_N)
  floor = _log_likelihood(value, rating_N, passed_N) - _QUANTILES[level] / 2
  ends = []
  for sign in (-1, 1):
    if value == sign * math.inf:
      ends.append(value)
      continue
    start = value if math.isfinite(value) else _extreme(rating_N, -sign)
    ends.append(_crossing(start, sign, floor, rating_N, passed_N))
  return Rating(value, *ends)


def measure(samples) -> Iterator[tuple[str, float]]:
  """Rating of the policy, by the held-out problems that have one themselves.

  The meta of a row says it (see `tasks.base.Row`); what counts of a problem is
  the share of its samples that are right, and its weight is that of one
  attempt, however many samples there are. A sample that the verifier itself
  failed on is not counted, nor is a problem without any other.

  Yields:
    `rating` and its interval `rating/low` and `rating/high`, in points; nothing
    for a set without ratings. If no sample is right the rating is -inf, if all
    are it is inf, and so is that end of the interval: the files of a run write
    `null` for it, and the other end says what is known.
  """
  valid_XN = np.asarray(samples.valid_XN, bool)
  right_X = (samples.correct_XN & valid_XN).sum(axis=1)
  rated = [
      (row.meta["rating"], right / valid)
      for row, right, valid in zip(samples.rows, right_X, valid_XN.sum(axis=1))
      if valid and "rating" in row.meta]
  if rated:
    found = rate(*zip(*rated))
    yield "rating", found.value
    yield "rating/low", found.low
    yield "rating/high", found.high


def _likeliest(rating_N, passed_N) -> float:
  """The rating of which the expected number of solved problems is right."""
  solved = passed_N.sum()
  if solved == 0:
    return -math.inf
  if (passed_N == 1).all():
    return math.inf
  odds = _SCALE * math.log(solved / (len(passed_N) - solved))
  low, high = rating_N.min() + odds, rating_N.max() + odds
  return _bisect(lambda r: _chances(r, rating_N).sum() < solved, low, high)


def _chances(rating: float, rating_N):
  """The probability to solve each problem."""
  return 0.5 * (1 + np.tanh((rating - rating_N) / (2 * _SCALE)))


def _log_likelihood(rating: float, rating_N, passed_N) -> float:
  """The log-probability of what was solved; 0 at the right infinity."""
  if not math.isfinite(rating):
    return 0.0
  x_N = (rating - rating_N) / _SCALE
  return float(-np.sum(
      passed_N * np.logaddexp(0, -x_N) + (1 - passed_N) * np.logaddexp(0, x_N)))


def _extreme(rating_N, sign: int) -> float:
  """A rating far to one side of all problems."""
  spread = 40 * _SCALE + _SCALE * math.log(len(rating_N))
  return float(rating_N.max() + spread if sign > 0 else rating_N.min() - spread)


def _crossing(start, sign: int, floor: float, rating_N, passed_N) -> float:
  """Where the log-likelihood falls to floor, from start in a direction."""
  step = _SCALE
  while _log_likelihood(start + sign * step, rating_N, passed_N) > floor:
    step *= 2
  def inside(distance):
    at = start + sign * distance
    return _log_likelihood(at, rating_N, passed_N) > floor
  return start + sign * _bisect(inside, 0.0, step)


def _bisect(below, low: float, high: float) -> float:
  """Where a predicate turns from true to false, to the last bits."""
  for _ in range(100):
    middle = (low + high) / 2
    if below(middle):
      low = middle
    else:
      high = middle
  return (low + high) / 2
