"""Loggers, which receive copies of a run's record: TensorBoard, W&B, trackio.

A logger is an object with `log(step, numbers)`, and if it wants them
`table(step, name, columns, rows)` and `close()`. A user's own is what a
function of the user's returns for a workdir. The record itself is in the files
of the workdir (`storage/metrics.py`): a logger that fails costs copies, never
the run.
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
import importlib
import json
import os
import sys
import tempfile
import time
import types
from typing import Any

from etils import epath
import tensorboardX

from progrpo_jax import errors, places

_PROJECT = "progrpo_jax"
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

  The run of a workdir is resumed by its name or id, so that a resumed run goes
  on in the same curves.
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

  def __init__(self, name: str, logger: Any):
    """Wraps a logger.

    Args:
      name: name of the logger in messages.
      logger: object with `log`, and perhaps `table` and `close`.
    """
    self._name, self._logger = name, logger
    self._failures = 0

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


def wandb(workdir: epath.Path) -> Tracker:
  """Starts a W&B run, or resumes the one with the same workdir path.

  Raises:
    InputError: wandb is not installed.
  """
  module = _module("wandb")
  run = module.init(
    project=_PROJECT,
    name=workdir.name,
    id=_digest(workdir),
    resume="allow",
    dir=None if places.is_remote(workdir) else os.fspath(workdir),
    config=_config(workdir),
  )
  return Tracker(module, run)


def trackio(workdir: epath.Path) -> Tracker:
  """Starts a trackio run, or resumes the one with the same workdir path.

  Raises:
    InputError: trackio is not installed.
  """
  module = _module("trackio")
  # A run is found again by its name, and workdirs may have equal names.
  run = module.init(
    project=_PROJECT,
    name=f"{workdir.name}-{_digest(workdir)[:6]}",
    resume="allow",
    config=_config(workdir),
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


def _digest(workdir: epath.Path) -> str:
  """Returns an id of a workdir: the same path has the same id."""
  where = workdir if places.is_remote(workdir) else workdir.resolve()
  return hashlib.sha256(os.fspath(where).encode()).hexdigest()[:16]


def _config(workdir: epath.Path) -> dict[str, Any] | None:
  path = workdir / "config.json"
  return json.loads(path.read_text()) if path.exists() else None
