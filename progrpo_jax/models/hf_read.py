"""Reads the tensors of a Hugging Face directory onto devices.

No process holds a whole model on the host, nor a parameter of all layers:
tensors pass one by one from files to devices, which convert the layout.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
import functools
import math
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Sharding
import numpy as np

from progrpo_jax import errors, places
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf_names
from progrpo_jax.models import tensors as tensors_lib

ModelConfig = config_lib.ModelConfig

# Number of tensors read ahead, and of reading threads: a single stream from a
# bucket is far slower than the network.
AHEAD = 4

# Bytes of each tensor that `equal` compares at a time.
_COMPARED = 16 << 20

# Stored type -> default type of the parameter.
_DTYPES = {
  "F32": "float32",
  "BF16": "bfloat16",
  "F16": "float32",
  "F64": "float32",
}


def stored_tensors(place: epath.Path) -> dict[str, tensors_lib.Tensor]:
  """Tensors of a directory by name, from one file or several.

  Raises:
    InputError: weights are missing, or index and files disagree.
  """
  single, index = place / hf_names.WEIGHTS, place / hf_names.INDEX
  if single.is_file():
    return tensors_lib.index(single)
  if not index.is_file():
    raise errors.InputError(
      f"{place}: no {hf_names.WEIGHTS} and no {hf_names.INDEX}; weights in "
      "another format must be converted to safetensors first"
    )
  file_of = places.read_json(index).get("weight_map")
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
        f"{place / file}: no such file, but {hf_names.INDEX} lists it; copy "
        "it too"
      )
  # Headers are read in parallel; index and files must list the same tensors.
  with futures.ThreadPoolExecutor(AHEAD) as threads:
    indices = threads.map(lambda f: tensors_lib.index(place / f), files)
  for file, held in zip(files, indices, strict=True):
    listed = {n for n, f in file_of.items() if f == file}
    for name in sorted(listed ^ held.keys()):
      raise errors.InputError(
        f"{place / file}: tensor {name!r} is "
        + ("missing" if name in listed else f"not listed in {hf_names.INDEX}")
      )
    tensors |= held
  return tensors


def check_tensors(
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
    for name, entry, _ in hf_names.tensors_of(config, shapes)
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
  if config.tie_embeddings and hf_names.HEAD in extra:
    # Some exports write the tied head too.
    extra.remove(hf_names.HEAD)
    if not equal_tensors(stored[hf_names.HEAD], stored[hf_names.EMBED]):
      raise errors.InputError(
        f"{place}: {hf_names.CONFIG} ties the embeddings, but "
        f"{hf_names.HEAD} differs from {hf_names.EMBED}"
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
        f"{hf_names.CONFIG} asks for {shape}"
      )
    if stored[name].stored not in _DTYPES:
      raise errors.InputError(
        f"{place}: tensor {name!r} is stored as {stored[name].stored}; "
        f"supported: {', '.join(_DTYPES)}"
      )


def equal_tensors(a: tensors_lib.Tensor, b: tensors_lib.Tensor) -> bool:
  """Returns whether two tensors are equal; some rows are read at a time."""
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


def kept_types(
  stored: Mapping[str, tensors_lib.Tensor], config: ModelConfig, shapes: Mapping
) -> dict[str, Any]:
  """Type of each parameter: the smallest that holds all of its tensors."""
  types = {}
  for name, entry, _ in hf_names.tensors_of(config, shapes):
    dtype = jnp.dtype(_DTYPES[stored[name].stored])
    types[entry.path] = jnp.promote_types(types.get(entry.path, dtype), dtype)
  return types


def read_ahead(read: Callable, items: Iterable) -> Iterator:
  """Yields `read(item)` in order, while threads compute the next results."""
  queue = collections.deque()
  with futures.ThreadPoolExecutor(AHEAD) as threads:
    try:
      for item in items:
        queue.append(threads.submit(read, item))
        if len(queue) > AHEAD:
          yield queue.popleft().result()
      while queue:
        yield queue.popleft().result()
    finally:
      for future in queue:
        future.cancel()


def read_parts(
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
    spans_of(index, tensor.shape)
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


def spans_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple:
  """Slices of a tensor as a (start, stop) pair per axis."""
  return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))


def _volume(spans: tuple) -> int:
  """Number of elements within the spans."""
  return math.prod(b - a for a, b in spans)


def empty_stack(targets: Mapping) -> dict[str, jax.Array]:
  """Creates zero parameters in their shardings."""
  make = jax.jit(
    lambda: {p: jnp.zeros(t.shape, t.dtype) for p, t in targets.items()},
    out_shardings={p: t.sharding for p, t in targets.items()},
  )
  return make()


def fill(
  parameter, parts: dict, entry: hf_names.Entry, layer: int | None, target
):
  """Puts a tensor that was read into its parameter.

  Args:
    parameter: stacked parameter to fill, which is donated; None for a parameter
      without layers, which is created.
    parts: parts of the tensor, from `read_parts`.
    entry: table entry of the tensor.
    layer: number of the layer, or None.
    target: shape, type and sharding of the parameter.

  Returns:
    The parameter.
  """
  sharding = entry.hf_sharding(target.sharding)
  shape = entry.hf_shape(target.shape)
  x = jax.make_array_from_callback(
    shape, sharding, lambda index: parts[spans_of(index, shape)]
  )
  if entry.stacked:
    return set_layer(entry.inputs, target)(parameter, x, layer)
  if entry.inputs is None and x.dtype == target.dtype:
    return x
  return _set_whole(entry.inputs, target)(x)


# Jitted functions are cached by shape and sharding, so that all layers share
# one compiled program.
_per_shape = functools.lru_cache(maxsize=256)


@_per_shape
def set_layer(inputs: int | None, target):
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


def _to_ours(x, inputs: int | None, shape: tuple[int, ...]) -> jax.Array:
  """Converts a checkpoint tensor to a weight of the given shape."""
  return (x.T if inputs else x).reshape(shape)
