"""Statistics of a step, against numbers by hand and the whole batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.algos import diagnostics

NAN = float("nan")


def test_entropy_quantiles_by_hand():
  # Real: 0, 0.005, 0.1, ..., with 11 values q10 is the second, q50 the sixth.
  real = [0.0, 0.005, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
  entropy_BT = np.array([real[5:] + [NAN], real[:5] + [7.0, NAN]])
  mask_BT = np.array([[True] * 6 + [False], [True] * 5 + [False] * 2])
  found = diagnostics.entropy_quantiles(entropy_BT, mask_BT)
  assert found == pytest.approx(
    {
      "entropy/q10": 0.005,
      "entropy/q50": 0.4,
      "entropy/q90": 0.8,
      "entropy/low_share": 2 / 11,
    }
  )
  found = diagnostics.entropy_quantiles(entropy_BT, mask_BT, low=0.4)
  assert found["entropy/low_share"] == pytest.approx(5 / 11)  # below, not at


def test_quantiles_ask_for_no_order_and_no_shape():
  rng = np.random.default_rng(0)
  entropy = rng.exponential(size=(4, 2, 50))
  mask = rng.random(entropy.shape) < 0.7
  found = diagnostics.entropy_quantiles(entropy, mask)
  flat = np.sort(entropy[mask])
  assert found == diagnostics.entropy_quantiles(flat, np.ones(len(flat), bool))
  assert (flat <= found["entropy/q90"]).mean() == pytest.approx(0.9, abs=0.01)


def test_covariance_by_hand():
  # Log-probs -1, -3, -2 around -2 and advantages 2, -1, -1 around 0:
  # products 2, 1, 0.
  logp_BT = np.array([[-1.0, NAN], [-3.0, -2.0]])
  adv_B1 = np.array([[2.0], [-1.0]])
  mask_BT = np.array([[True, False], [True, True]])
  found = diagnostics.covariance(logp_BT, adv_B1, mask_BT)
  assert found == pytest.approx(
    {"covariance/logp_advantage": 1.0, "covariance/high_share": 1 / 3}
  )
  found = diagnostics.covariance(logp_BT, adv_B1, mask_BT, high=0.5)
  assert found["covariance/high_share"] == pytest.approx(2 / 3)


def test_covariance_is_that_of_numpy_and_turns_with_the_advantage():
  rng = np.random.default_rng(1)
  logp, adv = rng.normal(size=(2, 6, 9))
  mask = rng.random((6, 9)) < 0.6
  name = "covariance/logp_advantage"
  found = diagnostics.covariance(logp, adv, mask)[name]
  assert found == pytest.approx(np.cov(logp[mask], adv[mask], bias=True)[0, 1])
  # An advantage that all tokens share is no reason to prefer any.
  assert diagnostics.covariance(logp, adv + 5, mask)[name] == pytest.approx(
    found
  )
  assert diagnostics.covariance(logp, -adv, mask)[name] == pytest.approx(-found)
  assert diagnostics.covariance(logp, np.ones_like(adv), mask)[name] == 0


def test_reward_spread_by_hand():
  # Spreads 0.5, 0, sqrt(3)/4: of 1,1,0,0; of 1,1,1,1; of 1,0,0,0.
  reward_PG = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
  third = np.sqrt(3) / 4
  assert diagnostics.reward_spread(reward_PG) == pytest.approx(
    {
      "reward_spread/mean": (0.5 + third) / 3,
      "reward_spread/q10": 0.2 * third,
      "reward_spread/q90": third + 0.8 * (0.5 - third),
    }
  )


def test_reward_spread_of_valid_responses_only():
  reward_PG = np.array([[1.0, 0.0, NAN], [NAN, 1.0, NAN], [3.0, 3.0, 5.0]])
  valid_PG = np.array(
    [[True, True, False], [False, True, False], [True, True, False]]
  )
  # The second group has one response left, and no spread to speak of.
  assert diagnostics.reward_spread(reward_PG, valid_PG) == pytest.approx(
    {
      "reward_spread/mean": 0.25,
      "reward_spread/q10": 0.05,
      "reward_spread/q90": 0.45,
    }
  )


def test_what_has_nothing_to_measure_is_left_out():
  x, mask = np.ones((2, 3)), np.zeros((2, 3), bool)
  assert diagnostics.entropy_quantiles(x, mask) == {}
  assert diagnostics.covariance(x, x, mask) == {}
  assert diagnostics.reward_spread(x, mask) == {}


def _kl_share(policy_BT, kl_BT, mask_BT):
  """The KL's share of the gradient of one whole batch."""
  return diagnostics.share_of_squares(
    *diagnostics.gradient_squares(policy_BT, kl_BT, mask_BT)
  )


def test_kl_share_by_hand():
  # |g_policy| = 5 and |g_kl| = 1.25 over the real tokens.
  policy_BT = jnp.array([[3.0, 0.0], [4.0, NAN]])
  kl_BT = jnp.array([[0.0, 0.75], [-1.0, NAN]])
  mask_BT = jnp.array([[True, True], [True, False]])
  assert diagnostics.gradient_squares(policy_BT, kl_BT, mask_BT) == (
    25.0,
    1.5625,
  )
  for share in (_kl_share, jax.jit(_kl_share)):
    assert share(policy_BT, kl_BT, mask_BT) == pytest.approx(0.2)


def test_kl_share_at_the_ends():
  zero, one = jnp.zeros((1, 2)), jnp.ones((1, 2))
  mask = jnp.ones((1, 2), bool)
  assert _kl_share(one, zero, mask) == 0
  assert _kl_share(zero, one, mask) == 1
  assert _kl_share(zero, zero, mask) == 0
  assert _kl_share(one, -one, mask) == pytest.approx(0.5)


def test_kl_share_is_exact_under_accumulation():
  rng = np.random.default_rng(2)
  policy, kl = rng.normal(size=(2, 12, 7)) * [[[1.0]], [[0.3]]]
  policy[:4] *= 20  # pieces unlike each other
  mask = rng.random((12, 7)) < 0.8
  whole = float(_kl_share(policy, kl, mask))
  pieces = [
    diagnostics.gradient_squares(
      policy[i : i + 4], kl[i : i + 4], mask[i : i + 4]
    )
    for i in (0, 4, 8)
  ]
  sums = [sum(square) for square in zip(*pieces)]
  assert diagnostics.share_of_squares(*sums) == pytest.approx(whole, rel=1e-6)
  # A count that both are divided by changes nothing.
  assert diagnostics.share_of_squares(*(s / 84 for s in sums)) == (
    pytest.approx(whole, rel=1e-6)
  )
  shares = [float(diagnostics.share_of_squares(*piece)) for piece in pieces]
  assert abs(np.mean(shares) - whole) > 0.05  # their mean is another number


def test_shapes_and_masks_that_do_not_fit_are_refused():
  x, mask = np.ones((2, 3)), np.ones((2, 3), bool)
  with pytest.raises(AssertionError):
    diagnostics.entropy_quantiles(x, mask[:1])
  with pytest.raises(AssertionError):
    diagnostics.entropy_quantiles(x, x)
  with pytest.raises(ValueError):
    diagnostics.covariance(x, np.ones((5, 1)), mask)
  with pytest.raises(AssertionError):
    diagnostics.gradient_squares(x, x[:1], mask)
  with pytest.raises(AssertionError):
    diagnostics.reward_spread(x, np.ones((2, 3)))
