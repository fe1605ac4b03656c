"""Where files lie: on this machine, or in a bucket that gs:// names.

A bucket is reached through `epath`, which takes gcsfs, and by Orbax through
TensorStore and google-cloud-storage. It is no file system: an object is
replaced whole, nothing is appended to or renamed, and a directory is no more
than the beginning of a name.
"""

from collections.abc import Iterator
import contextlib
import errno
import logging
import os
import re
import stat

from etils import epath
import fsspec

from progrpo_jax import errors

# gcsfs keeps what it has listed and never looks again: it would see neither
# the checkpoints that TensorStore writes beside it nor what others write.
for _protocol in ("gs", "gcs"):
  fsspec.config.conf.setdefault(_protocol, {})["use_listings_cache"] = False
# It also logs the traceback of each error that it raises.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

# What the clients say -> what to do about it.
_ADVICE = (
    (r"^Forbidden|^403\b|, 403$|PERMISSION_DENIED",
     "whoever runs this needs the roles roles/storage.objectAdmin and "
     "roles/storage.legacyBucketReader on the bucket"),
    (r"^401\b|, 401$|UNAUTHENTICATED|credentials",
     "log in with `gcloud auth application-default login`"),
    (r"^404\b|NOT_FOUND|does not exist", "is it spelled right?"),
)


def is_remote(path: str | os.PathLike) -> bool:
  """Whether the path is not of this machine's file system."""
  return "://" in os.fspath(path)


def place(path: str | os.PathLike) -> epath.Path:
  """The path, on this machine or elsewhere; it need not exist.

  Raises:
    InputError: places of its kind cannot be opened here, or not by this user.
    RunError: it cannot be reached at the moment.
  """
  path = os.fspath(path)
  if not is_remote(path):
    return epath.Path(path)
  try:
    found = epath.Path(path)
  except KeyError as e:
    raise errors.InputError(
        f"{path}: {e} is no kind of place; use gs:// or a local path") from e
  with reaching(path):
    found.exists()  # what opens such places is imported at its first use
  return found


def check_bucket(path: str | os.PathLike) -> None:
  """Makes sure that what is written there has a bucket to go to.

  gcsfs would make one of any name, also of one with a slip.

  Raises:
    InputError: there is none; or as for `place`.
    RunError: as for `place`.
  """
  if not is_remote(path):
    return
  place(path)
  scheme, _, rest = os.fspath(path).partition("://")
  bucket = f"{scheme}://{rest.partition('/')[0]}"
  with reaching(path):
    there = epath.Path(bucket).exists()
  if not there:
    raise errors.InputError(
        f"{path}: there is no {bucket}, or no right to see it; make it with "
        f"`gcloud storage buckets create {bucket} --location=REGION`, or ask "
        "for the role roles/storage.legacyBucketReader on it")


def check_directory(path: str | os.PathLike) -> None:
  """Makes sure that a directory can be written, or made, without making it.

  What takes hours should not find out at its end.

  Raises:
    InputError, RunError: as for `check_bucket`.
    OSError: it cannot.
  """
  if is_remote(path):
    check_bucket(path)
    return
  there = os.path.abspath(path)
  while True:
    try:
      mode = os.stat(there).st_mode
      break
    except FileNotFoundError:
      there = os.path.dirname(there)
  for wrong, number in (
      (not stat.S_ISDIR(mode), errno.ENOTDIR),
      (not os.access(there, os.W_OK), errno.EACCES)):
    if wrong:
      raise OSError(number, os.strerror(number), there)


def make_directory(path: str | os.PathLike) -> epath.Path:
  """The path as a directory to write to; in a bucket it needs no making.

  Raises:
    InputError, RunError: as for `check_bucket`.
    OSError: the local directory cannot be made.
  """
  check_bucket(path)
  path = epath.Path(path)
  if not is_remote(path):
    path.mkdir(parents=True, exist_ok=True)
  return path


def is_full(error: BaseException | None) -> bool:
  """Whether an error, or one behind it, says that the disk is full.

  Orbax hands on what its storage library says, as text.
  """
  return _says(error, errno.ENOSPC, errno.EDQUOT)


def lacks_files(error: BaseException | None) -> bool:
  """Whether an error, or one behind it, says that too many files are open."""
  return _says(error, errno.EMFILE, errno.ENFILE)


def _says(error: BaseException | None, *numbers: int) -> bool:
  """Whether an error or one behind it is of these kinds of the system's."""
  while error is not None:
    if getattr(error, "errno", None) in numbers or any(
        os.strerror(number) in str(error) for number in numbers):
      return True
    error = error.__cause__ or error.__context__
  return False


def copy(path: epath.Path, to: epath.Path) -> None:
  """Copies a file or a folder with all in it; what is there is overwritten."""
  if path.is_dir():
    to.mkdir(parents=True, exist_ok=True)
    for inner in list(path.iterdir()):
      copy(inner, to / inner.name)
  else:
    path.copy(to, overwrite=True)


@contextlib.contextmanager
def reaching(path: str | os.PathLike) -> Iterator[None]:
  """Turns what goes wrong at a remote place into one line on it.

  Each kind of place, and each of its clients, has errors of its own.

  Raises:
    InputError: with what to do.
    RunError: there is nothing to do but to try again.
  """
  try:
    yield
  except (errors.InputError, errors.RunError):
    raise
  except Exception as e:
    if not is_remote(path):
      raise
    said = " ".join(str(e).split()) or type(e).__name__
    message = f"{os.fspath(path)}: cannot be reached: {said}"
    if isinstance(e, ImportError):
      raise errors.InputError(
          f"{message}; run `pip install 'progrpo_jax[gcs]'`") from e
    for sign, advice in _ADVICE:
      if re.search(sign, said):
        raise errors.InputError(f"{message}; {advice}") from e
    raise errors.RunError(message) from e
