"""A task for tests: MMLU-Pro's form, with a split to train on."""

import dataclasses

from progrpo_jax.tasks import mmlu_pro
from progrpo_jax.tasks.sets import published, schema

VERIFIER = mmlu_pro.VERIFIER

SET = dataclasses.replace(
  mmlu_pro.SET,
  name="tests.trained_choice",
  files=lambda _: (
    schema.File("train", "train.parquet"),
    schema.File("validation", "test.parquet"),
  ),
)


def load(split, **options):
  return published.rows(SET, split, **options)
