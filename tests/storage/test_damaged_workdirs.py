"""Every command on workdirs of which a file is damaged: a sample of the cases.

Each ends with 0 and the right result, with what was left out said by name, or
with one clear line; never with a traceback, and a run that goes on has the
metrics of the unbroken one or says what it lacks. All cases: tests/slow.
"""

import json
import pathlib
import runpy
import shutil

import pytest

CASES = runpy.run_path(
  str(pathlib.Path(__file__).parent.with_name("damaged.py"))
)
# Of each kind of file a way or two.
SAMPLE = """
metrics.jsonl half train
eval.jsonl gone train
config.json zeros train
model/config.json bit train
checkpoints/2/params/** zeros train
checkpoints/2/meta/metadata bit train
evals/000002.jsonl gone sample
metrics.jsonl half compare
model/config.json half compare
model/config.json bit report
eval.jsonl bit report
checkpoints/2/meta/metadata zeros export
checkpoints/2/_CHECKPOINT_METADATA zeros export
checkpoints/2/manifest.json gone report
checkpoints/2/opt_state/** gone report
tb/* zeros export
"""
pytestmark = pytest.mark.timeout(900)


def test_no_command_stumbles_over_a_damaged_workdir(small, recorded, tmp_path):
  whole = tmp_path / "whole"
  assert small.train(whole, *CASES["STEPS"])[0] == 0
  cases = [tuple(line.split()) for line in SAMPLE.split("\n") if line]
  assert set(cases) <= set(CASES["ALL"])
  shutil.copytree(whole, tmp_path / "longer")
  assert small.train(tmp_path / "longer", *CASES["LONGER"])[0] == 0
  unbroken = recorded(tmp_path / "longer")
  args = small.args(*CASES["STEPS"]), recorded
  bad = {}
  for case in cases:
    said = CASES["end"](whole, unbroken, args, tmp_path, case)
    if said:
      bad[" ".join(case)] = said
  assert not bad, json.dumps(bad, indent=1)
