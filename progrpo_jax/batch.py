"""Records passed between the parts of a step, and the legend of array axes.

Names of arrays end in the letters of their axes, and docstrings write shapes
with the same letters. Each letter has one meaning:

  Batch
    P  prompts of a batch
    G  samples (generations) of one prompt
    B  sequences; B = P * G, prompt-major: sequence p * G + g
    N  bundles of a training batch: one prompt with R of its responses
    R  responses of a bundle; R divides G
    T  tokens of a prompt or of a response (never both in one array)
    J  user reward functions that judge one row
  Packed rows
    A  micro-batches    E  rows of a micro-batch    W  tokens of a row
    Z  slots of a row: the largest number of sequences that it may hold
    U  parts of a micro-batch, one for each device that its rows are split over
  Model
    V  vocabulary    L  layers    D  model width    F  MLP width
    Q  query heads   K  key/value heads   M  query heads per KV head, Q / K
    H  width of one head
  Keys and values
    C  prompt tokens whose keys are shared by the R responses of a row
    S  response tokens whose keys a query may see (columns of the cache)
  Helpers
    X  any axis that a helper reduces or indexes

Prompts are padded on the left and responses on the right, so within a batch
all prompts end at one column and all responses begin at one column. Boolean
masks mark real tokens (True); no code compares a token with the padding id.

A response of several turns holds tokens that the policy did not write: what its
task replied. They are context for all that follows, and their mask is False as
that of padding is. Since the policy writes the last token of every response,
its real tokens are those up to the last True one (`extents`); a mask without
holes is a response of one turn.
"""

import dataclasses
import hashlib
import itertools
import json
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


def extents(mask_XT) -> np.ndarray:
  """Number of real tokens of each response, [X]: up to the last True one.

  Args:
    mask_XT: bool, tokens that the policy wrote; may have further axes in front.
  """
  mask_XT = np.asarray(mask_XT, bool)
  last = mask_XT.shape[-1] - np.argmax(mask_XT[..., ::-1], axis=-1)
  return np.where(mask_XT.any(axis=-1), last, 0)


def runs(mask_T) -> list[tuple[int, int, bool]]:
  """The turns and replies of a response: (start, end, written by the policy).

  Args:
    mask_T: bool, tokens that the policy wrote.
  """
  mask_T = np.asarray(mask_T, bool)[: int(extents(mask_T))]
  edges = [0, *(np.flatnonzero(np.diff(mask_T)) + 1).tolist(), len(mask_T)]
  return [
    (start, end, bool(mask_T[start]))
    for start, end in itertools.pairwise(edges)
    if end > start
  ]


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Encoded prompts, on the host.

  Attributes:
    tokens_PT: int32, padded on the left.
    mask_PT: bool, real tokens.
    user_mask_PT: bool, tokens of the user's text, without the chat template;
      ARM's prompt confidence is taken over these.
    ids_P: int64, number of each prompt's draw, unique within a run; negative
      for a prompt that only fills up a batch and is not sampled.
    rows: task row of each prompt.
    first_P: int64, number in its group of each prompt's first sample, for
      prompts that go on with one sample of a group; None for 0.
  """

  tokens_PT: np.ndarray
  mask_PT: np.ndarray
  user_mask_PT: np.ndarray
  ids_P: np.ndarray
  rows: tuple[Any, ...]
  first_P: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.rows)

  def digest(self) -> str:
    """Returns a digest of what is sampled from, and of what verifies it."""
    found = hashlib.sha256()
    for x in (self.tokens_PT, self.mask_PT, self.user_mask_PT, self.ids_P):
      found.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())
    for row in self.rows:
      found.update(content_of(row))
    return found.hexdigest()[:16]


def content_of(row: Any) -> bytes:
  """Returns what the policy reads in a task's row, and what verifies it.

  Of a part that is no JSON its type alone counts: as text it may differ from
  process to process.

  Args:
    row: a `tasks.base.Row`.
  """
  parts = (
    row.task,
    row.prompt,
    row.context,
    row.reference,
    row.meta,
    row.verifier,
  )
  text = json.dumps(
    parts, skipkeys=True, default=lambda part: type(part).__name__
  )
  return text.encode()


@struct.dataclass
class Rollout:
  """Sampled responses.

  Attributes:
    tokens_BT: int32, padded on the right.
    mask_BT: bool, tokens that the policy wrote, including stop tokens; False
      at padding and at what a task replied, see `extents`.
    logp_BT: float32, log-probs under the sampling distribution (after
      temperature and truncation); 0 where the mask is False.
    finished_B: bool, False where the response was cut at the length limit.
  """

  tokens_BT: jax.Array
  mask_BT: jax.Array
  logp_BT: jax.Array
  finished_B: jax.Array


@struct.dataclass
class Sequences:
  """Bundles of a prompt and its responses, before they are packed into rows.

  Attributes:
    prompt_NT: int32 prompt tokens, padded on the left.
    prompt_mask_NT: bool, real prompt tokens.
    tokens_NRT: int32 response tokens, padded on the right.
    mask_NRT: bool, response tokens that count; the others up to the last of
      them are read and not scored.
  """

  prompt_NT: jax.Array
  prompt_mask_NT: jax.Array
  tokens_NRT: jax.Array
  mask_NRT: jax.Array


@struct.dataclass
class Rows:
  """Packed rows, what scoring and update read; see `packing`.

  Every array but `used` may also be that of one micro-batch, without its first
  axis.

  Attributes:
    tokens_AEW: int32 tokens, bundle behind bundle, padded on the right.
    bundle_AEW: int32, number of the token's bundle in its row, from 1; 0 at
      padding.
    response_AEW: int32, number of the token's response in its bundle, from 1;
      0 for the prompt. None where bundles have one response.
    position_AEW: int32, rotary position: the prompt's tokens count from 0, each
      response goes on from the prompt's end.
    source_AEW: int32, column of the row whose hidden state predicts the token;
      -1 where its log-prob is not wanted.
    start_AEZ: int32, column of the sequence's first response token.
    length_AEZ: int32, number of its response tokens, those included that the
      policy did not write; 0 in an empty slot.
    prompt_start_AEZ: int32, column of its prompt's first token.
    prompt_length_AEZ: int32, number of its prompt's tokens.
    used: int32, number of micro-batches that hold something.
    length: response tokens that a sequence may have, T.
  """

  tokens_AEW: jax.Array
  bundle_AEW: jax.Array
  response_AEW: jax.Array | None
  position_AEW: jax.Array
  source_AEW: jax.Array
  start_AEZ: jax.Array
  length_AEZ: jax.Array
  prompt_start_AEZ: jax.Array
  prompt_length_AEZ: jax.Array
  used: jax.Array
  length: int = struct.field(pytree_node=False)


@struct.dataclass
class Scores:
  """Log-probs and entropies of sequences under one policy, all float32.

  Attributes:
    logp_NRT: log-probs of the response tokens, 0 where masked.
    entropy_NRT: exact entropy over the vocabulary in nats, 0 where masked.
    prompt_logp_NT: log-probs of the prompt tokens given the tokens before
      them; 0 at padding and at the first real token, which has no context.
    prompt_entropy_NT: entropy in nats of the distribution at each prompt
      token; 0 at the same places.

  All but the first are None where they are the sampler's log-probs.
  """

  logp_NRT: jax.Array
  entropy_NRT: jax.Array | None = None
  prompt_logp_NT: jax.Array | None = None
  prompt_entropy_NT: jax.Array | None = None


@struct.dataclass
class TrainBatch:
  """Rows with every input of an update except the policy.

  Attributes:
    sequences: prompt and response tokens; `mask_NRT` is all False in
      responses excluded from learning.
    old_logp_NRT: float32, log-probs under the old policy (the denominator of
      the importance ratio). Where the batch was not scored they are the
      sampler's, and the update takes its own for fresh responses.
    ref_logp_NRT: float32, log-probs under the reference policy, or None when
      the loss does not use it.
    adv_NR: float32, advantages of responses.
    fresh_NR: bool, True where the response was sampled by the policy at the
      start of this step, False where it was carried over from an earlier one.
    base_advantage_NR: float32, advantages of the base method before ARM, which
      FlowRL takes for rewards, or None.
    weight_NRT: float32, importance weights that correct the sampler's
      log-probs to the trainer's, or None.
    id_N: uint32, number of the prompt's draw, which seeds the dropout of the
      partition head, or None.
    adv_NRT: float32, advantages of tokens, which take the place of `adv_NR`, or
      None where all tokens of a response have the same.
  """

  sequences: Sequences
  old_logp_NRT: jax.Array
  ref_logp_NRT: jax.Array | None
  adv_NR: jax.Array
  fresh_NR: jax.Array
  base_advantage_NR: jax.Array | None = None
  weight_NRT: jax.Array | None = None
  id_N: jax.Array | None = None
  adv_NRT: jax.Array | None = None


@struct.dataclass
class PackedBatch:
  """A `TrainBatch` in packed rows, for the devices.

  Its arrays are those of `TrainBatch` by token of a row [A, E, W], 0 where no
  response token is, or by slot [A, E, Z].

  Attributes:
    rows: the rows.
    old_logp_AEW: see `TrainBatch`, as are the next eight.
    ref_logp_AEW: or None.
    adv_AEZ: advantages.
    fresh_AEZ: bool.
    base_advantage_AEZ: or None.
    weight_AEW: or None.
    id_AEZ: or None.
    adv_AEW: or None.
    slot_B: int32, place of each sequence in a flat [A, E, Z]; A * E * Z for
      those without a token.
  """

  rows: Rows
  old_logp_AEW: jax.Array
  ref_logp_AEW: jax.Array | None
  adv_AEZ: jax.Array
  fresh_AEZ: jax.Array
  base_advantage_AEZ: jax.Array | None
  weight_AEW: jax.Array | None
  id_AEZ: jax.Array | None
  adv_AEW: jax.Array | None
  slot_B: jax.Array


@struct.dataclass
class LossInputs:
  """Inputs of every loss; all arrays are float32 except the bool mask.

  The B sequences are one micro-batch, and the result of a loss must not depend
  on how a minibatch is cut into micro-batches. A loss that draws random numbers
  (it takes a `key`) or compares tokens of different responses (its attribute
  `whole` is True) therefore gets the whole minibatch at once.

  Attributes:
    logp_BT: log-probs under the policy being trained.
    old_logp_BT: log-probs under the old policy (denominator of the ratio).
    mask_BT: bool, tokens that the loss counts.
    adv_B: advantages per sequence, or None where `adv_BT` is given.
    adv_BT: advantages per token, or None where `adv_B` is given;
      `token_adv_BT` reads either.
    ref_logp_BT: log-probs under the reference policy, or None.
    entropy_BT: entropy over the vocabulary in nats, or None.
    log_z_B: log of the partition function (FlowRL), or None.
    reward_B: advantage of the base method before ARM, which FlowRL takes for
      the reward normalised within its group, or None.
    weight_BT: sampler-to-trainer importance weights, which multiply the policy
      term, or None.
    key: PRNG key for losses that draw random numbers, or None.
    sequences: float32, number of sequences that these stand for, where it is
      not B: a micro-batch has empty slots, and leaves out sequences without a
      token.
  """

  logp_BT: jax.Array
  old_logp_BT: jax.Array
  mask_BT: jax.Array
  adv_B: jax.Array | None = None
  adv_BT: jax.Array | None = None
  ref_logp_BT: jax.Array | None = None
  entropy_BT: jax.Array | None = None
  log_z_B: jax.Array | None = None
  reward_B: jax.Array | None = None
  weight_BT: jax.Array | None = None
  key: jax.Array | None = None
  sequences: jax.Array | None = None

  @property
  def token_adv_BT(self) -> jax.Array:
    """Advantages per token, [B, T].

    Raises:
      ValueError: neither or both of `adv_B` and `adv_BT` are given.
    """
    if (self.adv_B is None) == (self.adv_BT is None):
      raise ValueError("LossInputs takes either adv_B or adv_BT")
    if self.adv_BT is not None:
      return self.adv_BT
    return jnp.broadcast_to(self.adv_B[:, None], self.mask_BT.shape)
