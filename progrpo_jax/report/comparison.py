"""What several runs come to, as numbers: one entry a method.

Runs of one label are seeds of one method: their means are averaged, and the
interval is a bootstrap over the problems, of each problem's mean over the
seeds. The mean of the seeds' intervals would be too wide, as it forgets that
the seeds average each other's noise.
"""

import collections
import json
import re

from etils import epath
import numpy as np

from progrpo_jax import errors, metrics
from progrpo_jax.evaluators import passk

BASE = "base"
_PASS = re.compile(r"eval/(.+)/pass@(\d+)$")
_TAIL = 10


def summarise(groups, *, base=None, dataset=None):
  """{label: entry}, `base` (a Run) first, under "base".

  An entry holds `pass@k` as {"k": [mean, low, high]}, `entropy`,
  `distinct_correct` and what else a table shows; None where nothing was
  measured. `dataset` picks the evaluation set, else the first one found.
  """
  if base is not None and BASE in groups:
    raise errors.InputError(f"the label {BASE!r} is taken by the base policy")
  everything = {**({BASE: [base]} if base else {}), **groups}
  if dataset is None:
    dataset = default_set(everything)
  else:
    _check_set(everything, dataset)
  return {
    label: _entry(runs, dataset) for label, runs in everything.items()
  }


def load_base(path):
  """The base policy's evaluation as a Run, from a workdir or a file of one.

  A file holds the object of one evaluation, or a line for each of several, in
  the names of `eval.jsonl`.
  """
  path = epath.Path(path)
  if path.is_dir():
    run = metrics.load(path, require_metrics=False)
  elif path.exists():
    run = metrics.Run(path.parent, {}, [], _read_evaluations(path))
  else:
    raise errors.InputError(f"no such evaluation: {path}")
  if not any(_PASS.match(key) for row in run.evals for key in row):
    raise errors.InputError(f"{path} holds no eval/<set>/pass@k")
  return run


def default_set(groups):
  """The first evaluation set that a run of the groups has, or None."""
  for runs in groups.values():
    for run in runs:
      for row in run.evals:
        for key in row:
          if match := _PASS.match(key):
            return match[1]
  return None


def sets(run):
  """Names of all evaluation sets of a run, in the order of the file."""
  keys = [_PASS.match(key) for row in run.evals for key in row]
  return list(dict.fromkeys(match[1] for match in keys if match))


def ks(run, dataset):
  """Every k that a run's last evaluation of the set has."""
  row = _last(run, dataset)
  found = [_PASS.match(key) for key, value in row.items() if value is not None]
  return sorted(int(m[2]) for m in found if m and m[1] == dataset)


def shown_ks(runs, dataset):
  """The k of all runs that tables have room for."""
  return pick_ks({k for run in runs for k in ks(run, dataset)})


def pick_ks(every):
  """Up to three k: 1, 8 and 32, or else the lowest, a middle, the highest."""
  every = sorted(every)
  if not every:
    return []
  usual = [k for k in every if k in (1, 8, 32)]
  if len(usual) >= min(3, len(every)):
    return usual
  return sorted({every[0], every[len(every) // 2], every[-1]})


def ending(run, name):
  """(start, end) of a metric, means over ten steps, or None."""
  _, values = metrics.series(run.metrics, name)
  if not len(values):
    return None
  return float(values[:_TAIL].mean()), float(values[-_TAIL:].mean())


def _check_set(groups, dataset):
  runs = [run for runs in groups.values() for run in runs]
  known = list(dict.fromkeys(name for run in runs for name in sets(run)))
  if dataset not in known:
    names = ", ".join(known) or "none"
    raise errors.InputError(
      f"no evaluation set {dataset!r}; the runs have {names}"
    )


def _read_evaluations(path):
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


def _entry(runs, dataset):
  rows = [_last(run, dataset) for run in runs]
  rows_with = [row for row in rows if row]
  entry = {
    "set": dataset,
    "seeds": len(runs),
    "step": max((row["step"] for row in rows_with), default=None),
    "pass@k": {},
    "interval": None,
    "entropy": _mean(row.get(f"eval/{dataset}/entropy") for row in rows),
    "distinct_correct": _mean(
      row.get(f"eval/{dataset}/distinct_correct") for row in rows
    ),
    "mean_length": _mean(
      row.get(f"eval/{dataset}/mean_length") for row in rows
    ),
    "train_entropy": _mean(_final(run, "entropy") for run in runs),
    "reward": _mean(_final(run, "reward") for run in runs),
    "seconds_per_step": _mean(_seconds(run) for run in runs),
    "workdirs": [str(run.path) for run in runs],
  }
  if entry["entropy"] is None:
    entry["entropy"] = entry["train_entropy"]
  if rows_with:
    entry["pass@k"], entry["interval"] = _pass_with_intervals(runs, dataset)
  return entry


def _pass_with_intervals(runs, dataset):
  """({"k": [mean, low, high]}, what the interval is)."""
  runs = [run for run in runs if _last(run, dataset)]
  rows = [_last(run, dataset) for run in runs]
  shared = sorted(set.intersection(*(set(ks(run, dataset)) for run in runs)))
  counts = [_problem_counts(run, dataset) for run in runs]
  result, kinds = {}, set()
  for k in shared:
    name = f"eval/{dataset}/pass@{k}"
    means = [row[name] for row in rows]
    lows = [row.get(f"{name}/low") for row in rows]
    highs = [row.get(f"{name}/high") for row in rows]
    values = _per_problem(counts, k, means)
    if len(runs) == 1 and None not in (lows[0], highs[0]):
      low, high, kind = lows[0], highs[0], "the run's own"
    elif values is not None:
      _, low, high = passk.bootstrap(values, seed=k)
      kind = "bootstrap over problems"
    elif None not in (*lows, *highs):
      low, high, kind = min(lows), max(highs), "range of the seeds' intervals"
    else:
      low, high, kind = min(means), max(means), "range of the seeds"
    result[str(k)] = [float(np.mean(means)), float(low), float(high)]
    kinds.add(kind)
  return result, "; ".join(sorted(kinds))


def _problem_counts(run, dataset):
  """{problem: (samples, correct)} of the last evaluation; {} if not written."""
  step = _last(run, dataset)["step"]
  if step not in run.eval_sample_steps():
    return {}
  found, seen = {}, collections.Counter()
  for record in run.eval_samples(step):
    if record.get("set") == dataset:
      key = json.dumps([record.get("prompt"), record.get("reference")])
      seen[key] += 1
      correct = [bool(c["correct"]) for c in record["completions"]]
      found[key, seen[key]] = len(correct), sum(correct)
  return found


def _per_problem(counts, k, means):
  """Seed-mean of each problem's pass@k, or None where the samples do not tell.

  They tell when every seed's samples are of the same problems and reproduce
  the mean that the evaluation reported (fewer may have been written).
  """
  problems = set(counts[0])
  if not problems or any(set(count) != problems for count in counts):
    return None
  values = []
  for count, mean in zip(counts, means, strict=True):
    n, c = np.array([count[problem] for problem in sorted(problems)]).T
    if n.min() < k:
      return None
    values.append(np.asarray(passk.pass_at_k(n, c, k), float))
    if abs(values[-1].mean() - mean) > 1e-4:
      return None
  return np.mean(values, axis=0)


def _last(run, dataset):
  """The last row that evaluates the set, or {}."""
  prefix = f"eval/{dataset}/pass@"
  rows = [r for r in run.evals if any(key.startswith(prefix) for key in r)]
  return rows[-1] if rows else {}


def _final(run, name):
  found = ending(run, name)
  return found and found[1]


def _seconds(run):
  """Median seconds of a step: the first one compiles."""
  _, values = metrics.series(run.metrics, "timing_s/step")
  return float(np.median(values)) if len(values) else None


def _mean(values):
  values = [value for value in values if value is not None]
  return float(np.mean(values)) if values else None
