"""Attention over own keys and a shared prefix, against one plain softmax."""

import dataclasses
import functools
import math
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from progrpo_jax.models import attention
from progrpo_jax.models import config as config_lib

N, R, T, S, P, K, M, H = 2, 3, 4, 5, 6, 2, 2, 8


def attend(q, own, own_mask, prefix=None, prefix_mask=None):
  """`attention.attend` of keys and values that all have time before heads."""

  def order(pair, batch):
    k, v = (jnp.moveaxis(x, batch, batch + 1) for x in pair)
    return jnp.swapaxes(k, -1, -2), v

  return attention.attend(
    q,
    order(own, 2),
    own_mask,
    None if prefix is None else order(prefix, 1),
    prefix_mask,
  )


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
      for p, x in zip(prefix, (k, v))
    )
    seen = np.concatenate(
      [np.broadcast_to(prefix_mask[:, None, None], q.shape[:3] + (P,)), seen],
      axis=-1,
    )
  scores = np.einsum("nrtkmh,nrskh->nrtkms", q, k) / np.sqrt(H)
  scores = np.where(seen[:, :, :, None, None], scores, -np.inf)
  weights = scipy.special.softmax(scores, axis=-1)
  return np.einsum("nrtkms,nrskh->nrtkmh", weights, v)


def test_bfloat16_is_rounded_once():
  """Products, their sum and the division are in float32: the result is the
  plain softmax over what bfloat16 holds, but for the weights' own rounding."""
  q, own, own_mask, prefix, prefix_mask = case(seed=3)
  q, own, prefix = jax.tree.map(
    lambda x: jnp.asarray(x, jnp.bfloat16), (q, own, prefix)
  )
  out = run(q, own, own_mask, prefix, prefix_mask)
  assert out.dtype == jnp.bfloat16
  q, own, prefix = jax.tree.map(
    lambda x: np.asarray(x, np.float32), (q, own, prefix)
  )
  expected = plain(q, own, own_mask, prefix, prefix_mask)
  error = np.abs(np.asarray(out, np.float32) - expected)
  assert np.mean(error) < 9e-4


def test_two_keys_by_hand():
  q = jnp.full((1, 1, 1, 1, 1, 1), 2.0)
  k = jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1, 1)
  v = jnp.array([10.0, 20.0]).reshape(1, 1, 2, 1, 1)
  share = np.exp(2) / (1 + np.exp(2))
  out = run(q, (k, v), jnp.ones((1, 1, 1, 2), bool))
  np.testing.assert_allclose(out, 10 + 10 * share, rtol=1e-6)
  # The first key as a prefix: the same softmax over both.
  out = run(
    q,
    (k[:, :, 1:], v[:, :, 1:]),
    jnp.ones((1, 1, 1, 1), bool),
    (k[:, 0, :1], v[:, 0, :1]),
    jnp.ones((1, 1), bool),
  )
  np.testing.assert_allclose(out, 10 + 10 * share, rtol=1e-6)


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_attention_equals_one_plain_softmax(size, with_prefix):
  args = case(size=size)
  args = args if with_prefix else args[:3]
  np.testing.assert_allclose(
    run(*args), plain(*args), atol=3e-6 * size * max(size, 1) ** 2
  )


def test_masks_broadcast_over_rows_and_responses():
  q, own, _, prefix, prefix_mask = case()
  causal = np.tril(np.ones((T, S), bool))
  np.testing.assert_allclose(
    run(q, own, causal, prefix, prefix_mask),
    plain(q, own, causal, prefix, prefix_mask),
    atol=3e-6,
  )


def test_masked_keys_have_no_influence():
  q, own, own_mask, prefix, prefix_mask = case()
  hidden = ~own_mask.any(axis=2)[..., None, None]
  garbage = tuple(np.where(hidden, 1e4, x).astype(np.float32) for x in own)
  away = ~prefix_mask[:, :, None, None]
  rubbish = tuple(np.where(away, -1e4, x).astype(np.float32) for x in prefix)
  np.testing.assert_array_equal(
    run(q, garbage, own_mask, rubbish, prefix_mask),
    run(q, own, own_mask, prefix, prefix_mask),
  )


def test_prefix_without_real_tokens_is_no_prefix():
  q, own, own_mask, prefix, _ = case()
  np.testing.assert_allclose(
    run(q, own, own_mask, prefix, np.zeros((N, P), bool)),
    run(q, own, own_mask),
    atol=1e-6,
  )


def test_query_that_sees_nothing_is_finite_and_so_is_its_gradient():
  q, own, _, prefix, _ = case()

  def total(q, own, prefix):
    nothing = jnp.zeros((T, S), bool)
    out = run(q, own, nothing, prefix, jnp.zeros((N, P), bool))
    return jnp.sum(out**2) + jnp.sum(run(q, own, nothing) ** 2)

  out = jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, own, prefix)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))


def test_scores_far_apart_do_not_overflow():
  q, own, own_mask, prefix, prefix_mask = case(size=40.0)
  out = run(q, own, own_mask, prefix, prefix_mask)
  assert np.isfinite(out).all()
  np.testing.assert_allclose(
    out, plain(q, own, own_mask, prefix, prefix_mask), atol=0.1
  )


def test_gradients_equal_those_of_one_softmax():
  q, own, own_mask, prefix, prefix_mask = case()
  direction = np.random.default_rng(1).normal(size=q.shape)

  def joined(q, own, prefix):
    k, v = (
      jnp.concatenate([jnp.repeat(p[:, None], R, 1), x], axis=2)
      for p, x in zip(prefix, own)
    )
    seen = jnp.concatenate(
      [jnp.broadcast_to(prefix_mask[:, None, None], (N, R, T, P)), own_mask],
      axis=-1,
    )
    scores = jnp.einsum("nrtkmh,nrskh->nrtkms", q, k) / np.sqrt(H)
    scores = jnp.where(seen[:, :, :, None, None], scores, -jnp.inf)
    out = jnp.einsum("nrtkms,nrskh->nrtkmh", jax.nn.softmax(scores), v)
    return jnp.sum(out * direction)

  def ours(q, own, prefix):
    out = attend(q, own, own_mask, prefix, prefix_mask)
    return jnp.sum(out * direction)

  found, expected = (
    jax.jit(jax.grad(f, (0, 1, 2)))(q, own, prefix) for f in (ours, joined)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected
  )


def test_bfloat16_stays_and_is_close():
  q, own, own_mask, prefix, prefix_mask = case()
  narrow = jax.tree.map(
    lambda x: jnp.asarray(x, jnp.bfloat16), (q, own, prefix)
  )
  out = run(narrow[0], narrow[1], own_mask, narrow[2], prefix_mask)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(out, np.float32),
    plain(q, own, own_mask, prefix, prefix_mask),
    atol=0.05,
  )


# What `causal` is asked for: prompts padded on neither side, on the left, and
# on the right down to one token; packed rows of several bundles, of which one
# is full; and bundles whose responses share their prompt.
LONG = 13
CASES = {
  "prompts": ([[1] * 13, [0] * 9 + [1] * 4, [1] + [0] * 12], None),
  "packed": ([[1] * 13, [1] * 4 + [2] * 6 + [3] * 3, [1] * 5 + [0] * 8], None),
  "shared": (
    [[1] * 13, [1] * 7 + [2] * 6, [1] * 9 + [0] * 4],
    [
      [0] * 3 + [1] * 5 + [2] * 5,
      [0] * 2 + [1] * 3 + [2] * 2 + [0] * 4 + [1] + [2],
      [0] * 8 + [2] + [0] * 4,
    ],
  ),
}


def causal_case(name):
  """(q, own, segments) as the layers hand them over."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  q = normal(3, R, LONG, K, M, H)
  own = normal(3, R, K, H, LONG), normal(3, R, K, LONG, H)
  bundle, response = (x if x is None else np.array(x) for x in CASES[name])
  return q, own, attention.Segments(bundle, response)


def seen_by_hand(segments):
  """Bool [N, T, T], key by key, after the definition."""
  rows, length = segments.bundle_NT.shape
  seen = np.zeros((rows, length, length), bool)
  for n, query, key in np.ndindex(seen.shape):
    same = segments.bundle_NT[n, query] == segments.bundle_NT[n, key]
    if segments.response_NT is not None:
      of_query, of_key = segments.response_NT[n, [query, key]]
      same &= of_key in (0, of_query)
    seen[n, query, key] = same and key <= query
  return seen


def values_and_gradients(attend, q, own, segments):
  """Of the queries that are not padding."""
  direction = np.random.default_rng(1).normal(size=q.shape)
  real = (segments.bundle_NT > 0)[:, None, :, None, None, None]
  direction = np.where(real, direction, 0)

  def total(q, own):
    out = attend(q, own, segments)
    return jnp.sum(out * direction), jnp.where(direction == 0, 0, out)

  (_, out), gradients = jax.jit(
    jax.value_and_grad(total, (0, 1), has_aux=True)
  )(q, own)
  return out, gradients


@pytest.mark.parametrize("name", CASES)
def test_causal_attention_is_attention_under_its_mask(name):
  q, own, segments = causal_case(name)
  found = jax.jit(attention.causal)(q, own, segments)
  time_first = np.moveaxis(own[0], -1, 2), np.moveaxis(own[1], -2, 2)
  expected = plain(q, time_first, seen_by_hand(segments)[:, None])
  real = segments.bundle_NT > 0
  np.testing.assert_allclose(
    np.swapaxes(found, 1, 2)[real], np.swapaxes(expected, 1, 2)[real], atol=3e-6
  )


# A last block with one query, a block a query, and one block for all.
@pytest.mark.parametrize(
  "name, size", [("prompts", 4), ("packed", 4), ("shared", 1), ("shared", 16)]
)
def test_blocks_of_queries_change_nothing(name, size):
  args = causal_case(name)
  found = values_and_gradients(
    functools.partial(attention.in_blocks, size=size), *args
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6),
    found,
    values_and_gradients(attention.causal, *args),
  )


def test_gradients_of_many_blocks_are_summed_in_float32():
  # The first key, a prompt, is all that 3999 responses see beside themselves,
  # and their own keys weigh nothing. The gradient of its value is their number,
  # and bfloat16 cannot count beyond 256.
  q = jnp.ones((1, 1, 4000, 1, 1, 1), jnp.bfloat16)
  keys = jnp.full((1, 1, 1, 1, 4000), -100.0, jnp.bfloat16)
  keys = keys.at[..., 0].set(100.0)
  column = jnp.arange(4000)[None]

  def total(values):
    out = attention.in_blocks(
      q,
      (keys, values),
      attention.Segments(jnp.ones_like(column), column),
      size=1,
    )
    return jnp.sum(out.astype(jnp.float32))

  values = jnp.zeros((1, 1, 1, 4000, 1), jnp.bfloat16)
  assert jax.jit(jax.grad(total))(values)[0, 0, 0, 0, 0] == 4000


def shapes(length):
  """Of one row with two heads."""

  def shape(*sizes, dtype=np.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)

  return (
    shape(1, 1, length, 1, 2, 64),
    (shape(1, 1, 1, 64, length), shape(1, 1, 1, length, 64)),
    attention.Segments(shape(1, length, dtype=np.int32)),
  )


def test_short_rows_are_read_by_the_reference_alone():
  length = math.isqrt(attention.SCORES)

  def program(attend, length):
    return str(jax.make_jaxpr(attend)(*shapes(length)))

  def reference(q, own, segments):
    return attention.attend(q, own, attention._seen(0, segments, segments))

  assert program(attention.causal, length) == program(reference, length)
  assert "scan" in program(attention.causal, length + 1)


def test_memory_of_long_rows_is_that_of_a_block():
  length = 8192

  def total(q, own, segments):
    return jnp.sum(attention.causal(q, own, segments) ** 2)

  program = (
    jax.jit(jax.value_and_grad(total, (0, 1))).lower(*shapes(length)).compile()
  )
  scores = 2 * 4 * length**2
  assert program.memory_analysis().temp_size_in_bytes < scores / 6


@pytest.mark.parametrize(
  "asked, dtype, head_dim, platform, name, words",
  [
    ("auto", "float32", 16, "cpu", "xla", "platform cpu"),
    ("auto", "bfloat16", 128, "cpu", "xla", "platform cpu"),
    ("auto", "bfloat16", 128, "gpu", "cudnn", "platform gpu"),
    ("auto", "float32", 128, "gpu", "xla", "not cudnn.*dtype bfloat16"),
    ("auto", "bfloat16", 256, "gpu", "xla", "not cudnn.*head_dim.*256"),
    ("auto", "bfloat16", 20, "gpu", "xla", "not cudnn.*head_dim.*20"),
    ("auto", "float32", 64, "tpu", "splash", "platform tpu"),
    ("auto", "bfloat16", 128, "tpu", "splash", "platform tpu"),
    ("xla", "bfloat16", 128, "gpu", "xla", "as configured"),
    ("xla", "float32", 16, "tpu", "xla", "as configured"),
    ("splash", "bfloat16", 128, "tpu", "splash", "as configured"),
    ("cudnn", "bfloat16", 64, "gpu", "cudnn", "as configured"),
    ("splash", "bfloat16", 128, "gpu", None, "'splash'.*tpu.*gpu"),
    ("splash", "bfloat16", 128, "cpu", None, "'splash'.*tpu.*cpu"),
    ("cudnn", "bfloat16", 128, "tpu", None, "'cudnn'.*gpu.*tpu"),
    ("cudnn", "float32", 128, "gpu", None, "bfloat16.*float32"),
    ("cudnn", "bfloat16", 256, "gpu", None, "head_dim.*256"),
  ],
)
def test_the_choice_is_told_or_refused(
  asked, dtype, head_dim, platform, name, words
):
  config = config_lib.ModelConfig.tiny(
    attention=asked, dtype=dtype, head_dim=head_dim
  )
  if name is None:
    with pytest.raises(ValueError, match=words):
      attention.choose(config, platform)
    return
  found, reason = attention.choose(config, platform)
  assert found == name
  assert attention.packs(config, platform) == (name == "splash")
  assert re.fullmatch(rf"attention: {name} \(.*{words}.*\)", reason)


@pytest.mark.parametrize(
  ("capability", "name"),
  [("7.5", "xla"), ("8.0", "cudnn"), ("10.0", "cudnn"), ("gfx90a", "xla")],
)
def test_an_old_gpu_reads_without_cudnn(monkeypatch, capability, name):
  """A T4 has bfloat16, and no kernel of cuDNN's for it."""
  gpu = types.SimpleNamespace(platform="gpu", compute_capability=capability)
  monkeypatch.setattr(jax, "devices", lambda: [gpu])
  config = config_lib.ModelConfig.tiny(
    attention="auto", dtype="bfloat16", head_dim=64
  )
  found, reason = attention.choose(config, "gpu")
  assert found == name
  if name == "xla":
    assert f"8.0, as Ampere has, or higher, and this is {capability}" in reason
    asked = dataclasses.replace(config, attention="cudnn")
    with pytest.raises(ValueError, match=f"'cudnn'.*{capability}"):
      attention.choose(asked, "gpu")
