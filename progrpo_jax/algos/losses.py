"""Policy-gradient losses, one value per token.

Each function takes a `LossInputs` and returns `(loss_BT, metrics)`: the loss
to minimise at every token, not yet averaged (`algos/aggregate.py` does that),
and diagnostics as name -> (sum, count), so that a mean over accumulated
micro-batches and over hosts is the sum of sums over the sum of counts. A
maximum cannot be carried so; the mean square of the ratio, which a few large
ratios dominate, stands in for it.

Tokens under the mask have loss 0 and gradient 0, even where their log-probs
are NaN.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import batch, ops

# exp(20) is 5e8: beyond that a ratio has no meaning and its gradient is 0,
# but it stays finite. The same bound as in verl.
MAX_LOG_RATIO = 20.0

Metrics = dict[str, tuple[jax.Array, jax.Array]]


def clip(
    inputs: batch.LossInputs, *, epsilon: float = 0.2,
    epsilon_high: float = 0.28, dual_clip: float | None = None,
) -> tuple[jax.Array, Metrics]:
  """The clipped surrogate of PPO with a bound of its own on either side.

  loss_t = -min(r_t A, clip(r_t, 1 - epsilon, 1 + epsilon_high) A), with
  r_t = pi(o_t) / pi_old(o_t). Only one bound can matter to a token: a good
  one is not pushed above 1 + epsilon_high, a bad one not below 1 - epsilon;
  past its bound a token has no gradient. A higher upper bound leaves room to
  the rare tokens.

  See "Proximal Policy Optimization" (https://arxiv.org/abs/1707.06347), eq.
  7, and for the two bounds "DAPO" (https://arxiv.org/abs/2503.14476), eq. 10.
  For `dual_clip` see https://arxiv.org/abs/1912.09729.

  Args:
    inputs: `logp_BT`, `old_logp_BT`, `mask_BT` and the advantages are read.
    epsilon: the ratio of a bad token counts down to 1 - epsilon.
    epsilon_high: the ratio of a good token counts up to 1 + epsilon_high.
    dual_clip: the ratio of a bad token counts up to this, which bounds its
      loss by dual_clip * |A|; > 1, or None for no bound.

  Returns:
    loss_BT, float32, and metrics over the tokens: `clip_ratio/low_mean` and
    `clip_ratio/high_mean`, the shares past either bound on the side where it
    binds, `clip_ratio/region_mean`, their sum, `clip_ratio/dual_mean` if
    `dual_clip` is given, `ratio/mean` and `ratio/square_mean`.

  Raises:
    ValueError: `dual_clip` is not above 1.
  """
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(f"dual_clip must be above 1 or None, got {dual_clip}")
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  ratio_BT = jnp.exp(jnp.clip(log_ratio_BT, -MAX_LOG_RATIO, MAX_LOG_RATIO))

  good_BT = adv_BT >= 0
  low, high = 1.0 - epsilon, 1.0 + epsilon_high
  ceiling = jnp.inf if dual_clip is None else dual_clip
  # min(r A, clip(r) A) with the sign of A resolved: r is capped for a good
  # token and floored for a bad one.
  bounded_BT = jnp.where(
      good_BT, jnp.minimum(ratio_BT, high), jnp.clip(ratio_BT, low, ceiling))
  loss_BT = jnp.where(mask_BT, -bounded_BT * adv_BT, 0.0)

  low_BT = (adv_BT < 0) & (ratio_BT < low)
  high_BT = (adv_BT > 0) & (ratio_BT > high)
  per_token = {
      "clip_ratio/low_mean": low_BT,
      "clip_ratio/high_mean": high_BT,
      "clip_ratio/region_mean": low_BT | high_BT,
      "ratio/mean": ratio_BT,
      "ratio/square_mean": ratio_BT**2,
  }
  if dual_clip is not None:
    per_token["clip_ratio/dual_mean"] = (adv_BT < 0) & (ratio_BT > dual_clip)
  return loss_BT, _token_metrics(per_token, mask_BT)


def _real(inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Log-ratio and advantage per token, 0 under the mask, and the mask.

  The zeros stand before any nonlinear operation: put in afterwards they would
  stop NaN values but not their NaN gradients.
  """
  logp_BT, old_logp_BT = inputs.logp_BT, inputs.old_logp_BT
  adv_BT, mask_BT = inputs.token_adv_BT, jnp.asarray(inputs.mask_BT, bool)
  chex.assert_rank([logp_BT, mask_BT], 2)
  chex.assert_equal_shape([logp_BT, old_logp_BT, adv_BT, mask_BT])
  chex.assert_type([logp_BT, old_logp_BT, adv_BT], float)
  logp_BT = jnp.asarray(logp_BT, jnp.float32)
  # The policy of the denominator and the advantage are data: a caller that
  # computes either in the same trace gets no gradient through it.
  old_logp_BT = jax.lax.stop_gradient(jnp.asarray(old_logp_BT, jnp.float32))
  adv_BT = jax.lax.stop_gradient(jnp.asarray(adv_BT, jnp.float32))
  log_ratio_BT = jnp.where(mask_BT, logp_BT - old_logp_BT, 0.0)
  return log_ratio_BT, jnp.where(mask_BT, adv_BT, 0.0), mask_BT


def _token_metrics(per_token, mask_BT) -> Metrics:
  """(sum, count) over real tokens of each quantity."""
  count = jnp.sum(mask_BT, dtype=jnp.float32)
  return {
      name: (ops.masked_sum(x_BT, mask_BT), count)
      for name, x_BT in per_token.items()}
