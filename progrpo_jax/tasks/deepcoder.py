"""DeepCoder: verified TACO, PrimeIntellect's SYNTHETIC-1, LiveCodeBench.

  prompt  Given a string s, return the longest palindrome ... The tests call
          longest. ...
  answer  ```python
          def longest(s): ...
          ```

Luo et al. 2025, hub repository agentica-org/DeepCoder-Preview-Dataset: 24
thousand problems with at least five tests each. One folder per subset, columns
problem, tests (JSON in several formats, see `testcases`), solutions, and in
lcbv5 starter_code. Options: `subsets` of train; `validation_subsets`, by
default codeforces and lcbv5, of the published test sets. Like DeepCoder, keeps
the 15 tests with the longest inputs (`max_tests`).
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs, published, schema, texts

VERIFIER = programs.VERIFIER


def _files(options: Mapping[str, Any]) -> tuple[schema.File, ...]:
  """Returns the files of the subsets."""
  return (
    *(
      schema.File("train", f"{name}/train-*.parquet")
      for name in options["subsets"]
    ),
    *(
      schema.File("validation", f"{name}/test-*.parquet")
      for name in options["validation_subsets"]
    ),
  )


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Converts a row of any subset."""
  metadata = record.get("metadata")
  name = metadata.get("func_name") if isinstance(metadata, Mapping) else None
  return programs.problem(
    schema.text(record, "problem"),
    record["tests"],
    "tests",
    starter=programs.starter(record),
    name=name,
    solutions=record.get("solutions"),
    max_tests=options["max_tests"],
  )


SET = schema.Set(
  name="deepcoder",
  domain="code",
  repo="agentica-org/DeepCoder-Preview-Dataset",
  verifier=VERIFIER,
  files=_files,
  columns=("problem", "tests"),
  row=_row,
  templates=texts.CODE,
  meta=programs.META,
  options={
    "subsets": ("primeintellect", "taco", "lcbv5"),
    "validation_subsets": ("codeforces", "lcbv5"),
    "max_tests": 15,
  },
  against=programs.AGAINST,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
