"""`make quickstart`: ProGRPO beside GRPO from one base policy, on a CPU.

The runs share base policy, problems, random numbers and budget, and differ in
the method alone. Finished parts are not repeated: a second call continues where
the first one stopped.
"""

import os
import sys

from progrpo_jax import errors, loop, places, ranges
from progrpo_jax.cli import arguments, compare, evaluate, exits, warmup
from progrpo_jax.cli import train as train_command
from progrpo_jax.models import hf
from progrpo_jax.settings import files, named
from progrpo_jax.storage import lines, metrics

METHODS = ("grpo", "progrpo")
CONFIG = "configs/tiny.py"


def run(argv: list[str]) -> int:
  """Runs the quickstart; returns the exit code."""
  parser = arguments.plain_parser(
    "make quickstart ARGS=...", __doc__.splitlines()[0]
  )
  parser.add_argument(
    "--methods",
    default=",".join(METHODS),
    help="comma-separated methods of progrpo_jax/settings/methods.py, or all",
  )
  parser.add(
    "--seeds", ranges.Whole(1, at_least=1), "number of runs per method"
  )
  parser.add("--steps", ranges.Whole(at_least=1), "number of steps per run")
  parser.add_argument(
    "--config",
    default=CONFIG,
    help="config file whose get_config takes the name of a method",
  )
  parser.add_argument(
    "--base",
    help="policy that all runs start from, a Hugging Face directory (default:"
    " `base` in the output, made by a warm-up)",
  )
  parser.add(
    "--output",
    ranges.Place("runs/quickstart", empty=False),
    "directory for all output",
  )
  args = parser.parse_args(argv)
  names = args.methods.split(",")
  if args.methods == "all":
    names = list(named.METHODS)
  if not all(names):
    raise errors.InputError(f"--methods {args.methods!r} has an empty name")
  # Find a wrong name now, not after an hour of training.
  for name in names:
    files.load(f"{args.config}:{name}")
  # The base policy and its evaluation, which all runs share.
  base = args.base or os.path.join(args.output, "base")
  base_eval = os.path.join(args.output, "base-eval")
  if not hf.is_hf_dir(base):
    if args.base:
      raise errors.InputError(
        f"--base {args.base}: no such Hugging Face directory; without --base a"
        " warm-up makes the policy"
      )
    c = files.load(args.config)
    c.model.init_from = ""
    warmup.start(c, base)
  if not lines.files(places.place(base_eval) / metrics.EVALS):
    c = files.load(args.config)
    c.model.init_from = base
    evaluate.start(c, base_eval)
  # Train; a finished run returns at once, an interrupted one resumes.
  workdirs, labels = [], []
  for method in names:
    for seed in range(args.seeds):
      c = files.load(f"{args.config}:{method}")
      c.model.init_from, c.seed = base, seed
      if args.steps is not None:
        c.train.total_steps = args.steps
      name = method if seed == 0 else f"{method}-seed{seed}"
      workdir = os.path.join(args.output, name)
      code = train_command.start(c, workdir)
      if code != loop.DONE:
        return code
      workdirs.append(workdir)
      labels.append(method)
  return compare.run(
    [
      *workdirs,
      "--labels",
      ",".join(labels),
      "--base",
      base_eval,
      "--output",
      os.path.join(args.output, "report.html"),
      "--json",
      os.path.join(args.output, "comparison.json"),
    ]
  )


if __name__ == "__main__":
  sys.exit(exits.run("quickstart", run, sys.argv[1:]))
