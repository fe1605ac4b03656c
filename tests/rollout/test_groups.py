"""Groups, and how a batch of them is filled."""

import dataclasses

import numpy as np
import pytest

from progrpo_jax import batch
from progrpo_jax.rollout import groups

G, T = 2, 3


def made(ids, correct=None, width=4, valid=True, functions=0):
  """Groups whose every number can be told from the id of the draw.

  Prompt i has `1 + i % width` tokens, all of them 100 + i.
  """
  ids = np.asarray(ids, np.int64)
  count = len(ids)
  mask = np.arange(width) >= width - 1 - (ids % width)[:, None]
  if correct is None:
    correct = np.zeros((count, G), bool)
  correct = np.asarray(correct, bool).reshape(count, G)
  rows = (ids[:, None] * G + np.arange(G)).reshape(-1)
  return groups.Groups(
      prompts=batch.Prompts(
          tokens_PT=np.where(mask, 100 + ids[:, None], 0).astype(np.int32),
          mask_PT=mask, user_mask_PT=mask & (np.arange(width) == width - 1),
          ids_P=ids, rows=tuple(f"row {i}" for i in ids)),
      rollout=batch.Rollout(
          tokens_BT=(10 * rows[:, None] + np.arange(T)).astype(np.int32),
          mask_BT=np.arange(T) <= (rows % T)[:, None],
          logp_BT=-rows[:, None] - np.arange(T, dtype=np.float32),
          finished_B=rows % 2 == 0),
      texts_PG=tuple(
          tuple(f"{i}/{g}" for g in range(G)) for i in ids),
      reward_PG=correct.astype(np.float32), correct_PG=correct,
      valid_PG=np.full((count, G), valid), fresh_P=np.ones(count, bool),
      values_PGJ=(rows.reshape(count, G, 1) + np.linspace(
          0, 0.5, functions)).astype(np.float32))


def same(a, b):
  """Asserts that two lots of groups are equal in everything."""
  for name in (
      "reward_PG", "correct_PG", "valid_PG", "fresh_P", "values_PGJ"):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  assert a.texts_PG == b.texts_PG and a.prompts.rows == b.prompts.rows
  for x, y, names in (
      (a.prompts, b.prompts, ("tokens_PT", "mask_PT", "user_mask_PT", "ids_P")),
      (a.rollout, b.rollout, (
          "tokens_BT", "mask_BT", "logp_BT", "finished_B"))):
    for name in names:
      np.testing.assert_array_equal(getattr(x, name), getattr(y, name), name)
      assert getattr(x, name).dtype == getattr(y, name).dtype, name


class Source:
  """Draws groups in turn: 'm' is a mixed one, 'r' all right, 'w' all wrong."""

  VERDICTS = {"m": [True, False], "r": [True, True], "w": [False, False]}

  def __init__(self, *rounds):
    self.rounds = list(rounds)
    self.position = 0

  def __call__(self):
    kinds = self.rounds.pop(0)
    ids = range(self.position, self.position + len(kinds))
    self.position += len(kinds)
    drawn = made(ids, [self.VERDICTS[k] for k in kinds])
    return drawn, drawn


def mixed(found):
  right = found.correct_PG.sum(axis=1)
  return (right > 0) & (right < G)


def everything(found):
  return np.ones(len(found), bool)


def ids(found):
  return list(found.prompts.ids_P)


def test_take_picks_whole_groups_in_order():
  same(made(range(5)).take([3, 0, 3]), made([3, 0, 3]))
  nothing = made(range(5)).take([])
  assert len(nothing) == 0
  assert nothing.rollout.tokens_BT.shape == (0, T)
  assert nothing.reward_PG.shape == (0, G)


def test_concatenation_of_one_bucket():
  same(groups.concatenate([made([0, 1]), made([5]), made([])]),
       made([0, 1, 5]))


def test_concatenation_pads_prompts_of_smaller_buckets_on_the_left():
  joined = groups.concatenate([made([1, 2]), made([6], width=7)])
  assert joined.prompts.tokens_PT.shape == (3, 7)
  np.testing.assert_array_equal(
      joined.prompts.tokens_PT[0], [0, 0, 0, 0, 0, 101, 101])
  np.testing.assert_array_equal(
      joined.prompts.mask_PT[1], [0, 0, 0, 0, 1, 1, 1])
  np.testing.assert_array_equal(
      joined.prompts.user_mask_PT[1], [0, 0, 0, 0, 0, 0, 1])
  assert joined.prompts.mask_PT.dtype == bool
  np.testing.assert_array_equal(joined.prompts.tokens_PT[2], [106] * 7)
  assert joined.texts_PG == (("1/0", "1/1"), ("2/0", "2/1"), ("6/0", "6/1"))


def test_groups_without_verdicts_keep_all_but_their_validity():
  found = made([1, 2], [[True, False], [True, True]]).without_verdicts()
  assert not found.valid_PG.any()
  same(dataclasses.replace(found, valid_PG=np.ones((2, G), bool)),
       made([1, 2], [[True, False], [True, True]]))


def test_one_round_that_keeps_everything():
  source = Source("mrw")
  found = groups.collect(source, everything, count=3)
  assert ids(found.batch) == ids(found.sampled) == [0, 1, 2]
  assert found.batch.valid_PG.all() and found.batch.fresh_P.all()
  assert found.surplus is None
  assert found.metrics == {
      "dynamic_sampling/rounds": 1, "dynamic_sampling/keep_frac": 1.0,
      "dynamic_sampling/filled_frac": 1.0,
      "dynamic_sampling/all_right_frac": pytest.approx(1 / 3),
      "dynamic_sampling/all_wrong_frac": pytest.approx(1 / 3)}


def test_sampling_goes_on_until_the_batch_is_full():
  source = Source("mwrw", "wwww", "rmmm", "mmmm")
  found = groups.collect(source, mixed, count=4, max_rounds=9)
  # The first kept first, in the order they were drawn; a fourth round is not
  # needed.
  assert ids(found.batch) == [0, 9, 10, 11]
  assert found.batch.valid_PG.all() and found.batch.fresh_P.all()
  assert ids(found.sampled) == list(range(12))
  assert len(source.rounds) == 1
  assert found.metrics == {
      "dynamic_sampling/rounds": 3,
      "dynamic_sampling/keep_frac": pytest.approx(4 / 12),
      "dynamic_sampling/filled_frac": 1.0,
      "dynamic_sampling/all_right_frac": pytest.approx(2 / 12),
      "dynamic_sampling/all_wrong_frac": pytest.approx(6 / 12)}


def test_bound_on_rounds_and_fillers_without_verdicts():
  source = Source("wmwr", "wwmw", "mmmm")
  found = groups.collect(source, mixed, count=4, max_rounds=2)
  assert len(source.rounds) == 1
  # Two that teach, then dropped ones in the order they were drawn.
  assert ids(found.batch) == [1, 6, 0, 2]
  np.testing.assert_array_equal(
      found.batch.valid_PG, [[True] * G] * 2 + [[False] * G] * 2)
  assert found.surplus is None
  assert found.metrics["dynamic_sampling/filled_frac"] == 0.5
  assert found.metrics["dynamic_sampling/keep_frac"] == 0.25
  # Statistics are over what was sampled, verdicts and all.
  assert found.sampled.valid_PG.all() and len(found.sampled) == 8


def test_nothing_kept_gives_a_batch_of_fillers():
  found = groups.collect(Source("wwrr"), mixed, count=4, max_rounds=1)
  assert len(found.batch) == 4 and not found.batch.valid_PG.any()
  assert found.metrics["dynamic_sampling/filled_frac"] == 0.0


@pytest.mark.parametrize("carry", [True, False])
def test_surplus_is_carried_or_discarded(carry):
  found = groups.collect(
      Source("mwmm", "wmmm"), mixed, count=4, max_rounds=5, carry=carry)
  assert ids(found.batch) == [0, 2, 3, 5]
  assert (ids(found.surplus) == [6, 7]) if carry else found.surplus is None


def test_carried_groups_come_first_and_are_no_longer_fresh():
  carried = made([70, 71], [[True, False]] * 2)
  found = groups.collect(
      Source("wmmm"), mixed, count=3, max_rounds=5, carried=carried,
      carry=True)
  assert ids(found.batch) == [70, 71, 1]
  np.testing.assert_array_equal(found.batch.fresh_P, [False, False, True])
  assert ids(found.surplus) == [2, 3] and found.surplus.fresh_P.all()
  assert ids(found.sampled) == [0, 1, 2, 3]
  assert found.metrics["dynamic_sampling/keep_frac"] == 0.75
  assert carried.fresh_P.all()


def test_carried_groups_may_fill_the_batch_without_a_draw():
  carried = made(range(70, 75), [[True, False]] * 5)
  source = Source()
  found = groups.collect(
      source, mixed, count=3, max_rounds=5, carried=carried, carry=True)
  assert ids(found.batch) == [70, 71, 72]
  assert ids(found.surplus) == [73, 74] and not found.surplus.fresh_P.any()
  assert found.metrics["dynamic_sampling/rounds"] == 0
  assert found.metrics["dynamic_sampling/keep_frac"] == 1.0


def test_responses_without_a_verdict_are_neither_right_nor_wrong():
  found = made(
      range(4), [[True, False], [False, False], [True, False], [False, False]])
  found = dataclasses.replace(found, valid_PG=np.array([
      [True, False], [False, True], [True, True], [False, False]]))
  metrics = groups.collect(
      lambda: (found, found), everything, count=4).metrics
  assert metrics["dynamic_sampling/all_right_frac"] == 0.25
  assert metrics["dynamic_sampling/all_wrong_frac"] == 0.25


def test_statistics_are_of_what_the_policy_sampled_by_itself():
  """An expert's right answer in each group; the policy solved none."""
  by_policy = made(range(2), [[False, False]] * 2)
  taught = made(range(2), [[True, False]] * 2)
  found = groups.collect(lambda: (taught, by_policy), mixed, count=2)
  same(found.batch, taught)
  same(found.sampled, by_policy)
  assert found.metrics["dynamic_sampling/all_wrong_frac"] == 1.0
  assert found.metrics["dynamic_sampling/keep_frac"] == 1.0


def test_values_of_functions_are_widened_where_rows_have_fewer():
  parts = [made([3], functions=2), made([4]), made([5, 6], functions=1)]
  joined = groups.concatenate(parts)
  assert joined.values_PGJ.dtype == np.float32
  nan = np.nan
  np.testing.assert_array_equal(joined.values_PGJ, [
      [[6, 6.5], [7, 7.5]], [[nan, nan], [nan, nan]],
      [[10, nan], [11, nan]], [[12, nan], [13, nan]]])
  np.testing.assert_array_equal(
      joined.take([3, 0]).values_PGJ, joined.values_PGJ[[3, 0]])


@pytest.mark.parametrize("functions", [0, 2])
def test_arrays_and_back(functions):
  found = made(
      [3, 9, 4], [[True, False], [False, False], [True, True]],
      functions=functions)
  arrays = groups.to_arrays(found)
  # An empty array could not be saved.
  assert all(isinstance(x, np.ndarray) and x.size for x in arrays.values())
  again = groups.from_arrays(
      arrays, lambda ids: made(ids).prompts, lambda _: found.texts_PG)
  # Whatever was saved is of an earlier policy by now.
  same(again, dataclasses.replace(found, fresh_P=np.zeros(3, bool)))


@pytest.mark.parametrize("per_row", [1, 2])
def test_rows_of_a_prompt_and_some_of_its_responses(per_row):
  found = made([3, 9])
  q = groups.to_sequences(found, per_row)
  rows = 2 * G // per_row
  assert q.tokens_NRT.shape == q.mask_NRT.shape == (rows, per_row, T)
  for n in range(rows):
    group = n * per_row // G
    np.testing.assert_array_equal(
        q.prompt_NT[n], found.prompts.tokens_PT[group])
    np.testing.assert_array_equal(
        q.prompt_mask_NT[n], found.prompts.mask_PT[group])
  np.testing.assert_array_equal(
      q.tokens_NRT.reshape(-1, T), found.rollout.tokens_BT)
  np.testing.assert_array_equal(
      q.mask_NRT.reshape(-1, T), found.rollout.mask_BT)
