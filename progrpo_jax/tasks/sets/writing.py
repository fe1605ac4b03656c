"""Writes answers that follow a drawn prompt's instructions.

They are the demonstrations of the task `instruction_following`; `asking` has
the instructions.
"""

from collections.abc import Iterator, Sequence
import itertools
import json
import random
import re
from typing import Any

from progrpo_jax.tasks.sets.asking import LANGUAGES, Problem, Style


class Writer:
  """Writes one answer that follows all instructions of a problem.

  Args:
    problem: request and instructions.
    style: style of the template.
    rng: source of randomness.
  """

  def __init__(self, problem: Problem, style: Style, rng: random.Random):
    self.style = style
    self.rng = rng
    self.request = problem.request
    self.args = {
      name.rpartition(":")[2]: kwargs
      for name, kwargs in zip(problem.names, problem.kwargs)
    }
    self.taken = _words_in(problem)  # words that fillers must not add
    self.fill = self._fill()

  def write(self) -> str | None:
    """Returns an answer, or None if the limits are too tight for one."""
    if "constrained_response" in self.args:
      return f"My answer is {self.rng.choice(['yes', 'no', 'maybe'])}."
    text = self._wrap(self._arrange(self._parts()))
    return text if self._is_short_enough(text) else None

  def _fill(self) -> Iterator[str]:
    """Returns an endless iterator of sentences, none twice in a row."""
    sentences = list(self.style.sentences)
    if language := self._args_of("response_language").get("language"):
      sentences = list(LANGUAGES[language][1:])
    elif self.style.full:
      topic = self.request.partition(" about ")[2].rstrip(".")
      sentences = [s.format(topic=topic) for s in sentences]
    sentences = [s for s in sentences if s not in self.taken]
    self.rng.shuffle(sentences)
    return itertools.cycle(sentences)

  def _args_of(self, name: str) -> dict[str, Any]:
    """Returns the arguments of an instruction, {} if the problem lacks it."""
    return self.args.get(name, {})

  def _parts(self) -> list[list[str]]:
    """Returns the sentences of each part (paragraph, bullet, ...) of a text."""
    # At most one of these instructions is present, since they conflict.
    count = max(
      self._args_of("number_paragraphs").get("num_paragraphs", 1),
      self._args_of("nth_paragraph_first_word").get("num_paragraphs", 1),
      self._args_of("number_bullet_lists").get("num_bullets", 1),
      self._args_of("multiple_sections").get("num_sections", 1),
      1 + ("two_responses" in self.args),
    )
    # Required words go into the last part, or make up a text without filling.
    extras = self._extras()
    if extras and count == 1 and self._drops_filling():
      parts = [extras]
    else:
      parts = [[next(self.fill)] for _ in range(count)]
      parts[-1] += extras
    if nth := self._args_of("nth_paragraph_first_word"):
      beginning = f"{nth['first_word'].capitalize()} is how this begins"
      parts[nth["nth_paragraph"] - 1].insert(0, beginning)
    # Lower limits are met by sentences at the end. Sentences are only counted
    # in texts of one part, since the limit conflicts with all layouts.
    least = self._at_least("number_sentences", "num_sentences")
    while len(parts[-1]) < least:
      parts[-1].append(next(self.fill))
    least = self._at_least("number_words", "num_words")
    while sum(len(split(s)) for part in parts for s in part) < least:
      parts[-1].append(next(self.fill))
    return parts

  def _drops_filling(self) -> bool:
    """Returns whether to omit sentences that no instruction needs.

    Only in compact texts: always under an upper limit, else at random.
    """
    limited = any(
      "less than" in self._args_of(name).values()
      for name in ("number_words", "number_sentences")
    )
    return not self.style.full and (limited or self.rng.random() < 0.5)

  def _extras(self) -> list[str]:
    """Returns sentences with the required words and signs, shuffled."""
    sentences = []
    if keywords := self._args_of("existence").get("keywords"):
      sentences.append(self._sentence("This has to do with", keywords))
    if count := self._at_least("frequency", "frequency"):
      keyword = self._args_of("frequency")["keyword"]
      sentences.append(self._sentence("We say", [keyword] * count))
    if count := self._at_least("letter_frequency", "let_frequency"):
      letter = self._args_of("letter_frequency")["letter"]
      free = [w for w in self._shuffled() if w not in self.taken]
      word = max(free, key=lambda w: w.count(letter))
      word = word if letter in word else letter
      repeats = -(-count // word.count(letter))  # rounded up
      sentences.append(self._sentence("Think of", [word] * repeats))
    word = next(w for w in self._shuffled() if w not in self.taken)
    if count := self._at_least("capital_word_frequency", "capital_frequency"):
      sentences.append(self._sentence("It is", [word.upper()] * count))
    if count := self._args_of("number_placeholders").get("num_placeholders"):
      sentences.append(self._sentence("Write to", [f"[{word}]"] * count))
    highlights = self._args_of("number_highlighted_sections")
    if count := highlights.get("num_highlights"):
      sentences.append(self._sentence("What counts is", [f"*{word}*"] * count))
    return self.rng.sample(sentences, len(sentences))

  def _shuffled(self) -> list[str]:
    """Returns the fillers in a random order."""
    return self.rng.sample(self.style.fillers, len(self.style.fillers))

  def _sentence(self, beginning: str, words: Sequence[str]) -> str:
    """Returns a sentence that contains the words, without the full stop."""
    if not self.style.full:
      return " ".join(words)
    return f"{beginning} {' and '.join(words)}"

  def _at_least(self, name: str, key: str) -> int:
    """Returns the lower limit that an instruction sets, 0 if it sets none."""
    args = self._args_of(name)
    return args.get(key, 0) if "at least" in args.values() else 0

  def _arrange(self, parts: list[list[str]]) -> str:
    """Joins the parts in the layout that an instruction asks for."""
    stop = "." if self.style.full or "number_sentences" in self.args else ""
    texts = [" ".join(f"{s}{stop}" for s in part) for part in parts]
    line = self.style.lines
    if "json_format" in self.args:
      return json.dumps({"answer" if self.style.full else "a": texts[0]})
    if "two_responses" in self.args:
      return f"{line}******{line}".join(texts)
    if "number_paragraphs" in self.args:
      return f"{line}***{line}".join(texts)
    if "nth_paragraph_first_word" in self.args:
      return "\n\n".join(texts)
    if "number_bullet_lists" in self.args:
      return "\n".join(f"* {text}" for text in texts)
    if word := self._args_of("multiple_sections").get("section_spliter"):
      numbered = enumerate(texts, start=1)
      return "\n".join(f"{word} {i}\n{text}" for i, text in numbered)
    return texts[0]

  def _wrap(self, text: str) -> str:
    """Adds title, postscript, ending, request and quotes; sets the case."""
    line = self.style.lines
    # Quotes enclose everything, and so come after all other additions.
    if "title" in self.args:
      title = "A few words" if self.style.full else next(self.fill)
      text = f"<<{title}>>{line}{text}"
    if marker := self._args_of("postscript").get("postscript_marker"):
      thanks = "Thank you" if self.style.full else next(self.fill)
      text = f"{text}{line or ' '}{marker} {thanks}"
    if phrase := self._args_of("end_checker").get("end_phrase"):
      text = f"{text}{line or ' '}{phrase}"
    if "repeat_prompt" in self.args:
      text = f"{self.request}{line}{text}"
    if "quotation" in self.args:
      text = f'"{text}"'
    if "english_capital" in self.args:
      return text.upper()
    return text.lower() if "english_lowercase" in self.args else text

  def _is_short_enough(self, text: str) -> bool:
    """Returns whether a text stays below the upper limits of the problem."""
    words, sentences = (
      self._args_of(name) for name in ("number_words", "number_sentences")
    )
    if "less than" in words.values() and (
      len(split(text)) >= words["num_words"]
    ):
      return False
    # Sentences end with a sign, and the last one also with the text.
    ends = re.findall(r"[.?]|[^.?\s\"]\"?$", text)
    return "less than" not in sentences.values() or (
      len(ends) < sentences["num_sentences"]
    )


def split(text: str) -> list[str]:
  """Returns the words of a text as the verifier counts them."""
  return re.findall(r"\w+", text)


def _words_in(problem: Problem) -> set[str]:
  """Returns the words in a problem's arguments."""
  values = [v for kwargs in problem.kwargs for v in kwargs.values()]
  return set(split(json.dumps(values)))
