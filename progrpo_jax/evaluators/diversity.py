"""How different the answers to a prompt are, in plain Python.

Garbage is diverse, so every measure is worth more over the correct answers
than over all. `distinct_correct` is the cleanest: it counts ways of being
right.
"""

import bisect
import collections
from collections.abc import Callable, Hashable, Iterator, Sequence
import math

import numpy as np

from progrpo_jax.tasks import base

# What the measures of surface form read of each problem: samples are alike in
# law, so the first are as good as any, and the same number of texts makes
# self-BLEU comparable. One evaluation then looks at no more than
# problems * 16 * 512 tokens for each length of n-gram: some 5 s for 64
# problems of the longest samples, on one core.
MAX_SAMPLES = 16
MAX_TOKENS = 512
_ORDERS = 4  # of BLEU
_UNMATCHED = 0.1  # counted where no n-gram of an order matches


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


def ead_of(
    texts: Sequence[str | Sequence[Hashable]], vocab_size: int) -> float:
  """`ead` of the tokens of some texts together.

  Where the texts draw on much less than the vocabulary, the expectation is
  near the number of tokens and length does not cancel: compare runs of one
  tokenizer and of similar length.

  Args:
    texts: as for `ngram_counts`.
    vocab_size: of the tokenizer, or of all words that could stand there.

  Returns:
    The ratio.
  """
  return ead(*ngram_counts(texts, 1), vocab_size)


def self_bleu(texts: Sequence[str | Sequence[Hashable]]) -> float:
  """Mean BLEU of each text against all the others; 1 for equal ones.

  BLEU of orders 1 to 4 with clipped counts and a brevity penalty to the
  reference nearest in length (the shorter of two), no order longer than the
  text. An order without a match counts 0.1 matches (Chen and Cherry's first
  smoothing), or else one absent 4-gram would make everything 0. An n-gram's
  count in "all but this text" is read off its two highest counts, so that
  the cost is linear in the tokens.

  See "Texygen" (https://arxiv.org/abs/1802.01886) for self-BLEU, Papineni et
  al. (2002) for BLEU.

  Args:
    texts: as for `ngram_counts`. More of them match more: compare like with
      like.

  Returns:
    The mean, in [0, 1]; diversity is 1 less it. Of a text without tokens
    BLEU is 0.

  Raises:
    ValueError: fewer than two texts.
  """
  if len(texts) < 2:
    raise ValueError(f"self-BLEU needs at least 2 texts, got {len(texts)}")
  tokens = [t.split() if isinstance(t, str) else list(t) for t in texts]
  logs = np.zeros(len(tokens))
  for n in range(1, _ORDERS + 1):
    counts = [_ngrams(text, n) for text in tokens]
    top = _two_highest(counts)
    for i, count in enumerate(counts):
      total = sum(count.values())
      if total:
        matches = sum(
            min(c, top[g][1] if top[g][2] == i else top[g][0])
            for g, c in count.items())
        logs[i] += math.log((matches or _UNMATCHED) / total)
  lengths = sorted(map(len, tokens))
  scores = [
      math.exp(log / min(len(text), _ORDERS) + _brevity(len(text), lengths))
      if text else 0.0 for text, log in zip(tokens, logs)]
  return float(np.mean(scores))


def _ngrams(tokens: Sequence[Hashable], n: int) -> collections.Counter:
  """How often each n-gram occurs."""
  return collections.Counter(
      tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1))


def _two_highest(counts: Sequence[collections.Counter]) -> dict:
  """{n-gram: (highest count in a text, second highest, whose the highest)}."""
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
  """Log of the penalty of a text among sorted lengths that hold its own."""
  at = bisect.bisect_left(lengths, length)
  others = [*lengths[max(at - 1, 0):at], *lengths[at + 1:at + 2]]
  nearest = min(others, key=lambda other: (abs(other - length), other))
  return min(0.0, 1.0 - nearest / length)


def chosen(samples, items_XN) -> Iterator[tuple[str, list[list]]]:
  """The samples that measures of surface form read: of all, and the correct.

  Args:
    samples: held-out samples.
    items_XN: what to read of each, texts or tokens.

  Yields:
    ("", a list per problem) and ("_correct", a list per problem that has
    any), of the first MAX_SAMPLES that count.
  """
  for suffix, counts_XN in (
      ("", samples.valid_XN),
      ("_correct", samples.correct_XN & samples.valid_XN)):
    lists = [
        [item for item, counts in zip(items, verdicts) if counts]
        for items, verdicts in zip(items_XN, counts_XN)]
    yield suffix, [found[:MAX_SAMPLES] for found in lists if found]


def measure(samples) -> Iterator[tuple[str, float]]:
  """Different correct answers of held-out samples, and their surface form.

  Yields:
    `distinct_correct`, the mean over problems of the number of different
    correct answers among the n samples, equal answers being recognised by the
    task's own `canonical`; then, as means over problems, of the first
    MAX_TOKENS tokens of the first MAX_SAMPLES samples: `ead`, `distinct_2`
    and `self_bleu_diversity` (1 - self-BLEU, of problems with two samples or
    more). The same with `_correct` is of the correct samples among all, where
    there are any.
  """
  counts = [
      distinct_correct(
          texts, correct, lambda text, row=row: base.canonical(text, row))
      for row, texts, correct in zip(
          samples.rows, samples.texts_XN, samples.correct_XN)]
  yield "distinct_correct", float(np.mean(counts))
  for suffix, tokens_X in chosen(samples, samples.tokens_XN):
    cut_X = [[t[:MAX_TOKENS] for t in tokens] for tokens in tokens_X]
    several_X = [tokens for tokens in cut_X if len(tokens) > 1]
    if cut_X:
      yield f"ead{suffix}", float(np.mean(
          [ead_of(tokens, samples.vocab_size) for tokens in cut_X]))
      yield f"distinct_2{suffix}", float(np.mean(
          [distinct_n(tokens, 2) for tokens in cut_X]))
    if several_X:
      yield f"self_bleu_diversity{suffix}", float(np.mean(
          [1 - self_bleu(tokens) for tokens in several_X]))
