"""Answers of a policy to prompts that people write.

The same sampler as in training; prompts of any number are one batch.
"""

from collections.abc import Sequence
import math

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors
from progrpo_jax.devices import sharding
from progrpo_jax.rollout import data as data_lib
from progrpo_jax.rollout import sampler
from progrpo_jax.storage import policy as policy_lib


def one_device():
  """The mesh that serves people: a policy beside them needs no more."""
  return sharding.make_mesh(devices=jax.devices()[:1])


def sample(
    c, policy: policy_lib.Policy, prompts: Sequence[str], mesh, *,
    n: int = 1, temperature: float | None = None, first: int = 0,
) -> list[list[str]]:
  """Answers each prompt n times.

  Args:
    c: config; `c.sampling` says how to sample, `c.seed` fixes the samples.
    policy: answers, with its own tokenizer and chat template.
    prompts: texts of the user.
    mesh: of the policy.
    n: answers to each.
    temperature: 0 is greedy; None takes the config's.
    first: number of the first prompt; with the seed, it fixes the samples.

  Returns:
    n texts for each prompt.

  Raises:
    InputError: a prompt is empty or too long, or a number is out of range.
  """
  if n < 1:
    raise errors.InputError(f"n = {n}: at least 1 answer is needed")
  s = c.sampling
  temperature = s.temperature if temperature is None else temperature
  if not 0 <= temperature < math.inf:
    raise errors.InputError(f"temperature = {temperature} must be 0 or more")
  if not prompts:
    return []
  rollout = sampler.sample(
      policy.config, policy.params,
      encode(policy.tokenizer, prompts, c.data.max_prompt_length, first),
      jax.random.key(c.seed),
      sampler.Settings(
          num_generations=n, max_new_tokens=s.max_new_tokens,
          temperature=temperature, top_p=s.top_p, top_k=s.top_k,
          stop_ids=policy.tokenizer.stop_ids, chunk=s.chunk,
          batch_prompts=s.batch_prompts), mesh)
  return [list(g) for g in data_lib.texts(policy.tokenizer, rollout, n)]


def encode(
    tokenizer, prompts: Sequence[str], width: int, first: int = 0,
) -> batch_lib.Prompts:
  """Texts as prompts without a task, padded on the left to one width.

  Raises:
    InputError: one is empty or longer than `width` tokens.
  """
  tokens_PT = np.zeros((len(prompts), width), np.int32)
  mask_PT = np.zeros(tokens_PT.shape, bool)
  user_mask_PT = np.zeros(tokens_PT.shape, bool)
  for p, text in enumerate(prompts):
    ids, user = tokenizer.encode_prompt(text)
    if len(ids) > width:
      raise errors.InputError(
          f"{text[:40]!r}: the prompt has {len(ids)} tokens, "
          f"config.data.max_prompt_length is {width}")
    if not any(user):
      raise errors.InputError(f"{text[:40]!r}: the prompt has no tokens")
    start = width - len(ids)
    tokens_PT[p, start:], mask_PT[p, start:] = ids, True
    user_mask_PT[p, start:] = user
  return batch_lib.Prompts(
      tokens_PT=tokens_PT, mask_PT=mask_PT, user_mask_PT=user_mask_PT,
      ids_P=np.arange(first, first + len(prompts)),
      rows=(None,) * len(prompts))
