r"""Finds the final answer in a completion.

A completion may mark its answer in several forms. The strongest form that
occurs counts, and of several marks of that form the last. Marks separated only
by commas, "and", "or" or names such as "x =" are parts of one answer:
t = \boxed{2} or t = \boxed{8} answers "2, 8" and not 8.
"""

import re
from typing import NamedTuple

from progrpo_jax.errors import InputError

# "boxed": \boxed{...} or \fbox{...}. "tag": <answer>...</answer>. "hash": a
# line "#### ..." (GSM8K). "sentence": "the (final) answer is ...". "formula":
# the text ends in $...$, \(...\) or \[...\]. "whole": the text, if it is one
# line. The strongest form comes first.
FORMS = ("boxed", "tag", "hash", "sentence", "formula", "whole")
DEFAULT = FORMS[:-1]

_MAX_LINE = 300
_MAX_SENTENCES = 64

_BRACE = re.compile(r"(?<!\\)(\\+)(?:(boxed|fbox)\s*\{|[{}])|[{}]")
_UNBRACED = re.compile(r"\\(?:boxed|fbox)\s+(-?[^\s{}$\\]+)")
# A box to be filled in, which a completion quotes from the question.
_PLACEHOLDER = re.compile(
  r"(?:\\[hv]?phantom\s*\{(?:[^{}]|\{[^{}]*\})*\}|\\q?quad(?![A-Za-z])"
  r"|\\[,;:! ]|[\s.$~])*"
)
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
# Text between the parts of one answer.
_BETWEEN = re.compile(
  r"(?:[\s,;&$]|\\[,;:!()\[\] ]|\\\\|\\q?quad(?![A-Za-z])|\*\*"
  r"|\\(?:text|mbox|mathrm|textrm)\s*\{[\s,;]*(?:and|or)?[\s,;]*\}"
  r"|(?:and|or|\\lor|\\text\s*\{\s*or\s*\})(?![A-Za-z])"
  r"|\\?[A-Za-z]{1,7}(?:_(?:\w|\{[^{}]{1,9}\}))?'?\s*&?\s*=)*"
)
_MAX_BETWEEN = 60
_OPENINGS = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_AGAIN = re.compile(r"(?:the )?(?:(?:final|correct|right) )?answer\b", re.I)
_IS = re.compile(r".*\b(?:is|are|equals)[ \t]+(\S.*)")
_STOP = re.compile(
  r"(?<=\S)[.!?](?:\*\*)?(?=\s|$)|\*\*|(?<![\w\\])(?:because|since|as|so|"
  r"which|where|for|when|if|but|hence|therefore|i hope)\b",
  re.I,
)


class Span(NamedTuple):
  """Position of a mark in a text.

  Attributes:
    start: index of the mark's first character.
    inside: index of its content's first character.
    until: index after its content.
    end: index after the mark.
  """

  start: int
  inside: int
  until: int
  end: int


def find(completion: str, forms: tuple[str, ...] = DEFAULT) -> list[str]:
  """Returns all answers marked in the strongest form that occurs."""
  for form in check_forms(forms):
    marked = [
      a for a in _FINDERS[form](completion) if not _PLACEHOLDER.fullmatch(a)
    ]
    if marked:
      return marked
  return []


def final(completion: str, forms: tuple[str, ...] = DEFAULT) -> list[str]:
  """Returns the parts of the last answer marked in the strongest form.

  Args:
    completion: text of the model without its thinking section.
    forms: forms to look for, of FORMS.

  Returns:
    One text for a single answer, several for a list, none without an answer.
  """
  for form in check_forms(forms):
    if form in _SPANS:
      spans = [
        s
        for s in _SPANS[form](completion)
        if not _PLACEHOLDER.fullmatch(completion, s.inside, s.until)
      ]
      if spans:
        return _last(completion, spans)
    elif marked := find(completion, (form,)):
      return marked[-1:]
  return []


def _last(text: str, spans: list[Span]) -> list[str]:
  """Returns the contents of the last spans that belong together."""
  first = len(spans) - 1
  while (
    first
    and spans[first].start - spans[first - 1].end <= (_MAX_BETWEEN)
    and _BETWEEN.fullmatch(text, spans[first - 1].end, spans[first].start)
  ):
    first -= 1
  return [text[s.inside : s.until].strip() for s in spans[first:]]


def check_forms(forms: object) -> tuple[str, ...]:
  """Returns the forms by strength; raises InputError for unknown or none."""
  chosen = (forms,) if isinstance(forms, str) else tuple(forms)
  for form in chosen:
    if form not in FORMS:
      raise InputError(
        f"no form of an answer {form!r} (known: {', '.join(FORMS)})"
      )
  if not chosen:
    raise InputError(f"forms is empty; choose from {', '.join(FORMS)}")
  return tuple(f for f in FORMS if f in chosen)


def boxed(text: str) -> list[str]:
  """Returns the contents of all closed outermost boxes."""
  return [text[s.inside : s.until].strip() for s in _boxes(text)]


def _boxes(text: str) -> list[Span]:
  """Returns the positions of all closed outermost boxes."""
  stack, boxes = [], []  # open braces, (start, inside, is_box); closed boxes
  for match in _BRACE.finditer(text):
    if match[1] and not match[2] and len(match[1]) % 2:
      continue  # \{ prints a brace; in \\{, a brace follows a line break
    if match[0][-1] == "{":
      stack.append((match.start(), match.end(), bool(match[2])))
    elif stack:
      start, inside, is_box = stack.pop()
      if is_box:
        # Boxes inside of this one closed before it.
        while boxes and boxes[-1].start > start:
          boxes.pop()
        boxes.append(Span(start, inside, match.start(), match.end()))
  return boxes or [
    Span(m.start(), m.start(1), m.start(1) + len(m[1].rstrip(".,;")), m.end())
    for m in _UNBRACED.finditer(text)
  ]


def tagged(text: str) -> list[str]:
  """Returns the contents of all <answer>...</answer>."""
  return [text[s.inside : s.until].strip() for s in _tags(text)]


def _tags(text: str) -> list[Span]:
  """Returns the positions of all answer tags."""
  return [Span(m.start(), *m.span(1), m.end()) for m in _TAG.finditer(text)]


def hashed(text: str) -> list[str]:
  """Returns the text after #### in the last line that has one."""
  lines = [m[1].strip() for m in _HASH.finditer(text)]
  return lines[-1:]


def sentences(text: str) -> list[str]:
  """Returns the answers of sentences such as "The answer is 5."."""
  rests = [m[1] for m in _SENTENCE.finditer(text)][-_MAX_SENTENCES:]
  return [answer for answer in map(_stated, rests) if answer]


def _stated(rest: str) -> str:
  """Returns the answer in the rest of its sentence's line, "" if none."""
  rest = rest.strip("* \t")
  if _AGAIN.match(rest):
    return ""  # "Final answer: The answer is 5." matches again at its end
  # A formula in delimiters, unless words or digits continue it.
  for opening, closing in _OPENINGS.items():
    if rest.startswith(opening):
      inside, closed, after = rest[len(opening) :].partition(closing)
      if closed and re.match(r"\s*%", after):
        return inside + r"\%"
      if closed and not re.match(r"\s*\w", after):
        return inside
      if closed and opening == "$" and re.match(r"\d", rest[1:]):
        break  # "$5 to $10" is about money
      return inside if closed else rest
  # Plain text up to the end of the sentence. Of a long one, only what follows
  # "is" counts, and without a digit or formula it is no answer.
  end = _STOP.search(rest)
  sentence = rest[: end.start()] if end else rest
  if len(sentence.split()) > 3 and (match := _IS.search(sentence)):
    return match[1].strip(" \t:$")
  is_answer = re.search(r"[\d\\]", sentence) or len(sentence.split()) <= 3
  return sentence.strip(" \t:") if is_answer else ""


def formulas(text: str) -> list[str]:
  """Returns the formula at the end of a text, if there is one."""
  tail = text[-_MAX_LINE - 50 :]
  match = _FORMULA.search(tail)
  return [next(g for g in match.groups() if g)] if match else []


def whole(text: str) -> list[str]:
  """Returns a text that is one short line, else nothing."""
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
