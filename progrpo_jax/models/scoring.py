"""Scoring: log-probs and entropies of given sequences under a policy.

The policy, the reference and the update use the same functions, so their
log-probs differ only by the parameters. A prompt is read once for all
responses of its row, and each response is read without its prompt.

Axis letters are those of the legend in `batch`.
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
  """The distribution under which log-probs are taken: that of the sampler.

  Attributes:
    temperature: divisor of the logits.
    top_p: probability mass kept; 1.0 keeps all.
    top_k: number of tokens kept; 0 keeps all.
    chunk: number of tokens whose logits exist at one time.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  chunk: int = 4096


def response_scores(
  config, params, sequences: batch_lib.Sequences, dist: Distribution
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Differentiable log-probs and entropies of the responses.

  Args:
    config: model configuration.
    params: parameters of the policy.
    sequences: N rows.
    dist: distribution of the log-probs.

  Returns:
    (logp_NRT, entropy_NRT, hidden_NTD): log-probs and entropies, float32 and
    0 where masked, and the hidden states of the prompts.
  """
  rows, responses, length = sequences.tokens_NRT.shape
  prompt_hidden, prefix = transformer.prefill(
    config, params, sequences.prompt_NT, sequences.prompt_mask_NT
  )
  # The last prompt state predicts the first response token. The last response
  # token predicts nothing that was sampled, so `extend` does not read it.
  hidden = jnp.broadcast_to(
    prompt_hidden[:, None, -1:], (rows, responses, 1, config.embed_dim)
  )
  if length > 1:
    later = transformer.extend(
      config, params, sequences.tokens_NRT[:, :, :-1], prefix
    )
    hidden = jnp.concatenate([hidden, later], axis=2)
  # [N, R, T, ...] -> [N * R, T, ...] and back.
  logp, entropy = ops.token_stats(
    hidden.reshape(rows * responses, length, -1),
    transformer.head(params),
    sequences.tokens_NRT.reshape(rows * responses, length),
    **dataclasses.asdict(dist),
  )

  def masked(x):
    mask_NRT = sequences.mask_NRT
    return jnp.where(mask_NRT, x.reshape(mask_NRT.shape), 0.0)

  return masked(logp), masked(entropy), prompt_hidden


def prompt_scores(
  params, hidden_NTD, sequences: batch_lib.Sequences, dist: Distribution
) -> tuple[jax.Array, jax.Array]:
  """Log-probs and entropies of the prompt tokens.

  Args:
    params: parameters of the policy.
    hidden_NTD: hidden states of the prompts, from `response_scores`.
    sequences: N rows.
    dist: distribution of the log-probs.

  Returns:
    (prompt_logp_NT, prompt_entropy_NT), float32; 0 at padding and at the first
    real token, which has no context.
  """
  stats = ops.token_stats(
    hidden_NTD[:, :-1],
    transformer.head(params),
    sequences.prompt_NT[:, 1:],
    **dataclasses.asdict(dist),
  )
  # Token t is predicted if it and token t - 1 are real; column 0 never is.
  mask_NT = sequences.prompt_mask_NT
  predicted = mask_NT[:, 1:] & mask_NT[:, :-1]
  logp, entropy = (
    jnp.pad(jnp.where(predicted, x, 0.0), ((0, 0), (1, 0))) for x in stats
  )
  return logp, entropy


def to_micro(tree, count: int):
  """Cuts rows into micro-batches, [N, ...] -> [count, N / count, ...].

  Micro-batch m takes rows m, m + count, ...: devices hold contiguous blocks of
  rows, so each device already has its share of every micro-batch.
  """
  return jax.tree.map(
    lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), tree
  )


def from_micro(tree):
  """Inverse of `to_micro`."""
  return jax.tree.map(
    lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree
  )


@functools.partial(
  jax.jit, static_argnames=("config", "dist", "micro_batches", "prompts")
)
def score(
  config,
  params,
  sequences: batch_lib.Sequences,
  dist: Distribution,
  micro_batches: int = 1,
  prompts: bool = True,
) -> batch_lib.Scores:
  """Scores sequences under one policy.

  Args:
    config: model configuration.
    params: parameters of the policy or the reference.
    sequences: N rows.
    dist: distribution of the log-probs.
    micro_batches: number of micro-batches, scored one after another; must
      divide N.
    prompts: whether to compute prompt scores; otherwise they are zeros.

  Returns:
    Scores of all N rows.
  """

  def score_micro(micro):
    logp, entropy, hidden = response_scores(config, params, micro, dist)
    prompt = (jnp.zeros(micro.prompt_NT.shape, jnp.float32),) * 2
    if prompts:
      prompt = prompt_scores(params, hidden, micro, dist)
    return batch_lib.Scores(
      logp_NRT=logp,
      entropy_NRT=entropy,
      prompt_logp_NT=prompt[0],
      prompt_entropy_NT=prompt[1],
    )

  if micro_batches == 1:
    return score_micro(sequences)
  return from_micro(lax.map(score_micro, to_micro(sequences, micro_batches)))
