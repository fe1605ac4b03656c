"""Writes docs/memory.md: which model trains on how many of which chips.

  python tools/make_memory.py

Everything comes from `progrpo_jax.plan.memory`, which compiles nothing;
it takes some ten minutes of one core.
"""

import argparse
import dataclasses
import functools
import pathlib

from progrpo_jax import errors
from progrpo_jax.config import checks, defaults
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as model_config
from progrpo_jax.plan import memory

PAGE = pathlib.Path(__file__).with_name("memory.md")
LARGEST = 256  # chips

# Layers, width, heads, key heads, width of a head, MLP, vocabulary, tied.
_SHAPES = {
    "Qwen2.5-0.5B": (24, 896, 14, 2, 64, 4864, 151936, True),
    "Qwen2.5-1.5B": (28, 1536, 12, 2, 128, 8960, 151936, True),
    "Qwen2.5-7B": (28, 3584, 28, 4, 128, 18944, 152064, False),
    "Llama-3.1-8B": (32, 4096, 32, 8, 128, 14336, 128256, False),
    "Qwen2.5-14B": (48, 5120, 40, 8, 128, 13824, 152064, False),
    "Qwen2.5-32B": (64, 5120, 40, 8, 128, 27648, 152064, False),
    "Qwen2.5-72B": (80, 8192, 64, 8, 128, 29568, 152064, False),
}
RANK = 32

# What is counted: name, what it is, when it is there.
_TERMS = (
    ("weights that train",
     "float32 masters",
     "always"),
    ("weights that do not",
     "in `model.dtype`, with LoRA",
     "always"),
    ("optimiser",
     "two moments, of what trains; `optim.mu_dtype` halves the "
     "first",
     "always"),
    ("reference",
     "of what trains, in `model.dtype`; none where nothing reads "
     "it",
     "always"),
    ("weights as decoding reads them",
     "merged, cast, a tree a layer",
     "sample, evaluate"),
    ("keys of prompts and responses",
     "of `sampling.batch_prompts` prompts and all their samples",
     "sample, evaluate"),
    ("gradient",
     "float32; prompts and responses have one each for a moment, "
     "micro-batches one more",
     "update"),
    ("what the backward pass keeps",
     "what differentiation hands over, traced for one device's "
     "rows; `model.remat`",
     "update"),
    ("activations",
     "the largest arrays of one layer, or of a chunk of logits "
     "(`model.logits_chunk`)",
     "all"),
)

TEXT = """\
# Memory

`progrpo doctor --config FILE` counts what a run takes of each device, phase by
phase, before anything is compiled and without the devices: `--chip v5e
--devices 16` plans for sixteen that are somewhere else. A directory with a
model's `config.json` is enough for `model.init_from`. If the run does not fit
on the mesh of the config, the doctor names one that does, if there is any.

What is counted ([memory.py](../progrpo_jax/plan/memory.py)):

{terms}

How near it comes, measured at commit eb921ad:

- **The process on a CPU** (`pytest tests/slow/test_real_sizes.py -s`): a whole
  step of the 0.5B shape in float32 with AdamW, and of the 1.5B shape in
  bfloat16 with LoRA, random weights, a few tokens. Resident memory above that
  of the imports:

  | GiB | sample | score | update | save |
  |---|---|---|---|---|
  | 0.5B, AdamW: measured | 7.68 | 5.78 | 11.35 | 10.94 |
  | said | 7.37 | 5.56 | 11.19 | 11.04 |
  | 1.5B, LoRA: measured | 13.30 | 8.65 | 10.03 | 3.67 |
  | said | 11.85 | 8.97 | 9.89 | 3.32 |

- **XLA's own count** of compiled programs in float32 on a CPU
  (`tests/test_memory.py`): within a quarter for small models, for which
  what is not counted weighs most.
- **The TPU compiler's count** for a v5e (libtpu 0.0.42, ahead of time, for a
  topology without the TPU;
  `JAX_PLATFORMS=cpu python tools/measure_memory.py v5e:2x2 1 1 1`, then
  `1 4 1`), eight layers of width 512, four rows of eight responses of 1,024
  tokens, remat "layer", in MiB of a chip:

  | MiB | sample | score | update |
  |---|---|---|---|
  | one chip: counted | 1,247 | 858 | 2,636 |
  | said | 1,346 | 874 | 2,799 |
  | fsdp 4: counted | 317 | 154 | 594 |
  | said | 337 | 219 | 735 |

- On GPUs nothing was measured: the estimate takes them to be like TPUs.

So a plan should leave room: `progrpo doctor` calls a run fitting when it
fills at most {usable:.0%} of a chip.

## The smallest mesh that fits

Chips, and the mesh (`mesh.data` x `mesh.fsdp` x `mesh.tensor`) that cuts least
among those of so many, powers of two up to {largest}. bfloat16, remat "layer",
32 prompts a step with 8 samples each, 512 and 2,048 tokens, one prompt and its
samples a device at a time (sampled) and one response (trained), no reference.
Memory of a chip: {chips}.

### All weights, AdamW

{full}

### LoRA, rank {rank}, all projections

{lora}

Longer answers and more samples take more: with `sampling.batch_prompts` fewer
prompts are sampled at a time, and `train.micro_batch_generations` = 1 with
`train.micro_batch_prompts` = the number of batch shards trains on one response
a device.
"""


def config(shards: int, rank: int):
  """The run that the table is about."""
  c = defaults.get_config()
  c.model.init_from = "-"
  c.model.dtype = "bfloat16"
  c.model.remat = "layer"
  c.model.lora.rank = rank
  c.data.tasks = {"countdown": {}}
  c.data.max_prompt_length = 512
  c.sampling.max_new_tokens = 2048
  c.sampling.chunk = 64
  c.algo.num_generations = 8
  c.algo.beta = 0.0
  c.train.prompts_per_step = max(32, shards)
  c.sampling.batch_prompts = shards
  c.train.micro_batch_generations = 1
  c.train.micro_batch_prompts = shards
  c.eval.every, c.eval.at_start = 0, False
  c.eval.batch_prompts = shards
  return c


@functools.cache
def peak(name: str, rank: int, sizes, platform: str) -> float:
  """Bytes that the run takes of each chip; infinite where it cannot run."""
  layers, width, heads, keys, head, mlp, vocab, tied = _SHAPES[name]
  c = config(sizes[0] * sizes[1], rank)
  model = model_config.ModelConfig(
      vocab_size=vocab, num_layers=layers, embed_dim=width, num_heads=heads,
      num_kv_heads=keys, head_dim=head, mlp_dim=mlp, tie_embeddings=tied,
      dtype="bfloat16", remat="layer")
  model = dataclasses.replace(model, lora=checks.lora_config(c))
  mesh = sharding.abstract_mesh(sizes[0] * sizes[1] * sizes[2], *sizes)
  try:
    return memory.peak(memory.estimate(c, model, mesh, platform))
  except errors.InputError:
    return float("inf")


def smallest(name: str, rank: int, chip: memory.Chip) -> str:
  """A cell of the table."""
  count = 1
  while count <= LARGEST:
    for sizes in memory.meshes(count):
      if sizes[0] > 1 and sizes[1] > 1:  # copies and cuts: no smaller than cuts
        continue
      need = peak(name, rank, sizes, chip.platform)
      if need <= memory.USABLE * chip.memory:
        mesh = " x ".join(map(str, sizes))
        return f"**{count}** ({mesh}), {need / 2**30:.1f} GiB"
    count *= 2
  return "–"


def table(rank: int, names) -> str:
  """Models down, chips across."""
  lines = ["| model | " + " | ".join(memory.CHIPS) + " |",
           "|---" * (1 + len(memory.CHIPS)) + "|"]
  for name in names:
    cells = [smallest(name, rank, chip) for chip in memory.CHIPS.values()]
    print(name, rank, cells, flush=True)
    lines.append(f"| {name} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def main() -> None:
  """Writes the page."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output", type=pathlib.Path, default=PAGE)
  parser.add_argument(
      "--models", nargs="+", default=list(_SHAPES), choices=list(_SHAPES))
  args = parser.parse_args()
  args.output.write_text(TEXT.format(
      terms="\n".join(
          ["| | what | when |", "|---|---|---|",
           *(f"| {' | '.join(row)} |" for row in _TERMS)]),
      usable=memory.USABLE, largest=LARGEST, rank=RANK,
      full=table(0, args.models),
      lora=table(RANK, args.models), chips=", ".join(
          f"{name} {chip.memory / 2**30:.1f} GiB"
          for name, chip in memory.CHIPS.items())))
  print(f"wrote {args.output}")


if __name__ == "__main__":
  main()
