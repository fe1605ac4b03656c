"""Times of steps: their table, and a call that goes on with what is missing."""

import pathlib
import runpy
import sys

import pytest

TOOLS = pathlib.Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture
def time_methods(monkeypatch):
  """The names of tools/time_methods.py."""
  monkeypatch.syspath_prepend(TOOLS)  # it imports the tool beside it
  return runpy.run_path(str(TOOLS / "time_methods.py"))


def _times(**changed):
  """What tools/time_methods.py keeps."""
  steps = {"step": [4.0, 2.0, 3.0], "sample": [1.0, 1.0, 1.0], "score": []}
  slow = {"step": [6.0, 5.0], "sample": [1.5, 1.5], "score": [2.0, 2.0]}
  times = {
    "config": "configs/smollm2.py",
    "first": 2,
    "steps": 3,
    "commits": ["abc1234"],
    "versions": {"cores": 1},
    "seconds": {
      "grpo": [{**steps, "update": [2.0]}],
      "progrpo": [{**slow, "update": [1.0, 3.0]}, {**slow, "update": []}],
    },
  }
  return times | changed


def test_times_of_steps_are_lower_quartiles_beside_grpo_s(time_methods):
  # Quartiles of [2, 3, 4] and of [5, 5, 6, 6] lie at 2.5 and 5.
  lines = time_methods["table"](_times()).splitlines()
  assert lines[2:] == [
    "| grpo | 2.5 | 1 | – | 2 | 1.00 |",
    "| progrpo | 5 | 1.5 | 2 | 1.5 | 2.00 |",
  ]


def test_times_go_on_with_what_the_file_lacks(
  time_methods, tmp_path, monkeypatch, capsys
):
  timed = []

  def time_run(config, base, first, steps):
    timed.append((config, base, first, steps))
    return {"step": [3.0], "sample": [1.0], "score": [], "update": [2.0]}

  monkeypatch.setitem(time_methods["main"].__globals__, "time_run", time_run)
  command = ["time_methods.py", "base", str(tmp_path / "times.json")]
  keys = ["--config", "configs/smollm2.py", "--first", "2", "--steps", "3"]

  def call(*methods):
    words = [*command, *keys, "--rounds", "1", "--methods", *methods]
    monkeypatch.setattr(sys, "argv", words)
    time_methods["main"]()

  call("maxrl", "grpo")
  call("maxrl", "grpo", "ucpo")
  assert [config for config, *_ in timed] == [
    f"configs/smollm2.py:{name}" for name in ("grpo", "maxrl", "ucpo")
  ]
  assert "| ucpo | 3 | 1 | – | 2 | 1.00 |" in capsys.readouterr().out
  keys[-1] = "4"
  with pytest.raises(SystemExit, match="taken with steps 3, not 4"):
    call("grpo")
