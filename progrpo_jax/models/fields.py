"""Fields of a checkpoint's config.json, read as what they have to be.

A file that someone else wrote may hold anything. What is no number where a
number belongs is refused here by its name, before a shape is made of it.
"""

from collections.abc import Mapping
import math
from typing import Any

# Whole numbers beyond this are no sizes, and no floats hold all of them.
_MOST = 2**31 - 1
_ABSENT = object()


class Fields(Mapping):
  """The fields of an object in a config.json.

  A field that is null counts as absent, as it does for transformers: its
  default stands in its place. Each method raises a ValueError that names the
  field, its value and what it must be.
  """

  def __init__(self, given: Mapping[str, Any], name: str = ""):
    """Takes an object, and the name of the field that it is, if any."""
    self._given, self._name = given, name

  def __getitem__(self, name: str) -> Any:
    return self._given[name]

  def __iter__(self):
    return iter(self._given)

  def __len__(self) -> int:
    return len(self._given)

  def whole(
      self, name: str, default: Any = _ABSENT, *, most: int = _MOST) -> int:
    """A whole number from 1 to `most`."""
    value = self._value(name, default)
    if type(value) is not int or not 1 <= value <= most:
      raise self._refused(name, value, f"a whole number from 1 to {most}")
    return value

  def number(self, name: str, default: Any = _ABSENT) -> float:
    """A finite number."""
    value = self._value(name, default)
    if type(value) not in (int, float) or not _is_finite(value):
      raise self._refused(name, value, "a finite number")
    return float(value)

  def positive(self, name: str, default: Any = _ABSENT) -> float:
    """A finite number above 0."""
    value = self.number(name, default)
    if value <= 0:
      raise self._refused(name, self._given[name], "a number above 0")
    return value

  def flag(self, name: str) -> bool:
    """True or false; false where it is absent."""
    value = self._value(name, False)
    if type(value) is not bool:
      raise self._refused(name, value, "true or false")
    return value

  def words(self, name: str) -> list[str]:
    """A list of texts, empty where it is absent."""
    value = self._value(name, [])
    if not isinstance(value, list) or not all(
        isinstance(word, str) for word in value):
      raise self._refused(name, value, "a list of texts")
    return value

  def group(self, name: str) -> "Fields":
    """An object of fields, empty where it is absent."""
    value = self._value(name, {})
    if not isinstance(value, Mapping):
      raise self._refused(name, value, "an object")
    return Fields(value, f"{name}.")

  def _value(self, name: str, default: Any) -> Any:
    value = self._given.get(name)
    if value is None and default is not _ABSENT:
      return default
    return value

  def _refused(self, name: str, value: Any, wanted: str) -> ValueError:
    text = repr(value)
    text = text if len(text) <= 80 else text[:80] + "…"
    return ValueError(
        f"config field {self._name}{name}={text} must be {wanted}; mend "
        "config.json, or copy it again")


def _is_finite(value: int | float) -> bool:
  """Whether a number is one as a float as well."""
  try:
    return math.isfinite(float(value))
  except OverflowError:
    return False
