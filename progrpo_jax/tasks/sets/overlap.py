"""Near-duplicates between training and evaluation, by n-grams of words.

A text is read as its words, letters or digits in a row, and the signs
+ - * / ^ = < >, after Unicode's compatibility form (NFKC) and in lower case;
the rest separates. TeX's \\dfrac and \\tfrac are \\frac, \\left and \\right are
nothing. G(x) is the set of the n-grams of x, or of x as a whole where x is
shorter than n words.

A training text t is a near-duplicate of an evaluation text e where

  |G(t) & F(e)| >= share * min(|G(t)|, |G(e)|)

with F(e) those of G(e) that no earlier evaluation text has. So one n-gram
belongs to one evaluation text, and all of the work is linear in the length of
the texts, however many share a phrase. What that costs: of evaluation texts
that resemble each other, a match may be told as one with the first. A text
shorter than n words matches an equally short one alone.
"""

import re
from typing import NamedTuple
import unicodedata

from progrpo_jax.errors import InputError

_WORD = re.compile(r"[^\W_]+|[+\-*/^=<>]")
_TEX = {"dfrac": "frac", "tfrac": "frac", "left": "", "right": ""}


class Match(NamedTuple):
  """What a text is a near-duplicate of.

  Attributes:
    name: the evaluation text's name.
    share: common n-grams over those of the shorter text.
  """

  name: str
  share: float


def words(text: str) -> list[str]:
  """Returns the words and signs that a text is compared by."""
  folded = unicodedata.normalize("NFKC", text).lower()
  found = (_TEX.get(word, word) for word in _WORD.findall(folded))
  return [word for word in found if word]


def grams(text: str, n: int) -> set[str]:
  """Returns the n-grams of a text; see the head of this module."""
  found = words(text)
  if not found:
    return set()
  starts = range(max(len(found) - n + 1, 1))
  return {" ".join(found[i : i + n]) for i in starts}


class Index:
  """Evaluation texts to compare training texts with.

  Args:
    n: words of an n-gram.
    share: what makes a near-duplicate, above 0 and at most 1.
  """

  def __init__(self, n: int = 13, share: float = 0.5):
    if n < 1:
      raise InputError(f"ngram must be at least 1, not {n}")
    if not 0 < share <= 1:
      raise InputError(f"overlap must lie above 0 and at most 1, not {share}")
    self._n = n
    self._share = share
    self._owner: dict[str, int] = {}
    self._names: list[str] = []
    self._sizes: list[int] = []

  def __len__(self) -> int:
    return len(self._names)

  def add(self, text: str, name: str) -> None:
    """Takes in an evaluation text."""
    found = grams(text, self._n)
    place = len(self._names)
    for gram in found:
      self._owner.setdefault(gram, place)
    self._names.append(name)
    self._sizes.append(len(found))

  def match(self, text: str) -> Match | None:
    """Returns the evaluation text that a text repeats most, if any."""
    found = grams(text, self._n)
    common: dict[int, int] = {}
    for gram in found:
      place = self._owner.get(gram)
      if place is not None:
        common[place] = common.get(place, 0) + 1
    shares = [
        (count / min(len(found), self._sizes[place]), -place)
        for place, count in common.items()]
    best, place = max(shares, default=(0.0, 0))
    return Match(self._names[-place], best) if best >= self._share else None
