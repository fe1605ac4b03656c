"""Eight devices give what one gives, and none of them holds everything."""

import pathlib

SCRIPT = pathlib.Path(__file__).with_name("eight_devices.py")
# Compiled with the few optimizations of tests, a program of eight CPU devices
# that comes from the cache of compiled programs may wait for ever (jaxlib
# 0.10): its devices enter two independent sums in different orders. Compiled in
# the process itself it does not, and a run as users compile it does not either.
FRESH = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def test_eight_devices_equal_one(run_python):
  out = run_python([SCRIPT], timeout=280, env=FRESH).stdout
  assert out.count("equal on") == 3


def test_eight_devices_decode_as_one(run_python):
  out = run_python([SCRIPT, "decoding"], timeout=280, env=FRESH).stdout
  assert out.count("decodes alike on") == 3


def test_eight_devices_take_the_turns_of_one(run_python):
  out = run_python([SCRIPT, "turns"], timeout=280, env=FRESH).stdout
  assert out.count("converses alike on") == 2


def test_meshes_of_eight_devices(run_python):
  run_python("""
import jax, numpy as np
from progrpo_jax import errors
from progrpo_jax.devices import sharding

for given, sizes in [
    ((), (8, 1, 1)), ((2, 2, -1), (2, 2, 2)), ((1, -1, 2), (1, 4, 2)),
    ((-1, 8, 1), (1, 8, 1))]:
  assert tuple(sharding.make_mesh(*given).shape.values()) == sizes, given
for given in [(3, 1, 1), (-1, 3, 1), (2, 2, 1), (16, 1, 1), (-1, -1, 8)]:
  try:
    sharding.make_mesh(*given)
  except errors.InputError as e:
    assert "mesh" in str(e)
  else:
    raise AssertionError(given)

mesh = sharding.make_mesh(2, 2, 2)
x = sharding.put_rows(np.arange(24).reshape(8, 3), mesh)
assert x.sharding.shard_shape(x.shape) == (2, 3)
np.testing.assert_array_equal(x, np.arange(24).reshape(8, 3))
""")
