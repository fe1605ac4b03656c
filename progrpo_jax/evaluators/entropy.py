"""Entropy of a policy over the tokens of held-out samples."""

from collections.abc import Iterator

import numpy as np

from progrpo_jax.evaluators import samples as samples_lib


def measure(samples: samples_lib.Samples) -> Iterator[tuple[str, float]]:
  """Measures the entropy and length of held-out samples.

  Args:
    samples: held-out samples.

  Yields:
    `entropy`, the mean over tokens of the entropy over the vocabulary at the
    sampling temperature, in nats; `entropy_correct`, the same over the tokens
    of correct samples, if there are any; `mean_length` in tokens.
  """
  length = np.asarray(samples.length_XG, np.float64)
  # Sums over tokens, so that the means weight every token equally.
  total = np.asarray(samples.entropy_XG, np.float64) * length
  yield "entropy", float(total.sum() / max(length.sum(), 1))
  right = np.asarray(samples.correct_XG, bool)
  if right.any():
    yield (
      "entropy_correct",
      float(total[right].sum() / max(length[right].sum(), 1)),
    )
  yield "mean_length", float(length.mean())
