"""IFEval: 541 prompts with instructions that a program can check; evaluation.

  prompt  Write a 300+ word summary of the wikipedia page "..." Do not use
          any commas and highlight at least 3 sections ...
  answer  *first* ... *second* ... *third* ... (no comma, 300 words)

Zhou et al. 2023, as the hub's google/IFEval has it: lines with key, prompt,
instruction_id_list and kwargs, a record for each instruction, whose nulls are
dropped. Evaluation is strict and all or nothing, as the published
prompt-level score; `verifier_options` changes that.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import instructions, published, schema, texts

VERIFIER = instructions.VERIFIER


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Takes the columns as they are."""
  return instructions.problem(
      schema.text(record, "prompt"), record["instruction_id_list"],
      record["kwargs"])


SET = schema.Set(
    name="ifeval",
    domain="instructions",
    repo="google/IFEval",
    verifier=VERIFIER,
    files=lambda _: (schema.File("validation", "ifeval_input_data.jsonl"),),
    columns=("prompt", "instruction_id_list", "kwargs"),
    row=_row,
    templates=texts.PLAIN,
    meta={"binary": True},
)


def load(split: str, **options: Any) -> base.Source:
  """Returns a split; options as in `published.rows`."""
  return published.rows(SET, split, **options)
