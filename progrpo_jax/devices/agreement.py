"""Whether the hosts and devices of a run still hold the same."""

import dataclasses
import hashlib
from typing import Any

import jax

from progrpo_jax import errors
from progrpo_jax.devices import hosts, sharding


@dataclasses.dataclass(frozen=True)
class CheckHostsAgree:
  """Compares hosts, and devices that hold copies of one array.

  Attributes:
    mesh: mesh of all devices.
    config: the config as text.
    every: steps between comparisons; 0 for never.
  """

  mesh: jax.sharding.Mesh
  config: str
  every: int

  def __call__(self, step: int, arrays: dict[str, Any], **texts: str) -> None:
    """Compares where it is due after a step.

    Args:
      step: steps done.
      arrays: trees of device arrays by name.
      **texts: what else every host must have alike.

    Raises:
      RunError: two hosts, or two devices with a copy of one array, differ; the
        message names what and where.
    """
    if not self.every or step % self.every:
      return
    hosts.compare(f"step {step}", **{
        name: hashlib.sha256(text.encode()).hexdigest()[:16]
        for name, text in (texts | {"config": self.config}).items()})
    unequal = sharding.unequal_copies(arrays, self.mesh)
    if unequal:
      raise errors.RunError(
          f"step {step}: devices hold different copies of "
          f"{', '.join(unequal[:5])}{' and more' if len(unequal) > 5 else ''}: "
          "one of them errs. Go on from the last checkpoint without it")
