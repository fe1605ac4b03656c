"""The optax chain: clipping, AdamW, schedules."""

import jax
import jax.numpy as jnp
import optax

from progrpo_jax import ops


def schedule(
  learning_rate: float,
  *,
  warmup_steps: int = 0,
  decay: str = "constant",
  total_steps: int | None = None,
) -> optax.Schedule:
  """Learning rate by optimiser update.

  Args:
    learning_rate: peak.
    warmup_steps: updates of linear warm-up from 0.
    decay: "constant", "linear" or "cosine" (to 0 at `total_steps`).
    total_steps: updates in all; needed unless the decay is "constant".

  Raises:
    ValueError: unknown decay, or no total for one that needs it.
  """
  if decay == "constant":
    after = optax.constant_schedule(learning_rate)
  elif decay not in ("linear", "cosine"):
    raise ValueError(
      f"decay {decay!r}: known are 'constant', 'linear', 'cosine'"
    )
  elif not total_steps or total_steps <= warmup_steps:
    raise ValueError(
      f"decay {decay!r} needs total_steps above warmup_steps "
      f"({warmup_steps}), not {total_steps}"
    )
  elif decay == "linear":
    after = optax.linear_schedule(
      learning_rate, 0.0, total_steps - warmup_steps
    )
  else:
    after = optax.cosine_decay_schedule(
      learning_rate, total_steps - warmup_steps
    )
  if not warmup_steps:
    return after
  ramp = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  return optax.join_schedules([ramp, after], [warmup_steps])


def adamw(
  rate: optax.Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 0.0,
  max_grad_norm: float | None = 1.0,
  mu_dtype: str = "float32",
  rewarmup_steps: int = 0,
) -> optax.GradientTransformation:
  """Returns AdamW behind a clip of the global gradient norm.

  Args:
    rate: learning rate by the number of the update.
    b1: decay of the first moment.
    b2: decay of the second moment.
    eps: added to the root of the second moment.
    weight_decay: decay of matrices; norms and biases have none.
    max_grad_norm: gradients of a greater norm are scaled down to it; 0 or None
      leaves them.
    mu_dtype: type of the first moment. The second is float32: its changes are
      so small that bfloat16 would round them away.
    rewarmup_steps: updates over which the rate rises from 0 again after
      `restarted`.
  """
  # Without a clip its place is kept: the state has the same tree either way,
  # so that a resumed run may change `max_grad_norm`.
  clip = optax.identity()
  if max_grad_norm:
    clip = optax.clip_by_global_norm(max_grad_norm)
  chain = optax.chain(
    clip,
    optax.adamw(
      rate,
      b1=b1,
      b2=b2,
      eps=eps,
      weight_decay=weight_decay,
      mask=_decayed,
      mu_dtype=mu_dtype,
    ),
  )
  if not rewarmup_steps:
    return chain

  def update(gradient, state, params=None):
    share = rewarmup(state, rewarmup_steps)
    updates, state = chain.update(gradient, state, params)
    return jax.tree.map(lambda x: x * share, updates), state

  return optax.GradientTransformation(chain.init, update)


def counts(opt_state) -> tuple[jax.Array, jax.Array]:
  """Returns how many updates the schedule and the moments have seen.

  These are two numbers because a restart forgets only the moments: a schedule
  that began anew with each restart would never end.
  """
  kinds = optax.ScaleByScheduleState, optax.ScaleByAdamState
  states = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, kinds))
  schedule_count, moments_count = (
    next(x.count for x in states if isinstance(x, kind)) for kind in kinds
  )
  return schedule_count, moments_count


def rewarmup(opt_state, steps: int):
  """Returns the share of the scheduled rate for the next update, in [0, 1].

  It is below 1 only in the first `steps` updates after a restart.
  """
  if not steps:
    return 1.0
  done, since = counts(opt_state)
  return jnp.where(since == done, 1.0, jnp.minimum(since / steps, 1.0))


def restarted(opt_state, fresh):
  """Returns a fresh optimiser state that keeps its place in the schedule."""

  def is_schedule(x):
    return isinstance(x, optax.ScaleByScheduleState)

  return jax.tree.map(
    lambda old, new: old if is_schedule(old) else new,
    opt_state,
    fresh,
    is_leaf=is_schedule,
  )


def apply(tx: optax.GradientTransformation, gradient, opt_state, params):
  """Makes one update; returns (params, opt_state)."""
  updates, opt_state = tx.update(gradient, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def apply_if_finite(
  tx: optax.GradientTransformation,
  loss,
  gradient,
  opt_state,
  params,
  learns=True,
):
  """Makes one update, unless something in it is not finite.

  A finite gradient is not enough: the rate, or the square of a gradient, may
  overflow float32. For the parameters their norm is checked, which overflows
  before they do: weights of 1e30 are as useless as infinite ones, and a run
  could not come back from them.

  Args:
    tx: optax chain.
    loss: scalar loss.
    gradient: gradient of the loss, a tree like `params`.
    opt_state: state of the chain.
    params: trainable parameters.
    learns: bool scalar, False where there was no token to learn from, so that
      nothing may change.

  Returns:
    (params, opt_state, applied); unchanged where `applied`, a bool scalar, is
    False.
  """
  new_params, new_state = apply(tx, gradient, opt_state, params)
  applied = (
    jnp.asarray(learns)
    & jnp.isfinite(loss)
    & jnp.isfinite(optax.tree.norm(gradient))
    & jnp.isfinite(optax.tree.norm(new_params))
    & ops.all_finite(new_state)
  )

  def keep(new, old):
    return jax.tree.map(lambda a, b: jnp.where(applied, a, b), new, old)

  return keep(new_params, params), keep(new_state, opt_state), applied


def _decayed(params):
  """True for matrices, False for norms and biases (by their names)."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not path[-1].key.endswith(("scale", "bias")), params
  )


def shardings(tx: optax.GradientTransformation, params, like, other):
  """Returns the shardings of the optimiser's state.

  Args:
    tx: optax chain.
    params: abstract parameters.
    like: shardings of the parameters; a moment has that of its parameter.
    other: sharding of counters.
  """
  return optax.tree_utils.tree_map_params(
    tx,
    lambda _, sharding: sharding,
    jax.eval_shape(tx.init, params),
    like,
    transform_non_params=lambda _: other,
  )
