"""Safetensors files, with the library of that name as the reference."""

import io
import json
import os
import tracemalloc
from unittest import mock

from etils import epath
from etils.epath import backend
from fsspec.implementations import memory
import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from progrpo_jax import errors, places
from progrpo_jax.models import tensors

BF16 = ml_dtypes.bfloat16
# Types that the library reads into numpy.
DTYPES = [
  np.dtype(t)
  for t in (
    bool,
    np.uint8,
    np.int8,
    np.uint16,
    np.int16,
    np.uint32,
    np.int32,
    np.uint64,
    np.int64,
    np.float16,
    BF16,
    np.float32,
    np.float64,
  )
]

fuzz = hypothesis.settings(
  deadline=None,
  max_examples=150,
  derandomize=True,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def content(header, buffer=b""):
  """The bytes of a file."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return len(text).to_bytes(8, "little") + text + buffer


def put(path, data):
  path.write_bytes(data)
  return epath.Path(path)


def bits(x):
  return x.dtype, x.shape, np.ascontiguousarray(x).tobytes()


def random(shape, dtype, seed=0):
  """Any bits of the type, NaNs among them."""
  dtype = np.dtype(dtype)
  rng = np.random.default_rng(seed)
  if dtype.kind == "b":
    return rng.integers(0, 2, shape).astype(bool)
  count = int(np.prod(shape)) * dtype.itemsize
  return np.frombuffer(rng.bytes(count), dtype).reshape(shape)


arrays = st.builds(
  random,
  hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7),
  st.sampled_from(DTYPES),
  st.integers(0, 99),
)
names = st.text(min_size=1, max_size=8).filter(
  lambda s: s != "__metadata__" and s.isprintable()
)


def write(path, arrays, **options):
  tensors.write(
    epath.Path(path),
    {k: (x.dtype, x.shape) for k, x in arrays.items()},
    arrays.__getitem__,
    **options,
  )


def test_the_bytes_of_a_file(tmp_path):
  write(
    tmp_path / "f",
    {"a": np.array([1.0, -2.0], BF16), "b": np.array([[3.0]], np.float32)},
    metadata={"format": "pt"},
  )
  header = (
    b'{"__metadata__":{"format":"pt"},'
    b'"b":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},'
    b'"a":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}}'
  )
  pad = b" " * (-len(header) % 8)
  assert (tmp_path / "f").read_bytes() == (
    len(header + pad).to_bytes(8, "little")
    + header
    + pad
    + b"\x00\x00\x40\x40"
    + b"\x80\x3f\x00\xc0"
  )


@fuzz
@hypothesis.given(st.dictionaries(names, arrays, max_size=5))
def test_the_library_reads_what_is_written(tmp_path, made):
  write(tmp_path / "f", made, metadata={"format": "pt"})
  found = safetensors.numpy.load_file(tmp_path / "f")
  assert {k: bits(x) for k, x in found.items()} == {
    k: bits(x) for k, x in made.items()
  }
  with safetensors.safe_open(tmp_path / "f", "numpy") as f:
    assert f.metadata() == {"format": "pt"}


@fuzz
@hypothesis.given(st.dictionaries(names, arrays, max_size=5))
def test_what_the_library_writes_is_read(tmp_path, made):
  safetensors.numpy.save_file(made, tmp_path / "f", {"a": "b"})
  found = tensors.index(epath.Path(tmp_path / "f"))
  assert {k: bits(tensors.read(t)) for k, t in found.items()} == {
    k: bits(x) for k, x in made.items()
  }
  for k, t in found.items():
    assert (t.name, t.dtype, t.shape, t.nbytes) == (
      k,
      made[k].dtype,
      made[k].shape,
      made[k].nbytes,
    )


def slices(shape):
  """Ranges of some of the first axes, as Python spells them."""
  ends = [st.none() | st.integers(-n - 2, n + 2) for n in shape]
  return st.integers(0, len(shape)).flatmap(
    lambda k: st.tuples(*[st.builds(slice, e, e) for e in ends[:k]])
  )


@fuzz
@hypothesis.given(st.data(), arrays, st.integers(1, 600))
def test_a_part_is_numpys_part(tmp_path, data, x, block):
  """However few rows, or how little of one row, are read at a time."""
  part = data.draw(slices(x.shape))
  write(tmp_path / "f", {"before": np.ones(3, np.int8), "x": x})
  tensor = tensors.index(epath.Path(tmp_path / "f"))["x"]
  with mock.patch.object(tensors, "_BLOCK", block):
    assert bits(tensors.read(tensor, part)) == bits(x[part])


class Place:
  """A file that keeps account of what is read of it."""

  def __init__(self, data):
    self.data, self.reads = data, []

  def open(self, mode):
    assert mode == "rb"
    reads = self.reads

    class File(io.BytesIO):
      def read(self, size):
        reads.append((self.tell(), size))
        return super().read(size)

    return File(self.data)


def test_only_what_is_asked_for_is_read():
  x = random((40, 5, 3), np.float32)
  data = safetensors.numpy.save({"x": x})
  place = Place(data)
  tensor = tensors.index(place)["x"]
  start = len(data) - x.nbytes
  assert sum(size for _, size in place.reads) == start
  for part, reads in [
    ((slice(10, 25),), [(600, 900)]),
    ((slice(10, 25), slice(0, 5)), [(600, 900)]),
    ((slice(39, 40), slice(1, 2)), [(2340, 60)]),
    ((slice(7, 7),), []),
    ((), [(0, 2400)]),
  ]:
    place.reads.clear()
    tensors.read(tensor, part)
    assert [(a - start, n) for a, n in place.reads] == reads
  # Two rows fit at a time; then none does, and columns are read alone.
  place.reads.clear()
  with mock.patch.object(tensors, "_BLOCK", 130):
    tensors.read(tensor, (slice(1, 4), slice(2, 4)))
  assert [(a - start, n) for a, n in place.reads] == [(60, 120), (180, 60)]
  place.reads.clear()
  with mock.patch.object(tensors, "_BLOCK", 30):
    tensors.read(tensor, (slice(1, 3), slice(2, 4)))
  assert [(a - start, n) for a, n in place.reads] == [(84, 24), (144, 24)]


def peak(call):
  """Bytes that numpy and Python held at once, beyond those at the start."""
  tracemalloc.start()
  try:
    call()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


def test_the_host_holds_the_part_and_a_block(tmp_path, monkeypatch):
  monkeypatch.setattr(tensors, "_BLOCK", 1 << 16)
  x = random((1 << 12, 1 << 8), np.float32)  # 4 MiB
  write(tmp_path / "f", {"x": x})
  tensor = tensors.index(epath.Path(tmp_path / "f"))["x"]
  spare = 4 << 16
  columns = (slice(None), slice(8, 40))
  assert peak(lambda: tensors.read(tensor, columns)) < x[columns].nbytes + spare
  assert peak(lambda: tensors.read(tensor)) < x.nbytes + spare


def test_a_file_is_written_one_tensor_at_a_time(tmp_path, monkeypatch):
  monkeypatch.setattr(tensors, "_BLOCK", 1 << 16)
  one = 1 << 20
  declared = {f"x{i}": (np.float32, (one // 1024, 256)) for i in range(8)}
  made = {}

  def fetch(name):
    # As a transposed array comes from a device.
    made[name] = len(made)
    return np.full((256, one // 1024), len(made), np.float32).T

  path = epath.Path(tmp_path / "f")
  assert peak(lambda: tensors.write(path, declared, fetch)) < one + (4 << 16)
  found = safetensors.numpy.load_file(path)
  assert {k: x.min() for k, x in found.items()} == {
    k: i + 1 for k, i in made.items()
  }
  assert {k: x.max() for k, x in found.items()} == {
    k: i + 1 for k, i in made.items()
  }


def test_every_tensor_is_aligned_to_its_type(tmp_path):
  write(
    tmp_path / "f",
    {
      "a": np.ones(3, np.int8),
      "b": np.ones(5, BF16),
      "c": np.ones(2, np.float32),
      "d": np.ones((), np.float64),
    },
  )
  for t in tensors.index(epath.Path(tmp_path / "f")).values():
    assert t.start % t.dtype.itemsize == 0, t


def test_who_writes_nothing_fetches_in_the_same_order(tmp_path):
  x = {"a": np.ones(3, np.int8), "b": np.ones(5, BF16), "c": np.ones(2, BF16)}
  declared = {k: (v.dtype, v.shape) for k, v in x.items()}
  wrote, passed = [], []
  # `append` returns None, which is what a process that does not write has.
  tensors.write(
    epath.Path(tmp_path / "f"),
    declared,
    lambda name: wrote.append(name) or x[name],
  )
  tensors.write(None, declared, passed.append)
  assert wrote == passed == ["b", "c", "a"]
  assert os.listdir(tmp_path) == ["f"]


def test_a_tensor_other_than_declared_is_refused(tmp_path):
  path = epath.Path(tmp_path / "f")
  with pytest.raises(ValueError, match="no type complex128"):
    tensors.write(path, {"x": (np.complex128, (2,))}, None)
  assert not path.exists()
  for x in (np.ones(3, np.float32), np.ones(2, np.float64)):
    with pytest.raises(ValueError, match="tensor x is"):
      tensors.write(path, {"x": (np.float32, (2,))}, {"x": x}.get)


def entry(shape, start, end, dtype="F32"):
  return dict(dtype=dtype, shape=shape, data_offsets=[start, end])


WHOLE = content({"a": entry([2], 0, 8), "b": entry([3], 8, 20)}, bytes(20))


@pytest.mark.parametrize(
  ("data", "words"),
  [
    (b"", ["cut short", "0 bytes"]),
    (WHOLE[:7], ["cut short", "7 bytes"]),
    (WHOLE[:30], ["cut short", "30 bytes do not hold the header"]),
    (WHOLE[:-1], ["cut short", "'b'", "ends at byte"]),
    (WHOLE[:-13], ["cut short", "'a'", "ends at byte"]),
    (WHOLE + b"x", ["1 bytes after the last tensor"]),
    (content({}, b"xy"), ["2 bytes after the last tensor"]),
    ((1 << 62).to_bytes(8, "little") + b"{}", ["do not hold the header"]),
    (content(b"{"), ["not JSON"]),
    (content(b"\xff{}"), ["not JSON"]),
    (content(b"[" * 200_000), ["not JSON"]),
    (content(b"[]"), ["not a JSON object"]),
    (
      content(
        b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
      ),
      ["twice"],
    ),
    (content({"__metadata__": {"a": 1}}), ["__metadata__"]),
    (content({"a": 1}), ["'a'", "is not a JSON object"]),
    (content({"a": {"dtype": "F32", "shape": [0]}}), ["'a'", "data_offsets"]),
    (content({"a": entry([0], 0, 0, "F7")}), ["'a'", "F7", "BF16"]),
    (content({"a": entry([0], 0, 0, 7)}), ["'a'", "stored as 7"]),
    (content({"a": entry([True], 0, 4)}, bytes(4)), ["'a'", "shape"]),
    (content({"a": entry([-1, -1], 0, 4)}, bytes(4)), ["'a'", "shape"]),
    (content({"a": entry([1.0], 0, 4)}, bytes(4)), ["'a'", "shape"]),
    (content({"a": entry([1], 0, 8)}, bytes(8)), ["'a'", "F32", "[1]"]),
    (content({"a": entry([1], 4, 0)}, bytes(4)), ["'a'", "[4, 0]"]),
    (
      content({"a": dict(entry([1], 0, 4), data_offsets=[0, 4, 8])}, bytes(4)),
      ["'a'", "[0, 4, 8]"],
    ),
    (
      content({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
      ["'b'", "where"],
    ),
    (
      content({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
      ["'b'", "where"],
    ),
    (
      content({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)),
      ["where"],
    ),
    (
      content({"a": entry([1 << 40], 0, 1 << 42)}, bytes(8)),
      ["'a'", "the file at"],
    ),
    (content({"a\nb" * 999: entry([2], 0, 4)}, bytes(4)), ["a\\nb", "…"]),
    # What the library lets through, numpy cannot hold.
    (content({"a": entry([0, 1 << 62, 4], 0, 0)}), ["'a'", "no such shape"]),
    (content({"a": entry([1] * 70, 0, 4)}, bytes(4)), ["'a'", "no such shape"]),
  ],
  ids=lambda x: x[-1] if isinstance(x, list) else "",
)
def test_damage_is_named(tmp_path, data, words):
  path = put(tmp_path / "f", data)
  with pytest.raises(errors.InputError) as e:
    tensors.index(path)
  text = str(e.value)
  for word in [str(path), *words]:
    assert word in text
  assert len(text.splitlines()) == 1 and len(text) < 1000
  if "no such shape" not in text and "twice" not in text:
    with pytest.raises(safetensors.SafetensorError):
      safetensors.safe_open(path, "numpy")


def test_a_header_beyond_the_limit_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(tensors, "_MAX_HEADER", 100)
  path = put(tmp_path / "f", WHOLE)
  with pytest.raises(errors.InputError, match="a header of 1.. bytes"):
    tensors.index(path)


json_values = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-3, 40)
  | st.integers()
  | st.floats()
  | st.text(max_size=4),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3)
  ),
  max_leaves=8,
)
sizes = st.lists(st.integers(-1, 9) | st.integers(), max_size=3)
entries = json_values | st.fixed_dictionaries(
  {
    "dtype": st.sampled_from(["F32", "BF16", "I8", "F9"]) | json_values,
    "shape": sizes | json_values,
    "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2)
    | json_values,
  }
)
headers = st.dictionaries(
  st.sampled_from(["a", "b", "__metadata__"]) | st.text(max_size=3),
  entries,
  max_size=3,
)
changed = st.lists(
  st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)),
  min_size=1,
  max_size=3,
)


def altered(changes):
  data = bytearray(WHOLE)
  for at, value in changes:
    data[at] = value
  return bytes(data)


@hypothesis.settings(fuzz, max_examples=500)
@hypothesis.given(
  st.binary(max_size=60)
  | st.builds(content, headers, st.binary(max_size=40))
  | st.builds(content, st.binary(max_size=60))
  | st.builds(altered, changed)
  | st.builds(lambda n: WHOLE[:n], st.integers(0, len(WHOLE)))
)
def test_a_damaged_file_is_the_users_error_alone(tmp_path, data):
  """Either it is refused in a line, or all of it can be read."""
  path = put(tmp_path / "f", data)
  try:
    found = tensors.index(path)
  except errors.InputError as e:
    assert str(path) in str(e)
    assert len(str(e).splitlines()) == 1
    return
  for tensor in found.values():
    assert tensors.read(tensor).nbytes == tensor.nbytes


def test_a_file_that_shrinks_or_goes_is_named(tmp_path):
  path = put(tmp_path / "f", WHOLE)
  tensor = tensors.index(path)["b"]
  os.truncate(path, len(WHOLE) - 1)
  with pytest.raises(errors.InputError, match="'b'.*shrunk"):
    tensors.read(tensor)
  path.unlink()
  with pytest.raises(errors.InputError, match="f: no such file"):
    tensors.read(tensor)
  with pytest.raises(errors.InputError, match="f: no such file"):
    tensors.index(path)
  with pytest.raises(errors.InputError, match="cannot be read.*directory"):
    tensors.index(epath.Path(tmp_path))


def test_places_elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  files = memory.MemoryFileSystem(global_store=False, skip_instance_cache=True)
  monkeypatch.setattr(
    backend.fsspec_backend, "_get_filesystem", lambda name: files
  )
  path = places.place("gs://bucket/f")
  assert places.is_remote(path) and not places.is_remote("gs/f")
  made = {"a": random((3, 4), BF16), "b": random((), np.float32)}
  write(path, made)
  assert list(files.store) == ["gs://bucket/f"]
  assert os.listdir(tmp_path) == []
  found = tensors.index(path)
  assert {k: bits(tensors.read(t)) for k, t in found.items()} == {
    k: bits(x) for k, x in made.items()
  }
  part = (slice(None), slice(1, 3))
  assert bits(tensors.read(found["a"], part)) == bits(made["a"][part])
  with pytest.raises(errors.InputError, match="gs://bucket/g: no such file"):
    tensors.index(places.place("gs://bucket/g"))
