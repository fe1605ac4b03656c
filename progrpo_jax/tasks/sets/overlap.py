"""Near-duplicates between training and evaluation, by n-grams of words.

The words of a text are its runs of letters or digits and the signs
+ - * / ^ = < >, in lower case after Unicode's compatibility normalization
(NFKC); everything else separates words. TeX's \\dfrac and \\tfrac are read as
\\frac, and \\left and \\right are dropped. G(x) is the set of the n-grams of
text x; if x has fewer than n words, x as a whole is its only n-gram.

A training text t is a near-duplicate of an evaluation text e if

  |G(t) & F(e)| >= share * min(|G(t)|, |G(e)|)

where F(e) contains the n-grams of G(e) that no earlier evaluation text has.
Each n-gram thus belongs to one evaluation text, and the work is linear in the
length of the texts even if many share a phrase. The price: if two evaluation
texts resemble each other, a match with the second may be reported as one with
the first, and n-grams that they share do not count for the second. A text
shorter than n words matches only a text with the same words.
"""

import re
from typing import NamedTuple
import unicodedata

from progrpo_jax.errors import InputError

_WORD = re.compile(r"[^\W_]+|[+\-*/^=<>]")
_TEX = {"dfrac": "frac", "tfrac": "frac", "left": "", "right": ""}


class Match(NamedTuple):
  """Evaluation text that a training text nearly duplicates.

  Attributes:
    name: name of the evaluation text.
    share: number of common n-grams over that of the shorter text.
  """

  name: str
  share: float


def words(text: str) -> list[str]:
  """Returns the normalized words and signs of a text, in order."""
  folded = unicodedata.normalize("NFKC", text).lower()
  normalized = (_TEX.get(word, word) for word in _WORD.findall(folded))
  return [word for word in normalized if word]


def grams(text: str, n: int) -> set[str]:
  """Returns the n-grams of a text, G(text) of the module's docstring."""
  tokens = words(text)
  if not tokens:
    return set()
  starts = range(max(len(tokens) - n + 1, 1))
  return {" ".join(tokens[i : i + n]) for i in starts}


class Index:
  """Index of the n-grams of evaluation texts.

  Args:
    n: words per n-gram, at least 1.
    share: share of common n-grams from which texts are near-duplicates, above
      0 and at most 1.

  Raises:
    InputError: an argument is out of range.
  """

  def __init__(self, n: int = 13, share: float = 0.5):
    if n < 1:
      raise InputError(f"ngram must be at least 1, not {n}")
    if not 0 < share <= 1:
      raise InputError(f"overlap must lie above 0 and at most 1, not {share}")
    self._n = n
    self._share = share
    self._owner: dict[str, int] = {}  # n-gram -> evaluation text it belongs to
    self._names: list[str] = []
    self._sizes: list[int] = []  # |G(e)| of each evaluation text

  def __len__(self) -> int:
    return len(self._names)

  def add(self, text: str, name: str) -> None:
    """Adds an evaluation text; names need not be distinct."""
    text_grams = grams(text, self._n)
    place = len(self._names)
    for gram in text_grams:
      self._owner.setdefault(gram, place)
    self._names.append(name)
    self._sizes.append(len(text_grams))

  def match(self, text: str) -> Match | None:
    """Returns the evaluation text that shares most with a text.

    None if none shares enough to be a near-duplicate. Of equal shares, the
    text that was added first wins.
    """
    text_grams = grams(text, self._n)
    common: dict[int, int] = {}  # evaluation text -> |G(t) & F(e)|
    for gram in text_grams:
      place = self._owner.get(gram)
      if place is not None:
        common[place] = common.get(place, 0) + 1
    shares = [
      (count / min(len(text_grams), self._sizes[place]), -place)
      for place, count in common.items()
    ]
    best, place = max(shares, default=(0.0, 0))
    return Match(self._names[-place], best) if best >= self._share else None
