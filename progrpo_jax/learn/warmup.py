"""Supervised warm-up: a base policy from the demonstrations of tasks.

Every demonstration of a problem is drawn with the same probability, so that
the policy knows many ways of being right before reinforcement learning begins
to choose among them. Within an update every token weighs the same.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors, ops, packing
from progrpo_jax.devices import sharding
from progrpo_jax.learn import optim
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import scoring
from progrpo_jax.tasks import base

# Updates in one call of the device.
_BLOCK = 25


def demonstrations(
  tasks: Mapping[str, Mapping[str, Any]], data_dir: str, examples: int
) -> list[tuple[base.Row, str]]:
  """Returns (row, completion) pairs of the training splits.

  Args:
    tasks: label of a task -> its "module" and "options".
    data_dir: directory of built data.
    examples: problems of each task, at the most.

  Raises:
    InputError: there is no task, or one has no demonstrations.
  """
  if not tasks:
    raise errors.InputError(
      "config.data.tasks = {}: name at least one task; see `progrpo tasks list`"
    )
  pairs = []
  for name, spec in tasks.items():
    source = base.load(
      spec.get("module") or name,
      "train",
      seed=0,
      data_dir=data_dir,
      **dict(spec.get("options", {})),
    )
    # Of more rows, some from all over: a file may be sorted.
    some = range(len(source))
    if len(source) > examples:
      order = np.random.default_rng(0).permutation(len(source))
      some = np.sort(order[:examples]).tolist()
    rows = [source[i] for i in some]
    shown = [(r, d) for r in rows for d in r.demonstrations]
    if not shown:
      raise errors.InputError(
        f"task {name!r} has no demonstrations to warm up on; of a file, rows"
        " with the columns prompt and completion, or messages, are some"
      )
    pairs += shown
  return pairs


def encode(
  pairs: Sequence[tuple[base.Row, str]],
  tokenizer,
  max_prompt: int,
  max_new: int,
  say: Callable[[str], None] = lambda _: None,
) -> batch_lib.Sequences:
  """Encodes pairs as rows of one response each.

  Args:
    pairs: rows with a completion each.
    tokenizer: tokenizer of the policy.
    max_prompt: tokens of a prompt at the most; longer pairs are left out.
    max_new: tokens of a completion at the most, its stop token included.
    say: told how many pairs are left out, if any.

  Raises:
    InputError: no pair is short enough.
  """
  stop = tokenizer.stop_ids[0]
  encoded = [
    (
      tokenizer.encode_prompt(row.prompt, row.context)[0],
      [*tokenizer.encode(d), stop],
    )
    for row, d in pairs
  ]
  kept = [
    (p, d) for p, d in encoded if len(p) <= max_prompt and len(d) <= max_new
  ]
  if not kept:
    raise errors.InputError(
      f"every one of {len(pairs)} demonstrations is longer than "
      f"data.max_prompt_length {max_prompt} or sampling.max_new_tokens "
      f"{max_new}"
    )
  if len(kept) < len(pairs):
    say(
      f"{len(pairs) - len(kept)} of {len(pairs)} demonstrations are left out: "
      f"their prompts have more than data.max_prompt_length = {max_prompt} "
      "tokens, or they and their stop token more than "
      f"sampling.max_new_tokens = {max_new}"
    )
  prompt_width = max(len(p) for p, _ in kept)
  width = max(len(d) for _, d in kept)
  prompt = np.zeros((len(kept), prompt_width), np.int32)
  tokens = np.zeros((len(kept), 1, width), np.int32)
  prompt_mask, mask = np.zeros(prompt.shape, bool), np.zeros(tokens.shape, bool)
  for i, (p, d) in enumerate(kept):
    prompt[i, prompt_width - len(p) :], prompt_mask[i, -len(p) :] = p, True
    tokens[i, 0, : len(d)], mask[i, 0, : len(d)] = d, True
  return batch_lib.Sequences(
    prompt_NT=prompt,
    prompt_mask_NT=prompt_mask,
    tokens_NRT=tokens,
    mask_NRT=mask,
  )


@functools.partial(
  jax.jit,
  static_argnames=("config", "tx", "dist", "size", "count"),
  donate_argnums=0,
)
def _learn(state, rows, key, first, *, config, tx, dist, size, count):
  """Makes `count` updates on random batches of `size` rows of one micro-batch.

  Returns (state, losses); the loss of a skipped update is NaN.
  """

  def loss_fn(params, batch):
    logp, _, _ = scoring.row_stats(config, params, batch, dist)
    return -ops.masked_mean(logp, batch.source_AEW >= 0)

  def one(state, step):
    params, opt_state = state
    index = jax.random.randint(
      jax.random.fold_in(key, step), (size,), 0, len(rows.tokens_AEW)
    )
    batch = jax.tree.map(
      lambda x: sharding.constrain_rows(x[index]) if x.ndim else x, rows
    )
    loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
    params, opt_state, finite = optim.apply_if_finite(
      tx, loss, gradient, opt_state, params
    )
    return (params, opt_state), jnp.where(finite, loss, jnp.nan)

  return lax.scan(one, state, first + jnp.arange(count))


def fit(
  config: model_config.ModelConfig,
  params,
  rows: batch_lib.Sequences,
  mesh,
  key,
  *,
  steps: int,
  batch_size: int,
  learning_rate: float,
  chunk: int,
  tick: Callable[[int, str], None],
) -> dict:
  """Trains on rows of demonstrations; returns the parameters.

  Args:
    config: configuration of the model.
    params: parameters at the start; they are donated.
    rows: demonstrations, see `encode`.
    mesh: mesh of all devices.
    key: PRNG key of the batches.
    steps: updates; the rate rises over a tenth of them (100 at the most) and
      falls to 0 by a cosine.
    batch_size: rows of an update.
    learning_rate: peak of the rate.
    chunk: tokens whose logits may exist at one time.
    tick: called as tick(updates, note) while training goes on.

  Raises:
    Diverged: a loss, a gradient or the weights were not finite at the end.
  """
  tx = optim.adamw(
    optim.schedule(
      learning_rate,
      warmup_steps=min(100, steps // 10),
      decay="cosine",
      total_steps=steps,
    )
  )
  where = state_lib.shardings(config, tx, mesh)
  state = params, state_lib.fresh_optimizer(tx, params, where.opt_state)
  dist = scoring.Distribution(chunk=chunk)
  # A demonstration a row: an update draws rows at random.
  packed = packing.pack(
    rows, packing.Layout(rows=len(rows.prompt_NT)), max_bundles=1
  )
  rows = jax.tree.map(lambda x: x[0] if x.ndim else x, packed.rows)
  rows = jax.device_put(rows, sharding.replicated(mesh))
  done = 0
  with jax.set_mesh(mesh):
    while done < steps:
      count = min(_BLOCK, steps - done)
      state, losses = _learn(
        state,
        rows,
        key,
        done,
        config=config,
        tx=tx,
        dist=dist,
        size=batch_size,
        count=count,
      )
      done += count
      tick(count, f"loss {float(losses[-1]):.3f}")
  if not np.isfinite(float(losses[-1])):
    raise errors.Diverged(
      "the warm-up diverged: a loss, a gradient, or the weights that it "
      "would have led to, were not finite; lower "
      f"config.warmup.learning_rate ({learning_rate:g})"
    )
  return state[0]
