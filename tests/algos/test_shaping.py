"""Length shaping and the group filter against the papers' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.algos import advantages, shaping


def test_overlong_penalty_golden():
  # DAPO: 20480 tokens at most, 4096 of them the cache.
  lengths = np.array([0, 16000, 16384, 17408, 18432, 20480, 20481, 10**6])
  got = shaping.overlong_penalty(lengths, 20480, 4096)
  np.testing.assert_allclose(got, [0, 0, 0, -0.25, -0.5, -1, -1, -1])
  assert got.dtype == jnp.float32


@pytest.mark.parametrize("cache", [0, -1, 101])
def test_overlong_cache_must_fit(cache):
  with pytest.raises(ValueError, match=f"{cache}"):
    shaping.overlong_penalty(np.array([1]), 100, cache)


def test_cosine_length_golden():
  got = shaping.cosine_length(np.array([0, 25, 50, 75, 100]), 100, -1.0, 0.0)
  np.testing.assert_allclose(
    got, [0, -0.146447, -0.5, -0.853553, -1], atol=1e-6
  )
  assert got.dtype == jnp.float32


def test_cosine_length_does_not_rise_again():
  got = shaping.cosine_length(np.array([100, 150, 200]), 100, 0.5, 2.0)
  np.testing.assert_allclose(got, 0.5, atol=1e-6)
  with pytest.raises(ValueError, match="0"):
    shaping.cosine_length(np.array([1]), 0, -1.0, 0.0)


def test_truncated_reward():
  reward, finished = [1.0, 1.0, 0.5, -1.0], np.array([True, False, False, True])
  np.testing.assert_array_equal(
    shaping.truncated_reward(reward, finished), [1, 0, 0, -1]
  )
  np.testing.assert_array_equal(
    shaping.truncated_reward(reward, finished, 0.5), [1, 0.5, 0.25, -1]
  )
  # A wrong answer gains nothing by being cut.
  for factor in (0.0, 0.5, 1.0):
    np.testing.assert_array_equal(
      shaping.truncated_reward([-1.0, -1.0], np.array([True, False]), factor),
      [-1, -1],
    )
  with pytest.raises(AssertionError, match="bool"):
    shaping.truncated_reward(reward, np.ones(4))


GROUPS = np.array(
  [
    [1, 1, 1, 1],  # all right
    [0, 0, 0, 0],  # all wrong
    [1, 0, 1, 1],
    [0.3, 0.3, 0.3, 0.3],  # equal, and neither
    [0.3, 0.3, 0.3, 0.4],
    [1, 1, 1, 1 - 5e-7],  # right but for rounding
  ]
)


def test_keep_groups_that_differ():
  got = shaping.keep_groups(GROUPS)
  assert got.dtype == bool
  assert got.tolist() == [False, False, True, False, True, False]


def test_keep_all_correct_groups_for_arm():
  got = shaping.keep_groups(GROUPS, keep_all_correct=True)
  assert got.tolist() == [True, False, True, False, True, True]


def test_tolerance():
  rewards = [[0.5, 0.55], [0.95, 0.95]]
  assert shaping.keep_groups(rewards).tolist() == [True, False]
  got = shaping.keep_groups(rewards, tol=0.1, keep_all_correct=True)
  assert got.tolist() == [False, True]


def test_rewards_that_differ_by_rounding_alone_are_equal():
  rewards = np.array([[30, np.nextafter(np.float32(30), 31)]] * 2, np.float32)
  rewards[1] = 30, 30.1
  assert shaping.keep_groups(rewards).tolist() == [False, True]
  assert not np.any(advantages.grpo(rewards)[0])


@pytest.mark.parametrize("keep_all_correct", [False, True])
def test_masked_samples_do_not_count(keep_all_correct):
  rewards = np.array(
    [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, np.nan], [1.0, 1.0, 1.0]]
  )
  valid = np.array([[True, True, False]] * 3 + [[False] * 3])
  got = shaping.keep_groups(
    rewards, keep_all_correct=keep_all_correct, valid_PG=valid
  )
  assert got.tolist() == [False, keep_all_correct, True, False]


def test_dropped_groups_are_those_without_a_gradient():
  rewards = np.random.default_rng(0).integers(0, 2, (50, 3)).astype(np.float32)
  teaches = np.any(np.asarray(advantages.grpo(rewards)) != 0, axis=1)
  np.testing.assert_array_equal(shaping.keep_groups(rewards), teaches)
  assert 0 < teaches.sum() < 50


def test_jit_and_shapes():
  np.testing.assert_array_equal(
    jax.jit(shaping.keep_groups)(GROUPS), shaping.keep_groups(GROUPS)
  )
  lengths = np.array([3, 8])
  np.testing.assert_allclose(
    jax.jit(lambda x: shaping.overlong_penalty(x, 10, 5))(lengths),
    [0, -0.6],
    rtol=1e-6,
  )
  with pytest.raises(AssertionError, match=r"\(4,\)"):
    shaping.keep_groups(GROUPS[0])
  with pytest.raises(AssertionError, match=r"\(6, 4\)"):
    shaping.overlong_penalty(GROUPS, 10, 5)


def _cosine(a, b, n):
  """Of the sets of n-grams of two lists of words, None for a blank."""

  def grams(words):
    padded = [None] * (n - 1) + words
    return {
      tuple(padded[i : i + n])
      for i in range(len(words))
      if words[i] is not None
    }

  a, b = grams(a), grams(b)
  return len(a & b) / (len(a) * len(b)) ** 0.5


def test_ngram_similarity_golden():
  tokens = np.array([[[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4], [9, 9, 0, 0]]])
  mask = np.ones_like(tokens, bool)
  mask[0, 3, 2:] = False
  got = shaping.ngram_similarity(tokens, mask, 2)
  # Three of four bigrams are shared: _1, 12 and 23.
  near = [1, 0.75, 1, 0]
  np.testing.assert_allclose(
    got[0], [near, [0.75, 1, 0.75, 0], near, [0, 0, 0, 1]], rtol=1e-6
  )


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_ngram_similarity_against_sets(n):
  """Repeats count once; masks have holes, as a dialogue's have."""
  rng = np.random.default_rng(n)
  tokens = rng.integers(0, 3, (2, 4, 6))
  mask = rng.random((2, 4, 6)) > 0.3
  mask[..., 0] = True
  got = np.asarray(shaping.ngram_similarity(tokens, mask, n))
  words = np.where(mask, tokens.astype(object), None)
  for p in range(2):
    for i in range(4):
      for j in range(4):
        expected = _cosine(words[p, i].tolist(), words[p, j].tolist(), n)
        np.testing.assert_allclose(got[p, i, j], expected, rtol=1e-6)
  np.testing.assert_array_equal(got, got.swapaxes(1, 2))
  jitted = jax.jit(shaping.ngram_similarity, static_argnums=2)
  np.testing.assert_allclose(jitted(tokens, mask, n), got, rtol=1e-6)


def test_ngram_similarity_of_long_texts_has_no_chance_hits():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 150_000, (1, 3, 4000))
  got = shaping.ngram_similarity(tokens, np.ones_like(tokens, bool), 3)
  assert np.max(np.asarray(got)[0] - np.eye(3)) < 2e-3


def test_a_response_without_tokens_is_like_itself_alone():
  got = shaping.ngram_similarity(
    np.zeros((1, 3, 2), int), np.array([[[False] * 2] * 2 + [[True] * 2]])
  )
  np.testing.assert_array_equal(got[0], np.eye(3))
  with pytest.raises(ValueError, match="n = 0"):
    shaping.ngram_similarity(np.zeros((1, 3, 2), int), np.ones((1, 3, 2)), 0)


def test_unlikeliness_reward_golden():
  # None, one and a half of four (a tie counts half), and three less likely.
  got = shaping.unlikeliness_reward(
    [[1.0, 1, 0.5, 1]],
    np.array([[True, True, False, True]]),
    [[-9.0, -2.0, -2.0, -1.0]],
    beta=0.4,
  )
  expected = [1, 1 - 0.4 * 1.5 / 4, 0.5, 1 - 0.4 * 3 / 4]
  np.testing.assert_allclose(got, [expected], rtol=1e-6)
