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


@pytest.mark.parametrize(
  "numbers, target, text",
  [
    ([990, 9, 1, 101], 999, "990+9+1/101"),
    ([95, 10, 1, 100, 2], 950, "95*10+1/(100*2)"),
  ],
)
def test_value_near_the_target_is_wrong_though_it_is_close(
  numbers, target, text
):
  """What is left over would vanish in a small fraction."""
  metadata = {"numbers": numbers, "target": target}
  assert logic.countdown(text, **metadata) == 0.05
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


SORTED = "['-87.0', '-5.19', '19.0', '81.8']"
PREMISES = ["(¬Q ∨ (P ↔ R))", "Q", "¬R"]


def reward(dataset, answer, reference=None, metadata=None):
  return logic.verdict(dataset, answer, reference, metadata or {})


@pytest.mark.parametrize(
  "answer, right",
  [
    (SORTED, True),
    ('["-87", "-5.190", "19", "81.8"]', True),
    ("[-87.0, -5.19, 19.0, 8.18e1]", True),
    ("['nan', 'nan', 'nan', 'nan']", False),
    ("[NaN, NaN, NaN, NaN]", False),
    ("['-87.0', '-5.19', '19.0', 'Infinity']", False),
    ("['-87.0', '-5.19', '19.0', 1e999]", False),
    ("['-86.1', '-4.3', '19.9', '82.7']", False),
    ("['-87.0', '-5.19', '19.0', '81.80001']", False),
    ("['-5.19', '-87.0', '19.0', '81.8']", False),
    ("['-87.0', '-5.19', '19.0']", False),
    ("[[-87.0], -5.19, 19.0, true]", False),
    ("-87.0, -5.19, 19.0, 81.8", False),
    ('{"-87.0": 1}', False),
    ("[" * 5000, False),
  ],
)
def test_number_sorting_is_exact(answer, right):
  metadata = {"direction": "ascending"}
  assert reward("number_sorting", answer, SORTED, metadata) == right


@pytest.mark.parametrize(
  "answer, reference, right",
  [
    ("0.234375", "0.234375", True),
    ("15/64", "0.234375", True),
    ("0.2344", "0.234375", True),
    ("6.1e-05", "6.103515625e-05", True),
    ("0", "0.234375", False),
    ("0.2", "0.234375", False),
    ("0.0", "6.103515625e-05", False),
    ("0.0001", "6.103515625e-05", False),
    ("nan", "0.234375", False),
    ("1e99999999", "0.234375", False),
    ("1/0", "0.5", False),
    ("-0.5", "0.5", False),
    (".", "0.5", False),
    ("1\n/\n2", "0.5", True),
    ("0.5", "", False),
  ],
)
def test_coin_flip_is_compared_by_value(answer, reference, right):
  assert reward("coin_flip", answer, reference) == right


@pytest.mark.parametrize(
  "answer", ["nan", "NaN+nanj", "nanj", "inf", "-Infinity", "1e999", "sNaN"]
)
def test_no_answer_is_right_by_not_being_a_number(answer):
  metadata = {"result": [4.0, -7.0]}
  assert reward("complex_arithmetic", "4.0 - 7.0i", "", metadata) == 1.0
  assert reward("complex_arithmetic", answer, "", metadata) == 0.0


def test_words_may_read_like_numbers():
  assert reward("spell_backward", "nan", "nan") == 1.0
  assert reward("list_functions", "[nano, info]", "[nano, info]") == 1.0


@pytest.mark.parametrize(
  "answer, right",
  [
    ("lacigam", True),
    ("LACIGAM", True),
    ("lacigamzzzz", False),
    ("lacigan", False),
    ("lacigam lacigam", False),
  ],
)
def test_spell_backward_is_right_if_it_is_equal(answer, right):
  found = logic.score(
    f"<answer>{answer}</answer>",
    "lacigam",
    dataset="spell_backward",
    metadata={},
    binary=False,
  )
  assert found.correct == right == (found.reward == 1)


@pytest.mark.parametrize(
  "dataset, reference, longer",
  [
    ("letter_jumble", "by any means", "by any means and more"),
    ("figlet_font", "ABCDEFGHIJ", "ABCDEFGHIJKLM"),
  ],
)
def test_a_text_is_not_right_with_more_behind_it(dataset, reference, longer):
  assert reward(dataset, reference, reference) == 1.0
  assert reward(dataset, longer, reference) == 0.0


@pytest.mark.parametrize(
  "answer, right",
  [
    ("P ↔ R", True),
    ("¬P", True),
    ("(Q ∧ ¬P)", True),
    ("Q", False),
    ("((Q))", False),
    ("¬¬ Q", False),
    ("¬(R)", False),
    ("¬Q ∨ (P ↔ R)", False),
    ("¬¬(¬Q∨(P↔R))", False),
    ("(¬Q ∨ (P ↔ R)) ∨ P", False),
    ("P", False),
    ("P ∨ ¬P", False),
  ],
)
def test_a_premise_is_no_conclusion(answer, right):
  metadata = {"premises": PREMISES, "variables": ["P", "Q", "R"]}
  found = reward("propositional_logic", answer, None, metadata)
  assert (found == 1) == right


@pytest.mark.parametrize(
  "answer, right",
  [
    ('""', True),
    ("No real solutions.", True),
    ("none", True),
    ("There are no real values that satisfy it", True),
    ("x", False),
    ("nothing is known", False),
    ("?", False),
    ("1.5", False),
  ],
)
def test_no_solution_must_be_said(answer, right):
  assert (reward("polynomial_equations", answer, "") == 1) == right


@pytest.mark.parametrize(
  "answer, right",
  [
    ("[[0, 1], [1, 0]]", True),
    ("[[0, 1, 0], [1, 0]]", False),
    ("[[0, 1], [1, 0], [0, 0]]", False),
    ("[[false, true], [true, false]]", False),
  ],
)
def test_game_of_life_has_no_other_cells(answer, right):
  assert (reward("game_of_life", answer, "[[0,1],[1,0]]") == 1) == right


@pytest.mark.parametrize(
  "answer",
  [
    '{"0": true, "1": 2, "2": 1}',
    '{"0": 1, "1": 2, "2": 1, "3": 1}',
    '{"0": 1.0, "1": 2, "2": 1}',
    '{"0": 1, "1": 2}',
  ],
)
def test_a_colouring_has_a_number_for_each_vertex(answer):
  assert not compact(answer, GRAPH).correct


def test_a_reward_beyond_1_is_none():
  """Reasoning Gym gives 22026 to 1 where -1 is right."""
  metadata = {"task": "recurring_event_day"}
  assert reward("calendar_arithmetic", "1", "-1", metadata) == 0.0
  assert reward("calendar_arithmetic", "-1", "-1", metadata) == 1.0


@pytest.mark.parametrize(
  "text", ["_" * 19_000 + "x", "_\n" * 9000, " " * 15_000 + "Q", "```\n" * 4000]
)
def test_long_boards_are_read_at_once(text):
  with counted() as calls:
    assert not compact(text, QUEENS).correct
  assert calls.total < 500


@pytest.mark.parametrize("formula", ["¬" * 9000 + "P", "P ∧ " * 2000 + "P"])
def test_long_formulas_cost_nothing(formula):
  metadata = {"premises": PREMISES, "variables": ["P", "Q", "R"]}
  with counted() as calls:
    assert reward("propositional_logic", formula, None, metadata) == 0.0
  assert calls.total < 100


@pytest.mark.parametrize("answer", ["F99999999", "0123456789", "R2 F1000"])
def test_moves_of_a_cube_are_not_written_out(answer):
  metadata = {"cube_size": 3, "scramble_moves": "F"}
  with counted() as calls:
    assert reward("rubiks_cube", answer, None, metadata) == 0.0
  assert calls.total < 100
  assert reward("rubiks_cube", "F3", None, metadata) == 1.0


@pytest.mark.parametrize(
  "text",
  [
    "I put it in <answer> tags.\n<answer>19+3-9</answer>",
    "<answer>19+3-9</answer>\nThat was <answer></answer>.",
    "<ANSWER>19+3-9</ANSWER>",
    "<answer><answer>19+3-9</answer></answer>",
    "<answer>1</answer> <answer> \n</answer> <Answer>19+3-9</answer>",
  ],
)
def test_tags_may_be_mentioned_before_they_are_used(text):
  assert logic.score(text, None, **COUNTDOWN).correct
  assert compact(text, COUNTDOWN).correct


@pytest.mark.parametrize(
  "board, right",
  [
    (BOARD, True),
    (BOARD.replace("\n", " \n"), True),
    (BOARD.replace("\n", "\n\n"), True),
    ("  " + BOARD.replace("\n", "\n  "), True),
    (BOARD.replace(" ", ""), True),
    (f"```\n{BOARD}\n```", True),
    (f"```text\n{BOARD.replace(' ', '  ')}\n```", True),
    (BOARD.replace("_ Q _ _", "Q _ _ _"), False),
    (BOARD + "\n_ _ _ _", False),
    (BOARD.replace("\n", " "), False),
    (BOARD.replace("_", "."), False),
    (f"The board:\n{BOARD}", False),
  ],
)
def test_boards_of_queens_may_be_written_in_many_ways(board, right):
  text = f"<answer>{board}</answer>"
  assert logic.score(text, "", **QUEENS).correct == right
