"""A batch of responses made smaller, or given room for longer ones.

Between two calls of decoding the rows that still live move together, so that
those that have ended cost nothing, and a cache that is full gets more columns.
"""

import functools
import math

import jax
import jax.numpy as jnp

from progrpo_jax.devices import sharding
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.rollout import decoding


def smaller(
  rows: int, prompts: int, width: int, size: int, s: decoding.Settings
) -> list[int]:
  """Numbers of rows to which a device's share may be made smaller, falling.

  While the responses of a prompt share its keys, a step reads `prompts * width
  + rows * size` columns of keys; in a smaller batch each row has keys of its
  own. Only sizes that read no more than now are taken.

  Args:
    rows: rows of a device now.
    prompts: prompts of a device whose keys are held.
    width: columns of a prompt.
    size: columns of a response.
    s: settings of sampling.
  """
  counts, now = [], prompts * width + rows * size
  count = rows
  while count > 1 and math.ceil(count / 2) >= s.least_rows:
    count = math.ceil(count / 2)
    if count * (width + size) <= now:
      counts.append(count)
  return counts


def keep_living(
  state: decoding.DecodeState, prefix: cache_lib.Prefix, rows: int
) -> tuple[decoding.DecodeState, cache_lib.Prefix]:
  """Moves the living rows of each device into a batch of `rows` per device.

  No row leaves its device. Each has its prompt's keys to itself afterwards:
  the cache is [B, 1] and the keys of prompts [B].

  Args:
    state: state; the arrays of its cache are deleted.
    prefix: keys of the prompts; its arrays are deleted.
    rows: at least the number of rows of any device that live.

  Returns:
    (state, prefix) of the smaller batch.
  """
  group = state.cache.k[0].shape[1]
  index_B = _living(state.alive_B, rows)
  mask_NC = _take(prefix.mask_NC, index_B, decoding.ROWS, group)
  rest = _take(
    {
      name: getattr(state, name)
      for name in decoding.DecodeState.__dataclass_fields__
      if name not in ("step", "cache")
    },
    index_B,
    decoding.ROWS,
  )
  layers = [
    _replaced(_take_layer, layer, index_B)
    for layer in zip(
      state.cache.k, state.cache.v, prefix.k, prefix.v, strict=True
    )
  ]
  k, v, prefix_k, prefix_v = zip(*layers, strict=True)
  return (
    state.replace(cache=state.cache.replace(k=k, v=v), **rest),
    cache_lib.Prefix(k=prefix_k, v=prefix_v, mask_NC=mask_NC),
  )


def grow(cache: cache_lib.Cache, size: int) -> cache_lib.Cache:
  """The cache with `size` columns; the arrays of the old one are deleted."""
  layers = [
    _replaced(_grow_layer, layer, size)
    for layer in zip(cache.k, cache.v, strict=True)
  ]
  k, v = zip(*layers, strict=True)
  return cache.replace(k=k, v=v)


def _replaced(function, arrays, *args):
  """Result of a function of a layer's arrays, which are deleted.

  Layer by layer, so that at any time one layer at most is held twice.
  """
  result = jax.block_until_ready(function(arrays, *args))
  for x in arrays:
    x.delete()
  return result


@functools.partial(jax.jit, static_argnames="size")
def _grow_layer(layer, size: int):
  """A layer's (k, v) with `size` columns."""
  return tuple(
    sharding.constrain(x, decoding.CACHE) for x in cache_lib.grow(*layer, size)
  )


@functools.partial(jax.jit, static_argnames="rows")
def _living(alive_B, rows: int) -> jax.Array:
  """Numbers of `rows` rows of each device, the living ones in front."""
  return sharding.by_shard(
    lambda alive: jnp.argsort(~alive, stable=True)[:rows].astype(jnp.int32),
    (alive_B,),
    (decoding.ROWS,),
  )


@functools.partial(jax.jit, static_argnames=("axes", "group"))
def _take(tree, index_B, axes, group: int = 1):
  """Rows of arrays by their numbers among those of their device.

  Args:
    tree: arrays of rows, or of one row for `group` consecutive numbers.
    index_B: int32 numbers, from `_living`.
    axes: logical axes of the arrays; the rest is not split.
    group: see `tree`.
  """

  def take(x):
    taken = sharding.by_shard(
      lambda x, index: x[index // group],
      (x, index_B),
      (axes + (None,) * (x.ndim - len(axes)), decoding.ROWS),
    )
    return sharding.constrain(taken, axes)

  return jax.tree.map(take, tree)


@jax.jit
def _take_layer(layer, index_B):
  """Rows of a layer: (k, v) of the responses, and (k, v) of the prompts."""
  group = layer[0].shape[1]
  own = tuple(x.reshape(-1, 1, *x.shape[2:]) for x in layer[:2])
  return (
    *_take(own, index_B, decoding.CACHE),
    *_take(layer[2:], index_B, decoding.PREFIX, group),
  )
