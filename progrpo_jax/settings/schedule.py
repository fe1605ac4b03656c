"""Runs in stages: a config that changes during training.

`config.schedule` is a tuple of entries, each with the step or the number of
resets at which it begins, and the keys that it sets from then on:

  {"name": "run 6", "at_step": 1200, "set": {"algo.num_generations": 32}}
  {"name": "run 3", "after_resets": 1, "set": {"data.tasks": {...}}}

"at_step" counts finished steps, "after_resets" resets of the reference. Entries
begin in their order, and what they set stays set. With "reset": True the
reference is reset when the entry begins. This form expresses the consecutive
runs of ProRL (https://arxiv.org/abs/2505.24864, appendix E).

Which entries have begun is a function of the run's steps and resets alone, so
a resumed run continues in the stage it was in.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections

from progrpo_jax import errors
from progrpo_jax.settings import checks

KEYS = ("name", "at_step", "after_resets", "reset", "set")

# An entry cannot change these: parameters, optimiser and worker processes were
# created with them.
_FIXED = (
  "model",
  "mesh",
  "optim",
  "checkpoint",
  "log",
  "rewards",
  "warmup",
  "seed",
  "method",
  "schedule",
)
_FIXED_KEYS = (
  "train.total_steps",
  "algo.partition_head",
  "algo.distill.teacher",
  "algo.reset.rewarmup_steps",
  "hosts.heartbeat_s",
)


def begun(c, step: int, resets: int) -> int:
  """Returns how many entries have begun after so many steps and resets."""
  return count_begun(c.schedule, step, resets)


def count_begun(
  entries: Iterable[Mapping[str, Any]], step: int, resets: int
) -> int:
  """Returns how many entries of a schedule have begun.

  Args:
    entries: `config.schedule`.
    step: number of finished steps.
    resets: number of resets of the reference.
  """
  count = 0
  for entry in entries:
    # A later entry waits for every earlier one.
    if step < entry.get("at_step", 0) or resets < entry.get("after_resets", 0):
      break
    count += 1
  return count


def at(c, step: int, resets: int) -> ml_collections.ConfigDict:
  """Returns the config after so many finished steps and resets.

  Args:
    c: config with its schedule.
    step: number of finished steps.
    resets: number of resets of the reference.
  """
  return _after(c, begun(c, step, resets))


def every(c) -> Iterator[ml_collections.ConfigDict]:
  """Yields the config before the first entry and after each entry.

  Raises:
    InputError: a key is out of its range, or an entry is malformed; the
      message names it.
  """
  # Entry by entry: the keys of one are checked in the config it changes.
  checks.check_keys(c)
  for number, entry in enumerate(c.schedule):
    _check(c, number, entry)
    _check_keys(_after(c, number), number, entry)
  for count in range(len(c.schedule) + 1):
    yield _after(c, count)


def asks_for_reset(c, step: int, resets: int) -> bool:
  """Returns whether an entry with "reset" begins at this step."""
  before, now = begun(c, step - 1, resets), begun(c, step, resets)
  return any(entry.get("reset") for entry in c.schedule[before:now])


def _after(c, count: int) -> ml_collections.ConfigDict:
  """Returns the config with the first `count` entries applied."""
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
        # A group is replaced as a whole, as `data.tasks` in a new stage.
        if isinstance(group[name], ml_collections.ConfigDict):
          group[name] = ml_collections.ConfigDict(value)
        else:
          group[name] = value
  return changed


def _check(c, number: int, entry) -> None:
  """Refuses an entry that is malformed or out of order."""
  where = f"config.schedule[{number}]"
  if not isinstance(entry, dict) or not isinstance(entry.get("set"), dict):
    raise errors.InputError(f"{where} needs a dict 'set' of keys and values")
  for key in entry:
    if key not in KEYS:
      raise errors.InputError(
        f"{where}: no key {key!r}; known: {', '.join(KEYS)}"
      )
  if ("at_step" in entry) == ("after_resets" in entry):
    raise errors.InputError(f"{where} needs either 'at_step' or 'after_resets'")
  if entry.get("reset") and "at_step" not in entry:
    raise errors.InputError(f"{where}: 'reset' needs 'at_step'")
  for key in ("at_step", "after_resets"):
    value = entry.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
      raise errors.InputError(
        f"{where}: {key!r} = {value!r} should be a whole number, 0 or more"
      )
    before = max((e.get(key, 0) for e in c.schedule[:number]), default=0)
    if key in entry and value < before:
      raise errors.InputError(
        f"{where}: {key!r} = {value} comes after an entry with {before}; "
        "sort the entries, they begin in their order"
      )


def _check_keys(c, number: int, entry) -> None:
  """Refuses an entry with fixed or unknown keys, or values out of range.

  Args:
    c: config before the entry.
    number: index of the entry, for messages.
    entry: entry of the schedule.
  """
  where = f"config.schedule[{number}]"
  paths = set(checks.paths(c))
  for key, value in entry["set"].items():
    if key.split(".")[0] in _FIXED or key in _FIXED_KEYS:
      raise errors.InputError(f"{where}: {key} is fixed for a whole run")
    if key not in paths:
      raise errors.InputError(
        f"{where}: no key {key}{checks.nearest(key, c, home='')}"
      )
    # Keys of our own have a declared range; a key that a config file added
    # must keep the type of its value.
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
        f"{where}: {key} = {value!r} should have the type of {old!r}"
      )


def _get(c, key: str):
  """Returns the value of a dotted key."""
  for part in key.split("."):
    c = c[part]
  return c
