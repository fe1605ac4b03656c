"""The policy's parameters: made, adapted, and laid out on a mesh.

Parameters are a plain dict of arrays, in which the weights of all layers are
stacked. Their shapes and logical axes are those that `modules` declares.

`unroll` and `for_decoding` give them the form that `transformer.decode` reads.
"""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from progrpo_jax.devices import sharding
from progrpo_jax.models import attention, modules
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import lora as lora_lib


@functools.lru_cache(maxsize=64)
def abstract_params(config: config_lib.ModelConfig) -> Any:
  """The parameter tree as `jax.ShapeDtypeStruct`s, float32."""
  return nn.meta.unbox(_shapes(config))


@functools.lru_cache(maxsize=64)
def shardings(config: config_lib.ModelConfig, mesh) -> Any:
  """The sharding of each parameter on a mesh, as a tree of `NamedSharding`."""
  return jax.tree.map(
    lambda leaf, names: sharding.named(names, leaf.shape, mesh),
    abstract_params(config),
    _axes(config),
  )


def sharded_params(
  config: config_lib.ModelConfig, mesh, dtype: str = "float32"
) -> Any:
  """Shapes of the parameters on a mesh, with their shardings.

  Args:
    config: model configuration.
    mesh: mesh that would hold them; its devices need not exist.
    dtype: type of all parameters.

  Returns:
    Nested dict of `jax.ShapeDtypeStruct`.
  """
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s),
    abstract_params(config),
    shardings(config, mesh),
  )


def _axes(config: config_lib.ModelConfig) -> Any:
  """Logical axes of each parameter, as a tree of tuples of names."""
  return jax.tree.map(
    lambda box: box.names,
    _shapes(config),
    is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata),
  )


def _shapes(config: config_lib.ModelConfig) -> Any:
  """Shapes of the parameters in their boxes; nothing is computed."""
  return jax.eval_shape(lambda: _init(config, jax.random.key(0)))


def _init(config: config_lib.ModelConfig, key):
  """Random parameters in boxes that hold their logical axes."""
  # Parameters do not depend on the attention kernel, and tracing a kernel
  # fails on machines without its platform.
  config = dataclasses.replace(config, attention="xla")
  tokens = jnp.zeros((1, 1, 1), jnp.int32)
  segments = attention.Segments(tokens[0])
  return modules.decoder(config).init(key, tokens, tokens, segments)["params"]


def init(config: config_lib.ModelConfig, key, mesh) -> Any:
  """Random float32 parameters, each created in its sharding.

  Args:
    config: model configuration.
    key: PRNG key of the initialisers.
    mesh: mesh that holds the parameters.

  Returns:
    Nested dict of arrays.
  """
  make = jax.jit(
    lambda k: nn.meta.unbox(_init(config, k)),
    out_shardings=shardings(config, mesh),
  )
  return make(key)


def with_partition_head(
  config: config_lib.ModelConfig, params, key, mesh
) -> tuple[config_lib.ModelConfig, Any]:
  """Adds a random partition head; returns the new (config, params)."""
  config = dataclasses.replace(config, partition_head=True)
  make = jax.jit(
    lambda k: nn.meta.unbox(_init(config, k))["log_z"],
    out_shardings=shardings(config, mesh)["log_z"],
  )
  return config, {**params, "log_z": make(key)}


def without_partition_head(
  config: config_lib.ModelConfig, params
) -> tuple[config_lib.ModelConfig, Any]:
  """Removes the partition head, if any; returns the new (config, params)."""
  config = dataclasses.replace(config, partition_head=False)
  return config, {k: v for k, v in params.items() if k != "log_z"}


def with_lora(
  config: config_lib.ModelConfig, lora: config_lib.LoRA, params, key, mesh
) -> tuple[config_lib.ModelConfig, Any]:
  """Adds float32 adapters; returns the new (config, params).

  New adapters are zero products, so the policy stays the same function.

  Args:
    config: model configuration without adapters.
    lora: adapter configuration.
    params: parameters of the model, kept as they are.
    key: PRNG key of the adapters' initialisers.
    mesh: mesh that holds the parameters.
  """
  config = dataclasses.replace(config, lora=lora)

  def adapters(tree):
    return lora_lib.split(config, {"layers": tree["layers"]})[0]

  make = jax.jit(
    lambda k: adapters(nn.meta.unbox(_init(config, k))),
    out_shardings=adapters(shardings(config, mesh)),
  )
  return config, lora_lib.join(make(key), params)


def merged(
  config: config_lib.ModelConfig, params, mesh
) -> tuple[config_lib.ModelConfig, Any]:
  """Folds adapters into their weights; returns the new (config, params).

  The frozen weights in `params` are donated: do not use them afterwards.
  """
  if config.lora is None:
    return config, params
  plain = dataclasses.replace(config, lora=None)
  merge = jax.jit(
    lambda frozen, trained: lora_lib.merge(
      config, lora_lib.join(trained, frozen)
    ),
    donate_argnums=0,
    out_shardings=shardings(plain, mesh),
  )
  trained, frozen = lora_lib.split(config, params)
  return plain, merge(frozen, trained)


def decoding_config(config: config_lib.ModelConfig) -> config_lib.ModelConfig:
  """The model that decoding runs: without adapters and partition head."""
  return dataclasses.replace(config, lora=None, partition_head=False)


def unroll(config: config_lib.ModelConfig, params) -> dict:
  """Parameters as `transformer.decode` reads them: cast, one tree per layer.

  Adapters are merged, and the partition head is left out.

  Call it once, outside the loop over tokens: inside the loop, slicing a layer
  out of stacked weights would copy the whole model for every token.
  """
  _, params = without_partition_head(config, params)
  params = lora_lib.merge(config, params)
  params = jax.tree.map(lambda x: x.astype(config.dtype), params)
  layers = tuple(
    jax.tree.map(lambda x, i=i: x[i], params["layers"])
    for i in range(config.num_layers)
  )
  return {**params, "layers": layers}


@functools.lru_cache(maxsize=64)
def decode_shardings(config: config_lib.ModelConfig, mesh) -> dict:
  """The sharding of each parameter from `unroll`, whole over `fsdp`."""
  plain = decoding_config(config)
  shapes = jax.eval_shape(
    functools.partial(unroll, plain), abstract_params(plain)
  )
  axes = _axes(plain)
  of_layer = jax.tree.map(
    lambda names: names[1:],
    axes["layers"],
    is_leaf=lambda x: isinstance(x, tuple),
  )
  return jax.tree.map(
    lambda leaf, names: sharding.named(
      names, leaf.shape, mesh, sharding.DECODING
    ),
    shapes,
    {**axes, "layers": (of_layer,) * config.num_layers},
  )


def for_decoding(config: config_lib.ModelConfig, params, mesh) -> dict:
  """Lays parameters out as decoding reads them: `unroll`, whole over `fsdp`.

  The devices exchange the weights here, in the compute type, and not again for
  any token.

  Args:
    config: model configuration.
    params: parameters of training.
    mesh: mesh that holds them.
  """
  return _unroller(config, mesh)(params)


@functools.lru_cache(maxsize=64)
def _unroller(config: config_lib.ModelConfig, mesh):
  """`unroll` as a compiled function; one is kept for each model and mesh."""
  return jax.jit(
    functools.partial(unroll, config),
    out_shardings=decode_shardings(config, mesh),
  )


def for_prompts(config: config_lib.ModelConfig, params, mesh) -> dict:
  """Returns parameters as `transformer.prefill` reads them on a mesh.

  Those of training themselves, if they are on this mesh; otherwise a copy in
  the compute type, split over it as training would split them.

  Args:
    config: model configuration.
    params: parameters of training.
    mesh: mesh of the same devices in the same order.
  """
  place = jax.tree.leaves(params)[0].sharding
  # What was never put on a mesh lies whole on one device, as this mesh does.
  if not isinstance(place, jax.NamedSharding) or place.mesh == mesh:
    return params
  return _caster(config, mesh)(params)


@functools.lru_cache(maxsize=64)
def _caster(config: config_lib.ModelConfig, mesh):
  """A compiled cast to the compute type; one for each model and mesh."""
  return jax.jit(
    functools.partial(jax.tree.map, lambda x: x.astype(config.dtype)),
    out_shardings=shardings(config, mesh),
  )
