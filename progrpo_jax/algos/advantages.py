"""Advantages from the rewards of groups of responses.

Each function maps the rewards of P groups of G responses to advantages of the
same shape. Rewards are compared within a group, by `reinforce_pp` and `gdpo`
also within the whole batch. Where the compared rewards are all equal, the
advantage is exactly 0: a rounding error is never divided by a spread that is
itself a rounding error. Rewards are data, so no gradient passes through these
functions.

What a function reads, it says by the names of its arguments: rewards, verdicts,
log-probs, tokens or the single terms of a reward. `learn.advantage` has the
list; a function of the user's own gets the same.

The keyword `valid_PG` (bool) marks responses with a verdict. A response whose
verification failed (a verifier that was killed, for example) is unknown, not
wrong: it is left out of means, spreads and counts, and its advantage is 0,
whatever its reward.

Papers: GRPO, https://arxiv.org/abs/2402.03300; Dr. GRPO,
https://arxiv.org/abs/2503.20783; RLOO, https://arxiv.org/abs/2402.14740;
REINFORCE++, https://arxiv.org/abs/2501.03262. The others, most of them made
against a policy that forgets rare right answers: MaxRL,
https://arxiv.org/abs/2602.02710; Pass@k training,
https://arxiv.org/abs/2508.10751; UCPO, https://arxiv.org/abs/2605.00365;
unlikeliness, https://arxiv.org/abs/2506.02355; F-GRPO,
https://arxiv.org/abs/2602.06717; DRA-GRPO, https://arxiv.org/abs/2505.09655;
QAE, https://arxiv.org/abs/2509.22611; NSR, https://arxiv.org/abs/2506.01347;
GDPO, https://arxiv.org/abs/2601.05242.

The file is long because a config names its functions by this one module.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops
from progrpo_jax.algos import shaping, terms


def grpo(reward_PG, eps: float = 1e-6, *, valid_PG=None) -> jax.Array:
  """Standardises rewards within each group.

  A_i = (R_i - mean_j R_j) / (sigma_j R_j + eps), with the population standard
  deviation (divisor G). Frameworks built on torch.std divide by G - 1, so
  their advantages are smaller by a factor sqrt((G - 1) / G).

  See "DeepSeekMath" (https://arxiv.org/abs/2402.03300), section 4.1.2. Process
  supervision is not implemented.

  Args:
    reward_PG: reward of each response.
    eps: added to the standard deviation.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, valid_PG = _centre(reward_PG, valid_PG)
  variance_P1 = ops.masked_mean(centred_PG**2, valid_PG, axis=1)[:, None]
  return centred_PG / (jnp.sqrt(variance_P1) + eps)


def dr_grpo(reward_PG, *, valid_PG=None) -> jax.Array:
  """Centres rewards within each group without rescaling them.

  A_i = R_i - mean_j R_j. Dividing by the standard deviation would give extra
  weight to groups that are almost all correct or almost all wrong.

  See "Understanding R1-Zero-Like Training: A Critical Perspective"
  (https://arxiv.org/abs/2503.20783).

  Args:
    reward_PG: reward of each response.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, _ = _centre(reward_PG, valid_PG)
  return centred_PG


def rloo(reward_PG, *, valid_PG=None) -> jax.Array:
  """Subtracts from each reward the mean of the group's other rewards.

  A_i = R_i - 1/(G-1) sum_{j != i} R_j = G/(G-1) (R_i - mean_j R_j). The only
  valid response of a group has advantage 0.

  See "Back to Basics: Revisiting REINFORCE Style Optimization"
  (https://arxiv.org/abs/2402.14740).

  Args:
    reward_PG: reward of each response.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  centred_PG, valid_PG = _centre(reward_PG, valid_PG)
  count_P1 = jnp.sum(valid_PG, axis=1, keepdims=True, dtype=jnp.float32)
  return centred_PG * count_P1 / jnp.maximum(count_P1 - 1, 1)


def reinforce_pp(
  reward_PG, eps: float = 1e-6, baseline: bool = False, *, valid_PG=None
) -> jax.Array:
  """Standardises rewards over the whole batch.

  A_i = (R_i - mean_batch R) / (sigma_batch R + eps), with the population
  standard deviation. With `baseline`, R_i is replaced by R_i - mean_group R,
  whose mean over the batch is 0 and is not subtracted again; a group of equal
  rewards then has advantage exactly 0.

  All groups share one scale, so a group that is almost all correct does not
  get the large advantages that dividing by its own deviation would give it.

  See "REINFORCE++" (https://arxiv.org/abs/2501.03262); ProRL v2 uses it with
  `baseline`. Every response counts once; implementations that standardise
  token by token weight responses by length. The paper's KL penalty inside the
  reward is left to the caller.

  Args:
    reward_PG: reward of each response.
    eps: added to the standard deviation.
    baseline: whether to subtract the group's mean first.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  if baseline:
    centred_PG, valid_PG = _centre(reward_PG, valid_PG)
    variance = ops.masked_mean(centred_PG**2, valid_PG)
    return centred_PG / (jnp.sqrt(variance) + eps)
  reward_PG, valid_PG = terms.checked_rewards(reward_PG, valid_PG)
  # The whole batch is treated as one group.
  adv_1B = grpo(reward_PG.reshape(1, -1), eps, valid_PG=valid_PG.reshape(1, -1))
  return adv_1B.reshape(reward_PG.shape)


def maxrl(reward_PG, *, valid_PG=None) -> jax.Array:
  """Centres rewards within each group and divides them by the group's mean.

  A_i = (R_i - mean_j R_j) / mean_j R_j, and 0 in a group whose mean is not
  above 0. With rewards of 0 and 1 this maximises the log of the pass rate in
  the place of the pass rate itself, as far as G samples can tell: a problem
  that is solved with probability p weighs 1 / p.

  See "Maximum Likelihood Reinforcement Learning"
  (https://arxiv.org/abs/2602.02710); the formula is that of its released code,
  without the 1e-6 which that adds to the mean. Rewards are meant to be at least
  0: the mean of signed rewards is no pass rate.

  Args:
    reward_PG: reward of each response.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  reward_PG, valid_PG = terms.checked_rewards(reward_PG, valid_PG)
  centred_PG, _ = _centre(reward_PG, valid_PG)
  mean_P1 = ops.masked_mean(reward_PG, valid_PG, axis=1)[:, None]
  return jnp.where(
    mean_P1 > 0, centred_PG / jnp.where(mean_P1 > 0, mean_P1, 1.0), 0.0
  )


def passk(correct_PG, k: int, *, valid_PG=None) -> jax.Array:
  """Advantages under the reward of k responses together: is one of them right?

  With N valid responses, N- of them wrong, the reward of a random k of them has
  mean R = 1 - C(N-, k) / C(N, k) and deviation sigma = sqrt(R (1 - R)). A
  response has the mean advantage of all sets of k that it is in:

    A+ = (1 - R) / sigma
    A- = (1 - R - C(N- - 1, k - 1) / C(N - 1, k - 1)) / sigma

  Both are 0 where sigma is 0: without a right response, where every set has
  one, and where fewer than k responses are valid. The advantages of a group sum
  to 0. k = 1 is GRPO on verdicts.

  See "Pass@k Training" (https://arxiv.org/abs/2508.10751), its analytical form;
  the released code adds 1e-6 to sigma. Its sampled forms are left out.

  Args:
    correct_PG: bool, the verifier's verdict.
    k: number of responses that are judged together, in [1, G].
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.

  Raises:
    ValueError: `k` is outside [1, G].
  """
  correct_PG, valid_PG = terms.checked_verdicts(correct_PG, valid_PG)
  if not 1 <= k <= correct_PG.shape[1]:
    raise ValueError(f"k must lie in [1, G={correct_PG.shape[1]}], got {k}")
  total_P = jnp.sum(valid_PG, axis=1, dtype=jnp.float32)
  wrong_P = jnp.sum(valid_PG & ~correct_PG, axis=1, dtype=jnp.float32)
  fail_P = _choose_ratio(wrong_P, total_P, k)
  spread_P = jnp.sqrt(fail_P * (1 - fail_P))
  with_wrong_P = fail_P - _choose_ratio(wrong_P - 1, total_P - 1, k - 1)
  adv_PG = jnp.where(correct_PG, fail_P[:, None], with_wrong_P[:, None])
  known_PG = valid_PG & ((spread_P > 0) & (total_P >= k))[:, None]
  scale_P1 = jnp.where(spread_P > 0, spread_P, 1.0)[:, None]
  return jnp.where(known_PG, adv_PG / scale_P1, 0.0)


def ucpo(
  reward_PG,
  correct_PG,
  mean_logp_PG,
  tau: float = 0.2,
  eps: float = 1e-6,
  *,
  valid_PG=None,
) -> jax.Array:
  """Shares out the advantage of a group's right responses anew.

  With GRPO's A_i and the n right responses of a group,

    A~_i = A_i n ((1 - tau) / n + tau (1 / q_i) / sum_j (1 / q_j))

  where q is the softmax over the right responses of the mean log-prob of a
  token. Right responses that the policy thinks unlikely gain what likely ones
  lose; with equal rewards their sum is kept. Wrong responses keep A_i. In a
  group that is right throughout A_i is 0, and nothing is shared out.

  See "Uniform-Correct Policy Optimization" (https://arxiv.org/abs/2605.00365);
  formula and tau are those of its released code. That code has the sample
  deviation in A_i, takes rewards above 0 as right, gives all right responses
  the A of the first, and bounds q below by 1e-6.

  Args:
    reward_PG: reward of each response.
    correct_PG: bool, the verifier's verdict.
    mean_logp_PG: mean log-prob of a response's tokens under the policy.
    tau: share that is weighted by 1 / q, in [0, 1]; 0 is GRPO.
    eps: added to the standard deviation.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  adv_PG = grpo(reward_PG, eps, valid_PG=valid_PG)
  correct_PG, valid_PG = terms.checked_verdicts(correct_PG, valid_PG)
  mean_logp_PG = jax.lax.stop_gradient(jnp.asarray(mean_logp_PG, jnp.float32))
  chex.assert_equal_shape([adv_PG, correct_PG, mean_logp_PG])
  right_PG = correct_PG & valid_PG
  count_P1 = jnp.sum(right_PG, axis=1, keepdims=True, dtype=jnp.float32)
  # 1 / q_i is exp(-l_i) up to a factor of the group: normalised, a softmax.
  share_PG = jax.nn.softmax(-mean_logp_PG, axis=1, where=right_PG)
  weight_PG = (1 - tau) + tau * count_P1 * share_PG
  return jnp.where(right_PG, adv_PG * weight_PG, adv_PG)


def unlikeliness(
  reward_PG,
  correct_PG,
  logp_PG,
  beta: float = 0.25,
  eps: float = 1e-6,
  *,
  valid_PG=None,
) -> jax.Array:
  """GRPO on rewards that fall with the rank of a right response's probability.

  R_i (1 - beta (G - rank_i) / G) for right responses, where the likeliest
  response of the group has rank 1 and the least likely rank G; wrong ones keep
  R_i. Responses of equal log-prob share the mean of their ranks. In a group
  that is right throughout, rare responses still have positive advantages.

  See "Rewarding the Unlikely" (https://arxiv.org/abs/2506.02355); rank and beta
  are those of its released code, which ranks by the mean log-prob of a token,
  where the paper speaks of the response's probability: pass either. It ranks
  all responses of a group, as this does, and leaves ties in any order. The rest
  of its recipe (several updates a batch, theorem proving) is left out.

  Args:
    reward_PG: reward of each response.
    correct_PG: bool, the verifier's verdict.
    logp_PG: log-prob of each response under the policy.
    beta: share of its reward that the likeliest of very many would lose.
    eps: added to the standard deviation.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  correct_PG, valid_PG = terms.checked_verdicts(correct_PG, valid_PG)
  shaped_PG = shaping.unlikeliness_reward(
    reward_PG, correct_PG, logp_PG, beta, valid_PG=valid_PG
  )
  return grpo(shaped_PG, eps, valid_PG=valid_PG)


def focal(
  reward_PG, correct_PG, gamma: float = 0.5, eps: float = 1e-6, *, valid_PG=None
) -> jax.Array:
  """GRPO, with a weight of each group that falls with its success rate.

  A_i (1 - p)^gamma, where p is the share of right responses. Groups that are
  nearly solved, in which only the common right answers are seen, weigh least.

  See "F-GRPO" (https://arxiv.org/abs/2602.06717). The formula is from its
  abstract and a summary; the default of gamma is this project's.

  Args:
    reward_PG: reward of each response.
    correct_PG: bool, the verifier's verdict.
    gamma: exponent, at least 0; 0 is GRPO.
    eps: added to the standard deviation.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  adv_PG = grpo(reward_PG, eps, valid_PG=valid_PG)
  correct_PG, valid_PG = terms.checked_verdicts(correct_PG, valid_PG)
  chex.assert_equal_shape([adv_PG, correct_PG])
  rate_P1 = ops.masked_mean(correct_PG, valid_PG, axis=1)[:, None]
  return adv_PG * (1 - rate_P1) ** gamma


def dra(
  reward_PG,
  tokens_PGT,
  mask_PGT,
  n: int = 3,
  eps: float = 1e-6,
  *,
  valid_PG=None,
) -> jax.Array:
  """GRPO on rewards that are divided by how much of its group a response is.

  R_i / sum_j s_ij, where s_ij in [0, 1] is the similarity of two valid
  responses and s_ii = 1. Of m equal right responses each has at most R / m. In
  a group that is right throughout, rare responses still have positive
  advantages.

  See "DRA-GRPO" (https://arxiv.org/abs/2505.09655) and its released code, which
  adds 1e-6 to the sum. Its s is the cosine of embeddings of the texts, by a
  model made for that. Ours is a stand-in: the cosine of the sets of their
  n-grams of token ids (`shaping.ngram_similarity`), which knows wording alone.
  It is 0 where no n-gram is shared and thus spreads wider than an embedding's.

  Args:
    reward_PG: reward of each response, at least 0: dividing a penalty by the
      number of responses that share it would make it smaller.
    tokens_PGT: int32 tokens of the responses.
    mask_PGT: bool, tokens that the policy wrote.
    n: tokens of an n-gram, at least 1.
    eps: added to the standard deviation.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  reward_PG, valid_PG = terms.checked_rewards(reward_PG, valid_PG)
  similarity_PGG = shaping.ngram_similarity(tokens_PGT, mask_PGT, n)
  chex.assert_equal_shape_prefix([reward_PG, similarity_PGG], 2)
  size_PG = ops.masked_sum(similarity_PGG, valid_PG[:, None, :], axis=-1)
  return grpo(reward_PG / jnp.maximum(size_PG, 1.0), eps, valid_PG=valid_PG)


def quantile(
  reward_PG,
  k: float = 0.4,
  eps: float = 1e-6,
  interpolate: bool = False,
  *,
  valid_PG=None,
) -> jax.Array:
  """Standardises rewards by a quantile of their group in the place of its mean.

  A_i = (R_i - Q_k) / (sigma_j R_j + eps), where Q_k is the smallest reward of
  the group that at least the share k of its rewards does not exceed. With
  rewards of 0 and 1 and a success rate p <= 1 - k, Q_k is 0 and only the right
  responses teach; above that it is 1 and only the wrong ones do.

  See "Quantile Advantage Estimation" (https://arxiv.org/abs/2509.22611). The
  two regimes are those of its abstract. The released code calls torch.quantile,
  which interpolates between neighbouring rewards (`interpolate`): a group whose
  rewards change near k then teaches by both kinds of response.

  Args:
    reward_PG: reward of each response.
    k: share in (0, 1].
    eps: added to the population standard deviation.
    interpolate: whether to interpolate linearly between rewards.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.

  Raises:
    ValueError: `k` is outside (0, 1].
  """
  if not 0 < k <= 1:
    raise ValueError(f"k must lie in (0, 1], got {k}")
  centred_PG, valid_PG = _centre(reward_PG, valid_PG)
  # Sort centred rewards: where all are equal they are exactly 0, and so is the
  # advantage.
  ascending_PG = jnp.sort(jnp.where(valid_PG, centred_PG, jnp.inf), axis=1)
  last_P1 = jnp.sum(valid_PG, axis=1, keepdims=True, dtype=jnp.float32) - 1
  if interpolate:
    place_P1 = k * last_P1
  else:
    # 0.4 * 5 is slightly above 2 in binary, which a plain ceil would make 3.
    place_P1 = jnp.ceil(k * (last_P1 + 1) * (1 - 1e-6)) - 1
  place_P1 = jnp.clip(place_P1, 0.0, jnp.maximum(last_P1, 0.0))
  below_P1 = jnp.floor(place_P1)

  def at(index_P1):
    return jnp.take_along_axis(ascending_PG, index_P1.astype(jnp.int32), axis=1)

  low_P1, high_P1 = at(below_P1), at(jnp.ceil(place_P1))
  base_P1 = jnp.where(
    high_P1 > low_P1,
    low_P1 + (place_P1 - below_P1) * (high_P1 - low_P1),
    low_P1,
  )
  variance_P1 = ops.masked_mean(centred_PG**2, valid_PG, axis=1)[:, None]
  adv_PG = (centred_PG - base_P1) / (jnp.sqrt(variance_P1) + eps)
  return jnp.where(valid_PG, adv_PG, 0.0)


def nsr(
  reward_PG, correct_PG, weight: float = 0.1, *, valid_PG=None
) -> jax.Array:
  """REINFORCE on verdicts, in which right responses count little.

  A_i = weight R_i for right responses and R_i - 1 for wrong ones: with rewards
  of 1 and 0, `weight` and -1. Nothing is compared within a group, so that a
  group that is wrong throughout teaches too, by -1 each. `weight` 0 is the
  paper's NSR, which learns from wrong responses alone; its variant with a
  small weight is called Weighted-REINFORCE.

  See "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning"
  (https://arxiv.org/abs/2506.01347). The formula is that of its released code,
  for rewards of 1 and 0; the paper writes +1 and -1. Its NSR leaves right
  responses out of the batch; here they have the advantage 0 in it.

  Args:
    reward_PG: reward of each response, at most 1.
    correct_PG: bool, the verifier's verdict.
    weight: weight of right responses, lambda in the paper.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  reward_PG, valid_PG = terms.checked_rewards(reward_PG, valid_PG)
  correct_PG, valid_PG = terms.checked_verdicts(correct_PG, valid_PG)
  chex.assert_equal_shape([reward_PG, correct_PG])
  adv_PG = jnp.where(correct_PG, weight * reward_PG, reward_PG - 1)
  return jnp.where(valid_PG, adv_PG, 0.0)


def gdpo(
  components_PGJ, weights_PJ=None, eps: float = 1e-6, *, valid_PG=None
) -> jax.Array:
  """Standardises each term of a reward in its group, then their sum.

  A_i = sum_j w_j (r_ij - mean_i r_ij) / (sigma_i r_ij + eps), with means and
  population deviations over the group, divided by the deviation of these sums
  over the batch, plus eps. Terms that differ in scale, or that several
  responses reach in different ways, stay apart, where GRPO would see one
  sum. The mean of the sums over the batch is 0 and is not subtracted again.

  See "GDPO" (https://arxiv.org/abs/2601.05242) and its released code, which has
  sample deviations and an eps of 1e-4, and reads NaN as a reward of 0. Here a
  response of which a term has no opinion (NaN) is left out of that term. With a
  single term this is GRPO with one more scale for the whole batch.

  Args:
    components_PGJ: terms of each response's reward; NaN for no opinion.
    weights_PJ: weight of each term; None weighs all 1.
    eps: added to the standard deviations.
    valid_PG: bool, responses with a verdict; None for all.

  Returns:
    adv_PG, float32.
  """
  components_PGJ = jnp.asarray(components_PGJ, jnp.float32)
  chex.assert_rank(components_PGJ, 3)
  size, group, num_terms = components_PGJ.shape
  _, valid_PG = terms.checked_rewards(jnp.zeros((size, group)), valid_PG)
  if weights_PJ is None:
    weights_PJ = jnp.ones((size, num_terms))
  weights_PJ = jnp.asarray(weights_PJ, jnp.float32)
  chex.assert_shape(weights_PJ, (size, num_terms))
  known_PGJ = valid_PG[..., None] & ~jnp.isnan(components_PGJ)
  each_PGJ = jax.vmap(
    lambda r_PG, v_PG: grpo(r_PG, eps, valid_PG=v_PG), in_axes=2, out_axes=2
  )(components_PGJ, known_PGJ)
  sum_PG = jnp.sum(weights_PJ[:, None, :] * each_PGJ, axis=-1)
  variance = ops.masked_mean(sum_PG**2, valid_PG)
  return sum_PG / (jnp.sqrt(variance) + eps)


def _choose_ratio(few_P, many_P, k: int) -> jax.Array:
  """C(few, k) / C(many, k) as a product, without large numbers.

  0 where `few` is less than k, which is also the case where `many` is.
  """
  ratio_P = jnp.ones_like(few_P)
  for i in range(k):
    ratio_P *= jnp.maximum(few_P - i, 0) / jnp.maximum(many_P - i, 1)
  return ratio_P


def _centre(reward_PG, valid_PG) -> tuple[jax.Array, jax.Array]:
  """Returns rewards minus their group's mean, and the mask of valid ones.

  Exactly 0 in groups of equal rewards and at invalid responses.
  """
  reward_PG, valid_PG = terms.checked_rewards(reward_PG, valid_PG)
  differ_P1 = terms.differ(reward_PG, valid_PG)[:, None]
  mean_P1 = ops.masked_mean(reward_PG, valid_PG, axis=1)[:, None]
  centred_PG = jnp.where(valid_PG & differ_P1, reward_PG - mean_P1, 0.0)
  return centred_PG, valid_PG
