"""Builds the data of tasks with TFDS, once, as ArrayRecord.

A build lies in <data_dir>/<builder>/<name>/<version>. The name contains a
digest of everything that the data depends on, so a change of options makes a
new build and equal options share one. TensorFlow is neither needed nor
imported.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import json
import logging as std_logging
import os
from typing import Any

from absl import logging
from etils import epath

from progrpo_jax import errors, places

with errors.of_extra("tfds"):
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core.download import downloader

# Retries of a download. The delay doubles with each, so the 10 retries of TFDS
# take 3.5 minutes to report that there is no network.
_RETRIES = 3


def digest(parts: Any) -> str:
  """Returns 16 hexadecimal digits of the SHA-256 of a tree of plain values."""
  text = json.dumps(parts, sort_keys=True, default=plain)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
  """Converts numpy scalars and sets to JSON values, anything else to text."""
  if isinstance(value, (set, frozenset)):
    return sorted(value)
  return value.item() if hasattr(value, "item") else str(value)


class Info(tfds.core.DatasetInfo):
  """A description that is read from the disk alone."""

  def initialize_from_bucket(self) -> None:
    """Reads nothing.

    TFDS would ask its bucket for a description, which it has of its own data
    sets only, and leave a temporary directory behind each time.
    """


def info(
  builder: tfds.core.DatasetBuilder, *texts: str
) -> tfds.core.DatasetInfo:
  """Returns the TFDS description of a builder of problems.

  Args:
    builder: builder that is described.
    *texts: names of the text features; `demonstrations`, a list of texts, is
      added to them.
  """
  text = tfds.features.Text()
  features = dict.fromkeys(texts, text)
  features["demonstrations"] = tfds.features.Sequence(text)
  return Info(
    builder=builder,
    features=tfds.features.FeaturesDict(features),
    disable_shuffling=True,  # row i is the i-th that was generated
  )


def folder(builder: type, name: str, version: str, data_dir: str) -> epath.Path:
  """Returns the directory of a build, which need not exist yet."""
  return epath.Path(data_dir).expanduser() / builder.name / name / version


def prepare(
  builder: type,
  config: tfds.core.BuilderConfig,
  data_dir: str,
  download: tfds.download.DownloadConfig | None = None,
) -> Any:
  """Builds the data of a config unless it exists, and opens it.

  Args:
    builder: class of the TFDS builder.
    config: configuration of the build.
    data_dir: folder of all builds, local or in a bucket.
    download: settings of TFDS's download manager.

  Returns:
    A read-only TFDS builder of the finished data.
  """
  data_dir = os.path.expanduser(data_dir)
  ready = folder(builder, config.name, str(config.version), data_dir)
  if not ready.exists():
    with lock(data_dir, config.name), _quiet(), _few_retries():
      # A process that waited for the lock finds the data there; TFDS then
      # returns at once.
      writer = builder(
        config=config, data_dir=data_dir, file_format="array_record"
      )
      try:
        writer.download_and_prepare(download_config=download)
      except OSError:
        # TFDS writes elsewhere and renames at the end. Where there are no
        # locks, another process may have finished the same data before.
        if not ready.exists():
          raise
  return tfds.builder_from_directory(ready)


@contextlib.contextmanager
def lock(data_dir: str, name: str) -> Iterator[None]:
  """Lets one process of this machine at a time into the context.

  In a bucket, and on a file system without locks, it lets all in: what they
  write is written whole, and is alike.

  Args:
    data_dir: folder of all builds, local or in a bucket.
    name: name of the set or file that is written; each has a lock of its own.
  """
  if not places.is_remote(data_dir):
    os.makedirs(data_dir, exist_ok=True)
  if not places.has_locks(data_dir):
    yield
    return
  with open(os.path.join(data_dir, f".{name}.lock"), "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
  """Lets TFDS give up on a download within seconds."""
  # TFDS has no option for this, only a module constant.
  before = downloader.MAX_RETRIES
  downloader.MAX_RETRIES = _RETRIES
  try:
    yield
  finally:
    downloader.MAX_RETRIES = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps progress bars and logs of TFDS and its downloads off the terminal.

  Errors are still raised.
  """
  tfds.disable_progress_bar()
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  downloads = std_logging.getLogger("urllib3")
  level = downloads.level
  downloads.setLevel(std_logging.ERROR)
  with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
    try:
      yield
    finally:
      logging.set_verbosity(before)
      downloads.setLevel(level)
