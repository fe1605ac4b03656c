import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import functions
from progrpo_jax.rewards import pool as pools

SOURCE = """
import time
import numpy as np

def length(prompts, completions, **columns):
  return [float(len(c)) for c in completions]

def equal(prompts, completions, answer):
  return np.asarray([c == a for c, a in zip(completions, answer)], float)

def some(prompts, completions, **columns):
  return [None if c == "b" else 0.5 for c in completions]

def short(prompts, completions, **columns):
  return [1.0]

def text(prompts, completions, **columns):
  return ["1.0" for _ in completions]

def nan(prompts, completions, **columns):
  return [float("nan") for _ in completions]

def penalty(prompts, completions, **columns):
  return [-0.25 for _ in completions]

def nothing(prompts, completions, **columns):
  return None

def mapping(prompts, completions, **columns):
  return {i: 1.0 for i in range(len(completions))}

def scores(prompts, completions, **columns):
  return {0.5, 0.1}

def raw(prompts, completions, **columns):
  return bytes(len(completions))

def generator(prompts, completions, **columns):
  return (1.0 for _ in completions)

def midway(prompts, completions, **columns):
  return (1.0 / len(c.strip("b")) for c in completions)

def broken(prompts, completions, **columns):
  raise ZeroDivisionError("oh no")

def hanging(prompts, completions, **columns):
  time.sleep(1000)
"""

COLUMNS = {"answer": ["a", "a"], "topic": ["x", "y"]}


@pytest.fixture(scope="module")
def pool():
  with pools.Pool(workers=1) as made:
    yield made


@pytest.fixture
def named(tmp_path):
  path = tmp_path / "mine.py"
  path.write_text(SOURCE)
  return lambda name: f"{path}:{name}"


def _evaluate(pool, names, **options):
  return functions.evaluate(
    pool, names, ["p", "q"], ["a", "b"], COLUMNS, **options
  )


def test_reward_is_the_weighted_sum(pool, named):
  names = [named("length"), named("equal")]
  judged = _evaluate(pool, names, correct_by="equal")
  assert judged.scores == [(2.0, True, "ok"), (1.0, False, "ok")]
  assert judged.values == [(1.0, 1.0), (1.0, 0.0)]
  scores, _ = _evaluate(
    pool, names, weights=[0.1, 0.9], correct_by=named("length")
  )
  assert [s.reward for s in scores] == pytest.approx([1.0, 0.1])
  assert [s.correct for s in scores] == [True, True]


def test_what_is_right_is_not_read_off_the_sum(pool, named):
  """A penalty makes no right answer wrong, a bonus no wrong one right."""
  names = [named("equal"), named("penalty")]
  assert _evaluate(pool, names, correct_by="equal").scores == [
    (0.75, True, "ok"),
    (-0.25, False, "ok"),
  ]
  names = [named("equal"), named("length")]
  assert [
    s.correct
    for s in _evaluate(
      pool, names, weights=[1.0, 2.0], correct_by="equal"
    ).scores
  ] == [True, False]


@pytest.mark.parametrize(
  ("threshold", "right"),
  [(1.0, [False, None]), (0.5, [True, None]), (0.6, [False, None])],
)
def test_a_single_function_decides_by_its_threshold(
  pool, named, threshold, right
):
  scores, _ = _evaluate(
    pool, [named("some")], weights=[3.0], correct_threshold=threshold
  )
  assert [None if s.status == "refused" else s.correct for s in scores] == right


def test_none_masks_where_the_function_that_decides_says_it(pool, named):
  scores, _ = _evaluate(pool, [named("some")])
  assert scores == [(0.5, False, "ok"), (0.0, False, "refused")]
  names = [named("some"), named("equal")]
  judged = _evaluate(pool, names, correct_by="equal")
  assert judged.scores == [(1.5, True, "ok"), (0.0, False, "ok")]
  assert judged.values == [(0.5, 1.0), (None, 0.0)]
  assert _evaluate(pool, names, correct_by="some").scores == [
    (1.5, False, "ok"),
    (0.0, False, "refused"),
  ]


def test_who_decides_must_be_said_where_there_are_several(pool, named):
  names = [named("length"), named("equal")]
  with pytest.raises(
    InputError, match=r"2 reward functions \(length, equal\).*correct_by="
  ):
    _evaluate(pool, names)
  with pytest.raises(
    InputError, match="'eqal' is none of.*length, equal.*mean 'equal'"
  ):
    _evaluate(pool, names, correct_by="eqal")
  with pytest.raises(InputError, match="equal is named twice"):
    _evaluate(pool, 2 * [named("equal")], correct_by="equal")


@pytest.mark.parametrize(
  ("names", "labels"),
  [
    (["m:f", "a/b.py:g"], ["f", "g"]),
    (["m:f", "a/b.py:f", "g.py:g"], ["m.f", "b.f", "g"]),
    (["/a/r.py:f", "/b/r.py:f", "a.r:h"], ["a.r.f", "b.r.f", "h"]),
    (["r:f", "r.py:f"], ["r:f", "r.py:f"]),
  ],
)
def test_labels_tell_functions_apart(names, labels):
  assert functions.labels(names) == labels
  for number, (name, label) in enumerate(zip(names, labels)):
    assert functions.find_decider(names, name) == number
    assert functions.find_decider(names, label) == number


@pytest.mark.parametrize(
  "name, said",
  [
    ("short", "returned 1 values for 2 completions"),
    ("text", "'1.0' for completion 0"),
    ("nan", "nan for completion 0"),
    ("nothing", "returned None, not a list"),
    ("mapping", "returned {0: 1.0, 1: 1.0}, not a list"),
    ("scores", "}, not a list"),
    ("raw", r"returned b'\x00\x00', not a list"),
    ("midway", "raised ZeroDivisionError: "),
    ("broken", "raised ZeroDivisionError: oh no"),
    ("absent", "cannot be loaded: AttributeError"),
  ],
)
def test_errors_name_the_function(pool, named, name, said):
  with pytest.raises(functions.RewardFunctionError) as caught:
    _evaluate(pool, [named("length"), named(name)], correct_by="length")
  assert said in str(caught.value) and named(name) in str(caught.value)
  assert isinstance(caught.value, InputError)


def test_any_sequence_of_numbers_is_taken(pool, named):
  judged = _evaluate(pool, [named("generator")])
  assert judged.values == [(1.0,), (1.0,)]


def test_hanging_function_is_named_and_the_pool_lives_on(pool, named):
  with pytest.raises(functions.RewardFunctionError, match="hanging.*0.5 s"):
    _evaluate(pool, [named("hanging")], deadline_s=0.5)
  assert len(_evaluate(pool, [named("length")]).scores) == 2


def test_bad_weights_and_columns(pool, named):
  with pytest.raises(InputError, match="1 reward weights for 2"):
    _evaluate(pool, [named("length"), named("equal")], weights=[1.0])
  with pytest.raises(InputError, match="no reward function"):
    _evaluate(pool, [])
  with pytest.raises(InputError, match="'prompts'"):
    functions.evaluate(pool, [named("length")], [], [], {"prompts": []})


def test_score_of_a_single_completion(named):
  row = {"prompt": "p", "columns": {"answer": "a"}}
  assert functions.score("a", "a", functions=[named("equal")], **row).correct
  judged = functions.score(
    "7",
    "7",
    verifier="progrpo_jax.rewards.logic:score",
    options={"dataset": "chain_sum", "metadata": {}, "template": "compact"},
    **row,
  )
  assert judged == (1.0, True, "ok")
