"""The three averages over one small batch, worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.algos import aggregate

X_BT = np.float32([[1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 9, 9]])
MASK_BT = np.array(
  [[True, True, True, False], [True, False, False, False], [False] * 4]
)


def constant(x_BT, mask_BT):
  return aggregate.constant(x_BT, mask_BT, 10)


ALL = [aggregate.token_mean, aggregate.sequence_mean, constant]


@pytest.mark.parametrize(
  "rule, total, count",
  [
    (aggregate.token_mean, 1 + 2 + 3 + 5, 4),
    (aggregate.sequence_mean, (1 + 2 + 3) / 3 + 5, 2),
    (constant, 1 + 2 + 3 + 5, 3 * 10),
  ],
)
def test_golden(rule, total, count):
  got = rule(X_BT, MASK_BT)
  np.testing.assert_allclose(got, (total, count), rtol=1e-6)
  assert all(x.dtype == jnp.float32 and x.shape == () for x in got)


@pytest.mark.parametrize("rule", ALL)
def test_pieces_add_up(rule):
  whole = rule(X_BT, MASK_BT)
  parts = [rule(X_BT[i : i + 1], MASK_BT[i : i + 1]) for i in range(3)]
  np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-6)


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_masked_values_have_no_influence(rule, junk):
  dirty = np.where(MASK_BT, X_BT, junk)
  np.testing.assert_array_equal(rule(dirty, MASK_BT), rule(X_BT, MASK_BT))
  grad = jax.grad(lambda x: rule(x, MASK_BT)[0])(jnp.asarray(dirty))
  np.testing.assert_array_equal(np.asarray(grad) != 0, MASK_BT)


@pytest.mark.parametrize("rule", ALL[:2])
def test_nothing_real_gives_zero_of_zero(rule):
  np.testing.assert_array_equal(rule(X_BT, np.zeros_like(MASK_BT)), (0, 0))


def test_weights_of_tokens():
  def weights(rule):
    grad = jax.grad(lambda x: rule(x, MASK_BT)[0])(jnp.asarray(X_BT))
    return np.asarray(grad / rule(X_BT, MASK_BT)[1])[MASK_BT]

  np.testing.assert_allclose(weights(aggregate.token_mean), [0.25] * 4)
  np.testing.assert_allclose(
    weights(aggregate.sequence_mean), [1 / 6] * 3 + [1 / 2], rtol=1e-6
  )
  np.testing.assert_allclose(weights(constant), [1 / 30] * 4, rtol=1e-6)


def test_a_mask_of_numbers_will_do():
  for rule in ALL:
    np.testing.assert_array_equal(
      rule(X_BT, MASK_BT.astype(np.int32)), rule(X_BT, MASK_BT)
    )


@pytest.mark.parametrize("rule", ALL)
def test_jit_vmap_and_shapes(rule):
  plain = rule(X_BT, MASK_BT)
  np.testing.assert_allclose(jax.jit(rule)(X_BT, MASK_BT), plain, rtol=1e-6)
  total, _ = jax.vmap(rule)(X_BT[:, None], MASK_BT[:, None])
  np.testing.assert_allclose(jnp.sum(total), plain[0], rtol=1e-6)
  with pytest.raises(AssertionError, match=r"\(3, 3\)"):
    rule(X_BT, MASK_BT[:, 1:])
  with pytest.raises(AssertionError, match=r"\(4,\)"):
    rule(X_BT[0], MASK_BT[0])


def test_budget_must_be_positive():
  with pytest.raises(ValueError, match="0"):
    aggregate.constant(X_BT, MASK_BT, 0)
