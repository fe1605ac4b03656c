"""The number that an update descends: policy term, KL and entropy together.

The three are added per token and averaged once, by one rule, so that a
coefficient means the same whatever the rule. Which term, which estimator and
which rule are the caller's: this file knows none by name.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import batch, ops
from progrpo_jax.algos import diagnostics, losses


def objective(
    inputs: batch.LossInputs, *, loss_fn: Callable, aggregate_fn: Callable,
    kl_fn: Callable | None = None, beta=0.0, entropy_coef=0.0,
) -> tuple[jax.Array, jax.Array, losses.Metrics]:
  """Sum and count of term + beta * KL - entropy_coef * entropy.

  GRPO (https://arxiv.org/abs/2402.03300, eq. 3) and ProRL
  (https://arxiv.org/abs/2505.24864, eq. 4) with its sign turned, as a loss.

  Args:
    inputs: what the terms read. `entropy_BT` must be the trained policy's
      for the entropy term to have a gradient.
    loss_fn: inputs -> (loss_BT, metrics), a function of `algos/losses.py`
      with its settings bound.
    aggregate_fn: (x_BT, mask_BT) -> (sum, count), a function of
      `algos/aggregate.py` with its settings bound.
    kl_fn: (logp, ref_logp) -> KL per token, a function of `algos/kl.py`; used
      where `inputs.ref_logp_BT` is given.
    beta: weight of the KL; a plain 0 measures the KL and leaves it out.
    entropy_coef: weight of the entropy; a plain 0 leaves it out.

  Returns:
    (sum, count, metrics): the loss is sum / count. The metrics are those of
    `loss_fn`, name -> (sum, count), with `loss` (this loss), and, where there
    is something to measure, `kl` and `entropy` as means over tokens, and
    `gradient_square/policy` and `/kl`, the squared norms of the gradients of
    the two terms' sums by the log-probs.

  Raises:
    ValueError: a weight is given without what it weighs.
  """
  mask_BT = jnp.asarray(inputs.mask_BT, bool)
  chex.assert_rank(mask_BT, 2)
  loss_BT, metrics = _policy_term(inputs, loss_fn, mask_BT)
  chex.assert_equal_shape([loss_BT, mask_BT])
  tokens = jnp.sum(mask_BT, dtype=jnp.float32)
  metrics = dict(metrics)

  kl_known = kl_fn is not None and inputs.ref_logp_BT is not None
  if not _is_zero(beta) and not kl_known:
    raise ValueError(f"beta={beta} needs kl_fn and inputs.ref_logp_BT")
  if kl_known:
    kl_BT = kl_fn(*_kl_arguments(inputs, mask_BT))
    metrics["kl"] = ops.masked_sum(kl_BT, mask_BT), tokens
    if not _is_zero(beta):
      loss_BT = loss_BT + beta * kl_BT
      metrics |= _gradient_squares(
          inputs, loss_fn, aggregate_fn, kl_fn, beta, mask_BT)

  entropy_known = inputs.entropy_BT is not None
  if not _is_zero(entropy_coef) and not entropy_known:
    raise ValueError(f"entropy_coef={entropy_coef} needs inputs.entropy_BT")
  if entropy_known:
    chex.assert_equal_shape([inputs.entropy_BT, mask_BT])
    metrics["entropy"] = ops.masked_sum(inputs.entropy_BT, mask_BT), tokens
    # Left out, not multiplied by 0: the backward pass through the entropy of
    # a large vocabulary costs as much as that of the loss.
    if not _is_zero(entropy_coef):
      entropy_BT = jnp.where(mask_BT, inputs.entropy_BT, 0.0)
      loss_BT = loss_BT - entropy_coef * entropy_BT

  total, count = aggregate_fn(loss_BT, mask_BT)
  metrics["loss"] = total, count
  return total, count, metrics


def _policy_term(inputs, loss_fn, mask_BT) -> tuple[jax.Array, losses.Metrics]:
  """The loss of every token, corrected for the sampler if weights are given."""
  loss_BT, metrics = loss_fn(inputs)
  if inputs.weight_BT is None:
    return loss_BT, metrics
  weight_BT = jax.lax.stop_gradient(inputs.weight_BT)
  return loss_BT * jnp.where(mask_BT, weight_BT, 0.0), metrics


def _gradient_squares(
    inputs, loss_fn, aggregate_fn, kl_fn, beta, mask_BT) -> losses.Metrics:
  """Squared norms of the gradients of both terms by the log-probs.

  The model's own gradient of each term would cost a backward pass; by the
  log-probs, through which both reach the model, it costs nothing. Sums over
  micro-batches stay exact.
  """

  def policy(logp_BT):
    loss_BT, _ = _policy_term(
        inputs.replace(logp_BT=logp_BT), loss_fn, mask_BT)
    return aggregate_fn(loss_BT, mask_BT)[0]

  def kl(logp_BT):
    arguments = _kl_arguments(inputs.replace(logp_BT=logp_BT), mask_BT)
    return aggregate_fn(beta * kl_fn(*arguments), mask_BT)[0]

  squares = diagnostics.gradient_squares(
      jax.grad(policy)(inputs.logp_BT), jax.grad(kl)(inputs.logp_BT), mask_BT)
  tokens = jnp.sum(mask_BT, dtype=jnp.float32)
  return {
      f"gradient_square/{name}": (square, tokens)
      for name, square in zip(("policy", "kl"), squares, strict=True)}


def _kl_arguments(inputs, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Log-probs of policy and reference, both 0 under the mask.

  Zeroed before the estimator, whose gradient at NaN would be NaN.
  """
  chex.assert_equal_shape([inputs.logp_BT, inputs.ref_logp_BT, mask_BT])
  # The reference is data, as `old_logp_BT` is.
  ref_logp_BT = jax.lax.stop_gradient(inputs.ref_logp_BT)
  return (
      jnp.where(mask_BT, inputs.logp_BT, 0.0),
      jnp.where(mask_BT, ref_logp_BT, 0.0))


def _is_zero(weight) -> bool:
  """Whether a weight is a plain 0; an array may change, so it is not."""
  return isinstance(weight, int | float) and weight == 0
