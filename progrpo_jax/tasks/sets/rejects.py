"""Rows that cannot be used: written aside, and too many of them an error."""

import json
from typing import Any

from etils import epath

from progrpo_jax.errors import InputError

_SHOWN = 3  # bad rows in an error message
_TEXT = 200  # characters kept of each


class Rejects:
  """Collects the bad rows of a file.

  Args:
    path: the file, for messages.
    name: they go to `<data_dir>/<name>.rejected.jsonl`.
    data_dir: where they are written.
    max_bad_share: the largest share of the rows that may be bad.
    unit: what numbers count, "line" or "row".
  """

  def __init__(
      self,
      path: str,
      name: str,
      data_dir: str,
      max_bad_share: float,
      unit: str = "line",
  ):
    self._path = path
    folder = epath.Path(data_dir).expanduser()
    self._aside = folder / f"{name}.rejected.jsonl"
    self._limit = max_bad_share
    self._unit = unit
    self._bad: list[dict[str, Any]] = []

  def __len__(self) -> int:
    return len(self._bad)

  def add(self, number: int, reason: str, text: str) -> None:
    """Notes a bad row, by its number in the file."""
    self._bad.append(
        {self._unit: number, "reason": reason, "text": text[:_TEXT]})

  def close(self, good: int) -> None:
    """Writes the bad rows; raises InputError where they are too many.

    Args:
      good: how many rows of the file are not bad.
    """
    total = good + len(self._bad)
    if self._bad:
      self._aside.parent.mkdir(parents=True, exist_ok=True)
      self._aside.write_text(
          "".join(json.dumps(row) + "\n" for row in self._bad))
    if len(self._bad) > self._limit * total:
      first = [
          f"{self._unit} {row[self._unit]}: {row['reason']}"
          for row in self._bad[:_SHOWN]]
      raise InputError(
          f"{self._path}: {len(self._bad)} of {total} rows are bad"
          f" ({'; '.join(first)}; all in {self._aside}); max_bad_share is"
          f" {self._limit:g}"
      )
    if not good:
      raise InputError(f"{self._path} holds no rows")
