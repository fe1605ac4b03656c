"""The stages of a training step, each one call of the loop.

Each takes the parts of the run and what the stages before it made, and hands
back something new; none keeps anything to itself.
"""

from collections.abc import Iterator
import dataclasses
import hashlib
import json
import math
import statistics
from typing import Any

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors, records
from progrpo_jax import parts as parts_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax.algos import collapse, control, diagnostics, reset
from progrpo_jax.config import checks, schedule
from progrpo_jax.devices import hosts, sharding
from progrpo_jax.learn import optim, signals, update
from progrpo_jax.learn import state as state_lib
from progrpo_jax.rollout import groups as groups_lib
from progrpo_jax.rollout import rephrase, rounds

Progress, Clock = progress_lib.Progress, progress_lib.Clock

# Streams of randomness within a step.
_SAMPLE, _UPDATE, _REPHRASE, _CHOOSE = range(4)

# What `Progress.recent` remembers: of which metrics, of how many first steps
# (what a run is held against) and of how many last ones.
_WATCHED = (
    collapse.ENTROPY, collapse.SPREAD, collapse.ZERO_SPREAD, collapse.CORRECT,
    collapse.LENGTH, collapse.CLIPPED)
_FIRST, _LAST = 10, 60


def collect(
    parts: parts_lib.Parts, params, progress: Progress, clock: Clock,
) -> tuple[groups_lib.Collected, Progress]:
  """Samples and verifies groups until the batch is full."""
  c = parts.config
  dynamic = c.algo.dynamic_sampling
  count = c.train.prompts_per_step
  size = checks.prompts_per_round(c)
  key = jax.random.fold_in(
      jax.random.fold_in(parts.key, progress.step), _SAMPLE)
  position = progress.position
  before = dataclasses.replace(parts.pool.counters)
  rephrased: list[dict[str, float]] = []

  def draw() -> tuple[groups_lib.Groups, groups_lib.Groups]:
    nonlocal position
    clock.may_stop()
    prompts = parts.prompter.take(position, size)
    position += size
    sampled = groups = rounds.draw(parts, params, prompts, key, clock)
    if c.algo.rephrase.enabled:
      groups, found = rephrase.rephrase(
          parts, params, sampled, jax.random.fold_in(key, _REPHRASE), clock)
      rephrased.append(found)
    return groups, sampled

  collected = groups_lib.collect(
      draw, lambda groups: signals.keep_groups(c, groups, progress.step),
      count=count, carried=progress.surplus,
      max_rounds=dynamic.max_rounds if dynamic.enabled else 1,
      carry=dynamic.enabled and dynamic.surplus == "carry")
  tokens = 0  # groups carried over were counted when they were sampled
  if collected.metrics["dynamic_sampling/rounds"]:
    tokens = int(np.sum(collected.sampled.rollout.mask_BT))
  surplus = collected.surplus
  if surplus is not None:
    # As wide as a resumed run encodes them: another width is another program,
    # whose last bits may differ.
    surplus = dataclasses.replace(
        surplus, prompts=parts.prompter.of(surplus.prompts.ids_P))
  now = parts.pool.counters
  failed = hosts.gather({
      f"verifier/{name}": getattr(now, name) - getattr(before, name)
      for name in ("timeouts", "crashes", "refused")})
  collected.metrics.update(records.measure_rollouts(collected.sampled) | {
      name: sum(one[name] for one in failed) for name in failed[0]})
  for name in rephrased[0] if rephrased else ():
    collected.metrics[name] = statistics.mean(x[name] for x in rephrased)
  return collected, dataclasses.replace(
      progress, position=position, surplus=surplus,
      num_tokens=progress.num_tokens + tokens)


def improve(
    parts: parts_lib.Parts, state: state_lib.TrainState,
    batch: batch_lib.TrainBatch, progress: Progress, clock: Clock,
) -> tuple[state_lib.TrainState, dict[str, float]]:
  """Runs the updates of a step: passes over the batch, minibatches of each.

  Which prompts share a minibatch is drawn anew for each pass. The rows of a
  minibatch go to the devices when its turn comes: no device holds more, and
  none has to send another what it was dealt.

  Args:
    parts: of the run.
    state: before the step.
    batch: of the step, on the host.
    progress: of the run.
    clock: of the step.

  Raises:
    Diverged: too many updates in a row were not applied.
  """
  c = parts.config
  sums: dict[str, tuple[Any, Any]] = {}
  weights = knobs(c, progress)
  step_key = jax.random.fold_in(parts.key, progress.step)
  key = jax.random.fold_in(step_key, _UPDATE)
  with clock.stage("update"):
    for number, prompts_M in enumerate(_minibatches(c, step_key)):
      part = sharding.put_rows(
          update.take_prompts(batch, prompts_M, c.train.prompts_per_step),
          parts.mesh)
      with jax.set_mesh(parts.mesh):
        state, found = parts.update(
            state, part, np.bool_(number == 0),
            jax.random.fold_in(key, number),
            {k: np.float32(v) for k, v in weights.items()}, parts.frozen)
        for name, (total, count) in found.items():
          old = sums.get(name, (0.0, 0.0))
          sums[name] = old[0] + total, old[1] + count
    sums, skipped = jax.device_get((sums, state.skipped))
  _check_applied(sums, skipped, c.train.max_skipped_updates)
  squares = {
      name: float(sums.pop(f"gradient_square/{name}")[0])
      for name in ("policy", "kl") if f"gradient_square/{name}" in sums}
  values = weights | {
      name: float(total / count) for name, (total, count) in sums.items()
      if count > 0}
  if squares:
    values["kl_share"] = float(diagnostics.share_of_squares(
        squares["policy"], squares["kl"]))
  return state, values


def _minibatches(c, step_key) -> Iterator[np.ndarray]:
  """Numbers of the prompts of each update of a step, pass by pass."""
  key = jax.random.fold_in(step_key, _CHOOSE)
  for number in range(c.train.num_iterations):
    yield from update.choose_minibatches(
        jax.random.fold_in(key, number), c.train.prompts_per_step,
        c.train.num_minibatches)


def _check_applied(sums, skipped: int, limit: int) -> None:
  """Stops a run whose updates are not applied any more.

  Args:
    sums: (sum, count) of the step's metrics.
    skipped: updates in a row, up to the last one, that were not applied.
    limit: as many are too many.

  Raises:
    Diverged: saying why they were not.
  """
  if skipped < limit:
    return
  empty, skips = (
      sums[name][0] for name in ("empty_updates", "skipped_updates"))
  if empty < skips:
    raise progress_lib.Diverged(
        f"{skipped} updates in a row were left out: the loss, the gradient, or "
        "the weights or moments that they would have led to, were not finite. "
        "The weights are those of before. Lower the learning rate, or look at "
        "the rollouts of the last steps")
  raise progress_lib.Diverged(
      f"{skipped} updates in a row had no token to learn from; the parameters "
      "are those of before. Dynamic sampling found no group worth keeping "
      "(easier or harder tasks, a higher config.algo.dynamic_sampling."
      "max_rounds), the verifier failed, or every response was cut at "
      "config.sampling.max_new_tokens and "
      "config.algo.mask_truncated_completions left it out")


def knobs(c, progress: Progress) -> dict[str, float]:
  """Weights of the objective that this run adapts as it goes."""
  found = {}
  if c.algo.beta_control.floor:
    found["beta"] = (
        c.algo.beta if progress.beta is None else progress.beta)
  if c.algo.entropy_control.target:
    coef = (
        c.algo.entropy_coef if progress.entropy_coef is None
        else progress.entropy_coef)
    found["entropy_coef"] = control.entropy_coef_in_force(
        coef, progress.recent[-1]["entropy"] if progress.recent else math.nan,
        target=c.algo.entropy_control.target)
  return found


def evaluate(
    parts: parts_lib.Parts, params, clock: Clock, writer, step: int,
) -> dict[str, float]:
  """Tries the held-out problems of every set and writes what came of it."""
  values: dict[str, float] = {}
  tried = []
  for evaluator in parts.evaluators:
    with clock.stage("evaluate"):
      samples = evaluator.sample(params)
      values |= dict(evaluator.run(samples))
      tried += evaluator.records(samples)
  if values:
    writer.write_eval(step, values)
    writer.write_eval_samples(
        step, [dict(step=step, **record) for record in tried])
    clock.view.eval(step, values)
  return values


def advance(c, progress: Progress, measured: dict[str, float]) -> Progress:
  """One more step is done: what it measured joins the histories."""
  step = progress.step + 1
  known = {
      f"{name}s": (*getattr(progress, f"{name}s"), (step, measured[name]))
      for name in ("kl", "kl_share") if name in measured}
  entropy = measured["entropy"]
  b, e = c.algo.beta_control, c.algo.entropy_control
  if b.floor:
    known["beta"] = control.adapt_beta(
        c.algo.beta if progress.beta is None else progress.beta, entropy,
        floor=b.floor, rate=b.rate, low=c.algo.beta, high=b.high)
  if e.target:
    known["entropy_coef"] = control.adapt_entropy_coef(
        c.algo.entropy_coef if progress.entropy_coef is None
        else progress.entropy_coef, entropy, target=e.target, step=e.step,
        low=e.low, high=e.high)
  row = {k: measured[k] for k in _WATCHED if k in measured}
  recent = (*progress.recent, row)
  if len(recent) > _FIRST + _LAST:
    recent = (*recent[:_FIRST], *recent[-_LAST:])
  return dataclasses.replace(progress, step=step, recent=recent, **known)


def validate(
    parts: parts_lib.Parts, params, progress: Progress, writer, clock: Clock,
) -> Progress:
  """Tries held-out problems when they are due; the score joins the history."""
  c = parts.config
  last = progress.step == c.train.total_steps
  if not c.eval.every or not (last or progress.step % c.eval.every == 0):
    return progress
  values = evaluate(parts, params, clock, writer, progress.step)
  return remember(c, progress, values)


def remember(c, progress: Progress, values: dict[str, float]) -> Progress:
  """An evaluation joins the histories; one that found nothing does not."""
  if values:
    passed = {k: v for k, v in values.items() if "/pass@" in k}
    progress = dataclasses.replace(
        progress, evals=(*progress.evals, {"step": progress.step} | passed))
  score = watched(c, values)
  if score is not None:
    progress = dataclasses.replace(
        progress, scores=(*progress.scores, (progress.step, score)))
  return progress


def judge(progress: Progress) -> tuple[collapse.Verdict, bool]:
  """Whether the run collapses; and whether that is news at this step."""
  start = collapse.start_of(progress.recent[:_FIRST], _FIRST)
  earlier = [e for e in progress.evals if e["step"] < progress.step]
  before = collapse.judge(progress.recent[:-1], start=start, evals=earlier)
  now = collapse.judge(progress.recent, start=start, evals=progress.evals)
  return now, now.level != before.level


def watched(c, values: dict[str, float]) -> float | None:
  """The validation score that resets watch: its mean over the sets.

  None where a set has no more than bounds on it: the mean over the others
  would be another score.
  """
  if any(k.startswith("eval/") and k.endswith(
      f"/{c.algo.reset.watch}/at_least") for k in values):
    return None
  found = [v for k, v in values.items() if k.split("/", 2)[-1] ==
           c.algo.reset.watch and k.startswith("eval/")]
  return sum(found) / len(found) if found else None


def decide_reset(c, progress: Progress) -> tuple[Progress, str]:
  """The reference becomes this step's policy, if it is time; and why."""
  due, reason = reset.should_reset(
      progress.step, last_reset=progress.ref_step,
      history=dict(
          score=progress.scores, kl=progress.kls,
          kl_share=progress.kl_shares),
      **checks.reset_options(c))
  if not due and schedule.asks_for_reset(c, progress.step, progress.resets):
    due, reason = True, "a stage of the schedule begins"
  if not due:
    return progress, ""
  return dataclasses.replace(
      progress, ref_step=progress.step, resets=progress.resets + 1,
      scores=tuple(s for s in progress.scores if s[0] == progress.step),
      kls=(), kl_shares=()), reason


def compare(
    parts: parts_lib.Parts, state: state_lib.TrainState,
    prompts: batch_lib.Prompts, progress: Progress) -> None:
  """Holds what the hosts and their devices have against each other.

  Raises:
    RunError: two hosts, or two devices with a copy of one array, differ; the
      message names what and where.
  """
  where = f"step {progress.step}"
  hosts.compare(
      where, config=_digest(parts.config.to_json_best_effort()),
      progress=_digest(json.dumps(progress.to_meta(), sort_keys=True)),
      batch=_digest(prompts.ids_P.tobytes()))
  unequal = sharding.unequal_copies(
      dict(params=state.params, opt_state=state.opt_state), parts.mesh)
  if unequal:
    raise errors.RunError(
        f"{where}: devices hold different copies of {', '.join(unequal[:5])}"
        f"{' and more' if len(unequal) > 5 else ''}: one of them errs. Go on "
        "from the last checkpoint without it")


def _digest(data: str | bytes) -> str:
  """A short name of a content."""
  data = data.encode() if isinstance(data, str) else data
  return hashlib.sha256(data).hexdigest()[:16]


def restart_optimizer(
    parts: parts_lib.Parts, state: state_lib.TrainState,
) -> state_lib.TrainState:
  """The same parameters, and an optimiser without moments.

  The schedule of its learning rate goes on.
  """
  where = state_lib.shardings(parts.model, parts.tx, parts.mesh).opt_state
  fresh = state_lib.fresh_optimizer(parts.tx, state.params, where)
  return state.replace(opt_state=optim.restarted(state.opt_state, fresh))
