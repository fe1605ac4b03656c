"""Guess a number: the task says whether it is higher or lower than a guess.

An episode has several turns, and the last one is judged: config.sampling's
`max_turns` is how many guesses there are. Three are enough for the numbers up
to 7 by halving what is left; a guess at random each time finds three of seven.

full     prompt   I think of a whole number from 1 to 7. Guess it: write one
                  number. ...
         answers  "4", and the task replies "Higher."; "6"
compact  prompt   "1-7:"
         answers  "4", and the task replies "+"; "6"
"""

from collections.abc import Mapping, Sequence
import random
import re

from progrpo_jax.errors import InputError
from progrpo_jax.rewards.score import Score
from progrpo_jax.tasks import base

VERIFIER = "progrpo_jax.tasks.guess_number:score"
DOMAIN = "logic"

_FULL = (
  "I think of a whole number from 1 to {most}. Guess it: write one number. "
  "After a wrong guess I say whether my number is higher or lower, and you "
  "guess again."
)
# What the task says of a guess, by template.
_WORDS = {
  "full": ("Higher.", "Lower.", "Write one number from 1 to {most}."),
  "compact": ("+", "-", "?"),
}
_NUMBER = re.compile(r"[-\u2212]?[0-9]{1,9}")


class Rows:
  """Numbers drawn at random, one a row."""

  def __init__(
    self, split: str, seed: int, size: int, most: int, template: str
  ):
    """Draws `size` rows of numbers up to `most`."""
    self._name, self._size = f"{split}/{seed}", size
    self._most, self._template = most, template

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < self._size:
      raise IndexError(index)
    number = random.Random(f"{self._name}/{index}").randint(1, self._most)
    compact = self._template == "compact"
    return base.Row(
      task="guess_number",
      prompt=f"1-{self._most}:" if compact else _FULL.format(most=self._most),
      reference=number,
      meta={"most": self._most, "template": self._template},
      demonstrations=(str(number),),
    )


def load(
  split: str,
  *,
  data_dir: str,
  seed: int,
  most: base.Count = 7,
  template: str = "full",
  num_train: base.Count = 1024,
  num_validation: base.Count = 64,
) -> Rows:
  """Returns a split.

  Args:
    split: "train" or "validation".
    data_dir: not read; the numbers are drawn.
    seed: seed of the numbers.
    most: the largest number.
    template: "full" or "compact".
    num_train: rows of the split "train".
    num_validation: rows of the split "validation".

  Raises:
    InputError: there is no such template.
  """
  if template not in _WORDS:
    raise InputError(
      f"no template {template!r}{base.nearest(template, list(_WORDS))}"
    )
  size = num_train if split == "train" else num_validation
  return Rows(split, seed, size, most, template)


def reply(
  messages: Sequence[Mapping[str, str]],
  reference: int,
  *,
  most: int,
  template: str,
) -> str | None:
  """Says how the number compares with the last guess; None if it is right."""
  higher, lower, what = _WORDS[template]
  guess = guessed(messages[-1]["content"])
  if guess is None:
    return what.format(most=most)
  if guess == reference:
    return None
  return higher if reference > guess else lower


def score(
  completion: str, reference: int, *, most: int, template: str
) -> Score:
  """Scores the last turn: 1 if it guesses the number.

  Args:
    completion: text of the turn.
    reference: the number.
    most: not read; for `reply`.
    template: not read; for `reply`.
  """
  guess = guessed(completion)
  if guess is None:
    return Score(0.0, False, "no_answer")
  return Score(float(guess == reference), guess == reference, "ok")


def guessed(text: str) -> int | None:
  """Returns the only number of a turn; None if there is none, or several."""
  numbers = _NUMBER.findall(text)
  if len(numbers) != 1:
    return None
  return int(numbers[0].replace("\u2212", "-"))


def canonical(completion: str, row: base.Row) -> str:
  """Returns the guess as text."""
  return str(guessed(completion))
