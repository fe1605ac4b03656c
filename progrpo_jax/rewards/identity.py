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
from typing import Protocol

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
  ) -> bool:
    """Returns whether two trees are equal, given the names of their symbols."""


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
      return False
  return prove(gold, given, how.symbolic)


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


def prove(
  gold: expressions.Tree, given: expressions.Tree, symbolic: Symbolic
) -> bool:
  """Asks the prover whether trees are equal; False if they are too large."""
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
  positive = _positive(gold, given, names)
  return symbolic(gold, given, dict(zip(names, _LETTERS)), positive)


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
