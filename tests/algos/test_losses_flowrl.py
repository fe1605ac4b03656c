"""FlowRL: its residual by hand, and the distribution that it leads to."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.algos import aggregate, losses


def inputs_of(**changes):
  """One response of two tokens: the toy whose residual is 0.6."""
  arrays = (
    dict(
      logp_BT=[[-0.7, -0.3]],
      old_logp_BT=[[-0.7, -0.3]],
      ref_logp_BT=[[-1.0, -0.2]],
      log_z_B=[2.0],
      reward_B=[0.1],
    )
    | changes
  )
  return batch.LossInputs(
    mask_BT=jnp.ones((1, 2), bool),
    **{k: None if x is None else jnp.array(x) for k, x in arrays.items()},
  )


def mean(pair):
  return float(pair[0] / pair[1])


def descended(inputs, **options):
  """The mean over responses, and its gradients by logp and log Z."""

  def total(logp_BT, log_z_B):
    loss_BT, _ = losses.flowrl(
      inputs.replace(logp_BT=logp_BT, log_z_B=log_z_B), **options
    )
    top, count = aggregate.sequence_mean(loss_BT, inputs.mask_BT)
    return top / count

  return jax.value_and_grad(total, (0, 1))(inputs.logp_BT, inputs.log_z_B)


# Golden numbers.


def test_residual_by_hand():
  # Means -0.5 and -0.6: (2 - 0.5 - 15 * 0.1 + 0.6)^2 = 0.36.
  value, (grad, grad_z) = descended(inputs_of())
  np.testing.assert_allclose(value, 0.36, rtol=1e-5)
  np.testing.assert_allclose(grad_z, [1.2], rtol=1e-5)
  np.testing.assert_allclose(grad, [[0.6, 0.6]], rtol=1e-5)
  loss_BT, metrics = losses.flowrl(inputs_of())
  np.testing.assert_allclose(loss_BT, [[0.36, 0.36]], rtol=1e-5)
  expected = {
    "flowrl/log_z": 2.0,
    "flowrl/residual": 0.6,
    "flowrl/weight": 1.0,
    "clip_ratio/low_mean": 0.0,
    "clip_ratio/high_mean": 0.0,
    "ratio/mean": 1.0,
    "ratio/square_mean": 1.0,
  }
  assert metrics.keys() == expected.keys()
  for name, number in expected.items():
    np.testing.assert_allclose(
      mean(metrics[name]), number, rtol=1e-5, err_msg=name
    )


def test_beta_scales_the_reward():
  value, _ = descended(inputs_of(), beta=5.0)
  np.testing.assert_allclose(value, (2 - 0.5 - 0.5 + 0.6) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
  "ratios, weight, low, high",
  [
    ([1.1, 1.1], 1.21, 0, 0),
    ([1.2, 1.2], 1.28, 0, 1),
    ([2.0, 0.5], 1.0, 0, 0),
    ([0.9, 0.9], 0.81, 0, 0),
    ([0.5, 1.0], 0.8, 1, 0),
  ],
)
def test_weight_is_the_clipped_ratio_of_the_response(ratios, weight, low, high):
  """Of the product over tokens, and held constant in the gradient."""
  old = np.float32([[-0.7, -0.3]]) - np.log(np.float32([ratios]))
  inputs = inputs_of(old_logp_BT=old)
  value, (grad, grad_z) = descended(inputs)
  np.testing.assert_allclose(value, weight * 0.36, rtol=1e-5)
  np.testing.assert_allclose(grad_z, [weight * 1.2], rtol=1e-5)
  np.testing.assert_allclose(grad, [[weight * 0.6] * 2], rtol=1e-5)
  _, metrics = losses.flowrl(inputs)
  np.testing.assert_allclose(mean(metrics["flowrl/weight"]), weight, rtol=1e-5)
  assert mean(metrics["clip_ratio/low_mean"]) == low
  assert mean(metrics["clip_ratio/high_mean"]) == high


def test_every_response_weighs_the_same_whatever_its_length():
  mask = jnp.array([[True, False, False], [True, True, True]])
  inputs = batch.LossInputs(
    logp_BT=jnp.full((2, 3), -0.5),
    old_logp_BT=jnp.full((2, 3), -0.5),
    ref_logp_BT=jnp.full((2, 3), -0.6),
    log_z_B=jnp.array([2.0, 0.0]),
    reward_B=jnp.array([0.1, 0.0]),
    mask_BT=mask,
  )
  value, (_, grad_z) = descended(inputs)
  np.testing.assert_allclose(value, (0.36 + 0.01) / 2, rtol=1e-5)
  np.testing.assert_allclose(grad_z, [0.6, 0.1], rtol=1e-4)
  _, metrics = losses.flowrl(inputs)
  # Metrics are means over responses, those of the ratio over tokens.
  assert metrics["flowrl/log_z"][1] == 2
  assert metrics["ratio/mean"][1] == 4


def test_advantages_are_not_read():
  value, _ = descended(inputs_of().replace(adv_B=jnp.array([np.nan])))
  np.testing.assert_allclose(value, 0.36, rtol=1e-5)


@pytest.mark.parametrize("name", ["ref_logp_BT", "log_z_B", "reward_B"])
def test_what_is_missing_is_named(name):
  with pytest.raises(ValueError, match=name):
    losses.flowrl(inputs_of(**{name: None}))


def test_shapes_are_named():
  with pytest.raises(AssertionError, match=r"\(1, 1\)"):
    losses.flowrl(inputs_of(log_z_B=[[2.0]]))
  with pytest.raises(AssertionError, match=r"\(2,\)"):
    losses.flowrl(inputs_of(reward_B=[0.1, 0.2]))
  with pytest.raises(AssertionError, match=r"\(1, 1\)"):
    losses.flowrl(inputs_of(ref_logp_BT=[[0.1]]))


# Where it leads.

REWARD = jnp.array([1.0, 0.8, 0.0, -0.5])
REF_LOGP = jnp.log(jnp.array([0.1, 0.3, 0.5, 0.1]))


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("on_policy", [True, False])
def test_optimum_is_the_tilted_reference(beta, on_policy):
  """Four answers of one token: pi = pi_ref exp(beta r) / Z.

  Off policy the samples are the reference's, so that weights reach both of
  their bounds; they change the way, not the end.
  """

  def total(trained):
    logits, log_z = trained
    logp_BT = jax.nn.log_softmax(logits)[:, None]
    old_BT = lax.stop_gradient(logp_BT) if on_policy else REF_LOGP[:, None]
    loss_BT, _ = losses.flowrl(
      batch.LossInputs(
        logp_BT=logp_BT,
        old_logp_BT=old_BT,
        ref_logp_BT=REF_LOGP[:, None],
        mask_BT=jnp.ones((4, 1), bool),
        reward_B=REWARD,
        log_z_B=jnp.broadcast_to(log_z, 4),
      ),
      beta=beta,
    )
    top, count = aggregate.sequence_mean(loss_BT, jnp.ones((4, 1), bool))
    return top / count

  def step(trained, _):
    return jax.tree.map(
      lambda x, g: x - 0.3 * g, trained, jax.grad(total)(trained)
    ), None

  start = jnp.array([0.5, -0.5, 0.2, 0.0]), jnp.float32(0.0)
  (logits, log_z), _ = jax.jit(functools.partial(lax.scan, step, length=3000))(
    start, None
  )
  tilted = REF_LOGP + beta * REWARD
  np.testing.assert_allclose(
    jax.nn.softmax(logits), jax.nn.softmax(tilted), atol=1e-4
  )
  np.testing.assert_allclose(log_z, jax.nn.logsumexp(tilted), atol=1e-3)
