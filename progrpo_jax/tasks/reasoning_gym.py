"""Any problem generator of Reasoning Gym, built with TFDS as ArrayRecord.

The rows of a build depend only on the dataset, its options, the sizes and the
seed. The directory's name contains a digest of these, so each combination is
built once. Validation is drawn first, and train leaves out its problems.

Modules such as `countdown` use this one with a `Spec` that adds a compact
template. As a task, this module serves any generator but the UNSAFE ones
(option `dataset`), in Reasoning Gym's own question and answer format, and the
mixture of 95 generators MIXTURE. `level` sets the difficulty by Reasoning
Gym's curriculum, 0 being the easiest; for a curriculum over a run, define
several such tasks and change their weights from stage to stage. Four
generators depend on PYTHONHASHSEED and are drawn in a process where it is 0.

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

from progrpo_jax import errors
from progrpo_jax.errors import InputError
from progrpo_jax.rewards import gym, logic
from progrpo_jax.tasks import base

with errors.of_extra("logic"):
  import tensorflow_datasets as tfds

  from progrpo_jax.tasks.sets import builder
factory = gym.load("factory")

VERIFIER = "progrpo_jax.rewards.logic:score"
DOMAIN = "logic"

# Their problems change with PYTHONHASHSEED, so hosts of one run would disagree.
HASH_DEPENDENT = (
  "isomorphic_strings",
  "knight_swap",
  "ransom_note",
  "word_ladder",
)
# Their scorers run model text as Python: polynomial_multiplication, which also
# depends on the hash seed, and two on integration.
UNSAFE = tuple(n for n in logic.EVALUATING if n not in logic.GUARDED)

# ProRL trains on 96 tasks of Reasoning Gym, which the paper does not list. This
# mixture has all installed generators except: the three that ProRL keeps for
# out-of-distribution tests (acre, boxnet, game_of_life_halting), the mixer
# (composite), two that take over a second per problem (futoshiki,
# knight_swap), one with too few problems (coin_flip, 260), one that takes any
# conclusion (propositional_logic: a disjunction of its letters is right five
# times in six), and the unsafe ones.
_NOT_MIXED = (
  "acre",
  "boxnet",
  "game_of_life_halting",
  "composite",
  "futoshiki",
  "knight_swap",
  "coin_flip",
  "propositional_logic",
  *UNSAFE,
)
# Generators whose partial credit rewards answers without work, such as an empty
# board (0.96 on average), all knights (0.67) or "True False" (0.46). A policy
# would learn these instead of the problems.
_ALL_OR_NOTHING = (
  "course_schedule",
  "game_of_life",
  "isomorphic_strings",
  "knights_knaves",
  "mini_sudoku",
  "prime_factorization",
  "ransom_note",
  "rectangle_count",
  "sudoku",
  "syllogism",
  "time_intervals",
)
# Options for generators that otherwise have fewer distinct problems than the
# mixture asks for.
_WIDER = {
  "string_splitting": {"max_initial_machines": 9},
  "string_synthesis": {"max_initial_blocks": 9},
  "tower_of_hanoi": {"max_disks": 9, "max_pegs": 7},
}
# Dataset -> its options that differ from the other datasets'.
MIXTURE: dict[str, dict[str, Any]] = {
  name: {"binary": True} if name in _ALL_OR_NOTHING else _WIDER.get(name, {})
  for name in sorted(factory.DATASETS)
  if name not in _NOT_MIXED
}

TEMPLATES = ("full", "compact")
_ASK = "\n\nGive your final answer between <answer> and </answer>."
_SMALL_SEEDS = ("pool_matrix",)  # seed numpy, which takes 32 bits
_VERSION = "1.0.0"
# Separates the entries from anything that a generator prints.
_HEAD = "\n=== entries ===\n"
_MAX_TRIES_PER_ROW = 50
# Over 95 tasks: 37 thousand problems for train and 9,600 for validation.
_MIXED = {"num_train": 385, "num_validation": 100, "binary": False}


@dataclasses.dataclass(frozen=True)
class Spec:
  """Additions of a task to a Reasoning Gym dataset.

  An entry is Reasoning Gym's {"question", "answer", "metadata"}; an answer is
  text in its scorer's format. `progrpo_jax.rewards.logic.expand` translates
  compact answers to that format.

  Attributes:
    dataset: Reasoning Gym's name of the dataset.
    defaults: generator options that differ from Reasoning Gym's defaults.
    keep: keys of the metadata that scorer and prompt need; None keeps all.
    identity: function from an entry to a text that identifies the problem.
    solve: function from (entry, limit, rng) to up to `limit` correct answers.
    reference: function from an entry to a correct answer, shown to people.
    compact_prompt: function from an entry to a short prompt, or None if there
      is no compact template.
    compact_answer: function from (answer, entry) to the compact answer.
    check: function that raises InputError for options which the compact
      template cannot express.
    generator: class of the dataset; None takes Reasoning Gym's.
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
  """Returns a split of one or several Reasoning Gym datasets.

  Args:
    split: "train" or "validation".
    dataset: name of a dataset, list of names, or "mixture" for MIXTURE. Lists
      and the mixture default to 385 train and 100 validation problems per
      dataset, and to partial credit where it takes work to get it.
    **options: options of `rows`.
  """
  if isinstance(dataset, str) and dataset != "mixture":
    return rows(Spec(dataset), "reasoning_gym", split, **options)
  names = MIXTURE if dataset == "mixture" else dataset
  return base.Chain(
    [
      rows(
        Spec(name),
        "reasoning_gym",
        split,
        **{**_MIXED, **MIXTURE.get(name, {}), **options},
      )
      for name in names
    ]
  )


def mixture(**options: Any) -> dict[str, dict[str, Any]]:
  """Returns MIXTURE as entries of a config's `data.tasks`, one per dataset.

  Args:
    **options: options that every dataset gets, see `rows`.
  """
  return {
    name: {
      "weight": 1.0,
      "module": "reasoning_gym",
      "options": {"dataset": name, **_MIXED, **own, **options},
    }
    for name, own in MIXTURE.items()
  }


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
  """Returns a split of a task; builds its data unless it exists.

  Args:
    spec: dataset and its templates.
    task: name of the task.
    split: "train" or "validation".
    data_dir: folder of all builds.
    seed: seed of the problems; the two splits never share a problem.
    template: "full" (Reasoning Gym's question) or "compact".
    binary: whether an answer with partial credit scores 0.
    num_train: number of train rows.
    num_validation: number of validation rows.
    max_demonstrations: largest number of demonstrations per row.
    level: level of Reasoning Gym's curriculum, which sets the options that
      the curriculum covers; None keeps their defaults.
    **generator: options of the Reasoning Gym dataset.

  Raises:
    InputError: an option is wrong, or the generator has too few distinct
      problems.
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
  """Rows of a build; prompts are formatted on access."""

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
  """Returns the given options of a generator with the spec's defaults.

  Raises:
    InputError: the dataset or an option does not exist, or the generator
      refuses the options.
  """
  name = spec.dataset
  _check_name(name)
  config_class = factory.DATASETS[name][1]
  fields = {f.name for f in dataclasses.fields(config_class)}
  allowed = sorted(fields - {"seed", "size"})
  for option in given:
    if option not in allowed:
      hint = base.nearest(option, allowed + _general_options())
      raise InputError(f"{name}: no option {option!r}{hint}")
  options = {**spec.defaults, **given}
  try:
    config = config_class(**options)
    if hasattr(config, "validate"):  # two config classes lack it
      config.validate()
  except (AssertionError, TypeError, ValueError) as error:
    raise InputError(f"{name}: {error} (options: {options})") from error
  return options


def _check_name(name: str) -> None:
  """Raises InputError for an unsafe, unknown or uninstalled dataset."""
  if name in UNSAFE:
    raise InputError(f"{name}: its scorer runs model text as Python code")
  if name not in factory.DATASETS:
    hint = base.nearest(name, sorted(factory.DATASETS))
    raise InputError(f"no dataset {name!r}{hint}")
  gym.check(name)


def _options_of_level(name: str, level: int) -> dict[str, Any]:
  """Returns the options that a curriculum sets at a level, 0 the easiest."""
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
  # The config has all options; only those that an attribute names change with
  # the level.
  fields = {f.name for f in dataclasses.fields(config)}
  changing = set()
  for attribute in attributes:
    changing |= {
      getattr(attribute, key)
      for key in ("field_name", "lower_field_name", "upper_field_name")
      if hasattr(attribute, key)
    }
  return {key: getattr(config, key) for key in sorted(changing & fields)}


def _general_options() -> list[str]:
  """Returns the names of the options of `rows` that every dataset has."""
  parameters = inspect.signature(rows).parameters.values()
  return [p.name for p in parameters if p.default is not p.empty]


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """Everything that a build depends on; its name contains a digest of it.

  Attributes:
    name: name of the build; set from the other attributes.
    spec: dataset and its templates.
    options: options of the generator.
    num_train: number of train rows.
    num_validation: number of validation rows.
    max_demonstrations: largest number of demonstrations per row.
    seed: seed of the problems.
  """

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
  """TFDS builder of a generator's entries, in two disjoint splits."""

  VERSION = tfds.core.Version(_VERSION)

  def _info(self) -> tfds.core.DatasetInfo:
    return builder.info(self, "question", "answer", "metadata")

  def _split_generators(self, _) -> dict[str, Iterator]:
    config = self.builder_config
    if config.spec.dataset in HASH_DEPENDENT:
      splits = _draw_in_process(config)
    else:
      splits = _draw(config)
    return {
      split: self._generate_examples(entries)
      for split, entries in splits.items()
    }

  def _generate_examples(self, entries):
    config = self.builder_config
    for index, entry in enumerate(entries):
      # Seeded by the question, so that demonstrations do not depend on order.
      rng = random.Random(f"{config.seed}/{entry['question']}")
      answers = config.spec.solve(entry, config.max_demonstrations, rng)
      if any(not isinstance(answer, str) for answer in answers):
        # Some generators give no answer; without a solver in the spec there
        # is nothing to demonstrate.
        answers = []
      yield (
        index,
        {
          "question": entry["question"],
          "answer": json.dumps(config.spec.reference(entry)),
          "metadata": json.dumps(entry["metadata"]),
          "demonstrations": answers[: config.max_demonstrations],
        },
      )


def _draw(config: Config) -> dict[str, Iterator[dict]]:
  """Returns the entries of both splits; train leaves out validation's."""
  seen: set[str] = set()
  validation = list(_entries(config, "validation", seen))
  return {
    "validation": iter(validation),
    "train": _entries(config, "train", seen),
  }


def _draw_in_process(config: Config) -> dict[str, Iterator[dict]]:
  """Returns the result of `_draw` in a process with PYTHONHASHSEED=0."""
  arguments = {
    key: getattr(config, key)
    for key in ("options", "num_train", "num_validation", "seed")
  }
  code = f"from {__name__} import draw; draw()"
  process = subprocess.run(
    [sys.executable, "-c", code],
    input=json.dumps({"dataset": config.spec.dataset, **arguments}),
    env={
      **os.environ,
      "PYTHONHASHSEED": "0",
      "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    },
    capture_output=True,
    text=True,
    encoding="utf-8",
  )
  if process.returncode == 2:  # an InputError, see `draw`
    raise InputError(process.stderr.strip())
  if process.returncode:
    raise RuntimeError(f"{config.spec.dataset}: {process.stderr[-2000:]}")
  splits = json.loads(process.stdout.rpartition(_HEAD)[2])
  return {split: iter(entries) for split, entries in splits.items()}


def draw() -> None:
  """Reads a config from standard input and writes its entries as JSON.

  Main function of the process that `_draw_in_process` starts.
  """
  arguments = json.load(sys.stdin)
  config = Config(spec=Spec(arguments.pop("dataset")), **arguments)
  try:
    splits = {split: list(entries) for split, entries in _draw(config).items()}
  except InputError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  print(_HEAD + json.dumps(splits))


def _entries(config: Config, split: str, seen: set[str]) -> Iterator[dict]:
  """Yields distinct entries of a split.

  Args:
    config: configuration of the build.
    split: "train" or "validation".
    seen: identities of problems to leave out; new ones are added.

  Raises:
    InputError: the generator has too few distinct problems.
  """
  size = {"train": config.num_train, "validation": config.num_validation}[split]
  generator = _generator(config, split)
  count = 0
  for index in range(_MAX_TRIES_PER_ROW * size):
    if count == size:
      return
    try:
      entry = generator[index]
    except ValueError:
      continue  # some generators give up on an unlucky index
    identity = config.spec.identity(entry)
    if identity in seen:
      continue
    seen.add(identity)
    count += 1
    yield _slim(entry, config.spec.keep)
  if count < size:
    raise InputError(
      f"{config.spec.dataset}: only {count} of {size} {split} problems are"
      f" distinct under the options {config.options}; ask for fewer or widen"
      " the options"
    )


def _generator(config: Config, split: str) -> Any:
  """Returns the generator of a split."""
  # Generators seed entry i with seed + i, so neighbouring seeds would share
  # problems; hashed seeds lie far apart.
  text = f"{config.seed}/{split}/{config.spec.dataset}"
  size = 3 if config.spec.dataset in _SMALL_SEEDS else 7
  seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big")
  default_class, config_class = factory.DATASETS[config.spec.dataset]
  build = config.spec.generator or default_class
  return build(config_class(**config.options, seed=seed))


def _slim(entry: dict, keep: tuple[str, ...] | None) -> dict:
  """Returns an entry as plain JSON values, with the metadata to keep."""
  metadata = entry["metadata"]
  if keep is not None:
    metadata = {key: metadata[key] for key in keep}
  slim = {**entry, "metadata": metadata}
  return json.loads(json.dumps(slim, default=builder.plain))


def prepare(config: Config, data_dir: str) -> Any:
  """Builds the data of a config unless it exists, and opens it."""
  return builder.prepare(ReasoningGym, config, data_dir)
