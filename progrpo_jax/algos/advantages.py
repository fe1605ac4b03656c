"""Advantages from the rewards of groups of responses.

Each function maps the rewards of P groups of G responses to advantages of the
same shape. Rewards are compared within a group, by `reinforce_pp` within the
whole batch. Where the compared rewards are all equal, the advantage is exactly
0: a rounding error is never divided by a spread that is itself a rounding
error. Rewards are data, so no gradient passes through these functions.

The keyword `valid_PG` (bool) marks responses with a verdict. A response whose
verification failed (a verifier that was killed, for example) is unknown, not
wrong: it is left out of means, spreads and counts, and its advantage is 0,
whatever its reward.

Papers: GRPO, https://arxiv.org/abs/2402.03300; Dr. GRPO,
https://arxiv.org/abs/2503.20783; RLOO, https://arxiv.org/abs/2402.14740;
REINFORCE++, https://arxiv.org/abs/2501.03262.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops

# Rewards that differ by less than four float32 roundings of the largest one
# count as equal: 0.3 and 0.1 + 0.2 are the same reward, summed in two ways.
_ROUNDING = 4 * float(jnp.finfo(jnp.float32).eps)


def grpo(reward_PG, eps: float = 1e-6, *, valid_PG=None) -> jax.Array:
  """Standardises rewards within each group.

  A_i = (R_i - mean_j R_j) / (sigma_j R_j + eps), with the population standard
  deviation (divisor G). Frameworks built on torch.std divide by G - 1, so
  their advantages are smaller by a factor sqrt((G - 1) / G).

  See "DeepSeekMath" (https://arxiv.org/abs/2402.03300), section 4.1.2. Process
  supervision is not implemented.

  Args:
    reward_PG: reward of each response.
    eps: added to the standard deviation.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, valid_PG = _centre(reward_PG, valid_PG)
  variance_P1 = ops.masked_mean(centred_PG**2, valid_PG, axis=1)[:, None]
  return centred_PG / (jnp.sqrt(variance_P1) + eps)


def dr_grpo(reward_PG, *, valid_PG=None) -> jax.Array:
  """Centres rewards within each group without rescaling them.

  A_i = R_i - mean_j R_j. Dividing by the standard deviation would give extra
  weight to groups that are almost all correct or almost all wrong.

  See "Understanding R1-Zero-Like Training: A Critical Perspective"
  (https://arxiv.org/abs/2503.20783).

  Args:
    reward_PG: reward of each response.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, _ = _centre(reward_PG, valid_PG)
  return centred_PG


def rloo(reward_PG, *, valid_PG=None) -> jax.Array:
  """Subtracts from each reward the mean of the group's other rewards.

  A_i = R_i - 1/(G-1) sum_{j != i} R_j = G/(G-1) (R_i - mean_j R_j). The only
  valid response of a group has advantage 0.

  See "Back to Basics: Revisiting REINFORCE Style Optimization"
  (https://arxiv.org/abs/2402.14740).

  Args:
    reward_PG: reward of each response.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, valid_PG = _centre(reward_PG, valid_PG)
  count_P1 = jnp.sum(valid_PG, axis=1, keepdims=True, dtype=jnp.float32)
  return centred_PG * count_P1 / jnp.maximum(count_P1 - 1, 1)


def reinforce_pp(
  reward_PG, eps: float = 1e-6, baseline: bool = False, *, valid_PG=None
) -> jax.Array:
  """Standardises rewards over the whole batch.

  A_i = (R_i - mean_batch R) / (sigma_batch R + eps), with the population
  standard deviation. With `baseline`, R_i is replaced by R_i - mean_group R,
  whose mean over the batch is 0 and is not subtracted again; a group of equal
  rewards then has advantage exactly 0.

  All groups share one scale, so a group that is almost all correct does not
  get the large advantages that dividing by its own deviation would give it.

  See "REINFORCE++" (https://arxiv.org/abs/2501.03262); ProRL v2 uses it with
  `baseline`. Every response counts once; implementations that standardise
  token by token weight responses by length. The paper's KL penalty inside the
  reward is left to the caller.

  Args:
    reward_PG: reward of each response.
    eps: added to the standard deviation.
    baseline: whether to subtract the group's mean first.
    valid_PG: bool, responses with a verdict; None for all.

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
  # The whole batch is treated as one group.
  adv_1B = grpo(reward_PG.reshape(1, -1), eps, valid_PG=valid_PG)
  return adv_1B.reshape(reward_PG.shape)


def _centre(reward_PG, valid_PG) -> tuple[jax.Array, jax.Array]:
  """Returns rewards minus their group's mean, and the mask of valid ones.

  Exactly 0 in groups of equal rewards and at invalid responses.
  """
  reward_PG = jnp.asarray(reward_PG, jnp.float32)
  chex.assert_rank(reward_PG, 2)
  if valid_PG is None:
    valid_PG = jnp.ones_like(reward_PG, bool)
  valid_PG = jnp.asarray(valid_PG)
  chex.assert_type(valid_PG, bool)
  chex.assert_equal_shape([reward_PG, valid_PG])

  low_P1 = jnp.min(
    reward_PG, axis=1, keepdims=True, where=valid_PG, initial=jnp.inf
  )
  high_P1 = jnp.max(
    reward_PG, axis=1, keepdims=True, where=valid_PG, initial=-jnp.inf
  )
  scale_P1 = jnp.maximum(jnp.abs(low_P1), jnp.abs(high_P1))
  # The floor keeps rounding errors apart from real differences where all
  # rewards are sums that cancel to almost 0.
  # A group without valid responses has low inf and high -inf: not different.
  differ_P1 = high_P1 - low_P1 > _ROUNDING * jnp.maximum(scale_P1, 1e-6)
  mean_P1 = ops.masked_mean(reward_PG, valid_PG, axis=1)[:, None]
  centred_PG = jnp.where(valid_PG & differ_P1, reward_PG - mean_P1, 0.0)
  return centred_PG, valid_PG
