"""AIME 2025: thirty problems with answers from 0 to 999, for evaluation.

  prompt  Find the sum of all integer bases $b>9$ for which $17_b$ is a divisor
          of $97_b.$ ... final answer within \\boxed{}.
  answer  \\boxed{70}

American Invitational Mathematics Examination, both parts, one file each. Hub
repository opencompass/AIME2025, columns question (or problem) and answer.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


SET = schema.Set(
  name="aime25",
  domain="mathematics",
  repo="opencompass/AIME2025",
  verifier=VERIFIER,
  files=lambda _: (
    schema.File("validation", "aime2025-I.jsonl"),
    schema.File("validation", "aime2025-II.jsonl"),
  ),
  columns=texts.SHORT_ANSWER,
  row=texts.short_answer,
  templates=texts.BOXED,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
