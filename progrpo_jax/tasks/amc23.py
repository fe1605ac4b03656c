"""AMC 2023: forty problems of AMC 12, answers whole numbers; for evaluation.

  prompt  Cities $A$ and $B$ are $45$ miles apart. Alicia lives in $A$ and Beth
          lives in $B$. ... final answer within \\boxed{}.
  answer  \\boxed{27}

American Mathematics Competitions as the hub's math-ai/amc23 has them: the
choices are taken off; columns question (or problem) and answer, which in
some copies is 27.0 and is read as 27. The name of the file is from memory.
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
    files=lambda _: (
        schema.File("validation", "test-00000-of-00001.parquet"),),
    columns=texts.SHORT_ANSWER,
    row=texts.short_answer,
    templates=texts.BOXED,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`."""
  return published.rows(SET, split, **options)
