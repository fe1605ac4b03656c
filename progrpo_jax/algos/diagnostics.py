"""What a step says about where its policy is going.

The mean entropy is late news: it falls after the tokens that decide have
already fallen. Its quantiles, how far probability and advantage go together,
how much rewards still differ within a group, and how much of the gradient is
the KL's are seen earlier. `algos/collapse.py` judges them.

All but the gradients are taken on the host, in numpy and float64, over every
real token of a step: exact quantiles, no sketch of them. What has nothing to
measure is left out, not reported as 0.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import ops


def entropy_quantiles(
    entropy_BT, mask_BT, *, low: float = 0.01) -> dict[str, float]:
  """How the entropy is spread over the tokens.

  Most tokens of a response are all but certain from the start; what there is
  to explore sits in the upper tail. A mean that falls because the many certain
  tokens became more so is no loss, a 90% quantile that falls is one.

  Args:
    entropy_BT: exact entropy at each token in nats, of any shape.
    mask_BT: real tokens, the same shape.
    low: a token below this is decided: at 0.01 nats the most probable token
      has a probability of about 0.998.

  Returns:
    `entropy/q10`, `entropy/q50`, `entropy/q90` over the real tokens, with
    linear interpolation, and `entropy/low_share`, the share of them below
    `low`; nothing if there is no real token.
  """
  entropy = _real(entropy_BT, mask_BT)
  if not entropy.size:
    return {}
  q10, q50, q90 = np.quantile(entropy, (0.1, 0.5, 0.9))
  return {
      "entropy/q10": float(q10), "entropy/q50": float(q50),
      "entropy/q90": float(q90),
      "entropy/low_share": float(np.mean(entropy < low))}


def covariance(
    logp_BT, adv_BT, mask_BT, *, high: float = 1.0) -> dict[str, float]:
  """How far what is probable is also what is rewarded.

  Cov_t = (log pi(y_t) - mean) (A_t - mean), the means over the real tokens of
  the batch. The entropy falls in proportion to the mean of it, and rises where
  that is negative; a few tokens of large covariance make up most of the mean,
  and they are those that Clip-Cov and KL-Cov hold back.

  See "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
  Models" (https://arxiv.org/abs/2505.22617).

  Args:
    logp_BT: log-prob of each sampled token, of any shape.
    adv_BT: advantage of each token, the same shape or one that broadcasts to
      it, such as [B, 1].
    mask_BT: real tokens, the shape of `logp_BT`.
    high: a covariance above this is a large one; the lower bound of Clip-Cov.

  Returns:
    `covariance/logp_advantage`, the mean, and `covariance/high_share`, the
    share of real tokens above `high`; nothing if there is no real token.
  """
  logp = _real(logp_BT, mask_BT)
  if not logp.size:
    return {}
  adv = _real(np.broadcast_to(adv_BT, np.shape(logp_BT)), mask_BT)
  products = (logp - logp.mean()) * (adv - adv.mean())
  return {
      "covariance/logp_advantage": float(products.mean()),
      "covariance/high_share": float(np.mean(products > high))}


def reward_spread(reward_PG, valid_PG=None) -> dict[str, float]:
  """How much rewards differ within a group, which is all that teaches.

  The spread is the standard deviation (divisor: the count) of a group's
  rewards; it does not need them to be 0 or 1.

  Args:
    reward_PG: rewards.
    valid_PG: bool, responses that count; None for all. A group with fewer than
      two of them has no spread and is passed over.

  Returns:
    `reward_spread/mean`, `reward_spread/q10`, `reward_spread/q90` over the
    groups; nothing if there is none.
  """
  reward_PG = np.asarray(reward_PG, np.float64)
  chex.assert_rank(reward_PG, 2)
  if valid_PG is None:
    valid_PG = np.ones(reward_PG.shape, bool)
  valid_PG = np.asarray(valid_PG)
  chex.assert_type(valid_PG, bool)
  chex.assert_equal_shape([reward_PG, valid_PG])
  some_P = valid_PG.sum(axis=1) >= 2
  if not some_P.any():
    return {}
  spread_P = np.std(reward_PG[some_P], axis=1, where=valid_PG[some_P])
  q10, q90 = np.quantile(spread_P, (0.1, 0.9))
  return {
      "reward_spread/mean": float(spread_P.mean()),
      "reward_spread/q10": float(q10), "reward_spread/q90": float(q90)}


def gradient_squares(
    policy_grad_BT, kl_grad_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Squared norms of both gradients, to be added up over a batch's pieces.

  A norm, or a share, of the whole cannot be had from those of the pieces; the
  squares can: add each of the two over micro-batches, minibatches and hosts,
  then call `share_of_squares` once. Both may be divided by one number on the
  way, such as a count. The gradients of all pieces must be of sums, or of
  means over one and the same count, or pieces would weigh differently.

  Args:
    policy_grad_BT: gradient of the policy term by each token's log-prob.
    kl_grad_BT: gradient of the KL term by each token's log-prob, its weight
      included.
    mask_BT: real tokens; masked positions contribute nothing.

  Returns:
    (square of |g_policy|, square of |g_kl|), float32 scalars.
  """
  policy_grad_BT = jnp.asarray(policy_grad_BT, jnp.float32)
  kl_grad_BT = jnp.asarray(kl_grad_BT, jnp.float32)
  mask_BT = jnp.asarray(mask_BT, bool)
  chex.assert_rank(mask_BT, 2)
  chex.assert_equal_shape([policy_grad_BT, kl_grad_BT, mask_BT])
  return (
      ops.masked_sum(policy_grad_BT**2, mask_BT),
      ops.masked_sum(kl_grad_BT**2, mask_BT))


def share_of_squares(policy_square, kl_square) -> jax.Array:
  """The KL's share of the gradient, from the sums of `gradient_squares`.

  Returns:
    The share in [0, 1], float32: 0 for two gradients of 0.
  """
  policy = jnp.sqrt(jnp.asarray(policy_square, jnp.float32))
  kl = jnp.sqrt(jnp.asarray(kl_square, jnp.float32))
  total = policy + kl
  return jnp.where(total > 0, kl / jnp.where(total > 0, total, 1.0), 0.0)


def _real(x_BT, mask_BT) -> np.ndarray:
  """The values at real tokens, flat, in float64."""
  x_BT, mask_BT = np.asarray(x_BT, np.float64), np.asarray(mask_BT)
  chex.assert_type(mask_BT, bool)
  chex.assert_equal_shape([x_BT, mask_BT])
  return x_BT[mask_BT]
