"""Rewards as the advantage reads them, and what dynamic sampling keeps."""

import dataclasses
import types

import numpy as np
import pytest

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax.build import stages as build
from progrpo_jax.rollout import measure

LIMIT = 8


def made(reward_PG, length_PG, correct_PG=None):
  """Groups of these rewards; a response of LIMIT tokens was cut."""
  reward_PG = np.array(reward_PG, np.float32)
  length_B = np.array(length_PG).reshape(-1)
  mask_BT = np.arange(LIMIT) < length_B[:, None]
  size = len(reward_PG)
  return groups_lib.Groups(
    prompts=batch_lib.Prompts(
      tokens_PT=np.zeros((size, 1), np.int32),
      mask_PT=np.ones((size, 1), bool),
      user_mask_PT=np.ones((size, 1), bool),
      ids_P=np.arange(size),
      rows=(types.SimpleNamespace(label="task", meta={}),) * size,
    ),
    rollout=batch_lib.Rollout(
      tokens_BT=np.zeros(mask_BT.shape, np.int32),
      mask_BT=mask_BT,
      logp_BT=np.zeros(mask_BT.shape, np.float32),
      finished_B=length_B < LIMIT,
    ),
    texts_PG=(("",) * reward_PG.shape[1],) * size,
    reward_PG=reward_PG,
    correct_PG=(reward_PG >= 1 if correct_PG is None else np.array(correct_PG)),
    valid_PG=np.ones(reward_PG.shape, bool),
    values_PGJ=np.zeros((*reward_PG.shape, 0)),
    fresh_P=np.ones(size, bool),
  )


def config(small, method, *overrides):
  return small.config(
    f"sampling.max_new_tokens={LIMIT}", *overrides, method=method
  )


def shaped(c):
  return build.make_reward(c)


def keep(c):
  return build.make_keep(c)


def test_a_right_answer_never_ranks_below_a_wrong_one_in_prorl_v2(small):
  """Right and short, right and long, right and cut, wrong and short."""
  c = config(small, "prorl_v2")
  groups = made([[1, 1, 1, 0]], [[1, 7, LIMIT, 1]])
  short, long, cut, wrong = shaped(c)(groups, step=0)[0]
  # 1 - 0.5 (1 - cos(pi t / 8)) / 2 for t = 1 and 7.
  np.testing.assert_allclose([short, long], [0.980970, 0.519030], atol=1e-6)
  assert wrong == cut == 0
  # Off after 100 steps; what was cut is still worth nothing.
  np.testing.assert_array_equal(shaped(c)(groups, step=100)[0], [1, 1, 0, 0])


@pytest.mark.parametrize("method", ["dapo", "prorl_v2"])
def test_a_penalty_of_length_counts_the_replies_that_the_limit_counts(
  small, method
):
  """Three tokens, a reply of four, and one more: cut at the limit of eight."""
  c = config(
    small, method, "algo.truncated_factor=1.0", "algo.overlong_cache=4"
  )
  reward = shaped(c)
  groups = made([[1, 1]], [[LIMIT, LIMIT]])
  groups.rollout.mask_BT[1, 3:7] = False
  cut, with_a_reply = reward(groups, step=0)[0]
  assert cut == with_a_reply
  # The penalty of the limit itself, not that of the four tokens.
  assert cut == pytest.approx({"dapo": 0.0, "prorl_v2": -0.5}[method])
  assert measure.rollouts(groups)["completions/mean_length"] == 6


@pytest.mark.parametrize("coef", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
def test_no_weight_of_the_length_puts_right_below_wrong(small, coef, factor):
  c = config(
    small,
    "prorl_v2",
    f"algo.length_penalty.coef={coef}",
    f"algo.truncated_factor={factor}",
  )
  groups = made([[1, 1, 1, 0, 0]], [[1, 7, LIMIT, 1, LIMIT]])
  reward_G = shaped(c)(groups, step=0)[0]
  assert reward_G[:3].min() >= reward_G[3:].max() == 0


def test_dynamic_sampling_keeps_what_the_advantage_can_tell_apart(small):
  """All right, one of them cut; all right and alike; mixed; all wrong."""
  groups = made(
    [[1, 1], [1, 1], [1, 0], [0, 0]], [[3, LIMIT], [3, 3], [3, 3], [3, LIMIT]]
  )
  c = config(small, "prorl_v2", "algo.length_penalty.coef=0.0")
  np.testing.assert_array_equal(
    keep(c)(groups, step=0), [True, False, True, False]
  )
  by_accuracy = config(
    small,
    "prorl_v2",
    "algo.length_penalty.coef=0.0",
    "algo.dynamic_sampling.filter=accuracy",
  )
  np.testing.assert_array_equal(
    keep(by_accuracy)(groups, step=0), [False, False, True, False]
  )


def test_groups_that_are_right_throughout_are_known_by_their_verdicts(small):
  """Not by a reward of 1: a penalty takes them below it."""
  c = config(
    small,
    "dapo",
    "algo.overlong_cache=4",
    "algo.dynamic_sampling.keep_all_correct=True",
  )
  groups = made(
    [[1, 1], [0, 0], [2, 2]],
    [[6, 6], [6, 6], [3, 3]],
    [[True, True], [False, False], [False, False]],
  )
  np.testing.assert_array_equal(keep(c)(groups, step=0), [True, False, False])


def test_without_dynamic_sampling_nothing_is_filtered(small):
  assert keep(config(small, "grpo")) is None


def test_what_is_not_known_yet_is_no_part_of_the_filter(small):
  """The KL that REINFORCE++ takes off the reward needs scores."""
  c = config(small, "reinforce_pp", "algo.dynamic_sampling.enabled=True")
  assert c.algo.reward_kl_coef > 0
  groups = made([[1, 1], [1, 0]], [[3, 3], [3, 3]])
  np.testing.assert_array_equal(keep(c)(groups, step=0), [False, True])
  kl_NRT = np.ones((2, 2, LIMIT), np.float32)
  np.testing.assert_allclose(
    shaped(c)(groups, 0, kl_NRT),
    groups.reward_PG - LIMIT * c.algo.reward_kl_coef,
    rtol=1e-6,
  )


def test_spread_of_rewards_is_that_of_all_groups_that_were_sampled():
  """Dynamic sampling keeps the mixed one alone, whose spread is 0.5."""
  groups = made([[1, 1], [1, 0], [0, 0], [0, 0]], [[3, 3]] * 4)
  assert measure.rollouts(groups)["reward_spread/mean"] == 0.125


def test_groups_without_verdicts_say_nothing_of_the_rewards():
  """The verifier failed on two groups, and on all but one of a third."""
  groups = made([[1, 0], [1, 1], [0, 0], [0, 0], [1, 0]], [[3, 3]] * 5)
  valid = np.array([[True, True]] * 2 + [[False, False]] * 2 + [[True, False]])
  groups = dataclasses.replace(groups, valid_PG=valid)
  metrics = measure.rollouts(groups)
  assert metrics["frac_reward_zero_std"] == 0.5
  assert metrics["reward_std"] == metrics["reward_spread/mean"] == 0.25
  nothing = dataclasses.replace(groups, valid_PG=np.zeros_like(valid))
  assert np.isnan(measure.rollouts(nothing)["frac_reward_zero_std"])
