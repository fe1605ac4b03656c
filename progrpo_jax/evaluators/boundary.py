"""Whether training moved what a policy can reach: three regimes.

The boundary is pass@k at a large k. A gain there, over the base and over a
checkpoint half way, says that training still adds problems that the policy
can solve; the label is a summary of two intervals and is never shown without
them. ProRL (https://arxiv.org/abs/2505.24864, section 4.2) sorts tasks into
three by eye; the thresholds are this file's, and so is the fourth: an interval
that holds 0 shows neither a gain nor a loss.
"""

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np

from progrpo_jax.evaluators import intervals, passk

REGIMES = ("Diminish", "No change shown", "Plateau", "Sustained")
# In the place of one, where too few problems have samples enough.
NOT_ENOUGH = "Not enough samples"
LARGEST_K = 128

Interval = intervals.Interval


class Judgement(NamedTuple):
  """The regime of a run on a set of problems, and what it rests on.

  Attributes:
    regime: one of REGIMES.
    problems: that all three checkpoints were tried on.
    base: mean value of the base.
    middle: of the checkpoint half way.
    final: of the last checkpoint.
    gain: (mean, low, high) of final - base, paired over problems.
    late: (mean, low, high) of final - middle.
  """

  regime: str
  problems: int
  base: float
  middle: float
  final: float
  gain: Interval
  late: Interval


def largest_k(*runs: passk.Counts, limit: int = LARGEST_K) -> int | None:
  """The k to judge by: the largest power of 2 with n >= 2k on most problems.

  Above half of the samples the estimate is nearly "any right at all", of one
  draw: a count too high by one on every problem passes for a gain. A few
  problems with less, whose samples the verifier failed on, do no harm.

  Args:
    *runs: {problem: (samples, right ones)} of each run to compare.
    limit: the largest k that is of interest.

  Returns:
    k, or None where half of the problems of a run have less than two samples.
  """
  middles = [
      sorted(n for n, _ in run.values())[(len(run) - 1) // 2]
      for run in runs if run]
  return max(
      (k for k in passk.powers(min(middles, default=0) // 2) if k <= limit),
      default=None)


def judge(
    base: Mapping[Hashable, float], middle: Mapping[Hashable, float],
    final: Mapping[Hashable, float], *, level: float = 0.95,
) -> Judgement:
  """Sorts a run into a regime by its pass@k at three times.

  Args:
    base: {problem: pass@k} before training, as `passk.per_problem` gives it.
    middle: half way.
    final: at the end. Problems that are not in all three are left out.
    level: of the intervals.

  Returns:
    The regime with its intervals.

  Raises:
    ValueError: no problem is in all three.
  """
  shared = sorted(
      (name for name in base if name in middle and name in final), key=repr)
  if not shared:
    raise ValueError("no problem was tried by base, middle and final alike")
  base_X, middle_X, final_X = (
      np.array([values[name] for name in shared])
      for values in (base, middle, final))
  gain, late = (
      intervals.difference(final_X, before_X, level=level)
      for before_X in (base_X, middle_X))
  return Judgement(
      regime=regime(gain, late), problems=len(shared),
      base=float(base_X.mean()), middle=float(middle_X.mean()),
      final=float(final_X.mean()), gain=gain, late=late)


def regime(gain: Interval, late: Interval) -> str:
  """The regime that two (mean, low, high) intervals add up to.

  Diminish: that of final - base lies below 0. No change shown: it holds 0.
  Otherwise there is a gain: Sustained where that of final - middle lies above
  0, else Plateau (the gain came early; it may have shrunk since, see `late`).
  """
  if gain[2] < 0:
    return "Diminish"
  if gain[1] <= 0:
    return "No change shown"
  return "Plateau" if late[1] <= 0 else "Sustained"
