"""Verifier of programs: runs them on tests in a jail.

The program is the completion's last fenced block of Python, or its last fenced
block without a language if none is marked as Python:

  I read both numbers and add them.
  ```python
  print(sum(map(int, input().split())))
  ```

A test is {"input": "3 4\\n", "output": "7\\n"} for a program on standard input
and output, or {"args": [3, 4], "expected": 7} for the function `entry_point` of
the program or of its class Solution.

The expected output never enters the jail. The jail returns the program's output
as text, which is compared here, so a program gains nothing by an exit code, by
printing a verdict, or by returning an object that equals everything.
"""

import ast
import builtins
from collections.abc import Mapping, Sequence
import decimal
import json
import math
import re
import symtable
from typing import Any
import warnings

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import sandbox
from progrpo_jax.rewards.score import Score

MAX_PROGRAM_CHARS = 200_000
# Larger programs are parsed only in the jail, where a crash does no harm.
_MAX_PARSED_CHARS = 50_000
_MAX_NESTING = 50
_MAX_DEPTH = 200  # nesting of a value
_MAX_CHECKS = 16  # fences that are tried as parts of a text of the program

# Groups of a fence: marks of a quotation, margin and list markers, the fence
# itself, and its info string: python, Python3, {.python}, main.py,
# python title="x", python:main.py.
_MARKER = r"(?:[-*+•‣◦▪–]|\(?(?:[0-9]{1,9}|[A-Za-z]|[ivxIVX]{2,5})[.)])[ \t]+"
_FENCE = re.compile(
  rf"((?:[ \t]*>)*)([ \t]*(?:{_MARKER})*)(`{{3,}}|~{{3,}})(.*)"
)
_LANGUAGE = re.compile(r"[ \t{.]*([a-z0-9+#.]*)")
_PYTHON = re.compile(r"i?(?:python|py|pypy)(?:3(?:\.[0-9]+)?)?")
_PYTHON_FILE = re.compile(r"[\w./\\-]*\w\.py")
_ORDER_MARK = "\ufeff"

Number = int | float | decimal.Decimal
_NUMBERS = {bool, int, float, decimal.Decimal}
_NUMBER = re.compile(
  r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?"
)
_INT_DIGITS = 4000
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


def score(
  completion: str,
  tests: Sequence[Mapping[str, Any]],
  *,
  time_limit_s: float = 6.0,
  memory_mb: int = 256,
  partial: bool = True,
  entry_point: str | None = None,
  tolerance: float | None = None,
  test_limit_s: float | None = None,
  prelude: str = "",
  allow_unsafe: bool = False,
) -> Score:
  """Scores a program by the tests that it passes.

  Args:
    completion: text of the model.
    tests: tests of one or both kinds, at least one.
    time_limit_s: time limit of all tests together, without the jail's start.
      Tests that are not done when it is over count as failed. It must be well
      below the deadline of the process that this runs in, since a sample that
      exceeds the deadline is masked.
    memory_mb: address space of the program, in MiB.
    partial: whether the reward is the share of tests passed; otherwise it is 1
      if all are passed and else 0.
    entry_point: name of the function that tests with "args" call.
    tolerance: allowed difference of numbers, relative to the larger of 1 and
      the expected number; None for the default of `same_number`.
    test_limit_s: time limit of each test.
    prelude: source executed before the program, in the same module. The names
      that published graders import (List, Counter, heappush, math, ...) are
      defined without it.
    allow_unsafe: whether to run programs unconfined if there is no jail.

  Returns:
    Reward in [0, 1]; correct if all tests passed. The status is "refused" if no
    jail is available or a restriction failed, and "crash" if the jail failed;
    both are masked. Anything that the program does is "ok".

  Raises:
    InputError: the tests or the prelude are malformed. No completion makes it
      raise.
  """
  check_tests(tests, entry_point)
  if prelude and not is_valid(prelude):
    raise InputError(f"prelude is not valid Python: {prelude!r:.80}")
  program = extract(completion)
  if program is None:
    return Score(0.0, False, "no_answer")
  if not is_valid(program):
    return Score(0.0, False, "ok")
  try:
    with sandbox.Jail(
      program,
      prelude=prelude,
      published_names=_uses_undefined_names(program),
      time_limit_s=time_limit_s,
      memory_mb=memory_mb,
      allow_unsafe=allow_unsafe,
    ) as jail:
      num_passed = 0
      for test in tests:
        passes = _passes(
          jail, test, entry_point, test_limit_s or math.inf, tolerance
        )
        num_passed += passes
        if not (passes or partial):
          break
  except sandbox.Refused:
    return Score(0.0, False, "refused")
  except (sandbox.JailError, OSError):
    return Score(0.0, False, "crash")
  correct = num_passed == len(tests)
  share = num_passed / len(tests)
  return Score(share if partial else float(correct), correct)


def check_tests(
  tests: Sequence[Mapping[str, Any]], entry_point: str | None = None
) -> None:
  """Raises InputError, which names the test, if a test is malformed."""
  if isinstance(tests, (str, Mapping)) or not isinstance(tests, Sequence):
    raise InputError(f"tests must be a list, not {type(tests).__name__}")
  if not tests:
    raise InputError("there are no tests; a program needs at least one")
  for index, test in enumerate(tests):
    problem = _complaint(test, entry_point)
    if problem:
      raise InputError(f"test {index}: {problem}")


def _complaint(test: Any, entry_point: str | None) -> str:
  """Returns what is wrong with a test, "" if nothing is."""
  if not isinstance(test, Mapping):
    return f"must be a mapping, not {type(test).__name__}"
  if "args" in test:
    if not isinstance(test["args"], (list, tuple)):
      return 'its "args" must be a list'
    if "expected" not in test:
      return 'it has "args" but no "expected"'
    if not isinstance(entry_point, str) or not entry_point.isidentifier():
      return (
        'it has "args", so entry_point must name the function to call, not'
        f" {entry_point!r}"
      )
    try:
      sandbox.to_json([list(test["args"]), test["expected"]])
    except (TypeError, ValueError, RecursionError) as error:
      return f"it is not JSON ({error})"
    return ""
  for key in ("input", "output"):
    if not isinstance(test.get(key), str):
      return (
        f'needs "input" and "output" as text, or "args" and "expected"; its'
        f' "{key}" is {test.get(key)!r:.50}'
      )
  return ""


def extract(completion: str) -> str | None:
  """Returns the program of a completion, None if there is none.

  The program is the last fenced block marked as Python, or if there is none,
  the last without a language. (A block without a language behind a program
  usually shows its output.) If the program's fence never closes, the completion
  was cut off and has no program. If the program then ends within a text in
  three quotes, such as a docstring with an example, the fences in such texts do
  not count.
  """
  program = _extract(completion, in_texts=True)
  if program is None or _ends_in_text(program):
    whole = _extract(completion, in_texts=False)
    if whole is not None and is_valid(whole):
      return whole
  return program


def _extract(completion: str, *, in_texts: bool) -> str | None:
  """Returns the program of a completion, None if there is none.

  Args:
    completion: text of the model.
    in_texts: whether a fence in a text in three quotes closes a block.
  """
  blocks = {True: None, False: None}  # last block, by whether marked as Python
  # Match of the open fence, its mark (see `_is_python`), lines of its block.
  fence, tagged, block = None, None, []
  checks = 0 if in_texts else _MAX_CHECKS

  def keep():
    if tagged is not None:
      program = _dedented(block, fence[2])
      blocks[tagged] = program.removeprefix(_ORDER_MARK)

  text = completion.removeprefix(_ORDER_MARK).replace("\r\n", "\n")
  for line in text.split("\n"):
    if fence and (inner := _unquoted(line, fence[1].count(">"))) is None:
      keep()  # the end of a quotation ends its block
      fence = None
    if fence is None:
      match = _FENCE.fullmatch(line)
      if match and not (match[3][0] == "`" and "`" in match[4]):
        fence, tagged, block = match, _is_python(match[4]), []
    elif (match := _FENCE.fullmatch(inner)) and _closes(match, fence):
      if tagged is not None and checks:
        checks -= 1
        if _ends_in_text(_dedented(block, fence[2])):
          block.append(inner)
          continue
      keep()
      fence = None
    else:
      block.append(inner)
  cut_off = fence and tagged is not None
  if cut_off and (tagged or blocks[True] is None):
    return None
  return blocks[False] if blocks[True] is None else blocks[True]


def _unquoted(line: str, depth: int) -> str | None:
  """Returns a line without its marks of quotation, None if it lacks them.

  An empty line needs no marks, since these are often left out.

  Args:
    line: line of a completion.
    depth: number of marks.
  """
  marks = re.match(rf"(?:[ \t]*>){{{depth}}}", line)
  if marks:
    return line[marks.end() :]
  return None if line.strip() else ""


def _closes(line: re.Match, opening: re.Match) -> bool:
  """Returns whether a fence closes the block of an opening fence."""
  return (
    not line[1]
    and not line[2].strip()
    and not line[4].strip()
    and line[3].startswith(opening[3])
  )


def _is_python(info: str) -> bool | None:
  """Returns True for Python, False for no language, None for another one.

  Args:
    info: text behind a fence.
  """
  if not info.strip():
    return False
  if _PYTHON_FILE.fullmatch(info.strip()):
    return True
  word = _LANGUAGE.match(info.lower())
  return True if _PYTHON.fullmatch(word[1]) else None


def _dedented(block: list[str], before: str) -> str:
  """Joins the lines of a block without their common margin.

  Args:
    block: lines of a block.
    before: margin and list markers in front of the fence. Without a marker, at
      most the margin is removed; behind a marker, code may be indented less or
      more than the fence.
  """
  margins = [len(line) - len(line.lstrip(" \t")) for line in block]
  filled = [m for m, line in zip(margins, block) if line.strip()]
  indent = filled[0] if filled else 0
  if not before.strip():
    indent = min(indent, len(before))
  lines = [line[min(indent, m) :] for m, line in zip(margins, block)]
  return "\n".join([*lines, ""])


def _ends_in_text(program: str) -> bool:
  """Returns whether a program ends within a text in three quotes."""
  if len(program) > _MAX_PARSED_CHARS or _nesting(program) > _MAX_NESTING:
    return False
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      ast.parse(program)
  except SyntaxError as error:
    return "triple-quoted" in str(error.msg)
  except (ValueError, MemoryError, RecursionError):
    pass
  return False


def is_valid(program: str) -> bool:
  """Returns whether a program may compile; nothing is executed.

  Programs that might overload the parser count as valid and are compiled only
  in the jail.
  """
  if len(program) > MAX_PROGRAM_CHARS:
    return False
  if len(program) > _MAX_PARSED_CHARS or _nesting(program) > _MAX_NESTING:
    return True
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      ast.parse(program)
  except (MemoryError, RecursionError):
    return True
  except (SyntaxError, ValueError):
    return False
  return True


def _uses_undefined_names(program: str) -> bool:
  """Returns whether a program may use names that it does not define."""
  if len(program) > _MAX_PARSED_CHARS or _nesting(program) > _MAX_NESTING:
    return True
  used, defined = set(), set(dir(builtins))
  try:
    tables = [symtable.symtable(program, "program.py", "exec")]
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return True
  for table in tables:
    tables += table.get_children()
    for symbol in table.get_symbols():
      # Local names of functions and classes do not matter.
      if table is tables[0] or symbol.is_global():
        defines = symbol.is_assigned() or symbol.is_imported()
        (defined if defines else used).add(symbol.get_name())
  return not used <= defined


def _nesting(program: str) -> int:
  """Returns an upper bound on the nesting of brackets, strings included."""
  depth = deepest = 0
  for char in program:
    if char in _BRACKETS:
      depth = max(depth + _BRACKETS[char], 0)
      deepest = max(deepest, depth)
  return deepest


def _passes(
  jail: sandbox.Jail,
  test: Mapping[str, Any],
  entry_point: str | None,
  limit_s: float,
  tolerance: float | None,
) -> bool:
  """Returns whether the program passes a test."""
  calls = "args" in test
  wanted = sandbox.to_json(test["expected"]) if calls else test["output"]
  # An output more than twice as long as the expected one is wrong anyway.
  room = max(2 * len(wanted.encode(errors="replace")), sandbox.MAX_OUTPUT)
  if not calls:
    output = jail.run(test["input"], limit_s=limit_s, max_output=room)
    clean = (output.end, output.code) == ("exit", 0)
    return clean and same_text(output.stdout, wanted, tolerance)
  output = jail.call(
    entry_point, test["args"], limit_s=limit_s, max_output=room
  )
  if (output.end, output.code) != ("exit", 0):
    return False
  try:
    value = _read(output.result)
    expected = _read(wanted)  # tuples as lists, keys as text
    return same_value(value, expected, tolerance)
  except (ValueError, RecursionError, MemoryError):
    return False


def same_text(text: str, expected: str, tolerance: float | None = None) -> bool:
  """Returns whether two outputs are equal, line by line and word by word.

  The amount of space and empty lines at the end do not matter. Two words that
  are both numbers are compared by `same_number`; words with leading zeros and
  "nan" and "inf" are text.

  Args:
    text: output of the program.
    expected: expected output.
    tolerance: largest difference, see `same_number`.
  """
  lines, wanted = _lines(text), _lines(expected)
  if [len(line) for line in lines] != [len(line) for line in wanted]:
    return False
  return all(
    _same_word(word, expected, tolerance)
    for line, right in zip(lines, wanted)
    for word, expected in zip(line, right)
  )


def _lines(text: str) -> list[list[str]]:
  """Returns the words of each line of a text."""
  return [line.split() for line in text.rstrip().split("\n")]


def _same_word(word: str, expected: str, tolerance: float | None) -> bool:
  """Returns whether two words are equal, or are equal numbers."""
  if word == expected:
    return True
  if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(expected)):
    return False
  decimals = not (_is_integer(word) or _is_integer(expected))
  return same_number(
    decimal.Decimal(word), decimal.Decimal(expected), decimals, tolerance
  )


def _is_integer(word: str) -> bool:
  """Returns whether a number is written without a point or an exponent."""
  return word.lstrip("+-").isdigit()


def same_number(
  value: Number, expected: Number, decimals: bool, tolerance: float | None
) -> bool:
  """Returns whether two numbers are equal, exactly or within a tolerance.

  Args:
    value: number of the program.
    expected: expected number.
    decimals: whether both are written as decimals. Without a tolerance, they
      may then differ by a millionth of the larger one or by 1e-9; other numbers
      must be exactly equal.
    tolerance: allowed difference, relative to the larger of 1 and the expected
      number, for integers too; None if the problem gives none.
  """
  if value == expected:
    return True
  if tolerance is None and not decimals:
    return False
  try:
    value, expected = float(value), float(expected)
  except OverflowError:  # an int beyond floats
    return False
  if not (math.isfinite(value) and math.isfinite(expected)):
    return False
  if tolerance is None:
    return math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)
  return abs(value - expected) <= tolerance * max(1.0, abs(expected))


def same_value(
  value: Any, expected: Any, tolerance: float | None = None, depth: int = 0
) -> bool:
  """Returns whether two values read from JSON are equal.

  Numbers are compared by `same_number`. As in Python, True is 1 and False is
  0. NaN equals NaN, since a test may expect it. No number equals a text.

  Args:
    value: value of the program.
    expected: expected value.
    tolerance: largest difference, see `same_number`.
    depth: depth of the values in the compared ones.
  """
  if depth > _MAX_DEPTH:
    return False
  kinds = {type(value), type(expected)}
  if kinds <= _NUMBERS:
    if bool in kinds or value != value:
      return value == expected or value != value and expected != expected
    return same_number(value, expected, kinds == {float}, tolerance)
  if len(kinds) > 1:
    return False
  if isinstance(value, list):
    return len(value) == len(expected) and all(
      same_value(a, b, tolerance, depth + 1) for a, b in zip(value, expected)
    )
  if isinstance(value, dict):
    return value.keys() == expected.keys() and all(
      same_value(value[key], expected[key], tolerance, depth + 1)
      for key in value
    )
  return value == expected


def _read(text: str) -> Any:
  """Returns the value of JSON text, with very long integers as Decimals."""
  return json.loads(text, parse_int=_integer)


def _integer(text: str) -> Number:
  """Returns an integer of JSON; Python reads long ones slowly or not at all."""
  return int(text) if len(text) <= _INT_DIGITS else decimal.Decimal(text)
