"""What the losses have in common: ratios, masks, the surrogate, metrics.

Notation as in `losses`. Masked tokens are set to 0 before any nonlinear
operation: masking afterwards would remove NaN values but not their NaN
gradients.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops

# exp(20) is 5e8: a larger ratio means nothing. It is clamped so that it stays
# finite, with gradient 0. The same bound as in verl.
MAX_LOG_RATIO = 20.0

# Rewards that differ by less than four float32 roundings of the largest one
# count as equal: 0.3 and 0.1 + 0.2 are the same reward, summed in two ways.
_ROUNDING = 4 * float(jnp.finfo(jnp.float32).eps)

Metrics = dict[str, tuple[jax.Array, jax.Array]]


def masked_log_ratio(inputs) -> tuple[jax.Array, jax.Array]:
  """Returns log r per token, 0 at masked positions, and the mask."""
  logp_BT, old_logp_BT = inputs.logp_BT, inputs.old_logp_BT
  mask_BT = jnp.asarray(inputs.mask_BT, bool)
  chex.assert_rank([logp_BT, mask_BT], 2)
  chex.assert_equal_shape([logp_BT, old_logp_BT, mask_BT])
  chex.assert_type([logp_BT, old_logp_BT], float)
  logp_BT = jnp.asarray(logp_BT, jnp.float32)
  # pi_old is a constant even if the caller computes it in the same trace, and
  # so are advantages and rewards.
  old_logp_BT = jax.lax.stop_gradient(jnp.asarray(old_logp_BT, jnp.float32))
  return jnp.where(mask_BT, logp_BT - old_logp_BT, 0.0), mask_BT


def masked_inputs(inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns log-ratio and advantage per token (0 if masked) and the mask."""
  log_ratio_BT, mask_BT = masked_log_ratio(inputs)
  adv_BT = inputs.token_adv_BT
  chex.assert_equal_shape([adv_BT, mask_BT])
  chex.assert_type(adv_BT, float)
  adv_BT = jax.lax.stop_gradient(jnp.asarray(adv_BT, jnp.float32))
  return log_ratio_BT, jnp.where(mask_BT, adv_BT, 0.0), mask_BT


def checked_rewards(reward_PG, valid_PG) -> tuple[jax.Array, jax.Array]:
  """Returns float32 rewards and the mask of valid ones, of equal shape."""
  reward_PG = jnp.asarray(reward_PG, jnp.float32)
  chex.assert_rank(reward_PG, 2)
  if valid_PG is None:
    valid_PG = jnp.ones_like(reward_PG, bool)
  valid_PG = jnp.asarray(valid_PG)
  chex.assert_type(valid_PG, bool)
  chex.assert_equal_shape([reward_PG, valid_PG])
  return reward_PG, valid_PG


def differ(reward_PG, valid_PG, tol: float = 0.0) -> jax.Array:
  """Which groups have valid rewards that differ by more than rounding.

  Args:
    reward_PG: rewards, float32.
    valid_PG: bool, responses with a verdict.
    tol: largest difference that counts as equal, besides rounding.

  Returns:
    differ_P, bool; False for a group without two valid responses.
  """
  # Without valid responses low is inf and high -inf: not different.
  low_P = jnp.min(reward_PG, axis=1, where=valid_PG, initial=jnp.inf)
  high_P = jnp.max(reward_PG, axis=1, where=valid_PG, initial=-jnp.inf)
  scale_P = jnp.maximum(jnp.abs(low_P), jnp.abs(high_P))
  # The floor keeps rounding errors apart from real differences where all
  # rewards are sums that cancel to almost 0.
  rounding_P = _ROUNDING * jnp.maximum(scale_P, 1e-6)
  return high_P - low_P > jnp.maximum(rounding_P, tol)


def checked_verdicts(correct_PG, valid_PG) -> tuple[jax.Array, jax.Array]:
  """Returns verdicts and the mask of valid ones; verdicts must be bool."""
  correct_PG = jnp.asarray(correct_PG)
  # No silent cast: rewards in {-1, +1} would all become True.
  chex.assert_type(correct_PG, bool)
  return correct_PG, checked_rewards(correct_PG, valid_PG)[1]


def masked_logp(inputs, mask_BT) -> jax.Array:
  """Returns log-probs of the trained policy, 0 at masked positions."""
  return jnp.where(mask_BT, jnp.asarray(inputs.logp_BT, jnp.float32), 0.0)


def clamp(log_ratio) -> jax.Array:
  """Returns a log-ratio within bounds whose exponentials are finite."""
  return jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def ratio(log_ratio) -> jax.Array:
  """Returns the ratio of a log-ratio, clamped to stay finite."""
  return jnp.exp(clamp(log_ratio))


def sequence_log_ratio(log_ratio_BT) -> jax.Array:
  """Returns log pi(o) / pi_old(o) per response, tokens and sum clamped."""
  return clamp(jnp.sum(clamp(log_ratio_BT), axis=1))


def surrogate(
  ratio_BT, adv_BT, epsilon, epsilon_high, dual_clip=None
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns -min(r A, clip(r) A) and which tokens are beyond their bound.

  By the sign of A: where A >= 0 r is capped at 1 + epsilon_high, where A < 0
  it is clipped to [1 - epsilon, dual_clip].

  Raises:
    ValueError: `dual_clip` is not above 1.
  """
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(f"dual_clip must be above 1 or None, got {dual_clip}")
  low, high = 1.0 - epsilon, 1.0 + epsilon_high
  ceiling = jnp.inf if dual_clip is None else dual_clip
  bounded_BT = jnp.where(
    adv_BT >= 0, jnp.minimum(ratio_BT, high), jnp.clip(ratio_BT, low, ceiling)
  )
  low_BT = (adv_BT < 0) & (ratio_BT < low)
  high_BT = (adv_BT > 0) & (ratio_BT > high)
  clipped = {
    "clip_ratio/low_mean": low_BT,
    "clip_ratio/high_mean": high_BT,
    "clip_ratio/region_mean": low_BT | high_BT,
  }
  if dual_clip is not None:
    clipped["clip_ratio/dual_mean"] = (adv_BT < 0) & (ratio_BT > dual_clip)
  return -bounded_BT * adv_BT, clipped


def zeroed(x_BT, mask_BT) -> jax.Array:
  """Returns `x_BT` where the mask is True, else 0."""
  return jnp.where(mask_BT, x_BT, 0.0)


def token_metrics(log_ratio_BT, mask_BT, quantities) -> Metrics:
  """Returns metrics over tokens of some quantities and of the ratio."""
  ratio_BT = ratio(log_ratio_BT)
  return means(
    quantities | {"ratio/mean": ratio_BT, "ratio/square_mean": ratio_BT**2},
    mask_BT,
  )


def means(quantities, mask) -> Metrics:
  """Returns (sum, count) of each quantity over real tokens or rows."""
  count = jnp.sum(mask, dtype=jnp.float32)
  return {
    name: (ops.masked_sum(x, mask), count) for name, x in quantities.items()
  }
