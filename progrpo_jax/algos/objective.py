"""The training loss: policy term, KL penalty and entropy bonus.

The three are added per token and then averaged together by one rule, so that
their coefficients mean the same under every rule. The caller chooses the
policy term, the KL estimator and the rule; this file names none of them.
"""

from collections.abc import Callable
import functools
import inspect

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import batch, ops
from progrpo_jax.algos import diagnostics, losses


def objective(
  inputs: batch.LossInputs,
  *,
  loss_fn: Callable,
  aggregate_fn: Callable,
  kl_fn: Callable | None = None,
  beta=0.0,
  entropy_coef=0.0,
) -> tuple[jax.Array, jax.Array, losses.Metrics]:
  """Sum and count of term + beta * KL - entropy_coef * entropy.

  GRPO (https://arxiv.org/abs/2402.03300, eq. 3) and ProRL
  (https://arxiv.org/abs/2505.24864, eq. 4) with its sign turned, as a loss.

  Args:
    inputs: arrays the terms read. `entropy_BT` must be computed from the
      trained parameters for the entropy term to have a gradient.
    loss_fn: inputs -> (loss_BT, metrics), a function of `algos/losses.py`
      with its settings bound.
    aggregate_fn: (x_BT, mask_BT) -> (sum, count), a function of
      `algos/aggregate.py` with its settings bound; it also takes `sequences`
      where `inputs` has that.
    kl_fn: (logp, ref_logp) -> KL per token, a function of `algos/kl.py`; used
      where `inputs.ref_logp_BT` is given.
    beta: weight of the KL. With a Python 0 the KL is measured but not part of
      the loss.
    entropy_coef: weight of the entropy. With a Python 0 the entropy is
      measured but not part of the loss.

  Returns:
    (sum, count, metrics): the loss is sum / count. The metrics, name ->
    (sum, count), are the metrics of `loss_fn`, `loss` (this loss) and, where
    their inputs are given, `kl` and `entropy` (means over tokens) and
    `gradient_square/policy` and `/kl` (squared norms of the gradients of each
    term's sum with respect to the log-probs).

  Raises:
    ValueError: `beta` or `entropy_coef` is not 0 but its inputs are missing.
  """
  mask_BT = jnp.asarray(inputs.mask_BT, bool)
  chex.assert_rank(mask_BT, 2)
  # Rows of B may be empty slots. Only a function that counts rows asks for the
  # number of those that are not.
  counts_rows = "sequences" in inspect.signature(aggregate_fn).parameters
  if inputs.sequences is not None and counts_rows:
    aggregate_fn = functools.partial(aggregate_fn, sequences=inputs.sequences)
  loss_BT, metrics = _policy_term(inputs, loss_fn, mask_BT)
  chex.assert_equal_shape([loss_BT, mask_BT])
  tokens = jnp.sum(mask_BT, dtype=jnp.float32)
  metrics = dict(metrics)

  # KL penalty; also logged where beta is 0.
  kl_known = kl_fn is not None and inputs.ref_logp_BT is not None
  if not _is_zero(beta) and not kl_known:
    raise ValueError(f"beta={beta} needs kl_fn and inputs.ref_logp_BT")
  if kl_known:
    kl_BT = kl_fn(*_kl_arguments(inputs, mask_BT))
    metrics["kl"] = ops.masked_sum(kl_BT, mask_BT), tokens
    if not _is_zero(beta):
      loss_BT = loss_BT + beta * kl_BT
      metrics |= _gradient_squares(
        inputs, loss_fn, aggregate_fn, kl_fn, beta, mask_BT
      )

  # Entropy bonus; also logged where its coefficient is 0.
  entropy_known = inputs.entropy_BT is not None
  if not _is_zero(entropy_coef) and not entropy_known:
    raise ValueError(f"entropy_coef={entropy_coef} needs inputs.entropy_BT")
  if entropy_known:
    chex.assert_equal_shape([inputs.entropy_BT, mask_BT])
    metrics["entropy"] = ops.masked_sum(inputs.entropy_BT, mask_BT), tokens
    # Skipped rather than multiplied by 0: the backward pass through the
    # entropy of a large vocabulary costs as much as the loss's own.
    if not _is_zero(entropy_coef):
      entropy_BT = jnp.where(mask_BT, inputs.entropy_BT, 0.0)
      loss_BT = loss_BT - entropy_coef * entropy_BT

  total, count = aggregate_fn(loss_BT, mask_BT)
  metrics["loss"] = total, count
  return total, count, metrics


def _policy_term(inputs, loss_fn, mask_BT) -> tuple[jax.Array, losses.Metrics]:
  """Loss per token, times the importance weights if they are given."""
  loss_BT, metrics = loss_fn(inputs)
  if inputs.weight_BT is None:
    return loss_BT, metrics
  weight_BT = jax.lax.stop_gradient(inputs.weight_BT)
  return loss_BT * jnp.where(mask_BT, weight_BT, 0.0), metrics


def _gradient_squares(
  inputs, loss_fn, aggregate_fn, kl_fn, beta, mask_BT
) -> losses.Metrics:
  """Squared norms of both terms' gradients with respect to the log-probs.

  Gradients by the parameters would cost one backward pass per term. Both terms
  reach the parameters through the log-probs, where gradients are almost free.
  The squares add up exactly over micro-batches.
  """

  # Both as in the loss: importance weights, beta and sum included.
  def policy(logp_BT):
    loss_BT, _ = _policy_term(inputs.replace(logp_BT=logp_BT), loss_fn, mask_BT)
    return aggregate_fn(loss_BT, mask_BT)[0]

  def kl(logp_BT):
    arguments = _kl_arguments(inputs.replace(logp_BT=logp_BT), mask_BT)
    return aggregate_fn(beta * kl_fn(*arguments), mask_BT)[0]

  squares = diagnostics.gradient_squares(
    jax.grad(policy)(inputs.logp_BT), jax.grad(kl)(inputs.logp_BT), mask_BT
  )
  tokens = jnp.sum(mask_BT, dtype=jnp.float32)
  return {
    f"gradient_square/{name}": (square, tokens)
    for name, square in zip(("policy", "kl"), squares, strict=True)
  }


def _kl_arguments(inputs, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Log-probs of policy and reference, both 0 at masked positions.

  Masked before the estimator: a NaN there would give a NaN gradient even if
  the result were masked afterwards.
  """
  chex.assert_equal_shape([inputs.logp_BT, inputs.ref_logp_BT, mask_BT])
  # The reference is a constant, like `old_logp_BT`.
  ref_logp_BT = jax.lax.stop_gradient(inputs.ref_logp_BT)
  return (
    jnp.where(mask_BT, inputs.logp_BT, 0.0),
    jnp.where(mask_BT, ref_logp_BT, 0.0),
  )


def _is_zero(weight) -> bool:
  """Returns whether a weight is a Python 0; a traced array may be any value."""
  return isinstance(weight, int | float) and weight == 0
