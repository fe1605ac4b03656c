"""DeepScaleR: 40 thousand competition problems with short answers.

  prompt  The operation $\\otimes$ is defined for all nonzero numbers by ...
          final answer within \\boxed{}.
  answer  \\boxed{-\\frac{2}{3}}

Luo et al. 2025 (agentica-org), from AIME until 2023, AMC before 2023,
Omni-MATH and STILL; ProRL's mathematics. One JSON list with problem, answer
and solution. A solution is a demonstration where what it boxes is the
answer.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Takes the columns as they are."""
  answer = texts.number_or_text(record, "answer")
  solution = record.get("solution")
  shown = texts.worked(solution, answer) if isinstance(solution, str) else ()
  return schema.Problem(
      schema.text(record, "problem"), answer, demonstrations=shown)


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
  """Returns a split; options as in `published.rows`."""
  return published.rows(SET, split, **options)
