"""Periodic check that the hosts and devices of a run hold equal values."""

import dataclasses
import hashlib
from typing import Any

import jax

from progrpo_jax import errors
from progrpo_jax.devices import hosts, sharding


@dataclasses.dataclass(frozen=True)
class CheckHostsAgree:
  """Compares the hosts, and the copies of arrays on different devices.

  Attributes:
    mesh: mesh of all devices.
    config: config as text, compared among the hosts.
    every: steps between comparisons; 0 turns them off.
  """

  mesh: jax.sharding.Mesh
  config: str
  every: int

  def __call__(self, step: int, arrays: dict[str, Any], **texts: str) -> None:
    """Compares, if a comparison is due after this step.

    Every process must call this.

    Args:
      step: number of steps done.
      arrays: trees of device arrays by name.
      **texts: further texts that must be equal on every host, by name.

    Raises:
      RunError: two hosts differ, or two copies of an array do; the message
        names the values and the hosts, or the arrays.
    """
    if not self.every or step % self.every:
      return
    hosts.compare(
      f"step {step}",
      **{
        name: hashlib.sha256(text.encode()).hexdigest()[:16]
        for name, text in (texts | {"config": self.config}).items()
      },
    )
    unequal = sharding.unequal_copies(arrays, self.mesh)
    if unequal:
      raise errors.RunError(
        f"step {step}: devices hold different copies of "
        f"{', '.join(unequal[:5])}{' and more' if len(unequal) > 5 else ''}: "
        "one of them is faulty. Go on from the last checkpoint without it"
      )
