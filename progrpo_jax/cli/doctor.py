"""`progrpo doctor`: devices, versions, and the memory that a config needs.

Memory is estimated from shapes and shardings; nothing is compiled and no weight
is read.
"""

import importlib.metadata
import os
import platform

import jax
import rich.console
import rich.table

from progrpo_jax import errors, ranges
from progrpo_jax.cli import arguments
from progrpo_jax.config import checks, isolation, schedule
from progrpo_jax.devices import sharding
from progrpo_jax.plan import memory

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
    "the memory that its run takes on each device.",
  )
  parser.add_argument(
    "--chip",
    choices=sorted(memory.CHIPS),
    help="plan for chips of this kind, which this machine need not have",
  )
  parser.add(
    "--devices",
    ranges.Whole(at_least=1, at_most=2**20),
    metavar="N",
    help="plan for N devices (default: those of this machine)",
  )
  c, args = arguments.parse(parser, argv, needed=False)
  console = rich.console.Console()
  console.print(_machine())
  if c is None:
    if args.chip or args.devices:
      raise errors.InputError("--chip and --devices need a --config")
    return 0
  _plan(console, c, memory.CHIPS.get(args.chip), args.devices)
  return 0


def _plan(console, c, chip: memory.Chip | None, count: int | None) -> None:
  """Prints a run's memory per device and, if it is too much, a remedy.

  Args:
    console: console to print to.
    c: config of the run.
    chip: kind of accelerator; None for this machine's devices.
    count: number of devices; None for as many as this machine has.

  Raises:
    InputError: the config is invalid, or cannot run on so many devices.
  """
  # Where to run: a chip by name, or the devices of this machine.
  count = count or jax.device_count()
  if chip is None:
    device = jax.devices()[0]
    chip = memory.Chip(device.platform, _device_memory() or 0)
  m = c.mesh
  mesh = sharding.abstract_mesh(count, m.data, m.fsdp, m.tensor)
  for stage in schedule.every(c):
    checks.validate(stage)
  # The estimate, with advice only where the memory of a device is known.
  model = memory.model_of(c)
  phases = memory.estimate(c, model, mesh, chip.platform)
  console.print(_table(phases, mesh))
  for warning in memory.warnings(model, mesh):
    console.print(f"On this mesh {warning}.")
  if not chip.memory:
    return
  console.print(
    f"A device has {_gib(chip.memory)} GiB; a plan should stay below "
    f"{_gib(memory.USABLE * chip.memory)}."
  )
  if memory.fits(phases, chip):
    return
  # Another mesh of as many devices, if one fits.
  proposal = memory.propose(c, model, chip, count)
  if proposal is None:
    console.print(
      f"It does not fit, nor does any other mesh of {count} devices. Take "
      "more devices; or lower train.micro_batch_rows, row_tokens and "
      "micro_batch_generations (update), or prompts or samples per step "
      "(sample); or set model.remat to 'layer', model.lora.rank, or "
      "optim.mu_dtype to 'bfloat16'."
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
    try:
      table.add_row(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
      table.add_row(name, "not installed")
  return table
