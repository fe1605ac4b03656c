"""Packing: whole bundles one behind the other in rows of equal length.

A bundle is a prompt with R of its responses. Rows are padded at their end
only, where no further bundle fits, so that nearly all tokens that the model
reads are real. The cut is a function of the lengths alone: a resumed run packs
as the unbroken one, and so does every process of a run.

Axis letters are those of the legend in `batch`.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from progrpo_jax import batch as batch_lib

# A row may hold this many sequences if they are short enough; the limit bounds
# the arrays [rows * sequences, T] that losses read.
_SEQUENCES = 32
# Tokens of a device's rows in a micro-batch, where the number of rows is ours
# to choose.
_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Layout:
  """Sizes of packed rows.

  Attributes:
    tokens: tokens of a row (W); 0 takes the longest bundle that can be.
    rows: rows of a micro-batch on each device; 0 takes as many as have 4,096
      tokens, and at most a quarter of the bundles.
    shards: number of devices, or groups of them, that rows are split over.
  """

  tokens: int = 0
  rows: int = 0
  shards: int = 1

  def resolved(self, bundles: int, longest: int) -> "Layout":
    """Returns the layout with its zeros replaced.

    Args:
      bundles: number of bundles to pack.
      longest: tokens of the longest bundle that can be.

    Raises:
      ValueError: a row is too short for that bundle.
    """
    tokens = self.tokens or 8 * math.ceil(longest / 8)
    if tokens < longest:
      raise ValueError(
        f"a row of {tokens} tokens does not hold a bundle of {longest}"
      )
    most = math.ceil(bundles / (4 * self.shards))
    rows = self.rows or max(1, min(_TOKENS // tokens, most))
    return dataclasses.replace(self, tokens=tokens, rows=rows)


def first_fit(
  size_N, width: int, max_items: int
) -> tuple[np.ndarray, np.ndarray]:
  """Packs items into rows: first fit, by falling size.

  Args:
    size_N: tokens of each item; items of 0 are left out.
    width: tokens of a row.
    max_items: number of items of a row, at the most.

  Returns:
    (row_N, start_N): row of each item, -1 where it is left out, and the column
    of its first token.

  Raises:
    ValueError: an item is longer than a row.
  """
  size_N = np.asarray(size_N, np.int64)
  if size_N.size and size_N.max() > width:
    raise ValueError(f"{size_N.max()} tokens do not fit a row of {width}")
  row_N, start_N = np.full(len(size_N), -1), np.zeros(len(size_N), np.int64)
  free, held, rows = np.full(len(size_N), width), np.zeros(len(size_N), int), 0
  for n in np.argsort(-size_N, kind="stable"):
    size = size_N[n]
    if not size:
      break
    fits = free[:rows] >= size
    row = int(np.argmax(fits)) if fits.any() else rows
    rows = max(rows, row + 1)
    row_N[n], start_N[n] = row, width - free[row]
    free[row] -= size
    held[row] += 1
    if held[row] == max_items:
      # Behind its last item a full row has no room, whatever is free there.
      free[row] = -1
  return row_N, start_N


def most_rows(bundles: int, longest: int, width: int, max_items: int) -> int:
  """Number of rows that `first_fit` never exceeds.

  Of any two rows that are not closed by `max_items`, the later one's items did
  not fit the earlier: together they hold more than a row.

  Args:
    bundles: number of items.
    longest: size of the largest one that can be.
    width: tokens of a row.
    max_items: number of items of a row, at the most.
  """
  by_size = 2 * bundles * longest // width + 1
  return max(1, min(bundles, by_size + bundles // max_items))


def deal(scored_row, rows: int, shards: int) -> np.ndarray:
  """Deals rows to micro-batches and, within these, to devices.

  Rows of like work come together, and each device gets high and low ones in
  turn, because devices wait for one another.

  Args:
    scored_row: work of each row, by which they are sorted.
    rows: rows of a micro-batch on each device.
    shards: number of devices.

  Returns:
    Place of each row: micro-batch * rows * shards + row of the micro-batch,
    whose rows are those of the first device, then those of the second, ...
  """
  place = np.empty(len(scored_row), np.int64)
  rank = np.arange(len(scored_row))
  micro, within = np.divmod(rank, rows * shards)
  turn, device = np.divmod(within, shards)
  device = np.where(turn % 2, shards - 1 - device, device)
  order = np.argsort(-np.asarray(scored_row), kind="stable")
  place[order] = micro * rows * shards + device * rows + turn
  return place


@dataclasses.dataclass(frozen=True)
class Packed:
  """Sequences in rows, on the host, and the way back.

  Attributes:
    rows: the rows, what the model reads.
    column_X: place of each response token that counts in a flat [A, E, W], in
      the order of `mask_NRT`.
    mask_NRT: bool, response tokens that count; they and those between them are
      in a row.
    prompt_column_X: the same of prompt tokens, in the order of
      `prompt_mask_NT`.
    prompt_mask_NT: bool, prompt tokens that are in a row.
    slot_NR: place of each sequence in a flat [A, E, Z]; A * E * Z for those in
      no row.
  """

  rows: batch_lib.Rows
  column_X: np.ndarray
  mask_NRT: np.ndarray
  prompt_column_X: np.ndarray
  prompt_mask_NT: np.ndarray
  slot_NR: np.ndarray

  def to_rows(self, x_NRT) -> np.ndarray | None:
    """[N, R, T] -> [A, E, W], 0 where no token counts; None stays."""
    if x_NRT is None:
      return None
    x_NRT = np.asarray(x_NRT)
    out = np.zeros(self.rows.tokens_AEW.shape, x_NRT.dtype)
    out.reshape(-1)[self.column_X] = x_NRT[self.mask_NRT]
    return out

  def from_rows(self, x_AEW) -> np.ndarray:
    """Inverse of `to_rows`, 0 where the mask is False."""
    x_AEW = np.asarray(x_AEW)
    out = np.zeros(self.mask_NRT.shape, x_AEW.dtype)
    out[self.mask_NRT] = x_AEW.reshape(-1)[self.column_X]
    return out

  def prompts_from_rows(self, x_AEW) -> np.ndarray:
    """[A, E, W] -> [N, T] of the prompts, 0 where the mask is False."""
    x_AEW = np.asarray(x_AEW)
    out = np.zeros(self.prompt_mask_NT.shape, x_AEW.dtype)
    out[self.prompt_mask_NT] = x_AEW.reshape(-1)[self.prompt_column_X]
    return out

  def to_slots(self, x_NR) -> np.ndarray | None:
    """[N, R] -> [A, E, Z], 0 where no sequence is; None stays None."""
    if x_NR is None:
      return None
    x_NR = np.asarray(x_NR)
    return _to_slots(x_NR, self.slot_NR, self.rows.start_AEZ.shape)

  @functools.cached_property
  def useful(self) -> float:
    """Real tokens as a share of the tokens of the rows that are read."""
    _, rows, width = self.rows.tokens_AEW.shape
    read = max(1, int(self.rows.used)) * rows * width
    return float(np.sum(self.rows.bundle_AEW > 0) / read)


def pack(
  sequences: batch_lib.Sequences,
  layout: Layout,
  prompt_stride: int = 0,
  keep_empty: bool = False,
  max_bundles: int = 0,
) -> Packed:
  """Packs bundles into rows.

  Args:
    sequences: N bundles of R responses, host arrays.
    layout: sizes of the rows.
    prompt_stride: distance of the bundles whose prompt tokens are scored too,
      from the first one on; 0 scores none.
    keep_empty: whether prompts whose responses are all empty are packed, too.
    max_bundles: bundles of a row, at the most; 0: as many as hold 32 responses,
      at least four.

  Raises:
    ValueError: a bundle does not fit a row, or a prompt is empty.
  """
  prompt_mask_NT = np.asarray(sequences.prompt_mask_NT, bool)
  mask_NRT = np.asarray(sequences.mask_NRT, bool)
  bundles, responses, length = mask_NRT.shape
  longest = prompt_mask_NT.shape[1] + responses * length
  layout = layout.resolved(bundles, longest)
  max_bundles = max_bundles or max(4, math.ceil(_SEQUENCES / responses))
  # A row holds a response up to its last token that counts: what its task
  # replied in between is context.
  length_NR = batch_lib.extents(mask_NRT)
  real_NRT = np.arange(length) < length_NR[..., None]
  prompt_length_N = prompt_mask_NT.sum(axis=1)
  if not prompt_length_N.all():
    raise ValueError("a prompt has no token")
  prompt_scored_N = np.zeros(bundles, bool)
  if prompt_stride:
    prompt_scored_N[::prompt_stride] = True

  places = _place(
    prompt_length_N,
    length_NR,
    wanted_N=length_NR.any(axis=1) | keep_empty,
    scored_N=mask_NRT.sum(axis=(1, 2)) + prompt_length_N * prompt_scored_N,
    layout=layout,
    max_rows=most_rows(bundles, longest, layout.tokens, max_bundles),
    max_bundles=max_bundles,
  )
  prompt_mask_NT = prompt_mask_NT & places.in_row_N[:, None]
  prompt = _prompt_tokens(
    places, sequences.prompt_NT, prompt_mask_NT, prompt_scored_N
  )
  response = _response_tokens(places, sequences.tokens_NRT, real_NRT, mask_NRT)
  tokens = _Tokens(*map(np.concatenate, zip(prompt, response, strict=True)))
  slot_NR, slots = _slots(places, responses, max_bundles)

  def spread(x_X, empty=0):
    out = np.full(math.prod(places.shape), empty, np.int32)
    out[tokens.place_X] = x_X
    return out.reshape(places.shape)

  def in_slots(x_NR):
    return _to_slots(np.asarray(x_NR, np.int32), slot_NR, slots)

  width = layout.tokens
  return Packed(
    rows=batch_lib.Rows(
      tokens_AEW=spread(tokens.token_X),
      bundle_AEW=spread(tokens.bundle_X),
      response_AEW=None if responses == 1 else spread(tokens.response_X),
      position_AEW=spread(tokens.position_X),
      source_AEW=spread(tokens.source_X, empty=-1),
      start_AEZ=in_slots(places.response_NR % width),
      length_AEZ=in_slots(length_NR),
      prompt_start_AEZ=in_slots(places.prompt_N[:, None] % width),
      prompt_length_AEZ=in_slots(prompt_length_N[:, None]),
      used=np.int32(places.used),
      length=length,
    ),
    column_X=response.place_X[mask_NRT[real_NRT]],
    mask_NRT=mask_NRT,
    prompt_column_X=prompt.place_X,
    prompt_mask_NT=prompt_mask_NT,
    slot_NR=slot_NR,
  )


@dataclasses.dataclass(frozen=True)
class _Places:
  """Where bundles lie. The place of a token is its index in a flat [A, E, W].

  Attributes:
    shape: (A, E, W).
    used: number of micro-batches that hold something.
    in_row_N: bool, bundles that are in a row; what is said of others means
      nothing.
    number_N: number of the bundle in its row, from 1, in order of columns.
    prompt_N: place of its prompt's first token.
    response_NR: place of each response's first token.
  """

  shape: tuple[int, int, int]
  used: int
  in_row_N: np.ndarray
  number_N: np.ndarray
  prompt_N: np.ndarray
  response_NR: np.ndarray


def _place(
  prompt_length_N,
  length_NR,
  *,
  wanted_N,
  scored_N,
  layout: Layout,
  max_rows: int,
  max_bundles: int,
) -> _Places:
  """Gives each bundle its row, and each row its micro-batch and device.

  Args:
    prompt_length_N: tokens of each prompt, at least one.
    length_NR: tokens of each response.
    wanted_N: bool, bundles to place.
    scored_N: number of tokens whose log-probs are wanted, by which rows are
      dealt.
    layout: sizes of the rows, without zeros.
    max_rows: number of rows to make room for.
    max_bundles: bundles of a row, at the most.
  """
  width, rows = layout.tokens, layout.rows * layout.shards
  size_N = np.where(wanted_N, prompt_length_N + length_NR.sum(axis=1), 0)
  row_N, start_N = first_fit(size_N, width, max_bundles)
  in_row_N = row_N >= 0
  count = int(row_N.max(initial=-1)) + 1
  scored_row = np.bincount(
    row_N[in_row_N], weights=scored_N[in_row_N], minlength=count
  )
  place_row = deal(scored_row, layout.rows, layout.shards)
  prompt_N = np.zeros(len(row_N), np.int64)
  prompt_N[in_row_N] = place_row[row_N[in_row_N]] * width + start_N[in_row_N]
  before_NR = np.cumsum(length_NR, axis=1) - length_NR
  return _Places(
    shape=(math.ceil(max_rows / rows), rows, width),
    used=math.ceil(count / rows),
    in_row_N=in_row_N,
    number_N=_numbers(row_N, start_N),
    prompt_N=prompt_N,
    response_NR=(prompt_N + prompt_length_N)[:, None] + before_NR,
  )


def _numbers(row_N, start_N) -> np.ndarray:
  """Number of each bundle in its row, from 1; 0 in no row."""
  order = np.lexsort((start_N, row_N))
  order = order[row_N[order] >= 0]
  first = np.searchsorted(row_N[order], row_N[order])
  number_N = np.zeros(len(row_N), np.int64)
  number_N[order] = np.arange(len(order)) - first + 1
  return number_N


class _Tokens(NamedTuple):
  """Tokens of prompts or of responses, in the order of their mask.

  Attributes:
    place_X: place of each, as in `_Places`.
    token_X: the token.
    bundle_X: number of its bundle in the row, from 1.
    response_X: number of its response in the bundle, from 1; 0 in a prompt.
    position_X: rotary position.
    source_X: column of the row whose hidden state predicts it; -1 where its
      log-prob is not wanted.
  """

  place_X: np.ndarray
  token_X: np.ndarray
  bundle_X: np.ndarray
  response_X: np.ndarray
  position_X: np.ndarray
  source_X: np.ndarray


def _prompt_tokens(places: _Places, prompt_NT, mask_NT, scored_N) -> _Tokens:
  """Places the tokens of prompts.

  Args:
    places: places of the bundles.
    prompt_NT: int32 tokens.
    mask_NT: bool, those to place.
    scored_N: bool, bundles whose prompt is scored.
  """
  bundle_X, number_X = _enumerate(mask_NT)
  place_X = places.prompt_N[bundle_X] + number_X
  # Nothing predicts the first token of a prompt.
  wanted_X = scored_N[bundle_X] & (number_X > 0)
  return _Tokens(
    place_X=place_X,
    token_X=np.asarray(prompt_NT)[mask_NT],
    bundle_X=places.number_N[bundle_X],
    response_X=np.zeros_like(bundle_X),
    position_X=number_X,
    source_X=np.where(wanted_X, (place_X - 1) % places.shape[2], -1),
  )


def _response_tokens(
  places: _Places, tokens_NRT, real_NRT, mask_NRT
) -> _Tokens:
  """Places the tokens of responses, which lie one behind the other.

  Args:
    places: places of the bundles.
    tokens_NRT: int32 tokens.
    real_NRT: bool, those to place.
    mask_NRT: bool, those that count.
  """
  bundles, responses, length = real_NRT.shape
  sequence_X, number_X = _enumerate(
    real_NRT.reshape(bundles * responses, length)
  )
  bundle_X, response_X = np.divmod(sequence_X, responses)
  place_X = places.response_NR[bundle_X, response_X] + number_X
  # Each response goes on from the prompt's end, which lies before the first
  # one: its last token predicts the first of each.
  first_N = places.response_NR[:, 0]
  source_X = np.where(number_X > 0, place_X, first_N[bundle_X]) - 1
  return _Tokens(
    place_X=place_X,
    token_X=np.asarray(tokens_NRT)[real_NRT],
    bundle_X=places.number_N[bundle_X],
    response_X=response_X + 1,
    position_X=(first_N - places.prompt_N)[bundle_X] + number_X,
    source_X=np.where(mask_NRT[real_NRT], source_X % places.shape[2], -1),
  )


def _enumerate(mask_XT) -> tuple[np.ndarray, np.ndarray]:
  """(row, number within the row's True entries) of each True entry."""
  count_X = mask_XT.sum(axis=1)
  row = np.repeat(np.arange(len(count_X)), count_X)
  before = np.cumsum(count_X) - count_X
  return row, np.arange(len(row)) - before[row]


def _slots(
  places: _Places, responses: int, max_bundles: int
) -> tuple[np.ndarray, tuple[int, int, int]]:
  """Gives each sequence its slot: those of a bundle side by side.

  Args:
    places: places of the bundles.
    responses: responses of a bundle.
    max_bundles: bundles of a row, at the most.

  Returns:
    (slot_NR, (A, E, Z)): places in a flat [A, E, Z]; A * E * Z for sequences
    in no row.
  """
  micros, rows, width = places.shape
  slots = max_bundles * responses
  first_N = places.prompt_N // width * slots + (places.number_N - 1) * responses
  slot_NR = np.where(
    places.in_row_N[:, None],
    first_N[:, None] + np.arange(responses),
    micros * rows * slots,
  )
  return slot_NR, (micros, rows, slots)


def _to_slots(x_NR, slot_NR, shape: tuple[int, int, int]) -> np.ndarray:
  """Puts numbers of sequences into their slots, 0 where no sequence is."""
  out = np.zeros(math.prod(shape) + 1, x_NR.dtype)
  out[slot_NR] = x_NR
  return out[:-1].reshape(shape)
