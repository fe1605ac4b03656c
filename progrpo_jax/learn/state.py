"""What training carries from step to step on the devices."""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax.devices import sharding
from progrpo_jax.learn import optim
from progrpo_jax.models import lora, parameters


@struct.dataclass
class TrainState:
  """Parameters and optimiser.

  Attributes:
    params: trainable parameters, a plain dict of float32 masters. With LoRA
      these are the adapters; frozen weights are neither donated nor saved.
    opt_state: state of the optax chain.
    skipped: int32 scalar, latest updates in a row that were skipped, because
      something was not finite or there was no token to learn from.
  """

  params: Any
  opt_state: Any
  skipped: jax.Array


def shardings(config, tx, mesh) -> TrainState:
  """Returns the sharding of each array of the state."""
  params, _ = lora.split(config, parameters.shardings(config, mesh))
  scalar = sharding.replicated(mesh)
  return TrainState(
    params=params,
    opt_state=optim.shardings(tx, _abstract(config), params, scalar),
    skipped=scalar,
  )


def create(config, tx, params, mesh) -> TrainState:
  """Returns the state of a new run; `params` are taken over, not copied."""
  where = shardings(config, tx, mesh)
  return TrainState(
    params=params,
    opt_state=fresh_optimizer(tx, params, where.opt_state),
    skipped=jax.device_put(np.zeros((), np.int32), where.skipped),
  )


def fresh_optimizer(tx, params, where):
  """Returns the optimiser's first state, created in its sharding."""
  return jax.jit(tx.init, out_shardings=where)(params)


def abstract(config, tx, mesh) -> TrainState:
  """Returns shapes, types and shardings of the state, to restore into."""
  params = _abstract(config)
  shapes = TrainState(
    params=params,
    opt_state=jax.eval_shape(tx.init, params),
    skipped=jax.ShapeDtypeStruct((), jnp.int32),
  )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    shapes,
    shardings(config, tx, mesh),
  )


def _abstract(config):
  """Shapes and types of the trainable parameters."""
  return lora.split(config, parameters.abstract_params(config))[0]


def is_whole(state: TrainState) -> bool:
  """Returns whether no update has taken an array of the state away."""
  return not any(x.is_deleted() for x in jax.tree.leaves(state))


def restart_optimizer(config, tx, mesh, state: TrainState) -> TrainState:
  """Returns a state without moments; its learning-rate schedule goes on."""
  fresh = fresh_optimizer(
    tx, state.params, shardings(config, tx, mesh).opt_state
  )
  return state.replace(opt_state=optim.restarted(state.opt_state, fresh))
