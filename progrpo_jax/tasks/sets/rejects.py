"""Report of the unusable rows of a file; too many of them are an error."""

import json
from typing import Any

from etils import epath

from progrpo_jax.errors import InputError

_SHOWN = 3  # reasons, and rows of each, quoted in an error message
_TEXT = 200  # characters kept of each bad row


class Rejects:
  """Collects the bad rows of a file.

  Args:
    path: path of the file, for messages.
    name: name of the report, which is `<data_dir>/<name>.rejected.jsonl`.
    data_dir: folder of the report.
    max_bad_share: largest allowed share of bad rows.
    unit: "line" or "row", whichever the numbers count.
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
    self._report = folder / f"{name}.rejected.jsonl"
    self._limit = max_bad_share
    self._unit = unit
    self._bad: list[dict[str, Any]] = []

  def __len__(self) -> int:
    return len(self._bad)

  def add(self, number: int, reason: str, text: str) -> None:
    """Adds a bad row.

    Args:
      number: number of the row in the file.
      reason: fault of the row, for the report.
      text: content of the row, of which the beginning is kept.
    """
    self._bad.append(
      {self._unit: number, "reason": reason, "text": text[:_TEXT]}
    )

  def close(self, good: int) -> None:
    """Writes the report if there are bad rows.

    Args:
      good: number of good rows of the file.

    Raises:
      InputError: the share of bad rows is too large, or the file is empty.
    """
    total = good + len(self._bad)
    if self._bad:
      self._report.parent.mkdir(parents=True, exist_ok=True)
      self._report.write_text(
        "".join(json.dumps(row) + "\n" for row in self._bad)
      )
    if len(self._bad) > self._limit * total:
      numbers = {}
      for row in self._bad:
        numbers.setdefault(row["reason"], []).append(row[self._unit])
      first = [
        f"{_listed(self._unit, numbers[reason])}: {reason}"
        for reason in list(numbers)[:_SHOWN]
      ]
      raise InputError(
        f"{self._path}: {len(self._bad)} of {total} rows are bad"
        f" ({'; '.join(first)}; all in {self._report}); max_bad_share is"
        f" {self._limit:g}"
      )
    if not good:
      raise InputError(f"{self._path} holds no rows")


def _listed(unit: str, numbers: list[int]) -> str:
  """Names rows, such as "line 2" or "lines 2, 3, 5 and 190 more"."""
  shown = ", ".join(map(str, numbers[:_SHOWN]))
  more = len(numbers) - _SHOWN
  return (
    f"{unit}{'s' if len(numbers) > 1 else ''} {shown}"
    f"{f' and {more} more' if more > 0 else ''}"
  )
