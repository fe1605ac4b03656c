"""The training run: its start, its loop, its end.

A step, in causal order: prompts are sampled and verified until the batch is
full; the policy and its reference score it; rewards become advantages, which
ARM re-weights; the policy is updated; held-out problems are tried; the
reference is reset if it is time; everything is written; the step is saved.

Nothing but `TrainState`, the reference and `Progress` lives from one step to
the next, and all three are in every checkpoint: a run that is killed anywhere
and started again goes on as if it had never stopped, bit for bit.
"""

import contextlib
import dataclasses
import functools
import json
import signal
from typing import Any

from etils import epath

from progrpo_jax import errors, ops, places, records, stages
from progrpo_jax import parts as parts_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax.config import checks, identity, isolation
from progrpo_jax.config import schedule as schedule_lib
from progrpo_jax.devices import hosts
from progrpo_jax.learn import signals
from progrpo_jax.learn import state as state_lib
from progrpo_jax.rollout import data as data_lib
from progrpo_jax.rollout import groups as groups_lib
from progrpo_jax.storage import checkpoint as checkpoint_lib
from progrpo_jax.storage import lock
from progrpo_jax.storage import metrics as metrics_lib
from progrpo_jax.storage import policy as policy_lib

Clock, Progress = progress_lib.Clock, progress_lib.Progress

DONE, PREEMPTED = 0, 75
CONFIG = "config.json"


Started = tuple[parts_lib.Parts, state_lib.TrainState, Any, Progress]


def begin(
    parts: parts_lib.Parts, params, checkpointer, writer, clock: Clock,
) -> Started:
  """A new run, evaluated and saved at step 0.

  Returns:
    (parts of its first stage, state, reference, progress).
  """
  parts = restage(parts, 0, 0)
  c = parts.config
  state = state_lib.create(parts.model, parts.tx, params, parts.mesh)
  values = {}
  if c.eval.every and c.eval.at_start:
    values = stages.evaluate(
        parts, parts.policy(state.params), clock, writer, 0)
  progress = stages.remember(c, Progress(), values)
  save(parts, checkpointer, state, progress)
  # Committed before step 1 is recorded: records without any checkpoint then
  # mean that the checkpoints are lost.
  checkpointer.wait()
  return parts, state, load_reference(parts, checkpointer, 0), progress


def recover(
    parts: parts_lib.Parts, checkpointer, workdir: epath.Path,
    view: progress_lib.View, other: bool = False,
) -> Started | None:
  """The run that is there, from its newest step that is whole.

  A step is whole if it and its reference can be read and its weights are
  finite. From an older one nothing is lost but time: what came after it is
  computed again, the same bit for bit. Newer ones are moved aside.

  Returns:
    What `begin` returns, or None where there is no run yet.

  Raises:
    InputError: no step is whole, or the checkpoints are not where the records
      of a run are.
  """
  lost, readable = dict(checkpointer.damaged), []
  for step in reversed(checkpointer.steps()):
    try:
      started = _restore(parts, checkpointer, step, other)
    except checkpoint_lib.Damaged as e:
      lost[step] = str(e)
      if isinstance(e, checkpoint_lib.ReferenceDamaged):
        readable.append(step)
      continue
    newer = sorted((s for s in lost if s > step), reverse=True)
    for number in newer:
      view.message(f"step {number} is passed over: {lost[number]}")
    view.message(f"resuming from step {step}")
    checkpointer.go_on_from(step)
    return started
  if lost:
    reasons = "; ".join(f"step {s}: {lost[s]}" for s in sorted(lost))
    instead = "choose another --workdir"
    if readable:
      policy = workdir / policy_lib.CHECKPOINTS / str(readable[0])
      instead = (
          f"begin a new run from its weights: --config.model.init_from={policy}"
          " and another --workdir")
    raise errors.InputError(
        f"no checkpoint of {workdir} can be gone on from. Put a copy of the "
        f"damaged one back, or {instead}. {reasons}")
  left = hosts.from_first(
      metrics_lib.recorded(workdir) if hosts.is_first() else None)
  if left:
    raise errors.InputError(
        f"{workdir} holds the records of a run ({', '.join(left)}) and no "
        f"checkpoint of it. Put its {policy_lib.CHECKPOINTS}/ back to go on, "
        "or choose another --workdir; a new run here would overwrite them")
  return None


def _restore(
    parts: parts_lib.Parts, checkpointer, step: int, other: bool) -> Started:
  """A run as it stood after a step.

  One that goes on with another method or data, as its user insisted, does
  without the groups carried over, and its draws go on by their numbers.

  Raises:
    Damaged: this step, or its reference, is not what was written.
  """
  like = state_lib.abstract(parts.model, parts.tx, parts.mesh)
  state, meta, data = checkpointer.restore(step, like)
  if ops.not_finite(state.params):
    raise checkpoint_lib.Damaged(
        f"the checkpoint of step {step} holds weights that are not finite")
  parts = restage(parts, step, meta["resets"])
  reference = load_reference(parts, checkpointer, meta["ref_step"])
  group = parts.config.algo.num_generations
  surplus = groups_lib.from_arrays(
      data, parts.prompter.of,
      functools.partial(data_lib.texts, parts.tokenizer, group=group),
  ) if data and not other else None
  source = meta["data"] | ({"source": None} if other else {})
  progress = Progress.from_meta(
      meta | {"position": parts.prompter.restore(source)}, surplus)
  return parts, state, reference, progress


def load_reference(parts: parts_lib.Parts, checkpointer, step: int):
  """The policy of a step as reference, or None when nothing asks for one."""
  if not checks.needs_reference(parts.config):
    return None
  return parts.policy(checkpointer.load_reference(
      step, parts.model, parts.mesh))


def restage(
    parts: parts_lib.Parts, step: int, resets: int) -> parts_lib.Parts:
  """The parts of the stage of `config.schedule` that this step stands in."""
  c = schedule_lib.at(parts.config, step, resets)
  if c == parts.config:
    return parts
  return hosts.agree(lambda: parts_lib.assemble(
      c, parts.mesh, parts.model, parts.frozen, parts.tokenizer, parts.pool))


def save(
    parts: parts_lib.Parts | None, checkpointer, state, progress: Progress,
) -> None:
  """Saves everything that the next step reads.

  Without parts its data is left open, see `data.PromptSource.restore`.
  """
  data = {"position": progress.position, "source": None}
  if parts is not None:
    data = parts.prompter.state(progress.position)
  checkpointer.save(
      progress.step, state, progress.to_meta() | {"data": data},
      groups_lib.to_arrays(progress.surplus) if progress.surplus else None)


@contextlib.contextmanager
def stops_on_signals(clock: Clock):
  """SIGTERM and Ctrl-C stop the run between stages; a second one at once.

  SIGUSR1 asks for the same as often as it likes: it is the notice of a machine
  that will be taken away, which sends its SIGTERM only then.
  """

  def ask(number, _):
    once_more = ""
    if number != signal.SIGUSR1:
      signal.signal(number, signal.SIG_DFL)
      once_more = "; once more stops at once"
    clock.asked_to_stop = True
    clock.view.message(
        f"{signal.Signals(number).name}: saving, then stopping{once_more}")

  before = {
      s: signal.signal(s, ask)
      for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
  try:
    yield
  finally:
    for number, handler in before.items():
      # None is a handler that is not Python's, such as JAX's own.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)


def prepare_workdir(
    c, parts: parts_lib.Parts, workdir: epath.Path, override: bool = False,
) -> identity.Changes:
  """Writes what describes the run: its config, its model, its tokenizer.

  The config of a run that is there stays until nothing can refuse the new one.

  Returns:
    How the config differs from that of the run that is there.

  Raises:
    InputError: the place cannot be written, or holds a run of another model;
      or of another config or tokenizer, which `override` allows.
  """
  model = workdir / policy_lib.MODEL_DIR
  description = policy_lib.describe(c, parts.model, parts.tokenizer)
  described = json.dumps(description, indent=2)
  try:
    model.mkdir(parents=True, exist_ok=True)
    there = model / "config.json"
    tokenizer = _check_model(workdir, there, json.loads(described))
    changes = _changes(c, workdir)
    identity.check(changes, workdir, override)
    if not override and tokenizer != description[policy_lib.TOKENIZER]:
      raise errors.InputError(
          "the tokenizer (vocabulary, special tokens or chat template) is not "
          f"the one that the run in {workdir} was trained with: put that back "
          "where config.model.init_from points, or choose a new --workdir "
          "(--override goes on all the same)")
    if not (workdir / CONFIG).exists():
      write_config(c, workdir)
    _write(there, described)
    parts.tokenizer.save(model)
  except OSError as e:
    raise errors.InputError(f"cannot write to --workdir {workdir}: {e}") from e
  return changes


def _changes(c, workdir: epath.Path) -> identity.Changes:
  """How a config differs from that of the run in a workdir, if one began."""
  file, saved = workdir / CONFIG, workdir / policy_lib.CHECKPOINTS
  if not file.exists() or not saved.exists() or not any(
      place.name.isdigit() for place in saved.iterdir()):
    return identity.Changes()
  try:
    old = json.loads(file.read_text())
    if not isinstance(old, dict):
      raise ValueError("not a JSON object")
  except (ValueError, RecursionError) as e:
    raise errors.InputError(
        f"{file} cannot be read ({e}): put a copy of it back, or move it away "
        "to go on with the config that is given") from e
  return identity.changes(old, json.loads(c.to_json_best_effort()))


def _check_model(
    workdir: epath.Path, there: epath.Path, described: dict) -> str:
  """Refuses another model than that of the run.

  Args:
    workdir: of the run.
    there: where its model is described.
    described: the model that is to go on.

  Returns:
    Digest of the tokenizer of the run; the new one's where there is no run,
    or one of a version that wrote none.
  """
  new = described.pop(policy_lib.TOKENIZER)
  if not there.exists():
    return new
  try:
    before = json.loads(there.read_text())
    if not isinstance(before, dict):
      raise ValueError("not a JSON object")
  except (ValueError, RecursionError) as e:
    raise errors.InputError(
        f"{there} cannot be read ({e}): put a copy of it back, or move it away "
        "to have it written anew from the model that is given") from e
  tokenizer = before.pop(policy_lib.TOKENIZER, new)
  if before != described:
    raise errors.InputError(
        f"{workdir} holds a run of another model; choose a new --workdir")
  return tokenizer


def write_config(c, workdir: epath.Path) -> None:
  """Writes the resolved config."""
  _write(workdir / CONFIG, c.to_json_best_effort(indent=2))


def _write(path: epath.Path, text: str) -> None:
  """Writes a file whole: a run that is killed leaves no half of one."""
  if places.is_remote(path):  # an object is replaced whole
    path.write_text(text)
    return
  part = path.with_name(f"{path.name}.part")
  part.write_text(text)
  part.replace(path)


def train(
    c, workdir, view: progress_lib.View, override: bool = False) -> int:
  """Trains to the end, or until asked to stop.

  Args:
    c: the resolved config.
    workdir: local directory or gs:// URL; a run that is there is resumed.
    view: is told what happens.
    override: whether the config may change what defines the run that is there,
      see `identity`.

  Returns:
    Exit code: 0 when done, 75 when stopped and saved.

  On many hosts every one calls this, and the first one writes.

  Raises:
    InputError: the user's to mend.
    Diverged: the updates stopped being finite.
    RunError: the disk is full, or a host is gone; what was saved is whole.
  """
  try:
    with hosts.lost_ones_named():
      return _train(c, workdir, view, override)
  except Exception as e:
    if not places.is_full(e):
      raise
    raise errors.RunError(
        f"no space is left where --workdir {workdir} is. Its checkpoints are "
        "whole: free some space, or lower config.checkpoint.keep, and run the "
        "same command again") from e


def _train(c, workdir, view: progress_lib.View, override: bool) -> int:
  """`train`, with a full disk as it comes."""
  hosts.compare("start", config=c.to_json_best_effort())
  clock = Clock(view)
  with contextlib.ExitStack() as stack:
    stack.enter_context(stops_on_signals(clock))
    parts, params = hosts.agree(lambda: parts_lib.build(c))
    stack.enter_context(parts.pool)
    _introduce(parts, view)
    workdir = epath.Path(workdir)
    hosts.on_first(lambda: stack.enter_context(lock.held(workdir)))
    changes = hosts.from_first(hosts.on_first(
        lambda: prepare_workdir(c, parts, workdir, override)))
    k = c.checkpoint
    checkpointer = checkpoint_lib.Checkpointer(
        workdir / policy_lib.CHECKPOINTS, keep=k.keep,
        keep_every=k.keep_every, background=k.background)
    stack.callback(checkpointer.close)
    started = recover(
        parts, checkpointer, workdir, view, bool(changes.defining))
    done = -1 if started is None else started[-1].step
    if done >= c.train.total_steps:  # and its config stays what it was
      view.message(
          f"already finished at step {done}: raise train.total_steps")
      hosts.gather(None)  # the first one holds the lock until all are here
      return DONE
    for line in changes.free + changes.defining:
      view.message(f"changed: {line}")
    writer = hosts.on_first(lambda: stack.enter_context(
        metrics_lib.MetricWriter(
            workdir, tensorboard=c.log.tensorboard, wandb=c.log.wandb,
            resume_step=done)))
    writer = writer or metrics_lib.Unwritten()
    for sentence in hosts.on_first(
        lambda: metrics_lib.lost(workdir, done)) or ():
      view.message(sentence)
    if started is None:
      started = begin(parts, params, checkpointer, writer, clock)
    parts, *rest = started
    del params, started  # the state has taken them over
    hosts.on_first(lambda: write_config(c, workdir))
    code = loop(parts, *rest, checkpointer, writer, clock)
    checkpointer.wait()
  hosts.gather(None)  # the first one may be writing yet
  return code


def _introduce(parts: parts_lib.Parts, view: progress_lib.View) -> None:
  """Says what the config left to the machine and to the data."""
  view.message(parts_lib.attention_of(parts.model, parts.mesh))
  if isolation.is_needed(parts.config):
    view.message(f"isolation of code: {isolation.describe()}")
  for task, (out, of) in parts.prompter.left_out.items():
    if out:
      view.message(
          f"{task}: {out} of {of} prompts are longer than"
          f" {parts.config.data.max_prompt_length} tokens and left out")
  for note in parts_lib.held_out_notes(parts.config, parts.evaluators):
    view.message(note)


def loop(
    parts, state, reference, progress, checkpointer, writer, clock) -> int:
  """The steps, in the order that the text of this module gives."""
  total = parts.config.train.total_steps
  every = parts.config.hosts.compare_every
  try:
    while progress.step < total:
      policy = parts.policy(state.params)
      found, after = stages.collect(parts, policy, progress, clock)
      batch, advantages, scored = signals.prepare(
          parts, policy, reference, found.batch, progress.step, clock)
      del policy  # what trains in it is given away to the update
      state, updated = stages.improve(parts, state, batch, progress, clock)
      measured = updated | found.metrics | scored
      progress = stages.advance(parts.config, after, measured)
      progress = stages.validate(
          parts, parts.policy(state.params), progress, writer, clock)
      progress, reason = stages.decide_reset(parts.config, progress)
      if reason and parts.config.algo.reset.optimizer:
        state = stages.restart_optimizer(parts, state)
      measured["learning_rate"] = parts.learning_rate(state.opt_state)
      records.log(
          parts, progress, found, advantages, measured, reason,
          stages.judge(progress), writer, clock)
      if every and progress.step % every == 0:
        stages.compare(parts, state, found.batch.prompts, progress)
      before = parts
      # In the next stage: other prompts, and other scores on them.
      fresh = dataclasses.replace(progress, surplus=None, scores=())
      try:
        parts = restage(parts, progress.step, progress.resets)
      except Exception:  # its files may be gone; what was trained is kept
        save(None, checkpointer, state, fresh)
        raise
      progress = progress if parts is before else fresh
      if reason or progress.step % parts.config.checkpoint.every == 0 or (
          progress.step == total):
        save(parts, checkpointer, state, progress)
      if reason or parts is not before:
        reference = load_reference(parts, checkpointer, progress.ref_step)
  except progress_lib.Preempted:
    # Raised only before an update: state and progress are those of the last
    # whole step.
    if checkpointer.latest() != progress.step:
      save(parts, checkpointer, state, progress)
    return PREEMPTED
  return DONE
