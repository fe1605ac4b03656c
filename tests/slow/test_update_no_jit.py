"""The compiled update and the same update op by op."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax.algos import aggregate, kl, losses
from progrpo_jax.algos import objective as objective_lib
from progrpo_jax.learn import optim, update
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import scoring

DIST = scoring.Distribution(temperature=0.8, chunk=2)
TX = optim.adamw(optim.schedule(0.003), weight_decay=0.1)
OBJECTIVE = functools.partial(
  objective_lib.objective,
  loss_fn=losses.clip,
  kl_fn=kl.k3,
  beta=0.1,
  aggregate_fn=aggregate.token_mean,
  entropy_coef=0.01,
)

KEY = jax.random.key(7)


def state(params):
  params = jax.tree.map(jnp.array, params)
  return state_lib.TrainState(
    params=params, opt_state=TX.init(params), skipped=jnp.int32(0)
  )


def close(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_update_without_a_compiler_is_the_same(random_params):
  config = config_lib.ModelConfig.tiny(
    vocab_size=11,
    num_layers=1,
    embed_dim=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=8,
  )
  params = jax.device_get(random_params(config))
  rng = np.random.default_rng(0)
  q = batch_lib.Sequences(
    prompt_NT=rng.integers(0, 11, (2, 2), np.int32),
    prompt_mask_NT=np.array([[False, True], [True, True]]),
    tokens_NRT=rng.integers(0, 11, (2, 1, 3), np.int32),
    mask_NRT=np.array([[[True, True, False]], [[True] * 3]]),
  )
  logp = scoring.score(config, params, q, DIST).logp_NRT
  batch = update.pack(
    batch_lib.TrainBatch(
      sequences=q,
      old_logp_NRT=logp + np.float32(0.01),
      ref_logp_NRT=logp - np.float32(0.1),
      adv_NR=np.array([[1.0], [-0.5]], np.float32),
      fresh_NR=np.zeros((2, 1), bool),
    ),
    scoring.AUTOMATIC,
  )
  run = update.make(config, TX, OBJECTIVE, DIST)
  compiled, metrics = run(state(params), batch, True, KEY)
  with jax.disable_jit():
    plain, same = run(state(params), batch, True, KEY)
  close(metrics, same, rtol=1e-4, atol=1e-6)
  # Adam divides a gradient by its size: compare what was accumulated, and
  # steps where the gradient is not all rounding.
  close(compiled.opt_state, plain.opt_state, rtol=1e-3, atol=1e-6)
  close(compiled.params, plain.params, atol=2e-3)
