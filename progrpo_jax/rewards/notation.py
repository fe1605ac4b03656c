r"""Structure of an answer: tuple, set, interval, equation, quantity.

Parses the text of an answer to an `Answer`, whose parts are answers again and
whose leaves are expressions (see rewards/expressions.py) or words. The meaning
of a comma depends on its surroundings: 1,234 is a number, (1,234) a tuple and
1, 234 a list of two numbers.
"""

import dataclasses
import math
import re

from progrpo_jax.rewards import evaluation, expressions, latex, units, words

_MAX_PARTS = 64


@dataclasses.dataclass(frozen=True)
class Answer:
  """Parsed answer.

  Attributes:
    kind: "atom" (one expression), "words", "list" (unordered, no brackets),
      "set", "tuple" (also intervals), "union", "ratio", "matrix", "named"
      (name = value), "chain" (expressions joined by =) or "relation"
      (expressions joined by other signs).
    text: text of the whole answer.
    parts: parsed parts.
    extra: brackets of a tuple, name of a named value, signs of a relation, "a"
      or "p" of a time of day (am, pm), or "or" of a list joined by it alone.
  """

  kind: str
  text: str
  parts: tuple["Answer", ...] = ()
  extra: str | tuple[str, ...] = ""


_THOUSANDS = re.compile(
  r"(?<![\d.,])([1-9]\d{0,2})((?:,\d{3})+|(?: \d{3})+)(?![\d,]| \d)"
)
_SEPARATOR = re.compile(
  r"\s*(?:,|;|,?\s*\\text\s*\{\s*(?P<t>and|or)\s*\}|"
  r",?\s*(?<![A-Za-z\\])(?P<w>and|or)(?![A-Za-z])|(?P<c>\\lor(?![A-Za-z])))"
  r"(?:\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?:and|or)(?![A-Za-z])))?\s*"
)
_ROWS = re.compile(r"\s*;\s*")
_CUP = re.compile(r"\\cup(?![A-Za-z])\s*")
SIGN = re.compile(
  r"\s*(\\(?:le|ge|ne|in|approx|to|sim|subset)(?![A-Za-z])|:=|[=<>])\s*"
)
# Sign -> sign of the same relation with its sides swapped.
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
_WORDS_ONLY = re.compile(r"[A-Za-z][A-Za-z' /-]*\.?")
_SHORT_WORDS = frozenset(
  "yes no odd even red one two six ten man all max min true".split()
)
_MATRIX = re.compile(
  r"[\[(]?\s*\\begin\s*\{([pbBvV]?matrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)"
  r"\\end\s*\{\1\}\s*[\])]?",
  re.S,
)
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_OPEN, _CLOSE_BRACKETS = "([{", ")]}"
# An interval whose brackets are turned away from an end that it does not have:
# ]0,1[ is (0,1).
_END = r"[^\[\],;]+"
_TURNED = re.compile(
  rf"(?:\]{_END}[,;]{_END}[\[\]]|\[{_END}[,;]{_END}\[)", re.S
)


def read(text: str, *, thousands: bool = True) -> Answer:
  """Parses an answer.

  Args:
    text: answer as marked in a completion or given as the reference.
    thousands: whether 1,234 is one number; otherwise it is a list of two.
  """
  text = latex.clean(text)
  text = text.replace(r"\langle", "(").replace(r"\rangle", ")")
  return _read(_join_thousands(text) if thousands else text)


def _turned_back(text: str) -> str:
  """Writes intervals such as ]0,1[, or a union of them, as English texts do."""
  pieces = [piece.strip() for piece in _CUP.split(text)]
  if not any(map(_TURNED.fullmatch, pieces)):
    return text
  return r" \cup ".join(
    "[("[piece[0] == "]"] + piece[1:-1] + "])"[piece[-1] == "["]
    if _TURNED.fullmatch(piece)
    else piece
    for piece in pieces
  )


def _read(text: str) -> Answer:
  """Parses a text cleaned by `latex.clean`."""
  text = _turned_back(text.strip())
  if len(text) > expressions.MAX_CHARS or (
    expressions.nesting(text) > expressions.MAX_NESTING
  ):
    return Answer("words", text)
  if (reals := _read_reals(text)) is not None:
    return reals
  if (matrix := _MATRIX.fullmatch(text)) and r"\begin" not in matrix[2]:
    rows = [
      Answer("tuple", row, tuple(map(_read, row.split("&"))))
      for row in re.split(r"\\\\(?:\[[^\]]*\])?", matrix[2])
      if row.strip()
    ]
    return Answer("matrix", text, tuple(rows))
  # A decimal comma, since no separator of thousands follows a 0.
  if re.fullmatch(r"-?0,\d+", text):
    return Answer("atom", text.replace(",", "."))
  # Semicolons separate more weakly than commas and "and": 1,2; 3,4.
  cut, signs = split(text, _ROWS)
  if len(cut) < 2:
    cut, signs = split(text, _SEPARATOR)
  if 1 < len(cut) <= _MAX_PARTS:
    parts = tuple(_read(c) for c in cut)
    # Inequalities or intervals joined by "or" are a union.
    joined = all(s in ("or", r"\lor") for s in signs)
    if joined:
      ranges = [interval(p) for p in parts]
      if all(ranges) and any(
        p.kind == "relation" or "[" in p.extra or ("]" in p.extra)
        for p in parts
      ):
        return Answer("union", text, tuple(ranges))
    return Answer("list", text, parts, "or" if joined else "")
  if is_words(text):
    return Answer("words", text)
  cut, _ = split(text, _CUP)
  if 1 < len(cut) <= _MAX_PARTS and SIGN.search(text) is None:
    return Answer("union", text, tuple(_read(c) for c in cut))
  return (
    _read_relation(text)
    or _read_brackets(text)
    or _read_ratio(text)
    or _read_atom(text)
  )


# ----- Sets of real numbers -----

_REALS = r"\\mathbb\s*(?:\{\s*R\s*\}|R)|\\R(?![A-Za-z])"
_ALL_REALS = re.compile(
  rf"(?:{_REALS}|(?:the set of )?(?:all )?(?:the )?"
  r"(?P<which>positive |negative |non-?negative |non-?zero )?"
  r"real(?:s| numbers?)(?: x)?)\s*"
  r"(?P<part>(?:\^|_)\s*(?:\{[^{}]{1,9}\}|[-+*]))?\s*"
  r"(?:(?:\\setminus(?![A-Za-z])|-|,?\s*(?:except(?: for)?|other than"
  r"|excluding|but))\s*(?P<without>\S.*))?",
  re.S | re.I,
)
# Kind of numbers, or mark behind the R -> interval.
_HALVES = {
  "positive": (r"(0,\infty)"),
  "negative": r"(-\infty,0)",
  "nonnegative": r"[0,\infty)",
  "^+": r"(0,\infty)",
  "^-": r"(-\infty,0)",
  "_>0": r"(0,\infty)",
  r"_\ge0": r"[0,\infty)",
  "_<0": r"(-\infty,0)",
  r"_\le0": r"(-\infty,0]",
}
_NONE = re.compile(
  r"(?:there (?:is|are) |it has |has )?no (?:real |such )?"
  r"(?:solutions?|roots?)(?: exists?)?|(?:the )?empty set|\\emptyset",
  re.I,
)
_BUILDER = re.compile(
  rf"\s*(?P<name>[A-Za-z](?:_\w)?)\s*(?:\\in\s*(?:{_REALS})\s*)?"
  r"(?:\||:|\\text\s*\{\s*such that\s*\})\s*(?P<rest>\S.*)",
  re.S,
)


def _read_reals(text: str) -> Answer | None:
  """Parses the set of all real numbers, a half, all but a few, or none.

  None if the text means none of these.
  """
  plain = re.sub(r"\s+", " ", unwrap(text)).strip(" .")
  if _NONE.fullmatch(plain):
    return Answer("set", r"\emptyset")
  match = _ALL_REALS.fullmatch(plain)
  if not match or not ("\\" in plain or re.search(r"all|reals|numbers", plain)):
    return None
  which = (match["which"] or "").strip().casefold().replace("-", "")
  part = re.sub(r"[\s{}]", "", match["part"] or "")
  without = match["without"]
  if which == "nonzero" or part == "^*":
    # All but zero; together with further exceptions it is not understood.
    without, which, part = without and "" or "0", "", ""
  if which or part:
    half = _HALVES.get(which or part)
    return _read_brackets(half) if half and not without else None
  if without is None:
    return _open("-\\infty", "\\infty")
  points = without.strip()
  if points.startswith(r"\{") and points.endswith(r"\}"):
    points = points[2:-2]
  cut, _ = split(points, _SEPARATOR)
  return _all_but([c.rpartition("=")[2] for c in cut])


def _open(left: str, right: str) -> Answer:
  """Returns an open interval."""
  return _range(left, right, "()")


def _range(left: str, right: str, brackets: str) -> Answer:
  """Returns an interval with these brackets."""
  ends = Answer("atom", left.strip()), Answer("atom", right.strip())
  text = f"{brackets[0]}{left},{right}{brackets[1]}"
  return Answer("tuple", text, ends, brackets)


def _all_but(points: list[str]) -> Answer | None:
  """Returns the real numbers except some points as a union of intervals.

  None if a point is not a real constant.
  """
  values = {}
  for point in points[:_MAX_PARTS]:
    tree = expressions.parse(point)
    if tree is None or expressions.symbols(tree):
      return None
    value = evaluation.evaluate(tree, 0)
    if value is None or complex(value).imag:
      return None
    values[complex(value).real] = point
  if not values:
    return None
  ends = [r"-\infty", *(values[v] for v in sorted(values)), r"\infty"]
  parts = tuple(_open(a, b) for a, b in zip(ends, ends[1:]))
  return Answer("union", " \\cup ".join(p.text for p in parts), parts)


def _read_builder(inner: str) -> Answer | None:
  r"""Parses the inside of \{x \mid x > 3\} as an interval.

  None if it is not a set of this form.
  """
  match = _BUILDER.fullmatch(inner)
  if not match:
    return None
  name = re.escape(match["name"])
  # A condition that x is real says nothing and is removed at either end.
  rest = re.sub(
    rf"\A\s*{name}\s*\\in\s*(?:{_REALS})\s*(?:,|\\text\s*\{{\s*and\s*\}}"
    rf"|and|\\wedge)?\s*|,\s*{name}\s*\\in\s*(?:{_REALS})\s*\Z",
    "",
    match["rest"],
  )
  if not rest.strip():
    return _open("-\\infty", "\\infty")
  answer = _read(rest)
  if answer.kind == "union":
    return answer
  if answer.kind != "relation":
    return None
  return excluded(answer) or interval(answer)


def excluded(answer: Answer) -> Answer | None:
  r"""Returns the set of numbers that satisfy x \ne 3.

  None if the answer is not of this form.
  """
  if answer.kind != "relation" or answer.extra != (r"\ne",):
    return None
  texts = [p.text for p in answer.parts]
  if not _is_unknown(texts[0]):
    texts.reverse()
  return _all_but(texts[1:]) if _is_unknown(texts[0]) else None


# ----- Ratios -----

_TO = re.compile(
  r"\s*\\text\s*\{\s*(?:is )?to\s*\}\s*|(?<=\d) (?:is )?to (?=\d)"
)
_COLON = re.compile(r"\s*:\s*")
_HALF_DAY = re.compile(r"\s*(?:\\text\s*\{\s*)?([ap])\.?m\.?\s*\}?\s*\Z", re.I)


def _read_ratio(text: str) -> Answer | None:
  """Parses 2:3 and 2 to 3, also 6:30 pm, whose extra is "p".

  None if the text is no ratio.
  """
  half_day = _HALF_DAY.search(text)
  body = text[: half_day.start()] if half_day else text
  cut, _ = split(_TO.sub(":", body), _COLON)
  if not 1 < len(cut) <= 6 or not all(map(expressions.parse, cut)):
    return None
  if half_day and not re.fullmatch(r"\d{1,2}:\d\d", body.strip()):
    return None
  extra = half_day[1].casefold() if half_day else ""
  return Answer("ratio", text, tuple(Answer("atom", c) for c in cut), extra)


def is_time(answer: Answer) -> bool:
  """Returns whether a ratio is a time of day: 06:30, 6:30 pm, 6:30.

  Ratios are mostly given in lowest terms, unlike 6:30.
  """
  texts = [p.text for p in answer.parts]
  if answer.extra:
    return True
  if (
    len(texts) != 2
    or not re.fullmatch(r"\d{1,2}", texts[0])
    or (not re.fullmatch(r"[0-5]\d", texts[1]))
  ):
    return False
  hours, minutes = map(int, texts)
  return hours < 25 and (
    "0" in (texts[0][0], texts[1][0]) or math.gcd(hours, minutes) > 1
  )


def _read_brackets(text: str) -> Answer | None:
  """Parses a text in brackets: a set, a tuple or an interval.

  None if the brackets do not enclose the whole text or only group it.
  """
  if text.startswith(r"\{") and text.endswith(r"\}"):
    return _read_set(text, text[2:-2])
  if len(text) < 2 or text[0] not in _OPEN or text[-1] not in _CLOSE_BRACKETS:
    return None
  inner = text[1:-1]
  cut, _ = split(inner, _SEPARATOR)
  closed = _balanced(inner)
  if text[0] == "{" and closed:
    return _read(inner)
  if not closed or len(cut) > _MAX_PARTS:
    return None
  if len(cut) > 1:
    parts = tuple(_read(c) for c in cut)
    return Answer("tuple", text, parts, text[0] + text[-1])
  if is_words(inner) or len(inner) == 1:
    return _read(inner)  # (C) is C
  return None


def _read_set(text: str, inner: str) -> Answer | None:
  """Parses the inside of a set; None if it is not one."""
  if not _balanced(inner):
    return None
  if (described := _read_builder(inner)) is not None:
    return described
  cut, _ = split(inner, _SEPARATOR)
  if len(cut) > _MAX_PARTS:
    return None
  # A part with a plus-minus sign is a list of two, which become two elements.
  parts = []
  for part in (_read(c) for c in cut if c):
    parts += part.parts if part.kind == "list" else [part]
  return Answer("set", text, tuple(parts))


def _read_relation(text: str) -> Answer | None:
  """Parses expressions joined by signs of relation; None if there are none."""
  cut, signs = split(text, SIGN)
  if len(cut) < 2 or len(cut) > 8 or not all(cut):
    return None
  # An approximate value is dropped behind an exact one: \pi \approx 3.14.
  if r"\approx" in signs:
    at = signs.index(r"\approx")
    if at == 0 and quantity(cut[0]):
      return Answer("named", text, (_read(cut[-1]),), cut[0])
    return _read(text[: _SIGN_APPROX.search(text).start()])
  if signs[0] == r"\in" and len(cut) == 2 and label(cut[0]):
    return Answer("named", text, (_read(cut[1]),), cut[0])
  if set(signs) <= {"=", ":="}:
    if quantity(cut[0]):
      return Answer("named", text, (_read(cut[-1]),), cut[0])
    return Answer("chain", text, tuple(_read_atom(c) for c in cut))
  parts = tuple(_read_atom(c) for c in cut)
  return Answer("relation", text, parts, tuple(signs))


_SIGN_APPROX = re.compile(r"\\approx(?![A-Za-z])")


def _read_atom(text: str) -> Answer:
  r"""Parses one expression; one with \pm is the list of its two values."""
  text = text.strip()
  if _PLUS_MINUS.search(text):
    pair = []
    for first, second in ("+-", "-+"):
      signs = {"pm": first, "mp": second}
      part = _PLUS_MINUS.sub(lambda m, s=signs: s[m[1]], text)
      pair.append(Answer("atom", part))
    return Answer("list", text, tuple(pair))
  return Answer("atom", text)


def split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list]:
  """Splits a text outside of its brackets.

  Args:
    text: text to split.
    separator: pattern of a separator.

  Returns:
    (pieces, the first group of each separator). Pieces between commas may not
    be empty.
  """
  pieces, signs, start, depth, scanned = [], [], 0, 0, 0
  for match in separator.finditer(text):
    between = text[scanned : match.start()]
    depth += sum(c in _OPEN for c in between)
    depth -= sum(c in _CLOSE_BRACKETS for c in between)
    scanned = match.start()
    if depth == 0:
      pieces.append(text[start : match.start()].strip())
      signs.append(next((g for g in match.groups() if g), ""))
      start = scanned = match.end()
  pieces.append(text[start:].strip())
  if separator in (_SEPARATOR, _ROWS):
    pieces = [p for p in pieces if p]
  return pieces, signs


def _balanced(text: str) -> bool:
  """Returns whether all brackets of a text are opened and closed in it."""
  depth = 0
  for char in text:
    depth += (char in _OPEN) - (char in _CLOSE_BRACKETS)
    if depth < 0:
      return False
  return depth == 0


def _join_thousands(text: str) -> str:
  """Removes the separators of thousands from numbers outside of brackets."""
  parts, end = [], 0
  for match in _THOUSANDS.finditer(text):
    before = text[: match.start()]
    if _balanced(before):
      parts += [text[end : match.start()], re.sub("[, ]", "", match[0])]
      end = match.end()
  return "".join([*parts, text[end:]])


def is_words(text: str) -> bool:
  r"""Returns whether a text is words and not a product of letters."""
  plain = unwrap(text).strip()
  if plain == "" or not _WORDS_ONLY.fullmatch(plain):
    return False
  if plain.casefold() in _SHORT_WORDS or len(plain.split()) > 2:
    return True
  return max(map(len, plain.split())) >= (4 if plain == text.strip() else 2)


def unwrap(text: str) -> str:
  r"""Replaces each \text{...} by its content."""
  return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)


def squeeze(text: str) -> str:
  r"""Returns a text without spaces, \text and redundant braces."""
  text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", unwrap(text))
  text = re.sub(r"(?<=[\^_])\{(\w)\}", r"\1", text).rstrip(".")
  return re.sub(r"\A\(([A-Za-z])\)\Z", r"\1", text)


_NAME = re.compile(
  r"(?:[A-Za-z](?:_(?:\w|\{(?:[^{}]|\{[^{}]*\})*\}))?'*"
  r"|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|rho|sigma|pi_\w+)"
  r"(?:_(?:\w|\{\w+\}))?|[A-Z]{2,4}|m?\s*\\angle\s*\w+"
  r"|\\overline\s*\{\w+\}|\|\s*[A-Za-z]{1,3}\s*\|)"
)
_APPLIED = re.compile(r"[a-wA-W](?:_\w|_\{\w+\})?'*(?:\^\{-1\})?\s*\([^()=]*\)")


def label(text: str) -> str:
  """Returns the kind of name that a left side of = is.

  Returns:
    "name" for a symbol or words; "compound" for symbols joined by operators,
    such as m+n; "" for anything else. A compound name has no numbers, so that
    an equation of the question, x^2-5 = 4, does not pass for the answer 4.
  """
  text = text.strip()
  if _NAME.fullmatch(text) or _APPLIED.fullmatch(text) or is_words(text):
    return "name"
  if re.fullmatch(r"\(\s*\w(?:_\w)?(?:\s*,\s*\w(?:_\w)?)*\s*\)", text):
    return "name"
  if re.fullmatch(
    r"\w+(?:_\w|_\{\w+\})?(?:\s*:\s*\w+(?:_\w|_\{\w+\})?){1,5}", text
  ):
    return "name"
  tree = expressions.parse(text)
  return "compound" if tree and _has_only_symbols(tree) else ""


# Operators whose result may be stated with their operand or without it.
_OPERATOR = re.compile(
  r"\\(?:lim|limsup|liminf|max|min|sup|inf|i{1,3}nt|oint|sum|prod)(?![A-Za-z])"
)
# What is applied to an argument in brackets: \gcd(a,b), \mathbb{E}[X].
_FUNCTIONAL = re.compile(
  r"(?:\\(?:gcd|lcm|Pr|det|deg|dim|arg|max|min)(?![A-Za-z])|\\text\s*\{[^{}]+\}"
  r"|\\mathbb\s*(?:\{\s*[A-Z]\s*\}|[A-Z])|gcd|lcm|max|min|[A-Z][a-z]+)"
  r"(?:_(?:\w|\{[^{}]*\}))?\s*([(\[].*[)\]])"
)
_FIGURE = re.compile(r"\\(?:triangle|square|odot|angle)(?![A-Za-z])\s*")
_AT_NUMBER = r"[a-wA-W](?:_\w|_\{\w+\})?'*\s*\(\s*-?[\d./]+\s*\)"
_SUM_AT_NUMBERS = re.compile(rf"{_AT_NUMBER}(?:\s*[-+]\s*{_AT_NUMBER})+")


def quantity(text: str) -> str:
  r"""Returns the kind of name that the value behind an = may have.

  Returns:
    As `label`, and more than an unknown may have: "name" for a function of
    something (\gcd(a,b), \lfloor 100x\rfloor) or an operator (\lim_{x\to 0} f);
    "compound" for what questions ask for, 100m+n and f(1)+f(2). A sum with one
    letter is an equation, whose right side is no answer.
  """
  text = text.strip()
  if kind := label(text):
    return kind
  if is_words(_FIGURE.sub("", text)):
    return "name"
  if match := _FUNCTIONAL.fullmatch(text):
    return "name" if _balanced(match[1][1:-1]) else ""
  if match := _OPERATOR.match(text):
    terms, _ = split(text[match.end() :], _PLUS)
    return "name" if len(terms) == 1 else ""
  if _SUM_AT_NUMBERS.fullmatch(text):
    return "compound"
  tree = expressions.parse(text)
  if tree is None or not expressions.symbols(tree):
    return ""
  if tree[0] in ("floor", "ceil"):
    return "name"
  is_sum = tree[0] == "add" and len(expressions.symbols(tree)) > 1
  return "compound" if is_sum and all(map(_is_multiple, tree[1:])) else ""


_PLUS = re.compile(r"([-+])")


def _is_multiple(tree: expressions.Tree) -> bool:
  """Returns whether a term is a product of symbols with a number before it."""
  while tree[0] == "neg":
    tree = tree[1]
  if tree[0] == "mul" and tree[1][0] == "number":
    tree = tree[2]
  elif tree[0] == "mul" and tree[1][0] == "mul":
    return _is_multiple(tree[1]) and _has_only_symbols(tree[2])
  return _has_only_symbols(tree)


def _has_only_symbols(tree: expressions.Tree) -> bool:
  """Returns whether a tree consists of symbols joined by + - * / and | |."""
  if tree[0] == "symbol":
    return True
  return tree[0] in ("add", "mul", "div", "neg", "abs") and all(
    _has_only_symbols(a) for a in tree[1:]
  )


def interval(answer: Answer) -> Answer | None:
  """Returns the interval of a relation such as 1 < x <= 2; None if none.

  Answers that are intervals, unions or sets already are returned as they are.
  """
  if answer.kind == "named":
    return interval(answer.parts[0])
  if answer.kind in ("tuple", "union", "set"):
    return answer
  if answer.kind != "relation":
    return None
  # Brought to the form left < x < right, with infinity for a missing side.
  texts, signs = [p.text for p in answer.parts], list(answer.extra)
  if len(texts) == 2 and not (label(texts[0]) or _DISTANCE.fullmatch(texts[0])):
    texts, signs = texts[::-1], [FLIPPED.get(signs[0], "")]
  if len(texts) == 2 and (distance := _DISTANCE.fullmatch(texts[0])):
    return _within(distance["shift"] or "", signs[0], texts[1])
  if len(texts) == 2 and label(texts[0]) and signs[0] in "<\\le":
    texts, signs = [r"-\infty", *texts], ["<", *signs]
  elif len(texts) == 2 and label(texts[0]) and signs[0] in ">\\ge":
    texts = [texts[1], texts[0], r"\infty"]
    signs = [FLIPPED[signs[0]], "<"]
  elif len(texts) == 3 and set(signs) <= {">", r"\ge"}:
    texts, signs = texts[::-1], [FLIPPED[s] for s in signs[::-1]]
  if (
    len(texts) != 3
    or not _is_unknown(texts[1])
    or (not set(signs) <= {"<", r"\le"})
  ):
    return None
  ends = tuple(Answer("atom", t) for t in (texts[0], texts[2]))
  brackets = "[("[signs[0] == "<"] + "])"[signs[1] == "<"]
  return Answer("tuple", answer.text, ends, brackets)


_DISTANCE = re.compile(
  r"\|\s*(?P<name>[A-Za-z](?:_\w)?)\s*(?P<shift>[-+][^|]+)?\|"
)


def _is_unknown(text: str) -> bool:
  """Returns whether a side of a relation is a name; |x| is none."""
  return bool(label(text)) and not _DISTANCE.fullmatch(text)


def _within(shift: str, sign: str, radius: str) -> Answer | None:
  """Returns the numbers x with |x + shift| < radius, or > radius.

  None if the radius is no positive constant, or the shift no constant.
  """
  if sign == "<" and squeeze(radius) in (r"\infty", r"+\infty"):
    return _range(r"-\infty", r"\infty", "()")
  trees = [expressions.parse(text) for text in (shift or "0", radius)]
  if not all(tree and not expressions.symbols(tree) for tree in trees):
    return None
  size = evaluation.evaluate(trees[1], 0)
  if size is None or complex(size).imag or complex(size).real <= 0:
    return None
  centre = f"-({shift})" if shift else ""
  low, high = f"{centre}-({radius})", f"{centre}+({radius})".lstrip("+")
  if sign in ("<", r"\le"):
    return _range(low, high, "()" if sign == "<" else "[]")
  if sign not in (">", r"\ge"):
    return None
  left, right = "()" if sign == ">" else "[]"
  parts = (
    _range(r"-\infty", low, f"({right}"),
    _range(high, r"\infty", f"{left})"),
  )
  return Answer("union", r" \cup ".join(p.text for p in parts), parts)


def unknowns(answer: Answer) -> set[str]:
  """Returns the names that the sides of a relation are about.

  That of |x - 1| < 3 is x, as `interval` reads it.
  """
  texts = [part.text for part in answer.parts]
  if len(texts) == 2 and not set(answer.extra) & {"=", r"\ne"}:
    texts = [
      distance["name"] if (distance := _DISTANCE.fullmatch(text)) else text
      for text in texts
    ]
  return {squeeze(text) for text in texts if label(text)}


# ----- Units -----

_UNIT_TEXT = re.compile(
  r"^(.+?)\s*\\text\s*\{([^{}]*)\}((?:\s*[/*]?\s*\\text\s*\{[^{}]*\})*)"
  r"\s*(\^\s*\{?-?\d\}?)?$",
  re.S,
)
_UNIT_WORDS = re.compile(
  r"^(.*[\d})%])\s+([A-Za-z]{2,}\.?|[mgsLNJWVK])"
  r"((?:[ /]+(?:[A-Za-z]+\.?))*)\s*(\^\s*\{?-?\d\}?)?$"
)
# 18 (dollars), but not the product 2 (ab).
_UNIT_BRACKETS = re.compile(
  r"^(.*[\d})%])\s+\(\s*([A-Za-z]{2,}\.?)((?:[ /]+(?:[A-Za-z]+\.?))*)\s*\)()$"
)
_UNIT_GLUED = re.compile(
  r"^(.*\d)(mm|cm|km|kg|mg|ml|mL|lb|ft|min|hr|hrs|mph|km/h|m/s)"
  r"(\^\s*\{?-?\d\}?)?$"
)
_POWER = re.compile(r"\^\s*\{?\s*(-?\d)")


# Where a quantity may end; what follows is tried as a unit.
_END_OF_VALUE = re.compile(r"(?<=[\d})%])(?=\s*[A-Za-z\\Å])")
_TEXTS = re.compile(r"\\text\s*\{(?:[^{}]|\{[^{}]*\})*\}")
_MAX_UNIT = 80  # characters of a unit
_SQUARED = re.compile(r"\b(?:square|sq|cubic|cu)\b|\b(?:squared|cubed)\b")
_AMOUNTS = ("K", "T")  # 5K and 5T may be thousands and trillions


def split_words(text: str, *, glued: bool = False) -> tuple[str, str]:
  """Returns (quantity, words behind it).

  Words that change the value ("million") and letters that may be factors stay
  with the quantity; all other words are split off, units or not.

  Args:
    text: text of an expression.
    glued: whether a letter behind a digit is a unit if it can be one, as in
      5m; otherwise it is a factor.
  """
  for at in (m.start() for m in _END_OF_VALUE.finditer(text)):
    suffix = text[at:]
    if len(suffix) <= _MAX_UNIT and _is_unit(suffix, glued):
      return text[:at].strip(), units.flat(suffix).strip()
  for pattern in (_UNIT_TEXT, _UNIT_WORDS, _UNIT_BRACKETS, _UNIT_GLUED):
    match = pattern.match(text)
    if match and match[1].strip(" ({[-"):
      suffix = "".join(match.groups()[1:-1])
      bare = pattern in (_UNIT_WORDS, _UNIT_BRACKETS)
      is_product = bare and (
        words.is_product(match[2]) or re.fullmatch(r"\w(?: \w)+", suffix)
      )
      if is_product or words.change(unwrap(suffix)):
        break
      power = match.groups()[-1] or ""
      return match[1].strip(), unwrap(suffix) + power
  return text, ""


def _is_unit(suffix: str, glued: bool) -> bool:
  r"""Returns whether what follows a number is a unit and no product.

  Args:
    suffix: text behind a number.
    glued: see `split_words`.
  """
  if units.measure(suffix) is None:
    return False
  bare = _TEXTS.sub("", suffix).replace(r"\times", "*")
  if not re.search(r"[A-Za-z]", bare):
    return True
  if suffix in _AMOUNTS:
    return False
  # Letters outside of \text, or \mu and \Omega. Several in a row are factors.
  is_row = re.search(r"\w\s+\w", _SQUARED.sub("", units.flat(bare)))
  return (glued or suffix[0] == " " or r"\text" in suffix) and (
    not is_row or "^{-" in bare
  )


_FILLERS = frozenset(
  "a an the of in total unit square sq cubic cu about only different".split()
)


def words_differ(left: str, right: str) -> bool:
  """Returns whether the words behind two numbers make the quantities differ.

  They do if each side has a word that the other lacks: "East" and "West", "red
  marbles" and "blue marbles", but not "ways" and "different ways". Two known
  units are compared by scale and powers of base units.
  """
  known = units.measure(left), units.measure(right)
  if all(known):
    return known[0] != known[1]
  powers = _power(left), _power(right)
  if left and right and powers[0] != powers[1] and "1" not in powers:
    return True
  # Rates have too many spellings to be compared by words.
  if re.search(r"/|\bper\b|mph|kph", f"{left} {right}"):
    return False
  left_words, right_words = (
    {
      units.measure(w) or w.casefold().removesuffix("s")
      for w in re.findall(r"[A-Za-z]+", text)
      if w.casefold() not in _FILLERS
    }
    for text in (left, right)
  )
  return bool(left_words - right_words and right_words - left_words)


def _power(suffix: str) -> str:
  """Returns the power of the unit in words: "2" of "square metres"."""
  if match := _POWER.search(suffix):
    return match[1]
  if re.search(r"\b(?:square|sq)\b", suffix, re.I):
    return "2"
  return "3" if re.search(r"\b(?:cubic|cu)\b", suffix, re.I) else "1"
