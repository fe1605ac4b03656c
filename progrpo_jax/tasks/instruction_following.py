r"""Instruction following: do what the prompt says about the answer's form.

  full     prompt  Write a poem about tea. Include these words in the
                   response: "river" and "copper". Answer with less than 30
                   words.
           answer  Many people like tea. This has to do with river and copper.
  compact  prompt  "has cat sun;words>=4:"
           answer  "cat sun pen cup"

Draws one to three of IFEval's 25 instructions that do not conflict (see
`asking.CONFLICTS`), with random arguments. Verifier and reference have IFEval's
format. The hash of a prompt decides its split, whatever the seed, so no
validation prompt of any run is a train prompt of any run. Nothing is built or
downloaded.

The compact template leaves out instructions that a few characters cannot
express: those on line breaks, on repeating the request, on the language, and
on the case of a whole English text.
"""

from collections.abc import Iterator, Sequence
import hashlib
import importlib
import itertools
import random
from typing import Any

from progrpo_jax import errors
from progrpo_jax.errors import InputError
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import asking, writing

# A name and not an import: the verifier's module loads a language classifier.
VERIFIER = "progrpo_jax.rewards.instruction:score"
DOMAIN = "instructions"

TEMPLATES = ("full", "compact")
_VALIDATION_SHARE = 8  # one of so many prompts belongs to validation
_MAX_MISSES = 5000  # draws in a row without a new prompt before giving up


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
    data_dir: unused; nothing is built.
    seed: seed of the problems.
    template: "full" (whole sentences) or "compact" (for a tiny policy).
    loose: whether the verifier ignores a first or last line and asterisks.
    binary: whether an answer scores only if it follows all instructions.
    num_train: number of train rows.
    num_validation: number of validation rows.
    max_demonstrations: largest number of demonstrations per row.
    min_instructions: smallest number of instructions per prompt.
    max_instructions: largest number of instructions per prompt.
    max_count: largest number of things (occurrences of a word, paragraphs,
      bullets, ...) that an instruction asks for, at least 2. In the full
      template, limits on the number of words lie below 12 * (max_count + 1).
    instructions: ids of the instructions to draw from; None for all that the
      template has.

  Raises:
    InputError: an option is wrong, too few distinct prompts exist, or the
      verifier's classifier of languages is not installed.
  """
  del data_dir
  with errors.of_extra("language"):  # for the verifier, in other processes
    importlib.import_module("py3langid")
  style = _style(template)
  names = _chosen(instructions, template, style)
  if not 1 <= min_instructions <= max_instructions:
    raise InputError(
      "instruction_following: need 1 <= min_instructions <="
      f" max_instructions, not {min_instructions} and {max_instructions}"
    )
  if max_count < 2:
    raise InputError(
      f"instruction_following: max_count must be 2 or more, not {max_count}"
    )
  count = {"train": num_train, "validation": num_validation}[split]
  bounds = (min_instructions, max_instructions)
  problems = _problems(style, names, bounds, max_count, f"{seed}/{split}")
  by_prompt = _take(problems, style, count, split == "validation")
  if len(by_prompt) < count:
    raise InputError(
      f"instruction_following: only {len(by_prompt)} of {count} {split}"
      " prompts are distinct under these options; ask for fewer, or for more"
      " instructions or a larger max_count"
    )
  meta = {"loose": loose, "binary": binary}
  return Rows(list(by_prompt.items()), style, meta, max_demonstrations)


def answer(reference: dict[str, Any], seed: int = 0) -> str | None:
  """Returns a text that follows the instructions of any reference.

  It follows only the instructions and ignores the topic of the prompt. None if
  no text can be written, for instance in an unsupported language or under
  limits that leave no room.

  Args:
    reference: record of `instruction_id_list` and `kwargs`, as in IFEval.
    seed: seed of the text.
  """
  problem = asking.Problem(
    "Write a text about this.",
    tuple(reference["instruction_id_list"]),
    tuple(reference["kwargs"]),
  )
  style = _style("full")
  try:
    return writing.Writer(problem, style, random.Random(seed)).write()
  except (KeyError, TypeError, ValueError):
    return None  # other sets have arguments that are never drawn here


def _take(
  problems: Iterator[asking.Problem | None],
  style: asking.Style,
  count: int,
  validation: bool,
) -> dict[str, asking.Problem]:
  """Returns the first `count` problems of a split, by prompt.

  Fewer if there are not enough.
  """
  by_prompt: dict[str, asking.Problem] = {}
  misses = 0
  while len(by_prompt) < count and misses < _MAX_MISSES:
    problem = next(problems)
    text = problem and asking.prompt(problem, style)
    new = text and text not in by_prompt and _is_validation(text) == validation
    # A problem that cannot be answered is dropped.
    if new and writing.Writer(problem, style, random.Random(text)).write():
      by_prompt[text] = problem
      misses = 0
    else:
      misses += 1
  return by_prompt


def _style(template: str) -> asking.Style:
  """Returns the style of a template."""
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
        f"instruction_following: {where} no instruction {name!r}{hint}"
      )
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
  """Yields problems without end, None if too few instructions fit together.

  Args:
    style: style of the template.
    names: ids of the instructions to draw from.
    bounds: smallest and largest number of instructions per problem.
    most: largest number of things that an instruction asks for.
    seed: text that seeds the problems.
  """
  for index in itertools.count():
    # A generator per problem, so that problem i does not depend on others.
    rng = random.Random(f"{seed}/{index}")
    chosen = _compatible(names, rng.randint(*bounds), rng)
    draw = asking.Draw(rng, style, most)
    request = ""
    if style.full:
      request = (
        f"Write {rng.choice(asking.KINDS)} about {rng.choice(asking.TOPICS)}."
      )
    kwargs = [draw.arguments(name) for name in chosen]
    for name, arguments in zip(chosen, kwargs):
      if name == "combination:repeat_prompt":
        arguments["prompt_to_repeat"] = request
    problem = asking.Problem(request, tuple(chosen), tuple(kwargs))
    yield problem if len(chosen) >= bounds[0] else None


def _compatible(names: list[str], count: int, rng: random.Random) -> list[str]:
  """Draws up to `count` instructions of which no two conflict."""
  chosen: list[str] = []
  for name in rng.sample(names, len(names)):
    if len(chosen) < count and not any(
      frozenset((name, other)) in asking.CONFLICTS for other in chosen
    ):
      chosen.append(name)
  return chosen


def _is_validation(text: str) -> bool:
  """Returns whether a prompt belongs to validation, in every run."""
  digest = hashlib.sha256(text.encode()).digest()
  return digest[0] % _VALIDATION_SHARE == 0


class Rows:
  """Rows of a split; demonstrations are written on access."""

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
      "instruction_following",
      text,
      reference,
      dict(self._meta),
      self._demonstrations(text, problem),
    )

  def _demonstrations(
    self, text: str, problem: asking.Problem
  ) -> tuple[str, ...]:
    """Returns distinct answers to a problem, the same at every call."""
    rng = random.Random(text)
    answers: dict[str, None] = {}  # a set that keeps its order
    for _ in range(4 * self._max_demonstrations):
      if len(answers) == self._max_demonstrations:
        break
      written = writing.Writer(problem, self._style, rng).write()
      if written is not None:
        answers[written] = None
    return tuple(answers)


def canonical(completion: str, row: base.Row) -> str:
  """Returns the words of an answer in lower case, without punctuation."""
  del row
  return " ".join(writing.split(completion.lower()))
