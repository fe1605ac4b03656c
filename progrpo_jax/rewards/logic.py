"""Verifier of procedural tasks, by Reasoning Gym's `score_answer`.

Some of Reasoning Gym's scorers evaluate model text as Python. They are replaced
here, or see only text that a check in plain Python has found harmless:

  countdown     replaced by an exact evaluator with the same verdicts, about
                fifty times faster. One difference: a division by zero is wrong
                here, while sympy continues with infinity and accepts
                5+1/(1/(3-3)) as 5.
  puzzle24      replaced by the same evaluator, which is stricter: the numbers
                must be those of the problem and the value exactly 24. Reasoning
                Gym accepts any four small numbers and truncates 24.9.
  n_queens      sees only boards.
  binary_matrix, spiral_matrix, string_insertion
                see only lists of literals.

Two scorers have bugs that are corrected here: game_of_life_halting's accepts
every text, and ARC's accepts no board once a problem has been stored as JSON.
"""

import ast
from collections.abc import Callable
from fractions import Fraction
import functools
import json
import re
from typing import Any

from progrpo_jax.rewards import gym
from progrpo_jax.rewards.score import Score

# Datasets whose scorers pass model text to eval or to sympy's parser, which
# also evals. Those in GUARDED are checked or replaced here.
EVALUATING = (
  "binary_matrix",
  "countdown",
  "intermediate_integration",
  "n_queens",
  "polynomial_multiplication",
  "puzzle24",
  "simple_integration",
  "spiral_matrix",
  "string_insertion",
)
_LISTS = ("binary_matrix", "spiral_matrix", "string_insertion")
GUARDED = ("countdown", "n_queens", "puzzle24", *_LISTS)

_BOARDS = ("arc_agi", "rearc")

MAX_ANSWER_CHARS = 20_000
_MAX_EXPRESSION_CHARS = 256
_MAX_DIGITS = 9
_MAX_NESTING = 32

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_EXPRESSION = re.compile(r"[0-9+\-*/() ]+")
_LONG_NUMBER = re.compile(rf"[0-9]{{{_MAX_DIGITS + 1}}}")
_NUMBER = re.compile(r"[0-9]+")
_BOARD = re.compile(r"[Q_\s\[\],'\"]{1,2000}")


def score(
  completion: str,
  reference: object,
  *,
  dataset: str,
  metadata: dict[str, Any],
  template: str = "full",
  binary: bool = True,
) -> Score:
  """Scores a completion of a Reasoning Gym problem.

  Args:
    completion: text of the model.
    reference: `answer` of the problem's entry.
    dataset: Reasoning Gym's name of the dataset.
    metadata: `metadata` of the problem's entry.
    template: "full": the answer is in the last <answer> tags. "compact": it is
      the whole completion if there are no tags, and is translated by `expand`.
    binary: whether an answer with partial credit scores 0.

  Returns:
    Reward in [0, 1]; correct if it is 1. The status is "no_answer" without an
    answer; empty tags are one only if the reference is empty and they are
    right, as where all of A::B's tokens cancel. No completion makes it raise.
  """
  answer = extract(completion, whole=template == "compact")
  if not answer:
    is_given = reference == "" and bool(_TAGGED.search(completion))
    if is_given and verdict(dataset, "", reference, metadata) == 1:
      return Score(1.0, True, "ok")
    return Score(0.0, False, "no_answer")
  if template == "compact":
    answer = expand(dataset, answer, metadata)
  reward = verdict(dataset, answer, reference, metadata)
  correct = reward >= 1 - 1e-6
  return Score(float(correct) if binary else reward, correct, "ok")


def extract(completion: str, *, whole: bool) -> str:
  """Returns the last tagged answer, "" if there is none.

  Args:
    completion: text of the model.
    whole: whether a completion without tags is the answer.
  """
  tagged = _TAGGED.findall(completion)
  if tagged:
    return tagged[-1].strip()
  return completion.strip() if whole else ""


def verdict(
  dataset: str, answer: str, reference: object, metadata: dict[str, Any]
) -> float:
  """Returns Reasoning Gym's reward of an answer.

  Args:
    dataset: Reasoning Gym's name of the dataset.
    answer: answer in the format of the dataset's scorer.
    reference: `answer` of the problem's entry.
    metadata: `metadata` of the problem's entry.

  Raises:
    ValueError: the scorer would evaluate the answer as Python.
  """
  if len(answer) > MAX_ANSWER_CHARS:
    return 0.0
  if dataset == "countdown":
    return countdown(answer, metadata["numbers"], metadata["target"])
  if dataset == "n_queens" and not _BOARD.fullmatch(answer):
    return 0.0
  if dataset == "puzzle24":
    return puzzle24(answer, metadata["numbers"])
  if dataset in _LISTS:
    if answer.strip() == str(reference).strip():
      return 1.0
    if not _is_list(answer):
      return 0.0
  if dataset == "game_of_life_halting":
    return float(answer.strip().lower() == str(reference).lower())
  if dataset in _BOARDS:
    # The scorer compares with tuples, which JSON has turned into lists.
    board = tuple(tuple(line) for line in metadata["output"])
    metadata = {**metadata, "output": board}
  if dataset in EVALUATING and dataset not in GUARDED:
    raise ValueError(f"{dataset}'s scorer evaluates model text as Python")
  entry = {"answer": reference, "metadata": metadata}
  scorer = _scorer(dataset)
  try:
    return float(scorer(answer, entry))
  except Exception:  # some scorers raise on malformed answers
    return 0.0


@functools.cache
def _scorer(dataset: str) -> Callable[[str, dict[str, Any]], float]:
  """Returns the score_answer of a dataset; imports Reasoning Gym."""
  return gym.load().get_score_answer_fn(dataset)


def countdown(answer: str, numbers: list[int], target: int) -> float:
  """Returns countdown's reward: 1 correct, 0.05 wrong, 0.01 no expression.

  A correct expression joins each number once by + - * / and has the target as
  its value, within Reasoning Gym's tolerance.

  Args:
    answer: expression.
    numbers: numbers of the problem.
    target: target of the problem.
  """
  result = _evaluate(answer)
  if result is None:
    return 0.01
  value, used = result
  if used != sorted(numbers):
    return 0.05
  close = abs(float(value) - target) <= 1e-6 + 1e-5 * abs(target)
  return 1.0 if close else 0.05


def puzzle24(answer: str, numbers: list[int]) -> float:
  """Returns 1 if an expression uses each number once and is 24, else 0.01."""
  return 1.0 if _evaluate(answer) == (24, sorted(numbers)) else 0.01


def _evaluate(answer: str) -> tuple[Fraction | int, list[int]] | None:
  """Returns (value, sorted numbers) of an expression, None if it has none."""
  tree = parse(answer)
  if tree is None:
    return None
  try:
    value = _value(tree)
  except ZeroDivisionError:
    return None
  return value, sorted(int(n) for n in _NUMBER.findall(answer))


def _is_list(answer: str) -> bool:
  """Returns whether a text is a nested list of literals."""
  try:
    tree = ast.parse(answer.strip(), mode="eval").body
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return False
  plain = (ast.List, ast.Tuple, ast.Constant, ast.Load)
  return isinstance(tree, (ast.List, ast.Tuple)) and all(
    isinstance(node, plain) for node in ast.walk(tree)
  )


def parse(text: str) -> ast.expr | None:
  """Returns the tree of arithmetic on integers; None for any other text.

  The limits on length, digits and nesting and the exclusion of ** and // bound
  the cost of evaluating the tree.
  """
  text = text.strip()
  if len(text) > _MAX_EXPRESSION_CHARS or not _EXPRESSION.fullmatch(text):
    return None
  if "**" in text or "//" in text or _LONG_NUMBER.search(text):
    return None
  if _nesting(text) > _MAX_NESTING:
    return None
  try:
    tree = ast.parse(text, mode="eval").body
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return None
  return tree if all(isinstance(n, _NODES) for n in ast.walk(tree)) else None


_NODES = (
  ast.BinOp,
  ast.UnaryOp,
  ast.Constant,
  ast.Add,
  ast.Sub,
  ast.Mult,
  ast.Div,
  ast.UAdd,
  ast.USub,
)


def _nesting(text: str) -> int:
  """Returns the depth of parentheses and of runs of signs."""
  depth = deepest = 0
  for char in text:
    depth += (char == "(") - (char == ")")
    deepest = max(deepest, depth)
  signs = re.findall(r"[+-]+", text.replace(" ", ""))
  return max([deepest, *map(len, signs)])


def _value(node: ast.expr) -> Fraction | int:
  """Returns the exact value of a parsed tree."""
  if isinstance(node, ast.Constant):
    return node.value
  if isinstance(node, ast.UnaryOp):
    value = _value(node.operand)
    return -value if isinstance(node.op, ast.USub) else value
  left, right = _value(node.left), _value(node.right)
  if isinstance(node.op, ast.Add):
    return left + right
  if isinstance(node.op, ast.Sub):
    return left - right
  if isinstance(node.op, ast.Mult):
    return left * right
  return Fraction(left) / right


def normal_form(text: str) -> str:
  """Returns a normal form that reordered expressions share.

  Sums and products are flattened and sorted; signs and divisions are moved to
  the leaves. 3+4*2, 2*4+3 and 3-(-4*2) have the same form, (3+4)*2 another.
  Text that is not an expression is returned without its spaces.
  """
  tree = parse(text)
  if tree is None:
    return re.sub(r"\s", "", text)
  return _sum(tree)


def _sum(node: ast.expr) -> str:
  """Returns the normal form of a node as a sum of signed products."""
  return "".join(f"{s}{p}" for s, p in sorted(_terms(node, 1))) or "0"


def _terms(node: ast.expr, sign: int) -> list[tuple[str, str]]:
  """Returns the (sign, product) terms of a node.

  Args:
    node: node of a parsed tree.
    sign: 1 or -1, multiplied to all terms.
  """
  if isinstance(node, ast.UnaryOp):
    flip = -1 if isinstance(node.op, ast.USub) else 1
    return _terms(node.operand, sign * flip)
  if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
    flip = -1 if isinstance(node.op, ast.Sub) else 1
    return _terms(node.left, sign) + _terms(node.right, sign * flip)
  flip, factors = _factors(node, "*")
  product = "".join(f"{o}{f}" for o, f in sorted(factors))
  return [("+" if sign * flip > 0 else "-", product)]


def _factors(node: ast.expr, op: str) -> tuple[int, list[tuple[str, str]]]:
  """Returns (sign, (operator, factor) pairs) of a node.

  Args:
    node: node of a parsed tree.
    op: "*", or "/" if the node is divided by.
  """
  if isinstance(node, ast.Constant):
    return 1, [(op, str(node.value))]
  if isinstance(node, ast.UnaryOp):
    sign, factors = _factors(node.operand, op)
    return (-sign if isinstance(node.op, ast.USub) else sign), factors
  if isinstance(node.op, (ast.Mult, ast.Div)):
    inverse = {"*": "/", "/": "*"}[op]
    right_op = inverse if isinstance(node.op, ast.Div) else op
    left_sign, left = _factors(node.left, op)
    right_sign, right = _factors(node.right, right_op)
    return left_sign * right_sign, left + right
  return 1, [(op, f"({_sum(node)})")]


def expand(dataset: str, answer: str, metadata: dict[str, Any]) -> str:
  """Translates a compact answer to the format of the dataset's scorer.

  The translator is the function `expand_<dataset>` of this module. A dataset
  without one has the same format in both templates. An answer that is not in
  compact form is returned unchanged.
  """
  translate = globals().get(f"expand_{dataset}")
  return translate(answer, metadata) if translate else answer


def expand_graph_color(answer: str, metadata: dict[str, Any]) -> str:
  """Converts one digit per vertex to a JSON map from vertex to colour."""
  vertices = metadata["puzzle"]["vertices"]
  if not re.fullmatch("[1-9]+", answer) or len(answer) != len(vertices):
    return answer
  return json.dumps({str(v): int(c) for v, c in zip(vertices, answer)})


def expand_n_queens(answer: str, metadata: dict[str, Any]) -> str:
  """Converts the queen's column in each row, "2413", to a board."""
  size = len(metadata["puzzle"])
  if not re.fullmatch("[1-9]+", answer) or len(answer) != size:
    return answer
  rows = ("_" * (int(c) - 1) + "Q" + "_" * (size - int(c)) for c in answer)
  return "\n".join(" ".join(row) for row in rows)


def expand_knights_knaves(answer: str, metadata: dict[str, Any]) -> str:
  """Converts K (knight) or N (knave) per person to sentences."""
  names = metadata["names"]
  if not re.fullmatch("[KN]+", answer) or len(answer) != len(names):
    return answer
  terms = metadata["knight_knave_terms"]
  roles = {"K": terms["a_knight"], "N": terms["a_knave"]}
  return ", and ".join(f"{n} is {roles[a]}" for n, a in zip(names, answer))
