"""The results of a comparison as tables, for a terminal or a page."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from progrpo_jax.evaluators import boundary
from progrpo_jax.report import comparison, readings

# Text of a cell, and its small print.
Cell = tuple[str, str]

_NONE = ("–", "")
_NOT_ENOUGH = boundary.NOT_ENOUGH.lower()


class Table(NamedTuple):
  """A table for a terminal or a page.

  Attributes:
    name: short name, for anchors and tests.
    title: heading.
    note: sentence on how to read the table.
    columns: names of the columns, the first one of the row names.
    rows: cells of each row; the first cell names the row.
  """

  name: str
  title: str
  note: str
  columns: tuple[str, ...]
  rows: list[tuple[Cell, ...]]


def of(summary: Mapping[str, Mapping[str, Any]]) -> list[Table]:
  """Returns the tables of a comparison that have rows.

  Args:
    summary: result of `comparison.analyse`.
  """
  tables = (
    _bound_table(summary),
    _difference_table(summary),
    _regime_table(summary),
    _histogram_table(summary),
    _tolerant_table(summary),
  )
  return [table for table in tables if table.rows]


def problems_note(summary: Mapping[str, Mapping[str, Any]]) -> str:
  """Says how many problems there are, and in what evaluations differ.

  Args:
    summary: result of `comparison.summarise`.
  """
  # One number for all labels where they agree, else a number per label.
  tried = {
    label: max(entry["num_problems"].values())
    for label, entry in summary.items()
    if entry["num_problems"]
  }
  notes = []
  if len(set(tried.values())) == 1:
    notes.append(f"{next(iter(tried.values()))} problems")
  elif tried:
    notes.append(", ".join(f"{k}: {n} problems" for k, n in tried.items()))
  left_out = {k: e["left_out"] for k, e in summary.items() if e["left_out"]}
  if len(left_out) == len(summary) and len(set(left_out.values())) == 1:
    notes.append(left_out_note(next(iter(left_out.values()))))
  else:
    notes += [f"{k}: {left_out_note(n)}" for k, n in left_out.items()]
  notes += comparison.unlike(summary)
  return "; ".join(notes)


def left_out_note(count: float) -> str:
  """Says how many held-out problems were not tried, and why."""
  return (
    f"{count:.0f} more were left out, with prompts longer than "
    "data.max_prompt_length"
  )


def pass_cell(entry: Mapping[str, Any], k: str) -> Cell:
  """Returns pass@k of an entry as a cell: mean and interval, or bounds.

  Args:
    entry: entry of `comparison.summarise`.
    k: the k, as a string.
  """
  if k in entry["pass@k"]:
    text, small = _measured(entry["pass@k"][k])
  elif k in entry["between"]:
    least, most = entry["between"][k]
    text, small = f"{least:.3f} to {most:.3f}", _NOT_ENOUGH
  else:
    return _NONE
  # The number of problems is shown where it is smaller than at other k.
  numbers = entry["num_problems"]
  if k in numbers and numbers[k] < max(numbers.values()):
    small += f", {numbers[k]} problems"
  return text, small


def _share(value: float | None) -> Cell:
  """Returns a mean as a cell."""
  return _NONE if value is None else (f"{value:.3f}", "")


def _signed(values: Sequence[float] | None) -> Cell:
  """Returns a difference with its interval as a cell."""
  if values is None:
    return _NONE
  mean, low, high = values
  return f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}"


def _measured(values: Sequence[float]) -> Cell:
  """Returns a mean with its interval as a cell."""
  mean, low, high = values
  return f"{mean:.3f}", f"{low:.3f} to {high:.3f}"


def _ks_of(by_k: Sequence[Mapping[str, Any]], limit: int = 3) -> list[str]:
  """Up to three k >= 2 of some {"k": value}, the largest included."""
  every = sorted({int(k) for values in by_k for k in values if int(k) >= 2})
  return [str(k) for k in readings.pick_ks(every)][-limit:]


def _bound_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
  ks = _ks_of(
    [
      *(e["bound"] for e in summary.values()),
      *(e["between"] for e in summary.values()),
    ]
  )
  # Two columns per k: the measured pass@k and its bound.
  rows = [
    (
      (label, ""),
      *(cell for k in ks for cell in (pass_cell(entry, k), _bound(entry, k))),
    )
    for label, entry in summary.items()
    if entry["bound"] or entry["between"]
  ]
  return Table(
    "bound",
    "pass@k and its bound",
    "Upper bound on pass@k, given the mean and variance of pass@1 (Dang et al.;"
    " variance without sampling noise; for k >= 2, equal to pass@k at k = 2). "
    "Both are estimates: by chance pass@k may lie above its bound.",
    ("method", *(name for k in ks for name in (f"pass@{k}", f"bound@{k}"))),
    rows,
  )


def _bound(entry: Mapping[str, Any], k: str) -> Cell:
  """Returns the bound on pass@k as a cell."""
  if k in entry["bound"]:
    return f"{entry['bound'][k]:.3f}", ""
  return (_NOT_ENOUGH, "") if "2" in entry["between"] else _NONE


def _difference_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
  differences = {
    label: entry["difference"]
    for label, entry in summary.items()
    if entry["difference"]
  }
  every = sorted({int(k) for d in differences.values() for k in d["pass@k"]})
  ks = [str(k) for k in readings.pick_ks(every)]
  rows = [
    (
      (label, f"{d['problems']} problems"),
      *(_signed(d["pass@k"][k]) if k in d["pass@k"] else _NONE for k in ks),
    )
    for label, d in differences.items()
  ]
  # Every label is compared with the same one.
  against = next(iter(differences.values()), {"against": ""})["against"]
  return Table(
    "difference",
    f"pass@k less that of {against}",
    "Mean difference over the same problems, with its 95% interval. An "
    "interval that contains 0 shows no difference.",
    ("method", *(f"pass@{k}" for k in ks)),
    rows,
  )


def _regime_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
  # One row per label and evaluation set.
  rows = [
    (
      (label, name),
      (r["regime"], f"k = {r['k']}, {r['problems']} problems"),
      _share(r["base"]),
      (_share(r["middle"])[0], f"step {r['steps'][0]}"),
      (_share(r["final"])[0], f"step {r['steps'][1]}"),
      _signed(r["gain"]),
      _signed(r["late"]),
      _signed(r["gain@1"]),
    )
    for label, entry in summary.items()
    for name, r in entry["regimes"].items()
  ]
  return Table(
    "regimes",
    "Regimes",
    "pass@k at the largest k up to half of the samples. Diminish: the interval "
    "of final - base lies below 0. No change shown: it contains 0, as it "
    "usually does with few problems. Sustained: it lies above 0, and so does "
    "the interval of final - middle. Plateau: only the first of the two does.",
    (
      "method",
      "regime",
      "base",
      "middle",
      "final",
      "final - base",
      "final - middle",
      "pass@1, final - base",
    ),
    rows,
  )


def _histogram_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
  bins = comparison.BINS
  rows = [
    ((label, ""), *((str(count), "") for count in entry["histogram"]))
    for label, entry in summary.items()
    if entry["histogram"]
  ]
  return Table(
    "histogram",
    "Problems by pass@1",
    "Number of problems by the share of their samples that is correct; a bin "
    "includes its lower end, the last bin also 1.",
    ("method", *(f"{i / bins:.1f}-{(i + 1) / bins:.1f}" for i in range(bins))),
    rows,
  )


def _tolerant_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
  # Only labels with both verdicts, so that every row is a comparison.
  rows = [
    (
      (label, ""),
      _measured(entry["pass@k"]["1"]),
      _measured(entry["tolerant"]["1"]),
    )
    for label, entry in summary.items()
    if "1" in entry["tolerant"] and "1" in entry["pass@k"]
  ]
  return Table(
    "tolerant",
    "Format",
    "pass@1 by the strict verdict, and by a tolerant one that accepts correct "
    "answers in another format. The difference is due to format alone.",
    ("method", "strict", "tolerant"),
    rows,
  )
