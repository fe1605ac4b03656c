"""Converts the test cases of published programming problems to one format.

Tests of a program are [{"input": text, "output": text}], from standard input
to standard output. Tests of a function are [{"args": list, "expected":
value}], together with the function's name. Published formats, as values or
as JSON:

  {"inputs": [...], "outputs": [...], "fn_name": name}   APPS, TACO, Eurus
  {"input": [...], "output": [...]}                      CodeContests
  [{"input", "output", "type" or "testtype", ...}]       DeepCoder, LiveCode-
                                                         Bench

The function's name is in fn_name or metadata.func_name. The input of a call is
a list of arguments or, in LiveCodeBench, a text with one JSON value per line.
APPS wraps each expected value in a list of length one, so if all expected
values of a problem are such lists, they are unwrapped. A function that really
returns such lists in all of its tests is therefore judged wrongly.
"""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from progrpo_jax import errors
from progrpo_jax.tasks.sets import schema

# Published names of the two kinds of tests.
_CALLS = ("functional", "function_call")
_STDIN = ("stdin", "stdin_stdout")


def read(
  value: Any, column: str, name: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
  """Returns (tests, name of the function to call or None).

  Args:
    value: published test cases.
    column: name of their column, for messages.
    name: name of the function, for sets that publish it elsewhere.

  Raises:
    BadRow: the test cases have none of the published formats.
    LeftOut: there are no test cases.
  """
  if isinstance(value, str):
    value = _parse(value, column)
  if isinstance(value, Mapping):
    name = value.get("fn_name") or name
    pairs = _columns(value, column)
    kinds = [_CALLS[0] if name else _STDIN[0]] * len(pairs)
  elif isinstance(value, Sequence):
    pairs, kinds, case_name = _cases(value, column)
    name = case_name or name
  else:
    raise schema.BadRow(f"{column} is {errors.kind(value)}, not test cases")
  if not pairs:
    raise schema.LeftOut("no test cases")
  # All tests of a problem must be of one kind.
  if set(kinds) <= set(_STDIN):
    return [_stdin(*pair, column) for pair in pairs], None
  if not set(kinds) <= set(_CALLS):
    raise schema.BadRow(f"{column} has tests of the kinds {sorted(set(kinds))}")
  if not isinstance(name, str) or not name:
    raise schema.BadRow(f"{column} calls a function without a name")
  return _calls(pairs, column), name


def longest(tests: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
  """Returns the `most` tests with the longest inputs, in their order.

  All tests if `most` is 0.
  """
  if not most or len(tests) <= most:
    return tests
  sizes = [len(json.dumps(t.get("input", t.get("args")))) for t in tests]
  order = sorted(range(len(tests)), key=lambda i: (-sizes[i], i))[:most]
  return [tests[i] for i in sorted(order)]


def _parse(text: str, column: str) -> Any:
  """Returns the value of JSON text; an empty text means no test cases."""
  if not text.strip():
    raise schema.LeftOut("no test cases")
  return schema.parse_json(text, column)


def _columns(value: Mapping[str, Any], column: str) -> list[tuple[Any, Any]]:
  """Returns (input, output) pairs from a record of two lists."""
  inputs = value.get("inputs", value.get("input"))
  outputs = value.get("outputs", value.get("output"))
  if not isinstance(inputs, list) or not isinstance(outputs, list):
    raise schema.BadRow(f"{column} has no lists of inputs and outputs")
  if len(inputs) != len(outputs):
    raise schema.BadRow(
      f"{column} has {len(inputs)} inputs and {len(outputs)} outputs"
    )
  return list(zip(inputs, outputs))


def _cases(
  value: Sequence[Any], column: str
) -> tuple[list[tuple[Any, Any]], list[str], str | None]:
  """Returns (input, output) pairs, their kinds and the function's name."""
  pairs, kinds, name = [], [], None
  for case in value:
    if not isinstance(case, Mapping) or not {"input", "output"} <= set(case):
      raise schema.BadRow(f"{column} has a test without input and output")
    metadata = case.get("metadata")
    case_name = case.get("fn_name") or (
      metadata.get("func_name") if isinstance(metadata, Mapping) else None
    )
    name = case_name or name
    # A case without a kind is a call if it names a function.
    kind = case.get("type") or case.get("testtype")
    kinds.append(str(kind or (_CALLS[0] if case_name else _STDIN[0])))
    pairs.append((case["input"], case["output"]))
  return pairs, kinds, name


def _stdin(given: Any, expected: Any, column: str) -> dict[str, str]:
  """Returns a test of a program; a list of texts is joined as lines."""
  both = []
  for value in (given, expected):
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
      value = "\n".join(value)
    if not isinstance(value, str):
      raise schema.BadRow(
        f"{column} has {errors.kind(value)} where text is read or written"
      )
    both.append(value)
  return {"input": both[0], "output": both[1]}


def _calls(
  pairs: Sequence[tuple[Any, Any]], column: str
) -> list[dict[str, Any]]:
  """Returns tests of a function."""
  tests, is_json_text = [], False
  for given, expected in pairs:
    if isinstance(given, str):  # LiveCodeBench: one JSON value per line
      is_json_text = True
      given = [_parse(line, column) for line in given.split("\n") if line]
      expected = (
        _parse(expected, column) if isinstance(expected, str) else expected
      )
    if not isinstance(given, list):
      raise schema.BadRow(f"{column} has arguments that are not a list")
    tests.append({"args": given, "expected": expected})
  values = [test["expected"] for test in tests]
  wrapped = all(isinstance(v, list) and len(v) == 1 for v in values)
  if wrapped and not is_json_text:  # see the module's docstring on APPS
    tests = [{**test, "expected": test["expected"][0]} for test in tests]
  return tests
