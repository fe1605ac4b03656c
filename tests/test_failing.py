"""A run that fails saves what a request to stop would have saved.

Each run fails once, between its checkpoints, and goes on with the same command:
it ends as the unbroken run.
"""

import errno
import os

import pytest

from progrpo_jax import loop, main
from progrpo_jax.evaluators import held_out
from progrpo_jax.learn import improve, prepare
from progrpo_jax.learn import state as state_lib
from progrpo_jax.rollout import verify
from progrpo_jax.storage import checkpoint, log, metrics

# Resets, at steps 2 and 4, and the end are saved by themselves.
RARELY = "checkpoint.every=1000"


@pytest.fixture(scope="module")
def unbroken(small, recorded, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("unbroken") / "run"
  assert small.train(workdir, RARELY)[0] == loop.DONE
  return recorded(workdir)


def _steps(workdir):
  folder = workdir / "checkpoints"
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def _failing(patch, module, name, call, error):
  """Lets a call of a function fail, counted from 1."""
  original, calls = getattr(module, name), []

  def failing(*args, **kwargs):
    calls.append(1)
    if len(calls) == call:
      raise error
    return original(*args, **kwargs)

  patch.setattr(module, name, failing)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FAULT = RuntimeError("a fault")


@pytest.mark.parametrize(
  ("module", "name", "call", "error", "saved"),
  [
    # In the scores of step 2, and the writing of its rollouts.
    (prepare.Prepare, "__call__", 2, FAULT, 1),
    (metrics.MetricWriter, "write_rollouts", 2, FULL, 1),
    # When step 1 is measured, and not written.
    (metrics, "_append", 2, FULL, 1),
    # In the evaluation of step 2, which resets the reference, and after it.
    (held_out.HeldOut, "records", 2, FAULT, 2),
    (state_lib, "restart_optimizer", 1, FAULT, 2),
    (log.Log, "__call__", 2, FULL, 2),
    (checkpoint.Checkpointer, "load_reference", 2, FAULT, 2),
  ],
)
def test_the_last_step_is_saved(
  small, unbroken, recorded, tmp_path, module, name, call, error, saved
):
  messages = []
  with pytest.MonkeyPatch.context() as patch:
    _failing(patch, module, name, call, error)
    patch.setattr(
      "progrpo_jax.report.live.LiveView.message",
      lambda self, text: messages.append(text),
    )
    argv = ["train", *small.args(RARELY), "--workdir", str(tmp_path)]
    if error is FAULT:
      with pytest.raises(RuntimeError, match="a fault"):
        main.main(argv)
    else:
      assert main.main(argv) == 1
  assert f"the run fails; step {saved} is saved" in messages[-1]
  assert _steps(tmp_path)[-1] == saved
  assert main.main(argv) == loop.DONE
  found = recorded(tmp_path)
  assert {k for k in unbroken if found.get(k) != unbroken[k]} <= {"steps"}
  assert found.keys() == unbroken.keys()


def test_where_an_update_had_begun_the_checkpoint_that_remains_is_named(
  small, unbroken, recorded, tmp_path, monkeypatch, capfd
):
  """The parameters of step 1 are those that the first update has taken."""
  argv = ["train", *small.args(RARELY), "--workdir", str(tmp_path)]
  with monkeypatch.context() as patch:
    # Four updates a step.
    _failing(patch, improve.update_lib, "take_prompts", 6, FAULT)
    with pytest.raises(RuntimeError, match="a fault"):
      main.main(argv)
  said = capfd.readouterr().out
  assert "step 1 cannot be saved: the update that failed had begun" in said
  assert "goes on from the checkpoint of step 0" in said
  assert _steps(tmp_path) == [0]
  assert main.main(argv) == loop.DONE
  assert recorded(tmp_path) == unbroken


def test_a_failure_before_the_first_update_of_a_step_loses_nothing(
  small, unbroken, recorded, tmp_path, monkeypatch
):
  argv = ["train", *small.args(RARELY), "--workdir", str(tmp_path)]
  with monkeypatch.context() as patch:
    _failing(patch, improve.update_lib, "take_prompts", 5, FAULT)
    with pytest.raises(RuntimeError, match="a fault"):
      main.main(argv)
  assert _steps(tmp_path) == [0, 1]
  assert main.main(argv) == loop.DONE
  assert recorded(tmp_path) == unbroken


def test_on_a_disk_that_stays_full_the_checkpoint_that_remains_is_named(
  small, unbroken, recorded, tmp_path, monkeypatch, capfd
):
  save = checkpoint.Checkpointer.save

  def full(self, step, *args):
    if step:
      raise FULL
    save(self, step, *args)

  argv = ["train", *small.args(RARELY), "--workdir", str(tmp_path)]
  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpointer, "save", full)
    _failing(patch, verify, "verify", 8, FULL)
    assert main.main(argv) == 1
  said = capfd.readouterr()
  assert "step 1 cannot be saved: no space is left on the disk" in said.out
  assert "goes on from the checkpoint of step 0" in said.out
  assert "no space is left" in said.err
  assert main.main(argv) == loop.DONE
  assert recorded(tmp_path) == unbroken


REWARDS = """
import pathlib

def right(completions, answer, trainer_state, **columns):
  if trainer_state.global_step == 3 and not pathlib.Path({mended!r}).exists():
    raise KeyError("answers")
  return [float(c == str(a)) for c, a in zip(completions, answer)]
"""


def test_a_reward_function_that_fails_costs_no_step(
  small, recorded, tmp_path, capfd
):
  mended = tmp_path / "mended"
  own = tmp_path / "own.py"
  own.write_text(REWARDS.format(mended=str(mended)))
  rows = [
    f'{{"prompt": "{i}+{j}=", "answer": {i + j}}}\n'
    for i in range(1, 6)
    for j in range(1, 5)
  ]
  (tmp_path / "rows.jsonl").write_text("".join(rows))
  options = dict(
    file=str(tmp_path / "rows.jsonl"), reward_functions=(f"{own}:right",)
  )
  config = small.write(
    tmp_path / "config.py",
    data=dict(tasks={"sums": dict(module="file", options=options)}),
    checkpoint=dict(every=1000),
    eval=dict(every=0),
  )
  argv = ["train", "--config", str(config), "--workdir"]
  failed, whole = tmp_path / "failed", tmp_path / "whole"
  assert main.main([*argv, str(failed)]) == 2
  said = capfd.readouterr()
  assert "KeyError: 'answers'" in said.err
  assert "the run fails; step 3 is saved, and the same command" in said.out
  assert _steps(failed) == [0, 3]
  mended.touch()
  assert main.main([*argv, str(failed)]) == loop.DONE
  assert main.main([*argv, str(whole)]) == loop.DONE
  found, expected = recorded(failed), recorded(whole)
  assert [k for k in expected if found.get(k) != expected[k]] == ["steps"]
