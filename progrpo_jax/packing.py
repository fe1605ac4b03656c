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

import numpy as np

from progrpo_jax import batch as batch_lib

# A row holds this many sequences or more, if they are short enough. It bounds
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


def first_fit(size_N, width: int, most: int) -> tuple[np.ndarray, np.ndarray]:
  """Packs items into rows: first fit, by falling size.

  Args:
    size_N: tokens of each item; items of 0 are left out.
    width: tokens of a row.
    most: number of items of a row, at the most.

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
    if held[row] == most:
      # Behind its last item a full row has no room, whatever is free there.
      free[row] = -1
  return row_N, start_N


def most_rows(bundles: int, longest: int, width: int, most: int) -> int:
  """Number of rows that `first_fit` never exceeds.

  Of any two rows that are not closed by `most`, the later one's items did not
  fit the earlier: together they hold more than a row.

  Args:
    bundles: number of items.
    longest: size of the largest one that can be.
    width: tokens of a row.
    most: number of items of a row, at the most.
  """
  by_size = 2 * bundles * longest // width + 1
  return max(1, min(bundles, by_size + bundles // most))


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
    shape = self.rows.start_AEZ.shape
    out = np.zeros(math.prod(shape) + 1, x_NR.dtype)
    out[self.slot_NR] = x_NR
    return out[:-1].reshape(shape)

  @functools.cached_property
  def useful(self) -> float:
    """Real tokens as a share of the tokens of the rows that are read."""
    _, rows, width = self.rows.tokens_AEW.shape
    read = max(1, int(self.rows.used)) * rows * width
    return float(np.sum(self.rows.bundle_AEW > 0) / read)


def pack(
  sequences: batch_lib.Sequences,
  layout: Layout,
  prompts: int = 0,
  alone: bool = False,
  most: int = 0,
) -> Packed:
  """Packs bundles into rows.

  Args:
    sequences: N bundles of R responses, host arrays.
    layout: sizes of the rows.
    prompts: stride of the bundles whose prompt tokens are scored too; 0 scores
      none.
    alone: pack prompts whose responses are all empty, too.
    most: bundles of a row, at the most; 0 takes four, or as many as have 32
      responses.

  Raises:
    ValueError: a bundle does not fit a row, or a prompt is empty.
  """
  prompt_mask_NT = np.asarray(sequences.prompt_mask_NT, bool)
  mask_NRT = np.asarray(sequences.mask_NRT, bool)
  bundles, responses, length = mask_NRT.shape
  longest = prompt_mask_NT.shape[1] + responses * length
  layout = layout.resolved(bundles, longest)
  width, rows = layout.tokens, layout.rows * layout.shards
  # A row holds a response up to its last token that counts: what its task
  # replied in between is context.
  length_NR = batch_lib.extents(mask_NRT)
  real_NRT = np.arange(length) < length_NR[..., None]
  prompt_N = prompt_mask_NT.sum(axis=1)
  if not prompt_N.all():
    raise ValueError("a prompt has no token")
  placed_N = np.full(bundles, True) if alone else length_NR.any(axis=1)
  most = most or max(4, math.ceil(_SEQUENCES / responses))
  row_N, start_N = first_fit(
    np.where(placed_N, prompt_N + length_NR.sum(axis=1), 0), width, most
  )
  # Rows to their places, by the number of tokens whose log-probs are wanted.
  count = int(row_N.max(initial=-1)) + 1
  scored_N = mask_NRT.sum(axis=(1, 2))
  if prompts:
    scored_N = scored_N + prompt_N * (np.arange(bundles) % prompts == 0)
  scored_row = np.bincount(
    row_N[placed_N], weights=scored_N[placed_N], minlength=count
  )
  place_row = deal(scored_row, layout.rows, layout.shards)
  micros = math.ceil(most_rows(bundles, longest, width, most) / rows)
  shape = micros, rows, width
  # The number of a bundle in its row counts from 1, in order of columns.
  order = np.lexsort((start_N, row_N))
  order = order[placed_N[order]]
  number_N = np.zeros(bundles, np.int64)
  first = np.searchsorted(row_N[order], row_N[order])
  number_N[order] = np.arange(len(order)) - first + 1
  base_N = np.zeros(bundles, np.int64)
  base_N[placed_N] = place_row[row_N[placed_N]] * width + start_N[placed_N]
  # Place of the first token of each response, [N, R].
  begin_NR = (
    base_N[:, None]
    + prompt_N[:, None]
    + np.cumsum(length_NR, axis=1)
    - length_NR
  )
  prompt_mask_NT = prompt_mask_NT & placed_N[:, None]
  prompt_of_X, at_X = _tokens(prompt_mask_NT)
  prompt_column_X = base_N[prompt_of_X] + at_X
  sequence_of_X, t_X = _tokens(real_NRT.reshape(bundles * responses, length))
  bundle_of_X, response_of_X = np.divmod(sequence_of_X, responses)
  column_X = begin_NR.reshape(-1)[sequence_of_X] + t_X
  counts_X = mask_NRT[real_NRT]

  def spread(prompt_X, response_X, empty=0):
    out = np.full(math.prod(shape), empty, np.int32)
    out[prompt_column_X] = prompt_X
    out[column_X] = response_X
    return out.reshape(shape)

  # The last token of the prompt predicts the first of each response.
  source_X = np.where(
    t_X > 0, column_X - 1, (base_N + prompt_N - 1)[bundle_of_X]
  )
  wanted_X = np.zeros(len(at_X), bool)
  if prompts:
    wanted_X = (at_X > 0) & (prompt_of_X % prompts == 0)
  slots = most * responses
  slot_NR = (base_N // width * slots + (number_N - 1) * responses)[
    :, None
  ] + np.arange(responses)
  nowhere = micros * rows * slots
  slot_NR = np.where(placed_N[:, None], slot_NR, nowhere)

  def in_slots(x_NR):
    out = np.zeros(nowhere + 1, np.int32)
    out[slot_NR] = np.broadcast_to(x_NR, slot_NR.shape)
    return out[:-1].reshape(micros, rows, slots)

  return Packed(
    rows=batch_lib.Rows(
      tokens_AEW=spread(
        np.asarray(sequences.prompt_NT)[prompt_mask_NT],
        np.asarray(sequences.tokens_NRT)[real_NRT],
      ),
      bundle_AEW=spread(number_N[prompt_of_X], number_N[bundle_of_X]),
      response_AEW=(None if responses == 1 else spread(0, response_of_X + 1)),
      position_AEW=spread(at_X, prompt_N[bundle_of_X] + t_X),
      source_AEW=spread(
        np.where(wanted_X, prompt_column_X % width - 1, -1),
        np.where(counts_X, source_X % width, -1),
        empty=-1,
      ),
      start_AEZ=in_slots(begin_NR % width),
      length_AEZ=in_slots(length_NR),
      prompt_start_AEZ=in_slots(base_N[:, None] % width),
      prompt_length_AEZ=in_slots(prompt_N[:, None]),
      used=np.int32(math.ceil(count / rows)),
      length=length,
    ),
    column_X=column_X[counts_X],
    mask_NRT=mask_NRT,
    prompt_column_X=prompt_column_X,
    prompt_mask_NT=prompt_mask_NT,
    slot_NR=slot_NR,
  )


def _tokens(mask_XT) -> tuple[np.ndarray, np.ndarray]:
  """(row, number within the row's True entries) of each True entry."""
  count_X = mask_XT.sum(axis=1)
  row = np.repeat(np.arange(len(count_X)), count_X)
  before = np.cumsum(count_X) - count_X
  return row, np.arange(len(row)) - before[row]
