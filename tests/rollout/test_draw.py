"""A round in batches is that of batch after batch, verified meanwhile."""

import dataclasses
import threading
import time

import jax
import numpy as np
import pytest

from progrpo_jax.build import stages as build
from progrpo_jax.devices import timing
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rollout import draw as draw_lib
from progrpo_jax.rollout import sampler, verify


@pytest.fixture(scope="module")
def built(small):
  setup, params = build.make_setup(small.config())
  with setup.pool:
    yield setup, params


def _draw(built, size, timer=None, count=6):
  setup, params = built
  draw = setup.first.collect.draw
  draw = dataclasses.replace(
    draw,
    settings=dataclasses.replace(draw.settings, batch_prompts=size),
    timer=timer or timing.Timer(),
  )
  return draw(
    draw.engine(params), setup.first.prompter.take(0, count), jax.random.key(3)
  )


@pytest.mark.parametrize("size", [0, 2, 4, 8])
def test_a_round_is_what_one_stage_after_the_other_makes(built, size):
  """Bit for bit. 4 does not divide the 6 prompts, 8 is more than there are."""
  setup, params = built
  found = _draw(built, size)
  settings = dataclasses.replace(
    setup.first.collect.draw.settings, batch_prompts=size
  )
  prompts = setup.first.prompter.take(0, 6)
  rollout = sampler.sample(
    sampler.Engine(setup.model, params, setup.mesh),
    prompts,
    jax.random.key(3),
    settings,
  )
  texts = verify.texts(setup.tokenizer, rollout, settings.num_generations)
  verdicts = verify.verify(setup.pool, prompts.rows, texts)
  assert found.texts_PG == texts
  assert found.prompts.rows == prompts.rows
  names = ("reward_PG", "correct_PG", "valid_PG", "values_PGJ")
  for name in names:
    verdict = getattr(verdicts, name)
    assert getattr(found, name).dtype == verdict.dtype
    assert np.array_equal(getattr(found, name), verdict), name
  assert found.fresh_P.tolist() == [True] * 6
  for one, other in zip(
    jax.tree.leaves(found.rollout), jax.tree.leaves(rollout), strict=True
  ):
    assert one.dtype == other.dtype and np.array_equal(one, other)
  # It is worth comparing: not all is alike.
  assert len(set(found.reward_PG.ravel().tolist())) > 1


def test_an_interrupt_does_not_wait_for_what_is_verified():
  free = threading.Event()
  with pytest.raises(KeyboardInterrupt), draw_lib._thread() as thread:
    begun = thread.submit(free.wait, 60)
    raise KeyboardInterrupt
  assert not begun.done()
  free.set()


def _slow(monkeypatch, seconds):
  """Makes each batch's verification take so long; returns what happens."""
  verified, batches, events = verify.verify, sampler.batches, []

  def slow(*args, **kwargs):
    events.append("judge")
    assert threading.current_thread() is not threading.main_thread()
    time.sleep(seconds)
    found = verified(*args, **kwargs)
    events.append("judged")
    return found

  def sampled(*args):
    for rollout in batches(*args):
      events.append("sampled")
      yield rollout
      if "judged" not in events:  # a device that takes longer than that
        time.sleep(1.2 * seconds)

  monkeypatch.setattr(verify, "verify", slow)
  monkeypatch.setattr(sampler, "batches", sampled)
  return events


def test_a_batch_is_verified_while_the_next_is_sampled(built, monkeypatch):
  _draw(built, 2)  # compiled
  events = _slow(monkeypatch, 1.5)
  timer = timing.Timer()
  _draw(built, 2, timer, count=4)
  assert events == ["sampled", "judge", "judged", "sampled", "judge", "judged"]
  # The first batch's 1.5 s fell into the sampling, the second's did not.
  seconds = timer.take()
  assert seconds["timing_s/sample"] > 1.5
  assert 1.0 < seconds["timing_s/verify"] < 2.9


def test_a_failure_stops_the_round_before_more_is_sampled(built, monkeypatch):
  batches, seen = sampler.batches, []

  def failing(*args, **kwargs):
    raise pools.PoolError("no verifier works")

  def sampled(*args):
    for rollout in batches(*args):
      seen.append(rollout)
      yield rollout
      time.sleep(0.5)

  monkeypatch.setattr(verify, "verify", failing)
  monkeypatch.setattr(sampler, "batches", sampled)
  with pytest.raises(pools.PoolError, match="no verifier works"):
    _draw(built, 1)
  assert len(seen) < 6


def test_an_interrupt_of_the_sampling_drops_what_waits(built, monkeypatch):
  batches, judged = sampler.batches, []

  def sampled(*args):
    found = batches(*args)
    yield next(found)
    yield next(found)
    yield next(found)
    raise KeyboardInterrupt

  def slow(pool, rows, texts, **_):
    time.sleep(0.3)
    judged.append(rows)

  monkeypatch.setattr(verify, "verify", slow)
  monkeypatch.setattr(sampler, "batches", sampled)
  with pytest.raises(KeyboardInterrupt):
    _draw(built, 1)
  assert len(judged) < 3
