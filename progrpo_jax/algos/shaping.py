"""Reward shaping and group filtering before advantages are computed.

Length terms are added to the reward; `keep_groups` is the filter of dynamic
sampling. The verifier's verdict is not changed: pass@k and ARM read the
verdict, not the shaped reward.
"""

import chex
import jax
import jax.numpy as jnp


def overlong_penalty(length_B, max_length: int, cache: int) -> jax.Array:
  """Penalty that grows over the last `cache` tokens before the limit.

  0 up to max_length - cache tokens, then linear, -1 from max_length on.

  See "DAPO" (https://arxiv.org/abs/2503.14476), eq. 13.

  Args:
    length_B: tokens of each response.
    max_length: length limit in tokens.
    cache: number of tokens over which the penalty grows, in [1, max_length].

  Returns:
    penalty_B in [-1, 0], float32.

  Raises:
    ValueError: `cache` is outside [1, max_length].
  """
  if not 1 <= cache <= max_length:
    raise ValueError(
      f"cache must lie in [1, max_length={max_length}], got {cache}"
    )
  length_B = _lengths(length_B)
  return jnp.clip((max_length - cache - length_B) / cache, -1.0, 0.0)


def cosine_length(length_B, max_length: int, lo: float, hi: float) -> jax.Array:
  """Length term that falls from `hi` to `lo` along half a cosine.

  lo + (hi - lo) / 2 * (1 + cos(pi * t / T)) for a length t up to T, and `lo`
  beyond. ProRL v2 adds a multiple of it to the reward, in cycles (see
  `control.cycle_on`).

  Args:
    length_B: tokens of each response.
    max_length: T in tokens, positive.
    lo: value at length T.
    hi: value at length 0.

  Returns:
    value_B, float32.

  Raises:
    ValueError: `max_length` is not positive.
  """
  if max_length <= 0:
    raise ValueError(f"max_length must be positive, got {max_length}")
  share_B = jnp.clip(_lengths(length_B) / max_length, 0.0, 1.0)
  return lo + 0.5 * (hi - lo) * (1.0 + jnp.cos(jnp.pi * share_B))


def truncated_reward(reward_B, finished_B, factor: float = 0.0) -> jax.Array:
  """Multiplies the reward of responses that did not stop by `factor`.

  ProRL (https://arxiv.org/abs/2505.24864, appendix E) penalises responses
  that do not terminate but gives no formula; factor 0 is what OpenRLHF's ProRL
  recipe does. Rewards <= 0 do not get worse.

  Args:
    reward_B: reward of each response, any shape.
    finished_B: bool, responses that ended with a stop token, the same shape.
    factor: multiplier in [0, 1]; 1 changes nothing.

  Returns:
    reward_B, float32.
  """
  reward_B = jnp.asarray(reward_B, jnp.float32)
  finished_B = jnp.asarray(finished_B)
  chex.assert_equal_shape([reward_B, finished_B])
  chex.assert_type(finished_B, bool)
  return jnp.where(finished_B, reward_B, factor * reward_B)


def keep_groups(
  reward_PG,
  *,
  keep_all_correct: bool = False,
  tol: float = 1e-6,
  valid_PG=None,
  correct_PG=None,
) -> jax.Array:
  """Which groups dynamic sampling keeps: groups whose rewards differ.

  DAPO (https://arxiv.org/abs/2503.14476, eq. 11) keeps groups that are
  neither all correct nor all wrong. This rule also covers fractional rewards,
  whose groups have no gradient either if all rewards are equal. Under ARM an
  all-correct group does have a gradient: set `keep_all_correct`.

  Args:
    reward_PG: reward of each response.
    keep_all_correct: whether to keep groups in which every response is
      correct.
    tol: largest difference of rewards that count as equal.
    valid_PG: bool, responses with a verdict; None for all. A group without
      valid responses is dropped.
    correct_PG: bool, verdict on each response; None takes rewards of 1 or more
      as correct.

  Returns:
    keep_P, bool.
  """
  reward_PG = jnp.asarray(reward_PG, jnp.float32)
  chex.assert_rank(reward_PG, 2)
  if valid_PG is None:
    valid_PG = jnp.ones_like(reward_PG, bool)
  valid_PG = jnp.asarray(valid_PG)
  chex.assert_type(valid_PG, bool)
  chex.assert_equal_shape([reward_PG, valid_PG])
  # Without valid responses low is inf and high -inf: not different.
  low_P = jnp.min(reward_PG, axis=1, where=valid_PG, initial=jnp.inf)
  high_P = jnp.max(reward_PG, axis=1, where=valid_PG, initial=-jnp.inf)
  keep_P = high_P - low_P > tol
  if keep_all_correct:
    right_PG = (
      reward_PG >= 1.0 - tol
      if correct_PG is None
      else jnp.asarray(correct_PG, bool)
    )
    keep_P |= jnp.all(right_PG | ~valid_PG, axis=1) & jnp.any(valid_PG, axis=1)
  return keep_P


def _lengths(length_B) -> jax.Array:
  """Converts lengths to float32, exact below 16 million."""
  length_B = jnp.asarray(length_B, jnp.float32)
  chex.assert_rank(length_B, 1)
  return length_B
