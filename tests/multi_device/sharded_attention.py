"""Run by `test_sharded_attention.py` in a process with eight CPU devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax.devices import sharding
from progrpo_jax.models import attention, fused_attention

N, R, T, H = 8, 2, 20, 8
EMULATED = {
  "splash": functools.partial(fused_attention.splash, interpret=True),
  "cudnn": lambda q, own, ids: fused_attention.cudnn(
    q, own, ids > 0, implementation="xla"
  ),
  "blocks": lambda q, own, ids: attention.in_blocks(
    q, own, attention.Segments(ids), size=8
  ),
}

# Name, mesh, key heads, heads of each, and what a device's kernel then gets:
# sequences, heads and key heads.
CASES = [
  # Rows alone.
  ("cudnn", (8, 1, 1), 2, 2, (2, 4, 2)),
  # Rows and key heads.
  ("cudnn", (2, 2, 2), 2, 2, (4, 2, 1)),
  ("splash", (2, 2, 2), 2, 2, (4, 2, 1)),
  # Two key heads on four devices: three heads each, all of one key head.
  ("cudnn", (1, 2, 4), 2, 6, (8, 3, 1)),
  ("splash", (1, 2, 4), 2, 6, (8, 3, 1)),
  # Three key heads on two devices: three heads each, of two key heads.
  ("cudnn", (2, 2, 2), 3, 2, (4, 3, 3)),
  # Heads that the devices do not divide stay whole.
  ("cudnn", (1, 2, 4), 1, 6, (8, 6, 1)),
  ("blocks", (1, 2, 4), 2, 6, None),
]


def case(key_heads, group):
  """(q, own, ids), prompts padded on either side."""
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  mask = np.arange(T) >= rng.integers(0, T, (N, 1))
  mask[::2] = mask[::2, ::-1]
  k, m = key_heads, group
  return (
    normal(N, R, T, k, m, H),
    (normal(N, R, k, H, T), normal(N, R, k, T, H)),
    mask.astype(np.int32),
  )


@functools.cache
def reference(key_heads, group):
  """What one device gives."""

  def attend(q, own, ids):
    return attention.causal(q, own, attention.Segments(ids))

  return jax.device_get(run(attend, *case(key_heads, group)))


def run(attend, q, own, ids):
  """Values of what is not padding, and gradients."""
  direction = np.random.default_rng(1).normal(size=q.shape)

  def total(q, own):
    out = attend(q, own, ids)
    real = (ids > 0)[:, None, :, None, None, None]
    out = jnp.where(real, out, 0)
    return jnp.sum(out * direction), out

  (_, out), gradients = jax.jit(
    jax.value_and_grad(total, (0, 1), has_aux=True)
  )(q, own)
  return out, gradients


def recorded(name, made):
  """Has the kernel's local shapes appended to `made`."""
  inner = getattr(fused_attention, f"_{name}")

  def kernel(q, k, v, real, **kwargs):
    assert k.shape == v.shape and real.shape == k.shape[:2]
    made.append((len(q), q.shape[2], k.shape[2]))
    return inner(q, k, v, real, **kwargs)

  return inner, kernel


def check(name, sizes, key_heads, group, expected_shape):
  """Asserts that a mesh gives what one device gives, by its own part."""
  where = sharding.make_mesh(*sizes)
  args = sharding.put_rows(case(key_heads, group), where)
  made = []
  if expected_shape:
    inner, kernel = recorded(name, made)
    setattr(fused_attention, f"_{name}", kernel)
  with jax.set_mesh(where):
    found = run(EMULATED[name], *args)
  if expected_shape:
    setattr(fused_attention, f"_{name}", inner)
    assert set(made) == {expected_shape}, made
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5),
    jax.device_get(found),
    reference(key_heads, group),
  )
  rows = found[0].sharding.shard_shape(found[0].shape)[0]
  assert rows == N // sharding.batch_shards(where)


def main():
  assert jax.device_count() == 8
  assert sharding.platform() == "cpu"
  for case_ in CASES:
    check(*case_)
    print("equal:", *case_[:2])


if __name__ == "__main__":
  main()
