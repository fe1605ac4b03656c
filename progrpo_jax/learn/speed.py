"""How fast a step was: times of its stages, tokens per second, utilisation."""

import dataclasses

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax.devices import timing
from progrpo_jax.models import config as model_config
from progrpo_jax.models import flops


@dataclasses.dataclass(frozen=True)
class Speed:
  """Takes the times of a step before its evaluation, and what they amount to.

  Attributes:
    model: configuration of the policy.
    devices: number of devices.
    peak: FLOP/s that all devices together could reach.
    passes: passes of the updates over a batch.
    scorers: policies of this model that score the batch before its updates.
    timer: timer of the stages.
    teacher: configuration of a teacher that scores it too; None without one.
  """

  model: model_config.ModelConfig
  devices: int
  peak: float
  passes: int
  scorers: int
  timer: timing.Timer
  teacher: model_config.ModelConfig | None = None

  def __call__(
    self, sampled: groups_lib.Groups, batch: groups_lib.Groups
  ) -> dict[str, float]:
    """Returns `timing_s/*` and `perf/*`.

    Args:
      sampled: all groups that were sampled in the step.
      batch: groups that the policy learnt from.
    """
    values = self.timer.take()
    memory = _peak_memory()
    if memory is not None:
      values["perf/max_memory_allocated_gb"] = memory / 2**30
    # Of each sequence, as verl and TRL count: its prompt and its response.
    prompt_P, response_PG = lengths(batch)
    tokens = prompt_P.sum() * response_PG.shape[1] + response_PG.sum()
    seconds = values["timing_s/step"]
    values["perf/total_num_tokens"] = int(tokens)
    work = self._learning(prompt_P, response_PG)
    # A batch filled by groups carried over needs no sampling.
    if values.get("timing_s/sample"):
      prompt_P, response_PG = lengths(sampled)
      work += flops.forward(self.model, prompt_P, response_PG)
      values["perf/sample_tokens_per_second"] = (
        response_PG.sum() / values["timing_s/sample"]
      )
    if seconds:
      values["perf/tokens_per_second"] = tokens / seconds
      values["perf/throughput"] = tokens / seconds / self.devices
      values["perf/mfu"] = work / seconds / self.peak
    return values

  def _learning(self, prompt_P, response_PG) -> float:
    """FLOP of scoring a batch and of its updates."""
    work = self.passes * flops.update(self.model, prompt_P, response_PG)
    for number in range(self.scorers):
      # The policy, which is the first, scores prompts too.
      work += flops.forward(
        self.model, prompt_P, response_PG, prompt_logits=number == 0
      )
    if self.teacher is not None:
      work += flops.forward(
        self.teacher, prompt_P, response_PG, prompt_logits=False
      )
    return work


def lengths(groups: groups_lib.Groups) -> tuple[np.ndarray, np.ndarray]:
  """Returns (prompt_P, response_PG): real tokens of prompts and responses.

  Those that a task replied are among them: the model reads them too.
  """
  return (
    np.asarray(groups.prompts.mask_PT).sum(axis=1),
    batch_lib.extents(groups.rollout.mask_BT).reshape(groups.reward_PG.shape),
  )


def _peak_memory() -> int | None:
  """Most bytes that a device of this host ever held; None if it cannot tell."""
  peaks = [
    (device.memory_stats() or {}).get("peak_bytes_in_use")
    for device in jax.local_devices()
  ]
  return max((p for p in peaks if p is not None), default=None)
