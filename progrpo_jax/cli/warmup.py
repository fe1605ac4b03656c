"""`progrpo warmup`: trains a base policy on demonstrations."""

from progrpo_jax import ranges
from progrpo_jax.build import base_policy
from progrpo_jax.cli import arguments
from progrpo_jax.devices import hosts
from progrpo_jax.report import live


def run(argv: list[str]) -> int:
  """Warms up; returns the exit code."""
  parser = arguments.parser(
    "warmup",
    "Train a base policy on the demonstrations of the config's "
    "tasks and write it as a Hugging Face directory. Without "
    "config.model.init_from it is a new small model with its own vocabulary, "
    "of the size in config.warmup.",
  )
  parser.add(
    "--output",
    ranges.Place(empty=False),
    required=True,
    help="directory to write the policy to",
  )
  config, args = arguments.parse(parser, argv)
  hosts.connect(config.hosts.heartbeat_s)
  start(config, args.output)
  return 0


def start(config, output: str) -> None:
  """Warms up a base policy and shows a progress bar.

  Args:
    config: config with the tasks and `config.warmup`.
    output: directory to write the policy to.

  Raises:
    InputError: the directory or the config cannot be used.
  """
  arguments.check_output("--output", output)
  with live.progress("warm-up", config.warmup.steps) as tick:
    base_policy.warm_up(config, output, tick)
  if hosts.is_first():
    print(f"base policy: {output}")
