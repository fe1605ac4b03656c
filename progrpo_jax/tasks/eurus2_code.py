"""Eurus-2-RL, its programming part: APPS, CodeContests, TACO, Codeforces.

  prompt  You are given an array of $n$ integers ... The program reads from
          standard input and writes to standard output. ...
  answer  ```python
          print(sum(map(int, input().split())))
          ```

Cui et al. 2025 (PRIME-RL): 26,758 problems for train and 1,024 for
validation, each part of a file that also holds mathematics, which is left
out, as is the published instruction. ProRL's code, and its evaluation on
four sources: option `sources`, for instance ["apps"]. Columns data_source,
prompt (messages), ability, and reward_model.ground_truth, which is JSON with
inputs, outputs and fn_name. The names of the files are from memory.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs, published, schema, texts

VERIFIER = programs.VERIFIER

SOURCES = ("apps", "codecontests", "codeforces", "taco")
_ASKS = "Write Python code to solve the problem."


def _row(record: dict[str, Any], options: Mapping[str, Any]) -> schema.Problem:
  """Takes the question without the instruction at its end."""
  if record["ability"] != "code":
    raise schema.LeftOut("not code")
  if record["data_source"] not in options["sources"]:
    raise schema.LeftOut("another source")
  truth = record["reward_model"]
  if not isinstance(truth, Mapping):
    raise schema.BadRow("reward_model is no record")
  question = texts.user_text(record["prompt"], "prompt")
  before, sign, _ = question.rpartition(_ASKS)
  return programs.problem(
      (before if sign else question).strip(),
      truth.get("ground_truth"),
      "reward_model.ground_truth",
      max_tests=options["max_tests"])


SET = schema.Set(
    name="eurus2_code",
    domain="code",
    repo="PRIME-RL/Eurus-2-RL-Data",
    verifier=VERIFIER,
    files=lambda _: (
        schema.File("train", "train.parquet"),
        schema.File("validation", "validation.parquet")),
    columns=("data_source", "prompt", "ability", "reward_model"),
    row=_row,
    templates=texts.CODE,
    meta=programs.META,
    options={"sources": SOURCES, "max_tests": 20},
    against=programs.AGAINST,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
