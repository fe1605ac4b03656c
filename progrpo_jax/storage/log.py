"""Logs a training step: rollouts for people to read, and a line of metrics.

The rollouts are written before the step's evaluation, the line after it.
"""

from collections.abc import Callable
import dataclasses

import numpy as np

from progrpo_jax import groups as groups_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax.algos import collapse
from progrpo_jax.devices import timing
from progrpo_jax.learn import advantage as advantage_lib
from progrpo_jax.rollout import verify
from progrpo_jax.storage import metrics as metrics_lib
from progrpo_jax.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class Log:
  """Writes and shows the steps of a run.

  Attributes:
    rollouts_every: steps between saved rollouts; 0 for none.
    rollouts_prompts: number of groups saved per step.
    tokenizer: the policy's, for the turns of a response.
    timer: timer of the stages.
    show: callback of (step, metrics).
    say: callback of a message to the user.
  """

  rollouts_every: int
  rollouts_prompts: int
  tokenizer: tokenizer_lib.Tokenizer
  timer: timing.Timer
  show: Callable[[int, dict[str, float]], None]
  say: Callable[[str], None]

  def rollouts(
    self,
    writer: metrics_lib.MetricWriter | metrics_lib.Unwritten,
    step: int,
    batch: groups_lib.Groups,
    advantages: advantage_lib.Advantages,
  ) -> None:
    """Writes the groups of a step, if that is due.

    Args:
      writer: metric writer of the workdir.
      step: steps done.
      batch: groups of the step.
      advantages: advantages of the batch.
    """
    # The first step's rollouts are always saved, to look at the prompts early.
    every = self.rollouts_every
    if every and (step % every == 0 or step == 1):
      writer.write_rollouts(
        step,
        rollout_records(
          step, batch, advantages, self.rollouts_prompts, self.tokenizer
        ),
      )

  def __call__(
    self,
    writer: metrics_lib.MetricWriter | metrics_lib.Unwritten,
    progress: progress_lib.Progress,
    reason: str,
    verdict: tuple[collapse.Verdict, bool],
    learning_rate: float,
  ) -> None:
    """Writes and shows the metrics of a step.

    Args:
      writer: metric writer of the workdir.
      progress: progress after the step, with its metrics.
      reason: why the reference was reset, or "".
      verdict: (verdict on collapse, whether it differs from the last step's).
      learning_rate: rate of the next update.
    """
    # Metrics of the run's progress, beside those measured by the stages.
    step = progress.step
    judgement, is_news = verdict
    values = progress.measured | {
      "learning_rate": learning_rate,
      "num_tokens": progress.num_tokens,
      "ref_reset/reset": float(bool(reason)),
      "ref_reset/ref_step": progress.ref_step,
      "ref_reset/steps_since": step - progress.ref_step,
      "ref_reset/count": progress.resets,
      "collapse/level": judgement.number,
    }
    if judgement.reason:
      values["collapse/reason"] = judgement.reason
    if reason:
      values["ref_reset/reason"] = reason
    # The times of the stages before the evaluation are in already.
    for name, seconds in self.timer.take().items():
      values[name] = values.get(name, 0.0) + seconds
    writer.write(step, values)
    self.show(step, values)
    if reason:
      self.say(f"step {step}: reference reset ({reason})")
    if is_news:
      sign = judgement.reason or "no sign of collapse any more"
      self.say(f"step {step}: {judgement.level}: {sign}")


def rollout_records(
  step: int,
  groups: groups_lib.Groups,
  advantages: advantage_lib.Advantages,
  limit: int,
  tokenizer: tokenizer_lib.Tokenizer,
) -> list[dict]:
  """Returns JSON-able records of the first groups of a batch.

  Args:
    step: number of steps done.
    groups: groups of the batch.
    advantages: advantages of the groups.
    limit: largest number of groups.
    tokenizer: the policy's.

  Returns:
    One dict per group with its prompt, reference and completions. The text of
    a completion of several turns is its last turn; `turns` has all of them,
    and the replies.
  """
  # Arrays are flat over the batch; [P, G] here.
  size = groups.reward_PG.shape[1]
  length = np.sum(groups.rollout.mask_BT, axis=1).reshape(-1, size)
  finished = np.asarray(groups.rollout.finished_B).reshape(-1, size)

  def turns(p, g):
    rollout, b = groups.rollout, p * size + g
    talk = verify.conversation(
      tokenizer, rollout.tokens_BT[b], rollout.mask_BT[b]
    )
    return {"turns": talk} if len(talk) > 1 else {}

  return [
    dict(
      step=step,
      id=int(groups.prompts.ids_P[p]),
      task=row.label,
      prompt=row.prompt,
      reference=row.reference,
      c_prompt=_number(advantages.c_prompt_P[p]),
      completions=[
        dict(
          text=groups.texts_PG[p][g],
          reward=float(groups.reward_PG[p, g]),
          correct=bool(groups.correct_PG[p, g]),
          status="ok" if groups.valid_PG[p, g] else "masked",
          advantage=float(advantages.adv_PG[p, g]),
          base_advantage=float(advantages.base_PG[p, g]),
          c_answer=float(advantages.c_answer_PG[p, g]),
          length=int(length[p, g]),
          finished=bool(finished[p, g]),
          **turns(p, g),
        )
        | ({"extra": extra} if (extra := groups.extra(p, g)) else {})
        for g in range(size)
      ],
    )
    for p, row in enumerate(groups.prompts.rows[:limit])
  ]


def _number(x: float | np.floating) -> float | None:
  """A number for JSON; None for what was not measured."""
  return None if np.isnan(x) else float(x)
