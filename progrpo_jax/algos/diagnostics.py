"""Early signs of where a policy is heading, measured at each step.

Mean entropy reacts late: most tokens are certain from the start and hide the
few decisive ones. These signs move earlier: quantiles of the entropy, the
covariance of log-prob and advantage, the reward spread within groups and the
KL's share of the gradient. `algos/collapse.py` judges them.

All but the gradient norms are computed on the host, in numpy and float64, over
every real token of a step, so that quantiles are exact. A measure without data
is left out, not reported as 0.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import ops


def entropy_quantiles(
  entropy_BT, mask_BT, *, low: float = 0.01
) -> dict[str, float]:
  """Quantiles of the entropy over tokens.

  Most tokens of a response are nearly certain from the start; exploration
  happens in the upper tail. It does no harm if the mean falls because certain
  tokens became more certain, but a falling 90% quantile means less exploration.

  Args:
    entropy_BT: entropy over the vocabulary at each token in nats, any shape.
    mask_BT: real tokens, the same shape.
    low: entropy in nats below which a token counts as decided. At 0.01 nats
      the most probable token has a probability of about 0.998.

  Returns:
    `entropy/q10`, `entropy/q50` and `entropy/q90` over real tokens, linearly
    interpolated, and `entropy/low_share`, the share of real tokens below
    `low`; {} if there is no real token.
  """
  entropy = _real(entropy_BT, mask_BT)
  if not entropy.size:
    return {}
  q10, q50, q90 = np.quantile(entropy, (0.1, 0.5, 0.9))
  return {
    "entropy/q10": float(q10),
    "entropy/q50": float(q50),
    "entropy/q90": float(q90),
    "entropy/low_share": float(np.mean(entropy < low)),
  }


def covariance(
  logp_BT, adv_BT, mask_BT, *, high: float = 1.0
) -> dict[str, float]:
  """Covariance of log-prob and advantage over tokens.

  Cov_t = (log pi(y_t) - mean) (A_t - mean), with means over the real tokens of
  the batch. The entropy falls in proportion to the mean of Cov_t, and rises
  where it is negative. A few tokens with a large covariance make up most of
  the mean; Clip-Cov and KL-Cov restrain those tokens.

  See "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
  Models" (https://arxiv.org/abs/2505.22617).

  Args:
    logp_BT: log-prob of each sampled token, any shape.
    adv_BT: advantage of each token, of a shape that broadcasts to `logp_BT`,
      such as [B, 1].
    mask_BT: real tokens, the shape of `logp_BT`.
    high: covariance above which a token counts as high; the default is the
      lower bound of Clip-Cov.

  Returns:
    `covariance/logp_advantage`, the mean, and `covariance/high_share`, the
    share of real tokens above `high`; {} if there is no real token.
  """
  logp = _real(logp_BT, mask_BT)
  if not logp.size:
    return {}
  adv = _real(np.broadcast_to(adv_BT, np.shape(logp_BT)), mask_BT)
  products = (logp - logp.mean()) * (adv - adv.mean())
  return {
    "covariance/logp_advantage": float(products.mean()),
    "covariance/high_share": float(np.mean(products > high)),
  }


def reward_spread(reward_PG, valid_PG=None) -> dict[str, float]:
  """Standard deviation of the rewards within groups.

  Only differences within a group give a gradient. The divisor is the number of
  valid responses. Rewards may be any numbers, not just 0 or 1.

  Args:
    reward_PG: rewards.
    valid_PG: bool, responses with a verdict; None for all. Groups with fewer
      than two valid responses are skipped.

  Returns:
    `reward_spread/mean`, `reward_spread/q10` and `reward_spread/q90` over the
    groups; {} if every group is skipped.
  """
  reward_PG = np.asarray(reward_PG, np.float64)
  chex.assert_rank(reward_PG, 2)
  if valid_PG is None:
    valid_PG = np.ones(reward_PG.shape, bool)
  valid_PG = np.asarray(valid_PG)
  chex.assert_type(valid_PG, bool)
  chex.assert_equal_shape([reward_PG, valid_PG])
  # A single response has no spread.
  some_P = valid_PG.sum(axis=1) >= 2
  if not some_P.any():
    return {}
  spread_P = np.std(reward_PG[some_P], axis=1, where=valid_PG[some_P])
  q10, q90 = np.quantile(spread_P, (0.1, 0.9))
  return {
    "reward_spread/mean": float(spread_P.mean()),
    "reward_spread/q10": float(q10),
    "reward_spread/q90": float(q90),
  }


def gradient_squares(
  policy_grad_BT, kl_grad_BT, mask_BT
) -> tuple[jax.Array, jax.Array]:
  """Squared norms of both gradients, which add up over micro-batches.

  Norms and shares of micro-batches do not combine, squared norms do: sum both
  over micro-batches, minibatches and hosts, then call `share_of_squares` once.
  Both sums may be divided by the same number, such as a token count. The
  gradients must be of sums, or of means over one fixed count; otherwise
  micro-batches would be weighted differently.

  The gradients are with respect to the log-probs of the sampled tokens:
  gradients by the parameters would cost one backward pass per term, and both
  terms reach the parameters through these log-probs.

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
    ops.masked_sum(kl_grad_BT**2, mask_BT),
  )


def share_of_squares(policy_square, kl_square) -> jax.Array:
  """The KL's share of the gradient: |g_kl| / (|g_kl| + |g_policy|).

  Args:
    policy_square: |g_policy|^2, summed over `gradient_squares`.
    kl_square: |g_kl|^2, summed over `gradient_squares`.

  Returns:
    Share in [0, 1], float32; 0 if both gradients are 0.
  """
  policy = jnp.sqrt(jnp.asarray(policy_square, jnp.float32))
  kl = jnp.sqrt(jnp.asarray(kl_square, jnp.float32))
  total = policy + kl
  # The inner `where` keeps 0 / 0 out of the branch that is not selected.
  return jnp.where(total > 0, kl / jnp.where(total > 0, total, 1.0), 0.0)


def _real(x_BT, mask_BT) -> np.ndarray:
  """Returns the values at real tokens as a flat float64 array."""
  x_BT, mask_BT = np.asarray(x_BT, np.float64), np.asarray(mask_BT)
  chex.assert_type(mask_BT, bool)
  chex.assert_equal_shape([x_BT, mask_BT])
  return x_BT[mask_BT]
