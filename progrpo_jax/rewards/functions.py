"""The user's own reward functions, of the signature that TRL made common.

  f(prompts, completions, **columns) -> list of numbers

A function is named by "module:function" or "path/to/file.py:function" and is
called on a whole batch, in a process of the pool. It gets every further
column of the data as a list by its name. A None among its numbers says that
it has no opinion of that sample; a sample of which no function has one is
masked. Whatever else it does wrong is an error that names it.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import inspect
import math
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import score as scores
from progrpo_jax.rewards.score import Score

VERIFIER = "progrpo_jax.rewards.functions:score"
RESERVED = ("prompts", "completions")
_CALL = "progrpo_jax.rewards.functions:call"


class RewardFunctionError(InputError):
  """A reward function of the user did not do what it must."""


def evaluate(
    pool: pools.Pool,
    names: Sequence[str],
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    *,
    weights: Sequence[float] | None = None,
    deadline_s: float = 60.0,
) -> list[Score]:
  """Returns the weighted sum of the functions' values for each completion."""
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
  return combine(values, check_weights(names, weights))


def score(
    completion: str,
    reference: object,
    *,
    prompt: str,
    columns: Mapping[str, Any],
    functions: Sequence[str] = (),
    weights: Sequence[float] | None = None,
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
  return combine(values, check_weights(functions, weights))[0]


def combine(
    values: Sequence[Sequence[float | None]], weights: Sequence[float]
) -> list[Score]:
  """Adds up the values of several functions, sample by sample."""
  combined = []
  for sample in zip(*values):
    parts = [w * v for w, v in zip(weights, sample) if v is not None]
    if not parts:
      combined.append(Score(0.0, False, "refused"))
      continue
    reward = math.fsum(parts)
    combined.append(Score(reward, reward >= 1 - 1e-6, "ok"))
  return combined


def check_weights(
    names: Sequence[str], weights: Sequence[float] | None
) -> list[float]:
  """Returns one weight per function, 1.0 each if none are given."""
  if not names:
    raise InputError("no reward function is named")
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
    return {"error": f"{head} cannot be loaded: {pools.describe(error)}"}
  try:
    accepted = _accepted(function, columns)
    values = function(prompts=prompts, completions=completions, **accepted)
  except Exception as error:
    return {"error": f"{head} raised {pools.describe(error)}"}
  try:
    values = list(values)
  except TypeError:
    return {"error": f"{head} returned {values!r:.100}, not a list of numbers"}
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
  return pools.resolve(name)
