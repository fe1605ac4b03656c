"""Importance weights for the mismatch between sampler and trainer.

Responses are sampled by one program and scored by another. Their probabilities
differ a little even with the same parameters: another dtype, another kernel.
Responses of an earlier step keep the sampler's log-probs as those of the old
policy, so that their weight is 1. The importance weight of
a token is r_t = pi(o_t) / mu(o_t), with pi the trainer's policy at the start
of the step and mu the distribution sampled from. It multiplies the token's
loss, in addition to the ratio to pi that the loss itself contains. Each
function here bounds the weight differently; unbounded, a few large weights
would dominate the gradient.

Weights are constants: no gradient passes through them. Masked tokens have
weight 0.

See "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
(https://fengyao.notion.site/off-policy-rl).
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops
from progrpo_jax.algos import terms


def truncate(logp_BT, sampled_logp_BT, mask_BT, cap: float = 2.0) -> jax.Array:
  """Truncated importance sampling: min(r_t, cap).

  No token is removed from the update; large weights are capped.

  The source named in the module's docstring uses a cap of 2.

  Args:
    logp_BT: log-probs of the sampled tokens, computed by the trainer with the
      parameters that sampled.
    sampled_logp_BT: log-probs of the same tokens, computed by the sampler.
    mask_BT: response tokens.
    cap: largest weight, > 0.

  Returns:
    weight_BT in [0, cap], float32.

  Raises:
    ValueError: `cap` is not positive.
  """
  if cap <= 0:
    raise ValueError(f"cap must be positive, got {cap}")
  ratio_BT, mask_BT = _ratio(logp_BT, sampled_logp_BT, mask_BT)
  return jnp.where(mask_BT, jnp.minimum(ratio_BT, cap), 0.0)


def drop(
  logp_BT, sampled_logp_BT, mask_BT, low: float = 0.5, high: float = 5.0
) -> jax.Array:
  """The ratio where it lies in [low, high], otherwise 0.

  A token on which sampler and trainer disagree, in either direction, is
  removed from the update. It still counts in the mean over tokens, as in
  OpenRLHF and NeMo-RL, which call this method IcePop. ProRL v2 (OpenRLHF's
  script) uses these bounds.

  Args:
    logp_BT: log-probs of the sampled tokens, computed by the trainer.
    sampled_logp_BT: log-probs of the same tokens, computed by the sampler.
    mask_BT: response tokens.
    low: smallest ratio kept, >= 0.
    high: largest ratio kept, at least `low`.

  Returns:
    weight_BT, 0 or in [low, high], float32.

  Raises:
    ValueError: the bounds are out of order.
  """
  if not 0 <= low <= high:
    raise ValueError(f"bounds must have 0 <= low <= high, got {low}, {high}")
  ratio_BT, mask_BT = _ratio(logp_BT, sampled_logp_BT, mask_BT)
  keep_BT = mask_BT & (ratio_BT >= low) & (ratio_BT <= high)
  return jnp.where(keep_BT, ratio_BT, 0.0)


def metrics(
  weight_BT, logp_BT, sampled_logp_BT, mask_BT
) -> dict[str, jax.Array]:
  """Statistics of the weights and of the tokens their bounds change.

  Args:
    weight_BT: weights from `truncate` or `drop`.
    logp_BT: log-probs of the sampled tokens, computed by the trainer.
    sampled_logp_BT: log-probs of the same tokens, computed by the sampler.
    mask_BT: response tokens.

  Returns:
    float32 scalars over the response tokens: `sampling/weight_mean`;
    `sampling/truncated`, the share of tokens whose weight is below their
    ratio; `sampling/ratio_mean`, near 1 while the two policies agree, and
    `sampling/ratio_max`.
  """
  ratio_BT, mask_BT = _ratio(logp_BT, sampled_logp_BT, mask_BT)
  chex.assert_equal_shape([weight_BT, mask_BT])
  # The weights may come from another compiled program, whose ratio differs in
  # the last bits.
  bounded_BT = weight_BT < ratio_BT * (1 - 1e-5)
  return {
    "sampling/weight_mean": ops.masked_mean(weight_BT, mask_BT),
    "sampling/truncated": ops.masked_mean(bounded_BT, mask_BT),
    "sampling/ratio_mean": ops.masked_mean(ratio_BT, mask_BT),
    "sampling/ratio_max": jnp.max(jnp.where(mask_BT, ratio_BT, 0.0)),
  }


def _ratio(logp_BT, sampled_logp_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Returns pi / mu per token (1 at masked positions) and the mask."""
  logp_BT = jnp.asarray(logp_BT, jnp.float32)
  sampled_logp_BT = jnp.asarray(sampled_logp_BT, jnp.float32)
  mask_BT = jnp.asarray(mask_BT, bool)
  chex.assert_rank(logp_BT, 2)
  chex.assert_equal_shape([logp_BT, sampled_logp_BT, mask_BT])
  # Masked before exp: padding may hold NaN or -inf log-probs.
  log_ratio_BT = jax.lax.stop_gradient(
    jnp.where(mask_BT, logp_BT - sampled_logp_BT, 0.0)
  )
  return terms.ratio(log_ratio_BT), mask_BT
