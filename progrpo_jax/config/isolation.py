"""What a run that executes programs of its policy asks of the machine.

Programs are run by the verifier of code in a jail (rewards/sandbox). Where
there is none, every sample would be refused; so a run says so at its start.
"""

from collections.abc import Iterator, Mapping
import inspect
from typing import Any

from progrpo_jax import errors
from progrpo_jax.rewards import code, sandbox
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs

# Seconds that the verifier needs beside its programs: a jail's start, and
# the end of a program that has to be killed.
MARGIN_S = 2.0

_GRADES = {
    1: "none, programs run unconfined",
    2: "namespaces",
    3: "namespaces and a filter of system calls",
}


def is_needed(c) -> bool:
  """Whether a task of the config has programs run."""
  return any(True for _ in _limits(c))


def options(c) -> dict[str, dict[str, Any]]:
  """What the verifiers are given on this machine, beside a row's own."""
  if not c.rewards.allow_unsafe_code:
    return {}
  return {programs.VERIFIER: {"allow_unsafe": True}}


def check(c) -> None:
  """Refuses a config whose programs cannot be run, or not in time.

  Raises:
    InputError: naming the key, and what to do.
  """
  for key, limit in _limits(c):
    if limit + MARGIN_S > c.rewards.deadline_s:
      raise errors.InputError(
          f"config.rewards.deadline_s = {c.rewards.deadline_s:g}: must be at"
          f" least {limit + MARGIN_S:g}, {MARGIN_S:g} more than {key}"
          f" ({limit:g}), or a program that is too slow would be taken for a"
          " verifier that fails")
  if is_needed(c):
    backend(c.rewards.allow_unsafe_code)


def backend(allow_unsafe: bool) -> sandbox.Backend:
  """Returns what isolates programs here, or raises InputError."""
  try:
    return sandbox.choose(allow_unsafe=allow_unsafe)
  except sandbox.Refused as error:
    raise errors.InputError(
        f"a task has programs of the policy run, and {error} Here that is"
        " config.rewards.allow_unsafe_code; the other way is to leave the"
        " tasks of code out of config.data.tasks") from error
  except sandbox.NoAnswer as error:
    raise errors.InputError(
        f"the jail for programs of the policy did not start ({error}): is the"
        " machine very busy? Try again") from error


def describe() -> str:
  """Says in a line how programs are isolated here."""
  try:
    found = sandbox.best()
  except sandbox.NoAnswer as error:
    return f"not known ({error})"
  if not found.grade:
    return f"none ({found.reason})"
  return f"grade {found.grade}: {_GRADES[found.grade]} ({found.name})"


def _limits(c) -> Iterator[tuple[str, float]]:
  """Yields (key, seconds) for each task of the config that runs programs."""
  usual = inspect.signature(code.score).parameters["time_limit_s"].default
  for name, spec in c.data.tasks.items():
    given = dict(spec.get("options", {}))
    changed = dict(given.get("verifier_options") or {})
    where = f"config.data.tasks.{name}.options.verifier_options.time_limit_s"
    task = spec.get("module") or name
    if _runs_programs(task) or given.get("verifier") == programs.VERIFIER:
      yield where, float(
          changed.get("time_limit_s", _of_set(task).get("time_limit_s", usual)))
    for other in given.get("validation") or ():
      if isinstance(other, str) and _runs_programs(other):
        limit = _of_set(other).get("time_limit_s", usual)
        yield f"the time limit of {other}, held out by {name},", float(limit)


def _runs_programs(task: str) -> bool:
  """Whether a task's verifier runs what it is given."""
  return base.resolve(task).VERIFIER == programs.VERIFIER


def _of_set(task: str) -> Mapping[str, Any]:
  """The verifier's arguments that a published set brings along."""
  published = getattr(base.resolve(task), "SET", None)
  return published.meta if published else {}
