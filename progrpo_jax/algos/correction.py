"""Weights that correct for a sampler that is not quite the trainer.

Responses are drawn by one program and scored by another. The same parameters
give probabilities that differ a little, through another type, another kernel
or, with responses of an earlier step, another policy. The importance weight of
a token is r_t = pi(o_t) / mu(o_t), pi the trainer's policy at the start of the
step and mu what was sampled from; it multiplies the loss of that token, beside
the ratio to pi that a loss makes for itself. Each function bounds it in its
own way, since a product of few large weights would be the whole gradient.

Weights are data: no gradient passes through them. A token under the mask has
weight 0.

See "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
(https://fengyao.notion.site/off-policy-rl).
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops

# exp(20) is 5e8: a ratio beyond that has no meaning, but it stays finite.
MAX_LOG_RATIO = 20.0


def truncate(
    logp_BT, sampled_logp_BT, mask_BT, cap: float = 2.0) -> jax.Array:
  """Truncated importance sampling: min(r_t, cap).

  Every token keeps a part in the update; the cap alone bounds it.

  See the module for the source, whose cap is 2.

  Args:
    logp_BT: log-probs by the trainer, of the policy that sampled.
    sampled_logp_BT: log-probs as the sampler had them.
    mask_BT: tokens that count.
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
    logp_BT, sampled_logp_BT, mask_BT, low: float = 0.5, high: float = 5.0,
) -> jax.Array:
  """The ratio where it lies in [low, high], and 0 where it does not.

  A token that sampler and trainer disagree about is taken out of the update,
  on either side. It still counts in the mean over tokens, as in OpenRLHF and
  NeMo-RL, which call this IcePop; ProRL v2 (OpenRLHF's script) runs it with
  these bounds. Inside them the ratio itself is the weight.

  Args:
    logp_BT: as for `truncate`.
    sampled_logp_BT: as for `truncate`.
    mask_BT: as for `truncate`.
    low: smallest ratio that stays, >= 0.
    high: largest ratio that stays, at least `low`.

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
    weight_BT, logp_BT, sampled_logp_BT, mask_BT) -> dict[str, jax.Array]:
  """What the weights are, and how many tokens their bounds touch.

  Args:
    weight_BT: what `truncate` or `drop` returned.
    logp_BT: as for `truncate`.
    sampled_logp_BT: as for `truncate`.
    mask_BT: as for `truncate`.

  Returns:
    float32 scalars over the tokens that count: `sampling/weight_mean`;
    `sampling/truncated`, the share whose weight is less than its ratio;
    `sampling/ratio_mean`, about 1 whenever the two policies are near, and
    `sampling/ratio_max`.
  """
  ratio_BT, mask_BT = _ratio(logp_BT, sampled_logp_BT, mask_BT)
  chex.assert_equal_shape([weight_BT, mask_BT])
  # The ratio may differ in its last bits from that of another program.
  bounded_BT = weight_BT < ratio_BT * (1 - 1e-5)
  return {
      "sampling/weight_mean": ops.masked_mean(weight_BT, mask_BT),
      "sampling/truncated": ops.masked_mean(bounded_BT, mask_BT),
      "sampling/ratio_mean": ops.masked_mean(ratio_BT, mask_BT),
      "sampling/ratio_max": jnp.max(jnp.where(mask_BT, ratio_BT, 0.0)),
  }


def _ratio(logp_BT, sampled_logp_BT, mask_BT) -> tuple[jax.Array, jax.Array]:
  """Trainer over sampler per token, 1 under the mask, and the mask."""
  logp_BT = jnp.asarray(logp_BT, jnp.float32)
  sampled_logp_BT = jnp.asarray(sampled_logp_BT, jnp.float32)
  mask_BT = jnp.asarray(mask_BT, bool)
  chex.assert_rank(logp_BT, 2)
  chex.assert_equal_shape([logp_BT, sampled_logp_BT, mask_BT])
  log_ratio_BT = jax.lax.stop_gradient(
      jnp.where(mask_BT, logp_BT - sampled_logp_BT, 0.0))
  ratio_BT = jnp.exp(jnp.clip(log_ratio_BT, -MAX_LOG_RATIO, MAX_LOG_RATIO))
  return ratio_BT, mask_BT
