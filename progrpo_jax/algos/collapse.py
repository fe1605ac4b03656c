"""Whether a run is collapsing, in one word and one sentence.

Decided from logged rows and from nothing else: no clock, no state of its own.
A run that was interrupted and resumed is therefore judged as the unbroken one
would have been. One odd step says nothing: what is wrong must be so in three
quarters of a window before it is said, and in no more than a quarter of one
before it is taken back, so that a value at its bound does not flicker.

Every bound is a pair, (warning, collapse): from the first on it is time to
look, from the second on it is of no use to go on as before. The numbers are
this project's own; what they are to catch is what papers show: the entropy
gone, or exploding under a bonus ("The Entropy Mechanism of Reinforcement
Learning for Reasoning Language Models", https://arxiv.org/abs/2505.22617),
and pass@k below the base policy's while pass@1 is above it ("Assessing
Diversity Collapse in Reasoning", Dang et al., 2025). Metrics that are absent,
null or NaN are passed over.

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
# Shares of a window in which something must be wrong to be said, and at most
# wrong to be taken back.
_SET, _CLEAR = 0.75, 0.25
_PASS = re.compile(r"eval/(.+)/pass@(\d+)$")

Pair = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What is to be said of a run at one step.

  Attributes:
    level: one of LEVELS.
    reason: in words, with the numbers; empty when the level is 'ok'.
  """

  level: str = "ok"
  reason: str = ""

  @property
  def number(self) -> int:
    """0 ok, 1 warning, 2 collapse."""
    return LEVELS.index(self.level)


def start_of(
    history: Sequence[Mapping[str, Any]], count: int = 10) -> dict[str, float]:
  """What a run is held against: medians over the first steps that have them.

  Args:
    history: rows of metrics from the first step on, oldest first.
    count: steps that the median is taken over.
  """
  names = (ENTROPY, SPREAD, CORRECT, LENGTH)
  series = {name: _values(history, name)[:count] for name in names}
  return {
      name: statistics.median(values)
      for name, values in series.items() if values}


def judge(
    history: Sequence[Mapping[str, Any]], *,
    start: Mapping[str, float] | None = None,
    evals: Sequence[Mapping[str, Any]] = (), window: int = 20,
    entropy_share: Pair = (0.3, 0.1), entropy_floor: Pair = (0.02, 0.005),
    entropy_growth: Pair = (3.0, 6.0), entropy_high: Pair = (1.0, 2.0),
    zero_spread: Pair = (0.9, 0.98), spread_share: float = 0.25,
    solved: float = 0.9, length_share: Pair = (0.3, 0.1),
    clipped: Pair = (0.7, 0.95), pass_drop: Pair = (0.05, 0.15),
    patience: int = 2,
) -> Verdict:
  """Judges a run by its last rows.

  Args:
    history: rows of metrics, oldest first; twice the window is enough, more
      remembers longer what was said.
    start: `start_of` the whole run; needed once `history` no longer reaches
      back to the first step.
    evals: rows of evaluations, oldest first, the base policy's among them if
      there is one.
    window: steps over which something must be wrong.
    entropy_share: entropy below this share of its start. Half is usual, and
      what is learned is paid for with it; a tenth leaves one way of answering.
    entropy_floor: entropy below this, in nats, wherever it started.
    entropy_growth: entropy above this multiple of its start, and
    entropy_high: above this, in nats: a narrow start may well triple.
    zero_spread: share of groups without any difference in reward. Half of them
      is usual; of 64 groups, the second bound leaves one that teaches.
    spread_share: a warning where rewards within groups spread less than this
      share of what they did at the start.
    solved: where at least this share of responses is right, groups agree since
      there is nothing left to learn, which is no collapse.
    length_share: responses shorter than this share of their start. It is a
      warning at most while as many are right as at the start: learning to be
      brief is no collapse.
    clipped: share of responses that are cut off at the length limit.
    pass_drop: fall of pass@k, at the largest k, while pass@1 rises, from the
      mean of the first `patience` evaluations.
    patience: evaluations over which it must have fallen.

  Returns:
    The worst that was found; the reason names everything at that level.

  Raises:
    ValueError: a window is below 1, or a collapse comes before its warning.
  """
  for name, value in (("window", window), ("patience", patience)):
    if value < 1:
      raise ValueError(f"{name} must be at least 1, got {value}")
  start = start_of(history) if start is None else start
  found = [
      _low_entropy(history, start, window, entropy_share, entropy_floor),
      _high_entropy(history, start, window, entropy_growth, entropy_high),
      _equal_rewards(history, window, zero_spread, solved),
      _small_spread(history, start, window, spread_share, solved),
      _short(history, start, window, length_share),
      _cut_off(history, window, clipped),
      *_narrowing(evals, pass_drop, patience),
  ]
  worst = max(level for level, _ in found)
  if not worst:
    return Verdict()
  reasons = [reason for level, reason in found if level == worst]
  return Verdict(LEVELS[worst], "; ".join(reasons))


def _low_entropy(history, start, window, share, floor) -> tuple[int, str]:
  """Hardly any entropy is left."""
  first = _number(start.get(ENTROPY)) or 0.0
  bounds = [max(s * first, f) for s, f in zip(share, floor)]
  level, now = _level(history, ENTROPY, operator.lt, bounds, window)
  of = f", {now / first:.0%} of {first:.3g} at the start" if first else ""
  return level, f"entropy is down to {now:.3g} nats{of}"


def _high_entropy(history, start, window, growth, high) -> tuple[int, str]:
  """The policy dissolves into noise."""
  first = _number(start.get(ENTROPY))
  if first is None:
    return 0, ""
  bounds = [max(g * first, h) for g, h in zip(growth, high)]
  level, now = _level(history, ENTROPY, operator.gt, bounds, window)
  return level, (
      f"entropy has grown to {now:.3g} nats from {first:.3g} at the start")


def _equal_rewards(history, window, bounds, solved) -> tuple[int, str]:
  """Hardly any group teaches."""
  level, now = _level(history, ZERO_SPREAD, operator.gt, bounds, window)
  text = f"{now:.0%} of the groups have no spread in reward"
  right = _now(history, CORRECT, window)
  if right is None:
    return level, text
  if right >= solved:
    level = min(level, 1)
  return level, f"{text}, with {right:.0%} of the responses right"


def _small_spread(history, start, window, share, solved) -> tuple[int, str]:
  """Rewards within groups differ less and less."""
  first = _number(start.get(SPREAD))
  right = _now(history, CORRECT, window)
  if first is None or (right is not None and right >= solved):
    return 0, ""
  level, now = _level(history, SPREAD, operator.lt, [share * first], window)
  return level, (
      f"rewards within groups spread by {now:.3g}, {first:.3g} at the start")


def _short(history, start, window, share) -> tuple[int, str]:
  """Responses have shrunk to nothing."""
  first = _number(start.get(LENGTH))
  if first is None:
    return 0, ""
  bounds = [s * first for s in share]
  level, now = _level(history, LENGTH, operator.lt, bounds, window)
  before, right = _number(start.get(CORRECT)), _now(history, CORRECT, window)
  if None not in (before, right) and right >= before:
    level = min(level, 1)
  return level, (
      f"responses have shrunk to {now:.4g} tokens, from {first:.4g} at the "
      "start")


def _cut_off(history, window, bounds) -> tuple[int, str]:
  """Responses do not end any more."""
  level, now = _level(history, CLIPPED, operator.gt, bounds, window)
  return level, f"{now:.0%} of the responses are cut off at the length limit"


def _narrowing(evals, drop, patience) -> list[tuple[int, str]]:
  """For each evaluation set: pass@k falls while pass@1 rises."""
  _check_order(operator.gt, drop, "pass_drop")
  # Sets may be evaluated at different steps: the last row need not have all.
  highest: dict[str, int] = {}
  for row in evals:
    here: dict[str, int] = {}
    for match in filter(None, map(_PASS.match, row)):
      here[match[1]] = max(here.get(match[1], 0), int(match[2]))
    highest |= here
  return [
      _narrowing_on(evals, name, k, drop, patience)
      for name, k in highest.items() if k > 1]


def _narrowing_on(evals, name, k, drop, patience) -> tuple[int, str]:
  """The same for one set and one k."""
  pairs = [
      (_number(row.get(f"eval/{name}/pass@1")),
       _number(row.get(f"eval/{name}/pass@{k}"))) for row in evals]
  pairs = [pair for pair in pairs if None not in pair]
  if not pairs:
    return 0, ""
  first_1, first_k = _means(pairs[:patience])
  level = 0
  for number, bound in enumerate(drop, 1):
    flags = [
        at_1 > first_1 and at_k < first_k - bound
        for at_1, at_k in pairs[patience:]]
    level = number if _persists(flags, patience) else level
  last_1, last_k = _means(pairs[-patience:])
  return level, (
      f"pass@{k} on {name} fell from {first_k:.3f} to {last_k:.3f} while "
      f"pass@1 went from {first_1:.3f} to {last_1:.3f}")


def _level(
    history, name: str, beyond: Callable[[float, float], bool],
    bounds: Sequence[float], window: int) -> tuple[int, float]:
  """The highest level that a metric is at, and its median over the window."""
  _check_order(beyond, bounds, name)
  values = _values(history, name)
  level = 0
  for number, bound in enumerate(bounds, 1):
    if _persists((beyond(value, bound) for value in values), window):
      level = number
  return level, statistics.median(values[-window:] or [math.nan])


def _check_order(beyond, bounds, name) -> None:
  """A collapse lies beyond its warning."""
  if beyond(bounds[0], bounds[-1]):
    raise ValueError(
        f"bounds of {name} are (warning, collapse), but the warning "
        f"{bounds[0]:.4g} lies beyond the collapse {bounds[-1]:.4g}")


def _persists(flags: Iterable[bool], window: int) -> bool:
  """Whether something set in and has not gone again since."""
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
  """Median of a metric over the window, or None."""
  values = _values(history, name)[-window:]
  return statistics.median(values) if values else None


def _means(pairs) -> tuple[float, float]:
  """Of the first and of the second numbers."""
  ones, others = zip(*pairs)
  return statistics.fmean(ones), statistics.fmean(others)


def _values(history, name: str) -> list[float]:
  """A metric's finite values, oldest first."""
  values = [_number(row.get(name)) for row in history]
  return [value for value in values if value is not None]


def _number(value) -> float | None:
  """A finite float, or None for what is absent, a word or not finite."""
  if value is None or isinstance(value, str):
    return None
  value = float(value)
  return value if math.isfinite(value) else None
