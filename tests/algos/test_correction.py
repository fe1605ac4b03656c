"""Weights for the sampler's mismatch: by hand, then what they never do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.algos import correction

BOTH = [correction.truncate, correction.drop]

RATIO = np.float32([[0.4, 0.5, 1.0, 1.9, 2.1, 5.0, 5.1, 9.0]])
SAMPLED = np.full(RATIO.shape, -2.0, np.float32)
LOGP = SAMPLED + np.log(RATIO)
MASK = np.array([[True] * 7 + [False]])


# Golden numbers.


def test_truncate_caps_the_ratio():
  got = correction.truncate(LOGP, SAMPLED, MASK)
  np.testing.assert_allclose(
    got, [[0.4, 0.5, 1.0, 1.9, 2.0, 2.0, 2.0, 0.0]], rtol=1e-6
  )
  assert got.dtype == jnp.float32
  got = correction.truncate(LOGP, SAMPLED, MASK, cap=1.5)
  np.testing.assert_allclose(
    got, [[0.4, 0.5, 1.0, 1.5, 1.5, 1.5, 1.5, 0.0]], rtol=1e-6
  )


def test_drop_keeps_the_ratio_inside_its_bounds():
  inside = dict(low=0.45, high=5.05)
  got = correction.drop(LOGP, SAMPLED, MASK, **inside)
  np.testing.assert_allclose(
    got, [[0.0, 0.5, 1.0, 1.9, 2.1, 5.0, 0.0, 0.0]], rtol=1e-6
  )
  assert got.dtype == jnp.float32
  # The defaults of ProRL v2.
  got = correction.drop(
    np.log(np.float32([[0.49, 0.51, 4.9, 5.1]])),
    np.zeros((1, 4)),
    np.ones((1, 4), bool),
  )
  np.testing.assert_allclose(got, [[0, 0.51, 4.9, 0]], rtol=1e-6)


def test_metrics_by_hand():
  weight = correction.truncate(LOGP, SAMPLED, MASK)
  got = correction.metrics(weight, LOGP, SAMPLED, MASK)
  expected = {
    "sampling/weight_mean": 9.8 / 7,
    "sampling/truncated": 3 / 7,
    "sampling/ratio_mean": 16.0 / 7,
    "sampling/ratio_max": 5.1,
  }
  assert got.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)
  # Dropped below and above.
  weight = correction.drop(LOGP, SAMPLED, MASK, low=0.45, high=5.05)
  got = correction.metrics(weight, LOGP, SAMPLED, MASK)
  np.testing.assert_allclose(got["sampling/truncated"], 2 / 7, rtol=1e-6)


# Properties.


@pytest.mark.parametrize("weigh", BOTH)
def test_the_same_program_gives_weight_exactly_one(weigh):
  weight = weigh(LOGP, LOGP, MASK)
  np.testing.assert_array_equal(weight, MASK.astype(np.float32))
  got = correction.metrics(weight, LOGP, LOGP, MASK)
  assert got["sampling/truncated"] == 0
  assert got["sampling/weight_mean"] == 1


@pytest.mark.parametrize("weigh", BOTH)
def test_weights_are_data(weigh):
  grads = jax.grad(lambda a, b: jnp.sum(weigh(a, b, MASK)), (0, 1))(
    jnp.asarray(LOGP), jnp.asarray(SAMPLED)
  )
  for grad in grads:
    np.testing.assert_array_equal(grad, np.zeros_like(LOGP))


@pytest.mark.parametrize("weigh", BOTH)
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_masked_tokens_weigh_nothing(weigh, junk):
  dirty = LOGP.copy()
  dirty[0, 7] = junk
  np.testing.assert_array_equal(
    weigh(dirty, SAMPLED, MASK), weigh(LOGP, SAMPLED, MASK)
  )
  weight = weigh(LOGP, SAMPLED, MASK)
  for name, value in correction.metrics(weight, LOGP, SAMPLED, MASK).items():
    np.testing.assert_array_equal(
      correction.metrics(weight, dirty, SAMPLED, MASK)[name], value
    )


@pytest.mark.parametrize(
  "weigh, weights",
  [(correction.truncate, [0.0, 2.0]), (correction.drop, [0.0, 0.0])],
)
def test_extreme_ratios_stay_finite(weigh, weights):
  got = weigh(np.float32([[-1e4, 1e4]]), np.zeros((1, 2)), np.ones((1, 2)))
  np.testing.assert_allclose(got, [weights], atol=1e-8)


def test_no_tokens():
  nothing = np.zeros_like(MASK)
  weight = correction.truncate(LOGP, SAMPLED, nothing)
  np.testing.assert_array_equal(weight, np.zeros_like(LOGP))
  for value in correction.metrics(weight, LOGP, SAMPLED, nothing).values():
    assert value == 0


def test_bounds_that_cannot_be_are_errors():
  with pytest.raises(ValueError, match="0.0"):
    correction.truncate(LOGP, SAMPLED, MASK, cap=0.0)
  with pytest.raises(ValueError, match="5.0, 0.5"):
    correction.drop(LOGP, SAMPLED, MASK, low=5.0, high=0.5)
  with pytest.raises(ValueError, match="-1"):
    correction.drop(LOGP, SAMPLED, MASK, low=-1)


@pytest.mark.parametrize("weigh", BOTH)
def test_shapes_are_named(weigh):
  with pytest.raises(AssertionError, match=r"\(1, 3\)"):
    weigh(LOGP, SAMPLED[:, :3], MASK)
  with pytest.raises(AssertionError, match=r"\(8,\)"):
    weigh(LOGP[0], SAMPLED[0], MASK[0])


@pytest.mark.parametrize(
  "weigh", [*BOTH, functools.partial(correction.truncate, cap=1.5)]
)
def test_jit_changes_nothing(weigh):
  weight = weigh(LOGP, SAMPLED, MASK)
  np.testing.assert_allclose(
    jax.jit(weigh)(LOGP, SAMPLED, MASK), weight, rtol=1e-6
  )
  plain = correction.metrics(weight, LOGP, SAMPLED, MASK)
  jitted = jax.jit(correction.metrics)(weight, LOGP, SAMPLED, MASK)
  for name, value in plain.items():
    np.testing.assert_allclose(jitted[name], value, rtol=1e-6, err_msg=name)
