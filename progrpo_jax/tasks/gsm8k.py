"""GSM8K: grade-school arithmetic word problems with worked solutions.

  prompt  Natalia sold clips to 48 of her friends in April, and then she sold
          half as many clips in May. How many clips did Natalia sell
          altogether in April and May? ... final answer within \\boxed{}.
  answer  \\boxed{72}

Cobbe et al. 2021, hub repository openai/gsm8k: 7,473 problems for train, and
the published test set of 1,319 as validation. Solutions are demonstrations,
with their calculator annotations (<<6*7=42>>) removed.
"""

import re
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"

_ANNOTATION = re.compile(r"<<[^<>]*>>")


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Converts a row; the answer follows #### in the solution."""
  solution, sign, answer = schema.text(record, "answer").rpartition("####")
  answer = answer.replace(",", "").strip()
  if not sign or not answer:
    raise schema.BadRow("answer has no '#### ' before a final number")
  worked = f"{_ANNOTATION.sub('', solution).strip()}\n{texts.box(answer)}"
  return schema.Problem(
    schema.text(record, "question"), answer, demonstrations=(worked,)
  )


SET = schema.Set(
  name="gsm8k",
  domain="mathematics",
  repo="openai/gsm8k",
  verifier=VERIFIER,
  files=lambda _: (
    schema.File("train", "main/train-00000-of-00001.parquet"),
    schema.File("validation", "main/test-00000-of-00001.parquet"),
  ),
  columns=("question", "answer"),
  row=_row,
  templates=texts.BOXED,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
