"""Writes the measurements of a run, and reads them back as one record.

The files are authoritative (`metrics.jsonl`, `eval.jsonl`, `rollouts/`,
`evals/`); TensorBoard and W&B receive copies. A resumed run first removes
everything after its checkpoint, so that its files equal those of an
uninterrupted run. NaN and infinities are written as `null`: standard JSON has
no such numbers, and many readers refuse Python's extension.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import tempfile
import time

from etils import epath
import numpy as np
import tensorboardX

from progrpo_jax import errors, places
from progrpo_jax.storage import lines

METRICS = "metrics.jsonl"
EVALS = "eval.jsonl"
ROLLOUTS = "rollouts"
EVAL_SAMPLES = "evals"
# Seconds between copies of TensorBoard's file to a bucket.
_COPY_S = 60.0
# Above this size a new TensorBoard file begins: every copy is of a whole file.
_EVENTS_BYTES = 4_000_000
_STEP_FILE = re.compile(r"(\d{6,})\.jsonl$")


def plain(value):
  """Returns a value with numpy and jax values, at any depth, made JSON-able.

  NaN and infinities become None.
  """
  if isinstance(value, dict):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(v) for v in value]
  if value is None or isinstance(value, (bool, int, str)):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  return plain(np.asarray(value).tolist())


def dumps(record):
  """Returns a record as one line of JSON.

  It is ASCII, because a lone surrogate cannot be encoded in UTF-8.
  """
  return json.dumps(plain(record), allow_nan=False)


def functions(names):
  """Returns "<task>/<function>" of each reward function in a row of metrics.

  Only reward functions have a metric `rewards/<task>/<function>/std`; tasks
  have a mean alone.

  Args:
    names: names of metrics.
  """
  matches = (re.fullmatch(r"rewards/(.+)/std", name) for name in sorted(names))
  return [match[1] for match in matches if match]


class MetricWriter:
  """Writes a run's measurements into its workdir.

  Only one process of a run may have a writer.

  Attributes:
    workdir: workdir of the run.
  """

  def __init__(
    self,
    workdir,
    *,
    tensorboard=True,
    wandb=False,
    resume_step=None,
    unfinished=False,
  ):
    """Opens the files of a workdir, which is created if it does not exist.

    Args:
      workdir: local path or gs:// URL.
      tensorboard: whether to write for TensorBoard too.
      wandb: whether to log to W&B too.
      resume_step: last step to keep, everything later is removed; -1 starts
        over; None removes nothing.
      unfinished: whether the evaluation and the metrics of `resume_step` are
        still to come: of that step only the rollouts are kept.

    Raises:
      InputError: wandb is not installed.
    """
    self.workdir = places.make_directory(workdir)
    _cut_files(self.workdir / ROLLOUTS, resume_step)
    if unfinished:
      resume_step -= 1
    for name in (METRICS, EVALS):
      _cut_record(self.workdir / name, resume_step)
    _cut_files(self.workdir / EVAL_SAMPLES, resume_step)
    purge = None if resume_step is None else resume_step + 1
    self._tensorboard = None
    if tensorboard:
      self._tensorboard = _TensorBoard(self.workdir / "tb", purge)
    self._wandb = _start_wandb(self.workdir) if wandb else None

  def write(self, step, values):
    """Appends the line of a training step; `values` maps names to numbers."""
    self._write_line(METRICS, step, values)

  def write_eval(self, step, values):
    """Appends the line of an evaluation; names are `eval/<set>/...`."""
    self._write_line(EVALS, step, values)

  def write_rollouts(self, step, records):
    """Writes the sampled groups of a step, one line per prompt."""
    _write_whole(_step_file(self.workdir / ROLLOUTS, step), records)

  def write_eval_samples(self, step, records):
    """Writes the samples of an evaluation, one line per problem.

    Sets may be written one after the other; a set written again is replaced.

    Args:
      step: number of steps done.
      records: record of each problem, its set named by "set".
    """
    path = _step_file(self.workdir / EVAL_SAMPLES, step)
    new = {record.get("set") for record in records}
    old = lines.read(path) if path.exists() else []
    old = [record for _, record in old if record.get("set") not in new]
    _write_whole(path, [*old, *records])

  def close(self):
    """Closes TensorBoard and W&B; the run's own files are always flushed."""
    if self._tensorboard:
      self._tensorboard.close()
    if self._wandb:
      self._wandb.finish()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _write_line(self, name, step, values):
    values = {key: _scalar(key, value) for key, value in values.items()}
    path = self.workdir / name
    if not _is_local(path):
      path = lines.part(path, int(step))
    _append(path, {"step": int(step), **values})
    # TensorBoard and W&B take numbers only: no texts, no null.
    numbers = {
      k: v
      for k, v in values.items()
      if v is not None and not isinstance(v, str) and k != "step"
    }
    if self._tensorboard:
      self._tensorboard.write(int(step), numbers)
    if self._wandb:
      self._wandb.log(numbers, step=int(step))


class Unwritten:
  """Replaces the writer on every host but the first, which writes alone."""

  def write(self, step, values):
    """Writes nothing."""

  write_eval = write_rollouts = write_eval_samples = write


class _TensorBoard:
  """Writes metrics for TensorBoard.

  In a bucket, tensorboardX would rewrite its whole file for each line in a
  thread, and after a first failure wait for the dead thread for ever. There
  the file is written to a local temporary directory and copied periodically;
  a large file is followed by a new one, so that copies stay small.
  """

  def __init__(self, folder, purge_step):
    self._folder = folder
    self._copied = time.monotonic()
    self._files = 0
    self._local = None
    if not _is_local(folder):
      self._local = epath.Path(tempfile.mkdtemp(prefix="progrpo-tb-"))
    self._open(purge_step)

  def _open(self, purge_step=None):
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

  def write(self, step, numbers):
    for key, value in numbers.items():
      self._writer.add_scalar(key, value, step)
    self._writer.flush()
    if self._local and time.monotonic() - self._copied > _COPY_S:
      self._copy()
      if any(
        path.stat().length > _EVENTS_BYTES for path in self._local.iterdir()
      ):
        self._next()

  def close(self):
    self._writer.close()
    if self._local:
      try:
        self._copy()
      finally:
        self._local.rmtree()

  def _next(self):
    """Closes the current file, copies its end, and begins a new one."""
    self._writer.close()
    self._copy()
    for path in self._local.iterdir():
      path.unlink()
    self._open()

  def _copy(self):
    for path in self._local.iterdir():
      (self._folder / path.name).write_bytes(path.read_bytes())
    self._copied = time.monotonic()


@dataclasses.dataclass(frozen=True)
class Run:
  """The measurements in a workdir.

  Attributes:
    path: workdir.
    config: resolved config, {} if none was written.
    metrics: one dict per training step, by rising step.
    evals: one dict per evaluated step, by rising step.
    damage: messages about unreadable lines, which are skipped; it grows as
      samples are read. None if damage is an error.
  """

  path: epath.Path
  config: dict
  metrics: list
  evals: list
  damage: list | None = None

  @property
  def name(self):
    """Last part of the workdir's path."""
    return self.path.name or os.fspath(self.path)

  def rollout_steps(self):
    """Returns the steps whose sampled groups were written, sorted."""
    return _steps_of(self.path / ROLLOUTS)

  def rollouts(self, step):
    """Returns the sampled groups of a step, one dict per prompt."""
    return lines.samples(_step_file(self.path / ROLLOUTS, step), self.damage)

  def eval_sample_steps(self):
    """Returns the steps whose evaluation samples were written, sorted."""
    return _steps_of(self.path / EVAL_SAMPLES)

  def eval_samples(self, step):
    """Returns the evaluation samples of a step, one dict per problem."""
    path = _step_file(self.path / EVAL_SAMPLES, step)
    return lines.samples(path, self.damage)


def load(workdir, *, require_metrics=True, damage=None) -> Run:
  """Reads the measurements in a workdir.

  Lines of one step are merged; the later value wins. An incomplete last line
  is skipped silently: the run may be writing it now.

  Args:
    workdir: local path or gs:// URL.
    require_metrics: whether a run without a finished step is an error.
    damage: list to which messages about unreadable lines are appended, and
      the lines skipped; None makes them errors.

  Raises:
    InputError: there is no such directory, no finished step (if required), or
      a line cannot be read.
  """
  path = places.place(workdir)
  if not path.is_dir():
    raise errors.InputError(f"no such workdir: {path}")
  metrics = lines.steps(path / METRICS, damage)
  if require_metrics and not metrics:
    if damage:
      raise errors.InputError(f"{path} holds no metrics: {damage[0]}")
    raise errors.InputError(
      f"{path} holds no metrics yet: {METRICS} is missing or empty. Is it the "
      "workdir of a training run that has finished a step?"
    )
  return Run(
    path=path,
    config=lines.config(path / "config.json", damage),
    metrics=metrics,
    evals=lines.steps(path / EVALS, damage),
    damage=damage,
  )


def series(rows, name):
  """Returns (steps, values) of one metric, without absent and null values.

  Args:
    rows: one dict per step, as in `Run.metrics`.
    name: name of the metric.

  Returns:
    Two arrays of one length: whole numbers and floats.
  """
  pairs = [
    (r["step"], r[name]) for r in rows if isinstance(r.get(name), int | float)
  ]
  steps, values = zip(*pairs, strict=True) if pairs else ((), ())
  return np.array(steps, int), np.array(values, float)


def _scalar(key, value):
  """Returns a metric as one JSON value; several values are a ValueError."""
  value = plain(value)
  while isinstance(value, list) and len(value) == 1:
    value = value[0]
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise ValueError(
    f"metric {key!r} must be one number or a text, got {value!r}"
  )


def _is_local(path):
  return "://" not in os.fspath(path)


def _step_file(folder, step):
  return folder / f"{int(step):06d}.jsonl"


def _append(path, record):
  """Appends a line to a file and flushes it to the disk.

  An object store cannot append: there the file is rewritten.
  """
  line = dumps(record) + "\n"
  if not _is_local(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_bytes() if path.exists() else b""
    path.write_bytes(old + line.encode())
    return
  with open(path, "a", encoding="utf-8") as file:
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


def _replace(path, text):
  """Replaces a file atomically: a reader sees the old or the new text."""
  if not _is_local(path):  # writes to an object store are atomic
    path.write_text(text)
    return
  temporary = f"{os.fspath(path)}.tmp"
  with open(temporary, "w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def _write_whole(path, records):
  path.parent.mkdir(parents=True, exist_ok=True)
  _replace(path, "".join(dumps(record) + "\n" for record in records))


def _cut_record(path, last_step):
  """Removes later steps from a record, be it one file or a bucket's parts."""
  for first, file in lines.files(path):
    if last_step is not None and first > max(last_step, 0):
      file.unlink()
    else:
      _cut_lines(file, last_step)


def _cut_lines(path, last_step):
  """Removes lines after `last_step` (None: no limit) and an incomplete one."""
  rows = [row for _, row in lines.read(path)]
  if last_step is not None:
    rows = [row for row in rows if row.get("step", 0) <= last_step]
  text = "".join(dumps(row) + "\n" for row in rows)
  if text != path.read_bytes().decode("utf-8", errors="replace"):
    _replace(path, text)


def _cut_files(folder, last_step):
  """Removes files of later steps and temporary files of killed writes."""
  if not folder.exists():
    return
  for path in list(folder.iterdir()):
    match = _STEP_FILE.match(path.name)
    late = match and last_step is not None and int(match[1]) > last_step
    if late or path.name.endswith(".jsonl.tmp"):
      path.unlink()


def recorded(workdir) -> list[str]:
  """Returns the names of files and directories with records of step 1 or later.

  A new run in the workdir would overwrite them. Records of step 0 do not count:
  a new run measures its start again.

  Args:
    workdir: local path or URL.
  """
  place = epath.Path(workdir)
  names = []
  if any(file.stat().length for _, file in lines.files(place / METRICS)):
    names.append(METRICS)
  for name in (ROLLOUTS, EVAL_SAMPLES):
    if any(step > 0 for step in _steps_of(place / name)):
      names.append(f"{name}/")
  return names


def lost(workdir, step) -> list[str]:
  """Returns sentences about missing lines up to a step, one per record.

  Every step should have a line of metrics, and every step with evaluation
  samples a line of its evaluation. A disk may have lost lines that were written
  before the checkpoint of `step`.

  Args:
    workdir: local path or URL.
    step: step of a checkpoint.
  """
  place = epath.Path(workdir)
  sentences = []
  for name, expected in (
    (METRICS, range(1, step + 1)),
    (EVALS, [s for s in _steps_of(place / EVAL_SAMPLES) if s <= step]),
  ):
    present = {row["step"] for row in lines.steps(place / name, None)}
    missing = [s for s in expected if s not in present]
    if missing:
      numbers = ", ".join(map(str, missing[:5]))
      more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
      sentences.append(
        f"{name} lacks step {numbers}{more}, which the run has finished: "
        "these lines are lost"
      )
  return sentences


def _steps_of(folder):
  if not folder.is_dir():
    return []
  matches = [_STEP_FILE.match(path.name) for path in folder.iterdir()]
  return sorted(int(match[1]) for match in matches if match)


def _start_wandb(workdir):
  """Starts a W&B run, or resumes the one with the same workdir path."""
  try:
    import wandb
  except ImportError as error:
    raise errors.InputError(
      "logging to W&B was asked for, but wandb is not installed: "
      f"{errors.install('wandb')}, or switch it off in the config"
    ) from error
  where = workdir.resolve() if _is_local(workdir) else workdir
  config = workdir / "config.json"
  return wandb.init(
    project="progrpo_jax",
    name=workdir.name,
    id=hashlib.sha256(os.fspath(where).encode()).hexdigest()[:16],
    resume="allow",
    dir=os.fspath(workdir) if _is_local(workdir) else None,
    config=json.loads(config.read_text()) if config.exists() else None,
  )
