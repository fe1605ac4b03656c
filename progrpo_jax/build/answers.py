"""Answers of a policy to prompts that people write, sampled as in training."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
import contextlib
import dataclasses
import math
import numbers
from typing import Any

import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax import errors
from progrpo_jax.build import functions, problems, stages
from progrpo_jax.devices import sharding
from progrpo_jax.models import scoring
from progrpo_jax.rewards import serving
from progrpo_jax.rollout import prompts as prompts_lib
from progrpo_jax.rollout import sampler, turns, verify
from progrpo_jax.storage import policy as policy_lib
from progrpo_jax.tasks import base

Message = dict[str, str]
# What a person, or a function of a user, replies to a conversation.
Reply = Callable[[list[Message]], str | None]


def mesh_for(c):
  """Returns a mesh of few devices, enough for the prompts of a person.

  That is one, or those that share the weights while the config draws responses
  (`sampling.tensor`, or `mesh.tensor` where that is 0). A machine that has
  fewer takes one.

  Args:
    c: the config.
  """
  devices, tensor = jax.devices(), c.sampling.tensor or c.mesh.tensor
  if tensor > len(devices):
    tensor = 1
  return sharding.make_mesh(1, 1, tensor, devices=devices[:tensor])


@dataclasses.dataclass(frozen=True)
class Responder:
  """A policy in memory that answers prompts.

  Attributes:
    config: the config: `sampling` says how to sample, `seed` fixes the samples.
    policy: policy that answers, with its tokenizer and chat template.
    mesh: mesh of the policy.
  """

  config: Any
  policy: policy_lib.Policy
  mesh: jax.sharding.Mesh

  @classmethod
  def load(cls, c, place: str | None = None) -> "Responder":
    """Loads a policy, in the type that it computes in, see `mesh_for`.

    Args:
      c: the config.
      place: directory of the policy; None for config.model.init_from.

    Raises:
      InputError: see `storage.policy.load`.
    """
    mesh = mesh_for(c)
    policy = stages.load_policy(c, mesh, place, stored=c.model.dtype)
    return cls(c, policy, mesh)

  def sample(
    self, prompts: Sequence[str | base.Row], **options
  ) -> list[list[str]]:
    """Returns the last turns of `converse`, which takes the same arguments."""
    return [
      [talk[-1]["content"] if talk else "" for talk in talks]
      for talks in self.converse(prompts, **options)
    ]

  def converse(
    self,
    prompts: Sequence[str | base.Row],
    *,
    n: int = 1,
    temperature: float | None = None,
    first: int = 0,
    reply: Reply | None = None,
  ) -> list[list[list[Message]]]:
    """Answers each prompt n times, in batches of `sampling.batch_prompts`.

    Where `config.sampling.max_turns` allows it, the policy is replied to after
    a turn that it ended by itself, and goes on.

    Args:
      prompts: texts of the user, or rows of tasks, whose tasks reply.
      n: answers to each prompt.
      temperature: 0 is greedy; None takes the config's.
      first: number of the first prompt; with the seed, it fixes the samples.
      reply: function of a conversation, from the prompt to a turn of the policy
        without its thought, that returns the text of the user's next message,
        or None if the conversation is over. It replies in the place of tasks.

    Returns:
      For each prompt n conversations after it: messages with a "role"
      ("assistant" or "user") and a "content". A reply has the text that the
      chat template writes around it.

    Raises:
      InputError: a prompt is empty or too long, a number is out of range, or
        `reply` failed, or has no turn to reply to.
    """
    c, policy = self.config, self.policy
    if not isinstance(n, numbers.Integral) or n < 1:
      raise errors.InputError(f"n = {n!r:.100}: at least 1 answer is needed")
    if temperature is None:
      temperature = c.sampling.temperature
    is_number = isinstance(temperature, numbers.Real)
    if not is_number or not 0 <= temperature < math.inf:
      raise errors.InputError(
        f"temperature = {temperature!r:.100} must be 0 or more"
      )
    if reply is not None and c.sampling.max_turns < 2:
      raise errors.InputError(
        f"config.sampling.max_turns = {c.sampling.max_turns}: a reply needs a "
        "second turn to be read in"
      )
    rows = [_row(prompt) for prompt in listed(prompts)]
    if not rows:
      return []
    with self._replies(rows, reply) as replies:
      rollout = turns.sample(
        sampler.Engine(policy.config, policy.params, self.mesh),
        encode(policy.tokenizer, rows, c.data.max_prompt_length, first),
        jax.random.key(c.seed),
        problems.make_settings(
          c,
          policy.tokenizer.stop_ids,
          num_generations=n,
          temperature=temperature,
          # A batch of training is filled up to its size; a few questions are
          # not. Where training draws all of a round at once, many questions
          # are asked as an evaluation asks them.
          batch_prompts=min(
            c.sampling.batch_prompts or c.eval.batch_prompts, len(rows)
          ),
        ),
        policy.tokenizer,
        replies,
      ).rollout
    talks = [
      verify.conversation(policy.tokenizer, tokens, mask)
      for tokens, mask in zip(rollout.tokens_BT, rollout.mask_BT)
    ]
    return [talks[i : i + n] for i in range(0, len(talks), n)]

  def log_probs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """How probable written answers are, [X] in nats, float64.

    The sum over the tokens of the answer and the stop token after it, as the
    policy sees them in training. An answer that can be written in several ways
    in tokens counts in the tokenizer's own way alone.

    Args:
      pairs: X texts of prompts, each with the text of an answer.

    Raises:
      InputError: a prompt is empty or too long.
    """
    if not pairs:
      return np.zeros(0)
    c, policy = self.config, self.policy
    tokenizer = policy.tokenizer
    prompts = encode(
      tokenizer, [_row(prompt) for prompt, _ in pairs], c.data.max_prompt_length
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
    with jax.set_mesh(self.mesh):
      scores = scoring.score(
        policy.config,
        policy.params,
        sequences,
        functions.make_distribution(c),
        prompt_stride=0,
      )
    return scores.logp_NRT.astype(np.float64).sum(axis=(1, 2))

  @contextlib.contextmanager
  def _replies(self, rows: Sequence[base.Row], reply: Reply | None):
    """Context with who replies; tasks do it in processes of their own."""
    c, thought = self.config, self.policy.tokenizer.opens_thought
    if reply is None and c.sampling.max_turns > 1:
      if any(map(base.replies, rows)):
        with problems.make_pool(c, thought) as pool:
          yield turns.TaskReplies(pool)
        return
    yield _Spoken(reply, problems.reader(c, thought))


class _Spoken:
  """Replies of a person, or of a function in this process."""

  def __init__(self, reply: Reply | None, answer: Callable[[str], str | None]):
    """Takes who replies, or None for nobody, and how a turn is read."""
    self._reply, self.answer = reply, answer

  def to(self, row: base.Row | None) -> bool:
    """Returns whether anybody replies."""
    return self._reply is not None

  def ask(self, talks: Sequence[turns.Talk]) -> list[serving.Outcome]:
    """Asks about one conversation after the other."""
    with errors.of_user("reply"):
      replies = [self._reply([*messages]) for _, messages in talks]
    return [serving.Outcome("ok", text, "") for text in replies]


def encode(
  tokenizer, rows: Sequence[base.Row], width: int, first: int = 0
) -> batch_lib.Prompts:
  """Rows as prompts, padded on the left to one width.

  Args:
    tokenizer: tokenizer of the policy.
    rows: problems, or texts of a person as rows of no task.
    width: tokens of the longest prompt that is allowed.
    first: number of the first prompt.

  Raises:
    InputError: one is empty or longer than `width` tokens.
  """
  encoded = [
    prompts_lib.encode_row(tokenizer, row, width, where=repr(row.prompt[:40]))
    for row in rows
  ]
  return prompts_lib.pad(rows, encoded, range(first, first + len(rows)), width)


def is_one(prompts: object) -> bool:
  """Returns whether what was asked is one prompt, and no list of them."""
  return isinstance(prompts, str | base.Row)


def listed(prompts: Any) -> list[Any]:
  """Returns one prompt or several as a list.

  Raises:
    InputError: they are neither. Of a dict or a table, for one, a loop would
      ask the names of its columns.
  """
  if is_one(prompts):
    return [prompts]
  if (
    not isinstance(prompts, Iterable)
    or isinstance(prompts, Mapping | Set | bytes | bytearray)
    or hasattr(prompts, "columns")
  ):
    raise errors.InputError(
      f"prompts = {prompts!r:.100}: must be a text, a row of a task, or several"
      " in a list"
    )
  return list(prompts)


def _row(prompt: str | base.Row) -> base.Row:
  """Returns a prompt as a row; that of a person is of no task.

  Raises:
    InputError: it is neither a text nor a row.
  """
  if isinstance(prompt, base.Row):
    return prompt
  if not isinstance(prompt, str):
    raise errors.InputError(
      f"prompts has {prompt!r:.100}: each must be a text or a row of a task"
    )
  return base.Row(task="", prompt=prompt, reference=None, meta={})
