"""One jitted, donated optimiser update from a minibatch.

A minibatch is chosen by prompts, on the host, where the whole batch is; its
cut into micro-batches is a matter of memory and changes nothing else, for no
loss. An update in which anything is not finite, its result included, or whose
minibatch holds no token to learn from, leaves parameters and optimiser as
they were and is counted.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from progrpo_jax import batch as batch_lib
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
  batch: batch_lib.TrainBatch, prompts_M, prompts: int
) -> batch_lib.TrainBatch:
  """Returns the rows of some prompts of a batch: whole groups, in order.

  Args:
    batch: host arrays, prompt-major.
    prompts_M: numbers of the prompts.
    prompts: number of prompts of the batch.
  """
  return jax.tree.map(
    lambda x: x.reshape(prompts, -1, *x.shape[1:])[prompts_M].reshape(
      -1, *x.shape[1:]
    ),
    batch,
  )


def _flat(x):
  """[N, R, T] -> [B, T], B = N * R; None stays None."""
  return None if x is None else x.reshape(-1, x.shape[-1])


def _read(config, params, batch: batch_lib.TrainBatch, dist, first, key):
  """Runs the policy on a batch: the part of `LossInputs` with gradients.

  Returns:
    dict of logp_BT, entropy_BT and log_z_B (None without a partition head).
  """
  q = batch.sequences
  logp, entropy, hidden = scoring.response_scores(config, params, q, dist)
  log_z_B = None
  if config.partition_head:
    # Dropout by the number of the prompt's draw: the rows of one prompt drop
    # alike, in whatever micro-batch they are.
    keys_N = jax.vmap(functools.partial(jax.random.fold_in, key))(batch.id_N)
    log_z_B = jnp.repeat(
      transformer.log_z(config, params, hidden, q.prompt_mask_NT, keys_N),
      q.mask_NRT.shape[1],
    )
  # With the same parameters the two passes may still differ in the last bit,
  # because XLA fuses a pass with gradients differently. The value is then the
  # scorer's, the gradient this pass's: the ratio is exactly 1, and KL is
  # exactly 0 right after the reference was reset.
  same = first & batch.fresh_NR[..., None]
  logp = jnp.where(
    same, batch.old_logp_NRT + (logp - lax.stop_gradient(logp)), logp
  )
  return dict(logp_BT=_flat(logp), entropy_BT=_flat(entropy), log_z_B=log_z_B)


def _lay_out(batch: batch_lib.TrainBatch, read, key) -> batch_lib.LossInputs:
  """Puts the result of `_read` beside the data that losses read."""
  return batch_lib.LossInputs(
    **read,
    old_logp_BT=_flat(batch.old_logp_NRT),
    ref_logp_BT=_flat(batch.ref_logp_NRT),
    adv_B=batch.adv_NR.reshape(-1),
    mask_BT=_flat(batch.sequences.mask_NRT),
    reward_B=(
      None
      if batch.base_advantage_NR is None
      else batch.base_advantage_NR.reshape(-1)
    ),
    weight_BT=_flat(batch.weight_NRT),
    key=key,
  )


def loss_inputs(
  config, params, batch: batch_lib.TrainBatch, dist, first, key
) -> batch_lib.LossInputs:
  """Runs the policy on a batch and lays out what losses read.

  Args:
    config: configuration of the model.
    params: all parameters.
    batch: N rows of R responses.
    dist: distribution of the log-probs.
    first: bool scalar, True while `params` are the parameters under which
      `old_logp_NRT` was scored.
    key: PRNG key for losses that draw, and for dropout.
  """
  dropout, draw = jax.random.split(key)
  return _lay_out(
    batch, _read(config, params, batch, dist, first, dropout), draw
  )


def minibatch_gradient(
  config,
  params,
  frozen,
  batch,
  dist,
  objective,
  micro_batches,
  first,
  key,
  whole: bool = False,
) -> tuple[jax.Array, Any, dict[str, tuple[jax.Array, jax.Array]]]:
  """Loss, gradient and metrics of a minibatch, micro-batch by micro-batch.

  Args:
    config: configuration of the model.
    params: trainable parameters (differentiated).
    frozen: frozen parameters.
    batch: rows of the minibatch.
    dist: distribution of the log-probs.
    objective: objective to descend, as for `make`.
    micro_batches: number of micro-batches, run one after another.
    first: whether the scored parameters are still unchanged, as for
      `loss_inputs`.
    key: PRNG key, as for `loss_inputs`.
    whole: whether the objective must see the whole minibatch, as for `make`.

  Returns:
    (loss, gradient, metrics): a scalar, a tree like `params`, and (sum, count)
    pairs.
  """
  dropout, draw = jax.random.split(key)

  def read(params, micro):
    return _read(config, lora.join(params, frozen), micro, dist, first, dropout)

  def goal(read, batch):
    total, count, metrics = objective(_lay_out(batch, read, draw))
    return total, (count, metrics)

  if whole and micro_batches > 1:
    (total, (count, metrics)), gradient = _in_two_passes(
      read, goal, params, batch, micro_batches
    )
  else:
    grad = jax.value_and_grad(
      lambda params, micro: goal(read(params, micro), micro), has_aux=True
    )
    (total, (count, metrics)), gradient = _summed(
      lambda micro: grad(params, micro), batch, micro_batches
    )
  # Masks alone decide the count, so dividing the summed gradient by it gives
  # the gradient of the mean over the minibatch.
  count = jnp.maximum(count, 1.0)
  return total / count, jax.tree.map(lambda g: g / count, gradient), metrics


def _summed(function: Callable, tree, micro_batches: int):
  """Sums a function's results over the micro-batches of a tree of rows."""
  if micro_batches == 1:
    return function(tree)
  micros = scoring.to_micro(tree, micro_batches)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(function, jax.tree.map(lambda x: x[0], micros)),
  )
  # A scan, not a Python loop: one program, whatever their number.
  return lax.scan(
    lambda sums, micro: (jax.tree.map(jnp.add, sums, function(micro)), None),
    zeros,
    micros,
  )[0]


def _in_two_passes(read, goal, params, batch, micro_batches: int):
  """Value and gradient of an objective that must see all tokens at once.

  The first pass runs the model without gradients, micro-batch by micro-batch.
  The derivatives of the objective by the log-probs need no model. The second
  pass takes them back through it. This costs one forward pass more than a sum
  over micro-batches.
  """
  rows, responses = batch.adv_NR.shape

  def rows_of(tree):  # [B, ...] -> [N, R, ...]
    return jax.tree.map(lambda x: x.reshape(-1, responses, *x.shape[1:]), tree)

  def sequences_of(tree):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

  values = lax.map(
    lambda micro: rows_of(read(params, micro)),
    scoring.to_micro(batch, micro_batches),
  )
  values = sequences_of(scoring.from_micro(values))
  value, by_read = jax.value_and_grad(goal, has_aux=True)(values, batch)

  def back(both):
    micro, by_micro = both
    _, pull = jax.vjp(lambda params: read(params, micro), params)
    return pull(sequences_of(by_micro))[0]

  return value, _summed(back, (batch, rows_of(by_read)), micro_batches)


def make(
  config,
  tx: optax.GradientTransformation,
  objective: Callable,
  dist: scoring.Distribution,
  *,
  micro_batches: int = 1,
  whole: bool = False,
) -> Callable:
  """Builds the update.

  Args:
    config: configuration of the model.
    tx: optax chain.
    objective: (LossInputs, **weights) -> (sum, count, metrics).
    dist: distribution of the log-probs.
    micro_batches: number of micro-batches, run one after another.
    whole: whether the objective must see the whole minibatch at once, as one
      that draws or ranks tokens must; otherwise it sees micro-batches.

  Returns:
    update(state, batch, first, key, weights=(), frozen=()) -> (state,
    metrics), jitted; the state is donated. `batch` is one minibatch,
    `weights` are the weights of the objective that change from step to step
    (arguments, so that a change compiles nothing), `frozen` the frozen
    parameters; metrics are (sum, count) pairs.
  """

  def update(
    state: state_lib.TrainState, batch, first, key, weights=(), frozen=()
  ):
    loss, gradient, metrics = minibatch_gradient(
      config,
      state.params,
      dict(frozen),
      batch,
      dist,
      functools.partial(objective, **dict(weights)),
      micro_batches,
      first,
      key,
      whole,
    )
    with jax.named_scope("optimizer"):
      norm = optax.tree.norm(gradient)
      # A gradient of 0 moves parameters too: by momentum and by weight decay.
      some = jnp.any(batch.sequences.mask_NRT)
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
    )

  return jax.jit(update, donate_argnums=0)
