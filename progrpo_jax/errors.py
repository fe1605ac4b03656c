"""The errors of the user, told apart from the errors of the program."""

from collections.abc import Iterator
import contextlib
import difflib
import traceback

# What is not the user's own: this package, Python and what was installed.
_PACKAGE, _LIBRARY = (
    file.rpartition("/")[0] + "/" for file in (__file__, traceback.__file__))


class InputError(ValueError):
  """Bad input of the user: the CLI prints the message alone and exits 2."""


class RunError(RuntimeError):
  """A run cannot go on; the command line prints the message and exits 1."""


class Diverged(RunError):
  """Too many updates in a row changed nothing."""


class Preempted(Exception):
  """The run was asked to stop; the state of its last step is to be saved."""


@contextlib.contextmanager
def of_user(what: str) -> Iterator[None]:
  """Around a call of the user's own code: what it raises is theirs to mend.

  Args:
    what: names the code, in front of what went wrong.

  Raises:
    InputError: the code raised; the message has the line of the user's own
      file that it came from, and the name nearest to one that was not there.
  """
  try:
    yield
  except (InputError, RunError):
    raise
  except (Exception, SystemExit) as e:
    raise InputError(f"{what}: {_said(e)}") from e


def _said(error: BaseException) -> str:
  """Line, kind and words of an error of the user's own code, in one line."""
  said = " ".join(str(error).split()) or type(error).__name__
  if isinstance(error, SyntaxError) and error.filename:
    return f"{error.filename}, line {error.lineno}: {said}"
  theirs = [
      frame for frame in traceback.extract_tb(error.__traceback__)
      if not frame.filename.startswith(("<", _PACKAGE, _LIBRARY))
      and "-packages/" not in frame.filename]
  if not theirs:
    return f"{type(error).__name__}: {said}{_nearest(error)}"
  file, line, _, source = theirs[-1]
  if isinstance(error, ValueError) and source.startswith("raise "):
    return said  # it refuses in words of its own
  return (
      f"{file}, line {line}: {type(error).__name__}: {said}{_nearest(error)}")


def _nearest(error: BaseException) -> str:
  """A hint at the attribute that was meant."""
  if not isinstance(error, AttributeError) or error.name is None:
    return ""
  known = [n for n in dir(error.obj) if not n.startswith("_")]
  close = difflib.get_close_matches(error.name, known, n=1)
  return f"; did you mean {close[0]!r}?" if close else ""
