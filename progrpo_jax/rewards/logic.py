"""Verifier of procedural tasks, by Reasoning Gym's `score_answer`.

Some of Reasoning Gym's scorers evaluate model text as Python. They are replaced
here, or see only text that a check in plain Python has found harmless:

  countdown     replaced by an exact evaluator, about fifty times faster. The
                value must be exactly the target: Reasoning Gym's tolerance
                lets numbers that are left over vanish in a small fraction, as
                in 95*10+1/(100*2) for 950. A division by zero is wrong, while
                sympy continues with infinity and accepts 5+1/(1/(3-3)) as 5.
  puzzle24      replaced by the same evaluator, which is stricter: the numbers
                must be those of the problem and the value exactly 24. Reasoning
                Gym accepts any four small numbers and truncates 24.9.
  n_queens      sees only boards, in the form of its own.
  binary_matrix, spiral_matrix, string_insertion
                see only lists of literals.

Some scorers give full reward to answers without work, which a policy finds.
These have rules of their own here:

  coin_flip     within 1 % as well as within 0.0001; Reasoning Gym compares the
                first digits, so that 0 is right for 0.23.
  figlet_font, letter_jumble, spell_backward
                full reward only for the text itself, with nothing behind it.
  game_of_life  the board has no other rows and columns.
  game_of_life_halting
                compared; Reasoning Gym's scorer accepts every text.
  graph_color   colours are integers, and there are no other vertices.
  number_sorting
                the numbers of the problem exactly; Reasoning Gym takes NaN for
                any number, and allows an error of 1.
  polynomial_equations
                where there is no solution, the answer must say so.
  propositional_logic
                a conclusion that repeats a premise is none.

An answer with "nan" or "inf" never reaches a scorer, unless the reference has
the same. A value that is not between 0 and 1 counts as 0. One bug the other way
is corrected: ARC's scorer accepts no board once a problem has been stored as
JSON.
"""

import ast
from collections.abc import Callable
import decimal
from fractions import Fraction
import functools
import json
import re
from typing import Any

from progrpo_jax.rewards import answers, gym
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
_MAX_BOARD_CHARS = 2000

_EXPRESSION = re.compile(r"[0-9+\-*/() ]+")
_LONG_NUMBER = re.compile(rf"[0-9]{{{_MAX_DIGITS + 1}}}")
_NUMBER = re.compile(r"[0-9]+")
_BOARD = re.compile(r"[Q_\s\[\],'\"]+")
_BOARD_ROW = re.compile(r"[Q_ \t|]+")
# NaN and infinity as float, Decimal, complex and JSON read them.
_NOT_FINITE = re.compile(
  r"(?<![^\W\d_])s?(?:nan[0-9]*|inf(?:inity)?)[ij]?(?![^\W_])", re.I
)
# What scorers take long for: a cube's writes F999999999 out, and that of
# formulas is quadratic.
_COSTLY = {
  "propositional_logic": re.compile(r".{1000}", re.S),
  "rubiks_cube": re.compile(r"[0-9]{3}"),
}
_PROBABILITY = re.compile(
  r"[0-9]{1,20}\s*/\s*[0-9]{1,20}|[0-9]{0,20}\.?[0-9]{1,40}(?:e-[0-9]{1,2})?",
  re.I,
)
_NO_SOLUTION = re.compile(
  r"[\s\"'{}()\[\]]*|∅|\W*(?:there\s+(?:are|is)\s+)?(?:no|none|empty)\b"
  r"[^0-9]{0,80}",
  re.I,
)


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
  may_be_empty = reference == ""
  answer = extract(
    completion, whole=template == "compact", may_be_empty=may_be_empty
  )
  if not answer:
    is_given = may_be_empty and bool(answers.tagged(completion))
    if is_given and verdict(dataset, "", reference, metadata) == 1:
      return Score(1.0, True, "ok")
    return Score(0.0, False, "no_answer")
  if template == "compact":
    answer = expand(dataset, answer, metadata)
  reward = verdict(dataset, answer, reference, metadata)
  correct = reward == 1
  return Score(float(correct) if binary else reward, correct, "ok")


def extract(completion: str, *, whole: bool, may_be_empty: bool = False) -> str:
  """Returns the last tagged answer, "" if there is none.

  Tags are found as in mathematics: in any case, and the innermost of several
  that are opened, since a completion may mention them before it uses them.

  Args:
    completion: text of the model.
    whole: whether a completion without tags is the answer.
    may_be_empty: whether empty tags are an answer; otherwise they are passed
      over.
  """
  tagged = answers.tagged(completion)
  if not tagged:
    return completion.strip() if whole else ""
  if may_be_empty:
    return tagged[-1]
  return next(filter(None, reversed(tagged)), "")


def verdict(
  dataset: str, answer: str, reference: object, metadata: dict[str, Any]
) -> float:
  """Returns the reward of an answer, in [0, 1]; 1 if it is right.

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
  if rule := _RULES.get(dataset):
    return rule(answer, reference, metadata)
  if dataset == "n_queens":
    answer = _board(answer)
    if len(answer) > _MAX_BOARD_CHARS or not _BOARD.fullmatch(answer):
      return 0.0
  if dataset in _LISTS:
    if answer.strip() == str(reference).strip():
      return 1.0
    if not _is_list(answer):
      return 0.0
  if dataset in _COSTLY and _COSTLY[dataset].search(answer):
    return 0.0
  if _invents_numbers(answer, reference):
    return 0.0
  if dataset in _BOARDS:
    # The scorer compares with tuples, which JSON has turned into lists.
    board = tuple(tuple(line) for line in metadata["output"])
    metadata = {**metadata, "output": board}
  if dataset in EVALUATING and dataset not in GUARDED:
    raise ValueError(f"{dataset}'s scorer evaluates model text as Python")
  entry = {"answer": reference, "metadata": metadata}
  scorer = _scorer(dataset)
  condition = _CONDITIONS.get(dataset)
  try:
    reward = float(scorer(answer, entry))
    if reward == 1 and condition:
      return float(condition(answer, reference, metadata))
  except Exception:  # some scorers raise on malformed answers
    return 0.0
  return reward if 0 <= reward <= 1 else 0.0  # 0 for NaN, too


def _invents_numbers(answer: str, reference: object) -> bool:
  """Returns whether an answer has NaN or infinity and its reference not."""
  return bool(_NOT_FINITE.search(answer)) and not _NOT_FINITE.search(
    str(reference)
  )


@functools.cache
def _scorer(dataset: str) -> Callable[[str, dict[str, Any]], float]:
  """Returns the score_answer of a dataset; imports Reasoning Gym."""
  return gym.load().get_score_answer_fn(dataset)


# ----- Rules in place of Reasoning Gym's -----


def countdown(answer: str, numbers: list[int], target: int) -> float:
  """Returns countdown's reward: 1 correct, 0.05 wrong, 0.01 no expression.

  A correct expression joins each number once by + - * / and has exactly the
  target as its value.

  Args:
    answer: expression.
    numbers: numbers of the problem.
    target: target of the problem.
  """
  result = _evaluate(answer)
  if result is None:
    return 0.01
  return 1.0 if result == (target, sorted(numbers)) else 0.05


def puzzle24(answer: str, numbers: list[int]) -> float:
  """Returns 1 if an expression uses each number once and is 24, else 0.01."""
  return 1.0 if _evaluate(answer) == (24, sorted(numbers)) else 0.01


def _coin_flip(answer: str, reference: Any) -> float:
  """Returns 1 for the probability as a decimal or a fraction, else 0."""
  answer = answer.strip()
  if not _PROBABILITY.fullmatch(answer):
    return 0.0
  try:
    value = Fraction("".join(answer.split()))
    right = Fraction(str(reference).replace(",", ""))
  except (ValueError, ZeroDivisionError):
    return 0.0
  # 0.0001 is Reasoning Gym's; alone, it makes 0 right for 0.00006.
  return float(abs(value - right) <= min(Fraction(1, 10**4), right / 100))


def _number_sorting(answer: str, reference: Any) -> float:
  """Returns 1 for the list of the numbers in order, else 0."""
  numbers = _numbers(answer)
  return float(numbers is not None and numbers == _numbers(str(reference)))


def _numbers(text: str) -> list[decimal.Decimal] | None:
  """Returns a list of numbers or of texts of numbers; None if it is none."""
  try:
    items = json.loads(
      text.replace("'", '"'),
      parse_int=decimal.Decimal,
      parse_float=decimal.Decimal,
    )
    if not isinstance(items, list):
      return None
    if not all(isinstance(i, (str, decimal.Decimal)) for i in items):
      return None
    numbers = [decimal.Decimal(i) for i in items]
  except (ValueError, ArithmeticError, RecursionError):
    return None
  return numbers if all(n.is_finite() for n in numbers) else None


# Dataset -> function of (answer, reference, metadata) that gives the reward.
_RULES: dict[str, Callable[[str, Any, dict[str, Any]], float]] = {
  "coin_flip": lambda answer, reference, _: _coin_flip(answer, reference),
  "countdown": lambda answer, _, metadata: countdown(
    answer, metadata["numbers"], metadata["target"]
  ),
  "game_of_life_halting": lambda answer, reference, _: float(
    answer.strip().lower() == str(reference).lower()
  ),
  "number_sorting": lambda answer, reference, _: _number_sorting(
    answer, reference
  ),
  "puzzle24": lambda answer, _, metadata: puzzle24(answer, metadata["numbers"]),
}


# ----- Conditions of full reward beside Reasoning Gym's -----


def _is_same(answer: str, reference: Any) -> bool:
  """Returns whether an answer is the reference but for case and blanks."""
  return answer.casefold().split() == str(reference).casefold().split()


def _is_same_board(answer: str, reference: Any) -> bool:
  """Returns whether two texts are the same JSON; True is not 1."""
  return json.dumps(json.loads(answer)) == json.dumps(json.loads(reference))


def _is_colouring(answer: str, metadata: dict[str, Any]) -> bool:
  """Returns whether a map gives an integer to each vertex and to no other."""
  colours = json.loads(answer)
  vertices = {str(v) for v in metadata["puzzle"]["vertices"]}
  return colours.keys() == vertices and all(
    type(c) is int for c in colours.values()
  )


def _is_conclusion(answer: str, metadata: dict[str, Any]) -> bool:
  """Returns whether a formula repeats no premise.

  Nor may a premise with a connective be a part of it: what follows from A
  alone, such as ¬¬A, A ∧ A or A ∨ B, takes no work. A premise that is a letter
  may be a part.
  """
  formula = _bare(answer)
  for premise in map(_bare, metadata["premises"]):
    joined = re.search("[∧∨→↔]", premise)
    if premise in formula if joined else premise == formula:
      return False
  return True


def _bare(formula: str) -> str:
  """Returns a formula without brackets, blanks and double negations."""
  formula = re.sub(r"[()\s]", "", formula)
  while (shorter := formula.replace("¬¬", "")) != formula:
    formula = shorter
  return formula


# Dataset -> function of (answer, reference, metadata).
_CONDITIONS: dict[str, Callable[[str, Any, dict[str, Any]], bool]] = {
  "figlet_font": lambda answer, reference, _: _is_same(
    answer.replace(" ", ""), reference
  ),
  "game_of_life": lambda answer, reference, _: _is_same_board(
    answer, reference
  ),
  "graph_color": lambda answer, _, metadata: _is_colouring(answer, metadata),
  "letter_jumble": lambda answer, reference, _: _is_same(answer, reference),
  "polynomial_equations": lambda answer, reference, _: bool(
    reference or _NO_SOLUTION.fullmatch(answer)
  ),
  "propositional_logic": lambda answer, _, metadata: _is_conclusion(
    answer, metadata
  ),
  "spell_backward": lambda answer, reference, _: _is_same(answer, reference),
}


# ----- Forms of answers -----


def _board(answer: str) -> str:
  """Returns a board of queens in the scorer's form, other text unchanged.

  Rows may be indented, fenced, without blanks between their cells, and have
  empty lines between them.
  """
  if len(answer) > _MAX_BOARD_CHARS:
    return answer
  lines = [line.strip() for line in answer.splitlines()]
  lines = [line for line in lines if line and not line.startswith("```")]
  if not lines or not all(map(_BOARD_ROW.fullmatch, lines)):
    return answer
  return "\n".join(" ".join(re.findall("[Q_]", line)) for line in lines)


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
