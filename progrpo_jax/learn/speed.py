"""How fast a step was: the times of its stages, and tokens per second."""

import dataclasses

import numpy as np

from progrpo_jax import groups as groups_lib
from progrpo_jax.devices import timing


@dataclasses.dataclass(frozen=True)
class Times:
  """Takes the times of a step before its evaluation.

  Attributes:
    timer: timer of the stages.
  """

  timer: timing.Timer

  def __call__(self, sampled: groups_lib.Groups) -> dict[str, float]:
    """Returns `timing_s/*` and `perf/*`.

    Args:
      sampled: all groups that were sampled in the step.
    """
    values = self.timer.take()
    # A batch filled by groups carried over needs no sampling.
    if "timing_s/sample" in values:
      tokens = int(np.sum(sampled.rollout.mask_BT))
      values["perf/tokens_per_second"] = tokens / values["timing_s/sample"]
    return values
