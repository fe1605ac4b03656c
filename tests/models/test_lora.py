"""Adapters: what trains, what they do, and PEFT's opinion of the export."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch as batch_lib
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf, lora, parameters, scoring, transformer
from progrpo_jax.rollout import decoding, sampler

CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=32,
  num_layers=2,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  mlp_dim=20,
)
ALL = config_lib.LoRA(rank=3, alpha=6.0)
SOME = config_lib.LoRA(rank=2, alpha=8.0, targets=("v_proj", "down_proj"))


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh()


@pytest.fixture(scope="module")
def base(mesh):
  params = parameters.init(CONFIG, jax.random.key(0), mesh)
  return jax.tree.map(lambda x: 8 * x, params)


def adapted(base, mesh, which=ALL, random=True):
  """(config, parameters) with adapters that do something."""
  config, params = parameters.with_lora(
    CONFIG, which, base, jax.random.key(1), mesh
  )
  if not random:
    return config, params
  trained, frozen = lora.split(config, params)
  trained = jax.tree.map(
    lambda x: 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), trained
  )
  return config, lora.join(trained, frozen)


def logits(config, params, seed=0):
  tokens = np.random.default_rng(seed).integers(0, 32, (3, 9))
  return np.asarray(
    transformer.logits(config, params, tokens, np.ones((3, 9), bool))
  )


@pytest.mark.parametrize(
  ("which", "names"),
  [
    (SOME, {"attention": {"v"}, "mlp": {"down"}}),
    (ALL, {"attention": {"q", "k", "v", "o"}, "mlp": {"gate", "up", "down"}}),
  ],
)
def test_adapters_alone_train(base, mesh, which, names):
  config, params = adapted(base, mesh, which)
  trained, frozen = lora.split(config, params)
  assert {g: set(x) for g, x in trained["layers"].items()} == {
    group: {n + end for n in found for end in ("_lora_a", "_lora_b")}
    for group, found in names.items()
  }
  assert jax.tree.structure(frozen) == jax.tree.structure(base)
  assert all(
    x is y
    for x, y in zip(
      jax.tree.leaves(lora.join(trained, frozen)),
      jax.tree.leaves(params),
      strict=True,
    )
  )


def test_without_adapters_everything_trains(base):
  assert lora.split(CONFIG, base) == (base, {})
  assert lora.join(base, {}) == base
  assert lora.merge(CONFIG, base) is base


def test_partition_head_trains_beside_adapters(base, mesh):
  config, params = parameters.with_partition_head(
    CONFIG, base, jax.random.key(2), mesh
  )
  config, params = parameters.with_lora(
    config, SOME, params, jax.random.key(3), mesh
  )
  trained, frozen = lora.split(config, params)
  assert trained.keys() == {"layers", "log_z"}
  assert trained["log_z"].keys() == params["log_z"].keys()
  assert "log_z" not in frozen


def test_shapes_of_factors(base, mesh):
  _, params = adapted(base, mesh)
  attention, mlp = (params["layers"][g] for g in ("attention", "mlp"))
  shapes = {
    name: (tree[name + "_lora_a"].shape, tree[name + "_lora_b"].shape)
    for name, tree in (("q", attention), ("o", attention), ("down", mlp))
  }
  assert shapes == {
    "q": ((2, 16, 3), (2, 3, 4, 6)),
    "o": ((2, 4, 6, 3), (2, 3, 16)),
    "down": ((2, 20, 3), (2, 3, 16)),
  }


def test_new_adapters_change_nothing(base, mesh):
  config, params = adapted(base, mesh, random=False)
  trained, _ = lora.split(config, params)
  np.testing.assert_array_equal(logits(config, params), logits(CONFIG, base))
  a = trained["layers"]["attention"]["q_lora_a"]
  assert 0.9 < np.abs(a).max() * 16**0.5 <= 1
  assert not np.any(trained["layers"]["attention"]["q_lora_b"])
  assert not np.array_equal(a[0], a[1])


def test_merge_by_hand():
  config = dataclasses.replace(
    CONFIG, lora=config_lib.LoRA(rank=1, alpha=2.0, targets=("up_proj",))
  )
  tree = {
    "layers": {
      "mlp": {
        "up": jnp.ones((1, 2, 3)),
        "gate": jnp.zeros((1, 2, 3)),
        "up_lora_a": jnp.array([[[1.0], [2.0]]]),
        "up_lora_b": jnp.array([[[1.0, 0.0, -1.0]]]),
      }
    }
  }
  merged = lora.merge(config, tree)["layers"]["mlp"]
  np.testing.assert_array_equal(
    merged["up"], [[[3.0, 1.0, -1.0], [5.0, 1.0, -3.0]]]
  )
  assert merged.keys() == {"up", "gate"}
  assert merged["gate"] is tree["layers"]["mlp"]["gate"]


@pytest.mark.parametrize("which", [ALL, SOME])
def test_adapted_equals_merged(base, mesh, which):
  config, params = adapted(base, mesh, which)
  found = logits(config, params)
  assert np.abs(found - logits(CONFIG, base)).max() > 0.1
  plain, whole = parameters.merged(config, jax.tree.map(jnp.copy, params), mesh)
  assert plain == CONFIG
  np.testing.assert_allclose(logits(plain, whole), found, atol=1e-4)


def test_sampler_and_scorer_agree(base, mesh):
  config, params = adapted(base, mesh)
  prompt = np.random.default_rng(4).integers(0, 32, (3, 5)).astype(np.int32)
  mask = np.ones((3, 5), bool)
  rollout = sampler.sample(
    sampler.Engine(config, params, mesh),
    batch_lib.Prompts(
      tokens_PT=prompt,
      mask_PT=mask,
      user_mask_PT=mask,
      ids_P=np.arange(3),
      rows=(None,) * 3,
    ),
    jax.random.key(0),
    decoding.Settings(num_generations=2, max_new_tokens=7, chunk=4),
  )
  scores = scoring.score(
    config,
    params,
    batch_lib.Sequences(
      prompt_NT=prompt,
      prompt_mask_NT=mask,
      tokens_NRT=rollout.tokens_BT.reshape(3, 2, 7),
      mask_NRT=rollout.mask_BT.reshape(3, 2, 7),
    ),
    scoring.Distribution(),
  )
  np.testing.assert_allclose(
    scores.logp_NRT.reshape(6, 7), rollout.logp_BT, atol=1e-4
  )


def test_frozen_weights_may_be_bfloat16(base, mesh):
  half = dataclasses.replace(CONFIG, dtype="bfloat16")
  rough = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
  config, params = parameters.with_lora(
    half, ALL, rough, jax.random.key(1), mesh
  )
  trained, frozen = lora.split(config, params)
  assert {x.dtype.name for x in jax.tree.leaves(trained)} == {"float32"}
  assert {x.dtype.name for x in jax.tree.leaves(frozen)} == {"bfloat16"}
  merged = lora.merge(config, params)
  assert {x.dtype.name for x in jax.tree.leaves(merged)} == {"bfloat16"}
  for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(rough), strict=True):
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(rank=0, alpha=1.0), "rank 0"),
    (dict(rank=2, alpha=1.0, targets=("q",)), r"\['q'\]: known are q_proj"),
    (dict(rank=2, alpha=1.0, targets=()), "known are q_proj"),
  ],
)
def test_impossible_adapters_are_refused(options, words):
  with pytest.raises(ValueError, match=words):
    config_lib.LoRA(**options)


def test_config_goes_through_json():
  config = dataclasses.replace(CONFIG, lora=SOME)
  assert config_lib.ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("which", [ALL, SOME])
def test_peft_reads_the_adapters(base, mesh, tmp_path, which):
  import peft
  import torch
  import transformers

  config, params = adapted(base, mesh, which)
  hf.save(tmp_path / "base", CONFIG, base)
  trained, _ = lora.split(config, params)
  hf.save_adapters(
    tmp_path / "adapters", config, trained, str(tmp_path / "base")
  )
  model = peft.PeftModel.from_pretrained(
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
    tmp_path / "adapters",
    is_trainable=True,
  ).eval()
  tokens = np.random.default_rng(0).integers(0, 32, (3, 9))
  theirs = model(input_ids=torch.tensor(tokens)).logits
  theirs_np = theirs.detach().numpy()
  np.testing.assert_allclose(
    logits(config, params), theirs_np, atol=1e-5 * np.ptp(theirs_np)
  )

  # And the gradients of the adapters are PEFT's.
  weight = np.random.default_rng(1).normal(size=theirs.shape)
  (torch.tensor(weight) * theirs).sum().backward()

  def objective(trained, frozen):
    return jnp.sum(
      weight
      * transformer.logits(
        config, lora.join(trained, frozen), tokens, np.ones((3, 9), bool)
      )
    )

  hf.save_adapters(
    tmp_path / "gradient",
    config,
    jax.grad(objective)(*lora.split(config, params)),
    "",
  )
  from safetensors import numpy as tensors

  ours = tensors.load_file(tmp_path / "gradient" / "adapter_model.safetensors")
  expected = {
    name.replace(".default.", "."): x.grad.numpy()
    for name, x in model.named_parameters()
    if x.grad is not None
  }
  assert ours.keys() == expected.keys()
  for name, x in expected.items():
    np.testing.assert_allclose(
      ours[name], x, rtol=1e-3, atol=1e-3 * np.abs(x).max(), err_msg=name
    )
