"""The study's own command, with runs of seconds in the place of its parts."""

import pathlib
import runpy
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_what_is_missing_is_trained_once(tmp_path, monkeypatch, capsys):
  study = runpy.run_path(str(ROOT / "tools" / "study.py"))
  keys = {
    "train.total_steps": 4,
    "eval.every": 2,
    "eval.at_start": False,
    "eval.num_samples": 32,
    "checkpoint.every": 2,
    "checkpoint.keep_every": 2,
  }
  part = study["Part"](
    config="tests/small.py",
    arms={"grpo": study["Arm"]("grpo"), "strong": study["Arm"]("progrpo")},
    keys=keys,
    seeds=2,
    base="base",
    follow=2,
  )
  # The tool's functions read this very dict.
  monkeypatch.setitem(study["PARTS"], "countdown", part)
  command = [
    *("study.py", "run", "countdown", "--seeds", "1"),
    *("--output", str(tmp_path / "runs"), "--results", str(tmp_path / "kept")),
  ]
  monkeypatch.setattr(sys, "argv", command)
  assert study["main"]() == 0
  names = {p.name for p in (tmp_path / "kept" / "countdown").iterdir()}
  assert names == {"base.json.gz", "grpo-seed0.json.gz", "strong-seed0.json.gz"}
  run = study["read"](tmp_path / "kept" / "countdown" / "strong-seed0.json.gz")
  assert run["arm"] == "strong" and run["seed"] == 0
  assert "tests/small.py:progrpo" in run["command"]
  assert [e["step"] for e in run["evals"]] == [2, 4]
  assert run["followed"]["step"] == [0, 2, 4]
  assert capsys.readouterr().out.count("wrote") == 2
  # What is there is not trained again, and what is missing is.
  (tmp_path / "kept" / "countdown" / "grpo-seed0.json.gz").unlink()
  assert study["main"]() == 0
  assert capsys.readouterr().out.count("wrote") == 1
  # Their policies at other temperatures, and that of the base.
  monkeypatch.setattr(sys, "argv", ["study.py", "temper", *command[2:]])
  assert study["main"]() == 0
  folder = tmp_path / "kept" / "countdown_temperatures"
  assert {p.name for p in folder.iterdir()} == names
  hot = study["read"](folder / "strong-seed0.json.gz")
  assert hot["commit"] and hot["run"] == "strong-seed0"
  assert [e["temperature"] for e in hot["evals"]] == [*study["TEMPERATURES"]]
  entropies = [e["entropy"] for e in hot["evals"]]
  assert entropies == sorted(entropies)
  assert set(hot["evals"][0]["samples"]) == {32}
