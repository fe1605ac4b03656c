"""Attention over own keys and a shared prefix, against one plain softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from progrpo_jax.models import attention

N, R, T, S, P, K, M, H = 2, 3, 4, 5, 6, 2, 2, 8


def attend(q, own, own_mask, prefix=None, prefix_mask=None):
  """`attention.attend` of keys and values that all have time before heads."""
  def order(pair, batch):
    k, v = (jnp.moveaxis(x, batch, batch + 1) for x in pair)
    return jnp.swapaxes(k, -1, -2), v

  return attention.attend(
      q, order(own, 2), own_mask,
      None if prefix is None else order(prefix, 1), prefix_mask)


run = jax.jit(attend)


def case(seed=0, size=1.0):
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return (size * rng.normal(size=shape)).astype(np.float32)

  q = normal(N, R, T, K, M, H)
  own = normal(N, R, S, K, H), normal(N, R, S, K, H)
  prefix = normal(N, P, K, H), normal(N, P, K, H)
  own_mask = rng.random((N, R, T, S)) < 0.6
  own_mask[..., 0] = True
  prefix_mask = rng.random((N, P)) < 0.6
  prefix_mask[:, -1] = True
  return q, own, own_mask, prefix, prefix_mask


def plain(q, own, own_mask, prefix=None, prefix_mask=None):
  """One softmax over all keys, in float64, heads repeated."""
  k, v = (np.asarray(x, np.float64) for x in own)
  seen = np.broadcast_to(own_mask, q.shape[:3] + k.shape[2:3])
  if prefix is not None:
    k, v = (
        np.concatenate([np.repeat(p[:, None], R, 1), x], axis=2)
        for p, x in zip(prefix, (k, v)))
    seen = np.concatenate([
        np.broadcast_to(prefix_mask[:, None, None], q.shape[:3] + (P,)),
        seen], axis=-1)
  scores = np.einsum("nrtkmh,nrskh->nrtkms", q, k) / np.sqrt(H)
  scores = np.where(seen[:, :, :, None, None], scores, -np.inf)
  weights = scipy.special.softmax(scores, axis=-1)
  return np.einsum("nrtkms,nrskh->nrtkmh", weights, v)


def test_two_keys_by_hand():
  q = jnp.full((1, 1, 1, 1, 1, 1), 2.0)
  k = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1, 1)
  v = jnp.array([10.0, 20.0]).reshape(1, 1, 2, 1, 1)
  share = np.exp(2) / (1 + np.exp(2))
  out = run(q, (k, v), jnp.ones((1, 1, 1, 2), bool))
  np.testing.assert_allclose(out, 10 + 10 * share, rtol=1e-6)
  # The first key as a prefix: the same softmax over both.
  out = run(
      q, (k[:, :, 1:], v[:, :, 1:]), jnp.ones((1, 1, 1, 1), bool),
      (k[:, 0, :1], v[:, 0, :1]), jnp.ones((1, 1), bool))
  np.testing.assert_allclose(out, 10 + 10 * share, rtol=1e-6)


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_attention_equals_one_plain_softmax(size, with_prefix):
  args = case(size=size)
  args = args if with_prefix else args[:3]
  np.testing.assert_allclose(
      run(*args), plain(*args), atol=3e-6 * size * max(size, 1) ** 2)


def test_masks_broadcast_over_rows_and_responses():
  q, own, _, prefix, prefix_mask = case()
  causal = np.tril(np.ones((T, S), bool))
  np.testing.assert_allclose(
      run(q, own, causal, prefix, prefix_mask),
      plain(q, own, causal, prefix, prefix_mask), atol=3e-6)


def test_masked_keys_have_no_influence():
  q, own, own_mask, prefix, prefix_mask = case()
  hidden = ~own_mask.any(axis=2)[..., None, None]
  garbage = tuple(np.where(hidden, 1e4, x).astype(np.float32) for x in own)
  away = ~prefix_mask[:, :, None, None]
  rubbish = tuple(np.where(away, -1e4, x).astype(np.float32) for x in prefix)
  np.testing.assert_array_equal(
      run(q, garbage, own_mask, rubbish, prefix_mask),
      run(q, own, own_mask, prefix, prefix_mask))


def test_prefix_without_real_tokens_is_no_prefix():
  q, own, own_mask, prefix, _ = case()
  np.testing.assert_allclose(
      run(q, own, own_mask, prefix, np.zeros((N, P), bool)),
      run(q, own, own_mask), atol=1e-6)


def test_query_that_sees_nothing_is_finite_and_so_is_its_gradient():
  q, own, _, prefix, _ = case()

  def total(q, own, prefix):
    nothing = jnp.zeros((T, S), bool)
    out = run(q, own, nothing, prefix, jnp.zeros((N, P), bool))
    return jnp.sum(out ** 2) + jnp.sum(
        run(q, own, nothing) ** 2)

  out = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, own, prefix)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))


def test_scores_far_apart_do_not_overflow():
  q, own, own_mask, prefix, prefix_mask = case(size=40.0)
  out = run(q, own, own_mask, prefix, prefix_mask)
  assert np.isfinite(out).all()
  np.testing.assert_allclose(
      out, plain(q, own, own_mask, prefix, prefix_mask), atol=0.1)


def test_gradients_equal_those_of_one_softmax():
  q, own, own_mask, prefix, prefix_mask = case()
  direction = np.random.default_rng(1).normal(size=q.shape)

  def joined(q, own, prefix):
    k, v = (
        jnp.concatenate([jnp.repeat(p[:, None], R, 1), x], axis=2)
        for p, x in zip(prefix, own))
    seen = jnp.concatenate([
        jnp.broadcast_to(prefix_mask[:, None, None], (N, R, T, P)),
        own_mask], axis=-1)
    scores = jnp.einsum("nrtkmh,nrskh->nrtkms", q, k) / np.sqrt(H)
    scores = jnp.where(seen[:, :, :, None, None], scores, -jnp.inf)
    out = jnp.einsum("nrtkms,nrskh->nrtkmh", jax.nn.softmax(scores), v)
    return jnp.sum(out * direction)

  def ours(q, own, prefix):
    out = attend(q, own, own_mask, prefix, prefix_mask)
    return jnp.sum(out * direction)

  found, expected = (
      jax.jit(jax.grad(f, (0, 1, 2)))(q, own, prefix) for f in (ours, joined))
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
      found, expected)


def test_bfloat16_stays_and_is_close():
  q, own, own_mask, prefix, prefix_mask = case()
  narrow = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.bfloat16), (q, own, prefix))
  out = run(narrow[0], narrow[1], own_mask, narrow[2], prefix_mask)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(
      np.asarray(out, np.float32),
      plain(q, own, own_mask, prefix, prefix_mask), atol=0.05)
