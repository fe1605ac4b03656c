r"""Verifier of mathematical answers.

Takes one final answer from a completion (see rewards/answers.py) and compares
it with the reference in three steps:

1. Structure (rewards/equality.py): a tuple with a tuple, a set with a set in
   any order, an interval with its brackets.
2. Numbers, exactly, as fractions: 0.333 is not 1/3.
3. Expressions with roots, constants and letters whose values agree at some
   points, by Math-Verify. It runs only in a worker process of rewards/pool.py,
   which has a deadline and a memory limit.

ProRL accepts an answer if either of two verifiers does, DeepScaleR's or an
improved Math-Verify (its table 4 and appendix D). This is one strict verifier
instead that accepts what either of them should: two lenient verifiers add up
their false positives, which a policy then learns to produce.
"""

from fractions import Fraction
import functools
import math
import multiprocessing
import re
import threading
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import (
  answers,
  equality,
  evaluation,
  expressions,
  latex,
  notation,
  pool,
  serving,
)
from progrpo_jax.rewards.notation import Answer, squeeze
from progrpo_jax.rewards.score import Score

DEADLINE_S = 5.0  # of Math-Verify, outside of a pool's worker
MEMORY_MB = 512

_MAX_ANSWERS = 16  # differently written answers of one completion
_MAX_SYMBOLIC = 40  # comparisons by Math-Verify for one completion


def score(
  completion: str,
  reference: object,
  *,
  forms: tuple[str, ...] = answers.DEFAULT,
  tolerance: float = 0.0,
  evaluated: bool = False,
) -> Score:
  """Scores a completion by its final answer.

  Args:
    completion: text of the model without its thinking section.
    reference: correct answer, a number or a text, LaTeX or not.
    forms: forms in which an answer counts, see rewards/answers.py. Of several
      marked answers, the last counts. Answers separated only by commas, "and",
      "or" or names are parts of one list.
    tolerance: relative error that a number may have, in [0, 1); 0 is exact.
    evaluated: whether a reference that is a plain number requires a plain
      number as the answer. Otherwise 6*7 equals 42, which rewards copying the
      question.

  Returns:
    Reward 1 if the answer is correct, else 0. The status is "no_answer" if no
    answer is marked, "several_answers" if several different ones are and they
    do not form the reference, and "refused" if the reference is unusable.

  Raises:
    InputError: forms or tolerance are wrong. No completion makes it raise.
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
  # Different answers may still be the parts of one list.
  several = _differ(marked)
  if several and len(marked) > _MAX_ANSWERS:
    return Score(0.0, False, "several_answers")
  answer = "; ".join(marked) if several else marked[-1]
  status, correct = _decide(gold, answer, tolerance, evaluated)
  if several and status == "ok" and not correct:
    status = "several_answers"
  return Score(float(correct), correct, status)


def check_reference(reference: object) -> str:
  """Returns a reference as text; loaders call it to check their data.

  Args:
    reference: number or text with one answer, which may be in a box or after
      ####, or a list of several boxes as in `score`.

  Raises:
    InputError: the reference holds no answer, several, one without a value
      (1/0), or one that is too long.
  """
  if isinstance(reference, bool) or not isinstance(
    reference, (str, int, float)
  ):
    kind = type(reference).__name__
    raise InputError(f"the reference is a {kind}, not a number or a text")
  if isinstance(reference, float) and not math.isfinite(reference):
    raise InputError(f"the reference is {reference}")
  if isinstance(reference, int) and abs(reference) >= 10**1000:
    raise InputError("the reference has more than 1000 digits")
  # The answer: the last mark, all marks of a list, or the whole text.
  marked = answers.find(str(reference), ("boxed", "hash"))
  gold = marked[-1] if marked else str(reference)
  if _differ(marked):
    parts = answers.final(str(reference), ("boxed", "hash"))
    if len(parts) < len(marked):
      raise InputError(f"the reference has several answers: {marked[:3]}")
    gold = "; ".join(parts)
  # What the comparison could not use is refused here, with the reason.
  shown = repr(gold[:80])
  if len(gold) > expressions.MAX_CHARS:
    raise InputError(
      f"the reference has {len(gold)} characters; at most"
      f" {expressions.MAX_CHARS} can be compared: {shown}"
    )
  if gold.strip().casefold() in equality.NOTHING or (
    not squeeze(latex.clean(gold)).strip("{}()[]")
  ):
    raise InputError(f"the reference {shown} holds no answer")
  if _unbalanced(gold):
    raise InputError(f"the braces of the reference {shown} do not match")
  tree = expressions.parse(latex.clean(gold))
  if tree and not expressions.symbols(tree) and _is_undefined(tree):
    raise InputError(f"the reference {shown} has no value")
  return gold


def _differ(marked: list[str]) -> bool:
  """Returns whether marked answers differ in their normal forms."""
  distinct = list(dict.fromkeys(marked))
  if len(distinct) > _MAX_ANSWERS:
    return True
  return len(set(map(normal_form, distinct))) > 1


def _unbalanced(text: str) -> bool:
  """Returns whether the braces of LaTeX do not match."""
  depth = 0
  # The first alternative skips escaped braces, which are characters.
  for match in re.finditer(r"\\.|[{}]", text, re.S):
    depth += (match[0] == "{") - (match[0] == "}")
    if depth < 0:
      return True
  return depth != 0


def _is_undefined(tree: expressions.Tree) -> bool:
  """Returns whether a constant contains a division by zero."""
  parts = [a for a in tree[1:] if isinstance(a, tuple)]
  if tree[0] == "div" and evaluation.evaluate(tree[2], 0) == 0:
    return True
  return any(map(_is_undefined, parts))


def canonical(completion: str, row: Any) -> str:
  """Returns the normal form of a completion's answer, for `tasks.base`."""
  forms = answers.check_forms(row.meta.get("forms", answers.DEFAULT))
  marked = answers.final(completion, forms)
  if not marked:
    return completion.strip()
  return normal_form("; ".join(marked) if _differ(marked) else marked[-1])


# ----- Where Math-Verify runs -----


class _Undecided(Exception):
  """Only Math-Verify can decide a comparison."""


if serving.in_worker():
  # Imported here, so that it counts as loading and not as an item's run time.
  from progrpo_jax.rewards import symbolic as _symbolic

  _symbolic.warm()


def _decide(gold: str, answer: str, *options: Any) -> tuple[str, bool]:
  """Returns (status, whether the answer is correct).

  Args:
    gold: correct answer.
    answer: given answer.
    *options: tolerance and evaluated, see `score`.
  """
  if len(answer) > expressions.MAX_CHARS:
    return "ok", False
  if serving.in_worker():
    return "ok", judge(gold, answer, *options)
  # Most answers are decided without Math-Verify, in this process.
  try:
    return "ok", equality.compare(gold, answer, _undecided, *options)
  except _Undecided:
    pass
  call = pool.Call(f"{__name__}:judge", [gold, answer, *options], {})
  outcome = _own_pool().run([call])[0]
  return outcome.status, outcome.status == "ok" and bool(outcome.value)


def judge(gold: str, answer: str, *options: Any) -> bool:
  """Compares two answers with Math-Verify; runs in worker processes only."""
  from progrpo_jax.rewards import symbolic

  remaining = [_MAX_SYMBOLIC]

  def ask(*trees: Any) -> bool:
    remaining[0] -= 1
    return remaining[0] >= 0 and symbolic.equal(*trees)

  return equality.compare(gold, answer, ask, *options)


def _undecided(*_: Any) -> bool:
  """Takes the place of Math-Verify where it must not run; raises."""
  raise _Undecided


_LOCK = threading.Lock()


def _own_pool() -> pool.Pool:
  """Returns this process's pool of one worker."""
  with _LOCK:
    return _pool_of(multiprocessing.current_process().pid)


@functools.cache
def _pool_of(pid: int) -> pool.Pool:
  """Starts the pool of a process.

  A forked process must not use the pool that it inherited. The cache keeps
  that one referenced, since its finalizer would kill the parent's worker.
  """
  del pid
  return pool.Pool(workers=1, deadline_s=DEADLINE_S, memory_mb=MEMORY_MB)


# ----- The normal form -----


def normal_form(text: str) -> str:
  """Returns a normal form; equal answers mostly have the same one.

  It does not depend on the spelling of fractions, decimals, separators and
  units, or on the order of sets. Equalities that only Math-Verify sees, such
  as two ways of writing a root, are missed.
  """
  if len(text) > expressions.MAX_CHARS:
    return text.strip()
  return _form(notation.read(text))


def _form(answer: Answer) -> str:
  """Returns the normal form of a parsed answer."""
  if answer.kind == "named":
    return _form(answer.parts[0])
  if answer.kind == "words":
    return squeeze(answer.text).casefold()
  if answer.kind == "atom":
    return _form_atom(answer.text)
  parts = [_form(p) for p in answer.parts]
  if answer.kind in equality.UNORDERED:
    parts = sorted(set(parts) if answer.kind != "list" else parts)
    return f"{{{','.join(parts)}}}"
  if answer.kind == "tuple" and answer.extra:
    return f"{answer.extra[0]}{','.join(parts)}{answer.extra[1]}"
  if answer.kind == "relation":
    return squeeze(answer.text)
  if answer.kind == "ratio" and not notation.is_time(answer):
    # Ratios are scaled to a first term of 1.
    values = [evaluation.exact(expressions.parse(p.text)) for p in answer.parts]
    if None not in values and values[0]:
      parts = [_fraction(v / values[0]) for v in values]
  return f"{answer.kind}({';'.join(parts)})"


def _form_atom(text: str) -> str:
  """Returns a number as a fraction, another expression written by its tree."""
  text, _ = notation.split_words(text)
  tree = expressions.parse(text)
  if tree is None:
    return squeeze(text)
  percent = "%" if text.endswith("%") else ""
  if percent:
    tree = expressions.parse(text.rstrip("% ")) or tree
  value = evaluation.exact(tree)
  if value is None:
    names = {s: s for s in expressions.symbols(tree)}
    return expressions.write(tree, names) + percent
  return _fraction(value) + percent


def _fraction(value: Fraction) -> str:
  """Returns a fraction of any length as text."""
  # Python refuses str() of a very long integer, but not hex().
  top, bottom = (
    str(n) if abs(n) < 10**1000 else hex(n) for n in value.as_integer_ratio()
  )
  return top if value.denominator == 1 else f"{top}/{bottom}"
