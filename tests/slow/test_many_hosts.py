"""Runs of several processes: what one process gives, and what a fault leaves.

The machines here are processes of this one, which talk through gloo.
"""

import json
import os
import signal

import numpy as np
import pytest

from progrpo_jax import loop

# Batches that eight devices divide; every step is compared and saved.
OPTIONS = (
  "train.prompts_per_step=16",
  "algo.dynamic_sampling.prompts_per_round=32",
  "eval.batch_prompts=8",
  "hosts.compare_every=1",
  "hosts.heartbeat_s=10",
)
SIX = (*OPTIONS, "train.total_steps=6")
LIMIT = 600


@pytest.fixture
def run(small, start_hosts):
  """Starts a run of so many processes with so many devices each."""

  def start(count, devices, workdir, options=OPTIONS):
    return start_hosts(
      count,
      [
        "-m",
        "progrpo_jax.main",
        "train",
        *small.args(*options),
        "--workdir",
        workdir,
      ],
      devices=devices,
    )

  return start


def finish(started):
  codes = [host.end(LIMIT) for host in started]
  assert [code for code, _ in codes] == [loop.DONE] * len(codes), codes


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def sampled(workdir):
  """Draws and tokens' texts of every step, as they were sampled."""
  return {
    str(path.relative_to(workdir)): [
      (
        row.get("id"),
        row["prompt"],
        [(c["text"], c.get("length")) for c in row["completions"]],
      )
      for row in lines(path)
    ]
    for folder in ("rollouts", "evals")
    for path in sorted((workdir / folder).iterdir())
  }


def timeless(workdir):
  return [
    {k: v for k, v in row.items() if not k.startswith(("timing_s", "perf/"))}
    for row in lines(workdir / "metrics.jsonl")
  ]


def exactly(workdir):
  """All that two runs of one layout share to the last bit."""
  return (
    timeless(workdir),
    lines(workdir / "eval.jsonl"),
    {
      path.name: path.read_text()
      for folder in ("rollouts", "evals")
      for path in sorted((workdir / folder).iterdir())
    },
  )


def assert_near(found, wanted):
  """The same tokens; metrics, losses among them, within 1e-5 or its part."""
  assert sampled(found) == sampled(wanted)
  for mine, theirs in zip(timeless(found), timeless(wanted), strict=True):
    assert mine.keys() == theirs.keys()
    assert "loss" in mine
    for name, value in theirs.items():
      if isinstance(value, float):
        np.testing.assert_allclose(
          mine[name],
          value,
          rtol=1e-5,
          atol=1e-5,
          err_msg=f"{name} of step {mine['step']}",
        )
      else:
        assert mine[name] == value, name


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [2, 4])
def test_processes_of_two_devices_equal_one(run, tmp_path, count):
  finish(run(1, 2 * count, tmp_path / "one"))
  finish(run(count, 2, tmp_path / "many"))
  finish(run(count, 2, tmp_path / "again"))
  assert_near(tmp_path / "many", tmp_path / "one")
  assert exactly(tmp_path / "many") == exactly(tmp_path / "again")
  assert sampled(tmp_path / "many")["rollouts/000004.jsonl"]


@pytest.mark.timeout(1800)
def test_a_signal_to_one_saves_everywhere_and_others_go_on(run, tmp_path):
  """Stopped by a signal to the second of two, ended by one process."""
  finish(run(1, 4, tmp_path / "unbroken", SIX))
  first, second = run(2, 2, tmp_path / "broken", SIX)
  first.wait_for("evaluation at step 2", LIMIT)
  second.process.send_signal(signal.SIGTERM)
  for host in (first, second):
    code, said = host.end(LIMIT)
    assert code == loop.PREEMPTED, said
  steps = sorted(
    int(path.name) for path in (tmp_path / "broken/checkpoints").iterdir()
  )
  assert 2 <= steps[-1] < 6
  finish(run(1, 4, tmp_path / "broken", SIX))
  assert_near(tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_all_end_and_the_run_goes_on(run, tmp_path, killed):
  unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
  finish(run(2, 2, unbroken, SIX))
  started = run(2, 2, broken, SIX)
  started[0].wait_for("evaluation at step 2", LIMIT)
  os.kill(started[killed].process.pid, signal.SIGKILL)
  # The heartbeat, the wait of the one that ends alone, and a busy machine.
  code, said = started[1 - killed].end(timeout=10 + 30 + 60)
  assert code not in (loop.DONE, loop.PREEMPTED), said
  finish(run(2, 2, broken, SIX))
  assert exactly(broken) == exactly(unbroken)


@pytest.mark.timeout(900)
def test_a_second_run_on_a_workdir_is_refused(run, tmp_path):
  (first,) = run(1, 2, tmp_path / "run", SIX)
  first.wait_for("attention", LIMIT)
  for host in run(2, 2, tmp_path / "run", SIX):
    code, said = host.end(LIMIT)
    assert code == 2 and "writes to this --workdir" in said, said
  finish([first])


@pytest.mark.timeout(900)
def test_hosts_with_other_configs_are_named(small, start_hosts, tmp_path):
  """Two programs as one run: each host is given a config of its own."""
  program = tmp_path / "other.py"
  program.write_text(
    "import os, sys\nfrom progrpo_jax import main\n"
    "seed = os.environ['JAX_PROCESS_ID']\n"
    "sys.exit(main.main([*sys.argv[1:], f'--config.seed={seed}']))\n"
  )
  for host in start_hosts(
    2, [program, "train", *small.args(*OPTIONS), "--workdir", tmp_path / "run"]
  ):
    code, said = host.end(LIMIT)
    assert code == 1, said
    assert "start: the hosts differ in config (hosts 1)" in said
