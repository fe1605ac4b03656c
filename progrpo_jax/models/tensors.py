"""Files in the safetensors format, read in parts and written as a stream.

The library of that name opens local files only and wants every tensor of a
file in memory to write it; here any place that `epath` opens will do, gs://
among them. The surprise: no file stays open between two reads, so that any
number of threads may read one.

Format: 8 bytes with the length of the header (little-endian), the header as
JSON {name: {dtype, shape, data_offsets}}, then the tensors without gaps
(https://github.com/huggingface/safetensors#format).
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import json
import math
import os
import sys
from typing import Any, BinaryIO

from etils import epath
import ml_dtypes
import numpy as np

from progrpo_jax import errors

_DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16,
    "I16": np.int16, "U32": np.uint32, "I32": np.int32, "U64": np.uint64,
    "I64": np.int64, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F32": np.float32, "F64": np.float64, "C64": np.complex64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2}
_NAMES = {np.dtype(v): k for k, v in _DTYPES.items()}

# The library's own limit; its writer pads the header to a multiple of 8.
_MAX_HEADER = 100_000_000
_ALIGN = 8
_LENGTH = 8
_METADATA = "__metadata__"

# Bytes read or written at a time, beside the tensor itself.
_BLOCK = 8 << 20


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Where a tensor lies.

  Attributes:
    path: of its file.
    name: in the file.
    stored: its type, as the format spells it.
    shape: of the tensor.
    start: its first byte, counted from the beginning of the file.
  """

  path: epath.Path
  name: str
  stored: str
  shape: tuple[int, ...]
  start: int

  @property
  def dtype(self) -> np.dtype:
    """Its type, as numpy has it."""
    return np.dtype(_DTYPES[self.stored])

  @property
  def nbytes(self) -> int:
    """Its size."""
    return self.dtype.itemsize * math.prod(self.shape)


def index(path: epath.Path) -> dict[str, Tensor]:
  """The tensors of a file by name; the file's size is that of its tensors.

  Raises:
    InputError: the file cannot be read, or is not whole; it names the tensor.
  """
  try:
    with path.open("rb") as f:
      f.seek(0, os.SEEK_END)
      size = f.tell()
      f.seek(0)
      head = f.read(_LENGTH)
      length = int.from_bytes(head, "little")
      if len(head) < _LENGTH or length > size - _LENGTH:
        raise _damaged(path, f"{size} bytes do not hold the header")
      if length > _MAX_HEADER:
        raise _damaged(path, f"a header of {length} bytes")
      content = f.read(length)
  except OSError as e:
    raise _unreadable(path, e) from e
  if len(content) < length:
    raise _damaged(path, "the file ends within its header")
  start = _LENGTH + length
  found = [
      _tensor(path, name, entry, start)
      for name, entry in _header(path, content).items() if name != _METADATA]
  _check_offsets(path, found, start, size)
  return {t.name: t for t in found}


def read(tensor: Tensor, part: tuple[slice, ...] = ()) -> np.ndarray:
  """A rectangular part of a tensor, bit for bit.

  A range of the first axis is one range of the file. Of other ranges, whole
  rows are read, some at a time, so that the host holds little besides the
  part.

  Args:
    tensor: from `index`.
    part: a range of each of the first axes, without steps.

  Raises:
    InputError: the file has gone, or changed since its header was read.
  """
  spans = [
      s.indices(n)[:2] for s, n in zip(part, tensor.shape)
  ] + [(0, n) for n in tensor.shape[len(part):]]
  spans = [(a, max(a, b)) for a, b in spans]
  out = np.empty([b - a for a, b in spans], tensor.dtype)
  if not out.size:
    return out
  try:
    with tensor.path.open("rb") as f:
      if tensor.shape:
        _fill(f, tensor, out, tensor.start, tensor.shape, spans)
      else:  # a scalar is a row of one
        _fill(f, tensor, out[None], tensor.start, (1,), [(0, 1)])
  except OSError as e:
    raise _unreadable(tensor.path, e) from e
  return out


def write(
    path: epath.Path | None, declared: Mapping[str, tuple[Any, tuple]],
    fetch: Callable[[str], np.ndarray], *,
    metadata: Mapping[str, str] | None = None) -> None:
  """Writes a file, one tensor after the other.

  Args:
    path: of the file. None writes nothing: `fetch` is called all the same, in
      the same order, which matters where all processes must gather a tensor.
    declared: (dtype, shape) of each tensor by name.
    fetch: a tensor by name, called once for each, in the order of the file.
    metadata: for the header.

  Raises:
    ValueError: a type that the format lacks, or a tensor is not as declared.
  """
  shapes = {}
  for name, (dtype, shape) in declared.items():
    shapes[name] = np.dtype(dtype), tuple(shape)
    if shapes[name][0] not in _NAMES:
      raise ValueError(
          f"tensor {name}: safetensors has no type {shapes[name][0]}")
  # Wide types first: each tensor is then aligned to its own type.
  order = sorted(shapes, key=lambda name: -shapes[name][0].itemsize)
  header, end = {_METADATA: dict(metadata)} if metadata else {}, 0
  for name in order:
    dtype, shape = shapes[name]
    start, end = end, end + dtype.itemsize * math.prod(shape)
    header[name] = dict(
        dtype=_NAMES[dtype], shape=shape, data_offsets=[start, end])
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % _ALIGN)
  with contextlib.ExitStack() as stack:
    if path is not None:
      f = stack.enter_context(path.open("wb"))
      f.write(len(text).to_bytes(_LENGTH, "little") + text)
    for name in order:
      x = fetch(name)
      if path is None:
        continue
      if (x.dtype, x.shape) != shapes[name]:
        raise ValueError(
            f"tensor {name} is {x.dtype}{x.shape}, not "
            f"{shapes[name][0]}{shapes[name][1]}")
      _write_blocks(f, x)
      del x  # or the next one would be fetched beside it


def _header(path: epath.Path, content: bytes) -> dict[str, Any]:
  """The header, parsed."""
  try:
    header = json.loads(content.decode(), object_pairs_hook=_unique)
  except (ValueError, RecursionError) as e:
    raise _damaged(path, f"its header is not JSON: {_one_line(e)}") from e
  if not isinstance(header, dict):
    raise _damaged(path, "its header is not a JSON object")
  metadata = header.get(_METADATA, {})
  if not isinstance(metadata, dict) or not all(
      isinstance(v, str) for v in metadata.values()):
    raise _damaged(path, f"{_METADATA} is not an object of strings")
  return header


def _unique(pairs):
  """A JSON object without repeated keys."""
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError("a name stands there twice")
  return found


def _tensor(path: epath.Path, name: str, entry: Any, start: int) -> Tensor:
  """One entry of the header, checked by itself."""

  def sizes(key):
    found = entry.get(key)
    if not isinstance(found, list) or not all(
        type(n) is int and n >= 0 for n in found):
      raise _damaged(path, f"{key} are not sizes", name)
    return found

  if not isinstance(entry, dict):
    raise _damaged(path, "described by no JSON object", name)
  stored, shape, ends = (
      entry.get("dtype"), sizes("shape"), sizes("data_offsets"))
  if not isinstance(stored, str) or stored not in _DTYPES:
    raise errors.InputError(
        f"{path}: tensor {_short(name)} is stored as {_short(stored)}; "
        f"supported: {', '.join(_DTYPES)}")
  itemsize = np.dtype(_DTYPES[stored]).itemsize
  # What numpy cannot index: too many axes, or too long ones.
  if len(shape) > 32 or math.prod(
      max(n, 1) for n in shape) * itemsize > sys.maxsize:
    raise _damaged(path, f"no such shape: {_short(shape)}", name)
  if len(ends) != 2 or ends[1] - ends[0] != itemsize * math.prod(shape):
    raise _damaged(
        path, f"bytes {_short(ends)} do not hold {stored} of shape "
        f"{_short(shape)}", name)
  return Tensor(path, name, stored, tuple(shape), start + ends[0])


def _check_offsets(
    path: epath.Path, found: list[Tensor], start: int, size: int) -> None:
  """The tensors fill the file, one after the other."""
  at = start
  for tensor in sorted(found, key=lambda t: (t.start, t.nbytes)):
    if tensor.start != at:
      raise _damaged(
          path, f"begins at byte {tensor.start} where {at} was expected",
          tensor.name)
    at += tensor.nbytes
    if at > size:
      raise _damaged(
          path, f"ends at byte {at}, the file at {size}", tensor.name)
  if at < size:
    raise _damaged(path, f"{size - at} bytes after the last tensor")


def _fill(
    f: BinaryIO, tensor: Tensor, out: np.ndarray, at: int, shape, spans,
) -> None:
  """Reads the spans of an array that begins at byte `at` into `out`."""
  row = tensor.dtype.itemsize * math.prod(shape[1:])
  first, last = spans[0]
  if len(shape) > 1 and row > _BLOCK:
    for i in range(first, last):
      _fill(f, tensor, out[i - first], at + i * row, shape[1:], spans[1:])
    return
  cut = tuple(slice(*span) for span in spans[1:])
  step = max(_BLOCK // row, 1)
  f.seek(at + first * row)
  for start in range(first, last, step):
    stop = min(start + step, last)
    content = f.read((stop - start) * row)
    if len(content) < (stop - start) * row:
      raise _damaged(tensor.path, "the file has shrunk", tensor.name)
    rows = np.frombuffer(content, tensor.dtype).reshape(-1, *shape[1:])
    out[start - first:stop - first] = rows[(slice(None), *cut)]


def _write_blocks(f: BinaryIO, x: np.ndarray) -> None:
  """Writes an array, whatever its strides, some rows at a time."""
  x = np.atleast_1d(x)
  step = max(_BLOCK * len(x) // max(x.nbytes, 1), 1)
  for start in range(0, len(x), step):
    f.write(x[start:start + step].tobytes())


def _damaged(path: epath.Path, reason: str, name: str | None = None):
  """The error for a file that is not as the format has it."""
  subject = "" if name is None else f"tensor {_short(name)}: "
  return errors.InputError(
      f"{path}: damaged or cut short ({subject}{reason}); copy it again")


def _unreadable(path: epath.Path, e: OSError):
  """The error for a file that cannot be opened or read."""
  reason = "no such file" if isinstance(e, FileNotFoundError) else (
      f"cannot be read: {_one_line(e)}")
  return errors.InputError(f"{path}: {reason}")


def _short(x: Any) -> str:
  """What a stranger wrote, on one line of bounded length."""
  text = repr(x)
  return text if len(text) <= 200 else text[:200] + "…"


def _one_line(e: Exception) -> str:
  """An error's text on one line."""
  return " ".join(str(e).split()) or type(e).__name__
