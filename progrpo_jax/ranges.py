"""Defaults and allowed values of config keys and command-line arguments.

A key is declared once, in settings/defaults.py, with its default and its range:

  # Peak of the learning rate.
  c.optim.learning_rate = ranges.Number(1e-6, above=0, at_most=1)

The default, the check, the parsing on the command line and the row of
docs/configs.md all come from this declaration. `also` lists allowed values
outside the bounds, such as 0 for "off", or None. `why` is an error message that
replaces the one about the bounds. All numbers are finite; a `Number` must be
finite in float32, and a `Whole` must fit int32 unless its bounds are wider.
"""

import abc
import ast
from collections.abc import Sequence
import dataclasses
import re
from typing import Any

_FLOAT32_MAX = 3.4028234663852886e38
_INT32_MAX = 2**31 - 1
_ANY = "any"
_EMPTY = ("", _ANY)
_TRUTH = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Range(abc.ABC):
  """A default and a set of allowed values.

  Attributes:
    default: default value; None if there is no default.
    also: allowed values outside the bounds.
    why: error message for a value outside the bounds; "" names the bounds.
  """

  default: Any = None
  _: dataclasses.KW_ONLY
  also: tuple = ()
  why: str = ""

  def refusal(self, value: Any) -> str:
    """Error message "must be ..." for a value; "" if the value is allowed."""
    if value is None:
      is_allowed = None in self.also
    else:
      is_allowed = self._is_kind(value) and (
        value in self.also or self._within(value)
      )
    if is_allowed:
      return ""
    if self.why and self._is_kind(value):
      return self.why
    kind = "" if self._is_kind(value) else self._KIND
    words = self.words()
    return f"must be {', '.join(w for w in (kind, words) if w not in _EMPTY)}"

  def words(self) -> str:
    """Describes the range, as in "0 or above 1"."""
    return " or ".join([*map(_text, self.also), self._bounds()])

  def read(self, text: str) -> Any:
    """Parses a value, without checking the bounds.

    Args:
      text: text of the value on the command line.

    Raises:
      ValueError: the text is not a value of this kind.
    """
    if text.lower() == "none" and None in self.also:
      return None
    return self._read(text)

  # Name of the kind in messages; "" where the description of the bounds names
  # it already.
  _KIND = ""

  @abc.abstractmethod
  def _is_kind(self, value: Any) -> bool:
    """Returns whether a value has the right type, whatever the bounds."""

  @abc.abstractmethod
  def _within(self, value: Any) -> bool:
    """Returns whether a value of the right type is within the bounds."""

  @abc.abstractmethod
  def _bounds(self) -> str:
    """Describes the bounds."""

  @abc.abstractmethod
  def _read(self, text: str) -> Any:
    """Parses a text; raises ValueError if it is not of this kind."""


@dataclasses.dataclass(frozen=True)
class Number(Range):
  """A finite number, whole or fractional.

  Attributes:
    above: exclusive lower bound, or None.
    at_least: inclusive lower bound, or None.
    below: exclusive upper bound, or None.
    at_most: inclusive upper bound, or None.
  """

  _: dataclasses.KW_ONLY
  above: float | None = None
  at_least: float | None = None
  below: float | None = None
  at_most: float | None = None

  _KIND = "a finite number"

  def _is_kind(self, value):
    return (
      isinstance(value, int | float)
      and not isinstance(value, bool)
      and abs(value) <= _FLOAT32_MAX
    )

  def _within(self, value):
    return not (
      self.above is not None
      and value <= self.above
      or self.at_least is not None
      and value < self.at_least
      or self.below is not None
      and value >= self.below
      or self.at_most is not None
      and value > self.at_most
    )

  def _bounds(self):
    # In words with one bound, as an interval such as "in (0, 1]" with two.
    if self.above is not None:
      low, bracket = f"above {_text(self.above)}", f"({_text(self.above)}"
    elif self.at_least is not None:
      low = f"at least {_text(self.at_least)}"
      bracket = f"[{_text(self.at_least)}"
    else:
      low = ""
    if self.below is not None:
      high, end = f"below {_text(self.below)}", f"{_text(self.below)})"
    elif self.at_most is not None:
      high, end = f"at most {_text(self.at_most)}", f"{_text(self.at_most)}]"
    else:
      high = ""
    if low and high:
      return f"in {bracket}, {end}"
    return low or high or _ANY

  def _read(self, text):
    return float(text)


@dataclasses.dataclass(frozen=True)
class Whole(Range):
  """A whole number.

  Attributes:
    at_least: smallest allowed number.
    at_most: largest allowed number.
  """

  _: dataclasses.KW_ONLY
  at_least: int = -_INT32_MAX
  at_most: int = _INT32_MAX

  _KIND = "a whole number"

  def _is_kind(self, value):
    return isinstance(value, int) and not isinstance(value, bool)

  def _within(self, value):
    return self.at_least <= value <= self.at_most

  def refusal(self, value):
    """As `Range.refusal`, but a number that is too large names the limit.

    The description of the bounds leaves out the limit of int32.
    """
    message = super().refusal(value)
    if message and self._is_kind(value) and value > self.at_most:
      return f"must be at most {self.at_most}"
    return message

  def _bounds(self):
    if self.at_most != _INT32_MAX:
      return f"in [{self.at_least}, {self.at_most}]"
    return _ANY if self.at_least < 0 else f"at least {self.at_least}"

  def _read(self, text):
    return int(text)


@dataclasses.dataclass(frozen=True)
class Flag(Range):
  """True or False."""

  def _is_kind(self, value):
    return isinstance(value, bool)

  def _within(self, value):
    return True

  def _bounds(self):
    return "True or False"

  def _read(self, text):
    if text.lower() not in _TRUTH:
      raise ValueError(text)
    return _TRUTH[text.lower()]


@dataclasses.dataclass(frozen=True)
class Choice(Range):
  """One of a few names.

  Attributes:
    of: allowed names.
  """

  _: dataclasses.KW_ONLY
  of: Sequence[str]

  def _is_kind(self, value):
    return isinstance(value, str)

  def _within(self, value):
    return value in self.of

  def _bounds(self):
    return " or ".join(map(repr, self.of))

  def _read(self, text):
    return text


@dataclasses.dataclass(frozen=True)
class Text(Range):
  """A text, such as a path, a name or a sentence.

  Attributes:
    empty: whether an empty text, or one of spaces, is allowed.
  """

  _: dataclasses.KW_ONLY
  empty: bool = True

  def _is_kind(self, value):
    return isinstance(value, str)

  def _within(self, value):
    # NUL is invalid in file names, and tokenizers may fail on it.
    return "\0" not in value and (self.empty or bool(value.strip()))

  def _bounds(self):
    return "text" if self.empty else "text, not empty"

  def _read(self, text):
    return text


@dataclasses.dataclass(frozen=True)
class Place(Text):
  """A local path, or a gs:// URL with a bucket."""

  def _within(self, value):
    return super()._within(value) and not re.match(r"\s+$|\w+://(/|$)", value)

  def _bounds(self):
    return "a path or gs://BUCKET/PATH"


@dataclasses.dataclass(frozen=True)
class Many(Range):
  """A tuple or a list.

  Attributes:
    each: range of each element; None allows anything.
    length: number of elements; None allows any number.
  """

  default: Any = ()
  _: dataclasses.KW_ONLY
  each: Range | None = None
  length: int | None = None

  _KIND = "a tuple"

  def _is_kind(self, value):
    return isinstance(value, tuple | list)

  def _within(self, value):
    return len(value) == (self.length or len(value)) and (
      self.each is None or not any(map(self.each.refusal, value))
    )

  def _bounds(self):
    if self.each is None:
      return _ANY
    count = "" if self.length is None else f"{self.length} "
    return f"{count}values, each {self.each.words()}"

  def _read(self, text):
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as e:
      raise ValueError(text) from e
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def like(value: Any) -> Range:
  """Makes an unbounded range for values of the type of `value`."""
  # In this order, since a bool is an int and an int is a Number.
  for kind in (Flag, Whole, Number, Text, Many):
    declared = kind(value)
    if not declared.refusal(value):
      return declared
  return Text(value)


def _text(value: Any) -> str:
  """A value as text; floats in their shortest form."""
  return f"{value:g}" if isinstance(value, float) else str(value)
