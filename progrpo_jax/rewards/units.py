r"""Units of measurement: kJ/mol, m s^{-2}, square metres.

A unit is read as a scale and powers of base units, so that m/s and m s^{-1}
are the same, and mW and MW are not.
"""

import collections
import re

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


def unit_of(word: str) -> Measure | None:
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
      found = unit_of(match["name"])
      power = sign * next_power * int(match["power"] or 1)
      last, next_power = found, 1
    if found is None:
      return None
    scale *= found[0] ** power
    for name, exponent in found[1]:
      powers[name] += exponent * power
  # Rounded, as m/s and km/h are products of other numbers.
  return _measure(float(f"{scale:.6g}"), powers) if last else None
