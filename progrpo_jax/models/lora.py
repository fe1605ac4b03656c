"""LoRA: which parameters are trained, and merging adapters into weights.

An adapted weight W has two factors beside it in the parameter tree,
`NAME_lora_a` and `NAME_lora_b`, and acts as W + (alpha / rank) A B
(https://arxiv.org/abs/2106.09685, equation 3). All weights of an adapted model
are frozen: they get no gradient and no optimiser state, and checkpoints leave
them out.
"""

import jax
from jax import lax
import jax.numpy as jnp

from progrpo_jax.models import config as config_lib

A, B = "_lora_a", "_lora_b"


def split(config: config_lib.ModelConfig, params) -> tuple[dict, dict]:
  """Splits a tree into trainable and frozen parameters.

  Without adapters every parameter is trainable. With adapters only these and
  the partition head are.

  Args:
    config: model configuration.
    params: nested dict of parameters, or one of the same structure, such as
      their shardings.

  Returns:
    (trained, frozen): nested dicts without empty branches.
  """
  if config.lora is None:
    return params, {}

  # Everything below a trained branch, such as "log_z", is trained.
  def part(tree, trainable, in_trained=False):
    kept = {}
    for name, x in tree.items():
      is_trained = in_trained or name == "log_z" or name.endswith((A, B))
      if isinstance(x, dict):
        branch = part(x, trainable, is_trained)
        if branch:
          kept[name] = branch
      elif is_trained == trainable:
        kept[name] = x
    return kept

  return part(params, True), part(params, False)


def join(trained: dict, frozen: dict) -> dict:
  """Inverse of `split`: one tree with the leaves of both parts."""
  both = {**frozen, **trained}
  for name in trained.keys() & frozen.keys():
    both[name] = join(trained[name], frozen[name])
  return both


def merge(config: config_lib.ModelConfig, params) -> dict:
  """Folds adapters into their weights.

  The sum is computed in float32 and rounded once, to the type of the weight.

  Args:
    config: model configuration.
    params: nested dict of parameters.

  Returns:
    Parameters of the same model without adapters.
  """
  if config.lora is None:
    return params

  # A weight with factors beside it is merged; the factors are dropped.
  def fold(tree):
    merged = {}
    for name, x in tree.items():
      if isinstance(x, dict):
        merged[name] = fold(x)
      elif name + A in tree:
        merged[name] = _folded(
          x, tree[name + A], tree[name + B], config.lora.scale
        )
      elif not name.endswith((A, B)):
        merged[name] = x
    return merged

  return fold(params)


def _folded(weight, a, b, scale: float) -> jax.Array:
  """Merges one stacked weight [L, inputs..., outputs...] with its adapters.

  Works layer by layer, so that only one layer exists in float32 at a time.
  """

  def fold(layer):
    weight, a, b = layer
    # [inputs, rank] x [rank, outputs]. Highest precision, since accelerators
    # otherwise multiply float32 with bfloat16 operands.
    update = jnp.matmul(
      a.astype(jnp.float32).reshape(-1, a.shape[-1]),
      b.astype(jnp.float32).reshape(b.shape[0], -1),
      precision=lax.Precision.HIGHEST,
    )
    merged = weight.astype(jnp.float32) + scale * update.reshape(weight.shape)
    return merged.astype(weight.dtype)

  return lax.map(fold, (weight, a, b))
