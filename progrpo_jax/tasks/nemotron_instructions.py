"""Llama-Nemotron's instruction following: synthetic prompts, IFEval's form.

  prompt  Write a short story about a lighthouse keeper. Your response should
          have 3 sections. Mark the beginning of each with SECTION X. ...
  answer  SECTION 1 ... SECTION 2 ... SECTION 3 ...

NVIDIA 2025, the part for reinforcement learning of the hub's
nvidia/Llama-Nemotron-Post-Training-Dataset; ProRL's instruction following.
Lines with the prompt as a text (prompt) or messages (input), and
instruction_id_list and kwargs, at the top or inside of args; which of these
a release has is from memory, so all are read. Instructions that IFEval does
not have leave the row out. The reward is the share that is followed.
"""

from collections.abc import Mapping
import json
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import instructions, published, schema, texts

VERIFIER = instructions.VERIFIER


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Finds the prompt and the instructions."""
  column = "prompt" if record.get("prompt") is not None else "input"
  holder = record
  if record.get("instruction_id_list") is None:
    holder = record.get("args")
    if isinstance(holder, str):
      try:
        holder = json.loads(holder)
      except (ValueError, RecursionError) as error:
        raise schema.BadRow(f"args is not JSON ({error})") from error
  if not isinstance(holder, Mapping):
    raise schema.BadRow("no instruction_id_list, nor args that hold one")
  return instructions.problem(
      texts.user_text(record.get(column), column),
      holder.get("instruction_id_list"), holder.get("kwargs"))


SET = schema.Set(
    name="nemotron_instructions",
    domain="instructions",
    repo="nvidia/Llama-Nemotron-Post-Training-Dataset",
    verifier=VERIFIER,
    files=lambda options: (schema.File("train", options["file"]),),
    columns=(("prompt", "input"), ("instruction_id_list", "args")),
    row=_row,
    templates=texts.PLAIN,
    options={"file": "RL/instruction_following/instruction_following.jsonl"},
    against=("ifeval",),
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`, and the set's own."""
  return published.rows(SET, split, **options)
