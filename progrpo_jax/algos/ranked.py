"""Losses that rank or draw the tokens of a minibatch.

They have the attribute `whole`, and `losses` names them, which says what all
losses keep to.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import batch, ops
from progrpo_jax.algos import terms


def clip_cov(
  inputs: batch.LossInputs,
  *,
  key: jax.Array | None = None,
  share: float = 2e-4,
  cov_low: float = 1.0,
  cov_high: float = 5.0,
  epsilon: float = 0.2,
  epsilon_high: float = 0.2,
) -> tuple[jax.Array, terms.Metrics]:
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
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  loss_BT, clipped = terms.surrogate(
    terms.ratio(log_ratio_BT), adv_BT, epsilon, epsilon_high
  )
  cov_BT = _covariance(inputs, adv_BT, mask_BT)
  # Tokens the surrogate clips have no gradient already: dropping them would
  # use up the quota.
  candidate_BT = mask_BT & (cov_BT > cov_low) & (cov_BT < cov_high)
  candidate_BT &= ~clipped["clip_ratio/region_mean"]
  dropped_BT = _lowest(
    jax.random.uniform(key, mask_BT.shape), candidate_BT, _part(mask_BT, share)
  )
  return terms.zeroed(loss_BT, mask_BT & ~dropped_BT), terms.token_metrics(
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
) -> tuple[jax.Array, terms.Metrics]:
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
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  cov_BT = _covariance(inputs, adv_BT, mask_BT)
  high_BT = _lowest(-cov_BT, mask_BT, _part(mask_BT, share))
  # |x| is written x sg(sign x): jnp.abs has derivative 1 at 0, where every
  # token starts. No clamp, which would remove the gradient that pulls a token
  # back once it has moved far away.
  sign_BT = jax.lax.stop_gradient(jnp.sign(log_ratio_BT))
  penalty_BT = coef * jnp.where(high_BT, log_ratio_BT * sign_BT, 0.0)
  loss_BT = penalty_BT - terms.ratio(log_ratio_BT) * adv_BT
  return terms.zeroed(loss_BT, mask_BT), terms.token_metrics(
    log_ratio_BT,
    mask_BT,
    {
      "kl_cov/penalised": high_BT,
      "kl_cov/penalty": penalty_BT,
      "covariance/mean": cov_BT,
    },
  )


def high_entropy(
  inputs: batch.LossInputs,
  *,
  share: float = 0.2,
  epsilon: float = 0.2,
  epsilon_high: float = 0.28,
  dual_clip: float | None = None,
) -> tuple[jax.Array, terms.Metrics]:
  """The clipped surrogate on the tokens of highest entropy alone.

  loss_t is that of `losses.clip` for the ceil(share N) tokens, of N, at which
  the policy's entropy is highest, and 0, without a gradient, for all others.
  Few tokens of a thought are forks, at which the policy could go on in several
  ways; the others mostly finish what a fork began.

  The ranking is over the tokens in `inputs`, in training a minibatch, by the
  entropy under the policy that is trained, which gets no gradient through it.
  The paper's batch is the minibatch too; its released code ranks within a
  micro-batch, which makes the choice depend on the split. `token_mean` divides
  by all N tokens, as in TRL; the released code divides by the chosen ones,
  which is 1 / share times as much.

  See "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective
  Reinforcement Learning for LLM Reasoning" (https://arxiv.org/abs/2506.01939),
  section 5. Rounding up is from its released code. Nothing is left out.

  Args:
    inputs: minibatch; reads `logp_BT`, `old_logp_BT`, `mask_BT`, `entropy_BT`
      and the advantages.
    share: share of the tokens to learn from, in (0, 1].
    epsilon: distance of the lower clip bound from 1.
    epsilon_high: distance of the upper clip bound from 1.
    dual_clip: see `losses.clip`.

  Returns:
    loss_BT, float32, and metrics: over all tokens the `clip_ratio/*` of `clip`,
    before tokens are left out, and `high_entropy/kept`, the share of tokens
    that are learnt from; over these `high_entropy/entropy`, the mean of their
    entropies.

  Raises:
    ValueError: `inputs.entropy_BT` is None, `share` is outside (0, 1], or
      `dual_clip` is not above 1.
  """
  if inputs.entropy_BT is None:
    raise ValueError("high_entropy ranks tokens: it needs inputs.entropy_BT")
  log_ratio_BT, adv_BT, mask_BT = terms.masked_inputs(inputs)
  chex.assert_equal_shape([inputs.entropy_BT, mask_BT])
  loss_BT, clipped = terms.surrogate(
    terms.ratio(log_ratio_BT), adv_BT, epsilon, epsilon_high, dual_clip
  )
  entropy_BT = jax.lax.stop_gradient(
    terms.zeroed(jnp.asarray(inputs.entropy_BT, jnp.float32), mask_BT)
  )
  kept_BT = _lowest(-entropy_BT, mask_BT, _part(mask_BT, share, up=True))
  return terms.zeroed(loss_BT, kept_BT), terms.token_metrics(
    log_ratio_BT, mask_BT, clipped | {"high_entropy/kept": kept_BT}
  ) | terms.means({"high_entropy/entropy": entropy_BT}, kept_BT)


# Called with all tokens of a minibatch, see the docstring of `losses`.
clip_cov.whole = kl_cov.whole = high_entropy.whole = True


def _covariance(inputs, adv_BT, mask_BT) -> jax.Array:
  """Returns (log pi - mean)(A - mean) per token, means over real tokens."""
  logp_BT = jax.lax.stop_gradient(terms.masked_logp(inputs, mask_BT))
  cov_BT = (logp_BT - ops.masked_mean(logp_BT, mask_BT)) * (
    adv_BT - ops.masked_mean(adv_BT, mask_BT)
  )
  return terms.zeroed(cov_BT, mask_BT)


def _part(mask_BT, share, up: bool = False) -> jax.Array:
  """Returns a share of N real tokens, at least 1, as an int32 scalar.

  Args:
    mask_BT: bool, real tokens.
    share: share of them, in (0, 1].
    up: whether to round share * N up; otherwise it is rounded down.
  """
  if not 0 < share <= 1:
    raise ValueError(f"a share of tokens must lie in (0, 1], got {share}")
  tokens = jnp.sum(mask_BT, dtype=jnp.float32)
  # The factors undo rounding: 0.072 * 375 is a little below 27 in float32, and
  # 0.2 * 15 a little above 3.
  if up:
    count = jnp.ceil(share * tokens * (1 - 1e-6))
  else:
    count = jnp.floor(share * tokens * (1 + 1e-6))
  return jnp.maximum(count.astype(jnp.int32), 1)


def _lowest(score_BT, eligible_BT, count) -> jax.Array:
  """Returns a bool mask of the `count` eligible tokens of lowest score.

  By rank rather than by threshold, since random float32 scores have ties.
  """
  score_X = jnp.where(eligible_BT, score_BT, jnp.inf).ravel()
  rank_X = jnp.argsort(jnp.argsort(score_X))
  return eligible_BT & (rank_X.reshape(eligible_BT.shape) < count)
