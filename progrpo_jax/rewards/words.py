r"""Words that are part of a value: million, squared, halves, or more.

Words behind a number are mostly a unit (`units`) or a counted thing, which is
not part of the value. The words here are. They are translated to mathematics
if their meaning is clear (5\text{ million}); otherwise they keep the number
from being read on its own (9\text{ or more}).
"""

import re

from progrpo_jax.rewards import characters, units

_SCALES = {
  "dozen": "12",
  "hundred": "10^{2}",
  "thousand": "10^{3}",
  "lakh": "10^{5}",
  "million": "10^{6}",
  "crore": "10^{7}",
  "billion": "10^{9}",
  "trillion": "10^{12}",
  "quadrillion": "10^{15}",
}
_PARTS = {
  "half": 2,
  "halve": 2,
  "third": 3,
  "quarter": 4,
  "fourth": 4,
  "fifth": 5,
  "sixth": 6,
  "seventh": 7,
  "eighth": 8,
  "ninth": 9,
  "tenth": 10,
  "twelfth": 12,
  "hundredth": 100,
  "thousandth": 1000,
  "millionth": 10**6,
}
_TEENS = (
  "zero one two three four five six seven eight nine ten eleven twelve thirteen"
  " fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS = {
  **{name: i for i, name in enumerate(_TEENS)},
  **{name: 20 + 10 * i for i, name in enumerate(_TENS)},
}
_COUNTS = "|".join(_NUMBERS)
_SCALE_NAMES = "|".join(_SCALES)
_PART_NAMES = "|".join(_PARTS)
# Words at the beginning of a \text{} that must not be dropped.
_VALUE = (
  rf"(?:(?:{_SCALE_NAMES})s?|(?:{_PART_NAMES})s?|squared|cubed|factorial"
  r"|and\s+a\s+half|percent|per\s+cent|pct|pi|choose|is\s+to|to)(?![A-Za-z])"
)
_IN_TEXT = re.compile(
  rf"(?<=[\w)}}!])\s*\\text\s*\{{\s*({_VALUE})\s*([^{{}}]*)\}}", re.I
)
_SCALE = re.compile(
  rf"(?<=[\d)}}])\s*(?<![A-Za-z])({_SCALE_NAMES})s?(?![A-Za-z])", re.I
)
_PART = re.compile(
  rf"(?<![\w.^_/{{])(\d{{1,12}})\s+({_PART_NAMES})s?(?![A-Za-z])(?!\s+of)", re.I
)
_AND_A_HALF = re.compile(r"(?<![\w.])(\d{1,12})\s+and\s+a\s+half(?![A-Za-z])")
_CHOOSE = re.compile(r"(?<![\w.])(\d{1,6})\s+choose\s+(\d{1,6})(?![\w.])")
_POWER = re.compile(r"(?<=[\d)}])\s+(squared|cubed)(?![A-Za-z])", re.I)
_FACTORIAL = re.compile(r"(?<=[\d)])\s+factorial(?![A-Za-z])", re.I)
_PERCENT = re.compile(
  r"\s*\b(?:percent(?:age)?|per\s+cent|pct)\b(?!\s*point)", re.I
)
_PI = re.compile(r"(?<=\d)\s+pi(?![A-Za-z])")
# An integer with its name behind it: 5 (five), 21\\text{ (twenty-one)}.
_NAMED = re.compile(
  r"\s*(\d{1,2})\s*(?:\\text\s*\{\s*)?\(\s*(?:\\text\s*\{\s*)?"
  r"([A-Za-z]+)(?:[\s-]+([A-Za-z]+))?\s*\}?\s*\)\s*\}?[\s.]*"
)

# "psi" is left out, as it is also a unit of pressure.
_LETTERS = "|".join(name for name in characters.GREEK if name != "psi")
# Words that change a value in ways that are not translated.
_CHANGING = re.compile(
  rf"\b(?:(?:{_SCALE_NAMES})s?|(?:{_PART_NAMES})s?|{_COUNTS}|bn|mn|mio|mil"
  r"|or|and|plus|minus|over|below|under|above|negative|positive|factorial"
  r"|choose|mod|modulo|base|remainder|root|inverse|reciprocal|not|if|unless"
  r"|except|least|most|than|between|to|out|mille|divided|multiplied|pi"
  rf"|infinity|percent|sqrt|sin|cos|tan|log|ln|exp|{_LETTERS})\b"
  r"|\bper\s+cent\b|\A\s*(?:squared|cubed|times\s+\S)",
  re.I,
)
# Two or three letters that form no word, and so are a product.
_PRODUCT = re.compile(r"[A-Za-z]{2}|[abcdxyzABCDXYZ]{3}|[^aeiouAEIOUy\W\d]{3}")
_ENDINGS = frozenset("th st nd rd am pm".split())


def unwrap(text: str) -> str:
  r"""Moves words that are part of a value out of \text{} behind an operand."""
  # Several may follow each other: 5\text{ million squared}.
  for _ in range(3):
    before, text = text, _IN_TEXT.sub(_unwrapped, text)
    if text == before:
      break
  return text


def unname(text: str) -> str:
  """Returns 5 for 5 (five); other texts, such as 5 (six), are unchanged."""
  match = _NAMED.fullmatch(text)
  if not match:
    return text
  name = " ".join(w for w in match.groups()[1:] if w)
  return match[1] if number(name) == int(match[1]) else text


_NUMBER = re.compile(r"\s*([A-Za-z]+)(?:[\s-]+([A-Za-z]+))?[\s.]*")


def number(text: str) -> int | None:
  """Returns the number below 100 that words name; None if they name none."""
  match = _NUMBER.fullmatch(text)
  first, second = (
    _NUMBERS.get((w or "zero").casefold())
    for w in (match.groups() if match else ("", "?"))
  )
  if first is None or second is None:
    return None
  is_name = not match[2] or first >= 20 and 0 < second < 10
  return first + second if is_name else None


def spell(text: str) -> str:
  """Translates words behind a number that are part of its value to LaTeX."""
  text = _AND_A_HALF.sub(r"\1\\frac{1}{2}", text)
  text = _PART.sub(
    lambda m: rf"\frac{{{m[1]}}}{{{_PARTS[m[2].casefold()]}}}", text
  )
  for _ in range(3):
    text = _SCALE.sub(lambda m: rf"\times {_SCALES[m[1].casefold()]}", text)
  text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
  text = _POWER.sub(
    lambda m: "^{2}" if m[1].casefold() == "squared" else "^{3}", text
  )
  text = _PI.sub(r"\\pi ", text)
  return _PERCENT.sub("%", _FACTORIAL.sub("!", text))


def _unwrapped(match: re.Match[str]) -> str:
  r"""Moves a word out of \text{}; the words behind it stay inside."""
  rest = rf"\text{{{match[2]}}}" if match[2].strip() else ""
  return f" {match[1]} {rest}"


def change(words: str) -> bool:
  """Returns whether words behind a number change its value."""
  words = words.strip(" .()")
  if words == "MM" or words and not re.search(r"[^\W\d_]", words):
    return True
  if units.measure(words):
    return False
  if len(words) == 1:
    return words.isalpha()
  return bool(_CHANGING.search(words))


def is_product(word: str) -> bool:
  r"""Returns whether a short word outside of \text{} is a product of letters.

  Args:
    word: word behind a number.
  """
  return (
    bool(_PRODUCT.fullmatch(word))
    and word not in _ENDINGS
    and units.unit_of(word) is None
  )
