"""GPQA: science questions that only experts can answer, for evaluation.

  prompt  Two quantum states with energies E1 and E2 have a lifetime of
          10^-9 sec and 10^-8 sec, respectively. ... (A) 10^-8 eV (B) 10^-4
          eV ... the letter of the right option within \\boxed{}.
  answer  \\boxed{B}

Rein et al. 2023, hub repository Idavidrein/gpqa, which requires accepting its
terms. Option `subset` selects a table: gpqa_diamond.csv (198 questions),
gpqa_main.csv (448) or gpqa_extended.csv (546). The correct option is published
first; the task's seed and the question determine how options are shuffled.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.choice:score"

# Options of a question, the correct one first.
_COLUMNS = (
  "Correct Answer",
  "Incorrect Answer 1",
  "Incorrect Answer 2",
  "Incorrect Answer 3",
)


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Converts a row; its options are shuffled."""
  answers = [schema.text(record, column).strip() for column in _COLUMNS]
  return texts.choice(
    schema.text(record, "Question"), answers, 0, seed=options["seed"]
  )


SET = schema.Set(
  name="gpqa",
  domain="science",
  repo="Idavidrein/gpqa",
  verifier=VERIFIER,
  files=lambda options: (
    schema.File("validation", f"gpqa_{options['subset']}.csv"),
  ),
  columns=("Question", *_COLUMNS),
  row=_row,
  templates=texts.CHOICE,
  options={"subset": "diamond", "seed": 0},
  access="accept its terms at the hub and log in with hf auth login",
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
