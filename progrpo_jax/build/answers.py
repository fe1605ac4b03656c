"""Answers of a policy to prompts that people write, sampled as in training."""

from collections.abc import Sequence
import math

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors
from progrpo_jax.build import functions, problems
from progrpo_jax.devices import sharding
from progrpo_jax.models import scoring
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


def log_probs(
  c, policy: policy_lib.Policy, pairs: Sequence[tuple[str, str]], mesh
) -> np.ndarray:
  """How probable answers are that were written down, [X] in nats, float64.

  The sum over the tokens of the answer and the stop token after it, as the
  policy sees them in training. An answer that can be written in several ways
  in tokens counts in the tokenizer's own way alone.

  Args:
    c: the config: `sampling` says which distribution the tokens have.
    policy: policy, with its tokenizer and chat template.
    pairs: X texts of prompts, each with the text of an answer.
    mesh: mesh of the policy.

  Raises:
    InputError: a prompt is empty or too long.
  """
  if not pairs:
    return np.zeros(0)
  tokenizer = policy.tokenizer
  prompts = encode(
    tokenizer, [prompt for prompt, _ in pairs], c.data.max_prompt_length
  )
  stop = tokenizer.stop_ids[0]
  answers = [[*tokenizer.encode(answer), stop] for _, answer in pairs]
  shape = len(pairs), 1, max(map(len, answers))
  tokens_NRT, mask_NRT = np.zeros(shape, np.int32), np.zeros(shape, bool)
  for n, ids in enumerate(answers):
    tokens_NRT[n, 0, : len(ids)], mask_NRT[n, 0, : len(ids)] = ids, True
  sequences = batch_lib.Sequences(
    prompt_NT=prompts.tokens_PT,
    prompt_mask_NT=prompts.mask_PT,
    tokens_NRT=tokens_NRT,
    mask_NRT=mask_NRT,
  )
  with jax.set_mesh(mesh):
    scores = scoring.score(
      policy.config,
      policy.params,
      sequences,
      functions.make_distribution(c),
      prompts=0,
    )
  return scores.logp_NRT.astype(np.float64).sum(axis=(1, 2))


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
