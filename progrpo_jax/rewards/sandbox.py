"""Runs model-written programs in a jail.

  with Jail(source, time_limit_s=5.0) as jail:
    print(jail.run("3 4\\n").stdout)
    print(jail.call("add", [3, 4]).result)

A program sees a read-only standard library, an empty directory of limited
size, and its input. It sees no other file of the machine, no network, no other
process and no environment, and runs as nobody. Every run has a fresh process
and leaves nothing behind. `jail` is the code on the inside.

Grades of isolation, as `probe` reports them:

  1  a process with limited resources, which can read and write everything
     that its user can; used only with allow_unsafe=True
  2  namespaces: separate root directory, processes, users and network
  3  namespaces and a filter of system calls, which also prevents new processes

Grades 2 and 3 share the machine's kernel and do not protect against its bugs.
Against programs whose authors look for those, use a virtual machine.

The memory of all jails together is not limited. One jail may use memory_mb +
disk_mb, at grade 2 `processes` times memory_mb. Bubblewrap does not limit the
number of files; it is used only if no other program may create namespaces.
"""

from collections.abc import Sequence
import contextlib
import decimal
import functools
import json
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

NOBODY = 65534
MAX_OUTPUT = 1 << 20
_START_S = 20.0  # time limit for the start of a jail, even on a busy machine
_GRACE_S = 5.0  # time limit for the end of a killed run
_MAX_STDERR = 1 << 20
_JAIL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jail.py")
_PYTHON = os.path.realpath(sys.executable)
# Without user site, site-packages and working directory; UTF-8; conversion of
# integers of any length to text.
_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8", "-X", "int_max_str_digits=0")
# A fixed hash seed gives sets the same order in every run. A single arena keeps
# glibc from reserving 64 MB of the limited address space per thread.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}


class Refused(RuntimeError):
  """This machine has no jail, or not one of the claimed grade."""


class JailError(RuntimeError):
  """The jail failed, not the program in it."""


class NoAnswer(JailError):
  """The jail did not answer in time; another try may succeed."""


class Output(NamedTuple):
  """Result of a run.

  Attributes:
    end: "exit", "signal", "timeout" (killed at its limit) or "flood" (killed
      for too much output).
    code: exit code, or number of the signal.
    stdout: standard output, undecodable bytes replaced.
    stderr: standard error, undecodable bytes replaced.
    result: return value of a call as JSON, "" for a run.
  """

  end: str
  code: int
  stdout: str
  stderr: str
  result: str


class Backend(NamedTuple):
  """Method of isolation.

  Attributes:
    name: "namespaces", "bubblewrap", or "none" for grade 1.
    grade: grade of isolation, 0 if the method does not work here.
    reason: why it does not work.
  """

  name: str
  grade: int
  reason: str = ""


class Jail:
  """Jail for one program; a context manager.

  Args:
    program: Python source.
    prelude: Python source executed before the program, in the same module.
    published_names: whether the program can use names that the published
      graders import (List, Counter, heappush, math, ...) without importing
      them; makes the start about 50 ms slower.
    time_limit_s: time limit of all runs together, from when the jail is ready.
    memory_mb: address space per process, in MiB.
    disk_mb: size of the writable directory and of each file in it, in MiB.
    processes: number of threads, and at grade 2 of processes.
    allow_unsafe: whether to use grade 1 if nothing better works.
    backend: method of isolation; None takes the best one that works. One of
      grade 2 goes without the filter even if the machine has one.

  Raises:
    Refused: no method of isolation works here.
    JailError: the jail could not be set up.
  """

  def __init__(
    self,
    program: str,
    *,
    time_limit_s: float,
    prelude: str = "",
    published_names: bool = False,
    memory_mb: int = 256,
    disk_mb: int = 16,
    processes: int = 32,
    allow_unsafe: bool = False,
    backend: Backend | None = None,
  ):
    backend = backend or choose(allow_unsafe=allow_unsafe)
    self._limits = {
      "memory_mb": memory_mb,
      "disk_mb": disk_mb,
      "processes": processes,
    }
    self._published_names = published_names
    before, after = (
      text.encode("utf-8", "surrogatepass") for text in (prelude, program)
    )
    self._program = b"%d\n" % len(before) + before + after
    self._closing = contextlib.ExitStack()
    try:
      self._start(backend)
      self._deadline = time.monotonic() + time_limit_s
    except BaseException:
      self.close()
      raise

  def run(
    self, stdin: str, *, limit_s: float = math.inf, max_output: int = MAX_OUTPUT
  ) -> Output:
    """Runs the program on an input.

    Args:
      stdin: text on standard input.
      limit_s: time limit, within the rest of time_limit_s.
      max_output: number of bytes of output at which the run is killed.

    Raises:
      Refused: a restriction that the grade promises failed; it did not run.
      JailError: the jail failed.
    """
    data = stdin.encode("utf-8", "replace")
    return self._serve(None, data, limit_s, max_output)

  def call(
    self,
    entry_point: str,
    args: Sequence[Any],
    *,
    limit_s: float = math.inf,
    max_output: int = MAX_OUTPUT,
  ) -> Output:
    """Calls a function of the program, or a method of its class Solution.

    Args:
      entry_point: name of the function or method.
      args: arguments, JSON-able.
      limit_s: time limit, within the rest of time_limit_s.
      max_output: number of bytes of output at which the run is killed.

    Raises:
      Refused, JailError: as in `run`.
    """
    data = to_json(list(args)).encode()
    return self._serve(entry_point, data, limit_s, max_output)

  def close(self) -> None:
    """Ends all processes of the jail; may be called again."""
    self._closing.close()

  def __enter__(self) -> "Jail":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _start(self, backend: Backend) -> None:
    """Starts the jail and waits until it is ready."""
    # stderr of the server goes to a file, which explains a failed start.
    errors = self._closing.enter_context(tempfile.TemporaryFile())
    mode = backend.name
    config = {
      "mode": mode,
      "tmp": "/tmp",
      "grade": backend.grade,
      "filter": backend.grade != 2,
      "published_names": self._published_names,
      **self._limits,
    }
    if mode == "none":
      config["tmp"] = self._closing.enter_context(
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
      )
    if mode == "namespaces":
      config |= _layout()
    wrapper = []
    if mode == "bubblewrap":
      wrapper = _bubblewrap(self._limits["disk_mb"])
    nobody = mode == "bubblewrap" and os.geteuid() == 0
    # Messages keep their boundaries, and an end of either side is noticed.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    self._control = self._closing.enter_context(ours)
    with theirs:
      config["control"] = theirs.fileno()
      self._process = subprocess.Popen(
        [*wrapper, _PYTHON, *_FLAGS, _JAIL, json.dumps(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=(theirs.fileno(),),
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
        **(_AS_NOBODY if nobody else {}),
      )
    self._closing.callback(self._end)
    self._await_ready(errors)

  def _await_ready(self, errors) -> None:
    """Waits until the jail is ready, and maps its users when it asks."""
    deadline = time.monotonic() + _START_S
    while "ready" not in (message := self._receive(deadline)):
      if "unshared" in message:
        try:
          _map_users(self._process.pid)
        except OSError as error:
          raise JailError(f"the jail's users cannot be mapped: {error}") from (
            error
          )
        self._control.send(b"mapped")
        continue
      errors.seek(0)
      output = errors.read(10_000).decode(errors="replace").strip()
      raise JailError(message.get("failed") or output or "it ended at once")

  def _receive(self, deadline: float) -> dict[str, Any]:
    """Returns the jail's next message; empty if the jail has ended."""
    poller = select.poll()
    poller.register(self._control, select.POLLIN)
    if not poller.poll(1000 * max(deadline - time.monotonic(), 0)):
      raise NoAnswer("the jail does not answer")
    with contextlib.suppress(ConnectionResetError):
      if message := self._control.recv(1 << 16):
        return json.loads(message)
    return {}

  def _serve(
    self, entry_point: str | None, data: bytes, limit_s: float, cap: int
  ) -> Output:
    """Runs the program once and collects its output.

    Args:
      entry_point: function to call; None runs the program.
      data: input, or arguments as JSON.
      limit_s: time limit.
      cap: number of bytes of output at which the run is killed.
    """
    limit_s = min(limit_s, self._deadline - time.monotonic())
    if limit_s <= 0:
      return Output("timeout", 0, "", "", "")
    names = ["stdout", "stderr", *["result"] * (entry_point is not None)]
    caps = {"stdout": cap, "stderr": _MAX_STDERR, "result": cap}
    request = {"entry_point": entry_point, "cpu_s": math.ceil(limit_s) + 1}
    # One extra CPU second, so that the clock here decides about a timeout.
    with contextlib.ExitStack() as stack:
      readers, writers = {}, []
      for name in names:
        end, other = os.pipe()
        readers[name] = stack.enter_context(open(end, "rb", buffering=0))
        os.set_blocking(end, False)
        writers.append(stack.enter_context(open(other, "wb", buffering=0)))
      # Sealed, so that a run cannot change what the next run reads.
      files = [_sealed(self._program), _sealed(data)]
      for fd in files:
        stack.callback(os.close, fd)
      fds = [*files, *(w.fileno() for w in writers)]
      try:
        socket.send_fds(self._control, [json.dumps(request).encode()], fds)
      except OSError as error:
        raise JailError(f"the jail is gone: {error}") from error
      for writer in writers:
        writer.close()
      return self._gather(readers, caps, time.monotonic() + limit_s)

  def _gather(self, readers, caps, deadline: float) -> Output:
    """Reads the outputs until the run ends; kills it at a limit.

    Args:
      readers: pipes by name.
      caps: largest number of bytes to keep, by name.
      deadline: time at which the run is killed.
    """
    texts = {name: bytearray() for name in caps}
    names = {reader.fileno(): name for name, reader in readers.items()}
    poller = select.poll()
    for fd in (*names, self._control.fileno()):
      poller.register(fd, select.POLLIN)
    killed, status = "", None
    while status is None or names:
      wait = deadline - time.monotonic()
      if wait <= 0 and status is not None:
        break  # at grade 1, surviving processes may keep a pipe open
      if wait <= 0:
        killed, deadline = self._kill("timeout", killed)
      for fd, _ in poller.poll(1000 * max(wait, 0) + 1):
        if fd not in names:  # the jail reports the end of the run
          poller.unregister(fd)
          status = self._status()
          deadline = time.monotonic() + 1.0
          continue
        name = names[fd]
        data = os.read(fd, 1 << 16)
        if not data:
          poller.unregister(fd)
          del names[fd]
        texts[name] += data[: caps[name] - len(texts[name])]
        if len(texts[name]) == caps[name] and not killed and status is None:
          killed, deadline = self._kill("flood", killed)
    end, code = _verdict(status)
    decoded = (texts[n].decode("utf-8", "replace") for n in caps)
    return Output(killed or end, code, *decoded)

  def _kill(self, reason: str, earlier: str) -> tuple[str, float]:
    """Asks the jail to kill the run.

    Args:
      reason: "timeout" or "flood".
      earlier: reason of an earlier attempt, "" for the first.

    Returns:
      (reason, time by which the run must have ended).
    """
    if earlier:
      raise NoAnswer("a killed run does not end")
    with contextlib.suppress(OSError):
      self._control.send(b"kill")
    return reason, time.monotonic() + _GRACE_S

  def _status(self) -> int:
    """Returns the wait status of the run that has ended."""
    message = self._receive(time.monotonic() + _GRACE_S)
    if "failed" in message:
      raise Refused(f"the jail cannot hold the program: {message['failed']}")
    if "ended" not in message:
      raise JailError("the jail has died")
    return message["ended"]

  def _end(self) -> None:
    """Closes the channel, which ends the jail, and reaps its process."""
    self._control.close()
    try:
      self._process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(self._process.pid, signal.SIGKILL)
      self._process.wait()


def to_json(value: Any) -> str:
  """Returns a value as JSON; unlike json.dumps, integers may be of any length.

  Raises:
    TypeError, ValueError, RecursionError: JSON cannot express the value.
  """
  try:
    return json.dumps(value)
  except ValueError:  # too many digits, or a list that contains itself
    pass
  if isinstance(value, int):
    return str(decimal.Decimal(value))
  if isinstance(value, (list, tuple)):
    return f"[{', '.join(map(to_json, value))}]"
  if isinstance(value, dict):
    # json.dumps converts keys to text; its output of one key is cut out.
    pairs = (
      f"{json.dumps({key: 0})[1:-4]}: {to_json(part)}"
      for key, part in value.items()
    )
    return f"{{{', '.join(pairs)}}}"
  return json.dumps(value)


_AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _verdict(status: int) -> tuple[str, int]:
  """Returns ("signal" or "exit", its number or code) of a wait status."""
  if os.WIFSIGNALED(status):
    return "signal", os.WTERMSIG(status)
  return "exit", os.waitstatus_to_exitcode(status)


def _sealed(data: bytes) -> int:
  """Returns a descriptor of an immutable file in memory, at its start."""
  import fcntl

  fd = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
  view = memoryview(data)
  while view:
    view = view[os.write(fd, view) :]
  os.lseek(fd, 0, os.SEEK_SET)
  seals = (
    fcntl.F_SEAL_SEAL
    | fcntl.F_SEAL_SHRINK
    | fcntl.F_SEAL_GROW
    | fcntl.F_SEAL_WRITE
  )
  fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
  return fd


def _map_users(pid: int) -> None:
  """Maps the users of a new user namespace.

  The current user becomes nobody in the namespace. If it is root, root is
  mapped as well, so that the jail can use files that only root can read. The
  program then runs as nobody outside of the namespace too, since the number of
  root's processes has no limit.

  Args:
    pid: process in the namespace.
  """
  with contextlib.suppress(OSError):
    _write(f"/proc/{pid}/setgroups", "deny")
  for kind, current in (("uid", os.geteuid()), ("gid", os.getegid())):
    path, single = f"/proc/{pid}/{kind}_map", f"{NOBODY} {current} 1"
    try:
      both = f"0 0 1\n{NOBODY} {NOBODY} 1"
      _write(path, both if os.geteuid() == 0 else single)
    except PermissionError:  # root in a container may be a mapped user itself
      _write(path, single)


def _write(path: str, text: str) -> None:
  """Writes a text to a kernel file in a single write."""
  fd = os.open(path, os.O_WRONLY)
  try:
    os.write(fd, text.encode())
  finally:
    os.close(fd)


# ----- Files of the machine that a program needs -----

# Extension modules whose shared libraries must be visible in the jail, and the
# program that finds those libraries.
_EXTENSIONS = (
  "_bz2",
  "_ctypes",
  "_decimal",
  "_hashlib",
  "_lzma",
  "_sqlite3",
  "_ssl",
  "_uuid",
  "zlib",
)
_FIND_LIBRARIES = f"""
import json, sys
for name in {_EXTENSIONS}:
  try:
    __import__(name)
  except ImportError:
    pass
with open("/proc/self/maps") as file:
  maps = [line.split(None, 5)[5:] for line in file]
print(json.dumps([sys.path, sorted({{m[0].strip() for m in maps if m}})]))
"""


@functools.cache
def _layout() -> dict[str, Any]:
  """Returns the content of the jail's root directory.

  "binds" are paths that are readable, "hidden" are directories in them that
  appear empty, and "links" maps symbolic links to their targets.
  """
  process = subprocess.run(
    [_PYTHON, *_FLAGS, "-c", _FIND_LIBRARIES],
    env=_ENVIRONMENT,
    cwd="/",
    capture_output=True,
    check=True,
    timeout=60,
  )
  path, maps = json.loads(process.stdout)
  # Directories of the standard library, without those inside of others.
  binds = [p for p in path if os.path.isdir(p)]
  binds = [p for p in binds if not any(p.startswith(f"{q}/") for q in binds)]
  packages = ("site-packages", "dist-packages")
  hidden = [f"{p}/{name}" for p in binds for name in packages]
  hidden = [p for p in hidden if os.path.isdir(p)]
  # Shared libraries, under all names by which they may be loaded.
  files = {"/etc/ld.so.cache"}
  for library in maps:
    if ".so" in os.path.basename(library):
      files |= _aliases(library)
  inside = tuple(f"{p}/" for p in binds)
  binds += sorted(
    f for f in files if os.path.isfile(f) and not f.startswith(inside)
  )
  links = {
    p: os.readlink(p).strip("/")
    for p in ("/lib", "/lib64", "/bin")
    if os.path.islink(p)
  }
  return {"binds": binds, "hidden": hidden, "links": links}


def _aliases(library: str) -> set[str]:
  """Returns the paths under which the loader may look for a library."""
  paths = {library}
  stem = os.path.basename(library).partition(".so")[0].partition("-")[0]
  for folder in (os.path.dirname(library), "/lib64", "/usr/lib64", "/lib"):
    folder = os.path.realpath(folder)
    if not os.path.isdir(folder):
      continue
    for name in os.listdir(folder):
      path = f"{folder}/{name}"
      if name.startswith(stem) and os.path.realpath(path) == library:
        paths.add(path)
  return paths


def _bubblewrap(disk_mb: int) -> list[str]:
  """Returns the command prefix that runs a command in a jail."""
  layout = _layout()
  words = [
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--as-pid-1",
    "--cap-drop",
    "ALL",
    "--clearenv",
    "--uid",
    str(NOBODY),
    "--gid",
    str(NOBODY),
    "--hostname",
    "jail",
  ]
  for name, value in _ENVIRONMENT.items():
    words += ["--setenv", name, value]
  for link, target in layout["links"].items():
    words += ["--symlink", target, link]
  for path in (*layout["binds"], _PYTHON, _JAIL):
    words += ["--ro-bind", path, path]
  for path in layout["hidden"]:
    words += ["--tmpfs", path, "--remount-ro", path]
  words += ["--proc", "/proc", "--dev", "/dev"]
  words += ["--size", str(disk_mb << 20), "--tmpfs", "/tmp"]
  words += ["--remount-ro", "/dev", "--remount-ro", "/", "--"]
  return [shutil.which("bwrap") or words[0], *words[1:]]


# ----- Choice of the backend -----

# Reports the uid, the parent's id, whether a file outside of the jail exists,
# the network interfaces, and whether a process can be started.
_PROBE = """
import os, socket
def look(path):
  try:
    nets = [name for _, name in socket.if_nameindex() if name != "lo"]
  except PermissionError:
    nets = []
  try:
    if not os.fork():
      os._exit(0)
    forks = True
  except PermissionError:
    forks = False
  return [os.getuid(), os.getppid(), os.path.exists(path), nets, forks]
"""


def probe(name: str) -> Backend:
  """Tries a method of isolation by running a program.

  Args:
    name: "namespaces" or "bubblewrap".

  Returns:
    The backend with its grade, 0 if it does not work here.

  Raises:
    NoAnswer: the jail was too slow; another try may succeed.
  """
  if sys.platform != "linux":
    return Backend(name, 0, "it needs Linux")
  if name == "bubblewrap" and shutil.which("bwrap") is None:
    return Backend(name, 0, "bwrap is not installed")
  with tempfile.NamedTemporaryFile() as file:
    try:
      with Jail(
        _PROBE, time_limit_s=_START_S, backend=Backend(name, 0)
      ) as jail:
        output = jail.call("look", [file.name])
      seen = json.loads(output.result)
    except NoAnswer:
      raise
    except (JailError, Refused, OSError, subprocess.SubprocessError) as error:
      return Backend(name, 0, str(error))
    except ValueError:
      return Backend(name, 0, output.stderr.strip()[-500:] or output.end)
  uid, parent, sees_file, nets, forks = seen
  if uid != NOBODY or parent != 1 or sees_file or nets:
    return Backend(name, 0, f"it does not isolate: {seen}")
  return Backend(name, 2 if forks else 3)


_best: Backend | None = None


def best() -> Backend:
  """Returns the first backend that works here; tries once per process.

  If none works, the grade is 0 and the reason says why each failed.
  """
  global _best
  if _best is None:
    reasons = []
    for name in ("namespaces", "bubblewrap"):
      tried = probe(name)
      if tried.grade:
        _best = tried
        break
      reasons.append(f"{name}: {tried.reason}")
    else:
      _best = Backend("", 0, "; ".join(reasons))
  return _best


def choose(*, allow_unsafe: bool = False) -> Backend:
  """Returns the backend to use.

  Args:
    allow_unsafe: whether to use grade 1 if nothing better works.

  Raises:
    Refused: no backend works here.
  """
  backend = best()
  if backend.grade:
    return backend
  if allow_unsafe and sys.platform == "linux":
    return Backend("none", 1)
  raise Refused(
    f"no jail for programs can be set up here ({backend.reason}). Install"
    " bubblewrap, or allow user namespaces (in a container, --security-opt"
    " seccomp=unconfined or --privileged; on Ubuntu, sysctl -w"
    " kernel.apparmor_restrict_unprivileged_userns=0). On a machine that has"
    " nothing to lose, allow_unsafe=True runs them unconfined."
  )
