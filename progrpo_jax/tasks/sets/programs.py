"""Code shared by the published sets of programming problems.

`testcases` reads their test cases. The prompt of a problem says whether it
asks for a program on standard input and output or for a function.
"""

from collections.abc import Mapping
import json
from typing import Any

from progrpo_jax.rewards import code
from progrpo_jax.tasks.sets import schema, testcases

VERIFIER = "progrpo_jax.rewards.code:score"
# Training reward, after ProRL: the share of tests passed within 5 s, which all
# tests share. The limit is on address space, which the stack of a thread counts
# in full: recursive programs ask for one of up to 512 MiB.
META = {"time_limit_s": 5.0, "memory_mb": 1024, "partial": True}
# Evaluation: 1 if all tests pass, else 0. A longer time limit would also need
# a longer deadline of the pool.
EVALUATION = {**META, "time_limit_s": 8.0, "partial": False}
AGAINST = ("humaneval_plus", "livecodebench")

_READS = "The program reads from standard input and writes to standard output."
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
    question: text of the problem.
    cases: published test cases, see `testcases`.
    column: name of their column, for messages.
    starter: code that the program has to begin with, "" for none.
    name: name of the function to call, if `cases` does not contain it.
    solutions: published programs, a list or JSON of a list. The first short
      one becomes a demonstration; it is not run to check it.
    max_tests: largest number of tests to keep, those with the longest inputs;
      0 keeps all.

  Raises:
    schema.BadRow: the test cases cannot be read.
    schema.LeftOut: there are no test cases.
    InputError: the verifier refuses a test.
  """
  tests, entry = testcases.read(cases, column, name)
  if starter.strip():
    question = (
      f"{question.rstrip()}\n\nBegin with this code:\n```python\n"
      f"{starter.rstrip()}\n```"
    )
  how = _READS
  if entry:
    how = f"The tests call {entry}."
    # LeetCode's tests call a method of the class in the starter code.
    if "class Solution" in starter or "class Solution" in question:
      how = f"The tests call {entry} of the class Solution."
  tests = testcases.longest(tests, max_tests)
  code.check_tests(tests, entry)
  return schema.Problem(
    question,
    tests,
    {"entry_point": entry} if entry else {},
    _fenced(solutions),
    {"how": how},
  )


def of_apps(
  record: Mapping[str, Any], options: Mapping[str, Any]
) -> schema.Problem:
  """Returns the problem of a row with the columns of APPS and TACO.

  An empty option `difficulties` selects all.
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
    max_tests=options["max_tests"],
  )


def _fenced(solutions: Any) -> tuple[str, ...]:
  """Returns the first short solution as a completion, in a tuple."""
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
  """Returns the code that a program has to begin with, "" for none."""
  text = record.get("starter_code")
  return text if isinstance(text, str) else ""
