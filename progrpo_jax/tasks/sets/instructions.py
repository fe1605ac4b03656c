"""What the published sets of verifiable instructions share."""

from collections.abc import Mapping
import json
from typing import Any

from progrpo_jax.rewards import instruction
from progrpo_jax.tasks.sets import schema

VERIFIER = "progrpo_jax.rewards.instruction:score"


def problem(prompt: str, names: Any, kwargs: Any) -> schema.Problem:
  """Returns a problem of IFEval's two lists.

  Arguments that are null, which tables have for those of the other
  instructions, are dropped; a null in place of all arguments is none.
  """
  if isinstance(kwargs, str):
    try:
      kwargs = json.loads(kwargs)
    except (ValueError, RecursionError) as error:
      raise schema.BadRow(f"kwargs is not JSON ({error})") from error
  if not isinstance(names, list) or not isinstance(kwargs, list):
    raise schema.BadRow("instruction_id_list and kwargs are not both lists")
  for name in names:
    if name not in instruction.IDS:
      raise schema.LeftOut(f"no check of {name!r:.60}")
  reference = {
      "instruction_id_list": names, "kwargs": [_given(k) for k in kwargs]}
  return schema.Problem(prompt, reference)


def _given(arguments: Any) -> Any:
  """Returns the arguments that are not null."""
  if arguments is None:
    return {}
  if not isinstance(arguments, Mapping):
    return arguments
  return {key: v for key, v in arguments.items() if v is not None}
