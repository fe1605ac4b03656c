"""The rollout stage: groups are drawn until a batch of them is full.

With dynamic sampling, groups that teach nothing are dropped and sampling goes
on until the batch is full or the bound on rounds is reached.
"""

from collections.abc import Callable, Sequence
import dataclasses
import statistics

import jax
import numpy as np

from progrpo_jax import groups as groups_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax import randomness
from progrpo_jax.devices import hosts, stopping
from progrpo_jax.rollout import draw as draw_lib
from progrpo_jax.rollout import measure, prompts, rewarding
from progrpo_jax.rollout import rephrase as rephrase_lib

# Steps done before what counts as right is looked at: once, and not before a
# first step has shown that all works.
_NOTED_AT = 2


@dataclasses.dataclass(frozen=True)
class Collected:
  """A full batch, and what it took.

  Attributes:
    batch: exactly the number of groups asked for.
    sampled: all groups as the policy sampled them in this step, for honest
      statistics: dropped groups too, and without an expert's responses.
    metrics: numbers of the rollout, under `dynamic_sampling/` and others.
  """

  batch: groups_lib.Groups
  sampled: groups_lib.Groups
  metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Collect:
  """Collects the groups of a step.

  Attributes:
    prompter: prompts by the number of their draw.
    draw: samples and verifies groups for prompts.
    count: groups of a batch.
    key: PRNG key of the run.
    stop: request to stop, which is looked at before each round.
    round_prompts: prompts of a round.
    keep: rule that picks the groups to keep; None keeps all.
    max_rounds: rounds of sampling at the most.
    carry: hand groups beyond the batch to the next step; False drops them.
    rephrase: RePO's stage, or None.
    say: callback of a message to the user.
  """

  prompter: prompts.Prompter
  draw: draw_lib.DrawGroups
  count: int
  key: jax.Array
  stop: stopping.Stop
  round_prompts: int
  keep: rewarding.KeepGroups | None = None
  max_rounds: int = 1
  carry: bool = False
  rephrase: rephrase_lib.Rephrase | None = None
  say: Callable[[str], None] = lambda _: None

  def __call__(
    self, params, progress: progress_lib.Progress
  ) -> tuple[Collected, progress_lib.Progress]:
    """Samples and verifies groups until the batch is full.

    If the rounds do not fill it, dropped groups without verdicts do: the
    shape of the batch stays, and they teach nothing.

    Args:
      params: all parameters of the policy.
      progress: progress of the run; its surplus comes first.

    Returns:
      (what was collected, progress with the prompts and tokens counted, and
      with the groups beyond the batch as its surplus).
    """
    key, rephrase_key = (
      randomness.stream_key(self.key, progress.step, stream)
      for stream in (randomness.Stream.SAMPLE, randomness.Stream.REPHRASE)
    )
    position, carried = progress.position, progress.surplus
    self.draw.pool.at_step(progress.step)
    failures_before = dataclasses.replace(self.draw.pool.counters)
    # Groups carried over were sampled by an earlier policy.
    kept = (
      []
      if carried is None
      else [dataclasses.replace(carried, fresh_P=np.zeros(len(carried), bool))]
    )
    dropped, sampled, rephrased = [], [], []
    engine = self.draw.engine(params)
    while sum(map(len, kept)) < self.count and len(sampled) < self.max_rounds:
      self.stop.check()
      groups = self.draw(
        engine, self.prompter.take(position, self.round_prompts), key
      )
      position += self.round_prompts
      sampled.append(groups)
      if self.rephrase is not None:
        groups, shares = self.rephrase(engine, groups, rephrase_key)
        rephrased.append(shares)
      keep_P = np.ones(len(groups), bool)
      if self.keep is not None:
        keep_P = self.keep(groups, progress.step)
      kept.append(groups.take(np.flatnonzero(keep_P)))
      dropped.append(groups.take(np.flatnonzero(~keep_P)))
    filled = groups_lib.concatenate(
      kept + [groups.without_verdicts() for groups in dropped]
    )
    num_kept = sum(map(len, kept))
    surplus = None
    if self.carry and num_kept > self.count:
      # As wide as a resumed run encodes them: another width is another
      # program, whose last bits may differ.
      surplus = filled.take(range(self.count, num_kept))
      surplus = dataclasses.replace(
        surplus, prompts=self.prompter.of(surplus.prompts.ids_P)
      )
    batch = filled.take(range(self.count))
    everything = groups_lib.concatenate(sampled) if sampled else batch
    metrics = (
      _shares(everything, kept, dropped, carried, self.count, len(sampled))
      | measure.rollouts(everything)
      | self._failures(failures_before)
    )
    if engine.row_steps:
      metrics["perf/useful_share_sample"] = engine.tokens / engine.row_steps
    for name in rephrased[0] if rephrased else ():
      metrics[name] = statistics.mean(shares[name] for shares in rephrased)
    if progress.step == _NOTED_AT:
      for note in measure.threshold_notes(everything):
        self.say(note)
    # Tokens carried over were counted when they were sampled.
    tokens = int(np.sum(everything.rollout.mask_BT)) if sampled else 0
    return Collected(batch, everything, metrics), dataclasses.replace(
      progress,
      position=position,
      surplus=surplus,
      num_tokens=progress.num_tokens + tokens,
    )

  def _failures(self, before) -> dict[str, int]:
    """Verifications of all hosts that failed in this step, by their kind."""
    now = self.draw.pool.counters
    by_host = hosts.gather(
      {
        f"verifier/{name}": getattr(now, name) - getattr(before, name)
        for name in ("timeouts", "crashes", "refused")
      }
    )
    return {
      name: sum(counts[name] for counts in by_host) for name in by_host[0]
    }


def _shares(
  sampled: groups_lib.Groups,
  kept: Sequence[groups_lib.Groups],
  dropped: Sequence[groups_lib.Groups],
  carried: groups_lib.Groups | None,
  count: int,
  rounds: int,
) -> dict[str, float]:
  """How a batch was filled, and shares of groups without any spread."""
  num_kept, num_dropped = sum(map(len, kept)), sum(map(len, dropped))
  drawn = num_kept + num_dropped - (0 if carried is None else len(carried))
  valid_PG, correct_PG = sampled.valid_PG, sampled.correct_PG
  some_P = valid_PG.any(axis=1)
  return {
    "dynamic_sampling/rounds": rounds,
    "dynamic_sampling/keep_frac": (1.0 - num_dropped / drawn if drawn else 1.0),
    "dynamic_sampling/filled_frac": min(1.0, num_kept / count),
    "dynamic_sampling/all_right_frac": float(
      np.mean(some_P & (correct_PG | ~valid_PG).all(axis=1))
    ),
    "dynamic_sampling/all_wrong_frac": float(
      np.mean(some_P & ~(correct_PG & valid_PG).any(axis=1))
    ),
  }
