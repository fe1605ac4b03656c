"""A run with LoRA: what it trains, keeps, refers to and hands on."""

import json
import shutil

import jax
import numpy as np
import pytest

from progrpo_jax import errors, loop, main
from progrpo_jax.build import stages as build
from progrpo_jax.devices import sharding
from progrpo_jax.learn import state
from progrpo_jax.models import hf, lora
from progrpo_jax.storage import checkpoint
from progrpo_jax.storage import policy as policy_lib

LORA = ("model.lora.rank=2", "model.lora.alpha=8.0", "optim.learning_rate=0.01")


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
  """(workdir, a copy of it after two of its four steps)."""
  folder = tmp_path_factory.mktemp("lora")
  halfway = folder / "halfway"
  save = checkpoint.Checkpointer.save

  def save_and_copy(self, step, *args, **kwargs):
    save(self, step, *args, **kwargs)
    if step == 2:
      self.wait()
      shutil.copytree(folder / "run", halfway)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoint.Checkpointer, "save", save_and_copy)
    code, _ = small.train(folder / "run", *LORA)
  assert code == loop.DONE
  return folder / "run", halfway


def load(small, path):
  return build.load_policy(
    small.config(f"model.init_from={path}"), sharding.make_mesh()
  )


def test_a_checkpoint_holds_adapters_alone(run):
  kept = run[0] / "checkpoints" / "4" / "params" / "_METADATA"
  keys = json.loads(kept.read_text())["tree_metadata"].values()
  names = [entry["key_metadata"][-1]["key"] for entry in keys]
  assert len(names) == 14
  assert all(name.endswith((lora.A, lora.B)) for name in names)
  _, adapters, base, step = policy_lib.load_adapters(
    str(run[0]), sharding.make_mesh()
  )
  assert step == 4
  assert len(jax.tree.leaves(adapters)) == 14
  assert hf.is_hf_dir(base)


def test_weights_stay_and_adapters_move(small, run):
  base = load(small, small.base)
  config, adapters, *_ = policy_lib.load_adapters(
    str(run[0]), sharding.make_mesh()
  )
  tuned = load(small, run[0])
  assert (base.step, tuned.step) == (None, 4)
  for path, x in jax.tree_util.tree_leaves_with_path(adapters):
    assert np.abs(x).max() > 0, path
  changed = jax.tree.map(
    lambda x, y: not np.array_equal(x, y), base.params, tuned.params
  )
  adapted = {
    name for name, yes in changed["layers"]["attention"].items() if yes
  }
  assert adapted == {"q", "k", "v", "o"}
  assert set(jax.tree.leaves(changed["layers"]["mlp"])) == {True}
  assert not any(jax.tree.leaves(changed["embed"]))
  merged = lora.merge(config, lora.join(adapters, base.params))
  for x, y in zip(
    jax.tree.leaves(merged), jax.tree.leaves(tuned.params), strict=True
  ):
    np.testing.assert_allclose(x, y, atol=1e-6)


def test_kl_is_zero_right_after_each_reset_and_not_before(run, recorded):
  rows = recorded(run[0])["metrics.jsonl"]
  assert [row["kl"] == 0 for row in rows] == [True, False] * 2


def test_resumed_equals_unbroken(small, run, recorded):
  code, _ = small.train(run[1], *LORA)
  assert code == loop.DONE
  expected, found = (recorded(workdir) for workdir in run)
  assert found.keys() == expected.keys()
  for name, what in expected.items():
    assert found[name] == what, name


def test_another_base_is_refused(small, run, tmp_path):
  shutil.copytree(small.base, tmp_path / "other")
  with pytest.raises(errors.InputError, match="another model"):
    small.train(run[1], *LORA, f"model.init_from={tmp_path / 'other'}")


@pytest.fixture(scope="module")
def on_run(small, tmp_path_factory):
  """(a run of two steps, a run that began at its first, options of that)."""
  folder = tmp_path_factory.mktemp("on")
  base, workdir = folder / "base", folder / "run"
  once = (*LORA, "train.total_steps=1", "eval.every=0", "checkpoint.keep=9")
  on = (*once, f"model.init_from={base / 'checkpoints/1'}")
  goes_on = (*once, "train.total_steps=2")
  for place, options in ((base, once), (workdir, on), (base, goes_on)):
    assert small.train(place, *options, method="grpo")[0] == loop.DONE
  return base, workdir, on


def test_a_base_that_trains_on_leaves_adapters_where_they_were(small, on_run):
  base, workdir, _ = on_run
  began, later, now = (
    jax.tree.leaves(load(small, place).params)
    for place in (
      base / "checkpoints/1",
      base / "checkpoints/2",
      workdir / "checkpoints/0",
    )
  )
  same = [np.array_equal(x, y) for x, y in zip(began, now, strict=True)]
  assert all(same)
  assert not all(
    np.array_equal(x, y) for x, y in zip(began, later, strict=True)
  )


def test_a_workdir_is_no_base_and_its_checkpoint_is(small, on_run, tmp_path):
  """Another checkpoint would be the newest when the run goes on."""
  base, _, on = on_run
  with pytest.raises(errors.InputError, match="newest checkpoint changes") as e:
    small.train(tmp_path, *on, f"model.init_from={base}", method="grpo")
  assert str(e.value).endswith(f"{base}/checkpoints/2")
  assert not (tmp_path / "model").exists()


def test_a_base_without_its_step_is_asked_for(small, on_run, tmp_path):
  """As a run has recorded it that began before steps were."""
  base, workdir, on = on_run
  old, pinned = tmp_path / "old", f"{base}/checkpoints/1"
  shutil.copytree(workdir, old)
  for name in ("config.json", "model/config.json"):
    content = (old / name).read_text()
    assert pinned in content
    (old / name).write_text(content.replace(pinned, str(base)))
  asked = f"write {base}/checkpoints/<step> as 'progrpo_base' into"
  with pytest.raises(errors.InputError, match=asked):
    load(small, old)
  on = (*on, "train.total_steps=2")
  with pytest.raises(errors.InputError, match=asked):
    small.train(old, *on, method="grpo")
  # What the message says.
  shutil.copy(workdir / "model/config.json", old / "model/config.json")
  load(small, old)
  argv = ["train", *small.args(*on, method="grpo"), "--workdir", str(old)]
  assert main.main([*argv, "--override"]) == 0


def test_training_goes_on_from_merged_adapters(small, run, tmp_path):
  code, _ = small.train(
    tmp_path / "on",
    f"model.init_from={run[0]}",
    "train.total_steps=1",
    "eval.every=0",
    method="grpo",
  )
  assert code == loop.DONE
  first = build.load_policy(
    small.config(f"model.init_from={tmp_path}/on/checkpoints/0"),
    sharding.make_mesh(),
  )
  for x, y in zip(
    jax.tree.leaves(first.params),
    jax.tree.leaves(load(small, run[0]).params),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)


def test_export_merged_and_as_adapters(small, run, tmp_path):
  argv = ["export", "--policy", str(run[0]), "--output"]
  assert main.main([*argv, str(tmp_path / "whole")]) == 0
  _, whole = hf.load(tmp_path / "whole")
  for x, y in zip(
    jax.tree.leaves(whole),
    jax.tree.leaves(load(small, run[0]).params),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)
  # A config that trains adapters adds none to a policy that is only read.
  named = [*argv, str(tmp_path / "named"), *small.args(*LORA)]
  assert main.main(named) == 0
  same = jax.tree.map(np.array_equal, whole, hf.load(tmp_path / "named")[1])
  assert jax.tree.all(same)
  assert main.main([*argv, str(tmp_path / "peft"), "--adapters"]) == 0
  described = json.loads((tmp_path / "peft/adapter_config.json").read_text())
  assert described["r"] == 2 and described["lora_alpha"] == 8.0
  assert described["base_model_name_or_path"] == str(small.base)


def test_a_run_without_adapters_has_none_to_export(small, tmp_path, capfd):
  small.train(
    tmp_path / "run", "train.total_steps=1", "eval.every=0", method="grpo"
  )
  assert (
    main.main(
      [
        "export",
        "--policy",
        str(tmp_path / "run"),
        "--output",
        str(tmp_path / "out"),
        "--adapters",
      ]
    )
    == 2
  )
  assert "was not trained with LoRA" in capfd.readouterr().err


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("model.lora.rank=-1", "lora.rank = -1: must be"),
    ("model.lora.targets=('q',)", "lora.targets = .* each 'q_proj' or"),
  ],
)
def test_impossible_adapters_are_refused(small, tmp_path, override, words):
  with pytest.raises(errors.InputError, match=words):
    small.train(tmp_path / "run", "model.lora.rank=2", override)


def test_optimiser_state_is_that_of_the_adapters(small):
  c = small.config(*LORA)
  mesh = sharding.make_mesh()
  policy = build.load_policy(c, mesh)
  from progrpo_jax.build import functions

  tx = functions.make_optimizer(c, functions.make_schedule(c))
  like = state.abstract(policy.config, tx, mesh)
  trained, _ = lora.split(policy.config, policy.params)
  size = sum(x.size for x in jax.tree.leaves(trained))
  moments = [x for x in jax.tree.leaves(like.opt_state) if x.ndim]
  assert sum(x.size for x in moments) == 2 * size


def test_a_base_may_be_at_another_place(small, run, tmp_path):
  """Whoever says so: nothing but the place of the weights has changed."""
  workdir, base = tmp_path / "run", tmp_path / "base"
  shutil.copytree(run[1], workdir)
  shutil.copytree(small.base, base)
  file = workdir / "model" / "config.json"
  described = json.loads(file.read_text())
  file.write_text(json.dumps(described | {"progrpo_base": "/gone/base"}))
  place = f"model.init_from={base}"
  with pytest.raises(errors.InputError, match="progrpo_base in .*config.json"):
    policy_lib.load(str(workdir), sharding.make_mesh())
  c = small.config(*LORA, place)
  with pytest.raises(errors.InputError, match="another model; pass --override"):
    loop.train(small.config(*LORA), workdir, small.view())
  assert loop.train(c, workdir, small.view(), override=True) == loop.DONE
  assert json.loads(file.read_text())["progrpo_base"] == str(base)
  policy_lib.load(str(workdir), sharding.make_mesh())
