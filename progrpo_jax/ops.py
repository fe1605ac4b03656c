"""Masked reductions, token statistics from hidden states, and drawing.

Nothing here, forward or backward, holds an array over [B, T, V]: logits live
for one chunk of tokens at a time.
"""

import math

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# Stands for minus infinity where arithmetic on it must stay finite.
NEGATIVE = -1e30


def masked_sum(x, mask, axis=None) -> jax.Array:
  """Sums `x` where `mask` is True, in float32; NaN under the mask is inert."""
  return jnp.sum(
      jnp.where(mask, x, 0), axis=axis, dtype=jnp.float32)


def masked_mean(x, mask, axis=None) -> jax.Array:
  """Mean of `x` where `mask` is True, in float32; 0 where nothing is."""
  count = jnp.sum(mask, axis=axis, dtype=jnp.float32)
  return masked_sum(x, mask, axis) / jnp.maximum(count, 1)


def tail_counts(length: int, share: float) -> np.ndarray:
  """Tokens in the lower tail of 0..length tokens: max(1, ceil(share * n)).

  Counted on the host in float64 with a guard: 0.07 * 100 is a little above 7
  in binary, and a bare ceil would take one token too many.

  Args:
    length: largest number of tokens.
    share: in (0, 1].

  Returns:
    int32 [length + 1]; 0 for no tokens.

  Raises:
    ValueError: `share` is outside (0, 1].
  """
  if not 0 < share <= 1:
    raise ValueError(f"a share of tokens must lie in (0, 1], got {share}")
  n = np.arange(length + 1)
  count = np.ceil(share * n - 1e-9).astype(np.int32)
  return np.where(n > 0, np.maximum(count, 1), 0)


def tail_mean(x_BT, mask_BT, share: float, *, rank_BT=None) -> jax.Array:
  """Mean of the ceil(share * n) lowest of the n masked-in values of a row.

  At least one value counts; a row without any gives 0, as `masked_mean`.

  Args:
    x_BT: values; whatever stands under the mask is inert.
    mask_BT: which values are real, wherever in the row they stand.
    share: in (0, 1]; 1 is the plain mean.
    rank_BT: averages the values where this is lowest instead; of equal ones
      those that stand first. None ranks the values by themselves.

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
  _, ascending_BT = lax.sort(
      (jnp.where(mask_BT, rank_BT, jnp.inf), jnp.asarray(x_BT)), dimension=1,
      num_keys=1)
  tail_BT = jnp.arange(length) < count_B[:, None]
  return masked_mean(ascending_BT, tail_BT, axis=1)


def all_finite(tree) -> jax.Array:
  """Whether no number of a tree is NaN or infinite; bool scalar."""
  return jnp.all(jnp.stack(
      [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def not_finite(tree) -> list[str]:
  """Names of the arrays of a tree that hold NaN or an infinity."""
  finite = jax.jit(lambda t: jax.tree.map(all_finite, t))(tree)
  return [
      jax.tree_util.keystr(path, simple=True, separator=".")
      for path, flag in jax.tree_util.tree_leaves_with_path(finite)
      if not flag]


def matmul_logits(hidden_BTD, head_DV) -> jax.Array:
  """Logits in float32; the product runs in the type of `hidden_BTD`."""
  return jnp.einsum(
      "...d,dv->...v", hidden_BTD, head_DV.astype(hidden_BTD.dtype),
      preferred_element_type=jnp.float32)


def kept_tokens(scaled_BTV, top_k: int, top_p: float) -> jax.Array:
  """Tokens that top-k and then top-p leave, as transformers orders them.

  Args:
    scaled_BTV: logits after division by the temperature.
    top_k: keep this many of the highest; 0 keeps all.
    top_p: keep the fewest highest tokens whose mass reaches this.

  Returns:
    bool [B, T, V]. Ties with the last kept token are kept too.
  """
  vocab = scaled_BTV.shape[-1]
  keep = jnp.ones_like(scaled_BTV, bool)
  if 0 < top_k < vocab:
    kth = lax.top_k(scaled_BTV, top_k)[0][..., -1:]
    keep = scaled_BTV >= kth
  if top_p < 1.0:
    candidates = jnp.where(keep, scaled_BTV, -jnp.inf)
    descending = -jnp.sort(-candidates, axis=-1)
    probs = jax.nn.softmax(descending, axis=-1)
    # A token stays while the mass before it is short of top_p: the token
    # that crosses the line is the last to stay.
    before = jnp.cumsum(probs, axis=-1) - probs
    stays = before < top_p
    lowest = jnp.min(
        jnp.where(stays, descending, jnp.inf), axis=-1, keepdims=True)
    keep = keep & (candidates >= lowest)
  return keep


def token_stats(
    hidden_BTD, head_DV, targets_BT, *, temperature=1.0, top_k=0, top_p=1.0,
    chunk=4096,
) -> tuple[jax.Array, jax.Array]:
  """Log-prob of each target and exact entropy, a chunk of tokens at a time.

  The log-prob is under the distribution that a sampler with this temperature
  and truncation draws from, so that importance ratios compare like with like;
  a target is always inside the truncated set. The entropy is that of the
  whole vocabulary at this temperature.

  Args:
    hidden_BTD: last hidden states; position t predicts `targets_BT[:, t]`.
    head_DV: output embedding; its gradient is accumulated in its own type.
    targets_BT: int32.
    temperature: > 0.
    top_k: 0 for all.
    top_p: 1.0 for all.
    chunk: tokens whose logits may exist at one time (at least one column).

  Returns:
    (logp_BT, entropy_BT), float32, in nats.
  """
  chex.assert_rank([hidden_BTD, head_DV, targets_BT], [3, 2, 2])
  chex.assert_equal_shape_prefix([hidden_BTD, targets_BT], 2)
  rows, length, width = hidden_BTD.shape

  def stats(hidden, targets):
    scaled = matmul_logits(hidden, head_DV) / temperature
    lse = jax.nn.logsumexp(scaled, axis=-1)
    # A comparison instead of a gather: its gradient is no scatter, and it
    # stays local where the vocabulary is sharded.
    is_target = (
        lax.broadcasted_iota(jnp.int32, scaled.shape, 2) == targets[..., None])
    target = jnp.sum(jnp.where(is_target, scaled, 0), axis=-1)
    # Of log-probs, not of logits: where one token is all but certain, the sum
    # over logits cancels and leaves only its rounding.
    logp = scaled - lse[..., None]
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
    if top_k > 0 or top_p < 1.0:
      keep = kept_tokens(lax.stop_gradient(scaled), top_k, top_p) | is_target
      lse = jax.nn.logsumexp(jnp.where(keep, scaled, -jnp.inf), axis=-1)
    return target - lse, entropy

  columns = max(1, chunk // rows)
  if columns >= length:
    return stats(hidden_BTD, targets_BT)
  # Chunks cut the time axis, which no mesh axis shards.
  count = math.ceil(length / columns)
  padding = count * columns - length
  hidden = jnp.pad(hidden_BTD, ((0, 0), (0, padding), (0, 0)))
  targets = jnp.pad(targets_BT, ((0, 0), (0, padding)))
  hidden = hidden.reshape(rows, count, columns, width).swapaxes(0, 1)
  targets = targets.reshape(rows, count, columns).swapaxes(0, 1)
  # Recomputing a chunk's logits in the backward pass is what keeps them from
  # being stored for all chunks.
  body = jax.checkpoint(lambda carry, x: (carry, stats(*x)))
  _, (logp, entropy) = lax.scan(body, (), (hidden, targets))

  def join(x):
    return x.swapaxes(0, 1).reshape(rows, count * columns)[:, :length]

  return join(logp), join(entropy)


def sample_from_logits(
    scaled_BV, uniform_B2, *, top_k=0, top_p=1.0, block=512,
) -> tuple[jax.Array, jax.Array]:
  """Draws one token a row by inverting the cumulative distribution.

  Two uniform numbers a row are enough, where Gumbel-max takes V: one chooses
  a block of tokens by the sums of the blocks, one a token inside of it. What
  is left of the first would be too coarse for the second: in a block of
  little weight, a sum over the whole vocabulary has few digits left. So a
  token's probability is right to 2^-23 of its block's, and a block's to 2^-23.

  Args:
    scaled_BV: float32 logits after division by the temperature.
    uniform_B2: float32 in [0, 1), multiples of 2^-23.
    top_k: 0 for all.
    top_p: 1.0 for all.
    block: tokens of a block.

  Returns:
    (token_B int32, logp_B float32 under the truncated distribution).
  """
  rows, vocab = scaled_BV.shape
  chex.assert_shape(uniform_B2, (rows, 2))
  if top_k > 0 or top_p < 1.0:
    keep = kept_tokens(scaled_BV[:, None], top_k, top_p)[:, 0]
    scaled_BV = jnp.where(keep, scaled_BV, -jnp.inf)
  peak = jnp.max(scaled_BV, axis=-1, keepdims=True)
  weights = jnp.exp(scaled_BV - peak)
  log_total = jnp.log(jnp.sum(weights, axis=-1))
  width = min(block, vocab)
  blocks = math.ceil(vocab / width)
  weights = jnp.pad(weights, ((0, 0), (0, blocks * width - vocab)))
  weights = weights.reshape(rows, blocks, width)

  chosen = _invert(jnp.sum(weights, axis=-1), uniform_B2[:, 0])
  weights = jnp.take_along_axis(weights, chosen[:, None, None], axis=1)[:, 0]
  token = chosen * width + _invert(weights, uniform_B2[:, 1])
  return token, _pick(scaled_BV, token) - peak[:, 0] - log_total


def _invert(weights_BX, uniform_B) -> jax.Array:
  """Index that a uniform number chooses, in proportion to the weights.

  Uniform numbers are a grid from 0 on: taken as they are, 0 would choose the
  first index with any weight, however little. Each stands for the middle of
  its step of 2^-23 instead. The last one must not be rounded up to the end,
  or the last index would have that privilege.

  Cumulative sums are rounded, in an order that need not let them ascend: an
  index without weight may seem to hold the point, and is passed over. Where
  the weights are NaN the answer is the first index.
  """
  real = weights_BX > 0
  sums = jnp.where(real, jnp.cumsum(weights_BX, axis=-1), 0.0)
  end_B = jnp.max(sums, axis=-1)
  point_B = jnp.minimum(
      (uniform_B + 2.0 ** -24) * end_B, jnp.nextafter(end_B, 0.0))
  # The first True; the first of all where there is none.
  return jnp.argmax(sums > point_B[:, None], axis=-1).astype(jnp.int32)


def _pick(x_BX, index_B) -> jax.Array:
  """x_BX[b, index_B[b]] for each b."""
  return jnp.take_along_axis(x_BX, index_B[:, None], axis=1)[:, 0]
