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

from progrpo_jax import errors, packing, ranges
from progrpo_jax.algos import reset
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as model_config
from progrpo_jax.settings import defaults

# Built once, as every stage of a schedule is compared with it.
_KEYS = defaults.keys()


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
  """Says whether a dotted key is a group whose keys are declared."""
  place = _declaration(key)
  return isinstance(place, ml_collections.ConfigDict) and len(place) > 0


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
  """Returns a hint at the config's key most similar to an unknown key."""
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
      raise errors.InputError(
        f"no key {name}.{key}{errors.hint(key, [*keys, 'options'], '')}"
      )
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
  drawn = prompts_per_round(c) * dynamic.max_rounds
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
  lora_config(c)
  try:
    reset.should_reset(0, last_reset=0, **reset_options(c))
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
  """Refuses settings that would have no effect on the gradient."""
  a = c.algo
  if a.kl == "k1" and a.beta:
    refuse(
      "algo.kl",
      f"with algo.beta = {a.beta:g} it would have no effect: "
      "as a loss on sampled tokens the gradient of k1 is 0 in "
      "expectation; set 'k2' or 'k3', or use algo.reward_kl_coef, which "
      "subtracts k1 from the reward",
    )
  readers = readers_of_scores(c)
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
  if distills(c) and a.loss == "flowrl":
    refuse(
      "algo.distill.teacher",
      "distillation gives advantages, and flowrl reads rewards instead; take "
      "another algo.loss",
    )
  if distills(c) and not a.distill.keep_rewards and a.arm.alpha:
    refuse(
      "algo.arm.alpha",
      "ARM re-weights the advantages of rewards, whose place distillation "
      "takes; set 0, or algo.distill.keep_rewards",
    )


def prompts_per_round(c) -> int:
  """Returns the number of prompts of one round of sampling."""
  dynamic = c.algo.dynamic_sampling
  if dynamic.enabled and dynamic.prompts_per_round:
    return dynamic.prompts_per_round
  return c.train.prompts_per_step


def distills(c) -> bool:
  """Returns whether a teacher's log-probs are part of the advantages."""
  return bool(c.algo.distill.teacher and c.algo.distill.coef)


def needs_reference(c) -> bool:
  """Returns whether the method reads a reference policy."""
  return bool(c.algo.beta or c.algo.reward_kl_coef or c.algo.hold_reference)


def readers_of_scores(c) -> list[str]:
  """Returns the settings that need log-probs scored before the update.

  They are named as the error message names them. An advantage that reads
  log-probs, and ARM with `centre`, are not among them: the sampler's log-probs
  will do for those.
  """
  a, t = c.algo, c.train
  arm = a.arm.alpha and (not a.arm.centre or a.arm.tail == "entropy")
  return [
    key
    for key, reads in (
      ("train.num_minibatches", t.num_minibatches > 1),
      ("train.num_iterations", t.num_iterations > 1),
      ("algo.correction", a.correction),
      ("algo.rephrase.enabled", a.rephrase.enabled),
      ("algo.distill.teacher", distills(c)),
      # The measured KL is exactly 0 after a reset only where both policies
      # were scored alike.
      ("the KL to a reference", needs_reference(c)),
      ("algo.arm without centre, or with tail 'entropy'", arm),
    )
    if reads
  ]


def reset_options(c) -> dict[str, Any]:
  """Returns the keyword arguments of `algos.reset.should_reset`."""
  r = c.algo.reset
  # A config writes 0 for "off", the function takes None.
  return dict(
    modes=tuple(r.modes),
    period=r.period,
    at_steps=tuple(r.at_steps),
    patience=r.patience,
    min_delta=r.min_delta,
    kl_factor=r.kl_factor or None,
    kl_threshold=r.kl_threshold or None,
    kl_window=r.kl_window,
    share_threshold=r.share_threshold or None,
    share_window=r.share_window,
    min_gap=r.min_gap,
  )


def lora_config(c) -> model_config.LoRA | None:
  """Returns the LoRA adapters that the config asks for, or None.

  Raises:
    InputError: rank, alpha or targets are not possible.
  """
  if not c.model.lora.rank:
    return None
  try:
    return model_config.LoRA(
      rank=c.model.lora.rank,
      alpha=c.model.lora.alpha,
      targets=tuple(c.model.lora.targets),
    )
  except ValueError as e:
    raise errors.InputError(f"config.model.lora: {e}") from e


def check_split(mesh, **counts: int) -> None:
  """Refuses row counts that the mesh cannot split evenly.

  Args:
    mesh: mesh of the devices.
    **counts: name for the message -> number of rows.

  Raises:
    InputError: the message names the count.
  """
  shards = sharding.batch_shards(mesh)
  for name, count in counts.items():
    if count % shards:
      raise errors.InputError(
        f"{name} = {count} cannot be divided over the {shards} batch shards "
        f"of the mesh {dict(mesh.shape)}; make it a multiple of {shards}"
      )


def sampling_mesh(c, mesh):
  """Returns the mesh on which responses are drawn, of the same devices.

  Args:
    c: the config.
    mesh: mesh of training.

  Raises:
    InputError: sampling.tensor does not divide the devices, or is no multiple
      of the mesh's own, so that rows could not be split as those of training.
  """
  own = sharding.ways("heads", mesh)
  tensor = c.sampling.tensor or own
  if tensor % own or mesh.size % tensor:
    raise errors.InputError(
      f"config.sampling.tensor = {tensor} must divide the {mesh.size} devices, "
      f"and be a multiple of the {own} of mesh.tensor; 0 takes these"
    )
  return sharding.refactored(mesh, tensor)


# Keys of a row at which attention by plain XLA costs as much as the weights'
# products. Measured on the policy of `make bench` with bundles of 1, 2, 4 and 8
# responses (docs/benchmarks.md, "What was tried"); wider models have larger
# products, and would share prompts a little more.
_EQUAL = 1280


def layout(c, mesh, kernel: bool = False) -> tuple[int, packing.Layout]:
  """Returns how sequences are packed into rows.

  Args:
    c: the config.
    mesh: mesh of the devices.
    kernel: whether attention is a fused kernel, which takes no bundles of
      several responses.

  Returns:
    (responses of a bundle, sizes of rows).

  Raises:
    InputError: a size does not divide evenly, a row is too short, or the mesh
      cannot split the prompts.
  """
  group, t = c.algo.num_generations, c.train
  prompt, new = c.data.max_prompt_length, c.sampling.max_new_tokens
  per_bundle = t.micro_batch_generations
  if not per_bundle:
    per_bundle = 1 if kernel else _cheapest(group, prompt, new, t.row_tokens)
  if group % per_bundle:
    raise errors.InputError(
      f"config.train.micro_batch_generations = {per_bundle} must divide "
      f"algo.num_generations ({group})"
    )
  longest = prompt + per_bundle * new
  if 0 < t.row_tokens < longest:
    hint = ", or lower train.micro_batch_generations" if per_bundle > 1 else ""
    raise errors.InputError(
      f"config.train.row_tokens = {t.row_tokens} is less than the longest "
      f"prompt with {per_bundle} of its responses: {longest} tokens; raise it"
      f"{hint}"
    )
  check_split(
    mesh,
    **{
      "config.train.prompts_per_step": t.prompts_per_step,
      "config.algo.dynamic_sampling.prompts_per_round": prompts_per_round(c),
      "config.sampling.batch_prompts": c.sampling.batch_prompts,
      "config.eval.batch_prompts": c.eval.batch_prompts,
    },
  )
  bundles = t.prompts_per_step // t.num_minibatches * (group // per_bundle)
  sizes = packing.Layout(
    tokens=t.row_tokens,
    rows=t.micro_batch_rows,
    shards=sharding.batch_shards(mesh),
  )
  return per_bundle, sizes.resolved(bundles, longest)


def _cheapest(group: int, prompt: int, new: int, row: int) -> int:
  """Returns the responses of a bundle that cost least by plain XLA.

  More of them read their prompt less often, but make longer rows, and a query
  of plain XLA is multiplied with every key of its row.
  """
  fitting = [
    r
    for r in range(1, group + 1)
    if not group % r and (not row or prompt + r * new <= row)
  ]
  return min(
    fitting or [1],
    key=lambda r: (prompt / r + new) * (1 + (row or prompt + r * new) / _EQUAL),
  )
