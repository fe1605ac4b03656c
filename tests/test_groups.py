"""Groups: taken, joined, saved and laid out in rows."""

import dataclasses

import numpy as np
import pytest

from progrpo_jax import batch, groups
from progrpo_jax.tasks import base

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
      mask_PT=mask,
      user_mask_PT=mask & (np.arange(width) == width - 1),
      ids_P=ids,
      rows=tuple(base.Row("t", f"row {i}", None, {}) for i in ids),
    ),
    rollout=batch.Rollout(
      tokens_BT=(10 * rows[:, None] + np.arange(T)).astype(np.int32),
      mask_BT=np.arange(T) <= (rows % T)[:, None],
      logp_BT=-rows[:, None] - np.arange(T, dtype=np.float32),
      finished_B=rows % 2 == 0,
    ),
    texts_PG=tuple(tuple(f"{i}/{g}" for g in range(G)) for i in ids),
    reward_PG=correct.astype(np.float32),
    correct_PG=correct,
    valid_PG=np.full((count, G), valid),
    fresh_P=np.ones(count, bool),
    values_PGJ=(
      rows.reshape(count, G, 1) + np.linspace(0, 0.5, functions)
    ).astype(np.float32),
  )


def same(a, b):
  """Asserts that two lots of groups are equal in everything."""
  for name in ("reward_PG", "correct_PG", "valid_PG", "fresh_P", "values_PGJ"):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  assert a.texts_PG == b.texts_PG and a.prompts.rows == b.prompts.rows
  for x, y, names in (
    (a.prompts, b.prompts, ("tokens_PT", "mask_PT", "user_mask_PT", "ids_P")),
    (a.rollout, b.rollout, ("tokens_BT", "mask_BT", "logp_BT", "finished_B")),
  ):
    for name in names:
      np.testing.assert_array_equal(getattr(x, name), getattr(y, name), name)
      assert getattr(x, name).dtype == getattr(y, name).dtype, name


def test_take_picks_whole_groups_in_order():
  same(made(range(5)).take([3, 0, 3]), made([3, 0, 3]))
  nothing = made(range(5)).take([])
  assert len(nothing) == 0
  assert nothing.rollout.tokens_BT.shape == (0, T)
  assert nothing.reward_PG.shape == (0, G)


def test_concatenation_of_one_bucket():
  same(groups.concatenate([made([0, 1]), made([5]), made([])]), made([0, 1, 5]))


def test_concatenation_pads_prompts_of_smaller_buckets_on_the_left():
  joined = groups.concatenate([made([1, 2]), made([6], width=7)])
  assert joined.prompts.tokens_PT.shape == (3, 7)
  np.testing.assert_array_equal(
    joined.prompts.tokens_PT[0], [0, 0, 0, 0, 0, 101, 101]
  )
  np.testing.assert_array_equal(
    joined.prompts.mask_PT[1], [0, 0, 0, 0, 1, 1, 1]
  )
  np.testing.assert_array_equal(
    joined.prompts.user_mask_PT[1], [0, 0, 0, 0, 0, 0, 1]
  )
  assert joined.prompts.mask_PT.dtype == bool
  np.testing.assert_array_equal(joined.prompts.tokens_PT[2], [106] * 7)
  assert joined.texts_PG == (("1/0", "1/1"), ("2/0", "2/1"), ("6/0", "6/1"))


def test_groups_without_verdicts_keep_all_but_their_validity():
  found = made([1, 2], [[True, False], [True, True]]).without_verdicts()
  assert not found.valid_PG.any()
  same(
    dataclasses.replace(found, valid_PG=np.ones((2, G), bool)),
    made([1, 2], [[True, False], [True, True]]),
  )


def test_values_of_functions_are_widened_where_rows_have_fewer():
  parts = [made([3], functions=2), made([4]), made([5, 6], functions=1)]
  joined = groups.concatenate(parts)
  assert joined.values_PGJ.dtype == np.float32
  nan = np.nan
  np.testing.assert_array_equal(
    joined.values_PGJ,
    [
      [[6, 6.5], [7, 7.5]],
      [[nan, nan], [nan, nan]],
      [[10, nan], [11, nan]],
      [[12, nan], [13, nan]],
    ],
  )
  np.testing.assert_array_equal(
    joined.take([3, 0]).values_PGJ, joined.values_PGJ[[3, 0]]
  )


def test_no_field_is_forgotten_where_groups_are_taken_apart_and_joined():
  """But for what a part has none of, and what only the sampler reads."""
  found = dataclasses.replace(
    made(range(3), functions=2),
    extra_PG=tuple(tuple({"id": (i, g)} for g in range(G)) for i in range(3)),
    logged=(("a", 1.0),),
  )
  again = groups.concatenate([found.take([0]), found.take([1, 2])])
  for record, copy, left_out in (
    (found, again, {"prompts", "rollout", "logged"}),
    (found.prompts, again.prompts, {"first_P"}),
    (found.rollout, again.rollout, set()),
  ):
    for field in dataclasses.fields(record):
      if field.name in left_out:
        continue
      value, found_again = (getattr(x, field.name) for x in (record, copy))
      # What the test does not fill could not be told from what is forgotten.
      assert len(value)
      if isinstance(value, tuple):
        assert found_again == value
      else:
        np.testing.assert_array_equal(found_again, value, field.name)


@pytest.mark.parametrize("functions", [0, 2])
def test_arrays_and_back(functions):
  found = made(
    [3, 9, 4],
    [[True, False], [False, False], [True, True]],
    functions=functions,
  )
  arrays = groups.to_arrays(found)
  # An empty array could not be saved.
  assert all(isinstance(x, np.ndarray) and x.size for x in arrays.values())
  again = groups.from_arrays(
    arrays, lambda ids: made(ids).prompts, lambda _: found.texts_PG
  )
  # Whatever was saved is of an earlier policy by now.
  same(again, dataclasses.replace(found, fresh_P=np.zeros(3, bool)))


@pytest.mark.parametrize("per_bundle", [1, 2])
def test_bundles_of_a_prompt_and_some_of_its_responses(per_bundle):
  found = made([3, 9])
  q = groups.to_sequences(found, per_bundle)
  bundles = 2 * G // per_bundle
  assert q.tokens_NRT.shape == q.mask_NRT.shape == (bundles, per_bundle, T)
  for n in range(bundles):
    group = n * per_bundle // G
    np.testing.assert_array_equal(
      q.prompt_NT[n], found.prompts.tokens_PT[group]
    )
    np.testing.assert_array_equal(
      q.prompt_mask_NT[n], found.prompts.mask_PT[group]
    )
  np.testing.assert_array_equal(
    q.tokens_NRT.reshape(-1, T), found.rollout.tokens_BT
  )
  np.testing.assert_array_equal(
    q.mask_NRT.reshape(-1, T), found.rollout.mask_BT
  )


def test_what_functions_log_travels_with_the_responses():
  extra = tuple(tuple({"n": f"{p}/{g}"} for g in range(G)) for p in range(3))
  logged = dataclasses.replace(
    made(range(3)), extra_PG=extra, logged=(("a", 1.0),)
  )
  both = groups.concatenate([made([7]), logged, logged])
  assert both.extra(0, 0) == {} and both.extra(2, 1) == {"n": "1/1"}
  assert both.logged == (("a", 1.0), ("a", 1.0))
  part = both.take([3, 0])
  assert part.extra(0, 1) == {"n": "2/1"} and part.extra(1, 1) == {}
  arrays = groups.to_arrays(part)
  back = groups.from_arrays(
    arrays, lambda ids: part.prompts, lambda rollout: part.texts_PG
  )
  assert back.extra_PG == part.extra_PG
  assert "extra" not in groups.to_arrays(made([7]))
