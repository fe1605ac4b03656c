"""Seconds of a step of every method, side by side, for docs/results.md.

  .venv/bin/python docs/time_methods.py runs/methods/base times.json

The methods take turns in each of two rounds, from one base, each in a process
of its own; the first steps, which compile, are left out. A figure is the lower
quartile over all steps, as other work on the machine only adds. What is
compared is the ratio to GRPO: seconds are those of the machine.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from configs import methods
from progrpo_jax import metrics

ROUNDS = 2
STEPS = 28
COMPILING = 8  # steps, the first refills of dynamic sampling among them
STAGES = ("step", "sample", "score", "update")


def main() -> None:
  """Prints the table in Markdown and writes every step's seconds."""
  base, output = sys.argv[1:]
  names = [n for n in vars(methods) if not n.startswith("_")]
  names.sort(key=lambda name: name != "grpo")
  seconds = {name: {stage: [] for stage in STAGES} for name in names}
  for turn in range(ROUNDS):
    for name in names:
      for stage, values in time_run(name, base).items():
        seconds[name][stage] += values
      pathlib.Path(output).write_text(json.dumps(seconds))
      print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
  print(table(seconds))


def table(seconds: dict[str, dict[str, list[float]]]) -> str:
  """Lower quartiles, method by method, in Markdown."""
  quick = {
      name: {stage: statistics.quantiles(values, n=4)[0]
             for stage, values in stages.items()}
      for name, stages in seconds.items()}
  lines = [
      "| method | " + " | ".join(f"{s}, s" for s in STAGES)
      + " | step / GRPO's |", "|---" * (len(STAGES) + 2) + "|"]
  for name, stages in quick.items():
    cells = [name, *(f"{stages[stage]:.3f}" for stage in STAGES)]
    cells.append(f"{stages['step'] / quick['grpo']['step']:.2f}")
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def time_run(name: str, base: str) -> dict[str, list[float]]:
  """Seconds of each stage of the later steps of a short run."""
  with tempfile.TemporaryDirectory() as workdir:
    subprocess.run([
        sys.executable, "-m", "progrpo_jax.main", "train",
        "--config", f"configs/tiny.py:{name}", "--workdir", workdir,
        f"--config.model.init_from={base}",
        f"--config.train.total_steps={STEPS}", "--config.eval.every=0",
        "--config.checkpoint.every=1000", "--config.log.rollouts_every=0",
    ], check=True, stdout=subprocess.DEVNULL)
    run = metrics.load(workdir)
  return {
      stage: [float(v) for v in metrics.series(
          run.metrics, f"timing_s/{stage}")[1]][COMPILING:]
      for stage in STAGES}


if __name__ == "__main__":
  main()
