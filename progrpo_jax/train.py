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
import functools
import json
import signal
from typing import Any

from etils import epath

from progrpo_jax import checkpoint as checkpoint_lib
from progrpo_jax import data as data_lib
from progrpo_jax import errors, stages
from progrpo_jax import groups as groups_lib
from progrpo_jax import metrics as metrics_lib
from progrpo_jax import parts as parts_lib
from progrpo_jax import state as state_lib

DONE, PREEMPTED = 0, 75
CONFIG = "config.json"


def start(
    parts: parts_lib.Parts, params, checkpointer, writer, clock: stages.Clock,
) -> tuple[state_lib.TrainState, Any, stages.Progress]:
  """A new run, evaluated and saved at step 0; or the one that is there."""
  c = parts.config
  step = checkpointer.latest()
  if step is None:
    state = state_lib.create(parts.model, parts.tx, params, parts.mesh)
    values = {}
    if c.eval.every and c.eval.at_start:
      values = stages.evaluate(parts, state.params, clock, writer, 0)
    score = stages.watched(c, values)
    progress = stages.Progress(scores=() if score is None else ((0, score),))
    save(parts, checkpointer, state, progress)
  else:
    clock.view.message(f"resuming from step {step}")
    like = state_lib.abstract(parts.model, parts.tx, parts.mesh)
    state, meta, data = checkpointer.restore(step, like)
    surplus = groups_lib.from_arrays(
        data, parts.prompter.of, functools.partial(
            data_lib.texts, parts.tokenizer, group=c.algo.num_generations),
    ) if data else None
    progress = stages.Progress.from_meta(
        meta | {"position": parts.prompter.restore(meta["data"])}, surplus)
  return state, load_reference(parts, checkpointer, progress), progress


def load_reference(
    parts: parts_lib.Parts, checkpointer, progress: stages.Progress):
  """The reference policy, or None when nothing asks for one."""
  if parts.config.algo.beta == 0:
    return None
  return checkpointer.load_reference(
      progress.ref_step, parts.model, parts.mesh)


def save(
    parts: parts_lib.Parts, checkpointer, state, progress: stages.Progress,
) -> None:
  """Saves everything that the next step reads."""
  data = parts.prompter.state(progress.position)
  checkpointer.save(
      progress.step, state, progress.to_meta() | {"data": data},
      groups_lib.to_arrays(progress.surplus) if progress.surplus else None)


@contextlib.contextmanager
def stops_on_signals(clock: stages.Clock):
  """SIGTERM and Ctrl-C stop the run between stages; a second one at once."""

  def ask(number, _):
    signal.signal(number, signal.SIG_DFL)
    clock.asked_to_stop = True
    clock.view.message(
        f"{signal.Signals(number).name}: saving, then stopping; once more "
        "stops at once")

  before = {
      s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def prepare_workdir(c, parts: parts_lib.Parts, workdir) -> epath.Path:
  """Writes what describes the run: its config, its model, its tokenizer.

  The config of a run that is there stays until nothing can refuse the new one.

  Raises:
    InputError: the place cannot be written, or holds a run of another model.
  """
  workdir = epath.Path(workdir)
  model = workdir / parts_lib.MODEL_DIR
  described = json.dumps(parts.model.to_hf(), indent=2)
  try:
    model.mkdir(parents=True, exist_ok=True)
    there = model / "config.json"
    if there.exists() and there.read_text() != described:
      raise errors.InputError(
          f"{workdir} holds a run of another model; choose a new --workdir")
    if not (workdir / CONFIG).exists():
      write_config(c, workdir)
    there.write_text(described)
    parts.tokenizer.save(model)
  except OSError as e:
    raise errors.InputError(f"cannot write to --workdir {workdir}: {e}") from e
  return workdir


def write_config(c, workdir: epath.Path) -> None:
  """Writes the resolved config."""
  (workdir / CONFIG).write_text(c.to_json_best_effort(indent=2))


def train(c, workdir, view: stages.View) -> int:
  """Trains to the end, or until asked to stop.

  Args:
    c: the resolved config.
    workdir: local directory or gs:// URL; a run that is there is resumed.
    view: is told what happens.

  Returns:
    Exit code: 0 when done, 75 when stopped and saved.

  Raises:
    InputError: the user's to mend.
    Diverged: the updates stopped being finite.
  """
  parts, params = parts_lib.build(c)
  clock = stages.Clock(view)
  with contextlib.ExitStack() as stack:
    stack.enter_context(parts.pool)
    workdir = prepare_workdir(c, parts, workdir)
    k = c.checkpoint
    checkpointer = checkpoint_lib.Checkpointer(
        workdir / parts_lib.CHECKPOINTS, keep=k.keep,
        keep_every=k.keep_every, background=k.background)
    stack.callback(checkpointer.close)
    stack.enter_context(stops_on_signals(clock))
    done = checkpointer.latest()
    writer = stack.enter_context(metrics_lib.MetricWriter(
        workdir, tensorboard=c.log.tensorboard, wandb=c.log.wandb,
        resume_step=-1 if done is None else done))
    state, reference, progress = start(
        parts, params, checkpointer, writer, clock)
    del params  # the state has taken them over
    write_config(c, workdir)
    return loop(parts, state, reference, progress, checkpointer, writer, clock)


def loop(
    parts, state, reference, progress, checkpointer, writer, clock) -> int:
  """The steps, in the order that the text of this module gives."""
  c, total = parts.config, parts.config.train.total_steps
  try:
    while progress.step < total:
      found, after = stages.collect(parts, state.params, progress, clock)
      batch, signals, scored = stages.prepare(
          parts, state.params, reference, found.batch, clock)
      state, updated = stages.improve(parts, state, batch, clock)
      progress = stages.advance(after, scored)
      progress = stages.validate(parts, state.params, progress, writer, clock)
      progress, reason = stages.decide_reset(c, progress)
      if reason and c.algo.reset.optimizer:
        state = stages.restart_optimizer(parts, state)
      stages.log(
          parts, progress, found, signals, updated | scored, reason, writer,
          clock)
      if reason or progress.step % c.checkpoint.every == 0 or (
          progress.step == total):
        save(parts, checkpointer, state, progress)
      if reason:
        reference = load_reference(parts, checkpointer, progress)
  except stages.Preempted:
    # Raised only before an update: state and progress are those of the last
    # whole step.
    if checkpointer.latest() != progress.step:
      save(parts, checkpointer, state, progress)
    return PREEMPTED
  return DONE
