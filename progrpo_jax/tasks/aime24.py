"""AIME 2024: thirty problems with answers from 0 to 999, for evaluation.

  prompt  Every morning Aya goes for a $9$-kilometer-long walk and stops at a
          coffee shop afterwards. ... final answer within \\boxed{}.
  answer  \\boxed{204}

American Invitational Mathematics Examination, both parts. Hub repository
HuggingFaceH4/aime_2024, columns problem, answer, solution, url.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


SET = schema.Set(
  name="aime24",
  domain="mathematics",
  repo="HuggingFaceH4/aime_2024",
  verifier=VERIFIER,
  files=lambda _: (
    schema.File("validation", "data/train-00000-of-00001.parquet"),
  ),
  columns=texts.SHORT_ANSWER,
  row=texts.short_answer,
  templates=texts.BOXED,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
