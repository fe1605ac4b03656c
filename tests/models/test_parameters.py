"""The parameters that a model's modules declare."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from progrpo_jax.models import config as config_lib
from progrpo_jax.models import parameters

CONFIG = config_lib.ModelConfig.tiny(
  vocab_size=40, num_layers=2, embed_dim=32, head_dim=8, mlp_dim=48
)


@pytest.mark.parametrize(
  "changes",
  [{}, dict(tie_embeddings=False), dict(family="llama"), dict(family="qwen3")],
)
def test_number_of_parameters_is_as_announced(changes):
  config = dataclasses.replace(CONFIG, **changes)
  shapes = parameters.abstract_params(config)
  assert sum(x.size for x in jax.tree.leaves(shapes)) == config.num_params
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))
