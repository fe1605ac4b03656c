"""Every key of a config refuses what has no meaning, by its name."""

import math
import re

import ml_collections
import pytest

from progrpo_jax import errors, ranges
from progrpo_jax.algos import arm, reset
from progrpo_jax.models import config as model_config
from progrpo_jax.rewards import thinking
from progrpo_jax.settings import checks, defaults, schedule


def leaves(group, prefix=""):
  found = {}
  for name, key in group.items():
    if isinstance(key, ml_collections.ConfigDict):
      found |= leaves(key, f"{prefix}{name}.")
    else:
      found[prefix + name] = key
  return found


KEYS = leaves(defaults.keys())

# What is legitimate where other keys refuse it.
SIGNED = {"algo.rephrase.fail_below"}
REST = {"mesh.data", "mesh.fsdp", "mesh.tensor"}  # -1: what is left
# 0 turns it off, asks for all or none, or is the end of a scale.
ZERO = SIGNED | {
  "seed",
  "model.lora.rank",
  "rewards.max_failure_share",
  "sampling.top_k",
  "sampling.batch_prompts",
  "sampling.tensor",
  "algo.epsilon",
  "algo.epsilon_high",
  "algo.dual_clip",
  "algo.beta",
  "algo.reward_kl_coef",
  "algo.entropy_coef",
  "algo.entropy_control.target",
  "algo.overlong_cache",
  "algo.truncated_factor",
  "algo.length_penalty.coef",
  "algo.length_penalty.on",
  "algo.length_penalty.off",
  "algo.rephrase.min_fail_share",
  "algo.arm.alpha",
  "algo.distill.coef",
  "algo.distill.discount",
  "algo.dynamic_sampling.prompts_per_round",
  "algo.reset.min_delta",
  "algo.reset.kl_factor",
  "algo.reset.kl_threshold",
  "algo.reset.share_threshold",
  "algo.reset.rewarmup_steps",
  "train.row_tokens",
  "train.micro_batch_rows",
  "train.micro_batch_generations",
  "optim.warmup_steps",
  "optim.b1",
  "optim.b2",
  "optim.weight_decay",
  "optim.max_grad_norm",
  "eval.every",
  "eval.temperature",
  "eval.top_k",
  "checkpoint.keep_every",
  "hosts.compare_every",
  "log.rollouts_every",
}
# Weights and thresholds that no number is too large for.
UNBOUNDED = {
  "model.lora.alpha",
  "algo.epsilon_high",
  "algo.dual_clip",
  "algo.beta",
  "algo.reward_kl_coef",
  "algo.entropy_coef",
  "algo.entropy_control.target",
  "algo.entropy_control.step",
  "algo.length_penalty.coef",
  "algo.rephrase.fail_below",
  "algo.arm.alpha",
  "algo.distill.coef",
  "algo.reset.min_delta",
  "algo.reset.kl_factor",
  "algo.reset.kl_threshold",
  "optim.weight_decay",
  "optim.max_grad_norm",
}
# Paths, labels, and names that are looked up when the parts are built.
TEXT = {
  "method",
  "model.init_from",
  "model.chat_template",
  "model.system_prompt",
  "data.dir",
  "algo.advantage",
  "algo.loss",
  "algo.aggregate",
  "algo.kl",
  "algo.correction",
  "algo.rephrase.template",
  "algo.distill.teacher",
  "algo.reset.watch",
  "eval.creativity_corpus",
  "log.logger",
}
EMPTY_TEXT = {
  "model.system_prompt",
  "algo.correction",
  "algo.distill.teacher",
  "eval.creativity_corpus",
  "log.logger",
}
EMPTY_TUPLE = {
  "data.prompt_buckets",
  "schedule",
  "algo.reset.modes",
  "algo.reset.at_steps",
  "model.lora.targets",
}

MUTATIONS = (
  -1,
  0,
  10**10,
  10**20,
  10**400,
  10**5000,
  -1.5,
  1e30,
  1e300,
  math.nan,
  math.inf,
  -math.inf,
  None,
  True,
  "",
  "no such",
  "nan",
  "a\0b",
  (),
  (None,),
  ("x", -1),
  (math.nan, 1),
  [0],
  {"x": 1},
  b"bytes",
  object(),
)


def usual():
  c = defaults.get_config()
  c.model.init_from = "base"
  c.data.tasks = {"countdown": {}}
  c.algo.beta = 0.01
  return c


def meaningful(key, value):
  """Whether a mutation makes sense for a key, by the lists above."""
  whole = isinstance(KEYS[key], ranges.Whole)
  if isinstance(value, bool):
    return isinstance(KEYS[key], ranges.Flag)
  if isinstance(value, str):
    return (
      (key in EMPTY_TEXT)
      if value == ""
      else (key in TEXT and "\0" not in value)
    )
  if isinstance(value, int | float):
    if not isinstance(KEYS[key], ranges.Whole | ranges.Number):
      return False
    if not abs(value) < 1e38 or (whole and isinstance(value, float)):
      return False
    if value < 0:
      return key in SIGNED or (key in REST and value == -1)
    return key in (UNBOUNDED if value else ZERO)
  return value == () and key in EMPTY_TUPLE


def set_to(c, key, value):
  home, _, name = key.rpartition(".")
  group = c
  for part in home.split(".") if home else ():
    group = group[part]
  with c.ignore_type():
    group[name] = value


@pytest.mark.parametrize("key", KEYS)
def test_a_mutation_is_refused_by_name_or_has_a_meaning(key):
  c = usual()
  for value in MUTATIONS:
    try:
      set_to(c, key, value)
    except OverflowError:  # ml_collections makes a float of it
      continue
    said = ""
    try:
      for stage in schedule.every(c):
        checks.validate(stage)
    except errors.InputError as e:
      said = str(e)
    assert bool(said) != meaningful(key, value), (key, said)
    if said:
      entry = re.match(r"config\.schedule\[\d\] needs ", said)
      assert entry or said.startswith(f"config.{key} = "), said
      assert entry or re.search("must|needs at least|name an", said)
      assert len(said) < 400 and "\n" not in said


def test_they_are_more_than_a_thousand():
  assert len(KEYS) * len(MUTATIONS) > 1000
  assert KEYS.keys() >= SIGNED | REST | ZERO | UNBOUNDED | TEXT | EMPTY_TUPLE


def test_every_default_is_in_its_range():
  checks.validate(usual())
  for key, declared in KEYS.items():
    assert not declared.refusal(declared.default), key
  for key in defaults.task().values():
    assert not key.refusal(key.default)


def test_the_choices_are_those_of_the_code():
  for key, names in (
    ("algo.arm.active", arm.ACTIVE),
    ("algo.arm.apply_to", arm.APPLY_TO),
    ("rewards.thinking", thinking.MODES),
    ("model.attention", model_config.ATTENTION),
    ("model.remat", model_config.REMAT),
  ):
    assert KEYS[key].of == names
  assert KEYS["algo.reset.modes"].each.of == reset.MODES
  assert KEYS["model.lora.targets"].default == tuple(model_config.PROJECTIONS)


@pytest.mark.parametrize(
  ("declared", "words", "good", "bad"),
  [
    (ranges.Number(above=0, at_most=1), "in (0, 1]", [1, 0.5], [0, 1.01]),
    (ranges.Number(at_least=0, below=1), "in [0, 1)", [0, 0.9], [-0.1, 1]),
    (
      ranges.Number(above=1, also=(0.0,)),
      "0 or above 1",
      [0, 1.1],
      [1, 0.5, None],
    ),
    (
      ranges.Number(at_least=0.5, also=(None,)),
      "None or at least 0.5",
      [None, 0.5],
      [0.4, "None"],
    ),
    (ranges.Number(below=2), "below 2", [-9.0], [2, math.nan, True]),
    (ranges.Number(), "any", [-1e38], [1e39, "1"]),
    (ranges.Whole(at_least=1), "at least 1", [1, 2**31 - 1], [0, 2**31, 1.0]),
    (ranges.Whole(at_least=1, also=(-1,)), "-1 or at least 1", [-1, 1], [0]),
    (ranges.Whole(at_least=0, at_most=7), "in [0, 7]", [0, 7], [8, True]),
    (ranges.Whole(), "any", [-5], ["5"]),
    (ranges.Flag(), "True or False", [True, False], [0, 1, "True"]),
    (ranges.Choice(of=("a", "b")), "'a' or 'b'", ["a"], ["c", "", 1]),
    (ranges.Text(), "text", ["", "é"], ["\0", b"", 3]),
    (ranges.Text(empty=False), "text, not empty", ["x"], ["", " "]),
    (ranges.Many(), "any", [(), [1], ("a",)], ["a", {}, 1]),
    (
      ranges.Many(each=ranges.Whole(at_least=1), length=2),
      "2 values, each at least 1",
      [(1, 2)],
      [(), (1,), (0, 1), (1, 2, 3)],
    ),
  ],
)
def test_a_range_says_what_it_allows(declared, words, good, bad):
  assert declared.words() == words
  for value in good:
    assert declared.refusal(value) == "", value
  for value in bad:
    assert declared.refusal(value).startswith("must be "), value


@pytest.mark.parametrize(
  ("declared", "text", "value"),
  [
    (ranges.Number(), "1e-3", 1e-3),
    (ranges.Whole(), "7", 7),
    (ranges.Number(also=(None,)), "None", None),
    (ranges.Text(), "None", "None"),
    (ranges.Flag(), "false", False),
    (ranges.Choice(of=("a",)), "b", "b"),
    (ranges.Many(), "(1, 2)", (1, 2)),
    (ranges.Many(), "5", (5,)),
    (ranges.Many(), "['x']", ("x",)),
  ],
)
def test_a_text_is_read_in_the_kind_of_its_key(declared, text, value):
  read = declared.read(text)
  assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
  ("declared", "text"),
  [
    (ranges.Number(), "None"),
    (ranges.Number(), ""),
    (ranges.Whole(), "1.0"),
    (ranges.Whole(), "9" * 5000),
    (ranges.Flag(), "1"),
    (ranges.Many(), "(1"),
    (ranges.Many(), "x"),
    (ranges.Many(), "(" * 9000),
    (ranges.Many(), "a\0"),
  ],
)
def test_a_text_of_another_kind_is_a_value_error(declared, text):
  with pytest.raises(ValueError):
    declared.read(text)


def refused(c, *words):
  with pytest.raises(errors.InputError) as caught:
    checks.validate(c)
  for word in words:
    assert word in str(caught.value)


def test_keys_that_do_not_exist_or_are_missing():
  c = usual()
  c.optim.learning_rte = 1.0
  refused(
    c,
    "no key config.optim.learning_rte; did you mean "
    "config.optim.learning_rate?",
  )
  c = usual()
  del c.optim["b1"]
  refused(c, "config.optim.b1 is missing")
  c = usual()
  set_to(c, "algo.arm", None)
  refused(c, "config.algo.arm = None: must be a group of keys: active, alpha")


@pytest.mark.parametrize(
  ("spec", "words"),
  [
    ({"weight": -1.0}, "tasks.a.weight = -1.0: must be above 0"),
    ({"weight": math.nan}, "tasks.a.weight = nan: must be a finite number"),
    ({"wieght": 1.0}, "no key config.data.tasks.a.wieght; did you mean wei"),
    ({"module": 3}, "tasks.a.module = 3: must be None or text"),
    ({"options": 3}, "tasks.a.options = 3: must be a dict"),
    ({"options": {"x": [1.0, math.inf]}}, "tasks.a.options.x[1] = inf: must"),
    (3, "config.data.tasks.a = 3: must be like"),
  ],
)
def test_tasks_of_a_mixture(spec, words):
  c = usual()
  c.data.tasks = {"a": spec}
  refused(c, words)


def test_a_task_whose_name_would_part_the_names_of_measures():
  c = usual()
  c.data.tasks = {"team/gsm": {"weight": 1.0}}
  refused(c, "config.data.tasks.team/gsm: a task's name must not hold '/'")


def test_options_that_are_not_finite():
  c = usual()
  c.algo.loss_options = {"cap": math.nan}
  refused(c, "config.algo.loss_options.cap = nan: must be a finite number")


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"eval.creativity_range": (5, 4)}, "eval.creativity_range = (5, 4)"),
    (
      {"algo.length_penalty.coef": 0.5, "algo.length_penalty.on": 0},
      "algo.length_penalty.on = 0: must be above 0 where off is 0",
    ),
    (
      {"algo.rephrase.enabled": True, "algo.rephrase.template": "{prompt.x}"},
      "algo.rephrase.template",
    ),
    *(
      ({"algo.reset.modes": modes, **changes}, f"ever come: {modes[0]!r}: ")
      for modes, changes in (
        (("stall",), {"eval.every": 0}),
        (("stall",), {"eval.every": 9, "algo.reset.watch": "pass@12"}),
        (
          ("stall",),
          {
            "eval.every": 9,
            "eval.num_samples": 32,
            "algo.reset.watch": "pass@64",
          },
        ),
        (("kl",), {"algo.beta": 0.0}),
        (("dominates",), {"algo.beta": 0.0, "algo.hold_reference": True}),
        (("auto",), {"algo.beta": 0.0, "eval.every": 0}),
      )
    ),
  ],
)
def test_keys_beside_each_other(changes, words):
  c = usual()
  for key, value in changes.items():
    set_to(c, key, value)
  refused(c, words)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, None, "x", True])
def test_a_stage_of_the_schedule_keeps_the_ranges(value):
  for key in (
    "algo.arm.alpha",
    "algo.epsilon",
    "sampling.temperature",
    "algo.num_generations",
    "data.max_prompt_length",
  ):
    c = usual()
    c.schedule = ({"at_step": 3, "set": {key: value}},)
    with pytest.raises(errors.InputError) as caught:
      list(schedule.every(c))
    assert f"config.schedule[0]: {key} = " in str(caught.value)


@pytest.mark.parametrize(
  ("modes", "changes"),
  [
    (("stall",), {"eval.every": 9, "algo.reset.watch": "pass@32"}),
    (("stall",), {"eval.every": 9, "algo.reset.watch": "distinct_correct"}),
    (("kl",), {"algo.hold_reference": True}),
    (("kl", "dominates"), {"algo.beta": 0.1}),
    (("stall", "every"), {"eval.every": 0}),
    # One of the three that it stands for is enough.
    (("auto",), {"algo.beta": 0.0, "eval.every": 9}),
  ],
)
def test_resets_that_can_fire(modes, changes):
  c = usual()
  for key, value in ({"algo.reset.modes": modes} | changes).items():
    set_to(c, key, value)
  checks.validate(c)
