"""Reasoning Gym where its solver, or all of it, is not installed."""

import json
import subprocess
import sys

import pytest

# Runs as on a machine where some packages are not installed.
WITHOUT = """
import importlib.abc, json, sys

class Missing(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in sys.argv[1].split(","):
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())

from progrpo_jax import errors
from progrpo_jax.rewards import logic
from progrpo_jax.tasks import base

found = {}
for name in ("knights_knaves", "countdown", "zebra_puzzles", "mixture"):
  task = name if name in base.names() else "reasoning_gym"
  options = {} if task == name else {"dataset": name}
  try:
    rows = base.load(
        task, "validation", data_dir=sys.argv[2], seed=0, num_train=1,
        num_validation=1, **options)
    row = rows[0]
    text = row.demonstrations[0]
    found[name] = logic.score(text, row.reference, **row.meta).reward
  except errors.InputError as error:
    found[name] = str(error)
print(json.dumps(found))
"""


def _without(packages, folder):
  done = subprocess.run(
    [sys.executable, "-c", WITHOUT, packages, str(folder)],
    capture_output=True,
    text=True,
  )
  assert not done.returncode, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


def test_without_the_solver_only_what_needs_it_says_so(tmp_path):
  found = _without("pycosat", tmp_path)
  assert found["knights_knaves"] == found["countdown"] == 1
  for name in ("zebra_puzzles", "mixture"):
    assert found[name].startswith("zebra_puzzles needs pycosat")
    assert "install a C compiler, then pip install pycosat" in found[name]


@pytest.mark.parametrize("packages", ["reasoning_gym", "bfi"])
def test_without_it_its_tasks_name_the_command(packages, tmp_path):
  found = _without(packages, tmp_path)
  for said in found.values():
    assert said.startswith("this task is made with Reasoning Gym")
    assert packages in said
    assert "pip install 'progrpo_jax[logic]'; without a C compiler" in said
    assert said.endswith("pip install --no-deps reasoning-gym")
