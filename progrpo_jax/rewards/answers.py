r"""Where the final answer stands in a completion.

A completion may mark its answer in several ways. The strongest one that
occurs counts, and of several places that are marked in that way the last one.
Marks that only commas, "and", "or" or names such as "x =" separate are the
parts of one answer: t = \boxed{2} or t = \boxed{8} says "2, 8", which is
another answer than 8.
"""

import re
from typing import NamedTuple

from progrpo_jax.errors import InputError

# "boxed": \boxed{...} or \fbox{...}. "tag": <answer>...</answer>. "hash": a
# line "#### ..." (GSM8K). "sentence": "the (final) answer is ...". "formula":
# the text ends in $...$, \(...\) or \[...\]. "whole": the text, if it is one
# line. The order is that of strength.
FORMS = ("boxed", "tag", "hash", "sentence", "formula", "whole")
DEFAULT = FORMS[:-1]

_MAX_LINE = 300
_MAX_SENTENCES = 64

_BRACE = re.compile(r"(?<!\\)(\\+)(?:(boxed|fbox)\s*\{|[{}])|[{}]")
_UNBRACED = re.compile(r"\\(?:boxed|fbox)\s+(-?[^\s{}$\\]+)")
# A box to be filled in, which a completion quotes from the question.
_PLACEHOLDER = re.compile(
    r"(?:\\[hv]?phantom\s*\{(?:[^{}]|\{[^{}]*\})*\}|\\q?quad(?![A-Za-z])"
    r"|\\[,;:! ]|[\s.$~])*")
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.S | re.I)
_HASH = re.compile(r"^[ \t]*####[ \t]*(\S.*)$", re.M)
_SENTENCE = re.compile(
    r"\b(?:(?:final|correct|right)[ \t]+)?answer(?:[ \t]+(?:choice|option))?"
    r"(?:[ \t]*\*\*)?"
    r"[ \t]*(?:(?:is|are|will be|would be|equals|=)[ \t]*:?|:)(?:[ \t]*\*\*)?"
    r"[ \t]*\n?[ \t]*(?=(\S[^\n]{0,299}))",
    re.I,
)
_FORMULA = re.compile(
    r"(?:\$\$([^$]{1,300}?)\$\$|(?<!\\)\$([^$\n]{1,300}?)\$|\\\(((?:(?!\\\)).){1,300}?)\\\)"
    r"|\\\[((?:(?!\\\]).){1,300}?)\\\])[\s.*]*\Z",
    re.S,
)
# What may stand between the parts of one answer.
_BETWEEN = re.compile(
    r"(?:[\s,;&$]|\\[,;:!()\[\] ]|\\\\|\\q?quad(?![A-Za-z])|\*\*"
    r"|\\(?:text|mbox|mathrm|textrm)\s*\{[\s,;]*(?:and|or)?[\s,;]*\}"
    r"|(?:and|or|\\lor|\\text\s*\{\s*or\s*\})(?![A-Za-z])"
    r"|\\?[A-Za-z]{1,7}(?:_(?:\w|\{[^{}]{1,9}\}))?'?\s*&?\s*=)*")
_MAX_BETWEEN = 60
_OPENINGS = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_AGAIN = re.compile(r"(?:the )?(?:(?:final|correct|right) )?answer\b", re.I)
_IS = re.compile(r".*\b(?:is|are|equals)[ \t]+(\S.*)")
_STOP = re.compile(
    r"(?<=\S)[.!?](?:\*\*)?(?=\s|$)|\*\*|(?<![\w\\])(?:because|since|as|so|"
    r"which|where|for|when|if|but|hence|therefore|i hope)\b", re.I)


class Span(NamedTuple):
  """Where a mark and what it holds begin and end in a text."""

  start: int
  inside: int
  until: int
  end: int


def find(completion: str, forms: tuple[str, ...] = DEFAULT) -> list[str]:
  """Returns the answers that the strongest form occurring marks."""
  for form in check_forms(forms):
    found = [
        a for a in _FINDERS[form](completion) if not _PLACEHOLDER.fullmatch(a)]
    if found:
      return found
  return []


def final(completion: str, forms: tuple[str, ...] = DEFAULT) -> list[str]:
  """Returns the parts of the last answer that the strongest form marks."""
  for form in check_forms(forms):
    if form in _SPANS:
      spans = [
          s for s in _SPANS[form](completion)
          if not _PLACEHOLDER.fullmatch(completion, s.inside, s.until)]
      if spans:
        return _last(completion, spans)
    elif marked := find(completion, (form,)):
      return marked[-1:]
  return []


def _last(text: str, spans: list[Span]) -> list[str]:
  """Returns the contents of the last spans that belong together."""
  first = len(spans) - 1
  while first and spans[first].start - spans[first - 1].end <= (
      _MAX_BETWEEN) and _BETWEEN.fullmatch(
          text, spans[first - 1].end, spans[first].start):
    first -= 1
  return [text[s.inside : s.until].strip() for s in spans[first:]]


def check_forms(forms: object) -> tuple[str, ...]:
  """Returns the forms in their order, or raises InputError."""
  chosen = (forms,) if isinstance(forms, str) else tuple(forms)
  for form in chosen:
    if form not in FORMS:
      raise InputError(
          f"no form of an answer {form!r} (known: {', '.join(FORMS)})")
  if not chosen:
    raise InputError(f"forms is empty; choose from {', '.join(FORMS)}")
  return tuple(f for f in FORMS if f in chosen)


def boxed(text: str) -> list[str]:
  """Returns the contents of all closed boxes that stand in no other box."""
  return [text[s.inside : s.until].strip() for s in _boxes(text)]


def _boxes(text: str) -> list[Span]:
  """Returns where boxes are."""
  stack, boxes = [], []
  for match in _BRACE.finditer(text):
    if match[1] and not match[2] and len(match[1]) % 2:
      continue  # \{ is a brace to be seen, \\{ opens a group in a new row
    if match[0][-1] == "{":
      stack.append((match.start(), match.end(), bool(match[2])))
    elif stack:
      start, inside, is_box = stack.pop()
      if is_box:
        while boxes and boxes[-1].start > start:
          boxes.pop()
        boxes.append(Span(start, inside, match.start(), match.end()))
  return boxes or [
      Span(m.start(), m.start(1), m.start(1) + len(m[1].rstrip(".,;")), m.end())
      for m in _UNBRACED.finditer(text)]


def tagged(text: str) -> list[str]:
  """Returns what stands between <answer> and </answer>."""
  return [text[s.inside : s.until].strip() for s in _tags(text)]


def _tags(text: str) -> list[Span]:
  """Returns where tags are."""
  return [Span(m.start(), *m.span(1), m.end()) for m in _TAG.finditer(text)]


def hashed(text: str) -> list[str]:
  """Returns what stands behind the #### of the last line that has one."""
  lines = [m[1].strip() for m in _HASH.finditer(text)]
  return lines[-1:]


def sentences(text: str) -> list[str]:
  """Returns what sentences of the kind "The answer is 5." say."""
  said = [m[1] for m in _SENTENCE.finditer(text)][-_MAX_SENTENCES:]
  return [s for s in map(_said, said) if s]


def _said(rest: str) -> str:
  """Cuts the answer out of the rest of its line; "" if there is none."""
  rest = rest.strip("* \t")
  if _AGAIN.match(rest):
    return ""  # "Final answer: The answer is 5." is found at its end
  for opening, closing in _OPENINGS.items():
    if rest.startswith(opening):
      inside, closed, after = rest[len(opening) :].partition(closing)
      if closed and re.match(r"\s*%", after):
        return inside + r"\%"
      if closed and not re.match(r"\s*\w", after):
        return inside
      if closed and opening == "$" and re.match(r"\d", rest[1:]):
        break  # "$5 to $10": money
      return inside if closed else rest
  end = _STOP.search(rest)
  said = rest[: end.start()] if end else rest
  if len(said.split()) > 3 and (match := _IS.search(said)):
    return match[1].strip(" \t:$")
  says_something = re.search(r"[\d\\]", said) or len(said.split()) <= 3
  return said.strip(" \t:") if says_something else ""


def formulas(text: str) -> list[str]:
  """Returns the formula that ends the text."""
  tail = text[-_MAX_LINE - 50 :]
  match = _FORMULA.search(tail)
  return [next(g for g in match.groups() if g)] if match else []


def whole(text: str) -> list[str]:
  """Returns the text if it is one line."""
  line = text.strip()
  return [line] if len(line) <= _MAX_LINE and "\n" not in line else []


_FINDERS = {
    "boxed": boxed,
    "tag": tagged,
    "hash": hashed,
    "sentence": sentences,
    "formula": formulas,
    "whole": whole,
}
_SPANS = {"boxed": _boxes, "tag": _tags}
