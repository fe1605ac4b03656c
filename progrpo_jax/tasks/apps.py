"""APPS: ten thousand programming problems of three difficulties.

  prompt  Polycarp has $n$ different binary words. ... The program reads from
          standard input and writes to standard output. ...
  answer  ```python
          for _ in range(int(input())): ...
          ```

Hendrycks et al. 2021, hub repository codeparrot/apps: 5,000 problems for
train, and the published test set of 5,000 as validation. Lines with question,
input_output (JSON), solutions (JSON), starter_code, difficulty. Option
`difficulties` selects some. Problems without tests are left out.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs, published, schema, texts

VERIFIER = programs.VERIFIER


SET = schema.Set(
  name="apps",
  domain="code",
  repo="codeparrot/apps",
  verifier=VERIFIER,
  files=lambda _: (
    schema.File("train", "train.jsonl"),
    schema.File("validation", "test.jsonl"),
  ),
  columns=("question", "input_output"),
  row=programs.of_apps,
  templates=texts.CODE,
  meta=programs.META,
  options={
    "difficulties": ("introductory", "interview", "competition"),
    "max_tests": 20,
  },
  against=programs.AGAINST,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
