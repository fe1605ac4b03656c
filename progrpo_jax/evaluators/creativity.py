"""The Creativity Index: how much of a text is not copied from a corpus.

For a passage length L, the uniqueness of a text is the share of its tokens
that lie in no passage of L or more tokens that also occurs in the corpus. The
index is the sum of the uniqueness over a range of L. Passages are matched
exactly with a suffix automaton: time and memory are linear in the corpus, and
looking up a text takes one pass over its tokens. The paper searches terabytes
of the web; here the corpus is local (training prompts, demonstrations), so
compare indices only for the same corpus and the same range of L.

See "AI as Humanity's Salieri" (https://arxiv.org/abs/2410.04265), section 2.
Its search for near-verbatim passages by embeddings is not implemented.
"""

import collections
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
import re

import numpy as np

from progrpo_jax.evaluators import diversity
from progrpo_jax.evaluators import samples as samples_lib

_WORD = re.compile(r"\w+|[^\w\s]")


class CorpusIndex:
  """All passages of a corpus, as a suffix automaton.

  A state stands for a set of passages that end at the same places. It has the
  length of its longest passage, a suffix link (the state of its longest
  suffix with more end places) and transitions by the next token.

  Attributes:
    num_tokens: number of tokens of the corpus.
    num_states: number of states of the automaton, at most
      2 (num_tokens + documents) + 1; a state takes about half a kilobyte.
  """

  def __init__(self, documents: Iterable[Sequence[Hashable]]):
    """Indexes documents.

    Args:
      documents: sequences of words or of token ids.
    """
    self.num_tokens = 0
    self._next: list[dict[Hashable, int]] = [{}]
    self._link = [-1]
    self._length = [0]
    last = 0
    for document in documents:
      for token in document:
        last = self._extend(last, token)
        self.num_tokens += 1
      # A separator equal to no token: no passage crosses two documents.
      last = self._extend(last, object())

  @property
  def num_states(self) -> int:
    """Number of states of the automaton."""
    return len(self._next)

  def longest_matches(self, tokens: Sequence[Hashable]) -> np.ndarray:
    """Length of the longest corpus passage that ends at each token.

    Args:
      tokens: text of T tokens, of the same kind as the documents' tokens.

    Returns:
      int [T]; 0 where the token is not in the corpus.
    """
    lengths = []
    state = length = 0
    for token in tokens:
      # Shorten the match until the token extends it. Every suffix link
      # shortens it, so that there are at most two steps per token in total.
      follow = self._next[state].get(token)
      while follow is None and state:
        state = self._link[state]
        length = self._length[state]
        follow = self._next[state].get(token)
      if follow is not None:
        state, length = follow, length + 1
      lengths.append(length)
    return np.array(lengths, int)

  def _extend(self, last: int, token: Hashable) -> int:
    """Adds a token after state `last`; returns the new last state.

    The usual online construction (Blumer et al., 1985).
    """
    new = self._add({}, self._length[last] + 1)
    # Suffixes that were never followed by the token now are.
    state = last
    while state >= 0 and token not in self._next[state]:
      self._next[state][token] = new
      state = self._link[state]
    if state < 0:
      self._link[new] = 0
      return new
    # A suffix was followed by the token before: link to that state, if all its
    # passages are suffixes of the new text.
    follow = self._next[state][token]
    if self._length[follow] == self._length[state] + 1:
      self._link[new] = follow
      return new
    # Otherwise `follow` also has longer passages, which end at fewer places:
    # split it. The clone takes the short passages with the new end place.
    clone = self._add(dict(self._next[follow]), self._length[state] + 1)
    self._link[clone] = self._link[follow]
    self._link[follow] = self._link[new] = clone
    while state >= 0 and self._next[state].get(token) == follow:
      self._next[state][token] = clone
      state = self._link[state]
    return new

  def _add(self, follows: dict[Hashable, int], length: int) -> int:
    """Adds a state and returns its number."""
    self._next.append(follows)
    self._link.append(0)
    self._length.append(length)
    return len(self._next) - 1


def covered(tokens: Sequence[Hashable], index: CorpusIndex) -> np.ndarray:
  """Length of the longest corpus passage that contains each token.

  Args:
    tokens: text of T tokens.
    index: index of the corpus.

  Returns:
    int [T]; 0 where the token is not in the corpus.
  """
  length_T = index.longest_matches(tokens)
  start_T = np.arange(len(length_T)) - length_T + 1
  # The longest passage ending at each token starts no earlier than the one
  # before it, so the passages that contain token t form a sliding window of end
  # positions. A queue of falling lengths keeps the window's maximum at its
  # head.
  longest_T = np.zeros(len(length_T), int)
  queue: collections.deque[int] = collections.deque()
  end = 0
  for t in range(len(length_T)):
    while end < len(length_T) and start_T[end] <= t:
      while queue and length_T[queue[-1]] <= length_T[end]:
        queue.pop()
      queue.append(end)
      end += 1
    while queue and queue[0] < t:
      queue.popleft()
    longest_T[t] = length_T[queue[0]] if queue else 0
  return longest_T


def uniqueness(
  tokens: Sequence[Hashable], index: CorpusIndex, length: int
) -> float:
  """Share of the tokens in no corpus passage of `length` or more tokens.

  Args:
    tokens: text, words or ids as in the corpus.
    index: index of the corpus.
    length: passage length L, at least 1.

  Returns:
    The share, in [0, 1]; 1 for a text shorter than `length`.

  Raises:
    ValueError: the text has no tokens, or `length` is below 1.
  """
  return creativity_index(tokens, index, length, length)


def creativity_index(
  tokens: Sequence[Hashable],
  corpus_index: CorpusIndex,
  low: int = 5,
  high: int = 12,
) -> float:
  """Sum of the uniqueness of a text at each L from low to high.

  Args:
    tokens: text, words or ids as in the corpus.
    corpus_index: index of the corpus.
    low: smallest L, at least 1.
    high: largest L. Report the range with the number: other ranges give other
      numbers.

  Returns:
    The index, from 0 (everything copied in passages of `high` or more tokens)
    to high - low + 1. A text shorter than `low` gets the maximum, so compare
    texts of similar length.

  Raises:
    ValueError: the text has no tokens, or not 1 <= low <= high.
  """
  if not 1 <= low <= high:
    raise ValueError(f"the range needs 1 <= low <= high, got {low} to {high}")
  if not len(tokens):
    raise ValueError("the Creativity Index of a text without tokens")
  # A token whose longest passage has m tokens is unique at every L above m.
  above_T = high - np.maximum(covered(tokens, corpus_index), low - 1)
  return float(np.mean(np.maximum(above_T, 0)))


def words(text: str) -> list[str]:
  """Splits a text into words and punctuation marks."""
  return _WORD.findall(text)


def measure(
  index: CorpusIndex,
  low: int = 5,
  high: int = 12,
  *,
  split: Callable[[str], Sequence[Hashable]] = words,
) -> Callable[..., Iterator[tuple[str, float]]]:
  """Returns a measure of held-out samples against a corpus.

  It reads the first `diversity.MAX_SAMPLES` samples of each problem and leaves
  out samples without tokens.

  Args:
    index: index of the corpus, whose documents were cut by the same `split`.
    low: smallest passage length.
    high: largest passage length.
    split: function that splits a text into tokens.

  Returns:
    A function of the samples that yields `creativity_<low>_<high>`, the mean
    over problems of the mean over samples, and `..._correct`, the same over
    correct samples, if there are any.
  """

  def run(samples: samples_lib.Samples) -> Iterator[tuple[str, float]]:
    for suffix, texts_X in diversity.chosen(samples, samples.texts_XG):
      means = []
      for texts in texts_X:
        scores = [
          creativity_index(tokens, index, low, high)
          for tokens in map(split, texts)
          if tokens
        ]
        if scores:
          means.append(np.mean(scores))
      if means:
        yield f"creativity_{low}_{high}{suffix}", float(np.mean(means))

  return run
