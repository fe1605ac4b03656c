"""Reward shaping and group filtering before advantages are computed.

Length terms are added to the reward; `unlikeliness_reward` and what is made of
`ngram_similarity` weigh it, for the advantages of their names; `keep_groups` is
the filter of dynamic sampling. The verifier's verdict is not changed: pass@k
and ARM read the verdict, not the shaped reward.
"""

import chex
import jax
from jax import lax
import jax.numpy as jnp

from progrpo_jax import ops
from progrpo_jax.algos import terms

# Odd, with bits all over: multiplying by it spreads token ids over 32 bits.
_SPREAD = 0x9E3779B1


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

  A reward below 0 stays what it is: multiplied by a factor of 0, a wrong answer
  that was cut would be worth more than one that was finished.

  ProRL (https://arxiv.org/abs/2505.24864, appendix E) penalises responses
  that do not terminate but gives no formula; factor 0 is what OpenRLHF's ProRL
  recipe does, whose rewards are 0 or more.

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
  cut_B = jnp.minimum(reward_B, factor * reward_B)
  return jnp.where(finished_B, reward_B, cut_B)


def unlikeliness_reward(
  reward_PG, correct_PG, logp_PG, beta: float = 0.25, *, valid_PG=None
) -> jax.Array:
  """Lowers the reward of right responses, the more the likelier they are.

  R_i (1 - beta b_i / G) for right responses, where b_i of the group's G valid
  responses are less likely; a response of equal log-prob counts half.

  See "Rewarding the Unlikely" (https://arxiv.org/abs/2506.02355) and
  `advantages.unlikeliness`.

  Args:
    reward_PG: reward of each response.
    correct_PG: bool, the verifier's verdict.
    logp_PG: log-prob of each response.
    beta: share of the reward that the likeliest of very many would lose.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    reward_PG, float32.
  """
  reward_PG, valid_PG = terms.checked_rewards(reward_PG, valid_PG)
  correct_PG, _ = terms.checked_verdicts(correct_PG, valid_PG)
  logp_PG = lax.stop_gradient(jnp.asarray(logp_PG, jnp.float32))
  chex.assert_equal_shape([reward_PG, logp_PG])
  mine_PG1, other_P1G = logp_PG[..., None], logp_PG[:, None, :]
  # With itself, a response counts half too many.
  less_PGG = (other_P1G < mine_PG1) + 0.5 * (other_P1G == mine_PG1)
  below_PG = ops.masked_sum(less_PGG, valid_PG[:, None, :], axis=-1) - 0.5
  count_P1 = jnp.sum(valid_PG, axis=1, keepdims=True, dtype=jnp.float32)
  factor_PG = 1 - beta * below_PG / jnp.maximum(count_P1, 1)
  return jnp.where(correct_PG & valid_PG, reward_PG * factor_PG, reward_PG)


def ngram_similarity(tokens_PGT, mask_PGT, n: int = 3) -> jax.Array:
  """Cosine of the sets of n-grams of any two responses of a group.

  |A & B| / sqrt(|A| |B|) for the sets A and B of their different n-grams. There
  is one n-gram for each token that the policy wrote, which ends at it; places
  before the response, and tokens that the policy did not write, stand in it as
  one and the same blank. So a response of one token has an n-gram too. One
  without tokens is like none but itself.

  N-grams are compared by 32-bit numbers that are made of them. Of two different
  ones about one pair in 4e9 has the same number.

  Args:
    tokens_PGT: int32 tokens of the responses.
    mask_PGT: bool, tokens that the policy wrote.
    n: tokens of an n-gram, at least 1.

  Returns:
    similarity_PGG in [0, 1], float32, symmetric, with ones on the diagonal.

  Raises:
    ValueError: `n` is below 1.
  """
  if n < 1:
    raise ValueError(f"an n-gram has at least 1 token, got n = {n}")
  tokens_PGT, mask_PGT = jnp.asarray(tokens_PGT), jnp.asarray(mask_PGT)
  chex.assert_rank([tokens_PGT, mask_PGT], 3)
  chex.assert_equal_shape([tokens_PGT, mask_PGT])
  chex.assert_type(mask_PGT, bool)
  group, length = tokens_PGT.shape[1:]
  word_PGT = jnp.where(mask_PGT, tokens_PGT + 1, 0).astype(jnp.uint32)
  word_PGT = jnp.pad(word_PGT, ((0, 0), (0, 0), (n - 1, 0)))
  code_PGT = jnp.zeros(tokens_PGT.shape, jnp.uint32)
  for i in range(n):
    code_PGT = (code_PGT ^ word_PGT[..., i : i + length]) * jnp.uint32(_SPREAD)
    code_PGT ^= code_PGT >> 15

  def of_group(arrays):
    code_GT, mask_GT = arrays
    # Each response's n-grams in order, those of padding behind all others;
    # of equal ones the first counts.
    blank_GT, code_GT = lax.sort((~mask_GT, code_GT), dimension=1, num_keys=2)
    repeats_GT = jnp.pad(code_GT[:, 1:] == code_GT[:, :-1], ((0, 0), (1, 0)))
    counts_GT = ~blank_GT & ~repeats_GT
    size_G = jnp.sum(counts_GT, axis=1, dtype=jnp.float32)

    def shared(row):
      """Number of n-grams that each response shares with one of them."""
      code_T, blank_T = row
      # Padding repeats the last n-gram, so that the row stays in order.
      last = jnp.max(jnp.where(blank_T, 0, code_T))
      code_T = jnp.where(blank_T, last, code_T)
      place_GT = jnp.searchsorted(code_T, code_GT)
      hit_GT = code_T[jnp.minimum(place_GT, length - 1)] == code_GT
      return jnp.sum(hit_GT & counts_GT & ~blank_T[0], axis=1)

    overlap_GG = lax.map(shared, (code_GT, blank_GT))
    norm_GG = jnp.sqrt(size_G[:, None] * size_G[None, :])
    cosine_GG = overlap_GG / jnp.maximum(norm_GG, 1)
    return jnp.where(jnp.eye(group, dtype=bool), 1.0, cosine_GG)

  # Group by group and response by response: all pairs at once would take
  # [P, G, G, T].
  return lax.map(of_group, (code_PGT, mask_PGT))


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
    tol: largest difference of rewards that count as equal. Those that differ
      by rounding alone always do, as they do for the advantages.
    valid_PG: bool, responses with a verdict; None for all. A group without
      valid responses is dropped.
    correct_PG: bool, verdict on each response; None takes rewards of 1 or more
      as correct.

  Returns:
    keep_P, bool.
  """
  reward_PG, valid_PG = terms.checked_rewards(reward_PG, valid_PG)
  keep_P = terms.differ(reward_PG, valid_PG, tol)
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
