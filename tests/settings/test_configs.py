"""Configs: every file works, and every method is what its paper says."""

import ast
import inspect
import pathlib
import re
import runpy
import types

import ml_collections
import pytest

from progrpo_jax import errors
from progrpo_jax.build import functions
from progrpo_jax.cli import arguments
from progrpo_jax.settings import (
  checks,
  defaults,
  derived,
  files,
  methods,
  named,
  scales,
  schedule,
)
from progrpo_jax.tasks import base

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "configs"
METHODS = sorted(named.METHODS)
SMALL = (
  "tiny",
  "prorl_tiny",
  "puzzles",
  "arm_tiny",
  "guess_number",
  "notebook",
  "smollm2",
  "distill_tiny",
)
PAPER = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in SMALL)
# A signal beside the methods, which is no function of methods.py.
SIGNALS = ("distill_qwen3_8b",)
# Groups that take what a config puts into them.
OPEN = ("loss_options", "advantage_options", "correction_options")


def _takes_scale(name):
  get_config = runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"]
  return "scale" in inspect.signature(get_config).parameters


SCALED = [n for n in PAPER if _takes_scale(n)]
AT_PAPER_SCALE = [
  *(f"{n}.py" for n in PAPER),
  *(f"{n}.py:host" for n in SCALED),
]
AT_SMALL_SCALE = [
  *(f"tiny.py:{m}" for m in METHODS),
  *(f"smollm2.py:{m}" for m in METHODS),
  *(f"puzzles.py:{m}" for m in METHODS),
  *(
    f"arm_tiny.py:{v}"
    for v in (
      "correct",
      "mixed",
      "paper",
      "entropy",
      "all_tokens",
      "weak",
      "strong",
    )
  ),
  "prorl_tiny.py",
  "prorl_tiny.py:no_reset",
  "guess_number.py",
  "notebook.py",
  "notebook.py:grpo",
  *(f"distill_tiny.py:{v}" for v in ("alone", "beside", "then")),
]


def _load(spec):
  return files.load(f"configs/{spec}")


def _leaves(config, prefix=""):
  found = {}
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict) and key != "tasks":
      found |= _leaves(value, f"{prefix}{key}.")
    else:
      found[prefix + key] = value
  return found


def _options(key):
  return any(key.startswith(f"algo.{group}.") for group in OPEN)


@pytest.mark.parametrize("spec", [*AT_PAPER_SCALE, *AT_SMALL_SCALE])
def test_every_file_has_common_keys_and_types_alone(spec):
  known = _leaves(defaults.get_config())
  found = {k: v for k, v in _leaves(_load(spec)).items() if not _options(k)}
  assert found.keys() == known.keys()
  for key, value in found.items():
    assert type(value) is type(known[key]), key


@pytest.mark.parametrize("spec", [*AT_PAPER_SCALE, *AT_SMALL_SCALE])
def test_every_stage_of_every_file_can_be_built(spec):
  config = _load(spec)
  devices = 1
  if spec in AT_PAPER_SCALE:
    devices = 8 if spec.endswith(":host") else 64
  tensor = config.mesh.tensor
  mesh = types.SimpleNamespace(
    shape=dict(data=1, fsdp=devices // tensor, tensor=tensor)
  )
  for stage in schedule.every(config):
    checks.validate(stage)
    functions.make_objective(stage)
    functions.make_advantage(stage)
    functions.make_schedule(stage)
    functions.make_correction(stage)
    derived.layout(stage, mesh)


def test_batches_that_are_not_drawn_need_not_fit_the_mesh():
  c = defaults.get_config()
  c.train.prompts_per_step, c.eval.batch_prompts, c.eval.every = 4, 3, 10
  mesh = types.SimpleNamespace(shape=dict(data=4, fsdp=1, tensor=1))
  with pytest.raises(errors.InputError, match=r"eval\.batch_prompts = 3"):
    derived.layout(c, mesh)
  c.eval.every = 0
  derived.layout(c, mesh)


def _published():
  """(file, task, its options) of every stage at paper scale, once each."""
  found = {}
  for name in PAPER:
    for stage in schedule.every(_load(f"{name}.py")):
      for task, spec in stage.data.tasks.items():
        assert "module" not in spec, task
        if hasattr(base.resolve(task), "SET"):
          found[name, task] = dict(spec.options)
  return [(*key, options) for key, options in found.items()]


def test_the_data_of_papers_are_published_sets():
  tasks = {task for _, task, _ in _published()}
  assert tasks == {
    "dapo_math_17k",
    "deepscaler",
    "eurus2_code",
    "scp116k",
    "nemotron_instructions",
    "hendrycks_math",
  }
  domains = {base.resolve(task).SET.domain for task in tasks}
  runs = list(schedule.every(_load("prorl_r1_distill_1_5b.py")))
  domains |= {base.resolve("reasoning_gym").DOMAIN}
  assert len(domains) == 5 == len(runs[-1].data.tasks)
  assert runs[0].data.tasks.reasoning_gym.options.dataset == "mixture"


@pytest.mark.parametrize(("name", "task", "options"), _published())
def test_sets_need_nothing_but_their_files(
  name, task, options, tmp_path, monkeypatch
):
  """Its own are looked for before those it is tested on, by their names."""
  monkeypatch.chdir(tmp_path)
  said = base.resolve(task).SET.how_to_get
  with pytest.raises(errors.InputError) as caught:
    base.load(
      task, "train", data_dir=str(tmp_path / "built"), seed=0, **options
    )
  assert said in str(caught.value) or (
    "are to be kept out of train" in str(caught.value)
  )
  for other in options.get("validation", ()):
    known = base.resolve(other).SET
    assert known.splits == ("validation",), other
    (tmp_path / "data" / other).mkdir(parents=True, exist_ok=True)
    one = dict(options, validation=(other,))
    with pytest.raises(errors.InputError) as caught:
      base.load(
        task, "validation", data_dir=str(tmp_path / "built"), seed=0, **one
      )
    assert f"data/{other}" in str(caught.value)
    assert known.how_to_get in str(caught.value)


def test_a_set_to_test_on_can_be_named_on_the_command_line():
  key = "data.tasks.dapo_math_17k.options.validation"
  parser = arguments.parser("evaluate", "")
  c, _ = arguments.parse(
    parser,
    [
      "--config",
      str(FOLDER / "progrpo_qwen2_5_7b.py"),
      f"--config.{key}=('aime24',)",
    ],
  )
  assert c.data.tasks.dapo_math_17k.options.validation == ("aime24",)


@pytest.mark.parametrize("name", SCALED)
def test_an_unknown_scale_is_refused(name):
  with pytest.raises(errors.InputError, match="known: paper, host"):
    _load(f"{name}.py:pod")


def test_unknown_methods_and_variants_are_refused():
  with pytest.raises(errors.InputError, match=f"known: {', '.join(METHODS)}"):
    _load("tiny.py:gpro")
  with pytest.raises(errors.InputError, match="known: prorl, no_reset"):
    _load("prorl_tiny.py:reset")
  with pytest.raises(errors.InputError, match="known: alone, beside, then"):
    _load("distill_tiny.py:before")


def test_every_method_has_a_file_at_paper_scale_and_a_small_variant():
  found = {_load(f"{n}.py").method for n in PAPER if n not in SIGNALS}
  assert found == set(METHODS)
  for name in PAPER:
    assert name.startswith(_load(f"{name}.py").method), name
  for method in METHODS:
    assert _load(f"tiny.py:{method}").method == method
    assert _load(f"smollm2.py:{method}").method == method
    assert _load(f"puzzles.py:{method}").method == method


@pytest.mark.parametrize("name", [*PAPER, *SMALL])
def test_a_file_says_how_it_is_run_and_what_to_expect(name):
  text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
  said = " ".join(ast.get_docstring(ast.parse(text)).split())
  assert f"progrpo train --config configs/{name}.py" in said
  if name in PAPER:
    assert "o expect" in said
    assert "Hardware and hours" in said
  for other in re.findall(r"\w+/\w*/?\w+\.py", said):
    assert (FOLDER.parent / other).exists(), other


# What a paper prints, or `methods` labels as ours. Keys that are not named
# have the value of PLAIN.
PLAIN = {
  "advantage": "grpo",
  "loss": "clip",
  "epsilon": 0.2,
  "epsilon_high": 0.2,
  "aggregate": "token_mean",
  "beta": 0.0,
  "dual_clip": 0.0,
  "entropy_coef": 0.0,
  "reward_kl_coef": 0.0,
  "hold_reference": False,
  "partition_head": False,
  "correction": "",
  "truncated_factor": 1.0,
  "entropy_control.target": 0.0,
  "length_penalty.coef": 0.0,
  "arm.alpha": 0.0,
  "dynamic_sampling.enabled": False,
  "dynamic_sampling.filter": "reward",
  "reset.modes": (),
  "rephrase.enabled": False,
}
OWN = {
  "grpo": {"aggregate": "sequence_mean", "beta": 0.04, "kl": "k3"},
  "dr_grpo": {"advantage": "dr_grpo", "aggregate": "constant"},
  "dapo": {
    "epsilon_high": 0.28,
    "dual_clip": 10.0,
    "overlong_cache": 51,
    "dynamic_sampling.enabled": True,
    "dynamic_sampling.filter": "accuracy",
  },
  "progrpo": {
    "epsilon_high": 0.28,
    "arm.alpha": 1.0,
    "arm.low_prob_share": 0.2,
    "arm.active": "any_correct",
    "arm.apply_to": "all",
    "arm.centre": True,
  },
  "prorl": {
    "epsilon_high": 0.4,
    "beta": 1e-4,
    "kl": "k3",
    "dynamic_sampling.enabled": True,
    "reset.modes": ("stall",),
    "reset.optimizer": True,
  },
  "prorl_v2": {
    "epsilon_high": 0.27,
    "beta": 1e-4,
    "kl": "k2",
    "advantage": "reinforce_pp",
    "advantage_options.baseline": True,
    "dynamic_sampling.enabled": True,
    "reset.optimizer": False,
    "reset.modes": ("every", "stall", "kl"),
    "reset.period": 500,
    "truncated_factor": 0.0,
    "length_penalty.coef": 0.5,
    "length_penalty.on": 100,
    "length_penalty.off": 500,
    "correction": "drop",
    "correction_options.low": 0.5,
    "correction_options.high": 5.0,
  },
  "gspo": {
    "loss": "gspo",
    "epsilon": 3e-4,
    "epsilon_high": 4e-4,
    "aggregate": "sequence_mean",
  },
  "cispo": {"loss": "cispo", "loss_options.cap": 5.0},
  "dppo": {
    "loss": "dppo",
    "loss_options.delta": 0.15,
    "loss_options.delta_high": 0.15,
  },
  "sapo": {
    "loss": "sapo",
    "loss_options.tau_pos": 1.0,
    "loss_options.tau_neg": 1.05,
    "aggregate": "sequence_mean",
  },
  "high_entropy": {
    "loss": "high_entropy",
    "loss_options.share": 0.2,
    "epsilon_high": 0.28,
    "dual_clip": 10.0,
  },
  "vespo": {
    "loss": "vespo",
    "loss_options.k_pos": 2.0,
    "loss_options.lambda_pos": 3.0,
    "loss_options.k_neg": 3.0,
    "loss_options.lambda_neg": 2.0,
  },
  "flowrl": {
    "loss": "flowrl",
    "epsilon_high": 0.28,
    "aggregate": "sequence_mean",
    "loss_options.beta": 15.0,
    "partition_head": True,
    "hold_reference": True,
  },
  "clip_cov": {
    "loss": "clip_cov",
    "loss_options.share": 2e-4,
    "loss_options.cov_low": 1.0,
    "loss_options.cov_high": 5.0,
  },
  "kl_cov": {
    "loss": "kl_cov",
    "loss_options.share": 2e-3,
    "loss_options.coef": 1.0,
  },
  "entropy_bonus": {"entropy_coef": 5e-3},
  "adaptive_entropy": {
    "entropy_control.target": 0.2,
    "entropy_control.step": 0.005,
  },
  "reinforce_pp": {"advantage": "reinforce_pp", "reward_kl_coef": 1e-3},
  "rloo": {"advantage": "rloo", "aggregate": "constant"},
  "repo": {
    "rephrase.enabled": True,
    "rephrase.min_fail_share": 0.75,
    "rephrase.fail_below": 0.5,
  },
  "maxrl": {"advantage": "maxrl"},
  "passk": {"advantage": "passk", "advantage_options.k": 4},
  "ucpo": {"advantage": "ucpo", "advantage_options.tau": 0.2},
  "unlikeliness": {"advantage": "unlikeliness", "advantage_options.beta": 0.25},
  "f_grpo": {"advantage": "focal", "advantage_options.gamma": 0.5},
  "dra_grpo": {"advantage": "dra", "advantage_options.n": 3},
  "qae": {
    "advantage": "quantile",
    "advantage_options.k": 0.4,
    "epsilon_high": 0.28,
  },
  "nsr": {"advantage": "nsr", "advantage_options.weight": 0.1},
  "gdpo": {"advantage": "gdpo"},
}
# All of ProRL v2's, with more samples.
OWN["brorl"] = OWN["prorl_v2"] | {"num_generations": 512}
HOT = ("prorl", "prorl_v2", "brorl")


def test_methods_are_those_of_the_papers():
  assert sorted(OWN) == METHODS
  for method, own in OWN.items():
    c = getattr(methods, method)(defaults.get_config())
    found = _leaves(c.algo)
    expected = PLAIN | own
    assert {k: found[k] for k in expected} == expected, method
    assert c.sampling.temperature == (1.2 if method in HOT else 1.0)


# What reaches the loss of each method, at paper scale; 0.2 and 0.2 for others.
BOUND = {
  "dapo": {"epsilon": 0.2, "epsilon_high": 0.28, "dual_clip": 10.0},
  "progrpo": {"epsilon": 0.2, "epsilon_high": 0.28},
  "prorl": {"epsilon": 0.2, "epsilon_high": 0.4},
  "prorl_v2": {"epsilon": 0.2, "epsilon_high": 0.27},
  "brorl": {"epsilon": 0.2, "epsilon_high": 0.27},
  "qae": {"epsilon": 0.2, "epsilon_high": 0.28},
  "gspo": {"epsilon": 3e-4, "epsilon_high": 4e-4},
  "cispo": {"cap": 5.0},
  "dppo": {"delta": 0.15, "delta_high": 0.15},
  "sapo": {"tau_pos": 1.0, "tau_neg": 1.05},
  "high_entropy": {
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "dual_clip": 10.0,
    "share": 0.2,
  },
  "vespo": {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0},
  "flowrl": {"beta": 15.0, "epsilon": 0.2, "epsilon_high": 0.28},
  "kl_cov": {"share": 2e-3, "coef": 1.0},
}


def test_a_method_leaves_nothing_of_another_bound():
  """The loss gets the paper's beta, not the weight of the KL."""
  for method in set(METHODS) - {"clip_cov"}:  # its key is bound as well
    bound = functions.make_loss(getattr(methods, method)(defaults.get_config()))
    assert bound.keywords == BOUND.get(
      method, {"epsilon": 0.2, "epsilon_high": 0.2}
    ), method


def test_small_variants_differ_from_grpo_in_the_method_alone():
  plain = _leaves(_load("tiny.py:grpo"))
  assert (plain["algo.epsilon"], plain["algo.epsilon_high"]) == (0.2, 0.28)
  assert plain["algo.aggregate"] == "token_mean"
  assert plain["algo.beta"] == 0.0
  # What a method may turn besides the keys of its own.
  turned = {
    "dapo": {"overlong_cache"},
    "progrpo": {"arm.centre"},
    "prorl": {"reset.modes", "reset.period"},
    "prorl_v2": {"reset.modes", "reset.period"},
    "brorl": {"reset.modes", "reset.period"},
    "gdpo": {"overlong_cache"},
    "repo": {"rephrase.template", "rephrase.max_prompt_length"},
  }
  for method in METHODS:
    found = _leaves(_load(f"tiny.py:{method}"))
    different = {
      k for k in found.keys() | plain.keys() if found.get(k) != plain.get(k)
    }
    allowed = (
      {f"algo.{k}" for k in OWN[method]}
      | {"method"}
      | {f"algo.{k}" for k in turned.get(method, ())}
    )
    if method in HOT:
      allowed.add("sampling.temperature")
    if method == "brorl":
      allowed.add("train.prompts_per_step")
    assert different <= allowed, method
    assert (found["algo.beta"] > 0) == (method in HOT)
    samples = found["algo.num_generations"] * found["train.prompts_per_step"]
    assert samples == 512, method
    # A bound of a method's own, or the one of all.
    own = OWN[method].get("epsilon_high", 0.2) not in (0.2, 0.28)
    assert own or found["algo.epsilon_high"] == 0.28, method


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_compared_methods_differ_in_arm_alone(name):
  grpo = _leaves(_load(f"{name}.py:grpo"))
  progrpo = _leaves(_load(f"{name}.py:progrpo"))
  different = {k for k in grpo if grpo[k] != progrpo[k]}
  assert {"method", "algo.arm.alpha"} <= different
  assert all(k == "method" or k.startswith("algo.arm.") for k in different)
  assert grpo["algo.arm.alpha"] == 0.0


def test_distillation_is_alone_beside_rewards_or_before_them():
  alone, beside, then = (
    _load(f"distill_tiny.py:{v}") for v in ("alone", "beside", "then")
  )
  assert not alone.algo.distill.keep_rewards
  assert beside.algo.distill.keep_rewards
  stages = list(schedule.every(then))
  assert [derived.distills(stage) for stage in stages] == [True, False]
  for spec in ("distill_qwen3_8b.py", "distill_qwen3_8b.py:host"):
    c = _load(spec)
    assert derived.distills(c) and c.algo.distill.discount == 0
    assert c.train.num_minibatches == c.train.num_iterations == 1


@pytest.mark.parametrize("scale", ["paper", "host"])
def test_prorl_is_eight_runs(scale):
  """Appendix E of 2505.24864: what changes from run to run."""
  c = _load(f"prorl_r1_distill_1_5b.py:{scale}")
  runs = list(schedule.every(c))
  assert len(runs) == 8
  assert [r.algo.num_generations for r in runs] == [16] * 5 + [32] * 2 + [16]
  assert [r.sampling.max_new_tokens for r in runs] == [8192] * 7 + [16384]
  assert [r.algo.truncated_factor for r in runs] == [1.0] * 3 + [0.0] * 5
  assert ["nemotron_instructions" in r.data.tasks for r in runs] == (
    [False] * 2 + [True] * 6
  )
  assert all(r.algo.reset.optimizer for r in runs)


def test_prorl_comes_to_its_last_run_even_if_nothing_ever_stalls():
  c = _load("prorl_r1_distill_1_5b.py")
  from progrpo_jax.algos import reset

  last = resets = 0
  begun = []
  for step in range(1, c.train.total_steps + 1):
    due, _ = reset.should_reset(
      step, last_reset=last, **derived.reset_options(c)
    )
    if due:
      last, resets = step, resets + 1
    begun.append(schedule.begun(c, step, resets))
  assert begun == sorted(begun)
  assert begun[-1] == 7
  assert begun.index(7) == 1800 - 1


def test_prolonged_training_and_its_control_see_the_same_problems():
  prorl, control = (
    _leaves(_load(f"prorl_tiny.py:{v}")) for v in ("prorl", "no_reset")
  )
  assert prorl["schedule"] and prorl["schedule"] == control["schedule"]
  assert {k for k in prorl if prorl[k] != control[k]} == {
    "method",
    "algo.beta",
    "algo.reset.modes",
  }
  assert control["algo.reset.modes"] == ()
  assert not any(entry.get("reset") for entry in control["schedule"])
  assert prorl["train.total_steps"] // prorl["algo.reset.period"] > 3


def test_the_scale_of_the_quickstart_is_no_method():
  assert scales.laptop().method == defaults.get_config().method
