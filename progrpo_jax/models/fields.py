"""Typed reading of the fields of a checkpoint's config.json.

The file comes from someone else and may hold anything. Values of a wrong type
or range are refused here by name, before they become shapes.
"""

from collections.abc import Mapping
import math
from typing import Any

# Largest whole number accepted, that of int32.
_MOST = 2**31 - 1
_ABSENT = object()


class Fields(Mapping):
  """The fields of an object in a config.json.

  A null field counts as absent, as in transformers, and gets its default.
  Every reading method raises a ValueError for a value of the wrong type or
  range; the message has the field's name, its value and what it must be.
  """

  def __init__(self, given: Mapping[str, Any], name: str = ""):
    """Wraps an object of fields.

    Args:
      given: the object.
      name: prefix of its fields in messages, such as "rope_scaling.".
    """
    self._given, self._name = given, name

  def __getitem__(self, name: str) -> Any:
    return self._given[name]

  def __iter__(self):
    return iter(self._given)

  def __len__(self) -> int:
    return len(self._given)

  def whole(
    self, name: str, default: Any = _ABSENT, *, most: int = _MOST
  ) -> int:
    """Reads a whole number from 1 to `most`."""
    value = self._value(name, default)
    if type(value) is not int or not 1 <= value <= most:
      raise self._refused(name, value, f"a whole number from 1 to {most}")
    return value

  def number(self, name: str, default: Any = _ABSENT) -> float:
    """Reads a finite number."""
    value = self._value(name, default)
    if type(value) not in (int, float) or not _is_finite(value):
      raise self._refused(name, value, "a finite number")
    return float(value)

  def positive(self, name: str, default: Any = _ABSENT) -> float:
    """Reads a finite number above 0."""
    value = self.number(name, default)
    if value <= 0:
      raise self._refused(name, self._given[name], "a number above 0")
    return value

  def flag(self, name: str) -> bool:
    """Reads true or false; an absent field is False."""
    value = self._value(name, False)
    if type(value) is not bool:
      raise self._refused(name, value, "true or false")
    return value

  def words(self, name: str) -> list[str]:
    """Reads a list of strings; an absent field is an empty list."""
    value = self._value(name, [])
    if not isinstance(value, list) or not all(
      isinstance(word, str) for word in value
    ):
      raise self._refused(name, value, "a list of texts")
    return value

  def group(self, name: str) -> "Fields":
    """Reads an object of fields; an absent field is an empty object."""
    value = self._value(name, {})
    if not isinstance(value, Mapping):
      raise self._refused(name, value, "an object")
    return Fields(value, f"{name}.")

  def _value(self, name: str, default: Any) -> Any:
    """Value of a field, or its default where it is absent or null."""
    value = self._given.get(name)
    if value is None and default is not _ABSENT:
      return default
    return value

  def _refused(self, name: str, value: Any, wanted: str) -> ValueError:
    """Error for a field that is not as wanted; long values are cut."""
    text = repr(value)
    text = text if len(text) <= 80 else text[:80] + "…"
    return ValueError(
      f"config field {self._name}{name}={text} must be {wanted}; correct "
      "config.json, or copy it again"
    )


def _is_finite(value: int | float) -> bool:
  """Returns whether a number is finite as a float too; huge ints overflow."""
  try:
    return math.isfinite(float(value))
  except OverflowError:
    return False
