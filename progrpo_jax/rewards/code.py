"""Verifier of programs: runs them on tests, in a jail.

The program is the last fenced block of the completion:

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
from collections.abc import Mapping, Sequence
import json
import math
import re
from typing import Any
import warnings

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import sandbox
from progrpo_jax.rewards.score import Score

LANGUAGES = ("", "python", "python3", "py")
MAX_PROGRAM_CHARS = 200_000
# Beyond these the parser is left to the jail, where it may choke.
_MAX_PARSED_CHARS = 50_000
_MAX_NESTING = 50
_MAX_DEPTH = 200  # of a value

_FENCE = re.compile(r"([ \t]*)(`{3,})([^`\n]*)")
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
      and 1, are equal, and a float may stand for an int; None asks for the
      same text, or for the same value and type.
    test_limit_s: a limit for each test, within that for all.
    prelude: source put before every program, such as imports that the
      problems take for granted.
    allow_unsafe: run programs unconfined where there is no jail.

  Returns:
    reward in [0, 1]; correct if all tests passed. Status "refused" where no
    jail can be had and "crash" where the jail failed are masked; whatever the
    program does is "ok".

  Raises:
    InputError: the tests are malformed; no completion makes it raise.
  """
  check_tests(tests, entry_point)
  program = extract(completion)
  if program is None:
    return Score(0.0, False, "no_answer")
  if not is_valid(program):
    return Score(0.0, False, "ok")
  try:
    with sandbox.Jail(
        f"{prelude}\n{program}" if prelude else program,
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
      json.dumps([list(test["args"]), test["expected"]])
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
  """Returns the last fenced block of Python; None if there is none.

  A block in another language is passed over. If the last fence never closes,
  the completion was cut off, and there is none either.
  """
  found, block, fence, language, indent = None, [], "", "", 0
  for line in completion.replace("\r\n", "\n").split("\n"):
    match = _FENCE.fullmatch(line)
    if not fence and match:
      fence, block, indent = match[2], [], len(match[1])
      language = "".join(match[3].lower().split()[:1])
    elif fence and match and match[2] >= fence and not match[3].strip():
      if language in LANGUAGES:
        found = "\n".join([*block, ""])
      fence = ""
    else:
      margin = len(line) - len(line.lstrip(" \t"))
      block.append(line[min(indent, margin) :])
  return None if fence else found


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
  wanted = json.dumps(test["expected"]) if calls else test["output"]
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
    value = json.loads(output.result)
    expected = json.loads(wanted)  # tuples as lists, keys as text
    return same_value(value, expected, tolerance)
  except (ValueError, RecursionError, MemoryError):
    return False


def same_text(
    text: str, expected: str, tolerance: float | None = None
) -> bool:
  """Whether two outputs are equal, line by line and word by word.

  The space between words, at the end of lines, and empty lines at the end do
  not count. With a tolerance, words that are both numbers are compared so.
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
  """Whether two words are equal, or numbers that are close."""
  if word == expected:
    return True
  if tolerance is None or max(len(word), len(expected)) > 400:
    return False
  try:
    return _close(float(word), float(expected), tolerance)
  except ValueError:
    return False


def _close(value: float, expected: float, tolerance: float) -> bool:
  """Whether two finite numbers are equal within a relative tolerance."""
  if not (math.isfinite(value) and math.isfinite(expected)):
    return False
  return abs(value - expected) <= tolerance * max(1.0, abs(expected))


def same_value(
    value: Any, expected: Any, tolerance: float | None = None, depth: int = 0
) -> bool:
  """Whether two values read from JSON are equal, types included.

  True is no 1, and 1 no 1.0 but for a tolerance. NaN equals NaN, as what is
  asked is whether the right value came, and -0.0 equals 0.0.
  """
  if depth > _MAX_DEPTH:
    return False
  kinds = {type(value), type(expected)}
  if tolerance is not None and kinds <= {int, float}:
    return _same_number(value, expected, tolerance)
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
  return value == expected or value != value and expected != expected


def _same_number(value, expected, tolerance: float) -> bool:
  """Whether two numbers are equal or close; ints may be beyond floats."""
  if value == expected or value != value and expected != expected:
    return True
  try:
    return _close(float(value), float(expected), tolerance)
  except OverflowError:
    return False
