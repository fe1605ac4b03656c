"""Verification: from sampled tokens to rewards and verdicts.

Responses are decoded and passed to their tasks' verifiers, which run in the
processes of the pool, or to the user's reward functions.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
from typing import Any

import jax
import numpy as np

from progrpo_jax import batch, groups
from progrpo_jax.rewards import functions
from progrpo_jax.rewards import pool as pools
from progrpo_jax.rewards import score as scores
from progrpo_jax.tasks import base
from progrpo_jax.text import tokenizer as tokenizer_lib

# Keys of a row's meta that describe its reward functions. Rows with equal
# values are judged in one call.
_JUDGING = (
  "functions",
  "weights",
  "correct_by",
  "correct_threshold",
  "verifier",
  "is_chat",
)

# Score of a completion without an answer; no verifier is called for it.
_SILENT = scores.Score(0.0, False, "no_answer")


@dataclasses.dataclass(frozen=True)
class Verified:
  """Completions of P prompts, and what was said of each.

  Attributes:
    texts_PG: the completions.
    reward_PG: float32, from the verifier or the reward functions.
    correct_PG: bool, the verdict.
    status_PG: status of each verification, see `score.Score`.
    values_PGJ: float32, value of each of the row's reward functions, see
      `function_labels`; NaN if it returned None or the row has fewer of them.
    extra_PG: columns that these functions add to each saved completion, by
      `log_extra`.
    logged: (name, value) of each of their calls of `log_metric`.
  """

  texts_PG: tuple[tuple[str, ...], ...]
  reward_PG: np.ndarray
  correct_PG: np.ndarray
  status_PG: tuple[tuple[str, ...], ...]
  values_PGJ: np.ndarray
  extra_PG: tuple[tuple[dict[str, Any], ...], ...]
  logged: tuple[tuple[str, float], ...]

  @property
  def valid_PG(self) -> np.ndarray:
    """False where a score is masked because its verifier failed."""
    valid = [not scores.is_masked(s) for group in self.status_PG for s in group]
    return np.asarray(valid, bool).reshape(self.reward_PG.shape)


def join(parts: Sequence[Verified]) -> Verified:
  """Returns the prompts of all parts, in order.

  Args:
    parts: such as the shares of hosts. One without prompts adds nothing: it
      does not even know the size of a group.
  """
  parts = [part for part in parts if part.texts_PG] or parts[:1]
  return Verified(
    texts_PG=sum((p.texts_PG for p in parts), ()),
    reward_PG=np.concatenate([p.reward_PG for p in parts]),
    correct_PG=np.concatenate([p.correct_PG for p in parts]),
    status_PG=sum((p.status_PG for p in parts), ()),
    values_PGJ=groups.join_values([p.values_PGJ for p in parts]),
    extra_PG=sum((p.extra_PG for p in parts), ()),
    logged=sum((p.logged for p in parts), ()),
  )


def texts(
  tokenizer: tokenizer_lib.Tokenizer, rollout: batch.Rollout, group: int
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


def token_ids(rollout: batch.Rollout, group: int) -> list[list[list[int]]]:
  """Returns the tokens of each response, by prompt; see `texts`."""
  pairs = zip(np.asarray(rollout.tokens_BT), np.asarray(rollout.mask_BT))
  flat = [tokens[mask].tolist() for tokens, mask in pairs]
  return [flat[i : i + group] for i in range(0, len(flat), group)]


def last_turn(tokenizer: tokenizer_lib.Tokenizer, tokens_T, mask_T) -> str:
  """Text of the last turn of a response, "" if it has no token."""
  parts = conversation(tokenizer, tokens_T, mask_T)
  return parts[-1]["content"] if parts else ""


def conversation(
  tokenizer: tokenizer_lib.Tokenizer, tokens_T, mask_T
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
  tokenizer: tokenizer_lib.Tokenizer,
  rows: Sequence[base.Row],
  rollout: batch.Rollout,
  group: int,
  share: slice,
) -> Verified:
  """Decodes and verifies a part of a rollout.

  Args:
    pool: processes that run verifiers.
    tokenizer: tokenizer of the policy.
    rows: rows of data, one per prompt.
    rollout: numpy arrays with `group` responses per prompt.
    group: number of responses per prompt.
    share: range of prompts that this host judges.

  Returns:
    The prompts in `share`.
  """
  part = jax.tree.map(
    lambda x: x[share.start * group : share.stop * group], rollout
  )
  return verify(
    pool,
    rows[share],
    texts(tokenizer, part, group),
    ids_PG=token_ids(part, group),
  )


def verify(
  pool: pools.Pool,
  rows: Sequence[base.Row],
  texts_PG: Sequence[Sequence[str]],
  *,
  whole: bool = True,
  ids_PG: Sequence[Sequence[list[int]]] | None = None,
) -> Verified:
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
    ids_PG: tokens of the completions, for reward functions; None if they are
      not known.

  Raises:
    PoolError: too many verifications failed.
    InputError: a reward function failed.
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
  flat = _scores(
    pool, [None if t is None else base.item(row, t) for row, t in pairs]
  )
  _deal(flat, plain, texts_PG, judged)
  # Reward functions: rows may have different numbers of them, NaN fills up.
  most = max((len(function_labels(row)) for row in rows), default=0)
  shape = len(rows), len(texts_PG[0]) if texts_PG else 0
  values_PGJ = np.full((*shape, most), np.nan, np.float32)
  extra_PG: list[list[dict[str, Any]]] = [[{} for _ in g] for g in texts_PG]
  logged: list[tuple[str, float]] = []
  for members in by_functions.values():
    found = _judge(pool, members, rows, texts_PG, extract, ids_PG)
    _deal(found.scores, members, texts_PG, judged)
    _deal(found.extra, members, texts_PG, extra_PG)
    logged += found.metrics
    values_BJ = np.asarray(found.values, np.float32)  # None becomes NaN
    values_PGJ[members, :, : values_BJ.shape[-1]] = values_BJ.reshape(
      len(members), shape[1], -1
    )
  every = [score for group in judged for score in group]
  return Verified(
    texts_PG=tuple(map(tuple, texts_PG)),
    reward_PG=np.asarray([s.reward for s in every], np.float32).reshape(shape),
    correct_PG=np.asarray([s.correct for s in every], bool).reshape(shape),
    status_PG=tuple(tuple(s.status for s in group) for group in judged),
    values_PGJ=values_PGJ,
    extra_PG=tuple(map(tuple, extra_PG)),
    logged=tuple(logged),
  )


def _scores(
  pool: pools.Pool, items: Sequence[pools.Item | None]
) -> list[scores.Score]:
  """Returns the verifiers' scores; None stands for no answer at all."""
  answered = iter(pool.score([item for item in items if item is not None]))
  return [_SILENT if item is None else next(answered) for item in items]


def function_labels(row: base.Row) -> list[str]:
  """Returns the names that metrics give to a row's reward functions."""
  return functions.labels(row.meta["functions"]) if _uses_functions(row) else []


def decider(row: base.Row) -> int | None:
  """Returns which of a row's reward functions decides by its value.

  None where a verifier does by its verdict.
  """
  if not _uses_functions(row):
    return None
  meta = row.meta
  index = functions.find_decider(meta["functions"], meta["correct_by"])
  return None if meta["verifier"] and not index else index


def check_functions(pool: pools.Pool, rows: Sequence[base.Row]) -> None:
  """Refuses reward functions that could not be called on rows.

  Args:
    pool: processes that call them.
    rows: rows of data, which decide the columns.

  Raises:
    InputError: see `functions.check`.
    Preempted: the pool was asked to stop.
  """
  columns: dict[str, set[str]] = {}
  for row in filter(_uses_functions, rows):
    for name in row.meta["functions"][bool(row.meta["verifier"]) :]:
      columns.setdefault(name, set()).update(row.meta["columns"])
  for name, known in columns.items():
    functions.check(pool, [name], sorted(known))


def _uses_functions(row: base.Row) -> bool:
  """Returns whether a user's reward functions judge a row."""
  return bool(row.meta.get("functions")) and (
    base.verifier(row) == functions.VERIFIER
  )


def _deal(
  flat: Sequence[Any],
  members: Sequence[int],
  texts_PG: Sequence[Sequence[str]],
  judged: list[list[Any]],
) -> None:
  """Stores flat scores, or other findings, by prompt.

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
  extract: Callable[[str], str | None],
  ids_PG: Sequence[Sequence[list[int]]] | None,
) -> functions.Judged:
  """Calls reward functions on all completions of their rows at once.

  Args:
    pool: processes that run verifiers.
    members: indices of the prompts, all with the same reward functions.
    rows: rows of data, one per prompt.
    texts_PG: completions of each prompt.
    extract: function from a completion to the text for a verifier, or to None
      if there is no answer.
    ids_PG: tokens of the completions, or None.
  """
  meta = rows[members[0]].meta
  is_chat, verifier = meta["is_chat"], meta["verifier"]
  flat = [rows[p] for p in members for _ in texts_PG[p]]
  completions = [text for p in members for text in texts_PG[p]]
  verdicts: list[scores.Score] = []
  if verifier:
    answers = [(row, extract(t)) for row, t in zip(flat, completions)]
    verdicts = _scores(
      pool,
      [
        None
        if text is None
        else pools.Item(verifier, text, row.reference, row.meta["options"])
        for row, text in answers
      ],
    )
  # Columns of all rows; a row that lacks one passes None.
  columns = sorted({c for row in flat for c in row.meta["columns"]})
  return functions.evaluate(
    pool,
    functions.Rule(
      meta["functions"],
      meta["weights"],
      meta["correct_by"],
      meta["correct_threshold"],
      has_verifier=bool(verifier),
    ),
    functions.Batch(
      [functions.asked(row.prompt, row.context, is_chat) for row in flat],
      [functions.answered(text, is_chat) for text in completions],
      {c: [row.meta["columns"].get(c) for row in flat] for c in columns},
      None if ids_PG is None else [i for p in members for i in ids_PG[p]],
    ),
    verdicts=verdicts,
    deadline_s=pool.batch_deadline_s,
  )
