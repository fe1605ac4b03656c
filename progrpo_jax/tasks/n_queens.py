"""N queens: complete a board so that no queen attacks another.

  full     prompt  Your job is to complete an n x n chess board with n Queens
                   in total, such that no two attack each other. ...
                   _ Q _ _ / _ _ _ _ / _ _ _ _ / _ _ Q _
           answer  <answer>the board with the queens in place</answer>
  compact  prompt  "2__3=" (the queen's column of each row, _ to be found)
           answer  "2413"

Compact prompts take boards of up to nine rows.
"""

import random
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.tasks import reasoning_gym

VERIFIER = "progrpo_jax.rewards.logic:score"
DOMAIN = "logic"


def solve(entry: dict, limit: int, rng: random.Random) -> list[str]:
  """Returns up to `limit` completions, found by backtracking at random."""
  puzzle = entry["metadata"]["puzzle"]
  size = len(puzzle)
  fixed = {r: row.index("Q") for r, row in enumerate(puzzle) if "Q" in row}
  found: list[list[int]] = []

  def free(columns: list[int], column: int) -> bool:
    row = len(columns)
    return all(
        c != column and abs(c - column) != row - r
        for r, c in enumerate(columns)
    )

  def place(columns: list[int]) -> None:
    if len(columns) == size:
      found.append(columns)
    elif len(found) < limit:
      row = len(columns)
      choices = [fixed[row]] if row in fixed else rng.sample(range(size), size)
      for column in choices:
        if len(found) < limit and free(columns, column):
          place([*columns, column])

  place([])
  return [_board(columns) for columns in found]


def _board(columns: list[int]) -> str:
  """Writes a board in the scorer's format."""
  size = len(columns)
  rows = ("_" * c + "Q" + "_" * (size - 1 - c) for c in columns)
  return "\n".join(" ".join(row) for row in rows)


def _prompt(entry: dict) -> str:
  """Writes "2__3="."""
  puzzle = entry["metadata"]["puzzle"]
  return "".join(_column(row) for row in puzzle) + "="


def _shorten(answer: str, entry: dict) -> str:
  """Writes a board as the queen's column of each row."""
  del entry
  return "".join(_column(row.split()) for row in answer.split("\n"))


def _column(row: list[str]) -> str:
  """Returns the column of the queen, counted from 1, or "_"."""
  return str(row.index("Q") + 1) if "Q" in row else "_"


def _check(options: dict[str, Any]) -> None:
  """Refuses boards with more columns than there are digits."""
  if options.get("n", 8) > 9:
    raise InputError("n_queens: the compact template takes n up to 9")


_SPEC = reasoning_gym.Spec(
    dataset="n_queens",
    defaults={"n": 8, "min_remove": 2, "max_remove": 6},
    keep=("puzzle", "valid_answers"),
    identity=_prompt,
    solve=solve,
    compact_prompt=_prompt,
    compact_answer=_shorten,
    check=_check,
)


def load(split: str, **options: Any) -> reasoning_gym.Rows:
  """Returns a split; options as in `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "n_queens", split, **options)
