"""Advantages of the responses of one prompt against each other.

Each function maps the rewards of P groups of G responses to advantages of the
same shape. Where the rewards that are compared are all equal, the advantage
is exactly 0: no rounding is ever divided by a spread that is itself rounding.
They are those of a group; `reinforce_pp` alone compares a whole batch. No
gradient passes through any of this, since rewards are data.

The keyword `valid_PG` (bool) marks responses that count. One that was lost to
a failure of the infrastructure (a verifier that was killed, say) is not
wrong, it is unknown: it takes no part in means, spreads and counts, and its
own advantage is 0, whatever its reward says.

Papers: GRPO, https://arxiv.org/abs/2402.03300; Dr. GRPO,
https://arxiv.org/abs/2503.20783; RLOO, https://arxiv.org/abs/2402.14740;
REINFORCE++, https://arxiv.org/abs/2501.03262.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops

# Rewards closer than four float32 roundings of the largest are equal: 0.3 and
# 0.1 + 0.2 are one reward that was added up in two ways.
_ROUNDING = 4 * float(jnp.finfo(jnp.float32).eps)


def grpo(reward_PG, eps: float = 1e-6, *, valid_PG=None) -> jax.Array:
  """Standardises rewards in their group.

  A_i = (R_i - mean_j R_j) / (sigma_j R_j + eps), with the population standard
  deviation (divisor G). Frameworks built on torch.std divide by G - 1, which
  makes their advantages smaller by sqrt((G - 1) / G).

  See "DeepSeekMath" (https://arxiv.org/abs/2402.03300), section 4.1.2. The
  part for process supervision is left out.

  Args:
    reward_PG: rewards.
    eps: added to the standard deviation.
    valid_PG: responses that count; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, valid_PG = _centre(reward_PG, valid_PG)
  variance_P1 = ops.masked_mean(centred_PG**2, valid_PG, axis=1)[:, None]
  return centred_PG / (jnp.sqrt(variance_P1) + eps)


def dr_grpo(reward_PG, *, valid_PG=None) -> jax.Array:
  """Centres rewards in their group and leaves their scale alone.

  A_i = R_i - mean_j R_j. Without the division, groups that are nearly solved
  or nearly hopeless weigh no more than the others.

  See "Understanding R1-Zero-Like Training: A Critical Perspective"
  (https://arxiv.org/abs/2503.20783).

  Args:
    reward_PG: rewards.
    valid_PG: responses that count; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, _ = _centre(reward_PG, valid_PG)
  return centred_PG


def rloo(reward_PG, *, valid_PG=None) -> jax.Array:
  """Subtracts from each reward the mean of the others in its group.

  A_i = R_i - 1/(G-1) sum_{j != i} R_j = G/(G-1) (R_i - mean_j R_j). A response
  without others has advantage 0.

  See "Back to Basics: Revisiting REINFORCE Style Optimization"
  (https://arxiv.org/abs/2402.14740).

  Args:
    reward_PG: rewards.
    valid_PG: responses that count; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, valid_PG = _centre(reward_PG, valid_PG)
  count_P1 = jnp.sum(valid_PG, axis=1, keepdims=True, dtype=jnp.float32)
  return centred_PG * count_P1 / jnp.maximum(count_P1 - 1, 1)


def reinforce_pp(
    reward_PG, eps: float = 1e-6, baseline: bool = False, *, valid_PG=None,
) -> jax.Array:
  """Standardises rewards over the whole batch.

  A_i = (R_i - mean_batch R) / (sigma_batch R + eps), with the population
  standard deviation. With `baseline`, R_i - mean_group R stands in the place
  of R_i; the mean of that over the batch is 0, so it is left alone, and a
  group whose rewards are all equal has advantage exactly 0.

  All groups share one scale: a group that is nearly solved is not blown up,
  as dividing by its own deviation would.

  See "REINFORCE++" (https://arxiv.org/abs/2501.03262); ProRL v2 uses it with
  `baseline`. Every response counts once, where implementations that
  standardise token by token count it by its length. The paper's KL penalty
  inside the reward is left to the caller.

  Args:
    reward_PG: rewards.
    eps: added to the standard deviation.
    baseline: subtracts the mean of the group first.
    valid_PG: responses that count; None for all.

  Returns:
    adv_PG, float32.
  """
  if baseline:
    centred_PG, valid_PG = _centre(reward_PG, valid_PG)
    variance = ops.masked_mean(centred_PG**2, valid_PG)
    return centred_PG / (jnp.sqrt(variance) + eps)
  reward_PG = jnp.asarray(reward_PG, jnp.float32)
  chex.assert_rank(reward_PG, 2)
  if valid_PG is not None:
    valid_PG = jnp.asarray(valid_PG)
    chex.assert_equal_shape([reward_PG, valid_PG])
    valid_PG = valid_PG.reshape(1, -1)
  # The batch as one group.
  adv_1B = grpo(reward_PG.reshape(1, -1), eps, valid_PG=valid_PG)
  return adv_1B.reshape(reward_PG.shape)


def _centre(reward_PG, valid_PG) -> tuple[jax.Array, jax.Array]:
  """Rewards less their group's mean, exactly 0 where all are equal."""
  reward_PG = jnp.asarray(reward_PG, jnp.float32)
  chex.assert_rank(reward_PG, 2)
  if valid_PG is None:
    valid_PG = jnp.ones_like(reward_PG, bool)
  valid_PG = jnp.asarray(valid_PG)
  chex.assert_type(valid_PG, bool)
  chex.assert_equal_shape([reward_PG, valid_PG])

  low_P1 = jnp.min(
      reward_PG, axis=1, keepdims=True, where=valid_PG, initial=jnp.inf)
  high_P1 = jnp.max(
      reward_PG, axis=1, keepdims=True, where=valid_PG, initial=-jnp.inf)
  scale_P1 = jnp.maximum(jnp.abs(low_P1), jnp.abs(high_P1))
  # Rewards that cancel to almost 0 have no scale of their own; the floor
  # stands in for it.
  differ_P1 = high_P1 - low_P1 > _ROUNDING * jnp.maximum(scale_P1, 1e-6)
  # A group without valid responses has low inf and high -inf: not different.
  mean_P1 = ops.masked_mean(reward_PG, valid_PG, axis=1)[:, None]
  centred_PG = jnp.where(valid_PG & differ_P1, reward_PG - mean_P1, 0.0)
  return centred_PG, valid_PG
