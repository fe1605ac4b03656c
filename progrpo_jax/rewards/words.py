r"""Words behind a number: part of its value (million, squared), or units.

Words behind a number are mostly a unit or a counted thing, which is not part
of the value. Some words are. They are translated to mathematics if their
meaning is clear (5\text{ million}); otherwise they keep the number from being
read on its own (9\text{ or more}). Units are read as a scale and powers of base
units, so that m/s and m s^{-1} are the same and mW and MW are not.
"""

import collections
import re

from progrpo_jax.rewards import characters

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
  if measure(words):
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
    and _unit(word) is None
  )


# ----- Units -----

_PREFIXES = {
  "T": 1e12,
  "G": 1e9,
  "M": 1e6,
  "k": 1e3,
  "h": 1e2,
  "d": 1e-1,
  "c": 1e-2,
  "m": 1e-3,
  "µ": 1e-6,
  "u": 1e-6,
  "n": 1e-9,
  "p": 1e-12,
  "f": 1e-15,
}
_PREFIX_NAMES = dict(
  zip(
    "tera giga mega kilo hecto deci centi milli micro nano pico femto".split(),
    (v for p, v in _PREFIXES.items() if p != "u"),
  )
)
_ENERGY = "kg m^2 s^-2"
# Symbol -> (scale, unit in base units, names). These take prefixes.
_WITH_PREFIX = {
  "m": (1.0, "m", "meter metre"),
  "g": (1e-3, "kg", "gram gramme"),
  "s": (1.0, "s", "second"),
  "A": (1.0, "A", "ampere amp"),
  "K": (1.0, "K", "kelvin"),
  "mol": (1.0, "mol", "mole"),
  "Hz": (1.0, "s^-1", "hertz"),
  "Bq": (1.0, "s^-1", "becquerel"),
  "N": (1.0, "kg m s^-2", "newton"),
  "Pa": (1.0, "kg m^-1 s^-2", "pascal"),
  "J": (1.0, _ENERGY, "joule"),
  "W": (1.0, "kg m^2 s^-3", "watt"),
  "C": (1.0, "A s", "coulomb"),
  "V": (1.0, "kg m^2 s^-3 A^-1", "volt"),
  "F": (1.0, "kg^-1 m^-2 s^4 A^2", "farad"),
  "Ω": (1.0, "kg m^2 s^-3 A^-2", "ohm"),
  "S": (1.0, "kg^-1 m^-2 s^3 A^2", "siemens"),
  "Wb": (1.0, "kg m^2 s^-2 A^-1", "weber"),
  "T": (1.0, "kg s^-2 A^-1", "tesla"),
  "H": (1.0, "kg m^2 s^-2 A^-2", "henry"),
  "Gy": (1.0, "m^2 s^-2", "gray"),
  "Sv": (1.0, "m^2 s^-2", "sievert"),
  "L": (1e-3, "m^3", "liter litre"),
  "l": (1e-3, "m^3", ""),
  "eV": (1.602176634e-19, _ENERGY, "electronvolt"),
  "bar": (1e5, "kg m^-1 s^-2", ""),
  "cal": (4.184, _ENERGY, "calorie"),
}
# Names -> (scale, unit in base units). These take none.
_WITHOUT_PREFIX = {
  "min minute": (60.0, "s"),
  "h hr hour": (3600.0, "s"),
  "day": (86400.0, "s"),
  "week": (604800.0, "s"),
  "month": (1.0, "month"),
  "yr year": (1.0, "year"),
  "in inch": (0.0254, "m"),
  "ft foot feet": (0.3048, "m"),
  "yd yard": (0.9144, "m"),
  "mi mile": (1609.344, "m"),
  "Å angstrom": (1e-10, "m"),
  "AU": (149597870700.0, "m"),
  "lb pound": (0.45359237, "kg"),
  "oz ounce": (0.45359237 / 16, "kg"),
  "mph": (1609.344 / 3600, "m s^-1"),
  "kmh kph": (1 / 3.6, "m s^-1"),
  "atm atmosphere": (101325.0, "kg m^-1 s^-2"),
  "rpm": (1 / 60, "s^-1"),
  "degree deg": (1.0, "degree"),
  "rad radian": (1.0, "rad"),
  "dB decibel": (1.0, "dB"),
  "ppm": (1e-6, "part"),
  "ppb": (1e-9, "part"),
  "dollar usd": (1.0, "dollar"),
  "cent": (0.01, "dollar"),
  "euro": (1.0, "euro"),
  "am a.m": (1.0, "am"),
  "pm p.m": (1.0, "pm"),
}
# Products of letters, and a million, that are more common than the units.
_NO_UNITS = frozenset("kT pV Gm MM".split())
# Abbreviations that are written in any case.
_ANY_CASE = (
  "mm cm m km in ft yd mi g kg mg lb oz s min h hr mL L usd deg rad mph kmh kph"
  " J N W V Hz Pa K mol am a.m pm p.m"
).split()
_OF_UNITS = re.compile(
  r"\s*(?:(?P<sign>[/()])|(?P<name>[A-Za-zµΩÅ]+(?:\.[A-Za-z]+)*)\.?"
  r"(?:\s*\^\s*\{?\s*(?P<power>-?\d)\s*\}?)?)\s*"
)
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_TEXT = re.compile(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}")

# A scale, and the powers of base units in alphabetical order.
Measure = tuple[float, tuple[tuple[str, int], ...]]


def _measure(scale: float, powers: dict[str, int]) -> Measure:
  """Returns a unit in a form that is equal for equal units."""
  return scale, tuple(sorted((u, p) for u, p in powers.items() if p))


def _definition(scale: float, unit: str) -> Measure:
  """Returns the unit of a line of the tables."""
  powers = (part.partition("^") for part in unit.split())
  return _measure(scale, {name: int(p or 1) for name, _, p in powers})


def _units() -> tuple[dict[str, Measure], dict[str, Measure]]:
  """Returns the units by symbol, and by name in lower case."""
  symbols, names = {}, {}
  for symbol, (scale, unit, words) in _WITH_PREFIX.items():
    for prefix, factor in {"": 1.0, **_PREFIXES}.items():
      symbols[prefix + symbol] = _definition(factor * scale, unit)
    for prefix, factor in {"": 1.0, **_PREFIX_NAMES}.items():
      for word in words.split():
        names[prefix + word] = _definition(factor * scale, unit)
        names[(prefix[:-1] or prefix) + word] = names[prefix + word]
  for words, definition in _WITHOUT_PREFIX.items():
    for word in words.split():
      symbols[word] = _definition(*definition)
      names[word.casefold()] = symbols[word]
  names |= {name.casefold(): symbols[name] for name in _ANY_CASE}
  # One letter in the other case is another unit, or none.
  names = {name: unit for name, unit in names.items() if len(name) > 1}
  return {n: u for n, u in symbols.items() if n not in _NO_UNITS}, names


_SYMBOLS, _NAMES = _units()


def _unit(word: str) -> Measure | None:
  """Returns a unit by its symbol or name; None if it is none."""
  if word in _SYMBOLS:
    return _SYMBOLS[word]
  plain = word.casefold()
  for name in (plain, plain.removesuffix("s"), plain.removesuffix("es")):
    if name in _NAMES and word not in _NO_UNITS:
      return _NAMES[name]
  return None


def flat(text: str) -> str:
  r"""Returns units without \text and with letters for \mu and \Omega."""
  text = _TEXT.sub(r"\1", text)
  text = re.sub(r"\\mu(?![A-Za-z])\s*", "µ", text)
  return re.sub(r"\\Omega(?![A-Za-z])\s*", "Ω", text)


def measure(text: str) -> Measure | None:
  r"""Returns the unit that words are: kJ/mol, m s^{-2}, square metres.

  What follows a slash or "per" is divided by. None if a word is no unit.
  """
  text = re.sub(r"\\times(?![A-Za-z])|\*", " ", flat(text)).strip(" .")
  text = re.sub(r"\bper\b", "/", text)
  scale, powers, at, sign, next_power = 1.0, collections.Counter(), 0, 1, 1
  last = None
  while at < len(text):
    match = _OF_UNITS.match(text, at)
    if not match:
      return None
    at = match.end()
    if match["sign"]:
      sign = -1 if match["sign"] == "/" else sign
      continue
    factor = _POWERS.get(match["name"].casefold())
    if factor and match["name"].endswith("d"):
      found, power = last, (factor - 1) * sign
    elif factor:
      next_power = factor
      continue
    else:
      found = _unit(match["name"])
      power = sign * next_power * int(match["power"] or 1)
      last, next_power = found, 1
    if found is None:
      return None
    scale *= found[0] ** power
    for name, exponent in found[1]:
      powers[name] += exponent * power
  # Rounded, as m/s and km/h are products of other numbers.
  return _measure(float(f"{scale:.6g}"), powers) if last else None
