"""`progrpo tasks`: list tasks, show real examples, build their data."""

import argparse
from collections.abc import Sequence
import json
import os
import types
from typing import Any

from rich import console as consoles
from rich import markup, table
from rich import text as text_lib

from progrpo_jax import ranges
from progrpo_jax.cli import arguments
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards.score import Score
from progrpo_jax.tasks import base, instruction_following
from progrpo_jax.tasks.sets import programs, published, schema

_MALFORMED = "I do not know (yet"
_NOTE = (
    "OWNER/NAME is a repository of the Hugging Face hub, whose files are"
    " downloaded at the first build; or fetch them by hand (hf download"
    " OWNER/NAME --repo-type dataset --local-dir DIR) and give --option"
    " manual_dir=DIR. It must be by hand where that is said.")
_OTHERS = 8  # rows whose answers are tried as wrong ones
# Well-formed for one verifier or another, and right for hardly any row.
_NEVER_RIGHT = (
    r"\boxed{-98765}", "<answer>-98765</answer>",
    "```python\nprint(-98765)\n```", "no, never")
_MAX_TABLE = 2000  # characters of a program made of tests
_MAX_SHOWN = 2000  # characters of a text


def run(argv: Sequence[str]) -> int:
  """Runs the command; returns the exit code."""
  args = _parser().parse_args(argv)
  return args.command(args, consoles.Console())


def _parser() -> arguments.Parser:
  """Returns the parser of the three commands."""
  parser = arguments.plain_parser("progrpo tasks", __doc__)
  commands = parser.add_subparsers(required=True)
  listing = commands.add_parser("list", help="name the tasks")
  listing.set_defaults(command=_list)
  show = commands.add_parser("show", help="print examples and their rewards")
  show.add_argument("name", help="a task, or the import path of your own")
  show.add_argument(
      "--split", help="train or validation; train if the task has it")
  show.add("--n", ranges.Whole(2, at_least=1), "how many examples")
  show.add_argument("--template", help="a template of the task")
  show.set_defaults(command=_show)
  build = commands.add_parser("build", help="build the data of a task")
  build.add_argument("name", help="a task, or the import path of your own")
  build.set_defaults(command=_build)
  for command in (listing, show, build):
    command.add(
        "--data_dir", ranges.Place("~/.cache/progrpo_jax/data", empty=False),
        "where built data is kept")
  for command in (show, build):
    command.add("--seed", ranges.Whole(0, at_least=0), "of the problems")
    command.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the task, may be repeated (--option max_numbers=4)",
    )
  return parser


def _list(args: argparse.Namespace, console: consoles.Console) -> int:
  """Prints each task: domain, first line of its docstring, its data."""
  task = table.Column("task", no_wrap=True)
  found = table.Table(task, "domain", "what it asks for", "data")
  for name in base.names():
    try:
      module = base.resolve(name)
    except InputError as error:  # something that it needs is not installed
      found.add_row(name, "", markup.escape(str(error)), "")
      continue
    doc = module.__doc__.strip().splitlines()[0]
    known = published_set(module)
    domain = known.domain if known else getattr(module, "DOMAIN", "")
    data = _data(known, args.data_dir) if known else "no download"
    found.add_row(name, domain, markup.escape(doc), markup.escape(data))
  console.print(found)
  console.print(_NOTE, highlight=False)
  return 0


def published_set(module: types.ModuleType) -> schema.Set | None:
  """Returns the published set that a task is, if it is one."""
  return getattr(module, "SET", None)


def _data(known: schema.Set, data_dir: str) -> str:
  """Says how large the last build of a set is, or where its files are."""
  reports = published.reports(known, data_dir)
  if not reports:
    return f"{known.repo}{', by hand' if known.by_hand else ''}"
  splits = reports[-1]["splits"].items()
  return "built: " + ", ".join(f"{s} {a['rows']}" for s, a in splits)


def _splits(name: str) -> Sequence[str]:
  """Returns the splits of a task, train first."""
  known = published_set(base.resolve(name))
  return [s for s in base.SPLITS if known is None or s in known.splits]


def _show(args: argparse.Namespace, console: consoles.Console) -> int:
  """Prints examples with a right, a wrong and a malformed answer."""
  split = args.split or _splits(args.name)[0]
  source = _load(args, split)
  rows = [source[i] for i in range(min(args.n, len(source)))]
  near = rows + [source[i] for i in range(min(len(source), _OTHERS))]
  others = [t for row in near for t in row.demonstrations[:1]]
  others += [t for row in near for t in _of_reference(row)[:1]]
  others = list(dict.fromkeys(others))
  # Where verifiers fail, the table says so.
  with pools.Pool(workers=1, max_failure_share=1.0) as pool:
    shown = [_examples(row, others, pool) for row in rows]
  for row, examples in zip(rows, shown):
    grid = table.Table("answer", "text", "reward", "correct", "status")
    for kind, text, score in examples:
      cells = ["", "", ""] if score is None else [
          f"{score.reward:g}", str(score.correct), score.status]
      grid.add_row(kind, text_lib.Text(_cut(text)), *cells)
    console.rule(markup.escape(f"{row.task}, {split}"))
    console.print(text_lib.Text(_cut(row.prompt)))
    console.print(grid)
  return 0


def _build(args: argparse.Namespace, console: consoles.Console) -> int:
  """Builds every split and prints the sizes."""
  for split in _splits(args.name):
    source = _load(args, split)
    console.print(f"{args.name} {split}: {len(source)} rows")
  console.print(f"in {os.path.expanduser(args.data_dir)}")
  return 0


def _load(args: argparse.Namespace, split: str) -> base.Source:
  """Loads a split with the options of the command line."""
  options = dict(map(_option, args.option))
  if getattr(args, "template", None):
    options["template"] = args.template
  return base.load(
      args.name,
      split,
      data_dir=os.path.expanduser(args.data_dir),
      seed=args.seed,
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
) -> list[tuple[str, str, Score | None]]:
  """Returns (kind, text, score): right, wrong and malformed.

  The right one is the task's demonstration, else made of the reference; the
  score is None where none is known. The wrong ones are other rows' answers.
  """
  first = [*row.demonstrations[:1], *_of_reference(row)]
  texts = [*first, _MALFORMED, *others, *_NEVER_RIGHT]
  known = list(zip(texts, pool.score([base.item(row, t) for t in texts])))
  tried, malformed = known[:len(first)], known[len(first)]
  rest = known[len(first) + 1:]
  right = next((k for k in tried if k[1].correct), None)
  if right is None:
    right = tried[0] if row.demonstrations else ("(none is known)", None)
  wrong = [k for k in rest if not k[1].correct]
  judged = [k for k in wrong if k[1].status == "ok"]
  examples = [("right", *right)]
  if wrong:
    examples.append(("wrong", *(judged or wrong)[0]))
  return [*examples, ("malformed", *malformed)]


def _of_reference(row: base.Row) -> list[str]:
  """Returns completions that give a row's reference, whichever form it has."""
  reference = row.reference
  if isinstance(reference, (str, int, float)):
    return [f"\\boxed{{{reference}}}", f"<answer>{reference}</answer>",
            str(reference)]
  if isinstance(reference, dict) and "instruction_id_list" in reference:
    text = instruction_following.answer(reference)
    return [text] if text else []
  if base.resolve(row.task).VERIFIER == programs.VERIFIER:
    program = _table(reference, row.meta.get("entry_point"))
    return [program] if len(program) <= _MAX_TABLE else []
  return []


def _table(tests: Sequence[dict[str, Any]], entry_point: str | None) -> str:
  """Returns a program that knows the tests by heart: it shows their form."""
  if entry_point:
    known = {json.dumps(t["args"]): t["expected"] for t in tests}
    code = (
        f"import json\n\ndef {entry_point}(*args):\n"
        f"  return {known!r}[json.dumps(args)]")
  else:
    known = {t["input"]: t["output"] for t in tests}
    code = f"import sys\n\nprint({known!r}[sys.stdin.read()])"
  return f"```python\n{code}\n```"


def _cut(text: str) -> str:
  """Returns a text that is not too long for a terminal."""
  return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} …"
