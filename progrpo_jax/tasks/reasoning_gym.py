"""Any problem generator of Reasoning Gym, built with TFDS as ArrayRecord.

The rows of a build depend on the dataset, its options, the sizes and the seed
and on nothing else; the directory's name carries a digest of these, so a
change of one builds anew and equal ones are built once. Validation is drawn
first, and train leaves out whatever validation holds.

This module is also a task of its own, for the generators that have no module
here (option `dataset`), with Reasoning Gym's question and answer format; of
all of them but three, and of a mixture of 96 (see MIXTURE). `level` sets the
difficulty by Reasoning Gym's curriculum, 0 the easiest; a curriculum over a
run is several such tasks whose weights its stages change. Four generators
depend on PYTHONHASHSEED, and are drawn in a process that has it at 0.

  name "reasoning_gym", options {"dataset": "spell_backward"}
  prompt  Spell this word backward (example: sun -> nus): Dealing
          Give your final answer between <answer> and </answer>.
  answer  <answer>gnilaeD</answer>
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import hashlib
import inspect
import json
import os
import random
import subprocess
import sys
from typing import Any

import tensorflow_datasets as tfds

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import gym, logic
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import builder

factory = gym.load("factory")

VERIFIER = "progrpo_jax.rewards.logic:score"
DOMAIN = "logic"

# Their problems change with PYTHONHASHSEED: hosts of one run would disagree.
HASH_DEPENDENT = (
    "isomorphic_strings", "knight_swap", "ransom_note", "word_ladder")
# Their scorers run text of the model as Python: polynomial_multiplication,
# which depends on the hash seed as well, and two on integration.
UNSAFE = tuple(n for n in logic.EVALUATING if n not in logic.GUARDED)

# ProRL trains on 96 tasks of Reasoning Gym, which the paper does not list.
# These are what there is here, without the three that it keeps for tests of
# what was not trained (acre, boxnet, game_of_life_halting), without the mixer
# (composite), two that take over a second to draw a problem (futoshiki,
# knight_swap) and one with too few (coin_flip, 260). The options widen three
# that have fewer distinct problems than the mixture asks for.
_NOT_MIXED = (
    "acre", "boxnet", "game_of_life_halting", "composite", "futoshiki",
    "knight_swap", "coin_flip", *UNSAFE)
MIXTURE: dict[str, dict[str, Any]] = {
    name: {} for name in sorted(factory.DATASETS) if name not in _NOT_MIXED
} | {
    "string_splitting": {"max_initial_machines": 9},
    "string_synthesis": {"max_initial_blocks": 9},
    "tower_of_hanoi": {"max_disks": 9, "max_pegs": 7},
}

TEMPLATES = ("full", "compact")
_ASK = "\n\nGive your final answer between <answer> and </answer>."
_SMALL_SEEDS = ("pool_matrix",)  # numpy takes 32 bits
_VERSION = "1.0.0"
_HEAD = "\n=== entries ===\n"  # generators may print
_MAX_TRIES_PER_ROW = 50
# 37 thousand and 9,600 problems over 96 tasks.
_MIXED = {"num_train": 385, "num_validation": 100, "binary": False}


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a task adds to a Reasoning Gym dataset.

  An entry is Reasoning Gym's {"question", "answer", "metadata"}; an answer is
  text in its scorer's format. Answers in the compact form are translated back
  by `progrpo_jax.rewards.logic.expand`.

  Attributes:
    dataset: Reasoning Gym's name of it.
    defaults: generator options where they differ from Reasoning Gym's.
    keep: the metadata that scorer and prompt need; None keeps all.
    identity: entry -> text that is equal for the same problem.
    solve: (entry, limit, rng) -> up to limit right answers.
    reference: entry -> a right answer, for people to read.
    compact_prompt: entry -> a short prompt, None if there is no such form.
    compact_answer: (answer, entry) -> the answer in the compact form.
    check: raises InputError for options that the compact form cannot take.
    generator: the dataset's class, where it is not Reasoning Gym's own.
  """

  dataset: str
  defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
  keep: tuple[str, ...] | None = None
  identity: Callable[[dict], str] = lambda entry: entry["question"]
  solve: Callable[[dict, int, random.Random], list[str]] = (
      lambda entry, limit, rng: [entry["answer"]]
  )
  reference: Callable[[dict], str] = lambda entry: entry["answer"]
  compact_prompt: Callable[[dict], str] | None = None
  compact_answer: Callable[[str, dict], str] = lambda answer, entry: answer
  check: Callable[[dict[str, Any]], None] = lambda options: None
  generator: type | None = None


def load(
    split: str, *, dataset: str | Sequence[str], **options: Any
) -> base.Source:
  """Returns a split of Reasoning Gym.

  Args:
    split: "train" or "validation".
    dataset: a generator, a list of some, or "mixture" for those of MIXTURE,
      all with 385 and 100 problems and partial credit if not said otherwise.
    **options: as in `rows`.
  """
  if isinstance(dataset, str) and dataset != "mixture":
    return rows(Spec(dataset), "reasoning_gym", split, **options)
  options = {**_MIXED, **options}
  names = MIXTURE if dataset == "mixture" else dataset
  return base.Chain([
      rows(Spec(name), "reasoning_gym", split,
           **{**MIXTURE.get(name, {}), **options})
      for name in names])


def mixture(**options: Any) -> dict[str, dict[str, Any]]:
  """Returns MIXTURE as a config's `data.tasks`, each a task of its own."""
  return {
      name: {
          "weight": 1.0,
          "module": "reasoning_gym",
          "options": {"dataset": name, **_MIXED, **own, **options}}
      for name, own in MIXTURE.items()}


@base.typed
def rows(
    spec: Spec,
    task: str,
    split: str,
    *,
    data_dir: str,
    seed: int,
    template: str = "full",
    binary: bool = True,
    num_train: base.Count = 5000,
    num_validation: base.Count = 500,
    max_demonstrations: base.Count = 4,
    level: int | None = None,
    **generator: Any,
) -> "Rows":
  """Returns a split of a task, building its data where that is not done.

  Args:
    spec: the dataset and its forms.
    task: the task's name.
    split: "train" or "validation".
    data_dir: where builds are kept.
    seed: of the problems; no two splits share one.
    template: "full" (Reasoning Gym's question) or "compact".
    binary: whether partial credit counts 0.
    num_train: rows of the split train.
    num_validation: rows of the split validation.
    max_demonstrations: the most right answers that a row keeps.
    level: of Reasoning Gym's curriculum, which sets the options that it
      knows; None leaves them at their defaults.
    **generator: options of the Reasoning Gym dataset.
  """
  if template not in TEMPLATES:
    raise InputError(
        f"{task}: no template {template!r}{base.nearest(template, TEMPLATES)}"
    )
  if template == "compact" and spec.compact_prompt is None:
    raise InputError(f"{task} has no compact template")
  if level is not None:
    generator = {**_options_of_level(spec.dataset, level), **generator}
  options = check_options(spec, generator)
  if template == "compact":
    spec.check(options)
  config = Config(
      spec=spec,
      options=options,
      num_train=num_train,
      num_validation=num_validation,
      max_demonstrations=max_demonstrations,
      seed=seed,
  )
  source = prepare(config, data_dir).as_data_source(split)
  return Rows(source, spec, task, template, binary)


class Rows:
  """Rows of a build, formatted as they are read."""

  def __init__(
      self, source: Any, spec: Spec, task: str, template: str, binary: bool
  ):
    self._source = source
    self._spec = spec
    self._task = task
    self._compact = template == "compact"
    self._binary = binary

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> base.Row:
    if not 0 <= index < len(self):
      raise IndexError(index)
    record = self._source[index]
    entry = {k: json.loads(record[k]) for k in ("answer", "metadata")}
    entry["question"] = record["question"].decode()
    answers = [a.decode() for a in record["demonstrations"]]
    if self._compact:
      prompt = self._spec.compact_prompt(entry)
      answers = [self._spec.compact_answer(a, entry) for a in answers]
    else:
      prompt = entry["question"].rstrip() + _ASK
      answers = [f"<answer>{a}</answer>" for a in answers]
    meta = {
        "dataset": self._spec.dataset,
        "metadata": entry["metadata"],
        "template": "compact" if self._compact else "full",
        "binary": self._binary,
    }
    return base.Row(self._task, prompt, entry["answer"], meta, tuple(answers))


def check_options(spec: Spec, given: dict[str, Any]) -> dict[str, Any]:
  """Returns all options of a generator, or raises InputError."""
  name = spec.dataset
  _check_name(name)
  config_class = factory.DATASETS[name][1]
  fields = {f.name for f in dataclasses.fields(config_class)}
  known = sorted(fields - {"seed", "size"})
  for option in given:
    if option not in known:
      hint = base.nearest(option, known + _own_options())
      raise InputError(f"{name}: no option {option!r}{hint}")
  options = {**spec.defaults, **given}
  try:
    config = config_class(**options)
    if hasattr(config, "validate"):  # two have nothing to validate
      config.validate()
  except (AssertionError, TypeError, ValueError) as error:
    raise InputError(f"{name}: {error} (options: {options})") from error
  return options


def _check_name(name: str) -> None:
  """Raises InputError for a dataset that is not to be had."""
  if name in UNSAFE:
    raise InputError(f"{name}: its scorer runs model text as Python code")
  if name not in factory.DATASETS:
    known = sorted(factory.DATASETS)
    raise InputError(f"no dataset {name!r}{base.nearest(name, known)}")
  gym.check(name)


def _options_of_level(name: str, level: int) -> dict[str, Any]:
  """Returns what a curriculum sets at a level, 0 being the easiest."""
  _check_name(name)
  if not factory.has_curriculum(name):
    raise InputError(f"{name} has no curriculum, and so no levels")
  curriculum = factory.create_curriculum(name)
  attributes = curriculum.attributes.values()
  highest = max(len(attribute.levels) for attribute in attributes) - 1
  if level not in range(highest + 1):
    raise InputError(f"{name}: level is 0 to {highest}, not {level}")
  curriculum.set_global_level(level)
  config = curriculum.generate_configuration()
  fields = {f.name for f in dataclasses.fields(config)}
  known = set()
  for attribute in attributes:
    known |= {
        getattr(attribute, key) for key in (
            "field_name", "lower_field_name", "upper_field_name")
        if hasattr(attribute, key)}
  return {key: getattr(config, key) for key in sorted(known & fields)}


def _own_options() -> list[str]:
  """Returns the names of the options that every dataset has here."""
  parameters = inspect.signature(rows).parameters.values()
  return [p.name for p in parameters if p.default is not p.empty]


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """What a build depends on; its name is made from a digest of it."""

  name: str = ""
  spec: Spec | None = None
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  num_train: int = 0
  num_validation: int = 0
  max_demonstrations: int = 0
  seed: int = 0

  def __post_init__(self):
    parts = {
        "dataset": self.spec.dataset,
        "gym": gym.load().__version__,
        "options": self.options,
        "sizes": [self.num_train, self.num_validation],
        "demonstrations": self.max_demonstrations,
        "seed": self.seed,
    }
    self.name = f"{self.spec.dataset}-{builder.digest(parts)}"
    self.version = _VERSION


class ReasoningGym(tfds.core.GeneratorBasedBuilder):
  """Writes the entries of a generator, validation and train disjoint."""

  VERSION = tfds.core.Version(_VERSION)

  def _info(self) -> tfds.core.DatasetInfo:
    return builder.info(self, "question", "answer", "metadata")

  def _split_generators(self, _) -> dict[str, Iterator]:
    config = self.builder_config
    if config.spec.dataset in HASH_DEPENDENT:
      drawn = _drawn_elsewhere(config)
    else:
      drawn = _drawn(config)
    return {
        split: self._generate_examples(entries)
        for split, entries in drawn.items()
    }

  def _generate_examples(self, entries):
    config = self.builder_config
    for index, entry in enumerate(entries):
      rng = random.Random(f"{config.seed}/{entry['question']}")
      answers = config.spec.solve(entry, config.max_demonstrations, rng)
      if any(not isinstance(answer, str) for answer in answers):
        # Some generators carry no answer: only a task with a solver of its
        # own can demonstrate those.
        answers = []
      yield index, {
          "question": entry["question"],
          "answer": json.dumps(config.spec.reference(entry)),
          "metadata": json.dumps(entry["metadata"]),
          "demonstrations": answers[: config.max_demonstrations],
      }


def _drawn(config: Config) -> dict[str, Iterator[dict]]:
  """Returns the entries of both splits; train has none of validation."""
  seen: set[str] = set()
  validation = list(_entries(config, "validation", seen))
  return {
      "validation": iter(validation), "train": _entries(config, "train", seen)}


def _drawn_elsewhere(config: Config) -> dict[str, Iterator[dict]]:
  """Returns what `_drawn` returns in a process whose hash seed is 0."""
  given = {
      key: getattr(config, key)
      for key in ("options", "num_train", "num_validation", "seed")}
  code = f"from {__name__} import draw; draw()"
  done = subprocess.run(
      [sys.executable, "-c", code],
      input=json.dumps({"dataset": config.spec.dataset, **given}),
      env={**os.environ, "PYTHONHASHSEED": "0",
           "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
      capture_output=True, text=True, encoding="utf-8")
  if done.returncode == 2:
    raise InputError(done.stderr.strip())
  if done.returncode:
    raise RuntimeError(f"{config.spec.dataset}: {done.stderr[-2000:]}")
  drawn = json.loads(done.stdout.rpartition(_HEAD)[2])
  return {split: iter(entries) for split, entries in drawn.items()}


def draw() -> None:
  """Writes the entries of the config on the standard input; see above."""
  given = json.load(sys.stdin)
  config = Config(spec=Spec(given.pop("dataset")), **given)
  try:
    drawn = {split: list(found) for split, found in _drawn(config).items()}
  except InputError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  print(_HEAD + json.dumps(drawn))


def _entries(config: Config, split: str, seen: set[str]) -> Iterator[dict]:
  """Yields the entries of a split that are not among those seen."""
  size = {"train": config.num_train, "validation": config.num_validation}[split]
  generator = _generator(config, split)
  found = 0
  for index in range(_MAX_TRIES_PER_ROW * size):
    if found == size:
      return
    try:
      entry = generator[index]
    except ValueError:
      continue  # some generators give up on an unlucky index
    identity = config.spec.identity(entry)
    if identity in seen:
      continue
    seen.add(identity)
    found += 1
    yield _slim(entry, config.spec.keep)
  if found < size:
    raise InputError(
        f"{config.spec.dataset}: only {found} of {size} {split} problems are"
        f" distinct under the options {config.options}; ask for fewer or widen"
        " the options"
    )


def _generator(config: Config, split: str) -> Any:
  """Returns the generator of a split, seeded far from the other's."""
  text = f"{config.seed}/{split}/{config.spec.dataset}"
  size = 3 if config.spec.dataset in _SMALL_SEEDS else 7
  seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big")
  default_class, config_class = factory.DATASETS[config.spec.dataset]
  build = config.spec.generator or default_class
  return build(config_class(**config.options, seed=seed))


def _slim(entry: dict, keep: tuple[str, ...] | None) -> dict:
  """Returns an entry of plain JSON types with the metadata that is needed."""
  metadata = entry["metadata"]
  if keep is not None:
    metadata = {key: metadata[key] for key in keep}
  slim = {**entry, "metadata": metadata}
  return json.loads(json.dumps(slim, default=builder.plain))


def prepare(config: Config, data_dir: str) -> Any:
  """Returns the builder of a config, its data built by one process once."""
  return builder.prepare(ReasoningGym, config, data_dir)
