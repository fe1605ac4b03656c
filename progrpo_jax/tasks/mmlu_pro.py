"""MMLU-Pro: questions of fourteen subjects, up to ten options; evaluation.

  prompt  Typical advertising regulatory bodies suggest, for example that
          adverts must not: encourage _________ ... (A) Unsafe practices,
          Fear, Jealousy, Trivial ... the letter of the right option within
          \\boxed{}.
  answer  \\boxed{G}

Wang et al. 2024, as the hub's TIGER-Lab/MMLU-Pro has it: the published test,
12,032 questions; columns question, options, answer_index, category. Options
that are only "N/A" are taken off, and the others shuffled by the task's seed
and the question. Option `categories`, such as ["physics"], all by default.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.choice:score"


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Takes off what is no option and shuffles the rest."""
  if options["categories"] and record["category"] not in options["categories"]:
    raise schema.LeftOut("another category")
  answers, right = record["options"], record["answer_index"]
  if not isinstance(answers, list) or not all(
      isinstance(answer, str) for answer in answers):
    raise schema.BadRow("options is no list of texts")
  if not isinstance(right, int) or not 0 <= right < len(answers):
    raise schema.BadRow(f"answer_index {right!r} is none of the options")
  kept = [i for i, a in enumerate(answers) if i == right or a.strip() != "N/A"]
  return texts.choice(
      schema.text(record, "question"), [answers[i] for i in kept],
      kept.index(right), seed=options["seed"])


SET = schema.Set(
    name="mmlu_pro",
    domain="science",
    repo="TIGER-Lab/MMLU-Pro",
    verifier=VERIFIER,
    files=lambda _: (
        schema.File("validation", "data/test-00000-of-00001.parquet"),),
    columns=("question", "options", "answer_index", "category"),
    row=_row,
    templates=texts.CHOICE,
    options={"categories": (), "seed": 0},
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
