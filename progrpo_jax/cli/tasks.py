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
from progrpo_jax.settings import defaults
from progrpo_jax.tasks import base, instruction_following
from progrpo_jax.tasks.sets import programs, schema

_MALFORMED = "I do not know (yet"
_NOTE = (
  "OWNER/NAME is a repository on the Hugging Face hub, whose files are"
  " downloaded at the first build; or fetch them by hand (hf download"
  " OWNER/NAME --repo-type dataset --local-dir DIR) and pass --option"
  ' manual_dir=DIR. Sets marked "by hand" are not downloaded.'
)
_OTHERS = 8  # rows whose answers are tried as wrong answers
# Well-formed for some verifier, and wrong for nearly every row.
_NEVER_RIGHT = (
  r"\boxed{-98765}",
  "<answer>-98765</answer>",
  "```python\nprint(-98765)\n```",
  "no, never",
)
_MAX_TABLE = 2000  # characters of a program made from tests
_MAX_SHOWN = 2000  # characters of a printed text


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
  show.add_argument("name", help="task, or the import path of your own")
  show.add_argument(
    "--split", help="train or validation (default: train if it exists)"
  )
  show.add("--n", ranges.Whole(2, at_least=1), "number of examples")
  show.add_argument("--template", help="template of the task's prompts")
  show.set_defaults(command=_show)
  build = commands.add_parser("build", help="build the data of a task")
  build.add_argument("name", help="task, or the import path of your own")
  build.set_defaults(command=_build)
  for command in (listing, show, build):
    command.add(
      "--data_dir", defaults.keys().data.dir, "directory of built data"
    )
  for command in (show, build):
    command.add(
      "--seed", ranges.Whole(0, at_least=0), "seed of generated problems"
    )
    command.add_argument(
      "--option",
      action="append",
      default=[],
      metavar="KEY=VALUE",
      help="option of the task, may be repeated (--option max_numbers=4)",
    )
  return parser


def _list(args: argparse.Namespace, console: consoles.Console) -> int:
  """Prints a table of tasks: domain, first line of the docstring, data."""
  name_column = table.Column("task", no_wrap=True)
  grid = table.Table(name_column, "domain", "what it asks for", "data")
  missing = {}
  for name in base.names():
    try:
      module = base.resolve(name)
    except InputError as error:  # a package that it needs is not installed
      missing.setdefault(str(error), []).append(name)
      continue
    doc = module.__doc__.strip().splitlines()[0]
    published_as = published_set(module)
    # Tasks that generate their problems have a domain but no set.
    if published_as:
      domain, data = published_as.domain, _data(published_as, args.data_dir)
    else:
      domain, data = getattr(module, "DOMAIN", ""), "no download"
    grid.add_row(name, domain, markup.escape(doc), markup.escape(data))
  console.print(grid)
  for reason, names in missing.items():
    console.print(f"{', '.join(names)}: {reason}", markup=False)
  console.print(_NOTE, highlight=False)
  return 0


def published_set(module: types.ModuleType) -> schema.Set | None:
  """Returns the declaration of a task's published set, or None."""
  return getattr(module, "SET", None)


def _data(declared: schema.Set, data_dir: str) -> str:
  """Returns the sizes of a set's last build, or the place of its files."""
  # Imported here: it takes a package that only published sets need.
  from progrpo_jax.tasks.sets import published

  reports = published.reports(declared, data_dir)
  if not reports:
    return f"{declared.repo}{', by hand' if declared.by_hand else ''}"
  splits = reports[-1]["splits"].items()
  return "built: " + ", ".join(f"{s} {a['rows']}" for s, a in splits)


def _splits(name: str) -> Sequence[str]:
  """Returns the splits of a task, train first; generated tasks have both."""
  declared = published_set(base.resolve(name))
  return [s for s in base.SPLITS if declared is None or s in declared.splits]


def _show(args: argparse.Namespace, console: consoles.Console) -> int:
  """Prints examples with a right, a wrong and a malformed answer."""
  split = args.split or _splits(args.name)[0]
  source = _load(args, split)
  rows = [source[i] for i in range(min(args.n, len(source)))]
  # Answers of other rows are plausible wrong answers, in the right form.
  near = rows + [source[i] for i in range(min(len(source), _OTHERS))]
  others = [t for row in near for t in row.demonstrations[:1]]
  others += [t for row in near for t in _completions(row)[:1]]
  others = list(dict.fromkeys(others))
  # Failures of verifiers are printed as statuses, so all may fail.
  with pools.Pool(workers=1, max_failure_share=1.0) as pool:
    all_examples = [_examples(row, others, pool) for row in rows]
  for row, examples in zip(rows, all_examples):
    grid = table.Table("answer", "text", "reward", "correct", "status")
    for kind, text, score in examples:
      cells = (
        ["", "", ""]
        if score is None
        else [f"{score.reward:g}", str(score.correct), score.status]
      )
      grid.add_row(kind, text_lib.Text(_cut(text)), *cells)
    console.rule(markup.escape(f"{row.task}, {split}"))
    console.print(text_lib.Text(_cut(row.prompt)))
    console.print(grid)
  return 0


def _build(args: argparse.Namespace, console: consoles.Console) -> int:
  """Builds every split and prints its size."""
  for split in _splits(args.name):
    source = _load(args, split)
    console.print(f"{args.name} {split}: {len(source)} rows")
  console.print(f"in {os.path.expanduser(args.data_dir)}")
  return 0


def _load(args: argparse.Namespace, split: str) -> base.Source:
  """Loads a split with the options of the command line."""
  options = dict(map(_option, args.option))
  if getattr(args, "template", None):  # an argument of `show` alone
    options["template"] = args.template
  return base.load(
    args.name,
    split,
    data_dir=os.path.expanduser(args.data_dir),
    seed=args.seed,
    **options,
  )


def _option(text: str) -> tuple[str, Any]:
  """Reads KEY=VALUE; a value that is not JSON is a string."""
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
  """Returns a right, a wrong and a malformed answer to a row.

  Args:
    row: row of the task.
    others: answers to other rows, tried as wrong answers.
    pool: process that runs verifiers.

  Returns:
    (kind, text, score) of each; the score is None if no right answer is known.
  """
  # One call scores all: candidates for a right answer, a malformed one, and
  # candidates for a wrong one.
  candidates = [*row.demonstrations[:1], *_completions(row)]
  texts = [*candidates, _MALFORMED, *others, *_NEVER_RIGHT]
  scored = list(zip(texts, pool.score([base.item(row, t) for t in texts])))
  tried, malformed = scored[: len(candidates)], scored[len(candidates)]
  rest = scored[len(candidates) + 1 :]
  # A demonstration is shown even if its verifier rejects it.
  right = next((pair for pair in tried if pair[1].correct), None)
  if right is None:
    right = tried[0] if row.demonstrations else ("(none is known)", None)
  # Prefer an answer that was understood and is wrong to an unreadable one.
  wrong = [pair for pair in rest if not pair[1].correct]
  judged = [pair for pair in wrong if pair[1].status == "ok"]
  examples = [("right", *right)]
  if wrong:
    examples.append(("wrong", *(judged or wrong)[0]))
  return [*examples, ("malformed", *malformed)]


def _completions(row: base.Row) -> list[str]:
  """Returns completions made from a row's reference, in several forms."""
  reference = row.reference
  # The form depends on the task: a boxed or tagged answer, a text that obeys
  # instructions, a program that passes tests.
  if isinstance(reference, (str, int, float)):
    return [
      f"\\boxed{{{reference}}}",
      f"<answer>{reference}</answer>",
      str(reference),
    ]
  if isinstance(reference, dict) and "instruction_id_list" in reference:
    text = instruction_following.answer(reference)
    return [text] if text else []
  if base.verifier(row) == programs.VERIFIER:
    program = _table(reference, row.meta.get("entry_point"))
    return [program] if len(program) <= _MAX_TABLE else []
  return []


def _table(tests: Sequence[dict[str, Any]], entry_point: str | None) -> str:
  """Returns a program that looks up the tests' expected outputs.

  Args:
    tests: tests of the row.
    entry_point: name of the function under test; None tests a whole program by
      its input and output.
  """
  if entry_point:
    outputs = {json.dumps(t["args"]): t["expected"] for t in tests}
    code = (
      f"import json\n\ndef {entry_point}(*args):\n"
      f"  return {outputs!r}[json.dumps(args)]"
    )
  else:
    outputs = {t["input"]: t["output"] for t in tests}
    code = f"import sys\n\nprint({outputs!r}[sys.stdin.read()])"
  return f"```python\n{code}\n```"


def _cut(text: str) -> str:
  """Returns a text, shortened for a terminal."""
  return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} …"
