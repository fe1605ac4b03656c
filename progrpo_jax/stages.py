"""The stages of a training step, each one call of the loop.

Each takes the parts of the run and what the stages before it made, and hands
back something new; none keeps anything to itself.
"""

import contextlib
import dataclasses
import functools
import math
import time
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import data as data_lib
from progrpo_jax import errors, sampler, scoring, sharding
from progrpo_jax import groups as groups_lib
from progrpo_jax import parts as parts_lib
from progrpo_jax import state as state_lib
from progrpo_jax.algos import arm, reset, shaping

# Streams of randomness within a step.
_SAMPLE = 0


class Diverged(errors.RunError):
  """Too many updates in a row were not finite."""


class Preempted(Exception):
  """The run was asked to stop; its last state is to be saved."""


class View(Protocol):
  """What shows a run to people while it goes on."""

  def phase(self, name: str) -> None:
    """A stage of a step begins."""

  def step(self, step: int, metrics: dict[str, float]) -> None:
    """A step is done."""

  def eval(self, step: int, metrics: dict[str, float]) -> None:
    """An evaluation is done."""

  def message(self, text: str) -> None:
    """Something worth a line happened."""


@dataclasses.dataclass(frozen=True)
class Progress:
  """What a run knows of itself besides its parameters.

  Attributes:
    step: steps done.
    position: prompts drawn.
    ref_step: step whose checkpoint is the reference.
    resets: how often the reference was reset.
    num_tokens: response tokens sampled.
    scores: (step, watched validation score) since the last reset.
    kls: (step, KL to the reference) since the last reset.
    surplus: groups carried over to the next step, or None.
  """

  step: int = 0
  position: int = 0
  ref_step: int = 0
  resets: int = 0
  num_tokens: int = 0
  scores: tuple[tuple[int, float], ...] = ()
  kls: tuple[tuple[int, float], ...] = ()
  surplus: groups_lib.Groups | None = None

  def to_meta(self) -> dict[str, Any]:
    """The JSON part; the surplus is saved as arrays."""
    return {
        f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        if f.name != "surplus"}

  @classmethod
  def from_meta(cls, meta, surplus) -> "Progress":
    """The inverse of `to_meta`."""
    known = {f.name for f in dataclasses.fields(cls)} - {"surplus"}
    values = {k: v for k, v in meta.items() if k in known}
    for name in ("scores", "kls"):
      values[name] = tuple((int(s), float(v)) for s, v in values[name])
    return cls(**values, surplus=surplus)


class Clock:
  """Names the stages of a step, times them, and lets a run stop early."""

  def __init__(self, view: View):
    self.view = view
    self.asked_to_stop = False
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def stage(self, name: str):
    """A stage; its seconds are logged as timing_s/<name>."""
    self.view.phase(name)
    start = time.perf_counter()
    with jax.profiler.TraceAnnotation(name):
      yield
    self.seconds[name] = (
        self.seconds.get(name, 0.0) + time.perf_counter() - start)

  def may_stop(self) -> None:
    """Called where nothing of a step has been applied yet.

    Raises:
      Preempted: someone asked the run to stop.
    """
    if self.asked_to_stop:
      raise Preempted

  def take(self) -> dict[str, float]:
    """Seconds of the stages since the last call, and of all together."""
    seconds, self.seconds = self.seconds, {}
    seconds["step"] = sum(seconds.values())
    return {f"timing_s/{name}": s for name, s in seconds.items()}


def collect(
    parts: parts_lib.Parts, params, progress: Progress, clock: Clock,
) -> tuple[groups_lib.Collected, Progress]:
  """Samples and verifies groups until the batch is full."""
  c = parts.config
  dynamic = c.algo.dynamic_sampling
  count = c.train.prompts_per_step
  size = parts_lib.prompts_per_round(c)
  group = c.algo.num_generations
  key = jax.random.fold_in(
      jax.random.fold_in(parts.key, progress.step), _SAMPLE)
  position = progress.position
  counters = parts.pool.counters
  timeouts, crashes = counters.timeouts, counters.crashes

  def draw() -> groups_lib.Groups:
    nonlocal position
    clock.may_stop()
    prompts = parts.prompter.take(position, size)
    position += size
    with clock.stage("sample"):
      rollout = sampler.sample(
          parts.model, params, prompts, key, parts.sampling, parts.mesh)
    with clock.stage("verify"):
      texts = data_lib.texts(parts.tokenizer, rollout, group)
      reward, correct, valid = data_lib.verify(
          parts.pool, prompts.rows, texts)
    return groups_lib.Groups(
        prompts=prompts, rollout=rollout, texts_PG=texts, reward_PG=reward,
        correct_PG=correct, valid_PG=valid, fresh_P=np.ones(size, bool))

  def keep(groups) -> np.ndarray:
    if not dynamic.enabled:
      return np.ones(len(groups), bool)
    return np.asarray(shaping.keep_groups(
        groups.reward_PG, keep_all_correct=dynamic.keep_all_correct,
        valid_PG=groups.valid_PG))

  collected = groups_lib.collect(
      draw, keep, count=count, carried=progress.surplus,
      max_rounds=dynamic.max_rounds if dynamic.enabled else 1,
      carry=dynamic.enabled and dynamic.surplus == "carry")
  tokens = int(np.sum(collected.sampled.rollout.mask_BT))
  surplus = collected.surplus
  if surplus is not None:
    # As wide as a resumed run encodes them: another width is another program,
    # whose last bits may differ.
    surplus = dataclasses.replace(
        surplus, prompts=parts.prompter.of(surplus.prompts.ids_P))
  collected.metrics.update({
      "verifier/timeouts": counters.timeouts - timeouts,
      "verifier/crashes": counters.crashes - crashes})
  return collected, dataclasses.replace(
      progress, position=position, surplus=surplus,
      num_tokens=progress.num_tokens + tokens)


def shaped_reward(c, groups: groups_lib.Groups) -> np.ndarray:
  """The verifier's reward with the penalty for length, [P, G]."""
  reward_PG = groups.reward_PG
  if c.algo.overlong_cache:
    length_B = np.sum(groups.rollout.mask_BT, axis=1)
    penalty_B = shaping.overlong_penalty(
        length_B, c.sampling.max_new_tokens, c.algo.overlong_cache)
    reward_PG = reward_PG + np.asarray(penalty_B).reshape(reward_PG.shape)
  return reward_PG


@functools.partial(
    jax.jit, static_argnames=("advantage", "low_prob_share",
                              "prompt_low_prob_share", "options"))
def advantages(
    reward_PG, correct_PG, valid_PG, logp_BT, mask_BT, prompt_logp_PT,
    prompt_mask_PT, alpha, *, advantage, low_prob_share,
    prompt_low_prob_share, options,
):
  """Advantages of the base method, and after ARM.

  Returns:
    dict of `base_PG`, `adv_PG`, `c_answer_PG`, `c_prompt_P`, and `metrics`.
  """
  shape = reward_PG.shape
  base_PG = advantage(reward_PG, valid_PG=valid_PG)
  c_answer_PG = arm.answer_confidence(
      logp_BT, mask_BT, low_prob_share).reshape(shape)
  c_prompt_P = arm.prompt_confidence(
      prompt_logp_PT, prompt_mask_PT, prompt_low_prob_share)
  known = (correct_PG, c_prompt_P, c_answer_PG)
  options = dict(options)
  adv_PG = arm.reweight(
      base_PG, *known, alpha, valid_PG=valid_PG, **options)
  measured = arm.metrics(
      base_PG, adv_PG, *known, active=options["active"], valid_PG=valid_PG)
  return dict(
      base_PG=base_PG, adv_PG=jnp.where(valid_PG, adv_PG, 0.0),
      c_answer_PG=c_answer_PG, c_prompt_P=c_prompt_P, metrics=measured)


def prepare(
    parts: parts_lib.Parts, params, reference, groups: groups_lib.Groups,
    clock: Clock,
) -> tuple[batch_lib.TrainBatch, dict[str, Any], dict[str, float]]:
  """Scores a batch and turns rewards into advantages.

  Returns:
    (batch on the mesh, signal as numpy arrays, metrics).
  """
  c, mesh = parts.config, parts.mesh
  size, group = groups.reward_PG.shape
  clock.may_stop()
  sequences = sharding.put_rows(
      groups_lib.to_sequences(groups, parts.per_row), mesh)
  run = functools.partial(
      scoring.score, parts.model, dist=parts.dist,
      micro_batches=parts.score_parts)
  with clock.stage("score"), jax.set_mesh(mesh):
    scores = run(params, sequences=sequences)
    old = jax.device_get(scores)
  measured = {}
  ref_logp = None
  mask_NRT = np.asarray(groups.rollout.mask_BT).reshape(old.logp_NRT.shape)
  if reference is not None:
    with clock.stage("reference"), jax.set_mesh(mesh):
      ref = run(reference, sequences=sequences, prompts=False)
      ref_logp = ref.logp_NRT
      gap = parts_lib.kl_of(c)(old.logp_NRT, np.asarray(ref_logp))
      measured["kl"] = float(np.mean(np.asarray(gap)[mask_NRT]))
  with clock.stage("advantage"):
    old_BT = old.logp_NRT.reshape(size * group, -1)
    mask_BT = np.asarray(groups.rollout.mask_BT)
    prompts = groups.prompts
    # The first token of a sequence is predicted by nothing.
    predicted = prompts.user_mask_PT & np.pad(
        prompts.mask_PT[:, :-1], ((0, 0), (1, 0)))
    a = c.algo.arm
    signal_ = jax.device_get(advantages(
        shaped_reward(c, groups), groups.correct_PG, groups.valid_PG, old_BT,
        mask_BT, old.prompt_logp_NT[::group // parts.per_row], predicted,
        np.float32(a.alpha), advantage=parts.advantage,
        low_prob_share=a.low_prob_share,
        prompt_low_prob_share=a.prompt_low_prob_share,
        options=(("active", a.active), ("apply_to", a.apply_to),
                 ("centre", a.centre))))
  learn_PG = groups.valid_PG
  if c.algo.mask_truncated_completions:
    learn_PG = learn_PG & groups.rollout.finished_B.reshape(size, group)
  learn_NR = learn_PG.reshape(-1, parts.per_row)
  fresh_NR = np.repeat(groups.fresh_P, group).reshape(-1, parts.per_row)
  sampled_NRT = groups.rollout.logp_BT.reshape(old.logp_NRT.shape)
  old_logp, adv, fresh, learn = sharding.put_rows(
      (np.where(fresh_NR[..., None], old.logp_NRT, sampled_NRT),
       signal_["adv_PG"].reshape(-1, parts.per_row), fresh_NR, learn_NR), mesh)
  batch = batch_lib.TrainBatch(
      sequences=sequences.replace(
          mask_NRT=sequences.mask_NRT & learn[..., None]),
      old_logp_NRT=old_logp, ref_logp_NRT=ref_logp, adv_NR=adv,
      fresh_NR=fresh)
  difference = np.abs(old.logp_NRT - sampled_NRT)[
      mask_NRT & fresh_NR[..., None]]
  measured |= {k: float(v) for k, v in signal_.pop("metrics").items()}
  measured |= {
      "sampling/logp_difference_mean": float(np.mean(difference)),
      "sampling/logp_difference_max": float(np.max(difference)),
  } if difference.size else {}
  measured |= {
      "entropy": float(np.mean(old.entropy_NRT[mask_NRT]))}
  return batch, signal_, measured


def improve(
    parts: parts_lib.Parts, state: state_lib.TrainState,
    batch: batch_lib.TrainBatch, clock: Clock,
) -> tuple[state_lib.TrainState, dict[str, float]]:
  """Runs the updates of a step.

  Raises:
    Diverged: too many updates in a row were not finite.
  """
  c = parts.config
  sums: dict[str, tuple[Any, Any]] = {}
  with clock.stage("update"), jax.set_mesh(parts.mesh):
    for iteration in range(c.train.num_iterations):
      for index in range(c.train.num_minibatches):
        first = np.bool_(iteration == 0 and index == 0)
        state, found = parts.update(state, batch, np.int32(index), first)
        for name, (total, count) in found.items():
          old = sums.get(name, (0.0, 0.0))
          sums[name] = old[0] + total, old[1] + count
    sums, skipped = jax.device_get((sums, state.skipped))
  if skipped >= c.train.max_skipped_updates:
    raise Diverged(
        f"{skipped} updates in a row had a loss or gradient that was not "
        "finite; the parameters are those of before. Lower the learning rate, "
        "or look at the rollouts of the last steps")
  return state, {
      name: float(total / count) for name, (total, count) in sums.items()
      if count > 0}


def evaluate(
    parts: parts_lib.Parts, params, clock: Clock, writer, step: int,
) -> dict[str, float]:
  """Tries the held-out problems of every set and writes what came of it."""
  values: dict[str, float] = {}
  records = []
  for evaluator in parts.evaluators:
    with clock.stage("evaluate"):
      samples = evaluator.sample(params)
      values |= dict(evaluator.run(samples))
      records += evaluator.records(samples)
  if values:
    writer.write_eval(step, values)
    writer.write_eval_samples(
        step, [dict(step=step, **record) for record in records])
    clock.view.eval(step, values)
  return values


def advance(progress: Progress, measured: dict[str, float]) -> Progress:
  """One more step is done."""
  step = progress.step + 1
  kls = progress.kls
  if "kl" in measured:
    kls = (*kls, (step, measured["kl"]))
  return dataclasses.replace(progress, step=step, kls=kls)


def validate(
    parts: parts_lib.Parts, params, progress: Progress, writer, clock: Clock,
) -> Progress:
  """Tries held-out problems when they are due; the score joins the history."""
  c = parts.config
  last = progress.step == c.train.total_steps
  if not c.eval.every or not (last or progress.step % c.eval.every == 0):
    return progress
  values = evaluate(parts, params, clock, writer, progress.step)
  score = watched(c, values)
  if score is None:
    return progress
  return dataclasses.replace(
      progress, scores=(*progress.scores, (progress.step, score)))


def watched(c, values: dict[str, float]) -> float | None:
  """The validation score that resets watch: its mean over the sets."""
  found = [v for k, v in values.items() if k.split("/", 2)[-1] ==
           c.algo.reset.watch and k.startswith("eval/")]
  return sum(found) / len(found) if found else None


def decide_reset(c, progress: Progress) -> tuple[Progress, str]:
  """The reference becomes this step's policy, if it is time; and why."""
  due, reason = reset.should_reset(
      progress.step, last_reset=progress.ref_step,
      history=dict(score=progress.scores, kl=progress.kls),
      **parts_lib.reset_options(c))
  if not due:
    return progress, ""
  return dataclasses.replace(
      progress, ref_step=progress.step, resets=progress.resets + 1,
      scores=tuple(s for s in progress.scores if s[0] == progress.step),
      kls=()), reason


def restart_optimizer(
    parts: parts_lib.Parts, state: state_lib.TrainState,
) -> state_lib.TrainState:
  """The same parameters with an optimiser that has seen nothing."""
  where = state_lib.shardings(parts.model, parts.tx, parts.mesh).opt_state
  return state.replace(
      opt_state=state_lib.fresh_optimizer(parts.tx, state.params, where))


def measure_rollouts(groups: groups_lib.Groups) -> dict[str, float]:
  """Metrics of everything that was sampled in a step."""
  valid, reward = groups.valid_PG, groups.reward_PG
  length = np.sum(groups.rollout.mask_BT, axis=1)
  counts = np.maximum(valid.sum(axis=1), 1)
  mean = np.where(valid, reward, 0).sum(axis=1) / counts
  spread = np.sqrt(
      np.where(valid, (reward - mean[:, None]) ** 2, 0).sum(axis=1) / counts)
  out = {
      "reward": float(reward[valid].mean()) if valid.any() else math.nan,
      "reward_std": float(spread.mean()),
      "frac_reward_zero_std": float((spread < 1e-6).mean()),
      "correct": float(
          groups.correct_PG[valid].mean()) if valid.any() else math.nan,
      "completions/mean_length": float(length.mean()),
      "completions/max_length": float(length.max()),
      "completions/clipped_ratio": float(
          1.0 - np.mean(groups.rollout.finished_B)),
      "verifier/masked": int((~valid).sum()),
  }
  tasks = np.array([row.task for row in groups.prompts.rows])
  for task in sorted(set(tasks)):
    mine = tasks == task
    if valid[mine].any():
      out[f"rewards/{task}/mean"] = float(reward[mine][valid[mine]].mean())
  return out


def rollout_records(
    step: int, groups: groups_lib.Groups, signal_, limit: int) -> list[dict]:
  """The first groups of a batch, for people to browse."""
  size = groups.reward_PG.shape[1]
  length = np.sum(groups.rollout.mask_BT, axis=1).reshape(-1, size)
  finished = np.asarray(groups.rollout.finished_B).reshape(-1, size)
  return [
      dict(
          step=step, id=int(groups.prompts.ids_P[p]), task=row.task,
          prompt=row.prompt, reference=row.reference,
          c_prompt=float(signal_["c_prompt_P"][p]),
          completions=[
              dict(
                  text=groups.texts_PG[p][g],
                  reward=float(groups.reward_PG[p, g]),
                  correct=bool(groups.correct_PG[p, g]),
                  status="ok" if groups.valid_PG[p, g] else "masked",
                  advantage=float(signal_["adv_PG"][p, g]),
                  base_advantage=float(signal_["base_PG"][p, g]),
                  c_answer=float(signal_["c_answer_PG"][p, g]),
                  length=int(length[p, g]), finished=bool(finished[p, g]))
              for g in range(size)])
      for p, row in enumerate(groups.prompts.rows[:limit])]


def log(
    parts: parts_lib.Parts, progress: Progress,
    collected: groups_lib.Collected, signals, measured: dict[str, float],
    reason: str, writer, clock: Clock,
) -> None:
  """Writes the step: one line of metrics, and rollouts when they are due."""
  c, step = parts.config, progress.step
  last_reset = progress.ref_step
  # A new optimiser begins its schedule anew.
  updated_since = last_reset if c.algo.reset.optimizer else 0
  values = (
      measure_rollouts(collected.sampled) | collected.metrics
      | measured | {
          "learning_rate": parts.learning_rate(step - updated_since),
          "num_tokens": progress.num_tokens,
          "ref_reset/reset": float(bool(reason)),
          "ref_reset/ref_step": last_reset,
          "ref_reset/steps_since": step - last_reset,
          "ref_reset/count": progress.resets,
      })
  seconds = clock.take()
  tokens = int(np.sum(collected.sampled.rollout.mask_BT))
  values |= seconds
  if "timing_s/sample" in seconds:  # groups carried over may fill a batch
    values["perf/tokens_per_second"] = tokens / seconds["timing_s/sample"]
  writer.write(step, values)
  every = c.log.rollouts_every
  if every and (step % every == 0 or step == 1):
    writer.write_rollouts(step, rollout_records(
        step, collected.batch, signals, c.log.rollouts_prompts))
  clock.view.step(step, values)
  if reason:
    clock.view.message(f"step {step}: reference reset ({reason})")
