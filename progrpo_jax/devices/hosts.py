"""The processes of a run: one a host, each with the devices of its own.

All run the same program on the same data. What is computed on devices is
computed by all of them together; what is done on a host is either cheap, and
done by every one alike, or shared out (`mine`) and handed round (`gather`); or
it writes a file, and is the first host's. A decision is made from values that
every host has alike, and `compare` finds out where that has failed.

On one process nothing of this costs anything. Each function here but `connect`
and `mine` is a meeting: every process calls it, in the same order.
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

# A host that ends alone waits so long for the others to end too. All that is
# slow, such as the last checkpoint, is behind them by then.
_SHUTDOWN_S = 30
# Values are sent in this many bytes or twice, four times, ... as many: few
# shapes, and so few programs.
_LEAST_BYTES = 1 << 12
# What an error of JAX says where the other end of a transfer is gone.
_LOST = re.compile(
    "UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|[Gg]loo|NCCL|"
    "[Cc]onnection|heartbeat|coordination")


def expected() -> int:
  """How many processes the environment names, without any of JAX's devices.

  In turn: JAX_NUM_PROCESSES, beside JAX_COORDINATOR_ADDRESS and
  JAX_PROCESS_ID; the tasks of a step of Slurm or of an Open MPI job; the
  hosts of a TPU, of which its variables or the machine's metadata tell.

  Raises:
    InputError: a variable is not what it should be.
  """
  for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS",
               "OMPI_COMM_WORLD_SIZE"):
    if os.environ.get(name):
      return _number(name)
  if os.environ.get("JAX_COORDINATOR_ADDRESS"):
    raise errors.InputError(
        "JAX_COORDINATOR_ADDRESS is set: set JAX_NUM_PROCESSES and "
        "JAX_PROCESS_ID too")
  if not _is_tpu_host():
    return 1
  slices = os.environ.get("MEGASCALE_NUM_SLICES")
  return len(_tpu_hosts().split(",")) * (
      _number("MEGASCALE_NUM_SLICES") if slices else 1)


def connect(heartbeat_s: int = 100) -> None:
  """Joins the other processes of the run, if there are any.

  It comes before anything that asks JAX for a device.

  Args:
    heartbeat_s: seconds without a word after which a process counts as lost,
      and all others end.

  Raises:
    InputError: the environment's variables contradict each other.
    RunError: the others did not come.
  """
  if expected() < 2 or jax.distributed.is_initialized():
    return
  given = {}
  if os.environ.get("JAX_NUM_PROCESSES"):
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not address or ":" not in address:
      raise errors.InputError(
          "JAX_NUM_PROCESSES is set: set JAX_COORDINATOR_ADDRESS to "
          "HOST:PORT of process 0 and JAX_PROCESS_ID to this one's number")
    given = dict(
        coordinator_address=address, num_processes=expected(),
        process_id=_number("JAX_PROCESS_ID"))
    if given["process_id"] >= given["num_processes"]:
      raise errors.InputError(
          f"JAX_PROCESS_ID={given['process_id']} is not below "
          f"JAX_NUM_PROCESSES={given['num_processes']}")
  try:
    jax.distributed.initialize(
        **given, heartbeat_timeout_seconds=heartbeat_s,
        shutdown_timeout_seconds=_SHUTDOWN_S)
  except ValueError as e:
    raise errors.InputError(f"the hosts of the run: {e}") from e
  except RuntimeError as e:
    raise errors.RunError(
        f"the other hosts of the run did not come: {e}") from e


def count() -> int:
  """The number of processes."""
  return jax.process_count()


def index() -> int:
  """This process's number, from 0."""
  return jax.process_index()


def is_first() -> bool:
  """Whether this process is the one that writes."""
  return index() == 0


def mine(total: int) -> slice:
  """This host's share of so many things: a part of near-equal, ordered parts.
  """
  return slice(
      total * index() // count(), total * (index() + 1) // count())


def gather(value: T) -> list[T]:
  """Every host's value, in the order of the hosts.

  Args:
    value: anything that can be pickled: the processes of a run trust each
      other.
  """
  if count() == 1:
    return [value]
  data = np.frombuffer(pickle.dumps(value), np.uint8)
  sizes = _all(np.int32(data.size))
  width = _LEAST_BYTES
  while width < sizes.max():
    width *= 2
  found = _all(np.pad(data, (0, width - data.size)))
  return [
      pickle.loads(found[i, :size].tobytes()) for i, size in enumerate(sizes)]


def any_of(flag: bool) -> bool:
  """Whether it is so on any host."""
  return bool(flag) if count() == 1 else bool(_all(np.bool_(flag)).any())


def from_first(value: T) -> T:
  """The first host's value."""
  return gather(value if is_first() else None)[0]


def agree(work: Callable[[], T]) -> T:
  """Does something on every host; where it fails on one, it fails on all.

  Raises:
    InputError, RunError, OSError: of `work`, on this host or on another.
  """
  if count() == 1:
    return work()
  result = error = None
  try:
    result = work()
  except (errors.InputError, errors.RunError, OSError) as e:
    error = e
  failed = gather(None if error is None else (type(error), str(error)))
  if error is not None:
    raise error
  for host, failure in enumerate(failed):
    if failure is not None:
      kind, text = failure
      raise (kind if issubclass(kind, (errors.InputError, errors.RunError))
             else errors.RunError)(f"host {host}: {text}")
  return result


def on_first(work: Callable[[], T]) -> T | None:
  """Does something on the first host alone; elsewhere it is None.

  Raises:
    InputError, RunError, OSError: of `work`, on every host.
  """
  return agree(work if is_first() else lambda: None)


def share_out(work: Callable[[slice], T], total: int) -> list[T]:
  """What `work` makes of each host's share, in the order of the hosts.

  Args:
    work: of `mine(total)`.
    total: things to share out.

  Raises:
    InputError, RunError, OSError: of `work`, on any host.
  """
  return gather(agree(lambda: work(mine(total))))


def compare(where: str, **values: Any) -> None:
  """Finds out whether every host has the same values.

  Args:
    where: for the message.
    **values: small ones, such as digests, by their names.

  Raises:
    RunError: they differ; the message names the values and the hosts.
  """
  found = gather(values)
  wrong = [
      f"{name} (hosts {_those(found, name)})" for name in values
      if any(one[name] != found[0][name] for one in found)]
  if wrong:
    raise errors.RunError(
        f"{where}: the hosts differ in {'; '.join(wrong)}. They must run one "
        "program with one config on the same files; go on from the last "
        "checkpoint once they do")


@contextlib.contextmanager
def lost_ones_named() -> Iterator[None]:
  """What JAX raises when a host is gone is raised as a RunError."""
  try:
    yield
  except jax.errors.JaxRuntimeError as e:
    text = str(e).strip().splitlines()[0]
    if count() == 1 or not _LOST.search(text):
      raise
    raise errors.RunError(
        f"host {index()} of {count()} cannot go on: {text}. If another host "
        "is gone or has failed, its log says why; start all of them again, "
        "and the run goes on from its last checkpoint") from e


def _those(found: list[Mapping[str, Any]], name: str) -> str:
  """Which hosts have something else than most."""
  values = [one[name] for one in found]
  usual = max(values, key=values.count)
  return ", ".join(str(i) for i, v in enumerate(values) if v != usual)


def _all(array) -> np.ndarray:
  """Every host's array of one shape, stacked."""
  return np.asarray(multihost_utils.process_allgather(array))


def _number(name: str) -> int:
  """A variable of the environment as a number."""
  text = os.environ.get(name, "")
  if not text.isdigit():
    raise errors.InputError(f"{name}={text!r} is not a number")
  return int(text)


def _is_tpu_host() -> bool:
  """Whether this machine has TPU chips that JAX may use."""
  platforms = os.environ.get("JAX_PLATFORMS") or "tpu"
  return "tpu" in platforms.split(",") and any(
      os.path.exists(path) for path in (
          "/dev/accel0", "/dev/vfio/0", "/dev/vfio/devices/vfio0"))


def _tpu_hosts() -> str:
  """The hosts of this machine's TPU with commas between them.

  Off Google Cloud nobody tells, and there is one.
  """
  named = os.environ.get("TPU_WORKER_HOSTNAMES")
  if named:
    return named
  server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
      f"http://{server}/computeMetadata/v1/instance/attributes/"
      "worker-network-endpoints", headers={"Metadata-Flavor": "Google"})
  try:
    with urllib.request.urlopen(request, timeout=5) as answer:
      return answer.read().decode()
  except (urllib.error.URLError, TimeoutError, ValueError):
    return ""
