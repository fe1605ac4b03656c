"""Llama-Nemotron's instruction following: synthetic prompts as in IFEval.

  prompt  Write a short story about a lighthouse keeper. Your response should
          have 3 sections. Mark the beginning of each with SECTION X. ...
  answer  SECTION 1 ... SECTION 2 ... SECTION 3 ...

NVIDIA 2025, hub repository nvidia/Llama-Nemotron-Post-Training-Dataset, the
part for reinforcement learning. ProRL's training set of instruction following.
Lines with the prompt as a text (prompt) or messages (input), and with
instruction_id_list and kwargs at the top or inside args; all these forms are
read, since it could not be checked which one a release has. Rows with an
instruction that IFEval does not have are left out. The reward is the share of
instructions followed.
"""

from collections.abc import Mapping
from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import instructions, published, schema, texts

VERIFIER = instructions.VERIFIER


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Converts a row of any of the forms."""
  column = "prompt" if record.get("prompt") is not None else "input"
  holder = record
  if record.get("instruction_id_list") is None:
    holder = record.get("args")
    if isinstance(holder, str):
      holder = schema.parse_json(holder, "args")
  if not isinstance(holder, Mapping):
    raise schema.BadRow("no instruction_id_list, and no args that hold one")
  return instructions.problem(
    texts.user_text(record.get(column), column),
    holder.get("instruction_id_list"),
    holder.get("kwargs"),
  )


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
  """Returns a split; options of `published.rows` and of SET."""
  return published.rows(SET, split, **options)
