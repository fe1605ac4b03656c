"""Equality of two answers by their structure.

Answers are parsed by rewards/notation.py and compared kind by kind: a tuple
with a tuple, a set with a set in any order, an interval with its brackets.
Expressions without structure are compared by rewards/identity.py.
"""

import dataclasses
from fractions import Fraction
import functools
import itertools
import re

from progrpo_jax.rewards import (
  evaluation,
  expressions,
  identity,
  notation,
  units,
  words,
)
from progrpo_jax.rewards.identity import How, Symbolic
from progrpo_jax.rewards.notation import Answer, squeeze

# Texts that are no answer, in lower case.
NOTHING = frozenset(
  (
    "",
    "nan",
    "none",
    "null",
    "n/a",
    "na",
    "inf",
    "-inf",
    "+inf",
    "infinity",
    "-infinity",
    "?",
    "-",
  )
)
UNORDERED = ("list", "set", "union")  # kinds whose parts have no order
_MAX_UNFOLDED = 64  # terms written out in place of dots


def compare(
  gold: str,
  answer: str,
  symbolic: Symbolic,
  tolerance: float = 0.0,
  evaluated: bool = False,
) -> bool:
  """Returns whether an answer is correct.

  Args:
    gold: text of the correct answer.
    answer: text of the given answer.
    symbolic: prover of equality, see `identity.Symbolic`.
    tolerance: relative error that a number may have.
    evaluated: whether a plain number must be answered by a plain number.
  """
  how = How(symbolic, tolerance, evaluated)
  same = functools.partial(_same, how=how)
  right, given = notation.read(gold), notation.read(answer)
  if _is_trivial(given) or _other_currency(gold, answer):
    return False
  if same(right, given):
    return True
  # 1,234 may be a list of two numbers, if the correct answer is a list.
  split = notation.read(answer, thousands=False)
  return split != given and right.kind == "list" and same(right, split)


# Currency -> its signs and names. A bare $ may delimit a formula.
_CURRENCIES = {
  "dollar": r"\\\$|\A\s*\$(?=\s*[\d.,]+\s*\Z)|\bdollars?\b|\bUSD\b",
  "cent": r"¢|\b(?<!per )cents?\b",
  "euro": r"€|\beuros?\b|\bEUR\b",
  "pound": r"£|\\pounds\b|\bpounds?\b|\bGBP\b",
  "yen": r"[¥￥]|\byen\b",
  "rupee": r"₹|\brupees?\b",
}


def _other_currency(gold: str, answer: str) -> bool:
  """Returns whether both sides name currencies, and none of them in common.

  The signs must be compared in the texts as they were written, since reading
  removes them.
  """
  names = [
    {name for name, sign in _CURRENCIES.items() if re.search(sign, text, re.I)}
    for text in (gold, answer)
  ]
  return all(names) and not names[0] & names[1]


def _is_trivial(given: Answer) -> bool:
  """Returns whether an answer is of the form x = x, which holds for any x."""
  if given.kind == "named":
    return squeeze(given.extra) == squeeze(given.parts[0].text)
  if given.kind == "chain":
    first, *others = [squeeze(p.text) for p in given.parts]
    return any(first == o for o in others)
  return False


def _same(gold: Answer, given: Answer, how: How) -> bool:
  """Returns whether two parsed answers are equal."""
  # A name in front of a value ("x = 5") does not matter if the reference has
  # none. Of a chain ("2*3 = 6") every part must then be correct.
  if given.kind == "named" and gold.kind not in ("named", "chain"):
    return not _is_trivial(given) and _same(gold, given.parts[0], how)
  if given.kind == "chain" and gold.kind != "chain":
    if gold.kind == "named":
      return _same_named(gold, given, how)
    return not _is_trivial(given) and all(
      _same(gold, part, how) for part in given.parts
    )
  if gold.kind == "named":
    return _same_named(gold, given, how)
  if gold.kind == "chain":
    # A calculation, 6 * 7 = 42, is answered by its result.
    trees = [expressions.parse(p.text) for p in gold.parts]
    if all(trees) and not any(map(expressions.symbols, trees)):
      *others, result = gold.parts
      return all(_same(o, result, how) for o in others) and (
        _same(result, given, how)
      )
    return _same_chain(gold, given, how)
  if "ratio" in (gold.kind, given.kind):
    return _same_ratio(gold, given, how)
  if given.extra == "or" and gold.kind in ("atom", "words"):
    # One value written in several ways, 1/2 or 0.5: each must be correct.
    return all(_same(gold, part, how) for part in given.parts)
  if gold.kind == "relation" or given.kind == "relation":
    return _same_relation(gold, given, how)
  if gold.kind == "words" or given.kind == "words":
    if _same_words(gold.text, given.text):
      return True
    # Digits answer a number in words, but words do not answer digits.
    number = words.number(notation.unwrap(gold.text))
    return (
      number is not None
      and given.kind == "atom"
      and _same_atom(str(number), given.text, how)
    )
  if gold.kind == given.kind == "atom":
    return _same_atom(gold.text, given.text, how)
  if gold.kind == "atom" and given.kind == "list":
    # A decimal comma: 3,14 is 3.14.
    decimal = re.fullmatch(r"-?\d+,\d+", given.text)
    return bool(decimal) and _same_atom(
      gold.text, given.text.replace(",", "."), how
    )
  return _same_parts(gold, given, how)


def _same_words(gold: str, given: str) -> bool:
  """Returns whether texts are equal but for case, blanks and full stops.

  Single letters keep their case.
  """
  gold, given = (
    re.sub(r"[\s.]", "", notation.unwrap(t)).strip("()") for t in (gold, given)
  )
  return (
    gold.casefold() == given.casefold() if len(gold) > 1 else (gold == given)
  )


def _same_ratio(gold: Answer, given: Answer, how: How) -> bool:
  """Returns whether ratios are equal; 1/2 may also answer 1:2.

  The reverse does not hold: odds of 1:2 are not a probability of 1/2.
  """
  if squeeze(gold.text) == squeeze(given.text):
    return True
  # Times of day are compared digit by digit; 6:30 is not 1:5.
  if gold.kind == given.kind and (
    notation.is_time(gold) or gold.extra or given.extra
  ):
    texts = [[p.text.lstrip("0") for p in a.parts] for a in (gold, given)]
    return texts[0] == texts[1] and (
      not gold.extra or not given.extra or gold.extra == given.extra
    )
  terms = _terms_of_ratio(gold), _terms_of_ratio(given)
  if gold.kind != "ratio" or None in terms or (len(terms[0]) != len(terms[1])):
    return False
  # a:c = b:d for each pair of terms, as products, so that terms may be zero.
  if any(all(evaluation.exact(t) == 0 for t in side) for side in terms):
    return False
  return all(
    identity.same(("mul", a, d), ("mul", b, c), how)
    for (a, c), (b, d) in itertools.combinations(zip(*terms), 2)
  )


def _terms_of_ratio(answer: Answer) -> list[expressions.Tree] | None:
  """Returns the trees of a ratio's terms, or of numerator and denominator.

  None if the answer is neither.
  """
  if answer.kind == "ratio":
    return [expressions.parse(p.text) for p in answer.parts]
  tree = expressions.parse(answer.text) if answer.kind == "atom" else None
  return list(tree[1:]) if tree and tree[0] == "div" else None


def _same_parts(gold: Answer, given: Answer, how: How) -> bool:
  """Returns whether answers with parts (sets, tuples, ...) are equal."""
  if gold.kind == "matrix" and given.kind == "tuple" and given.extra == "()":
    # A column may be written as a point.
    columns = [row.parts for row in gold.parts]
    return len(columns) == len(given.parts) and all(
      len(c) == 1 and _same(c[0], p, how) for c, p in zip(columns, given.parts)
    )
  # Tuples of two may be intervals, whose brackets matter. A list is equal to a
  # set or tuple of the same parts, and a set of one part to that part.
  if gold.kind == "tuple" and given.kind == "tuple":
    if len(gold.parts) == 2 and gold.extra != given.extra:
      return False
  elif gold.kind != given.kind and {gold.kind, given.kind} not in (
    {"list", "set"},
    {"list", "tuple"},
  ):
    sets = [a for a in (gold, given) if a.kind == "set"]
    if {gold.kind, given.kind} == {"atom", "set"} and (len(sets[0].parts) == 1):
      left, right = (
        a.parts[0] if a.kind == "set" else a for a in (gold, given)
      )
      return _same(left, right, how)
    return False
  dots = [any(p.text == _DOTS for p in a.parts) for a in (gold, given)]
  if any(dots):
    gold, given = _unfold(gold, given)
  elif gold.kind in UNORDERED and given.kind in UNORDERED:
    gold, given = _unnumbered(gold, given)
    if not _in_order(gold, given):
      return _same_unordered(gold, given, how)
  return len(gold.parts) == len(given.parts) and all(
    _same(g, p, how) for g, p in zip(gold.parts, given.parts)
  )


_DOTS = r"\ldots"


def _unfold(gold: Answer, given: Answer) -> tuple[Answer, Answer]:
  r"""Writes out terms behind dots, so that two sequences can be compared.

  In 1,2,\ldots,n the dots stand for the 3 that 1,2,3,\ldots,n writes. Only
  sequences with a constant difference are written out.
  """
  sides = [_around_dots(gold), _around_dots(given)]
  longest = max(len(before) for before, _, _ in sides)
  full = [len(a.parts) for a, s in zip((gold, given), sides) if not s[2]]
  return tuple(
    _write_out(answer, side, longest, full)
    for answer, side in zip((gold, given), sides)
  )


def _around_dots(answer: Answer) -> tuple[list[str], list[str], bool]:
  """Returns (terms before the dots, terms after them, whether there are any).

  An answer with dots in several places counts as one without.
  """
  texts = [p.text for p in answer.parts]
  if texts.count(_DOTS) != 1:
    return [], [], False
  at = texts.index(_DOTS)
  return texts[:at], texts[at + 1 :], True


def _write_out(
  answer: Answer,
  side: tuple[list[str], list[str], bool],
  longest: int,
  full: list[int],
) -> Answer:
  """Returns an answer with more of its terms written before the dots.

  Args:
    answer: answer with or without dots.
    side: result of `_around_dots` for it.
    longest: number of terms to write before the dots.
    full: number of terms of the other answer if it has no dots, as a list of
      one, else an empty list. Dots are then replaced completely.
  """
  before, behind, dots = side
  trees = list(map(expressions.parse, before))
  values = [tree and evaluation.exact(tree) for tree in trees]
  steps = (
    {b - a for a, b in zip(values, values[1:])} if None not in values else set()
  )
  if not dots or len(before) < 2 or len(steps) != 1:
    return answer
  wanted = full[0] - len(behind) if full else longest
  step = steps.pop()
  for _ in range(min(wanted, _MAX_UNFOLDED) - len(values)):
    values.append(values[-1] + step)
  texts = before + [str(v) for v in values[len(before) :]]
  if full:
    # The term after the dots must continue the sequence.
    last = expressions.parse(behind[0]) if len(behind) == 1 else None
    if not last or evaluation.exact(last) != values[-1] + step:
      return answer
  else:
    texts.append(_DOTS)
  parts = tuple(Answer("atom", t) for t in [*texts, *behind])
  return dataclasses.replace(answer, parts=parts)


def _in_order(gold: Answer, given: Answer) -> bool:
  """Returns whether one side names several values and the other names none.

  Such values ("x = 1, y = 2" and "1, 2") are compared in order.
  """
  names = _names(gold), _names(given)
  return min(map(len, names)) == 0 and max(map(len, names)) > 1


def _names(answer: Answer) -> set[str]:
  """Returns the names of an answer's named parts."""
  return {squeeze(p.extra) for p in answer.parts if p.kind == "named"}


_NUMBERED = re.compile(r"(.+?)(?:_(?:\d|[-+]|\{(?:\d+|[-+])\}))?")


def _unnumbered(gold: Answer, given: Answer) -> tuple[Answer, Answer]:
  """Removes names that only number the values of one unknown.

  The roots x_1 and x_2 have equal roles, and an answer may number them in any
  order or not at all. Sides with the same names keep them, as terms of a
  sequence are numbered alike by both.
  """
  names = _names(gold), _names(given)
  stems = {_NUMBERED.fullmatch(n)[1] for n in names[0] | names[1]}
  if names[0] == names[1] or len(stems) != 1:
    return gold, given
  return tuple(
    dataclasses.replace(
      a, parts=tuple(p.parts[0] if p.kind == "named" else p for p in a.parts)
    )
    for a in (gold, given)
  )


def _same_unordered(gold: Answer, given: Answer, how: How) -> bool:
  """Returns whether each part has an equal partner on the other side.

  If one side is a set, repeated parts count once.
  """
  has_set = "set" in (gold.kind, given.kind)
  if not has_set and len(gold.parts) != len(given.parts):
    return False
  if not gold.parts or not given.parts:
    return not gold.parts and not given.parts
  # Greedy matching suffices, as equality is transitive but for the tolerance.
  free = list(given.parts)
  used = []
  for part in gold.parts:
    partner = _partner(part, free, how)
    if partner is None:
      if not has_set or _partner(part, used, how) is None:
        return False
    else:
      used.append(partner)
      free.remove(partner)
  return all(any(_same(g, p, how) for g in gold.parts) for p in free)


def _partner(part: Answer, free: list[Answer], how: How) -> Answer | None:
  """Returns the first free part that equals a part; None if none does."""
  # Equal texts are tried first, since they need no Math-Verify.
  for other in free:
    if squeeze(other.text) == squeeze(part.text):
      return other
  return next((o for o in free if _same(part, o, how)), None)


def _same_named(gold: Answer, given: Answer, how: How) -> bool:
  """Returns whether an answer equals a reference of the form name = value."""
  # In x + y = 5 the left side is no name, and 5 alone does not answer it.
  kind = notation.quantity(gold.extra)
  is_sum = kind == "compound" and re.search(r"[-+]", gold.extra)
  if given.kind == "named":
    if _is_trivial(given):
      return False
    given = _with_argument_of(gold, given)
    names = squeeze(gold.extra), squeeze(given.extra)
    same = names[0] == names[1] or _same_atom(gold.extra, given.extra, how)
    if same or all(notation.is_words(a.extra) for a in (gold, given)):
      return _same(gold.parts[0], given.parts[0], how)
    return _same_chain(gold, given, how)
  if given.kind == "chain":
    return _same_chain(gold, given, how)
  return not is_sum and _same(gold.parts[0], given, how)


_FUNCTION = re.compile(
  r"(?P<name>[A-Za-z]'*)\s*\(\s*(?P<argument>[A-Za-z])\s*\)"
)
_CONSTANTS = ("e", "i")
_LETTERS = re.compile(r"\\[A-Za-z]+|[A-Za-z]+")


def _with_argument_of(gold: Answer, given: Answer) -> Answer:
  """Returns f(n) = n + 1 as f(x) = x + 1 if the reference is about f(x).

  Only what both values are formulas of is an argument, and no point or event:
  f(a) = 2 says nothing about f(b).
  """
  heads = [_FUNCTION.fullmatch(a.extra.strip()) for a in (gold, given)]
  if not all(heads) or heads[0]["name"] != heads[1]["name"]:
    return given
  new, old = (head["argument"] for head in heads)
  written = [
    [w for w in _LETTERS.findall(a.parts[0].text) if w[0] != "\\"]
    for a in (gold, given)
  ]
  if (
    new == old
    or {new, old} & {*_CONSTANTS}
    or any(len(word) > 2 for word in (*written[0], *written[1]))
    or new not in "".join(written[0])
    or old not in "".join(written[1])
    or new in "".join(written[1])
  ):
    return given
  renamed = _LETTERS.sub(
    lambda m: m[0] if m[0][0] == "\\" else m[0].replace(old, new),
    given.parts[0].text,
  )
  return notation.read(f"{gold.extra} = {renamed}")


def _sides(answer: Answer) -> tuple[str, str] | None:
  """Returns the sides of an equation; None if it has not exactly two."""
  sides, _ = notation.split(answer.text, notation.SIGN)
  return (sides[0], sides[1]) if len(sides) == 2 else None


def _same_chain(gold: Answer, given: Answer, how: How) -> bool:
  """Returns whether two equations are equal: one is a multiple of the other."""
  if squeeze(gold.text) == squeeze(given.text):
    return not _is_trivial(given)
  gold_sides, given_sides = _sides(gold), _sides(given)
  if given.kind not in ("chain", "named") or not (gold_sides and given_sides):
    return False
  return _same_difference(gold_sides, given_sides, "=", how)


def _same_difference(
  gold: tuple[str, str], given: tuple[str, str], sign: str, how: How
) -> bool:
  """Returns whether left - right of both agree up to a rational factor.

  Args:
    gold: sides of the reference.
    given: sides of the answer.
    sign: relation between the sides; an inequality needs a positive factor.
    how: settings of the comparison.
  """
  trees = [_difference(*gold), _difference(*given)]
  if None in trees or not expressions.symbols(trees[0]):
    return False
  # The factor is the quotient of the values, which all points must agree on.
  ratios = []
  for point in identity.POINTS:
    a, b = (evaluation.evaluate(t, point) for t in trees)
    if a is None or b is None or abs(b) < 1e-9 or abs(a) < 1e-9:
      return False
    ratios.append(complex(a) / complex(b))
  if max(abs(r - ratios[0]) for r in ratios) > identity.CLOSE * abs(ratios[0]):
    return False
  factor = Fraction(ratios[0].real).limit_denominator(10_000)
  if not factor or (sign not in ("=", r"\ne") and factor < 0):
    return False
  scaled = ("mul", ("number", factor), trees[1])
  return identity.prove(trees[0], scaled, how.symbolic)


def _difference(left: str, right: str) -> expressions.Tree | None:
  """Returns the tree of left - right; None if a side has no tree."""
  a, b = expressions.parse(left), expressions.parse(right)
  return ("add", a, ("neg", b)) if a and b else None


def _same_relation(gold: Answer, given: Answer, how: How) -> bool:
  """Returns whether inequalities, or one and an interval, are equal."""
  if squeeze(gold.text) == squeeze(given.text):
    return True
  # As intervals, if both can be read as one and do not name other letters.
  ranges = [notation.excluded(a) or notation.interval(a) for a in (gold, given)]
  if all(ranges):
    names = [
      notation.unknowns(a) for a in (gold, given) if a.kind == "relation"
    ]
    if len(names) < 2 or names[0] & names[1]:
      return _same(ranges[0], ranges[1], how)
  if not gold.kind == given.kind == "relation":
    return False
  # Chains such as 1 < x < y are compared part by part.
  if not len(gold.parts) == len(given.parts) == 2:
    return (
      len(gold.parts) == len(given.parts)
      and gold.extra == (given.extra)
      and all(_same(g, p, how) for g, p in zip(gold.parts, given.parts))
    )
  # Inequalities of two sides, as written or turned around.
  (left, right), sign = (p.text for p in given.parts), given.extra[0]
  gold_sides = (gold.parts[0].text, gold.parts[1].text)
  if sign == gold.extra[0] and _same_difference(
    gold_sides, (left, right), sign, how
  ):
    return True
  return notation.FLIPPED.get(sign) == gold.extra[0] and _same_difference(
    gold_sides, (right, left), gold.extra[0], how
  )


def _same_atom(gold: str, given: str, how: How) -> bool:
  """Returns whether two expressions without structure are equal."""
  if squeeze(gold) == squeeze(given):
    return squeeze(gold).casefold() not in NOTHING
  if _is_natural_log(gold, given):
    gold = _LOG.sub(r"\\ln ", gold)
  # Units and other words after the value must not contradict each other.
  (gold, gold_words), (given, given_words) = _split_words(gold, given)
  if notation.words_differ(gold_words, given_words):
    return False
  if squeeze(gold) == squeeze(given):
    return True
  percents = gold.endswith("%"), given.endswith("%")
  trees = expressions.parse(gold), expressions.parse(given)
  if not all(trees):
    return _same_based(gold, given)
  if percents[0] != percents[1]:
    # Only one side has a sign of percentage: try without it.
    plain = [
      expressions.parse(t.removesuffix("%").strip()) for t in (gold, given)
    ]
    if _may_drop_percent(plain[0], percents[0]) and identity.same(*plain, how):
      return True
  return identity.same(*trees, how)


def _split_words(gold: str, given: str) -> list[tuple[str, str]]:
  """Returns (quantity, words) of both sides.

  Whether the m of 5m is a metre or a factor depends on the other side: it is a
  metre if the reference is a number, or if the other side has metres in words.
  """
  sides = [notation.split_words(text) for text in (gold, given)]
  for index, text in enumerate((gold, given)):
    if sides[index][1]:
      continue
    other = sides[1 - index]
    side = notation.split_words(text, glued=True)
    unit = units.measure(side[1])
    tree = expressions.parse(other[0])
    if unit and (
      units.measure(other[1]) == unit
      or index == 1
      and tree
      and not expressions.symbols(tree)
    ):
      sides[index] = side
  return sides


def _may_drop_percent(tree: expressions.Tree | None, percent: bool) -> bool:
  """Returns whether % may be left out of an answer or be added to it.

  28 answers 28%, but 0.5 and 0.5% may both be meant literally. An expression
  with letters is a percentage only if the reference says so.

  Args:
    tree: tree of the reference without %.
    percent: whether the reference has %.
  """
  if tree is None or expressions.symbols(tree):
    return percent
  value = evaluation.evaluate(tree, 0)
  return value is not None and abs(value) > 1


_LOG = re.compile(r"\\log(?![A-Za-z])(?!\s*_)\s*")
_LN = re.compile(r"\\ln(?![A-Za-z])")


def _is_natural_log(gold: str, given: str) -> bool:
  r"""Returns whether \log in the reference may mean the natural logarithm.

  Many books write it so. This requires \ln in the answer and no \ln in the
  reference. \log in the answer always has base 10.
  """
  return bool(
    _LOG.search(gold)
    and not _LN.search(gold)
    and _LN.search(given)
    and not _LOG.search(given)
  )


def _same_based(gold: str, given: str) -> bool:
  """Returns whether digits of a base are equal; the answer may omit it."""
  digits, _, base = squeeze(gold).partition("_")
  return bool(base) and digits.isalnum() and squeeze(given) == digits
