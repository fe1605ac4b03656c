"""Term, KL and entropy put together: by hand, then masked, then in pieces."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.algos import aggregate, kl, losses
from progrpo_jax.algos import objective as objective_lib

FULL = functools.partial(
  objective_lib.objective,
  loss_fn=losses.clip,
  aggregate_fn=aggregate.token_mean,
  kl_fn=kl.k3,
  beta=0.1,
  entropy_coef=0.01,
)


def toy():
  """Two sequences, three real tokens."""
  old = np.float32([[-1.0, -2.0], [-0.5, -3.0]])
  return batch.LossInputs(
    logp_BT=jnp.asarray(old + np.log(np.float32([[1.1, 1.5], [0.5, 4.0]]))),
    old_logp_BT=jnp.asarray(old),
    ref_logp_BT=jnp.asarray(old),
    adv_B=jnp.array([1.0, -1.0]),
    entropy_BT=jnp.array([[2.0, 1], [3, 9]]),
    mask_BT=jnp.array([[True, True], [True, False]]),
  )


def random_inputs(rows, tokens, seed=0):
  rng = np.random.default_rng(seed)

  def logp():
    return jnp.asarray(-rng.exponential(size=(rows, tokens)), jnp.float32)

  return batch.LossInputs(
    logp_BT=logp(),
    old_logp_BT=logp(),
    ref_logp_BT=logp(),
    entropy_BT=-logp(),
    adv_B=jnp.asarray(rng.normal(size=rows), jnp.float32),
    mask_BT=jnp.asarray(rng.random((rows, tokens)) > 0.3),
  )


def k3_of(ratio):
  return 1 / ratio - 1 + math.log(ratio)


@pytest.mark.parametrize(
  "rule, weights",
  [
    (aggregate.token_mean, [1 / 3, 1 / 3, 1 / 3]),
    (aggregate.sequence_mean, [1 / 4, 1 / 4, 1 / 2]),
    (functools.partial(aggregate.constant, length=5), [1 / 10] * 3),
  ],
)
def test_golden(rule, weights):
  total, count, metrics = FULL(toy(), aggregate_fn=rule)
  term = [-1.1, -1.28, 0.8]
  penalty = [k3_of(1.1), k3_of(1.5), k3_of(0.5)]
  entropy = [2.0, 1.0, 3.0]
  expected = sum(
    w * (t + 0.1 * p - 0.01 * h)
    for w, t, p, h in zip(weights, term, penalty, entropy)
  )
  np.testing.assert_allclose(total / count, expected, rtol=1e-5)
  assert total.dtype == count.dtype == jnp.float32
  np.testing.assert_array_equal(metrics["loss"], (total, count))
  np.testing.assert_allclose(metrics["kl"], (sum(penalty), 3), rtol=1e-5)
  np.testing.assert_allclose(metrics["entropy"], (6.0, 3), rtol=1e-6)
  np.testing.assert_allclose(metrics["clip_ratio/region_mean"], (2, 3))


def test_weights_of_zero_leave_the_term_alone_but_measure():
  total, count, metrics = FULL(toy(), beta=0.0, entropy_coef=0.0)
  np.testing.assert_allclose(total / count, (-1.1 - 1.28 + 0.8) / 3, rtol=1e-5)
  assert {"kl", "entropy"} <= metrics.keys()
  bare = toy().replace(ref_logp_BT=None, entropy_BT=None)
  total_bare, _, metrics = FULL(bare, beta=0.0, entropy_coef=0.0)
  assert total_bare == total
  assert not {"kl", "entropy"} & metrics.keys()


def test_a_weight_may_be_an_array():
  call = jax.jit(lambda x, c: FULL(x, beta=c, entropy_coef=c)[0])
  for coef in (0.0, 0.3):
    np.testing.assert_allclose(
      call(toy(), coef), FULL(toy(), beta=coef, entropy_coef=coef)[0], rtol=1e-5
    )


def test_weight_without_what_it_weighs_is_an_error():
  with pytest.raises(ValueError, match="beta=0.1"):
    FULL(toy().replace(ref_logp_BT=None))
  with pytest.raises(ValueError, match="beta=0.1"):
    FULL(toy(), kl_fn=None)
  with pytest.raises(ValueError, match="entropy_coef=0.01"):
    FULL(toy().replace(entropy_BT=None))


def test_entropy_bonus_raises_entropy_and_kl_penalty_lowers_kl():
  inputs = toy().replace(adv_B=jnp.zeros(2))
  reference = jax.grad(lambda h: FULL(inputs.replace(entropy_BT=h))[0])(
    inputs.entropy_BT
  )
  np.testing.assert_allclose(reference, [[-0.01, -0.01], [-0.01, 0]])
  grad = jax.grad(lambda x: FULL(inputs.replace(logp_BT=x))[0])(inputs.logp_BT)
  # Above the reference the loss falls as logp does, and the other way round.
  np.testing.assert_array_equal(np.sign(grad), [[1, 1], [-1, 0]])


def test_kl_is_zero_right_after_a_reset():
  inputs = toy()
  inputs = inputs.replace(ref_logp_BT=inputs.logp_BT)
  _, _, metrics = FULL(inputs)
  assert metrics["kl"][0] == 0


def test_no_gradient_through_the_reference():
  inputs = toy()
  grad = jax.grad(lambda x: FULL(inputs.replace(ref_logp_BT=x))[0])(
    inputs.ref_logp_BT
  )
  np.testing.assert_array_equal(grad, np.zeros((2, 2)))


@pytest.mark.parametrize("estimator", [kl.k1, kl.k2, kl.k3])
@pytest.mark.parametrize(
  "rule", [aggregate.token_mean, aggregate.sequence_mean]
)
@pytest.mark.parametrize("junk", [np.nan, -np.inf])
def test_fully_masked_sequence_contributes_nothing(estimator, rule, junk):
  whole = random_inputs(4, 6)
  whole = whole.replace(mask_BT=whole.mask_BT.at[1].set(False))
  rows = jnp.array([0, 2, 3])
  without = jax.tree.map(lambda x: x[rows], whole)
  dirty = jax.tree.map(
    lambda x: x if x.dtype == bool else x.at[1].set(junk), whole
  )

  @jax.jit
  def run(inputs):
    def total(logp_BT):
      total, count, metrics = FULL(
        inputs.replace(logp_BT=logp_BT), kl_fn=estimator, aggregate_fn=rule
      )
      return total, (count, metrics)

    return jax.value_and_grad(total, has_aux=True)(inputs.logp_BT)

  (total, aux), grad = run(dirty)
  (total_without, aux_without), grad_without = run(without)
  np.testing.assert_allclose(total, total_without, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(aux), jax.tree.leaves(aux_without)):
    np.testing.assert_allclose(a, b, rtol=1e-5)
  np.testing.assert_array_equal(grad[1], np.zeros(6))
  np.testing.assert_allclose(grad[rows], grad_without, rtol=1e-5)


def test_pieces_add_up_to_the_whole():
  whole = random_inputs(6, 5)
  total, count, metrics = jax.jit(FULL)(whole)
  part = jax.jit(FULL)
  parts = [
    part(jax.tree.map(lambda x, i=i: x[i : i + 2], whole)) for i in (0, 2, 4)
  ]
  summed = jax.tree.map(lambda *x: sum(x), *parts)
  for a, b in zip(
    jax.tree.leaves((total, count, metrics)), jax.tree.leaves(summed)
  ):
    np.testing.assert_allclose(b, a, rtol=1e-5)


def test_zero_advantage_without_penalties_has_zero_gradient():
  inputs = random_inputs(3, 4).replace(adv_B=jnp.zeros(3))
  grad = jax.grad(
    lambda x: FULL(inputs.replace(logp_BT=x), beta=0.0, entropy_coef=0.0)[0]
  )
  np.testing.assert_array_equal(grad(inputs.logp_BT), np.zeros((3, 4)))


def test_jit_and_vmap_change_nothing():
  plain = FULL(toy())
  stacked = jax.tree.map(lambda x: jnp.stack([x, x]), toy())
  for a, b, c in zip(
    jax.tree.leaves(plain),
    jax.tree.leaves(jax.jit(FULL)(toy())),
    jax.tree.leaves(jax.vmap(FULL)(stacked)),
  ):
    np.testing.assert_allclose(b, a, rtol=1e-5)
    np.testing.assert_allclose(c, np.stack([a, a]), rtol=1e-5)


def test_loss_of_another_shape_is_refused():
  def already_averaged(inputs):
    return jnp.mean(inputs.logp_BT, axis=1), {}

  with pytest.raises(AssertionError, match=r"\(2,\)"):
    FULL(toy(), loss_fn=already_averaged)


def test_correction_weighs_the_policy_term_alone():
  """By hand: term 1, KL 0.02 (k2 of 0.2), weights 2 and 0.5."""
  logp = jnp.array([[0.0, 0.0]])
  inputs = batch.LossInputs(
    logp_BT=logp,
    old_logp_BT=logp,
    ref_logp_BT=logp - 0.2,
    mask_BT=jnp.ones((1, 2), bool),
    adv_B=jnp.array([-1.0]),
    weight_BT=jnp.array([[2.0, 0.5]]),
  )
  total, count, _ = objective_lib.objective(
    inputs,
    loss_fn=losses.clip,
    aggregate_fn=aggregate.token_mean,
    kl_fn=kl.k2,
    beta=0.5,
  )
  np.testing.assert_allclose(total, 2.0 + 0.5 + 2 * 0.5 * 0.02, rtol=1e-6)
  assert count == 2


def test_gradient_squares_by_hand():
  """At ratio 1 the term's gradient is -A, that of beta * k2 is beta * d."""
  logp = jnp.array([[-1.0, -1.0], [-1.0, -1.0]])
  inputs = batch.LossInputs(
    logp_BT=logp,
    old_logp_BT=logp,
    ref_logp_BT=logp - jnp.array([[0.3, 0.1], [9.0, 0.2]]),
    mask_BT=jnp.array([[True, True], [False, True]]),
    adv_B=jnp.array([2.0, -1.0]),
  )
  _, _, metrics = objective_lib.objective(
    inputs,
    loss_fn=losses.clip,
    aggregate_fn=aggregate.token_mean,
    kl_fn=kl.k2,
    beta=0.5,
  )
  np.testing.assert_allclose(
    metrics["gradient_square/policy"][0], 4 + 4 + 1, rtol=1e-6
  )
  np.testing.assert_allclose(
    metrics["gradient_square/kl"][0], 0.25 * (0.09 + 0.01 + 0.04), rtol=1e-5
  )
