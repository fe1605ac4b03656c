import math

import pytest

from progrpo_jax.rewards import score


def test_masked_statuses_are_the_last_three():
  assert [s for s in score.STATUSES if score.is_masked(s)] == [
    "timeout",
    "crash",
    "refused",
  ]


def test_check_makes_plain_values():
  found = score.check([1, 1, "ok"])
  assert found == score.Score(1.0, True, "ok")
  assert type(found.reward) is float and type(found.correct) is bool


@pytest.mark.parametrize(
  "value",
  [
    None,
    1.0,
    (1.0, True),
    ("1", True, "ok"),
    (True, True, "ok"),
    (math.nan, False, "ok"),
    (math.inf, True, "ok"),
    (1e13, True, "ok"),
    (-1e30, False, "ok"),
    (1.0, True, "fine"),
  ],
)
def test_check_refuses(value):
  with pytest.raises(ValueError):
    score.check(value)
