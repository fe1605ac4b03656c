"""Every command on workdirs of which a file is damaged: a sample of the cases.

Each ends with 0 and the right result, with what was left out said by name, or
with one clear line; never with a traceback, and a run that goes on has the
metrics of the unbroken one or says what it lacks. All cases: tests/slow.
"""

import json
import pathlib
import random
import runpy

import pytest

CASES = runpy.run_path(str(pathlib.Path(__file__).with_name("damaged.py")))
# Training takes seconds, and is thrown at what it alone goes on from.
TRAINED = {
    ("metrics.jsonl", "half"), ("eval.jsonl", "gone"), ("config.json", "zeros"),
    ("model/config.json", "bit"), ("checkpoints/2/params/**", "zeros"),
    ("checkpoints/2/meta/metadata", "bit")}
pytestmark = pytest.mark.timeout(900)


def test_no_command_stumbles_over_a_damaged_workdir(
    small, recorded, tmp_path):
  whole = tmp_path / "whole"
  assert small.train(whole, *CASES["STEPS"])[0] == 0
  others = [case for case in CASES["ALL"] if case[2] != "train"]
  cases = [(*case, "train") for case in sorted(TRAINED)]
  cases += random.Random(7).sample(others, 30)
  unbroken = recorded(whole)
  args = small.args(*CASES["STEPS"]), recorded
  bad = {}
  for case in cases:
    said = CASES["end"](whole, unbroken, args, tmp_path, case)
    print(case, said)
    if said:
      bad[" ".join(case)] = said
  assert not bad, json.dumps(bad, indent=1)
