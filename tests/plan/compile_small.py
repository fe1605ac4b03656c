"""Compiles small programs for a v5e and writes their texts to a folder.

  python compile_small.py FOLDER

sample, score and update on four chips that share weights and rows; and sample
on one chip with so many rows that a layer's keys take half of its VMEM.
"""

import dataclasses
import pathlib
import sys

from progrpo_jax.devices import sharding
from progrpo_jax.models import cache
from progrpo_jax.models import config as model_config
from progrpo_jax.plan import ahead, programs
from progrpo_jax.settings import defaults

MODEL = model_config.ModelConfig(
  vocab_size=4096,
  num_layers=2,
  embed_dim=512,
  num_heads=4,
  num_kv_heads=2,
  head_dim=128,
  mlp_dim=1024,
  dtype="bfloat16",
  remat="layer",
)
# As Qwen2.5-0.5B: 256 responses of 1,024 tokens have keys of 67 MB a layer.
MANY = dataclasses.replace(MODEL, num_heads=8, head_dim=64)
CHUNK = 64


def config(prompts, new):
  c = defaults.get_config()
  c.model.init_from = "-"
  c.model.dtype, c.model.remat = "bfloat16", "layer"
  c.data.tasks = {"countdown": {}}
  c.data.max_prompt_length, c.sampling.max_new_tokens = 128, new
  c.sampling.chunk = CHUNK
  c.algo.num_generations = 8
  c.train.prompts_per_step = prompts
  c.eval.batch_prompts = 4
  return c


def keys_of_a_layer():
  """Bytes of the keys of a layer of `many`, without its values."""
  per_token = cache.bytes_per_token(MANY) // (2 * MANY.num_layers)
  return 32 * 8 * 1024 * per_token


def main(folder):
  folder = pathlib.Path(folder)
  chips = ahead.devices("v5e", 4)
  for name, phase, model, devices, c in (
    ("many", "sample", MANY, 1, config(32, 1025)),
    ("sample", "sample", MODEL, 4, config(8, 257)),
    ("score", "score", MODEL, 4, config(8, 256)),
    ("update", "update", MODEL, 4, config(8, 256)),
  ):
    mesh = sharding.make_mesh(1, devices, 1, devices=chips[:devices])
    lowered = programs.lower(c, model, mesh, phase)
    (folder / f"{name}.hlo").write_text(lowered.compile().as_text())


if __name__ == "__main__":
  main(sys.argv[1])
