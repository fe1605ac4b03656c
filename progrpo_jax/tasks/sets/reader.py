"""Builds a published set: finds its files, reads, checks, compares, reports.

Every row is checked; bad ones are written aside with their number and the
reason, and too many are an error. What is left out on purpose (another
subset, no ground truth, a repeated question) is counted, not an error. From
train goes what is a near-duplicate of a problem that it will be evaluated on
(see `overlap`). Beside the data lies `report.json`, which says all that.

No checksum of these files is known here. That of a download is noted in
`<data_dir>/checksums.json` when it is first seen, unverified, and a download
that differs from it is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import inspect
import json
from typing import Any, Protocol

from etils import epath
import tensorflow_datasets as tfds

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import serving
from progrpo_jax.tasks.sets import builder, files, overlap, schema
from progrpo_jax.tasks.sets import rejects as rejects_lib

HUB = "https://huggingface.co/datasets"
VERSION = "1.1.0"
_LISTED = 1000  # near-duplicates that a report names one by one


class Questions(Protocol):
  """An evaluation set whose near-duplicates train leaves out."""

  task: str
  name: str

  def __len__(self) -> int:
    """Returns the number of questions."""

  def question(self, index: int) -> str:
    """Returns a question without what a template adds."""


@dataclasses.dataclass(frozen=True)
class Found:
  """A file to read: at `path`, or to download from `url`."""

  split: str
  name: str
  path: str = ""
  url: str = ""
  sha256: str = ""


def find(
    published: schema.Set,
    options: Mapping[str, Any],
    manual_dir: str | None,
    revision: str,
) -> tuple[Found, ...]:
  """Returns the files of a set, those at hand with their checksums."""
  found = []
  for file in published.files(options):
    if manual_dir is None:
      if published.by_hand:
        raise InputError(
            f"{published.name} is not downloaded by itself:"
            f" {published.how_to_get}")
      place = f"{HUB}/{published.repo}/resolve/{revision}/{file.path}"
      url = file.url or place
      found.append(Found(file.split, file.path, url=url))
    else:
      found += _at_hand(published, file, manual_dir)
  return tuple(found)


def _at_hand(
    published: schema.Set, file: schema.File, manual_dir: str
) -> list[Found]:
  """Returns the files of one entry that lie in a folder."""
  top = epath.Path(manual_dir).expanduser()
  paths = sorted(top.glob(file.path)) if "*" in file.path else [top / file.path]
  paths = [path for path in paths if path.exists()]
  if not paths:
    raise InputError(
        f"{published.name}: no file {file.path} in {top}; to get it:"
        f" {published.how_to_get}")
  return [
      Found(file.split, str(path.relative_to(top)), str(path),
            sha256=files.sha256(path))
      for path in paths]


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """What a build depends on; its name is made from a digest of it."""

  name: str = ""
  published: schema.Set | None = None
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  found: tuple[Found, ...] = ()
  held_out: float = 0.0
  others: Sequence[Questions] = ()
  ngram: int = 0
  overlap_share: float = 0.0
  max_bad_share: float = 0.0
  max_chars: tuple[int, int] = (0, 0)
  data_dir: str = ""

  def __post_init__(self):
    parts = {
        "set": [self.published.name, self.published.verifier],
        "options": self.options,
        "files": [[f.split, f.name, f.url, f.sha256] for f in self.found],
        "held_out": self.held_out,
        "others": [other.name for other in self.others],
        "overlap": [self.ngram, self.overlap_share],
        "limits": [self.max_bad_share, *self.max_chars],
    }
    self.name = f"{self.published.name}-{builder.digest(parts)}"
    self.version = VERSION


class Published(tfds.core.GeneratorBasedBuilder):
  """Reads the files of a set; validation first, which train leaves out."""

  VERSION = tfds.core.Version(VERSION)

  def _info(self) -> tfds.core.DatasetInfo:
    return builder.info(self, "question", "reference", "meta", "asks")

  def _split_generators(self, manager) -> dict[str, Iterator]:
    config = self.builder_config
    found = [_download(file, manager, config) for file in config.found]
    reader = _Reader(config, found, self.data_path)
    return {
        split: self._generate_examples(reader.problems(split))
        for split in sorted(config.published.splits, reverse=True)
    }

  def _generate_examples(self, problems):
    for index, problem in enumerate(problems):
      yield index, {
          "question": problem.question,
          "reference": json.dumps(problem.reference),
          "meta": json.dumps(problem.meta),
          "asks": json.dumps(problem.asks),
          "demonstrations": list(problem.demonstrations),
      }


def _download(file: Found, manager: Any, config: Config) -> Found:
  """Returns a file with its path and checksum, downloaded if need be."""
  if file.path:
    return file
  try:
    path = epath.Path(manager.download(file.url))
  except Exception as error:
    raise InputError(
        f"{config.published.name}: cannot download {file.url}"
        f" ({serving.describe(error)}); or by hand:"
        f" {config.published.how_to_get}"
    ) from error
  checksum = files.sha256(path)
  noted = epath.Path(config.data_dir).expanduser() / "checksums.json"
  known = json.loads(noted.read_text()) if noted.exists() else {}
  if known.setdefault(file.url, checksum) != checksum:
    raise InputError(
        f"{file.url} has changed: its sha256 is {checksum}, and was"
        f" {known[file.url]} when first seen. Name a revision, or remove it"
        f" from {noted} if the change is meant"
    )
  noted.write_text(json.dumps(known, indent=2, sort_keys=True))
  return dataclasses.replace(file, path=str(path), sha256=checksum)


class _Reader:
  """Turns files into the problems of a split and keeps the accounts."""

  def __init__(self, config: Config, found: list[Found], folder: epath.Path):
    self._config = config
    self._found = found
    self._folder = folder
    self._check = _checker(config.published.verifier)
    own = any(file.split == "validation" for file in found)
    self._held_out = None if own else config.held_out
    if not own and not 0 < config.held_out < 1:
      raise InputError(
          "validation_share must lie between 0 and 1, not"
          f" {config.held_out}")
    # In the order of the builder's splits, which TFDS keeps.
    self._index = overlap.Index(config.ngram or 1, config.overlap_share)
    self._report: dict[str, Any] = {
        "set": config.published.name,
        "options": config.options,
        "files": [
            {"path": f.name, "url": f.url, "sha256": f.sha256,
             "checksum": "as found, not verified"} for f in found],
        "near_duplicates": {
            "ngram": config.ngram, "share": config.overlap_share,
            "against": [other.name for other in config.others]},
        "splits": {},
    }
    for other in config.others:
      for number in range(len(other)):
        self._index.add(other.question(number), f"{other.task}:{number}")

  def problems(self, split: str) -> Iterator[schema.Problem]:
    """Yields the problems of a split, then writes the report."""
    account = {"rows": 0, "bad": 0, "left_out": {}, "near_duplicates": []}
    seen: set[bytes] = set()
    compares = self._config.ngram > 0
    for number, problem in self._read(split, account):
      key = _digest(problem.question)
      if key in seen:
        _count(account, "the question is there already")
        continue
      seen.add(key)
      name = f"{self._config.published.name}:{account['rows']}"
      if compares and split == "validation":
        self._index.add(problem.question, name)
      elif compares and (match := self._index.match(problem.question)):
        account["near_duplicates"].append(
            {"row": number, "of": match.name, "share": round(match.share, 4),
             "question": problem.question[:80]})
        continue
      account["rows"] += 1
      yield problem
    self._finish(split, account)

  def _read(
      self, split: str, account: dict
  ) -> Iterator[tuple[str, schema.Problem]]:
    """Yields the good problems of a split's files with their places."""
    has_own = {file.split for file in self._found}
    wanted = split if split in has_own else "train"
    for file in (f for f in self._found if f.split == wanted):
      unit = files.unit(file.name)
      rejects = rejects_lib.Rejects(
          file.path, f"{self._config.published.name}.{_flat(file.name)}",
          self._config.data_dir, self._config.max_bad_share, unit)
      total = 0
      for number, record, reason in files.read(file.path, file.name):
        if not reason and not total and not len(rejects):
          self._check_columns(file, unit, number, record)
        problem = None
        if not reason:
          problem, reason = self._make(record, account)
        if reason:
          rejects.add(number, reason, json.dumps(record, default=str))
          continue
        total += 1
        if problem is not None and self._belongs(problem, split):
          yield f"{file.name} {unit} {number}", problem
      rejects.close(total)
      account["bad"] += len(rejects)

  def _check_columns(
      self, file: Found, unit: str, number: int, record: dict[str, Any]
  ) -> None:
    """Raises InputError where a file's first row lacks a column."""
    missing = self._config.published.missing(record)
    if missing:
      has = ", ".join(map(str, record)) or "none"
      raise InputError(
          f"{file.path}, {unit} {number}: no column {missing} (columns:"
          f" {has})")

  def _make(
      self, record: dict[str, Any], account: dict
  ) -> tuple[schema.Problem | None, str]:
    """Returns a problem and "", or None and why the row is bad, if it is."""
    missing = self._config.published.missing(record)
    if missing:
      return None, f"no column {missing}"
    try:
      problem = self._config.published.row(record, self._config.options)
      self._check_problem(problem)
    except schema.LeftOut as error:
      _count(account, str(error))
      return None, ""
    except (schema.BadRow, InputError) as error:
      return None, str(error)
    return problem, ""

  def _check_problem(self, problem: schema.Problem) -> None:
    """Raises schema.BadRow or InputError for what cannot be a problem."""
    longest, largest = self._config.max_chars
    if not problem.question.strip():
      raise schema.BadRow("the question is empty")
    if len(problem.question) > longest:
      raise schema.BadRow(
          f"the question has {len(problem.question)} characters, more than"
          f" max_prompt_chars={longest}")
    if problem.reference in (None, "", [], {}):
      raise schema.BadRow("there is no answer")
    try:
      size = len(json.dumps([problem.reference, problem.meta]))
      "".join((problem.question, *problem.demonstrations)).encode()
    except (TypeError, ValueError, RecursionError) as error:
      raise schema.BadRow(f"it cannot be written ({error})") from error
    if size > largest:
      raise schema.BadRow(
          f"the reference has {size} characters, more than"
          f" max_reference_chars={largest}")
    if self._check is not None:
      self._check(problem.reference)

  def _belongs(self, problem: schema.Problem, split: str) -> bool:
    """Says on which side of a split by hash a problem is."""
    if self._held_out is None:
      return True
    place = int.from_bytes(_digest(problem.question)[:8], "big") / 2**64
    return (place < self._held_out) == (split == "validation")

  def _finish(self, split: str, account: dict) -> None:
    """Writes the report, with what is known so far."""
    if not account["rows"]:
      raise InputError(
          f"{self._config.published.name}: no rows are left for the split"
          f" {split!r} ({account['bad']} bad, left out {account['left_out']},"
          f" {len(account['near_duplicates'])} near-duplicates)")
    listed = account["near_duplicates"]
    account["num_near_duplicates"] = len(listed)
    account["near_duplicates"] = listed[:_LISTED]
    self._report["splits"][split] = account
    text = json.dumps(self._report, indent=2, default=builder.plain)
    (self._folder / "report.json").write_text(text + "\n")


def _checker(verifier: str) -> Callable[[object], None] | None:
  """Returns the `check_reference` of a verifier's module, if it has one."""
  score = serving.resolve(verifier)
  return getattr(inspect.getmodule(score), "check_reference", None)


def _count(account: dict, reason: str) -> None:
  """Counts a row that is left out."""
  account["left_out"][reason] = account["left_out"].get(reason, 0) + 1


def _digest(text: str) -> bytes:
  """Returns a hash that no process or host changes."""
  return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _flat(name: str) -> str:
  """Returns a path as the name of one file."""
  return name.replace("/", "_")
