"""Server inside of a jail; `sandbox` runs this file as a script.

The server isolates itself, then runs one program as often as the parent asks.
Each run is a child process, forked from a server that has never loaded any of
the program's code. The child gets file descriptors for the program, its input
and its output, and nothing else: its copy of the channel to the parent is
closed, and what the parent compares the output with never enters the jail.

The server is the first process of its PID namespace, so no process in there
can kill, stop or trace it. It kills everything that a run leaves behind before
the next run. It ends when the channel closes, which happens when the parent
ends.

This is one long file because it cannot import other files of the project:
bubblewrap makes only this one visible.
"""

import atexit
import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import types

NOBODY = 65534  # same value as in sandbox.py; neither file can import the other
_LIBC = ctypes.CDLL(None, use_errno=True)

# Constants of mount(2), umount2(2), unshare(2) and prctl(2).
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_BIND, _REC, _PRIVATE = 0x1000, 0x4000, 0x40000
_DETACH = 2
_NAMESPACES = {
  "user": 0x10000000,
  "mount": 0x00020000,
  "pid": 0x20000000,
  "net": 0x40000000,
  "ipc": 0x08000000,
  "uts": 0x04000000,
  "cgroup": 0x02000000,
}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_CAPABILITIES = 0x20080522  # version of capset(2)'s header
_DEVICES = ("null", "zero", "full", "urandom", "random")


def main() -> None:
  """Isolates this process and serves; returns only in its children."""
  config = json.loads(sys.argv[1])
  control = socket.socket(fileno=config.pop("control"))
  try:
    if config["mode"] == "namespaces":
      _unshare(control)
      _move_in(config)
    elif config["mode"] == "none":
      _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The first process of a namespace is immune to signals that it does not
    # handle, and Python handles SIGINT by default.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _prctl(_PR_SET_DUMPABLE, 0)
  except OSError as error:
    control.send(json.dumps({"failed": str(error)}).encode())
    os._exit(1)
  names = _published() if config["published_names"] else {}
  gc.freeze()  # children need not collect objects that exist already
  control.send(b'{"ready": true}')
  request, fds, failure = serve(control, config)
  run(request, fds, failure, config, names)


# ----- Isolation -----


def _check(result: int, what: str) -> int:
  """Returns the result of a libc call; raises OSError if it failed.

  Args:
    result: return value, negative on failure.
    what: description of the call, for the message.
  """
  if result < 0:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
  return result


def _prctl(option: int, *values: int) -> int:
  """Calls prctl(2), with zeros for missing arguments."""
  words = [ctypes.c_ulong(v) for v in (*values, 0, 0, 0, 0)[:4]]
  return _check(_LIBC.prctl(option, *words), f"prctl {option}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = ""):
  """Calls mount(2)."""
  texts = [text.encode() for text in (source, target, kind)]
  result = _LIBC.mount(*texts, ctypes.c_ulong(flags), data.encode())
  _check(result, f"mount of {source} on {target}")


def _unshare(control: socket.socket) -> None:
  """Enters new namespaces; returns in the first process in them.

  The parent maps users in between, which a process cannot do for itself.
  """
  _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  with contextlib.suppress(OSError):  # only root may
    os.setgroups([])
  with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as f:
    f.write("1000")  # the first to be killed if the machine runs out of memory
  flags = 0
  for flag in _NAMESPACES.values():
    flags |= flag
  _check(_LIBC.unshare(flags), f"unshare of {', '.join(_NAMESPACES)}")
  control.send(b'{"unshared": true}')
  if control.recv(16) != b"mapped":
    os._exit(1)
  # A new PID namespace takes effect for children only.
  child = os.fork()
  if child:
    control.close()
    os.waitpid(child, 0)
    os._exit(0)
  # If the parent has died before this line, the channel is closed and the
  # server ends at its first read.
  _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _move_in(config: dict) -> None:
  """Builds a root directory with what the program needs and moves to it."""
  _mount("none", "/", "", _REC | _PRIVATE)
  # Sources are opened first, since mounting the new root may hide their paths.
  devices = [f"/dev/{name}" for name in _DEVICES]
  sources = {p: os.open(p, os.O_PATH) for p in [*config["binds"], *devices]}
  root = next(d for d in ("/tmp", "/mnt", "/var") if os.path.isdir(d))
  _mount("tmpfs", root, "tmpfs", _NOSUID, "size=1m,nr_inodes=2k,mode=755")
  for name in ("proc", "dev", "tmp"):
    os.mkdir(f"{root}/{name}")
  for link, target in config["links"].items():
    os.makedirs(os.path.join(root, target), exist_ok=True)
    os.symlink(target, root + link)
  for path, fd in sources.items():
    _bind(fd, root + path)
    os.close(fd)
  # An empty directory on top of each hidden one, then the rest of /dev.
  for path in config["hidden"]:
    _mount("tmpfs", root + path, "tmpfs", _RDONLY, "size=4k")
  for name, target in (
    ("shm", "/tmp"),
    ("fd", "/proc/self/fd"),
    *((n, f"/proc/self/fd/{i}") for i, n in enumerate(_STREAMS)),
  ):
    os.symlink(target, f"{root}/dev/{name}")
  _mount_proc(f"{root}/proc", config)
  # Swap the roots, detach the old one, and make the new one read-only.
  os.chdir(root)
  _check(_LIBC.pivot_root(b".", b"."), "pivot_root")
  _check(_LIBC.umount2(b".", _DETACH), "umount of the old root")
  os.chdir("/")
  _mount("tmpfs", "/", "", _REMOUNT | _BIND | _RDONLY | _NOSUID)
  socket.sethostname("jail")


def _mount_proc(target: str, config: dict) -> None:
  """Mounts /proc at target, restricted to processes if the kernel can.

  Sets config["last_pid"] to a descriptor of the file with the last process id,
  if it can be opened.
  """
  flags = _NOSUID | _NODEV | _NOEXEC
  with contextlib.suppress(OSError):  # containers may forbid /proc; not needed
    _mount("proc", target, "proc", flags)
    with open(f"{target}/sys/user/max_user_namespaces", "w") as file:
      file.write("0")
    with contextlib.suppress(OSError):
      config["last_pid"] = os.open(
        f"{target}/sys/kernel/ns_last_pid", os.O_WRONLY
      )
    # Mounted again without the machine's load, memory and keys.
    _check(_LIBC.umount2(target.encode(), _DETACH), "umount of /proc")
    try:
      _mount("proc", target, "proc", flags, "subset=pid")
    except OSError:  # Linux before 5.8
      _mount("proc", target, "proc", flags)


_STREAMS = ("stdin", "stdout", "stderr")


def _bind(fd: int, target: str) -> None:
  """Mounts an opened file or directory at target, read-only."""
  source = f"/proc/self/fd/{fd}"
  if os.path.isdir(source):
    os.makedirs(target, exist_ok=True)
  else:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
  _mount(source, target, "", _BIND | _REC)
  # A remount must keep the restrictions of the original mount.
  kept = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)
  _mount("none", target, "", _REMOUNT | _BIND | _RDONLY | _NOSUID | kept)


# ----- Serving -----


def serve(control: socket.socket, config: dict) -> tuple[dict, list[int], int]:
  """Forks a child for each request; returns only in the children.

  Returns:
    (request, descriptors of the run, descriptor for a failure message). The
    program runs only after the child has closed the last one, that is, after
    all restrictions are in place.
  """
  while True:
    message, fds, _, _ = socket.recv_fds(control, 1 << 16, 8)
    if not message:
      os._exit(0)
    if not fds:
      continue  # a "kill" that arrived after the run had ended
    _empty(config)
    if "last_pid" in config:
      # The next id is 2, so that a program cannot tell how many ran before.
      with contextlib.suppress(OSError):
        os.pwrite(config["last_pid"], b"1", 0)
    failure, failure_in = os.pipe()
    child = os.fork()
    if not child:
      os.close(control.detach())
      os.close(failure)
      return json.loads(message), fds, failure_in
    for fd in (*fds, failure_in):
      os.close(fd)
    status = _wait(child, control)
    _kill_rest(child, config)
    reason = os.read(failure, 1 << 10).decode()
    os.close(failure)
    answer = {"failed": reason} if reason else {"ended": status}
    control.send(json.dumps(answer).encode())


def _wait(child: int, control: socket.socket) -> int:
  """Waits until a child ends, or kills it on request; returns its status."""
  pidfd = os.pidfd_open(child)
  poller = select.poll()
  poller.register(pidfd, select.POLLIN)
  poller.register(control, select.POLLIN)
  while True:
    ready = {fd for fd, _ in poller.poll()}
    if pidfd in ready:
      os.close(pidfd)
      return os.waitpid(child, 0)[1]
    message = control.recv(16)
    os.kill(child, signal.SIGKILL)
    if not message:  # the parent is gone
      os._exit(0)


def _kill_rest(child: int, config: dict) -> None:
  """Kills and reaps the processes that a run leaves behind."""
  with contextlib.suppress(ProcessLookupError):
    if config["mode"] == "none":
      os.killpg(child, signal.SIGKILL)
    else:
      os.kill(-1, signal.SIGKILL)
  with contextlib.suppress(ChildProcessError):
    while True:
      os.waitpid(-1, 0)
  if config["mode"] == "bubblewrap" and not config["filter"]:
    remove_ipc()


def remove_ipc() -> None:
  """Removes the System V objects of the namespace, if permitted."""
  for name, arguments in (
    ("shm", (_IPC_RMID, None)),
    ("msg", (_IPC_RMID, None)),
    ("sem", (0, _IPC_RMID)),
  ):
    control = getattr(_LIBC, f"{name}ctl")
    with contextlib.suppress(OSError), open(f"/proc/sysvipc/{name}") as table:
      for line in table.readlines()[1:]:
        control(int(line.split()[1]), *arguments)


_IPC_RMID = 0


def _empty(config: dict) -> None:
  """Gives the next run an empty directory to work in."""
  if config["mode"] == "namespaces":
    _LIBC.umount2(b"/tmp", _DETACH)  # fails before the first run
    size = f"size={config['disk_mb']}m,nr_inodes=1k,mode=1777"
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, size)
    return
  import shutil  # slow to import, and only needed here

  for entry in os.scandir(config["tmp"]):
    if entry.is_dir(follow_symlinks=False):
      shutil.rmtree(entry.path, ignore_errors=True)
    else:
      with contextlib.suppress(OSError):
        os.unlink(entry.path)


# ----- A run -----

# Modules that the published graders of LiveCodeBench and APPS import with a
# star. If two modules share a name, the later one wins.
_STARS = (
  "string",
  "re",
  "datetime",
  "collections",
  "heapq",
  "bisect",
  "copy",
  "math",
  "random",
  "statistics",
  "itertools",
  "functools",
  "operator",
  "io",
  "sys",
  "json",
  "typing",
)
_RECURSION = 50_000  # recursion limit that those graders set


def _published() -> dict[str, object]:
  """Returns the names that the published graders define for a program."""
  names: dict[str, object] = {}
  for module in _STARS:
    exec(f"from {module} import *", names)
  for module in _STARS:
    exec(f"import {module}", names)
  del names["__builtins__"]
  return names


def run(
  request: dict, fds: list[int], failure: int, config: dict, names: dict
) -> None:
  """Runs the program in this process; never returns.

  Args:
    request: "entry_point", the function to call or None, and "cpu_s".
    fds: descriptors of program, input, stdout, stderr, and of the result for a
      call.
    failure: descriptor for a message if a restriction fails. The program does
      not run then.
    config: configuration of the jail.
    names: names to define for the program.
  """
  program, stdin, out, err, *result = fds
  # The file has the prelude's length, a newline, the prelude, the program.
  size, _, text = _slurp(program).partition(b"\n")
  sources = [
    part.decode("utf-8", "surrogatepass")
    for part in (text[: int(size)], text[int(size) :])
  ]
  args = None
  if result:
    args = json.loads(_slurp(stdin))
    stdin = os.open(os.devnull, os.O_RDONLY)
  # Standard streams in place; all other descriptors closed but the result's
  # and the failure's.
  for number, fd in enumerate((stdin, out, err)):
    os.dup2(fd, number)
  first = 3
  for kept in (*sorted((*result, failure)), 1 << 16):
    os.closerange(first, kept)
    first = kept + 1
  os.setsid()
  try:
    os.chdir(config["tmp"])
    _drop(config, request["cpu_s"])
  except (OSError, ValueError) as error:
    os.write(failure, str(error).encode()[: 1 << 10])
    os._exit(1)
  os.close(failure)
  os.environ.clear()
  sys.argv[:] = ["program.py"]
  _streams()
  _define(names)
  code = 0
  try:
    if result:
      _call(sources, request["entry_point"], args, result[0])
    _execute(sources, "__main__")
  except SystemExit as error:
    code = _exit_code(error.code)
  except BaseException:
    sys.excepthook(*sys.exc_info())
    code = 1
  _leave(code)


def _exit_code(value: object) -> int:
  """Returns the exit code of sys.exit(value); prints a message, as Python."""
  if value is None or isinstance(value, int):
    return int(value or 0) & 0xFF
  print(value, file=sys.stderr)
  return 1


def _leave(code: int) -> None:
  """Ends as Python does, but skips the slow release of all memory."""
  if "threading" in sys.modules:
    sys.modules["threading"]._shutdown()
  atexit._run_exitfuncs()
  _flush()
  os._exit(code)


def _flush() -> None:
  """Flushes the standard streams, also the original stdout if replaced."""
  for file in (sys.stdout, sys.__stdout__, sys.stderr):
    with contextlib.suppress(Exception):  # closed, full, or not a file
      file.flush()


def _slurp(fd: int) -> bytes:
  """Reads a descriptor to its end."""
  with open(fd, "rb", closefd=False) as file:
    return file.read()


def _drop(config: dict, cpu_s: int) -> None:
  """Gives up privileges and limits resources, irreversibly.

  Args:
    config: configuration of the jail.
    cpu_s: limit on CPU seconds.

  Raises:
    OSError, ValueError: a restriction that the grade promises failed.
  """
  limit = resource.setrlimit
  for name, value in (
    ("CORE", 0),
    ("NOFILE", 64),
    ("CPU", cpu_s),
    ("STACK", 64 << 20),
    ("MSGQUEUE", 0),
    ("MEMLOCK", 0),
    ("FSIZE", config["disk_mb"] << 20),
    ("NPROC", config["processes"]),
    ("AS", config["memory_mb"] << 20),
  ):
    kind = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
      value = min(value, hard)
    limit(kind, (value, value))
  if config["mode"] == "namespaces":
    if not config["filter"]:
      # System V objects then disappear with the last process of the run.
      _check(_LIBC.unshare(_NAMESPACES["ipc"]), "unshare of ipc")
    with contextlib.suppress(OSError):  # raised after the last capability
      for capability in range(64):
        _prctl(_PR_CAPBSET_DROP, capability)
    if os.getuid() == 0:
      os.setresgid(NOBODY, NOBODY, NOBODY)
      os.setresuid(NOBODY, NOBODY, NOBODY)
    head = struct.pack("=Ii", _CAPABILITIES, 0)
    _check(_LIBC.capset(head, bytes(24)), "capset")
  _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  _prctl(_PR_SET_NO_NEW_PRIVS, 1)
  if config["filter"]:
    try:
      _filter()
    except OSError:
      # A probe (grade 0) continues and finds that there is no filter.
      if config["grade"] == 3:
        raise
  elif config["mode"] != "none":
    _forget_keys()


def _forget_keys() -> None:
  """Empties the keyrings of a run that no filter keeps from using them.

  The user's keyrings belong to the jail's user namespace, so only earlier runs
  can have written to them. The session keyring is the caller's and is replaced
  by a new one.
  """
  machine = os.uname().machine
  if machine not in _MACHINES:
    return
  call = _REFUSED["keyctl"][_MACHINES[machine][0]]
  _LIBC.syscall(call, _KEYS_JOIN, None)
  # Errors are ignored: a keyring may not exist, nor keyrings in the kernel.
  persistent = _LIBC.syscall(call, _KEYS_PERSISTENT, -1, _KEYS_OF_PROCESS)
  for ring in (*_KEYS_OF_USER, persistent):
    _LIBC.syscall(call, _KEYS_CLEAR, ring)


_KEYS_JOIN, _KEYS_CLEAR, _KEYS_PERSISTENT = 1, 7, 22  # of keyctl(2)
_KEYS_OF_PROCESS, _KEYS_OF_USER = -2, (-4, -5)


def _streams() -> None:
  """Reopens the standard streams on their new descriptors."""
  options = dict(encoding="utf-8", errors="surrogateescape", closefd=False)
  sys.stdin = sys.__stdin__ = open(0, **options)
  sys.stdout = sys.__stdout__ = open(1, "w", **options)
  sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, **options)


def _define(names: dict[str, object]) -> None:
  """Defines names for the program as builtins, which it may redefine.

  Compared with imports in front of its source, this keeps its `from __future__`
  imports, docstring, line numbers and globals as they are, and the function
  that the tests call is never one of these names.
  """
  import _sitebuiltins
  import builtins

  for name in ("exit", "quit"):  # normally from site.py, which is not loaded
    setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
  for name, value in names.items():
    builtins.__dict__.setdefault(name, value)
  sys.setrecursionlimit(_RECURSION)


def _execute(sources: list[str], name: str) -> dict:
  """Executes a prelude and the program in one module; returns its globals.

  They are compiled separately, but the prelude's imports from __future__ also
  apply to the program.
  """
  import __future__

  module = types.ModuleType(name)
  sys.modules[name] = module
  features = [getattr(__future__, f) for f in __future__.all_feature_names]
  flags = 0
  for source, file in zip(sources, ("prelude.py", "program.py"), strict=True):
    code = compile(source, file, "exec", flags, dont_inherit=True)
    for feature in features:
      flags |= code.co_flags & feature.compiler_flag
    module.__doc__ = None
    exec(code, module.__dict__)
  return module.__dict__


_PLAIN = {type(None), bool, int, float, str}
_DEPTH = 1000  # nesting of a value; the parent accepts less


def _plain(value: object, depth: int = 0) -> object:
  """Converts a value to JSON types by its built-in base type.

  Only methods of built-in types are called, never those of a class that the
  program defines. Tuples, ranges, deques, arrays and views of dicts become
  lists. Sets and generators are refused. A Decimal or a Fraction becomes an
  integer or the nearest float.

  Raises:
    TypeError, ArithmeticError, ValueError: JSON cannot express the value.
  """
  import array
  import collections
  import decimal
  import fractions

  if depth > _DEPTH:
    raise TypeError("the value nests too deep")
  kind = type(value)
  if kind in _PLAIN:
    return value
  for base, copy in ((int, int.__pos__), (float, float.__pos__)):
    if issubclass(kind, base):
      return copy(value)
  if issubclass(kind, str):
    return str.__add__(value, "")
  for base in (decimal.Decimal, fractions.Fraction):
    if issubclass(kind, base):
      over, under = base.as_integer_ratio(value)
      near = over if under == 1 else over / under
      if under != 1 and near.is_integer():
        raise TypeError("no float is near enough to tell it from an integer")
      return near
  # OrderedDict's views come first, since they subclass a dict's views but
  # iterate in another order.
  ordered, plain = collections.OrderedDict(), {}
  views = [
    type(view)
    for mapping in (ordered, plain)
    for view in (mapping.keys(), mapping.values(), mapping.items())
  ]
  for base in (list, tuple, range, collections.deque, array.array, *views):
    if issubclass(kind, base):
      parts = list(base.__iter__(value))
      # Shortcut for long flat lists.
      if set(map(type, parts)) <= _PLAIN:
        return parts
      return [_plain(part, depth + 1) for part in parts]
  if issubclass(kind, dict):
    return {
      _plain(key, depth + 1): _plain(part, depth + 1)
      for key, part in dict.items(value)
    }
  raise TypeError(f"a {kind.__name__} is returned, which JSON cannot express")


def _call(
  sources: list[str], entry_point: str, args: list, result: int
) -> None:
  """Calls a function of the program and writes its value as JSON.

  Args:
    sources: prelude and program.
    entry_point: name of a function or of a method of the class Solution.
    args: arguments.
    result: descriptor to write to.
  """
  names = _execute(sources, "program")
  # The method wins, since a helper or an import may have the same name.
  solution = names.get("Solution")
  if isinstance(solution, type) and (
    hasattr(solution, entry_point) or entry_point not in names
  ):
    function = getattr(solution(), entry_point)
  else:
    function = names[entry_point]
  data = json.dumps(_plain(function(*args))).encode()
  while data:
    data = data[os.write(result, data) :]
  _flush()
  os._exit(0)  # without waiting for threads


# ----- The filter of system calls -----

# Refused calls: name -> number on x86_64 and on aarch64, -1 if it does not
# exist. They start processes and programs, use memory that RLIMIT_AS does not
# count, act on other processes, or reach parts of the kernel that programs of
# this kind do not need.
_REFUSED = {
  "fork": (57, -1),
  "vfork": (58, -1),
  "execve": (59, 221),
  "execveat": (322, 281),
  "memfd_create": (319, 279),
  "memfd_secret": (447, 447),
  "shmget": (29, 194),
  "shmat": (30, 196),
  "shmctl": (31, 195),
  "semget": (64, 190),
  "semop": (65, 193),
  "semtimedop": (220, 192),
  "semctl": (66, 191),
  "msgget": (68, 186),
  "msgsnd": (69, 189),
  "msgrcv": (70, 188),
  "msgctl": (71, 187),
  "mq_open": (240, 180),
  "mq_unlink": (241, 181),
  "ptrace": (101, 117),
  "process_vm_readv": (310, 270),
  "process_vm_writev": (311, 271),
  "process_madvise": (440, 440),
  "kcmp": (312, 272),
  "pidfd_open": (434, 434),
  "pidfd_getfd": (438, 438),
  "pidfd_send_signal": (424, 424),
  "move_pages": (279, 239),
  "migrate_pages": (256, 238),
  "mbind": (237, 235),
  "set_mempolicy": (238, 237),
  "unshare": (272, 97),
  "setns": (308, 268),
  "chroot": (161, 51),
  "pivot_root": (155, 41),
  "mount": (165, 40),
  "umount2": (166, 39),
  "open_tree": (428, 428),
  "move_mount": (429, 429),
  "fsopen": (430, 430),
  "fsconfig": (431, 431),
  "fsmount": (432, 432),
  "fspick": (433, 433),
  "mount_setattr": (442, 442),
  "name_to_handle_at": (303, 264),
  "open_by_handle_at": (304, 265),
  "fanotify_init": (300, 262),
  "quotactl": (179, 60),
  "swapon": (167, 224),
  "acct": (163, 89),
  "bpf": (321, 280),
  "perf_event_open": (298, 241),
  "userfaultfd": (323, 282),
  "io_uring_setup": (425, 425),
  "io_uring_enter": (426, 426),
  "io_uring_register": (427, 427),
  "keyctl": (250, 219),
  "add_key": (248, 217),
  "request_key": (249, 218),
  "init_module": (175, 105),
  "finit_module": (313, 273),
  "kexec_load": (246, 104),
  "kexec_file_load": (320, 294),
  "personality": (135, 92),
  "iopl": (172, -1),
  "ioperm": (173, -1),
  "modify_ldt": (154, -1),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_SOCKET, _PRLIMIT = (41, 198), (302, 261)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# Instructions, offsets and results of a seccomp filter.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD, _AF_UNIX = 0x10000, 1


def _filter() -> None:
  """Installs the filter; raises OSError if the system has none."""
  machine = os.uname().machine
  if machine not in _MACHINES:
    raise OSError(f"no filter for {machine}")
  code = b"".join(struct.pack("=HBBI", *line) for line in rules(machine))
  lines = ctypes.create_string_buffer(code, len(code))

  class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]

  program = Program(len(code) // 8, ctypes.addressof(lines))
  _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(program))


def rules(machine: str) -> list[tuple[int, int, int, int]]:
  """Returns the filter as BPF instructions.

  Each is (code, skip if true, skip if false, value), where a skip is the number
  of instructions to jump over.
  """
  column, number = _MACHINES[machine]
  refuse, allow = (_RETURN, 0, 0, _ERROR | _EPERM), (_RETURN, 0, 0, _ALLOW)
  lines = [
    (_LOAD, 0, 0, _MACHINE),
    (_EQUAL, 1, 0, number),
    (_RETURN, 0, 0, _KILL),
    (_LOAD, 0, 0, _NUMBER),
  ]
  if machine == "x86_64":  # numbers of the x32 ABI begin at 0x40000000
    lines += [(_AT_LEAST, 0, 1, 0x40000000), refuse]
  for call in _REFUSED.values():
    if call[column] >= 0:
      lines += [(_EQUAL, 0, 1, call[column]), refuse]
  # A filter cannot read clone3's flags. ENOSYS makes libc use clone instead.
  lines += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERROR | _ENOSYS)]
  for call, test, value in (
    (_CLONE, _ANY_BIT, _CLONE_THREAD),  # threads but no processes
    (_SOCKET, _EQUAL, _AF_UNIX),
    (_PRLIMIT, _EQUAL, 0),  # the process's own limits, not the server's
  ):
    lines += [
      (_EQUAL, 0, 4, call[column]),
      (_LOAD, 0, 0, _FIRST_ARGUMENT),
      (test, 0, 1, value),
      allow,
      refuse,
    ]
  return [*lines, allow]


if __name__ == "__main__":
  main()
