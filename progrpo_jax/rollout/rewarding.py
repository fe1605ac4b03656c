"""The reward that the advantage reads, and the groups that are worth learning.

Both stand on one thing: a group teaches something if the rewards that its
advantages are made of differ within it. Advantages that compare the terms of a
reward one by one get them from `components`.
"""

import dataclasses

import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax.algos import control, shaping
from progrpo_jax.rollout import verify

# Value of the length penalty at the limit; at length 0 it is 0.
_LONGEST = -1.0


@dataclasses.dataclass(frozen=True)
class ShapedReward:
  """The verifier's reward with penalties of truncation, length and KL.

  Attributes:
    max_new_tokens: length limit of a response, replies of its task included.
    truncated_factor: what the reward of a response that was cut at the limit
      is multiplied by; 1 leaves it.
    overlong_cache: tokens before the limit over which DAPO's overlong penalty
      grows; 0 for none.
    length_coef: weight of ProRL v2's length penalty; 0 for none.
    length_cycle: (on, off), steps for which it acts and rests in turn.
    kl_coef: weight of the KL to the reference, in nats summed over the
      response, that is taken off the reward (REINFORCE++); 0 for none.
  """

  max_new_tokens: int
  truncated_factor: float = 1.0
  overlong_cache: int = 0
  length_coef: float = 0.0
  length_cycle: tuple[int, int] = (100, 0)
  kl_coef: float = 0.0

  def __call__(
    self, groups: groups_lib.Groups, step: int, kl_NRT=None
  ) -> np.ndarray:
    """Returns float32 [P, G].

    Args:
      groups: verified groups.
      step: steps done, which the cycle of the length penalty counts.
      kl_NRT: log-ratio of policy to reference by token, 0 where masked; None
        before scores are there, which leaves the KL out.
    """
    reward_PG = np.asarray(groups.reward_PG, np.float32)
    shape = reward_PG.shape
    # What `max_new_tokens` bounds: all turns, and the replies between them.
    length_B = batch_lib.extents(groups.rollout.mask_BT)
    if self.truncated_factor != 1.0:
      finished_PG = np.asarray(groups.rollout.finished_B).reshape(shape)
      reward_PG = np.asarray(
        shaping.truncated_reward(reward_PG, finished_PG, self.truncated_factor)
      )
    if self.length_coef and control.cycle_on(step, *self.length_cycle):
      value_B = shaping.cosine_length(
        length_B, self.max_new_tokens, _LONGEST, 0.0
      )
      # Only a right answer gains by being short, and the longest right answer
      # is worth no less than a wrong one. A response that was cut has lost its
      # reward above and has nothing left to lose.
      shorter_PG = reward_PG + self.length_coef * np.asarray(value_B).reshape(
        shape
      )
      reward_PG = np.where(
        reward_PG > 0, np.maximum(shorter_PG, 0.0), reward_PG
      )
    if self.overlong_cache:
      penalty_B = shaping.overlong_penalty(
        length_B, self.max_new_tokens, self.overlong_cache
      )
      reward_PG = reward_PG + np.asarray(penalty_B).reshape(shape)
    if self.kl_coef and kl_NRT is not None:
      kl_PG = kl_NRT.sum(axis=-1).reshape(shape)
      reward_PG = reward_PG - self.kl_coef * kl_PG
    return np.asarray(reward_PG, np.float32)


@dataclasses.dataclass(frozen=True)
class KeepGroups:
  """Which groups dynamic sampling keeps (DAPO, arXiv 2503.14476, section 3.2).

  A group of equal rewards has no advantage in GRPO. Advantages that learn from
  such groups too, as `advantages.nsr` does, lose them all the same.

  Attributes:
    reward: the shaped reward; a group is kept if it differs within the group.
    by_accuracy: compare the verdicts instead, as DAPO does.
    keep_all_correct: keep groups that are right throughout; ARM learns from
      them.
  """

  reward: ShapedReward
  by_accuracy: bool = False
  keep_all_correct: bool = False

  def __call__(self, groups: groups_lib.Groups, step: int) -> np.ndarray:
    """Returns bool [P], True for groups to keep."""
    value_PG = (
      groups.correct_PG if self.by_accuracy else self.reward(groups, step)
    )
    return np.asarray(
      shaping.keep_groups(
        value_PG,
        keep_all_correct=self.keep_all_correct,
        valid_PG=groups.valid_PG,
        correct_PG=groups.correct_PG,
      )
    )


def components(
  groups: groups_lib.Groups, reward_PG
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the terms that a shaped reward is the weighted sum of.

  First the values of the user's reward functions, with their weights; for a
  prompt without such functions the verifier's reward, with weight 1. Last, with
  weight 1, what shaping added: 0 everywhere without shaping.

  Args:
    groups: verified groups.
    reward_PG: shaped reward of these groups.

  Returns:
    (components_PGJ, weights_PJ), float32; NaN where a function has no opinion
    and, with weight 0, where a prompt has fewer terms than others.
  """
  raw_PG = np.asarray(groups.reward_PG, np.float32)
  size, group, terms = groups.values_PGJ.shape
  values_PGJ = np.full((size, group, max(terms, 1)), np.nan, np.float32)
  values_PGJ[..., :terms] = groups.values_PGJ
  weights_PJ = np.zeros((size, max(terms, 1)), np.float32)
  for p, row in enumerate(groups.prompts.rows):
    count = len(verify.function_labels(row))
    if count:
      weights_PJ[p, :count] = row.meta["weights"] or 1.0
    else:
      values_PGJ[p, :, 0], weights_PJ[p, 0] = raw_PG[p], 1.0
  added_PG = np.asarray(reward_PG, np.float32) - raw_PG
  return (
    np.concatenate([values_PGJ, added_PG[..., None]], axis=-1),
    np.pad(weights_PJ, ((0, 0), (0, 1)), constant_values=1.0),
  )
