"""Loggers, which receive copies of a run's record: TensorBoard, W&B, trackio.

A logger is an object with `log(step, numbers)`, and if it wants them
`table(step, name, columns, rows)` and `close()`. A user's own is what a
function of the user's returns for a workdir. The record itself is in the files
of the workdir (`storage/metrics.py`): a logger that fails costs copies, never
the run, be it at its start or later.
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
import importlib
import os
import sys
import tempfile
import time
import types
from typing import Any
import uuid

from etils import epath
import tensorboardX

from progrpo_jax import errors, places
from progrpo_jax.storage import lines

_PROJECT = "progrpo_jax"
# File of a workdir with the id of its run in W&B and trackio.
RUN_ID = "run_id"
# Packages that log to a service, each a key of `config.log` and an extra.
TRACKERS = ("wandb", "trackio")
# Seconds between copies of TensorBoard's file to a bucket.
COPY_S = 60.0
# Above this size a new TensorBoard file begins: every copy is of a whole file.
EVENTS_BYTES = 4_000_000


class TensorBoard:
  """Writes metrics for TensorBoard.

  In a bucket, tensorboardX would rewrite its whole file for each line in a
  thread, and after a first failure wait for the dead thread for ever. There
  the file is written to a local temporary directory and copied periodically;
  a large file is followed by a new one, so that copies stay small.
  """

  def __init__(self, folder: epath.Path, purge_step: int | None):
    """Begins a file.

    Args:
      folder: directory of the files, local or remote.
      purge_step: step from which on TensorBoard drops what older files hold,
        or None.
    """
    self._folder = folder
    self._copied = time.monotonic()
    self._files = 0
    self._broken = False
    self._local = None
    if places.is_remote(folder):
      self._local = epath.Path(tempfile.mkdtemp(prefix="progrpo-tb-"))
    self._open(purge_step)

  def _open(self, purge_step: int | None = None) -> None:
    """Begins a file; TensorBoard reads a directory's files in name order."""
    # Names begin with the time in seconds, so files of one second need this.
    suffix = f".{self._files:06d}" if self._files else ""
    self._files += 1
    self._writer = tensorboardX.SummaryWriter(
      os.fspath(self._local or self._folder),
      purge_step=purge_step,
      flush_secs=10,
      filename_suffix=suffix,
    )

  def log(self, step: int, numbers: Mapping[str, float]) -> None:
    if self._broken:
      return
    # tensorboardX writes in a thread, for which it would wait for ever once a
    # failure has ended it. So a first failure, which is raised, is the last.
    self._broken = True
    for key, value in numbers.items():
      self._writer.add_scalar(key, value, step)
    self._writer.flush()
    self._broken = False
    if self._local and time.monotonic() - self._copied > COPY_S:
      self._copy()
      if any(
        path.stat().length > EVENTS_BYTES for path in self._local.iterdir()
      ):
        self._next()

  def close(self) -> None:
    if not self._broken:
      self._writer.close()
    if self._local:
      try:
        self._copy()
      finally:
        self._local.rmtree()

  def _next(self) -> None:
    """Closes the current file, copies its end, and begins a new one."""
    self._writer.close()
    self._copy()
    for path in self._local.iterdir():
      path.unlink()
    self._open()

  def _copy(self) -> None:
    for path in self._local.iterdir():
      (self._folder / path.name).write_bytes(path.read_bytes())
    self._copied = time.monotonic()


class Tracker:
  """Logs to W&B, or to trackio, whose functions have the same names.

  The run of a workdir is found again by the id in its `RUN_ID`, so that a
  resumed run goes on in the same curves. A path would not do: containers and
  notebooks have workdirs of equal paths, and one that was deleted may begin
  anew; a service that takes two runs for one drops the steps of the second.
  """

  def __init__(self, module: Any, run: Any):
    """Wraps a started run.

    Args:
      module: the package, wandb or trackio.
      run: the run that its `init` returned.
    """
    self._module, self._run = module, run

  def log(self, step: int, numbers: Mapping[str, float]) -> None:
    self._run.log(numbers, step=step)

  def table(
    self,
    step: int,
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
  ) -> None:
    table = self._module.Table(columns=columns, data=rows)
    self._run.log({name: table}, step=step)

  def close(self) -> None:
    self._run.finish()


class Guarded:
  """A logger that may fail: its errors are counted and said, not raised."""

  def __init__(self, name: str, start: Callable[[], Any]):
    """Starts a logger; one that cannot start gets nothing.

    It is not tried again: a service that is not there may cost a minute and
    more until it counts as not there.

    Args:
      name: name of the logger in messages.
      start: function to an object with `log`, and perhaps `table` and `close`.

    Raises:
      InputError: wrong input, which waiting does not mend.
    """
    self._name, self._logger = name, None
    self._failures = 0
    try:
      self._logger = start()
    except errors.InputError:
      raise
    except Exception as error:
      self._say(
        f"did not start, and gets nothing ({errors.one_line(error)}); the run "
        "goes on, and its own files have everything"
      )

  def log(self, step: int, numbers: Mapping[str, float]) -> None:
    """Passes on the numbers of a step."""
    self._try(f"step {step}", "log", step, numbers)

  def table(
    self,
    step: int,
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
  ) -> None:
    """Passes on a table, if the logger takes tables."""
    self._try(f"{name} of step {step}", "table", step, name, columns, rows)

  def close(self) -> None:
    """Closes the logger, if it can be closed, and says how often it failed."""
    self._try("its end", "close")
    if self._failures > 1:
      self._say(f"failed {self._failures} times in all")

  def _try(self, what: str, method: str, *args: Any) -> None:
    function = getattr(self._logger, method, None)
    if function is None:
      return
    try:
      function(*args)
    except Exception as error:
      self._failures += 1
      if self._failures == 1:
        self._say(
          f"{what} was not logged ({errors.one_line(error)}); the run goes on, "
          "and its own files have everything"
        )

  def _say(self, text: str) -> None:
    print(f"logger {self._name}: {text}", file=sys.stderr, flush=True)


def check(package: str, login: bool = True) -> None:
  """Refuses a tracker that cannot start here, before anything is loaded.

  Args:
    package: one of `TRACKERS`.
    login: whether this process will log, and so needs a login.

  Raises:
    InputError: the package is not installed, or W&B has no login.
  """
  module = _module(package)
  if package != "wandb" or not login:
    return
  try:
    # In a terminal it asks for the key, as the start of the run would.
    module.login(verify=False)
  except module.errors.UsageError as error:
    raise errors.InputError(
      f"log.wandb is True, but W&B has no login ({errors.one_line(error)}): "
      "run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline"
    ) from error
  except Exception:
    # The service may not answer now. Whether the run is logged is said when
    # the logger starts.
    return


def wandb(
  workdir: epath.Path, config: Mapping[str, Any] | None, run_id: str
) -> Tracker:
  """Starts a W&B run, or resumes the one with the same id.

  Args:
    workdir: workdir of the run, whose last folder names it.
    config: config of the run, if it is known.
    run_id: see `run_id`.

  Raises:
    InputError: wandb is not installed.
  """
  module = _module("wandb")
  run = module.init(
    project=_PROJECT,
    name=workdir.name,
    id=run_id,
    resume="allow",
    dir=None if places.is_remote(workdir) else os.fspath(workdir),
    config=config,
  )
  return Tracker(module, run)


def trackio(
  workdir: epath.Path, config: Mapping[str, Any] | None, run_id: str
) -> Tracker:
  """Starts a trackio run, or resumes the one with the same name and id.

  Args:
    workdir: workdir of the run, whose last folder begins its name.
    config: config of the run, if it is known.
    run_id: see `run_id`.

  Raises:
    InputError: trackio is not installed.
  """
  module = _module("trackio")
  # A run is found again by its name, and workdirs may have equal names.
  run = module.init(
    project=_PROJECT,
    name=f"{workdir.name}-{run_id[:6]}",
    resume="allow",
    config=config,
  )
  return Tracker(module, run)


def users(
  make: Callable[[epath.Path], Any], name: str, workdir: epath.Path
) -> Any:
  """Returns a user's logger.

  Args:
    make: the user's function or class, called with the workdir.
    name: its import path, for messages.
    workdir: workdir of the run.

  Raises:
    InputError: it raised, or what it returned has no method `log`.
  """
  with errors.of_user(f"log.logger = {name!r}"):
    logger = make(workdir)
  if not callable(getattr(logger, "log", None)):
    raise errors.InputError(
      f"log.logger = {name!r} returned {type(logger).__name__}, which has no "
      "method log(step, numbers)"
    )
  return logger


def _module(package: str) -> types.ModuleType:
  """Imports the package of a tracker, which is also the name of its extra."""
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise errors.InputError(
      f"log.{package} is True, but the package {package} is not installed: "
      f"{errors.install(package)}, or set log.{package} to False"
    ) from error


def run_id(workdir: epath.Path, resumed: bool) -> str:
  """Returns the id of a workdir's run in the trackers, the same each time.

  It is drawn when the run begins and kept in a file of the workdir. Runs of
  versions that had no such file were found by the workdir's path, and are
  still.

  Args:
    workdir: workdir of the run.
    resumed: whether the run goes on from a step of before.

  Raises:
    OSError: the file cannot be read or written.
  """
  path = workdir / RUN_ID
  if path.exists():
    return path.read_text().strip()
  found = uuid.uuid4().hex[:16]
  if resumed and _was_tracked(workdir):
    where = workdir if places.is_remote(workdir) else workdir.resolve()
    found = hashlib.sha256(os.fspath(where).encode()).hexdigest()[:16]
  places.write(path, found + "\n")
  return found


def _was_tracked(workdir: epath.Path) -> bool:
  """Returns whether the config in a workdir asked for a tracker.

  Until a resumed run begins its loop, that is the config of before.
  """
  log = lines.config(workdir / "config.json", damage=[]).get("log")
  return isinstance(log, dict) and any(log.get(name) for name in TRACKERS)
