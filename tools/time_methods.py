"""Times a step of every method, for docs/study.md.

  .venv/bin/python tools/time_methods.py runs/methods/base times.json
  .venv/bin/python tools/time_methods.py runs/study/smollm2 times.json \
    --config configs/smollm2.py --rounds 1 --first 2 --steps 3

The methods take turns in each of two rounds, from one base policy, each in a
separate process. The first steps, which compile, are left out. The table has
the lower quartile over all steps, because other work on the machine only adds
time. Compare ratios to GRPO; seconds depend on the machine.

The file keeps every step's seconds and what they were taken with. A call that
was cut off goes on: it times what the file does not have yet.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import study

from progrpo_jax.settings import named
from progrpo_jax.storage import metrics

CONFIG = "configs/tiny.py"
STAGES = ("step", "sample", "score", "update")


def main() -> None:
  """Prints the table in Markdown and writes every step's seconds."""
  names = list(named.METHODS)
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("base", help="policy that every run starts from")
  parser.add_argument("output", type=pathlib.Path, help="a JSON file")
  parser.add_argument("--config", default=CONFIG)
  parser.add_argument("--methods", nargs="+", default=names, choices=names)
  parser.add_argument("--rounds", type=int, default=2)
  parser.add_argument(
    "--first",
    type=int,
    default=8,
    help="first steps, which compile and are left out; dynamic sampling "
    "compiles refills too",
  )
  parser.add_argument(
    "--steps", type=int, default=20, help="steps that are timed"
  )
  args = parser.parse_args()
  times = begun(args)
  seconds = times["seconds"]
  for turn in range(args.rounds):
    # GRPO first: the others are compared with it.
    for name in sorted(args.methods, key=lambda name: name != "grpo"):
      turns = seconds.setdefault(name, [])
      if len(turns) > turn:
        continue
      turns.append(
        time_run(f"{args.config}:{name}", args.base, args.first, args.steps)
      )
      args.output.write_text(json.dumps(times, indent=1) + "\n")
      print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
  print(table(times))


def begun(args: argparse.Namespace) -> dict:
  """Returns what the file has, or a new record without seconds.

  Raises:
    SystemExit: the file's seconds were taken with something else.
  """
  taken_with = {
    "config": args.config,
    "first": args.first,
    "steps": args.steps,
    "versions": study.versions(),
  }
  commits = [study.commit()]
  if not args.output.exists():
    return taken_with | {"commits": commits, "seconds": {}}
  times = json.loads(args.output.read_text())
  for key, value in taken_with.items():
    if times[key] != value:
      raise SystemExit(
        f"{args.output}: its times were taken with {key} {times[key]!r}, not "
        f"{value!r}; name another file to take all of them anew"
      )
  times["commits"] = list(dict.fromkeys([*times["commits"], *commits]))
  return times


def table(times: dict) -> str:
  """Returns the table of lower quartiles, in Markdown.

  A stage that a method's steps do not have is a dash: without a KL, ARM or a
  second update of a batch, nothing is scored.
  """
  quick = {
    name: {stage: quartile(turns, stage) for stage in STAGES}
    for name, turns in times["seconds"].items()
  }
  lines = [
    "| method | "
    + " | ".join(f"{s}, s" for s in STAGES)
    + " | step / GRPO's |",
    "|---" * (len(STAGES) + 2) + "|",
  ]
  for name, stages in quick.items():
    cells = [name]
    for seconds in stages.values():
      cells.append("–" if seconds is None else f"{seconds:.3g}")
    cells.append(f"{stages['step'] / quick['grpo']['step']:.2f}")
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines) + "\n"


def quartile(turns: list[dict[str, list[float]]], stage: str) -> float | None:
  """Lower quartile of a stage's seconds over all turns; None without any."""
  values = [value for turn in turns for value in turn[stage]]
  if len(values) < 2:
    return values[0] if values else None
  return statistics.quantiles(values, n=4, method="inclusive")[0]


def time_run(
  config: str, base: str, first: int, steps: int
) -> dict[str, list[float]]:
  """Returns the seconds of each stage in the last `steps` steps of a run."""
  with tempfile.TemporaryDirectory() as workdir:
    subprocess.run(
      [
        sys.executable,
        "-m",
        "progrpo_jax.main",
        "train",
        "--config",
        config,
        "--workdir",
        workdir,
        f"--config.model.init_from={base}",
        f"--config.train.total_steps={first + steps}",
        "--config.eval.every=0",
        "--config.checkpoint.every=1000",
        "--config.log.rollouts_every=0",
      ],
      check=True,
      stdout=subprocess.DEVNULL,
    )
    rows = metrics.load(workdir).metrics
  taken = {}
  for stage in STAGES:
    series = zip(*metrics.series(rows, f"timing_s/{stage}"), strict=True)
    taken[stage] = [float(value) for step, value in series if step > first]
  return taken


if __name__ == "__main__":
  main()
