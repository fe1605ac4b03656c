"""Worker processes that run verifiers under a deadline.

A worker is started once and serves many items (`serving` is its code). It
reports on a pipe which item it has begun, so the parent knows which item hangs
or crashes. It then kills the worker with everything that it started, and a new
worker takes the remaining items. An item that took too long, or whose worker
was killed from outside, is tried once more in a new worker, so that a machine
that is briefly stalled or short of memory does not change what a run learns
from. An item that fails is the verifier's fault and not the completion's: its
score has reward 0.0 and a status that masks the sample.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple
import weakref

from progrpo_jax import errors
from progrpo_jax.rewards import serving, thinking
from progrpo_jax.rewards.score import Score, is_masked

Call, Outcome = serving.Call, serving.Outcome

# Signals from outside: from the kernel when memory runs out, or from a person.
_FROM_OUTSIDE = frozenset(
  (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
)
_START_S = 120.0  # time limit for a worker's start or a verifier's import
_POLL_S = 0.5  # interval between checks that a silent worker is alive
_END_S = 10.0  # time limit for a worker's end, in which it kills descendants
_MAX_IDLE_DEATHS = 5  # deaths of workers without an item before giving up
_MAX_CHUNK = 64  # items handed to a worker at once


class PoolError(errors.RunError):
  """Too many items of a batch failed, or the pool cannot work."""


class TrainerState(NamedTuple):
  """How far training is; reward functions get it as `trainer_state`.

  Attributes:
    global_step: finished steps.
    max_steps: steps of the whole run; 0 outside of a run.
  """

  global_step: int = 0
  max_steps: int = 0


class Item(NamedTuple):
  """Completion to verify, by function(completion, reference, **meta).

  Attributes:
    function: verifier, "module:function" or "path/to/file.py:function".
    completion: text of the model.
    reference: reference answer, JSON-able.
    meta: keyword arguments of the verifier, JSON-able.
  """

  function: str
  completion: str
  reference: object
  meta: dict[str, Any]


@dataclasses.dataclass
class Counters:
  """Numbers of failures since a pool was created."""

  timeouts: int = 0
  crashes: int = 0
  refused: int = 0


class Pool:
  """Pool of worker processes; a context manager.

  Args:
    workers: number of processes.
    deadline_s: time limit of one item, without the verifier's import. An item
      that exceeds it twice has failed.
    memory_mb: limit on a worker's address space, in MiB.
    max_failure_share: largest share of failed or refused items in a batch of
      two or more; a larger share raises PoolError.
    restart_after: number of items after which a worker is replaced, which
      bounds the growth of caches and leaks in verifiers.
    batch_deadline_s: time limit of a user's reward function on a whole batch.
    options: additional keyword arguments by verifier, set by the machine.
    answer: function from a completion to the text for the verifier, or to None
      if the completion gives no answer.
    stop: function that says whether to give up; it is asked again and again
      while calls are made.
    objects: the user's reward functions that are called in this process, by
      name.
    max_steps: steps of the run, for reward functions.

  Attributes:
    trainer_state: progress of the training; whoever samples sets its step.
  """

  def __init__(
    self,
    workers: int = 2,
    deadline_s: float = 10.0,
    memory_mb: int = 1024,
    max_failure_share: float = 0.5,
    restart_after: int = 50_000,
    batch_deadline_s: float = 60.0,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    answer: Callable[[str], str | None] = thinking.answer,
    stop: Callable[[], bool] = lambda: False,
    objects: Mapping[str, Callable[..., Any]] | None = None,
    max_steps: int = 0,
  ):
    if workers < 1 or deadline_s <= 0:
      raise ValueError(f"workers={workers}, deadline_s={deadline_s}")
    self.batch_deadline_s = batch_deadline_s
    self.answer = answer
    self.stop = stop
    self.objects = dict(objects or {})
    self.trainer_state = TrainerState(0, max_steps)
    self.counters = Counters()
    self._deadline_s = deadline_s
    self._max_failure_share = max_failure_share
    self._restart_after = restart_after
    self._memory_mb = memory_mb
    self._options = dict(options or {})
    self._alive: set[_Worker] = set()
    self._finalizer = weakref.finalize(self, _kill_all, self._alive)
    self._lock = threading.Lock()
    self._idle = [self._start() for _ in range(workers)]
    self._size = workers

  def at_step(self, step: int) -> None:
    """Tells reward functions how many steps are finished."""
    self.trainer_state = self.trainer_state._replace(global_step=step)

  def score(self, items: Iterable[Item]) -> list[Score]:
    """Returns the score of each item, in order.

    Equal items are verified once.

    Raises:
      PoolError: more than max_failure_share of the items failed.
      Preempted: `stop` said so.
    """
    items = [
      item._replace(meta={**item.meta, **self._options[item.function]})
      if item.function in self._options
      else item
      for item in items
    ]
    # One call per distinct item.
    keys = [json.dumps(item, sort_keys=True) for item in items]
    first = dict(zip(reversed(keys), reversed(items)))
    calls = [
      Call(serving.SCORE, [i.function, i.completion, i.reference, i.meta], {})
      for i in first.values()
    ]
    outcomes = dict(zip(first, self.run(calls)))
    scores, reasons = [], []
    for key in keys:
      outcome = outcomes[key]
      if outcome.status == "ok":
        scores.append(Score(*outcome.value))
      else:
        scores.append(Score(0.0, False, outcome.status))
      if is_masked(scores[-1].status):
        reasons.append(outcome.reason or _reason(key, scores[-1].status))
    self._count([score.status for score in scores], reasons, "verifications")
    return scores

  def ask(self, calls: Sequence[Call]) -> list[Outcome]:
    """Makes each call, and counts failures as those of verifiers.

    Raises:
      PoolError: more than max_failure_share of the calls failed.
      Preempted: `stop` said so.
    """
    outcomes = self.run(calls)
    self._count(
      [outcome.status for outcome in outcomes],
      [outcome.reason for outcome in outcomes if outcome.status != "ok"],
      "replies",
    )
    return outcomes

  def _count(self, statuses: list[str], reasons: list[str], what: str) -> None:
    """Counts failures by their kind; raises PoolError if they are too many."""
    with self._lock:  # replies and verifications may end at the same time
      self.counters.timeouts += statuses.count("timeout")
      self.counters.crashes += statuses.count("crash")
      self.counters.refused += statuses.count("refused")
    allowed = self._max_failure_share * len(statuses)
    if len(reasons) > allowed and len(statuses) > 1:
      raise PoolError(
        f"{len(reasons)} of {len(statuses)} {what} failed, more than"
        f" max_failure_share={self._max_failure_share}; the last one:"
        f" {reasons[-1]}"
      )

  def run(
    self, calls: Sequence[Call], *, deadline_s: float | None = None
  ) -> list[Outcome]:
    """Makes each call in some worker and returns the outcomes, in order.

    Args:
      calls: calls to make.
      deadline_s: time limit of each call; None takes the pool's.

    Raises:
      PoolError: the pool is closed, or its workers cannot start.
      Preempted: `stop` said so; calls that were not done are given up.
    """
    if not self._finalizer.alive:
      raise PoolError("the pool is closed")
    with self._lock:
      return _Batch(self, calls, deadline_s or self._deadline_s).run()

  def close(self) -> None:
    """Kills the workers and all their descendants; may be called again."""
    self._finalizer()
    self._idle = []

  def __enter__(self) -> "Pool":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _start(self) -> "_Worker":
    """Starts a worker."""
    worker = _Worker(self._memory_mb)
    self._alive.add(worker)
    return worker

  def _discard(self, worker: "_Worker") -> None:
    """Kills a worker and forgets it."""
    worker.kill()
    self._alive.discard(worker)

  def _take(self) -> list["_Worker"]:
    """Hands out the idle workers, replacing those that served enough items."""
    for i, worker in enumerate(self._idle):
      if worker.served >= self._restart_after:
        self._discard(worker)
        self._idle[i] = self._start()
    workers, self._idle = self._idle, []
    return workers

  def _give(self, workers: Iterable["_Worker"]) -> None:
    """Takes workers back and starts new ones for any that are missing."""
    self._idle = list(workers)
    while len(self._idle) < self._size:
      self._idle.append(self._start())


def _reason(key: str, status: str) -> str:
  """Returns a message about a masked score that a verifier returned.

  Args:
    key: item as JSON.
    status: status of its score.
  """
  name = json.loads(key)[0]
  if status == "refused":
    return (
      f"{name} refused to judge: the machine lacks what it needs"
      " (`progrpo doctor` shows the isolation of code), or it cannot use the"
      " row's reference"
    )
  return f"{name} returned the status {status!r}"


def _ended(code: int | None, how: str) -> str:
  """Says what a call did to its worker, as `_Worker.autopsy` found it."""
  if code is None:
    return how
  return f"ended its process ({how})" if code >= 0 else f"was ended by {how}"


def _kill_all(workers: "set[_Worker]") -> None:
  """Kills every worker of a pool."""
  for worker in workers:
    worker.stop()
  while workers:
    workers.pop().kill()


class _Batch:
  """State of the calls of one `Pool.run`.

  Args:
    pool: pool that makes the calls.
    calls: calls to make.
    deadline_s: time limit of each call.
  """

  def __init__(self, pool: Pool, calls: Sequence[Call], deadline_s: float):
    self.pool = pool
    self.calls = calls
    self.deadline_s = deadline_s
    self.outcomes: list[Outcome | None] = [None] * len(calls)
    self.waiting = list(range(len(calls)))[::-1]  # a stack; the next one last
    self.idle_deaths = 0
    self.tried: set[int] = set()  # calls that have been tried once in vain

  def run(self) -> list[Outcome]:
    """Serves the workers until every call has its outcome."""
    workers = self.pool._take()
    try:
      while any(o is None for o in self.outcomes):
        if self.pool.stop():
          raise errors.Preempted
        for worker in workers:
          self._feed(worker)
        self._wait([w for w in workers if w.chunk])
        for worker in workers:
          self._listen(worker)
        workers = [self._judge(w) for w in workers]
    except BaseException:  # an interrupt would leave workers busy
      workers = []
      _kill_all(self.pool._alive)
      raise
    finally:
      self.pool._give(workers)
    return self.outcomes

  def _feed(self, worker: "_Worker") -> None:
    """Hands the next chunk of calls to a worker that has none."""
    if worker.chunk or not self.waiting:
      return
    # A quarter of a worker's equal share, so that all finish at similar times.
    share = -(-len(self.waiting) // (4 * self.pool._size))
    size = min(max(share, 1), _MAX_CHUNK)
    chunk = [self.waiting.pop() for _ in range(min(size, len(self.waiting)))]
    worker.send(chunk, [self.calls[i] for i in chunk])

  def _wait(self, busy: list["_Worker"]) -> None:
    """Waits for a message, for room in a pipe, or for the next deadline."""
    wait = min(w.limit(self.deadline_s) for w in busy) - time.monotonic()
    poller = select.poll()
    for worker in busy:
      poller.register(worker.results, select.POLLIN)
      if worker.outbox:
        poller.register(worker.calls, select.POLLOUT)
    poller.poll(1000 * min(max(wait, 0), _POLL_S) + 1)

  def _listen(self, worker: "_Worker") -> None:
    """Continues to write to a worker and processes its messages."""
    worker.flush()
    for kind, *content in worker.receive():
      worker.since = time.monotonic()
      worker.phase = kind
      if kind == "done":
        status, value, reason = content
        self.outcomes[worker.chunk.pop(0)] = Outcome(status, value, reason)
        worker.served += 1

  def _judge(self, worker: "_Worker") -> "_Worker":
    """Returns the worker, or a new one if it is dead or out of time."""
    if worker.gone:
      return self._replace_dead(worker)
    if not worker.chunk or time.monotonic() < worker.limit(self.deadline_s):
      return worker
    if self._may_be_chance(worker):
      return self._replace(worker)
    limit = self.deadline_s if worker.phase == "running" else _START_S
    where = "ran" if worker.phase == "running" else f"was {worker.phase}"
    return self._fail(worker, "timeout", f"{where} for over {limit:g} s")

  def _replace_dead(self, worker: "_Worker") -> "_Worker":
    """Replaces a dead worker; the item that it ran has crashed."""
    code, how = worker.autopsy()
    if worker.phase in ("loading", "running"):
      if code in _FROM_OUTSIDE and self._may_be_chance(worker):
        return self._replace(worker)
      return self._fail(worker, "crash", _ended(code, how))
    self.idle_deaths += 1
    if self.idle_deaths > _MAX_IDLE_DEATHS:
      raise PoolError(f"workers die before they can work: {how}")
    return self._replace(worker)

  def _may_be_chance(self, worker: "_Worker") -> bool:
    """Returns whether the current item fails for the first time; records it."""
    index = worker.chunk[0]
    first = index not in self.tried
    self.tried.add(index)
    return first

  def _fail(self, worker: "_Worker", status: str, why: str) -> "_Worker":
    """Records a failure of the current item and replaces the worker."""
    index = worker.chunk.pop(0)
    reason = f"{self.calls[index].named} {why}"
    self.outcomes[index] = Outcome(status, None, reason)
    return self._replace(worker)

  def _replace(self, worker: "_Worker") -> "_Worker":
    """Kills a worker, puts its items back and starts a new one."""
    self.waiting.extend(reversed(worker.chunk))
    self.pool._discard(worker)
    return self.pool._start()


class _Worker:
  """The pool's side of a worker process.

  Attributes:
    chunk: indices of its unfinished calls, the current one first.
    phase: kind of its last message: "starting", "ready", "loading", "running"
      or "done".
    since: time of its last message, or when it was given work.
    served: number of calls that it has finished.
    outbox: bytes that still have to be written to its pipe.
    calls: descriptor to which calls are written.
    results: descriptor from which messages are read.
    gone: whether its process has ended or its pipe is closed.
  """

  def __init__(self, memory_mb: int):
    self.chunk: list[int] = []
    self.phase = "starting"
    self.since = time.monotonic()
    self.served = 0
    self.gone = False
    self.outbox = b""
    self._inbox = b""
    self._errors = tempfile.TemporaryFile()
    calls_out, self.calls = os.pipe()
    self.results, results_in = os.pipe()
    command = [sys.executable, "-m", "progrpo_jax.rewards.serving"]
    arguments = [calls_out, results_in, memory_mb, os.getpid()]
    self._process = subprocess.Popen(
      command + [str(a) for a in arguments],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=self._errors,
      pass_fds=(calls_out, results_in),
      start_new_session=True,
      env=_environment(),
    )
    os.close(calls_out)
    os.close(results_in)
    os.set_blocking(self.results, False)
    os.set_blocking(self.calls, False)

  def limit(self, deadline_s: float) -> float:
    """Returns the time by which the current phase must end."""
    return self.since + (deadline_s if self.phase == "running" else _START_S)

  def send(self, chunk: list[int], calls: list[Call]) -> None:
    """Begins to write calls to the worker, as one length-prefixed message."""
    self.chunk = chunk
    self.since = time.monotonic()
    body = json.dumps(calls).encode()
    self.outbox = serving.HEAD.pack(len(body)) + body
    self.flush()

  def flush(self) -> None:
    """Writes as much as the pipe takes; `receive` notices a broken pipe."""
    with contextlib.suppress(BlockingIOError, BrokenPipeError):
      while self.outbox:
        self.outbox = self.outbox[os.write(self.calls, self.outbox) :]

  def receive(self) -> list[list[Any]]:
    """Returns the complete messages so far and updates `gone`."""
    self.gone = self._process.poll() is not None
    with contextlib.suppress(BlockingIOError):
      while data := os.read(self.results, 1 << 16):
        self._inbox += data
      self.gone = True
    *lines, self._inbox = self._inbox.split(b"\n")
    return [json.loads(line) for line in lines]

  def autopsy(self) -> tuple[int | None, str]:
    """Returns (exit code or None if it has not ended, description)."""
    try:
      code = self._process.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
      return None, "closed its pipe"
    if self.phase == "starting":
      self._errors.seek(0)
      lines = self._errors.read().decode(errors="replace").splitlines()
      return code, lines[-1] if lines else f"exit code {code}"
    if code < 0:
      return code, f"signal {signal.Signals(-code).name}"
    return code, f"exit code {code}"

  def stop(self) -> None:
    """Asks the process to end together with its descendants."""
    self._process.terminate()

  def kill(self) -> None:
    """Ends the process and its descendants, and closes the pipes."""
    self.stop()
    try:
      self._process.wait(timeout=_END_S)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    for fd in (self.calls, self.results):
      os.close(fd)
    self._errors.close()


def _environment() -> dict[str, str]:
  """Returns a worker's environment: the parent's path, one BLAS thread."""
  path = os.pathsep.join(p for p in sys.path if p)
  threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
  return {**os.environ, **threads, "PYTHONPATH": path}
