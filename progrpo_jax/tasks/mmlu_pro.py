"""MMLU-Pro: questions on fourteen subjects with up to ten options each.

  prompt  Typical advertising regulatory bodies suggest, for example that
          adverts must not: encourage _________ ... (A) Unsafe practices,
          Fear, Jealousy, Trivial ... the letter of the right option within
          \\boxed{}.
  answer  \\boxed{G}

For evaluation. Wang et al. 2024, hub repository TIGER-Lab/MMLU-Pro: the
published test set of 12,032 questions, columns question, options,
answer_index, category. Wrong options that read "N/A" are dropped; the task's
seed and the question determine how the rest are shuffled. Option `categories`
selects some, such as ["physics"].
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.choice:score"


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Converts a row; drops wrong "N/A" options and shuffles the rest."""
  if options["categories"] and record["category"] not in options["categories"]:
    raise schema.LeftOut("another category")
  answers, right = record["options"], record["answer_index"]
  if not isinstance(answers, list) or not all(
    isinstance(answer, str) for answer in answers
  ):
    raise schema.BadRow("options is not a list of texts")
  if not isinstance(right, int) or not 0 <= right < len(answers):
    raise schema.BadRow(f"answer_index {right!r} is not an option")
  kept = [i for i, a in enumerate(answers) if i == right or a.strip() != "N/A"]
  return texts.choice(
    schema.text(record, "question"),
    [answers[i] for i in kept],
    kept.index(right),
    seed=options["seed"],
  )


SET = schema.Set(
  name="mmlu_pro",
  domain="science",
  repo="TIGER-Lab/MMLU-Pro",
  verifier=VERIFIER,
  files=lambda _: (
    schema.File("validation", "data/test-00000-of-00001.parquet"),
  ),
  columns=("question", "options", "answer_index", "category"),
  row=_row,
  templates=texts.CHOICE,
  options={"categories": (), "seed": 0},
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
