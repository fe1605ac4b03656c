"""SCP-116K: textbook problems of physics, chemistry and biology.

  prompt  A particle of mass m moves in a potential ... What is its period?
          ... final answer within \\boxed{}.
  answer  \\boxed{2\\pi\\sqrt{m/k}}

Lu et al. 2025, hub repository EricLu/SCP-116K, columns problem,
matched_solution and domain. ProRL's training set of science. The ground truth
is the last box of the matched solution, or the whole solution if it is one line
of at most `max_answer_chars` characters. Like ProRL, leaves out rows without
ground truth.

ProRL also drops rows whose ground truth no model's answer agrees with, as
judged by a large model. In its place, option `agreed` leaves out a row if it
has published columns is_..._same_with_matched_solution and none of them is
true. The path of the file could not be checked at the hub; option `file`
replaces it.
"""

from collections.abc import Mapping
import re
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"

# Columns that say whether a model's answer agrees with the solution.
_FLAG = re.compile(r"is_\w+_same_with_matched_solution")


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Converts a row; the ground truth is taken from the solution."""
  wanted = options["domains"]
  if wanted and record.get("domain") not in wanted:
    raise schema.LeftOut("another domain")
  flags = [value for name, value in record.items() if _FLAG.fullmatch(name)]
  if options["agreed"] and flags and not any(flag is True for flag in flags):
    raise schema.LeftOut("no model agrees with the solution")
  solution = record.get("matched_solution")
  if solution is None:
    raise schema.LeftOut("no ground truth")
  solution = schema.text(record, "matched_solution").strip()
  # A short solution of one line is itself the answer.
  answer = texts.boxed(solution)
  if (
    not answer
    and "\n" not in solution
    and (len(solution) <= options["max_answer_chars"])
  ):
    answer = solution.strip("$. ")
  if not answer:
    raise schema.LeftOut("no ground truth")
  return schema.Problem(schema.text(record, "problem"), answer)


SET = schema.Set(
  name="scp116k",
  domain="science",
  repo="EricLu/SCP-116K",
  verifier=VERIFIER,
  files=lambda options: (schema.File("train", options["file"]),),
  columns=("problem", "matched_solution"),
  row=_row,
  templates=texts.BOXED,
  options={
    "file": "data/train-*.parquet",
    "domains": (),
    "agreed": True,
    "max_answer_chars": 60,
  },
  against=("gpqa", "mmlu_pro"),
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
