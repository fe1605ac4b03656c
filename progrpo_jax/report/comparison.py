"""Numbers that compare several runs, one entry per method.

Runs of one label are seeds of one method: their means are averaged, and the
interval is computed from each problem's mean over the seeds
(`intervals.mean`). Averaging the seeds' own intervals would give too wide an
interval, since averaging over seeds reduces the noise.

`summarise` reads the numbers the evaluations reported. `analyse` adds what
needs the verdict on each sample: differences paired by problem, curves over
all k, histograms of pass@1 and regimes. Problems are identified by their text,
so runs that were evaluated separately are matched too.

Seeds of a label are compared at the last step that all of them evaluated: one
that stands at an earlier step is not mixed with the others as they are now.
Labels may differ in their step, and in how they were evaluated: `unlike` says
so.

Where too few problems have k samples with a verdict (`passk.ENOUGH`), pass@k
and everything derived from it is missing; two bounds, or the words "not enough
samples", replace it.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from progrpo_jax import errors
from progrpo_jax.evaluators import boundary, intervals, passk
from progrpo_jax.report import readings
from progrpo_jax.storage import metrics

START = "step 0"
BINS = 10
# Settings of an evaluation that pass@k depends on.
_SETTINGS = (
  ("eval", "temperature"),
  ("eval", "top_p"),
  ("eval", "top_k"),
  ("sampling", "max_new_tokens"),
)


def summarise(
  groups: readings.RunsByLabel,
  *,
  base: metrics.Record | None = None,
  dataset: str | None = None,
) -> dict[str, dict[str, Any]]:
  """Summarises the last evaluations of runs.

  Args:
    groups: {label: loaded runs}.
    base: loaded run of the base policy, or None.
    dataset: evaluation set; None for the first one in the runs.

  Returns:
    {label: entry}, the base first under "base". An entry holds `step`, `steps`
    (more than one where its seeds have no step in common), `pass@k` as
    {"k": [mean, low, high]}, `between` as {"k": [at least, at most]} where
    bounds replace pass@k, `num_problems` as {"k": problems in the mean} where
    it was logged, `left_out` (problems whose prompts are too long), `entropy`,
    `distinct_correct`, `mean_length`, `reward`, `seconds_per_step` and others;
    None where nothing was measured.

  Raises:
    InputError: a label is "base", or no run has the dataset.
  """
  if readings.BASE in groups:
    raise errors.InputError(
      f"the label {readings.BASE!r} is for the base policy: give its "
      "evaluation as base (--base), or the run another name (--labels)"
    )
  everything = {**({readings.BASE: [base]} if base else {}), **groups}
  if dataset is None:
    dataset = readings.default_set(everything)
  else:
    readings.check_set(everything, dataset)
  return {
    label: _entry(readings.at_shared_step(runs, dataset), dataset)
    for label, runs in everything.items()
  }


def analyse(
  groups: readings.RunsByLabel,
  *,
  base: metrics.Record | None = None,
  dataset: str | None = None,
) -> dict[str, dict[str, Any]]:
  """Summarises runs with their samples and all their evaluations.

  Args:
    groups: {label: loaded runs}.
    base: loaded run of the base policy, or None.
    dataset: evaluation set; None for the first one in the runs.

  Returns:
    The entries of `summarise` with more keys, None or empty where the runs
    lack the data:
    `bound`, {"k": Dang bound on pass@k} for k >= 2;
    `tolerant`, {"k": [mean, low, high]} by the tolerant verdict;
    `curve`, [[pass@k, low, high], ...] for k = 1, 2, 3, ...;
    `histogram`, number of problems in each tenth of pass@1;
    `difference`, {"against": label, "problems": number, "k": number, "pass@k":
    {"k": [mean, low, high]}, "seeds": {"k": [mean of each seed]}} from the
    base, or without one from the first label, where "problems" is the smallest
    number over k, and the number "k" the largest to judge by (None if there is
    no difference for k above 1), see `boundary.largest_k`;
    `change`, the same from before training: the base, or without one the
    label's own evaluations at step 0;
    `from_first`, the same from the first method;
    `regimes`, {set: result of `regimes`} for every set.

  Raises:
    InputError: a label is "base", or no run has the dataset.
  """
  summary = summarise(groups, base=base, dataset=dataset)
  everything = {**({readings.BASE: [base]} if base else {}), **groups}
  dataset = next(iter(summary.values()))["set"]
  counts = last_counts(groups, base=base, dataset=dataset)
  first, first_method = next(iter(everything)), next(iter(groups))
  for label, runs in everything.items():
    entry, label_counts = summary[label], counts[label]
    entry["bound"] = bounds(entry)
    entry["tolerant"] = _tolerant(
      readings.at_shared_step(runs, dataset), dataset
    )
    entry["curve"] = curve(label_counts)
    entry["histogram"] = histogram(label_counts)
    # The first entry, the base if there is one, is what others are compared to.
    entry["difference"] = None
    if label != first:
      entry["difference"] = _difference(label_counts, counts[first], first)
    entry["change"] = entry["from_first"] = None
    if label != readings.BASE:
      start = counts[readings.BASE] if base else _starts(runs, dataset)
      entry["change"] = _difference(
        label_counts, start, readings.BASE if base else START
      )
      if label != first_method:
        entry["from_first"] = _difference(
          label_counts, counts[first_method], first_method
        )
    entry["regimes"] = {
      name: regime
      for name in dict.fromkeys(
        name for run in runs for name in readings.sets(run)
      )
      if label != readings.BASE and (regime := regimes(runs, name, base))
    }
  return summary


def bounds(entry: Mapping[str, Any]) -> dict[str, float]:
  """{"k": Dang bound on pass@k} for each k >= 2 of an entry.

  The bound depends on the mean and the noise-free variance of pass@1 over
  problems; the unbiased estimate of both together is a function of pass@2.
  """
  if "2" not in entry["pass@k"]:
    return {}
  pass2 = entry["pass@k"]["2"][0]
  return {
    k: float(passk.bound_from_pass2(pass2, int(k)))
    for k in entry["pass@k"]
    if int(k) >= 2
  }


def curve(counts: Sequence[passk.Counts]) -> list[list[float]]:
  """[[pass@k, low, high], ...] for k = 1, 2, 3, ... while samples suffice.

  A problem's value is its mean over the seeds that have k samples of it.

  Args:
    counts: {problem: (samples, correct samples)} of each seed.
  """
  shared = _shared(counts)
  seeds = []
  for run in counts:
    n, c = np.array([run[problem] for problem in shared]).reshape(-1, 2).T
    if not n.any():
      return []
    seeds.append(passk.curve(n, c))
  fewest = min((values.shape[1] for values in seeds), default=0)
  points = []
  # Each round has the values of one k: [problems, seeds], NaN where a seed has
  # fewer than k samples of the problem.
  for values in np.transpose([values[:, :fewest] for values in seeds]):
    values = values[~np.isnan(values).all(axis=1)]
    if not passk.is_enough(len(values), len(shared)):
      break
    points.append(list(intervals.mean(np.nanmean(values, axis=1))))
  return points


def histogram(counts: Sequence[passk.Counts]) -> list[int]:
  """Number of problems in each tenth of pass@1, seeds' samples pooled.

  Args:
    counts: {problem: (samples, correct samples)} of each seed.
  """
  totals = [
    np.sum([run[problem] for run in counts], 0) for problem in _shared(counts)
  ]
  totals = [(n, c) for n, c in totals if n]
  if not totals:
    return []
  n, c = np.array(totals).T
  return passk.histogram(n, c, BINS).tolist()


def regimes(
  runs: Sequence[metrics.Record],
  dataset: str,
  base: metrics.Record | None = None,
) -> dict[str, Any] | None:
  """Returns the regime of a method on one evaluation set.

  Compares pass@k of three policies: the base (`base`, or each run's evaluation
  at step 0), the middle (the evaluation nearest to half way that all seeds
  have) and the final one (the last evaluation all seeds have).

  Args:
    runs: loaded runs, the seeds of one method.
    dataset: evaluation set.
    base: loaded run of the base policy, or None.

  Returns:
    A dict of `regime`, `k`, `problems`, `steps` [middle, final], `base`,
    `middle` and `final` (means), `gain` and `late` ([mean, low, high] of
    final - base and final - middle) and `gain@1` (the gain in pass@1); None
    without three evaluations with samples. If too few problems have k samples
    at all three, the regime is `boundary.NOT_ENOUGH` and the means and
    intervals are None.
  """
  steps = _checkpoints(runs, dataset, base is not None)
  if steps is None:
    return None
  start, middle, final = steps
  middles = [readings.step_counts(run, dataset, middle) for run in runs]
  finals = [readings.step_counts(run, dataset, final) for run in runs]
  starts = (
    [_last_counts(base, dataset)]
    if base is not None
    else [readings.step_counts(run, dataset, start) for run in runs]
  )
  # pass@k at the largest k that most problems of every evaluation support.
  k = boundary.largest_k(*starts, *middles, *finals)
  tried = _shared([*starts, *middles, *finals])
  if k is None or not tried:
    return None
  at = [_values(counts, k) for counts in (starts, middles, finals)]
  problems = len(set.intersection(*map(set, at)))
  means = ("base", "middle", "final", "gain", "late", "gain@1")
  facts = {"k": k, "problems": problems, "steps": [middle, final]}
  if not passk.is_enough(problems, len(tried)):
    return {"regime": boundary.NOT_ENOUGH, **facts, **dict.fromkeys(means)}
  judged = boundary.regime_of(*at)
  return {
    "regime": judged.regime,
    **facts,
    "base": judged.base,
    "middle": judged.middle,
    "final": judged.final,
    "gain": list(judged.gain),
    "late": list(judged.late),
    "gain@1": list(passk.difference(_values(finals, 1), _values(starts, 1))),
  }


def last_counts(
  groups: readings.RunsByLabel,
  *,
  base: metrics.Record | None = None,
  dataset: str | None = None,
) -> dict[str, list[passk.Counts]]:
  """{label: `readings.step_counts` of each run}, the base first.

  The evaluations are those of `readings.at_shared_step`.

  Args:
    groups: {label: loaded runs}.
    base: loaded run of the base policy, or None.
    dataset: evaluation set; None for the first one in the runs.
  """
  everything = {**({readings.BASE: [base]} if base else {}), **groups}
  dataset = dataset or readings.default_set(everything)
  return {
    label: [
      _last_counts(run, dataset)
      for run in readings.at_shared_step(runs, dataset)
    ]
    for label, runs in everything.items()
  }


def unlike(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
  """Says in what the evaluations of a comparison differ, besides the policy.

  Args:
    summary: result of `summarise`. The step of the base policy is no matter.

  Returns:
    Sentences without their full stop; none where the evaluations are alike.
  """
  names = {
    "step": {
      label: entry["steps"]
      for label, entry in summary.items()
      if label != readings.BASE and entry["steps"]
    },
    **{
      ".".join(key): {
        label: entry["settings"][".".join(key)]
        for label, entry in summary.items()
        if entry["settings"].get(".".join(key))
      }
      for key in _SETTINGS
    },
  }
  return [
    f"evaluations differ in {name}: "
    + ", ".join(
      f"{label} {' and '.join(map(str, values))}"
      for label, values in by_label.items()
    )
    for name, by_label in names.items()
    if len({value for values in by_label.values() for value in values}) > 1
  ]


def _entry(
  runs: Sequence[metrics.Record], dataset: str | None
) -> dict[str, Any]:
  """Returns the entry of `summarise` for the runs of one label."""
  rows = [readings.last_row(run, dataset) for run in runs]
  rows_with = [row for row in rows if row]
  entry = {
    "set": dataset,
    "seeds": len(runs),
    "step": max((row["step"] for row in rows_with), default=None),
    "steps": sorted({row["step"] for row in rows_with}),
    "settings": {
      f"{group}.{name}": _values_of(runs, group, name)
      for group, name in _SETTINGS
    },
    "pass@k": {},
    "between": {},
    "num_problems": {},
    "left_out": max(
      (row.get(f"eval/{dataset}/left_out", 0) for row in rows_with), default=0
    ),
    "interval": None,
    "entropy": readings.mean(
      row.get(f"eval/{dataset}/entropy") for row in rows
    ),
    "distinct_correct": readings.mean(
      row.get(f"eval/{dataset}/distinct_correct") for row in rows
    ),
    "mean_length": readings.mean(
      row.get(f"eval/{dataset}/mean_length") for row in rows
    ),
    "train_entropy": readings.mean(_final(run, "entropy") for run in runs),
    "reward": readings.mean(_final(run, "reward") for run in runs),
    "seconds_per_step": readings.median_seconds(runs),
    "workdirs": [str(run.path) for run in runs],
  }
  # Without the entropy of evaluation samples, the training samples' is shown.
  if entry["entropy"] is None:
    entry["entropy"] = entry["train_entropy"]
  if rows_with:
    _add_pass(
      entry, [run for run in runs if readings.last_row(run, dataset)], dataset
    )
  return entry


def _values_of(
  runs: Sequence[metrics.Record], group: str, name: str
) -> list[Any]:
  """The different values of a config key in the runs that keep a config."""
  values = [run.config.get(group, {}).get(name) for run in runs]
  return list(dict.fromkeys(value for value in values if value is not None))


def _add_pass(
  entry: dict[str, Any], runs: Sequence[metrics.Record], dataset: str | None
) -> None:
  """Adds pass@k with intervals, or its bounds, to an entry.

  Also the numbers of problems and, as `interval`, how intervals were computed.

  Args:
    entry: entry to fill in.
    runs: runs of the label that evaluated the set.
    dataset: evaluation set.
  """
  rows = [readings.last_row(run, dataset) for run in runs]
  shared = sorted(
    set.intersection(*(set(readings.ks(run, dataset)) for run in runs))
  )
  counts = [
    readings.problem_counts(run, dataset, row["step"])
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
    # One seed without pass@k leaves only bounds; another seed's pass@k is then
    # its own lower and upper bound.
    if None in means:
      entry["between"][str(k)] = [
        float(np.mean([row.get(f"{name}/{end}", mean) for row, mean in pairs]))
        for end in ("at_least", "at_most")
      ]
      continue
    lows = [row.get(f"{name}/low") for row in rows]
    highs = [row.get(f"{name}/high") for row in rows]
    mean, values = float(np.mean(means)), _per_problem(counts, k, means)
    # Best interval available: the run's own, from problem means over seeds,
    # the range of the seeds' intervals, the range of the seeds' means.
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


def _per_problem(
  counts: Sequence[passk.Counts], k: int, means: Sequence[float]
) -> list[float] | None:
  """Mean over seeds of each problem's pass@k, or None.

  None unless every seed wrote samples of the same problems that reproduce the
  mean its evaluation reported (fewer samples may have been written).
  """
  problems = set(counts[0])
  if not problems or any(set(count) != problems for count in counts):
    return None
  seeds = [passk.per_problem(count, k) for count in counts]
  for values, mean in zip(seeds, means, strict=True):
    if not values or abs(np.mean(list(values.values())) - mean) > 1e-4:
      return None
  # A seed lacks a problem's value if the verifier failed on too many samples.
  by_problem = [[v[p] for v in seeds if p in v] for p in sorted(problems)]
  return [np.mean(values) for values in by_problem if values]


def _last_counts(run: metrics.Record, dataset: str | None) -> passk.Counts:
  row = readings.last_row(run, dataset)
  return readings.step_counts(run, dataset, row["step"]) if row else {}


def _starts(
  runs: Sequence[metrics.Record], dataset: str | None
) -> list[passk.Counts]:
  """The counts of each run at step 0; {} for a run without later steps."""
  return [
    readings.step_counts(run, dataset, 0)
    if readings.last_row(run, dataset).get("step")
    else {}
    for run in runs
  ]


def _shared(counts: Sequence[passk.Counts]) -> list[Hashable]:
  """Problems tried by every seed, sorted."""
  return sorted(set.intersection(*map(set, counts))) if counts else []


def _values(counts: Sequence[passk.Counts], k: int) -> dict[Hashable, float]:
  """{problem: mean over seeds of pass@k}."""
  return passk.mean_of([passk.per_problem(run, k) for run in counts])


def _tolerant(
  runs: Sequence[metrics.Record], dataset: str | None
) -> dict[str, list[float]]:
  """{"k": [mean, low, high]} by the tolerant verdict.

  The mean over seeds, with the range of the seeds' intervals.
  """
  prefix = f"eval/{dataset}/{readings.TOLERANT}/pass@"
  rows = [readings.last_row(run, dataset) for run in runs]
  names = [key for key in rows[0] if key.startswith(prefix)]
  values = {}
  for name in names:
    # Intervals and numbers of problems have longer names.
    if not name.removeprefix(prefix).isdigit():
      continue
    parts = [
      [row.get(key) for row in rows]
      for key in (name, f"{name}/low", f"{name}/high")
    ]
    if None not in sum(parts, []):
      mean, low, high = parts
      values[name.removeprefix(prefix)] = [
        float(np.mean(mean)),
        float(min(low)),
        float(max(high)),
      ]
  return values


def _difference(
  counts: Sequence[passk.Counts],
  reference: Sequence[passk.Counts],
  against: str,
) -> dict[str, Any] | None:
  """Paired differences of pass@k for k = 1, 2, 4, ..., or None.

  Args:
    counts: {problem: (samples, correct samples)} of each seed.
    reference: the same for the method to compare with.
    against: label of that method.
  """
  tried = len(_shared([*counts, *reference]))
  # The largest k every seed has samples for, on some problem at least.
  most = min(
    (
      max((n for n, _ in run.values()), default=0)
      for run in (*counts, *reference)
    ),
    default=0,
  )
  differences, seeds, problems = {}, {}, tried
  for k in passk.powers(most):
    a, b = _values(counts, k), _values(reference, k)
    both = a.keys() & b.keys()
    if passk.is_enough(len(both), tried):
      problems = min(problems, len(both))
      differences[str(k)] = list(passk.difference(a, b))
      seeds[str(k)] = [
        float(np.mean([run[name] - b[name] for name in both & run.keys()]))
        for run in (passk.per_problem(count, k) for count in counts)
      ]
  if not differences:
    return None
  largest = boundary.largest_k(*counts, *reference)
  return {
    "against": against,
    "problems": problems,
    "k": max(
      (int(k) for k in differences if 1 < int(k) <= (largest or 0)),
      default=None,
    ),
    "pass@k": differences,
    "seeds": seeds,
  }


def _checkpoints(
  runs: Sequence[metrics.Record], dataset: str, has_base: bool
) -> tuple[int | None, int, int] | None:
  """(start, middle, final) steps evaluated by all runs, or None.

  The start is None if there is a base policy to use instead.
  """
  per_run = [readings.evaluated_steps(run, dataset) for run in runs]
  steps = sorted(set.intersection(*per_run)) if per_run else []
  if 0 not in steps and not has_base:
    return None
  trained = [step for step in steps if step > 0]
  if len(trained) < 2:
    return None
  final = trained[-1]
  middle = min(trained[:-1], key=lambda step: (abs(step - final / 2), step))
  return (None if has_base else 0), middle, final


def _final(run: metrics.Record, name: str) -> float | None:
  ends = readings.ending(run, name)
  return ends and ends[1]
