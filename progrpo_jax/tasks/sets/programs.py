"""What the published sets of programming problems share.

Their test cases are read by `testcases`; a problem says whether a program
that reads and writes is asked for, or a function.
"""

from collections.abc import Mapping
import json
from typing import Any

from progrpo_jax.rewards import code
from progrpo_jax.tasks.sets import schema, testcases

VERIFIER = "progrpo_jax.rewards.code:score"
# ProRL: the share of tests passed, 0 if they take more than 5 s together.
META = {"time_limit_s": 5.0, "memory_mb": 512, "partial": True}
# All or nothing. More time needs a later deadline of the pool, too.
EVALUATION = {**META, "time_limit_s": 8.0, "partial": False}
AGAINST = ("humaneval_plus", "livecodebench")

_READS = (
    "The program reads from standard input and writes to standard output.")
_MAX_SOLUTION_CHARS = 10_000


def problem(
    question: str,
    cases: Any,
    column: str,
    *,
    starter: str = "",
    name: str | None = None,
    solutions: Any = (),
    max_tests: int = 0,
) -> schema.Problem:
  """Returns a programming problem.

  Args:
    question: what is asked for.
    cases: published test cases, see `testcases`.
    column: where they stand, for messages.
    starter: the beginning of the program, if one is given.
    name: of the function to call, where `cases` does not say it.
    solutions: published programs, a list or JSON of one; the first is a
      demonstration. They are said to be right and are not run here.
    max_tests: the most tests kept, those with the longest inputs; 0: all.
  """
  tests, entry = testcases.read(cases, column, name)
  if starter.strip():
    question = (
        f"{question.rstrip()}\n\nBegin with this code:\n```python\n"
        f"{starter.rstrip()}\n```")
  how = _READS
  if entry:
    how = f"The tests call {entry}."
    # The tests of LeetCode call a method of the class that is begun.
    if "class Solution" in starter or "class Solution" in question:
      how = f"The tests call {entry} of the class Solution."
  tests = testcases.longest(tests, max_tests)
  code.check_tests(tests, entry)
  return schema.Problem(
      question,
      tests,
      {"entry_point": entry} if entry else {},
      _fenced(solutions),
      {"how": how})


def of_apps(
    record: Mapping[str, Any], options: Mapping[str, Any]
) -> schema.Problem:
  """Returns the problem of a row with the columns of APPS, which TACO has too.

  Without an option `difficulties` all are taken.
  """
  wanted = options["difficulties"]
  if wanted and record.get("difficulty") not in (None, *wanted):
    raise schema.LeftOut("another difficulty")
  return problem(
      schema.text(record, "question"),
      record["input_output"] or [],
      "input_output",
      starter=starter(record),
      solutions=record.get("solutions"),
      max_tests=options["max_tests"])


def _fenced(solutions: Any) -> tuple[str, ...]:
  """Returns the first short solution as a completion."""
  if isinstance(solutions, str):
    try:
      solutions = json.loads(solutions) if solutions.strip() else ()
    except (ValueError, RecursionError):
      return ()
  if not isinstance(solutions, (list, tuple)):
    return ()
  for text in solutions:
    if isinstance(text, str) and 0 < len(text.strip()) < _MAX_SOLUTION_CHARS:
      text = text.strip()
      fenced = text if text.startswith("```") else f"```python\n{text}\n```"
      return (fenced,)
  return ()


def starter(record: Mapping[str, Any]) -> str:
  """Returns the code that a program is to begin with, "" if there is none."""
  text = record.get("starter_code")
  return text if isinstance(text, str) else ""


