"""HumanEval+: 164 Python functions with many tests; for evaluation.

  prompt  Complete this function ... def has_close_elements(numbers:
          List[float], threshold: float) -> bool: ... The tests call
          has_close_elements. ...
  answer  ```python
          def has_close_elements(numbers, threshold): ...
          ```

Liu et al. 2023 (EvalPlus), as the hub's evalplus/humanevalplus has it:
columns task_id, prompt, canonical_solution, entry_point, test. Published
tests are Python that asserts; a program could tamper with those. Instead the
lists `inputs` and `results` in that Python are read as literals, never run,
and become calls whose values are compared. Left out, and counted in the
report: problems whose expected values are computed by a reference program or
by a check of their own, and those with values that JSON does not have (sets,
complex numbers). Tuples are compared as lists. A tolerance of a test (the
third argument of `assertion`) becomes the verifier's, see `tolerance`; where
it is 0 and floats are expected, the published tests allow 1e-6, and so does
the verifier, unless whole numbers so large are expected that it would blur
them.
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
  """Returns inputs, results and the tolerance of a published test."""
  tree = ast.parse(code)
  values: dict[str, Any] = {}
  tolerance = None
  for node in ast.walk(tree):
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
      name = node.targets[0].id
      if name in ("inputs", "results"):
        values[name] = ast.literal_eval(node.value)
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == (
        "assertion") and len(node.args) == 3:
      tolerance = ast.literal_eval(node.args[2])
  if tolerance is None or set(values) != {"inputs", "results"}:
    raise schema.LeftOut("its tests are no list of inputs and results")
  return values["inputs"], values["results"], tolerance


_FLOATS = 1e-6  # what the published tests allow where floats are expected
_BLURRED = 10**5  # whole numbers from here on are kept exact


def _numbers(value: Any) -> Iterator[float]:
  """Yields the numbers in a value, at any depth."""
  if isinstance(value, (list, tuple)):
    for part in value:
      yield from _numbers(part)
  elif isinstance(value, (int, float)):
    yield value


def _tolerance(asked: float, results: list) -> float:
  """Returns the tolerance of a problem's tests."""
  found = list(_numbers(results))
  if asked or not any(isinstance(number, float) for number in found):
    return asked
  large = any(
      isinstance(number, int) and abs(number) >= _BLURRED for number in found)
  return 0 if large else _FLOATS


def _plain(value: Any) -> bool:
  """Says whether JSON keeps a value, but for tuples becoming lists."""
  if isinstance(value, (list, tuple)):
    return all(map(_plain, value))
  if isinstance(value, dict):
    return all(isinstance(k, str) and _plain(v) for k, v in value.items())
  if isinstance(value, float):
    return math.isfinite(value)
  return value is None or isinstance(value, (bool, int, str))


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Turns assertions into calls."""
  try:
    inputs, results, tolerance = _literals(schema.text(record, "test"))
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    if isinstance(error, (schema.BadRow, schema.LeftOut)):
      raise
    raise schema.LeftOut("its tests are no literals") from error
  if not _plain(inputs) or not _plain(results):
    raise schema.LeftOut("its tests have values that JSON does not have")
  prompt = schema.text(record, "prompt")
  name = schema.text(record, "entry_point")
  cases = [
      {"input": json.loads(json.dumps(list(given))), "output": [value],
       "fn_name": name}
      for given, value in zip(inputs, results, strict=True)]
  whole = prompt + schema.text(record, "canonical_solution")
  made = programs.problem(
      f"Complete this function:\n```python\n{prompt.rstrip()}\n```",
      cases, "test", solutions=[whole], max_tests=options["max_tests"])
  if tolerance := _tolerance(tolerance, results):
    made.meta["tolerance"] = tolerance
  return made


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
        "max_tests": 0},
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
