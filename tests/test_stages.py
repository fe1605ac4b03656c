import dataclasses
import json

import jax
import numpy as np
import pytest

from progrpo_jax import parts as parts_lib
from progrpo_jax import progress as progress_lib
from progrpo_jax import stages
from progrpo_jax.learn import optim, signals
from progrpo_jax.rollout import data, groups


@pytest.fixture(scope="module")
def built(small):
  """Parts with two widths of prompts, and the parameters."""
  parts, params = parts_lib.build(small.config("data.prompt_buckets=(6,)"))
  with parts.pool:
    yield parts, params


class View:
  def __init__(self):
    self.phases = []

  def phase(self, name):
    self.phases.append(name)


@pytest.fixture(scope="module")
def collected(built):
  """Three steps' groups: some carry groups over."""
  parts, params = built
  progress, found = progress_lib.Progress(), []
  for _ in range(3):
    one, progress = stages.collect(
        parts, params, progress, progress_lib.Clock(View()))
    progress = dataclasses.replace(progress, step=progress.step + 1)
    found.append((one, progress))
  return found


def test_batch_is_full_and_carried_groups_come_first(built, collected):
  parts, _ = built
  carried = None
  for one, progress in collected:
    assert len(one.batch) == 4
    if carried is not None:
      count = len(carried)
      assert one.batch.texts_PG[:count] == carried.texts_PG
      assert not one.batch.fresh_P[:count].any()
    assert one.batch.fresh_P[0 if carried is None else len(carried):].all()
    carried = progress.surplus
    kept = one.batch.valid_PG.any(axis=1)
    spread = one.batch.reward_PG.max(axis=1) > one.batch.reward_PG.min(axis=1)
    assert (spread | ~kept).all()
  assert any(progress.surplus is not None for _, progress in collected)


def test_carried_groups_are_what_a_checkpoint_gives_back(
    built, monkeypatch):
  """Their width too: with another one XLA runs another program."""
  parts, params = built
  calls = []

  def keep(reward_PG, **_):  # one group of the first round, then four
    calls.append(1)
    return np.arange(8) < (1 if len(calls) == 1 else 4)

  monkeypatch.setattr(signals.shaping, "keep_groups", keep)
  widths = [
      parts.prompter.of([i]).tokens_PT.shape[1] for i in range(64)]
  assert set(widths) == {6, 12}
  batches = [
      [widths[i], *widths[i + 8:i + 12]] for i in range(len(widths) - 12)]
  start = next(
      i for i, batch in enumerate(batches)
      if batch[-1] == 6 and 12 in batch[:-1])
  one, progress = stages.collect(
      parts, params, progress_lib.Progress(position=start),
      progress_lib.Clock(View()))
  assert one.batch.prompts.tokens_PT.shape == (4, 12)
  carried = progress.surplus
  assert carried.prompts.tokens_PT.shape == (1, 6)
  again = groups.from_arrays(
      groups.to_arrays(carried), parts.prompter.of,
      lambda rollout: data.texts(parts.tokenizer, rollout, 4))
  assert again.texts_PG == carried.texts_PG
  for a, b in ((again.prompts, carried.prompts),
               (again.rollout, carried.rollout)):
    for field in dataclasses.fields(a):
      x, y = getattr(a, field.name), getattr(b, field.name)
      assert x == y if field.name == "rows" else np.array_equal(x, y)


def test_progress_survives_json():
  progress = progress_lib.Progress(
      step=3, position=40, ref_step=2, resets=1, num_tokens=9,
      scores=((2, 0.1), (3, 0.2)), kls=((3, 1e-3),))
  meta = json.loads(json.dumps(progress.to_meta()))
  assert progress_lib.Progress.from_meta(meta | {"data": 1}, None) == progress


def test_asked_to_stop_it_stops_before_the_next_draw(built):
  parts, params = built
  clock = progress_lib.Clock(View())
  clock.asked_to_stop = True
  with pytest.raises(progress_lib.Preempted):
    stages.collect(parts, params, progress_lib.Progress(), clock)
  assert clock.view.phases == []


def test_masked_samples_have_no_advantage_and_teach_nothing(built, collected):
  """The verifier failed on one sample of each group."""
  parts, params = built
  batch = collected[0][0].batch
  valid = batch.valid_PG.copy()
  valid[:, 1] = False
  train, signal, measured = signals.prepare(
      parts, params, params, dataclasses.replace(batch, valid_PG=valid),
      0, progress_lib.Clock(View()))
  assert (signal["adv_PG"][:, 1] == 0).all()
  mask = np.asarray(train.sequences.mask_NRT)
  assert not mask[:, 1].any() and mask[:, 0].any()
  # Both policies are the same: each log-prob and so the KL agree exactly.
  assert measured["kl"] == 0
  assert np.array_equal(train.old_logp_NRT, train.ref_logp_NRT)
  assert measured["sampling/logp_difference_max"] < 1e-4


def test_watched_score_is_the_mean_over_sets(small):
  c = small.config()
  values = {
      "eval/a/pass@1": 0.2, "eval/b/pass@1": 0.4, "eval/a/pass@16": 1.0,
      "eval/a/pass@1/low": 0.0}
  assert np.isclose(stages.watched(c, values), 0.3)
  assert stages.watched(c, {}) is None
  # Of one set there are bounds only: the other's value is no mean over both.
  name = f"eval/b/{c.algo.reset.watch}"
  bounded = {k: v for k, v in values.items() if not k.startswith("eval/b/")}
  bounded |= {f"{name}/at_least": 0.1, f"{name}/at_most": 0.9}
  assert stages.watched(c, bounded) is None


def test_reset_forgets_what_was_measured_before_it(small):
  c = small.config()
  before = progress_lib.Progress(
      step=2, scores=((0, 0.5), (2, 0.4)), kls=((1, 0.1), (2, 0.2)))
  after, reason = stages.decide_reset(c, before)
  assert reason == "2 steps since the last reset"
  assert (after.ref_step, after.resets) == (2, 1)
  assert (after.scores, after.kls) == (((2, 0.4),), ())
  again, reason = stages.decide_reset(c, after)
  assert (again, reason) == (after, "")


def test_a_collapse_is_news_once_by_steps_and_by_evaluations(small):
  c = small.config()
  healthy = dict(entropy=1.0, correct=0.5)
  progress = progress_lib.Progress()
  for pass1, pass16 in ((0.1, 0.8), (0.1, 0.8), (0.3, 0.5), (0.3, 0.5)):
    progress = stages.advance(c, progress, healthy)
    progress = stages.remember(
        c, progress, {"eval/a/pass@1": pass1, "eval/a/pass@16": pass16})
  verdict, is_news = stages.judge(progress)
  assert verdict.level != "ok" and "pass@16" in verdict.reason and is_news
  later = stages.advance(c, progress, healthy)
  assert stages.judge(later) == (verdict, False)

  progress, news = progress_lib.Progress(), []
  for step in range(120):
    entropy = 1.0 if step < 60 else 1e-3
    progress = stages.advance(c, progress, dict(healthy, entropy=entropy))
    verdict, is_news = stages.judge(progress)
    if is_news:
      news.append(verdict.level)
  assert news == ["collapse"] and "entropy is down" in verdict.reason
  assert len(progress.recent) == 70


def test_clock_adds_up_stages_and_starts_over():
  clock = progress_lib.Clock(View())
  with clock.stage("sample"):
    pass
  with clock.stage("sample"):
    pass
  with clock.stage("update"):
    pass
  seconds = clock.take()
  assert seconds.keys() == {
      "timing_s/sample", "timing_s/update", "timing_s/step"}
  assert np.isclose(
      seconds["timing_s/step"],
      seconds["timing_s/sample"] + seconds["timing_s/update"])
  assert clock.take() == {"timing_s/step": 0}


def test_new_optimiser_keeps_the_parameters_and_the_schedule(built):
  parts, params = built
  state = stages.state_lib.create(parts.model, parts.tx, params, parts.mesh)
  moved = state.replace(
      opt_state=jax.tree.map(lambda x: x + 1, state.opt_state))
  fresh = stages.restart_optimizer(parts, moved)
  differ = [
      not np.array_equal(x, y) for x, y in zip(
          jax.tree.leaves(fresh), jax.tree.leaves(state), strict=True)]
  assert sum(differ) == 1
  assert [int(x) for x in optim.counts(fresh.opt_state)] == [1, 0]
  assert fresh.params is params
