"""Test cases of published programming problems, in one form.

Out come, for a program that reads and writes, [{"input": text, "output":
text}], and for a function to call, [{"args": list, "expected": value}] with
its name. What goes in, as values or as JSON:

  {"inputs": [...], "outputs": [...], "fn_name": name}   APPS, TACO, Eurus
  {"input": [...], "output": [...]}                      CodeContests
  [{"input", "output", "type" or "testtype", ...}]       DeepCoder, LiveCode-
                                                         Bench

The function's name stands in fn_name or in metadata.func_name. An input of a
call is a list of arguments, or, in LiveCodeBench, text with one JSON value a
line. Where every expected value of a problem is a list of length one, APPS
has wrapped it, and it is unwrapped; a function that really returns such lists
in all of its tests is the price of that.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from progrpo_jax.tasks.sets import schema

_CALLS = ("functional", "function_call")
_STDIN = ("stdin", "stdin_stdout")


def read(
    value: Any, column: str, name: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
  """Returns test cases and the name of the function to call, if there is one.

  Args:
    value: the published test cases.
    column: where they stand, for messages.
    name: of the function, where it stands elsewhere.

  Raises:
    BadRow: they are of none of the forms.
    LeftOut: there are none.
  """
  if isinstance(value, str):
    value = _parse(value, column)
  if isinstance(value, Mapping):
    name = value.get("fn_name") or name
    pairs = _columns(value, column)
    kinds = [_CALLS[0] if name else _STDIN[0]] * len(pairs)
  elif isinstance(value, Sequence):
    pairs, kinds, found = _cases(value, column)
    name = found or name
  else:
    raise schema.BadRow(f"{column} is a {type(value).__name__}, not test cases")
  if not pairs:
    raise schema.LeftOut("no test cases")
  if set(kinds) <= set(_STDIN):
    return [_stdin(*pair, column) for pair in pairs], None
  if not set(kinds) <= set(_CALLS):
    raise schema.BadRow(f"{column} has tests of the kinds {sorted(set(kinds))}")
  if not isinstance(name, str) or not name:
    raise schema.BadRow(f"{column} calls a function without a name")
  return _calls(pairs, column), name


def longest(tests: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
  """Returns the tests with the longest inputs, in their order; 0 means all."""
  if not most or len(tests) <= most:
    return tests
  sizes = [len(json.dumps(t.get("input", t.get("args")))) for t in tests]
  order = sorted(range(len(tests)), key=lambda i: (-sizes[i], i))[:most]
  return [tests[i] for i in sorted(order)]


def _parse(text: str, column: str) -> Any:
  """Returns the value of JSON text."""
  if not text.strip():
    raise schema.LeftOut("no test cases")
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise schema.BadRow(f"{column} is not JSON ({error})") from error


def _columns(value: Mapping[str, Any], column: str) -> list[tuple[Any, Any]]:
  """Returns pairs of inputs and outputs that stand in two lists."""
  inputs = value.get("inputs", value.get("input"))
  outputs = value.get("outputs", value.get("output"))
  if not isinstance(inputs, list) or not isinstance(outputs, list):
    raise schema.BadRow(f"{column} has no lists of inputs and outputs")
  if len(inputs) != len(outputs):
    raise schema.BadRow(
        f"{column} has {len(inputs)} inputs and {len(outputs)} outputs")
  return list(zip(inputs, outputs))


def _cases(
    value: Sequence[Any], column: str
) -> tuple[list[tuple[Any, Any]], list[str], str | None]:
  """Returns pairs, their kinds and the function's name, of a list of cases."""
  pairs, kinds, name = [], [], None
  for case in value:
    if not isinstance(case, Mapping) or not {"input", "output"} <= set(case):
      raise schema.BadRow(f"{column} has a test without input and output")
    more = case.get("metadata")
    named = case.get("fn_name") or (
        more.get("func_name") if isinstance(more, Mapping) else None)
    name = named or name
    kind = case.get("type") or case.get("testtype")
    kinds.append(str(kind or (_CALLS[0] if named else _STDIN[0])))
    pairs.append((case["input"], case["output"]))
  return pairs, kinds, name


def _stdin(given: Any, expected: Any, column: str) -> dict[str, str]:
  """Returns a test of a program; lists are lines."""
  both = []
  for value in (given, expected):
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
      value = "\n".join(value)
    if not isinstance(value, str):
      raise schema.BadRow(
          f"{column} has a {type(value).__name__} where text is read or"
          " written")
    both.append(value)
  return {"input": both[0], "output": both[1]}


def _calls(
    pairs: Sequence[tuple[Any, Any]], column: str
) -> list[dict[str, Any]]:
  """Returns tests of a function."""
  tests, written = [], False
  for given, expected in pairs:
    if isinstance(given, str):
      written = True
      given = [_parse(line, column) for line in given.split("\n") if line]
      expected = (
          _parse(expected, column) if isinstance(expected, str) else expected)
    if not isinstance(given, list):
      raise schema.BadRow(f"{column} has arguments that are no list")
    tests.append({"args": given, "expected": expected})
  values = [test["expected"] for test in tests]
  if not written and all(isinstance(v, list) and len(v) == 1 for v in values):
    tests = [{**test, "expected": test["expected"][0]} for test in tests]
  return tests
