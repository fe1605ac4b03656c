"""Ratings against closed forms, and against the likelihood on a grid."""

import math
import types

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from progrpo_jax.cli import evaluate
from progrpo_jax.evaluators import held_out, rating
from progrpo_jax.evaluators import samples as samples_lib
from progrpo_jax.storage import metrics
from progrpo_jax.tasks import base

CHI = 3.841459  # 95 % quantile of chi-squared, one degree of freedom


def log_likelihood(r, problems, passed):
  p = 1 / (1 + 10 ** ((np.asarray(problems) - r) / 400))
  return np.sum(np.where(passed, np.log(p), np.log1p(-p)))


def test_golden_of_equal_problems():
  # Ten of eleven: odds 10, which are 400 points.
  found = rating.rate([1500] * 11, [True] * 10 + [False])
  np.testing.assert_allclose(found.value, 1900, atol=1e-6)
  found = rating.rate([1200] * 4, [1, 0, 1, 0])
  np.testing.assert_allclose(found.value, 1200, atol=1e-6)
  # By hand: 4 ln(1/2) - 2 (ln p + ln(1-p)) = 3.841459 / 2, so that
  # p (1-p) = exp(-0.960365) / 4 = 0.0956883, p = 0.1071747, odds 8.330557,
  # and 400 log10 of that is 368.2696.
  np.testing.assert_allclose(
    [found.low, found.high], [831.7304, 1568.2696], atol=1e-3
  )


def test_golden_of_two_problems():
  # One of two, 400 points apart: by symmetry, halfway.
  found = rating.rate([1000, 1400], [True, False])
  np.testing.assert_allclose(found.value, 1200, atol=1e-6)
  np.testing.assert_allclose(found.value - found.low, found.high - found.value)


def test_golden_when_all_or_nothing_is_solved():
  # n ln(1 + 10^((d - r) / 400)) = 3.841459 / 2 at the end of the interval.
  for n in (1, 5, 100):
    edge = 400 * math.log10(math.expm1(CHI / (2 * n)))
    found = rating.rate([1500] * n, [True] * n)
    assert found.value == found.high == math.inf
    np.testing.assert_allclose(found.low, 1500 - edge, atol=1e-3)
    found = rating.rate([1500] * n, [False] * n)
    assert found.value == found.low == -math.inf
    np.testing.assert_allclose(found.high, 1500 + edge, atol=1e-3)


def test_shares_count_as_repeated_samples():
  # A share of 3/4 on one problem is 3 of 4 samples, in value if not in width.
  share = rating.rate([1500, 1700], [0.75, 0.25])
  counted = rating.rate([1500] * 4 + [1700] * 4, [1, 1, 1, 0, 1, 0, 0, 0])
  np.testing.assert_allclose(share.value, counted.value, atol=1e-6)
  assert share.high - share.low > counted.high - counted.low


problems_and_passed = st.lists(
  st.tuples(st.integers(800, 3500), st.booleans()), min_size=1, max_size=30
)


@hypothesis.given(problems_and_passed)
@hypothesis.settings(max_examples=80, deadline=None)
def test_is_the_likeliest_and_its_interval_the_not_rejected(pairs):
  problems, passed = zip(*pairs)
  found = rating.rate(problems, passed)
  assert found.low <= found.value <= found.high
  grid = np.linspace(-2000, 7000, 401)
  values = [log_likelihood(r, problems, passed) for r in grid]
  top = 0.0
  if math.isfinite(found.value):
    top = log_likelihood(found.value, problems, passed)
    # The score equation: solved as expected.
    p = 1 / (1 + 10 ** ((np.array(problems) - found.value) / 400))
    np.testing.assert_allclose(p.sum(), sum(passed), atol=1e-6)
  assert max(values) <= top + 1e-9
  for r, value in zip(grid, values):
    if abs(value - (top - CHI / 2)) > 1e-3:
      assert (value > top - CHI / 2) == (found.low < r < found.high)


@hypothesis.given(problems_and_passed, st.integers(-500, 500))
@hypothesis.settings(max_examples=60, deadline=None)
def test_moves_with_the_problems_and_rises_with_each_solved(pairs, shift):
  problems, passed = (np.array(x) for x in zip(*pairs))
  found = rating.rate(problems, passed)
  moved = rating.rate(problems + shift, passed)
  np.testing.assert_allclose(moved, np.array(found) + shift, atol=1e-3)
  if not passed.all():
    more = passed.copy()
    more[np.argmin(passed)] = True
    assert rating.rate(problems, more).value > found.value


def test_interval_covers_as_often_as_it_says():
  rng = np.random.default_rng(0)
  problems = rng.integers(1000, 2500, 40)
  chances = 1 / (1 + 10 ** ((problems - 1600) / 400))
  hits = 0
  for _ in range(300):
    found = rating.rate(problems, rng.random(40) < chances)
    hits += found.low <= 1600 <= found.high
  assert 0.90 <= hits / 300 <= 0.99
  narrow = rating.rate(problems, chances > 0.5, level=0.5)
  wide = rating.rate(problems, chances > 0.5, level=0.99)
  assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize(
  "problems, passed, level, word",
  [
    ([], [], 0.95, r"\(0,\)"),
    ([1500], [1, 0], 0.95, r"\(1,\) and \(2,\)"),
    ([[1500]], [[1]], 0.95, r"\(1, 1\)"),
    ([np.nan], [1], 0.95, "finite"),
    ([1500], [2], 0.95, r"\[0, 1\]"),
    ([1500], [np.nan], 0.95, r"\[0, 1\]"),
    ([1500], [1], 0.42, "level"),
  ],
)
def test_refuses(problems, passed, level, word):
  with pytest.raises(ValueError, match=word):
    rating.rate(problems, passed, level=level)


def samples(ratings_X, correct_XG, valid_XG=None):
  """Held-out samples with what the measure reads; None is no rating."""
  correct_XG = np.asarray(correct_XG, bool)
  valid_XG = np.ones_like(correct_XG) if valid_XG is None else valid_XG
  rows = tuple(
    base.Row("t", "", "", {} if r is None else {"rating": r}) for r in ratings_X
  )
  texts = (("",) * correct_XG.shape[1],) * len(rows)
  return samples_lib.Samples(
    rows=rows,
    texts_XG=texts,
    correct_XG=correct_XG,
    valid_XG=np.asarray(valid_XG, bool),
    distinct_correct_X=correct_XG.any(axis=1) * 1,
    entropy_XG=correct_XG * 1.0,
    length_XG=correct_XG * 1,
    tokens_XG=(((),) * 2,) * len(rows),
    vocab_size=2,
  )


def measured(found):
  """Values of an evaluation with no other measure than the rating."""
  settings = types.SimpleNamespace(measures=(rating.measure,))
  evaluator = held_out.HeldOut("set", settings, prompts=())
  values = dict(evaluator.run(found))
  assert values.pop("eval/set/left_out") == 0
  return values


def test_measure_golden():
  # Ten of eleven samples of every rated problem: 400 points above them.
  right = [[1] * 10 + [0]] * 2
  values = measured(samples([1500, 1500, None], [*right, [0] * 11]))
  expected = rating.rate([1500, 1500], [10 / 11, 10 / 11])
  np.testing.assert_allclose(values["eval/set/rating"], 1900, atol=1e-6)
  assert values == {
    "eval/set/rating": expected.value,
    "eval/set/rating/low": expected.low,
    "eval/set/rating/high": expected.high,
  }


def test_measure_leaves_out_what_the_verifier_failed_on():
  # Of the first problem one of two counts, of the second none at all.
  found = samples(
    [1200, 2000],
    [[1, 0, 1, 1], [1, 1, 1, 1]],
    [[True, True, False, False], [False] * 4],
  )
  np.testing.assert_allclose(
    measured(found)["eval/set/rating"], 1200, atol=1e-6
  )


@pytest.mark.parametrize("ratings", [[None, None], []])
def test_measure_of_a_set_without_ratings_is_nothing(ratings):
  correct = np.ones((len(ratings), 2))
  assert measured(samples(ratings, correct)) == {}
  failed = samples([1500], [[1, 1]], [[False, False]])
  assert measured(failed) == {}


def test_infinite_ratings_are_null_in_files_and_shown(capsys):
  values = measured(samples([1500], [[1, 1]]))
  written = metrics.plain(values)
  assert written["eval/set/rating"] is None
  assert written["eval/set/rating/high"] is None
  assert math.isfinite(written["eval/set/rating/low"])
  evaluate.show(values)
  shown = capsys.readouterr().out
  assert "set/rating" in shown and "inf" in shown and "/low" not in shown


def test_every_evaluation_has_the_measure():
  assert rating.measure in held_out.MEASURES
