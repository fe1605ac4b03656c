r"""Cleans mathematical text: one LaTeX spelling for each thing.

Styles, spacing and currency signs are removed, Unicode characters and words
become LaTeX, and commands get one name: \dfrac12 and ½ become \frac{1}{2}.
"""

import re
from typing import Any

from progrpo_jax.rewards import (
  characters,
  expressions,
  presentation,
  units,
  words,
)

# Command -> its usual name, or the text that replaces it.
_SAME = {
  "geq": "ge",
  "geqslant": "ge",
  "gt": ">",
  "leq": "le",
  "leqslant": "le",
  "lt": "<",
  "neq": "ne",
  "dfrac": "frac",
  "tfrac": "frac",
  "cfrac": "frac",
  "dbinom": "binom",
  "tbinom": "binom",
  "cdot": "times",
  "ast": "times",
  "lbrace": "{",
  "rbrace": "}",
  "lbrack": "[",
  "rbrack": "]",
  "varphi": "phi",
  "varepsilon": "epsilon",
  "vartheta": "theta",
  "lvert": "|",
  "rvert": "|",
  "vert": "|",
  "mid": "|",
  "degree": "^\\circ",
  "varnothing": "emptyset",
  "arctg": "arctan",
  "tg": "tan",
  "ctg": "cot",
  "textbackslash": "",
  "vee": "lor",
  "simeq": "approx",
  "equiv": "=",
  "rightarrow": "to",
  "land": "wedge",
  "dots": "ldots",
  "cdots": "ldots",
  "dotsc": "ldots",
  "dotsb": "ldots",
  "dotsm": "ldots",
  "dotsi": "ldots",
  "dotso": "ldots",
  "hdots": "ldots",
  "textellipsis": "ldots",
  "colon": ":",
  "backslash": "setminus",
  "smallsetminus": "setminus",
  "Reals": "R",
  "reals": "R",
  "cong": "approx",
  "thickapprox": "approx",
}
# Commands without meaning.
_DROPPED = frozenset(
  (
    "left",
    "right",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "biggl",
    "biggr",
    "Biggl",
    "Biggr",
    "mleft",
    "mright",
    "displaystyle",
    "textstyle",
    "scriptstyle",
    "normalsize",
    "limits",
    "nolimits",
    "bf",
    "rm",
    "it",
    "mathstrut",
    "boldmath",
    "small",
    "large",
    "Large",
    "huge",
    "centering",
    "noindent",
    "hfill",
    "boxed",
    "fbox",
  )
)
_SPACES = frozenset(("quad", "qquad", "enspace", "thinspace", "space"))
_TEXTS = (
  "mathrm",
  "textbf",
  "textit",
  "textrm",
  "textnormal",
  "textsf",
  "texttt",
  "mbox",
  "hbox",
  "mathsf",
  "mathtt",
  "operatorname",
  "operatorname*",
)
_WRAPPERS = (
  "mathbf",
  "mathit",
  "boldsymbol",
  "bm",
  "pmb",
  "vec",
  "mathord",
  "ensuremath",
  "underline",
  "mathcal",
  "mathscr",
  "mathfrak",
)
# Names written without a backslash. "sec" at the end of a text is the unit.
_WORDS = (
  "arcsin arccos arctan sinh cosh tanh sqrt sin cos tan cot csc log ln exp pi"
  r" sec(?!\s*\.?\s*\Z) infinity inf theta alpha beta lambda infty"
).split()
# All commands with a meaning here.
_KNOWN = (
  expressions.FUNCTIONS
  | expressions.SYMBOL_COMMANDS
  | _DROPPED
  | _SPACES
  | set(_SAME)
  | set(_TEXTS)
  | set(_WRAPPERS)
  | {
    "text",
    "frac",
    "sqrt",
    "times",
    "div",
    "pm",
    "mp",
    "infty",
    "binom",
    "choose",
    "over",
    "log",
    "lfloor",
    "rfloor",
    "lceil",
    "rceil",
    "cup",
    "cap",
    "in",
    "ge",
    "le",
    "ne",
    "begin",
    "end",
    "approx",
    "circ",
  }
)

_COMMAND = re.compile(r"(\\+)([A-Za-z]+)\s*")
_TEXT = re.compile(rf"\\(?:text|{'|'.join(map(re.escape, _TEXTS))})\s*(?=\{{)")
_WRAPPER = re.compile(rf"\\(?:{'|'.join(_WRAPPERS)})(?![A-Za-z])\s*")
_WORD = re.compile(rf"(?<![\\A-Za-z])({'|'.join(_WORDS)})(?![A-Za-z])")
_REPEATING = re.compile(
  r"(?<![\w.])(\d{1,30})\.(\d{0,30})\s*\\(?:overline|bar|dot)\s*"
  r"\{(\d{1,30})\}"
)
# The letter of AMC's options before a value, \textbf{(E) }.
_CHOICE = re.compile(
  r"\A\s*\\text\s*\{\s*\([A-E]\)\s*\}\s*"
  r"(?=[-+]?\s*(?:\.?\d|\\(?:[dt]?frac|sqrt|pi)(?![A-Za-z])))"
)
# A number written as text, \text{5}.
_SET_NUMBER = re.compile(
  r"\A\s*\\text\s*\{([^{}A-Za-z\\]*\d[^{}A-Za-z\\]*)\}\s*\Z"
)
# A quantity written as text, \text{5 cm}; its unit stays text, 5\text{ cm}. A
# short word that is no unit may be a product of letters, as in \text{3 xy}.
_SHORT_UNIT = (
  r"(?:mm|cm|km|kg|mg|ml|lbs?|oz|ft|in|yd|mi|min|hrs?|mph|kmh|am|pm)"
  r"(?![a-z])"
)
_SET_QUANTITY = re.compile(
  r"\A\s*\\text\s*\{\s*([-+]?\s*(?:\d[\d.,]*(?:/\d+)?|\.\d+))"
  rf"(\s*{_SHORT_UNIT}[a-z ./-]*|\s+[mghlsLJNWVK](?![A-Za-z])[a-z ./-]*"
  r"|\s+(?!(?:[abcdxyz]{3}|[^aeiou\W\d]{3})(?![a-z]))[a-z]{3,}[a-z ./-]*)"
  r"\}(?=\s*(?:\^\s*\{?-?\d\}?\s*)?[\s.]*\Z)",
  re.I,
)
# One with any unit, \text{5 MHz}.
_SET_MEASURE = re.compile(
  r"\A\s*\\text\s*\{\s*([-+]?\s*(?:\d[\d.,]*(?:/\d+)?|\.\d+))"
  r"(\s+[^\d{}]{1,40})\}(?=\s*(?:\^\s*\{?-?\d\}?\s*)?[\s.]*\Z)"
)
_FUNCTION_TEXT = re.compile(
  r"\\text\s*\{\s*(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec"
  r"|csc|log|lg|ln|exp)\s*\}(?!\s*\.?\s*\Z)"
)
# 0.1666... must show its cycle three times, or twice if the cycle is long.
_GOES_ON = re.compile(
  r"(?<![\w.])(\d{1,30})\.(\d{0,20}?)"
  r"(?:(\d)\3{2,}|(\d{2,5})\4{2,}|(\d{6})\5+)\s*\\ldots(?![A-Za-z])"
)
# 4^{th}, 42^{\text{nd}}: the raised ending of an ordinal.
_ORDINAL = re.compile(
  r"(?<=\d)\s*\^\s*(?:\{\s*(?:\\text\s*\{\s*)?(st|nd|rd|th)\s*\}?\s*\}"
  r"|\\text\s*\{\s*(st|nd|rd|th)\s*\})(?=\s*(?:\Z|\\text|[A-Za-z.]))"
)
_INFIX = re.compile(r"\\(choose|over)(?![A-Za-z])")
_DEGREES = r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))"
_TRIGONOMETRIC = re.compile(
  rf"\\(?:{'|'.join(expressions.TRIGONOMETRIC)})(?![A-Za-z])"
)
_IN_TEXT = re.compile(r"\\text\{[^{}]*\}")


def clean(text: str) -> str:
  r"""Returns an answer in one LaTeX spelling; \text{} around words stays.

  Args:
    text: answer as marked in a completion.
  """
  text = characters.plain(presentation.strip(text))
  # Escapes, math delimiters, spacing commands and separators of digits.
  text = re.sub(r"\\\s*([$#&_])", lambda m: m[1] if m[1] == "_" else "", text)
  text = re.sub(r"(?<!\\)\\[()\[\]]", "", text)
  text = text.replace("$", "").replace("\\%", "%")
  text = re.sub(r"\\[!]\s*", "", text)
  text = re.sub(r"(?<!\\)\\[,;: >/]|~", " ", text)
  text = re.sub(r"\s*\{\s*,\s*\}\s*", ",", text)
  text = re.sub(r"(?<=\d)\s*\{\s*:\s*\}\s*", ":", text)
  # Fonts: upright e, i and d, the real numbers, and wrappers without meaning.
  text = re.sub(r"\\mathrm\s*\{\s*([eid])\s*\}", r"\1", text)
  text = re.sub(
    r"\\math(?:bf|rm)\s*(?:\{\s*R\s*\}|R(?![A-Za-z]))", r"\\mathbb{R}", text
  )
  text = _WRAPPER.sub("", _TEXT.sub(r"\\text", text))
  text = _FUNCTION_TEXT.sub(r"\\\1 ", text)
  text = _ORDINAL.sub(lambda m: rf"\text{{{m[1] or m[2]}}}", text)
  text = re.sub(r"\\lg(?![A-Za-z])", r"\\log_{10}", text)
  text = re.sub(r"\\(q?quad)(?=[A-Za-z](?![A-Za-z]))", " ", text)
  # Numbers and quantities set as text, then command names and plain words.
  text = re.sub(r"\.{3,}", r"\\ldots ", text)
  text = _SET_NUMBER.sub(r"\1", _CHOICE.sub("", text))
  text = _SET_QUANTITY.sub(r"\1\\text{\2}", text)
  text = _SET_MEASURE.sub(
    lambda m: rf"{m[1]}\text{{{m[2]}}}" if units.measure(m[2]) else m[0], text
  )
  text = words.unwrap(words.unname(_COMMAND.sub(_command, text)))
  text = _dots(_outside_text(_infix(text), _spell))
  return " ".join(text.split()).lstrip(" ;:,").rstrip(" .;:,")


def _command(match: re.Match[str]) -> str:
  """Returns a command under its usual name, "" for one without meaning."""
  name, row = match[2], ""
  if len(match[1]) > 1:
    if len(match[1]) == 2 and (name not in _KNOWN or "\\begin" in match.string):
      return match[0]  # the end of a matrix row, then a letter
    row = "\\\\" if len(match[1]) == 3 else ""
  if name in _DROPPED:
    return row
  if name in _SPACES:
    return row + " "
  name = _SAME.get(name, name)
  if not name[:1].isalpha():
    return row + (f"\\{name}" if name in ("{", "}") else name)
  return row + (r"\text" if name == "text" else rf"\{name} ")


def _infix(text: str) -> str:
  r"""Returns {10 \choose 3} and {1 \over 2} as commands with two arguments.

  The first argument begins where the brackets around the command open, and the
  second ends where they close.
  """
  while match := _INFIX.search(text):
    start, end = match.span()
    before, after = text[:start], text[end:]
    left = len(before) - _reach(before[::-1], ")]}", "([{")
    right = _reach(after, "([{", ")]}")
    name = {"choose": "binom", "over": "frac"}[match[1]]
    text = (
      f"{before[:left]}\\{name} {{{before[left:].strip()}}}"
      f"{{{after[:right].strip()}}}{after[right:]}"
    )
  return text


def _reach(text: str, opening: str, closing: str) -> int:
  """Returns the length of a text before a bracket closes what is not opened."""
  depth = 0
  for index, char in enumerate(text):
    depth += (char in opening) - (char in closing)
    if depth < 0:
      return index
  return len(text)


def _outside_text(text: str, change: Any) -> str:
  r"""Applies a function to the parts of a text outside of \text{}."""
  parts, end = [], 0
  for match in _IN_TEXT.finditer(text):
    parts += [change(text[end : match.start()]), match[0]]
    end = match.end()
  return "".join([*parts, change(text[end:])])


def _spell(text: str) -> str:
  """Returns plain-text notation, such as 2**3, sqrt(2), 1e5, as LaTeX."""
  text = (
    text.replace("**", "^")
    .replace("<=", r"\le ")
    .replace(">=", r"\ge ")
    .replace("!=", r"\ne ")
    .replace("==", "=")
  )
  text = _WORD.sub(
    lambda m: r"\infty " if m[1][:3] == "inf" else rf"\{m[1]} ", text
  )
  text = words.spell(text)
  text = re.sub(
    r"(?<![A-Za-z\d.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?![\w.])",
    r"\1\\times 10^{\2}",
    text,
  )
  text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times ", text)
  text = _REPEATING.sub(_repeating, text)
  text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
  text = re.sub(r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{", text)
  text = re.sub(
    r"(?<![\d./^_{])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])",
    r"\1\\frac{\2}{\3}",
    text,
  )
  # In an angle or a temperature, the sign of degrees is a unit and is dropped.
  # The parser of expressions needs it in the argument of a function.
  if _TRIGONOMETRIC.search(text):
    text = re.sub(r"(?<=[\w)}])\s*" + _DEGREES, r"\\degree ", text)
  text = re.sub(rf"(?<=[\d)}}])\s*{_DEGREES}\s*[CF]?(?![A-Za-z])", " ", text)
  text = re.sub(r"(?<![\w)}\]])\+\s*(?=\\infty)", "", text)
  return re.sub(r"\^\s*(-?\d+(?:\.\d+)?)", r"^{\1}", text)


def _dots(text: str) -> str:
  """Resolves dots after digits and separates dots from a list's last term."""
  text = _GOES_ON.sub(
    lambda m: _fraction(m[1], m[2], m[3] or m[4] or m[5]), text
  )
  text = re.sub(r"\A\s*(-?\d+)\s*\\ldots\s*\Z", r"\1", text)
  if "," in text:
    text = re.sub(r"(?<=\w)\s*\\ldots\s*(?=,|\\}|\)|\Z)", r",\\ldots ", text)
  return text


def _repeating(match: re.Match[str]) -> str:
  r"""Returns a repeating decimal, such as 0.1\overline{6}, as a fraction."""
  return _fraction(*match.groups())


def _fraction(whole: str, start: str, cycle: str) -> str:
  """Returns the fraction of a decimal: integer part, digits, then a cycle."""
  over = int(whole + start + cycle) - int(whole + start)
  return rf"\frac{{{over}}}{{{'9' * len(cycle)}{'0' * len(start)}}}"
