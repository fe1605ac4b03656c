"""Math-Verify, configured strictly, for the worker processes.

Its own timeouts are signals, which only reach a main thread and never code
written in C, so they are off: whoever calls must be able to kill this process
(see progrpo_jax.rewards.math). It compares two expressions in LaTeX, which
progrpo_jax.rewards.latex has written; no text of a model arrives here. As
Math-Verify drops differences below 1e-15 and rounds decimals, what it takes
for equal is computed once more to thirty digits.
"""

import logging

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
import sympy

_DIGITS = 30
_CONFIG = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True,
        units=True,
        malformed_operators=False,
        nits=False,
        boxed="all",
        equations=False,
    ),
)

# They warn, once per process, that the timeouts are off.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def equal(gold: str, answer: str) -> bool:
  """Says whether Math-Verify finds two expressions equal.

  verify(gold, answer) is not verify(answer, gold); the order matters. What
  it cannot parse, or stumbles over, is not equal.
  """
  try:
    left, right = _parse(gold), _parse(answer)
    if left is None or right is None:
      return False
    found = verify(
        [left], [right], float_rounding=12, strict=True, timeout_seconds=None
    )
    return bool(found) and _agree(left, right)
  except MemoryError:
    raise
  except Exception:  # sympy raises all sorts of errors on odd expressions
    return False


def warm() -> None:
  """Runs what is slow the first time: the tables of the LaTeX parser."""
  equal(r"((x)+(1))^{2}", r"((x)^{2})+((2)\cdot (x))+(1)")
  equal(r"\frac{\sqrt[2]{8}}{\pi}", r"\frac{(2)\cdot (\sqrt[2]{2})}{\pi}")
  equal(r"\sin{((2)\cdot (x))}", r"(2)\cdot (\sin{(x)})\cdot (\cos{(x)})")
  equal(r"|-(x)|+\ln{(x)}", r"|x|-(\ln{(\frac{1}{x})})")


def _parse(text: str) -> sympy.Basic | None:
  """Returns the expression of a LaTeX text."""
  found = parse(
      f"${text}$",
      [_CONFIG],
      fallback_mode="no_fallback",
      extraction_mode="first_match",
      parsing_timeout=None,
  )
  return found[0] if found and isinstance(found[0], sympy.Expr) else None


def _agree(left: sympy.Basic, right: sympy.Basic) -> bool:
  """Compares the values at one point to many digits."""
  names = sorted(left.free_symbols | right.free_symbols, key=str)
  point = {s: sympy.Rational(13 + 5 * i, 7 + i) for i, s in enumerate(names)}
  a, b = (sympy.N(e.subs(point).doit(), _DIGITS) for e in (left, right))
  return bool(abs(a - b) <= abs(a) * 10 ** (5 - _DIGITS))
