"""The rate of arithmetic that devices could reach."""

import functools
import time

import jax
import jax.numpy as jnp

from progrpo_jax.devices import hosts

# Dense bfloat16 FLOP/s of one device of JAX by its kind, from the makers' data
# sheets. Of TPU v2, v3 and v7 a device is half a chip.
PEAKS = {
  "TPU v2": 23e12,
  "TPU v3": 61e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "TPU7x": 1153e12,
  "NVIDIA A100": 312e12,
  "NVIDIA L4": 121e12,
  "NVIDIA L40S": 362e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA B200": 2250e12,
}


def of_devices(mesh: jax.sharding.Mesh) -> float:
  """FLOP/s of all devices of a mesh together.

  For the kinds of `PEAKS` their bfloat16 peak. For others what a matrix product
  reaches on this host; CPU devices share the cores of their host.

  Args:
    mesh: mesh of all devices.
  """
  device = mesh.devices.flat[0]
  peak = of_kind(device.device_kind)
  if peak is not None:
    return mesh.size * peak
  if device.platform == "cpu":
    return hosts.count() * matmul_rate()
  return mesh.size * matmul_rate("bfloat16", 8192)


def of_kind(kind: str) -> float | None:
  """FLOP/s of a device by JAX's name of its kind; None if it is not known.

  The longest known name that the kind begins with counts, by whole words:
  "NVIDIA H100 80GB HBM3" is an H100.
  """
  words = kind.replace("-", " ").split()
  names = [name for name in PEAKS if name.split() == words[: len(name.split())]]
  return PEAKS[max(names, key=len)] if names else None


@functools.cache
def matmul_rate(
  dtype: str = "float32", size: int = 1536, repeats: int = 6
) -> float:
  """Returns the FLOP/s of a large matrix product on this machine.

  Measured once in a process.

  Args:
    dtype: type of the matrices.
    size: rows and columns of the square matrices.
    repeats: number of products; the fastest counts.
  """
  product = jax.jit(jnp.matmul)
  x = jnp.ones((size, size), dtype)
  product(x, x).block_until_ready()
  best = 0.0
  for _ in range(repeats):
    start = time.perf_counter()
    product(x, x).block_until_ready()
    best = max(best, 2 * size**3 / (time.perf_counter() - start))
  return best
