"""Verifier of instruction following: the 25 instructions of IFEval.

A reference lists the instructions in the format of IFEval's data:

  {"instruction_id_list": ["keywords:frequency", "punctuation:no_comma"],
   "kwargs": [{"keyword": "rain", "frequency": 2, "relation": "at least"}, {}]}

The function that checks an instruction is named after its id, with "_" for ":".
Each follows the definition of IFEval (Zhou et al. 2023, arXiv:2311.07911) and
its published code, with these differences:

  sentences         Split by the rules of `sentences`, not by nltk's punkt
                    model, which would have to be downloaded. The two differ on
                    abbreviations outside of both lists, on initials, and on
                    numbers of lists ("1." is no sentence here).
  capital words     "DON'T" and "U.S." are one word each; nltk splits the first
                    in two.
  languages         Detected by py3langid, not by langdetect, which is random.
                    A text must contain a letter of the language's script;
                    IFEval accepts a text without letters for any language.
                    In a text of a few letters that must be English and in
                    one case, "YES.", any word of ASCII letters is English.
  letters           May be other characters, such as "#"; IFEval's code then
                    draws a random letter instead.
  keywords          Plain text, not regular expressions; forbidden words that
                    end in a symbol ("C++") are found.
  JSON              NaN and Infinity are not JSON, though Python reads them.
  bullets           A line that is only an asterisk is not a bullet.
  postscript marks  Marks other than P.S. and P.P.S are plain text too.

As in IFEval, keywords also match within words ("cat" in "concatenate"), case
is ignored, and words are runs of letters, digits and underscores. No pattern
backtracks, so the time is linear in the length of the text.
"""

import inspect
import json
import math
import re
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import language as languages
from progrpo_jax.rewards.score import Score

IDS = (
  "keywords:existence",
  "keywords:frequency",
  "keywords:forbidden_words",
  "keywords:letter_frequency",
  "language:response_language",
  "length_constraints:number_sentences",
  "length_constraints:number_paragraphs",
  "length_constraints:number_words",
  "length_constraints:nth_paragraph_first_word",
  "detectable_content:number_placeholders",
  "detectable_content:postscript",
  "detectable_format:number_bullet_lists",
  "detectable_format:constrained_response",
  "detectable_format:number_highlighted_sections",
  "detectable_format:multiple_sections",
  "detectable_format:json_format",
  "detectable_format:title",
  "combination:two_responses",
  "combination:repeat_prompt",
  "startend:end_checker",
  "startend:quotation",
  "change_case:capital_word_frequency",
  "change_case:english_capital",
  "change_case:english_lowercase",
  "punctuation:no_comma",
)
RELATIONS = ("at least", "less than")
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

# Kinds of arguments, for checks.
_LISTS = ("keywords", "forbidden_words")
_RELATIONS = ("relation", "let_relation", "capital_relation")
_COUNTS = ("frequency", "let_frequency", "capital_frequency", "nth_paragraph")


def score(
  completion: str,
  reference: dict[str, Any],
  *,
  loose: bool = False,
  binary: bool = False,
) -> Score:
  """Scores a completion by the instructions that it follows.

  Args:
    completion: text of the model.
    reference: record of `instruction_id_list` and `kwargs`.
    loose: whether an instruction counts if any of the eight variants of the
      completion follows it, see `readings`.
    binary: whether the reward is 1 only if all instructions are followed.

  Returns:
    The share of instructions followed, or 0 or 1 if `binary`. An empty
    completion follows none. No completion makes it raise.
  """
  if not completion.strip():
    return Score(0.0, False, "no_answer")
  results = followed(completion, reference, loose=loose)
  share = sum(results) / len(results)
  return Score(float(all(results)) if binary else share, all(results), "ok")


def followed(
  completion: str, reference: dict[str, Any], *, loose: bool = False
) -> list[bool]:
  """Returns whether each instruction of a reference is followed."""
  texts = readings(completion) if loose else [completion]
  texts = [text for text in dict.fromkeys(texts) if text.strip()]
  results = []
  for name, kwargs in zip(
    reference["instruction_id_list"], reference["kwargs"]
  ):
    check, given = _check(name), _given(kwargs)
    results.append(any(check(text, **given) for text in texts))
  return results


def readings(completion: str) -> list[str]:
  """Returns the eight variants of a completion in IFEval's loose reading.

  The completion is taken whole, without its first line ("Sure, here it is:"),
  without its last line, and without both, each with and without asterisks.
  """
  lines = completion.split("\n")
  parts = [
    completion,
    "\n".join(lines[1:]).strip(),
    "\n".join(lines[:-1]).strip(),
    "\n".join(lines[1:-1]).strip(),
  ]
  return parts + [part.replace("*", "") for part in parts]


def check_reference(reference: Any) -> None:
  """Raises InputError if `score` cannot use a reference."""
  if not isinstance(reference, dict):
    raise InputError(
      "the reference of an instruction-following row must be an object with"
      f" instruction_id_list and kwargs, not a {type(reference).__name__}"
    )
  names, kwargs = (
    reference.get(key) for key in ("instruction_id_list", "kwargs")
  )
  if not isinstance(names, list) or not names:
    raise InputError("instruction_id_list must be a list of one id or more")
  if not isinstance(kwargs, list) or len(kwargs) != len(names):
    raise InputError(
      f"kwargs must be a list with one object for each of the {len(names)}"
      " ids of instruction_id_list"
    )
  for name, given in zip(names, kwargs):
    _check_kwargs(name, given)


def _check_kwargs(name: Any, kwargs: Any) -> None:
  """Raises InputError for an unknown id or wrong arguments.

  Args:
    name: id of an instruction.
    kwargs: its arguments.
  """
  if name not in IDS:
    raise InputError(f"no instruction {name!r:.100} (known: {', '.join(IDS)})")
  if not isinstance(kwargs, dict):
    raise InputError(
      f"{name}: its kwargs must be an object, not {kwargs!r:.50}"
    )
  given, wanted = _given(kwargs), arguments(name)
  for key in given:
    if key not in wanted:
      names = ", ".join(wanted) or "none"
      raise InputError(f"{name}: no argument {key!r:.50} (known: {names})")
  for key in wanted:
    if key not in given:
      raise InputError(f"{name}: needs the argument {key!r}")
    if problem := _problem(key, given[key]):
      raise InputError(
        f"{name}: {key} must be {problem}, not {given[key]!r:.100}"
      )
  if given.get("nth_paragraph", 0) > given.get("num_paragraphs", 0):
    raise InputError(
      f"{name}: nth_paragraph {given['nth_paragraph']} is more than"
      f" num_paragraphs {given['num_paragraphs']}"
    )


def arguments(name: str) -> tuple[str, ...]:
  """Returns the names of an instruction's arguments."""
  return tuple(inspect.signature(_check(name)).parameters)[1:]


def _check(name: str) -> Any:
  """Returns the function that checks an instruction."""
  if name not in IDS:
    raise KeyError(f"no instruction {name!r:.100}; check_reference tells")
  return globals()[name.replace(":", "_")]


def _given(kwargs: dict[str, Any]) -> dict[str, Any]:
  """Returns the arguments that are not null.

  Tables have a null for each argument that an instruction does not take.
  """
  return {key: value for key, value in kwargs.items() if value is not None}


def _problem(key: str, value: Any) -> str:
  """Returns what an argument must be, "" if it is valid."""
  if key in _RELATIONS:
    return "" if value in RELATIONS else " or ".join(map(repr, RELATIONS))
  if key in _COUNTS or key.startswith("num_"):
    whole = isinstance(value, (int, float)) and not isinstance(value, bool)
    least = int(key == "nth_paragraph")
    right = whole and value == value // 1 and least <= value < 1e9
    return "" if right else f"a whole number from {least} on"
  if key in _LISTS:
    right = isinstance(value, list) and value and all(map(_is_text, value))
    return "" if right else "a list of one word or more"
  if not _is_text(value):
    return "a text that is not empty"
  if key == "letter" and len(value) != 1:
    return "one character"
  if key == "language" and languages.code(value) is None:
    return f"one of {', '.join(languages.CODES)}"
  return ""


def _is_text(value: Any) -> bool:
  """Returns whether a value is a text that is not blank."""
  return isinstance(value, str) and bool(value.strip())


# ----- Counting -----

_WORD = re.compile(r"\w++")
_CAPITAL_WORD = re.compile(r"\w++(?:[-'\u2019./]\w++)*+")
# The end of a sentence: a run of marks, closing quotes and brackets, then space
# or the end of the text. Chinese and Japanese marks need no space.
_CLOSING = "\"'\u201d\u2019\u00bb)\\]}*_"
_END = re.compile(
  rf"(?<![.!?\u2026])[.!?\u2026]++[{_CLOSING}]*+(?=\s|\Z)"
  rf"|[\u3002\uff01\uff1f\u0964\u06d4\u061f]++[{_CLOSING}\u300d\u300f]*+"
)
_NEXT = re.compile(r"\s*+[\"'\u201c\u2018\u00ab(\[{*_]*+(.?)")
_ALWAYS = re.compile(r"[!?\u3002\uff01\uff1f\u0964\u06d4\u061f]")
_FEW_LETTERS = 8
_SHORT_WORD = re.compile(r"[A-Za-z]{2}")
_LOOK_BACK = 12  # characters; no abbreviation is that long

# Abbreviations before a name or an example, whose period ends no sentence ...
_WITHIN = frozenset(
  "mr mrs ms dr prof rev hon gen capt lt sgt st mt messrs mme vs e.g i.e cf"
  " fig vol p.s p.p.s".split()
)
# ... and abbreviations whose period ends one if a capital letter follows.
_EITHER = frozenset(
  "etc inc ltd corp jr sr approx dept u.s u.k u.n a.m p.m ph.d al jan feb"
  " mar apr jun jul aug sep sept oct nov dec".split()
)


def words(text: str) -> int:
  """Counts runs of letters, digits and underscores."""
  return sum(1 for _ in _WORD.finditer(text))


def sentences(text: str, enough: float = math.inf) -> int:
  """Returns the number of sentences of a text; stops counting at `enough`.

  A sentence ends at . ! ? or an ellipsis followed by space. A period after an
  abbreviation, a single capital letter other than I, or a number at the
  beginning of a line does not end one. Line breaks do not matter. A sentence
  contains at least one letter or digit.

  Args:
    text: text to count in.
    enough: number of sentences at which to stop counting.
  """
  count = begin = 0
  has_word = False  # whether there was a word since the last sentence
  for match in _END.finditer(text):
    if count >= enough:
      return count
    # Only new text is searched, else many marks without words would make the
    # time quadratic.
    has_word = has_word or (
      _WORD.search(text, begin, match.start()) is not None
    )
    begin = match.end()
    if has_word and _ends(text, match):
      count, has_word = count + 1, False
  return count + (has_word or _WORD.search(text, begin) is not None)


def _ends(text: str, match: re.Match[str]) -> bool:
  """Returns whether a match of _END ends a sentence."""
  marks = match.group()
  after = _NEXT.match(text, match.end()).group(1)
  if _ALWAYS.search(marks) or not after:
    return True
  if marks[0] == "\u2026" or marks.startswith(".."):
    return not after.islower()
  first = max(0, match.start() - _LOOK_BACK)
  before = text[first : match.start()]
  line = before.rpartition("\n")[2]
  word = re.split(r"\s", line)[-1].lstrip("\"'([*_\u201c\u2018")
  if word.isdecimal() and word == line.strip():
    # A number of a list, unless the line is longer than what was looked at.
    return first > 0 and line == before
  if len(word) == 1 and word.isupper() and word != "I":
    return False
  if word.lower() in _WITHIN:
    return False
  return word.lower() not in _EITHER or after.isupper()


def _compare(count: int, relation: str, threshold: float) -> bool:
  """Returns whether a count fulfils a relation to a threshold."""
  return count < threshold if relation == RELATIONS[1] else count >= threshold


def _literal(keyword: str) -> re.Pattern[str]:
  """Returns a pattern that finds a keyword anywhere, ignoring case."""
  return re.compile(re.escape(keyword.strip()), re.IGNORECASE)


# ----- The instructions -----


def keywords_existence(text: str, keywords: list[str]) -> bool:
  """All keywords occur."""
  return all(_literal(keyword).search(text) for keyword in keywords)


def keywords_frequency(
  text: str, keyword: str, frequency: int, relation: str
) -> bool:
  """A keyword occurs at least, or less than, `frequency` times."""
  count = sum(1 for _ in _literal(keyword).finditer(text))
  return _compare(count, relation, frequency)


def keywords_forbidden_words(text: str, forbidden_words: list[str]) -> bool:
  """None of the words occurs as a whole word."""
  return not any(
    re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, re.IGNORECASE)
    for word in forbidden_words
  )


def keywords_letter_frequency(
  text: str, letter: str, let_frequency: int, let_relation: str
) -> bool:
  """A character occurs at least, or less than, so often, ignoring case."""
  count = text.lower().count(letter.lower())
  return _compare(count, let_relation, let_frequency)


def language_response_language(text: str, language: str) -> bool:
  """The text is in a language."""
  return languages.fits(text, languages.code(language))


def length_constraints_number_sentences(
  text: str, num_sentences: int, relation: str
) -> bool:
  """There are at least, or less than, so many sentences."""
  count = sentences(text, enough=num_sentences)
  return _compare(count, relation, num_sentences)


def length_constraints_number_paragraphs(
  text: str, num_paragraphs: int
) -> bool:
  """Dividers *** make exactly so many paragraphs; no inner one is empty."""
  parts = [part.strip() for part in text.split("***")]
  inner = parts[1:-1]
  filled = sum(map(bool, parts))
  return all(inner) and filled == num_paragraphs


def length_constraints_number_words(
  text: str, num_words: int, relation: str
) -> bool:
  """There are at least, or less than, so many words."""
  return _compare(words(text), relation, num_words)


def length_constraints_nth_paragraph_first_word(
  text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
  r"""The n-th of exactly so many paragraphs begins with a word.

  Paragraphs are separated by "\n\n". As in IFEval, empty ones are numbered but
  not counted.
  """
  parts = text.split("\n\n")
  filled = sum(1 for part in parts if part.strip())
  if filled != num_paragraphs or nth_paragraph > filled:
    return False
  beginning = parts[int(nth_paragraph) - 1].split(maxsplit=1)
  if not beginning:
    return False
  word = beginning[0].lstrip("'").lstrip('"')
  return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower() == (
    first_word.strip().lower()
  )


def detectable_content_number_placeholders(
  text: str, num_placeholders: int
) -> bool:
  """There are at least so many placeholders in square brackets."""
  count = 0
  for line in text.split("\n"):
    begin = line.find("[")
    while begin >= 0 and (end := line.find("]", begin)) >= 0:
      count += 1
      begin = line.find("[", end)
  return count >= num_placeholders


def detectable_content_postscript(text: str, postscript_marker: str) -> bool:
  """The mark of a postscript occurs."""
  text, marker = text.lower(), postscript_marker.strip().lower()
  if marker == "p.p.s":
    return re.search(r"p\.\s?p\.\s?s", text) is not None
  if marker == "p.s.":
    return re.search(r"p\.\s?s\.", text) is not None
  return marker in text


def detectable_format_number_bullet_lists(text: str, num_bullets: int) -> bool:
  """Exactly so many lines begin with an asterisk or a dash."""
  lines = [line.strip() for line in text.split("\n")]
  bullets = [
    line
    for line in lines
    if line.startswith("-") or line[:1] == "*" and line[1:2] not in ("*", "")
  ]
  return len(bullets) == num_bullets


def detectable_format_constrained_response(text: str) -> bool:
  """One of the answers in OPTIONS occurs."""
  return any(option in text for option in OPTIONS)


def detectable_format_number_highlighted_sections(
  text: str, num_highlights: int
) -> bool:
  """At least so many passages are enclosed in *one* or **two** asterisks."""
  single = re.findall(r"\*([^\n*]*+)\*", text)
  double = re.findall(r"\*\*([^\n*]*+)\*\*", text)
  count = sum(1 for passage in single + double if passage.strip())
  return count >= num_highlights


def detectable_format_multiple_sections(
  text: str, section_spliter: str, num_sections: int
) -> bool:
  """There are at least so many headings of the word and a number."""
  heading = re.escape(section_spliter.strip()) + r"\s?\d"
  return sum(1 for _ in re.finditer(heading, text)) >= num_sections


def detectable_format_json_format(text: str) -> bool:
  """The whole text is JSON, optionally in a fenced block."""
  text = text.strip()
  for fence in ("```json", "```Json", "```JSON", "```"):
    text = text.removeprefix(fence)
  try:
    json.loads(
      text.removesuffix("```").strip(), parse_constant=_refuse_constant
    )
  except (ValueError, RecursionError):
    return False
  return True


def _refuse_constant(name: str) -> None:
  """Raises ValueError: Python reads NaN and Infinity, but JSON has neither."""
  raise ValueError(f"{name} is not JSON")


def detectable_format_title(text: str) -> bool:
  """A line contains a <<title>>."""
  for line in text.split("\n"):
    begin, end = line.find("<<"), line.rfind(">>")
    title = line[begin + 2 : end] if 0 <= begin < end else ""
    if title.lstrip("<").rstrip(">").strip():
      return True
  return False


def combination_two_responses(text: str) -> bool:
  """There are two different responses, separated by ******."""
  parts = [part.strip() for part in text.split("******")]
  filled = [part for part in parts if part]
  return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def combination_repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
  """The text begins with the prompt."""
  return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def startend_end_checker(text: str, end_phrase: str) -> bool:
  """The text ends with a phrase, optionally in quotation marks."""
  return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def startend_quotation(text: str) -> bool:
  """The whole text is enclosed in double quotation marks."""
  text = text.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


def change_case_capital_word_frequency(
  text: str, capital_frequency: int, capital_relation: str
) -> bool:
  """At least, or less than, so many words are in capital letters."""
  count = sum(1 for m in _CAPITAL_WORD.finditer(text) if m.group().isupper())
  return _compare(count, capital_relation, capital_frequency)


def change_case_english_capital(text: str) -> bool:
  """The text is English without small letters."""
  return text.isupper() and _is_english(text)


def change_case_english_lowercase(text: str) -> bool:
  """The text is English without capital letters."""
  return text.islower() and _is_english(text)


def _is_english(text: str) -> bool:
  """Returns whether a text may be English."""
  letters = "".join(filter(str.isalpha, text))
  if len(letters) >= _FEW_LETTERS:
    return languages.fits(text, "en")
  # Too few for the classifier, which takes "A" for English and "YES." not.
  return letters.isascii() and _SHORT_WORD.search(text) is not None


def punctuation_no_comma(text: str) -> bool:
  """There is no comma."""
  return "," not in text
