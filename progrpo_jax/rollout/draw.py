"""A round of sampling: prompts in, verified groups out.

A round is sampled in batches. While the devices sample one batch, a thread
decodes the batch before it and has the pool's processes verify it, so that a
step waits for the last batch only. Each host decodes and verifies its share of
every batch. The groups are the same as without any of this overlap.
"""

from concurrent import futures
import contextlib
import dataclasses

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import groups as groups_lib
from progrpo_jax.devices import hosts, stopping, timing
from progrpo_jax.models import config as model_config
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rollout import decoding, sampler, turns, verify
from progrpo_jax.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class DrawGroups:
  """Samples responses to prompts and verifies them.

  Attributes:
    model: configuration of the policy.
    mesh: mesh on which responses are drawn, see `sampler.Engine`.
    settings: temperature, lengths and sizes of the batches.
    tokenizer: the policy's, which decodes the responses.
    pool: processes that verify.
    timer: times "sample", and "verify": the seconds that the step waits for
      verdicts, not those that verifying takes.
    stop: request to stop, which is looked at between two batches and between
      two calls of decoding.
  """

  model: model_config.ModelConfig
  mesh: jax.sharding.Mesh
  settings: decoding.Settings
  tokenizer: tokenizer_lib.Tokenizer
  pool: pool_lib.Pool
  timer: timing.Timer
  stop: stopping.Stop

  def engine(self, params) -> sampler.Engine:
    """Returns what samples in a rollout, one for all of its calls.

    Args:
      params: all parameters of the policy.
    """
    return sampler.Engine(self.model, params, self.mesh, self.stop.check)

  def __call__(
    self, engine: sampler.Engine, prompts: batch_lib.Prompts, key
  ) -> groups_lib.Groups:
    """Draws one group for each prompt.

    Args:
      engine: the policy, from `engine`.
      prompts: P prompts.
      key: PRNG key of the sampling of this step.

    Raises:
      PoolError: too many verifications of a batch failed.
      Preempted: the run was asked to stop.
    """
    group = self.settings.num_generations
    rollouts, failed, verdicts, start = [], [], [], 0
    with _thread() as thread:
      with self.timer.stage("sample"):
        for rollout, failed_B in turns.batches(
          engine,
          prompts,
          key,
          self.settings,
          self.tokenizer,
          turns.TaskReplies(self.pool),
        ):
          end = start + len(rollout.mask_BT) // group
          rollouts.append(rollout)
          failed.append(failed_B)
          verdicts.append(
            thread.submit(
              verify.decode_and_verify,
              self.pool,
              self.tokenizer,
              prompts.rows[start:end],
              rollout,
              group,
              hosts.mine(end - start),
            )
          )
          start = end
          # A failed batch raises below, before more are sampled. All hosts
          # leave the loop together: the next batch is a collective of all.
          if hosts.any_of(_has_failed(verdicts)):
            break
          self.stop.check()
      with self.timer.stage("verify"):
        shares = hosts.gather(
          hosts.agree(lambda: [future.result() for future in verdicts])
        )
    # shares[host][batch]: the prompts' order is batch by batch.
    verified = verify.join(
      [share for batch in zip(*shares, strict=True) for share in batch]
    )
    failed_PG = np.concatenate(failed).reshape(verified.reward_PG.shape)
    return groups_lib.Groups(
      prompts=prompts,
      rollout=jax.tree.map(lambda *x: np.concatenate(x), *rollouts),
      texts_PG=verified.texts_PG,
      reward_PG=np.where(failed_PG, np.float32(0), verified.reward_PG),
      correct_PG=verified.correct_PG & ~failed_PG,
      valid_PG=verified.valid_PG & ~failed_PG,
      fresh_P=np.ones(len(prompts), bool),
      values_PGJ=verified.values_PGJ,
      extra_PG=verified.extra_PG,
      logged=verified.logged,
    )


@contextlib.contextmanager
def _thread():
  """A thread; work that it has not begun when something fails is dropped."""
  thread = futures.ThreadPoolExecutor(1, "verify")
  try:
    yield thread
  except BaseException:
    # Nor is the work that it has begun waited for, such as a function of the
    # user that takes long: an interrupt is to stop at once.
    thread.shutdown(wait=False, cancel_futures=True)
    raise
  thread.shutdown()


def _has_failed(verdicts: list[futures.Future]) -> bool:
  """Returns whether verifying a batch has failed by now."""
  return any(future.done() and future.exception() for future in verdicts)
