"""From verified groups to what an update reads: scores, then advantages."""

from collections.abc import Callable
import dataclasses

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax import packing
from progrpo_jax.algos import correction as correction_lib
from progrpo_jax.algos import diagnostics
from progrpo_jax.devices import stopping, timing
from progrpo_jax.learn import advantage as advantage_lib
from progrpo_jax.learn import teacher as teacher_lib
from progrpo_jax.models import config as model_config
from progrpo_jax.models import scoring
from progrpo_jax.rollout import rewarding


@dataclasses.dataclass(frozen=True)
class _Scored:
  """What the policies say of the same sequences, on the host.

  Attributes:
    policy: scores of the policy; the sampler's log-probs where it has none.
    ref_logp_NRT: log-probs under the reference, or None.
    teacher_logp_NRT: log-probs under the teacher, or None.
  """

  policy: batch_lib.Scores
  ref_logp_NRT: np.ndarray | None = None
  teacher_logp_NRT: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Prepare:
  """Scores a batch under all policies and computes its advantages.

  Attributes:
    model: configuration of the policy.
    mesh: mesh of all devices.
    dist: distribution of the log-probs.
    advantage: advantages of shaped rewards.
    reward: shaped reward of groups.
    kl: per-token KL of (logp, ref_logp), for the metric `kl`.
    score: whether to score under the policy; without, the sampler's log-probs
      stand for the scores, and what needs more is not measured.
    per_bundle: responses of a prompt that share its tokens; divides G.
    layout: sizes of packed rows.
    timer: times "score", "reference", "teacher" and "advantage".
    stop: request to stop, which is looked at before scoring.
    correction: weights of trainer over sampler,
      (logp_BT, sampled_logp_BT, mask_BT) -> weight_BT; None for none.
    mask_truncated: leave responses that were cut out of the loss.
    all_sampled: the batch is everything that was sampled, so that its exact
      entropy is also that of the rollout.
    teacher: teacher of on-policy distillation, which needs `score`; None for
      none.
  """

  model: model_config.ModelConfig
  mesh: jax.sharding.Mesh
  dist: scoring.Distribution
  advantage: advantage_lib.Advantage
  reward: rewarding.ShapedReward
  kl: Callable
  score: bool
  per_bundle: int
  layout: packing.Layout
  timer: timing.Timer
  stop: stopping.Stop
  correction: Callable | None = None
  mask_truncated: bool = False
  all_sampled: bool = True
  teacher: teacher_lib.Teacher | None = None

  def __call__(
    self, params, reference, groups: groups_lib.Groups, step: int
  ) -> tuple[batch_lib.TrainBatch, advantage_lib.Advantages, dict[str, float]]:
    """Prepares the groups of a step for its updates.

    Args:
      params: all parameters of the policy.
      reference: all parameters of the reference; None where nothing reads it.
      groups: P verified groups.
      step: steps done.

    Returns:
      (batch of host arrays, advantages, numbers to log).

    Raises:
      Preempted: the run was asked to stop.
    """
    self.stop.check()
    group = groups.reward_PG.shape[1]
    sequences = groups_lib.to_sequences(groups, self.per_bundle)
    sampled_NRT = groups.rollout.logp_BT.reshape(sequences.tokens_NRT.shape)
    scored = _Scored(batch_lib.Scores(sampled_NRT))
    if self.score:
      scored = self._scored(
        params, reference, sequences, group // self.per_bundle
      )
    kl_NRT = None
    if scored.ref_logp_NRT is not None:
      kl_NRT = np.where(
        sequences.mask_NRT, scored.policy.logp_NRT - scored.ref_logp_NRT, 0
      )
    with self.timer.stage("advantage"):
      advantages = self.advantage(
        self.reward(groups, step, kl_NRT), groups, scored.policy
      )
    batch, metrics = self._batch(
      groups, sequences, sampled_NRT, scored, advantages
    )
    metrics |= self._measures(
      batch, sequences.mask_NRT, sampled_NRT, scored, advantages
    )
    return batch, advantages, metrics

  def _batch(
    self,
    groups: groups_lib.Groups,
    sequences: batch_lib.Sequences,
    sampled_NRT: np.ndarray,
    scored: _Scored,
    advantages: advantage_lib.Advantages,
  ) -> tuple[batch_lib.TrainBatch, dict[str, float]]:
    """What the updates read; and metrics of the correction and the teacher.

    Args:
      groups: P verified groups.
      sequences: the same in bundles.
      sampled_NRT: the sampler's log-probs.
      scored: log-probs of all policies.
      advantages: advantages of the groups.
    """
    size, group = groups.reward_PG.shape

    def bundles(x):
      return x.reshape(-1, self.per_bundle)

    # Which responses the loss sees: those with a verdict, and by an option
    # only those that ended by themselves.
    learn_PG = groups.valid_PG
    if self.mask_truncated:
      learn_PG = learn_PG & groups.rollout.finished_B.reshape(size, group)
    # The ratio's denominator is the policy that sampled: the present one, by
    # its scores, or for groups carried over an earlier one, by the sampler.
    logp_NRT, mask_NRT = scored.policy.logp_NRT, sequences.mask_NRT
    fresh_NR = bundles(np.repeat(groups.fresh_P, group))
    old_NRT = np.where(fresh_NR[..., None], logp_NRT, sampled_NRT)
    weight_NRT, metrics = self._correct(old_NRT, sampled_NRT, mask_NRT)
    adv_NR, adv_NRT = bundles(advantages.adv_PG), None
    if scored.teacher_logp_NRT is not None:
      adv_NRT, said = self.teacher.advantages(
        adv_NR, logp_NRT, scored.teacher_logp_NRT, mask_NRT
      )
      metrics |= said
    return batch_lib.TrainBatch(
      sequences=sequences.replace(
        mask_NRT=mask_NRT & bundles(learn_PG)[..., None]
      ),
      old_logp_NRT=old_NRT,
      ref_logp_NRT=scored.ref_logp_NRT,
      adv_NR=adv_NR,
      fresh_NR=fresh_NR,
      base_advantage_NR=bundles(advantages.base_PG),
      weight_NRT=weight_NRT,
      id_N=np.repeat(
        groups.prompts.ids_P.astype(np.uint32), group // self.per_bundle
      ),
      adv_NRT=adv_NRT,
    ), metrics

  def _measures(
    self,
    batch: batch_lib.TrainBatch,
    mask_NRT: np.ndarray,
    sampled_NRT: np.ndarray,
    scored: _Scored,
    advantages: advantage_lib.Advantages,
  ) -> dict[str, float]:
    """Measures of a batch: log-probs, advantages and entropy.

    Args:
      batch: batch of the updates.
      mask_NRT: tokens that the policy wrote, of responses without a verdict
        too.
      sampled_NRT: the sampler's log-probs.
      scored: log-probs of all policies.
      advantages: advantages of the groups.
    """
    metrics = {}
    # How far sampler and trainer are apart, on tokens of the same policy.
    difference = np.abs(scored.policy.logp_NRT - sampled_NRT)[
      mask_NRT & batch.fresh_NR[..., None]
    ]
    if self.score and difference.size:
      metrics |= {
        "sampling/logp_difference_mean": float(np.mean(difference)),
        "sampling/logp_difference_max": float(np.max(difference)),
      }
    if scored.ref_logp_NRT is not None:
      gap = self.kl(scored.policy.logp_NRT, scored.ref_logp_NRT)
      metrics["kl"] = float(np.mean(np.asarray(gap)[mask_NRT]))
    metrics |= advantages.metrics
    metrics |= _diagnostics(
      scored.policy,
      batch.adv_NR[..., None] if batch.adv_NRT is None else batch.adv_NRT,
      mask_NRT,
    )
    if self.score and self.all_sampled and self.dist.keeps_all:
      # The exact mean takes the place of the sampler's estimate. It is over the
      # whole vocabulary; under top-p or top-k the sampler draws from less.
      metrics["entropy"] = metrics["entropy/kept"]
    return metrics

  def _scored(self, params, reference, sequences, bundles: int) -> _Scored:
    """Scores sequences under all policies.

    The rows are packed, and go to the devices, once for all policies.

    Args:
      params: all parameters of the policy.
      reference: all parameters of the reference, or None.
      sequences: bundles, prompt-major.
      bundles: bundles of a prompt; the first of them has the prompt's scores.
    """
    ref_logp_NRT = teacher_logp_NRT = None
    with jax.set_mesh(self.mesh):
      with self.timer.stage("score"):
        placed = scoring.place(sequences, self.layout, prompt_stride=bundles)
        scores = scoring.score_placed(self.model, params, placed, self.dist)
      if reference is not None:
        with self.timer.stage("reference"):
          ref_logp_NRT = scoring.score_placed(
            self.model, reference, placed, self.dist
          ).logp_NRT
      if self.teacher is not None:
        with self.timer.stage("teacher"):
          teacher_logp_NRT = self.teacher.score(placed)
    return _Scored(scores, ref_logp_NRT, teacher_logp_NRT)

  def _correct(self, old_NRT, sampled_NRT, mask_NRT):
    """Weights of trainer over sampler, or None; and their metrics."""
    if self.correction is None:
      return None, {}
    shape = old_NRT.shape
    old_BT, sampled_BT, mask_BT = (
      x.reshape(-1, shape[-1]) for x in (old_NRT, sampled_NRT, mask_NRT)
    )
    weight_BT = self.correction(old_BT, sampled_BT, mask_BT)
    metrics = correction_lib.metrics(weight_BT, old_BT, sampled_BT, mask_BT)
    return np.asarray(weight_BT).reshape(shape), {
      name: float(value) for name, value in metrics.items()
    }


def _diagnostics(scores, adv_NRT, mask_NRT) -> dict[str, float]:
  """Entropies, and the covariance that drives them: signs of a collapse."""
  shape = (-1, mask_NRT.shape[-1])
  mask_BT = mask_NRT.reshape(shape)
  out = diagnostics.covariance(
    scores.logp_NRT.reshape(shape), adv_NRT.reshape(len(mask_BT), -1), mask_BT
  )
  if scores.entropy_NRT is None:
    return out
  return (
    out
    | {"entropy/kept": float(np.mean(scores.entropy_NRT[mask_NRT]))}
    | diagnostics.entropy_quantiles(scores.entropy_NRT.reshape(shape), mask_BT)
  )
