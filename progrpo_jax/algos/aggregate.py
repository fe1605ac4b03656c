"""Averages of per-token losses; papers differ in the weights they use.

Each function returns `(sum, count)`, float32 scalars; the average is
sum / count. Sum and count are returned separately so that the result does not
depend on how a batch is split: add up the sums and the counts of all
micro-batches, then divide.

A response without real tokens adds nothing to either, except in `constant`,
whose count is fixed.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops


def token_mean(x_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Mean over all tokens of the batch; long responses weigh more.

  1 / sum_i |o_i| * sum_i sum_t x. See "DAPO"
  (https://arxiv.org/abs/2503.14476), eq. 8; ProGRPO uses it too.

  Args:
    x_BT: value of each token.
    mask_BT: real tokens.

  Returns:
    (sum over tokens, number of tokens).
  """
  x_BT, mask_BT = _checked(x_BT, mask_BT)
  return ops.masked_sum(x_BT, mask_BT), jnp.sum(mask_BT, dtype=jnp.float32)


def sequence_mean(x_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Mean over responses of their mean over tokens; responses weigh the same.

  1 / B * sum_i 1 / |o_i| * sum_t x. See "DeepSeekMath"
  (https://arxiv.org/abs/2402.03300), eq. 3.

  Args:
    x_BT: value of each token.
    mask_BT: real tokens.

  Returns:
    (sum over responses of their token mean, number of non-empty responses).
  """
  x_BT, mask_BT = _checked(x_BT, mask_BT)
  some_B = jnp.any(mask_BT, axis=1)
  mean_B = ops.masked_mean(x_BT, mask_BT, axis=1)
  return jnp.sum(mean_B), jnp.sum(some_B, dtype=jnp.float32)


def constant(
  x_BT, mask_BT, length: float, *, sequences=None
) -> tuple[jax.Array, jax.Array]:
  """Sum over tokens divided by a fixed token budget per response.

  1 / (B * length) * sum_i sum_t x, so a token's weight does not depend on the
  length of any response. See "Understanding R1-Zero-Like Training"
  (https://arxiv.org/abs/2503.20783), where `length` is the longest response
  that may be sampled. All B rows count, including rows without real tokens.

  Args:
    x_BT: value of each token.
    mask_BT: real tokens.
    length: token budget per response, > 0.
    sequences: number of responses that count, where it is not B.

  Returns:
    (sum over tokens, B * length).

  Raises:
    ValueError: `length` is not positive.
  """
  if length <= 0:
    raise ValueError(f"length must be positive, got {length}")
  x_BT, mask_BT = _checked(x_BT, mask_BT)
  if sequences is None:
    sequences = x_BT.shape[0]
  count = jnp.float32(sequences * length)
  return ops.masked_sum(x_BT, mask_BT), count


def _checked(x_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Converts to float32 and bool arrays of one shape [B, T]."""
  x_BT = jnp.asarray(x_BT, jnp.float32)
  mask_BT = jnp.asarray(mask_BT, bool)
  chex.assert_rank([x_BT, mask_BT], 2)
  chex.assert_equal_shape([x_BT, mask_BT])
  return x_BT, mask_BT
