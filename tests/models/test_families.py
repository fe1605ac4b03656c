"""Every family beside transformers: values, gradients, greedy decoding.

The checkpoints are random and made here; biases and norms are not trivial.
"""

import dataclasses
import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch as batch_lib
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf, hf_names, scoring, transformer
from progrpo_jax.rollout import decoding, sampler

SMALL = dict(
  vocab_size=40,
  hidden_size=56,
  intermediate_size=48,
  num_hidden_layers=2,
  num_attention_heads=7,
  num_key_value_heads=1,
  head_dim=8,
  max_position_embeddings=256,
  tie_word_embeddings=False,
)
LLAMA3 = dict(
  rope_type="llama3",
  rope_theta=500.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=64,
)
YARN = dict(
  rope_type="yarn",
  rope_theta=1e4,
  factor=4.0,
  original_max_position_embeddings=64,
)

# Seven, two and one query heads a key head; tied and not; head_dim that is
# not the width over the heads; every kind of scaling.
MODELS = {
  "qwen2": ("qwen2", {}),
  "qwen2-tied": (
    "qwen2",
    dict(
      tie_word_embeddings=True, num_attention_heads=4, num_key_value_heads=2
    ),
  ),
  "qwen2-yarn": ("qwen2", dict(rope_parameters=YARN)),
  "qwen3": ("qwen3", dict(num_attention_heads=4, num_key_value_heads=2)),
  "qwen3-tied": ("qwen3", dict(tie_word_embeddings=True, head_dim=12)),
  "llama": (
    "llama",
    dict(num_attention_heads=4, num_key_value_heads=4, rms_norm_eps=1e-5),
  ),
  "llama-3": ("llama", dict(rope_parameters=LLAMA3)),
  "llama-3-tied": (
    "llama",
    dict(
      rope_parameters=LLAMA3,
      tie_word_embeddings=True,
      num_attention_heads=4,
      num_key_value_heads=2,
    ),
  ),
  "mistral": ("mistral", dict(sliding_window=None, num_key_value_heads=7)),
  "llama-linear": (
    "llama",
    dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=3.0)),
  ),
}


def make(path, name):
  """A random model of transformers, saved."""
  import torch
  import transformers

  logging.getLogger("transformers").setLevel(logging.ERROR)
  family, changes = MODELS[name]
  torch.manual_seed(len(name))
  config = transformers.CONFIG_MAPPING[family](**(SMALL | changes))
  model = transformers.AutoModelForCausalLM.from_config(config).eval()
  with torch.no_grad():
    for key, x in model.named_parameters():
      if x.ndim == 1:
        base = 1.0 if key.endswith("norm.weight") else 0.0
        x.copy_(base + 0.3 * torch.randn(x.shape))
      else:
        x.mul_(8.0)
  model.save_pretrained(path)
  return model


def torch_logits(model, tokens, mask):
  import torch

  mask = torch.tensor(mask)
  positions = (mask.long().cumsum(1) - 1).clamp(min=0)
  return model(
    input_ids=torch.tensor(tokens),
    attention_mask=mask.long(),
    position_ids=positions,
  ).logits


def batch(seed=0):
  """Rows without padding, padded left, and padded right."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, SMALL["vocab_size"], (4, 90))
  mask = np.ones((4, 90), bool)
  mask[1, :40] = False
  mask[2, 70:] = False
  mask[3, :89] = False
  return tokens, mask


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_those_of_transformers(tmp_path, name):
  model = make(tmp_path, name)
  config, params = hf.load(tmp_path)
  tokens, mask = batch()
  ours = np.asarray(transformer.logits(config, params, tokens, mask))
  theirs = torch_logits(model, tokens, mask).detach().numpy()
  assert np.ptp(theirs) > 1
  np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["qwen2-yarn", "qwen3-tied", "llama-3"])
def test_gradients_equal_those_of_torch(tmp_path, name):
  import torch

  model = make(tmp_path, name)
  config, params = hf.load(tmp_path)
  tokens, mask = batch()
  picked = mask[:, 1:] & mask[:, :-1]
  weight = np.where(
    picked, np.random.default_rng(1).normal(size=picked.shape), 0.0
  )

  def objective(params):
    logp = jax.nn.log_softmax(
      transformer.logits(config, params, tokens, mask)[:, :-1]
    )
    return jnp.sum(
      weight * jnp.take_along_axis(logp, tokens[:, 1:, None], axis=2)[..., 0]
    )

  ours = jax.grad(objective)(params)
  logp = torch_logits(model, tokens, mask)[:, :-1].log_softmax(-1)
  chosen = logp.gather(2, torch.tensor(tokens[:, 1:, None]))[..., 0]
  (torch.tensor(weight) * chosen).sum().backward()
  # Exported like weights, the gradient has the names of transformers.
  hf.save(tmp_path / "gradient", config, ours)
  theirs = dict(model.named_parameters())
  if config.tie_embeddings:
    theirs.pop("lm_head.weight", None)
  _, again = hf.load(tmp_path / "gradient")
  with torch.no_grad():
    for x in theirs.values():
      x.copy_(x.grad)
  model.save_pretrained(tmp_path / "torch")
  _, expected = hf.load(tmp_path / "torch")
  for path, x in hf_names.flatten(expected).items():
    found = np.asarray(hf_names.flatten(again)[path])
    scale = np.abs(x).max()
    assert scale > 0, path
    np.testing.assert_allclose(
      found, x, rtol=1e-3, atol=1e-3 * scale, err_msg=path
    )


@pytest.mark.parametrize("name", MODELS)
def test_export_gives_transformers_the_same_model(tmp_path, name):
  import transformers

  first = make(tmp_path / "in", name)
  config, params = hf.load(tmp_path / "in")
  hf.save(tmp_path / "out", config, params)
  again = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "out", dtype="auto"
  ).eval()
  assert type(again) is type(first)
  tokens, mask = batch()
  np.testing.assert_array_equal(
    torch_logits(again, tokens, mask).detach(),
    torch_logits(first, tokens, mask).detach(),
  )


@pytest.mark.parametrize(("kept", "own"), [(7, None), (7, 3), (None, 3)])
def test_export_keeps_bos(tmp_path, kept, own):
  """The checkpoint's; else the tokenizer's."""
  import transformers

  class Tokenizer:
    vocab_size, stop_ids, pad_id, bos_id = 40, (2,), 0, own
    generation = types.MappingProxyType({})

    def save(self, directory):
      del directory

  make(tmp_path / "in", "llama-linear")
  config, params = hf.load(tmp_path / "in")
  config = dataclasses.replace(config, bos_token_id=kept)
  hf.save(tmp_path / "out", config, params, Tokenizer())
  expected = own if kept is None else kept
  for read in (transformers.AutoConfig, transformers.GenerationConfig):
    assert read.from_pretrained(tmp_path / "out").bos_token_id == expected
  assert hf.load(tmp_path / "out")[0].bos_token_id == expected


def rollout(config, params, prompts, mask, **settings):
  """Sampled tokens, with the settings' defaults of a test."""
  known = dict(num_generations=1, max_new_tokens=24, chunk=8, first_cache=8)
  return sampler.sample(
    sampler.Engine(config, params, sharding.make_mesh()),
    batch_lib.Prompts(
      tokens_PT=prompts.astype(np.int32),
      mask_PT=mask,
      user_mask_PT=mask,
      ids_P=np.arange(len(prompts)),
      rows=(None,) * len(prompts),
    ),
    jax.random.key(0),
    decoding.Settings(**(known | settings)),
  )


@pytest.mark.parametrize(
  "name", ["qwen2-tied", "qwen2-yarn", "qwen3", "llama-3"]
)
def test_greedy_decoding_equals_transformers_token_for_token(tmp_path, name):
  import torch

  model = make(tmp_path, name)
  config, params = hf.load(tmp_path)
  rng = np.random.default_rng(2)
  prompts = rng.integers(3, SMALL["vocab_size"], (6, 20))
  mask = np.arange(20) >= rng.integers(0, 19, (6, 1))
  stop = (1, 2)
  ours = rollout(config, params, prompts, mask, temperature=0, stop_ids=stop)
  theirs = model.generate(
    torch.tensor(prompts),
    attention_mask=torch.tensor(mask).long(),
    do_sample=False,
    max_new_tokens=24,
    eos_token_id=list(stop),
    pad_token_id=0,
  )[:, 20:].numpy()
  assert len({tuple(row) for row in theirs}) == 6
  for row, real, expected in zip(
    ours.tokens_BT, ours.mask_BT, theirs, strict=False
  ):
    ends = np.flatnonzero(np.isin(expected, stop))
    length = ends[0] + 1 if len(ends) else len(expected)
    assert real.sum() == length
    np.testing.assert_array_equal(row[real], expected[:length])


@pytest.mark.parametrize(
  ("temperature", "top_p", "top_k"),
  [(0.7, 1.0, 0), (1.3, 0.8, 0), (1.0, 1.0, 5), (0.6, 0.9, 7)],
)
def test_sampled_log_probs_are_transformers_processed_distribution(
  tmp_path, temperature, top_p, top_k
):
  import torch
  import transformers

  model = make(tmp_path, "qwen3")
  config, params = hf.load(tmp_path)
  prompts = batch(5)[0][:3, :12]
  mask = np.arange(12) >= np.array([[0], [4], [11]])
  ours = rollout(
    config,
    params,
    prompts,
    mask,
    num_generations=64,
    max_new_tokens=3,
    temperature=temperature,
    top_p=top_p,
    top_k=top_k,
  )
  tokens = np.concatenate(
    [np.repeat(prompts, 64, axis=0), ours.tokens_BT], axis=1
  )
  seen = np.concatenate([np.repeat(mask, 64, axis=0), ours.mask_BT], axis=1)
  with torch.no_grad():
    logits = torch_logits(model, tokens, seen)[:, 11:-1].reshape(-1, 40)
  steps = transformers.LogitsProcessorList(
    [transformers.TemperatureLogitsWarper(temperature)]
  )
  if top_k:
    steps.append(transformers.TopKLogitsWarper(top_k))
  if top_p < 1:
    steps.append(transformers.TopPLogitsWarper(top_p))
  processed = steps(None, logits).log_softmax(-1)
  logp = processed.gather(
    1, torch.tensor(ours.tokens_BT.reshape(-1, 1))
  ).reshape(-1, 3)
  np.testing.assert_allclose(ours.logp_BT, logp, atol=1e-4)
  # First tokens are draws from one distribution a prompt.
  first = processed.reshape(3, 64, 3, 40)[:, 0, 0].exp().numpy()
  counts = np.stack(
    [
      np.bincount(row, minlength=40)
      for row in ours.tokens_BT.reshape(3, 64, 3)[:, :, 0]
    ]
  )
  assert np.all(counts[first == 0] == 0)
  assert np.abs(counts / 64 - first).max() < 0.25


def test_scores_equal_what_was_sampled(tmp_path):
  make(tmp_path, "llama-3")
  config, params = hf.load(tmp_path)
  prompts = batch(7)[0][:4, :20]
  mask = np.arange(20) >= np.array([[0], [5], [12], [19]])
  ours = rollout(
    config,
    params,
    prompts,
    mask,
    num_generations=2,
    temperature=0.9,
    max_new_tokens=60,
  )
  scores = scoring.score(
    config,
    params,
    batch_lib.Sequences(
      prompt_NT=jnp.asarray(prompts),
      prompt_mask_NT=jnp.asarray(mask),
      tokens_NRT=ours.tokens_BT.reshape(4, 2, 60),
      mask_NRT=ours.mask_BT.reshape(4, 2, 60),
    ),
    scoring.Distribution(temperature=0.9),
  )
  np.testing.assert_allclose(
    scores.logp_NRT.reshape(8, 60), ours.logp_BT, atol=1e-4
  )


def test_eight_devices_give_the_logits_of_transformers(tmp_path, run_python):
  for name in ("qwen2-tied", "qwen3", "llama-3-tied"):
    model = make(tmp_path / name, name)
    tokens, mask = batch()
    np.savez(
      tmp_path / f"{name}.npz",
      tokens=tokens,
      mask=mask,
      logits=torch_logits(model, tokens, mask).detach().numpy(),
    )
  out = run_python(
    f"""
import jax, numpy as np
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf, transformer

mesh = sharding.make_mesh(1, 4, 2)
for name in ("qwen2-tied", "qwen3", "llama-3-tied"):
  config, params = hf.load({str(tmp_path)!r} + "/" + name, mesh=mesh)
  gate = params["layers"]["mlp"]["gate"]
  assert gate.sharding.shard_shape(gate.shape) == (2, 14, 24)
  known = np.load({str(tmp_path)!r} + "/" + name + ".npz")
  tokens, mask = sharding.put_rows((known["tokens"], known["mask"]), mesh)
  with jax.set_mesh(mesh):
    found = jax.jit(transformer.logits, static_argnums=0)(
        config, params, tokens, mask)
  real = known["mask"]
  np.testing.assert_allclose(
      np.asarray(found)[real], known["logits"][real], atol=1e-4, rtol=0)
  print("equal", name)
""",
    timeout=280,
  ).stdout
  assert out.count("equal") == 3
