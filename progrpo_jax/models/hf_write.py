"""Writes the tensors of a model to a Hugging Face directory.

The host holds one tensor at a time. Half a model is never taken for one: on a
local disk it is written beside its place and renamed, in a bucket it is marked
until it is finished.
"""

from collections.abc import Iterator, Mapping
import contextlib
import functools
import math
import os
import pathlib
import shutil
import tempfile
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, Sharding
import numpy as np

from progrpo_jax import places
from progrpo_jax.devices import sharding as sharding_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf_names, parameters
from progrpo_jax.models import tensors as tensors_lib

ModelConfig = config_lib.ModelConfig

# File that marks an unfinished model in a bucket; a directory with it may be
# overwritten.
_UNFINISHED = "progrpo-unfinished"

# Parameter types that can be written.
_WRITTEN = ("float32", "bfloat16")


@functools.lru_cache(maxsize=256)  # one program for all layers
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


def _to_hf(x, inputs: int | None) -> jax.Array:
  """Converts a weight to the checkpoint's layout."""
  if inputs is None:
    return x
  return x.reshape(math.prod(x.shape[:inputs]), -1).T if inputs else x.ravel()


def check_params(flat: Mapping, config: ModelConfig) -> None:
  """Checks that parameters fit the configuration and can be written.

  Raises:
    ValueError: a parameter has a wrong shape or type, or no tensor.
  """
  expected = hf_names.flatten(parameters.abstract_params(config))
  in_table = {entry.path for entry in hf_names.TABLE}
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


def documents_of(
  config: ModelConfig,
  tokenizer: Any,
  dtype: str,
  sampling: Mapping[str, Any] | None = None,
) -> dict[str, dict]:
  """JSON files beside the weights, in writing order: `config.json` is last.

  Args:
    config: model configuration.
    tokenizer: tokenizer of the policy, or None.
    dtype: type of the weights.
    sampling: entries on sampling, see `hf.save`; None for none.
  """
  # The checkpoint's own BOS stands before the tokenizer's: Qwen's tokenizers
  # have none, though their configs name one.
  bos, stops, kept = config.bos_token_id, {}, {}
  if tokenizer is not None:
    ids = list(tokenizer.stop_ids)
    stops = dict(
      eos_token_id=ids if len(ids) > 1 else ids[0],
      pad_token_id=tokenizer.pad_id,
    )
    kept = dict(tokenizer.generation)
    bos = tokenizer.bos_id if bos is None else bos
  if bos is not None:
    stops["bos_token_id"] = bos
  return {
    # Programs that find no temperature, top_p or top_k here take defaults of
    # their own.
    "generation_config.json": {"do_sample": True}
    | kept
    | dict(sampling or {})
    | stops,
    hf_names.CONFIG: config.to_hf() | {"torch_dtype": dtype} | stops,
  }


def is_model(place: epath.Path) -> bool:
  """Returns whether a directory has the files of a model."""
  return (place / hf_names.CONFIG).is_file() and any(
    (place / f).is_file() for f in (hf_names.WEIGHTS, hf_names.INDEX)
  )


def may_write(place: epath.Path) -> bool:
  """Returns whether a directory may be overwritten: absent, empty, a model."""
  if not place.exists() or is_model(place):
    return True
  if not place.is_dir():
    return False
  if places.is_remote(place):
    return (place / _UNFINISHED).exists() or not any(place.iterdir())
  # Not `iterdir`, which skips files whose names end in "~".
  return not os.listdir(place)


@contextlib.contextmanager
def finished_directory(place: epath.Path) -> Iterator[epath.Path]:
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
  (place / hf_names.CONFIG).unlink(missing_ok=True)
  for child in list(place.iterdir()):
    # A bucket may list the directory itself.
    if child in (place, mark):
      continue
    if child.is_dir():
      child.rmtree()
    else:
      child.unlink()


def _put_in_place(temporary: epath.Path, place: epath.Path) -> None:
  """Renames a finished local directory to `place`.

  A directory cannot be renamed onto one that is not empty, so an earlier model
  is moved aside first, and back if that fails. A kill in between leaves it
  under its other name, and nothing at `place`.
  """
  earlier = None
  if os.path.exists(place):
    earlier = f"{temporary}.old"
    os.rename(place, earlier)
  try:
    os.rename(temporary, place)
  except BaseException:  # Ctrl-C too must not hide the earlier model
    if earlier is not None:
      os.rename(earlier, place)
    raise
  places.sync(place.parent)
  if earlier is not None:
    shutil.rmtree(earlier)


def write_weights(
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
  for name, entry, layer in hf_names.tensors_of(config, flat):
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
    file = hf_names.WEIGHTS
    if len(shards) > 1:
      file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    files |= dict.fromkeys(shard, file)
    write_tensors(None if directory is None else directory / file, flat, shard)
  if directory is not None and len(shards) > 1:
    places.write_json(
      directory / hf_names.INDEX,
      {"metadata": {"total_size": total}, "weight_map": files},
      sort_keys=True,
    )


def write_tensors(
  path: epath.Path | None,
  flat: Mapping,
  tensors: Mapping[str, tuple[hf_names.Entry, int | None]],
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
    lambda name: fetch(
      flat[tensors[name][0].path], *tensors[name], path is not None
    ),
    metadata={"format": "pt"},
  )
  if path is not None:
    places.sync(path)


def fetch(
  leaf: jax.Array, entry: hf_names.Entry, layer: int | None, wanted: bool
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


def write_tokenizer(directory: epath.Path, tokenizer) -> None:
  """Writes the tokenizer's files; to a bucket through a local directory."""
  if not places.is_remote(directory):
    tokenizer.save(os.fspath(directory))
    return
  with tempfile.TemporaryDirectory() as temporary:
    tokenizer.save(temporary)
    for file in sorted(pathlib.Path(temporary).rglob("*")):
      if file.is_file():
        copy = directory / file.relative_to(temporary).as_posix()
        places.write(copy, file.read_bytes())
