"""The teacher's advantage against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from progrpo_jax.algos import distill

LOGP = np.float32([[-1.0, -0.5, -2.0, -0.1], [-3.0, -1.0, -1.0, -1.0]])
TEACHER = np.float32([[-0.5, -1.0, -2.0, -0.3], [-1.0, -1.0, -4.0, -1.0]])
ALL = np.ones((2, 4), bool)


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({}, [[0.5, -0.5, 0.0, -0.2], [2.0, 0.0, -3.0, 0.0]]),
    ({"coef": 0.5}, [[0.25, -0.25, 0.0, -0.1], [1.0, 0.0, -1.5, 0.0]]),
    # 0.5 + 0.5 (-0.5 + 0.5 (0 + 0.5 (-0.2))) = 0.225, and so on.
    ({"discount": 0.5}, [[0.225, -0.55, -0.1, -0.2], [1.25, -1.5, -3.0, 0.0]]),
    ({"discount": 1.0}, [[-0.2, -0.7, -0.2, -0.2], [-1.0, -3.0, -3.0, 0.0]]),
  ],
)
def test_advantage_by_hand(options, expected):
  got = distill.advantage(LOGP, TEACHER, ALL, **options)
  np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
  assert got.dtype == jnp.float32


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_what_the_policy_did_not_write_counts_for_nothing(discount):
  """A reply in the middle: its log-probs may be anything."""
  mask = np.array([[True, False, True, True], [True, True, False, False]])
  clean = distill.advantage(LOGP, TEACHER, mask, discount=discount)
  dirty = distill.advantage(
    np.where(mask, LOGP, np.nan),
    np.where(mask, TEACHER, np.inf),
    mask,
    discount=discount,
  )
  np.testing.assert_array_equal(clean, dirty)
  assert not np.any(clean[~mask]) and np.any(clean[mask])
  if discount:
    # Two tokens on, the first one's sum has -0.9^3 0.2.
    assert clean[0, 0] == pytest.approx(0.5 - 0.9**3 * 0.2, rel=1e-6)


def test_a_policy_that_is_its_teacher_has_nothing_to_learn():
  assert not np.any(distill.advantage(LOGP, LOGP, ALL, discount=1.0))


def test_the_advantage_is_data():
  def total(logp, teacher):
    return jnp.sum(distill.advantage(logp, teacher, ALL, discount=0.5))

  for grad in jax.grad(total, (0, 1))(LOGP, TEACHER):
    np.testing.assert_array_equal(grad, np.zeros((2, 4)))


def test_jit_changes_nothing():
  call = jax.jit(distill.advantage, static_argnames=("coef", "discount"))
  for discount in (0.0, 0.7):
    np.testing.assert_allclose(
      call(LOGP, TEACHER, ALL, coef=2.0, discount=discount),
      distill.advantage(LOGP, TEACHER, ALL, coef=2.0, discount=discount),
      rtol=1e-6,
    )


def test_its_mean_policy_gradient_is_that_of_the_reverse_kl():
  """Over all tokens of a small vocabulary, by their probabilities, in torch."""
  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 6))
  logits = torch.tensor(student, requires_grad=True)
  log_p = torch.log_softmax(logits, 0)
  log_q = torch.log_softmax(torch.tensor(teacher), 0)
  torch.sum(log_p.exp() * (log_p - log_q)).backward()
  adv = distill.advantage(
    log_p.detach().numpy().astype(np.float32)[:, None],
    log_q.numpy().astype(np.float32)[:, None],
    np.ones((6, 1), bool),
  )[:, 0]

  def loss(logits):
    logp = jax.nn.log_softmax(logits)
    return -jnp.sum(jax.lax.stop_gradient(jnp.exp(logp)) * adv * logp)

  got = jax.grad(loss)(jnp.asarray(student, jnp.float32))
  np.testing.assert_allclose(got, logits.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_a_discount_is_a_share():
  for discount in (-0.1, 1.1):
    with pytest.raises(ValueError, match=str(discount)):
      distill.advantage(LOGP, TEACHER, ALL, discount=discount)


def test_shapes_are_named():
  with pytest.raises(AssertionError, match=r"\(2, 3\)"):
    distill.advantage(LOGP[:, :3], TEACHER, ALL)
