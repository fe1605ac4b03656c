"""Readers of the file formats of published data sets.

Each yields (number, record, reason) per row: the number of the line or row,
counted from 1; the row as a dictionary of plain values; and "", or the reason
why the row is unreadable, with an empty record. A file that cannot be read at
all raises an InputError that names it.
"""

from collections.abc import Callable, Iterator
import csv
import gzip
import hashlib
import io
import json
from typing import Any, BinaryIO

from etils import epath

from progrpo_jax import errors
from progrpo_jax.errors import InputError

Numbered = Iterator[tuple[int, dict[str, Any], str]]

_BATCH = 256  # rows of a parquet file in memory at once


def read(path: str, name: str = "") -> Numbered:
  """Yields the rows of a file.

  Args:
    path: path of the file; a download has a path without a useful ending.
    name: published name of the file, whose ending gives the format: .parquet,
      .jsonl, .json or .csv, the last three also with .gz. Defaults to path.

  Raises:
    InputError: the format is unknown or the file cannot be read.
  """
  name = name or path
  zipped = name.endswith(".gz")
  kind = name.removesuffix(".gz").rpartition(".")[2]
  if kind not in _READERS:
    kinds = ", ".join(f".{k}" for k in sorted(_READERS))
    raise InputError(f"{path}: no reader for .{kind} (known: {kinds})")
  try:
    with epath.Path(path).expanduser().open("rb") as file:
      stream = gzip.open(file) if zipped else file
      yield from _READERS[kind](stream, path)
  except (OSError, EOFError) as error:
    reason = getattr(error, "strerror", None) or error
    raise InputError(f"cannot read {path}: {reason}") from error


def unit(name: str) -> str:
  """Returns what the row numbers of a file count, "line" or "row"."""
  return "line" if ".jsonl" in name else "row"


def parse(line: bytes) -> tuple[Any, str]:
  """Returns (value, "") of a line of JSON, or (None, reason)."""
  try:
    return json.loads(line.decode(), parse_constant=_no_constant), ""
  except UnicodeDecodeError as error:
    return None, f"not UTF-8 (byte {error.start})"
  except json.JSONDecodeError as error:
    return None, f"not JSON ({error.msg} at column {error.colno})"
  except (ValueError, RecursionError) as error:
    return None, f"not JSON ({error})"


def _no_constant(name: str) -> None:
  """Refuses NaN and infinities, which json.loads would accept."""
  raise ValueError(f"{name} is no JSON value")


def _jsonl(file: BinaryIO, path: str) -> Numbered:
  """Reads one JSON object per line and skips empty lines."""
  del path
  for number, line in enumerate(file, start=1):
    if not line.strip():
      continue
    record, reason = parse(line.rstrip(b"\r\n"))
    if not reason and not isinstance(record, dict):
      reason = f"a {type(record).__name__}, not an object"
    yield number, {} if reason else record, reason


def _json(file: BinaryIO, path: str) -> Numbered:
  """Reads a JSON list of objects."""
  text = file.read()
  if not text.strip():
    raise InputError(f"{path} holds no rows")
  try:
    rows = json.loads(text.decode())
  except json.JSONDecodeError as error:
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
      yield number, {}, f"a {type(row).__name__}, not an object"


def _csv(file: BinaryIO, path: str) -> Numbered:
  """Reads comma-separated values with a header line."""
  csv.field_size_limit(1 << 27)  # characters; tests are longer than 131,072
  text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
  rows = csv.DictReader(text, strict=True)
  try:
    for number, row in enumerate(rows, start=1):
      # DictReader collects surplus fields under None and fills gaps with None.
      if None in row or None in row.values():
        yield number, {}, f"not {len(rows.fieldnames)} columns"
      else:
        yield number, row, ""
  except (csv.Error, UnicodeDecodeError) as error:
    raise InputError(f"{path}: not CSV ({error})") from error


def _parquet(file: BinaryIO, path: str) -> Numbered:
  """Reads a parquet file, a few rows at a time."""
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


_READERS: dict[str, Callable[[BinaryIO, str], Numbered]] = {
  "parquet": _parquet,
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
