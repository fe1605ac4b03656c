"""How a batch of groups is filled."""

import dataclasses
import pathlib
import runpy
import types

import jax
import numpy as np
import pytest

from progrpo_jax import progress as progress_lib
from progrpo_jax import randomness
from progrpo_jax.devices import stopping
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rollout import collect, turns

_SHARED = runpy.run_path(
  str(pathlib.Path(__file__).parent.with_name("test_groups.py"))
)
G, made, same = (_SHARED[name] for name in ("G", "made", "same"))


class Source:
  """Draws groups in turn: 'm' is a mixed one, 'r' all right, 'w' all wrong.

  It stands for the prompts, whose numbers follow each other, and for drawing.
  """

  VERDICTS = {"m": [True, False], "r": [True, True], "w": [False, False]}

  def __init__(self, *rounds):
    self.rounds = list(rounds)
    self.pool = types.SimpleNamespace(
      counters=pool_lib.Counters(), at_step=lambda step: None
    )

  def take(self, position, count):
    del count  # as many as the round has letters
    return position

  def of(self, ids):
    return made(ids).prompts

  def engine(self, params):
    """Nothing was computed."""
    return types.SimpleNamespace(row_steps=0, tokens=0)

  def __call__(self, engine, position, key):
    kinds = self.rounds.pop(0)
    ids = range(position, position + len(kinds))
    return made(ids, [self.VERDICTS[k] for k in kinds])


class Fixed(Source):
  """Draws the same groups in each round."""

  def __init__(self, groups):
    super().__init__()
    self.groups = groups

  def __call__(self, engine, position, key):
    return self.groups


def mixed(groups, step):
  right = groups.correct_PG.sum(axis=1)
  return (right > 0) & (right < G)


def ids(groups):
  return list(groups.prompts.ids_P)


def collected(source, keep, count, carried=None, rephrase=None, **options):
  """What a source gives in rounds of four prompts, and what is left over."""
  stage = collect.Collect(
    prompter=source,
    draw=source,
    count=count,
    key=jax.random.key(0),
    stop=stopping.Stop(),
    round_prompts=4,
    keep=keep,
    rephrase=rephrase,
    **options,
  )
  found, progress = stage(None, progress_lib.Progress(surplus=carried))
  return found, progress.surplus


def shares(metrics):
  return {
    name: value
    for name, value in metrics.items()
    if name.startswith("dynamic_sampling/")
  }


def test_one_round_that_keeps_everything():
  source = Source("mrw")
  found, surplus = collected(source, None, count=3)
  assert ids(found.batch) == ids(found.sampled) == [0, 1, 2]
  assert found.batch.valid_PG.all() and found.batch.fresh_P.all()
  assert surplus is None
  assert shares(found.metrics) == {
    "dynamic_sampling/rounds": 1,
    "dynamic_sampling/keep_frac": 1.0,
    "dynamic_sampling/filled_frac": 1.0,
    "dynamic_sampling/all_right_frac": pytest.approx(1 / 3),
    "dynamic_sampling/all_wrong_frac": pytest.approx(1 / 3),
  }


def test_sampling_goes_on_until_the_batch_is_full():
  source = Source("mwrw", "wwww", "rmmm", "mmmm")
  found, _ = collected(source, mixed, count=4, max_rounds=9)
  # The first kept first, in the order they were drawn; a fourth round is not
  # needed.
  assert ids(found.batch) == [0, 9, 10, 11]
  assert found.batch.valid_PG.all() and found.batch.fresh_P.all()
  assert ids(found.sampled) == list(range(12))
  assert len(source.rounds) == 1
  assert shares(found.metrics) == {
    "dynamic_sampling/rounds": 3,
    "dynamic_sampling/keep_frac": pytest.approx(4 / 12),
    "dynamic_sampling/filled_frac": 1.0,
    "dynamic_sampling/all_right_frac": pytest.approx(2 / 12),
    "dynamic_sampling/all_wrong_frac": pytest.approx(6 / 12),
  }


def test_bound_on_rounds_and_fillers_without_verdicts():
  source = Source("wmwr", "wwmw", "mmmm")
  found, surplus = collected(source, mixed, count=4, max_rounds=2)
  assert len(source.rounds) == 1
  # Two that teach, then dropped ones in the order they were drawn.
  assert ids(found.batch) == [1, 6, 0, 2]
  np.testing.assert_array_equal(
    found.batch.valid_PG, [[True] * G] * 2 + [[False] * G] * 2
  )
  assert surplus is None
  assert found.metrics["dynamic_sampling/filled_frac"] == 0.5
  assert found.metrics["dynamic_sampling/keep_frac"] == 0.25
  # Statistics are over what was sampled, verdicts and all.
  assert found.sampled.valid_PG.all() and len(found.sampled) == 8


def test_nothing_kept_gives_a_batch_of_fillers():
  found, _ = collected(Source("wwrr"), mixed, count=4, max_rounds=1)
  assert len(found.batch) == 4 and not found.batch.valid_PG.any()
  assert found.metrics["dynamic_sampling/filled_frac"] == 0.0


@pytest.mark.parametrize("carry", [True, False])
def test_surplus_is_carried_or_discarded(carry):
  found, surplus = collected(
    Source("mwmm", "wmmm"), mixed, count=4, max_rounds=5, carry=carry
  )
  assert ids(found.batch) == [0, 2, 3, 5]
  assert (ids(surplus) == [6, 7]) if carry else surplus is None


def test_carried_groups_come_first_and_are_no_longer_fresh():
  carried = made([70, 71], [[True, False]] * 2)
  found, surplus = collected(
    Source("wmmm"), mixed, count=3, max_rounds=5, carried=carried, carry=True
  )
  assert ids(found.batch) == [70, 71, 1]
  np.testing.assert_array_equal(found.batch.fresh_P, [False, False, True])
  assert ids(surplus) == [2, 3] and surplus.fresh_P.all()
  assert ids(found.sampled) == [0, 1, 2, 3]
  assert found.metrics["dynamic_sampling/keep_frac"] == 0.75
  assert carried.fresh_P.all()


def test_carried_groups_may_fill_the_batch_without_a_draw():
  carried = made(range(70, 75), [[True, False]] * 5)
  source = Source()
  found, surplus = collected(
    source, mixed, count=3, max_rounds=5, carried=carried, carry=True
  )
  assert ids(found.batch) == [70, 71, 72]
  assert ids(surplus) == [73, 74] and not surplus.fresh_P.any()
  assert found.metrics["dynamic_sampling/rounds"] == 0
  assert found.metrics["dynamic_sampling/keep_frac"] == 1.0


def test_responses_without_a_verdict_are_neither_right_nor_wrong():
  found = made(
    range(4), [[True, False], [False, False], [True, False], [False, False]]
  )
  found = dataclasses.replace(
    found,
    valid_PG=np.array(
      [[True, False], [False, True], [True, True], [False, False]]
    ),
  )
  metrics = collected(Fixed(found), None, count=4)[0].metrics
  assert metrics["dynamic_sampling/all_right_frac"] == 0.25
  assert metrics["dynamic_sampling/all_wrong_frac"] == 0.25


def test_statistics_are_of_what_the_policy_sampled_by_itself():
  """An expert's right answer in each group; the policy solved none."""
  by_policy = made(range(2), [[False, False]] * 2)
  taught = made(range(2), [[True, False]] * 2)
  found, _ = collected(
    Fixed(by_policy),
    mixed,
    count=2,
    rephrase=lambda engine, groups, key: (taught, {}),
  )
  same(found.batch, taught)
  same(found.sampled, by_policy)
  assert found.metrics["dynamic_sampling/all_wrong_frac"] == 1.0
  assert found.metrics["dynamic_sampling/keep_frac"] == 1.0


def test_the_streams_of_a_step_have_no_random_number_in_common():
  """Nor do the numbers of draws, turns, updates and passes in their keys."""
  keys = []

  class Noted(Source):
    def __call__(self, engine, position, key):
      keys.append(key)
      return super().__call__(engine, position, key)

  def rephrase(engine, groups, key):
    keys.append(key)
    return groups, {}

  collected(Noted("mmmm"), None, count=4, rephrase=rephrase)
  keys += [
    randomness.stream_key(jax.random.key(0), 0, stream)
    for stream in (randomness.Stream.UPDATE, randomness.Stream.CHOOSE)
  ]
  numbers = np.r_[0:64, turns.STREAM + 1 : turns.STREAM + 9]
  folded = [jax.random.fold_in(key, n) for key in keys for n in numbers]
  data = [tuple(jax.random.key_data(key).tolist()) for key in keys + folded]
  assert len(set(data)) == len(data) == 4 + 4 * 72
