"""From one value per token to one number, in the ways that papers differ in.

Each function returns `(sum, count)`, float32 scalars; the number is
sum / count. They are returned apart so that it comes out the same however a
batch is cut: the sums and the counts of the pieces are added up first.

A sequence without real tokens contributes to neither, except to the count of
`constant`, which is fixed by its definition.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops


def token_mean(x_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Every token of the batch weighs the same; long responses weigh more.

  1 / sum_i |o_i| * sum_i sum_t x. See "DAPO"
  (https://arxiv.org/abs/2503.14476), eq. 8; ProGRPO averages so too.

  Args:
    x_BT: a value per token.
    mask_BT: real tokens.

  Returns:
    (sum over tokens, number of tokens).
  """
  x_BT, mask_BT = _checked(x_BT, mask_BT)
  return ops.masked_sum(x_BT, mask_BT), jnp.sum(mask_BT, dtype=jnp.float32)


def sequence_mean(x_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Every response weighs the same; tokens of long responses weigh less.

  1 / B * sum_i 1 / |o_i| * sum_t x. See "DeepSeekMath"
  (https://arxiv.org/abs/2402.03300), eq. 3.

  Args:
    x_BT: a value per token.
    mask_BT: real tokens.

  Returns:
    (sum over responses of their mean, number of responses with a token).
  """
  x_BT, mask_BT = _checked(x_BT, mask_BT)
  some_B = jnp.any(mask_BT, axis=1)
  mean_B = ops.masked_mean(x_BT, mask_BT, axis=1)
  return jnp.sum(mean_B), jnp.sum(some_B, dtype=jnp.float32)


def constant(x_BT, mask_BT, length: float) -> tuple[jax.Array, jax.Array]:
  """Divides by a budget of tokens that no response's length can change.

  1 / (B * length) * sum_i sum_t x. See "Understanding R1-Zero-Like Training"
  (https://arxiv.org/abs/2503.20783); `length` there is the longest response
  that may be sampled. All B rows count, those without real tokens too.

  Args:
    x_BT: a value per token.
    mask_BT: real tokens.
    length: budget of tokens per response, > 0.

  Returns:
    (sum over tokens, B * length).

  Raises:
    ValueError: `length` is not positive.
  """
  if length <= 0:
    raise ValueError(f"length must be positive, got {length}")
  x_BT, mask_BT = _checked(x_BT, mask_BT)
  count = jnp.float32(x_BT.shape[0] * length)
  return ops.masked_sum(x_BT, mask_BT), count


def _checked(x_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Float32 and bool arrays of one shape [B, T]."""
  x_BT = jnp.asarray(x_BT, jnp.float32)
  mask_BT = jnp.asarray(mask_BT, bool)
  chex.assert_rank([x_BT, mask_BT], 2)
  chex.assert_equal_shape([x_BT, mask_BT])
  return x_BT, mask_BT
