"""The lines of JSON that a run has written, as far as they can be read.

A run may be killed in the midst of a line, and a disk may damage one. What
cannot be read is an error that names file and line, or, where the caller gives
a list `damage`, joins it and is left out.

A record of one line a step is one file on a disk, `metrics.jsonl`. In a bucket
nothing can be appended to, and there it is a folder of parts,
`metrics/000000.jsonl`, `metrics/000100.jsonl`, ..., each of `PART_STEPS` steps
and named by the first: a step then writes its part anew and not the whole.
Both are read as one, also where a run was moved and has both.
"""

import json
import re

from etils import epath

from progrpo_jax import errors

# Steps of a part of a record in a bucket. A line has about 3 kB, so a step
# writes 300 kB at most, and 10,000 steps are 100 objects to read.
PART_STEPS = 100
_PART = re.compile(r"(\d{6,})\.jsonl")
# Of a number that a file may hold: all that is larger is damage.
_MAX = 1e100
# What readers reckon with.
_ALWAYS_NUMBERS = re.compile(
  r"pass@|/(low|high|entropy|distinct_correct|mean_length|num_\w+)$")
_NUMBERS = (
  "reward", "correct", "advantage", "base_advantage", "c_answer", "length")


def _note(damage, message, cause=None):
  """Adds what cannot be read to a list; without one it is an error."""
  if damage is None:
    raise errors.InputError(message) from cause
  if message not in damage:
    damage.append(message)


def _read_bytes(path, damage):
  """What a file holds, b"" where it cannot be read."""
  try:
    return path.read_bytes()
  except OSError as error:
    _note(damage, f"{path} cannot be read: {error.strerror or error}", error)
    return b""


def _parse(where, line, damage):
  """The object that a text holds, or None."""
  # A byte that is no text was decoded to it; the writer's lines are ASCII.
  if "\ufffd" in line:
    return _note(damage, f"{where} is not JSON: it holds bytes of no text")
  try:
    record = json.loads(line)
  # Python has no number of 5,000 digits, and no hundred thousand brackets.
  except (ValueError, RecursionError) as error:
    reason = getattr(error, "msg", None) or error
    return _note(damage, f"{where} is not JSON: {reason}", error)
  if not isinstance(record, dict):
    return _note(damage, f"{where} is not a JSON object")
  return record


def part(path: epath.Path, step: int) -> epath.Path:
  """The part of a record that holds a step, in a bucket."""
  first = step - step % PART_STEPS
  return path.with_suffix("") / f"{first:06d}.jsonl"


def files(path: epath.Path) -> list[tuple[int, epath.Path]]:
  """[(first step that it may hold, file)] of a record, in their order."""
  whole = [(0, path)] if path.exists() else []
  folder = path.with_suffix("")
  if not folder.is_dir():
    return whole
  matches = [
    (_PART.fullmatch(entry.name), entry) for entry in folder.iterdir()]
  return whole + sorted(
    (int(match[1]), entry) for match, entry in matches if match)


def config(path, damage):
  """The config of a run, {} without one."""
  if not path.exists():
    return {}
  text = _read_bytes(path, damage).decode("utf-8", errors="replace")
  return _parse(f"{path}, line 1", text, damage) or {} if text else {}


def read(path, damage=None):
  """[(line's number, object)] of a JSONL file, without a torn last line."""
  text = _read_bytes(path, damage).decode("utf-8", errors="replace")
  lines = text.split("\n")
  torn = lines.pop()  # "" when the file ends as it should
  if torn:
    try:
      json.loads(torn)
      lines.append(torn)
    except (ValueError, RecursionError):
      pass  # killed in the middle of the write, or being written now
  records = [
    (number, _parse(f"{path}, line {number}", line, damage))
    for number, line in enumerate(lines, start=1)
    if line.strip()
  ]
  return [(number, record) for number, record in records if record is not None]


def steps(path, damage):
  """One dict a step of a record; its values are numbers, texts or None."""
  merged = {}
  rows = [
    (f"{file}, line {number}", row)
    for _, file in files(path) for number, row in read(file, damage)
  ]
  for where, row in rows:
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or (
      not 0 <= step < _MAX
    ):
      _note(damage, f"{where} is without a step: {str(row):.80}")
      continue
    for key in [key for key in row if not _is_metric(key, row[key])]:
      _note(damage, f"{where}: {key} = {str(row[key]):.40} is no number")
      del row[key]
    merged.setdefault(step, {}).update(row)
  return [merged[step] for step in sorted(merged)]


def samples(path, damage):
  """The records of samples, a problem each."""
  if damage is None:
    return [record for _, record in read(path)]
  records = []
  for number, record in read(path, damage):
    completions = record.get("completions")
    if not isinstance(completions, list) or not _is_number(
      record.get("c_prompt")
    ) or not all(
      isinstance(completion, dict)
      and isinstance(completion.get("text", ""), str)
      and all(_is_number(completion.get(key)) for key in _NUMBERS)
      for completion in completions
    ):
      _note(damage, f"{path}, line {number} is not a problem with its samples")
      continue
    records.append(record)
  return records


def _is_metric(key, value):
  """Whether a metric may have a value; some are texts."""
  return _is_number(value) or (
    isinstance(value, str) and not _ALWAYS_NUMBERS.search(key)
  )


def _is_number(value):
  """Whether a value is a finite number, or None for one that was not."""
  return value is None or (
    isinstance(value, int | float) and abs(value) < _MAX
  )
