"""Which config keys may change when a run is resumed.

A workdir holds one run with one method, model and data, those of its
`config.json`; otherwise its curves would mix two experiments. The number of
steps, the learning rate, and how the run is evaluated, saved and spread over
machines may change. Every key that is not listed here defines the run, so a new
key is protected by default.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import os
from typing import Any

import ml_collections

from progrpo_jax import errors, places
from progrpo_jax.settings import checks, schedule
from progrpo_jax.storage import hub_names

# Keys, and groups of keys, that may change when a run is resumed.
_FREE = (
  "train.total_steps",
  "train.max_skipped_updates",
  # Only memory and speed depend on these.
  "train.row_tokens",
  "train.micro_batch_rows",
  "train.micro_batch_generations",
  "mesh",
  "model.download",
  "model.remat",
  "model.attention",
  "model.logits_chunk",
  "data.dir",
  "data.prompt_buckets",
  "sampling.chunk",
  "sampling.batch_prompts",
  "sampling.tensor",
  "optim.learning_rate",
  "optim.warmup_steps",
  "optim.decay",
  # Evaluation, checkpoints, logs, health checks of hosts.
  "eval",
  "checkpoint",
  "log",
  "hosts",
  # Worker processes of verifiers. Not rewards.thinking, which decides what
  # counts as the answer.
  "rewards.workers",
  "rewards.deadline_s",
  "rewards.batch_deadline_s",
  "rewards.memory_mb",
  "rewards.max_failure_share",
  "rewards.allow_unsafe_code",
  "warmup",
)
# Keys that decide what an evaluation measures.
_MEASURING = frozenset(
  (
    "data.tasks",
    "eval.num_problems",
    "eval.num_samples",
    "eval.temperature",
    "eval.top_p",
    "eval.top_k",
    "eval.tolerant",
    "eval.partial_sets",
  )
)
# Keys that say where a policy lies.
_POLICIES = ("model.init_from", "algo.distill.teacher")
_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class Changes:
  """Differences between a config and the one in the run's workdir.

  Attributes:
    free: permitted changes, each as "key: old -> new".
    defining: changes that would make it another run, in the same form.
  """

  free: tuple[str, ...] = ()
  defining: tuple[str, ...] = ()

  @property
  def measures(self) -> bool:
    """Whether later evaluations cannot be compared with earlier ones."""
    keys = {line.partition(":")[0] for line in (*self.free, *self.defining)}
    return bool(keys & _MEASURING)


def changes(
  old: Mapping[str, Any], new: Mapping[str, Any], at: tuple[int, int] = (0, 0)
) -> Changes:
  """Compares two configs.

  A key that only one config has was added or removed by another version of
  this package; such a change is permitted.

  Args:
    old: config of the run in the workdir, read from its JSON.
    new: config to resume with, in the same form.
    at: where the run stands: its steps done, and its resets.
  """
  free, defining = [], []
  for key in _keys():
    before, after = _get(old, key), _get(new, key)
    if _normalised(key, before) == _normalised(key, after):
      continue
    line = f"{key}: {_shortened(before)} -> {_shortened(after)}"
    is_free = _is_free(key, before, after)
    # What an entry sets would hold from a step on that is done already.
    if is_free and key == "schedule" and _has_begun(before, after, at):
      is_free = False
      line += f" (what is appended begins after step {at[0]}, reset {at[1]})"
    (free if is_free else defining).append(line)
  return Changes(tuple(free), tuple(defining))


def check(difference: Changes, workdir, override: bool) -> None:
  """Refuses to resume a run with a config that would make it another run.

  Args:
    difference: differences of two configs, from `changes`.
    workdir: workdir of the run, for the message.
    override: whether the user permits any change.

  Raises:
    InputError: a defining key changed; the message has old and new values.
  """
  if difference.defining and not override:
    raise errors.InputError(
      f"{workdir} holds a run with another config: "
      f"{'; '.join(difference.defining)}. Choose another --workdir, or pass "
      "--override to change the config in the middle of the run"
    )


def _keys(group=None, prefix: str = "") -> Iterator[str]:
  """Yields all declared keys; a group of free-form options is one key."""
  for name, key in (checks.all_keys() if group is None else group).items():
    if isinstance(key, ml_collections.ConfigDict) and key:
      yield from _keys(key, f"{prefix}{name}.")
    else:
      yield prefix + name


def _get(config: Mapping[str, Any], key: str) -> Any:
  """Returns the value of a dotted key, or _ABSENT."""
  for name in key.split("."):
    if not isinstance(config, Mapping) or name not in config:
      return _ABSENT
    config = config[name]
  return config


def _normalised(key: str, value: Any) -> Any:
  """Returns a value in a form that is equal for equal meanings.

  Paths become absolute, and tasks get their default options.
  """
  if key in _POLICIES and value not in (_ABSENT, ""):
    if places.is_remote(value):
      return value
    return os.path.abspath(os.path.expanduser(value))
  if key == "data.tasks" and isinstance(value, Mapping):
    defaults = {"module": None, "weight": 1.0, "options": {}}
    return {name: defaults | dict(spec) for name, spec in value.items()}
  return value


def _is_free(key: str, before: Any, after: Any) -> bool:
  """Returns whether a resumed run may make this change."""
  if before is _ABSENT or after is _ABSENT:
    return True
  if key == "model.init_from":  # a commit may be named later; see `describe`
    repos = [hub_names.split(x) or (None, None) for x in (before, after)]
    return bool(repos[0][0]) and repos[0] == (repos[1][0], None)
  if key == "schedule":  # entries may be appended, not changed or removed
    return list(after)[: len(before)] == list(before)
  return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def _has_begun(before: Any, after: Any, at: tuple[int, int]) -> bool:
  """Returns whether entries that were appended would have begun by now."""
  before = () if before is _ABSENT else before
  after = () if after is _ABSENT else after
  return schedule.count_begun(after, *at) > schedule.count_begun(before, *at)


def _shortened(value: Any) -> str:
  """Returns a value as text of at most 120 characters."""
  if value is _ABSENT:
    return "(no such key)"
  text = repr(value)
  return text if len(text) <= 120 else f"{text[:117]}..."
