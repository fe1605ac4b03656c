"""Arithmetic of the decoder outside attention, as plain functions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Multiplies the last axis of an array by a weight.
Product = Callable[[jax.Array], jax.Array]


def rms_norm(x, scale_D, eps: float) -> jax.Array:
  """RMSNorm of the last axis, computed in float32, returned in `x`'s type."""
  wide = x.astype(jnp.float32)
  square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = wide * jax.lax.rsqrt(square + eps)
  return scale_D * normed.astype(x.dtype)


def linear(x, kernel) -> jax.Array:
  """Multiplies the last axis of `x` by the first axis of a kernel.

  Args:
    x: activations [..., D].
    kernel: weight [D, outputs...].

  Returns:
    [..., outputs...].
  """
  # As one matrix product [rows, D] x [D, outputs]. With several leading axes
  # XLA's CPU backend makes a transposed copy of the incoming gradient, fused
  # with its producer, which took longer than the products themselves.
  flat = x.reshape(-1, x.shape[-1])
  out = flat @ kernel.reshape(kernel.shape[0], -1)
  return out.reshape(x.shape[:-1] + kernel.shape[1:])


def gated_mlp(x, gate: Product, up: Product, down: Product) -> jax.Array:
  """SwiGLU: down(silu(gate(x)) * up(x))."""
  flat = x.reshape(-1, x.shape[-1])
  return down(jax.nn.silu(gate(flat)) * up(flat)).reshape(x.shape)
