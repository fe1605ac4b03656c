"""How the tasks build their data with TFDS, once, as ArrayRecord.

A build lies in <data_dir>/<builder>/<name>/<version>, where the name carries
a digest of all that the data depends on: a change of it builds anew, equal
ones are built once. TensorFlow is not needed and not imported.
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
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

# Tries of a download after the first one. Each waits twice as long as the one
# before it: the 10 of TFDS take 3.5 minutes to find that there is no network.
_RETRIES = 3


def digest(parts: Any) -> str:
  """Returns 16 hexadecimal digits for a tree of plain values."""
  text = json.dumps(parts, sort_keys=True, default=plain)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
  """Turns numpy scalars and sets into what JSON knows; the rest into text."""
  if isinstance(value, (set, frozenset)):
    return sorted(value)
  return value.item() if hasattr(value, "item") else str(value)


def info(
    builder: tfds.core.DatasetBuilder, *texts: str
) -> tfds.core.DatasetInfo:
  """Returns what a builder of problems has in a row: texts, demonstrations."""
  text = tfds.features.Text()
  features = dict.fromkeys(texts, text)
  features["demonstrations"] = tfds.features.Sequence(text)
  return tfds.core.DatasetInfo(
      builder=builder,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,
  )


def folder(builder: type, name: str, version: str, data_dir: str) -> epath.Path:
  """Returns where a build lies, or will lie."""
  return epath.Path(data_dir).expanduser() / builder.name / name / version


def prepare(
    builder: type,
    config: tfds.core.BuilderConfig,
    data_dir: str,
    download: tfds.download.DownloadConfig | None = None,
) -> Any:
  """Returns the builder of a config, its data built by one process once."""
  data_dir = os.path.expanduser(data_dir)
  ready = folder(builder, config.name, str(config.version), data_dir)
  if not ready.exists():
    with _lock(data_dir, config.name), _quiet(), _few_retries():
      made = builder(
          config=config, data_dir=data_dir, file_format="array_record"
      )
      made.download_and_prepare(download_config=download)
  return tfds.builder_from_directory(ready)


@contextlib.contextmanager
def _lock(data_dir: str, name: str) -> Iterator[None]:
  """Lets one process of this machine build; buckets have no such lock."""
  if "://" in data_dir:
    yield
    return
  os.makedirs(data_dir, exist_ok=True)
  with open(os.path.join(data_dir, f".{name}.lock"), "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
  """Lets TFDS give up on a download within seconds; it has no option for it."""
  before = downloader.MAX_RETRIES
  downloader.MAX_RETRIES = _RETRIES
  try:
    yield
  finally:
    downloader.MAX_RETRIES = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps progress bars and notes of TFDS and its downloads off the terminal.

  What a download fails of in the end is raised.
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
