"""Translates Unicode characters to LaTeX."""

from collections.abc import Iterator
import re
import unicodedata

_VULGAR = {
  "½": "1/2",
  "⅓": "1/3",
  "⅔": "2/3",
  "¼": "1/4",
  "¾": "3/4",
  "⅕": "1/5",
  "⅖": "2/5",
  "⅗": "3/5",
  "⅘": "4/5",
  "⅙": "1/6",
  "⅚": "5/6",
  "⅛": "1/8",
  "⅜": "3/8",
  "⅝": "5/8",
  "⅞": "7/8",
  "⅐": "1/7",
  "⅑": "1/9",
}
GREEK = (
  "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi"
  " omicron pi rho sigma tau upsilon phi chi psi omega"
).split()
_CAPITALS = {
  "Γ": "Gamma",
  "Δ": "Delta",
  "Θ": "Theta",
  "Λ": "Lambda",
  "Ξ": "Xi",
  "Π": "Pi",
  "Σ": "Sigma",
  "Υ": "Upsilon",
  "Φ": "Phi",
  "Ψ": "Psi",
  "Ω": "Omega",
  "∆": "Delta",
}
# Greek capitals that look like Latin letters are read as those.
_LOOK_ALIKE = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX"))
SYMBOLS = {
  **{chr(0x3B1 + i + (i > 16)): rf"\{n} " for i, n in enumerate(GREEK)},
  **{v: rf"\frac{{{v_[0]}}}{{{v_[2]}}}" for v, v_ in _VULGAR.items()},
  **{char: rf"\{name} " for char, name in _CAPITALS.items()},
  **_LOOK_ALIKE,
  "⅒": r"\frac{1}{10}",
  "φ": r"\phi ",
  "ϕ": r"\phi ",
  "ϑ": r"\theta ",
  "ϵ": r"\epsilon ",
  "ϖ": r"\pi ",
  "ϱ": r"\rho ",
  "ς": r"\sigma ",
  "ℓ": r"\ell ",
  "ℏ": r"\hbar ",
  "∂": r"\partial ",
  "−": "-",
  "–": "-",
  "—": "-",
  "‐": "-",
  "‑": "-",
  "×": r"\times ",
  "·": r"\times ",
  "⋅": r"\times ",
  "∙": r"\times ",
  "∗": "*",
  "÷": "/",
  "✕": r"\times ",
  "✖": r"\times ",
  "⨯": r"\times ",
  "•": r"\times ",
  "⁄": "/",
  "∕": "/",
  "√": r"\sqrt ",
  "∛": r"\sqrt[3] ",
  "∜": r"\sqrt[4] ",
  "∞": r"\infty ",
  "±": r"\pm ",
  "∓": r"\mp ",
  "≤": r"\le ",
  "≥": r"\ge ",
  "≠": r"\ne ",
  "⩽": r"\le ",
  "⩾": r"\ge ",
  "≦": r"\le ",
  "≧": r"\ge ",
  "≈": r"\approx ",
  "≃": r"\approx ",
  "≅": r"\approx ",
  "≡": r"\equiv ",
  "∪": r"\cup ",
  "∩": r"\cap ",
  "∈": r"\in ",
  "∅": r"\emptyset ",
  "°": r"^\circ ",
  "º": r"^\circ ",
  "˚": r"^\circ ",
  "′": "'",
  "’": "'",
  "∠": r"\angle ",
  "∨": r"\lor ",
  "∧": r"\wedge ",
  "∖": r"\setminus ",
  "∣": "|",
  "…": r"\ldots ",
  "⋯": r"\ldots ",
  "⟨": r"\langle ",
  "⟩": r"\rangle ",
  "⌊": r"\lfloor ",
  "⌋": r"\rfloor ",
  "⌈": r"\lceil ",
  "⌉": r"\rceil ",
  "ℝ": r"\mathbb{R}",
  "ℂ": r"\mathbb{C}",
  "ℤ": r"\mathbb{Z}",
  "ℕ": r"\mathbb{N}",
  "ℚ": r"\mathbb{Q}",
  "≔": "=",
  "→": r"\to ",
  "⊂": r"\subset ",
  "∼": r"\sim ",
  "，": ", ",
  "、": ", ",
  "；": ";",
  "：": ":",
  "∶": ":",
  "€": "",
  "£": "",
  "¥": "",
  "￥": "",
  "₹": "",
  "₽": "",
  "₩": "",
  "¢": "",
}
_RAISED = dict(
  zip(
    "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻᵀ⁄",
    "0123456789+-()niabcdefghjklmoprstuvwxyzT/",
  )
)
_LOWERED = dict(
  zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "0123456789+-()aehijklmnoprstuvx")
)
_UP = "".join(c for c in _RAISED if c != "⁄")
_DOWN = "".join(_LOWERED)
_FRACTION = re.compile(r"([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄/]([₀₁₂₃₄₅₆₇₈₉]+)")
_RUN = re.compile(
  rf"([{re.escape(_UP)}]+(?:⁄[{re.escape(_UP)}]+)*)|([{re.escape(_DOWN)}]+)"
)
_DIGITS_OF = {**_RAISED, **_LOWERED}


def plain(text: str) -> str:
  """Returns a text with symbols as LaTeX and without invisible characters."""
  if text.isascii() and text.isprintable():
    return text
  text = _FRACTION.sub(_fraction, text)
  return "".join(_plain(_RUN.sub(_run, text)))


def _fraction(match: re.Match[str]) -> str:
  """Returns ³⁄₄ as a LaTeX fraction."""
  over, under = ("".join(_DIGITS_OF[c] for c in g) for g in match.groups())
  return rf"\frac{{{over}}}{{{under}}}"


def _run(match: re.Match[str]) -> str:
  """Returns raised characters as one exponent, lowered ones as one index."""
  if match[1]:
    return f"^{{{''.join(_RAISED[c] for c in match[1])}}}"
  index = "".join(_LOWERED[c] for c in match[2])
  return f"_{index}" if len(index) == 1 else f"_{{{index}}}"


def _plain(text: str) -> Iterator[str]:
  """Yields the LaTeX of each character."""
  for char in text:
    if char.isascii() and char.isprintable():
      yield char
    elif unicodedata.category(char) in ("Cf", "Cc", "Cs", "Co"):
      yield " " if char in "\n\t\r\v\f" else ""
    elif char in SYMBOLS:
      yield SYMBOLS[char]
    elif unicodedata.category(char) == "Nd":
      yield str(unicodedata.decimal(char))
    else:
      # NFKC maps letters of mathematical alphabets to plain letters.
      for part in unicodedata.normalize("NFKC", char).replace("ı", "i"):
        yield SYMBOLS.get(part, part)
