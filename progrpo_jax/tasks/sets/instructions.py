"""Code shared by the published sets of verifiable instructions."""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.rewards import instruction
from progrpo_jax.tasks.sets import schema

VERIFIER = "progrpo_jax.rewards.instruction:score"


def problem(prompt: str, names: Any, kwargs: Any) -> schema.Problem:
  """Returns a problem of IFEval's format.

  Tables have one column per argument of any instruction, with null where an
  instruction does not take it, so null arguments are dropped.

  Args:
    prompt: text for the policy.
    names: list of instruction ids.
    kwargs: arguments of each instruction, a list or JSON of a list.

  Raises:
    schema.BadRow: names or kwargs are malformed.
    schema.LeftOut: an instruction has no check.
  """
  if isinstance(kwargs, str):
    kwargs = schema.parse_json(kwargs, "kwargs")
  if not isinstance(names, list) or not isinstance(kwargs, list):
    raise schema.BadRow("instruction_id_list and kwargs are not both lists")
  for name in names:
    if name not in instruction.IDS:
      raise schema.LeftOut(f"no check of {name!r:.60}")
  reference = {
    "instruction_id_list": names,
    "kwargs": [_given(k) for k in kwargs],
  }
  return schema.Problem(prompt, reference)


def _given(arguments: Any) -> Any:
  """Returns the arguments that are not null; {} in place of null."""
  if arguments is None:
    return {}
  if not isinstance(arguments, Mapping):
    return arguments
  return {key: v for key, v in arguments.items() if v is not None}
