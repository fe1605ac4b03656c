"""The updates of a step: passes over the batch, minibatches of each."""

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors, packing, randomness
from progrpo_jax import progress as progress_lib
from progrpo_jax.algos import diagnostics
from progrpo_jax.devices import timing
from progrpo_jax.learn import adaptive
from progrpo_jax.learn import state as state_lib
from progrpo_jax.learn import update as update_lib


@dataclasses.dataclass(frozen=True)
class Improve:
  """Updates the policy on a prepared batch.

  Attributes:
    update: one update, from `update.make`.
    mesh: mesh of all devices.
    frozen: parameters that do not train.
    layout: sizes of packed rows.
    prompts: prompts of a batch.
    num_minibatches: minibatches of a pass; divides the prompts.
    num_iterations: passes over the batch.
    max_skipped: updates without effect in a row that end the run.
    coefs: coefficients of the objective that the run adapts.
    key: PRNG key of the run.
    timer: times "update".
  """

  update: Callable
  mesh: jax.sharding.Mesh
  frozen: dict
  layout: packing.Layout
  prompts: int
  num_minibatches: int
  num_iterations: int
  max_skipped: int
  coefs: adaptive.AdaptiveCoefs
  key: jax.Array
  timer: timing.Timer

  def __call__(
    self,
    state: state_lib.TrainState,
    batch: batch_lib.TrainBatch,
    progress: progress_lib.Progress,
  ) -> tuple[state_lib.TrainState, dict[str, float]]:
    """Runs all updates of a step.

    Args:
      state: parameters and optimiser; they are donated.
      batch: host arrays of the step.
      progress: progress of the run.

    Returns:
      (state after the updates, metrics).

    Raises:
      Diverged: too many updates in a row had no effect.
    """
    key = randomness.stream_key(
      self.key, progress.step, randomness.Stream.UPDATE
    )
    coefs = self.coefs.in_force(progress)
    sums: dict[str, tuple[Any, Any]] = {}
    with self.timer.stage("update"):
      for number, prompts_X in enumerate(self._minibatches(progress.step)):
        with jax.set_mesh(self.mesh):
          # Rows go to the devices when their turn comes: no device holds more
          # than a minibatch, or sends on what it was dealt.
          rows = update_lib.pack(
            update_lib.take_prompts(batch, prompts_X, self.prompts), self.layout
          )
          # The parameters are those that were scored for the first update.
          state, metrics = self.update(
            state,
            rows,
            np.bool_(number == 0),
            jax.random.fold_in(key, number),
            {k: np.float32(v) for k, v in coefs.items()},
            self.frozen,
          )
          for name, (total, count) in metrics.items():
            old = sums.get(name, (0.0, 0.0))
            sums[name] = old[0] + total, old[1] + count
      # One wait for the devices, after the last update.
      sums, skipped = jax.device_get((sums, state.skipped))
    _check_effect(sums, skipped, self.max_skipped)
    return state, coefs | _means(sums)

  def _minibatches(self, step: int) -> Iterator[np.ndarray]:
    """Numbers of the prompts of each update, dealt anew for each pass."""
    key = randomness.stream_key(self.key, step, randomness.Stream.CHOOSE)
    for number in range(self.num_iterations):
      yield from update_lib.choose_minibatches(
        jax.random.fold_in(key, number), self.prompts, self.num_minibatches
      )


def _means(sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
  """Means of the (sum, count) pairs of all updates of a step."""
  squares = {
    name: float(sums.pop(f"gradient_square/{name}")[0])
    for name in ("policy", "kl")
    if f"gradient_square/{name}" in sums
  }
  means = {
    name: float(total / count)
    for name, (total, count) in sums.items()
    if count > 0
  }
  if squares:
    means["kl_share"] = float(
      diagnostics.share_of_squares(squares["policy"], squares["kl"])
    )
  return means


def _check_effect(sums, skipped: int, limit: int) -> None:
  """Ends a run whose updates have no effect any more.

  Args:
    sums: (sum, count) pairs of the step's metrics.
    skipped: updates in a row, up to the last one, that were left out.
    limit: number of them that is too many.

  Raises:
    Diverged: with the reason.
  """
  if skipped < limit:
    return
  empty, skips = (
    sums[name][0] for name in ("empty_updates", "skipped_updates")
  )
  if empty < skips:
    raise errors.Diverged(
      f"{skipped} updates in a row were left out. Of this step's {skips:.0f} "
      f"{empty:.0f} had no token to learn from; for the others the loss, the "
      "gradient, or the weights or moments that they would have led to, were "
      "not finite. The weights are those of before. Lower the learning rate, "
      "or look at the rollouts of the last steps"
    )
  raise errors.Diverged(
    f"{skipped} updates in a row had no token to learn from; the parameters "
    "are those of before. Dynamic sampling found no group worth keeping "
    "(easier or harder tasks, a higher config.algo.dynamic_sampling."
    "max_rounds), the verifier failed, the reward function that decides what "
    "is correct returned None for every completion, or every response was cut "
    "at config.sampling.max_new_tokens and "
    "config.algo.mask_truncated_completions left it out"
  )
