"""What a run remembers of its steps: histories that resets and alarms read."""

import dataclasses

from progrpo_jax import progress as progress_lib
from progrpo_jax.algos import collapse
from progrpo_jax.learn import adaptive

# `Progress.recent` keeps these metrics of the first steps, which a run is
# compared with, and of the last ones.
_WATCHED = (
  collapse.ENTROPY,
  collapse.SPREAD,
  collapse.ZERO_SPREAD,
  collapse.CORRECT,
  collapse.LENGTH,
  collapse.CLIPPED,
)
# Metric -> history of `Progress` that keeps it.
_HISTORIES = {"kl": "kls", "kl_share": "kl_shares"}
# Of the last ones, one more than a verdict reads: the verdict of the step
# before reads it.
_FIRST, _LAST = 10, 60


@dataclasses.dataclass(frozen=True)
class Advance:
  """Counts a step and adds what it measured to the histories.

  Attributes:
    coefs: coefficients of the objective that the run adapts.
  """

  coefs: adaptive.AdaptiveCoefs

  def __call__(
    self, progress: progress_lib.Progress, metrics: dict[str, float]
  ) -> progress_lib.Progress:
    """Returns the progress after the step that measured `metrics`."""
    step = progress.step + 1
    histories = {
      history: (*getattr(progress, history), (step, metrics[name]))
      for name, history in _HISTORIES.items()
      if name in metrics
    }
    row = {k: metrics[k] for k in _WATCHED if k in metrics}
    recent = (*progress.recent, row)
    if len(recent) > _FIRST + _LAST + 1:
      recent = (*recent[:_FIRST], *recent[-_LAST - 1 :])
    return dataclasses.replace(
      progress,
      step=step,
      recent=recent,
      **histories,
      **self.coefs.adapted(progress, metrics["entropy"]),
    )


def remember(
  progress: progress_lib.Progress, values: dict[str, float], watch: str
) -> progress_lib.Progress:
  """Adds an evaluation to the histories; an empty one changes nothing.

  Args:
    progress: progress of the run.
    values: values of the evaluation by name.
    watch: measure that resets watch, such as "pass@1".
  """
  if values:
    # Those that alarms read: with all, each checkpoint of a long run has MBs.
    passed = {k: v for k, v in values.items() if collapse.PASS.match(k)}
    progress = dataclasses.replace(
      progress, evals=(*progress.evals, {"step": progress.step} | passed)
    )
  score = watched(values, watch)
  if score is not None:
    progress = dataclasses.replace(
      progress, scores=(*progress.scores, (progress.step, score))
    )
  return progress


def watched(values: dict[str, float], watch: str) -> float | None:
  """Mean over the sets of the measure that resets watch.

  None where a set has only bounds for it, for lack of samples: the mean over
  the other sets would be another score.
  """
  evaluated = {k: v for k, v in values.items() if k.startswith("eval/")}
  if any(name.endswith(f"/{watch}/at_least") for name in evaluated):
    return None
  scores = [
    value
    for name, value in evaluated.items()
    if name.split("/", 2)[-1] == watch
  ]
  return sum(scores) / len(scores) if scores else None


def check_collapse(
  progress: progress_lib.Progress,
) -> tuple[collapse.Verdict, bool]:
  """Returns whether the run collapses, and whether that is new at this step."""
  start = collapse.start_of(progress.recent[:_FIRST], _FIRST)
  earlier = [e for e in progress.evals if e["step"] < progress.step]
  before = collapse.assess(
    _judged(progress.recent[:-1]), start=start, evals=earlier
  )
  now = collapse.assess(
    _judged(progress.recent), start=start, evals=progress.evals
  )
  return now, now.level != before.level


def _judged(recent: tuple[dict[str, float], ...]):
  """Returns the first and the last metrics, those that a verdict reads."""
  if len(recent) <= _FIRST + _LAST:
    return recent
  return (*recent[:_FIRST], *recent[-_LAST:])
