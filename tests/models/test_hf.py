"""Import and export, with transformers' Qwen2 as the reference."""

from concurrent import futures
import contextlib
import json
import logging
import shutil
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from progrpo_jax import errors
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import hf, transformer

SMALL = dict(
    vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, rope_theta=1e4,
    max_position_embeddings=128, tie_word_embeddings=False)


def torch_model(path, dtype="float32", seed=0, shard="50GB", **changes):
  """A random model of transformers, saved; biases and norms are not trivial."""
  import torch
  import transformers
  logging.getLogger("transformers").setLevel(logging.ERROR)
  torch.manual_seed(seed)
  config = transformers.Qwen2Config(**(SMALL | changes))
  model = transformers.Qwen2ForCausalLM(config).eval()
  with torch.no_grad():
    for name, x in model.named_parameters():
      if x.ndim == 1:
        base = 1.0 if name.endswith("norm.weight") else 0.0
        x.copy_(base + 0.3 * torch.randn(x.shape))
      else:
        x.mul_(4.0)
  model = model.to(getattr(torch, dtype))
  model.save_pretrained(path, max_shard_size=shard)
  return model


def torch_logits(model, tokens, mask):
  import torch
  mask = torch.tensor(mask)
  positions = (mask.long().cumsum(1) - 1).clamp(min=0)
  with torch.no_grad():
    out = model(
        input_ids=torch.tensor(tokens), attention_mask=mask.long(),
        position_ids=positions)
  return out.logits.float().numpy()


def batch(vocab_size, seed=0):
  """Rows without padding, padded left, and padded right."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, vocab_size, (4, 11))
  mask = np.ones((4, 11), bool)
  mask[1, :4] = False
  mask[2, 7:] = False
  mask[3, :10] = False
  return tokens, mask


def same_trees(a, b):
  flat_a, flat_b = hf._flat(a), hf._flat(b)
  assert flat_a.keys() == flat_b.keys()
  for path, x in flat_a.items():
    assert x.dtype == flat_b[path].dtype, path
    np.testing.assert_array_equal(x, flat_b[path], err_msg=path)


@pytest.mark.parametrize("changes", [
    dict(num_key_value_heads=1),
    dict(num_key_value_heads=2, tie_word_embeddings=True),
    dict(num_key_value_heads=4, rope_theta=1e6, rms_norm_eps=1e-5),
    dict(num_attention_heads=2, num_key_value_heads=1, head_dim=8),
    dict(num_hidden_layers=1, hidden_size=24, intermediate_size=16,
         num_attention_heads=6, num_key_value_heads=3, vocab_size=17),
])
def test_logits_equal_those_of_transformers(tmp_path, changes):
  model = torch_model(tmp_path, **changes)
  config, params = hf.load(tmp_path)
  tokens, mask = batch(config.vocab_size)
  ours = np.asarray(transformer.logits(config, params, tokens, mask))
  theirs = torch_logits(model, tokens, mask)
  assert np.ptp(theirs) > 1
  np.testing.assert_allclose(ours[mask], theirs[mask], atol=1e-4, rtol=0)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_export_gives_transformers_the_same_model(tmp_path, dtype, tie):
  import transformers
  torch_model(tmp_path / "in", dtype, tie_word_embeddings=tie)
  config, params = hf.load(tmp_path / "in")
  assert params["embed"]["tokens"].dtype == dtype
  assert ("head" in params) != tie
  hf.save(tmp_path / "out", config, params)
  first, again = (
      transformers.Qwen2ForCausalLM.from_pretrained(
          tmp_path / name, dtype="auto").eval() for name in ("in", "out"))
  assert str(first.dtype) == str(again.dtype) == f"torch.{dtype}"
  tokens, mask = batch(config.vocab_size)
  np.testing.assert_array_equal(
      torch_logits(again, tokens, mask), torch_logits(first, tokens, mask))


def test_export_of_a_sharded_file_round_trips(tmp_path):
  torch_model(tmp_path / "in", shard="20KB")
  assert (tmp_path / "in/model.safetensors.index.json").exists()
  config, params = hf.load(tmp_path / "in")
  hf.save(tmp_path / "out", config, params, max_shard_bytes=30_000)
  files = sorted(p.name for p in (tmp_path / "out").glob("*.safetensors"))
  assert len(files) > 2
  assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
  same_trees(hf.load(tmp_path / "out")[1], params)
  same_trees(hf.load(tmp_path / "in")[1], params)
  import transformers
  again = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "out")
  np.testing.assert_array_equal(
      again.model.layers[2].self_attn.v_proj.weight.detach().numpy(),
      np.asarray(params["layers"]["attention"]["v"][2]).reshape(
          32, 16).T)


def own(path, dtype=jnp.float32, **changes):
  """A random model of ours, saved."""
  config = config_lib.ModelConfig.tiny(vocab_size=20, num_layers=2, **changes)
  leaves, treedef = jax.tree.flatten(transformer.abstract_params(config))
  rng = np.random.default_rng(0)
  params = jax.tree.unflatten(treedef, [
      jnp.asarray(rng.normal(size=x.shape), dtype) for x in leaves])
  hf.save(path, config, params)
  return config, params


def test_params_have_the_structure_of_the_declaration(tmp_path):
  config, params = own(tmp_path / "m", tie_embeddings=False)
  loaded_config, loaded = hf.load(tmp_path / "m")
  assert loaded_config == config
  same_trees(loaded, params)
  assert (jax.tree.structure(loaded)
          == jax.tree.structure(transformer.abstract_params(config)))


def test_dtype_is_that_of_the_file_unless_asked(tmp_path):
  own(tmp_path / "m", jnp.bfloat16)

  def dtypes(params):
    return {x.dtype.name for x in jax.tree.leaves(params)}

  assert dtypes(hf.load(tmp_path / "m")[1]) == {"bfloat16"}
  assert dtypes(hf.load(tmp_path / "m", dtype="float32")[1]) == {"float32"}
  assert dtypes(hf.load(tmp_path / "m", dtype=jnp.float32)[1]) == {"float32"}


def test_half_precision_becomes_float32(tmp_path):
  own(tmp_path / "m")
  file = tmp_path / "m/model.safetensors"
  tensors = safetensors.numpy.load_file(file)
  half = {k: v.astype(np.float16) for k, v in tensors.items()}
  safetensors.numpy.save_file(half, file)
  params = hf.load(tmp_path / "m")[1]
  np.testing.assert_array_equal(
      params["norm"]["scale"], half["model.norm.weight"].astype(np.float32))


def test_each_device_reads_its_own_part(tmp_path, run_python):
  own(tmp_path / "m", tie_embeddings=False, num_kv_heads=4)
  run_python(f"""
import jax, numpy as np
from progrpo_jax import sharding
from progrpo_jax.models import hf, transformer
path = {str(tmp_path / "m")!r}
_, whole = hf.load(path)
for sizes in ((1, 4, 2), (2, 2, 2), (8, 1, 1), (1, 2, 4)):
  mesh = sharding.make_mesh(*sizes)
  config, params = hf.load(path, mesh=mesh)
  wanted = transformer.shardings(config, mesh)
  for x, y, s in zip(*map(jax.tree.leaves, (whole, params, wanted))):
    assert y.sharding == s, (y.sharding, s)
    np.testing.assert_array_equal(x, y)
  q = params["layers"]["attention"]["q"]
  assert q.addressable_shards[0].data.size * sizes[1] * sizes[2] == q.size
hf.save({str(tmp_path / "n")!r}, config, params)
""")
  same_trees(hf.load(tmp_path / "n")[1], hf.load(tmp_path / "m")[1])


def test_two_processes_load_and_save_one_model(tmp_path, run_python):
  """Neither of them holds all of a parameter."""
  own(tmp_path / "m", tie_embeddings=False)
  with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
  code = f"""
import os, sys
import jax
jax.distributed.initialize("127.0.0.1:{port}", 2, int(os.environ["RANK"]))
from progrpo_jax import sharding
from progrpo_jax.models import hf
assert jax.device_count() == 4
config, params = hf.load(
    {str(tmp_path / "m")!r}, mesh=sharding.make_mesh(1, 4, 1))
assert not params["embed"]["tokens"].is_fully_addressable
hf.save({str(tmp_path / "n")!r}, config, params, max_shard_bytes=200_000)
assert hf.is_hf_dir({str(tmp_path / "n")!r})
"""
  with futures.ThreadPoolExecutor(2) as threads:
    list(threads.map(
        lambda rank: run_python(
            code, devices=2, timeout=120, env={"RANK": str(rank)}), range(2)))
  same_trees(hf.load(tmp_path / "n")[1], hf.load(tmp_path / "m")[1])


def test_files_are_as_readable_as_their_directory(tmp_path):
  own(tmp_path / "m")
  modes = {p.stat().st_mode for p in (tmp_path / "m").iterdir()}
  assert len(modes) == 1


def test_reads_no_more_than_its_part(tmp_path):
  """Every axis can be split, also those that the rules leave whole."""
  config, params = own(tmp_path / "m", tie_embeddings=False)
  with contextlib.ExitStack() as stack:
    source = hf._Source(tmp_path / "m", stack)
    for path, leaf in hf._flat(params).items():
      entry = next(e for e in hf._TABLE if e.path == path)
      for axis, size in enumerate(leaf.shape):
        spans = [(0, n) for n in leaf.shape]
        spans[axis] = (size // 2, size)
        found = hf._read_block(
            source, entry, leaf.shape, tuple(spans), np.float32)
        index = tuple(slice(*s) for s in spans)
        np.testing.assert_array_equal(found, leaf[index], err_msg=path)


def edit_json(path, **changes):
  content = json.loads(path.read_text())
  for key, value in changes.items():
    if value is None:
      del content[key]
    else:
      content[key] = value
  path.write_text(json.dumps(content))


def edit_tensors(path, change):
  tensors = safetensors.numpy.load_file(path)
  change(tensors)
  safetensors.numpy.save_file(tensors, path)


def wrong_shape(tensors):
  name = "model.layers.1.mlp.up_proj.weight"
  tensors[name] = np.ascontiguousarray(tensors[name].T)


@pytest.mark.parametrize(("damage", "words"), [
    (shutil.rmtree, ["no such directory"]),
    (lambda p: (p / "config.json").unlink(), ["no config.json"]),
    (lambda p: (p / "config.json").write_text("{"), ["not JSON"]),
    (lambda p: edit_json(p / "config.json", model_type="mamba"),
     ["config.json", "'mamba'", "supported"]),
    (lambda p: edit_json(p / "config.json", hidden_size=None),
     ["config.json", "hidden_size"]),
    (lambda p: edit_json(p / "config.json", num_attention_heads=3),
     ["config.json", "num_heads 3"]),
    (lambda p: (p / "model.safetensors").unlink(),
     ["no model.safetensors", "converted"]),
    (lambda p: edit_tensors(
        p / "model.safetensors", lambda t: t.pop("model.norm.weight")),
     ["1 tensor(s) missing", "model.norm.weight"]),
    (lambda p: edit_tensors(
        p / "model.safetensors", lambda t: t.update(odd=np.ones(2))),
     ["does not have", "odd"]),
    (lambda p: edit_tensors(p / "model.safetensors", wrong_shape),
     ["model.layers.1.mlp.up_proj.weight", "(64, 192)", "(192, 64)"]),
    (lambda p: edit_tensors(
        p / "model.safetensors", lambda t: t.update(
            {"model.norm.weight": np.ones(64, np.int8)})),
     ["model.norm.weight", "I8"]),
    (lambda p: (p / "model.safetensors").write_bytes(
        (p / "model.safetensors").read_bytes()[:-100]),
     ["model.safetensors", "cut short"]),
    (lambda p: (p / "model.safetensors").write_bytes(b""),
     ["model.safetensors", "cut short"]),
    (lambda p: edit_tensors(
        p / "model.safetensors", lambda t: t.update(
            {"lm_head.weight": np.zeros((20, 64), np.float32)})),
     ["lm_head.weight", "differs"]),
])
def test_damage_is_named(tmp_path, damage, words):
  path = tmp_path / "m"
  own(path)
  damage(path)
  with pytest.raises(errors.InputError) as e:
    hf.load(path)
  for word in [str(path), *words]:
    assert word in str(e.value)


@pytest.mark.parametrize(("damage", "words"), [
    (lambda p: sorted(p.glob("*.safetensors"))[1].unlink(),
     ["model-00002-of-", "no such file", "index"]),
    (lambda p: edit_tensors(
        sorted(p.glob("*.safetensors"))[0],
        lambda t: t.pop("model.embed_tokens.weight")),
     ["model-00001-of-", "model.embed_tokens.weight", "missing"]),
    (lambda p: (p / "model.safetensors.index.json").write_text("{}"),
     ["weight_map"]),
])
def test_damage_of_a_sharded_model_is_named(tmp_path, damage, words):
  config, params = own(tmp_path / "own")
  path = tmp_path / "m"
  hf.save(path, config, params, max_shard_bytes=100_000)
  damage(path)
  with pytest.raises(errors.InputError) as e:
    hf.load(path)
  for word in words:
    assert word in str(e.value)


def test_a_tied_head_written_twice_is_accepted(tmp_path):
  _, params = own(tmp_path / "m")
  edit_tensors(tmp_path / "m/model.safetensors", lambda t: t.update(
      {"lm_head.weight": t["model.embed_tokens.weight"]}))
  same_trees(hf.load(tmp_path / "m")[1], params)


def test_save_replaces_a_model_but_nothing_else(tmp_path):
  config, params = own(tmp_path / "m")
  doubled = jax.tree.map(lambda x: 2 * x, params)
  hf.save(tmp_path / "m", config, doubled)
  same_trees(hf.load(tmp_path / "m")[1], doubled)
  (tmp_path / "empty").mkdir()
  hf.save(tmp_path / "empty", config, params)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine/thesis.txt").write_text("x")
  with pytest.raises(errors.InputError, match="not a model directory"):
    hf.save(tmp_path / "mine", config, params)
  assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "m", "mine"]


def test_a_save_that_fails_leaves_the_earlier_model(tmp_path):
  config, params = own(tmp_path / "m")

  class Tokenizer:
    vocab_size, stop_ids, pad_id = 20, (2,), 0

    def save(self, directory):
      raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    hf.save(tmp_path / "m", config, params, Tokenizer())
  same_trees(hf.load(tmp_path / "m")[1], params)
  assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_save_refuses_what_it_cannot_write(tmp_path):
  config, params = own(tmp_path / "m")
  with pytest.raises(ValueError, match="head/kernel"):
    hf.save(tmp_path / "n", config, params | {"head": {"kernel": jnp.ones(3)}})
  mixed = params | {"norm": {"scale": params["norm"]["scale"].astype(
      jnp.bfloat16)}}
  with pytest.raises(ValueError, match="bfloat16.*float32"):
    hf.save(tmp_path / "n", config, mixed)

  class Tokenizer:
    vocab_size = 21

  with pytest.raises(errors.InputError, match="21 ids.*20"):
    hf.save(tmp_path / "n", config, params, Tokenizer())
  assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_is_hf_dir(tmp_path):
  assert not hf.is_hf_dir(tmp_path)
  assert not hf.is_hf_dir(tmp_path / "nothing")
  own(tmp_path / "m")
  assert hf.is_hf_dir(tmp_path / "m")
  assert hf.is_hf_dir(str(tmp_path / "m"))
