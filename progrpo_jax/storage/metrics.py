"""Writes what a run measures, and reads it back as one record.

The files are the truth (`metrics.jsonl`, `eval.jsonl`, `rollouts/`,
`evals/`); TensorBoard and W&B are mirrors of them. A resumed run first cuts
what lies after its checkpoint, so that its files equal those of the unbroken
run. NaN and infinities become `null`: JSON has no word for them, and a file
that half of the readers refuse is worth less than the sign of an infinity.
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
# Between two copies of TensorBoard's file to a bucket.
_COPY_S = 60.0
# A file of TensorBoard that is larger is not copied again: a new one begins.
_EVENTS_BYTES = 4_000_000
_STEP_FILE = re.compile(r"(\d{6,})\.jsonl$")


def plain(value):
  """Turns numpy and jax values, at any depth, into what JSON can hold."""
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
  """One line of JSON; ASCII, so that lone surrogates survive the file."""
  return json.dumps(plain(record), allow_nan=False)


def functions(names):
  """"<task>/<function>" of each reward function that a row of metrics has.

  They alone have a spread of their own, `rewards/<task>/<function>/std`,
  beside the mean that tasks have too.
  """
  found = (re.fullmatch(r"rewards/(.+)/std", name) for name in sorted(names))
  return [match[1] for match in found if match]


class MetricWriter:
  """Writes a run's measurements into its workdir.

  `resume_step=s` keeps everything up to and including step `s` and cuts the
  rest; -1 starts over; None appends to whatever is there. Only one process of
  a run may own a writer.
  """

  def __init__(
    self, workdir, *, tensorboard=True, wandb=False, resume_step=None
  ):
    self.workdir = places.make_directory(workdir)
    for name in (METRICS, EVALS):
      _cut_record(self.workdir / name, resume_step)
    for name in (ROLLOUTS, EVAL_SAMPLES):
      _cut_files(self.workdir / name, resume_step)
    purge = None if resume_step is None else resume_step + 1
    self._tensorboard = None
    if tensorboard:
      self._tensorboard = _TensorBoard(self.workdir / "tb", purge)
    self._wandb = _start_wandb(self.workdir) if wandb else None

  def write(self, step, values):
    """Adds the line of one training step."""
    self._write_line(METRICS, step, values)

  def write_eval(self, step, values):
    """Adds the line of one evaluation; `values` are named `eval/<set>/...`."""
    self._write_line(EVALS, step, values)

  def write_rollouts(self, step, records):
    """Writes the sampled groups of a step, one prompt a line."""
    _write_whole(_step_file(self.workdir / ROLLOUTS, step), records)

  def write_eval_samples(self, step, records):
    """Writes the samples of an evaluation, one problem a line.

    Sets may be written one after the other; a set written again is replaced.
    """
    path = _step_file(self.workdir / EVAL_SAMPLES, step)
    new = {record.get("set") for record in records}
    old = lines.read(path) if path.exists() else []
    old = [record for _, record in old if record.get("set") not in new]
    _write_whole(path, [*old, *records])

  def close(self):
    """Flushes the mirrors; the files need none."""
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
    numbers = {
        k: v for k, v in values.items()
        if v is not None and not isinstance(v, str) and k != "step"}
    if self._tensorboard:
      self._tensorboard.write(int(step), numbers)
    if self._wandb:
      self._wandb.log(numbers, step=int(step))


class Unwritten:
  """Stands for the writer on hosts that leave the writing to the first."""

  def write(self, step, values):
    """Writes nothing."""

  write_eval = write_rollouts = write_eval_samples = write


class _TensorBoard:
  """The mirror in TensorBoard's format.

  In a bucket tensorboardX would write its file anew for each line, from a
  thread that the first failure ends, and wait for that thread for ever. There
  the file is written on this machine and copied now and then, and from a
  certain size on followed by another, so that a copy stays small.
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
    """Begins a file; TensorBoard reads those of a folder by their names."""
    # The names begin with the second; two files of one second differ by this.
    suffix = f".{self._files:06d}" if self._files else ""
    self._files += 1
    self._writer = tensorboardX.SummaryWriter(
      os.fspath(self._local or self._folder), purge_step=purge_step,
      flush_secs=10, filename_suffix=suffix,
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
    """Ends the file, copies what is still to come of it, begins another."""
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
  """A workdir as its readers see it.

  path: the workdir.
  config: the resolved config, {} where none was written.
  metrics: one dict a training step, by rising step.
  evals: one dict an evaluated step, by rising step.
  damage: what could not be read and was left out; grows as samples are read.
  None where damage is an error.
  """

  path: epath.Path
  config: dict
  metrics: list
  evals: list
  damage: list | None = None

  @property
  def name(self):
    """The workdir's last part."""
    return self.path.name or os.fspath(self.path)

  def rollout_steps(self):
    """Steps whose sampled groups were written."""
    return _steps_of(self.path / ROLLOUTS)

  def rollouts(self, step):
    """The sampled groups of a step."""
    return lines.samples(_step_file(self.path / ROLLOUTS, step), self.damage)

  def eval_sample_steps(self):
    """Steps whose evaluation samples were written."""
    return _steps_of(self.path / EVAL_SAMPLES)

  def eval_samples(self, step):
    """The samples of the evaluation at a step."""
    path = _step_file(self.path / EVAL_SAMPLES, step)
    return lines.samples(path, self.damage)


def load(workdir, *, require_metrics=True, damage=None) -> Run:
  """Reads a workdir; lines of one step are merged, the later value wins.

  A torn last line is that of a run that is being written, and is left out.
  Whatever else cannot be read is an error, or joins the list `damage`, if one
  is given, and is left out.

  Raises InputError for a missing directory, for a run that has not finished
  a step yet (unless `require_metrics=False`), and for damage.
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
  """(steps, values) of one metric as arrays, without absent and null ones."""
  found = [
    (r["step"], r[name]) for r in rows if isinstance(r.get(name), int | float)]
  steps, values = zip(*found, strict=True) if found else ((), ())
  return np.array(steps, int), np.array(values, float)


def _scalar(key, value):
  """One number of a line; anything with a shape is a mistake of the caller."""
  value = plain(value)
  while isinstance(value, list) and len(value) == 1:
    value = value[0]
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise ValueError(
      f"metric {key!r} must be one number or a text, got {value!r}")


def _is_local(path):
  return "://" not in os.fspath(path)


def _step_file(folder, step):
  return folder / f"{int(step):06d}.jsonl"


def _append(path, record):
  """Adds a line durably; object stores cannot append, there it rewrites."""
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
  """Writes a file so that a reader sees the old text or the new, no mixture."""
  if not _is_local(path):  # an object store replaces a file in one go
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
  """Drops what a record holds of later steps, whichever way it is stored."""
  for first, file in lines.files(path):
    if last_step is not None and first > max(last_step, 0):
      file.unlink()
    else:
      _cut_lines(file, last_step)


def _cut_lines(path, last_step):
  """Drops lines after `last_step` (None: none) and a torn last line."""
  rows = [row for _, row in lines.read(path)]
  if last_step is not None:
    rows = [row for row in rows if row.get("step", 0) <= last_step]
  text = "".join(dumps(row) + "\n" for row in rows)
  if text != path.read_bytes().decode("utf-8", errors="replace"):
    _replace(path, text)


def _cut_files(folder, last_step):
  """Removes the files of later steps, and what a killed write left behind."""
  if not folder.exists():
    return
  for path in list(folder.iterdir()):
    match = _STEP_FILE.match(path.name)
    late = match and last_step is not None and int(match[1]) > last_step
    if late or path.name.endswith(".jsonl.tmp"):
      path.unlink()


def recorded(workdir) -> list[str]:
  """Names of what a workdir holds of steps after the start.

  A new run would overwrite these; what it measures before its first step it
  measures again.
  """
  place = epath.Path(workdir)
  found = []
  if any(file.stat().length for _, file in lines.files(place / METRICS)):
    found.append(METRICS)
  for name in (ROLLOUTS, EVAL_SAMPLES):
    if any(step > 0 for step in _steps_of(place / name)):
      found.append(f"{name}/")
  return found


def lost(workdir, step) -> list[str]:
  """What the records up to a step lack, one sentence a record.

  A disk may lose what a checkpoint of the run says was written: each step has
  a line of metrics, and each step with samples of an evaluation a line of it.
  """
  place = epath.Path(workdir)
  sentences = []
  for name, expected in (
    (METRICS, range(1, step + 1)),
    (EVALS, [s for s in _steps_of(place / EVAL_SAMPLES) if s <= step])):
    there = {row["step"] for row in lines.steps(place / name, None)}
    missing = [s for s in expected if s not in there]
    if missing:
      numbers = ", ".join(map(str, missing[:5]))
      more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
      sentences.append(
        f"{name} lacks step {numbers}{more}, which the run has gone through: "
        "these lines are lost")
  return sentences


def _steps_of(folder):
  if not folder.is_dir():
    return []
  matches = [_STEP_FILE.match(path.name) for path in folder.iterdir()]
  return sorted(int(match[1]) for match in matches if match)


def _start_wandb(workdir):
  """A W&B run that a resumed run finds again, by the workdir's path."""
  try:
    import wandb
  except ImportError as error:
    raise errors.InputError(
      "logging to W&B was asked for, but wandb is not installed: "
      "run `pip install wandb`, or switch it off in the config"
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
