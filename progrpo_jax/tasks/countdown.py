"""Countdown: reach a target with given numbers, each used once.

  full     prompt  Calculate 13 using all of these numbers: 19, 9, 3. Each
                   number may be used at most once. ...
           answer  <answer>19+3-9</answer>
  compact  prompt  "19 9 3=13:"
           answer  "19+3-9"

Most problems have many correct expressions, so this task shows diversity well.
"""

from collections.abc import Iterator
import itertools
import random
from typing import Any

from progrpo_jax.rewards import gym, logic
from progrpo_jax.tasks import base, reasoning_gym

gym_countdown = gym.load("games.countdown")

VERIFIER = "progrpo_jax.rewards.logic:score"
DOMAIN = "logic"

_SOLVE_UP_TO = 4  # numbers; with five the search takes 50 times as long
_MAX_PER_VALUE = 4  # trees kept per value of a subset
_MAX_SOLUTIONS = 64  # solutions looked at per problem
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


class Generator(gym_countdown.CountdownDataset):
  """Draws Reasoning Gym's problems a hundred times faster.

  The parent builds each expression in sympy only to read its value; this class
  draws the same random numbers and computes with integers. Question, numbers
  and target equal the parent's; only the form of the answer differs.
  """

  def _generate_expression(
    self, rng: random.Random
  ) -> tuple[str, list[int], int]:
    count = rng.randint(self.config.min_numbers, self.config.max_numbers)
    for _ in range(100):
      text, numbers, value = self._chain(rng, count)
      if self.config.min_target <= value <= self.config.max_target:
        return text, numbers, value
    raise ValueError("no expression with a target within the bounds")

  def _chain(self, rng: random.Random, count: int) -> tuple[str, list, int]:
    """Draws an expression that applies one number after the other.

    Returns:
      (expression, numbers in order of use, value).
    """
    low, high = self.config.min_value, self.config.max_value
    numbers = [rng.randint(low, high) for _ in range(count)]
    value, tree = numbers[0], numbers[0]
    for i in range(1, count):
      op = rng.choice(self.config.operators)
      if op == "/":
        # The parent divides by a later number that leaves no remainder, and
        # subtracts if there is none.
        rest = numbers[i:]
        rng.shuffle(rest)
        divisor = next((n for n in rest if value % n == 0), None)
        if divisor is None:
          op = "-"
        else:
          numbers[i] = divisor
      value = _apply(op, value, numbers[i])
      tree = (op, tree, numbers[i])
    return write(tree), numbers, value


def solve(entry: dict, limit: int, rng: random.Random) -> list[str]:
  """Returns up to `limit` correct expressions with distinct normal forms.

  For up to four numbers, searches all values that integer intermediate results
  reach. For more numbers, only the generator's answer is returned.
  """
  numbers = entry["metadata"]["numbers"]
  if len(numbers) > _SOLVE_UP_TO:
    return [entry["answer"]]
  solutions = {}  # normal form -> expression
  for tree in itertools.islice(
    _reaching(numbers, entry["metadata"]["target"], rng), _MAX_SOLUTIONS
  ):
    text = write(_stir(tree, rng))
    solutions.setdefault(logic.normal_form(text), text)
  return rng.sample(list(solutions.values()), min(limit, len(solutions)))


def _reaching(
  numbers: list[int], target: int, rng: random.Random
) -> Iterator[Any]:
  """Yields trees that use all numbers and have the target as their value.

  A tree is a number or (operator, left tree, right tree).
  """
  # values[mask] maps each value that a subset of the numbers reaches to a few
  # trees for it. Masks are ordered so that subsets come before supersets.
  size = len(numbers)
  whole = (1 << size) - 1
  values = {1 << i: {n: [n]} for i, n in enumerate(numbers)}
  for mask in range(1, whole):
    if mask not in values:
      values[mask] = _combine(values, mask)
  # The root splits the numbers in two: the values of one part are enumerated,
  # and the value that the other part must have is looked up.
  parts = list(range(1, whole))
  rng.shuffle(parts)
  for mask in parts:
    right = values[whole ^ mask]
    for a, trees in values[mask].items():
      for op, b in _partners(a, target):
        if b in right:
          for pair in itertools.product(trees, right[b]):
            yield (op, *pair)


def _combine(values: dict, mask: int) -> dict[int, list]:
  """Returns the values that a subset reaches, with a few trees for each."""
  reached: dict[int, list] = {}
  part = (mask - 1) & mask  # walks through the proper subsets of mask
  while part:
    pairs = itertools.product(values[part].items(), values[mask ^ part].items())
    for (a, left), (b, right) in pairs:
      for op in "+-*/":
        if op == "/" and (b == 0 or a % b):
          continue
        if op in "+*" and part < mask ^ part:
          continue  # the complement gives the mirror image
        trees = reached.setdefault(_apply(op, a, b), [])
        if len(trees) < _MAX_PER_VALUE:
          trees.append((op, left[0], right[0]))
    part = (part - 1) & mask
  return reached


def _partners(a: int, target: int) -> Iterator[tuple[str, int]]:
  """Yields (op, b) with `a op b == target`, where b and a / b are integers."""
  yield "+", target - a
  yield "-", a - target
  if a and target % a == 0:
    yield "*", target // a
  if target and a % target == 0 and a:
    yield "/", a // target


def _apply(op: str, a: int, b: int) -> int:
  """Returns a op b; a division must be exact."""
  if op == "+":
    return a + b
  if op == "-":
    return a - b
  return a * b if op == "*" else a // b


def _stir(tree: Any, rng: random.Random) -> Any:
  """Returns a tree with the sides of random sums and products swapped."""
  if isinstance(tree, int):
    return tree
  op, left, right = tree
  left, right = _stir(left, rng), _stir(right, rng)
  if op in "+*" and rng.random() < 0.5:
    left, right = right, left
  return op, left, right


def write(tree: Any, level: int = 0) -> str:
  """Returns a tree as text, without spaces or needless parentheses.

  Args:
    tree: number or (operator, left tree, right tree).
    level: precedence below which the expression needs parentheses.
  """
  if isinstance(tree, int):
    return str(tree)
  op, left, right = tree
  precedence = _PRECEDENCE[op]
  # a-(b-c) and a/(b/c) need parentheses on the right, (a-b)-c none.
  text = write(left, precedence) + op + write(right, precedence + (op in "-/"))
  return f"({text})" if precedence < level else text


def canonical(completion: str, row: base.Row) -> str:
  """Returns the normal form of a completion's expression."""
  del row
  return logic.normal_form(logic.extract(completion, whole=True))


def _prompt(entry: dict) -> str:
  """Returns the compact prompt, such as "19 9 3=13:"."""
  numbers = " ".join(map(str, entry["metadata"]["numbers"]))
  return f"{numbers}={entry['metadata']['target']}:"


def _identity(entry: dict) -> str:
  """Returns numbers and target, the same for any order of the numbers."""
  numbers = sorted(entry["metadata"]["numbers"])
  return f"{numbers}={entry['metadata']['target']}"


_SPEC = reasoning_gym.Spec(
  dataset="countdown",
  defaults={
    "min_numbers": 3,
    "max_numbers": 4,
    "min_value": 1,
    "max_value": 12,
    "min_target": 1,
    "max_target": 50,
  },
  keep=("numbers", "target"),
  identity=_identity,
  solve=solve,
  compact_prompt=_prompt,
  generator=Generator,
)


def load(split: str, **options: Any) -> reasoning_gym.Rows:
  """Returns a split; options of `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "countdown", split, **options)
