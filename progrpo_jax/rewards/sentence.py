"""Verifier of one sentence that contains a word and has a certain length.

A right answer

  - is one sentence on one line: its only . ! or ? ends it, and it holds letters
    of English, spaces and the marks , ; : - ' " alone;
  - begins with a capital letter;
  - has as many words as were asked for; a word is a run of letters, also one
    with an apostrophe or a hyphen inside ("don't", "well-known");
  - has the wanted word among them, in any case; "rivers" is not "river";
  - repeats no word at once ("the the").

Whether it is good English is not judged, so that nothing but text is needed.
"""

import re
from typing import Any

from progrpo_jax.rewards.score import Score

LEAST = 3  # words of a sentence
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_SENTENCE = re.compile(r"\"?[A-Z][A-Za-z ,;:'\"-]*[.!?]\"?")


def score(
  completion: str, reference: str, *, length: int, exactly: bool = False
) -> Score:
  """Scores a sentence: 1 if it is right, else 0.

  Args:
    completion: text of the model.
    reference: word that the sentence must contain, in lower case.
    length: number of words of the sentence.
    exactly: whether it must have so many words; otherwise at most so many, and
      no fewer than `LEAST`.
  """
  text = _plain(completion)
  if not _SENTENCE.fullmatch(text):
    return Score(0.0, False, "no_answer")
  found = words(text)
  right = (
    (length if exactly else LEAST) <= len(found) <= length
    and reference in found
    and all(a != b for a, b in zip(found, found[1:]))
  )
  return Score(float(right), right, "ok")


def words(text: str) -> list[str]:
  """Returns the words of a text in lower case."""
  return [word.lower() for word in _WORD.findall(_plain(text))]


def canonical(completion: str, row: Any) -> str:
  """Returns the words of a sentence; marks and case make no other sentence."""
  del row
  return " ".join(words(completion))


def _plain(text: str) -> str:
  """Returns a text without space around it and with typewriter quotes."""
  for curly, straight in ("\u2019'", "\u2018'", '\u201c"', '\u201d"'):
    text = text.replace(curly, straight)
  return text.strip()
