"""TACO: 25 thousand programming problems with topics and difficulties.

  prompt  You are given a tree of $n$ vertices ... The program reads from
          standard input and writes to standard output. ...
  answer  ```python
          n = int(input()) ...
          ```

Li et al. 2023, as the hub's BAAI/TACO has it: columns question, input_output
(JSON), solutions (JSON), starter_code, difficulty; the published test is
validation. Option `difficulties`, all by default. Where the files lie is
from memory and can be said by `train_files` and `validation_files`.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base, programs, published, sets, texts

VERIFIER = programs.VERIFIER


def _files(options: Mapping[str, Any]) -> tuple[sets.File, ...]:
  """Names the files of both splits."""
  return (
      sets.File("train", options["train_files"]),
      sets.File("validation", options["validation_files"]))


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> sets.Problem:
  """Takes the columns as they are."""
  wanted = options["difficulties"]
  if wanted and record.get("difficulty") not in wanted:
    raise sets.LeftOut("another difficulty")
  return programs.problem(
      sets.text(record, "question"),
      record["input_output"] or [],
      "input_output",
      starter=programs.starter(record),
      solutions=record.get("solutions"),
      max_tests=options["max_tests"])


SET = sets.Set(
    name="taco",
    domain="code",
    repo="BAAI/TACO",
    verifier=VERIFIER,
    files=_files,
    columns=("question", "input_output"),
    row=_row,
    templates=texts.CODE,
    meta=programs.META,
    options={
        "difficulties": (),
        "train_files": "ALL/train-*.parquet",
        "validation_files": "ALL/test-*.parquet",
        "max_tests": 20},
    against=programs.AGAINST,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
