"""Import and export, with transformers' Qwen2 as the reference."""

from concurrent import futures
import dataclasses
import json
import logging
import os
import pathlib
import shutil
import socket
import tracemalloc
import types

from etils import epath
from etils.epath import backend
import fsspec.spec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from progrpo_jax import errors
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import (
  hf,
  hf_names,
  hf_read,
  hf_write,
  parameters,
  tensors,
  transformer,
)

SMALL = dict(
  vocab_size=40,
  hidden_size=32,
  intermediate_size=48,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  rope_theta=1e4,
  max_position_embeddings=128,
  tie_word_embeddings=False,
)


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
      input_ids=torch.tensor(tokens),
      attention_mask=mask.long(),
      position_ids=positions,
    )
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
  flat_a, flat_b = hf_names.flatten(a), hf_names.flatten(b)
  assert flat_a.keys() == flat_b.keys()
  for path, x in flat_a.items():
    assert x.dtype == flat_b[path].dtype, path
    np.testing.assert_array_equal(x, flat_b[path], err_msg=path)


@pytest.mark.parametrize(
  "changes",
  [
    dict(num_key_value_heads=4, rope_theta=1e6, rms_norm_eps=1e-5),
    dict(
      num_attention_heads=2,
      num_key_value_heads=1,
      head_dim=8,
      tie_word_embeddings=True,
    ),
    dict(
      num_hidden_layers=1,
      hidden_size=24,
      intermediate_size=16,
      num_attention_heads=6,
      num_key_value_heads=3,
      vocab_size=17,
    ),
  ],
)
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
      tmp_path / name, dtype="auto"
    ).eval()
    for name in ("in", "out")
  )
  assert str(first.dtype) == str(again.dtype) == f"torch.{dtype}"
  tokens, mask = batch(config.vocab_size)
  np.testing.assert_array_equal(
    torch_logits(again, tokens, mask), torch_logits(first, tokens, mask)
  )


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
    np.asarray(params["layers"]["attention"]["v"][2]).reshape(32, 16).T,
  )


def own(path, dtype=jnp.float32, **changes):
  """A random model of ours, saved."""
  config = config_lib.ModelConfig.tiny(vocab_size=20, num_layers=2, **changes)
  leaves, treedef = jax.tree.flatten(parameters.abstract_params(config))
  rng = np.random.default_rng(0)
  params = jax.tree.unflatten(
    treedef, [jnp.asarray(rng.normal(size=x.shape), dtype) for x in leaves]
  )
  hf.save(path, config, params)
  return config, params


def test_params_have_the_structure_of_the_declaration(tmp_path):
  config, params = own(tmp_path / "m", tie_embeddings=False)
  loaded_config, loaded = hf.load(tmp_path / "m")
  assert loaded_config == config
  same_trees(loaded, params)
  assert jax.tree.structure(loaded) == jax.tree.structure(
    parameters.abstract_params(config)
  )


def test_dtype_is_that_of_the_file_unless_asked(tmp_path):
  own(tmp_path / "m", jnp.bfloat16)

  def dtypes(params):
    return {x.dtype.name for x in jax.tree.leaves(params)}

  assert dtypes(hf.load(tmp_path / "m")[1]) == {"bfloat16"}
  assert dtypes(hf.load(tmp_path / "m", dtype="float32")[1]) == {"float32"}
  assert dtypes(hf.load(tmp_path / "m", dtype=jnp.float32)[1]) == {"float32"}


@pytest.mark.parametrize("stored", [np.float16, np.float64])
def test_half_and_double_precision_become_float32(tmp_path, stored):
  own(tmp_path / "m")
  file = tmp_path / "m/model.safetensors"
  held = {
    k: v.astype(stored) for k, v in safetensors.numpy.load_file(file).items()
  }
  safetensors.numpy.save_file(held, file)
  params = hf.load(tmp_path / "m")[1]
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
  np.testing.assert_array_equal(
    params["norm"]["scale"], held["model.norm.weight"].astype(np.float32)
  )
  np.testing.assert_array_equal(
    params["layers"]["mlp"]["up"][1],
    held["model.layers.1.mlp.up_proj.weight"].astype(np.float32).T,
  )


def test_each_tensor_keeps_its_own_type(tmp_path):
  """As with frozen weights in half precision beside trained ones."""
  config, params = own(tmp_path / "m", jnp.bfloat16)
  params["embed"]["tokens"] = params["embed"]["tokens"].astype(jnp.float32)
  params["layers"]["attention"]["k"] *= jnp.float32(1 / 3)
  hf.save(tmp_path / "n", config, params)
  stored = {
    k: v.dtype.name
    for k, v in safetensors.numpy.load_file(
      tmp_path / "n/model.safetensors"
    ).items()
  }
  assert {k for k, v in stored.items() if v == "float32"} == {
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.1.self_attn.k_proj.weight",
  }
  assert set(stored.values()) == {"float32", "bfloat16"}
  described = json.loads((tmp_path / "n/config.json").read_text())
  assert described["torch_dtype"] == "float32"
  same_trees(hf.load(tmp_path / "n")[1], params)
  # Layers of one parameter that are stored in two types take the wider one.
  name = "model.layers.1.mlp.up_proj.weight"
  edit_tensors(
    tmp_path / "n/model.safetensors",
    lambda t: t.update({name: t[name].astype(np.float32)}),
  )
  mixed = hf.load(tmp_path / "n")[1]
  assert mixed["layers"]["mlp"]["up"].dtype == jnp.float32
  params["layers"]["mlp"]["up"] = params["layers"]["mlp"]["up"].astype(
    jnp.float32
  )
  same_trees(mixed, params)


@pytest.mark.parametrize("family", config_lib.FAMILIES)
def test_every_parameter_of_a_family_has_a_name(family):
  """And, once more, no name has two parameters."""
  config = config_lib.ModelConfig.tiny(family=family, tie_embeddings=False)
  flat = hf_names.flatten(parameters.abstract_params(config))
  entries = [entry for _, entry, _ in hf_names.tensors_of(config, flat)]
  assert {e.path for e in entries} == flat.keys()
  names = [name for name, _, _ in hf_names.tensors_of(config, flat)]
  assert len(set(names)) == len(names)
  norms = {n for n in names if "_norm.weight" in n}
  assert norms == (
    {
      f"model.layers.{i}.self_attn.{x}_norm.weight"
      for i in range(3)
      for x in "qk"
    }
    if family == "qwen3"
    else set()
  )


def test_fields_of_runs_are_not_of_the_checkpoint(tmp_path):
  config, params = own(tmp_path / "m")
  edit_json(
    tmp_path / "m/config.json",
    progrpo_partition_head=True,
    progrpo_lora=dict(rank=2, alpha=4.0, targets=["q_proj"]),
  )
  found_config, found = hf.load(tmp_path / "m")
  assert found_config == config
  same_trees(found, params)


def test_each_device_reads_its_own_part(tmp_path, run_python):
  own(tmp_path / "m", tie_embeddings=False, num_kv_heads=4)
  run_python(f"""
import jax, numpy as np
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf, hf_names, hf_read, parameters
path = {str(tmp_path / "m")!r}
_, whole = hf.load(path)
for sizes in ((2, 2, 2), (8, 1, 1), (1, 2, 4)):
  mesh = sharding.make_mesh(*sizes)
  config, params = hf.load(path, mesh=mesh)
  wanted = parameters.shardings(config, mesh)
  for x, y, s in zip(*map(jax.tree.leaves, (whole, params, wanted))):
    assert y.sharding == s, (y.sharding, s)
    np.testing.assert_array_equal(x, y)
  q = params["layers"]["attention"]["q"]
  assert q.addressable_shards[0].data.size * sizes[1] * sizes[2] == q.size
# What a device reads is what it keeps: nothing goes from one to another.
flat = hf_names.flatten(params)
for _, entry, layer in hf_names.tensors_of(config, flat):
  x = flat[entry.path]
  if layer == 0:
    x = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    tensor = jax.ShapeDtypeStruct(
        entry.hf_shape(x.shape), x.dtype,
        sharding=entry.hf_sharding(x.sharding))
    text = hf_read.set_layer(entry.inputs, x).lower(x, tensor, 0).compile()
    for word in ("all-", "collective", "reduce-scatter"):
      assert word not in text.as_text(), (entry, word)
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
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf, tensors
assert jax.device_count() == 4
read, sizes = tensors.read, []
def counted(*args):
  part = read(*args)
  sizes.append(part.size)
  return part
tensors.read = counted
config, params = hf.load(
    {str(tmp_path / "m")!r}, mesh=sharding.make_mesh(1, 4, 1))
assert not params["embed"]["tokens"].is_fully_addressable
# Half of each matrix, all of each bias.
assert 0.5 < sum(sizes) / config.num_params < 0.51, sum(sizes)
hf.save({str(tmp_path / "n")!r}, config, params, max_shard_bytes=200_000)
assert hf.is_hf_dir({str(tmp_path / "n")!r})
"""
  with futures.ThreadPoolExecutor(2) as threads:
    list(
      threads.map(
        lambda rank: run_python(
          code, devices=2, timeout=120, env={"RANK": str(rank)}
        ),
        range(2),
      )
    )
  same_trees(hf.load(tmp_path / "n")[1], hf.load(tmp_path / "m")[1])


def test_files_are_as_readable_as_their_directory(tmp_path):
  own(tmp_path / "m")
  modes = {p.stat().st_mode for p in (tmp_path / "m").iterdir()}
  assert len(modes) == 1


class Devices:
  """A sharding whose devices in this process need the given parts."""

  def __init__(self, *parts):
    self.parts = parts

  def addressable_devices_indices_map(self, shape):
    return dict(enumerate(self.parts))


@pytest.mark.parametrize(
  ("parts", "count"),
  [
    # Columns side by side are read once, and so is what all devices need.
    ([np.s_[0:20, 8:16], np.s_[0:20, 16:32]], 1),
    ([np.s_[0:20, 0:64]] * 4, 1),
    ([np.s_[5:9, 0:64]], 1),
    (
      [
        np.s_[0:10, 0:32],
        np.s_[10:20, 0:32],
        np.s_[0:10, 32:64],
        np.s_[10:20, 32:64],
      ],
      1,
    ),
    # What lies between two distant parts is nobody's.
    ([np.s_[0:20, 0:8], np.s_[0:20, 24:32]], 2),
  ],
)
def test_a_process_reads_the_parts_of_its_devices(
  tmp_path, monkeypatch, parts, count
):
  own(tmp_path / "m")
  tensor = hf_read.stored_tensors(epath.Path(tmp_path / "m"))[
    "model.embed_tokens.weight"
  ]
  whole = tensors.read(tensor)
  assert whole.shape == (20, 64)
  found = []
  read = tensors.read
  monkeypatch.setattr(
    tensors, "read", lambda *args: found.append(read(*args)) or found[-1]
  )
  held = hf_read.read_parts(tensor, Devices(*parts))
  assert len(found) == count
  assert held.keys() == {hf_read.spans_of(part, whole.shape) for part in parts}
  assert sum(x.size for x in found) == sum(x.size for x in held.values())
  for part in parts:
    np.testing.assert_array_equal(
      held[hf_read.spans_of(part, whole.shape)], whole[part]
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_layer_is_written_in_place_by_one_program(tmp_path, dtype):
  own(tmp_path / "m", jnp.bfloat16)
  hf_read.set_layer.cache_clear()
  hf.load(tmp_path / "m", dtype=dtype)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  target = jax.ShapeDtypeStruct((2, 64, 192), dtype, sharding=device)
  misses = hf_read.set_layer.cache_info().misses
  put = hf_read.set_layer(1, target)
  # `gate` and `up` share it with both layers.
  assert hf_read.set_layer.cache_info().misses == misses
  assert put._cache_size() == 1
  x = jax.ShapeDtypeStruct((192, 64), jnp.bfloat16)
  compiled = put.lower(target, x, 0).compile()
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes == 2 * 64 * 192 * target.dtype.itemsize
  assert memory.temp_size_in_bytes < 192 * 64
  # Else each layer would cost the time of all of them.
  if dtype == jnp.bfloat16:
    assert "f32[2,64,192]" not in compiled.as_text()


def held(call):
  """Bytes that numpy and Python held at once, beyond those at the start."""
  tracemalloc.start()
  try:
    call()
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


def test_the_host_holds_a_few_tensors_of_a_layer(tmp_path):
  """Far less than a parameter of all layers, in either direction."""
  config = config_lib.ModelConfig.tiny(
    vocab_size=20, num_layers=32, embed_dim=128, mlp_dim=512
  )
  params = jax.tree.map(
    lambda x: jnp.ones(x.shape, x.dtype), parameters.abstract_params(config)
  )
  stacked = params["layers"]["mlp"]["up"].nbytes
  largest = stacked // 32
  # Once before, so that what is held is not the programs.
  hf.save(tmp_path / "m", config, params)
  hf.load(tmp_path / "m")
  save = held(lambda: hf.save(tmp_path / "m", config, params))
  load = held(lambda: hf.load(tmp_path / "m"))
  assert save < 2 * largest + (200 << 10)
  # Those read ahead, and of each a copy on its way out of the file.
  assert load < (2 * hf_read.AHEAD + 4) * largest + (500 << 10) < stacked / 2


def test_what_is_fetched_is_no_view_of_a_parameter(tmp_path):
  """JAX keeps numpy's copy of an array on the host as long as the array."""
  config, params = own(tmp_path / "m", tie_embeddings=False)
  flat = hf_names.flatten(params)
  for name, entry, layer in hf_names.tensors_of(config, flat):
    leaf = flat[entry.path]
    x = hf_write.fetch(leaf, entry, layer, True)
    assert not np.shares_memory(x, np.asarray(leaf)), name
    assert x.shape == entry.hf_shape(leaf.shape)


def edit_json(path, **changes):
  content = json.loads(path.read_text())
  for key, value in changes.items():
    if value is None:
      del content[key]
    else:
      content[key] = value
  path.write_text(json.dumps(content))


def edit_tensors(path, change):
  arrays = safetensors.numpy.load_file(path)
  change(arrays)
  safetensors.numpy.save_file(arrays, path)


def wrong_shape(arrays):
  name = "model.layers.1.mlp.up_proj.weight"
  arrays[name] = np.ascontiguousarray(arrays[name].T)


@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (shutil.rmtree, ["no such directory"]),
    (lambda p: (p / "config.json").unlink(), ["no config.json"]),
    (lambda p: (p / "config.json").write_text("{"), ["not JSON"]),
    (lambda p: (p / "config.json").write_text("[" * 100_000), ["not JSON"]),
    (lambda p: (p / "config.json").write_text("[]"), ["not a JSON object"]),
    (
      lambda p: edit_json(p / "config.json", model_type="mamba"),
      ["config.json", "'mamba'", "supported"],
    ),
    (
      lambda p: edit_json(p / "config.json", hidden_size=None),
      ["config.json", "hidden_size"],
    ),
    (
      lambda p: edit_json(p / "config.json", num_attention_heads=3),
      ["config.json", "num_heads 3"],
    ),
    (
      lambda p: (p / "model.safetensors").unlink(),
      ["no model.safetensors", "converted"],
    ),
    (
      lambda p: edit_tensors(
        p / "model.safetensors", lambda t: t.pop("model.norm.weight")
      ),
      ["1 tensor(s) missing", "model.norm.weight"],
    ),
    (
      lambda p: edit_tensors(
        p / "model.safetensors", lambda t: t.update(odd=np.ones(2))
      ),
      ["1 tensor(s) that a qwen2 model does not have", "odd"],
    ),
    (
      lambda p: edit_json(
        p / "config.json", model_type="llama", attention_bias=False
      ),
      ["6 tensor(s) that a llama model does not have", "k_proj.bias"],
    ),
    (
      lambda p: edit_json(p / "config.json", model_type="qwen3"),
      ["4 tensor(s) missing", "model.layers.0.self_attn.k_norm.weight"],
    ),
    (
      lambda p: edit_tensors(p / "model.safetensors", wrong_shape),
      ["model.layers.1.mlp.up_proj.weight", "(64, 192)", "(192, 64)"],
    ),
    (
      lambda p: edit_tensors(
        p / "model.safetensors",
        lambda t: t.update({"model.norm.weight": np.ones(64, np.int8)}),
      ),
      ["model.norm.weight", "I8"],
    ),
    (
      lambda p: (p / "model.safetensors").write_bytes(
        (p / "model.safetensors").read_bytes()[:-100]
      ),
      ["model.safetensors", "cut short"],
    ),
    (
      lambda p: (p / "model.safetensors").write_bytes(b""),
      ["model.safetensors", "cut short"],
    ),
    (
      lambda p: edit_tensors(
        p / "model.safetensors",
        lambda t: t.update({"lm_head.weight": np.zeros((20, 64), np.float32)}),
      ),
      ["lm_head.weight", "differs"],
    ),
    (
      lambda p: edit_tensors(
        p / "model.safetensors",
        lambda t: t.update(
          {"lm_head.weight": t["model.embed_tokens.weight"][:, :3].copy()}
        ),
      ),
      ["lm_head.weight", "differs"],
    ),
  ],
)
def test_damage_is_named(tmp_path, damage, words):
  path = tmp_path / "m"
  own(path)
  damage(path)
  with pytest.raises(errors.InputError) as e:
    hf.load(path)
  for word in [str(path), *words]:
    assert word in str(e.value)
  assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (
      lambda p: sorted(p.glob("*.safetensors"))[1].unlink(),
      ["model-00002-of-", "no such file", "index"],
    ),
    (
      lambda p: edit_tensors(
        sorted(p.glob("*.safetensors"))[0],
        lambda t: t.pop("model.embed_tokens.weight"),
      ),
      ["model-00001-of-", "model.embed_tokens.weight", "missing"],
    ),
    (
      lambda p: edit_tensors(
        sorted(p.glob("*.safetensors"))[0], lambda t: t.update(odd=np.ones(2))
      ),
      ["model-00001-of-", "odd", "not listed"],
    ),
    (
      lambda p: os.truncate(sorted(p.glob("*.safetensors"))[2], 5000),
      ["model-00003-of-", "cut short", "copy it again"],
    ),
    (
      lambda p: os.truncate(sorted(p.glob("*.safetensors"))[2], 50),
      ["model-00003-of-", "cut short", "copy it again"],
    ),
    (
      lambda p: (p / "model.safetensors.index.json").write_text("{}"),
      ["model.safetensors.index.json", "weight_map"],
    ),
    (
      lambda p: edit_json(p / "model.safetensors.index.json", weight_map={}),
      ["model.safetensors.index.json", "weight_map"],
    ),
    (
      lambda p: edit_json(p / "model.safetensors.index.json", weight_map=[]),
      ["model.safetensors.index.json", "weight_map"],
    ),
    (
      lambda p: (p / "model.safetensors.index.json").unlink(),
      ["no model.safetensors and no model.safetensors.index.json"],
    ),
  ],
)
def test_damage_of_a_sharded_model_is_named(tmp_path, damage, words):
  config, params = own(tmp_path / "own")
  path = tmp_path / "m"
  hf.save(path, config, params, max_shard_bytes=100_000)
  damage(path)
  with pytest.raises(errors.InputError) as e:
    hf.load(path)
  for word in words:
    assert word in str(e.value)
  assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
  "name",
  [
    "../model-00001-of-00002.safetensors",
    "/etc/passwd",
    "",
    "..",
    "sub/model.safetensors",
    "..\\model.safetensors",
  ],
)
def test_an_index_does_not_lead_out_of_its_folder(tmp_path, name):
  place = tmp_path / "model"
  config, params = own(tmp_path / "own")
  hf.save(place, config, params, max_shard_bytes=100_000)
  index = place / "model.safetensors.index.json"
  names = json.loads(index.read_text())["weight_map"]
  # There would be a whole file.
  shutil.copytree(place, tmp_path, dirs_exist_ok=True)
  first = min(names.values())
  edit_json(
    index, weight_map={k: name if f == first else f for k, f in names.items()}
  )
  with pytest.raises(errors.InputError, match="weight_map names the file"):
    hf.load(place)


@pytest.mark.parametrize(
  "changes",
  [
    dict(num_attention_heads=0),
    dict(rms_norm_eps=[1]),
    dict(rope_theta={"a": 1}),
    dict(num_hidden_layers=1e400),
  ],
)
def test_nonsense_in_the_config_is_refused_before_weights_are_read(
  tmp_path, changes, monkeypatch
):
  own(tmp_path / "own")
  edit_json(tmp_path / "own/config.json", **changes)
  monkeypatch.setattr(hf_read, "stored_tensors", None)
  with pytest.raises(errors.InputError, match=next(iter(changes))):
    hf.load(tmp_path / "own")


def test_a_tied_head_written_twice_is_accepted(tmp_path, monkeypatch):
  _, params = own(tmp_path / "m")
  # Three of the twenty rows at a time.
  monkeypatch.setattr(hf_read, "_COMPARED", 3 * 64 * 4)
  file = tmp_path / "m/model.safetensors"
  edit_tensors(
    file, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]})
  )
  same_trees(hf.load(tmp_path / "m")[1], params)
  sizes, read = [], tensors.read
  monkeypatch.setattr(
    tensors,
    "read",
    lambda *args: sizes.append(read(*args).shape) or read(*args),
  )
  stored = hf_read.stored_tensors(epath.Path(tmp_path / "m"))
  pair = stored["lm_head.weight"], stored["model.embed_tokens.weight"]
  assert hf_read.equal_tensors(*pair)
  assert sizes == [(3, 64)] * 12 + [(2, 64)] * 2

  def last(t):
    t["lm_head.weight"][19, 63] += 1

  edit_tensors(file, last)
  with pytest.raises(errors.InputError, match="differs"):
    hf.load(tmp_path / "m")


def test_save_replaces_a_model_but_nothing_else(tmp_path):
  config, params = own(tmp_path / "m")
  doubled = jax.tree.map(lambda x: 2 * x, params)
  hf.save(tmp_path / "m", config, doubled)
  same_trees(hf.load(tmp_path / "m")[1], doubled)
  (tmp_path / "empty").mkdir()
  hf.save(tmp_path / "empty", config, params)
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine/thesis.txt").write_text("x")
  (tmp_path / "also mine").mkdir()
  (tmp_path / "also mine/thesis.txt~").write_text("x")
  for name, file in (
    ("mine", "thesis.txt"),
    ("also mine", "thesis.txt~"),
    ("mine/thesis.txt", None),
  ):
    with pytest.raises(errors.InputError, match="not a model directory"):
      hf.save(tmp_path / name, config, params)
    assert file is None or os.listdir(tmp_path / name) == [file]
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "also mine",
    "empty",
    "m",
    "mine",
  ]


def test_a_save_that_fails_leaves_the_earlier_model(tmp_path):
  config, params = own(tmp_path / "m")

  class Tokenizer:
    vocab_size, stop_ids, pad_id, bos_id = 20, (2,), 0, None

    def save(self, directory):
      raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    hf.save(tmp_path / "m", config, params, Tokenizer())
  same_trees(hf.load(tmp_path / "m")[1], params)
  assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_earlier_model_is_put_back_if_the_new_one_cannot_be(
  tmp_path, monkeypatch, error
):
  config, params = own(tmp_path / "m")
  rename = os.rename

  def fail(old, new):
    if str(old).endswith(".part"):
      raise error
    rename(old, new)

  monkeypatch.setattr(os, "rename", fail)
  with pytest.raises(type(error)):
    hf.save(tmp_path / "m", config, params)
  same_trees(hf.load(tmp_path / "m")[1], params)
  assert os.listdir(tmp_path) == ["m"]


def test_save_refuses_what_it_cannot_write(tmp_path):
  config, params = own(tmp_path / "m")
  with pytest.raises(ValueError, match="head/kernel"):
    hf.save(tmp_path / "n", config, params | {"head": {"kernel": jnp.ones(3)}})
  half = params | {
    "norm": {"scale": params["norm"]["scale"].astype(jnp.float16)}
  }
  with pytest.raises(ValueError, match="norm/scale is float16"):
    hf.save(tmp_path / "n", config, half)
  # Without the adapters it would be another model.
  adapted = dataclasses.replace(config, lora=config_lib.LoRA(2, 4.0))
  with_adapters = jax.tree.map(
    lambda x: jnp.zeros(x.shape), parameters.abstract_params(adapted)
  )
  with pytest.raises(ValueError, match="lora_a has no place.*merge"):
    hf.save(tmp_path / "n", adapted, with_adapters)

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


class BucketFile(fsspec.spec.AbstractBufferedFile):
  """An object: there is nothing of it until it is closed."""

  def _initiate_upload(self):
    self.parts = []

  def _upload_chunk(self, final=False):
    self.parts.append(self.buffer.getvalue())
    if final:
      self.fs.objects[self.path] = b"".join(self.parts)
      self.fs.written.append(self.path.rpartition("/")[2])
    return True

  def _fetch_range(self, start, end):
    return self.fs.objects[self.path][start:end]


class Bucket(fsspec.AbstractFileSystem):
  """A bucket as gcsfs shows it: named objects, no directories, no renaming.

  Attributes:
    objects: {path: content}.
    written: names of objects in the order in which they appeared.
    loses: whether the connection is lost after the next removal.
  """

  protocol = ("gcs", "gs")
  cachable = False

  def __init__(self, **options):
    super().__init__(**options)
    self.objects, self.written = {}, []
    self.loses = self.lost = False

  def _open(self, path, mode="rb", **options):
    if mode == "rb":
      self.info(path)
    return BucketFile(self, path, mode, block_size=1 << 16)

  def info(self, path, **options):
    path = self._strip_protocol(path)
    if path == "bucket":
      return dict(name=path, size=0, type="directory")
    if path in self.objects:
      return dict(name=path, size=len(self.objects[path]), type="file")
    if not any(p.startswith(path + "/") for p in self.objects):
      raise FileNotFoundError(path)
    return dict(name=path, size=0, type="directory")

  def ls(self, path, detail=True, **options):
    path = self._strip_protocol(path)
    found = {
      path + "/" + p[len(path) + 1 :].split("/")[0]
      for p in self.objects
      if p.startswith(path + "/")
    }
    # In an order that helps nobody.
    rows = [self.info(p) for p in sorted(found)[::-1]] or [self.info(path)]
    return rows if detail else [row["name"] for row in rows]

  def rm(self, path, recursive=False, maxdepth=None):
    paths = self.expand_path(path, recursive=recursive)
    if not any(p in self.objects for p in paths):
      raise FileNotFoundError(path)
    for p in paths:
      if self.lost:
        raise OSError("connection lost")
      self.lost = self.loses and p in self.objects
      self.objects.pop(p, None)

  def makedirs(self, path, exist_ok=False):
    pass


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  """What is at gs://; the test fails if it is taken for a local path."""
  (tmp_path / "cwd").mkdir()
  monkeypatch.chdir(tmp_path / "cwd")
  made = Bucket()
  monkeypatch.setattr(
    backend.fsspec_backend, "_get_filesystem", lambda name: made
  )
  yield made
  assert os.listdir(tmp_path / "cwd") == []


class FileTokenizer:
  """Writes files as transformers does: with its own local paths."""

  vocab_size, stop_ids, pad_id, bos_id = 20, (2,), 0, None
  generation = types.MappingProxyType({})

  def __init__(self, failing=False):
    self.failing = failing

  def save(self, directory):
    directory = pathlib.Path(directory)
    assert directory.is_dir()
    (directory / "tokenizer.json").write_text("{}")
    (directory / "templates").mkdir()
    (directory / "templates/chat.jinja").write_bytes(b"\xe2\x96\x81")
    if self.failing:
      raise OSError("connection lost")


@pytest.mark.parametrize(("shard", "count"), [(1 << 30, 1), (60_000, 4)])
def test_a_bucket_gets_the_files_that_a_disk_gets(
  tmp_path, bucket, shard, count
):
  config, params = own(tmp_path / "own", jnp.bfloat16, tie_embeddings=False)
  for path in ("gs://bucket/models/m", str(tmp_path / "m")):
    hf.save(path, config, params, FileTokenizer(), max_shard_bytes=shard)
    assert hf.is_hf_dir(path)
    found_config, found = hf.load(path)
    assert found_config == config
    same_trees(found, params)
  local = {
    str(p.relative_to(tmp_path / "m")): p.read_bytes()
    for p in (tmp_path / "m").rglob("*")
    if p.is_file()
  }
  assert sum(name.endswith(".safetensors") for name in local) == count
  assert len(local) == 4 + count + (count > 1)
  assert bucket.objects == {
    f"bucket/models/m/{name}": data for name, data in local.items()
  }
  assert bucket.written[0] == "progrpo-unfinished"
  assert bucket.written[-1] == "config.json"
  assert epath.Path("gs://bucket/models/m").exists()
  same_trees(
    hf.load(epath.Path("gs://bucket/models/m"), dtype="float32")[1],
    hf.load(tmp_path / "m", dtype="float32")[1],
  )


def test_what_a_failure_leaves_in_a_bucket_is_no_model(tmp_path, bucket):
  path = "gs://bucket/m"
  config, params = own(tmp_path / "own")
  hf.save(path, config, params, max_shard_bytes=100_000)
  assert hf.is_hf_dir(path)
  for _ in range(2):
    with pytest.raises(OSError, match="connection lost"):
      hf.save(path, config, params, FileTokenizer(failing=True))
    # Neither the old model, half replaced, nor the new one without its end.
    assert not hf.is_hf_dir(path)
    with pytest.raises(errors.InputError, match="gs://bucket/m: no config"):
      hf.load(path)
    assert set(bucket.objects) == {
      "bucket/m/model.safetensors",
      "bucket/m/progrpo-unfinished",
    }
  hf.save(path, config, params)
  assert sorted(bucket.objects) == [
    f"bucket/m/{name}"
    for name in ("config.json", "generation_config.json", "model.safetensors")
  ]
  same_trees(hf.load(path)[1], params)


def test_a_model_half_removed_from_a_bucket_is_no_model(tmp_path, bucket):
  config, params = own(tmp_path / "own")
  hf.save("gs://bucket/m", config, params, FileTokenizer())
  bucket.loses = True
  with pytest.raises(OSError, match="connection lost"):
    hf.save("gs://bucket/m", config, params)
  assert not hf.is_hf_dir("gs://bucket/m")
  bucket.loses = bucket.lost = False
  hf.save("gs://bucket/m", config, params)
  same_trees(hf.load("gs://bucket/m")[1], params)


def test_what_else_is_in_a_bucket_stays_there(tmp_path, bucket):
  config, params = own(tmp_path / "own")
  epath.Path("gs://bucket/mine/thesis.txt").write_text("x")
  epath.Path("gs://bucket/m-other/thesis.txt").write_text("x")
  for path in ("gs://bucket/mine", "gs://bucket/mine/thesis.txt"):
    assert not hf.is_hf_dir(path)
    with pytest.raises(errors.InputError, match="not a model directory"):
      hf.save(path, config, params)
  for _ in range(2):
    hf.save("gs://bucket/m", config, params)
  mine = {p for p in bucket.objects if p.endswith("thesis.txt")}
  assert mine == {"bucket/mine/thesis.txt", "bucket/m-other/thesis.txt"}
  with pytest.raises(errors.InputError, match="gs://bucket/x: no such direc"):
    hf.load("gs://bucket/x")


def test_damage_in_a_bucket_is_named(tmp_path, bucket):
  config, params = own(tmp_path / "own")
  hf.save("gs://bucket/m", config, params, max_shard_bytes=100_000)
  whole = dict(bucket.objects)
  name = min(n for n in whole if n.endswith(".safetensors"))
  bucket.objects[name] = whole[name][:-9]
  with pytest.raises(errors.InputError, match=f"gs://{name}: .*cut short"):
    hf.load("gs://bucket/m")
  del bucket.objects[name]
  with pytest.raises(errors.InputError, match=f"gs://{name}: no such file"):
    hf.load("gs://bucket/m")
