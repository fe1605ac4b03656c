import inspect
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.algos import advantages, losses
from progrpo_jax.build import functions
from progrpo_jax.build import stages as build
from progrpo_jax.learn import advantage
from progrpo_jax.settings import checks, defaults


@pytest.mark.parametrize(
  ("override", "said"),
  [
    ("model.init_from=", "name an HF directory"),
    ("algo.num_generations=1", "at least 2 samples"),
    ("train.total_steps=0", "must be at least 1"),
    ("eval.batch_prompts=0", "must be at least 1"),
    ("rewards.deadline_s=0", "must be in (0, 86400]"),
    ("sampling.temperature=0", "must be in [0.01, 100]: greedy samples"),
    ("sampling.top_p=1.5", "must be in (0, 1]"),
    ("train.num_minibatches=3", "must divide train.prompts_per_step (4)"),
    ("algo.overlong_cache=5", "must not exceed sampling.max_new_tokens"),
    ("algo.dynamic_sampling.surplus=keep", "'discard' or 'carry'"),
    ("algo.arm.active=never", "'any_correct' or 'mixed' or 'all_correct'"),
    ("algo.arm.apply_to=right", "'all' or 'correct' or 'wrong'"),
    ("model.dtype=float16", "'float32' or 'bfloat16'"),
    ("model.remat=all", "'dots' or 'layer'"),
    (
      "algo.reset.modes=('evry',)",
      "config.algo.reset.modes = ('evry',): must be values, each 'every' or",
    ),
    ("algo.reset.period=0", "config.algo.reset.period = 0: must be at least"),
  ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
  small, override, said
):
  with pytest.raises(errors.InputError) as caught:
    build.make_setup(small.config(override))
  assert said in str(caught.value)
  key = override.partition("=")[0]
  assert ".".join(key.split(".")[:2]) in str(caught.value)


@pytest.mark.parametrize(
  ("override", "said"),
  [
    ("algo.loss=clipp", "did you mean 'clip'?"),
    ("algo.advantage=grop", "did you mean 'grpo'?"),
    ("algo.aggregate=token_men", "did you mean 'token_mean'?"),
    ("algo.kl=k9", "known: k1, k2, k3"),
    ("algo.loss=no_such_module.f", "cannot import no_such_module.f"),
    ("algo.advantage=nomodule:f", "nomodule:f: ModuleNotFoundError: No module"),
    ("algo.kl=json:dumpss", "did you mean 'dumps'?"),
    ("algo.loss=:f", "cannot import :f"),
    ("log.logger=mine", "config.log.logger = 'mine' is no import path"),
    ("optim.decay=expo", "'expo': must be 'constant' or 'linear' or"),
    ("train.micro_batch_generations=3", "must divide algo.num_generations"),
    ("train.row_tokens=13", "row_tokens = 13 is less than the longest"),
    ("sampling.max_new_tokens=2000", "beyond the 1024 positions"),
    ("data.max_prompt_length=5", "max_prompt_length is 5: raise it, or leave"),
    ("mesh.fsdp=3", "does not fit 1 device"),
  ],
)
def test_names_and_cuts_are_refused_too(small, override, said):
  with pytest.raises(errors.InputError) as caught:
    build.make_setup(small.config(override))
  assert said in str(caught.value)


@pytest.mark.parametrize(
  ("overrides", "said"),
  [
    (("algo.kl=k1", "algo.beta=0.1"), "would have no effect"),
    (("algo.loss=gspo",), "set 0 for them"),
    (("algo.loss=flowrl", "algo.arm.alpha=0.3"), "reads rewards"),
    (("algo.loss=cispo", "algo.dual_clip=10.0"), "does not use it"),
    (("algo.loss=flowrl",), "algo.partition_head"),
  ],
)
def test_what_cannot_teach_is_refused(small, overrides, said):
  with pytest.raises(errors.InputError) as caught:
    build.make_setup(small.config(*overrides, method="grpo"))
  assert said in str(caught.value)


@pytest.mark.parametrize(
  ("loss", "own"),
  [
    ("clip", (0.2, 0.28)),
    ("gspo", (3e-4, 4e-4)),
    ("flowrl", (0.2, 0.28)),
    ("clip_cov", (0.2, 0.2)),
  ],
)
def test_a_loss_by_its_name_alone_has_its_own_settings(loss, own):
  """Nothing of the config but what was set is bound to it: FlowRL's beta is 15
  and not the weight of the KL, GSPO's bounds are not PPO's."""
  c = defaults.get_config()
  c.algo.loss = loss
  signature = inspect.signature(functions.make_loss(c))
  # clip_cov's key is bound beside it.
  if loss != "clip_cov":
    assert own == tuple(
      signature.parameters[k].default for k in ("epsilon", "epsilon_high")
    )
  if loss == "flowrl":
    assert signature.parameters["beta"].default == 15.0
  assert (c.algo.epsilon, c.algo.epsilon_high) == (0.0, 0.0)
  c.algo.epsilon, c.algo.beta = 0.05, 0.7
  function = functions.make_loss(c)
  if loss != "clip_cov":
    assert function.keywords == {"epsilon": 0.05}


def test_overlong_prompts_may_be_left_out(small):
  """Those of 5 terms have 10 characters, and a first token."""
  setup, _ = build.make_setup(
    small.config(
      "data.max_prompt_length=8", "data.filter_overlong_prompts=True"
    )
  )
  with setup.pool:
    prompter = setup.first.prompter
    out, of = prompter.left_out["chain_sum"]
    assert 0 < out < of == 64
    prompts = prompter.take(0, of - out).tokens_PT
    assert prompts.shape == (of - out, 8)


def test_unknown_option_of_a_loss_is_refused(small):
  c = small.config()
  with c.unlocked():
    c.algo.loss_options.epsilon_hihg = 0.3
  with pytest.raises(errors.InputError, match="epsilon_hihg"):
    functions.make_objective(c)


def test_functions_resolve_by_name_and_by_path():
  assert functions.resolve(losses, "clip") is losses.clip
  path = "progrpo_jax.algos.losses.clip"
  assert functions.resolve(advantages, path) is losses.clip
  with pytest.raises(errors.InputError, match="no '_real'"):
    functions.resolve(losses, "_real")


def test_own_advantage_without_validity_gets_the_mean(small, monkeypatch):
  """What the verifier failed on moves neither mean nor spread."""
  monkeypatch.setattr(
    advantages,
    "own",
    lambda reward_PG: reward_PG - jnp.mean(reward_PG, axis=1, keepdims=True),
    raising=False,
  )
  made = functions.make_advantage(
    small.config("algo.advantage=progrpo_jax.algos.advantages.own")
  )
  reward = np.array([[1.0, 0.0, 9.0], [1.0, 1.0, 9.0]], np.float32)
  valid = np.array([[True, True, False]] * 2)
  assert np.allclose(made(reward, valid_PG=valid), [[0.5, -0.5, 0], [0, 0, 0]])


def _own(monkeypatch, function):
  """The override that names a function as an advantage of the user's own."""
  monkeypatch.setattr(advantages, "own", function, raising=False)
  return "algo.advantage=progrpo_jax.algos.advantages.own"


def test_an_advantage_without_validity_may_read_more(small, monkeypatch):
  """It gets what it names, and zeros where the verifier failed."""
  c = small.config(
    _own(
      monkeypatch, lambda correct_PG, mean_logp_PG: correct_PG - mean_logp_PG
    )
  )
  made = functions.make_advantage(c)
  assert advantage.reads(made) == {
    "reward_PG",
    "valid_PG",
    "correct_PG",
    "mean_logp_PG",
  }
  got = made(
    reward_PG=np.ones((1, 2)),
    valid_PG=np.array([[True, False]]),
    correct_PG=np.array([[True, True]]),
    mean_logp_PG=np.array([[-2.0, -1.0]]),
  )
  np.testing.assert_array_equal(got, [[3, 0]])


def test_an_advantage_that_reads_what_no_batch_has_is_refused(
  small, monkeypatch
):
  override = _own(monkeypatch, lambda reward_PG, mean_logp_P: reward_PG)
  with pytest.raises(
    errors.InputError,
    match="'mean_logp_P' a value in algo.advantage_options; did you mean "
    "'mean_logp_PG'.*tokens_PGT",
  ):
    functions.make_advantage(small.config(override))


def test_an_advantage_of_another_shape_is_refused(small, monkeypatch):
  override = _own(monkeypatch, lambda reward_PG, valid_PG: reward_PG[:, 0])
  with pytest.raises(errors.InputError, match=r"own' returns .*\[P, G\]"):
    functions.make_advantage(small.config(override))


@pytest.mark.parametrize(
  ("function", "said"),
  [
    (lambda reward_PG: jnp.mean(reward_PG, axis=1), r"an array \[2\], not"),
    (lambda reward_PG: reward_PG[:, :1], r"an array \[2, 1\], not"),
    (lambda reward_PG: jnp.mean(reward_PG), "a single number, not"),
    (lambda reward_PG: [reward_PG], "a list, not one number for each resp"),
    (lambda reward_PG: (reward_PG, {}), r"\(an array \[2, 4\], a dict\), not"),
    (lambda reward_PG: None, r"None, not .* \[P, G\] like .*, here \[2, 4\]"),
    (lambda reward_PG, valid_PG: [reward_PG], "a list, not one number for"),
  ],
)
def test_no_advantage_is_stretched_to_the_shape(
  small, monkeypatch, function, said
):
  override = _own(monkeypatch, function)
  with pytest.raises(errors.InputError, match=f"own' returns {said}"):
    functions.make_advantage(small.config(override))


@pytest.mark.parametrize(
  ("returned", "said"),
  [
    ("x, {'m': jnp.sum(x)}", "its metric 'm' is a single number, not a pair"),
    ("x, {'m': (x, 1.0)}", r"'m' is \(an array \[2, 3\], a single number\)"),
    ("x, {'m': (1.0, 1.0, 1.0)}", "its metric 'm' is"),
    ("x", r"returns an array \[2, 3\], not \(loss_BT, metrics\)"),
    ("x, None", r"returns \(an array \[2, 3\], None\), not \(loss_BT"),
    ("None", "returns None, not"),
    ("jnp.mean(x), {}", "returns a single number as its loss, not one number"),
  ],
)
def test_a_loss_that_returns_something_else_is_refused(
  small, tmp_path, monkeypatch, returned, said
):
  (tmp_path / "returns.py").write_text(
    "import jax.numpy as jnp\n"
    "def loss(inputs):\n"
    "  x = inputs.logp_BT\n"
    f"  return {returned}\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, "returns", raising=False)
  with pytest.raises(errors.InputError, match=f"'returns.loss'.*{said}"):
    functions.make_objective(small.config("algo.loss=returns.loss"))


@pytest.mark.parametrize(
  ("method", "options", "said"),
  [
    ("passk", {"k": 9}, "'passk'.*G=4.*9"),
    ("passk", {}, "'k' a value in algo.advantage_options"),
    ("qae", {"k": 1.5}, "'quantile'.*1.5"),
    ("dra_grpo", {"n": 0}, "'dra'.*n = 0"),
    ("ucpo", {"tua": 0.2}, "advantage_options.tua"),
  ],
)
def test_options_that_an_advantage_refuses_are_named_at_once(
  small, method, options, said
):
  c = small.config(method=method)
  c.algo.advantage_options = options
  with pytest.raises(errors.InputError, match=said):
    functions.make_advantage(c)


def test_a_batch_is_scored_for_an_advantage_that_reads_log_probs(small):
  alone = ("train.num_minibatches=1", "train.num_iterations=1")

  def scored(method, *overrides):
    c = small.config(*alone, *overrides, method=method)
    checks.validate(c)
    return functions.needs_scores(c)

  assert scored("ucpo") and scored("unlikeliness")
  assert not scored("maxrl") and not scored("dra_grpo")
  # The sampler's log-probs will do.
  assert not scored("ucpo", "train.score=never")
  assert scored("maxrl", "train.score=always")


def test_gdpo_takes_no_kl_off_the_reward(small):
  c = small.config("algo.reward_kl_coef=0.001", method="gdpo")
  with pytest.raises(errors.InputError, match="reward_kl_coef.*algo.beta"):
    checks.validate(c)


def test_policies_of_all_kinds_load(small, tmp_path):
  workdir = tmp_path / "run"
  small.train(workdir, "train.total_steps=1", "eval.every=0", method="grpo")
  from progrpo_jax.devices import sharding

  mesh = sharding.make_mesh(1, 1, 1)
  tables = {}
  for name, place in (
    ("base", small.base),
    ("run", workdir),
    ("start", workdir / "checkpoints" / "0"),
    ("end", workdir / "checkpoints" / "1"),
  ):
    policy = build.load_policy(small.config(f"model.init_from={place}"), mesh)
    tables[name] = np.asarray(policy.params["embed"]["tokens"])
  assert np.array_equal(tables["base"], tables["start"])
  assert np.array_equal(tables["run"], tables["end"])
  assert not np.array_equal(tables["start"], tables["end"])
  (workdir / "model" / "config.json").write_text("[1]")
  for place, said in (
    (workdir, "model/config.json: not a JSON object"),
    (tmp_path, "is neither an HF directory"),
    (tmp_path / "none", "no such directory; `progrpo warmup --config"),
  ):
    with pytest.raises(errors.InputError, match=said):
      build.load_policy(small.config(f"model.init_from={place}"), mesh)


def test_an_import_path_may_have_a_colon(small):
  c = small.config("algo.advantage=progrpo_jax.algos.advantages:rloo")
  made = functions.make_advantage(c)
  assert made is functions.resolve(advantages, "rloo") is advantages.rloo
  with pytest.raises(errors.InputError, match="math:sin: TypeError"):
    functions.make_objective(small.config("algo.loss=math:sin"))


def test_an_option_may_be_a_list(small, tmp_path, monkeypatch):
  """Nothing of what a function of one's own takes has to be hashable."""
  (tmp_path / "listed.py").write_text(
    "def loss(inputs, *, weights=()):\n"
    "  return sum(weights) * inputs.logp_BT, {}\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  c = small.config("algo.loss=listed.loss")
  with c.unlocked():
    c.algo.loss_options = {"weights": [1.0, 2.0]}
  assert callable(functions.make_objective(c))
