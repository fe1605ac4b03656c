"""Clip-Cov and KL-Cov: which tokens they touch, and how.

Eight tokens whose advantages are +1 and -1 and whose log-probs have mean -3,
so that every covariance can be read off.
"""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.algos import losses

LOGP = np.float32([[-1.0, -1.5, -2.0, -2.5], [-5.0, -4.5, -3.5, -4.0]])
COV = np.float32([[2.0, 1.5, 1.0, 0.5], [2.0, 1.5, 0.5, 1.0]])
ADV = np.float32([1.0, -1.0])


def toy(ratio=1.0, masked=False):
  """The eight tokens at the given ratios; a ninth column may be padding."""
  ratio = np.broadcast_to(np.asarray(ratio, np.float32), (2, 4))
  logp, old = LOGP, LOGP - np.log(ratio)
  mask = np.ones((2, 4), bool)
  if masked:
    logp, old, mask = (
      np.concatenate([x, np.full((2, 1), junk)], axis=1)
      for x, junk in ((logp, np.nan), (old, np.nan), (mask, False))
    )
  return batch.LossInputs(
    logp_BT=jnp.asarray(logp),
    old_logp_BT=jnp.asarray(old),
    adv_B=jnp.asarray(ADV),
    mask_BT=jnp.asarray(mask),
  )


def gradient(inputs, loss):
  """d sum(loss) / d logp."""
  return np.asarray(
    jax.grad(lambda x: jnp.sum(loss(inputs.replace(logp_BT=x))[0]))(
      inputs.logp_BT
    )
  )


def dropped(inputs, key, **options):
  """Which tokens Clip-Cov takes out, as indices."""
  grad = gradient(
    inputs, functools.partial(losses.clip_cov, key=key, **options)
  )
  return tuple(np.flatnonzero(grad[:, :4].ravel() == 0))


@pytest.mark.parametrize("masked", [False, True])
def test_covariance_is_of_log_prob_and_advantage(masked):
  """Means over real tokens: -3 and 0."""
  _, metrics = losses.kl_cov(toy(masked=masked))
  np.testing.assert_allclose(
    metrics["covariance/mean"], (COV.sum(), 8), rtol=1e-6
  )


# Clip-Cov.


def test_clip_cov_drops_all_candidates_where_they_are_few():
  # Cov in (1, 5): not the tokens at exactly 1.
  for masked in (False, True):
    inputs = toy(masked=masked)
    assert dropped(inputs, jax.random.key(0), share=1.0) == (0, 1, 4, 5)
  loss_BT, metrics = losses.clip_cov(toy(), key=jax.random.key(0), share=1.0)
  np.testing.assert_array_equal(loss_BT, [[0, 0, -1, -1], [0, 0, 1, 1]])
  assert metrics["clip_cov/candidates"] == (4, 8)
  assert metrics["clip_cov/dropped"] == (4, 8)


def test_clip_cov_bounds_of_the_covariance():
  options = dict(share=1.0, cov_low=0.75, cov_high=1.75)
  assert dropped(toy(), jax.random.key(0), **options) == (1, 2, 5, 7)


def test_clip_cov_leaves_out_what_is_clipped_already():
  # Token 1 is good and at 1.5, token 5 bad and at 0.5: both clipped. Token 0
  # is good and at 0.5, token 4 bad and at 1.5: both not.
  ratio = [[0.5, 1.5, 1.0, 1.0], [1.5, 0.5, 1.0, 1.0]]
  loss = functools.partial(losses.clip_cov, key=jax.random.key(0), share=1.0)
  loss_BT, metrics = loss(toy(ratio))
  np.testing.assert_allclose(
    loss_BT, [[0, -1.2, -1, -1], [0, 0.8, 1, 1]], rtol=1e-6
  )
  np.testing.assert_allclose(
    gradient(toy(ratio), loss), [[0, 0, -1, -1], [0, 0, 1, 1]], rtol=1e-6
  )
  assert metrics["clip_cov/candidates"] == (2, 8)
  assert metrics["clip_ratio/low_mean"] == (1, 8)
  assert metrics["clip_ratio/high_mean"] == (1, 8)


@pytest.mark.parametrize(
  "share, count",
  [(1e-4, 1), (0.24, 1), (0.25, 2), (0.37, 2), (0.375, 3), (0.9, 4)],
)
def test_clip_cov_drops_a_share_of_all_tokens_and_at_least_one(share, count):
  for seed in range(5):
    chosen = dropped(toy(masked=True), jax.random.key(seed), share=share)
    assert len(chosen) == count
    assert set(chosen) <= {0, 1, 4, 5}


def test_clip_cov_draws_with_equal_chances():
  def drop(key):
    loss_BT, _ = losses.clip_cov(toy(), key=key, share=0.25)
    return loss_BT == 0

  chosen = jax.vmap(drop)(jax.random.split(jax.random.key(0), 1200))
  chosen = np.asarray(chosen).reshape(1200, 8)
  pairs = collections.Counter(
    tuple(np.flatnonzero(row).tolist()) for row in chosen
  )
  # Six pairs of four candidates, 200 expected of each: sigma is 13.
  assert set(pairs) == {(0, 1), (0, 4), (0, 5), (1, 4), (1, 5), (4, 5)}
  assert all(abs(n - 200) < 60 for n in pairs.values()), pairs


def test_clip_cov_draws_by_its_key_alone():
  inputs, keys = toy(), [jax.random.key(n) for n in range(20)]
  first = [dropped(inputs, key, share=0.25) for key in keys]
  assert first == [dropped(inputs, key, share=0.25) for key in keys]
  assert len(set(first)) > 3
  # The key may travel with the inputs.
  for key, chosen in zip(keys[:5], first):
    assert dropped(inputs.replace(key=key), None, share=0.25) == chosen
  with pytest.raises(ValueError, match="key"):
    losses.clip_cov(inputs)


def test_clip_cov_jits_over_its_key():
  call = jax.jit(lambda x, key: losses.clip_cov(x, key=key, share=0.25)[0])
  for seed in range(5):
    key = jax.random.key(seed)
    np.testing.assert_allclose(
      call(toy(), key),
      losses.clip_cov(toy(), key=key, share=0.25)[0],
      rtol=1e-6,
    )


def test_clip_cov_without_candidates_is_the_surrogate():
  inputs = toy([[0.5, 1.5, 1.0, 1.0], [1.5, 0.5, 1.0, 1.0]])
  got, metrics = losses.clip_cov(
    inputs, key=jax.random.key(0), share=1.0, cov_low=3.0
  )
  expected, _ = losses.clip(inputs, epsilon=0.2, epsilon_high=0.2)
  np.testing.assert_array_equal(got, expected)
  assert metrics["clip_cov/dropped"] == (0, 8)


# KL-Cov.


def test_kl_cov_penalises_the_tokens_of_highest_covariance():
  ratio = np.float32([[1.5, 0.5, 2.0, 1.0], [0.5, 3.0, 1.0, 1.0]])
  loss = functools.partial(losses.kl_cov, share=0.25, coef=0.5)
  loss_BT, metrics = loss(toy(ratio, masked=True))
  plain = -ratio * ADV[:, None]
  # Two of eight: tokens 0 and 4, at 1.5 and 0.5.
  expected = plain.copy()
  expected[0, 0] += 0.5 * np.log(1.5)
  expected[1, 0] += 0.5 * np.log(2.0)
  np.testing.assert_allclose(loss_BT[:, :4], expected, rtol=1e-6)
  # No ratio is clipped, and the penalty pulls back to the old policy.
  slope = plain.copy()
  slope[0, 0] += 0.5
  slope[1, 0] -= 0.5
  np.testing.assert_allclose(gradient(toy(ratio), loss), slope, rtol=1e-6)
  assert metrics["kl_cov/penalised"] == (2, 8)
  np.testing.assert_allclose(
    metrics["kl_cov/penalty"], (0.5 * np.log(3.0), 8), rtol=1e-6
  )


@pytest.mark.parametrize(
  "share, count", [(1e-4, 1), (0.25, 2), (0.49, 3), (0.5, 4), (1.0, 8)]
)
def test_kl_cov_takes_a_share_of_the_tokens_and_at_least_one(share, count):
  _, metrics = losses.kl_cov(toy(masked=True), share=share)
  assert metrics["kl_cov/penalised"] == (count, 8)


def test_a_share_just_below_a_whole_number_of_tokens():
  assert np.float32(0.072) * np.float32(375) < 27
  zeros = jnp.zeros((3, 125))
  inputs = batch.LossInputs(
    logp_BT=zeros,
    old_logp_BT=zeros,
    adv_B=jnp.arange(3.0),
    mask_BT=jnp.ones((3, 125), bool),
  )
  _, metrics = losses.kl_cov(inputs, share=0.072)
  assert metrics["kl_cov/penalised"] == (27, 375)


def test_kl_cov_pulls_back_a_token_that_has_run_away():
  # Further than exp can follow, where the ratio itself has no gradient.
  inputs = toy().replace(old_logp_BT=toy().old_logp_BT.at[0, 0].add(-40.0))
  loss = functools.partial(losses.kl_cov, share=0.01)
  assert gradient(inputs, loss)[0, 0] == 1.0


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_impossible_share_is_an_error(share):
  with pytest.raises(ValueError, match=str(share)):
    losses.kl_cov(toy(), share=share)
  with pytest.raises(ValueError, match=str(share)):
    losses.clip_cov(toy(), key=jax.random.key(0), share=share)
