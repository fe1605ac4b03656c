"""Checks of a config, before anything is built from it.

The range of a single key is declared beside its default in defaults.py. This
file compares values with those ranges, and has the rules on several keys.
"""

from collections.abc import Iterator
import functools
import math
import reprlib
from typing import Any

import ml_collections

from progrpo_jax import errors, ranges
from progrpo_jax.algos import reset
from progrpo_jax.settings import defaults, derived

# Built once, as every stage of a schedule is compared with it.
_KEYS = defaults.keys()
# Options of TRL that are called otherwise here -> our keys; docs/from_trl.md
# has all of them.
OF_TRL = {
  "adam_beta1": "optim.b1",
  "adam_beta2": "optim.b2",
  "adam_epsilon": "optim.eps",
  "bf16": "model.dtype",
  "eval_steps": "eval.every",
  "gradient_checkpointing": "model.remat",
  "loss_type": "algo.aggregate",
  "lr_scheduler_type": "optim.decay",
  "max_completion_length": "sampling.max_new_tokens",
  "max_steps": "train.total_steps",
  "num_train_epochs": "train.total_steps",
  "num_generations_eval": "eval.num_samples",
  "report_to": "log.tensorboard",
  "save_steps": "checkpoint.every",
  "save_total_limit": "checkpoint.keep",
  "scale_rewards": "algo.advantage",
}


def all_keys() -> ml_collections.ConfigDict:
  """Returns the declaration of every key, see defaults.py."""
  return _KEYS


def check_keys(c: ml_collections.ConfigDict) -> None:
  """Refuses unknown keys and values out of range.

  Raises:
    InputError: the message names the key, its value and its range.
  """
  _check_group("config", c, _KEYS)
  for name, spec in c.data.tasks.items():
    _check_task(f"config.data.tasks.{name}", spec)


def check_value(name: str, value: Any, key: ranges.Range) -> None:
  """Refuses a value that is out of its key's range.

  Args:
    name: key as the message should name it.
    value: value of the key.
    key: declared range.

  Raises:
    InputError: the message names the key, its value and its range.
  """
  refusal = key.refusal(value)
  if refusal:
    raise errors.InputError(f"{name} = {_shown(value)}: {refusal}")


def declared(key: str) -> ranges.Range | None:
  """Returns the range of a dotted key, None for a key not in defaults.py."""
  place = _declaration(key)
  return place if isinstance(place, ranges.Range) else None


def is_group(key: str) -> bool:
  """Returns whether a dotted key is a group whose keys are declared."""
  place = _declaration(key)
  return isinstance(place, ml_collections.ConfigDict) and len(place) > 0


def is_free(key: str) -> bool:
  """Returns whether a dotted key is, or lies in, a group of free keys."""
  names = key.split(".")
  found = (_declaration(".".join(names[: i + 1])) for i in range(len(names)))
  return any(isinstance(d, ml_collections.ConfigDict) and not d for d in found)


def _declaration(key: str) -> ranges.Range | ml_collections.ConfigDict | None:
  """Returns what defaults.py has at a dotted key, or None."""
  place = _KEYS
  for name in key.split("."):
    if not isinstance(place, ml_collections.ConfigDict) or name not in place:
      return None
    place = place[name]
  return place


def paths(c, prefix: str = "") -> Iterator[str]:
  """Yields all dotted keys of a config, groups included."""
  for name, value in c.items():
    yield prefix + name
    if isinstance(value, ml_collections.ConfigDict):
      yield from paths(value, f"{prefix}{name}.")


def nearest(key: str, c, home: str = "config.") -> str:
  """Returns a hint at the config's key most similar to an unknown key.

  An option of TRL gets its counterpart, whose name may be quite another.
  """
  option = key.rpartition(".")[2]
  if option in OF_TRL:
    return (
      f"; for TRL's {option}, did you mean {home}{OF_TRL[option]}? See "
      "docs/from_trl.md"
    )
  return errors.hint(key, paths(c), home)


def _check_group(name: str, group, keys: ml_collections.ConfigDict) -> None:
  """Compares a group of keys with its declaration, recursively."""
  if not isinstance(group, ml_collections.ConfigDict):
    raise errors.InputError(
      f"{name} = {_shown(group)}: must be a group of keys: "
      f"{', '.join(keys) or 'any that a config sets'}"
    )
  # An empty declaration stands for free-form options, such as loss_options.
  if not keys:
    _check_finite(name, group)
    return
  for key, value in group.items():
    if key not in keys:
      path = f"{name}.{key}".removeprefix("config.")
      raise errors.InputError(f"no key config.{path}{nearest(path, _KEYS)}")
    if isinstance(keys[key], ml_collections.ConfigDict):
      _check_group(f"{name}.{key}", value, keys[key])
    else:
      check_value(f"{name}.{key}", value, keys[key])
  for key in keys:
    if key not in group:
      raise errors.InputError(
        f"{name}.{key} is missing: start from defaults.get_config(), which "
        "has every key"
      )


def _check_task(name: str, spec) -> None:
  """Refuses an entry of data.tasks with unknown or malformed keys."""
  if "/" in name:
    raise errors.InputError(
      f"{name}: a task's name must not hold '/', which parts the names of its "
      "measures (eval/NAME/pass@1)"
    )
  if not isinstance(spec, ml_collections.ConfigDict):
    raise errors.InputError(
      f'{name} = {_shown(spec)}: must be like {{"weight": 1.0, "options": '
      "{}}"
    )
  keys = defaults.task()
  for key, value in spec.items():
    if key in keys:
      check_value(f"{name}.{key}", value, keys[key])
    elif key != "options":
      hint = errors.hint(key, [*keys, "options"], "") or (
        f'; options of a task go into options, as in {{"options": {{"{key}": '
        "...}}"
      )
      raise errors.InputError(f"no key {name}.{key}{hint}")
  if not isinstance(spec.get("options", {}), ml_collections.ConfigDict | dict):
    raise errors.InputError(
      f"{name}.options = {_shown(spec.options)}: must be a dict"
    )


def _check_finite(name: str, value) -> None:
  """Refuses NaN and infinities at any depth."""
  if isinstance(value, ml_collections.ConfigDict | dict):
    for key, inner in value.items():
      _check_finite(f"{name}.{key}", inner)
  elif isinstance(value, tuple | list):
    for index, inner in enumerate(value):
      _check_finite(f"{name}[{index}]", inner)
  elif isinstance(value, float) and not math.isfinite(value):
    raise errors.InputError(f"{name} = {value}: must be a finite number")


def _shown(value: Any) -> str:
  """Returns a value as one short line."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  try:
    return " ".join(reprlib.repr(value).split())
  except ValueError:  # Python does not print integers above 4300 digits
    return "a number of thousands of digits"


def validate(c: ml_collections.ConfigDict) -> None:
  """Refuses a config that would fail later, or train on nothing.

  Raises:
    InputError: the message names the key, its value and what to do.
  """
  check_keys(c)

  def refuse(key, why):
    value = functools.reduce(getattr, key.split("."), c)
    # The repr of a group of keys ends with a line feed.
    raise errors.InputError(f"config.{key} = {repr(value).strip()}: {why}")

  if not c.model.init_from:
    refuse(
      "model.init_from",
      "name an HF directory or a checkpoint to start "
      "from (`progrpo warmup` makes a small one)",
    )
  if not c.data.tasks:
    refuse("data.tasks", "name at least one task; see `progrpo tasks list`")
  low, high = c.eval.creativity_range
  if low > high:
    refuse("eval.creativity_range", "needs the lower number first")
  # A batch must be divisible into minibatches, and dynamic sampling must be
  # able to fill it.
  if c.train.prompts_per_step % c.train.num_minibatches:
    refuse(
      "train.num_minibatches",
      f"must divide train.prompts_per_step ({c.train.prompts_per_step})",
    )
  dynamic = c.algo.dynamic_sampling
  drawn = derived.prompts_per_round(c) * dynamic.max_rounds
  if dynamic.enabled and drawn < c.train.prompts_per_step:
    refuse(
      "algo.dynamic_sampling.prompts_per_round",
      "times max_rounds "
      f"({dynamic.max_rounds}) it is {drawn} prompts, and a batch has "
      f"train.prompts_per_step = {c.train.prompts_per_step}: it could "
      "never be full; raise either, or set prompts_per_round = 0 to draw "
      "a whole batch per round",
    )
  # Rules that other modules own: adapters and modes of a reset.
  derived.lora_config(c)
  try:
    reset.should_reset(0, last_reset=0, **derived.reset_options(c))
  except ValueError as e:
    raise errors.InputError(f"config.algo.reset: {e}") from e
  if c.algo.rephrase.enabled:
    try:
      c.algo.rephrase.template.format(prompt="", solution="")
    except (KeyError, IndexError, ValueError, AttributeError):
      refuse(
        "algo.rephrase.template",
        "may hold {prompt} and {solution}, and "
        "other braces only in pairs: {{ and }}",
      )
  penalty = c.algo.length_penalty
  if penalty.coef and not penalty.on + penalty.off:
    refuse("algo.length_penalty.on", "must be above 0 where off is 0")
  _check_effects(c, refuse)
  if c.algo.overlong_cache > c.sampling.max_new_tokens:
    refuse(
      "algo.overlong_cache",
      f"must not exceed sampling.max_new_tokens ({c.sampling.max_new_tokens})",
    )


def _check_effects(c, refuse) -> None:
  """Refuses settings that would have no effect."""
  a = c.algo
  if a.kl == "k1" and a.beta:
    refuse(
      "algo.kl",
      f"with algo.beta = {a.beta:g} it would have no effect: "
      "as a loss on sampled tokens the gradient of k1 is 0 in "
      "expectation; set 'k2' or 'k3', or use algo.reward_kl_coef, which "
      "subtracts k1 from the reward",
    )
  # One of several modes may rest, as a stall does in a run that only tries
  # whether a config works.
  idle = derived.idle_resets(c)
  if idle and set(idle) == set(a.reset.modes):
    reasons = "; ".join(f"{mode!r}: {why}" for mode, why in idle.items())
    refuse("algo.reset.modes", f"no reset could ever come: {reasons}")
  readers = derived.readers_of_scores(c)
  if c.train.score == "never" and readers:
    refuse(
      "train.score",
      f"something reads scores before the update ({', '.join(readers)}); set "
      "'needed'",
    )
  # A bound copied from a token-level loss would never clip GSPO's ratio.
  for key in ("epsilon", "epsilon_high"):
    if a.loss == "gspo" and a[key] >= 0.1:
      refuse(
        f"algo.{key}",
        "gspo's ratio, a geometric mean over the tokens of "
        "a response, never comes near this bound; gspo's own bounds are "
        "3e-4 and 4e-4: set 0 for them",
      )
  if a.advantage == "gdpo" and a.reward_kl_coef:
    refuse(
      "algo.reward_kl_coef",
      "gdpo brings each term of a reward to the same scale, also a KL near 0; "
      "set 0, and use algo.beta",
    )
  if a.loss == "flowrl" and a.arm.alpha:
    refuse(
      "algo.arm.alpha",
      "ARM re-weights advantages, and flowrl reads "
      "rewards instead; set 0, or another algo.loss",
    )
  if derived.distills(c) and a.loss == "flowrl":
    refuse(
      "algo.distill.teacher",
      "distillation gives advantages, and flowrl reads rewards instead; take "
      "another algo.loss",
    )
  if derived.distills(c) and not a.distill.keep_rewards and a.arm.alpha:
    refuse(
      "algo.arm.alpha",
      "ARM re-weights the advantages of rewards, whose place distillation "
      "takes; set 0, or algo.distill.keep_rewards",
    )
