"""What a compiled program costs, counted in its text.

For a computation, with its loops: products by the types of their operands,
bytes between a device's main memory and its core, bytes that cross the links
between devices, and the cycles that the compiler estimates. All are those of
one device. Nothing is measured; what overlaps is not known here.

Bytes of main memory are counted by these rules of XLA:

- An instruction of a computation that runs (the whole program, a loop's body, a
  branch) reads its operands from where their layouts say that they lie, and
  writes its results to where theirs do: main memory, or memory on the chip.
- A fusion is one such instruction. What its own computation holds stays in
  registers: only its parameters are read, and only what its root makes is
  written; a fusion inside of it is a part of it.
- A parameter of which a fusion takes slices alone is read as far as these go.
- A `dynamic-update-slice` changes its first operand in place: the update is
  read and written, the rest of the array is not touched.
- `bitcast`, `tuple` and `get-tuple-element` give bytes another name.
- An asynchronous operation is a pair, -start and -done, and the result of its
  start holds operand and target. It is counted where it starts. The TPU
  compiler may spread an asynchronous collective over several fusions, so that
  products run beside its parts; all have the same channel.
- A reduction of which a device keeps a part is a fusion of an all-reduce and a
  slice, whose name begins with "all-reduce-scatter".
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import math
import re
import types

from progrpo_jax.plan import hlo

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_COLLECTIVE_STARTS = tuple(f"{kind}-start" for kind in COLLECTIVES)
# Operations that move nothing: they name a value, or wait for it.
_FREE = {
  "parameter",
  "constant",
  "iota",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "after-all",
  "partition-id",
  "replica-id",
  "opt-barrier",
}
# Custom calls of the TPU compiler's own that move nothing themselves.
_FREE_TARGETS = {
  "AllocateBuffer",
  "AsyncCollectiveStart",
  "AsyncCollectiveDone",
  "AssumeGatherIndicesInBound",
  "ConcatBitcast",
  "GatherScatterIndicesBitpacked",
}
_SLICES = ("slice", "dynamic-slice", "gather")
# Name of the TPU compiler for a fusion that reduces, and keeps a device's part.
_REDUCE_SCATTER = "all-reduce-scatter"

# What an instruction reads from main memory, and what it writes to it.
_Bytes = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective of a program, which may be spread over several fusions.

  Attributes:
    kind: one of `COLLECTIVES`.
    dtype: type of its largest array.
    nbytes: bytes of its largest array, gathered or before it is scattered.
    devices: number of devices that take part.
    instruction: instruction of the computation that begins it.
  """

  kind: str
  dtype: str
  nbytes: int
  devices: int
  instruction: hlo.Instruction

  @property
  def crossing(self) -> float:
    """Bytes that a device sends, as a ring of the devices would."""
    share = (self.devices - 1) / self.devices
    if self.kind == "collective-permute":
      return self.nbytes
    return self.nbytes * share * (2 if self.kind == "all-reduce" else 1)


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a part of a program costs a device.

  Attributes:
    flops: types of the operands, such as "bf16 x bf16" -> FLOPs.
    hbm: bytes read from and written to main memory.
    ici: kind of collective -> bytes that cross the links.
    cycles: cycles that the compiler estimates, without collectives.
  """

  flops: dict[str, float] = dataclasses.field(default_factory=dict)
  hbm: float = 0.0
  ici: dict[str, float] = dataclasses.field(default_factory=dict)
  cycles: float = 0.0

  def __add__(self, other: "Cost") -> "Cost":
    return Cost(
      _sum(self.flops, other.flops),
      self.hbm + other.hbm,
      _sum(self.ici, other.ici),
      self.cycles + other.cycles,
    )

  def __mul__(self, times: float) -> "Cost":
    return Cost(
      {k: v * times for k, v in self.flops.items()},
      self.hbm * times,
      {k: v * times for k, v in self.ici.items()},
      self.cycles * times,
    )

  @property
  def total_flops(self) -> float:
    """FLOPs of all types."""
    return sum(self.flops.values())

  @property
  def total_ici(self) -> float:
    """Bytes of all collectives."""
    return sum(self.ici.values())


def cost(
  module: hlo.Module,
  computation: hlo.Computation | None = None,
  *,
  trips: Mapping[str, int] = types.MappingProxyType({}),
) -> Cost:
  """Counts a computation, with the loops inside it.

  Args:
    module: program.
    computation: the computation, for instance the body of a loop; None for
      the whole program.
    trips: name of a `while` -> number of its iterations, in place of its own;
      1 where the program decides and no number is given.
  """
  numbers = {
    loop.instruction.name: 1 if loop.trips is None else loop.trips
    for loop in hlo.loops(module)
  }
  return _cost(module, computation or module.entry, numbers | dict(trips))


def collectives(
  module: hlo.Module, computation: hlo.Computation
) -> list[Collective]:
  """Returns the collectives of a computation, without those of loops in it.

  An asynchronous collective is in several fusions, which start it, go on with
  it beside a product, and wait for it; it has one channel and is counted once.
  """
  out = {}
  for instruction in computation:
    for where, inner, scattered in _collectives(
      module, computation, instruction
    ):
      channel = inner.attribute(r"channel_id=(\d+)") or inner.name
      kind = inner.op.removesuffix("-start")
      read = [a for o in where.operands(inner) for a in o.arrays]
      largest = max([*inner.arrays, *read], key=lambda array: array.nbytes)
      # A reduction may be of several arrays at once.
      nbytes = largest.nbytes
      if kind == "all-reduce":
        nbytes = sum(array.nbytes for array in read)
      out.setdefault(
        channel,
        Collective(
          kind="reduce-scatter" if scattered else kind,
          dtype=largest.dtype,
          nbytes=nbytes,
          devices=_group_size(inner),
          instruction=instruction,
        ),
      )
  return list(out.values())


def flops(module: hlo.Module, computation: hlo.Computation) -> dict[str, float]:
  """Returns the FLOPs of a computation's products, without loops in it.

  Args:
    module: program.
    computation: computation; what it fuses is counted.

  Returns:
    Types of the operands, such as "bf16 x bf16" -> FLOPs.
  """
  out: dict[str, float] = {}
  for i in computation:
    if i.op in ("dot", "convolution"):
      left, right = (o.arrays[0] for o in computation.operands(i)[:2])
      count = _dot if i.op == "dot" else _convolution
      kind = f"{left.dtype} x {right.dtype}"
      out = _sum(out, {kind: 2.0 * count(i, left, right)})
    elif i.op != "while" and (inside := module.inside(i)):
      out = _sum(out, flops(module, inside))
  return out


def hbm_bytes(
  module: hlo.Module, computation: hlo.Computation
) -> dict[str, float]:
  """Returns what each instruction of a computation moves over main memory.

  Operands and results that lie there are read and written once. An update in
  place counts as the update, and a slice, alone or in a fusion, as the slice.

  Args:
    module: program.
    computation: computation; loops in it are not counted.

  Returns:
    Name of the instruction -> bytes.
  """
  return {
    i.name: sum(_moved(module, computation, i))
    for i in computation
    if i.op != "while"
  }


def copies(computation: hlo.Computation, least: int) -> list[hlo.Instruction]:
  """Returns the copies into main memory of arrays of at least `least` bytes."""
  return [
    i
    for i in computation
    if i.op in ("copy", "copy-start")
    and i.arrays[0].in_hbm
    and i.arrays[0].nbytes >= least
  ]


def kernels(module: hlo.Module) -> list[hlo.Instruction]:
  """Returns the calls of kernels that are not XLA's own, such as splash."""
  return [
    i
    for computation in module.computations.values()
    for i in computation
    if i.target == "tpu_custom_call"
  ]


def over_constants(module: hlo.Module, loop: hlo.Loop) -> list[Collective]:
  """Returns the collectives of a loop whose operands no iteration changes.

  They move the same bytes again and again: weights that are gathered for every
  token.
  """
  same = hlo.invariant(loop)
  return [
    c
    for c in collectives(module, loop.body)
    if all(
      o in same for o in c.instruction.operands if o in loop.body.instructions
    )
  ]


def _sum(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
  return {k: a.get(k, 0.0) + b.get(k, 0.0) for k in (*a, *b)}


def _cost(
  module: hlo.Module, computation: hlo.Computation, trips: Mapping[str, int]
) -> Cost:
  ici = collections.Counter()
  for c in collectives(module, computation):
    ici[c.kind] += c.crossing
  out = Cost(
    flops=flops(module, computation),
    hbm=sum(hbm_bytes(module, computation).values()),
    ici=dict(ici),
    cycles=sum(i.cycles for i in computation),
  )
  for i in computation:
    if i.op == "while":
      body = module.computations[i.called["body"]]
      out += _cost(module, body, trips) * trips[i.name]
    elif branches := module.branches(i):
      costs = [_cost(module, branch, trips) for branch in branches]
      out += max(costs, key=lambda cost: (cost.cycles, cost.hbm))
  return out


def _collectives(
  module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction
) -> Iterator[tuple[hlo.Computation, hlo.Instruction, bool]]:
  """Yields the collectives of an instruction, with the fusions inside it.

  Each comes with its computation and whether a device keeps a part alone.
  """
  if instruction.op.removesuffix("-start") in COLLECTIVES:
    yield computation, instruction, computation.name.startswith(_REDUCE_SCATTER)
  elif inside := module.inside(instruction):
    for inner in inside:
      yield from _collectives(module, inside, inner)


def _group_size(collective: hlo.Instruction) -> int:
  """Returns how many devices a collective joins; 1 if it does not say."""
  text = collective.attribute(r"replica_groups=(.*)")
  # mesh['x'=4,'y'=2] {'x'}: the groups are those along some axes of a mesh,
  # or along a part of one, 'x':(1)2.
  mesh = re.match(r"@?\w*mesh\w*\[(.*?)\][^{]*\{(.*?)\}", text)
  if mesh:
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh.group(1)))
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh.group(2))
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  # [groups,size]<=[...], or {{0,1},{2,3}}.
  listed = re.match(r"\[(\d+),(\d+)\]<=", text)
  if listed:
    return int(listed.group(2))
  first = re.match(r"\{\{([\d,]*)\}", text)
  if first:
    return len(first.group(1).split(","))
  pairs = re.search(r"source_target_pairs=", collective.attributes)
  return 2 if pairs else 1


def _dot(i: hlo.Instruction, left: hlo.Array, _) -> float:
  """Returns the multiplications of a `dot`."""
  listed = i.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
  inner = math.prod(left.shape[int(d)] for d in listed.split(",") if d)
  return math.prod(i.arrays[0].shape) * inner


def _convolution(
  i: hlo.Instruction, left: hlo.Array, right: hlo.Array
) -> float:
  """Returns the multiplications of a `convolution` that meet no padding.

  The TPU compiler writes products as convolutions. Axes of a batch and groups
  of heads become windows most of whose places lie in the padding.
  """
  labels = i.attribute(r"dim_labels=(\S+?)(?:,|$)")
  ins, kernel, outs = re.match(r"(\w+)_(\w+)->(\w+)", labels).groups()
  window = i.attribute(r"window=\{([^}]*)\}")

  def sizes(key, default):
    listed = re.search(rf"\b{key}=(\S+)", window)
    return listed.group(1).split("x") if listed else [default] * count

  count = sum(label.isdigit() for label in kernel)
  positions = 1
  for axis, size, stride, pad, dilate, spread in zip(
    map(str, range(count)),
    sizes("size", "1"),
    sizes("stride", "1"),
    sizes("pad", "0_0"),
    sizes("lhs_dilate", "1"),
    sizes("rhs_dilate", "1"),
    strict=True,
  ):
    positions *= _meetings(
      length=left.shape[ins.index(axis)],
      results=i.arrays[0].shape[outs.index(axis)],
      size=int(size),
      stride=int(stride),
      pad=int(pad.split("_")[0]),
      dilate=int(dilate),
      spread=int(spread),
    )
  groups = int(i.attribute(r"batch_group_count=(\d+)") or 1)
  # The kernel's input features are those of one group.
  return (
    positions
    * right.shape[kernel.index("i")]
    * right.shape[kernel.index("o")]
    * left.shape[ins.index("b")]
    / groups
  )


def _meetings(
  length: int,
  results: int,
  size: int,
  stride: int,
  pad: int,
  dilate: int,
  spread: int,
) -> int:
  """Returns the pairs of a result and a place of the window that hold data.

  Args:
    length: numbers along the axis.
    results: results along the axis.
    size: places of the window.
    stride: step of the window between two results.
    pad: zeros before the numbers.
    dilate: distance of two numbers, with zeros between them.
    spread: distance of two places of the window.
  """
  if size == 1 and pad == 0 and dilate == 1:
    return results
  out = 0
  for place in range(size):
    # result * stride + place * spread - pad = dilate * number, for a number
    # in 0, 1, ... length - 1.
    shift = place * spread - pad
    first = max(0, math.ceil(-shift / stride))
    last = min(results - 1, ((length - 1) * dilate - shift) // stride)
    if last < first:
      continue
    if dilate == 1:
      out += last - first + 1
    else:
      out += sum(
        (result * stride + shift) % dilate == 0
        for result in range(first, last + 1)
      )
  return out


def _moved(
  module: hlo.Module, computation: hlo.Computation, i: hlo.Instruction
) -> _Bytes:
  """Returns what an instruction of a computation that runs moves."""
  if i.op in _FREE or i.op.endswith("-done") or i.target in _FREE_TARGETS:
    return 0, 0
  if i.op in _MOVED:
    return _MOVED[i.op](computation, i)
  inside = module.inside(i)
  if inside is not None and i.op != "call":
    return _moved_by_fusion(module, computation, i, inside)
  # An operand that is named twice is read once; constants are in the program.
  operands = {o.name: o for o in computation.operands(i) if o.op != "constant"}
  return _in_hbm(_arrays(operands.values())), _in_hbm(i.arrays)


def _moved_by_copy(_: hlo.Computation, i: hlo.Instruction) -> _Bytes:
  """Of an asynchronous copy, whose result is (target, source, context)."""
  target, source = i.arrays[:2]
  return source.in_hbm * target.padded, target.in_hbm * target.padded


def _moved_by_slice_start(_: hlo.Computation, i: hlo.Instruction) -> _Bytes:
  """Of an asynchronous slice; its result is ((source), target, context)."""
  source, target = i.arrays[:2]
  return source.in_hbm * target.padded, target.in_hbm * target.padded


def _moved_by_collective(
  computation: hlo.Computation, i: hlo.Instruction
) -> _Bytes:
  # A pair (operand, result) where it is asynchronous.
  results = i.arrays[1:2] if i.op.endswith("-start") else i.arrays
  return _in_hbm(_arrays(computation.operands(i))), _in_hbm(results)


def _moved_by_update(
  computation: hlo.Computation, i: hlo.Instruction
) -> _Bytes:
  update = computation.operands(i)[1].arrays[0]
  return update.in_hbm * update.padded, i.arrays[0].in_hbm * update.padded


def _moved_by_slice(computation: hlo.Computation, i: hlo.Instruction) -> _Bytes:
  source, part = computation.operands(i)[0].arrays[0], i.arrays[0]
  return source.in_hbm * part.padded, part.in_hbm * part.padded


# Operations that do not read all of their operands and write all results.
_MOVED: dict[str, Callable[[hlo.Computation, hlo.Instruction], _Bytes]] = {
  "copy-start": _moved_by_copy,
  "slice-start": _moved_by_slice_start,
  "dynamic-update-slice": _moved_by_update,
  **dict.fromkeys(_SLICES, _moved_by_slice),
  **dict.fromkeys(COLLECTIVES, _moved_by_collective),
  **dict.fromkeys(_COLLECTIVE_STARTS, _moved_by_collective),
}


def _moved_by_fusion(
  module: hlo.Module,
  computation: hlo.Computation,
  i: hlo.Instruction,
  inside: hlo.Computation,
) -> _Bytes:
  """Returns what a fusion moves.

  Args:
    module: program.
    computation: computation of the fusion.
    i: the fusion.
    inside: its own computation.
  """
  read, seen = 0.0, set()
  for number, operand in enumerate(computation.operands(i)):
    if operand.name in seen or number not in inside.parameters:
      continue
    seen.add(operand.name)
    whole = _in_hbm(operand.arrays)
    if whole:
      parameter = inside.parameters[number]
      read += min(whole, _read_of(module, inside, parameter))
  # The layout of a result is declared outside, the op that makes it is inside.
  results = (
    inside.operands(inside.root)
    if inside.root.op == "tuple"
    else [inside.root] * len(i.arrays)
  )
  written = sum(
    min(array.padded, _written(inside, value, array))
    for value, array in zip(results, i.arrays, strict=False)
    if array.in_hbm
  )
  # What an asynchronous collective reads and writes is counted where it
  # starts: its fusion hands on the part and the whole.
  for value in inside:
    if value.target == "AsyncCollectiveStart":
      outside = [o for o in computation.operands(i) if o.arrays]
      read += _in_hbm(outside[0].arrays)
      written += _in_hbm(i.arrays[1:2])
  return read, written


def _arrays(instructions: Iterable[hlo.Instruction]) -> Iterator[hlo.Array]:
  return (array for i in instructions for array in i.arrays)


def _in_hbm(arrays: Iterable[hlo.Array]) -> int:
  return sum(a.padded for a in arrays if a.in_hbm)


@dataclasses.dataclass(frozen=True)
class _Use:
  """A use of a value inside of a fusion.

  Attributes:
    module: program.
    inside: computation of the fusion.
    value: a parameter of the fusion, or another name of its bytes.
    user: the instruction that has it as an operand.
  """

  module: hlo.Module
  inside: hlo.Computation
  value: hlo.Instruction
  user: hlo.Instruction

  @property
  def is_first(self) -> bool:
    """Returns whether the value is the first operand: an array, no index."""
    return self.user.operands[0] == self.value.name


def _read_of(
  module: hlo.Module, inside: hlo.Computation, value: hlo.Instruction
) -> float:
  """Returns the bytes of a value that a fusion reads; `_WHOLE` for all.

  Args:
    module: program.
    inside: computation of the fusion.
    value: a parameter of the fusion, or another name of its bytes.
  """
  out = 0.0
  for user in inside.users[value.name]:
    if user.op == "tuple" or user.target in _FREE_TARGETS:
      continue
    if user.op not in _READ:
      return _WHOLE
    out += _READ[user.op](_Use(module, inside, value, user))
  return out


def _read_by_slice(use: _Use) -> float:
  return use.user.arrays[0].padded if use.is_first else _WHOLE


def _read_by_update(use: _Use) -> float:
  # What is changed in place is not read; the update is.
  return 0.0 if use.is_first else _WHOLE


def _read_by_collective(use: _Use) -> float:
  # A part of an asynchronous one is counted where that starts.
  return 0.0 if _spread(use.inside) else _WHOLE


def _read_by_bitcast(use: _Use) -> float:
  return _read_of(use.module, use.inside, use.user)


def _read_by_fusion(use: _Use) -> float:
  """Of a fusion inside of the fusion, which may hand on the value as it is."""
  inner = use.module.inside(use.user)
  if inner is None:
    return _WHOLE
  out = 0.0
  for number, operand in enumerate(use.user.operands):
    if operand != use.value.name:
      continue
    parameter = inner.parameters[number]
    out += _read_of(use.module, inner, parameter)
    if _source(inner, inner.root) is parameter:
      out += _read_of(use.module, use.inside, use.user)
  return out


# Stands for all bytes of a value, however many.
_WHOLE = math.inf
# Operations inside of a fusion that may read less of an operand than all.
_READ: dict[str, Callable[[_Use], float]] = {
  "bitcast": _read_by_bitcast,
  "dynamic-update-slice": _read_by_update,
  "fusion": _read_by_fusion,
  **dict.fromkeys(_SLICES, _read_by_slice),
  **dict.fromkeys(COLLECTIVES, _read_by_collective),
  **dict.fromkeys(_COLLECTIVE_STARTS, _read_by_collective),
}


def _source(inside: hlo.Computation, value: hlo.Instruction) -> hlo.Instruction:
  """Returns the instruction behind the bitcasts of a value."""
  while value.op == "bitcast" and inside.operands(value):
    value = inside.operands(value)[0]
  return value


def _written(
  inside: hlo.Computation, value: hlo.Instruction, array: hlo.Array
) -> float:
  """Returns the bytes of a fusion's result that it writes.

  Args:
    inside: computation of the fusion.
    value: value of which the result is made.
    array: the result, in the layout that it has outside.
  """
  value = _source(inside, value)
  if value.op == "dynamic-update-slice":
    return inside.operands(value)[1].arrays[0].padded
  if value.op == "get-tuple-element":
    value = inside.operands(value)[0]
  handed_on = value.op == "parameter" or value.target in _FREE_TARGETS
  # A part of an asynchronous one is counted where that starts.
  is_part = value.op in COLLECTIVES and _spread(inside)
  return 0.0 if handed_on or is_part else array.padded


def _spread(inside: hlo.Computation) -> bool:
  """Returns whether a fusion has a part of an asynchronous collective."""
  return not inside.name.startswith(_REDUCE_SCATTER) and any(
    i.op in COLLECTIVES or i.target.startswith("AsyncCollective")
    for i in inside
  )
