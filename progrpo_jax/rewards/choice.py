r"""Verifier of multiple choice, and of short answers without choices.

  reference "C", options ["Rome", "Oslo", "Paris", "Bern"]

Right are "\boxed{C}", "<answer>(C)</answer>", "The answer is C.", a last line
that is nothing but the letter, and the option's text in the place of its
letter or behind it ("C: Paris"). A letter with the text of another option
behind it says both, which is no answer. Where a mark, a box or a tag or a
sentence, occurs several times the last one counts; marks with nothing but
punctuation or "or" between them are one answer. The option that "B? No, C" and
"not B but C" withdraw does not count.

A reference that is no letter is a short answer (as in SCP-116K) and compared
as in rewards/math.py.
"""

from collections.abc import Mapping, Sequence
import random
import re
import string
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import answers, expressions, math
from progrpo_jax.rewards.score import Score

LETTERS = string.ascii_uppercase
_COMMON = LETTERS[:10]  # where the options are not known

_BARE = re.compile(r"[\s*_(\[]*([A-Za-z])[\s*_)\].:]*")
# Full-width characters, as written in Chinese, by their ASCII ones.
_NARROW = {i: i - 0xFEE0 for i in range(0xFF01, 0xFF5F)} | str.maketrans(
    {"\u3000": " ", "。": ".", "、": ",", "【": "[", "】": "]"})

# ----- Sentences that say an answer -----

_SPACES = re.compile(r"[^\S\n]*(\n)\s*|[^\S\n]+")
_MAX_CUES = 64
_MAX_SAID = 300
_IS = (
    r"(?:\s*(?:\bis|\bare|\bwas|\bwill\s+be|\bwould\s+be|\bmust\s+be|\bshould\s+be"
    r"|\bequals|=)(?![A-Za-z])(?:\s*:)?|\s*:|\s+is(?=n['’]t\b))")
_CUE = re.compile(
    r"(?:\b(?:(?:final|correct|right|best)\s+){0,2}"
    r"(?:answer|ans\.?)(?:\s+(?:choice|option|letter))?"
    r"|\b(?:final|correct|right|best|chosen|selected)\s+(?:option|choice|letter)"
    r"|\b(?:correct|right)\s+(?:statement|alternative|one)"
    r"|\b(?:option|choice|statement|alternative|one)\s+(?:that|which)"
    r"\s+(?:best\s+|most\s+closely\s+)?(?:fits|matches|applies|works|answers"
    r"|satisfies|explains|describes|completes|is\s+(?:correct|right|true|best))"
    r"(?:\s+(?:best|here|both|all))?(?:\s+(?:the|this|these|our)"
    r"(?:\s+(?!not?\b|least|fewest|worst|is\b|are\b)[a-z]+){1,4}?)?"
    r"|^[ *#>-]{0,20}(?:option|choice))"
    r"(?:\s+(?:to|for|of|among|from)\b[^.\n:?]{0,60}?)?[\s*_]*" + _IS +
    r"|^[ *#]{0,20}(?:(?:final|correct)\s+)?answer[\s*]*\n"
    r"|\b(?:I|we)(?:['’](?:ll|d)|\s+will|\s+would)?\s+(?:choose|pick|select"
    r"|go\s+with)\b"
    r"|(?:答案|正确的?选项)\s*(?:应该|应当|应)?\s*[是为选]?\s*:?"
    r"|(?:故|因此|所以|应该?|我)[,\s]*选择?\s*:?"
    r"|(?:^|[,.;:]|本题)\s*选(?=[\s:]*\(?[A-Z](?![A-Za-z]))[\s:]*"
    r"|^####", re.I | re.M)
# What may stand between two sentences that are one answer.
_JOINT = re.compile(
    r"(?:[\s,;.]*\b(?:and|or)\b)?[\s,;.]*(?:\bthe)?\Z", re.I)
# "(B) is the right answer", but not "nor B is ..." or "if B is ...".
_VERDICT = re.compile(
    r"(?<!\w)\(?([A-Z])\)?[*_]{0,2}\s+is\s+(?:therefore\s+|thus\s+|clearly\s+)?"
    r"the\s+(?:correct|right|best)\s+(?:answer|option|choice)\b(?!\s*\?)")
_DOUBT = re.compile(
    r"\b(?:if|whether|nor|neither|not|unless|suppose|why)\W+"
    r"(?:(?:option|choice)\W+)?\Z", re.I)

# ----- What stands around a letter -----

_STYLE = re.compile(
    r"\\(?:text|mbox|hbox|math|emph|underline|boldsymbol|bm|operatorname)"
    r"(?:bf|rm|sf|it|tt|normal|bfseries)?\s*\{([^{}]*)\}"
    r"|\\(?:bf|rm|it|left|right|displaystyle|large|Large|q?quad)(?![A-Za-z])"
    r"|\\[,;:! ()\[\]]|[$`~{}]|\*+|__+")
# Words in front of an option that change nothing.
_LEAD = re.compile(
    r"(?:(?:I\s+(?:think|believe|guess|would\s+say)|it\s+is|it['’]s|it\s+must"
    r"\s+be|(?:most\s+)?(?:likely|probably)|clearly|definitely|certainly"
    r"|obviously|therefore|thus|hence|so|then|indeed|simply|just|either|both"
    r"|that\s+is|that|the|correct|right|best|final|option|choice|answer|letter|alternative|is|are)(?![\w'’])"
    r"|选项|[\s:\"'“”.,])*", re.I)
_TRAIL = re.compile(
    r"\s+(?:is|are)(?:\s+the)?\s+(?:correct|right|best)"
    r"(?:\s+(?:answer|option|choice)s?)?[\s.!]*\Z", re.I)
_HEAD = re.compile(r"([(\[])?\s*([A-Za-z])(?(1)\s*[)\]]|(?![A-Za-z0-9]))")
_LIST = re.compile(r"\s*(?:,|;|/|&|\band\b|\bor\b)\s*", re.I)
_TAIL = re.compile(
    r"(.+?)\s*[(\[]\s*(?:option\s+|choice\s+)?([A-Z])\s*[)\]][\s.]*", re.S)
_STOP = re.compile(
    r"(?<=\S)[.!?](?=\s|\Z)|\n|,(?=\s+(?:the|an?)\s)|(?<![\w\\])(?:because|since|as|so|which|where"
    r"|for|when|if|but|hence|therefore|given|due)(?!\w)|因为|因此|所以", re.I)
_MARKED = r"[).\]:]|[({]|,|\s-+\s|\s*[–—]|[!?;]|\Z"
# What may stand between a letter and words about it: in a mark, and in a last
# line, where "A, B" and "A - b" may be anything.
_COMMENT = {
    "mark": re.compile(rf"\s*(?:{_MARKED})|\s+(?:{_STOP.pattern})", re.I),
    "line": re.compile(r"\s*[).:\]]"),
    "exact": re.compile(r"(?!)"),
}
_ARROWS = "=>→⇒➔➜"
_BETWEEN = " \t\n.,;:!?-–—()[]{}\"'“”"

# ----- What withdraws an option -----

# "B is incorrect, ", "so C is the right answer", "A错误，".
_RATED = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|only),?\s+){0,2}"
    r"(?:(?:the\s+)?(?:option|choice|statement|alternative)s?\s+"
    r"|选项\s*)?(?P<letters>\(?[A-Z]\)?(?:\s*(?:,|and|&)\s*\(?[A-Z]\)?)*)"
    r"(?:\s+(?:(?:is|are)(?P<not>\s+not)?|(?P<isnt>(?:is|are)n['’]t))"
    r"(?:\s+the)?\s+(?:(?P<right>correct|right|true)|incorrect|wrong|false)"
    r"(?:\s+(?:answer|option|choice|one|statement)s?)?"
    r"|\s*是?(?:(?P<good>正确|对)|不正确|不对|错误?)的?)(?![\w'’])"
    r"(?:\s*[,.;!](?:\s*(?:and|but|so|while|whereas|therefore|hence)\b)?,?"
    r"|\s+(?:and|but|so|while|whereas)\b|\s*\Z)\s*", re.I)

_NO = re.compile(
    r"([?!,;.]|\s-|[—–])\s*(no|nope|wait|sorry|actually|scratch that|correction"
    r"|or rather|I mean)(?!\w)"
    # One may follow another: "B, no, actually C".
    r"(?:[\s,.!:;—-]*\b(?:no|nope|wait|sorry|actually|rather)(?!\w))*"
    r"[\s,.!:;—-]*", re.I)
_NOT_BUT = re.compile(
    r"(?:not|n['’]t)\s+.{1,80}?(?:[.;]|\bbut\b)[\s,]*"
    r"(?:rather\b|instead\b)?", re.I)
_NOT = re.compile(
    r"[\s,(]*\b(?:and\s+)?(?:not|rather\s+than|instead\s+of|as\s+opposed\s+to)"
    r"\s", re.I)

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
  # Long runs of spaces would make the search for sentences slow.
  completion = _SPACES.sub(
      lambda m: m[1] or " ", completion.translate(_NARROW))
  if marked := answers.final(completion, ("boxed", "tag")):
    return set().union(*(_chosen(m, named) or {"?"} for m in marked))
  said, heard = _sentences(completion, named)
  if said:
    return said
  line = completion.rstrip().rpartition("\n")[2]
  chosen = _chosen(line, named, "line") - {"?"}
  return chosen or ({"?"} if heard else set())


def _sentences(text: str, named: Mapping[str, str]) -> tuple[set[str], bool]:
  """Returns what the last sentences that say an option say.

  The second value says whether any sentence begins as one that says an answer.
  """
  cues = [(*m.span(), "") for m in _CUE.finditer(text)]
  for match in _VERDICT.finditer(text):
    if not _DOUBT.search(text, max(match.start() - 40, 0), match.start()):
      cues.append((*match.span(), match[1]))
  cues = sorted(cues)[-_MAX_CUES:]
  ends = [start for start, _, _ in cues[1:]] + [len(text)]
  said, joined, heard = set(), False, False
  for (_, start, letter), end in zip(cues, ends):
    rest = letter + text[start : min(end, start + _MAX_SAID)]
    rest = rest.strip("*_ \t\n")
    if not letter:
      rest = _JOINT.sub("", rest.partition("\n")[0])
    chosen = _chosen(letter or rest, named, "mark") - {"?"}
    heard |= bool(rest)
    if chosen:
      said = said | chosen if joined else chosen
      # "The answer is A. The answer is B." is one answer of two.
      joined = _chosen(rest, named, "exact") == chosen
    elif rest:
      joined = False
  return said, heard


def _chosen(
    text: str, named: Mapping[str, str], comments: str = "mark"
) -> set[str]:
  """Returns the letters that an answer holds, {"?"} for something else.

  What is withdrawn and not replaced leaves the empty set. `comments` is the
  key in _COMMENT of what may stand between a letter and words about it.
  """
  text = text[:expressions.MAX_CHARS].strip()
  kept = _kept(text, named, comments)
  return kept if kept is not None else _read(text, named, comments)


def _kept(
    text: str, named: Mapping[str, str], comments: str
) -> set[str] | None:
  """Returns what a text that takes back an option stands by.

  None if it takes nothing back, the empty set if it stands by nothing.
  """
  if _matching(text, named):
    return None
  if rated := _rated(text, named):
    return rated
  for match in reversed(list(_NO.finditer(text))):
    after = _read(text[match.end() :], named, comments)
    if after != {"?"}:
      return after
    if match[1] == "?" and match[2].casefold() in ("no", "nope"):
      return set()
  plain = _plain_mark(text)
  if match := _NOT_BUT.match(plain):
    after = _read(plain[match.end() :], named, comments)
    return after if after != {"?"} else None
  if (match := _NOT.search(plain)) and match.start():
    return _read(plain[: match.start()], named, comments)
  return None


def _rated(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the options that a text calls right after it called others wrong.

  The empty set if it does not end so, or says anything else: where the last
  one is called wrong the question may be which one is.
  """
  text, at = _unstyled(text), 0
  by_rating = {True: set(), False: set()}
  right = False
  while match := _RATED.match(text, at):
    at = match.end()
    denied = match["not"] or match["isnt"]
    right = bool(match["right"] or match["good"]) != bool(denied)
    letters = re.findall(r"\(?\b([A-Z])\b", match["letters"])
    by_rating[right] |= {_known(letter, named) for letter in letters}
  whole = at == len(text) and right and by_rating[False]
  return by_rating[True] - by_rating[False] if whole else set()


def _unstyled(text: str) -> str:
  """Returns a text without commands and signs of style."""
  while (plain := _STYLE.sub(lambda m: m[1] or " ", text)) != text:
    text = plain
  return " ".join(text.split())


def _plain_mark(text: str) -> str:
  """Returns a text without styles, and without words that lead to a letter."""
  text = _TRAIL.sub("", _unstyled(text))
  return text[_LEAD.match(text).end() :]


def _read(text: str, named: Mapping[str, str], comments: str) -> set[str]:
  """Returns the letters that a text without second thoughts holds."""
  plain = _plain_mark(text)
  bare = _BARE.fullmatch(plain.strip(_BETWEEN))
  # A capital is a letter, also where it is the text of another option.
  if bare and bare[1].isupper() and bare[1] in named:
    return {bare[1]}
  if whole := _matching(text, named) or _matching(plain, named):
    return whole
  if bare:
    # A small letter without a mark around it is a word.
    if comments == "mark" or bare[1].isupper() or not text.isalpha():
      return {_known(bare[1], named)}
    return {"?"}
  # A text and its letter behind it: "Oslo (B)".
  if match := _TAIL.fullmatch(plain):
    if front := _matching(match[1], named):
      return front | {_known(match[2], named)}
  if head := _HEAD.match(plain):
    chosen = _behind(head, named, comments)
    if chosen != {"?"}:
      return chosen
  parts = _parts(plain, named)
  if len(parts) > 1 and all(parts):
    return set().union(*parts)
  if comments == "mark":
    # The longest beginning that is an option's text: "Oslo, since it is ...".
    for stop in reversed(list(_STOP.finditer(plain))):
      if same := _matching(plain[: stop.start()].strip(_BETWEEN), named):
        return same
  return {"?"}


def _parts(text: str, named: Mapping[str, str]) -> list[set[str]]:
  """Returns what each part of a list of options says."""
  parts = _LIST.split(text)
  return [_item(p, named) for p in parts if p.strip(_BETWEEN)]


def _item(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns what one of several options in a list says, if it is one."""
  if same := _matching(text, named):
    return same
  plain = _plain_mark(text)
  if bare := _BARE.fullmatch(plain.strip(_BETWEEN)):
    return {_known(bare[1], named)}
  head = _HEAD.match(plain)
  behind = _matching(plain[head.end() :], named) if head else set()
  return behind | {_known(head[2], named)} if behind else set()


def _behind(
    head: re.Match[str], named: Mapping[str, str], comments: str
) -> set[str]:
  """Returns a letter with the option that follows it, else {"?"}."""
  letter, rest = _known(head[2], named), head.string[head.end() :]
  behind = rest.strip(_BETWEEN + _ARROWS)
  if same := _matching(behind, named) or _beginning(behind, named):
    return {letter} | same
  parts = _parts(rest, named) if _LIST.match(rest) else []
  if parts and parts[0]:
    return {letter}.union(*parts)
  # "B (A)" says two; "(A)(C)" nothing.
  bare = _BARE.fullmatch(behind)
  if bare and bare[1].isupper():
    signs = re.match(r"\s*[^\w\s]", rest)
    between = signs and not (head[1] and rest.startswith(("(", "[")))
    return {letter, _known(bare[1], named)} if between else {"?"}
  clear = head[1] or (
      head[2].isupper() and _COMMENT[comments].match(rest))
  return {letter} if clear and comments != "exact" else {"?"}


def _beginning(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the option whose text stands before the first stop in a text."""
  stop = _STOP.search(text)
  return _matching(text[: stop.start()].strip(_BETWEEN), named) if stop else (
      set())


def _known(letter: str, named: Mapping[str, str]) -> str:
  """Returns a letter that an option has, else "?"."""
  return letter.upper() if letter.upper() in (named or _COMMON) else "?"


def _matching(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the letter of the only option of this text, if there is one."""
  if not named:
    return set()
  plains = {_plain(t) for t in (text, text.strip(_BETWEEN))} - {""}
  same = {k for k, v in named.items() if _plain(v) in plains}
  return same if len(same) == 1 else set()


def _plain(text: str) -> str:
  """Writes an option so that equal ones come out equal."""
  text = text.translate(_NARROW)
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
