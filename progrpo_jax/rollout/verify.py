"""Verification: from sampled tokens to rewards and verdicts.

Responses are decoded and passed to their tasks' verifiers, which run in the
processes of the pool, or to the user's reward functions.
"""

from collections.abc import Sequence
import json
from typing import Any, Protocol

import jax
import numpy as np

from progrpo_jax import batch
from progrpo_jax.rewards import functions
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import score as scores
from progrpo_jax.tasks import base

# Keys of a row's meta that describe its reward functions. Rows with equal
# values are judged in one call.
_JUDGING = ("functions", "weights", "correct_by", "correct_threshold")

# Score of a completion without an answer; no verifier is called for it.
_SILENT = scores.Score(0.0, False, "no_answer")


class Tokenizer(Protocol):
  """What decoding responses needs of a tokenizer."""

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of token ids without special tokens."""


def texts(
  tokenizer: Tokenizer, rollout: batch.Rollout, group: int
) -> tuple[tuple[str, ...], ...]:
  """Decodes the responses of a rollout; the last turn of those with several.

  Args:
    tokenizer: tokenizer of the policy.
    rollout: sampled responses, rows of one prompt in succession.
    group: number of responses per prompt.

  Returns:
    texts_PG, a tuple of texts per prompt.
  """
  pairs = zip(np.asarray(rollout.tokens_BT), np.asarray(rollout.mask_BT))
  flat = [last_turn(tokenizer, tokens, mask) for tokens, mask in pairs]
  starts = range(0, len(flat), group)
  return tuple(tuple(flat[i : i + group]) for i in starts)


def last_turn(tokenizer: Tokenizer, tokens_T, mask_T) -> str:
  """Text of the last turn of a response, "" if it has no token."""
  parts = conversation(tokenizer, tokens_T, mask_T)
  return parts[-1]["content"] if parts else ""


def conversation(
  tokenizer: Tokenizer, tokens_T, mask_T
) -> list[dict[str, str]]:
  """The turns of a response and the replies between them, as messages.

  A reply has the text that the chat template writes around it.

  Args:
    tokenizer: tokenizer of the policy.
    tokens_T: tokens of a response.
    mask_T: bool, those that the policy wrote.
  """
  return [
    {
      "role": "assistant" if written else "user",
      "content": tokenizer.decode(np.asarray(tokens_T)[start:end].tolist()),
    }
    for start, end, written in batch.runs(mask_T)
  ]


def decode_and_verify(
  pool: pools.Pool,
  tokenizer: Tokenizer,
  rows: Sequence[base.Row],
  rollout: batch.Rollout,
  group: int,
  share: slice,
) -> tuple[
  tuple[tuple[str, ...], ...], np.ndarray, np.ndarray, np.ndarray, np.ndarray
]:
  """Decodes and verifies a part of a rollout.

  Args:
    pool: processes that run verifiers.
    tokenizer: tokenizer of the policy.
    rows: rows of data, one per prompt.
    rollout: numpy arrays with `group` responses per prompt.
    group: number of responses per prompt.
    share: range of prompts that this host judges.

  Returns:
    (texts_PG, reward_PG, correct_PG, valid_PG, values_PGJ) of the prompts in
    `share`; see `verify`.
  """
  part = jax.tree.map(
    lambda x: x[share.start * group : share.stop * group], rollout
  )
  texts_PG = texts(tokenizer, part, group)
  *verdicts, values_PGJ = verify(pool, rows[share], texts_PG)
  # With an empty share `verify` cannot know the size of a group.
  if not texts_PG:
    values_PGJ = np.zeros((0, group, 0), np.float32)
  return texts_PG, *(x.reshape(-1, group) for x in verdicts), values_PGJ


def join(parts: Sequence[Any]) -> Any:
  """Concatenates the results of several parts, field by field.

  Args:
    parts: tuples of the same fields. A field is a tuple, an array (joined by
      `batch.concatenate`) or None in every part.

  Returns:
    One tuple of the joined fields.
  """
  joined = []
  for field in zip(*parts, strict=True):
    if isinstance(field[0], tuple):
      joined.append(sum(field, ()))
    elif field[0] is None:
      joined.append(None)
    else:
      joined.append(batch.concatenate(field))
  return tuple(joined)


def verify(
  pool: pools.Pool,
  rows: Sequence[base.Row],
  texts_PG: Sequence[Sequence[str]],
  *,
  whole: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Scores completions, and says which scores count.

  Args:
    pool: processes that run verifiers.
    rows: rows of data, one per prompt.
    texts_PG: completions of each prompt.
    whole: whether the texts are whole responses, see `score_rollout`.

  Returns:
    (reward_PG, correct_PG, valid_PG, values_PGJ); valid_PG is False where a
    score is masked because its verifier failed. See `score_rollout`.
  """
  reward_PG, correct_PG, statuses, values_PGJ = score_rollout(
    pool, rows, texts_PG, whole=whole
  )
  valid_PG = [[not scores.is_masked(s) for s in g] for g in statuses]
  return reward_PG, correct_PG, np.asarray(valid_PG, bool), values_PGJ


def score_rollout(
  pool: pools.Pool,
  rows: Sequence[base.Row],
  texts_PG: Sequence[Sequence[str]],
  *,
  whole: bool = True,
) -> tuple[np.ndarray, np.ndarray, list[list[str]], np.ndarray]:
  """Scores completions by their tasks' verifiers or by reward functions.

  A verifier sees one completion without its thought. A user's reward functions
  see all completions of their rows in one call, thoughts included; the pool's
  `batch_deadline_s` limits that call.

  Args:
    pool: processes that run verifiers.
    rows: rows of data, one per prompt.
    texts_PG: completions of each prompt; groups are of one size.
    whole: whether the texts are whole responses, of which the pool's `answer`
      extracts the answers; if False, they are answers already.

  Returns:
    (reward_PG, correct_PG, statuses, values_PGJ). Rewards and values are
    float32, statuses lists of lists of texts. values_PGJ[p, g, j] is the value
    of the row's reward function number j, see `function_labels`; NaN if it
    returned None or the row has fewer functions.
  """
  # Rows by what judges them; rows with the same reward functions together.
  judged: list[list[scores.Score]] = [[] for _ in rows]
  by_functions: dict[str, list[int]] = {}
  plain = []
  for p, row in enumerate(rows):
    if _uses_functions(row):
      key = json.dumps([row.meta.get(name) for name in _JUDGING])
      by_functions.setdefault(key, []).append(p)
    else:
      plain.append(p)
  # Verifiers: completions without an answer get their score without a call.
  extract = pool.answer if whole else str
  pairs = [(rows[p], extract(text)) for p in plain for text in texts_PG[p]]
  answered = iter(
    pool.score(
      [base.item(row, text) for row, text in pairs if text is not None]
    )
  )
  flat = [_SILENT if text is None else next(answered) for _, text in pairs]
  _deal(flat, plain, texts_PG, judged)
  # Reward functions: rows may have different numbers of them, NaN fills up.
  most = max((len(function_labels(row)) for row in rows), default=0)
  group = len(texts_PG[0]) if texts_PG else 0
  values_PGJ = np.full((len(rows), group, most), np.nan, np.float32)
  for members in by_functions.values():
    flat, values = _judge(pool, members, rows, texts_PG)
    _deal(flat, members, texts_PG, judged)
    values_NJ = np.asarray(values, np.float32)  # None becomes NaN
    values_PGJ[members, :, : values_NJ.shape[-1]] = values_NJ.reshape(
      len(members), group, -1
    )
  reward_PG = np.asarray([[s.reward for s in g] for g in judged], np.float32)
  correct_PG = np.asarray([[s.correct for s in g] for g in judged], bool)
  statuses = [[s.status for s in g] for g in judged]
  return reward_PG, correct_PG, statuses, values_PGJ


def function_labels(row: base.Row) -> list[str]:
  """Returns the names that metrics give to a row's reward functions."""
  return functions.labels(row.meta["functions"]) if _uses_functions(row) else []


def _uses_functions(row: base.Row) -> bool:
  """Returns whether a user's reward functions judge a row."""
  return bool(row.meta.get("functions")) and (
    base.resolve(row.task).VERIFIER == functions.VERIFIER
  )


def _deal(
  flat: Sequence[scores.Score],
  members: Sequence[int],
  texts_PG: Sequence[Sequence[str]],
  judged: list[list[scores.Score]],
) -> None:
  """Stores flat scores by prompt.

  Args:
    flat: scores of all completions of the members, in order.
    members: indices of prompts.
    texts_PG: completions of each prompt, for the sizes of groups.
    judged: scores of each prompt, written at `members`.
  """
  remaining = iter(flat)
  for p in members:
    judged[p] = [next(remaining) for _ in texts_PG[p]]


def _judge(
  pool: pools.Pool,
  members: Sequence[int],
  rows: Sequence[base.Row],
  texts_PG: Sequence[Sequence[str]],
) -> functions.Judged:
  """Calls reward functions on all completions of their rows at once.

  Args:
    pool: processes that run verifiers.
    members: indices of the prompts, all with the same reward functions.
    rows: rows of data, one per prompt.
    texts_PG: completions of each prompt.
  """
  meta = rows[members[0]].meta
  flat = [rows[p] for p in members for _ in texts_PG[p]]
  # Columns of all rows; a row that lacks one passes None.
  columns = sorted({c for row in flat for c in row.meta["columns"]})
  return functions.evaluate(
    pool,
    meta["functions"],
    [row.prompt for row in flat],
    [text for p in members for text in texts_PG[p]],
    {c: [row.meta["columns"].get(c) for row in flat] for c in columns},
    weights=meta.get("weights"),
    correct_by=meta.get("correct_by"),
    correct_threshold=meta.get("correct_threshold", 1.0),
    deadline_s=pool.batch_deadline_s,
  )
