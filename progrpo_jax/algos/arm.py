"""ARM, the Advantage Re-weighting Mechanism of ProGRPO.

Where at least one response of a group is right, each advantage is shifted by
how much less confident the policy is of the response than of the prompt:

  A~_i = A_i                                if no response is correct
  A~_i = A_i + alpha (c(q) - c(o_i | q))    otherwise

so that among right answers the rare ones gain and the habitual ones lose, and
probability spreads over all the ways of being right. The surprise: a group in
which every response is right has A_i = 0, and there ARM is the only gradient.
As every c lies in (0, 1], no advantage moves by more than alpha.

The printed condition is that the rewards of the group do not sum to 0. It is
asked here of the verifier's verdict, a bool: a sum of rewards in {-1, +1} is 0
for a group that is half right, and a shaped reward is never quite 0.

See "ProGRPO" (https://arxiv.org/abs/2602.05281). The paper leaves open which
tokens of the prompt count, what ranks the tokens of a response, which
responses of an active group are shifted and the value of alpha; each is an
argument.
"""

import chex
import jax
import jax.numpy as jnp

from progrpo_jax import ops

ACTIVE = ("any_correct", "mixed")
APPLY_TO = ("all", "correct")


def answer_confidence(
    logp_BT, mask_BT, low_prob_share: float = 0.2, *, entropy_BT=None,
) -> jax.Array:
  """Confidence in each response, over its least probable tokens.

  c(o|q) = exp(1/|T_low| sum_{t in T_low} log p(o_t | q, o_<t)), where T_low
  are the ceil(low_prob_share * |o|) positions of that response whose sampled
  token was least probable. The rest are near certain and would drown them.

  The paper's name for it speaks of low probability; its "most uncertain"
  positions may also be read as those of highest entropy, which `entropy_BT`
  chooses. The probabilities averaged are the sampled tokens' either way.

  A response without tokens has confidence 1, the value of an empty product.

  Args:
    logp_BT: log-probs of the sampled tokens.
    mask_BT: response tokens, the stop token among them.
    low_prob_share: in (0, 1].
    entropy_BT: entropy over the vocabulary at each token; T_low are then the
      positions where it is highest. None ranks by log-prob.

  Returns:
    c_B in [0, 1], float32.
  """
  return _confidence(logp_BT, mask_BT, low_prob_share, entropy_BT)


def prompt_confidence(
    logp_PT, mask_PT, low_prob_share: float = 0.2, *, entropy_BT=None,
) -> jax.Array:
  """Confidence in each prompt, over its least probable tokens.

  The same rule as for a response, since the formula writes one function for
  both. The paper also speaks of prompt perplexity: `low_prob_share=1.0` is
  1 / perplexity, the mean over all tokens.

  A prompt without counted tokens has confidence 1, as a response has.

  Args:
    logp_PT: log-probs of the prompt's tokens, each given those before it.
    mask_PT: the tokens that count: the user's own text, without the first
      token of the sequence (nothing predicts it) and without the chat
      template (nearly certain, and alike for all prompts).
    low_prob_share: in (0, 1].
    entropy_BT: as for `answer_confidence`; its rows are the prompts.

  Returns:
    c_P in [0, 1], float32.
  """
  return _confidence(logp_PT, mask_PT, low_prob_share, entropy_BT)


def reweight(
    adv_PG, correct_PG, c_prompt_P, c_answer_PG, alpha, *,
    active: str = "any_correct", apply_to: str = "all", centre: bool = False,
    valid_PG=None,
) -> jax.Array:
  """Shifts advantages towards responses that the policy is less sure of.

  See the module for the formula. It is the default: every response of a group
  with a correct one, the wrong ones too.

  Args:
    adv_PG: advantages A_i of the base method.
    correct_PG: bool, the verifier's verdict before any shaping of the reward.
    c_prompt_P: `prompt_confidence` of each prompt.
    c_answer_PG: `answer_confidence` of each response.
    alpha: strength; 0.3 is used elsewhere in public code, the paper's value
      is not known.
    active: 'any_correct', groups with a correct response; 'mixed', only those
      that hold a wrong one too.
    apply_to: 'all' responses of an active group, or the 'correct' ones.
    centre: puts the mean confidence of the shifted responses of the group (of
      all, or of the correct ones, as `apply_to` says) in the place of c(q).
      The shifts of a group then sum to 0: their order is kept, and the group
      as a whole is pushed neither up nor down.
    valid_PG: bool, responses whose verdict is known; None for all. The others
      keep their advantage and count neither as right nor as wrong.

  Returns:
    adv_PG, float32; groups and responses that ARM leaves alone come back
    exactly as they came.

  Raises:
    ValueError: `active` or `apply_to` is unknown.
  """
  adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG = _checked(
      adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG)
  if apply_to not in APPLY_TO:
    raise ValueError(f"apply_to={apply_to!r} is not one of {APPLY_TO}")
  shifted_PG = valid_PG & _active_P(correct_PG, valid_PG, active)[:, None]
  if apply_to == "correct":
    shifted_PG &= correct_PG
  anchor_P = c_prompt_P
  if centre:
    anchor_P = ops.masked_mean(c_answer_PG, shifted_PG, axis=1)
  # The confidences are made by the policy, but they are part of the
  # advantage: the policy gradient holds them constant.
  gap_PG = jax.lax.stop_gradient(anchor_P[:, None] - c_answer_PG)
  return jnp.where(shifted_PG, adv_PG + alpha * gap_PG, adv_PG)


def metrics(
    adv_PG, new_adv_PG, correct_PG, c_prompt_P, c_answer_PG, *,
    active: str = "any_correct", valid_PG=None,
) -> dict[str, jax.Array]:
  """What ARM did to a batch, and what it would act upon.

  The sign of c(q) - c(o|q) decides whether ARM pushes all that was sampled up
  (entropy falls) or down (it rises), so its mean and spread are worth a
  curve. They are taken over all valid responses, active or not, and with c(q)
  whatever `centre` was.

  Args:
    adv_PG: advantages before ARM.
    new_adv_PG: what `reweight` returned.
    correct_PG: as for `reweight`.
    c_prompt_P: as for `reweight`.
    c_answer_PG: as for `reweight`.
    active: as for `reweight`.
    valid_PG: as for `reweight`.

  Returns:
    float32 scalars: `arm/gap_mean` and `arm/gap_std` of c(q) - c(o|q);
    `arm/sign_flip`, share of valid responses whose advantage changed sign (an
    advantage of 0 has none); `arm/active_groups`, share of groups;
    `arm/c_prompt_mean`; `arm/c_answer_mean`; `arm/bonus_abs_mean`, mean of
    |A~ - A| over valid responses, those that were not shifted included.
  """
  adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG = _checked(
      adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG)
  new_adv_PG = jnp.asarray(new_adv_PG, jnp.float32)
  chex.assert_equal_shape([adv_PG, new_adv_PG])
  active_P = _active_P(correct_PG, valid_PG, active)
  gap_PG = c_prompt_P[:, None] - c_answer_PG
  gap_mean = ops.masked_mean(gap_PG, valid_PG)
  gap_variance = ops.masked_mean((gap_PG - gap_mean) ** 2, valid_PG)
  flipped_PG = jnp.sign(adv_PG) * jnp.sign(new_adv_PG) < 0
  return {
      "arm/gap_mean": gap_mean,
      "arm/gap_std": jnp.sqrt(gap_variance),
      "arm/sign_flip": ops.masked_mean(flipped_PG, valid_PG),
      "arm/active_groups": jnp.mean(active_P, dtype=jnp.float32),
      "arm/c_prompt_mean": jnp.mean(c_prompt_P),
      "arm/c_answer_mean": ops.masked_mean(c_answer_PG, valid_PG),
      "arm/bonus_abs_mean": ops.masked_mean(
          jnp.abs(new_adv_PG - adv_PG), valid_PG),
  }


def _confidence(logp_BT, mask_BT, low_prob_share, entropy_BT) -> jax.Array:
  """Geometric mean of the probabilities of the least certain tokens."""
  logp_BT = jnp.asarray(logp_BT, jnp.float32)
  mask_BT = jnp.asarray(mask_BT, bool)
  rank_BT = None if entropy_BT is None else -jnp.asarray(entropy_BT)
  return jnp.exp(
      ops.tail_mean(logp_BT, mask_BT, low_prob_share, rank_BT=rank_BT))


def _active_P(correct_PG, valid_PG, active) -> jax.Array:
  """Groups that ARM acts upon."""
  if active not in ACTIVE:
    raise ValueError(f"active={active!r} is not one of {ACTIVE}")
  any_right_P = jnp.any(correct_PG & valid_PG, axis=1)
  if active == "any_correct":
    return any_right_P
  return any_right_P & jnp.any(~correct_PG & valid_PG, axis=1)


def _checked(adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG):
  """Arrays of the promised types, or an error that names the shapes."""
  adv_PG = jnp.asarray(adv_PG, jnp.float32)
  correct_PG = jnp.asarray(correct_PG)
  c_prompt_P = jnp.asarray(c_prompt_P, jnp.float32)
  c_answer_PG = jnp.asarray(c_answer_PG, jnp.float32)
  if valid_PG is None:
    valid_PG = jnp.ones_like(adv_PG, bool)
  valid_PG = jnp.asarray(valid_PG)
  chex.assert_rank([adv_PG, c_prompt_P], [2, 1])
  chex.assert_equal_shape([adv_PG, correct_PG, c_answer_PG, valid_PG])
  chex.assert_equal_shape_prefix([adv_PG, c_prompt_P], 1)
  # Not a matter of taste: rewards in {-1, +1} cast to bool are all True.
  chex.assert_type([correct_PG, valid_PG], bool)
  return adv_PG, correct_PG, c_prompt_P, c_answer_PG, valid_PG
