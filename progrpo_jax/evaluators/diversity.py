"""Diversity of the answers to a prompt, in plain Python.

Garbage is diverse too, so every measure says more over correct answers than
over all answers. The clearest one is `distinct_correct`, the number of
different correct answers.
"""

import bisect
import collections
from collections.abc import Callable, Hashable, Iterator, Sequence
import math

import numpy as np

from progrpo_jax.evaluators import samples as samples_lib
from progrpo_jax.tasks import base

# Limits on what the n-gram measures read per problem. Samples are independent,
# so the first ones are representative, and self-BLEU is comparable only for the
# same number of texts. An evaluation reads at most problems * 16 * 512 tokens
# per n-gram length: about 5 s on one core for 64 problems with the longest
# samples.
MAX_SAMPLES = 16
MAX_TOKENS = 512
_ORDERS = 4  # BLEU compares n-grams of 1 to 4 tokens
_UNMATCHED = 0.1  # matches assumed where no n-gram of a length matches


def collapse_spaces(text: str) -> str:
  """Strips a text and replaces each run of white space by one space."""
  return " ".join(text.split())


def distinct_correct(
  texts: Sequence[str],
  correct: Sequence[bool],
  canonical: Callable[[str], Hashable] | None = None,
) -> int:
  """Number of different correct answers to one prompt.

  Args:
    texts: answers to the prompt.
    correct: verdict on each answer.
    canonical: maps an answer to a key, equal for equivalent answers (the
      solution without the prose around it, for example). None compares texts
      up to white space.

  Returns:
    The count. It grows with the number of samples, so compare counts only for
    equal numbers of samples.

  Raises:
    ValueError: the lengths differ.
  """
  if len(texts) != len(correct):
    raise ValueError(f"{len(texts)} texts but {len(correct)} verdicts")
  canonical = collapse_spaces if canonical is None else canonical
  return len({canonical(text) for text, right in zip(texts, correct) if right})


def ngram_counts(
  texts: Sequence[str | Sequence[Hashable]], n: int
) -> tuple[int, int]:
  """Counts distinct and total n-grams; no n-gram crosses two texts.

  Args:
    texts: sequences of tokens (ids or words); a string is split at white
      space.
    n: length of the n-grams in tokens, at least 1.

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
    ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    distinct.update(ngrams)
    total += len(ngrams)
  return len(distinct), total


def distinct_n(texts: Sequence[str | Sequence[Hashable]], n: int) -> float:
  """Distinct n-grams as a share of all n-grams.

  It falls with the amount of text even if the style stays the same: compare
  texts of equal length, or use `ead`.

  See "A Diversity-Promoting Objective Function"
  (https://arxiv.org/abs/1510.03055), where it is distinct-1 and distinct-2.

  Args:
    texts: token sequences, or strings to split at white space.
    n: length of the n-grams in tokens, at least 1.

  Returns:
    The share, in [0, 1]; 0 if there are no n-grams.
  """
  distinct, total = ngram_counts(texts, n)
  return distinct / total if total else 0.0


def ead(num_distinct: int, num_total: int, vocab_size: int) -> float:
  """Expectation-adjusted distinct: distinct tokens over their expected number.

  N / (V (1 - ((V - 1) / V)^C)). The denominator is the expected number of
  different tokens among C drawn uniformly from V, which corrects for length.

  See "Rethinking and Refining the Distinct Metric"
  (https://arxiv.org/abs/2202.13587).

  Args:
    num_distinct: number N of distinct tokens.
    num_total: number C of tokens.
    vocab_size: size V of the vocabulary, at least 1.

  Returns:
    The ratio; 0 if there are no tokens.

  Raises:
    ValueError: `vocab_size` is below 1.
  """
  if vocab_size < 1:
    raise ValueError(f"vocab_size must be at least 1, got {vocab_size}")
  if num_total == 0:
    return 0.0
  expected = vocab_size * (1 - ((vocab_size - 1) / vocab_size) ** num_total)
  return num_distinct / expected


def ead_of(texts: Sequence[str | Sequence[Hashable]], vocab_size: int) -> float:
  """`ead` of the tokens of several texts together.

  If the texts use only a small part of the vocabulary, the expected number is
  close to the number of tokens and length is not corrected for: compare only
  runs with the same tokenizer and similar lengths.

  Args:
    texts: token sequences, or strings to split at white space.
    vocab_size: size of the tokenizer's vocabulary, or number of possible
      words.

  Returns:
    The ratio.
  """
  return ead(*ngram_counts(texts, 1), vocab_size)


def self_bleu(texts: Sequence[str | Sequence[Hashable]]) -> float:
  """Mean BLEU of each text against all other texts.

  BLEU with n-grams of 1 to 4 tokens (none longer than the text), clipped
  counts and a brevity penalty towards the reference nearest in length (the
  shorter one of two). An n-gram length without a match counts 0.1 matches
  (Chen and Cherry's first smoothing); otherwise a single missing length would
  make the score 0.

  See "Texygen" (https://arxiv.org/abs/1802.01886) for self-BLEU, Papineni et
  al. (2002) for BLEU.

  Args:
    texts: token sequences, or strings to split at white space. The score grows
      with the number of texts, so compare scores only for equal numbers.

  Returns:
    The mean, in [0, 1]: 1 if all texts are equal; diversity is 1 minus it. A
    text without tokens has BLEU 0.

  Raises:
    ValueError: fewer than two texts.
  """
  if len(texts) < 2:
    raise ValueError(f"self-BLEU needs at least 2 texts, got {len(texts)}")
  tokens = [t.split() if isinstance(t, str) else list(t) for t in texts]
  logs = np.zeros(len(tokens))
  for n in range(1, _ORDERS + 1):
    # An n-gram's highest count in the other texts follows from its two
    # highest counts overall, which keeps the cost linear in the tokens.
    counts = [_ngrams(text, n) for text in tokens]
    top = _two_highest(counts)
    for i, count in enumerate(counts):
      total = sum(count.values())
      if total:
        matches = sum(
          min(c, top[g][1] if top[g][2] == i else top[g][0])
          for g, c in count.items()
        )
        logs[i] += math.log((matches or _UNMATCHED) / total)
  lengths = sorted(map(len, tokens))
  scores = [
    math.exp(log / min(len(text), _ORDERS) + _brevity(len(text), lengths))
    if text
    else 0.0
    for text, log in zip(tokens, logs)
  ]
  return float(np.mean(scores))


def _ngrams(tokens: Sequence[Hashable], n: int) -> collections.Counter:
  """Counts the n-grams of a text."""
  return collections.Counter(
    tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)
  )


def _two_highest(counts: Sequence[collections.Counter]) -> dict:
  """{n-gram: (highest count in a text, second highest, index of that text)}.

  The index is of the text with the highest count.
  """
  top: dict[tuple, tuple[int, int, int]] = {}
  for i, count in enumerate(counts):
    for ngram, c in count.items():
      first, second, owner = top.get(ngram, (0, 0, -1))
      if c > first:
        top[ngram] = c, first, i
      elif c > second:
        top[ngram] = first, c, owner
  return top


def _brevity(length: int, lengths: Sequence[int]) -> float:
  """Log of the brevity penalty of a text.

  `lengths` are the sorted lengths of all texts, including this one.
  """
  # The nearest other length is a neighbour of the text's own position.
  at = bisect.bisect_left(lengths, length)
  others = [*lengths[max(at - 1, 0) : at], *lengths[at + 1 : at + 2]]
  nearest = min(others, key=lambda other: (abs(other - length), other))
  return min(0.0, 1.0 - nearest / length)


def chosen(
  samples: samples_lib.Samples, items_XG
) -> Iterator[tuple[str, list[list]]]:
  """Selects the samples that n-gram measures read, all and correct ones.

  Args:
    samples: held-out samples.
    items_XG: text or tokens of each sample.

  Yields:
    ("", lists) for all samples with a verdict and ("_correct", lists) for the
    correct ones: a list per problem of its first MAX_SAMPLES items, without
    problems that have none.
  """
  for suffix, counts_XG in (
    ("", samples.valid_XG),
    ("_correct", samples.correct_XG & samples.valid_XG),
  ):
    lists = [
      [item for item, counts in zip(items, verdicts) if counts]
      for items, verdicts in zip(items_XG, counts_XG)
    ]
    yield suffix, [kept[:MAX_SAMPLES] for kept in lists if kept]


def distinct_counts(
  rows: Sequence[base.Row], texts_XG: Sequence[Sequence[str]], correct_XG
) -> np.ndarray:
  """`distinct_correct` of each problem, told apart by the task's `canonical`.

  Args:
    rows: problems.
    texts_XG: answers to each.
    correct_XG: bool, the verdicts.
  """
  return np.array(
    [
      distinct_correct(
        texts, correct, lambda text, row=row: base.canonical(text, row)
      )
      for row, texts, correct in zip(rows, texts_XG, correct_XG)
    ]
  )


def measure(samples: samples_lib.Samples) -> Iterator[tuple[str, float]]:
  """Measures the diversity of held-out samples.

  Args:
    samples: held-out samples.

  Yields:
    `distinct_correct`, the mean over problems of the number of different
    correct answers among all samples, told apart by the task's `canonical`;
    then, over the first MAX_TOKENS tokens of the first MAX_SAMPLES samples,
    means over problems of `ead`, `distinct_2` and `self_bleu_diversity`
    (1 - self-BLEU, problems with at least two samples only); then the same
    three with the suffix `_correct` over correct samples, if there are any.
  """
  yield "distinct_correct", float(np.mean(samples.distinct_correct_X))
  # Each of the n-gram measures once over all samples, once over correct ones.
  for suffix, tokens_X in chosen(samples, samples.tokens_XG):
    cut_X = [[t[:MAX_TOKENS] for t in tokens] for tokens in tokens_X]
    several_X = [tokens for tokens in cut_X if len(tokens) > 1]
    if cut_X:
      yield (
        f"ead{suffix}",
        float(
          np.mean([ead_of(tokens, samples.vocab_size) for tokens in cut_X])
        ),
      )
      yield (
        f"distinct_2{suffix}",
        float(np.mean([distinct_n(tokens, 2) for tokens in cut_X])),
      )
    if several_X:
      yield (
        f"self_bleu_diversity{suffix}",
        float(np.mean([1 - self_bleu(tokens) for tokens in several_X])),
      )
