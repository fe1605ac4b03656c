"""AMC 2023: forty problems of AMC 12 with integer answers, for evaluation.

  prompt  Cities $A$ and $B$ are $45$ miles apart. Alicia lives in $A$ and Beth
          lives in $B$. ... final answer within \\boxed{}.
  answer  \\boxed{27}

American Mathematics Competitions without their answer choices. Hub repository
math-ai/amc23, columns question (or problem) and answer, which is 27.0 in some
copies and is read as 27. The file's name could not be checked at the hub.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


SET = schema.Set(
  name="amc23",
  domain="mathematics",
  repo="math-ai/amc23",
  verifier=VERIFIER,
  files=lambda _: (schema.File("validation", "test-00000-of-00001.parquet"),),
  columns=texts.SHORT_ANSWER,
  row=texts.short_answer,
  templates=texts.BOXED,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
