"""The user's reward functions, with the signature that TRL uses.

  f(prompts, completions, **columns) -> list of numbers

A function is named by "module:function" or "path/to/file.py:function" and is
called on a whole batch, in a process of the pool. It gets the other columns of
the data as lists, by name. A value of None means that it has no opinion of a
sample. Any other misbehaviour is an error that names the function.

The reward is the weighted sum of the values. One of the functions decides by
its own value whether a sample is correct, and a sample of which it has no
opinion is masked. The sum would not do, since a length penalty could turn a
correct answer into a wrong one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
import difflib
import functools
import inspect
import math
import re
from typing import Any, NamedTuple

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import score as scores
from progrpo_jax.rewards import serving
from progrpo_jax.rewards.score import Score

VERIFIER = "progrpo_jax.rewards.functions:score"
RESERVED = ("prompts", "completions")
_CALL = "progrpo_jax.rewards.functions:call"
_ROUNDING = 1e-6  # tolerance at the threshold for rounding errors in values


class RewardFunctionError(InputError):
  """A reward function of the user failed or returned unusable values."""


class Judged(NamedTuple):
  """Result of several functions on a batch.

  Attributes:
    scores: score of each completion.
    values: value of each function, for each completion; None where a function
      has no opinion.
  """

  scores: list[Score]
  values: list[tuple[float | None, ...]]


def evaluate(
  pool: pools.Pool,
  names: Sequence[str],
  prompts: Sequence[str],
  completions: Sequence[str],
  columns: Mapping[str, Sequence[Any]],
  *,
  weights: Sequence[float] | None = None,
  correct_by: str | None = None,
  correct_threshold: float = 1.0,
  deadline_s: float = 60.0,
) -> Judged:
  """Calls functions of the user on a batch of completions.

  Args:
    pool: pool that makes the calls.
    names: names of the functions.
    prompts: prompt of each completion.
    completions: texts of the model.
    columns: further columns of the data, with one entry per completion.
    weights: weight of each function in the reward; None weighs all 1.0.
    correct_by: function that decides correctness, see `find_decider`.
    correct_threshold: smallest value of that function that is correct.
    deadline_s: time limit of each function for the batch.

  Raises:
    InputError: a function fails, or the arguments do not fit together.
  """
  weights = check_weights(names, weights)
  deciding = find_decider(names, correct_by)
  _check_columns(columns)
  # One call per function on the whole batch; any failure ends the run.
  batch = [list(prompts), list(completions), dict(columns)]
  calls = [pools.Call(_CALL, [name, *batch], {}) for name in names]
  outcomes = pool.run(calls, deadline_s=deadline_s)
  values = []
  for name, outcome in zip(names, outcomes):
    if outcome.status == "timeout":
      raise RewardFunctionError(
        f"reward function {name} did not return within {deadline_s:g} s on"
        f" {len(batch[1])} completions"
      )
    if outcome.status != "ok":
      raise RewardFunctionError(f"reward function {name}: {outcome.reason}")
    if "error" in outcome.value:
      raise RewardFunctionError(outcome.value["error"])
    values.append(outcome.value["values"])
  samples = list(zip(*values))  # from one list per function to one per sample
  return Judged(combine(samples, weights, deciding, correct_threshold), samples)


def score(
  completion: str,
  reference: object,
  *,
  prompt: str,
  columns: Mapping[str, Any],
  functions: Sequence[str] = (),
  weights: Sequence[float] | None = None,
  correct_by: str | None = None,
  correct_threshold: float = 1.0,
  verifier: str | None = None,
  options: Mapping[str, Any] | None = None,
) -> Score:
  """Scores one completion of the task jsonl, by a verifier or by functions.

  Args:
    completion: text of the model.
    reference: column `answer` of the row.
    prompt: prompt of the row.
    columns: further columns of the row.
    functions: names of reward functions.
    weights: weight of each function in the reward; None weighs all 1.0.
    correct_by: function that decides correctness, see `find_decider`.
    correct_threshold: smallest value of that function that is correct.
    verifier: name of a verifier, in place of reward functions.
    options: keyword arguments of the verifier.

  Raises:
    InputError: a function fails, or the arguments do not fit together.
  """
  if verifier is not None:
    verify = _resolve(verifier)
    return scores.check(verify(completion, reference, **(options or {})))
  values = []
  for name in functions:
    batch = {key: [value] for key, value in columns.items()}
    result = call(name, [prompt], [completion], batch)
    if "error" in result:
      raise RewardFunctionError(result["error"])
    values.append(result["values"])
  return combine(
    list(zip(*values)),
    check_weights(functions, weights),
    find_decider(functions, correct_by),
    correct_threshold,
  )[0]


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
  """
  combined = []
  for sample in samples:
    verdict = sample[deciding]
    if verdict is None:
      combined.append(Score(0.0, False, "refused"))
      continue
    reward = math.fsum(w * v for w, v in zip(weights, sample) if v is not None)
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
  close = difflib.get_close_matches(correct_by, short, n=1)
  hint = f"; did you mean {close[0]!r}?" if close else ""
  raise InputError(
    f"correct_by={correct_by!r} is none of the reward functions"
    f" {', '.join(short)}{hint}"
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
  prompts: list[str],
  completions: list[str],
  columns: dict[str, list[Any]],
) -> dict[str, Any]:
  """Calls a reward function; runs in a worker.

  Args:
    name: name of the function.
    prompts: prompt of each completion.
    completions: texts of the model.
    columns: further columns, with one entry per completion.

  Returns:
    {"values": list of numbers or None}, or {"error": message}.
  """
  head = f"reward function {name}"
  try:
    function = _resolve(name)
  except Exception as error:
    return {"error": f"{head} cannot be loaded: {serving.describe(error)}"}
  try:
    accepted = _accepted(function, columns)
    values = function(prompts=prompts, completions=completions, **accepted)
  except Exception as error:
    return {"error": f"{head} raised {serving.describe(error)}"}
  # Iterables that are not lists of rewards: a set has no order, and iterating
  # bytes gives numbers by accident.
  if isinstance(values, (Mapping, Set, str, bytes, bytearray)) or not (
    isinstance(values, Iterable)
  ):
    return {"error": f"{head} returned {values!r:.100}, not a list of numbers"}
  try:
    values = list(values)
  except Exception as error:  # raised by a generator
    return {"error": f"{head} raised {serving.describe(error)}"}
  if len(values) != len(completions):
    return {
      "error": f"{head} returned {len(values)} values for"
      f" {len(completions)} completions"
    }
  # Only plain floats and None cross the pipe to the pool.
  plain = []
  for index, value in enumerate(values):
    number = _number(value)
    if number is not None and not math.isfinite(number):
      return {
        "error": f"{head} returned {value!r:.100} for completion {index}:"
        " each value must be a finite number or None"
      }
    plain.append(number)
  return {"values": plain}


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
  """Returns the columns that a function's signature accepts."""
  parameters = inspect.signature(function).parameters
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return columns
  return {key: value for key, value in columns.items() if key in parameters}


@functools.cache
def _resolve(name: str) -> Callable[..., Any]:
  """Imports a function, once per worker."""
  return serving.resolve(name)
