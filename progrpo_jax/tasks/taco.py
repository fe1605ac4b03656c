"""TACO: 25 thousand programming problems with topics and difficulties.

  prompt  You are given a tree of $n$ vertices ... The program reads from
          standard input and writes to standard output. ...
  answer  ```python
          n = int(input()) ...
          ```

Li et al. 2023, hub repository BAAI/TACO, columns question, input_output
(JSON), solutions (JSON), starter_code, difficulty. The published test set is
validation. Option `difficulties` selects some. The paths of the files could not
be checked at the hub; options `train_files` and `validation_files` replace
them.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs, published, schema, texts

VERIFIER = programs.VERIFIER


def _files(options: Mapping[str, Any]) -> tuple[schema.File, ...]:
  """Returns the files of both splits."""
  return (
    schema.File("train", options["train_files"]),
    schema.File("validation", options["validation_files"]),
  )


SET = schema.Set(
  name="taco",
  domain="code",
  repo="BAAI/TACO",
  verifier=VERIFIER,
  files=_files,
  columns=("question", "input_output"),
  row=programs.of_apps,
  templates=texts.CODE,
  meta=programs.META,
  options={
    "difficulties": (),
    "train_files": "ALL/train-*.parquet",
    "validation_files": "ALL/test-*.parquet",
    "max_tests": 20,
  },
  against=programs.AGAINST,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
