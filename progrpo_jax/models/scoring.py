"""Scoring: what a policy says of given sequences.

One function serves the policy, the reference and the update, so that their
log-probs differ by parameters alone. A prompt is read once for all responses
of its row: the prompt's own log-probs cost one pass over the prompt, and the
responses pay for their own tokens only.
"""

import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp

from progrpo_jax import batch as batch_lib
from progrpo_jax import ops
from progrpo_jax.models import transformer


@dataclasses.dataclass(frozen=True)
class Distribution:
  """The distribution that log-probs are taken under; as when sampling.

  Attributes:
    temperature: divides the logits.
    top_p: mass kept.
    top_k: tokens kept; 0 for all.
    chunk: tokens whose logits may exist at one time.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  chunk: int = 4096


def response_scores(
    config, params, sequences: batch_lib.Sequences, dist: Distribution,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Differentiable scores of the responses.

  Returns:
    (logp_NRT, entropy_NRT, hidden_NPD): float32, 0 where masked; and the
    hidden states of the prompts, for `prompt_scores`.
  """
  q = sequences
  rows, responses, length = q.tokens_NRT.shape
  prompt_hidden, prefix = transformer.prefill(
      config, params, q.prompt_NT, q.prompt_mask_NT)
  # The last prompt state predicts the first token; the last token predicts
  # nothing that was sampled and is not read at all.
  first = jnp.broadcast_to(
      prompt_hidden[:, None, -1:], (rows, responses, 1, config.embed_dim))
  if length > 1:
    hidden = transformer.extend(
        config, params, q.tokens_NRT[:, :, :-1], prefix)
    first = jnp.concatenate([first, hidden], axis=2)
  logp, entropy = ops.token_stats(
      first.reshape(rows * responses, length, -1), transformer.head(params),
      q.tokens_NRT.reshape(rows * responses, length),
      **dataclasses.asdict(dist))

  def shape(x):
    return jnp.where(q.mask_NRT, x.reshape(q.mask_NRT.shape), 0.0)

  return shape(logp), shape(entropy), prompt_hidden


def prompt_scores(
    params, hidden_NPD, sequences: batch_lib.Sequences, dist: Distribution,
) -> tuple[jax.Array, jax.Array]:
  """Log-probs of prompt tokens given those before them, and entropies."""
  q = sequences
  found = ops.token_stats(
      hidden_NPD[:, :-1], transformer.head(params), q.prompt_NT[:, 1:],
      **dataclasses.asdict(dist))
  predicted = q.prompt_mask_NT[:, 1:] & q.prompt_mask_NT[:, :-1]
  logp, entropy = (
      jnp.pad(jnp.where(predicted, x, 0.0), ((0, 0), (1, 0))) for x in found)
  return logp, entropy


def to_micro(tree, count: int):
  """[N, ...] -> [count, N / count, ...], each device keeping its rows.

  Micro-batch m takes rows m, m + count, ...: with N split over devices in
  blocks, every micro-batch is split alike and nothing moves.
  """
  return jax.tree.map(
      lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), tree)


def from_micro(tree):
  """The inverse of `to_micro`."""
  return jax.tree.map(
      lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)


@functools.partial(
    jax.jit, static_argnames=("config", "dist", "micro_batches", "prompts"))
def score(
    config, params, sequences: batch_lib.Sequences, dist: Distribution,
    micro_batches: int = 1, prompts: bool = True,
) -> batch_lib.Scores:
  """Scores of sequences under one policy.

  Args:
    config: of the model.
    params: of the policy or the reference.
    sequences: N rows.
    dist: distribution of the log-probs.
    micro_batches: parts that the rows are scored in, one after another;
      divides N.
    prompts: whether prompt log-probs are wanted; zeros otherwise.

  Returns:
    Scores, constant for any gradient.
  """

  def one(micro):
    logp, entropy, hidden = response_scores(config, params, micro, dist)
    prompt = (jnp.zeros(micro.prompt_NT.shape, jnp.float32),) * 2
    if prompts:
      prompt = prompt_scores(params, hidden, micro, dist)
    return batch_lib.Scores(
        logp_NRT=logp, entropy_NRT=entropy, prompt_logp_NT=prompt[0],
        prompt_entropy_NT=prompt[1])

  if micro_batches == 1:
    return one(sequences)
  return from_micro(lax.map(one, to_micro(sequences, micro_batches)))
