"""Verifier of programs: runs them on tests, in a jail.

The program is the last block of the completion that is fenced as Python, or
the last without a language where none is:

  I read both numbers and add them.
  ```python
  print(sum(map(int, input().split())))
  ```

A test is {"input": "3 4\\n", "output": "7\\n"} for a program that reads and
writes, or {"args": [3, 4], "expected": 7} for a function, entry_point, of the
program or of its class Solution.

What a test expects never enters the jail. The jail hands back what was
written, as text, and it is compared here: an exit code, a verdict that the
program prints, an object that equals everything prove nothing. A program may
lie about its own output only, and it does not know what to say.
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
# Beyond these the parser is left to the jail, where it may choke.
_MAX_PARSED_CHARS = 50_000
_MAX_NESTING = 50
_MAX_DEPTH = 200  # of a value

# What stands before it (the marks of a quotation, a margin, the markers of
# lists), the fence, what it says: python, Python3, {.python}, main.py,
# python title="x", python:main.py.
_MARKER = (
    r"(?:[-*+•‣◦▪–]|\(?(?:[0-9]{1,9}|[A-Za-z]|[ivxIVX]{1,5})[.)])[ \t]+")
_FENCE = re.compile(
    rf"((?:[ \t]*>)*)([ \t]*(?:{_MARKER})*)(`{{3,}}|~{{3,}})(.*)")
_LANGUAGE = re.compile(r"[ \t{.]*([a-z0-9+#.]*)")
_PYTHON = re.compile(r"i?(?:python|py|pypy)(?:3(?:\.[0-9]+)?)?")
_PYTHON_FILE = re.compile(r"[\w./\\-]*\w\.py")
_ORDER_MARK = "\ufeff"

Number = int | float | decimal.Decimal
_NUMBERS = {bool, int, float, decimal.Decimal}
_NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
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
    tests: of one kind or of both, at least one.
    time_limit_s: for all tests together, the start of the jail apart. It must
      be well below the deadline of the process that this runs in: beyond that
      the sample is masked, while a program that is too slow scores 0.
    memory_mb: of address space for the program.
    partial: reward the share of tests passed; else all of them or nothing.
    entry_point: name of the function that tests with "args" call.
    tolerance: numbers this close, relative to the larger of the expected one
      and 1, are equal; None compares them as `same_number` says.
    test_limit_s: a limit for each test, within that for all.
    prelude: source that is executed before every program, in the same module.
      What the published graders import (List, Counter, heappush, math, ...) is
      there without one.
    allow_unsafe: run programs unconfined where there is no jail.

  Returns:
    reward in [0, 1]; correct if all tests passed. Status "refused" where no
    jail can be had, or cannot hold the program, and "crash" where the jail
    failed are masked; whatever the program does is "ok".

  Raises:
    InputError: the tests or the prelude are malformed; no completion makes it
      raise.
  """
  check_tests(tests, entry_point)
  if prelude and not is_valid(prelude):
    raise InputError(f"prelude is no Python that compiles: {prelude!r:.80}")
  program = extract(completion)
  if program is None:
    return Score(0.0, False, "no_answer")
  if not is_valid(program):
    return Score(0.0, False, "ok")
  try:
    with sandbox.Jail(
        program,
        prelude=prelude,
        published_names=_takes_for_granted(program),
        time_limit_s=time_limit_s,
        memory_mb=memory_mb,
        allow_unsafe=allow_unsafe,
    ) as jail:
      passed = 0
      for test in tests:
        right = _passes(
            jail, test, entry_point, test_limit_s or math.inf, tolerance)
        passed += right
        if not (right or partial):
          break
  except sandbox.Refused:
    return Score(0.0, False, "refused")
  except (sandbox.JailError, OSError):
    return Score(0.0, False, "crash")
  correct = passed == len(tests)
  return Score(passed / len(tests) if partial else float(correct), correct)


def check_tests(
    tests: Sequence[Mapping[str, Any]], entry_point: str | None = None
) -> None:
  """Raises InputError, which names the test, unless all are well-formed."""
  if isinstance(tests, (str, Mapping)) or not isinstance(tests, Sequence):
    raise InputError(f"tests must be a list, not {type(tests).__name__}")
  if not tests:
    raise InputError("there are no tests; a program needs at least one")
  for index, test in enumerate(tests):
    wrong = _complaint(test, entry_point)
    if wrong:
      raise InputError(f"test {index}: {wrong}")


def _complaint(test: Any, entry_point: str | None) -> str:
  """Says what is wrong with a test; empty if nothing is."""
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
          f" {entry_point!r}")
    try:
      sandbox.to_json([list(test["args"]), test["expected"]])
    except (TypeError, ValueError, RecursionError) as error:
      return f"it is not JSON ({error})"
    return ""
  for key in ("input", "output"):
    if not isinstance(test.get(key), str):
      return (
          f'needs "input" and "output" as text, or "args" and "expected"; its'
          f' "{key}" is {test.get(key)!r:.50}')
  return ""


def extract(completion: str) -> str | None:
  """Returns the program of a completion; None if there is none.

  It is the last fenced block that says it is Python, or where none does, the
  last that names no language: an untagged block behind a program shows what
  it prints. If the fence of the program never closes, the completion was cut
  off, and there is none either.
  """
  blocks = {True: None, False: None}  # by whether it says that it is Python
  fence, tagged, block = None, None, []

  def keep():
    if tagged is not None:
      program = _dedented(block, fence[2])
      blocks[tagged] = program.removeprefix(_ORDER_MARK)

  text = completion.removeprefix(_ORDER_MARK).replace("\r\n", "\n")
  for line in text.split("\n"):
    if fence and (inner := _unquoted(line, fence[1].count(">"))) is None:
      keep()  # with its quotation, a block ends
      fence = None
    if fence is None:
      match = _FENCE.fullmatch(line)
      if match and not (match[3][0] == "`" and "`" in match[4]):
        fence, tagged, block = match, _is_python(match[4]), []
    elif (match := _FENCE.fullmatch(inner)) and _closes(match, fence):
      keep()
      fence = None
    else:
      block.append(inner)
  cut_off = fence and tagged is not None
  if cut_off and (tagged or blocks[True] is None):
    return None
  return blocks[False] if blocks[True] is None else blocks[True]


def _unquoted(line: str, depth: int) -> str | None:
  """Returns a line of a quotation without its marks; None if it is none.

  An empty line without them is taken for one, as few people mark those.
  """
  marks = re.match(rf"(?:[ \t]*>){{{depth}}}", line)
  if marks:
    return line[marks.end() :]
  return None if line.strip() else ""


def _closes(line: re.Match, opening: re.Match) -> bool:
  """Whether a line of backticks or tildes closes a block."""
  return (
      not line[1] and not line[2].strip() and not line[4].strip()
      and line[3].startswith(opening[3]))


def _is_python(info: str) -> bool | None:
  """Whether a fence says Python; False: no language; None: another one."""
  if not info.strip():
    return False
  if _PYTHON_FILE.fullmatch(info.strip()):
    return True
  word = _LANGUAGE.match(info.lower())
  return True if _PYTHON.fullmatch(word[1]) else None


def _dedented(block: list[str], before: str) -> str:
  """Joins lines without the margin that they have from their fence.

  Args:
    block: lines of a block.
    before: the fence's own margin, and the markers of lists in it. Behind a
      marker the code may be indented less than the fence is, or more.
  """
  margins = [
      len(line) - len(line.lstrip(" \t")) for line in block]
  filled = [m for m, line in zip(margins, block) if line.strip()]
  indent = filled[0] if filled else 0
  if not before.strip():
    indent = min(indent, len(before))
  lines = [line[min(indent, m) :] for m, line in zip(margins, block)]
  return "\n".join([*lines, ""])


def is_valid(program: str) -> bool:
  """Whether a program may be tried: False if it cannot be compiled.

  Nothing is executed. What might be hard on the parser counts as valid: the
  jail finds out.
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


def _takes_for_granted(program: str) -> bool:
  """Whether a program uses a name that it nowhere defines.

  True where that is not known.
  """
  if len(program) > _MAX_PARSED_CHARS or _nesting(program) > _MAX_NESTING:
    return True
  used, given = set(), set(dir(builtins))
  try:
    tables = [symtable.symtable(program, "program.py", "exec")]
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return True
  for table in tables:
    tables += table.get_children()
    for symbol in table.get_symbols():
      # A name of a function or a class of its own defines nothing for others.
      if table is tables[0] or symbol.is_global():
        defines = symbol.is_assigned() or symbol.is_imported()
        (given if defines else used).add(symbol.get_name())
  return not used <= given


def _nesting(program: str) -> int:
  """Returns a bound on how deep brackets nest; those in texts count too."""
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
  """Runs the program on a test and compares."""
  calls = "args" in test
  wanted = sandbox.to_json(test["expected"]) if calls else test["output"]
  # What is more than twice as long as the right answer is wrong.
  room = max(2 * len(wanted.encode(errors="replace")), sandbox.MAX_OUTPUT)
  if not calls:
    output = jail.run(test["input"], limit_s=limit_s, max_output=room)
    clean = (output.end, output.code) == ("exit", 0)
    return clean and same_text(output.stdout, wanted, tolerance)
  output = jail.call(
      entry_point, test["args"], limit_s=limit_s, max_output=room)
  if (output.end, output.code) != ("exit", 0):
    return False
  try:
    value = _read(output.result)
    expected = _read(wanted)  # tuples as lists, keys as text
    return same_value(value, expected, tolerance)
  except (ValueError, RecursionError, MemoryError):
    return False


def same_text(
    text: str, expected: str, tolerance: float | None = None
) -> bool:
  """Whether two outputs are equal, line by line and word by word.

  The space between words, at the end of lines, and empty lines at the end do
  not count. Words that are both numbers are compared as numbers, see
  `same_number`; one with leading zeros, or spelt nan or inf, is a text.
  """
  lines, wanted = _lines(text), _lines(expected)
  if [len(line) for line in lines] != [len(line) for line in wanted]:
    return False
  return all(
      _same_word(word, expected, tolerance)
      for line, right in zip(lines, wanted)
      for word, expected in zip(line, right))


def _lines(text: str) -> list[list[str]]:
  """Splits a text into the words of its lines."""
  return [line.split() for line in text.rstrip().split("\n")]


def _same_word(word: str, expected: str, tolerance: float | None) -> bool:
  """Whether two words are equal, or numbers that are."""
  if word == expected:
    return True
  if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(expected)):
    return False
  decimals = not (_is_integer(word) or _is_integer(expected))
  return same_number(
      decimal.Decimal(word), decimal.Decimal(expected), decimals, tolerance)


def _is_integer(word: str) -> bool:
  """Whether a number is written without a point or an exponent."""
  return word.lstrip("+-").isdigit()


def same_number(
    value: Number, expected: Number, decimals: bool, tolerance: float | None
) -> bool:
  """Whether two numbers are equal, exactly or within a tolerance.

  Without a tolerance of the problem, 2.0 is 2, and two that are both written
  as decimals (`decimals`) may differ by a millionth of the larger one, or by
  1e-9: 0.30000000000000004 is 0.3, 1 is not 1.4, and integers of any length
  are compared digit by digit. A tolerance is relative to the larger of the
  expected number and 1, and integers are compared by it too.
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
  """Whether two values read from JSON are equal.

  Numbers are compared as in `same_number`, and True is 1 and False is 0, as
  Python has it. NaN equals NaN, as what is asked is whether the right value
  came. No number equals a text.
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
        same_value(a, b, tolerance, depth + 1)
        for a, b in zip(value, expected))
  if isinstance(value, dict):
    return value.keys() == expected.keys() and all(
        same_value(value[key], expected[key], tolerance, depth + 1)
        for key in value)
  return value == expected


def _read(text: str) -> Any:
  """Reads JSON; an integer that Python takes long to read is a Decimal."""
  return json.loads(text, parse_int=_integer)


def _integer(text: str) -> Number:
  """Returns an integer of JSON."""
  return int(text) if len(text) <= _INT_DIGITS else decimal.Decimal(text)
