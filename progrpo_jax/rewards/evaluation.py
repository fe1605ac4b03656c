"""Values of expression trees: exact if rational, else in floating point.

Exact numbers have a size limit, so that no expression takes long to evaluate
or fills the memory.
"""

import cmath
from fractions import Fraction
import math
import random
from typing import Any

from progrpo_jax.rewards.expressions import Tree, symbols

MAX_BITS = 40_000  # of an exact number: allows 2^{40000}, not 9^{9^{9}}
_MAX_FACTORIAL = 1000
SMALL = 1000  # first point whose symbols have small values, as \arcsin needs


class TooLarge(ValueError):
  """A number is beyond the limits."""


_FUNCTIONS = {
  "sin": cmath.sin,
  "cos": cmath.cos,
  "tan": cmath.tan,
  "cot": lambda z: 1 / cmath.tan(z),
  "sec": lambda z: 1 / cmath.cos(z),
  "csc": lambda z: 1 / cmath.sin(z),
  "arcsin": cmath.asin,
  "arccos": cmath.acos,
  "arctan": cmath.atan,
  "sinh": cmath.sinh,
  "cosh": cmath.cosh,
  "tanh": cmath.tanh,
  "ln": cmath.log,
  "exp": cmath.exp,
}
_CONSTANTS = {"pi": math.pi, "e": math.e, "i": 1j}


def exact(tree: Tree) -> Fraction | None:
  """Returns the value of a tree if it is known to be rational, else None."""
  value = evaluate(tree, 0) if not symbols(tree) else None
  return value if isinstance(value, Fraction) else None


def evaluate(tree: Tree, point: int) -> Fraction | complex | None:
  """Returns the value of a tree, or None if it has none or is too large.

  Args:
    tree: tree of an expression.
    point: number of a point. Each symbol has a value that depends only on its
      name and the point: between 0.5 and 2, or below 0.5 from SMALL on.

  Returns:
    A Fraction, which is exact, or a complex number, which is not.
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
  """Returns the value of a tree if all intermediate values are real.

  Args:
    tree: tree of an expression.
    point: number of a point, see `evaluate`.
    negative: names of the symbols with a negative value.

  Returns:
    The value, or None if an intermediate value is not real or too large.
  """
  try:
    value = _real_value(tree, point, negative)
    return value if math.isfinite(value) else None
  except (ArithmeticError, ValueError, TypeError, RecursionError):
    return None


def _real_value(tree: Tree, point: int, negative: frozenset[str]) -> Any:
  """Evaluates a tree over the reals; `real_value` catches what it raises."""
  kind = tree[0]
  if kind in ("number", "constant"):
    value = _value(tree, point)
  elif kind == "symbol":
    value = _value(tree, point)
    value = -value if tree[1] in negative else value
  elif kind == "call":
    value = _call(tree[1], _real_value(tree[2], point, negative))
  else:
    value = _bounded(
      _OPERATIONS[kind](*(_real_value(a, point, negative) for a in tree[1:]))
    )
  if isinstance(value, Fraction):
    return value
  value = complex(value)
  if abs(value.imag) > 1e-12 * abs(value):
    raise ValueError("not real")
  return value.real


def symbol_value(name: str, point: int) -> float:
  """Returns the value of a symbol at a point, see `evaluate`."""
  ends = (0.5, 2) if point < SMALL else (0.05, 0.5)
  return random.Random(f"{point}/{name}").uniform(*ends)


def _value(tree: Tree, point: int) -> Fraction | complex:
  """Evaluates a tree; `evaluate` catches what it raises."""
  kind = tree[0]
  if kind == "number":
    return tree[1]
  if kind == "symbol":
    return complex(symbol_value(tree[1], point))
  if kind == "constant":
    return complex(_CONSTANTS[tree[1]])
  if kind == "call":
    return _call(tree[1], _value(tree[2], point))
  return _bounded(_OPERATIONS[kind](*(_value(a, point) for a in tree[1:])))


def _bounded(value: Any) -> Fraction | complex:
  """Returns a value, integers as a Fraction.

  Raises:
    TooLarge: an exact value is beyond the limits.
  """
  if isinstance(value, (int, Fraction)):
    value = Fraction(value)
    if _bits(value) > MAX_BITS:
      raise TooLarge
    return value
  return complex(value)


def _bits(value: Fraction) -> int:
  """Returns the size of a fraction in bits."""
  return value.numerator.bit_length() + value.denominator.bit_length()


def _call(name: str, argument: Fraction | complex) -> Fraction | complex:
  """Applies a function. Its simplest values, such as sin 0, are exact."""
  if argument == 0 and name in ("sin", "tan", "arcsin", "arctan", "sinh"):
    return Fraction(0)
  if argument == 0 and name in ("cos", "exp", "cosh"):
    return Fraction(1)
  if argument == 1 and name == "ln":
    return Fraction(0)
  return _FUNCTIONS[name](complex(argument))


def _power(base: Fraction | complex, exponent: Fraction | complex) -> Any:
  """Raises to a power; exact if the result is rational."""
  if isinstance(base, Fraction) and isinstance(exponent, Fraction):
    if exponent.denominator == 1:
      # The size of the result is estimated before it is computed. Powers of
      # 0, 1 and -1 are small for any exponent.
      if abs(exponent.numerator) * (_bits(base) - 1) > 2 * MAX_BITS and (
        abs(base) != 1 and base
      ):
        raise TooLarge
      return base ** (
        exponent.numerator if base * base != 1 else exponent.numerator % 2
      )
    if base > 0 and exponent.denominator <= 64:
      root = _root(Fraction(exponent.denominator), base)
      if isinstance(root, Fraction):
        return _power(root, Fraction(exponent.numerator))
  return complex(base) ** complex(exponent)


def _root(degree: Fraction | complex, base: Fraction | complex) -> Any:
  """Takes a root: exact if it is rational, real if the degree is odd."""
  if not (
    isinstance(degree, Fraction)
    and degree.denominator == 1
    and 2 <= degree <= 64
  ):
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
  """Returns the integer n-th root of value >= 0, None if there is none."""
  if n == 2 or value < 2:
    root = math.isqrt(value) if n == 2 else value
    return root if root**n == value else None
  # Newton's method from above, which decreases to the root rounded down.
  root = 1 << -(-value.bit_length() // n)
  while (step := ((n - 1) * root + value // root ** (n - 1)) // n) < root:
    root = step
  return root if root**n == value else None


def _factorial(value: Fraction | complex) -> Any:
  """Returns n!, by the gamma function if n is not an integer."""
  if isinstance(value, Fraction) and value.denominator == 1:
    if not 0 <= value <= _MAX_FACTORIAL:
      raise TooLarge
    return math.factorial(value.numerator)
  value = complex(value)
  if value.imag or not -0.9 < value.real < 100:
    raise TooLarge
  return math.gamma(value.real + 1)


def _binomial(n: Fraction | complex, k: Fraction | complex) -> Any:
  """Returns a binomial coefficient, exact for integers."""
  if isinstance(n, Fraction) and isinstance(k, Fraction):
    if n.denominator == k.denominator == 1 and 0 <= k <= n <= 2000:
      return math.comb(n.numerator, k.numerator)
    raise TooLarge
  n, k = complex(n).real, complex(k).real
  return math.gamma(n + 1) / math.gamma(k + 1) / math.gamma(n - k + 1)


def _log(base: Fraction | complex, value: Fraction | complex) -> Any:
  """Returns a logarithm; an integer logarithm of rationals is exact."""
  result = cmath.log(complex(value)) / cmath.log(complex(base))
  near = round(result.real)
  if (
    isinstance(base, Fraction)
    and isinstance(value, Fraction)
    and (
      abs(near) < 1000 and base > 0 and _power(base, Fraction(near)) == value
    )
  ):
    return Fraction(near)
  return result


def _floor(value: Fraction | complex) -> int:
  """Rounds a real number down."""
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
