"""DAPO-Math-17k: competition problems whose answers are whole numbers.

  prompt  In triangle $ABC$, $\\sin \\angle A = \\frac{4}{5}$ and ... final
          answer within \\boxed{}.
  answer  \\boxed{34}

Yu et al. 2025 (BytedTsinghua-SIA). The published file repeats its 17
thousand problems a hundred times, of which one is kept, and wraps each in
an instruction of its own, which is taken off; columns prompt (messages) and
reward_model.ground_truth.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"

# The published instruction is one line before the problem and one after it.
_BEFORE = "Solve the following math problem step by step."
_AFTER = "Remember to put your answer on its own line"


def _bare(prompt: str) -> str:
  """Returns a problem without the instruction around it."""
  if prompt.startswith(_BEFORE):
    prompt = prompt.partition("\n")[2]
  before, sign, after = prompt.rpartition(_AFTER)
  return (before if sign and "\n" not in after.strip() else prompt).strip()


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Takes the problem out of the messages."""
  truth = record["reward_model"]
  if not isinstance(truth, Mapping):
    raise schema.BadRow("reward_model is no record")
  prompt = texts.user_text(record["prompt"], "prompt")
  return schema.Problem(
      _bare(prompt), texts.number_or_text(truth, "ground_truth"))


SET = schema.Set(
    name="dapo_math_17k",
    domain="mathematics",
    repo="BytedTsinghua-SIA/DAPO-Math-17k",
    verifier=VERIFIER,
    files=lambda _: (schema.File("train", "data/dapo-math-17k.parquet"),),
    columns=("prompt", "reward_model"),
    row=_row,
    templates=texts.BOXED,
    against=texts.MATHEMATICS,
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`."""
  return published.rows(SET, split, **options)
