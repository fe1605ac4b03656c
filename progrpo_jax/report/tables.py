"""What a comparison found, as tables for a terminal or a page."""

from typing import NamedTuple

from progrpo_jax.evaluators import boundary
from progrpo_jax.report import comparison

_NONE = ("–", "")
_NOT_ENOUGH = boundary.NOT_ENOUGH.lower()


class Table(NamedTuple):
  """A table for a terminal or a page.

  name: what it is, for anchors and tests.
  title: its heading.
  note: how to read it.
  columns: their names; the first is that of the rows.
  rows: cells, each (text, small print); the first names the row.
  """

  name: str
  title: str
  note: str
  columns: tuple
  rows: list


def of(summary):
  """The tables of `comparison.analyse` that have something to show."""
  made = (
    _bound_table(summary),
    _difference_table(summary),
    _regime_table(summary),
    _histogram_table(summary),
    _tolerant_table(summary),
  )
  return [table for table in made if table.rows]


def problems_note(summary):
  """A sentence on the problems that pass@k of a comparison rests on."""
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
  return "; ".join(notes)


def left_out_note(count):
  """Says that held-out problems were not tried."""
  return (
    f"{count:.0f} more were left out, with prompts longer than "
    "data.max_prompt_length"
  )


def pass_cell(entry, k):
  """pass@k of an entry as a cell: a mean with its interval, or bounds."""
  if k in entry["pass@k"]:
    text, small = _measured(entry["pass@k"][k])
  elif k in entry["between"]:
    least, most = entry["between"][k]
    text, small = f"{least:.3f} to {most:.3f}", _NOT_ENOUGH
  else:
    return _NONE
  numbers = entry["num_problems"]
  if k in numbers and numbers[k] < max(numbers.values()):
    small += f", {numbers[k]} problems"
  return text, small


def _share(value):
  """A mean as a cell."""
  return _NONE if value is None else (f"{value:.3f}", "")


def _signed(values):
  """A difference with its interval as a cell."""
  if values is None:
    return _NONE
  mean, low, high = values
  return f"{mean:+.3f}", f"{low:+.3f} to {high:+.3f}"


def _measured(values):
  """A mean with its interval as a cell."""
  mean, low, high = values
  return f"{mean:.3f}", f"{low:.3f} to {high:.3f}"


def _ks_of(found, usual=3):
  """Up to three k >= 2 of what was found, the largest among them."""
  every = sorted({int(k) for entry in found for k in entry if int(k) >= 2})
  return [str(k) for k in comparison.pick_ks(every)][-usual:]


def _bound_table(summary):
  ks = _ks_of([*(e["bound"] for e in summary.values()),
               *(e["between"] for e in summary.values())])
  rows = [
    (
      (label, ""),
      *(
        cell
        for k in ks
        for cell in (pass_cell(entry, k), _bound(entry, k))
      ),
    )
    for label, entry in summary.items()
    if entry["bound"] or entry["between"]
  ]
  return Table(
    "bound",
    "pass@k and its bound",
    "How far sampling can carry a policy of this mean and variance of pass@1 "
    "(Dang et al.; variance without sampling noise; equal at k = 2, for k >= 2 "
    "only). Both are estimates: the measured one may lie above by chance.",
    ("method", *(name for k in ks for name in (f"pass@{k}", f"bound@{k}"))),
    rows,
  )


def _bound(entry, k):
  """The bound on pass@k as a cell."""
  if k in entry["bound"]:
    return f"{entry['bound'][k]:.3f}", ""
  return (_NOT_ENOUGH, "") if "2" in entry["between"] else _NONE


def _difference_table(summary):
  found = {
    label: entry["difference"]
    for label, entry in summary.items()
    if entry["difference"]
  }
  every = sorted({int(k) for d in found.values() for k in d["pass@k"]})
  ks = [str(k) for k in comparison.pick_ks(every)]
  rows = [
    (
      (label, f"{d['problems']} problems"),
      *(_signed(d["pass@k"][k]) if k in d["pass@k"] else _NONE for k in ks),
    )
    for label, d in found.items()
  ]
  against = next(iter(found.values()))["against"] if found else ""
  return Table(
    "difference",
    f"pass@k less that of {against}",
    "On the same problems, with a 95% interval of what differs on each. One "
    "that holds 0 shows no difference.",
    ("method", *(f"pass@{k}" for k in ks)),
    rows,
  )


def _regime_table(summary):
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
    "pass@k at the largest k of at most half of the samples. Diminish: the "
    "interval of final - base lies below 0. No change shown: it holds 0, as "
    "that of few problems does whatever happened. Where it lies above 0, "
    "Sustained if that of final - middle does too, else Plateau.",
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


def _histogram_table(summary):
  bins = comparison.BINS
  rows = [
    ((label, ""), *((str(count), "") for count in entry["histogram"]))
    for label, entry in summary.items()
    if entry["histogram"]
  ]
  return Table(
    "histogram",
    "Problems by pass@1",
    "How many problems are solved in each share of the samples; a bin holds "
    "its lower end, the last one also 1.",
    ("method", *(f"{i / bins:.1f}-{(i + 1) / bins:.1f}" for i in range(bins))),
    rows,
  )


def _tolerant_table(summary):
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
    "pass@1 as the verifier gives it, and of the same samples where an answer "
    "in another format counts too. What the two differ by is format.",
    ("method", "strict", "tolerant"),
    rows,
  )
