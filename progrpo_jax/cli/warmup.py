"""`progrpo warmup`: trains a base policy on demonstrations."""

from progrpo_jax import api, ranges
from progrpo_jax.cli import arguments
from progrpo_jax.devices import hosts


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
  start(config, args.output)
  return 0


def start(config, output: str) -> None:
  """Warms up a base policy and says where it is; see `api.warmup`."""
  api.warmup(config, output)
  if hosts.is_first():
    print(f"base policy: {output}")
