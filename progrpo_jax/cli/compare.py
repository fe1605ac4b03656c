"""`progrpo compare`: several runs side by side, as tables, page and JSON."""

import rich.box
import rich.console
import rich.table
import rich.text

from progrpo_jax import api, ranges
from progrpo_jax.cli import arguments
from progrpo_jax.report import html, live, readings, tables
from progrpo_jax.storage import outputs


def run(argv):
  """Prints tables, writes page and JSON if asked; returns the exit code."""
  args = _parser().parse_args(argv)
  for flag, path in (("--output", args.output), ("--json", args.json)):
    if path:
      outputs.check(path, flag)
  compared = api.compare(
    args.workdirs,
    labels=None if args.labels is None else args.labels.split(","),
    base=args.base,
    dataset=args.set,
  )
  console = rich.console.Console()
  if not console.is_terminal:  # rich assumes 80 columns for a pipe or a file
    console = rich.console.Console(width=120)
  _print_verdict(console, compared.verdict)
  console.print(_table(compared.summary))
  for table in compared.tables:
    console.print(_rich_table(table))
  if args.output:
    print(f"wrote {compared.write_page(args.output)}")
  html.say_damage(compared.runs)
  if args.json:
    print(f"wrote {compared.write_json(args.json)}")
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
  ks = readings.pick_ks(
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
