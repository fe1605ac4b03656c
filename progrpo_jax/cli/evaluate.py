"""`progrpo evaluate`: pass@k, entropy and diversity of a policy."""

import functools

import rich.console
import rich.table

from progrpo_jax import ranges
from progrpo_jax.build import problems
from progrpo_jax.build import stages as build
from progrpo_jax.cli import arguments
from progrpo_jax.config import checks, isolation
from progrpo_jax.devices import hosts
from progrpo_jax.report import live
from progrpo_jax.storage import metrics

_PLACE = ranges.Place(empty=False)


def run(argv: list[str]) -> int:
  """Evaluates; returns the exit code."""
  parser = arguments.parser(
      "evaluate", "Try the held-out problems of the config's tasks.")
  parser.add(
      "--policy", _PLACE, "HF directory, workdir, or checkpoints/<step> of one "
      "(default: config.model.init_from)")
  parser.add(
      "--workdir", _PLACE, help="where to write eval.jsonl and the samples")
  c, args = arguments.parse(parser, argv)
  if args.policy:
    c.model.init_from = args.policy
  hosts.connect(c.hosts.heartbeat_s)
  start(c, args.workdir)
  return 0


def start(c, workdir: str | None) -> dict[str, float]:
  """Evaluates the policy that `c.model.init_from` names and prints it."""
  checks.validate(c)
  if workdir:
    arguments.check_output("--workdir", workdir)
  isolation.check(c)
  mesh = build.make_mesh(c)
  policy = build.load_policy(c, mesh)
  values: dict[str, float] = {}
  with problems.make_pool(c, policy.tokenizer.opens_thought) as pool:
    evaluators = problems.make_evaluators(
        c, policy.config, policy.tokenizer, pool, mesh)
    if hosts.is_first():
      for note in problems.held_out_notes(c, evaluators):
        print(note)
    records = []
    with live.progress(
        "evaluation", sum(len(e.prompts) for e in evaluators)) as tick:
      for evaluator in evaluators:
        samples = evaluator.sample(
            policy.params, functools.partial(tick, 1))
        values |= dict(evaluator.run(samples))
        records += evaluator.records(samples)
  if not hosts.is_first():
    return values
  if workdir:
    with metrics.MetricWriter(
        workdir, tensorboard=False, resume_step=-1) as writer:
      writer.write_eval(0, values)
      writer.write_eval_samples(0, [dict(step=0, **r) for r in records])
  show(values)
  return values


def show(values: dict[str, float]) -> None:
  """Prints one row a measure, with its interval if it has one.

  And the problems that pass@k rests on; of bounds on it both are shown.
  """
  table = rich.table.Table("measure", "value", "95% interval", "problems")
  for name, value in values.items():
    shown = f"{value:.3f}" if isinstance(value, float) else str(value)
    if name.endswith("/at_least"):
      name = name.removesuffix("/at_least")
      shown = f"{value:.3f} – {values[f'{name}/at_most']:.3f}"
      interval = "not enough samples"
    elif f"{name}/low" in values:
      interval = f"{values[f'{name}/low']:.3f} – {values[f'{name}/high']:.3f}"
    else:
      interval = ""
    measure, _, end = name.rpartition("/")
    if end in ("low", "high", "at_most") or (
        end == "num_problems" and "/pass@" in measure):
      continue
    table.add_row(
        name.removeprefix("eval/"), shown, interval,
        str(values.get(f"{name}/num_problems", "")))
  rich.console.Console().print(table)
