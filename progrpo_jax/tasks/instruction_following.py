r"""Instruction following: do what the prompt says about the answer's form.

  full     prompt  Write a poem about tea. Include these words in the
                   response: "river" and "copper". Answer with less than 30
                   words.
           answer  Many people like tea. This has to do with river and copper.
  compact  prompt  "has cat sun;words>=4:"
           answer  "cat sun pen cup"

One to three of IFEval's 25 instructions are drawn that can all be followed at
once (`asking.CONFLICTS` says which cannot), with arguments at random; the
verifier and the form of the reference are IFEval's. A problem belongs to
validation if the hash of its prompt says so, whatever the seed: no prompt of a
run's validation is in any run's train. Nothing is built or downloaded.

The compact form leaves out what cannot be said in a few characters: line
breaks, repeated requests, and the four instructions on a language or on all
letters of an English text.
"""

from collections.abc import Iterator, Sequence
import hashlib
import itertools
import random
from typing import Any

from progrpo_jax.errors import InputError
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import asking, writing

# By name: the verifier's module loads a classifier of languages.
VERIFIER = "progrpo_jax.rewards.instruction:score"

TEMPLATES = ("full", "compact")
_VALIDATION_SHARE = 8  # one prompt of so many is validation's
_MAX_MISSES = 5000  # draws in a row that are no new prompt



def load(
    split: str,
    *,
    data_dir: str,
    seed: int,
    template: str = "full",
    loose: bool = False,
    binary: bool = False,
    num_train: base.Count = 5000,
    num_validation: base.Count = 500,
    max_demonstrations: base.Count = 4,
    min_instructions: int = 1,
    max_instructions: int = 3,
    max_count: base.Count = 4,
    instructions: Sequence[str] | None = None,
) -> "Rows":
  """Returns a split.

  Args:
    split: "train" or "validation".
    data_dir: not used; nothing is built.
    seed: of the problems; validation has none of any seed's train.
    template: "full" (whole sentences) or "compact" (for a tiny policy).
    loose: whether the verifier forgives a first or last line and asterisks.
    binary: whether only an answer that follows everything counts.
    num_train: rows of the split train.
    num_validation: rows of the split validation.
    max_demonstrations: the most right answers that a row keeps.
    min_instructions: the fewest instructions of a prompt.
    max_instructions: the most instructions of a prompt.
    max_count: the largest number of things (words of a kind, paragraphs,
      bullets, ...) that an instruction asks for; words in all are twelve
      times as many in the full template.
    instructions: the ids to draw from; None for all that the template has.
  """
  del data_dir
  style = _style(template)
  names = _chosen(instructions, template, style)
  if not 1 <= min_instructions <= max_instructions:
    raise InputError(
        "instruction_following: need 1 <= min_instructions <="
        f" max_instructions, not {min_instructions} and {max_instructions}")
  if max_count < 2:
    raise InputError(
        f"instruction_following: max_count must be 2 or more, not {max_count}")
  count = {"train": num_train, "validation": num_validation}[split]
  bounds = (min_instructions, max_instructions)
  problems = _problems(style, names, bounds, max_count, f"{seed}/{split}")
  own = _own(problems, style, count, split == "validation")
  if len(own) < count:
    raise InputError(
        f"instruction_following: only {len(own)} of {count} {split} prompts"
        " are distinct under these options; ask for fewer, or for more"
        " instructions or a larger max_count")
  meta = {"loose": loose, "binary": binary}
  return Rows(list(own.items()), style, meta, max_demonstrations)


def answer(reference: dict[str, Any], seed: int = 0) -> str | None:
  """Writes a text that follows the instructions of any reference.

  None where it cannot: it has no words of the language, say, or no room. The
  topic is nobody's; what it says follows the form alone.
  """
  problem = asking.Problem(
      "Write a text about this.", tuple(reference["instruction_id_list"]),
      tuple(reference["kwargs"]))
  style = _style("full")
  try:
    return writing.Writer(problem, style, random.Random(seed)).write()
  except (KeyError, TypeError, ValueError):
    return None  # of other sets: arguments that are not drawn here


def _own(
    problems: Iterator[asking.Problem | None],
    style: asking.Style,
    count: int,
    validation: bool,
) -> dict[str, asking.Problem]:
  """Returns the first `count` of a split by prompt; fewer if there are."""
  own: dict[str, asking.Problem] = {}
  misses = 0
  while len(own) < count and misses < _MAX_MISSES:
    problem = next(problems)
    text = problem and asking.prompt(problem, style)
    new = text and text not in own and _is_validation(text) == validation
    if new and writing.Writer(problem, style, random.Random(text)).write():
      own[text] = problem
      misses = 0
    else:
      misses += 1
  return own


def _style(template: str) -> asking.Style:
  """Returns the words of a template."""
  if template not in TEMPLATES:
    hint = base.nearest(template, TEMPLATES)
    raise InputError(f"instruction_following: no template {template!r}{hint}")
  return asking.STYLES[template]


def _chosen(
    given: Sequence[str] | None, template: str, style: asking.Style
) -> list[str]:
  """Returns the instructions to draw from, or raises InputError."""
  for name in given or ():
    if name not in style.forms:
      where = "template compact has" if name in asking.IDS else "there is"
      hint = base.nearest(name, list(style.forms))
      raise InputError(
          f"instruction_following: {where} no instruction {name!r}{hint}")
  if given is not None and not given:
    raise InputError("instruction_following: instructions is empty")
  return list(dict.fromkeys(given or style.forms))


def _problems(
    style: asking.Style,
    names: list[str],
    bounds: tuple[int, int],
    most: int,
    seed: str,
) -> Iterator[asking.Problem | None]:
  """Yields problems without end, None for a draw that came to nothing."""
  for index in itertools.count():
    rng = random.Random(f"{seed}/{index}")
    chosen = _compatible(names, rng.randint(*bounds), rng)
    draw = asking.Draw(rng, style, most)
    request = ""
    if style.full:
      request = (
          f"Write {rng.choice(asking.KINDS)} about"
          f" {rng.choice(asking.TOPICS)}.")
    kwargs = [draw.arguments(name) for name in chosen]
    for name, own in zip(chosen, kwargs):
      if name == "combination:repeat_prompt":
        own["prompt_to_repeat"] = request
    problem = asking.Problem(request, tuple(chosen), tuple(kwargs))
    yield problem if len(chosen) >= bounds[0] else None


def _compatible(names: list[str], count: int, rng: random.Random) -> list[str]:
  """Draws up to `count` instructions of which no two conflict."""
  chosen: list[str] = []
  for name in rng.sample(names, len(names)):
    if len(chosen) < count and not any(
        frozenset((name, other)) in asking.CONFLICTS for other in chosen):
      chosen.append(name)
  return chosen


def _is_validation(text: str) -> bool:
  """Says to which split a prompt belongs, in every run."""
  digest = hashlib.sha256(text.encode()).digest()
  return digest[0] % _VALIDATION_SHARE == 0


class Rows:
  """The rows of a split; demonstrations are written as they are read."""

  def __init__(
      self,
      problems: list[tuple[str, asking.Problem]],
      style: asking.Style,
      meta: dict[str, Any],
      max_demonstrations: int,
  ):
    self._problems = problems
    self._style = style
    self._meta = meta
    self._max_demonstrations = max_demonstrations

  def __len__(self) -> int:
    return len(self._problems)

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < len(self):
      raise IndexError(index)
    text, problem = self._problems[index]
    reference = {
        "instruction_id_list": list(problem.names),
        "kwargs": [dict(kwargs) for kwargs in problem.kwargs],
    }
    return base.Row(
        "instruction_following", text, reference, dict(self._meta),
        self._demonstrations(text, problem))

  def _demonstrations(
      self, text: str, problem: asking.Problem
  ) -> tuple[str, ...]:
    """Writes distinct answers to a problem, the same at every call."""
    rng = random.Random(text)
    found: dict[str, None] = {}
    for _ in range(4 * self._max_demonstrations):
      if len(found) == self._max_demonstrations:
        break
      written = writing.Writer(problem, self._style, rng).write()
      if written is not None:
        found[written] = None
    return tuple(found)


def canonical(completion: str, row: base.Row) -> str:
  """Returns the words of an answer, without case and signs."""
  del row
  return " ".join(writing.split(completion.lower()))
