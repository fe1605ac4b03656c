"""Names and layouts of Hugging Face tensors, and their parameters here.

One table (`TABLE`) serves reading and writing. Shapes come from the
declaration of the weights in `modules`.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from progrpo_jax.models import config as config_lib
from progrpo_jax.models import lora

ModelConfig = config_lib.ModelConfig

CONFIG = "config.json"

WEIGHTS = "model.safetensors"

INDEX = "model.safetensors.index.json"

_LAYER = "model.layers.{}."

STACKED = "layers/"

HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class Entry:
  """A parameter and its tensors in a checkpoint.

  Attributes:
    path: path of the parameter; those under `layers` are stacked on axis 0.
    name: name of the tensor, with a placeholder for the layer's number.
    inputs: number of leading input axes of the weight. The checkpoint stores
      [outputs, inputs], each flattened; 0 is a bias (outputs only), and None
      is a tensor stored in the parameter's own shape.
  """

  path: str
  name: str
  inputs: int | None = None

  @property
  def stacked(self) -> bool:
    """Returns whether the parameter has a tensor in each layer."""
    return self.path.startswith(STACKED)

  def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in one layer, given the shape of the whole parameter."""
    return shape[1:] if self.stacked else shape

  def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the tensor, given the shape of the whole parameter."""
    shape = self.shape(shape)
    if self.inputs is None:
      return shape
    outputs = math.prod(shape[self.inputs :])
    if self.inputs == 0:
      return (outputs,)
    return (outputs, math.prod(shape[: self.inputs]))

  def hf_sharding(self, sharding: Sharding) -> Sharding:
    """Sharding of the tensor, given that of the whole parameter.

    Each device gets the part of the tensor that it needs. Flattened axes are
    split as the first of them; where another of them is split too, devices read
    more than they keep.
    """
    if not isinstance(sharding, NamedSharding) or (
      self.inputs is None and not self.stacked
    ):
      return sharding
    # Specs may end early: fill up to the four axes of the longest parameter.
    parts = [*sharding.spec, *[None] * 4][1 if self.stacked else 0 :]
    if self.inputs == 0:
      parts = parts[:1]
    elif self.inputs:
      parts = [parts[self.inputs], parts[0]]
    while parts and parts[-1] is None:
      parts.pop()
    return NamedSharding(sharding.mesh, PartitionSpec(*parts))


TABLE = (
  Entry("embed/tokens", EMBED),
  Entry("layers/attention_norm/scale", _LAYER + "input_layernorm.weight"),
  Entry("layers/attention/q", _LAYER + "self_attn.q_proj.weight", 1),
  Entry("layers/attention/q_bias", _LAYER + "self_attn.q_proj.bias", 0),
  Entry("layers/attention/q_norm/scale", _LAYER + "self_attn.q_norm.weight"),
  Entry("layers/attention/k", _LAYER + "self_attn.k_proj.weight", 1),
  Entry("layers/attention/k_bias", _LAYER + "self_attn.k_proj.bias", 0),
  Entry("layers/attention/k_norm/scale", _LAYER + "self_attn.k_norm.weight"),
  Entry("layers/attention/v", _LAYER + "self_attn.v_proj.weight", 1),
  Entry("layers/attention/v_bias", _LAYER + "self_attn.v_proj.bias", 0),
  Entry("layers/attention/o", _LAYER + "self_attn.o_proj.weight", 2),
  Entry("layers/mlp_norm/scale", _LAYER + "post_attention_layernorm.weight"),
  Entry("layers/mlp/gate", _LAYER + "mlp.gate_proj.weight", 1),
  Entry("layers/mlp/up", _LAYER + "mlp.up_proj.weight", 1),
  Entry("layers/mlp/down", _LAYER + "mlp.down_proj.weight", 1),
  Entry("norm/scale", "model.norm.weight"),
  Entry("head/kernel", HEAD, 1),
)

# Factors of adapted weights under PEFT's names.
ADAPTERS = tuple(
  Entry(
    entry.path + end,
    "base_model.model." + entry.name.replace(".weight", f".{name}.weight"),
    inputs,
  )
  for entry in TABLE
  if entry.inputs and entry.stacked
  for end, name, inputs in (
    (lora.A, "lora_A", entry.inputs),
    (lora.B, "lora_B", 1),
  )
)


def tensors_of(
  config: ModelConfig, flat: Mapping, table: Iterable[Entry] = TABLE
) -> Iterator[tuple[str, Entry, int | None]]:
  """Yields (name, entry, layer) of each checkpoint tensor.

  Args:
    config: model configuration.
    flat: the model's parameters by path; other entries of the table are
      skipped.
    table: entries of weights or adapters.
  """
  entries = [e for e in table if e.path in flat]
  for entry in entries:
    if not entry.stacked:
      yield entry.name, entry, None
  for layer in range(config.num_layers):
    for entry in entries:
      if entry.stacked:
        yield entry.name.format(layer), entry, layer


def flatten(tree) -> dict[str, Any]:
  """Leaves of a tree by path, {"layers/mlp/up": leaf}."""
  return {
    path_of(keys): leaf
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def path_of(keys) -> str:
  """Joins the keys of a nested dict to a path."""
  return "/".join(k.key for k in keys)
