"""Causal attention by kernels that never write the scores to memory.

`splash` is for TPUs, `cudnn` for GPUs. Both take what `attention.causal` takes
and hand the kernel one plain problem: the keys of a prompt joined with those
of each response. Under a mesh every device runs the kernel on its own rows and
heads, for no partitioner can look inside it.
"""

import functools
import math

import jax
import jax.numpy as jnp

from progrpo_jax.devices import sharding

# Queries and keys of a block of the TPU kernel, the largest that wastes
# little; 128 is the width of a vector register and the least.
_BLOCKS = 512, 256, 128

# Columns are a multiple of this for cuDNN, whose tiles are as wide. An odd
# number JAX refuses to differentiate, as of 0.10.2.
_CUDNN_COLUMNS = 64


def obstacle(name: str, config, platform: str) -> str | None:
  """Why an implementation cannot run a model on a platform; None if it can."""
  home = {"splash": "tpu", "cudnn": "gpu"}.get(name, platform)
  if platform != home:
    return f"it is for platform {home} and this is {platform}"
  if name != "cudnn":
    return None
  if config.dtype != "bfloat16":
    return f"it takes dtype bfloat16 and this is {config.dtype}"
  if config.head_dim % 8 or config.head_dim > 128:
    return (
        "it takes a head_dim that is a multiple of 8, up to 128 on every GPU, "
        f"and this is {config.head_dim}")
  return None


def splash(
    q, own, key_mask=None, prefix=None, prefix_mask=None, *,
    interpret: bool = False,
) -> jax.Array:
  """`attention.causal` by the splash kernel of JAX's Pallas library.

  What is padding is told by segment ids: a query sees the keys whose id is
  its own. Padding thus sees padding, itself at least, and no sum is empty.

  Args:
    q: as for `attention.causal`, like the next four.
    own: (k, v).
    key_mask: or None.
    prefix: (k, v), or None.
    prefix_mask: or None.
    interpret: emulates the kernel; for tests on other platforms.

  Returns:
    [N, R, T, K, M, H] in the type of `q`.
  """
  return _on_each_device(
      functools.partial(_splash, interpret=interpret),
      q, own, key_mask, prefix, prefix_mask)


def cudnn(
    q, own, key_mask=None, prefix=None, prefix_mask=None, *,
    implementation: str = "cudnn",
) -> jax.Array:
  """`attention.causal` by cuDNN's flash attention.

  cuDNN masks by an array of all scores, by lengths, or causally from the
  first query and the first key on, which alone costs nothing. So each row's
  columns are sorted, real ones first: then the causal mask hides padding too.
  Queries of zeros stand at the prompt's columns, to keep the two diagonals
  one; the kernel spends P^2 / 2 scores on them, and a query that sees nothing
  does not exist.

  Args:
    q: as for `attention.causal`, like the next four.
    own: (k, v).
    key_mask: or None.
    prefix: (k, v), or None.
    prefix_mask: or None.
    implementation: for `jax.nn.dot_product_attention`; "xla" in tests.

  Returns:
    [N, R, T, K, M, H] in the type of `q`.
  """
  return _on_each_device(
      functools.partial(_cudnn, implementation=implementation),
      q, own, key_mask, prefix, prefix_mask)


def _on_each_device(kernel, q, own, key_mask, prefix, prefix_mask):
  """Runs a kernel, as `_local` does, on the rows and heads of each device."""
  rows, _, length, key_heads, group, width = q.shape
  if key_mask is None:
    key_mask = jnp.ones((rows, length), bool)
  if prefix is None:
    prefix = own[0][:, 0, :, :, :0], own[1][:, 0, :, :0]
    prefix_mask = key_mask[:, :0]
  # The key head of each head, cut as the heads are.
  of_head = jnp.repeat(jnp.arange(key_heads), group)
  own_axes = "batch", None, "kv_heads", None, None
  prefix_axes = "batch", "kv_heads", None, None
  out = sharding.by_shard(
      functools.partial(_local, kernel, group),
      (q.reshape(q.shape[:3] + (-1, width)), of_head, *own, *prefix,
       key_mask, prefix_mask),
      (("batch", None, None, "heads", None), ("heads",), own_axes, own_axes,
       prefix_axes, prefix_axes, ("batch", None), ("batch", None)))
  return out.reshape(q.shape)


def _local(kernel, group, q, of_head, k, v, pk, pv, key_mask, prefix_mask):
  """Runs a kernel on what one device has.

  Args:
    kernel: function of q [B, T, heads, H], keys and values [B, P + T, key
      heads, H], and real [B, P + T], where they are; B = N * R, and the key
      heads divide the heads.
    group: M, heads of one key head.
    q: [N, R, T, heads, H].
    of_head: the key head of each head, counted over all devices.
    k: [N, R, key heads, H, T].
    v: [N, R, key heads, T, H].
    pk: [N, key heads, H, P].
    pv: [N, key heads, P, H].
    key_mask: [N, T].
    prefix_mask: [N, P].

  Returns:
    [N, R, T, heads, H].
  """
  responses, heads = q.shape[1], q.shape[3]

  def join(prompt, own):
    prompt = jnp.broadcast_to(
        prompt[:, None], prompt.shape[:1] + (responses,) + prompt.shape[1:])
    return jnp.concatenate([prompt, own], axis=2)

  k = join(pk.transpose(0, 3, 1, 2), k.transpose(0, 1, 4, 2, 3))
  v = join(pv.transpose(0, 2, 1, 3), v.transpose(0, 1, 3, 2, 4))
  if heads != k.shape[3] * group:
    # All the key heads, but few of the heads: take those that they belong to.
    of_run = of_head[::math.gcd(heads, group)]
    k, v = (jnp.take(x, of_run, axis=3, mode="clip") for x in (k, v))
  real = jnp.concatenate([prefix_mask, key_mask], axis=1)
  out = kernel(
      *(x.reshape((-1,) + x.shape[2:]) for x in (q, k, v)),
      jnp.repeat(real, responses, axis=0))
  return out.reshape(q.shape)


def _splash(q, k, v, real, *, interpret):
  """`splash` in the kernel's terms: heads first, whole blocks."""
  # Not above: it is experimental, and no concern of those without a TPU.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash_lib

  length, heads, width = q.shape[1:]
  columns = k.shape[1]
  block_q = _block(length)
  queries = _round_up(length, block_q)
  block_k = _block(columns + queries - length)
  keys = _round_up(columns + queries - length, block_k)
  after = queries - length
  # Padding keys stand before the prompt, so that the last query and the last
  # key meet in the corner of a block.
  before = keys - columns - after

  def pad(x, before):
    widths = (0, 0), (before, after)
    return jnp.pad(x, widths + ((0, 0),) * (x.ndim - 2))

  kernel = splash_lib.make_splash_mha(
      splash_lib.MultiHeadMask(
          [splash_lib.CausalMask((queries, keys), keys - queries)] * heads),
      block_sizes=splash_lib.BlockSizes(
          block_q=block_q, block_q_dkv=block_q, block_q_dq=block_q,
          block_kv=block_k, block_kv_dkv=block_k, block_kv_dq=block_k),
      head_shards=1, q_seq_shards=1, interpret=interpret)
  ids = pad(real, before).astype(jnp.int32)
  out = jax.vmap(kernel)(
      pad(q * width ** -0.5, 0).swapaxes(1, 2),
      *(pad(x, before).swapaxes(1, 2) for x in (k, v)),
      splash_lib.SegmentIds(q=ids[:, keys - queries:], kv=ids))
  return out.swapaxes(1, 2)[:, :length]


def _block(length: int) -> int:
  """Columns of a block, for so many of them."""
  least = _round_up(length, _BLOCKS[-1])
  return next(b for b in _BLOCKS if 8 * _round_up(length, b) <= 9 * least)


def _round_up(x: int, multiple: int) -> int:
  return multiple * math.ceil(x / multiple)


def _cudnn(q, k, v, real, *, implementation):
  """`cudnn` in the kernel's terms: as many queries as keys, real ones first."""
  length = q.shape[1]
  columns = _round_up(k.shape[1], _CUDNN_COLUMNS)
  # Padding and the prompt's queries come before what there is.
  q, k, v, real = (
      jnp.pad(x, ((0, 0), (columns - x.shape[1], 0)) + ((0, 0),) * (x.ndim - 2))
      for x in (q, k, v, real))
  order = jnp.argsort(~real, axis=1, stable=True)
  out = jax.nn.dot_product_attention(
      *(_permute(x, order) for x in (q, k, v)), is_causal=True,
      implementation=implementation)
  return _permute(out, jnp.argsort(order, axis=1))[:, -length:]


@jax.vmap
def _permute(x, order):
  """`x[order]`, told that it is a permutation: its gradient is no sum."""
  return x.at[order].get(unique_indices=True, mode="promise_in_bounds")
