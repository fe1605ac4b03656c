"""Errors that are reported to the user without a traceback.

Other exceptions are bugs of the program and keep their traceback.
"""

from collections.abc import Iterable, Iterator
import contextlib
import difflib
import traceback

# Directories of this package and of Python's standard library: frames in them
# are not the user's code.
_PACKAGE, _LIBRARY = (
  file.rpartition("/")[0] + "/" for file in (__file__, traceback.__file__)
)

# Extras of this package that messages tell the user to install, keys of
# `extras_require` in setup.py.
EXTRAS = (
  "aot",
  "gcs",
  "gguf",
  "language",
  "logic",
  "logic-without-solver",
  "notebooks",
  "tfds",
  "trackio",
  "wandb",
)


# Similarity above which a name is proposed for an unknown one. At a half, words
# that share a few letters count, as "report" does for "memory".
_CLOSE = 0.6


class InputError(ValueError):
  """Bad input from the user; the CLI prints only the message and exits 2."""


class RunError(RuntimeError):
  """A run cannot continue; the CLI prints only the message and exits 1."""


class Diverged(RunError):
  """Training has come to nothing: updates left the parameters unchanged."""


class Preempted(Exception):
  """The run was asked to stop; the caller saves the state of the last step."""


class Interrupted(KeyboardInterrupt):
  """A run was stopped by Ctrl-C, or by a notebook's stop button, and saved."""


def kind(value: object) -> str:
  """Returns the type of a value with its article, such as "an int"."""
  name = type(value).__name__
  return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def hint(word: str, known: Iterable[str], home: str | None = None) -> str:
  """Returns "; did you mean ...?" with the most similar name, or "".

  Args:
    word: unknown name.
    known: names that exist.
    home: prefix of the name in the message, such as "config." or "--"; with
      one, even an empty one, the name has no quotes.
  """
  known = list(known)
  # Letters that changed places leave little in common, as in "tyni".
  close = [name for name in known if sorted(name) == sorted(word)]
  close = close or difflib.get_close_matches(word, known, n=1, cutoff=_CLOSE)
  if not close:
    return ""
  name = repr(close[0]) if home is None else home + close[0]
  return f"; did you mean {name}?"


@contextlib.contextmanager
def of_user(what: str) -> Iterator[None]:
  """Context for calls of the user's code; turns its exceptions to InputError.

  Args:
    what: name of the code, which starts the message.

  Raises:
    InputError: the code raised. The message has file and line in the user's
      code, and for a missing attribute the most similar name.
  """
  try:
    yield
  except (InputError, RunError):
    raise
  except (Exception, SystemExit) as e:
    raise InputError(f"{what}: {describe(e)}") from e


@contextlib.contextmanager
def of_extra(extra: str) -> Iterator[None]:
  """Context for imports of packages that an extra of this package installs.

  Args:
    extra: name of the extra, one of `EXTRAS`.

  Raises:
    InputError: a package is missing; the message has the command.
    ValueError: there is no such extra, whether or not a package is missing.
  """
  command = install(extra)
  try:
    yield
  except ModuleNotFoundError as e:
    raise InputError(f"the package {e.name} is not installed: {command}") from e


def install(extra: str) -> str:
  """Returns the command that installs an extra of this package.

  Args:
    extra: name of the extra, one of `EXTRAS`.

  Raises:
    ValueError: there is no such extra.
  """
  if extra not in EXTRAS:
    raise ValueError(f"{extra!r} is none of errors.EXTRAS")
  return f"pip install 'progrpo_jax[{extra}]'"


def is_of_user(file: str) -> bool:
  """Returns whether a file's code is neither this package's nor a library's."""
  return (
    not file.startswith(("<", _PACKAGE, _LIBRARY)) and "-packages/" not in file
  )


@contextlib.contextmanager
def without_frames() -> Iterator[None]:
  """Context whose exceptions leave with empty frames, but for the user's.

  A notebook keeps the last traceback, and with it what the functions held that
  the exception went through: parameters and optimiser of a run that failed. A
  run that is begun again would have no room beside them. The lines of the
  traceback stay, and so do the variables of the user's own functions.
  """
  try:
    yield
  except BaseException as e:
    _empty_frames(e)
    raise


def _empty_frames(error: BaseException) -> None:
  """Clears frames of an error and of those that it came from."""
  waiting, seen = [error], set()
  while waiting:
    error = waiting.pop()
    if error is None or id(error) in seen:
      continue
    seen.add(id(error))
    waiting += [error.__cause__, error.__context__]
    for frame, _ in traceback.walk_tb(error.__traceback__):
      # Those that still run, such as the caller's, refuse.
      if not is_of_user(frame.f_code.co_filename):
        with contextlib.suppress(RuntimeError):
          frame.clear()


def one_line(error: BaseException) -> str:
  """Message of an error on one line; the name of its class if it has none."""
  return " ".join(str(error).split()) or type(error).__name__


def describe(error: BaseException) -> str:
  """Place, class and message of an error of the user's code, on one line."""
  message = one_line(error)
  # ml_collections quotes the message of another error, with a proposal of its
  # own; the name says it all.
  if isinstance(error, AttributeError) and "Did you mean" in message:
    message = f"there is no {error.name!r}"
  if isinstance(error, SyntaxError) and error.filename:
    return f"{error.filename}, line {error.lineno}: {message}"
  # Frames outside this package, the standard library and installed packages.
  user_frames = [
    frame
    for frame in traceback.extract_tb(error.__traceback__)
    if is_of_user(frame.filename)
  ]
  if not user_frames:
    return f"{type(error).__name__}: {message}{_suggestion(error)}"
  file, line, _, source = user_frames[-1]
  # A ValueError that the user's code raises itself explains itself.
  if isinstance(error, ValueError) and source.startswith("raise "):
    return message
  return (
    f"{file}, line {line}: {type(error).__name__}: "
    f"{message}{_suggestion(error)}"
  )


def _suggestion(error: BaseException) -> str:
  """Ends a message with "; did you mean NAME?", if a similar name exists."""
  if not isinstance(error, AttributeError) or error.name is None:
    return ""
  return hint(error.name, [n for n in dir(error.obj) if n[0] != "_"])
