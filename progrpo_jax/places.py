"""Files on this machine or in a gs:// bucket: their paths, and whole writes.

This package reaches buckets through `epath`, which uses gcsfs; Orbax reaches
them through TensorStore and google-cloud-storage. A bucket is not a file
system: objects are replaced whole, cannot be appended to or renamed, and a
directory is only a common prefix of names.
"""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import stat
import tempfile
from typing import Any

from etils import epath
import fsspec

from progrpo_jax import errors

# gcsfs caches listings forever by default, and would not see the checkpoints
# that TensorStore writes, nor files of other processes.
for _protocol in ("gs", "gcs"):
  fsspec.config.conf.setdefault(_protocol, {})["use_listings_cache"] = False
# It also logs a traceback of each error that it raises.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)

# Errors that say that there is no such file. Every other error of a bucket's
# client means that the place is out of reach, and so do the numbers below of a
# disk's errors: whether the file is there is not known.
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_AWAY = frozenset(
  (
    errno.EIO,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENETRESET,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ESHUTDOWN,  # as Lustre says it to a client that it has evicted
  )
)

# Errors of `flock` where the file system has no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)

# End of the name of a file that is being written, or whose writer was killed.
PART = ".part"

# (pattern of a client's error message, advice to the user).
_ADVICE = (
  (
    r"^Forbidden|^403\b|, 403$|PERMISSION_DENIED",
    "whoever runs this needs the roles roles/storage.objectAdmin and "
    "roles/storage.legacyBucketReader on the bucket",
  ),
  (
    r"^401\b|, 401$|UNAUTHENTICATED|credentials",
    "log in with `gcloud auth application-default login`",
  ),
  (r"^404\b|NOT_FOUND|does not exist", "is it spelled right?"),
)


def is_remote(path: str | os.PathLike) -> bool:
  """Returns whether the path is a URL, not a path on this machine."""
  return "://" in os.fspath(path)


def argument(name: str, value: object) -> str:
  """Returns the text of a path that Python code gave as an argument.

  A local one that begins with ~ is in the user's home, as in a shell.

  Args:
    name: name of the argument, for messages.
    value: the argument.

  Raises:
    InputError: it is no path.
  """
  if not isinstance(value, str | os.PathLike):
    raise errors.InputError(f"{name} = {value!r:.100}: must be a path")
  path = os.fspath(value)
  return path if is_remote(path) else os.path.expanduser(path)


def fixed(path: str | os.PathLike) -> epath.Path:
  """Returns a place that stays where it is when the working directory changes.

  Raises:
    InputError, RunError: as for `place`.
  """
  return place(path if is_remote(path) else os.path.abspath(path))


def place(path: str | os.PathLike) -> epath.Path:
  """Returns a local or remote path; it need not exist.

  Raises:
    InputError: the kind of path is unsupported, its client is not installed,
      or the user lacks access.
    RunError: the path cannot be reached at the moment.
  """
  path = os.fspath(path)
  if not is_remote(path):
    return epath.Path(path)
  kind = path.partition("://")[0]
  if kind != "gs":
    raise errors.InputError(
      f"{path}: '{kind}://' is no kind of place; use gs:// or a local path"
    )
  remote = epath.Path(path)
  with reaching(path):
    # The first use imports the client and opens a connection: errors of both
    # surface here.
    remote.exists()
  return remote


def check_bucket(path: str | os.PathLike) -> None:
  """Checks that the bucket of a remote path exists.

  Writing would not reveal a misspelled name, because gcsfs creates missing
  buckets.

  Raises:
    InputError: the bucket does not exist, or as for `place`.
    RunError: as for `place`.
  """
  if not is_remote(path):
    return
  place(path)
  scheme, _, rest = os.fspath(path).partition("://")
  bucket = f"{scheme}://{rest.partition('/')[0]}"
  with reaching(path):
    exists = epath.Path(bucket).exists()
  if not exists:
    raise errors.InputError(
      f"{path}: there is no {bucket}, or no right to see it; make it with "
      f"`gcloud storage buckets create {bucket} --location=REGION`, or ask "
      "for the role roles/storage.legacyBucketReader on it"
    )


def check_directory(path: str | os.PathLike) -> None:
  """Checks that a directory can be written or created, without creating it.

  Called before hours of work whose result goes there.

  Raises:
    InputError, RunError: as for `check_bucket`.
    OSError: the directory cannot be written or created.
  """
  if is_remote(path):
    check_bucket(path)
    return
  # The nearest existing parent decides: the path would be created below it.
  parent = os.path.abspath(path)
  while True:
    try:
      mode = os.stat(parent).st_mode
      break
    except FileNotFoundError:
      parent = os.path.dirname(parent)
  for is_obstacle, number in (
    (not stat.S_ISDIR(mode), errno.ENOTDIR),
    (not os.access(parent, os.W_OK), errno.EACCES),
  ):
    if is_obstacle:
      raise OSError(number, os.strerror(number), parent)


def check_output(flag: str, path: str | os.PathLike) -> None:
  """Refuses an output directory that cannot be written, before work begins.

  Args:
    flag: flag of the command line that names it.
    path: directory, which need not exist yet.

  Raises:
    InputError: the directory cannot be written.
  """
  try:
    check_directory(path)
  except OSError as e:
    raise unwritable(f"to {flag} {path}", e) from e


def make_directory(path: str | os.PathLike) -> epath.Path:
  """Creates a directory to write to; in a bucket only checks the bucket.

  Returns:
    The path.

  Raises:
    InputError, RunError: as for `check_bucket`.
    OSError: the local directory cannot be created.
  """
  check_bucket(path)
  path = epath.Path(path)
  if not is_remote(path):
    path.mkdir(parents=True, exist_ok=True)
  return path


def unwritable(
  what: str, error: OSError
) -> errors.InputError | errors.RunError:
  """Returns the error for a place that cannot be written.

  Args:
    what: the place with its preposition, after "cannot write".
    error: why it cannot be written.

  Returns:
    A RunError where the disk is out of reach for the moment; else an
    InputError, since somebody has to change something.
  """
  if error.errno in _AWAY:
    return errors.RunError(
      f"cannot write {what}: {error}; the same command tries again"
    )
  return errors.InputError(f"cannot write {what}: {error}")


def no_room(error: BaseException | None) -> str:
  """Returns why there is no room to write, if an error means that.

  Args:
    error: error, which may have a cause that means it.

  Returns:
    A clause; "" for other errors.
  """
  if _says(error, errno.ENOSPC, errno.EDQUOT):
    return "no space is left on the disk"
  if _says(error, errno.EFBIG):
    return (
      "a file may not be so large (a limit of this process, see `ulimit -f`, "
      "or of the file system)"
    )
  return ""


def lacks_files(error: BaseException | None) -> bool:
  """Returns whether an error, or its cause, is that too many files are open."""
  return _says(error, errno.EMFILE, errno.ENFILE)


def _says(error: BaseException | None, *numbers: int) -> bool:
  """Returns whether an error, or a cause of it, has one of some error numbers.

  Orbax passes on the system's message as text without the number, so the text
  is searched too.
  """
  while error is not None:
    if getattr(error, "errno", None) in numbers or any(
      os.strerror(number) in str(error) for number in numbers
    ):
      return True
    error = error.__cause__ or error.__context__
  return False


def copy(path: epath.Path, to: epath.Path) -> None:
  """Copies a file, or a directory recursively; overwrites existing files."""
  if path.is_dir():
    to.mkdir(parents=True, exist_ok=True)
    for inner in list(path.iterdir()):
      copy(inner, to / inner.name)
  else:
    path.copy(to, overwrite=True)


def write(path: str | os.PathLike, content: bytes | str) -> None:
  """Writes a file whole or not at all, and makes its directory.

  Whoever reads it, and whoever finds it after a kill or a power failure, finds
  the old content or the new one.

  Args:
    path: local path or URL. A link stays one, and a pipe or device is written
      to.
    content: bytes, or text for UTF-8.

  Raises:
    OSError: it cannot be written; what was there before is whole.
  """
  path = epath.Path(path)
  content = content.encode() if isinstance(content, str) else content
  path.parent.mkdir(parents=True, exist_ok=True)
  # A bucket replaces an object whole; what is no file cannot be replaced.
  if is_remote(path) or (os.path.exists(path) and not os.path.isfile(path)):
    path.write_bytes(content)
    return
  file = os.path.realpath(path)
  folder, name = os.path.split(file)
  # Beside the file: another folder may be on another disk.
  part = os.path.join(folder, f".{name}.{os.getpid()}{PART}")
  try:
    with open(part, "wb") as opened:
      opened.write(content)
      opened.flush()
      # Before the renaming, which the disk may otherwise know of first.
      os.fsync(opened.fileno())
    os.replace(part, file)
  except OSError as e:
    if e.filename is None:
      raise
    raise OSError(e.errno, e.strerror, os.fspath(path)) from e
  finally:
    with contextlib.suppress(OSError):
      os.unlink(part)


def write_json(path: str | os.PathLike, content: Any, **options) -> None:
  """Writes an indented JSON file as `write` does.

  Args:
    path: local path or URL.
    content: value of dicts, lists, texts, numbers, bools and None.
    **options: options of `json.dumps`, such as `sort_keys`.

  Raises:
    OSError: the file cannot be written, see `write`.
  """
  write(path, json.dumps(content, indent=2, **options) + "\n")


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Reads the object in a JSON file.

  Raises:
    InputError: the file cannot be read, is not JSON, or is not an object.
    RunError: it is out of reach for the moment.
  """
  try:
    with reading(path):
      text = epath.Path(path).read_bytes()
  except OSError as e:
    raise errors.InputError(f"{path}: cannot be read: {e}") from e
  try:
    content = json.loads(text)
  # Python also refuses integers of 5,000 digits (ValueError) and 100,000
  # nested brackets (RecursionError).
  except (ValueError, RecursionError) as e:
    raise errors.InputError(f"{path}: not JSON: {e}") from e
  if not isinstance(content, dict):
    raise errors.InputError(f"{path}: not a JSON object")
  return content


def has_locks(folder: str | os.PathLike) -> bool:
  """Returns whether files of a directory can be locked with `flock`.

  An object store has no locks, nor have some file systems, such as Lustre
  without `-o flock`.

  Args:
    folder: directory that exists, or URL.

  Raises:
    OSError: the directory cannot be written.
  """
  if is_remote(folder):
    return False
  # A file of its own: whoever finds the lock's file must not find it empty.
  with tempfile.TemporaryFile(dir=folder) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
      if e.errno in _NO_LOCKS:
        return False
      raise
  return True


def sync(path: str | os.PathLike) -> None:
  """Flushes a local file or directory to the disk."""
  if is_remote(path):
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def reaching(path: str | os.PathLike) -> Iterator[None]:
  """Context that turns errors of a remote path into errors of one line.

  It catches every exception, since each client has its own classes. Errors of
  local paths pass unchanged.

  Raises:
    InputError: the user can mend the cause; the message says how.
    RunError: the cause is unknown or temporary.
  """
  try:
    yield
  except (errors.InputError, errors.RunError):
    raise
  except Exception as e:
    if not is_remote(path):
      raise
    reason = errors.one_line(e)
    message = f"{os.fspath(path)}: cannot be reached: {reason}"
    # epath imports gcsfs at its first use.
    if isinstance(e, ImportError):
      raise errors.InputError(
        f"{message}; run `{errors.install('gcs')}`"
      ) from e
    for pattern, advice in _ADVICE:
      if re.search(pattern, reason):
        raise errors.InputError(f"{message}; {advice}") from e
    raise errors.RunError(message) from e


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
  """Context that reads a file; tells a lost one from one that is out of reach.

  Nothing but the reading belongs in it: of a remote path it catches every
  exception, since each client has its own classes.

  Args:
    path: local path or URL, for the message.

  Raises:
    FileNotFoundError, IsADirectoryError, NotADirectoryError: there is no such
      file.
    RunError: the file is out of reach: what is in it, and whether it is there,
      is not known. The client's advice for a start does not apply: a bucket
      refuses what it allowed before when its own services are disturbed.
    OSError: another error of a local path, such as a lack of rights.
  """
  try:
    yield
  except (errors.InputError, errors.RunError, *MISSING):
    raise
  except Exception as e:
    if not is_remote(path) and getattr(e, "errno", None) not in _AWAY:
      raise
    raise errors.RunError(
      f"{os.fspath(path)}: cannot be reached: {errors.one_line(e)}; the same "
      "command tries again"
    ) from e


def stored_checksum(path: str | os.PathLike) -> tuple[int, str] | None:
  """Returns what a bucket says of an object, whose content is not read.

  Args:
    path: local path or URL.

  Returns:
    (size in bytes, CRC-32C in base64); None where there is no such record, as
    on a disk.

  Raises:
    FileNotFoundError: there is no such object.
  """
  if not is_remote(path):
    return None
  system, name = fsspec.core.url_to_fs(os.fspath(path))
  about = system.info(name)
  if not about.get("crc32c"):
    return None
  return int(about["size"]), about["crc32c"]
