"""The mesh and the way from logical axes to its axes, by hand."""

import dataclasses
import itertools

import jax
from jax.sharding import AbstractMesh, PartitionSpec
import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.devices import sharding

P = PartitionSpec
ONE = jax.devices()[:1]


def mesh(data=1, fsdp=1, tensor=1):
  """A mesh of sizes alone: partitions need no devices."""
  return AbstractMesh(
    (data, fsdp, tensor),
    sharding.AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * len(sharding.AXES),
  )


@pytest.mark.parametrize(
  "axes, shape, sizes, expected",
  [
    (("embed", "heads", None), (32, 8, 4), (2, 2, 2), P("fsdp", "tensor")),
    (("vocab", "embed"), (40, 32), (1, 4, 2), P("tensor", "fsdp")),
    (("batch", None), (8, 5), (2, 2, 2), P(("data", "fsdp"))),
    # An axis of one is not named.
    (("batch", None), (8, 5), (4, 1, 2), P("data")),
    (("embed", "mlp"), (32, 64), (8, 1, 1), P()),
    # What does not divide stays whole, every axis by itself.
    (("embed", None, "kv_heads", None), (32, 2, 2, 4), (1, 2, 4), P("fsdp")),
    (("batch",), (6,), (2, 2, 1), P()),
    (("vocab", "embed"), (41, 30), (1, 4, 2), P()),
    # Names without a rule are not split.
    (("layers", "mlp"), (2, 64), (1, 1, 4), P(None, "tensor")),
    ((), (), (2, 2, 2), P()),
  ],
)
def test_partitions_by_hand(axes, shape, sizes, expected):
  assert sharding.spec(axes, shape, mesh(*sizes)) == expected


@pytest.mark.parametrize(
  "axes, rules",
  [
    (("heads", "mlp"), sharding.RULES),
    (("vocab", "heads"), sharding.RULES),
    (("batch", "embed"), sharding.RULES),
    (("a", "b"), {"a": ("fsdp", "tensor"), "b": ("tensor",)}),
  ],
)
def test_two_dimensions_on_one_mesh_axis_are_refused(axes, rules):
  with pytest.raises(ValueError, match=f"{axes[0]}.*{axes[1]}.*sharding rul"):
    sharding.spec(axes, (8, 8), mesh(2, 2, 2), rules)


def test_axes_collide_only_on_a_mesh_that_splits_them():
  assert sharding.spec(("heads", "mlp"), (8, 8), mesh(2, 2, 1)) == P()


def test_lengths_of_axes_and_shape_must_agree():
  with pytest.raises(ValueError, match="do not match"):
    sharding.spec(("embed",), (8, 8), mesh())


@pytest.mark.parametrize(
  "sizes",
  [
    (2, 1, 1),
    (1, 1, 2),
    (-1, 2, 1),
    (-1, -1, 1),
    (0, 1, 1),
    (-2, 1, 1),
    (1, -1, 0),
  ],
)
def test_mesh_that_does_not_fit_the_devices_is_bad_input(sizes):
  with pytest.raises(errors.InputError, match="mesh"):
    sharding.make_mesh(*sizes, devices=ONE)


@pytest.mark.parametrize("sizes", [(), (1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_mesh_of_one_device(sizes):
  made = sharding.make_mesh(*sizes, devices=ONE)
  assert dict(made.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
  assert sharding.batch_shards(made) == 1


@dataclasses.dataclass(frozen=True)
class Chip:
  """What the mesh reads of a TPU."""

  id: int
  coords: tuple[int, ...]
  slice_index: int = 0
  process_index: int = 0
  core_on_chip: int = 0
  platform: str = "tpu"
  device_kind: str = "TPU v5p"


@pytest.mark.parametrize("tensor", [1, 2, 4, 8, 16])
def test_any_power_of_two_is_laid_on_a_cube_of_chips(tensor):
  """On 4 x 4 x 4 chips 2 and 8 are no product of whole axes."""
  places = itertools.product(range(4), repeat=3)
  cube = [Chip(i, coords) for i, coords in enumerate(places)]
  made = sharding.make_mesh(1, -1, tensor, devices=cube).devices
  assert made.shape == (1, 64 // tensor, tensor)
  assert {chip.id for chip in made.flat} == set(range(64))
  # Chips that share a layer's weights are neighbours of one another: each has
  # another of its group beside it.
  for group in made[0]:
    for chip in group:
      steps = [
        sum(abs(a - b) for a, b in zip(chip.coords, other.coords))
        for other in group
        if other is not chip
      ]
      assert not steps or min(steps) == 1


def test_tpus_of_several_slices_are_bad_input():
  two = [Chip(i, (i % 2, 0, 0), slice_index=i // 2) for i in range(4)]
  with pytest.raises(errors.InputError, match="4 TPUs of 2 slices"):
    sharding.make_mesh(devices=two)


def test_rows_are_split_over_data_and_fsdp():
  assert sharding.batch_shards(mesh(2, 4, 8)) == 8


def test_put_rows_keeps_values_and_types():
  one = sharding.make_mesh(devices=ONE)
  tree = {"a": np.arange(6, dtype=np.int32).reshape(3, 2), "b": np.ones(3) > 0}
  placed = sharding.put_rows(tree, one)
  for name, x in tree.items():
    assert placed[name].dtype == x.dtype
    assert placed[name].sharding == sharding.rows(one)
    np.testing.assert_array_equal(placed[name], x)


def test_constraint_without_a_mesh_does_nothing():
  x = jax.numpy.ones((3, 2))
  assert sharding.constrain_rows(x) is x
  assert "sharding" not in str(jax.make_jaxpr(sharding.constrain_rows)(x))


def test_constraint_under_a_mesh_splits_rows():
  with jax.set_mesh(sharding.make_mesh(devices=ONE)):
    jaxpr = jax.make_jaxpr(jax.jit(sharding.constrain_rows))(
      jax.numpy.ones((3, 2))
    )
  assert "sharding_constraint" in str(jaxpr)


def test_every_device_is_given_its_own_part():
  # The second array's first axis is whole: three are not divided by two.
  def trace(where):
    shapes = []

    def fn(*parts):
      shapes.append([x.shape for x in parts])
      return parts[0]

    def call(*args):
      return sharding.by_shard(
        fn, args, (("batch", None, "heads"), ("kv_heads", "batch"), ("heads",))
      )

    with jax.sharding.use_abstract_mesh(where):
      out = jax.eval_shape(
        call, *(np.zeros(s) for s in ((8, 5, 4), (3, 8), (4,)))
      )
    assert out.shape == (8, 5, 4)
    return shapes[0]

  assert trace(mesh(2, 2, 2)) == [(2, 5, 2), (3, 2), (2,)]
  assert trace(mesh(1, 2, 4)) == [(4, 5, 1), (3, 4), (1,)]
  assert trace(mesh()) == [(8, 5, 4), (3, 8), (4,)]


def test_without_a_mesh_by_shard_is_a_call():
  assert sharding.by_shard(lambda x, y: (x, y), (2, 3), (("batch",), ())) == (
    2,
    3,
  )


def test_platform_is_that_of_the_mesh_else_the_default():
  assert sharding.platform() == jax.default_backend()
  far = AbstractMesh(
    (1, 1, 1),
    sharding.AXES,
    abstract_device=jax.sharding.AbstractDevice(
      device_kind="TPU v5e", num_cores=1, platform="tpu"
    ),
  )
  with jax.sharding.use_abstract_mesh(far):
    # Traced and not run: newer JAX runs nothing on devices that are not here.
    traced = jax.eval_shape(lambda: np.zeros(len(sharding.platform())))
    assert traced.shape == (3,)
    assert sharding.platform() == "tpu"
  with jax.set_mesh(sharding.make_mesh(devices=ONE)):
    assert sharding.platform() == ONE[0].platform
