"""Score: the result of a verifier."""

import math
from typing import NamedTuple

STATUSES = ("ok", "no_answer", "several_answers", "timeout", "crash", "refused")
# Statuses of samples that are left out of learning.
MASKED = frozenset(("timeout", "crash", "refused"))


class Score(NamedTuple):
  """Result of verifying one completion.

  Attributes:
    reward: reward, finite.
    correct: whether the answer is correct; partial credit is not enough.
    status: one of STATUSES. Those in MASKED mean that the verifier failed and
      not the completion, so the sample is left out of learning.
  """

  reward: float
  correct: bool
  status: str = "ok"


def is_masked(status: str) -> bool:
  """Returns whether samples with this status are left out of learning."""
  return status in MASKED


def check(value: object) -> Score:
  """Converts a verifier's return value to a Score.

  Raises:
    ValueError: it is not (finite reward, correct, one of STATUSES).
  """
  if not isinstance(value, (tuple, list)) or len(value) != 3:
    raise ValueError(f"expected (reward, correct, status), got {value!r:.200}")
  reward, correct, status = value
  if isinstance(reward, bool) or not hasattr(reward, "__float__"):
    raise ValueError(f"reward is not a number: {reward!r:.200}")
  if not math.isfinite(float(reward)):
    raise ValueError(f"reward is not finite: {reward!r}")
  if status not in STATUSES:
    raise ValueError(f"status {status!r:.50} is not one of {STATUSES}")
  return Score(float(reward), bool(correct), status)
