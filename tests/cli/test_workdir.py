"""A workdir knows its config: commands that name one need no `--config`."""

import io
import json
import shutil
import sys

import pytest

import progrpo_jax
from progrpo_jax import errors, main
from progrpo_jax.storage import policy as policy_lib


@pytest.fixture(scope="module")
def workdir(small, tmp_path_factory):
  """Two steps of GRPO, trained by the command line."""
  path = tmp_path_factory.mktemp("run")
  argv = small.args("train.total_steps=2", "eval.every=0", method="grpo")
  assert main.main(["train", *argv, "--workdir", str(path)]) == 0
  return path


def test_train_goes_on(workdir, capfd):
  argv = ["train", "--workdir", str(workdir)]
  assert main.main([*argv, "--config.train.total_steps=3"]) == 0
  assert "resuming from step 2" in capfd.readouterr().out
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]


def test_sample_answers(workdir, monkeypatch, capfd):
  for policy in (workdir, workdir / "checkpoints" / "2"):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1+2=\n"))
    assert main.main(["sample", "--policy", str(policy)]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 1


def test_evaluate_writes_its_measures(workdir, tmp_path, capfd):
  out = tmp_path / "new" / "measures.json"  # the folder is made
  argv = ["evaluate", "--policy", str(workdir), "--output", str(out)]
  assert main.main([*argv, "--config.eval.num_samples=2"]) == 0
  content = json.loads(out.read_text())
  assert 0 <= content["measures"]["eval/chain_sum/pass@2"] <= 1
  assert content["policy"] == str(workdir) and content["seconds"] > 0
  # Six problems, two answers of one to four tokens.
  assert 12 <= content["tokens"] <= 48
  assert f"{content['tokens']} tokens sampled" in capfd.readouterr().out


def test_evaluate_replaces_no_evaluations_of_a_run(workdir, capfd):
  argv = ["evaluate", "--policy", str(workdir), "--workdir", str(workdir)]
  assert main.main(argv) == 2
  assert "whose evaluations would be replaced" in capfd.readouterr().err


def test_export_and_report(workdir, tmp_path):
  out = str(tmp_path / "hf")
  assert main.main(["export", "--policy", str(workdir), "--output", out]) == 0
  assert policy_lib.run_of(out) is None
  assert main.main(["report", "--workdir", str(workdir)]) == 0


def test_a_config_of_another_version(workdir, tmp_path, capfd):
  """Younger keys have their defaults; one that is gone is named."""
  run = tmp_path / "run"
  shutil.copytree(workdir, run)
  content = json.loads((run / "config.json").read_text())
  del content["eval"]["at_end"]
  (run / "config.json").write_text(json.dumps(content))
  argv = ["evaluate", "--policy", str(run), "--config.eval.num_samples=2"]
  assert main.main(argv) == 0
  content["algo"]["gone"] = 1
  (run / "config.json").write_text(json.dumps(content))
  capfd.readouterr()
  assert main.main(argv) == 2
  said = capfd.readouterr().err
  assert f"{run}/config.json is of another version" in said
  assert "no key config.algo.gone" in said


def test_a_workdir_without_a_run_needs_a_config(tmp_path, capfd):
  assert main.main(["train", "--workdir", str(tmp_path)]) == 2
  assert f"{tmp_path} holds no run yet" in capfd.readouterr().err


def test_a_model_of_the_hub_is_fetched_by_a_command(small, capfd):
  argv = ["evaluate", *small.args()]
  assert main.main([*argv, "--policy", "Qwen/Qwen2.5-0.5B"]) == 2
  said = capfd.readouterr().err
  assert "hf download Qwen/Qwen2.5-0.5B --local-dir models/Qwen2.5-0.5B" in said


def _content(folder):
  return {
    str(path): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


@pytest.mark.parametrize(
  "argv",
  [
    "report --workdir RUN --output RUN/config.json",
    "report --workdir RUN --output RUN/metrics.jsonl",
    "compare RUN --json RUN/metrics.jsonl",
    "compare RUN --output RUN/rollouts/000001.jsonl",
    "evaluate --policy RUN --output RUN/eval.jsonl",
    "evaluate --policy RUN --workdir RUN/model",
    "export --policy RUN --output RUN/checkpoints/7",
    "train --workdir RUN/checkpoints --config CONFIG",
    "warmup --config CONFIG --output RUN/checkpoints/7",
  ],
)
def test_no_output_replaces_a_record_of_a_run(workdir, small, capfd, argv):
  before = _content(workdir)
  config = small.args(method="grpo")[1]
  argv = argv.replace("RUN", str(workdir)).replace("CONFIG", config)
  assert main.main(argv.split()) == 2
  assert "belongs to the records of the run in" in capfd.readouterr().err
  assert _content(workdir) == before


def test_calls_of_python_refuse_it_too(workdir):
  compared = progrpo_jax.compare([workdir])
  for write in (compared.write_page, compared.write_json):
    with pytest.raises(errors.InputError, match="records of the run"):
      write(workdir / "metrics.jsonl")


def test_a_policy_is_no_workdir(small, tmp_path, capfd):
  """Its config.json is the model's, not a run's."""
  policy = tmp_path / "policy"
  shutil.copytree(small.base, policy)
  before = _content(policy)
  argv = ["train", *small.args(), "--workdir", str(policy)]
  assert main.main(argv) == 2
  said = capfd.readouterr().err
  assert f"--workdir {policy} holds no run: its config.json" in said
  assert "Name another directory" in said
  assert _content(policy) == before


def test_a_config_that_cannot_be_read_is_not_overwritten(
  small, tmp_path, capfd
):
  (tmp_path / "config.json").write_text("{")
  argv = ["train", *small.args(), "--workdir", str(tmp_path)]
  assert main.main(argv) == 2
  assert "config.json: not JSON" in capfd.readouterr().err
  assert (tmp_path / "config.json").read_text() == "{"


def test_a_run_without_its_model_folder_goes_on(workdir, tmp_path, capfd):
  run = tmp_path / "run"
  shutil.copytree(workdir, run)
  shutil.rmtree(run / "model")
  steps = max(int(p.name) for p in (run / "checkpoints").iterdir())
  more = f"--config.train.total_steps={steps + 1}"
  assert main.main(["train", "--workdir", str(run), more]) == 0
  assert f"resuming from step {steps}" in capfd.readouterr().out
  assert _content(run / "model").keys() == {
    path.replace(str(workdir), str(run)) for path in _content(workdir / "model")
  }
