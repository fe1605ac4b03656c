"""The jail: what it gives back, what it holds, what it leaves behind."""

import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest

from progrpo_jax.rewards import code, sandbox
from progrpo_jax.rewards import jail as inside
from progrpo_jax.rewards import pool as pools

ROOT = pathlib.Path(sandbox.__file__).resolve().parents[2]
BEST = sandbox.best()
needs_jail = pytest.mark.skipif(
  not BEST.grade, reason=f"no isolation here: {BEST.reason}"
)


def open_jail(program, **options):
  return sandbox.Jail(program, **{"time_limit_s": 20.0} | options)


def run(program, stdin="", **options):
  with open_jail(program, **options) as jail:
    return jail.run(stdin)


def marked(memory_mb):
  """Ids of the processes of jails with this limit, which serves as a mark."""
  found = []
  for folder in pathlib.Path("/proc").iterdir():
    if folder.name.isdigit():
      try:
        line = (folder / "cmdline").read_bytes()
      except OSError:
        continue
      if f'"memory_mb": {memory_mb},'.encode() in line:
        found.append(int(folder.name))
  return found


@pytest.fixture
def mark():
  """A memory limit that no other jail on this machine has."""
  return random.SystemRandom().randrange(1 << 20, 1 << 30)


def wait_until(condition, seconds=20):
  end = time.monotonic() + seconds
  while not condition() and time.monotonic() < end:
    time.sleep(0.05)
  assert condition()


# ----- What a run gives back -----


@needs_jail
def test_output_golden():
  program = "import sys\nprint(input()[::-1])\nprint('x', file=sys.stderr)"
  assert run(program, "abc\n") == ("exit", 0, "cba\n", "x\n", "")
  assert run("exit(3)")[:2] == ("exit", 3)
  assert run("import sys\nsys.exit('why')") == ("exit", 1, "", "why\n", "")
  assert run("import os\nos.abort()")[:2] == ("signal", signal.SIGABRT)
  error = run("x = 1\nx / 0")
  assert error[:3] == ("exit", 1, "")
  assert 'File "program.py", line 2' in error.stderr
  assert "ZeroDivisionError" in error.stderr
  assert "SyntaxError" in run("x = (").stderr


@needs_jail
@pytest.mark.parametrize(
  "program, output",
  [
    ("import io, sys\nprint(1)\nsys.stdout = io.StringIO()\nprint(2)", "1\n"),
    ("import sys\nprint(1)\nsys.stdout.close()", "1\n"),
    ("import sys\nprint(1)\nsys.stdout = None", "1\n"),
    ("import atexit\natexit.register(print, 2)\nprint(1)", "1\n2\n"),
    ("import os\nprint(1)\nos._exit(0)", ""),
    ("import sys\nsys.exit(False)", ""),
    ("import sys\nsys.exit(256)", ""),
  ],
)
def test_ends_as_python_does(program, output):
  assert run(program) == ("exit", 0, output, "", "")
  own = subprocess.run(
    [sys.executable, "-I", "-c", program], capture_output=True, text=True
  )
  assert (own.returncode, own.stdout) == (0, output)


@needs_jail
def test_call_golden():
  program = """
def f(*a): return a, None, 'é'
class Solution:
  def g(self, a, b): return {a: b}
if __name__ == "__main__":
  input("a demonstration, which is not asked for")
"""
  with open_jail(program) as jail:
    value = json.loads(jail.call("f", [1, "x"]).result)
    assert value == [[1, "x"], None, "é"]
    assert jail.call("g", ["a", [1.5]]).result == '{"a": [1.5]}'
    missing = jail.call("h", [])
    assert (missing.end, missing.code, missing.result) == ("exit", 1, "")
    assert "has no attribute 'h'" in missing.stderr
    set_ = jail.call("f", [[]])
    assert (set_.end, set_.code) == ("exit", 0)
  with open_jail("def f(): return {1}") as jail:
    assert jail.call("f", []).result == ""


@needs_jail
def test_undecodable_output_is_replaced():
  program = "import sys\nsys.stdout.buffer.write(b'a\\xff\\0\\x1bb')"
  assert run(program).stdout == "a\ufffd\0\x1bb"


@needs_jail
@pytest.mark.parametrize(
  "program",
  [
    "while True: pass",
    "import time\ntime.sleep(1e6)",
    "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "import os, time\nos.closerange(0, 100)\ntime.sleep(1e6)",
  ],
)
def test_timeout_ends_a_run_but_not_the_jail(program):
  program = textwrap.indent(program, "  ")
  program = f"if input() == 'hang':\n{program}\nprint('fine')"
  with open_jail(program) as jail:
    assert jail.run("hang", limit_s=0.5).end == "timeout"
    assert jail.run("go") == ("exit", 0, "fine\n", "", "")
    assert jail.run("hang", limit_s=0.5).end == "timeout"
    assert jail.run("go").stdout == "fine\n"


@needs_jail
def test_the_time_limit_is_for_all_runs():
  with open_jail("while True: pass", time_limit_s=1.0) as jail:
    start = time.monotonic()
    ends = {jail.run("").end for _ in range(50)}
    assert ends == {"timeout"}
    # A second for each of them would be 50.
    assert time.monotonic() - start < 25


@needs_jail
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_capped_while_it_comes(stream):
  program = (
    "import sys\nif input():\n  while True:\n"
    f"    sys.{stream}.write('ab' * 500)\nprint('fine')"
  )
  with open_jail(program) as jail:
    flood = jail.run("x", max_output=1001)
    assert flood.end == "flood"
    if stream == "stdout":
      assert flood.stdout == ("ab" * 501)[:1001]
    assert jail.run("\n").stdout == "fine\n"


@needs_jail
def test_every_run_starts_afresh():
  program = """
import builtins, os
print(os.listdir("."), hasattr(builtins, "seen"))
builtins.seen = True
open("file", "w").close()
os.makedirs("a/b/c")
os.symlink("/", "a/link")
os.chmod("a", 0)
"""
  with open_jail(program) as jail:
    assert {jail.run("").stdout for _ in range(3)} == {"[] False\n"}


@needs_jail
def test_sets_have_one_order():
  program = "print({str(i) for i in range(99)})"
  assert run(program).stdout == run(program).stdout


@needs_jail
def test_the_standard_library_is_there_and_no_more():
  modules = (
    "asyncio bisect collections ctypes datetime decimal fractions functools"
    " hashlib heapq itertools json math random re statistics string"
    " threading typing zlib bz2 lzma sqlite3 ssl uuid"
  ).split()
  known = [name for name in modules if __import__(name)]
  program = f"""
import importlib
for name in {known + ["numpy", "pip", "progrpo_jax", "site_packages"]}:
  try:
    importlib.import_module(name)
    print(name)
  except ImportError:
    pass
"""
  assert run(program).stdout.split() == known


@needs_jail
def test_threads_that_are_not_joined_finish():
  program = (
    "import sys, threading\nsys.setrecursionlimit(10**6)\n"
    "threading.stack_size(1 << 26)\n"
    "def f(n): return n and 1 + f(n - 1)\n"
    "threading.Thread(target=lambda: print(f(50000))).start()"
  )
  assert run(program).stdout == "50000\n"


@needs_jail
def test_memory_limit_is_the_callers():
  program = "print(len(bytearray(200 << 20)))"
  assert "MemoryError" in run(program, memory_mb=128).stderr
  assert run(program, memory_mb=512).stdout == f"{200 << 20}\n"


@needs_jail
def test_jails_beside_each_other_share_no_limit():
  bomb = """
import threading, time
n = 0
try:
  while True:
    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    n += 1
except RuntimeError:
  print(n, flush=True)
  time.sleep(2)
"""
  many = (
    bomb.replace("while True", "for _ in range(20)")
    + """
else:
  print(n)
"""
  )
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    found = list(threads.map(run, [bomb, bomb, many, many]))
  counts = [int(output.stdout) for output in found]
  assert counts[2:] == [20, 20]
  assert all(20 < n < 40 for n in counts[:2])


@needs_jail
def test_long_inputs_that_nobody_reads_do_no_harm():
  text = "x" * (1 << 23)
  assert run("print(1)", text).stdout == "1\n"
  assert run("print(len(input()))", text).stdout == f"{1 << 23}\n"


# ----- What is left behind -----


@needs_jail
def test_no_process_stays_behind(mark):
  program = """
import os, time
for _ in range(3):
  try:
    if not os.fork():
      os.setsid()
      time.sleep(1e6)
  except OSError:
    pass
if input(): time.sleep(1e6)
"""
  with pytest.raises(KeyError):
    with open_jail(program, memory_mb=mark) as jail:
      assert jail.run("\n").end == "exit"
      assert len(marked(mark)) == 2  # the jail and its first process
      jail.run("x", limit_s=0.3)
      raise KeyError
  assert marked(mark) == []
  jail.close()


RUNS_FOREVER = """
import sys
from progrpo_jax.rewards import sandbox
with sandbox.Jail("while True: pass", time_limit_s=999, memory_mb={}) as jail:
  jail.run("")
"""


@needs_jail
def test_jails_end_when_their_parent_is_killed(mark):
  parent = subprocess.Popen(
    [sys.executable, "-c", RUNS_FOREVER.format(mark)], cwd=ROOT
  )
  wait_until(lambda: len(marked(mark)) == 3)
  parent.kill()
  parent.wait()
  wait_until(lambda: not marked(mark))


def judge(completion, reference, *, mark):
  """A verifier for the pool: runs a program in a jail."""
  with sandbox.Jail(completion, time_limit_s=999, memory_mb=mark) as jail:
    return float(jail.run("3").stdout), True, "ok"


@needs_jail
def test_jails_of_a_worker_that_is_killed_end(mark):
  items = [
    pools.Item(f"{__file__}:judge", program, "", {"mark": mark})
    for program in ("print(input())", "while True: pass", "print(4)")
  ]
  with pools.Pool(workers=1, deadline_s=4.0, memory_mb=1024) as pool:
    scores = pool.score(items)
    assert [s.status for s in scores] == ["ok", "timeout", "ok"]
    assert [s.reward for s in scores] == [3.0, 0.0, 4.0]
    wait_until(lambda: not marked(mark))


@needs_jail
@pytest.mark.parametrize("which", [0, 1])
def test_a_jail_that_dies_is_an_error_and_the_next_works(mark, which):
  with open_jail("while True: pass", memory_mb=mark) as jail:

    def kill():
      wait_until(lambda: len(marked(mark)) == 3)
      os.kill(sorted(marked(mark))[which], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(sandbox.JailError, match="died"):
      jail.run("")
    killer.join()
    with pytest.raises(sandbox.JailError):
      jail.run("")
  wait_until(lambda: not marked(mark))
  assert run("print(1)").stdout == "1\n"


# ----- Which backend, and none -----


@pytest.mark.parametrize("name", ["namespaces", "bubblewrap"])
def test_each_backend(name):
  found = sandbox.probe(name)
  if not found.grade:
    pytest.skip(f"{name} does not work here: {found.reason}")
  program = "import os\nprint(os.getuid(), os.getppid(), input(), os.environ)"
  expected = "65534 1 {} environ({{}})\n"
  with open_jail(program, backend=found) as jail:
    for word in "ab":
      assert jail.run(word).stdout == expected.format(word)
  with open_jail(PRIVILEGES, backend=found) as jail:
    lines = dict(line.split(":\t") for line in jail.run("").stdout.splitlines())
  none = "0000000000000000"
  assert lines.pop("Seccomp") == ("2" if found.grade == 3 else "0")
  assert lines == dict(
    CapInh=none,
    CapPrm=none,
    CapEff=none,
    CapBnd=none,
    CapAmb=none,
    NoNewPrivs="1",
    Uid="65534\t65534\t65534\t65534",
    Gid="65534\t65534\t65534\t65534",
  )


# Makes what the kernel keeps after a process, or says what it finds of it.
KEPT = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
key_calls = {"x86_64": (248, 250), "aarch64": (217, 219)}
add_key, keyctl = key_calls[os.uname().machine]
KEY = int(input())
make = input() == "make"
flags = 0o1600 if make else 0
results = {
    "shm": libc.shmget(KEY, 4096, flags),
    "msg": libc.msgget(KEY, flags),
    "sem": libc.semget(KEY, 1, flags)}
for name, ring in (("session", -3), ("user", -4), ("user session", -5)):
  word = b"left-%d" % KEY
  if make:
    results[name] = libc.syscall(add_key, b"user", word, b"x", 1, ring)
  else:
    results[name] = libc.syscall(keyctl, 10, ring, b"user", word, 0)
persistent = libc.syscall(keyctl, 22, -1, -2)
if make:
  libc.syscall(add_key, b"user", word, b"x", 1, persistent)
elif persistent != -1:
  results["persistent"] = libc.syscall(
      keyctl, 10, persistent, b"user", word, 0)
print(sorted(name for name, result in results.items() if result >= 0))
"""


def kept_outside(key):
  """The System V objects of this key that the machine has."""
  tables = {
    name: pathlib.Path("/proc/sysvipc", name).read_text().splitlines()
    for name in ("shm", "msg", "sem")
  }
  return [
    n
    for n, lines in tables.items()
    for line in lines
    if line.split()[0] == str(key)
  ]


@needs_jail
@pytest.mark.parametrize("grade", [2, 3])
def test_nothing_that_the_kernel_keeps_outlives_a_run(grade):
  if BEST.grade < grade or BEST.name != "namespaces":
    pytest.skip(f"{BEST} is all there is here")
  key = random.SystemRandom().randrange(1 << 20, 1 << 30)
  all_ = ["msg", "sem", "session", "shm", "user", "user session"]
  with open_jail(KEPT, backend=BEST._replace(grade=grade)) as jail:
    made = jail.run(f"{key}\nmake")
    assert (made.end, made.stderr) == ("exit", "")
    # With the filter nothing is made; without it, nothing is found again.
    assert grade == 2 or made.stdout == "[]\n"
    assert grade == 3 or set(all_[:2]) <= set(
      json.loads(made.stdout.replace("'", '"'))
    )
    assert jail.run(f"{key}\nfind").stdout == "[]\n"
    assert kept_outside(key) == []
  assert kept_outside(key) == []


@needs_jail
@pytest.mark.parametrize("grade", [2, 3])
def test_every_run_has_the_same_view(grade):
  if BEST.grade < grade or BEST.name != "namespaces":
    pytest.skip(f"{BEST} is all there is here")
  program = """
import json, os, threading
names = sorted(os.listdir("/proc"))
thread = threading.Thread(target=print, args=("x",))
thread.start()
thread.join()
print(json.dumps([os.getpid(), os.getppid(), os.getsid(0),
                  thread.native_id, names, os.listdir("/tmp")]))
"""
  with open_jail(program, backend=BEST._replace(grade=grade)) as jail:
    views = [jail.run("").stdout for _ in range(3)]
  assert len(set(views)) == 1
  pid, parent, session, thread, names, files = json.loads(
    views[0].removeprefix("x\n")
  )
  assert (pid, parent, session, thread, files) == (2, 1, 2, 3, [])
  # Of the machine as a whole, its load or its memory, nothing is told.
  assert names == ["1", "2", "self", "thread-self"]


def test_what_a_middle_jail_clears_away():
  if os.geteuid() != 0:
    pytest.skip("an IPC namespace of its own needs root here")
  program = """
import ctypes, os, sys
from progrpo_jax.rewards import jail
libc = ctypes.CDLL(None)
assert libc.unshare(0x08000000) == 0
for key in (1, 2):
  assert libc.shmget(key, 4096, 0o1600) >= 0
  assert libc.msgget(key, 0o1600) >= 0
  assert libc.semget(key, 2, 0o1600) >= 0
jail.remove_ipc()
print([call for call, size in (("shmget", [0]), ("msgget", []), ("semget", [0]))
       if getattr(libc, call)(1, *size, 0) >= 0])
"""
  done = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    env={"PYTHONPATH": str(ROOT)},
  )
  assert (done.stdout, done.stderr) == ("[]\n", "")


# What the jail says of a thing that fails -> what in it makes it fail.
BROKEN = {
  "prctl 99": ("_PR_SET_SECCOMP = 1, 4, 22", "_PR_SET_SECCOMP = 1, 4, 99"),
  "capset": ("_CAPABILITIES = 0x20080522", "_CAPABILITIES = 0"),
}


@pytest.fixture
def broken(monkeypatch, tmp_path_factory):
  """A function that breaks a part of the jail."""

  def call(name):
    source = pathlib.Path(sandbox._JAIL).read_text()
    assert source.count(BROKEN[name][0]) == 1
    script = tmp_path_factory.mktemp("broken") / "jail.py"
    script.write_text(source.replace(*BROKEN[name]))
    monkeypatch.setattr(sandbox, "_JAIL", str(script))
    monkeypatch.setattr(sandbox, "_best", None)

  return call


@needs_jail
def test_a_program_without_the_filter_that_was_promised_is_not_run(
  broken, monkeypatch
):
  """Masked, whatever it is run for; a probe says what is there."""
  if BEST != sandbox.Backend("namespaces", 3):
    pytest.skip(f"{BEST} is all there is here")
  broken("prctl 99")
  with open_jail("print('ran')", backend=BEST) as jail:
    for _ in range(2):
      with pytest.raises(sandbox.Refused, match="cannot hold .* prctl 99"):
        jail.run("")
    with pytest.raises(sandbox.Refused, match="prctl 99"):
      jail.call("f", [1])
  tests = [{"input": "", "output": "ran"}]
  with monkeypatch.context() as patch:
    patch.setattr(sandbox, "_best", BEST)
    score = code.score("```python\nprint('ran')\n```", tests)
    assert score == (0.0, False, "refused")
  lower = sandbox.best()
  assert lower == sandbox.Backend("namespaces", 2)
  assert run("print('ran')", backend=lower).stdout == "ran\n"


@needs_jail
@pytest.mark.parametrize("grade", [2, 3])
def test_a_program_that_keeps_its_privileges_is_not_run(broken, grade):
  if BEST.grade < grade or BEST.name != "namespaces":
    pytest.skip(f"{BEST} is all there is here")
  broken("capset")
  with open_jail("", backend=BEST._replace(grade=grade)) as jail:
    with pytest.raises(sandbox.Refused, match="cannot hold .* capset"):
      jail.run("")
  probed = sandbox.probe("namespaces")
  assert probed.grade == 0 and "capset" in probed.reason


PRIVILEGES = """
for line in open("/proc/self/status"):
  if line.startswith(("Cap", "NoNew", "Seccomp:", "Uid", "Gid")):
    print(line, end="")
"""


@pytest.fixture
def no_backend(monkeypatch):
  monkeypatch.setattr(sandbox, "_best", None)
  monkeypatch.setattr(
    sandbox, "probe", lambda name: sandbox.Backend(name, 0, "not today")
  )


def test_refuses_when_nothing_isolates(no_backend):
  with pytest.raises(sandbox.Refused, match="namespaces: not today") as caught:
    sandbox.Jail("print(1)", time_limit_s=1.0)
  for word in ("bubblewrap", "apparmor", "allow_unsafe"):
    assert word in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_runs_unconfined_only_if_asked_to(no_backend, tmp_path, mark):
  outside = tmp_path / "outside"
  outside.write_text("seen")
  program = """
import os
print(open(input()).read(), os.listdir("."))
open("file", "w").close()
os.mkdir("folder")
"""
  with open_jail(program, allow_unsafe=True, memory_mb=mark) as jail:
    for _ in range(2):
      assert jail.run(str(outside)) == ("exit", 0, "seen []\n", "", "")
  with open_jail("while True: pass", allow_unsafe=True, memory_mb=mark) as jail:
    assert jail.run("", limit_s=0.3).end == "timeout"
  assert marked(mark) == []


def test_unconfined_is_not_taken_where_there_is_better(monkeypatch):
  found = sandbox.Backend("namespaces", 3)
  monkeypatch.setattr(sandbox, "_best", found)
  assert sandbox.choose(allow_unsafe=True) == found


def test_a_slow_probe_is_no_refusal(monkeypatch):
  def slow(name):
    raise sandbox.NoAnswer("busy")

  monkeypatch.setattr(sandbox, "_best", None)
  monkeypatch.setattr(sandbox, "probe", slow)
  with pytest.raises(sandbox.JailError, match="busy"):
    sandbox.choose()
  monkeypatch.setattr(sandbox, "probe", lambda name: sandbox.Backend(name, 2))
  assert sandbox.choose() == ("namespaces", 2, "")


ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from progrpo_jax.rewards import code
from progrpo_jax.rewards import sandbox
print(sandbox.best())
fenced = "```\\nprint(1)\\n```"
print(code.score(fenced, [{"input": "", "output": "1"}]))
"""


def test_a_machine_that_forbids_namespaces_is_refused():
  within = ["unshare", "--user", "--map-root-user", "sh", "-c"]
  none = "echo 0 > /proc/sys/user/max_user_namespaces"
  if (
    not shutil.which("unshare")
    or subprocess.run([*within, none], capture_output=True).returncode
  ):
    pytest.skip("unshare(1) cannot forbid namespaces here")
  environment = {**os.environ, "PATH": "/usr/bin:/bin"}
  ask = [*within, f'{none}; exec "$@"', "sh", sys.executable, "-c", ASK, ROOT]
  done = subprocess.run(
    ask, capture_output=True, text=True, env=environment, timeout=120
  )
  if "grade=0" not in done.stdout:
    pytest.skip(f"something still isolates: {done.stdout}{done.stderr}")
  assert "No space left on device" in done.stdout
  assert "status='refused'" in done.stdout


# ----- The filter of system calls -----


def decide(rules, machine, number, argument=0):
  """What the kernel does with a call: runs the filter."""
  data = struct.pack("=IIQQ", number, machine, 0, argument)
  held, at = 0, 0
  while True:
    operation, if_true, if_false, value = rules[at]
    at += 1
    if operation == 0x06:
      return value
    if operation == 0x20:
      held = struct.unpack_from("=I", data, value)[0]
      continue
    test = {0x15: held == value, 0x35: held >= value, 0x45: held & value}
    at += if_true if test[operation] else if_false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000


# read, write, mmap, exit_group, getrandom, futex; then clone, socket, prlimit.
@pytest.mark.parametrize(
  "name, machine, plain, clone, socket, prlimit",
  [
    ("x86_64", 0xC000003E, (0, 1, 9, 231, 318, 202), 56, 41, 302),
    ("aarch64", 0xC00000B7, (63, 64, 222, 94, 278, 98), 220, 198, 261),
  ],
)
def test_filter_golden(name, machine, plain, clone, socket, prlimit):
  rules = inside.rules(name)
  assert len(rules) < 4096
  for number in plain:
    assert decide(rules, machine, number) == ALLOW
    assert decide(rules, machine + 1, number) == KILL
  for column, numbers in enumerate(zip(*inside._REFUSED.values())):
    if column == inside._MACHINES[name][0]:
      for number in numbers:
        if number >= 0:
          assert decide(rules, machine, number) == EPERM
  thread, process = 0x3D0F00, 0x1200011  # flags of pthread_create and fork
  assert decide(rules, machine, clone, thread) == ALLOW
  assert decide(rules, machine, clone, process) == EPERM
  assert decide(rules, machine, 435) == ENOSYS
  assert decide(rules, machine, socket, 1) == ALLOW
  assert {decide(rules, machine, socket, f) for f in (2, 10, 16, 40)} == {EPERM}
  assert decide(rules, machine, prlimit, 0) == ALLOW
  assert decide(rules, machine, prlimit, 1) == EPERM
  if name == "x86_64":
    assert decide(rules, machine, 0x40000000) == EPERM


def test_refused_calls_have_the_numbers_of_this_machine():
  header = {"x86_64": "asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
  machine = os.uname().machine
  paths = [
    pathlib.Path("/usr/include") / place / header.get(machine, "none")
    for place in ("", f"{machine}-linux-gnu")
  ]
  found = [path for path in paths if path.exists()]
  if not found:
    pytest.skip("no kernel headers here")
  numbers = {}
  for line in found[0].read_text().splitlines():
    words = line.split()
    if (
      len(words) == 3 and words[1].startswith("__NR_") and (words[2].isdigit())
    ):
      numbers[words[1][5:]] = int(words[2])
  column = inside._MACHINES[machine][0]
  known = {n: c[column] for n, c in inside._REFUSED.items() if n in numbers}
  assert len(known) > 40
  assert known == {name: numbers[name] for name in known}


# ----- As another user -----


def readable(tmp):
  """A copy of what runs programs, which every user can read."""
  for folder in ("", "rewards/"):
    (tmp / "progrpo_jax" / folder).mkdir()
    (tmp / "progrpo_jax" / folder / "__init__.py").touch()
  for name in (
    "errors.py",
    "rewards/score.py",
    "rewards/sandbox.py",
    "rewards/jail.py",
    "rewards/code.py",
  ):
    shutil.copy(ROOT / "progrpo_jax" / name, tmp / "progrpo_jax" / name)
  shutil.copy(pathlib.Path(__file__).with_name("hostile.py"), tmp)
  subprocess.run(["chmod", "-R", "a+rX", tmp], check=True)


def as_nobody(command, **options):
  return subprocess.run(
    command,
    user=65534,
    group=65534,
    extra_groups=[],
    capture_output=True,
    text=True,
    cwd="/",
    **options,
  )


@needs_jail
@pytest.mark.timeout(900)
def test_hostile_programs_as_an_ordinary_user():
  if os.geteuid() != 0:
    pytest.skip("the other tests ran as an ordinary user")
  with tempfile.TemporaryDirectory() as folder:
    tmp = pathlib.Path(folder)
    readable(tmp)
    environment = {"PYTHONPATH": folder, "PATH": os.environ["PATH"]}
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
      new = "import sys; sys.exit(sys.version_info < (3, 11))"
      try:
        works = not as_nobody([python, "-c", new]).returncode
      except OSError:
        works = False
      if works:
        break
    else:
      pytest.skip("an ordinary user can reach no Python 3.11 or newer")
    ask = "from progrpo_jax.rewards import sandbox; print(sandbox.best())"
    found = as_nobody([python, "-c", ask], env=environment)
    if "grade=0" in found.stdout:
      pytest.skip(f"an ordinary user has no isolation here: {found.stdout}")
    done = as_nobody([python, tmp / "hostile.py"], env=environment, timeout=800)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
