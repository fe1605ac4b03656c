"""The clipped surrogate against numbers worked out by hand."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.algos import losses


def inputs_of(ratio, adv, mask=None, old=-1.0):
  """One row of tokens with the given ratios and advantages."""
  ratio = np.atleast_2d(np.asarray(ratio, np.float32))
  adv = np.broadcast_to(np.asarray(adv, np.float32), ratio.shape)
  mask = np.ones(ratio.shape, bool) if mask is None else np.asarray(mask)
  old_logp = np.full(ratio.shape, old, np.float32)
  return batch.LossInputs(
    logp_BT=jnp.asarray(old_logp + np.log(ratio)),
    old_logp_BT=jnp.asarray(old_logp),
    adv_BT=jnp.asarray(adv),
    mask_BT=jnp.asarray(mask),
  )


def gradient(inputs, **options):
  """d sum(loss) / d logp."""

  def total(logp_BT):
    loss_BT, _ = losses.clip(inputs.replace(logp_BT=logp_BT), **options)
    return jnp.sum(loss_BT)

  return np.asarray(jax.grad(total)(inputs.logp_BT))


def mean(pair):
  return float(pair[0] / pair[1])


# Golden numbers.


@pytest.mark.parametrize(
  "ratio, adv, expected",
  [
    (1.0, 2.0, -2.0),  # on policy
    (1.2, 2.0, -2.4),  # inside
    (1.5, 2.0, -2.56),  # good token, capped at 1.28
    (0.5, 2.0, -1.0),  # good token below 1 - epsilon: not clipped
    (1.1, -2.0, 2.2),  # inside
    (0.5, -2.0, 1.6),  # bad token, floored at 0.8
    (1.5, -2.0, 3.0),  # bad token above 1 + epsilon: not clipped
    (9.0, 0.0, 0.0),
  ],
)
def test_clip_per_token(ratio, adv, expected):
  loss_BT, _ = losses.clip(inputs_of(ratio, adv))
  np.testing.assert_allclose(loss_BT, [[expected]], rtol=1e-6)
  assert loss_BT.dtype == jnp.float32


def test_clip_is_the_printed_minimum():
  rng = np.random.default_rng(0)
  ratio = np.exp(rng.normal(size=(5, 40))).astype(np.float32)
  adv = rng.normal(size=(5, 40)).astype(np.float32)
  loss_BT, _ = losses.clip(inputs_of(ratio, adv), epsilon=0.3, epsilon_high=0.5)
  printed = np.minimum(ratio * adv, np.clip(ratio, 0.7, 1.5) * adv)
  np.testing.assert_allclose(loss_BT, -printed, rtol=1e-5, atol=1e-6)


def test_dual_clip_bounds_the_loss_of_bad_tokens_only():
  inputs = inputs_of([2.0, 9.0, 9.0, 0.1], [-1.0, -1.0, 1.0, -1.0])
  loss_BT, metrics = losses.clip(inputs, dual_clip=3.0)
  np.testing.assert_allclose(loss_BT, [[2.0, 3.0, -1.28, 0.8]], rtol=1e-6)
  assert mean(metrics["clip_ratio/dual_mean"]) == 0.25
  assert gradient(inputs, dual_clip=3.0)[0, 1] == 0
  with pytest.raises(ValueError, match="1.0"):
    losses.clip(inputs, dual_clip=1.0)


def test_metrics_by_hand():
  ratio = [2.0, 2.0, 0.5, 0.5, 1.0, 7.0]
  adv = [1.0, -1.0, 1.0, -1.0, 1.0, 1.0]
  mask = [[True] * 5 + [False]]
  _, metrics = losses.clip(inputs_of(ratio, adv, mask))
  expected = {
    "clip_ratio/low_mean": (1, 5),
    "clip_ratio/high_mean": (1, 5),
    "clip_ratio/region_mean": (2, 5),
    "ratio/mean": (6, 5),
    "ratio/square_mean": (4 + 4 + 0.25 + 0.25 + 1, 5),
  }
  assert metrics.keys() == expected.keys()
  for name, pair in expected.items():
    np.testing.assert_allclose(metrics[name], pair, rtol=1e-6, err_msg=name)


# Gradients.


@pytest.mark.parametrize(
  "ratio, adv, moves",
  [
    (1.27, 1.0, True),
    (1.29, 1.0, False),
    (0.1, 1.0, True),
    (0.81, -1.0, True),
    (0.79, -1.0, False),
    (9.0, -1.0, True),
  ],
)
def test_token_past_its_bound_has_exactly_zero_gradient(ratio, adv, moves):
  grad = gradient(inputs_of(ratio, adv))
  if moves:
    # d(-r A)/d log pi = -r A.
    np.testing.assert_allclose(grad, [[-ratio * adv]], rtol=1e-5)
  else:
    np.testing.assert_array_equal(grad, [[0.0]])


def test_zero_advantage_gives_zero_gradient():
  grad = gradient(inputs_of([0.1, 0.9, 1.0, 1.5, 1e6], 0.0))
  np.testing.assert_array_equal(grad, np.zeros((1, 5)))


def test_at_the_old_policy_it_is_the_policy_gradient():
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(size=(2, 5, 7)), jnp.float32)
  tokens = jnp.asarray(rng.integers(7, size=(2, 5)))
  adv_B = jnp.array([0.7, -1.3])
  mask = jnp.ones((2, 5), bool)

  def logp(x):
    every = jax.nn.log_softmax(x)
    return jnp.take_along_axis(every, tokens[..., None], axis=-1)[..., 0]

  def surrogate(x):
    loss_BT, _ = losses.clip(
      batch.LossInputs(
        logp_BT=logp(x), old_logp_BT=logp(logits), adv_B=adv_B, mask_BT=mask
      )
    )
    return jnp.sum(loss_BT)

  def reinforce(x):
    return -jnp.sum(adv_B[:, None] * logp(x))

  np.testing.assert_allclose(
    jax.grad(surrogate)(logits), jax.grad(reinforce)(logits), atol=1e-6
  )


def test_old_policy_and_advantage_are_data():
  inputs = inputs_of([1.1, 0.9], [1.0, -1.0])

  def total(old_logp_BT, adv_BT):
    changed = inputs.replace(old_logp_BT=old_logp_BT, adv_BT=adv_BT)
    return jnp.sum(losses.clip(changed)[0])

  for grad in jax.grad(total, (0, 1))(inputs.old_logp_BT, inputs.adv_BT):
    np.testing.assert_array_equal(grad, np.zeros((1, 2)))


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e30])
def test_masked_tokens_have_no_influence(junk):
  clean = inputs_of([1.1, 0.9, 1.0], [1.0, -1.0, 1.0], [[True, True, False]])
  dirty = clean.replace(
    logp_BT=clean.logp_BT.at[0, 2].set(junk),
    old_logp_BT=clean.old_logp_BT.at[0, 2].set(junk),
    adv_BT=clean.adv_BT.at[0, 2].set(junk),
  )
  options = {"dual_clip": 3.0}
  for a, b in zip(
    jax.tree.leaves(losses.clip(clean, **options)),
    jax.tree.leaves(losses.clip(dirty, **options)),
  ):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(
    gradient(clean, **options), gradient(dirty, **options)
  )
  assert gradient(dirty)[0, 2] == 0


@pytest.mark.parametrize("difference", [-1e4, -21.0, 21.0, 1e4])
def test_extreme_ratios_stay_finite(difference):
  for adv in (1.0, -1.0):
    inputs = inputs_of(1.0, adv).replace(
      logp_BT=jnp.array([[difference - 1.0]], jnp.float32)
    )
    loss_BT, metrics = losses.clip(inputs)
    for leaf in jax.tree.leaves((loss_BT, metrics)):
      assert np.all(np.isfinite(leaf))
    assert abs(loss_BT[0, 0]) < 1e9
    np.testing.assert_array_equal(gradient(inputs), [[0.0]])


@hypothesis.given(
  st.floats(1 / 64, 50, width=32),
  st.floats(-3, 3, width=32),
  st.floats(0.05, 0.5),
  st.floats(0.05, 0.5),
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_loss_is_a_pessimistic_bound(ratio, adv, low, high):
  inputs = inputs_of(ratio, adv)
  loss_BT, metrics = losses.clip(inputs, epsilon=low, epsilon_high=high)
  assert float(loss_BT[0, 0]) >= -ratio * adv - 1e-4
  clipped = mean(metrics["clip_ratio/region_mean"])
  assert clipped == mean(metrics["clip_ratio/low_mean"]) + mean(
    metrics["clip_ratio/high_mean"]
  )
  if clipped:
    grad = gradient(inputs, epsilon=low, epsilon_high=high)
    np.testing.assert_array_equal(grad, [[0.0]])


# Equivalences.


def test_one_advantage_per_sequence_or_per_token():
  ratio = [[1.1, 0.7], [1.4, 0.9]]
  per_token = inputs_of(ratio, [[1.0, 1.0], [-2.0, -2.0]])
  per_sequence = per_token.replace(adv_BT=None, adv_B=jnp.array([1.0, -2.0]))
  for a, b in zip(
    jax.tree.leaves(losses.clip(per_token)),
    jax.tree.leaves(losses.clip(per_sequence)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)


def test_metrics_add_up_over_micro_batches():
  rng = np.random.default_rng(2)
  ratio, adv = np.exp(rng.normal(size=(4, 6))), rng.normal(size=(4, 6))
  mask = rng.random((4, 6)) > 0.4
  _, whole = losses.clip(inputs_of(ratio, adv, mask))
  parts = [
    losses.clip(inputs_of(ratio[rows], adv[rows], mask[rows]))[1]
    for rows in (slice(0, 1), slice(1, 4))
  ]
  summed = jax.tree.map(jnp.add, *parts)
  for name, pair in whole.items():
    np.testing.assert_allclose(summed[name], pair, rtol=1e-5, err_msg=name)


def test_jit_and_vmap_change_nothing():
  inputs = inputs_of([[1.1, 0.5, 2.0]], [[1.0, -1.0, 1.0]])
  call = functools.partial(losses.clip, dual_clip=3.0)
  plain = call(inputs)
  stacked = jax.tree.map(lambda x: jnp.stack([x, x]), inputs)
  for a, b, c in zip(
    jax.tree.leaves(plain),
    jax.tree.leaves(jax.jit(call)(inputs)),
    jax.tree.leaves(jax.vmap(call)(stacked)),
  ):
    np.testing.assert_allclose(b, a, rtol=1e-6)
    np.testing.assert_allclose(c, np.stack([a, a]), rtol=1e-6)


def test_shapes_are_named():
  inputs = inputs_of([[1.0, 1.0]], 1.0)
  with pytest.raises(AssertionError, match=r"\(1, 1\)"):
    losses.clip(inputs.replace(old_logp_BT=inputs.old_logp_BT[:, :1]))
  with pytest.raises(AssertionError, match=r"\(2,\)"):
    losses.clip(inputs.replace(logp_BT=inputs.logp_BT[0]))
