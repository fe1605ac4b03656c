"""Compiled programs: kept on disk for the next start, and timed.

JAX keeps compiled programs in a folder (its persistent compilation cache). A
program is found again by its text, the options of the compiler and the versions
of JAX and of the backend, so that a program that changed is compiled again.
What is read back is the machine code that was written: it computes the same
bits.
"""

from collections.abc import Callable
import hashlib
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import threading
import weakref

from etils import epath
import jax

from progrpo_jax import errors, places
from progrpo_jax.devices import hosts

HOME = "~/.cache/progrpo_jax/xla"
# Name of the folder beside the workdirs of a bucket.
BESIDE = ".xla"
# Programs that compile faster than this are not kept: on a disk all are, while
# an object of a bucket takes longer to write than a small program to compile.
_LEAST_S = {False: 0.0, True: 1.0}
# With less than this left, a disk is not filled with programs.
_LEAST_FREE = 1 << 30
# Durations that JAX reports: a program was lowered, and its compilation begins;
# it was compiled, or read from the cache.
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"


def _warn(line: str) -> None:
  print(line, file=sys.stderr)


def keep(
  workdir: str | None = None, say: Callable[[str], None] = _warn
) -> None:
  """Keeps the programs of this process for later ones.

  They go to `HOME`, or if the workdir is in a bucket beside it, as the disks of
  rented machines do not last. The environment has the last word:
  JAX_COMPILATION_CACHE_DIR names another folder,
  JAX_ENABLE_COMPILATION_CACHE=false keeps nothing, and
  JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS is the least time worth keeping.
  A folder that cannot be used costs a message and nothing else.

  On several hosts only a bucket is used: JAX writes on the first host alone,
  and hosts of which some compile and others read may wait for each other.

  Args:
    workdir: workdir of the command, or None.
    say: function called with a line for the user if programs are not kept; it
      goes to stderr if none is given.
  """
  if not jax.config.jax_enable_compilation_cache:
    return
  if jax.config.jax_compilation_cache_dir is not None:
    return
  folder = _folder(workdir)
  try:
    if not places.is_remote(folder) and hosts.expected() > 1:
      return
    _check(folder)
  except (OSError, errors.InputError, errors.RunError) as e:
    say(
      f"compiled programs are not kept for the next start: {folder}: "
      f"{errors.one_line(e)} (JAX_COMPILATION_CACHE_DIR names another folder)"
    )
    return
  jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update(
      "jax_persistent_cache_min_compile_time_secs",
      _LEAST_S[places.is_remote(folder)],
    )


def _folder(workdir: str | None) -> epath.Path:
  """Returns where the programs of this machine's processor are kept.

  XLA's code for a CPU may end the process on a processor with fewer
  instructions: a place that machines share has one folder for each kind.
  """
  if workdir is not None and places.is_remote(workdir):
    scheme, _, path = workdir.partition("://")
    bucket, *inside = path.rstrip("/").split("/")
    home = epath.Path(f"{scheme}://{'/'.join([bucket, *inside[:-1]])}") / BESIDE
  else:
    home = epath.Path(os.path.expanduser(HOME))
  return home / _processor()


def _processor() -> str:
  """Returns a name of the processor by its instructions."""
  machine = platform.machine() or "unknown"
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = [platform.processor()]
  kinds = {
    line
    for line in lines
    if line.startswith(("flags", "Features", "model name", "CPU part"))
  }
  digest = hashlib.sha256("\n".join(sorted(kinds)).encode()).hexdigest()
  return f"{machine}-{digest[:12]}"


def _check(folder: epath.Path) -> None:
  """Creates a folder, and a file in it for a moment.

  Raises:
    OSError: it cannot be written, or the disk is nearly full.
    InputError, RunError: its bucket cannot be used.
  """
  if places.is_remote(folder):
    places.check_bucket(folder)
    return
  # Compiled code is run as it is read: nobody else may write here.
  folder.mkdir(mode=0o700, parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=folder):
    pass
  free = shutil.disk_usage(folder).free
  if free < _LEAST_FREE:
    raise OSError(f"{free / 2**20:.0f} MiB are left on its disk")


class Clock:
  """Adds up the seconds that a thread spends compiling.

  Attributes:
    seconds: seconds so far; reading a kept program counts as well.
  """

  def __init__(self, tell: Callable[[bool], None]):
    """Begins to listen, until the clock is dropped.

    Args:
      tell: function called with True when a compilation begins and with False
        when it ends.
    """
    self.seconds = 0.0
    self._tell = tell
    self._thread = threading.get_ident()
    _CLOCKS.add(self)

  def hear(self, event: str, seconds: float) -> None:
    """Takes note of an event of JAX.

    Args:
      event: name of the event.
      seconds: duration of the event.
    """
    if threading.get_ident() != self._thread:
      return
    if event == _LOWERED:
      self._tell(True)
    elif event == _COMPILED:
      self.seconds += seconds
      self._tell(False)


_CLOCKS: "weakref.WeakSet[Clock]" = weakref.WeakSet()


def _hear(event: str, seconds: float, **_) -> None:
  """Passes an event on to all clocks."""
  for clock in list(_CLOCKS):
    clock.hear(event, seconds)


# JAX's list of listeners lives as long as the process.
jax.monitoring.register_event_duration_secs_listener(_hear)
