r"""Removes the presentation of an answer: colour, emphasis, ticks, lead-ins.

Only text that does not change the value is removed. Markdown emphasis is told
from powers (x**2) by the character before it.
"""

import re

_NAME_END = r"(?![A-Za-z])"
_GROUP = r"\{(?:[^{}]|\{[^{}]*\})*\}"
# \color{blue}{9}, \textcolor[HTML]{FF0000}{9}, \fcolorbox{red}{white}{9}: the
# arguments that name colours are removed, the coloured group stays.
_COLOUR = re.compile(
  rf"\\(?:(?:text|math|cell|row)?color|colorbox){_NAME_END}\s*"
  rf"(?:\[[^\[\]]*\]\s*)?(?:\{{[\w!.,#\s-]*\}}\s*)"
  rf"|\\fcolorbox{_NAME_END}\s*(?:\[[^\[\]]*\]\s*)?"
  rf"\{{[\w!.,#\s-]*\}}\s*\{{[\w!.,#\s-]*\}}\s*"
  rf"|\\bbox{_NAME_END}\s*(?:\[[^\[\]]*\]\s*)?"
  rf"|\\(?:framebox|hl|uline|underline|underbar|uuline){_NAME_END}\s*"
  rf"(?:\[[^\[\]]*\]\s*)*(?=\{{)"
)
# Invisible text and spacing, labels and tags.
_UNSEEN = re.compile(
  rf"\\(?:[hv]?phantom|[hv]space\*?|mspace|label|tag\*?)\s*{_GROUP}"
  r"|\\(?:kern|hskip|mkern|mskip)\s*-?[\d.]+\s*(?:pt|em|ex|mu|cm|mm|in)"
  rf"|\\(?:nonumber|notag|null|relax){_NAME_END}"
)
# Environments that only place their content. One of several rows is kept.
_ENVIRONMENT = re.compile(
  r"\\begin\s*\{(aligned|align\*?|gathered|gather\*?|split|equation\*?|center)\}"
  r"((?:(?!\\\\|\\begin).)*?)(?:\\\\\s*)?\\end\s*\{\1\}",
  re.S,
)
_TICK = (
  rf"(?:\\(?:checkmark|blacksquare|square|Box|qed|qedsymbol){_NAME_END}"
  r"|[✓✔✅☑🎉🎯∎■□◻◼▪⬛]\ufe0f?)"
)
_BLANK = rf"(?:\s|~|\\[,;:! ]|\\q?quad{_NAME_END}|\$)"
_TICKS = re.compile(
  rf"(?:{_BLANK}|[.,]|\\text\s*\{{[\s(]*(?={_TICK})|\()*"
  rf"{_TICK}(?:{_BLANK}|{_TICK}|[.)}}])*\Z"
  rf"|\A(?:{_BLANK})*(?:{_TICK}{_BLANK}*)+"
)
_BOLD = re.compile(
  r"(?<![\w)}\]*^])(\*\*\*|\*\*|__)(?=[^\s*_])([^*]*?[^\s*_])\1(?![\w*(\\{])"
)
_ENDS = (
  ("*", "*"),
  ("_", "_"),
  ("`", "`"),
  ("~~", "~~"),
  ("“", "”"),
  ("«", "»"),
  ('"', '"'),
  ("``", "''"),
  ("'", "'"),
  ("‘", "’"),
)
_TAG = re.compile(
  r"<(b|i|u|em|strong|mark|span|p|div|code|big|center|font)"
  r"(?:\s+[\w-]+\s*=[^<>]{0,80})?>([^<>]*)</\1>|<br\s*/?>",
  re.I,
)
# A sign without a left side: = 9, \approx 9, => 9, \therefore x = 9.
_LEADING_SIGN = re.compile(
  rf"\A(?:{_BLANK})*(?:={{1,2}}>?|≈|≃|≅|⇒|⟹|→|⟶|∴|➡|➜|\\(?:approx|simeq|cong"
  rf"|implies|therefore|Rightarrow|Longrightarrow|rightarrow|to){_NAME_END}"
  rf"|:(?!=))(?:{_BLANK})*"
)
_SUBJECT = (
  r"answers?|ans|results?|solutions?|values?|total|sum|number|probability"
  r"|area|volume|length|product|perimeter|distance|difference|remainder"
  r"|minimum|maximum|radius|height|width|cost|price|average|mean|median"
  r"|ratio|measure|roots?|limit|integral"
)
_LEAD = re.compile(
  r"\A\s*(?:#+\s*)?(?:(?:so|thus|hence|therefore|then|finally|and)\b,?\s*)?"
  r"(?:(?:(?:the|our|my|its|we get|we have)\s)?\s*"
  r"(?:(?:final|correct|right|numerical|exact|required|desired|total"
  r"|smallest|largest|least|greatest|minimum|maximum|possible)\s+){0,3}"
  rf"(?:{_SUBJECT})\b(?:\s+(?:of|to|for|in)\s+(?:(?!\b(?:is|are)\b)"
  r"[^.:=<>\n]){1,60}?)?\s*(?:(?:is|are|equals|will be|would be|becomes)\b"
  r"\s*:?|:|=)|(?:it|this|that)\s+(?:is|equals)\b|there\s+(?:is|are)\b"
  r"(?:\s+(?:exactly|a\s+total\s+of)\b)?)\s*(?=\S)",
  re.I,
)
_CONNECTIVE = re.compile(
  r"\A\s*(?:so|thus|hence|therefore)\b,?\s*(?=[-+\\$({\[\d]|[A-Za-z]\s*[=<>])",
  re.I,
)
# \text{Answer: }9 and \textbf{Answer:} 9
_LEAD_TEXT = re.compile(
  r"\A\s*\\(?:text(?:bf|it|rm|sf)?|mathrm|mathbf|mbox)\s*"
  r"\{([^{}\\]{1,120})\}\s*(?=\S)"
)
_WHOLE_TEXT = re.compile(
  r"\s*\\(?:text(?:bf|it|rm|sf)?|mathrm|mathbf|mbox)\s*\{([^{}]*)\}\s*"
)
_NEGATED = re.compile(r"not\b|n't|neither\b|unknown\b|un\w+ed\b", re.I)
_MAX_ROUNDS = 6


def strip(text: str) -> str:
  """Returns an answer without its presentation."""
  text = _TAG.sub(lambda m: m[2] or " ", text) if "<" in text else text
  text = _UNSEEN.sub(" ", text)
  text = _ENVIRONMENT.sub(lambda m: re.sub(r"(?<!\\)&", " ", m[2]), text)
  text = _COLOUR.sub("", text)
  # Layers may be nested in any order: **Answer: `9`**.
  for _ in range(_MAX_ROUNDS):
    before, text = text, _unwrap_layer(text)
    if text == before:
      break
  return text


def _unwrap_layer(text: str) -> str:
  """Removes one layer of emphasis, quotes and lead-ins."""
  text = _BOLD.sub(r"\2", _TICKS.sub("", text).strip())
  # Quotes around the whole text, not around two parts of it ('a' and 'b').
  for opening, closing in _ENDS:
    inner = text[len(opening) : -len(closing)]
    if (
      len(text) > len(opening) + len(closing)
      and (text.startswith(opening) and text.endswith(closing))
      and (opening not in inner and closing not in inner)
    ):
      text = inner.strip()
  text = _LEADING_SIGN.sub("", text)
  # Words that introduce the answer, in \text{} or plain.
  if (lead := _LEAD_TEXT.match(text)) and _is_lead(lead[1]):
    text = text[lead.end() :]
  whole = _WHOLE_TEXT.fullmatch(text)
  if whole and _LEAD.match(whole[1]) and re.search(r"\d", whole[1]):
    text = whole[1]
  for pattern in (_LEAD, _CONNECTIVE):
    lead = pattern.match(text)
    if lead and _is_value(text[lead.end() :]):
      text = text[lead.end() :]
  return text


def _is_lead(words: str) -> bool:
  """Returns whether words in front of a value only introduce it."""
  lead = _LEAD.match(words.strip() + " 0")
  return (
    bool(lead)
    and lead.end() == len(words.strip()) + 1
    or (
      words.strip(" :,").casefold()
      in (
        "so",
        "thus",
        "hence",
        "therefore",
        "answer",
        "final answer",
        "ans",
        "the answer",
        "the final answer",
      )
    )
  )


def _is_value(rest: str) -> bool:
  """Returns whether the text after a lead-in is a value, not its negation."""
  return bool(re.search(r"[\d\\$]|\A\W*[A-Za-z]+\W*\Z", rest)) and (
    not _NEGATED.match(rest.strip(" *$\"'"))
  )
