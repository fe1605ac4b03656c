"""One workdir for all hosts, or none."""

from concurrent import futures
import os
import threading

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.devices import hosts
from progrpo_jax.storage import shared


class _TwoHosts:
  """Two threads that stand for the processes of two hosts."""

  def __init__(self, monkeypatch):
    self._me = threading.local()
    self._values = [None, None]
    self._meet = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(hosts, "count", lambda: 2)
    monkeypatch.setattr(hosts, "index", lambda: self._me.index)
    monkeypatch.setattr(hosts, "gather", self._gather)

  def _gather(self, value):
    self._values[self._me.index] = value
    self._meet.wait()
    values = list(self._values)
    self._meet.wait()
    return values

  def run(self, work):
    """What each host raises, or None."""

    def one(index):
      self._me.index = index
      try:
        work(index)
      except (errors.InputError, errors.RunError) as e:
        return e

    with futures.ThreadPoolExecutor(2) as pool:
      return list(pool.map(one, range(2)))


def test_hosts_with_a_workdir_each_are_told_on_all(tmp_path, monkeypatch):
  both = _TwoHosts(monkeypatch)
  for name in ("0", "1"):
    (tmp_path / name).mkdir()
  # Left over from a start that was killed.
  (tmp_path / "1" / shared.FILE).write_text("of another start")
  raised = both.run(
    lambda index: shared.check(epath.Path(tmp_path) / str(index), wait_s=0.2)
  )
  for index, error in enumerate(raised):
    assert isinstance(error, errors.InputError)
    assert f"--workdir {tmp_path}/{index} is not one directory" in str(error)
    assert "not seen by host 1. Name a directory on a disk that all" in str(
      error
    )
  assert os.listdir(tmp_path / "0") == []


def test_a_shared_workdir_is_seen_also_if_late(tmp_path, monkeypatch):
  both, write = _TwoHosts(monkeypatch), places.write

  def late(path, content):
    threading.Timer(0.5, write, (path, content)).start()

  monkeypatch.setattr(places, "write", late)
  assert both.run(lambda _: shared.check(epath.Path(tmp_path))) == [None, None]
  assert os.listdir(tmp_path) == []


def test_alone_nothing_is_written_for_others(tmp_path, monkeypatch):
  monkeypatch.setattr(places, "write", None)
  shared.check(epath.Path(tmp_path))
