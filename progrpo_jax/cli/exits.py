"""Exit codes and error messages of commands.

Bad input is reported as one line on stderr with code 2, a run that had to give
up as one line with code 1. Any other error is a fault of the program and keeps
its traceback.
"""

from collections.abc import Callable, Sequence
import errno
import os
import resource
import sys

from progrpo_jax import errors, places

DONE, GAVE_UP, BAD_INPUT = 0, 1, 2
# A shell's exit code for a command that Ctrl-C ended.
_INTERRUPTED = 130
# Errors that a wrong path causes, rather than the program or the machine.
_PATH_ERRORS = (
  errno.EACCES,
  errno.EEXIST,
  errno.EISDIR,
  errno.ELOOP,
  errno.ENAMETOOLONG,
  errno.ENOENT,
  errno.ENOTDIR,
  errno.ENOTEMPTY,
  errno.ENXIO,
  errno.EPERM,
  errno.EROFS,
)


def run(
  name: str, command: Callable[[list[str]], int], argv: Sequence[str]
) -> int:
  """Runs a command; returns the exit code.

  Args:
    name: name of the command, the prefix of messages.
    command: function of the arguments that returns an exit code.
    argv: arguments of the command.
  """
  code, message = BAD_INPUT, ""
  try:
    return command(list(argv))
  except errors.InputError as e:
    message = str(e)
    # A file that could not be opened for want of descriptors is not bad input.
    if places.lacks_files(e):
      code, message = GAVE_UP, f"stopped: {_few_files()}"
  except errors.RunError as e:
    code, message = GAVE_UP, f"stopped: {e}"
  except SystemExit as e:  # raised by --help
    # Raised by rich in place of the error.
    if isinstance(e.__context__, BrokenPipeError):
      _close_stdout()
      return DONE
    return e.code if isinstance(e.code, int) else DONE
  except BrokenPipeError:
    _close_stdout()
    return DONE
  except KeyboardInterrupt:
    return _INTERRUPTED
  except Exception as e:
    # Errors of libraries that the machine or a path of the user caused.
    if places.no_room(e):
      code, message = GAVE_UP, f"stopped: {places.no_room(e)} ({e})"
    elif places.lacks_files(e):
      code, message = GAVE_UP, f"stopped: {_few_files()}"
    elif _concerns_argument(e, argv):
      message = f"{os.fsdecode(e.filename)}: {e.strerror}"
    else:
      raise
  # One line, whatever a library put into its message.
  print(f"{name}: {' '.join(message.split())}", file=sys.stderr)
  return code


def _few_files() -> str:
  """Returns the message for too few file descriptors."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  more = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
  return (
    f"this process may open {soft} files, which are too few; raise the limit "
    f"with `ulimit -n 4096` (the highest limit here is {more})"
  )


def _concerns_argument(error: Exception, argv: Sequence[str]) -> bool:
  """Returns whether an error concerns a path in the command line."""
  if (
    not isinstance(error, OSError)
    or error.errno not in _PATH_ERRORS
    or (not isinstance(error.filename, str | bytes | os.PathLike))
  ):
    return False
  place = os.path.abspath(os.fsdecode(error.filename))
  for word in argv:
    value = word.partition("=")[2] if word.startswith("-") else word
    if not value or "\0" in value:
      continue
    named = os.path.abspath(os.path.expanduser(value))
    # The file itself, one below it, or a directory above it.
    if os.path.commonpath([named, place]) in (named, place):
      return True
  return False


def _close_stdout() -> None:
  """Redirects stdout to the null device.

  Python flushes stdout when it ends, and would fail again on the closed pipe.
  """
  try:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except (OSError, ValueError):  # stdout was replaced by a Python object
    pass
