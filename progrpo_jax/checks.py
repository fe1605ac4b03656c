"""What a config must fulfil before anything is built from it."""

import functools
from typing import Any

import ml_collections

from progrpo_jax import errors, sharding
from progrpo_jax.algos import arm, reset
from progrpo_jax.models import config as model_config
from progrpo_jax.rewards import thinking


def validate(c: ml_collections.ConfigDict) -> None:
  """Refuses what could only fail later, or would train on nothing.

  Raises:
    InputError: naming the key, its value and what to do.
  """

  def refuse(key, why):
    value = functools.reduce(getattr, key.split("."), c)
    # A group of keys is written with a line's end behind it.
    raise errors.InputError(f"config.{key} = {repr(value).strip()}: {why}")

  if not c.model.init_from:
    refuse("model.init_from", "name an HF directory or a checkpoint to start "
           "from (`progrpo warmup` makes a small one)")
  if not c.data.tasks:
    refuse("data.tasks", "name at least one task; see `progrpo tasks list`")
  if c.algo.num_generations < 2:
    refuse("algo.num_generations", "a group needs at least 2 samples, or it "
           "has no spread to learn from")
  for key in (
      "train.total_steps", "train.prompts_per_step", "train.num_minibatches",
      "train.num_iterations", "train.max_skipped_updates",
      "sampling.max_new_tokens", "sampling.chunk", "data.max_prompt_length",
      "rewards.workers", "eval.num_problems", "eval.num_samples",
      "eval.batch_prompts", "checkpoint.every", "checkpoint.keep"):
    if functools.reduce(getattr, key.split("."), c) < 1:
      refuse(key, "must be at least 1")
  if c.algo.dynamic_sampling.prompts_per_round < 0:
    refuse("algo.dynamic_sampling.prompts_per_round",
           "must be positive, or 0 for train.prompts_per_step")
  if c.sampling.batch_prompts < 0:
    refuse("sampling.batch_prompts", "must be positive, or 0 for all at once")
  for key in ("rewards.deadline_s", "rewards.batch_deadline_s"):
    if functools.reduce(getattr, key.split("."), c) <= 0:
      refuse(key, "must be above 0")
  if c.sampling.temperature <= 0:
    refuse("sampling.temperature", "must be above 0: greedy samples of a "
           "group are all alike")
  low, high = (*c.eval.creativity_range, 0, 0)[:2]
  if not 1 <= low <= high:
    refuse("eval.creativity_range", "needs two numbers, 1 or more, the lower "
           "one first")
  for key in ("sampling.top_p", "eval.top_p", "algo.arm.low_prob_share",
              "algo.arm.prompt_low_prob_share"):
    if not 0 < functools.reduce(getattr, key.split("."), c) <= 1:
      refuse(key, "must lie in (0, 1]")
  if c.train.prompts_per_step % c.train.num_minibatches:
    refuse("train.num_minibatches", "must divide train.prompts_per_step "
           f"({c.train.prompts_per_step})")
  for key, known in (
      ("algo.dynamic_sampling.surplus", ("discard", "carry")),
      ("algo.arm.active", arm.ACTIVE), ("algo.arm.apply_to", arm.APPLY_TO),
      ("algo.arm.tail", ("probability", "entropy")),
      ("rewards.thinking", thinking.MODES),
      ("model.dtype", ("float32", "bfloat16")),
      ("optim.mu_dtype", ("float32", "bfloat16")),
      ("model.attention", model_config.ATTENTION),
      ("model.remat", model_config.REMAT)):
    if functools.reduce(getattr, key.split("."), c) not in known:
      refuse(key, f"must be {' or '.join(map(repr, known))}")
  lora_config(c)
  try:
    reset.should_reset(0, last_reset=0, **reset_options(c))
  except ValueError as e:
    raise errors.InputError(f"config.algo.reset: {e}") from e
  if c.algo.rephrase.enabled:
    try:
      c.algo.rephrase.template.format(prompt="", solution="")
    except (KeyError, IndexError, ValueError):
      refuse("algo.rephrase.template", "may hold {prompt} and {solution}, and "
             "other braces only in pairs: {{ and }}")
  if not 0 <= c.algo.truncated_factor <= 1:
    refuse("algo.truncated_factor", "must lie in [0, 1]")
  if c.algo.beta_control.floor and not c.algo.beta:
    refuse("algo.beta_control.floor", "needs a beta above 0 to adapt")
  if c.algo.overlong_cache > c.sampling.max_new_tokens:
    refuse("algo.overlong_cache", "must not exceed sampling.max_new_tokens "
           f"({c.sampling.max_new_tokens})")


def prompts_per_round(c) -> int:
  """Prompts that are sampled at once."""
  dynamic = c.algo.dynamic_sampling
  if dynamic.enabled and dynamic.prompts_per_round:
    return dynamic.prompts_per_round
  return c.train.prompts_per_step


def needs_reference(c) -> bool:
  """Whether anything reads the reference policy."""
  return bool(c.algo.beta or c.algo.reward_kl_coef or c.algo.hold_reference)


def reset_options(c) -> dict[str, Any]:
  """When to reset, as `algos.reset.should_reset` takes it."""
  r = c.algo.reset
  return dict(
      modes=tuple(r.modes), period=r.period, at_steps=tuple(r.at_steps),
      patience=r.patience, min_delta=r.min_delta,
      kl_factor=r.kl_factor or None, kl_threshold=r.kl_threshold or None,
      kl_window=r.kl_window, share_threshold=r.share_threshold or None,
      share_window=r.share_window, min_gap=r.min_gap)


def lora_config(c) -> model_config.LoRA | None:
  """The adapters that the config asks for, or None.

  Raises:
    InputError: there are no such adapters.
  """
  if not c.model.lora.rank:
    return None
  try:
    return model_config.LoRA(
        rank=c.model.lora.rank, alpha=c.model.lora.alpha,
        targets=tuple(c.model.lora.targets))
  except ValueError as e:
    raise errors.InputError(f"config.model.lora: {e}") from e


def check_split(mesh, **counts: int) -> None:
  """Refuses row counts that the mesh cannot split evenly.

  Raises:
    InputError: naming the count.
  """
  shards = sharding.batch_shards(mesh)
  for name, count in counts.items():
    if count % shards:
      raise errors.InputError(
          f"{name} = {count} cannot be divided over the {shards} batch shards "
          f"of the mesh {dict(mesh.shape)}; make it a multiple of {shards}")


def micro_batches(c, mesh) -> tuple[int, int, int]:
  """How a batch is cut: (responses a row, scoring parts, minibatch parts).

  Raises:
    InputError: the cuts do not divide, or leave rows that the mesh cannot
      split.
  """
  group = c.algo.num_generations
  per_row = c.train.micro_batch_generations or group
  if group % per_row:
    raise errors.InputError(
        f"config.train.micro_batch_generations = {per_row} must divide "
        f"algo.num_generations ({group})")
  rows = c.train.prompts_per_step // c.train.num_minibatches * (
      group // per_row)
  micro = c.train.micro_batch_prompts or rows
  if rows % micro:
    raise errors.InputError(
        f"config.train.micro_batch_prompts = {micro} must divide the {rows} "
        "rows of a minibatch")
  check_split(mesh, **{
      "config.train.prompts_per_step": c.train.prompts_per_step,
      "config.algo.dynamic_sampling.prompts_per_round": prompts_per_round(c),
      "rows of a micro-batch (config.train.micro_batch_*)": micro,
      "config.sampling.batch_prompts": c.sampling.batch_prompts,
      "config.eval.batch_prompts": c.eval.batch_prompts})
  return per_row, rows // micro * c.train.num_minibatches, rows // micro
