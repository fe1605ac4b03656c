"""How much of a text is not in a corpus: the Creativity Index.

The share of a text's tokens that lie in no long passage of the corpus, added
up over lengths of "long". Passages are found exactly, in a suffix automaton:
time and memory are linear in the corpus, and a text is looked up in one pass
over its tokens. The corpus is a local one (training prompts, demonstrations),
where the paper searches terabytes of the web: the index is a relative
measure, to be compared on one corpus and one range only.

See "AI as Humanity's Salieri" (https://arxiv.org/abs/2410.04265), section 2.
Left out: its search for near-verbatim passages by embeddings.
"""

import collections
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
import re

import numpy as np

from progrpo_jax.evaluators import diversity

_WORD = re.compile(r"\w+|[^\w\s]")


class CorpusIndex:
  """All passages of a corpus, as a suffix automaton.

  Attributes:
    num_tokens: of the corpus.
    num_states: of the automaton, at most 2 (num_tokens + documents) + 1; one
      takes about half a kilobyte.
  """

  def __init__(self, documents: Iterable[Sequence[Hashable]]):
    """Indexes documents, sequences of words or of token ids."""
    self.num_tokens = 0
    self._next: list[dict[Hashable, int]] = [{}]
    self._link = [-1]
    self._length = [0]
    last = 0
    for document in documents:
      for token in document:
        last = self._extend(last, token)
        self.num_tokens += 1
      # Equal to nothing, so that no passage goes on into the next document.
      last = self._extend(last, object())

  @property
  def num_states(self) -> int:
    """States of the automaton."""
    return len(self._next)

  def longest_matches(self, tokens: Sequence[Hashable]) -> np.ndarray:
    """Length of the longest passage of the corpus that ends at each token.

    A step either takes one more token or gives up some of the passage, which
    can happen no more often: at most two steps a token.

    Args:
      tokens: of the text, as those of the documents.

    Returns:
      int [T].
    """
    lengths = []
    state = length = 0
    for token in tokens:
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
    """Adds a token after the text that ends in state `last`."""
    new = self._add({}, self._length[last] + 1)
    state = last
    while state >= 0 and token not in self._next[state]:
      self._next[state][token] = new
      state = self._link[state]
    if state < 0:
      self._link[new] = 0
      return new
    follow = self._next[state][token]
    if self._length[follow] == self._length[state] + 1:
      self._link[new] = follow
      return new
    # `follow` also stands for longer passages, which end in fewer places.
    clone = self._add(dict(self._next[follow]), self._length[state] + 1)
    self._link[clone] = self._link[follow]
    self._link[follow] = self._link[new] = clone
    while state >= 0 and self._next[state].get(token) == follow:
      self._next[state][token] = clone
      state = self._link[state]
    return new

  def _add(self, follows: dict[Hashable, int], length: int) -> int:
    """Adds a state; returns its number."""
    self._next.append(follows)
    self._link.append(0)
    self._length.append(length)
    return len(self._next) - 1


def covered(tokens: Sequence[Hashable], index: CorpusIndex) -> np.ndarray:
  """Length of the longest passage of the corpus that each token lies in.

  Args:
    tokens: of the text.
    index: of the corpus.

  Returns:
    int [T]; 0 for a token that the corpus does not have.
  """
  length_T = index.longest_matches(tokens)
  start_T = np.arange(len(length_T)) - length_T + 1
  # Neither ends nor starts go back, so the passages over a token are a window
  # that slides: its maximum is kept at the head of a falling queue.
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
    tokens: Sequence[Hashable], index: CorpusIndex, length: int) -> float:
  """Share of the tokens in no passage of `length` or more of the corpus.

  Args:
    tokens: of the text.
    index: of the corpus.
    length: L, at least 1.

  Returns:
    The share, in [0, 1]; 1 for a text shorter than `length`.

  Raises:
    ValueError: no tokens, or `length` is below 1.
  """
  return creativity_index(tokens, index, length, length)


def creativity_index(
    tokens: Sequence[Hashable], corpus_index: CorpusIndex, low: int = 5,
    high: int = 12,
) -> float:
  """Sum of the uniqueness at each L from low to high.

  Args:
    tokens: of the text, words or ids as in the corpus.
    corpus_index: of the corpus.
    low: smallest L, at least 1.
    high: largest L. A number means nothing without the range.

  Returns:
    Between 0 (all of it copied, in passages of `high` or more) and
    high - low + 1. A text shorter than `low` scores the highest: compare
    texts of similar length.

  Raises:
    ValueError: no tokens, or not 1 <= low <= high.
  """
  if not 1 <= low <= high:
    raise ValueError(f"the range needs 1 <= low <= high, got {low} to {high}")
  if not len(tokens):
    raise ValueError("the Creativity Index of a text without tokens")
  # A token in a passage of m is unique at every L above m.
  above_T = high - np.maximum(covered(tokens, corpus_index), low - 1)
  return float(np.mean(np.maximum(above_T, 0)))


def words(text: str) -> list[str]:
  """The words and the marks of a text, each by itself."""
  return _WORD.findall(text)


def measure(
    index: CorpusIndex, low: int = 5, high: int = 12, *,
    split: Callable[[str], Sequence[Hashable]] = words,
) -> Callable[..., Iterator[tuple[str, float]]]:
  """A measure of held-out samples against a corpus.

  Of each problem the first `diversity.MAX_SAMPLES` samples are looked up;
  samples without words are left out.

  Args:
    index: of the corpus, its documents cut by the same `split`.
    low: as for `creativity_index`.
    high: as for `creativity_index`.
    split: cuts a text.

  Returns:
    A function of the samples that yields `creativity_<low>_<high>`, the mean
    over problems of the mean over samples, and `..._correct`, the same over
    correct samples, if there are any.
  """
  def run(samples) -> Iterator[tuple[str, float]]:
    for suffix, texts_X in diversity.chosen(samples, samples.texts_XN):
      means = []
      for texts in texts_X:
        found = [creativity_index(tokens, index, low, high)
                 for tokens in map(split, texts) if tokens]
        if found:
          means.append(np.mean(found))
      if means:
        yield f"creativity_{low}_{high}{suffix}", float(np.mean(means))

  return run
