"""DPPO, SAPO and high-entropy tokens against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.algos import losses


def inputs_of(now, old, adv, **more):
  """One row of tokens with the given probabilities and advantages."""
  now, old, adv = (np.atleast_2d(np.asarray(x)) for x in (now, old, adv))
  return batch.LossInputs(
    logp_BT=jnp.asarray(np.log(now), jnp.float32),
    old_logp_BT=jnp.asarray(np.log(old), jnp.float32),
    adv_BT=jnp.asarray(np.broadcast_to(adv, now.shape), jnp.float32),
    mask_BT=jnp.ones(now.shape, bool),
    **more,
  )


def gradient(inputs, loss):
  """d sum(loss) / d logp."""
  return np.asarray(
    jax.grad(lambda x: jnp.sum(loss(inputs.replace(logp_BT=x))[0]))(
      inputs.logp_BT
    )
  )


def ratios(values, adv):
  """The same for tokens of old probability 0.1."""
  return inputs_of(0.1 * np.asarray(values), np.full(len(values), 0.1), adv)


# DPPO.


@pytest.mark.parametrize(
  "now, old, adv, expected",
  [
    (0.3, 0.3, 2.0, -2.0),  # at the old policy
    (0.4, 0.3, 2.0, -2.0 * 0.4 / 0.3),  # grew by 0.1
    (0.46, 0.3, 2.0, 0.0),  # grew by 0.16, more than 0.15
    (1e-3, 1e-5, 2.0, -200.0),  # a hundred times, and hardly any mass
    (0.1, 0.3, 2.0, -2.0 / 3),  # fell: a good token is free to rise again
    (0.2, 0.3, -2.0, 2.0 * 2 / 3),  # fell by 0.1
    (0.8, 0.99, -2.0, 0.0),  # fell by 0.19: a ratio of 0.81, within 0.2
    (0.9, 0.3, -2.0, 6.0),  # rose: a bad token is free to fall again
    (0.9, 0.1, 0.0, 0.0),
  ],
)
def test_dppo_per_token(now, old, adv, expected):
  inputs = inputs_of(now, old, adv)
  loss_BT, _ = losses.dppo(inputs)
  np.testing.assert_allclose(loss_BT, [[expected]], rtol=1e-5)
  # d(-r A)/d log pi = -r A, and nothing of a masked token.
  np.testing.assert_allclose(
    gradient(inputs, losses.dppo), [[expected]], rtol=1e-5
  )


def test_dppo_counts_what_it_masks():
  inputs = inputs_of(
    [0.5, 0.1, 0.1, 0.5, 0.3], [0.3, 0.3, 0.3, 0.3, 0.3], [1, -1, 1, -1, 1]
  )
  _, metrics = losses.dppo(inputs)
  assert metrics["dppo/masked_high"] == (1, 5)
  assert metrics["dppo/masked_low"] == (1, 5)
  np.testing.assert_allclose(metrics["dppo/difference"], (0.8, 5), rtol=1e-5)
  _, wide = losses.dppo(inputs, delta=0.25, delta_high=0.15)
  assert wide["dppo/masked_low"] == (0, 5)
  assert wide["dppo/masked_high"] == (1, 5)


def test_dppo_bounds_are_on_either_side_of_zero():
  for name in ("delta", "delta_high"):
    with pytest.raises(ValueError, match="positive.*0.0"):
      losses.dppo(inputs_of(0.3, 0.3, 1.0), **{name: 0.0})


# SAPO.


@pytest.mark.parametrize(
  "ratio, adv, expected, slope",
  [
    # Values 4 / tau sigmoid(tau (r - 1)) A, gradients r A sech^2(tau (r-1)/2).
    (1.0, 1.0, -2.0, -1.0),
    (1.0, -1.0, 2 / 1.05, 1.0),
    (2.0, 1.0, -2.924234, -1.572895),
    (0.5, 1.0, -1.510163, -0.470007),
    (2.0, -1.0, 2.822000, 1.536220),
    (3.0, -2.0, 6.787834, 2.332673),
    (5.0, 0.0, 0.0, 0.0),
  ],
)
def test_sapo_per_token(ratio, adv, expected, slope):
  inputs = ratios([ratio], adv)
  loss_BT, metrics = losses.sapo(inputs)
  np.testing.assert_allclose(loss_BT, [[expected]], rtol=2e-6)
  grad = gradient(inputs, losses.sapo)
  np.testing.assert_allclose(grad, [[slope]], rtol=2e-5, atol=1e-7)
  if adv:
    np.testing.assert_allclose(
      metrics["sapo/weight"][0], slope / (-ratio * adv), rtol=2e-5
    )


def test_sapo_falls_off_faster_for_a_larger_tau_and_never_stops():
  inputs = ratios([0.2, 0.8, 1.0, 1.5, 4.0], 1.0)
  weights = [
    gradient(inputs, functools.partial(losses.sapo, tau_pos=tau))
    / -np.exp(inputs.logp_BT - inputs.old_logp_BT)
    for tau in (0.5, 1.0, 2.0)
  ]
  for soft, steep in zip(weights, weights[1:]):
    assert np.all(soft[0, [0, 1, 3, 4]] > steep[0, [0, 1, 3, 4]])
    assert np.all(steep > 0)
  np.testing.assert_allclose([w[0, 2] for w in weights], 1.0, rtol=1e-5)


def test_sapo_needs_a_slope():
  for name in ("tau_pos", "tau_neg"):
    with pytest.raises(ValueError, match="positive.*0.0"):
      losses.sapo(ratios([1.0], 1.0), **{name: 0.0})


# The tokens of highest entropy.


def entropies(values, **more):
  """Tokens of ratio 1.5 and advantage 1, which the bound of 1.28 clips."""
  count = len(values)
  return inputs_of(
    np.full(count, 0.3),
    np.full(count, 0.2),
    1.0,
    entropy_BT=jnp.asarray([values], jnp.float32),
    **more,
  )


def test_high_entropy_learns_from_a_fifth_of_the_tokens():
  values = [0.1, 2.0, 0.3, 1.5, 0.2, 0.0, 0.05, 0.4, 1.9, 0.01]
  loss_BT, metrics = losses.high_entropy(entropies(values))
  expected = np.zeros((1, 10))
  expected[0, [1, 8]] = -1.28
  np.testing.assert_allclose(loss_BT, expected, rtol=1e-6)
  assert metrics["high_entropy/kept"] == (2, 10)
  np.testing.assert_allclose(
    metrics["high_entropy/entropy"], (3.9, 2), rtol=1e-6
  )
  assert metrics["clip_ratio/high_mean"] == (10, 10)
  loss = functools.partial(losses.high_entropy, epsilon_high=1.0)
  grad = gradient(entropies(values), loss)
  np.testing.assert_allclose(grad, expected * 1.5 / 1.28, rtol=1e-6)


@pytest.mark.parametrize(
  ("count", "share", "kept"),
  [(10, 0.2, 2), (11, 0.2, 3), (15, 0.2, 3), (3, 0.2, 1), (7, 1.0, 7)],
)
def test_high_entropy_rounds_up(count, share, kept):
  inputs = entropies(np.linspace(0, 1, count))
  loss_BT, _ = losses.high_entropy(inputs, share=share)
  assert np.flatnonzero(loss_BT[0]).tolist() == list(range(count))[-kept:]


def test_high_entropy_takes_as_many_among_equals():
  loss_BT, _ = losses.high_entropy(entropies([1.0] * 10))
  assert np.count_nonzero(loss_BT) == 2


def test_high_entropy_ranks_real_tokens_alone():
  inputs = entropies([0.5, np.nan, 0.1, 9.0, 0.2]).replace(
    mask_BT=jnp.array([[True, False, True, False, True]])
  )
  loss_BT, metrics = losses.high_entropy(inputs)
  assert np.flatnonzero(loss_BT[0]).tolist() == [0]
  assert metrics["high_entropy/kept"] == (1, 3)


def test_high_entropy_has_the_dual_clip_and_all_of_it_is_the_surrogate():
  inputs = entropies([0.1, 0.2, 0.3]).replace(
    adv_BT=jnp.array([[-1.0, 1.0, -1.0]])
  )
  options = dict(epsilon=0.1, epsilon_high=0.2, dual_clip=1.2)
  got, _ = losses.high_entropy(inputs, share=1.0, **options)
  np.testing.assert_array_equal(got, losses.clip(inputs, **options)[0])
  np.testing.assert_allclose(got, [[1.2, -1.2, 1.2]], rtol=1e-6)


def test_high_entropy_says_what_is_missing():
  inputs = entropies([0.1, 0.2])
  with pytest.raises(ValueError, match="entropy_BT"):
    losses.high_entropy(inputs.replace(entropy_BT=None))
  with pytest.raises(ValueError, match="0.0"):
    losses.high_entropy(inputs, share=0.0)
  assert losses.high_entropy.whole
