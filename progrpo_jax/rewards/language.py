"""Which language a text is in, for the instructions that ask for one.

The classifier is py3langid's, a naive Bayes model over byte sequences that is
part of the library: no download, and the same verdict at every call. It is
loaded when this module is imported, on purpose. That takes up to a few
seconds on a busy machine, and a worker's imports have a deadline of their
own, while its items have a short one.

A few words are often too little to tell a language by: "Hello" alone could be
Finnish. From a short sentence on the verdict is dependable.
"""

import unicodedata

from py3langid import langid

# ISO 639-1. These are the languages of IFEval and of langdetect, which it
# uses; py3langid knows more, and would call some short text by their names.
CODES = tuple(
    "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja"
    " kn ko lt lv mk ml mr ne nl no pa pl pt ro ru sk sl so sq sv sw ta te th"
    " tl tr uk ur vi zh".split())
_SAME = {"zh-cn": "zh", "zh-tw": "zh"}  # langdetect's names

# First words of the Unicode names of a language's letters, where those are not
# Latin. What has too few letters to be told apart is in none of these.
_SCRIPTS = {
    **dict.fromkeys(("ar", "fa", "ur"), ("ARABIC",)),
    **dict.fromkeys(("bg", "mk", "ru", "uk"), ("CYRILLIC",)),
    **dict.fromkeys(("hi", "mr", "ne"), ("DEVANAGARI",)),
    "bn": ("BENGALI",), "el": ("GREEK",), "gu": ("GUJARATI",),
    "he": ("HEBREW",), "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "kn": ("KANNADA",), "ko": ("HANGUL",), "ml": ("MALAYALAM",),
    "pa": ("GURMUKHI",), "ta": ("TAMIL",), "te": ("TELUGU",),
    "th": ("THAI",), "zh": ("CJK",)}

# Kindred languages (Hindi and Nepali, Bulgarian and Macedonian) share most
# of a sentence: one that is this near to the likeliest counts as well.
_NEAR = 0.5
_MAX_CHARS = 10_000  # the beginning and the end of a longer text are read

_CLASSIFIER = langid.LanguageIdentifier.from_model_file(
    langid.MODEL_FILE, norm_probs=True)
_CLASSIFIER.set_languages(CODES)


def code(name: str) -> str | None:
  """Returns the code by which a language is known here, None if it is not."""
  name = name.strip().lower()
  name = _SAME.get(name, name)
  return name if name in CODES else None


def fits(text: str, language: str) -> bool:
  """Says whether a text may be taken for one in a language of CODES.

  A text without a letter of a language's script is not in that language.
  """
  if len(text) > _MAX_CHARS:
    half = _MAX_CHARS // 2
    text = f"{text[:half]}\n{text[-half:]}"
  script = _SCRIPTS.get(language, ("LATIN",))
  if not any(unicodedata.name(c, "").startswith(script)
             for c in text if c.isalpha()):
    return False
  likely = dict(_CLASSIFIER.rank(text))
  return likely[language] >= _NEAR * max(likely.values())
