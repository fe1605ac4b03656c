"""What makes a run the same run: which keys may change between two starts.

A workdir is one run: its method, model and data are those that its
`config.json` names, or its curves would be those of two. How far it goes, how
fast it learns, how it is measured, kept and spread over machines may change.
Everything that is not listed here is taken to define the run, so a new key is
safe by default.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import os
from typing import Any

import ml_collections

from progrpo_jax import errors
from progrpo_jax.config import checks

# Keys, and groups of keys, that may change in any run that goes on.
_FREE = (
    "train.total_steps", "train.max_skipped_updates",
    # Memory and speed alone.
    "train.micro_batch_prompts", "train.micro_batch_generations", "mesh",
    "model.remat", "model.attention", "model.logits_chunk",
    "data.dir", "data.prompt_buckets", "sampling.chunk",
    "sampling.batch_prompts",
    "optim.learning_rate", "optim.warmup_steps", "optim.decay",
    # What is measured, kept and shown.
    "eval", "checkpoint", "log", "hosts",
    # The processes that verify; what an answer is stands in rewards.thinking.
    "rewards.workers", "rewards.deadline_s", "rewards.batch_deadline_s",
    "rewards.memory_mb", "rewards.max_failure_share",
    "rewards.allow_unsafe_code",
    "warmup",
)
_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class Changes:
  """How a config differs from that of the run in its workdir.

  Attributes:
    free: changes that any run may make, each as "key: old -> new".
    defining: changes that make it another run, likewise.
  """

  free: tuple[str, ...] = ()
  defining: tuple[str, ...] = ()


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
  """Compares two configs, as read from JSON.

  A key that one of them does not have, as it is of another version, is free.
  """
  free, defining = [], []
  for key in _keys():
    before, after = _get(old, key), _get(new, key)
    if _like(key, before) == _like(key, after):
      continue
    line = f"{key}: {_shown(before)} -> {_shown(after)}"
    (free if _is_free(key, before, after) else defining).append(line)
  return Changes(tuple(free), tuple(defining))


def check(found: Changes, workdir, override: bool) -> None:
  """Refuses a config that makes another run of the one in a workdir.

  Raises:
    InputError: naming each key, its old and its new value.
  """
  if found.defining and not override:
    raise errors.InputError(
        f"{workdir} holds a run of another config: "
        f"{'; '.join(found.defining)}. Choose another --workdir, or change it "
        "in the midst of the run with --override")


def _keys(group=None, prefix: str = "") -> Iterator[str]:
  """All declared keys; a group that takes anything is one of them."""
  for name, key in (checks.all_keys() if group is None else group).items():
    if isinstance(key, ml_collections.ConfigDict) and key:
      yield from _keys(key, f"{prefix}{name}.")
    else:
      yield prefix + name


def _get(config: Mapping[str, Any], key: str) -> Any:
  """A value, or _ABSENT."""
  for name in key.split("."):
    if not isinstance(config, Mapping) or name not in config:
      return _ABSENT
    config = config[name]
  return config


def _like(key: str, value: Any) -> Any:
  """A value as it is compared: one meaning, one form."""
  if key == "model.init_from" and value is not _ABSENT:
    return value if "://" in value else os.path.abspath(
        os.path.expanduser(value))
  if key == "data.tasks" and isinstance(value, Mapping):
    usual = {"module": None, "weight": 1.0, "options": {}}
    return {name: usual | dict(spec) for name, spec in value.items()}
  return value


def _is_free(key: str, before: Any, after: Any) -> bool:
  """Whether a run may make this change."""
  if before is _ABSENT or after is _ABSENT:
    return True
  if key == "schedule":  # entries may follow those that are there
    return list(after)[:len(before)] == list(before)
  return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _shown(value: Any) -> str:
  """A value in a few words."""
  if value is _ABSENT:
    return "(no such key)"
  text = repr(value)
  return text if len(text) <= 120 else f"{text[:117]}..."
