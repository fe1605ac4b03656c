"""Countdown: reach a target with given numbers, each used once.

  full     prompt  Calculate 13 using all of these numbers: 19, 9, 3. Each
                   number may be used at most once. ...
           answer  <answer>19+3-9</answer>
  compact  prompt  "19 9 3=13:"
           answer  "19+3-9"

Most problems have many right expressions, which makes this the task to watch
diversity on.
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
_MAX_PER_VALUE = 4
_MAX_FOUND = 64
_LEVEL = {"+": 1, "-": 1, "*": 2, "/": 2}


class Generator(gym_countdown.CountdownDataset):
  """Reasoning Gym's problems, number for number, a hundred times faster.

  The parent builds each expression in sympy only to read its value; this
  draws the same random numbers and does the arithmetic on integers. Question,
  numbers and target are the parent's; the answer is written otherwise.
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
    """Draws an expression that takes in one number after the other."""
    low, high = self.config.min_value, self.config.max_value
    numbers = [rng.randint(low, high) for _ in range(count)]
    value, tree = numbers[0], numbers[0]
    for i in range(1, count):
      op = rng.choice(self.config.operators)
      if op == "/":
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
  """Returns up to `limit` right expressions of distinct normal form.

  For up to four numbers every value that whole intermediate results lead to
  is looked through; beyond that only the generator's own answer is known.
  """
  numbers = entry["metadata"]["numbers"]
  if len(numbers) > _SOLVE_UP_TO:
    return [entry["answer"]]
  found = {}
  for tree in itertools.islice(
      _reaching(numbers, entry["metadata"]["target"], rng), _MAX_FOUND
  ):
    text = write(_stir(tree, rng))
    found.setdefault(logic.normal_form(text), text)
  return rng.sample(list(found.values()), min(limit, len(found)))


def _reaching(
    numbers: list[int], target: int, rng: random.Random
) -> Iterator[Any]:
  """Yields trees over all of the numbers whose value is the target.

  `values[mask]` maps each value that a subset reaches to a few trees for it.
  Of the two parts that the whole falls into, one is walked through and the
  other looked up.
  """
  size = len(numbers)
  whole = (1 << size) - 1
  values = {1 << i: {n: [n]} for i, n in enumerate(numbers)}
  for mask in range(1, whole):
    if mask not in values:
      values[mask] = _combine(values, mask)
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
  """Returns the values that a subset reaches."""
  reached: dict[int, list] = {}
  part = (mask - 1) & mask
  while part:
    pairs = itertools.product(values[part].items(), values[mask ^ part].items())
    for (a, left), (b, right) in pairs:
      for op in "+-*/":
        if op == "/" and (b == 0 or a % b):
          continue
        if op in "+*" and part < mask ^ part:
          continue  # the mirror image comes with the complement
        trees = reached.setdefault(_apply(op, a, b), [])
        if len(trees) < _MAX_PER_VALUE:
          trees.append((op, left[0], right[0]))
    part = (part - 1) & mask
  return reached


def _partners(a: int, target: int) -> Iterator[tuple[str, int]]:
  """Yields (op, b) with `a op b == target`; b is whole and so is a / b."""
  yield "+", target - a
  yield "-", a - target
  if a and target % a == 0:
    yield "*", target // a
  if target and a % target == 0 and a:
    yield "/", a // target


def _apply(op: str, a: int, b: int) -> int:
  """Returns a op b; a division is exact."""
  if op == "+":
    return a + b
  if op == "-":
    return a - b
  return a * b if op == "*" else a // b


def _stir(tree: Any, rng: random.Random) -> Any:
  """Swaps the sides of some sums and products."""
  if isinstance(tree, int):
    return tree
  op, left, right = tree
  left, right = _stir(left, rng), _stir(right, rng)
  if op in "+*" and rng.random() < 0.5:
    left, right = right, left
  return op, left, right


def write(tree: Any, level: int = 0) -> str:
  """Writes a tree with the parentheses that it needs and no spaces."""
  if isinstance(tree, int):
    return str(tree)
  op, left, right = tree
  own = _LEVEL[op]
  text = write(left, own) + op + write(right, own + (op in "-/"))
  return f"({text})" if own < level else text


def canonical(completion: str, row: base.Row) -> str:
  """Returns the normal form of the expression."""
  del row
  return logic.normal_form(logic.extract(completion, whole=True))


def _prompt(entry: dict) -> str:
  """Writes "19 9 3=13:"."""
  numbers = " ".join(map(str, entry["metadata"]["numbers"]))
  return f"{numbers}={entry['metadata']['target']}:"


def _identity(entry: dict) -> str:
  """Two problems are one if numbers and target agree in any order."""
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
  """Returns a split; options as in `reasoning_gym.rows`."""
  return reasoning_gym.rows(_SPEC, "countdown", split, **options)
