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

# exp(20) is 5e8: a larger ratio means nothing. It is clamped so that it stays
# finite, with gradient 0. The same bound as in verl.
MAX_LOG_RATIO = 20.0

Metrics = dict[str, tuple[jax.Array, jax.Array]]


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
  if dual_clip is not None and dual_clip <= 1:
    raise ValueError(f"dual_clip must be above 1 or None, got {dual_clip}")
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  ratio_BT = _exp(log_ratio_BT)
  loss_BT, clipped = _surrogate(
    ratio_BT,
    adv_BT,
    epsilon,
    epsilon_high,
    jnp.inf if dual_clip is None else dual_clip,
  )
  if dual_clip is not None:
    clipped["clip_ratio/dual_mean"] = (adv_BT < 0) & (ratio_BT > dual_clip)
  return _zeroed(loss_BT, mask_BT), _metrics(log_ratio_BT, mask_BT, clipped)


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
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  log_s_BT = jnp.broadcast_to(
    ops.masked_mean(log_ratio_BT, mask_BT, axis=1)[:, None], mask_BT.shape
  )
  if token_level:
    # Value 0, gradient of the token's own log-ratio.
    zero_BT = log_ratio_BT - jax.lax.stop_gradient(log_ratio_BT)
    log_s_BT = jax.lax.stop_gradient(log_s_BT) + zero_BT
  s_BT = _exp(log_s_BT)
  loss_BT, clipped = _surrogate(s_BT, adv_BT, epsilon, epsilon_high)
  return _zeroed(loss_BT, mask_BT), _metrics(
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
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  ratio_BT = jax.lax.stop_gradient(_exp(log_ratio_BT))
  weight_BT = jnp.minimum(ratio_BT, cap)
  loss_BT = -weight_BT * adv_BT * _logp(inputs, mask_BT)
  return loss_BT, _metrics(
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
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  log_w_BT = jax.lax.stop_gradient(
    jnp.broadcast_to(_sequence_log_ratio(log_ratio_BT)[:, None], mask_BT.shape)
  )
  good_BT = adv_BT >= 0
  k_BT = jnp.where(good_BT, k_pos, k_neg)
  lambda_BT = jnp.where(good_BT, lambda_pos, lambda_neg)
  # expm1 keeps the digits of 1 - W near W = 1, where the first update starts.
  weight_BT = jnp.exp(k_BT * log_w_BT - lambda_BT * jnp.expm1(log_w_BT))
  loss_BT = -weight_BT * adv_BT * _logp(inputs, mask_BT)
  return loss_BT, _metrics(
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
  log_ratio_BT, mask_BT = _log_ratio(inputs)
  some_B = jnp.any(mask_BT, axis=1)
  gap_BT = _logp(inputs, mask_BT) - ref_logp_BT
  # Rows without tokens may have a NaN reward. It is masked before the square,
  # since masking afterwards would leave a NaN gradient.
  residual_B = jnp.where(some_B, log_z_B - beta * reward_B, 0.0)
  residual_B += ops.masked_mean(gap_BT, mask_BT, axis=1)
  ratio_B = jax.lax.stop_gradient(_exp(_sequence_log_ratio(log_ratio_BT)))
  weight_B = jnp.clip(ratio_B, 1.0 - epsilon, 1.0 + epsilon_high)
  loss_BT = _zeroed((weight_B * residual_B**2)[:, None], mask_BT)
  return loss_BT, _metrics(log_ratio_BT, mask_BT, {}) | _means(
    {
      "flowrl/log_z": log_z_B,
      "flowrl/residual": residual_B,
      "flowrl/weight": weight_B,
      "clip_ratio/low_mean": ratio_B < 1.0 - epsilon,
      "clip_ratio/high_mean": ratio_B > 1.0 + epsilon_high,
    },
    some_B,
  )


def clip_cov(
  inputs: batch.LossInputs,
  *,
  key: jax.Array | None = None,
  share: float = 2e-4,
  cov_low: float = 1.0,
  cov_high: float = 5.0,
  epsilon: float = 0.2,
  epsilon_high: float = 0.2,
) -> tuple[jax.Array, Metrics]:
  """The clipped surrogate without a random few high-covariance tokens.

  Entropy falls in proportion to the covariance of log-prob and advantage, and
  a few tokens make up most of it. With Cov_t = (log pi(o_t) - mean)(A_t -
  mean), candidates are tokens with cov_low < Cov_t < cov_high that the
  surrogate does not clip. Of these, max(1, floor(share N)) tokens, with N the
  number of tokens, are drawn uniformly and get loss and gradient 0 (all
  candidates if there are fewer). The paper has floor(share N); the minimum of
  1 is from its released code.

  Means, N and the draw are over the tokens in `inputs`, in training a
  minibatch. The paper uses the batch; its released code uses the micro-batch,
  which makes the choice of tokens depend on the split.

  See "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
  Models" (https://arxiv.org/abs/2505.22617), section 4. The clip bounds 0.2 /
  0.2 are the paper's; the released scripts use 1 / 1.

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT` and the
      advantages.
    key: PRNG key of the draw; None takes `inputs.key`.
    share: share of the tokens to drop, in (0, 1].
    cov_low: lower bound on a candidate's covariance, exclusive.
    cov_high: upper bound on a candidate's covariance, exclusive.
    epsilon: distance of the lower clip bound from 1.
    epsilon_high: distance of the upper clip bound from 1.

  Returns:
    loss_BT, float32, and metrics over tokens: the `clip_ratio/*` of `clip`,
    before tokens are dropped; the shares `clip_cov/candidates` and
    `clip_cov/dropped`; `covariance/mean`.

  Raises:
    ValueError: `key` and `inputs.key` are None, or `share` is outside (0, 1].
  """
  key = inputs.key if key is None else key
  if key is None:
    raise ValueError("clip_cov draws tokens: give it a key, or inputs.key")
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  loss_BT, clipped = _surrogate(
    _exp(log_ratio_BT), adv_BT, epsilon, epsilon_high
  )
  cov_BT = _covariance(inputs, adv_BT, mask_BT)
  # Tokens the surrogate clips have no gradient already: dropping them would
  # use up the quota.
  candidate_BT = mask_BT & (cov_BT > cov_low) & (cov_BT < cov_high)
  candidate_BT &= ~clipped["clip_ratio/region_mean"]
  dropped_BT = _lowest(
    jax.random.uniform(key, mask_BT.shape), candidate_BT, _part(mask_BT, share)
  )
  return _zeroed(loss_BT, mask_BT & ~dropped_BT), _metrics(
    log_ratio_BT,
    mask_BT,
    clipped
    | {
      "clip_cov/candidates": candidate_BT,
      "clip_cov/dropped": dropped_BT,
      "covariance/mean": cov_BT,
    },
  )


def kl_cov(
  inputs: batch.LossInputs, *, share: float = 2e-3, coef: float = 1.0
) -> tuple[jax.Array, Metrics]:
  """The unclipped ratio with a KL penalty on high-covariance tokens.

  loss_t = -r_t A, plus coef |log pi(o_t) - log pi_old(o_t)| on the
  max(1, floor(share N)) tokens with the highest Cov_t (see `clip_cov`). At the
  old policy the penalty has gradient 0, so it restrains only the later updates
  of a batch. Means and N are over the tokens in `inputs`, in training a
  minibatch (see `clip_cov`).

  See "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
  Models" (https://arxiv.org/abs/2505.22617), section 4, which uses a share of
  2e-3 at 7B and 2e-4 at 32B.

  Args:
    inputs: micro-batch; reads `logp_BT`, `old_logp_BT`, `mask_BT` and the
      advantages.
    share: share of the tokens to penalise, in (0, 1].
    coef: weight of the penalty.

  Returns:
    loss_BT, float32, and metrics over tokens: `kl_cov/penalised`, the share of
    penalised tokens; `kl_cov/penalty`, the mean of the penalty over all
    tokens; `covariance/mean`.

  Raises:
    ValueError: `share` is outside (0, 1].
  """
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  cov_BT = _covariance(inputs, adv_BT, mask_BT)
  high_BT = _lowest(-cov_BT, mask_BT, _part(mask_BT, share))
  # |x| is written x sg(sign x): jnp.abs has derivative 1 at 0, where every
  # token starts. No clamp, which would remove the gradient that pulls a token
  # back once it has moved far away.
  sign_BT = jax.lax.stop_gradient(jnp.sign(log_ratio_BT))
  penalty_BT = coef * jnp.where(high_BT, log_ratio_BT * sign_BT, 0.0)
  loss_BT = penalty_BT - _exp(log_ratio_BT) * adv_BT
  return _zeroed(loss_BT, mask_BT), _metrics(
    log_ratio_BT,
    mask_BT,
    {
      "kl_cov/penalised": high_BT,
      "kl_cov/penalty": penalty_BT,
      "covariance/mean": cov_BT,
    },
  )


# Called with all tokens of a minibatch, see the module's docstring.
clip_cov.whole = kl_cov.whole = True


def _log_ratio(inputs) -> tuple[jax.Array, jax.Array]:
  """Returns log r per token, 0 at masked positions, and the mask.

  Masked before any nonlinear operation: masking afterwards would remove NaN
  values but not their NaN gradients.
  """
  logp_BT, old_logp_BT = inputs.logp_BT, inputs.old_logp_BT
  mask_BT = jnp.asarray(inputs.mask_BT, bool)
  chex.assert_rank([logp_BT, mask_BT], 2)
  chex.assert_equal_shape([logp_BT, old_logp_BT, mask_BT])
  chex.assert_type([logp_BT, old_logp_BT], float)
  logp_BT = jnp.asarray(logp_BT, jnp.float32)
  # pi_old is a constant even if the caller computes it in the same trace, and
  # so are advantages and rewards.
  old_logp_BT = jax.lax.stop_gradient(jnp.asarray(old_logp_BT, jnp.float32))
  return jnp.where(mask_BT, logp_BT - old_logp_BT, 0.0), mask_BT


def _real(inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns log-ratio and advantage per token (0 if masked) and the mask."""
  log_ratio_BT, mask_BT = _log_ratio(inputs)
  adv_BT = inputs.token_adv_BT
  chex.assert_equal_shape([adv_BT, mask_BT])
  chex.assert_type(adv_BT, float)
  adv_BT = jax.lax.stop_gradient(jnp.asarray(adv_BT, jnp.float32))
  return log_ratio_BT, jnp.where(mask_BT, adv_BT, 0.0), mask_BT


def _logp(inputs, mask_BT) -> jax.Array:
  """Returns log-probs of the trained policy, 0 at masked positions."""
  return jnp.where(mask_BT, jnp.asarray(inputs.logp_BT, jnp.float32), 0.0)


def _exp(log_ratio) -> jax.Array:
  """Returns the ratio of a log-ratio, clamped to stay finite."""
  return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def _sequence_log_ratio(log_ratio_BT) -> jax.Array:
  """Returns log pi(o) / pi_old(o) per response, tokens and sum clamped."""
  log_ratio_BT = jnp.clip(log_ratio_BT, -MAX_LOG_RATIO, MAX_LOG_RATIO)
  log_ratio_B = jnp.sum(log_ratio_BT, axis=1)
  return jnp.clip(log_ratio_B, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def _surrogate(
  ratio_BT, adv_BT, epsilon, epsilon_high, ceiling=jnp.inf
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns -min(r A, clip(r) A) and which tokens are beyond their bound.

  By the sign of A: where A >= 0 r is capped at 1 + epsilon_high, where A < 0
  it is clipped to [1 - epsilon, ceiling].
  """
  low, high = 1.0 - epsilon, 1.0 + epsilon_high
  bounded_BT = jnp.where(
    adv_BT >= 0, jnp.minimum(ratio_BT, high), jnp.clip(ratio_BT, low, ceiling)
  )
  low_BT = (adv_BT < 0) & (ratio_BT < low)
  high_BT = (adv_BT > 0) & (ratio_BT > high)
  return -bounded_BT * adv_BT, {
    "clip_ratio/low_mean": low_BT,
    "clip_ratio/high_mean": high_BT,
    "clip_ratio/region_mean": low_BT | high_BT,
  }


def _covariance(inputs, adv_BT, mask_BT) -> jax.Array:
  """Returns (log pi - mean)(A - mean) per token, means over real tokens."""
  logp_BT = jax.lax.stop_gradient(_logp(inputs, mask_BT))
  cov_BT = (logp_BT - ops.masked_mean(logp_BT, mask_BT)) * (
    adv_BT - ops.masked_mean(adv_BT, mask_BT)
  )
  return _zeroed(cov_BT, mask_BT)


def _part(mask_BT, share) -> jax.Array:
  """Returns max(1, floor(share * N)) for N real tokens, int32 scalar."""
  if not 0 < share <= 1:
    raise ValueError(f"a share of tokens must lie in (0, 1], got {share}")
  tokens = jnp.sum(mask_BT, dtype=jnp.float32)
  # The factor undoes rounding: 0.072 * 375 is a little below 27 in float32.
  count = jnp.floor(share * tokens * (1 + 1e-6))
  return jnp.maximum(count.astype(jnp.int32), 1)


def _lowest(score_BT, eligible_BT, count) -> jax.Array:
  """Returns a bool mask of the `count` eligible tokens of lowest score.

  By rank rather than by threshold, since random float32 scores have ties.
  """
  score_X = jnp.where(eligible_BT, score_BT, jnp.inf).ravel()
  rank_X = jnp.argsort(jnp.argsort(score_X))
  return eligible_BT & (rank_X.reshape(eligible_BT.shape) < count)


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


def _zeroed(x_BT, mask_BT) -> jax.Array:
  """Returns `x_BT` where the mask is True, else 0."""
  return jnp.where(mask_BT, x_BT, 0.0)


def _metrics(log_ratio_BT, mask_BT, quantities) -> Metrics:
  """Returns metrics over tokens of some quantities and of the ratio."""
  ratio_BT = _exp(log_ratio_BT)
  return _means(
    quantities | {"ratio/mean": ratio_BT, "ratio/square_mean": ratio_BT**2},
    mask_BT,
  )


def _means(quantities, mask) -> Metrics:
  """Returns (sum, count) of each quantity over real tokens or rows."""
  count = jnp.sum(mask, dtype=jnp.float32)
  return {
    name: (ops.masked_sum(x, mask), count) for name, x in quantities.items()
  }
