"""Metrics of speed, by hand."""

import types

import numpy as np
import pytest

from progrpo_jax.devices import timing
from progrpo_jax.learn import speed
from progrpo_jax.models import config as model_config
from progrpo_jax.models import flops

MODEL = model_config.ModelConfig.tiny()


def _groups(prompt_P, response_PG):
  """Groups of these lengths, prompts padded left and responses right."""
  width = np.arange(8)
  response_PG = np.array(response_PG)
  return types.SimpleNamespace(
    prompts=types.SimpleNamespace(
      mask_PT=width >= 8 - np.array(prompt_P)[:, None]
    ),
    rollout=types.SimpleNamespace(
      mask_BT=width < response_PG.reshape(-1)[:, None]
    ),
    reward_PG=np.zeros(response_PG.shape),
  )


@pytest.fixture
def timed(monkeypatch):
  """A function of seconds by stage to a timer that measured them."""

  def make(**seconds):
    timer = timing.Timer()
    values = {f"timing_s/{name}": s for name, s in seconds.items()}
    values["timing_s/step"] = sum(seconds.values())
    monkeypatch.setattr(timer, "take", lambda: dict(values))
    return timer

  return make


def test_golden_numbers(timed):
  batch = _groups([3, 5], [[2, 1], [4, 8]])
  sampled = _groups([3, 5, 6], [[2, 1], [4, 8], [7, 6]])
  measured = speed.Speed(
    model=MODEL,
    devices=4,
    peak=1e9,
    passes=2,
    scorers=2,
    timer=timed(sample=2.0, score=1.0, update=2.0),
  )(sampled, batch)
  # Each sequence with its prompt: 2 x 3 + 2 x 5 of prompts, 15 of responses.
  assert measured["perf/total_num_tokens"] == 31
  assert measured["perf/tokens_per_second"] == 31 / 5
  assert measured["perf/throughput"] == 31 / 5 / 4
  assert measured["perf/sample_tokens_per_second"] == 28 / 2
  one = flops.forward(MODEL, [3, 5], [[2, 1], [4, 8]])
  work = (
    flops.forward(MODEL, [3, 5, 6], [[2, 1], [4, 8], [7, 6]])
    + flops.forward(MODEL, [3, 5], [[2, 1], [4, 8]], prompt_logits=True)
    + one
    + 2 * 3 * one
  )
  assert measured["perf/mfu"] == pytest.approx(work / 5 / 1e9)
  assert measured["timing_s/step"] == 5


def test_a_batch_that_was_carried_over_was_not_sampled(timed):
  batch = _groups([3], [[2, 1]])
  common = dict(model=MODEL, devices=1, peak=1e9, passes=1, scorers=1)
  without = speed.Speed(timer=timed(score=1.0, update=1.0), **common)
  measured = without(batch, batch)
  assert "perf/sample_tokens_per_second" not in measured
  work = flops.forward(MODEL, [3], [[2, 1]], prompt_logits=True)
  work += 3 * flops.forward(MODEL, [3], [[2, 1]])
  assert measured["perf/mfu"] == pytest.approx(work / 2 / 1e9)
