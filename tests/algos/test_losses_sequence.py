"""GSPO, CISPO and VESPO against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.algos import aggregate, losses


def inputs_of(ratios, adv, old=-1.0):
  """A row for each list of ratios, padded on the right."""
  length = max(map(len, ratios))
  mask = np.array([[t < len(r) for t in range(length)] for r in ratios])
  padded = np.array([r + [1.0] * (length - len(r)) for r in ratios])
  old_logp = jnp.full(mask.shape, old)
  return batch.LossInputs(
    logp_BT=old_logp + jnp.log(jnp.asarray(padded, jnp.float32)),
    old_logp_BT=old_logp,
    adv_B=jnp.asarray(adv, jnp.float32),
    mask_BT=jnp.asarray(mask),
  )


def objective(inputs, loss, mean):
  """The loss that an update descends, and its gradient by logp."""

  def total(logp_BT):
    loss_BT, _ = loss(inputs.replace(logp_BT=logp_BT))
    top, count = mean(loss_BT, inputs.mask_BT)
    return top / count

  value, grad = jax.value_and_grad(total)(inputs.logp_BT)
  return float(value), np.asarray(grad)


def mean(pair):
  return float(pair[0] / pair[1])


# GSPO.

wide = functools.partial(losses.gspo, epsilon=0.5, epsilon_high=0.5)


def test_gspo_by_hand():
  # s = sqrt(1.2 * 0.9) = sqrt(1.08), and (2 * 0.5 * 1.331)^(1/3) = 1.1.
  inputs = inputs_of([[1.2, 0.9], [2.0, 0.5, 1.331]], [2.0, -1.0])
  loss_BT, metrics = wide(inputs)
  s = 1.08**0.5
  np.testing.assert_allclose(
    loss_BT, [[-2 * s, -2 * s, 0], [1.1, 1.1, 1.1]], rtol=1e-6
  )
  value, grad = objective(inputs, wide, aggregate.sequence_mean)
  # 1/G sum_i, G = 2; each token has 1/|o_i| of its response's gradient.
  np.testing.assert_allclose(value, (-2 * s + 1.1) / 2, rtol=1e-6)
  np.testing.assert_allclose(
    grad, [[-s / 2, -s / 2, 0], [1.1 / 6] * 3], rtol=1e-5
  )
  np.testing.assert_allclose(
    mean(metrics["gspo/ratio"]), (2 * s + 3 * 1.1) / 5, rtol=1e-6
  )
  np.testing.assert_allclose(
    mean(metrics["ratio/mean"]), (1.2 + 0.9 + 2 + 0.5 + 1.331) / 5, rtol=1e-6
  )


def test_gspo_under_the_mean_over_tokens_weighs_by_length():
  inputs = inputs_of([[1.2, 0.9], [2.0, 0.5, 1.331]], [2.0, -1.0])
  value, grad = objective(inputs, wide, aggregate.token_mean)
  s = 1.08**0.5
  np.testing.assert_allclose(value, (2 * -2 * s + 3 * 1.1) / 5, rtol=1e-6)
  np.testing.assert_allclose(
    grad, [[-2 * s / 5, -2 * s / 5, 0], [1.1 / 5] * 3], rtol=1e-5
  )


@pytest.mark.parametrize("token_level", [False, True])
@pytest.mark.parametrize(
  "ratio, adv, expected",
  [
    (1.0003, 1.0, -1.0003),
    (1.0005, 1.0, -1.0004),
    (0.9, 1.0, -0.9),
    (0.9998, -1.0, 0.9998),
    (0.9996, -1.0, 0.9997),
    (1.1, -1.0, 1.1),
  ],
)
def test_gspo_clips_whole_responses(ratio, adv, expected, token_level):
  """The bounds of the paper, 3e-4 and 4e-4, on the side where they bind."""
  # Token ratios far outside of the bounds; the geometric mean is `ratio`.
  inputs = inputs_of([[ratio * 2, ratio / 2]], [adv])
  loss = functools.partial(losses.gspo, token_level=token_level)
  loss_BT, metrics = loss(inputs)
  np.testing.assert_allclose(loss_BT, [[expected] * 2], rtol=1e-6)
  _, grad = objective(inputs, loss, aggregate.sequence_mean)
  moves = abs(expected) == ratio
  np.testing.assert_allclose(grad, [[moves * -adv * ratio / 2] * 2], rtol=1e-5)
  assert mean(metrics["clip_ratio/region_mean"]) == 1 - moves
  side = "clip_ratio/high_mean" if adv > 0 else "clip_ratio/low_mean"
  assert mean(metrics[side]) == 1 - moves


def test_gspo_by_token_is_the_same_where_the_advantage_is_one():
  rng = np.random.default_rng(0)
  ratios = [list(np.exp(0.3 * rng.normal(size=n))) for n in (3, 7, 1, 5)]
  inputs = inputs_of(ratios, [1.0, -2.0, 0.5, -0.1])
  token = functools.partial(wide, token_level=True)
  for average in (aggregate.sequence_mean, aggregate.token_mean):
    for a, b in zip(
      objective(inputs, wide, average), objective(inputs, token, average)
    ):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_gspo_by_token_keeps_a_tokens_advantage_to_itself():
  inputs = inputs_of([[1.1, 1.1, 1.1]], [0.0]).replace(
    adv_B=None, adv_BT=jnp.array([[3.0, 0.0, 0.0]])
  )
  token = functools.partial(wide, token_level=True)
  _, grad = objective(inputs, token, aggregate.sequence_mean)
  np.testing.assert_allclose(grad, [[-1.1, 0, 0]], rtol=1e-6)
  _, grad = objective(inputs, wide, aggregate.sequence_mean)
  np.testing.assert_allclose(grad, [[-1.1 / 3] * 3], rtol=1e-6)


# CISPO.


def test_cispo_by_hand():
  # Weights min(r, 5); log-probs log r - 1.
  ratios = [[0.1, 1.0, 4.0, 8.0]]
  for adv in (1.0, -2.0):
    inputs = inputs_of(ratios, [adv])
    loss_BT, metrics = losses.cispo(inputs)
    weight = np.array([0.1, 1.0, 4.0, 5.0])
    logp = np.log([0.1, 1.0, 4.0, 8.0]) - 1
    np.testing.assert_allclose(loss_BT[0], -weight * adv * logp, rtol=1e-5)
    assert mean(metrics["clip_ratio/high_mean"]) == 0.25
    np.testing.assert_allclose(mean(metrics["cispo/weight"]), 10.1 / 4)


def test_cispo_no_token_loses_its_gradient():
  """It is sg(min(r, cap)) A, past the cap too and however small r is."""
  inputs = inputs_of([[0.01, 1.0, 9.0], [0.01, 1.0, 9.0]], [1.0, -1.0])
  _, grad = objective(inputs, losses.cispo, aggregate.token_mean)
  weight = np.array([0.01, 1.0, 5.0]) / 6
  np.testing.assert_allclose(grad, [-weight, weight], rtol=1e-5)


def test_cispo_cap_must_be_positive():
  with pytest.raises(ValueError, match="-1.0"):
    losses.cispo(inputs_of([[1.0]], [1.0]), cap=-1.0)


# VESPO.

PHI = [
  # W, phi for A >= 0, phi for A < 0
  (0.25, 0.592983, 0.070026),
  (0.5, 1.120422, 0.339785),
  (1.0, 1.0, 1.0),
  (2.0, 0.199148, 1.082683),
  (4.0, 0.001975, 0.158640),
]


@pytest.mark.parametrize("w, good, bad", PHI)
@pytest.mark.parametrize("length", [1, 4])
def test_vespo_weights_the_product_of_ratios(w, good, bad, length):
  # The length does not matter: W is not normalised by it.
  ratios = [[w] + [1.0] * (length - 1)] * 2
  inputs = inputs_of(ratios, [1.0, -1.0])
  _, grad = objective(inputs, losses.vespo, lambda x, mask: (jnp.sum(x), 1.0))
  np.testing.assert_allclose(grad[0], [-good] * length, atol=1e-6)
  np.testing.assert_allclose(grad[1], [bad] * length, atol=1e-6)
  _, metrics = losses.vespo(inputs)
  np.testing.assert_allclose(
    mean(metrics["vespo/weight"]), (good + bad) / 2, atol=1e-6
  )
  np.testing.assert_allclose(
    mean(metrics["vespo/log_ratio"]), np.log(w), atol=1e-6
  )


def test_vespo_weight_peaks_at_k_over_lambda():
  ws = np.linspace(0.05, 4, 80)
  inputs = inputs_of([[w] for w in ws] * 2, [1.0] * 80 + [-1.0] * 80)
  _, grad = objective(inputs, losses.vespo, aggregate.token_mean)
  phi = abs(grad[:, 0])
  np.testing.assert_allclose(ws[np.argmax(phi[:80])], 2 / 3, atol=0.03)
  np.testing.assert_allclose(ws[np.argmax(phi[80:])], 3 / 2, atol=0.03)


def test_vespo_clamps_tokens_and_their_sum():
  # +30 and -25 are clamped to +20 and -20, whose sum is 0; 15 + 15 is 20.
  inputs = inputs_of([[1.0, 1.0]] * 3, [1.0, 1.0, -1.0])
  difference = jnp.array([[30.0, -25.0], [15.0, 15.0], [-15.0, -15.0]])
  inputs = inputs.replace(logp_BT=inputs.old_logp_BT + difference)
  _, metrics = losses.vespo(inputs)
  total, count = metrics["vespo/log_ratio"]
  assert (float(total), float(count)) == (0.0, 6.0)
  _, grad = objective(inputs, losses.vespo, lambda x, mask: (jnp.sum(x), 1.0))
  np.testing.assert_allclose(
    grad, [[-1, -1], [0, 0], [np.exp(-58)] * 2], rtol=1e-4
  )
