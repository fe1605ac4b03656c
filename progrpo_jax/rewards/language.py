"""Language identification, for instructions that ask for a language.

The classifier is py3langid's naive Bayes model over byte sequences. It is part
of the library, so nothing is downloaded, and it is deterministic. It is loaded
when this module is imported, because that takes up to a few seconds on a busy
machine: a worker's imports have a long deadline, its items a short one.

A few words are often too little to identify a language; "Hello" alone could be
Finnish. From a short sentence on, the result is reliable.
"""

import unicodedata

from progrpo_jax import errors

with errors.of_extra("language"):
  from py3langid import langid

# ISO 639-1 codes of the languages of IFEval and of langdetect, which it uses.
# py3langid knows more languages and would assign them to some short texts.
CODES = tuple(
  "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja"
  " kn ko lt lv mk ml mr ne nl no pa pl pt ro ru sk sl so sq sv sw ta te th"
  " tl tr uk ur vi zh".split()
)
_SAME = {"zh-cn": "zh", "zh-tw": "zh"}  # langdetect's names

# Language -> first words of the Unicode names of its letters, if not Latin.
_SCRIPTS = {
  **dict.fromkeys(("ar", "fa", "ur"), ("ARABIC",)),
  **dict.fromkeys(("bg", "mk", "ru", "uk"), ("CYRILLIC",)),
  **dict.fromkeys(("hi", "mr", "ne"), ("DEVANAGARI",)),
  "bn": ("BENGALI",),
  "el": ("GREEK",),
  "gu": ("GUJARATI",),
  "he": ("HEBREW",),
  "ja": ("HIRAGANA", "KATAKANA", "CJK"),
  "kn": ("KANNADA",),
  "ko": ("HANGUL",),
  "ml": ("MALAYALAM",),
  "pa": ("GURMUKHI",),
  "ta": ("TAMIL",),
  "te": ("TELUGU",),
  "th": ("THAI",),
  "zh": ("CJK",),
}

# Related languages (Hindi and Nepali, Bulgarian and Macedonian) share most of
# a sentence, so any language with this share of the highest probability fits.
_NEAR = 0.5
_MAX_CHARS = 10_000  # of a longer text, only beginning and end are read

_CLASSIFIER = langid.LanguageIdentifier.from_model_file(
  langid.MODEL_FILE, norm_probs=True
)
_CLASSIFIER.set_languages(CODES)


def code(name: str) -> str | None:
  """Returns the code in CODES of a language's name, None if unknown."""
  name = name.strip().lower()
  name = _SAME.get(name, name)
  return name if name in CODES else None


def fits(text: str, language: str) -> bool:
  """Returns whether a text may be in a language.

  A text without a letter of the language's script is not.

  Args:
    text: text to classify.
    language: code of CODES.
  """
  if len(text) > _MAX_CHARS:
    half = _MAX_CHARS // 2
    text = f"{text[:half]}\n{text[-half:]}"
  script = _SCRIPTS.get(language, ("LATIN",))
  if not any(
    unicodedata.name(c, "").startswith(script) for c in text if c.isalpha()
  ):
    return False
  probabilities = dict(_CLASSIFIER.rank(text))
  return probabilities[language] >= _NEAR * max(probabilities.values())
