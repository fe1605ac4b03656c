import random

import pytest

from progrpo_jax.rewards import gym, logic
from progrpo_jax.tasks import base, countdown

gym_countdown = gym.load("games.countdown")

CONFIGS = (
  {},
  {
    "min_numbers": 2,
    "max_numbers": 6,
    "max_value": 9,
    "min_target": 1,
    "max_target": 30,
  },
  {
    "min_numbers": 3,
    "max_numbers": 4,
    "max_value": 12,
    "min_target": 1,
    "max_target": 50,
    "operators": ("+", "/"),
  },
)


def _entry(numbers, target, answer=""):
  return {"answer": answer, "metadata": {"numbers": numbers, "target": target}}


@pytest.mark.parametrize("options", CONFIGS)
def test_generator_gives_reasoning_gyms_problems(options):
  config = gym_countdown.CountdownConfig(seed=5, **options)
  theirs = gym_countdown.CountdownDataset(config)
  mine = countdown.Generator(config)
  for index in range(80):
    try:
      expected = theirs[index]
    except ValueError:
      with pytest.raises(ValueError):
        mine[index]
      continue
    found = mine[index]
    assert found["question"] == expected["question"]
    for key in ("numbers", "target"):
      assert found["metadata"][key] == expected["metadata"][key]
    assert theirs.score_answer(found["answer"], expected) == 1.0


def test_solutions_have_reasoning_gyms_full_score():
  config = gym_countdown.CountdownConfig(
    seed=1,
    min_numbers=3,
    max_numbers=4,
    max_value=12,
    min_target=1,
    max_target=50,
  )
  dataset = countdown.Generator(config)
  count = 0
  for index in range(150):
    entry = dataset[index]
    texts = countdown.solve(entry, 8, random.Random(index))
    assert texts and len(set(map(logic.normal_form, texts))) == len(texts) <= 8
    for text in texts:
      assert dataset.score_answer(text, entry) == 1.0
      count += 1
  assert count > 450


def test_solver_finds_all_of_a_small_problem():
  texts = countdown.solve(_entry([2, 3, 6], 6), 50, random.Random(0))
  forms = {logic.normal_form(t) for t in texts}
  ways = ("6*(3-2)", "6/(3-2)", "3+6/2", "(6-3)*2")
  assert forms == {logic.normal_form(t) for t in ways}


def test_seed_decides_the_choice():
  entry = _entry([1, 2, 3, 4], 10)
  one, same, other = (
    countdown.solve(entry, 4, random.Random(seed)) for seed in (0, 0, 1)
  )
  assert one == same != other


def test_more_numbers_keep_the_reference_only():
  entry = _entry([1, 2, 3, 4, 5], 15, "1+2+3+4+5")
  assert countdown.solve(entry, 4, random.Random(0)) == ["1+2+3+4+5"]


@pytest.mark.parametrize(
  "tree, text",
  [
    (("-", 1, ("-", 2, 3)), "1-(2-3)"),
    (("-", ("-", 1, 2), 3), "1-2-3"),
    (("*", ("+", 1, 2), 3), "(1+2)*3"),
    (("/", 1, ("*", 2, 3)), "1/(2*3)"),
    (("+", 1, ("*", 2, 3)), "1+2*3"),
  ],
)
def test_write_puts_only_the_parentheses_needed(tree, text):
  assert countdown.write(tree) == text


def test_prompts_and_canonical_form(data_dir):
  source = base.load(
    "countdown",
    "train",
    data_dir=data_dir,
    seed=3,
    template="compact",
    num_train=60,
    num_validation=20,
  )
  problem = source[0].meta["metadata"]
  numbers = " ".join(map(str, problem["numbers"]))
  assert source[0].prompt == f"{numbers}={problem['target']}:"
  one, other = (base.canonical(t, source[0]) for t in ("2+3*4", " 4*3 + 2"))
  assert one == other != base.canonical("(2+3)*4", source[0])
