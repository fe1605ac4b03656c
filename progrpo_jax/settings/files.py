"""Config files: how one is found and run, and how its keys are changed.

A config file is Python with a `get_config()` that returns an
`ml_collections.ConfigDict`. It is named by its path; those that come with the
package, which `progrpo configs` lists, also by their name alone.
"""

from collections.abc import Mapping
import inspect
import os
import pathlib
import re
import types
from typing import Any

import ml_collections
import numpy as np

from progrpo_jax import errors, places, ranges, user_file
from progrpo_jax.settings import checks, defaults, named
from progrpo_jax.storage import lines, outputs
from progrpo_jax.storage import policy as policy_lib

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
# Where the config files lie: inside of an installed package; beside the package
# in a checkout, whose files are to be seen and changed.
_SHIPPED = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def shipped() -> dict[str, pathlib.Path]:
  """Returns name -> path of the config files that come with the package."""
  folder = next((f for f in _SHIPPED if f.is_dir()), None)
  return (
    {}
    if folder is None
    else {path.stem: path for path in sorted(folder.glob("*.py"))}
  )


def find(file: str) -> pathlib.Path:
  """Returns the path of a config file that is named by path or by name.

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
  similar = errors.hint(name, shipped(), "")
  raise errors.InputError(f"--config {file or repr(file)}: {what}{similar}")


def make_config(
  source: ml_collections.ConfigDict
  | Mapping[str, Any]
  | str
  | os.PathLike = "",
  *,
  method: str = "",
  keys: Mapping[str, Any] | None = None,
) -> ml_collections.ConfigDict:
  """Returns a config of a file, a name or keys, checked and locked.

  `progrpo_jax.config("tiny", method="progrpo")`; with other values of some
  keys, `progrpo_jax.config("tiny", keys={"train.total_steps": 20})`.

  Args:
    source: path of a config file, or the name of one of the package
      (`progrpo configs` lists them), as FILE or FILE:ARGUMENT; a config, which
      is copied; or a dict of keys, before `keys`. "" starts from the defaults.
    method: name of a method, see progrpo_jax/settings/methods.py. A file takes
      it as its argument; a config that is made has its own.
    keys: dotted key -> value; a value may be a dict of the keys of a group. A
      text is read in the type of its key, as on the command line.

  Raises:
    InputError: no such file, method or key, or a value out of range; the
      message names it, and the nearest that exists.
  """
  if not isinstance(
    source, ml_collections.ConfigDict | Mapping | str | os.PathLike
  ):
    raise errors.InputError(
      f"config = {source!r:.100}: must be the name or path of a config file, a "
      "dict of keys, or a config"
    )
  if not isinstance(method, str):
    raise errors.InputError(f"method = {method!r:.100}: must be a name")
  first = source if isinstance(source, Mapping) else {}
  for given in (keys, first):
    if not isinstance(given, Mapping | None) or not all(
      isinstance(key, str) for key in given or ()
    ):
      raise errors.InputError(
        f"keys = {given!r:.100}: must be a dict of dotted keys and their values"
      )
  if isinstance(source, ml_collections.ConfigDict):
    if method:
      raise errors.InputError(
        f"method = {method!r}: this config is made already; give the method"
        " where it is made"
      )
    c = source.copy_and_resolve_references().lock()
  elif isinstance(source, Mapping) or not os.fspath(source):
    c = _of_method(method)
  else:
    spec = os.fspath(source)
    c = load(f"{spec}:{method}" if method else spec)
  for given in (first, keys or {}):
    for key, value in given.items():
      assign(c, key, value)
  checks.check_keys(c)
  return c


def _of_method(name: str) -> ml_collections.ConfigDict:
  """Returns the default config, or a method's."""
  c = defaults.get_config()
  if name:
    c = named.method(name)(c)
  return c.lock()


def load(spec: str) -> ml_collections.ConfigDict:
  """Returns the config of `FILE` or `FILE:argument`, see `find`.

  Raises:
    InputError: no such file, or it does not yield a config; an error of the
      file's own is named with its line.
  """
  file, _, arg = spec.partition(":")
  path = find(file)
  with errors.of_user(f"--config {spec}"):
    get_config = _get_config(spec, user_file.run(path, "progrpo_config"))
    c = get_config(*([arg] if arg else []))
  if not isinstance(c, ml_collections.ConfigDict):
    raise errors.InputError(
      f"--config {spec}: get_config() returned {c!r:.40}, not a "
      "ConfigDict; begin with `c = defaults.get_config()`, end with "
      "`return c`"
    )
  c = ml_collections.ConfigDict(c)  # a frozen one is no use here
  c.lock()
  return c


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


def override(c: ml_collections.ConfigDict, key: str, value: str) -> None:
  """Sets a key from text, in the type that it has.

  Raises:
    InputError: no such key (the nearest is named), or another type.
  """
  group, last = _find(c, key)
  before = group[last]
  if isinstance(before, ml_collections.ConfigDict):
    names = f"; its keys: {', '.join(before)}" if before else ""
    how = _how_to_fill(key) if checks.is_free(key) else ""
    raise errors.InputError(f"config.{key} is a group{names}{how}")
  # What a config file put in itself is read in the type that it has there.
  declared = checks.declared(key) or ranges.like(before)
  try:
    group[last] = declared.read(value)
  except ValueError as e:
    raise errors.InputError(
      f"config.{key}: {value!r} is not of type {type(before).__name__} (it "
      f"is {before!r} by default){_as_list(key, value, declared)}"
    ) from e


def _how_to_fill(key: str) -> str:
  """Says how entries are added to a group whose keys are free."""
  return (
    f"; entries of any name are set in a config file, as c.{key} = {{...}}, or "
    "by a dict in the keys of progrpo_jax.config"
  )


def _as_list(key: str, value: str, declared: ranges.Range) -> str:
  """Hint at how a list is written on a command line, or ""."""
  if not isinstance(declared, ranges.Many):
    return ""
  # What was typed, less what a shell or a hurried hand makes of a list.
  words = re.findall(r"[^\s,()\[\]{}'\"]+", value)
  if words and not declared.refusal(words):
    return f"""; write --config.{key}="{words}\""""
  return f"; it {declared.refusal(value)}"


def assign(c: ml_collections.ConfigDict, key: str, value: Any) -> None:
  """Sets a key to a value of Python.

  Args:
    c: config to change.
    key: dotted key.
    value: value; a dict sets keys of a group, or all of a group whose keys are
      free, such as data.tasks. A text is read as by `override`.

  Raises:
    InputError: no such key (the nearest is named), or a value out of range.
  """
  group, last = _find(c, key)
  value = _plain(key, value)
  if isinstance(value, Mapping):
    if checks.is_group(key):
      for name, inner in value.items():
        assign(c, f"{key}.{name}", inner)
      return
    value = ml_collections.ConfigDict(value)
  elif isinstance(value, str):
    override(c, key, value)
    return
  declared = checks.declared(key)
  if declared is not None:
    checks.check_value(f"config.{key}", value, declared)
  # The range has been checked, and a number may be whole or not.
  with c.ignore_type():
    group[last] = value


def _plain(key: str, value: Any) -> Any:
  """Returns a value as a config holds it: paths are texts, numbers Python's.

  Args:
    key: dotted key, for messages.
    value: value of any kind; what it holds is converted too.

  Raises:
    InputError: a name in a group of free keys has a dot.
  """
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, np.generic):
    return value.item()
  if isinstance(value, tuple | list):
    plain = [_plain(key, inner) for inner in value]
    return tuple(plain) if isinstance(value, tuple) else plain
  if not isinstance(value, Mapping):
    return value
  for name in value:
    is_free = not checks.is_group(key)
    if is_free and (not isinstance(name, str) or "." in name):
      raise errors.InputError(
        f"config.{key}: the name {name!r:.100} must be a text without a dot,"
        " since a dot parts the names of keys"
      )
  return {name: _plain(f"{key}.{name}", inner) for name, inner in value.items()}


def _find(
  c: ml_collections.ConfigDict, key: str
) -> tuple[ml_collections.ConfigDict, str]:
  """Returns the group that holds a dotted key, and the key's name in it.

  Raises:
    InputError: there is no such key; the nearest is named.
  """
  place, path, names = c, [], []
  for name in key.split("."):
    if not isinstance(place, ml_collections.ConfigDict) or name not in place:
      raise errors.InputError(
        f"no key config.{key}{_nearest(c, key, place, '.'.join(names))}"
      )
    path.append(place)
    names.append(name)
    place = place[name]
  return path[-1], name


def _nearest(c: ml_collections.ConfigDict, key: str, place, group: str) -> str:
  """Says what to do about a key that does not exist.

  Args:
    c: config.
    key: dotted key.
    place: value in which the key is missing.
    group: dotted name of that place.
  """
  if isinstance(place, ml_collections.ConfigDict) and checks.is_free(group):
    name = key.removeprefix(f"{group}.").partition(".")[0]
    return errors.hint(name, place, f"config.{group}.") or _how_to_fill(group)
  return checks.nearest(key, c)


def of_run(path: str | None) -> ml_collections.ConfigDict | None:
  """Returns the config of a run, by its workdir or one of its checkpoints.

  Returns:
    None where the path is no run's.

  Raises:
    InputError: its config.json cannot be read.
  """
  if not path:
    return None
  # Without its model/ it is a run all the same, which can go on. Damage in the
  # file of this name in a policy's directory is for its reader to name.
  workdir = policy_lib.workdir_of(path)
  damage = None if policy_lib.run_of(path) else []
  content = lines.config(workdir / outputs.CONFIG, damage)
  if not outputs.is_config(content):
    return None
  c = completed(from_json(content))
  try:
    checks.check_keys(c)
  except errors.InputError as e:
    raise errors.InputError(
      f"{workdir}/config.json is of another version of progrpo_jax ({e}); name "
      "the run's config with --config"
    ) from e
  return c


def no_config(place: str | None, is_policy: bool) -> errors.InputError:
  """Returns the error of a call that got no config and found none.

  Args:
    place: path that may have been a run's, or None.
    is_policy: whether it names a policy, which exists; a workdir need not.
  """
  if place is None:
    reason = "; see --help"
  elif not is_policy:
    reason = f": {place} holds no run yet"
  elif places.is_remote(place) or os.path.exists(place):
    reason = f": {place} is not a run, which would have a config"
  else:
    reason = f": there is no directory {place}, whose config could be taken"
  return errors.InputError(f"--config FILE is needed{reason}")


def from_json(content: dict) -> ml_collections.ConfigDict:
  """Returns the config that a workdir's `config.json` holds, locked."""
  return ml_collections.ConfigDict(_tuples(content)).lock()


def completed(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Adds keys that are younger than a run's config, at their defaults."""
  with c.unlocked():
    _complete(c, defaults.get_config())
  return c


def _complete(c, known) -> None:
  for name, value in known.items():
    if name not in c:
      c[name] = value
    elif isinstance(value, ml_collections.ConfigDict) and isinstance(
      c[name], ml_collections.ConfigDict
    ):
      _complete(c[name], value)


def without_training(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Takes out what only training adds to a policy: adapters and heads."""
  c.model.lora.rank, c.algo.partition_head = 0, False
  return c


def _tuples(value):
  """Turns lists into the tuples that a config held before it became JSON."""
  if isinstance(value, dict):
    return {name: _tuples(v) for name, v in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
