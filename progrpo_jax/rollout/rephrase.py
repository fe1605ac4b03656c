"""RePO: an expert's solution, in the policy's own words, where it fails.

In a group that mostly fails the policy is shown a correct solution and asked
to write it down again; if the verifier accepts what it writes, that takes the
place of the group's worst response. It is learned from as an answer to the
plain prompt: the ratio is taken under that prompt, so the log-probs of the
rephrased answer are scored anew without the solution in sight.

"Rephrasing Policy Optimization" (https://arxiv.org/abs/2602.10819). The paper's
thresholds are not known; those of the config are this project's own.
"""

import dataclasses
import functools

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import parts as parts_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax.devices import hosts, sharding
from progrpo_jax.models import scoring
from progrpo_jax.rollout import data as data_lib
from progrpo_jax.rollout import groups as groups_lib
from progrpo_jax.rollout import sampler


def failing(
    groups: groups_lib.Groups, fail_below: float, min_share: float,
) -> np.ndarray:
  """Groups that mostly fail, bool [P]; unknown verdicts count on no side."""
  valid_PG = groups.valid_PG
  failed_P = np.sum(valid_PG & (groups.reward_PG < fail_below), axis=1)
  known_P = valid_PG.sum(axis=1)
  return (known_P > 0) & (failed_P >= min_share * known_P)


def replace_worst(
    groups: groups_lib.Groups, accepted_P, rollout: batch_lib.Rollout, texts_P,
    reward_P, correct_P, values_PJ,
) -> groups_lib.Groups:
  """Puts a new response in the place of the worst of each accepted group.

  Args:
    groups: P groups.
    accepted_P: bool, groups that get theirs.
    rollout: P responses; log-probs under the plain prompt.
    texts_P: the responses as text.
    reward_P: their rewards.
    correct_P: bool, their verdicts.
    values_PJ: what reward functions of the user say of them.

  Returns:
    The groups; ties of the lowest reward go to the first response.
  """
  size = groups.reward_PG.shape[1]
  # Responses whose verdict is unknown are worth less than any known one.
  order_PG = np.where(groups.valid_PG, groups.reward_PG, -np.inf)
  worst_P = np.argmin(order_PG, axis=1)
  groups_P = np.flatnonzero(accepted_P)
  places = groups_P, worst_P[groups_P]

  def put(old_BX, new_PX):
    out = np.array(old_BX)
    out[places[0] * size + places[1]] = np.asarray(new_PX)[groups_P]
    return out

  def put_PG(old_PG, new_P):
    out = np.array(old_PG)
    out[places] = np.asarray(new_P)[groups_P]
    return out

  texts = [list(group) for group in groups.texts_PG]
  for p, g in zip(*places, strict=True):
    texts[p][g] = texts_P[p]
  return dataclasses.replace(
      groups,
      rollout=jax.tree.map(put, groups.rollout, rollout),
      texts_PG=tuple(map(tuple, texts)),
      reward_PG=put_PG(groups.reward_PG, reward_P),
      correct_PG=put_PG(groups.correct_PG, correct_P),
      valid_PG=put_PG(groups.valid_PG, np.ones(len(groups), bool)),
      values_PGJ=put_PG(groups.values_PGJ, values_PJ))


def rephrase(
    parts: parts_lib.Parts, params, groups: groups_lib.Groups, key,
    clock: progress_lib.Clock,
) -> tuple[groups_lib.Groups, dict[str, float]]:
  """Groups with rephrased solutions where they fail; metrics.

  Args:
    parts: of the run.
    params: of the policy.
    groups: verified groups.
    key: of this step's rephrasing; a prompt's draw number is folded in.
    clock: of the step.

  Returns:
    (groups, metrics): shares of the groups that fail, that could be asked
    (the task shows a solution and the question fits), and that were answered
    right.
  """
  r = parts.config.algo.rephrase
  failing_P = failing(groups, r.fail_below, r.min_fail_share)
  questions = _questions(parts, groups, failing_P)
  asked_P = np.array([q is not None for q in questions])
  metrics = {
      "rephrase/failing_frac": float(failing_P.mean()),
      "rephrase/asked_frac": float(asked_P.mean()),
      "rephrase/accepted_frac": 0.0}
  if not asked_P.any():
    return groups, metrics
  # Always as many as there are groups, so that one program serves: those that
  # are not asked repeat a question that is.
  filler = next(q for q in questions if q is not None)
  prompts = parts.rephraser.encode(
      [filler if q is None else q for q in questions], groups.prompts.ids_P)
  with clock.stage("sample"):
    rollout = sampler.sample(
        parts.model, params, prompts, key,
        dataclasses.replace(parts.sampling, num_generations=1), parts.mesh)
  with clock.stage("verify"):
    texts, reward, correct, valid, values = data_lib.join(hosts.share_out(
        functools.partial(
            data_lib.judge, parts.pool, parts.tokenizer, groups.prompts.rows,
            rollout, 1), len(groups)))
  accepted_P = asked_P & correct[:, 0] & valid[:, 0]
  metrics["rephrase/accepted_frac"] = float(accepted_P.mean())
  if not accepted_P.any():
    return groups, metrics
  with clock.stage("score"):
    rollout = rollout.replace(
        logp_BT=_plain_logp(parts, params, groups.prompts, rollout))
  return replace_worst(
      groups, accepted_P, rollout, [t[0] for t in texts], reward[:, 0],
      correct[:, 0], values[:, 0]), metrics


def _questions(parts, groups, failing_P) -> list:
  """The rows to ask, or None where there is nothing to ask."""
  template = parts.config.algo.rephrase.template
  questions = []
  for row, number, fails in zip(
      groups.prompts.rows, groups.prompts.ids_P, failing_P, strict=True):
    question = None
    if fails and row.demonstrations:
      # Another one each time the problem is drawn.
      solution = row.demonstrations[int(number) % len(row.demonstrations)]
      question = dataclasses.replace(row, prompt=template.format(
          prompt=row.prompt, solution=solution))
      if not parts.rephraser.fits(question):
        question = None
    questions.append(question)
  return questions


def _plain_logp(parts, params, prompts, rollout) -> np.ndarray:
  """Log-probs of one response each under the plain prompts, [P, T]."""
  sequences = sharding.put_rows(batch_lib.Sequences(
      prompt_NT=prompts.tokens_PT, prompt_mask_NT=prompts.mask_PT,
      tokens_NRT=rollout.tokens_BT[:, None],
      mask_NRT=rollout.mask_BT[:, None]), parts.mesh)
  with jax.set_mesh(parts.mesh):
    scores = scoring.score(
        parts.model, params, sequences, parts.dist, prompts=False)
  return sharding.fetch(scores.logp_NRT)[:, 0]
