"""The calls of the package from Python: train, evaluate, sample, compare.

`progrpo_jax.train` and its sisters are these functions, and the commands of the
command line call them too. A config is a `ConfigDict` that
`progrpo_jax.config` made, the name or path of a config file, or a dict of keys;
a policy is a Hugging Face directory, the workdir of a run (its newest
checkpoint), a checkpoint of one, or a run that `train` or `load_run` returned.

Errors are `errors.InputError`, with the sentences of the command line.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import os
import signal
import time
from typing import Any, TypeAlias, overload

import ml_collections

from progrpo_jax import errors, loop, places
from progrpo_jax import run as run_lib
from progrpo_jax.build import answers, base_policy, problems
from progrpo_jax.build import stages as build
from progrpo_jax.devices import compilation, hosts, stopping
from progrpo_jax.models import hf
from progrpo_jax.report import compared, views
from progrpo_jax.settings import checks, files, isolation
from progrpo_jax.storage import checkpoint, metrics, outputs
from progrpo_jax.storage import policy as policy_lib
from progrpo_jax.tasks import base as tasks

Path: TypeAlias = str | os.PathLike
Config: TypeAlias = ml_collections.ConfigDict | Mapping[str, Any] | Path
Reward: TypeAlias = Callable[..., Any] | str


def train(
  config: Config | None,
  workdir: Path,
  *,
  rewards: Reward | Sequence[Reward] = (),
  view: loop.View | None = None,
  override: bool = False,
) -> run_lib.Run:
  """Trains a policy by reinforcement learning; resumes the workdir's run.

  An interrupt (Ctrl-C, or the stop button of a notebook) stops the run at the
  next safe point and saves it: the same call goes on, and computes what the
  unbroken run would have, bit for bit. Until the start is evaluated there is
  nothing to save, and the same call begins anew. A second one stops at once,
  and what came after the last checkpoint is computed again.

  On many hosts every host calls this, and the first one writes.

  Args:
    config: the config; None for that of the run in the workdir. A dict of keys
      changes that one, or the defaults where the workdir holds no run.
    workdir: local directory or gs:// URL.
    rewards: reward functions f(prompts, completions, **columns) -> list of
      numbers, or their names, for the tasks of the module `file` that name
      none; see docs/extending.md.
    view: shows the run; if it is a context manager, the caller has entered it.
      None for figures below the cell in a notebook, the live view in a
      terminal, plain lines elsewhere.
    override: whether the config may change what defines the run in the workdir
      (its method, model or data).

  Returns:
    The run, as `load_run(workdir)` does.

  Raises:
    InputError: the config, the workdir or a reward function cannot be used.
    RunError: the run had to give up; what was saved is whole.
    KeyboardInterrupt: it was interrupted, and is saved; the message says which
      step is.
    SystemExit: another signal (SIGTERM, SIGUSR1) stopped it, and it is saved;
      the code is 75, as that of the command.
  """
  workdir = places.argument("workdir", workdir)
  c = _of_run(workdir) if config is None else resolved(config, workdir)
  rewards = _several(rewards)
  _start(c, workdir)
  places.check_output("--workdir", workdir)
  # A second interrupt must not end a kernel, and all that it holds.
  stop = stopping.Stop(ends_process=not views.is_interactive())
  with contextlib.ExitStack() as stack:
    stack.enter_context(run_lib.quiet())
    if view is None:
      view = stack.enter_context(
        views.of_run(c.method, workdir, c.train.total_steps)
      )
    with _kept_by_nobody():
      code = loop.train(c, workdir, view, override, rewards, stop)
  if code == loop.PREEMPTED and stop.signal == signal.SIGINT:
    step = checkpoint.newest(places.place(workdir) / policy_lib.CHECKPOINTS)
    raise errors.Interrupted(
      "stopped before a step was saved; the same call begins anew"
      if step is None
      else f"step {step} is saved; the same call goes on"
    )
  if code != loop.DONE:
    raise SystemExit(code)
  return run_lib.Run(places.fixed(workdir))


def evaluate(
  policy: Path | run_lib.Run | None,
  config: Config | None = None,
  *,
  workdir: Path | None = None,
  output: Path | None = None,
  rewards: Reward | Sequence[Reward] = (),
) -> dict[str, Any]:
  """Tries the held-out problems of the config's tasks.

  Args:
    policy: policy to evaluate; None for config.model.init_from.
    config: the config, with the problems and the settings of sampling; None for
      that of the policy's run, of which a dict changes keys.
    workdir: directory for eval.jsonl and the samples, which `compare` takes as
      its base, or None.
    output: JSON file for what is returned, or None.
    rewards: the reward functions, where the run was trained with functions
      that Python handed over; see `train`.

  Returns:
    "policy", the place that it was read from; "step", that of a run's
    checkpoint, or None; "measures", {`eval/<set>/...`: value}, such as
    `eval/countdown/pass@8` with `/low` and `/high` of its 95% interval;
    "seconds" and "tokens", the time and the tokens that it took.

  Raises:
    InputError: the config, the policy, the workdir or a reward function cannot
      be used.
  """
  c = _of_policy(policy, config)
  c, objects = problems.give_rewards(c, _several(rewards))
  if workdir is not None:
    workdir = places.argument("workdir", workdir)
  if output is not None:
    output = places.argument("output", output)
  _start(c, workdir)
  # Refuse what cannot work before the policy is loaded.
  checks.validate(c)
  if workdir:
    places.check_output("--workdir", workdir)
    outputs.check(workdir, "--workdir")
    if outputs.holds_run(workdir):
      raise errors.InputError(
        f"--workdir {workdir} holds a run, whose evaluations would be "
        "replaced; give --policy for the policy of a run, and another "
        "--workdir or --output for the results"
      )
  if output:
    places.check_output("--output", os.path.dirname(output))
    outputs.check(output, "--output")
  isolation.check(c)
  with run_lib.quiet(), _kept_by_nobody():
    content, records = _evaluate(c, objects)
  if not hosts.is_first():
    return content
  # As step 0 of a record; an evaluation that was there before is replaced.
  if workdir:
    with metrics.MetricWriter(
      workdir, tensorboard=False, resume_step=-1
    ) as writer:
      writer.write_eval(0, content["measures"])
      writer.write_eval_samples(0, [dict(step=0, **r) for r in records])
  if output:
    places.write_json(output, content)
  return content


def _kept_by_nobody() -> contextlib.AbstractContextManager[None]:
  """Context whose errors hold no arrays where somebody types.

  Elsewhere the process ends with the error, and a debugger may want them.
  """
  if views.is_interactive():
    return errors.without_frames()
  return contextlib.nullcontext()


def _several(rewards: Reward | Sequence[Reward]) -> Sequence[Reward]:
  """Returns one reward function or several as a list."""
  if isinstance(rewards, str) or callable(rewards):
    return [rewards]
  if not isinstance(rewards, Sequence):
    raise errors.InputError(
      f"rewards = {rewards!r}: must be a function or a list of functions"
    )
  return rewards


def _evaluate(
  c: ml_collections.ConfigDict, objects: Mapping[str, Callable[..., Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  """Returns what `evaluate` does, and a record for each problem."""
  mesh = build.make_mesh(c)
  policy = build.load_policy(c, mesh, stored=c.model.dtype)
  values: dict[str, float] = {}
  pool = problems.make_pool(c, policy.tokenizer.opens_thought, objects=objects)
  with pool:
    evaluators = problems.make_evaluators(
      c, policy.config, policy.tokenizer, pool, mesh
    )
    if hosts.is_first():
      for note in problems.held_out_notes(c, evaluators):
        print(note)
    records, tokens = [], 0
    begin = time.monotonic()
    with views.progress(
      "evaluation", sum(len(e.prompts) for e in evaluators)
    ) as tick:
      for evaluator in evaluators:
        samples = evaluator.sample(policy.params, functools.partial(tick, 1))
        values |= dict(evaluator.run(samples))
        records += evaluator.records(samples)
        tokens += int(samples.length_XG.sum())
  seconds = time.monotonic() - begin
  content = dict(
    policy=c.model.init_from,
    step=policy.step,
    seconds=seconds,
    tokens=tokens,
    measures=values,
  )
  return content, records


def load_policy(
  policy: Path | run_lib.Run | None, config: Config | None = None
) -> answers.Responder:
  """Loads a policy to be asked again and again with `sample`.

  Args:
    policy: the policy; None for config.model.init_from.
    config: the config, with the settings of sampling; None for that of the
      policy's run, of which a dict changes keys.

  Raises:
    InputError: the config or the policy cannot be used.
  """
  c = _of_policy(policy, config)
  _start(c, None)
  with run_lib.quiet():
    return answers.Responder.load(c)


@overload
def sample(
  policy: Path | run_lib.Run | answers.Responder,
  prompts: str | tasks.Row,
  **options: Any,
) -> list[str]: ...


@overload
def sample(
  policy: Path | run_lib.Run | answers.Responder,
  prompts: Sequence[str | tasks.Row],
  **options: Any,
) -> list[list[str]]: ...


def sample(
  policy,
  prompts,
  *,
  config: Config | None = None,
  n: int = 1,
  temperature: float | None = None,
  reply: answers.Reply | None = None,
):
  """Answers prompts with the settings of training.

  The same prompts get the same answers. A policy that is given by its place is
  loaded for this call; a run, and what `load_policy` returns, keep theirs in
  memory for the next.

  Where `config.sampling.max_turns` is 2 or more, the policy goes on after a
  reply. `reply` gives it; without, the task of a prompt that is a row.

  Args:
    policy: policy that answers.
    prompts: a text of the user, or a row of a task; or several in a list.
    config: the config, as `load_policy` takes it; None for a policy that
      `load_policy` returned, which has its own.
    n: answers to each prompt.
    temperature: 0 is greedy; None takes the config's.
    reply: function of a conversation, a list of messages that ends with a turn
      of the policy, that returns the user's next message, or None to end it.

  Returns:
    A list of n texts for one prompt, a list of such lists for several. Of a
    conversation it has the policy's last turn; `load_policy(...).converse` has
    all of it.

  Raises:
    InputError: the policy, a prompt or a number cannot be used.
  """
  listed = answers.listed(prompts)
  if isinstance(policy, answers.Responder):
    if config is not None:
      raise errors.InputError(
        "config: this policy is in memory, with the config that load_policy"
        " took; give load_policy another one, or sample the policy's place"
      )
  elif isinstance(policy, run_lib.Run) and config is None:
    policy = policy.policy()
  else:
    policy = load_policy(policy, config)
  texts = policy.sample(listed, n=n, temperature=temperature, reply=reply)
  return texts[0] if answers.is_one(prompts) else texts


def compare(
  workdirs: Sequence[Path] | Mapping[str, Path | Sequence[Path]],
  *,
  labels: Sequence[str] | None = None,
  base: Path | metrics.Record | None = None,
  dataset: str | None = None,
) -> compared.Comparison:
  """Compares runs; a notebook shows the result as a verdict and tables.

  Args:
    workdirs: runs or their workdirs; or {label: one, or several that count as
      seeds of one method}.
    labels: a name for each workdir, the same for seeds of one method; None for
      the directories' names.
    base: workdir or JSON file of the base policy's evaluation, or the record
      of a run, such as `load_run(workdir).record_until(0)`.
    dataset: evaluation set; None for the first one.

  Raises:
    InputError: numbers of labels and workdirs differ, a run cannot be read, or
      no run has the dataset.
  """
  return compared.Comparison(
    workdirs, labels=labels, base=base, dataset=dataset
  )


def warmup(config: Config, output: Path) -> str:
  """Trains a base policy on the demonstrations of the config's tasks.

  Without config.model.init_from it is a new small model with its own
  vocabulary, of the size in config.warmup.

  Args:
    config: config with the tasks and `config.warmup`.
    output: directory to write the policy to, in Hugging Face's format.

  Returns:
    The directory, for config.model.init_from.

  Raises:
    InputError: the directory holds a policy already, or it or the config
      cannot be used.
    Diverged: the training diverged; nothing is written.
  """
  c, output = resolved(config), places.argument("output", output)
  _start(c, None)
  places.check_output("--output", output)
  outputs.check(output, "--output")
  if hf.is_hf_dir(output):
    raise errors.InputError(
      f"--output {output} holds a policy already: name another directory, or "
      "delete this one"
    )
  with run_lib.quiet(), views.progress("warm-up", c.warmup.steps) as tick:
    say = print if hosts.is_first() else lambda _: None
    base_policy.warm_up(c, output, tick, say)
  return output


def resolved(
  config: Config, place: str | None = None
) -> ml_collections.ConfigDict:
  """Returns a config in any of its forms as a checked copy.

  Args:
    config: config, file, name, or dict of keys.
    place: workdir or policy; where it is a run's, a dict changes the keys of
      that run's config, and else those of the defaults.

  Raises:
    InputError: no such file or key, or a value out of range.
  """
  if isinstance(config, Mapping):
    return files.make_config(files.of_run(place) or "", keys=config)
  return files.make_config(config)


def _of_run(
  place: str | None, is_policy: bool = False
) -> ml_collections.ConfigDict:
  """Returns the config of the run in a workdir, or of a policy's run."""
  c = files.of_run(place)
  if c is None:
    raise files.no_config(place, is_policy)
  return c


def _of_policy(
  policy: Path | run_lib.Run | None, config: Config | None
) -> ml_collections.ConfigDict:
  """Returns the config of a policy that is only read."""
  place = None if policy is None else places.argument("policy", policy)
  if config is not None:
    c = resolved(config, place)
  else:
    c = _of_run(place, is_policy=True)
  c = files.without_training(c)
  if place is not None:
    policy_lib.check_exists(place, c.model.download, "policy")
    c.model.init_from = place
  return c


def _start(c: ml_collections.ConfigDict, workdir: str | None) -> None:
  """Keeps what will be compiled, and connects the hosts of a run."""
  compilation.keep(workdir)
  hosts.connect(c.hosts.heartbeat_s)
