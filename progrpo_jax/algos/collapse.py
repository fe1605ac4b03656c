"""Judges from logged metrics whether a run is collapsing.

The verdict depends on the logged rows only (no clock, no hidden state), so a
run that was interrupted and resumed is judged like an uninterrupted one. A
single odd step changes nothing: an alarm is raised once a metric is beyond its
bound in three quarters of a window and cleared once it is beyond in at most a
quarter, so a value near its bound does not make the alarm flicker.

Every bound is a pair (warning, collapse). Warning: look at the run; collapse:
change something. The numbers are this project's choice. The failures they
catch are from papers: entropy that vanishes, or explodes under a bonus ("The
Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
https://arxiv.org/abs/2505.22617), and pass@k that falls below the base
policy's while pass@1 rises above it ("Assessing Diversity Collapse in
Reasoning", Dang et al., 2025). Absent, null and NaN metrics are skipped.

Runs on the host, in plain Python.
"""

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import math
import operator
import re
import statistics
from typing import Any

LEVELS = ("ok", "warning", "collapse")
ENTROPY, SPREAD = "entropy", "reward_spread/mean"
ZERO_SPREAD, CORRECT = "frac_reward_zero_std", "correct"
LENGTH, CLIPPED = "completions/mean_length", "completions/clipped_ratio"
# An alarm is raised at this share of bad steps in a window, and cleared at or
# below the second one.
_SET, _CLEAR = 0.75, 0.25
PASS = re.compile(r"eval/(.+)/pass@(\d+)$")

Pair = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The state of a run at one step.

  Attributes:
    level: one of LEVELS.
    reason: sentence with the numbers; empty when the level is 'ok'.
  """

  level: str = "ok"
  reason: str = ""

  @property
  def number(self) -> int:
    """The level as logged: 0 ok, 1 warning, 2 collapse."""
    return LEVELS.index(self.level)


def start_of(
  history: Sequence[Mapping[str, Any]], count: int = 10
) -> dict[str, float]:
  """Medians of a run's first steps, the baseline for `assess`.

  Args:
    history: rows of metrics from the first step on, oldest first.
    count: number of values per metric that the median is taken over.

  Returns:
    {metric: median}, without metrics that were never logged.
  """
  names = (ENTROPY, SPREAD, CORRECT, LENGTH)
  series = {name: _values(history, name)[:count] for name in names}
  return {
    name: statistics.median(values) for name, values in series.items() if values
  }


def assess(
  history: Sequence[Mapping[str, Any]],
  *,
  start: Mapping[str, float] | None = None,
  evals: Sequence[Mapping[str, Any]] = (),
  window: int = 20,
  entropy_share: Pair = (0.3, 0.1),
  entropy_floor: Pair = (0.02, 0.005),
  entropy_growth: Pair = (3.0, 6.0),
  entropy_high: Pair = (1.0, 2.0),
  zero_spread: Pair = (0.9, 0.98),
  spread_share: float = 0.25,
  solved: float = 0.9,
  length_share: Pair = (0.3, 0.1),
  clipped: Pair = (0.7, 0.95),
  pass_drop: Pair = (0.05, 0.15),
  patience: int = 2,
) -> Verdict:
  """Judges a run by its last rows.

  Args:
    history: rows of metrics, oldest first. Two windows are enough for a
      verdict; with more rows an alarm that is not yet cleared lasts longer.
    start: result of `start_of` for the whole run; None takes the first rows of
      `history`, which must then reach back to the first step.
    evals: rows of evaluations, oldest first, starting with the base policy's
      if it was evaluated.
    window: steps over which a bound must be exceeded.
    entropy_share: lower bounds on entropy, as shares of its start. A fall to
      one half is usual in training; a tenth leaves one way of answering.
    entropy_floor: lower bounds on entropy in nats, whatever the start. The
      higher of share and floor applies.
    entropy_growth: upper bounds on entropy, as multiples of its start.
    entropy_high: upper bounds on entropy in nats. The higher of growth and
      this one applies, since a low entropy may triple without harm.
    zero_spread: upper bounds on the share of groups with equal rewards. Half
      of the groups is usual; the second bound leaves one group in 64 with a
      gradient.
    spread_share: lower bound (warning only) on the reward spread within
      groups, as a share of its start.
    solved: share of correct responses from which equal rewards are no
      collapse: there is little left to learn.
    length_share: lower bounds on response length, as shares of its start.
      A warning at most while accuracy is no lower than at the start: learning
      to be brief is no collapse.
    clipped: upper bounds on the share of responses cut at the length limit.
    pass_drop: upper bounds on the fall of pass@k (largest k) while pass@1
      rises, from the mean of the first `patience` evaluations.
    patience: evaluations over which the fall must last.

  Returns:
    The worst verdict of all checks; its reason joins those of every check at
    that level.

  Raises:
    ValueError: a window is below 1, or a warning bound lies beyond its
      collapse bound.
  """
  for name, value in (("window", window), ("patience", patience)):
    if value < 1:
      raise ValueError(f"{name} must be at least 1, got {value}")
  start = start_of(history) if start is None else start
  # (level, reason) of every check; the reason is used only at the worst level.
  findings = [
    _low_entropy(history, start, window, entropy_share, entropy_floor),
    _high_entropy(history, start, window, entropy_growth, entropy_high),
    _equal_rewards(history, window, zero_spread, solved),
    _small_spread(history, start, window, spread_share, solved),
    _short(history, start, window, length_share),
    _cut_off(history, window, clipped),
    *_narrowing(evals, pass_drop, patience),
  ]
  worst = max(level for level, _ in findings)
  if not worst:
    return Verdict()
  reasons = [reason for level, reason in findings if level == worst]
  return Verdict(LEVELS[worst], "; ".join(reasons))


def _low_entropy(history, start, window, share, floor) -> tuple[int, str]:
  """Checks for vanishing entropy."""
  first = _number(start.get(ENTROPY)) or 0.0
  bounds = [max(s * first, f) for s, f in zip(share, floor)]
  level, now = _level(history, ENTROPY, operator.lt, bounds, window)
  share_left = (
    f", {now / first:.0%} of {first:.3g} at the start" if first else ""
  )
  return level, f"entropy is down to {now:.3g} nats{share_left}"


def _high_entropy(history, start, window, growth, high) -> tuple[int, str]:
  """Checks for exploding entropy."""
  first = _number(start.get(ENTROPY))
  if first is None:
    return 0, ""
  bounds = [max(g * first, h) for g, h in zip(growth, high)]
  level, now = _level(history, ENTROPY, operator.gt, bounds, window)
  return level, (
    f"entropy has grown to {now:.3g} nats from {first:.3g} at the start"
  )


def _equal_rewards(history, window, bounds, solved) -> tuple[int, str]:
  """Checks for groups whose rewards are all equal, which have no gradient."""
  level, now = _level(history, ZERO_SPREAD, operator.gt, bounds, window)
  text = f"{now:.0%} of the groups have no spread in reward"
  right = _now(history, CORRECT, window)
  if right is None:
    return level, text
  if right >= solved:
    level = min(level, 1)
  return level, f"{text}, with {right:.0%} of the responses right"


def _small_spread(history, start, window, share, solved) -> tuple[int, str]:
  """Checks for a shrinking reward spread within groups."""
  first = _number(start.get(SPREAD))
  right = _now(history, CORRECT, window)
  if first is None or (right is not None and right >= solved):
    return 0, ""
  level, now = _level(history, SPREAD, operator.lt, [share * first], window)
  return level, (
    f"rewards within groups spread by {now:.3g}, {first:.3g} at the start"
  )


def _short(history, start, window, share) -> tuple[int, str]:
  """Checks for shrinking responses."""
  first = _number(start.get(LENGTH))
  if first is None:
    return 0, ""
  bounds = [s * first for s in share]
  level, now = _level(history, LENGTH, operator.lt, bounds, window)
  before, right = _number(start.get(CORRECT)), _now(history, CORRECT, window)
  if None not in (before, right) and right >= before:
    level = min(level, 1)
  return level, (
    f"responses have shrunk to {now:.4g} tokens, from {first:.4g} at the start"
  )


def _cut_off(history, window, bounds) -> tuple[int, str]:
  """Checks for responses that no longer end before the length limit."""
  level, now = _level(history, CLIPPED, operator.gt, bounds, window)
  return level, f"{now:.0%} of the responses are cut off at the length limit"


def _narrowing(evals, drop, patience) -> list[tuple[int, str]]:
  """Checks each evaluation set for a pass@k that falls as pass@1 rises."""
  _check_order(operator.gt, drop, "pass_drop")
  # The largest k of each set. All rows are read, since sets may be evaluated
  # at different steps and the last row need not hold every set.
  highest: dict[str, int] = {}
  for row in evals:
    row_highest: dict[str, int] = {}
    for match in filter(None, map(PASS.match, row)):
      row_highest[match[1]] = max(row_highest.get(match[1], 0), int(match[2]))
    # A later row replaces an earlier one, so that k is one still reported.
    highest |= row_highest
  return [
    _narrowing_on(evals, name, k, drop, patience)
    for name, k in highest.items()
    if k > 1
  ]


def _narrowing_on(evals, name, k, drop, patience) -> tuple[int, str]:
  """Checks one evaluation set at one k."""
  pairs = [
    (
      _number(row.get(f"eval/{name}/pass@1")),
      _number(row.get(f"eval/{name}/pass@{k}")),
    )
    for row in evals
  ]
  pairs = [pair for pair in pairs if None not in pair]
  if not pairs:
    return 0, ""
  # The first `patience` evaluations are the baseline for the later ones.
  first_1, first_k = _means(pairs[:patience])
  level = 0
  for number, bound in enumerate(drop, 1):
    flags = [
      at_1 > first_1 and at_k < first_k - bound
      for at_1, at_k in pairs[patience:]
    ]
    level = number if _persists(flags, patience) else level
  last_1, last_k = _means(pairs[-patience:])
  return level, (
    f"pass@{k} on {name} fell from {first_k:.3f} to {last_k:.3f} while "
    f"pass@1 went from {first_1:.3f} to {last_1:.3f}"
  )


def _level(
  history,
  name: str,
  beyond: Callable[[float, float], bool],
  bounds: Sequence[float],
  window: int,
) -> tuple[int, float]:
  """Returns a metric's level and its median over the window.

  `beyond` compares a value with a bound: `operator.lt` for lower bounds,
  `operator.gt` for upper bounds.
  """
  _check_order(beyond, bounds, name)
  values = _values(history, name)
  level = 0
  for number, bound in enumerate(bounds, 1):
    if _persists((beyond(value, bound) for value in values), window):
      level = number
  return level, statistics.median(values[-window:] or [math.nan])


def _check_order(beyond, bounds, name) -> None:
  """Raises ValueError where the warning lies beyond the collapse."""
  if beyond(bounds[0], bounds[-1]):
    raise ValueError(
      f"bounds of {name} are (warning, collapse), but the warning "
      f"{bounds[0]:.4g} lies beyond the collapse {bounds[-1]:.4g}"
    )


def _persists(flags: Iterable[bool], window: int) -> bool:
  """Returns whether an alarm is on, with hysteresis."""
  last = collections.deque(maxlen=window)
  on = False
  for flag in flags:
    last.append(flag)
    count = sum(last)
    if len(last) == window and count >= _SET * window:
      on = True
    elif count <= _CLEAR * window:
      on = False
  return on


def _now(history, name: str, window: int) -> float | None:
  """Median of a metric over the window; None if it was never logged."""
  values = _values(history, name)[-window:]
  return statistics.median(values) if values else None


def _means(pairs) -> tuple[float, float]:
  """Means of the first and of the second numbers of pairs."""
  firsts, seconds = zip(*pairs)
  return statistics.fmean(firsts), statistics.fmean(seconds)


def _values(history, name: str) -> list[float]:
  """Finite values of a metric, oldest first."""
  values = [_number(row.get(name)) for row in history]
  return [value for value in values if value is not None]


def _number(value) -> float | None:
  """A value as a finite float; None if absent, text or not finite."""
  if value is None or isinstance(value, str):
    return None
  value = float(value)
  return value if math.isfinite(value) else None
