"""KL estimators against numbers worked out by hand and against true KLs."""

import math

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.algos import kl

ALL = [kl.k1, kl.k2, kl.k3]
LOGP = np.float32([-1.0, -1.0])
REF_LOGP = np.float32([-1.2, -0.8])  # d = 0.2 and -0.2


@pytest.mark.parametrize(
  "estimator, expected",
  [
    (kl.k1, [0.2, -0.2]),
    (kl.k2, [0.02, 0.02]),
    (kl.k3, [math.exp(-0.2) - 1 + 0.2, math.exp(0.2) - 1 - 0.2]),
  ],
)
def test_golden(estimator, expected):
  got = estimator(LOGP, REF_LOGP)
  np.testing.assert_allclose(got, expected, atol=1e-7)
  assert got.dtype == jnp.float32


def test_k3_is_the_standard_direction():
  # pi_ref/pi - log(pi_ref/pi) - 1; with the ratio inverted they would swap.
  np.testing.assert_allclose(
    kl.k3(LOGP, REF_LOGP), [0.0187308, 0.0214028], atol=1e-7
  )


@pytest.mark.parametrize("estimator", ALL)
def test_exactly_zero_right_after_a_reset(estimator):
  logp = np.float32([[-0.1, -3.7, -50.0]])
  np.testing.assert_array_equal(estimator(logp, logp), np.zeros((1, 3)))
  if estimator is not kl.k1:
    grad = jax.grad(lambda x: jnp.sum(estimator(x, logp)))(jnp.asarray(logp))
    np.testing.assert_array_equal(grad, np.zeros((1, 3)))


@pytest.mark.parametrize("estimator", [kl.k1, kl.k3])
def test_unbiased_over_the_policy(estimator):
  policy, reference = np.float32([0.7, 0.2, 0.1]), np.float32([0.4, 0.4, 0.2])
  true = np.sum(policy * np.log(policy / reference))
  got = np.sum(policy * estimator(np.log(policy), np.log(reference)))
  np.testing.assert_allclose(got, true, rtol=1e-5)


def test_gradient_of_k2_is_the_gradient_of_the_kl():
  reference = jnp.log(jnp.array([0.4, 0.4, 0.2]))
  logits = jnp.array([0.3, -0.5, 1.1])
  probs = jax.nn.softmax(logits)

  def true(x):
    logp = jax.nn.log_softmax(x)
    return jnp.sum(jnp.exp(logp) * (logp - reference))

  def estimated(x):
    return jnp.sum(probs * kl.k2(jax.nn.log_softmax(x), reference))

  np.testing.assert_allclose(
    jax.grad(estimated)(logits), jax.grad(true)(logits), rtol=1e-5
  )


def test_k3_keeps_its_digits_next_to_the_reference():
  got = float(kl.k3(jnp.float32(1e-3), jnp.float32(0.0)))
  np.testing.assert_allclose(got, math.exp(-1e-3) - 1 + 1e-3, rtol=2e-3)


@pytest.mark.parametrize("d", [-1e4, -100.0, -20.1, 20.1, 100.0, 1e4])
def test_far_tokens_stay_finite(d):
  d = jnp.float32(d)
  value, grad = jax.value_and_grad(kl.k3)(d, jnp.float32(0.0))
  clamped = min(max(float(d), -20.0), 20.0)
  np.testing.assert_allclose(value, math.exp(-clamped) - 1 + clamped, rtol=1e-5)
  assert grad == 0
  for estimator in ALL:
    assert np.isfinite(estimator(d, jnp.float32(0.0)))


@hypothesis.given(st.floats(-19, 19, width=32))
@hypothesis.settings(max_examples=50, deadline=None)
def test_k2_and_k3_are_not_negative(d):
  assert kl.k2(np.float32(d), np.float32(0)) >= 0
  # But for the rounding of d itself.
  assert kl.k3(np.float32(d), np.float32(0)) >= -1.2e-7 * abs(d)


@pytest.mark.parametrize("estimator", ALL)
def test_shapes_jit_and_vmap(estimator):
  plain = estimator(LOGP, REF_LOGP)
  np.testing.assert_allclose(
    jax.jit(estimator)(LOGP, REF_LOGP), plain, atol=1e-7
  )
  np.testing.assert_allclose(
    jax.vmap(estimator)(LOGP, REF_LOGP), plain, atol=1e-7
  )
  with pytest.raises(AssertionError, match=r"\(2, 1\)"):
    estimator(LOGP, REF_LOGP[:, None])
