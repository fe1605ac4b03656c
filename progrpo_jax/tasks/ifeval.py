"""IFEval: 541 prompts with verifiable instructions, for evaluation.

  prompt  Write a 300+ word summary of the wikipedia page "..." Do not use
          any commas and highlight at least 3 sections ...
  answer  *first* ... *second* ... *third* ... (no comma, 300 words)

Zhou et al. 2023, hub repository google/IFEval: lines with key, prompt,
instruction_id_list and kwargs (one record per instruction, null where an
argument does not apply). An answer scores 1 if it strictly follows all
instructions and 0 otherwise, like the published prompt-level accuracy;
`verifier_options` changes that.
"""

from typing import Any

from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import instructions, published, schema, texts

VERIFIER = instructions.VERIFIER


def _row(record: dict[str, Any], _) -> schema.Problem:
  """Converts a row."""
  return instructions.problem(
    schema.text(record, "prompt"),
    record["instruction_id_list"],
    record["kwargs"],
  )


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
  """Returns a split; options of `published.rows`."""
  return published.rows(SET, split, **options)
