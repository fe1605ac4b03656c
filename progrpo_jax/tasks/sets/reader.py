"""Builds a published set from its files: reads, checks, filters, reports.

Every row is checked. Bad rows are written to a file with their number and the
reason, and too many of them are an error. Rows that are left out on purpose
(another subset, no ground truth, a repeated question) are only counted. Train
leaves out near-duplicates of the problems of the evaluation sets (see
`overlap`). `report.json` beside the data has all these counts.

The publishers give no checksums. The checksum of a download is recorded in
`<data_dir>/checksums.json` on the first download, and a later download that
differs from it is refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import inspect
import json
import os
from typing import Any, Protocol

from etils import epath

from progrpo_jax import errors, places
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import serving
from progrpo_jax.tasks.sets import builder, files, overlap, schema
from progrpo_jax.tasks.sets import rejects as rejects_lib

with errors.of_extra("tfds"):
  import tensorflow_datasets as tfds

HUB = "https://huggingface.co/datasets"
VERSION = "1.1.0"
_LISTED = 1000  # near-duplicates listed in a report


class Questions(Protocol):
  """Evaluation set whose near-duplicates train leaves out."""

  task: str
  name: str

  def __len__(self) -> int:
    """Returns the number of questions."""

  def question(self, index: int) -> str:
    """Returns a question without the text of a template."""


@dataclasses.dataclass(frozen=True)
class Input:
  """File to read, at `path`, or to download from `url`.

  Attributes:
    split: "train" or "validation".
    name: path of the file in the repository or in the manual folder.
    path: path of the file on this machine, "" before the download.
    url: address of a download, "" for a local file.
    sha256: checksum, "" before the download.
  """

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
) -> tuple[Input, ...]:
  """Returns the files of a set; local files have their checksums.

  Args:
    published: the published set.
    options: options of the set.
    manual_dir: folder with the files; None downloads them.
    revision: branch, tag or commit of the hub's repository.

  Raises:
    InputError: a local file does not exist, or the set has to be fetched by
      the user and there is no manual_dir.
  """
  inputs = []
  for file in published.files(options):
    if manual_dir is None:
      if published.by_hand:
        raise InputError(
          f"{published.name} cannot be downloaded automatically:"
          f" {published.how_to_get}"
        )
      hub_url = f"{HUB}/{published.repo}/resolve/{revision}/{file.path}"
      inputs.append(Input(file.split, file.path, url=file.url or hub_url))
    else:
      inputs += _local_inputs(published, file, manual_dir)
  return tuple(inputs)


def _local_inputs(
  published: schema.Set, file: schema.File, manual_dir: str
) -> list[Input]:
  """Returns the files of a folder that match an entry of a set."""
  top = epath.Path(manual_dir).expanduser()
  paths = sorted(top.glob(file.path)) if "*" in file.path else [top / file.path]
  paths = [path for path in paths if path.exists()]
  if not paths:
    raise InputError(
      f"{published.name}: no file {file.path} in {top}; to get it:"
      f" {published.how_to_get}"
    )
  return [
    Input(
      file.split,
      str(path.relative_to(top)),
      str(path),
      sha256=files.sha256(path),
    )
    for path in paths
  ]


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """Everything that a build depends on; its name contains a digest of it.

  Attributes:
    name: name of the build; set from the other attributes.
    published: the published set.
    options: options of the set.
    inputs: files to read.
    held_out: share of the questions held out for validation, used if no input
      belongs to validation.
    evaluation_sets: sets whose near-duplicates train leaves out.
    ngram: words per n-gram; 0 compares nothing.
    overlap_share: share of common n-grams from which texts are
      near-duplicates.
    max_bad_share: largest allowed share of bad rows.
    max_chars: largest allowed number of characters of a question and of a
      reference as JSON.
    data_dir: folder of all builds; not part of the digest.
  """

  name: str = ""
  published: schema.Set | None = None
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  inputs: tuple[Input, ...] = ()
  held_out: float = 0.0
  evaluation_sets: Sequence[Questions] = ()
  ngram: int = 0
  overlap_share: float = 0.0
  max_bad_share: float = 0.0
  max_chars: tuple[int, int] = (0, 0)
  data_dir: str = ""

  def __post_init__(self):
    parts = {
      "set": [self.published.name, self.published.verifier],
      "options": self.options,
      "files": [[f.split, f.name, f.url, f.sha256] for f in self.inputs],
      "held_out": self.held_out,
      "others": [other.name for other in self.evaluation_sets],
      "overlap": [self.ngram, self.overlap_share],
      "limits": [self.max_bad_share, *self.max_chars],
    }
    self.name = f"{self.published.name}-{builder.digest(parts)}"
    self.version = VERSION


class Published(tfds.core.GeneratorBasedBuilder):
  """TFDS builder of a published set."""

  VERSION = tfds.core.Version(VERSION)

  def _info(self) -> tfds.core.DatasetInfo:
    return builder.info(self, "question", "reference", "meta", "asks")

  def _split_generators(self, manager) -> dict[str, Iterator]:
    config = self.builder_config
    inputs = [_download(file, manager, config) for file in config.inputs]
    reader = _Reader(config, inputs, self.data_path)
    # "validation" comes first: its questions must be in the index of
    # near-duplicates before train is compared with it.
    return {
      split: self._generate_examples(reader.problems(split))
      for split in sorted(config.published.splits, reverse=True)
    }

  def _generate_examples(self, problems):
    for index, problem in enumerate(problems):
      yield (
        index,
        {
          "question": problem.question,
          "reference": json.dumps(problem.reference),
          "meta": json.dumps(problem.meta),
          "asks": json.dumps(problem.asks),
          "demonstrations": list(problem.demonstrations),
        },
      )


def _download(file: Input, manager: Any, config: Config) -> Input:
  """Returns a file with its path and checksum; downloads it if necessary.

  Raises:
    InputError: the download fails, its checksum is not the recorded one, or
      the record cannot be read.
  """
  if file.path:
    return file
  try:
    path = epath.Path(manager.download(file.url))
  except Exception as error:
    raise InputError(
      f"{config.published.name}: cannot download {file.url}"
      f" ({serving.describe(error)}); to get it by hand:"
      f" {config.published.how_to_get}"
    ) from error
  checksum = files.sha256(path)
  data_dir = epath.Path(config.data_dir).expanduser()
  record = data_dir / "checksums.json"
  # Builds of other sets, which have locks of their own, write here too.
  with builder.lock(os.fspath(data_dir), "checksums"):
    checksums = places.read_json(record) if record.exists() else {}
    if checksums.setdefault(file.url, checksum) != checksum:
      raise InputError(
        f"{file.url} has changed: its sha256 is {checksum}, and was"
        f" {checksums[file.url]} at the first download. Name a revision, or"
        f" remove the entry from {record} to accept the change"
      )
    places.write_json(record, checksums, sort_keys=True)
  return dataclasses.replace(file, path=str(path), sha256=checksum)


class _Reader:
  """Turns files into the problems of a split and counts what it leaves out.

  Args:
    config: configuration of the build.
    inputs: files on this machine.
    folder: directory of the build, where the report is written.
  """

  def __init__(self, config: Config, inputs: list[Input], folder: epath.Path):
    self._config = config
    self._inputs = inputs
    self._folder = folder
    self._check = _checker(config.published.verifier)
    has_validation = any(file.split == "validation" for file in inputs)
    self._held_out = None if has_validation else config.held_out
    if not has_validation and not 0 < config.held_out < 1:
      raise InputError(
        f"validation_share must lie between 0 and 1, not {config.held_out}"
      )
    self._index = overlap.Index(config.ngram or 1, config.overlap_share)
    for evaluation_set in config.evaluation_sets:
      for number in range(len(evaluation_set)):
        self._index.add(
          evaluation_set.question(number), f"{evaluation_set.task}:{number}"
        )
    self._report: dict[str, Any] = {
      "set": config.published.name,
      "options": config.options,
      "files": [
        {
          "path": f.name,
          "url": f.url,
          "sha256": f.sha256,
          "checksum": "as found, not verified",
        }
        for f in inputs
      ],
      "near_duplicates": {
        "ngram": config.ngram,
        "share": config.overlap_share,
        "against": [other.name for other in config.evaluation_sets],
      },
      "splits": {},
    }

  def problems(self, split: str) -> Iterator[schema.Problem]:
    """Yields the problems of a split, then writes the report.

    Validation must be read before train, which leaves out its
    near-duplicates.
    """
    account = {"rows": 0, "bad": 0, "left_out": {}, "near_duplicates": []}
    seen: set[bytes] = set()
    compares = self._config.ngram > 0
    for number, problem in self._read(split, account):
      key = files.text_digest(problem.question)
      if key in seen:
        _count(account, "repeated question")
        continue
      seen.add(key)
      name = f"{self._config.published.name}:{account['rows']}"
      if compares and split == "validation":
        self._index.add(problem.question, name)
      elif compares and (match := self._index.match(problem.question)):
        account["near_duplicates"].append(
          {
            "row": number,
            "of": match.name,
            "share": round(match.share, 4),
            "question": problem.question[:80],
          }
        )
        continue
      account["rows"] += 1
      yield problem
    self._finish(split, account)

  def _read(
    self, split: str, account: dict
  ) -> Iterator[tuple[str, schema.Problem]]:
    """Yields (place, problem) for the good rows of a split's files.

    The place is the file and the number of the row in it.
    """
    # A set without validation files holds out a part of its train files.
    published_splits = {file.split for file in self._inputs}
    wanted = split if split in published_splits else "train"
    for file in (f for f in self._inputs if f.split == wanted):
      unit = files.unit(file.name)
      rejects = rejects_lib.Rejects(
        file.path,
        f"{self._config.published.name}.{_flat(file.name)}",
        self._config.data_dir,
        self._config.max_bad_share,
        unit,
      )
      num_good = 0
      for number, record, reason in files.read(file.path, file.name):
        # A column missing from the first row means a wrong file, not a bad
        # row.
        if not reason and not num_good and not len(rejects):
          self._check_columns(file, unit, number, record)
        problem = None
        if not reason:
          problem, reason = self._convert(record, account)
        if reason:
          rejects.add(number, reason, json.dumps(record, default=str))
          continue
        num_good += 1
        if problem is not None and self._belongs(problem, split):
          yield f"{file.name} {unit} {number}", problem
      rejects.close(num_good)
      account["bad"] += len(rejects)

  def _check_columns(
    self, file: Input, unit: str, number: int, record: dict[str, Any]
  ) -> None:
    """Raises InputError if a file's first row lacks a column."""
    missing = self._config.published.missing(record)
    if missing:
      columns = ", ".join(map(str, record)) or "none"
      raise InputError(
        f"{file.path}, {unit} {number}: no column {missing} (columns:"
        f" {columns})"
      )

  def _convert(
    self, record: dict[str, Any], account: dict
  ) -> tuple[schema.Problem | None, str]:
    """Converts a row to a problem.

    Returns:
      (problem, "") of a good row, (None, "") of a row left out on purpose,
      which is counted in `account`, and (None, reason) of a bad row.
    """
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
    """Raises schema.BadRow or InputError for an unusable problem."""
    max_question, max_reference = self._config.max_chars
    if not problem.question.strip():
      raise schema.BadRow("the question is empty")
    if len(problem.question) > max_question:
      raise schema.BadRow(
        f"the question has {len(problem.question)} characters, more than"
        f" max_prompt_chars={max_question}"
      )
    if problem.reference in (None, "", [], {}):
      raise schema.BadRow("there is no answer")
    # Everything is stored as JSON or UTF-8, which lone surrogates and some
    # Python values do not fit.
    try:
      size = len(json.dumps([problem.reference, problem.meta]))
      "".join((problem.question, *problem.demonstrations)).encode()
    except (TypeError, ValueError, RecursionError) as error:
      raise schema.BadRow(f"it cannot be written ({error})") from error
    if size > max_reference:
      raise schema.BadRow(
        f"the reference has {size} characters, more than"
        f" max_reference_chars={max_reference}"
      )
    if self._check is not None:
      self._check(problem.reference)

  def _belongs(self, problem: schema.Problem, split: str) -> bool:
    """Returns whether a problem belongs to a split that is drawn by hash."""
    if self._held_out is None:
      return True
    # The first 64 bits of the hash as a fraction, uniform in [0, 1).
    digest = files.text_digest(problem.question)
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return (fraction < self._held_out) == (split == "validation")

  def _finish(self, split: str, account: dict) -> None:
    """Writes the report of all splits that have been read so far."""
    if not account["rows"]:
      raise InputError(
        f"{self._config.published.name}: no rows are left for the split"
        f" {split!r} ({account['bad']} bad, left out {account['left_out']},"
        f" {len(account['near_duplicates'])} near-duplicates)"
      )
    listed = account["near_duplicates"]
    account["num_near_duplicates"] = len(listed)
    account["near_duplicates"] = listed[:_LISTED]
    self._report["splits"][split] = account
    text = json.dumps(self._report, indent=2, default=builder.plain)
    places.write(self._folder / "report.json", text + "\n")


def _checker(verifier: str) -> Callable[[object], None] | None:
  """Returns the `check_reference` of a verifier's module, if it has one."""
  score = serving.resolve(verifier)
  return getattr(inspect.getmodule(score), "check_reference", None)


def _count(account: dict, reason: str) -> None:
  """Counts a row that is left out for a reason."""
  account["left_out"][reason] = account["left_out"].get(reason, 0) + 1


def _flat(name: str) -> str:
  """Returns a path as a file name, with _ in place of /."""
  return name.replace("/", "_")
