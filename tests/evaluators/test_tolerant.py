"""Answers in other formats than the one asked for."""

import functools
import types

import numpy as np
import pytest

from progrpo_jax.evaluators import passk, tolerant
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rewards import thinking
from progrpo_jax.tasks import base


@pytest.mark.parametrize(
  "text, answer",
  [
    ("<answer> 12 </answer>", "12"),
    ("<answer>1</answer> no: <answer>12</answer>.", "12"),
    ("<answer>12", "12"),
    ("<Answer>12</ANSWER>", "12"),
    (r"<answer>\boxed{12}</answer>", "12"),
    (r"so \boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"$\boxed{12}$. Done", "12"),
    (r"\boxed{3 \boxed{12", "\\boxed{3 \\boxed{12"),
    ("The answer is 12.", "12"),
    ("The answer is 7.\nNo, the answer is: $12$", "12"),
    ("**Answer:** 12", "12"),
    ("Final answer:\n12\n", "12"),
    ("Board:\n```\nQ _\n_ Q\n```\nas asked", "Q _\n_ Q"),
    ("3 + 9 makes\n  `12`  \n", "12"),
    ("<think>the answer is 5</think>\n12", "12"),
    ("so on ...", "so on ..."),
    ("", ""),
    ("  \n ", ""),
    ("<answer></answer>", ""),
  ],
)
def test_answer(text, answer):
  assert tolerant.answer(text) == answer


def test_forms_are_of_one_answer():
  assert tolerant.forms("it is\n12") == [
    "<answer>12</answer>",
    "\\boxed{12}",
    "12",
  ]
  # What the text is already has been judged.
  assert tolerant.forms("12") == ["<answer>12</answer>", "\\boxed{12}"]
  assert tolerant.forms("<answer>12</answer>") == ["\\boxed{12}", "12"]
  assert tolerant.forms("  ") == []


@pytest.fixture(scope="module")
def pool():
  with pool_lib.Pool(workers=1) as made:
    yield made


def _row(template):
  meta = {
    "dataset": "chain_sum",
    "metadata": {},
    "template": template,
    "binary": True,
  }
  return base.Row("chain_sum", "4+8=", "12", meta)


def test_verdicts(pool):
  rows = [_row("full"), _row("compact")]
  texts = [
    (
      "<answer>12</answer>",
      r"It is \boxed{12}.",
      r"It is \boxed{13}.",
      "<answer>13</answer> or \\boxed{12}",
    ),
    ("12", "The answer is 12.", "13", ""),
  ]
  strict = np.array([[True, False, False, False], [True] + 3 * [False]])
  valid = np.ones((2, 4), bool)
  found = tolerant.verify(pool, rows, texts, strict, valid)
  # The last of the first row has its answer in the tags, and that is wrong.
  np.testing.assert_array_equal(
    found, [[True, True, False, False], [True, True, False, False]]
  )
  assert strict.sum() == 2


def test_only_wrong_samples_are_asked_about():
  class Counting:
    asked = 0
    answer = staticmethod(thinking.answer)

    def score(self, items):
      self.asked += len(items)
      raise AssertionError("asked")

  rows, texts = [_row("full")], [("no", "<answer>12</answer>")]
  counting = Counting()
  found = tolerant.verify(
    counting, rows, texts, np.array([[False, True]]), np.array([[False, True]])
  )
  np.testing.assert_array_equal(found, [[False, True]])
  with pytest.raises(AssertionError, match="asked"):
    tolerant.verify(
      counting, rows, texts, np.array([[False, True]]), np.array([[True, True]])
    )
  assert counting.asked == 2  # "no" is its own third form


@pytest.mark.parametrize(
  ("inside", "right"),
  [(False, [True, False, True]), (True, [False, False, True])],
)
def test_a_thought_without_an_end_has_no_answer_either(inside, right):
  texts = [
    (
      "The answer is 12.",
      "<think>The answer is 12.",
      "13?</think> The answer is 12.",
    )
  ]
  with pool_lib.Pool(
    workers=1, answer=functools.partial(thinking.answer, inside=inside)
  ) as pool:
    found = tolerant.verify(
      pool,
      [_row("compact")],
      texts,
      np.zeros((1, 3), bool),
      np.ones((1, 3), bool),
    )
  assert found.tolist() == [right]


def test_measure_keeps_the_strict_verdict_apart():
  samples = types.SimpleNamespace(
    rows=("p", "q"),
    valid_XG=np.ones((2, 2), bool),
    correct_XG=np.array([[True, False], [False, False]]),
    tolerant_XG=np.array([[True, True], [True, False]]),
  )
  values = dict(passk.measure(samples))
  assert values["pass@1"] == 0.25 and values["pass@2"] == 0.5
  assert values["tolerant/pass@1"] == 0.75
  assert values["tolerant/pass@2"] == 1.0
  assert values["tolerant/pass@1/low"] <= 0.75
  assert "tolerant/num_problems" not in values
  samples.tolerant_XG = None
  assert not any(k.startswith("tolerant") for k, _ in passk.measure(samples))
