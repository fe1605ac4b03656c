"""Sentences: write one short sentence that contains a given word.

  prompt  Write one sentence of at most 6 words that contains the word "river".
  answer  The river flows slowly today.

For a pretrained model: a problem has very many right answers, and what tells
them apart is their words. A model of 135M parameters writes one in twenty
samples or so, and as many of them as it likes once it has learnt what counts.

The words of train and validation are apart, and the rows of both are the same
for every seed. Nothing is built or downloaded.
"""

from collections.abc import Sequence

from progrpo_jax.errors import InputError
from progrpo_jax.tasks import base

VERIFIER = "progrpo_jax.rewards.sentence:score"
DOMAIN = "instructions"

COUNTS = ("at_most", "exactly")
WORDS = {
  "train": tuple(
    "anchor apple basket blanket bottle bread bridge butter camera candle"
    " castle cloud copper desert doctor dragon dream engine farmer feather"
    " flower forest garden guitar hammer harbor horse island jacket kitchen"
    " ladder lantern letter market meadow mirror mountain music needle ocean"
    " orange painter paper pencil pillow rabbit river saddle shadow silver"
    " stone summer teacher ticket train valley violin wallet window"
    " winter".split()
  ),
  "validation": tuple(
    "bicycle bird boat book chair cheese church clock coat door fire fish"
    " grass king lake lamp moon sailor tower village".split()
  ),
}
# Parts of the demonstrations: beginnings of four words, and what may follow, by
# its number of words.
_BEGINNINGS = ("We saw the {}", "They liked the {}", "She found the {}")
_ENDS = (
  "",
  " again",
  " last year",
  " again last year",
  " in the old town",
  " in the old town again",
  " in the old town last year",
  " again in the old town last year",
  " with our friends in the old town again",
  " with our friends in the old town last year",
)
_SHORTEST = 4  # words of the shortest demonstration
_LONGEST = _SHORTEST + len(_ENDS) - 1


class Rows:
  """A row for every word with every length."""

  def __init__(self, words: Sequence[str], lengths: Sequence[int], count: str):
    """Keeps what the rows are made of.

    Args:
      words: words to be contained.
      lengths: numbers of words of a sentence.
      count: one of `COUNTS`.
    """
    self._words, self._lengths, self._count = words, lengths, count

  def __len__(self) -> int:
    return len(self._words) * len(self._lengths)

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < len(self):
      raise IndexError(index)
    place, turn = divmod(index, len(self._lengths))
    word, length = self._words[place], self._lengths[turn]
    count = self._count.replace("_", " ")
    return base.Row(
      task="sentences",
      prompt=(
        f"Write one sentence of {count} {length} words that contains the word"
        f' "{word}".'
      ),
      reference=word,
      meta={"length": length, "exactly": self._count == "exactly"},
      demonstrations=tuple(
        f"{beginning.format(word)}{_ENDS[length - _SHORTEST]}."
        for beginning in _BEGINNINGS
      ),
    )


def load(
  split: str,
  *,
  data_dir: str,
  seed: int,
  count: str = "at_most",
  lengths: Sequence[base.Count] = (5, 6, 7, 8),
) -> Rows:
  """Returns a split.

  Args:
    split: "train" or "validation".
    data_dir: not read; nothing is built.
    seed: not read; all words are used with all lengths.
    count: "at_most" or "exactly", what the length is to the sentence.
    lengths: numbers of words that are asked for.

  Raises:
    InputError: there is no such count, or a length is out of range, missing or
      repeated.
  """
  del data_dir, seed
  if count not in COUNTS:
    raise InputError(
      f"sentences: no count {count!r}{base.nearest(count, COUNTS)}"
    )
  if not lengths or len(set(lengths)) < len(lengths):
    raise InputError(
      f"sentences: lengths must be one or more different numbers, not {lengths}"
    )
  for length in lengths:
    if not _SHORTEST <= length <= _LONGEST:
      raise InputError(
        f"sentences: length {length} must be from {_SHORTEST} to {_LONGEST}"
      )
  return Rows(WORDS[split], tuple(lengths), count)
