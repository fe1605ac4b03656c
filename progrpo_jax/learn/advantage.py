"""The advantages of a batch: those of the base method, re-weighted by ARM."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax.algos import arm


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
class Advantage:
  """Turns the rewards of groups into advantages.

  Attributes:
    base: base method, (reward_PG, valid_PG) -> adv_PG.
    alpha: strength of ARM; 0 leaves the base method's advantages.
    arm: settings of ARM.
  """

  base: Callable
  alpha: float = 0.0
  arm: Arm = Arm()

  def __call__(
    self, reward_PG, groups: groups_lib.Groups, scores: batch_lib.Scores
  ) -> dict[str, Any]:
    """Returns `base_PG`, `adv_PG`, `c_answer_PG`, `c_prompt_P`, `metrics`.

    All are numpy arrays; advantages are 0 where the verifier failed, and
    `c_prompt_P` is NaN where prompts were not scored.

    Args:
      reward_PG: shaped rewards.
      groups: P verified groups.
      scores: scores of the policy before the update; rows are prompt-major.
    """
    size, group = np.shape(reward_PG)
    # The rows of a prompt share its scores: its first row has them.
    once = slice(None, None, len(scores.logp_NRT) // size)
    entropies = {}
    if self.arm.tail == "entropy":
      entropies = dict(
        entropy_BT=scores.entropy_NRT.reshape(size * group, -1),
        prompt_entropy_PT=scores.prompt_entropy_NT[once],
      )
    prompts = groups.prompts
    # The first token of a sequence is predicted by nothing.
    predicted_PT = prompts.user_mask_PT & np.pad(
      prompts.mask_PT[:, :-1], ((0, 0), (1, 0))
    )
    known = scores.prompt_logp_NT is not None
    prompt_logp_PT = (
      scores.prompt_logp_NT[once]
      if known
      else np.zeros(predicted_PT.shape, np.float32)
    )
    out = jax.device_get(
      _advantages(
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
    if not known:
      # Nothing read it: ARM is off or centred.
      out["c_prompt_P"] = np.full(size, np.nan, np.float32)
      for name in ("arm/c_prompt_mean", "arm/gap_mean", "arm/gap_std"):
        del out["metrics"][name]
    return out


@functools.partial(jax.jit, static_argnames=("base", "settings"))
def _advantages(
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
  """`Advantage` in one program; alpha is an array, and compiles once."""
  base_PG = base(reward_PG, valid_PG=valid_PG)
  c_answer_PG = arm.answer_confidence(
    logp_BT, mask_BT, settings.low_prob_share, entropy_BT=entropy_BT
  ).reshape(reward_PG.shape)
  c_prompt_P = arm.prompt_confidence(
    prompt_logp_PT,
    prompt_mask_PT,
    settings.prompt_low_prob_share,
    entropy_BT=prompt_entropy_PT,
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
  return dict(
    base_PG=base_PG,
    adv_PG=jnp.where(valid_PG, adv_PG, 0.0),
    c_answer_PG=c_answer_PG,
    c_prompt_P=c_prompt_P,
    metrics=arm.metrics(
      base_PG, adv_PG, *groups, active=settings.active, valid_PG=valid_PG
    ),
  )
