"""`progrpo evaluate`: pass@k, entropy and diversity of a policy."""

import rich.console
import rich.table

from progrpo_jax import api, ranges
from progrpo_jax.cli import arguments
from progrpo_jax.devices import hosts
from progrpo_jax.report import live


def run(argv: list[str]) -> int:
  """Evaluates; returns the exit code."""
  parser = arguments.parser(
    "evaluate", "Try the held-out problems of the config's tasks."
  )
  parser.add(
    "--workdir",
    ranges.Place(empty=False),
    help="directory for eval.jsonl and the samples",
  )
  parser.add(
    "--output", ranges.Place(empty=False), help="JSON file for the measures"
  )
  c, args = arguments.parse_policy(parser, argv)
  start(c, args.workdir, args.output)
  return 0


def start(c, workdir: str | None, output: str | None = None) -> None:
  """Evaluates the policy `c.model.init_from` and prints the measures.

  The arguments are those of `api.evaluate`.
  """
  done = api.evaluate(None, c, workdir=workdir, output=output)
  if not hosts.is_first():
    return
  show(done["measures"])
  seconds, tokens = done["seconds"], done["tokens"]
  print(
    f"{live.duration(seconds)}: {tokens:,} tokens sampled, "
    f"{tokens / seconds:,.0f} a second with scoring, verifying and compiling"
  )


def show(values: dict[str, float]) -> None:
  """Prints one row per measure.

  A row has the value, its interval if there is one, and for pass@k the number
  of problems. If samples are too few for an estimate of pass@k, the row has its
  lower and upper bound.

  Args:
    values: name of a measure -> value.
  """
  table = rich.table.Table("measure", "value", "95% interval", "problems")
  for name, value in values.items():
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    if name.endswith("/at_least"):
      name = name.removesuffix("/at_least")
      text = f"{value:.3f} – {values[f'{name}/at_most']:.3f}"
      interval = "not enough samples"
    elif f"{name}/low" in values:
      interval = f"{values[f'{name}/low']:.3f} – {values[f'{name}/high']:.3f}"
    else:
      interval = ""
    # These belong to the row of another measure.
    measure, _, end = name.rpartition("/")
    if end in ("low", "high", "at_most") or (
      end == "num_problems" and "/pass@" in measure
    ):
      continue
    table.add_row(
      name.removeprefix("eval/"),
      text,
      interval,
      str(values.get(f"{name}/num_problems", "")),
    )
  rich.console.Console().print(table)
