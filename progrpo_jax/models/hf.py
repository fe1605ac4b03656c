"""Reading and writing weights in Hugging Face safetensors directories.

One table of names (`_TABLE`) serves both directions, and shapes come from the
declaration of the weights in `transformer`. Neither direction holds a whole
model on the host, nor a parameter of all layers: tensors pass one by one
between file and devices, and the devices convert the layout.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
import tempfile
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding
import numpy as np

from progrpo_jax import errors, places
from progrpo_jax.devices import sharding as sharding_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import lora, transformer
from progrpo_jax.models import tensors as tensors_lib

ModelConfig = config_lib.ModelConfig

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LAYER = "model.layers.{}."
_STACKED = "layers/"
_HEAD, _EMBED = "lm_head.weight", "model.embed_tokens.weight"

# File that marks an unfinished model in a bucket; a directory with it may be
# overwritten.
_UNFINISHED = "progrpo-unfinished"

# Number of tensors read ahead, and of reading threads: a single stream from a
# bucket is far slower than the network.
_AHEAD = 4
# Bytes of each tensor that `_equal` compares at a time.
_COMPARED = 16 << 20


@dataclasses.dataclass(frozen=True)
class _Entry:
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
    """Whether the parameter has a tensor in each layer."""
    return self.path.startswith(_STACKED)

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


_TABLE = (
  _Entry("embed/tokens", _EMBED),
  _Entry("layers/attention_norm/scale", _LAYER + "input_layernorm.weight"),
  _Entry("layers/attention/q", _LAYER + "self_attn.q_proj.weight", 1),
  _Entry("layers/attention/q_bias", _LAYER + "self_attn.q_proj.bias", 0),
  _Entry("layers/attention/q_norm/scale", _LAYER + "self_attn.q_norm.weight"),
  _Entry("layers/attention/k", _LAYER + "self_attn.k_proj.weight", 1),
  _Entry("layers/attention/k_bias", _LAYER + "self_attn.k_proj.bias", 0),
  _Entry("layers/attention/k_norm/scale", _LAYER + "self_attn.k_norm.weight"),
  _Entry("layers/attention/v", _LAYER + "self_attn.v_proj.weight", 1),
  _Entry("layers/attention/v_bias", _LAYER + "self_attn.v_proj.bias", 0),
  _Entry("layers/attention/o", _LAYER + "self_attn.o_proj.weight", 2),
  _Entry("layers/mlp_norm/scale", _LAYER + "post_attention_layernorm.weight"),
  _Entry("layers/mlp/gate", _LAYER + "mlp.gate_proj.weight", 1),
  _Entry("layers/mlp/up", _LAYER + "mlp.up_proj.weight", 1),
  _Entry("layers/mlp/down", _LAYER + "mlp.down_proj.weight", 1),
  _Entry("norm/scale", "model.norm.weight"),
  _Entry("head/kernel", _HEAD, 1),
)

# Factors of adapted weights under PEFT's names.
_ADAPTERS = tuple(
  _Entry(
    entry.path + end,
    "base_model.model." + entry.name.replace(".weight", f".{name}.weight"),
    inputs,
  )
  for entry in _TABLE
  if entry.inputs and entry.stacked
  for end, name, inputs in (
    (lora.A, "lora_A", entry.inputs),
    (lora.B, "lora_B", 1),
  )
)

# Stored type -> default type of the parameter.
_DTYPES = {
  "F32": "float32",
  "BF16": "bfloat16",
  "F16": "float32",
  "F64": "float32",
}
# Parameter types that can be written.
_WRITTEN = ("float32", "bfloat16")


def is_hf_dir(path: str | os.PathLike) -> bool:
  """Whether a directory holds a configuration and safetensors weights.

  Raises:
    InputError: the path is of an unsupported kind, such as s3://.
  """
  return _is_model(places.place(path))


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
  config = _load_config(place)
  tree = transformer.abstract_params(config)
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, tree)
  else:
    shardings = transformer.shardings(config, mesh)
  shapes, shardings = _flat(tree), _flat(shardings)
  stored = _stored(place)
  _check_tensors(place, stored, config, shapes)
  targets = {
    path: jax.ShapeDtypeStruct(
      shapes[path].shape,
      kept if dtype is None else dtype,
      sharding=shardings[path],
    )
    for path, kept in _kept_types(stored, config, shapes).items()
  }

  def read(item):
    name, entry, layer = item
    sharding = entry.hf_sharding(targets[entry.path].sharding)
    return entry, layer, _read_parts(stored[name], sharding)

  # Stacked parameters start as zeros on the devices and are filled layer by
  # layer in place.
  params = {}
  for entry, layer, parts in _ahead(read, _tensors(config, shapes)):
    if entry.stacked and entry.path not in params:
      params |= _zeros(
        {p: t for p, t in targets.items() if p.startswith(_STACKED)}
      )
    params[entry.path] = _put(
      params.get(entry.path), parts, entry, layer, targets[entry.path]
    )
    # Without waiting, tensors would be read faster than devices take them and
    # pile up on the host.
    jax.block_until_ready(params[entry.path])
  return config, jax.tree_util.tree_map_with_path(
    lambda keys, _: params[_path(keys)], tree
  )


def save(
  path: str | os.PathLike,
  config: ModelConfig,
  params: Any,
  tokenizer: Any = None,
  *,
  max_shard_bytes: int = 4 << 30,
) -> None:
  """Writes a model directory for transformers and `load`.

  Every process must call this; the first one writes. The host holds one tensor
  at a time. Parameters that are spread over processes are gathered tensor by
  tensor, so each device also holds one whole tensor.

  An earlier model in the directory is replaced. On a local disk the new one is
  written beside it and renamed at the end, so the directory is always whole. A
  bucket has no renaming: the earlier model is removed first and `config.json`
  is written last, so that a partial model is never taken for a whole one.

  Args:
    path: directory: a local path, or a URL such as gs://bucket/model.
    config: model configuration.
    params: parameters, each float32 or bfloat16, written in their type.
    tokenizer: tokenizer to save beside the weights, whose stop ids go into the
      configuration, or None.
    max_shard_bytes: largest size of one weights file, in bytes.

  Raises:
    InputError: the path exists and is not a model directory, or the tokenizer
      has more ids than the model.
    ValueError: a parameter has a wrong shape or type, or no tensor.
  """
  place = places.place(path)
  if not places.is_remote(place):
    place = epath.Path(os.path.abspath(place))
  if not _may_write(place):
    raise errors.InputError(
      f"{place} exists and is not a model directory; choose another place"
    )
  if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
    raise errors.InputError(
      f"the tokenizer has {tokenizer.vocab_size} ids, the model only "
      f"{config.vocab_size}"
    )
  # Checked in every process before anything is written.
  config, params = transformer.without_partition_head(config, params)
  flat = {path: jnp.asarray(leaf) for path, leaf in _flat(params).items()}
  _check_params(flat, config)
  # All processes must have checked the directory before the first one writes.
  _sync_processes()
  writes = jax.process_index() == 0
  with _directory(place) if writes else contextlib.nullcontext() as directory:
    _write_weights(directory, config, flat, max_shard_bytes)
    if writes:
      if tokenizer is not None:
        _write_tokenizer(directory, tokenizer)
      dtype = flat["embed/tokens"].dtype.name
      for name, content in _documents(config, tokenizer, dtype).items():
        _write_json(directory / name, content)
  _sync_processes()


def save_adapters(
  path: str | os.PathLike, config: ModelConfig, adapters: Any, base: str
) -> None:
  """Writes adapters in PEFT's format.

  Every process must call this; the first one writes.

  Args:
    path: new or empty directory: a local path or a URL.
    config: model configuration with `lora`.
    adapters: trained parameters; a partition head among them is not written.
    base: path or hub name of the base model.

  Raises:
    InputError: the directory is not empty.
  """
  place = places.place(path)
  if place.exists() and any(place.iterdir()):
    raise errors.InputError(f"{place} is not empty; choose another place")
  # Adapters are in the layers; a partition head is not.
  flat = {
    path: jnp.asarray(leaf)
    for path, leaf in _flat(adapters).items()
    if path.startswith(_STACKED)
  }
  writes = jax.process_index() == 0
  if writes:
    places.make_directory(place)
  _sync_processes()
  _write_tensors(
    place / "adapter_model.safetensors" if writes else None,
    flat,
    {
      name: (entry, layer)
      for name, entry, layer in _tensors(config, flat, _ADAPTERS)
    },
  )
  # Fields as PEFT writes them. Plain scaling alpha / r, no rsLoRA and no DoRA.
  if writes:
    _write_json(
      place / "adapter_config.json",
      dict(
        peft_type="LORA",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
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
    )
  _sync_processes()


def _load_config(place: epath.Path) -> ModelConfig:
  """Reads `config.json`."""
  file = place / _CONFIG
  if not place.is_dir():
    raise errors.InputError(f"{place}: no such directory")
  if not file.is_file():
    raise errors.InputError(f"{place}: no {_CONFIG}")
  described = _read_json(file)
  try:
    # Partition heads and adapters belong to runs; model directories have no
    # tensors of them.
    return ModelConfig.from_hf(described, partition_head=False, lora=None)
  except ValueError as e:
    raise errors.InputError(f"{file}: {e}") from e


def _stored(place: epath.Path) -> dict[str, tensors_lib.Tensor]:
  """Tensors of a directory by name, from one file or several.

  Raises:
    InputError: weights are missing, or index and files disagree.
  """
  single, index = place / _WEIGHTS, place / _INDEX
  if single.is_file():
    return tensors_lib.index(single)
  if not index.is_file():
    raise errors.InputError(
      f"{place}: no {_WEIGHTS} and no {_INDEX}; weights in another format "
      "must be converted to safetensors first"
    )
  file_of = _read_json(index).get("weight_map")
  if (
    not isinstance(file_of, dict)
    or not file_of
    or not all(isinstance(f, str) for f in file_of.values())
  ):
    raise errors.InputError(
      f"{index}: no weight_map of names to files; copy it again"
    )
  tensors = {}
  files = sorted(set(file_of.values()))
  # The index is untrusted: its names must not lead out of the directory.
  for file in files:
    if file in ("", ".", "..") or "/" in file or "\\" in file:
      raise errors.InputError(
        f"{index}: weight_map names the file {file!r}; weights lie beside "
        "the index, under a name without a folder"
      )
    if not (place / file).is_file():
      raise errors.InputError(
        f"{place / file}: no such file, but {_INDEX} lists it; copy it too"
      )
  # Headers are read in parallel; index and files must list the same tensors.
  with futures.ThreadPoolExecutor(_AHEAD) as threads:
    indices = threads.map(lambda f: tensors_lib.index(place / f), files)
  for file, held in zip(files, indices, strict=True):
    listed = {n for n, f in file_of.items() if f == file}
    for name in sorted(listed ^ held.keys()):
      raise errors.InputError(
        f"{place / file}: tensor {name!r} is "
        + ("missing" if name in listed else f"not listed in {_INDEX}")
      )
    tensors |= held
  return tensors


def _check_tensors(
  place: epath.Path,
  stored: Mapping[str, tensors_lib.Tensor],
  config: ModelConfig,
  shapes: Mapping,
) -> None:
  """Checks that the tensors are exactly those of the model.

  Raises:
    InputError: a tensor is missing or unexpected, or has a wrong shape or type.
  """
  expected = {
    name: entry.hf_shape(shapes[entry.path].shape)
    for name, entry, _ in _tensors(config, shapes)
  }
  missing = sorted(expected.keys() - stored.keys())
  if missing:
    raise errors.InputError(
      f"{place}: {len(missing)} tensor(s) missing, among them {missing[0]!r}"
    )
  # Old exports store the rotary frequencies, which are computed here.
  extra = sorted(
    n
    for n in stored.keys() - expected.keys()
    if not n.endswith(".rotary_emb.inv_freq")
  )
  if config.tie_embeddings and _HEAD in extra:
    # Some exports write the tied head too.
    extra.remove(_HEAD)
    if not _equal(stored[_HEAD], stored[_EMBED]):
      raise errors.InputError(
        f"{place}: {_CONFIG} ties the embeddings, but {_HEAD} differs from "
        f"{_EMBED}"
      )
  if extra:
    raise errors.InputError(
      f"{place}: {len(extra)} tensor(s) that a {config.family} model does "
      f"not have, among them {extra[0]!r}"
    )
  for name, shape in expected.items():
    if stored[name].shape != shape:
      raise errors.InputError(
        f"{place}: tensor {name!r} has shape {stored[name].shape}, "
        f"{_CONFIG} asks for {shape}"
      )
    if stored[name].stored not in _DTYPES:
      raise errors.InputError(
        f"{place}: tensor {name!r} is stored as {stored[name].stored}; "
        f"supported: {', '.join(_DTYPES)}"
      )


def _equal(a: tensors_lib.Tensor, b: tensors_lib.Tensor) -> bool:
  """Whether two tensors are equal; some rows are read at a time."""
  if a.shape != b.shape:
    return False
  rows = max(_COMPARED * a.shape[0] // max(a.nbytes, b.nbytes, 1), 1)
  parts = [
    (slice(start, start + rows),) for start in range(0, a.shape[0], rows)
  ]
  return all(
    np.array_equal(tensors_lib.read(a, part), tensors_lib.read(b, part))
    for part in parts
  )


def _kept_types(
  stored: Mapping[str, tensors_lib.Tensor], config: ModelConfig, shapes: Mapping
) -> dict[str, Any]:
  """Type of each parameter: the smallest that holds all of its tensors."""
  types = {}
  for name, entry, _ in _tensors(config, shapes):
    dtype = jnp.dtype(_DTYPES[stored[name].stored])
    types[entry.path] = jnp.promote_types(types.get(entry.path, dtype), dtype)
  return types


def _ahead(read: Callable, items: Iterable) -> Iterator:
  """Yields `read(item)` in order, while threads compute the next results."""
  queue = collections.deque()
  with futures.ThreadPoolExecutor(_AHEAD) as threads:
    try:
      for item in items:
        queue.append(threads.submit(read, item))
        if len(queue) > _AHEAD:
          yield queue.popleft().result()
      while queue:
        yield queue.popleft().result()
    finally:
      for future in queue:
        future.cancel()


def _read_parts(
  tensor: tensors_lib.Tensor, sharding: Sharding
) -> dict[tuple, np.ndarray]:
  """Reads the parts of a tensor that this process's devices need.

  If the bounding box of all parts is no larger than their sum, the box is read
  once: devices that hold different columns then do not each read all rows.

  Returns:
    Parts by their spans.
  """
  # Devices with copies of one part share its spans.
  wanted = {
    _spans(index, tensor.shape)
    for index in sharding.addressable_devices_indices_map(tensor.shape).values()
  }
  dtype = jnp.dtype(_DTYPES[tensor.stored])

  def read(spans):
    part = tuple(slice(*span) for span in spans)
    return tensors_lib.read(tensor, part).astype(dtype, copy=False)

  box = tuple(
    (min(a for a, _ in axis), max(b for _, b in axis)) for axis in zip(*wanted)
  )
  if _volume(box) > sum(_volume(spans) for spans in wanted):
    return {spans: read(spans) for spans in wanted}
  content = read(box)
  return {
    spans: content[
      tuple(
        slice(a - first, b - first) for (a, b), (first, _) in zip(spans, box)
      )
    ]
    for spans in wanted
  }


def _spans(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple:
  """Slices of a tensor as a (start, stop) pair per axis."""
  return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))


def _volume(spans: tuple) -> int:
  """Number of elements within the spans."""
  return math.prod(b - a for a, b in spans)


def _zeros(targets: Mapping) -> dict[str, jax.Array]:
  """Creates zero parameters in their shardings."""
  make = jax.jit(
    lambda: {p: jnp.zeros(t.shape, t.dtype) for p, t in targets.items()},
    out_shardings={p: t.sharding for p, t in targets.items()},
  )
  return make()


def _put(parameter, parts: dict, entry: _Entry, layer: int | None, target):
  """Puts a tensor that was read into its parameter.

  Args:
    parameter: stacked parameter to fill, which is donated; None for a parameter
      without layers, which is created.
    parts: parts of the tensor, from `_read_parts`.
    entry: table entry of the tensor.
    layer: number of the layer, or None.
    target: shape, type and sharding of the parameter.

  Returns:
    The parameter.
  """
  sharding = entry.hf_sharding(target.sharding)
  shape = entry.hf_shape(target.shape)
  x = jax.make_array_from_callback(
    shape, sharding, lambda index: parts[_spans(index, shape)]
  )
  if entry.stacked:
    return _set_layer(entry.inputs, target)(parameter, x, layer)
  if entry.inputs is None and x.dtype == target.dtype:
    return x
  return _set_whole(entry.inputs, target)(x)


# Jitted functions are cached by shape and sharding, so that all layers share
# one compiled program.
_per_shape = functools.lru_cache(maxsize=256)


@_per_shape
def _set_layer(inputs: int | None, target):
  """Function that writes a checkpoint tensor into a layer, in place."""
  # On a CPU the update runs on the bits as integers: XLA's CPU backend would
  # convert a whole bfloat16 array to float32 to update a part of it.
  on_cpu = next(iter(target.sharding.device_set)).platform == "cpu"
  bits = f"uint{8 * target.dtype.itemsize}" if on_cpu else None

  def put(stacked, x, layer):
    x = _to_ours(x, inputs, target.shape[1:]).astype(target.dtype)
    if bits:
      stacked, x = (jax.lax.bitcast_convert_type(y, bits) for y in (stacked, x))
    stacked = jax.lax.dynamic_update_index_in_dim(stacked, x, layer, 0)
    if bits:
      stacked = jax.lax.bitcast_convert_type(stacked, target.dtype)
    return stacked

  return jax.jit(put, donate_argnums=0, out_shardings=target.sharding)


@_per_shape
def _set_whole(inputs: int | None, target):
  """Function that converts a checkpoint tensor to a parameter."""
  return jax.jit(
    lambda x: _to_ours(x, inputs, target.shape).astype(target.dtype),
    out_shardings=target.sharding,
  )


@_per_shape
def _get(inputs: int | None, stacked: bool, sharding: Sharding | None):
  """Function that copies a checkpoint tensor out of a parameter."""

  def get(leaf, layer):
    if stacked:
      x = jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
    else:
      # JAX caches the host copy of an array until the array is freed; a copy
      # of the leaf is freed at once.
      x = jnp.copy(leaf)
    return _to_hf(x, inputs)

  return jax.jit(get, out_shardings=sharding)


def _to_ours(x, inputs: int | None, shape: tuple[int, ...]) -> jax.Array:
  """Converts a checkpoint tensor to a weight of the given shape."""
  return (x.T if inputs else x).reshape(shape)


def _to_hf(x, inputs: int | None) -> jax.Array:
  """Converts a weight to the checkpoint's layout."""
  if inputs is None:
    return x
  return x.reshape(math.prod(x.shape[:inputs]), -1).T if inputs else x.ravel()


def _tensors(
  config: ModelConfig, flat: Mapping, table: Iterable[_Entry] = _TABLE
) -> Iterator[tuple[str, _Entry, int | None]]:
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


def _check_params(flat: Mapping, config: ModelConfig) -> None:
  """Checks that parameters fit the configuration and can be written.

  Raises:
    ValueError: a parameter has a wrong shape or type, or no tensor.
  """
  expected = _flat(transformer.abstract_params(config))
  in_table = {entry.path for entry in _TABLE}
  # Both sides: a missing or unexpected parameter has shape None on one.
  for path in sorted(expected.keys() | flat.keys()):
    shape, wanted = (
      tuple(tree[path].shape) if path in tree else None
      for tree in (flat, expected)
    )
    if shape != wanted:
      raise ValueError(
        f"parameter {path} has shape {shape}, the config asks for {wanted}"
      )
    if path not in in_table:
      raise ValueError(
        f"parameter {path} has no place in a checkpoint; merge adapters first"
      )
    if flat[path].dtype.name not in _WRITTEN:
      raise ValueError(
        f"parameter {path} is {flat[path].dtype.name}; "
        f"{' or '.join(_WRITTEN)} is needed"
      )


def _documents(config, tokenizer, dtype) -> dict[str, dict]:
  """JSON files beside the weights, in writing order: `config.json` is last."""
  stops = {}
  if tokenizer is not None:
    ids = list(tokenizer.stop_ids)
    stops = dict(
      eos_token_id=ids if len(ids) > 1 else ids[0],
      pad_token_id=tokenizer.pad_id,
    )
  return {
    "generation_config.json": {"do_sample": True} | stops,
    _CONFIG: config.to_hf() | {"torch_dtype": dtype} | stops,
  }


def _is_model(place: epath.Path) -> bool:
  """Whether a directory has the files of a model."""
  return (place / _CONFIG).is_file() and any(
    (place / f).is_file() for f in (_WEIGHTS, _INDEX)
  )


def _may_write(place: epath.Path) -> bool:
  """Whether the directory may be overwritten: absent, empty or a model."""
  if not place.exists() or _is_model(place):
    return True
  if not place.is_dir():
    return False
  if places.is_remote(place):
    return (place / _UNFINISHED).exists() or not any(place.iterdir())
  # Not `iterdir`, which skips files whose names end in "~".
  return not os.listdir(place)


@contextlib.contextmanager
def _directory(place: epath.Path) -> Iterator[epath.Path]:
  """Context with the directory to write to; its end finishes the model."""
  if places.is_remote(place):
    # No renaming in a bucket: write in place, marked until it is finished.
    mark = place / _UNFINISHED
    places.check_bucket(place)
    mark.write_text("This model is being written, or was not finished.\n")
    _clear(place, mark)
    yield place
    mark.unlink()
    return
  # On a local disk write beside the directory; a failure leaves nothing.
  temporary = place.parent / f".{place.name}.{os.getpid()}.part"
  try:
    os.makedirs(temporary)
    yield temporary
    _put_in_place(temporary, place)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _clear(place: epath.Path, mark: epath.Path) -> None:
  """Removes an earlier model, its `config.json` first, but keeps the mark."""
  (place / _CONFIG).unlink(missing_ok=True)
  for child in list(place.iterdir()):
    # A bucket may list the directory itself.
    if child in (place, mark):
      continue
    if child.is_dir():
      child.rmtree()
    else:
      child.unlink()


def _put_in_place(temporary: epath.Path, place: epath.Path) -> None:
  """Renames a finished local directory to `place`."""
  # A directory cannot be renamed onto one that is not empty: move the earlier
  # model aside first.
  earlier = None
  if os.path.exists(place):
    earlier = f"{temporary}.old"
    os.rename(place, earlier)
  os.rename(temporary, place)
  _sync(place.parent)
  if earlier is not None:
    shutil.rmtree(earlier)


def _write_weights(
  directory: epath.Path | None,
  config: ModelConfig,
  flat: Mapping,
  max_shard_bytes: int,
) -> None:
  """Writes the tensors, in several files if they exceed `max_shard_bytes`.

  A process that does not write passes None as `directory`; it still takes part
  in gathering each tensor.
  """
  # Greedy: a file is closed before the tensor that would exceed its size.
  shards, size, total = [{}], 0, 0
  for name, entry, layer in _tensors(config, flat):
    leaf = flat[entry.path]
    nbytes = leaf.dtype.itemsize * math.prod(entry.hf_shape(leaf.shape))
    if shards[-1] and size + nbytes > max_shard_bytes:
      shards.append({})
      size = 0
    shards[-1][name] = entry, layer
    size += nbytes
    total += nbytes
  # A single file has no index; several are named as transformers does.
  files = {}
  for number, shard in enumerate(shards, 1):
    file = _WEIGHTS
    if len(shards) > 1:
      file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    files |= dict.fromkeys(shard, file)
    _write_tensors(None if directory is None else directory / file, flat, shard)
  if directory is not None and len(shards) > 1:
    _write_json(
      directory / _INDEX,
      {"metadata": {"total_size": total}, "weight_map": files},
    )


def _write_tensors(
  path: epath.Path | None,
  flat: Mapping,
  tensors: Mapping[str, tuple[_Entry, int | None]],
) -> None:
  """Writes one file.

  Args:
    path: path of the file, or None in a process that does not write.
    flat: parameters by path.
    tensors: (entry, layer) of each tensor of the file by name.
  """
  declared = {
    name: (flat[entry.path].dtype, entry.hf_shape(flat[entry.path].shape))
    for name, (entry, _) in tensors.items()
  }
  tensors_lib.write(
    path,
    declared,
    lambda name: _fetch(
      flat[tensors[name][0].path], *tensors[name], path is not None
    ),
    metadata={"format": "pt"},
  )
  if path is not None:
    _sync(path)


def _fetch(
  leaf: jax.Array, entry: _Entry, layer: int | None, wanted: bool
) -> np.ndarray | None:
  """Converts a layer of a parameter to its tensor, on all devices.

  Returns:
    The tensor on the host if `wanted`, else None.
  """
  # Parameters spread over processes are gathered to every device.
  sharding = None
  if not leaf.is_fully_addressable:
    sharding = sharding_lib.replicated(leaf.sharding.mesh)
  elif isinstance(leaf.sharding, NamedSharding):
    sharding = entry.hf_sharding(leaf.sharding)
  x = _get(entry.inputs, entry.stacked, sharding)(leaf, layer or 0)
  if wanted:
    return np.asarray(x)
  # Without waiting, processes that do not write would run ahead of the one
  # that does and pile up gathered tensors.
  jax.block_until_ready(x)
  return None


def _write_tokenizer(directory: epath.Path, tokenizer) -> None:
  """Writes the tokenizer's files; to a bucket through a local directory."""
  if not places.is_remote(directory):
    tokenizer.save(os.fspath(directory))
    return
  with tempfile.TemporaryDirectory() as temporary:
    tokenizer.save(temporary)
    for file in sorted(pathlib.Path(temporary).rglob("*")):
      if file.is_file():
        copy = directory / file.relative_to(temporary).as_posix()
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())


def _flat(tree) -> dict[str, Any]:
  """Leaves of a tree by path, {"layers/mlp/up": leaf}."""
  return {
    _path(keys): leaf
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _path(keys) -> str:
  """Joins the keys of a nested dict to a path."""
  return "/".join(k.key for k in keys)


def _read_json(path: epath.Path) -> dict:
  """Reads the object in a JSON file.

  Raises:
    InputError: the file cannot be read, is not JSON, or is not an object.
  """
  try:
    content = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as e:
    raise errors.InputError(f"{path}: not JSON: {e}") from e
  except OSError as e:
    raise errors.InputError(f"{path}: cannot be read: {e}") from e
  if not isinstance(content, dict):
    raise errors.InputError(f"{path}: not a JSON object")
  return content


def _write_json(path: epath.Path, content: dict) -> None:
  """Writes a JSON file."""
  text = json.dumps(content, indent=2, sort_keys=True) + "\n"
  path.write_bytes(text.encode())
  _sync(path)


def _sync(path: epath.Path) -> None:
  """Flushes a local file or directory to the disk."""
  if places.is_remote(path):
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _sync_processes() -> None:
  """Barrier: waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("hf.save")
