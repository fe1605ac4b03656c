import itertools
import json
import subprocess
import sys
import time
import unicodedata

import hypothesis
from hypothesis import strategies as st
import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import instruction, language
from progrpo_jax.rewards import pool as pools


def reference(name, **kwargs):
  return {"instruction_id_list": [name], "kwargs": [kwargs]}


def follows(name, text, **kwargs):
  instruction.check_reference(reference(name, **kwargs))
  return instruction.followed(text, reference(name, **kwargs))[0]


ENGLISH = "The cat sat on the mat and looked out of the window."

# id, kwargs, texts that follow it, texts that do not; limits stand side by
# side on the two sides of the border.
TABLE = [
  (
    "keywords:existence",
    dict(keywords=["rain", "sun"]),
    ["Sun and rain.", "RAIN? sunny", "trainsun"],
    ["rain", "sun", "ra in sun"],
  ),
  (
    "keywords:existence",
    dict(keywords=["a.b", "C++"]),
    ["a.b c++"],
    ["axb C++", "a.b C+"],
  ),
  (
    "keywords:frequency",
    dict(keyword="ha", frequency=2, relation="at least"),
    ["ha ha", "haha", "Ha. HA! ha"],
    ["ha", "h a h a"],
  ),
  (
    "keywords:frequency",
    dict(keyword="aa", frequency=2, relation="less than"),
    ["aaa", "none"],
    ["aaaa", "Aa aA"],
  ),
  (
    "keywords:forbidden_words",
    dict(forbidden_words=["rock", "C++"]),
    ["rocks", "shamrock C"],
    ["ROCK", "a rock.", "use C++ here", "c++"],
  ),
  (
    "keywords:letter_frequency",
    dict(letter="E", let_frequency=3, let_relation="at least"),
    ["eEe", "tree e"],
    ["ee", "trees"],
  ),
  (
    "keywords:letter_frequency",
    dict(letter="#", let_frequency=2, let_relation="less than"),
    ["#a", "a"],
    ["#a #b"],
  ),
  (
    "language:response_language",
    dict(language="en"),
    [ENGLISH, ENGLISH.upper(), "My answer is yes."],
    ["Die Katze saß auf der Matte und sah aus dem Fenster.", "1 + 1", "?"],
  ),
  (
    "language:response_language",
    dict(language="de"),
    ["Die Katze saß auf der Matte und sah aus dem Fenster.", "Das ist gut."],
    [ENGLISH, "De kat zat op de mat en keek uit het raam."],
  ),
  (
    "language:response_language",
    dict(language="zh-cn"),
    ["这是一个好天气。"],
    ["今日はとても良い天気です。", ENGLISH],
  ),
  (
    "length_constraints:number_sentences",
    dict(num_sentences=3, relation="at least"),
    ["One. Two! Three?", "a b. c d. e f"],
    ["One. Two!", "Mr. A. Mrs. B."],
  ),
  (
    "length_constraints:number_sentences",
    dict(num_sentences=3, relation="less than"),
    ["One. Two!", "1.5 and 2.5 and 3.5.", "no marks at all"],
    ["One. Two! Three?"],
  ),
  (
    "length_constraints:number_paragraphs",
    dict(num_paragraphs=2),
    ["a\n***\nb", "a***b", "***a***b***", "\n***\na\n\nc\n***\nb\n"],
    ["a\n\nb", "a", "a***b***c", "a******b", "a*** ***b"],
  ),
  (
    "length_constraints:number_words",
    dict(num_words=4, relation="at least"),
    ["one two three four", "don't e.g.", "a_b 2 c 3."],
    ["one two three", "a-b c", "."],
  ),
  (
    "length_constraints:number_words",
    dict(num_words=4, relation="less than"),
    ["one two three", "ein_wort"],
    ["one two three four"],
  ),
  (
    "length_constraints:nth_paragraph_first_word",
    dict(num_paragraphs=2, nth_paragraph=2, first_word="Rain"),
    ["a\n\nrain falls", "a\nb\n\n\"Rain's here", "a\n\n 'RAIN, b"],
    [
      "rain\n\nsun",
      "a\nrain",
      "a\n\nrain\n\nc",
      "a\n\nrainy",
      "\n\na\n\nrain",
      "a\n\n(rain)",
    ],
  ),
  (
    "detectable_content:number_placeholders",
    dict(num_placeholders=2),
    ["[a] [b]", "[][]", "[a]\n[b c] [d"],
    ["[a]", "[a [b]", "[a\n] [b]"],
  ),
  (
    "detectable_content:postscript",
    dict(postscript_marker="P.S."),
    ["Bye. P.S. more", "p. s. more", "P.P.S. more"],
    ["PS more", "P.S more"],
  ),
  (
    "detectable_content:postscript",
    dict(postscript_marker="P.P.S"),
    ["Bye\nP.P.S more", "p. p. s"],
    ["P.S. more", "PPS"],
  ),
  (
    "detectable_content:postscript",
    dict(postscript_marker="NB:"),
    ["a nb: b"],
    ["NB b"],
  ),
  (
    "detectable_format:number_bullet_lists",
    dict(num_bullets=2),
    ["* a\n* b", "- a\n  * b", "x\n\n*a\n-b\ny"],
    [
      "* a",
      "* a\n* b\n* c",
      "** a\n* b",
      "* a * b",
      "1. a\n2. b",
      "*\n* b",
      "*\t\n* b",
    ],
  ),
  (
    "detectable_format:constrained_response",
    {},
    ["My answer is yes.", "Well: My answer is maybe. Good?"],
    ["my answer is yes.", "My answer is yes", "yes"],
  ),
  (
    "detectable_format:number_highlighted_sections",
    dict(num_highlights=2),
    ["*a* **b**", "*a b* c *d*", "**a** **b**"],
    ["*a*", "**a**", "* * *a*", "*a\nb* *c*", "****", "*a*b*"],
  ),
  (
    "detectable_format:multiple_sections",
    dict(section_spliter="Section", num_sections=2),
    ["Section 1\na\nSection 2\nb", "Section1 Section 23"],
    ["Section 1\na", "SECTION 1\nSECTION 2", "Section A Section B"],
  ),
  (
    "detectable_format:json_format",
    {},
    ['{"a": [1, null]}', "```json\n[1]\n```", "``` 5 ```", '"text"'],
    [
      *("{a: 1}", "{'a': 1}", 'Here: {"a": 1}', "```", "{}{}"),
      *("NaN", '{"a": Infinity}', "[-Infinity]", "```json\n[NaN]\n```"),
    ],
  ),
  (
    "detectable_format:title",
    {},
    ["<<A title>>\ntext", "a << b >> c", "<<<a>>>"],
    ["<a>", "<<>>", "<< >>", "<<a\nb>>", ">>a<<", "<<a>"],
  ),
  (
    "combination:two_responses",
    {},
    ["a\n******\nb", "******a******b******"],
    ["a", "a******a ", "a******b******c", "a*** ***b", "a************b"],
  ),
  (
    "combination:repeat_prompt",
    dict(prompt_to_repeat="Say it. "),
    ["Say it. Yes.", " SAY IT.\nYes."],
    ["Say it", "I say it.", "Yes. Say it."],
  ),
  (
    "startend:end_checker",
    dict(end_phrase=" The end."),
    ["x. The end.", "the END. \n", '"x. The end."'],
    ["The end", "The end. x", "The end.)"],
  ),
  (
    "startend:quotation",
    {},
    ['"a"', ' "a" "b"\n', '""'],
    ["a", '"', '"a', '"a" b', "'a'"],
  ),
  (
    "change_case:capital_word_frequency",
    dict(capital_frequency=2, capital_relation="at least"),
    ["ONE TWO", "I am OK", "a GO-KART. U.S.", "DON'T GO"],
    ["ONE Two", "GO-KART", "iPHONE NASA's", "DON'T", "1 2"],
  ),
  (
    "change_case:capital_word_frequency",
    dict(capital_frequency=2, capital_relation="less than"),
    ["I", "none"],
    ["I GO"],
  ),
  (
    "change_case:english_capital",
    {},
    [ENGLISH.upper(), "MY ANSWER IS YES. 2", "YES.", "NO", "I AM OK"],
    [
      *(ENGLISH, "DIE KATZE SASS AUF DER MATTE UND SAH HINAUS.", "123"),
      *("A", "123 A", "A B C", "\u0414\u0410.", "\u00dcBEL", "Yes."),
    ],
  ),
  (
    "change_case:english_lowercase",
    {},
    [ENGLISH.lower(), "my answer is yes. 2", "yes.", "no"],
    [
      *(ENGLISH, "die katze saß auf der matte und sah hinaus.", "123"),
      *("a", "123 a", "\u0434\u0430.", "yes, I."),
    ],
  ),
  ("punctuation:no_comma", {}, ["a; b", "a\uff0cb"], [",", "a, b"]),
]


def test_there_are_25_and_the_table_has_each():
  assert len(set(instruction.IDS)) == 25
  assert {row[0] for row in TABLE} == set(instruction.IDS)


@pytest.mark.parametrize(
  "name, kwargs, right, wrong",
  TABLE,
  ids=[f"{row[0]}-{i}" for i, row in enumerate(TABLE)],
)
def test_definitions(name, kwargs, right, wrong):
  for text in right:
    assert follows(name, text, **kwargs), text
  for text in wrong:
    assert not follows(name, text, **kwargs), text


@pytest.mark.parametrize(
  "text, count",
  [
    ("", 0),
    ("!!! ... ***", 0),
    ("Hello", 1),
    ("Hello.", 1),
    ("hi. there", 2),
    ("Dr. Smith met Mr. J. Jones. They ate.", 2),
    ("So do I. Then we go.", 2),
    ("Fruit, e.g. Red apples. Good.", 2),
    ("1. Buy milk.\n2. Go.", 2),
    ("\n 1. Buy.", 1),
    ("I have 5. You too.", 2),
    ("It was in a year long gone 1999. Then it was over.", 2),
    ("Wait... what? No!", 2),
    ("Wait... What?", 2),
    ("Well\u2026 so.", 1),
    ('"Go!" she said. "Now."', 3),
    ("(One.) (Two.)", 2),
    ("**One.** Two.", 2),
    ("It is 3.14 at www.x.com here.", 1),
    ("What?! Yes?!", 2),
    ("At 5 p.m. we go. At 5 p.m. We go.", 3),
    ("etc. And etc.", 2),
    ("one\n\ntwo", 1),
    ("* One.\n* Two.", 2),
    ("P.S. Thanks.", 1),
    ("今日は良い。明日も。", 2),
    ("यह अच्छा है। वह भी।", 2),
    ("One.Two", 1),
    ("One.  \n Two.", 2),
    ("a.b c. d", 2),
  ],
)
def test_sentences(text, count):
  assert instruction.sentences(text) == count


PAIR = {
  "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
  "kwargs": [{}, {}],
}


@pytest.mark.parametrize(
  "text, share, binary",
  [
    ('"a"', 1.0, 1.0),
    ("a", 0.5, 0.0),
    ('"a, b"', 0.5, 0.0),
    ("a, b", 0.0, 0.0),
  ],
)
def test_reward_is_the_share_followed_or_all_or_nothing(text, share, binary):
  full = share == 1
  assert instruction.score(text, PAIR) == (share, full, "ok")
  assert instruction.score(text, PAIR, binary=True) == (binary, full, "ok")


@pytest.mark.parametrize("text", ["", " \n\t"])
@pytest.mark.parametrize("loose", [False, True])
def test_an_empty_answer_follows_nothing(text, loose):
  for name, kwargs, *_ in TABLE:
    found = instruction.score(text, reference(name, **kwargs), loose=loose)
    assert found == (0.0, False, "no_answer")


@pytest.mark.parametrize(
  "name, text, kwargs",
  [
    ("startend:quotation", 'Sure:\n"a"', {}),
    ("startend:quotation", '"a"\nDone.', {}),
    ("startend:quotation", 'Sure:\n"a"\nDone.', {}),
    ("startend:quotation", '**"a"**', {}),
    ("startend:quotation", '*Sure:*\n**"a"**', {}),
    ("startend:quotation", '**"a"**\n*Done.*', {}),
    ("startend:quotation", 'Sure\n*"a"*\nDone', {}),
    ("detectable_format:json_format", "Here it is:\n{}\nI hope it helps", {}),
    ("punctuation:no_comma", "Well, yes:\nno", {}),
  ],
)
def test_loose_forgives_a_first_and_a_last_line_and_asterisks(
  name, text, kwargs
):
  one = reference(name, **kwargs)
  assert instruction.score(text, one).reward == 0
  assert instruction.score(text, one, loose=True) == (1.0, True, "ok")


def test_loose_readings_by_hand():
  assert instruction.readings("a\n*b*\nc") == [
    "a\n*b*\nc",
    "*b*\nc",
    "a\n*b*",
    "*b*",
    "a\nb\nc",
    "b\nc",
    "a\nb",
    "b",
  ]


def test_loose_does_not_take_what_is_left_of_nothing():
  one = reference("punctuation:no_comma")
  assert not instruction.score("a, b", one, loose=True).correct
  assert not instruction.score("a, b\nc, d", one, loose=True).correct
  assert not instruction.score("*,*", one, loose=True).correct


def test_strict_sees_what_stands_before():
  for before in ("Sure! Here it is:\n", "<think>, "):
    assert not follows("startend:quotation", before + '"a"')
    assert not follows("detectable_format:json_format", before + "{}")
    assert not follows(
      "combination:repeat_prompt", before + "Say", prompt_to_repeat="Say"
    )


def test_floats_and_nulls_of_a_table_are_taken():
  row = {
    "instruction_id_list": ["length_constraints:number_words"],
    "kwargs": [{"num_words": 2.0, "relation": "at least", "keywords": None}],
  }
  instruction.check_reference(row)
  assert instruction.followed("a b", row) == [True]
  nth = reference(
    "length_constraints:nth_paragraph_first_word",
    num_paragraphs=2.0,
    nth_paragraph=2.0,
    first_word="b",
  )
  instruction.check_reference(nth)
  assert instruction.followed("a\n\nb", nth) == [True]


@pytest.mark.parametrize(
  "bad, words",
  [
    (None, "must be an object"),
    ([], "must be an object"),
    ({}, "instruction_id_list must be a list"),
    ({"instruction_id_list": [], "kwargs": []}, "one id or more"),
    (
      {"instruction_id_list": ["punctuation:no_comma"], "kwargs": []},
      "each of the 1 ids",
    ),
    ({"instruction_id_list": ["punctuation:no_comma"]}, "kwargs must be"),
    (
      {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [None]},
      "punctuation:no_comma: its kwargs must be an object, not None",
    ),
    (reference("punctuation:no_comas"), "no instruction 'punctuation:no_com"),
    ({"instruction_id_list": [["a"]], "kwargs": [{}]}, "no instruction"),
    (reference("punctuation:no_comma", n=1), "no argument 'n'.*none"),
    (reference("keywords:existence"), "needs the argument 'keywords'"),
    (reference("keywords:existence", keywords=None), "needs the argument"),
    (reference("keywords:existence", keywords=[]), "a list of one word"),
    (reference("keywords:existence", keywords="rain"), "a list of one word"),
    (reference("keywords:existence", keywords=["a", " "]), "a list of one"),
    (
      reference("keywords:existence", keyword="rain"),
      r"no argument 'keyword' \(known: keywords\)",
    ),
    (
      reference(
        "keywords:letter_frequency",
        letter="ab",
        let_frequency=1,
        let_relation="at least",
      ),
      "letter must be one character",
    ),
    (
      reference(
        "keywords:letter_frequency",
        letter="a",
        let_frequency=1,
        let_relation="at most",
      ),
      "'at least' or 'less than'",
    ),
    (
      reference("language:response_language", language="tlh"),
      "language must be one of af, ar",
    ),
    (
      reference("detectable_format:number_bullet_lists", num_bullets=1.5),
      "a whole number from 0 on",
    ),
    (
      reference("detectable_format:number_bullet_lists", num_bullets=True),
      "a whole number",
    ),
    (
      reference("detectable_format:number_bullet_lists", num_bullets=-1),
      "a whole number",
    ),
    (
      reference(
        "detectable_format:number_bullet_lists", num_bullets=float("nan")
      ),
      "a whole number",
    ),
    (
      reference(
        "detectable_format:number_bullet_lists", num_bullets=float("inf")
      ),
      "a whole number",
    ),
    (
      reference(
        "length_constraints:nth_paragraph_first_word",
        num_paragraphs=2,
        nth_paragraph=0,
        first_word="a",
      ),
      "a whole number from 1 on",
    ),
    (
      reference(
        "length_constraints:nth_paragraph_first_word",
        num_paragraphs=2,
        nth_paragraph=3,
        first_word="a",
      ),
      "nth_paragraph 3 is more than num_paragraphs 2",
    ),
    (reference("startend:end_checker", end_phrase=" "), "not empty"),
    (reference("startend:end_checker", end_phrase=5), "not empty, not 5"),
  ],
)
def test_bad_references_are_named(bad, words):
  with pytest.raises(InputError, match=words):
    instruction.check_reference(bad)


def test_a_reference_that_was_not_checked_is_no_wrong_answer():
  with pytest.raises(KeyError, match="no instruction"):
    instruction.score("a", reference("words"))


def test_arguments_are_the_published_ones():
  found = {n: instruction.arguments(n) for n in instruction.IDS}
  assert found["keywords:letter_frequency"] == (
    "letter",
    "let_frequency",
    "let_relation",
  )
  assert found["detectable_format:multiple_sections"] == (
    "section_spliter",
    "num_sections",
  )
  assert {a for own in found.values() for a in own} == set(
    "keywords keyword frequency relation forbidden_words letter let_frequency"
    " let_relation language num_sentences num_paragraphs num_words"
    " nth_paragraph first_word num_placeholders postscript_marker num_bullets"
    " num_highlights section_spliter num_sections prompt_to_repeat end_phrase"
    " capital_frequency capital_relation".split()
  )


# ----- A second reading of each definition, character by character -----


def runs(text, inside):
  """Maximal runs of characters for which `inside` holds."""
  return [
    "".join(group) for key, group in itertools.groupby(text, inside) if key
  ]


def is_word(char):
  return char == "_" or char.isalnum()


def places(text, part):
  """Where a part stands, without overlaps, from the left."""
  found, at = [], 0
  while at + len(part) <= len(text):
    if text[at : at + len(part)] == part:
      found.append(at)
      at += len(part)
    else:
      at += 1
  return found


def cut(text, divider):
  """The pieces between dividers."""
  pieces, at = [], 0
  for place in places(text, divider):
    pieces.append(text[at:place])
    at = place + len(divider)
  return [*pieces, text[at:]]


def compared(count, kwargs):
  values = list(kwargs.values())
  number = next(v for v in values if isinstance(v, int))
  return (count >= number) == ("at least" in values)


def second_existence(text, keywords):
  return all(places(text.lower(), k.lower()) for k in keywords)


def second_frequency(text, **kw):
  return compared(len(places(text.lower(), kw["keyword"].lower())), kw)


def second_forbidden_words(text, forbidden_words):
  for word in forbidden_words:
    for at in range(len(text)):
      end = at + len(word)
      before = at > 0 and is_word(text[at - 1])
      after = end < len(text) and is_word(text[end])
      if text[at:end].lower() == word.lower() and not before and not after:
        return False
  return True


def second_letter_frequency(text, **kw):
  wanted = kw["letter"].lower()
  return compared(sum(char.lower() == wanted for char in text), kw)


def second_number_words(text, **kw):
  return compared(len(runs(text, is_word)), kw)


def second_number_paragraphs(text, num_paragraphs):
  blank = [not piece.strip() for piece in cut(text, "***")]
  return not any(blank[1:-1]) and blank.count(False) == num_paragraphs


def second_nth_paragraph_first_word(
  text, num_paragraphs, nth_paragraph, first_word
):
  pieces = cut(text, "\n\n")
  if sum(1 for p in pieces if p.strip()) != num_paragraphs:
    return False
  words = pieces[nth_paragraph - 1].split()
  if not words:
    return False
  word = words[0]
  for quote in "'\"":
    while word[:1] == quote:
      word = word[1:]
  kept = ""
  for char in word:
    if char in ".,?!'\"":
      break
    kept += char
  return kept.lower() == first_word.lower()


def second_number_placeholders(text, num_placeholders):
  count, opened = 0, False
  for char in text:
    if char == "\n":
      opened = False
    elif char == "[":
      opened = True
    elif char == "]" and opened:
      count, opened = count + 1, False
  return count >= num_placeholders


def second_postscript(text, postscript_marker):
  letters = [c for c in postscript_marker.lower() if c != "."]
  last = postscript_marker[-1] == "."
  text = text.lower()
  for start in range(len(text)):
    at = start
    for i, letter in enumerate(letters):
      if i and text[at : at + 1].isspace():
        at += 1
      mark = letter + "." if i + 1 < len(letters) or last else letter
      if text[at : at + len(mark)] != mark:
        break
      at += len(mark)
    else:
      return True
  return False


def second_number_bullet_lists(text, num_bullets):
  count = 0
  for line in cut(text, "\n"):
    line = line.strip()
    if line and line[0] == "-":
      count += 1
    elif line and line[0] == "*" and (line + "*")[1] != "*":
      count += 1
  return count == num_bullets


def second_constrained_response(text):
  return any(
    places(text, f"My answer is {word}.") for word in ("yes", "no", "maybe")
  )


def highlights(text, marks):
  """Passages between marks, taken from the left, none with a mark inside."""
  count = at = 0
  while at < len(text):
    end = at + len(marks)
    if text[at:end] == marks:
      while end < len(text) and text[end] not in "*\n":
        end += 1
      if text[end : end + len(marks)] == marks:
        count += not text[at + len(marks) : end].isspace() and (
          end > at + len(marks)
        )
        at = end + len(marks)
        continue
    at += 1
  return count


def second_number_highlighted_sections(text, num_highlights):
  return highlights(text, "*") + highlights(text, "**") >= num_highlights


def second_multiple_sections(text, section_spliter, num_sections):
  count = 0
  for at in places(text, section_spliter):
    rest = text[at + len(section_spliter) :]
    rest = rest[1:] if rest[:1].isspace() else rest
    count += rest[:1].isdecimal()
  return count >= num_sections


def second_json_format(text):
  text = text.strip()
  for fence in ("```json", "```Json", "```JSON", "```"):
    if text[: len(fence)] == fence:
      text = text[len(fence) :]
  if text[-3:] == "```":
    text = text[:-3]
  try:
    decoder = json.JSONDecoder(parse_constant=int)  # which raises
    _, end = decoder.raw_decode(text.strip())
    return end == len(text.strip())
  except ValueError:
    return False


def second_title(text):
  for line in cut(text, "\n"):
    for begin in range(len(line)):
      for end in range(begin + 3, len(line)):
        if line[begin : begin + 2] == "<<" and line[end : end + 2] == ">>":
          inner = line[begin:end]
          while inner[:1] == "<":
            inner = inner[1:]
          while inner[-1:] == ">":
            inner = inner[:-1]
          if inner.strip():
            return True
  return False


def second_two_responses(text):
  pieces = [piece.strip() for piece in cut(text, "******")]
  while pieces and not pieces[0]:
    del pieces[0]
    break
  if pieces and not pieces[-1]:
    del pieces[-1]
  return len(pieces) == 2 and "" not in pieces and pieces[0] != pieces[1]


def second_repeat_prompt(text, prompt_to_repeat):
  start = text.strip()[: len(prompt_to_repeat)]
  return start.lower() == prompt_to_repeat.lower()


def second_end_checker(text, end_phrase):
  text = text.strip()
  while text[-1:] == '"':
    text = text[:-1]
  end = text[len(text) - len(end_phrase) :] if end_phrase else ""
  return len(text) >= len(end_phrase) and end.lower() == end_phrase.lower()


def second_quotation(text):
  text = text.strip()
  return len(places(text, '"')) > 1 and text[:1] + text[-1:] == '""'


def second_capital_word_frequency(text, **kw):
  count = 0
  chars = list(text)
  for i in range(1, len(chars) - 1):  # what joins two halves is of the word
    if (
      chars[i] in "-'\u2019./"
      and is_word(text[i - 1])
      and (is_word(text[i + 1]))
    ):
      chars[i] = "_"
  for word in runs("".join(chars), is_word):
    cased = [c for c in word if c.lower() != c.upper()]
    count += bool(cased) and all(c == c.upper() for c in cased)
  return compared(count, kw)


def second_no_comma(text):
  return all(char != "," for char in text)


RELATED = st.sampled_from(instruction.RELATIONS)
SMALL = st.integers(0, 4)
PARTS = st.integers(1, 3)
WORD = st.sampled_from(["a", "ab", "B", "a-b"])
KWARGS = {
  "keywords:existence": dict(keywords=st.lists(WORD, min_size=1)),
  "keywords:frequency": dict(keyword=WORD, frequency=SMALL, relation=RELATED),
  "keywords:forbidden_words": dict(forbidden_words=st.lists(WORD, min_size=1)),
  "keywords:letter_frequency": dict(
    letter=st.sampled_from("aB*"), let_frequency=SMALL, let_relation=RELATED
  ),
  "length_constraints:number_paragraphs": dict(num_paragraphs=PARTS),
  "length_constraints:number_words": dict(num_words=SMALL, relation=RELATED),
  "length_constraints:nth_paragraph_first_word": dict(
    num_paragraphs=st.just(2), nth_paragraph=st.integers(1, 2), first_word=WORD
  ),
  "detectable_content:number_placeholders": dict(num_placeholders=SMALL),
  "detectable_content:postscript": dict(
    postscript_marker=st.sampled_from(["P.S.", "P.P.S"])
  ),
  "detectable_format:number_bullet_lists": dict(num_bullets=SMALL),
  "detectable_format:constrained_response": {},
  "detectable_format:number_highlighted_sections": dict(num_highlights=SMALL),
  "detectable_format:multiple_sections": dict(
    section_spliter=st.sampled_from(["Section", "a"]), num_sections=SMALL
  ),
  "detectable_format:json_format": {},
  "detectable_format:title": {},
  "combination:two_responses": {},
  "combination:repeat_prompt": dict(prompt_to_repeat=WORD),
  "startend:end_checker": dict(end_phrase=WORD),
  "startend:quotation": {},
  "change_case:capital_word_frequency": dict(
    capital_frequency=SMALL, capital_relation=RELATED
  ),
  "punctuation:no_comma": {},
}
TELLING = [
  "a",
  "b",
  "B",
  "AB",
  "1",
  "_",
  " ",
  "\n",
  "\n\n",
  "*",
  "**",
  "***",
  "******",
  "-",
  "[",
  "]",
  "[a]",
  "<",
  ">",
  "<<",
  ">>",
  '"',
  "'",
  ".",
  ",",
  "!",
  "?",
  "p.",
  "s.",
  "P.S.",
  "P. P. S",
  "Section",
  "a 1",
  "{",
  "}",
  "[1]",
  "```",
  "```json",
  "My answer is yes.",
  "\t",
  "/",
  "\u2019",
  "é",
  "ß",
]
TEXTS = st.one_of(
  st.lists(st.sampled_from(TELLING), min_size=1, max_size=12).map("".join),
  st.lists(
    st.sampled_from(TELLING), min_size=1, max_size=3, unique=True
  ).flatmap(
    lambda few: st.lists(st.sampled_from(few), max_size=10).map("".join)
  ),
  st.text(max_size=30),
).filter(
  lambda text: text.strip() and text == unicodedata.normalize("NFKC", text)
)
WITHOUT = {
  "language:response_language",
  "length_constraints:number_sentences",
  "change_case:english_capital",
  "change_case:english_lowercase",
}


def test_second_readings_are_of_all_but_languages_and_sentences():
  assert set(KWARGS) | WITHOUT == set(instruction.IDS)


@pytest.mark.parametrize("name", KWARGS)
def test_agrees_with_a_second_reading(name):
  second = globals()[f"second_{name.rpartition(':')[2]}"]
  table = [(row[1], row[2] + row[3]) for row in TABLE if row[0] == name]

  @hypothesis.settings(max_examples=200, deadline=None)
  @hypothesis.given(TEXTS, st.fixed_dictionaries(KWARGS[name]))
  def check(text, kwargs):
    one = reference(name, **kwargs)
    assert instruction.followed(text, one) == [second(text, **kwargs)]

  check()
  for kwargs, texts in table:
    kwargs = {
      k: v.strip() if isinstance(v, str) else v for k, v in kwargs.items()
    }
    if "NB:" not in kwargs.values():
      for text in texts:
        one = reference(name, **kwargs)
        assert instruction.followed(text, one) == [second(text, **kwargs)], text


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
  st.lists(
    st.tuples(
      st.lists(
        st.sampled_from(["rain", "Sun", "of", "tea2"]), min_size=1, max_size=4
      ),
      st.sampled_from([".", "!", "?", "?!", '."', ".)"]),
      st.sampled_from([" ", "\n", "\n\n", "  "]),
    ),
    max_size=8,
  )
)
def test_sentences_of_plain_words_are_counted_exactly(parts):
  text = "".join(" ".join(words) + end + gap for words, end, gap in parts)
  assert instruction.sentences(text) == len(parts)
  assert instruction.sentences(text + "and a rest") == len(parts) + 1


# ----- Languages -----


@pytest.mark.parametrize(
  "code, text",
  [
    ("ar", "هذا يوم جيد للذهاب إلى السوق مع الأصدقاء"),
    ("bg", "Днес времето е хубаво и отиваме на пазар с приятели"),
    ("bn", "আজ আবহাওয়া ভালো এবং আমরা বাজারে যাচ্ছি"),
    ("de", "Heute ist das Wetter schön und wir gehen auf den Markt"),
    ("en", "Today the weather is nice and we are going to the market"),
    ("es", "Hoy hace buen tiempo y vamos al mercado con los amigos"),
    ("fa", "امروز هوا خوب است و ما با دوستان به بازار می رویم"),
    ("fi", "Tänään on hyvä sää ja menemme torille ystävien kanssa"),
    ("fr", "Aujourd'hui il fait beau et nous allons au marché"),
    ("gu", "આજે હવામાન સારું છે અને અમે બજારમાં જઈએ છીએ"),
    ("he", "היום מזג האוויר נעים ואנחנו הולכים לשוק עם חברים"),
    ("hi", "आज मौसम अच्छा है और हम दोस्तों के साथ बाजार जा रहे हैं"),
    ("it", "Oggi il tempo è bello e andiamo al mercato con gli amici"),
    ("ja", "今日は天気が良いので友達と市場に行きます"),
    ("kn", "ಇಂದು ಹವಾಮಾನ ಚೆನ್ನಾಗಿದೆ ಮತ್ತು ನಾವು ಮಾರುಕಟ್ಟೆಗೆ ಹೋಗುತ್ತಿದ್ದೇವೆ"),
    ("ko", "오늘은 날씨가 좋아서 친구들과 시장에 갑니다"),
    ("ml", "ഇന്ന് കാലാവസ്ഥ നല്ലതാണ് ഞങ്ങൾ ചന്തയിലേക്ക് പോകുന്നു"),
    ("mr", "आज हवामान चांगले आहे आणि आम्ही मित्रांसोबत बाजारात जात आहोत"),
    ("ne", "आज मौसम राम्रो छ र हामी साथीहरूसँग बजार जाँदै छौं"),
    ("pa", "ਅੱਜ ਮੌਸਮ ਚੰਗਾ ਹੈ ਅਤੇ ਅਸੀਂ ਬਾਜ਼ਾਰ ਜਾ ਰਹੇ ਹਾਂ"),
    ("pl", "Dzisiaj jest ładna pogoda i idziemy na targ z przyjaciółmi"),
    ("pt", "Hoje o tempo está bom e vamos ao mercado com os amigos"),
    ("ru", "Сегодня хорошая погода и мы идём на рынок с друзьями"),
    ("sw", "Leo hali ya hewa ni nzuri na tunaenda sokoni na marafiki"),
    ("ta", "இன்று வானிலை நன்றாக உள்ளது நாங்கள் சந்தைக்கு செல்கிறோம்"),
    ("te", "ఈరోజు వాతావరణం బాగుంది మరియు మేము మార్కెట్‌కు వెళ్తున్నాము"),
    ("th", "วันนี้อากาศดีและเรากำลังจะไปตลาดกับเพื่อน"),
    ("uk", "Сьогодні гарна погода і ми йдемо на ринок з друзями"),
    ("ur", "آج موسم اچھا ہے اور ہم دوستوں کے ساتھ بازار جا رہے ہیں"),
    ("vi", "Hôm nay thời tiết đẹp và chúng tôi đi chợ với bạn bè"),
    ("zh", "今天天气很好，我们和朋友一起去市场"),
  ],
)
def test_languages_of_ifeval_are_told_apart(code, text):
  assert language.fits(text, code)
  assert [c for c in language.CODES if language.fits(text, c)] == [code]


@pytest.mark.parametrize(
  ("text", "code"),
  [
    (text, code)
    for text in ('{"a": 1}', "A\n\nB\n\nC", '""')
    for code in ("kn", "pa", "th", "zh", "ja", "ko", "el", "ar", "ru", "hi")
  ]
  + [("1 ы 2", "en"), ("1 ы 2", "kn"), ("", "en")],
)
def test_few_letters_are_in_no_language_of_another_script(text, code):
  assert not language.fits(text, code)


def test_codes():
  assert language.code(" ZH-TW ") == "zh"
  assert language.code("en") == "en"
  assert language.code("english") is None


def test_long_text_is_read_at_both_ends():
  german = "Das ist ein ganz gewöhnlicher Satz. " * 400
  english = "This is a perfectly ordinary sentence. " * 400
  assert language.fits(english, "en")
  assert not language.fits(english + german * 3, "en")


# ----- Robustness -----


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
  st.one_of(
    st.text(alphabet=st.characters()),
    st.text(alphabet="*<>[]\n.\"' \x00"),
    TEXTS,
    st.text(alphabet="\ud800\udfff\u0301\u0130ß"),
  ),
  st.booleans(),
  st.booleans(),
)
def test_no_text_raises(text, loose, binary):
  every = {
    "instruction_id_list": [row[0] for row in TABLE],
    "kwargs": [row[1] for row in TABLE],
  }
  found = instruction.score(text, every, loose=loose, binary=binary)
  assert 0 <= found.reward <= 1 and not found.correct
  assert (found.status == "no_answer") == (not text.strip())


UNITS = (
  "*",
  "***",
  "******",
  "<",
  "<<",
  ">>",
  "<<a",
  "[",
  "[]",
  "]",
  "\n",
  " ",
  "\n\n",
  ".",
  ". ",
  '."',
  "?",
  "a.",
  "a. ",
  "A. ",
  "...",
  "\u2026",
  '"',
  "'",
  "-",
  "* ",
  "- \n",
  "a",
  "a-",
  "A ",
  "1. ",
  "1",
  "Section 1",
  "p. ",
  "p.s",
  "{",
  "```",
  '{"a":',
  "\u0301",
  "\u0316\u0301",
  "\u0130",
  "\x00",
  "\ud800",
  ",",
  "My answer is ",
  "word ",
  "rain",
  "9",
  "\t\n",
  "A. \n",
)


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_in_proportion_to_the_text(unit):
  """Whatever is quadratic in 100 000 characters takes minutes."""
  text = unit * (100_000 // len(unit)) + "x"
  start = time.process_time()
  for name, kwargs, *_ in TABLE:
    instruction.followed(text, reference(name, **kwargs))
  assert time.process_time() - start < 10


def test_a_megabyte_is_judged_in_seconds():
  for unit in ("A. ", "<", "[]", "\n", "*", "word, ", "- \n"):
    text = unit * (1_000_000 // len(unit)) + "x"
    start = time.process_time()
    for name in (
      "length_constraints:number_sentences",
      "detectable_content:number_placeholders",
      "detectable_format:number_bullet_lists",
      "detectable_format:title",
      "change_case:english_lowercase",
    ):
      kwargs = next(row[1] for row in TABLE if row[0] == name)
      instruction.score(text, reference(name, **kwargs), loose=True)
    assert time.process_time() - start < 30


def test_loads_its_model_before_an_items_clock_starts():
  one = reference("language:response_language", language="en")
  call = "progrpo_jax.rewards.instruction:score"
  items = [
    pools.Item(call, ENGLISH, one, {}),
    pools.Item(call, ENGLISH, one, {"loose": True}),
    pools.Item(
      call,
      f"<think>{ENGLISH}</think> Nein, das ist falsch.",
      reference("startend:quotation"),
      {},
    ),
  ]
  with pools.Pool(workers=1) as pool:
    found = pool.score(items)
  assert found[:2] == [(1.0, True, "ok")] * 2
  assert found[2] == (0.0, False, "ok")


def test_needs_no_jax():
  code = (
    "import sys; from progrpo_jax.rewards import instruction;"
    "bad = {'jax', 'flax', 'tensorflow', 'nltk'} & set(sys.modules);"
    "assert not bad, bad"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
