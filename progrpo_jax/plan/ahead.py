"""Compiles a config's programs for TPUs that are elsewhere, and counts them.

libtpu has the TPU's compiler and runs without a TPU. It needs a topology: the
chips of a slice and how they are joined. A program whose layers are a loop is
compiled as it is. One whose layers are unrolled, as decoding's, takes minutes
for each ten layers: it is compiled with few layers, twice, and what a layer
adds is extended to the full depth.
"""

from collections.abc import Callable, Sequence
import dataclasses
import importlib.util
import math
import os
import pathlib
import re

import jax
from jax.experimental import topologies
import ml_collections

from progrpo_jax import errors
from progrpo_jax.models import config as model_config
from progrpo_jax.plan import counts, hlo, kept, memory, programs, roofline
from progrpo_jax.settings import derived

# Version of libtpu that belongs to the tested jax, see setup.py.
LIBTPU = "0.0.42.1"
# Layers of the two programs that stand for one that is unrolled.
SHALLOW = (2, 4)
_TOO_LARGE = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Least number of chips of a slice, and axes along which slices grow.
_FEWEST = 4
_AXES = {"v5e": 2, "v5p": 3, "v6e": 2}


@dataclasses.dataclass(frozen=True)
class Phase:
  """A phase of a step on one device, as the compiler made it.

  Counts and seconds are of a whole step, those `per_token` of one pass of the
  loop over tokens, which draws a token of every row.

  Attributes:
    layers: layers of the programs that were compiled.
    memory_bytes: bytes while it runs, by the compiler.
    estimated_memory_bytes: the same by `memory.estimate`.
    cost: FLOPs, bytes and cycles of its programs in a step.
    bound: least seconds of that.
    roofline_s: least seconds of the work that is of use.
    per_token: the same three of a token; None but for "sample".
  """

  layers: tuple[int, ...]
  memory_bytes: float
  estimated_memory_bytes: int
  cost: counts.Cost
  bound: roofline.Bound
  roofline_s: float
  per_token: "Token | None" = None


@dataclasses.dataclass(frozen=True)
class Token:
  """One pass of the loop over tokens.

  Attributes:
    cost: FLOPs, bytes and cycles of the pass.
    bound: least seconds of that.
    roofline_s: least seconds to read the weights that a device decodes with,
      split over `tensor` alone, and the keys.
    split_roofline_s: the same if the devices shared all weights.
  """

  cost: counts.Cost
  bound: roofline.Bound
  roofline_s: float
  split_roofline_s: float


def topology_of(chip: str, count: int) -> str:
  """Returns the name of the smallest slice with so many chips, as "v5e:4x4".

  Args:
    chip: kind of TPU.
    count: number of chips; fewer than four are a part of a slice.

  Raises:
    InputError: no slice has so many chips.
  """
  roofline.rates_of(chip)
  size = max(count, _FEWEST)
  if count > 2 and size & (size - 1):
    raise errors.InputError(
      f"--devices {count}: slices of {chip} have a power of two of chips"
    )
  # Doubled in turn, so that no side is more than twice another.
  sides = [1] * _AXES[chip]
  sides[0] = sides[1] = 2
  while math.prod(sides) < size:
    sides[sides.index(min(sides))] *= 2
  sides.sort(key=lambda side: (side == 1, side))  # 2x2x1, 2x2x4
  return f"{chip}:{'x'.join(map(str, sides))}"


def devices(chip: str, count: int) -> list:
  """Returns chips that a compiler knows, which need not be here.

  Args:
    chip: kind of TPU.
    count: number of chips.

  Raises:
    InputError: libtpu is not installed, or does not know the slice.
  """
  name = topology_of(chip, count)
  _prepare_libtpu()
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=name)
  except Exception as e:  # of libtpu's own kinds
    raise errors.InputError(
      f"libtpu cannot compile for {name}: {errors.one_line(e)}"
    ) from e
  return found.devices[:count]


def _prepare_libtpu() -> None:
  """Sets what libtpu reads of the environment, before it is loaded.

  Raises:
    InputError: it is not installed.
  """
  if "TPU_LIBRARY_PATH" not in os.environ:
    spec = importlib.util.find_spec("libtpu")
    if spec is None or not spec.submodule_search_locations:
      raise errors.InputError(
        "--compile needs libtpu, which has the TPU's compiler and runs "
        f"without a TPU: {errors.install('aot')}, or pip install "
        f"libtpu=={LIBTPU} (Linux, x86-64)"
      )
    folder = pathlib.Path(spec.submodule_search_locations[0])
    os.environ["TPU_LIBRARY_PATH"] = str(folder / "libtpu.so")
  for name, value in (
    # There is no cloud to ask which machine this is.
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    # No chip is used, so that another process may have libtpu too.
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
  ):
    os.environ.setdefault(name, value)


def phases(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  mesh,
  chip: str,
  *,
  teacher: model_config.ModelConfig | None = None,
  which: Sequence[str] | None = None,
  whole: bool = False,
  say: Callable[[str], None] = lambda text: None,
  keep: Callable[[str, str], None] = lambda phase, text: None,
) -> dict[str, Phase]:
  """Compiles the programs of a step and counts them.

  Responses are taken to be as long as they may be, and the cache to be full.

  Args:
    c: config of the run.
    model: model configuration, from `memory.model_of`.
    mesh: mesh of `devices`.
    chip: kind of TPU.
    teacher: configuration of the teacher, from `memory.teacher_of`.
    which: phases to compile; None for all that the config has.
    whole: whether unrolled programs are compiled at full depth.
    say: function that shows a line about what is compiled.
    keep: function that takes (phase, text) of each program, of the deepest
      one that was compiled.

  Returns:
    Phase -> what was counted; "sample" is the loop over tokens.

  Raises:
    InputError: the config cannot run on the mesh, or not even a few layers of
      it fit a chip.
  """
  rates = roofline.rates_of(chip)
  drawn_on = derived.sampling_mesh(c, mesh)
  estimated = memory.estimate(c, model, mesh, "tpu", teacher)
  out = {}
  for phase in programs.of(c) if which is None else which:
    read_by = teacher if phase == programs.TEACHER else model
    depths = _depths(read_by, phase, whole)
    compiled = _compile_all(c, read_by, mesh, phase, depths, say)
    keep(phase, compiled[max(compiled)].text)
    deep = max(read_by.num_layers, 1)
    read = {d: _read(c, read_by, mesh, phase, x) for d, x in compiled.items()}
    cost = {
      name: _extend({d: f[name] for d, f in read.items()}, deep)
      for name in next(iter(read.values()))
    }
    bytes_ = _extend({d: x.memory for d, x in compiled.items()}, deep)
    bytes_ += programs.resident(c, model, mesh, phase, teacher)

    def entry(cost, least, token=None, phase=phase, bytes_=bytes_, d=compiled):
      return Phase(
        layers=tuple(d),
        memory_bytes=bytes_,
        # Prompts are read while sampling, whose estimate has both.
        estimated_memory_bytes=memory.total(
          estimated["sample" if phase == "prefill" else phase]
        ),
        cost=cost,
        bound=roofline.bound(cost, rates),
        roofline_s=least,
        per_token=token,
      )

    calls = _rollouts(c)
    if phase == "prefill":
      out[phase] = entry(
        cost["program"] * calls, roofline.prompts(c, model, mesh, rates) * calls
      )
    elif phase == "sample":
      token = Token(
        cost["token"],
        roofline.bound(cost["token"], rates),
        roofline.token(c, model, drawn_on, rates),
        roofline.token(c, model, drawn_on, rates, split=True),
      )
      steps = calls * (c.sampling.max_new_tokens - 1)
      out["sample"] = entry(
        cost["token"] * steps, token.roofline_s * steps, token
      )
    else:
      trains = phase == "update"
      times = 1 if phase == programs.TEACHER else roofline.scorings(c)
      if trains:
        times = roofline.updates(c) * c.train.num_minibatches
      least = roofline.sequences(c, read_by, mesh, rates, trains=trains)
      passes = roofline.updates(c) if trains else times
      out[phase] = entry(cost["program"] * times, least * passes)
  return out


def _rollouts(c) -> int:
  """Returns how many times prompts are sampled in a round."""
  return math.ceil(derived.prompts_per_round(c) / programs.sampled_at_once(c))


def _depths(model, phase: str, whole: bool) -> tuple[int, ...]:
  """Returns the layers of the programs that stand for a phase."""
  full = model.num_layers
  if whole or phase not in programs.UNROLLED or full <= max(SHALLOW):
    return (full,)
  return SHALLOW


def _compile_all(
  c, model, mesh, phase, depths: Sequence[int], say
) -> dict[int, kept.Program]:
  """Compiles a phase at several depths: layers -> program.

  What is too large for a chip at full depth is compiled with few layers, so
  that the user sees how much is missing.
  """
  out = {}
  for depth in depths:
    of = f"{depth} of {model.num_layers} layers"
    say(f"compiling {phase} ({of}) ...")
    cut = dataclasses.replace(model, num_layers=depth)
    lowered = programs.lower(c, cut, mesh, phase)
    try:
      out[depth] = kept.compile(lowered, mesh)
    except jax.errors.JaxRuntimeError as e:
      used = _TOO_LARGE.search(str(e))
      if not used:
        raise
      say(f"{phase} ({of}) needs {used.group(1)}{used.group(2)}iB of a chip")
      if max(depths) <= max(SHALLOW):
        raise errors.InputError(
          f"{phase}: even {of} need {used.group(1)}{used.group(2)}iB of a "
          "chip, which is more than it has; take more chips or smaller batches"
        ) from e
      return _compile_all(c, model, mesh, phase, SHALLOW, say)
  return out


def _read(
  c, model, mesh, phase: str, compiled: kept.Program
) -> dict[str, counts.Cost]:
  """Counts a program: "token" of "sample", "program" of the others."""
  module = hlo.parse(compiled.text)
  if phase == "prefill":
    return {"program": counts.cost(module)}
  if phase != "sample":
    # The data decide how many micro-batches there are, and inside of each how
    # many chunks go through the head.
    prompts = c.train.prompts_per_step
    if phase == "update":
      prompts = programs.minibatch_prompts(c)
    micro_batches = programs.micro_batches(c, model, mesh, prompts)
    chunks = programs.head_chunks(c, model, mesh)
    trips = {
      loop.instruction.name: chunks if loop.depth else micro_batches
      for loop in hlo.loops(module)
      if loop.trips is None
    }
    return {"program": counts.cost(module, trips=trips)}
  loop = token_loop(module, c.sampling.chunk)
  return {"token": counts.cost(module, loop.body)}


def token_loop(module: hlo.Module, chunk: int) -> hlo.Loop:
  """Returns the loop over tokens of a program that samples.

  Args:
    module: the program.
    chunk: iterations of the loop: tokens between early-stop checks.

  Raises:
    ValueError: there is no loop of so many iterations.
  """
  loops = [loop for loop in hlo.loops(module) if loop.trips == chunk]
  if not loops:
    raise ValueError(f"no loop of {chunk} iterations in the program")

  def work(loop):
    cost = counts.cost(module, loop.body)
    return cost.cycles, cost.hbm

  return max(loops, key=work)


def _extend(by_depth: dict, layers: int):
  """Returns a value at full depth, along the line of two depths."""
  if len(by_depth) == 1:
    return next(iter(by_depth.values()))
  (low, first), (high, second) = sorted(by_depth.items())
  times = (layers - high) / (high - low)
  return second * (1 + times) + first * -times
