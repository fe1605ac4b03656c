"""Metrics of everything that the policy sampled in a step."""

from collections.abc import Sequence
import math
import statistics

import numpy as np

from progrpo_jax import groups as groups_lib
from progrpo_jax.algos import diagnostics, terms
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
  spread = diagnostics.reward_spread(reward, valid)
  metrics = {
    "entropy": -float(
      np.mean(np.asarray(groups.rollout.logp_BT)[mask_BT], dtype=np.float64)
    ),
    "reward": float(reward[valid].mean()) if valid.any() else math.nan,
    "reward_std": spread.get("reward_spread/mean", math.nan),
    "frac_reward_zero_std": _equal_share(reward, valid),
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
  return metrics | functions(groups) | spread


def _equal_share(reward_PG: np.ndarray, valid_PG: np.ndarray) -> float:
  """Share of groups whose rewards are equal; NaN where none can be told.

  A group with fewer than two verdicts says nothing of the policy.
  """
  some_P = valid_PG.sum(axis=1) >= 2
  if not some_P.any():
    return math.nan
  reward_PG = reward_PG[some_P].astype(np.float32)
  return 1.0 - float(np.mean(terms.differ(reward_PG, valid_PG[some_P])))


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


def threshold_notes(groups: groups_lib.Groups) -> list[str]:
  """Says where what counts as right may not be what a reward function means.

  Pass@k, ARM and the signs of collapse read the verdicts: where no value
  reaches the threshold, they see a policy that is always wrong.

  Args:
    groups: sampled groups.

  Returns:
    A sentence for each task and function that decides, if there is a doubt.
  """
  judged: dict[tuple[str, str, float], list[np.ndarray]] = {}
  for p, row in enumerate(groups.prompts.rows):
    decider = verify.decider(row)
    if decider is not None:
      label = verify.function_labels(row)[decider]
      key = row.label, label, row.meta["correct_threshold"]
      pair = groups.values_PGJ[p, :, decider], groups.correct_PG[p]
      judged.setdefault(key, []).append(np.stack(pair))
  notes = []
  for (task, label, threshold), arrays in sorted(judged.items()):
    numbers, right = np.concatenate(arrays, axis=1)
    known = ~np.isnan(numbers)
    numbers, right = numbers[known], right[known] > 0
    if not numbers.size or numbers.min() == numbers.max():
      continue  # all wrong, or all alike: nothing is told about the scale
    highest = numbers.max()
    head = (
      f"task {task}: the highest value of {label} in a step was {highest:g}, "
      f"and {threshold:g} or more counts as right"
    )
    if not right.any():
      notes.append(
        f"{head}: until a value reaches that, pass@k is 0 and ARM changes "
        "nothing; if less is right, set the task's option correct_threshold"
      )
    elif threshold == 1 and (numbers[right] < highest).any():
      notes.append(
        f"{head}; if only more is right, set the task's option "
        "correct_threshold"
      )
  return notes
