"""Files in the safetensors format, read in parts and written as a stream.

The safetensors library opens local files only, and to write a file it needs all
of its tensors in memory. This module opens any path that `epath` supports, such
as gs://. No file stays open between two reads, so any number of threads may
read the same file.

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
  "BOOL": np.bool_,
  "U8": np.uint8,
  "I8": np.int8,
  "U16": np.uint16,
  "I16": np.int16,
  "U32": np.uint32,
  "I32": np.int32,
  "U64": np.uint64,
  "I64": np.int64,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "F32": np.float32,
  "F64": np.float64,
  "C64": np.complex64,
  "F8_E4M3": ml_dtypes.float8_e4m3fn,
  "F8_E5M2": ml_dtypes.float8_e5m2,
}
_NAMES = {np.dtype(v): k for k, v in _DTYPES.items()}

# The library's limit in bytes; its writer pads the header to a multiple of 8.
_MAX_HEADER = 100_000_000
_ALIGN = 8
_LENGTH = 8
_METADATA = "__metadata__"

# Size in bytes of the buffer for reading and writing.
_BLOCK = 8 << 20


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Location of a tensor in a file.

  Attributes:
    path: path of the file.
    name: name of the tensor.
    stored: type of the tensor in the format's spelling, such as "BF16".
    shape: shape of the tensor.
    start: offset of its first byte in the file.
  """

  path: epath.Path
  name: str
  stored: str
  shape: tuple[int, ...]
  start: int

  @property
  def dtype(self) -> np.dtype:
    """Type of the tensor in numpy."""
    return np.dtype(_DTYPES[self.stored])

  @property
  def nbytes(self) -> int:
    """Size of the tensor in bytes."""
    return self.dtype.itemsize * math.prod(self.shape)


def index(path: epath.Path) -> dict[str, Tensor]:
  """Reads the header of a file and checks that its tensors fill the file.

  Args:
    path: path of the file.

  Returns:
    Tensors by name.

  Raises:
    InputError: the file cannot be read, or is damaged; the message names the
      tensor.
  """
  # The length comes from the file: check it before reading that many bytes.
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
  # Offsets in the header count from the end of the header.
  start = _LENGTH + length
  tensors = [
    _tensor(path, name, entry, start)
    for name, entry in _header(path, content).items()
    if name != _METADATA
  ]
  _check_offsets(path, tensors, start, size)
  return {t.name: t for t in tensors}


def read(tensor: Tensor, part: tuple[slice, ...] = ()) -> np.ndarray:
  """Reads a rectangular part of a tensor, bit for bit.

  Rows are read whole, some at a time, and cut on the host, so that little
  memory is used besides the part.

  Args:
    tensor: tensor from `index`.
    part: slices without steps of the leading axes; axes without one are read
      whole.

  Returns:
    Array of the part, in the stored type.

  Raises:
    InputError: the file is gone, or has changed since its header was read.
  """
  # A (start, stop) pair per axis; an empty slice stays empty.
  spans = [s.indices(n)[:2] for s, n in zip(part, tensor.shape)] + [
    (0, n) for n in tensor.shape[len(part) :]
  ]
  spans = [(a, max(a, b)) for a, b in spans]
  out = np.empty([b - a for a, b in spans], tensor.dtype)
  if not out.size:
    return out
  try:
    with tensor.path.open("rb") as f:
      if tensor.shape:
        _fill(f, tensor, out, tensor.start, tensor.shape, spans)
      else:  # a scalar is read as one row of one element
        _fill(f, tensor, out[None], tensor.start, (1,), [(0, 1)])
  except OSError as e:
    raise _unreadable(tensor.path, e) from e
  return out


def write(
  path: epath.Path | None,
  declared: Mapping[str, tuple[Any, tuple]],
  fetch: Callable[[str], np.ndarray],
  *,
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a file, one tensor after the other.

  Args:
    path: path of the file. With None nothing is written, but `fetch` is called
      in the same order: gathering a tensor may need all processes.
    declared: (dtype, shape) of each tensor by name.
    fetch: function that returns the tensor of a name; called once for each, in
      file order.
    metadata: entries of the header's metadata, or None.

  Raises:
    ValueError: the format lacks a type, or a tensor is not as declared.
  """
  shapes = {}
  for name, (dtype, shape) in declared.items():
    shapes[name] = np.dtype(dtype), tuple(shape)
    if shapes[name][0] not in _NAMES:
      raise ValueError(
        f"tensor {name}: safetensors has no type {shapes[name][0]}"
      )
  # Wide types first, so that each tensor is aligned to its type. The header
  # has the offsets of all tensors, so their sizes are declared beforehand.
  order = sorted(shapes, key=lambda name: -shapes[name][0].itemsize)
  header, end = {_METADATA: dict(metadata)} if metadata else {}, 0
  for name in order:
    dtype, shape = shapes[name]
    start, end = end, end + dtype.itemsize * math.prod(shape)
    header[name] = dict(
      dtype=_NAMES[dtype], shape=shape, data_offsets=[start, end]
    )
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
          f"{shapes[name][0]}{shapes[name][1]}"
        )
      _write_blocks(f, x)
      del x  # frees it before the next one is fetched


def _header(path: epath.Path, content: bytes) -> dict[str, Any]:
  """Parses the header.

  Raises:
    InputError: the header is malformed.
  """
  try:
    header = json.loads(content.decode(), object_pairs_hook=_unique)
  except (ValueError, RecursionError) as e:
    raise _damaged(path, f"its header is not JSON: {errors.one_line(e)}") from e
  if not isinstance(header, dict):
    raise _damaged(path, "its header is not a JSON object")
  metadata = header.get(_METADATA, {})
  if not isinstance(metadata, dict) or not all(
    isinstance(v, str) for v in metadata.values()
  ):
    raise _damaged(path, f"{_METADATA} is not an object of strings")
  return header


def _unique(pairs):
  """Makes a dict of a JSON object's pairs; repeated keys are a ValueError."""
  unique = dict(pairs)
  if len(unique) < len(pairs):
    raise ValueError("a name occurs twice")
  return unique


def _tensor(path: epath.Path, name: str, entry: Any, start: int) -> Tensor:
  """Reads and checks one entry of the header.

  Args:
    path: path of the file.
    name: name of the tensor.
    entry: value of the name in the header.
    start: offset of the first tensor in the file.

  Raises:
    InputError: the entry is malformed, or of an unsupported type.
  """

  def sizes(key):
    values = entry.get(key)
    if not isinstance(values, list) or not all(
      type(n) is int and n >= 0 for n in values
    ):
      raise _damaged(path, f"{key} are not sizes", name)
    return values

  if not isinstance(entry, dict):
    raise _damaged(path, "its description is not a JSON object", name)
  stored, shape, ends = (
    entry.get("dtype"),
    sizes("shape"),
    sizes("data_offsets"),
  )
  if not isinstance(stored, str) or stored not in _DTYPES:
    raise errors.InputError(
      f"{path}: tensor {_short(name)} is stored as {_short(stored)}; "
      f"supported: {', '.join(_DTYPES)}"
    )
  itemsize = np.dtype(_DTYPES[stored]).itemsize
  # Shapes that numpy cannot index: too many axes, or too many bytes.
  if (
    len(shape) > 32
    or math.prod(max(n, 1) for n in shape) * itemsize > sys.maxsize
  ):
    raise _damaged(path, f"no such shape: {_short(shape)}", name)
  # Offsets must enclose exactly the bytes of the shape.
  if len(ends) != 2 or ends[1] - ends[0] != itemsize * math.prod(shape):
    raise _damaged(
      path,
      f"bytes {_short(ends)} do not hold {stored} of shape {_short(shape)}",
      name,
    )
  return Tensor(path, name, stored, tuple(shape), start + ends[0])


def _check_offsets(
  path: epath.Path, tensors: list[Tensor], start: int, size: int
) -> None:
  """Checks that the tensors fill the file without gaps or overlaps.

  Raises:
    InputError: they do not.
  """
  at = start
  for tensor in sorted(tensors, key=lambda t: (t.start, t.nbytes)):
    if tensor.start != at:
      raise _damaged(
        path,
        f"begins at byte {tensor.start} where {at} was expected",
        tensor.name,
      )
    at += tensor.nbytes
    if at > size:
      raise _damaged(
        path, f"ends at byte {at}, the file at {size}", tensor.name
      )
  if at < size:
    raise _damaged(path, f"{size - at} bytes after the last tensor")


def _fill(
  f: BinaryIO, tensor: Tensor, out: np.ndarray, at: int, shape, spans
) -> None:
  """Reads a part of an array into `out`.

  Args:
    f: file of the tensor.
    tensor: tensor of the array.
    out: array of the part.
    at: offset of the array in the file.
    shape: shape of the array: of the tensor, or of one of its rows.
    spans: (start, stop) of each axis of the part.
  """
  # Rows larger than the buffer are read as arrays of their own.
  row = tensor.dtype.itemsize * math.prod(shape[1:])
  first, last = spans[0]
  if len(shape) > 1 and row > _BLOCK:
    for i in range(first, last):
      _fill(f, tensor, out[i - first], at + i * row, shape[1:], spans[1:])
    return
  # Otherwise as many whole rows at a time as fit into the buffer.
  cut = tuple(slice(*span) for span in spans[1:])
  step = max(_BLOCK // row, 1)
  f.seek(at + first * row)
  for start in range(first, last, step):
    stop = min(start + step, last)
    content = f.read((stop - start) * row)
    if len(content) < (stop - start) * row:
      raise _damaged(tensor.path, "the file has shrunk", tensor.name)
    rows = np.frombuffer(content, tensor.dtype).reshape(-1, *shape[1:])
    out[start - first : stop - first] = rows[(slice(None), *cut)]


def _write_blocks(f: BinaryIO, x: np.ndarray) -> None:
  """Writes an array of any strides, some rows at a time."""
  x = np.atleast_1d(x)
  step = max(_BLOCK * len(x) // max(x.nbytes, 1), 1)
  for start in range(0, len(x), step):
    f.write(x[start : start + step].tobytes())


def _damaged(path: epath.Path, reason: str, name: str | None = None):
  """Error for a file that violates the format."""
  subject = "" if name is None else f"tensor {_short(name)}: "
  return errors.InputError(
    f"{path}: damaged or cut short ({subject}{reason}); copy it again"
  )


def _unreadable(path: epath.Path, e: OSError):
  """Error for a file that cannot be opened or read."""
  reason = (
    "no such file"
    if isinstance(e, FileNotFoundError)
    else (f"cannot be read: {errors.one_line(e)}")
  )
  return errors.InputError(f"{path}: {reason}")


def _short(x: Any) -> str:
  """Untrusted value on one line, cut to 200 characters."""
  text = repr(x)
  return text if len(text) <= 200 else text[:200] + "…"
