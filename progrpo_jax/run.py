"""A run in a notebook: `progrpo_jax.load_run(workdir)`.

Every call reads the files again, so that a run can be inspected while it
trains. Series are `Table`s of numpy arrays, because nothing else here needs
pandas; `pandas.DataFrame(dict(table))` converts one.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import fnmatch
import html
import math
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from progrpo_jax import errors, places
from progrpo_jax.build import answers
from progrpo_jax.settings import files
from progrpo_jax.storage import checkpoint as checkpoint_lib
from progrpo_jax.storage import lines
from progrpo_jax.storage import metrics as metrics_lib
from progrpo_jax.storage import policy as policy_lib
from progrpo_jax.tasks import base

_SHOWN_ROWS, _SHOWN_COLUMNS = 10, 12
# Groups of config keys that `Run.sample` needs.
_NEEDED = ("model", "data", "sampling", "algo", "seed")
# Files of which a workdir has one.
_RECORDS = (metrics_lib.METRICS, metrics_lib.EVALS)


class Table:
  """An immutable table: named columns of equal length.

  table["entropy"] is a column, an array with NaN for missing numbers and None
  for missing texts. table["step", "entropy"] is a table with these columns,
  table[-10:] (or a mask, or indices) a table with these rows, and
  table.like("arm/*") a table with the columns whose names match. `dict(table)`
  is {name: column}. Notebooks display it as an HTML table.
  """

  def __init__(self, columns):
    """Builds a table.

    Args:
      columns: name -> values, one value per row.

    Raises:
      ValueError: columns differ in length.
    """
    self._columns = {name: _frozen(v) for name, v in columns.items()}
    lengths = {name: len(column) for name, column in self._columns.items()}
    if len(set(lengths.values())) > 1:
      raise ValueError(f"columns differ in length: {lengths}")
    self._length = max(lengths.values(), default=0)

  @classmethod
  def of_rows(cls, rows: Sequence[dict[str, Any]]) -> "Table":
    """Builds a table from one dict per row.

    Args:
      rows: name -> value; a name that is absent, or None, is a missing value.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return cls({name: [row.get(name) for row in rows] for name in names})

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the columns."""
    return tuple(self._columns)

  def keys(self) -> tuple[str, ...]:
    """Returns `names`; `dict(table)` calls this."""
    return self.names

  def like(self, *patterns: str) -> "Table":
    """Returns a table of the columns that match any glob pattern.

    Args:
      *patterns: patterns such as "arm/*".
    """
    matches = [
      n for n in self.names if any(fnmatch.fnmatchcase(n, p) for p in patterns)
    ]
    return Table({name: self._columns[name] for name in matches})

  def __getitem__(self, key):
    """Returns a column (a name), or a table of columns (names) or of rows.

    Raises:
      InputError: there is no such column; the message names a similar one.
    """
    if isinstance(key, str):
      return self._column(key)
    if (
      isinstance(key, (tuple, list))
      and key
      and all(isinstance(name, str) for name in key)
    ):
      return Table({name: self._column(name) for name in key})
    # One row is a table of length 1; `range` checks and resolves the index.
    if isinstance(key, (int, np.integer)):
      key = [range(self._length)[key]]
    return Table({n: column[key] for n, column in self._columns.items()})

  def __contains__(self, name) -> bool:
    return name in self._columns

  def __iter__(self) -> Iterator[str]:
    return iter(self._columns)

  def __len__(self) -> int:
    """Returns the number of rows."""
    return self._length

  def __repr__(self) -> str:
    return f"Table of {self._length} rows: {', '.join(self.names)}"

  def _repr_html_(self) -> str:
    """Returns HTML with the first and last rows of the first columns."""
    shown = self.names[:_SHOWN_COLUMNS]
    # None stands for the rows left out in the middle.
    rows, half = range(self._length), _SHOWN_ROWS // 2
    if len(rows) > _SHOWN_ROWS:
      rows = [*rows[:half], None, *rows[-half:]]
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in shown)
    body = "".join(
      "<tr>"
      + "".join(
        f"<td>{'…' if row is None else _cell(self._columns[n][row])}</td>"
        for n in shown
      )
      + "</tr>"
      for row in rows
    )
    hidden = len(self.names) - len(shown)
    more = f", {hidden} more columns" if hidden else ""
    return (
      f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>"
      f"</table><p>{self._length} rows{more}</p>"
    )

  def _ipython_key_completions_(self) -> list[str]:
    return list(self.names)

  def _column(self, name: str) -> np.ndarray:
    if name not in self._columns:
      raise errors.InputError(
        f"no column {name!r}{errors.hint(name, self.names)}"
      )
    return self._columns[name]


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, read from its workdir.

  Attributes:
    path: path of the workdir.
  """

  path: epath.Path
  _policies: dict[int, answers.Responder] = dataclasses.field(
    default_factory=dict, repr=False, compare=False
  )

  def __fspath__(self) -> str:
    """Returns the workdir: a run may stand where a path does."""
    return str(self.path)

  @property
  def record(self) -> metrics_lib.Record:
    """The measurements, in the form that the functions of `report` take."""
    return metrics_lib.load(self.path, require_metrics=False)

  def record_until(self, step: int) -> metrics_lib.Record:
    """Returns the record up to a step; up to step 0 it is the base policy's.

    Args:
      step: last step to include.
    """
    record = self.record
    return dataclasses.replace(
      record,
      metrics=[r for r in record.metrics if r["step"] <= step],
      evals=[r for r in record.evals if r["step"] <= step],
    )

  @property
  def config(self):
    """A copy of the resolved config: `run.config.algo.arm.alpha`.

    Keys that are younger than the run have their defaults.

    Raises:
      InputError: the workdir has no config.json.
    """
    config = self.record.config
    if not config:
      raise errors.InputError(
        f"{self.path} holds no config.json; progrpo train writes it"
      )
    return files.completed(files.from_json(config))

  def metrics(self) -> Table:
    """Returns the metrics, one row per training step.

    Raises:
      InputError: no step is finished yet.
    """
    rows = self.record.metrics
    if not rows:
      raise errors.InputError(
        f"{self.path} holds no metrics yet: its run has not finished a step"
      )
    return Table.of_rows(rows)

  def evals(self) -> Table:
    """Returns the evaluations, one row per evaluated step.

    pass@k is the column `eval/<set>/pass@<k>`.

    Raises:
      InputError: nothing was evaluated.
    """
    rows = self.record.evals
    if not rows:
      raise errors.InputError(
        f"{self.path} holds no evaluations: config.eval.every asks for them"
      )
    return Table.of_rows(rows)

  def resets(self) -> Table:
    """Returns "step" and "reason" of each reset of the reference policy."""
    rows = [r for r in self.record.metrics if r.get("ref_reset/reset")]
    return Table(
      {
        "step": np.array([r["step"] for r in rows], int),
        "reason": np.array([r.get("ref_reset/reason") for r in rows], object),
      }
    )

  def rollouts(self, step: int | None = None) -> list[dict[str, Any]]:
    """Returns the saved groups of a step, one dict per prompt.

    Each dict has `prompt`, `reference`, `c_prompt` and `completions`; each
    completion has `text`, `reward`, `correct`, `advantage`, `base_advantage`,
    `c_answer` and more.

    Args:
      step: step with saved groups; None for the last one.

    Raises:
      InputError: no groups were saved at this step; the message names the
        steps that have some.
    """
    record = self.record
    step = self._pick(step, record.rollout_steps(), "rollouts")
    return record.rollouts(step)

  def eval_samples(self, step: int | None = None) -> list[dict[str, Any]]:
    """Returns the samples of an evaluation, one dict per problem.

    Each dict has `set`, `prompt`, `reference` and `completions`; each
    completion has `text` and `correct`.

    Args:
      step: evaluated step; None for the last one.

    Raises:
      InputError: no samples were saved at this step; the message names the
        steps that have some.
    """
    record = self.record
    step = self._pick(step, record.eval_sample_steps(), "evaluation samples")
    return record.eval_samples(step)

  def checkpoints(self) -> list[int]:
    """Returns the steps whose checkpoints are complete, in rising order."""
    folder = self.path / policy_lib.CHECKPOINTS
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(
      int(p.name)
      for p in entries
      if p.name.isdigit() and checkpoint_lib.is_committed(p)
    )

  def sample(
    self,
    prompts: str | base.Row | Sequence[str | base.Row],
    n: int = 4,
    step: int | None = None,
    temperature: float | None = None,
  ) -> list[list[str]]:
    """Samples answers of the policy with the settings of training.

    The same prompts get the same answers. `policy` has more options.

    Args:
      prompts: a text, or a row of a task; or several in a list.
      n: number of answers per prompt.
      step: step of a checkpoint; None for the newest.
      temperature: sampling temperature; 0 is greedy, None takes that of
        training.

    Returns:
      One list of n texts per prompt, also where there is one prompt alone,
      for which `progrpo_jax.sample` returns its n texts.

    Raises:
      InputError: there is no such checkpoint (the message names the existing
        ones), or `Responder.converse` refuses an argument.
    """
    prompts = answers.listed(prompts)
    return self.policy(step).sample(prompts, n=n, temperature=temperature)

  def policy(self, step: int | None = None) -> answers.Responder:
    """Returns the policy of a checkpoint, which answers prompts.

    It stays in memory until another step is asked for.

    Args:
      step: step of a checkpoint; None for the newest.

    Raises:
      InputError: there is no such checkpoint; the message names the existing
        ones.
    """
    c = self._sampling_config()
    step = self._pick(step, self.checkpoints(), "checkpoint")
    # Only one policy is held: two might not fit.
    if step not in self._policies:
      self._policies.clear()
      place = str(self.path / policy_lib.CHECKPOINTS / str(step))
      with quiet():
        self._policies[step] = answers.Responder.load(c, place)
    return self._policies[step]

  def _sampling_config(self):
    """Returns the config without adapters and heads that training adds."""
    c = self.config
    missing = [name for name in _NEEDED if name not in self.record.config]
    if missing:
      raise errors.InputError(
        f"{self.path}/config.json has no {missing[0]!r}: it is not the "
        "config of a training run"
      )
    return files.without_training(c)

  def _pick(self, step: int | None, steps: list[int], what: str) -> int:
    """Returns `step` if it is in `steps`, or the last of them for None.

    Args:
      step: step that the caller asked for, or None.
      steps: steps that exist, in rising order.
      what: kind of record, for the message.

    Raises:
      InputError: there is no such step.
    """
    if not steps:
      raise errors.InputError(f"{self.path} holds no {what}")
    if step is None:
      return steps[-1]
    if step not in steps:
      raise errors.InputError(
        f"{self.path} holds no {what} of step {step}; available steps: "
        f"{', '.join(map(str, steps))}"
      )
    return int(step)


def load_run(workdir) -> Run:
  """Opens a run by its workdir.

  Args:
    workdir: directory or gs:// URL that `progrpo train` (or `progrpo evaluate
      --workdir`) writes to; the run may still be training.

  Raises:
    InputError: there is no such directory, or it is not a workdir.
  """
  path = places.fixed(places.argument("workdir", workdir))
  if not path.is_dir():
    if path.exists():
      raise errors.InputError(
        f"{workdir} is a file: name the workdir of a run, the directory that"
        " `progrpo train --workdir` was given"
      )
    raise errors.InputError(f"no such workdir: {workdir}")
  if not _is_run(path):
    inner = sorted(p for p in path.iterdir() if _is_run(p))
    hint = f"; it has runs in it, such as {inner[0]}" if inner else ""
    raise errors.InputError(
      f"{workdir} is not the workdir of a run: it holds neither "
      f"{policy_lib.MODEL_DIR}/config.json nor {' nor '.join(_RECORDS)}{hint}"
    )
  return Run(path)


def _is_run(path: epath.Path) -> bool:
  """Returns whether a directory is a workdir."""
  return (path / policy_lib.MODEL_DIR / "config.json").exists() or any(
    lines.files(path / name) for name in _RECORDS
  )


def _frozen(values) -> np.ndarray:
  """Returns values as a read-only array, of numbers or (with texts) objects."""
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
def quiet():
  """Silences info messages of libraries, which would stay in a notebook."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _cell(value) -> str:
  """Returns a value as HTML text, with a dash for a missing one."""
  if isinstance(value, str):
    return html.escape(value)
  if value is None or value != value:
    return "–"
  return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))
