"""Counts what programs cost on TPU slices, from the compiler's own output.

  python tools/count_tpu.py slices
  python tools/count_tpu.py configs --price v5p=4.2

`slices` prints the table of docs/benchmarks.md: a token of 256 responses on
four slices. `configs` prints that of docs/tpu.md: every config at paper scale,
on the slice of 64 v5p chips that its scale `paper` is for. Both need libtpu
(`pip install -e .[aot]`) and no TPU. Each program takes minutes to compile,
once: what two configs have in common is kept. No weight is read: a directory
with the shapes of the model stands for it.
"""

import argparse
import json
import math
import pathlib
import runpy
import tempfile

import rich.console

from progrpo_jax import errors
from progrpo_jax.devices import sharding
from progrpo_jax.plan import ahead, memory
from progrpo_jax.settings import defaults, files

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = runpy.run_path(str(ROOT / "tools" / "make_memory.py"))["_SHAPES"]
# The distilled models have the shapes of those that they were trained from,
# with a head of their own.
SHAPES |= {
  "DeepSeek-R1-Distill-Qwen-1.5B": (*SHAPES["Qwen2.5-1.5B"][:-1], False),
  "DeepSeek-R1-Distill-Qwen-7B": SHAPES["Qwen2.5-7B"],
}
# Model, chip, mesh.
SLICES = (
  ("Qwen2.5-1.5B", "v5e", (1, 4, 1)),
  ("Qwen2.5-7B", "v5p", (1, 4, 1)),
  ("Qwen2.5-7B", "v5e", (1, 8, 2)),
  ("Qwen2.5-0.5B", "v5e", (1, 1, 1)),
)
CHIP, CHIPS = "v5p", 64


def write_model(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Writes the config.json of a Qwen2 model; returns its directory."""
  layers, width, heads, keys, head, mlp, vocab, tied = SHAPES[name]
  place = folder / name
  place.mkdir(parents=True, exist_ok=True)
  (place / "config.json").write_text(
    json.dumps(
      {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": head,
        "intermediate_size": mlp,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "max_position_embeddings": 131072,
      }
    )
  )
  return place


def decoding(place: pathlib.Path, sizes):
  """Returns a config of 32 prompts of 512 tokens, 8 responses of 1,024."""
  c = defaults.get_config()
  c.model.init_from = str(place)
  c.model.dtype = "bfloat16"
  c.model.remat = "layer"
  c.mesh.data, c.mesh.fsdp, c.mesh.tensor = sizes
  c.data.tasks = {"countdown": {}}
  c.data.max_prompt_length = 512
  # The last token is never read.
  c.sampling.max_new_tokens = 1025
  c.sampling.chunk = 64
  c.algo.num_generations = 8
  c.train.prompts_per_step = 32
  c.train.micro_batch_generations = 1
  c.eval.batch_prompts = math.prod(sizes)
  return c


def count(c, chip: str, devices: int, say, **options):
  """Returns the phases of a config on a slice; options as `ahead.phases`."""
  m = c.mesh
  mesh = sharding.make_mesh(
    m.data, m.fsdp, m.tensor, devices=ahead.devices(chip, devices)
  )
  model = memory.model_of(c)
  return ahead.phases(c, model, mesh, chip, say=say, **options)


def slices(folder: pathlib.Path, say, only) -> list[str]:
  """Returns the rows of the table of decoding on four slices."""
  lines = [
    "| model | chips | mesh | main memory, MB | cycles, million | between "
    "chips, MB | ms: memory | core | links | bound | roofline | ratio | "
    "roofline, weights shared | ratio |",
    "|---" * 14 + "|",
  ]
  for name, chip, sizes in SLICES:
    if only and f"{name}:{chip}" not in only:
      continue
    c = decoding(write_model(folder, name), sizes)
    t = count(c, chip, math.prod(sizes), say, which=["sample"])
    t = t["sample"].per_token
    least = t.bound.overlapped
    lines.append(
      f"| {name} | {math.prod(sizes)} {chip} | {' x '.join(map(str, sizes))} "
      f"| {t.cost.hbm / 1e6:,.0f} | {t.cost.cycles / 1e6:.1f} "
      f"| {t.cost.total_ici / 1e6:,.0f} | {1e3 * t.bound.hbm:.1f} "
      f"| {1e3 * t.bound.cycles:.1f} | {1e3 * t.bound.ici:.1f} "
      f"| {1e3 * least:.1f} | {1e3 * t.roofline_s:.1f} "
      f"| {least / t.roofline_s:.1f} | {1e3 * t.split_roofline_s:.1f} "
      f"| {least / t.split_roofline_s:.1f} |"
    )
    say(lines[-1])
  return lines


def configs(folder: pathlib.Path, say, prices, only) -> list[str]:
  """Returns the rows of the table of the configs at paper scale."""
  lines = [
    "| config | memory of a chip, GiB | fits | s a step: prefill | sample | "
    "score | update | step | roofline | steps | hours | dollars |",
    "|---" * 12 + "|",
  ]
  for path in sorted((ROOT / "configs").glob("*b.py")):
    if only and path.stem not in only:
      continue
    c = files.load(str(path))
    c.model.init_from = str(
      write_model(folder, pathlib.Path(c.model.init_from).name)
    )
    try:
      counted = count(c, CHIP, CHIPS, say)
    except errors.InputError as e:
      lines.append(f"| {path.stem} | {errors.one_line(e)} |" + " |" * 10)
      continue
    needs = max(p.memory_bytes for p in counted.values())
    least = {n: p.bound.overlapped for n, p in counted.items()}
    step, roof = (
      sum(least.values()),
      sum(p.roofline_s for p in counted.values()),
    )
    hours = c.train.total_steps * step / 3600
    fits = "yes" if needs <= memory.CHIPS[CHIP].memory else "no"
    lines.append(
      f"| {path.stem} | {needs / 2**30:.1f} | {fits} | "
      + " | ".join(f"{x:,.0f}" for x in (*least.values(), step, roof))
      + f" | {c.train.total_steps:,} | {hours:,.0f} "
      f"| {hours * CHIPS * prices[CHIP]:,.0f} |"
    )
    say(lines[-1])
  return lines


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("table", choices=("slices", "configs"))
  parser.add_argument(
    "--price",
    default="v5p=4.2",
    metavar="CHIP=DOLLARS",
    help="dollars of a chip for an hour",
  )
  parser.add_argument(
    "--only",
    nargs="+",
    help="rows of the table: names of configs, or MODEL:CHIP; default: all",
  )
  args = parser.parse_args()
  chip, _, dollars = args.price.partition("=")
  console = rich.console.Console(stderr=True, soft_wrap=True)
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    if args.table == "slices":
      lines = slices(place, console.print, args.only)
    else:
      prices = {chip: float(dollars)}
      lines = configs(place, console.print, prices, args.only)
  print("\n".join(lines))


if __name__ == "__main__":
  main()
