"""Prompt templates and small readings of text that published sets share."""

from collections.abc import Mapping, Sequence
from typing import Any

from progrpo_jax.rewards import answers
from progrpo_jax.rewards import choice as choices
from progrpo_jax.tasks.sets import schema

# What a template adds to the question is ours, in the usual sense of each
# domain; the first is the default.
BOXED = {
    "boxed": (
        "{question}\n\nThink step by step, and put your final answer within"
        " \\boxed{}."),
    "bare": "{question}",
}
CHOICE = {
    "boxed": (
        "{question}\n\nThink step by step, and put the letter of the right"
        " option within \\boxed{}."),
    "bare": "{question}",
}
CODE = {
    "fenced": (
        "{question}\n\n{how} Write Python 3, and give the whole program in"
        " one block fenced by ```python and ``` at the end of your answer."),
    "bare": "{question}",
}
PLAIN = {"bare": "{question}"}

MATHEMATICS = (
    "aime24", "aime25", "amc23", "math500", "minerva_math", "olympiad_bench")
SHORT_ANSWER = (("problem", "question"), "answer")


def boxed(solution: str) -> str:
  """Returns what stands in the last box of a TeX text, "" if nothing does."""
  return next(reversed(answers.boxed(solution)), "")


def worked(solution: str, answer: str) -> tuple[str, ...]:
  """Returns a solution as a demonstration, if it boxes the answer alone."""
  return (solution,) if set(answers.boxed(solution)) == {answer} else ()


def box(answer: str) -> str:
  """Returns an answer as the shortest completion that gives it."""
  return f"\\boxed{{{answer}}}"


def number_or_text(record: Mapping[str, Any], *columns: str) -> str:
  """Returns an answer as text; 27.0 is written 27."""
  value = next((record[c] for c in columns if record.get(c) is not None), None)
  if isinstance(value, bool) or not isinstance(value, (int, float, str)):
    return schema.text(record, *columns)
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  return str(value).strip()


def short_answer(record: dict[str, Any], _) -> schema.Problem:
  """Makes a problem of the columns SHORT_ANSWER."""
  answer = number_or_text(record, "answer")
  question = schema.text(record, "problem", "question")
  return schema.Problem(question, answer, demonstrations=(box(answer),))


def user_text(messages: Any, column: str) -> str:
  """Returns what the user says in a list of messages, or in a plain text."""
  if isinstance(messages, str):
    return messages
  if not isinstance(messages, Sequence) or not all(
      isinstance(m, Mapping) for m in messages):
    kind = type(messages).__name__
    raise schema.BadRow(f"{column} is a {kind}, not a list of messages")
  said = [m.get("content") for m in messages if m.get("role") == "user"]
  if len(said) != 1 or not isinstance(said[0], str):
    raise schema.BadRow(f"{column} has {len(said)} messages of a user, not one")
  return said[0]


def choice(
    question: str, options: Sequence[str], right: int, *, seed: int
) -> schema.Problem:
  """Returns a question of multiple choice, its options shuffled.

  The order depends on the seed and the question alone. The reference is the
  letter of the right one.
  """
  order = choices.order(len(options), seed, question)
  shown = [options[i].strip() for i in order]
  if len(options) < 2 or len(options) > len(choices.LETTERS) or not all(shown):
    raise schema.BadRow(f"{len(options)} options, or an empty one")
  letter = choices.LETTERS[order.index(right)]
  return schema.Problem(
      with_options(question, shown), letter, {"options": shown},
      (box(letter),))


def with_options(question: str, options: Sequence[str]) -> str:
  """Returns a question with its options, each under a letter."""
  lines = [f"({choices.LETTERS[i]}) {text}" for i, text in enumerate(options)]
  return "\n".join([question.strip(), "", *lines])
