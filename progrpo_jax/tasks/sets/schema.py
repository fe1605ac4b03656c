"""Description of a published data set.

A `Set` names the files of a data set and their columns, and converts a row of
a file to a `Problem`. `reader` reads, checks and builds the files; `published`
has the options that every set shares.
"""

from collections.abc import Callable, Mapping
import dataclasses
import json
from typing import Any

from progrpo_jax import errors

SPLITS = ("validation", "train")  # in build order


class BadRow(ValueError):
  """A row is unusable; the reader reports it with the message."""


class LeftOut(ValueError):
  """A row is left out on purpose; the reader counts it under the message."""


@dataclasses.dataclass(frozen=True)
class Problem:
  """Problem made from a row of a published file.

  Attributes:
    question: text of the problem without instructions on how to answer.
    reference: reference answer for the verifier, JSON-able.
    meta: keyword arguments of the verifier and the problem's rating, see
      `base.Row`, JSON-able.
    demonstrations: completions that score 1.
    asks: texts that fill the template's fields other than {question}, by
      field.
  """

  question: str
  reference: object
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)
  demonstrations: tuple[str, ...] = ()
  asks: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class File:
  """Published file.

  Attributes:
    split: "train" or "validation".
    path: path in the repository and below manual_dir. A path with * stands
      for all matching files and is read from manual_dir only.
    url: address of the file, if it is not at the hub under `path`.
  """

  split: str
  path: str
  url: str = ""


@dataclasses.dataclass(frozen=True)
class Set:
  """Published data set.

  Attributes:
    name: name of the task.
    domain: "mathematics", "code", "science" or "instructions".
    repo: repository on the hub.
    verifier: verifier as "module:function".
    files: function from options to the files of the set.
    columns: required columns; a tuple lists alternative names of one column.
    row: function from (record, options) to a Problem; raises BadRow or
      LeftOut.
    templates: prompts with {question} in them, by name, the default first.
    meta: keyword arguments of the verifier for all rows, which
      `verifier_options` may replace.
    options: options of the set and their defaults. An option `seed` gets the
      seed of the task and cannot be set.
    against: evaluation sets whose near-duplicates train leaves out.
    access: steps that a user must take before downloading, "" if none.
  """

  name: str
  domain: str
  repo: str
  verifier: str
  files: Callable[[Mapping[str, Any]], tuple[File, ...]]
  columns: tuple[str | tuple[str, ...], ...]
  row: Callable[[dict[str, Any], Mapping[str, Any]], Problem]
  templates: Mapping[str, str]
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  against: tuple[str, ...] = ()
  access: str = ""

  @property
  def splits(self) -> tuple[str, ...]:
    """Splits in build order; a set without train files is evaluation only."""
    names = {file.split for file in self.files(self.options)}
    return SPLITS if "train" in names else ("validation",)

  @property
  def has_test(self) -> bool:
    """Returns whether a validation split is published, not held out."""
    files = self.files(self.options)
    return any(file.split == "validation" for file in files)

  def missing(self, record: Mapping[str, Any]) -> str:
    """Returns the first column that a row lacks, "" if it has all."""
    for column in self.columns:
      names = (column,) if isinstance(column, str) else column
      if not any(name in record for name in names):
        return " or ".join(map(repr, names))
    return ""

  @property
  def by_hand(self) -> bool:
    """Returns whether the user has to fetch the files."""
    # The hub is not asked which files match a pattern.
    has_patterns = any("*" in file.path for file in self.files(self.options))
    return has_patterns or bool(self.access)

  @property
  def how_to_get(self) -> str:
    """Instructions for fetching the files by hand."""
    note = f"{self.access}, then " if self.access else ""
    return (
      f"{note}hf download {self.repo} --repo-type dataset --local-dir DIR,"
      " and give manual_dir=DIR"
    )


def text(record: Mapping[str, Any], *columns: str) -> str:
  """Returns the text of the first of the columns that a row has.

  Raises:
    BadRow: the row has none of them, or its value is not a text.
  """
  for column in columns:
    value = record.get(column)
    if value is None:
      continue
    if not isinstance(value, str):
      raise BadRow(f"{column} is {errors.kind(value)}, not a string")
    return value
  raise BadRow(f"no {' or '.join(columns)}")


def parse_json(text: str, column: str) -> Any:
  """Returns the value of a column's JSON text.

  Raises:
    BadRow: the text is not JSON.
  """
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise BadRow(f"{column} is not JSON ({error})") from error
