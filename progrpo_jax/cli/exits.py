"""From what went wrong in a command to the code that it exits with.

What the user can mend is one line on stderr and code 2, a run that had to give
up one line and code 1. Anything else is a fault of the program, and keeps its
traceback.
"""

from collections.abc import Callable, Sequence
import errno
import os
import resource
import sys

from progrpo_jax import errors, places

DONE, GAVE_UP, BAD_INPUT = 0, 1, 2
# What a shell says of a command that Ctrl-C ended.
_INTERRUPTED = 130
# What is wrong with a place, rather than with the program or the machine.
_OF_PLACES = (
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.ENXIO, errno.EPERM,
    errno.EROFS)


def run(
    name: str, command: Callable[[list[str]], int], argv: Sequence[str],
) -> int:
  """Runs a command; returns the exit code.

  Args:
    name: of the command, in front of what is said.
    command: takes the arguments, returns its exit code.
    argv: the arguments.
  """
  code, said = BAD_INPUT, ""
  try:
    return command(list(argv))
  except errors.InputError as e:
    said = str(e)
    if places.lacks_files(e):  # what could not be read is in order
      code, said = GAVE_UP, f"stopped: {_few_files()}"
  except errors.RunError as e:
    code, said = GAVE_UP, f"stopped: {e}"
  except SystemExit as e:  # of --help
    return e.code if isinstance(e.code, int) else DONE
  except BrokenPipeError:
    _close_stdout()
    return DONE
  except KeyboardInterrupt:
    return _INTERRUPTED
  except Exception as e:
    if places.is_full(e):
      code, said = GAVE_UP, f"stopped: no space is left on the disk ({e})"
    elif places.lacks_files(e):
      code, said = GAVE_UP, f"stopped: {_few_files()}"
    elif _is_of_named_place(e, argv):
      said = f"{os.fsdecode(e.filename)}: {e.strerror}"
    else:
      raise
  print(f"{name}: {' '.join(said.split())}", file=sys.stderr)
  return code


def _few_files() -> str:
  """What to do about too few file descriptors."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  more = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
  return (
      f"this process may open {soft} files, which are too few; allow more with "
      f"`ulimit -n 4096` (the most that is allowed here is {more})")


def _is_of_named_place(error: Exception, argv: Sequence[str]) -> bool:
  """Whether a file that the command line names cannot be used."""
  if not isinstance(error, OSError) or error.errno not in _OF_PLACES or (
      not isinstance(error.filename, str | bytes | os.PathLike)):
    return False
  place = os.path.abspath(os.fsdecode(error.filename))
  for word in argv:
    value = word.partition("=")[2] if word.startswith("-") else word
    if not value or "\0" in value:
      continue
    named = os.path.abspath(os.path.expanduser(value))
    if os.path.commonpath([named, place]) in (named, place):
      return True
  return False


def _close_stdout() -> None:
  """Lets Python end without a second try to write to a closed pipe."""
  try:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except (OSError, ValueError):  # not a file of the system
    pass
