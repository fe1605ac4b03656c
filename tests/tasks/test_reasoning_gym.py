import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import gym, logic
from progrpo_jax.tasks import base, reasoning_gym

SMALL = {"num_train": 60, "num_validation": 20, "seed": 3}
PROCEDURAL = (
  "countdown",
  "graph_color",
  "n_queens",
  "chain_sum",
  "simple_equations",
  "knights_knaves",
)


def _rows(name, split, data_dir, **options):
  source = base.load(name, split, data_dir=data_dir, **{**SMALL, **options})
  return [source[i] for i in range(len(source))]


def test_a_build_leaves_no_temporary_files(tmp_path, monkeypatch):
  place = tmp_path / "temporary"
  place.mkdir()
  monkeypatch.setattr(tempfile, "tempdir", str(place))
  sizes = {"num_train": 2, "num_validation": 1}
  assert len(_rows("chain_sum", "train", str(tmp_path / "data"), **sizes)) == 2
  assert list(place.iterdir()) == []


@pytest.mark.parametrize("template", reasoning_gym.TEMPLATES)
@pytest.mark.parametrize("name", PROCEDURAL)
def test_demonstrations_score_one(name, template, data_dir):
  rows = _rows(name, "train", data_dir, template=template)
  assert len(rows) == 60
  for row in rows:
    assert row.task == name and row.demonstrations
    assert len(set(row.demonstrations)) == len(row.demonstrations) <= 4
    for text in row.demonstrations:
      assert logic.score(text, row.reference, **row.meta) == (1.0, True, "ok")
    assert base.item(row, "x").meta == row.meta
    limit = 80 if template == "compact" else 4000
    assert len(row.prompt) < limit


@pytest.mark.parametrize("name", PROCEDURAL)
def test_own_answer_has_reasoning_gyms_score(name, data_dir):
  """The reference, in Reasoning Gym's format, scores 1 after the round trip."""
  for row in _rows(name, "validation", data_dir):
    answer = f"<answer>{row.reference}</answer>"
    assert logic.score(answer, row.reference, **row.meta).correct


@pytest.mark.parametrize("name", PROCEDURAL)
def test_splits_share_no_problem(name, data_dir):
  train = {r.prompt for r in _rows(name, "train", data_dir, template="compact")}
  held = {
    r.prompt for r in _rows(name, "validation", data_dir, template="compact")
  }
  assert len(train) == 60 and len(held) == 20
  assert not train & held


def test_countdown_splits_are_disjoint_in_any_order_of_numbers(tmp_path):
  """With 165 problems in all, chance alone would repeat many."""
  options = dict(
    min_numbers=2,
    max_numbers=2,
    max_value=10,
    max_target=100,
    template="compact",
    num_train=80,
    num_validation=40,
  )
  seen = set()
  for split in base.SPLITS:
    for row in _rows("countdown", split, str(tmp_path), **options):
      problem = row.meta["metadata"]
      key = (*sorted(problem["numbers"]), problem["target"])
      assert key not in seen
      seen.add(key)
  assert len(seen) == 120


def test_too_few_distinct_problems(tmp_path):
  with pytest.raises(InputError, match="only .* of 500 train problems"):
    _rows(
      "chain_sum",
      "train",
      str(tmp_path),
      min_terms=2,
      max_terms=2,
      min_digits=1,
      max_digits=1,
      num_train=500,
    )


def test_equal_configs_are_built_once_and_others_anew(tmp_path, monkeypatch):
  first = _rows("chain_sum", "train", str(tmp_path))
  folder = tmp_path / "reasoning_gym"
  before = sorted(folder.iterdir())
  monkeypatch.setattr(reasoning_gym, "ReasoningGym", _NoBuild)
  assert _rows("chain_sum", "train", str(tmp_path)) == first
  monkeypatch.undo()
  other = _rows("chain_sum", "train", str(tmp_path), seed=4)
  assert other != first and len(sorted(folder.iterdir())) == len(before) + 1


class _NoBuild:
  name = "reasoning_gym"

  def __init__(self, **_):
    raise AssertionError("built a second time")


def test_builds_agree_whatever_the_hash_seed(tmp_path):
  digests = set()
  code = (
    "import hashlib, sys; from progrpo_jax.tasks import base;"
    "s = base.load('knights_knaves', 'train', data_dir=sys.argv[1], seed=0,"
    "num_train=30, num_validation=5);"
    "t = repr([s[i] for i in range(30)]);"
    "print(hashlib.sha256(t.encode()).hexdigest())"
  )
  for seed in "01":
    done = subprocess.run(
      [sys.executable, "-c", code, str(tmp_path / seed)],
      check=True,
      env={**os.environ, "PYTHONHASHSEED": seed},
      capture_output=True,
    )
    digests.add(done.stdout)
  assert len(digests) == 1


def test_two_processes_build_the_same_directory(tmp_path):
  code = (
    "import sys; from progrpo_jax.tasks import base;"
    "s = base.load('countdown', 'train', data_dir=sys.argv[1], seed=0,"
    "num_train=300, num_validation=20); assert len(s) == 300; s[299]"
  )
  running = [
    subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    for _ in range(2)
  ]
  assert [process.wait() for process in running] == [0, 0]
  made = list(pathlib.Path(tmp_path, "reasoning_gym").glob("*/*"))
  assert [path.name for path in made] == ["1.0.0"]


def test_options_are_checked(tmp_path):
  folder = str(tmp_path)
  with pytest.raises(InputError, match="did you mean 'max_numbers'"):
    _rows("countdown", "train", folder, max_number=3)
  with pytest.raises(InputError, match="did you mean 'template'"):
    _rows("countdown", "train", folder, templat="full")
  with pytest.raises(InputError, match="max_numbers must be"):
    _rows("countdown", "train", folder, min_numbers=4, max_numbers=3)
  with pytest.raises(InputError, match="did you mean 'compact'"):
    _rows("countdown", "train", folder, template="compct")
  with pytest.raises(InputError, match="9 colours"):
    _rows("graph_color", "train", folder, template="compact", num_colors=10)
  with pytest.raises(InputError, match="n up to 9"):
    _rows("n_queens", "train", folder, template="compact", n=10)
  assert not list(tmp_path.iterdir())


def test_any_other_dataset(tmp_path):
  rows = _rows(
    "reasoning_gym",
    "train",
    str(tmp_path),
    dataset="spell_backward",
    num_train=20,
    num_validation=5,
  )
  text = rows[0].demonstrations[0]
  assert logic.score(text, rows[0].reference, **rows[0].meta).correct
  with pytest.raises(InputError, match="no compact template"):
    _rows(
      "reasoning_gym",
      "train",
      str(tmp_path),
      dataset="spell_backward",
      template="compact",
    )
  with pytest.raises(InputError, match="did you mean 'spell_backward'"):
    _rows("reasoning_gym", "train", str(tmp_path), dataset="spel_backward")
  with pytest.raises(InputError, match="needs the option 'dataset'"):
    _rows("reasoning_gym", "train", str(tmp_path))


def test_a_dataset_that_depends_on_the_hash_seed_is_drawn_at_0(tmp_path):
  """In this process as in one of another hash seed."""
  options = dict(dataset="ransom_note", num_train=5, num_validation=2)
  rows = _rows("reasoning_gym", "train", str(tmp_path / "here"), **options)
  code = (
    "import sys; from progrpo_jax.tasks import base;"
    "s = base.load('reasoning_gym', 'train', data_dir=sys.argv[1], seed=3,"
    "dataset='ransom_note', num_train=5, num_validation=2);"
    "print([s[i].prompt for i in range(5)])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path / "there")],
    check=True,
    env={**os.environ, "PYTHONHASHSEED": "7"},
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip() == repr([row.prompt for row in rows])
  for row in rows:
    assert logic.score(row.demonstrations[0], row.reference, **row.meta).correct


def test_levels_of_a_curriculum(tmp_path):
  """The length of a sum's terms grows with the level."""
  options = dict(dataset="chain_sum", num_train=9, num_validation=3)
  easy, hard = (
    _rows("reasoning_gym", "train", str(tmp_path), level=level, **options)
    for level in (0, 8)
  )
  assert max(len(r.prompt) for r in easy) < min(len(r.prompt) for r in hard)
  longer = _rows(
    "reasoning_gym",
    "train",
    str(tmp_path),
    level=0,
    min_digits=9,
    max_digits=9,
    **options,
  )
  assert min(len(r.prompt) for r in longer) > max(len(r.prompt) for r in easy)
  with pytest.raises(InputError, match="chain_sum: level is 0 to 10, not 11"):
    _rows("reasoning_gym", "train", str(tmp_path), level=11, **options)
  with pytest.raises(InputError, match="list_functions has no curriculum"):
    _rows(
      "reasoning_gym", "train", str(tmp_path), level=0, dataset="list_functions"
    )
  with pytest.raises(InputError, match="did you mean 'chain_sum'"):
    _rows("reasoning_gym", "train", str(tmp_path), level=0, dataset="chain_sun")


def test_a_list_of_datasets_is_one_source(tmp_path):
  rows = _rows(
    "reasoning_gym",
    "validation",
    str(tmp_path),
    dataset=["spell_backward", "tower_of_hanoi"],
    num_validation=3,
  )
  assert [r.meta["dataset"] for r in rows] == (
    ["spell_backward"] * 3 + ["tower_of_hanoi"] * 3
  )
  assert not rows[0].meta["binary"]


def test_the_mixture_is_that_of_a_config(tmp_path):
  tasks = reasoning_gym.mixture(num_train=2, num_validation=1)
  assert len(tasks) == 95 and "countdown" in tasks and "acre" not in tasks
  spec = tasks["string_synthesis"]
  assert spec["module"] == "reasoning_gym" and spec["weight"] == 1.0
  assert spec["options"] == {
    "dataset": "string_synthesis",
    "binary": False,
    "num_train": 2,
    "num_validation": 1,
    "max_initial_blocks": 9,
  }
  rows = base.load(
    spec["module"], "train", data_dir=str(tmp_path), seed=0, **spec["options"]
  )
  assert len(rows) == 2
  assert tasks["course_schedule"]["options"]["binary"]


def test_partial_credit_that_takes_no_work_is_not_in_a_mixture(tmp_path):
  rows = _rows(
    "reasoning_gym",
    "validation",
    str(tmp_path),
    dataset=["course_schedule", "spell_backward"],
    num_validation=1,
  )
  assert [row.meta["binary"] for row in rows] == [True, False]


# Answers that are right nowhere.
JUNK = (
  "nan",
  "-Infinity",
  "nan+nanj",
  "[NaN]",
  '["nan", "nan"]',
  "1e999",
  "?",
  "True False",
  "Yes No",
  "0 1 2 3 4 5 6 7 8 9",
  "12:00",
  '{"a": 1}',
  "[[0]]",
  "100 days, 12:00:00",
  "no idea",
  "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
)
_IN_MIXTURE = reasoning_gym.mixture()


@pytest.mark.parametrize(
  "dataset",
  sorted(
    {*_IN_MIXTURE, "coin_flip", "game_of_life_halting"}
    - set(() if gym.has_solver() else gym.NEEDS_SOLVER)
  ),
)
def test_junk_is_never_right_and_earns_little(dataset):
  """The bound is Reasoning Gym's for a number that contains the right one."""
  task = _IN_MIXTURE.get(dataset, {"options": {}})
  source = reasoning_gym.factory.create_dataset(dataset, size=3, seed=7)
  entries = json.loads(json.dumps([source[i] for i in range(3)], default=str))

  def found(entry, text):
    return logic.score(
      f"<answer>{text}</answer>",
      entry["answer"],
      dataset=dataset,
      metadata=entry["metadata"],
      binary=task["options"].get("binary", True),
    )

  for text in JUNK:
    scores = [found(entry, text) for entry in entries]
    assert not any(s.correct for s in scores), text
    assert sum(s.reward for s in scores) / 3 < 0.3, text
  for entry in entries:
    if reference := entry["answer"]:
      assert (
        not re.search(r"\d", reference)
        or not found(entry, re.sub(r"\d+(?:\.\d+)?", "nan", reference)).correct
      )
      assert found(entry, reference).correct


@pytest.mark.parametrize(
  "dataset", ["string_splitting", "string_synthesis", "tower_of_hanoi"]
)
def test_the_mixture_widens_what_has_few_problems(dataset, tmp_path):
  spec = reasoning_gym.mixture()[dataset]
  for split, size in (("train", 385), ("validation", 100)):
    rows = base.load(
      spec["module"], split, data_dir=str(tmp_path), seed=0, **spec["options"]
    )
    assert len(rows) == size


@pytest.mark.parametrize("dataset", ["power_function", "tsumego"])
def test_configs_that_validate_nothing(dataset, tmp_path):
  rows = _rows(
    "reasoning_gym",
    "train",
    str(tmp_path),
    dataset=dataset,
    num_train=2,
    num_validation=1,
  )
  assert len(rows) == 2


@pytest.mark.parametrize("dataset", reasoning_gym.UNSAFE)
def test_datasets_that_run_model_text_are_refused(dataset, tmp_path):
  with pytest.raises(InputError, match="runs model text"):
    _rows("reasoning_gym", "train", str(tmp_path), dataset=dataset)
