r"""Verifier of multiple choice, and of short answers without choices.

  reference "C", options ["Rome", "Oslo", "Paris", "Bern"]

Right are "\boxed{C}", "<answer>(C)</answer>", "The answer is C." and a line
that is nothing but the letter; also the option's text in the place of its
letter, where no other option says the same. A reference that is no letter is
a short answer (as in SCP-116K) and compared as in rewards/math.py.
"""

from collections.abc import Mapping, Sequence
import random
import re
import string
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import answers, latex, math, notation
from progrpo_jax.rewards.score import Score

LETTERS = string.ascii_uppercase
_COMMON = LETTERS[:10]  # where the options are not known

_FORMS = ("boxed", "tag", "sentence")
_BARE = re.compile(r"[\s*_(\[]*([A-Za-z])[\s*_)\].:]*")
_LEADING = re.compile(
    r"[\s*_]*(?:(?:option|choice|answer)[\s:]+)?"
    r"(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Z])\s*[).:])[\s*_:.]*(.*)", re.S)
_LIST = re.compile(r"\s*(?:,|;|/|&|\band\b|\bor\b)\s*")
_NAMED = re.compile(r"(?:option|choice)\s+\(?([A-Za-z])\)?", re.I)

Options = Sequence[str] | Mapping[str, str]


def score(
    completion: str,
    reference: object,
    *,
    options: Options | None = None,
    tolerance: float = 0.0,
) -> Score:
  """Scores a completion by the letter that it chooses; no text raises.

  Args:
    completion: text of the model, without its thought.
    reference: the letter of the right option, or the right short answer.
    options: the options in the order of their letters, or by letter.
    tolerance: the relative error that a short answer may have.

  A reference that check_reference refuses has the status "refused".
  """
  try:
    gold, named = check_reference(reference, options)
  except InputError:
    return Score(0.0, False, "refused")
  if not gold:
    return math.score(completion, reference, tolerance=tolerance)
  found = find(completion, named)
  if not found:
    return Score(0.0, False, "no_answer")
  if len(found) > 1:
    return Score(0.0, False, "several_answers")
  correct = found == {gold}
  return Score(float(correct), correct, "ok")


def check_reference(
    reference: object, options: Options | None = None
) -> tuple[str, dict[str, str]]:
  """Returns the right letter and the options by letter: for loaders.

  The letter is "" for a short answer. Raises InputError for a reference that
  is neither, and for options that cannot be told apart from it.
  """
  named = by_letter(options)
  if isinstance(reference, str):
    match = _BARE.fullmatch(reference)
    letter = match[1].upper() if match else ""
    if letter in (named or dict.fromkeys(_COMMON)):
      return letter, named
    same = [k for k, v in named.items() if _plain(v) == _plain(reference)]
    if len(same) == 1:
      return same[0], named
  if named:
    raise InputError(
        f"the reference {str(reference)[:80]!r} is none of the options"
        f" {', '.join(named)}")
  math.check_reference(reference)
  return "", {}


def by_letter(options: Options | None) -> dict[str, str]:
  """Returns options by their letters, or raises InputError."""
  if options is None:
    return {}
  if isinstance(options, Mapping):
    named = {str(k).strip(" ().").upper(): v for k, v in options.items()}
  elif isinstance(options, Sequence) and not isinstance(options, str):
    named = dict(zip(LETTERS, options))
  else:
    raise InputError(f"options are a {type(options).__name__}, not a list")
  if not 2 <= len(options) <= len(LETTERS) or len(named) != len(options):
    raise InputError(
        f"there must be 2 to {len(LETTERS)} options with different letters,"
        f" not {len(options)}")
  for letter, option in named.items():
    if letter not in LETTERS or len(letter) != 1:
      raise InputError(f"an option's letter may not be {letter[:20]!r}")
    if not isinstance(option, str) or not option.strip():
      raise InputError(f"option {letter} is no text: {option!r:.50}")
  return named


def find(completion: str, named: Mapping[str, str]) -> set[str]:
  """Returns all that a completion chooses: letters, or "?" for no option."""
  marked = answers.find(completion, _FORMS)
  if not marked:
    lines = [line for line in completion.splitlines() if line.strip()]
    marked = [line for line in lines[-1:] if _is_choice(line, named)]
  found = set()
  for text in marked:
    found |= _chosen(text, named)
  return found


def _is_choice(line: str, named: Mapping[str, str]) -> bool:
  """Says whether a line is a letter alone, or one with its option."""
  bare = _BARE.fullmatch(line)
  if bare:
    return bare[1].isupper() or not line.strip().isalpha()
  leading = _LEADING.fullmatch(line)
  return bool(leading) and "?" not in _chosen(line, named)


def _chosen(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the letters that a marked answer holds, else {"?"}."""
  text = text[:latex.MAX_CHARS]
  whole = _matching(text, named)
  text = text.strip("* \n")
  text = notation.unwrap(latex.clean(text)).strip()
  bare = _BARE.fullmatch(text)
  # A capital is a letter, also where it is the text of another option.
  if bare and bare[1].isupper() and bare[1] in named:
    return {bare[1]}
  if len(whole) == 1:
    return whole
  if match := _BARE.fullmatch(text) or _NAMED.fullmatch(text):
    return {_known(match[1], named)}
  if match := _LEADING.fullmatch(text):
    letter = _known(match[1] or match[2], named)
    return {letter} | (_matching(match[3], named) - {"?"})
  parts = [_BARE.fullmatch(p) for p in _LIST.split(text)]
  if len(parts) > 1 and all(parts):
    return {_known(p[1], named) for p in parts}
  return {"?"}


def _known(letter: str, named: Mapping[str, str]) -> str:
  """Returns a letter that an option has, else "?"."""
  return letter.upper() if letter.upper() in (named or _COMMON) else "?"


def _matching(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the letter of the only option of this text, if there is one."""
  plain = _plain(text)
  same = {k for k, v in named.items() if plain and _plain(v) == plain}
  return same if len(same) == 1 else set()


def _plain(text: str) -> str:
  """Writes an option so that equal ones come out equal."""
  words = re.sub(r"[\s.,;:*_$\"'`]+", " ", text).strip().casefold()
  if re.search(r"[\d\\=]", text):
    return math.normal_form(text)
  return words


def canonical(completion: str, row: Any) -> str:
  """Returns the letter that is chosen, or the short answer: for tasks."""
  gold, named = check_reference(row.reference, row.meta.get("options"))
  if not gold:
    return math.canonical(completion, row)
  return " ".join(sorted(find(completion, named))) or completion.strip()


# ----- For loaders -----


def order(count: int, seed: int, row: object) -> list[int]:
  """Returns in which order a row shows its options: 0 to count - 1, mixed.

  It depends on the seed and on the row's id alone: not on the process, the
  host or the other rows. The right option `i` gets the letter
  LETTERS[order.index(i)].
  """
  indices = list(range(count))
  random.Random(f"{seed}/{row}").shuffle(indices)
  return indices


def shuffle(options: Sequence[str], seed: int, row: object) -> list[str]:
  """Returns the options in the order of `order`."""
  return [options[i] for i in order(len(options), seed, row)]
