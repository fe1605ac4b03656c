"""FLOP by hand, and beside XLA's count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from progrpo_jax.models import config as model_config
from progrpo_jax.models import flops, parameters, transformer

# Width 4, two query heads and one key head of 2, MLP 8, vocabulary 10.
ONE = model_config.ModelConfig(
  vocab_size=10,
  num_layers=1,
  embed_dim=4,
  num_heads=2,
  num_kv_heads=1,
  head_dim=2,
  mlp_dim=8,
)


def test_golden_numbers():
  # q and o 4 x 4 each, k and v 4 x 2 each, three products of 4 x 8: 144.
  assert flops.per_token(ONE) == 288
  # Two heads of 2, multiplied and added, for the scores and for the values.
  assert flops.per_pair(ONE) == 16
  assert flops.per_logits(ONE) == 80
  # A prompt of 3 with responses of 2 and 1, of which one token is read: four
  # tokens, 1 + 2 + 3 + 4 pairs, logits of two positions.
  assert flops.forward(ONE, [3], [[2, 1]]) == 4 * 288 + 10 * 16 + 2 * 80
  scored = flops.forward(ONE, [3], [[2, 1]], prompt_logits=True)
  assert scored == 4 * 288 + 10 * 16 + 4 * 80
  assert flops.update(ONE, [3], [[2, 1]]) == 3 * (4 * 288 + 10 * 16 + 2 * 80)
  adapted = dataclasses.replace(ONE, lora=model_config.LoRA(rank=2, alpha=2))
  assert flops.update(adapted, [3], [[2, 1]]) == 2 * flops.forward(
    ONE, [3], [[2, 1]]
  )
  # An empty response is not sampled further, nor is one of one token.
  assert flops.forward(ONE, [3], [[0, 1]]) == 3 * 288 + 6 * 16 + 80


def test_layers_and_groups_add_up():
  three = dataclasses.replace(ONE, num_layers=3)
  head = flops.per_logits(ONE)
  one = flops.forward(ONE, [5, 2], [[4, 7], [1, 3]])
  both = flops.forward(ONE, [5], [[4, 7]]) + flops.forward(ONE, [2], [[1, 3]])
  assert one == both
  positions = 2 + 3 + 6 + 2
  assert flops.forward(three, [5, 2], [[4, 7], [1, 3]]) == (
    3 * (one - positions * head) + positions * head
  )
  # A response after its prompt reads what one longer prompt would.
  assert flops.forward(ONE, [9], np.zeros((1, 0))) - head == (
    flops.forward(ONE, [4], [[6]]) - 6 * head
  )


def test_xla_counts_the_same_for_a_dense_forward_pass():
  config = model_config.ModelConfig(
    vocab_size=512,
    num_layers=1,  # XLA counts the body of a loop once
    embed_dim=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=512,
  )
  rows, length = 2, 64
  counted = (
    jax.jit(transformer.logits, static_argnums=0)
    .lower(
      config,
      parameters.abstract_params(config),
      jax.ShapeDtypeStruct((rows, length), jnp.int32),
      jax.ShapeDtypeStruct((rows, length), jnp.bool_),
    )
    .compile()
    .cost_analysis()["flops"]
  )
  expected = flops.forward(
    config, [length] * rows, np.zeros((rows, 0)), prompt_logits=True
  )
  # XLA multiplies the pairs that the mask takes out as well.
  masked = rows * (length**2 - length * (length + 1) / 2)
  expected += masked * flops.per_pair(config)
  # Norms, rotations and softmax come on top.
  assert 1 < counted / expected < 1.06
