"""What a published data set is, and what it makes of a row.

A `Set` says which files there are, which columns, and how a row of a file
becomes a `Problem`. How files are read, checked and built is in `reader`, the
options that every set has in `published`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

SPLITS = ("validation", "train")  # in the order in which they are built


class BadRow(ValueError):
  """A row that does not hold what the set promises; it is written aside."""


class LeftOut(ValueError):
  """A row that is not wanted; the message is the reason it is counted by."""


@dataclasses.dataclass(frozen=True)
class Problem:
  """What a set makes of a row.

  Attributes:
    question: the problem without any instruction on how to answer.
    reference: what the verifier compares with, JSON-able.
    meta: the verifier's further arguments and the problem's rating, see
      `base.Row`, JSON-able.
    demonstrations: completions that score 1.
    asks: texts by name that a template may have beside {question}.
  """

  question: str
  reference: object
  meta: dict[str, Any] = dataclasses.field(default_factory=dict)
  demonstrations: tuple[str, ...] = ()
  asks: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class File:
  """A published file.

  Attributes:
    split: "train" or "validation".
    path: its path in the repository and below manual_dir; with a * in it, all
      files of that form, which are read from manual_dir only.
    url: where it is to be had, if not at the hub under `path`.
  """

  split: str
  path: str
  url: str = ""


@dataclasses.dataclass(frozen=True)
class Set:
  """A published set.

  Attributes:
    name: the task's name.
    domain: "mathematics", "code", "science" or "instructions".
    repo: its repository on the hub.
    verifier: "module:function".
    files: options -> its files.
    columns: those that a row must have; a tuple gives alternative names.
    row: (record, options) -> Problem; raises BadRow or LeftOut.
    templates: name -> prompt with {question} in it, the usual one first.
    meta: verifier arguments of all rows, which `verifier_options` may change.
    options: the set's own options with their defaults; an option `seed` is
      the task's.
    against: evaluation sets whose near-duplicates train leaves out.
    access: what else is needed to get the files, for people.
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
    """Its splits: without files for train it is for evaluation only."""
    names = {file.split for file in self.files(self.options)}
    return SPLITS if "train" in names else ("validation",)

  @property
  def has_test(self) -> bool:
    """Says whether its validation is published, and not held out here."""
    files = self.files(self.options)
    return any(file.split == "validation" for file in files)

  def missing(self, record: Mapping[str, Any]) -> str:
    """Names the column that a row lacks, "" if it has all."""
    for column in self.columns:
      names = (column,) if isinstance(column, str) else column
      if not any(name in record for name in names):
        return " or ".join(map(repr, names))
    return ""

  @property
  def by_hand(self) -> bool:
    """Says whether the files have to be fetched by the user."""
    unnamed = any("*" in file.path for file in self.files(self.options))
    return unnamed or bool(self.access)

  @property
  def how_to_get(self) -> str:
    """Says how to fetch the files by hand."""
    note = f"{self.access}, then " if self.access else ""
    return (
        f"{note}hf download {self.repo} --repo-type dataset --local-dir DIR,"
        " and give manual_dir=DIR")


def text(record: Mapping[str, Any], *columns: str) -> str:
  """Returns the text of the first of the columns that there is.

  Raises:
    BadRow: there is none, or it is no text.
  """
  for column in columns:
    value = record.get(column)
    if value is None:
      continue
    if not isinstance(value, str):
      raise BadRow(f"{column} is a {type(value).__name__}, not a string")
    return value
  raise BadRow(f"no {' or '.join(columns)}")
