"""Regimes: whether training changed which problems a policy can solve.

The boundary of a policy is its pass@k at a large k. A gain over the base and
over a checkpoint half way means that training still adds solvable problems.
The regime summarises two intervals and is always shown together with them.
ProRL (https://arxiv.org/abs/2505.24864, section 4.2) assigns tasks to three
regimes by eye; the thresholds here are this project's choice, and so is the
fourth regime, for an interval that contains 0 (neither a gain nor a loss).
"""

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np

from progrpo_jax.evaluators import intervals, passk

REGIMES = ("Diminish", "No change shown", "Plateau", "Sustained")
# Replaces a regime where too few problems have enough samples.
NOT_ENOUGH = "Not enough samples"
LARGEST_K = 128

Interval = intervals.Interval


class Judgement(NamedTuple):
  """The regime of a run on a set of problems, with its numbers.

  Attributes:
    regime: one of REGIMES.
    problems: number of problems tried at all three times.
    base: mean pass@k before training.
    middle: mean pass@k half way.
    final: mean pass@k at the end.
    gain: (mean, low, high) of final - base, paired by problem.
    late: (mean, low, high) of final - middle, paired by problem.
  """

  regime: str
  problems: int
  base: float
  middle: float
  final: float
  gain: Interval
  late: Interval


def largest_k(*runs: passk.Counts, limit: int = LARGEST_K) -> int | None:
  """The k to judge by: the largest power of 2 with 2k <= n on most problems.

  With k above n / 2 the estimate is nearly "any of the n samples is correct",
  a single draw, and one more correct sample per problem would look like a
  gain. "Most" is the median: a few problems with fewer samples, because the
  verifier failed on some, do not lower k.

  Args:
    *runs: {problem: (samples, correct samples)} of each compared run.
    limit: largest k to return.

  Returns:
    k, or None if the median problem of a run has fewer than two samples.
  """
  # Lower median of the number of samples, for each run.
  middles = [
    sorted(n for n, _ in run.values())[(len(run) - 1) // 2]
    for run in runs
    if run
  ]
  return max(
    (k for k in passk.powers(min(middles, default=0) // 2) if k <= limit),
    default=None,
  )


def regime_of(
  base: Mapping[Hashable, float],
  middle: Mapping[Hashable, float],
  final: Mapping[Hashable, float],
  *,
  level: float = 0.95,
) -> Judgement:
  """Returns the regime of a run from its pass@k at three times.

  Problems that are not in all three mappings are left out.

  Args:
    base: {problem: pass@k} before training, from `passk.per_problem`.
    middle: {problem: pass@k} half way.
    final: {problem: pass@k} at the end.
    level: confidence level of the intervals.

  Raises:
    ValueError: no problem is in all three mappings.
  """
  shared = sorted(
    (name for name in base if name in middle and name in final), key=repr
  )
  if not shared:
    raise ValueError("no problem was tried by base, middle and final alike")
  base_X, middle_X, final_X = (
    np.array([values[name] for name in shared])
    for values in (base, middle, final)
  )
  gain, late = (
    intervals.difference(final_X, before_X, level=level)
    for before_X in (base_X, middle_X)
  )
  return Judgement(
    regime=regime(gain, late),
    problems=len(shared),
    base=float(base_X.mean()),
    middle=float(middle_X.mean()),
    final=float(final_X.mean()),
    gain=gain,
    late=late,
  )


def regime(gain: Interval, late: Interval) -> str:
  """Returns the regime of two intervals (mean, low, high).

  Args:
    gain: interval of final - base. Below 0: Diminish. Containing 0: No change
      shown. Above 0: Sustained or Plateau.
    late: interval of final - middle. Above 0: Sustained; otherwise Plateau
      (the gain came early and may have shrunk since).
  """
  if gain[2] < 0:
    return "Diminish"
  if gain[1] <= 0:
    return "No change shown"
  return "Plateau" if late[1] <= 0 else "Sustained"
