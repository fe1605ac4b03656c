"""The key-value cache: two records of arrays, `Prefix` and `Cache`.

`Prefix` holds the keys and values of prompts, computed once by `prefill` and
shared by the responses of a row. `Cache` holds those of the growing responses:
one array per layer, carried through the loop over tokens and updated in place.

Axis letters are those of the legend in `batch`. The head axis K comes before
time, so that each head's operands are contiguous. Keys have time last: the
scores of a query are then sums of rows, which on a CPU take a quarter of the
time of dot products along rows.
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
    k: keys [L, N, K, H, C].
    v: values [L, N, K, C, H].
    mask_NC: bool, real prompt tokens.
  """

  k: jax.Array
  v: jax.Array
  mask_NC: jax.Array


@struct.dataclass
class Cache:
  """Keys and values of responses, filled up to `length`.

  Attributes:
    k: keys, L arrays [N, R, K, H, S].
    v: values, L arrays [N, R, K, S, H].
    length: int32 scalar, number of columns written, equal for all rows.
  """

  k: tuple[jax.Array, ...]
  v: tuple[jax.Array, ...]
  length: jax.Array

  @property
  def size(self) -> int:
    """Number of columns allocated, S."""
    return self.k[0].shape[-1]


def empty(
  config: config_lib.ModelConfig, rows: int, responses: int, size: int
) -> Cache:
  """Makes an empty cache.

  Args:
    config: model configuration.
    rows: N.
    responses: R.
    size: number of columns to allocate, S.
  """
  shape = rows, responses, config.num_kv_heads
  k, v = (*shape, config.head_dim, size), (*shape, size, config.head_dim)

  def layers(shape):
    return tuple(
      jnp.zeros(shape, config.dtype) for _ in range(config.num_layers)
    )

  return Cache(k=layers(k), v=layers(v), length=jnp.zeros((), jnp.int32))


def grow(cache: Cache, size: int) -> Cache:
  """Returns the cache with `size` allocated columns; new ones are zero."""
  more, no = (0, size - cache.size), (0, 0)  # zeros after each axis
  return cache.replace(
    k=tuple(jnp.pad(k, (no, no, no, no, more)) for k in cache.k),
    v=tuple(jnp.pad(v, (no, no, no, more, no)) for v in cache.v),
  )


def write(past, new) -> tuple[jax.Array, jax.Array]:
  """Writes new columns into the keys and values of a layer.

  Args:
    past: (k, v, start): one layer's arrays of a `Cache`, and the first column
      to write.
    new: (k, v) of the new columns, [N, R, K, H, T] and [N, R, K, T, H].

  Returns:
    (k, v) with the new columns.
  """
  k, v, start = past
  return (
    lax.dynamic_update_slice(k, new[0], (0, 0, 0, 0, start)),
    lax.dynamic_update_slice(v, new[1], (0, 0, 0, start, 0)),
  )


def bytes_per_token(config: config_lib.ModelConfig) -> int:
  """Bytes of one token's keys and values in all layers."""
  return (
    2
    * config.num_layers
    * config.num_kv_heads
    * config.head_dim
    * jnp.dtype(config.dtype).itemsize
  )
