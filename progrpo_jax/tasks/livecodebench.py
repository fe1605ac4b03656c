"""LiveCodeBench: dated problems from programming contests, for evaluation.

  prompt  You are given a 0-indexed string s ... Begin with this code: ...
          The tests call countSeniors of the class Solution. ...
  answer  ```python
          class Solution: ...
          ```

Jain et al. 2024; problems of LeetCode, AtCoder and Codeforces. Hub repository
livecodebench/code_generation_lite, lines with question_content, starter_code,
contest_date, public_test_cases (JSON), private_test_cases (JSON, or a pickled
JSON text in zlib and base64) and metadata (JSON, with func_name). Pickles are
read without running code. Options: `release`, 1 to 6, takes the files up to
that release; `first` and `last` are dates such as "2024-08-01".
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

_MAX_BYTES = 1 << 29  # decompressed size of a problem's tests


class _PlainUnpickler(pickle.Unpickler):
  """Unpickles plain values. It looks up no class, so no code runs."""

  def find_class(self, module, name):
    """Refuses every class."""
    raise pickle.UnpicklingError(f"the pickle names {module}.{name}")


def _private(value: str) -> list[dict[str, Any]]:
  """Returns private tests from JSON or from base64, zlib and pickle."""
  if value.lstrip().startswith("["):
    return json.loads(value)
  unpack = zlib.decompressobj()
  raw = unpack.decompress(base64.b64decode(value), _MAX_BYTES)
  if unpack.unconsumed_tail:
    raise ValueError(f"more than {_MAX_BYTES} bytes")
  return json.loads(_PlainUnpickler(io.BytesIO(raw)).load())


def _files(options: Mapping[str, Any]) -> tuple[schema.File, ...]:
  """Returns the files of all releases up to the option `release`."""
  release = options["release"]
  if release not in range(1, 7):
    raise InputError(f"livecodebench: release is 1 to 6, not {release!r}")
  names = ["test.jsonl", *(f"test{i}.jsonl" for i in range(2, release + 1))]
  return tuple(schema.File("validation", name) for name in names)


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Converts a row; its tests are the public and the private ones."""
  date = schema.text(record, "contest_date")[:10]
  if date < options["first"] or (options["last"] and date > options["last"]):
    raise schema.LeftOut("another date")
  try:
    cases = json.loads(schema.text(record, "public_test_cases"))
    cases += _private(schema.text(record, "private_test_cases"))
    metadata = json.loads(record.get("metadata") or "{}")
  except schema.BadRow:
    raise
  # A malformed pickle may raise any exception.
  except Exception as error:
    raise schema.BadRow(f"test cases cannot be read ({error})") from error
  if not isinstance(metadata, dict):
    raise schema.BadRow("metadata is not a JSON object")
  return programs.problem(
    schema.text(record, "question_content"),
    cases,
    "test cases",
    starter=programs.starter(record),
    name=metadata.get("func_name"),
    max_tests=options["max_tests"],
  )


SET = schema.Set(
  name="livecodebench",
  domain="code",
  repo="livecodebench/code_generation_lite",
  verifier=VERIFIER,
  files=_files,
  columns=(
    "question_content",
    "contest_date",
    "public_test_cases",
    "private_test_cases",
  ),
  row=_row,
  templates=texts.CODE,
  meta=programs.EVALUATION,
  options={"release": 6, "first": "", "last": "", "max_tests": 0},
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  # The tests of some problems exceed the default limit.
  options = {"max_reference_chars": 100_000_000, **options}
  return published.rows(SET, split, **options)
