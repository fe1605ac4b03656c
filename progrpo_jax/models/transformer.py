"""The policy's passes: one decoder for sampler, scorer and update.

`read` reads packed rows of prompts and responses (scoring and training).
`prefill` reads prompts and `decode` the responses after them, a token at a time
(sampling). All three run the same modules, so sampler and trainer compute the
same function. Caches are explicit arguments and results.

Axis letters are those of the legend in `batch`.
"""

import jax
import jax.numpy as jnp

from progrpo_jax import ops
from progrpo_jax.models import attention, modules, parameters, rope
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as config_lib


def read(
  config: config_lib.ModelConfig,
  params,
  tokens_EW,
  position_EW,
  segments: attention.Segments,
) -> jax.Array:
  """Reads packed rows, prompts and responses in one pass.

  Args:
    config: model configuration.
    params: parameters.
    tokens_EW: int32 tokens.
    position_EW: int32, rotary position of each.
    segments: bundle and response of each token.

  Returns:
    hidden_EWD, hidden states; meaningless at padding.
  """
  hidden, _ = modules.decoder(config).apply(
    {"params": params}, tokens_EW[:, None], position_EW[:, None], segments
  )
  return hidden[:, 0]


def prefill(
  config: config_lib.ModelConfig, params, tokens_NT, mask_NT
) -> tuple[jax.Array, cache_lib.Prefix]:
  """Reads prompts.

  Args:
    config: model configuration.
    params: parameters.
    tokens_NT: int32 prompt tokens, padded on either side.
    mask_NT: bool, real tokens.

  Returns:
    (hidden_NTD, prefix): hidden states (meaningless at padding), and the
    prompts' keys and values for `decode`.
  """
  # Positions count real tokens, so padding does not shift a prompt. The
  # decoder reads the prompt as one response [N, 1, T].
  positions = jnp.maximum(jnp.cumsum(mask_NT, axis=1) - 1, 0)
  hidden, (k, v) = modules.decoder(config).apply(
    {"params": params},
    tokens_NT[:, None],
    positions[:, None],
    attention.Segments(mask_NT.astype(jnp.int32), packed=False),
  )
  prefix = cache_lib.Prefix(k=k[:, :, 0], v=v[:, :, 0], mask_NC=mask_NT)
  return hidden[:, 0], prefix


def decode(
  config: config_lib.ModelConfig,
  unrolled,
  tokens_NRT,
  prefix: cache_lib.Prefix,
  cache: cache_lib.Cache,
  older: cache_lib.Cache | None = None,
) -> tuple[jax.Array, cache_lib.Cache]:
  """Reads the next columns of R responses after each of N prompts.

  Runs the modules that `read` scans, as a Python loop over layers: each
  layer then has its own cache arrays.

  Args:
    config: model configuration.
    unrolled: parameters from `parameters.unroll`.
    tokens_NRT: int32, the next column or columns of the responses.
    prefix: keys and values of the prompts, from `prefill`.
    cache: keys and values of the columns before these.
    older: keys and values of the columns before those of `cache`, which are
      only read, or None.

  Returns:
    (hidden_NRTD, cache): hidden states, and the cache with these columns
    written.
  """
  c = parameters.decoding_config(config)  # `unroll` merged the adapters
  columns = cache.length + jnp.arange(tokens_NRT.shape[2])
  # bool [T, S]: each query sees the cache up to its own column.
  seen = jnp.arange(cache.size) <= columns[:, None]
  if older is not None:
    columns = older.length + columns
    older_seen = jnp.arange(older.size) < older.length
  positions = _positions(prefix, tokens_NRT, columns)
  angles = rope.angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)
  x = modules.Embed(dtype=c.dtype, config=c).apply(
    {"params": unrolled["embed"]}, tokens_NRT
  )
  layers_kv = []
  for i, weights in enumerate(unrolled["layers"]):
    x, own = modules.Layer(c).apply(
      {"params": weights},
      x,
      angles,
      own_mask=seen,
      prefix=(prefix.k[i], prefix.v[i]),
      prefix_mask=prefix.mask_NC,
      past=(
        (cache.k[i], cache.v[i], cache.length),
        None if older is None else (older.k[i], older.v[i], older_seen),
      ),
    )
    layers_kv.append(own)
  x = modules.Norm(dtype=c.dtype, width=c.embed_dim, eps=c.norm_eps).apply(
    {"params": unrolled["norm"]}, x
  )
  k, v = zip(*layers_kv, strict=True)
  return x, cache.replace(k=k, v=v, length=cache.length + tokens_NRT.shape[2])


def _positions(prefix: cache_lib.Prefix, tokens_NRT, columns) -> jax.Array:
  """Positions [N, R, T] of response columns, counted after the real prompt."""
  prompt_length = jnp.sum(prefix.mask_NC, axis=1)
  return jnp.broadcast_to(
    prompt_length[:, None, None] + columns, tokens_NRT.shape
  )


def head(params) -> jax.Array:
  """Output embedding [D, V]; the transposed token embedding where tied."""
  if "head" in params:
    return params["head"]["kernel"]
  return params["embed"]["tokens"].T


def log_z(
  config: config_lib.ModelConfig, params, mean_ND, keys_N=None
) -> jax.Array:
  """Log of each prompt's partition function, estimated by the partition head.

  Args:
    config: model configuration.
    params: parameters with a partition head.
    mean_ND: mean of each prompt's last hidden states.
    keys_N: PRNG key of each row's dropout; None turns dropout off.

  Returns:
    log_z_N, float32.
  """
  return modules.LogZ(dtype="float32", config=config).apply(
    {"params": params["log_z"]}, mean_ND, keys_N
  )


def logits(
  config: config_lib.ModelConfig, params, tokens_BT, mask_BT
) -> jax.Array:
  """Float32 logits [B, T, V] of whole sequences, for tests and notebooks.

  All logits are held at once; training uses `ops.token_stats` instead.

  Args:
    config: model configuration.
    params: parameters.
    tokens_BT: int32 tokens, padded on either side.
    mask_BT: bool, real tokens.
  """
  hidden, _ = prefill(config, params, tokens_BT, mask_BT)
  return ops.matmul_logits(hidden, head(params))
