"""From a config to the parts of a run; the one place that reads all its keys.

Below this floor no function sees a config: each gets the numbers, functions
and records that it needs.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors, ops
from progrpo_jax.algos import (
  advantages,
  aggregate,
  correction,
  kl,
  losses,
  objective,
)
from progrpo_jax.config import checks, isolation
from progrpo_jax.config import schedule as schedule_lib
from progrpo_jax.devices import sharding
from progrpo_jax.evaluators import creativity, held_out
from progrpo_jax.learn import optim
from progrpo_jax.learn import update as update_lib
from progrpo_jax.models import attention, lora, scoring
from progrpo_jax.models import config as model_config
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rewards import thinking
from progrpo_jax.rollout import data as data_lib
from progrpo_jax.rollout import sampler
from progrpo_jax.storage import policy as policy_lib
from progrpo_jax.tasks import base as tasks
from progrpo_jax.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class Parts:
  """What the stages of a run work with.

  Attributes:
    config: the resolved config.
    mesh: of all devices.
    model: the policy's configuration.
    frozen: its parameters that do not train: with LoRA, all but the adapters.
    tokenizer: the policy's.
    prompter: prompts by number of draw.
    rephraser: encodes RePO's questions.
    pool: worker processes that verify.
    sampling: settings of the rollout.
    dist: distribution of all log-probs.
    tx: the optax chain.
    learning_rate: state of the optimiser -> rate of its next update.
    update: from `update.make`.
    advantage: reward_PG, valid_PG -> adv_PG.
    kl: (logp, ref_logp) -> KL per token.
    correction: (logp_BT, sampled_logp_BT, mask_BT) -> weight_BT, or None.
    per_row: responses of a prompt in one row.
    score_parts: micro-batches of a scoring pass.
    evaluators: held-out problems, one for each task; none if eval.every is 0.
    key: from which all randomness is folded.
  """

  config: ml_collections.ConfigDict
  mesh: jax.sharding.Mesh
  model: model_config.ModelConfig
  frozen: dict
  tokenizer: tokenizer_lib.Tokenizer
  prompter: data_lib.Prompter
  rephraser: data_lib.Prompter
  pool: pool_lib.Pool
  sampling: sampler.Settings
  dist: scoring.Distribution
  tx: Any
  learning_rate: Callable[[Any], float]
  update: Any
  advantage: Any
  kl: Callable
  correction: Callable | None
  per_row: int
  score_parts: int
  evaluators: tuple[held_out.HeldOut, ...]
  key: jax.Array

  def policy(self, params) -> dict:
    """All parameters of a policy, given those that train."""
    return lora.join(params, self.frozen)


def resolve(module: types.ModuleType, name: str):
  """A function of a module by its name, or any by its import path.

  Raises:
    InputError: there is none of that name; the message lists the known ones.
  """
  if "." in name:
    home, _, last = name.rpartition(".")
    with errors.of_user(f"cannot import {name}"):
      function = getattr(importlib.import_module(home), last)
    if not callable(function):
      raise errors.InputError(f"{name} is no function")
    return function
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


def make_advantage(c):
  """reward_PG, valid_PG -> adv_PG.

  A function of the user's own may do without `valid_PG`: rewards of samples
  that the verifier failed on are then set to the mean of their group.
  """
  function = _with_options(
      resolve(advantages, c.algo.advantage), "advantage_options", c)
  if "valid_PG" in inspect.signature(function).parameters:
    return function

  def with_means(reward_PG, valid_PG):
    mean_P1 = ops.masked_mean(reward_PG, valid_PG, axis=1)[:, None]
    return jnp.where(
        valid_PG, function(jnp.where(valid_PG, reward_PG, mean_P1)), 0.0)

  return with_means


def _check_options(function, key: str, c) -> dict[str, Any]:
  """The options of `config.algo.<key>`, all of which the function knows.

  Raises:
    InputError: naming one that it does not.
  """
  options = c.algo[key].to_dict()
  for option in options:
    if option not in inspect.signature(function).parameters:
      name = getattr(function, "__name__", repr(function))
      raise errors.InputError(
          f"config.algo.{key}.{option}: {name!r} has no such argument")
  return options


def _with_options(function, key: str, c):
  """The function with the options of `config.algo.<key>` bound."""
  options = _check_options(function, key, c)
  return functools.partial(function, **options) if options else function


def make_loss(c):
  """LossInputs -> (loss_BT, metrics).

  Only these keys are of the loss: `beta` and others of the same name as an
  argument of some loss mean something else in a config. One that is 0 is left
  to the loss's own default.
  """
  loss = resolve(losses, c.algo.loss)
  bounds = {
      k: c.algo[k] for k in ("epsilon", "epsilon_high", "dual_clip")
      if c.algo[k]}
  bound = bind(loss, bounds, _check_options(loss, "loss_options", c))
  if "key" in inspect.signature(loss).parameters:
    return lambda inputs: bound(inputs, key=inputs.key)
  return bound


def sees_whole(c) -> bool:
  """Whether the loss must see a minibatch at once: it says so, or draws."""
  loss = resolve(losses, c.algo.loss)
  return getattr(loss, "whole", False) or (
      "key" in inspect.signature(loss).parameters)


def make_objective(c):
  """The function that an update descends.

  Raises:
    InputError: it lacks something that it reads.
  """
  average = resolve(aggregate, c.algo.aggregate)
  made = functools.partial(
      objective.objective, loss_fn=make_loss(c),
      aggregate_fn=bind(average, {"length": c.sampling.max_new_tokens}),
      kl_fn=resolve(kl, c.algo.kl), beta=c.algo.beta,
      entropy_coef=c.algo.entropy_coef)
  try:
    with _of_its_author(c.algo.loss):
      jax.eval_shape(made, _example(c))
  except errors.InputError:
    raise
  except (TypeError, ValueError, AssertionError) as e:
    raise errors.InputError(
        f"config.algo.loss = {c.algo.loss!r} cannot run with this config: "
        f"{e} (FlowRL needs algo.partition_head and algo.hold_reference)"
    ) from e
  return made


def _of_its_author(name: str):
  """Around a call of a function that a config names by its import path."""
  return errors.of_user(name) if "." in name else contextlib.nullcontext()


def _example(c) -> batch_lib.LossInputs:
  """What a loss of this config will read, in shape."""
  token, row = jnp.zeros((2, 3)), jnp.zeros(2)
  return batch_lib.LossInputs(
      logp_BT=token, old_logp_BT=token, mask_BT=jnp.ones((2, 3), bool),
      adv_B=row, entropy_BT=token, reward_B=row,
      ref_logp_BT=token if checks.needs_reference(c) else None,
      log_z_B=row if c.algo.partition_head else None,
      weight_BT=token if c.algo.correction else None, key=jax.random.key(0))


def make_correction(c):
  """Weights of trainer over sampler, or None."""
  if not c.algo.correction:
    return None
  return _with_options(
      resolve(correction, c.algo.correction), "correction_options", c)


def updates_per_step(c) -> int:
  """Updates of the optimiser in a step."""
  return c.train.num_minibatches * c.train.num_iterations


def make_schedule(c):
  """The learning rate by optimiser update.

  An update that is left out, as not finite, is not counted.
  """
  updates = c.train.total_steps * updates_per_step(c)
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
      max_grad_norm=o.max_grad_norm, mu_dtype=o.mu_dtype,
      rewarmup_steps=c.algo.reset.rewarmup_steps)


def make_prompter(c, tokenizer, split: str) -> data_lib.Prompter:
  """Prompts of a split of the config's tasks."""
  specs = [
      dict(name=spec.get("module") or name, label=name,
           weight=spec.get("weight", 1.0),
           options=dict(spec.get("options", {})))
      for name, spec in c.data.tasks.items()]
  keep = None
  if c.data.filter_overlong_prompts:
    keep = functools.partial(
        data_lib.fits, tokenizer, c.data.max_prompt_length)
  source = data_lib.PromptSource(
      specs, split, seed=c.seed, data_dir=os.path.expanduser(c.data.dir),
      keep=keep)
  return data_lib.Prompter(
      source, tokenizer, buckets=tuple(c.data.prompt_buckets),
      max_prompt_length=c.data.max_prompt_length)


def make_pool(c, opens_thought: bool = False) -> pool_lib.Pool:
  """The processes that verify; prompts may end inside of a thought."""
  r = c.rewards
  return pool_lib.Pool(
      workers=r.workers, deadline_s=r.deadline_s, memory_mb=r.memory_mb,
      max_failure_share=r.max_failure_share,
      batch_deadline_s=r.batch_deadline_s,
      options=isolation.options(c),
      answer=functools.partial(
          thinking.answer, mode=r.thinking, inside=opens_thought))


def make_evaluators(c, model, tokenizer, pool, mesh, key):
  """An evaluator for each task, on its validation split."""
  e = c.eval
  settings = sampler.Settings(
      num_generations=e.num_samples, max_new_tokens=c.sampling.max_new_tokens,
      temperature=e.temperature, top_p=e.top_p, top_k=e.top_k,
      stop_ids=tokenizer.stop_ids, chunk=c.sampling.chunk)
  checks.check_split(mesh, **{"config.eval.batch_prompts": e.batch_prompts})
  measures = held_out.MEASURES
  if e.creativity_corpus:
    measures = (*measures, creativity.measure(
        _corpus(e.creativity_corpus), *e.creativity_range))
  made = []
  for name, spec in c.data.tasks.items():
    one = c.copy_and_resolve_references()  # a plain copy shares its groups
    with one.unlocked():
      one.data.tasks = {name: spec}
    prompter = make_prompter(one, tokenizer, "validation")
    check_whole(one, tokenizer, prompter.source)
    made.append(held_out.HeldOut(
        name, model=model, mesh=mesh, tokenizer=tokenizer,
        prompts=prompter.first(e.num_problems, e.batch_prompts), pool=pool,
        settings=settings, chunk=c.model.logits_chunk,
        key=jax.random.fold_in(key, held_out.STREAM), measures=measures,
        tolerant=e.tolerant,
        left_out=sum(out for out, _ in prompter.left_out.values()),
        refused=prompter.source.refused))
  return tuple(made)


def check_whole(c, tokenizer, source: data_lib.PromptSource) -> None:
  """Refuses a published test set of which problems are left out.

  Raises:
    InputError: some of its prompts are too long, and the config does not say
      that it may be evaluated without them.
  """
  if c.eval.partial_sets:
    return
  for task, (out, of) in source.left_out.items():
    if not out or not tasks.has_published_test(task):
      continue
    longest = max(
        len(tokenizer.encode_prompt(row.prompt)[0])
        for row in source.rows_left_out() if row.task == task)
    raise errors.InputError(
        f"{task}: {out} of the {of} problems of this published test set have "
        f"prompts of more than data.max_prompt_length = "
        f"{c.data.max_prompt_length} tokens, and its numbers would be those "
        f"of other problems; raise that to {longest}, which the longest one "
        "has, or set config.eval.partial_sets=True to evaluate the others "
        "alone")


def held_out_notes(c, evaluators) -> list[str]:
  """Says of which held-out problems numbers are no numbers of their set."""
  notes = []
  for one in evaluators:
    tried, said = one.num_problems, []
    if one.left_out:
      said.append(
          f"{one.left_out} more left out, with prompts of more than "
          f"{c.data.max_prompt_length} tokens")
    if one.refused:
      reasons = ", ".join(f"{n}: {why}" for why, n in one.refused.items())
      said.append(f"rows of the held-out files are no problems ({reasons})")
    if tried < c.eval.num_problems:
      said.append(f"config.eval.num_problems is {c.eval.num_problems}")
    if said:
      notes.append(f"{one.name}: {tried} problems evaluated; {'; '.join(said)}")
  return notes


@functools.lru_cache(maxsize=2)
def _corpus(path: str) -> creativity.CorpusIndex:
  """An index of a text file, a document a line; kept, as it takes long.

  Raises:
    InputError: the file cannot be read.
  """
  try:
    text = pathlib.Path(path).expanduser().read_text(encoding="utf-8")
  except (OSError, ValueError) as e:
    raise errors.InputError(
        f"config.eval.creativity_corpus = {path!r}: {e}") from e
  return creativity.CorpusIndex(
      [creativity.words(line) for line in text.splitlines() if line.strip()])


def attention_of(model: model_config.ModelConfig, mesh) -> str:
  """A sentence on the kernel of attention that runs on a mesh.

  Raises:
    InputError: the one that the config names cannot.
  """
  try:
    return attention.choose(model, mesh.devices.flat[0].platform)[1]
  except ValueError as e:
    raise errors.InputError(f"config.model.attention: {e}") from e


def build(c: ml_collections.ConfigDict) -> tuple[Parts, Any]:
  """All parts of a run, and the trained parameters that it starts from.

  Raises:
    InputError: something in the config cannot work; see `checks.validate`.
  """
  mesh = sharding.make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
  for stage in schedule_lib.every(c):  # before the weights, and all of them
    checks.validate(stage)
    isolation.check(stage)
    checks.micro_batches(stage, mesh)
    for make in (make_schedule, make_objective, make_advantage,
                 make_correction):
      make(stage)
    if c.optim.decay != "constant" and (
        updates_per_step(stage) != updates_per_step(c)):
      raise errors.InputError(
          f"config.optim.decay = {c.optim.decay!r} counts updates, and a stage "
          "of config.schedule makes another number of them a step "
          "(train.num_minibatches, train.num_iterations): it would not end "
          "with the run; leave these alone, or decay 'constant'")
  policy = policy_lib.load(c, mesh)
  attention_of(policy.config, mesh)
  params, frozen = lora.split(policy.config, policy.params)
  pool = make_pool(c, policy.tokenizer.opens_thought)
  around = mesh, policy.config, frozen, policy.tokenizer, pool
  try:
    parts = assemble(c, *around)
    _check_later_stages(c, *around)
  except errors.InputError:
    pool.close()
    raise
  return parts, params


def _check_later_stages(c, *around) -> None:
  """Assembles each stage of `config.schedule` once, before the first step.

  A stage that differs in nothing which is read from files or held against
  the model is left out: to read data twice may take minutes.

  Raises:
    InputError: a stage could not begin; the message names its entry.
  """

  def read(stage):
    return [stage[key].to_json_best_effort() for key in (
        "data", "eval")] + [
        stage.sampling.max_new_tokens,
        stage.algo.rephrase.to_json_best_effort()]

  seen = [read(c)]
  for number, stage in enumerate(list(schedule_lib.every(c))[1:]):
    if read(stage) in seen:
      continue
    seen.append(read(stage))
    try:
      assemble(stage, *around)
    except errors.InputError as e:
      raise errors.InputError(f"config.schedule[{number}]: {e}") from e


def assemble(
    c: ml_collections.ConfigDict, mesh, model: model_config.ModelConfig,
    frozen: dict, tokenizer: tokenizer_lib.Tokenizer, pool: pool_lib.Pool,
) -> Parts:
  """The parts of a run around a model, a tokenizer and a pool that are there.

  Raises:
    InputError: something in the config cannot work with them.
  """
  per_row, score_parts, update_parts = checks.micro_batches(c, mesh)
  rate = make_schedule(c)
  tx = make_optimizer(c, rate)
  s = c.sampling
  widths = {"data.max_prompt_length": c.data.max_prompt_length}
  if c.algo.rephrase.enabled:
    widths["algo.rephrase.max_prompt_length"] = (
        c.algo.rephrase.max_prompt_length)
  for name, width in widths.items():
    longest = width + s.max_new_tokens
    if longest > model.max_positions:
      raise errors.InputError(
          f"{name} + sampling.max_new_tokens = {longest} is beyond the "
          f"{model.max_positions} positions of the model")
  prompter = make_prompter(c, tokenizer, "train")
  prompter.check()
  dist = scoring.Distribution(
      temperature=s.temperature, top_p=s.top_p, top_k=s.top_k,
      chunk=c.model.logits_chunk)
  key = jax.random.key(c.seed)
  return Parts(
      config=c, mesh=mesh, model=model, frozen=frozen, tokenizer=tokenizer,
      prompter=prompter,
      rephraser=prompter.resized(c.algo.rephrase.max_prompt_length),
      pool=pool,
      sampling=sampler.Settings(
          num_generations=c.algo.num_generations,
          max_new_tokens=s.max_new_tokens, temperature=s.temperature,
          top_p=s.top_p, top_k=s.top_k, stop_ids=tokenizer.stop_ids,
          chunk=s.chunk, batch_prompts=s.batch_prompts),
      dist=dist, tx=tx,
      learning_rate=lambda opt_state: float(
          rate(optim.counts(opt_state)[0])
          * optim.rewarmup(opt_state, c.algo.reset.rewarmup_steps)),
      update=update_lib.make(
          model, tx, make_objective(c), dist, micro_batches=update_parts,
          whole=sees_whole(c)),
      advantage=make_advantage(c), kl=resolve(kl, c.algo.kl),
      correction=make_correction(c), per_row=per_row,
      score_parts=score_parts,
      evaluators=make_evaluators(
          c, model, tokenizer, pool, mesh, key) if c.eval.every else (),
      key=key)
