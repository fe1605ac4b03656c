"""From verified groups to what an update reads: scores, rewards, advantages."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import parts as parts_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax.algos import arm, control, correction, diagnostics, shaping
from progrpo_jax.devices import sharding
from progrpo_jax.models import scoring
from progrpo_jax.rollout import groups as groups_lib


def shaped_reward(
    c, groups: groups_lib.Groups, step: int, kl_NRT=None) -> np.ndarray:
  """The verifier's reward with what a config adds to it, [P, G].

  Args:
    c: the config.
    groups: verified groups.
    step: steps done, for penalties that come and go.
    kl_NRT: k1 to the reference, 0 where masked; taken off the reward if the
      config says so. None before scores are there: the reward is without it.
  """
  reward_PG = np.asarray(groups.reward_PG, np.float32)
  length_B = np.sum(groups.rollout.mask_BT, axis=1)
  limit = c.sampling.max_new_tokens
  if c.algo.truncated_factor != 1.0:
    finished_PG = np.asarray(groups.rollout.finished_B).reshape(
        reward_PG.shape)
    reward_PG = np.asarray(shaping.truncated_reward(
        reward_PG, finished_PG, c.algo.truncated_factor))
  p = c.algo.length_penalty
  if p.coef and control.cycle_on(step, p.on, p.off):
    value_B = shaping.cosine_length(length_B, limit, p.lo, p.hi)
    # Only what is right at all is worth being short, and at its longest a
    # right answer is worth no less than a wrong one. One that was cut has
    # lost its reward above, and has nothing left to lose.
    shorter_PG = reward_PG + p.coef * np.asarray(value_B).reshape(
        reward_PG.shape)
    reward_PG = np.where(
        reward_PG > 0, np.maximum(shorter_PG, 0.0), reward_PG)
  if c.algo.overlong_cache:
    penalty_B = shaping.overlong_penalty(
        length_B, limit, c.algo.overlong_cache)
    reward_PG = reward_PG + np.asarray(penalty_B).reshape(reward_PG.shape)
  if c.algo.reward_kl_coef and kl_NRT is not None:
    kl_PG = kl_NRT.sum(axis=-1).reshape(reward_PG.shape)
    reward_PG = reward_PG - c.algo.reward_kl_coef * kl_PG
  return np.asarray(reward_PG, np.float32)


def keep_groups(c, groups: groups_lib.Groups, step: int) -> np.ndarray:
  """Groups that dynamic sampling keeps, bool [P]; all where it is off.

  A group is kept if what the advantage reads differs within it: the shaped
  reward (without the KL, which needs scores), or, by
  `algo.dynamic_sampling.filter`, the verdicts alone, as DAPO does.
  """
  dynamic = c.algo.dynamic_sampling
  if not dynamic.enabled:
    return np.ones(len(groups), bool)
  value_PG = (
      groups.correct_PG if dynamic.filter == "accuracy"
      else shaped_reward(c, groups, step))
  return np.asarray(shaping.keep_groups(
      value_PG, keep_all_correct=dynamic.keep_all_correct,
      valid_PG=groups.valid_PG, correct_PG=groups.correct_PG))


@functools.partial(
    jax.jit, static_argnames=("advantage", "low_prob_share",
                              "prompt_low_prob_share", "options"))
def advantages(
    reward_PG, correct_PG, valid_PG, logp_BT, mask_BT, prompt_logp_PT,
    prompt_mask_PT, alpha, *, advantage, low_prob_share,
    prompt_low_prob_share, options, entropy_BT=None, prompt_entropy_PT=None,
):
  """Advantages of the base method, and after ARM.

  Returns:
    dict of `base_PG`, `adv_PG`, `c_answer_PG`, `c_prompt_P`, and `metrics`.
  """
  shape = reward_PG.shape
  base_PG = advantage(reward_PG, valid_PG=valid_PG)
  c_answer_PG = arm.answer_confidence(
      logp_BT, mask_BT, low_prob_share, entropy_BT=entropy_BT).reshape(shape)
  c_prompt_P = arm.prompt_confidence(
      prompt_logp_PT, prompt_mask_PT, prompt_low_prob_share,
      entropy_BT=prompt_entropy_PT)
  known = (correct_PG, c_prompt_P, c_answer_PG)
  options = dict(options)
  adv_PG = arm.reweight(
      base_PG, *known, alpha, valid_PG=valid_PG, **options)
  measured = arm.metrics(
      base_PG, adv_PG, *known, active=options["active"], valid_PG=valid_PG)
  return dict(
      base_PG=base_PG, adv_PG=jnp.where(valid_PG, adv_PG, 0.0),
      c_answer_PG=c_answer_PG, c_prompt_P=c_prompt_P, metrics=measured)


def _advantages(parts, groups, scores, reward_PG) -> dict[str, Any]:
  """`advantages` with everything that the config says, as numpy arrays."""
  a = parts.config.algo.arm
  size, group = reward_PG.shape
  prompts = groups.prompts
  # The first token of a sequence is predicted by nothing.
  predicted = prompts.user_mask_PT & np.pad(
      prompts.mask_PT[:, :-1], ((0, 0), (1, 0)))
  once = slice(None, None, group // parts.per_row)  # a prompt's first row
  tail = {}
  if a.tail == "entropy":
    tail = dict(
        entropy_BT=scores.entropy_NRT.reshape(size * group, -1),
        prompt_entropy_PT=scores.prompt_entropy_NT[once])
  return jax.device_get(advantages(
      reward_PG, groups.correct_PG, groups.valid_PG,
      scores.logp_NRT.reshape(size * group, -1),
      np.asarray(groups.rollout.mask_BT), scores.prompt_logp_NT[once],
      predicted, np.float32(a.alpha), advantage=parts.advantage,
      low_prob_share=a.low_prob_share,
      prompt_low_prob_share=a.prompt_low_prob_share,
      options=(("active", a.active), ("apply_to", a.apply_to),
               ("centre", a.centre)), **tail))


def prepare(
    parts: parts_lib.Parts, params, reference, groups: groups_lib.Groups,
    step: int, clock: progress_lib.Clock,
) -> tuple[batch_lib.TrainBatch, dict[str, Any], dict[str, float]]:
  """Scores a batch and turns rewards into advantages.

  Returns:
    (batch and signal as numpy arrays, metrics).
  """
  c, mesh = parts.config, parts.mesh
  size, group = groups.reward_PG.shape
  clock.may_stop()
  host_sequences = groups_lib.to_sequences(groups, parts.per_row)
  sequences = sharding.put_rows(host_sequences, mesh)
  run = functools.partial(
      scoring.score, parts.model, dist=parts.dist,
      micro_batches=parts.score_parts)
  with clock.stage("score"), jax.set_mesh(mesh):
    scores = sharding.fetch(run(params, sequences=sequences))
  mask_NRT = np.asarray(groups.rollout.mask_BT).reshape(scores.logp_NRT.shape)
  ref_logp_NRT = kl_NRT = None
  if reference is not None:
    with clock.stage("reference"), jax.set_mesh(mesh):
      ref_logp_NRT = sharding.fetch(
          run(reference, sequences=sequences, prompts=False).logp_NRT)
      kl_NRT = np.where(mask_NRT, scores.logp_NRT - ref_logp_NRT, 0)
  with clock.stage("advantage"):
    signal = _advantages(
        parts, groups, scores, shaped_reward(c, groups, step, kl_NRT))
  learn_PG = groups.valid_PG
  if c.algo.mask_truncated_completions:
    learn_PG = learn_PG & groups.rollout.finished_B.reshape(size, group)

  def rows(x):
    return x.reshape(-1, parts.per_row)

  learn_NR = rows(learn_PG)
  fresh_NR = rows(np.repeat(groups.fresh_P, group))
  sampled_NRT = groups.rollout.logp_BT.reshape(scores.logp_NRT.shape)
  old_NRT = np.where(fresh_NR[..., None], scores.logp_NRT, sampled_NRT)
  weight_NRT, measured = _correction(parts, old_NRT, sampled_NRT, mask_NRT)
  batch = batch_lib.TrainBatch(
      sequences=host_sequences.replace(
          mask_NRT=mask_NRT & learn_NR[..., None]),
      old_logp_NRT=old_NRT, ref_logp_NRT=ref_logp_NRT,
      adv_NR=rows(signal["adv_PG"]), fresh_NR=fresh_NR,
      reward_NR=rows(signal["base_PG"]), weight_NRT=weight_NRT,
      id_N=np.repeat(
          groups.prompts.ids_P.astype(np.uint32), group // parts.per_row))
  difference = np.abs(scores.logp_NRT - sampled_NRT)[
      mask_NRT & fresh_NR[..., None]]
  if difference.size:
    measured |= {
        "sampling/logp_difference_mean": float(np.mean(difference)),
        "sampling/logp_difference_max": float(np.max(difference))}
  if ref_logp_NRT is not None:
    gap = parts.kl(scores.logp_NRT, ref_logp_NRT)
    measured["kl"] = float(np.mean(np.asarray(gap)[mask_NRT]))
  measured |= {k: float(v) for k, v in signal.pop("metrics").items()}
  measured |= _diagnostics(groups, scores, signal, mask_NRT)
  if not (c.algo.dynamic_sampling.enabled or c.algo.rephrase.enabled):
    # The batch is all that was sampled: its exact mean takes the place of the
    # sampler's estimate.
    measured["entropy"] = measured["entropy/kept"]
  return batch, signal, measured


def _correction(parts, old_NRT, sampled_NRT, mask_NRT):
  """Weights of trainer over sampler, if the config asks for any; metrics."""
  if parts.correction is None:
    return None, {}
  shape = old_NRT.shape

  def flat(x):
    return x.reshape(-1, shape[-1])

  known = flat(old_NRT), flat(sampled_NRT), flat(mask_NRT)
  weight_BT = parts.correction(*known)
  found = correction.metrics(weight_BT, *known)
  return np.asarray(weight_BT).reshape(shape), {
      name: float(value) for name, value in found.items()}


def _diagnostics(groups, scores, signal, mask_NRT) -> dict[str, float]:
  """What tells of a collapse before the rewards do."""
  shape = (-1, mask_NRT.shape[-1])
  mask_BT = mask_NRT.reshape(shape)
  return (
      {"entropy/kept": float(np.mean(scores.entropy_NRT[mask_NRT]))}
      | diagnostics.entropy_quantiles(
          scores.entropy_NRT.reshape(shape), mask_BT)
      | diagnostics.covariance(
          scores.logp_NRT.reshape(shape), signal["adv_PG"].reshape(-1, 1),
          mask_BT))
