"""OlympiadBench: olympiad problems with final answers, for evaluation.

  prompt  Let $T=11$. Compute the value of $x$ that satisfies $\\sqrt{20+
          \\sqrt{T+x}}=5$. ... final answer within \\boxed{}.
  answer  \\boxed{14}

He et al. 2024, hub repository Hothan/OlympiadBench; by default the part that
papers on reasoning use: open-ended, text only, mathematics, English, 674
problems. Columns question, final_answer (a list), is_multiple_answer, error.
Several answers of one problem are joined by commas. The allowed error of an
answer, which most physics problems state, is absolute; it becomes the
verifier's `tolerance`, which is relative. Problems with an image are left out.
Option `part` selects another part, such as "OE_TO_physics_en_COMP".
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.rewards import evaluation, expressions, latex
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


def _files(options: Mapping[str, Any]) -> tuple[schema.File, ...]:
  """Returns the file of the option `part`."""
  part = options["part"]
  return (schema.File("validation", f"OlympiadBench/{part}/{part}.parquet"),)


def _tolerance(error: Any, answer: str) -> dict[str, float]:
  """Returns {"tolerance": relative error}, {} if no error is published."""
  try:
    allowed = float(error)
  except (TypeError, ValueError):
    return {}  # no error, or one for each of several answers
  tree = expressions.parse(latex.clean(answer))
  value = evaluation.evaluate(tree, 0) if tree else None
  relative = allowed / abs(value) if value else 0
  return {"tolerance": float(relative)} if 0 < relative < 1 else {}


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Converts a row; its final answers are joined, without dollar signs."""
  if record.get("modality") not in (None, "Text-only"):
    raise schema.LeftOut("it has an image")
  answers = record["final_answer"]
  if isinstance(answers, str):
    answers = [answers]
  if not isinstance(answers, list) or not all(
    isinstance(answer, str) for answer in answers
  ):
    raise schema.BadRow("final_answer is not a list of texts")
  answer = ", ".join(a.strip().strip("$").strip() for a in answers)
  return schema.Problem(
    schema.text(record, "question"),
    answer,
    _tolerance(record.get("error"), answer),
    demonstrations=(texts.box(answer),),
  )


SET = schema.Set(
  name="olympiad_bench",
  domain="mathematics",
  repo="Hothan/OlympiadBench",
  verifier=VERIFIER,
  files=_files,
  columns=("question", "final_answer"),
  row=_row,
  templates=texts.BOXED,
  options={"part": "OE_TO_maths_en_COMP"},
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
