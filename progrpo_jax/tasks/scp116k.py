"""SCP-116K: problems of physics, chemistry, biology from textbooks.

  prompt  A particle of mass m moves in a potential ... What is its period?
          ... final answer within \\boxed{}.
  answer  \\boxed{2\\pi\\sqrt{m/k}}

Lu et al. 2025, as the hub's EricLu/SCP-116K has it; ProRL's science. Columns
problem, matched_solution and domain. The ground truth is the last box of the
matched solution, or the whole of one that is at most `max_answer_chars` long
and of one line; rows without one are left out, as ProRL drops them. ProRL
then has a large model keep the rows whose truth a model's answer agrees with;
of that the published columns is_..._same_with_matched_solution are what there
is here: with `agreed` a row is left out where such columns are there and none
of them is true. Where the file lies is from memory: option `file`.
"""

from collections.abc import Mapping
import re
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"

_FLAG = re.compile(r"is_\w+_same_with_matched_solution")


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Takes the ground truth from the solution, if it is there."""
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
  answer = texts.boxed(solution)
  if not answer and "\n" not in solution and (
      len(solution) <= options["max_answer_chars"]):
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
        "file": "data/train-*.parquet", "domains": (), "agreed": True,
        "max_answer_chars": 60},
    against=("gpqa", "mmlu_pro"),
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
