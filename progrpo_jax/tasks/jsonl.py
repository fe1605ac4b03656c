"""The user's own prompts, one JSON object per line.

  {"prompt": "What is 6 * 7?", "answer": "42", "topic": "arithmetic"}

  prompt  "What is 6 * 7?"
  answer  "42"

`prompt` is the text for the policy. Completions are scored by the user's own
code: either reward functions, which get `answer` and every other column by
name, or a verifier, which compares with `answer`. With several functions,
`correct_by` names the one that decides whether a completion is correct: it is
when the function returns at least `correct_threshold`. An optional column
`demonstrations`, a list of correct completions, serves warm-up and RePO and is
not passed to the scoring code. Unusable rows are written with their line
number and the reason to `<file>.rejected.jsonl` in data_dir; it is an error if
their share exceeds `max_bad_share`.
"""

from collections.abc import Sequence
import math
import os
from typing import Any

from etils import epath

from progrpo_jax.errors import InputError
from progrpo_jax.rewards import functions
from progrpo_jax.tasks import base
from progrpo_jax.tasks.sets import files
from progrpo_jax.tasks.sets import rejects as rejects_lib

VERIFIER = functions.VERIFIER
DOMAIN = "your own"


def load(
  split: str,
  *,
  data_dir: str,
  seed: int,
  file: str,
  validation_file: str | None = None,
  validation_share: float = 0.1,
  max_bad_share: base.Share = 0.0,
  reward_functions: Sequence[str] = (),
  reward_weights: Sequence[float] | None = None,
  correct_by: str | None = None,
  correct_threshold: float = 1.0,
  verifier: str | None = None,
  verifier_options: dict[str, Any] | None = None,
) -> list[base.Row]:
  """Returns the rows of a split.

  Without a validation_file, the prompts with the lowest hashes are held out.
  The choice depends only on the text of the prompts, not on seed or order.

  Args:
    split: "train" or "validation".
    data_dir: folder for the report of unusable rows.
    seed: unused.
    file: path of the prompts.
    validation_file: path of the validation prompts; None holds out a share of
      `file`.
    validation_share: share of the distinct prompts held out, above 0 and
      below 1.
    max_bad_share: largest allowed share of unusable rows.
    reward_functions: import paths of reward functions.
    reward_weights: weight of each function; None weighs them equally.
    correct_by: function that decides correctness, one of `reward_functions`.
    correct_threshold: lowest value of that function that counts as correct.
    verifier: import path of a verifier, in place of reward functions.
    verifier_options: keyword arguments of the verifier.

  Raises:
    InputError: the options contradict each other, or the file cannot be used.
  """
  del seed
  if bool(reward_functions) == bool(verifier):
    raise InputError(
      "jsonl: give either reward_functions or a verifier, as import paths"
      ' ("module:function" or "file.py:function")'
    )
  # Options of the scoring code are checked before any file is read.
  if reward_functions:
    functions.check_weights(reward_functions, reward_weights)
    correct_by = reward_functions[
      functions.find_decider(reward_functions, correct_by)
    ]
    if not (
      isinstance(correct_threshold, (int, float))
      and math.isfinite(correct_threshold)
    ):
      raise InputError(
        f"correct_threshold must be a finite number, not {correct_threshold!r}"
      )
  elif reward_weights or correct_by or correct_threshold != 1.0:
    raise InputError(
      "reward_weights, correct_by and correct_threshold are for"
      " reward_functions; a verifier decides correctness itself"
    )
  path = validation_file if validation_file and split != "train" else file
  records = read(path, data_dir, verifier is not None, max_bad_share)
  if not validation_file:
    records = _held_out(records, path, split, validation_share)
  meta = {
    "functions": list(reward_functions),
    "weights": list(reward_weights) if reward_weights else None,
    "correct_by": correct_by,
    "correct_threshold": correct_threshold,
    "verifier": verifier,
    "options": dict(verifier_options or {}),
  }
  return [_row(record, meta) for record in records]


def _row(record: dict[str, Any], meta: dict[str, Any]) -> base.Row:
  """Converts a valid record to a row."""
  prompt = record["prompt"]
  columns = {
    key: v
    for key, v in record.items()
    if key not in ("prompt", "demonstrations")
  }
  answer = record.get("answer")
  meta = {"prompt": prompt, "columns": columns, **meta}
  return base.Row(
    "jsonl", prompt, answer, meta, tuple(record.get("demonstrations", ()))
  )


def read(
  path: str, data_dir: str, needs_answer: bool, max_bad_share: float
) -> list[dict[str, Any]]:
  """Returns the usable records of a file.

  Args:
    path: path of the file, local or in a bucket.
    data_dir: folder for the report of unusable rows.
    needs_answer: whether a record without an answer is unusable.
    max_bad_share: largest allowed share of unusable rows.

  Raises:
    InputError: the file cannot be read or has too many unusable rows.
  """
  try:
    lines = epath.Path(path).expanduser().read_bytes().split(b"\n")
  except (OSError, ValueError) as error:  # ValueError: a NUL in the path
    reason = getattr(error, "strerror", None) or error
    raise InputError(f"cannot read {path!r}: {reason}") from error
  rejects = rejects_lib.Rejects(
    path, os.path.basename(path), data_dir, max_bad_share
  )
  good = []
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    record, reason = _parse(line, needs_answer)
    if reason:
      rejects.add(number, reason, line.decode(errors="replace"))
    else:
      good.append(record)
  rejects.close(len(good))
  return good


def _parse(line: bytes, needs_answer: bool) -> tuple[dict[str, Any], str]:
  """Returns (record, ""), or ({}, reason) if the line is unusable."""
  record, reason = files.parse(line)
  if reason:
    return {}, reason
  if not isinstance(record, dict):
    return {}, f"a {type(record).__name__}, not an object"
  prompt = record.get("prompt")
  if prompt is None:
    return {}, "no prompt"
  if not isinstance(prompt, str):
    return {}, f"prompt is a {type(prompt).__name__}, not a string"
  if not prompt.strip():
    return {}, "prompt is empty"
  if needs_answer and record.get("answer") in (None, "", [], {}):
    return {}, "no answer for the verifier to compare with"
  shown = record.get("demonstrations", [])
  if not isinstance(shown, list) or not all(isinstance(d, str) for d in shown):
    return {}, "demonstrations must be a list of texts"
  for name in functions.RESERVED:
    if name in record:
      return {}, f"a column may not be called {name!r}"
  return record, ""


def _held_out(
  records: list[dict], path: str, split: str, share: float
) -> list[dict]:
  """Returns the records of a split, held out by the hash of the prompt."""
  if not 0 < share < 1:
    raise InputError(f"validation_share must lie between 0 and 1, not {share}")
  # Split by distinct prompt: rows that share a prompt stay on one side.
  prompts = sorted({r["prompt"] for r in records}, key=files.text_digest)
  held = set(prompts[: math.ceil(share * len(prompts))])
  wanted = split == "validation"
  side = [r for r in records if (r["prompt"] in held) == wanted]
  if not side:
    raise InputError(f"{path}: no rows are left for the split {split!r}")
  return side
