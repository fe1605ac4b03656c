"""How undecided a policy is, token by token."""

from collections.abc import Iterator

import numpy as np


def measure(samples) -> Iterator[tuple[str, float]]:
  """Entropy over tokens of all samples and of the correct ones, and length.

  Yields:
    `entropy`, the mean over tokens of the entropy over the vocabulary at the
    sampling temperature, in nats; `entropy_correct`, the same over correct
    samples, if there are any; `mean_length` in tokens.
  """
  length = np.asarray(samples.length_XN, np.float64)
  total = np.asarray(samples.entropy_XN, np.float64) * length
  yield "entropy", float(total.sum() / max(length.sum(), 1))
  right = np.asarray(samples.correct_XN, bool)
  if right.any():
    yield "entropy_correct", float(
        total[right].sum() / max(length[right].sum(), 1))
  yield "mean_length", float(length.mean())
