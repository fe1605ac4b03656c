"""`progrpo tasks`: list tasks, show real examples, build their data."""

import argparse
from collections.abc import Sequence
import json
import os
import sys
from typing import Any

from rich import console as consoles
from rich import markup, table

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards.score import Score
from progrpo_jax.tasks import base

_MALFORMED = "I do not know (yet"
_OTHERS = 20  # rows whose answers are tried as wrong ones


def run(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code, 2 for bad input."""
  arguments = _parser().parse_args(argv)
  try:
    return arguments.command(arguments, consoles.Console())
  except InputError as error:
    print(f"progrpo tasks: {error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
  """Returns the parser of the three commands."""
  parser = argparse.ArgumentParser(prog="progrpo tasks", description=__doc__)
  commands = parser.add_subparsers(required=True)
  listing = commands.add_parser("list", help="name the tasks")
  listing.set_defaults(command=_list)
  show = commands.add_parser("show", help="print examples and their rewards")
  show.add_argument("name", help="a task, or the import path of your own")
  show.add_argument("--split", default="train", help="train or validation")
  show.add_argument("--n", type=int, default=2, help="how many examples")
  show.add_argument("--template", help="full or compact")
  show.set_defaults(command=_show)
  build = commands.add_parser("build", help="build the data of a task")
  build.add_argument("name", help="a task, or the import path of your own")
  build.set_defaults(command=_build)
  for command in (show, build):
    command.add_argument("--data_dir", default="~/.cache/progrpo_jax/data")
    command.add_argument("--seed", type=int, default=0, help="of the problems")
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the task, may be repeated (--option max_numbers=4)",
    )
  return parser


def _list(_, console: consoles.Console) -> int:
  """Prints each task with the first line of its docstring."""
  found = table.Table("task", "what it asks for")
  for name in base.names():
    doc = base.resolve(name).__doc__.strip().splitlines()[0]
    found.add_row(name, markup.escape(doc))
  console.print(found)
  return 0


def _show(arguments: argparse.Namespace, console: consoles.Console) -> int:
  """Prints examples with a right, a wrong and a malformed answer."""
  source = _load(arguments, arguments.split)
  rows = [source[i] for i in range(min(arguments.n, len(source)))]
  others = [t for row in rows for t in row.demonstrations]
  others += [t for i in range(min(len(source), _OTHERS))
             for t in source[i].demonstrations]
  with pools.Pool(workers=1) as pool:
    shown = [_examples(row, others, pool) for row in rows]
  for row, examples in zip(rows, shown):
    grid = table.Table("answer", "text", "reward", "correct", "status")
    for kind, text, score in examples:
      cells = markup.escape(text), f"{score.reward:g}", str(score.correct)
      grid.add_row(kind, *cells, score.status)
    console.rule(markup.escape(f"{row.task}, {arguments.split}"))
    console.print(markup.escape(row.prompt), highlight=False)
    console.print(grid)
  return 0


def _build(arguments: argparse.Namespace, console: consoles.Console) -> int:
  """Builds every split and prints the sizes."""
  for split in base.SPLITS:
    source = _load(arguments, split)
    console.print(f"{arguments.name} {split}: {len(source)} rows")
  console.print(f"in {os.path.expanduser(arguments.data_dir)}")
  return 0


def _load(arguments: argparse.Namespace, split: str) -> base.Source:
  """Loads a split with the options of the command line."""
  options = dict(map(_option, arguments.option))
  if getattr(arguments, "template", None):
    options["template"] = arguments.template
  return base.load(
      arguments.name,
      split,
      data_dir=os.path.expanduser(arguments.data_dir),
      seed=arguments.seed,
      **options,
  )


def _option(text: str) -> tuple[str, Any]:
  """Reads KEY=VALUE; a value that is no JSON is a string."""
  key, sign, value = text.partition("=")
  if not sign:
    raise InputError(f"--option {text!r} is not of the form KEY=VALUE")
  try:
    return key, json.loads(value)
  except json.JSONDecodeError:
    return key, value


def _examples(
    row: base.Row, others: Sequence[str], pool: pools.Pool
) -> list[tuple[str, str, Score]]:
  """Returns (kind, text, score): right and wrong where such are known."""
  texts = [*row.demonstrations[:1], _MALFORMED, *others]
  scores = pool.score([base.item(row, text) for text in texts])
  known = list(zip(texts, scores))
  examples = [("right", *known.pop(0))] if row.demonstrations else []
  malformed = known.pop(0)
  wrong = next((k for k in known if not k[1].correct), None)
  examples += [("wrong", *wrong)] if wrong else []
  return [*examples, ("malformed", *malformed)]
