"""The prompts of a run, drawn by number.

Draw number i of a source is the same row in every process and after every
resume, because Grain's shuffling and mixing are functions of the index. So the
position of a run in its data is one integer.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import hashlib
import json
from typing import Any

import grain
import numpy as np

from progrpo_jax import batch
from progrpo_jax.errors import InputError
from progrpo_jax.tasks import base
from progrpo_jax.text import tokenizer as tokenizer_lib

_SPEC_KEYS = {"name", "label", "weight", "options", "seed"}


class PromptSource:
  """A seeded, endless mixture of tasks with random access.

  Args:
    specs: mappings {"name", "label" = name, "weight" = 1.0, "options" = {},
      "seed" = 0}. The seed of a spec decides which problems are generated; the
      label names the task in metrics.
    split: "train" or "validation".
    seed: seed of the order of the problems.
    data_dir: directory of built data.
    keep: function that says whether a row may be drawn; None permits all.

  Attributes:
    left_out: task -> (number of rows that `keep` excludes, number of rows).
    texts: hashes of the prompts that are drawn, see `text_hash`.

  Raises:
    InputError: there is no task, a spec is malformed, or `keep` excludes all
      rows of a task.
  """

  def __init__(
    self,
    specs: Sequence[Mapping[str, Any]],
    split: str,
    seed: int,
    data_dir: str,
    keep: Callable[[base.Row], bool] | None = None,
  ):
    if not specs:
      raise InputError("no task is given")
    specs = [_complete(spec) for spec in specs]
    # The digest describes everything that decides the draws, the rows of a
    # user's files too, which may have changed since. A label does not, so it
    # may change on resume.
    labels = [spec.pop("label") for spec in specs]
    described: list[Any] = [specs, split, seed]
    self._sources: list[base.Source] = [
      Labelled(_load(spec, split, data_dir), spec["name"], label)
      for spec, label in zip(specs, labels)
    ]
    self.left_out: dict[str, tuple[int, int]] = {}
    self.texts: set[int] = set()
    self._whole, self._kept = self._sources, [None] * len(specs)
    if keep is not None:
      self._sources = self._kept = [
        Kept(source, keep, label) for label, source in zip(labels, self._whole)
      ]
      counts = [source.counts for source in self._kept]
      excluded, total = (
        sum((c[n] for c in counts), Counter()) for n in range(2)
      )
      self.left_out = {task: (excluded[task], total[task]) for task in total}
    described.append([self._read(source) for source in self._sources])
    text = json.dumps(described, sort_keys=True, default=list)
    self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    # Each task is shuffled and repeated by itself, then mixed by weight.
    parts = [
      grain.MapDataset.source(source)
      .shuffle(seed=_seed(seed, i, spec["name"]))
      .repeat()
      for i, (spec, source) in enumerate(zip(specs, self._sources))
    ]
    weights = np.asarray([spec["weight"] for spec in specs], float)
    self._rows = grain.MapDataset.mix(parts, weights=weights / weights.sum())

  def _read(self, source: base.Source) -> str:
    """Returns the hash of the contents of a source, whose texts are noted."""
    if isinstance(source, Kept):  # it has read them already
      self.texts |= source.texts
      return source.digest
    contents = hashlib.sha256()
    for i in range(len(source)):
      row = source[i]
      contents.update(batch.content_of(row))
      self.texts.add(text_hash(row))
    return contents.hexdigest()[:16]

  def row(self, draw: int) -> base.Row:
    """Returns the row of a draw, a function of seed and draw alone."""
    return self._rows[draw]

  def first(self, count: int) -> list[base.Row]:
    """Returns up to `count` rows for evaluation, the same ones for all runs.

    The order does not depend on the run's seed, and excluding a row does not
    move any other.
    """
    # Permute all rows first, then drop the excluded ones.
    candidates = [
      (source, i, kept is None or i in kept)
      for source, kept in zip(self._whole, self._kept)
      for i in range(len(source))
    ]
    order = np.random.default_rng(0).permutation(len(candidates))
    chosen = [candidates[o] for o in order if candidates[o][2]][:count]
    return [source[i] for source, i, _ in chosen]

  def rows_left_out(self) -> Iterator[base.Row]:
    """Yields the rows that `keep` excludes."""
    for source, kept in zip(self._whole, self._kept):
      if kept is not None:
        yield from (source[i] for i in range(len(source)) if i not in kept)

  @property
  def refused(self) -> dict[str, int]:
    """Reason -> number of rows in the files that cannot be used for it."""
    return dict(sum((base.refused(s) for s in self._whole), Counter()))

  def state(self, position: int) -> dict[str, Any]:
    """Returns the entry of a checkpoint for the next draw's number."""
    return {"position": int(position), "source": self._digest}

  def restore(self, state: Mapping[str, Any], anyway: bool = False) -> int:
    """Returns the position that a checkpoint has saved.

    A checkpoint that was saved because a stage could not begin names no source:
    its position is valid for any.

    Args:
      state: result of `state`.
      anyway: whether draws go on from that number in another source, too.

    Raises:
      InputError: the checkpoint belongs to another source.
    """
    if not anyway and not self.continues(state):
      raise InputError(
        "the checkpoint was trained on other rows: a task, an option, the seed,"
        " or a data file is not what it was, so that the order of its data"
        " cannot be continued; put the data back, or choose a new --workdir"
        " (--override goes on with the new data)"
      )
    return int(state["position"])

  def continues(self, state: Mapping[str, Any]) -> bool:
    """Returns whether the draws of a checkpoint are those of this source."""
    return state["source"] in (None, self._digest)


class Labelled:
  """A source whose rows carry the label that the config gives their task.

  Rows of other tasks, such as a set that the task holds out, keep their own
  label.
  """

  def __init__(self, source: base.Source, task: str, label: str):
    self._source, self._task, self._label = source, task, label

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> base.Row:
    row = self._source[index]
    if row.task != self._task:
      return row
    return dataclasses.replace(row, label=self._label)


class Kept:
  """The rows of a source that may be drawn, in the source's order.

  Attributes:
    digest: hash of the contents of the rows that are kept.
    texts: hashes of their prompts, see `text_hash`.
    counts: (task -> number of excluded rows, task -> number of rows).
  """

  def __init__(
    self, source: base.Source, keep: Callable[[base.Row], bool], name: str
  ):
    """Finds the rows to keep.

    Args:
      source: rows of one task.
      keep: function that says whether a row may be drawn.
      name: task as the error names it.

    Raises:
      InputError: no row is left.
    """
    self._source = source
    self._indices, self.counts = [], (Counter(), Counter())
    self.texts: set[int] = set()
    contents = hashlib.sha256()
    for i in range(len(source)):
      row = source[i]
      self.counts[1][row.task] += 1
      if keep(row):
        self._indices.append(i)
        contents.update(batch.content_of(row))
        self.texts.add(text_hash(row))
      else:
        self.counts[0][row.task] += 1
    self._kept = frozenset(self._indices)
    self.digest = contents.hexdigest()[:16]
    if not self._indices:
      raise InputError(
        f"task {name}: none of its {len(source)} prompts is short enough;"
        " raise data.max_prompt_length"
      )

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: int) -> base.Row:
    if index < 0:
      raise IndexError(index)
    return self._source[self._indices[index]]

  def __contains__(self, index: int) -> bool:
    """Returns whether the source's row with this index may be drawn."""
    return index in self._kept


def text_hash(row: base.Row) -> int:
  """Hash, in this process, of a row's messages; all blanks count as equal."""
  return hash(tuple(" ".join(text.split()) for text in _said(row)))


def _said(row: base.Row) -> tuple[str, ...]:
  """Returns the texts of a row's messages."""
  return (*(message["content"] for message in row.context), row.prompt)


def _complete(spec: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a spec with its defaults filled in, or raises InputError."""
  for key in spec:
    if key not in _SPEC_KEYS:
      known = sorted(_SPEC_KEYS)
      raise InputError(f"task: no key {key!r}{base.nearest(key, known)}")
  if "name" not in spec:
    raise InputError(f"a task without a name: {dict(spec)}")
  full = {
    "label": spec["name"],
    "weight": 1.0,
    "options": {},
    "seed": 0,
    **spec,
  }
  full["options"] = dict(full["options"])
  if not full["weight"] > 0:
    raise InputError(f"task {spec['name']}: weight {full['weight']} is not > 0")
  return full


def _load(spec: dict[str, Any], split: str, data_dir: str) -> base.Source:
  """Loads the rows of a completed spec."""
  return base.load(
    spec["name"], split, data_dir=data_dir, seed=spec["seed"], **spec["options"]
  )


def _seed(seed: int, index: int, name: str) -> int:
  """Returns a 31-bit seed, different for each task of a mixture."""
  text = f"{seed}/{index}/{name}".encode()
  return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1


class Prompter:
  """Encodes rows into batches with few different shapes.

  Every shape compiles anew, so batches are padded to one of a few widths.

  Args:
    source: source of rows.
    tokenizer: tokenizer of the policy.
    buckets: permitted widths of batches, in tokens; max_prompt_length is added.
    max_prompt_length: longest permitted prompt, in tokens.
  """

  def __init__(
    self,
    source: PromptSource,
    tokenizer: tokenizer_lib.Tokenizer,
    *,
    buckets: Sequence[int],
    max_prompt_length: int,
  ):
    self._source = source
    self._tokenizer = tokenizer
    self._limit = max_prompt_length
    narrower = {b for b in buckets if 0 < b < max_prompt_length}
    self._buckets = sorted(narrower | {max_prompt_length})

  def take(self, position: int, count: int) -> batch.Prompts:
    """Encodes the draws position to position + count - 1."""
    return self.of(range(position, position + count))

  def of(self, ids: Sequence[int]) -> batch.Prompts:
    """Encodes the draws with these numbers."""
    return self.encode([self._source.row(int(i)) for i in ids], ids)

  def first(self, count: int, size: int) -> list[batch.Prompts]:
    """Encodes the source's evaluation rows in batches of one size and width.

    Copies of the last row, with negative ids, fill up the last batch.

    Args:
      count: largest number of rows.
      size: number of rows of a batch.
    """
    rows = self._source.first(count)
    ids = list(range(len(rows)))
    missing = -len(rows) % size
    rows += rows[-1:] * missing
    ids += range(-1, -missing - 1, -1)
    whole = self.encode(rows, ids)
    return [
      batch.Prompts(
        whole.tokens_PT[i : i + size],
        whole.mask_PT[i : i + size],
        whole.user_mask_PT[i : i + size],
        whole.ids_P[i : i + size],
        whole.rows[i : i + size],
      )
      for i in range(0, len(rows), size)
    ]

  def state(self, position: int) -> dict[str, Any]:
    """Returns the entry of a checkpoint; see `PromptSource.state`."""
    return self._source.state(position)

  def restore(self, state: Mapping[str, Any], anyway: bool = False) -> int:
    """Returns the position in a checkpoint; see `PromptSource.restore`."""
    return self._source.restore(state, anyway)

  def continues(self, state: Mapping[str, Any]) -> bool:
    """Returns whether a checkpoint fits; see `PromptSource.continues`."""
    return self._source.continues(state)

  def resized(self, max_prompt_length: int) -> "Prompter":
    """Returns a prompter of the same source with one other width."""
    return Prompter(
      self._source,
      self._tokenizer,
      buckets=(),
      max_prompt_length=max_prompt_length,
    )

  @property
  def source(self) -> PromptSource:
    """Source of rows."""
    return self._source

  @property
  def left_out(self) -> dict[str, tuple[int, int]]:
    """Task -> (number of excluded rows, of all); see `PromptSource`."""
    return self._source.left_out

  def fits(self, row: base.Row) -> bool:
    """Returns whether the row's prompt is within the limit."""
    return fits(self._tokenizer, self._limit, row)

  def check(self, count: int = 256) -> None:
    """Encodes the first draws, to find a bad prompt before training.

    Args:
      count: number of draws.

    Raises:
      InputError: a prompt is empty or too long.
    """
    for draw in range(count):
      self._encode(self._source.row(draw), draw)

  def markup(self, count: int = 256) -> tuple[int, str, str]:
    """Looks for a chat's markup in the messages of the first draws.

    Args:
      count: number of draws.

    Returns:
      (number of draws with markup, a control token that one spells out, place
      of that row); (0, "", "") where there is none.
    """
    found = []
    for draw in range(count):
      row = self._source.row(draw)
      if token := self._tokenizer.markup("\n".join(_said(row))):
        found.append((token, row.place or f"row {draw}"))
    return (len(found), *found[0]) if found else (0, "", "")

  def encode(
    self, rows: Sequence[base.Row], ids: Sequence[int]
  ) -> batch.Prompts:
    """Encodes rows, padded on the left to the smallest sufficient width.

    Args:
      rows: rows to encode.
      ids: number of each row's draw.

    Returns:
      Prompts with tokens_PT, T a width of the buckets.

    Raises:
      InputError: a prompt is empty or too long.
    """
    encoded = [self._encode(row, i) for row, i in zip(rows, ids, strict=True)]
    longest = max((len(tokens) for tokens, _ in encoded), default=1)
    width = next(b for b in self._buckets if b >= longest)
    return pad(rows, encoded, ids, width)

  def _encode(self, row: base.Row, draw: int) -> tuple[list[int], list[bool]]:
    """Encodes one row; an InputError names the row."""
    place = row.place or f"row {draw}"
    return encode_row(
      self._tokenizer,
      row,
      self._limit,
      where=f"task {row.label}, {place} ({row.prompt[:40]!r})",
      advice=(
        ": raise it, or leave such prompts out by"
        " config.data.filter_overlong_prompts"
      ),
    )


def encode_row(
  tokenizer: tokenizer_lib.Tokenizer,
  row: base.Row,
  limit: int,
  *,
  where: str,
  advice: str = "",
) -> tuple[list[int], list[bool]]:
  """Returns the tokens of a row's prompt, and which are the user's own text.

  Args:
    tokenizer: tokenizer of the policy.
    row: row of data.
    limit: tokens of the longest prompt that is allowed.
    where: the row, in error messages.
    advice: end of the message about a prompt that is too long.

  Raises:
    InputError: the prompt is empty or too long.
  """
  tokens, user = tokenizer.encode_prompt(row.prompt, row.context)
  if len(tokens) > limit:
    raise InputError(
      f"{where}: the prompt has {len(tokens)} tokens,"
      f" config.data.max_prompt_length is {limit}{advice}"
    )
  if not any(user):
    raise InputError(f"{where}: the prompt has no tokens")
  return tokens, user


def pad(
  rows: Sequence[base.Row],
  encoded: Sequence[tuple[list[int], list[bool]]],
  ids: Sequence[int],
  width: int,
) -> batch.Prompts:
  """Pads encoded prompts on the left.

  Args:
    rows: rows of data.
    encoded: results of `encode_row` for these, of at most `width` tokens.
    ids: number of each row's draw.
    width: T of the result.
  """
  shape = len(rows), width
  tokens_PT = np.zeros(shape, np.int32)
  mask_PT = np.zeros(shape, bool)
  user_mask_PT = np.zeros(shape, bool)
  for p, (tokens, user) in enumerate(encoded):
    tokens_PT[p, width - len(tokens) :] = tokens
    mask_PT[p, width - len(tokens) :] = True
    user_mask_PT[p, width - len(tokens) :] = user
  ids_P = np.asarray(ids, np.int64)
  return batch.Prompts(tokens_PT, mask_PT, user_mask_PT, ids_P, tuple(rows))


def fits(tokenizer: tokenizer_lib.Tokenizer, limit: int, row: base.Row) -> bool:
  """Returns whether a row's prompt has at most so many tokens."""
  return len(tokenizer.encode_prompt(row.prompt, row.context)[0]) <= limit
