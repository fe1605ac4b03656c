"""`progrpo train`: the reinforcement learning run."""

from progrpo_jax import ranges, train
from progrpo_jax.cli import arguments
from progrpo_jax.devices import hosts
from progrpo_jax.report import live


def run(argv: list[str]) -> int:
  """Trains; returns the exit code."""
  parser = arguments.parser(
      "train", "Train a policy by reinforcement learning. A workdir that holds "
      "a run is resumed. Exit codes: 0 done, 2 bad input, 75 stopped and saved "
      "(run the same command again).")
  parser.add(
      "--workdir", ranges.Place(empty=False), required=True,
      help="of the run: a directory or gs:// URL")
  parser.add_argument(
      "--override", action="store_true",
      help="go on with a config that changes the method, model or data of the "
      "run in --workdir; groups carried over are dropped")
  config, args = arguments.parse(parser, argv)
  hosts.connect(config.hosts.heartbeat_s)
  return start(config, args.workdir, args.override)


def start(config, workdir: str, override: bool = False) -> int:
  """Trains a config with the live view."""
  arguments.check_output("--workdir", workdir)
  if not hosts.is_first():
    return train.train(
        config, workdir, live.Mute(f"host {hosts.index()}"), override)
  title = f"{config.method} in {workdir}"
  with live.LiveView(config.train.total_steps, title) as view:
    return train.train(config, workdir, view, override)
