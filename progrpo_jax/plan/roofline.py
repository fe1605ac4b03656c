"""What chips can do, and the least time that a phase of a step needs on them.

A roofline counts the work that is of use: products of the model and of
attention, each weight and each key read once. A bound is what a compiled
program takes at least, by what `counts` found in it.
"""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from progrpo_jax import errors
from progrpo_jax.build import functions
from progrpo_jax.devices import sharding
from progrpo_jax.models import cache as cache_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import parameters
from progrpo_jax.plan import counts, programs
from progrpo_jax.settings import derived


@dataclasses.dataclass(frozen=True)
class Rates:
  """What a chip does in a second, at best.

  Attributes:
    flops: bfloat16 products, FLOP/s.
    hbm: bytes/s of main memory.
    ici: bytes/s that it sends to other chips of its slice.
    clock: cycles/s of the core, for the compiler's estimates.
  """

  flops: float
  hbm: float
  ici: float
  clock: float


# FLOPs, memory and links by Google's pages on each generation
# (https://cloud.google.com/tpu/docs/v5e, v5p, v6e). Links: what a ring along
# one axis of the slice reaches in both directions; a gather over two axes may
# be faster. Clocks are not published for all; those of v5e and v5p are from
# "How to scale your model" (https://jax-ml.github.io/scaling-book), v6e's is
# taken to be v5p's.
RATES: Mapping[str, Rates] = {
  "v5e": Rates(197e12, 819e9, 90e9, 1.5e9),
  "v5p": Rates(459e12, 2765e9, 180e9, 1.75e9),
  "v6e": Rates(918e12, 1640e9, 180e9, 1.75e9),
}


@dataclasses.dataclass(frozen=True)
class Bound:
  """Seconds that each part of a chip needs for a program, at best.

  Attributes:
    products: matrix products.
    hbm: main memory.
    ici: links between chips.
    cycles: the compiler's own estimate, without collectives.
  """

  products: float
  hbm: float
  ici: float
  cycles: float

  @property
  def overlapped(self) -> float:
    """Seconds if everything overlaps: a lower bound."""
    return max(self.products, self.hbm, self.ici, self.cycles)

  @property
  def apart(self) -> float:
    """Seconds if the core waits for the links."""
    return max(self.products, self.hbm, self.cycles) + self.ici


def bound(cost: counts.Cost, rates: Rates) -> Bound:
  """Returns the seconds that a program needs at least.

  Args:
    cost: FLOPs, bytes and cycles on a device.
    rates: what a chip does in a second.
  """
  return Bound(
    products=cost.total_flops / rates.flops,
    hbm=cost.hbm / rates.hbm,
    ici=cost.total_ici / rates.ici,
    cycles=cost.cycles / rates.clock,
  )


def rates_of(chip: str) -> Rates:
  """Returns what a chip does in a second.

  Raises:
    InputError: nothing compiles for it here.
  """
  if chip not in RATES:
    raise errors.InputError(
      f"--compile is for TPUs ({', '.join(RATES)}): libtpu compiles for a TPU "
      f"that is elsewhere, and no such compiler is at hand for {chip}"
    )
  return RATES[chip]


def token(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  rates: Rates,
  *,
  split: bool = False,
) -> float:
  """Returns the least seconds of one decoded token of every row.

  Each device reads its weights and its keys, with the cache full, once.

  Args:
    c: config of the run.
    model: model configuration.
    mesh: mesh on which the responses are drawn.
    rates: what a chip does in a second.
    split: whether the weights are spread over all devices, each read by one of
      them, which no layout reaches without sending them; otherwise they are
      split over `tensor` alone, as decoding can hold them.
  """
  devices, tensor = mesh.size, sharding.ways("heads", mesh)
  weights = _products(model) * jnp.dtype(model.dtype).itemsize
  groups = programs.sampled_at_once(c) / sharding.batch_shards(mesh)
  rows = groups * c.algo.num_generations
  keys = cache_lib.bytes_per_token(model) / min(tensor, model.num_kv_heads)
  length, new = c.data.max_prompt_length, c.sampling.max_new_tokens
  moved = weights / (devices if split else tensor)
  moved += (rows * new + groups * length) * keys
  work = 2 * _products(model) + _attention(model, length + new)
  return max(moved / rates.hbm, work * rows / tensor / rates.flops)


def prompts(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  rates: Rates,
) -> float:
  """Returns the least seconds to read the prompts of one rollout."""
  length = c.data.max_prompt_length
  work = 2 * _products(model, head=False) * length
  work += _attention(model, length) * length / 2
  return work * programs.sampled_at_once(c) / mesh.size / rates.flops


def sequences(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  rates: Rates,
  *,
  trains: bool,
) -> float:
  """Returns the least seconds to score, or to train on, the batch of a step.

  Every sequence is a prompt and a response of the greatest lengths; nothing is
  computed twice.

  Args:
    c: config of the run.
    model: model configuration.
    mesh: mesh of the devices.
    rates: what a chip does in a second.
    trains: whether gradients are taken.
  """
  length, new = c.data.max_prompt_length, c.sampling.max_new_tokens
  tokens = length + new
  layers = 2 * _products(model, head=False) * tokens
  head = 2 * (_products(model) - _products(model, head=False)) * new
  attend = _attention(model, tokens) * tokens / 2
  # Backward: products by activations and, but for frozen weights, by weights.
  weights = 2 if model.lora else 3
  work = layers + head + attend
  if trains:
    work = weights * (layers + head) + 3 * attend
  count = c.train.prompts_per_step * c.algo.num_generations
  return work * count / mesh.size / rates.flops


def updates(c: ml_collections.ConfigDict) -> int:
  """Returns the passes over the batch that update the policy in a step."""
  return c.train.num_iterations


def scorings(c: ml_collections.ConfigDict) -> int:
  """Returns how many policies of the model score: policy and reference."""
  return functions.needs_scores(c) + derived.needs_reference(c)


def _products(model: model_config.ModelConfig, head: bool = True) -> int:
  """Returns the numbers of the weights that multiply each token."""
  params = parameters.abstract_params(model)
  layers = sum(x.size for x in jax.tree.leaves(params["layers"]))
  return layers + (model.embed_dim * model.vocab_size if head else 0)


def _attention(model: model_config.ModelConfig, keys: int) -> float:
  """Returns the FLOPs of a token's attention to so many keys, all layers."""
  return 4.0 * model.num_layers * model.num_heads * model.head_dim * keys
