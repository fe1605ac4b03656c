"""What an update reads is chosen by prompts; how it is cut is memory alone."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax import progress as progress_lib
from progrpo_jax.build import stages as build
from progrpo_jax.learn import state as state_lib

# Eight groups of four, four minibatches of two groups, two passes. Adam's
# epsilon is large, so that a gradient that is all rounding moves nothing.
SHAPE = (
  "train.prompts_per_step=8",
  "train.num_minibatches=4",
  "train.num_iterations=2",
  "optim.eps=1e-2",
  "eval.every=0",
  "algo.beta=0.0",
)


@pytest.fixture(scope="module")
def built(small):
  """Setup, parameters on the host, and verified groups."""
  setup, params = build.make_setup(small.config(*SHAPE, method="grpo"))
  with setup.pool:
    collected, _ = setup.first.collect(params, progress_lib.Progress())
    yield setup, jax.device_get(params), collected.batch


def cut(built, small, generations, tokens, rows):
  """The stages of a config that cuts its minibatches so."""
  c = small.config(
    *SHAPE,
    f"train.micro_batch_generations={generations}",
    f"train.row_tokens={tokens}",
    f"train.micro_batch_rows={rows}",
    method="grpo",
  )
  return build.make_stages(c, built[0])


def improved(built, stages):
  """(parameters, metrics) after one step's updates."""
  setup, params, groups = built
  params = jax.tree.map(jax.numpy.array, params)
  batch, _, _ = stages.prepare(params, None, groups, 0)
  state = state_lib.create(setup.model, setup.tx, params, setup.mesh)
  state, metrics = stages.improve(state, batch, progress_lib.Progress())
  return jax.device_get(state.params), metrics


def close(a, b, **tolerance):
  jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


def test_any_cut_gives_the_same_updates(built, small):
  """To rounding, over four minibatches and two passes."""
  setup, params, _ = built
  whole, expected = improved(built, setup.first)
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole, params)
  assert max(jax.tree.leaves(moved)) > 1e-4
  # One response a bundle, about two bundles a row, one row a micro-batch.
  cut_, metrics = improved(built, cut(built, small, 1, 24, 1))
  close(cut_, whole, atol=2e-6)
  # The share of real tokens is what a cut decides.
  shares = [m.pop("perf/useful_share_train") for m in (metrics, expected)]
  assert 0 < min(shares) < max(shares) <= 1
  close(metrics, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("generations", [0, 1])
def test_a_minibatch_is_whole_groups_in_an_order_of_its_own(
  built, small, generations, monkeypatch
):
  """Each pass deals every group out once, each pass another way."""
  setup, params, groups = built
  stages = setup.first
  if generations:
    stages = cut(built, small, generations, 0, 0)
  batch, _, _ = stages.prepare(params, None, groups, 0)
  dealt = []

  def update(state, part, *_):
    real = part.rows.prompt_length_AEZ > 0
    ids, counts = np.unique(part.id_AEZ[real], return_counts=True)
    assert (counts == 4).all()
    dealt.append(sorted(ids.tolist()))
    scalar = np.float32(0)
    return state, dict(
      skipped_updates=(scalar, scalar), empty_updates=(scalar, scalar)
    )

  def deal(step):
    dealt.clear()
    dataclasses.replace(stages.improve, update=update)(
      state_lib.TrainState(params={}, opt_state=(), skipped=np.int32(0)),
      batch,
      progress_lib.Progress(step=step),
    )
    return list(dealt)

  first = deal(step=3)
  assert len(first) == 8 and all(len(ids) == 2 for ids in first)
  everything = sorted(groups.prompts.ids_P.tolist())
  for one_pass in (first[:4], first[4:]):
    assert sorted(sum(one_pass, [])) == everything
  assert sorted(first[:4]) != sorted(first[4:])
  # The step and the pass decide, and nothing else.
  assert deal(step=3) == first
  assert deal(step=4) != first


def test_updates_without_a_token_leave_all_as_it_was_and_stop_the_run(
  built, small
):
  setup, params, groups = built
  batch, _, _ = setup.first.prepare(params, None, groups.without_verdicts(), 0)
  assert not batch.sequences.mask_NRT.any()
  state = state_lib.create(
    setup.model, setup.tx, jax.tree.map(jax.numpy.array, params), setup.mesh
  )
  before = jax.device_get(state.opt_state)

  def improve(limit, state):
    limited = dataclasses.replace(setup.first.improve, max_skipped=limit)
    return limited(state, batch, progress_lib.Progress())

  # Eight updates: one short of the limit, then beyond it.
  state, metrics = improve(9, state)
  jax.tree.map(
    np.testing.assert_array_equal,
    jax.device_get((state.params, state.opt_state)),
    (params, before),
  )
  assert metrics["empty_updates"] == metrics["skipped_updates"] == 1
  assert "loss" not in metrics
  with pytest.raises(
    errors.Diverged,
    match="16 updates in a row had no token.*returned None for every compl",
  ):
    improve(9, state)
