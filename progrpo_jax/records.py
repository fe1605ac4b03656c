"""What a step leaves behind: metrics, and rollouts to browse."""

import math

import numpy as np

from progrpo_jax import parts as parts_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax.algos import collapse, diagnostics
from progrpo_jax.rollout import data as data_lib
from progrpo_jax.rollout import groups as groups_lib


def measure_rollouts(groups: groups_lib.Groups) -> dict[str, float]:
  """Metrics of everything that the policy sampled in a step.

  `entropy` is the mean of -log p over the sampled tokens, by the sampler: an
  unbiased estimate, in nats, of the mean entropy of the distributions that
  they were drawn from. The exact mean, `entropy/kept`, is known of scored
  groups only, and where groups are dropped, those are not all there were.
  """
  mask_BT = np.asarray(groups.rollout.mask_BT)
  valid, reward = groups.valid_PG, groups.reward_PG
  length = np.sum(mask_BT, axis=1)
  counts = np.maximum(valid.sum(axis=1), 1)
  mean = np.where(valid, reward, 0).sum(axis=1) / counts
  spread = np.sqrt(
      np.where(valid, (reward - mean[:, None]) ** 2, 0).sum(axis=1) / counts)
  out = {
      "entropy": -float(np.mean(
          np.asarray(groups.rollout.logp_BT)[mask_BT], dtype=np.float64)),
      "reward": float(reward[valid].mean()) if valid.any() else math.nan,
      "reward_std": float(spread.mean()),
      "frac_reward_zero_std": float((spread < 1e-6).mean()),
      "correct": float(
          groups.correct_PG[valid].mean()) if valid.any() else math.nan,
      "completions/mean_length": float(length.mean()),
      "completions/max_length": float(length.max()),
      "completions/clipped_ratio": float(
          1.0 - np.mean(groups.rollout.finished_B)),
      "verifier/masked": int((~valid).sum()),
  }
  tasks = np.array([row.label for row in groups.prompts.rows])
  for task in sorted(set(tasks)):
    mine = tasks == task
    if valid[mine].any():
      out[f"rewards/{task}/mean"] = float(reward[mine][valid[mine]].mean())
  return out | measure_functions(groups) | diagnostics.reward_spread(
      reward, valid)


def measure_functions(groups: groups_lib.Groups) -> dict[str, float]:
  """Mean and standard deviation of what each reward function says.

  Over all samples of which the function has an opinion, also those that are
  masked because another function, the one that decides, has none.
  """
  said: dict[str, list[np.ndarray]] = {}
  for row, values_GJ in zip(
      groups.prompts.rows, groups.values_PGJ, strict=True):
    for label, values_G in zip(data_lib.function_labels(row), values_GJ.T):
      said.setdefault(f"rewards/{row.label}/{label}", []).append(
          values_G[~np.isnan(values_G)])
  out = {}
  for name, parts in sorted(said.items()):
    values = np.concatenate(parts).astype(np.float64)
    if values.size:
      out |= {f"{name}/mean": float(values.mean()),
              f"{name}/std": float(values.std())}
  return out


def rollout_records(
    step: int, groups: groups_lib.Groups, signal_, limit: int) -> list[dict]:
  """The first groups of a batch, for people to browse."""
  size = groups.reward_PG.shape[1]
  length = np.sum(groups.rollout.mask_BT, axis=1).reshape(-1, size)
  finished = np.asarray(groups.rollout.finished_B).reshape(-1, size)
  return [
      dict(
          step=step, id=int(groups.prompts.ids_P[p]), task=row.label,
          prompt=row.prompt, reference=row.reference,
          c_prompt=float(signal_["c_prompt_P"][p]),
          completions=[
              dict(
                  text=groups.texts_PG[p][g],
                  reward=float(groups.reward_PG[p, g]),
                  correct=bool(groups.correct_PG[p, g]),
                  status="ok" if groups.valid_PG[p, g] else "masked",
                  advantage=float(signal_["adv_PG"][p, g]),
                  base_advantage=float(signal_["base_PG"][p, g]),
                  c_answer=float(signal_["c_answer_PG"][p, g]),
                  length=int(length[p, g]), finished=bool(finished[p, g]))
              for g in range(size)])
      for p, row in enumerate(groups.prompts.rows[:limit])]


def log(
    parts: parts_lib.Parts, progress: progress_lib.Progress,
    groups: groups_lib.Collected, signals, measured: dict[str, float],
    reason: str, judgement: tuple[collapse.Verdict, bool], writer,
    clock: progress_lib.Clock,
) -> None:
  """Writes the step: one line of metrics, and rollouts when they are due.

  Args:
    parts: of the run.
    progress: after the step.
    groups: what was sampled, and the batch.
    signals: of the batch, from `signals.prepare`.
    measured: everything that the stages measured.
    reason: why the reference was reset, or "".
    judgement: from `stages.judge`.
    writer: of the workdir.
    clock: of the step.
  """
  c, step = parts.config, progress.step
  last_reset = progress.ref_step
  verdict, is_news = judgement
  values = measured | {
      "num_tokens": progress.num_tokens,
      "ref_reset/reset": float(bool(reason)),
      "ref_reset/ref_step": last_reset,
      "ref_reset/steps_since": step - last_reset,
      "ref_reset/count": progress.resets,
      "collapse/level": verdict.number,
  }
  if verdict.reason:
    values["collapse/reason"] = verdict.reason
  if reason:
    values["ref_reset/reason"] = reason
  seconds = clock.take()
  values |= seconds
  if "timing_s/sample" in seconds:  # groups carried over may fill a batch
    tokens = int(np.sum(groups.sampled.rollout.mask_BT))
    values["perf/tokens_per_second"] = tokens / seconds["timing_s/sample"]
  writer.write(step, values)
  every = c.log.rollouts_every
  if every and (step % every == 0 or step == 1):
    writer.write_rollouts(step, rollout_records(
        step, groups.batch, signals, c.log.rollouts_prompts))
  clock.view.step(step, values)
  if reason:
    clock.view.message(f"step {step}: reference reset ({reason})")
  if is_news:
    found = verdict.reason or "no sign of collapse any more"
    clock.view.message(f"step {step}: {verdict.level}: {found}")
