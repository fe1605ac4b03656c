"""Minerva: 272 science problems of MIT OpenCourseWare, for evaluation.

  prompt  Each of the two Magellan telescopes has a diameter of $6.5 m$. In
          one configuration the effective focal length is ... final answer
          within \\boxed{}.
  answer  \\boxed{16}

Lewkowycz et al. 2022; papers on reasoning call the set Minerva. Hub repository
math-ai/minervamath: lines with question (or problem), and with answer or a
solution that boxes it. The file's name could not be checked at the hub.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Converts a row; the answer is in its column or the solution's box."""
  if record.get("answer") is None:
    answer = texts.boxed(schema.text(record, "solution"))
  else:
    answer = texts.number_or_text(record, "answer")
  return schema.Problem(
    schema.text(record, "question", "problem"),
    answer,
    demonstrations=(texts.box(answer),),
  )


SET = schema.Set(
  name="minerva_math",
  domain="mathematics",
  repo="math-ai/minervamath",
  verifier=VERIFIER,
  files=lambda _: (schema.File("validation", "test.jsonl"),),
  columns=(("question", "problem"), ("answer", "solution")),
  row=_row,
  templates=texts.BOXED,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
