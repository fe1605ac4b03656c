"""HumanEval+: 164 Python functions with many tests, for evaluation.

  prompt  Complete this function ... def has_close_elements(numbers:
          List[float], threshold: float) -> bool: ... The tests call
          has_close_elements. ...
  answer  ```python
          def has_close_elements(numbers, threshold): ...
          ```

Liu et al. 2023 (EvalPlus), hub repository evalplus/humanevalplus: columns
task_id, prompt, canonical_solution, entry_point, test. The published tests are
Python code with assertions, which a submitted program could tamper with.
Instead, the lists `inputs` and `results` in that code are read as literals,
without running it, and become calls whose values are compared.

Left out and counted in the report are problems whose expected values come from
a reference program or a special check, and problems with values that JSON does
not have (sets, complex numbers). Tuples are compared as lists. The tolerance of
a test (third argument of `assertion`) becomes the verifier's `tolerance`. If it
is 0 and floats are expected, the published tests allow 1e-6, and so does the
verifier, unless integers are expected that are too large to be told apart at
that relative tolerance.
"""

import ast
from collections.abc import Iterator, Mapping
import json
import math
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs, published, schema, texts

VERIFIER = programs.VERIFIER


def _literals(code: str) -> tuple[list, list, float]:
  """Returns (inputs, results, tolerance) of a published test.

  Raises:
    schema.LeftOut: the test has another form.
    SyntaxError, ValueError: the lists are not literals.
  """
  tree = ast.parse(code)
  values: dict[str, Any] = {}
  tolerance = None
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
      name = node.targets[0].id
      if name in ("inputs", "results"):
        values[name] = ast.literal_eval(node.value)
    # assertion(function(*inp), exp, tolerance)
    if (
      isinstance(node, ast.Call)
      and getattr(node.func, "id", "") == ("assertion")
      and len(node.args) == 3
    ):
      tolerance = ast.literal_eval(node.args[2])
  if tolerance is None or set(values) != {"inputs", "results"}:
    raise schema.LeftOut("its tests are not lists of inputs and results")
  return values["inputs"], values["results"], tolerance


_FLOAT_TOLERANCE = 1e-6  # of the published tests if floats are expected
_MIN_EXACT = 10**5  # integers from here on are compared exactly


def _numbers(value: Any) -> Iterator[float]:
  """Yields the numbers in nested lists."""
  if isinstance(value, (list, tuple)):
    for part in value:
      yield from _numbers(part)
  elif isinstance(value, (int, float)):
    yield value


def _tolerance(asked: float, results: list) -> float:
  """Returns the relative tolerance for comparing a problem's results."""
  numbers = list(_numbers(results))
  if asked or not any(isinstance(number, float) for number in numbers):
    return asked
  has_large = any(
    isinstance(number, int) and abs(number) >= _MIN_EXACT for number in numbers
  )
  return 0 if has_large else _FLOAT_TOLERANCE


def _is_json(value: Any) -> bool:
  """Returns whether JSON can express a value, with tuples as lists."""
  if isinstance(value, (list, tuple)):
    return all(map(_is_json, value))
  if isinstance(value, dict):
    return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
  if isinstance(value, float):
    return math.isfinite(value)
  return value is None or isinstance(value, (bool, int, str))


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Converts a row, its assertions becoming calls of the function."""
  try:
    inputs, results, tolerance = _literals(schema.text(record, "test"))
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    if isinstance(error, (schema.BadRow, schema.LeftOut)):  # ValueErrors too
      raise
    raise schema.LeftOut("its tests are not literals") from error
  if not _is_json(inputs) or not _is_json(results):
    raise schema.LeftOut("its tests have values that JSON does not have")
  prompt = schema.text(record, "prompt")
  name = schema.text(record, "entry_point")
  # Through JSON, so that tuples become lists before the cases are checked.
  cases = [
    {
      "input": json.loads(json.dumps(list(given))),
      "output": [value],
      "fn_name": name,
    }
    for given, value in zip(inputs, results, strict=True)
  ]
  solution = prompt + schema.text(record, "canonical_solution")
  problem = programs.problem(
    f"Complete this function:\n```python\n{prompt.rstrip()}\n```",
    cases,
    "test",
    solutions=[solution],
    max_tests=options["max_tests"],
  )
  if tolerance := _tolerance(tolerance, results):
    problem.meta["tolerance"] = tolerance
  return problem


SET = schema.Set(
  name="humaneval_plus",
  domain="code",
  repo="evalplus/humanevalplus",
  verifier=VERIFIER,
  files=lambda options: (schema.File("validation", options["file"]),),
  columns=("prompt", "canonical_solution", "entry_point", "test"),
  row=_row,
  templates=texts.CODE,
  meta=programs.EVALUATION,
  options={
    "file": "data/test-00000-of-00001-5973903632b82d40.parquet",
    "max_tests": 0,
  },
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
