"""Every generator of Reasoning Gym that can be had, in two processes."""

import json
import os
import subprocess
import sys

import pytest

from progrpo_jax.rewards import gym
from progrpo_jax.tasks import reasoning_gym

NAMES = sorted(
  set(reasoning_gym.factory.DATASETS)
  - set(reasoning_gym.UNSAFE)
  - {"composite"}
  - set(() if gym.has_solver() else gym.NEEDS_SOLVER)
)
# Where no answer comes with a problem, an example may; two have none.
EXAMPLES = {
  "graph_color": "possible_answer",
  "propositional_logic": "example_answer",
  "rubiks_cube": "example_correct_answer",
}
WITHOUT = {"boxnet", "rush_hour"}

CHILD = """
import hashlib, json, sys
from progrpo_jax.rewards import logic
from progrpo_jax.tasks import base
names, examples = json.loads(sys.argv[2])
found = {}
for name in names:
  rows = []
  try:
    for split in base.SPLITS:
      source = base.load(
          "reasoning_gym", split, data_dir=sys.argv[1], seed=11, dataset=name,
          num_train=3, num_validation=2, binary=False)
      rows += [source[i] for i in range(len(source))]
  except Exception as error:
    found[name] = [0, repr(error), []]
    continue
  rewards = []
  for row in rows:
    answer = row.reference
    if name in examples:
      answer = row.meta["metadata"][examples[name]]
      answer = answer if isinstance(answer, str) else json.dumps(answer)
    if answer is not None:
      text = f"I think.\\n<answer>{answer}</answer>"
      rewards.append(list(logic.score(text, row.reference, **row.meta)))
    wrong = logic.score("<answer>no (such</answer>", row.reference, **row.meta)
    rewards.append(list(wrong))
  digest = hashlib.sha256(repr(rows).encode()).hexdigest()
  found[name] = [len(rows), digest, rewards]
json.dump(found, open(sys.argv[3], "w"))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """What two processes of different hash seeds make, by name."""
  folder = tmp_path_factory.mktemp("all")
  running = [
    subprocess.Popen(
      [
        sys.executable,
        "-c",
        CHILD,
        str(folder / seed),
        json.dumps([NAMES, EXAMPLES]),
        str(folder / f"{seed}.json"),
      ],
      env={**os.environ, "PYTHONHASHSEED": seed},
      stdout=subprocess.DEVNULL,
    )
    for seed in ("1", "2")
  ]
  assert [process.wait() for process in running] == [0, 0]
  return [json.loads((folder / f"{s}.json").read_text()) for s in ("1", "2")]


@pytest.mark.timeout(1800)
def test_there_are_102(found):
  assert len(NAMES) == 102 and set(found[0]) == set(NAMES)
  assert len(reasoning_gym.MIXTURE) == 96
  assert set(reasoning_gym.MIXTURE) < {*NAMES, *gym.NEEDS_SOLVER}


@pytest.mark.parametrize("name", NAMES)
def test_equal_in_both_and_its_own_answer_scores_one(found, name):
  one, other = (part[name] for part in found)
  assert one == other and one[0] == 5, one[1]
  rewards = one[2]
  if name in WITHOUT:
    assert all(reward < 1 for reward, _, _ in rewards)
    return
  right, wrong = rewards[::2], rewards[1::2]
  assert right == [[1.0, True, "ok"]] * 5
  assert all(reward < 1 and not correct for reward, correct, _ in wrong)
