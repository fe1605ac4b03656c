import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from progrpo_jax import errors
from progrpo_jax.rewards import pool as pools

Item = pools.Item

VERIFIER = """
import ctypes
import os
import re
import signal
import sys
import time

def judge(completion, reference, **meta):
  print("noise on stdout")
  sys.stderr.write("noise on stderr")
  if completion == "hang":
    time.sleep(1000)
  if completion == "exit":
    os._exit(3)
  if completion == "segfault":
    ctypes.string_at(0)
  if completion == "raise":
    raise KeyError("no such thing")
  if completion == "sysexit":
    raise SystemExit(0)
  if completion == "memory":
    return (float(len(bytearray(4 << 30))), True, "ok")
  if completion == "nan":
    return (float("nan"), True, "ok")
  if completion == "text":
    return "right"
  if completion == "child":
    if not os.fork():
      time.sleep(1000)
    time.sleep(1000)
  if completion == "regex":  # holds the interpreter's lock for ever
    re.match("(a+)+$", 50 * "a" + "b")
  if completion == "detached":  # a grandchild in a session of its own
    if not os.fork():
      os.setsid()
      if os.fork():
        os._exit(0)
      with open(meta["log"], "w") as log:
        log.write(str(os.getpid()))
      time.sleep(1000)
    while not (os.path.exists(meta["log"]) and os.stat(meta["log"]).st_size):
      time.sleep(0.01)
    if meta["then"] == "hang":
      time.sleep(1000)
    if meta["then"] == "exit":
      os._exit(3)
    return (1.0, True, "ok")
  if completion == "count and be killed":
    with open(meta["log"], "a") as log:
      log.write("x")
    if os.stat(meta["log"]).st_size <= meta["kills"]:
      os.kill(os.getpid(), signal.SIGKILL)
  if completion == "slow":
    time.sleep(0.2)
  if completion == "count and hang":
    with open(meta["log"], "a") as log:
      log.write("x")
    time.sleep(1000 if os.stat(meta["log"]).st_size <= meta["hangs"] else 0)
  if completion in ("refused", "no_answer"):
    return (0.0, False, completion)
  if completion == "options":
    return (float(meta["extra"]), False, "ok")
  if completion == "count":
    with open(meta["log"], "a") as log:
      log.write("x")
  return (float(len(completion)), completion == reference, "ok")

def where():
  return [os.getpid(), "jax" in sys.modules]
"""


@pytest.fixture
def function(tmp_path):
  path = tmp_path / "judge.py"
  path.write_text(VERIFIER)
  return f"{path}:judge"


def _items(function, texts, **meta):
  return [Item(function, text, "aa", meta) for text in texts]


def _alive(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  status = pathlib.Path(f"/proc/{pid}/status").read_text()
  return "State:\tZ" not in status


def _pid(pool, function):
  where = function.replace(":judge", ":where")
  return pool.run([pools.Call(where, [], {})])[0].value


def test_scores_in_order(function):
  texts = ["a" * (i % 7) for i in range(200)]
  with pools.Pool(workers=2) as pool:
    scores = pool.score(_items(function, texts))
    assert [s.reward for s in scores] == [float(len(t)) for t in texts]
    assert [s.correct for s in scores] == [t == "aa" for t in texts]
    assert pool.score([]) == []
    assert pool.counters == pools.Counters()


def test_each_failure_is_blamed_on_its_own_item(function):
  bad = {
    "hang": "timeout",
    "child": "timeout",
    "exit": "crash",
    "segfault": "crash",
    "raise": "crash",
    "sysexit": "crash",
    "memory": "crash",
    "nan": "crash",
    "text": "crash",
  }
  texts = []
  for index, name in enumerate(bad):
    texts += ["b" * (3 * index + 1), name, "b" * (3 * index + 2)]
  with pools.Pool(workers=2, deadline_s=0.7) as pool:
    scores = pool.score(_items(function, texts))
    assert pool.counters == pools.Counters(timeouts=2, crashes=7)
    again = pool.score(_items(function, ["aa"]))
  for text, score in zip(texts, scores):
    expected = (
      (0.0, False, bad[text])
      if text in bad
      else (float(len(text)), False, "ok")
    )
    assert score == expected
  assert again == [(2.0, True, "ok")]


def test_deadline_is_for_an_item_not_for_a_chunk(function):
  texts = ["slow"] * 1 + ["a" * n for n in range(8)]
  items = [Item(function, "slow", str(i), {}) for i in range(8)] + _items(
    function, texts
  )
  with pools.Pool(workers=1, deadline_s=0.6) as pool:
    assert all(s.status == "ok" for s in pool.score(items))


def test_asked_to_stop_it_gives_up_what_runs_and_can_work_again(function):
  answers = iter([False, False, True])
  with pools.Pool(
    workers=1, deadline_s=1e4, stop=lambda: next(answers, False)
  ) as pool:
    with pytest.raises(errors.Preempted):
      pool.score(_items(function, ["hang"]))
    assert pool.score(_items(function, ["aa"])) == [(2.0, True, "ok")]


@pytest.mark.parametrize(("hangs", "status"), [(1, "ok"), (9, "timeout")])
def test_what_took_too_long_is_tried_once_more(
  function, tmp_path, hangs, status
):
  log = tmp_path / "log"
  items = _items(
    function, ["a", "count and hang", "b"], log=str(log), hangs=hangs
  )
  with pools.Pool(workers=1, deadline_s=0.5) as pool:
    scores = pool.score(items)
    assert [s.status for s in scores] == ["ok", status, "ok"]
    assert pool.counters.timeouts == (status == "timeout")
  assert log.read_text() == "xx"


def test_equal_items_are_scored_once(function, tmp_path):
  log = tmp_path / "log"
  with pools.Pool(workers=2) as pool:
    pool.score(_items(function, ["count"] * 50, log=str(log)))
    assert log.read_text() == "x"
    pool.score([Item(function, "count", r, {"log": str(log)}) for r in "ab"])
    assert log.read_text() == "xxx"


def test_too_many_failures_name_the_last_reason(function):
  texts = ["raise", "raise", "a"]
  with pools.Pool(workers=1) as pool:
    with pytest.raises(pools.PoolError, match="KeyError.*no such thing"):
      pool.score(_items(function, texts))
    assert pool.score(_items(function, ["a"]))[0].status == "ok"
    assert pool.score(_items(function, ["raise"]))[0].status == "crash"
  with pools.Pool(workers=1, max_failure_share=0.9) as pool:
    assert len(pool.score(_items(function, texts))) == 3


def test_refusals_are_failures_too(function):
  with pools.Pool(workers=1) as pool:
    with pytest.raises(pools.PoolError, match="judge refused to judge"):
      pool.score(_items(function, ["refused", "refused", "a"]))
    found = pool.score(_items(function, ["refused", "a", "no_answer"]))
    assert [s.status for s in found] == ["refused", "ok", "no_answer"]
    assert pool.counters.refused == 3
    # No answer is the completion's own fault.
    pool.score(_items(function, ["no_answer"] * 4))
    assert pool.counters.crashes == 0


def test_options_of_the_machine_reach_their_verifier_alone(function):
  items = _items(function, ["options"], extra=1)
  with pools.Pool(workers=1, options={function: {"extra": 2}}) as pool:
    assert pool.score(items)[0].reward == 2.0
  with pools.Pool(workers=1, options={"math:f": {"extra": 2}}) as pool:
    assert pool.score(items)[0].reward == 1.0
  assert items[0].meta == {"extra": 1}


@pytest.mark.parametrize(
  "name, reason",
  [
    ("no_such_module:f", "ModuleNotFoundError"),
    ("math:no_such", "no_such"),
    ("nothing", "module:function"),
  ],
)
def test_unknown_verifier_says_so(name, reason):
  with pools.Pool(workers=1) as pool:
    with pytest.raises(pools.PoolError, match=reason):
      pool.score([Item(name, text, "", {}) for text in "ab"])


def test_a_verifier_may_import_what_lies_beside_it(tmp_path):
  (tmp_path / "my_right_answer.py").write_text("RIGHT = 'a'\n")
  (tmp_path / "mine.py").write_text(
    "import my_right_answer\n\ndef score(completion, reference):\n"
    "  right = completion == my_right_answer.RIGHT\n"
    "  return float(right), right, 'ok'\n"
  )
  with pools.Pool(workers=1) as pool:
    name = f"{tmp_path}/mine.py:score"
    scores = pool.score([Item(name, text, "", {}) for text in "ab"])
  assert [score.correct for score in scores] == [True, False]


def test_no_process_stays_behind(function):
  with pools.Pool(workers=2, deadline_s=0.5) as pool:
    pids = {worker._process.pid for worker in pool._alive}
    pool.score(_items(function, ["hang", "a", "b", "c"]))
    pids |= {worker._process.pid for worker in pool._alive}
  assert len(pids) > 2
  assert not any(map(_alive, pids))
  pool.close()
  with pytest.raises(pools.PoolError, match="closed"):
    pool.score(_items(function, ["a"]))


@pytest.mark.parametrize(("kills", "status"), [(1, "ok"), (9, "crash")])
def test_what_was_killed_from_outside_is_tried_once_more(
  function, tmp_path, kills, status
):
  """The kernel kills so where memory runs out; the item is not to blame."""
  log = tmp_path / "log"
  items = _items(
    function, ["a", "count and be killed", "b"], log=str(log), kills=kills
  )
  with pools.Pool(workers=1) as pool:
    scores = pool.score(items)
    assert [s.status for s in scores] == ["ok", status, "ok"]
    assert pool.counters.crashes == (status == "crash")
  assert log.read_text() == "xx"


def _await_end(pid):
  """Says whether a process is gone, or will soon be."""
  end = time.monotonic() + 20
  while _alive(pid) and time.monotonic() < end:
    time.sleep(0.1)
  return not _alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="no subreaper elsewhere")
@pytest.mark.parametrize("then", ["hang", "exit", "return"])
def test_what_an_item_has_detached_ends_with_its_worker(
  function, tmp_path, then
):
  log = tmp_path / "log"
  items = _items(function, ["detached"], log=str(log), then=then)
  with pools.Pool(workers=1, deadline_s=2.0) as pool:
    assert (
      pool.score(items)[0].status
      == {"hang": "timeout", "exit": "crash", "return": "ok"}[then]
    )
    pid = int(log.read_text())
    # What an item has started may stay for as long as its worker does.
    assert _alive(pid) == (then == "return")
  assert _await_end(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="no subreaper elsewhere")
def test_a_worker_ends_with_all_when_its_keeper_is_killed(function):
  with pools.Pool(workers=1) as pool:
    ((pid, _),) = [_pid(pool, function)]
    (keeper,) = [worker._process.pid for worker in pool._alive]
    assert pid != keeper
    os.kill(keeper, signal.SIGKILL)
    assert _await_end(pid)
    assert pool.score(_items(function, ["aa"]))[0].correct


@pytest.mark.parametrize("doing", ["hang", "regex", "detached"])
def test_worker_ends_when_its_parent_is_killed(function, tmp_path, doing):
  log = tmp_path / "log"
  code = textwrap.dedent(f"""
      from progrpo_jax.rewards import pool as pools
      pool = pools.Pool(workers=1)
      pid = pool.run([pools.Call({function.replace(":judge", ":where")!r},
                                 [], {{}})])[0].value[0]
      print(pid, flush=True)
      pool.score([pools.Item({function!r}, {doing!r}, "", dict(
          log={str(log)!r}, then="hang"))])
  """)
  parent = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  )
  pid = int(parent.stdout.readline())
  assert _alive(pid)
  pids = [pid]
  if doing == "detached":
    while not (log.exists() and log.read_text()):
      time.sleep(0.1)
    pids.append(int(log.read_text()))
  else:
    time.sleep(0.5)  # it works on its item by now
  parent.send_signal(signal.SIGKILL)
  parent.wait()
  parent.stdout.close()
  assert all(map(_await_end, pids))


def test_workers_are_replaced_after_their_share_and_if_killed(function):
  with pools.Pool(workers=1, restart_after=3) as pool:
    first, has_jax = _pid(pool, function)
    assert not has_jax
    assert _pid(pool, function)[0] == first
    pool.score(_items(function, ["a"]))
    second = _pid(pool, function)[0]
    assert second != first
    os.kill(second, signal.SIGKILL)
    assert pool.score(_items(function, ["aa"]))[0].correct


def test_verifiers_write_nothing_to_the_terminal(function, capfd):
  with pools.Pool(workers=1) as pool:
    pool.score(_items(function, ["a", "b"]))
  assert capfd.readouterr() == ("", "")


def test_odd_text_and_large_batches_pass_the_pipe(function):
  texts = ["\ud800", "\x00\x1b", "é" * 10, "line\nline", "a" * 2_000_000]
  with pools.Pool(workers=1) as pool:
    scores = pool.score(_items(function, texts))
  assert [s.reward for s in scores] == [float(len(t)) for t in texts]
