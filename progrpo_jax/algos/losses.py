"""Policy-gradient losses, one value per token.

Each function takes a `LossInputs` and returns `(loss_BT, metrics)`: the loss
to minimise at every token, not yet averaged (see `algos/aggregate.py`), and
metrics as name -> (sum, count), so that a mean over micro-batches and hosts is
the sum of sums divided by the sum of counts. A maximum does not fit this form;
the mean square of the ratio, dominated by a few large ratios, replaces it.

Masked tokens have loss 0 and gradient 0, even if their log-probs are NaN.

Most losses are called with a micro-batch. Losses that rank or draw tokens
within a minibatch have the attribute `whole` set and are called with the whole
minibatch, so that the split into micro-batches does not change the result.

Notation: r_t = pi(o_t) / pi_old(o_t) is the ratio of a token, sg the
stop-gradient. Every loss reports the mean and mean square of r_t over tokens
as `ratio/mean` and `ratio/square_mean`.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import batch, ops
from progrpo_jax.algos import ranked, terms

Metrics = terms.Metrics


def clip(
  inputs: batch.LossInputs,
  *,
  epsilon: float = 0.2,
  epsilon_high: float = 0.28,
  dual_clip: float | None = None,
) -> tuple[jax.Array, Metrics]:
  """The clipped surrogate of PPO with separate lower and upper bounds.

  loss_t = -min(r_t A, clip(r_t, 1 - epsilon, 1 + epsilon_high) A). A token
  with A > 0 is not pushed above 1 + epsilon_high, a token with A < 0 not below
  1 - epsilon; beyond its bound a token has no gradient. A higher upper bound
  lets rare tokens grow more.

  See "Proximal Policy Optimization" (https://arxiv.org/abs/1707.06347), eq.
  7, and for the two bounds "DAPO" (https://arxiv.org/abs/2503.14476), eq. 10.
  For `dual_clip` see https://arxiv.org/abs/1912.09729.

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT` and the
      advantages.
    epsilon: distance of the lower bound from 1, for tokens with A < 0.
    epsilon_high: distance of the upper bound from 1, for tokens with A > 0.
    dual_clip: upper bound on the ratio of tokens with A < 0, which bounds
      their loss by dual_clip * |A|; > 1, or None for no bound.

  Returns:
    loss_BT, float32, and metrics over tokens: `clip_ratio/low_mean` (share of
    tokens with A < 0 below the lower bound), `clip_ratio/high_mean` (share of
    tokens with A > 0 above the upper bound), `clip_ratio/region_mean` (their
    sum), `clip_ratio/dual_mean` if `dual_clip` is given, `ratio/mean` and
    `ratio/square_mean`.

  Raises:
    ValueError: `dual_clip` is not above 1.
  """
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  loss_BT, clipped = terms.surrogate(
    terms.ratio(log_ratio_BT), adv_BT, epsilon, epsilon_high, dual_clip
  )
  return terms.zeroed(loss_BT, mask_BT), terms.token_metrics(
    log_ratio_BT, mask_BT, clipped
  )


def dppo(
  inputs: batch.LossInputs, *, delta: float = 0.15, delta_high: float = 0.15
) -> tuple[jax.Array, Metrics]:
  """The ratio, masked where a token's probability has moved too far.

  loss_t = -M_t r_t A, where M_t is 0 if A > 0 and pi(o_t) - pi_old(o_t) >
  delta_high, or if A < 0 and pi_old(o_t) - pi(o_t) > delta, and otherwise 1. A
  clip of the ratio stops a token that grows from 1e-5 to 1e-3, a change of
  hardly any mass, and lets one pass that falls from 0.99 to 0.8. The
  difference of probabilities is the total variation between both policies if
  all other tokens are taken as one.

  See "Rethinking the Trust Region in LLM Reinforcement Learning"
  (https://arxiv.org/abs/2602.04879), the variant Binary-TV. 0.15 is the bound
  of its authors' script in verl; prime-rl has 0.2. Their pi_old is the
  sampler's probability, here it is the one in `inputs`: the scorer's for fresh
  responses (what the two differ by is `sampling/logp_difference_mean`). Left
  out are Binary-KL, the variant Top-K, which needs the log-probs of further
  tokens, and the cap on the ratio, which that script turns off.

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT` and the
      advantages.
    delta: largest fall of a probability that still teaches, for tokens with
      A < 0; > 0.
    delta_high: largest rise of a probability that still teaches, for tokens
      with A > 0; > 0.

  Returns:
    loss_BT, float32, and metrics over tokens: the shares of masked tokens
    `dppo/masked_low` (A < 0) and `dppo/masked_high` (A > 0), and
    `dppo/difference`, the mean of |pi - pi_old|.

  Raises:
    ValueError: a bound is not positive.
  """
  if min(delta, delta_high) <= 0:
    raise ValueError(
      f"delta and delta_high must be positive, got {delta} and {delta_high}"
    )
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  # Rounding may leave a log-prob above 0.
  now_BT, old_BT = (
    jnp.exp(jnp.minimum(jnp.asarray(x, jnp.float32), 0.0))
    for x in (inputs.logp_BT, inputs.old_logp_BT)
  )
  moved_BT = jax.lax.stop_gradient(terms.zeroed(now_BT - old_BT, mask_BT))
  low_BT = (adv_BT < 0) & (moved_BT < -delta)
  high_BT = (adv_BT > 0) & (moved_BT > delta_high)
  loss_BT = terms.zeroed(
    -terms.ratio(log_ratio_BT) * adv_BT, mask_BT & ~(low_BT | high_BT)
  )
  return loss_BT, terms.token_metrics(
    log_ratio_BT,
    mask_BT,
    {
      "dppo/masked_low": low_BT,
      "dppo/masked_high": high_BT,
      "dppo/difference": jnp.abs(moved_BT),
    },
  )


def sapo(
  inputs: batch.LossInputs, *, tau_pos: float = 1.0, tau_neg: float = 1.05
) -> tuple[jax.Array, Metrics]:
  """A smooth gate in the place of the clip.

  loss_t = -f(r_t) A with f(r) = 4 / tau sigmoid(tau (r - 1)), where tau is
  tau_pos for A > 0 and otherwise tau_neg. The gradient is that of the policy
  gradient times r_t and 4 s (1 - s), s = sigmoid(tau (r_t - 1)): a weight that
  is 1 at r = 1 and falls off on both sides without a bound. A larger tau falls
  off faster; bad tokens get one because they raise the probability of all
  other tokens. f(1) = 2 / tau: the value of the loss says nothing.

  See "Soft Adaptive Policy Optimization" (https://arxiv.org/abs/2511.20347),
  eq. 6; it averages over the tokens of a response and then over responses, as
  `sequence_mean` does. Nothing is left out.

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT` and the
      advantages.
    tau_pos: steepness of the gate where A > 0; > 0.
    tau_neg: steepness of the gate where A <= 0; > 0.

  Returns:
    loss_BT, float32, and metrics over tokens: `sapo/weight`, the mean of the
    gradient's weight 4 s (1 - s).

  Raises:
    ValueError: a steepness is not positive.
  """
  if min(tau_pos, tau_neg) <= 0:
    raise ValueError(
      f"tau_pos and tau_neg must be positive, got {tau_pos} and {tau_neg}"
    )
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  tau_BT = jnp.where(adv_BT > 0, tau_pos, tau_neg)
  gate_BT = jax.nn.sigmoid(tau_BT * (terms.ratio(log_ratio_BT) - 1.0))
  loss_BT = terms.zeroed(-4.0 / tau_BT * gate_BT * adv_BT, mask_BT)
  weight_BT = 4.0 * gate_BT * (1.0 - gate_BT)
  return loss_BT, terms.token_metrics(
    log_ratio_BT, mask_BT, {"sapo/weight": weight_BT}
  )


def gspo(
  inputs: batch.LossInputs,
  *,
  epsilon: float = 3e-4,
  epsilon_high: float = 4e-4,
  token_level: bool = False,
) -> tuple[jax.Array, Metrics]:
  """The clipped surrogate with one ratio per response.

  s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|) = exp(1/|o_i| sum_t log r_t), and
  every token of a response has the loss -min(s_i A, clip(s_i) A). Averaged by
  `sequence_mean` this is the paper's 1/G sum_i; under `token_mean` long
  responses weigh more.

  A geometric mean of ratios varies far less than a single ratio, hence the
  small default bounds.

  See "Group Sequence Policy Optimization"
  (https://arxiv.org/abs/2507.18071), eq. 5 and 7; for `token_level`, eq. 13
  and 14.

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT` and the
      advantages.
    epsilon: distance of the lower bound on s_i from 1, where A < 0.
    epsilon_high: distance of the upper bound on s_i from 1, where A > 0.
    token_level: whether to replace s_i by s_it = sg(s_i) pi(o_t) / sg(pi(o_t)).
      The values are equal, and so is the gradient of a response's mean if all
      its tokens have the same advantage. With advantages per token, each one
      then acts on its own token only.

  Returns:
    loss_BT, float32, and metrics over tokens: the `clip_ratio/*` of `clip`,
    computed from s_i, and `gspo/ratio`, the mean of s_i.
  """
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  log_s_BT = jnp.broadcast_to(
    ops.masked_mean(log_ratio_BT, mask_BT, axis=1)[:, None], mask_BT.shape
  )
  if token_level:
    # Value 0, gradient of the token's own log-ratio.
    zero_BT = log_ratio_BT - jax.lax.stop_gradient(log_ratio_BT)
    log_s_BT = jax.lax.stop_gradient(log_s_BT) + zero_BT
  s_BT = terms.ratio(log_s_BT)
  loss_BT, clipped = terms.surrogate(s_BT, adv_BT, epsilon, epsilon_high)
  return terms.zeroed(loss_BT, mask_BT), terms.token_metrics(
    log_ratio_BT, mask_BT, clipped | {"gspo/ratio": s_BT}
  )


def cispo(
  inputs: batch.LossInputs, *, cap: float = 5.0
) -> tuple[jax.Array, Metrics]:
  """REINFORCE weighted by the capped ratio.

  loss_t = -sg(min(r_t, cap)) A log pi(o_t). Every token keeps a gradient; a
  clipped surrogate removes it from rare tokens, such as those that start a new
  thought. The cap only bounds a token's weight from above.

  See "MiniMax-M1" (https://arxiv.org/abs/2506.13585), eq. 4 and 5. The paper
  does not give its cap; 5 is TRL's. The optional mask of eq. 6 and 7 is not
  implemented.

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT` and the
      advantages.
    cap: largest weight, > 0.

  Returns:
    loss_BT, float32, and metrics over tokens: `clip_ratio/high_mean`, the
    share of tokens above the cap whatever their advantage, and
    `cispo/weight`, the mean of the capped ratio.

  Raises:
    ValueError: `cap` is not positive.
  """
  if cap <= 0:
    raise ValueError(f"cap must be positive, got {cap}")
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  ratio_BT = jax.lax.stop_gradient(terms.ratio(log_ratio_BT))
  weight_BT = jnp.minimum(ratio_BT, cap)
  loss_BT = -weight_BT * adv_BT * terms.masked_logp(inputs, mask_BT)
  return loss_BT, terms.token_metrics(
    log_ratio_BT,
    mask_BT,
    {"clip_ratio/high_mean": ratio_BT > cap, "cispo/weight": weight_BT},
  )


def vespo(
  inputs: batch.LossInputs,
  *,
  k_pos: float = 2.0,
  lambda_pos: float = 3.0,
  k_neg: float = 3.0,
  lambda_neg: float = 2.0,
) -> tuple[jax.Array, Metrics]:
  """REINFORCE weighted by a smooth function of the response's ratio.

  loss_t = -sg(phi(W_i)) A log pi(o_t), with W_i = prod_t r_t, not normalised
  by length, and phi(W) = W^k exp(lambda (1 - W)). phi(1) = 1. The weight is
  largest at W = k / lambda and falls to 0 on both sides, so responses whose
  probability has changed a lot since sampling, in either direction, hardly
  affect the update.

  See "VESPO" (https://arxiv.org/abs/2602.10693). As in its code, the log-ratio
  of a token and the sum over a response are both clamped to [-20, 20].

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT` and the
      advantages.
    k_pos: exponent k where A >= 0.
    lambda_pos: decay rate lambda where A >= 0.
    k_neg: exponent k where A < 0.
    lambda_neg: decay rate lambda where A < 0.

  Returns:
    loss_BT, float32, and metrics over tokens: `vespo/weight`, the mean of phi,
    and `vespo/log_ratio`, the mean of log W.
  """
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  log_w_BT = jax.lax.stop_gradient(
    jnp.broadcast_to(
      terms.sequence_log_ratio(log_ratio_BT)[:, None], mask_BT.shape
    )
  )
  good_BT = adv_BT >= 0
  k_BT = jnp.where(good_BT, k_pos, k_neg)
  lambda_BT = jnp.where(good_BT, lambda_pos, lambda_neg)
  # expm1 keeps the digits of 1 - W near W = 1, where the first update starts.
  weight_BT = jnp.exp(k_BT * log_w_BT - lambda_BT * jnp.expm1(log_w_BT))
  loss_BT = -weight_BT * adv_BT * terms.masked_logp(inputs, mask_BT)
  return loss_BT, terms.token_metrics(
    log_ratio_BT,
    mask_BT,
    {"vespo/weight": weight_BT, "vespo/log_ratio": log_w_BT},
  )


def flowrl(
  inputs: batch.LossInputs,
  *,
  beta: float = 15.0,
  epsilon: float = 0.2,
  epsilon_high: float = 0.28,
) -> tuple[jax.Array, Metrics]:
  """Trajectory balance: matches the policy to a reward-tilted reference.

  The loss of a response y to a prompt x is

    w (log Z(x) + 1/|y| log pi(y|x) - beta r - 1/|y| log pi_ref(y|x))^2

  It is 0 for every response if pi = pi_ref exp(beta r) / Z, where for
  responses longer than a token pi and pi_ref stand for the geometric means of
  their token probabilities. w is the ratio of the whole response, clipped to
  [1 - epsilon, 1 + epsilon_high] and treated as a constant. Every token has
  its response's loss, so `sequence_mean` averages over responses.

  See "FlowRL" (https://arxiv.org/abs/2509.15207). Its released code computes
  the clipped w but multiplies by the unclipped ratio; this function follows
  the paper.

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT`,
      `ref_logp_BT`, `log_z_B` (trained estimate of log Z of each row's prompt,
      gets a gradient) and `reward_B` (normalised within its group), but no
      advantages.
    beta: inverse temperature of the rewards.
    epsilon: distance of the lower bound on w from 1.
    epsilon_high: distance of the upper bound on w from 1.

  Returns:
    loss_BT, float32, and metrics over responses: the means `flowrl/log_z`,
    `flowrl/residual` (the signed number that is squared) and `flowrl/weight`,
    and `clip_ratio/low_mean` and `clip_ratio/high_mean`, the shares of
    responses whose ratio lies below or above the bounds.

  Raises:
    ValueError: `ref_logp_BT`, `log_z_B` or `reward_B` is None.
  """
  ref_logp_BT, log_z_B, reward_B = _flow_inputs(inputs)
  log_ratio_BT, mask_BT = terms.masked_log_ratio(inputs)
  some_B = jnp.any(mask_BT, axis=1)
  gap_BT = terms.masked_logp(inputs, mask_BT) - ref_logp_BT
  # Rows without tokens may have a NaN reward. It is masked before the square,
  # since masking afterwards would leave a NaN gradient.
  residual_B = jnp.where(some_B, log_z_B - beta * reward_B, 0.0)
  residual_B += ops.masked_mean(gap_BT, mask_BT, axis=1)
  ratio_B = jax.lax.stop_gradient(
    terms.ratio(terms.sequence_log_ratio(log_ratio_BT))
  )
  weight_B = jnp.clip(ratio_B, 1.0 - epsilon, 1.0 + epsilon_high)
  loss_BT = terms.zeroed((weight_B * residual_B**2)[:, None], mask_BT)
  return loss_BT, terms.token_metrics(log_ratio_BT, mask_BT, {}) | terms.means(
    {
      "flowrl/log_z": log_z_B,
      "flowrl/residual": residual_B,
      "flowrl/weight": weight_B,
      "clip_ratio/low_mean": ratio_B < 1.0 - epsilon,
      "clip_ratio/high_mean": ratio_B > 1.0 + epsilon_high,
    },
    some_B,
  )


# Those that see a whole minibatch are in a file of their own.
clip_cov = ranked.clip_cov
kl_cov = ranked.kl_cov
high_entropy = ranked.high_entropy


def _flow_inputs(inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the inputs only FlowRL reads: ref log-probs, log Z, rewards."""
  missing = [
    name
    for name in ("ref_logp_BT", "log_z_B", "reward_B")
    if getattr(inputs, name) is None
  ]
  if missing:
    raise ValueError(f"flowrl needs {', '.join(missing)} in LossInputs")
  ref_logp_BT, reward_B = inputs.ref_logp_BT, inputs.reward_B
  chex.assert_equal_shape([ref_logp_BT, inputs.logp_BT])
  chex.assert_shape([inputs.log_z_B, reward_B], inputs.logp_BT.shape[:1])
  return (
    jax.lax.stop_gradient(jnp.asarray(ref_logp_BT, jnp.float32)),
    jnp.asarray(inputs.log_z_B, jnp.float32),
    jax.lax.stop_gradient(jnp.asarray(reward_B, jnp.float32)),
  )
