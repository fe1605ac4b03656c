"""Knights and knaves: who tells the truth, given what each one says.

full     prompt  A very special island is inhabited only by heros and
                 villains. ... As Amelia put it, "Elizabeth is a hero".
                 Elizabeth remarked, "if Amelia is a hero then Elizabeth is
                 a hero". So who is a hero and who is a villain? ...
         answer  <answer>Amelia is a hero, and Elizabeth is a hero.</answer>
compact  prompt  "0:!N1 1:(K0>K1)=" (K knight, N knave, ! not, & and, | or,
                 > implies, ~ if and only if)
         answer  "KK" (one letter per person)
"""

from typing import Any

from progrpo_jax.tasks import reasoning_gym

VERIFIER = "progrpo_jax.rewards.logic:score"
DOMAIN = "logic"

# Reasoning Gym's names of the parts of a statement -> symbols.
_LEAVES = {"telling-truth": "K", "lying": "N"}
_JOINS = {"and": "&", "or": "|", "->": ">", "<=>": "~"}


def _statement(tree: list) -> str:
  """Returns one statement in symbols."""
  kind, *parts = tree
  if kind in _LEAVES:
    return f"{_LEAVES[kind]}{parts[0]}"
  if kind == "not":
    return f"!{_statement(parts[0])}"
  return f"({_JOINS[kind].join(map(_statement, parts))})"


def _prompt(entry: dict) -> str:
  """Returns the compact prompt, such as "0:!N1 1:(K0>K1)="."""
  statements = entry["metadata"]["statements"]
  said = (f"{i}:{_statement(s)}" for i, s in enumerate(statements))
  return " ".join(said) + "="


def _shorten(answer: str, entry: dict) -> str:
  """Returns an answer as one letter per person."""
  del answer
  return "".join("NK"[truthful] for truthful in entry["metadata"]["solution"])


_SPEC = reasoning_gym.Spec(
  dataset="knights_knaves",
  defaults={"n_people": 3, "depth_constraint": 2, "width_constraint": 2},
  keep=("statements", "solution", "names", "knight_knave_terms"),
  identity=_prompt,
  compact_prompt=_prompt,
  compact_answer=_shorten,
)


def load(split: str, **options: Any) -> reasoning_gym.Rows:
  """Returns a split; options of `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "knights_knaves", split, **options)
