"""Held-out problems, tried while a run goes on."""

from collections.abc import Callable, Sequence
import dataclasses

from progrpo_jax.devices import timing
from progrpo_jax.evaluators import held_out


@dataclasses.dataclass(frozen=True)
class Validate:
  """Evaluates the policy of a run and writes what comes of it.

  Attributes:
    evaluators: held-out problems, one evaluator for each task.
    every: steps between evaluations; 0 for none.
    at_start: evaluate before the first step too.
    total_steps: steps of the run, after the last of which it is evaluated.
    timer: times "evaluate".
    show: called with (step, values).
  """

  evaluators: Sequence[held_out.HeldOut]
  every: int
  at_start: bool
  total_steps: int
  timer: timing.Timer
  show: Callable[[int, dict[str, float]], None]

  def __call__(self, params, step: int, writer) -> dict[str, float]:
    """Tries the problems of every set, if they are due after a step.

    Args:
      params: all parameters of the policy.
      step: steps done.
      writer: writer of the workdir.

    Returns:
      Values by name, under `eval/<set>/`; none where nothing is due.
    """
    values: dict[str, float] = {}
    if not self._is_due(step):
      return values
    records = []
    for evaluator in self.evaluators:
      with self.timer.stage("evaluate"):
        samples = evaluator.sample(params)
        values |= dict(evaluator.run(samples))
        records += evaluator.records(samples)
    if values:
      writer.write_eval(step, values)
      writer.write_eval_samples(
          step, [dict(step=step, **record) for record in records])
      self.show(step, values)
    return values

  def _is_due(self, step: int) -> bool:
    if not self.every or step == 0:
      return bool(self.every) and self.at_start
    return step == self.total_steps or step % self.every == 0
