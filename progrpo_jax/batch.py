"""The records that travel through a step, and the legend of their axes.

Letters, used as suffixes of names and in docstrings everywhere:

  P  prompts of a batch            G  samples (generations) of one prompt
  B  sequences, B = P * G, prompt-major: row p * G + g
  T  tokens of a prompt or of a response (never both in one array)
  N  rows of a training batch: a prompt with R of its responses, R divides G
  J  reward functions of the user that judge one row
  V  vocabulary    L  layers    D  width    F  MLP width
  N (in weights)  query heads   K  key and value heads   H  head width

Prompts are padded on the left, responses on the right, so that every prompt
ends and every response begins at one column. Masks say what is real; no code
compares a token with the padding id.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np


def concatenate(arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Joins arrays along their first axis.

  Values of reward functions, [P, G, J], are as many as the row has that is
  judged by most; the others have NaN in the rest.
  """
  if arrays[0].ndim != 3:
    return np.concatenate(arrays)
  most = max(x.shape[2] for x in arrays)
  return np.concatenate([
      np.pad(x, ((0, 0), (0, 0), (0, most - x.shape[2])),
             constant_values=np.nan)
      for x in arrays])


@dataclasses.dataclass(frozen=True)
class Prompts:
  """Encoded prompts, on the host.

  Attributes:
    tokens_PT: int32, padded on the left.
    mask_PT: bool, real tokens.
    user_mask_PT: bool, tokens of the user's own text; the prompt confidence
      of ARM is taken over these.
    ids_P: int64, the number of the draw; no two draws of a run share one.
    rows: the task row behind each prompt.
  """

  tokens_PT: np.ndarray
  mask_PT: np.ndarray
  user_mask_PT: np.ndarray
  ids_P: np.ndarray
  rows: tuple[Any, ...]

  def __len__(self) -> int:
    return len(self.rows)


@struct.dataclass
class Rollout:
  """Sampled responses.

  Attributes:
    tokens_BT: int32, padded on the right.
    mask_BT: bool, real response tokens, the stop token among them.
    logp_BT: float32, log-prob under the distribution that was sampled from
      (temperature and truncation applied); 0 where the mask is False.
    finished_B: bool, False where the response was cut at the length limit.
  """

  tokens_BT: jax.Array
  mask_BT: jax.Array
  logp_BT: jax.Array
  finished_B: jax.Array


@struct.dataclass
class Sequences:
  """Rows of prompts and their responses: what scoring and update read.

  Attributes:
    prompt_NT: int32 prompt tokens, padded on the left.
    prompt_mask_NT: bool.
    tokens_NRT: int32 response tokens, padded on the right.
    mask_NRT: bool.
  """

  prompt_NT: jax.Array
  prompt_mask_NT: jax.Array
  tokens_NRT: jax.Array
  mask_NRT: jax.Array


@struct.dataclass
class Scores:
  """What one policy says of sequences, all float32.

  Attributes:
    logp_NRT: log-probs of the response tokens, 0 where masked.
    entropy_NRT: exact entropy over the vocabulary in nats, 0 where masked.
    prompt_logp_NT: log-probs of the prompt tokens given those before them; 0
      at the first real token, which nothing predicts, and at padding.
    prompt_entropy_NT: entropy of the distributions that those were drawn
      from, likewise.
  """

  logp_NRT: jax.Array
  entropy_NRT: jax.Array
  prompt_logp_NT: jax.Array
  prompt_entropy_NT: jax.Array


@struct.dataclass
class TrainBatch:
  """Rows with everything that an update needs besides the policy.

  Attributes:
    sequences: the tokens; `mask_NRT` is False throughout responses that must
      not be learned from.
    old_logp_NRT: float32, log-probs under the policy that is the denominator
      of the ratio.
    ref_logp_NRT: float32 under the reference, or None when it has no part.
    adv_NR: float32 advantages.
    fresh_NR: bool, True where the sampling policy is the policy at the start
      of the step; False for responses carried over from an earlier one.
    base_advantage_NR: float32, the base method's advantages before ARM, which
      FlowRL matches; or None.
    weight_NRT: float32 weights that correct the sampler against the trainer,
      or None.
    id_N: uint32, the number of the prompt's draw, by which dropout draws; or
      None, where there is no partition head.
  """

  sequences: Sequences
  old_logp_NRT: jax.Array
  ref_logp_NRT: jax.Array | None
  adv_NR: jax.Array
  fresh_NR: jax.Array
  base_advantage_NR: jax.Array | None = None
  weight_NRT: jax.Array | None = None
  id_N: jax.Array | None = None


@struct.dataclass
class LossInputs:
  """What every loss reads; each array is float32 but the mask (bool).

  The B sequences are a micro-batch, whose size must not change a loss. One
  that draws (it takes a `key`) or compares tokens of different responses (its
  attribute `whole` is True) gets the whole minibatch.

  Attributes:
    logp_BT: log-probs under the policy that is trained.
    old_logp_BT: log-probs under the policy of the ratio's denominator.
    ref_logp_BT: log-probs under the reference, or None.
    mask_BT: tokens that count.
    adv_B: advantages, one per sequence; or
    adv_BT: advantages, one per token. `token_adv_BT` reads either.
    entropy_BT: entropy over the vocabulary in nats, or None.
    log_z_B: log of the partition function (FlowRL), or None.
    reward_B: reward normalised in its group (FlowRL), or None.
    weight_BT: correction of the sampler against the trainer, which multiplies
      the policy term, or None.
    key: a PRNG key, for losses that draw.
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

  @property
  def token_adv_BT(self) -> jax.Array:
    """Advantages, one per token.

    Raises:
      ValueError: neither or both of `adv_B` and `adv_BT` are given.
    """
    if (self.adv_B is None) == (self.adv_BT is None):
      raise ValueError("LossInputs takes either adv_B or adv_BT")
    if self.adv_BT is not None:
      return self.adv_BT
    return jnp.broadcast_to(self.adv_B[:, None], self.mask_BT.shape)
