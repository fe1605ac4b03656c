"""Advantages against arithmetic written out, then their properties."""

import functools

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.algos import advantages

reinforce_pp_baseline = functools.partial(
  advantages.reinforce_pp, baseline=True
)
# Those that compare a response with its own group, and all.
GROUPED = [
  advantages.grpo,
  advantages.dr_grpo,
  advantages.rloo,
  reinforce_pp_baseline,
]
ALL = [*GROUPED, advantages.reinforce_pp]

# Few shapes: each is compiled anew.
REWARDS = hnp.arrays(
  np.float32,
  st.sampled_from([(1, 1), (2, 4), (1, 7)]),
  elements=st.floats(-2, 2, width=16),
)


def test_grpo_divides_by_the_population_deviation():
  # Mean 0.5, deviations +-0.5, variance 4 * 0.25 / 4 = 0.25.
  got = advantages.grpo([[1, 1, 0, 0]])
  expected = 0.5 / (0.5 + 1e-6)
  np.testing.assert_allclose(
    got, [[expected, expected, -expected, -expected]], rtol=1e-7
  )
  np.testing.assert_allclose(got[0, 0], 0.999998, atol=1e-7)
  assert abs(float(got[0, 0]) - 0.866024) > 0.1  # the sample deviation's


def test_grpo_near_solved_group():
  # 15 of 16 right: mean 15/16, variance 15/16 * 1/16.
  got = advantages.grpo([[1.0] * 15 + [0.0]])
  sigma = (15 / 16 * 1 / 16) ** 0.5
  np.testing.assert_allclose(got[0, 0], 1 / 16 / (sigma + 1e-6), rtol=1e-6)
  np.testing.assert_allclose(got[0, 15], -15 / 16 / (sigma + 1e-6), rtol=1e-6)
  np.testing.assert_allclose(got[0, 0], 0.258, atol=2e-4)


def test_grpo_adds_eps_to_the_deviation():
  got = advantages.grpo([[1, 1, 0, 0]], eps=0.5)
  np.testing.assert_allclose(got, [[0.5, 0.5, -0.5, -0.5]], rtol=1e-7)


def test_dr_grpo_only_centres():
  got = advantages.dr_grpo([[1, 0, 0, 0], [3, 1, 1, 1]])
  np.testing.assert_allclose(
    got, [[0.75, -0.25, -0.25, -0.25], [1.5, -0.5, -0.5, -0.5]]
  )


def test_rloo_subtracts_the_mean_of_the_others():
  # 1 - (0 + 0 + 0.5)/3, 0 - (1 + 0 + 0.5)/3, ..., 0.5 - (1 + 0 + 0)/3.
  got = advantages.rloo([[1, 0, 0, 0.5]])
  np.testing.assert_allclose(
    got, [[1 - 0.5 / 3, -0.5, -0.5, 0.5 - 1 / 3]], rtol=1e-6
  )


def test_reinforce_pp_standardises_over_the_batch():
  # Three of eight: mean 3/8, variance 3/8 * 5/8.
  got = advantages.reinforce_pp([[1, 1, 0, 0], [1, 0, 0, 0]])
  sigma = (15 / 64) ** 0.5
  right, wrong = 5 / 8 / (sigma + 1e-6), -3 / 8 / (sigma + 1e-6)
  np.testing.assert_allclose(
    got, [[right, right, wrong, wrong], [right, wrong, wrong, wrong]], rtol=1e-6
  )
  # A group in which all are right is better than the batch.
  got = advantages.reinforce_pp([[1, 1], [0, 0]])
  np.testing.assert_allclose(got, [[1, 1], [-1, -1]], rtol=1e-5)


def test_reinforce_pp_with_baseline_takes_the_group_off_first():
  # Deviations +-1/2 and 3/4, -1/4: the mean of their squares is 1.75 / 8.
  got = reinforce_pp_baseline([[1, 1, 0, 0], [1, 0, 0, 0]])
  sigma = (1.75 / 8) ** 0.5 + 1e-6
  np.testing.assert_allclose(
    got, np.array([[2, 2, -2, -2], [3, -1, -1, -1]]) / 4 / sigma, rtol=1e-6
  )
  got = reinforce_pp_baseline([[1, 1, 0, 0], [1, 0, 0, 0]], eps=1.0)
  np.testing.assert_allclose(got[0, 0], 0.5 / (sigma - 1e-6 + 1), rtol=1e-6)


def test_reinforce_pp_with_baseline_leaves_equal_groups_at_exactly_zero():
  # 0.1, 0.7 and 1/3 are not binary fractions: the mean of the batch's
  # deviations is a rounding, not 0.
  rewards = [[0.1] * 3, [0.1, 0.7, 1 / 3], [1 / 3] * 3]
  got = np.asarray(reinforce_pp_baseline(rewards))
  np.testing.assert_array_equal(got[[0, 2]], 0)
  assert np.all(got[1] != 0)


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_pp_against_numpy_with_lost_responses(baseline):
  rng = np.random.default_rng(3)
  rewards = rng.random((5, 6))
  valid = rng.random((5, 6)) > 0.3
  rewards[2] = 0.5
  exact = rewards.copy()
  if baseline:
    exact -= np.mean(exact, axis=1, where=valid, keepdims=True)
  known = exact[valid]
  expected = np.where(valid, (exact - known.mean()) / known.std(), 0)
  got = advantages.reinforce_pp(
    np.where(valid, rewards, np.nan), 0.0, baseline, valid_PG=valid
  )
  np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("advantage", ALL)
@pytest.mark.parametrize("reward", [0, 1, -1, 0.1, 0.3, 1e-3, 1 / 3, 77.7])
def test_equal_rewards_have_advantage_exactly_zero(advantage, reward):
  for group in (1, 2, 3, 7, 16):
    assert not np.any(advantage(np.full((2, group), reward)))


@pytest.mark.parametrize("advantage", GROUPED)
def test_rewards_equal_but_for_rounding_have_advantage_exactly_zero(advantage):
  noise = [0.3, 0.1 + 0.2, float(np.nextafter(np.float32(0.3), np.float32(1)))]
  assert not np.any(advantage([noise, [5.6e-17, 0.0, 0.0]]))


def test_small_but_real_differences_are_kept():
  got = advantages.grpo([[0.5, 0.501]])
  np.testing.assert_allclose(got, [[-0.998, 0.998]], atol=1e-3)


@pytest.mark.parametrize("advantage", ALL)
def test_masked_sample_has_no_influence(advantage):
  rewards = np.array([[1.0, 0.0, 0.5, np.nan], [1.0, 0.0, 0.5, 1e9]])
  valid = np.array([[True, True, True, False]] * 2)
  got = advantage(rewards, valid_PG=valid)
  np.testing.assert_array_equal(got[:, 3], 0)
  np.testing.assert_allclose(
    got[:, :3], advantage(rewards[:, :3]), rtol=1e-6, atol=1e-7
  )


@pytest.mark.parametrize("advantage", ALL)
def test_groups_with_one_or_no_valid_sample_are_zero(advantage):
  valid = np.array([[False] * 3, [False, True, False]])
  got = advantage([[1.0, 0.0, np.inf], [np.nan, 1.0, 0.0]], valid_PG=valid)
  np.testing.assert_array_equal(got, np.zeros((2, 3)))


@pytest.mark.parametrize("advantage", ALL)
def test_shape_and_type(advantage):
  got = advantage(np.array([[1, 0, 1]]))
  assert got.shape == (1, 3)
  assert got.dtype == jnp.float32
  with pytest.raises(AssertionError, match=r"\(3,\)"):
    advantage(np.zeros(3))
  with pytest.raises(AssertionError, match=r"\(2, 2\)"):
    advantage(np.zeros((2, 3)), valid_PG=np.ones((2, 2), bool))
  with pytest.raises(AssertionError, match="bool"):
    advantage(np.zeros((2, 3)), valid_PG=np.ones((2, 3)))


@hypothesis.given(REWARDS)
@hypothesis.settings(max_examples=40, deadline=None)
def test_against_numpy_in_double_precision(rewards):
  exact = rewards.astype(np.float64)
  centred = exact - exact.mean(axis=1, keepdims=True)
  sigma = exact.std(axis=1, keepdims=True)
  group = rewards.shape[1]
  np.testing.assert_allclose(
    advantages.grpo(rewards, eps=1e-2), centred / (sigma + 1e-2), atol=1e-4
  )
  np.testing.assert_allclose(advantages.dr_grpo(rewards), centred, atol=1e-6)
  np.testing.assert_allclose(
    advantages.rloo(rewards), centred * group / max(group - 1, 1), atol=3e-6
  )


@hypothesis.given(REWARDS)
@hypothesis.settings(max_examples=30, deadline=None)
def test_advantages_are_finite_and_sum_to_zero(rewards):
  for advantage in GROUPED:
    got = np.asarray(advantage(rewards))
    assert np.all(np.isfinite(got))
    np.testing.assert_allclose(got.sum(axis=1), 0, atol=2e-2)
  got = np.asarray(advantages.reinforce_pp(rewards))
  np.testing.assert_allclose(got.sum(), 0, atol=2e-2)


@pytest.mark.parametrize("advantage", ALL)
def test_jit_and_vmap_change_nothing(advantage):
  rewards = np.random.default_rng(0).random((3, 2, 5), np.float32)
  valid = np.random.default_rng(1).random((3, 2, 5)) > 0.3
  plain = np.stack([advantage(r, valid_PG=v) for r, v in zip(rewards, valid)])

  def call(r, v):
    return advantage(r, valid_PG=v)

  jitted = jax.jit(call)(rewards[0], valid[0])
  np.testing.assert_allclose(jitted, plain[0], rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(
    jax.vmap(call)(rewards, valid), plain, rtol=1e-6, atol=1e-7
  )
