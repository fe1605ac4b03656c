"""Answers of a policy to prompts that people write, sampled as in training."""

from collections.abc import Sequence
import math

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors
from progrpo_jax.build import problems
from progrpo_jax.devices import sharding
from progrpo_jax.rollout import sampler, verify
from progrpo_jax.storage import policy as policy_lib


def one_device():
  """Returns a mesh of one device, enough for the prompts of a person."""
  return sharding.make_mesh(devices=jax.devices()[:1])


def sample(
  c,
  policy: policy_lib.Policy,
  prompts: Sequence[str],
  mesh,
  *,
  n: int = 1,
  temperature: float | None = None,
  first: int = 0,
) -> list[list[str]]:
  """Answers each prompt n times.

  Args:
    c: the config: `sampling` says how to sample, `seed` fixes the samples.
    policy: policy that answers, with its tokenizer and chat template.
    prompts: texts of the user; all of them are one batch.
    mesh: mesh of the policy.
    n: answers to each prompt.
    temperature: 0 is greedy; None takes the config's.
    first: number of the first prompt; with the seed, it fixes the samples.

  Returns:
    n texts for each prompt.

  Raises:
    InputError: a prompt is empty or too long, or a number is out of range.
  """
  if n < 1:
    raise errors.InputError(f"n = {n}: at least 1 answer is needed")
  if temperature is None:
    temperature = c.sampling.temperature
  if not 0 <= temperature < math.inf:
    raise errors.InputError(f"temperature = {temperature} must be 0 or more")
  if not prompts:
    return []
  rollout = sampler.sample(
    sampler.Engine(policy.config, policy.params, mesh),
    encode(policy.tokenizer, prompts, c.data.max_prompt_length, first),
    jax.random.key(c.seed),
    problems.make_settings(
      c, policy.tokenizer, num_generations=n, temperature=temperature
    ),
  )
  return [list(group) for group in verify.texts(policy.tokenizer, rollout, n)]


def encode(
  tokenizer, prompts: Sequence[str], width: int, first: int = 0
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
        f"config.data.max_prompt_length is {width}"
      )
    if not any(user):
      raise errors.InputError(f"{text[:40]!r}: the prompt has no tokens")
    start = width - len(ids)
    tokens_PT[p, start:], mask_PT[p, start:] = ids, True
    user_mask_PT[p, start:] = user
  return batch_lib.Prompts(
    tokens_PT=tokens_PT,
    mask_PT=mask_PT,
    user_mask_PT=user_mask_PT,
    ids_P=np.arange(first, first + len(prompts)),
    rows=(None,) * len(prompts),
  )
