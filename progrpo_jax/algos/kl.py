"""Estimators of KL(policy || reference) from tokens that the policy sampled.

With d = log pi(y) - log pi_ref(y) at a sampled token y, each function returns
an estimate per token: k1 and k3 are unbiased for the KL when y comes from the
policy, k2 is not, but its gradient is the gradient of the KL. All are 0 where
the two agree, exactly so right after the reference was reset to the policy.

See "Approximating KL Divergence" by John Schulman
(http://joschu.net/blog/kl-approx.html); k3 is the penalty of GRPO
(https://arxiv.org/abs/2402.03300, eq. 4).
"""

import chex
import jax
import jax.numpy as jnp

# exp(20) is 5e8. Further apart than this a token says that something is
# broken, and one such token must not turn a batch into inf.
MAX_LOG_RATIO = 20.0


def k1(logp, ref_logp) -> jax.Array:
  """The log-ratio itself: unbiased, of either sign, of large variance.

  k1 = d. As a loss on sampled tokens it teaches nothing (the expectation of
  its gradient is 0); it is for logging and for penalties inside the reward.
  No clamp: it is finite whenever its arguments are.

  Args:
    logp: log-probs under the policy, any shape.
    ref_logp: log-probs under the reference, the same shape.

  Returns:
    One estimate per token, float32.
  """
  return _log_ratio(logp, ref_logp)


def k2(logp, ref_logp) -> jax.Array:
  """Half the squared log-ratio: never negative, of low variance, biased.

  k2 = d^2 / 2. No clamp: it is finite for every |d| < 1e19.

  Args:
    logp: log-probs under the policy, any shape.
    ref_logp: log-probs under the reference, the same shape.

  Returns:
    One estimate per token, float32.
  """
  return 0.5 * _log_ratio(logp, ref_logp) ** 2


def k3(logp, ref_logp) -> jax.Array:
  """Unbiased and never negative: the penalty of GRPO.

  k3 = exp(-d) - 1 + d, that is pi_ref/pi - log(pi_ref/pi) - 1. d is clamped
  to [-20, 20], beyond which the gradient is 0, so that exp cannot overflow;
  the value itself is not clamped, since it is also what gets logged.

  Args:
    logp: log-probs under the policy, any shape.
    ref_logp: log-probs under the reference, the same shape.

  Returns:
    One estimate per token, float32.
  """
  d = jnp.clip(_log_ratio(logp, ref_logp), -MAX_LOG_RATIO, MAX_LOG_RATIO)
  # expm1 keeps the digits that 1 would swallow: near a fresh reference d is
  # about 1e-4, and k3 about 5e-9.
  return jnp.expm1(-d) + d


def _log_ratio(logp, ref_logp) -> jax.Array:
  """log pi - log pi_ref per token, in float32."""
  logp = jnp.asarray(logp, jnp.float32)
  ref_logp = jnp.asarray(ref_logp, jnp.float32)
  chex.assert_equal_shape([logp, ref_logp])
  return logp - ref_logp
