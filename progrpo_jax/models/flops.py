"""Floating-point operations (FLOP) that a policy's work needs.

Counted are the matrix products of the layers and of the output head, and
attention over the pairs that a causal mask leaves: of real tokens, each read
once. Padding, prompts that are read several times, and layers that the backward
pass computes again are work, but of no use; norms, rotations and softmax are
left out, as is usual for the utilisation (MFU) of PaLM (appendix B of
https://arxiv.org/abs/2204.02311).
"""

import numpy as np

from progrpo_jax.models import config as model_config


def per_token(config: model_config.ModelConfig) -> int:
  """FLOP of all layers' products for one token, without attention's pairs."""
  d, h = config.embed_dim, config.head_dim
  attention = d * h * 2 * (config.num_heads + config.num_kv_heads)
  return 2 * config.num_layers * (attention + 3 * d * config.mlp_dim)


def per_pair(config: model_config.ModelConfig) -> int:
  """FLOP of attention in all layers for one pair of a query and a key."""
  return 4 * config.num_layers * config.num_heads * config.head_dim


def per_logits(config: model_config.ModelConfig) -> int:
  """FLOP of the output head at one position."""
  return 2 * config.embed_dim * config.vocab_size


def forward(
  config: model_config.ModelConfig,
  prompt_P,
  response_PG,
  *,
  prompt_logits: bool = False,
) -> float:
  """FLOP of reading prompts, and their responses after them.

  A prompt counts once for all its responses, and the last token of a response
  not at all, as nothing follows it. This is also what sampling them needs.

  Args:
    config: configuration of the policy.
    prompt_P: tokens of each prompt.
    response_PG: tokens of each response.
    prompt_logits: whether the logits of all positions of a prompt are needed,
      not those of the last one alone.
  """
  prompt_P1 = np.asarray(prompt_P, np.float64)[:, None]
  read_PG = np.maximum(np.asarray(response_PG, np.float64) - 1, 0)
  tokens = prompt_P1.sum() + read_PG.sum()
  pairs = (prompt_P1 * (prompt_P1 + 1) / 2).sum() + (
    read_PG * (prompt_P1 + (read_PG + 1) / 2)
  ).sum()
  positions = prompt_P1.sum() if prompt_logits else len(prompt_P1)
  return float(
    per_token(config) * tokens
    + per_pair(config) * pairs
    + per_logits(config) * (positions + read_PG.sum())
  )


def update(config: model_config.ModelConfig, prompt_P, response_PG) -> float:
  """FLOP of a gradient: forward, and backward as two or, with LoRA, one more.

  With LoRA the weights have no gradients, only what flows through them.

  Args:
    config: configuration of the policy.
    prompt_P: tokens of each prompt.
    response_PG: tokens of each response.
  """
  return (2 if config.lora else 3) * forward(config, prompt_P, response_PG)
