"""Prompt templates and small text helpers shared by published sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from progrpo_jax.rewards import answers
from progrpo_jax.rewards import choice as choices
from progrpo_jax.tasks.sets import schema

# Templates by name, the default first. The added instructions are this
# project's wording of the usual ones of each domain.
BOXED = {
  "boxed": (
    "{question}\n\nThink step by step, and put your final answer within"
    " \\boxed{}."
  ),
  "bare": "{question}",
}
CHOICE = {
  "boxed": (
    "{question}\n\nThink step by step, and put the letter of the right"
    " option within \\boxed{}."
  ),
  "bare": "{question}",
}
CODE = {
  "fenced": (
    "{question}\n\n{how} Write Python 3, and give the whole program in"
    " one block fenced by ```python and ``` at the end of your answer."
  ),
  "bare": "{question}",
}
PLAIN = {"bare": "{question}"}

# Evaluation sets of mathematics, and the columns of sets with short answers.
MATHEMATICS = (
  "aime24",
  "aime25",
  "amc23",
  "math500",
  "minerva_math",
  "olympiad_bench",
)
SHORT_ANSWER = (("problem", "question"), "answer")


def boxed(solution: str) -> str:
  """Returns the content of the last box of a TeX text, "" if it has none."""
  return next(reversed(answers.boxed(solution)), "")


def worked(solution: str, answer: str) -> tuple[str, ...]:
  """Returns (solution,) for a demonstration, () if it boxes anything else."""
  return (solution,) if set(answers.boxed(solution)) == {answer} else ()


def box(answer: str) -> str:
  """Returns an answer as the shortest completion that gives it."""
  return f"\\boxed{{{answer}}}"


def number_or_text(record: Mapping[str, Any], *columns: str) -> str:
  """Returns the first present column as text; 27.0 becomes "27".

  Raises:
    schema.BadRow: no column is present, or the value is no number or text.
  """
  value = next((record[c] for c in columns if record.get(c) is not None), None)
  if isinstance(value, bool) or not isinstance(value, (int, float, str)):
    return schema.text(record, *columns)
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  return str(value).strip()


def short_answer(record: dict[str, Any], _) -> schema.Problem:
  """Returns the problem of a row with the columns SHORT_ANSWER."""
  answer = number_or_text(record, "answer")
  question = schema.text(record, "problem", "question")
  return schema.Problem(question, answer, demonstrations=(box(answer),))


def user_text(messages: Any, column: str) -> str:
  """Returns the user's text in a list of chat messages; a text is kept.

  Raises:
    schema.BadRow: there is not exactly one message of the user.
  """
  if isinstance(messages, str):
    return messages
  if not isinstance(messages, Sequence) or not all(
    isinstance(m, Mapping) for m in messages
  ):
    kind = type(messages).__name__
    raise schema.BadRow(f"{column} is a {kind}, not a list of messages")
  said = [m.get("content") for m in messages if m.get("role") == "user"]
  if len(said) != 1 or not isinstance(said[0], str):
    raise schema.BadRow(f"{column} has {len(said)} messages of a user, not one")
  return said[0]


def reward_model(record: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns the column reward_model, which holds the ground truth.

  Raises:
    schema.BadRow: the column is not a record.
  """
  truth = record["reward_model"]
  if not isinstance(truth, Mapping):
    raise schema.BadRow("reward_model is not a record")
  return truth


def choice(
  question: str, options: Sequence[str], right: int, *, seed: int
) -> schema.Problem:
  """Returns a multiple-choice problem with shuffled options.

  The order depends only on the seed and the question. The reference is the
  letter of the correct option.

  Args:
    question: text of the question without options.
    options: texts of the options.
    right: index of the correct option.
    seed: seed of the order.

  Raises:
    schema.BadRow: the number of options is wrong, or an option is empty.
  """
  order = choices.order(len(options), seed, question)
  shown = [options[i].strip() for i in order]
  if len(options) < 2 or len(options) > len(choices.LETTERS) or not all(shown):
    raise schema.BadRow(f"{len(options)} options, or an empty one")
  letter = choices.LETTERS[order.index(right)]
  return schema.Problem(
    with_options(question, shown), letter, {"options": shown}, (box(letter),)
  )


def with_options(question: str, options: Sequence[str]) -> str:
  """Returns a question with its options, each under a letter."""
  lines = [f"({choices.LETTERS[i]}) {text}" for i, text in enumerate(options)]
  return "\n".join([question.strip(), "", *lines])
