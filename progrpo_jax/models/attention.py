"""Attention over a sequence's own keys and, if given, a shared prefix.

The R responses of a row share the keys of its prompt: the prompt is kept once
and read once, and the two parts are joined under one softmax.

`attend` is the reference: any mask, all scores at once. Decoding calls it.
`causal` is what reads whole prompts and whole responses, by the reference, by
the reference in blocks of queries where a sequence is long, or by a kernel.
"""

import math

import jax
from jax import lax
import jax.numpy as jnp

from progrpo_jax import ops
from progrpo_jax.models import fused_attention

# Scores that one head of one sequence may hold at a time: above this number,
# 4 MiB in float32, the queries are read in blocks.
SCORES = 2 ** 20

# The queries are cut into this many stripes, each of which multiplies only
# the keys up to its last query: 5/8 of all products instead of the half that
# a causal mask leaves.
_STRIPES = 4


def choose(config, platform: str) -> tuple[str, str]:
  """Which implementation of `causal` a model runs on a platform.

  Decoding reads one token at a time and always takes the reference.

  Args:
    config: of the model; `config.attention` is what was asked for.
    platform: "cpu", "gpu" or "tpu", as JAX calls them.

  Returns:
    "xla", "splash" or "cudnn"; and a sentence for the log that says why.

  Raises:
    ValueError: what was asked for by name cannot run; the message says why.
  """
  asked = config.attention
  if asked == "auto":
    reason = f"platform {platform}"
    name = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "xla")
    obstacle = fused_attention.obstacle(name, config, platform)
    if obstacle:
      name, reason = "xla", f"{reason}; not {name}, for {obstacle}"
    return name, f"attention: {name} ({reason})"
  obstacle = fused_attention.obstacle(asked, config, platform)
  if obstacle:
    raise ValueError(
        f"attention {asked!r} cannot run: {obstacle}; 'auto' takes what can")
  return asked, f"attention: {asked} (as configured)"


def causal(
    q, own, key_mask=None, prefix=None, prefix_mask=None,
    implementation: str = "xla",
) -> jax.Array:
  """Attention of a sequence to itself and to what came before it.

  Query t sees the whole prefix and the own keys 0 to t, where the masks say
  that they are real. Axes as in `attend`.

  Args:
    q: [N, R, T, K, M, H].
    own: (k, v) of the same T positions, [N, R, K, H, T] and [N, R, K, T, H].
    key_mask: bool [N, T], own keys that are real; None for all.
    prefix: as for `attend`.
    prefix_mask: bool [N, P].
    implementation: from `choose`.

  Returns:
    [N, R, T, K, M, H] in the type of `q`. What stands at a query whose own
    key is not real is finite, differs between implementations, and is for the
    caller to ignore.
  """
  args = q, own, key_mask, prefix, prefix_mask
  if implementation == "splash":
    return fused_attention.splash(*args)
  if implementation == "cudnn":
    return fused_attention.cudnn(*args)
  length = q.shape[2]
  keys = length if prefix is None else length + prefix_mask.shape[1]
  if length * keys > SCORES:
    # At least eight queries a block: fewer would not fill a product.
    size = 8 * math.ceil(length / (8 * math.ceil(length * keys / SCORES)))
    return in_blocks(*args, size=size)
  return attend(q, own, _seen(0, length, length, key_mask), prefix, prefix_mask)


def in_blocks(
    q, own, key_mask=None, prefix=None, prefix_mask=None, *, size: int,
) -> jax.Array:
  """`causal` by the reference, for `size` queries at a time.

  The backward pass makes the scores of a block again: neither pass holds more
  than those of one.
  """
  length = q.shape[2]
  count = math.ceil(length / size)
  pad = [(0, 0)] * q.ndim
  pad[2] = 0, count * size - length
  blocks = jnp.pad(q, pad)
  blocks = blocks.reshape(q.shape[:2] + (count, size) + q.shape[3:])
  blocks = jnp.moveaxis(blocks, 2, 0)
  # The gradients of keys and values are summed over the blocks, in float32.
  k, v, prefix = jax.tree.map(
      lambda x: x.astype(jnp.float32), (*own, prefix))

  def stripe(first, last):
    end = min(last * size, length)

    @jax.checkpoint
    def block(start, q, k, v, prefix):
      k, v, prefix = jax.tree.map(lambda x: x.astype(q.dtype), (k, v, prefix))
      return attend(
          q, (k, v), _seen(start, size, end, key_mask), prefix, prefix_mask)

    return lax.map(
        lambda x: block(*x, k[..., :end], v[..., :end, :], prefix),
        (size * jnp.arange(first, last), blocks[first:last]))

  edges = [i * count // _STRIPES for i in range(_STRIPES + 1)]
  out = jnp.concatenate([
      stripe(a, b) for a, b in zip(edges, edges[1:]) if a < b])
  out = jnp.moveaxis(out, 0, 2)
  return out.reshape(q.shape[:2] + (-1,) + q.shape[3:])[:, :, :length]


def _seen(start, queries: int, keys: int, key_mask) -> jax.Array:
  """Which of the first `keys` own keys are seen from `start` on."""
  rows = start + jnp.arange(queries)
  seen = jnp.arange(keys) <= rows[:, None]
  if key_mask is None:
    return seen
  return seen & key_mask[:, None, None, :keys]


def attend(q, own, own_mask, prefix=None, prefix_mask=None) -> jax.Array:
  """Softmax attention with grouped queries.

  Axes: N rows, R responses, T queries, S or P keys, K key heads, M query
  heads of one key head, H width of a head.

  Args:
    q: [N, R, T, K, M, H].
    own: (k, v), [N, R, K, H, S] and [N, R, K, S, H].
    own_mask: bool, broadcastable to [N, R, T, S]; True where seen.
    prefix: (k, v), [N, K, H, P] and [N, K, P, H], seen by all R, or None.
    prefix_mask: bool [N, P].

  Returns:
    [N, R, T, K, M, H] in the type of `q`. A query that sees nothing gets a
    mean of masked values: finite, and for the caller to ignore.
  """
  q = q * q.shape[-1] ** -0.5
  k, v = own
  scores = jnp.einsum(
      "nrtkmh,nrkhs->nrktms", q, k, preferred_element_type=jnp.float32)
  seen = jnp.broadcast_to(own_mask, q.shape[:3] + k.shape[-1:])
  scores = jnp.where(seen[:, :, None, :, None, :], scores, ops.NEGATIVE)
  # The peak only keeps exp in range; no gradient goes through it.
  peak = jax.lax.stop_gradient(jnp.max(scores, axis=-1))  # nrktm
  if prefix is None:
    weights = jnp.exp(scores - peak[..., None])
    total = jnp.sum(weights, axis=-1)
    out = jnp.einsum(
        "nrktms,nrksh->nrktmh", weights.astype(v.dtype), v,
        preferred_element_type=jnp.float32)
  else:
    # Each part keeps the order of axes in which its product comes out; only
    # the peaks and sums, one number a query, change order to meet.
    pk, pv = prefix
    prefix_scores = jnp.einsum(
        "nrtkmh,nkhp->nkrtmp", q, pk, preferred_element_type=jnp.float32)
    prefix_scores = jnp.where(
        prefix_mask[:, None, None, None, None, :], prefix_scores, ops.NEGATIVE)
    prefix_peak = jax.lax.stop_gradient(
        jnp.max(prefix_scores, axis=-1))  # nkrtm
    peak = jnp.maximum(peak, prefix_peak.swapaxes(1, 2))
    weights = jnp.exp(scores - peak[..., None])
    prefix_weights = jnp.exp(prefix_scores - peak.swapaxes(1, 2)[..., None])
    total = jnp.sum(weights, axis=-1) + jnp.sum(
        prefix_weights, axis=-1).swapaxes(1, 2)
    out = jnp.einsum(
        "nrktms,nrksh->nrktmh", weights.astype(v.dtype), v,
        preferred_element_type=jnp.float32,
    ) + jnp.einsum(
        "nkrtmp,nkph->nkrtmh", prefix_weights.astype(pv.dtype), pv,
        preferred_element_type=jnp.float32,
    ).swapaxes(1, 2)
  # Normalising after the product divides H numbers a query, not S; in float32,
  # so that products and sum are rounded to the type of `q` once. The order
  # of the axes changes last: asked for inside an einsum, it would swap the
  # operands, and XLA has no fast product for that on a CPU.
  out = (out / total[..., None]).astype(q.dtype)
  return out.swapaxes(2, 3)
