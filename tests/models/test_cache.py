"""The cache of responses: written in place, grown, and counted."""

import jax.numpy as jnp
import numpy as np

from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib

CONFIG = config_lib.ModelConfig.tiny(vocab_size=40, num_layers=2)


def filled():
  cache = cache_lib.empty(CONFIG, 2, 3, 4)
  return cache.replace(
      k=jnp.arange(cache.k.size, dtype=jnp.float32).reshape(cache.k.shape),
      length=jnp.int32(4))


def test_empty_cache_has_room_and_nothing_in_it():
  cache = cache_lib.empty(CONFIG, 2, 3, 4)
  assert cache.k.shape == cache.v.shape == (2, 2, 3, 4, 2, 16)
  assert cache.k.dtype == jnp.float32
  assert cache.length == 0 and not cache.k.any() and not cache.v.any()
  narrow = config_lib.ModelConfig.tiny(dtype="bfloat16")
  assert cache_lib.empty(narrow, 1, 1, 1).v.dtype == jnp.bfloat16


def test_write_touches_one_layer_and_its_columns():
  before = filled().k
  new = -1.0 - jnp.arange(2 * 3 * 2 * 2 * 16.0).reshape(2, 3, 2, 2, 16)
  after = cache_lib.write(before, new, 1, 1)
  np.testing.assert_array_equal(after[1, :, :, 1:3], new)
  np.testing.assert_array_equal(after[0], before[0])
  np.testing.assert_array_equal(after[1, :, :, 0], before[1, :, :, 0])
  np.testing.assert_array_equal(after[1, :, :, 3], before[1, :, :, 3])
  np.testing.assert_array_equal(cache_lib.read(after, 1), after[1])


def test_grown_cache_keeps_what_it_holds():
  cache = filled()
  grown = cache_lib.grow(cache, 7)
  assert grown.k.shape == grown.v.shape == (2, 2, 3, 7, 2, 16)
  np.testing.assert_array_equal(grown.k[:, :, :, :4], cache.k)
  assert not grown.k[:, :, :, 4:].any()
  assert grown.length == 4


def test_bytes_of_a_token_are_those_of_its_columns():
  cache = cache_lib.empty(CONFIG, 2, 3, 4)
  assert cache_lib.bytes_per_token(CONFIG) == 2 * 2 * 2 * 16 * 4
  assert cache_lib.bytes_per_token(CONFIG) * 2 * 3 * 4 == (
      cache.k.nbytes + cache.v.nbytes)
  narrow = config_lib.ModelConfig.tiny(
      vocab_size=40, num_layers=2, dtype="bfloat16")
  assert cache_lib.bytes_per_token(narrow) == 2 * 2 * 2 * 16 * 2
