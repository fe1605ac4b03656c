"""Ids of a text of which a part is the user's.

The user's part cannot imitate the chat's markup: where it would become a
control token, it is spelled out.
"""

from collections.abc import Mapping, Sequence
import itertools

from progrpo_jax import errors


class Encoder:
  """Encodes texts so that no user's part becomes a control token."""

  def __init__(self, tokenizer, control: Mapping[int, str], where: str):
    """Prepares the encoding of pieces.

    Args:
      tokenizer: transformers' tokenizer, of the fast kind.
      control: control tokens {id: text}, which the user's part must not become.
      where: name of the tokenizer's directory in error messages.
    """
    self._tokenizer, self._control, self._where = tokenizer, control, where
    self._newline, _ = plain(tokenizer, "\n")

  def encode(
    self,
    text: str,
    start: int,
    end: int,
    others: Sequence[tuple[int, int]] = (),
  ) -> tuple[list[int], list[bool]]:
    """Encodes a text whose part text[start:end] is the user's.

    Where the user's part, or one of the spans `others`, would become a control
    token, the text is cut inside of that token and encoded piece by piece,
    which spells it out. Other text is encoded in one piece, as by transformers.

    Returns:
      (ids, user): ids, and a flag per id: True for the user's text.
    """
    # Repeated until no control token is left: a cut may create new ones.
    cuts = {0}
    while True:
      ids, spans = self._code_pieces(text, sorted(cuts))
      forged = {
        self._cut(text, span, i, *part)
        for i, span in zip(ids, spans)
        if i in self._control
        for part in ((start, end), *others)
      } - {None}
      if not forged:
        break
      cuts |= forged
    # A control token is the template's even if its span covers user spaces.
    user = [
      lo < end and hi > start and i not in self._control
      for i, (lo, hi) in zip(ids, _filled(spans, len(text)))
    ]
    return ids, user

  def _cut(
    self, text: str, span: tuple[int, int], token: int, start: int, end: int
  ) -> int | None:
    """Position at which to cut a control token; None if the template wrote it.

    Raises:
      InputError: the token is one character, which cannot be cut.
    """
    lo, hi = span
    content = self._control[token]
    # The span may include spaces around the token; narrow it to the token.
    at = text.find(content, lo, hi)
    if at >= 0:
      lo, hi = at, at + len(content)
    if lo >= end or hi <= start:
      return None
    if hi - lo < 2:
      raise errors.InputError(
        f"{self._where}: the prompt holds {content!r}, which this tokenizer "
        "can only read as a special token"
      )
    return lo + 1

  def _code_pieces(
    self, text: str, cuts: list[int]
  ) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and spans of a text that is cut at the given places, 0 first.

    Spans count characters of the whole text.
    """
    ids, spans = plain(self._tokenizer, text[: cuts[1]] if cuts[1:] else text)
    for lo, hi in itertools.pairwise([*cuts[1:], len(text)]):
      # Some tokenizers add a space at the beginning of a text. A newline in
      # front takes that place, and its ids are dropped; if the newline was
      # merged with the piece, the piece is encoded alone.
      piece, places = plain(self._tokenizer, "\n" + text[lo:hi])
      size = len(self._newline)
      shift = lo - 1
      if piece[:size] != self._newline or any(a < 1 for a, _ in places[size:]):
        piece, places = plain(self._tokenizer, text[lo:hi])
        size, shift = 0, lo
      ids += piece[size:]
      spans += [(a + shift, b + shift) for a, b in places[size:]]
    return ids, spans


def plain(tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
  """Ids and spans of a text, as transformers encodes it.

  Text that looks like a special token becomes that token.
  """
  coded = tokenizer(
    text, add_special_tokens=False, verbose=False, return_offsets_mapping=True
  )
  return coded["input_ids"], coded["offset_mapping"]


def _filled(spans: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
  """Replaces empty spans of tokens by the gap between their neighbours.

  Many tokenizers leave spaces out of spans, so a token of spaces only has an
  empty span.

  Args:
    spans: (start, end) of each token.
    size: length of the text, which ends the last gap.
  """
  filled, end = [], 0
  for n, (lo, hi) in enumerate(spans):
    if lo == hi:
      following = (a for a, b in spans[n + 1 :] if a < b)
      lo, hi = end, max(end, next(following, size))
    else:
      end = hi
    filled.append((lo, hi))
  return filled
