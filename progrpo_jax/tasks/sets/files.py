"""Readers of the file formats of published data sets.

Each yields (number, record, reason) per row: the number of the line or row,
counted from 1; the row as a dictionary of plain values; and "", or the reason
why the row is unreadable, with an empty record. A file that cannot be read at
all raises an InputError that names it. Text is UTF-8, with or without a byte
order mark, or what `encoding` says; lines end in LF or CRLF.
"""

import codecs
import collections
from collections.abc import Callable, Iterator
import csv
import fnmatch
import gzip
import hashlib
import io
import json
import os
from typing import Any, BinaryIO

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.errors import InputError

Numbered = Iterator[tuple[int, dict[str, Any], str]]

# Letters that make a path a pattern.
_PATTERN = "*?["
_BATCH = 256  # rows of a parquet file in memory at once
# Files by which datasets.save_to_disk marks the folder of one dataset, and of
# several splits.
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def matching(path: str) -> list[str]:
  """Returns the files, or folders, that a path with patterns stands for.

  Args:
    path: local path or URL, in whose names * and ? stand for any letters and
      [abc] for one of these. A path that exists is no pattern.

  Returns:
    Paths in the order of their names; the path itself if it is no pattern.

  Raises:
    InputError: nothing matches.
  """
  with places.reaching(path):
    found = _matching(path)
  if not found:
    raise InputError(f"{path}: no file matches this pattern")
  return found


def exists(path: str) -> bool:
  """Returns whether a path exists; no path with a NUL does."""
  try:
    return epath.Path(path).expanduser().exists()
  except (OSError, ValueError):
    return False


def _matching(path: str) -> list[str]:
  """Returns the paths that a path stands for, name by name from the left."""
  if not any(c in path for c in _PATTERN) or exists(path):
    return [path]
  head, slash, last = path.rstrip("/").rpartition("/")
  is_pattern = any(c in last for c in _PATTERN)
  found = []
  for folder in _matching(head):
    if not is_pattern:
      names = [last] if exists(f"{folder}{slash}{last}") else []
    else:
      place = epath.Path(folder + slash or ".").expanduser()
      names = [
        child.name
        for child in (place.iterdir() if place.is_dir() else ())
        if fnmatch.fnmatchcase(child.name, last)
        # As in a shell: these are of programs.
        and (last.startswith(".") or not child.name.startswith("."))
      ]
    found += [f"{folder}{slash}{name}" for name in sorted(names)]
  return found


def read(path: str, name: str = "", encoding: str = "utf-8") -> Numbered:
  """Yields the rows of a file.

  Args:
    path: path of the file; a download has a path without a useful ending.
    name: published name of the file, whose ending gives the format: .parquet,
      .arrow, .jsonl, .json or .csv, the last three also with .gz. Defaults to
      path.
    encoding: encoding of text files, by its Python name.

  Raises:
    InputError: the format is unknown or the file cannot be read.
  """
  name = name or path
  zipped = name.endswith(".gz")
  # Of the name alone: a folder before it may have a dot too.
  _, dot, kind = os.path.basename(name).removesuffix(".gz").rpartition(".")
  kind = kind if dot else ""
  try:
    with _opened(path) as file:
      if kind not in _READERS:
        what = f".{kind:.20}" if kind else "a file whose name has no ending"
        kinds = ", ".join(f".{k}" for k in sorted(_READERS))
        raise InputError(f"{path}: no reader for {what} (known: {kinds})")
      stream = gzip.open(file) if zipped else file
      yield from _READERS[kind](stream, path, encoding)
  except (OSError, EOFError) as error:
    reason = getattr(error, "strerror", None) or error
    raise InputError(f"cannot read {path}: {reason}") from error


def _opened(path: str) -> BinaryIO:
  """Opens a file; a NUL in its path is an OSError like any other bad path."""
  try:
    return epath.Path(path).expanduser().open("rb")
  except ValueError as error:
    raise OSError(str(error)) from error


def read_saved(path: str, split: str) -> Numbered:
  """Yields the rows of a folder that `datasets.save_to_disk` wrote.

  Args:
    path: folder of a dataset, or of several splits.
    split: split to read of several.

  Raises:
    InputError: it is no such folder, or has no such split.
  """
  folder = epath.Path(path).expanduser()
  splits = saved_splits(path)
  if splits:
    if split not in splits:
      raise InputError(
        f"{path} has no split {split!r} (it has {', '.join(splits)})"
      )
    folder = folder / split
  state = folder / _STATE
  try:
    state = json.loads(state.read_text())
    parts = [entry["filename"] for entry in state["_data_files"]]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(
      f"cannot read {path}: Is a directory, and not one that"
      f" datasets.save_to_disk wrote (no usable {_STATE}); name a file in it"
    ) from error
  number = 0
  for part in parts:
    for _, row, reason in read(str(folder / part)):
      number += 1
      yield number, row, reason


def saved_splits(path: str) -> list[str]:
  """Returns the splits of a folder that a DatasetDict was saved to, or []."""
  try:
    listing = epath.Path(path).expanduser() / _SPLITS
    return list(json.loads(listing.read_text())["splits"])
  except (OSError, ValueError, KeyError, TypeError):
    return []


def unit(name: str) -> str:
  """Returns what the row numbers of a file count, "line" or "row"."""
  return "line" if ".jsonl" in name else "row"


def parse(line: bytes, encoding: str = "utf-8") -> tuple[Any, str]:
  """Returns (value, "") of a line of JSON, or (None, reason)."""
  try:
    text = line.decode(encoding)
    return json.loads(text, parse_constant=_no_constant), ""
  except UnicodeDecodeError as error:
    return None, _undecodable(error, line)
  except json.JSONDecodeError as error:
    return None, f"not JSON ({error.msg} at column {error.colno})"
  except (ValueError, RecursionError) as error:
    return None, f"not JSON ({error})"


def _no_constant(name: str) -> None:
  """Refuses NaN and infinities, which json.loads would accept."""
  raise ValueError(f"{name} is no JSON value")


def _undecodable(error: UnicodeDecodeError, data: bytes) -> str:
  """Returns why bytes are no text, and what to do."""
  name = error.encoding.upper().replace("UTF8", "UTF-8")
  if data.startswith(_UTF16):
    return f"not {name} but UTF-16: save the file as UTF-8"
  return (
    f"not {name} (byte {error.start}): convert the file, or name its encoding,"
    " as in encoding='latin-1'"
  )


def _jsonl(file: BinaryIO, path: str, encoding: str) -> Numbered:
  """Reads one JSON object per line and skips empty lines."""
  del path
  is_first = True
  for number, line in enumerate(file, start=1):
    if number == 1:
      line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
      continue
    record, reason = parse(line.rstrip(b"\r\n"), encoding)
    if not reason and not isinstance(record, dict):
      reason = f"{errors.kind(record)}, not an object"
    if reason and is_first:
      reason += _other_format(line.lstrip())
    is_first = False
    yield number, {} if reason else record, reason


def _other_format(line: bytes) -> str:
  """Says what a file may be whose first line is no object, or ""."""
  if line.startswith(b"["):
    return "; if the file is one JSON list, name it .json"
  # Of an object that is cut short, the format is right.
  if b"," in line and not line.startswith((b"{", *_UTF16)):
    return "; if these are comma-separated values, name the file .csv"
  return ""


def _json(file: BinaryIO, path: str, encoding: str) -> Numbered:
  """Reads a JSON list of objects."""
  data = file.read().removeprefix(codecs.BOM_UTF8)
  if not data.strip():
    raise InputError(f"{path} holds no rows")
  try:
    rows = json.loads(data.decode(encoding), parse_constant=_no_constant)
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise InputError(
      f"{path}: line {line}: {_undecodable(error, data)}"
    ) from error
  except json.JSONDecodeError as error:
    if data.lstrip().startswith(b"{") and error.msg == "Extra data":
      # Many hub files of this name hold one object per line.
      yield from _jsonl(io.BytesIO(data), path, encoding)
      return
    where = f"line {error.lineno} column {error.colno}"
    raise InputError(f"{path}: not JSON ({error.msg} at {where})") from error
  except (ValueError, RecursionError) as error:
    raise InputError(f"{path}: not JSON ({error})") from error
  if not isinstance(rows, list):
    kind = type(rows).__name__
    raise InputError(f"{path}: a {kind}, not a list of objects")
  for number, row in enumerate(rows, start=1):
    if isinstance(row, dict):
      yield number, row, ""
    else:
      yield number, {}, f"{errors.kind(row)}, not an object"


def _csv(file: BinaryIO, path: str, encoding: str) -> Numbered:
  """Reads comma-separated values with a header line."""
  csv.field_size_limit(1 << 27)  # characters; tests are longer than 131,072
  rows = csv.DictReader(_lines(file, path, encoding), strict=True)
  try:
    for name, count in collections.Counter(rows.fieldnames or ()).items():
      if count > 1:
        raise InputError(
          f"{path}: {count} columns are called {name!r}: name them apart"
        )
    for number, row in enumerate(rows, start=1):
      # DictReader collects surplus fields under None and fills gaps with None.
      if None in row or None in row.values():
        yield number, {}, f"not {len(rows.fieldnames)} columns"
      else:
        yield number, row, ""
  except csv.Error as error:
    raise InputError(f"{path}: not CSV ({error})") from error


def _lines(file: BinaryIO, path: str, encoding: str) -> Iterator[str]:
  """Yields the lines of a text file with their ends."""
  for number, line in enumerate(file, start=1):
    if number == 1:
      line = line.removeprefix(codecs.BOM_UTF8)
    try:
      yield line.decode(encoding)
    except UnicodeDecodeError as error:
      raise InputError(
        f"{path}: not CSV (line {number}: {_undecodable(error, line)})"
      ) from error


def _parquet(file: BinaryIO, path: str, encoding: str) -> Numbered:
  """Reads a parquet file, a few rows at a time."""
  del encoding
  with errors.of_extra("tfds"):
    import pyarrow as pa
    from pyarrow import parquet
  try:
    batches = parquet.ParquetFile(file).iter_batches(batch_size=_BATCH)
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows, start=1):
      yield number, row, ""
  except pa.ArrowException as error:
    first = str(error).partition("\n")[0]
    raise InputError(f"{path}: not a parquet file ({first})") from error


def _arrow(file: BinaryIO, path: str, encoding: str) -> Numbered:
  """Reads the stream of record batches that Hugging Face datasets writes."""
  del encoding
  with errors.of_extra("tfds"):
    import pyarrow as pa
  try:
    with pa.ipc.open_stream(file) as batches:
      rows = (row for batch in batches for row in batch.to_pylist())
      for number, row in enumerate(rows, start=1):
        yield number, row, ""
  except pa.ArrowException as error:
    first = str(error).partition("\n")[0]
    raise InputError(f"{path}: not an arrow stream ({first})") from error


_READERS: dict[str, Callable[[BinaryIO, str, str], Numbered]] = {
  "parquet": _parquet,
  "arrow": _arrow,
  "jsonl": _jsonl,
  "json": _json,
  "csv": _csv,
}


def sha256(path: epath.Path) -> str:
  """Returns the SHA-256 of a file's content in hexadecimal digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(text: str) -> bytes:
  """Returns the SHA-256 of a text, the same in every process and version."""
  return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
