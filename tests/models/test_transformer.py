"""Reading at once, after a prompt, and token by token: one and the same."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import ops
from progrpo_jax.models import attention, parameters, transformer
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib

CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=40, num_layers=2, embed_dim=32, head_dim=8, mlp_dim=48
)
N, R, P, T = 3, 2, 6, 5

logits = jax.jit(transformer.logits, static_argnums=0)


@jax.jit
def heads(params, hidden):
  return ops.matmul_logits(hidden, transformer.head(params))


@functools.partial(jax.jit, static_argnums=0)
def both(config, params, prompt, mask, tokens):
  """Logits of prompts, and of rows of a prompt and all its responses."""
  hidden, _ = transformer.prefill(config, params, prompt, mask)
  rows, responses, length = tokens.shape
  number = jnp.repeat(jnp.arange(responses), length)
  own = jnp.ones((rows, 1), int)
  place = jnp.cumsum(mask, axis=1) - 1
  after = jnp.tile(jnp.arange(length), responses) + place[:, -1:] + 1
  out = transformer.read(
    config,
    params,
    jnp.concatenate([prompt, tokens.reshape(rows, -1)], axis=1),
    jnp.concatenate([jnp.maximum(place, 0), after], axis=1),
    attention.Segments(
      jnp.concatenate([mask.astype(int), own * (number >= 0)], axis=1),
      jnp.concatenate([0 * place, own * (number + 1)], axis=1),
    ),
  )[:, prompt.shape[1] :]
  out = out.reshape(rows, responses, length, -1)
  return heads(params, hidden), heads(params, out)


@pytest.fixture(scope="module")
def params(random_params):
  return random_params(CONFIG)


@pytest.fixture(scope="module")
def data():
  """Prompts of 6, 4 and 1 tokens, padded on the left, and their responses."""
  rng = np.random.default_rng(1)
  prompt = rng.integers(0, 40, (N, P))
  mask = np.arange(P) >= np.array([[0], [2], [5]])
  return prompt, mask, rng.integers(0, 40, (N, R, T))


def whole(params, data, config=CONFIG):
  """Logits of each response, from one pass over prompt and response."""
  prompt, mask, tokens = data
  rows = np.concatenate([np.repeat(prompt, R, 0), tokens.reshape(N * R, T)], 1)
  real = np.concatenate(
    [np.repeat(mask, R, 0), np.ones((N * R, T), bool)], axis=1
  )
  out = logits(config, params, rows, real)
  return np.asarray(out)[:, P:].reshape(N, R, T, -1)


def test_logits_depend_on_their_input(params, data):
  prompt, mask, _ = data
  out = np.asarray(logits(CONFIG, params, prompt, mask))
  assert out.shape == (N, P, 40) and out.dtype == np.float32
  assert out.std() > 1


def test_prompt_and_response_apart_equal_one_pass(params, data):
  prompt, mask, tokens = data
  of_prompt, of_response = both(CONFIG, params, prompt, mask, tokens)
  np.testing.assert_allclose(of_response, whole(params, data), atol=1e-5)
  np.testing.assert_allclose(
    np.asarray(of_prompt)[mask],
    np.asarray(logits(CONFIG, params, prompt, mask))[mask],
    atol=1e-5,
  )


@pytest.mark.parametrize("size", [T, 4 * T])
def test_decoding_with_a_cache_equals_reading_at_once(params, data, size):
  prompt, mask, tokens = data

  @jax.jit
  def decode(params):
    _, prefix = transformer.prefill(CONFIG, params, prompt, mask)
    unrolled = parameters.unroll(CONFIG, params)

    def step(cache, token):
      hidden, cache = transformer.decode(
        CONFIG, unrolled, token[..., None], prefix, cache
      )
      return cache, hidden[:, :, 0]

    cache, hidden = jax.lax.scan(
      step, cache_lib.empty(CONFIG, N, R, size), tokens.transpose(2, 0, 1)
    )
    return cache, hidden.transpose(1, 2, 0, 3)

  cache, hidden = decode(params)
  assert cache.length == T
  _, at_once = both(CONFIG, params, prompt, mask, tokens)
  np.testing.assert_allclose(heads(params, hidden), at_once, atol=1e-5)


@pytest.mark.parametrize("size", [T, 3 * T])
def test_decoding_beside_older_columns_equals_reading_at_once(
  params, data, size
):
  """Columns move into the large cache after every two."""
  prompt, mask, tokens = data

  @jax.jit
  def decode(params):
    _, prefix = transformer.prefill(CONFIG, params, prompt, mask)
    unrolled = parameters.unroll(CONFIG, params)
    older, hidden = cache_lib.empty(CONFIG, N, R, size), []
    for first in range(0, T, 2):
      new = cache_lib.empty(CONFIG, N, R, min(2, T - first))
      for t in range(first, first + new.size):
        x, new = transformer.decode(
          CONFIG, unrolled, tokens[..., t : t + 1], prefix, new, older
        )
        hidden.append(x)
      older = cache_lib.flush(older, new)
    return older, jnp.concatenate(hidden, axis=2)

  older, hidden = decode(params)
  assert older.length == T
  _, at_once = both(CONFIG, params, prompt, mask, tokens)
  np.testing.assert_allclose(heads(params, hidden), at_once, atol=1e-5)


def test_reading_into_a_cache_in_two_pieces_equals_one(params, data):
  prompt, mask, tokens = data

  @jax.jit
  def pieces(params):
    _, prefix = transformer.prefill(CONFIG, params, prompt, mask)
    unrolled = parameters.unroll(CONFIG, params)
    first, cache = transformer.decode(
      CONFIG,
      unrolled,
      tokens[..., :3],
      prefix,
      cache_lib.empty(CONFIG, N, R, 3),
    )
    layers = (cache_lib.grow(*x, T) for x in zip(cache.k, cache.v))
    k, v = zip(*layers)
    second, cache = transformer.decode(
      CONFIG, unrolled, tokens[..., 3:], prefix, cache.replace(k=k, v=v)
    )
    return jnp.concatenate([first, second], axis=2), cache

  hidden, cache = pieces(params)
  assert cache.length == T
  _, at_once = both(CONFIG, params, prompt, mask, tokens)
  np.testing.assert_allclose(heads(params, hidden), at_once, atol=1e-5)


def test_side_and_amount_of_padding_change_nothing(params, data):
  prompt, mask, tokens = data
  expected, after = (
    np.asarray(x) for x in both(CONFIG, params, prompt, mask, tokens)
  )
  rng = np.random.default_rng(2)
  for left, right in ((0, 0), (5, 0), (0, 5), (3, 2)):
    width = left + P + right
    wide = rng.integers(0, 40, (N, width))
    real = np.zeros((N, width), bool)
    for i, n in enumerate(mask.sum(axis=1)):
      # The first row keeps its padding on the left, the others on the right.
      start = left + P - n if i == 0 else left
      wide[i, start : start + n] = prompt[i][mask[i]]
      real[i, start : start + n] = True
    out, behind = both(CONFIG, params, wide, real, tokens)
    np.testing.assert_allclose(np.asarray(out)[real], expected[mask], atol=1e-5)
    np.testing.assert_allclose(behind, after, atol=1e-5)


def test_padding_after_a_response_has_no_influence(params, data):
  prompt, mask, tokens = data
  other = tokens.copy()
  other[:, :, 3:] = 0
  _, a = both(CONFIG, params, prompt, mask, tokens)
  _, b = both(CONFIG, params, prompt, mask, other)
  np.testing.assert_array_equal(a[:, :, :3], b[:, :, :3])
  assert np.abs(a[:, :, 3:] - b[:, :, 3:]).max() > 0.1


def test_responses_of_a_row_do_not_see_each_other(params, data):
  prompt, mask, tokens = data
  other = tokens.copy()
  other[:, 1] = (other[:, 1] + 7) % 40
  _, a = both(CONFIG, params, prompt, mask, tokens)
  _, b = both(CONFIG, params, prompt, mask, other)
  np.testing.assert_array_equal(a[:, 0], b[:, 0])
  assert np.abs(a[:, 1] - b[:, 1]).max() > 0.1


def test_order_of_rows_permutes_results(params, data):
  prompt, mask, tokens = data
  order = [2, 0, 1]
  expected = both(CONFIG, params, prompt, mask, tokens)
  found = both(CONFIG, params, prompt[order], mask[order], tokens[order])
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b[jnp.array(order)], atol=1e-5)


def test_no_token_sees_a_later_one(params, data):
  prompt, mask, tokens = data
  other = tokens.copy()
  other[:, :, 2] = (other[:, :, 2] + 1) % 40
  _, a = both(CONFIG, params, prompt, mask, tokens)
  _, b = both(CONFIG, params, prompt, mask, other)
  np.testing.assert_array_equal(a[:, :, :2], b[:, :, :2])


def test_every_prompt_token_is_seen_and_padding_is_not(params, data):
  prompt, mask, tokens = data
  after = both(CONFIG, params, prompt, mask, tokens)[1]
  for column in range(P):
    other = prompt.copy()
    other[:, column] = (other[:, column] + 1) % 40
    changed = both(CONFIG, params, other, mask, tokens)[1]
    difference = np.abs(changed - after).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(difference > 1e-3, mask[:, column])
    np.testing.assert_array_equal(difference[~mask[:, column]], 0)


def loss(config, params, data):
  """Of prompts read at once: what differentiates reads no cache."""
  prompt, mask, _ = data
  hidden, _ = transformer.prefill(config, params, prompt, mask)
  logp = jax.nn.log_softmax(heads(params, hidden))
  return jnp.sum(jnp.where(mask, logp[..., 5] - logp[..., 3] ** 2, 0))


@pytest.fixture(scope="module")
def value_and_gradient(params, data):
  """A function of changes to the config; each is compiled once."""

  @functools.cache
  def run(**changes):
    config = dataclasses.replace(CONFIG, **changes)
    return jax.jit(
      jax.value_and_grad(functools.partial(loss, config, data=data))
    )(params)

  return run


def test_recomputing_layers_changes_neither_values_nor_gradients(
  value_and_gradient,
):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3),
    value_and_gradient(),
    value_and_gradient(remat="layer"),
  )


def test_recomputing_layers_stores_less(data):
  def stored(remat):
    config = dataclasses.replace(CONFIG, remat=remat, num_layers=8)
    backward = jax.eval_shape(
      lambda p: jax.vjp(functools.partial(loss, config, data=data), p)[1],
      parameters.abstract_params(config),
    )
    return sum(x.size for x in jax.tree.leaves(backward))

  activations = stored("none") - CONFIG.num_params
  assert stored("layer") - CONFIG.num_params < 0.6 * activations


def test_bfloat16_computes_on_float32_masters(params, data, value_and_gradient):
  value, gradient = value_and_gradient(dtype="bfloat16")
  exact, reference = value_and_gradient()
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(gradient))
  assert value == pytest.approx(float(exact), rel=0.03) and value != exact

  def angle(a, b):
    return float(jnp.sum(a * b) / jnp.sqrt(jnp.sum(a * a) * jnp.sum(b * b)))

  assert min(jax.tree.leaves(jax.tree.map(angle, gradient, reference))) > 0.95
  narrow = dataclasses.replace(CONFIG, dtype="bfloat16")
  hidden, prefix = jax.eval_shape(
    functools.partial(transformer.prefill, narrow), params, *data[:2]
  )
  assert hidden.dtype == prefix.k.dtype == prefix.v.dtype == jnp.bfloat16


def test_head_is_the_embedding_or_a_weight_of_its_own(random_params, data):
  untied = dataclasses.replace(CONFIG, tie_embeddings=False)
  params = random_params(untied)
  prompt, mask, _ = data
  # The embedding as the head, under untied embeddings: the same numbers.
  tied = {k: v for k, v in params.items() if k != "head"}
  same = dict(params, head={"kernel": params["embed"]["tokens"].T})
  expected = logits(CONFIG, tied, prompt, mask)
  np.testing.assert_allclose(
    logits(untied, same, prompt, mask), expected, atol=1e-5
  )
  other = logits(untied, params, prompt, mask)
  assert np.abs(other - expected).max() > 1
  doubled = dict(params, head={"kernel": 2 * params["head"]["kernel"]})
  np.testing.assert_allclose(
    logits(untied, doubled, prompt, mask), 2 * other, atol=1e-4
  )
