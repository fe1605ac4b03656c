"""The cache of responses: written in place, grown, and counted."""

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib

CONFIG = config_lib.ModelConfig.tiny(vocab_size=40, num_layers=2)


def filled():
  """A full cache of two layers, 2 rows, 3 responses and 4 columns."""
  cache = cache_lib.empty(CONFIG, 2, 3, 4)
  k, v = (
    tuple(
      jnp.arange(float(x.size)).reshape(x.shape) + i for i, x in enumerate(part)
    )
    for part in (cache.k, cache.v)
  )
  return cache_lib.Cache(k=k, v=v, length=jnp.int32(4))


def test_empty_cache_has_room_and_nothing_in_it():
  cache = cache_lib.empty(CONFIG, 2, 3, 4)
  assert [x.shape for x in cache.k] == [(2, 3, 2, 16, 4)] * 2
  assert [x.shape for x in cache.v] == [(2, 3, 2, 4, 16)] * 2
  assert cache.size == 4 and cache.length == 0
  assert all(x.dtype == jnp.float32 for x in (*cache.k, *cache.v))
  assert not any(x.any() for x in jax.tree.leaves(cache))
  narrow = config_lib.ModelConfig.tiny(dtype="bfloat16")
  assert cache_lib.empty(narrow, 1, 1, 1).v[0].dtype == jnp.bfloat16


def test_write_touches_its_columns_alone():
  cache = filled()
  new = -1.0 - jnp.arange(2 * 3 * 2 * 2 * 16.0)
  keys, values = new.reshape(2, 3, 2, 16, 2), new.reshape(2, 3, 2, 2, 16)
  k, v = cache_lib.write((cache.k[1], cache.v[1], jnp.int32(1)), (keys, values))
  np.testing.assert_array_equal(k[..., 1:3], keys)
  np.testing.assert_array_equal(v[..., 1:3, :], values)
  for column in (0, 3):
    np.testing.assert_array_equal(k[..., column], cache.k[1][..., column])
    np.testing.assert_array_equal(v[..., column, :], cache.v[1][..., column, :])


def test_grown_cache_keeps_what_it_holds():
  cache = filled()
  k, v = cache_lib.grow(cache.k[1], cache.v[1], 7)
  assert k.shape == (2, 3, 2, 16, 7) and v.shape == (2, 3, 2, 7, 16)
  np.testing.assert_array_equal(k[..., :4], cache.k[1])
  np.testing.assert_array_equal(v[..., :4, :], cache.v[1])
  assert not k[..., 4:].any() and not v[..., 4:, :].any()


def test_flush_appends_the_new_columns():
  new = filled()
  cache = cache_lib.empty(CONFIG, 2, 3, 12).replace(length=jnp.int32(4))
  cache = cache_lib.flush(cache, new)
  assert cache.length == 8 and cache.size == 12
  for i in range(2):
    np.testing.assert_array_equal(cache.k[i][..., 4:8], new.k[i])
    np.testing.assert_array_equal(cache.v[i][..., 4:8, :], new.v[i])
    for rest in (slice(0, 4), slice(8, 12)):
      assert not cache.k[i][..., rest].any()
      assert not cache.v[i][..., rest, :].any()


def test_bytes_of_a_token_are_those_of_its_columns():
  cache = cache_lib.empty(CONFIG, 2, 3, 4)
  assert cache_lib.bytes_per_token(CONFIG) == 2 * 2 * 2 * 16 * 4
  assert cache_lib.bytes_per_token(CONFIG) * 2 * 3 * 4 == sum(
    x.nbytes for x in (*cache.k, *cache.v)
  )
  narrow = config_lib.ModelConfig.tiny(
    vocab_size=40, num_layers=2, dtype="bfloat16"
  )
  assert cache_lib.bytes_per_token(narrow) == 2 * 2 * 2 * 16 * 2
