"""Scores of sequences, against `logits` and plain numpy."""

import jax
import numpy as np
import pytest
import scipy.special

from progrpo_jax import batch, packing
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import scoring, transformer

CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=40, num_layers=2, embed_dim=32, head_dim=8, mlp_dim=48
)
N, R, P, T = 4, 2, 6, 5
DIST = scoring.Distribution(temperature=0.7)


def sequences(seed=1, rows=N):
  """Prompts of 6, 4, 1 and 5 tokens, responses of every length to none."""
  rng = np.random.default_rng(seed)
  length = np.array([[5, 3], [1, 0], [4, 5], [2, 2]])[:rows]
  return batch.Sequences(
    prompt_NT=rng.integers(0, 40, (rows, P), np.int32),
    prompt_mask_NT=np.arange(P) >= np.array([[0], [2], [5], [1]])[:rows],
    tokens_NRT=rng.integers(0, 40, (rows, R, T), np.int32),
    mask_NRT=np.arange(T) < length[..., None],
  )


@pytest.fixture(scope="module")
def params(random_params):
  return random_params(CONFIG)


@pytest.fixture(scope="module")
def scores(params):
  return jax.device_get(scoring.score(CONFIG, params, sequences(), DIST))


@pytest.fixture(scope="module")
def exact(params):
  """Log-softmax of `logits / 0.7` over prompt and response, in float64."""
  q = sequences()
  rows = np.concatenate(
    [np.repeat(q.prompt_NT, R, 0), q.tokens_NRT.reshape(-1, T)], axis=1
  )
  real = np.concatenate(
    [np.repeat(q.prompt_mask_NT, R, 0), q.mask_NRT.reshape(-1, T)], axis=1
  )
  logits = jax.jit(transformer.logits, static_argnums=0)(
    CONFIG, params, rows, real
  )
  logp = scipy.special.log_softmax(
    np.asarray(logits, np.float64) / 0.7, axis=-1
  )
  return rows, real, logp


def test_response_log_probs_and_entropy_equal_logits(scores, exact):
  rows, _, logp = exact
  mask = sequences().mask_NRT.reshape(N * R, T)
  before = logp[:, P - 1 : -1]
  picked = np.take_along_axis(before, rows[:, P:, None], axis=2)[..., 0]
  entropy = -np.sum(np.exp(before) * before, axis=-1)
  for found, expected in (
    (scores.logp_NRT, picked),
    (scores.entropy_NRT, entropy),
  ):
    np.testing.assert_allclose(
      found.reshape(N * R, T), np.where(mask, expected, 0), atol=2e-5
    )
    assert found.dtype == np.float32
    assert not found[~mask.reshape(N, R, T)].any()
  assert np.ptp(entropy) > 0.3


def test_prompt_log_probs_equal_logits(scores, exact):
  rows, real, logp = exact
  rows, real, logp = (x[::R, :P] for x in (rows, real, logp))
  expected = np.zeros((N, P))
  expected[:, 1:] = np.take_along_axis(logp[:, :-1], rows[:, 1:, None], axis=2)[
    ..., 0
  ]
  # Nothing predicts the first real token.
  first = real & (np.cumsum(real, axis=1) == 1)
  expected[~real | first] = 0
  np.testing.assert_allclose(scores.prompt_logp_NT, expected, atol=2e-5)
  assert (scores.prompt_logp_NT[real & ~first] < 0).all()
  np.testing.assert_array_equal(
    (scores.prompt_logp_NT != 0).sum(axis=1), [5, 3, 0, 4]
  )


@pytest.mark.parametrize("tokens, rows", [(16, 1), (24, 2), (64, 1), (0, 3)])
def test_rows_and_micro_batches_change_nothing(params, scores, tokens, rows):
  found = scoring.score(
    CONFIG, params, sequences(), DIST, packing.Layout(tokens, rows)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, scores
  )


def test_bundles_of_one_response_score_the_same(params, scores):
  """Every second of them has the scores of its prompt."""
  q = sequences()
  apart = batch.Sequences(
    prompt_NT=np.repeat(q.prompt_NT, R, 0),
    prompt_mask_NT=np.repeat(q.prompt_mask_NT, R, 0),
    tokens_NRT=q.tokens_NRT.reshape(-1, 1, T),
    mask_NRT=q.mask_NRT.reshape(-1, 1, T),
  )
  found = scoring.score(CONFIG, params, apart, DIST, prompt_stride=R)
  np.testing.assert_allclose(
    found.logp_NRT.reshape(N, R, T), scores.logp_NRT, atol=1e-5
  )
  np.testing.assert_allclose(
    found.prompt_logp_NT[::R], scores.prompt_logp_NT, atol=1e-5
  )
  assert not found.prompt_logp_NT[1::R].any()


def test_chunks_of_logits_change_nothing(params, scores):
  found = scoring.score(
    CONFIG, params, sequences(), scoring.Distribution(temperature=0.7, chunk=5)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, scores
  )


def test_prompts_that_are_not_wanted_are_zeros(params, scores):
  found = scoring.score(CONFIG, params, sequences(), DIST, prompt_stride=0)
  assert found.prompt_logp_NT.shape == (N, P)
  assert not np.asarray(found.prompt_logp_NT).any()
  np.testing.assert_allclose(found.logp_NRT, scores.logp_NRT, atol=1e-6)


def test_what_stands_under_the_mask_has_no_influence(params, scores):
  q = sequences()
  other = q.replace(
    prompt_NT=np.where(q.prompt_mask_NT, q.prompt_NT, 39 - q.prompt_NT),
    tokens_NRT=np.where(q.mask_NRT, q.tokens_NRT, 39 - q.tokens_NRT),
  )
  found = scoring.score(CONFIG, params, other, DIST)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), scores)


def test_prompt_and_response_of_one_token(params):
  q = sequences()
  short = q.replace(
    prompt_NT=q.prompt_NT[:, -1:],
    prompt_mask_NT=q.prompt_mask_NT[:, -1:],
    tokens_NRT=q.tokens_NRT[..., :1],
    mask_NRT=q.mask_NRT[..., :1],
  )
  found = scoring.score(CONFIG, params, short, DIST)
  assert found.prompt_logp_NT.shape == (N, 1)
  assert not np.asarray(found.prompt_logp_NT).any()
  logits = transformer.logits(
    CONFIG, params, short.prompt_NT, short.prompt_mask_NT
  )
  logp = np.asarray(jax.nn.log_softmax(logits / 0.7))[:, 0]
  expected = np.take_along_axis(logp, short.tokens_NRT[:, :, 0], axis=1)
  np.testing.assert_allclose(
    found.logp_NRT[..., 0],
    np.where(short.mask_NRT[..., 0], expected, 0),
    atol=2e-5,
  )


def test_another_batch_compiles_nothing(params, scores):
  """Nor does one that fills another number of micro-batches."""
  before = scoring.score_rows._cache_size()
  other = sequences(seed=2)
  for q in (other, other.replace(mask_NRT=other.mask_NRT & (np.arange(T) < 1))):
    scoring.score(CONFIG, params, q, scoring.Distribution(temperature=0.7))
  assert scoring.score_rows._cache_size() == before
