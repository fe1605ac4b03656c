"""A run as a notebook sees it: `progrpo_jax.load_run(workdir)`.

Every call reads the files anew, so that a run can be looked at while it
trains. A series is a `Table` of numpy arrays and not a DataFrame, as nothing
else here needs pandas; `pandas.DataFrame(dict(table))` makes one.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import difflib
import fnmatch
import html
import math
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from progrpo_jax import errors, places
from progrpo_jax.build import answers
from progrpo_jax.build import stages as build
from progrpo_jax.config import files
from progrpo_jax.storage import checkpoint as checkpoint_lib
from progrpo_jax.storage import lines
from progrpo_jax.storage import metrics as metrics_lib
from progrpo_jax.storage import policy as policy_lib

_SHOWN_ROWS, _SHOWN_COLUMNS = 10, 12
# Groups of a config that answering a prompt reads.
_NEEDED = ("model", "data", "sampling", "algo", "seed")


class Table:
  """Columns of one length by name, which cannot be changed.

  table["entropy"] is a column: an array with NaN where nothing was measured,
  None where that was a text. table["step", "entropy"] is a table of these
  columns, table[-10:] (or a mask, or indices) one of these rows, and
  table.like("arm/*") one of the columns whose names match. `dict(table)` is
  {name: column}. A notebook shows a table as such.
  """

  def __init__(self, columns):
    """From {name: values}, each with one value a row."""
    self._columns = {name: _frozen(v) for name, v in columns.items()}
    lengths = {name: len(column) for name, column in self._columns.items()}
    if len(set(lengths.values())) > 1:
      raise ValueError(f"columns differ in length: {lengths}")
    self._length = max(lengths.values(), default=0)

  @classmethod
  def of_rows(cls, rows: Sequence[dict[str, Any]]) -> "Table":
    """From dicts; a row need not have every name, null is absent too."""
    names = dict.fromkeys(name for row in rows for name in row)
    return cls({name: [row.get(name) for row in rows] for name in names})

  @property
  def names(self) -> tuple[str, ...]:
    """Of the columns."""
    return tuple(self._columns)

  def keys(self) -> tuple[str, ...]:
    """The same, as `dict` asks for them."""
    return self.names

  def like(self, *patterns: str) -> "Table":
    """The columns that fit any of the patterns, in their own order."""
    fits = [n for n in self.names
            if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    return Table({name: self._columns[name] for name in fits})

  def __getitem__(self, key):
    """A column by its name, columns by several, rows by anything else."""
    if isinstance(key, str):
      return self._column(key)
    if isinstance(key, (tuple, list)) and key and all(
        isinstance(name, str) for name in key):
      return Table({name: self._column(name) for name in key})
    if isinstance(key, (int, np.integer)):
      key = [range(self._length)[key]]
    return Table({n: column[key] for n, column in self._columns.items()})

  def __contains__(self, name) -> bool:
    return name in self._columns

  def __iter__(self) -> Iterator[str]:
    return iter(self._columns)

  def __len__(self) -> int:
    """Rows."""
    return self._length

  def __repr__(self) -> str:
    return f"Table of {self._length} rows: {', '.join(self.names)}"

  def _repr_html_(self) -> str:
    """First and last rows of the first columns."""
    shown = self.names[:_SHOWN_COLUMNS]
    rows, half = range(self._length), _SHOWN_ROWS // 2
    if len(rows) > _SHOWN_ROWS:
      rows = [*rows[:half], None, *rows[-half:]]
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in shown)
    body = "".join(
        "<tr>" + "".join(
            f"<td>{'…' if row is None else _cell(self._columns[n][row])}</td>"
            for n in shown) + "</tr>"
        for row in rows)
    hidden = len(self.names) - len(shown)
    more = f", {hidden} more columns" if hidden else ""
    return (f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
            f"</table><p>{self._length} rows{more}</p>")

  def _ipython_key_completions_(self) -> list[str]:
    return list(self.names)

  def _column(self, name: str) -> np.ndarray:
    if name not in self._columns:
      close = difflib.get_close_matches(name, self.names, n=1)
      hint = f"; did you mean {close[0]!r}?" if close else ""
      raise errors.InputError(f"no column {name!r}{hint}")
    return self._columns[name]


@dataclasses.dataclass(frozen=True)
class Run:
  """A workdir and what can be asked of it.

  Attributes:
    path: of the workdir.
  """

  path: epath.Path
  _policies: dict[int, policy_lib.Policy] = dataclasses.field(
      default_factory=dict, repr=False, compare=False)

  @property
  def record(self) -> metrics_lib.Run:
    """The files as `report.figures` and `report.comparison` take them."""
    return metrics_lib.load(self.path, require_metrics=False)

  def record_until(self, step: int) -> metrics_lib.Run:
    """The record as it stood after a step; after step 0 it is the base's."""
    record = self.record
    return dataclasses.replace(
        record, metrics=[r for r in record.metrics if r["step"] <= step],
        evals=[r for r in record.evals if r["step"] <= step])

  @property
  def config(self):
    """The resolved config, a copy: `run.config.algo.arm.alpha`.

    Raises:
      InputError: none was written.
    """
    config = self.record.config
    if not config:
      raise errors.InputError(
          f"{self.path} holds no config.json; progrpo train writes it")
    return files.from_json(config)

  def metrics(self) -> Table:
    """A row a training step.

    Raises:
      InputError: no step was finished yet.
    """
    rows = self.record.metrics
    if not rows:
      raise errors.InputError(
          f"{self.path} holds no metrics yet: its run has not finished a step")
    return Table.of_rows(rows)

  def evals(self) -> Table:
    """A row an evaluated step; pass@k is `eval/<set>/pass@<k>`.

    Raises:
      InputError: nothing was evaluated.
    """
    rows = self.record.evals
    if not rows:
      raise errors.InputError(
          f"{self.path} holds no evaluations: config.eval.every asks for them")
    return Table.of_rows(rows)

  def resets(self) -> Table:
    """Step and reason of each reset of the reference; there may be none."""
    rows = [r for r in self.record.metrics if r.get("ref_reset/reset")]
    return Table({
        "step": np.array([r["step"] for r in rows], int),
        "reason": np.array(
            [r.get("ref_reset/reason") for r in rows], object)})

  def rollouts(self, step: int | None = None) -> list[dict[str, Any]]:
    """The groups of a step that were kept, a dict a prompt.

    Each has `prompt`, `reference`, `c_prompt` and `completions`, each of
    those `text`, `reward`, `correct`, `advantage`, `base_advantage`,
    `c_answer` and more.

    Args:
      step: None for the last that were kept.

    Raises:
      InputError: none were kept of this step; the message names those of
        which they were.
    """
    record = self.record
    step = self._pick(step, record.rollout_steps(), "rollouts")
    return record.rollouts(step)

  def eval_samples(self, step: int | None = None) -> list[dict[str, Any]]:
    """The samples of an evaluation, a dict a problem.

    Each has `set`, `prompt`, `reference` and `completions`, each of those
    `text` and `correct`.

    Args:
      step: None for the last evaluation.

    Raises:
      InputError: as for `rollouts`.
    """
    record = self.record
    step = self._pick(step, record.eval_sample_steps(), "evaluation samples")
    return record.eval_samples(step)

  def checkpoints(self) -> list[int]:
    """Steps whose parameters are there to sample from."""
    folder = self.path / policy_lib.CHECKPOINTS
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        int(p.name) for p in found
        if p.name.isdigit() and checkpoint_lib.is_committed(p))

  def sample(
      self, prompts: str | Sequence[str], n: int = 4,
      step: int | None = None, temperature: float | None = None,
  ) -> list[list[str]]:
    """Answers of the policy, sampled as in training.

    The policy stays in memory until another step is asked for. The same
    prompts get the same answers.

    Args:
      prompts: a text or several.
      n: answers to each.
      step: of the checkpoint; None for the newest.
      temperature: 0 is greedy; None takes that of training.

    Returns:
      n texts for each prompt.

    Raises:
      InputError: no such checkpoint (the message names those that are
        there), or as for `answers.sample`.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    c = self._sampling_config()
    step = self._pick(step, self.checkpoints(), "checkpoint")
    mesh = answers.one_device()
    if step not in self._policies:
      self._policies.clear()
      with _quiet():
        self._policies[step] = build.load_policy(
            c, mesh, str(self.path / policy_lib.CHECKPOINTS / str(step)))
    return answers.sample(
        c, self._policies[step], prompts, mesh, n=n, temperature=temperature)

  def _sampling_config(self):
    """The config without what only training adds to a policy."""
    c = self.config
    missing = [name for name in _NEEDED if name not in c]
    if missing:
      raise errors.InputError(
          f"{self.path}/config.json has no {missing[0]!r}: it is not the "
          "config of a training run")
    return files.without_training(c)

  def _pick(self, step: int | None, steps: list[int], what: str) -> int:
    """The step asked for, if it is there, or the last."""
    if not steps:
      raise errors.InputError(f"{self.path} holds no {what}")
    if step is None:
      return steps[-1]
    if step not in steps:
      raise errors.InputError(
          f"{self.path} holds no {what} of step {step}; there are "
          f"{', '.join(map(str, steps))}")
    return int(step)


def load_run(workdir) -> Run:
  """A run to look at, from its workdir.

  Args:
    workdir: a directory or a gs:// URL that `progrpo train` (or `progrpo
      evaluate --workdir`) writes to; the run may still be going on.

  Raises:
    InputError: there is no such directory, or it is not a workdir.
  """
  path = places.place(workdir)
  if not path.is_dir():
    raise errors.InputError(f"no such workdir: {workdir}")
  records = (metrics_lib.METRICS, metrics_lib.EVALS)
  described = (path / policy_lib.MODEL_DIR / "config.json").exists()
  if not described and not any(lines.files(path / name) for name in records):
    raise errors.InputError(
        f"{workdir} is not the workdir of a run: it holds neither "
        f"{policy_lib.MODEL_DIR}/config.json nor {' nor '.join(records)}")
  return Run(path)


def _frozen(values) -> np.ndarray:
  """A column of its own: numbers, or objects where there is a text."""
  if isinstance(values, np.ndarray):
    column = values.copy()
  elif any(isinstance(v, str) for v in values):
    column = np.empty(len(values), object)
    column[:] = values
  elif len(values) and all(isinstance(v, int) for v in values):
    column = np.array(values)
  else:
    column = np.array([math.nan if v is None else v for v in values], float)
  column.flags.writeable = False
  return column


@contextlib.contextmanager
def _quiet():
  """Without the greetings of libraries, which a notebook would keep."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _cell(value) -> str:
  """A value as HTML text; what is absent is a dash."""
  if isinstance(value, str):
    return html.escape(value)
  if value is None or value != value:
    return "–"
  return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))
