"""Runs in stages: a config that changes as training goes on.

`config.schedule` is a tuple of entries, each with the moment at which it
begins and the keys that it sets from then on:

  {"name": "run 6", "at_step": 1200, "set": {"algo.num_generations": 32}}
  {"name": "run 3", "after_resets": 1, "set": {"data.tasks": {...}}}

"at_step" counts steps done, "after_resets" resets of the reference. Entries
begin in the order in which they stand, and what they set stays set. With
"reset": True the reference is reset as the entry begins. ProRL's runs
(https://arxiv.org/abs/2505.24864, appendix E) are written so.

Which entries have begun follows from the steps and resets of a run alone, so
a resumed run stands in the stage that it left.
"""

from collections.abc import Iterator

import ml_collections

from progrpo_jax import errors
from progrpo_jax.config import checks

KEYS = ("name", "at_step", "after_resets", "reset", "set")

# What the parameters, the optimiser and the processes were made with stays.
_FIXED = ("model", "mesh", "optim", "checkpoint", "log", "rewards", "warmup",
          "seed", "method", "schedule")
_FIXED_KEYS = ("train.total_steps", "algo.partition_head")


def begun(c, step: int, resets: int) -> int:
  """How many entries have begun."""
  count = 0
  for entry in c.schedule:
    if step < entry.get("at_step", 0) or resets < entry.get("after_resets", 0):
      break
    count += 1
  return count


def at(c, step: int, resets: int) -> ml_collections.ConfigDict:
  """The config as it stands after so many steps and resets."""
  return _after(c, begun(c, step, resets))


def every(c) -> Iterator[ml_collections.ConfigDict]:
  """The config at its beginning and after each entry.

  Raises:
    InputError: a key is out of its range, or an entry cannot be read; the
      message names it.
  """
  checks.check_keys(c)
  for number, entry in enumerate(c.schedule):
    _check(c, number, entry)
    _check_keys(_after(c, number), number, entry)
  for count in range(len(c.schedule) + 1):
    yield _after(c, count)


def asks_for_reset(c, step: int, resets: int) -> bool:
  """Whether an entry that wants a reset begins at this very step."""
  before, now = begun(c, step - 1, resets), begun(c, step, resets)
  return any(entry.get("reset") for entry in c.schedule[before:now])


def _after(c, count: int) -> ml_collections.ConfigDict:
  """The config with the first `count` entries applied."""
  if not count:
    return c
  changed = c.copy_and_resolve_references()
  for entry in c.schedule[:count]:
    for key, value in entry["set"].items():
      home, _, name = key.rpartition(".")
      group = changed
      for part in home.split(".") if home else ():
        group = group[part]
      with group.unlocked():
        if isinstance(group[name], ml_collections.ConfigDict):
          group[name] = ml_collections.ConfigDict(value)
        else:
          group[name] = value
  return changed


def _check(c, number: int, entry) -> None:
  """Refuses an entry that could not be applied."""
  where = f"config.schedule[{number}]"
  if not isinstance(entry, dict) or not isinstance(entry.get("set"), dict):
    raise errors.InputError(f"{where} needs a dict 'set' of keys and values")
  for key in entry:
    if key not in KEYS:
      raise errors.InputError(
          f"{where}: no key {key!r}; known: {', '.join(KEYS)}")
  if ("at_step" in entry) == ("after_resets" in entry):
    raise errors.InputError(
        f"{where} needs either 'at_step' or 'after_resets'")
  if entry.get("reset") and "at_step" not in entry:
    raise errors.InputError(f"{where}: 'reset' needs 'at_step'")
  for key in ("at_step", "after_resets"):
    value = entry.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
      raise errors.InputError(
          f"{where}: {key!r} = {value!r} should be a whole number, 0 or more")
    before = max((e.get(key, 0) for e in c.schedule[:number]), default=0)
    if key in entry and value < before:
      raise errors.InputError(
          f"{where}: {key!r} = {value} stands behind an entry with {before}; "
          "entries begin in their order")


def _check_keys(c, number: int, entry) -> None:
  """Refuses keys that the config, as it stands by then, does not have."""
  where = f"config.schedule[{number}]"
  known = set(checks.paths(c))
  for key, value in entry["set"].items():
    if key.split(".")[0] in _FIXED or key in _FIXED_KEYS:
      raise errors.InputError(
          f"{where}: {key} is fixed for a whole run")
    if key not in known:
      raise errors.InputError(
          f"{where}: no key {key}{checks.nearest(key, c, home='')}")
    declared = checks.declared(key)
    if declared is not None:
      checks.check_value(f"{where}: {key}", value, declared)
      continue
    old = _get(c, key)
    if isinstance(old, ml_collections.ConfigDict):
      fits = isinstance(value, dict)
    elif isinstance(old, float):
      fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
      fits = type(value) is type(old)
    if not fits:
      raise errors.InputError(
          f"{where}: {key} = {value!r} should be like {old!r}")


def _get(c, key: str):
  for part in key.split("."):
    c = c[part]
  return c
