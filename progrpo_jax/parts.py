"""From a config to the parts of a run; the one place that reads all its keys.

Below this floor no function sees a config: each gets the numbers, functions
and records that it needs.
"""

from collections.abc import Callable
import dataclasses
import difflib
import functools
import importlib
import inspect
import json
import os
import types
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import ml_collections

from progrpo_jax import checkpoint as checkpoint_lib
from progrpo_jax import data as data_lib
from progrpo_jax import errors, ops, optim, sampler, scoring, sharding, update
from progrpo_jax import tokenizer as tokenizer_lib
from progrpo_jax.algos import (
    advantages,
    aggregate,
    arm,
    kl,
    losses,
    objective,
    reset,
)
from progrpo_jax.evaluators import held_out
from progrpo_jax.models import config as model_config
from progrpo_jax.models import hf, transformer
from progrpo_jax.rewards import pool as pool_lib

MODEL_DIR = "model"
CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Policy:
  """A policy and the tokenizer that it was trained with."""

  config: model_config.ModelConfig
  params: Any
  tokenizer: tokenizer_lib.Tokenizer


@dataclasses.dataclass(frozen=True)
class Parts:
  """What the stages of a run work with.

  Attributes:
    config: the resolved config.
    mesh: of all devices.
    model: the policy's configuration.
    tokenizer: the policy's.
    prompter: prompts by number of draw.
    pool: worker processes that verify.
    sampling: settings of the rollout.
    dist: distribution of all log-probs.
    tx: the optax chain.
    learning_rate: step -> learning rate.
    update: from `update.make`.
    advantage: reward_PG, valid_PG -> adv_PG.
    per_row: responses of a prompt in one row.
    score_parts: micro-batches of a scoring pass.
    evaluators: held-out problems, one for each task.
    key: from which all randomness is folded.
  """

  config: ml_collections.ConfigDict
  mesh: jax.sharding.Mesh
  model: model_config.ModelConfig
  tokenizer: tokenizer_lib.Tokenizer
  prompter: data_lib.Prompter
  pool: pool_lib.Pool
  sampling: sampler.Settings
  dist: scoring.Distribution
  tx: Any
  learning_rate: Callable[[int], float]
  update: Any
  advantage: Any
  per_row: int
  score_parts: int
  evaluators: tuple[held_out.HeldOut, ...]
  key: jax.Array


def resolve(module: types.ModuleType, name: str):
  """A function of a module by its name, or any by its import path.

  Raises:
    InputError: there is none of that name; the message lists the known ones.
  """
  if "." in name:
    home, _, name = name.rpartition(".")
    try:
      return getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError) as e:
      raise errors.InputError(f"cannot import {home}.{name}: {e}") from e
  known = sorted(
      n for n, f in vars(module).items()
      if inspect.isfunction(f) and f.__module__ == module.__name__
      and not n.startswith("_"))
  if name in known:
    return getattr(module, name)
  close = difflib.get_close_matches(name, known, n=1)
  hint = f"did you mean {close[0]!r}? " if close else ""
  raise errors.InputError(
      f"no {name!r} in {module.__name__}; {hint}known: {', '.join(known)} "
      "(or give an import path)")


def bind(function, *sources):
  """Binds the keyword arguments of a function that the sources name."""
  names = inspect.signature(function).parameters
  options = {}
  for source in sources:
    options |= {k: v for k, v in dict(source).items() if k in names}
  return functools.partial(function, **options)


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
  for key in ("rewards.deadline_s", "rewards.batch_deadline_s"):
    if functools.reduce(getattr, key.split("."), c) <= 0:
      refuse(key, "must be above 0")
  if c.sampling.temperature <= 0:
    refuse("sampling.temperature", "must be above 0: greedy samples of a "
           "group are all alike")
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
      ("model.dtype", ("float32", "bfloat16")),
      ("model.remat", ("none", "layer"))):
    if functools.reduce(getattr, key.split("."), c) not in known:
      refuse(key, f"must be {' or '.join(map(repr, known))}")
  try:
    reset.should_reset(0, last_reset=0, **reset_options(c))
  except ValueError as e:
    raise errors.InputError(f"config.algo.reset: {e}") from e
  if c.algo.overlong_cache > c.sampling.max_new_tokens:
    refuse("algo.overlong_cache", "must not exceed sampling.max_new_tokens "
           f"({c.sampling.max_new_tokens})")


def prompts_per_round(c) -> int:
  """Prompts that are sampled at once."""
  dynamic = c.algo.dynamic_sampling
  if dynamic.enabled and dynamic.prompts_per_round:
    return dynamic.prompts_per_round
  return c.train.prompts_per_step


def reset_options(c) -> dict[str, Any]:
  """When to reset, as `algos.reset.should_reset` takes it."""
  r = c.algo.reset
  return dict(
      modes=tuple(r.modes), period=r.period, at_steps=tuple(r.at_steps),
      patience=r.patience, min_delta=r.min_delta,
      kl_factor=r.kl_factor or None, kl_threshold=r.kl_threshold or None,
      kl_window=r.kl_window, min_gap=r.min_gap)


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
      "config.eval.batch_prompts": c.eval.batch_prompts})
  return per_row, rows // micro * c.train.num_minibatches, rows // micro


def read_model(path: str, **changes) -> model_config.ModelConfig:
  """A model's `config.json`.

  Raises:
    InputError: it cannot be read, or is of a model that is not supported.
  """
  try:
    described = json.loads(epath.Path(path).read_text())
    if not isinstance(described, dict):
      raise ValueError("not a JSON object")
    return model_config.ModelConfig.from_hf(described, **changes)
  except (OSError, ValueError) as e:
    raise errors.InputError(f"{path}: {e}") from e


def find_run(path: str) -> tuple[epath.Path, int | None]:
  """(workdir, step or None) that a workdir or a checkpoint's path names.

  Raises:
    InputError: it is neither.
  """
  place = epath.Path(path)
  if not place.exists():
    raise errors.InputError(
        f"config.model.init_from = {path!r}: no such directory")
  workdir, step = place, None
  if place.name.isdigit() and place.parent.name == CHECKPOINTS:
    workdir, step = place.parent.parent, int(place.name)
  if not (workdir / MODEL_DIR / "config.json").exists():
    raise errors.InputError(
        f"config.model.init_from = {path!r} is neither an HF directory "
        "(config.json and safetensors) nor the workdir of a run (model/ and "
        "checkpoints/) nor one of its checkpoints")
  return workdir, step


def load_policy(c, mesh) -> Policy:
  """The policy that `config.model.init_from` names, float32 masters.

  Raises:
    InputError: nothing there, or it cannot be read.
  """
  path = os.path.expanduser(c.model.init_from)
  changes = dict(dtype=c.model.dtype, remat=c.model.remat)
  options = dict(
      chat_template=c.model.chat_template,
      system_prompt=c.model.system_prompt or None)
  if hf.is_hf_dir(path):
    config, params = hf.load(path, dtype=jnp.float32, mesh=mesh)
    return Policy(
        dataclasses.replace(config, **changes), params,
        tokenizer_lib.load(path, **options))
  workdir, step = find_run(path)
  config = read_model(workdir / MODEL_DIR / "config.json", **changes)
  checkpointer = checkpoint_lib.Checkpointer(
      workdir / CHECKPOINTS, read_only=True)
  step = checkpointer.latest() if step is None else step
  if step is None:
    raise errors.InputError(f"{workdir} holds no checkpoint yet")
  like = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      transformer.abstract_params(config),
      transformer.shardings(config, mesh))
  params = checkpointer.load_params(step, like)
  checkpointer.close()
  return Policy(
      config, params, tokenizer_lib.load(workdir / MODEL_DIR, **options))


def make_advantage(c):
  """reward_PG, valid_PG -> adv_PG.

  A function of the user's own may do without `valid_PG`: rewards of samples
  that the verifier failed on are then set to the mean of their group.
  """
  function = resolve(advantages, c.algo.advantage)
  if "valid_PG" in inspect.signature(function).parameters:
    return function

  def with_means(reward_PG, valid_PG):
    mean_P1 = ops.masked_mean(reward_PG, valid_PG, axis=1)[:, None]
    return jnp.where(
        valid_PG, function(jnp.where(valid_PG, reward_PG, mean_P1)), 0.0)

  return with_means


def make_objective(c):
  """The function that an update descends."""
  loss = resolve(losses, c.algo.loss)
  own = dict(c.algo) | {"dual_clip": c.algo.dual_clip or None}
  for option in c.algo.loss_options:
    if option not in inspect.signature(loss).parameters:
      raise errors.InputError(
          f"config.algo.loss_options.{option}: the loss {c.algo.loss!r} has "
          "no such argument")
  average = resolve(aggregate, c.algo.aggregate)
  return functools.partial(
      objective.objective,
      loss_fn=bind(loss, own, c.algo.loss_options),
      aggregate_fn=bind(average, {"length": c.sampling.max_new_tokens}),
      kl_fn=kl_of(c), beta=c.algo.beta,
      entropy_coef=c.algo.entropy_coef)


def kl_of(c):
  """The KL estimator of a config."""
  return resolve(kl, c.algo.kl)


def make_schedule(c):
  """The learning rate by optimiser update."""
  updates = (
      c.train.total_steps * c.train.num_minibatches * c.train.num_iterations)
  o = c.optim
  try:
    return optim.schedule(
        o.learning_rate, warmup_steps=o.warmup_steps, decay=o.decay,
        total_steps=updates)
  except ValueError as e:
    raise errors.InputError(f"config.optim: {e}") from e


def make_optimizer(c, rate):
  """The optax chain of a config."""
  o = c.optim
  return optim.adamw(
      rate, b1=o.b1, b2=o.b2, eps=o.eps, weight_decay=o.weight_decay,
      max_grad_norm=o.max_grad_norm)


def make_prompter(c, tokenizer, split: str) -> data_lib.Prompter:
  """Prompts of a split of the config's tasks."""
  specs = [
      dict(name=spec.get("module") or name, weight=spec.get("weight", 1.0),
           options=dict(spec.get("options", {})))
      for name, spec in c.data.tasks.items()]
  source = data_lib.PromptSource(
      specs, split, seed=c.seed, data_dir=os.path.expanduser(c.data.dir))
  return data_lib.Prompter(
      source, tokenizer, buckets=tuple(c.data.prompt_buckets),
      max_prompt_length=c.data.max_prompt_length)


def make_pool(c) -> pool_lib.Pool:
  """The processes that verify."""
  r = c.rewards
  return pool_lib.Pool(
      workers=r.workers, deadline_s=r.deadline_s, memory_mb=r.memory_mb,
      max_failure_share=r.max_failure_share,
      batch_deadline_s=r.batch_deadline_s)


def make_evaluators(c, model, tokenizer, pool, mesh, key):
  """An evaluator for each task, on its validation split."""
  e = c.eval
  settings = sampler.Settings(
      num_generations=e.num_samples, max_new_tokens=c.sampling.max_new_tokens,
      temperature=e.temperature, top_p=e.top_p, top_k=e.top_k,
      stop_ids=tokenizer.stop_ids, chunk=c.sampling.chunk)
  check_split(mesh, **{"config.eval.batch_prompts": e.batch_prompts})
  made = []
  for name, spec in c.data.tasks.items():
    one = ml_collections.ConfigDict(c)
    with one.unlocked():
      one.data.tasks = {name: spec}
    prompter = make_prompter(one, tokenizer, "validation")
    made.append(held_out.HeldOut(
        name, model=model, mesh=mesh, tokenizer=tokenizer,
        prompts=prompter.first(e.num_problems, e.batch_prompts), pool=pool,
        settings=settings, chunk=c.model.logits_chunk,
        key=jax.random.fold_in(key, held_out.STREAM)))
  return tuple(made)


def build(c: ml_collections.ConfigDict) -> tuple[Parts, Any]:
  """All parts of a run, and the parameters that it starts from.

  Raises:
    InputError: something in the config cannot work; see `validate`.
  """
  validate(c)
  mesh = sharding.make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
  per_row, score_parts, update_parts = micro_batches(c, mesh)
  rate, goal = make_schedule(c), make_objective(c)
  tx = make_optimizer(c, rate)
  advantage = make_advantage(c)
  policy = load_policy(c, mesh)
  tokenizer = policy.tokenizer
  s = c.sampling
  longest = c.data.max_prompt_length + s.max_new_tokens
  if longest > policy.config.max_positions:
    raise errors.InputError(
        f"data.max_prompt_length + sampling.max_new_tokens = {longest} is "
        f"beyond the {policy.config.max_positions} positions of the model")
  prompter = make_prompter(c, tokenizer, "train")
  prompter.check()
  dist = scoring.Distribution(
      temperature=s.temperature, top_p=s.top_p, top_k=s.top_k,
      chunk=c.model.logits_chunk)
  pool = make_pool(c)
  key = jax.random.key(c.seed)
  parts = Parts(
      config=c, mesh=mesh, model=policy.config, tokenizer=tokenizer,
      prompter=prompter, pool=pool,
      sampling=sampler.Settings(
          num_generations=c.algo.num_generations,
          max_new_tokens=s.max_new_tokens, temperature=s.temperature,
          top_p=s.top_p, top_k=s.top_k, stop_ids=tokenizer.stop_ids,
          chunk=s.chunk),
      dist=dist, tx=tx,
      learning_rate=lambda step: float(rate(
          step * c.train.num_minibatches * c.train.num_iterations)),
      update=update.make(
          policy.config, tx, goal, dist,
          minibatches=c.train.num_minibatches, micro_batches=update_parts),
      advantage=advantage, per_row=per_row, score_parts=score_parts,
      evaluators=make_evaluators(
          c, policy.config, tokenizer, pool, mesh, key),
      key=key)
  return parts, policy.params
