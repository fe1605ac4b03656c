"""LiveCodeBench: dated problems of LeetCode, AtCoder, Codeforces; evaluation.

  prompt  You are given a 0-indexed string s ... Begin with this code: ...
          The tests call countSeniors of the class Solution. ...
  answer  ```python
          class Solution: ...
          ```

Jain et al. 2024, code generation, "lite", as the hub's
livecodebench/code_generation_lite has it: lines with question_content,
starter_code, contest_date, public_test_cases (JSON), private_test_cases
(JSON, or base64 of zlib of a pickled JSON text, of which only a text is
accepted) and metadata (JSON, with func_name). Options: `release` 1 to 6, the
files up to it; `first` and `last`, dates such as "2024-08-01".
"""

import base64
from collections.abc import Mapping
import io
import json
import pickle
from typing import Any
import zlib

from progrpo_jax.errors import InputError
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs, published, schema, texts

VERIFIER = programs.VERIFIER

_MAX_BYTES = 1 << 29  # of the tests of a problem


class _Texts(pickle.Unpickler):
  """Reads pickles of plain values: no class is looked up, so no code runs."""

  def find_class(self, module, name):
    """Refuses every class."""
    raise pickle.UnpicklingError(f"it names {module}.{name}")


def _private(value: str) -> list[dict[str, Any]]:
  """Returns the private tests of either form."""
  if value.lstrip().startswith("["):
    return json.loads(value)
  unpack = zlib.decompressobj()
  raw = unpack.decompress(base64.b64decode(value), _MAX_BYTES)
  if unpack.unconsumed_tail:
    raise ValueError(f"more than {_MAX_BYTES} bytes")
  return json.loads(_Texts(io.BytesIO(raw)).load())


def _files(options: Mapping[str, Any]) -> tuple[schema.File, ...]:
  """Names the files of all releases up to one."""
  release = options["release"]
  if release not in range(1, 7):
    raise InputError(f"livecodebench: release is 1 to 6, not {release!r}")
  names = ["test.jsonl", *(f"test{i}.jsonl" for i in range(2, release + 1))]
  return tuple(schema.File("validation", name) for name in names)


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Joins public and private tests."""
  date = schema.text(record, "contest_date")[:10]
  if date < options["first"] or (options["last"] and date > options["last"]):
    raise schema.LeftOut("another date")
  try:
    cases = json.loads(schema.text(record, "public_test_cases"))
    cases += _private(schema.text(record, "private_test_cases"))
    more = json.loads(record.get("metadata") or "{}")
  except schema.BadRow:
    raise
  # Odd pickles raise whatever they like.
  except Exception as error:
    raise schema.BadRow(f"test cases cannot be read ({error})") from error
  if not isinstance(more, dict):
    raise schema.BadRow("metadata is no JSON object")
  return programs.problem(
      schema.text(record, "question_content"),
      cases,
      "test cases",
      starter=programs.starter(record),
      name=more.get("func_name"),
      max_tests=options["max_tests"])


SET = schema.Set(
    name="livecodebench",
    domain="code",
    repo="livecodebench/code_generation_lite",
    verifier=VERIFIER,
    files=_files,
    columns=("question_content", "contest_date", "public_test_cases",
             "private_test_cases"),
    row=_row,
    templates=texts.CODE,
    meta=programs.EVALUATION,
    options={"release": 6, "first": "", "last": "", "max_tests": 0},
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  options = {"max_reference_chars": 100_000_000, **options}
  return published.rows(SET, split, **options)
