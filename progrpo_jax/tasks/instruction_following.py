r"""Instruction following: do what the prompt says about the answer's form.

  full     prompt  Write a poem about tea. Include these words in the
                   response: "river" and "copper". Answer with less than 30
                   words.
           answer  Many people like tea. This has to do with river and copper.
  compact  prompt  "has cat sun;words>=4:"
           answer  "cat sun pen cup"

One to three of IFEval's 25 instructions are drawn that can all be followed at
once (`CONFLICTS` says which cannot), with arguments at random; the verifier
and the form of the reference are IFEval's. A problem belongs to validation if
the hash of its prompt says so, whatever the seed: no prompt of a run's
validation is in any run's train. Nothing is built or downloaded.

The compact form leaves out what cannot be said in a few characters: line
breaks, repeated requests, and the four instructions on a language or on all
letters of an English text.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import itertools
import json
import random
import re
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.tasks import base

# By name: the verifier's module loads a classifier of languages.
VERIFIER = "progrpo_jax.rewards.instruction:score"

TEMPLATES = ("full", "compact")
_VALIDATION_SHARE = 8  # one prompt of so many is validation's
_MAX_MISSES = 5000  # draws in a row that are no new prompt

_RELATIONS = {"at least": ">=", "less than": "<"}
_COMMON, _RARE = "aeinorst", "jqxz"  # no text below has a rare one

# ----- What is asked -----

_FULL = {
    "keywords:existence":
        "Include these words in the response: {keywords}.",
    "keywords:frequency":
        'In your response, the word "{keyword}" should appear {relation}'
        " {frequency} times.",
    "keywords:forbidden_words":
        "Do not use these words in the response: {forbidden_words}.",
    "keywords:letter_frequency":
        'In your response, the letter "{letter}" should appear {let_relation}'
        " {let_frequency} times.",
    "language:response_language":
        "Your whole response should be in {language}; no other language is"
        " allowed.",
    "length_constraints:number_sentences":
        "Your response should contain {relation} {num_sentences} sentences.",
    "length_constraints:number_paragraphs":
        "Write {num_paragraphs} paragraphs, with the divider *** between them.",
    "length_constraints:number_words":
        "Answer with {relation} {num_words} words.",
    "length_constraints:nth_paragraph_first_word":
        "There should be {num_paragraphs} paragraphs, with an empty line"
        " between them and nowhere else. Paragraph {nth_paragraph} must begin"
        ' with the word "{first_word}".',
    "detectable_content:number_placeholders":
        "The response must contain at least {num_placeholders} placeholders in"
        " square brackets, such as [name].",
    "detectable_content:postscript":
        "At the end of your response, add a postscript that starts with"
        ' "{postscript_marker}".',
    "detectable_format:number_bullet_lists":
        "Your answer must contain exactly {num_bullets} bullet points, each on"
        ' a line that starts with "* ".',
    "detectable_format:constrained_response":
        'Answer with one of these: "My answer is yes.", "My answer is no.",'
        ' "My answer is maybe."',
    "detectable_format:number_highlighted_sections":
        "Highlight at least {num_highlights} passages in your answer with"
        " asterisks, like *this*.",
    "detectable_format:multiple_sections":
        "Your response must have {num_sections} sections. Begin each with"
        ' "{section_spliter}" and its number, such as {section_spliter} 1.',
    "detectable_format:json_format":
        "The whole output should be JSON.",
    "detectable_format:title":
        "Your answer must contain a title in double angular brackets, such as"
        " <<a title>>.",
    "combination:two_responses":
        "Give two different responses, with six asterisks between them:"
        " ******",
    "combination:repeat_prompt":
        "Before you answer, repeat the first sentence of this request word for"
        " word, with nothing before it.",
    "startend:end_checker":
        'Finish your response with this exact phrase: "{end_phrase}" Nothing'
        " should follow it.",
    "startend:quotation":
        "Put your whole response in double quotation marks.",
    "change_case:capital_word_frequency":
        "In your response, words in all capital letters should appear"
        " {capital_relation} {capital_frequency} times.",
    "change_case:english_capital":
        "Your whole response should be in English and in capital letters only.",
    "change_case:english_lowercase":
        "Your whole response should be in English and in lowercase letters"
        " only.",
    "punctuation:no_comma":
        "Do not use any commas in your response.",
}
IDS = tuple(_FULL)

_COMPACT = {
    "keywords:existence": "has {keywords}",
    "keywords:frequency": "{keyword}{relation}{frequency}",
    "keywords:forbidden_words": "no {forbidden_words}",
    "keywords:letter_frequency": "{letter}{let_relation}{let_frequency}",
    "length_constraints:number_sentences": "sentences{relation}{num_sentences}",
    "length_constraints:number_paragraphs": "***={num_paragraphs}",
    "length_constraints:number_words": "words{relation}{num_words}",
    "detectable_content:number_placeholders": "[]>={num_placeholders}",
    "detectable_content:postscript": "{postscript_marker}",
    "detectable_format:number_highlighted_sections": "*a*>={num_highlights}",
    "detectable_format:json_format": "json",
    "detectable_format:title": "<<>>",
    "combination:two_responses": "******",
    "startend:end_checker": "end {end_phrase}",
    "startend:quotation": '""',
    "change_case:capital_word_frequency":
        "CAPS{capital_relation}{capital_frequency}",
    "punctuation:no_comma": "no ,",
}


def _pairs() -> frozenset[frozenset[str]]:
  """Returns the pairs of instructions that are never asked for together."""
  by_name = {name.rpartition(":")[2]: name for name in IDS}
  shapes = ("number_paragraphs nth_paragraph_first_word number_bullet_lists"
            " constrained_response multiple_sections json_format"
            " two_responses")
  against = {
      "english_capital": "english_lowercase capital_word_frequency"
                         " multiple_sections",
      "english_lowercase": "capital_word_frequency multiple_sections",
      "capital_word_frequency": "multiple_sections",
      "postscript": "end_checker nth_paragraph_first_word",
      "title": "nth_paragraph_first_word repeat_prompt",
      "quotation": f"{shapes} repeat_prompt",
      "number_sentences": f"{shapes} number_words postscript repeat_prompt",
      "number_highlighted_sections": "number_paragraphs number_bullet_lists"
                                     " two_responses",
      "repeat_prompt": "letter_frequency number_words two_responses"
                       " nth_paragraph_first_word",
  }
  # These go with few others.
  alone = {
      "constrained_response": "no_comma forbidden_words",
      "json_format": "existence frequency forbidden_words letter_frequency"
                     " number_placeholders number_words",
      "response_language": "no_comma forbidden_words number_sentences"
                           " number_paragraphs number_words"
                           " number_bullet_lists two_responses quotation",
  }
  for name, others in alone.items():
    rest = set(by_name) - set(others.split()) - {name}
    against[name] = " ".join([against.get(name, ""), *rest])
  found = [(a, b) for a, others in against.items() for b in others.split()]
  found += itertools.combinations(shapes.split(), 2)
  return frozenset(frozenset((by_name[a], by_name[b])) for a, b in found)


CONFLICTS = _pairs()


@dataclasses.dataclass(frozen=True)
class Problem:
  """What one prompt asks for: the request and its instructions in order."""

  request: str
  names: tuple[str, ...]
  kwargs: tuple[dict[str, Any], ...]


class Draw:
  """Draws the arguments of a problem's instructions.

  No word is drawn twice, so that none is both wanted and forbidden.
  """

  def __init__(self, rng: random.Random, style: "Style", most: int):
    self.rng = rng
    self.style = style
    self.most = most
    self._words = iter(rng.sample(style.keywords, len(style.keywords)))

  def arguments(self, name: str) -> dict[str, Any]:
    """Returns the kwargs of an instruction."""
    own = getattr(self, name.rpartition(":")[2], None)
    return own() if own else {}

  def _count(self, least: int = 1) -> int:
    return self.rng.randint(least, max(self.most, least))

  def _words_of(self, count: int) -> list[str]:
    return list(itertools.islice(self._words, count))

  def _limit(self, relation: str, count: str, least: int = 1) -> dict[str, Any]:
    """Draws a relation and a number; "less than 1" is never asked."""
    chosen = self.rng.choice(list(_RELATIONS))
    least = max(least, 2) if chosen == "less than" else least
    return {count: self._count(least), relation: chosen}

  def existence(self):
    return {"keywords": self._words_of(self.rng.randint(1, 2))}

  def forbidden_words(self):
    return {"forbidden_words": self._words_of(self.rng.randint(1, 2))}

  def frequency(self):
    return {"keyword": self._words_of(1)[0],
            **self._limit("relation", "frequency")}

  def letter_frequency(self):
    limit = self._limit("let_relation", "let_frequency")
    scarce = limit["let_relation"] == "less than"
    return {"letter": self.rng.choice(_RARE if scarce else _COMMON), **limit}

  def response_language(self):
    return {"language": self.rng.choice(list(_LANGUAGES))}

  def number_sentences(self):
    return self._limit("relation", "num_sentences")

  def number_paragraphs(self):
    return {"num_paragraphs": self._count(2)}

  def number_words(self):
    limit = self._limit("relation", "num_words")
    per_word, extra = self.style.words_per_count, self.rng.random()
    limit["num_words"] = int(per_word * (limit["num_words"] + extra))
    return limit

  def nth_paragraph_first_word(self):
    count = self._count(2)
    return {"num_paragraphs": count,
            "nth_paragraph": self.rng.randint(1, count),
            "first_word": self._words_of(1)[0]}

  def number_placeholders(self):
    return {"num_placeholders": self._count()}

  def postscript(self):
    return {"postscript_marker": self.rng.choice(["P.S.", "P.P.S"])}

  def number_bullet_lists(self):
    return {"num_bullets": self._count(2)}

  def number_highlighted_sections(self):
    return {"num_highlights": self._count()}

  def multiple_sections(self):
    return {"section_spliter": self.rng.choice(["Section", "SECTION", "Part"]),
            "num_sections": self._count(2)}

  def end_checker(self):
    phrases = self.style.endings
    return {"end_phrase": self.rng.choice(phrases) if phrases
            else self._words_of(1)[0]}

  def capital_word_frequency(self):
    return self._limit("capital_relation", "capital_frequency")


# ----- What demonstrations are made of -----


@dataclasses.dataclass(frozen=True)
class Style:
  """The words of a template.

  Attributes:
    forms: instruction -> how it is put.
    sentences: what a text is filled with, with a place for the {topic}.
    keywords: words to ask for or to forbid; none is part of another or, in
      the full template, of anything else.
    fillers: words to repeat until there are enough of a letter.
    endings: phrases to end with; empty stands for any keyword.
    words_per_count: words asked for, per unit of max_count.
    lines: what stands between the lines and parts of an answer.
    full: whether it is written in whole sentences.
  """

  forms: dict[str, str]
  sentences: tuple[str, ...]
  keywords: tuple[str, ...]
  fillers: tuple[str, ...]
  endings: tuple[str, ...]
  words_per_count: int
  lines: str
  full: bool


_KINDS = ("a short note", "a story", "a poem", "a letter", "a speech")
_TOPICS = (
    "music", "bread", "trains", "the weather", "football", "history", "sleep",
    "tea", "dogs", "cooking", "the sea", "mountains", "old films", "manners",
    "the moon", "birds", "coffee", "school", "holidays", "friendship",
    "reading", "snow", "maps", "clocks", "poetry", "swimming", "cheese",
    "farming", "cities", "health")
_SHORT = tuple(
    "cat dog sun pen cup hat map red bus tea ice leg arm bed car fan gas ink"
    " lid mud net oil pig rat sea".split())
_STYLES = {
    "full": Style(
        _FULL,
        ("Many people like {topic}", "There is a lot to learn about {topic}",
         "Children often ask about {topic}",
         "You can find a book about {topic} in most towns",
         "Few things are as good as {topic}",
         "Some days are made for {topic}",
         "My family talks about {topic} at dinner",
         "We could not live without {topic}",
         "Our teacher told us about {topic}",
         "It is easy to write about {topic}"),
        tuple("river window silver bottle candle market planet forest winter"
              " orange basket mirror pencil ladder summer copper island bridge"
              " castle hammer button carpet valley tunnel pepper dragon violin"
              " marble rocket puddle".split()),
        ("banana", "tree", "noon", "little", "sunny", "grasses", "mirth",
         "error"),
        ("Is there anything else that we can do?", "That is all for now.",
         "Thank you for reading.", "This is the end of it."),
        12, "\n", True),
    "compact": Style(_COMPACT, _SHORT, _SHORT, _SHORT, (), 1, "", False),
}
_LANGUAGES = {
    "de": ("German", "Viele Menschen mögen das sehr", "Das ist eine gute Frage",
           "Wir sprechen heute gerne darüber", "Die Kinder lernen es schon in"
           " der Schule", "Es gibt noch viel zu sagen"),
    "es": ("Spanish", "A mucha gente le gusta mucho", "Es una pregunta muy"
           " buena", "Hoy queremos hablar de esto", "Los niños lo aprenden en"
           " la escuela", "Todavía hay mucho que decir"),
    "fr": ("French", "Beaucoup de gens aiment cela", "C'est une très bonne"
           " question", "Nous voulons en parler aujourd'hui", "Les enfants"
           " l'apprennent à l'école", "Il reste encore beaucoup à dire"),
    "it": ("Italian", "A molte persone piace molto", "Questa è una bella"
           " domanda", "Oggi vogliamo parlare di questo", "I bambini lo"
           " imparano a scuola", "C'è ancora molto da dire"),
    "pt": ("Portuguese", "Muitas pessoas gostam muito disso", "Esta é uma"
           " pergunta muito boa", "Hoje queremos falar sobre isso", "As"
           " crianças aprendem isso na escola", "Ainda há muito a dizer"),
    "ru": ("Russian", "Многие люди это очень любят", "Это очень хороший"
           " вопрос", "Сегодня мы хотим об этом поговорить", "Дети учат это"
           " в школе", "Об этом можно ещё много сказать"),
}


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
      sentences = list(_LANGUAGES[language][1:])
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
    while sum(len(_words(s)) for part in parts for s in part) < wanted:
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
        len(_words(text)) >= words["num_words"]):
      return False
    ends = re.findall(r"[.?]|[^.?\s\"]\"?$", text)
    return "less than" not in sentences.values() or (
        len(ends) < sentences["num_sentences"])


def _words(text: str) -> list[str]:
  """Returns the words of a text as the verifier counts them."""
  return re.findall(r"\w+", text)


def _words_in(problem: Problem) -> set[str]:
  """Returns the words that a problem's arguments hold."""
  values = [v for kwargs in problem.kwargs for v in kwargs.values()]
  return set(_words(json.dumps(values)))


# ----- Problems -----


def load(
    split: str,
    *,
    data_dir: str,
    seed: int,
    template: str = "full",
    loose: bool = False,
    binary: bool = False,
    num_train: int = 5000,
    num_validation: int = 500,
    max_demonstrations: int = 4,
    min_instructions: int = 1,
    max_instructions: int = 3,
    max_count: int = 4,
    instructions: Sequence[str] | None = None,
) -> "Rows":
  """Returns a split.

  Args:
    split: "train" or "validation".
    data_dir: not used; nothing is built.
    seed: of the problems; validation has none of any seed's train.
    template: "full" (whole sentences) or "compact" (for a tiny policy).
    loose: whether the verifier forgives a first or last line and asterisks.
    binary: whether only an answer that follows everything counts.
    num_train: rows of the split train.
    num_validation: rows of the split validation.
    max_demonstrations: the most right answers that a row keeps.
    min_instructions: the fewest instructions of a prompt.
    max_instructions: the most instructions of a prompt.
    max_count: the largest number of things (words of a kind, paragraphs,
      bullets, ...) that an instruction asks for; words in all are twelve
      times as many in the full template.
    instructions: the ids to draw from; None for all that the template has.
  """
  del data_dir
  style = _style(template)
  names = _chosen(instructions, template, style)
  if not 1 <= min_instructions <= max_instructions:
    raise InputError(
        "instruction_following: need 1 <= min_instructions <="
        f" max_instructions, not {min_instructions} and {max_instructions}")
  if max_count < 2:
    raise InputError(
        f"instruction_following: max_count must be 2 or more, not {max_count}")
  count = {"train": num_train, "validation": num_validation}[split]
  bounds = (min_instructions, max_instructions)
  problems = _problems(style, names, bounds, max_count, f"{seed}/{split}")
  own = _own(problems, style, count, split == "validation")
  if len(own) < count:
    raise InputError(
        f"instruction_following: only {len(own)} of {count} {split} prompts"
        " are distinct under these options; ask for fewer, or for more"
        " instructions or a larger max_count")
  meta = {"loose": loose, "binary": binary}
  return Rows(list(own.items()), style, meta, max_demonstrations)


def answer(reference: dict[str, Any], seed: int = 0) -> str | None:
  """Writes a text that follows the instructions of any reference.

  None where it cannot: it has no words of the language, say, or no room. The
  topic is nobody's; what it says follows the form alone.
  """
  problem = Problem(
      "Write a text about this.", tuple(reference["instruction_id_list"]),
      tuple(reference["kwargs"]))
  style = _style("full")
  try:
    return Writer(problem, style, random.Random(seed)).write()
  except (KeyError, TypeError, ValueError):
    return None  # of other sets: arguments that are not drawn here


def _own(
    problems: Iterator[Problem | None],
    style: Style,
    count: int,
    validation: bool,
) -> dict[str, Problem]:
  """Returns the first `count` of a split by prompt; fewer if there are."""
  own: dict[str, Problem] = {}
  misses = 0
  while len(own) < count and misses < _MAX_MISSES:
    problem = next(problems)
    text = problem and prompt(problem, style)
    new = text and text not in own and _is_validation(text) == validation
    if new and Writer(problem, style, random.Random(text)).write():
      own[text] = problem
      misses = 0
    else:
      misses += 1
  return own


def _style(template: str) -> Style:
  """Returns the words of a template."""
  if template not in TEMPLATES:
    hint = base.nearest(template, TEMPLATES)
    raise InputError(f"instruction_following: no template {template!r}{hint}")
  return _STYLES[template]


def _chosen(
    given: Sequence[str] | None, template: str, style: Style
) -> list[str]:
  """Returns the instructions to draw from, or raises InputError."""
  for name in given or ():
    if name not in style.forms:
      where = "template compact has" if name in IDS else "there is"
      hint = base.nearest(name, list(style.forms))
      raise InputError(
          f"instruction_following: {where} no instruction {name!r}{hint}")
  if given is not None and not given:
    raise InputError("instruction_following: instructions is empty")
  return list(dict.fromkeys(given or style.forms))


def _problems(
    style: Style,
    names: list[str],
    bounds: tuple[int, int],
    most: int,
    seed: str,
) -> Iterator[Problem | None]:
  """Yields problems without end, None for a draw that came to nothing."""
  for index in itertools.count():
    rng = random.Random(f"{seed}/{index}")
    chosen = _compatible(names, rng.randint(*bounds), rng)
    draw = Draw(rng, style, most)
    request = ""
    if style.full:
      request = f"Write {rng.choice(_KINDS)} about {rng.choice(_TOPICS)}."
    kwargs = [draw.arguments(name) for name in chosen]
    for name, own in zip(chosen, kwargs):
      if name == "combination:repeat_prompt":
        own["prompt_to_repeat"] = request
    problem = Problem(request, tuple(chosen), tuple(kwargs))
    yield problem if len(chosen) >= bounds[0] else None


def _compatible(names: list[str], count: int, rng: random.Random) -> list[str]:
  """Draws up to `count` instructions of which no two conflict."""
  chosen: list[str] = []
  for name in rng.sample(names, len(names)):
    if len(chosen) < count and not any(
        frozenset((name, other)) in CONFLICTS for other in chosen):
      chosen.append(name)
  return chosen


_ONE = re.compile(r"\b(1 (?:time|sentence|placeholder|passage))s\b")


def prompt(problem: Problem, style: Style) -> str:
  """Writes the prompt of a problem."""
  asked = [
      style.forms[name].format(**_worded(kwargs, style))
      for name, kwargs in zip(problem.names, problem.kwargs)]
  if not style.full:
    return f"{';'.join(asked)}:"
  return _ONE.sub(r"\1", " ".join([problem.request, *asked]))


def _worded(kwargs: dict[str, Any], style: Style) -> dict[str, Any]:
  """Puts the arguments of an instruction into words."""
  worded = {}
  for key, value in kwargs.items():
    if isinstance(value, list):
      value = " and ".join(f'"{v}"' for v in value) if style.full else (
          " ".join(value))
    elif not style.full:
      value = _RELATIONS.get(value, value)
    elif key == "language":
      value = _LANGUAGES[value][0]
    worded[key] = value
  return worded


def _is_validation(text: str) -> bool:
  """Says to which split a prompt belongs, in every run."""
  digest = hashlib.sha256(text.encode()).digest()
  return digest[0] % _VALIDATION_SHARE == 0


class Rows:
  """The rows of a split; demonstrations are written as they are read."""

  def __init__(
      self,
      problems: list[tuple[str, Problem]],
      style: Style,
      meta: dict[str, Any],
      max_demonstrations: int,
  ):
    self._problems = problems
    self._style = style
    self._meta = meta
    self._max_demonstrations = max_demonstrations

  def __len__(self) -> int:
    return len(self._problems)

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < len(self):
      raise IndexError(index)
    text, problem = self._problems[index]
    reference = {
        "instruction_id_list": list(problem.names),
        "kwargs": [dict(kwargs) for kwargs in problem.kwargs],
    }
    return base.Row(
        "instruction_following", text, reference, dict(self._meta),
        self._demonstrations(text, problem))

  def _demonstrations(self, text: str, problem: Problem) -> tuple[str, ...]:
    """Writes distinct answers to a problem, the same at every call."""
    rng = random.Random(text)
    found: dict[str, None] = {}
    for _ in range(4 * self._max_demonstrations):
      if len(found) == self._max_demonstrations:
        break
      answer = Writer(problem, self._style, rng).write()
      if answer is not None:
        found[answer] = None
    return tuple(found)


def canonical(completion: str, row: base.Row) -> str:
  """Returns the words of an answer, without case and signs."""
  del row
  return " ".join(_words(completion.lower()))
