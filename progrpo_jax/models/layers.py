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


def gated_mlp(x, gate_DF, up_DF, down_FD) -> jax.Array:
  """SwiGLU: down(silu(gate(x)) * up(x))."""
  gate = jnp.einsum("...d,df->...f", x, gate_DF)
  up = jnp.einsum("...d,df->...f", x, up_DF)
  return jnp.einsum("...f,fd->...d", jax.nn.silu(gate) * up, down_FD)
