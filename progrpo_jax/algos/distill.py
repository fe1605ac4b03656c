"""On-policy distillation: a teacher's log-probs as advantages of tokens."""

import chex
import jax
from jax import lax
import jax.numpy as jnp


def advantage(
  logp_BT, teacher_logp_BT, mask_BT, *, coef: float = 1.0, discount: float = 0.0
) -> jax.Array:
  """How much likelier the teacher finds each token than the policy does.

  A_t = coef sum_{s >= t} discount^(s - t) (log pi_teacher(o_s) - log pi(o_s)),
  over the tokens s that the policy wrote. log pi - log pi_teacher at a token
  that the policy sampled is an unbiased estimate of the reverse KL
  KL(pi || pi_teacher) at that token, so that a step along A lowers it. The
  estimate is of the sampled token alone, as the field has it: the KL over the
  whole vocabulary has less variance, and would need all log-probs of both.

  Discount 0 asks for each token to be likely by itself; with 1 it answers for
  all that it leads to, the gradient of the KL of whole responses. There is no
  baseline and no division by a spread: the scale is in nats.

  See "On-Policy Distillation" by Thinking Machines
  (https://thinkingmachines.ai/blog/on-policy-distillation/), whose discount is
  0, and "MiniLLM" (https://arxiv.org/abs/2306.08543).

  Args:
    logp_BT: log-probs under the policy before its update.
    teacher_logp_BT: log-probs under the teacher.
    mask_BT: bool, tokens that the policy wrote; what stands at others, NaN
      included, counts for nothing.
    coef: weight.
    discount: factor of the sum over the tokens that follow, in [0, 1].

  Returns:
    A_t, float32, 0 at masked tokens.

  Raises:
    ValueError: `discount` is outside [0, 1].
  """
  if not 0 <= discount <= 1:
    raise ValueError(f"discount must lie in [0, 1], got {discount}")
  mask_BT = jnp.asarray(mask_BT, bool)
  chex.assert_rank(mask_BT, 2)
  chex.assert_equal_shape([logp_BT, teacher_logp_BT, mask_BT])
  gap_BT = jnp.where(
    mask_BT,
    jnp.asarray(teacher_logp_BT, jnp.float32)
    - jnp.asarray(logp_BT, jnp.float32),
    0.0,
  )
  if discount:

    def add(sum_B, gap_B):
      sum_B = gap_B + discount * sum_B
      return sum_B, sum_B

    zeros_B = jnp.zeros(gap_BT.shape[0], jnp.float32)
    _, sum_TB = lax.scan(add, zeros_B, gap_BT.T, reverse=True)
    gap_BT = jnp.where(mask_BT, sum_TB.T, 0.0)
  return lax.stop_gradient(coef * gap_BT)
