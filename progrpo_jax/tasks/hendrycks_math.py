"""MATH: competition mathematics in seven subjects and five levels.

  prompt  Let f(x) = 2x - 3. What is f(f(4))? ... final answer within
          \\boxed{}.
  answer  \\boxed{7}

Hendrycks et al. 2021, hub repository EleutherAI/hendrycks_math: one file per
subject, columns problem, level, type, solution. 7,500 problems for train, and
the published test set of 5,000 as validation. The answer is the content of the
solution's box. A problem whose solution boxes several different answers is left
out, since either all or any of them may be required. Solutions with only one
boxed answer are demonstrations. Options: `subjects`, and `levels` from 1 to 5.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.rewards import answers, math
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"

SUBJECTS = (
  "algebra",
  "counting_and_probability",
  "geometry",
  "intermediate_algebra",
  "number_theory",
  "prealgebra",
  "precalculus",
)


def _files(options: Mapping[str, Any]) -> tuple[schema.File, ...]:
  """Returns the files of the subjects."""
  return tuple(
    schema.File(split, f"{subject}/{name}-00000-of-00001.parquet")
    for split, name in (("train", "train"), ("validation", "test"))
    for subject in options["subjects"]
  )


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Converts a row; the answer is in the solution's box."""
  level = schema.text(record, "level").removeprefix("Level ")
  if level not in map(str, options["levels"]):
    raise schema.LeftOut("another level")
  solution = schema.text(record, "solution")
  answer = texts.boxed(solution)
  if not answer:
    raise schema.BadRow("the solution has no box with an answer")
  if len(set(map(math.normal_form, answers.boxed(solution)))) > 1:
    raise schema.LeftOut("its solution boxes several answers")
  return schema.Problem(
    schema.text(record, "problem"),
    answer,
    demonstrations=texts.worked(solution, answer),
  )


SET = schema.Set(
  name="hendrycks_math",
  domain="mathematics",
  repo="EleutherAI/hendrycks_math",
  verifier=VERIFIER,
  files=_files,
  columns=("problem", "level", "solution"),
  row=_row,
  templates=texts.BOXED,
  options={"subjects": SUBJECTS, "levels": (1, 2, 3, 4, 5)},
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
