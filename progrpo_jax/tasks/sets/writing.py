"""Answers that follow a drawn prompt's instructions, for demonstrations.

See `instruction_following`; what is asked stands in `asking`.
"""

from collections.abc import Iterator, Sequence
import itertools
import json
import random
import re
from typing import Any

from progrpo_jax.tasks.sets.asking import LANGUAGES, Problem, Style


class Writer:
  """Writes answers to a problem that follow all of its instructions."""

  def __init__(self, problem: Problem, style: Style, rng: random.Random):
    self.style = style
    self.rng = rng
    self.request = problem.request
    self.args = {
        name.rpartition(":")[2]: kwargs
        for name, kwargs in zip(problem.names, problem.kwargs)}
    self.taken = _words_in(problem)
    self.fill = self._fill()

  def write(self) -> str | None:
    """Returns an answer, None if the limits leave no room for one."""
    if "constrained_response" in self.args:
      return f"My answer is {self.rng.choice(['yes', 'no', 'maybe'])}."
    text = self._wrapped(self._arranged(self._parts()))
    return text if self._short_enough(text) else None

  def _fill(self) -> Iterator[str]:
    """Yields sentences without end, none twice in a row."""
    sentences = list(self.style.sentences)
    if language := self._of("response_language").get("language"):
      sentences = list(LANGUAGES[language][1:])
    elif self.style.full:
      topic = self.request.partition(" about ")[2].rstrip(".")
      sentences = [s.format(topic=topic) for s in sentences]
    sentences = [s for s in sentences if s not in self.taken]
    self.rng.shuffle(sentences)
    return itertools.cycle(sentences)

  def _of(self, name: str) -> dict[str, Any]:
    """Returns the arguments of an instruction, {} if it is not asked for."""
    return self.args.get(name, {})

  def _parts(self) -> list[list[str]]:
    """Returns the sentences of each part of the text."""
    count = max(
        self._of("number_paragraphs").get("num_paragraphs", 1),
        self._of("nth_paragraph_first_word").get("num_paragraphs", 1),
        self._of("number_bullet_lists").get("num_bullets", 1),
        self._of("multiple_sections").get("num_sections", 1),
        1 + ("two_responses" in self.args))
    extras = self._extras()
    if extras and count == 1 and self._may_be_lean():
      parts = [extras]
    else:
      parts = [[next(self.fill)] for _ in range(count)]
      parts[-1] += extras
    if nth := self._of("nth_paragraph_first_word"):
      beginning = f"{nth['first_word'].capitalize()} is how this begins"
      parts[nth["nth_paragraph"] - 1].insert(0, beginning)
    wanted = self._at_least("number_sentences", "num_sentences")
    while len(parts[-1]) < wanted:
      parts[-1].append(next(self.fill))
    wanted = self._at_least("number_words", "num_words")
    while sum(len(split(s)) for part in parts for s in part) < wanted:
      parts[-1].append(next(self.fill))
    return parts

  def _may_be_lean(self) -> bool:
    """Says whether to leave out what nothing asks for, in compact texts."""
    limited = any(
        "less than" in self._of(name).values()
        for name in ("number_words", "number_sentences"))
    return not self.style.full and (limited or self.rng.random() < 0.5)

  def _extras(self) -> list[str]:
    """Returns the sentences that certain words and signs are asked for in."""
    found = []
    if keywords := self._of("existence").get("keywords"):
      found.append(self._say("This has to do with", keywords))
    if count := self._at_least("frequency", "frequency"):
      keyword = self._of("frequency")["keyword"]
      found.append(self._say("We say", [keyword] * count))
    if count := self._at_least("letter_frequency", "let_frequency"):
      letter = self._of("letter_frequency")["letter"]
      free = [w for w in self._shuffled() if w not in self.taken]
      word = max(free, key=lambda w: w.count(letter))
      word = word if letter in word else letter
      repeats = -(-count // word.count(letter))
      found.append(self._say("Think of", [word] * repeats))
    word = next(w for w in self._shuffled() if w not in self.taken)
    if count := self._at_least("capital_word_frequency", "capital_frequency"):
      found.append(self._say("It is", [word.upper()] * count))
    if count := self._of("number_placeholders").get("num_placeholders"):
      found.append(self._say("Write to", [f"[{word}]"] * count))
    if count := self._of("number_highlighted_sections").get("num_highlights"):
      found.append(self._say("What counts is", [f"*{word}*"] * count))
    return self.rng.sample(found, len(found))

  def _shuffled(self) -> list[str]:
    """Returns the fillers in a random order."""
    return self.rng.sample(self.style.fillers, len(self.style.fillers))

  def _say(self, beginning: str, words: Sequence[str]) -> str:
    """Makes a sentence of words."""
    if not self.style.full:
      return " ".join(words)
    return f"{beginning} {' and '.join(words)}"

  def _at_least(self, name: str, key: str) -> int:
    """Returns the number that there must be, 0 if there is none."""
    args = self._of(name)
    return args.get(key, 0) if "at least" in args.values() else 0

  def _arranged(self, parts: list[list[str]]) -> str:
    """Joins the parts as the instruction on the text's shape wants them."""
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
    if word := self._of("multiple_sections").get("section_spliter"):
      numbered = enumerate(texts, start=1)
      return "\n".join(f"{word} {i}\n{text}" for i, text in numbered)
    return texts[0]

  def _wrapped(self, text: str) -> str:
    """Adds what stands before and after a text, and sets its case."""
    line = self.style.lines
    if "title" in self.args:
      title = "A few words" if self.style.full else next(self.fill)
      text = f"<<{title}>>{line}{text}"
    if marker := self._of("postscript").get("postscript_marker"):
      thanks = "Thank you" if self.style.full else next(self.fill)
      text = f"{text}{line or ' '}{marker} {thanks}"
    if phrase := self._of("end_checker").get("end_phrase"):
      text = f"{text}{line or ' '}{phrase}"
    if "repeat_prompt" in self.args:
      text = f"{self.request}{line}{text}"
    if "quotation" in self.args:
      text = f'"{text}"'
    if "english_capital" in self.args:
      return text.upper()
    return text.lower() if "english_lowercase" in self.args else text

  def _short_enough(self, text: str) -> bool:
    """Says whether a text stays below the limits that are asked for."""
    words, sentences = (
        self._of(name) for name in ("number_words", "number_sentences"))
    if "less than" in words.values() and (
        len(split(text)) >= words["num_words"]):
      return False
    ends = re.findall(r"[.?]|[^.?\s\"]\"?$", text)
    return "less than" not in sentences.values() or (
        len(ends) < sentences["num_sentences"])


def split(text: str) -> list[str]:
  """Returns the words of a text as the verifier counts them."""
  return re.findall(r"\w+", text)


def _words_in(problem: Problem) -> set[str]:
  """Returns the words that a problem's arguments hold."""
  values = [v for kwargs in problem.kwargs for v in kwargs.values()]
  return set(split(json.dumps(values)))
