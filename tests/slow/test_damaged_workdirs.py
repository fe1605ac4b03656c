"""Every command on workdirs of which a file is damaged: all the cases."""

import pathlib
import runpy
import shutil

import pytest

CASES = runpy.run_path(
  str(pathlib.Path(__file__).resolve().parent.parent / "damaged.py")
)
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole") / "run"
  assert small.train(workdir, *CASES["STEPS"])[0] == 0
  return workdir


@pytest.fixture(scope="module")
def unbroken(whole, small, recorded):
  """What is recorded of the run after a step more."""
  longer = whole.with_name("longer")
  shutil.copytree(whole, longer)
  assert small.train(longer, *CASES["LONGER"])[0] == 0
  return recorded(longer)


@pytest.mark.parametrize("case", CASES["ALL"], ids=" ".join)
def test_no_command_stumbles(case, whole, unbroken, small, recorded, tmp_path):
  args = small.args(*CASES["STEPS"]), recorded
  said = CASES["end"](whole, unbroken, args, tmp_path, case)
  assert said == ""
