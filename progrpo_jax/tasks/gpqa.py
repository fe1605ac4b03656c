"""GPQA: questions that only experts of a science answer; for evaluation.

  prompt  Two quantum states with energies E1 and E2 have a lifetime of
          10^-9 sec and 10^-8 sec, respectively. ... (A) 10^-8 eV (B) 10^-4
          eV ... the letter of the right option within \\boxed{}.
  answer  \\boxed{B}

Rein et al. 2023, as the hub's Idavidrein/gpqa has it, for whom has accepted
its terms: tables gpqa_diamond.csv (198), gpqa_main.csv (448) and
gpqa_extended.csv (546), option `subset`. The right option is published
first; the options are shuffled by the task's seed and the question.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.choice:score"

_COLUMNS = (
    "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2",
    "Incorrect Answer 3")


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Shuffles the options."""
  answers = [schema.text(record, column).strip() for column in _COLUMNS]
  return texts.choice(
      schema.text(record, "Question"), answers, 0, seed=options["seed"])


SET = schema.Set(
    name="gpqa",
    domain="science",
    repo="Idavidrein/gpqa",
    verifier=VERIFIER,
    files=lambda options: (
        schema.File("validation", f"gpqa_{options['subset']}.csv"),),
    columns=("Question", *_COLUMNS),
    row=_row,
    templates=texts.CHOICE,
    options={"subset": "diamond", "seed": 0},
    access="accept its terms at the hub and log in with hf auth login",
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
