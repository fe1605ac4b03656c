"""Writes docs/memory.md: how many chips of which kind a model needs.

  python tools/make_memory.py

The tables come from `progrpo_jax.plan.memory`, which compiles nothing. It takes
about ten minutes of one core.
"""

import argparse
import dataclasses
import functools
import pathlib

from progrpo_jax import errors
from progrpo_jax.devices import sharding
from progrpo_jax.models import config as model_config
from progrpo_jax.plan import memory
from progrpo_jax.settings import defaults, derived

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "memory.md"
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
  ("trained weights", "float32", "always"),
  ("frozen weights", "with LoRA, in `model.dtype`", "always"),
  (
    "optimiser",
    "two moments of the trained weights; `optim.mu_dtype` halves the first",
    "always",
  ),
  (
    "reference",
    "a copy of the trained weights in `model.dtype`; none where nothing "
    "reads it",
    "always",
  ),
  (
    "teacher",
    "of on-policy distillation: all its weights, in `model.dtype`; its pass "
    "over the batch is a phase of its own",
    "always",
  ),
  (
    "weights for decoding",
    "LoRA merged, cast to `model.dtype`, one tree per layer; split over "
    "`tensor` and whole over `fsdp`",
    "sample, evaluate",
  ),
  (
    "weights for prompts",
    "with `sampling.tensor`, a copy in `model.dtype`, split as training would "
    "split it on that mesh",
    "sample, evaluate",
  ),
  (
    "keys and values",
    "of `sampling.batch_prompts` prompts and all their samples; one layer "
    "twice, while the cache grows",
    "sample, evaluate",
  ),
  (
    "gradient",
    "float32; the passes over prompts and responses each have one for a "
    "moment, micro-batches add one more",
    "update",
  ),
  (
    "residuals of the backward pass",
    "what the forward pass keeps for it, traced for one device's rows; see "
    "`model.remat`",
    "update",
  ),
  (
    "activations",
    "the largest arrays of one layer, or of a chunk of logits "
    "(`model.logits_chunk`)",
    "all",
  ),
)

TEXT = """\
# Memory

`progrpo doctor --config FILE` estimates the memory that a run takes of each
device in each phase, before anything is compiled. The devices need not be here:
`--chip v5e --devices 16` plans for sixteen v5e chips. For `model.init_from` a
directory with the model's `config.json` is enough: of a model of the hub, `hf
download OWNER/NAME config.json --local-dir models/NAME` fetches this file
alone. If the run does not fit on
the mesh of the config, the doctor names a mesh on which it does, if there is
one. For TPUs, `--compile` has the compiler count it too
([tpu.md](tpu.md#before-you-rent)).

What is counted ([memory.py](../progrpo_jax/plan/memory.py)):

{terms}

The doctor also counts the disk: a checkpoint has the trained weights and both
moments, 12 bytes a parameter (7B: 91 GB), 10 with `optim.mu_dtype` "bfloat16",
and with LoRA those of the adapters alone. There are `checkpoint.keep` of them,
that of the reference, one that is being written, and those of
`checkpoint.keep_every`. `--workdir DIR` compares the sum with what is free on
the disk of that directory.

The estimate beside measurements:

- **The process on a CPU** (`pytest tests/slow/test_real_sizes.py -s`, commit
  eb921ad): a whole step of the 0.5B shape in float32 with AdamW, and of the
  1.5B shape in bfloat16 with LoRA, with random weights and few tokens. Resident
  memory, less that of the imports:

  | GiB | sample | score | update | save |
  |---|---|---|---|---|
  | 0.5B, AdamW: measured | 7.68 | 5.78 | 11.35 | 10.94 |
  | estimated | 7.37 | 5.56 | 11.19 | 11.04 |
  | 1.5B, LoRA: measured | 13.30 | 8.65 | 10.03 | 3.67 |
  | estimated | 11.85 | 8.97 | 9.89 | 3.32 |

- **XLA's own count** of the programs of commit ee12772, in MiB of a device:
  eight layers of width 512, 16 prompts of 256 tokens with eight responses of
  1,024, remat "layer". For a CPU in float32
  (`JAX_PLATFORMS=cpu python tools/measure_memory.py cpu 1 1 1`, and `1 4 1`
  with `XLA_FLAGS=--xla_force_host_platform_device_count=4`):

  | MiB | sample | score | update |
  |---|---|---|---|
  | one device: compiler | 1,682 | 695 | 1,239 |
  | estimated | 1,913 | 620 | 1,401 |
  | fsdp 4: compiler | 532 | 392 | 737 |
  | estimated | 589 | 319 | 788 |

  For a v5e in bfloat16 (libtpu 0.0.42.1, compiled ahead of time without the
  TPU: `JAX_PLATFORMS=cpu python tools/measure_memory.py v5e 1 1 1`, then
  `1 4 1`, then `1 4 1 --vocabulary 151936`):

  | MiB | sample | score | update |
  |---|---|---|---|
  | one chip: compiler | 1,084 | 531 | 1,044 |
  | estimated | 1,162 | 582 | 1,028 |
  | fsdp 4: compiler | 339 | 137 | 357 |
  | estimated | 346 | 210 | 466 |
  | fsdp 4, vocabulary of 151,936: compiler | 669 | 1,113 | 1,417 |
  | estimated | 685 | 1,103 | 1,660 |

  On four chips the small vocabulary's chunk of logits, 64 MiB, stays in the
  memory beside the core, which the compiler does not count; one of a large
  vocabulary does not fit there.
  [test_memory.py](../tests/plan/test_memory.py) holds the estimate within a
  quarter of XLA's count for small models on a CPU.
- On GPUs nothing was measured; the estimate treats them like TPUs.

A plan should therefore leave room: for `progrpo doctor` a run fits if it fills
at most {usable:.0%} of a chip.

## The smallest mesh that fits

By the estimate of commit a858c07; `python tools/make_memory.py` makes this
page. Each cell has the number of chips, the mesh
(`mesh.data` x `mesh.fsdp` x `mesh.tensor`) and the peak memory of a chip.
Numbers of chips are powers of two up to {largest}; of the meshes of one size
that fit, the least divided one is shown. The run: bfloat16, remat "layer", 32
prompts a step with 8 samples each, prompts of 512 and responses of 2,048
tokens, no reference; each device samples one prompt at a time with all its
samples and trains on one response at a time. There is no evaluation: one with
the default `eval.num_samples`, 32, often takes more than sampling and the
update do ([an example](#one-model)). Memory of a chip: {chips}.

### All weights, AdamW

{full}

### LoRA, rank {rank}, all projections

{lora}

Longer responses and more samples take more memory. A smaller
`sampling.batch_prompts` samples fewer prompts at a time;
`train.micro_batch_generations` = 1 and `train.micro_batch_rows` = 1 train on
one row per device at a time, as long as the longest prompt and response. A
smaller `eval.batch_prompts` or `eval.num_samples` makes an evaluation smaller:
the first costs time, the second the pass@k for large k.

The doctor knows only the chips of the table, and refuses others, such as
`--chip A100`. For another GPU take `--chip H100` and compare the largest sum
with 85% of the memory of yours.

## One model

Qwen3-8B with ProGRPO, prompts of 512 and responses of 2,048 tokens. `qwen3.py`:

```python
from progrpo_jax.settings import defaults, methods


def get_config():
  c = methods.progrpo(defaults.get_config())
  c.model.init_from = "models/Qwen3-8B"
  c.model.dtype = "bfloat16"
  c.model.remat = "layer"
  c.mesh.data, c.mesh.fsdp = 1, -1
  c.data.tasks = {{"countdown": {{}}}}
  c.data.max_prompt_length = 512
  c.sampling.max_new_tokens = 2048
  c.train.micro_batch_generations = 1
  c.train.micro_batch_rows = 1
  c.eval.every = 50
  return c
```

```
hf download Qwen/Qwen3-8B config.json --local-dir models/Qwen3-8B
progrpo doctor --config qwen3.py --chip H100 --devices 8
progrpo doctor --config qwen3.py --chip v5e --devices 16
progrpo doctor --config qwen3.py --chip v5e --devices 16 \\
  --config.mesh.fsdp=4 --config.mesh.tensor=4 \\
  --config.sampling.batch_prompts=8 --config.eval.batch_prompts=4 \\
  --config.eval.num_samples=8
```

What the commands print as the sums, in GiB on each device, at commit 6fb5a4b:

| | sample | score | update | evaluate | a plan stays below |
|---|---|---|---|---|---|
| 8 H100 | 36.44 | 15.09 | 26.75 | 45.55 | 64.28 |
| 16 v5e | 25.85 | 8.42 | 15.95 | 30.41 | 13.39 |
| 16 v5e, last command | 10.77 | 7.11 | 12.67 | 10.16 | 13.39 |

It fits the H100s as it is. On the v5e chips no mesh is enough with all 32
prompts sampled at once. It fits with four chips sharing each weight, fewer
prompts at a time, and smaller evaluations.
"""


def config(shards: int, rank: int):
  """Returns the config of the run in the tables."""
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
  c.train.micro_batch_rows = 1
  c.eval.every, c.eval.at_start = 0, False
  c.eval.batch_prompts = shards
  return c


@functools.cache
def peak(name: str, rank: int, sizes, platform: str) -> float:
  """Returns the peak bytes of each chip; infinite where the run cannot be."""
  layers, width, heads, keys, head, mlp, vocab, tied = _SHAPES[name]
  c = config(sizes[0] * sizes[1], rank)
  model = model_config.ModelConfig(
    vocab_size=vocab,
    num_layers=layers,
    embed_dim=width,
    num_heads=heads,
    num_kv_heads=keys,
    head_dim=head,
    mlp_dim=mlp,
    tie_embeddings=tied,
    dtype="bfloat16",
    remat="layer",
  )
  model = dataclasses.replace(model, lora=derived.lora_config(c))
  mesh = sharding.abstract_mesh(sizes[0] * sizes[1] * sizes[2], *sizes)
  try:
    return memory.peak(memory.estimate(c, model, mesh, platform))
  except errors.InputError:
    return float("inf")


def smallest(name: str, rank: int, chip: memory.Chip) -> str:
  """Returns a cell of the table: the fewest chips that fit, and their mesh."""
  count = 1
  while count <= LARGEST:
    for sizes in memory.meshes(count):
      if sizes[0] > 1 and sizes[1] > 1:  # fsdp alone takes less than both
        continue
      need = peak(name, rank, sizes, chip.platform)
      if need <= memory.USABLE * chip.memory:
        mesh = " x ".join(map(str, sizes))
        return f"**{count}** ({mesh}), {need / 2**30:.1f} GiB"
    count *= 2
  return "–"


def table(rank: int, names) -> str:
  """Returns the Markdown table: models down, chips across."""
  lines = [
    "| model | " + " | ".join(memory.CHIPS) + " |",
    "|---" * (1 + len(memory.CHIPS)) + "|",
  ]
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
    "--models", nargs="+", default=list(_SHAPES), choices=list(_SHAPES)
  )
  args = parser.parse_args()
  args.output.write_text(
    TEXT.format(
      terms="\n".join(
        [
          "| | what | when |",
          "|---|---|---|",
          *(f"| {' | '.join(row)} |" for row in _TERMS),
        ]
      ),
      usable=memory.USABLE,
      largest=LARGEST,
      rank=RANK,
      full=table(0, args.models),
      lora=table(RANK, args.models),
      chips=", ".join(
        f"{name} {chip.memory / 2**30:.1f} GiB"
        for name, chip in memory.CHIPS.items()
      ),
    )
  )
  print(f"wrote {args.output}")


if __name__ == "__main__":
  main()
