"""DAPO-Math-17k: competition problems with integer answers.

  prompt  In triangle $ABC$, $\\sin \\angle A = \\frac{4}{5}$ and ... final
          answer within \\boxed{}.
  answer  \\boxed{34}

Yu et al. 2025, hub repository BytedTsinghua-SIA/DAPO-Math-17k, columns prompt
(messages) and reward_model.ground_truth. The file repeats each of its 17
thousand problems a hundred times; one copy is kept. Each problem is wrapped in
an instruction, which is removed.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import published, schema, texts

VERIFIER = "progrpo_jax.rewards.math:score"

# The published instruction is one line before the problem and one after it.
_BEFORE = "Solve the following math problem step by step."
_AFTER = "Remember to put your answer on its own line"


def _bare(prompt: str) -> str:
  """Returns a problem without the published instruction around it."""
  if prompt.startswith(_BEFORE):
    prompt = prompt.partition("\n")[2]
  before, sign, after = prompt.rpartition(_AFTER)
  return (before if sign and "\n" not in after.strip() else prompt).strip()


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Converts a row; the problem is the user's message."""
  truth = texts.reward_model(record)
  prompt = texts.user_text(record["prompt"], "prompt")
  return schema.Problem(
    _bare(prompt), texts.number_or_text(truth, "ground_truth")
  )


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
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
