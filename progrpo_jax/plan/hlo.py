"""Reads the text of a compiled program: XLA's optimised HLO.

The text is that of `jax.stages.Compiled.as_text()`, one program for each
device. A module is a set of computations; a computation is a list of
instructions in the order in which they run. Loops (`while`), fusions and
asynchronous operations name other computations as their bodies. What the
instructions cost is counted in `counts`.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d\w*)?)\[([\d,]*)\](?:\{([^{}]*)\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%?([\w.\-]+)")

# Memory spaces of a layout, S(n). Without one an array lies in the device's
# main memory (HBM); the others are on the chip, but for the host's memory.
HBM, VMEM = 0, 1


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of a program.

  Attributes:
    dtype: HLO's name of the type, such as "bf16".
    shape: sizes of the axes.
    space: memory space, `HBM`, `VMEM` or a smaller one.
    nbytes: bytes of the numbers.
    padded: bytes that it takes in its tiled layout.
  """

  dtype: str
  shape: tuple[int, ...]
  space: int
  nbytes: int
  padded: int

  @property
  def in_hbm(self) -> bool:
    """Returns whether it lies in the device's main memory."""
    return self.space == HBM


@dataclasses.dataclass(frozen=True)
class Instruction:
  """An instruction.

  Attributes:
    name: its name, without "%".
    op: operation, such as "fusion".
    arrays: arrays of its result, those of nested tuples one after another.
    operands: names of its operands.
    text: text between the parentheses of the operation.
    attributes: text after them.
    is_root: whether its result is that of the computation.
  """

  name: str
  op: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  text: str
  attributes: str
  is_root: bool

  @functools.cached_property
  def called(self) -> dict[str, str]:
    """Computations that it names: attribute -> name."""
    return dict(_CALLED.findall(self.attributes))

  @property
  def op_name(self) -> str:
    """Path of the JAX operation that it comes from, "" if unknown."""
    return self.attribute(r'op_name="([^"]*)"')

  @property
  def target(self) -> str:
    """Target of a custom call, "" for other operations."""
    return self.attribute(r'custom_call_target="([^"]*)"')

  @property
  def cycles(self) -> int:
    """Cycles that the compiler estimates, 0 where it says nothing."""
    return int(self.attribute(r'"estimated_cycles":"(\d+)"') or 0)

  def attribute(self, pattern: str) -> str:
    """Returns the first group of a pattern in the attributes, or ""."""
    match = re.search(pattern, self.attributes)
    return match.group(1) if match else ""


@dataclasses.dataclass(frozen=True)
class Computation:
  """A computation.

  Attributes:
    name: its name, without "%".
    instructions: name -> instruction, in the order in which they run.
  """

  name: str
  instructions: dict[str, Instruction]

  def __iter__(self) -> Iterator[Instruction]:
    return iter(self.instructions.values())

  @functools.cached_property
  def root(self) -> Instruction:
    """The instruction whose result is that of the computation."""
    return next(i for i in self if i.is_root)

  @functools.cached_property
  def parameters(self) -> dict[int, Instruction]:
    """Number of a parameter -> its instruction."""
    return {int(i.text): i for i in self if i.op == "parameter"}

  @functools.cached_property
  def users(self) -> dict[str, list[Instruction]]:
    """Name of an instruction -> the instructions that read it."""
    out = {name: [] for name in self.instructions}
    for instruction in self:
      for operand in dict.fromkeys(instruction.operands):
        if operand in out:
          out[operand].append(instruction)
    return out

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """Returns the instructions whose results another one reads."""
    by_name = self.instructions
    return [by_name[name] for name in instruction.operands if name in by_name]


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program.

  Attributes:
    computations: name -> computation.
    entry: the computation that runs first.
  """

  computations: dict[str, Computation]
  entry: Computation

  def inside(self, instruction: Instruction) -> Computation | None:
    """Returns the computation inside a fusion or a call, if it is one."""
    kind = "to_apply" if instruction.op == "call" else "calls"
    return self.computations.get(instruction.called.get(kind, ""))

  def branches(self, instruction: Instruction) -> list[Computation]:
    """Returns the computations of which a `conditional` runs one."""
    listed = instruction.attribute(r"branch_computations=\{([^}]*)\}")
    return [self.computations[name] for name in _NAME.findall(listed)]


@dataclasses.dataclass(frozen=True)
class Loop:
  """A `while` of a program.

  Attributes:
    instruction: the `while`.
    body: computation of an iteration.
    trips: number of iterations; None where it is decided at run time.
    depth: number of loops around it.
  """

  instruction: Instruction
  body: Computation
  trips: int | None
  depth: int


def parse(text: str) -> Module:
  """Reads the text of a program.

  Args:
    text: optimised HLO.

  Raises:
    ValueError: the text has no entry computation.
  """
  computations, entry, lines, name = {}, "", None, ""
  for line in text.splitlines():
    if lines is None:
      head = _COMPUTATION.match(line)
      if head:
        lines, name = [], head.group(2)
        entry = name if head.group(1) else entry
    elif line == "}":
      read = map(_instruction, lines)
      computations[name] = Computation(name, {i.name: i for i in read})
      lines = None
    elif _INSTRUCTION.match(line):
      lines.append(line)
    else:  # metadata of kernels have line feeds
      lines[-1] += line
  if entry not in computations:
    raise ValueError("no HLO: the text has no ENTRY computation")
  return Module(computations, computations[entry])


def arrays_of(text: str) -> tuple[Array, ...]:
  """Returns the arrays of the text of a shape, which may be a tuple."""
  return tuple(_array(*match) for match in _ARRAY.findall(text))


def loops(module: Module) -> list[Loop]:
  """Returns all loops that the program runs, outer ones before inner ones."""
  return list(_loops(module, module.entry, 0))


def invariant(loop: Loop) -> set[str]:
  """Returns the names in a loop's body whose values never change.

  These are constants, the elements of the carried tuple that an iteration
  hands on as they are, such as weights, and all that is computed from these
  alone, also in the iteration before, as what is fetched ahead.
  """
  body = loop.body
  carried = body.operands(body.root)
  constant = {
    index
    for index, read in enumerate(carried)
    if read.op == "get-tuple-element" and _index(read) == index
  }
  while True:
    out = _computed_from(body, constant)
    more = {i for i, read in enumerate(carried) if read.name in out}
    if more <= constant:
      return out
    constant |= more


def _computed_from(body: Computation, elements: set[int]) -> set[str]:
  """Returns the names that depend on these elements of the carried tuple."""
  out = set()
  for i in body:
    if i.op == "get-tuple-element" and (
      body.instructions[i.operands[0]].op == "parameter"
    ):
      same = _index(i) in elements
    elif i.op in ("parameter", "rng-bit-generator", "infeed", "recv"):
      same = False
    else:
      same = all(o in out for o in i.operands if o in body.instructions)
    if same:
      out.add(i.name)
  return out


def _loops(module, computation, depth) -> Iterator[Loop]:
  for i in computation:
    if i.op == "while":
      body = module.computations[i.called["body"]]
      yield Loop(i, body, _trips(module, computation, i), depth)
      yield from _loops(module, body, depth + 1)
    else:
      inside = module.inside(i)
      for inner in [*filter(None, [inside]), *module.branches(i)]:
        yield from _loops(module, inner, depth)


def _trips(module, around: Computation, loop: Instruction) -> int | None:
  """Returns a loop's number of iterations, None if the program decides it."""
  declared = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
  if declared:
    return int(declared)
  # A counter that rises by one until it is no longer below a constant.
  condition = module.computations[loop.called["condition"]]
  root = condition.root
  if root.op != "compare" or "direction=LT" not in root.attributes:
    return None
  counter, end = condition.operands(root)
  if counter.op != "get-tuple-element" or end.op != "constant":
    return None
  return int(end.text) - _start(around, loop, _index(counter))


def _start(around: Computation, loop: Instruction, index: int) -> int:
  """Returns the constant that a loop's counter starts from; 0 if unclear."""
  carried = around.instructions.get(loop.operands[0])
  if carried is None or carried.op != "tuple":
    return 0
  value = around.instructions.get(carried.operands[index])
  while value is not None and value.op in ("copy", "bitcast"):
    value = around.instructions.get(value.operands[0])
  if value is None or value.op != "constant":
    return 0
  return int(value.text)


def _index(element: Instruction) -> int:
  return int(element.attribute(r"\bindex=(\d+)"))


def _instruction(line: str) -> Instruction:
  """Reads a line `[ROOT] %name = shape op(operands), attributes`."""
  head = _INSTRUCTION.match(line)
  rest = line[head.end() :]
  size = _closing(rest) if rest.startswith("(") else rest.index(" ")
  shape, rest = rest[:size], rest[size:].lstrip()
  op, _, _ = rest.partition("(")
  end = _closing(rest[len(op) :]) + len(op)
  inside = rest[len(op) + 1 : end - 1]
  return Instruction(
    name=head.group(2),
    op=op,
    arrays=arrays_of(shape),
    operands=tuple(_NAME.findall(inside)),
    text=inside,
    attributes=rest[end:],
    is_root=bool(head.group(1)),
  )


def _closing(text: str) -> int:
  """Returns the position behind the parenthesis that closes the first one."""
  depth = 0
  for mark in re.finditer(r"[()]", text):
    depth += 1 if mark.group() == "(" else -1
    if not depth:
      return mark.end()
  raise ValueError(f"no HLO: a parenthesis is open in {text[:80]!r}")


@functools.lru_cache(maxsize=4096)
def _array(dtype: str, dims: str, layout: str) -> Array:
  shape = tuple(int(d) for d in dims.split(",") if d)
  bits = _BITS.get(dtype)
  if bits is None:
    number = re.search(r"\d+", dtype)
    bits = int(number.group()) if number else 0
  space = re.search(r"S\((\d+)\)", layout)
  count = math.prod(shape)
  return Array(
    dtype=dtype,
    shape=shape,
    space=int(space.group(1)) if space else HBM,
    nbytes=count * bits // 8,
    padded=_padded(shape, layout) * bits // 8,
  )


def _padded(shape: tuple[int, ...], layout: str) -> int:
  """Returns the number of elements of an array in whole tiles."""
  order, tile = re.match(r"[\d,]+", layout), _TILE.search(layout)
  if not shape or order is None or tile is None:
    return math.prod(shape)
  # The least significant axis comes first.
  sizes = [shape[int(axis)] for axis in order.group().split(",")]
  for place, step in enumerate(reversed(tile.group(1).split(","))):
    if place < len(sizes):
      sizes[place] = math.ceil(sizes[place] / int(step)) * int(step)
  return math.prod(sizes)
