r"""Verifier of mathematical answers.

One final answer is taken from a completion (see rewards/answers.py) and
compared with the reference in three steps. The structure is compared here: a
tuple with a tuple, a set with a set in any order, an interval with its
brackets. Numbers are compared exactly, as fractions: 0.333 is not 1/3. What
is left, expressions with roots, constants and letters whose values agree at
a point, is for Math-Verify to say; it only ever runs in a worker process of
rewards/pool.py, which can be killed and whose memory is limited.

ProRL gives 1 if either of two verifiers accepts, the one of DeepScaleR or an
improved Math-Verify (its table 4 and appendix D). Here is one careful
verifier instead, which accepts what either should: two lenient ones add up
their false positives, and those are what a policy finds.
"""

from collections.abc import Mapping
import dataclasses
from fractions import Fraction
import functools
import itertools
import math
import multiprocessing
import re
import sys
import threading
from typing import Any, Protocol

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import answers, latex, notation, pool
from progrpo_jax.rewards.notation import Answer, squeeze
from progrpo_jax.rewards.score import Score

DEADLINE_S = 5.0  # of Math-Verify, where no pool of a caller's holds one
MEMORY_MB = 512

_MAX_WAYS = 16  # in which one answer may be written in a completion
_MAX_SYMBOLIC = 40  # comparisons by Math-Verify for one completion
_MAX_SYMBOLIC_NODES = 60
_LONG = 10**59  # a number that Math-Verify is not asked about
_MAX_EXPONENT = 5000
_MAX_TERMS = 1000
_CLOSE = 1e-9  # relative; a double is good to 1e-16
_POINTS = (1, 2, 3)
_MAX_SIGNS = 5  # letters for which positive and negative values are tried

_NOTHING = frozenset((
    "", "nan", "none", "null", "n/a", "na", "inf", "-inf", "+inf",
    "infinity", "-infinity", "?", "-",
))


def score(
    completion: str,
    reference: object,
    *,
    forms: tuple[str, ...] = answers.DEFAULT,
    tolerance: float = 0.0,
    evaluated: bool = False,
) -> Score:
  """Scores a completion by its final answer; no text makes it raise.

  Args:
    completion: text of the model, without its thought.
    reference: the right answer: a number or text, LaTeX or not.
    forms: in which forms an answer counts, see rewards/answers.py. Of several
      marked answers the last one counts; those that only commas, "and", "or"
      or names separate are the parts of one, a list. If that is not the
      reference, the status is "several_answers".
    tolerance: the relative error that a number may have; 0 is exact.
    evaluated: whether a plain number must be answered by one. Otherwise
      6*7 is 42, which also rewards whoever copies the question.

  A reference that check_reference refuses has the status "refused".
  """
  forms = answers.check_forms(forms)
  if not 0 <= tolerance < 1:
    raise InputError(f"tolerance must lie in [0, 1), not {tolerance}")
  try:
    gold = check_reference(reference)
  except InputError:
    return Score(0.0, False, "refused")
  marked = answers.final(completion, forms)
  if not marked:
    return Score(0.0, False, "no_answer")
  several = _differ(marked)
  if several and len(marked) > _MAX_WAYS:
    return Score(0.0, False, "several_answers")
  answer = "; ".join(marked) if several else marked[-1]
  status, correct = _decide(gold, answer, tolerance, evaluated)
  if several and status == "ok" and not correct:
    status = "several_answers"
  return Score(float(correct), correct, status)


def check_reference(reference: object) -> str:
  """Returns a reference as text, or raises InputError: for loaders.

  It must be a number or a text that holds one answer, which may stand in a
  box or behind ####, or be the list of several boxes as in `score`; boxes
  with other words between them are refused.
  """
  if isinstance(reference, bool) or not isinstance(
      reference, (str, int, float)):
    kind = type(reference).__name__
    raise InputError(f"the reference is a {kind}, not a number or a text")
  if isinstance(reference, float) and not math.isfinite(reference):
    raise InputError(f"the reference is {reference}")
  if isinstance(reference, int) and abs(reference) >= 10**1000:
    raise InputError("the reference has more than 1000 digits")
  marked = answers.find(str(reference), ("boxed", "hash"))
  gold = marked[-1] if marked else str(reference)
  if _differ(marked):
    parts = answers.final(str(reference), ("boxed", "hash"))
    if len(parts) < len(marked):
      raise InputError(f"the reference has several answers: {marked[:3]}")
    gold = "; ".join(parts)
  shown = repr(gold[:80])
  if len(gold) > latex.MAX_CHARS:
    raise InputError(
        f"the reference has {len(gold)} characters; at most"
        f" {latex.MAX_CHARS} can be compared: {shown}")
  if gold.strip().casefold() in _NOTHING or (
      not squeeze(latex.clean(gold)).strip("{}()[]")):
    raise InputError(f"the reference {shown} holds no answer")
  if _unbalanced(gold):
    raise InputError(f"the braces of the reference {shown} do not match")
  tree = latex.parse(latex.clean(gold))
  if tree and not latex.symbols(tree) and _is_undefined(tree):
    raise InputError(f"the reference {shown} has no value")
  return gold


def _differ(marked: list[str]) -> bool:
  """Says whether marked answers are different ones."""
  different = list(dict.fromkeys(marked))
  if len(different) > _MAX_WAYS:
    return True
  return len(set(map(normal_form, different))) > 1


def _unbalanced(text: str) -> bool:
  """Says whether the braces of LaTeX do not match."""
  depth = 0
  for match in re.finditer(r"\\.|[{}]", text, re.S):
    depth += (match[0] == "{") - (match[0] == "}")
    if depth < 0:
      return True
  return depth != 0


def _is_undefined(tree: latex.Tree) -> bool:
  """Says whether a constant has a division by zero in it."""
  parts = [a for a in tree[1:] if isinstance(a, tuple)]
  if tree[0] == "div" and latex.evaluate(tree[2], 0) == 0:
    return True
  return any(map(_is_undefined, parts))


def canonical(completion: str, row: Any) -> str:
  """Returns the form under which equal answers are equal: for tasks."""
  forms = answers.check_forms(row.meta.get("forms", answers.DEFAULT))
  marked = answers.final(completion, forms)
  if not marked:
    return completion.strip()
  return normal_form("; ".join(marked) if _differ(marked) else marked[-1])


# ----- Where Math-Verify runs -----


class Undecided(Exception):
  """Only Math-Verify can tell."""


class Symbolic(Protocol):
  """Compares two trees, the right one first, given their symbols' names."""

  def __call__(
      self, gold: latex.Tree, answer: latex.Tree, names: Mapping[str, str],
      positive: bool,
  ) -> bool:
    """Says whether they are equal."""


def _in_worker() -> bool:
  """Says whether this process is a worker of a pool."""
  spec = getattr(sys.modules["__main__"], "__spec__", None)
  return spec is not None and spec.name == pool.__name__


if _in_worker():
  # Here, so that it is part of the worker's loading, not of an item's time.
  from progrpo_jax.rewards import symbolic as _symbolic

  _symbolic.warm()


def _decide(gold: str, answer: str, *options: Any) -> tuple[str, bool]:
  """Returns the status and whether the answer is right."""
  if len(answer) > latex.MAX_CHARS:
    return "ok", False
  if _in_worker():
    return "ok", judge(gold, answer, *options)
  try:
    return "ok", compare(gold, answer, _undecided, *options)
  except Undecided:
    pass
  call = pool.Call(f"{__name__}:judge", [gold, answer, *options], {})
  outcome = _own_pool().run([call])[0]
  return outcome.status, outcome.status == "ok" and bool(outcome.value)


def judge(gold: str, answer: str, *options: Any) -> bool:
  """Compares two answers with Math-Verify's help: for worker processes."""
  from progrpo_jax.rewards import symbolic

  left = [_MAX_SYMBOLIC]

  def ask(*trees: Any) -> bool:
    left[0] -= 1
    return left[0] >= 0 and symbolic.equal(*trees)

  return compare(gold, answer, ask, *options)


def _undecided(*_: Any) -> bool:
  """Stands for Math-Verify where it must not run."""
  raise Undecided


_LOCK = threading.Lock()


def _own_pool() -> pool.Pool:
  """Returns this process's pool of one worker."""
  with _LOCK:
    return _pool_of(multiprocessing.current_process().pid)


@functools.cache
def _pool_of(pid: int) -> pool.Pool:
  """Starts a pool; one that a forked process inherited is not its own.

  That one must stay referenced: its end would kill the parent's worker.
  """
  del pid
  return pool.Pool(workers=1, deadline_s=DEADLINE_S, memory_mb=MEMORY_MB)


# ----- Comparing -----


@dataclasses.dataclass(frozen=True)
class How:
  """How two expressions are compared; see `score` for the options."""

  symbolic: Symbolic
  tolerance: float
  evaluated: bool


def compare(
    gold: str,
    answer: str,
    symbolic: Symbolic,
    tolerance: float = 0.0,
    evaluated: bool = False,
) -> bool:
  """Says whether an answer is the right one; gold is what is right."""
  how = How(symbolic, tolerance, evaluated)
  same = functools.partial(_same, how=how)
  right, given = notation.read(gold), notation.read(answer)
  if _is_trivial(given):
    return False
  if same(right, given):
    return True
  other = notation.read(answer, thousands=False)
  return other != given and right.kind == "list" and same(right, other)


def _is_trivial(given: Answer) -> bool:
  """Says whether an answer is x = x, which says nothing."""
  if given.kind == "named":
    return squeeze(given.extra) == squeeze(given.parts[0].text)
  if given.kind == "chain":
    first, *others = [squeeze(p.text) for p in given.parts]
    return any(first == o for o in others)
  return False


def _same(gold: Answer, given: Answer, how: How) -> bool:
  """Compares two answers by their kinds."""
  if given.kind == "named" and gold.kind not in ("named", "chain"):
    return not _is_trivial(given) and _same(gold, given.parts[0], how)
  if given.kind == "chain" and gold.kind != "chain":
    if gold.kind == "named":
      return _same_named(gold, given, how)
    return not _is_trivial(given) and all(
        _same(gold, part, how) for part in given.parts)
  if gold.kind == "named":
    return _same_named(gold, given, how)
  if gold.kind == "chain":
    return _same_chain(gold, given, how)
  if "ratio" in (gold.kind, given.kind):
    return _same_ratio(gold, given, how)
  if gold.kind == "relation" or given.kind == "relation":
    return _same_relation(gold, given, how)
  if gold.kind == "words" or given.kind == "words":
    return _same_words(gold.text, given.text)
  if gold.kind == given.kind == "atom":
    return _same_atom(gold.text, given.text, how)
  if gold.kind == "atom" and given.kind == "list":
    decimal = re.fullmatch(r"-?\d+,\d+", given.text)
    return bool(decimal) and _same_atom(
        gold.text, given.text.replace(",", "."), how)
  return _same_parts(gold, given, how)


def _same_words(gold: str, given: str) -> bool:
  """Compares texts: case and the blanks do not matter."""
  gold, given = (
      re.sub(r"[\s.]", "", notation.unwrap(t)).strip("()")
      for t in (gold, given))
  return gold.casefold() == given.casefold() if len(gold) > 1 else (
      gold == given)


def _same_ratio(gold: Answer, given: Answer, how: How) -> bool:
  """Compares ratios; a fraction may answer to a ratio, not the reverse.

  Odds of 1:2 are no probability of 1/2.
  """
  if squeeze(gold.text) == squeeze(given.text):
    return True
  if gold.kind == given.kind and (
      notation.is_time(gold) or gold.extra or given.extra):
    texts = [[p.text.lstrip("0") for p in a.parts] for a in (gold, given)]
    return texts[0] == texts[1] and (
        not gold.extra or not given.extra or gold.extra == given.extra)
  terms = _terms_of_ratio(gold), _terms_of_ratio(given)
  if gold.kind != "ratio" or None in terms or (
      len(terms[0]) != len(terms[1])):
    return False
  if any(all(latex.exact(t) == 0 for t in side) for side in terms):
    return False
  return all(
      _same_trees(("mul", a, d), ("mul", b, c), how)
      for (a, c), (b, d) in itertools.combinations(zip(*terms), 2))


def _terms_of_ratio(answer: Answer) -> list[latex.Tree] | None:
  """Returns the trees of a ratio's terms, or of a fraction's two."""
  if answer.kind == "ratio":
    return [latex.parse(p.text) for p in answer.parts]
  tree = latex.parse(answer.text) if answer.kind == "atom" else None
  return list(tree[1:]) if tree and tree[0] == "div" else None


_UNORDERED = ("list", "set", "union")


def _same_parts(gold: Answer, given: Answer, how: How) -> bool:
  """Compares what has parts: sets, tuples, unions, matrices."""
  if gold.kind == "tuple" and given.kind == "tuple":
    if len(gold.parts) == 2 and gold.extra != given.extra:
      return False
  elif gold.kind != given.kind and {gold.kind, given.kind} not in (
      {"list", "set"}, {"list", "tuple"}):
    single = [a for a in (gold, given) if a.kind == "set"]
    if {gold.kind, given.kind} == {"atom", "set"} and (
        len(single[0].parts) == 1):
      one, other = (a.parts[0] if a.kind == "set" else a
                    for a in (gold, given))
      return _same(one, other, how)
    return False
  dots = [any(p.text == _DOTS for p in a.parts) for a in (gold, given)]
  if any(dots):
    gold, given = _unfold(gold, given)
  elif gold.kind in _UNORDERED and given.kind in _UNORDERED:
    if not _in_order(gold, given):
      return _same_unordered(gold, given, how)
  return len(gold.parts) == len(given.parts) and all(
      _same(g, p, how) for g, p in zip(gold.parts, given.parts))


_DOTS = r"\ldots"


def _unfold(gold: Answer, given: Answer) -> tuple[Answer, Answer]:
  r"""Writes out what dots stand for where that makes two answers alike.

  1,2,\ldots,n and 1,2,3,\ldots,n differ by a term that the first leaves to
  the dots. Only terms with one difference are written out.
  """
  sides = [_around_dots(gold), _around_dots(given)]
  longest = [max(len(s[i]) for s in sides) for i in (0, 1)]
  whole = [len(a.parts) for a, s in zip((gold, given), sides) if not s[2]]
  return tuple(
      _written_out(answer, side, longest[0], whole)
      for answer, side in zip((gold, given), sides))


def _around_dots(answer: Answer) -> tuple[list[str], list[str], bool]:
  """Returns the terms before and behind dots, and whether there are any."""
  texts = [p.text for p in answer.parts]
  if texts.count(_DOTS) != 1:
    return [], [], False
  at = texts.index(_DOTS)
  return texts[:at], texts[at + 1 :], True


def _written_out(
    answer: Answer, side: tuple[list[str], list[str], bool], longest: int,
    whole: list[int],
) -> Answer:
  """Returns an answer with as many terms before its dots as are asked for.

  Args:
    answer: an answer with dots or without.
    side: what _around_dots says of it.
    longest: how many terms the other has before its dots.
    whole: how many terms the other has, if it has no dots.
  """
  before, behind, dots = side
  values = [latex.parse(t) and latex.exact(latex.parse(t)) for t in before]
  steps = {b - a for a, b in zip(values, values[1:])
           } if None not in values else set()
  if not dots or len(before) < 2 or len(steps) != 1:
    return answer
  wanted = whole[0] - len(behind) if whole else longest
  step = steps.pop()
  for _ in range(min(wanted, _MAX_WAYS * 4) - len(values)):
    values.append(values[-1] + step)
  texts = before + [str(v) for v in values[len(before) :]]
  if whole:
    last = latex.parse(behind[0]) if len(behind) == 1 else None
    if not last or latex.exact(last) != values[-1] + step:
      return answer
  else:
    texts.append(_DOTS)
  parts = tuple(Answer("atom", t) for t in [*texts, *behind])
  return dataclasses.replace(answer, parts=parts)


def _in_order(gold: Answer, given: Answer) -> bool:
  """Says whether values without names answer to several names."""
  names = [
      {squeeze(p.extra) for p in a.parts if p.kind == "named"}
      for a in (gold, given)]
  return min(map(len, names)) == 0 and max(map(len, names)) > 1


def _same_unordered(gold: Answer, given: Answer, how: How) -> bool:
  """Finds a partner for each part; in sets, repetitions do not count."""
  repeats = "set" in (gold.kind, given.kind)
  if not repeats and len(gold.parts) != len(given.parts):
    return False
  if not gold.parts or not given.parts:
    return not gold.parts and not given.parts
  free = list(given.parts)
  used = []
  for part in gold.parts:
    partner = _partner(part, free, how)
    if partner is None:
      if not repeats or _partner(part, used, how) is None:
        return False
    else:
      used.append(partner)
      free.remove(partner)
  return all(
      any(_same(g, p, how) for g in gold.parts) for p in free)


def _partner(part: Answer, free: list[Answer], how: How) -> Answer | None:
  """Returns a part that equals another, the plainest comparison first."""
  for other in free:
    if squeeze(other.text) == squeeze(part.text):
      return other
  return next((o for o in free if _same(part, o, how)), None)


def _same_named(gold: Answer, given: Answer, how: How) -> bool:
  """Compares with "name = value"."""
  kind = notation.label(gold.extra)
  sums = kind == "compound" and re.search(r"[-+]", gold.extra)
  if given.kind == "named":
    if _is_trivial(given):
      return False
    names = squeeze(gold.extra), squeeze(given.extra)
    same = names[0] == names[1] or _same_atom(gold.extra, given.extra, how)
    if same or all(notation.is_words(a.extra) for a in (gold, given)):
      return _same(gold.parts[0], given.parts[0], how)
    return _same_chain(gold, given, how)
  if given.kind == "chain":
    return _same_chain(gold, given, how)
  return not sums and _same(gold.parts[0], given, how)


def _sides(answer: Answer) -> tuple[str, str] | None:
  """Returns the sides of an equation of two sides."""
  sides, _ = notation.split(answer.text, notation.SIGN)
  return (sides[0], sides[1]) if len(sides) == 2 else None


def _same_chain(gold: Answer, given: Answer, how: How) -> bool:
  """Compares two equations: one must be a multiple of the other."""
  if squeeze(gold.text) == squeeze(given.text):
    return not _is_trivial(given)
  one, other = _sides(gold), _sides(given)
  if given.kind not in ("chain", "named") or not one or not other:
    return False
  return _same_difference(one, other, "=", how)


def _same_difference(
    one: tuple[str, str], other: tuple[str, str], sign: str, how: How
) -> bool:
  """Says whether left - right of both are the same up to a factor."""
  trees = [_difference(*one), _difference(*other)]
  if None in trees or not latex.symbols(trees[0]):
    return False
  ratios = []
  for point in _POINTS:
    a, b = (latex.evaluate(t, point) for t in trees)
    if a is None or b is None or abs(b) < 1e-9 or abs(a) < 1e-9:
      return False
    ratios.append(complex(a) / complex(b))
  if max(abs(r - ratios[0]) for r in ratios) > _CLOSE * abs(ratios[0]):
    return False
  factor = Fraction(ratios[0].real).limit_denominator(10_000)
  if not factor or (sign not in ("=", r"\ne") and factor < 0):
    return False
  scaled = ("mul", ("number", factor), trees[1])
  return _ask(trees[0], scaled, how.symbolic)


def _difference(left: str, right: str) -> latex.Tree | None:
  """Returns the tree of left - right."""
  a, b = latex.parse(left), latex.parse(right)
  return ("add", a, ("neg", b)) if a and b else None


def _same_relation(gold: Answer, given: Answer, how: How) -> bool:
  """Compares inequalities with each other and with intervals."""
  if squeeze(gold.text) == squeeze(given.text):
    return True
  ranges = [
      notation.excluded(a) or notation.interval(a) for a in (gold, given)]
  if all(ranges):
    names = [
        {squeeze(p.text) for p in a.parts if notation.label(p.text)}
        for a in (gold, given) if a.kind == "relation"]
    if len(names) < 2 or names[0] & names[1]:
      return _same(ranges[0], ranges[1], how)
  if not gold.kind == given.kind == "relation":
    return False
  if not len(gold.parts) == len(given.parts) == 2:
    return len(gold.parts) == len(given.parts) and gold.extra == (
        given.extra) and all(
            _same(g, p, how) for g, p in zip(gold.parts, given.parts))
  (left, right), sign = (p.text for p in given.parts), given.extra[0]
  one = (gold.parts[0].text, gold.parts[1].text)
  if sign == gold.extra[0] and _same_difference(
      one, (left, right), sign, how):
    return True
  return notation.FLIPPED.get(sign) == gold.extra[0] and _same_difference(
      one, (right, left), gold.extra[0], how)


def _same_atom(gold: str, given: str, how: How) -> bool:
  """Compares two expressions without structure."""
  if squeeze(gold) == squeeze(given):
    return squeeze(gold).casefold() not in _NOTHING
  if _natural(gold, given):
    gold = _LOG.sub(r"\\ln ", gold)
  (gold, behind), (given, other) = map(notation.split_words, (gold, given))
  if notation.words_differ(behind, other):
    return False
  if squeeze(gold) == squeeze(given):
    return True
  percents = gold.endswith("%"), given.endswith("%")
  trees = latex.parse(gold), latex.parse(given)
  if not all(trees):
    return _same_based(gold, given)
  if percents[0] != percents[1]:
    plain = [
        latex.parse(t.removesuffix("%").strip()) for t in (gold, given)]
    if _is_no_share(plain[0], percents[0]) and _same_trees(*plain, how):
      return True
  return _same_trees(*trees, how)


def _is_no_share(tree: latex.Tree | None, percent: bool) -> bool:
  """Says whether the sign of a percentage may be left out, or be added.

  28 answers to 28%, but 0.5 and 0.5% may both be meant as they stand. What
  letters stand for is only known to be a percentage if the reference says so.
  """
  if tree is None or latex.symbols(tree):
    return percent
  value = latex.evaluate(tree, 0)
  return value is not None and abs(value) > 1


_LOG = re.compile(r"\\log(?![A-Za-z])(?!\s*_)\s*")
_LN = re.compile(r"\\ln(?![A-Za-z])")


def _natural(gold: str, given: str) -> bool:
  r"""Says whether \log of the reference may be the natural logarithm.

  Many books write it so. The answer has to say \ln, and the reference must
  not write both; a \log of the answer is always the decimal one.
  """
  return bool(
      _LOG.search(gold) and not _LN.search(gold) and _LN.search(given)
      and not _LOG.search(given))


def _same_based(gold: str, given: str) -> bool:
  """Compares digits of another base: its name may be left out."""
  digits, _, base = squeeze(gold).partition("_")
  return bool(base) and digits.isalnum() and squeeze(given) == digits


def _same_trees(
    gold: latex.Tree | None, given: latex.Tree | None, how: How
) -> bool:
  """Compares two trees: exactly, then at points, then by Math-Verify."""
  if gold is None or given is None:
    return False
  if gold == given:
    return True
  if how.evaluated and _is_numeral(gold) and not _is_numeral(given):
    return False
  exact = latex.exact(gold), latex.exact(given)
  if None not in exact:
    allowed = Fraction(how.tolerance) * abs(exact[0])
    return abs(exact[0] - exact[1]) <= allowed
  constant = not latex.symbols(gold) and not latex.symbols(given)
  for point in _POINTS:
    a, b = latex.evaluate(gold, point), latex.evaluate(given, point)
    if a is None or b is None:
      # A value too large for a float can still be equal: 2^{2000} sqrt 2.
      return a is b and _ask(gold, given, how.symbolic)
    a, b = complex(a), complex(b)
    if constant and how.tolerance and abs(a - b) <= how.tolerance * abs(a):
      return True
    if abs(a - b) > _CLOSE * max(abs(a), abs(b)):
      return False
  return _ask(gold, given, how.symbolic)


def _is_numeral(tree: latex.Tree) -> bool:
  """Says whether a tree is a number as written, not a calculation."""
  kind, *parts = tree
  if kind == "neg":
    return _is_numeral(parts[0])
  if kind == "div":
    return all(_is_numeral(p) for p in parts)
  if kind == "mul":  # 1.6 \times 10^{-19}
    ten = parts[1][:2] == ("pow", ("number", Fraction(10)))
    return ten and parts[0][0] == "number" and _is_numeral(parts[1][2])
  return kind == "number"


def _terms(tree: latex.Tree) -> int:
  """Returns how many terms a tree has when it is multiplied out.

  Too many, or an exponent that is no small number, are _MAX_TERMS.
  """
  parts = [_terms(a) for a in tree[1:] if isinstance(a, tuple)]
  if not parts or max(parts) >= _MAX_TERMS:
    return max([1, *parts])
  if tree[0] in ("pow", "factorial"):
    size = latex.evaluate(tree[-1], 0)
    if size is None or abs(size) > _MAX_EXPONENT:
      return _MAX_TERMS
    if tree[0] == "pow" and isinstance(size, Fraction):
      n, k = math.ceil(abs(size)), parts[0]
      return min(math.comb(n + k - 1, k - 1), _MAX_TERMS)
  if tree[0] == "add":
    return min(sum(parts), _MAX_TERMS)
  if tree[0] in ("mul", "div"):
    return min(math.prod(parts), _MAX_TERMS)
  return max(parts)


def _ask(gold: latex.Tree, given: latex.Tree, symbolic: Symbolic) -> bool:
  """Asks Math-Verify about trees that are small enough."""
  if max(map(latex.size, (gold, given))) > _MAX_SYMBOLIC_NODES:
    return False
  if max(map(_terms, (gold, given))) >= _MAX_TERMS:
    return False
  if "symbol" in (gold[0], given[0]):
    # Math-Verify compares a lone symbol by its name, not by its value.
    one = ("number", Fraction(1))
    gold, given = ("add", gold, one), ("add", given, one)
  names = sorted(latex.symbols(gold) | latex.symbols(given))
  if len(names) > len(_LETTERS):
    return False
  if any(_has_long_number(tree) for tree in (gold, given)):
    return False
  positive = _positive(gold, given, names)
  return symbolic(gold, given, dict(zip(names, _LETTERS)), positive)


def _positive(gold: latex.Tree, given: latex.Tree, names: list[str]) -> bool:
  r"""Says whether letters may be taken for positive numbers.

  A letter that leaves one side without a real value when it alone is negative,
  under a root or a logarithm, stands for a positive number: \sqrt{1/k} is
  1/\sqrt{k}. The others stay real numbers: where both sides have a value for
  negative ones they must agree, so x is not \sqrt{x^2}. An absolute value on
  one side only asks for real letters, so \ln x is not \ln|x|.
  """
  kinds = latex.operators(gold), latex.operators(given)
  if not names or len(names) > _MAX_SIGNS or "i" in kinds[0] | kinds[1]:
    return False
  if ("abs" in kinds[0]) != ("abs" in kinds[1]):
    return False
  free = [
      n for n in names if None not in _real_values(gold, given, 1, (n,))]
  for signs in itertools.product((False, True), repeat=len(free)):
    negative = tuple(itertools.compress(free, signs))
    for point in _POINTS:
      a, b = _real_values(gold, given, point, negative)
      if None not in (a, b) and abs(a - b) > _CLOSE * max(abs(a), abs(b)):
        return False
  return len(free) < len(names)


def _real_values(
    gold: latex.Tree, given: latex.Tree, point: int, negative: tuple[str, ...]
) -> tuple[float | None, float | None]:
  """Returns the real values of two trees, some letters being negative."""
  one, other = (
      latex.real_value(t, point, frozenset(negative)) for t in (gold, given))
  return one, other


def _has_long_number(tree: latex.Tree) -> bool:
  """Says whether a tree has a number of too many digits for Math-Verify."""
  if tree[0] == "number":
    return max(map(abs, tree[1].as_integer_ratio())) >= _LONG
  return any(_has_long_number(a) for a in tree[1:] if isinstance(a, tuple))


# Letters that Math-Verify reads as nothing else.
_LETTERS = "xyzuvwpqrkab"


# ----- The normal form -----


def normal_form(text: str) -> str:
  """Writes an answer so that equal ones mostly come out equal.

  Fractions, decimals, separators, units and the order of sets are levelled;
  what only Math-Verify could see, such as two ways to write a root, is not.
  """
  if len(text) > latex.MAX_CHARS:
    return text.strip()
  return _form(notation.read(text))


def _form(answer: Answer) -> str:
  """Writes the normal form of an answer."""
  if answer.kind == "named":
    return _form(answer.parts[0])
  if answer.kind == "words":
    return squeeze(answer.text).casefold()
  if answer.kind == "atom":
    return _form_atom(answer.text)
  parts = [_form(p) for p in answer.parts]
  if answer.kind in _UNORDERED:
    parts = sorted(set(parts) if answer.kind != "list" else parts)
    return f"{{{','.join(parts)}}}"
  if answer.kind == "tuple" and answer.extra:
    return f"{answer.extra[0]}{','.join(parts)}{answer.extra[1]}"
  if answer.kind == "relation":
    return squeeze(answer.text)
  if answer.kind == "ratio" and not notation.is_time(answer):
    values = [latex.exact(latex.parse(p.text)) for p in answer.parts]
    if None not in values and values[0]:
      parts = [_written(v / values[0]) for v in values]
  return f"{answer.kind}({';'.join(parts)})"


def _form_atom(text: str) -> str:
  """Writes a number as a fraction, another expression by its tree."""
  text, _ = notation.split_unit(text)
  tree = latex.parse(text)
  if tree is None:
    return squeeze(text)
  percent = "%" if text.endswith("%") else ""
  if percent:
    tree = latex.parse(text.rstrip("% ")) or tree
  value = latex.exact(tree)
  if value is None:
    names = {s: s for s in latex.symbols(tree)}
    return latex.write(tree, names) + percent
  return _written(value) + percent


def _written(value: Fraction) -> str:
  """Writes a fraction of any length."""
  over, under = value.as_integer_ratio()
  # str of a long integer is refused; hex is not.
  shown = str(over) if abs(over) < 10**1000 else hex(over)
  bottom = str(under) if under < 10**1000 else hex(under)
  return shown if under == 1 else f"{shown}/{bottom}"
