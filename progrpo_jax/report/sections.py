"""Sections of the report and comparison pages, as HTML.

Each function takes loaded runs and returns the HTML of one section, "" where
the runs hold nothing for it.
"""

from collections.abc import Mapping, Sequence
import itertools
import json
import os
import re
from typing import Any
import urllib.parse

from etils import epath

from progrpo_jax import places
from progrpo_jax.report import (
  comparison,
  curves,
  drawing,
  markup,
  readings,
  tables,
  verdict,
)
from progrpo_jax.report import svg as svg_lib
from progrpo_jax.storage import metrics

# By the number logged as `collapse/level`: word, colour of the shaded steps.
LEVELS = (
  ("ok", None),
  ("warning", drawing.PALETTE[4]),
  ("collapse", drawing.PALETTE[1]),
)
_MAX_ROWS = 40
_MAX_ALARMS = 5
_MAX_SENTENCES = 8
_NONE = "–"

# Suffixes of a measure's own details (interval, problems, bounds), which share
# its cell and get no column.
_DETAILS = ("/low", "/high", "/num_problems", "/at_least", "/at_most")


def stretches(run: metrics.Record) -> list[tuple[int, int, int, str]]:
  """Returns [(level, first step, last step, reason)] of the judged steps.

  Consecutive steps of one level form a stretch; its reason is the last one
  logged in it.
  """
  judged = [
    row
    for row in run.metrics
    if isinstance(row.get("collapse/level"), int | float)
  ]
  result = []
  for level, rows in itertools.groupby(judged, key=_level):
    rows = list(rows)
    reasons = [row.get("collapse/reason") for row in rows]
    last = next((reason for reason in reversed(reasons) if reason), "")
    result.append((level, rows[0]["step"], rows[-1]["step"], last))
  return result


def _level(row: Mapping[str, Any]) -> int:
  return min(max(round(row["collapse/level"]), 0), len(LEVELS) - 1)


def banner(judged: Sequence[tuple[int, int, int, str]]) -> str:
  """Returns a box with the warnings and collapses of a run, latest first.

  Args:
    judged: result of `stretches`.
  """
  alarms = [stretch for stretch in reversed(judged) if stretch[0]]
  if not alarms:
    return ""
  # A run that recovered keeps the colour of its worst level.
  end, first, last, _ = judged[-1]
  word, color = LEVELS[end or max(level for level, *_ in alarms)]
  title = (
    f"{word.capitalize()} at the last step, {last}, since step {first}"
    if end
    else f"Flagged on the way, but not at the last step, {last}"
  )
  items = "".join(
    f"<li><b>{LEVELS[level][0]}</b>, {_from_to(first, last)}"
    f"{': ' if reason else ''}{markup.text(reason)}</li>"
    for level, first, last, reason in alarms[:_MAX_ALARMS]
  )
  rest = len(alarms) - _MAX_ALARMS
  more = f"<li>and {rest} earlier</li>" if rest > 0 else ""
  style = (
    f"border: 1px solid {svg_lib.css(color)}; border-left-width: .5rem; "
    "border-radius: 10px; background: var(--card); padding: .7rem 1rem; "
    "margin: 1rem 0 0"
  )
  return (
    f'<div class="alarm" role="note" style="{style}"><b>{title}</b>'
    f'<ul style="margin: .3rem 0 0; padding-left: 1.2rem">{items}{more}</ul>'
    '<p class="note" style="margin: .3rem 0 0">These steps are shaded in the '
    "figures.</p></div>"
  )


def damage_lines(runs: Sequence[metrics.Record]) -> list[str]:
  """Returns a line for each part of the runs' files that was unreadable."""
  return [line for run in runs for line in run.damage or ()]


def damage(runs: Sequence[metrics.Record]) -> str:
  """Returns a box that lists unreadable parts of the runs' files."""
  lines = damage_lines(runs)
  if not lines:
    return ""
  items = "".join(
    f"<li>{markup.text(line)}</li>" for line in lines[:_MAX_ALARMS]
  )
  rest = len(lines) - _MAX_ALARMS
  more = f"<li>and {rest} more</li>" if rest > 0 else ""
  return (
    '<div class="alarm" role="note"><b>Files are damaged; what could not be '
    f"read is left out</b><ul>{items}{more}</ul></div>"
  )


def _from_to(first: int, last: int) -> str:
  return f"step {first}" if first == last else f"steps {first} to {last}"


def resets(run: metrics.Record) -> str:
  """Returns a table of the reference resets, with the reason of each."""
  # Later rows of a step replace earlier ones.
  rows = {row["step"]: row for row in run.metrics}
  steps = curves.reset_steps(run)
  if not steps:
    return ""
  before = dict(zip(steps, [0, *steps], strict=False))
  shown = [steps[i] for i in readings.evenly_spaced(len(steps), _MAX_ROWS)]
  # Columns without a value in any shown row are left out.
  columns = (
    ("kl", "KL before", 4),
    ("kl_share", "its part in the gradient", 3),
    ("entropy", "entropy", 3),
    ("reward", "reward", 3),
  )
  columns = [c for c in columns if any(c[0] in rows[s] for s in shown)]
  has_reasons = any(rows[step].get("ref_reset/reason") for step in shown)
  names = ["", "after steps", *(label for _, label, _ in columns)]
  names += ["because"] * has_reasons
  body = []
  for step in shown:
    row = rows[step]
    cells = [f"step {step}", str(step - before[step])]
    cells += [_number(row.get(name), digits) for name, _, digits in columns]
    cells += [str(row.get("ref_reset/reason", ""))] * has_reasons
    body.append(cells)
  left_out = len(steps) - len(shown)
  note = f" {left_out} resets between them left out." if left_out else ""
  return (
    '<p class="note">Steps after which the reference was set to the policy; '
    f"the numbers are of that step, before the reset.{note}</p>"
    f"{markup.table(names, body)}"
  )


def _number(value: Any, digits: int) -> str:
  return f"{value:.{digits}f}" if isinstance(value, int | float) else _NONE


def evaluations(run: metrics.Record) -> str:
  """Returns a table for each evaluation set, one row per evaluation."""
  return "".join(_evaluation_table(run, name) for name in readings.sets(run))


def _evaluation_table(run: metrics.Record, dataset: str) -> str:
  prefix = f"eval/{dataset}/"
  rows = [r for r in run.evals if any(key.startswith(prefix) for key in r)]
  # The first and last evaluation stay; those between are thinned out evenly.
  chosen = [rows[i] for i in readings.evenly_spaced(len(rows), _MAX_ROWS)]
  columns = [f"pass@{k}" for k in readings.ks(run, dataset)]
  columns += _other_measures(rows, prefix)
  body = [
    [
      f"step {row['step']}",
      *(_evaluation_cell(row, prefix + name) for name in columns),
    ]
    for row in chosen
  ]
  last = rows[-1]
  size = (
    f"{last[f'{prefix}num_problems']:.0f} problems, "
    f"{last[f'{prefix}num_samples']:.0f} samples each. "
    if last.get(f"{prefix}num_problems") and last.get(f"{prefix}num_samples")
    else ""
  )
  if last.get(f"{prefix}left_out"):
    size += f"{tables.left_out_note(last[f'{prefix}left_out'])}. ".capitalize()
  left_out = len(rows) - len(chosen)
  note = f"{left_out} evaluations between them left out." if left_out else ""
  names = ["", *(name.replace("_", " ") for name in columns)]
  return (
    f'<h3>{markup.text(dataset)}</h3><p class="note">{size}{note}</p>'
    f"{markup.table(names, body)}"
  )


def _other_measures(
  rows: Sequence[Mapping[str, Any]], prefix: str
) -> list[str]:
  """Names of the set's measures other than pass@k, in the files' order."""
  keys = dict.fromkeys(key for row in rows for key in row)
  names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
  return [
    name
    for name in names
    if not name.startswith(("pass@", "num_", "left_out"))
    and not name.endswith(_DETAILS)
  ]


def _evaluation_cell(row: Mapping[str, Any], name: str) -> str | markup.Cell:
  """Returns a measure with its interval, or the bounds in its place."""
  value = row.get(name)
  least, most = row.get(f"{name}/at_least"), row.get(f"{name}/at_most")
  if None not in (least, most):
    problems = f"{row[f'{name}/num_problems']:.0f} problems"
    return markup.Cell(
      f"{least:.3f} to {most:.3f}", f"not enough samples: {problems}"
    )
  if value is None:
    return _NONE
  if isinstance(value, str):
    return value
  low, high = row.get(f"{name}/low"), row.get(f"{name}/high")
  small = "" if None in (low, high) else f"{low:.3f} to {high:.3f}"
  # Shares and entropies need three digits, lengths and ratings do not.
  digits = 3 if abs(value) < 10 else 1
  problems = row.get(f"{name}/num_problems")
  if problems is not None and problems != row.get(_tried_key(name)):
    small += f", {problems:.0f} problems"
  return markup.Cell(f"{value:.{digits}f}", small)


def _tried_key(name: str) -> str:
  """Key of the number of problems tried, from the key of a pass@k."""
  return f"{name.partition('/pass@')[0]}/num_problems"


def comparison_tables(
  groups: readings.RunsByLabel, base: metrics.Record | None, dataset: str | None
) -> str:
  """Returns a table for each evaluation set, `dataset` or the first on top."""
  names = [dataset] if dataset else []
  for run in [run for runs in groups.values() for run in runs]:
    names += readings.sets(run)
  names = list(dict.fromkeys(names)) or [None]
  return "".join(
    _comparison_table(groups, base, name, len(names) > 1) for name in names
  )


def _comparison_table(
  groups: readings.RunsByLabel,
  base: metrics.Record | None,
  dataset: str | None,
  has_heading: bool,
) -> str:
  summary = comparison.summarise(groups, base=base, dataset=dataset)
  runs = [run for runs in groups.values() for run in runs]
  ks = [str(k) for k in readings.shown_ks(runs, dataset)]
  # (key of the entry, name of the column, digits), where any entry has it.
  columns = (
    ("entropy", "entropy", 3),
    ("distinct_correct", "distinct correct", 2),
    ("mean_length", "length", 0),
    ("reward", "final reward", 3),
    ("seconds_per_step", "s/step", 2),
  )
  columns = [
    column
    for column in columns
    if any(entry[column[0]] is not None for entry in summary.values())
  ]
  names = ["method", *(f"pass@{k}" for k in ks)]
  names += [label for _, label, _ in columns]
  best = {k: _clearly_best(summary, k) for k in ks}
  # The base policy is in no group: it has the colour of the figures' base.
  colors = dict(zip(groups, range(len(groups)), strict=True))
  rows = []
  for label, entry in summary.items():
    seeds = f"{entry['seeds']} seeds" if entry["seeds"] > 1 else ""
    name = markup.Cell(label, seeds, color=_color(colors.get(label)))
    cells = [
      markup.Cell(*tables.pass_cell(entry, k), best[k] == label) for k in ks
    ]
    cells += [_number(entry[key], digits) for key, _, digits in columns]
    rows.append([name, *cells])
  heading = f"<h3>{markup.text(dataset)}</h3>" if has_heading else ""
  note = _comparison_note(summary, dataset)
  return f'{heading}<p class="note">{note}</p>{markup.table(names, rows)}'


def _comparison_note(
  summary: Mapping[str, Mapping[str, Any]], dataset: str | None
) -> str:
  """Says which evaluation a table shows and what its intervals are."""
  kinds = "; ".join(
    f"{label}: {entry['interval']}"
    for label, entry in summary.items()
    if entry["interval"]
  )
  where = f"Last evaluation on {markup.text(dataset)}. " if dataset else ""
  if problems := tables.problems_note(summary):
    where += f"{markup.text(problems)}. "
  return (
    f"{where}The small numbers are 95% intervals "
    f"({markup.text(kinds) or 'none measured'}); a mean is bold where its "
    "interval lies above all others."
  )


def _clearly_best(
  summary: Mapping[str, Mapping[str, Any]], k: str
) -> str | None:
  """Label whose interval of pass@k lies above all others, or None."""
  measured = {
    label: entry["pass@k"][k]
    for label, entry in summary.items()
    if k in entry["pass@k"]
  }
  for label, (_, low, _) in measured.items():
    others = [high for name, (_, _, high) in measured.items() if name != label]
    if others and low > max(others):
      return label
  return None


def verdict_box(summary: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the verdict of a comparison as the opening of its page.

  Args:
    summary: result of `comparison.analyse`.
  """
  told = verdict.of(summary)
  more = "".join(f"<li>{_unbroken(line)}</li>" for line in told.more)
  more = f"<ul>{more}</ul>" if more else ""
  # With many methods the curves would be far below their sentences.
  if len(told.more) > _MAX_SENTENCES:
    more = f"<details><summary>Each method</summary>{more}</details>"
  limits = told.limits and f'<p class="note">{markup.text(told.limits)}</p>'
  return (
    '<div class="told" role="note" aria-label="Verdict">'
    f'<p class="headline">{_unbroken(told.headline)}</p>{more}{limits}</div>'
  )


def _unbroken(sentence: str) -> str:
  """Returns a sentence as HTML whose intervals stay on one line each."""
  return re.sub(
    r"([+\u2212][\d.]+) to (?=[+\u2212])",
    "\\1\u00a0to\u00a0",
    markup.text(sentence),
  )


def boundary(summary: Mapping[str, Mapping[str, Any]], drawn: str) -> str:
  """Returns bounds, differences, regimes and bins, folded away.

  Args:
    summary: result of `comparison.analyse`.
    drawn: HTML of the figures that belong to them.
  """
  parts = "".join(map(_boundary_table, tables.of(summary)))
  if not parts and not drawn:
    return ""
  return (
    "<details><summary>Bounds on pass@k, paired differences, regimes, problems "
    f"by pass@1</summary>{parts}{drawn}</details>"
  )


def _boundary_table(table: tables.Table) -> str:
  rows = [[markup.Cell(*cell) for cell in cells] for cells in table.rows]
  return (
    f'<h3 id="boundary-{table.name}">{markup.text(table.title)}</h3>'
    f'<p class="note">{markup.text(table.note)}</p>'
    f"{markup.table(table.columns, rows)}"
  )


def _color(index: int | None) -> str:
  """CSS colour of a label, the same as in the figures; None is the base."""
  if index is None:
    return svg_lib.css(drawing.BASE)
  return svg_lib.css(drawing.PALETTE[index % len(drawing.PALETTE)])


def links(groups: readings.RunsByLabel, path: epath.Path) -> str:
  """Returns a table of the runs, linked to their own pages where they exist.

  Args:
    groups: {label: loaded runs}.
    path: where the page with the table is written; links are relative to it.
  """
  rows = []
  for label, runs in groups.items():
    for run in runs:
      page = run.path / "report.html"
      link = ""
      both_local = not places.is_remote(path) and not places.is_remote(page)
      if both_local and page.exists():
        relative = os.path.relpath(page, path.parent)
        link = urllib.parse.quote(relative.replace(os.sep, "/"))
      workdir = markup.Cell(os.fspath(run.path), link=link)
      length = f"{run.metrics[-1]['step']} steps"
      rows.append([label, workdir, length, _state(run)])
  columns = ("method", "workdir", "length", "state")
  return markup.table(columns, rows, words=True)


def _state(run: metrics.Record) -> str:
  """Returns the verdict on a run's last step, in words."""
  judged = stretches(run)
  if not judged:
    return _NONE
  level, first, _, reason = judged[-1]
  if not level:
    return "ok"
  return f"{LEVELS[level][0]} since step {first}: {reason}"


def config(settings: Mapping[str, Any]) -> str:
  """Returns tables of the changed settings and of all settings.

  Args:
    settings: resolved config of a run, with the `defaults` it started from if
      they were written.
  """
  settings = dict(settings)
  defaults = settings.pop("defaults", None)
  defaults = flatten(defaults) if isinstance(defaults, dict) else {}
  flat = flatten(settings)
  if not flat:
    return '<p class="note">The workdir holds no config.json.</p>'
  # Changed settings are on top; all of them are folded away below.
  top = ""
  if defaults:
    rows = [
      [key, json.dumps(value), json.dumps(defaults.get(key))]
      for key, value in flat.items()
      if key not in defaults or defaults[key] != value
    ]
    top = markup.table(("changed", "value", "default"), rows, words=True)
  rows = [[key, json.dumps(value)] for key, value in flat.items()]
  return (
    f"{top}<details><summary>All {len(flat)} settings</summary>"
    f"{markup.table((), rows, words=True)}</details>"
  )


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns {"group.key": value} of a nested config."""
  flat = {}
  for key, value in settings.items():
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = value
  return flat
