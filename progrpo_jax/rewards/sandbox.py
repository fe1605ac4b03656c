"""Runs programs that a model wrote, in a jail.

  with Jail(source, time_limit_s=5.0) as jail:
    print(jail.run("3 4\\n").stdout)
    print(jail.call("add", [3, 4]).result)

A program sees a read-only standard library, an empty directory of limited
size and its input: no other file of the machine, no network, no process but
its own, no environment, no uid but nobody's. Every run has a fresh process;
nothing is left behind. `jail` is what goes on inside.

Grades of isolation, as `probe` reports them:

  1  a process with limits on its resources: it reads and writes whatever its
     user may. Only taken with allow_unsafe=True.
  2  namespaces: a root directory, processes, users and a network of its own.
  3  that, and a filter of system calls: no further processes either.

Grades 2 and 3 share the machine's kernel and are no boundary against faults
in it. For programs of people who would look for those, use a virtual machine.

Not limited: the memory of all jails together. One may use memory_mb + disk_mb,
at grade 2 `processes` times memory_mb. Bubblewrap sets no limit to the number
of files; it is taken only where it alone may make namespaces.
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
_START_S = 20.0  # until a jail must be ready, on a busy machine too
_GRACE_S = 5.0  # until a killed run must be gone
_MAX_STDERR = 1 << 20
_JAIL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jail.py")
_PYTHON = os.path.realpath(sys.executable)
# No user site, no site-packages, nothing of the working directory; UTF-8;
# integers of any length as text.
_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8", "-X", "int_max_str_digits=0")
# A set's order is the same in every run. Of an address space limited as this
# one is, glibc would give every thread 64 MB for a heap of its own.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}


class Refused(RuntimeError):
  """This machine has no jail, or not of the grade that was claimed."""


class JailError(RuntimeError):
  """The jail, not the program in it, has failed."""


class NoAnswer(JailError):
  """The jail was too slow; the next one may not be."""


class Output(NamedTuple):
  """What became of a run.

  Attributes:
    end: "exit", "signal", "timeout" (killed at its limit) or "flood" (killed
      for too much output).
    code: the exit code, or the signal's number.
    stdout: what it wrote there, undecodable bytes replaced.
    stderr: likewise.
    result: of a call, the JSON text of its value; else empty.
  """

  end: str
  code: int
  stdout: str
  stderr: str
  result: str


class Backend(NamedTuple):
  """A way to isolate: its name and grade, or why there is none (grade 0)."""

  name: str
  grade: int
  reason: str = ""


class Jail:
  """A jail for one program; a context manager.

  Args:
    program: Python source.
    prelude: Python source that is executed before it, in the same module.
    published_names: let the program use what the published graders import
      for it (List, Counter, heappush, math, ...) without importing it; costs
      the start of the jail about 50 ms.
    time_limit_s: for all runs together, from the moment the jail is ready.
    memory_mb: of address space, for each process of it.
    disk_mb: of the directory that it may write to, and of a file in it.
    processes: threads (at grade 2, also processes) that it may have.
    allow_unsafe: take grade 1 where the machine has no better.
    backend: a Backend; None takes the best that works. Of grade 2, it does
      without the filter, also where there is one.

  Raises:
    Refused: no backend works here.
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
        "memory_mb": memory_mb, "disk_mb": disk_mb, "processes": processes}
    self._published_names = published_names
    before, after = (
        text.encode("utf-8", "surrogatepass") for text in (prelude, program))
    self._program = b"%d\n" % len(before) + before + after
    self._closing = contextlib.ExitStack()
    try:
      self._start(backend)
      self._deadline = time.monotonic() + time_limit_s
    except BaseException:
      self.close()
      raise

  def run(
      self,
      stdin: str,
      *,
      limit_s: float = math.inf,
      max_output: int = MAX_OUTPUT,
  ) -> Output:
    """Runs the program on an input, for limit_s or what is left of all.

    Raises:
      Refused: something of what the grade promises failed; it did not run.
      JailError: the jail has failed.
    """
    given = stdin.encode("utf-8", "replace")
    return self._serve(None, given, limit_s, max_output)

  def call(
      self,
      entry_point: str,
      args: Sequence[Any],
      *,
      limit_s: float = math.inf,
      max_output: int = MAX_OUTPUT,
  ) -> Output:
    """Calls a function of the program, or a method of its class Solution.

    Raises:
      Refused, JailError: as for `run`.
    """
    given = to_json(list(args)).encode()
    return self._serve(entry_point, given, limit_s, max_output)

  def close(self) -> None:
    """Ends everything in the jail; may be called again."""
    self._closing.close()

  def __enter__(self) -> "Jail":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _start(self, backend: Backend) -> None:
    """Starts the jail and waits until it is ready."""
    errors = self._closing.enter_context(tempfile.TemporaryFile())
    mode = backend.name
    config = {
        "mode": mode, "tmp": "/tmp", "grade": backend.grade,
        "filter": backend.grade != 2,
        "published_names": self._published_names, **self._limits}
    if mode == "none":
      config["tmp"] = self._closing.enter_context(
          tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    if mode == "namespaces":
      config |= _layout()
    wrapper = []
    if mode == "bubblewrap":
      wrapper = _bubblewrap(self._limits["disk_mb"])
    nobody = mode == "bubblewrap" and os.geteuid() == 0
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
    self._meet(errors)

  def _meet(self, errors) -> None:
    """Does what the jail asks for until it is ready."""
    deadline = time.monotonic() + _START_S
    while "ready" not in (word := self._hear(deadline)):
      if "unshared" in word:
        try:
          _map_users(self._process.pid)
        except OSError as error:
          raise JailError(f"the jail's users cannot be mapped: {error}") from (
              error)
        self._control.send(b"mapped")
        continue
      errors.seek(0)
      said = errors.read(10_000).decode(errors="replace").strip()
      raise JailError(word.get("failed") or said or "it ended at once")

  def _hear(self, deadline: float) -> dict[str, Any]:
    """Returns the jail's next message; empty if it has ended."""
    poller = select.poll()
    poller.register(self._control, select.POLLIN)
    if not poller.poll(1000 * max(deadline - time.monotonic(), 0)):
      raise NoAnswer("the jail does not answer")
    with contextlib.suppress(ConnectionResetError):
      if message := self._control.recv(1 << 16):
        return json.loads(message)
    return {}

  def _serve(
      self, entry_point: str | None, given: bytes, limit_s: float, cap: int
  ) -> Output:
    """Has the jail run the program once; gathers what it writes."""
    limit_s = min(limit_s, self._deadline - time.monotonic())
    if limit_s <= 0:
      return Output("timeout", 0, "", "", "")
    names = ["stdout", "stderr", *["result"] * (entry_point is not None)]
    caps = {"stdout": cap, "stderr": _MAX_STDERR, "result": cap}
    request = {"entry_point": entry_point, "cpu_s": math.ceil(limit_s) + 1}
    with contextlib.ExitStack() as stack:
      readers, writers = {}, []
      for name in names:
        end, other = os.pipe()
        readers[name] = stack.enter_context(open(end, "rb", buffering=0))
        os.set_blocking(end, False)
        writers.append(stack.enter_context(open(other, "wb", buffering=0)))
      files = [_sealed(self._program), _sealed(given)]
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
    """Reads to the end of the run, or kills it."""
    texts = {name: bytearray() for name in caps}
    names = {reader.fileno(): name for name, reader in readers.items()}
    poller = select.poll()
    for fd in (*names, self._control.fileno()):
      poller.register(fd, select.POLLIN)
    killed, status = "", None
    while status is None or names:
      wait = deadline - time.monotonic()
      if wait <= 0 and status is not None:
        break  # unconfined, what it left behind may keep a pipe open
      if wait <= 0:
        killed, deadline = self._kill("timeout", killed)
      for fd, _ in poller.poll(1000 * max(wait, 0) + 1):
        if fd not in names:
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
    shown = (texts[n].decode("utf-8", "replace") for n in caps)
    return Output(killed or end, code, *shown)

  def _kill(self, why: str, before: str) -> tuple[str, float]:
    """Has the run killed; returns why, and when it must be gone."""
    if before:
      raise NoAnswer("a killed run does not end")
    with contextlib.suppress(OSError):
      self._control.send(b"kill")
    return why, time.monotonic() + _GRACE_S

  def _status(self) -> int:
    """Returns the wait status of the run that has ended."""
    word = self._hear(time.monotonic() + _GRACE_S)
    if "failed" in word:
      raise Refused(f"the jail cannot hold the program: {word['failed']}")
    if "ended" not in word:
      raise JailError("the jail has died")
    return word["ended"]

  def _end(self) -> None:
    """Hangs up, which ends the jail, and reaps it."""
    self._control.close()
    try:
      self._process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(self._process.pid, signal.SIGKILL)
      self._process.wait()


def to_json(value: Any) -> str:
  """Returns a value as JSON; unlike json.dumps, with integers of any length.

  Raises:
    TypeError, ValueError, RecursionError: JSON has no such value.
  """
  try:
    return json.dumps(value)
  except ValueError:  # too many digits, or a list in itself
    pass
  if isinstance(value, int):
    return str(decimal.Decimal(value))
  if isinstance(value, (list, tuple)):
    return f"[{', '.join(map(to_json, value))}]"
  if isinstance(value, dict):
    # A key is written as json.dumps does: as text, whatever it is.
    pairs = (
        f"{json.dumps({key: 0})[1:-4]}: {to_json(part)}"
        for key, part in value.items())
    return f"{{{', '.join(pairs)}}}"
  return json.dumps(value)


_AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _verdict(status: int) -> tuple[str, int]:
  """Splits a wait status into how a process ended, and with what."""
  if os.WIFSIGNALED(status):
    return "signal", os.WTERMSIG(status)
  return "exit", os.waitstatus_to_exitcode(status)


def _sealed(data: bytes) -> int:
  """Returns a descriptor, at its start, of an unchangeable file in memory."""
  import fcntl

  fd = os.memfd_create("input", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
  view = memoryview(data)
  while view:
    view = view[os.write(fd, view) :]
  os.lseek(fd, 0, os.SEEK_SET)
  seals = (
      fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
      | fcntl.F_SEAL_WRITE)
  fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
  return fd


def _map_users(pid: int) -> None:
  """Gives a new user namespace its users.

  Ours is nobody in there. If ours is root, root is mapped too, so that the
  jail may be built of files that only root can reach; the program itself is
  made nobody, outside as well: root's processes have no limit in number.
  """
  with contextlib.suppress(OSError):
    _write(f"/proc/{pid}/setgroups", "deny")
  for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
    path, alone = f"/proc/{pid}/{kind}_map", f"{NOBODY} {own} 1"
    try:
      both = f"0 0 1\n{NOBODY} {NOBODY} 1"
      _write(path, both if os.geteuid() == 0 else alone)
    except PermissionError:  # a root that is itself but a mapped user
      _write(path, alone)


def _write(path: str, text: str) -> None:
  """Writes to a file of the kernel, which takes it in one piece."""
  fd = os.open(path, os.O_WRONLY)
  try:
    os.write(fd, text.encode())
  finally:
    os.close(fd)


# ----- What the program needs of the machine -----

_EXTENSIONS = (
    "_bz2", "_ctypes", "_decimal", "_hashlib", "_lzma", "_sqlite3", "_ssl",
    "_uuid", "zlib")
_LOOK = f"""
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
  """Returns what the jail's root directory is made of.

  "binds" are paths shown for reading, "hidden" are directories in them that
  are shown empty, "links" are symbolic links.
  """
  done = subprocess.run(
      [_PYTHON, *_FLAGS, "-c", _LOOK],
      env=_ENVIRONMENT, cwd="/", capture_output=True, check=True, timeout=60)
  path, maps = json.loads(done.stdout)
  binds = [p for p in path if os.path.isdir(p)]
  binds = [p for p in binds if not any(p.startswith(f"{q}/") for q in binds)]
  packages = ("site-packages", "dist-packages")
  hidden = [f"{p}/{name}" for p in binds for name in packages]
  hidden = [p for p in hidden if os.path.isdir(p)]
  files = {"/etc/ld.so.cache"}
  for library in maps:
    if ".so" in os.path.basename(library):
      files |= _aliases(library)
  inside = tuple(f"{p}/" for p in binds)
  binds += sorted(
      f for f in files if os.path.isfile(f) and not f.startswith(inside))
  links = {
      p: os.readlink(p).strip("/") for p in ("/lib", "/lib64", "/bin")
      if os.path.islink(p)}
  return {"binds": binds, "hidden": hidden, "links": links}


def _aliases(library: str) -> set[str]:
  """Returns the names under which the loader may look for a library."""
  found = {library}
  stem = os.path.basename(library).partition(".so")[0].partition("-")[0]
  for folder in (os.path.dirname(library), "/lib64", "/usr/lib64", "/lib"):
    folder = os.path.realpath(folder)
    if not os.path.isdir(folder):
      continue
    for name in os.listdir(folder):
      path = f"{folder}/{name}"
      if name.startswith(stem) and os.path.realpath(path) == library:
        found.add(path)
  return found


def _bubblewrap(disk_mb: int) -> list[str]:
  """Returns the command that puts what follows it into a jail."""
  layout = _layout()
  words = [
      "bwrap", "--unshare-all", "--die-with-parent", "--new-session",
      "--as-pid-1", "--cap-drop", "ALL", "--clearenv",
      "--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "jail",
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


# ----- Which backend works -----

# Whether it is nobody, below the first process of its own namespace, sees the
# file that it is told of, sees a network, and may start a process.
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
  """Tries a backend, "namespaces" or "bubblewrap", on a real program.

  Raises:
    NoAnswer: it neither worked nor failed; trying again may tell.
  """
  if sys.platform != "linux":
    return Backend(name, 0, "it needs Linux")
  if name == "bubblewrap" and shutil.which("bwrap") is None:
    return Backend(name, 0, "bwrap is not installed")
  with tempfile.NamedTemporaryFile() as file:
    try:
      with Jail(
          _PROBE, time_limit_s=_START_S, backend=Backend(name, 0)) as jail:
        output = jail.call("look", [file.name])
      seen = json.loads(output.result)
    except NoAnswer:
      raise
    except (
        JailError, Refused, OSError, subprocess.SubprocessError) as error:
      return Backend(name, 0, str(error))
    except ValueError:
      return Backend(name, 0, output.stderr.strip()[-500:] or output.end)
  uid, parent, sees_file, nets, forks = seen
  if uid != NOBODY or parent != 1 or sees_file or nets:
    return Backend(name, 0, f"it does not isolate: {seen}")
  return Backend(name, 2 if forks else 3)


_best: Backend | None = None


def best() -> Backend:
  """Returns the first backend that works here, tried once per process.

  Without one, its grade is 0 and its reason says what each failed on.
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
  """Returns the backend to use, or raises Refused."""
  found = best()
  if found.grade:
    return found
  if allow_unsafe and sys.platform == "linux":
    return Backend("none", 1)
  raise Refused(
      f"no jail for programs can be set up here ({found.reason}). Install"
      " bubblewrap, or allow user namespaces (in a container, --security-opt"
      " seccomp=unconfined or --privileged; on Ubuntu, sysctl -w"
      " kernel.apparmor_restrict_unprivileged_userns=0). On a machine that has"
      " nothing to lose, allow_unsafe=True runs them unconfined."
  )
