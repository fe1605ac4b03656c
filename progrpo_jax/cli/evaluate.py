"""`progrpo evaluate`: pass@k, entropy and diversity of a policy."""

import functools
import json
import pathlib
import time

import rich.console
import rich.table

from progrpo_jax import errors, ranges
from progrpo_jax.build import problems
from progrpo_jax.build import stages as build
from progrpo_jax.cli import arguments
from progrpo_jax.devices import hosts
from progrpo_jax.report import live
from progrpo_jax.settings import checks, isolation
from progrpo_jax.storage import metrics
from progrpo_jax.storage import policy as policy_lib


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
  hosts.connect(c.hosts.heartbeat_s)
  start(c, args.workdir, args.output)
  return 0


def start(
  c, workdir: str | None, output: str | None = None
) -> dict[str, float]:
  """Evaluates the policy `c.model.init_from` and prints the measures.

  Args:
    c: config with the problems and the settings of sampling.
    workdir: directory for eval.jsonl and the samples, or None.
    output: JSON file for the measures, or None.

  Returns:
    Name of a measure, `eval/<set>/...` -> value.

  Raises:
    InputError: the config, the policy or the workdir cannot be used.
  """
  # Refuse what cannot work before the policy is loaded.
  checks.validate(c)
  if workdir:
    arguments.check_output("--workdir", workdir)
    if policy_lib.run_of(workdir):
      raise errors.InputError(
        f"--workdir {workdir} holds a run, whose evaluations would be "
        "replaced; give --policy for the policy of a run, and another "
        "--workdir or --output for the results"
      )
  if output:
    arguments.check_output("--output", str(pathlib.Path(output).parent))
  isolation.check(c)
  mesh = build.make_mesh(c)
  policy = build.load_policy(c, mesh)
  values: dict[str, float] = {}
  with problems.make_pool(c, policy.tokenizer.opens_thought) as pool:
    evaluators = problems.make_evaluators(
      c, policy.config, policy.tokenizer, pool, mesh
    )
    if hosts.is_first():
      for note in problems.held_out_notes(c, evaluators):
        print(note)
    records, tokens = [], 0
    begin = time.monotonic()
    with live.progress(
      "evaluation", sum(len(e.prompts) for e in evaluators)
    ) as tick:
      for evaluator in evaluators:
        samples = evaluator.sample(policy.params, functools.partial(tick, 1))
        values |= dict(evaluator.run(samples))
        records += evaluator.records(samples)
        tokens += int(samples.length_XN.sum())
  seconds = time.monotonic() - begin
  if not hosts.is_first():
    return values
  # As step 0 of a record; an evaluation that was there before is replaced.
  if workdir:
    with metrics.MetricWriter(
      workdir, tensorboard=False, resume_step=-1
    ) as writer:
      writer.write_eval(0, values)
      writer.write_eval_samples(0, [dict(step=0, **r) for r in records])
  if output:
    content = dict(
      policy=c.model.init_from, seconds=seconds, tokens=tokens, measures=values
    )
    file = pathlib.Path(output)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")
  show(values)
  print(
    f"{live.duration(seconds)}: {tokens:,} tokens sampled, "
    f"{tokens / seconds:,.0f} a second with scoring, verifying and compiling"
  )
  return values


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
