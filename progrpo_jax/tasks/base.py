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
from collections.abc import Callable, Sequence
import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
import types
from typing import Any, Protocol

from progrpo_jax import tasks
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import logic, pool, serving, thinking

SPLITS = ("train", "validation")
# What a row's meta says of the problem, and not to the verifier.
_ABOUT = ("rating",)
# Modules beside the tasks that the tasks are made with.
_NOT_TASKS = (
    "asking", "base", "builder", "files", "instructions", "overlap",
    "programs", "published", "reader", "rejects", "sets", "testcases", "texts",
    "writing",
)


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
  found = [m.name for m in pkgutil.iter_modules(tasks.__path__)]
  return [name for name in found if name not in _NOT_TASKS]


@functools.cache
def resolve(name: str) -> types.ModuleType:
  """Imports the module of a task, given by its name or its import path."""
  if name in names():
    return importlib.import_module(f"progrpo_jax.tasks.{name}")
  if "." in name:
    try:
      return importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name and not name.startswith(error.name):
        raise  # the module is there; something that it imports is not
  raise InputError(f"no task {name!r}{nearest(name, names())}")


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
  return module.load(split, data_dir=data_dir, seed=seed, **options)


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
