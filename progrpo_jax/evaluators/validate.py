"""Evaluation of the policy on held-out problems during a run."""

from collections.abc import Callable, Sequence
import dataclasses

from progrpo_jax.devices import stopping, timing
from progrpo_jax.evaluators import held_out


@dataclasses.dataclass(frozen=True)
class Validate:
  """Evaluates the policy at its due steps and writes the results.

  Attributes:
    evaluators: evaluators of held-out problems, one per evaluation set.
    every: steps between evaluations; 0 for no evaluations.
    at_start: whether to evaluate before the first step.
    at_end: whether to evaluate after the last step: "always", "never", or
      "auto", in runs of at least `every` steps.
    total_steps: number of steps of the run.
    timer: timer that records the stage "evaluate".
    stop: request to stop, which is looked at before each batch of problems.
    show: function called with (step, values) after an evaluation.
  """

  evaluators: Sequence[held_out.HeldOut]
  every: int
  at_start: bool
  at_end: str
  total_steps: int
  timer: timing.Timer
  stop: stopping.Stop
  show: Callable[[int, dict[str, float]], None]

  def __call__(self, params, step: int, writer) -> dict[str, float]:
    """Evaluates every set if an evaluation is due after this step.

    Args:
      params: all parameters of the policy.
      step: number of finished steps.
      writer: metrics writer of the workdir.

    Returns:
      {`eval/<set>/<measure>`: value}; empty if no evaluation is due.

    Raises:
      Preempted: the run was asked to stop; nothing was written.
    """
    values: dict[str, float] = {}
    if not self._is_due(step):
      return values
    records = []
    # All sets go into one row of the evaluation file.
    for evaluator in self.evaluators:
      with self.timer.stage("evaluate"):
        evaluator.settings.pool.at_step(step)
        samples = evaluator.sample(params, before=self.stop.check)
        values |= dict(evaluator.run(samples))
        records += evaluator.records(samples)
    if values:
      writer.write_eval(step, values)
      writer.write_eval_samples(
        step, [dict(step=step, **record) for record in records]
      )
      self.show(step, values)
    return values

  def _is_due(self, step: int) -> bool:
    """Returns whether an evaluation is due after this step."""
    if not self.every or step == 0:
      return bool(self.every) and self.at_start
    if step % self.every == 0:
      return True
    at_end = self.at_end == "always" or (
      self.at_end == "auto" and self.total_steps >= self.every
    )
    return at_end and step == self.total_steps
