r"""Verifier of multiple-choice questions, and of short answers.

  reference "C", options ["Rome", "Oslo", "Paris", "Bern"]

Accepts "\boxed{C}", "<answer>(C)</answer>", "The answer is C.", a last line
that consists of the letter, and the option's text in place of its letter or
behind it ("C: Paris"). A letter followed by the text of another option chooses
both, which is not a valid answer. Of several boxes, tags or sentences the last
counts; those separated only by punctuation or "or" form one answer. An option
that is withdrawn ("B? No, C", "not B but C") does not count.

A reference that is not a letter is a short answer (as in SCP-116K), which
rewards/math.py compares.
"""

from collections.abc import Mapping, Sequence
import random
import re
import string
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import answers, expressions, math, presentation
from progrpo_jax.rewards.score import Score

LETTERS = string.ascii_uppercase
_COMMON = LETTERS[:10]  # letters of unknown options

# A letter with nothing but brackets and punctuation around it.
_BARE = re.compile(r"[\s*_(\[]*([A-Za-z])[\s*_)\].:]*")
# Full-width characters, used in Chinese texts -> ASCII.
_NARROW = {i: i - 0xFEE0 for i in range(0xFF01, 0xFF5F)} | str.maketrans(
  {"\u3000": " ", "。": ".", "、": ",", "【": "[", "】": "]"}
)

# ----- Sentences that state an answer -----

_SPACES = re.compile(r"[^\S\n]*(\n)\s*|[^\S\n]+")
_MAX_CUES = 64
_MAX_SAID = 300
_MAX_MARKS = 16  # differently written marks of one answer
_IS = (
  r"(?:\s*(?:\bis|\bare|\bwas|\bwill\s+be|\bwould\s+be|\bmust\s+be|\bshould\s+be"
  r"|\bequals|=)(?![A-Za-z])(?:\s*:)?|\s*:|\s+is(?=n['’]t\b))"
)
# The beginning of a sentence that states an answer, in English or Chinese.
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
  r"(?:\s+(?:to|for|of|among|from)\b[^.\n:?]{0,60}?)?[\s*_]*"
  + _IS
  + r"|^[ *#]{0,20}(?:(?:final|correct)\s+)?answer[\s*]*\n"
  r"|\b(?:I|we)(?:['’](?:ll|d)|\s+will|\s+would)?\s+(?:choose|pick|select"
  r"|go\s+with)\b"
  r"|(?:答案|正确的?选项)\s*(?:应该|应当|应)?\s*[是为选]?\s*:?"
  r"|(?:故|因此|所以|应该?|我)[,\s]*选择?\s*:?"
  r"|(?:^|[,.;:]|本题)\s*选(?=[\s:]*\(?[A-Z](?![A-Za-z]))[\s:]*"
  r"|^####",
  re.I | re.M,
)
# Text between two sentences that form one answer.
_JOINT = re.compile(r"(?:[\s,;.]*\b(?:and|or)\b)?[\s,;.]*(?:\bthe)?\Z", re.I)
# "(B) is the right answer", but not "nor B is ..." or "if B is ...".
_VERDICT = re.compile(
  r"(?<!\w)\(?([A-Z])\)?[*_]{0,2}\s+is\s+(?:therefore\s+|thus\s+|clearly\s+)?"
  r"the\s+(?:correct|right|best)\s+(?:answer|option|choice)\b(?!\s*\?)"
)
_DOUBT = re.compile(
  r"\b(?:if|whether|nor|neither|not|unless|suppose|why)\W+"
  r"(?:(?:option|choice)\W+)?\Z",
  re.I,
)

# A last sentence that points to an option: "..., which matches option C."
_POINTER = re.compile(
  r"\b(?:corresponds\s+to|corresponding\s+to|matches|gives|(?:[Ww]e|I)\s+get)\s+"
  r"(?:the\s+)?(?:correct\s+|final\s+)?(?:answer\s+)?(?:option|choice)\s+"
  r"(?:\*\*)?(\()?([A-Z])(?(1)\))(?:\*\*)?[\s*]*(?=\.|\n|\Z)[\s.*]*"
)
# Words with which such a sentence may mean the contrary or nothing certain.
_UNSURE = re.compile(
  r"n['’]t\b|\b(?:not|no|never|neither|nor|none|if|unless|whether|suppose|could"
  r"|might|may|would|should|seems?|maybe|perhaps|wrong|wrongly|incorrect\w*"
  r"|false\w*|error|mistake\w*|trap|tempting|except|but|than|instead|rather"
  r"|least|unlike|or|eliminat\w+|exclud\w+|rul\w+\s+out)\b|\?",
  re.I,
)
_CAPITAL = re.compile(r"(?<![\w'’.])(?:(?<=\s)A|(?<=\()A|[B-HJ-Z])(?![\w'’])")

# ----- Text around a letter -----

_STYLED = re.compile(
  r"\\(?:text|mbox|hbox|boxed|fbox|math|emph|underline|boldsymbol|bm"
  r"|operatorname)(?:bf|rm|sf|it|tt|normal|bfseries)?\s*\{([^{}]*)\}"
)
_STYLE = re.compile(
  _STYLED.pattern + r"|\\(?:bf|rm|it|left|right|displaystyle|tiny|small|large"
  r"|Large|LARGE|huge|Huge|q?quad)(?![A-Za-z])"
  r"|\\[,;:! ()\[\]]|[$`~{}]|\*+|__+"
  r"|(?<![\w<>])<([A-Z])>(?![\w<>])"  # a placeholder that was filled in, <C>
)
# What `presentation.strip` may remove: commands and ticks.
_PRESENTED = re.compile(r"\\|[^\x00-\x7f]")
# Words in front of an option that do not change which one is chosen.
_LEAD = re.compile(
  r"(?:(?:I\s+(?:think|believe|guess|would\s+say)|it\s+is|it['’]s|it\s+must"
  r"\s+be|(?:most\s+)?(?:likely|probably)|clearly|definitely|certainly"
  r"|obviously|therefore|thus|hence|so|then|indeed|simply|just|either|both"
  r"|that\s+is|that|the|correct|right|best|final|option|choice|answer|letter"
  r"|alternative|is|are)(?![\w'’])"
  r"|选项|[\s:\"'“”.,])*",
  re.I,
)
_TRAIL = re.compile(
  r"\s+(?:is|are)(?:\s+the)?\s+(?:correct|right|best)"
  r"(?:\s+(?:answer|option|choice)s?)?[\s.!]*\Z",
  re.I,
)
_HEAD = re.compile(r"([(\[])?\s*([A-Za-z])(?(1)\s*[)\]]|(?![A-Za-z0-9]))")
_LIST = re.compile(r"\s*(?:,|;|/|&|\band\b|\bor\b)\s*", re.I)
_TAIL = re.compile(
  r"(.+?)\s*[(\[]\s*(?:option\s+|choice\s+)?([A-Z])\s*[)\]][\s.]*", re.S
)
_STOP = re.compile(
  r"(?<=\S)[.!?](?=\s|\Z)|\n|,(?=\s+(?:the|an?)\s)|(?<![\w\\])(?:because|since|as|so|which|where"
  r"|for|when|if|but|hence|therefore|given|due)(?!\w)|因为|因此|所以",
  re.I,
)
_MARKED = r"[).\]:]|[({]|,|\s-+\s|\s*[–—]|[!?;]|\Z"
# Separator between a letter and a comment on it: in a mark ("B, since ..."), in
# a last line, where "A, B" and "A - b" may mean anything, and none at all.
_COMMENT = {
  "mark": re.compile(rf"\s*(?:{_MARKED})|\s+(?:{_STOP.pattern})", re.I),
  "line": re.compile(r"\s*[).:\]]"),
  "exact": re.compile(r"(?!)"),
}
_ARROWS = "=>→⇒➔➜"
_BETWEEN = " \t\n.,;:!?-–—()[]{}\"'“”"

# ----- Withdrawn options -----

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
  r"|\s+(?:and|but|so|while|whereas)\b|\s*\Z)\s*",
  re.I,
)

_NO = re.compile(
  r"([?!,;.]|\s-|[—–])\s*(no|nope|wait|sorry|actually|scratch that|correction"
  r"|or rather|I mean)(?!\w)"
  # Several may follow each other: "B, no, actually C".
  r"(?:[\s,.!:;—-]*\b(?:no|nope|wait|sorry|actually|rather)(?!\w))*"
  r"[\s,.!:;—-]*",
  re.I,
)
_NOT_BUT = re.compile(
  r"(?:not|n['’]t)\s+.{1,80}?(?:[.;]|\bbut\b)[\s,]*"
  r"(?:rather\b|instead\b)?",
  re.I,
)
_NOT = re.compile(
  r"[\s,(]*\b(?:and\s+)?(?:not|rather\s+than|instead\s+of|as\s+opposed\s+to)"
  r"\s",
  re.I,
)

Options = Sequence[str] | Mapping[str, str]


def score(
  completion: str,
  reference: object,
  *,
  options: Options | None = None,
  tolerance: float = 0.0,
) -> Score:
  """Scores a completion by the option that it chooses.

  Args:
    completion: text of the model without its thinking section.
    reference: letter or text of the correct option, or a short answer.
    options: texts of the options, in order or by letter; None if unknown.
    tolerance: relative error that a short answer may have.

  Returns:
    Reward 1 if the answer is correct, else 0. The status is "no_answer" if
    nothing is chosen, "several_answers" if several options are, and "refused"
    if the reference is unusable. No completion makes it raise.
  """
  try:
    gold, named = check_reference(reference, options)
  except InputError:
    return Score(0.0, False, "refused")
  if not gold:
    return math.score(completion, reference, tolerance=tolerance)
  chosen = find(completion, named)
  if not chosen:
    return Score(0.0, False, "no_answer")
  if len(chosen) > 1:
    return Score(0.0, False, "several_answers")
  correct = chosen == {gold}
  return Score(float(correct), correct, "ok")


def check_reference(
  reference: object, options: Options | None = None
) -> tuple[str, dict[str, str]]:
  """Returns (letter of the correct option, options by letter).

  The letter is "" for a short answer. Loaders call it to check their data.

  Raises:
    InputError: the options are malformed, or the reference is neither an
      option nor a short answer.
  """
  named = by_letter(options)
  if isinstance(reference, str):
    match = _BARE.fullmatch(reference)
    letter = match[1].upper() if match else ""
    if letter in (named or dict.fromkeys(_COMMON)):
      return letter, named
    # The text of an option, if no other option has the same.
    matches = [k for k, v in named.items() if _plain(v) == _plain(reference)]
    if len(matches) == 1:
      return matches[0], named
  if named:
    raise InputError(
      f"the reference {str(reference)[:80]!r} is none of the options"
      f" {', '.join(named)}"
    )
  math.check_reference(reference)
  return "", {}


def by_letter(options: Options | None) -> dict[str, str]:
  """Returns the texts of options by letter.

  Raises:
    InputError: the options are not 2 to 26 texts with distinct letters.
  """
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
      f" not {len(options)}"
    )
  for letter, option in named.items():
    if letter not in LETTERS or len(letter) != 1:
      raise InputError(f"an option's letter may not be {letter[:20]!r}")
    if not isinstance(option, str) or not option.strip():
      raise InputError(f"option {letter} is not a text: {option!r:.50}")
  return named


def find(completion: str, named: Mapping[str, str]) -> set[str]:
  """Returns the letters of the options that a completion chooses.

  Contains "?" for an answer that is no option; empty if there is no answer.

  Args:
    completion: text of the model without its thinking section.
    named: texts of the options by letter, empty if unknown.
  """
  # Long runs of spaces would make the search for sentences slow.
  completion = _SPACES.sub(lambda m: m[1] or " ", completion.translate(_NARROW))
  if marked := answers.final(completion, ("boxed", "tag")):
    marked = list(dict.fromkeys(marked))
    chosen = set() if len(marked) <= _MAX_MARKS else {"?"}
    return chosen.union(
      *(_chosen(m, named) or {"?"} for m in marked[:_MAX_MARKS])
    )
  stated, has_sentence = _sentences(completion, named)
  if stated:
    return stated
  # Without marks and sentences, the last line may be the option.
  line = completion.rstrip().rpartition("\n")[2]
  chosen = _chosen(line, named, "line") - {"?"}
  if chosen or has_sentence:
    return chosen or {"?"}
  return _pointed(completion, named)


def _pointed(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the option that the last sentence of a text points to.

  The empty set if the sentence is in doubt or names another option, or if
  another sentence points to another one.
  """
  pointers = list(_POINTER.finditer(text))
  if not pointers or pointers[-1].end() < len(text):
    return set()
  letters = {pointer[2] for pointer in pointers}
  start = pointers[-1].start()
  before = re.split(r"(?<=[.!?])\s|\n", text[:start][-_MAX_SAID:])[-1]
  if len(letters) > 1 or _UNSURE.search(before):
    return set()
  others = {_known(letter, named) for letter in _CAPITAL.findall(before)}
  return set() if others - {"?"} else {_known(pointers[-1][2], named)}


def _sentences(text: str, named: Mapping[str, str]) -> tuple[set[str], bool]:
  """Returns (options of the last sentences that state one, has_sentence).

  has_sentence says whether any sentence begins like a statement of an answer,
  even if what follows is no option.
  """
  cues = [(*m.span(), "") for m in _CUE.finditer(text)]
  for match in _VERDICT.finditer(text):
    if not _DOUBT.search(text, max(match.start() - 40, 0), match.start()):
      cues.append((*match.span(), match[1]))
  # (start, end, letter or "") of each cue; a sentence ends at the next cue.
  cues = sorted(cues)[-_MAX_CUES:]
  ends = [start for start, _, _ in cues[1:]] + [len(text)]
  stated, joined, has_sentence = set(), False, False
  for (_, start, letter), end in zip(cues, ends):
    rest = letter + text[start : min(end, start + _MAX_SAID)]
    rest, more = rest.strip("*_ \t\n"), ""
    if not letter:
      rest, _, more = rest.partition("\n")
      rest, more = _JOINT.sub("", rest), _JOINT.sub("", more).strip("*_ \t\n")
    chosen = _chosen(letter or rest, named, "mark") - {"?"}
    has_sentence |= bool(rest)
    if chosen:
      stated = stated | chosen if joined else chosen
      # "The answer is A. The answer is B." is one answer of two, unless there
      # is more between them.
      joined = not more and _chosen(rest, named, "exact") == chosen
    elif rest:
      joined = False
  return stated, has_sentence


def _chosen(
  text: str, named: Mapping[str, str], comments: str = "mark"
) -> set[str]:
  """Returns the letters of the options that a marked answer chooses.

  {"?"} if it is no option, the empty set if it withdraws one without naming
  another.

  Args:
    text: marked answer.
    named: texts of the options by letter.
    comments: key of _COMMENT, the separators allowed before a comment.
  """
  text = text[: expressions.MAX_CHARS].strip()
  chosen = _chosen_as_written(text, named, comments)
  # An option's text may look like presentation, so that it is removed only
  # where the text as it is chooses nothing.
  if chosen == {"?"} and _PRESENTED.search(text):
    plain = presentation.strip(text)
    if plain != text:
      return _chosen_as_written(plain, named, comments)
  return chosen


def _chosen_as_written(
  text: str, named: Mapping[str, str], comments: str
) -> set[str]:
  """Returns what `_chosen` does, without removing presentation."""
  kept = _kept(text, named, comments)
  return kept if kept is not None else _read(text, named, comments)


def _kept(
  text: str, named: Mapping[str, str], comments: str
) -> set[str] | None:
  """Returns the options that remain in a text that withdraws one.

  None if the text withdraws nothing, the empty set if nothing remains.
  """
  if _matching(text, named):
    return None
  if rated := _rated(text, named):
    return rated
  # "B? No, C": what follows the last withdrawal counts if it is an option.
  for match in reversed(list(_NO.finditer(text))):
    after = _read(text[match.end() :], named, comments)
    if after != {"?"}:
      return after
    if match[1] == "?" and match[2].casefold() in ("no", "nope"):
      return set()
  # "not B but C", then "C, not B".
  plain = _plain_mark(text)
  if match := _NOT_BUT.match(plain):
    after = _read(plain[match.end() :], named, comments)
    return after if after != {"?"} else None
  if (match := _NOT.search(plain)) and match.start():
    return _read(plain[: match.start()], named, comments)
  return None


def _rated(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the options that a text calls right after calling others wrong.

  The empty set if the text contains anything else or ends with an option
  called wrong, since the question may ask for the wrong one.
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
  """Returns a text without commands and marks of style."""
  # From the inside, before braces go: \text{\textbf{B}}.
  while (plain := _STYLED.sub(r"\1", text)) != text:
    text = plain
  while (plain := _STYLE.sub(lambda m: m[1] or m[2] or " ", text)) != text:
    text = plain
  return " ".join(text.split())


def _plain_mark(text: str) -> str:
  """Returns a text without styles and words that introduce an option."""
  text = _TRAIL.sub("", _unstyled(text))
  return text[_LEAD.match(text).end() :]


def _read(text: str, named: Mapping[str, str], comments: str) -> set[str]:
  """Returns the letters that a text without withdrawals chooses, else {"?"}."""
  plain = _plain_mark(text)
  bare = _BARE.fullmatch(plain.strip(_BETWEEN))
  # A capital is a letter even if it is also the text of another option.
  if bare and bare[1].isupper() and bare[1] in named:
    return {bare[1]}
  if whole := _matching(text, named) or _matching(plain, named):
    return whole
  if bare:
    # A lower-case letter without a mark around it is a word ("a").
    if comments == "mark" or bare[1].isupper() or not text.isalpha():
      return {_known(bare[1], named)}
    return {"?"}
  # A text and its letter behind it: "Oslo (B)".
  if match := _TAIL.fullmatch(plain):
    if front := _matching(match[1], named):
      return front | {_known(match[2], named)}
  if head := _HEAD.match(plain):
    chosen = _headed(head, named, comments)
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
  """Returns the letters that each part of a list of options chooses."""
  parts = _LIST.split(text)
  return [_item(p, named) for p in parts if p.strip(_BETWEEN)]


def _item(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the letter of a part of a list, the empty set if it is none."""
  if matches := _matching(text, named):
    return matches
  plain = _plain_mark(text)
  if bare := _BARE.fullmatch(plain.strip(_BETWEEN)):
    return {_known(bare[1], named)}
  head = _HEAD.match(plain)
  # A letter with an option's text behind it.
  matches = _matching(plain[head.end() :], named) if head else set()
  return matches | {_known(head[2], named)} if matches else set()


def _headed(
  head: re.Match[str], named: Mapping[str, str], comments: str
) -> set[str]:
  """Returns the letters of a text that begins with one, else {"?"}.

  Args:
    head: match of the letter.
    named: texts of the options by letter.
    comments: key of _COMMENT, the separators allowed before a comment.
  """
  letter, rest = _known(head[2], named), head.string[head.end() :]
  remark = rest.strip(_BETWEEN + _ARROWS)
  if matches := _matching(remark, named) or _beginning(remark, named):
    return {letter} | matches
  parts = _parts(rest, named) if _LIST.match(rest) else []
  if parts and parts[0]:
    return {letter}.union(*parts)
  # "B (A)" chooses two options; "(A)(C)" none.
  bare = _BARE.fullmatch(remark)
  if bare and bare[1].isupper():
    signs = re.match(r"\s*[^\w\s]", rest)
    between = signs and not (head[1] and rest.startswith(("(", "[")))
    return {letter, _known(bare[1], named)} if between else {"?"}
  # A letter in brackets, or a capital that a separator follows.
  is_clear = head[1] or (head[2].isupper() and _COMMENT[comments].match(rest))
  return {letter} if is_clear and comments != "exact" else {"?"}


def _beginning(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the option whose text precedes the first stop in a text."""
  stop = _STOP.search(text)
  return (
    _matching(text[: stop.start()].strip(_BETWEEN), named) if stop else (set())
  )


def _known(letter: str, named: Mapping[str, str]) -> str:
  """Returns the letter in upper case if an option has it, else "?"."""
  return letter.upper() if letter.upper() in (named or _COMMON) else "?"


def _matching(text: str, named: Mapping[str, str]) -> set[str]:
  """Returns the letter of the option with this text, if exactly one has it."""
  if not named:
    return set()
  plains = {_plain(t) for t in (text, text.strip(_BETWEEN))} - {""}
  matches = {k for k, v in named.items() if _plain(v) in plains}
  return matches if len(matches) == 1 else set()


def _plain(text: str) -> str:
  """Returns a normal form of an option's text."""
  text = text.translate(_NARROW)
  words = re.sub(r"[\s.,;:*_$\"'`]+", " ", text).strip().casefold()
  if re.search(r"[\d\\=]", text):
    return math.normal_form(text)
  return words


def canonical(completion: str, row: Any) -> str:
  """Returns the chosen letter or the short answer, for `tasks.base`."""
  gold, named = check_reference(row.reference, row.meta.get("options"))
  if not gold:
    return math.canonical(completion, row)
  return " ".join(sorted(find(completion, named))) or completion.strip()


# ----- For loaders -----


def order(count: int, seed: int, row: object) -> list[int]:
  """Returns a random permutation of 0 to count - 1, the order of options.

  It depends only on the seed and the row: not on the process, the host or
  other rows. Option `i` gets the letter LETTERS[order.index(i)].

  Args:
    count: number of options.
    seed: seed of the order.
    row: id or text of the row.
  """
  indices = list(range(count))
  random.Random(f"{seed}/{row}").shuffle(indices)
  return indices


def shuffle(options: Sequence[str], seed: int, row: object) -> list[str]:
  """Returns options in the order given by `order`."""
  return [options[i] for i in order(len(options), seed, row)]
