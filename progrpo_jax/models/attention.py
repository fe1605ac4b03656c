"""Attention over a sequence's own keys and, if given, a shared prefix.

The R responses of a row share the keys of its prompt: the prompt is kept once
and read once, and the two parts are joined under one softmax.
"""

import jax
import jax.numpy as jnp

from progrpo_jax import ops


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
    out = jnp.einsum("nrktms,nrksh->nrktmh", weights.astype(v.dtype), v)
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
        "nrktms,nrksh->nrktmh", weights.astype(v.dtype), v
    ) + jnp.einsum(
        "nkrtmp,nkph->nkrtmh", prefix_weights.astype(pv.dtype), pv
    ).swapaxes(1, 2)
  # Normalising after the product divides H numbers a query, not S. The order
  # of the axes changes last: asked for inside an einsum, it would swap the
  # operands, and XLA has no fast product for that on a CPU.
  out = out / total[..., None].astype(out.dtype)
  return out.swapaxes(2, 3)
