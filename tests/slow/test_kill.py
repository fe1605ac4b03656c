"""Real kills at random times: the run ends as the unbroken one does."""

import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from progrpo_jax import loop

KILLS = 20
# Saves go on behind the steps, and every step is saved.
OPTIONS = ("train.total_steps=12", "eval.every=3", "checkpoint.background=True")


def _start(small, workdir, errors):
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "progrpo_jax.main",
      "train",
      *small.args(*OPTIONS),
      "--workdir",
      str(workdir),
    ],
    stdout=subprocess.PIPE,
    stderr=errors,
    text=True,
    start_new_session=True,
    env=os.environ | {"PYTHONHASHSEED": "0"},
  )


def _live(child, delay):
  """Lets a run live for `delay` seconds from its first step; its code.

  With a negative delay the kill comes while it is still being set up.
  """
  for line in child.stdout:
    if delay < 0 or line.startswith(("resuming", "evaluation at step 0")):
      break
  reader = threading.Thread(target=child.stdout.read)
  reader.start()
  try:
    return child.wait(timeout=delay % 2 if delay < 0 else delay)
  except subprocess.TimeoutExpired:
    os.killpg(child.pid, signal.SIGKILL)
    return child.wait()
  finally:
    reader.join()
    child.stdout.close()


def _latest(workdir):
  folder = workdir / "checkpoints"
  steps = folder.iterdir() if folder.is_dir() else ()
  return max((int(p.name) for p in steps if p.name.isdigit()), default=None)


@pytest.mark.timeout(1800)
def test_killed_at_random_times_it_ends_alike(small, recorded, tmp_path):
  unbroken = tmp_path / "unbroken"
  assert small.train(unbroken, *OPTIONS)[0] == loop.DONE
  expected = recorded(unbroken)
  rng, kills, ends = random.Random(0), [], 0
  while len(kills) < KILLS or not ends:
    workdir = tmp_path / f"killed-{ends}"
    delay = rng.uniform(-1, 12)
    said = tmp_path / "stderr"
    with said.open("w") as errors:
      code = _live(_start(small, workdir, errors), delay)
    assert code in (0, -signal.SIGKILL), said.read_text()[-2000:]
    if code:
      kills.append((ends, delay, _latest(workdir)))
      continue
    found = recorded(workdir)
    assert [k for k in expected if found.get(k) != expected[k]] == [], kills
    assert found.keys() == expected.keys(), kills
    ends += 1
  print(kills)
  assert len({step for _, _, step in kills}) > 3
