"""The device mesh, and the mapping from logical array axes to mesh axes.

Only this file and `configs/` name mesh axes: `data` splits the batch, `fsdp`
splits the batch and the parameters, `tensor` splits heads, the MLP and the
vocabulary.
"""

from collections.abc import Mapping, Sequence
import functools
import math
from typing import Any

import jax
from jax import lax
from jax.experimental import mesh_utils, multihost_utils
import jax.numpy as jnp
from jax.sharding import (
  AbstractDevice,
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)
import numpy as np

from progrpo_jax import errors

AXES = ("data", "fsdp", "tensor")

# Logical axis -> mesh axes that split it. "batch" is the first axis of batches.
RULES: Mapping[str, tuple[str, ...]] = {
  "batch": ("data", "fsdp"),
  "vocab": ("tensor",),
  "embed": ("fsdp",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "mlp": ("tensor",),
}


# The same for the weights that decoding reads: whole over `fsdp`, or they would
# be gathered for every token.
DECODING = {**RULES, "embed": ()}


def make_mesh(
  data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None
) -> Mesh:
  """Makes a mesh over devices.

  Args:
    data: devices along "data". Of the three sizes one may be -1, which is then
      the number of devices divided by the other two.
    fsdp: devices along "fsdp".
    tensor: devices along "tensor".
    devices: devices of the mesh; None takes all.

  Raises:
    InputError: the sizes do not multiply to the number of devices, or the
      devices are those of several slices.
  """
  devices = list(devices if devices is not None else jax.devices())
  # A device that exists for the compiler alone does not know its slice.
  slices = {
    getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"
  }
  if len(slices) > 1:
    raise errors.InputError(
      f"{len(devices)} TPUs of {len(slices)} slices: a run takes one slice, "
      "whose TPUs are connected with each other"
    )
  return Mesh(
    mesh_utils.create_device_mesh(
      _sizes((data, fsdp, tensor), len(devices)),
      devices,
      # `jax.make_mesh` does so on v5e alone. A slice of v5p or v4 may have
      # 4 x 4 x 4 chips, on which 2 or 8 take a part of an axis.
      allow_split_physical_axes=True,
    ),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
  )


def abstract_mesh(
  count: int, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> AbstractMesh:
  """Makes the mesh that `count` devices would form, without real devices.

  Specs and shardings can be derived from it as from a real mesh.

  Args:
    count: number of devices.
    data: devices along "data"; as in `make_mesh`, one size may be -1.
    fsdp: devices along "fsdp".
    tensor: devices along "tensor".

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  return AbstractMesh(
    _sizes((data, fsdp, tensor), count),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
  )


def refactored(mesh, tensor: int):
  """Returns a mesh of the same devices in the same order, split otherwise.

  Arrays of both meshes may meet in one program, because the order of the
  devices is the same.

  Args:
    mesh: real or abstract mesh.
    tensor: devices along "tensor"; all others are along "fsdp".

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  if mesh.shape["tensor"] == tensor:
    return mesh
  sizes = _sizes((1, -1, tensor), mesh.size)
  types = (AxisType.Auto,) * len(AXES)
  if isinstance(mesh, AbstractMesh):
    return AbstractMesh(sizes, AXES, axis_types=types)
  return Mesh(mesh.devices.reshape(sizes), AXES, axis_types=types)


def _sizes(sizes: Sequence[int], count: int) -> tuple[int, ...]:
  """Mesh sizes with a -1 replaced by the devices left for that axis."""
  sizes = list(sizes)
  given = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise errors.InputError(
      f"mesh sizes {dict(zip(AXES, sizes))}: each is at least 1, and at "
      "most one is -1"
    )
  # A remainder leaves the -1, so that the product below cannot match.
  if -1 in sizes and count % given == 0:
    sizes[sizes.index(-1)] = count // given
  if math.prod(sizes) != count:
    raise errors.InputError(
      f"mesh {dict(zip(AXES, sizes))} does not fit {count} "
      "device(s): the sizes must multiply to that number; set config.mesh"
    )
  return tuple(sizes)


def spec(
  axes: Sequence[str | None],
  shape: Sequence[int],
  mesh: Mesh,
  rules: Mapping[str, tuple[str, ...]] = RULES,
) -> PartitionSpec:
  """Partition spec of an array from the names of its logical axes.

  A dimension that its mesh axes do not divide stays whole: two KV heads are
  replicated on a `tensor` axis of four.

  Args:
    axes: logical name of each dimension; None does not split it.
    shape: shape of the array.
    mesh: mesh that will hold the array.
    rules: mesh axes of each logical axis; unknown names are not split.

  Raises:
    ValueError: two dimensions map to one mesh axis, or `axes` and `shape`
      differ in length.
  """
  if len(axes) != len(shape):
    raise ValueError(f"logical axes {axes} do not match shape {shape}")
  parts, used = [], {}
  for name, size in zip(axes, shape):
    wanted = tuple(a for a in rules.get(name, ()) if mesh.shape[a] > 1)
    if not wanted or size % math.prod(mesh.shape[a] for a in wanted):
      parts.append(None)
      continue
    for axis in wanted:
      if axis in used:
        raise ValueError(
          f"logical axes {used[axis]!r} and {name!r} of {tuple(axes)} both "
          f"map to mesh axis {axis!r}; change the sharding rules"
        )
      used[axis] = name
    parts.append(wanted if len(wanted) > 1 else wanted[0])
  # Drop trailing Nones, as XLA does in the shardings that it returns: JAX's
  # cache of compiled programs tells the two spellings apart, and an update
  # would be compiled again for parameters from an earlier update.
  while parts and parts[-1] is None:
    parts.pop()
  return PartitionSpec(*parts)


def named(
  axes: Sequence[str | None],
  shape: Sequence[int],
  mesh: Mesh,
  rules: Mapping[str, tuple[str, ...]] = RULES,
) -> NamedSharding:
  """Sharding of an array from its logical axes; arguments as for `spec`."""
  return NamedSharding(mesh, spec(axes, shape, mesh, rules))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding that holds the whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def ways(axis: str, mesh: Mesh) -> int:
  """Number of parts into which a mesh splits a logical axis it divides."""
  return math.prod(mesh.shape[a] for a in RULES[axis])


def batch_shards(mesh: Mesh) -> int:
  """Number of parts into which a mesh splits the rows of a batch."""
  return ways("batch", mesh)


def rows(mesh: Mesh) -> NamedSharding:
  """Sharding that splits the first axis, the rows of a batch."""
  return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def along(rank: int, mesh: Mesh, axis: int) -> NamedSharding:
  """Sharding that splits one axis as rows; without it, arrays are whole."""
  if rank <= axis:
    return replicated(mesh)
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, RULES["batch"]))


def put_rows(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
  """Places host arrays on the mesh, split along one axis.

  Args:
    tree: arrays with all rows; equal in every process. Those without that axis
      are placed whole on every device.
    mesh: mesh that will hold them.
    axis: the axis of the rows.

  Returns:
    The tree with device arrays; each device holds only its rows.
  """

  def put(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(
      x.shape, along(x.ndim, mesh, axis), x.__getitem__
    )

  return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
  """Copies whole arrays to the host, in every process.

  A collective where arrays are spread over processes: their parts are
  gathered first.
  """

  def gathered(x):
    if isinstance(x, jax.Array) and not (
      x.is_fully_addressable or x.is_fully_replicated
    ):
      return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return x

  return jax.device_get(jax.tree.map(gathered, tree))


def constrain_rows(x):
  """Constrains the first axis of `x` to be split as rows, inside a jit.

  Takes the mesh from `jax.set_mesh`; without one, as in a notebook, returns
  `x` unchanged.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return lax.with_sharding_constraint(x, PartitionSpec(RULES["batch"]))


def constrain(x, axes: Sequence[str | None]):
  """Constrains `x` to be split by its logical axes, inside a jit.

  Takes the mesh from `jax.set_mesh`; without one returns `x` unchanged. A
  result of the jit comes out in this very sharding, so that a program which
  reads it is not compiled again.

  Args:
    x: array.
    axes: logical names of its first dimensions; the rest is not split.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  names = (*axes, *(None,) * (x.ndim - len(axes)))
  return lax.with_sharding_constraint(x, spec(names, x.shape, mesh))


def shards_of(axis: str, size: int) -> int:
  """Number of parts into which the mesh in context splits a dimension.

  Args:
    axis: logical name of the dimension.
    size: its size.
  """
  mesh = jax.sharding.get_abstract_mesh()
  count = 1 if mesh.empty else ways(axis, mesh)
  return 1 if size % count else count


def constrain_vocab(x_DV):
  """Constrains a matrix [D, V] to be whole but for its vocabulary, in a jit."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x_DV
  return lax.with_sharding_constraint(
    x_DV, spec((None, "vocab"), x_DV.shape, mesh)
  )


def shards_in_context() -> int:
  """Number of parts of a batch on the mesh of `jax.set_mesh`; 1 without one."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else batch_shards(mesh)


def by_shard(
  fn, args: Sequence[Any], axes: Sequence[Sequence[str | None]]
) -> jax.Array:
  """Calls `fn` on every device with that device's parts of the arguments.

  For functions that XLA's partitioner cannot split, such as kernels. Without
  a mesh in context, or on one device, this is a plain call.

  Args:
    fn: function of the parts; its result is split as its first argument.
    args: whole arrays.
    axes: logical axes of each array.

  Returns:
    The whole result of `fn`.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return fn(*args)
  specs = tuple(
    spec(names, x.shape, mesh) for x, names in zip(args, axes, strict=True)
  )
  # `check_vma` is off: JAX cannot infer over which mesh axes a kernel's result
  # varies.
  return jax.shard_map(fn, in_specs=specs, out_specs=specs[0], check_vma=False)(
    *args
  )


def unequal_copies(tree: Any, mesh: Mesh) -> list[str]:
  """Paths of the arrays whose copies differ between devices.

  An array that is not split along a mesh axis has a copy on every device of
  that axis. JAX never compares the copies, so a faulty chip or a host that
  diverged shows only here.

  Args:
    tree: arrays on the mesh.
    mesh: mesh of all processes; every process must call this.

  Returns:
    Paths in the tree, their keys joined by "/".
  """
  if mesh.size == 1:
    return []
  leaves = jax.tree.leaves_with_path(tree)
  arrays = [x for _, x in leaves]
  specs = tuple(x.sharding.spec for x in arrays)
  checksums = fetch(_checksums(tuple(arrays), mesh, specs))
  unequal = []
  for (path, _), spec_, sums in zip(leaves, specs, checksums, strict=True):
    # `sums` has an axis per mesh axis; along those that do not split the array
    # all entries must be equal.
    split = {a for part in spec_ if part for a in np.ravel(part)}
    copies = tuple(i for i, a in enumerate(mesh.axis_names) if a not in split)
    if (sums.max(copies) != sums.min(copies)).any():
      unequal.append(jax.tree_util.keystr(path, simple=True, separator="/"))
  return unequal


@functools.partial(jax.jit, static_argnames=("mesh", "specs"))
def _checksums(arrays, mesh: Mesh, specs):
  """Checksums of each array's parts: uint32, one per device, in mesh shape."""
  unit = (1,) * len(mesh.axis_names)

  def checksum(x):
    bits = lax.bitcast_convert_type(
      x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    ).astype(jnp.uint32)
    # Weighted by position, so that swapped numbers change the sum. Odd weights
    # have an inverse modulo 2^32: any change of one number changes the sum.
    place = lax.iota(jnp.uint32, bits.size).reshape(bits.shape)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32).reshape(unit)

  return jax.shard_map(
    lambda *parts: tuple(map(checksum, parts)),
    mesh=mesh,
    in_specs=specs,
    out_specs=(PartitionSpec(*mesh.axis_names),) * len(specs),
    check_vma=False,
  )(*arrays)


def platform() -> str:
  """Platform ("cpu", "gpu" or "tpu") that a function being traced will run on.

  The platform of the mesh in context, or JAX's default without one. It cannot
  be read from the arguments: while traced they have shapes but no devices.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def pretend(platform: str):
  """Context in which functions are traced for one device of a platform."""
  device = AbstractDevice(device_kind=platform, num_cores=1, platform=platform)
  return jax.sharding.use_abstract_mesh(
    AbstractMesh(
      (1,) * len(AXES),
      AXES,
      axis_types=(AxisType.Auto,) * len(AXES),
      abstract_device=device,
    )
  )
