"""What a task is, and how its name is resolved.

A task is a module: one of this package, named in a config by its file's name
("countdown"), or the user's own, named by its import path. It holds

  load(split, *, data_dir, seed, **options) -> Source    split: "train" or
                                                         "validation"
  VERIFIER = "module:function"      see progrpo_jax.rewards.score
  canonical(completion, row) -> str   optional; by default the function of
                                      that name in the verifier's module
  reply(messages, reference, **meta) -> str | None   optional; the task then
                                      answers the policy, see `replies`
  DOMAIN = "logic"                    optional, shown in lists of tasks
  SET = schema.Set(...)               in place of DOMAIN, for published sets

The verifier runs in another process, as
function(completion, row.reference, **row.meta), where meta lacks the keys that
only describe the problem (`_DESCRIPTIVE`). `canonical` maps an answer to a
normal form; distinct correct answers are counted by it. If a completion has a
thinking section, both functions see only what follows it (rewards/thinking).

With `reply` an episode has several turns. It runs in another process, as the
verifier does, after each turn that the policy ended by itself. `messages` are
[{"role": "user" or "assistant", "content": text}, ...] from the prompt to that
turn, without thoughts. It returns the text of the user's next message, or None
if the episode is over. The verifier then judges the last turn.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import importlib
import inspect
import math
import pkgutil
import types
import typing
from typing import Annotated, Any, Protocol

from progrpo_jax import errors, ranges, rewards, tasks
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import logic, pool, serving, thinking

SPLITS = ("train", "validation")
# Keys of a row's meta that describe the problem; not passed to the verifier.
_DESCRIPTIVE = ("rating",)
# Verifiers that an error message proposes.
_VERIFIERS = ("math", "choice", "code", "instruction", "reasoning_gym")
# Former names of tasks -> what to write now.
_RENAMED = {"jsonl": "file"}
# Types for options of `load`: a number of rows or answers, and a fraction.
Count = Annotated[int, ranges.Whole(at_least=1)]
Share = Annotated[float, ranges.Number(at_least=0, at_most=1)]
# Option types as error messages name them.
_TYPES = {
  str: "text",
  int: "a whole number",
  float: "a finite number",
  bool: "True or False",
  type(None): "None",
}


@dataclasses.dataclass(frozen=True)
class Row:
  """One problem.

  Attributes:
    task: name or import path of the task's module, see `resolve`.
    prompt: text for the policy.
    reference: reference answer for the verifier, JSON-able.
    meta: keyword arguments of the verifier, JSON-able. May also hold
      `rating`, the problem's difficulty in Codeforces points, which is not
      passed to the verifier.
    demonstrations: completions that score 1, for a supervised warm-up.
    label: task name in metrics: its name in the config, which tells two tasks
      of one module apart. Defaults to `task`.
    context: messages before the prompt, which is the last message, the user's:
      each has a "role" ("system", "user" or "assistant") and a "content".
    verifier: verifier of this row, "module:function", in place of the task's.
    place: file and line of a user's row, as "mine.jsonl, line 11"; "" where
      that says nothing.
  """

  task: str
  prompt: str
  reference: object
  meta: dict[str, Any]
  demonstrations: tuple[str, ...] = ()
  label: str = ""
  context: tuple[dict[str, str], ...] = ()
  verifier: str = ""
  place: str = ""

  def __post_init__(self):
    if not self.label:
      object.__setattr__(self, "label", self.task)


class Source(Protocol):
  """Rows with random access."""

  def __len__(self) -> int:
    """Returns the number of rows."""

  def __getitem__(self, index: int) -> Row:
    """Returns row `index`; every call returns the same row."""


class Chain:
  """Concatenation of sources."""

  def __init__(self, sources: Sequence[Source]):
    self._sources = tuple(sources)

  @property
  def refused(self) -> Counter[str]:
    """Refused rows of all sources, by reason; see `refused`."""
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
    module.name
    for module in pkgutil.iter_modules(tasks.__path__)
    if not module.ispkg and module.name != "base"
  ]


@functools.cache
def resolve(name: str) -> types.ModuleType:
  """Returns the module of a task.

  Args:
    name: name of a module of this package ("countdown"), or the import path
      of the user's own module ("my.tasks.poems").

  Raises:
    InputError: there is no such task, or the module is not a task.
  """
  if name in names():
    return importlib.import_module(f"progrpo_jax.tasks.{name}")
  if name in _RENAMED:
    raise InputError(
      f"no task {name!r}: it is called {_RENAMED[name]!r} now, with the same"
      " options"
    )
  if "." in name and all(part.isidentifier() for part in name.split(".")):
    module = _import(name)
    if module is not None:
      if not callable(getattr(module, "load", None)) or not isinstance(
        getattr(module, "VERIFIER", None), str
      ):
        raise InputError(
          f"{name} is not a task: it must define load(split, *, data_dir, "
          'seed, ...) and VERIFIER = "module:function"; see '
          "progrpo_jax/tasks/base.py"
        )
      return module
  raise InputError(
    f"no task {name!r}{nearest(name, names())}; rows of your own are read by a"
    f" task with the module 'file', as in {{{name!r}: {{'module': 'file',"
    " 'options': {'file': 'rows.jsonl'}}}"
  )


def _import(name: str) -> types.ModuleType | None:
  """Returns the user's module of that name, or None if there is none."""
  with errors.of_user(f"task {name}"):
    try:
      return importlib.import_module(name)
    except ModuleNotFoundError as error:
      if error.name and not name.startswith(error.name):
        raise  # the module exists, but one of its own imports does not
      return None


def nearest(word: str, known: Sequence[str]) -> str:
  """Returns a hint for error messages: the closest known word, then all."""
  return f"{errors.hint(word, known)} (known: {', '.join(sorted(known))})"


def load(
  name: str, split: str, *, data_dir: str, seed: int, **options: Any
) -> Source:
  """Returns a split of a task.

  Args:
    name: name or import path of the task, see `resolve`.
    split: "train" or "validation".
    data_dir: folder of the built data sets.
    seed: seed of drawn problems and shuffled options.
    **options: further arguments of the task's `load`.

  Raises:
    InputError: the split, the task or an option does not exist, an option is
      missing or has a wrong value, or the data cannot be read.
  """
  if split not in SPLITS:
    raise InputError(f"no split {split!r}{nearest(split, SPLITS)}")
  module = resolve(name)
  _check_options(name, module.load, options)
  arguments = dict(data_dir=data_dir, seed=seed, **options)
  if name in names():
    return typed(module.load)(split, **arguments)
  # An exception in the user's own module is reported as the user's mistake.
  with errors.of_user(f"task {name}"):
    return typed(module.load)(split, **arguments)


def typed(loader: Callable[..., Source]) -> Callable[..., Source]:
  """Wraps a loader so that its options are checked against its annotations.

  An option without an annotation may have any value. An annotation may carry
  a range, as `Count` does; the range is checked too. A violation raises
  InputError.
  """

  @functools.wraps(loader)
  def checked(*args, **options):
    try:
      hints = typing.get_type_hints(loader, include_extras=True)
    except (NameError, TypeError):
      # A user's loader may have annotations that only type checkers resolve.
      hints = {}
    for option, value in options.items():
      if option in hints and not _is_like(value, hints[option]):
        shown = " ".join(str(value).split())[:60]
        raise InputError(
          f"task option {option} = {shown} must be {_words(hints[option])}"
          f"{_how_to_write(value)}"
        )
    return loader(*args, **options)

  return checked


def _how_to_write(value: Any) -> str:
  """Says how rows become a file, where a value is rows, or ""."""
  is_rows = isinstance(value, Iterator) or hasattr(value, "to_json")
  if isinstance(value, list | tuple):
    is_rows = any(hasattr(row, "items") for row in value)
  if not is_rows:
    return ""
  return (
    "; write the rows to a file, and name that: dataset.to_json(path) of"
    " datasets, or frame.to_json(path, orient='records', lines=True) of pandas"
  )


def _is_like(value: Any, hint: Any) -> bool:
  """Returns whether a value fits a type hint; unknown hints fit everything."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return not inner[1].refusal(value)
  if origin in (types.UnionType, typing.Union):
    return any(_is_like(value, member) for member in inner)
  if origin in (Sequence, list, tuple):
    return isinstance(value, list | tuple) and (
      not inner or all(_is_like(v, inner[0]) for v in value)
    )
  if origin in (Mapping, dict):
    return hasattr(value, "items")  # a ConfigDict is not a dict
  if hint is float:
    return (
      isinstance(value, int | float)
      and not isinstance(value, bool)
      and math.isfinite(value)
    )
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if hint in _TYPES:
    return isinstance(value, hint)
  return True


def _words(hint: Any) -> str:
  """Returns a type hint in words, for error messages."""
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
  """Raises InputError for unknown options and for missing ones."""
  parameters = inspect.signature(loader).parameters.values()
  declared = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
  # `load` passes these to every task; they are not options.
  for argument in ("data_dir", "seed"):
    declared.pop(argument, None)
  for option in options:
    if option not in declared and not any(
      p.kind is p.VAR_KEYWORD for p in parameters
    ):
      hint = nearest(option, list(declared))
      raise InputError(f"task {name}: no option {option!r}{hint}")
  for option, parameter in declared.items():
    if parameter.default is parameter.empty and option not in options:
      raise InputError(f"task {name} needs the option {option!r}")


def has_published_test(name: str) -> bool:
  """Returns whether a task's validation split is a published test set."""
  published = getattr(resolve(name), "SET", None)
  return published is not None and published.has_test


def refused(source: Source) -> Counter[str]:
  """Returns the number of refused rows of a source's files, by reason.

  Empty for a source without the attribute `refused`.
  """
  return Counter(getattr(source, "refused", {}))


def verifier(row: Row) -> str:
  """Returns the verifier of a row, "module:function"."""
  return row.verifier or resolve(row.task).VERIFIER


def named_verifier(name: str) -> str:
  """Returns the verifier "module:function" that a name stands for.

  Args:
    name: a file of progrpo_jax/rewards/ with a function `score` ("math"), a
      task, whose verifier is meant ("reasoning_gym"), or "module:function"
      itself.

  Raises:
    InputError: there is no such verifier.
  """
  if ":" in name:
    return name
  if name in [module.name for module in pkgutil.iter_modules(rewards.__path__)]:
    module = importlib.import_module(f"progrpo_jax.rewards.{name}")
    if hasattr(module, "score"):
      return f"{module.__name__}:score"
  if name in names():
    return resolve(name).VERIFIER
  raise InputError(
    f"no verifier {name!r}{nearest(name, _VERIFIERS)}; your own is an import"
    ' path, "module:function" or "file.py:function"'
  )


def check_verifier_options(verifier: str, options: Mapping[str, Any]) -> None:
  """Refuses keyword arguments that a verifier does not have.

  Args:
    verifier: the verifier, as "module:function".
    options: keyword arguments for it.

  Raises:
    InputError: naming the one that is unknown, and those that there are.
  """
  # The first two arguments are the completion and the reference.
  _, _, *parameters = inspect.signature(
    serving.resolve(verifier)
  ).parameters.values()
  if any(p.kind is p.VAR_KEYWORD for p in parameters):
    return
  known = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
  for name in options:
    if name not in known:
      raise InputError(
        f"verifier_options: the verifier {verifier} has no option {name!r}"
        f"{nearest(name, known)}"
      )


def item(row: Row, completion: str) -> pool.Item:
  """Returns the pool's work item that verifies a completion of a row."""
  meta = {key: v for key, v in row.meta.items() if key not in _DESCRIPTIVE}
  return pool.Item(verifier(row), completion, row.reference, meta)


def replies(row: Row | None) -> bool:
  """Returns whether a row's task answers the policy.

  Args:
    row: problem; None, or a task of "", for a prompt of no task.
  """
  return (
    row is not None and row.task != "" and hasattr(resolve(row.task), "reply")
  )


def reply(row: Row, messages: Sequence[Mapping[str, str]]) -> pool.Call:
  """Returns the pool's call of a task's `reply`.

  Args:
    row: problem of a task that replies.
    messages: the conversation, which ends with a turn of the policy.
  """
  meta = {key: v for key, v in row.meta.items() if key not in _DESCRIPTIVE}
  name = resolve(row.task).__name__
  return pool.Call(
    f"{name}:reply", [list(map(dict, messages)), row.reference], meta
  )


def canonical(completion: str, row: Row) -> str:
  """Returns the normal form of a completion's answer; equal answers agree.

  Uses the task's `canonical`, else that of its verifier's module, else the
  text of the answer.
  """
  answer = thinking.answer(completion)
  completion = completion if answer is None else answer
  task = resolve(row.task)
  normalize: Callable[[str, Row], str] | None
  normalize = getattr(task, "canonical", None) or _canonical(verifier(row))
  if normalize is not None:
    return normalize(completion, row)
  return logic.extract(completion, whole=True)


@functools.cache
def _canonical(verifier: str) -> Callable[[str, Row], str] | None:
  """Returns the `canonical` of a verifier's module, if it has one."""
  module = inspect.getmodule(serving.resolve(verifier))
  return getattr(module, "canonical", None)
