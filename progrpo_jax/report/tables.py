"""What a comparison found, as tables for a terminal or a page."""

from typing import NamedTuple

from progrpo_jax.report import comparison

_NONE = ("–", "")
_NOTHING = (_NONE,)


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


def _signed(values):
  """A difference with its interval as a cell."""
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
  ks = _ks_of(entry["bound"] for entry in summary.values())
  rows = [
    (
      (label, ""),
      *(
        cell
        for k in ks
        for cell in (
          (_measured(entry["pass@k"][k]), (f"{entry['bound'][k]:.3f}", ""))
          if k in entry["bound"]
          else _NOTHING * 2
        )
      ),
    )
    for label, entry in summary.items()
    if entry["bound"]
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
    "On the same problems, with a 95% interval of a bootstrap that draws both "
    "runs' problems together.",
    ("method", *(f"pass@{k}" for k in ks)),
    rows,
  )


def _regime_table(summary):
  rows = [
    (
      (label, name),
      (r["regime"], f"k = {r['k']}, {r['problems']} problems"),
      (f"{r['base']:.3f}", ""),
      (f"{r['middle']:.3f}", f"step {r['steps'][0]}"),
      (f"{r['final']:.3f}", f"step {r['steps'][1]}"),
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
    "interval of final - base is not above 0; else Plateau where that of "
    "final - middle is not, and Sustained where it is. A wide interval makes "
    "a label as well as no change does.",
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
