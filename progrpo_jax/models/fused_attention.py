"""Causal attention by kernels that never write the scores to memory.

`splash` is for TPUs and reads packed rows and prompts; `cudnn` is for GPUs and
reads prompts. XLA's partitioner cannot split a kernel, so under a mesh every
device runs it on its own rows and heads.

Axis letters are those of the legend in `batch`. Here B = N * R.
"""

import functools
import math

import jax
import jax.numpy as jnp

from progrpo_jax.devices import sharding

# Block sizes of the TPU kernel; `_block` takes the largest that pads little.
# 128, the width of a vector register, is the smallest allowed.
_BLOCKS = 512, 256, 128

# Least compute capability of a GPU for cuDNN's kernel: that of Ampere.
_CUDNN_CAPABILITY = 8.0

# Columns are padded to a multiple of cuDNN's tile width. JAX 0.10.2 cannot
# differentiate the kernel with an odd number of columns.
_CUDNN_COLUMNS = 64


def obstacle(name: str, config, platform: str) -> str | None:
  """Reason why an implementation cannot run a model, or None if it can.

  Args:
    name: implementation: "xla", "splash" or "cudnn".
    config: model configuration.
    platform: JAX's name of the platform: "cpu", "gpu" or "tpu".
  """
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
      f"and this is {config.head_dim}"
    )
  return _too_old()


def _too_old() -> str | None:
  """Reason why this machine's GPU has no cuDNN attention, None if it has.

  Where there is no GPU, the run is planned for another machine.
  """
  capability = getattr(jax.devices()[0], "compute_capability", None)
  if capability is None:
    return None
  try:
    enough = float(capability) >= _CUDNN_CAPABILITY
  except ValueError:  # such as gfx90a, which is no GPU of NVIDIA
    enough = False
  if enough:
    return None
  return (
    f"it takes a GPU of compute capability {_CUDNN_CAPABILITY}, as Ampere has, "
    f"or higher, and this is {capability}"
  )


def splash(q, own, segment_NT, *, interpret: bool = False) -> jax.Array:
  """Computes `attention.causal` with the splash kernel of JAX's Pallas library.

  A query sees only keys of its own segment. Padding is a segment of its own, so
  every softmax has a key.

  Args:
    q: queries [N, R, T, K, M, H].
    own: (k, v) of the same positions, as for `attention.causal`.
    segment_NT: int32, number of each column's segment.
    interpret: whether to emulate the kernel, for tests on other platforms.

  Returns:
    [N, R, T, K, M, H] in the type of `q`.
  """
  return _on_each_device(
    functools.partial(_splash, interpret=interpret), q, own, segment_NT
  )


def cudnn(q, own, real_NT, *, implementation: str = "cudnn") -> jax.Array:
  """Computes `attention.causal` of single sequences with cuDNN's kernel.

  cuDNN can mask by an array as large as the scores, by lengths, or causally;
  only the causal mask is free. Each row's columns are therefore sorted, real
  ones first, so that the causal mask hides padding too.

  Args:
    q: queries [N, R, T, K, M, H].
    own: (k, v) of the same positions, as for `attention.causal`.
    real_NT: bool, columns that are not padding; those of a row are one
      sequence.
    implementation: argument of `jax.nn.dot_product_attention`; tests pass
      "xla".

  Returns:
    [N, R, T, K, M, H] in the type of `q`.
  """
  return _on_each_device(
    functools.partial(_cudnn, implementation=implementation), q, own, real_NT
  )


def _on_each_device(kernel, q, own, columns_NT):
  """Runs a kernel, through `_local`, on the rows and heads of each device."""
  key_heads, group, width = q.shape[3:]
  # [Q], the key head of each query head. It is split as the query heads are,
  # so that a device knows which key heads its query heads need.
  of_head = jnp.repeat(jnp.arange(key_heads), group)
  own_axes = "batch", None, "kv_heads", None, None
  out = sharding.by_shard(
    functools.partial(_local, kernel, group),
    (q.reshape(q.shape[:3] + (-1, width)), of_head, *own, columns_NT),
    (
      ("batch", None, None, "heads", None),
      ("heads",),
      own_axes,
      own_axes,
      ("batch", None),
    ),
  )
  return out.reshape(q.shape)


def _local(kernel, group, q, of_head, k, v, columns_NT):
  """Runs a kernel on one device's rows and heads.

  Q and K count the heads on this device. K may be all key heads of the model,
  where the mesh does not divide them.

  Args:
    kernel: function of queries [B, T, Q, H], keys and values [B, T, K', H]
      with K' dividing Q, and an int32 or bool array of the columns [B, T].
    group: M, query heads per key head.
    q: queries [N, R, T, Q, H].
    of_head: [Q], key head of each query head, numbered over all devices.
    k: keys [N, R, K, H, T].
    v: values [N, R, K, T, H].
    columns_NT: segment of each column, or whether it is real.

  Returns:
    [N, R, T, Q, H].
  """
  responses, heads = q.shape[1], q.shape[3]
  k, v = k.transpose(0, 1, 4, 2, 3), v.transpose(0, 1, 3, 2, 4)
  if heads != k.shape[3] * group:
    # The device has all key heads but only some query heads: take one key
    # head per run of query heads that share it.
    run = math.gcd(heads, group)
    k, v = (jnp.take(x, of_head[::run], axis=3, mode="clip") for x in (k, v))
  out = kernel(
    *(x.reshape((-1,) + x.shape[2:]) for x in (q, k, v)),
    jnp.repeat(columns_NT, responses, axis=0),
  )
  return out.reshape(q.shape)


def _splash(q, k, v, segment, *, interpret):
  """Calls the splash kernel: pads to whole blocks and moves heads first."""
  # Imported here because it is experimental and needed on TPUs only.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash_lib

  length, heads, width = q.shape[1:]
  block = _block(length)
  columns = _round_up(length, block)

  def pad(x):
    widths = (0, 0), (0, columns - length)
    return jnp.pad(x, widths + ((0, 0),) * (x.ndim - 2))

  kernel = splash_lib.make_splash_mha(
    splash_lib.MultiHeadMask(
      [splash_lib.CausalMask((columns, columns))] * heads
    ),
    # One kernel for all gradients: the scores are computed again once, not
    # twice.
    block_sizes=splash_lib.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      use_fused_bwd_kernel=True,
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  ids = pad(segment).astype(jnp.int32)
  out = jax.vmap(kernel)(
    *(pad(x).swapaxes(1, 2) for x in (q * width**-0.5, k, v)),
    splash_lib.SegmentIds(q=ids, kv=ids),
  )
  return out.swapaxes(1, 2)[:, :length]


def _block(length: int) -> int:
  """Largest block size whose padded length is within 1/8 of 128's."""
  least = _round_up(length, _BLOCKS[-1])
  return next(b for b in _BLOCKS if 8 * _round_up(length, b) <= 9 * least)


def _round_up(x: int, multiple: int) -> int:
  """Smallest multiple of `multiple` that is at least `x`."""
  return multiple * math.ceil(x / multiple)


def _cudnn(q, k, v, real, *, implementation):
  """Calls the cuDNN kernel, real columns first."""
  length = q.shape[1]
  columns = _round_up(length, _CUDNN_COLUMNS)
  # Pad to whole tiles. The padded mask is False there.
  q, k, v, real = (
    jnp.pad(x, ((0, 0), (columns - length, 0)) + ((0, 0),) * (x.ndim - 2))
    for x in (q, k, v, real)
  )
  order = jnp.argsort(~real, axis=1, stable=True)
  out = jax.nn.dot_product_attention(
    *(_permute(x, order) for x in (q, k, v)),
    is_causal=True,
    implementation=implementation,
  )
  return _permute(out, jnp.argsort(order, axis=1))[:, -length:]


@jax.vmap
def _permute(x, order):
  """Returns `x[order]`; `order` is a permutation.

  Declared unique, so that the gradient is a plain scatter without sums.
  """
  return x.at[order].get(unique_indices=True, mode="promise_in_bounds")
