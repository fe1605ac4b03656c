"""Packing: everything is in a row once, rows are full, lengths decide alone."""

import numpy as np
import pytest

from progrpo_jax import batch, packing

LAYOUT = packing.Layout(tokens=64, rows=2, shards=2)


def sequences(bundles=23, responses=3, prompt=9, length=12, seed=0):
  """Prompts and responses of all lengths; responses of none, too."""
  rng = np.random.default_rng(seed)
  shape = bundles, responses, length
  return batch.Sequences(
    prompt_NT=rng.integers(1, 100, (bundles, prompt), np.int32),
    prompt_mask_NT=np.arange(prompt) >= rng.integers(0, prompt, (bundles, 1)),
    tokens_NRT=rng.integers(1, 100, shape, np.int32),
    mask_NRT=np.arange(length) < rng.integers(0, length + 1, shape[:2] + (1,)),
  )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("most", [2, 100])
def test_first_fit_overlaps_nothing_and_opens_no_row_in_vain(seed, most):
  size = np.random.default_rng(seed).integers(0, 41, 200)
  row, start = packing.first_fit(size, 100, most)
  assert ((row < 0) == (size == 0)).all()
  rows = int(row.max()) + 1
  for i in range(rows):
    items = np.flatnonzero(row == i)
    items = items[np.argsort(start[items])]
    ends = start[items] + size[items]
    # One behind the other, without a gap.
    np.testing.assert_array_equal(start[items], [0, *ends[:-1]])
    assert ends[-1] <= 100 and len(items) <= most
  assert rows <= packing.most_rows(len(size), 40, 100, most)
  assert rows >= max(size.sum() / 100, (size > 0).sum() / most)


def test_first_fit_by_hand():
  row, start = packing.first_fit([3, 6, 0, 5, 4, 2], 10, 3)
  # 6 | 5 after it no room | 4 beside 6 | 3 beside 5 | 2 beside both.
  np.testing.assert_array_equal(row, [1, 0, -1, 1, 0, 1])
  np.testing.assert_array_equal(start, [5, 0, 0, 0, 6, 8])
  with pytest.raises(ValueError, match="11 tokens do not fit a row of 10"):
    packing.first_fit([3, 11], 10, 3)


def test_rows_are_dealt_so_that_devices_have_like_work():
  work = np.array([5, 9, 1, 7, 3, 8])
  place = packing.deal(work, rows=2, shards=2)
  # Four rows a micro-batch, those of a device side by side.
  by_place = np.zeros(8, int)
  by_place[place] = work
  np.testing.assert_array_equal(by_place, [9, 5, 8, 7, 3, 0, 1, 0])


@pytest.mark.parametrize("stride", [0, 1, 2])
@pytest.mark.parametrize("responses", [1, 3])
def test_every_token_is_in_a_row_with_what_predicts_it(stride, responses):
  q = sequences(responses=responses)
  packed = packing.pack(q, LAYOUT, prompt_stride=stride, keep_empty=True)
  rows = packed.rows
  assert rows.tokens_AEW.shape[1:] == (4, 64)
  assert int(rows.used) == 1 + np.flatnonzero(rows.bundle_AEW.any((1, 2)))[-1]
  # Each slot is the sequence that it stands for.
  found = {}
  source = rows.source_AEW
  for place, n in np.ndenumerate(rows.prompt_length_AEZ):
    if not n:
      assert not rows.length_AEZ[place]
      continue
    a, e, z = place
    begin, start = rows.prompt_start_AEZ[place], rows.start_AEZ[place]
    prompt = slice(begin, begin + n)
    response = slice(start, start + rows.length_AEZ[place])
    number = rows.bundle_AEW[a, e, begin]
    assert number == z // responses + 1
    assert (rows.bundle_AEW[a, e, prompt] == number).all()
    assert (rows.bundle_AEW[a, e, response] == number).all()
    np.testing.assert_array_equal(
      np.concatenate(
        [rows.position_AEW[a, e, prompt], rows.position_AEW[a, e, response]]
      ),
      np.arange(n + rows.length_AEZ[place]),
    )
    if responses > 1:
      assert (rows.response_AEW[a, e, prompt] == 0).all()
      assert (rows.response_AEW[a, e, response] == z % responses + 1).all()
    if rows.length_AEZ[place]:
      np.testing.assert_array_equal(
        source[a, e, response],
        [begin + n - 1, *range(start, response.stop - 1)],
      )
    scored = source[a, e, prompt] >= 0
    assert not scored[0] and (scored[1:] == scored[-1]).all()
    np.testing.assert_array_equal(
      source[a, e, prompt][scored],
      np.arange(begin, begin + n - 1)[: scored.sum()],
    )
    at = np.ravel_multi_index(place, rows.start_AEZ.shape)
    found[at] = (
      rows.tokens_AEW[a, e, prompt].tolist(),
      rows.tokens_AEW[a, e, response].tolist(),
    )
  for n, r in np.ndindex(packed.slot_NR.shape):
    prompt, response = found.pop(packed.slot_NR[n, r])
    assert prompt == q.prompt_NT[n][q.prompt_mask_NT[n]].tolist()
    assert response == q.tokens_NRT[n, r][q.mask_NRT[n, r]].tolist()
  assert not found
  assert (source[rows.bundle_AEW == 0] == -1).all()


def test_numbers_go_into_rows_and_come_back():
  q = sequences()
  packed = packing.pack(q, LAYOUT, prompt_stride=1, keep_empty=True)
  rng = np.random.default_rng(1)
  x = rng.normal(size=q.mask_NRT.shape).astype(np.float32)
  spread = packed.to_rows(x)
  np.testing.assert_array_equal(
    packed.from_rows(spread), np.where(q.mask_NRT, x, 0)
  )
  assert np.count_nonzero(spread) == q.mask_NRT.sum()
  tokens = packed.prompts_from_rows(packed.rows.tokens_AEW)
  np.testing.assert_array_equal(
    tokens, np.where(q.prompt_mask_NT, q.prompt_NT, 0)
  )
  number = np.arange(1, packed.slot_NR.size + 1).reshape(packed.slot_NR.shape)
  slots = packed.to_slots(number)
  np.testing.assert_array_equal(slots.reshape(-1)[packed.slot_NR], number)
  assert np.count_nonzero(slots) == number.size
  assert packed.to_rows(None) is packed.to_slots(None) is None


def test_sequences_without_a_token_are_left_out():
  q = sequences()
  mask = q.mask_NRT.copy()
  mask[3:8] = False
  packed = packing.pack(q.replace(mask_NRT=mask), LAYOUT)
  rows = packed.rows
  nowhere = np.flatnonzero(packed.slot_NR[:, 0] == rows.start_AEZ.size)
  np.testing.assert_array_equal(nowhere, np.flatnonzero(~mask.any((1, 2))))
  assert (rows.bundle_AEW > 0).sum() == (
    mask.sum() + q.prompt_mask_NT[mask.any((1, 2))].sum()
  )
  nothing = packing.pack(q.replace(mask_NRT=np.zeros_like(mask)), LAYOUT)
  assert int(nothing.rows.used) == 0 and not nothing.rows.tokens_AEW.any()
  assert nothing.rows.tokens_AEW.shape == rows.tokens_AEW.shape


def test_shapes_depend_on_the_sizes_alone():
  shapes = {
    tuple(
      x.shape
      for x in vars(packing.pack(sequences(seed=i), LAYOUT).rows).values()
      if hasattr(x, "shape")
    )
    for i in range(5)
  }
  assert len(shapes) == 1


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="row of 40 tokens .* bundle of 45"):
    packing.pack(sequences(), packing.Layout(tokens=40))
  q = sequences()
  with pytest.raises(ValueError, match="a prompt has no token"):
    packing.pack(q.replace(prompt_mask_NT=q.prompt_mask_NT & False), LAYOUT)


def lognormal(median, p90, count, cap):
  """Lengths of responses that are cut at `cap`."""
  spread = np.log(p90 / median) / 1.2815516
  z = np.random.default_rng(0).normal(size=count)
  return np.minimum(np.ceil(median * np.exp(spread * z)), cap).astype(int)


# Median and 90th percentile of the responses, and where they are cut: a mean of
# 40 % of 2,048, and those of R1's distillates.
LENGTHS = [(700, 1500, 2048), (3000, 8000, 8192), (3000, 8000, 16384)]


@pytest.mark.parametrize("median, p90, cap", LENGTHS)
def test_nearly_all_tokens_of_rows_are_real(median, p90, cap):
  """4,096 responses to prompts of 200 tokens, packed for eight devices."""
  length = lognormal(median, p90, 4096, cap)
  prompt = np.full(4096, 200)
  width = packing.Layout().resolved(4096, 200 + cap).tokens
  row, _ = packing.first_fit(prompt + length, width, 32)
  count = int(row.max()) + 1
  work = np.bincount(row, weights=length, minlength=count)
  place = packing.deal(work, rows=1, shards=8)
  read = 8 * (int(place.max()) // 8 + 1) * width
  assert (prompt + length).sum() / read > 0.95
  # Padded to the longest, less than half of this is real.
  assert length.sum() / (4096 * cap) < 0.5
  # The devices of a micro-batch have like work, where all of them have a row.
  full = np.zeros(8 * (int(place.max()) // 8 + 1))
  full[place] = work
  full = full.reshape(-1, 8)[: count // 8]
  assert np.median(full.min(1) / full.max(1)) > 0.95
