"""Weights from and to Hugging Face safetensors directories.

One table of names serves both directions, and shapes come from the weights'
declaration in `transformer`. The surprise: a tensor is read where it will
live, each device's part alone, so a model larger than any one device loads.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import json
import math
import os
import shutil
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from progrpo_jax import errors
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import transformer

ModelConfig = config_lib.ModelConfig

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LAYER = "model.layers.{}."


@dataclasses.dataclass(frozen=True)
class _Entry:
  """One tensor of the checkpoint and its place in ours.

  Attributes:
    path: of our parameter; those under `layers` are stacked on axis 0.
    name: of the tensor, with a place for the number of the layer.
    inputs: how many leading axes of our weight are inputs. The checkpoint
      holds [outputs, inputs], each flattened; 0 is a bias, None is no change.
  """

  path: str
  name: str
  inputs: int | None = None

  @property
  def stacked(self) -> bool:
    """Whether each layer has such a tensor."""
    return self.path.startswith("layers/")

  def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of one layer, given the whole parameter's."""
    return shape[1:] if self.stacked else shape

  def hf_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of the tensor in the checkpoint, given the whole parameter's."""
    shape = self.shape(shape)
    if self.inputs is None:
      return shape
    outputs = math.prod(shape[self.inputs:])
    if self.inputs == 0:
      return (outputs,)
    return (outputs, math.prod(shape[:self.inputs]))


_TABLE = (
    _Entry("embed/tokens", "model.embed_tokens.weight"),
    _Entry("layers/attention_norm/scale", _LAYER + "input_layernorm.weight"),
    _Entry("layers/attention/q", _LAYER + "self_attn.q_proj.weight", 1),
    _Entry("layers/attention/q_bias", _LAYER + "self_attn.q_proj.bias", 0),
    _Entry("layers/attention/k", _LAYER + "self_attn.k_proj.weight", 1),
    _Entry("layers/attention/k_bias", _LAYER + "self_attn.k_proj.bias", 0),
    _Entry("layers/attention/v", _LAYER + "self_attn.v_proj.weight", 1),
    _Entry("layers/attention/v_bias", _LAYER + "self_attn.v_proj.bias", 0),
    _Entry("layers/attention/o", _LAYER + "self_attn.o_proj.weight", 2),
    _Entry("layers/mlp_norm/scale", _LAYER + "post_attention_layernorm.weight"),
    _Entry("layers/mlp/gate", _LAYER + "mlp.gate_proj.weight", 1),
    _Entry("layers/mlp/up", _LAYER + "mlp.up_proj.weight", 1),
    _Entry("layers/mlp/down", _LAYER + "mlp.down_proj.weight", 1),
    _Entry("norm/scale", "model.norm.weight"),
    _Entry("head/kernel", "lm_head.weight", 1),
)

# Stored type -> the type that a parameter has when none is asked for.
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float32",
           "F64": "float32"}


def is_hf_dir(path: str) -> bool:
  """Whether the directory holds a configuration and safetensors weights."""
  return os.path.isfile(os.path.join(path, "config.json")) and any(
      os.path.isfile(os.path.join(path, f)) for f in (_WEIGHTS, _INDEX))


def load(
    path: str, *, dtype: Any = None, mesh: jax.sharding.Mesh | None = None,
) -> tuple[ModelConfig, dict]:
  """Reads a model.

  Args:
    path: local directory with `config.json` and safetensors weights.
    dtype: of the parameters; None keeps the stored type (half precision
      becomes float32). The compute type is the config's own field.
    mesh: on which each parameter is made in its sharding, or None for the
      default device.

  Raises:
    InputError: naming the file, field or tensor that is missing or wrong.
  """
  path = os.fspath(path)
  config = _load_config(path)
  abstract = transformer.abstract_params(config)
  if mesh is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, abstract)
  else:
    shardings = transformer.shardings(config, mesh)
  with contextlib.ExitStack() as stack:
    source = _Source(path, stack)
    _check_names(source, config, _flat(abstract))
    params = jax.tree_util.tree_map_with_path(
        lambda keys, leaf, sharding: _make(
            source, _path(keys), leaf.shape, dtype, sharding),
        abstract, shardings)
  return config, params


def save(
    path: str, config: ModelConfig, params: Any, tokenizer: Any = None, *,
    max_shard_bytes: int = 4 << 30) -> None:
  """Writes a directory that transformers and `load` read, whole or not at all.

  Every process calls it; the first one writes. An earlier model in the same
  place is replaced.

  Args:
    path: local directory.
    config: of the model.
    params: float32 or bfloat16, written as they are.
    tokenizer: saved beside the weights, and names the stop tokens, if given.
    max_shard_bytes: of one weights file; also what the host holds at a time.

  Raises:
    InputError: the place is taken by something else, or the tokenizer does
      not fit the model.
  """
  path = os.path.abspath(os.fspath(path))
  if os.path.exists(path) and not is_hf_dir(path) and (
      not os.path.isdir(path) or os.listdir(path)):
    raise errors.InputError(
        f"{path} exists and is not a model directory; choose another place")
  if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
    raise errors.InputError(
        f"the tokenizer has {tokenizer.vocab_size} ids, the model only "
        f"{config.vocab_size}")
  config, params = transformer.without_partition_head(config, params)
  flat = _flat(params)
  dtype = _check_params(flat, config)
  documents = _documents(config, tokenizer, dtype)
  temporary = os.path.join(
      os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.part")
  writes = jax.process_index() == 0
  try:
    if writes:
      os.makedirs(temporary)
    _write_weights(temporary if writes else None, config, flat,
                   max_shard_bytes)
    if writes:
      for name, content in documents.items():
        _write_json(os.path.join(temporary, name), content)
      if tokenizer is not None:
        tokenizer.save(temporary)
      _put_in_place(temporary, path)
  finally:
    if writes:
      shutil.rmtree(temporary, ignore_errors=True)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("hf.save")


class _Source:
  """The tensors of a directory by name, in one file or several."""

  def __init__(self, path: str, stack: contextlib.ExitStack):
    """Opens the files for as long as the stack lasts."""
    self.path = path
    self._handles = {}
    single, index = os.path.join(path, _WEIGHTS), os.path.join(path, _INDEX)
    if os.path.isfile(single):
      names = None
      files = [_WEIGHTS]
    elif os.path.isfile(index):
      names = _read_json(index).get("weight_map")
      if not isinstance(names, dict) or not all(
          isinstance(f, str) for f in names.values()):
        raise errors.InputError(f"{index}: no weight_map of names to files")
      files = sorted(set(names.values()))
    else:
      raise errors.InputError(
          f"{path}: no {_WEIGHTS} and no {_INDEX}; weights in another format "
          "must be converted to safetensors first")
    for file in files:
      handle = _open(os.path.join(path, file), stack)
      held = set(handle.keys())
      if names is not None:
        listed = {n for n, f in names.items() if f == file}
        for name in sorted(listed ^ held):
          raise errors.InputError(
              f"{os.path.join(path, file)}: tensor {name} is "
              + ("missing" if name in listed else f"not listed in {_INDEX}"))
      self._handles |= dict.fromkeys(held, handle)

  def names(self) -> set[str]:
    """Of all tensors."""
    return set(self._handles)

  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor."""
    return tuple(self._handles[name].get_slice(name).get_shape())

  def dtype(self, name: str) -> str:
    """The type that the parameter gets if none is asked for."""
    stored = self._handles[name].get_slice(name).get_dtype()
    if stored not in _DTYPES:
      raise errors.InputError(
          f"{self.path}: tensor {name} is stored as {stored}; supported: "
          f"{', '.join(_DTYPES)}")
    return _DTYPES[stored]

  def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """A part of a tensor."""
    return self._handles[name].get_slice(name)[index]


def _load_config(path: str) -> ModelConfig:
  """Reads `config.json`."""
  file = os.path.join(path, "config.json")
  if "://" in path:
    raise errors.InputError(
        f"{path}: weights are read from a local directory; copy it first")
  if not os.path.isdir(path):
    raise errors.InputError(f"{path}: no such directory")
  if not os.path.isfile(file):
    raise errors.InputError(f"{path}: no config.json")
  try:
    return ModelConfig.from_hf(_read_json(file))
  except ValueError as e:
    raise errors.InputError(f"{file}: {e}") from e


def _check_names(source: _Source, config: ModelConfig, shapes: Mapping) -> None:
  """Every tensor is there, in its shape, and no other."""
  expected = {
      name: entry.hf_shape(shapes[entry.path].shape)
      for name, entry, _ in _tensors(config, shapes)}
  missing = sorted(set(expected) - source.names())
  if missing:
    raise errors.InputError(
        f"{source.path}: {len(missing)} tensor(s) missing, among them "
        f"{missing[0]}")
  extra = sorted(
      n for n in source.names() - set(expected)
      if not n.endswith(".rotary_emb.inv_freq"))
  if config.tie_embeddings and "lm_head.weight" in extra:
    # Some exports write the tied head too.
    extra.remove("lm_head.weight")
    pair = [
        source.read(n, (slice(None),))
        for n in ("lm_head.weight", "model.embed_tokens.weight")]
    if not np.array_equal(*pair):
      raise errors.InputError(
          f"{source.path}: config.json ties the embeddings, but "
          "lm_head.weight differs from model.embed_tokens.weight")
  if extra:
    raise errors.InputError(
        f"{source.path}: {len(extra)} tensor(s) that a Qwen2 model does not "
        f"have, among them {extra[0]}")
  for name, shape in expected.items():
    if source.shape(name) != shape:
      raise errors.InputError(
          f"{source.path}: tensor {name} has shape {source.shape(name)}, "
          f"config.json asks for {shape}")


def _make(source, path, shape, dtype, sharding) -> jax.Array:
  """One parameter, each device's part read for itself."""
  entry = next(e for e in _TABLE if e.path == path)
  if dtype is None:
    for layer in range(shape[0]) if entry.stacked else [None]:
      stored = source.dtype(entry.name.format(layer))
      dtype = jnp.promote_types(dtype or stored, stored)
  dtype = jnp.dtype(dtype)
  blocks = {}

  def block(index):
    spans = tuple(
        s.indices(n)[:2] for s, n in zip(index, shape, strict=True))
    if spans not in blocks:
      blocks[spans] = _read_block(source, entry, shape, spans, dtype)
    return blocks[spans]

  return jax.make_array_from_callback(shape, sharding, block)


def _read_block(source, entry, shape, spans, dtype) -> np.ndarray:
  """The part of a parameter within the spans (start, stop) of its axes."""
  if not entry.stacked:
    return _read_piece(
        source, entry.name, entry.inputs, shape, spans).astype(dtype)
  out = np.empty([stop - start for start, stop in spans], dtype)
  first, last = spans[0]
  for layer in range(first, last):
    out[layer - first] = _read_piece(
        source, entry.name.format(layer), entry.inputs, entry.shape(shape),
        spans[1:])
  return out


def _read_piece(source, name, inputs, shape, spans) -> np.ndarray:
  """A part of one tensor, in our layout."""
  if inputs is None:
    return source.read(name, tuple(slice(*s) for s in spans))
  # Ranges of the leading axes are ranges of the checkpoint's flat ones; the
  # others are cut afterwards.
  groups = [(shape[inputs:], spans[inputs:]), (shape[:inputs], spans[:inputs])]
  index = tuple(
      slice(*(edge * math.prod(sizes[1:]) for edge in edges[0]))
      for sizes, edges in groups if sizes)
  lead = [
      (edges[0][1] - edges[0][0], *sizes[1:])
      for sizes, edges in reversed(groups) if sizes]
  piece = source.read(name, index).T.reshape(sum(lead, ()))
  return piece[tuple(
      slice(None) if axis in (0, inputs) else slice(*span)
      for axis, span in enumerate(spans))]


def _tensors(
    config: ModelConfig, flat: Mapping,
) -> Iterator[tuple[str, _Entry, int | None]]:
  """(name, entry, layer) of each tensor of the checkpoint."""
  entries = [e for e in _TABLE if e.path in flat]
  for entry in entries:
    if not entry.stacked:
      yield entry.name, entry, None
  for layer in range(config.num_layers):
    for entry in entries:
      if entry.stacked:
        yield entry.name.format(layer), entry, layer


def _check_params(flat: Mapping, config: ModelConfig) -> str:
  """The parameters' type, if they are those of the config."""
  expected = _flat(transformer.abstract_params(config))
  for path in sorted(expected.keys() | flat.keys()):
    found = [
        tuple(tree[path].shape) if path in tree else None
        for tree in (flat, expected)]
    if found[0] != found[1]:
      raise ValueError(
          f"parameter {path} has shape {found[0]}, the config asks for "
          f"{found[1]}")
  dtypes = {jnp.dtype(x.dtype).name for x in flat.values()}
  if len(dtypes) != 1 or not dtypes <= {"float32", "bfloat16"}:
    raise ValueError(
        f"parameters of type {sorted(dtypes)}; one of float32 and bfloat16 "
        "for all is needed")
  return dtypes.pop()


def _documents(config, tokenizer, dtype) -> dict[str, dict]:
  """The JSON files beside the weights."""
  stops = {}
  if tokenizer is not None:
    ids = list(tokenizer.stop_ids)
    stops = dict(
        eos_token_id=ids if len(ids) > 1 else ids[0],
        pad_token_id=tokenizer.pad_id)
  return {
      "config.json": config.to_hf() | {"torch_dtype": dtype} | stops,
      "generation_config.json": {"do_sample": True} | stops,
  }


def _write_weights(directory, config, flat, max_shard_bytes) -> None:
  """Writes the tensors, in several files when they are large."""
  shards, size = [[]], 0
  for item in _tensors(config, flat):
    leaf = flat[item[1].path]
    item_size = leaf.dtype.itemsize * math.prod(item[1].hf_shape(leaf.shape))
    if shards[-1] and size + item_size > max_shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(item)
    size += item_size
  files, total = {}, 0
  for number, shard in enumerate(shards, 1):
    file = _WEIGHTS
    if len(shards) > 1:
      file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    tensors = {
        name: _fetch(flat[entry.path], entry, layer)
        for name, entry, layer in shard}
    files |= dict.fromkeys(tensors, file)
    total += sum(x.nbytes for x in tensors.values())
    if directory is not None:
      path = os.path.join(directory, file)
      safetensors.numpy.save_file(tensors, path, {"format": "pt"})
      # The writer lets nobody but the owner read it.
      os.chmod(path, os.stat(directory).st_mode & 0o666)
      _sync(path)
  if directory is not None and len(shards) > 1:
    _write_json(os.path.join(directory, _INDEX), {
        "metadata": {"total_size": total}, "weight_map": files})


def _fetch(leaf, entry: _Entry, layer: int | None) -> np.ndarray:
  """One tensor of the checkpoint on the host."""
  x = leaf if layer is None else leaf[layer]
  if isinstance(x, jax.Array) and not x.is_fully_addressable:
    x = multihost_utils.process_allgather(x, tiled=True)
  x = np.asarray(x)
  if entry.inputs is not None:
    x = x.reshape(entry.hf_shape(leaf.shape)[::-1]).T
  # The writer takes the buffer as it lies, whatever the strides.
  return np.ascontiguousarray(x)


def _put_in_place(temporary: str, path: str) -> None:
  """Moves a finished directory to its name."""
  earlier = None
  if os.path.exists(path):
    earlier = temporary + ".old"
    os.rename(path, earlier)
  os.rename(temporary, path)
  _sync(os.path.dirname(path))
  if earlier is not None:
    shutil.rmtree(earlier)


def _open(file: str, stack: contextlib.ExitStack):
  """A safetensors file, or an error that names it."""
  if not os.path.isfile(file):
    raise errors.InputError(f"{file}: no such file, but {_INDEX} lists it")
  try:
    return stack.enter_context(
        safetensors.safe_open(file, framework="numpy"))
  except (safetensors.SafetensorError, OSError) as e:
    raise errors.InputError(
        f"{file}: damaged or cut short ({e}); copy it again") from e


def _flat(tree) -> dict[str, Any]:
  """{path: leaf}."""
  return {
      _path(keys): leaf
      for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _path(keys) -> str:
  """Keys of a nested dict as one string."""
  return "/".join(k.key for k in keys)


def _read_json(path: str) -> dict:
  """The object in a JSON file."""
  try:
    with open(path, encoding="utf-8") as f:
      content = json.load(f)
  except ValueError as e:
    raise errors.InputError(f"{path}: not JSON: {e}") from e
  if not isinstance(content, dict):
    raise errors.InputError(f"{path}: not a JSON object")
  return content


def _write_json(path: str, content: dict) -> None:
  """Writes a JSON file and waits for the disk."""
  with open(path, "w", encoding="utf-8") as f:
    json.dump(content, f, indent=2, sort_keys=True)
    f.write("\n")
  _sync(path)


def _sync(path: str) -> None:
  """Waits until a file or directory is on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
