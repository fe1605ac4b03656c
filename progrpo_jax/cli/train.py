"""`progrpo train`: trains a policy by reinforcement learning."""

from progrpo_jax import api, errors, loop, ranges
from progrpo_jax.cli import arguments


def run(argv: list[str]) -> int:
  """Trains; returns the exit code."""
  parser = arguments.parser(
    "train",
    "Train a policy by reinforcement learning. A workdir that holds "
    "a run is resumed. Exit codes: 0 done, 1 gave up, 2 bad input, 75 stopped "
    "and saved (run the same command again).",
  )
  parser.add(
    "--workdir",
    ranges.Place(empty=False),
    required=True,
    help="workdir of the run: a directory or gs:// URL",
  )
  parser.add_argument(
    "--override",
    action="store_true",
    help="resume although the config changes the method, model or data of "
    "the run in --workdir; groups carried over are dropped",
  )
  config, args = arguments.parse(parser, argv)
  return start(config, args.workdir, args.override)


def start(config, workdir: str, override: bool = False) -> int:
  """Trains a config and shows the live view.

  Args:
    config: config of the run.
    workdir: workdir of the run, a directory or gs:// URL.
    override: whether the config may change what defines the run.

  Returns:
    Exit code, see `loop.train`.

  Raises:
    InputError: the workdir or the config cannot be used.
    SystemExit: a signal stopped the run, and it is saved.
  """
  try:
    api.train(config, workdir, override=override)
  except errors.Interrupted:
    return loop.PREEMPTED
  return loop.DONE
