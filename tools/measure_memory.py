"""Compares XLA's count of memory with the estimate of `plan.memory`.

  .venv/bin/pip install -e '.[aot]'
  JAX_PLATFORMS=cpu .venv/bin/python tools/measure_memory.py v5e 1 1 1
  JAX_PLATFORMS=cpu .venv/bin/python tools/measure_memory.py cpu 1 1 1

Arguments: a kind of TPU, for which libtpu compiles without one, or "cpu"; then
the sizes of the mesh. Prints MiB per device for each phase, counted and
estimated, for a model of eight layers of width 512 and responses of 1,024
tokens to prompts of 256.
"""

import argparse
import math

import jax

from progrpo_jax.devices import sharding
from progrpo_jax.models import config as model_config
from progrpo_jax.plan import ahead, memory, programs
from progrpo_jax.settings import defaults


def main() -> None:
  """Prints a line for each phase."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("place", help='a kind of TPU, such as v5e, or "cpu"')
  parser.add_argument("sizes", type=int, nargs=3, help="data, fsdp, tensor")
  parser.add_argument("--layers", type=int, default=8)
  parser.add_argument("--vocabulary", type=int, default=16384, help="tokens")
  args = parser.parse_args()
  place, sizes = args.place, tuple(args.sizes)
  count = math.prod(sizes)
  devices = (
    jax.devices("cpu")[:count]
    if place == "cpu"
    else ahead.devices(place, count)
  )
  mesh = sharding.make_mesh(*sizes, devices=devices)
  c = defaults.get_config()
  c.model.init_from = "-"
  c.model.dtype = "float32" if place == "cpu" else "bfloat16"
  c.model.remat = "layer"
  c.data.tasks = {"countdown": {}}
  c.data.max_prompt_length, c.sampling.max_new_tokens = 256, 1024
  c.train.prompts_per_step = 16
  c.eval.batch_prompts = 16
  model = model_config.ModelConfig(
    vocab_size=args.vocabulary,
    num_layers=args.layers,
    embed_dim=512,
    num_heads=8,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=2048,
    dtype=c.model.dtype,
    remat="layer",
  )
  platform = "cpu" if place == "cpu" else "tpu"
  said = memory.estimate(c, model, mesh, platform)
  for phase in ("sample", "score", "update"):
    counted = compiled(c, model, mesh, phase)
    print(
      f"{phase}: {counted / 2**20:,.0f} MiB counted, "
      f"{memory.total(said[phase]) / 2**20:,.0f} said",
      flush=True,
    )


def compiled(c, model: model_config.ModelConfig, mesh, phase: str) -> int:
  """Returns the bytes of a device while a phase runs, as XLA counts them.

  These are the program's arguments and temporaries, and what stays in memory
  beside them.
  """
  analysis = programs.lower(c, model, mesh, phase).compile().memory_analysis()
  return (
    analysis.argument_size_in_bytes
    + analysis.temp_size_in_bytes
    + programs.resident(c, model, mesh, phase)
  )


if __name__ == "__main__":
  main()
