"""A lock on a workdir: a second run that would write to it is refused.

A supervisor may restart a run while the old process is still alive; the two
must not both write. On a file system the kernel holds the lock and frees it
whenever the process ends. An object store has no locks, nor have some file
systems (Lustre without `-o flock`): there the holder rewrites the lock file
periodically (a heartbeat). A newcomer that finds a lock
file watches it: if the content changes, the holder is alive; if not, it is
dead. Clocks of different machines are never compared.
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

# Where there are no locks: seconds between heartbeats, and seconds that a lock
# file is watched before its holder counts as dead (several missed heartbeats).
_BEAT_S = 10.0
_WATCH_S = 45.0


@contextlib.contextmanager
def held(
  workdir: epath.Path, *, beat_s: float = _BEAT_S, watch_s: float = _WATCH_S
) -> Iterator[None]:
  """Locks a workdir while the context lasts.

  Args:
    workdir: local directory, created if it does not exist, or URL.
    beat_s: seconds between heartbeats where there are no locks.
    watch_s: seconds to wait there for a heartbeat of another holder.

  Raises:
    InputError: another run holds the lock, or the workdir cannot be written.
    RunError: the workdir is out of reach for the moment.
  """
  path = workdir / FILE
  with contextlib.ExitStack() as stack:
    try:
      places.make_directory(workdir)
      if places.is_remote(workdir):
        with places.reaching(workdir):
          stack.enter_context(_beating(path, beat_s, watch_s))
      elif places.has_locks(workdir):
        stack.enter_context(_locked(path))
      else:
        stack.enter_context(_beating(path, beat_s, watch_s))
    except OSError as e:
      raise places.unwritable(f"to --workdir {workdir}", e) from e
    yield


@contextlib.contextmanager
def _locked(path: epath.Path) -> Iterator[None]:
  """Locks a file of a file system, and deletes it at the end."""
  while True:
    with open(path, "a+", encoding="utf-8") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as e:
        file.seek(0)
        raise errors.InputError(_refusal(path, file.read())) from e
      # The previous holder may have deleted the file between our open and our
      # lock. A lock on a deleted file excludes nobody, so start over.
      try:
        if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
          continue
      except FileNotFoundError:
        continue
      file.truncate(0)
      file.write(_heartbeat(""))
      file.flush()
      try:
        yield
      finally:
        path.unlink(missing_ok=True)
      return


@contextlib.contextmanager
def _beating(path: epath.Path, beat_s: float, watch_s: float) -> Iterator[None]:
  """Holds a lock file by rewriting it periodically."""
  owner = uuid.uuid4().hex
  # Watch an existing file: it is left over from a killed run if it disappears
  # or does not change for `watch_s`.
  before = _read(path)
  start = time.monotonic()
  while before is not None and time.monotonic() - start < watch_s:
    time.sleep(min(beat_s, watch_s) / 4)
    now = _read(path)
    if now is None:
      break
    if now != before:
      raise errors.InputError(_refusal(path, now))
  # Take the lock, and keep its heartbeat going in a thread.
  places.write(path, _heartbeat(owner))
  done = threading.Event()
  thread = threading.Thread(
    target=_beat, args=(path, owner, beat_s, done), daemon=True
  )
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    # Another run may hold the lock by now; its file stays.
    if owner in (_read(path) or ""):
      path.unlink()


def _beat(
  path: epath.Path, owner: str, beat_s: float, done: threading.Event
) -> None:
  """Rewrites a lock file until told to end.

  Two runs that start at the same moment may both find no file. The one that
  writes last keeps the lock; the other finds that out here and ends its
  process.

  Args:
    path: lock file.
    owner: token of this process.
    beat_s: seconds between heartbeats.
    done: event that ends the loop.
  """
  while not done.wait(beat_s):
    try:
      now = _read(path)
      if now is not None and owner not in now:
        print(f"stopped: {_refusal(path, now)}", file=sys.stderr, flush=True)
        # An exception would end this thread only, and the main thread would
        # go on to write into the other run's files.
        os._exit(1)
      places.write(path, _heartbeat(owner))
    except Exception as e:  # the store may recover: skip this heartbeat
      print(f"cannot write {path}: {e}", file=sys.stderr, flush=True)


def _heartbeat(owner: str) -> str:
  """Returns the content of a lock file, different at each call."""
  return json.dumps(
    dict(
      host=socket.gethostname(),
      pid=os.getpid(),
      owner=owner,
      beat=uuid.uuid4().hex,
    )
  )


def _read(path: epath.Path) -> str | None:
  """Returns the text of a file, or None if there is no such file."""
  try:
    return path.read_text()
  except FileNotFoundError:
    return None


def _refusal(path: epath.Path, heartbeat: str) -> str:
  """Returns the message for a run that finds the workdir locked."""
  try:
    holder = json.loads(heartbeat)
    who = f"process {holder['pid']} on {holder['host']}"
  except (ValueError, KeyError, TypeError):
    who = "another process"
  return (
    f"{who} writes to this --workdir (it holds {path}): wait until it ends, "
    "or stop it, or choose another --workdir"
  )
