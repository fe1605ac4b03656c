"""`progrpo doctor`: devices, versions, and what a config takes of its devices.

Memory is estimated from shapes and shardings; no weight is read. With
`--compile` the config's programs are compiled too, for TPUs that need not be
here, and counted.
"""

import importlib.metadata
import os
import pathlib
import platform
import shutil

import jax
import rich.console
import rich.table

from progrpo_jax import errors, places, ranges
from progrpo_jax.build import stages
from progrpo_jax.cli import arguments
from progrpo_jax.devices import sharding
from progrpo_jax.plan import ahead, memory
from progrpo_jax.settings import checks, isolation, schedule
from progrpo_jax.storage import outputs
from progrpo_jax.storage import policy as policy_lib

# Packages whose versions are shown.
PACKAGES = (
  "progrpo_jax",
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "transformers",
  "tensorflow-datasets",
  "grain",
  "sentencepiece",
  "chex",
  "reasoning-gym",
  "ml_collections",
  "numpy",
)


def run(argv: list[str]) -> int:
  """Prints the machine and a config's memory; returns the exit code."""
  parser = arguments.parser(
    "doctor",
    "Show devices and versions and, for a config, an estimate of "
    "the memory that its run takes on each device; with --compile what a step "
    "costs on TPUs.",
  )
  parser.add_argument(
    "--chip",
    choices=sorted(memory.CHIPS),
    help="plan for chips of this kind, which this machine need not have",
  )
  parser.add(
    "--workdir",
    ranges.Place(empty=False),
    help="workdir of the run, whose disk must have room for its checkpoints "
    "(default: this directory); without --config, the run's own config",
  )
  parser.add(
    "--devices",
    ranges.Whole(at_least=1, at_most=2**20),
    metavar="N",
    help="plan for N devices (default: those of this machine)",
  )
  parser.add_argument(
    "--compile",
    action="store_true",
    help="compile the config's programs for the chips of --chip (TPUs), and "
    "count memory, products, traffic and the least time of a step; needs "
    "libtpu, no TPU",
  )
  parser.add_argument(
    "--layers",
    choices=("few", "full"),
    default="few",
    help="with --compile: layers of programs that are unrolled. 'few' extends "
    "two shallow ones to the full depth, 'full' takes minutes for each ten",
  )
  parser.add_argument(
    "--json", metavar="FILE", help="with --compile: write the figures here"
  )
  parser.add_argument(
    "--hlo",
    metavar="DIR",
    help="with --compile: write the optimised text of each program here",
  )
  parser.add(
    "--price",
    ranges.Number(None, above=0, also=(None,)),
    metavar="DOLLARS",
    help="with --compile: price of a chip for an hour",
  )
  c, args = arguments.parse(parser, argv, needed=False)
  _check(c, args)
  if args.compile:
    # Before anything else: it takes no time to say what is missing.
    chips = ahead.devices(args.chip, args.devices or jax.device_count())
  console = rich.console.Console()
  console.print(_machine())
  if c is None:
    return 0
  _plan(
    console, c, memory.CHIPS.get(args.chip), args.devices, args.workdir or "."
  )
  if args.compile:
    _compile(console, c, chips, args)
  return 0


def _check(c, args) -> None:
  """Refuses options that say nothing together.

  Raises:
    InputError: naming the option that is missing.
  """
  if c is None and (args.chip or args.devices or args.compile):
    raise errors.InputError("--chip, --devices and --compile need a --config")
  if not args.compile:
    given = [
      f"--{name}" for name in ("json", "hlo", "price") if getattr(args, name)
    ]
    if given:
      raise errors.InputError(f"{given[0]} needs --compile")
  elif args.chip is None:
    raise errors.InputError(
      "--compile needs a --chip: the kind of TPU to compile for"
    )
  if args.json:
    places.check_output("--json", str(pathlib.Path(args.json).parent))
    outputs.check(args.json, "--json")
  if args.hlo:
    places.check_output("--hlo", args.hlo)
    outputs.check(args.hlo, "--hlo")


def _plan(
  console, c, chip: memory.Chip | None, count: int | None, workdir: str
) -> None:
  """Prints a run's memory per device and, if it is too much, a remedy.

  Args:
    console: console to print to.
    c: config of the run.
    chip: kind of accelerator; None for this machine's devices.
    count: number of devices; None for as many as this machine has.
    workdir: workdir of the run, which need not exist.

  Raises:
    InputError: the config is invalid, or cannot run on so many devices.
  """
  # Where to run: a chip by name, or the devices of this machine.
  count = count or jax.device_count()
  is_here = chip is None
  if is_here:
    device = jax.devices()[0]
    chip = memory.Chip(device.platform, _device_memory() or 0)
  m = c.mesh
  mesh = sharding.abstract_mesh(count, m.data, m.fsdp, m.tensor)
  every = list(schedule.every(c))
  for stage in every:
    checks.validate(stage)
  model, teacher = memory.model_of(c), memory.teacher_of(c)
  if policy_lib.run_of(c.model.init_from):
    stages.check_base(c)
  for stage in every:
    stages.check_positions(stage, model, teacher)
  # The estimate, with advice only where the memory of a device is known.
  phases = memory.estimate(c, model, mesh, chip.platform, teacher)
  console.print(_table(phases, mesh))
  for warning in memory.warnings(model, mesh):
    console.print(f"On this mesh {warning}.")
  console.print(_disk(*memory.checkpoints(c, model, mesh), workdir))
  if not chip.memory:
    return
  console.print(
    f"A device has {_gib(chip.memory)} GiB; a plan should stay below "
    f"{_gib(memory.USABLE * chip.memory)}."
  )
  if chip.platform == "gpu":
    console.print(_share(is_here))
  if memory.fits(phases, chip):
    return
  # Another mesh of as many devices, if one fits.
  proposal = memory.propose(c, model, chip, count, teacher)
  if proposal is None:
    console.print(
      f"It does not fit, nor does any other mesh of {count} devices. Take "
      f"more devices; or {_remedies(c)}."
    )
    return
  sizes, phases = proposal
  console.print(
    "It does not fit. It would with "
    + " ".join(
      f"--config.mesh.{axis}={size}"
      for axis, size in zip(sharding.AXES, sizes, strict=True)
    )
    + f", which needs {_gib(memory.peak(phases))} GiB."
  )


def _remedies(c) -> str:
  """Returns what takes less memory, without what the config does already."""
  lower = [
    "train.micro_batch_rows, row_tokens and micro_batch_generations (update)",
    "sampling.batch_prompts or algo.num_generations (sample)",
  ]
  if c.eval.every:
    lower.append("eval.batch_prompts or eval.num_samples (evaluate)")
  change = []
  if c.model.remat != "layer":
    change.append("model.remat to 'layer'")
  if not c.model.lora.rank:
    change.append("model.lora.rank")
  if c.optim.mu_dtype != "bfloat16":
    change.append("optim.mu_dtype to 'bfloat16'")
  said = f"lower {', '.join(lower)}"
  return f"{said}; or set {', or '.join(change)}" if change else said


def _share(is_here: bool) -> str:
  """Returns a sentence on the share of a GPU's memory that was counted.

  Args:
    is_here: whether the GPU is this machine's, as JAX has it now.
  """
  name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
  share = memory.GPU_SHARE
  if is_here:
    share = os.environ.get(name) or memory.JAX_SHARE
  return (
    f"That is with {name}={share} of the GPU's memory. A run has the share "
    f"that is set where it starts: {memory.JAX_SHARE} if none is, 0.9 by "
    "launch/gpu.sh and launch/slurm.sbatch."
  )


def _disk(size: int, count: int, workdir: str) -> str:
  """Returns a sentence on the disk that checkpoints take, and its room.

  Args:
    size: bytes of a checkpoint.
    count: number of checkpoints at most.
    workdir: local path or URL, which need not exist.
  """
  said = (
    f"A checkpoint takes {_gb(size)} GB of the disk, and there are {count} at "
    "most (checkpoint.keep and keep_every, the reference's, one that is being "
    f"written): {_gb(size * count)} GB"
  )
  if places.is_remote(workdir):
    return f"{said}."
  place = pathlib.Path(workdir).expanduser().absolute()
  while not place.exists():
    place = place.parent
  free = shutil.disk_usage(place).free
  enough = "" if size * count <= free else ", WHICH IS TOO LITTLE"
  return f"{said}. The disk of {place} has {_gb(free)} GB free{enough}."


def _gb(count: int) -> str:
  """Returns bytes as GB, as disks are sold, with digits where it is small."""
  return f"{count / 1e9:,.{0 if count >= 1e10 else 1 if count >= 1e8 else 4}f}"


def _compile(console, c, chips: list, args) -> None:
  """Prints what the compiler makes of a config, and writes what is asked for.

  Args:
    console: console to print to.
    c: config of the run.
    chips: devices to compile for, from `ahead.devices`.
    args: arguments of the command.
  """
  m = c.mesh
  mesh = sharding.make_mesh(m.data, m.fsdp, m.tensor, devices=chips)
  model = memory.model_of(c, args.workdir)

  def keep(phase, text):
    if args.hlo:
      places.write(pathlib.Path(args.hlo) / f"{phase}.hlo", text)

  if args.hlo:
    pathlib.Path(args.hlo).mkdir(parents=True, exist_ok=True)
  counted = ahead.phases(
    c,
    model,
    mesh,
    args.chip,
    teacher=memory.teacher_of(c),
    whole=args.layers == "full",
    say=console.print,
    keep=keep,
  )
  chip = memory.CHIPS[args.chip]
  console.print(_counted_table(counted, chip, args.chip, mesh))
  for text in _verdicts(counted, chip, c, mesh, args.price):
    console.print(text)
  if args.json:
    said = _figures(counted, c, mesh, args)
    places.write_json(args.json, said)


def _counted_table(counted, chip, name: str, mesh) -> rich.table.Table:
  """Returns the table of `ahead.phases`: a column per program."""
  shape = " x ".join(f"{axis} {n}" for axis, n in mesh.shape.items())
  table = rich.table.Table(
    "one device, one step",
    *counted,
    title=f"compiled for {mesh.size} {name}, mesh {shape}",
  )

  def row(text, value):
    table.add_row(text, *(value(p) for p in counted.values()))

  def token(value):
    return lambda p: value(p.per_token) if p.per_token else ""

  row("layers that were compiled", lambda p: ", ".join(map(str, p.layers)))
  row("memory, GiB: by the compiler", lambda p: _gib(p.memory_bytes))
  row("memory, GiB: estimated", lambda p: _gib(p.estimated_memory_bytes))
  row("fits", lambda p: "yes" if p.memory_bytes <= chip.memory else "NO")
  table.add_section()
  for kind in dict.fromkeys(k for p in counted.values() for k in p.cost.flops):
    row(
      f"{kind}, TFLOP",
      lambda p, kind=kind: f"{p.cost.flops.get(kind, 0) / 1e12:,.1f}",
    )
  row("main memory, GB", lambda p: f"{p.cost.hbm / 1e9:,.0f}")
  row("between chips, GB", lambda p: f"{p.cost.total_ici / 1e9:,.1f}")
  row("main memory, MB a token", token(lambda t: f"{t.cost.hbm / 1e6:,.0f}"))
  row(
    "between chips, MB a token",
    token(lambda t: f"{t.cost.total_ici / 1e6:,.1f}"),
  )
  table.add_section()
  row("s: main memory", lambda p: f"{p.bound.hbm:,.2f}")
  row("s: between chips", lambda p: f"{p.bound.ici:,.2f}")
  row("s: products at full rate", lambda p: f"{p.bound.products:,.2f}")
  row("s: core, compiler's estimate", lambda p: f"{p.bound.cycles:,.2f}")
  row("s: lower bound, all overlaps", lambda p: f"{p.bound.overlapped:,.2f}")
  row("s: core, then links", lambda p: f"{p.bound.apart:,.2f}")
  row("s: roofline", lambda p: f"{p.roofline_s:,.2f}")
  row("lower bound / roofline", lambda p: f"{_ratio(p):.1f}")
  row(
    "ms a token: bound / roofline",
    token(
      lambda t: (
        f"{1e3 * t.bound.overlapped:.1f} / {1e3 * t.roofline_s:.1f} (weights "
        f"shared by all chips: {1e3 * t.split_roofline_s:.1f})"
      )
    ),
  )
  return table


def _ratio(phase: ahead.Phase) -> float:
  return phase.bound.overlapped / phase.roofline_s


def _step(counted) -> tuple[float, float]:
  """Returns (lower bound, roofline) of a step in seconds."""
  return (
    sum(p.bound.overlapped for p in counted.values()),
    sum(p.roofline_s for p in counted.values()),
  )


def _verdicts(counted, chip, c, mesh, price: float | None) -> list[str]:
  """Returns sentences on what was counted: fit, time, cost."""
  least, roof = _step(counted)
  hours = c.train.total_steps * least / 3600
  out = []
  if any(len(p.layers) > 1 for p in counted.values()):
    few = ", ".join(n for n, p in counted.items() if len(p.layers) > 1)
    out.append(
      f"{few}: programs of few layers, extended along their slope to the full "
      "depth; --layers full compiles them whole."
    )
  large = [n for n, p in counted.items() if p.memory_bytes > chip.memory]
  out.append(
    f"The compiler needs more than the {_gib(chip.memory)} GiB of a chip for "
    f"{', '.join(large)}: the run does not fit."
    if large
    else f"By the compiler the run fits the {_gib(chip.memory)} GiB of a chip."
  )
  out.append(
    f"A step takes at least {least:,.1f} s with every response at its limit, "
    f"{least / roof:.1f} times the roofline of {roof:,.1f} s; "
    f"{c.train.total_steps} steps take {hours:,.1f} hours, without "
    "verification, evaluation and compilation."
  )
  if price is not None:
    out.append(
      f"{mesh.size} chips at {price:g} dollars an hour: at least "
      f"{hours * mesh.size * price:,.0f} dollars."
    )
  return out


def _figures(counted, c, mesh, args) -> dict:
  """Returns what `--json` writes."""
  least, roof = _step(counted)
  hours = c.train.total_steps * least / 3600
  return {
    "config": args.config,
    "chip": args.chip,
    "devices": mesh.size,
    "mesh": dict(mesh.shape),
    "versions": {
      name: _version(name) for name in ("progrpo_jax", "jax", "libtpu")
    },
    "programs": {name: _program(p) for name, p in counted.items()},
    "step": {"lower_bound_s": least, "roofline_s": roof, "ratio": least / roof},
    "run": {
      "steps": c.train.total_steps,
      "hours": hours,
      "dollars_per_chip_hour": args.price,
      "dollars": args.price and hours * mesh.size * args.price,
    },
  }


def _program(p: ahead.Phase) -> dict:
  """Returns the figures of a program: of a device, in a step or for a token."""
  out = {
    "layers_compiled": list(p.layers),
    "memory_bytes": int(p.memory_bytes),
    "estimated_memory_bytes": p.estimated_memory_bytes,
    "flops": p.cost.total_flops,
    "flops_by_type": p.cost.flops,
    "hbm_bytes": p.cost.hbm,
    "ici_bytes": p.cost.total_ici,
    "ici_bytes_by_kind": p.cost.ici,
    "lower_bound_s": p.bound.overlapped,
    "lower_bound_s_by_part": {
      "products": p.bound.products,
      "hbm": p.bound.hbm,
      "ici": p.bound.ici,
      "cycles": p.bound.cycles,
    },
    "no_overlap_s": p.bound.apart,
    "roofline_s": p.roofline_s,
    "ratio": _ratio(p),
  }
  if p.per_token:
    t = p.per_token
    out |= {
      "hbm_bytes_per_token": t.cost.hbm,
      "ici_bytes_per_token": t.cost.total_ici,
      "lower_bound_s_per_token": t.bound.overlapped,
      "roofline_s_per_token": t.roofline_s,
      "split_roofline_s_per_token": t.split_roofline_s,
    }
  return out


def _table(phases: dict[str, memory.Terms], mesh) -> rich.table.Table:
  """Returns the table of an estimate: one row per term, a column per phase."""
  shape = " x ".join(f"{axis} {n}" for axis, n in mesh.shape.items())
  table = rich.table.Table(
    "GiB on each device", *phases, title=f"memory of a run, mesh {shape}"
  )
  names = dict.fromkeys(n for terms in phases.values() for n in terms)
  for name in names:
    table.add_row(
      name,
      *(
        _gib(terms[name]) if name in terms else "" for terms in phases.values()
      ),
    )
  table.add_section()
  table.add_row(
    "sum", *(_gib(memory.total(terms)) for terms in phases.values())
  )
  return table


def _gib(count: float) -> str:
  """Returns bytes as GiB, with more digits below 1 GiB."""
  return f"{count / 2**30:.{2 if count >= 2**30 else 4}f}"


def _device_memory() -> int | None:
  """Returns the bytes of the first device's memory; None if unknown (CPU)."""
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get("bytes_limit")


def _machine() -> rich.table.Table:
  """Returns the table of devices and versions."""
  table = rich.table.Table("what", "here", title="machine")
  devices = jax.devices()
  table.add_row("devices", f"{len(devices)} x {devices[0].device_kind}")
  table.add_row("processes", str(jax.process_count()))
  limit = _device_memory()
  if limit is not None:
    table.add_row("memory of a device", f"{limit / 2**30:.1f} GiB")
  table.add_row("cores", str(os.cpu_count()))
  table.add_row("isolation of code", isolation.describe())
  table.add_row("python", platform.python_version())
  for name in PACKAGES:
    table.add_row(name, _version(name) or "not installed")
  return table


def _version(package: str) -> str | None:
  """Returns the version of an installed package, None if it is missing."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None
