"""The study: runs of every method from one base, and what is kept of them.

  .venv/bin/python tools/study.py list
  .venv/bin/python tools/study.py run countdown arm
  .venv/bin/python tools/study.py temper countdown
  .venv/bin/python tools/make_study.py

`run` trains what is missing of the named parts, one run after the other, all
of the first seed before the second, and writes a file of each to docs/results;
a run that was cut off goes on where it stopped. Two calls may share a machine:
each takes the next run that the other does not hold. `temper` evaluates the
last policies of runs that are done, and their base, at other temperatures.
`make_study.py` makes the tables and figures of docs/study.md from these files
alone.
"""

import argparse
from collections.abc import Iterator
import dataclasses
import fcntl
import gzip
import json
import math
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

import progrpo_jax
from progrpo_jax import run as run_lib
from progrpo_jax.build import answers
from progrpo_jax.settings import files, named
from progrpo_jax.storage import metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
# Metrics of a step that are kept.
KEPT = (
  "reward",
  "correct",
  "entropy",
  "completions/mean_length",
  "completions/clipped_ratio",
  "kl",
  "grad_norm",
  "arm/gap_mean",
  "arm/bonus_abs_mean",
  "advantage/moved_right",
  "advantage/moved_wrong",
  "arm/sign_flip",
  "ref_reset/reset",
  "timing_s/step",
  "timing_s/sample",
  "timing_s/score",
  "timing_s/update",
)
# Temperatures of `temper`. The runs themselves are evaluated at 1.
TEMPERATURES = (0.6, 1.25, 1.5)
# Problems whose answers are followed, and wrong answers of each.
FOLLOWED, WRONG = 64, 16


@dataclasses.dataclass(frozen=True)
class Arm:
  """One row of a table: a method, and keys in which it differs.

  Attributes:
    method: argument of the part's config file.
    keys: config key -> value.
  """

  method: str
  keys: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
  """Runs that are compared with each other.

  Attributes:
    config: config file, whose argument is the method.
    arms: name -> arm.
    keys: config key -> value, of all its runs.
    seeds: number of seeds.
    base: name of the base policy in the folder of the runs.
    follow: steps between the checkpoints at which the probabilities of the
      base's own answers are taken; 0 for never.
    keeps_base: whether the base is kept with the results. Another processor
      rounds otherwise, so that a base made anew there is another policy.
    rounds_base: whether the weights of a base that is warmed up are rounded to
      bfloat16, which halves what is kept of it. Runs compute in float32.
  """

  config: str
  arms: dict[str, Arm]
  keys: dict[str, Any]
  seeds: int
  base: str
  follow: int = 0
  keeps_base: bool = False
  rounds_base: bool = False


def all_methods(steps: int) -> dict[str, Arm]:
  """Every method of the package.

  Args:
    steps: steps of a run. A config reckons the resets and the length penalty of
      a short run from its own number of steps, which the study changes.
  """
  reset = {"algo.reset.period": steps * 2 // 5}
  length = {
    "algo.length_penalty.on": steps // 10,
    "algo.length_penalty.off": steps // 2,
  }
  keys = {"prorl": reset, "prorl_v2": reset | length, "brorl": reset | length}
  return {name: Arm(name, keys.get(name, {})) for name in named.METHODS}


def of_arm() -> dict[str, Arm]:
  """ARM with one thing changed from the quickstart's settings.

  Those settings themselves, and GRPO, are runs of the part `countdown`. ARM on
  right responses moves advantages about a third as much as on wrong ones, for
  the same alpha. Two arms even that out, so that place and size are not
  confused: `right only, alpha 3` beside `wrong only`, and `wrong only, alpha
  0.3` beside `right only`.
  """
  key = "algo.arm."
  changed = {
    "alpha 0.1": {key + "alpha": 0.1},
    "alpha 0.3": {key + "alpha": 0.3},
    "alpha 3": {key + "alpha": 3.0},
    "right only": {key + "apply_to": "correct"},
    "wrong only": {key + "apply_to": "wrong"},
    "right only, alpha 3": {key + "apply_to": "correct", key + "alpha": 3.0},
    "wrong only, alpha 0.3": {key + "apply_to": "wrong", key + "alpha": 0.3},
    "all-correct groups only": {key + "active": "all_correct"},
    "c(q) of the paper": {key + "centre": False},
    "c(q) of the paper, alpha 0.3": {key + "centre": False, key + "alpha": 0.3},
  }
  return {name: Arm("progrpo", keys) for name, keys in changed.items()}


def of_long_runs() -> dict[str, Arm]:
  """ProRL, ARM, both and neither, over thousands of steps.

  MaxRL and Pass@k training, which read rewards alone, stand beside them.
  """
  both = {"algo.arm.alpha": 1.0, "algo.arm.centre": True}
  trend = {"algo.reset.modes": "('kl',)"}
  # Three evaluations of 200 steps each without a gain.
  stall = {"algo.reset.modes": "('stall',)", "algo.reset.patience": 3}
  period = {"algo.reset.modes": "('every',)", "algo.reset.period": 400}
  return {
    "grpo": Arm("grpo"),
    "progrpo": Arm("progrpo"),
    "prorl": Arm("prorl", period),
    "prorl + ARM": Arm("prorl", period | both),
    "prorl, never reset": Arm("prorl", {"algo.reset.modes": "()"}),
    "prorl, reset by stall": Arm("prorl", stall),
    "prorl, reset by KL": Arm("prorl", trend),
    "maxrl": Arm("maxrl"),
    "passk": Arm("passk"),
  }


# All runs: the base is evaluated once for all, and no rollout is kept.
KEYS = {
  "eval.at_start": False,
  "log.rollouts_every": 0,
  "log.tensorboard": False,
}
# Steps of a run, by part.
STEPS = {"countdown": 200, "puzzles": 300, "long": 2000, "sentences": 60}
# Runs whose checkpoints are read again, see `follow`.
FOLLOW_KEYS = {
  "train.total_steps": STEPS["countdown"],
  "eval.every": 100,
  "checkpoint.every": 20,
  "checkpoint.keep_every": 20,
  **KEYS,
}
# No part has more.
MOST_SEEDS = 10
PARTS = {
  "countdown": Part(
    config="configs/tiny.py",
    arms=all_methods(STEPS["countdown"]),
    keys=FOLLOW_KEYS,
    seeds=5,
    base="base",
    follow=20,
    keeps_base=True,
  ),
  "arm": Part(
    config="configs/tiny.py",
    arms=of_arm(),
    keys=FOLLOW_KEYS,
    seeds=5,
    base="base",
    follow=20,
    keeps_base=True,
  ),
  "puzzles": Part(
    config="configs/puzzles.py",
    arms=all_methods(STEPS["puzzles"]),
    keys={"train.total_steps": STEPS["puzzles"], **KEYS},
    seeds=3,
    base="puzzles-base",
    keeps_base=True,
    rounds_base=True,
  ),
  "long": Part(
    config="configs/tiny.py",
    arms=of_long_runs(),
    keys={
      "train.total_steps": STEPS["long"],
      "eval.every": 200,
      "checkpoint.every": 100,
      **KEYS,
    },
    seeds=3,
    base="base",
    keeps_base=True,
  ),
  "sentences": Part(
    config="configs/smollm2.py",
    arms={
      "grpo": Arm("grpo"),
      "progrpo": Arm("progrpo"),
      "c(q) of the paper, alpha 0.3": Arm(
        "progrpo", {"algo.arm.centre": False, "algo.arm.alpha": 0.3}
      ),
      "ucpo": Arm("ucpo"),
      "maxrl": Arm("maxrl"),
      "adaptive_entropy": Arm("adaptive_entropy"),
    },
    keys={
      "train.total_steps": STEPS["sentences"],
      "eval.every": 60,
      "checkpoint.every": 20,
      **KEYS,
    },
    seeds=3,
    base="smollm2",
  ),
}


def main() -> int:
  """Lists the runs, or trains what is missing."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  commands = parser.add_subparsers(dest="command", required=True)
  listing = commands.add_parser("list", help="what is done, and what is not")
  training = commands.add_parser("run", help="train what is missing")
  tempering = commands.add_parser(
    "temper", help="evaluate policies at other temperatures"
  )
  for command in (training, tempering):
    command.add_argument("parts", nargs="+", choices=PARTS)
    command.add_argument(
      "--arms", nargs="+", help="these alone, in this order (default: all)"
    )
    command.add_argument("--seeds", type=int, help="the first of them alone")
    command.add_argument(
      "--output", type=pathlib.Path, default=ROOT / "runs" / "study"
    )
  for command in (listing, training, tempering):
    command.add_argument("--results", type=pathlib.Path, default=RESULTS)
  args = parser.parse_args()
  if args.command == "list":
    print_list(args.results)
    return 0
  if args.command == "run":
    try:  # before a base is warmed up
      for name in args.parts:
        list(runs_of(PARTS[name], args.arms))
    except ValueError as e:
      parser.error(str(e))
  for name in args.parts:
    if args.command == "temper":
      temper(name, args)
      continue
    part = PARTS[name]
    base = make_base(part, args.output, args.results, name)
    for arm, seed in runs_of(part, args.arms, args.seeds):
      file = result_file(args.results / name, arm, seed)
      if file.exists():
        continue
      workdir = args.output / name / stem(file)
      workdir.mkdir(parents=True, exist_ok=True)
      with (workdir / "study.lock").open("w") as lock:
        try:
          fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
          continue  # another call trains it
        if file.exists():
          continue  # another call has trained it meanwhile
        commits = begun_with(workdir)
        command = train(part, arm, seed, base, workdir)
        kept = summary(workdir, command) | {"commit": ", ".join(commits)}
        if part.follow:
          kept["followed"] = follow(
            workdir, args.output / f"{part.base}-eval", part.follow
          )
        write(file, {"part": name, "arm": arm, "seed": seed} | kept)
        print(f"wrote {file}", flush=True)
  return 0


def runs_of(part, names=None, seeds=None) -> Iterator[tuple[str, int]]:
  """Yields (arm, seed), all arms of a seed before the next seed.

  Raises:
    ValueError: the part has no such arm.
  """
  for name in names or ():
    if name not in part.arms:
      raise ValueError(f"no arm {name!r}; known: {', '.join(part.arms)}")
  for seed in range(part.seeds if seeds is None else seeds):
    for arm in names or part.arms:
      yield arm, seed


def result_file(folder: pathlib.Path, arm: str, seed: int) -> pathlib.Path:
  """File of a run: its arm in letters, digits and dashes, and its seed."""
  words = "".join(x if x.isalnum() or x in "._+" else " " for x in arm).split()
  return folder / f"{'-'.join(words)}-seed{seed}.json.gz"


def make_base(
  part: Part, output: pathlib.Path, results: pathlib.Path, name: str
) -> pathlib.Path:
  """Makes the policy that all runs start from, and evaluates it.

  A pretrained policy must be there already (`tools/make_real_model.py`).

  Args:
    part: the part.
    output: folder of the runs.
    results: folder of what is kept.
    name: the part's, in `results`.
  """
  base, evaluated = output / part.base, output / f"{part.base}-eval"
  kept = results / "policies" / part.base
  if kept.exists() and not base.exists():
    shutil.copytree(kept, base)
  first = f"{part.config}:{next(iter(part.arms.values())).method}"
  if not (base / "config.json").exists():
    warm = base.with_name(f"{base.name}-warm") if part.rounds_base else base
    progrpo(
      "warmup", "--config", first, "--output", warm, "--config.model.init_from="
    )
    if part.rounds_base:
      progrpo(
        *("export", "--policy", warm, "--output", base),
        *("--dtype", "bfloat16"),
      )
  if part.keeps_base and not kept.exists():
    shutil.copytree(base, kept)
  # What it answered is needed again where its answers are followed.
  file = results / name / "base.json.gz"
  is_needed = part.follow or not file.exists()
  if is_needed and not (evaluated / metrics.EVALS).exists():
    progrpo(
      "evaluate",
      *("--config", first, "--workdir", evaluated),
      f"--config.model.init_from={base}",
    )
  if not file.exists():
    write(file, {"arm": "base"} | summary(evaluated, ""))
  return base


def train(part, arm, seed, base, workdir) -> str:
  """Trains a run to its end; returns its command, without its own paths."""
  flags = {"seed": seed, **part.keys, **part.arms[arm].keys}
  words = [
    *("train", "--config", f"{part.config}:{part.arms[arm].method}"),
    *(f"--config.{key}={value}" for key, value in flags.items()),
  ]
  progrpo(*words, "--workdir", workdir, f"--config.model.init_from={base}")
  return " ".join(["progrpo", *words])


def begun_with(workdir: pathlib.Path) -> list[str]:
  """The commits whose code trains a run: one for each that it went on with.

  They are noted before the training, since a checkout may move meanwhile.
  """
  file = workdir / "study.commits"
  before = file.read_text().split() if file.exists() else []
  commits = list(dict.fromkeys([*before, commit()]))
  file.write_text("\n".join(commits) + "\n")
  return commits


def progrpo(*words) -> None:
  """Runs a command in a process of its own."""
  subprocess.run(
    [sys.executable, "-m", "progrpo_jax.main", *map(str, words)],
    check=True,
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
  )


def temper(name: str, args) -> None:
  """Evaluates a part's last policies, and its base, at `TEMPERATURES`.

  Problems, random numbers and number of samples are those of the runs'
  evaluations: only the temperature differs.

  Args:
    name: the part's.
    args: arguments of the command.
  """
  part = PARTS[name]
  first = next(iter(part.arms))
  policies = [("base", args.output / part.base, first, 0)]
  for arm, seed in runs_of(part, args.arms, args.seeds):
    file = result_file(args.results / name, arm, seed)
    if file.exists():
      run = stem(file)
      policies.append((run, args.output / name / run, arm, seed))
  for run, policy, arm, seed in policies:
    file = tempered_file(args.results, name, run)
    if file.exists() or not (policy / "config.json").exists():
      continue
    c = progrpo_jax.config(
      part.config,
      method=part.arms[arm].method,
      keys={**part.keys, "seed": seed},
    )
    c = files.without_training(c)
    evals = []
    for temperature in TEMPERATURES:
      c.eval.temperature = temperature
      with tempfile.TemporaryDirectory() as evaluated:
        progrpo_jax.evaluate(policy, c, workdir=evaluated)
        found = summary(pathlib.Path(evaluated), "")["evals"]
      evals += [{"temperature": temperature, **of_set} for of_set in found]
    write(file, made() | {"part": name, "run": run, "evals": evals})
    print(f"wrote {file}", flush=True)


def stem(file: pathlib.Path) -> str:
  """Name of a result's file without its ending, which is the run's."""
  return file.name.removesuffix(".json.gz")


def tempered_file(results: pathlib.Path, part: str, run: str) -> pathlib.Path:
  """File of a run's evaluations at other temperatures."""
  return results / f"{part}_temperatures" / f"{run}.json.gz"


def made() -> dict[str, Any]:
  """What a result was made by."""
  return {"commit": commit(), "versions": versions()}


def summary(workdir: pathlib.Path, command: str) -> dict[str, Any]:
  """What is kept of a run: series of numbers, and counts by problem."""
  run = metrics.load(workdir, require_metrics=False)
  kept: dict[str, Any] = {
    "command": command,
    **made(),
    "steps": {
      name: [short(row.get(name)) for row in run.metrics]
      for name in KEPT
      if any(name in row for row in run.metrics)
    },
    "evals": [],
  }
  for row in run.evals:
    by_set: dict[str, list] = {}
    for record in run.eval_samples(row["step"]):
      by_set.setdefault(record["set"], []).append(record)
    for name, problems in by_set.items():
      known = [
        [c["correct"] for c in p["completions"] if c["status"] == "ok"]
        for p in problems
      ]
      start = f"eval/{name}/"
      kept["evals"].append(
        {
          "step": row["step"],
          "set": name,
          "samples": [len(x) for x in known],
          "right": [sum(x) for x in known],
          "distinct": [p["distinct_correct"] for p in problems],
          **{
            key.removeprefix(start): short(value)
            for key, value in row.items()
            if key.startswith(start) and "pass@" not in key
          },
        }
      )
  return kept


def follow(
  workdir: pathlib.Path, base: pathlib.Path, every: int
) -> dict[str, list]:
  """How probable the base policy's own answers are, as a run goes on.

  The answers are those that the base gave to the first problems of the
  held-out set that it answered both right and wrong: every different right
  text, and its commonest wrong ones. Their probabilities are those of whole
  texts; what a policy writes otherwise counts nowhere.

  Args:
    workdir: workdir of the run, with its checkpoints.
    base: workdir of the base's evaluation.
    every: steps between the checkpoints that are read.

  Returns:
    {"step": steps, "commonest", "rarest", "right", "wrong": by step a list
    with the probability for each problem: of the right text that the base
    gave most often, of a right text that it gave least often, of all right
    texts that it gave, of the wrong ones}.
  """
  pairs, spans = [], []
  for record in run_lib.load_run(base).eval_samples():
    right, wrong = counted(record["completions"])
    if len(right) > 1 and wrong and len(spans) < FOLLOWED:
      spans.append((len(pairs), len(right), len(wrong[:WRONG])))
      pairs += [(record["prompt"], t) for t in right + wrong[:WRONG]]
  run = run_lib.load_run(workdir)
  found: dict[str, list] = {"step": []}
  for step in [s for s in run.checkpoints() if s % every == 0]:
    responder = answers.Responder.load(
      files.without_training(run.config),
      str(workdir / "checkpoints" / str(step)),
    )
    p_X = np.exp(responder.log_probs(pairs))
    found["step"].append(step)
    for name, values in masses(p_X, spans).items():
      found.setdefault(name, []).append([short(v) for v in values])
  return found


def masses(p_X, spans) -> dict[str, list[float]]:
  """Sums probabilities by problem; see `follow`.

  Args:
    p_X: probability of each text.
    spans: (first text, right texts, wrong texts after them) of each problem;
      the right ones from the commonest to the rarest.
  """
  return {
    "commonest": [p_X[at] for at, _, _ in spans],
    "rarest": [p_X[at + right - 1] for at, right, _ in spans],
    "right": [p_X[at : at + right].sum() for at, right, _ in spans],
    "wrong": [
      p_X[at + right : at + right + wrong].sum() for at, right, wrong in spans
    ],
  }


def counted(completions) -> tuple[list[str], list[str]]:
  """Different right and wrong texts, each from the commonest to the rarest."""
  texts = [
    (c["text"], c["correct"]) for c in completions if c["status"] == "ok"
  ]
  found = []
  for verdict in (True, False):
    kind = [text for text, correct in texts if correct == verdict]
    # Equal numbers stay in the order in which the texts were drawn.
    found.append(sorted(dict.fromkeys(kind), key=lambda t: -kind.count(t)))
  return found[0], found[1]


def short(value):
  """A number with five digits, None if it is none or not finite."""
  if value is None or isinstance(value, (bool, int, str)):
    return value
  return float(f"{value:.5g}") if math.isfinite(value) else None


def commit() -> str:
  """The commit of the code, with a plus sign if files differ from it."""
  git = ["git", "-C", os.fspath(ROOT)]
  name = subprocess.run(
    [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
  ).stdout.strip()
  changed = subprocess.run(
    [*git, "status", "--porcelain", "--untracked-files=no", "progrpo_jax"],
    capture_output=True,
    text=True,
  ).stdout.strip()
  return name + ("+" if changed else "")


def versions() -> dict[str, Any]:
  """Versions and the number of cores, which a run's bits may depend on."""
  import jax

  return {
    "progrpo_jax": progrpo_jax.__version__,
    "jax": jax.__version__,
    "python": platform.python_version(),
    "machine": platform.machine(),
    "cores": len(os.sched_getaffinity(0)),
  }


def write(file: pathlib.Path, content: dict) -> None:
  """Writes compressed JSON whole; the same content gives the same bytes."""
  file.parent.mkdir(parents=True, exist_ok=True)
  part = file.with_name(file.name + ".part")
  text = json.dumps(content, separators=(",", ":"), sort_keys=True)
  part.write_bytes(gzip.compress(text.encode(), mtime=0))
  part.replace(file)


def read(file: pathlib.Path) -> dict[str, Any]:
  """Reads a file that `write` wrote."""
  return json.loads(gzip.decompress(file.read_bytes()))


def print_list(results: pathlib.Path) -> None:
  """Prints how many runs of each part are kept."""
  for name, part in PARTS.items():
    done = {
      arm: sum(
        result_file(results / name, arm, s).exists() for s in range(part.seeds)
      )
      for arm in part.arms
    }
    print(f"{name}: {sum(done.values())} of {len(done) * part.seeds} runs")
    for arm, count in done.items():
      print(f"  {arm}: {count} of {part.seeds}")


if __name__ == "__main__":
  sys.exit(main())
