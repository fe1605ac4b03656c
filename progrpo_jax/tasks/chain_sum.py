"""Chain sum: add and subtract whole numbers.

full     prompt  State the final answer to the following arithmetic problem:
                 4 - 1 - 7 =
         answer  <answer>-4</answer>
compact  prompt  "4-1-7="
         answer  "-4"
"""

from typing import Any

from progrpo_jax.tasks import reasoning_gym

VERIFIER = "progrpo_jax.rewards.logic:score"
DOMAIN = "logic"


def _prompt(entry: dict) -> str:
  """Returns the compact prompt, such as "4-1-7="."""
  return entry["metadata"]["expression"].replace(" ", "") + "="


_SPEC = reasoning_gym.Spec(
  dataset="chain_sum",
  defaults={"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2},
  keep=("expression",),
  identity=_prompt,
  compact_prompt=_prompt,
)


def load(split: str, **options: Any) -> reasoning_gym.Rows:
  """Returns a split; options of `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "chain_sum", split, **options)
