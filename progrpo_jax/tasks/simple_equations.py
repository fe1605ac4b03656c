"""Simple equations: solve a linear equation for its one variable.

full     prompt  Solve for e: 56 - 98*e = -1218
         answer  <answer>13</answer>
compact  prompt  "56-98*e=-1218;e="
         answer  "13"
"""

from typing import Any

from progrpo_jax.tasks import reasoning_gym

VERIFIER = "progrpo_jax.rewards.logic:score"
DOMAIN = "logic"


def _prompt(entry: dict) -> str:
  """Returns the compact prompt, such as "56-98*e=-1218;e="."""
  metadata = entry["metadata"]
  return f"{metadata['equation']};{metadata['variable']}=".replace(" ", "")


_SPEC = reasoning_gym.Spec(
  dataset="simple_equations",
  defaults={"min_terms": 2, "max_terms": 3, "min_value": 1, "max_value": 20},
  keep=("equation", "variable"),
  identity=_prompt,
  compact_prompt=_prompt,
)


def load(split: str, **options: Any) -> reasoning_gym.Rows:
  """Returns a split; options of `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "simple_equations", split, **options)
