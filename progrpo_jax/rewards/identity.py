"""Equality of two expressions: exactly, at points, then by Math-Verify.

Values at a few points are compared first, since they refute nearly all unequal
pairs at once. Math-Verify is asked only about pairs whose values agree, and
only about trees that are small enough for it.
"""

from collections.abc import Mapping
import dataclasses
from fractions import Fraction
import itertools
import math
import random
from typing import Any, Protocol

from progrpo_jax.rewards import evaluation, expressions

CLOSE = 1e-9  # relative difference of equal values in double precision
POINTS = (1, 2, 3)  # points of evaluation, see `evaluation.evaluate`
# Limits on what Math-Verify is asked about.
_MAX_SYMBOLIC_NODES = 60
_LONG = 10**59
_MAX_EXPONENT = 5000
_MAX_TERMS = 1000
_MAX_SIGNS = 5  # letters for which positive and negative values are tried


class Symbolic(Protocol):
  """Prover of equality, such as Math-Verify; see `symbolic.equal`."""

  def __call__(
    self,
    gold: expressions.Tree,
    answer: expressions.Tree,
    names: Mapping[str, str],
    positive: bool,
    point: Mapping[str, float] | None = None,
  ) -> bool:
    """Returns whether two trees are equal, given the names of their symbols.

    Args:
      gold: tree of the reference.
      answer: tree of the answer.
      names: name to use for each symbol.
      positive: whether symbols are positive numbers.
      point: values of the new names at which both trees are real, if they are
        known to agree wherever both are; None where they agree everywhere.
    """


@dataclasses.dataclass(frozen=True)
class How:
  """Settings of a comparison.

  Attributes:
    symbolic: prover of equality.
    tolerance: relative error that a number may have.
    evaluated: whether a plain number must be answered by a plain number.
  """

  symbolic: Symbolic
  tolerance: float
  evaluated: bool


def same(
  gold: expressions.Tree | None, given: expressions.Tree | None, how: How
) -> bool:
  """Returns whether two trees are equal; False if one is None.

  Args:
    gold: tree of the correct answer.
    given: tree of the given answer.
    how: settings of the comparison.
  """
  if gold is None or given is None:
    return False
  if gold == given:
    return True
  if how.evaluated and _is_numeral(gold) and not _is_numeral(given):
    return False
  # Two rational numbers: decided exactly.
  exact = evaluation.exact(gold), evaluation.exact(given)
  if None not in exact:
    allowed = Fraction(how.tolerance) * abs(exact[0])
    return abs(exact[0] - exact[1]) <= allowed
  constant = not expressions.symbols(gold) and not expressions.symbols(given)
  for point in POINTS:
    a, b = evaluation.evaluate(gold, point), evaluation.evaluate(given, point)
    if a is None or b is None:
      # Values too large for a float may still be equal: 2^{2000} sqrt 2.
      return a is b and prove(gold, given, how.symbolic)
    a, b = complex(a), complex(b)
    if constant and how.tolerance and abs(a - b) <= how.tolerance * abs(a):
      return True
    if abs(a - b) > CLOSE * max(abs(a), abs(b)):
      return _same_real(gold, given, how.symbolic)
  return prove(gold, given, how.symbolic) or _same_real(
    gold, given, how.symbolic
  )


def _is_numeral(tree: expressions.Tree) -> bool:
  """Returns whether a tree is a written number, not a calculation."""
  kind, *parts = tree
  if kind == "neg":
    return _is_numeral(parts[0])
  if kind == "div":
    return all(_is_numeral(p) for p in parts)
  if kind == "mul":  # 1.6 \times 10^{-19}
    ten = parts[1][:2] == ("pow", ("number", Fraction(10)))
    return ten and parts[0][0] == "number" and _is_numeral(parts[1][2])
  return kind == "number"


def _terms(tree: expressions.Tree) -> int:
  """Returns the number of terms of a tree when it is multiplied out.

  At most _MAX_TERMS, which also stands for a large or unknown exponent.
  """
  parts = [_terms(a) for a in tree[1:] if isinstance(a, tuple)]
  if not parts or max(parts) >= _MAX_TERMS:
    return max([1, *parts])
  if tree[0] in ("pow", "factorial"):
    size = evaluation.evaluate(tree[-1], 0)
    if size is None or abs(size) > _MAX_EXPONENT:
      return _MAX_TERMS
    if tree[0] == "pow" and isinstance(size, Fraction):
      # Monomials of degree n in k terms.
      n, k = math.ceil(abs(size)), parts[0]
      return min(math.comb(n + k - 1, k - 1), _MAX_TERMS)
  if tree[0] == "add":
    return min(sum(parts), _MAX_TERMS)
  if tree[0] in ("mul", "div"):
    return min(math.prod(parts), _MAX_TERMS)
  return max(parts)


def _same_real(
  gold: expressions.Tree, given: expressions.Tree, symbolic: Symbolic
) -> bool:
  r"""Returns whether trees are equal wherever both are real.

  \ln(a+b) - \ln(a-b) and \ln\frac{a+b}{a-b} have other branches for a < b,
  where they are no real numbers. Only roots and functions have such branches.
  """
  kinds = expressions.operators(gold), expressions.operators(given)
  names = sorted(expressions.symbols(gold) | expressions.symbols(given))
  if (
    not names
    or not _BRANCHED & (kinds[0] | kinds[1])
    or "i" in kinds[0] | kinds[1]
    or ("abs" in kinds[0]) != ("abs" in kinds[1])
  ):
    return False
  found, common = 0, None
  for point in _REAL_POINTS:
    # Signs are mixed at every third point.
    signs = random.Random(point) if point % 3 == 0 else None
    negative = [n for n in names if signs and signs.random() < 0.5]
    a, b = _real_values(gold, given, point, tuple(negative))
    if a is None or b is None:
      # \frac{1}{2}\ln (x-1)^2 has a real value for x < 1, unlike \ln(x-1).
      if (a is None) != (b is None) and not negative:
        sides = (evaluation.evaluate(t, point) for t in (gold, given))
        if not _close(*sides):
          return False
      continue
    if not _close(a, b):
      return False
    found += 1
    common = common or {
      n: evaluation.symbol_value(n, point) * (-1 if n in negative else 1)
      for n in names
    }
  if found < _MIN_REAL:
    return False
  return prove(gold, given, symbolic, common)


def _close(a: Any, b: Any) -> bool:
  """Returns whether two values are equal in double precision; None is not."""
  if a is None or b is None:
    return False
  a, b = complex(a), complex(b)
  return abs(a - b) <= CLOSE * max(abs(a), abs(b))


_BRANCHED = frozenset(("root", "log", "call", "pow"))
_REAL_POINTS = (*range(4, 22), *range(evaluation.SMALL, evaluation.SMALL + 18))
_MIN_REAL = 6


def prove(
  gold: expressions.Tree,
  given: expressions.Tree,
  symbolic: Symbolic,
  point: Mapping[str, float] | None = None,
) -> bool:
  """Asks the prover whether trees are equal; False if they are too large.

  Args:
    gold: tree of the reference.
    given: tree of the answer.
    symbolic: prover.
    point: values of the symbols, see `Symbolic`.
  """
  if max(map(expressions.size, (gold, given))) > _MAX_SYMBOLIC_NODES:
    return False
  if max(map(_terms, (gold, given))) >= _MAX_TERMS:
    return False
  if "symbol" in (gold[0], given[0]):
    # Math-Verify compares a lone symbol by its name, so 1 is added to both.
    one = ("number", Fraction(1))
    gold, given = ("add", gold, one), ("add", given, one)
  names = sorted(expressions.symbols(gold) | expressions.symbols(given))
  if len(names) > len(_LETTERS):
    return False
  if any(_has_long_number(tree) for tree in (gold, given)):
    return False
  letters = dict(zip(names, _LETTERS))
  if point:
    values = {letters[n]: point[n] for n in names}
    return symbolic(gold, given, letters, False, values)
  return symbolic(gold, given, letters, _positive(gold, given, names))


def _positive(
  gold: expressions.Tree, given: expressions.Tree, names: list[str]
) -> bool:
  r"""Returns whether letters may be assumed to be positive numbers.

  If a side has no real value when one letter is negative (it is under a root
  or a logarithm), that letter must be positive: \sqrt{1/k} is 1/\sqrt{k}. The
  remaining letters may be any real number, so both sides must agree wherever
  both have a value for negative ones: x is not \sqrt{x^2}. If only one side
  has an absolute value, letters stay real: \ln x is not \ln|x|.
  """
  kinds = expressions.operators(gold), expressions.operators(given)
  if not names or len(names) > _MAX_SIGNS or "i" in kinds[0] | kinds[1]:
    return False
  if ("abs" in kinds[0]) != ("abs" in kinds[1]):
    return False
  # Letters that may be negative without either side losing its real value.
  free = [n for n in names if None not in _real_values(gold, given, 1, (n,))]
  for signs in itertools.product((False, True), repeat=len(free)):
    negative = tuple(itertools.compress(free, signs))
    for point in POINTS:
      a, b = _real_values(gold, given, point, negative)
      if None not in (a, b) and abs(a - b) > CLOSE * max(abs(a), abs(b)):
        return False
  return len(free) < len(names)


def _real_values(
  gold: expressions.Tree,
  given: expressions.Tree,
  point: int,
  negative: tuple[str, ...],
) -> tuple[float | None, float | None]:
  """Returns the real values of two trees, some letters being negative."""
  names = frozenset(negative)
  return (
    evaluation.real_value(gold, point, names),
    evaluation.real_value(given, point, names),
  )


def _has_long_number(tree: expressions.Tree) -> bool:
  """Returns whether a tree has a number too long for Math-Verify."""
  if tree[0] == "number":
    return max(map(abs, tree[1].as_integer_ratio())) >= _LONG
  return any(_has_long_number(a) for a in tree[1:] if isinstance(a, tuple))


# Letters that Math-Verify reads as variables only; not e, i, f, d and so on.
_LETTERS = "xyzuvwpqrkab"
