"""MATH-500: five hundred problems of MATH's test set, for evaluation.

  prompt  Convert the point $(0,3)$ in rectangular coordinates to polar
          coordinates. ... final answer within \\boxed{}.
  answer  \\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}

The subset of Lightman et al. 2023, hub repository HuggingFaceH4/MATH-500:
lines with problem, solution, answer, subject, level, unique_id.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


SET = schema.Set(
  name="math500",
  domain="mathematics",
  repo="HuggingFaceH4/MATH-500",
  verifier=VERIFIER,
  files=lambda _: (schema.File("validation", "test.jsonl"),),
  columns=texts.SHORT_ANSWER,
  row=texts.short_answer,
  templates=texts.BOXED,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
