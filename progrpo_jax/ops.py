"""Masked reductions, token log-probs and entropies, and token sampling.

`token_stats` never holds logits [B, T, V] of a whole batch, forward or
backward: it computes them for one chunk of tokens at a time. Axis letters are
those of the legend in `batch`.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# Finite stand-in for minus infinity: differences of it are never NaN.
NEGATIVE = -1e30


def masked_sum(x, mask, axis=None) -> jax.Array:
  """Sums `x` where `mask` is True, in float32; masked-out NaNs are ignored."""
  return jnp.sum(jnp.where(mask, x, 0), axis=axis, dtype=jnp.float32)


def masked_mean(x, mask, axis=None) -> jax.Array:
  """Mean of `x` where `mask` is True, in float32; 0 if the mask is empty."""
  count = jnp.sum(mask, axis=axis, dtype=jnp.float32)
  return masked_sum(x, mask, axis) / jnp.maximum(count, 1)


def tail_counts(length: int, share: float) -> np.ndarray:
  """Table of tail sizes: max(1, ceil(share * n)) for n = 0..length tokens.

  Args:
    length: largest number of tokens n.
    share: fraction of the tokens in the tail, in (0, 1].

  Returns:
    int32 [length + 1]; entry n is the tail size of n tokens, and entry 0 is 0.

  Raises:
    ValueError: `share` is outside (0, 1].
  """
  if not 0 < share <= 1:
    raise ValueError(f"a share of tokens must lie in (0, 1], got {share}")
  n = np.arange(length + 1)
  # In float64 with a guard of 1e-9: 0.07 * 100 is slightly above 7 in binary,
  # and a plain ceil would count one token too many.
  count = np.ceil(share * n - 1e-9).astype(np.int32)
  return np.where(n > 0, np.maximum(count, 1), 0)


def tail_mean(x_BT, mask_BT, share: float, *, rank_BT=None) -> jax.Array:
  """Mean over the ceil(share * n) lowest of the n unmasked values of each row.

  At least one value is averaged; a row without unmasked values gives 0.

  Args:
    x_BT: values; masked-out entries are ignored, NaN included.
    mask_BT: bool, which values count; they need not be contiguous.
    share: fraction of the values to average, in (0, 1]; 1 is the plain mean.
    rank_BT: sort keys: the values at the lowest keys are averaged, and ties go
      to the earlier position. None sorts by the values themselves.

  Returns:
    mean_B, float32.
  """
  rank_BT = x_BT if rank_BT is None else rank_BT
  chex.assert_rank([x_BT, mask_BT], 2)
  chex.assert_equal_shape([x_BT, mask_BT, rank_BT])
  mask_BT = jnp.asarray(mask_BT, bool)
  length = x_BT.shape[1]
  counts = jnp.asarray(tail_counts(length, share))
  count_B = counts[jnp.sum(mask_BT, axis=1, dtype=jnp.int32)]
  # Keys of masked-out entries are infinite, so these sort behind all others.
  _, ascending_BT = lax.sort(
    (jnp.where(mask_BT, rank_BT, jnp.inf), jnp.asarray(x_BT)),
    dimension=1,
    num_keys=1,
  )
  tail_BT = jnp.arange(length) < count_B[:, None]
  return masked_mean(ascending_BT, tail_BT, axis=1)


def all_finite(tree) -> jax.Array:
  """Returns whether all numbers of a tree are finite; bool scalar."""
  return jnp.all(
    jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)])
  )


def not_finite(tree) -> list[str]:
  """Dotted paths of the arrays of a tree that hold NaN or infinity."""
  finite = jax.jit(lambda t: jax.tree.map(all_finite, t))(tree)
  return [
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, flag in jax.tree_util.tree_leaves_with_path(finite)
    if not flag
  ]


def matmul_logits(hidden_BTD, head_DV) -> jax.Array:
  """Float32 logits [B, T, V]; operands are multiplied in the hidden type."""
  return jnp.einsum(
    "...d,dv->...v",
    hidden_BTD,
    head_DV.astype(hidden_BTD.dtype),
    preferred_element_type=jnp.float32,
  )


def kept_tokens(scaled_BTV, top_k: int, top_p: float) -> jax.Array:
  """Mask of the tokens kept by top-k, then top-p (transformers' order).

  The lowest kept value is searched for; nothing is sorted, so that a
  vocabulary may be split over devices.

  Args:
    scaled_BTV: logits divided by the temperature.
    top_k: number of highest logits to keep; 0 keeps all.
    top_p: probability mass to keep: the smallest set of highest tokens whose
      mass reaches it; 1.0 keeps all.

  Returns:
    bool [B, T, V], True for kept tokens; ties with the last kept token are
    kept too.
  """
  keys = _ordered(scaled_BTV)
  keep = jnp.ones_like(scaled_BTV, bool)
  if 0 < top_k < scaled_BTV.shape[-1]:
    # A value is kept while fewer than k values are above it.
    lowest = _lowest_kept(
      keys, jnp.ones_like(scaled_BTV), jnp.full(scaled_BTV.shape[:-1], top_k)
    )
    keep = keys >= lowest[..., None]
  if top_p < 1.0:
    peak = jnp.max(scaled_BTV, axis=-1, keepdims=True)
    weights = jnp.where(keep, jnp.exp(scaled_BTV - peak), 0.0)
    # A value is kept while the mass above it is below top_p, so the value that
    # crosses top_p is the last one kept.
    lowest = _lowest_kept(keys, weights, top_p * jnp.sum(weights, axis=-1))
    keep = keep & (keys >= lowest[..., None])
  return keep


def _ordered(x) -> jax.Array:
  """Float32 numbers as int32 in the same order; both zeros are one number."""
  bits = lax.bitcast_convert_type(
    jnp.where(x == 0, 0.0, x.astype(jnp.float32)), jnp.int32
  )
  # Negative floats order backwards by their bits.
  return jnp.where(bits < 0, bits ^ jnp.int32(2**31 - 1), bits)


def _lowest_kept(keys, weights, amount) -> jax.Array:
  """Smallest key of each row above which less than an amount of weight lies.

  Bisects between two keys of the row, in at most 32 passes: an interval of
  int32 halves each time, and then shrinks to the keys that lie in it.

  Args:
    keys: int32 [..., V].
    weights: float32 [..., V], 0 or more.
    amount: [...], above 0 and at most the sum of the weights.

  Returns:
    int32 [...].
  """
  most, least = jnp.iinfo(jnp.int32).max, jnp.iinfo(jnp.int32).min

  def halve(bounds):
    low, high = bounds
    # The mean rounded down, without overflow: low <= middle < high.
    middle = (low >> 1) + (high >> 1) + (low & high & 1)
    above = keys > middle[..., None]
    mass = jnp.sum(jnp.where(above, weights, 0.0), axis=-1)
    next_above = jnp.min(jnp.where(above, keys, most), axis=-1)
    next_below = jnp.max(jnp.where(above, least, keys), axis=-1)
    going, too_low = low < high, mass >= amount
    return (
      jnp.where(going & too_low, next_above, low),
      jnp.where(going & ~too_low, next_below, high),
    )

  _, high = lax.while_loop(
    lambda bounds: jnp.any(bounds[0] < bounds[1]),
    halve,
    (jnp.min(keys, axis=-1), jnp.max(keys, axis=-1)),
  )
  return high


def token_stats(
  hidden_UXD,
  head_DV,
  targets_UX,
  source_UX=None,
  count=None,
  *,
  temperature=1.0,
  top_k=0,
  top_p=1.0,
  chunk=1024,
) -> tuple[jax.Array, jax.Array]:
  """Log-prob of each target and exact entropy, a chunk of tokens at a time.

  Log-probs are taken under the sampler's distribution (temperature, top-k and
  top-p applied), so importance ratios compare the same distribution; a target
  is always counted as kept. The entropy is over the whole vocabulary at this
  temperature, without truncation.

  The output head and the softmax are computed together for `chunk` tokens of
  each part, so that logits [U, X, V] never exist. The forward pass keeps three
  numbers of a token: its entropy, and the log-sums over all and over the kept
  tokens of the vocabulary. The backward pass computes a chunk's logits again,
  and with these numbers needs no further sum over them. With p the whole
  softmax, q that of the kept tokens and H the entropy, the gradients by
  logit / temperature of token v are

    of the log-prob   1 at the target, else 0, minus q_v
    of the entropy    -p_v (log p_v + H)

  Each of the U parts lies on one device, or on the devices that share it, and
  chunks cut every part alike. The gradient of the head is summed over chunks
  within a part, in float32, and over parts once, at the end: devices exchange
  it once, and not for every chunk. They may also split the vocabulary: nothing
  is gathered or sorted along it, and only peaks and sums over it pass between
  them.

  Args:
    hidden_UXD: last hidden states.
    head_DV: output embedding; its gradient has its own type.
    targets_UX: int32, tokens to score. Their number may be another one than
      that of the hidden states if there is `source_UX`.
    source_UX: int32, number of the hidden state that predicts each target;
      None for its own number.
    count: int32, number of targets of a part, the first ones, that are wanted:
      a scalar of the program, which stops after their last chunk. The results
      of the others are meaningless. None for all.
    temperature: divisor of the logits, above 0.
    top_k: number of tokens kept; 0 keeps all.
    top_p: probability mass kept; 1.0 keeps all.
    chunk: number of tokens of a part whose logits exist at one time.

  Returns:
    (logp_UX, entropy_UX), float32, in nats.
  """
  chex.assert_rank([hidden_UXD, head_DV, targets_UX], [3, 2, 2])
  length = targets_UX.shape[1]
  if source_UX is None:
    chex.assert_equal_shape_prefix([hidden_UXD, targets_UX], 2)
    source_UX = jnp.broadcast_to(jnp.arange(length), targets_UX.shape)
  count = jnp.int32(length) if count is None else jnp.asarray(count, jnp.int32)
  size = max(1, min(chunk, length))
  # To whole chunks.
  targets_UX, source_UX = (
    jnp.pad(x, ((0, 0), (0, math.ceil(length / size) * size - length)))
    for x in (targets_UX, source_UX)
  )
  logp_UX, entropy_UX = _scored(
    _Softmax(temperature, top_k, top_p),
    size,
    hidden_UXD,
    head_DV,
    targets_UX,
    source_UX,
    count,
  )
  return logp_UX[:, :length], entropy_UX[:, :length]


@dataclasses.dataclass(frozen=True)
class _Softmax:
  """The distribution of `token_stats`, whose arguments these are."""

  temperature: float
  top_k: int
  top_p: float


class _Saved(NamedTuple):
  """What the backward pass needs of each token, float32.

  Attributes:
    entropy_UX: entropy over the whole vocabulary.
    log_sum_UX: log of the sum of exp(logit / temperature).
    kept_sum_UX: the same of the kept tokens of the vocabulary.
  """

  entropy_UX: jax.Array
  log_sum_UX: jax.Array
  kept_sum_UX: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scored(
  softmax: _Softmax,
  size: int,
  hidden_UXD,
  head_DV,
  targets_UX,
  source_UX,
  count,
):
  """Computes `token_stats` of whole chunks of `size` tokens."""
  logp_UX, saved = _stats(
    softmax, size, hidden_UXD, head_DV, targets_UX, source_UX, count
  )
  return logp_UX, saved.entropy_UX


def _scored_forward(softmax, size, *inputs):
  logp_UX, saved = _stats(softmax, size, *inputs)
  return (logp_UX, saved.entropy_UX), (inputs, saved)


def _scored_backward(softmax, size, residuals, cotangents):
  by_hidden_UXD, by_head_DV = _gradients(softmax, size, *residuals, cotangents)
  return by_hidden_UXD, by_head_DV, None, None, None


_scored.defvjp(_scored_forward, _scored_backward)


def _stats(
  softmax, size, hidden_UXD, head_DV, targets_UX, source_UX, count
) -> tuple[jax.Array, _Saved]:
  """Statistics of all tokens, chunk by chunk: (logp_UX, what is saved)."""

  def one(number, out):
    stats = _chunk_stats(
      softmax,
      _states(hidden_UXD, _chunk(source_UX, number, size)),
      head_DV,
      _chunk(targets_UX, number, size),
    )
    return jax.tree.map(lambda x, y: _with_chunk(x, y, number), out, stats)

  nothing = jnp.zeros(targets_UX.shape, jnp.float32)
  chunks = targets_UX.shape[1] // size
  return _for_chunks(
    one, (nothing, _Saved(*[nothing] * 3)), count, size, chunks
  )


def _gradients(
  softmax, size, inputs, saved: _Saved, cotangents
) -> tuple[jax.Array, jax.Array]:
  """Gradients by the hidden states and by the head, chunk by chunk.

  Args:
    softmax: the distribution.
    size: tokens of a chunk.
    inputs: arguments of `_scored` from `hidden_UXD` to `count`.
    saved: statistics of `_stats`.
    cotangents: gradients (by_logp_UX, by_entropy_UX).

  Returns:
    (by_hidden_UXD, by_head_DV), in the types of the states and of the head.
  """
  hidden_UXD, head_DV, targets_UX, source_UX, count = inputs
  parts, length = targets_UX.shape
  wanted_X = jnp.arange(length) < count
  cotangents = tuple(jnp.where(wanted_X, x, 0.0) for x in cotangents)

  def one(number, sums):
    by_states_UXD, by_head_UDV = sums
    saved_chunk, (by_logp_UX, by_entropy_UX) = jax.tree.map(
      lambda x: _chunk(x, number, size), (saved, cotangents)
    )
    more_UXD, more_UDV = _chunk_gradients(
      softmax,
      _states(hidden_UXD, _chunk(source_UX, number, size)),
      head_DV,
      _chunk(targets_UX, number, size),
      saved_chunk,
      by_logp_UX,
      by_entropy_UX,
    )
    return _with_chunk(by_states_UXD, more_UXD, number), by_head_UDV + more_UDV

  by_states_UXD, by_head_UDV = _for_chunks(
    one,
    (
      jnp.zeros((parts, length, hidden_UXD.shape[-1]), jnp.float32),
      jnp.zeros((parts, *head_DV.shape), jnp.float32),
    ),
    count,
    size,
    length // size,
  )
  # Back from the targets to the states that predict them.
  by_hidden_UXD = jax.vmap(lambda x, index, y: x.at[index].add(y))(
    jnp.zeros(hidden_UXD.shape, jnp.float32), source_UX, by_states_UXD
  )
  return (
    by_hidden_UXD.astype(hidden_UXD.dtype),
    jnp.sum(by_head_UDV, axis=0).astype(head_DV.dtype),
  )


def _chunk_logits(
  softmax: _Softmax, hidden_UXD, head_DV, targets_UX
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Logits of a chunk, as the softmax takes them.

  Returns:
    (scaled_UXV, target_UXV, kept_UXV): float32 logits over the temperature;
    bool, the target's place; and bool, the kept tokens, or None for all.
  """
  scaled_UXV = matmul_logits(hidden_UXD, head_DV) / softmax.temperature
  # The target is found by comparison, not by gather: that works shard by shard
  # where the vocabulary is split.
  target_UXV = (
    lax.broadcasted_iota(jnp.int32, scaled_UXV.shape, 2)
    == targets_UX[..., None]
  )
  kept_UXV = None
  if softmax.top_k > 0 or softmax.top_p < 1.0:
    # The target stays in the kept set even if rounding moved its logit across
    # the threshold since sampling.
    kept_UXV = (
      kept_tokens(scaled_UXV, softmax.top_k, softmax.top_p) | target_UXV
    )
  return scaled_UXV, target_UXV, kept_UXV


def _chunk_stats(
  softmax: _Softmax, hidden_UXD, head_DV, targets_UX
) -> tuple[jax.Array, _Saved]:
  """Statistics of a chunk: (logp_UX, what is saved)."""
  scaled_UXV, target_UXV, kept_UXV = _chunk_logits(
    softmax, hidden_UXD, head_DV, targets_UX
  )
  chosen_UX = jnp.sum(jnp.where(target_UXV, scaled_UXV, 0), axis=-1)
  # With the peak subtracted both sums are taken in one pass, and neither the
  # log-sum nor the entropy is a difference of large numbers.
  peak_UX = jnp.max(scaled_UXV, axis=-1)
  below_UXV = scaled_UXV - peak_UX[..., None]
  weight_UXV = jnp.exp(below_UXV)
  total_UX = jnp.sum(weight_UXV, axis=-1)
  entropy_UX = (
    jnp.log(total_UX) - jnp.sum(weight_UXV * below_UXV, axis=-1) / total_UX
  )
  log_sum_UX = kept_sum_UX = peak_UX + jnp.log(total_UX)
  if kept_UXV is not None:
    kept_sum_UX = peak_UX + jnp.log(
      jnp.sum(jnp.where(kept_UXV, weight_UXV, 0), axis=-1)
    )
  return chosen_UX - kept_sum_UX, _Saved(entropy_UX, log_sum_UX, kept_sum_UX)


def _chunk_gradients(
  softmax: _Softmax,
  hidden_UXD,
  head_DV,
  targets_UX,
  saved: _Saved,
  by_logp_UX,
  by_entropy_UX,
) -> tuple[jax.Array, jax.Array]:
  """Gradients of a chunk by its states and by the head, both float32.

  Args:
    softmax: the distribution.
    hidden_UXD: hidden states of the chunk.
    head_DV: output embedding.
    targets_UX: int32, tokens of the chunk.
    saved: statistics of `_chunk_stats`.
    by_logp_UX: gradient by the log-probs.
    by_entropy_UX: gradient by the entropies.

  Returns:
    (by_hidden_UXD, by_head_UDV).
  """
  scaled_UXV, target_UXV, kept_UXV = _chunk_logits(
    softmax, hidden_UXD, head_DV, targets_UX
  )
  logp_UXV = scaled_UXV - saved.log_sum_UX[..., None]
  probs_UXV = kept_probs_UXV = jnp.exp(logp_UXV)
  if kept_UXV is not None:
    kept_probs_UXV = jnp.where(
      kept_UXV, jnp.exp(scaled_UXV - saved.kept_sum_UX[..., None]), 0.0
    )
  by_logits_UXV = by_logp_UX[..., None] * (
    target_UXV.astype(jnp.float32) - kept_probs_UXV
  ) - by_entropy_UX[..., None] * probs_UXV * (
    logp_UXV + saved.entropy_UX[..., None]
  )
  by_logits_UXV = (by_logits_UXV / softmax.temperature).astype(hidden_UXD.dtype)
  by_hidden_UXD = jnp.einsum(
    "uxv,dv->uxd",
    by_logits_UXV,
    head_DV.astype(hidden_UXD.dtype),
    preferred_element_type=jnp.float32,
  )
  by_head_UDV = jnp.einsum(
    "uxd,uxv->udv",
    hidden_UXD,
    by_logits_UXV,
    preferred_element_type=jnp.float32,
  )
  return by_hidden_UXD, by_head_UDV


def _states(hidden_UXD, source_UX) -> jax.Array:
  """The hidden state that predicts each target, [U, X, D]."""
  return jax.vmap(lambda x, index: x[index])(hidden_UXD, source_UX)


def _chunk(x_UX, number, size: int) -> jax.Array:
  """Chunk of this number, [U, X, ...] -> [U, size, ...]."""
  return lax.dynamic_slice_in_dim(x_UX, number * size, size, axis=1)


def _with_chunk(x_UX, part_UX, number) -> jax.Array:
  """Writes the chunk of this number into an array of all."""
  return lax.dynamic_update_slice_in_dim(
    x_UX, part_UX, number * part_UX.shape[1], axis=1
  )


def _for_chunks(body, carry, count, size: int, chunks: int):
  """Runs body(number, carry) for the chunks that hold the first tokens.

  Args:
    body: function of a chunk's number and the carry; returns the new carry.
    carry: first value.
    count: number of tokens that are wanted.
    size: tokens of a chunk.
    chunks: number of all chunks; one alone is run without a loop.
  """
  if chunks == 1:
    return body(0, carry)
  return lax.fori_loop(0, (count + size - 1) // size, body, carry)


def sample_from_logits(
  scaled_BV, uniform_B2, *, top_k=0, top_p=1.0, block=128, shards=1, rows=1
) -> tuple[jax.Array, jax.Array]:
  """Draws one token per row by inverting the cumulative distribution.

  Takes two uniform numbers per row, where Gumbel-max takes V. The first picks
  a block of tokens in proportion to the block sums, the second a token within
  the block. One number for both would be too coarse: float32 cumulative sums
  over the whole vocabulary have few digits left within a block of small
  weight. With two, a block's probability is exact to 2^-23, and a token's to
  2^-23 of its block's.

  Probabilities are never written: the logits are read for their peak, for the
  block sums, and the chosen block once more. Where devices split the
  vocabulary, only sums and the chosen block pass between them.

  Args:
    scaled_BV: float32, logits divided by the temperature.
    uniform_B2: float32 in [0, 1), multiples of 2^-23.
    top_k: number of tokens kept; 0 keeps all.
    top_p: probability mass kept; 1.0 keeps all.
    block: tokens per block.
    shards: equal parts into which devices split the vocabulary; they do not
      change the blocks.
    rows: rows that the loop over blocks takes together; must divide B, and
      changes nothing that is drawn. See `tile_rows`.

  Returns:
    (token_B, logp_B): int32 tokens, and their float32 log-probs under the
    truncated distribution.
  """
  number, vocab = scaled_BV.shape
  chex.assert_shape(uniform_B2, (number, 2))
  peak = jnp.max(scaled_BV, axis=-1, keepdims=True)
  if top_k > 0 or top_p < 1.0:
    keep = kept_tokens(scaled_BV[:, None], top_k, top_p)[:, 0]
    scaled_BV = jnp.where(keep, scaled_BV, -jnp.inf)
  # [B, V] -> [B / rows, rows, pieces, piece]. A piece is the part of a block
  # that lies on one shard: half a block of 128 where two devices split 1,187 of
  # them.
  width = min(block, vocab)
  piece = math.gcd(width, vocab // shards)
  if vocab % width:
    # Padding has weight 0 and is never drawn.
    piece, padding = width, -vocab % width
    scaled_BV = jnp.pad(
      scaled_BV, ((0, 0), (0, padding)), constant_values=-jnp.inf
    )
  pieces = scaled_BV.reshape(number // rows, rows, -1, piece)
  # Unnormalised probabilities; subtracting the peak keeps exp in range.
  sums = jnp.exp(pieces - peak.reshape(*pieces.shape[:2], 1, 1)).sum(axis=-1)
  sums = sums.reshape(number, -1, width // piece).sum(axis=-1)
  # Their own sum is taken below. Without the barrier XLA takes it from the
  # logits once more.
  sums = lax.optimization_barrier(sums)

  chosen = _invert(sums, uniform_B2[:, 0])
  index = chosen[:, None] * (width // piece) + jnp.arange(width // piece)
  inside = jnp.take_along_axis(
    pieces, index.reshape(*pieces.shape[:2], -1, 1), axis=2
  ).reshape(number, width)
  # By the block's own peak, so that some token in it has a weight.
  token = _invert(
    jnp.exp(inside - jnp.max(inside, axis=-1, keepdims=True)), uniform_B2[:, 1]
  )
  logp = _pick(inside, token) - peak[:, 0] - jnp.log(jnp.sum(sums, axis=-1))
  return chosen * width + token, logp


def tile_rows(rows: int) -> int:
  """Rows of logits that `sample_from_logits` should take together.

  A TPU keeps tiles of 8 rows and 128 columns together. [B, V] cut into blocks
  of 128 columns is copied whole, unless its rows are cut into eights as well:
  then the bytes stay where they are.

  Args:
    rows: rows on a device.
  """
  if rows < 8:
    return rows
  return 8 if rows % 8 == 0 else 1


def _invert(weights_BX, uniform_B) -> jax.Array:
  """Index chosen by a uniform number, in proportion to the weights.

  Indices of zero weight are never chosen. NaN weights give index 0.
  """
  # XLA may round cumulative sums so that they do not ascend; an index of zero
  # weight could then seem to hold the point, so its sum is set to 0.
  positive = weights_BX > 0
  sums = jnp.where(positive, jnp.cumsum(weights_BX, axis=-1), 0.0)
  end_B = jnp.max(sums, axis=-1)
  # A uniform number u on the grid of 2^-23 stands for the middle of its step:
  # u = 0 itself would always choose the first index of any weight, however
  # small. The minimum keeps the last step from rounding up to the end.
  point_B = jnp.minimum(
    (uniform_B + 2.0**-24) * end_B, jnp.nextafter(end_B, 0.0)
  )
  # Index of the first True, or 0 where none is True.
  return jnp.argmax(sums > point_B[:, None], axis=-1).astype(jnp.int32)


def _pick(x_BX, index_B) -> jax.Array:
  """Returns x_BX[b, index_B[b]] for each b."""
  return jnp.take_along_axis(x_BX, index_B[:, None], axis=1)[:, 0]
