"""The optax chain: schedules and AdamW by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax.learn import optim
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters


@pytest.mark.parametrize(
  "options, expected",
  [
    ({}, {0: 1, 1: 1, 1000: 1}),
    (dict(warmup_steps=4), {0: 0, 1: 0.25, 3: 0.75, 4: 1, 100: 1}),
    (
      dict(decay="linear", total_steps=10),
      {0: 1, 5: 0.5, 9: 0.1, 10: 0, 50: 0},
    ),
    (
      dict(decay="linear", total_steps=10, warmup_steps=2),
      {0: 0, 1: 0.5, 2: 1, 6: 0.5, 10: 0},
    ),
    (
      dict(decay="cosine", total_steps=12),
      {0: 1, 4: 0.75, 6: 0.5, 12: 0, 20: 0},
    ),
    (
      dict(decay="cosine", total_steps=14, warmup_steps=2),
      {1: 0.5, 2: 1, 6: 0.75, 8: 0.5, 14: 0},
    ),
  ],
)
def test_schedules_by_hand(options, expected):
  rate = optim.schedule(3e-4, **options)
  for step, share in expected.items():
    assert float(rate(step)) == pytest.approx(3e-4 * share, abs=1e-9)


@pytest.mark.parametrize(
  "options, message",
  [
    (dict(decay="square"), "square"),
    (dict(decay="linear"), "total_steps"),
    (dict(decay="cosine", total_steps=0), "total_steps"),
    (dict(decay="cosine", total_steps=5, warmup_steps=5), "above warmup"),
  ],
)
def test_schedules_that_cannot_be_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    optim.schedule(1e-3, **options)


def step(tx, gradient, params):
  return optim.apply(tx, gradient, tx.init(params), params)[0]


def test_first_step_of_adam_is_the_rate_times_the_sign():
  tx = optim.adamw(lambda _: 0.1, eps=0.0, max_grad_norm=None)
  params = {"w": jnp.array([1.0, 1.0, 1.0])}
  gradient = {"w": jnp.array([5.0, -1e-3, 2.0])}
  np.testing.assert_allclose(
    step(tx, gradient, params)["w"], [0.9, 1.1, 0.9], rtol=1e-5
  )


def test_second_step_of_adam_by_hand():
  tx = optim.adamw(lambda _: 0.1, b1=0.5, b2=0.75, eps=0.0, max_grad_norm=None)
  params = {"w": jnp.array([1.0])}
  state = tx.init(params)
  for gradient in (2.0, 4.0):
    params, state = optim.apply(tx, {"w": jnp.array([gradient])}, state, params)
  # mean = (0.5 * 1 + 0.5 * 4) / 0.75, square = (0.75 * 1 + 0.25 * 16) / 0.4375.
  mean, square = (0.5 * 1 + 0.5 * 4) / 0.75, (0.75 * 1 + 0.25 * 16) / 0.4375
  assert float(params["w"][0]) == pytest.approx(
    0.9 - 0.1 * mean / square**0.5, rel=1e-5
  )


def test_rate_follows_the_schedule_from_its_beginning():
  tx = optim.adamw(optim.schedule(0.1, warmup_steps=2), eps=0.0)
  params = {"w": jnp.array([1.0])}
  state, seen = tx.init(params), []
  for _ in range(4):
    params, state = optim.apply(tx, {"w": jnp.array([1.0])}, state, params)
    seen.append(float(params["w"][0]))
  np.testing.assert_allclose(seen, [1.0, 0.95, 0.85, 0.75], rtol=1e-5)


def test_decay_ends_although_the_moments_are_forgotten_again_and_again():
  """Twelve updates, the optimiser restarted after every third: constant
  gradients, so that each update is the rate itself."""
  tx = optim.adamw(optim.schedule(0.1, decay="linear", total_steps=12), eps=0.0)
  params = {"w": jnp.array([1.0])}
  state, moves = tx.init(params), []
  for number in range(12):
    before = float(params["w"][0])
    params, state = optim.apply(tx, {"w": jnp.array([1.0])}, state, params)
    moves.append(before - float(params["w"][0]))
    if number % 3 == 2:
      state = optim.restarted(state, tx.init(params))
      assert [int(n) for n in optim.counts(state)] == [number + 1, 0]
      assert not float(jax.tree.leaves(state)[1][0])
  np.testing.assert_allclose(
    moves, [0.1 * (1 - i / 12) for i in range(12)], atol=1e-6
  )


def test_rate_rises_again_after_a_restart_and_only_then():
  tx = optim.adamw(optim.schedule(0.1), eps=0.0, rewarmup_steps=2)
  params = {"w": jnp.array([1.0])}
  state, moves, told = tx.init(params), [], []
  for number in range(8):
    before = float(params["w"][0])
    told.append(0.1 * float(optim.rewarmup(state, 2)))
    params, state = optim.apply(tx, {"w": jnp.array([1.0])}, state, params)
    moves.append(before - float(params["w"][0]))
    if number == 2:
      state = optim.restarted(state, tx.init(params))
  np.testing.assert_allclose(
    moves, [0.1, 0.1, 0.1, 0.0, 0.05, 0.1, 0.1, 0.1], atol=1e-6
  )
  np.testing.assert_allclose(told, moves, atol=1e-6)
  # The same tree as without: a run may ask for it, or not, as it goes on.
  assert jax.tree.structure(state) == jax.tree.structure(
    optim.adamw(optim.schedule(0.1)).init(params)
  )


def test_clip_scales_the_whole_gradient():
  # A large eps makes Adam's first step proportional to the gradient.
  def moved(norm, gradient):
    tx = optim.adamw(lambda _: 1.0, b1=0.0, b2=0.0, eps=1e6, max_grad_norm=norm)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    out = step(tx, {k: jnp.array([v]) for k, v in gradient.items()}, params)
    return [-1e6 * float(out[k][0]) for k in "ab"]

  long, short = {"a": 30.0, "b": 40.0}, {"a": 0.3, "b": 0.4}
  assert moved(1.0, long) == pytest.approx([0.6, 0.8], rel=1e-3)
  assert moved(1.0, short) == pytest.approx([0.3, 0.4], rel=1e-3)
  assert moved(None, long) == pytest.approx([30, 40], rel=1e-3)


def test_decay_leaves_norms_and_biases_alone(random_params):
  config = config_lib.ModelConfig.tiny(
    vocab_size=40,
    num_layers=2,
    embed_dim=32,
    head_dim=8,
    mlp_dim=48,
    tie_embeddings=False,
  )
  params = random_params(config)
  tx = optim.adamw(lambda _: 0.1, weight_decay=0.5)
  after = jax.jit(lambda p: step(tx, jax.tree.map(jnp.zeros_like, p), p))(
    params
  )
  seen = {True: [], False: []}

  def check(path, old, new):
    name = path[-1].key
    # Matrices have two axes or more besides that of the layers.
    stacked = path[0].key == "layers"
    fixed = old.ndim - stacked == 1 or "bias" in name
    seen[fixed].append(name)
    expected = old if fixed else 0.95 * old
    np.testing.assert_allclose(new, expected, rtol=1e-6, err_msg=name)

  jax.tree_util.tree_map_with_path(check, params, after)
  assert len(seen[True]) >= 5 and len(seen[False]) >= 6


def test_optimiser_has_the_shardings_of_the_parameters():
  config = config_lib.ModelConfig.tiny(num_layers=2)
  tx = optim.adamw(lambda _: 0.1, weight_decay=0.1)
  shapes = parameters.abstract_params(config)
  found = optim.shardings(
    tx,
    shapes,
    jax.tree.map(
      lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes
    ),
    "other",
  )
  state = jax.eval_shape(tx.init, shapes)
  assert jax.tree.structure(found) == jax.tree.structure(state)
  kinds = [isinstance(x, str) for x in jax.tree.leaves(found)]
  scalars = [x.ndim == 0 for x in jax.tree.leaves(state)]
  assert kinds == scalars and any(kinds)
  assert sum(not k for k in kinds) == 2 * len(jax.tree.leaves(shapes))
