"""Run by `test_hosts.py` in two processes of two devices each.

Every process goes through all of it; `jax.process_index()` is where they part.
"""

import jax
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.devices import hosts, sharding

hosts.connect(heartbeat_s=20)
me, other = hosts.index(), 1 - hosts.index()
assert (hosts.count(), hosts.is_first()) == (2, me == 0)

# Values of any size and kind; a lone surrogate, as a model may write one.
assert hosts.gather((me, "é\ud800")) == [(0, "é\ud800"), (1, "é\ud800")]
sent = [np.arange(10 ** (3 + 2 * host)) for host in range(2)]
for found, wanted in zip(hosts.gather(sent[me]), sent, strict=True):
  np.testing.assert_array_equal(found, wanted)
assert hosts.from_first(f"of {me}") == "of 0"
assert hosts.any_of(me == 1) and not hosts.any_of(False)

# Shares are ordered and whole; of one thing somebody has none.
for total in (0, 1, 5, 8):
  shares = hosts.share_out(lambda part, n=total: list(range(n))[part], total)
  assert sum(shares, []) == list(range(total))
  assert abs(len(shares[0]) - len(shares[1])) <= 1


def fail(kind, text):
  raise kind(text)


class OfALibrary(Exception):
  """What a client of a bucket may raise; no other host can make one."""

  def __init__(self, text, of_client=None):
    super().__init__(text)
    self.of_client = lambda: of_client  # cannot be pickled


# What fails on one host fails on both, as what it is.
for kind, seen, named in (
  (errors.InputError, errors.InputError, ""),
  (errors.RunError, errors.RunError, ""),
  (OSError, errors.RunError, ""),
  (OfALibrary, errors.RunError, "OfALibrary: "),
):
  with pytest.raises(kind if me == 1 else seen) as caught:
    hosts.agree(lambda kind=kind: me and fail(kind, "no such file"))
  assert str(caught.value) == (
    "no such file" if me == 1 else f"host 1: {named}no such file"
  )
  assert hosts.is_on_all(caught.value)
assert hosts.agree(lambda: me) == me
assert hosts.on_first(lambda: f"of {me}") == ("of 0" if me == 0 else None)
with pytest.raises(errors.InputError, match="full$"):
  hosts.on_first(lambda: fail(errors.InputError, "full"))

hosts.compare("step 7", batch="a", config="b")
with pytest.raises(errors.RunError, match=r"step 7: .* in config \(hosts 1\)"):
  hosts.compare("step 7", batch="a", config=me)

# Every process passes all rows, each device keeps its own, and all come back.
mesh = sharding.make_mesh(2, 2, 1)
rows = np.arange(24).reshape(8, 3)
x = sharding.put_rows(rows, mesh)
assert not x.is_fully_addressable
for shard in x.addressable_shards:
  np.testing.assert_array_equal(shard.data, rows[shard.index])
np.testing.assert_array_equal(sharding.fetch({"x": x})["x"], rows)

# An array that is cut along one axis has a copy along the other.
halves = NamedSharding(mesh, PartitionSpec("fsdp"))


def copies(changed):
  """4 numbers in halves; a device has its second one's last bit changed."""
  parts = []
  for device, index in halves.addressable_devices_indices_map((4,)).items():
    part = np.arange(4, dtype=np.float32)[index].copy()
    if device.id == changed:
      part[1] = np.nextafter(part[1], np.float32(9))
    parts.append(jax.device_put(part, device))
  return jax.make_array_from_single_device_arrays((4,), halves, parts)


assert sharding.unequal_copies(dict(a=copies(None), b=x), mesh) == []
for device in jax.devices():
  tree = dict(a=copies(None), layers=dict(w=copies(device.id)), b=x)
  assert sharding.unequal_copies(tree, mesh) == ["layers/w"], device
print(f"met as {me}")
