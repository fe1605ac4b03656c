"""Policy-gradient losses, one value per token.

Each function takes a `LossInputs` and returns `(loss_BT, metrics)`: the loss
to minimise at every token, not yet averaged (`algos/aggregate.py` does that),
and diagnostics as name -> (sum, count), so that a mean over accumulated
micro-batches and over hosts is the sum of sums over the sum of counts. A
maximum cannot be carried so; the mean square of the ratio, which a few large
ratios dominate, stands in for it.

Tokens under the mask have loss 0 and gradient 0, even where their log-probs
are NaN.

The tokens given are a micro-batch, but for the losses that compare tokens with
all others of a minibatch, or draw among them: those get the minibatch whole
(`whole`, behind the last of them), so that its cut changes nothing.

Throughout, r_t = pi(o_t) / pi_old(o_t) is the ratio of a token; every loss
reports its mean and mean square over tokens as `ratio/mean` and
`ratio/square_mean`, whatever it makes of it. sg is the stop-gradient.
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

  loss_t = -min(r_t A, clip(r_t, 1 - epsilon, 1 + epsilon_high) A). Only one
  bound can matter to a token: a good one is not pushed above
  1 + epsilon_high, a bad one not below 1 - epsilon; past its bound a token
  has no gradient. A higher upper bound leaves room to the rare tokens.

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
  ratio_BT = _exp(log_ratio_BT)
  loss_BT, clipped = _surrogate(
      ratio_BT, adv_BT, epsilon, epsilon_high,
      jnp.inf if dual_clip is None else dual_clip)
  if dual_clip is not None:
    clipped["clip_ratio/dual_mean"] = (adv_BT < 0) & (ratio_BT > dual_clip)
  return _zeroed(loss_BT, mask_BT), _metrics(log_ratio_BT, mask_BT, clipped)


def gspo(
    inputs: batch.LossInputs, *, epsilon: float = 3e-4,
    epsilon_high: float = 4e-4, token_level: bool = False,
) -> tuple[jax.Array, Metrics]:
  """The clipped surrogate of the likelihood of whole responses.

  s_i = (pi(o_i) / pi_old(o_i))^(1/|o_i|) = exp(1/|o_i| sum_t log r_t), and
  every token of a response carries its response's -min(s_i A, clip(s_i) A).
  The mean over a response of one value is that value, so that under
  `sequence_mean` this is the paper's 1/G sum_i; each token then has the
  gradient of s_i, 1/|o_i| of s_i A. Under `token_mean` long responses weigh
  more.

  The geometric mean of ratios moves far less than a ratio: hence the bounds.

  See "Group Sequence Policy Optimization"
  (https://arxiv.org/abs/2507.18071), eq. 5 and 7; for `token_level`, eq. 13
  and 14.

  Args:
    inputs: `logp_BT`, `old_logp_BT`, `mask_BT` and the advantages are read.
    epsilon: s_i of a bad response counts down to 1 - epsilon.
    epsilon_high: s_i of a good response counts up to 1 + epsilon_high.
    token_level: puts s_it = sg(s_i) pi(o_t) / sg(pi(o_t)) in the place of
      s_i. The values are the same, and so is the gradient of a response's
      mean as long as its advantage is one; an advantage per token then
      reaches its own token alone.

  Returns:
    loss_BT, float32, and metrics over the tokens: the `clip_ratio/*` of
    `clip`, here of s_i, and `gspo/ratio`, the mean of s_i.
  """
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  log_s_BT = jnp.broadcast_to(
      ops.masked_mean(log_ratio_BT, mask_BT, axis=1)[:, None], mask_BT.shape)
  if token_level:
    own_BT = log_ratio_BT - jax.lax.stop_gradient(log_ratio_BT)
    log_s_BT = jax.lax.stop_gradient(log_s_BT) + own_BT
  s_BT = _exp(log_s_BT)
  loss_BT, clipped = _surrogate(s_BT, adv_BT, epsilon, epsilon_high)
  return _zeroed(loss_BT, mask_BT), _metrics(
      log_ratio_BT, mask_BT, clipped | {"gspo/ratio": s_BT})


def cispo(
    inputs: batch.LossInputs, *, cap: float = 5.0,
) -> tuple[jax.Array, Metrics]:
  """REINFORCE with a ratio that is capped as a weight.

  loss_t = -sg(min(r_t, cap)) A log pi(o_t). No token loses its gradient, as
  the rare ones that start a new thought do under a clipped surrogate; only
  how much one may weigh is bounded, from above.

  See "MiniMax-M1" (https://arxiv.org/abs/2506.13585), eq. 4 and 5, whose cap
  is not disclosed; 5 is TRL's. The optional mask of eq. 6 and 7 is left out.

  Args:
    inputs: `logp_BT`, `old_logp_BT`, `mask_BT` and the advantages are read.
    cap: largest weight, > 0.

  Returns:
    loss_BT, float32, and metrics over the tokens: `clip_ratio/high_mean`, the
    share above the cap whatever their advantage, and `cispo/weight`, the mean
    of the capped ratio.

  Raises:
    ValueError: `cap` is not positive.
  """
  if cap <= 0:
    raise ValueError(f"cap must be positive, got {cap}")
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  ratio_BT = jax.lax.stop_gradient(_exp(log_ratio_BT))
  weight_BT = jnp.minimum(ratio_BT, cap)
  loss_BT = -weight_BT * adv_BT * _logp(inputs, mask_BT)
  return loss_BT, _metrics(log_ratio_BT, mask_BT, {
      "clip_ratio/high_mean": ratio_BT > cap, "cispo/weight": weight_BT})


def vespo(
    inputs: batch.LossInputs, *, k_pos: float = 2.0, lambda_pos: float = 3.0,
    k_neg: float = 3.0, lambda_neg: float = 2.0,
) -> tuple[jax.Array, Metrics]:
  """REINFORCE with a smooth weight of the whole response's ratio.

  loss_t = -sg(phi(W_i)) A log pi(o_t), W_i = prod_t r_t, not normalised by
  length, and phi(W) = W^k exp(lambda (1 - W)). phi(1) = 1; the weight is
  largest at W = k / lambda and falls to 0 on both sides, so that neither a
  response the policy has left nor one it has run towards drives the update.

  See "VESPO" (https://arxiv.org/abs/2602.10693). As in its code the log-ratio
  of a token and their sum over a response are clamped to [-20, 20].

  Args:
    inputs: `logp_BT`, `old_logp_BT`, `mask_BT` and the advantages are read.
    k_pos: k where A >= 0.
    lambda_pos: lambda where A >= 0.
    k_neg: k where A < 0.
    lambda_neg: lambda where A < 0.

  Returns:
    loss_BT, float32, and metrics over the tokens: the means of `vespo/weight`,
    which is phi, and of `vespo/log_ratio`, which is log W.
  """
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  log_w_BT = jax.lax.stop_gradient(jnp.broadcast_to(
      _sequence_log_ratio(log_ratio_BT)[:, None], mask_BT.shape))
  good_BT = adv_BT >= 0
  k_BT = jnp.where(good_BT, k_pos, k_neg)
  lambda_BT = jnp.where(good_BT, lambda_pos, lambda_neg)
  # 1 - W by expm1 keeps its digits near W = 1, where a fresh policy is.
  weight_BT = jnp.exp(k_BT * log_w_BT - lambda_BT * jnp.expm1(log_w_BT))
  loss_BT = -weight_BT * adv_BT * _logp(inputs, mask_BT)
  return loss_BT, _metrics(log_ratio_BT, mask_BT, {
      "vespo/weight": weight_BT, "vespo/log_ratio": log_w_BT})


def flowrl(
    inputs: batch.LossInputs, *, beta: float = 15.0, epsilon: float = 0.2,
    epsilon_high: float = 0.28,
) -> tuple[jax.Array, Metrics]:
  """Matches the policy to the distribution of rewards by trajectory balance.

  For each response y of a prompt x

    w (log Z(x) + 1/|y| log pi(y|x) - beta r - 1/|y| log pi_ref(y|x))^2

  which is 0 everywhere where pi is pi_ref exp(beta r) / Z (of single tokens;
  of longer responses, where the geometric means are). w is the ratio of the
  whole response, clipped to [1 - epsilon, 1 + epsilon_high] and held
  constant. Every token carries its response's term: `sequence_mean` makes
  the mean over responses of it.

  See "FlowRL" (https://arxiv.org/abs/2509.15207). Its released code computes
  the clipped w and multiplies by the unclipped one; this is the paper's.

  Args:
    inputs: `logp_BT`, `old_logp_BT`, `mask_BT`; `ref_logp_BT`; `log_z_B`,
      the trained estimate of log Z of the prompt of each row, which gets a
      gradient; `reward_B`, normalised in its group. No advantages are read.
    beta: inverse temperature of the rewards.
    epsilon: w is at least 1 - epsilon.
    epsilon_high: w is at most 1 + epsilon_high.

  Returns:
    loss_BT, float32, and metrics over the responses: the means of
    `flowrl/log_z`, `flowrl/residual` (what is squared, with its sign) and
    `flowrl/weight`, and the shares `clip_ratio/low_mean` and
    `clip_ratio/high_mean` whose ratio lies beyond either bound.

  Raises:
    ValueError: something that is read is None.
  """
  ref_logp_BT, log_z_B, reward_B = _flow_inputs(inputs)
  log_ratio_BT, mask_BT = _log_ratio(inputs)
  some_B = jnp.any(mask_BT, axis=1)
  gap_BT = _logp(inputs, mask_BT) - ref_logp_BT
  # Rows without tokens may carry a NaN as their reward: it is taken out
  # before the square, whose gradient would spread it.
  residual_B = jnp.where(some_B, log_z_B - beta * reward_B, 0.0)
  residual_B += ops.masked_mean(gap_BT, mask_BT, axis=1)
  ratio_B = jax.lax.stop_gradient(_exp(_sequence_log_ratio(log_ratio_BT)))
  weight_B = jnp.clip(ratio_B, 1.0 - epsilon, 1.0 + epsilon_high)
  loss_BT = _zeroed((weight_B * residual_B**2)[:, None], mask_BT)
  return loss_BT, _metrics(log_ratio_BT, mask_BT, {}) | _means({
      "flowrl/log_z": log_z_B,
      "flowrl/residual": residual_B,
      "flowrl/weight": weight_B,
      "clip_ratio/low_mean": ratio_B < 1.0 - epsilon,
      "clip_ratio/high_mean": ratio_B > 1.0 + epsilon_high}, some_B)


def clip_cov(
    inputs: batch.LossInputs, *, key: jax.Array | None = None,
    share: float = 2e-4, cov_low: float = 1.0, cov_high: float = 5.0,
    epsilon: float = 0.2, epsilon_high: float = 0.2,
) -> tuple[jax.Array, Metrics]:
  """The clipped surrogate without a few tokens that would eat the entropy.

  Entropy falls by the covariance of log-prob and advantage, and few tokens
  make most of it. With Cov_t = (log pi(o_t) - mean)(A_t - mean), tokens with
  cov_low < Cov < cov_high that the surrogate does not clip already are
  candidates; max(1, floor(share N)) of them, N the number of tokens, are
  drawn with equal chances and get loss 0, hence gradient 0. All of them are
  taken if there are fewer. The paper has floor(share N), its released code
  this: at least one.

  Means, N and the draw are over the tokens given, in training those of a
  minibatch. The paper has a batch; the released code has a micro-batch, and
  so other tokens with every cut.

  See "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
  Models" (https://arxiv.org/abs/2505.22617), section 4. The bounds 0.2 / 0.2
  are those of the text; the released scripts run it with 1 / 1.

  Args:
    inputs: `logp_BT`, `old_logp_BT`, `mask_BT` and the advantages are read.
    key: PRNG key of the draw; None takes `inputs.key`.
    share: of the tokens, in (0, 1].
    cov_low: a candidate's covariance is above this.
    cov_high: a candidate's covariance is below this.
    epsilon: as for `clip`.
    epsilon_high: as for `clip`.

  Returns:
    loss_BT, float32, and metrics over the tokens: the `clip_ratio/*` of
    `clip`, of the surrogate alone; the shares `clip_cov/candidates` and
    `clip_cov/dropped`; `covariance/mean`.

  Raises:
    ValueError: there is no key, or `share` is outside (0, 1].
  """
  key = inputs.key if key is None else key
  if key is None:
    raise ValueError("clip_cov draws tokens: give it a key, or inputs.key")
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  loss_BT, clipped = _surrogate(
      _exp(log_ratio_BT), adv_BT, epsilon, epsilon_high)
  cov_BT = _covariance(inputs, adv_BT, mask_BT)
  candidate_BT = mask_BT & (cov_BT > cov_low) & (cov_BT < cov_high)
  candidate_BT &= ~clipped["clip_ratio/region_mean"]
  dropped_BT = _lowest(
      jax.random.uniform(key, mask_BT.shape), candidate_BT,
      _part(mask_BT, share))
  return _zeroed(loss_BT, mask_BT & ~dropped_BT), _metrics(
      log_ratio_BT, mask_BT, clipped | {
          "clip_cov/candidates": candidate_BT,
          "clip_cov/dropped": dropped_BT,
          "covariance/mean": cov_BT})


def kl_cov(
    inputs: batch.LossInputs, *, share: float = 2e-3, coef: float = 1.0,
) -> tuple[jax.Array, Metrics]:
  """The plain ratio, and a KL penalty on the tokens of highest covariance.

  loss_t = -r_t A, and + coef |log pi(o_t) - log pi_old(o_t)| on the
  max(1, floor(share N)) tokens whose Cov_t (see `clip_cov`) is highest. At
  the old policy the penalty has no gradient: it holds back the later updates
  of a batch. Means and N are over the tokens given, in training those of a
  minibatch (see `clip_cov`).

  See "The Entropy Mechanism of Reinforcement Learning for Reasoning Language
  Models" (https://arxiv.org/abs/2505.22617), section 4; it takes 2e-3 of the
  tokens at 7B and 2e-4 at 32B.

  Args:
    inputs: `logp_BT`, `old_logp_BT`, `mask_BT` and the advantages are read.
    share: of the tokens, in (0, 1].
    coef: weight of the penalty.

  Returns:
    loss_BT, float32, and metrics over the tokens: `kl_cov/penalised`, the
    share with the penalty; `kl_cov/penalty`, the mean of what it adds;
    `covariance/mean`.

  Raises:
    ValueError: `share` is outside (0, 1].
  """
  log_ratio_BT, adv_BT, mask_BT = _real(inputs)
  cov_BT = _covariance(inputs, adv_BT, mask_BT)
  high_BT = _lowest(-cov_BT, mask_BT, _part(mask_BT, share))
  # |x| as x sg(sign x): the derivative of jnp.abs at 0, where every token
  # stands at first, is 1. No clamp: a token that has run away would be left
  # without the gradient that brings it back.
  sign_BT = jax.lax.stop_gradient(jnp.sign(log_ratio_BT))
  penalty_BT = coef * jnp.where(high_BT, log_ratio_BT * sign_BT, 0.0)
  loss_BT = penalty_BT - _exp(log_ratio_BT) * adv_BT
  return _zeroed(loss_BT, mask_BT), _metrics(log_ratio_BT, mask_BT, {
      "kl_cov/penalised": high_BT, "kl_cov/penalty": penalty_BT,
      "covariance/mean": cov_BT})


# They must see all tokens of a minibatch at once.
clip_cov.whole = kl_cov.whole = True


def _log_ratio(inputs) -> tuple[jax.Array, jax.Array]:
  """log r per token, 0 under the mask, and the mask.

  The zeros stand before any nonlinear operation: put in afterwards they would
  stop NaN values but not their NaN gradients.
  """
  logp_BT, old_logp_BT = inputs.logp_BT, inputs.old_logp_BT
  mask_BT = jnp.asarray(inputs.mask_BT, bool)
  chex.assert_rank([logp_BT, mask_BT], 2)
  chex.assert_equal_shape([logp_BT, old_logp_BT, mask_BT])
  chex.assert_type([logp_BT, old_logp_BT], float)
  logp_BT = jnp.asarray(logp_BT, jnp.float32)
  # The policy of the denominator is data: a caller that computes it in the
  # same trace gets no gradient through it. So are advantages and rewards.
  old_logp_BT = jax.lax.stop_gradient(jnp.asarray(old_logp_BT, jnp.float32))
  return jnp.where(mask_BT, logp_BT - old_logp_BT, 0.0), mask_BT


def _real(inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Log-ratio and advantage per token, 0 under the mask, and the mask."""
  log_ratio_BT, mask_BT = _log_ratio(inputs)
  adv_BT = inputs.token_adv_BT
  chex.assert_equal_shape([adv_BT, mask_BT])
  chex.assert_type(adv_BT, float)
  adv_BT = jax.lax.stop_gradient(jnp.asarray(adv_BT, jnp.float32))
  return log_ratio_BT, jnp.where(mask_BT, adv_BT, 0.0), mask_BT


def _logp(inputs, mask_BT) -> jax.Array:
  """Log-probs of the trained policy, 0 under the mask."""
  return jnp.where(mask_BT, jnp.asarray(inputs.logp_BT, jnp.float32), 0.0)


def _exp(log_ratio) -> jax.Array:
  """The ratio of a log-ratio, finite whatever that is."""
  return jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))


def _sequence_log_ratio(log_ratio_BT) -> jax.Array:
  """log pi(o) / pi_old(o) of whole responses, tokens and sum clamped."""
  log_ratio_BT = jnp.clip(log_ratio_BT, -MAX_LOG_RATIO, MAX_LOG_RATIO)
  log_ratio_B = jnp.sum(log_ratio_BT, axis=1)
  return jnp.clip(log_ratio_B, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def _surrogate(
    ratio_BT, adv_BT, epsilon, epsilon_high, ceiling=jnp.inf,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """-min(r A, clip(r) A), and which tokens are past their bound.

  With the sign of A resolved: r is capped for a good token and floored for a
  bad one (and capped at `ceiling`).
  """
  low, high = 1.0 - epsilon, 1.0 + epsilon_high
  bounded_BT = jnp.where(
      adv_BT >= 0, jnp.minimum(ratio_BT, high),
      jnp.clip(ratio_BT, low, ceiling))
  low_BT = (adv_BT < 0) & (ratio_BT < low)
  high_BT = (adv_BT > 0) & (ratio_BT > high)
  return -bounded_BT * adv_BT, {
      "clip_ratio/low_mean": low_BT,
      "clip_ratio/high_mean": high_BT,
      "clip_ratio/region_mean": low_BT | high_BT}


def _covariance(inputs, adv_BT, mask_BT) -> jax.Array:
  """(log pi - mean)(A - mean) per token, the means over real tokens."""
  logp_BT = jax.lax.stop_gradient(_logp(inputs, mask_BT))
  cov_BT = (logp_BT - ops.masked_mean(logp_BT, mask_BT)) * (
      adv_BT - ops.masked_mean(adv_BT, mask_BT))
  return _zeroed(cov_BT, mask_BT)


def _part(mask_BT, share) -> jax.Array:
  """max(1, floor(share * N)) of N real tokens; int32 scalar."""
  if not 0 < share <= 1:
    raise ValueError(f"a share of tokens must lie in (0, 1], got {share}")
  tokens = jnp.sum(mask_BT, dtype=jnp.float32)
  # 0.072 * 375 is a little below 27 in float32.
  count = jnp.floor(share * tokens * (1 + 1e-6))
  return jnp.maximum(count.astype(jnp.int32), 1)


def _lowest(score_BT, eligible_BT, count) -> jax.Array:
  """Which are the `count` eligible tokens of lowest score; bool.

  By rank, not by a threshold: random scores in float32 have ties.
  """
  score_X = jnp.where(eligible_BT, score_BT, jnp.inf).ravel()
  rank_X = jnp.argsort(jnp.argsort(score_X))
  return eligible_BT & (rank_X.reshape(eligible_BT.shape) < count)


def _flow_inputs(inputs) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What FlowRL alone reads: log-probs of the reference, log Z, rewards."""
  missing = [
      name for name in ("ref_logp_BT", "log_z_B", "reward_B")
      if getattr(inputs, name) is None]
  if missing:
    raise ValueError(f"flowrl reads {', '.join(missing)} of LossInputs: None")
  ref_logp_BT, reward_B = inputs.ref_logp_BT, inputs.reward_B
  chex.assert_equal_shape([ref_logp_BT, inputs.logp_BT])
  chex.assert_shape([inputs.log_z_B, reward_B], inputs.logp_BT.shape[:1])
  return (
      jax.lax.stop_gradient(jnp.asarray(ref_logp_BT, jnp.float32)),
      jnp.asarray(inputs.log_z_B, jnp.float32),
      jax.lax.stop_gradient(jnp.asarray(reward_B, jnp.float32)))


def _zeroed(x_BT, mask_BT) -> jax.Array:
  """`x_BT` where the mask is True, else 0."""
  return jnp.where(mask_BT, x_BT, 0.0)


def _metrics(log_ratio_BT, mask_BT, own) -> Metrics:
  """Metrics over tokens: those of a loss's own and of the ratio."""
  ratio_BT = _exp(log_ratio_BT)
  return _means(
      own | {"ratio/mean": ratio_BT, "ratio/square_mean": ratio_BT**2},
      mask_BT)


def _means(quantities, mask) -> Metrics:
  """(sum, count) of each quantity, over real tokens or real rows."""
  count = jnp.sum(mask, dtype=jnp.float32)
  return {
      name: (ops.masked_sum(x, mask), count) for name, x in quantities.items()}
