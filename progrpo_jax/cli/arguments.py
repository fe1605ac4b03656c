"""Command lines: their parsers, and the config that they name and change."""

import argparse
from typing import NoReturn

import ml_collections

from progrpo_jax import errors, places, ranges
from progrpo_jax.config import checks, files


class Parser(argparse.ArgumentParser):
  """One whose errors are ours: a line, not the whole usage."""

  def error(self, message: str) -> NoReturn:
    """Takes the place of argparse's own, which ends the process."""
    raise errors.InputError(f"{message}; see --help")

  def add(self, name: str, key: ranges.Range, help: str, **options) -> None:
    """Adds an argument that has a range, as the keys of configs have.

    Args:
      name: flag, such as "--num_samples".
      key: default and range of its value.
      help: sentence for `--help`.
      **options: further arguments of `add_argument`.
    """

    def read(text: str):
      try:
        value = key.read(text)
      except ValueError:
        value = text
      refusal = key.refusal(value)
      if refusal:
        raise argparse.ArgumentTypeError(f"{text!r} {refusal}")
      return value

    self.add_argument(
        name, type=read, default=key.default, help=help, **options)


def parser(command: str, description: str) -> Parser:
  """A parser with `--config`; the caller adds what its command needs."""
  made = plain_parser(f"progrpo {command}", description)
  made.add_argument(
      "--config", metavar="FILE[:ARG]",
      help="a config file, such as configs/tiny.py:progrpo, or one that comes "
      "with the package, by name (`progrpo configs`), such as tiny:progrpo; "
      "any key is changed by --config.group.key=value")
  return made


def plain_parser(prog: str, description: str) -> Parser:
  """A parser of a command that takes no config."""
  return Parser(prog=prog, description=description, allow_abbrev=False)


def check_output(flag: str, path: str) -> None:
  """Refuses a directory that nothing could be written to in the end.

  Raises:
    InputError: naming it.
  """
  try:
    places.check_directory(path)
  except OSError as e:
    raise errors.InputError(f"cannot write to {flag} {path}: {e}") from e


def parse(
    made: argparse.ArgumentParser, argv: list[str], needed: bool = True,
) -> tuple[ml_collections.ConfigDict | None, argparse.Namespace]:
  """Reads a command line.

  Args:
    made: from `parser`.
    argv: the arguments.
    needed: whether a config must be given.

  Returns:
    (config with its overrides, or None; the other arguments).

  Raises:
    InputError: a key or value is not understood.
  """
  overrides, rest = [], []
  words = iter(argv)
  for word in words:
    if word.startswith("--config."):
      key, equals, value = word[len("--config."):].partition("=")
      if not equals:
        value = next(words, None)
        if value is None:
          raise errors.InputError(f"--config.{key} needs a value")
      overrides.append((key, value))
    else:
      rest.append(word)
  args = made.parse_args(rest)
  if args.config is None:
    if needed or overrides:
      raise errors.InputError("--config FILE is needed; see --help")
    return None, args
  config = files.load(args.config)
  for key, value in overrides:
    files.override(config, key, value)
  checks.check_keys(config)
  return config, args
