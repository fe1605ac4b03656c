"""Processes of a pool's worker; `pool` runs this file as a script.

There are two processes. The worker calls verifiers and the user's functions.
Its keeper, the parent of the worker, runs only code of this file, so it can
still act while the worker is stuck in C code that does not release the
interpreter, such as a slow regular expression. The keeper kills the worker and
all processes that it started, in whatever session, when the pool asks for it
(SIGTERM), when the pool's process is gone, or when the worker ends. It then
ends with the worker's exit code or signal.

On Linux, the keeper adopts orphaned descendants of the worker, and the kernel
kills the worker if the keeper is killed. Elsewhere only the worker and its
process group are killed.
"""

from collections.abc import Callable
import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import struct
import sys
import time
from typing import Any, NamedTuple

from progrpo_jax import user_file
from progrpo_jax.rewards.score import check

HEAD = struct.Struct("!I")
# A call of this name runs the verifier named in its first argument and checks
# the score.
SCORE = "verifier"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_S = 0.5  # interval between checks that the pool's process still exists
_END_S = 5.0  # time limit for killing descendants


class Call(NamedTuple):
  """Function call for a worker.

  Attributes:
    function: "module:function", "path/to/file.py:function", or SCORE.
    args: positional arguments, JSON-able.
    kwargs: keyword arguments, JSON-able.
    label: name for messages; "" for the name of the verifier or function.
  """

  function: str
  args: Any
  kwargs: dict[str, Any]
  label: str = ""

  @property
  def loaded(self) -> str:
    """Name of the verifier, or of the function, that a worker loads."""
    return self.args[0] if self.function == SCORE else self.function

  @property
  def named(self) -> str:
    """What messages call it."""
    return self.label or self.loaded


class Outcome(NamedTuple):
  """Result of a call.

  Attributes:
    status: "ok", "timeout" or "crash".
    value: return value, JSON-able; None unless the status is "ok".
    reason: description of a failure, "" if the status is "ok".
  """

  status: str
  value: Any
  reason: str


def resolve(name: str) -> Callable[..., Any]:
  """Imports the function "module:function" or "path/to/file.py:function"."""
  path, _, attribute = name.rpartition(":")
  if not path:
    raise ValueError(f"{name!r} is not of the form module:function")
  if path.endswith(".py"):
    module = user_file.run(path, "user_" + os.path.basename(path)[:-3])
  else:
    module = importlib.import_module(path)
  return getattr(module, attribute)


def in_worker() -> bool:
  """Returns whether this process is a worker of a pool."""
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  return spec is not None and spec.name == __spec__.name


def describe(error: BaseException) -> str:
  """Returns an exception as one line; its __str__ may raise."""
  try:
    text = str(error)
  except Exception:
    text = "?"
  return f"{type(error).__name__}: {' '.join(text.split())[:500]}"


def main(calls: int, results: int, memory_mb: int, parent: int) -> None:
  """Forks the worker and keeps it; ends as the worker does.

  Args:
    calls: descriptor from which the worker reads calls.
    results: descriptor to which it writes messages and outcomes.
    memory_mb: limit on its address space, in MiB.
    parent: process id of the pool.
  """
  keeper = os.getpid()
  _prctl(_PR_SET_CHILD_SUBREAPER, 1)
  worker = os.fork()
  if not worker:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:  # it was killed before prctl took effect
      os._exit(1)
    os.setpgid(0, 0)
    _serve(calls, results, memory_mb)
    return
  for fd in (calls, results):
    os.close(fd)
  _end_as(_keep(worker, parent))


# ----- The keeper -----


def _keep(worker: int, parent: int) -> int:
  """Waits until the worker has to end, ends it, and returns its wait status.

  Args:
    worker: process id of the worker.
    parent: process id of the pool.
  """
  stops = []
  signal.signal(signal.SIGTERM, lambda *_: stops.append(True))
  signal.signal(signal.SIGCHLD, lambda *_: None)
  # Signals write to this pipe, so that one that arrives just before select is
  # not missed.
  woken, wake = os.pipe()
  os.set_blocking(wake, False)
  signal.set_wakeup_fd(wake)
  while os.getppid() == parent and not stops:
    with contextlib.suppress(ChildProcessError):
      while (ended := os.waitpid(-1, os.WNOHANG))[0]:
        if ended[0] == worker:
          _end_rest()
          return ended[1]
    if select.select([woken], [], [], _POLL_S)[0]:
      os.read(woken, 1 << 10)
  for kill in (os.killpg, os.kill):  # it may not have a process group yet
    with contextlib.suppress(ProcessLookupError, PermissionError):
      kill(worker, signal.SIGKILL)
  _, status = os.waitpid(worker, 0)
  _end_rest()
  return status


def _end_rest() -> None:
  """Kills and reaps the descendants that the worker leaves to the keeper.

  Each process that ends hands its children to the keeper, so this repeats until
  none are left.
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
  """Returns the children of a process; none on systems without /proc."""
  children = []
  for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
    if name.isdigit():
      with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
        # "pid (name) state parent ...", where the name may contain anything.
        if int(file.read().rpartition(")")[2].split()[1]) == parent:
          children.append(int(name))
  return children


def _end_as(status: int) -> None:
  """Ends this process with the exit code or signal of a wait status."""
  if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    _limit("CORE", 0)
    with contextlib.suppress(OSError):  # SIGKILL has no settable action
      signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
  os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _prctl(option: int, value: int) -> None:
  """Calls prctl(2) on Linux."""
  if sys.platform == "linux":
    arguments = [ctypes.c_ulong(v) for v in (value, 0, 0, 0)]
    ctypes.CDLL(None).prctl(option, *arguments)


# ----- The worker -----


def _serve(calls: int, results: int, memory_mb: int) -> None:
  """Runs calls until the pool closes its pipe."""
  _limit("AS", memory_mb * 2**20)
  _limit("CORE", 0)

  def send(*message):
    _write(results, json.dumps(message).encode() + b"\n")

  # Errors before "ready" reach the pool through stderr; later output of
  # verifiers is discarded.
  send("ready")
  os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
  functions = {}
  while head := _read(calls, HEAD.size):
    for call in json.loads(_read(calls, *HEAD.unpack(head))):
      send("done", *_execute(Call(*call), functions, send))


def _execute(call: Call, functions: dict[str, Any], send: Any) -> Outcome:
  """Makes one call; exceptions become an outcome.

  Args:
    call: call to make.
    functions: functions loaded so far, by name; new ones are added.
    send: function that sends a message to the pool.
  """
  name = call.loaded
  try:
    if name not in functions:
      send("loading")
      functions[name] = resolve(name)
    send("running")
    if call.function == SCORE:
      _, completion, reference, meta = call.args
      value = check(functions[name](completion, reference, **meta))
    else:
      value = functions[name](*call.args, **call.kwargs)
    json.dumps(value)
    return Outcome("ok", value, "")
  except BaseException as error:  # SystemExit of a verifier is a failure too
    return Outcome("crash", None, f"{call.named} raised {describe(error)}")


def _limit(kind: str, value: int) -> None:
  """Limits a resource of this process if the system supports it."""
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
  """Reads size bytes; fewer only at the end of the stream."""
  parts = []
  while size and (data := os.read(fd, min(size, 1 << 20))):
    parts.append(data)
    size -= len(data)
  return b"".join(parts)


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
