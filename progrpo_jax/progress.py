"""Counters and histories of a run, which its checkpoints hold."""

import dataclasses
from typing import Any

from progrpo_jax import groups as groups_lib


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a run knows of itself besides its parameters.

  Attributes:
    step: steps done.
    position: prompts drawn.
    ref_step: step whose checkpoint is the reference.
    resets: how often the reference was reset.
    num_tokens: response tokens sampled.
    scores: (step, score on held-out problems) since the last reset, by the
      measure that resets watch. No log-probs, unlike `batch.Scores`.
    kls: (step, KL to the reference) since the last reset.
    kl_shares: (step, share of the KL in the gradient) since the last reset.
    entropy_coef: weight of the entropy if it adapts; None before its first
      change.
    recent: metrics of the first and the last steps, oldest first, for
      `algos/collapse.py`; the adaptive entropy bonus reads the last ones.
    evals: pass@k of every evaluation, for `algos/collapse.py`.
    surplus: groups carried over to the next step, or None.
    measured: metrics of the last step from its updates until it is recorded;
      None between two steps. A checkpoint has them if the run was stopped
      before the step's evaluation was done.
  """

  step: int = 0
  position: int = 0
  ref_step: int = 0
  resets: int = 0
  num_tokens: int = 0
  scores: tuple[tuple[int, float], ...] = ()
  kls: tuple[tuple[int, float], ...] = ()
  kl_shares: tuple[tuple[int, float], ...] = ()
  entropy_coef: float | None = None
  recent: tuple[dict[str, float], ...] = ()
  evals: tuple[dict[str, float], ...] = ()
  surplus: groups_lib.Groups | None = None
  measured: dict[str, Any] | None = None

  def to_meta(self) -> dict[str, Any]:
    """The JSON part; the surplus is saved as arrays."""
    return {
      f.name: getattr(self, f.name)
      for f in dataclasses.fields(self)
      if f.name != "surplus"
    }

  @classmethod
  def from_meta(cls, meta, surplus) -> "Progress":
    """The inverse of `to_meta`."""
    # Checkpoints also hold what is not of `Progress`.
    names = {f.name for f in dataclasses.fields(cls)} - {"surplus"}
    values = {k: v for k, v in meta.items() if k in names}
    for name in ("scores", "kls", "kl_shares"):
      values[name] = tuple((int(s), float(v)) for s, v in values.get(name, ()))
    for name in ("recent", "evals"):
      values[name] = tuple(values.get(name, ()))
    return cls(**values, surplus=surplus)
