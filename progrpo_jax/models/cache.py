"""The key-value cache: two parts, both plain records of arrays.

`Prefix` holds the keys of prompts, made once by the prefill and shared by the
responses of a row. `Cache` holds the keys of responses while they grow: an
array a layer, in the carry of the loop over tokens, written in place.

Heads stand before time, so that what one head multiplies lies together. Keys
have time last: the scores of one query are then sums of rows, which on a CPU
takes a quarter of the time of as many dot products along rows.
"""

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from progrpo_jax.models import config as config_lib


@struct.dataclass
class Prefix:
  """Keys and values of prompts.

  Attributes:
    k: [L, N, K, H, P].
    v: [L, N, K, P, H].
    mask_NP: bool, real prompt tokens.
  """

  k: jax.Array
  v: jax.Array
  mask_NP: jax.Array


@struct.dataclass
class Cache:
  """Keys and values of responses, filled up to `length`.

  Attributes:
    k: L arrays [N, R, K, H, S].
    v: L arrays [N, R, K, S, H].
    length: int32 scalar; all rows are written at one column.
  """

  k: tuple[jax.Array, ...]
  v: tuple[jax.Array, ...]
  length: jax.Array

  @property
  def size(self) -> int:
    """Columns that there is room for."""
    return self.k[0].shape[-1]


def empty(
    config: config_lib.ModelConfig, rows: int, responses: int, size: int,
) -> Cache:
  """A cache of `size` columns with nothing in it."""
  shape = rows, responses, config.num_kv_heads
  k, v = (*shape, config.head_dim, size), (*shape, size, config.head_dim)

  def layers(shape):
    return tuple(
        jnp.zeros(shape, config.dtype) for _ in range(config.num_layers))

  return Cache(k=layers(k), v=layers(v), length=jnp.zeros((), jnp.int32))


def grow(cache: Cache, size: int) -> Cache:
  """The same cache with room for `size` columns."""
  more, no = (0, size - cache.size), (0, 0)
  return cache.replace(
      k=tuple(jnp.pad(k, (no, no, no, no, more)) for k in cache.k),
      v=tuple(jnp.pad(v, (no, no, no, more, no)) for v in cache.v))


def write(past, new) -> tuple[jax.Array, jax.Array]:
  """A layer's keys and values with new columns written into them.

  Args:
    past: (k, v, start): as in `Cache`, and the column to write at.
    new: (k, v), [N, R, K, H, T] and [N, R, K, T, H].
  """
  k, v, start = past
  return (
      lax.dynamic_update_slice(k, new[0], (0, 0, 0, 0, start)),
      lax.dynamic_update_slice(v, new[1], (0, 0, 0, start, 0)))


def bytes_per_token(config: config_lib.ModelConfig) -> int:
  """Bytes that one token takes, keys and values of all layers."""
  return (
      2 * config.num_layers * config.num_kv_heads * config.head_dim
      * jnp.dtype(config.dtype).itemsize)
