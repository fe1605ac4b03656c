"""Reads the JSON files of a workdir, and reports damage in them.

A run may be killed in the middle of a line, and a disk may damage one. An
unreadable line is an error that names file and line. A caller that passes a
list `damage` gets that message appended to it instead, and the line is skipped.

A record has one line per step. On a disk it is one file, `metrics.jsonl`. A
bucket cannot append, so there it is a directory of parts,
`metrics/000000.jsonl`, `metrics/000100.jsonl`, ..., each of `PART_STEPS` steps
and named by its first: a step then rewrites one part and not the whole record.
A run that was moved may have both; they are read as one record.
"""

import json
import re
from typing import Any

from etils import epath

from progrpo_jax import errors, places

# Steps per part of a record in a bucket. A line has about 3 kB, so a step
# rewrites 300 kB at most, and 10,000 steps are 100 objects to read.
PART_STEPS = 100
_PART = re.compile(r"(\d{6,})\.jsonl")
# A larger number in a file counts as damage.
_MAX = 1e100
# Metrics that reports compute with, so that a text there is damage.
_ALWAYS_NUMBERS = re.compile(
  r"pass@|/(low|high|entropy|distinct_correct|mean_length|num_\w+)$"
)
# Fields of a completion that reports compute with.
_NUMBERS = (
  "reward",
  "correct",
  "advantage",
  "base_advantage",
  "c_answer",
  "length",
)


def _note(
  damage: list[str] | None, message: str, cause: Exception | None = None
) -> None:
  """Appends a message to `damage`, or raises InputError if that is None."""
  if damage is None:
    raise errors.InputError(message) from cause
  if message not in damage:
    damage.append(message)


def _read_bytes(path: epath.Path, damage: list[str] | None) -> bytes:
  """Returns the bytes of a file, b"" if it cannot be read."""
  try:
    with places.reading(path):
      return path.read_bytes()
  except errors.RunError as error:
    # A caller that tolerates damage makes do without the file.
    if damage is None:
      raise
    _note(damage, str(error), error)
    return b""
  except OSError as error:
    _note(damage, f"{path} cannot be read: {error.strerror or error}", error)
    return b""


def _parse(
  where: str, line: str, damage: list[str] | None
) -> dict[str, Any] | None:
  """Returns the JSON object in a line, or None if the line is damaged."""
  # Invalid bytes were decoded to U+FFFD; lines are written in ASCII.
  if "\ufffd" in line:
    return _note(damage, f"{where} is not JSON: it holds invalid bytes")
  try:
    record = json.loads(line)
  # Python also refuses integers of 5,000 digits (ValueError) and 100,000
  # nested brackets (RecursionError).
  except (ValueError, RecursionError) as error:
    reason = getattr(error, "msg", None) or error
    return _note(damage, f"{where} is not JSON: {reason}", error)
  if not isinstance(record, dict):
    return _note(damage, f"{where} is not a JSON object")
  return record


def part(path: epath.Path, step: int) -> epath.Path:
  """Returns the file that holds a step of a record in a bucket.

  Args:
    path: file of the whole record, such as <workdir>/metrics.jsonl.
    step: number of a step.
  """
  first = step - step % PART_STEPS
  return path.with_suffix("") / f"{first:06d}.jsonl"


def files(path: epath.Path) -> list[tuple[int, epath.Path]]:
  """Returns (first possible step, file) of each file of a record, sorted.

  Args:
    path: file of the whole record, such as <workdir>/metrics.jsonl.
  """
  whole = [(0, path)] if path.exists() else []
  folder = path.with_suffix("")
  if not folder.is_dir():
    return whole
  matches = [(_PART.fullmatch(entry.name), entry) for entry in folder.iterdir()]
  return whole + sorted(
    (int(match[1]), entry) for match, entry in matches if match
  )


def config(path: epath.Path, damage: list[str] | None) -> dict[str, Any]:
  """Returns the config in a `config.json`, {} if there is no such file."""
  if not path.exists():
    return {}
  text = _read_bytes(path, damage).decode("utf-8", errors="replace")
  return _parse(f"{path}, line 1", text, damage) or {} if text else {}


def read(
  path: epath.Path, damage: list[str] | None = None, drops_tail: bool = False
) -> list[tuple[int, dict[str, Any]]]:
  """Returns [(line number, object)] of a JSONL file.

  An incomplete last line is dropped silently.

  Args:
    path: JSONL file.
    damage: list to which unreadable lines are reported; None raises.
    drops_tail: whether unreadable lines behind the last readable one are
      dropped silently, which a machine that lost its power leaves.

  Raises:
    InputError: a line cannot be read, and `damage` is None.
    RunError: the file is out of reach for the moment, and `damage` is None.
  """
  text = _read_bytes(path, damage).decode("utf-8", errors="replace")
  lines = text.split("\n")
  last = lines.pop()  # "" if the file ends with a line feed
  if last:
    try:
      json.JSONDecoder().raw_decode(last)
      lines.append(last)  # whole, or damaged behind its end
    except (ValueError, RecursionError):
      # Killed in the middle of the write, or being written now; neither leaves
      # zeros, which a disk does that lost the content.
      if "\0" in last:
        lines.append(last)
  numbered = [x for x in enumerate(lines, start=1) if x[1].strip()]
  while drops_tail and numbered and _parse("", numbered[-1][1], []) is None:
    numbered.pop()
  records = [
    (number, _parse(f"{path}, line {number}", line, damage))
    for number, line in numbered
  ]
  return [(number, record) for number, record in records if record is not None]


def steps(path: epath.Path, damage: list[str] | None) -> list[dict[str, Any]]:
  """Returns one dict per step of a record, by rising step.

  Lines of one step are merged; the later value wins. Values are numbers, texts
  or None.

  Args:
    path: file of the whole record, such as <workdir>/metrics.jsonl.
    damage: list to which unreadable values are reported; None raises.

  Raises:
    InputError: a value cannot be read, and `damage` is None.
  """
  merged = {}
  rows = [
    (f"{file}, line {number}", row)
    for _, file in files(path)
    for number, row in read(file, damage)
  ]
  for where, row in rows:
    step = row.get("step")
    # Without a step the line belongs nowhere and is skipped as a whole.
    if (
      not isinstance(step, int)
      or isinstance(step, bool)
      or (not 0 <= step < _MAX)
    ):
      _note(damage, f"{where} is without a step: {str(row):.80}")
      continue
    # A damaged value is removed, and the rest of the line is used.
    for key in [key for key in row if not _is_metric(key, row[key])]:
      _note(damage, f"{where}: {key} = {str(row[key]):.40} is no number")
      del row[key]
    merged.setdefault(step, {}).update(row)
  return [merged[step] for step in sorted(merged)]


def samples(path: epath.Path, damage: list[str] | None) -> list[dict[str, Any]]:
  """Returns the records of a file of samples, one per problem.

  Args:
    path: JSONL file of rollouts or of evaluation samples.
    damage: list to which damaged records are reported; None raises for a line
      that is not a JSON object, and does not look into records.

  Raises:
    InputError: a line cannot be read, and `damage` is None.
  """
  if damage is None:
    return [record for _, record in read(path)]
  # A caller that tolerates damage goes on to compute with what is left, so
  # the fields it reads are checked too.
  records = []
  for number, record in read(path, damage):
    completions = record.get("completions")
    if (
      not isinstance(completions, list)
      # None where prompts were not scored; evaluations never score them.
      or not _is_number(record.get("c_prompt"))
      or not all(
        isinstance(completion, dict)
        and isinstance(completion.get("text", ""), str)
        and all(_is_number(completion.get(key)) for key in _NUMBERS)
        for completion in completions
      )
    ):
      _note(damage, f"{path}, line {number} is not a problem with its samples")
      continue
    records.append(record)
  return records


def _is_metric(key: str, value: object) -> bool:
  """Returns whether a value is possible for a metric; some are texts."""
  return _is_number(value) or (
    isinstance(value, str) and not _ALWAYS_NUMBERS.search(key)
  )


def _is_number(value: object) -> bool:
  """Returns whether a value is a finite number, or None (written for NaN)."""
  return value is None or (isinstance(value, int | float) and abs(value) < _MAX)
