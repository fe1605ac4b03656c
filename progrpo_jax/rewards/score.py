"""Score: the result of a verifier."""

from typing import NamedTuple

STATUSES = ("ok", "no_answer", "several_answers", "timeout", "crash", "refused")
# Statuses of samples that are left out of learning.
MASKED = frozenset(("timeout", "crash", "refused"))
# Largest distance of a reward from 0. Training computes in float32, which ends
# at 3e38: a standard deviation or a gradient's norm squares rewards, and sums
# the squares of a batch. Past that, advantages are 0 and updates are skipped.
MAX_REWARD = 1e12


class Score(NamedTuple):
  """Result of verifying one completion.

  Attributes:
    reward: reward, at most MAX_REWARD from 0.
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


def is_in_range(reward: float) -> bool:
  """Returns whether training can compute with a reward; NaN is out of range."""
  return abs(reward) <= MAX_REWARD


def check(value: object) -> Score:
  """Converts a verifier's return value to a Score.

  Raises:
    ValueError: it is not (reward, correct, one of STATUSES), or the reward is
      out of range.
  """
  if not isinstance(value, (tuple, list)) or len(value) != 3:
    raise ValueError(f"expected (reward, correct, status), got {value!r:.200}")
  reward, correct, status = value
  if isinstance(reward, bool) or not hasattr(reward, "__float__"):
    raise ValueError(f"reward is not a number: {reward!r:.200}")
  if not is_in_range(float(reward)):
    raise ValueError(
      f"reward {reward!r} is not from {-MAX_REWARD:g} to {MAX_REWARD:g}"
    )
  if status not in STATUSES:
    raise ValueError(f"status {status!r:.50} is not one of {STATUSES}")
  return Score(float(reward), bool(correct), status)
