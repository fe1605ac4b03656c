"""The files for those who have SkyPilot or xpk: their keys and their calls."""

import os
import pathlib
import shlex
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
TASK = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
# What SkyPilot's reference of its YAML has; it refuses other keys.
FIELDS = {
  "": "name workdir num_nodes resources envs secrets file_mounts volumes setup"
  " run config service",
  "resources": "infra accelerators accelerator_args cpus memory instance_type"
  " use_spot disk_size disk_tier network_tier max_hourly_cost image_id ports"
  " labels autostop any_of ordered job_recovery",
  "job_recovery": "strategy max_restarts_on_errors recover_on_exit_codes",
}


def test_the_keys_are_skypilots():
  resources = TASK["resources"]
  assert set(TASK) <= set(FIELDS[""].split())
  assert set(resources) <= set(FIELDS["resources"].split())
  assert set(resources["job_recovery"]) <= set(FIELDS["job_recovery"].split())
  # 75 means "saved, run me again"; the workdir has to be given.
  assert resources["job_recovery"]["recover_on_exit_codes"] == [75]
  assert TASK["envs"]["WORKDIR"] is None
  assert TASK["envs"]["KEYS"] == ""
  assert (ROOT / TASK["envs"]["CONFIG"].partition(":")[0]).exists()


@pytest.mark.parametrize("part", ["setup", "run"])
def test_skypilots_commands_are_bash(part):
  done = subprocess.run(
    ["bash", "-n"], input=TASK[part], capture_output=True, text=True
  )
  assert not done.returncode, done.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_each_machine_of_skypilot_knows_its_number(rank, tmp_path):
  program = tmp_path / "progrpo_venv" / "bin" / "progrpo"
  program.parent.mkdir(parents=True)
  program.write_text('#!/bin/bash\necho "$@"\nenv | grep JAX_\n')
  program.chmod(0o755)
  said = subprocess.run(
    ["bash", "-c", TASK["run"]],
    env={
      "PATH": os.environ["PATH"],
      "HOME": str(tmp_path),
      "CONFIG": "tiny:progrpo",
      "WORKDIR": "gs://b/run",
      "KEYS": "--config.model.init_from=gs://b/base --config.seed=1",
      "SKYPILOT_NUM_NODES": "2",
      "SKYPILOT_NODE_RANK": str(rank),
      "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    },
    check=True,
    capture_output=True,
    text=True,
  ).stdout.splitlines()
  assert said[0] == (
    "train --config tiny:progrpo --workdir gs://b/run"
    " --config.model.init_from=gs://b/base --config.seed=1"
  )
  assert set(said[1:]) == {
    "JAX_NUM_PROCESSES=2",
    f"JAX_PROCESS_ID={rank}",
    "JAX_COORDINATOR_ADDRESS=10.0.0.1:34567",
  }


def xpk(tmp_path, *words, **env):
  """Runs the script with fakes of gcloud and of xpk, which keeps its words."""
  for name, text in {
    "gcloud": "",
    "xpk": 'printf "%s\\n" "$@" >"$HOME/call"\n'
    'while [[ $1 != --env-file ]]; do shift; done; cp "$2" "$HOME/env"',
  }.items():
    tool = tmp_path / "bin" / name
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/bash\n{text}\n")
    tool.chmod(0o755)
  return subprocess.run(
    [ROOT / "launch" / "xpk.sh", *words],
    env={
      "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
      "HOME": str(tmp_path),
      "PROJECT": "p",
      "ZONE": "us-west4-a",
      "NAME": "job",
      "BUCKET": "gs://b",
      "CONFIG": "configs/tiny.py:progrpo",
      "CLUSTER": "pods",
      "IMAGE": "registry/progrpo:1",
    }
    | env,
    capture_output=True,
    text=True,
  )


def test_xpk_gets_one_call_with_the_whole_command(tmp_path):
  done = xpk(tmp_path, "--", "--config.train.total_steps=2", "--config.a=b c")
  assert not done.returncode, done.stderr
  call = (tmp_path / "call").read_text().splitlines()
  assert call[:2] == ["workload", "create"]
  # Options of `xpk workload create`, each with its value.
  flags = [w for w in call if w.startswith("--") and " " not in w]
  value = {f: call[call.index(f) + 1] for f in flags}
  assert value["--cluster"] == "pods" and value["--workload"] == "job"
  assert value["--tpu-type"] == "v5litepod-8"
  assert value["--docker-image"] == "registry/progrpo:1"
  assert "--restart-on-user-code-failure" in flags
  assert int(value["--max-restarts"]) > 1
  assert shlex.split(value["--command"]) == [
    "progrpo",
    "train",
    "--config",
    "configs/tiny.py:progrpo",
    "--workdir",
    "gs://b/run",
    "--config.train.total_steps=2",
    "--config.a=b c",
  ]


def test_a_dry_run_shows_the_call_and_makes_none(tmp_path):
  done = xpk(tmp_path, "--dry-run")
  assert done.stdout.startswith("+ xpk workload create --workload job ")
  assert not (tmp_path / "call").exists()


def test_variables_are_passed_in_a_file(tmp_path):
  secret = {"TOKEN": "s3cret", "FLAGS": "--a=1 --b=$HOME"}
  done = xpk(tmp_path, PASS_ENV="TOKEN FLAGS", **secret)
  assert not done.returncode, done.stderr
  assert (tmp_path / "env").read_text() == (
    "PYTHONHASHSEED=0\nTOKEN=s3cret\nFLAGS=--a=1 --b=$HOME\n"
  )
  assert "s3cret" not in (tmp_path / "call").read_text() + done.stderr
  done = xpk(tmp_path, PASS_ENV="FLAGS", FLAGS="a\nb")
  assert done.returncode == 2 and "FLAGS, which has more" in done.stderr
  done = xpk(tmp_path, PASS_ENV="NOT_THERE")
  assert done.returncode == 2 and "NOT_THERE, which is not" in done.stderr


@pytest.mark.parametrize("name", ["CLUSTER", "IMAGE", "BUCKET"])
def test_what_is_not_set_is_named(name, tmp_path):
  done = xpk(tmp_path, "--dry-run", **{name: ""})
  assert done.returncode == 2
  said = "WORKDIR" if name == "BUCKET" else name
  assert f"{said} is not set" in done.stderr
