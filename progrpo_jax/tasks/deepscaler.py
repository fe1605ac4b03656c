"""DeepScaleR: 40 thousand competition problems with short answers.

  prompt  The operation $\\otimes$ is defined for all nonzero numbers by ...
          final answer within \\boxed{}.
  answer  \\boxed{-\\frac{2}{3}}

Luo et al. 2025, hub repository agentica-org/DeepScaleR-Preview-Dataset: AIME
until 2023, AMC before 2023, Omni-MATH and STILL. ProRL's training set of
mathematics. One JSON list with problem, answer and solution. A solution is a
demonstration if its boxes contain the answer and nothing else.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Converts a row."""
  answer = texts.number_or_text(record, "answer")
  solution = record.get("solution")
  demonstrations = (
    texts.worked(solution, answer) if isinstance(solution, str) else ()
  )
  return schema.Problem(
    schema.text(record, "problem"), answer, demonstrations=demonstrations
  )


SET = schema.Set(
  name="deepscaler",
  domain="mathematics",
  repo="agentica-org/DeepScaleR-Preview-Dataset",
  verifier=VERIFIER,
  files=lambda _: (schema.File("train", "deepscaler.json"),),
  columns=("problem", "answer"),
  row=_row,
  templates=texts.BOXED,
  against=texts.MATHEMATICS,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
