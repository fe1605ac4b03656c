"""The functions that a config names: loss, advantage, schedule and others.

A name is looked up in the module of its kind by `getattr`, or imported, if it
is the import path of a function of the user's own, "module.function" or, as of
reward functions, "module:function". There is no registry.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import importlib
import inspect
import types
from typing import Any

import jax
import jax.numpy as jnp

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors, ops
from progrpo_jax.algos import (
  advantages,
  aggregate,
  correction,
  kl,
  losses,
  objective,
)
from progrpo_jax.learn import advantage as advantage_lib
from progrpo_jax.learn import optim
from progrpo_jax.models import scoring
from progrpo_jax.settings import derived
from progrpo_jax.storage import loggers


def resolve(module: types.ModuleType, name: str):
  """Returns a function of a module by its name, or any by its import path.

  A function that the module imports by name from a module of the same folder
  counts as its own.

  Raises:
    InputError: there is no such function; the message lists the module's.
  """
  if _is_path(name):
    home, _, last = name.rpartition(":" if ":" in name else ".")
    with errors.of_user(f"cannot import {name}"):
      function = getattr(importlib.import_module(home), last)
    if not callable(function):
      raise errors.InputError(f"{name} is no function")
    return function
  room = module.__name__.rpartition(".")[0]
  known = sorted(
    n
    for n, f in vars(module).items()
    if inspect.isfunction(f)
    and f.__module__.rpartition(".")[0] == room
    and not n.startswith("_")
  )
  if name in known:
    return getattr(module, name)
  raise errors.InputError(
    f"no {name!r} in {module.__name__}{errors.hint(name, known)} "
    f"(known: {', '.join(known)}; or give an import path, as in mine.f)"
  )


def _is_path(name: str) -> bool:
  """Returns whether a name is an import path, and not of this package."""
  return "." in name or ":" in name


def bind(function, *sources):
  """Binds those entries of the sources that are arguments of the function."""
  names = inspect.signature(function).parameters
  options = {}
  for source in sources:
    options |= {k: v for k, v in dict(source).items() if k in names}
  return functools.partial(function, **options)


def make_advantage(c):
  """Returns the base method, a function of some of `learn.advantage.INPUTS`.

  A function of the user may have no argument `valid_PG`: the rewards of
  samples that the verifier failed on are then set to their group's mean.

  Raises:
    InputError: the function reads something that no batch has, or refuses its
      options.
  """
  name = c.algo.advantage
  function = _with_options(resolve(advantages, name), "advantage_options", c)
  for key, argument in inspect.signature(function).parameters.items():
    if (
      argument.default is argument.empty
      and argument.kind not in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
      and key not in advantage_lib.INPUTS
    ):
      raise errors.InputError(
        f"config.algo.advantage = {name!r}: give its argument {key!r} a value "
        f"in algo.advantage_options{errors.hint(key, advantage_lib.INPUTS)}; "
        f"a batch has {', '.join(advantage_lib.INPUTS)}"
      )
  if "valid_PG" not in inspect.signature(function).parameters:
    function = _with_means(function, name)
  _try(function, name, c)
  return function


def _with_means(function, name: str):
  """A function that knows no `valid_PG`, with means for unknown rewards.

  Args:
    function: function of some of `learn.advantage.INPUTS`.
    name: its name in the config.
  """
  names = advantage_lib.reads(function)

  def with_means(reward_PG, valid_PG, **others):
    mean_P1 = ops.masked_mean(reward_PG, valid_PG, axis=1)[:, None]
    filled_PG = jnp.where(valid_PG, reward_PG, mean_P1)
    known = others | ({"reward_PG": filled_PG} if "reward_PG" in names else {})
    out_PG = function(**known)
    # Before the line below, which would stretch a smaller one.
    _check_advantage(out_PG, name, valid_PG.shape)
    return jnp.where(valid_PG, out_PG, 0.0)

  with_means.__signature__ = inspect.Signature(
    [
      inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD)
      for key in sorted(names | {"reward_PG", "valid_PG"})
    ]
  )
  return with_means


def _try(function, name: str, c) -> None:
  """Calls an advantage on shapes alone, as a batch of this config would.

  Raises:
    InputError: it cannot be called, or returns another shape.
  """
  group = c.algo.num_generations

  def call():
    reward_PG, token_BT = jnp.zeros((2, group)), jnp.zeros((2 * group, 3))
    verdict_PG, mask_BT = reward_PG == 0, token_BT == 0
    terms = dict(
      tokens_PGT=jnp.zeros((2, group, 3), jnp.int32),
      components_PGJ=jnp.zeros((2, group, 2)),
      weights_PJ=jnp.zeros((2, 2)),
    )
    known = advantage_lib.inputs(
      terms, reward_PG, verdict_PG, verdict_PG, token_BT, mask_BT
    )
    return function(**{n: known[n] for n in advantage_lib.reads(function)})

  try:
    with _of_its_author(name):
      out = jax.eval_shape(call)
  except errors.InputError:
    raise
  except (TypeError, ValueError, AssertionError) as e:
    raise errors.InputError(
      f"config.algo.advantage = {name!r} cannot run with this config: {e}"
    ) from e
  _check_advantage(out, name, (2, group))


def _check_advantage(out, name: str, shape: tuple[int, int]) -> None:
  """Refuses what is not one number for each response.

  Args:
    out: return value of an advantage.
    name: its name in the config.
    shape: (P, G).

  Raises:
    InputError: it is no array of this shape.
  """
  if getattr(out, "shape", None) != shape:
    raise errors.InputError(
      f"config.algo.advantage = {name!r} returns {_kind(out)}, not one number "
      f"for each response, an array [P, G] like reward_PG, here {list(shape)}"
    )


def _kind(value: Any) -> str:
  """Says what a function of the user returned: shapes, but no numbers."""
  if value is None:
    return "None"
  if hasattr(value, "shape"):
    return f"an array {list(value.shape)}" if value.shape else "a single number"
  if isinstance(value, tuple):
    return f"({', '.join(map(_kind, value))})"
  return errors.kind(value)


def needs_scores(c) -> bool:
  """Returns whether a step scores its batch under the policy first."""
  if c.train.score != "needed":
    return c.train.score == "always"
  read = advantage_lib.reads(resolve(advantages, c.algo.advantage))
  return bool(
    c.algo.arm.alpha
    or read & advantage_lib.LOG_PROBS
    or derived.readers_of_scores(c)
  )


def _check_options(function, key: str, c) -> dict[str, Any]:
  """Returns the options `config.algo.<key>` of a function.

  Raises:
    InputError: an option is no argument of the function.
  """
  options = c.algo[key].to_dict()
  for option in options:
    if option not in inspect.signature(function).parameters:
      name = getattr(function, "__name__", repr(function))
      raise errors.InputError(
        f"config.algo.{key}.{option}: {name!r} has no such argument"
      )
  return options


def _with_options(function, key: str, c):
  """The function with the options of `config.algo.<key>` bound."""
  options = _check_options(function, key, c)
  return functools.partial(function, **options) if options else function


def make_loss(c):
  """Returns the loss, LossInputs -> (loss_BT, metrics).

  Of the config's keys only the bounds below are arguments of a loss; FlowRL's
  `beta`, for one, is not `config.algo.beta`. A bound of 0 leaves the default
  of the loss.
  """
  loss = resolve(losses, c.algo.loss)
  bounds = {
    k: c.algo[k] for k in ("epsilon", "epsilon_high", "dual_clip") if c.algo[k]
  }
  known = inspect.signature(loss).parameters
  if c.algo.dual_clip and "dual_clip" not in known:
    raise errors.InputError(
      f"config.algo.dual_clip = {c.algo.dual_clip}: the loss "
      f"{c.algo.loss!r} does not use it; set 0"
    )
  bound = bind(loss, bounds, _check_options(loss, "loss_options", c))
  if "key" in known:
    return lambda inputs: bound(inputs, key=inputs.key)
  return bound


def sees_whole(c) -> bool:
  """Returns whether the loss must see a minibatch at once.

  A loss says so by an attribute `whole`; one that draws must as well.
  """
  loss = resolve(losses, c.algo.loss)
  return getattr(loss, "whole", False) or (
    "key" in inspect.signature(loss).parameters
  )


def make_distribution(c) -> scoring.Distribution:
  """Returns the distribution of all log-probs: that of the rollout."""
  s = c.sampling
  return scoring.Distribution(
    temperature=s.temperature,
    top_p=s.top_p,
    top_k=s.top_k,
    chunk=c.model.logits_chunk,
  )


def make_teacher_distribution(c) -> scoring.Distribution:
  """Returns the distribution of a teacher's log-probs: without truncation.

  A token that the policy drew may be one that the teacher would cut off, whose
  log-prob would be minus infinity.
  """
  return dataclasses.replace(make_distribution(c), top_p=1.0, top_k=0)


def make_objective(c):
  """Returns the objective of an update, see `algos.objective`.

  Raises:
    InputError: the loss reads something that this config does not provide.
  """
  average, loss = resolve(aggregate, c.algo.aggregate), make_loss(c)
  goal = functools.partial(
    objective.objective,
    loss_fn=loss,
    aggregate_fn=bind(average, {"length": c.sampling.max_new_tokens}),
    kl_fn=resolve(kl, c.algo.kl),
    beta=c.algo.beta,
    entropy_coef=c.algo.entropy_coef,
  )
  try:
    with _of_its_author(c.algo.loss):
      example = _example(c)
      _check_loss(
        jax.eval_shape(loss, example), c.algo.loss, example.mask_BT.shape
      )
      jax.eval_shape(goal, example)
  except errors.InputError:
    raise
  except (TypeError, ValueError, AssertionError) as e:
    hint = (
      " (FlowRL needs algo.partition_head and algo.hold_reference)"
      if c.algo.loss == "flowrl"
      else ""
    )
    raise errors.InputError(
      f"config.algo.loss = {c.algo.loss!r} cannot run with this config: "
      f"{e}{hint}"
    ) from e
  return goal


def _check_loss(out, name: str, shape: tuple[int, int]) -> None:
  """Refuses what is not a loss of each token with metrics.

  Args:
    out: return value of the loss, as shapes.
    name: its name in the config.
    shape: (B, T).

  Raises:
    InputError: the message names the function, and the metric.
  """
  head = f"config.algo.loss = {name!r}"
  is_pair = isinstance(out, tuple | list) and len(out) == 2
  if not is_pair or not isinstance(out[1], Mapping):
    raise errors.InputError(
      f"{head} returns {_kind(out)}, not (loss_BT, metrics): a loss of each "
      "token, and a dict of pairs (sum, count), which may be empty"
    )
  loss_BT, metrics = out
  if getattr(loss_BT, "shape", None) != shape:
    raise errors.InputError(
      f"{head} returns {_kind(loss_BT)} as its loss, not one number for each "
      f"token, an array [B, T] like mask_BT, here {list(shape)}; "
      "config.algo.aggregate averages them"
    )
  for metric, pair in metrics.items():
    if not isinstance(pair, tuple | list) or (
      [getattr(number, "shape", None) for number in pair] != [(), ()]
    ):
      raise errors.InputError(
        f"{head}: its metric {metric!r} is {_kind(pair)}, not a pair of numbers"
        " (sum, count), of which the mean is logged"
      )


def _of_its_author(name: str):
  """Context for a call of a function that may be the user's own."""
  return errors.of_user(name) if _is_path(name) else contextlib.nullcontext()


def _example(c) -> batch_lib.LossInputs:
  """Inputs of a loss under this config: right shapes, values of no meaning."""
  token, row = jnp.zeros((2, 3)), jnp.zeros(2)
  return batch_lib.LossInputs(
    logp_BT=token,
    old_logp_BT=token,
    mask_BT=jnp.ones((2, 3), bool),
    adv_B=None if derived.distills(c) else row,
    adv_BT=token if derived.distills(c) else None,
    entropy_BT=token,
    reward_B=row,
    ref_logp_BT=token if derived.needs_reference(c) else None,
    log_z_B=row if c.algo.partition_head else None,
    weight_BT=token if c.algo.correction else None,
    key=jax.random.key(0),
  )


def make_correction(c):
  """Returns the weights of trainer over sampler, or None.

  A function (logp_BT, sampled_logp_BT, mask_BT) -> weight_BT.
  """
  if not c.algo.correction:
    return None
  return _with_options(
    resolve(correction, c.algo.correction), "correction_options", c
  )


def make_logger(c):
  """Returns (import path, function) of the user's logger, None without one."""
  name = c.log.logger
  if not name:
    return None
  if not _is_path(name):
    raise errors.InputError(
      f"config.log.logger = {name!r} is no import path, such as mine.Logger"
    )
  return name, resolve(loggers, name)


def updates_per_step(c) -> int:
  """Returns how many updates the optimiser makes in a step."""
  return c.train.num_minibatches * c.train.num_iterations


def make_schedule(c):
  """Returns the learning rate as a function of the update's number.

  Updates that are skipped, because something was not finite, do not count.
  """
  updates = c.train.total_steps * updates_per_step(c)
  o = c.optim
  try:
    return optim.schedule(
      o.learning_rate,
      warmup_steps=o.warmup_steps,
      decay=o.decay,
      total_steps=updates,
    )
  except ValueError as e:
    raise errors.InputError(f"config.optim: {e}") from e


def make_optimizer(c, rate):
  """Returns the optax chain with a learning rate from `make_schedule`."""
  o = c.optim
  return optim.adamw(
    rate,
    b1=o.b1,
    b2=o.b2,
    eps=o.eps,
    weight_decay=o.weight_decay,
    max_grad_norm=o.max_grad_norm,
    mu_dtype=o.mu_dtype,
    rewarmup_steps=c.algo.reset.rewarmup_steps,
  )
