"""LoRA: which parameters train, and how adapters fold into their weights.

An adapted weight W has two factors beside it in the tree, `NAME_lora_a` and
`NAME_lora_b`, and acts as W + (alpha / rank) A B (https://arxiv.org/abs/
2106.09685, equation 3). The weights themselves are frozen: they have no
gradient, no optimiser state and no place in a checkpoint.
"""

import jax
from jax import lax
import jax.numpy as jnp

from progrpo_jax.models import config as config_lib

A, B = "_lora_a", "_lora_b"


def split(config: config_lib.ModelConfig, params) -> tuple[dict, dict]:
  """(trained, frozen) parts of a tree of parameters, or of what is like it.

  Without adapters all is trained. With them they are, and the partition head.
  """
  if config.lora is None:
    return params, {}

  def pick(tree, wanted, trained=False):
    found = {}
    for name, x in tree.items():
      trains = trained or name == "log_z" or name.endswith((A, B))
      if isinstance(x, dict):
        inside = pick(x, wanted, trains)
        if inside:
          found[name] = inside
      elif trains == wanted:
        found[name] = x
    return found

  return pick(params, True), pick(params, False)


def join(trained: dict, frozen: dict) -> dict:
  """The whole tree; its leaves are those of the parts."""
  both = {**frozen, **trained}
  for name in trained.keys() & frozen.keys():
    both[name] = join(trained[name], frozen[name])
  return both


def merge(config: config_lib.ModelConfig, params) -> dict:
  """Adapters folded into their weights: the tree of a model without any.

  The sum is taken in float32 and rounded once, to the weight's type.
  """
  if config.lora is None:
    return params

  def fold(tree):
    found = {}
    for name, x in tree.items():
      if isinstance(x, dict):
        found[name] = fold(x)
      elif name + A in tree:
        found[name] = _folded(
            x, tree[name + A], tree[name + B], config.lora.scale)
      elif not name.endswith((A, B)):
        found[name] = x
    return found

  return fold(params)


def _folded(weight, a, b, scale: float) -> jax.Array:
  """Weights of all layers with their adapters: [L, inputs..., outputs...].

  Layer by layer, so that one of them exists in float32 and not the stack.
  """

  def fold(layer):
    weight, a, b = layer
    update = jnp.matmul(
        a.astype(jnp.float32).reshape(-1, a.shape[-1]),
        b.astype(jnp.float32).reshape(b.shape[0], -1),
        precision=lax.Precision.HIGHEST)
    whole = weight.astype(jnp.float32) + scale * update.reshape(weight.shape)
    return whole.astype(weight.dtype)

  return lax.map(fold, (weight, a, b))
