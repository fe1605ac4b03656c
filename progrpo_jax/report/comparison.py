"""What several runs come to, as numbers: one entry a method.

Runs of one label are seeds of one method: their means are averaged, and the
interval is a bootstrap over the problems, of each problem's mean over the
seeds. The mean of the seeds' intervals would be too wide, as it forgets that
the seeds average each other's noise.

`summarise` reads what the evaluations reported. `analyse` adds what only the
verdicts of the single samples tell: differences paired by problem, curves
over all k, histograms of pass@1 and regimes. A problem is known by its text,
so that runs evaluated apart are matched as well.
"""

import collections
import json
import re

import numpy as np

from progrpo_jax import errors, metrics, places
from progrpo_jax.evaluators import boundary, passk

BASE = "base"
BINS = 10
# A set's tolerant verdicts stand beside its own; they are no set.
_TOLERANT = "tolerant"
_PASS = re.compile(rf"eval/((?:(?!/{_TOLERANT}/).)+)/pass@(\d+)$")
_TAIL = 10
_SEED = 0  # of all intervals that are made here


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


def analyse(groups, *, base=None, dataset=None):
  """`summarise` with what the samples and several evaluations add.

  Each entry also holds, None or empty where the runs do not tell:
  `bound`, {"k": the Dang bound on pass@k} for k >= 2;
  `tolerant`, {"k": [mean, low, high]} by the verdict that forgives format;
  `curve`, [[pass@k, low, high], ...] for k = 1, 2, 3, ...;
  `histogram`, the number of problems in each tenth of pass@1;
  `difference`, {"against": label, "problems": number, "pass@k": {"k": [mean,
  low, high]}} from the base, or else from the first label;
  `regimes`, {set: {...}} as `regimes` gives them, over all sets.
  """
  summary = summarise(groups, base=base, dataset=dataset)
  everything = {**({BASE: [base]} if base else {}), **groups}
  dataset = next(iter(summary.values()))["set"]
  counts = last_counts(groups, base=base, dataset=dataset)
  first = next(iter(everything))
  for label, runs in everything.items():
    entry, mine = summary[label], counts[label]
    entry["bound"] = bounds(entry)
    entry["tolerant"] = _tolerant(runs, dataset)
    entry["curve"] = curve(mine)
    entry["histogram"] = histogram(mine)
    entry["difference"] = None
    if label != first:
      entry["difference"] = _difference(mine, counts[first], first)
    entry["regimes"] = {
      name: found
      for name in dict.fromkeys(name for run in runs for name in sets(run))
      if label != BASE and (found := regimes(runs, name, base))
    }
  return summary


def bounds(entry):
  """{"k": Dang bound} of an entry's pass@k, from its mean pass@2.

  The bound takes the variance of pass@1 over problems without the noise of
  sampling; estimated so, it is a function of the unbiased pass@2 alone.
  """
  if "2" not in entry["pass@k"]:
    return {}
  pass2 = entry["pass@k"]["2"][0]
  return {
      k: float(passk.bound_from_pass2(pass2, int(k)))
      for k in entry["pass@k"] if int(k) >= 2}


def curve(counts):
  """[[pass@k, low, high], ...] for every k that all seeds' samples reach.

  The interval is a bootstrap over problems of their means over the seeds.
  """
  fewest = min((n for run in counts for n, _ in run.values()), default=0)
  shared = _shared(counts)
  if not fewest or not shared:
    return []
  seeds = []
  for run in counts:
    n, c = np.array([run[problem] for problem in shared]).T
    seeds.append(passk.curve(n, c)[:, :fewest])
  found = passk.bootstrap_curve(np.mean(seeds, axis=0), seed=_SEED)
  return [[float(x) for x in column] for column in np.transpose(found)]


def histogram(counts):
  """Problems in each tenth of pass@1, the seeds' samples taken together."""
  shared = _shared(counts)
  if not shared:
    return []
  totals = [np.sum([run[problem] for run in counts], 0) for problem in shared]
  n, c = np.array(totals).T
  return passk.histogram(n, c, BINS).tolist()


def regimes(runs, dataset, base=None):
  """How pass@k of a set moved from base over a middle to the final policy.

  The base is `base` or each run's evaluation at step 0, the final policy that
  of the last evaluation, the middle the evaluation nearest to half way that
  all seeds have. Returns a dict of `regime`, `k`, `problems`, `steps` [middle,
  final], `base`, `middle`, `final` (means), `gain` and `late` ([mean, low,
  high] of final - base and final - middle), and `gain@1`, the gain in pass@1;
  or None where there are no three evaluations with samples.
  """
  steps = _checkpoints(runs, dataset, base is not None)
  if steps is None:
    return None
  start, middle, final = steps
  middles = [step_counts(run, dataset, middle) for run in runs]
  finals = [step_counts(run, dataset, final) for run in runs]
  starts = (
    [_last_counts(base, dataset)]
    if base is not None
    else [step_counts(run, dataset, start) for run in runs]
  )
  k = boundary.largest_k(*starts, *middles, *finals)
  if k is None or not all((*starts, *middles, *finals)):
    return None
  at = [_values(counts, k) for counts in (starts, middles, finals)]
  if not set.intersection(*map(set, at)):
    return None
  found = boundary.judge(*at, seed=_SEED)
  return {
    "regime": found.regime,
    "k": k,
    "problems": found.problems,
    "steps": [middle, final],
    "base": found.base,
    "middle": found.middle,
    "final": found.final,
    "gain": list(found.gain),
    "late": list(found.late),
    "gain@1": list(
      passk.difference(_values(finals, 1), _values(starts, 1), seed=_SEED)
    ),
  }


def last_counts(groups, *, base=None, dataset=None):
  """{label: `step_counts` of each run's last evaluation}, the base first."""
  everything = {**({BASE: [base]} if base else {}), **groups}
  dataset = dataset or default_set(everything)
  return {
    label: [_last_counts(run, dataset) for run in runs]
    for label, runs in everything.items()
  }


def step_counts(run, dataset, step):
  """{problem: (samples, correct)} of an evaluation, {} where it is not whole.

  Samples that the verifier itself failed on do not count. Whole is what
  reproduces the pass@1 that the evaluation reported.
  """
  rows = [row for row in run.evals if row["step"] == step]
  mean = rows[-1].get(f"eval/{dataset}/pass@1") if rows else None
  counts = _problem_counts(run, dataset, step)
  tried = [(n, c) for n, c in counts.values() if n]
  if mean is None or not tried:
    return {}
  if abs(np.mean([c / n for n, c in tried]) - mean) > 1e-4:
    return {}
  return {problem: found for problem, found in counts.items() if found[0]}


def load_base(path):
  """The base policy's evaluation as a Run, from a workdir or a file of one.

  A file holds the object of one evaluation, or a line for each of several, in
  the names of `eval.jsonl`.
  """
  path = places.place(path)
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
  counts = [
    _problem_counts(run, dataset, row["step"])
    for run, row in zip(runs, rows, strict=True)
  ]
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


def _problem_counts(run, dataset, step):
  """{problem: (samples, correct)} of an evaluation; {} if not written."""
  if step not in run.eval_sample_steps():
    return {}
  found, seen = {}, collections.Counter()
  for record in run.eval_samples(step):
    if record.get("set") == dataset:
      key = json.dumps([record.get("prompt"), record.get("reference")])
      seen[key] += 1
      correct = [
        bool(completion["correct"])
        for completion in record["completions"]
        if completion.get("status", "ok") == "ok"
      ]
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


def _last_counts(run, dataset):
  row = _last(run, dataset)
  return step_counts(run, dataset, row["step"]) if row else {}


def _shared(counts):
  """Problems that all seeds were tried on, in a fixed order."""
  return sorted(set.intersection(*map(set, counts))) if counts else []


def _values(counts, k):
  """{problem: mean over seeds of its pass@k}."""
  return passk.mean_of([passk.per_problem(run, k) for run in counts])


def _tolerant(runs, dataset):
  """{"k": [mean, low, high]} of the tolerant verdict; the seeds' means."""
  prefix = f"eval/{dataset}/{_TOLERANT}/pass@"
  rows = [_last(run, dataset) for run in runs]
  names = [key for key in rows[0] if key.startswith(prefix)]
  found = {}
  for name in names:
    if not name.removeprefix(prefix).isdigit():
      continue
    parts = [
      [row.get(key) for row in rows]
      for key in (name, f"{name}/low", f"{name}/high")
    ]
    if None not in sum(parts, []):
      mean, low, high = parts
      found[name.removeprefix(prefix)] = [
        float(np.mean(mean)),
        float(min(low)),
        float(max(high)),
      ]
  return found


def _difference(mine, other, against):
  """Paired differences of pass@k for k = 1, 2, 4, ..., or None."""
  fewest = min(
    (n for run in (*mine, *other) for n, _ in run.values()), default=0
  )
  found, problems = {}, 0
  for k in passk.powers(fewest):
    a, b = _values(mine, k), _values(other, k)
    problems = len(a.keys() & b.keys())
    if problems:
      found[str(k)] = list(passk.difference(a, b, seed=_SEED))
  if not found:
    return None
  return {"against": against, "problems": problems, "pass@k": found}


def _checkpoints(runs, dataset, has_base):
  """(start or None, middle, final) steps that all runs have, or None."""
  prefix = f"eval/{dataset}/pass@"
  per_run = [
    {row["step"] for row in run.evals if any(k.startswith(prefix) for k in row)}
    for run in runs
  ]
  steps = sorted(set.intersection(*per_run)) if per_run else []
  if 0 not in steps and not has_base:
    return None
  trained = [step for step in steps if step > 0]
  if len(trained) < 2:
    return None
  final = trained[-1]
  middle = min(trained[:-1], key=lambda step: (abs(step - final / 2), step))
  return (None if has_base else 0), middle, final


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
