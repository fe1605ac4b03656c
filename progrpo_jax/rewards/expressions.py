"""Trees of mathematical expressions: parsed from LaTeX and written as LaTeX.

A tree is a tuple (operator, *arguments). Text that the grammar does not cover
(words, integrals, sets) has no tree. Nothing here evaluates text as code, and
the size of texts, nesting and trees is limited.
"""

from fractions import Fraction
import functools
import re
from typing import Any

from progrpo_jax.rewards import characters

MAX_CHARS = 600
MAX_NESTING = 16
MAX_NODES = 200
_MAX_DIGITS = 1000

Tree = tuple[Any, ...]

_TOKEN = re.compile(
  r"\s*(?:(?P<number>\d+(?:\.\d+)?|\.\d+)|(?P<command>\\[A-Za-z]+)"
  r"|(?P<letter>[A-Za-z])|(?P<sign>[-+*/^_()\[\]{}|!%']))"
)
TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc")
FUNCTIONS = frozenset(
  [*TRIGONOMETRIC, *"arcsin arccos arctan sinh cosh tanh ln exp".split()]
)
# One degree as an angle without a unit.
_DEGREE = ("div", ("constant", "pi"), ("number", Fraction(180)))
SYMBOL_COMMANDS = frozenset(
  [
    *characters.GREEK,
    "Delta",
    "Gamma",
    "Omega",
    "Theta",
    "Lambda",
    "Sigma",
    "Phi",
    "Psi",
    "Xi",
    "Pi",
    "Upsilon",
    "ell",
    "hbar",
  ]
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
# Tokens that end an operand, so that digits behind them are a new factor.
_ENDS = frozenset(("!", ")", "]", "}", r"\rfloor", r"\rceil"))
_STARTS = frozenset(
  (
    r"\frac",
    r"\sqrt",
    r"\binom",
    r"\log",
    r"\lfloor",
    r"\lceil",
    *(f"\\{n}" for n in FUNCTIONS | SYMBOL_COMMANDS),
  )
)


class _NoExpression(ValueError):
  """The text does not follow the grammar."""


@functools.lru_cache(maxsize=2048)
def parse(text: str) -> Tree | None:
  """Returns the tree of a text cleaned by `latex.clean`.

  None if the text is not an expression or is beyond the limits.
  """
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
  """Returns the depth of nested brackets of all kinds."""
  depth = deepest = 0
  for char in text:
    depth += (char in "([{") - (char in ")]}")
    deepest = max(deepest, depth)
  return deepest


def size(tree: Tree) -> int:
  """Returns the number of nodes of a tree."""
  return 1 + sum(size(a) for a in tree[1:] if isinstance(a, tuple))


def symbols(tree: Tree) -> frozenset[str]:
  """Returns the names of the symbols in a tree."""
  if tree[0] == "symbol":
    return frozenset((tree[1],))
  parts = [symbols(a) for a in tree[1:] if isinstance(a, tuple)]
  return frozenset().union(*parts)


def operators(tree: Tree) -> frozenset[str]:
  """Returns the operators and the names of the constants in a tree."""
  parts = [operators(a) for a in tree[1:] if isinstance(a, tuple)]
  name = tree[1] if tree[0] == "constant" else tree[0]
  return frozenset((name,)).union(*parts)


def _tokens(text: str) -> list[str]:
  """Returns the tokens of a text.

  Raises:
    _NoExpression: the text contains something else.
  """
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
  """Recursive-descent parser; each method parses one rule of the grammar.

  Args:
    tokens: tokens of the text.
  """

  def __init__(self, tokens: list[str]):
    self.tokens = tokens
    self.at = 0
    self.in_angle = False  # whether in the argument of a trigonometric function

  def peek(self, ahead: int = 0) -> str:
    """Returns a token without consuming it, "" after the last."""
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
    """product := factor (("*" | "/")? factor)*.

    Args:
      implicit_only: whether to stop at signs of multiplication, as after a
        function without brackets: sin 2x * y is (sin 2x) y.
    """
    tree = last = self.factor()
    while True:
      token = self.peek()
      if token in ("*", "/", r"\times", r"\div") and not implicit_only:
        self.take()
        divided = token in ("/", r"\div")
        last = self.factor()
        tree = ("div" if divided else "mul", tree, last)
      elif self._begins(last, implicit_only):
        last = self.power()
        tree = ("mul", tree, last)
      else:
        return tree

  def _begins(self, before: Tree, plain: bool) -> bool:
    """Returns whether a factor follows without a sign of multiplication.

    Args:
      before: the factor that has been read last.
      plain: whether commands other than symbols and fractions end the product.
    """
    token = self.peek()
    if plain and token.startswith("\\"):
      return token[1:] in SYMBOL_COMMANDS or token == r"\frac"
    if token[:1].isdigit() or token[:1] == ".":
      # 3! 7! and 2^a 3^b are products. "2 3" and "x2" are not, and in "(2) 3"
      # the bracket may number an item.
      ended = before[0] == "pow" or self.tokens[self.at - 1] in _ENDS
      return ended and before[0] not in ("number", "constant", "symbol")
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
    r"""postfix := atom ("!" | "%" | "\degree")*."""
    return self.factorials(self.atom())

  def factorials(self, tree: Tree) -> Tree:
    """Applies the signs !, % and of degrees that follow an operand.

    Outside of trigonometric functions, 30 degrees are the number 30.
    """
    while (sign := self.peek()) in ("!", "%", r"\degree"):
      self.take()
      if sign == r"\degree":
        tree = ("mul", tree, _DEGREE) if self.in_angle else tree
      elif sign == "!":
        if self.tokens[self.at - 2] == "!":
          raise _NoExpression("double factorial")
        tree = ("factorial", tree)
      else:
        tree = ("div", tree, ("number", Fraction(100)))
    return tree

  def group(self) -> Tree:
    """Parses an argument of a command, or an exponent."""
    if self.peek() == "-":
      self.take()
      return ("neg", self.group())
    if self.peek() in ("{", "("):
      return self.bracketed()
    if self.peek()[:1].isdigit():
      # Not a mixed number: \log_6 \frac{1}{36}.
      return ("number", Fraction(self.take()))
    return self.atom()

  def bracketed(self) -> Tree:
    """Parses a sum between brackets of one kind."""
    close = _CLOSING[self.take()]
    tree = self.sum()
    self.take(close)
    return tree

  def atom(self) -> Tree:
    """Parses a number, a name, a bracket or a command with its arguments."""
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
    if token.isalpha() or token[1:] in SYMBOL_COMMANDS:
      return self.name(token)
    if token[0] == "\\":
      return self.command(token[1:])
    raise _NoExpression(token)

  def number(self, token: str) -> Tree:
    """Parses a number; a fraction of integers after it makes it mixed."""
    whole = ("number", Fraction(token))
    if self.peek() == "_":
      raise _NoExpression("digits of another base")
    # 2\frac{1}{3} is 2 + 1/3. The tokens are \frac { 1 } { 3 }.
    ahead = [self.peek(i) for i in range(7)]
    if (
      token.isdigit()
      and ahead[0::3][:2] == [r"\frac", "}"]
      and (ahead[2].isdigit() and ahead[5].isdigit() and int(ahead[5]))
    ):
      self.at += 7
      part = Fraction(int(ahead[2]), int(ahead[5]))
      return ("number", whole[1] + part)
    return whole

  def name(self, token: str) -> Tree:
    """Parses a constant, or a symbol with its index and primes."""
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
    """Parses the index of a name and returns its text."""
    if self.peek() != "{":
      return self.take()
    parts = [self.take()]
    while parts[-1] != "}":
      parts.append(self.take())
      if parts[-1] == "{":
        raise _NoExpression("index")
    return "".join(parts[1:-1])

  def command(self, name: str) -> Tree:
    """Parses a LaTeX command with its arguments."""
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
    if name == "log" or name in FUNCTIONS:
      return self.function(name)
    raise _NoExpression(name)

  def function(self, name: str) -> Tree:
    r"""Parses a function: \sin x, \sin^2 x, \sin^{-1} x, \log_{2} x."""
    base, exponent = None, None
    if name == "log" and self.peek() == "_":
      self.take()
      base = self.group()
    if self.peek() == "^":
      self.take()
      exponent = self.group()
    outer, self.in_angle = self.in_angle, name in TRIGONOMETRIC
    if self.peek() in ("(", "{", "["):
      argument = self.bracketed()
      if self.peek() == r"\degree":  # \sin(30)^\circ
        argument = self.factorials(argument)
    else:
      argument = self.product(implicit_only=True)
    self.in_angle = outer
    tree = (
      ("log", base, argument)
      if base
      else ("call", "ln" if name == "log" else name, argument)
    )
    if name == "log" and not base:
      tree = ("log", ("number", Fraction(10)), argument)
    # An exponent of -1 is the inverse function, not the reciprocal.
    if exponent == ("neg", ("number", Fraction(1))):
      if name not in ("sin", "cos", "tan"):
        raise _NoExpression(name)
      return ("call", "arc" + name, argument)
    return ("pow", tree, exponent) if exponent else tree


# ----- Writing -----


def write(tree: Tree, names: dict[str, str]) -> str:
  """Returns a tree as unambiguous LaTeX.

  Every operand is in brackets, and decimals are written as fractions.

  Args:
    tree: tree of an expression.
    names: name to write for each symbol.
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
