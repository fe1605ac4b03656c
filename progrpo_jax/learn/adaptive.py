"""Coefficients of the objective that move by step, see algos/control."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from progrpo_jax import progress as progress_lib
from progrpo_jax.algos import control


@dataclasses.dataclass(frozen=True)
class AdaptiveCoefs:
  """The coefficients that a run adapts, and how.

  Attributes:
    entropy_coef: weight of the entropy at the start.
    entropy_rule: arguments of `control.adapt_entropy_coef`; None leaves the
      entropy's weight alone.
  """

  entropy_coef: float = 0.0
  entropy_rule: Mapping[str, Any] | None = None

  def in_force(self, progress: progress_lib.Progress) -> dict[str, float]:
    """Returns the coefficients of this step; empty where none adapts."""
    coefs = {}
    if self.entropy_rule is not None:
      entropy = progress.recent[-1]["entropy"] if progress.recent else math.nan
      coefs["entropy_coef"] = control.entropy_coef_in_force(
        self._entropy_coef(progress),
        entropy,
        target=self.entropy_rule["target"],
      )
    return coefs

  def adapted(
    self, progress: progress_lib.Progress, entropy: float
  ) -> dict[str, float]:
    """Returns the fields of `Progress` for the next step.

    Args:
      progress: before this step.
      entropy: mean entropy of the policy in this step, in nats per token.
    """
    coefs = {}
    if self.entropy_rule is not None:
      coefs["entropy_coef"] = control.adapt_entropy_coef(
        self._entropy_coef(progress), entropy, **self.entropy_rule
      )
    return coefs

  def _entropy_coef(self, progress) -> float:
    if progress.entropy_coef is None:
      return self.entropy_coef
    return progress.entropy_coef
