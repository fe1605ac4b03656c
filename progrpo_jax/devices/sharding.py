"""The mesh, and the way from logical axes of an array to axes of the mesh.

This file and `configs/` alone name the axes of the mesh: `data` splits the
batch, `fsdp` splits the batch and the parameters, `tensor` splits heads, the
MLP and the vocabulary.
"""

from collections.abc import Mapping, Sequence
import functools
import math
from typing import Any

import jax
from jax import lax
from jax.experimental import multihost_utils
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

# Logical axis -> mesh axis or axes. `batch` is the rows of any batch.
RULES: Mapping[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
}


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
  """A mesh over the devices; one size may be -1 for "what is left".

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  devices = list(devices if devices is not None else jax.devices())
  return jax.make_mesh(
      _sizes((data, fsdp, tensor), len(devices)), AXES, devices=devices,
      axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(
    count: int, data: int = -1, fsdp: int = 1, tensor: int = 1,
) -> AbstractMesh:
  """The mesh that `count` devices would form, without any of them.

  Shapes, specs and shardings follow from it as from a real one.

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  return AbstractMesh(
      _sizes((data, fsdp, tensor), count), AXES,
      axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(sizes: Sequence[int], count: int) -> tuple[int, ...]:
  """The sizes with their -1 replaced by "what is left" of the devices."""
  sizes = list(sizes)
  known = math.prod(s for s in sizes if s != -1)
  if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
    raise errors.InputError(
        f"mesh sizes {dict(zip(AXES, sizes))}: each is at least 1, and at "
        "most one is -1")
  if -1 in sizes and count % known == 0:
    sizes[sizes.index(-1)] = count // known
  if math.prod(sizes) != count:
    raise errors.InputError(
        f"mesh {dict(zip(AXES, sizes))} does not fit {count} "
        "device(s): the sizes must multiply to that number; set config.mesh")
  return tuple(sizes)


def spec(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh,
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> PartitionSpec:
  """Partition of one array from the names of its logical axes.

  An axis that its mesh axes do not divide is left whole (two KV heads on a
  `tensor` axis of four are replicated).

  Args:
    axes: a logical name or None for each dimension.
    shape: of the array.
    mesh: on which it will live.
    rules: logical axis -> mesh axes; unknown names are not split.

  Raises:
    ValueError: two dimensions ask for one mesh axis, or the lengths differ.
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
            f"map to mesh axis {axis!r}; change the sharding rules")
      used[axis] = name
    parts.append(wanted if len(wanted) > 1 else wanted[0])
  # As XLA writes it: what an update returns must look, to the cache of
  # compiled programs, like what went in.
  while parts and parts[-1] is None:
    parts.pop()
  return PartitionSpec(*parts)


def named(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh,
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> NamedSharding:
  """`spec` on its mesh."""
  return NamedSharding(mesh, spec(axes, shape, mesh, rules))


def replicated(mesh: Mesh) -> NamedSharding:
  """Whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def ways(axis: str, mesh: Mesh) -> int:
  """Into how many parts a mesh would cut a logical axis."""
  return math.prod(mesh.shape[a] for a in RULES[axis])


def batch_shards(mesh: Mesh) -> int:
  """Into how many parts the rows of a batch are split."""
  return ways("batch", mesh)


def rows(mesh: Mesh) -> NamedSharding:
  """Split along the first axis, the rows of a batch."""
  return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def put_rows(tree: Any, mesh: Mesh) -> Any:
  """Places host arrays on the mesh, split along their first axis.

  Every process passes all rows; each device takes its own.
  """
  sharding = rows(mesh)

  def put(x):
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

  return jax.tree.map(put, tree)


def fetch(tree: Any) -> Any:
  """Whole arrays on the host, in every process alike.

  What no process holds whole is gathered by all devices first.
  """
  def get(x):
    if isinstance(x, jax.Array) and not (
        x.is_fully_addressable or x.is_fully_replicated):
      return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return x

  return jax.device_get(jax.tree.map(get, tree))


def constrain_rows(x):
  """Inside a jit under `jax.set_mesh`: keeps the first axis split as rows.

  Without a mesh in context, as in a notebook, it does nothing.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return lax.with_sharding_constraint(x, PartitionSpec(RULES["batch"]))


def by_shard(
    fn, args: Sequence[Any], axes: Sequence[Sequence[str | None]],
) -> jax.Array:
  """Calls `fn` on every device with that device's parts of the arguments.

  For what no partitioner can cut up, such as kernels. Without a mesh in
  context, or on one device, it is a plain call.

  Args:
    fn: function of the parts; its result is cut as its first argument is.
    args: arrays.
    axes: of each array the names of its logical axes.

  Returns:
    What `fn` returns, put together.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return fn(*args)
  specs = tuple(
      spec(names, x.shape, mesh) for x, names in zip(args, axes, strict=True))
  # Nothing knows what a kernel's result varies over, so it is not checked.
  return jax.shard_map(
      fn, in_specs=specs, out_specs=specs[0], check_vma=False)(*args)


def unequal_copies(tree: Any, mesh: Mesh) -> list[str]:
  """Names the arrays of which two devices hold different copies.

  An array that a mesh does not cut along an axis has a copy on every device
  of that axis, and nothing ever holds one copy against another: a chip that
  errs, or a host that went another way, shows here alone.

  Args:
    tree: arrays on the mesh.
    mesh: of all processes, which all call this.
  """
  if mesh.size == 1:
    return []
  leaves = jax.tree.leaves_with_path(tree)
  arrays = [x for _, x in leaves]
  specs = tuple(x.sharding.spec for x in arrays)
  sums = fetch(_checksums(tuple(arrays), mesh, specs))
  found = []
  for (path, _), spec_, sum_DFT in zip(leaves, specs, sums, strict=True):
    cut = {a for part in spec_ if part for a in np.ravel(part)}
    copies = tuple(i for i, a in enumerate(mesh.axis_names) if a not in cut)
    if (sum_DFT.max(copies) != sum_DFT.min(copies)).any():
      found.append(jax.tree_util.keystr(path, simple=True, separator="/"))
  return found


@functools.partial(jax.jit, static_argnames=("mesh", "specs"))
def _checksums(arrays, mesh: Mesh, specs):
  """A number of each array's part on each device, [data, fsdp, tensor]."""
  one = (1,) * len(mesh.axis_names)

  def of_part(x):
    bits = lax.bitcast_convert_type(
        x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).astype(jnp.uint32)
    # Odd weights by place: parts that swap two numbers differ too.
    place = lax.iota(jnp.uint32, bits.size).reshape(bits.shape)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32).reshape(one)

  return jax.shard_map(
      lambda *parts: tuple(map(of_part, parts)), mesh=mesh, in_specs=specs,
      out_specs=(PartitionSpec(*mesh.axis_names),) * len(specs),
      check_vma=False)(*arrays)


def platform() -> str:
  """The platform that a jit will run on, asked while it is traced.

  That of the mesh in context; without one, JAX's default. Arrays cannot be
  asked: a trace knows their shapes alone, and may serve others later.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else jax.default_backend()


def pretend(platform: str):
  """A context in which one device of a platform is traced for."""
  device = AbstractDevice(
      device_kind=platform, num_cores=1, platform=platform)
  return jax.sharding.use_abstract_mesh(AbstractMesh(
      (1,) * len(AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES),
      abstract_device=device))
