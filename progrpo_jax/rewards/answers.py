r"""Finds the final answer in a completion.

A completion may mark its answer in several forms. The strongest form that
occurs counts, and of several marks of that form the last. Marks separated only
by commas, "and", "or" or names such as "x =" are parts of one answer:
t = \boxed{2} or t = \boxed{8} answers "2, 8" and not 8.
"""

import itertools
import re
from typing import NamedTuple

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import words

# "boxed": \boxed{...} or \fbox{...}. "tag": <answer>...</answer>. "hash": a
# line "#### ..." (GSM8K), which is the last line or holds a value; other such
# lines are headings. "sentence": "the (final) answer is ...". "formula":
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
_HASH = re.compile(r"^[ \t]*#{4,6}[ \t]*(\S.*)$", re.M)
# What numbers a heading or an item: 1. Add, (a), 2) Results, 3.1 Results.
_NUMBERING = re.compile(
  r"\(?(?:\d+(?:\.\d+)*|[a-z]|[ivx]+)(?:[.)]|[.)]?:|[.)]?[ \t]+[A-Z][a-z])"
)
# What follows the beginning of a sentence: a line, or a formula set on its own.
_FOLLOWING = (
  r"(?=((?:\\\[|\$\$)[ \t]*\n[^\n]{1,299}\n[^\n]{0,9}|\S[^\n]{0,299}))"
)
_IS_WORDS = r"(?:is|are|will be|would be|equals|=)"
# Behind a colon, the answer may be a paragraph of its own.
_SENTENCE = re.compile(
  r"\b(?:(?:final|correct|right)[ \t]+)?answer(?:[ \t]+(?:choice|option))?"
  r"(?:[ \t]*\*\*)?[ \t]*"
  rf"(?:(?:{_IS_WORDS}[ \t]*)?:(?:[ \t]*\*\*)?[ \t]*(?:\n[ \t]*){{0,2}}"
  rf"|{_IS_WORDS}(?:[ \t]*\*\*)?[ \t]*+(?:\n[ \t]*+)?)" + _FOLLOWING,
  re.I,
)
# A heading of Markdown, or a line in bold: ### Final Answer, **Answer**.
_HEADING = re.compile(
  r"^[ \t]*(?:#{1,6}[ \t]*(?:\*\*)?|\*\*)(?:the[ \t]+)?"
  r"(?:(?:final|correct|right)[ \t]+)?answer(?:\*\*)?[ \t]*\n"
  r"[ \t]*(?:\n[ \t]*)?" + _FOLLOWING,
  re.I | re.M,
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
# Opening -> closing delimiter of a formula; \$ inside of it is a character.
_DELIMITERS = {
  "$$": re.compile(r"\$\$"),
  "$": re.compile(r"(?<!\\)\$"),
  r"\(": re.compile(r"\\\)"),
  r"\[": re.compile(r"\\\]"),
}
# Words between "is" and the answer that say nothing about it. "about" does.
_LEAD = re.compile(
  r"(?:(?:therefore|thus|hence|then|exactly|precisely|simply|just|indeed"
  r"|clearly|equal[ \t]+to)\b[ \t,:*]*)+",
  re.I,
)
# Words that add another answer to a formula: $5$ or $6$, $5$ (and $6$).
_JOINED = re.compile(
  r"[\s*,;/(\[]*(?:\\text\s*\{\s*)?(?:and|or)\b\s*"
  r"(?P<clause>(?:the|this|that|it|we|there|our)\b.*)?",
  re.I | re.S,
)
_OVER = re.compile(r"[\s*]*/\s*[\d$\\]")
_AGAIN = re.compile(r"(?:the )?(?:(?:final|correct|right) )?answer\b", re.I)
_IS = re.compile(r".*\b(?:is|are|equals)[ \t]+(\S.*)")
_STOP = re.compile(
  r"(?<=\S)[.!?](?:\*\*)?(?=\s|$)|(?<=\S)\*\*|(?<![\w\\])(?:because|since|as|so|"
  r"which|where|for|when|if|but|hence|therefore|i hope|i\.e)\b",
  re.I,
)
# not 41 but 42; "not only 41 but 42" has two answers.
_INSTEAD = re.compile(
  r"not\b(?![ \t]+(?:only|just|merely|simply)\b)[^.!?\n]{1,80}?"
  r"\bbut(?:[ \t]+rather)?[ \t]+",
  re.I,
)
# 42, not 41. What begins with no number may be a condition: x > 2, not 3.
_NOT_ANOTHER = re.compile(
  r"(-?\d[\w./^{}\\%]*),?\s+(?:(?:and\s+)?not|rather than|instead of)\s+"
  r"[-$\\(\d].*",
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
  """Returns the text after #### in the last line that has one.

  Headings of Markdown, which are no values and do not end the text, are no
  marks.
  """
  found = list(_HASH.finditer(text))
  if found and not re.search(r"\w", text[found[-1].end() :]):
    return [found[-1][1].strip()]
  values = (m[1].strip() for m in reversed(found) if _is_value(m[1]))
  return list(itertools.islice(values, 1))


def sentences(text: str) -> list[str]:
  """Returns the answers of sentences such as "The answer is 5."."""
  cues = [*_SENTENCE.finditer(text), *_HEADING.finditer(text)]
  cues = sorted(cues, key=re.Match.end)[-_MAX_SENTENCES:]
  answers = []
  for cue in cues:
    # Behind a heading or an empty line, a line that does not end the text may
    # begin an explanation, unless it is a value and nothing else.
    apart = cue.re is _HEADING or cue[0].count("\n") > 1
    if not apart or not text[cue.end(1) :].strip() or _is_alone(cue[1]):
      answers.append(_stated(cue[1]))
  return [a for a in answers if a]


def _is_value(line: str) -> bool:
  """Returns whether the line of a #### is a value and no heading."""
  line = line.strip("* \t.!")
  if formula := _leading_formula(line):
    return not re.search(r":|[A-Z][a-z]", formula[1])
  first, *others = line.split() or [""]
  # A single word may be a name or a heading, unless it has a sign: x+1.
  starts = re.match(
    r"[^A-Za-z]|[A-Za-z]{1,2}[\d=+^_/(\\*-]|[A-Za-z]+=|[A-Za-z]\Z", first
  )
  has_sign = first[:1].isalpha() and re.match(r"[=+*/^-]", "".join(others))
  return (
    bool(starts or has_sign)
    and len(others) < 8
    and not (_NUMBERING.match(line) or line.endswith(":"))
    and bool(re.search(r"[^\W_]", line))
    and not any(re.match(r"[A-Z][a-z]", w) for w in others)
  )


def _is_alone(line: str) -> bool:
  """Returns whether a line is a value and nothing else; "1. Add 2" is more."""
  line = line.strip("* \t.!")
  if formula := _leading_formula(line):
    return not formula[1]
  starts = re.match(r"[^A-Za-z]|\S+[ \t]*=", line)
  return bool(starts) and len(line.split()) <= 3 and not _STOP.search(line)


def _stated(rest: str) -> str:
  """Returns the answer in the rest of its sentence's line, "" if none."""
  rest = rest.strip("* \t")
  if lead := _LEAD.match(rest):
    rest = rest[lead.end() :]
  if instead := _INSTEAD.match(rest):
    rest = rest[instead.end() :]
  if _AGAIN.match(rest):
    return ""  # "Final answer: The answer is 5." matches again at its end
  formula = _leading_formula(rest)
  if formula and not _goes_on(*formula):
    is_percent = re.match(r"\s*%", formula[1])
    return formula[0] + (r"\%" if is_percent else "")
  # Plain text up to the end of the sentence. Of a long one, only what follows
  # "is" counts, and without a digit or formula it is no answer.
  sentence = _first_sentence(rest)
  if value := _NOT_ANOTHER.fullmatch(sentence):
    return value[1]
  if formula:
    return sentence.strip(" \t:*")
  is_long = len(sentence.split()) > 3
  if is_long and (match := _IS.search(sentence)):
    return match[1].strip(" \t:$*")
  is_answer = not is_long or re.search(r"[\d\\]", sentence)
  return sentence.strip(" \t:*") if is_answer else ""


def _first_sentence(text: str) -> str:
  """Returns a text up to its first stop, without marks of bold text.

  The end of bold text is a stop unless what follows changes the answer, as in
  **5** or **6**.
  """
  stops = _STOP.finditer(text)
  end = next(
    (s.start() for s in stops if s[0] != "**" or not _adds(text[s.end() :])),
    len(text),
  )
  return text[:end].replace("**", "")


def _leading_formula(text: str) -> tuple[str, str] | None:
  """Returns (formula, text behind it) of a text that begins with a formula.

  None if it does not, or if its sign $ is about money: "$5", "$5 to $10".
  """
  for opening, closing in _DELIMITERS.items():
    if text.startswith(opening):
      text = text.removeprefix(opening)
      end = closing.search(text)
      if not end:
        return None
      inside, after = text[: end.start()], text[end.end() :]
      if opening == "$" and (
        after[:1].isdigit() or re.search(r"\A\S.*\s\Z", inside)
      ):
        return None
      return inside, after
  return None


def _goes_on(inside: str, after: str) -> bool:
  """Returns whether the text behind a formula is part of the answer."""
  # Behind digits, any word may be a unit, which matters to the comparison.
  is_quantity = re.match(r"\d", inside) and re.match(r"[\s*]*\w", after)
  return _adds(after) or bool(is_quantity and not _JOINED.match(after))


def _adds(after: str) -> bool:
  """Returns whether a text changes the answer before it or adds another."""
  if joined := _JOINED.match(after):
    # "5 and the proof is complete": a clause without a value adds nothing.
    clause = joined["clause"]
    return not clause or bool(
      re.search(r"[\d$\\]", clause) or words.change(clause)
    )
  word = re.match(r"[\s*]*([A-Za-z]+)", after)
  return bool(_OVER.match(after) or word and words.change(word[1]))


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
