"""Config files: how one is found and run, and how its keys are changed.

A run file is Python with a `get_config()` that returns an
`ml_collections.ConfigDict`. It is named by its path; those that come with the
package, which `progrpo configs` lists, also by their name alone.
"""

import importlib.util
import inspect
import os
import pathlib
import types

import ml_collections

from progrpo_jax import errors, ranges
from progrpo_jax.settings import checks, defaults

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
# Where the run files lie: inside of an installed package; beside the package
# in a checkout, whose files are to be seen and changed.
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def shipped() -> dict[str, pathlib.Path]:
  """Returns name -> path of the run files that come with the package."""
  folder = next((f for f in _SHIPPED if f.is_dir()), None)
  return (
    {}
    if folder is None
    else {path.stem: path for path in sorted(folder.glob("*.py"))}
  )


def find(file: str) -> pathlib.Path:
  """Returns the path of a run file that is named by path or by name.

  `configs/NAME.py` is found from any directory: where the working directory
  has no such file, it is the one that comes with the package.

  Raises:
    InputError: there is no such file.
  """
  path = pathlib.Path(file)
  name = path.stem if path.parent.name == "configs" else file
  # Not `Path.exists`, which raises where a name is too long or has a NUL.
  if not os.path.exists(path) and not path.is_absolute():
    path = shipped().get(name, path)
  is_file = os.path.isfile(path)
  if is_file and path.suffix == ".py":
    return path
  what = (
    "a directory"
    if file and os.path.isdir(path)
    else (
      "not a Python file"
      if is_file
      else "no such file, nor one of `progrpo configs`"
    )
  )
  similar = checks.hint(name, shipped())
  raise errors.InputError(f"--config {file or repr(file)}: {what}{similar}")


def load(spec: str) -> ml_collections.ConfigDict:
  """Returns the config of `FILE` or `FILE:argument`, see `find`.

  Raises:
    InputError: no such file, or it does not yield a config; an error of the
      file's own is named with its line.
  """
  file, _, arg = spec.partition(":")
  path = find(file)
  with errors.of_user(f"--config {spec}"):
    get_config = _get_config(spec, _execute(path))
    config = get_config(*([arg] if arg else []))
  if not isinstance(config, ml_collections.ConfigDict):
    raise errors.InputError(
      f"--config {spec}: get_config() returned {config!r:.40}, not a "
      "ConfigDict; begin with `c = defaults.get_config()`, end with "
      "`return c`"
    )
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
      f"--config {spec}: get_config takes no argument {arg!r}: {e}"
      if arg
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
        f"no key config.{key}{checks.nearest(key, config)}"
      )
    path.append(place)
    place = place[name]
  if isinstance(place, ml_collections.ConfigDict):
    raise errors.InputError(
      f"config.{key} is a group; its keys: {', '.join(place.keys())}"
    )
  # What a config file put in itself is read in the type that it has there.
  declared = checks.declared(key) or ranges.like(place)
  try:
    path[-1][last] = declared.read(value)
  except ValueError as e:
    raise errors.InputError(
      f"config.{key}: {value!r} is not of type {type(place).__name__} (it "
      f"is {place!r} by default)"
    ) from e


def from_json(content: dict) -> ml_collections.ConfigDict:
  """Returns the config that a workdir's `config.json` holds, locked."""
  return ml_collections.ConfigDict(_tuples(content)).lock()


def completed(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Adds keys that are younger than a run's config, at their defaults."""
  with config.unlocked():
    _complete(config, defaults.get_config())
  return config


def _complete(config, known) -> None:
  for name, value in known.items():
    if name not in config:
      config[name] = value
    elif isinstance(value, ml_collections.ConfigDict) and isinstance(
      config[name], ml_collections.ConfigDict
    ):
      _complete(config[name], value)


def without_training(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Takes out what only training adds to a policy: adapters and heads."""
  config.model.lora.rank, config.algo.partition_head = 0, False
  return config


def _tuples(value):
  """Turns lists into the tuples that a config held before it became JSON."""
  if isinstance(value, dict):
    return {name: _tuples(v) for name, v in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
