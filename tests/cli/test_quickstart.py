import json
import pathlib

import pytest

from progrpo_jax import errors
from progrpo_jax.build import base_policy
from progrpo_jax.cli import quickstart
from progrpo_jax.rollout import sampler


def _mtimes(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def output(small, tmp_path):
  small.write(
    tmp_path / "config.py",
    train=dict(num_iterations=1),
    data=dict(max_prompt_length=12),
  )
  return tmp_path / "out"


def test_leaves_all_it_promises_and_does_nothing_twice(
  output, monkeypatch, capsys
):
  argv = [
    "--steps",
    "2",
    "--output",
    str(output),
    "--config",
    str(output.parent / "config.py"),
  ]
  assert quickstart.run(argv) == 0
  assert {p.name for p in output.iterdir()} == {
    "base",
    "base-eval",
    "grpo",
    "progrpo",
    "comparison.json",
    "report.html",
  }
  assert (output / "base" / "model.safetensors").exists()
  assert "pass@1" in capsys.readouterr().out
  comparison = json.loads((output / "comparison.json").read_text())
  assert set(comparison) == {"base", "grpo", "progrpo"}
  for name, entry in comparison.items():
    assert set(entry["pass@k"]) == {"1", "2", "4"}
    for mean, low, high in entry["pass@k"].values():
      assert 0 <= low <= mean <= high <= 1
    assert entry["entropy"] > 0 and entry["distinct_correct"] >= 0
    folder = output / ("base-eval" if name == "base" else name)
    last = json.loads((folder / "eval.jsonl").read_text().splitlines()[-1])
    for k, values in entry["pass@k"].items():
      key = f"eval/chain_sum/pass@{k}"
      assert values == [last[key], last[f"{key}/low"], last[f"{key}/high"]]
  # Both methods begin at the base, with the same samples.
  starts = [
    (output / name / "evals" / "000000.jsonl").read_text()
    for name in ("base-eval", "grpo", "progrpo")
  ]
  assert starts[0] == starts[1] == starts[2]
  configs = [
    json.loads((output / name / "config.json").read_text())
    for name in ("grpo", "progrpo")
  ]
  assert [c["train"]["total_steps"] for c in configs] == [2, 2]
  assert [c["method"] for c in configs] == ["grpo", "progrpo"]

  def work(*args, **kwargs):
    raise AssertionError("done already")

  monkeypatch.setattr(base_policy, "warm_up", work)
  monkeypatch.setattr(sampler, "batches", work)
  before = {
    p: t
    for p, t in _mtimes(output).items()
    if pathlib.Path(p).name
    not in ("comparison.json", "report.html", "config.json", "tokenizer.model")
  }
  assert quickstart.run(argv) == 0
  after = _mtimes(output)
  assert {p: after[p] for p in before} == before
  assert json.loads((output / "comparison.json").read_text()) == comparison


def test_starts_from_a_base_that_is_there(output, small, monkeypatch):
  def work(*args, **kwargs):
    raise AssertionError("no warm-up is needed")

  monkeypatch.setattr(base_policy, "warm_up", work)
  argv = ["--steps", "1", "--methods", "grpo", "--output", str(output)]
  argv += ["--config", str(output.parent / "config.py")]
  with pytest.raises(errors.InputError, match="--base nowhere: no such"):
    quickstart.run([*argv, "--base", "nowhere"])
  assert not output.exists()
  assert quickstart.run([*argv, "--base", str(small.base)]) == 0
  assert not (output / "base").exists()
  config = json.loads((output / "grpo" / "config.json").read_text())
  assert config["model"]["init_from"] == str(small.base)
