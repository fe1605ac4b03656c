"""A worker of the pool, seen from inside: run as a script by `pool`.

It is two processes. The worker makes calls of verifiers and of the user's
functions. Its keeper, which it is forked from, runs no code but this file's,
and so still acts while the worker is stuck in a regular expression that never
gives up the interpreter. When the pool says so (by SIGTERM), when the process
of the pool is gone, or when the worker ends, the keeper ends the worker and
all that it has started, sessions of their own included, and then ends as the
worker did.

On Linux the keeper adopts what the worker's children leave behind, and the
kernel ends the worker if the keeper is killed. Elsewhere only the worker and
its process group are ended.
"""

from collections.abc import Callable
import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import select
import signal
import struct
import sys
import time
from typing import Any, NamedTuple

from progrpo_jax.rewards.score import check

HEAD = struct.Struct("!I")
SCORE = "verifier"  # a call of this name runs a verifier and checks its score
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_S = 0.5  # how often a keeper looks whether the pool's process is there
_END_S = 5.0  # how long it tries to end what does not die


class Call(NamedTuple):
  """One call to make in a worker; arguments and result are JSON-able."""

  function: str
  args: Any
  kwargs: dict[str, Any]


class Outcome(NamedTuple):
  """What became of a call: "ok" with a value, or a failure with a reason."""

  status: str
  value: Any
  reason: str


def resolve(name: str) -> Callable[..., Any]:
  """Returns the function "module:function" or "path/to/file.py:function"."""
  place, _, attribute = name.rpartition(":")
  if not place:
    raise ValueError(f"{name!r} is not of the form module:function")
  if place.endswith(".py"):
    spec = importlib.util.spec_from_file_location(
        "user_" + os.path.basename(place)[:-3], place
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
  else:
    module = importlib.import_module(place)
  return getattr(module, attribute)


def describe(error: BaseException) -> str:
  """Writes an exception in one line; an odd __str__ does no harm."""
  try:
    text = str(error)
  except Exception:
    text = "?"
  return f"{type(error).__name__}: {' '.join(text.split())[:500]}"


def main(calls: int, results: int, memory_mb: int, parent: int) -> None:
  """Forks the worker; its keeper ends as it does.

  Args:
    calls: descriptor that the worker reads its calls from.
    results: descriptor that it writes to what became of them.
    memory_mb: limit on its address space.
    parent: the pool's process.
  """
  keeper = os.getpid()
  _prctl(_PR_SET_CHILD_SUBREAPER, 1)
  worker = os.fork()
  if not worker:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:  # it was killed before that was said
      os._exit(1)
    os.setpgid(0, 0)
    _serve(calls, results, memory_mb)
    return
  for fd in (calls, results):
    os.close(fd)
  _end_as(_keep(worker, parent))


# ----- The keeper -----


def _keep(worker: int, parent: int) -> int:
  """Waits for one of the three ends; returns the worker's wait status."""
  stops = []
  signal.signal(signal.SIGTERM, lambda *_: stops.append(True))
  signal.signal(signal.SIGCHLD, lambda *_: None)
  woken, wake = os.pipe()
  os.set_blocking(wake, False)
  signal.set_wakeup_fd(wake)  # a signal between two looks is not slept through
  while os.getppid() == parent and not stops:
    with contextlib.suppress(ChildProcessError):
      while (ended := os.waitpid(-1, os.WNOHANG))[0]:
        if ended[0] == worker:
          _end_rest()
          return ended[1]
    if select.select([woken], [], [], _LOOK_S)[0]:
      os.read(woken, 1 << 10)
  for kill in (os.killpg, os.kill):  # it may not have its group yet
    with contextlib.suppress(ProcessLookupError, PermissionError):
      kill(worker, signal.SIGKILL)
  _, status = os.waitpid(worker, 0)
  _end_rest()
  return status


def _end_rest() -> None:
  """Kills and reaps what the worker's end has left to the keeper.

  A process that ends hands its own children over, so that this goes on until
  there are none.
  """
  end = time.monotonic() + _END_S
  with contextlib.suppress(ChildProcessError):  # there are none
    while time.monotonic() < end:
      while os.waitpid(-1, os.WNOHANG)[0]:
        pass
      for child in _children(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
          os.kill(child, signal.SIGKILL)
      time.sleep(0.001)


def _children(parent: int) -> list[int]:
  """Returns the children of a process, as far as /proc tells of them."""
  children = []
  for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
    if name.isdigit():
      with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
        # "pid (name) state parent ...", where the name may hold anything.
        if int(file.read().rpartition(")")[2].split()[1]) == parent:
          children.append(int(name))
  return children


def _end_as(status: int) -> None:
  """Ends with the exit code or by the signal of a wait status."""
  if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    _limit("CORE", 0)
    with contextlib.suppress(OSError):  # of SIGKILL, which has no other action
      signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
  os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _prctl(option: int, value: int) -> None:
  """Calls prctl(2), where there is one."""
  if sys.platform == "linux":
    words = [ctypes.c_ulong(v) for v in (value, 0, 0, 0)]
    ctypes.CDLL(None).prctl(option, *words)


# ----- The worker -----


def _serve(calls: int, results: int, memory_mb: int) -> None:
  """Runs calls until the pool hangs up."""
  _limit("AS", memory_mb * 2**20)
  _limit("CORE", 0)

  def say(*message):
    _write(results, json.dumps(message).encode() + b"\n")

  say("ready")
  os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
  functions = {}
  while head := _read(calls, HEAD.size):
    for call in json.loads(_read(calls, *HEAD.unpack(head))):
      say("done", *_answer(Call(*call), functions, say))


def _answer(call: Call, functions: dict[str, Any], say: Any) -> Outcome:
  """Makes one call; its exceptions become the outcome."""
  verifies = call.function == SCORE
  name = call.args[0] if verifies else call.function
  try:
    if name not in functions:
      say("loading")
      functions[name] = resolve(name)
    say("running")
    if verifies:
      _, completion, reference, meta = call.args
      value = check(functions[name](completion, reference, **meta))
    else:
      value = functions[name](*call.args, **call.kwargs)
    json.dumps(value)
    return Outcome("ok", value, "")
  except BaseException as error:  # SystemExit of a verifier is a failure too
    return Outcome("crash", None, f"{name} raised {describe(error)}")


def _limit(kind: str, value: int) -> None:
  """Limits a resource of this process, where the system can."""
  try:
    import resource
  except ImportError:
    return
  with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (value, value))


def _write(fd: int, data: bytes) -> None:
  """Writes all of data."""
  view = memoryview(data)
  while view:
    view = view[os.write(fd, view) :]


def _read(fd: int, size: int) -> bytes:
  """Reads exactly size bytes; fewer only at the end of the stream."""
  parts = []
  while size and (data := os.read(fd, min(size, 1 << 20))):
    parts.append(data)
    size -= len(data)
  return b"".join(parts)


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
