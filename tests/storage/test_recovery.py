"""A run whose checkpoints were damaged, lost, or being deleted at a kill."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from progrpo_jax import errors
from progrpo_jax.storage import checkpoint

STEPS = ("train.total_steps=4", "eval.every=0", "checkpoint.keep=3")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
  """A finished run of four steps, of which 2, 3 and 4 are kept."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  assert small.train(workdir, *STEPS)[0] == 0
  return workdir


@pytest.fixture
def copy(whole, tmp_path):
  shutil.copytree(whole, tmp_path / "run")
  return tmp_path / "run"


def damage(folder, item="params"):
  """Flips a bit of the largest file of an item."""
  path = max(
    (p for p in (folder / item).rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def cut(folder, item="params"):
  path = next(p for p in (folder / item).rglob("*") if p.is_file())
  path.write_bytes(path.read_bytes()[:-1])


def remove(folder, item="params"):
  next(p for p in (folder / item).rglob("*") if p.is_file()).unlink()


def zero(folder, item="params"):
  path = next(p for p in (folder / item).rglob("*") if p.is_file())
  path.write_bytes(bytes(path.stat().st_size))


def unlist(folder, item=""):
  del item
  (folder / "manifest.json").unlink()


@pytest.mark.parametrize("how", [damage, remove, unlist])
def test_the_newest_whole_step_takes_the_place_of_a_damaged_one(
  copy, whole, small, recorded, how
):
  """Said by name; nothing is lost but time, and the damaged one is kept."""
  how(copy / "checkpoints" / "4")
  code, view = small.train(copy, *STEPS)
  assert code == 0
  said = "\n".join(view.messages)
  assert "step 4 is passed over" in said and "damaged" in said
  assert "resuming from step 3" in said
  kept = copy / "checkpoints-damaged" / "4"
  assert f"kept for what can still be read: {kept}" in said
  assert "metrics.jsonl reaches step 4: step 4 is computed again" in said
  assert recorded(copy)["params"] == recorded(whole)["params"]
  assert recorded(copy)["metrics.jsonl"] == recorded(whole)["metrics.jsonl"]
  assert kept.is_dir()


def test_where_a_newer_checkpoint_is_gone_it_is_said_what_is_computed_again(
  copy, whole, small, recorded
):
  """Also that nothing is, where the records end with the checkpoint."""
  for step in (3, 4):
    (copy / "checkpoints" / str(step)).rename(copy / f"away-{step}")
  code, view = small.train(copy, *STEPS)
  assert code == 0
  assert (
    "metrics.jsonl reaches step 4: steps 3 to 4 are computed again, and "
    "recorded anew"
  ) in view.messages
  assert recorded(copy)["metrics.jsonl"] == recorded(whole)["metrics.jsonl"]
  _, view = small.train(copy, "train.total_steps=5", *STEPS[1:])
  assert "resuming from step 4" in view.messages
  assert not any("computed again" in text for text in view.messages)


@pytest.mark.parametrize("item", ["params", "meta"])
def test_what_is_out_of_reach_is_not_damaged(copy, small, monkeypatch, item):
  """The run fails for the moment; nothing is moved, and it goes on later."""
  digest = checkpoint._digest

  def away(path, written=None):
    if f"checkpoints/4/{item}/" in str(path):
      raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
    return digest(path, written)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "_digest", away)
    with pytest.raises(
      errors.RunError,
      match=f"/4/{item}/.*: cannot be reached: .*the same command tries again",
    ):
      small.train(copy, *STEPS)
  assert not (copy / "checkpoints-damaged").exists()
  code, view = small.train(copy, "train.total_steps=5", *STEPS[1:])
  assert code == 0 and "resuming from step 4" in view.messages


def test_a_read_that_fails_in_orbax_is_not_of_another_model(copy, monkeypatch):
  keeper = checkpoint.Checkpointer(copy / "checkpoints", read_only=True)

  def away(*_, **__):
    raise ValueError("UNAVAILABLE: Error reading 'd/1': HTTP 503")

  monkeypatch.setattr(keeper._manager, "restore", away)
  with pytest.raises(errors.RunError, match="/4: cannot be reached.*503"):
    keeper._restore(4, {"params": None})
  keeper.close()


@pytest.mark.parametrize("item", ["params", "opt_state", "meta"])
@pytest.mark.parametrize("how", [damage, cut, zero, remove])
def test_no_damage_goes_unseen(copy, how, item):
  how(copy / "checkpoints" / "4", item)
  keeper = checkpoint.Checkpointer(copy / "checkpoints", read_only=True)
  try:
    with pytest.raises(checkpoint.Damaged, match="damaged"):
      if item == "meta" and 4 in keeper.damaged:
        raise checkpoint.Damaged(keeper.damaged[4])
      keeper._restore(4, {item: None})
  finally:
    keeper.close()


def test_a_run_without_any_whole_checkpoint_is_refused(copy, small):
  for step in (copy / "checkpoints").iterdir():
    unlist(step)
  before = (copy / "metrics.jsonl").read_bytes()
  with pytest.raises(
    errors.InputError,
    match="no checkpoint of .* can be "
    "gone on from. Put a copy of the damaged one back",
  ):
    small.train(copy, *STEPS)
  assert (copy / "metrics.jsonl").read_bytes() == before


def test_where_the_reference_alone_is_lost_its_weights_are_a_start(copy, small):
  steps = copy / "checkpoints"
  shutil.rmtree(steps / "4")  # a step of a reset, its own reference
  meta = json.loads((steps / "3" / "meta" / "metadata").read_text())
  assert meta["ref_step"] == 2
  damage(steps / "2")
  with pytest.raises(
    errors.InputError, match=f"init_from={steps / '3'} and another"
  ):
    small.train(copy, *STEPS)


def test_records_without_checkpoints_are_not_overwritten(copy, small):
  before = sorted((str(p), p.read_bytes()) for p in copy.rglob("*.jsonl"))
  shutil.rmtree(copy / "checkpoints")
  with pytest.raises(
    errors.InputError,
    match="holds the records of a run "
    r"\(metrics.jsonl, rollouts/\) and no checkpoint",
  ):
    small.train(copy, *STEPS)
  assert before == sorted(
    (str(p), p.read_bytes()) for p in copy.rglob("*.jsonl")
  )


# Kills itself at the n-th call that a deletion makes of the file system.
KILLED = """
import os, shutil, signal, sys
from etils import epath
from progrpo_jax.storage import checkpoint

left = int(sys.argv[2])

def fatal(work):
  def call(*args, **kwargs):
    global left
    left -= 1
    if left < 0:
      os.kill(os.getpid(), signal.SIGKILL)
    return work(*args, **kwargs)
  return call

for name in ("rename", "unlink", "rmdir"):
  setattr(os, name, fatal(getattr(os, name)))
checkpoint._delete(epath.Path(sys.argv[1]))
print("deleted")
"""


def test_a_kill_at_any_point_of_a_deletion_leaves_a_run_that_goes_on(copy):
  """Twenty kills; after each the next start sees whole steps alone."""
  steps = copy / "checkpoints"
  ends = set()
  for number in range(20):
    victim = steps / str(2)
    if not victim.exists():
      shutil.copytree(steps / "3", victim)
    done = subprocess.run(
      [sys.executable, "-c", KILLED, str(victim), str(number)],
      capture_output=True,
      text=True,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    ends.add(done.returncode)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    keeper = checkpoint.Checkpointer(steps)
    try:
      # Killed before the first call the step is as it was; later it is none.
      expected = [2, 3, 4] if number == 0 else [3, 4]
      assert keeper.steps() == expected and not keeper.damaged
      assert sorted(p.name for p in steps.iterdir()) == [
        str(step) for step in expected
      ]
    finally:
      keeper.close()
  assert -signal.SIGKILL in ends


def test_what_a_kill_between_commit_and_deletion_left_goes_at_the_next_start(
  copy, small
):
  """More steps than are kept, of which none is anybody's reference."""
  code, _ = small.train(
    copy, "train.total_steps=4", "eval.every=0", "checkpoint.keep=1"
  )
  assert code == 0
  meta = json.loads(
    (copy / "checkpoints" / "4" / "meta" / "metadata").read_text()
  )
  assert {int(p.name) for p in (copy / "checkpoints").iterdir()} == {
    4,
    meta["ref_step"],
  }
