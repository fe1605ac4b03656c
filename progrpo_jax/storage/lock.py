"""One writer a workdir: a second run on it is refused.

A supervisor that starts a run again while the old one still lives must not let
both write. On a file system the kernel keeps the lock and frees it when its
holder dies, however it dies. An object store has no locks: there the holder
writes a file anew again and again, and whoever finds a file watches it. If it
changes, its writer lives; if not, that one is gone. No clocks are compared.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid

from etils import epath

from progrpo_jax import errors, places

FILE = ".lock"

# Between two beats of a holder on an object store, and how long a file is
# watched before its writer counts as gone.
_BEAT_S = 10.0
_WATCH_S = 45.0


@contextlib.contextmanager
def held(
    workdir: epath.Path, *, beat_s: float = _BEAT_S, watch_s: float = _WATCH_S,
) -> Iterator[None]:
  """Holds the workdir while the context lasts.

  Args:
    workdir: local directory, made if it does not exist, or URL.
    beat_s: between two signs of life on an object store.
    watch_s: how long another one's sign of life is waited for there.

  Raises:
    InputError: another run holds it, or it cannot be written.
  """
  path = workdir / FILE
  with contextlib.ExitStack() as stack:
    try:
      places.make_directory(workdir)
      if places.is_remote(workdir):
        with places.reaching(workdir):
          stack.enter_context(_beating(path, beat_s, watch_s))
      else:
        stack.enter_context(_locked(path))
    except OSError as e:
      raise errors.InputError(
          f"cannot write to --workdir {workdir}: {e}") from e
    yield


@contextlib.contextmanager
def _locked(path: epath.Path) -> Iterator[None]:
  """Holds a file of a file system, and takes it away in the end."""
  while True:
    with open(path, "a+", encoding="utf-8") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as e:
        file.seek(0)
        raise errors.InputError(_refusal(path, file.read())) from e
      try:
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
          continue  # its last holder took it away as we opened it
      except FileNotFoundError:
        continue
      file.truncate(0)
      file.write(_sign(""))
      file.flush()
      try:
        yield
      finally:
        path.unlink(missing_ok=True)
      return


@contextlib.contextmanager
def _beating(path: epath.Path, beat_s: float, watch_s: float) -> Iterator[None]:
  """Holds a file of an object store."""
  mine = uuid.uuid4().hex
  found = _read(path)
  start = time.monotonic()
  while found is not None and time.monotonic() - start < watch_s:
    time.sleep(min(beat_s, watch_s) / 4)
    now = _read(path)
    if now is None:
      break
    if now != found:
      raise errors.InputError(_refusal(path, now))
  path.write_text(_sign(mine))
  done = threading.Event()
  thread = threading.Thread(
      target=_beat, args=(path, mine, beat_s, done), daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    if mine in (_read(path) or ""):
      path.unlink()


def _beat(
    path: epath.Path, mine: str, beat_s: float, done: threading.Event,
) -> None:
  """Writes a file anew until told to end.

  Two that come at the same moment both find nothing; the one that writes last
  keeps the place, and the other ends here.
  """
  while not done.wait(beat_s):
    try:
      now = _read(path)
      if now is not None and mine not in now:
        print(f"stopped: {_refusal(path, now)}", file=sys.stderr, flush=True)
        os._exit(1)  # whatever it wrote from here on would be the other's
      path.write_text(_sign(mine))
    except Exception as e:  # the store may come back; a beat may be left out
      print(f"cannot write {path}: {e}", file=sys.stderr, flush=True)


def _sign(owner: str) -> str:
  """A sign of life, unlike any before."""
  return json.dumps(dict(
      host=socket.gethostname(), pid=os.getpid(), owner=owner,
      beat=uuid.uuid4().hex))


def _read(path: epath.Path) -> str | None:
  """What stands in a file, or None without one."""
  try:
    return path.read_text()
  except FileNotFoundError:
    return None


def _refusal(path, sign: str) -> str:
  """The message for whoever comes second."""
  try:
    holder = json.loads(sign)
    who = f"process {holder['pid']} on {holder['host']}"
  except (ValueError, KeyError, TypeError):
    who = "another process"
  return (
      f"{who} writes to this --workdir (it holds {path}): let it end, or stop "
      "it, or choose another --workdir")
