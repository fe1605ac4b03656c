"""Supervised warm-up: a base policy from the demonstrations of tasks.

The policy learns every demonstration of a problem with equal weight, so that
it knows many ways of being right before reinforcement learning begins to
choose among them.
"""

import functools
import os

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors, ops
from progrpo_jax.devices import sharding
from progrpo_jax.learn import optim
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import hf, scoring, transformer
from progrpo_jax.storage import policy as policy_lib
from progrpo_jax.tasks import base
from progrpo_jax.text import tokenizer as tokenizer_lib

# Updates in one call of the device.
_BLOCK = 25


def demonstrations(c) -> list[tuple[str, str]]:
  """(prompt, completion) pairs of the training splits, evenly over tasks.

  Raises:
    InputError: a task demonstrates nothing.
  """
  tasks = dict(c.data.tasks)
  if not tasks:
    raise errors.InputError(
        "config.data.tasks = {}: name at least one task; see `progrpo tasks "
        "list`")
  pairs = []
  for name, spec in tasks.items():
    source = base.load(
        spec.get("module") or name, "train", seed=0,
        data_dir=os.path.expanduser(c.data.dir),
        **dict(spec.get("options", {})))
    rows = [
        source[i] for i in range(min(len(source), c.warmup.examples))]
    found = [(r.prompt, d) for r in rows for d in r.demonstrations]
    if not found:
      raise errors.InputError(
          f"task {name!r} has no demonstrations to warm up on")
    pairs += found
  return pairs


def encode(
    pairs, tokenizer, max_prompt: int, max_new: int,
) -> batch_lib.Sequences:
  """Pairs as rows of one response each; those too long are left out.

  Raises:
    InputError: none is short enough.
  """
  stop = tokenizer.stop_ids[0]
  encoded = [
      (tokenizer.encode_prompt(p)[0], [*tokenizer.encode(d), stop])
      for p, d in pairs]
  kept = [
      (p, d) for p, d in encoded if len(p) <= max_prompt and len(d) <= max_new]
  if not kept:
    raise errors.InputError(
        f"every one of {len(pairs)} demonstrations is longer than "
        f"data.max_prompt_length {max_prompt} or sampling.max_new_tokens "
        f"{max_new}")
  prompt_width = max(len(p) for p, _ in kept)
  width = max(len(d) for _, d in kept)
  prompt = np.zeros((len(kept), prompt_width), np.int32)
  tokens = np.zeros((len(kept), 1, width), np.int32)
  prompt_mask, mask = np.zeros(prompt.shape, bool), np.zeros(tokens.shape, bool)
  for i, (p, d) in enumerate(kept):
    prompt[i, prompt_width - len(p):], prompt_mask[i, -len(p):] = p, True
    tokens[i, 0, :len(d)], mask[i, 0, :len(d)] = d, True
  return batch_lib.Sequences(
      prompt_NT=prompt, prompt_mask_NT=prompt_mask, tokens_NRT=tokens,
      mask_NRT=mask)


def _start(c, pairs, mesh, key) -> policy_lib.Policy:
  """The policy that `model.init_from` names, or a small random one."""
  if c.model.init_from:
    return policy_lib.load(c, mesh)
  tokenizer = tokenizer_lib.SentencePieceTokenizer.train(
      [p + d for p, d in pairs])
  config = _small(c, tokenizer.vocab_size)
  return policy_lib.Policy(
      config, transformer.init(config, key, mesh), tokenizer)


def _small(c, vocab_size: int) -> model_config.ModelConfig:
  """The small policy that `c.warmup` sizes.

  Raises:
    InputError: there is no such policy.
  """
  w = c.warmup
  if w.embed_dim % w.num_heads:
    raise errors.InputError(
        f"config.warmup.num_heads = {w.num_heads}: must divide "
        f"warmup.embed_dim ({w.embed_dim})")
  try:
    return model_config.ModelConfig.tiny(
        vocab_size=vocab_size, embed_dim=w.embed_dim,
        num_layers=w.num_layers, num_heads=w.num_heads,
        num_kv_heads=w.num_kv_heads, head_dim=w.embed_dim // w.num_heads,
        mlp_dim=w.mlp_dim, dtype=c.model.dtype, remat=c.model.remat)
  except ValueError as e:
    raise errors.InputError(f"config.warmup: {e}") from e


@functools.partial(
    jax.jit, static_argnames=("config", "tx", "dist", "size", "count"),
    donate_argnums=0)
def _learn(state, rows, key, first, *, config, tx, dist, size, count):
  """`count` updates on random batches of `size`; the losses come back.

  That of an update which was left out, as not finite, is NaN.
  """

  def loss_fn(params, batch):
    logp, _, _ = scoring.response_scores(config, params, batch, dist)
    return -ops.masked_mean(logp, batch.mask_NRT)

  def one(state, step):
    params, opt_state = state
    index = jax.random.randint(
        jax.random.fold_in(key, step), (size,), 0, len(rows.prompt_NT))
    batch = jax.tree.map(lambda x: sharding.constrain_rows(x[index]), rows)
    loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
    params, opt_state, finite = optim.apply_if_finite(
        tx, loss, gradient, opt_state, params)
    return (params, opt_state), jnp.where(finite, loss, jnp.nan)

  return lax.scan(one, state, first + jnp.arange(count))


def warm_up(c, output: str, tick) -> policy_lib.Policy:
  """Trains a base policy and writes it as an HF directory.

  Args:
    c: the resolved config; `c.warmup` sizes model and training, `c.data` and
      `c.sampling.max_new_tokens` the task.
    output: directory to write.
    tick: called as tick(updates, note) while training goes on.

  Returns:
    The policy.

  Raises:
    InputError: no demonstrations, or nothing to start from.
  """
  w = c.warmup
  if not c.model.init_from:
    _small(c, vocab_size=1)  # before the time that demonstrations take
  mesh = sharding.make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor)
  key = jax.random.key(c.seed)
  pairs = demonstrations(c)
  policy = _start(c, pairs, mesh, jax.random.fold_in(key, 0))
  rows = encode(
      pairs, policy.tokenizer, c.data.max_prompt_length,
      c.sampling.max_new_tokens)
  tx = optim.adamw(optim.schedule(
      w.learning_rate, warmup_steps=min(100, w.steps // 10), decay="cosine",
      total_steps=w.steps))
  where = state_lib.shardings(policy.config, tx, mesh)
  state = (
      policy.params,
      state_lib.fresh_optimizer(tx, policy.params, where.opt_state))
  dist = scoring.Distribution(chunk=c.model.logits_chunk)
  rows = jax.device_put(rows, sharding.replicated(mesh))
  done = 0
  with jax.set_mesh(mesh):
    while done < w.steps:
      count = min(_BLOCK, w.steps - done)
      state, losses = _learn(
          state, rows, jax.random.fold_in(key, 1), done,
          config=policy.config, tx=tx, dist=dist, size=w.batch_size,
          count=count)
      done += count
      tick(count, f"loss {float(losses[-1]):.3f}")
  if not np.isfinite(float(losses[-1])):
    raise errors.InputError(
        "the warm-up diverged: a loss, a gradient, or the weights that it "
        "would have led to, were not finite; lower "
        f"config.warmup.learning_rate ({w.learning_rate:g})")
  hf.save(output, policy.config, state[0], policy.tokenizer)
  return policy_lib.Policy(policy.config, state[0], policy.tokenizer)
