"""N queens: complete a board so that no queen attacks another.

  full     prompt  Your job is to complete an n x n chess board with n Queens
                   in total, such that no two attack each other. ...
                   _ Q _ _ / _ _ _ _ / _ _ _ _ / _ _ Q _
           answer  <answer>the board with the queens in place</answer>
  compact  prompt  "2__3=" (the queen's column in each row, _ if unknown)
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
  """Returns up to `limit` completed boards, found by random backtracking."""
  puzzle = entry["metadata"]["puzzle"]
  size = len(puzzle)
  fixed = {r: row.index("Q") for r, row in enumerate(puzzle) if "Q" in row}
  solutions: list[list[int]] = []  # the queen's column of each row

  def is_free(columns: list[int], column: int) -> bool:
    row = len(columns)
    return all(
      c != column and abs(c - column) != row - r for r, c in enumerate(columns)
    )

  def place(columns: list[int]) -> None:
    if len(columns) == size:
      solutions.append(columns)
    elif len(solutions) < limit:
      row = len(columns)
      choices = [fixed[row]] if row in fixed else rng.sample(range(size), size)
      for column in choices:
        if len(solutions) < limit and is_free(columns, column):
          place([*columns, column])

  place([])
  return [_board(columns) for columns in solutions]


def _board(columns: list[int]) -> str:
  """Returns a board in the scorer's format."""
  size = len(columns)
  rows = ("_" * c + "Q" + "_" * (size - 1 - c) for c in columns)
  return "\n".join(" ".join(row) for row in rows)


def _prompt(entry: dict) -> str:
  """Returns the compact prompt, such as "2__3="."""
  puzzle = entry["metadata"]["puzzle"]
  return "".join(_column(row) for row in puzzle) + "="


def _shorten(answer: str, entry: dict) -> str:
  """Returns a board as the queen's column in each row."""
  del entry
  return "".join(_column(row.split()) for row in answer.split("\n"))


def _column(row: list[str]) -> str:
  """Returns the column of the queen, counted from 1, or "_"."""
  return str(row.index("Q") + 1) if "Q" in row else "_"


def _check(options: dict[str, Any]) -> None:
  """Raises InputError for boards with more columns than there are digits."""
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
  """Returns a split; options of `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "n_queens", split, **options)
