"""Instructions of drawn prompts: their wording, arguments and conflicts.

The instructions are IFEval's (Zhou et al. 2023); the wording of each depends
on the template's style. Used by the task `instruction_following`.
"""

import dataclasses
import itertools
import random
import re
from typing import Any

_RELATIONS = {"at least": ">=", "less than": "<"}
COMMON, RARE = "aeinorst", "jqxz"  # letters; no text below has a rare one

# Instruction -> wording, with its arguments as fields. FULL has every
# instruction; COMPACT has those that a few characters can express.
FULL = {
  "keywords:existence": "Include these words in the response: {keywords}.",
  "keywords:frequency": (
    'In your response, the word "{keyword}" should appear {relation}'
    " {frequency} times."
  ),
  "keywords:forbidden_words": (
    "Do not use these words in the response: {forbidden_words}."
  ),
  "keywords:letter_frequency": (
    'In your response, the letter "{letter}" should appear {let_relation}'
    " {let_frequency} times."
  ),
  "language:response_language": (
    "Your whole response should be in {language}; no other language is allowed."
  ),
  "length_constraints:number_sentences": (
    "Your response should contain {relation} {num_sentences} sentences."
  ),
  "length_constraints:number_paragraphs": (
    "Write {num_paragraphs} paragraphs, with the divider *** between them."
  ),
  "length_constraints:number_words": (
    "Answer with {relation} {num_words} words."
  ),
  "length_constraints:nth_paragraph_first_word": (
    "There should be {num_paragraphs} paragraphs, with an empty line"
    " between them and nowhere else. Paragraph {nth_paragraph} must begin"
    ' with the word "{first_word}".'
  ),
  "detectable_content:number_placeholders": (
    "The response must contain at least {num_placeholders} placeholders in"
    " square brackets, such as [name]."
  ),
  "detectable_content:postscript": (
    "At the end of your response, add a postscript that starts with"
    ' "{postscript_marker}".'
  ),
  "detectable_format:number_bullet_lists": (
    "Your answer must contain exactly {num_bullets} bullet points, each on"
    ' a line that starts with "* ".'
  ),
  "detectable_format:constrained_response": (
    'Answer with one of these: "My answer is yes.", "My answer is no.",'
    ' "My answer is maybe."'
  ),
  "detectable_format:number_highlighted_sections": (
    "Highlight at least {num_highlights} passages in your answer with"
    " asterisks, like *this*."
  ),
  "detectable_format:multiple_sections": (
    "Your response must have {num_sections} sections. Begin each with"
    ' "{section_spliter}" and its number, such as {section_spliter} 1.'
  ),
  "detectable_format:json_format": "The whole output should be JSON.",
  "detectable_format:title": (
    "Your answer must contain a title in double angular brackets, such as"
    " <<a title>>."
  ),
  "combination:two_responses": (
    "Give two different responses, with six asterisks between them: ******"
  ),
  "combination:repeat_prompt": (
    "Before you answer, repeat the first sentence of this request word for"
    " word, with nothing before it."
  ),
  "startend:end_checker": (
    'Finish your response with this exact phrase: "{end_phrase}" Nothing'
    " should follow it."
  ),
  "startend:quotation": "Put your whole response in double quotation marks.",
  "change_case:capital_word_frequency": (
    "In your response, words in all capital letters should appear"
    " {capital_relation} {capital_frequency} times."
  ),
  "change_case:english_capital": (
    "Your whole response should be in English and in capital letters only."
  ),
  "change_case:english_lowercase": (
    "Your whole response should be in English and in lowercase letters only."
  ),
  "punctuation:no_comma": "Do not use any commas in your response.",
}
IDS = tuple(FULL)

COMPACT = {
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
  "change_case:capital_word_frequency": (
    "CAPS{capital_relation}{capital_frequency}"
  ),
  "punctuation:no_comma": "no ,",
}


def _pairs() -> frozenset[frozenset[str]]:
  """Returns the pairs of instructions that are never asked for together.

  A pair conflicts if one text cannot follow both, or if `writing` cannot
  write a text that follows both.
  """
  by_name = {name.rpartition(":")[2]: name for name in IDS}
  # Each of these fixes the layout of the whole text, so no two go together.
  shapes = (
    "number_paragraphs nth_paragraph_first_word number_bullet_lists"
    " constrained_response multiple_sections json_format"
    " two_responses"
  )
  against = {
    "english_capital": (
      "english_lowercase capital_word_frequency multiple_sections"
    ),
    "english_lowercase": "capital_word_frequency multiple_sections",
    "capital_word_frequency": "multiple_sections",
    "postscript": "end_checker nth_paragraph_first_word",
    "title": "nth_paragraph_first_word repeat_prompt",
    "quotation": f"{shapes} repeat_prompt",
    "number_sentences": f"{shapes} number_words postscript repeat_prompt",
    "number_highlighted_sections": (
      "number_paragraphs number_bullet_lists two_responses"
    ),
    "repeat_prompt": (
      "letter_frequency number_words two_responses nth_paragraph_first_word"
    ),
  }
  # These conflict with all instructions but the listed ones.
  allowed = {
    "constrained_response": "no_comma forbidden_words",
    "json_format": (
      "existence frequency forbidden_words letter_frequency"
      " number_placeholders number_words"
    ),
    "response_language": (
      "no_comma forbidden_words number_sentences"
      " number_paragraphs number_words"
      " number_bullet_lists two_responses quotation"
    ),
  }
  for name, compatible in allowed.items():
    rest = set(by_name) - set(compatible.split()) - {name}
    against[name] = " ".join([against.get(name, ""), *rest])
  pairs = [(a, b) for a, others in against.items() for b in others.split()]
  pairs += itertools.combinations(shapes.split(), 2)
  return frozenset(frozenset((by_name[a], by_name[b])) for a, b in pairs)


CONFLICTS = _pairs()


@dataclasses.dataclass(frozen=True)
class Problem:
  """Content of a prompt.

  Attributes:
    request: sentence that asks for a text, "" in the compact template.
    names: ids of the instructions, in order.
    kwargs: arguments of each instruction.
  """

  request: str
  names: tuple[str, ...]
  kwargs: tuple[dict[str, Any], ...]


class Draw:
  """Draws the arguments of a problem's instructions.

  Each instruction with arguments has a method of its name. No word is drawn
  twice, so that none is both required and forbidden.

  Args:
    rng: source of randomness.
    style: style of the template.
    most: largest number of things that an instruction asks for.
  """

  def __init__(self, rng: random.Random, style: "Style", most: int):
    self.rng = rng
    self.style = style
    self.most = most
    self._words = iter(rng.sample(style.keywords, len(style.keywords)))

  def arguments(self, name: str) -> dict[str, Any]:
    """Returns the kwargs of an instruction, {} if it has none."""
    method = getattr(self, name.rpartition(":")[2], None)
    return method() if method else {}

  def _count(self, least: int = 1) -> int:
    return self.rng.randint(least, max(self.most, least))

  def _words_of(self, count: int) -> list[str]:
    return list(itertools.islice(self._words, count))

  def _limit(self, relation: str, count: str, least: int = 1) -> dict[str, Any]:
    """Draws a relation and a number, stored under the two given keys.

    "less than 1" is never drawn.
    """
    drawn = self.rng.choice(list(_RELATIONS))
    least = max(least, 2) if drawn == "less than" else least
    return {count: self._count(least), relation: drawn}

  def existence(self):
    return {"keywords": self._words_of(self.rng.randint(1, 2))}

  def forbidden_words(self):
    return {"forbidden_words": self._words_of(self.rng.randint(1, 2))}

  def frequency(self):
    return {
      "keyword": self._words_of(1)[0],
      **self._limit("relation", "frequency"),
    }

  def letter_frequency(self):
    limit = self._limit("let_relation", "let_frequency")
    # "less than" asks for a letter that the written texts do not have.
    scarce = limit["let_relation"] == "less than"
    return {"letter": self.rng.choice(RARE if scarce else COMMON), **limit}

  def response_language(self):
    return {"language": self.rng.choice(list(LANGUAGES))}

  def number_sentences(self):
    return self._limit("relation", "num_sentences")

  def number_paragraphs(self):
    return {"num_paragraphs": self._count(2)}

  def number_words(self):
    limit = self._limit("relation", "num_words")
    # Scaled to the length of a sentence, at a random point of the step.
    per_word, extra = self.style.words_per_count, self.rng.random()
    limit["num_words"] = int(per_word * (limit["num_words"] + extra))
    return limit

  def nth_paragraph_first_word(self):
    count = self._count(2)
    return {
      "num_paragraphs": count,
      "nth_paragraph": self.rng.randint(1, count),
      "first_word": self._words_of(1)[0],
    }

  def number_placeholders(self):
    return {"num_placeholders": self._count()}

  def postscript(self):
    return {"postscript_marker": self.rng.choice(["P.S.", "P.P.S"])}

  def number_bullet_lists(self):
    return {"num_bullets": self._count(2)}

  def number_highlighted_sections(self):
    return {"num_highlights": self._count()}

  def multiple_sections(self):
    return {
      "section_spliter": self.rng.choice(["Section", "SECTION", "Part"]),
      "num_sections": self._count(2),
    }

  def end_checker(self):
    phrases = self.style.endings
    return {
      "end_phrase": self.rng.choice(phrases)
      if phrases
      else self._words_of(1)[0]
    }

  def capital_word_frequency(self):
    return self._limit("capital_relation", "capital_frequency")


@dataclasses.dataclass(frozen=True)
class Style:
  """Wording of a template and of the answers to it.

  Attributes:
    forms: wording of each instruction.
    sentences: sentences that fill a text, with a field {topic}.
    keywords: words to require or forbid. None contains another; in the full
      template no other text contains one either.
    fillers: words to repeat until a text has enough of a letter.
    endings: phrases to end with; if empty, a keyword is drawn instead.
    words_per_count: number of words asked for, per unit of max_count.
    lines: separator between the lines and parts of an answer.
    full: whether texts consist of whole sentences.
  """

  forms: dict[str, str]
  sentences: tuple[str, ...]
  keywords: tuple[str, ...]
  fillers: tuple[str, ...]
  endings: tuple[str, ...]
  words_per_count: int
  lines: str
  full: bool


KINDS = ("a short note", "a story", "a poem", "a letter", "a speech")
TOPICS = (
  "music",
  "bread",
  "trains",
  "the weather",
  "football",
  "history",
  "sleep",
  "tea",
  "dogs",
  "cooking",
  "the sea",
  "mountains",
  "old films",
  "manners",
  "the moon",
  "birds",
  "coffee",
  "school",
  "holidays",
  "friendship",
  "reading",
  "snow",
  "maps",
  "clocks",
  "poetry",
  "swimming",
  "cheese",
  "farming",
  "cities",
  "health",
)
_SHORT = tuple(
  "cat dog sun pen cup hat map red bus tea ice leg arm bed car fan gas ink"
  " lid mud net oil pig rat sea".split()
)
STYLES = {
  "full": Style(
    FULL,
    (
      "Many people like {topic}",
      "There is a lot to learn about {topic}",
      "Children often ask about {topic}",
      "You can find a book about {topic} in most towns",
      "Few things are as good as {topic}",
      "Some days are made for {topic}",
      "My family talks about {topic} at dinner",
      "We could not live without {topic}",
      "Our teacher told us about {topic}",
      "It is easy to write about {topic}",
    ),
    tuple(
      "river window silver bottle candle market planet forest winter"
      " orange basket mirror pencil ladder summer copper island bridge"
      " castle hammer button carpet valley tunnel pepper dragon violin"
      " marble rocket puddle".split()
    ),
    ("banana", "tree", "noon", "little", "sunny", "grasses", "mirth", "error"),
    (
      "Is there anything else that we can do?",
      "That is all for now.",
      "Thank you for reading.",
      "This is the end of it.",
    ),
    12,
    "\n",
    True,
  ),
  "compact": Style(COMPACT, _SHORT, _SHORT, _SHORT, (), 1, "", False),
}
# Code of a language -> its English name, then sentences to fill a text with.
LANGUAGES = {
  "de": (
    "German",
    "Viele Menschen mögen das sehr",
    "Das ist eine gute Frage",
    "Wir sprechen heute gerne darüber",
    "Die Kinder lernen es schon in der Schule",
    "Es gibt noch viel zu sagen",
  ),
  "es": (
    "Spanish",
    "A mucha gente le gusta mucho",
    "Es una pregunta muy buena",
    "Hoy queremos hablar de esto",
    "Los niños lo aprenden en la escuela",
    "Todavía hay mucho que decir",
  ),
  "fr": (
    "French",
    "Beaucoup de gens aiment cela",
    "C'est une très bonne question",
    "Nous voulons en parler aujourd'hui",
    "Les enfants l'apprennent à l'école",
    "Il reste encore beaucoup à dire",
  ),
  "it": (
    "Italian",
    "A molte persone piace molto",
    "Questa è una bella domanda",
    "Oggi vogliamo parlare di questo",
    "I bambini lo imparano a scuola",
    "C'è ancora molto da dire",
  ),
  "pt": (
    "Portuguese",
    "Muitas pessoas gostam muito disso",
    "Esta é uma pergunta muito boa",
    "Hoje queremos falar sobre isso",
    "As crianças aprendem isso na escola",
    "Ainda há muito a dizer",
  ),
  "ru": (
    "Russian",
    "Многие люди это очень любят",
    "Это очень хороший вопрос",
    "Сегодня мы хотим об этом поговорить",
    "Дети учат это в школе",
    "Об этом можно ещё много сказать",
  ),
}


# Plurals after a 1, which the wording of FULL produces.
_ONE = re.compile(r"\b(1 (?:time|sentence|placeholder|passage))s\b")


def prompt(problem: Problem, style: Style) -> str:
  """Returns the prompt of a problem."""
  wordings = [
    style.forms[name].format(**_worded(kwargs, style))
    for name, kwargs in zip(problem.names, problem.kwargs)
  ]
  if not style.full:
    return f"{';'.join(wordings)}:"
  return _ONE.sub(r"\1", " ".join([problem.request, *wordings]))


def _worded(kwargs: dict[str, Any], style: Style) -> dict[str, Any]:
  """Returns the arguments of an instruction as the prompt words them."""
  worded = {}
  for key, value in kwargs.items():
    if isinstance(value, list):
      value = (
        " and ".join(f'"{v}"' for v in value)
        if style.full
        else (" ".join(value))
      )
    elif not style.full:
      value = _RELATIONS.get(value, value)
    elif key == "language":
      value = LANGUAGES[value][0]
    worded[key] = value
  return worded
