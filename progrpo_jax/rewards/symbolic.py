"""Math-Verify, configured strictly, for the worker processes.

It has no limit on its time here: its own timeouts are signals, which only
reach a main thread and never code written in C, so they are off, and whoever
calls must be able to kill this process (see progrpo_jax.rewards.math). It
compares two expressions that are built from the trees of
progrpo_jax.rewards.latex: its parser of LaTeX, which takes a second for what
it does not misread, is not asked. As it drops differences below 1e-15, what
it takes for equal is computed once more to thirty digits.
"""

from collections.abc import Callable, Mapping
import logging
import math

from math_verify import verify
import sympy

from progrpo_jax.rewards import evaluation, expressions

_DIGITS = 30
# Sympy works out what is a number as soon as it is written.
_MAX_BITS = 100_000
_MAX_COUNT = 5000  # of what a factorial or a binomial multiplies
_MAX_TERMS = 500  # of the sums that the cheap proof multiplies out

# They warn, once per process, that the timeouts are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def equal(
    gold: expressions.Tree, answer: expressions.Tree, names: Mapping[str, str],
    positive: bool = False,
) -> bool:
  """Says whether two expressions are equal, by Math-Verify.

  verify(gold, answer) is not verify(answer, gold); the order matters. What
  it stumbles over is not equal.

  Args:
    gold: what is right.
    answer: what is given.
    names: of the symbols of both, such as Math-Verify takes for nothing else.
    positive: whether symbols stand for positive numbers, not for real ones.
  """
  try:
    left, right = (
        expression(tree, names, positive) for tree in (gold, answer))
    if left.has(*_NO_NUMBERS) or right.has(*_NO_NUMBERS):
      return False
    return _proved(left, right) and _agree(left, right)
  except MemoryError:
    raise
  except Exception:  # sympy raises all sorts of errors on odd expressions
    return False


_NO_NUMBERS = (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def warm() -> None:
  """Runs what is slow the first time."""
  for gold, answer in (
      ("(x+1)^2", "x^2+2x+1"), (r"\frac{\sqrt{8}}{\pi}", r"\frac{2\sqrt2}\pi"),
      (r"\sin{(2x)}", r"2\sin{(x)}\cos{(x)}"), (r"|-x|+\ln{x}", r"|x|+\ln{x}"),
      (r"\sin^{2}{(x)}+y", r"1-\cos^{2}{(x)}+y"), ("x+y", "x+y+1")):
    left, right = expressions.parse(gold), expressions.parse(answer)
    equal(left, right, {"x": "x", "y": "y"})


def _proved(left: sympy.Expr, right: sympy.Expr) -> bool:
  """Proves that two expressions are equal: cheaply, else by Math-Verify."""
  try:
    if _vanishes(left - right):
      return True
  except sympy.SympifyError:
    pass
  return bool(verify(
      [left], [right], float_rounding=12, strict=True, timeout_seconds=None))


def _vanishes(difference: sympy.Expr) -> bool:
  """Says whether exponentials for all functions leave nothing of a sum.

  It decides what simplify would spend a second on; False says nothing.
  """
  over = sympy.numer(sympy.together(difference.rewrite(sympy.exp)))
  if difference.has(sympy.log) and _is_short(over):
    # Of positive symbols only; of others a logarithm stays as it is.
    over = sympy.expand_log(over)
  return bool(over == 0 or _is_short(over) and sympy.expand(over) == 0)


def _is_short(value: sympy.Expr) -> bool:
  """Says whether an expression has few terms when it is multiplied out."""
  terms = 1
  for part in sympy.preorder_traversal(value):
    base, exponent = part.as_base_exp() if part.is_Pow else (part, 1)
    parts = part.args if part.is_Mul else (base,) if part.is_Pow else ()
    longest = math.prod(len(sympy.Add.make_args(p)) for p in parts)
    if longest > 1 and abs(exponent) > _MAX_TERMS:
      return False
    if longest > 1 and getattr(exponent, "is_Integer", True):
      terms *= longest ** abs(int(exponent))
    if terms > _MAX_TERMS:
      return False
  return True


# ----- Building -----


def expression(
    tree: expressions.Tree, names: Mapping[str, str], positive: bool = False
) -> sympy.Expr:
  """Returns a tree as sympy has it; symbols are real, or positive, numbers.

  Raises:
    evaluation.TooLarge: a number in it is beyond the limits.
  """
  kind, *parts = tree
  if kind == "number":
    return sympy.Rational(*parts[0].as_integer_ratio())
  if kind == "constant":
    return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}[parts[0]]
  if kind == "symbol":
    assumption = {"positive": True} if positive else {"real": True}
    return sympy.Symbol(names[parts[0]], **assumption)
  if kind == "call":
    return _CALLS[parts[0]](expression(parts[1], names, positive))
  return _OPERATORS[kind](
      *(expression(part, names, positive) for part in parts))


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
  """Raises to a power."""
  if base.is_Rational and exponent.is_Rational:
    bits = max(abs(base.p).bit_length(), base.q.bit_length())
    if abs(exponent) * bits > _MAX_BITS:
      raise evaluation.TooLarge("a power")
  return sympy.Pow(base, exponent)


def _factorial(value: sympy.Expr) -> sympy.Expr:
  """Returns a factorial."""
  if value.is_Integer and value > _MAX_COUNT:
    raise evaluation.TooLarge("a factorial")
  return sympy.factorial(value)


def _binomial(n: sympy.Expr, k: sympy.Expr) -> sympy.Expr:
  """Returns a binomial."""
  if k.is_Integer and min(abs(k), abs(n - k)) > _MAX_COUNT:
    raise evaluation.TooLarge("a binomial")
  return sympy.binomial(n, k)


_CALLS: dict[str, Callable[[sympy.Expr], sympy.Expr]] = {
    **{name: getattr(sympy, name)
       for name in "sin cos tan cot sec csc sinh cosh tanh exp".split()},
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
    "ln": sympy.log}
_OPERATORS: dict[str, Callable[..., sympy.Expr]] = {
    "add": sympy.Add,
    "mul": sympy.Mul,
    "div": lambda over, under: over / under,
    "neg": lambda value: -value,
    "abs": sympy.Abs,
    "pow": _power,
    "root": lambda degree, base: _power(base, 1 / degree),
    "factorial": _factorial,
    "binom": _binomial,
    "log": lambda base, value: sympy.log(value, base),
    "floor": sympy.floor,
    "ceil": sympy.ceiling,
}


def _agree(left: sympy.Basic, right: sympy.Basic) -> bool:
  """Compares the values at one point to many digits."""
  names = sorted(left.free_symbols | right.free_symbols, key=str)
  point = {s: sympy.Rational(13 + 5 * i, 7 + i) for i, s in enumerate(names)}
  a, b = (sympy.N(e.subs(point).doit(), _DIGITS) for e in (left, right))
  return bool(abs(a - b) <= abs(a) * 10 ** (5 - _DIGITS))
