import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import functions
from progrpo_jax.rewards import pool as pools

SOURCE = '''
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

def nothing(prompts, completions, **columns):
  return None

def broken(prompts, completions, **columns):
  raise ZeroDivisionError("oh no")

def hanging(prompts, completions, **columns):
  time.sleep(1000)
'''

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
  assert _evaluate(pool, names) == [(2.0, True, "ok"), (1.0, True, "ok")]
  scores = _evaluate(pool, names, weights=[0.1, 0.9])
  assert [s.reward for s in scores] == pytest.approx([1.0, 0.1])
  assert [s.correct for s in scores] == [True, False]


def test_none_masks_unless_another_function_has_a_value(pool, named):
  scores = _evaluate(pool, [named("some")])
  assert scores == [(0.5, False, "ok"), (0.0, False, "refused")]
  scores = _evaluate(pool, [named("some"), named("equal")])
  assert scores == [(1.5, True, "ok"), (0.0, False, "ok")]


@pytest.mark.parametrize("name, said", [
    ("short", "returned 1 values for 2 completions"),
    ("text", "'1.0' for completion 0"),
    ("nan", "nan for completion 0"),
    ("nothing", "returned None, not a list"),
    ("broken", "raised ZeroDivisionError: oh no"),
    ("absent", "cannot be loaded: AttributeError"),
])
def test_errors_name_the_function(pool, named, name, said):
  with pytest.raises(functions.RewardFunctionError) as caught:
    _evaluate(pool, [named("length"), named(name)])
  assert said in str(caught.value) and named(name) in str(caught.value)
  assert isinstance(caught.value, InputError)


def test_hanging_function_is_named_and_the_pool_lives_on(pool, named):
  with pytest.raises(functions.RewardFunctionError, match="hanging.*0.5 s"):
    _evaluate(pool, [named("hanging")], deadline_s=0.5)
  assert len(_evaluate(pool, [named("length")])) == 2


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
      "7", "7", verifier="progrpo_jax.rewards.logic:score",
      options={
          "dataset": "chain_sum", "metadata": {}, "template": "compact"
      }, **row,
  )
  assert judged == (1.0, True, "ok")
