"""What is kept of the study's runs, as numbers by seed and problem.

`study.py` wrote the files, `make_study.py` makes tables of these numbers and
`study_pictures.py` draws them.
"""

import collections
from collections.abc import Sequence
import pathlib

import numpy as np
import study

from progrpo_jax.evaluators import passk

BASELINE = "grpo"
# Pairs of runs that a difference needs: two that happen to agree prove nothing.
ENOUGH = 3
# An answer less probable than this is seldom among 64 samples.
DEAD = 0.005
# The settings that ARM's variants change one thing of.
BORROWED = {"arm": [("countdown", (BASELINE, "progrpo"))]}
# Runs of the same plan that began at another base: their folder.
OTHER_BASE = {"countdown": "countdown_first"}

# Arm -> files of its seeds, in rising order.
Runs = dict[str, list[dict]]


def load(results: pathlib.Path, part: str) -> Runs:
  """Reads the runs of a part, arms in the order of the plan, the base first.

  What a part of the plan borrows from another stands before its own. Each run
  is given the name of its base, "from".
  """
  found: Runs = collections.defaultdict(list)
  plan = study.PARTS[part]
  own = [(results / part, plan.arms, plan.base)]
  if part in OTHER_BASE:
    own.append((results / OTHER_BASE[part], plan.arms, OTHER_BASE[part]))
  for folder, _, base in own:
    file = folder / "base.json.gz"
    if file.exists():
      found["base"].append(study.read(file) | {"from": base})
  homes = own
  for home, arms in reversed(BORROWED.get(part, ())):
    homes = [(results / home, arms, study.PARTS[home].base), *homes]
  # By arm, so that a row has the runs of all folders.
  for arm in dict.fromkeys(a for _, arms, _ in homes for a in arms):
    for folder, arms, base in homes:
      for seed in range(study.MOST_SEEDS) if arm in arms else ():
        file = study.result_file(folder, arm, seed)
        if file.exists():
          found[arm].append(study.read(file) | {"from": base})
  return dict(found)


def of_plan(results: pathlib.Path, part: str) -> Runs:
  """The runs that began at the base of the plan, those of no other base."""
  base = study.PARTS[part].base
  runs = {
    arm: [run for run in own if run["from"] == base]
    for arm, own in load(results, part).items()
  }
  return {arm: own for arm, own in runs.items() if own}


def at_temperatures(results: pathlib.Path, part: str) -> dict[float, Runs]:
  """The last policies of a part's runs by the temperature of their evaluation.

  Runs that were not evaluated at other temperatures are left out.

  Returns:
    {temperature: runs whose only evaluation is at it}, in rising order.
  """
  found: dict[float, Runs] = collections.defaultdict(
    lambda: collections.defaultdict(list)
  )
  for arm, runs in of_plan(results, part).items():
    for run in runs:
      name = "base"
      if arm != "base":
        name = study.stem(study.result_file(results, arm, run["seed"]))
      file = study.tempered_file(results, part, name)
      if not file.exists():
        continue
      last = [e for e in run["evals"] if e["step"] == steps(run)[-1]]
      evals = [{**e, "temperature": 1.0} for e in last]
      evals += study.read(file)["evals"]
      for temperature in {e["temperature"] for e in evals}:
        own = [e for e in evals if e["temperature"] == temperature]
        found[temperature][arm].append({**run, "evals": own})
  return {t: dict(found[t]) for t in sorted(found)}


def tempered_with(results: pathlib.Path, part: str) -> list[str]:
  """The commits whose code evaluated a part at other temperatures."""
  folder = study.tempered_file(results, part, "base").parent
  return sorted({study.read(f)["commit"] for f in folder.glob("*.json.gz")})


def at_their_best(results: pathlib.Path, part: str) -> dict[str, tuple]:
  """Arm -> (temperature, runs) where its mean pass@32 is highest."""
  by_arm: dict[str, list] = collections.defaultdict(list)
  for temperature, runs in at_temperatures(results, part).items():
    for arm, own in runs.items():
      by_arm[arm].append((pass_SX(own, 32).mean(), temperature, own))
  return {
    arm: max(rows, key=lambda row: row[0])[1:] for arm, rows in by_arm.items()
  }


def paired(runs: Runs, enough: int = ENOUGH) -> Runs:
  """GRPO's runs, and those of arms with enough runs that have their pair."""
  starts = {start_of(run) for run in runs.get(BASELINE, [])}
  found = {
    arm: [run for run in own if start_of(run) in starts]
    for arm, own in runs.items()
    if arm != "base"
  }
  return {arm: own for arm, own in found.items() if len(own) >= enough}


def steps(run: dict) -> list[int]:
  """Steps at which a run was evaluated, in rising order."""
  return sorted({e["step"] for e in run["evals"]})


def evaluation(run: dict, step: int | None = None) -> dict:
  """An evaluation of a run; of several sets, their problems in a row.

  Args:
    run: file of the run.
    step: step of the evaluation; the last if None.
  """
  step = steps(run)[-1] if step is None else step
  sets = [e for e in run["evals"] if e["step"] == step]
  return {
    **{
      name: [x for e in sets for x in e[name]]
      for name in ("samples", "right", "distinct")
    },
    "entropy": float(np.mean([e["entropy"] for e in sets])),
  }


def by_set(run: dict, step: int | None = None) -> dict[str, dict]:
  """A run as one of each set of held-out problems, with that set alone."""
  step = steps(run)[-1] if step is None else step
  return {
    e["set"]: {**run, "evals": [e]} for e in run["evals"] if e["step"] == step
  }


def pass_SX(
  runs: Sequence[dict], k: int, step: int | None = None
) -> np.ndarray:
  """pass@k by seed and problem, of an evaluation or of the last."""
  return np.stack(
    [
      passk.pass_at_k(np.array(e["samples"]), np.array(e["right"]), k)
      for e in (evaluation(run, step) for run in runs)
    ]
  )


def distinct_SX(runs: Sequence[dict], step: int | None = None) -> np.ndarray:
  """Number of different right answers by seed and problem, likewise."""
  return np.stack(
    [np.array(evaluation(run, step)["distinct"], float) for run in runs]
  )


def unsolved_X(base: dict) -> np.ndarray:
  """Which problems the base answered wrongly with all its samples."""
  return np.array(evaluation(base)["right"]) == 0


def dead(p_X: Sequence[float]) -> float:
  """Share of problems where answers are all but lost: p below DEAD."""
  return float(np.mean(np.array(p_X) < DEAD))


def start_of(run: dict) -> tuple:
  """What a run shares with that of another method: its base and its seed."""
  return run.get("from"), run.get("seed")
