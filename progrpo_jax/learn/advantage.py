"""The advantages of a batch: those of the base method, re-weighted by ARM.

A base method is a function that says by the names of its arguments what it
reads. `INPUTS` lists the names that a batch has a value for; no other array is
computed or sent to a device for it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax import ops
from progrpo_jax.algos import advantages, arm
from progrpo_jax.rollout import rewarding

# What a base method may read: name of its argument -> meaning.
INPUTS = {
  "reward_PG": "shaped reward",
  "valid_PG": "bool, False where the verifier failed",
  "correct_PG": "bool, the verifier's verdict",
  "logp_PG": "log-prob of the whole response",
  "mean_logp_PG": "mean log-prob of a token of the response",
  "logp_PGT": "log-probs of its tokens, 0 where masked",
  "tokens_PGT": "its tokens",
  "mask_PGT": "bool, the tokens that the policy wrote",
  "components_PGJ": "terms of the reward, see rollout.rewarding.components",
  "weights_PJ": "weights of these terms",
}
# Those that are computed from log-probs: scores of the policy, or where a batch
# is not scored the sampler's.
LOG_PROBS = frozenset(("logp_PG", "mean_logp_PG", "logp_PGT"))


def reads(function: Callable) -> frozenset[str]:
  """Returns those of `INPUTS` that are arguments of a base method."""
  return frozenset(INPUTS) & frozenset(inspect.signature(function).parameters)


@dataclasses.dataclass(frozen=True)
class Arm:
  """Settings of ARM's re-weighting (arXiv 2602.05281), see algos/arm.py.

  Attributes:
    low_prob_share: share of least probable response tokens that an answer's
      confidence is taken over.
    prompt_low_prob_share: the same share of the tokens of the user's prompt.
    tail: "probability", or "entropy": take the tokens at which the policy was
      least certain instead of the least probable ones.
    active: groups that are re-weighted, see `arm.reweight`.
    apply_to: responses that are re-weighted, see `arm.reweight`.
    centre: put the group's mean answer confidence in the place of the
      prompt's.
  """

  low_prob_share: float = 0.2
  prompt_low_prob_share: float = 0.2
  tail: str = "probability"
  active: str = "any_correct"
  apply_to: str = "all"
  centre: bool = False


@dataclasses.dataclass(frozen=True)
class Advantages:
  """Advantages of P groups, as numpy arrays, float32.

  Attributes:
    base_PG: advantages of the base method.
    adv_PG: advantages after ARM, which the update reads; 0 where the verifier
      failed.
    c_answer_PG: ARM's confidence in each answer.
    c_prompt_P: its confidence in each prompt; NaN where prompts were not
      scored.
    metrics: numbers to log.
  """

  base_PG: np.ndarray
  adv_PG: np.ndarray
  c_answer_PG: np.ndarray
  c_prompt_P: np.ndarray
  metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Advantage:
  """Turns the rewards of groups into advantages.

  Attributes:
    base: base method, a function of some of `INPUTS` to adv_PG.
    alpha: strength of ARM; 0 leaves the base method's advantages.
    arm: settings of ARM.
  """

  base: Callable
  alpha: float = 0.0
  arm: Arm = Arm()

  def __call__(
    self, reward_PG, groups: groups_lib.Groups, scores: batch_lib.Scores
  ) -> Advantages:
    """Returns the advantages of a batch.

    Args:
      reward_PG: shaped rewards.
      groups: P verified groups.
      scores: scores of the policy before the update, [N, R, T], where the N
        bundles are prompt-major.
    """
    size, group = np.shape(reward_PG)
    # Only the first bundle of a prompt has the prompt's scores.
    once = slice(None, None, len(scores.logp_NRT) // size)
    entropies = {}
    # With alpha 0 ARM changes nothing and is only measured, by log-probs: the
    # batch may not be scored.
    if self.alpha and self.arm.tail == "entropy":
      entropies = dict(
        entropy_BT=scores.entropy_NRT.reshape(size * group, -1),
        prompt_entropy_PT=scores.prompt_entropy_NT[once],
      )
    prompts = groups.prompts
    # The first token of a sequence is predicted by nothing.
    predicted_PT = prompts.user_mask_PT & np.pad(
      prompts.mask_PT[:, :-1], ((0, 0), (1, 0))
    )
    prompt_scored = scores.prompt_logp_NT is not None
    prompt_logp_PT = (
      scores.prompt_logp_NT[once]
      if prompt_scored
      else np.zeros(predicted_PT.shape, np.float32)
    )
    arrays, metrics = jax.device_get(
      _advantages(
        _terms(reads(self.base), reward_PG, groups),
        reward_PG,
        groups.correct_PG,
        groups.valid_PG,
        scores.logp_NRT.reshape(size * group, -1),
        np.asarray(groups.rollout.mask_BT),
        prompt_logp_PT,
        predicted_PT,
        np.float32(self.alpha),
        base=self.base,
        settings=self.arm,
        **entropies,
      )
    )
    if not prompt_scored:
      # Nothing read it: ARM is off or centred.
      arrays["c_prompt_P"] = np.full(size, np.nan, np.float32)
      for name in ("arm/c_prompt_mean", "arm/gap_mean", "arm/gap_std"):
        del metrics[name]
    return Advantages(
      **arrays, metrics={name: float(v) for name, v in metrics.items()}
    )


def _terms(
  names: frozenset[str], reward_PG, groups: groups_lib.Groups
) -> dict[str, np.ndarray]:
  """Inputs that only a base method may read: tokens, reward terms, weights."""
  out = {}
  if "tokens_PGT" in names:
    tokens_BT = np.asarray(groups.rollout.tokens_BT)
    out["tokens_PGT"] = tokens_BT.reshape(*np.shape(reward_PG), -1)
  if names & {"components_PGJ", "weights_PJ"}:
    out["components_PGJ"], out["weights_PJ"] = rewarding.components(
      groups, reward_PG
    )
  return out


def inputs(
  terms: Mapping[str, Any], reward_PG, correct_PG, valid_PG, logp_BT, mask_BT
) -> dict[str, Any]:
  """Returns all of `INPUTS` that can be made of these arrays.

  Args:
    terms: inputs that are there as they are.
    reward_PG: shaped rewards.
    correct_PG: bool, verdicts.
    valid_PG: bool, responses with a verdict.
    logp_BT: log-probs of the tokens.
    mask_BT: bool, tokens that the policy wrote.
  """
  shape = (*reward_PG.shape, -1)
  logp_PGT, mask_PGT = logp_BT.reshape(shape), mask_BT.reshape(shape)
  return dict(
    reward_PG=reward_PG,
    correct_PG=correct_PG,
    valid_PG=valid_PG,
    logp_PG=ops.masked_sum(logp_PGT, mask_PGT, axis=-1),
    mean_logp_PG=ops.masked_mean(logp_PGT, mask_PGT, axis=-1),
    logp_PGT=jnp.where(mask_PGT, logp_PGT, 0.0),
    mask_PGT=mask_PGT,
    **terms,
  )


@functools.partial(jax.jit, static_argnames=("base", "settings"))
def _advantages(
  terms,
  reward_PG,
  correct_PG,
  valid_PG,
  logp_BT,
  mask_BT,
  prompt_logp_PT,
  prompt_mask_PT,
  alpha,
  *,
  base,
  settings: Arm,
  entropy_BT=None,
  prompt_entropy_PT=None,
):
  """`Advantage` in one program; alpha is an array, and compiles once.

  Returns:
    (arrays of `Advantages`, its metrics).
  """
  available = inputs(terms, reward_PG, correct_PG, valid_PG, logp_BT, mask_BT)
  base_PG = base(**{name: available[name] for name in reads(base)})
  c_answer_PG = arm.answer_confidence(
    logp_BT, mask_BT, settings.low_prob_share, entropy_BT=entropy_BT
  ).reshape(reward_PG.shape)
  c_prompt_P = arm.prompt_confidence(
    prompt_logp_PT,
    prompt_mask_PT,
    settings.prompt_low_prob_share,
    entropy_PT=prompt_entropy_PT,
  )
  groups = correct_PG, c_prompt_P, c_answer_PG
  adv_PG = arm.reweight(
    base_PG,
    *groups,
    alpha,
    valid_PG=valid_PG,
    active=settings.active,
    apply_to=settings.apply_to,
    centre=settings.centre,
  )
  arrays = dict(
    base_PG=base_PG,
    adv_PG=jnp.where(valid_PG, adv_PG, 0.0),
    c_answer_PG=c_answer_PG,
    c_prompt_P=c_prompt_P,
  )
  metrics = arm.metrics(
    base_PG, adv_PG, *groups, active=settings.active, valid_PG=valid_PG
  )
  return arrays, metrics | departure(adv_PG, reward_PG, correct_PG, valid_PG)


def departure(adv_PG, reward_PG, correct_PG, valid_PG) -> dict[str, jax.Array]:
  """How far advantages are from GRPO's, as a share of the size of GRPO's.

  It tells a method that does something from one that is GRPO under another
  name. A factor that all advantages share counts too.

  Args:
    adv_PG: advantages of the method.
    reward_PG: shaped rewards.
    correct_PG: bool, verdicts.
    valid_PG: bool, responses with a verdict.

  Returns:
    `advantage/moved_right` and `advantage/moved_wrong`: the sum of |A - A'|
    over right and over wrong responses, where A' is GRPO's advantage of the
    same rewards, over the sum of |A'|; 0 where that is 0.
  """
  grpo_PG = advantages.grpo(reward_PG, valid_PG=valid_PG)

  def share(mask_PG):
    moved = ops.masked_sum(jnp.abs(adv_PG - grpo_PG), mask_PG)
    size = ops.masked_sum(jnp.abs(grpo_PG), mask_PG)
    return jnp.where(size > 0, moved / jnp.where(size > 0, size, 1.0), 0.0)

  return {
    "advantage/moved_right": share(valid_PG & correct_PG),
    "advantage/moved_wrong": share(valid_PG & ~correct_PG),
  }
