"""Command lines: parsers, and reading the config with its overrides."""

import argparse
import os
import re
from typing import NoReturn

import ml_collections

from progrpo_jax import errors, ranges
from progrpo_jax.settings import checks, defaults, files
from progrpo_jax.storage import policy as policy_lib


class Parser(argparse.ArgumentParser):
  """An argument parser that raises InputError instead of printing its usage."""

  def error(self, message: str) -> NoReturn:
    """Replaces argparse's method, which ends the process."""
    unknown = re.match(r"unrecognized arguments: --([^\s=]+)", message)
    hint = self._nearest(unknown[1]) if unknown else ""
    raise errors.InputError(f"{message}{hint}; see --help")

  def _nearest(self, name: str) -> str:
    """Hint at the flag or the keys that an unknown flag may stand for."""
    flags = re.findall(r"--(\w+)", self.format_usage())
    if "config" in flags:
      keys = [
        f"--config.{path}"
        for path in checks.paths(checks.all_keys())
        if path.rpartition(".")[2] == name
      ]
      if keys:
        return f"; did you mean {' or '.join(keys)}?"
    return errors.hint(name, flags, "--")

  def add(self, name: str, key: ranges.Range, help: str, **options) -> None:
    """Adds an argument with a range, like a key of a config.

    Args:
      name: flag, such as "--num_samples".
      key: default and range of the value.
      help: sentence for `--help`.
      **options: further arguments of `add_argument`.
    """

    def read(text: str):
      try:
        value = key.read(text)
      except ValueError:
        value = text  # the refusal below says which type is needed
      # A shell expands ~ in "--workdir ~/run", but not in "--workdir=~/run".
      if isinstance(key, ranges.Place):
        value = os.path.expanduser(value)
      refusal = key.refusal(value)
      if refusal:
        raise argparse.ArgumentTypeError(f"{text!r} {refusal}")
      return value

    self.add_argument(
      name, type=read, default=key.default, help=help, **options
    )


def parser(command: str, description: str) -> Parser:
  """Returns a parser with `--config`, to which a command adds its arguments.

  Args:
    command: name of the command, such as "train".
    description: sentence for `--help`.
  """
  config_parser = plain_parser(f"progrpo {command}", description)
  config_parser.add_argument(
    "--config",
    metavar="FILE[:ARG]",
    help="a config file, such as configs/tiny.py:progrpo, or one that comes "
    "with the package, by name (`progrpo configs`), such as tiny:progrpo; "
    "not needed where a run is named, which has its own; any key is changed by "
    "--config.group.key=value",
  )
  return config_parser


def plain_parser(prog: str, description: str) -> Parser:
  """Returns a parser for a command that takes no config."""
  return Parser(prog=prog, description=description, allow_abbrev=False)


def parse(
  command_parser: argparse.ArgumentParser,
  argv: list[str],
  needed: bool = True,
  default: ml_collections.ConfigDict | None = None,
) -> tuple[ml_collections.ConfigDict | None, argparse.Namespace]:
  """Reads a command line.

  Args:
    command_parser: parser from `parser`.
    argv: arguments of the command.
    needed: whether there must be a config.
    default: config where none is given.

  Returns:
    (config with its overrides, other arguments). Without `--config` it is that
    of the run which `--policy` or `--workdir` names, or the default.

  Raises:
    InputError: an argument, key or value is not understood.
  """
  # argparse cannot know the keys of a config, so overrides are taken out first:
  # "--config.key=value" and "--config.key value".
  overrides, rest = [], []
  words = iter(argv)
  for word in words:
    if word.startswith("--config."):
      key, equals, value = word[len("--config.") :].partition("=")
      if not equals:
        value = next(words, None)
        if value is None:
          raise errors.InputError(f"--config.{key} needs a value")
      overrides.append((key, value))
    else:
      rest.append(word)
  args = command_parser.parse_args(rest)
  policy = getattr(args, "policy", None)
  named = policy or getattr(args, "workdir", None)
  if args.config is not None:
    config = files.load(args.config)
  else:
    config = files.of_run(named) or default
  if config is None:
    if needed or overrides:
      raise files.no_config(named, is_policy=policy is not None)
    return None, args
  for key, value in overrides:
    files.override(config, key, value)
  checks.check_keys(config)
  return config, args


def parse_policy(
  command_parser: Parser, argv: list[str], required: bool = False
) -> tuple[ml_collections.ConfigDict, argparse.Namespace]:
  """Adds `--policy` and reads a command line; the config names the policy.

  Args:
    command_parser: parser from `parser`, without `--policy`.
    argv: arguments of the command.
    required: whether `--policy` must be given; the config is optional then.

  Returns:
    (config whose `model.init_from` is the policy, other arguments). Without
    `--config` it is that of the policy's run. Either is as a policy that is
    only read has it: without adapters and heads that training adds.

  Raises:
    InputError: an argument, key or value is not understood, or there is no such
      policy.
  """
  takes_workdir = "--workdir" in command_parser.format_usage()
  if not takes_workdir and any(w.startswith("--workdir") for w in argv):
    raise errors.InputError(
      "--workdir: this command takes a run as --policy WORKDIR; see --help"
    )
  source = "" if required else " (default: config.model.init_from)"
  command_parser.add(
    "--policy",
    ranges.Place(empty=False),
    required=required,
    help="HF directory, workdir (its newest checkpoint), "
    "checkpoints/<step> of one, or with --config.model.download=True a model "
    f"of the Hugging Face hub{source}",
  )
  default = defaults.get_config() if required else None
  config, args = parse(command_parser, argv, default=default)
  config = files.without_training(config)
  if args.policy:
    policy_lib.check_exists(args.policy, config.model.download, "--policy")
    config.model.init_from = args.policy
  return config, args
