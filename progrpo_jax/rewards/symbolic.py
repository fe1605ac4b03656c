"""Math-Verify with strict settings, for worker processes.

Its time is not limited here. Math-Verify's own timeouts are signals, which
reach only a main thread and no code in C, so they are off, and the caller must
be able to kill this process (see rewards/math.py). Its LaTeX parser, which is
slow and misreads some texts, is not used: expressions are built from the trees
of rewards/expressions.py. Math-Verify ignores differences below 1e-15, so
expressions that it calls equal are evaluated once more to thirty digits.
"""

from collections.abc import Callable, Mapping
import logging
import math

from math_verify import verify
import sympy

from progrpo_jax.rewards import evaluation, expressions

_DIGITS = 30
# Limits on numbers, which sympy evaluates as soon as they are built.
_MAX_BITS = 100_000
_MAX_COUNT = 5000  # factors of a factorial or a binomial coefficient
_MAX_SYMBOLIC_COUNT = 25  # the same if the upper argument has symbols
_MAX_FACTORS = 8  # of a binomial coefficient that is written out
_MAX_OVER = 12  # denominator of the logarithms' coefficients
_MAX_TERMS = 500  # terms of sums that the cheap proof multiplies out

# It would warn, once per process, that its timeouts are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def equal(
  gold: expressions.Tree,
  answer: expressions.Tree,
  names: Mapping[str, str],
  positive: bool = False,
  point: Mapping[str, float] | None = None,
) -> bool:
  """Returns whether two expressions are equal, by Math-Verify.

  The order matters: verify(gold, answer) may differ from verify(answer, gold).
  Expressions on which sympy or Math-Verify fails are not equal.

  Args:
    gold: tree of the correct answer.
    answer: tree of the given answer.
    names: name for each symbol, which Math-Verify must read as a variable.
    positive: whether symbols are positive numbers instead of real ones.
    point: values of the new names at which both sides are real. The sides are
      then known to agree at points, and need to be equal only where they are
      real.
  """
  try:
    left, right = (expression(tree, names, positive) for tree in (gold, answer))
    if left.has(*_NO_NUMBERS) or right.has(*_NO_NUMBERS):
      return False
    if point:
      values = {sympy.Symbol(n, real=True): v for n, v in point.items()}
      return _equal_if_real(left, right) and _agree(left, right, values)
    return _proved(left, right) and _agree(left, right)
  except MemoryError:
    raise
  except Exception:  # sympy raises errors of any type
    return False


_NO_NUMBERS = (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def warm() -> None:
  """Runs comparisons that are slow the first time, to fill sympy's caches."""
  for gold, answer in (
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{\sqrt{8}}{\pi}", r"\frac{2\sqrt2}\pi"),
    (r"\sin{(2x)}", r"2\sin{(x)}\cos{(x)}"),
    (r"|-x|+\ln{x}", r"|x|+\ln{x}"),
    (r"\sin^{2}{(x)}+y", r"1-\cos^{2}{(x)}+y"),
    ("x+y", "x+y+1"),
  ):
    left, right = expressions.parse(gold), expressions.parse(answer)
    equal(left, right, {"x": "x", "y": "y"})


def _proved(left: sympy.Expr, right: sympy.Expr) -> bool:
  """Returns whether equality can be proved: cheaply, else by Math-Verify."""
  try:
    if _vanishes(left - right):
      return True
  except sympy.SympifyError:
    pass
  return bool(
    verify(
      [left], [right], float_rounding=12, strict=True, timeout_seconds=None
    )
  )


def _vanishes(difference: sympy.Expr) -> bool:
  """Returns whether a difference is 0, with functions as exponentials.

  It decides quickly what takes sympy's simplify a second. False means that the
  difference may still be 0.
  """
  over = sympy.numer(sympy.together(difference.rewrite(sympy.exp)))
  if difference.has(sympy.log) and _is_short(over):
    # Expands logarithms of positive symbols only.
    over = sympy.expand_log(over)
  return bool(over == 0 or _is_short(over) and sympy.expand(over) == 0)


def _equal_if_real(left: sympy.Expr, right: sympy.Expr) -> bool:
  """Returns whether real values of two sides can differ by their sign only.

  If exp(n (left - right)) is 1, the real values are equal. If the squares are
  equal, so are the values up to their sign, which points have decided.
  """
  difference = left - right
  if _vanishes(difference):
    return True
  if not _is_short(difference):
    return False
  difference = sympy.expand(difference)
  if difference.has(sympy.log):
    parts = [t.as_coeff_Mul()[0] for t in sympy.Add.make_args(difference)]
    over = math.lcm(*(int(getattr(c, "q", 1)) for c in parts))
    if over <= _MAX_OVER:
      return _vanishes(sympy.exp(sympy.expand(over * difference)) - 1)
    return False
  return _vanishes(left**2 - right**2)


def _is_short(value: sympy.Expr) -> bool:
  """Returns whether an expression has few terms when multiplied out."""
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


# ----- Conversion of trees -----


def expression(
  tree: expressions.Tree, names: Mapping[str, str], positive: bool = False
) -> sympy.Expr:
  """Converts a tree to a sympy expression.

  Args:
    tree: tree of an expression.
    names: name for each symbol.
    positive: whether symbols are positive numbers instead of real ones.

  Raises:
    evaluation.TooLarge: a number is beyond the limits.
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
    *(expression(part, names, positive) for part in parts)
  )


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
  """Returns a power; raises TooLarge before sympy computes a huge number."""
  if base.is_Rational and exponent.is_Rational:
    bits = max(abs(base.p).bit_length(), base.q.bit_length())
    if abs(exponent) * bits > _MAX_BITS:
      raise evaluation.TooLarge("a power")
  return sympy.Pow(base, exponent)


def _factorial(value: sympy.Expr) -> sympy.Expr:
  """Returns a factorial; raises TooLarge for a large argument."""
  if value.is_Integer and value > _MAX_COUNT:
    raise evaluation.TooLarge("a factorial")
  return sympy.factorial(value)


def _binomial(n: sympy.Expr, k: sympy.Expr) -> sympy.Expr:
  """Returns a binomial coefficient; raises TooLarge for a large one."""
  if k.is_Integer and n.free_symbols:
    if abs(k) > _MAX_SYMBOLIC_COUNT:
      raise evaluation.TooLarge("a binomial")
  elif k.is_Integer and min(abs(k), abs(n - k)) > _MAX_COUNT:
    raise evaluation.TooLarge("a binomial")
  if k.is_Integer and n.free_symbols and 0 <= k <= _MAX_FACTORS:
    # As a polynomial, which sympy would leave to gamma functions.
    factors = [n - i for i in range(int(k))]
    return sympy.Mul(*factors) / sympy.factorial(k)
  return sympy.binomial(n, k)


_CALLS: dict[str, Callable[[sympy.Expr], sympy.Expr]] = {
  **{
    name: getattr(sympy, name)
    for name in "sin cos tan cot sec csc sinh cosh tanh exp".split()
  },
  "arcsin": sympy.asin,
  "arccos": sympy.acos,
  "arctan": sympy.atan,
  "ln": sympy.log,
}
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


def _agree(
  left: sympy.Basic,
  right: sympy.Basic,
  point: Mapping[sympy.Symbol, float] | None = None,
) -> bool:
  """Returns whether the values at one point agree to many digits.

  Args:
    left: one side.
    right: other side.
    point: value of each symbol; None chooses one.
  """
  names = sorted(left.free_symbols | right.free_symbols, key=str)
  if point is None:
    point = {s: sympy.Rational(13 + 5 * i, 7 + i) for i, s in enumerate(names)}
  exact = {s: sympy.Rational(v) for s, v in point.items()}
  a, b = (sympy.N(e.subs(exact).doit(), _DIGITS) for e in (left, right))
  return bool(abs(a - b) <= abs(a) * 10 ** (5 - _DIGITS))
