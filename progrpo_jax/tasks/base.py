"""What a task is, and how its name is resolved.

A task is a module: one of this package, named in a config by its file's name
("countdown"), or the user's own, named by its import path. It holds

  load(split, *, data_dir, seed, **options) -> Source    split: "train" or
                                                         "validation"
  VERIFIER = "module:function"      see progrpo_jax.rewards.score
  canonical(completion, row) -> str                      optional, else the
                                                         verifier's module's
  DOMAIN = "logic", or SET, the published set that it is  optional, for lists

The verifier is called as function(completion, row.reference, **row.meta), but
for what the meta says of the problem itself (see `Row`), in another process.
`canonical` writes an answer so that two ways of writing one idea come out
equal; it is what distinct correct answers are counted by. Both see what
follows the thought of a completion that has one (rewards/thinking).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import pkgutil
import types
import typing
from typing import Annotated, Any, Protocol

from progrpo_jax import errors, ranges, tasks
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import logic, pool, serving, thinking

SPLITS = ("train", "validation")
# What a row's meta says of the problem, and not to the verifier.
_ABOUT = ("rating",)
# Of rows or of answers; and a part of them.
Count = Annotated[int, ranges.Whole(at_least=1)]
Share = Annotated[float, ranges.Number(at_least=0, at_most=1)]
# Types of options, in words.
_TYPES = {
    str: "text", int: "a whole number", float: "a finite number",
    bool: "True or False", type(None): "None"}


@dataclasses.dataclass(frozen=True)
class Row:
  """One problem.

  Attributes:
    task: name that resolves to the task's module.
    prompt: text for the policy.
    reference: what the verifier compares with, JSON-able.
    meta: the verifier's further arguments by name, JSON-able; and `rating`,
      how hard the problem is in the points of Codeforces, where that is
      known, which the verifier is not shown.
    demonstrations: completions that score 1, for a supervised warm-up.
    label: what metrics call its task: the name that a config gives it, by
      which two tasks of one module are told apart; else `task`.
  """

  task: str
  prompt: str
  reference: object
  meta: dict[str, Any]
  demonstrations: tuple[str, ...] = ()
  label: str = ""

  def __post_init__(self):
    if not self.label:
      object.__setattr__(self, "label", self.task)


class Source(Protocol):
  """Rows with random access."""

  def __len__(self) -> int:
    """Returns the number of rows."""

  def __getitem__(self, index: int) -> Row:
    """Returns row `index`, the same at every call."""


class Chain:
  """Sources one after the other."""

  def __init__(self, sources: Sequence[Source]):
    self._sources = tuple(sources)

  @property
  def refused(self) -> Counter[str]:
    """Those of all sources, see `refused`."""
    return sum(map(refused, self._sources), Counter())

  def __len__(self) -> int:
    return sum(map(len, self._sources))

  def __getitem__(self, index: int) -> Row:
    if index < 0:
      raise IndexError(index)
    for source in self._sources:
      if index < len(source):
        return source[index]
      index -= len(source)
    raise IndexError(index)


def names() -> list[str]:
  """Returns the names of the tasks of this package."""
  return [
      module.name for module in pkgutil.iter_modules(tasks.__path__)
      if not module.ispkg and module.name != "base"]


@functools.cache
def resolve(name: str) -> types.ModuleType:
  """Imports the module of a task, given by its name or its import path."""
  if name in names():
    return importlib.import_module(f"progrpo_jax.tasks.{name}")
  if "." in name and all(part.isidentifier() for part in name.split(".")):
    module = _import(name)
    if module is not None:
      if not callable(getattr(module, "load", None)) or not isinstance(
          getattr(module, "VERIFIER", None), str):
        raise InputError(
            f"{name} is no task: it does not define load(split, *, data_dir, "
            'seed, ...) and VERIFIER = "module:function"; see '
            "progrpo_jax/tasks/base.py")
      return module
  raise InputError(f"no task {name!r}{nearest(name, names())}")


def _import(name: str) -> types.ModuleType | None:
  """Imports a module of the user's; None if there is none of that name."""
  with errors.of_user(f"task {name}"):
    try:
      return importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name and not name.startswith(error.name):
        raise  # the module is there; something that it imports is not
      return None


def nearest(word: str, known: Sequence[str]) -> str:
  """Writes a hint at the known word nearest to an unknown one."""
  close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
  hint = f"; did you mean {close[0]!r}?" if close else ""
  return f"{hint} (known: {', '.join(sorted(known))})"


def load(
    name: str, split: str, *, data_dir: str, seed: int, **options: Any
) -> Source:
  """Returns a split of a task; options are the task's own."""
  if split not in SPLITS:
    raise InputError(f"no split {split!r}{nearest(split, SPLITS)}")
  module = resolve(name)
  _check_options(name, module.load, options)
  given = dict(data_dir=data_dir, seed=seed, **options)
  if name in names():
    return typed(module.load)(split, **given)
  with errors.of_user(f"task {name}"):
    return typed(module.load)(split, **given)


def typed(loader: Callable[..., Source]) -> Callable[..., Source]:
  """A loader that refuses options which are not what it is annotated with.

  Options without an annotation may be anything; one that is annotated with a
  range, such as `Count`, keeps it.
  """

  @functools.wraps(loader)
  def checked(*args, **options):
    try:
      hints = typing.get_type_hints(loader, include_extras=True)
    except (NameError, TypeError):  # of the user's own, for checkers alone
      hints = {}
    for option, value in options.items():
      if option in hints and not _is_like(value, hints[option]):
        raise InputError(
            f"task option {option} = {str(value):.60} must be "
            f"{_words(hints[option])}")
    return loader(*args, **options)

  return checked


def _is_like(value: Any, hint: Any) -> bool:
  """Whether a value is of a type; of those that options have."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return not inner[1].refusal(value)
  if origin in (types.UnionType, typing.Union):
    return any(_is_like(value, one) for one in inner)
  if origin in (Sequence, list, tuple):
    return isinstance(value, list | tuple) and (
        not inner or all(_is_like(v, inner[0]) for v in value))
  if origin in (Mapping, dict):
    return hasattr(value, "items")  # of a config it is no dict
  if hint is float:
    return isinstance(value, int | float) and not isinstance(
        value, bool) and math.isfinite(value)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if hint in _TYPES:
    return isinstance(value, hint)
  return True


def _words(hint: Any) -> str:
  """A type in words."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return f"{_words(inner[0])}, {inner[1].words()}"
  if origin in (types.UnionType, typing.Union):
    return " or ".join(map(_words, inner))
  if origin in (Sequence, list, tuple):
    return f"a list, each {_words(inner[0])}" if inner else "a list"
  if origin in (Mapping, dict):
    return "a dict"
  return _TYPES.get(hint, str(hint))


def _check_options(
    name: str, loader: Callable[..., Source], options: dict[str, Any]
) -> None:
  """Refuses options that a loader does not have, and missing ones."""
  parameters = inspect.signature(loader).parameters.values()
  known = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
  for given in ("data_dir", "seed"):
    known.pop(given, None)
  for option in options:
    if option not in known and not any(
        p.kind is p.VAR_KEYWORD for p in parameters
    ):
      hint = nearest(option, list(known))
      raise InputError(f"task {name}: no option {option!r}{hint}")
  for option, parameter in known.items():
    if parameter.default is parameter.empty and option not in options:
      raise InputError(f"task {name} needs the option {option!r}")


def has_published_test(name: str) -> bool:
  """Says whether a task's validation is a test set that others report on."""
  published = getattr(resolve(name), "SET", None)
  return published is not None and published.has_test


def refused(source: Source) -> Counter[str]:
  """Returns why rows of a source's files are no problems, and how many.

  Nothing of a source that does not say so with an attribute `refused`.
  """
  return Counter(getattr(source, "refused", {}))


def item(row: Row, completion: str) -> pool.Item:
  """Returns what the pool needs to verify a completion of a row."""
  verifier = resolve(row.task).VERIFIER
  meta = {key: v for key, v in row.meta.items() if key not in _ABOUT}
  return pool.Item(verifier, completion, row.reference, meta)


def canonical(completion: str, row: Row) -> str:
  """Returns the form under which equal answers to a row are equal.

  That is the task's `canonical`, else its verifier's, else the answer's text.
  """
  answer = thinking.answer(completion)
  completion = completion if answer is None else answer
  task = resolve(row.task)
  own: Callable[[str, Row], str] | None
  own = getattr(task, "canonical", None) or _canonical(task.VERIFIER)
  if own is not None:
    return own(completion, row)
  return logic.extract(completion, whole=True)


@functools.cache
def _canonical(verifier: str) -> Callable[[str, Row], str] | None:
  """Returns the `canonical` of a verifier's module, if it has one."""
  module = inspect.getmodule(serving.resolve(verifier))
  return getattr(module, "canonical", None)
