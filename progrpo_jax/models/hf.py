"""Models in Hugging Face safetensors directories: `load` and `save`.

The names of tensors are in `hf_names`, reading in `hf_read`, writing in
`hf_write`.
"""

from collections.abc import Mapping
import contextlib
import os
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp

from progrpo_jax import errors, places
from progrpo_jax.devices import hosts
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf_names, hf_read, hf_write, parameters

ModelConfig = config_lib.ModelConfig


def is_hf_dir(path: str | os.PathLike) -> bool:
  """Returns whether a directory holds a configuration and safetensors weights.

  Raises:
    InputError: the path is of an unsupported kind, such as s3://.
  """
  return hf_write.is_model(places.place(path))


def load(
  path: str | os.PathLike,
  *,
  dtype: Any = None,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[ModelConfig, dict]:
  """Reads a model.

  Every process must call this; each reads the parts that its devices need. The
  host holds only a few tensors of one layer at a time.

  Args:
    path: directory with `config.json` and safetensors weights: a local path,
      or a URL such as gs://bucket/model.
    dtype: type of the parameters; None keeps bfloat16 and float32 as stored
      and reads other types as float32. The compute type is `config.dtype`.
    mesh: mesh on which the parameters are created in their shardings, or None
      for the default device.

  Returns:
    (config, params).

  Raises:
    InputError: a file, field or tensor is missing or wrong; the message names
      it.
  """
  place = places.place(path)
  config, stored = hosts.agree(lambda: _open(place))
  hosts.compare(f"{place}", config=config)
  tree = parameters.abstract_params(config)
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, tree)
  else:
    shardings = parameters.shardings(config, mesh)
  shapes, shardings = hf_names.flatten(tree), hf_names.flatten(shardings)
  targets = {
    path: jax.ShapeDtypeStruct(
      shapes[path].shape,
      kept if dtype is None else dtype,
      sharding=shardings[path],
    )
    for path, kept in hf_read.kept_types(stored, config, shapes).items()
  }
  # Each device makes its part of a parameter by itself.
  params = hosts.agree(lambda: _read(config, stored, shapes, targets))
  return config, jax.tree_util.tree_map_with_path(
    lambda keys, _: params[hf_names.path_of(keys)], tree
  )


def save(
  path: str | os.PathLike,
  config: ModelConfig,
  params: Any,
  tokenizer: Any = None,
  *,
  sampling: Mapping[str, Any] | None = None,
  max_shard_bytes: int = 4 << 30,
) -> None:
  """Writes a model directory for transformers and `load`.

  Every process must call this; the first one writes. The host holds one tensor
  at a time. Parameters that are spread over processes are gathered tensor by
  tensor, so each device also holds one whole tensor.

  An earlier model in the directory is replaced. On a local disk the new one is
  written beside it and renamed at the end, after the earlier one was renamed
  too; a kill between the two leaves no directory, and the earlier model under a
  hidden name beside it. A bucket has no renaming: the earlier model is removed
  first and `config.json` is written last, so that a partial model is never
  taken for a whole one.

  Args:
    path: directory: a local path, or a URL such as gs://bucket/model.
    config: model configuration.
    params: parameters, each float32 or bfloat16, written in their type.
    tokenizer: tokenizer to save beside the weights, whose stop ids go into the
      configuration, or None.
    sampling: entries of `generation_config.json` that say how to sample; None
      keeps what the tokenizer's directory had, see `HFTokenizer.generation`.
    max_shard_bytes: largest size of one weights file, in bytes.

  Raises:
    InputError: the path exists and is not a model directory, or the tokenizer
      has more ids than the model.
    ValueError: a parameter has a wrong shape or type, or no tensor.
  """
  place = places.place(path)
  if not places.is_remote(place):
    place = epath.Path(os.path.abspath(place))
  if not hf_write.may_write(place):
    raise errors.InputError(
      f"{place} exists and is not a model directory; choose another place"
    )
  if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
    raise errors.InputError(
      f"the tokenizer has {tokenizer.vocab_size} ids, the model only "
      f"{config.vocab_size}"
    )
  # Checked in every process before anything is written.
  config, params = parameters.without_partition_head(config, params)
  flat = {
    path: jnp.asarray(leaf) for path, leaf in hf_names.flatten(params).items()
  }
  hf_write.check_params(flat, config)
  # All processes must have checked the directory before the first one writes.
  hosts.gather(None)
  writes = hosts.is_first()
  target = contextlib.nullcontext()
  if writes:
    target = hf_write.finished_directory(place)
  with target as directory:
    hf_write.write_weights(directory, config, flat, max_shard_bytes)
    if writes:
      if tokenizer is not None:
        hf_write.write_tokenizer(directory, tokenizer)
      dtype = flat["embed/tokens"].dtype.name
      for name, content in hf_write.documents_of(
        config, tokenizer, dtype, sampling
      ).items():
        places.write_json(directory / name, content, sort_keys=True)
  hosts.gather(None)


def save_adapters(
  path: str | os.PathLike,
  config: ModelConfig,
  adapters: Any,
  base: str,
  revision: str | None = None,
) -> None:
  """Writes adapters in PEFT's format.

  Every process must call this; the first one writes.

  Args:
    path: new or empty directory: a local path or a URL.
    config: model configuration with `lora`.
    adapters: trained parameters; a partition head among them is not written.
    base: path or hub name of the base model.
    revision: commit of the base model on the hub.

  Raises:
    InputError: the directory is not empty.
  """
  place = places.place(path)
  if place.exists() and any(place.iterdir()):
    raise errors.InputError(f"{place} is not empty; choose another place")
  # Adapters are in the layers; a partition head is not.
  flat = {
    path: jnp.asarray(leaf)
    for path, leaf in hf_names.flatten(adapters).items()
    if path.startswith(hf_names.STACKED)
  }
  writes = hosts.is_first()
  if writes:
    places.make_directory(place)
  hosts.gather(None)
  hf_write.write_tensors(
    place / "adapter_model.safetensors" if writes else None,
    flat,
    {
      name: (entry, layer)
      for name, entry, layer in hf_names.tensors_of(
        config, flat, hf_names.ADAPTERS
      )
    },
  )
  # Fields as PEFT writes them. Plain scaling alpha / r, no rsLoRA and no DoRA.
  if writes:
    places.write_json(
      place / "adapter_config.json",
      dict(
        peft_type="LORA",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        revision=revision,
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(config.lora.targets),
        inference_mode=True,
        fan_in_fan_out=False,
        use_rslora=False,
        use_dora=False,
      ),
      sort_keys=True,
    )
  hosts.gather(None)


def _open(place: epath.Path) -> tuple[ModelConfig, Mapping]:
  """Returns the configuration of a model, and its tensors as they are stored.

  All is checked that can be without reading weights.
  """
  config = _load_config(place)
  shapes = hf_names.flatten(parameters.abstract_params(config))
  stored = hf_read.stored_tensors(place)
  hf_read.check_tensors(place, stored, config, shapes)
  return config, stored


def _read(
  config: ModelConfig, stored: Mapping, shapes: Mapping, targets: Mapping
) -> dict[str, jax.Array]:
  """Reads the parameters of a model.

  Args:
    config: model configuration.
    stored: tensors of its directory by name.
    shapes: shapes of the parameters by path.
    targets: shapes, types and shardings of the parameters by path.

  Returns:
    Parameters by path.
  """

  def read(item):
    name, entry, layer = item
    sharding = entry.hf_sharding(targets[entry.path].sharding)
    return entry, layer, hf_read.read_parts(stored[name], sharding)

  # Stacked parameters start as zeros on the devices and are filled layer by
  # layer in place.
  params = {}
  for entry, layer, parts in hf_read.read_ahead(
    read, hf_names.tensors_of(config, shapes)
  ):
    if entry.stacked and entry.path not in params:
      params |= hf_read.empty_stack(
        {p: t for p, t in targets.items() if p.startswith(hf_names.STACKED)}
      )
    params[entry.path] = hf_read.fill(
      params.get(entry.path), parts, entry, layer, targets[entry.path]
    )
    # Without waiting, tensors would be read faster than devices take them and
    # pile up on the host.
    jax.block_until_ready(params[entry.path])
  return params


def _load_config(place: epath.Path) -> ModelConfig:
  """Reads `config.json`."""
  file = place / hf_names.CONFIG
  if not place.is_dir():
    raise errors.InputError(f"{place}: no such directory")
  if not file.is_file():
    raise errors.InputError(f"{place}: no {hf_names.CONFIG}")
  described = places.read_json(file)
  try:
    # Partition heads and adapters belong to runs; model directories have no
    # tensors of them.
    return ModelConfig.from_hf(described, partition_head=False, lora=None)
  except ValueError as e:
    raise errors.InputError(f"{file}: {e}") from e
