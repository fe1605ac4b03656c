"""One jitted, donated optimiser update from a minibatch.

Micro-batches are scanned and their gradients summed, so the gradient is that
of the whole minibatch whatever its cut. An update in which anything is not
finite, its result included, leaves parameters and optimiser as they were and
is counted.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import optax

from progrpo_jax import batch as batch_lib
from progrpo_jax import optim, scoring
from progrpo_jax import state as state_lib
from progrpo_jax.models import lora, transformer


def loss_inputs(
    config, params, batch: batch_lib.TrainBatch, dist, first, key,
) -> batch_lib.LossInputs:
  """Runs the policy on a batch and lays out what losses read.

  Args:
    config: of the model.
    params: all parameters.
    batch: N rows of R responses.
    dist: distribution of the log-probs.
    first: bool scalar, True while `params` are those that `old_logp_NRT` was
      scored with.
    key: for losses that draw, and for dropout.
  """
  q = batch.sequences
  logp, entropy, hidden = scoring.response_scores(config, params, q, dist)
  log_z_B = None
  if config.partition_head:
    log_z_B = jnp.repeat(
        transformer.log_z(config, params, hidden, q.prompt_mask_NT, key),
        q.mask_NRT.shape[1])
  # With the same parameters the two passes may still differ in the last bit,
  # because XLA fuses a pass with gradients differently. The value is then the
  # scorer's, the gradient this pass's: the ratio is exactly 1, and KL is
  # exactly 0 right after the reference was reset.
  same = first & batch.fresh_NR[..., None]
  logp = jnp.where(
      same, batch.old_logp_NRT + (logp - lax.stop_gradient(logp)), logp)

  def rows(x):
    return None if x is None else x.reshape(-1, x.shape[-1])

  return batch_lib.LossInputs(
      logp_BT=rows(logp), old_logp_BT=rows(batch.old_logp_NRT),
      ref_logp_BT=rows(batch.ref_logp_NRT), adv_B=batch.adv_NR.reshape(-1),
      mask_BT=rows(q.mask_NRT), entropy_BT=rows(entropy), log_z_B=log_z_B,
      reward_B=(None if batch.reward_NR is None
                else batch.reward_NR.reshape(-1)),
      weight_BT=rows(batch.weight_NRT), key=key)


def minibatch_gradient(
    config, params, frozen, batch, dist, objective, micro_batches, first, key,
) -> tuple[jax.Array, Any, dict[str, tuple[jax.Array, jax.Array]]]:
  """Loss, gradient and metrics of a minibatch, micro-batch by micro-batch.

  Args:
    config: of the model.
    params: those that train, which the gradient is for.
    frozen: the others.
    batch: the minibatch.
    dist: distribution of the log-probs.
    objective: see `make`.
    micro_batches: parts that are run one after another.
    first: see `loss_inputs`.
    key: folded for each part.

  Returns:
    (loss, gradient, metrics): metrics are (sum, count) pairs.
  """

  def micro_loss(params, micro, index):
    total, count, metrics = objective(loss_inputs(
        config, lora.join(params, frozen), micro, dist, first,
        jax.random.fold_in(key, index)))
    return total, (count, metrics)

  grad = jax.value_and_grad(micro_loss, has_aux=True)

  def one(micro, index):
    (total, (count, metrics)), gradient = grad(params, micro, index)
    return total, count, metrics, gradient

  if micro_batches == 1:
    total, count, metrics, gradient = one(batch, 0)
  else:
    micros = scoring.to_micro(batch, micro_batches)
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(one, jax.tree.map(lambda x: x[0], micros), 0))
    (total, count, metrics, gradient), _ = lax.scan(
        lambda sums, micro: (
            jax.tree.map(jnp.add, sums, one(*micro)), None), zeros,
        (micros, jnp.arange(micro_batches)))
  # Masks alone decide the count, so dividing the summed gradient by it gives
  # the gradient of the mean over the minibatch.
  count = jnp.maximum(count, 1.0)
  return total / count, jax.tree.map(lambda g: g / count, gradient), metrics


def make(
    config, tx: optax.GradientTransformation, objective: Callable,
    dist: scoring.Distribution, *, minibatches: int = 1,
    micro_batches: int = 1,
) -> Callable:
  """Builds the update.

  Args:
    config: of the model.
    tx: the optax chain.
    objective: (LossInputs, **knobs) -> (sum, count, metrics).
    dist: distribution of the log-probs.
    minibatches: parts of a batch; each update reads one.
    micro_batches: parts of a minibatch, run one after another.

  Returns:
    update(state, batch, index, first, key, knobs=(), frozen=()) ->
    (state, metrics), jitted; the state that goes in is donated. `index` picks
    the minibatch, `knobs` are weights of the objective that change from step
    to step, `frozen` are the parameters that do not train; metrics are (sum,
    count) pairs.
  """

  def update(
      state: state_lib.TrainState, batch, index, first, key, knobs=(),
      frozen=()):
    part = scoring.pick_micro(batch, minibatches, index)
    loss, gradient, metrics = minibatch_gradient(
        config, state.params, dict(frozen), part, dist,
        functools.partial(objective, **dict(knobs)), micro_batches, first, key)
    with jax.named_scope("optimizer"):
      norm = optax.tree.norm(gradient)
      params, opt_state, finite = optim.apply_if_finite(
          tx, loss, gradient, state.opt_state, state.params)
    state = state_lib.TrainState(
        params=params, opt_state=opt_state,
        skipped=jnp.where(finite, 0, state.skipped + 1))
    # One update that is not finite must not spoil the means of a step.
    metrics = dict(
        metrics, loss=(loss, jnp.float32(1)), grad_norm=(norm, jnp.float32(1)))
    metrics = jax.tree.map(lambda x: jnp.where(finite, x, 0.0), metrics)
    metrics["skipped_updates"] = (
        1 - finite.astype(jnp.float32), jnp.float32(1))
    return state, metrics

  return jax.jit(update, donate_argnums=0)
