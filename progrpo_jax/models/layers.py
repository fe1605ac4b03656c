"""Arithmetic of the decoder outside attention, as free functions."""

import jax
import jax.numpy as jnp


def rms_norm(x, scale_D, eps: float) -> jax.Array:
  """Root-mean-square norm, in float32 inside, in the type of `x` outside."""
  wide = x.astype(jnp.float32)
  square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = wide * jax.lax.rsqrt(square + eps)
  return scale_D * normed.astype(x.dtype)


def rope_angles(positions, head_dim: int, theta: float) -> jax.Array:
  """Angles of the rotary embedding, float32 [..., H / 2]."""
  half = head_dim // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  return positions[..., None].astype(jnp.float32) * frequency


def rotate(x, angles) -> jax.Array:
  """Turns the halves of each head by the angles (the layout of Llama in HF).

  Args:
    x: [..., T, heads..., H] with one or two axes of heads.
    angles: [..., T, H / 2], the same leading axes and T.
  """
  shape = angles.shape[:-1] + (1,) * (x.ndim - angles.ndim)
  angles = angles.reshape(shape + angles.shape[-1:])
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x.dtype)


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


def gated_mlp(x, gate_DF, up_DF, down_FD) -> jax.Array:
  """SwiGLU: down(silu(gate(x)) * up(x))."""
  flat = x.reshape(-1, x.shape[-1])
  hidden = jax.nn.silu(linear(flat, gate_DF)) * linear(flat, up_DF)
  return linear(hidden, down_FD).reshape(x.shape)
