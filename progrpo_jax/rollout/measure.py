"""Metrics of everything that the policy sampled in a step."""

from collections.abc import Sequence
import math
import statistics

import numpy as np

from progrpo_jax import groups as groups_lib
from progrpo_jax.algos import diagnostics
from progrpo_jax.rollout import verify


def rollouts(groups: groups_lib.Groups) -> dict[str, float]:
  """Rewards, lengths and entropy of sampled groups.

  Lengths are of what the policy wrote, without the replies of a task.

  `entropy` is the mean of -log p over the sampled tokens, by the sampler: an
  unbiased estimate, in nats, of the mean entropy of the distributions that
  they were drawn from. The exact mean, `entropy/kept`, is known for scored
  groups only, which are not all that was sampled where groups are dropped.
  """
  mask_BT = np.asarray(groups.rollout.mask_BT)
  valid, reward = groups.valid_PG, groups.reward_PG
  length = np.sum(mask_BT, axis=1)
  # Responses whose verifier failed count in no mean of their group.
  counts = np.maximum(valid.sum(axis=1), 1)
  mean = np.where(valid, reward, 0).sum(axis=1) / counts
  spread = np.sqrt(
    np.where(valid, (reward - mean[:, None]) ** 2, 0).sum(axis=1) / counts
  )
  metrics = {
    "entropy": -float(
      np.mean(np.asarray(groups.rollout.logp_BT)[mask_BT], dtype=np.float64)
    ),
    "reward": float(reward[valid].mean()) if valid.any() else math.nan,
    "reward_std": float(spread.mean()),
    "frac_reward_zero_std": float((spread < 1e-6).mean()),
    "correct": float(groups.correct_PG[valid].mean())
    if valid.any()
    else math.nan,
    "completions/mean_length": float(length.mean()),
    "completions/max_length": float(length.max()),
    "completions/clipped_ratio": float(
      1.0 - np.mean(groups.rollout.finished_B)
    ),
    "verifier/masked": int((~valid).sum()),
  }
  tasks = np.array([row.label for row in groups.prompts.rows])
  for task in sorted(set(tasks)):
    rows = tasks == task
    if valid[rows].any():
      metrics[f"rewards/{task}/mean"] = float(reward[rows][valid[rows]].mean())
  metrics |= logged(groups.logged)
  return metrics | functions(groups) | diagnostics.reward_spread(reward, valid)


def logged(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
  """Means of the metrics that reward functions log, under `logged/`."""
  values: dict[str, list[float]] = {}
  for name, value in pairs:
    values.setdefault(f"logged/{name}", []).append(value)
  return {name: statistics.fmean(v) for name, v in sorted(values.items())}


def functions(groups: groups_lib.Groups) -> dict[str, float]:
  """Mean and standard deviation of what each reward function says.

  Over all samples for which the function returned a number, also those that
  are masked because another function, the one that decides, returned none.
  """
  values: dict[str, list[np.ndarray]] = {}
  for row, values_GJ in zip(
    groups.prompts.rows, groups.values_PGJ, strict=True
  ):
    for label, values_G in zip(verify.function_labels(row), values_GJ.T):
      values.setdefault(f"rewards/{row.label}/{label}", []).append(
        values_G[~np.isnan(values_G)]
      )
  metrics = {}
  for name, arrays in sorted(values.items()):
    numbers = np.concatenate(arrays).astype(np.float64)
    if numbers.size:
      metrics |= {
        f"{name}/mean": float(numbers.mean()),
        f"{name}/std": float(numbers.std()),
      }
  return metrics
