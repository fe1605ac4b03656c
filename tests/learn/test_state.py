"""The state of training: born where it lives, described without being made."""

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax.devices import sharding
from progrpo_jax.learn import optim
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters

CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=40, num_layers=2, embed_dim=32, head_dim=8, mlp_dim=48
)
TX = optim.adamw(optim.schedule(1e-3), weight_decay=0.1)


def made():
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  params = parameters.init(CONFIG, jax.random.key(0), mesh)
  return params, state_lib.create(CONFIG, TX, params, mesh), mesh


def test_new_state_takes_the_parameters_over():
  params, state, _ = made()
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(state.params)):
    assert a is b
  assert state.skipped == 0 and state.skipped.dtype == jnp.int32
  assert all(not np.asarray(x).any() for x in jax.tree.leaves(state.opt_state))


def test_abstract_state_is_the_state_described():
  _, state, mesh = made()
  described = state_lib.abstract(CONFIG, TX, mesh)
  assert jax.tree.structure(described) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(described), jax.tree.leaves(state)):
    assert isinstance(a, jax.ShapeDtypeStruct)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.sharding.is_equivalent_to(b.sharding, b.ndim)


def test_fresh_optimiser_is_that_of_the_beginning():
  params, state, mesh = made()
  gradient = jax.tree.map(jnp.ones_like, params)
  _, used = jax.jit(lambda *a: optim.apply(TX, *a))(
    gradient, state.opt_state, params
  )
  assert any(np.asarray(x).any() for x in jax.tree.leaves(used))
  where = state_lib.shardings(CONFIG, TX, mesh).opt_state
  fresh = state_lib.fresh_optimizer(TX, params, where)
  jax.tree.map(np.testing.assert_array_equal, fresh, state.opt_state)


def test_initial_parameters_follow_from_the_key():
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  a, b, c = (
    parameters.init(CONFIG, jax.random.key(i), mesh) for i in (0, 0, 1)
  )
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert (a["embed"]["tokens"] != c["embed"]["tokens"]).mean() > 0.99
  assert 0.018 < float(jnp.std(a["embed"]["tokens"])) < 0.022
  for path, x in jax.tree_util.tree_leaves_with_path(a):
    assert x.dtype == jnp.float32
    name = path[-1].key
    if name == "scale":
      assert (x == 1).all()
    elif name.endswith("bias"):
      assert not x.any()
    else:
      # No two layers begin alike.
      assert len(np.unique(x)) > 0.9 * x.size, name
