"""A teacher of on-policy distillation: what it says of a batch."""

import dataclasses
from typing import Any

import jax
import numpy as np

from progrpo_jax.algos import distill
from progrpo_jax.models import config as model_config
from progrpo_jax.models import scoring


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A frozen policy whose log-probs are advantages, see `algos.distill`.

  Attributes:
    model: its configuration; its vocabulary has that of the policy.
    params: all its parameters, in the compute type.
    dist: distribution of its log-probs. It is not truncated: what the policy
      sampled may lie outside of the teacher's nucleus.
    coef: weight of its advantage.
    discount: see `distill.advantage`.
    keep_rewards: add it to the advantages of the rewards, instead of putting it
      in their place.
  """

  model: model_config.ModelConfig
  params: Any
  dist: scoring.Distribution
  coef: float = 1.0
  discount: float = 0.0
  keep_rewards: bool = False

  def score(self, placed: scoring.Placed) -> np.ndarray:
    """Returns its log-probs [N, R, T] of sequences that were placed."""
    return scoring.score_placed(
      self.model, self.params, placed, self.dist
    ).logp_NRT

  def advantages(
    self, adv_NR, logp_NRT, teacher_logp_NRT, mask_NRT
  ) -> tuple[np.ndarray, dict[str, float]]:
    """Returns the advantages of tokens, [N, R, T], and metrics.

    Args:
      adv_NR: advantages of the rewards.
      logp_NRT: log-probs under the policy before its update.
      teacher_logp_NRT: log-probs under the teacher.
      mask_NRT: bool, tokens that the policy wrote.
    """
    shape = mask_NRT.shape
    flat = (-1, shape[-1])
    adv_NRT = np.asarray(
      _advantage(
        logp_NRT.reshape(flat),
        teacher_logp_NRT.reshape(flat),
        mask_NRT.reshape(flat),
        coef=self.coef,
        discount=self.discount,
      )
    ).reshape(shape)
    metrics = {}
    if mask_NRT.any():
      gap = (logp_NRT - teacher_logp_NRT)[mask_NRT]
      metrics = {
        "distill/reverse_kl": float(np.mean(gap)),
        "distill/advantage_abs_mean": float(np.mean(np.abs(adv_NRT[mask_NRT]))),
      }
    if self.keep_rewards:
      adv_NRT = np.where(mask_NRT, adv_NRT + adv_NR[..., None], 0.0)
    return adv_NRT.astype(np.float32), metrics


_advantage = jax.jit(distill.advantage, static_argnames=("coef", "discount"))
