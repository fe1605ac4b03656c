"""Attention over a sequence's own keys and, optionally, a shared prefix.

`attend` is the reference: it takes any mask and computes all scores at once.
Decoding calls it, with the prompt's keys as a prefix that the R responses of a
row share. `causal` reads whole rows, of prompts or of packed bundles: through
`attend`, through `attend` in blocks of queries where rows are long, or through
a kernel.

Axis letters are those of the legend in `batch`. Here T counts queries, S own
keys and C prefix keys.
"""

import functools
import math

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp

from progrpo_jax import ops
from progrpo_jax.models import fused_attention

# Largest number of scores per head and sequence that are computed at once
# (4 MiB in float32). Longer sequences are read in blocks of queries.
SCORES = 2**20

# Groups of blocks in `in_blocks`. Each stripe multiplies only the keys up to
# its last query. A causal mask needs 1/2 of all products; four stripes compute
# 5/8 of them; each further stripe is one more loop to compile.
_STRIPES = 4


def choose(config, platform: str) -> tuple[str, str]:
  """Chooses the implementation of `causal` for a model and a platform.

  Decoding always uses `attend`, whatever is chosen here.

  Args:
    config: model configuration; `config.attention` is the requested
      implementation, or "auto".
    platform: JAX's name of the platform: "cpu", "gpu" or "tpu".

  Returns:
    (name, reason): "xla", "splash" or "cudnn", and a line for the log.

  Raises:
    ValueError: the requested implementation cannot run; the message says why.
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
      f"attention {asked!r} cannot run: {obstacle}; 'auto' takes what can"
    )
  return asked, f"attention: {asked} (as configured)"


def packs(config, platform: str) -> bool:
  """Returns whether a kernel reads packed rows, each bundle a single response.

  Where none does, a row is read by `attend`, and bundles may have several
  responses. The kernel for GPUs reads prompts alone.

  Args:
    config: model configuration, as for `choose`.
    platform: JAX's name of the platform.

  Raises:
    ValueError: the requested implementation cannot run.
  """
  return choose(config, platform)[0] == "splash"


@struct.dataclass
class Segments:
  """What the columns of a row belong to; a query sees keys of its own bundle.

  Attributes:
    bundle_NT: int32, number of the column's bundle; 0 at padding.
    response_NT: int32, number of its response in the bundle; 0 for the prompt,
      which all responses see. None where no bundle has more than one.
    packed: whether a row may hold more than one bundle.
  """

  bundle_NT: jax.Array
  response_NT: jax.Array | None = None
  packed: bool = struct.field(pytree_node=False, default=True)


def causal(q, own, segments: Segments, implementation: str = "xla"):
  """Causal attention of a row to itself.

  Query t sees those of the keys 0 to t that are of its own bundle, and there of
  the prompt or of its own response.

  Args:
    q: queries [N, R, T, K, M, H].
    own: (k, v) of the same T positions, [N, R, K, H, T] and [N, R, K, T, H].
    segments: bundle and response of each of the T columns.
    implementation: name from `choose`.

  Returns:
    [N, R, T, K, M, H] in the type of `q`. At padding values are finite but
    differ between implementations; ignore them.
  """
  if implementation == "splash" and segments.response_NT is None:
    return fused_attention.splash(q, own, segments.bundle_NT)
  # cuDNN masks by lengths or causally, not by segments.
  if implementation == "cudnn" and not segments.packed:
    return fused_attention.cudnn(q, own, segments.bundle_NT > 0)
  length = q.shape[2]
  if length * length > SCORES:
    # A multiple of eight queries per block: smaller matrix products waste the
    # hardware.
    size = 8 * math.ceil(length / (8 * math.ceil(length * length / SCORES)))
    return in_blocks(q, own, segments, size=size)
  return attend(q, own, _seen(0, segments, segments))


def in_blocks(q, own, segments: Segments, *, size: int) -> jax.Array:
  """Computes `causal` with `attend`, for `size` queries at a time.

  The backward pass recomputes the scores of each block, so either pass holds
  the scores of one block only.
  """
  # Pad T to whole blocks: [N, R, T, ...] -> [count, N, R, size, ...].
  length = q.shape[2]
  count = math.ceil(length / size)

  def cut(x, axis):
    pad = [(0, 0)] * x.ndim
    pad[axis] = 0, count * size - length
    x = jnp.pad(x, pad)
    shape = x.shape[:axis] + (count, size) + x.shape[axis + 1 :]
    return jnp.moveaxis(x.reshape(shape), axis, 0)

  blocks = cut(q, 2)
  belong = jax.tree.map(lambda x: cut(x, 1), segments)
  # Cast to float32 outside the blocks and back inside: the gradients of keys
  # and values are then summed over the blocks in float32.
  k, v = (x.astype(jnp.float32) for x in own)

  def stripe(first, last):
    end = min(last * size, length)  # no query of the stripe sees later keys
    keys = jax.tree.map(lambda x: x[:, :end], segments)

    @jax.checkpoint
    def block(start, q, queries, k, v):
      k, v = (x.astype(q.dtype) for x in (k, v))
      return attend(q, (k, v), _seen(start, queries, keys))

    return lax.map(
      lambda x: block(*x, k[..., :end], v[..., :end, :]),
      (
        size * jnp.arange(first, last),
        blocks[first:last],
        jax.tree.map(lambda x: x[first:last], belong),
      ),
    )

  edges = [i * count // _STRIPES for i in range(_STRIPES + 1)]
  out = jnp.concatenate(
    [stripe(a, b) for a, b in zip(edges, edges[1:]) if a < b]
  )
  out = jnp.moveaxis(out, 0, 2)
  return out.reshape(q.shape[:2] + (-1,) + q.shape[3:])[:, :, :length]


def _seen(start, queries: Segments, keys: Segments) -> jax.Array:
  """Mask of queries from column `start` on; bool [N, 1, queries, keys]."""
  query, key = queries.bundle_NT, keys.bundle_NT
  columns = start + jnp.arange(query.shape[1])
  seen = jnp.arange(key.shape[1]) <= columns[:, None]
  seen = seen & (query[:, :, None] == key[:, None])
  if keys.response_NT is not None:
    query, key = queries.response_NT, keys.response_NT
    seen &= (query[:, :, None] == key[:, None]) | (key == 0)[:, None]
  return seen[:, None]


def attend(
  q, own, own_mask, prefix=None, prefix_mask=None, older=None
) -> jax.Array:
  """Softmax attention with grouped queries.

  Args:
    q: queries [N, R, T, K, M, H].
    own: (k, v) of the sequences, [N, R, K, H, S] and [N, R, K, S, H].
    own_mask: bool, broadcastable to [N, R, T, S], True where a query sees an
      own key.
    prefix: (k, v) shared by the R responses of a row, [N, K, H, C] and
      [N, K, C, H], or None.
    prefix_mask: bool [N, C], prefix keys that are real, or None.
    older: (k, v, mask) of more own keys, in arrays of another S, or None.

  Returns:
    [N, R, T, K, M, H] in the type of `q`. A query that sees no key gets a mean
    of masked values, which is finite; ignore it.
  """
  q = q * q.shape[-1] ** -0.5
  parts = [(*own, own_mask)] if older is None else [older, (*own, own_mask)]
  scores = [_scores(q, k, mask) for k, _, mask in parts]
  # The peak keeps exp in range and cancels in the quotient, so its gradient is
  # zero and need not be computed.
  peak = _peak(scores[0])  # nrktm
  for x in scores[1:]:
    peak = jnp.maximum(peak, _peak(x))
  if prefix is not None:
    # Prefix scores keep the axis order of their product, which differs from
    # that of the own scores. To join the parts only peaks and sums are
    # transposed, one number per query and head.
    pk, pv = prefix
    prefix_scores = jnp.einsum(
      "nrtkmh,nkhc->nkrtmc", q, pk, preferred_element_type=jnp.float32
    )
    prefix_scores = jnp.where(
      prefix_mask[:, None, None, None, None, :], prefix_scores, ops.NEGATIVE
    )
    peak = jnp.maximum(peak, _peak(prefix_scores).swapaxes(1, 2))
  totals, outs = [], []
  for x, (_, v, _) in zip(scores, parts, strict=True):
    weights = jnp.exp(x - peak[..., None])
    totals.append(jnp.sum(weights, axis=-1))
    weights = weights.astype(v.dtype)
    if older is not None:
      # On a CPU it would only keep loops apart.
      weights = lax.platform_dependent(weights, tpu=_once, default=lambda x: x)
    outs.append(
      jnp.einsum(
        "nrktms,nrksh->nrktmh", weights, v, preferred_element_type=jnp.float32
      )
    )
  if prefix is not None:
    weights = jnp.exp(prefix_scores - peak.swapaxes(1, 2)[..., None])
    totals.append(jnp.sum(weights, axis=-1).swapaxes(1, 2))
    outs.append(
      jnp.einsum(
        "nkrtmc,nkch->nkrtmh",
        weights.astype(pv.dtype),
        pv,
        preferred_element_type=jnp.float32,
      ).swapaxes(1, 2)
    )
  total, out = (functools.reduce(jnp.add, x) for x in (totals, outs))
  # Normalise after the product: this divides H numbers per query, not S + C.
  # In float32, so that the result is rounded to the type of `q` once.
  # K and T are swapped last: as the output order of an einsum, the swap would
  # exchange its operands, and XLA has no fast CPU product for that.
  out = (out / total[..., None]).astype(q.dtype)
  return out.swapaxes(2, 3)


def _once(weights) -> jax.Array:
  """Returns the weights; in a decoding step a TPU computes them only once.

  Its compiler would take exp for their sum and again inside their product with
  the values, which then waits for exp and for the values in turn. It joins both
  into one loop where axes of size 1 are left out.
  """
  shape = weights.shape
  dense = weights.reshape([n for n in shape if n > 1])
  return lax.optimization_barrier(dense).reshape(shape)


def _scores(q, k, mask) -> jax.Array:
  """Scores of own keys, float32 [N, R, K, T, M, S]; arguments of `attend`."""
  scores = jnp.einsum(
    "nrtkmh,nrkhs->nrktms", q, k, preferred_element_type=jnp.float32
  )
  seen = jnp.broadcast_to(mask, q.shape[:3] + k.shape[-1:])
  return jnp.where(seen[:, :, None, :, None, :], scores, ops.NEGATIVE)


def _peak(scores) -> jax.Array:
  """Largest score of each query, as a constant."""
  return lax.stop_gradient(jnp.max(scores, axis=-1))
