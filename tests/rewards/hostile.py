"""Hostile programs, and the score that each must get.

A program is one of two kinds. Some try to get a reward that they did not
earn, or to take the verifier down: they score 0. The others try to reach what
is outside, and print what came of it: the expected output is that nothing
did, and they score 1. None may be masked.

As a script (PYTHONPATH at the package) it scores each of them, with an honest
program after it, and prints a JSON list of what went wrong.
"""

import contextlib
import json
import os
import socket
import sys
import tempfile
from typing import NamedTuple

from progrpo_jax.rewards import code, sandbox

# What the tests expect; a program that finds it anywhere prints it.
NEEDLE = "needle-0f1e2d3c4b5a6978"
ANSWER = [{"input": "", "output": NEEDLE}]
SEVEN = [{"args": [3, 4], "expected": 7}]


class Hostile(NamedTuple):
  group: int
  program: str
  tests: list
  reward: float
  entry_point: str | None = None
  needs: str = ""  # a grade or a backend, if it is held by that alone


def prints(text):
  return [{"input": "", "output": text}]


def fails(group, program, tests=ANSWER, entry_point=None):
  return Hostile(group, program, tests, 0.0, entry_point)


def is_held(group, program, tests, entry_point=None, needs=""):
  return Hostile(group, program, tests, 1.0, entry_point, needs)


SEARCH = r"""
import gc, re, sys
FORM = re.compile("needle" + "-[0-9a-f]{16}")
def look(text):
  if isinstance(text, (bytes, bytearray)):
    text = text.decode("latin-1")
  for found in FORM.findall(text):
    print(found)
    sys.stdout.flush()
"""

TRY = r"""
def refused(function, *args):
  try:
    result = function(*args)
  except (OSError, ValueError):
    return True
  return result == -1
"""

LIBC = """
import ctypes
libc = ctypes.CDLL(None)
"""

PROGRAMS = [
  fails(1, "while True: pass"),
  fails(2, "import time\ntime.sleep(1e6)"),
  fails(3, "import os\nwhile True: os.fork()"),
  fails(
    3,
    """
import os
while True:
  try:
    os.fork()
  except OSError:
    pass
""",
  ),
  fails(
    4,
    """
import threading, time
while True:
  try:
    threading.Thread(target=time.sleep, args=(1e6,)).start()
  except (RuntimeError, MemoryError):
    pass
""",
  ),
  is_held(
    4,
    """
import os, threading, time
threading.stack_size(1 << 16)
started = 0
try:
  while started < 500:
    threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
    started += 1
except RuntimeError:
  print(20 < started < 40, flush=True)
""",
    prints("True"),
  ),
  fails(5, "print(len(bytearray(1 << 36)))"),
  fails(5, "a = []\nwhile True: a.append(bytearray(1 << 20))"),
  is_held(
    5,
    """
import mmap
maps = []
try:
  while len(maps) < 100:
    maps.append(mmap.mmap(-1, 64 << 20))
except OSError:
  print(len(maps) < 8)
""",
    prints("True"),
  ),
  is_held(
    5,
    TRY
    + """
import os
print(refused(os.memfd_create, "x"))
"""
    + LIBC
    + """
print(libc.shmget(0, 1 << 30, 0o1777))
""",
    prints("True\n-1"),
    needs="grade 3",
  ),
  fails(6, "while True: print('needle-' * 1000)"),
  fails(6, "import sys\nwhile True: print('x' * 1000, file=sys.stderr)"),
  fails(
    6,
    """
import sys, threading
def write(file):
  while True:
    file.write("x" * 1000)
threading.Thread(target=write, args=(sys.stdout,)).start()
write(sys.stderr)
""",
  ),
  fails(7, "import os\nos._exit(0)"),
  fails(7, "import sys\nsys.exit(0)"),
  fails(7, "import os\ndef add(a, b): os._exit(0)", SEVEN, "add"),
  fails(7, "import sys\ndef add(a, b): sys.exit(0)", SEVEN, "add"),
  fails(7, "import sys\nsys.exit(0)", SEVEN, "add"),
  fails(
    8,
    """
import atexit, os
class Last:
  def __del__(self):
    raise SystemExit(0)
last = Last()
atexit.register(os._exit, 0)
raise KeyError
""",
  ),
  fails(
    9,
    """
class Same:
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  def __hash__(self): return 7
def add(a, b): return Same()
""",
    SEVEN,
    "add",
  ),
  fails(
    9,
    """
class Same(int):
  def __eq__(self, other): return True
  def __ne__(self, other): return False
  __hash__ = int.__hash__
def add(a, b): return Same(3)
""",
    SEVEN,
    "add",
  ),
  fails(
    9,
    """
class Same(str):
  def __eq__(self, other): return True
def add(a, b): return Same("x")
""",
    [{"args": [3, 4], "expected": "7"}],
    "add",
  ),
  fails(9, "def add(a, b): return True", SEVEN, "add"),
  fails(
    10,
    """
import builtins, json, sys
builtins.isinstance = lambda *a: True
builtins.sorted = lambda *a, **k: []
builtins.len = lambda x: 1
json.dumps = lambda *a, **k: "true"
sys.modules["json"] = sys
for name in list(sys.modules):
  if "jail" in name or "sandbox" in name:
    del sys.modules[name]
def add(a, b): return 0
""",
    SEVEN,
    "add",
  ),
  fails(
    10,
    """
import builtins
builtins.print = lambda *a, **k: None
print("x")
""",
  ),
  fails(
    11,
    SEARCH
    + """
frame = sys._getframe()
while frame:
  for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
    look(repr(value))
  frame = frame.f_back
for thing in gc.get_objects():
  look(repr(thing)[:10000])
for module in list(sys.modules.values()):
  look(repr(vars(module)))
""",
  ),
  fails(
    11,
    SEARCH
    + """
import __main__
def add(a, b):
  look(repr([vars(__main__), gc.get_objects()]))
  return 7 if "expected" in repr(vars(__main__)) else None
""",
    SEVEN,
    "add",
  ),
  fails(
    12,
    LIBC
    + SEARCH
    + """
import os
libc.prctl(4, 1, 0, 0, 0)
look(repr([sys.argv, dict(os.environ)]))
for pid in [p for p in os.listdir("/proc") if p.isdigit()] + ["self"]:
  for name in ("environ", "cmdline", "maps", "stack", "syscall"):
    try:
      look(open(f"/proc/{pid}/{name}", "rb").read())
    except OSError:
      pass
  try:
    fds = os.listdir(f"/proc/{pid}/fd")
  except OSError:
    fds = []
  for fd in fds:
    try:
      if fd not in "012":
        look(os.read(int(fd), 1 << 20))
    except OSError:
      pass
  try:
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
      for line in open(f"/proc/{pid}/maps"):
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        if "r" in line.split()[1] and high < 1 << 47:
          memory.seek(low)
          try:
            look(memory.read(min(high - low, 1 << 26)))
          except OSError:
            pass
  except OSError:
    pass
""",
  ),
  is_held(
    12,
    """
import os, sys
mine = {str(os.getpid()), "1"}
others = [p for p in os.listdir("/proc") if p.isdigit() and p not in mine]
print(sys.argv, dict(os.environ), others)
for name in ("environ", "mem", "maps", "fd", "root", "cwd", "exe"):
  path = f"/proc/1/{name}"
  try:
    os.listdir(path) if name in ("fd", "root", "cwd") else open(path).read()
    print("open:", name)
  except OSError:
    pass
""",
    prints("['program.py'] {} []"),
  ),
  is_held(
    13,
    """
for path in open(0).read().split():
  try:
    open(path, "rb").close()
    print("open:", path)
  except OSError:
    pass
print("end")
""",
    [{"input": "{paths}", "output": "end"}],
  ),
  is_held(
    13,
    """
import os
folders = ["/etc", "/root", "/home", "/var", "/run", "/sys", "/work", "/mnt"]
found = []
for folder in folders:
  for place, _, names in os.walk(folder):
    found += [f"{place}/{name}" for name in names]
allowed = ("/etc/ld.so.cache", "/rewards/jail.py")  # the latter in bubblewrap
print([f for f in found if "/lib/" not in f and not f.endswith(allowed)])
""",
    prints("[]"),
  ),
  is_held(
    14,
    """
import os
print(os.listdir("."))
for path in ("/etc/passwd", "../../../../etc/passwd", "/proc/1/root"):
  try:
    os.symlink(path, "link" + str(len(path)))
    print(len(open("link" + str(len(path))).read()))
  except OSError:
    pass
  try:
    os.link(path, "hard" + str(len(path)))
    print("linked")
  except OSError:
    pass
""",
    [{"input": "", "output": "[]"}] * 3,
  ),
  is_held(
    15,
    """
import json, socket
port, name = json.loads(input())
def reach(family, address):
  try:
    with socket.socket(family, socket.SOCK_STREAM) as s:
      s.settimeout(0.3)
      s.connect(address)
      print("reached", address)
  except (OSError, AttributeError):
    pass
reach(socket.AF_INET, ("127.0.0.1", port))
reach(socket.AF_INET6, ("::1", port))
reach(socket.AF_INET, ("169.254.169.254", 80))
reach(socket.AF_UNIX, name)
reach(socket.AF_VSOCK, (2, 1024))
for host in ("localhost", "metadata.google.internal"):
  try:
    socket.gethostbyname(host)
    print("resolved", host)
  except OSError:
    pass
try:
  socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("8.8.8.8", 53))
  print("sent")
except OSError:
  print("end")
""",
    [{"input": "{places}", "output": "end"}],
    needs="grade 3",
  ),
  is_held(
    16,
    """
import os, signal
for number in range(1, 65):
  try:
    os.kill(1, number)
    os.kill(os.getppid(), number)
  except OSError:
    pass
try:
  if os.getpgid(1):  # 0 is a group from outside, and would mean its own
    os.killpg(os.getpgid(1), 9)
except OSError:
  pass
try:
  os.kill(-1, signal.SIGKILL)
except OSError:
  pass
print("alive")
""",
    prints("alive") * 3,
  ),
  fails(16, "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
  fails(
    16,
    """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
for number in range(1, 64):
  try:
    signal.signal(number, signal.SIG_IGN)
  except (OSError, ValueError):
    pass
while True: pass
""",
  ),
  is_held(
    17,
    """
import os, sys, time
print("now", flush=True)
try:
  if not os.fork():
    os.setsid()
    if not os.fork():
      time.sleep(0.5)
      print("later", flush=True)
      time.sleep(1e6)
    os._exit(0)
except OSError:
  pass
""",
    prints("now") * 2,
  ),
  is_held(
    18,
    LIBC
    + """
libc.ptrace.restype = ctypes.c_long
print(libc.ptrace(16, 1, 0, 0), libc.ptrace(0x4206, 1, 0, 0))
class Vector(ctypes.Structure):
  _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
room = ctypes.create_string_buffer(16)
here = Vector(ctypes.addressof(room), 16)
print(libc.process_vm_readv(1, ctypes.byref(here), 1, ctypes.byref(here), 1, 0))
""",
    prints("-1 -1\n-1"),
  ),
  fails(18, "import ctypes\nctypes.string_at(0)"),
  is_held(
    19,
    """
import os
total = 0
try:
  for i in range(200):
    with open(f"file{i}", "wb", 0) as file:
      total += file.write(bytes(1 << 20))
except OSError:
  pass
print(total <= 16 << 20)
""",
    prints("True") * 2,
  ),
  is_held(
    19,
    """
made = 0
try:
  for made in range(10 ** 6):
    open(f"{made}", "w").close()
except OSError:
  print(made <= 1024)
""",
    prints("True") * 2,
    needs="namespaces",
  ),
  is_held(
    19,
    TRY
    + """
import os, resource
with open("sparse", "wb") as file:
  print(refused(os.truncate, "sparse", 1 << 40))
for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
  print(refused(resource.setrlimit, kind, (-1, -1)))
try:
  resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))
  print("changed")
except OSError:
  pass
""",
    prints("True\n" * 4) * 2,
  ),
  fails(
    20,
    """
print('{"ended": 0}')
print('{"reward": 1.0, "correct": true, "status": "ok"}')
print("[1.0, true, \\"ok\\"]")
""",
  ),
  fails(
    20,
    """
import os
for fd in range(1000):
  try:
    os.write(fd, b'{"ended": 0}\\n{"partial": ')
  except OSError:
    pass
os._exit(0)
""",
  ),
  fails(
    20,
    """
import os
def add(a, b):
  for fd in range(3, 1000):
    for text in (b'{"ended": 0}', b"true", b"[7"):
      try:
        os.write(fd, text)
      except OSError:
        pass
  os._exit(0)
""",
    SEVEN,
    "add",
  ),
  fails(20, "import os\nos.closerange(0, 1000)"),
  fails(
    20,
    """
import os
os.closerange(0, 3)
def add(a, b):
  while True:
    for fd in range(1000):
      try:
        os.write(fd, b"7" * 1000)
      except OSError:
        pass
""",
    SEVEN,
    "add",
  ),
  is_held(
    21,
    """
import threading, time
def on():
  while True:
    print("noise", flush=True)
    time.sleep(0.01)
def add(a, b):
  threading.Thread(target=on).start()
  return a + b
""",
    SEVEN * 2,
    "add",
  ),
  is_held(
    22,
    """
import os, sys
import random
print(random.__file__.startswith(sys.path[1]))
import json
print(json.__file__.startswith(sys.path[1]))
for name in ("json", "random", "os", "sitecustomize", "usercustomize"):
  with open(name + ".py", "w") as file:
    file.write("print('shadow')")
os.environ["PYTHONPATH"] = "/tmp"
""",
    prints("True\nTrue") * 2,
  ),
  is_held(
    23,
    LIBC
    + TRY
    + """
import os
print(libc.unshare(0x10000000), libc.unshare(0x20000))
print(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None))
print(libc.umount2(b"/tmp", 2))
print(refused(os.chroot, "/tmp"), refused(os.setuid, 0))
print(refused(os.setgid, 0), refused(os.setgroups, [0]))
print(refused(os.mknod, "disk", 0o60666, os.makedev(8, 0)))
print(refused(os.execv, "/bin/sh", ["sh"]))
for folder in ("/", "/dev", "/etc"):
  try:
    open(folder + "/new", "w")
    print("written")
  except OSError:
    pass
""",
    prints("-1 -1\n-1\n-1\nTrue True\nTrue True\nTrue\nTrue"),
  ),
  fails(
    24,
    """
import sys
sys.setrecursionlimit(10 ** 9)
def f(x): return [f(x)]
f(0)
""",
  ),
  fails(
    24,
    """
import sys, functools
sys.setrecursionlimit(10 ** 9)
class Deep:
  def __repr__(self): return repr(self)
repr(Deep())
""",
  ),
  fails(24, "import re\nre.match('(a+)+$', 'a' * 60 + 'b')"),
  fails(24, "x = 10 ** 10 ** 8\nprint(x % 7)"),
  fails(
    24,
    """
import sys
sys.set_int_max_str_digits(0)
print(str(1 << (1 << 27)))
""",
  ),
  fails(24, "def add(a, b): return 10 ** 10 ** 4", SEVEN, "add"),
  fails(
    24,
    """
def add(a, b):
  x = []
  for _ in range(10 ** 5):
    x = [x]
  return x
""",
    SEVEN,
    "add",
  ),
  fails(24, "x = " + "(" * 5000 + ")" * 5000),
  fails(24, "x = " + "-" * 100_000 + "1"),
  fails(25, "print('\\ud800', '\\0', '\\x1b[2J\\x1b]0;title\\a')"),
  fails(25, "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 99)"),
  fails(25, "print('\ud800')"),
  fails(25, "print('\0')"),
  fails(25, "raise KeyError('\\ud800\\0\\x1b[2J')"),
  is_held(
    26,
    TRY
    + """
import fcntl, termios
for fd in range(3):
  print(refused(fcntl.ioctl, fd, termios.TIOCSTI, b"x"))
print(refused(open, "/dev/tty"), refused(open, "/dev/console"))
""",
    prints("True\nTrue\nTrue\nTrue True"),
  ),
  fails(27, "while True: input()"),
  is_held(
    27,
    """
import sys
print(sys.stdin.read() + sys.stdin.read() + open(0).read())
""",
    [{"input": "one\ntwo", "output": "one\ntwo"}],
  ),
  fails(28, "def add(a, b): yield 7", SEVEN, "add"),
  fails(
    28,
    """
class Endless(list):
  def __iter__(self):
    while True: yield 7
def add(a, b): return Endless([7])
""",
    SEVEN,
    "add",
  ),
  fails(
    28,
    """
class Slow(dict):
  def items(self):
    while True: pass
def add(a, b): return Slow(x=7)
""",
    SEVEN,
    "add",
  ),
  fails(
    28,
    """
def add(a, b):
  x = [7]
  x.append(x)
  return x
""",
    SEVEN,
    "add",
  ),
]

HONEST = "a, b = map(int, input().split())\nprint(a + b)"
SUM = [{"input": "3 4\n", "output": "7\n"}, {"input": "1 1", "output": "2"}]


def fenced(program):
  return f"Here it is:\n```python\n{program}\n```\n"


@contextlib.contextmanager
def places():
  """What lies outside: listening sockets, and a file with the needle."""
  name = f"\0hostile-{os.getpid()}"
  with contextlib.ExitStack() as stack:
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    unix = stack.enter_context(socket.socket(socket.AF_UNIX))
    unix.bind(name)
    unix.listen()
    file = stack.enter_context(tempfile.NamedTemporaryFile())
    file.write(NEEDLE.encode())
    file.flush()
    paths = [
      file.name,
      __file__,
      code.__file__,
      "/etc/shadow",
      "/etc/passwd",
      "/root/.bashrc",
      "/proc/1/environ",
      "/proc/1/root/etc/passwd",
      "/proc/self/cwd/../etc/passwd",
      "/dev/mem",
      "/dev/kmsg",
      "/dev/sda",
    ]
    yield {
      "{paths}": "\n".join(paths),
      "{places}": json.dumps([tcp.getsockname()[1], name]),
    }


def tests_of(hostile, outside):
  """The tests of a program, told where things outside are."""
  return [
    {**test, "input": outside.get(test["input"], test["input"])}
    if "input" in test
    else test
    for test in hostile.tests
  ]


def scored(hostile, outside, **options):
  """The score of a hostile program."""
  return code.score(
    fenced(hostile.program),
    tests_of(hostile, outside),
    entry_point=hostile.entry_point,
    time_limit_s=10.0 if hostile.reward else 2.0,
    **options,
  )


def main():
  wrong = []
  best = sandbox.best()
  with places() as outside:
    for number, hostile in enumerate(PROGRAMS):
      if hostile.needs not in ("", best.name, f"grade {best.grade}"):
        continue
      found = scored(hostile, outside)
      right = (hostile.reward, hostile.reward == 1, "ok")
      following = code.score(fenced(HONEST), SUM, time_limit_s=10.0)
      if found != right or following != (1.0, True, "ok"):
        wrong.append([number, hostile.group, found, following])
  json.dump(wrong, sys.stdout)


if __name__ == "__main__":
  main()
