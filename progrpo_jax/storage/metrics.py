"""Writes the measurements of a run, and reads them back as one record.

The files are authoritative (`metrics.jsonl`, `eval.jsonl`, `rollouts/`,
`evals/`); loggers receive copies. A resumed run first removes
everything after its checkpoint, so that its files equal those of an
uninterrupted run. NaN and infinities are written as `null`: standard JSON has
no such numbers, and many readers refuse Python's extension.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import json
import math
import os
import re
from typing import Any

from etils import epath
import numpy as np

from progrpo_jax import errors, places
from progrpo_jax.storage import lines, loggers

METRICS = "metrics.jsonl"
EVALS = "eval.jsonl"
ROLLOUTS = "rollouts"
EVAL_SAMPLES = "evals"
# Columns of the table of completions that loggers receive.
_COLUMNS = (
  "step",
  "task",
  "prompt",
  "completion",
  "reward",
  "correct",
  "advantage",
  "length",
)
_STEP_FILE = re.compile(r"(\d{6,})\.jsonl$")


def plain(value: Any) -> Any:
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


def dumps(record: Mapping[str, Any]) -> str:
  """Returns a record as one line of JSON.

  It is ASCII, because a lone surrogate cannot be encoded in UTF-8.
  """
  return json.dumps(plain(record), allow_nan=False)


def functions(names: Iterable[str]) -> list[str]:
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
    workdir: str | os.PathLike,
    *,
    tensorboard: bool = True,
    wandb: bool = False,
    trackio: bool = False,
    logger: tuple[str, Callable[[epath.Path], Any]] | None = None,
    config: Mapping[str, Any] | None = None,
    resume_step: int | None = None,
    unfinished: bool = False,
  ):
    """Opens the files of a workdir, which is created if it does not exist.

    Args:
      workdir: local path or gs:// URL.
      tensorboard: whether to write for TensorBoard too.
      wandb: whether to log to W&B too.
      trackio: whether to log to trackio too.
      logger: (import path, function) of a user's logger, see
        `loggers.users`, or None.
      config: config that W&B and trackio show. On resume the file in the
        workdir is still the one of before.
      resume_step: last step to keep, everything later is removed; -1 starts
        over; None removes nothing.
      unfinished: whether the evaluation and the metrics of `resume_step` are
        still to come: of that step only the rollouts are kept.

    Raises:
      InputError: a package is not installed, or the user's logger cannot be
        made.
    """
    self.workdir = places.make_directory(workdir)
    resumed = resume_step is not None and resume_step >= 0
    _cut_files(self.workdir / ROLLOUTS, resume_step)
    if unfinished:
      resume_step -= 1
    for name in (METRICS, EVALS):
      _cut_record(self.workdir / name, resume_step)
    _cut_files(self.workdir / EVAL_SAMPLES, resume_step)
    purge = None if resume_step is None else resume_step + 1
    self._tensorboard = None
    if tensorboard:
      self._tensorboard = loggers.Guarded(
        "tensorboard", lambda: loggers.TensorBoard(self.workdir / "tb", purge)
      )
    self._loggers = []
    for is_wanted, make in ((wandb, loggers.wandb), (trackio, loggers.trackio)):
      if is_wanted:
        start = functools.partial(self._track, make, config, resumed)
        self._loggers.append(loggers.Guarded(make.__name__, start))
    if logger:
      name, make = logger
      start = functools.partial(loggers.users, make, name, self.workdir)
      self._loggers.append(loggers.Guarded(name, start))

  def _track(self, make, config, resumed: bool) -> loggers.Tracker:
    """Starts a tracker with the id of the workdir's run."""
    return make(self.workdir, config, loggers.run_id(self.workdir, resumed))

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends the line of a training step; `values` maps names to numbers."""
    self._write_line(METRICS, step, values)

  def write_eval(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends the line of an evaluation; names are `eval/<set>/...`."""
    self._write_line(EVALS, step, values)

  def write_rollouts(
    self, step: int, records: Sequence[Mapping[str, Any]]
  ) -> None:
    """Writes the sampled groups of a step, one line per prompt."""
    _write_whole(_step_file(self.workdir / ROLLOUTS, step), records)
    rows = _table(records) if self._loggers else []
    for logger in self._loggers:
      logger.table(int(step), "completions", list(_COLUMNS), rows)

  def write_eval_samples(
    self, step: int, records: Sequence[Mapping[str, Any]]
  ) -> None:
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

  def close(self) -> None:
    """Closes the loggers; the run's own files are always flushed."""
    if self._tensorboard:
      self._tensorboard.close()
    for logger in self._loggers:
      logger.close()

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _write_line(
    self, name: str, step: int, values: Mapping[str, Any]
  ) -> None:
    values = {key: _scalar(key, value) for key, value in values.items()}
    path = self.workdir / name
    if places.is_remote(path):
      path = lines.part(path, int(step))
    _append(path, {"step": int(step), **values})
    # Loggers take numbers only: no texts, no null.
    numbers = {
      k: v
      for k, v in values.items()
      if v is not None and not isinstance(v, str) and k != "step"
    }
    if self._tensorboard:
      self._tensorboard.log(int(step), numbers)
    for logger in self._loggers:
      logger.log(int(step), numbers)


class Unwritten:
  """Replaces the writer on every host but the first, which writes alone."""

  def write(self, step: int, values: Any) -> None:
    """Writes nothing."""

  write_eval = write_rollouts = write_eval_samples = write


@dataclasses.dataclass(frozen=True)
class Record:
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
  config: dict[str, Any]
  metrics: list[dict[str, Any]]
  evals: list[dict[str, Any]]
  damage: list[str] | None = None

  @property
  def name(self) -> str:
    """Last part of the workdir's path."""
    return self.path.name or os.fspath(self.path)

  def rollout_steps(self) -> list[int]:
    """Returns the steps whose sampled groups were written, sorted."""
    return _steps_of(self.path / ROLLOUTS)

  def rollouts(self, step: int) -> list[dict[str, Any]]:
    """Returns the sampled groups of a step, one dict per prompt."""
    return lines.samples(_step_file(self.path / ROLLOUTS, step), self.damage)

  def eval_sample_steps(self) -> list[int]:
    """Returns the steps whose evaluation samples were written, sorted."""
    return _steps_of(self.path / EVAL_SAMPLES)

  def eval_samples(self, step: int) -> list[dict[str, Any]]:
    """Returns the evaluation samples of a step, one dict per problem."""
    path = _step_file(self.path / EVAL_SAMPLES, step)
    return lines.samples(path, self.damage)


def load(
  workdir: str | os.PathLike,
  *,
  require_metrics: bool = True,
  damage: list[str] | None = None,
) -> Record:
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
  return Record(
    path=path,
    config=lines.config(path / "config.json", damage),
    metrics=metrics,
    evals=lines.steps(path / EVALS, damage),
    damage=damage,
  )


def series(
  rows: Sequence[Mapping[str, Any]], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns (steps, values) of one metric, without absent and null values.

  Args:
    rows: one dict per step, as in `Record.metrics`.
    name: name of the metric.

  Returns:
    Two arrays of one length: whole numbers and floats.
  """
  pairs = [
    (r["step"], r[name]) for r in rows if isinstance(r.get(name), int | float)
  ]
  steps, values = zip(*pairs, strict=True) if pairs else ((), ())
  return np.array(steps, int), np.array(values, float)


def _table(records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
  """Returns the completions of sampled groups as rows, see `_COLUMNS`."""
  return [
    [
      plain(value)
      for value in (
        record.get("step"),
        record.get("task"),
        record.get("prompt"),
        completion.get("text"),
        completion.get("reward"),
        completion.get("correct"),
        completion.get("advantage"),
        completion.get("length"),
      )
    ]
    for record in records
    for completion in record["completions"]
  ]


def _scalar(key: str, value: Any) -> bool | int | float | str | None:
  """Returns a metric as one JSON value; several values are a ValueError."""
  value = plain(value)
  while isinstance(value, list) and len(value) == 1:
    value = value[0]
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise ValueError(
    f"metric {key!r} must be one number or a text, got {value!r}"
  )


def _step_file(folder: epath.Path, step: int) -> epath.Path:
  return folder / f"{int(step):06d}.jsonl"


def _append(path: epath.Path, record: Mapping[str, Any]) -> None:
  """Appends a line to a file and flushes it to the disk.

  An object store cannot append: there the file is rewritten.
  """
  line = dumps(record) + "\n"
  if places.is_remote(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_bytes() if path.exists() else b""
    path.write_bytes(old + line.encode())
    return
  with open(path, "a", encoding="utf-8") as file:
    file.write(line)
    file.flush()
    os.fsync(file.fileno())


def _write_whole(
  path: epath.Path, records: Sequence[Mapping[str, Any]]
) -> None:
  places.write(path, "".join(dumps(record) + "\n" for record in records))


def _cut_record(path: epath.Path, last_step: int | None) -> None:
  """Removes later steps from a record, be it one file or a bucket's parts."""
  for first, file in lines.files(path):
    if last_step is not None and first > max(last_step, 0):
      file.unlink()
    else:
      _cut_lines(file, last_step)


def _cut_lines(path: epath.Path, last_step: int | None) -> None:
  """Removes lines after `last_step` (None: no limit) and a damaged end.

  What is behind the last readable line is computed again, or `lost` names it.
  """
  rows = [row for _, row in lines.read(path, drops_tail=True)]
  if last_step is not None:
    rows = [row for row in rows if row.get("step", 0) <= last_step]
  text = "".join(dumps(row) + "\n" for row in rows)
  if text != path.read_bytes().decode("utf-8", errors="replace"):
    places.write(path, text)


def _cut_files(folder: epath.Path, last_step: int | None) -> None:
  """Removes files of later steps and temporary files of killed writes."""
  if not folder.exists():
    return
  for path in list(folder.iterdir()):
    match = _STEP_FILE.match(path.name)
    late = match and last_step is not None and int(match[1]) > last_step
    if late or path.name.endswith(places.PART):
      path.unlink()


def recorded(workdir: str | os.PathLike) -> list[str]:
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


def computed_again(workdir: str | os.PathLike, step: int) -> str:
  """Returns a sentence about lines after a step, which a resumed run cuts.

  Args:
    workdir: local path or URL.
    step: step that the run goes on from; -1 where it begins.

  Returns:
    "" where there are none.
  """
  rows = lines.steps(epath.Path(workdir) / METRICS, damage=[])
  first, last = max(step, 0) + 1, max((row["step"] for row in rows), default=0)
  if last < first:
    return ""
  which = f"step {last} is" if first == last else f"steps {first} to {last} are"
  return (
    f"{METRICS} reaches step {last}: {which} computed again, and recorded anew"
  )


def lost(workdir: str | os.PathLike, step: int) -> list[str]:
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


def _steps_of(folder: epath.Path) -> list[int]:
  if not folder.is_dir():
    return []
  matches = [_STEP_FILE.match(path.name) for path in folder.iterdir()]
  return sorted(int(match[1]) for match in matches if match)
