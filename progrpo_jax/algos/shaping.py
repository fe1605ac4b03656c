"""What happens to rewards and groups before advantages are taken.

Length shaping is added to the reward; `keep_groups` says which groups teach
anything and is the filter of dynamic sampling. The verifier's verdict stays
as it was: pass@k and ARM ask it, not the shaped reward.
"""

import chex
import jax
import jax.numpy as jnp


def overlong_penalty(length_B, max_length: int, cache: int) -> jax.Array:
  """A penalty that grows over the last `cache` tokens before the limit.

  0 up to max_length - cache, then linear, -1 at max_length and beyond.

  See "DAPO" (https://arxiv.org/abs/2503.14476), eq. 13.

  Args:
    length_B: tokens of each response.
    max_length: the limit.
    cache: tokens over which the penalty grows, in [1, max_length].

  Returns:
    penalty_B in [-1, 0], float32.

  Raises:
    ValueError: `cache` is outside [1, max_length].
  """
  if not 1 <= cache <= max_length:
    raise ValueError(
        f"cache must lie in [1, max_length={max_length}], got {cache}")
  length_B = _lengths(length_B)
  return jnp.clip((max_length - cache - length_B) / cache, -1.0, 0.0)


def cosine_length(
    length_B, max_length: int, lo: float, hi: float) -> jax.Array:
  """A value that falls with length from `hi` to `lo` along half a cosine.

  lo + (hi - lo) / 2 * (1 + cos(pi * t / T)), t the length and T the maximum,
  beyond which it stays at `lo`. ProRL v2 adds a multiple of it to the reward,
  on and off in cycles.

  Args:
    length_B: tokens of each response.
    max_length: T, positive.
    lo: value at the maximum.
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
  that fail to terminate without giving the form; this one, with factor 0, is
  that of OpenRLHF's ProRL recipe. It leaves rewards <= 0 no worse off.

  Args:
    reward_B: rewards, any shape.
    finished_B: bool, responses that ended by themselves, the same shape.
    factor: in [0, 1]; 1 changes nothing.

  Returns:
    reward_B, float32.
  """
  reward_B = jnp.asarray(reward_B, jnp.float32)
  finished_B = jnp.asarray(finished_B)
  chex.assert_equal_shape([reward_B, finished_B])
  chex.assert_type(finished_B, bool)
  return jnp.where(finished_B, reward_B, factor * reward_B)


def keep_groups(
    reward_PG, *, keep_all_correct: bool = False, tol: float = 1e-6,
    valid_PG=None, correct_PG=None,
) -> jax.Array:
  """Groups that dynamic sampling keeps: those whose rewards differ.

  DAPO (https://arxiv.org/abs/2503.14476, eq. 11) keeps groups that are
  neither all right nor all wrong; for rewards in between, equal rewards carry
  no gradient either. Under ARM a group that is all right does teach, which
  `keep_all_correct` is for.

  Args:
    reward_PG: rewards.
    keep_all_correct: keeps groups in which every response is right.
    tol: rewards this close are equal.
    valid_PG: bool, responses that count; None for all. A group without any is
      dropped.
    correct_PG: bool, the verdicts; None takes a reward of 1 or more for right.

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
  low_P = jnp.min(reward_PG, axis=1, where=valid_PG, initial=jnp.inf)
  high_P = jnp.max(reward_PG, axis=1, where=valid_PG, initial=-jnp.inf)
  keep_P = high_P - low_P > tol
  if keep_all_correct:
    right_PG = (
        reward_PG >= 1.0 - tol if correct_PG is None
        else jnp.asarray(correct_PG, bool))
    keep_P |= jnp.all(right_PG | ~valid_PG, axis=1) & jnp.any(valid_PG, axis=1)
  return keep_P


def _lengths(length_B) -> jax.Array:
  """Lengths as float32, which holds every length below 16 million."""
  length_B = jnp.asarray(length_B, jnp.float32)
  chex.assert_rank(length_B, 1)
  return length_B
