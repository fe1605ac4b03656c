"""When the reference policy becomes the present one, as ProRL does it."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from progrpo_jax import progress as progress_lib
from progrpo_jax.algos import reset


@dataclasses.dataclass(frozen=True)
class DecideReset:
  """Decides after each step whether the reference is reset.

  Attributes:
    options: arguments of `reset.should_reset`.
    scheduled: (step, resets) -> whether a stage of the schedule that asks for
      a reset begins at this step.
  """

  options: Mapping[str, Any]
  scheduled: Callable[[int, int], bool]

  def __call__(
    self, progress: progress_lib.Progress
  ) -> tuple[progress_lib.Progress, str]:
    """Returns (progress, reason); the reason is empty without a reset.

    With one, this step's policy is the reference from now on, and the
    histories that triggers read begin anew.
    """
    due, reason = reset.should_reset(
      progress.step,
      last_reset=progress.ref_step,
      history=dict(
        score=progress.scores, kl=progress.kls, kl_share=progress.kl_shares
      ),
      **self.options,
    )
    if not due and self.scheduled(progress.step, progress.resets):
      due, reason = True, "a stage of the schedule begins"
    if not due:
      return progress, ""
    # An evaluation of this very step is the first one of the new reference.
    scores = tuple(s for s in progress.scores if s[0] == progress.step)
    return dataclasses.replace(
      progress,
      ref_step=progress.step,
      resets=progress.resets + 1,
      scores=scores,
      kls=(),
      kl_shares=(),
    ), reason
