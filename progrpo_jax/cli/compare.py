"""`progrpo compare`: several runs side by side, as tables, page and JSON."""

import json
import os

from etils import epath
import rich.box
import rich.console
import rich.table
import rich.text

from progrpo_jax import errors, places, ranges
from progrpo_jax.cli import arguments
from progrpo_jax.report import comparison, html, live, tables, verdict
from progrpo_jax.storage import metrics


def run(argv):
  """Prints tables, writes page and JSON if asked; returns the exit code."""
  args = _parser().parse_args(argv)
  groups = _groups(args.workdirs, args.labels)
  base = comparison.load_base(args.base) if args.base else None
  summary = comparison.analyse(groups, base=base, dataset=args.set)
  console = rich.console.Console()
  if not console.is_terminal:  # rich assumes 80 columns for a pipe or a file
    console = rich.console.Console(width=120)
  _print_verdict(console, verdict.of(summary))
  console.print(_table(summary))
  for table in tables.of(summary):
    console.print(_rich_table(table))
  if args.output:
    page = html.write_loaded_comparison(
      groups, args.output, base=base, dataset=args.set
    )
    print(f"wrote {page}")
  html.say_damage(sum(groups.values(), []))
  if args.json:
    path = epath.Path(args.json)
    places.make_directory(path.parent)
    # Each method's own sentences, without which its entry would be numbers.
    entries = {
      label: {**entry, "verdict": verdict.of_method(label, entry)}
      for label, entry in summary.items()
    }
    path.write_text(json.dumps(metrics.plain(entries), indent=2) + "\n")
    print(f"wrote {path}")
  return 0


def _parser():
  """Returns the parser of the command."""
  parser = arguments.plain_parser(
    "progrpo compare", "Compare runs side by side."
  )
  place = ranges.Place(empty=False)
  parser.add("workdirs", place, nargs="+", metavar="DIR", help="a workdir")
  parser.add_argument(
    "--labels",
    help="comma-separated names, one per workdir; workdirs with the same name "
    "count as seeds of one method (default: the directories' names)",
  )
  parser.add(
    "--base", place, help="workdir or JSON file of the base policy's evaluation"
  )
  parser.add_argument("--set", help="evaluation set (default: the first)")
  parser.add("--output", place, help="HTML page to write")
  parser.add("--json", place, help="JSON file to write")
  return parser


def _groups(workdirs, labels):
  """Returns label -> runs, in the order of the command line.

  Args:
    workdirs: paths of the workdirs.
    labels: comma-separated labels, or None for the directories' names.

  Raises:
    InputError: numbers of labels and workdirs differ, or a run is unreadable.
  """
  if labels is None:
    names = [os.path.basename(os.path.normpath(path)) for path in workdirs]
    # Equal names by default (a/seed0, b/seed0) do not mean one method.
    if len(set(names)) < len(names):
      names = [os.fspath(epath.Path(path)) for path in workdirs]
  else:
    names = [name.strip() for name in labels.split(",")]
  if len(names) != len(workdirs) or not all(names):
    raise errors.InputError(
      f"--labels has {len(names)} names for {len(workdirs)} workdirs: {labels}"
    )
  groups = {}
  for name, workdir in zip(names, workdirs, strict=True):
    groups.setdefault(name, []).append(metrics.load(workdir, damage=[]))
  return groups


def _print_verdict(console, told):
  """Prints a verdict: headline, sentences, limits."""
  console.print(rich.text.Text(live.printable(told.headline), "bold"))
  for sentence in told.more:
    console.print(rich.text.Text(f"• {live.printable(sentence)}"))
  if told.limits:
    console.print(rich.text.Text(live.printable(told.limits), "dim"))
  console.print()


def _table(summary):
  """Returns the main table of a comparison, one row per method."""
  ks = comparison.pick_ks(
    {int(k) for e in summary.values() for k in (*e["pass@k"], *e["between"])}
  )
  dataset = next(iter(summary.values()))["set"]
  table = rich.table.Table(
    title=dataset and f"pass@k on {live.printable(dataset)}",
    caption=live.printable(tables.problems_note(summary)) or None,
    caption_justify="left",
    box=rich.box.SIMPLE_HEAD,
    pad_edge=False,
  )
  table.add_column("method", style="bold")
  for name in (*(f"pass@{k}" for k in ks), "entropy", "distinct", "s/step"):
    table.add_column(name, justify="right")
  for label, entry in summary.items():
    seeds = f" ({entry['seeds']} seeds)" if entry["seeds"] > 1 else ""
    table.add_row(
      rich.text.Text(live.printable(label) + seeds),
      *(_interval(*tables.pass_cell(entry, str(k))) for k in ks),
      _number(entry["entropy"], 3),
      _number(entry["distinct_correct"], 2),
      _number(entry["seconds_per_step"], 2),
    )
  return table


def _rich_table(table):
  """Returns another table of `report.tables` for a terminal."""
  rich_table = rich.table.Table(
    title=live.printable(table.title),
    caption=table.note,
    caption_justify="left",
    box=rich.box.SIMPLE_HEAD,
    pad_edge=False,
  )
  for index, name in enumerate(table.columns):
    justify = "right" if index else "left"
    rich_table.add_column(live.printable(name), justify=justify)
  for row in table.rows:
    rich_table.add_row(*(_cell(*cell) for cell in row))
  return rich_table


def _cell(value, small):
  """Returns a cell; its note, if there is one, is dim and on a second line."""
  cell = rich.text.Text(live.printable(value))
  return cell.append(f"\n{live.printable(small)}", "dim") if small else cell


def _interval(value, small):
  """Returns a cell with a value and its interval, as "value [low, high]"."""
  cell = rich.text.Text(f"{value} " if small else value)
  # A no-break space keeps the interval on one line in a narrow table.
  small = small.replace(" to ", ", ").replace(" ", "\u00a0")
  return cell.append(f"[{small}]", style="dim") if small else cell


def _number(value, digits):
  """Returns a number as text, a dash for None."""
  return "–" if value is None else f"{value:.{digits}f}"
