"""ARM, the Advantage Re-weighting Mechanism of ProGRPO.

In groups with at least one correct response, ARM shifts each advantage by the
policy's confidence in the prompt minus its confidence in the response:

  A~_i = A_i                                if no response is correct
  A~_i = A_i + alpha (c(q) - c(o_i | q))    otherwise

Among correct answers, rare ones gain and frequent ones lose, so probability
spreads over all correct answers. Note that a group in which every response is
correct has A_i = 0: there ARM is the only gradient. Since every c lies in
(0, 1], no advantage changes by more than alpha.

The paper's condition is that the rewards of the group do not sum to 0. This
module tests the verifier's bool verdict instead: rewards in {-1, +1} sum to 0
in a group that is half correct, and shaped rewards hardly ever sum to 0.

See "ProGRPO" (https://arxiv.org/abs/2602.05281). The paper does not say which
tokens of the prompt count, how the tokens of a response are ranked, which
responses of an active group are shifted, or the value of alpha; each is an
argument here.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops
from progrpo_jax.algos import terms

ACTIVE = ("any_correct", "mixed", "all_correct")
APPLY_TO = ("all", "correct", "wrong")


def answer_confidence(
  logp_BT, mask_BT, low_prob_share: float = 0.2, *, entropy_BT=None
) -> jax.Array:
  """Confidence in each response, over its least probable tokens.

  c(o|q) = exp(1/|T_low| sum_{t in T_low} log p(o_t | q, o_<t)), where T_low
  are the ceil(low_prob_share * |o|) positions of the response whose sampled
  token was least probable. The other tokens are nearly certain; including them
  would hide the difference between responses.

  The paper names the quantity after low probability, but its "most uncertain"
  positions can also be read as the positions of highest entropy: pass
  `entropy_BT` for that. In both cases the log-probs of the sampled tokens are
  averaged.

  A response without tokens has confidence 1 (empty product).

  Args:
    logp_BT: log-probs of the sampled tokens.
    mask_BT: response tokens, including the stop token.
    low_prob_share: share of the tokens in T_low, in (0, 1].
    entropy_BT: entropy over the vocabulary at each token, which T_low then
      ranks by, highest first; None ranks by log-prob.

  Returns:
    c_B in [0, 1], float32.
  """
  return _confidence(logp_BT, mask_BT, low_prob_share, entropy_BT)


def prompt_confidence(
  logp_PT, mask_PT, low_prob_share: float = 0.2, *, entropy_PT=None
) -> jax.Array:
  """Confidence in each prompt, over its least probable tokens.

  The same rule as for a response, since the paper's formula uses one function
  for both. The paper also mentions prompt perplexity: with
  `low_prob_share=1.0` the confidence is 1 / perplexity.

  A prompt without counted tokens has confidence 1.

  Args:
    logp_PT: log-probs of the prompt's tokens, each given the tokens before it.
    mask_PT: counted tokens: the user's text without the first token of the
      sequence (nothing predicts it) and without the chat template (nearly
      certain and the same in all prompts).
    low_prob_share: share of the tokens in T_low, in (0, 1].
    entropy_PT: entropy at each prompt token, as for `answer_confidence`.

  Returns:
    c_P in [0, 1], float32.
  """
  return _confidence(logp_PT, mask_PT, low_prob_share, entropy_PT)


def reweight(
  adv_PG,
  correct_PG,
  c_prompt_P,
  c_answer_PG,
  alpha,
  *,
  active: str = "any_correct",
  apply_to: str = "all",
  centre: bool = False,
  valid_PG=None,
) -> jax.Array:
  """Shifts advantages towards responses the policy is less confident of.

  The defaults are the formula in the module's docstring: every response of a
  group with a correct one is shifted, including the wrong ones.

  Args:
    adv_PG: advantages A_i of the base method.
    correct_PG: bool, the verifier's verdict before any reward shaping.
    c_prompt_P: `prompt_confidence` of each prompt.
    c_answer_PG: `answer_confidence` of each response.
    alpha: strength. Other public code uses 0.3; the paper does not give its
      value.
    active: 'any_correct', groups with a correct response; 'mixed', groups with
      both a correct and a wrong response; 'all_correct', groups without a
      wrong one, in which the base method has nothing to say.
    apply_to: 'all' responses of an active group, the 'correct' or the 'wrong'
      ones.
    centre: replaces c(q) by the group's mean confidence over the shifted
      responses. The shifts of a group then sum to 0: their order is kept, but
      the group as a whole is pushed neither up nor down.
    valid_PG: bool, responses whose verdict is known; None for all. Responses
      without a verdict keep their advantage and count neither as correct nor
      as wrong.

  Returns:
    adv_PG, float32; groups and responses that are not shifted are unchanged
    bit for bit.

  Raises:
    ValueError: `active` or `apply_to` is unknown.
  """
  adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG = _checked(
    adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG
  )
  if apply_to not in APPLY_TO:
    raise ValueError(f"apply_to={apply_to!r} is not one of {APPLY_TO}")
  shifted_PG = valid_PG & _active_P(correct_PG, valid_PG, active)[:, None]
  if apply_to == "correct":
    shifted_PG &= correct_PG
  elif apply_to == "wrong":
    shifted_PG &= ~correct_PG
  anchor_P = c_prompt_P
  if centre:
    anchor_P = ops.masked_mean(c_answer_PG, shifted_PG, axis=1)
  # Confidences depend on the policy, but as part of the advantage they are
  # constants of the policy gradient.
  gap_PG = jax.lax.stop_gradient(anchor_P[:, None] - c_answer_PG)
  return jnp.where(shifted_PG, adv_PG + alpha * gap_PG, adv_PG)


def metrics(
  adv_PG,
  new_adv_PG,
  correct_PG,
  c_prompt_P,
  c_answer_PG,
  *,
  active: str = "any_correct",
  valid_PG=None,
) -> dict[str, jax.Array]:
  """Statistics of the confidence gap and of ARM's effect on a batch.

  The sign of the gap c(q) - c(o|q) decides whether ARM pushes sampled
  responses up (entropy falls) or down (entropy rises), so its mean and spread
  are logged. They cover all valid responses, active or not, and always use
  c(q), even if `reweight` was called with `centre`.

  Args:
    adv_PG: advantages before ARM.
    new_adv_PG: advantages from `reweight`.
    correct_PG: bool, verdict on each response.
    c_prompt_P: confidence in each prompt.
    c_answer_PG: confidence in each response.
    active: rule for active groups, as passed to `reweight`.
    valid_PG: bool, responses whose verdict is known; None for all.

  Returns:
    float32 scalars: `arm/gap_mean` and `arm/gap_std` of c(q) - c(o|q);
    `arm/sign_flip`, share of valid responses whose advantage changed from
    positive to negative or back; `arm/active_groups`, share of active groups;
    `arm/c_prompt_mean`; `arm/c_answer_mean`; `arm/bonus_abs_mean`, mean of
    |A~ - A| over valid responses, shifted or not.
  """
  adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG = _checked(
    adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG
  )
  new_adv_PG = jnp.asarray(new_adv_PG, jnp.float32)
  chex.assert_equal_shape([adv_PG, new_adv_PG])
  active_P = _active_P(correct_PG, valid_PG, active)
  gap_PG = c_prompt_P[:, None] - c_answer_PG
  gap_mean = ops.masked_mean(gap_PG, valid_PG)
  gap_variance = ops.masked_mean((gap_PG - gap_mean) ** 2, valid_PG)
  # An advantage of 0 before or after has no sign and is not a flip.
  flipped_PG = jnp.sign(adv_PG) * jnp.sign(new_adv_PG) < 0
  return {
    "arm/gap_mean": gap_mean,
    "arm/gap_std": jnp.sqrt(gap_variance),
    "arm/sign_flip": ops.masked_mean(flipped_PG, valid_PG),
    "arm/active_groups": jnp.mean(active_P, dtype=jnp.float32),
    "arm/c_prompt_mean": jnp.mean(c_prompt_P),
    "arm/c_answer_mean": ops.masked_mean(c_answer_PG, valid_PG),
    "arm/bonus_abs_mean": ops.masked_mean(
      jnp.abs(new_adv_PG - adv_PG), valid_PG
    ),
  }


def _confidence(logp_XT, mask_XT, low_prob_share, entropy_XT) -> jax.Array:
  """Geometric mean of the probabilities of the least certain tokens."""
  logp_XT = jnp.asarray(logp_XT, jnp.float32)
  mask_XT = jnp.asarray(mask_XT, bool)
  rank_XT = None if entropy_XT is None else -jnp.asarray(entropy_XT)
  return jnp.exp(
    ops.tail_mean(logp_XT, mask_XT, low_prob_share, rank_BT=rank_XT)
  )


def _active_P(correct_PG, valid_PG, active) -> jax.Array:
  """Returns which groups ARM shifts; bool."""
  if active not in ACTIVE:
    raise ValueError(f"active={active!r} is not one of {ACTIVE}")
  any_right_P = jnp.any(correct_PG & valid_PG, axis=1)
  if active == "any_correct":
    return any_right_P
  any_wrong_P = jnp.any(~correct_PG & valid_PG, axis=1)
  return any_right_P & (any_wrong_P if active == "mixed" else ~any_wrong_P)


def _checked(adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG):
  """Converts and checks the arguments; errors name the shapes."""
  adv_PG = jnp.asarray(adv_PG, jnp.float32)
  c_prompt_P = jnp.asarray(c_prompt_P, jnp.float32)
  c_answer_PG = jnp.asarray(c_answer_PG, jnp.float32)
  correct_PG, valid_PG = terms.checked_verdicts(correct_PG, valid_PG)
  chex.assert_rank([adv_PG, c_prompt_P], [2, 1])
  chex.assert_equal_shape([adv_PG, correct_PG, c_answer_PG])
  chex.assert_equal_shape_prefix([adv_PG, c_prompt_P], 1)
  return adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG
