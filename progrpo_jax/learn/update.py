"""One jitted, donated optimiser update from a minibatch.

A minibatch is chosen by prompts, on the host, where the whole batch is, and
packed into rows there; rows and micro-batches are a matter of memory and speed
and change nothing else, for no loss. An update in which anything is not finite,
its result included, or whose minibatch holds no token to learn from, leaves
parameters and optimiser as they were and is counted.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from progrpo_jax import batch as batch_lib
from progrpo_jax import ops, packing
from progrpo_jax.devices import sharding
from progrpo_jax.learn import optim
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import lora, scoring, transformer


def choose_minibatches(key, prompts: int, count: int) -> np.ndarray:
  """Deals the prompts of a batch out to minibatches.

  Args:
    key: PRNG key of a pass over the batch, which decides the permutation.
    prompts: number of prompts of the batch.
    count: number of minibatches; divides the prompts.

  Returns:
    int [count, prompts / count]: numbers of the prompts of each minibatch.
  """
  return np.asarray(jax.random.permutation(key, prompts)).reshape(count, -1)


def take_prompts(
  batch: batch_lib.TrainBatch, prompts_X, prompts: int
) -> batch_lib.TrainBatch:
  """Returns the rows of some prompts of a batch: whole groups, in order.

  Args:
    batch: host arrays, prompt-major.
    prompts_X: numbers of the prompts.
    prompts: number of prompts of the batch.
  """
  return jax.tree.map(
    lambda x: x.reshape(prompts, -1, *x.shape[1:])[prompts_X].reshape(
      -1, *x.shape[1:]
    ),
    batch,
  )


def pack(
  batch: batch_lib.TrainBatch, layout: packing.Layout
) -> batch_lib.PackedBatch:
  """Packs a minibatch into rows, and sends them to the mesh in context.

  Responses without a token that the loss counts are left out.

  Args:
    batch: N bundles of R responses, host arrays.
    layout: sizes of the rows; its shards are those of the mesh.
  """
  layout = dataclasses.replace(layout, shards=sharding.shards_in_context())
  packed = packing.pack(batch.sequences, layout)
  id_NR = None
  if batch.id_N is not None:
    id_NR = np.broadcast_to(
      np.asarray(batch.id_N)[:, None], packed.slot_NR.shape
    )
  return scoring.put(
    batch_lib.PackedBatch(
      rows=packed.rows,
      old_logp_AEW=packed.to_rows(batch.old_logp_NRT),
      ref_logp_AEW=packed.to_rows(batch.ref_logp_NRT),
      adv_AEZ=packed.to_slots(batch.adv_NR),
      fresh_AEZ=packed.to_slots(batch.fresh_NR),
      base_advantage_AEZ=packed.to_slots(batch.base_advantage_NR),
      weight_AEW=packed.to_rows(batch.weight_NRT),
      id_AEZ=packed.to_slots(id_NR),
      adv_AEW=packed.to_rows(batch.adv_NRT),
      slot_B=packed.slot_NR.reshape(-1).astype(np.int32),
    )
  )


def _read(
  config, params, batch: batch_lib.PackedBatch, dist, first, key, scored
):
  """Runs the policy on a micro-batch: the part of `LossInputs` it decides.

  Returns:
    dict of logp_BT, old_logp_BT, entropy_BT and log_z_B (None without a
    partition head), whose B are the E * Z slots.
  """
  rows = batch.rows
  logp, entropy, hidden = scoring.row_stats(config, params, rows, dist)
  logp, entropy = (scoring.by_sequence(rows, x) for x in (logp, entropy))
  log_z_B = None
  if config.partition_head:
    # Dropout by the number of the prompt's draw: the responses of one prompt
    # drop alike, in whatever row they are.
    keys_B = jax.vmap(functools.partial(jax.random.fold_in, key))(
      batch.id_AEZ.reshape(-1)
    )
    log_z_B = transformer.log_z(
      config, params, scoring.prompt_means(rows, hidden), keys_B
    )
  same = first & batch.fresh_AEZ.reshape(-1, 1)
  old = scoring.by_sequence(rows, batch.old_logp_AEW)
  if scored:
    # With the same parameters the two passes may still differ in the last bit,
    # because XLA fuses a pass with gradients differently. The value is then the
    # scorer's, the gradient this pass's: the ratio is exactly 1, and KL is
    # exactly 0 right after the reference was reset.
    logp = jnp.where(same, old + (logp - lax.stop_gradient(logp)), logp)
  else:
    old = jnp.where(same, lax.stop_gradient(logp), old)
  return dict(
    logp_BT=logp, old_logp_BT=old, entropy_BT=entropy, log_z_B=log_z_B
  )


def _lay_out(batch: batch_lib.PackedBatch, read, key) -> batch_lib.LossInputs:
  """Puts the result of `_read` beside the data that losses read."""
  rows = batch.rows
  adv_BT = scoring.by_sequence(rows, batch.adv_AEW)
  return batch_lib.LossInputs(
    **read,
    ref_logp_BT=scoring.by_sequence(rows, batch.ref_logp_AEW),
    adv_B=batch.adv_AEZ.reshape(-1) if adv_BT is None else None,
    adv_BT=adv_BT,
    mask_BT=scoring.sequence_mask(rows),
    reward_B=(
      None
      if batch.base_advantage_AEZ is None
      else batch.base_advantage_AEZ.reshape(-1)
    ),
    weight_BT=scoring.by_sequence(rows, batch.weight_AEW),
    key=key,
    sequences=batch.slot_B.shape[-1] / jnp.maximum(rows.used, 1),
  )


def loss_inputs(
  config, params, batch: batch_lib.PackedBatch, dist, first, key, scored=True
) -> batch_lib.LossInputs:
  """Runs the policy on a whole minibatch and lays out what losses read.

  Args:
    config: configuration of the model.
    params: all parameters.
    batch: the minibatch.
    dist: distribution of the log-probs.
    first: bool scalar, True while `params` are the parameters that sampled.
    key: PRNG key for losses that draw, and for dropout.
    scored: whether `old_logp_AEW` was scored, as for `make`.

  Returns:
    The inputs of the sequences, in the order in which they came to `pack`.
  """
  dropout, draw = jax.random.split(key)
  values = _over_rows(
    lambda micro: _read(config, params, micro, dist, first, dropout, scored),
    batch,
  )
  return _in_order(batch, _as_one(batch), _joined(values), draw)


def minibatch_gradient(
  config,
  params,
  frozen,
  batch: batch_lib.PackedBatch,
  dist,
  objective,
  first,
  key,
  whole: bool = False,
  scored: bool = True,
) -> tuple[jax.Array, Any, dict[str, tuple[jax.Array, jax.Array]]]:
  """Loss, gradient and metrics of a minibatch, micro-batch by micro-batch.

  Args:
    config: configuration of the model.
    params: trainable parameters (differentiated).
    frozen: frozen parameters.
    batch: the minibatch.
    dist: distribution of the log-probs.
    objective: objective to descend, as for `make`.
    first: whether the scored parameters are still unchanged, as for
      `loss_inputs`.
    key: PRNG key, as for `loss_inputs`.
    whole: whether the objective must see the whole minibatch, as for `make`.
    scored: whether the batch was scored, as for `make`.

  Returns:
    (loss, gradient, metrics): a scalar, a tree like `params`, and (sum, count)
    pairs.
  """
  dropout, draw = jax.random.split(key)

  def read(params, micro):
    joined = lora.join(params, frozen)
    return _read(config, joined, micro, dist, first, dropout, scored)

  def goal(inputs, batch, values):
    total, count, metrics = objective(inputs)
    if not scored:
      metrics = metrics | _measures(batch, values)
    return total, (count, metrics)

  def goal_of_micro(params, micro):
    values = read(params, micro)
    return goal(_lay_out(micro, values, draw), micro, values)

  def goal_of_all(values):
    flat, values = _as_one(batch), _joined(values)
    return goal(_in_order(batch, flat, values, draw), flat, values)

  if whole:
    (total, (count, metrics)), gradient = _in_two_passes(
      read, goal_of_all, params, batch
    )
  else:
    grad = jax.value_and_grad(goal_of_micro, has_aux=True)
    (total, (count, metrics)), gradient = _summed(
      lambda number: grad(params, _micro(batch, number)), batch
    )
  # Masks alone decide the count, so dividing the summed gradient by it gives
  # the gradient of the mean over the minibatch.
  count = jnp.maximum(count, 1.0)
  return total / count, jax.tree.map(lambda g: g / count, gradient), metrics


def _measures(batch: batch_lib.PackedBatch, values) -> dict:
  """What `learn.prepare` measures where it scores the batch, (sum, count).

  Exact entropy, and how far log-probs are from the sampler's on responses of
  the same policy.

  Args:
    batch: a micro-batch, or all as one.
    values: result of `_read` for it.
  """
  mask = scoring.sequence_mask(batch.rows)
  sampled = scoring.by_sequence(batch.rows, batch.old_logp_AEW)
  among = mask & batch.fresh_AEZ.reshape(-1, 1)
  gap = jnp.where(among, jnp.abs(values["logp_BT"] - sampled), 0.0)
  return {
    "sampling/logp_difference_mean": (
      jnp.sum(gap),
      jnp.sum(among, dtype=jnp.float32),
    ),
    "entropy/kept": (
      ops.masked_sum(values["entropy_BT"], mask),
      jnp.sum(mask, dtype=jnp.float32),
    ),
  }


def _useful(rows: batch_lib.Rows) -> tuple[jax.Array, jax.Array]:
  """(real tokens, tokens of the rows that are read)."""
  _, count, width = rows.tokens_AEW.shape
  return (
    jnp.sum(rows.bundle_AEW > 0, dtype=jnp.float32),
    jnp.float32(count * width) * rows.used,
  )


def _micro(batch: batch_lib.PackedBatch, number) -> batch_lib.PackedBatch:
  """Returns one micro-batch; `slot_B` stays, for the number of sequences."""
  return scoring.micro(batch.replace(slot_B=None), number).replace(
    slot_B=batch.slot_B
  )


def _summed(function: Callable, batch: batch_lib.PackedBatch):
  """Sums a function of the number of a micro-batch over those in use."""
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, 0)
  )
  # A loop, not Python's: one program, whatever their number.
  return lax.fori_loop(
    0,
    batch.rows.used,
    lambda number, sums: jax.tree.map(jnp.add, sums, function(number)),
    zeros,
  )


def _over_rows(read: Callable, batch: batch_lib.PackedBatch):
  """Results of `read` for all micro-batches, [A, E * Z, ...]."""
  count = batch.adv_AEZ.shape[0]
  zeros = jax.tree.map(
    lambda x: jnp.zeros((count, *x.shape), x.dtype),
    jax.eval_shape(lambda: read(_micro(batch, 0))),
  )

  def one(number, out):
    return jax.tree.map(
      lambda x, y: lax.dynamic_update_index_in_dim(x, y, number, axis=0),
      out,
      read(_micro(batch, number)),
    )

  return lax.fori_loop(0, batch.rows.used, one, zeros)


def _joined(values):
  """Arrays [A, X, ...] of micro-batches as [A * X, ...]."""
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), values)


def _as_one(batch: batch_lib.PackedBatch) -> batch_lib.PackedBatch:
  """Returns all micro-batches as one, [A * E, ...]."""
  return jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:]) if jnp.ndim(x) > 1 else x, batch
  )


def _in_order(
  batch: batch_lib.PackedBatch, flat: batch_lib.PackedBatch, values, key
) -> batch_lib.LossInputs:
  """Puts the results of all micro-batches in the order of the sequences.

  What draws random numbers then draws the same ones, however rows are packed.

  Args:
    batch: the minibatch.
    flat: the same, by `_as_one`.
    values: results of `_read` for `flat`.
    key: PRNG key of the loss.
  """
  inputs = _lay_out(flat, values, None).replace(sequences=None)
  ordered = jax.tree.map(
    lambda x: x.at[batch.slot_B].get(mode="fill", fill_value=0), inputs
  )
  return ordered.replace(key=key)


def _in_two_passes(read, goal, params, batch: batch_lib.PackedBatch):
  """Value and gradient of an objective that must see all tokens at once.

  The first pass runs the model without gradients, micro-batch by micro-batch.
  The derivatives of the objective by the log-probs need no model. The second
  pass takes them back through it. This costs one forward pass more than a sum
  over micro-batches.
  """
  values = _over_rows(lambda micro: read(params, micro), batch)
  value, by_read = jax.value_and_grad(goal, has_aux=True)(values)

  def back(number):
    micro = _micro(batch, number)
    _, pull = jax.vjp(lambda params: read(params, micro), params)
    return pull(scoring.micro(by_read, number))[0]

  return value, _summed(back, batch)


def make(
  config,
  tx: optax.GradientTransformation,
  objective: Callable,
  dist: scoring.Distribution,
  *,
  whole: bool = False,
  scored: bool = True,
) -> Callable:
  """Builds the update.

  Args:
    config: configuration of the model.
    tx: optax chain.
    objective: (LossInputs, **coefs) -> (sum, count, metrics).
    dist: distribution of the log-probs.
    whole: whether the objective must see the whole minibatch at once, as one
      that draws or ranks tokens must; otherwise it sees micro-batches.
    scored: whether `old_logp_AEW` was scored by this model; otherwise it is the
      sampler's, and the first update takes its own log-probs for the old ones
      of fresh responses, so that their ratio is exactly 1.

  Returns:
    update(state, batch, first, key, coefs=(), frozen=()) -> (state,
    metrics), jitted; the state is donated. `batch` is one minibatch of `pack`;
    `first` is True while the parameters are those that sampled and scored;
    `key` is for dropout and losses that draw; `coefs` are the coefficients of
    the objective's terms that change from step to step (arguments, so that a
    change compiles nothing), `frozen` the frozen parameters; metrics are (sum,
    count) pairs.
  """

  def update(
    state: state_lib.TrainState, batch, first, key, coefs=(), frozen=()
  ):
    loss, gradient, metrics = minibatch_gradient(
      config,
      state.params,
      dict(frozen),
      batch,
      dist,
      functools.partial(objective, **dict(coefs)),
      first,
      key,
      whole,
      scored,
    )
    with jax.named_scope("optimizer"):
      norm = optax.tree.norm(gradient)
      # A gradient of 0 moves parameters too: by momentum and by weight decay.
      some = batch.rows.used > 0
      params, opt_state, applied = optim.apply_if_finite(
        tx, loss, gradient, state.opt_state, state.params, some
      )
    state = state_lib.TrainState(
      params=params,
      opt_state=opt_state,
      skipped=jnp.where(applied, 0, state.skipped + 1),
    )
    # One update that is not applied must not spoil the means of a step.
    one = jnp.float32(1)
    metrics = jax.tree.map(
      lambda x: jnp.where(applied, x, 0.0),
      metrics | dict(loss=(loss, one), grad_norm=(norm, one)),
    )
    return state, metrics | dict(
      skipped_updates=(1 - applied.astype(jnp.float32), one),
      empty_updates=(1 - some.astype(jnp.float32), one),
    ) | {"perf/useful_share_train": _useful(batch.rows)}

  return jax.jit(update, donate_argnums=0)
