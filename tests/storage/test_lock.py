"""One writer a workdir."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

from etils import epath
import pytest

from progrpo_jax import errors, places
from progrpo_jax.storage import lock

HOLD = """
import sys, time
from etils import epath
from progrpo_jax.storage import lock
with lock.held(epath.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(100)
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
  ) as child:
    assert child.stdout.readline() == "held\n"
    with pytest.raises(errors.InputError, match=f"process {child.pid} on "):
      with lock.held(epath.Path(tmp_path)):
        raise AssertionError("two hold it")
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
  for _ in range(2):
    with lock.held(epath.Path(tmp_path)):
      assert (tmp_path / lock.FILE).exists()
    assert list(tmp_path.iterdir()) == []


def _count(path, times):
  """Raises a number in a file by one, so many times, each under the lock."""
  for _ in range(times):
    while True:
      try:
        with lock.held(epath.Path(path / "run")):
          number = int((path / "number").read_text())
          time.sleep(0.001)
          (path / "number").write_text(str(number + 1))
          break
      except errors.InputError:
        time.sleep(0.0005)


def test_never_do_two_hold_it(tmp_path):
  """Also while holders take the file away and others open it."""
  (tmp_path / "number").write_text("0")
  fork = multiprocessing.get_context("fork")
  children = [
    fork.Process(target=_count, args=(tmp_path, 40)) for _ in range(4)
  ]
  for child in children:
    child.start()
  for child in children:
    child.join(60)
    assert child.exitcode == 0
  assert (tmp_path / "number").read_text() == "160"


def test_what_a_holder_raises_is_its_own(tmp_path):
  with pytest.raises(PermissionError):
    with lock.held(epath.Path(tmp_path)):
      raise PermissionError("something else")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(errors.InputError, match="--workdir"):
    with lock.held(epath.Path(tmp_path / "file")):
      pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_held_as_a_store_is(
  tmp_path, monkeypatch, number
):
  """Such as Lustre without `-o flock`."""

  def flock(*_):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(fcntl, "flock", flock)
  times = dict(beat_s=0.05, watch_s=5)
  with lock.held(epath.Path(tmp_path), **times):
    assert os.listdir(tmp_path) == [lock.FILE]
    with pytest.raises(errors.InputError, match=f"process {os.getpid()} on "):
      with lock.held(epath.Path(tmp_path), **times):
        raise AssertionError("two hold it")
  assert os.listdir(tmp_path) == []


def test_a_disk_out_of_reach_is_no_bad_input(tmp_path, monkeypatch):
  def flock(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))

  monkeypatch.setattr(fcntl, "flock", flock)
  with pytest.raises(errors.RunError, match="cannot write to --workdir"):
    with lock.held(epath.Path(tmp_path)):
      raise AssertionError("held")


# What stands for an object store here is its one file.
def _beating(path, **times):
  return lock._beating(epath.Path(path), **times)


def test_a_store_refuses_a_second_while_the_first_lives(tmp_path):
  path = tmp_path / lock.FILE
  with _beating(path, beat_s=0.05, watch_s=5):
    with pytest.raises(errors.InputError, match=f"process {os.getpid()} on "):
      with _beating(path, beat_s=0.05, watch_s=5):
        raise AssertionError("two hold it")
  assert not path.exists()


def test_whoever_reads_a_beating_lock_finds_a_whole_one(tmp_path):
  path = tmp_path / lock.FILE
  with _beating(path, beat_s=0.0001, watch_s=5):
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
      assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_store_is_taken_over_from_a_dead_one(tmp_path):
  path = tmp_path / lock.FILE
  path.write_text("of one that was killed")
  start = time.monotonic()
  with _beating(path, beat_s=0.1, watch_s=0.4):
    assert time.monotonic() - start >= 0.4
    assert "killed" not in path.read_text()


def _hold(path):
  with _beating(path, beat_s=0.05, watch_s=0.1):
    time.sleep(100)


def test_the_first_ends_when_its_place_is_taken(tmp_path, capfd):
  path = tmp_path / lock.FILE
  child = multiprocessing.get_context("fork").Process(
    target=_hold, args=(path,)
  )
  child.start()
  while not path.exists() or not path.read_text():
    time.sleep(0.01)
  # Again and again: the holder may have read the file just before, and then
  # writes its own heartbeat over this one.
  deadline = time.monotonic() + 60
  while child.is_alive() and time.monotonic() < deadline:
    places.write(path, "of another")
    child.join(0.2)
  assert child.exitcode == 1
  assert path.read_text() == "of another"
  assert "writes to this --workdir" in capfd.readouterr().err
