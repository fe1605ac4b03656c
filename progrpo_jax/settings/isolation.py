"""Checks that this machine can run programs written by the policy.

The verifier of code runs them in a jail (rewards/sandbox). Without one it would
refuse every sample, so a run that needs a jail checks for it at its start.
"""

from collections.abc import Iterator, Mapping
import inspect
from typing import Any

from progrpo_jax import errors
from progrpo_jax.rewards import code, sandbox
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import programs

# Seconds that the verifier needs beside a program's time limit: to start a
# jail, and to kill a program that is too slow.
MARGIN_S = 2.0

_GRADES = {
  1: "none, programs run unconfined",
  2: "namespaces",
  3: "namespaces and a filter of system calls",
}


def is_needed(c) -> bool:
  """Returns whether a task of the config has programs run."""
  return any(True for _ in _limits(c))


def options(c) -> dict[str, dict[str, Any]]:
  """Returns verifier -> options that depend on this machine.

  They come on top of the options in a row of data.
  """
  if not c.rewards.allow_unsafe_code:
    return {}
  return {programs.VERIFIER: {"allow_unsafe": True}}


def check(c) -> None:
  """Refuses a config if its programs cannot be run, or not in time.

  Raises:
    InputError: a deadline is too short, or there is no jail; the message
      names the key and what to do.
  """
  for key, limit in _limits(c):
    if limit + MARGIN_S > c.rewards.deadline_s:
      raise errors.InputError(
        f"config.rewards.deadline_s = {c.rewards.deadline_s:g}: must be at"
        f" least {limit + MARGIN_S:g}, {MARGIN_S:g} more than {key}"
        f" ({limit:g}), or a program that is too slow would count as a"
        " failure of the verifier"
      )
  if is_needed(c):
    backend(c.rewards.allow_unsafe_code)


def backend(allow_unsafe: bool) -> sandbox.Backend:
  """Returns the jail of this machine.

  Args:
    allow_unsafe: whether no jail at all is accepted too.

  Raises:
    InputError: there is none, or it did not start.
  """
  try:
    return sandbox.choose(allow_unsafe=allow_unsafe)
  except sandbox.Refused as error:
    raise errors.InputError(
      f"a task runs programs of the policy, and {error} The key for that is"
      " config.rewards.allow_unsafe_code; or remove the tasks of code from"
      " config.data.tasks"
    ) from error
  except sandbox.NoAnswer as error:
    raise errors.InputError(
      f"the jail for programs of the policy did not start ({error}); the"
      " machine may be very busy. Try again"
    ) from error


def describe() -> str:
  """Returns a line on how programs are isolated on this machine."""
  try:
    jail = sandbox.best()
  except sandbox.NoAnswer as error:
    return f"not known ({error})"
  if not jail.grade:
    return f"none ({jail.reason})"
  return f"grade {jail.grade}: {_GRADES[jail.grade]} ({jail.name})"


def _limits(c) -> Iterator[tuple[str, float]]:
  """Yields (key, time limit in seconds) of each task that runs programs."""
  default = inspect.signature(code.score).parameters["time_limit_s"].default
  for name, spec in c.data.tasks.items():
    task_options = dict(spec.get("options", {}))
    verifier_options = dict(task_options.get("verifier_options") or {})
    where = f"config.data.tasks.{name}.options.verifier_options.time_limit_s"
    task = spec.get("module") or name
    # The config's limit precedes the set's, and that the verifier's default.
    if runs_programs(task, task_options):
      yield (
        where,
        float(
          verifier_options.get(
            "time_limit_s", _set_options(task).get("time_limit_s", default)
          )
        ),
      )
    # Held-out sets of the task have their own verifiers.
    for held_out in task_options.get("validation") or ():
      if isinstance(held_out, str) and runs_programs(held_out, {}):
        limit = _set_options(held_out).get("time_limit_s", default)
        yield f"the time limit of {held_out}, held out by {name},", float(limit)


def runs_programs(task: str, task_options: Mapping[str, Any]) -> bool:
  """Returns whether a task's verifier runs programs.

  Args:
    task: name of the task, or import path of its module.
    task_options: its options, which may name another verifier.
  """
  named = task_options.get("verifier")
  return programs.VERIFIER in (
    base.resolve(task).VERIFIER,
    base.named_verifier(named) if isinstance(named, str) and named else None,
  )


def _set_options(task: str) -> Mapping[str, Any]:
  """Returns the verifier's options that a published set declares."""
  published = getattr(base.resolve(task), "SET", None)
  return published.meta if published else {}
