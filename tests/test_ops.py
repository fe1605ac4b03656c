"""Masked reductions, token statistics and sampling, against plain numpy."""

import functools
import math
import re

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from progrpo_jax import ops

LAST = 1 - 2.0**-24  # the largest uniform number in float32


stats = jax.jit(
  ops.token_stats, static_argnames=("temperature", "top_k", "top_p", "chunk")
)


def test_masked_reductions_by_hand():
  x = jnp.array([[1.0, 2.0, jnp.nan], [jnp.nan, jnp.inf, jnp.nan]])
  mask = jnp.array([[True, True, False], [False] * 3])
  assert ops.masked_sum(x, mask) == 3.0
  np.testing.assert_array_equal(ops.masked_mean(x, mask, axis=1), [1.5, 0.0])
  gradient = jax.grad(lambda x: ops.masked_mean(x, mask, axis=1).sum())(x)
  np.testing.assert_array_equal(gradient, [[0.5, 0.5, 0], [0, 0, 0]])


def test_masked_sum_of_bfloat16_is_accumulated_in_float32():
  x = jnp.ones((1, 1000), jnp.bfloat16)
  total = ops.masked_sum(x, jnp.ones(x.shape, bool))
  assert total.dtype == jnp.float32 and total == 1000


@pytest.mark.parametrize(
  "share, counts",
  [
    (0.2, [0, 1, 1, 1, 1, 1, 2]),
    (0.5, [0, 1, 1, 2, 2, 3, 3]),
    (1.0, [0, 1, 2, 3, 4, 5, 6]),
    (1e-9, [0, 1, 1, 1, 1, 1, 1]),
  ],
)
def test_tail_counts_by_hand(share, counts):
  np.testing.assert_array_equal(ops.tail_counts(6, share), counts)


def test_tail_count_of_a_product_just_above_a_whole_number():
  assert math.ceil(0.07 * 100) == 8
  assert ops.tail_counts(100, 0.07)[100] == 7


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan])
def test_tail_share_outside_its_range_is_refused(share):
  with pytest.raises(ValueError, match="share"):
    ops.tail_counts(5, share)


def test_tail_mean_by_hand():
  x = jnp.array([[-3.0, -1, -2, -9], [-5, jnp.nan, -7, 0], [1, 2, 3, 4]])
  mask = jnp.array(
    [[True, True, True, False], [True, False, True, False], [False] * 4]
  )
  np.testing.assert_allclose(
    ops.tail_mean(x, mask, 0.5), [-2.5, -7.0, 0.0], rtol=1e-6
  )
  np.testing.assert_allclose(
    ops.tail_mean(x, mask, 1.0), [-2.0, -6.0, 0.0], rtol=1e-6
  )


def test_tail_mean_ranked_by_something_else():
  x = jnp.array([[1.0, 2, 4, 8], [1, 2, 4, 8], [1, jnp.nan, 4, 8]])
  rank = jnp.array([[9.0, 1, 7, 3], [5, 5, 5, 5], [2, -9, 1, 3]])
  mask = jnp.array([[True] * 4, [True] * 4, [True, False, True, True]])
  # Ranks 1 and 3; of equal ranks the first two; a masked rank has no part.
  np.testing.assert_allclose(
    ops.tail_mean(x, mask, 0.5, rank_BT=rank), [5.0, 1.5, 2.5]
  )
  np.testing.assert_allclose(
    ops.tail_mean(x, mask, 1.0, rank_BT=rank),
    ops.tail_mean(x, mask, 1.0),
    rtol=1e-6,
  )
  np.testing.assert_array_equal(
    ops.tail_mean(x, mask, 0.5, rank_BT=x), ops.tail_mean(x, mask, 0.5)
  )
  with pytest.raises(AssertionError, match=r"\(3, 3\)"):
    ops.tail_mean(x, mask, 0.5, rank_BT=rank[:, :3])


# Logits whose weights are 1, 2 and 5, for one hidden state.
HIDDEN = jnp.ones((1, 3, 1))
HEAD = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))
TARGETS = jnp.array([[0, 1, 2]])


def entropy_of(*weights):
  p = np.array(weights) / sum(weights)
  return -np.sum(p * np.log(p))


@pytest.mark.parametrize(
  "options, probs, weights",
  [
    ({}, [1 / 8, 2 / 8, 5 / 8], (1, 2, 5)),
    (dict(temperature=0.5), [1 / 30, 4 / 30, 25 / 30], (1, 4, 25)),
    # The entropy is that of the whole vocabulary; a target outside the kept
    # tokens joins them.
    (dict(top_k=1), [1 / 6, 2 / 7, 1], (1, 2, 5)),
    (dict(top_k=2), [1 / 8, 2 / 7, 5 / 7], (1, 2, 5)),
    (dict(top_p=0.6), [1 / 6, 2 / 7, 1], (1, 2, 5)),
    (dict(top_p=0.7), [1 / 8, 2 / 7, 5 / 7], (1, 2, 5)),
    (dict(temperature=0.5, top_p=0.9), [1 / 30, 4 / 29, 25 / 29], (1, 4, 25)),
    (dict(top_k=2, top_p=0.7), [1 / 6, 2 / 7, 1], (1, 2, 5)),
  ],
)
def test_token_stats_by_hand(options, probs, weights):
  logp, entropy = stats(HIDDEN, HEAD, TARGETS, **options)
  np.testing.assert_allclose(np.exp(logp[0]), probs, rtol=1e-6)
  np.testing.assert_allclose(entropy[0], [entropy_of(*weights)] * 3, rtol=1e-6)


def stats_case(rows=3, length=11, width=8, vocab=50, seed=0):
  rng = np.random.default_rng(seed)
  hidden = rng.normal(size=(rows, length, width)).astype(np.float32)
  head = rng.normal(size=(width, vocab)).astype(np.float32)
  return hidden, head, rng.integers(0, vocab, (rows, length))


def exact_stats(hidden, head, targets, temperature=1.0):
  logits = hidden.astype(np.float64) @ head.astype(np.float64) / temperature
  logp = scipy.special.log_softmax(logits, axis=-1)
  entropy = -np.sum(np.exp(logp) * logp, axis=-1)
  return np.take_along_axis(logp, targets[..., None], -1)[..., 0], entropy


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("chunk", [1, 4, 4096])
def test_token_stats_equal_a_float64_softmax(temperature, chunk):
  hidden, head, targets = stats_case()
  found = stats(hidden, head, targets, temperature=temperature, chunk=chunk)
  for a, b in zip(found, exact_stats(hidden, head, targets, temperature)):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


def test_token_stats_of_huge_logits_are_finite():
  hidden, head, targets = stats_case()
  logp, entropy = stats(1e3 * hidden, 10 * head, targets)
  assert np.isfinite(logp).all() and np.isfinite(entropy).all()
  assert (logp <= 0).all() and (entropy >= 0).all()


@pytest.mark.parametrize(
  "options", [{}, dict(temperature=0.7), dict(top_k=5, top_p=0.9)]
)
def test_chunks_change_neither_values_nor_gradients(options):
  # Chunks of four tokens of each row, the last one of three.
  hidden, head, targets = stats_case()
  weights = np.random.default_rng(1).normal(size=(2, 3, 11))

  @functools.partial(jax.jit, static_argnames="chunk")
  def run(hidden, head, chunk):
    def total(hidden, head):
      out = ops.token_stats(hidden, head, targets, chunk=chunk, **options)
      return sum(jnp.sum(w * x) for w, x in zip(weights, out)), out

    return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(hidden, head)

  chunked, whole = run(hidden, head, chunk=4), run(hidden, head, chunk=4096)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5),
    chunked,
    whole,
  )


def test_gradients_equal_those_of_log_softmax():
  hidden, head, targets = stats_case()

  def plain(hidden, head):
    logp = jax.nn.log_softmax(hidden @ head / 0.7)
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    picked = jnp.take_along_axis(logp, targets[..., None], -1)[..., 0]
    return jnp.sum(picked * jnp.arange(11)) + jnp.sum(entropy)

  def ours(hidden, head):
    logp, entropy = ops.token_stats(
      hidden, head, targets, temperature=0.7, chunk=4
    )
    return jnp.sum(logp * jnp.arange(11)) + jnp.sum(entropy)

  found, expected = (
    jax.jit(jax.grad(f, (0, 1)))(hidden, head) for f in (ours, plain)
  )
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


def largest_array(jaxpr):
  """Elements of the largest array that any equation makes, at any depth."""
  if isinstance(jaxpr, core.ClosedJaxpr):
    jaxpr = jaxpr.jaxpr
  sizes = [0]
  for equation in jaxpr.eqns:
    sizes += [math.prod(v.aval.shape) for v in equation.outvars]
    parts = jax.tree.leaves(
      list(equation.params.values()),
      is_leaf=lambda x: isinstance(x, core.Jaxpr | core.ClosedJaxpr),
    )
    sizes += [
      largest_array(p)
      for p in parts
      if isinstance(p, core.Jaxpr | core.ClosedJaxpr)
    ]
  return max(sizes)


def largest_in_hlo(text):
  """Elements of the largest array that a compiled program mentions."""
  return max(
    math.prod(map(int, dims.split(",")))
    for dims in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
  )


@pytest.mark.parametrize("options", [{}, dict(top_k=5, top_p=0.9)])
def test_no_array_over_all_tokens_and_the_vocabulary(options):
  hidden, head, targets = stats_case(rows=1, length=64, width=8, vocab=150)
  everything = 64 * 150

  def naive(hidden, head):
    logp = jax.nn.log_softmax(hidden @ head)
    return jnp.sum(jnp.take_along_axis(logp, targets[..., None], -1))

  def ours(hidden, head, chunk=8):
    logp, entropy = ops.token_stats(
      hidden, head, targets, chunk=chunk, **options
    )
    return jnp.sum(logp) + jnp.sum(entropy)

  def largest(f):
    # Under jit the walk has to go down into sub-programs.
    f = jax.jit(jax.value_and_grad(f, argnums=(0, 1)))
    text = f.lower(hidden, head).compile().as_text()
    return largest_array(jax.make_jaxpr(f)(hidden, head)), largest_in_hlo(text)

  assert min(largest(naive)) >= everything
  assert min(largest(functools.partial(ours, chunk=4096))) >= everything
  # The weights and one chunk's logits are about all there is.
  assert max(largest(ours)) < everything / 4


def test_gradient_of_the_head_has_its_own_type():
  hidden, head, targets = stats_case()
  gradient = jax.grad(
    lambda head: ops.token_stats(
      hidden.astype(jnp.bfloat16), head, targets, chunk=4
    )[0].sum()
  )(jnp.asarray(head))
  assert gradient.dtype == jnp.float32


@pytest.mark.parametrize(
  "top_k, top_p",
  [
    (1, 1.0),
    (7, 1.0),
    (100, 1.0),
    (500, 1.0),
    (0, 0.05),
    (0, 0.5),
    (0, 0.95),
    (0, 0.999),
    (20, 0.8),
    (3, 0.99),
  ],
)
def test_kept_tokens_equal_those_of_transformers(top_k, top_p):
  import torch
  import transformers

  rng = np.random.default_rng(7)
  # Rows from nearly flat to sharply peaked.
  spread = np.geomspace(0.1, 8.0, 120)[:, None]
  logits = (spread * rng.normal(size=(120, 100))).astype(np.float32)
  scores = torch.tensor(logits)
  if top_k:
    scores = transformers.TopKLogitsWarper(top_k)(None, scores)
  if top_p < 1:
    scores = transformers.TopPLogitsWarper(top_p)(None, scores)
  np.testing.assert_array_equal(
    ops.kept_tokens(logits[:, None], top_k, top_p)[:, 0],
    torch.isfinite(scores).numpy(),
  )


def by_sorting(logits, top_k, top_p):
  """The definition of what is kept, in float64; None where rounding decides."""
  keep = np.ones(logits.shape, bool)
  if top_k:
    keep = logits >= np.sort(logits)[-top_k]
  if top_p < 1:
    weights = np.where(keep, np.exp(np.float64(logits) - logits.max()), 0)
    values, index = np.unique(logits, return_inverse=True)
    mass = np.bincount(index, weights / weights.sum())
    above = np.cumsum(mass[::-1])[::-1] - mass
    if np.min(np.abs(above - top_p)) < 2e-6:
      return None
    keep &= (above < top_p)[index]
  return keep


@pytest.mark.parametrize(
  "top_k, top_p",
  [(1, 1.0), (40, 1.0), (0, 0.3), (0, 0.9), (0, 0.99), (300, 0.7)],
)
def test_kept_tokens_equal_those_of_sorting(top_k, top_p):
  rng = np.random.default_rng(8)
  size = 20_011
  cases = [
    rng.normal(size=size) * spread + shift
    for spread in (0.01, 1.0, 6.0)
    for shift in (-30.0, 0.0, 12.0)
  ]
  cases += [
    np.round(cases[4]),  # ties
    np.round(cases[7] / 4),
    np.where(rng.random(size) < 0.5, -np.inf, cases[7]),
    np.where(rng.random(size) < 0.5, ops.NEGATIVE, cases[4]),
    -1.2 * np.log1p(rng.permutation(size)),
    np.zeros(size),
    np.where(np.arange(size) % 2, 0.0, -0.0),
  ]
  logits = np.stack(cases).astype(np.float32)
  found = np.asarray(ops.kept_tokens(logits[:, None], top_k, top_p))[:, 0]
  compared = 0
  for row, kept in zip(logits, found, strict=True):
    expected = by_sorting(row, top_k, top_p)
    if expected is not None:
      compared += 1
      np.testing.assert_array_equal(kept, expected)
  assert compared > 10


def test_a_tie_with_the_last_kept_token_is_kept():
  logits = jnp.array([[[2.0, 1.0, 1.0, 0.0]]])
  np.testing.assert_array_equal(
    ops.kept_tokens(logits, 2, 1.0)[0, 0], [True, True, True, False]
  )
  np.testing.assert_array_equal(
    ops.kept_tokens(logits, 0, 0.6)[0, 0], [True, True, True, False]
  )


def case_logits(name):
  rng = np.random.default_rng(3)
  logits = {
    "flat": np.zeros(700),
    "small": rng.normal(size=7),
    "blocks": 2 * rng.normal(size=700),
    "peaked": np.where(np.arange(700) == 600, 12.0, rng.normal(size=700)),
    "holes": np.where(rng.random(700) < 0.6, -np.inf, rng.normal(size=700)),
    # Nothing in the first block, nor at the end of the last.
    "middle": np.where(
      np.abs(np.arange(700) - 600) < 80, rng.normal(size=700), -np.inf
    ),
  }[name]
  return logits.astype(np.float32)


# The one program here that computes longer than it compiles.
@functools.partial(
  jax.jit,
  static_argnames=("top_k", "top_p", "block", "shards", "rows"),
  compiler_options={
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
  },
)
def draw(logits, uniforms, top_k=0, top_p=1.0, block=128, shards=1, rows=5000):
  """Tokens and log-probs for many uniform numbers and one row of logits."""

  def part(u):
    same = jnp.broadcast_to(logits, (len(u), len(logits)))
    return ops.sample_from_logits(
      same, u, top_k=top_k, top_p=top_p, block=block, shards=shards
    )

  token, logp = jax.lax.map(part, uniforms.reshape(-1, rows, 2))
  return token.reshape(-1), logp.reshape(-1)


def exact_probs(logits, top_k=0, top_p=1.0):
  keep = np.asarray(ops.kept_tokens(logits[None, None], top_k, top_p))[0, 0]
  return scipy.special.softmax(
    np.where(keep, logits, -np.inf).astype(np.float64)
  )


@pytest.mark.parametrize(
  "name, options",
  [
    ("flat", {}),
    ("small", {}),
    ("blocks", {}),
    ("peaked", {}),
    ("holes", {}),
    ("middle", {}),
    ("small", dict(top_k=3)),
    ("small", dict(block=2)),
    ("blocks", dict(top_p=0.6)),
    ("holes", dict(top_k=40, top_p=0.9)),
  ],
)
def test_frequencies_of_200k_draws_are_the_probabilities(name, options):
  logits = case_logits(name)
  n = 200_000
  uniforms = jax.random.uniform(jax.random.key(5), (n, 2))
  token, logp = map(np.asarray, draw(logits, uniforms, **options))
  truncation = {k: v for k, v in options.items() if k != "block"}
  probs = exact_probs(logits, **truncation)
  counts = np.bincount(token, minlength=len(logits))
  assert len(counts) == len(logits)
  assert not counts[probs == 0].any()
  np.testing.assert_allclose(logp, np.log(probs[token]), atol=2e-6, rtol=2e-6)
  # Cells that expect fewer than five draws are put together.
  big = probs * n >= 5
  seen, expected = list(counts[big]), list(probs[big] * n)
  if probs[~big].sum() * n >= 1:
    seen.append(counts[~big].sum())
    expected.append(probs[~big].sum() * n)
  expected = np.array(expected) * (sum(seen) / sum(expected))
  assert scipy.stats.chisquare(seen, expected).pvalue > 1e-3


def test_chi_square_would_see_a_bias_of_five_percent():
  probs = exact_probs(case_logits("small"))
  uniforms = jax.random.uniform(jax.random.key(5), (200_000, 2))
  token, _ = draw(case_logits("small"), uniforms**1.05)
  counts = np.bincount(token, minlength=7)
  assert scipy.stats.chisquare(counts, probs * 200_000).pvalue < 1e-3


GRID = 2.0**-23  # the step between two uniform numbers


@pytest.mark.parametrize("name", ["flat", "small", "blocks", "holes", "middle"])
def test_edges_of_the_uniform_numbers_give_the_first_and_the_last_token(name):
  logits = case_logits(name)
  token, logp = jax.jit(ops.sample_from_logits)(
    np.stack([logits, logits]), np.float32([[0.0, 0.0], [1 - GRID, 1 - GRID]])
  )
  real = np.flatnonzero(np.isfinite(logits))
  assert list(token) == [real[0], real[-1]]
  assert np.isfinite(logp).all()


@pytest.mark.parametrize("edge", [0, 699])
@pytest.mark.parametrize("uniform", [0.0, 1 - GRID, LAST])
def test_no_edge_of_the_uniform_numbers_favours_a_token(edge, uniform):
  """A number of 0, one in 2^23, does not draw the first token whatever its
  weight; nor do the greatest ones the last, in any block."""
  for others in (0.0, np.linspace(0, 1, 700)):
    logits = np.full(700, others, np.float32)
    for tiny in (-20.0, -80.0, -np.inf):
      logits[[edge, 511, 512]] = tiny
      numbers = [[u, v] for u in (uniform, 0.3, 0.74) for v in (uniform, 0.5)]
      token, _ = ops.sample_from_logits(
        np.stack([logits] * 6), np.float32(numbers)
      )
      assert not set(np.asarray(token)) & {edge, 511, 512}
  kept, _ = ops.sample_from_logits(
    np.stack([logits] * 2),
    np.float32([[0, 0], [uniform, uniform]]),
    top_k=9,
    top_p=0.9,
  )
  assert edge not in kept


VOCABULARY = 151_936


@pytest.mark.parametrize("name", ["flat", "zipf", "certain"])
def test_tails_of_a_large_vocabulary_have_their_probability(name):
  """Both choices, of a block and inside of it, against exact numbers."""
  rng = np.random.default_rng(1)
  logits = {
    "flat": np.zeros(VOCABULARY),
    "zipf": -1.5 * np.log1p(rng.permutation(VOCABULARY)),
    # All but 1e-4 in one token of the middle, as in most of an answer.
    "certain": np.where(
      np.arange(VOCABULARY) == 70_001,
      np.log(VOCABULARY) + np.log(1e4),
      rng.normal(size=VOCABULARY),
    ),
  }[name].astype(np.float32)
  probs = exact_probs(logits).reshape(-1, 128)
  weights = jnp.asarray(probs, jnp.float32)
  by_block = shares(jnp.sum(weights, axis=-1))
  np.testing.assert_allclose(by_block, probs.sum(axis=1), atol=3e-7)
  for place in (0, 546, 1186):
    inside = shares(weights[place])
    np.testing.assert_allclose(
      inside, probs[place] / probs[place].sum(), atol=3e-7
    )
    assert not inside[probs[place] == 0].any()


@pytest.mark.parametrize("name", ["flat", "zipf"])
@pytest.mark.parametrize("options", [{}, dict(top_p=0.9), dict(top_k=50)])
def test_draws_from_a_large_vocabulary_follow_exact_numbers(name, options):
  """Chi-square over tokens, or over the tail put together."""
  rng = np.random.default_rng(4)
  logits = {
    "flat": 0.1 * rng.normal(size=VOCABULARY),
    "zipf": -1.2 * np.log1p(rng.permutation(VOCABULARY)),
  }[name].astype(np.float32)
  n = 4096
  uniforms = jax.random.uniform(jax.random.key(6), (n, 2))
  probs = exact_probs(logits, **options)
  # Truncated once, and not for each draw.
  truncated = np.where(probs > 0, logits, -np.inf).astype(np.float32)
  token, logp = map(np.asarray, draw(truncated, uniforms, rows=64))
  np.testing.assert_allclose(logp, np.log(probs[token]), atol=1e-4)
  for together in (1, 8):
    again, _ = ops.sample_from_logits(
      np.stack([logits] * 8), uniforms[:8], rows=together, **options
    )
    np.testing.assert_array_equal(again, token[:8])
  assert (probs[token] > 0).all()
  # Cells of the tokens in order of their probability, at least ten draws each.
  order = np.argsort(-probs, kind="stable")
  cell = np.empty(VOCABULARY, int)
  cell[order] = np.minimum(
    (np.cumsum(probs[order]) - probs[order]) * n / 10, n // 10 - 1
  )
  expected = n * np.bincount(cell, probs)
  seen = np.bincount(cell[token], minlength=len(expected))[expected > 0]
  expected = expected[expected > 0]
  assert len(expected) > 20
  assert scipy.stats.chisquare(seen, expected).pvalue > 1e-3
  # And by their places: blocks must be drawn as often as their sums say.
  places = np.arange(VOCABULARY) * 16 // VOCABULARY
  np.testing.assert_allclose(
    np.bincount(places[token], minlength=16) / n,
    np.bincount(places, probs),
    atol=0.035,
  )


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_shards_of_the_vocabulary_do_not_change_the_draws(shards):
  """1,187 blocks of 128 are not whole on two devices."""
  logits = np.random.default_rng(5).normal(size=128 * 35)
  logits = 2 * logits.astype(np.float32)
  uniforms = jax.random.uniform(jax.random.key(7), (500, 2))
  expected = draw(logits, uniforms, rows=500)
  found = draw(logits, uniforms, rows=500, shards=shards)
  np.testing.assert_array_equal(found[0], expected[0])
  np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


@jax.jit
def _first_numbers(weights):
  """For each index the first number of the grid that chooses a later one."""
  index = jnp.arange(len(weights))
  rows = jnp.broadcast_to(weights, (len(weights), len(weights)))

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) // 2
    later = ops._invert(rows, middle.astype(jnp.float32) * GRID) > index
    return jnp.where(later, low, middle + 1), jnp.where(later, middle, high)

  return jax.lax.fori_loop(
    0, 24, halve, (0 * index, jnp.full_like(index, 2**23))
  )[1]


def shares(weights):
  """The share of the uniform numbers that choose each index, by bisection."""
  return np.diff(np.asarray(_first_numbers(weights)) * GRID, prepend=0.0)


def test_tokens_without_weight_are_never_drawn_even_at_rounded_boundaries():
  # Rounded cumulative sums do not ascend; at points within a few units in the
  # last place of a boundary, a token without weight must not slip in.
  rng = np.random.default_rng(0)
  for _ in range(3):
    weights = np.exp(2 * rng.normal(size=1300)).astype(np.float32)
    weights[rng.random(1300) < 0.7] = 0
    boundary = np.cumsum(weights / weights.sum(dtype=np.float64))[weights > 0]
    points = np.concatenate([boundary + d * 2.0**-24 for d in range(-6, 7)])
    points = np.clip(points, 0, LAST).astype(np.float32)
    token = ops._invert(jnp.broadcast_to(weights, (len(points), 1300)), points)
    assert (weights[token] > 0).all()


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
  probs = np.pad(exact_probs(case_logits("blocks")), (0, 68))
  inside = probs.reshape(6, 128)
  by_block = inside.sum(axis=1)
  middle = np.cumsum(inside, axis=1) - 0.5 * inside
  middle /= by_block[:, None]
  wide = probs > 1e-5
  block = np.repeat(np.cumsum(by_block) - 0.5 * by_block, 128)[wide]
  numbers = np.stack([block, middle.reshape(-1)[wide]], axis=1)
  token, _ = draw(
    case_logits("blocks"), np.resize(numbers, (5000, 2)).astype(np.float32)
  )
  np.testing.assert_array_equal(token, np.resize(np.flatnonzero(wide), 5000))


def test_logits_that_are_nan_give_a_token_of_the_vocabulary():
  token, _ = ops.sample_from_logits(
    jnp.full((2, 700), jnp.nan), jnp.array([[0.0, 0.9], [0.9, 0.0]])
  )
  assert ((token >= 0) & (token < 700)).all()
