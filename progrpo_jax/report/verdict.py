"""The verdict of a comparison: paired differences of pass@k in words.

A method "lost" or "gained" only where the interval of the difference lies on
one side of 0; elsewhere the words are "is not certain". Intervals are over
problems, so the verdict also says how many seeds and problems it rests on.
"""

from collections.abc import Mapping
import math
from typing import Any, NamedTuple

from progrpo_jax.report import comparison, readings

# Up to this many methods the headline has the words on each of them.
_MAX_HEADLINE = 3
_MINUS = "\u2212"
# By what a change is counted from: its name in a sentence.
_START = {
  readings.BASE: "the base policy",
  comparison.START: "each run's own evaluation at step 0",
}


class Verdict(NamedTuple):
  """What a comparison shows, in words.

  Attributes:
    headline: sentence on pass@k at the k the methods are judged by.
    more: in what the evaluations differ besides the method; then sentences on
      each method, at this k and at k = 1.
    limits: sentences on what the numbers are and what they do not say.
  """

  headline: str
  more: list[str]
  limits: str


def of(summary: Mapping[str, Mapping[str, Any]]) -> Verdict:
  """Returns the verdict of a comparison.

  Args:
    summary: result of `comparison.analyse`.
  """
  changes = {
    label: entry["change"]
    for label, entry in summary.items()
    if entry["change"]
  }
  beside = {
    label: entry["from_first"]
    for label, entry in summary.items()
    if entry["from_first"]
  }
  if not changes and not beside:
    return Verdict(
      "No verdict: no two evaluations of the same problems were written with "
      "their samples.",
      [],
      "",
    )
  at_k = [_change(label, d, d["k"]) for label, d in changes.items() if d["k"]]
  at_1 = [_change(label, d, 1) for label, d in changes.items()]
  between = [
    _beside(label, d, k) for label, d in beside.items() for k in _judged(d)
  ]
  # The strongest statement first: what was lost or gained at large k.
  sentences = [part for part in (at_k, at_1, between) if part]
  headline, rest = sentences[0], sum(sentences[1:], [])
  if len(headline) > _MAX_HEADLINE:
    differences = changes or beside
    headline, rest = [_count(differences, not changes)], headline + rest
  seeds = _seeds(summary)
  return Verdict(
    f"{'; '.join(headline)}; {seeds}.",
    [
      *(f"Take care: {what}." for what in comparison.unlike(summary)),
      *(f"{sentence}." for sentence in rest),
    ],
    _limits(changes, beside, summary),
  )


def of_method(label: str, entry: Mapping[str, Any]) -> str:
  """Returns the sentences on one method as one text, "" if there are none.

  Args:
    label: label of the method.
    entry: its entry of `comparison.analyse`.
  """
  change, beside = entry["change"], entry["from_first"]
  parts = [_change(label, change, k) for k in _judged(change)]
  parts += [_beside(label, beside, k) for k in _judged(beside)]
  return "; ".join(parts)


def _judged(difference: Mapping[str, Any] | None) -> list[int]:
  """Returns the k with a sentence: the one to judge by, and 1."""
  if not difference:
    return []
  return [k for k in (difference["k"], 1) if k]


def _change(label: str, difference: Mapping[str, Any], k: int) -> str:
  """Says what training did to pass@k."""
  mean, low, high = difference["pass@k"][str(k)]
  where = _interval(difference, k)
  if not mean:
    return f"{label} shows no change in pass@{k} {where}"
  if is_certain(low, high):
    word = "lost" if mean < 0 else "gained"
    return f"{label} {word} {_points(mean)} of pass@{k} {where}"
  word = "loss" if mean < 0 else "gain"
  return (
    f"{label}'s {word} of {_points(mean)} of pass@{k} is not certain {where}"
  )


def _beside(label: str, difference: Mapping[str, Any], k: int) -> str:
  """Says how a method ends beside the first one."""
  mean, low, high = difference["pass@k"][str(k)]
  where, first = _interval(difference, k), difference["against"]
  if not mean:
    return f"{label} and {first} end equal in pass@{k} {where}"
  side = f"{_points(mean)} {'below' if mean < 0 else 'above'} {first}"
  if is_certain(low, high):
    return f"{label} ends {side} in pass@{k} {where}"
  return f"that {label} ends {side} in pass@{k} is not certain {where}"


def is_certain(low: float, high: float) -> bool:
  """Returns whether an interval of a difference lies on one side of 0."""
  return low > 0 or high < 0


def _count(
  differences: Mapping[str, Mapping[str, Any]], is_beside: bool
) -> str:
  """Counts the methods that lost and gained, where there are many."""
  signs = []
  for difference in differences.values():
    mean, low, high = difference["pass@k"][str(_judged(difference)[0])]
    signs.append(math.copysign(1, mean) if is_certain(low, high) else 0)
  k = max(_judged(difference)[0] for difference in differences.values())
  down, up = ("end lower", "end higher") if is_beside else ("lost", "gained")
  return (
    f"of {len(signs)} methods {signs.count(-1)} {down} and {signs.count(1)} "
    f"{up} in pass@{k}; for {signs.count(0)} the sign is not certain"
  )


def _interval(difference: Mapping[str, Any], k: int) -> str:
  """Returns the interval in points and in how many seeds the sign holds."""
  mean, low, high = difference["pass@k"][str(k)]
  seeds = difference["seeds"][str(k)]
  text = f"{_signed(low)} to {_signed(high)}"
  if len(seeds) > 1 and mean:
    same = sum(seed * mean > 0 for seed in seeds)
    text += f"; {same} of {len(seeds)} seeds"
  return f"({text})"


def _points(value: float) -> str:
  """Returns the size of a difference in percentage points: "9 points"."""
  number = _number(value)
  return f"{number} point{'' if number == '1' else 's'}"


def _signed(value: float) -> str:
  """Returns one end of an interval in percentage points, with its sign."""
  sign = "" if not value else "+" if value > 0 else _MINUS
  return sign + _number(value)


def _number(value: float) -> str:
  """Returns the size of a share in percent; below 1 with one digit more.

  A difference that is not 0 must not be shown as 0.
  """
  size = abs(100 * value)
  if size >= 0.95 or not size:
    return f"{size:.0f}"
  digits = min(1 - math.floor(math.log10(size)) - 1, 6)
  return f"{size:.{digits}f}"


def _seeds(summary: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the numbers of seeds in words."""
  numbers = {
    label: entry["seeds"]
    for label, entry in summary.items()
    if entry["change"] or entry["from_first"]
  }
  if len(set(numbers.values())) > 1:
    return "seeds: " + ", ".join(f"{k} {n}" for k, n in numbers.items())
  number = next(iter(numbers.values()))
  return "one seed" if number == 1 else f"{number} seeds of each method"


def _limits(
  changes: Mapping[str, Mapping[str, Any]],
  beside: Mapping[str, Mapping[str, Any]],
  summary: Mapping[str, Mapping[str, Any]],
) -> str:
  """Says what the numbers are and what they do not say."""
  differences = [*changes.values(), *beside.values()]
  problems = sorted({difference["problems"] for difference in differences})
  count = " to ".join(
    str(n) for n in dict.fromkeys((problems[0], problems[-1]))
  )
  sets = {entry["set"] for entry in summary.values()}
  # All changes are from the base policy, or all from the evaluation at step 0.
  since = next(iter(changes.values()), {}).get("against")
  change = f", counted from {_START[since]}" if since else ""
  text = (
    f"Percentage points of pass@k on {' and '.join(map(str, sets))}{change}, "
    f"paired over the same {count} problems. A 95% interval says how far other "
    "problems of the kind would move the number, and about one in twenty "
    "misses; a sign is not certain where its interval contains 0. "
  )
  if all(entry["seeds"] == 1 for entry in summary.values()):
    return text + (
      "With one seed of each method nothing is known about other seeds, which "
      "may differ by more."
    )
  return text + (
    "Numbers are means over the seeds that were run. The intervals do not "
    "cover what other seeds would do; beside them stands in how many seeds the "
    "sign is the same."
  )
