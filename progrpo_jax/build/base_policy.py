"""Base policies: from a config to a supervised warm-up."""

from collections.abc import Callable
import os

import jax

from progrpo_jax import errors
from progrpo_jax.build import stages
from progrpo_jax.learn import warmup
from progrpo_jax.models import config as model_config
from progrpo_jax.models import hf, parameters
from progrpo_jax.storage import policy as policy_lib
from progrpo_jax.text import sentencepiece_tokenizer


def warm_up(
  c,
  output: str,
  tick: Callable[[int, str], None],
  say: Callable[[str], None] = lambda _: None,
) -> policy_lib.Policy:
  """Trains a base policy on demonstrations and writes it as an HF directory.

  Args:
    c: the resolved config; `warmup` sizes model and training, `data` and
      `sampling.max_new_tokens` the problems.
    output: directory to write.
    tick: called as tick(updates, note) while training goes on.
    say: told of demonstrations that are left out, before it begins.

  Returns:
    The policy.

  Raises:
    InputError: no demonstrations, or nothing to start from.
    Diverged: the training diverged; nothing is written.
  """
  w = c.warmup
  if not c.model.init_from:
    _small(c, vocab_size=1)  # before the time that demonstrations take
  mesh = stages.make_mesh(c)
  key = jax.random.key(c.seed)
  pairs = warmup.demonstrations(
    dict(c.data.tasks), os.path.expanduser(c.data.dir), w.examples
  )
  policy = _start(c, pairs, mesh, jax.random.fold_in(key, 0))
  rows = warmup.encode(
    pairs,
    policy.tokenizer,
    c.data.max_prompt_length,
    c.sampling.max_new_tokens,
    say,
  )
  params = warmup.fit(
    policy.config,
    policy.params,
    rows,
    mesh,
    jax.random.fold_in(key, 1),
    steps=w.steps,
    batch_size=w.batch_size,
    learning_rate=w.learning_rate,
    chunk=c.model.logits_chunk,
    tick=tick,
  )
  hf.save(output, policy.config, params, policy.tokenizer)
  return policy_lib.Policy(policy.config, params, policy.tokenizer)


def _start(c, pairs, mesh, key) -> policy_lib.Policy:
  """The policy that `model.init_from` names, or a small random one."""
  if c.model.init_from:
    return stages.load_policy(c, mesh)
  tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer.train(
    [row.prompt + d for row, d in pairs]
  )
  config = _small(c, tokenizer.vocab_size)
  return policy_lib.Policy(
    config, parameters.init(config, key, mesh), tokenizer
  )


def _small(c, vocab_size: int) -> model_config.ModelConfig:
  """The small policy that `c.warmup` sizes.

  Raises:
    InputError: there is no such policy.
  """
  w = c.warmup
  if w.embed_dim % w.num_heads:
    raise errors.InputError(
      f"config.warmup.num_heads = {w.num_heads}: must divide "
      f"warmup.embed_dim ({w.embed_dim})"
    )
  try:
    return model_config.ModelConfig.tiny(
      vocab_size=vocab_size,
      embed_dim=w.embed_dim,
      num_layers=w.num_layers,
      num_heads=w.num_heads,
      num_kv_heads=w.num_kv_heads,
      head_dim=w.embed_dim // w.num_heads,
      mlp_dim=w.mlp_dim,
      dtype=c.model.dtype,
      remat=c.model.remat,
    )
  except ValueError as e:
    raise errors.InputError(f"config.warmup: {e}") from e
