"""A round of sampling: prompts in, verified groups out.

A round is sampled in batches of `config.sampling.batch_prompts`. What comes
of a batch is decoded and verified in a thread, and so in the pool's
processes, while the devices sample the next one; a step waits for the last
batch only. Each host decodes and verifies its share of every batch. The result
is that of one batch after the other, on one host.
"""

from concurrent import futures
import contextlib

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import parts as parts_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax.devices import hosts
from progrpo_jax.rollout import data as data_lib
from progrpo_jax.rollout import groups as groups_lib
from progrpo_jax.rollout import sampler


def draw(
    parts: parts_lib.Parts, params, prompts: batch_lib.Prompts, key,
    clock: progress_lib.Clock,
) -> groups_lib.Groups:
  """Samples and verifies a round; its stages are "sample" and "verify".

  Args:
    parts: of the run.
    params: of the policy.
    prompts: of the round.
    key: of this step's sampling.
    clock: of the step. "verify" is the time that the step waits for
      verdicts, not the time that they take.

  Raises:
    PoolError: too many verifications of a batch failed.
    Preempted: the run was asked to stop between two batches.
  """
  group = parts.sampling.num_generations
  rollouts, judging, start = [], [], 0
  with _thread() as thread:
    with clock.stage("sample"):
      for rollout in sampler.batches(
          parts.model, params, prompts, key, parts.sampling, parts.mesh):
        end = start + len(rollout.mask_BT) // group
        rollouts.append(rollout)
        judging.append(thread.submit(
            data_lib.judge, parts.pool, parts.tokenizer,
            prompts.rows[start:end], rollout, group, hosts.mine(end - start)))
        start = end
        if hosts.any_of(_has_failed(judging)):
          break  # and raise it below, before more are sampled
        clock.may_stop()
    with clock.stage("verify"):
      shares = hosts.gather(
          hosts.agree(lambda: [one.result() for one in judging]))
  texts_PG, reward_PG, correct_PG, valid_PG, values_PGJ = data_lib.join(
      [share for batch in zip(*shares, strict=True) for share in batch])
  return groups_lib.Groups(
      prompts=prompts,
      rollout=jax.tree.map(lambda *x: np.concatenate(x), *rollouts),
      texts_PG=texts_PG, reward_PG=reward_PG, correct_PG=correct_PG,
      valid_PG=valid_PG, fresh_P=np.ones(len(prompts), bool),
      values_PGJ=values_PGJ)


@contextlib.contextmanager
def _thread():
  """A thread; work that it has not begun when something fails is dropped."""
  with futures.ThreadPoolExecutor(1, "verify") as thread:
    try:
      yield thread
    except BaseException:
      thread.shutdown(wait=False, cancel_futures=True)
      raise


def _has_failed(judging: list[futures.Future]) -> bool:
  """Whether verifying a batch has failed by now."""
  return any(one.done() and one.exception() for one in judging)
