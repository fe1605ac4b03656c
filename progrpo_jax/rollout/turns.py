"""Episodes of several turns: a task answers the policy, which goes on.

A batch of prompts is sampled as ever; that is the first turn. Then, until no
response goes on: the tasks with a `reply` are asked, in the pool's processes,
for every response that ended its turn by itself; the tokens of a reply are put
behind those that the policy wrote; and the responses with a reply are sampled
on, each with its whole conversation as its prompt. No token is ever decoded and
encoded again: what the policy reads, learns from and is scored on are the
tokens that it wrote.

Shapes are few, so that nothing is compiled after the first steps: a later turn
has as many rows as a batch has responses, and its prompts grow by doubling.
A sample's random numbers depend on its id and the number of its turn.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
from typing import NamedTuple, Protocol

from absl import logging
import jax
import numpy as np

from progrpo_jax import batch as batch_lib
from progrpo_jax.devices import hosts
from progrpo_jax.rewards import pool as pool_lib
from progrpo_jax.rewards import serving
from progrpo_jax.rollout import decoding, sampler
from progrpo_jax.tasks import base
from progrpo_jax.text import tokenizer as tokenizer_lib

# Added to a turn's number and folded into the key: the numbers of draws, which
# are folded into the same key, stay clear of it.
STREAM = 0x7475726E


class Episodes(NamedTuple):
  """Responses of a batch with all their turns.

  Attributes:
    rollout: B responses.
    failed_B: bool, True where a reply failed: the response teaches nothing.
  """

  rollout: batch_lib.Rollout
  failed_B: np.ndarray


# A response that asks for a reply: its problem, and its conversation as
# messages, which ends with a turn of the policy.
Talk = tuple[base.Row, Sequence[dict[str, str]]]


class Replies(Protocol):
  """Who replies to the policy."""

  def to(self, row: base.Row | None) -> bool:
    """Returns whether there are replies in the conversations on a row."""

  def answer(self, text: str) -> str | None:
    """Returns what of a turn is read, without its thought; None if nothing."""

  def ask(self, talks: Sequence[Talk]) -> list[serving.Outcome]:
    """Returns a text for each conversation, or None where it is over."""


class TaskReplies:
  """Replies of the tasks, made in the processes of a pool."""

  def __init__(self, pool: pool_lib.Pool):
    """Takes the pool, which counts replies that fail."""
    self._pool = pool

  def to(self, row: base.Row | None) -> bool:
    """Returns whether the row's task replies."""
    return base.replies(row)

  def answer(self, text: str) -> str | None:
    """Returns what the pool's verifiers would see of a turn."""
    return self._pool.answer(text)

  def ask(self, talks: Sequence[Talk]) -> list[serving.Outcome]:
    """Calls the tasks' `reply`; raises PoolError if too many fail."""
    return self._pool.ask([base.reply(row, talk) for row, talk in talks])


class _Reply(NamedTuple):
  """What a task replied: text and tokens, or nothing, or why it failed."""

  answer: str | None  # of the policy's last turn, what follows its thought
  text: str | None = None
  ids: tuple[int, ...] = ()
  failure: str = ""


def batches(
  engine: sampler.Engine,
  prompts: batch_lib.Prompts,
  key,
  settings: decoding.Settings,
  tokenizer: tokenizer_lib.Tokenizer,
  replies: Replies,
) -> Iterator[Episodes]:
  """Yields the episodes of settings.batch_prompts prompts at a time.

  Args:
    engine: the policy.
    prompts: P prompts, as for `sampler.batches`.
    key: PRNG key of the sampling of a step.
    settings: settings of the sampling; `max_new_tokens` bounds a response with
      all its turns and replies, `max_turns` their number.
    tokenizer: the policy's.
    replies: who replies to the policy.

  Raises:
    PoolError: too many replies of a turn failed.
    RunError: the hosts have read other prompts, or other answers to them.
  """
  # Every time, and before programs of shapes that would differ. Alone, nobody
  # asks for the digest.
  if hosts.count() > 1:
    hosts.compare("sampling", prompts=prompts.digest())
  start = 0
  for rollout in sampler.batches(engine, prompts, key, settings):
    end = start + len(rollout.mask_BT) // settings.num_generations
    part = slice(start, end)
    replying_P = [
      number >= 0 and replies.to(row)
      for row, number in zip(prompts.rows[part], prompts.ids_P[part])
    ]
    if settings.max_turns > 1 and any(replying_P):
      play = _Play(engine, prompts, part, rollout, settings, tokenizer, replies)
      yield play(np.repeat(replying_P, settings.num_generations), key)
    else:
      yield Episodes(rollout, np.zeros(len(rollout.mask_BT), bool))
    start = end


def sample(*args) -> Episodes:
  """Samples all prompts; takes the arguments of `batches`."""
  return jax.tree.map(lambda *x: np.concatenate(x), *batches(*args))


class _Play:
  """The turns of one batch after the first."""

  def __init__(
    self, engine, prompts, part, rollout, settings, tokenizer, replies
  ):
    """Takes over the first turn; the arguments are those of `batches`."""
    self.engine, self.prompts, self.part = engine, prompts, part
    self.tokenizer, self.replies = tokenizer, replies
    self.group = settings.num_generations
    self.settings = dataclasses.replace(settings, num_generations=1)
    # Rows of a later turn, the same number for a last batch that is not full.
    self.rows = self.group * (settings.batch_prompts or len(prompts))
    self.rollout = jax.tree.map(np.array, rollout)
    self.length_B = batch_lib.extents(rollout.mask_BT)
    self.turn_B = np.zeros(len(self.length_B), int)  # first token of the turn
    self.talks = [
      [*row.context, {"role": "user", "content": row.prompt}]
      for row in prompts.rows[part]
      for _ in range(self.group)
    ]

  def __call__(self, goes_on_B, key) -> Episodes:
    """Plays on until no response goes on.

    Args:
      goes_on_B: bool, responses whose task replies.
      key: PRNG key of the sampling of a step.
    """
    failed_B = np.zeros(len(goes_on_B), bool)
    for turn in range(1, self.settings.max_turns):
      goes_on_B = goes_on_B & self.rollout.finished_B
      asked = np.flatnonzero(goes_on_B)
      shares = hosts.share_out(
        lambda part, asked=asked: self._ask(asked[part]), len(asked)
      )
      replies = list(itertools.chain.from_iterable(shares))
      for b, reply in zip(asked, replies, strict=True):
        failed_B[b] = bool(reply.failure)
        goes_on_B[b] = reply.text is not None and self._put(b, reply)
      self._tell([reply.failure for reply in replies if reply.failure])
      if not goes_on_B.any():
        break
      self._sample(goes_on_B, jax.random.fold_in(key, STREAM + turn))
    return Episodes(self.rollout, failed_B)

  def _ask(self, asked) -> list[_Reply]:
    """What the tasks reply to the last turns of some responses."""
    talks, answers = [], []
    for b in asked:
      tokens = self.rollout.tokens_BT[b, self.turn_B[b] : self.length_B[b]]
      # A turn that does not get beyond its thought answers nothing.
      answer = self.replies.answer(self.tokenizer.decode(tokens.tolist()))
      answers.append(answer)
      if answer is not None:
        talk = [*self.talks[b], {"role": "assistant", "content": answer}]
        talks.append((self._row(b), talk))
    outcomes = iter(self.replies.ask(talks))
    return [
      _Reply(None)
      if answer is None
      else self._read(self._row(b), answer, next(outcomes))
      for b, answer in zip(asked, answers, strict=True)
    ]

  def _read(self, row: base.Row, answer: str, outcome) -> _Reply:
    """Reads the outcome of a reply; one that is no text has failed."""
    text, failure, ids = outcome.value, "", ()
    if outcome.status != "ok":
      failure = outcome.reason or f"reply ended in a {outcome.status}"
    elif text is None:
      return _Reply(answer)
    elif isinstance(text, str):
      ids = tuple(self.tokenizer.encode_reply(text))
    if not ids and not failure:
      failure = f"reply returned {str(text)[:60]!r}: neither a text nor None"
    if failure:
      return _Reply(answer, failure=f"task {row.label}: {failure}")
    return _Reply(answer, text, ids)

  def _put(self, b: int, reply: _Reply) -> bool:
    """Puts a reply behind a response; False if nothing could follow it."""
    tokens_T, start = self.rollout.tokens_BT[b], self.length_B[b]
    end = start + len(reply.ids)
    if end >= len(tokens_T):
      # The response is cut here, before a reply that it has no room to answer.
      self.rollout.finished_B[b] = False
      return False
    self.talks[b] += [
      {"role": "assistant", "content": reply.answer},
      {"role": "user", "content": reply.text},
    ]
    tokens_T[start:end] = reply.ids
    self.length_B[b] = self.turn_B[b] = end
    return True

  def _sample(self, goes_on_B, key) -> None:
    """Samples one turn of some responses, whose conversations end in replies.

    Each is decoded as if it had all of `max_new_tokens` before it, and cut
    where its room ends: a program for each room would be one too many.
    """
    prompts, r = self.prompts, self.rollout
    limit, longest = r.tokens_BT.shape[1], int(self.length_B[goes_on_B].max())
    columns = self.settings.chunk
    while columns < longest:
      columns *= 2
    columns = min(columns, limit)
    width = prompts.tokens_PT.shape[1]
    tokens_BT = np.zeros((self.rows, width + columns), np.int32)
    mask_BT = np.zeros(tokens_BT.shape, bool)
    mask_BT[:, -1] = True  # rows that only fill up read one token
    goes_on = np.flatnonzero(goes_on_B)
    for b in goes_on:
      p = self.part.start + b // self.group
      real = prompts.mask_PT[p]
      talk = np.concatenate(
        [prompts.tokens_PT[p][real], r.tokens_BT[b, : self.length_B[b]]]
      )
      tokens_BT[b, -len(talk) :], mask_BT[b, -len(talk) :] = talk, True
    of_B = self.part.start + np.arange(len(goes_on_B)) // self.group
    ids_B = np.full(self.rows, -1, np.int64)
    ids_B[goes_on] = prompts.ids_P[of_B[goes_on]]
    turn = self.engine.generate(
      batch_lib.Prompts(
        tokens_PT=tokens_BT,
        mask_PT=mask_BT,
        user_mask_PT=mask_BT,
        ids_P=ids_B,
        rows=(None,) * self.rows,
        first_P=np.arange(self.rows) % self.group,
      ),
      np.where(ids_B >= 0, np.arange(self.rows), -1),
      key,
      self.settings,
    )
    drawn_B = batch_lib.extents(turn.mask_BT)
    for b in goes_on:
      start = self.length_B[b]
      count = min(int(drawn_B[b]), limit - start)
      here = slice(start, start + count)
      r.tokens_BT[b, here] = turn.tokens_BT[b, :count]
      r.logp_BT[b, here] = turn.logp_BT[b, :count]
      r.mask_BT[b, here] = True
      self.length_B[b] += count
      r.finished_B[b] = turn.finished_B[b] and count == drawn_B[b]

  def _row(self, b: int) -> base.Row:
    """The problem of a response."""
    return self.prompts.rows[self.part.start + b // self.group]

  def _tell(self, failures: list[str]) -> None:
    """Names the replies of a turn that failed in the log."""
    if failures and hosts.is_first():
      logging.error(
        "%d replies failed, and their responses are masked; the last one: %s",
        len(failures),
        failures[-1],
      )
