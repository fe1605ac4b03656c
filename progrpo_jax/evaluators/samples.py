"""Held-out samples: what the measures of an evaluation read."""

import dataclasses

import numpy as np

from progrpo_jax.tasks import base


@dataclasses.dataclass(frozen=True)
class Samples:
  """G verified samples of each of X problems.

  Attributes:
    rows: problems.
    texts_XG: text of each sample.
    correct_XG: bool, the strict verdict; False where the verifier failed.
    valid_XG: bool, False where the verifier failed.
    distinct_correct_X: number of different right answers to each problem.
    entropy_XG: mean entropy over the tokens of each sample, in nats.
    length_XG: number of tokens of each sample that the policy wrote, including
      the stop token.
    tokens_XG: tokens of each sample, without stop tokens.
    vocab_size: size of the tokenizer's vocabulary.
    tolerant_XG: bool, the verdict that forgives a wrong format; None if it was
      not computed.
    extra_XG: additions of the user's reward functions to each saved sample.
    logged: (name, value) of the metrics that these functions log.
  """

  rows: tuple[base.Row, ...]
  texts_XG: tuple[tuple[str, ...], ...]
  correct_XG: np.ndarray
  valid_XG: np.ndarray
  distinct_correct_X: np.ndarray
  entropy_XG: np.ndarray
  length_XG: np.ndarray
  tokens_XG: tuple[tuple[tuple[int, ...], ...], ...]
  vocab_size: int
  tolerant_XG: np.ndarray | None = None
  extra_XG: tuple[tuple[dict, ...], ...] = ()
  logged: tuple[tuple[str, float], ...] = ()
