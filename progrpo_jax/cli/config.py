"""Reads `--config FILE[:arg]` and `--config.key=value`.

Unknown keys and values of a wrong type are errors that name the nearest key.
"""

import argparse
import importlib.util
import inspect
import os
import sys
import types
from typing import NoReturn

import ml_collections

from progrpo_jax import checks, errors, places, ranges

_REPO = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


class Parser(argparse.ArgumentParser):
  """One whose errors are ours: a line, not the whole usage."""

  def error(self, message: str) -> NoReturn:
    """Takes the place of argparse's own, which ends the process."""
    raise errors.InputError(f"{message}; see --help")

  def add(self, name: str, key: ranges.Range, help: str, **options) -> None:
    """Adds an argument that has a range, as the keys of configs have.

    Args:
      name: of the argument, such as "--num_samples".
      key: its default and its range.
      help: what it is.
      **options: of `add_argument`.
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
      help="a config file, such as configs/tiny.py:progrpo; any key is changed "
      "by --config.group.key=value")
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
  config = load(args.config)
  for key, value in overrides:
    override(config, key, value)
  checks.check_keys(config)
  return config, args


def load(spec: str) -> ml_collections.ConfigDict:
  """The config of `FILE` or `FILE:arg`.

  A relative path is looked for in the working directory, then beside the
  package, so that `configs/tiny.py` works from anywhere.

  Raises:
    InputError: no such file, or it does not yield a config; an error of the
      file's own is named with its line.
  """
  file, _, arg = spec.partition(":")
  path = file
  if not os.path.exists(path) and not os.path.isabs(path):
    path = os.path.join(_REPO, file)
  if not os.path.isfile(path) or not path.endswith(".py"):
    what = "a directory" if file and os.path.isdir(path) else (
        "no such file" if not os.path.isfile(path) else "not a Python file")
    raise errors.InputError(f"--config {spec or repr(spec)}: {what}")
  if _REPO not in sys.path:
    sys.path.append(_REPO)
  with errors.of_user(f"--config {spec}"):
    get_config = _get_config(spec, _execute(path))
    config = get_config(*([arg] if arg else []))
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.InputError(
        f"--config {spec}: get_config() returned {config!r:.40}, not a "
        "ConfigDict; begin with `c = common.get_config()`, end with `return c`")
  config = ml_collections.ConfigDict(config)  # a frozen one is no use here
  config.lock()
  return config


def _get_config(spec: str, module: types.ModuleType):
  """The function of a config file, which takes what is given."""
  file, _, arg = spec.partition(":")
  function = getattr(module, "get_config", None)
  if not callable(function):
    raise errors.InputError(f"--config {file}: it defines no get_config()")
  try:
    inspect.signature(function).bind(*([arg] if arg else []))
  except TypeError as e:
    raise errors.InputError(
        f"--config {spec}: get_config takes no argument {arg!r}: {e}" if arg
        else f"--config {spec}: get_config {e}: --config {file}:ARGUMENT"
    ) from e
  return function


def _execute(path: str) -> types.ModuleType:
  """Runs a config file as a module of its own."""
  described = importlib.util.spec_from_file_location("progrpo_config", path)
  module = importlib.util.module_from_spec(described)
  described.loader.exec_module(module)
  return module


def override(config: ml_collections.ConfigDict, key: str, value: str) -> None:
  """Sets a key from text, in the type that it has.

  Raises:
    InputError: no such key (the nearest is named), or another type.
  """
  *groups, last = key.split(".")
  place, path = config, []
  for name in [*groups, last]:
    if not isinstance(place, ml_collections.ConfigDict) or name not in place:
      raise errors.InputError(
          f"no key config.{key}{checks.nearest(key, config)}")
    path.append(place)
    place = place[name]
  if isinstance(place, ml_collections.ConfigDict):
    raise errors.InputError(
        f"config.{key} is a group; its keys: {', '.join(place.keys())}")
  # What a config file put in itself is read in the type that it has there.
  declared = checks.declared(key) or ranges.like(place)
  try:
    path[-1][last] = declared.read(value)
  except ValueError as e:
    raise errors.InputError(
        f"config.{key}: {value!r} is not of type {type(place).__name__} (it "
        f"is {place!r} by default)") from e
