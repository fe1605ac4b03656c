"""The key-value cache: two records of arrays, `Prefix` and `Cache`.

`Prefix` holds the keys and values of prompts, computed once by `prefill` and
shared by the responses of a row. `Cache` holds those of the growing responses,
one array per layer. Sampling keeps two of them: a large one, which a chunk of
tokens only reads, and a small one for the columns of the chunk. The small one
is carried through the loop over tokens, and `flush` moves its columns into the
large one after each chunk: a TPU's compiler may write a carried array back
whole for every token.

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
    k: keys [L, N, K, H, C], or L arrays [N, K, H, C].
    v: values [L, N, K, C, H], or L arrays [N, K, C, H].
    mask_NC: bool, real prompt tokens.
  """

  k: jax.Array | tuple[jax.Array, ...]
  v: jax.Array | tuple[jax.Array, ...]
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


def grow(k, v, size: int) -> tuple[jax.Array, jax.Array]:
  """Returns a layer's keys and values with `size` columns; new ones are zero.

  Args:
    k: keys [N, R, K, H, S].
    v: values [N, R, K, S, H].
    size: at least S.
  """
  more, no = (0, size - k.shape[-1]), (0, 0)  # zeros after each axis
  return (
    jnp.pad(k, (no, no, no, no, more)),
    jnp.pad(v, (no, no, no, more, no)),
  )


def flush(cache: Cache, new: Cache) -> Cache:
  """Appends all columns of `new` to those that are filled.

  Args:
    cache: cache with room for them.
    new: full cache of the same rows.
  """
  layers = [
    write((k, v, cache.length), own)
    for k, v, *own in zip(cache.k, cache.v, new.k, new.v, strict=True)
  ]
  k, v = zip(*layers, strict=True)
  return Cache(k=k, v=v, length=cache.length + new.size)


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
