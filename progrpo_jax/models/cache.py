"""The key-value cache: two parts, both plain records of arrays.

`Prefix` holds the keys of prompts, made once by the prefill and shared by the
responses of a row. `Cache` holds the keys of responses while they grow; it
travels in the carry of the layer scan and is written in place.
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
    k: [L, N, P, K, H].
    v: [L, N, P, K, H].
    mask_NP: bool, real prompt tokens.
  """

  k: jax.Array
  v: jax.Array
  mask_NP: jax.Array


@struct.dataclass
class Cache:
  """Keys and values of responses, filled up to `length`.

  Attributes:
    k: [L, N, R, S, K, H].
    v: [L, N, R, S, K, H].
    length: int32 scalar; all rows are written at one column.
  """

  k: jax.Array
  v: jax.Array
  length: jax.Array


def empty(
    config: config_lib.ModelConfig, rows: int, responses: int, size: int,
) -> Cache:
  """A cache of `size` columns with nothing in it."""
  shape = (
      config.num_layers, rows, responses, size, config.num_kv_heads,
      config.head_dim)
  return Cache(
      k=jnp.zeros(shape, config.dtype), v=jnp.zeros(shape, config.dtype),
      length=jnp.zeros((), jnp.int32))


def grow(cache: Cache, size: int) -> Cache:
  """The same cache with room for `size` columns."""
  more = size - cache.k.shape[3]
  widths = [(0, 0)] * 6
  widths[3] = (0, more)
  return cache.replace(k=jnp.pad(cache.k, widths), v=jnp.pad(cache.v, widths))


def write(cache_LNRSKH, new_NRTKH, layer, start) -> jax.Array:
  """Writes a layer's new keys (or values) at columns `start`, ... in place."""
  return lax.dynamic_update_slice(
      cache_LNRSKH, new_NRTKH[None], (layer, 0, 0, start, 0, 0))


def read(cache_LNRSKH, layer) -> jax.Array:
  """A layer's keys (or values)."""
  return lax.dynamic_index_in_dim(cache_LNRSKH, layer, 0, keepdims=False)


def bytes_per_token(config: config_lib.ModelConfig) -> int:
  """Bytes that one token takes, keys and values of all layers."""
  return (
      2 * config.num_layers * config.num_kv_heads * config.head_dim
      * jnp.dtype(config.dtype).itemsize)
