"""Which places belong to a run or a policy, and may not be written to."""

import json
import os

import pytest

from progrpo_jax import errors
from progrpo_jax.storage import outputs


@pytest.fixture
def run(make_run):
  workdir = make_run()
  (workdir / "config.json").write_text(json.dumps(dict(train={}, algo={})))
  (workdir / "checkpoints" / "5").mkdir(parents=True, exist_ok=True)
  return workdir


@pytest.mark.parametrize(
  "name",
  [
    "config.json",
    "metrics.jsonl",
    "eval.jsonl",
    ".lock",
    "run_id",
    "rollouts/000001.jsonl",
    "evals/new.json",
    "evals/../eval.jsonl",
    "checkpoints",
    "checkpoints/7",
    "checkpoints/5/meta/metadata",
    "checkpoints-damaged/5",
    "model",
    "model/config.json",
    "tb/x",
    "metrics/000000.jsonl",
  ],
)
def test_what_belongs_to_a_run_is_refused(run, name):
  with pytest.raises(errors.InputError, match=r"--json .* the run in .*lost"):
    outputs.check(run / name, "--json")


@pytest.mark.parametrize(
  "name", ["", "report.html", "comparison.json", "notes/config.json", "other"]
)
def test_other_places_in_a_workdir_are_free(run, name):
  outputs.check(run / name, "--output")


def test_a_link_to_a_record_is_the_record(run, tmp_path):
  (tmp_path / "page.html").symlink_to(run / "metrics.jsonl")
  (tmp_path / "there").symlink_to(run)
  for path in (tmp_path / "page.html", tmp_path / "there" / "eval.jsonl"):
    with pytest.raises(errors.InputError, match="records of the run"):
      outputs.check(path)


def test_a_name_from_the_present_directory(run, monkeypatch):
  monkeypatch.chdir(run)
  with pytest.raises(errors.InputError, match="^config.json belongs"):
    outputs.check("config.json")


@pytest.mark.parametrize("left", ["config.json", "metrics.jsonl", "eval.jsonl"])
def test_what_is_left_of_a_run_is_one(make_run, tmp_path, left):
  folder = tmp_path / "left"
  folder.mkdir()
  content = json.dumps(dict(train={}, algo={}, step=1)) + "\n"
  (folder / left).write_text(content)
  with pytest.raises(errors.InputError, match="records of the run"):
    outputs.check(folder / "metrics.jsonl")
  assert outputs.holds_run(folder) == (left != "eval.jsonl")


def test_the_same_names_elsewhere_are_free(tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
  (tmp_path / "checkpoints" / "best").mkdir(parents=True)
  for name in ("config.json", "metrics.jsonl", "checkpoints/new", "model/x"):
    outputs.check(tmp_path / name)
  assert not outputs.holds_run(tmp_path)


def test_files_of_a_policy_are_refused(small):
  for name in os.listdir(small.base):
    with pytest.raises(errors.InputError, match="a file of the policy in"):
      outputs.check(small.base / name, "--output")
  outputs.check(small.base / "measures.json", "--output")
