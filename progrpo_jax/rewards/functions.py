"""The user's reward functions, called as TRL calls them.

  f(prompts, completions, **others) -> list of numbers

A function is named by "module:function" or "path/to/file.py:function" and is
called on a whole batch, in a process of the pool. A function that Python code
hands over as an object has a plain name and is called in this process. Both
may be coroutines, or objects with `__call__`. A function gets those of these
arguments that its signature accepts: prompts and completions, texts or lists of
messages as the data has it; the other columns of the data, as lists;
`completion_ids`; `trainer_state`; `log_extra(column, values)`,
which adds a column to the saved rollouts; and `log_metric(name, value)`. A
value of None means that it has no opinion of a sample. Any other misbehaviour
is an error that names the function.

The reward is the weighted sum of the values. One of the functions decides by
its own value whether a sample is correct, and a sample of which it has no
opinion is masked. The sum would not do, since a length penalty could turn a
correct answer into a wrong one. A verifier may stand among the functions; its
value is its reward, and its own verdict says what is correct.

The file is long because the rule of the values and the call that makes them
check each other: what a call may return is what the rule can read.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
import dataclasses
import functools
import inspect
import json
import math
import re
import threading
from typing import Any, NamedTuple

from progrpo_jax import errors
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import score as scores
from progrpo_jax.rewards import serving
from progrpo_jax.rewards.score import Score

VERIFIER = "progrpo_jax.rewards.functions:score"
# Arguments of a reward function that are no columns of the data.
RESERVED = (
  "prompts",
  "completions",
  "completion_ids",
  "trainer_state",
  "log_extra",
  "log_metric",
)
_CALL = "progrpo_jax.rewards.functions:call"
_REFUSAL = "progrpo_jax.rewards.functions:refusal"
# Arguments of verl's reward functions, which are none of this package's.
_OF_VERL = ("data_source", "solution_str")
_POLL_S = 0.5  # interval between looks at a request to stop
_MAX_ERROR = 700  # characters of the message of a user's error
_RANGE = f"a number from {-scores.MAX_REWARD:g} to {scores.MAX_REWARD:g}"
_ROUNDING = 1e-6  # tolerance at the threshold for rounding errors in values


class RewardFunctionError(InputError):
  """A reward function of the user failed or returned unusable values."""


class Batch(NamedTuple):
  """What reward functions are called with, JSON-able; N completions.

  Attributes:
    prompts: prompt of each completion, a text or messages.
    completions: texts of the model, or messages where the prompt is some.
    columns: further columns of the data, with one entry per completion.
    completion_ids: tokens of each completion; None if they are not known.
    trainer_state: fields of `pool.TrainerState`.
  """

  prompts: list[Any]
  completions: list[Any]
  columns: dict[str, list[Any]]
  completion_ids: list[list[int]] | None = None
  trainer_state: tuple[int, int] = (0, 0)


class Judged(NamedTuple):
  """Result of several functions on a batch.

  Attributes:
    scores: score of each completion.
    values: value of each function, for each completion; None where a function
      has no opinion.
    extra: columns that functions added to each completion by `log_extra`.
    metrics: (name, value) of each call of `log_metric`.
  """

  scores: list[Score]
  values: list[tuple[float | None, ...]]
  extra: list[dict[str, Any]]
  metrics: list[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Rule:
  """How the values of several functions become a score.

  Attributes:
    names: names of the functions; a verifier among them is the first.
    weights: weight of each; None weighs all 1.0.
    correct_by: function that decides correctness, see `find_decider`.
    correct_threshold: smallest value of that function that is correct.
    has_verifier: whether the first name is a verifier's.
  """

  names: Sequence[str]
  weights: Sequence[float] | None = None
  correct_by: str | None = None
  correct_threshold: float = 1.0
  has_verifier: bool = False

  def __call__(
    self,
    samples: Sequence[Sequence[float | None]],
    verdicts: Sequence[Score] = (),
  ) -> list[Score]:
    """Returns the score of each sample.

    Args:
      samples: values of all functions, for each sample.
      verdicts: the verifier's score of each sample, if there is a verifier.

    Raises:
      InputError: the rule contradicts itself, or a reward is out of range.
    """
    deciding = find_decider(self.names, self.correct_by)
    weights = check_weights(self.names, self.weights)
    combined = combine(samples, weights, deciding, self.correct_threshold)
    if not self.has_verifier or deciding:
      return combined
    # The verifier's own verdict and status, with the weighted reward.
    return [
      verdict._replace(
        reward=0.0 if scores.is_masked(verdict.status) else weighted.reward
      )
      for verdict, weighted in zip(verdicts, combined, strict=True)
    ]


def evaluate(
  pool: pools.Pool,
  rule: Rule,
  batch: Batch,
  *,
  verdicts: Sequence[Score] = (),
  deadline_s: float = 60.0,
) -> Judged:
  """Calls functions of the user on a batch of completions.

  Args:
    pool: pool that makes the calls, and has the functions that are objects.
    rule: functions, and what their values mean.
    batch: their arguments.
    verdicts: the verifier's score of each completion, if the rule has one.
    deadline_s: time limit of each function for the batch.

  Raises:
    InputError: a function fails, or the arguments do not fit together.
    RunError: a function does not return in time.
    Preempted: the pool was asked to stop.
  """
  check_weights(rule.names, rule.weights)
  _check_columns(batch.columns)
  names = rule.names[1:] if rule.has_verifier else rule.names
  batch = batch._replace(trainer_state=tuple(pool.trainer_state))
  # One call per function on the whole batch; any failure ends the run.
  away = [name for name in names if name not in pool.objects]
  outcomes = dict(
    zip(
      away,
      pool.run(
        [
          pools.Call(_CALL, [name, *batch], {}, f"reward function {name}")
          for name in away
        ],
        deadline_s=deadline_s,
      )
      if away
      else (),
    )
  )
  for name in names:
    if name in pool.objects:
      outcomes[name] = _call_here(
        name, pool.objects[name], batch, deadline_s, pool.stop
      )
  size = len(batch.completions)
  values: list[Sequence[float | None]] = []
  extra: list[dict[str, Any]] = [{} for _ in range(size)]
  metrics = []
  if rule.has_verifier:
    values.append(
      [None if scores.is_masked(v.status) else v.reward for v in verdicts]
    )
  for name in names:
    outcome = outcomes[name]
    if outcome.status == "timeout":
      # What it waits for, such as a server, may answer the next time.
      raise errors.RunError(
        f"reward function {name} did not return within {deadline_s:g} s on"
        f" {size} completions; if it needs longer, raise"
        " config.rewards.batch_deadline_s"
      )
    if outcome.status != "ok":
      raise RewardFunctionError(outcome.reason)
    result = outcome.value
    if "error" in result:
      raise RewardFunctionError(result["error"])
    values.append(result["values"])
    metrics += [(metric, value) for metric, value in result["metrics"]]
    for column, entries in result["extra"].items():
      for sample, entry in zip(extra, entries):
        sample[column] = entry
  samples = list(zip(*values))  # from one list per function to one per sample
  return Judged(rule(samples, verdicts), samples, extra, metrics)


def check(
  pool: pools.Pool, names: Sequence[str], columns: Iterable[str]
) -> None:
  """Refuses functions that could not be called, before anything is sampled.

  Args:
    pool: pool that loads the functions, or has them as objects.
    names: names of reward functions, without a verifier.
    columns: names of the columns that the functions will get.

  Raises:
    RewardFunctionError: a function cannot be loaded, or its signature does not
      fit these arguments.
    Preempted: the pool was asked to stop.
  """
  columns = list(columns)
  away = [name for name in names if name not in pool.objects]
  outcomes = pool.run(
    [
      pools.Call(_REFUSAL, [name, columns], {}, f"reward function {name}")
      for name in away
    ],
    deadline_s=pool.batch_deadline_s,
  )
  refusals = [
    outcome.value if outcome.status == "ok" else outcome.reason
    for outcome in outcomes
  ] + [
    _misfit(name, pool.objects[name], (*RESERVED, *columns))
    for name in names
    if name in pool.objects
  ]
  for message in filter(None, refusals):
    raise RewardFunctionError(message)


def refusal(name: str, columns: Sequence[str]) -> str:
  """Says why a function could not be called, or ""; runs in a worker.

  Args:
    name: name of the function.
    columns: names of the columns that it will get.
  """
  function, message = _loaded(name)
  return message or _misfit(name, function, (*RESERVED, *columns))


def score(
  completion: str,
  reference: object,
  *,
  prompt: str,
  columns: Mapping[str, Any],
  context: Sequence[Mapping[str, str]] = (),
  is_chat: bool = False,
  functions: Sequence[str] = (),
  weights: Sequence[float] | None = None,
  correct_by: str | None = None,
  correct_threshold: float = 1.0,
  verifier: str | None = None,
  options: Mapping[str, Any] | None = None,
) -> Score:
  """Scores one completion of the task `file` by functions.

  Args:
    completion: text of the model.
    reference: reference answer of the row.
    prompt: prompt of the row.
    columns: further columns of the row.
    context: messages before the prompt.
    is_chat: whether functions get messages.
    functions: names of reward functions, a verifier's first.
    weights: weight of each function in the reward; None weighs all 1.0.
    correct_by: function that decides correctness, see `find_decider`.
    correct_threshold: smallest value of that function that is correct.
    verifier: import path of the verifier among the functions, or None.
    options: keyword arguments of the verifier.

  Raises:
    InputError: a function fails, or the arguments do not fit together.
  """
  rule = Rule(functions, weights, correct_by, correct_threshold, bool(verifier))
  values, verdicts = [], []
  names = list(functions)
  if verifier is not None:
    verify = _resolve(verifier)
    verdicts = [
      Score(*scores.check(verify(completion, reference, **(options or {}))))
    ]
    masked = scores.is_masked(verdicts[0].status)
    values.append([None if masked else verdicts[0].reward])
    del names[0]
  batch = Batch(
    [asked(prompt, context, is_chat)],
    [answered(completion, is_chat)],
    {key: [value] for key, value in columns.items()},
  )
  for name in names:
    result = call(name, *batch)
    if "error" in result:
      raise RewardFunctionError(result["error"])
    values.append(result["values"])
  return rule(list(zip(*values)), verdicts)[0]


def asked(
  prompt: str, context: Sequence[Mapping[str, str]], is_chat: bool
) -> Any:
  """Returns a prompt as reward functions see it."""
  if not is_chat:
    return prompt
  return [*context, {"role": "user", "content": prompt}]


def answered(completion: str, is_chat: bool) -> Any:
  """Returns a completion as reward functions see it."""
  return (
    [{"role": "assistant", "content": completion}] if is_chat else completion
  )


def by_name(objects: Sequence[Callable[..., Any]]) -> dict[str, Any]:
  """Returns reward functions by the names that stand for them in a config.

  Args:
    objects: functions, coroutines or objects with `__call__`.

  Raises:
    InputError: one cannot be called, or two have the same name.
  """
  named: dict[str, Any] = {}
  for function in objects:
    if not callable(function) or inspect.isclass(function):
      raise InputError(f"{function!r:.100} is no reward function")
    inner = function
    while isinstance(inner, functools.partial):
      inner = inner.func
    name = getattr(inner, "__name__", type(inner).__name__)
    if name in named:
      raise InputError(
        f"two reward functions are called {name!r}: give one another __name__"
      )
    named[name] = function
  return named


def combine(
  samples: Sequence[Sequence[float | None]],
  weights: Sequence[float],
  deciding: int,
  threshold: float,
) -> list[Score]:
  """Returns the score of each sample: weighted sum and correctness.

  Args:
    samples: values of all functions, for each sample. None (no opinion) adds
      nothing to the sum.
    weights: weight of each function.
    deciding: index of the function that decides correctness. A sample of which
      it has no opinion has the status "refused".
    threshold: smallest value of that function that is correct.

  Raises:
    InputError: weights make a reward that is out of range.
  """
  combined = []
  for index, sample in enumerate(samples):
    verdict = sample[deciding]
    if verdict is None:
      combined.append(Score(0.0, False, "refused"))
      continue
    reward = math.fsum(w * v for w, v in zip(weights, sample) if v is not None)
    if not scores.is_in_range(reward):
      raise InputError(
        f"the reward of completion {index} is {reward:g}, the sum of"
        f" {', '.join(f'{v:g}' for v in sample if v is not None)} with the"
        f" weights {', '.join(f'{w:g}' for w in weights)}: it must be {_RANGE}"
      )
    combined.append(Score(reward, verdict >= threshold - _ROUNDING, "ok"))
  return combined


def labels(names: Sequence[str]) -> list[str]:
  """Returns distinct short names of functions, for metrics.

  A label is the function's name without module or path. If two functions share
  it, as much of the path as needed is added: "first.close", "second.close".

  Args:
    names: full names of the functions.
  """
  paths = [re.split(r"[/\\.:]+", n.replace(".py:", ":")) for n in names]
  short = []
  for name, parts in zip(names, paths):
    label = name.replace("/", ".")
    for size in range(1, len(parts) + 1):
      if sum(other[-size:] == parts[-size:] for other in paths) == 1:
        label = ".".join(parts[-size:])
        break
    short.append(label)
  return short


def find_decider(names: Sequence[str], correct_by: str | None) -> int:
  """Returns the index of the function that decides correctness.

  Args:
    names: names of the functions.
    correct_by: name or label of the deciding function; may be None if there is
      only one function.

  Raises:
    InputError: there are several functions and correct_by is None, or it is
      none of them.
  """
  short = labels(names)
  if correct_by is None:
    if len(names) == 1:
      return 0
    raise InputError(
      f"{len(names)} reward functions ({', '.join(short)}): say by"
      f" correct_by which of them decides whether a completion is right, as"
      f" in correct_by={short[0]!r}"
    )
  for candidates in (names, short):
    if correct_by in candidates:
      return list(candidates).index(correct_by)
  raise InputError(
    f"correct_by={correct_by!r} is none of the reward functions"
    f" {', '.join(short)}{errors.hint(correct_by, short)}"
  )


def check_weights(
  names: Sequence[str], weights: Sequence[float] | None
) -> list[float]:
  """Returns the weight of each function, 1.0 if no weights are given.

  Raises:
    InputError: there is no function, a function is named twice, or the number
      of weights is wrong.
  """
  if not names:
    raise InputError("no reward function is named")
  for name in names:
    if list(names).count(name) > 1:
      raise InputError(f"reward function {name} is named twice")
  if weights is None:
    return [1.0] * len(names)
  if len(weights) != len(names):
    raise InputError(
      f"{len(weights)} reward weights for {len(names)} reward functions"
    )
  return [float(w) for w in weights]


def _check_columns(columns: Mapping[str, Any]) -> None:
  """Raises InputError for columns that are named like other arguments."""
  for name in RESERVED:
    if name in columns:
      raise InputError(f"a column may not be called {name!r}")


def call(
  name: str,
  prompts: list[Any],
  completions: list[Any],
  columns: dict[str, list[Any]],
  completion_ids: list[list[int]] | None = None,
  trainer_state: Sequence[int] = (0, 0),
) -> dict[str, Any]:
  """Calls a reward function by its name; runs in a worker.

  Args:
    name: name of the function.
    prompts, completions, columns, completion_ids, trainer_state: see `Batch`.

  Returns:
    See `_apply`.
  """
  batch = Batch(
    prompts, completions, columns, completion_ids, tuple(trainer_state)
  )
  function, message = _loaded(name)
  return {"error": message} if message else _apply(name, function, batch)


def _loaded(name: str) -> tuple[Callable[..., Any] | None, str]:
  """Returns a function by its name, or why it cannot be loaded."""
  try:
    return _resolve(name), ""
  except (Exception, SystemExit) as error:
    hint = ""
    if ":" not in name:
      hint = (
        "; a plain name stands for a function that Python code hands over, as"
        " in progrpo_jax.train(config, workdir, rewards=[f])"
      )
    return None, (
      f"reward function {name} cannot be loaded: {_described(error)}{hint}"
    )


def _misfit(
  name: str, function: Callable[..., Any], given: Iterable[str]
) -> str:
  """Says why a signature does not fit the arguments, or "".

  Args:
    name: name of the function.
    function: function, coroutine or object to call.
    given: names of all arguments that there are.
  """
  arguments = dict.fromkeys(given)
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):  # of a function in C, which does not say
    return ""
  try:
    signature.bind(**_accepted(function, arguments))
  except TypeError as error:
    of_verl = [n for n in _OF_VERL if n in signature.parameters]
    hint = (
      f"; {' and '.join(of_verl)} are arguments of verl's reward functions:"
      " docs/from_trl.md shows how one is called here"
      if of_verl
      else ""
    )
    return (
      f"reward function {name} cannot be called: {error}; the arguments are"
      f" {', '.join(arguments)}, by name: it gets those that it names, or all"
      f" where it has **kwargs{hint}"
    )
  return ""


def _call_here(
  name: str,
  function: Callable[..., Any],
  batch: Batch,
  deadline_s: float,
  stop: Callable[[], bool],
) -> pools.Outcome:
  """Calls a function in this process; a thread of its own keeps the deadline.

  The thread cannot be killed; the run ends instead.

  Raises:
    Preempted: `stop` said so.
  """
  # Through JSON, as a function in a worker gets it: what a call changes in a
  # column reaches neither another sample of the group nor another step. Token
  # ids are many, and made for this call.
  texts = [batch.prompts, batch.completions, batch.columns]
  batch = Batch(*json.loads(json.dumps(texts)), *batch[len(texts) :])
  results: list[dict[str, Any]] = []
  thread = threading.Thread(
    target=lambda: results.append(_apply(name, function, batch)),
    name=f"reward function {name}",
    daemon=True,
  )
  thread.start()
  looks = max(1, math.ceil(deadline_s / _POLL_S))
  for _ in range(looks):
    thread.join(deadline_s / looks)
    if not thread.is_alive() or stop():
      break
  if thread.is_alive():
    _give_up(name)
    if stop():
      raise errors.Preempted
    return pools.Outcome("timeout", None, "")
  if not results:
    return pools.Outcome(
      "crash", None, f"reward function {name} ended its thread"
    )
  return pools.Outcome("ok", results[0], "")


def _apply(
  name: str, function: Callable[..., Any], batch: Batch
) -> dict[str, Any]:
  """Calls a reward function and checks what it returns.

  Args:
    name: name of the function.
    function: function, coroutine or object to call.
    batch: its arguments.

  Returns:
    {"values": list of numbers or None, "extra": column -> list of values,
    "metrics": list of (name, value)}, or {"error": message}.
  """
  head = f"reward function {name}"
  size = len(batch.completions)
  extra: dict[str, list[Any]] = {}
  metrics: list[tuple[str, float]] = []

  def log_extra(column: str, values: Iterable[Any]) -> None:
    values = list(values)
    if len(values) != size:
      raise ValueError(
        f"log_extra({column!r}) got {len(values)} values for {size} completions"
      )
    extra[str(column)] = json.loads(json.dumps(values, default=str))

  def log_metric(metric: str, value: float) -> None:
    metrics.append((str(metric), float(value)))

  given = {
    "prompts": batch.prompts,
    "completions": batch.completions,
    **batch.columns,
    "trainer_state": pools.TrainerState(*batch.trainer_state),
    "log_extra": log_extra,
    "log_metric": log_metric,
  }
  if batch.completion_ids is not None:
    given["completion_ids"] = batch.completion_ids
  misfit = _misfit(name, function, given)
  if misfit:
    return {"error": misfit}
  try:
    values = function(**_accepted(function, given))
    if inspect.isawaitable(values):
      values = _awaited(name, values)
  except (Exception, SystemExit, asyncio.CancelledError) as error:
    described = _described(error)
    return {"error": f"{head} failed: {described}{_of_thread(described)}"}
  # Iterables that are not lists of rewards: a set has no order, and iterating
  # bytes gives numbers by accident.
  if isinstance(values, (Mapping, Set, str, bytes, bytearray)) or not (
    isinstance(values, Iterable)
  ):
    return {"error": f"{head} returned {values!r:.100}, not a list of numbers"}
  try:
    values = list(values)
  except (Exception, SystemExit) as error:  # raised by a generator
    return {"error": f"{head} failed: {_described(error)}"}
  if len(values) != size:
    return {
      "error": f"{head} returned {len(values)} values for {size} completions"
    }
  # Only plain floats and None cross the pipe to the pool.
  plain = []
  for index, value in enumerate(values):
    number = _number(value)
    if number is not None and not scores.is_in_range(number):
      return {
        "error": f"{head} returned {value!r:.100} for completion {index}:"
        f" each value must be {_RANGE}, or None"
      }
    plain.append(number)
  return {"values": plain, "extra": extra, "metrics": metrics}


def _described(error: BaseException) -> str:
  """Says where a user's function failed, and how; its __str__ may raise."""
  try:
    return errors.describe(error)[:_MAX_ERROR]
  except Exception:
    return serving.describe(error)


def _of_thread(message: str) -> str:
  """Says what to do where only a main thread may set an alarm, or ""."""
  if threading.current_thread() is threading.main_thread() or not re.search(
    r"main thread|signal\.alarm", message
  ):
    return ""
  return (
    "; a function that Python hands over is called in a thread. Math-Verify"
    " works there with parse(..., parsing_timeout=None) and verify(...,"
    " timeout_seconds=None); or let the verifier 'math' judge, or name the"
    " function as 'file.py:function', which a process of its own calls in its"
    " main thread"
  )


def _number(value: Any) -> float | None:
  """Returns a value as a float, None for None, NaN if it is not a number."""
  if value is None:
    return None
  if isinstance(value, (str, bytes)):
    return math.nan
  try:
    return float(value)
  except Exception:
    return math.nan


def _accepted(
  function: Callable[..., Any], columns: dict[str, Any]
) -> dict[str, Any]:
  """Returns the arguments that a function's signature accepts."""
  try:
    parameters = inspect.signature(function).parameters
  except ValueError:  # of a function in C, which does not say
    return columns
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return columns
  return {key: value for key, value in columns.items() if key in parameters}


@functools.cache
def _resolve(name: str) -> Callable[..., Any]:
  """Imports a function, once per worker."""
  return serving.resolve(name)


# Event loop of each coroutine, kept so that its connections stay open.
_loops: dict[str, asyncio.AbstractEventLoop] = {}


def _awaited(name: str, values: Any) -> Any:
  """Returns the result of a coroutine."""
  loop = _loops.get(name)
  # One that runs belongs to a call that was given up.
  if loop is None or loop.is_running():
    loop = _loops[name] = asyncio.new_event_loop()
  return loop.run_until_complete(values)


def _give_up(name: str) -> None:
  """Cancels a coroutine that is not waited for, and forgets its loop."""
  loop = _loops.pop(name, None)
  if loop is not None and loop.is_running():
    loop.call_soon_threadsafe(_cancel, loop)


def _cancel(loop: asyncio.AbstractEventLoop) -> None:
  """Cancels all tasks of an event loop."""
  for task in asyncio.all_tasks(loop):
    task.cancel()
