"""OlympiadBench: olympiad problems with final answers; for evaluation.

  prompt  Let $T=11$. Compute the value of $x$ that satisfies $\\sqrt{20+
          \\sqrt{T+x}}=5$. ... final answer within \\boxed{}.
  answer  \\boxed{14}

He et al. 2024, the part that papers on reasoning use: open-ended, text only,
mathematics, English, 674 problems, as the hub's Hothan/OlympiadBench has it;
columns question, final_answer (a list), is_multiple_answer, error. Several
answers of one problem are joined by commas. The error that an answer may have,
which most problems of physics say, is absolute; it becomes the verifier's
`tolerance`, which is relative. Problems that show an image are left out.
Another part is an option: `part="OE_TO_physics_en_COMP"`.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.rewards import latex
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"


def _files(options: Mapping[str, Any]) -> tuple[schema.File, ...]:
  """Names the file of a part."""
  part = options["part"]
  return (
      schema.File("validation", f"OlympiadBench/{part}/{part}.parquet"),)


def _tolerance(error: Any, answer: str) -> dict[str, float]:
  """Returns the verifier's tolerance, if an absolute error is published."""
  try:
    allowed = float(error)
  except (TypeError, ValueError):
    return {}  # none, or one for each of several answers
  tree = latex.parse(latex.clean(answer))
  value = latex.evaluate(tree, 0) if tree else None
  relative = allowed / abs(value) if value else 0
  return {"tolerance": float(relative)} if 0 < relative < 1 else {}


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Joins the final answers, without their dollar signs."""
  if record.get("modality") not in (None, "Text-only"):
    raise schema.LeftOut("it shows an image")
  answers = record["final_answer"]
  if isinstance(answers, str):
    answers = [answers]
  if not isinstance(answers, list) or not all(
      isinstance(answer, str) for answer in answers):
    raise schema.BadRow("final_answer is no list of texts")
  answer = ", ".join(a.strip().strip("$").strip() for a in answers)
  return schema.Problem(
      schema.text(record, "question"),
      answer,
      _tolerance(record.get("error"), answer),
      demonstrations=(texts.box(answer),))


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
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
