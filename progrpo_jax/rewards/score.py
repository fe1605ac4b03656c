"""The verdict of a verifier."""

import math
from typing import NamedTuple

STATUSES = (
    "ok",
    "no_answer",
    "several_answers",
    "timeout",
    "crash",
    "refused",
)
MASKED = frozenset(("timeout", "crash", "refused"))


class Score(NamedTuple):
  """What a verifier says of one completion.

  Attributes:
    reward: a finite number.
    correct: whether the answer is right; partial credit is not.
    status: one of STATUSES; those in MASKED say that the verifier, not the
      completion, is at fault, so the sample must be left out of learning.
  """

  reward: float
  correct: bool
  status: str = "ok"


def is_masked(status: str) -> bool:
  """Says whether a sample of this status is left out of learning."""
  return status in MASKED


def check(value: object) -> Score:
  """Returns value as a Score, or raises ValueError if it is none."""
  if not isinstance(value, (tuple, list)) or len(value) != 3:
    raise ValueError(f"expected (reward, correct, status), got {value!r:.200}")
  reward, correct, status = value
  if isinstance(reward, bool) or not hasattr(reward, "__float__"):
    raise ValueError(f"reward is no number: {reward!r:.200}")
  if not math.isfinite(float(reward)):
    raise ValueError(f"reward is not finite: {reward!r}")
  if status not in STATUSES:
    raise ValueError(f"status {status!r:.50} is none of {STATUSES}")
  return Score(float(reward), bool(correct), status)
