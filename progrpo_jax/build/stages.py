"""The stages of a run, each built from the config with its numbers bound.

`Foundation` holds what a run keeps from its first step to its last. `Stages`
holds what a step calls, and is built anew when an entry of `config.schedule`
begins; `Setup` has the foundation and the function that builds the stages. What
the stages call never sees a config.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import json
from typing import Any

from etils import epath
import jax
import ml_collections

from progrpo_jax import errors, packing
from progrpo_jax.algos import kl
from progrpo_jax.build import functions, problems
from progrpo_jax.devices import (
  agreement,
  hosts,
  peak,
  sharding,
  stopping,
  timing,
)
from progrpo_jax.evaluators import validate as validate_lib
from progrpo_jax.learn import adaptive, history, optim, prepare, reference
from progrpo_jax.learn import advantage as advantage_lib
from progrpo_jax.learn import improve as improve_lib
from progrpo_jax.learn import speed as speed_lib
from progrpo_jax.learn import teacher as teacher_lib
from progrpo_jax.learn import update as update_lib
from progrpo_jax.models import attention, lora
from progrpo_jax.models import config as model_config
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rollout import collect as collect_lib
from progrpo_jax.rollout import draw, rephrase, rewarding
from progrpo_jax.rollout import prompts as prompts_lib
from progrpo_jax.settings import checks, derived, isolation
from progrpo_jax.settings import schedule as schedule_lib
from progrpo_jax.storage import checkpoint as checkpoint_lib
from progrpo_jax.storage import log as log_lib
from progrpo_jax.storage import loggers
from progrpo_jax.storage import metrics as metrics_lib
from progrpo_jax.storage import policy as policy_lib
from progrpo_jax.text import tokenizer as tokenizer_lib


@dataclasses.dataclass(frozen=True)
class Stages:
  """What a step calls, in the order in which it does.

  Attributes:
    config: the config of these stages, as text, by which they are told apart.
    collect: rollout: prompts to a batch of verified groups.
    prepare: groups to scores and advantages.
    improve: the updates of the step.
    advance: counts the step and keeps its metrics.
    validate: held-out problems, where they are due.
    watch: measure of an evaluation that resets watch.
    decide_reset: whether the reference becomes the present policy.
    resets_optimizer: whether a reset forgets the optimiser's moments.
    speed: takes the times of the stages, and says how fast the step was.
    log: writes and shows the step.
    check_hosts_agree: compares hosts and devices, where it is due.
    save_every: steps between checkpoints.
    needs_reference: whether a stage reads the reference policy.
    prompter: prompts by the number of their draw; its position is saved.
  """

  config: str
  collect: collect_lib.Collect
  prepare: prepare.Prepare
  improve: improve_lib.Improve
  advance: history.Advance
  validate: validate_lib.Validate
  watch: str
  decide_reset: reference.DecideReset
  resets_optimizer: bool
  speed: speed_lib.Speed
  log: log_lib.Log
  check_hosts_agree: agreement.CheckHostsAgree
  save_every: int
  needs_reference: bool
  prompter: prompts_lib.Prompter


@dataclasses.dataclass(frozen=True)
class Foundation:
  """What a run keeps from its first step to its last, whatever its schedule.

  Attributes:
    mesh: mesh of all devices.
    model: configuration of the policy.
    frozen: parameters that do not train: with LoRA, all but the adapters.
    tokenizer: tokenizer of the policy.
    pool: processes that verify.
    tx: optax chain.
    timer: times the stages.
    stop: request to stop.
    view: display of the run, see `loop.View`; None shows nothing.
    teacher: configuration and parameters of the teacher of on-policy
      distillation; None for none.
  """

  mesh: jax.sharding.Mesh
  model: model_config.ModelConfig
  frozen: dict
  tokenizer: tokenizer_lib.Tokenizer
  pool: pool_lib.Pool
  tx: Any
  timer: timing.Timer
  stop: stopping.Stop
  view: Any
  teacher: tuple[model_config.ModelConfig, Any] | None

  def join(self, params) -> dict:
    """Returns all parameters of a policy, given those that train."""
    return lora.join(params, self.frozen)


@dataclasses.dataclass(frozen=True)
class Setup(Foundation):
  """A run that can begin.

  Attributes:
    learning_rate: function of the optimiser's state to the rate of its next
      update.
    total_steps: number of steps of the run.
    first: stages of the config before any entry of its schedule.
    stages_at: function (stages, step, resets) to the stages of the next step:
      the same ones while no other entry of the schedule has begun.
  """

  learning_rate: Callable[[Any], float]
  total_steps: int
  first: Stages
  stages_at: Callable[[Stages, int, int], Stages]


def make_mesh(c: ml_collections.ConfigDict) -> jax.sharding.Mesh:
  """Returns the mesh of all devices."""
  return sharding.make_mesh(c.mesh.data, c.mesh.fsdp, c.mesh.tensor)


def load_policy(
  c: ml_collections.ConfigDict,
  mesh,
  place: str | None = None,
  stored: str | None = "float32",
) -> policy_lib.Policy:
  """Returns the policy that `config.model.init_from` names, or another.

  Args:
    c: the config.
    mesh: mesh of the devices that hold its parameters.
    place: directory of the policy; None for config.model.init_from.
    stored: type of its parameters, see `storage.policy.load`.

  Raises:
    InputError: see `storage.policy.load`.
  """
  m = c.model
  return policy_lib.load(
    m.init_from if place is None else place,
    mesh,
    download=m.download,
    seed=c.seed,
    stored=stored,
    lora=derived.lora_config(c),
    partition_head=c.algo.partition_head,
    **_used_as(c),
  )


def _used_as(c: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns how a policy computes and is asked, wherever it is read from."""
  m = c.model
  return dict(
    dtype=m.dtype,
    remat=m.remat,
    attention=m.attention,
    chat_template=m.chat_template,
    chat_template_options=m.chat_template_options.to_dict(),
    system_prompt=m.system_prompt,
  )


def has_base(c: ml_collections.ConfigDict) -> bool:
  """Returns whether there is a policy where `config.model.init_from` says."""
  try:
    policy_lib.check_exists(
      c.model.init_from, c.model.download, policy_lib.INIT_FROM
    )
  except errors.InputError:
    return False
  return True


def own_policy(
  c: ml_collections.ConfigDict, workdir: epath.Path
) -> policy_lib.Policy | None:
  """Returns the policy of a run that goes on, see `storage.policy.of_run`.

  Args:
    c: config that differs from the run's in no key that defines it.
    workdir: workdir of the run.

  Returns:
    None where `load_policy` must read what the run began with.

  Raises:
    InputError: model or tokenizer of the workdir cannot be used.
  """
  if c.model.lora.rank:
    return None  # the frozen weights are in no checkpoint
  return policy_lib.of_run(workdir, **_used_as(c))


def load_teacher(
  c: ml_collections.ConfigDict, mesh, policy: policy_lib.Policy
) -> tuple[model_config.ModelConfig, Any] | None:
  """Returns the teacher that a config names; None where it names none.

  It is read once, and split over the devices as the policy is.

  Args:
    c: the config.
    mesh: mesh of the devices that hold its parameters.
    policy: policy that it teaches.

  Raises:
    InputError: see `storage.policy.load_frozen`, or its attention cannot run.
  """
  if not c.algo.distill.teacher:
    return None
  teacher = policy_lib.load_frozen(
    c.algo.distill.teacher, mesh, policy, "config.algo.distill.teacher"
  )
  hosts.agree(lambda: attention_of(teacher[0], mesh))
  return teacher


def describe(c: ml_collections.ConfigDict, setup: Setup) -> dict[str, Any]:
  """Returns what stands in the `model/config.json` of a run's workdir."""
  return policy_lib.describe(
    setup.model, setup.tokenizer, c.model.init_from, c.model.download
  )


def make_checkpointer(
  c: ml_collections.ConfigDict, place, model: model_config.ModelConfig
) -> checkpoint_lib.Checkpointer:
  """Returns the checkpoints of a model in a place, kept as the config says."""
  k = c.checkpoint
  return checkpoint_lib.Checkpointer(
    place,
    keep=k.keep,
    keep_every=k.keep_every,
    background=k.background,
    about={policy_lib.MODEL: policy_lib.digest(model)},
  )


def make_writer(
  c: ml_collections.ConfigDict,
  workdir,
  resume_step: int,
  unfinished: bool = False,
) -> metrics_lib.MetricWriter:
  """Returns the writer of a workdir, which goes on after a step."""
  return metrics_lib.MetricWriter(
    workdir,
    tensorboard=c.log.tensorboard,
    wandb=c.log.wandb,
    trackio=c.log.trackio,
    logger=functions.make_logger(c),
    config=json.loads(c.to_json_best_effort()),
    resume_step=resume_step,
    unfinished=unfinished,
  )


def check(c: ml_collections.ConfigDict, mesh) -> None:
  """Refuses a config that cannot work, in any stage of its schedule.

  Nothing is read for this but the config itself.

  Raises:
    InputError: naming the key and what to do.
  """
  for stage in schedule_lib.every(c):
    checks.validate(stage)
    isolation.check(stage)
    derived.layout(stage, mesh)
    derived.sampling_mesh(stage, mesh)
    for make in (
      functions.make_schedule,
      functions.make_objective,
      functions.make_advantage,
      functions.make_correction,
      functions.make_logger,
    ):
      make(stage)
    if c.optim.decay != "constant" and (
      functions.updates_per_step(stage) != functions.updates_per_step(c)
    ):
      raise errors.InputError(
        f"config.optim.decay = {c.optim.decay!r} counts updates, and a stage "
        "of config.schedule makes another number of them a step "
        "(train.num_minibatches, train.num_iterations): it would not end "
        "with the run; leave these alone, or decay 'constant'"
      )


def check_base(c: ml_collections.ConfigDict) -> None:
  """Refuses to train adapters on weights that would be others later.

  Raises:
    InputError: see `storage.policy.check_stays`.
  """
  place, m = c.model.init_from, c.model
  fetched = m.download and policy_lib.is_on_hub(place)
  if m.lora.rank and not fetched:
    policy_lib.check_stays(place)


def check_trackers(c: ml_collections.ConfigDict) -> None:
  """Refuses a run whose W&B or trackio cannot start on this host.

  Raises:
    InputError: see `loggers.check`.
  """
  for name in loggers.TRACKERS:
    if c.log[name]:
      loggers.check(name, login=hosts.is_first())


def attention_of(model: model_config.ModelConfig, mesh) -> str:
  """Returns a sentence on the attention kernel that runs on a mesh.

  Raises:
    InputError: the kernel that the config names cannot run there.
  """
  try:
    return attention.choose(model, mesh.devices.flat[0].platform)[1]
  except ValueError as e:
    raise errors.InputError(f"config.model.attention: {e}") from e


def make_setup(
  c: ml_collections.ConfigDict,
  timer: timing.Timer | None = None,
  stop: stopping.Stop | None = None,
  view=None,
  objects: Mapping[str, Callable[..., Any]] | None = None,
  own: policy_lib.Policy | None = None,
) -> tuple[Setup, Any]:
  """Builds a run; every process must call this.

  Args:
    c: the resolved config.
    timer: times the stages.
    stop: request to stop.
    view: display of the run, see `loop.View`; None shows nothing.
    objects: reward functions that are objects, see `problems.give_rewards`.
    own: policy of the run that goes on, see `own_policy`; None reads what
      `config.model.init_from` names.

  Returns:
    (setup, parameters that train, at their beginning; None with `own`). The
    setup's pool has processes: close it.

  Raises:
    InputError: something in the config cannot work; see `checks.validate`.
  """
  mesh = make_mesh(c)

  # Before the weights are read, which may take minutes. What may fail on one
  # host alone is agreed on part by part: between the parts all hosts compute
  # together, and would wait for one that has failed.
  def checked():
    check(c, mesh)
    check_base(c)
    check_trackers(c)

  hosts.agree(checked)
  policy = own or load_policy(c, mesh)
  hosts.agree(lambda: attention_of(policy.config, mesh))
  params, frozen = lora.split(policy.config, policy.params)
  teacher = load_teacher(c, mesh, policy)
  rate = functions.make_schedule(c)
  stop = stop or stopping.Stop()

  def begun(stack):
    pool = stack.enter_context(
      problems.make_pool(
        c, policy.tokenizer.opens_thought, lambda: stop.asked, objects
      )
    )
    foundation = Foundation(
      mesh=mesh,
      model=policy.config,
      frozen=frozen,
      tokenizer=policy.tokenizer,
      pool=pool,
      tx=functions.make_optimizer(c, rate),
      timer=timer or timing.Timer(),
      stop=stop,
      view=view,
      teacher=teacher,
    )
    first = make_stages(c, foundation)
    _check_later_stages(c, foundation)
    return foundation, first

  with contextlib.ExitStack() as around:
    foundation, first = hosts.agree(lambda: begun(around))
    around.pop_all()  # from here on the caller closes the pool

  def stages_at(stages: Stages, step: int, resets: int) -> Stages:
    now = schedule_lib.at(c, step, resets)
    if now.to_json_best_effort() == stages.config:
      return stages
    return hosts.agree(lambda: make_stages(now, foundation))

  return Setup(
    **vars(foundation),
    learning_rate=lambda opt_state: float(
      rate(optim.counts(opt_state)[0])
      * optim.rewarmup(opt_state, c.algo.reset.rewarmup_steps)
    ),
    total_steps=c.train.total_steps,
    first=first,
    stages_at=stages_at,
  ), params


def _check_later_stages(
  c: ml_collections.ConfigDict, foundation: Foundation
) -> None:
  """Builds each stage of `config.schedule` once, before the first step.

  Stages that differ only in what is neither read from files nor checked
  against the model are left out: reading data twice may take minutes.

  Raises:
    InputError: a stage could not begin; the message names its entry.
  """

  def reads(stage):
    return [stage[key].to_json_best_effort() for key in ("data", "eval")] + [
      stage.sampling.max_new_tokens,
      stage.algo.rephrase.to_json_best_effort(),
    ]

  seen = [reads(c)]
  for number, stage in enumerate(list(schedule_lib.every(c))[1:]):
    if reads(stage) in seen:
      continue
    seen.append(reads(stage))
    try:
      make_stages(stage, foundation)
    except errors.InputError as e:
      raise errors.InputError(f"config.schedule[{number}]: {e}") from e


def make_stages(c: ml_collections.ConfigDict, foundation: Foundation) -> Stages:
  """Builds the stages of a config around what a run keeps.

  Raises:
    InputError: something in the config cannot work with it.
  """
  teacher = foundation.teacher[0] if derived.distills(c) else None
  check_positions(c, foundation.model, teacher)
  prompter = problems.make_prompter(c, foundation.tokenizer, "train")
  prompter.check()
  problems.check_functions(foundation.pool, prompter)
  coefs = make_coefs(c)
  return Stages(
    config=c.to_json_best_effort(),
    prompter=prompter,
    collect=_collect(c, foundation, prompter),
    prepare=_prepare(c, foundation),
    improve=_improve(c, foundation, coefs),
    advance=history.Advance(coefs),
    validate=_validate(c, foundation),
    watch=c.algo.reset.watch,
    decide_reset=reference.DecideReset(
      options=derived.reset_options(c),
      scheduled=functools.partial(schedule_lib.asks_for_reset, c),
    ),
    resets_optimizer=c.algo.reset.optimizer,
    speed=speed_lib.Speed(
      model=foundation.model,
      devices=foundation.mesh.size,
      peak=peak.of_devices(foundation.mesh),
      passes=c.train.num_iterations,
      scorers=functions.needs_scores(c) + derived.needs_reference(c),
      timer=foundation.timer,
      teacher=foundation.teacher[0] if derived.distills(c) else None,
    ),
    log=_log(c, foundation),
    check_hosts_agree=agreement.CheckHostsAgree(
      mesh=foundation.mesh,
      config=c.to_json_best_effort(),
      every=c.hosts.compare_every,
    ),
    save_every=c.checkpoint.every,
    needs_reference=derived.needs_reference(c),
  )


def _collect(c, foundation: Foundation, prompter) -> collect_lib.Collect:
  """The rollout stage of a config."""
  dynamic, r = c.algo.dynamic_sampling, c.algo.rephrase
  mesh = derived.sampling_mesh(c, foundation.mesh)
  around = dict(
    tokenizer=foundation.tokenizer, pool=foundation.pool, timer=foundation.timer
  )
  asks = None
  if r.enabled:
    asks = rephrase.Rephrase(
      **around,
      dist=functions.make_distribution(c),
      settings=problems.make_settings(
        c, foundation.tokenizer.stop_ids, num_generations=1
      ),
      prompter=prompter.resized(r.max_prompt_length),
      template=r.template,
      fail_below=r.fail_below,
      min_fail_share=r.min_fail_share,
    )
  return collect_lib.Collect(
    prompter=prompter,
    key=jax.random.key(c.seed),
    stop=foundation.stop,
    draw=draw.DrawGroups(
      **around,
      model=foundation.model,
      mesh=mesh,
      settings=problems.make_settings(
        c,
        foundation.tokenizer.stop_ids,
        batch_prompts=problems.batch_prompts(c, foundation.model, mesh),
      ),
      stop=foundation.stop,
    ),
    count=c.train.prompts_per_step,
    round_prompts=derived.prompts_per_round(c),
    keep=make_keep(c),
    max_rounds=dynamic.max_rounds if dynamic.enabled else 1,
    carry=dynamic.enabled and dynamic.surplus == "carry",
    rephrase=asks,
    say=foundation.view.message if foundation.view else _unseen,
  )


def _layout(c, foundation: Foundation) -> tuple[int, packing.Layout]:
  """How a config's sequences are packed into rows, see `derived.layout`."""
  platform = foundation.mesh.devices.flat[0].platform
  kernel = attention.packs(foundation.model, platform)
  return derived.layout(c, foundation.mesh, kernel=kernel)


def _prepare(c, foundation: Foundation) -> prepare.Prepare:
  """The scores and advantages of a config."""
  a = c.algo.arm
  per_bundle, layout = _layout(c, foundation)
  return prepare.Prepare(
    model=foundation.model,
    mesh=foundation.mesh,
    dist=functions.make_distribution(c),
    timer=foundation.timer,
    stop=foundation.stop,
    advantage=advantage_lib.Advantage(
      functions.make_advantage(c),
      a.alpha,
      advantage_lib.Arm(
        low_prob_share=a.low_prob_share,
        prompt_low_prob_share=a.prompt_low_prob_share,
        tail=a.tail,
        active=a.active,
        apply_to=a.apply_to,
        centre=a.centre,
      ),
    ),
    reward=make_reward(c),
    kl=functions.resolve(kl, c.algo.kl),
    score=functions.needs_scores(c),
    correction=functions.make_correction(c),
    per_bundle=per_bundle,
    layout=layout,
    mask_truncated=c.algo.mask_truncated_completions,
    all_sampled=not (
      c.algo.dynamic_sampling.enabled or c.algo.rephrase.enabled
    ),
    teacher=_teacher(c, foundation),
  )


def _teacher(c, foundation: Foundation) -> teacher_lib.Teacher | None:
  """The teacher of a config; None where its weight is 0, too."""
  if not derived.distills(c):
    return None
  d = c.algo.distill
  model, params = foundation.teacher
  return teacher_lib.Teacher(
    model=model,
    params=params,
    dist=functions.make_teacher_distribution(c),
    coef=d.coef,
    discount=d.discount,
    keep_rewards=d.keep_rewards,
  )


def _improve(
  c, foundation: Foundation, coefs: adaptive.AdaptiveCoefs
) -> improve_lib.Improve:
  """The updates of a config."""
  t = c.train
  return improve_lib.Improve(
    update=update_lib.make(
      foundation.model,
      foundation.tx,
      functions.make_objective(c),
      functions.make_distribution(c),
      whole=functions.sees_whole(c),
      scored=functions.needs_scores(c),
    ),
    mesh=foundation.mesh,
    frozen=foundation.frozen,
    layout=_layout(c, foundation)[1],
    prompts=t.prompts_per_step,
    num_minibatches=t.num_minibatches,
    num_iterations=t.num_iterations,
    max_skipped=t.max_skipped_updates,
    coefs=coefs,
    key=jax.random.key(c.seed),
    timer=foundation.timer,
  )


def _validate(c, foundation: Foundation) -> validate_lib.Validate:
  """The evaluations of a config."""
  evaluators = ()
  if c.eval.every:
    evaluators = problems.make_evaluators(
      c,
      foundation.model,
      foundation.tokenizer,
      foundation.pool,
      foundation.mesh,
    )
  return validate_lib.Validate(
    evaluators=evaluators,
    every=c.eval.every,
    at_start=c.eval.at_start,
    at_end=c.eval.at_end,
    total_steps=c.train.total_steps,
    timer=foundation.timer,
    stop=foundation.stop,
    show=foundation.view.eval if foundation.view else _unseen,
  )


def _log(c, foundation: Foundation) -> log_lib.Log:
  """What a config writes and shows of a step."""
  return log_lib.Log(
    rollouts_every=c.log.rollouts_every,
    rollouts_prompts=c.log.rollouts_prompts,
    tokenizer=foundation.tokenizer,
    timer=foundation.timer,
    show=foundation.view.step if foundation.view else _unseen,
    say=foundation.view.message if foundation.view else _unseen,
  )


def _unseen(*_) -> None:
  """Shows nothing."""


def check_positions(
  c: ml_collections.ConfigDict,
  model: model_config.ModelConfig,
  teacher: model_config.ModelConfig | None,
) -> None:
  """Refuses prompts and responses that are longer than a model reads.

  Args:
    c: config of a stage.
    model: configuration of the policy.
    teacher: configuration of the teacher, or None.

  Raises:
    InputError: naming the keys, and the model that has too few positions.
  """
  widths = {"data.max_prompt_length": c.data.max_prompt_length}
  if c.algo.rephrase.enabled:
    widths["algo.rephrase.max_prompt_length"] = (
      c.algo.rephrase.max_prompt_length
    )
  for reader, whose in ((model, "the model"), (teacher, "the teacher")):
    for name, width in widths.items():
      longest = width + c.sampling.max_new_tokens
      if reader is not None and longest > reader.max_positions:
        raise errors.InputError(
          f"{name} + sampling.max_new_tokens = {longest} is beyond the "
          f"{reader.max_positions} positions of {whose}"
        )


def make_reward(c) -> rewarding.ShapedReward:
  """Returns the verifier's reward with the penalties of a config."""
  p = c.algo.length_penalty
  return rewarding.ShapedReward(
    max_new_tokens=c.sampling.max_new_tokens,
    truncated_factor=c.algo.truncated_factor,
    overlong_cache=c.algo.overlong_cache,
    length_coef=p.coef,
    length_cycle=(p.on, p.off),
    kl_coef=c.algo.reward_kl_coef,
  )


def make_keep(c) -> rewarding.KeepGroups | None:
  """Returns what dynamic sampling keeps; None where it is off."""
  dynamic = c.algo.dynamic_sampling
  if not dynamic.enabled:
    return None
  return rewarding.KeepGroups(
    make_reward(c),
    by_accuracy=dynamic.filter == "accuracy",
    keep_all_correct=dynamic.keep_all_correct,
  )


def make_coefs(c) -> adaptive.AdaptiveCoefs:
  """Returns the coefficients of the objective that a config lets move."""
  e = c.algo.entropy_control
  return adaptive.AdaptiveCoefs(
    entropy_coef=c.algo.entropy_coef,
    entropy_rule=(dict(target=e.target, step=e.step) if e.target else None),
  )
