"""Times a step of every method, for docs/results.md and docs/study.md.

  .venv/bin/python tools/time_methods.py runs/methods/base times.json
  .venv/bin/python tools/time_methods.py runs/study/smollm2 times.json \
    --config configs/smollm2.py --rounds 1 --first 2 --steps 3

The methods take turns in each of two rounds, from one base policy, each in a
separate process. The first steps, which compile, are left out. The table has
the lower quartile over all steps, because other work on the machine only adds
time. Compare ratios to GRPO; seconds depend on the machine.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

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
  names = sorted(args.methods, key=lambda name: name != "grpo")
  seconds = {name: {stage: [] for stage in STAGES} for name in names}
  for turn in range(args.rounds):
    for name in names:
      run = time_run(f"{args.config}:{name}", args.base, args.first, args.steps)
      for stage, values in run.items():
        seconds[name][stage] += values
      args.output.write_text(json.dumps(seconds))
      print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
  print(table(seconds))


def table(seconds: dict[str, dict[str, list[float]]]) -> str:
  """Returns the table of lower quartiles, in Markdown."""
  quick = {
    name: {
      stage: statistics.quantiles(values, n=4)[0]
      for stage, values in stages.items()
    }
    for name, stages in seconds.items()
  }
  lines = [
    "| method | "
    + " | ".join(f"{s}, s" for s in STAGES)
    + " | step / GRPO's |",
    "|---" * (len(STAGES) + 2) + "|",
  ]
  for name, stages in quick.items():
    cells = [name, *(f"{stages[stage]:.3f}" for stage in STAGES)]
    cells.append(f"{stages['step'] / quick['grpo']['step']:.2f}")
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


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
    run = metrics.load(workdir)
  return {
    stage: [
      float(v) for v in metrics.series(run.metrics, f"timing_s/{stage}")[1]
    ][first:]
    for stage in STAGES
  }


if __name__ == "__main__":
  main()
