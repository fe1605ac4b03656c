"""What a key of a config, or an argument of a command, may be.

A key is declared once, in config/defaults.py, as its default and its range:

  # Peak of the learning rate.
  c.optim.learning_rate = ranges.Number(1e-6, above=0, at_most=1)

Default, check, the reading of a value on the command line and the row of
docs/configs.md all follow from that. `also` names single values outside of
the bounds that have a meaning of their own, such as 0 for "none"; a key that
may be None has None there. `why` takes the place of the sentence on the bounds
where these do not explain themselves. Every number is finite, fractional ones
as float32 too, and whole ones fit int32 unless their bounds say otherwise.
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
  """A default, and which values may take its place.

  Attributes:
    default: the value where nothing is said; None where there is none.
    also: values outside of the bounds that are allowed as well.
    why: what is said of a value outside of the bounds; "" for the bounds.
  """

  default: Any = None
  _: dataclasses.KW_ONLY
  also: tuple = ()
  why: str = ""

  def refusal(self, value: Any) -> str:
    """What is wrong with a value, as "must be ..."; "" if nothing is."""
    if value is None:
      fits = None in self.also
    else:
      fits = self._is_kind(value) and (
          value in self.also or self._within(value))
    if fits:
      return ""
    if self.why and self._is_kind(value):
      return self.why
    kind = "" if self._is_kind(value) else self._KIND
    words = self.words()
    return f"must be {', '.join(w for w in (kind, words) if w not in _EMPTY)}"

  def words(self) -> str:
    """The range in words, such as "0 or above 1"."""
    return " or ".join([*map(_text, self.also), self._bounds()])

  def read(self, text: str) -> Any:
    """The value that a text stands for, not yet held against the bounds.

    Raises:
      ValueError: it stands for none of this kind.
    """
    if text.lower() == "none" and None in self.also:
      return None
    return self._read(text)

  # What a value of this kind is called, if its words do not say so.
  _KIND = ""

  @abc.abstractmethod
  def _is_kind(self, value: Any) -> bool:
    """Whether a value is of this kind, bounds apart."""

  @abc.abstractmethod
  def _within(self, value: Any) -> bool:
    """Whether a value of this kind keeps the bounds."""

  @abc.abstractmethod
  def _bounds(self) -> str:
    """The bounds in words."""

  @abc.abstractmethod
  def _read(self, text: str) -> Any:
    """A text as a value of this kind."""


@dataclasses.dataclass(frozen=True)
class Number(Range):
  """A finite number; fractions are allowed.

  Attributes:
    above: it is greater than this.
    at_least: it is this or greater.
    below: it is less than this.
    at_most: it is this or less.
  """

  _: dataclasses.KW_ONLY
  above: float | None = None
  at_least: float | None = None
  below: float | None = None
  at_most: float | None = None

  _KIND = "a finite number"

  def _is_kind(self, value):
    return isinstance(value, int | float) and not isinstance(
        value, bool) and abs(value) <= _FLOAT32_MAX

  def _within(self, value):
    return not (
        self.above is not None and value <= self.above
        or self.at_least is not None and value < self.at_least
        or self.below is not None and value >= self.below
        or self.at_most is not None and value > self.at_most)

  def _bounds(self):
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
    at_least: the least one.
    at_most: the greatest one.
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
    """As for every range; the end of int32 is named where it is passed."""
    said = super().refusal(value)
    if said and self._is_kind(value) and value > self.at_most:
      return f"must be at most {self.at_most}"
    return said

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
    of: the names.
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
  """A text: a path, a name, a sentence.

  Attributes:
    empty: whether it may be empty.
  """

  _: dataclasses.KW_ONLY
  empty: bool = True

  def _is_kind(self, value):
    return isinstance(value, str)

  def _within(self, value):
    # No file has a NUL in its name, and no tokenizer wants one.
    return "\0" not in value and (self.empty or bool(value.strip()))

  def _bounds(self):
    return "text" if self.empty else "text, not empty"

  def _read(self, text):
    return text


@dataclasses.dataclass(frozen=True)
class Place(Text):
  """A path of this machine, or a gs:// URL that names a bucket."""

  def _within(self, value):
    return super()._within(value) and not re.match(
        r"\s+$|\w+://(/|$)", value)

  def _bounds(self):
    return "a path or gs://BUCKET/PATH"


@dataclasses.dataclass(frozen=True)
class Many(Range):
  """A tuple, or a list.

  Attributes:
    each: what each of its values is; None for anything.
    length: how many there are; None for any number.
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
        self.each is None or not any(map(self.each.refusal, value)))

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
  """A range of the kind of a value, without bounds."""
  for kind in (Flag, Whole, Number, Text, Many):
    declared = kind(value)
    if not declared.refusal(value):
      return declared
  return Text(value)


def _text(value: Any) -> str:
  """A value as one writes it."""
  return f"{value:g}" if isinstance(value, float) else str(value)
