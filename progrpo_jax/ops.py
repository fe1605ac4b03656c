"""Masked reductions, token log-probs and entropies, and token sampling.

`token_stats` never holds logits [B, T, V] of a whole batch, forward or
backward: it computes them for one chunk of tokens at a time. Axis letters are
those of the legend in `batch`.
"""

import math

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
  """Whether all numbers of a tree are finite; bool scalar."""
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
  hidden_GXD,
  head_DV,
  targets_GX,
  source_GX=None,
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

  Each of the G groups is the part of one device, or of one device along the
  axes that split a batch: chunks cut every group alike, and the gradient of the
  head is summed over chunks within a group, in float32, and over groups once,
  at the end. Logits are computed again in the backward pass.

  Args:
    hidden_GXD: last hidden states.
    head_DV: output embedding; its gradient has its own type.
    targets_GX: int32, tokens to score. Their number may be another one than
      that of the hidden states if there is `source_GX`.
    source_GX: int32, number of the hidden state that predicts each target;
      None for its own number.
    count: int32, number of targets of a group, the first ones, that are wanted:
      a scalar of the program, which stops after their last chunk. The results
      of the others are meaningless. None for all.
    temperature: divisor of the logits, above 0.
    top_k: number of tokens kept; 0 keeps all.
    top_p: probability mass kept; 1.0 keeps all.
    chunk: number of tokens of a group whose logits exist at one time.

  Returns:
    (logp_GX, entropy_GX), float32, in nats.
  """
  chex.assert_rank([hidden_GXD, head_DV, targets_GX], [3, 2, 2])
  groups, length = targets_GX.shape
  size = max(1, min(chunk, length))
  chunks = math.ceil(length / size)
  if source_GX is None:
    chex.assert_equal_shape_prefix([hidden_GXD, targets_GX], 2)
    source_GX = jnp.broadcast_to(jnp.arange(length), targets_GX.shape)
  count = jnp.int32(length) if count is None else jnp.asarray(count, jnp.int32)

  def padded(x):
    return jnp.pad(x, ((0, 0), (0, chunks * size - length)))

  def cut(x, number):
    return lax.dynamic_slice_in_dim(x, number * size, size, axis=1)

  def put(whole, part, number):
    return lax.dynamic_update_slice_in_dim(whole, part, number * size, axis=1)

  def over_chunks(body, carry, count):
    if chunks == 1:
      return body(0, carry)
    return lax.fori_loop(0, (count + size - 1) // size, body, carry)

  def logits(hidden, head, targets):
    """(logits [G, size, V], where they are the target's, where kept)."""
    scaled = matmul_logits(hidden, head) / temperature
    # Select the target by comparison, not by gather: it works shard by shard
    # where the vocabulary is sharded.
    is_target = (
      lax.broadcasted_iota(jnp.int32, scaled.shape, 2) == targets[..., None]
    )
    keep = None
    if top_k > 0 or top_p < 1.0:
      # The target stays in the kept set even if rounding moved its logit
      # across the threshold since sampling.
      keep = kept_tokens(scaled, top_k, top_p) | is_target
    return scaled, is_target, keep

  def stats(hidden, head, targets):
    """(logp, entropy, log-sum, log-sum of the kept), each [G, size]."""
    scaled, is_target, keep = logits(hidden, head, targets)
    target = jnp.sum(jnp.where(is_target, scaled, 0), axis=-1)
    # With the peak subtracted both sums are taken in one pass, and neither the
    # log-sum nor the entropy is a difference of large numbers.
    peak = jnp.max(scaled, axis=-1)
    below = scaled - peak[..., None]
    weight = jnp.exp(below)
    total = jnp.sum(weight, axis=-1)
    entropy = jnp.log(total) - jnp.sum(weight * below, axis=-1) / total
    log_sum = kept_sum = peak + jnp.log(total)
    if keep is not None:
      kept_sum = peak + jnp.log(jnp.sum(jnp.where(keep, weight, 0), axis=-1))
    return target - kept_sum, entropy, log_sum, kept_sum

  gather = jax.vmap(lambda x, index: x[index])

  def forward(hidden, head, targets, source, count):
    def body(number, out):
      values = stats(
        gather(hidden, cut(source, number)), head, cut(targets, number)
      )
      return tuple(put(x, y, number) for x, y in zip(out, values))

    nothing = jnp.zeros((groups, chunks * size), jnp.float32)
    return over_chunks(body, (nothing,) * 4, count)

  @jax.custom_vjp
  def run(hidden, head, targets, source, count):
    return forward(hidden, head, targets, source, count)[:2]

  def run_forward(*args):
    out = forward(*args)
    return out[:2], (args, out[1:])

  def run_backward(saved, cotangents):
    (hidden, head, targets, source, count), kept_stats = saved
    wanted = jnp.arange(chunks * size) < count
    by_logp, by_entropy = (jnp.where(wanted, x, 0.0) for x in cotangents)

    def body(number, sums):
      by_hidden, by_head = sums
      states = gather(hidden, cut(source, number))
      scaled, is_target, keep = logits(states, head, cut(targets, number))
      entropy, log_sum, kept_sum = (
        cut(x, number)[..., None] for x in kept_stats
      )
      logp = scaled - log_sum
      probs = kept = jnp.exp(logp)
      if keep is not None:
        kept = jnp.where(keep, jnp.exp(scaled - kept_sum), 0.0)
      by_logits = cut(by_logp, number)[..., None] * (
        is_target.astype(jnp.float32) - kept
      ) - cut(by_entropy, number)[..., None] * probs * (logp + entropy)
      by_logits = (by_logits / temperature).astype(hidden.dtype)
      by_states = jnp.einsum(
        "gxv,dv->gxd",
        by_logits,
        head.astype(hidden.dtype),
        preferred_element_type=jnp.float32,
      )
      by_head += jnp.einsum(
        "gxd,gxv->gdv", states, by_logits, preferred_element_type=jnp.float32
      )
      return put(by_hidden, by_states, number), by_head

    by_states, by_head = over_chunks(
      body,
      (
        jnp.zeros((groups, chunks * size, hidden.shape[-1]), jnp.float32),
        jnp.zeros((groups, *head.shape), jnp.float32),
      ),
      count,
    )
    by_hidden = jax.vmap(lambda x, index, y: x.at[index].add(y))(
      jnp.zeros(hidden.shape, jnp.float32), source, by_states
    )
    return (
      by_hidden.astype(hidden.dtype),
      jnp.sum(by_head, axis=0).astype(head.dtype),
      None,
      None,
      None,
    )

  run.defvjp(run_forward, run_backward)
  logp, entropy = run(
    hidden_GXD, head_DV, padded(targets_GX), padded(source_GX), count
  )
  return logp[:, :length], entropy[:, :length]


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
