"""Arithmetic of the decoder outside attention, as free functions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Of the last axis of an array with a weight.
Product = Callable[[jax.Array], jax.Array]


def rms_norm(x, scale_D, eps: float) -> jax.Array:
  """Root-mean-square norm, in float32 inside, in the type of `x` outside."""
  wide = x.astype(jnp.float32)
  square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = wide * jax.lax.rsqrt(square + eps)
  return scale_D * normed.astype(x.dtype)


def linear(x, kernel) -> jax.Array:
  """Product of the last axis of `x` with the first of a kernel.

  The axes before it are taken as one. With several of them XLA's CPU backend
  fuses whatever made the gradient of the product into a transposed copy of
  it, which took longer than the products themselves.

  Args:
    x: [..., D].
    kernel: [D, ...].

  Returns:
    [..., ...], the axes of both.
  """
  flat = x.reshape(-1, x.shape[-1])
  out = flat @ kernel.reshape(kernel.shape[0], -1)
  return out.reshape(x.shape[:-1] + kernel.shape[1:])


def gated_mlp(x, gate: Product, up: Product, down: Product) -> jax.Array:
  """SwiGLU: down(silu(gate(x)) * up(x))."""
  flat = x.reshape(-1, x.shape[-1])
  return down(jax.nn.silu(gate(flat)) * up(flat)).reshape(x.shape)
