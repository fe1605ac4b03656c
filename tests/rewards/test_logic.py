import contextlib
import random
import subprocess
import sys
import types

import hypothesis
from hypothesis import strategies as st
import pytest

from progrpo_jax.rewards import gym, logic

gym_countdown = gym.load("games.countdown")

COUNTDOWN = dict(
  dataset="countdown", metadata={"numbers": [19, 9, 3], "target": 13}
)
GRAPH = dict(
  dataset="graph_color",
  metadata={
    "puzzle": {
      "vertices": [0, 1, 2],
      "edges": [[0, 1], [1, 2]],
      "num_colors": 3,
      "color_options": [1, 2, 3],
    }
  },
)
BOARD = "_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _"
QUEENS = dict(
  dataset="n_queens",
  metadata={"puzzle": [["_"] * 4 for _ in range(4)], "valid_answers": [BOARD]},
)
KNIGHTS = dict(
  dataset="knights_knaves",
  metadata={
    "names": ["Ava", "Noah"],
    "knight_knave_terms": {"a_knight": "a sage", "a_knave": "a fool"},
  },
)
KNIGHTS_ANSWER = "Ava is a sage, and Noah is a fool."


def compact(text, case, reference=None, **more):
  return logic.score(text, reference, template="compact", **case, **more)


def test_right_wrong_and_partial_credit():
  assert compact(" 19+3-9 ", COUNTDOWN) == (1.0, True, "ok")
  assert compact("19+9-3", COUNTDOWN) == (0.0, False, "ok")
  wrong = compact("19+9-3", COUNTDOWN, binary=False)
  assert wrong == (0.05, False, "ok")
  assert compact("19+", COUNTDOWN, binary=False) == (0.01, False, "ok")


def test_full_template_takes_the_last_tagged_answer():
  text = "<answer>1</answer> no, <answer>\n19 + 3 - 9 </answer> done"
  assert logic.score(text, "", **COUNTDOWN) == (1.0, True, "ok")
  assert compact(text, COUNTDOWN) == (1.0, True, "ok")


@pytest.mark.parametrize(
  "text",
  ["", "19+3-9", "<answer></answer>", "<answer>19+3-9", "</answer><answer>"],
)
def test_full_template_without_an_answer(text):
  assert logic.score(text, "", **COUNTDOWN) == (0.0, False, "no_answer")


@pytest.mark.parametrize(
  ("text", "reference", "verdict"),
  [
    ("<answer></answer>", "", (1.0, True, "ok")),
    ("All tokens cancel: <answer>\n</answer>", "", (1.0, True, "ok")),
    ("<answer>A#</answer>", "", (0.0, False, "ok")),
    ("<answer></answer> or <answer>A#</answer>", "", (0.0, False, "ok")),
    ("<answer></answer>", "A#", (0.0, False, "no_answer")),
    ("<answer></answer>", None, (0.0, False, "no_answer")),
    ("", "", (0.0, False, "no_answer")),
    ("Nothing is left.", "", (0.0, False, "no_answer")),
    ("<answer>", "", (0.0, False, "no_answer")),
  ],
)
def test_empty_tags_answer_an_empty_reference(text, reference, verdict):
  case = {"dataset": "ab", "metadata": {}}
  assert logic.score(text, reference, **case) == verdict


def test_an_empty_completion_is_no_compact_answer():
  case = {"dataset": "ab", "metadata": {}}
  assert compact("<answer></answer>", case, "") == (1.0, True, "ok")
  assert compact(" ", case, "") == (0.0, False, "no_answer")


def test_compact_answers_of_the_other_tasks():
  assert compact("121", GRAPH) == (1.0, True, "ok")
  assert compact('{"0": 1, "1": 3, "2": 2}', GRAPH).correct
  assert compact("112", GRAPH) == (0.0, False, "ok")
  assert compact("12", GRAPH) == (0.0, False, "ok")
  assert compact("2413", QUEENS) == (1.0, True, "ok")
  assert compact("1234", QUEENS) == (0.0, False, "ok")
  assert compact(BOARD, QUEENS).correct
  assert compact("KN", KNIGHTS, KNIGHTS_ANSWER) == (1.0, True, "ok")
  assert compact("NN", KNIGHTS, KNIGHTS_ANSWER) == (0.0, False, "ok")
  half = compact("NN", KNIGHTS, KNIGHTS_ANSWER, binary=False)
  assert 0.3 < half.reward < 1 and not half.correct


@contextlib.contextmanager
def counted():
  """Counts calls of functions of Python and C: work without a clock."""
  calls = types.SimpleNamespace(total=0)

  def count(frame, event, arg):
    calls.total += event in ("call", "c_call")

  before = sys.getprofile()
  sys.setprofile(count)
  try:
    yield calls
  finally:
    sys.setprofile(before)


@pytest.mark.parametrize(
  "text",
  [
    "9**9**9**9",
    "9//9",
    "__import__('os').system('true')",
    "9" * 200 + "*9",
    "(" * 5000 + "9",
    "-" * 200 + "9",
    "9" + "*9" * 5000,
    "²+3",
    "١+٢",
    "9\n+3",
    "19+3-9#",
    "lambda: 9",
    "9 if 9 else 3",
    "9,3,19",
  ],
)
def test_hostile_expressions_cost_nothing(text):
  with counted() as calls:
    assert compact(text, COUNTDOWN) == (0.0, False, "ok")
  assert calls.total < 500


def test_hostile_boards_are_not_evaluated(tmp_path):
  target = tmp_path / "touched"
  for text in (f"open({str(target)!r}, 'w')", "[" * 1999, "[_] * 9", "9**9"):
    assert compact(text, QUEENS) == (0.0, False, "ok")
  assert not target.exists()


def test_scorers_that_evaluate_text_are_refused():
  with pytest.raises(ValueError, match="evaluates model text"):
    logic.verdict("simple_integration", "1+1", "", {})


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
  st.one_of(
    st.text(),
    st.text(alphabet="0123456789+-*/() "),
    st.text(alphabet='[]{}",:0123456789Q_ \n'),
    st.text(alphabet="KN12 ").map("<answer>{}</answer>".format),
  ),
  st.sampled_from([COUNTDOWN, GRAPH, QUEENS, KNIGHTS]),
  st.sampled_from(["full", "compact"]),
  st.booleans(),
)
def test_no_text_raises(text, case, template, binary):
  found = logic.score(
    text, KNIGHTS_ANSWER, template=template, binary=binary, **case
  )
  assert 0 <= found.reward <= 1
  assert found.status in ("ok", "no_answer")


def _mutate(text, rng):
  """Changes an expression a little, in ways that models do."""
  chars = list(text)
  for _ in range(rng.randint(0, 3)):
    place = rng.randrange(len(chars) + 1)
    kind = rng.random()
    if kind < 0.4:
      chars.insert(place, rng.choice("0123456789+-*/() "))
    elif kind < 0.7 and place < len(chars):
      chars[place] = rng.choice("0123456789+-*/()")
    elif place < len(chars):
      del chars[place]
  return "".join(chars)


def _random_expression(numbers, rng):
  """Writes an expression over numbers in any order."""
  if len(numbers) == 1:
    return rng.choice(["", "", "", "", "-", "+"]) + str(numbers[0])
  cut = rng.randrange(1, len(numbers))
  left = _random_expression(numbers[:cut], rng)
  right = _random_expression(numbers[cut:], rng)
  text = left + rng.choice([" + ", "-", "*", "/"]) + right
  return f"({text})" if rng.random() < 0.6 else text


def test_countdown_agrees_with_reasoning_gym():
  """The fast path gives Reasoning Gym's reward, to the last partial credit."""
  rng = random.Random(0)
  config = gym_countdown.CountdownConfig(
    min_numbers=2,
    max_numbers=4,
    min_value=1,
    max_value=9,
    min_target=1,
    max_target=20,
    seed=1,
  )
  dataset = gym_countdown.CountdownDataset(config)
  rewards = []
  for index in range(300):
    entry = dataset[index % 60]
    numbers, target = (entry["metadata"][k] for k in ("numbers", "target"))
    base = _random_expression(rng.sample(numbers, len(numbers)), rng)
    for text in (
      entry["answer"],
      base,
      _mutate(entry["answer"], rng),
      _mutate(base, rng),
    ):
      tree = logic.parse(text)
      try:
        if tree is not None:
          logic._value(tree)
      except ZeroDivisionError:
        assert logic.countdown(text, numbers, target) == 0.01
        continue
      if "**" in text or "//" in text or "0" * 9 in text:
        assert logic.countdown(text, numbers, target) == 0.01
        continue
      mine = logic.countdown(text, numbers, target)
      theirs = dataset.score_answer(text, entry)
      assert mine == theirs, (text, numbers, target)
      rewards.append(mine)
  assert {0.01, 0.05, 1.0} == set(rewards)
  assert rewards.count(1.0) > 300 and rewards.count(0.05) > 100


def test_value_near_the_target_is_right_as_in_reasoning_gym():
  metadata = {"numbers": [990, 9, 1, 101], "target": 999}
  text = "990+9+1/101"
  assert logic.countdown(text, **metadata) == 1.0
  scorer = gym.load().get_score_answer_fn("countdown")
  assert scorer(text, {"metadata": metadata}) == 1.0


def test_division_by_zero_is_wrong_though_sympy_calls_it_right():
  metadata = {"numbers": [5, 1, 1, 3, 3], "target": 5}
  text = "5+1/(1/(3-3))"
  assert logic.countdown(text, **metadata) == 0.01
  scorer = gym.load().get_score_answer_fn("countdown")
  assert scorer(text, {"metadata": metadata}) == 1.0


@pytest.mark.parametrize(
  "one, other, same",
  [
    ("3+4*2", "2*4+3", True),
    ("3+4*2", " ( 4 * 2 ) + 3", True),
    ("1+2+3", "3+(2+1)", True),
    ("9-(5-3)", "9+3-5", True),
    ("8/(4/2)", "2*8/4", True),
    ("3-(-4*2)", "3+2*4", True),
    ("(3+4)*2", "3+4*2", False),
    ("8-3", "3-8", False),
    ("8/4", "4/8", False),
    ("3*4", "12", False),
  ],
)
def test_normal_form(one, other, same):
  assert (logic.normal_form(one) == logic.normal_form(other)) is same


def test_a_completion_takes_a_few_hundred_calls():
  """A batch of 512 takes a fraction of a second then."""
  texts = [f"({i}+{i + 1})*3/(7-{i})" for i in range(512)]
  with counted() as calls:
    for text in texts:
      compact(text, COUNTDOWN)
  assert calls.total < 512 * 500


def test_verifier_needs_neither_jax_nor_tfds():
  code = (
    "import sys; from progrpo_jax.rewards import logic, pool, functions;"
    "logic.score('1', '1', dataset='chain_sum', metadata={},"
    "template='compact');"
    "bad = {'jax', 'flax', 'tensorflow', 'tensorflow_datasets', 'grain'};"
    "assert not bad & set(sys.modules), bad & set(sys.modules)"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
  "answer, reward",
  [
    ("(6 - 2) * (5 + 1)", 1.0),
    ("1*(6-2)*5+4", 0.01),
    ("6*4*1*1", 0.01),
    ("6*5-2*1", 0.01),
    ("(6-2)*(5+1)*1", 0.01),
    ("6/(1-1)", 0.01),
    ("24", 0.01),
    ("__import__('os')", 0.01),
    ("", 0.01),
  ],
)
def test_puzzle24_is_stricter_than_reasoning_gym(answer, reward):
  assert (
    logic.verdict("puzzle24", answer, None, {"numbers": [1, 2, 5, 6]}) == reward
  )


@pytest.mark.parametrize(
  "dataset, reference, listed",
  [
    ("spiral_matrix", "1 2 3 6", "[1, 2, 3, 6]"),
    ("binary_matrix", "0 1\n1 2", "[[0, 1], [1, 2]]"),
    ("string_insertion", "ABCA", "['A', 'B', 'C', 'A']"),
  ],
)
def test_lists_earn_what_reasoning_gym_gives_and_nothing_is_run(
  dataset, reference, listed, tmp_path
):
  def reward(answer):
    return logic.verdict(dataset, answer, reference, {})

  assert reward(reference) == 1.0 and reward(f" {reference}\n") == 1.0
  assert reward(listed) == 0.1
  made = tmp_path / "made"
  for hostile in (
    f"[open({str(made)!r}, 'w')]",
    "[[" * 300,
    "[9**9**9]",
    f"[*[open({str(made)!r}, 'w')], 1]",
    "[x for x in [1]]",
    "1",
    "no",
  ):
    assert reward(hostile) == 0.0
  assert not made.exists()


@pytest.mark.parametrize(
  "answer, reward",
  [("True", 1.0), ("true ", 1.0), ("False", 0.0), ("maybe", 0.0), ("1", 0.0)],
)
def test_game_of_life_halting_is_compared(answer, reward):
  assert logic.verdict("game_of_life_halting", answer, "True", {}) == reward


@pytest.mark.parametrize("dataset", ["arc_agi", "rearc"])
def test_boards_are_right_after_json(dataset):
  metadata = {"output": [[1, 2], [3, 4]]}
  assert logic.verdict(dataset, "1 2\n3 4", None, metadata) == 1.0
  assert logic.verdict(dataset, "1 2\n3 5", None, metadata) == 0.05
  assert logic.verdict(dataset, "no", None, metadata) == 0.0
