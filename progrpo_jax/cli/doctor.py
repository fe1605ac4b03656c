"""`progrpo doctor`: devices, versions, and what a config will take.

Sizes come from the shapes and shardings of a config; nothing is compiled and
no weight is read.
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

PACKAGES = (
    "progrpo_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint",
    "transformers", "tensorflow-datasets", "grain", "sentencepiece", "chex",
    "reasoning-gym", "ml_collections", "numpy")


def run(argv: list[str]) -> int:
  """Prints what there is and what is needed; returns the exit code."""
  parser = arguments.parser(
      "doctor", "Show devices and versions and, for a config, an estimate of "
      "the memory that its run takes on each device.")
  parser.add_argument(
      "--chip", choices=sorted(memory.CHIPS),
      help="plan for chips of this kind, which need not be here")
  parser.add(
      "--devices", ranges.Whole(at_least=1, at_most=2**20),
      metavar="N", help="plan for so many (default: as many as are here)")
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
  """Prints what a run takes where it is planned, and what to do about it.

  Raises:
    InputError: the config cannot work there.
  """
  count = count or jax.device_count()
  if chip is None:
    device = jax.devices()[0]
    chip = memory.Chip(device.platform, _device_memory() or 0)
  m = c.mesh
  mesh = sharding.abstract_mesh(count, m.data, m.fsdp, m.tensor)
  for stage in schedule.every(c):
    checks.validate(stage)
  model = memory.model_of(c)
  phases = memory.estimate(c, model, mesh, chip.platform)
  console.print(_table(phases, mesh))
  for warning in memory.warnings(model, mesh):
    console.print(f"On this mesh {warning}.")
  if not chip.memory:
    return
  console.print(
      f"A device has {_gib(chip.memory)} GiB; a plan should stay below "
      f"{_gib(memory.USABLE * chip.memory)}.")
  if memory.fits(phases, chip):
    return
  found = memory.propose(c, model, chip, count)
  if found is None:
    console.print(
        "It does not fit, nor on any other mesh of so many. Take more devices, "
        "or lower train.micro_batch_prompts and micro_batch_generations "
        "(update), prompts or samples a step (sample), or set model.remat to "
        "'layer', model.lora.rank, or optim.mu_dtype to 'bfloat16'.")
    return
  sizes, phases = found
  console.print(
      "It does not fit. " + " ".join(
          f"--config.mesh.{axis}={size}"
          for axis, size in zip(sharding.AXES, sizes, strict=True))
      + f" would, with {_gib(memory.peak(phases))} GiB.")


def _table(phases: dict[str, memory.Terms], mesh) -> rich.table.Table:
  """Terms down, phases across."""
  shape = " x ".join(f"{axis} {n}" for axis, n in mesh.shape.items())
  table = rich.table.Table(
      "GiB on each device", *phases, title=f"memory of a run, mesh {shape}")
  names = dict.fromkeys(n for terms in phases.values() for n in terms)
  for name in names:
    table.add_row(name, *(
        _gib(terms[name]) if name in terms else ""
        for terms in phases.values()))
  table.add_section()
  table.add_row("sum", *(
      _gib(memory.total(terms)) for terms in phases.values()))
  return table


def _gib(count: float) -> str:
  """Bytes as GiB, small ones with more digits."""
  return f"{count / 2**30:.{2 if count >= 2**30 else 4}f}"


def _device_memory() -> int | None:
  stats = jax.devices()[0].memory_stats() or {}
  return stats.get("bytes_limit")


def _machine() -> rich.table.Table:
  """Devices and versions."""
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
