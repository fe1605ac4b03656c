import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from progrpo_jax import errors, groups
from progrpo_jax import progress as progress_lib
from progrpo_jax.build import problems
from progrpo_jax.build import stages as build
from progrpo_jax.devices import stopping, timing
from progrpo_jax.learn import adaptive, history, optim
from progrpo_jax.learn import state as state_lib
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rollout import rewarding, verify


@pytest.fixture(scope="module")
def built(small):
  """A run with two widths of prompts, and its parameters."""
  setup, params = build.make_setup(small.config("data.prompt_buckets=(6,)"))
  with setup.pool:
    yield setup, params


@pytest.fixture(scope="module")
def collected(built):
  """Three steps' groups: some carry groups over."""
  setup, params = built
  progress, found = progress_lib.Progress(), []
  for _ in range(3):
    one, progress = setup.first.collect(params, progress)
    progress = dataclasses.replace(progress, step=progress.step + 1)
    found.append((one, progress))
  return found


def test_batch_is_full_and_carried_groups_come_first(collected):
  carried = None
  for one, progress in collected:
    assert len(one.batch) == 4
    if carried is not None:
      count = len(carried)
      assert one.batch.texts_PG[:count] == carried.texts_PG
      assert not one.batch.fresh_P[:count].any()
    assert one.batch.fresh_P[0 if carried is None else len(carried) :].all()
    carried = progress.surplus
    kept = one.batch.valid_PG.any(axis=1)
    spread = one.batch.reward_PG.max(axis=1) > one.batch.reward_PG.min(axis=1)
    assert (spread | ~kept).all()
  assert any(progress.surplus is not None for _, progress in collected)


def test_carried_groups_are_what_a_checkpoint_gives_back(built, monkeypatch):
  """Their width too: with another one XLA runs another program."""
  setup, params = built
  prompter, calls = setup.first.prompter, []

  def keep(reward_PG, **_):  # one group of the first round, then four
    calls.append(1)
    return np.arange(8) < (1 if len(calls) == 1 else 4)

  monkeypatch.setattr(rewarding.shaping, "keep_groups", keep)
  widths = [prompter.of([i]).tokens_PT.shape[1] for i in range(64)]
  assert set(widths) == {6, 12}
  batches = [
    [widths[i], *widths[i + 8 : i + 12]] for i in range(len(widths) - 12)
  ]
  start = next(
    i for i, batch in enumerate(batches) if batch[-1] == 6 and 12 in batch[:-1]
  )
  one, progress = setup.first.collect(
    params, progress_lib.Progress(position=start)
  )
  assert one.batch.prompts.tokens_PT.shape == (4, 12)
  carried = progress.surplus
  assert carried.prompts.tokens_PT.shape == (1, 6)
  again = groups.from_arrays(
    groups.to_arrays(carried),
    prompter.of,
    lambda rollout: verify.texts(setup.tokenizer, rollout, 4),
  )
  assert again.texts_PG == carried.texts_PG
  for a, b in (
    (again.prompts, carried.prompts),
    (again.rollout, carried.rollout),
  ):
    for field in dataclasses.fields(a):
      x, y = getattr(a, field.name), getattr(b, field.name)
      assert x == y if field.name == "rows" else np.array_equal(x, y)


def test_progress_survives_json():
  progress = progress_lib.Progress(
    step=3,
    position=40,
    ref_step=2,
    resets=1,
    num_tokens=9,
    scores=((2, 0.1), (3, 0.2)),
    kls=((3, 1e-3),),
  )
  meta = json.loads(json.dumps(progress.to_meta()))
  assert progress_lib.Progress.from_meta(meta | {"data": 1}, None) == progress


def test_asked_to_stop_it_stops_before_the_next_draw(built):
  setup, params = built
  collect, phases = setup.first.collect, []
  stop = stopping.Stop()
  stop.asked = True
  with pytest.raises(errors.Preempted):
    dataclasses.replace(
      collect,
      stop=stop,
      draw=dataclasses.replace(collect.draw, timer=timing.Timer(phases.append)),
    )(params, progress_lib.Progress())
  assert phases == []


def test_masked_samples_have_no_advantage_and_teach_nothing(built, collected):
  """The verifier failed on one sample of each group."""
  setup, params = built
  batch = collected[0][0].batch
  valid = batch.valid_PG.copy()
  valid[:, 1] = False
  train, signal, measured = setup.first.prepare(
    params, params, dataclasses.replace(batch, valid_PG=valid), 0
  )
  assert (signal.adv_PG[:, 1] == 0).all()
  mask = np.asarray(train.sequences.mask_NRT)
  assert not mask[:, 1].any() and mask[:, 0].any()
  # Both policies are the same: each log-prob and so the KL agree exactly.
  assert measured["kl"] == 0
  assert np.array_equal(train.old_logp_NRT, train.ref_logp_NRT)
  assert measured["sampling/logp_difference_max"] < 1e-4


def test_the_exact_entropy_is_logged_where_the_policy_drew_from_all_tokens(
  built, collected
):
  """Under top-k it drew from less than the scorer's mean is over."""
  setup, params = built
  prepare = dataclasses.replace(setup.first.prepare, all_sampled=True)
  batch = collected[0][0].batch
  measured = prepare(params, params, batch, 0)[2]
  assert measured["entropy"] == measured["entropy/kept"]
  cut = dataclasses.replace(
    prepare, dist=dataclasses.replace(prepare.dist, top_k=3)
  )
  measured = cut(params, params, batch, 0)[2]
  assert "entropy" not in measured and "entropy/kept" in measured


def test_watched_score_is_the_mean_over_sets():
  watch = "pass@1"
  values = {
    "eval/a/pass@1": 0.2,
    "eval/b/pass@1": 0.4,
    "eval/a/pass@16": 1.0,
    "eval/a/pass@1/low": 0.0,
  }
  assert np.isclose(history.watched(values, watch), 0.3)
  assert history.watched({}, watch) is None
  # Of one set there are bounds only: the other's value is no mean over both.
  name = f"eval/b/{watch}"
  bounded = {k: v for k, v in values.items() if not k.startswith("eval/b/")}
  bounded |= {f"{name}/at_least": 0.1, f"{name}/at_most": 0.9}
  assert history.watched(bounded, watch) is None


def test_reset_forgets_what_was_measured_before_it(built):
  decide_reset = built[0].first.decide_reset
  before = progress_lib.Progress(
    step=2, scores=((0, 0.5), (2, 0.4)), kls=((1, 0.1), (2, 0.2))
  )
  after, reason = decide_reset(before)
  assert reason == "2 steps since the last reset"
  assert (after.ref_step, after.resets) == (2, 1)
  assert (after.scores, after.kls) == (((2, 0.4),), ())
  again, reason = decide_reset(after)
  assert (again, reason) == (after, "")


def test_a_collapse_is_news_once_by_steps_and_by_evaluations():
  advance = history.Advance(adaptive.AdaptiveCoefs())
  healthy = dict(entropy=1.0, correct=0.5)
  progress = progress_lib.Progress()
  for pass1, pass16 in ((0.1, 0.8), (0.1, 0.8), (0.3, 0.5), (0.3, 0.5)):
    progress = advance(progress, healthy)
    progress = history.remember(
      progress, {"eval/a/pass@1": pass1, "eval/a/pass@16": pass16}, "pass@1"
    )
  verdict, is_news = history.check_collapse(progress)
  assert verdict.level != "ok" and "pass@16" in verdict.reason and is_news
  later = advance(progress, healthy)
  assert history.check_collapse(later) == (verdict, False)

  progress, news = progress_lib.Progress(), []
  for step in range(120):
    entropy = 1.0 if step < 60 else 1e-3
    progress = advance(progress, dict(healthy, entropy=entropy))
    verdict, is_news = history.check_collapse(progress)
    if is_news:
      news.append(verdict.level)
  assert news == ["collapse"] and "entropy is down" in verdict.reason
  # The first ten, and sixty before the last: the verdict of the step before
  # reads as many as that of the last.
  assert len(progress.recent) == 71


def test_the_end_of_a_collapse_is_news_too():
  """Alarms end where the steps that raised them are no longer kept."""
  advance = history.Advance(adaptive.AdaptiveCoefs())
  progress, levels, news = progress_lib.Progress(), ["ok"], []
  for step in range(200):
    cut = 0.8 if 10 < step <= 40 or (step > 40 and step % 2) else 0.1
    progress = advance(
      progress, {"entropy": 1.0, "completions/clipped_ratio": cut}
    )
    verdict, is_news = history.check_collapse(progress)
    news.append(is_news)
    levels.append(verdict.level)
  assert set(levels) == {"ok", "warning"} and levels[-1] == "ok"
  assert news == [a != b for a, b in itertools.pairwise(levels)]


def test_a_timer_adds_up_stages_and_starts_over():
  timer = timing.Timer()
  with timer.stage("sample"):
    pass
  with timer.stage("sample"):
    pass
  with timer.stage("update"):
    pass
  seconds = timer.take()
  assert seconds.keys() == {
    "timing_s/sample",
    "timing_s/update",
    "timing_s/step",
    "timing_s/compile",
  }
  assert np.isclose(
    seconds["timing_s/step"],
    seconds["timing_s/sample"] + seconds["timing_s/update"],
  )
  assert timer.take() == {"timing_s/step": 0, "timing_s/compile": 0}


def test_new_optimiser_keeps_the_parameters_and_the_schedule(built):
  setup, params = built
  around = setup.model, setup.tx
  state = state_lib.create(*around, params, setup.mesh)
  moved = state.replace(
    opt_state=jax.tree.map(lambda x: x + 1, state.opt_state)
  )
  fresh = state_lib.restart_optimizer(*around, setup.mesh, moved)
  differ = [
    not np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(fresh), jax.tree.leaves(state), strict=True)
  ]
  assert sum(differ) == 1
  assert [int(x) for x in optim.counts(fresh.opt_state)] == [1, 0]
  assert fresh.params is params


@pytest.mark.parametrize(
  "error", [errors.InputError, errors.RunError, KeyboardInterrupt, KeyError]
)
def test_a_setup_that_fails_leaves_no_workers(small, monkeypatch, error):
  pools, make = [], problems.make_pool

  def made(*args):
    pools.append(make(*args))
    return pools[0]

  def fail(*_):
    raise error("no")

  monkeypatch.setattr(problems, "make_pool", made)
  monkeypatch.setattr(build, "make_stages", fail)
  with pytest.raises(error, match="no"):
    build.make_setup(small.config())
  with pools[0], pytest.raises(pool_lib.PoolError, match="pool is closed"):
    pools[0].run([])
