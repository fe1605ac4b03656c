"""The processes of a multi-host run: one per host, each with local devices.

All processes run the same program on the same data. Device computations run
on all of them together. Host work is either cheap and repeated by every
process, or divided (`mine`) and its results exchanged (`gather`). Only the
first process writes files. Decisions are taken from values that are equal on
every host; `compare` raises where they are not.

No-ops on one process. `gather`, `any_of`, `from_first`, `agree`, `on_first`,
`share_out` and `compare` are collectives: every process must call them, in
the same order.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import os
import pickle
import re
from typing import Any, TypeVar
import urllib.error
import urllib.request

import jax
from jax.experimental import multihost_utils
import numpy as np

from progrpo_jax import errors

T = TypeVar("T")

# Seconds that a process waits at its end for the other processes to end. Slow
# work, such as the last checkpoint, is already done by then.
_SHUTDOWN_S = 30
# Smallest buffer of `gather`. Buffers are this size times a power of two, so
# that few shapes are compiled.
_LEAST_BYTES = 1 << 12
# Errors of one host that `agree` raises on all as what they are.
_AGREED = (errors.InputError, errors.RunError, errors.Preempted)
# Attribute of an error that `agree` has raised.
_ON_ALL = "raised_on_all_hosts"
# Words in JAX's error messages that mean that another process is gone.
_LOST = re.compile(
  "UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|[Gg]loo|NCCL|"
  "[Cc]onnection|heartbeat|coordination"
)


def expected() -> int:
  """Number of processes that the environment announces.

  Reads, in this order: JAX_NUM_PROCESSES; the task count of a Slurm step or an
  Open MPI job; the hosts of a TPU, from its variables or the metadata server.
  Asks JAX for no device, so it may run before `connect`.

  Raises:
    InputError: a variable is not a number, or JAX_COORDINATOR_ADDRESS is set
      without JAX_NUM_PROCESSES.
  """
  for name in (
    "JAX_NUM_PROCESSES",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_SIZE",
  ):
    if os.environ.get(name):
      return _number(name)
  if os.environ.get("JAX_COORDINATOR_ADDRESS"):
    raise errors.InputError(
      "JAX_COORDINATOR_ADDRESS is set: set JAX_NUM_PROCESSES and "
      "JAX_PROCESS_ID too"
    )
  if not _is_tpu_host():
    return 1
  slices = os.environ.get("MEGASCALE_NUM_SLICES")
  return len(_tpu_hosts().split(",")) * (
    _number("MEGASCALE_NUM_SLICES") if slices else 1
  )


def connect(heartbeat_s: int = 100) -> None:
  """Connects to the other processes of the run, if there are any.

  Call it before anything that asks JAX for a device.

  Args:
    heartbeat_s: seconds without a heartbeat after which a process counts as
      lost and all other processes are ended.

  Raises:
    InputError: the environment's variables are missing or contradict each
      other.
    RunError: not every process connected in time.
  """
  if expected() < 2 or jax.distributed.is_initialized():
    return
  # Empty for Slurm, Open MPI and TPUs: JAX reads their variables itself.
  arguments = {}
  if os.environ.get("JAX_NUM_PROCESSES"):
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not address or ":" not in address:
      raise errors.InputError(
        "JAX_NUM_PROCESSES is set: set JAX_COORDINATOR_ADDRESS to "
        "HOST:PORT of process 0 and JAX_PROCESS_ID to this one's number"
      )
    arguments = dict(
      coordinator_address=address,
      num_processes=expected(),
      process_id=_number("JAX_PROCESS_ID"),
    )
    if arguments["process_id"] >= arguments["num_processes"]:
      raise errors.InputError(
        f"JAX_PROCESS_ID={arguments['process_id']} is not below "
        f"JAX_NUM_PROCESSES={arguments['num_processes']}"
      )
  # JAX raises ValueError where the variables are incomplete, and RuntimeError
  # where the other processes do not answer.
  try:
    jax.distributed.initialize(
      **arguments,
      heartbeat_timeout_seconds=heartbeat_s,
      shutdown_timeout_seconds=_SHUTDOWN_S,
    )
  except ValueError as e:
    raise errors.InputError(
      f"the hosts of the run cannot be connected: {e}"
    ) from e
  except RuntimeError as e:
    raise errors.RunError(
      f"the other hosts of the run did not connect: {e}"
    ) from e


def count() -> int:
  """Number of processes."""
  return jax.process_count()


def index() -> int:
  """Number of this process, from 0."""
  return jax.process_index()


def is_first() -> bool:
  """Returns whether this is process 0, the only one that writes files."""
  return index() == 0


def mine(total: int) -> slice:
  """Slice of `total` items that this host works on.

  The hosts' slices are contiguous, in host order, and differ in size by at
  most one.
  """
  return slice(total * index() // count(), total * (index() + 1) // count())


def gather(value: T) -> list[T]:
  """Collects the value of every host, in host order.

  Args:
    value: any picklable value. Unpickling is safe here because the processes
      of a run trust each other.
  """
  if count() == 1:
    return [value]
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  # Pickles differ in length; all are padded to one width [hosts, width].
  sizes = _stacked(np.int32(data.size))
  width = _LEAST_BYTES
  while width < sizes.max():
    width *= 2
  pickles = _stacked(np.pad(data, (0, width - data.size)))
  return [
    pickle.loads(pickles[i, :size].tobytes()) for i, size in enumerate(sizes)
  ]


def any_of(flag: bool) -> bool:
  """Returns whether the flag is True on any host."""
  return bool(flag) if count() == 1 else bool(_stacked(np.bool_(flag)).any())


def from_first(value: T) -> T:
  """Value of the first host, on every host."""
  return gather(value if is_first() else None)[0]


def agree(work: Callable[[], T]) -> T:
  """Calls `work` on every host; a failure on one host raises on all.

  Args:
    work: function of this host alone. It must neither call a collective nor
      compute on arrays that other hosts hold parts of: where it fails on one
      host, the others would wait in there for it, and it here for them.

  Raises:
    Exception: raised by `work` on this host.
    InputError, RunError, Preempted: raised by `work` on another host, which the
      message names; every other exception there becomes a RunError here.
  """
  if count() == 1:
    return work()
  # A host that failed still takes part in the `gather`: otherwise the other
  # hosts would wait for it until its heartbeat ends, and say nothing of why.
  result = error = None
  try:
    result = work()
  except Exception as e:
    error = e
  failures = gather(None if error is None else _told(error))
  for host, failure in enumerate(failures):
    if failure is not None and error is None:
      kind, text = failure
      error = kind(f"host {host}: {text}")
  if error is not None:
    setattr(error, _ON_ALL, True)
    raise error
  return result


def _told(error: Exception) -> tuple[type[Exception], str]:
  """Returns class and text of the error that other hosts raise for one here.

  The class of a library or of the user's code stays here: the other hosts may
  not be able to import it, or to call it with a text.
  """
  if isinstance(error, _AGREED):
    package = errors.__name__.partition(".")[0]
    ours = (
      kind
      for kind in type(error).__mro__
      if kind.__module__.partition(".")[0] == package
    )
    return next(ours), str(error)
  # The text of an OSError says all; that of a KeyError is a key.
  if isinstance(error, OSError):
    return errors.RunError, str(error)
  return errors.RunError, f"{type(error).__name__}: {errors.one_line(error)}"


def is_on_all(error: BaseException) -> bool:
  """Returns whether every host raises an error, or another, at this point.

  Then all of them can take part in what follows. Of an error that did not come
  from `agree` it is not known.
  """
  return count() == 1 or hasattr(error, _ON_ALL)


def on_first(work: Callable[[], T]) -> T | None:
  """Calls `work` on the first host; returns None on all other hosts.

  Raises:
    Exception: raised by `work`; on every host, as in `agree`.
  """
  return agree(work if is_first() else lambda: None)


def share_out(work: Callable[[slice], T], total: int) -> list[T]:
  """Divides items among the hosts and collects each host's result.

  Args:
    work: function of this host's slice of the items, from `mine`.
    total: number of items.

  Returns:
    Results of `work`, in host order.

  Raises:
    Exception: raised by `work` on any host, as in `agree`.
  """
  return gather(agree(lambda: work(mine(total))))


def compare(where: str, **values: Any) -> None:
  """Checks that every host has the same values.

  Args:
    where: point in the run, which starts the error message.
    **values: small values to compare, such as digests, by name.

  Raises:
    RunError: hosts differ; the message names the values and the hosts.
  """
  by_host = gather(values)
  differing = [
    f"{name} (hosts {_minority(by_host, name)})"
    for name in values
    if any(host[name] != by_host[0][name] for host in by_host)
  ]
  if differing:
    raise errors.RunError(
      f"{where}: the hosts differ in {'; '.join(differing)}. They must run "
      "one program with one config on the same files; go on from the last "
      "checkpoint once they do"
    )


@contextlib.contextmanager
def lost_ones_named() -> Iterator[None]:
  """Context in which JAX's errors about a lost host become a RunError.

  Raises:
    RunError: another host is gone.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as e:
    text = str(e).strip().splitlines()[0]
    if count() == 1 or not _LOST.search(text):
      raise
    raise errors.RunError(
      f"host {index()} of {count()} cannot go on: {text}. If another host "
      "is gone or has failed, its log says why; start all of them again, "
      "and the run goes on from its last checkpoint"
    ) from e


def _minority(by_host: list[Mapping[str, Any]], name: str) -> str:
  """Numbers of the hosts whose value differs from the most common one."""
  values = [host[name] for host in by_host]
  usual = max(values, key=values.count)
  return ", ".join(str(i) for i, v in enumerate(values) if v != usual)


def _stacked(array) -> np.ndarray:
  """Arrays of all hosts, stacked as [hosts, ...]; equal shapes everywhere."""
  return np.asarray(multihost_utils.process_allgather(array))


def _number(name: str) -> int:
  """Value of an environment variable as a whole number."""
  text = os.environ.get(name, "")
  if not text.isdigit():
    raise errors.InputError(f"{name}={text!r} is not a number")
  return int(text)


def _is_tpu_host() -> bool:
  """Returns whether this machine has TPU chips that JAX may use."""
  platforms = os.environ.get("JAX_PLATFORMS") or "tpu"
  return "tpu" in platforms.split(",") and any(
    os.path.exists(path)
    for path in ("/dev/accel0", "/dev/vfio/0", "/dev/vfio/devices/vfio0")
  )


def _tpu_hosts() -> str:
  """Comma-separated hosts of this machine's TPU slice.

  Without TPU_WORKER_HOSTNAMES and without Google Cloud's metadata server the
  result is "", which `expected` counts as one host.
  """
  named = os.environ.get("TPU_WORKER_HOSTNAMES")
  if named:
    return named
  server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    f"http://{server}/computeMetadata/v1/instance/attributes/"
    "worker-network-endpoints",
    headers={"Metadata-Flavor": "Google"},
  )
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode()
  except (urllib.error.URLError, TimeoutError, ValueError):
    return ""
