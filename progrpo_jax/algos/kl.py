"""Estimators of KL(policy || reference) from tokens that the policy sampled.

With d = log pi(y) - log pi_ref(y) at a sampled token y, each function returns
an estimate per token. If y was sampled from the policy, k1 and k3 are unbiased
estimates of the KL; k2 is biased, but its expected gradient is the KL's. All
are 0 where the two policies agree, and exactly 0 right after the reference was
reset to the policy.

See "Approximating KL Divergence" by John Schulman
(http://joschu.net/blog/kl-approx.html); k3 is the penalty of GRPO
(https://arxiv.org/abs/2402.03300, eq. 4).
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax.algos import terms


def k1(logp, ref_logp) -> jax.Array:
  """The log-ratio: unbiased, positive or negative, with a large variance.

  k1 = d. It is useless as a loss on sampled tokens (its expected gradient is
  0); use it for logging and for penalties inside the reward. No clamp: it is
  finite whenever its arguments are.

  Args:
    logp: log-probs under the policy, any shape.
    ref_logp: log-probs under the reference, the same shape.

  Returns:
    One estimate per token, float32.
  """
  return _log_ratio(logp, ref_logp)


def k2(logp, ref_logp) -> jax.Array:
  """Half the squared log-ratio: biased, never negative, low variance.

  k2 = d^2 / 2. No clamp: it is finite for every |d| < 1e19.

  Args:
    logp: log-probs under the policy, any shape.
    ref_logp: log-probs under the reference, the same shape.

  Returns:
    One estimate per token, float32.
  """
  return 0.5 * _log_ratio(logp, ref_logp) ** 2


def k3(logp, ref_logp) -> jax.Array:
  """The penalty of GRPO: unbiased and never negative.

  k3 = exp(-d) - 1 + d, that is pi_ref/pi - log(pi_ref/pi) - 1. d is clamped
  to [-20, 20] (gradient 0 outside) so that exp cannot overflow. The result is
  not clamped further, since it is logged as well.

  Args:
    logp: log-probs under the policy, any shape.
    ref_logp: log-probs under the reference, the same shape.

  Returns:
    One estimate per token, float32.
  """
  # One broken token must not turn the whole batch's KL into inf.
  d = terms.clamp(_log_ratio(logp, ref_logp))
  # exp(-d) - 1 would lose all digits in float32: shortly after a reset d is
  # about 1e-4 and k3 about 5e-9.
  return jnp.expm1(-d) + d


def _log_ratio(logp, ref_logp) -> jax.Array:
  """Returns log pi - log pi_ref per token, in float32."""
  logp = jnp.asarray(logp, jnp.float32)
  ref_logp = jnp.asarray(ref_logp, jnp.float32)
  chex.assert_equal_shape([logp, ref_logp])
  return logp - ref_logp
