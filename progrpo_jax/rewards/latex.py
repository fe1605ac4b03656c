"""Mathematics as text: cleaned, parsed into a tree, evaluated exactly.

Nothing here evaluates text as code, and nothing grows without a bound: texts,
nesting, trees and numbers have limits, and what exceeds one is no expression.
A tree is a tuple (operator, *arguments); a text that is no expression of this
grammar (words, integrals, sets) has the tree None.
"""

import cmath
from fractions import Fraction
import functools
import math
import random
import re
from typing import Any

from progrpo_jax.rewards import characters, presentation, words

MAX_CHARS = 600
MAX_NESTING = 16
MAX_NODES = 200
MAX_BITS = 40_000  # of an exact number: 2^{40000} is one, 9^{9^{9}} is none
_MAX_DIGITS = 1000
_MAX_FACTORIAL = 1000

Tree = tuple[Any, ...]


class TooLarge(ValueError):
  """A number or a tree beyond the limits."""


# ----- Cleaning -----

_SAME = {
    "geq": "ge", "geqslant": "ge", "gt": ">", "leq": "le", "leqslant": "le",
    "lt": "<", "neq": "ne", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac",
    "dbinom": "binom", "tbinom": "binom", "cdot": "times", "ast": "times",
    "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]",
    "varphi": "phi", "varepsilon": "epsilon", "vartheta": "theta",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "degree": "^\\circ",
    "varnothing": "emptyset", "arctg": "arctan", "tg": "tan", "ctg": "cot",
    "textbackslash": "", "vee": "lor", "simeq": "approx", "equiv": "=",
    "rightarrow": "to", "land": "wedge", "dots": "ldots", "cdots": "ldots",
    "dotsc": "ldots", "dotsb": "ldots", "dotsm": "ldots", "dotsi": "ldots",
    "dotso": "ldots", "hdots": "ldots", "textellipsis": "ldots", "colon": ":",
    "backslash": "setminus", "smallsetminus": "setminus", "Reals": "R",
    "reals": "R", "cong": "approx", "thickapprox": "approx",
}
_DROPPED = frozenset((
    "left", "right", "bigl", "bigr", "Bigl", "Bigr", "big", "Big", "bigg",
    "Bigg", "biggl", "biggr", "Biggl", "Biggr", "mleft", "mright",
    "displaystyle", "textstyle", "scriptstyle", "normalsize", "limits",
    "nolimits", "bf", "rm", "it",
    "mathstrut", "boldmath", "small", "large", "Large", "huge", "centering",
    "noindent", "hfill", "boxed", "fbox",
))
_SPACES = frozenset(("quad", "qquad", "enspace", "thinspace", "space"))
_TEXTS = (
    "mathrm", "textbf", "textit", "textrm", "textnormal", "textsf", "texttt",
    "mbox", "hbox", "mathsf", "mathtt", "operatorname", "operatorname*",
)
_WRAPPERS = (
    "mathbf", "mathit", "boldsymbol", "bm", "pmb", "vec", "mathord",
    "ensuremath", "underline", "mathcal", "mathscr", "mathfrak",
)
# Behind "sec" at the end of a text no angle follows: it is a second.
_WORDS = (
    "arcsin arccos arctan sinh cosh tanh sqrt sin cos tan cot csc log ln exp pi"
    r" sec(?!\s*\.?\s*\Z) infinity inf theta alpha beta lambda infty").split()

_COMMAND = re.compile(r"(\\+)([A-Za-z]+)\s*")
_TEXT = re.compile(
    rf"\\(?:text|{'|'.join(map(re.escape, _TEXTS))})\s*(?=\{{)")
_WRAPPER = re.compile(rf"\\(?:{'|'.join(_WRAPPERS)})(?![A-Za-z])\s*")
_WORD = re.compile(rf"(?<![\\A-Za-z])({'|'.join(_WORDS)})(?![A-Za-z])")
_REPEATING = re.compile(
    r"(?<![\w.])(\d{1,30})\.(\d{0,30})\s*\\(?:overline|bar|dot)\s*"
    r"\{(\d{1,30})\}")
# AMC's \textbf{(E) } before a value, and a number that is set as text.
_CHOICE = re.compile(
    r"\A\s*\\text\s*\{\s*\([A-E]\)\s*\}\s*"
    r"(?=[-+]?\s*(?:\.?\d|\\(?:[dt]?frac|sqrt|pi)(?![A-Za-z])))")
_SET_NUMBER = re.compile(
    r"\A\s*\\text\s*\{([^{}A-Za-z\\]*\d[^{}A-Za-z\\]*)\}\s*\Z")
# So is a quantity, \text{5 cm}: its unit stays text, as in 5\text{ cm}. A
# short word that is no unit may be letters to multiply, as in \text{3 xy}.
_SHORT_UNIT = (
    r"(?:mm|cm|km|kg|mg|ml|lbs?|oz|ft|in|yd|mi|min|hrs?|mph|kmh|am|pm)(?![a-z])")
_SET_QUANTITY = re.compile(
    r"\A\s*\\text\s*\{\s*([-+]?\s*(?:\d[\d.,]*(?:/\d+)?|\.\d+))"
    rf"(\s*{_SHORT_UNIT}[a-z ./-]*|\s+[mghlsLJNWVK](?![A-Za-z])[a-z ./-]*"
    r"|\s+(?!(?:[abcdxyz]{3}|[^aeiou\W\d]{3})(?![a-z]))[a-z]{3,}[a-z ./-]*)"
    r"\}(?=\s*(?:\^\s*\{?-?\d\}?\s*)?[\s.]*\Z)", re.I)
_FUNCTION_TEXT = re.compile(
    r"\\text\s*\{\s*(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec"
    r"|csc|log|lg|ln|exp)\s*\}(?!\s*\.?\s*\Z)")
# 0.1666... shows its cycle three times, or twice if that is long.
_GOES_ON = re.compile(
    r"(?<![\w.])(\d{1,30})\.(\d{0,20}?)"
    r"(?:(\d)\3{2,}|(\d{2,5})\4{2,}|(\d{6})\5+)\s*\\ldots(?![A-Za-z])")
_IN_TEXT = re.compile(r"\\text\{[^{}]*\}")


def clean(text: str) -> str:
  """Writes an answer with one way of saying each thing.

  Styles, spacing commands, currency signs and the $ of LaTeX go; characters
  of Unicode become the LaTeX of their meaning; commands get their usual name.
  Text in \\text{} stays, with its wrapper.
  """
  text = characters.plain(presentation.strip(text))
  text = re.sub(r"\\\s*([$#&_])", lambda m: m[1] if m[1] == "_" else "", text)
  text = re.sub(r"(?<!\\)\\[()\[\]]", "", text)
  text = text.replace("$", "").replace("\\%", "%")
  text = re.sub(r"\\[!]\s*", "", text)
  text = re.sub(r"(?<!\\)\\[,;: >/]|~", " ", text)
  text = re.sub(r"\s*\{\s*,\s*\}\s*", ",", text)
  text = re.sub(r"\\mathrm\s*\{\s*([eid])\s*\}", r"\1", text)
  text = re.sub(r"\\math(?:bf|rm)\s*(?:\{\s*R\s*\}|R(?![A-Za-z]))",
                r"\\mathbb{R}", text)
  text = _WRAPPER.sub("", _TEXT.sub(r"\\text", text))
  text = _FUNCTION_TEXT.sub(r"\\\1 ", text)
  text = re.sub(r"\\lg(?![A-Za-z])", r"\\log_{10}", text)
  text = re.sub(r"\\(q?quad)(?=[A-Za-z](?![A-Za-z]))", " ", text)
  text = re.sub(r"\.{3,}", r"\\ldots ", text)
  text = _SET_NUMBER.sub(r"\1", _CHOICE.sub("", text))
  text = _SET_QUANTITY.sub(r"\1\\text{\2}", text)
  text = words.unwrap(_COMMAND.sub(_command, text))
  text = _dots(_outside_text(text, _spell))
  return " ".join(text.split()).lstrip(" ;:,").rstrip(" .;:,")


def _command(match: re.Match[str]) -> str:
  """Writes a command by its usual name, a styling one not at all."""
  name, row = match[2], ""
  if len(match[1]) > 1:
    if len(match[1]) == 2 and (
        name not in _KNOWN or "\\begin" in match.string):
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


def _outside_text(text: str, change: Any) -> str:
  r"""Applies change to what does not stand in \text{}."""
  parts, end = [], 0
  for match in _IN_TEXT.finditer(text):
    parts += [change(text[end : match.start()]), match[0]]
    end = match.end()
  return "".join([*parts, change(text[end:])])


def _spell(text: str) -> str:
  """Turns shorthands of plain text into LaTeX."""
  text = text.replace("**", "^").replace("<=", r"\le ").replace(
      ">=", r"\ge ").replace("!=", r"\ne ").replace("==", "=")
  text = _WORD.sub(
      lambda m: r"\infty " if m[1][:3] == "inf" else rf"\{m[1]} ", text)
  text = words.spell(text)
  text = re.sub(
      r"(?<![A-Za-z\d.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?![\w.])",
      r"\1\\times 10^{\2}", text)
  text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", r"\\times ", text)
  text = _REPEATING.sub(_repeating, text)
  text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
  text = re.sub(r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{", text)
  text = re.sub(r"(?<![\d./^_{])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])",
                r"\1\\frac{\2}{\3}", text)
  text = re.sub(r"(?<=[\d)}])\s*\^\s*\{?\s*\\circ\s*\}?\s*[CF]?(?![A-Za-z])",
                " ", text)
  text = re.sub(r"(?<![\w)}\]])\+\s*(?=\\infty)", "", text)
  return re.sub(r"\^\s*(-?\d+(?:\.\d+)?)", r"^{\1}", text)


def _dots(text: str) -> str:
  """Reads dots that end a number, and parts them from a list's last term."""
  text = _GOES_ON.sub(
      lambda m: _fraction(m[1], m[2], m[3] or m[4] or m[5]), text)
  text = re.sub(r"\A\s*(-?\d+)\s*\\ldots\s*\Z", r"\1", text)
  if "," in text:
    text = re.sub(
        r"(?<=\w)\s*\\ldots\s*(?=,|\\}|\)|\Z)", r",\\ldots ", text)
  return text


def _repeating(match: re.Match[str]) -> str:
  r"""Writes 0.1\overline{6} as the fraction that it is."""
  return _fraction(*match.groups())


def _fraction(whole: str, start: str, cycle: str) -> str:
  """Returns the fraction whose decimals end in a cycle."""
  over = int(whole + start + cycle) - int(whole + start)
  return rf"\frac{{{over}}}{{{'9' * len(cycle)}{'0' * len(start)}}}"


# ----- Parsing -----

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<command>\\[A-Za-z]+)"
    r"|(?P<letter>[A-Za-z])|(?P<sign>[-+*/^_()\[\]{}|!%']))")
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln exp"
    .split())
_SYMBOL_COMMANDS = frozenset(
    [*characters.GREEK, "Delta", "Gamma", "Omega", "Theta", "Lambda", "Sigma",
     "Phi", "Psi", "Xi", "Pi", "Upsilon", "ell", "hbar"])
_KNOWN = (
    _FUNCTIONS | _SYMBOL_COMMANDS | _DROPPED | _SPACES | set(_SAME)
    | set(_TEXTS) | set(_WRAPPERS)
    | {"text", "frac", "sqrt", "times", "div", "pm", "mp", "infty", "binom",
       "log", "lfloor", "rfloor", "lceil", "rceil", "cup", "cap", "in", "ge",
       "le", "ne", "begin", "end", "approx", "circ"})
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_STARTS = frozenset((
    r"\frac", r"\sqrt", r"\binom", r"\log", r"\lfloor", r"\lceil",
    *(f"\\{n}" for n in _FUNCTIONS | _SYMBOL_COMMANDS)))


class _NoExpression(ValueError):
  """The text is not of the grammar."""


@functools.lru_cache(maxsize=2048)
def parse(text: str) -> Tree | None:
  """Parses a clean text; None if it is no expression within the limits."""
  if len(text) > MAX_CHARS or nesting(text) > MAX_NESTING:
    return None
  try:
    reader = _Reader(_tokens(text))
    tree = reader.sum()
    if reader.peek() or size(tree) > MAX_NODES:
      return None
    return tree
  except (_NoExpression, RecursionError):
    return None


def nesting(text: str) -> int:
  """Returns the depth of brackets of all kinds."""
  depth = deepest = 0
  for char in text:
    depth += (char in "([{") - (char in ")]}")
    deepest = max(deepest, depth)
  return deepest


def size(tree: Tree) -> int:
  """Returns the number of nodes of a tree."""
  return 1 + sum(size(a) for a in tree[1:] if isinstance(a, tuple))


def symbols(tree: Tree) -> frozenset[str]:
  """Returns the names that a tree holds."""
  if tree[0] == "symbol":
    return frozenset((tree[1],))
  found = [symbols(a) for a in tree[1:] if isinstance(a, tuple)]
  return frozenset().union(*found)


def operators(tree: Tree) -> frozenset[str]:
  """Returns what a tree is made with: its kinds of nodes, its constants."""
  parts = [operators(a) for a in tree[1:] if isinstance(a, tuple)]
  name = tree[1] if tree[0] == "constant" else tree[0]
  return frozenset((name,)).union(*parts)


def _tokens(text: str) -> list[str]:
  """Splits a text, or raises _NoExpression."""
  tokens, at = [], 0
  text = text.rstrip()
  while at < len(text):
    match = _TOKEN.match(text, at)
    if not match:
      raise _NoExpression(text[at : at + 10])
    token = match[0].strip()
    if match["number"] and len(token) > _MAX_DIGITS:
      raise _NoExpression("digits")
    tokens.append(token)
    at = match.end()
  return tokens


class _Reader:
  """Recursive descent over tokens."""

  def __init__(self, tokens: list[str]):
    self.tokens = tokens
    self.at = 0

  def peek(self, ahead: int = 0) -> str:
    """Returns a token to come, "" after the last."""
    at = self.at + ahead
    return self.tokens[at] if at < len(self.tokens) else ""

  def take(self, expected: str = "") -> str:
    """Consumes a token, which must be the expected one if given."""
    token = self.peek()
    if not token or (expected and token != expected):
      raise _NoExpression(token)
    self.at += 1
    return token

  def sum(self) -> Tree:
    """sum := product (("+" | "-") product)*."""
    terms = [self.product()]
    while self.peek() in ("+", "-"):
      minus = self.take() == "-"
      term = self.product()
      terms.append(("neg", term) if minus else term)
    return terms[0] if len(terms) == 1 else ("add", *terms)

  def product(self, implicit_only: bool = False) -> Tree:
    """product := factor (("*" | "/")? factor)*."""
    tree = self.factor()
    while True:
      token = self.peek()
      if token in ("*", "/", r"\times", r"\div") and not implicit_only:
        self.take()
        divided = token in ("/", r"\div")
        tree = ("div" if divided else "mul", tree, self.factor())
      elif self._begins(implicit_only):
        tree = ("mul", tree, self.power())
      else:
        return tree

  def _begins(self, plain: bool) -> bool:
    """Says whether a factor begins here without a sign of multiplication."""
    token = self.peek()
    if plain and token.startswith("\\"):
      return token[1:] in _SYMBOL_COMMANDS or token == r"\frac"
    if token[:1].isdigit() or token[:1] == ".":
      # "2 3" is no product; "x2" and ")2" are nobody's notation either.
      return False
    return token in ("(", "[", "{") or token.isalpha() or token in _STARTS

  def factor(self) -> Tree:
    """factor := ("+" | "-")* power."""
    minus = False
    while self.peek() in ("+", "-"):
      minus ^= self.take() == "-"
    tree = self.power()
    return ("neg", tree) if minus else tree

  def power(self) -> Tree:
    """power := postfix ("^" group)?."""
    base = self.postfix()
    if self.peek() != "^":
      return base
    self.take()
    tree = ("pow", base, self.group())
    if self.peek() == "^":
      raise _NoExpression("double superscript")
    return self.factorials(tree)

  def postfix(self) -> Tree:
    """postfix := atom ("!" | "%" | "'")*."""
    return self.factorials(self.atom())

  def factorials(self, tree: Tree) -> Tree:
    """Applies what may follow an operand."""
    while self.peek() in ("!", "%"):
      if self.take() == "!":
        if self.tokens[self.at - 2] == "!":
          raise _NoExpression("double factorial")
        tree = ("factorial", tree)
      else:
        tree = ("div", tree, ("number", Fraction(100)))
    return tree

  def group(self) -> Tree:
    """One argument of a command, or an exponent."""
    if self.peek() == "-":
      self.take()
      return ("neg", self.group())
    if self.peek() in ("{", "("):
      return self.bracketed()
    return self.atom()

  def bracketed(self) -> Tree:
    """A sum between brackets of one kind."""
    close = _CLOSING[self.take()]
    tree = self.sum()
    self.take(close)
    return tree

  def atom(self) -> Tree:
    """A number, a name, a bracket or a command with its arguments."""
    token = self.take()
    if token[0].isdigit() or token[0] == ".":
      return self.number(token)
    if token in _CLOSING:
      self.at -= 1
      return self.bracketed()
    if token == "|":
      tree = self.sum()
      self.take("|")
      return ("abs", tree)
    if token.isalpha() or token[1:] in _SYMBOL_COMMANDS:
      return self.name(token)
    if token[0] == "\\":
      return self.command(token[1:])
    raise _NoExpression(token)

  def number(self, token: str) -> Tree:
    """A number; with a fraction of integers after it a mixed one."""
    whole = ("number", Fraction(token))
    if self.peek() == "_":
      raise _NoExpression("digits of another base")
    ahead = [self.peek(i) for i in range(7)]
    if token.isdigit() and ahead[0::3][:2] == [r"\frac", "}"] and (
        ahead[2].isdigit() and ahead[5].isdigit() and int(ahead[5])):
      self.at += 7
      part = Fraction(int(ahead[2]), int(ahead[5]))
      return ("number", whole[1] + part)
    return whole

  def name(self, token: str) -> Tree:
    """A constant or a symbol with its index and primes."""
    token = token.removeprefix("\\") if token != r"\pi" else token
    index = ""
    if self.peek() == "_":
      self.take()
      index = "_" + self.index()
    while self.peek() == "'":
      index += self.take()
    if not index and token in ("e", "i", r"\pi"):
      return ("constant", token.removeprefix("\\"))
    return ("symbol", token.removeprefix("\\") + index)

  def index(self) -> str:
    """What stands under a name."""
    if self.peek() != "{":
      return self.take()
    parts = [self.take()]
    while parts[-1] != "}":
      parts.append(self.take())
      if parts[-1] == "{":
        raise _NoExpression("index")
    return "".join(parts[1:-1])

  def command(self, name: str) -> Tree:
    """A command of LaTeX with its arguments."""
    if name in ("frac", "binom"):
      first = self.group()
      return ("div" if name == "frac" else "binom", first, self.group())
    if name == "sqrt":
      if self.peek() != "[":
        return ("root", ("number", Fraction(2)), self.group())
      return ("root", self.bracketed(), self.group())
    if name in ("lfloor", "lceil"):
      tree = self.sum()
      self.take(f"\\r{name[1:]}")
      return (name[1:], tree)
    if name == "log" or name in _FUNCTIONS:
      return self.function(name)
    raise _NoExpression(name)

  def function(self, name: str) -> Tree:
    r"""A function: \sin x, \sin^2 x, \sin^{-1} x, \log_{2} x."""
    base, exponent = None, None
    if name == "log" and self.peek() == "_":
      self.take()
      base = self.group()
    if self.peek() == "^":
      self.take()
      exponent = self.group()
    if self.peek() in ("(", "{", "["):
      argument = self.bracketed()
    elif name == "log" or name in _FUNCTIONS:
      argument = self.product(implicit_only=True)
    tree = ("log", base, argument) if base else (
        "call", "ln" if name == "log" else name, argument)
    if name == "log" and not base:
      tree = ("log", ("number", Fraction(10)), argument)
    if exponent == ("neg", ("number", Fraction(1))):
      if name not in ("sin", "cos", "tan"):
        raise _NoExpression(name)
      return ("call", "arc" + name, argument)
    return ("pow", tree, exponent) if exponent else tree


# ----- Values -----

_REAL = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan,
    "cot": lambda z: 1 / cmath.tan(z), "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z), "arcsin": cmath.asin,
    "arccos": cmath.acos, "arctan": cmath.atan, "sinh": cmath.sinh,
    "cosh": cmath.cosh, "tanh": cmath.tanh, "ln": cmath.log, "exp": cmath.exp,
}
_CONSTANTS = {"pi": math.pi, "e": math.e, "i": 1j}


def exact(tree: Tree) -> Fraction | None:
  """Returns the value of a tree that is a rational number, else None."""
  value = evaluate(tree, 0) if not symbols(tree) else None
  return value if isinstance(value, Fraction) else None


def evaluate(tree: Tree, point: int) -> Fraction | complex | None:
  """Returns a tree's value; None where it has none or a limit is exceeded.

  A Fraction is exact, a complex number is not. Symbols stand for numbers
  between 0.5 and 2 that depend on their names and on point alone.
  """
  try:
    value = _value(tree, point)
    if isinstance(value, Fraction):
      return value
    return value if cmath.isfinite(value) else None
  except (ArithmeticError, ValueError, TypeError, RecursionError):
    return None


def real_value(
    tree: Tree, point: int, negative: frozenset[str]
) -> float | None:
  """Returns a tree's value if all that it is made of is real, else None.

  Args:
    tree: an expression.
    point: as in `evaluate`.
    negative: the symbols that stand for a number below zero.
  """
  try:
    value = _real_value(tree, point, negative)
    return value if math.isfinite(value) else None
  except (ArithmeticError, ValueError, TypeError, RecursionError):
    return None


def _real_value(tree: Tree, point: int, negative: frozenset[str]) -> Any:
  """Evaluates a tree over the reals; raises what real_value catches."""
  kind = tree[0]
  if kind in ("number", "constant"):
    value = _value(tree, point)
  elif kind == "symbol":
    value = _value(tree, point)
    value = -value if tree[1] in negative else value
  elif kind == "call":
    value = _call(tree[1], _real_value(tree[2], point, negative))
  else:
    value = _bounded(_OPERATIONS[kind](
        *(_real_value(a, point, negative) for a in tree[1:])))
  if isinstance(value, Fraction):
    return value
  value = complex(value)
  if abs(value.imag) > 1e-12 * abs(value):
    raise ValueError("not real")
  return value.real


def _value(tree: Tree, point: int) -> Fraction | complex:
  """Evaluates a tree; raises what evaluate catches."""
  kind = tree[0]
  if kind == "number":
    return tree[1]
  if kind == "symbol":
    return complex(random.Random(f"{point}/{tree[1]}").uniform(0.5, 2))
  if kind == "constant":
    return complex(_CONSTANTS[tree[1]])
  if kind == "call":
    return _call(tree[1], _value(tree[2], point))
  return _bounded(_OPERATIONS[kind](*(_value(a, point) for a in tree[1:])))


def _bounded(value: Any) -> Fraction | complex:
  """Returns a value within the limits, a whole number as a Fraction."""
  if isinstance(value, (int, Fraction)):
    value = Fraction(value)
    if _bits(value) > MAX_BITS:
      raise TooLarge
    return value
  return complex(value)


def _bits(value: Fraction) -> int:
  """Returns the length of a fraction in binary digits."""
  return value.numerator.bit_length() + value.denominator.bit_length()


def _call(name: str, argument: Fraction | complex) -> Fraction | complex:
  """Applies a function; the few exact values that are needed stay exact."""
  if argument == 0 and name in ("sin", "tan", "arcsin", "arctan", "sinh"):
    return Fraction(0)
  if (argument == 0 and name in ("cos", "exp", "cosh")):
    return Fraction(1)
  if argument == 1 and name == "ln":
    return Fraction(0)
  return _REAL[name](complex(argument))


def _power(base: Fraction | complex, exponent: Fraction | complex) -> Any:
  """Raises to a power, exactly where the result is rational."""
  if isinstance(base, Fraction) and isinstance(exponent, Fraction):
    if exponent.denominator == 1:
      if abs(exponent.numerator) * (_bits(base) - 1) > 2 * MAX_BITS and (
          abs(base) != 1 and base):
        raise TooLarge
      return base ** (exponent.numerator if base * base != 1
                      else exponent.numerator % 2)
    if base > 0 and exponent.denominator <= 64:
      root = _root(Fraction(exponent.denominator), base)
      if isinstance(root, Fraction):
        return _power(root, Fraction(exponent.numerator))
  return complex(base) ** complex(exponent)


def _root(degree: Fraction | complex, base: Fraction | complex) -> Any:
  """Takes a root: exact if rational, real if the degree is odd."""
  if not (isinstance(degree, Fraction) and degree.denominator == 1
          and 2 <= degree <= 64):
    raise TooLarge
  n = degree.numerator
  if isinstance(base, Fraction):
    if base < 0 and n % 2:
      return -_root(degree, -base)
    if base >= 0:
      over, under = (_integer_root(v, n) for v in base.as_integer_ratio())
      if over is not None and under is not None:
        return Fraction(over, under)
      return float(base) ** (1 / n)
  base = complex(base)
  if n % 2 and not base.imag and base.real < 0:
    return -((-base.real) ** (1 / n))
  return cmath.sqrt(base) if n == 2 else base ** (1 / n)


def _integer_root(value: int, n: int) -> int | None:
  """Returns the whole n-th root of value >= 0, None if there is none."""
  if n == 2 or value < 2:
    root = math.isqrt(value) if n == 2 else value
    return root if root**n == value else None
  root = 1 << -(-value.bit_length() // n)
  while (step := ((n - 1) * root + value // root ** (n - 1)) // n) < root:
    root = step
  return root if root**n == value else None


def _factorial(value: Fraction | complex) -> Any:
  """Returns n!, by the gamma function where n is no whole number."""
  if isinstance(value, Fraction) and value.denominator == 1:
    if not 0 <= value <= _MAX_FACTORIAL:
      raise TooLarge
    return math.factorial(value.numerator)
  value = complex(value)
  if value.imag or not -0.9 < value.real < 100:
    raise TooLarge
  return math.gamma(value.real + 1)


def _binomial(n: Fraction | complex, k: Fraction | complex) -> Any:
  """Returns a binomial coefficient."""
  if isinstance(n, Fraction) and isinstance(k, Fraction):
    if n.denominator == k.denominator == 1 and 0 <= k <= n <= 2000:
      return math.comb(n.numerator, k.numerator)
    raise TooLarge
  n, k = complex(n).real, complex(k).real
  return math.gamma(n + 1) / math.gamma(k + 1) / math.gamma(n - k + 1)


def _log(base: Fraction | complex, value: Fraction | complex) -> Any:
  """Returns a logarithm; a whole one of exact numbers is exact."""
  result = cmath.log(complex(value)) / cmath.log(complex(base))
  near = round(result.real)
  if isinstance(base, Fraction) and isinstance(value, Fraction) and (
      abs(near) < 1000 and base > 0 and _power(base, Fraction(near)) == value):
    return Fraction(near)
  return result


def _floor(value: Fraction | complex) -> int:
  """Returns the whole part of a real number."""
  if isinstance(value, Fraction):
    return math.floor(value)
  if value.imag:
    raise ValueError
  return math.floor(value.real)


_OPERATIONS = {
    "add": lambda *terms: sum(terms[1:], terms[0]),
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "abs": abs,
    "pow": _power,
    "root": _root,
    "factorial": _factorial,
    "binom": _binomial,
    "log": _log,
    "floor": _floor,
    "ceil": lambda a: -_floor(-a),
}


# ----- Writing -----


def write(tree: Tree, names: dict[str, str]) -> str:
  """Writes a tree as LaTeX that can be read in one way only.

  Every operand stands in brackets, decimals are fractions, and symbols have
  the names given for them.
  """
  kind = tree[0]
  if kind == "number":
    over, under = tree[1].as_integer_ratio()
    return str(over) if under == 1 else rf"\frac{{{over}}}{{{under}}}"
  if kind == "constant":
    return {"pi": r"\pi", "e": "e", "i": "i"}[tree[1]]
  if kind == "symbol":
    return names[tree[1]]
  if kind == "call":
    return rf"\{tree[1]}{{({write(tree[2], names)})}}"
  parts = [write(a, names) for a in tree[1:]]
  if kind == "add":
    return "+".join(f"({p})" for p in parts)
  return _FORMS[kind].format(*parts)


_FORMS = {
    "mul": r"({})\cdot ({})",
    "div": r"\frac{{{}}}{{{}}}",
    "neg": r"-({})",
    "abs": r"|{}|",
    "pow": r"({})^{{{}}}",
    "root": r"\sqrt[{}]{{{}}}",
    "factorial": r"({})!",
    "binom": r"\binom{{{}}}{{{}}}",
    "log": r"\log_{{{}}}{{({})}}",
    "floor": r"\lfloor {}\rfloor",
    "ceil": r"\lceil {}\rceil",
}
