"""Programming part of Eurus-2-RL: APPS, CodeContests, TACO, Codeforces.

  prompt  You are given an array of $n$ integers ... The program reads from
          standard input and writes to standard output. ...
  answer  ```python
          print(sum(map(int, input().split())))
          ```

Cui et al. 2025, hub repository PRIME-RL/Eurus-2-RL-Data: 26,758 problems for
train and 1,024 for validation. The files also contain mathematics, which is
left out, and an instruction after each problem, which is removed. ProRL's
training set of programming, which it also evaluates on by source: option
`sources`, for instance ["apps"]. Columns data_source, prompt (messages),
ability, and reward_model.ground_truth (JSON with inputs, outputs and fn_name).
The files' names could not be checked at the hub.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs, published, schema, texts

VERIFIER = programs.VERIFIER

SOURCES = ("apps", "codecontests", "codeforces", "taco")
_ASKS = "Write Python code to solve the problem."


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Converts a row; the instruction at the question's end is removed."""
  if record["ability"] != "code":
    raise schema.LeftOut("not code")
  if record["data_source"] not in options["sources"]:
    raise schema.LeftOut("another source")
  truth = texts.reward_model(record)
  question = texts.user_text(record["prompt"], "prompt")
  before, sign, _ = question.rpartition(_ASKS)
  return programs.problem(
    (before if sign else question).strip(),
    truth.get("ground_truth"),
    "reward_model.ground_truth",
    max_tests=options["max_tests"],
  )


SET = schema.Set(
  name="eurus2_code",
  domain="code",
  repo="PRIME-RL/Eurus-2-RL-Data",
  verifier=VERIFIER,
  files=lambda _: (
    schema.File("train", "train.parquet"),
    schema.File("validation", "validation.parquet"),
  ),
  columns=("data_source", "prompt", "ability", "reward_model"),
  row=_row,
  templates=texts.CODE,
  meta=programs.META,
  options={"sources": SOURCES, "max_tests": 20},
  against=programs.AGAINST,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
