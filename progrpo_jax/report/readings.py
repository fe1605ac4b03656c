"""Reads numbers off loaded runs: their evaluations, and means of training.

Problems are identified by their text, so that runs which were evaluated
separately are matched.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import json
import os
import re
from typing import Any

from etils import epath
import numpy as np

from progrpo_jax import errors, places
from progrpo_jax.evaluators import passk
from progrpo_jax.storage import metrics

# Loaded runs by the label of their method, in the order in which methods are
# shown; the runs of one label are its seeds.
RunsByLabel = Mapping[str, Sequence[metrics.Record]]

# The label of the base policy.
BASE = "base"
# Names under `eval/<set>/tolerant/` are a second verdict on the same set, not
# another set.
TOLERANT = "tolerant"
# Matches pass@k, or the lower bound logged in its place.
_PASS = re.compile(rf"eval/((?:(?!/{TOLERANT}/).)+)/pass@(\d+)(?:/at_least)?$")
_TAIL = 10  # steps averaged at the start and the end of a run


def load_base(path: str | os.PathLike) -> metrics.Record:
  """Loads the base policy's evaluation as a run.

  Args:
    path: a workdir, or a file with one JSON object per evaluation (one object,
      a list, or one per line) that uses the names of `eval.jsonl`.

  Raises:
    InputError: the path does not exist, is not JSON or holds no pass@k.
  """
  path = places.place(path)
  if path.is_dir():
    run = metrics.load(path, require_metrics=False)
  elif path.exists():
    run = metrics.Record(path.parent, {}, [], _read_evaluations(path))
  else:
    raise errors.InputError(f"no such evaluation: {path}")
  if not any(_PASS.match(key) for row in run.evals for key in row):
    raise errors.InputError(f"{path} holds no eval/<set>/pass@k")
  return run


def default_set(groups: RunsByLabel) -> str | None:
  """Name of the first evaluation set in the runs of the groups, or None."""
  for runs in groups.values():
    for run in runs:
      for row in run.evals:
        for key in row:
          if match := _PASS.match(key):
            return match[1]
  return None


def check_set(groups: RunsByLabel, dataset: str) -> None:
  """Raises an InputError that names the sets there are, if it is not one."""
  runs = [run for runs in groups.values() for run in runs]
  available = list(dict.fromkeys(name for run in runs for name in sets(run)))
  if dataset not in available:
    names = ", ".join(available) or "none"
    raise errors.InputError(
      f"no evaluation set {dataset!r}; the runs have {names}"
    )


def sets(run: metrics.Record) -> list[str]:
  """Names of all evaluation sets of a run, in file order."""
  keys = [_PASS.match(key) for row in run.evals for key in row]
  return list(dict.fromkeys(match[1] for match in keys if match))


def evaluated_steps(run: metrics.Record, dataset: str | None) -> set[int]:
  """The steps at which the set was evaluated."""
  return {row["step"] for row in evaluations(run, dataset)}


def evaluations(
  run: metrics.Record, dataset: str | None
) -> list[dict[str, Any]]:
  """The evaluation rows of the set."""
  prefix = f"eval/{dataset}/pass@"
  return [r for r in run.evals if any(key.startswith(prefix) for key in r)]


def last_row(run: metrics.Record, dataset: str | None) -> dict[str, Any]:
  """The last evaluation row of the set, or {}."""
  found = evaluations(run, dataset)
  return found[-1] if found else {}


def last_step(run: metrics.Record, dataset: str | None) -> int | None:
  """Step of the last evaluation of the set, or None."""
  return last_row(run, dataset).get("step")


def at_shared_step(
  runs: Sequence[metrics.Record], dataset: str | None
) -> list[metrics.Record]:
  """Seeds of a label without evaluations after the last that all of them have.

  Args:
    runs: loaded runs.
    dataset: evaluation set. A run that never evaluated it has no say.

  Returns:
    The runs; as they are where no step but 0, before training, is common to
    all.
  """
  found = list(filter(None, (evaluated_steps(run, dataset) for run in runs)))
  shared = set.intersection(*found) - {0} if found else set()
  if not shared:
    return list(runs)
  return [
    dataclasses.replace(
      run, evals=[row for row in run.evals if row["step"] <= max(shared)]
    )
    for run in runs
  ]


def ks(run: metrics.Record, dataset: str | None) -> list[int]:
  """Every k with a pass@k, or bounds on it, in a run's last evaluation."""
  row = last_row(run, dataset)
  matches = [
    _PASS.match(key) for key, value in row.items() if value is not None
  ]
  return sorted({int(m[2]) for m in matches if m and m[1] == dataset})


def shown_ks(runs: Sequence[metrics.Record], dataset: str | None) -> list[int]:
  """The few k that tables and figures show for these runs."""
  return pick_ks({k for run in runs for k in ks(run, dataset)})


def pick_ks(every: Iterable[int]) -> list[int]:
  """Picks up to three k: 1, 8 and 32, or else lowest, middle and highest."""
  every = sorted(every)
  if not every:
    return []
  usual = [k for k in every if k in (1, 8, 32)]
  if len(usual) >= min(3, len(every)):
    return usual
  return sorted({every[0], every[len(every) // 2], every[-1]})


def step_counts(
  run: metrics.Record, dataset: str | None, step: int
) -> passk.Counts:
  """{problem: (samples, correct samples)} of an evaluation; {} if incomplete.

  Samples on which the verifier failed do not count; a problem may have none
  left. The written samples are complete if they reproduce the reported pass@1,
  or the number of problems if only bounds were reported.

  Args:
    run: loaded run.
    dataset: evaluation set.
    step: step of the evaluation.
  """
  rows = [row for row in run.evals if row["step"] == step]
  row = rows[-1] if rows else {}
  name = f"eval/{dataset}/pass@1"
  counts = problem_counts(run, dataset, step)
  shares = [c / n for n, c in counts.values() if n]
  if not shares:
    return {}
  if f"{name}/at_least" in row:
    is_complete = len(shares) == row[f"{name}/num_problems"]
  else:
    reported = row.get(name)
    is_complete = (
      reported is not None and abs(np.mean(shares) - reported) <= 1e-4
    )
  return counts if is_complete else {}


def problem_counts(
  run: metrics.Record, dataset: str | None, step: int
) -> passk.Counts:
  """{problem: (samples, correct samples)} as written; {} without a file."""
  if step not in run.eval_sample_steps():
    return {}
  # A set may hold a problem twice: its key has the occurrence's number.
  counts, seen = {}, collections.Counter()
  for record in run.eval_samples(step):
    if record.get("set") == dataset:
      key = json.dumps([record.get("prompt"), record.get("reference")])
      seen[key] += 1
      correct = [
        bool(completion.get("correct"))
        for completion in record["completions"]
        if completion.get("status", "ok") == "ok"
      ]
      counts[key, seen[key]] = len(correct), sum(correct)
  return counts


def ending(run: metrics.Record, name: str) -> tuple[float, float] | None:
  """(start, end) of a metric as means over ten steps, or None if absent."""
  _, values = metrics.series(run.metrics, name)
  if not len(values):
    return None
  return float(values[:_TAIL].mean()), float(values[-_TAIL:].mean())


def median_seconds(
  runs: Sequence[metrics.Record], stage: str = "step"
) -> float | None:
  """Median seconds of a step or a stage, averaged over runs.

  Steps that compile would distort a mean over steps. None if no run was timed.
  """
  values = [metrics.series(r.metrics, f"timing_s/{stage}")[1] for r in runs]
  return mean(float(np.median(v)) for v in values if len(v))


def evenly_spaced(count: int, limit: int) -> list[int]:
  """At most `limit` indices below `count`, the first and the last included."""
  if count <= limit:
    return list(range(count))
  return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def mean(values: Iterable[float | None]) -> float | None:
  """The mean of the values that are not None; None where there are none."""
  values = [value for value in values if value is not None]
  return float(np.mean(values)) if values else None


def _read_evaluations(path: epath.Path) -> list[dict[str, Any]]:
  """Reads evaluations as rows; a row without a step is of step 0."""
  text = path.read_text()
  try:
    whole = json.loads(text)
    rows = whole if isinstance(whole, list) else [whole]
  except json.JSONDecodeError:
    try:
      rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
      raise errors.InputError(f"{path} is not JSON: {error.msg}") from error
  if not all(isinstance(row, dict) for row in rows):
    raise errors.InputError(f"{path} is not an evaluation: no JSON object")
  return [{"step": 0, **row} for row in rows]
