"""The user's own reward functions, of the signature that TRL made common.

  f(prompts, completions, **columns) -> list of numbers

A function is named by "module:function" or "path/to/file.py:function" and is
called on a whole batch, in a process of the pool. It gets every further
column of the data as a list by its name. A None among its numbers says that
it has no opinion of that sample. Whatever else it does wrong is an error that
names it.

The reward is the weighted sum of the values. Whether a sample is right is not
read off that sum, where a penalty on the length would make a right answer
wrong: one of the functions decides it by its own value, and a sample of which
that one has no opinion is masked.
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
_ROUNDING = 1e-6  # a sum of tenths may fall this short of the threshold


class RewardFunctionError(InputError):
  """A reward function of the user did not do what it must."""


class Judged(NamedTuple):
  """What several functions say of a batch.

  Attributes:
    scores: of each completion.
    values: of each completion, a value of each function in their order; None
      where it has no opinion.
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
    pool: makes the calls.
    names: of the functions.
    prompts: one for each completion.
    completions: texts of the model.
    columns: of the data, each a list with an entry for each completion.
    weights: of the functions' values in the reward; 1.0 each if None.
    correct_by: function whose value decides what is right; see `find_decider`.
    correct_threshold: the least value that is right.
    deadline_s: the longest that a function may take for the batch.

  Raises:
    InputError: a function does not do what it must, or the arguments do not
      fit together.
  """
  weights = check_weights(names, weights)
  deciding = find_decider(names, correct_by)
  _check_columns(columns)
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
  samples = list(zip(*values))
  return Judged(
      combine(samples, weights, deciding, correct_threshold), samples)


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
  """Scores one completion of a user's row, by a verifier or by functions."""
  if verifier is not None:
    judge = _resolve(verifier)
    return scores.check(judge(completion, reference, **(options or {})))
  values = []
  for name in functions:
    one = {key: [value] for key, value in columns.items()}
    result = call(name, [prompt], [completion], one)
    if "error" in result:
      raise RewardFunctionError(result["error"])
    values.append(result["values"])
  return combine(
      list(zip(*values)), check_weights(functions, weights),
      find_decider(functions, correct_by), correct_threshold)[0]


def combine(
    samples: Sequence[Sequence[float | None]],
    weights: Sequence[float],
    deciding: int,
    threshold: float,
) -> list[Score]:
  """Returns the weighted sum and the verdict of each sample.

  Args:
    samples: values of all functions for each sample, None for no opinion,
      which adds nothing to the sum.
    weights: of the functions.
    deciding: number of the function whose value decides what is right.
    threshold: the least value of that function that is right.
  """
  combined = []
  for sample in samples:
    verdict = sample[deciding]
    if verdict is None:
      combined.append(Score(0.0, False, "refused"))
      continue
    reward = math.fsum(
        w * v for w, v in zip(weights, sample) if v is not None)
    combined.append(Score(reward, verdict >= threshold - _ROUNDING, "ok"))
  return combined


def labels(names: Sequence[str]) -> list[str]:
  """Returns the names of functions in metrics, no two of them the same.

  A function goes by its own name; where two share one, as much of the path
  before it is added as tells them apart: "mine.close", "yours.close".
  """
  words = [re.split(r"[/\\.:]+", n.replace(".py:", ":")) for n in names]
  short = []
  for name, mine in zip(names, words):
    label = name.replace("/", ".")
    for size in range(1, len(mine) + 1):
      if sum(other[-size:] == mine[-size:] for other in words) == 1:
        label = ".".join(mine[-size:])
        break
    short.append(label)
  return short


def find_decider(names: Sequence[str], correct_by: str | None) -> int:
  """Returns the number of the function that decides what is right.

  Args:
    names: of the functions.
    correct_by: one of them, as it is named there, or its label; may be None
      where there is only one.

  Raises:
    InputError: there are several and none is chosen, or the chosen one is
      none of them.
  """
  short = labels(names)
  if correct_by is None:
    if len(names) == 1:
      return 0
    raise InputError(
        f"{len(names)} reward functions ({', '.join(short)}): say by"
        f" correct_by which of them decides whether a completion is right, as"
        f" in correct_by={short[0]!r}")
  for known in (names, short):
    if correct_by in known:
      return list(known).index(correct_by)
  close = difflib.get_close_matches(correct_by, short, n=1)
  hint = f"; did you mean {close[0]!r}?" if close else ""
  raise InputError(
      f"correct_by={correct_by!r} is none of the reward functions"
      f" {', '.join(short)}{hint}")


def check_weights(
    names: Sequence[str], weights: Sequence[float] | None
) -> list[float]:
  """Returns one weight per function, 1.0 each if none are given.

  Raises:
    InputError: no function, one twice, or another number of weights.
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
  """Refuses columns whose names a function's own arguments have."""
  for name in RESERVED:
    if name in columns:
      raise InputError(f"a column may not be called {name!r}")


def call(
    name: str,
    prompts: list[str],
    completions: list[str],
    columns: dict[str, list[Any]],
) -> dict[str, Any]:
  """Runs in a worker: returns {"values": ...} or {"error": what is wrong}."""
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
  # Keys are no rewards, a set has no order, and bytes are numbers by accident.
  if isinstance(values, (Mapping, Set, str, bytes, bytearray)) or not (
      isinstance(values, Iterable)):
    return {"error": f"{head} returned {values!r:.100}, not a list of numbers"}
  try:
    values = list(values)
  except Exception as error:  # of a generator
    return {"error": f"{head} raised {serving.describe(error)}"}
  if len(values) != len(completions):
    return {
        "error": f"{head} returned {len(values)} values for"
        f" {len(completions)} completions"
    }
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
  """Returns a value as a float, None for None, NaN for what is no number."""
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
  """Returns the columns that a function without **kwargs has a place for."""
  parameters = inspect.signature(function).parameters
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return columns
  return {key: value for key, value in columns.items() if key in parameters}


@functools.cache
def _resolve(name: str) -> Callable[..., Any]:
  """Loads a function once per worker."""
  return serving.resolve(name)
