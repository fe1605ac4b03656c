"""Real sizes: a step is taken, and takes the memory that was said.

Weights are random, and written on the spot; the shapes are those of Qwen2.5.
"""

import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest

from progrpo_jax.models import config as model_config
from progrpo_jax.models import tensors
from progrpo_jax.text import sentencepiece_tokenizer

SCRIPT = pathlib.Path(__file__).with_name("real_size.py")
SHAPES = {
  "0.5B": dict(
    num_layers=24, embed_dim=896, num_heads=14, head_dim=64, mlp_dim=4864
  ),
  "1.5B": dict(
    num_layers=28, embed_dim=1536, num_heads=12, head_dim=128, mlp_dim=8960
  ),
}
GIB = 2**30


def shapes(model):
  """Name -> shape of each tensor of a Qwen2 checkpoint."""
  d, f = model.embed_dim, model.mlp_dim
  q, kv = (h * model.head_dim for h in (model.num_heads, model.num_kv_heads))
  of_layer = {
    "input_layernorm.weight": (d,),
    "post_attention_layernorm.weight": (d,),
    "self_attn.q_proj.weight": (q, d),
    "self_attn.q_proj.bias": (q,),
    "self_attn.k_proj.weight": (kv, d),
    "self_attn.k_proj.bias": (kv,),
    "self_attn.v_proj.weight": (kv, d),
    "self_attn.v_proj.bias": (kv,),
    "self_attn.o_proj.weight": (d, q),
    "mlp.gate_proj.weight": (f, d),
    "mlp.up_proj.weight": (f, d),
    "mlp.down_proj.weight": (d, f),
  }
  return {
    "model.embed_tokens.weight": (model.vocab_size, d),
    "model.norm.weight": (d,),
  } | {
    f"model.layers.{i}.{name}": shape
    for i in range(model.num_layers)
    for name, shape in of_layer.items()
  }


def write_base(folder, size):
  """A checkpoint in bfloat16 with a small tokenizer; one tensor at a time."""
  model = model_config.ModelConfig(
    vocab_size=151936, num_kv_heads=2, **SHAPES[size]
  )
  base = folder / "base"
  base.mkdir()
  (base / "config.json").write_text(
    json.dumps(model.to_hf() | {"torch_dtype": "bfloat16"})
  )
  sentencepiece_tokenizer.SentencePieceTokenizer.train(
    ["0123456789 +-*/()="]
  ).save(base)
  rng = np.random.default_rng(0)
  known = shapes(model)

  def fetch(name):
    x = 0.02 * rng.standard_normal(known[name], np.float32)
    if len(x.shape) == 1 and name.endswith("norm.weight"):
      x += 1
    return x.astype(ml_dtypes.bfloat16)

  tensors.write(
    base / "model.safetensors",
    {name: (ml_dtypes.bfloat16, shape) for name, shape in known.items()},
    fetch,
  )


def write_task(folder):
  """Problems that no answer solves; the entropy alone has a gradient."""
  lines = (
    json.dumps({"prompt": f"{i} {i + 1}={2 * i + 1}:", "answer": "?"})
    for i in range(20)
  )
  (folder / "sums.jsonl").write_text("\n".join(lines))
  (folder / "verifier.py").write_text(
    "def score(completion, reference):\n  return 0.0, False, 'ok'\n"
  )


@pytest.fixture
def folder(tmp_path):
  """Somewhere for gigabytes, which do not stay."""
  yield tmp_path
  shutil.rmtree(tmp_path)


def _free():
  lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
  return 1024 * int(
    next(x for x in lines if x.startswith("MemAvailable")).split()[1]
  )


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("size", "needed"), [("0.5B", 16), ("1.5B", 16)])
def test_a_step_takes_the_memory_that_was_said(
  size, needed, folder, run_python
):
  if _free() < needed * GIB:
    pytest.skip(f"needs {needed} GiB of free memory")
  write_base(folder, size)
  write_task(folder)
  out = run_python([SCRIPT, size, folder], devices=1, timeout=7000).stdout
  found = json.loads(out.splitlines()[-1])
  said = {k: sum(v.values()) for k, v in found["said"].items()}
  for stage, peak in found["peaks"].items():
    print(
      f"{size} {stage}: {peak / GIB:.2f} GiB measured, "
      f"{said.get(stage, 0) / GIB:.2f} said"
    )
  for stage in ("sample", "update"):
    assert abs(said[stage] / found["peaks"][stage] - 1) < 0.15, stage
  peak = max(found["peaks"].values())
  assert abs(max(said.values()) / peak - 1) < 0.15
  # One update was taken, of what trains and of nothing else. The factor B of
  # an adapter begins at zero, so A has no gradient yet.
  trained = found["changed"]["trained"]
  assert len(trained) == found["arrays"]["trained"] // (
    2 if size == "1.5B" else 1
  )
  assert size == "0.5B" or all("_lora_b" in name for name in trained)
  assert not found["changed"]["frozen"]
