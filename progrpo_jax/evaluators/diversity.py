"""How different the answers to a prompt are, in plain Python.

Garbage is diverse, so every measure is worth more over the correct answers
than over all. `distinct_correct` is the cleanest: it counts ways of being
right.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np

from progrpo_jax.tasks import base


def collapse_spaces(text: str) -> str:
  """The text with every run of white space made one space, none at the ends."""
  return " ".join(text.split())


def distinct_correct(
    texts: Sequence[str], correct: Sequence[bool],
    canonical: Callable[[str], Hashable] | None = None,
) -> int:
  """Number of different correct answers to one prompt.

  Args:
    texts: the answers.
    correct: which of them are right.
    canonical: maps an answer to what makes it itself (the solution without
      the prose around it, say); two answers are one if it is equal. None
      compares the texts but for white space.

  Returns:
    The count; it grows with the number of samples, so compare like with like.

  Raises:
    ValueError: the lengths differ.
  """
  if len(texts) != len(correct):
    raise ValueError(f"{len(texts)} texts but {len(correct)} verdicts")
  canonical = collapse_spaces if canonical is None else canonical
  return len({
      canonical(text) for text, right in zip(texts, correct) if right})


def ngram_counts(
    texts: Sequence[str | Sequence[Hashable]], n: int) -> tuple[int, int]:
  """Distinct and total n-grams of some texts, none across two texts.

  Args:
    texts: sequences of tokens (ids or words); a string is cut at white space.
    n: length of the n-grams, at least 1.

  Returns:
    (distinct, total).

  Raises:
    ValueError: `n` is below 1.
  """
  if n < 1:
    raise ValueError(f"n-grams need n >= 1, got {n}")
  distinct, total = set(), 0
  for text in texts:
    tokens = text.split() if isinstance(text, str) else text
    ngrams = [
        tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1)]
    distinct.update(ngrams)
    total += len(ngrams)
  return len(distinct), total


def distinct_n(texts: Sequence[str | Sequence[Hashable]], n: int) -> float:
  """Share of the n-grams that are distinct; 0 where there are none.

  It falls with the amount of text even where the style does not change: fix
  the length, or use `ead`.

  See "A Diversity-Promoting Objective Function"
  (https://arxiv.org/abs/1510.03055), where it is distinct-1 and distinct-2.

  Args:
    texts: as for `ngram_counts`.
    n: as for `ngram_counts`.

  Returns:
    The share, in [0, 1].
  """
  distinct, total = ngram_counts(texts, n)
  return distinct / total if total else 0.0


def ead(num_distinct: int, num_total: int, vocab_size: int) -> float:
  """Expectation-adjusted distinct: distinct n-grams over those to expect.

  N / (V (1 - ((V - 1) / V)^C)): the denominator is the number of different
  tokens among C that are drawn uniformly from V, so that length cancels.

  See "Rethinking and Refining the Distinct Metric"
  (https://arxiv.org/abs/2202.13587).

  Args:
    num_distinct: N.
    num_total: C.
    vocab_size: V, at least 1.

  Returns:
    The ratio, 0 where there are no tokens.

  Raises:
    ValueError: `vocab_size` is below 1.
  """
  if vocab_size < 1:
    raise ValueError(f"vocab_size must be at least 1, got {vocab_size}")
  if num_total == 0:
    return 0.0
  expected = vocab_size * (1 - ((vocab_size - 1) / vocab_size) ** num_total)
  return num_distinct / expected


def measure(samples) -> Iterator[tuple[str, float]]:
  """Different correct answers of held-out samples.

  Yields:
    `distinct_correct`, the mean over problems of the number of different
    correct answers among the n samples, equal answers being recognised by the
    task's own `canonical`.
  """
  counts = [
      distinct_correct(
          texts, correct, lambda text, row=row: base.canonical(text, row))
      for row, texts, correct in zip(
          samples.rows, samples.texts_XN, samples.correct_XN)]
  yield "distinct_correct", float(np.mean(counts))
