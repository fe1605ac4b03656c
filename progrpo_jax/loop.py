"""The training run: its start, its loop, its end.

A step, in causal order: prompts are sampled and verified until the batch is
full; the policy and its reference score it; rewards become advantages, which
ARM re-weights; the policy is updated; held-out problems are tried; the
reference is reset if it is time; everything is written; the step is saved.

Nothing but `TrainState`, the reference and `Progress` lives from one step to
the next, and all three are in every checkpoint: a run that is killed anywhere
and started again goes on as if it had never stopped, bit for bit. A request to
stop during an evaluation does not wait for it: the step is saved with its
metrics, and the evaluation begins anew when the run goes on. Until the
evaluation of the start is done there is nothing to save. A run that fails saves
what a request to stop would have saved, and then fails.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import functools
import json
from typing import Any, Protocol

from etils import epath

from progrpo_jax import errors, ops, places
from progrpo_jax import groups as groups_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax import workdir as workdir_lib
from progrpo_jax.build import problems
from progrpo_jax.build import stages as build
from progrpo_jax.devices import hosts, stopping, timing
from progrpo_jax.learn import history
from progrpo_jax.learn import state as state_lib
from progrpo_jax.rollout import verify
from progrpo_jax.settings import derived, identity, isolation
from progrpo_jax.settings import schedule as schedule_lib
from progrpo_jax.storage import checkpoint as checkpoint_lib
from progrpo_jax.storage import lock, shared
from progrpo_jax.storage import metrics as metrics_lib
from progrpo_jax.storage import policy as policy_lib

Progress = progress_lib.Progress

DONE, PREEMPTED = 0, 75


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
class Start:
  """Where a run begins, or goes on.

  Attributes:
    stages: stages of its first step.
    state: parameters and optimiser.
    reference: parameters of the reference; None where nothing reads it.
    progress: progress of the run.
  """

  stages: build.Stages
  state: state_lib.TrainState
  reference: Any
  progress: Progress


@dataclasses.dataclass
class Snapshot:
  """The newest point at which stages, state and progress belong together.

  A checkpoint of it is one that a run can go on from, so a run that is asked to
  stop, or fails, saves it. In the middle of a step the parameters may be ahead
  of the progress, or behind it.

  Attributes:
    stages: stages of the next step; None if they are not built yet.
    state: parameters and optimiser, which an update that has begun took away.
    progress: progress of the run.
  """

  stages: build.Stages | None
  state: state_lib.TrainState
  progress: Progress

  def becomes(
    self,
    stages: build.Stages | None,
    state: state_lib.TrainState,
    progress: Progress,
  ) -> None:
    """Takes a newer point."""
    self.stages, self.state, self.progress = stages, state, progress

  def save(self, checkpointer: checkpoint_lib.Checkpointer) -> None:
    """Saves it, unless that was done."""
    step, measured = self.progress.step, self.progress.measured
    if checkpointer.latest() != step or (
      step in checkpointer.unfinished and not measured
    ):
      save(self.stages, checkpointer, self.state, self.progress)


def loop(
  setup: build.Setup,
  start: Start,
  checkpointer: checkpoint_lib.Checkpointer,
  writer,
) -> int:
  """Runs the steps, in the order that the text of this module gives.

  Returns:
    Exit code: DONE, or PREEMPTED when the run was asked to stop.
  """
  stages, state = start.stages, start.state
  reference, progress = start.reference, start.progress
  del start  # or it would hold the first reference after a reset
  snapshot = Snapshot(stages, state, progress)
  try:
    while progress.step < setup.total_steps or progress.measured:
      if not progress.measured:  # else the run was stopped in its evaluation
        policy = setup.join(state.params)
        collected, drawn = stages.collect(policy, progress)
        batch, advantages, scored = stages.prepare(
          policy, reference, collected.batch, progress.step
        )
        # Before the update takes the parameters of the last step away: on a
        # full disk that step can then be saved once there is space.
        stages.log.rollouts(
          writer, progress.step + 1, collected.batch, advantages
        )
        del policy  # its parameters are donated to the update
        state, updated = stages.improve(state, batch, progress)
        # Later ones win: `entropy` and `kl` are those before the update.
        measured = updated | collected.metrics | scored
        progress = stages.advance(drawn, measured)
        check_hosts_agree(stages, state, collected, progress)
        measured |= stages.speed(collected.sampled, collected.batch)
        progress = dataclasses.replace(
          progress, measured=metrics_lib.plain(measured)
        )
        snapshot.becomes(stages, state, progress)
      progress = history.remember(
        progress,
        stages.validate(setup.join(state.params), progress.step, writer),
        stages.watch,
      )
      progress, reason = stages.decide_reset(progress)
      if reason and stages.resets_optimizer:
        state = state_lib.restart_optimizer(
          setup.model, setup.tx, setup.mesh, state
        )
      stages.log(
        writer,
        progress,
        reason,
        history.check_collapse(progress),
        setup.learning_rate(state.opt_state),
      )
      progress = dataclasses.replace(progress, measured=None)
      stages, reference, progress = finish_step(
        setup,
        stages,
        state,
        reference,
        progress,
        checkpointer,
        reason,
        snapshot,
      )
  except errors.Preempted:
    # Raised only before an update, in an evaluation, or after the save of a
    # step.
    snapshot.save(checkpointer)
    return PREEMPTED
  except Exception as e:
    stages.log.say(rescue(checkpointer, snapshot, e))
    raise
  return DONE


def rescue(
  checkpointer: checkpoint_lib.Checkpointer,
  snapshot: Snapshot,
  error: Exception,
) -> str:
  """Saves the last step of a run that fails, if it can be saved.

  Args:
    checkpointer: checkpoints of the workdir.
    snapshot: the newest point that a checkpoint can be made of.
    error: why the run fails.

  Returns:
    A sentence on where the run can go on.
  """
  step = snapshot.progress.step
  if not hosts.is_on_all(error):
    # The others are elsewhere, and would not take part in the save.
    reason = "other hosts may not have failed"
  elif not state_lib.is_whole(snapshot.state):
    reason = "the update that failed had begun to change its parameters"
  else:
    try:
      snapshot.save(checkpointer)
      checkpointer.wait()
      return (
        f"the run fails; step {step} is saved, and the same command goes on "
        "from there"
      )
    except Exception as e:
      reason = places.no_room(e) or errors.one_line(e)
  newest = checkpoint_lib.newest(checkpointer.directory)
  if newest == step:
    return f"the run fails; the same command goes on from step {step}"
  return (
    f"the run fails, and step {step} cannot be saved: {reason}; "
    f"the same command goes on from the checkpoint of step {newest}"
  )


def finish_step(
  setup: build.Setup,
  stages: build.Stages,
  state: state_lib.TrainState,
  reference,
  progress: Progress,
  checkpointer: checkpoint_lib.Checkpointer,
  reason: str,
  snapshot: Snapshot,
) -> tuple[build.Stages, Any, Progress]:
  """Enters the next stage of the schedule and saves the step, if due.

  Where a stage begins there are other prompts, and other scores on them:
  groups carried over and scores are forgotten.

  Args:
    setup: resources of the whole run.
    stages: stages of the step.
    state: parameters and optimiser after the step.
    reference: parameters of the reference in the step.
    progress: progress after the step.
    checkpointer: checkpoints of the workdir.
    reason: why the reference was reset, or "".
    snapshot: becomes the step.

  Returns:
    (stages, reference, progress) of the next step.

  Raises:
    Preempted: the run was asked to stop; the step is saved.
  """
  fresh = dataclasses.replace(progress, surplus=None, scores=())
  # The next stage may fail to begin, for its files may be gone.
  snapshot.becomes(None, state, fresh)
  entered = setup.stages_at(stages, progress.step, progress.resets)
  if entered is not stages:
    progress = fresh
  snapshot.becomes(entered, state, progress)
  if (
    reason
    or progress.step % entered.save_every == 0
    or progress.step >= setup.total_steps
  ):
    save(entered, checkpointer, state, progress)
  if reason or entered is not stages:
    if reason:  # all is saved, and a reference takes long to read
      setup.stop.check()
    reference = load_reference(setup, entered, checkpointer, progress.ref_step)
  return entered, reference, progress


def check_hosts_agree(
  stages: build.Stages,
  state: state_lib.TrainState,
  collected,
  progress: Progress,
) -> None:
  """Compares what hosts and devices hold after a step, where it is due.

  Raises:
    RunError: they differ.
  """
  stages.check_hosts_agree(
    progress.step,
    dict(params=state.params, opt_state=state.opt_state),
    progress=json.dumps(progress.to_meta(), sort_keys=True),
    batch=collected.batch.prompts.ids_P.tobytes().hex(),
  )


def begin(
  setup: build.Setup, params, checkpointer: checkpoint_lib.Checkpointer, writer
) -> Start:
  """Begins a new run: evaluates and saves it at step 0.

  Args:
    setup: resources of the whole run.
    params: parameters that train; the state takes them over.
    checkpointer: checkpoints of the workdir.
    writer: writer of the workdir.

  Raises:
    Preempted: the run was asked to stop; it begins anew another time.
  """
  stages = setup.stages_at(setup.first, 0, 0)
  state = state_lib.create(setup.model, setup.tx, params, setup.mesh)
  progress = history.remember(
    Progress(),
    stages.validate(setup.join(state.params), 0, writer),
    stages.watch,
  )
  save(stages, checkpointer, state, progress)
  # Committed before step 1 is recorded: records without any checkpoint then
  # mean that the checkpoints are lost.
  checkpointer.wait()
  reference = load_reference(setup, stages, checkpointer, 0)
  return Start(stages, state, reference, progress)


def recover(
  setup: build.Setup,
  checkpointer: checkpoint_lib.Checkpointer,
  workdir: epath.Path,
  view: View,
  changes: identity.Changes,
  override: bool,
) -> Start | None:
  """Finds the run of a workdir and goes on from its newest whole step.

  A step is whole if it and its reference can be read and its weights are
  finite. From an older one nothing is lost but time: what came after it is
  computed again, the same bit for bit. Newer, damaged ones are moved aside.

  Args:
    setup: resources of the whole run.
    checkpointer: checkpoints of the workdir.
    workdir: workdir of the run.
    view: is told of steps that are passed over.
    changes: differences of its config from that of the run.
    override: the user insists on whatever differs, rows of data files too,
      of which no key of the config tells.

  Returns:
    None where there is no run yet.

  Raises:
    InputError: no step is whole, or the checkpoints are not where the records
      of a run are.
    RunError: a file is out of reach for the moment: whether its step is whole
      is not known, and nothing is moved.
  """
  damaged, readable = dict(checkpointer.damaged), []
  for step in reversed(checkpointer.steps()):
    try:
      start = _restore(setup, checkpointer, step, changes, override)
    except checkpoint_lib.Damaged as e:
      damaged[step] = str(e)
      if isinstance(e, checkpoint_lib.ReferenceDamaged):
        readable.append(step)
      continue
    for number in sorted((s for s in damaged if s > step), reverse=True):
      view.message(f"step {number} is passed over: {damaged[number]}")
    view.message(f"resuming from step {step}")
    moved = checkpointer.go_on_from(step)
    if moved:
      view.message(f"kept for what can still be read: {', '.join(moved)}")
    return start
  if damaged:
    reasons = "; ".join(f"step {s}: {damaged[s]}" for s in sorted(damaged))
    instead = "choose another --workdir"
    if readable:
      policy = workdir / policy_lib.CHECKPOINTS / str(readable[0])
      instead = (
        f"begin a new run from its weights: --config.model.init_from={policy}"
        " and another --workdir"
      )
    raise errors.InputError(
      f"no checkpoint of {workdir} can be gone on from. Put a copy of the "
      f"damaged one back, or {instead}. {reasons}"
    )
  records = hosts.from_first(
    hosts.on_first(lambda: metrics_lib.recorded(workdir))
  )
  if records:
    raise errors.InputError(
      f"{workdir} holds the records of a run ({', '.join(records)}) and no "
      f"checkpoint of it. Put its {policy_lib.CHECKPOINTS}/ back to go on, "
      "or choose another --workdir; a new run here would overwrite them"
    )
  return None


def _restore(
  setup: build.Setup,
  checkpointer: checkpoint_lib.Checkpointer,
  step: int,
  changes: identity.Changes,
  override: bool,
) -> Start:
  """Restores a run as it stood after a step.

  Where the user insisted on another method or data, groups carried over are
  dropped, and the numbers of draws go on in the new data. Evaluations that
  cannot be compared with those to come are forgotten: they would make a stall
  or a collapse of the difference.

  Raises:
    Damaged: this step, or its reference, is not what was written.
    Preempted: the run was asked to stop.
  """
  like = state_lib.abstract(setup.model, setup.tx, setup.mesh)
  state, meta, data = checkpointer.restore(step, like)
  if ops.not_finite(state.params):
    raise checkpoint_lib.Damaged(
      f"the checkpoint of step {step} holds weights that are not finite"
    )
  setup.stop.check()
  # A step without its evaluation is still in its own stage of the schedule.
  stages = setup.stages_at(
    setup.first, step - bool(meta.get("measured")), meta["resets"]
  )
  reference = load_reference(setup, stages, checkpointer, meta["ref_step"])

  def went_on():
    other_rows = override and not stages.prompter.continues(meta["data"])
    others = bool(changes.defining) or other_rows
    position = stages.prompter.restore(meta["data"], anyway=others)
    histories = {"scores": (), "evals": ()}
    known = meta | (histories if changes.measures or other_rows else {})
    surplus = None
    if data and not others:
      group = stages.collect.draw.settings.num_generations
      surplus = groups_lib.from_arrays(
        data,
        stages.prompter.of,
        functools.partial(verify.texts, setup.tokenizer, group=group),
      )
    return Progress.from_meta(known | {"position": position}, surplus)

  # One host's data may be other data.
  progress = hosts.agree(went_on)
  if hosts.count() > 1:
    carried = progress.surplus
    digest = "" if carried is None else carried.prompts.digest()
    hosts.compare(f"step {step}", surplus=digest)
  return Start(stages, state, reference, progress)


def load_reference(
  setup: build.Setup,
  stages: build.Stages,
  checkpointer: checkpoint_lib.Checkpointer,
  step: int,
):
  """Returns the policy of a saved step as the reference.

  Its parameters come from the checkpoint: an alias of the policy's would be
  given away at the next update. None where no stage reads it.
  """
  if not stages.needs_reference:
    return None
  return setup.join(checkpointer.load_reference(step, setup.model, setup.mesh))


def save(
  stages: build.Stages | None,
  checkpointer: checkpoint_lib.Checkpointer,
  state: state_lib.TrainState,
  progress: Progress,
) -> None:
  """Saves everything that the next step reads.

  Without stages the source of the prompts is left open, see
  `PromptSource.restore`.
  """
  data = {"position": progress.position, "source": None}
  if stages is not None:
    data = stages.prompter.state(progress.position)
  checkpointer.save(
    progress.step,
    state,
    progress.to_meta() | {"data": data},
    groups_lib.to_arrays(progress.surplus) if progress.surplus else None,
  )


def train(
  c,
  workdir,
  view: View,
  override: bool = False,
  rewards: Sequence[Callable[..., Any] | str] = (),
  stop: stopping.Stop | None = None,
) -> int:
  """Trains to the end, or until asked to stop.

  On many hosts every host calls this, and the first one writes.

  Args:
    c: the resolved config.
    workdir: local directory or gs:// URL; a run in it is resumed.
    view: shows the run.
    override: whether the config may change what defines the run in the
      workdir, see `identity`.
    rewards: reward functions, or their names, for the tasks `file` that name
      none; see `problems.give_rewards`.
    stop: request to stop, which signals make; None for a new one.

  Returns:
    Exit code: 0 when done, 75 when stopped and saved.

  Raises:
    InputError: bad input.
    Diverged: the updates have no effect any more.
    RunError: the disk is full, or a host is gone; what was saved is whole.
  """
  try:
    with hosts.lost_ones_named():
      c, objects = problems.give_rewards(c, rewards)
      stop = stop or stopping.Stop()
      return _train(c, workdir, view, override, objects, stop)
  except Exception as e:
    reason = places.no_room(e)
    if not reason:
      raise
    raise errors.RunError(
      f"{reason}, where --workdir {workdir} is. Its checkpoints are whole: "
      "make room, or lower config.checkpoint.keep, and run the same command "
      "again"
    ) from e


def _train(
  c, workdir, view: View, override: bool, objects, stop: stopping.Stop
) -> int:
  """`train`, without translating disk-full errors."""
  hosts.compare("start", config=c.to_json_best_effort())
  code = PREEMPTED
  try:
    code = _run(c, workdir, view, override, objects, stop)
  except errors.Preempted:
    # Outside of the loop there is nothing to save, but that something was.
    saved = epath.Path(workdir) / policy_lib.CHECKPOINTS
    newest = hosts.on_first(lambda: checkpoint_lib.newest(saved))
    if hosts.from_first(newest) is None:
      view.message("stopped before a step was saved: the run begins anew")
  hosts.gather(None)  # the first host may still be writing
  return code


def _run(
  c, workdir, view: View, override: bool, objects, stop: stopping.Stop
) -> int:
  """`_train`, which raises Preempted if it is stopped before its loop."""
  timer = timing.Timer(view.phase)
  workdir = epath.Path(workdir)
  hosts.on_first(lambda: workdir_lib.check(workdir))
  with contextlib.ExitStack() as stack:
    stack.enter_context(stop.on_signals(view.message))
    own = _own_policy(c, workdir, view, override)
    setup, params = build.make_setup(c, timer, stop, view, objects, own)
    stack.enter_context(setup.pool)
    stop.check()
    _introduce(c, setup, view)
    hosts.on_first(lambda: stack.enter_context(lock.held(workdir)))
    shared.check(workdir)
    changes = hosts.from_first(
      hosts.on_first(lambda: workdir_lib.prepare(c, setup, workdir, override))
    )
    checkpointer = build.make_checkpointer(
      c, workdir / policy_lib.CHECKPOINTS, setup.model
    )
    stack.callback(checkpointer.close)
    start = recover(setup, checkpointer, workdir, view, changes, override)
    if start is None and own is not None:
      raise errors.RunError(
        f"the checkpoints of {workdir} went away while its run was about to go "
        "on; put them back, and run the same command again"
      )
    done = -1 if start is None else start.progress.step
    unfinished = start is not None and bool(start.progress.measured)
    # A finished run's config stays what it was.
    if done >= setup.total_steps and not unfinished:
      view.message(f"already finished at step {done}: raise train.total_steps")
      hosts.gather(None)  # the first host holds the lock until all are here
      return DONE
    for line in changes.free + changes.defining:
      view.message(f"changed: {line}")
    again = hosts.on_first(lambda: metrics_lib.computed_again(workdir, done))
    if again:
      view.message(again)
    writer = hosts.on_first(
      lambda: stack.enter_context(
        build.make_writer(c, workdir, resume_step=done, unfinished=unfinished)
      )
    )
    writer = writer or metrics_lib.Unwritten()
    for sentence in (
      hosts.on_first(lambda: metrics_lib.lost(workdir, done - unfinished)) or ()
    ):
      view.message(sentence)
    # Taken out of the list by the loop's call: this frame must hold neither
    # the parameters, which the state has taken over, nor the first reference.
    starts = [start or begin(setup, params, checkpointer, writer)]
    del params, start
    hosts.on_first(lambda: workdir_lib.write_config(c, workdir))
    code = loop(setup, starts.pop(), checkpointer, writer)
    checkpointer.wait()
  return code


def _own_policy(
  c, workdir: epath.Path, view: View, override: bool
) -> policy_lib.Policy | None:
  """Returns the policy of the run in a workdir, if it can go on from itself.

  Args:
    c: the resolved config.
    workdir: workdir of a run, or where one begins.
    view: is told why the run's own model cannot be used.
    override: whether the user insists on what the base is now.

  Returns:
    None where what the run began with must be read: there is no run yet, or
    the user asks for another model, or it trains adapters.
  """

  def goes_on():
    with places.reading(workdir):
      saved = checkpoint_lib.newest(workdir / policy_lib.CHECKPOINTS)
      changes = workdir_lib.changes_of(c, workdir).defining
    if saved is None or any(
      line.startswith(("model.", "algo.partition_head")) for line in changes
    ):
      return False
    return not override or not build.has_base(c)

  # Whether its entries have begun is asked below.
  hosts.agree(lambda: list(schedule_lib.every(c)))
  if not hosts.from_first(hosts.on_first(goes_on)):
    return None
  try:
    return build.own_policy(c, workdir)
  except errors.InputError as e:  # on all hosts alike
    view.message(f"{e}; {policy_lib.INIT_FROM} says what it is")
    return None


def _introduce(c, setup: build.Setup, view: View) -> None:
  """Says what the config left to the machine and to the data."""
  view.message(build.attention_of(setup.model, setup.mesh))
  drawn_on = derived.sampling_mesh(c, setup.mesh)
  if drawn_on != setup.mesh:
    view.message(
      f"Responses are drawn on the mesh {dict(drawn_on.shape)} of the same "
      f"devices; training has {dict(setup.mesh.shape)}."
    )
  if isolation.is_needed(c):
    view.message(f"isolation of code: {isolation.describe()}")
  for sentence in problems.all_notes(
    c, setup.first.prompter, setup.first.validate.evaluators
  ):
    view.message(sentence)
