"""`progrpo warmup`: a base policy from demonstrations."""

from progrpo_jax import ranges
from progrpo_jax.build import base_policy
from progrpo_jax.cli import arguments
from progrpo_jax.devices import hosts
from progrpo_jax.report import live


def run(argv: list[str]) -> int:
  """Warms up; returns the exit code."""
  parser = arguments.parser(
      "warmup", "Train a base policy on the demonstrations of the config's "
      "tasks and write it as a Hugging Face directory. Without "
      "config.model.init_from it is a small one, sized by config.warmup, with "
      "a vocabulary of its own.")
  parser.add(
      "--output", ranges.Place(empty=False), required=True,
      help="directory to write the policy to")
  config, args = arguments.parse(parser, argv)
  hosts.connect(config.hosts.heartbeat_s)
  start(config, args.output)
  return 0


def start(config, output: str) -> None:
  """Warms up with a progress bar."""
  arguments.check_output("--output", output)
  with live.progress("warm-up", config.warmup.steps) as tick:
    base_policy.warm_up(config, output, tick)
  if hosts.is_first():
    print(f"base policy: {output}")
