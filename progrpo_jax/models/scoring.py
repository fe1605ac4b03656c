"""Scoring: log-probs and entropies of given sequences under a policy.

The policy, the reference and the update read the same packed rows by the same
functions, so their log-probs differ only by the parameters.

Axis letters are those of the legend in `batch`.
"""

import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import ops, packing
from progrpo_jax.devices import sharding
from progrpo_jax.models import attention, transformer

# Rows as long as the longest sequences that there can be.
AUTOMATIC = packing.Layout()


@dataclasses.dataclass(frozen=True)
class Distribution:
  """The distribution under which log-probs are taken: that of the sampler.

  Attributes:
    temperature: divisor of the logits.
    top_p: probability mass kept; 1.0 keeps all.
    top_k: number of tokens kept; 0 keeps all.
    chunk: number of tokens whose logits exist at one time on a device.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  chunk: int = 1024

  @property
  def keeps_all(self) -> bool:
    """Whether every token of the vocabulary can be drawn."""
    return self.top_p >= 1.0 and not self.top_k


@dataclasses.dataclass(frozen=True)
class Placed:
  """Packed sequences, and their rows on the devices.

  Attributes:
    packed: on the host.
    rows: its rows on the devices.
    prompt_stride: distance of the prompts that are scored, see `packing.pack`.
  """

  packed: packing.Packed
  rows: batch_lib.Rows
  prompt_stride: int


def place(
  sequences: batch_lib.Sequences,
  layout: packing.Layout = AUTOMATIC,
  prompt_stride: int = 1,
) -> Placed:
  """Packs sequences and sends their rows to the devices.

  Args:
    sequences: N bundles, host arrays.
    layout: sizes of the rows; its shards are those of the mesh in context.
    prompt_stride: distance of the bundles whose prompts are scored too, from
      the first one on: the number of bundles of a prompt, to score each prompt
      once. 0 scores none.
  """
  layout = dataclasses.replace(layout, shards=sharding.shards_in_context())
  packed = packing.pack(
    sequences,
    layout,
    prompt_stride=prompt_stride,
    keep_empty=bool(prompt_stride),
  )
  return Placed(packed, put(packed.rows), prompt_stride)


def put(tree):
  """Places arrays [A, E, ...] on the mesh in context, split along E."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return tree
  return sharding.put_rows(tree, mesh, axis=1)


def micro(tree, number):
  """Returns one micro-batch, [A, ...] -> [...]; scalars stay as they are."""
  return jax.tree.map(
    lambda x: (
      lax.dynamic_index_in_dim(x, number, keepdims=False) if jnp.ndim(x) else x
    ),
    tree,
  )


def row_stats(
  config, params, rows: batch_lib.Rows, dist: Distribution
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Differentiable log-probs and entropies of the tokens of packed rows.

  Args:
    config: model configuration.
    params: parameters of the policy.
    rows: one micro-batch, without the axis A.
    dist: distribution of the log-probs.

  Returns:
    (logp_EW, entropy_EW, hidden_EWD): log-probs and entropies, float32 and 0
    where they are not wanted, and the hidden states.
  """
  hidden = transformer.read(
    config,
    params,
    rows.tokens_AEW,
    rows.position_AEW,
    attention.Segments(rows.bundle_AEW, rows.response_AEW),
  )
  # The head reads only the positions whose log-prob is wanted. Each device
  # moves its own to the front: [E, W] -> [U, E / U * W].
  count, width = rows.tokens_AEW.shape
  shards = sharding.shards_in_context()
  if count % shards:
    shards = 1
  held = count // shards * width
  source = rows.source_AEW.reshape(shards, -1, width)
  wanted = (source >= 0).reshape(shards, held)
  source = source + width * jnp.arange(source.shape[1])[:, None]
  rank = jnp.cumsum(wanted, axis=1) - 1

  @jax.vmap
  def compact(x, rank, wanted):
    return (
      jnp.zeros_like(x).at[jnp.where(wanted, rank, held)].set(x, mode="drop")
    )

  stats = ops.token_stats(
    sharding.constrain_rows(hidden.reshape(shards, held, -1)),
    # Gathered over `fsdp` once, not for every chunk.
    sharding.constrain_vocab(transformer.head(params)),
    compact(rows.tokens_AEW.reshape(shards, held), rank, wanted),
    compact(source.reshape(shards, held), rank, wanted),
    jnp.max(jnp.sum(wanted, axis=1)),
    **dataclasses.asdict(dist),
  )

  def back(x):
    x = jax.vmap(lambda x, at: x[at])(x, jnp.maximum(rank, 0))
    return jnp.where(wanted, x, 0.0).reshape(count, width)

  return *map(back, stats), hidden


def by_sequence(rows: batch_lib.Rows, x_EW) -> jax.Array:
  """Numbers of response tokens by slot, [E, W] -> [E * Z, T], 0 if masked."""
  if x_EW is None:
    return None
  x = _in_slots(rows, x_EW)
  return jnp.where(sequence_mask(rows), x, jnp.zeros((), x.dtype))


def sequence_mask(rows: batch_lib.Rows) -> jax.Array:
  """Mask of response tokens that count, by slot, bool [E * Z, T].

  Those are the tokens that have a source: not what a task replied.
  """
  within = jnp.arange(rows.length) < rows.length_AEZ.reshape(-1, 1)
  return within & (_in_slots(rows, rows.source_AEW) >= 0)


def _in_slots(rows: batch_lib.Rows, x_EW) -> jax.Array:
  """Takes T columns from the start of each slot, [E, W] -> [E * Z, T]."""
  columns = rows.start_AEZ[..., None] + jnp.arange(rows.length)
  columns = jnp.minimum(columns, x_EW.shape[1] - 1)
  x = jax.vmap(lambda x, at: x[at])(x_EW, columns)
  return x.reshape(-1, rows.length)


def prompt_means(rows: batch_lib.Rows, hidden_EWD) -> jax.Array:
  """Mean hidden state of each slot's prompt, [E * Z, D], float32."""
  columns = jnp.arange(hidden_EWD.shape[1])
  start = rows.prompt_start_AEZ[..., None]
  length = rows.prompt_length_AEZ[..., None]
  mask = (columns >= start) & (columns < start + length)
  total = jnp.einsum(
    "ezw,ewd->ezd",
    mask.astype(jnp.float32),
    hidden_EWD.astype(jnp.float32),
    precision=lax.Precision.HIGHEST,
  )
  return (total / jnp.maximum(length, 1)).reshape(-1, hidden_EWD.shape[-1])


@functools.partial(jax.jit, static_argnames=("config", "dist"))
def score_rows(
  config, params, rows: batch_lib.Rows, dist: Distribution
) -> tuple[jax.Array, jax.Array]:
  """Scores packed rows, micro-batch by micro-batch.

  Args:
    config: model configuration.
    params: parameters of the policy or the reference.
    rows: all micro-batches.
    dist: distribution of the log-probs.

  Returns:
    (logp_AEW, entropy_AEW), float32, 0 where they are not wanted.
  """

  def one(number, out):
    stats = row_stats(config, params, micro(rows, number), dist)[:2]
    return tuple(
      lax.dynamic_update_index_in_dim(x, y, number, axis=0)
      for x, y in zip(out, stats)
    )

  # [A, E, W], split as the rows are.
  nothing = jnp.zeros_like(rows.tokens_AEW, jnp.float32)
  return lax.fori_loop(0, rows.used, one, (nothing, nothing))


def score_placed(
  config, params, placed: Placed, dist: Distribution
) -> batch_lib.Scores:
  """Scores sequences that `place` packed; returns host arrays."""
  packed = placed.packed
  logp, entropy = sharding.fetch(score_rows(config, params, placed.rows, dist))
  zeros = np.zeros(packed.prompt_mask_NT.shape, np.float32)
  return batch_lib.Scores(
    logp_NRT=packed.from_rows(logp),
    entropy_NRT=packed.from_rows(entropy),
    prompt_logp_NT=(
      packed.prompts_from_rows(logp) if placed.prompt_stride else zeros
    ),
    prompt_entropy_NT=(
      packed.prompts_from_rows(entropy) if placed.prompt_stride else zeros
    ),
  )


def score(
  config,
  params,
  sequences: batch_lib.Sequences,
  dist: Distribution,
  layout: packing.Layout = AUTOMATIC,
  prompt_stride: int = 1,
) -> batch_lib.Scores:
  """Scores sequences under one policy, on the mesh in context.

  Args:
    config: model configuration.
    params: parameters of the policy or the reference.
    sequences: N bundles, host arrays.
    dist: distribution of the log-probs.
    layout: sizes of the packed rows.
    prompt_stride: distance of the prompts that are scored, see `place`; the
      scores of other prompts are zeros.

  Returns:
    Scores of all N bundles, host arrays.
  """
  return score_placed(
    config, params, place(sequences, layout, prompt_stride), dist
  )
