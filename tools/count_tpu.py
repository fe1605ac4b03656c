"""Counts what programs cost on TPU slices, from the compiler's own output.

  python tools/count_tpu.py slices
  python tools/count_tpu.py updates
  python tools/count_tpu.py configs --price v5p=4.2

`slices` prints a table of docs/benchmarks.md: a token of 256 responses on four
slices. `updates` prints another: a micro-batch of an update. `configs` prints
that of docs/tpu.md: every config at paper scale, on the slice of 64 v5p chips
that its scale `paper` is for. All need libtpu (`pip install -e '.[aot]'`), no
TPU. Each program takes minutes to compile, once: what configs have in common
is kept. No weight is read: a directory with the shapes of the model stands for
it.
"""

import argparse
import json
import math
import pathlib
import runpy
import tempfile

import rich.console

from progrpo_jax import errors
from progrpo_jax.build import functions
from progrpo_jax.devices import sharding
from progrpo_jax.plan import ahead, counts, hlo, memory, programs, roofline
from progrpo_jax.settings import defaults, derived, files

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = runpy.run_path(str(ROOT / "tools" / "make_memory.py"))["_SHAPES"]
# The distilled models have the shapes of those that they were trained from,
# with a head of their own.
_DISTILLED = (*SHAPES["Qwen2.5-1.5B"][:-1], False)
SHAPES |= {
  "DeepSeek-R1-Distill-Qwen-1.5B": _DISTILLED,
  "Nemotron-Research-Reasoning-Qwen-1.5B": _DISTILLED,
  "DeepSeek-R1-Distill-Qwen-7B": SHAPES["Qwen2.5-7B"],
  "Qwen2.5-Math-7B": SHAPES["Qwen2.5-7B"],
  "Qwen3-4B-Base": (36, 2560, 32, 8, 128, 9728, 151936, True),
  "Qwen3-8B-Base": (36, 4096, 32, 8, 128, 12288, 151936, False),
  "Qwen3-14B-Base": (40, 5120, 40, 8, 128, 17408, 151936, False),
  "Qwen3-32B": (64, 5120, 64, 8, 128, 25600, 151936, False),
}
# Model, chip, mesh, sampling.tensor.
SLICES = (
  ("Qwen2.5-1.5B", "v5e", (1, 4, 1), 0),
  ("Qwen2.5-7B", "v5p", (1, 4, 1), 0),
  ("Qwen2.5-7B", "v5p", (1, 4, 1), 4),
  ("Qwen2.5-7B", "v5e", (1, 8, 2), 0),
  ("Qwen2.5-7B", "v5e", (1, 8, 2), 4),
  ("Qwen2.5-0.5B", "v5e", (1, 1, 1), 0),
)
# Model, chip, mesh, tokens of a prompt and of a response.
UPDATES = (
  ("Qwen2.5-1.5B", "v5e", (1, 4, 1), 512, 2048),
  ("Qwen2.5-7B", "v5e", (1, 8, 2), 512, 2048),
  ("Qwen2.5-0.5B", "v5e", (1, 1, 1), 512, 2048),
  ("Qwen2.5-1.5B", "v5p", (1, 64, 1), 512, 8192),
)
CHIP, CHIPS = "v5p", 64


def write_model(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Writes the config.json of a model of Qwen; returns its directory."""
  family = "qwen3" if name.startswith("Qwen3") else "qwen2"
  layers, width, heads, keys, head, mlp, vocab, tied = SHAPES[name]
  place = folder / name
  place.mkdir(parents=True, exist_ok=True)
  (place / "config.json").write_text(
    json.dumps(
      {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
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
    "| model | chips | mesh | sampling.tensor | main memory, MB "
    "| cycles, million | between chips, MB | ms: memory | ms: core | ms: links "
    "| ms: bound | ms: roofline | bound / roofline | ms: shared roofline "
    "| bound / shared |",
    "|---" * 15 + "|",
  ]
  for name, chip, sizes, tensor in SLICES:
    if only and f"{name}:{chip}" not in only:
      continue
    c = decoding(write_model(folder, name), sizes)
    c.sampling.tensor = tensor
    t = count(c, chip, math.prod(sizes), say, which=["sample"])
    t = t["sample"].per_token
    least = t.bound.overlapped
    lines.append(
      f"| {name} | {math.prod(sizes)} {chip} | {' x '.join(map(str, sizes))} "
      f"| {tensor or sizes[-1]} "
      f"| {t.cost.hbm / 1e6:,.0f} | {t.cost.cycles / 1e6:.1f} "
      f"| {t.cost.total_ici / 1e6:,.0f} | {1e3 * t.bound.hbm:.1f} "
      f"| {1e3 * t.bound.cycles:.1f} | {1e3 * t.bound.ici:.1f} "
      f"| {1e3 * least:.1f} | {1e3 * t.roofline_s:.1f} "
      f"| {least / t.roofline_s:.1f} | {1e3 * t.split_roofline_s:.1f} "
      f"| {least / t.split_roofline_s:.1f} |"
    )
    say(lines[-1])
  return lines


def training(place: pathlib.Path, sizes, prompt: int, new: int):
  """Returns a config of one response for each chip and micro-batch."""
  c = decoding(place, sizes)
  c.data.max_prompt_length, c.sampling.max_new_tokens = prompt, new
  c.train.micro_batch_generations = 1
  c.train.micro_batch_rows = 1
  c.train.prompts_per_step = math.prod(sizes)
  return c


def updates(folder: pathlib.Path, say, only) -> list[str]:
  """Returns the rows of the table of one micro-batch of an update."""
  lines = [
    "| model | chips | mesh | tokens | ms: useful products | ms: core "
    "| ms: main memory | ms: links | MFU, links apart | MFU, all overlaps "
    "| head between chips, GB |",
    "|---" * 11 + "|",
  ]
  for name, chip, sizes, prompt, new in UPDATES:
    if only and f"{name}:{chip}" not in only:
      continue
    c = training(write_model(folder, name), sizes, prompt, new)
    model, texts = memory.model_of(c), []
    m = c.mesh
    mesh = sharding.make_mesh(
      m.data, m.fsdp, m.tensor, devices=ahead.devices(chip, math.prod(sizes))
    )
    ahead.phases(
      c,
      model,
      mesh,
      chip,
      which=["update"],
      say=say,
      keep=lambda _, text, texts=texts: texts.append(text),
    )
    module = hlo.parse(texts[0])
    # The loop over micro-batches; how many there are, the data decide.
    (body,) = (
      loop.body
      for loop in hlo.loops(module)
      if loop.trips is None and not loop.depth
    )
    inner = {
      loop.instruction.name: programs.head_chunks(c, model, mesh)
      for loop in hlo.loops(module)
      if loop.trips is None and loop.depth
    }
    rates = roofline.rates_of(chip)
    bound = roofline.bound(counts.cost(module, body, trips=inner), rates)
    least = roofline.sequences(c, model, mesh, rates, trains=True)
    prompts = programs.minibatch_prompts(c)
    least /= programs.micro_batches(c, model, mesh, prompts)
    head = sum(
      x.crossing
      for x in counts.collectives(module, body)
      if _has_vocabulary(x, model, mesh)
    )
    lines.append(
      f"| {name} | {math.prod(sizes)} {chip} | {' x '.join(map(str, sizes))} "
      f"| {prompt:,} + {new:,} | "
      + " | ".join(
        f"{1e3 * s:,.0f}" for s in (least, bound.cycles, bound.hbm, bound.ici)
      )
      + f" | {least / bound.apart:.0%} | {least / bound.overlapped:.0%} "
      f"| {head / 1e9:.2f} |"
    )
    say(lines[-1])
  return lines


def _has_vocabulary(collective, model, mesh) -> bool:
  """Returns whether a collective is of the head or the embedding."""
  rows = model.vocab_size
  sizes = {rows, rows // mesh.shape["tensor"], rows // mesh.size}
  operands = collective.instruction.arrays
  return any(sizes & set(array.shape) for array in operands)


def sizes_of(c) -> str:
  """Returns what decides the size of a config's programs, as one text.

  Methods differ in their losses too. These are sums over a few numbers of each
  token, nothing beside the products of the layers: of configs that agree in
  their sizes one is compiled.
  """
  return repr(
    (
      memory.model_of(c),
      [c[name].to_json() for name in ("mesh", "sampling")],
      c.data.max_prompt_length,
      c.algo.num_generations,
      derived.prompts_per_round(c),
      [
        c.train[name]
        for name in c.train
        if name not in ("total_steps", "max_skipped_updates")
      ],
      functions.needs_scores(c),
      derived.needs_reference(c),
      derived.distills(c),
    )
  )


def configs(folder: pathlib.Path, say, prices, only) -> list[str]:
  """Returns the rows of the table of the configs at paper scale."""
  lines = [
    "| config | memory of a chip, GiB | fits | s a step, at least: prefill | "
    "sample | score | teacher | update | whole step | its roofline, s "
    "| steps | hours, at least | dollars, at least |",
    "|---" * 13 + "|",
  ]
  known: dict[str, dict] = {}
  for path in sorted((ROOT / "configs").glob("*b.py")):
    if only and path.stem not in only:
      continue
    c = files.load(str(path))
    place = write_model(folder, pathlib.Path(c.model.init_from).name)
    c.model.init_from = str(place)
    teacher = None
    if derived.distills(c):
      name = pathlib.Path(c.algo.distill.teacher).name
      c.algo.distill.teacher = str(write_model(folder, name))
      teacher = memory.teacher_of(c)
    sizes = sizes_of(c)
    try:
      if sizes not in known:
        known[sizes] = count(c, CHIP, CHIPS, say, teacher=teacher)
    except errors.InputError as e:
      lines.append(f"| {path.stem} | {errors.one_line(e)} |" + " |" * 11)
      continue
    counted = known[sizes]
    needs = max(p.memory_bytes for p in counted.values())
    least = {n: p.bound.overlapped for n, p in counted.items()}
    phases = [
      f"{least[name]:,.0f}" if name in least else ""
      for name in ("prefill", "sample", "score", programs.TEACHER, "update")
    ]
    step = sum(least.values())
    roof = sum(p.roofline_s for p in counted.values())
    hours = c.train.total_steps * step / 3600
    fits = "yes" if needs <= memory.CHIPS[CHIP].memory else "no"
    lines.append(
      f"| {path.stem} | {needs / 2**30:.1f} | {fits} | "
      + " | ".join([*phases, f"{step:,.0f}", f"{roof:,.0f}"])
      + f" | {c.train.total_steps:,} | {hours:,.0f} "
      f"| {hours * CHIPS * prices[CHIP]:,.0f} |"
    )
    say(lines[-1])
  return lines


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("table", choices=("slices", "updates", "configs"))
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
    elif args.table == "updates":
      lines = updates(place, console.print, args.only)
    else:
      prices = {chip: float(dollars)}
      lines = configs(place, console.print, prices, args.only)
  print("\n".join(lines))


if __name__ == "__main__":
  main()
