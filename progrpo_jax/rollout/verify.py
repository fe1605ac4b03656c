"""Verification: from sampled tokens to rewards and verdicts.

Responses are decoded and handed to the verifiers of their tasks, which run in
the processes of the pool, and to the reward functions of the user.
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

# What a row's meta says of the reward functions that judge it; rows that say
# the same are judged in one call.
_JUDGING = ("functions", "weights", "correct_by", "correct_threshold")

# Score of a completion without an answer, which no verifier needs to see.
_SILENT = scores.Score(0.0, False, "no_answer")


class Tokenizer(Protocol):
  """What decoding responses needs of a tokenizer."""

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of token ids without special tokens."""


def texts(
    tokenizer: Tokenizer, rollout: batch.Rollout, group: int
) -> tuple[tuple[str, ...], ...]:
  """Decodes the responses of a rollout, those of a prompt together."""
  pairs = zip(np.asarray(rollout.tokens_BT), np.asarray(rollout.mask_BT))
  flat = [tokenizer.decode(tokens[mask].tolist()) for tokens, mask in pairs]
  starts = range(0, len(flat), group)
  return tuple(tuple(flat[i : i + group]) for i in starts)


def decode_and_verify(
    pool: pools.Pool,
    tokenizer: Tokenizer,
    rows: Sequence[base.Row],
    rollout: batch.Rollout,
    group: int,
    share: slice,
) -> tuple[tuple[tuple[str, ...], ...], np.ndarray, np.ndarray, np.ndarray,
           np.ndarray]:
  """Decodes and verifies a part of a rollout.

  Args:
    pool: verifies.
    tokenizer: of the policy.
    rows: of the prompts.
    rollout: numpy arrays of `group` responses to each.
    group: responses to a prompt.
    share: the prompts to judge, a host's own.

  Returns:
    (texts_PG, reward_PG, correct_PG, valid_PG, values_PGJ) of these prompts;
    see `verify`.
  """
  part = jax.tree.map(
      lambda x: x[share.start * group : share.stop * group], rollout)
  texts_PG = texts(tokenizer, part, group)
  *verdicts, values_PGJ = verify(pool, rows[share], texts_PG)
  # A host's share may be no prompts at all, whose group is of no size.
  if not texts_PG:
    values_PGJ = np.zeros((0, group, 0), np.float32)
  return texts_PG, *(x.reshape(-1, group) for x in verdicts), values_PGJ


def join(parts: Sequence[Any]) -> Any:
  """Puts together what was made of parts, in their order.

  Args:
    parts: of each a tuple of the same fields: tuples, which are added up,
      arrays, which are joined as `batch.concatenate` does it, or None.
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
  """Returns reward_PG, correct_PG, valid_PG (False where masked), values_PGJ.

  See `score_rollout`.
  """
  reward_PG, correct_PG, statuses, values_PGJ = score_rollout(
      pool, rows, texts_PG, whole=whole)
  valid_PG = [[not scores.is_masked(s) for s in g] for g in statuses]
  return reward_PG, correct_PG, np.asarray(valid_PG, bool), values_PGJ


def score_rollout(
    pool: pools.Pool,
    rows: Sequence[base.Row],
    texts_PG: Sequence[Sequence[str]],
    *,
    whole: bool = True,
) -> tuple[np.ndarray, np.ndarray, list[list[str]], np.ndarray]:
  """Returns reward_PG, correct_PG, the statuses and values_PGJ.

  Rewards and values are float32. values_PGJ[p, g, f] is what the row's
  reward function number f says, see `function_labels`; NaN where it has no
  opinion and where there is no such function.

  texts_PG[p] are the completions of rows[p]. Each is verified by its row's
  task, which sees what the pool's `answer` makes of it (nothing of a thought);
  with whole=False the texts are answers already. Reward functions of the user
  see all completions of these rows, thoughts and all, in one call, which the
  pool's batch_deadline_s bounds.
  """
  judged: list[list[scores.Score]] = [[] for _ in rows]
  by_functions: dict[str, list[int]] = {}
  plain = []
  for p, row in enumerate(rows):
    if _uses_functions(row):
      key = json.dumps([row.meta.get(name) for name in _JUDGING])
      by_functions.setdefault(key, []).append(p)
    else:
      plain.append(p)
  read = pool.answer if whole else str
  shown = [(rows[p], read(text)) for p in plain for text in texts_PG[p]]
  found = iter(pool.score(
      [base.item(row, text) for row, text in shown if text is not None]))
  flat = [_SILENT if text is None else next(found) for _, text in shown]
  _deal(flat, plain, texts_PG, judged)
  most = max((len(function_labels(row)) for row in rows), default=0)
  group = len(texts_PG[0]) if texts_PG else 0
  values_PGJ = np.full((len(rows), group, most), np.nan, np.float32)
  for members in by_functions.values():
    flat, values = _judge(pool, members, rows, texts_PG)
    _deal(flat, members, texts_PG, judged)
    said = np.asarray(values, np.float32)  # None becomes NaN
    values_PGJ[members, :, :said.shape[-1]] = said.reshape(
        len(members), group, -1)
  reward_PG = np.asarray([[s.reward for s in g] for g in judged], np.float32)
  correct_PG = np.asarray([[s.correct for s in g] for g in judged], bool)
  statuses = [[s.status for s in g] for g in judged]
  return reward_PG, correct_PG, statuses, values_PGJ


def function_labels(row: base.Row) -> list[str]:
  """Returns what metrics call the reward functions that judge a row."""
  return functions.labels(row.meta["functions"]) if _uses_functions(row) else []


def _uses_functions(row: base.Row) -> bool:
  """Says whether reward functions of the user judge a row."""
  return bool(row.meta.get("functions")) and (
      base.resolve(row.task).VERIFIER == functions.VERIFIER)


def _deal(
    flat: Sequence[scores.Score],
    members: Sequence[int],
    texts_PG: Sequence[Sequence[str]],
    judged: list[list[scores.Score]],
) -> None:
  """Gives each member the scores of its own completions."""
  rest = iter(flat)
  for p in members:
    judged[p] = [next(rest) for _ in texts_PG[p]]


def _judge(
    pool: pools.Pool,
    members: Sequence[int],
    rows: Sequence[base.Row],
    texts_PG: Sequence[Sequence[str]],
) -> functions.Judged:
  """Calls reward functions on the completions of all of their rows."""
  meta = rows[members[0]].meta  # it says the same of who judges in all
  flat = [rows[p] for p in members for _ in texts_PG[p]]
  known = sorted({c for row in flat for c in row.meta["columns"]})
  return functions.evaluate(
      pool,
      meta["functions"],
      [row.prompt for row in flat],
      [text for p in members for text in texts_PG[p]],
      {c: [row.meta["columns"].get(c) for row in flat] for c in known},
      weights=meta.get("weights"),
      correct_by=meta.get("correct_by"),
      correct_threshold=meta.get("correct_threshold", 1.0),
      deadline_s=pool.batch_deadline_s,
  )
