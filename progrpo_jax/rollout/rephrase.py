"""RePO: an expert's solution, in the policy's own words, where it fails.

In a group that mostly fails the policy is shown a correct solution and asked
to write it down again; if the verifier accepts what it writes, that takes the
place of the group's worst response. It is learned from as an answer to the
plain prompt: the ratio is taken under that prompt, so the log-probs of the
rephrased answer are scored anew without the solution in sight.

"Rephrasing Policy Optimization" (https://arxiv.org/abs/2602.10819). The paper's
thresholds are not known; the defaults are this project's.
"""

import dataclasses
import functools

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax.devices import hosts, timing
from progrpo_jax.models import scoring
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rollout import decoding, sampler, verify
from progrpo_jax.rollout import prompts as prompts_lib
from progrpo_jax.tasks import base
from progrpo_jax.text import tokenizer as tokenizer_lib


def failing(
  groups: groups_lib.Groups, fail_below: float, min_share: float
) -> np.ndarray:
  """Which groups mostly fail, bool [P].

  Args:
    groups: P verified groups; responses whose verifier failed do not count.
    fail_below: rewards below this are failures.
    min_share: share of failures from which a group counts, in [0, 1].
  """
  valid_PG = groups.valid_PG
  failed_P = np.sum(valid_PG & (groups.reward_PG < fail_below), axis=1)
  valid_P = valid_PG.sum(axis=1)
  return (valid_P > 0) & (failed_P >= min_share * valid_P)


def replace_worst(
  groups: groups_lib.Groups,
  accepted_P,
  rollout: batch_lib.Rollout,
  verified: verify.Verified,
) -> groups_lib.Groups:
  """Puts a new response in the place of the worst of each accepted group.

  Args:
    groups: P groups.
    accepted_P: bool, groups that get theirs; the verifier did not fail there.
    rollout: P responses; log-probs under the plain prompt.
    verified: the responses as text and what was said of them, one per prompt.

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

  def put_PG(old_PG, new_PG):
    out = np.array(old_PG)
    out[places] = new_PG[groups_P, 0]
    return out

  texts = [list(group) for group in groups.texts_PG]
  extra = [list(group) for group in groups.extra_PG]
  for p, g in zip(*places, strict=True):
    texts[p][g] = verified.texts_PG[p][0]
    if extra:
      extra[p][g] = verified.extra_PG[p][0]
  return dataclasses.replace(
    groups,
    rollout=jax.tree.map(put, groups.rollout, rollout),
    texts_PG=tuple(map(tuple, texts)),
    extra_PG=tuple(map(tuple, extra)),
    reward_PG=put_PG(groups.reward_PG, verified.reward_PG),
    correct_PG=put_PG(groups.correct_PG, verified.correct_PG),
    valid_PG=put_PG(groups.valid_PG, verified.valid_PG),
    values_PGJ=put_PG(groups.values_PGJ, verified.values_PGJ),
  )


@dataclasses.dataclass(frozen=True)
class Rephrase:
  """Puts rephrased solutions into groups that mostly fail.

  Attributes:
    settings: temperature and lengths; one answer to each question.
    dist: distribution of the log-probs.
    tokenizer: the policy's.
    pool: processes that verify.
    prompter: encodes questions, in one width.
    timer: times "sample", "verify" and "score".
    template: question; {prompt} and {solution} are filled in.
    fail_below: rewards below this are failures.
    min_fail_share: share of failures from which a group is asked for.
  """

  settings: decoding.Settings
  dist: scoring.Distribution
  tokenizer: tokenizer_lib.Tokenizer
  pool: pool_lib.Pool
  prompter: prompts_lib.Prompter
  timer: timing.Timer
  template: str
  fail_below: float
  min_fail_share: float

  def __call__(
    self, engine: sampler.Engine, groups: groups_lib.Groups, key
  ) -> tuple[groups_lib.Groups, dict[str, float]]:
    """Returns groups with accepted answers in them, and metrics.

    Metrics are shares of the groups: those that fail, those that could be
    asked (the task shows a solution and the question fits), and those whose
    answer the verifier accepted.

    Args:
      engine: the policy.
      groups: P verified groups.
      key: PRNG key; the number of a prompt's draw is folded in.
    """
    failing_P = failing(groups, self.fail_below, self.min_fail_share)
    questions = self.questions(groups, failing_P)
    asked_P = np.array([question is not None for question in questions])
    metrics = {
      "rephrase/failing_frac": float(failing_P.mean()),
      "rephrase/asked_frac": float(asked_P.mean()),
      "rephrase/accepted_frac": 0.0,
    }
    if not asked_P.any():
      return groups, metrics
    # Always P questions, so that one compiled program serves: groups that are
    # not asked repeat a question that is, and a negative number says that
    # nothing is to be sampled.
    filler = next(question for question in questions if question is not None)
    prompts = self.prompter.encode(
      [filler if question is None else question for question in questions],
      np.where(asked_P, groups.prompts.ids_P, -1),
    )
    with self.timer.stage("sample"):
      rollout = sampler.sample(engine, prompts, key, self.settings)
    with self.timer.stage("verify"):
      verified = verify.join(
        hosts.share_out(
          functools.partial(
            verify.decode_and_verify,
            self.pool,
            self.tokenizer,
            groups.prompts.rows,
            rollout,
            1,
          ),
          len(groups),
        )
      )
    accepted_P = asked_P & (verified.correct_PG & verified.valid_PG)[:, 0]
    metrics["rephrase/accepted_frac"] = float(accepted_P.mean())
    if not accepted_P.any():
      return groups, metrics
    with self.timer.stage("score"):
      rollout = rollout.replace(
        logp_BT=self._plain_logp(engine, groups.prompts, rollout)
      )
    return replace_worst(groups, accepted_P, rollout, verified), metrics

  def questions(
    self, groups: groups_lib.Groups, failing_P
  ) -> list[base.Row | None]:
    """Returns a question for each group, None where there is none to ask."""
    questions = []
    for row, number, fails in zip(
      groups.prompts.rows, groups.prompts.ids_P, failing_P, strict=True
    ):
      question = None
      if fails and row.demonstrations:
        # Another solution each time the problem is drawn.
        solution = row.demonstrations[int(number) % len(row.demonstrations)]
        question = dataclasses.replace(
          row, prompt=self.template.format(prompt=row.prompt, solution=solution)
        )
        if not self.prompter.fits(question):
          question = None
      questions.append(question)
    return questions

  def _plain_logp(self, engine, prompts, rollout) -> np.ndarray:
    """Log-probs [P, T] of one response each, under the plain prompts."""
    sequences = batch_lib.Sequences(
      prompt_NT=prompts.tokens_PT,
      prompt_mask_NT=prompts.mask_PT,
      tokens_NRT=np.asarray(rollout.tokens_BT)[:, None],
      mask_NRT=np.asarray(rollout.mask_BT)[:, None],
    )
    with jax.set_mesh(engine.mesh):
      scores = scoring.score(
        engine.config, engine.params, sequences, self.dist, prompt_stride=0
      )
    return scores.logp_NRT[:, 0]
