"""Every loss beside a plain transcription of its formula in torch.

Then what holds of all of them: masked tokens are inert, only the trained
policy gets a gradient, at the old policy the gradient is REINFORCE's, and
neither jit nor the cut into micro-batches changes anything.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from progrpo_jax import batch
from progrpo_jax.algos import losses

KEY = jax.random.key(0)
SEEDS = (0, 1, 2)


def example(seed, *, spread=0.25, junk=0.0):
  """Two groups of four responses; the second's rewards were all equal."""
  rng = np.random.default_rng(seed)
  old = rng.uniform(-4, -0.05, (8, 12))
  ref = old + 0.3 * rng.normal(size=old.shape)
  mask = rng.random(old.shape) < rng.uniform(0.4, 1, (8, 1))
  mask[3], mask[5] = False, np.arange(12) == 4
  # The first response drifts up and the next two down: a bound of GSPO for
  # two of them.
  drift = np.array([0.12, -0.12, -0.12, 0, 0, 0, 0, 0])[:, None]
  noise = np.where(mask, spread * rng.normal(size=old.shape), 0)
  noise -= noise.sum(axis=1, keepdims=True) / np.maximum(
    mask.sum(axis=1, keepdims=True), 1
  )
  logp = old + drift + noise
  arrays = [np.where(mask, x, junk) for x in (logp, old, ref)]
  adv = np.array([1.5, -0.5, 0.5, 9.0, 0, 0, 0, 0])
  reward = np.where(mask.any(axis=1), adv, junk)
  entropy = np.where(mask, rng.uniform(0, 3, old.shape), junk)
  return batch.LossInputs(
    **{
      name: jnp.asarray(x, jnp.float32)
      for name, x in zip(("logp_BT", "old_logp_BT", "ref_logp_BT"), arrays)
    },
    mask_BT=jnp.asarray(mask),
    adv_B=jnp.asarray(adv, jnp.float32),
    log_z_B=jnp.asarray(rng.normal(size=8), jnp.float32),
    reward_B=jnp.asarray(reward, jnp.float32),
    entropy_BT=jnp.asarray(entropy, jnp.float32),
  )


# The formulas, response by response: d are the log-ratios of its real tokens,
# logp their log-probs, a its advantage.


def surrogate(ratio, a, low, high):
  return -torch.minimum(ratio * a, torch.clamp(ratio, low, high) * a)


def clip(d, logp, a):
  return surrogate(torch.exp(d), a, 0.8, 1.28)


def dual_clip(d, logp, a):
  loss = surrogate(torch.exp(d), a, 0.8, 1.28)
  return torch.minimum(loss, -1.1 * a) if a < 0 else loss


def gspo(d, logp, a):
  s = torch.exp(torch.mean(d))
  return surrogate(s, a, 0.95, 1.08) * torch.ones_like(d)


def gspo_token(d, logp, a):
  s = torch.exp(torch.mean(d)).detach()
  return surrogate(
    s * torch.exp(logp) / torch.exp(logp).detach(), a, 0.95, 1.08
  )


def cispo(d, logp, a):
  return -torch.clamp(torch.exp(d), max=1.2).detach() * a * logp


def dppo(d, logp, a):
  moved = torch.exp(logp) - torch.exp(logp - d)
  stays = moved <= 0.03 if a > 0 else moved >= -0.04
  return -torch.exp(d) * a * stays


def sapo(d, logp, a):
  tau = 1.0 if a > 0 else 1.05
  return -4 / tau / (1 + torch.exp(-tau * (torch.exp(d) - 1))) * a


def vespo(d, logp, a):
  w = torch.exp(torch.sum(d)).detach()
  k, lam = (2, 3) if a >= 0 else (3, 2)
  return -(w**k * torch.exp(lam * (1 - w))) * a * logp


def by_response(formula, inputs, t):
  """The loss of each token by a formula of one response."""
  rows = []
  for i in range(8):
    real = t["mask"][i]
    row = torch.zeros(12, dtype=torch.float64)
    if real.any():
      d = (t["logp"] - t["old"])[i][real]
      row[real] = formula(d, t["logp"][i][real], t["adv"][i])
    rows.append(row)
  return torch.stack(rows)


def flowrl(inputs, t):
  rows = []
  for i in range(8):
    real = t["mask"][i]
    row = torch.zeros(12, dtype=torch.float64)
    if real.any():
      logp, old, ref = (t[name][i][real] for name in ("logp", "old", "ref"))
      w = torch.exp(torch.sum(logp - old)).clamp(0.8, 1.28).detach()
      inner = t["log_z"][i] + torch.mean(logp)
      inner = inner - 15 * t["reward"][i] - torch.mean(ref)
      row[real] = w * inner**2
    rows.append(row)
  return torch.stack(rows)


def covariance(t):
  """Cov of every real token, in one line."""
  adv = t["adv"][:, None].expand(8, 12)[t["mask"]]
  logp = t["logp"].detach()[t["mask"]]
  return (logp - logp.mean()) * (adv - adv.mean())


def clip_cov(inputs, t):
  # With share 1 all candidates are dropped, whatever the draw.
  loss = by_response(
    lambda d, logp, a: surrogate(torch.exp(d), a, 0.8, 1.2), inputs, t
  )
  plain = by_response(lambda d, logp, a: -torch.exp(d) * a, inputs, t)
  cov = covariance(t)
  drop = (cov > 0.2) & (cov < 0.9) & (loss == plain)[t["mask"]]
  assert 3 < drop.sum() < len(drop) - 3
  keep = torch.ones_like(loss)
  keep[t["mask"]] = (~drop).double()
  return loss * keep


def high_entropy(inputs, t):
  loss = by_response(clip, inputs, t)
  entropy = torch.tensor(np.asarray(inputs.entropy_BT))[t["mask"]]
  threshold = torch.sort(entropy, descending=True).values[
    math.ceil(0.2 * len(entropy)) - 1
  ]
  keep = torch.zeros_like(loss)
  keep[t["mask"]] = (entropy >= threshold).double()
  return loss * keep


def kl_cov(inputs, t):
  loss = by_response(lambda d, logp, a: -torch.exp(d) * a, inputs, t)
  cov = covariance(t)
  top = torch.topk(cov, int(0.2 * len(cov))).indices
  chosen = torch.zeros_like(cov)
  chosen[top] = 0.7
  penalty = torch.zeros_like(loss)
  penalty[t["mask"]] = chosen
  return loss + penalty * torch.abs(
    torch.where(t["mask"], t["logp"] - t["old"], 0.0)
  )


PAIRS = {
  "clip": (losses.clip, functools.partial(by_response, clip)),
  "dual_clip": (
    functools.partial(losses.clip, dual_clip=1.1),
    functools.partial(by_response, dual_clip),
  ),
  "gspo": (
    functools.partial(losses.gspo, epsilon=0.05, epsilon_high=0.08),
    functools.partial(by_response, gspo),
  ),
  "gspo_token": (
    functools.partial(
      losses.gspo, epsilon=0.05, epsilon_high=0.08, token_level=True
    ),
    functools.partial(by_response, gspo_token),
  ),
  "cispo": (
    functools.partial(losses.cispo, cap=1.2),
    functools.partial(by_response, cispo),
  ),
  "dppo": (
    functools.partial(losses.dppo, delta=0.04, delta_high=0.03),
    functools.partial(by_response, dppo),
  ),
  "sapo": (losses.sapo, functools.partial(by_response, sapo)),
  "vespo": (losses.vespo, functools.partial(by_response, vespo)),
  "flowrl": (losses.flowrl, flowrl),
  "clip_cov": (
    functools.partial(
      losses.clip_cov, key=KEY, share=1.0, cov_low=0.2, cov_high=0.9
    ),
    clip_cov,
  ),
  "kl_cov": (functools.partial(losses.kl_cov, share=0.2, coef=0.7), kl_cov),
  "high_entropy": (losses.high_entropy, high_entropy),
}
each_loss = pytest.mark.parametrize("name", PAIRS)


def in_torch(inputs, formula, weights):
  """(loss_BT, gradient by logp, gradient by log Z) of a weighted sum."""
  t = {
    name: torch.tensor(np.asarray(x), dtype=torch.float64)
    for name, x in (
      ("logp", inputs.logp_BT),
      ("old", inputs.old_logp_BT),
      ("ref", inputs.ref_logp_BT),
      ("adv", inputs.adv_B),
      ("log_z", inputs.log_z_B),
      ("reward", inputs.reward_B),
    )
  }
  t["mask"] = torch.tensor(np.asarray(inputs.mask_BT))
  t["logp"].requires_grad_()
  t["log_z"].requires_grad_()
  loss = formula(inputs, t)
  torch.sum(loss * torch.tensor(weights, dtype=torch.float64)).backward()
  grads = [
    np.zeros(x.shape) if x.grad is None else x.grad.numpy()
    for x in (t["logp"], t["log_z"])
  ]
  return loss.detach().numpy(), *grads


def in_jax(inputs, loss, weights):
  """The same three, of a function of the package."""

  def total(logp_BT, log_z_B):
    loss_BT, _ = loss(inputs.replace(logp_BT=logp_BT, log_z_B=log_z_B))
    return jnp.sum(loss_BT * weights), loss_BT

  grads, loss_BT = jax.grad(total, (0, 1), has_aux=True)(
    inputs.logp_BT, inputs.log_z_B
  )
  return loss_BT, *grads


@each_loss
@pytest.mark.parametrize("seed", SEEDS)
def test_values_and_gradients_are_those_of_the_formula(name, seed):
  loss, formula = PAIRS[name]
  inputs = example(seed)
  weights = np.random.default_rng(seed).uniform(0.5, 2, (8, 12))
  got = in_jax(inputs, loss, weights.astype(np.float32))
  expected = in_torch(inputs, formula, weights)
  assert np.any(expected[1])
  for a, b in zip(got, expected):
    # A residual may cancel: what is left has the rounding of its terms.
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * np.max(abs(b)))


@each_loss
def test_the_examples_pass_every_branch(name):
  loss, _ = PAIRS[name]
  seen = [loss(example(seed))[1] for seed in SEEDS]
  for key in seen[0]:
    total, count = (sum(x) for x in zip(*(metrics[key] for metrics in seen)))
    if key.startswith(("clip_ratio", "dppo/masked")) or key.endswith(
      ("dropped", "penalised", "kept")
    ):
      assert 0 < total < count, key


@each_loss
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e30])
def test_masked_tokens_have_no_influence(name, junk):
  loss, _ = PAIRS[name]
  weights = np.ones((8, 12), np.float32)
  clean, dirty = example(0), example(0, junk=junk)
  for a, b in zip(in_jax(clean, loss, weights), in_jax(dirty, loss, weights)):
    np.testing.assert_array_equal(a, b)
  loss_BT, grad, _ = in_jax(dirty, loss, weights)
  assert not np.any(loss_BT[~dirty.mask_BT])
  assert not np.any(grad[~dirty.mask_BT])
  for a, b in zip(
    jax.tree.leaves(loss(clean)[1]), jax.tree.leaves(loss(dirty)[1])
  ):
    np.testing.assert_array_equal(a, b)


@each_loss
def test_all_but_the_trained_policy_are_data(name):
  loss, _ = PAIRS[name]
  inputs = example(0)
  data = ("old_logp_BT", "ref_logp_BT", "adv_B", "reward_B", "entropy_BT")

  def total(arrays):
    return jnp.sum(loss(inputs.replace(**arrays))[0])

  for key, grad in jax.grad(total)(
    {key: getattr(inputs, key) for key in data}
  ).items():
    assert not np.any(grad), key


@each_loss
def test_at_the_old_policy_it_is_the_policy_gradient(name):
  """In the sum over tokens each log-prob has the gradient -A."""
  loss, _ = PAIRS[name]
  inputs = example(0)
  inputs = inputs.replace(logp_BT=inputs.old_logp_BT)
  loss_BT, grad, grad_z = in_jax(inputs, loss, np.ones((8, 12), np.float32))
  adv_B = inputs.adv_B
  if name == "flowrl":
    # The derivative of the square is twice what is squared: REINFORCE whose
    # advantage is beta r + log pi_ref - log pi - log Z.
    gap = jnp.where(inputs.mask_BT, inputs.ref_logp_BT - inputs.logp_BT, 0)
    length = jnp.sum(inputs.mask_BT, axis=1)
    adv_B = 2 * (
      15 * inputs.reward_B
      - inputs.log_z_B
      + jnp.sum(gap, axis=1) / jnp.maximum(length, 1)
    )
    np.testing.assert_allclose(grad_z, -adv_B * length, rtol=1e-4, atol=1e-3)
  expected = -jnp.where(inputs.mask_BT, adv_B[:, None], 0)
  if name in ("clip_cov", "high_entropy"):
    expected = jnp.where(loss_BT == 0, 0, expected)
    assert np.any(expected)
  np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5)


@each_loss
def test_no_advantage_no_gradient(name):
  if name in ("flowrl", "kl_cov"):
    return  # both pull without an advantage: towards Z, and back to old
  loss, _ = PAIRS[name]
  inputs = example(0)
  _, grad, _ = in_jax(inputs, loss, np.ones((8, 12), np.float32))
  assert np.any(grad[:3])
  assert not np.any(grad[4:])


@each_loss
@pytest.mark.parametrize("difference", [-1e4, -25.0, 25.0, 1e4])
def test_extreme_ratios_stay_finite(name, difference):
  loss, _ = PAIRS[name]
  inputs = example(0)
  # The trained policy at log-prob -1, the old one far off.
  inputs = inputs.replace(
    logp_BT=jnp.full((8, 12), -1.0),
    old_logp_BT=jnp.full((8, 12), -1.0 - difference),
  )
  for array in (
    *in_jax(inputs, loss, np.ones((8, 12), np.float32)),
    *jax.tree.leaves(loss(inputs)[1]),
  ):
    assert np.all(np.isfinite(array))


@each_loss
def test_one_advantage_per_token(name):
  loss, _ = PAIRS[name]
  inputs = example(0)
  per_token = inputs.replace(
    adv_B=None, adv_BT=jnp.broadcast_to(inputs.adv_B[:, None], (8, 12))
  )
  for a, b in zip(
    jax.tree.leaves(loss(inputs)), jax.tree.leaves(loss(per_token))
  ):
    np.testing.assert_array_equal(a, b)


@each_loss
def test_metrics_add_up_over_micro_batches(name):
  loss, _ = PAIRS[name]
  whole = loss(example(0))[1]
  parts = [
    loss(jax.tree.map(lambda x, r=rows: x[r], example(0)))[1]
    for rows in (slice(0, 3), slice(3, 8))
  ]
  for key, pair in jax.tree.map(
    lambda *x: sum(x), *parts, is_leaf=lambda x: not isinstance(x, dict | tuple)
  ).items():
    # Covariances, and what is chosen by them or by ranks, are of a micro-batch.
    if not key.startswith(("covariance", "clip_cov", "kl_cov", "high_entropy")):
      np.testing.assert_array_equal(pair[1], whole[key][1], err_msg=key)
      np.testing.assert_allclose(pair[0], whole[key][0], rtol=1e-5)


@each_loss
def test_jit_changes_nothing(name):
  loss, _ = PAIRS[name]
  inputs = example(1)
  weights = np.ones((8, 12), np.float32)
  plain = in_jax(inputs, loss, weights), loss(inputs)[1]
  jitted = jax.jit(lambda x: (in_jax(x, loss, weights), loss(x)[1]))(inputs)
  for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted)):
    np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6 * np.max(abs(a)))
  assert plain[0][0].dtype == jnp.float32


@each_loss
def test_rows_without_tokens_alone(name):
  loss, _ = PAIRS[name]
  inputs = example(0, junk=np.nan)
  nothing = inputs.replace(mask_BT=jnp.zeros((8, 12), bool))
  for array in in_jax(nothing, loss, np.ones((8, 12), np.float32)):
    np.testing.assert_array_equal(array, jnp.zeros_like(array))
  for pair in loss(nothing)[1].values():
    np.testing.assert_array_equal(pair, (0, 0))


@each_loss
def test_shapes_are_named(name):
  loss, _ = PAIRS[name]
  inputs = example(0)
  with pytest.raises(AssertionError, match=r"\(8, 3\)"):
    loss(inputs.replace(old_logp_BT=inputs.old_logp_BT[:, :3]))
