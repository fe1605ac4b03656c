"""What several runs come to, as numbers: one entry a method.

Runs of one label are seeds of one method: their means are averaged, and the
interval is that of each problem's mean over the seeds (`intervals.mean`). The
mean of the seeds' intervals would be too wide, as it forgets that the seeds
average each other's noise.

`summarise` reads what the evaluations reported. `analyse` adds what only the
verdicts of the single samples tell: differences paired by problem, curves
over all k, histograms of pass@1 and regimes. A problem is known by its text,
so that runs evaluated apart are matched as well.

Where too few problems have k samples with a verdict (`passk.ENOUGH`) there is
no pass@k, and nothing that rests on it: there are two bounds, or the words
"not enough samples".
"""

import collections
import json
import re

import numpy as np

from progrpo_jax import errors, places
from progrpo_jax.evaluators import boundary, intervals, passk
from progrpo_jax.storage import metrics

BASE = "base"
BINS = 10
# A set's tolerant verdicts stand beside its own; they are no set.
_TOLERANT = "tolerant"
# Where there are too few samples for a pass@k there are bounds on it.
_PASS = re.compile(
  rf"eval/((?:(?!/{_TOLERANT}/).)+)/pass@(\d+)(?:/at_least)?$"
)
_TAIL = 10


def summarise(groups, *, base=None, dataset=None):
  """{label: entry}, `base` (a Run) first, under "base".

  An entry holds `pass@k` as {"k": [mean, low, high]}, `between` as {"k": [at
  least, at most]} where there are bounds in its place, `num_problems` as {"k":
  problems that it rests on} where the runs tell, `left_out` (problems that
  were not tried as their prompts are too long), `entropy`, `distinct_correct`
  and what else a table shows; None where nothing was measured. `dataset` picks
  the evaluation set, else the first one found.
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
  low, high]}} from the base, or else from the first label, the number being
  that of the k with the fewest problems;
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
  """[[pass@k, low, high], ...] for k = 1, 2, 3, ... while samples are enough.

  Of each problem's mean over the seeds that have k samples of it.
  """
  shared = _shared(counts)
  seeds = []
  for run in counts:
    n, c = np.array([run[problem] for problem in shared]).reshape(-1, 2).T
    if not n.any():
      return []
    seeds.append(passk.curve(n, c))
  fewest = min((values.shape[1] for values in seeds), default=0)
  found = []
  for values in np.transpose([values[:, :fewest] for values in seeds]):
    # [X, S]: one k, the problems down and the seeds across.
    values = values[~np.isnan(values).all(axis=1)]
    if not passk.is_enough(len(values), len(shared)):
      break
    found.append(list(intervals.mean(np.nanmean(values, axis=1))))
  return found


def histogram(counts):
  """Problems in each tenth of pass@1, the seeds' samples taken together."""
  totals = [
    np.sum([run[problem] for run in counts], 0) for problem in _shared(counts)
  ]
  totals = [(n, c) for n, c in totals if n]
  if not totals:
    return []
  n, c = np.array(totals).T
  return passk.histogram(n, c, BINS).tolist()


def regimes(runs, dataset, base=None):
  """How pass@k of a set moved from base over a middle to the final policy.

  The base is `base` or each run's evaluation at step 0, the final policy that
  of the last evaluation, the middle the evaluation nearest to half way that
  all seeds have. Returns a dict of `regime`, `k`, `problems`, `steps` [middle,
  final], `base`, `middle`, `final` (means), `gain` and `late` ([mean, low,
  high] of final - base and final - middle), and `gain@1`, the gain in pass@1;
  or None where there are no three evaluations with samples. Where too few
  problems have k samples at all three the regime is `boundary.NOT_ENOUGH` and
  the means and intervals are None.
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
  tried = _shared([*starts, *middles, *finals])
  if k is None or not tried:
    return None
  at = [_values(counts, k) for counts in (starts, middles, finals)]
  problems = len(set.intersection(*map(set, at)))
  means = ("base", "middle", "final", "gain", "late", "gain@1")
  found = {"k": k, "problems": problems, "steps": [middle, final]}
  if not passk.is_enough(problems, len(tried)):
    return {"regime": boundary.NOT_ENOUGH, **found, **dict.fromkeys(means)}
  judged = boundary.judge(*at)
  return {
    "regime": judged.regime,
    **found,
    "base": judged.base,
    "middle": judged.middle,
    "final": judged.final,
    "gain": list(judged.gain),
    "late": list(judged.late),
    "gain@1": list(passk.difference(_values(finals, 1), _values(starts, 1))),
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

  Samples that the verifier itself failed on do not count; a problem may have
  none. Whole is what reproduces the pass@1 that the evaluation reported, or
  the number of problems where it reported no more than bounds.
  """
  rows = [row for row in run.evals if row["step"] == step]
  row = rows[-1] if rows else {}
  name = f"eval/{dataset}/pass@1"
  counts = _problem_counts(run, dataset, step)
  shares = [c / n for n, c in counts.values() if n]
  if not shares:
    return {}
  if f"{name}/at_least" in row:
    whole = len(shares) == row[f"{name}/num_problems"]
  else:
    mean = row.get(name)
    whole = mean is not None and abs(np.mean(shares) - mean) <= 1e-4
  return counts if whole else {}


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
  """Every k that a run's last evaluation of the set has, or has bounds for."""
  row = _last(run, dataset)
  found = [_PASS.match(key) for key, value in row.items() if value is not None]
  return sorted({int(m[2]) for m in found if m and m[1] == dataset})


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


def evenly_spaced(count, limit):
  """At most `limit` indices below `count`, the first and the last included."""
  if count <= limit:
    return list(range(count))
  return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


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
    "between": {},
    "num_problems": {},
    "left_out": max(
      (row.get(f"eval/{dataset}/left_out", 0) for row in rows_with), default=0
    ),
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
    "seconds_per_step": median_seconds(runs),
    "workdirs": [str(run.path) for run in runs],
  }
  if entry["entropy"] is None:
    entry["entropy"] = entry["train_entropy"]
  if rows_with:
    _add_pass(entry, [run for run in runs if _last(run, dataset)], dataset)
  return entry


def _add_pass(entry, runs, dataset):
  """Fills in pass@k or its bounds, and what they rest on, of some runs."""
  rows = [_last(run, dataset) for run in runs]
  shared = sorted(set.intersection(*(set(ks(run, dataset)) for run in runs)))
  counts = [
    _problem_counts(run, dataset, row["step"])
    for run, row in zip(runs, rows, strict=True)
  ]
  kinds = set()
  for k in shared:
    name = f"eval/{dataset}/pass@{k}"
    means = [row.get(name) for row in rows]
    numbers = [row.get(f"{name}/num_problems") for row in rows]
    if None not in numbers:
      entry["num_problems"][str(k)] = int(min(numbers))
    pairs = list(zip(rows, means, strict=True))
    if None in means:
      entry["between"][str(k)] = [
        float(np.mean([row.get(f"{name}/{end}", mean) for row, mean in pairs]))
        for end in ("at_least", "at_most")
      ]
      continue
    lows = [row.get(f"{name}/low") for row in rows]
    highs = [row.get(f"{name}/high") for row in rows]
    mean, values = float(np.mean(means)), _per_problem(counts, k, means)
    if len(runs) == 1 and None not in (lows[0], highs[0]):
      low, high, kind = lows[0], highs[0], "the run's own"
    elif values is not None:
      mean, low, high = intervals.mean(values)
      kind = "over problems"
    elif None not in (*lows, *highs):
      low, high, kind = min(lows), max(highs), "range of the seeds' intervals"
    else:
      low, high, kind = min(means), max(means), "range of the seeds"
    entry["pass@k"][str(k)] = [mean, float(low), float(high)]
    kinds.add(kind)
  entry["interval"] = "; ".join(sorted(kinds))


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
        bool(completion.get("correct"))
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
  seeds = [passk.per_problem(count, k) for count in counts]
  for values, mean in zip(seeds, means, strict=True):
    if not values or abs(np.mean(list(values.values())) - mean) > 1e-4:
      return None
  # The verifier may have failed on some samples of some seeds.
  some = [[v[p] for v in seeds if p in v] for p in sorted(problems)]
  return [np.mean(values) for values in some if values]


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
  tried = len(_shared([*mine, *other]))
  most = min(
    (max((n for n, _ in run.values()), default=0) for run in (*mine, *other)),
    default=0,
  )
  found, problems = {}, tried
  for k in passk.powers(most):
    a, b = _values(mine, k), _values(other, k)
    both = len(a.keys() & b.keys())
    if passk.is_enough(both, tried):
      problems = min(problems, both)
      found[str(k)] = list(passk.difference(a, b))
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


def median_seconds(runs, stage="step"):
  """Median seconds of a step or a stage, the mean of that over runs.

  A mean over steps would be moved by those that compile. None where no run
  was timed.
  """
  values = [metrics.series(r.metrics, f"timing_s/{stage}")[1] for r in runs]
  return _mean(float(np.median(v)) for v in values if len(v))


def _mean(values):
  values = [value for value in values if value is not None]
  return float(np.mean(values)) if values else None
