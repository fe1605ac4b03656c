"""Orbax checkpoints: resuming a run, and reading back its reference policy.

A checkpoint has the items `params`, `opt_state`, `data` and `meta`. The
reference policy is the `params` of the checkpoint that `ref_step` in `meta`
names. It is read back from the disk in the policy's shardings and in the
compute type, and never aliases live parameters, which the next donated update
would overwrite.

A reset at step s writes `ref_step = s` into checkpoint s itself. Committing a
checkpoint is atomic, so a kill cannot leave a run between two references.
Deleting one is atomic too: it is renamed (in a bucket: its commit marker is
deleted) before its first file is deleted, and the rest of a killed deletion is
removed when the run resumes. Orbax would delete it in place, and a half-deleted
checkpoint would still look like a whole one.

Orbax does not notice a changed byte in a committed checkpoint. Each checkpoint
therefore holds a manifest of its files with sizes and checksums, written before
the commit and compared with what is read. A bucket keeps size and CRC-32C of
each object, so that nothing is read there to write the manifest or to compare
it. A file that cannot be reached does not count as damaged, for its content is
not known.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent import futures
import contextlib
import json
import os
import re
import types
from typing import Any, TypeVar
import zlib

from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from progrpo_jax import errors, places
from progrpo_jax.devices import hosts
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import config as config_lib
from progrpo_jax.models import lora, parameters

T = TypeVar("T")
R = TypeVar("R")

_MANIFEST = "manifest.json"
_META = "meta/metadata"
# Commit marker of a checkpoint in a bucket: written last and deleted first.
_COMMITTED = "commit_success.txt"
# Orbax treats a directory with this in its name as unfinished.
_UNFINISHED = ".orbax-checkpoint-tmp"
# Orbax reads through TensorStore, which has one exception for all: a ValueError
# whose text names the kind, and the error of the system.
_AWAY = re.compile(
  r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|CANCELLED|"
  r"PERMISSION_DENIED|UNAUTHENTICATED)\b|\bOS error\b"
)
_BLOCK = 1 << 22  # bytes read at a time for a checksum
# Files whose checksums are computed at a time, each on a processor: zlib lets
# other threads run. More would not make a shared disk or a bucket faster.
_THREADS = min(16, len(os.sched_getaffinity(0)))
# Beginning of a checksum that a bucket computed. Other checksums are CRC-32 as
# whole numbers, in every checkpoint of a disk and in older ones of a bucket.
_OF_STORE = "crc32c:"
# Seconds for the whole of a save in the background: what each host writes, the
# first host's reading of all of it for the manifest, the commit. Orbax's own 20
# minutes are too few for the 393 GB of a policy of 32 billion parameters on a
# disk that takes 100 MB/s, which needs 65 minutes each to write and to read
# them. Nothing depends on a short time: hosts that are lost are known by their
# heartbeat.
_SAVE_S = 4 * 3600


class Damaged(errors.InputError):
  """Files of a checkpoint are missing or differ from what was written."""


class ReferenceDamaged(Damaged):
  """The checkpoint that holds the reference policy is missing or damaged."""


class KeepReferences:
  """Keeps the newest steps, every n-th step, and the references of both.

  An unfinished step is kept while it is the newest one, beside the others.

  Attributes:
    latest: number of newest steps to keep.
    every: also keep steps that this divides; 0 for none.
    reference_of: step -> step of its reference, for readable checkpoints.
    unfinished: steps that lack their evaluation.
  """

  def __init__(
    self,
    latest: int,
    every: int,
    reference_of: dict[int, int],
    unfinished: Set[int] = frozenset(),
  ):
    self.latest = latest
    self.every = every
    self.reference_of = reference_of
    self.unfinished = unfinished

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any = None
  ) -> Sequence[bool]:
    """Returns one decision per checkpoint, for checkpoints sorted by step."""
    del context
    steps = [c.step for c in checkpoints]
    finished = [s for s in steps if s not in self.unfinished]
    kept = {*steps[-1:], *finished[-self.latest :]}
    kept |= {s for s in finished if self.every and s % self.every == 0}
    # A damaged checkpoint's reference is unknown: it counts as its own.
    kept |= {self.reference_of.get(s, s) for s in kept}
    return [s in kept for s in steps]


class Checkpointer:
  """Saves and restores the checkpoints of one run.

  Attributes:
    directory: directory of the checkpoints, one subdirectory per step.
    damaged: step -> reason, for checkpoints that cannot be read.
    unfinished: steps that were saved before their evaluation was done.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    keep: int = 2,
    keep_every: int = 0,
    background: bool = True,
    read_only: bool = False,
    about: Mapping[str, str] | None = None,
  ):
    """Opens a directory of checkpoints and creates it if it does not exist.

    Args:
      directory: local path or gs:// URL.
      keep: number of newest steps to keep, beside their references; background
        writing keeps one more until the next save.
      keep_every: also keep steps that this divides; 0 for none.
      background: whether to write in the background while training goes on.
      read_only: whether to restore only; nothing is created or deleted.
      about: entries of the record of every step that is saved.

    Raises:
      InputError: the directory cannot be written.
      RunError: it, or a checkpoint in it, is out of reach for the moment.
    """
    # Orbax accepts absolute paths only; a gs:// URL is already absolute.
    place = os.fspath(directory)
    self.directory = epath.Path(
      place if places.is_remote(place) else os.path.abspath(place)
    )
    self._background = background
    self._about = dict(about or {})
    self._saving = None
    try:
      with places.reaching(self.directory):
        self._manager = ocp.CheckpointManager(
          self.directory,
          item_names=("params", "opt_state", "data", "meta"),
          options=ocp.CheckpointManagerOptions(
            async_options=ocp.AsyncOptions(
              timeout_secs=_SAVE_S, post_finalization_callback=self._seal
            ),
            read_only=read_only,
            create=not read_only,
          ),
        )
        if not read_only:
          hosts.on_first(lambda: _sweep(self.directory))
    except OSError as e:
      raise places.unwritable(f"checkpoints to {directory}", e) from e
    self._reference_of: dict[int, int] = {}
    self.damaged: dict[int, str] = {}
    self.unfinished: set[int] = set()
    # All hosts take the first host's listing: it may be deleting already, and
    # the hosts' own listings could differ.
    try:
      listing = hosts.from_first(hosts.on_first(self._list_steps))
    except Exception:
      self._manager.close()
      raise
    for step, (meta, reason) in listing.items():
      if reason:
        self.damaged[step] = reason
      else:
        self._note(step, meta)
    self._policy = KeepReferences(
      keep, keep_every, self._reference_of, self.unfinished
    )

  def _note(self, step: int, meta: dict[str, Any]) -> None:
    """Notes a step that can be read."""
    self._reference_of[step] = meta["ref_step"]
    self.unfinished.discard(step)
    if meta.get("measured"):
      self.unfinished.add(step)

  def _list_steps(self) -> dict[int, tuple[dict[str, Any], str]]:
    """Returns step -> (JSON record, "") or ({}, damage)."""

    def look(step: int) -> tuple[dict[str, Any], str] | None:
      try:
        self._check_complete(step)
        return self._read_meta(step), ""
      except Damaged as e:
        # A reader may meet a training run that has just deleted the step.
        return ({}, str(e)) if self._path(step).exists() else None

    steps = list(self._manager.all_steps())
    # In a bucket each step takes dozens of requests, and a run may keep many.
    found = _in_parallel(look, steps)
    return {
      step: record
      for step, record in zip(steps, found, strict=True)
      if record is not None
    }

  def steps(self) -> list[int]:
    """Returns the steps whose files are all present, in rising order."""
    return sorted(self._reference_of)

  def latest(self) -> int | None:
    """Returns the newest of `steps()`, or None if there is none."""
    return max(self._reference_of, default=None)

  def reference_of(self, step: int) -> int:
    """Returns the step whose parameters are the reference at `step`."""
    return self._reference_of[step]

  def save(
    self,
    step: int,
    state: state_lib.TrainState,
    meta: dict[str, Any],
    data: dict[str, Any] | None = None,
  ) -> None:
    """Saves a step.

    The arrays of `state` may be donated once this returns. An unfinished
    checkpoint of the step is replaced; a kill in between leaves the step before
    it, from which the same is computed again.

    Args:
      step: number of steps done.
      state: training state.
      meta: JSON-able record of the step with the key `ref_step`, and with
        `measured` if the evaluation of the step is still to come.
      data: arrays of groups carried over to the next step, or None.

    Raises:
      ValueError: the reference of this step is not among the checkpoints.
      OSError: the disk is full or gone; earlier steps are untouched.
    """
    reference = meta["ref_step"]
    if reference != step and reference not in self._reference_of:
      raise ValueError(
        f"step {step} names step {reference} as its reference, of which "
        "there is no checkpoint"
      )
    items = dict(
      params=ocp.args.StandardSave(state.params),
      opt_state=ocp.args.StandardSave(
        dict(opt_state=state.opt_state, skipped=state.skipped)
      ),
      meta=ocp.args.JsonSave(self._about | meta),
    )
    if data:
      items["data"] = ocp.args.StandardSave(data)
    self.wait()  # `_seal` of the previous save may still read `_saving`
    if step in self.unfinished:
      hosts.on_first(lambda: _delete(self._path(step)))
      self._manager.reload()  # or Orbax would refuse a step that it has listed
    self._note(step, meta)
    self._saving = step
    with self._forgotten_if_it_fails():
      self._manager.save(step, args=ocp.args.Composite(**items))
    if not self._background:
      self.wait()

  def wait(self) -> None:
    """Waits until the last save is committed, then deletes expired steps."""
    with self._forgotten_if_it_fails():
      self._manager.wait_until_finished()
    if self._saving is not None:
      self._prune()
      self._saving = None

  @contextlib.contextmanager
  def _forgotten_if_it_fails(self) -> Iterator[None]:
    """Context of a save; a step that was not saved makes no other expire."""
    try:
      yield
    except Exception:
      if self._saving is not None:
        self._forget(self._saving)
        self._saving = None
      raise

  def go_on_from(self, step: int) -> list[str]:
    """Makes `step` the newest checkpoint and deletes expired ones.

    Later checkpoints are moved to the directory `<directory>-damaged`, and so
    are damaged ones that would be kept if they were whole. Expired ones are
    deleted, as the killed run would have done.

    Args:
      step: step that the run resumes from.

    Returns:
      Places of those that were moved; empty on all hosts but the first.
    """
    all_steps = sorted({*self._reference_of, *self.damaged})
    aside = [s for s in all_steps if s > step]
    aside += [
      s
      for s in self._unexpired([s for s in all_steps if s <= step])
      if s in self.damaged
    ]
    moved = hosts.on_first(lambda: [self._set_aside(s) for s in aside])
    for s in aside:
      self._forget(s)
    self._prune()
    # Orbax refuses to save a step that it has listed before, so it must list
    # again; the gather makes every host wait for the first one's moves.
    hosts.gather(None)
    self._manager.reload()
    return moved or []

  def restore(
    self, step: int, like: state_lib.TrainState
  ) -> tuple[state_lib.TrainState, dict[str, Any], dict[str, Any]]:
    """Restores a step into the shapes, types and shardings of `like`.

    Args:
      step: step to restore.
      like: training state, of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      (state, meta, data): training state, JSON record, and arrays of groups
      carried over ({} for none).

    Raises:
      Damaged: a file differs from what was written.
      InputError: the checkpoint was made with another model or optimiser.
    """
    items = dict(
      params=ocp.args.StandardRestore(like.params),
      opt_state=ocp.args.StandardRestore(
        dict(opt_state=like.opt_state, skipped=like.skipped)
      ),
    )
    if step in self.damaged:
      raise Damaged(self.damaged[step])
    meta = self.load_meta(step)
    # `data` is saved only when groups were carried over.
    if any(name.startswith("data/") for name in self._manifest(step)):
      items["data"] = ocp.args.StandardRestore()
    out = self._restore(step, items)
    state = state_lib.TrainState(params=out["params"], **out["opt_state"])
    return state, meta, out.get("data") or {}

  def load_meta(self, step: int) -> dict[str, Any]:
    """Returns the JSON record of a step, the same on every host."""
    return hosts.agree(lambda: self._read_meta(step))

  def load_params(self, step: int, like: Any) -> Any:
    """Returns the parameters of a step.

    Args:
      step: step to read.
      like: tree of `jax.ShapeDtypeStruct` with shapes, types and shardings.

    Raises:
      Damaged: a file differs from what was written.
      InputError: there is no such checkpoint, or its model is another.
    """
    if step in self.damaged:
      raise Damaged(self.damaged[step])
    if step not in self._reference_of:
      raise errors.InputError(
        f"{self.directory} has no checkpoint of step {step}; it has "
        f"{self.steps()}"
      )
    return self._restore(step, dict(params=ocp.args.StandardRestore(like)))[
      "params"
    ]

  def load_reference(
    self, step: int, config: config_lib.ModelConfig, mesh: jax.sharding.Mesh
  ) -> Any:
    """Returns the trained parameters of a step as a reference policy.

    They have the compute type, to which the forward pass casts the policy's
    float32 masters: right after a reset, policy and reference are equal bit
    for bit.

    Args:
      step: step of the reference.
      config: model configuration.
      mesh: mesh of the devices that hold the parameters.

    Raises:
      ReferenceDamaged: there is no such checkpoint, or it cannot be read.
        Training without it, or with another one, would silently change the
        objective.
    """
    # With LoRA only the adapters are in the checkpoint.
    like = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(
        x.shape, jnp.dtype(config.dtype), sharding=s
      ),
      *(
        lora.split(config, tree)[0]
        for tree in (
          parameters.abstract_params(config),
          parameters.shardings(config, mesh),
        )
      ),
    )
    self.wait()
    if step not in self._reference_of and step not in self.damaged:
      raise ReferenceDamaged(
        f"the reference policy is step {step}, but {self.directory} has "
        f"no checkpoint of that step (it has {self.steps()})"
      )
    try:
      return self.load_params(step, like)
    except Damaged as e:
      raise ReferenceDamaged(f"the reference policy is step {step}: {e}") from e

  def close(self) -> None:
    """Waits for background writes and releases the directory."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def _path(self, step: int) -> epath.Path:
    return self.directory / str(step)

  def _unexpired(self, steps: list[int]) -> list[int]:
    """Returns the sorted steps without those that are to be deleted."""
    infos = [types.SimpleNamespace(step=s) for s in steps]
    return [
      s
      for s, kept in zip(
        steps, self._policy.should_preserve(infos), strict=True
      )
      if kept
    ]

  def _prune(self) -> None:
    """Deletes expired checkpoints."""
    steps = sorted({*self._reference_of, *self.damaged})
    # Newest first: a kill in between leaves no step without its reference.
    for step in sorted({*steps} - {*self._unexpired(steps)}, reverse=True):
      self._forget(step)
      if hosts.is_first():
        _delete(self._path(step))

  def _forget(self, step: int) -> None:
    """Forgets a step that is no longer in the directory."""
    self._reference_of.pop(step, None)
    self.damaged.pop(step, None)
    self.unfinished.discard(step)

  def _set_aside(self, step: int) -> str:
    """Moves a checkpoint away, so that its step can be saved again.

    Returns:
      Its new place.
    """
    home = self.directory.with_name(f"{self.directory.name}-damaged")
    home.mkdir(parents=True, exist_ok=True)
    if places.is_remote(home):
      # A bucket cannot rename. The original is deleted after the whole copy,
      # so a kill leaves one of the two whole; the next start copies again.
      places.copy(self._path(step), home / str(step))
      _delete(self._path(step))
      return os.fspath(home / str(step))
    place, number = home / str(step), 1
    while place.exists():
      number += 1
      place = home / f"{step}-{number}"
    self._path(step).rename(place)
    return os.fspath(place)

  def _seal(self) -> None:
    """Writes the manifest of the step that is about to be committed."""
    if hosts.is_first():
      # A file system holds the step under a temporary name until the commit;
      # an object store cannot rename and holds it under its final one.
      unfinished = list(self.directory.glob(f"{self._saving}.*-tmp*"))
      (folder,) = unfinished or [self._path(self._saving)]
      files = _files(folder)
      # Orbax calls this on the first host alone, while the others wait.
      digests = _in_parallel(_digest, files)
      manifest = {
        str(p.relative_to(folder)): digest
        for p, digest in zip(files, digests, strict=True)
      }
      places.write(folder / _MANIFEST, json.dumps(manifest))

  @contextlib.contextmanager
  def _reading(self, step: int, what: str, path: epath.Path) -> Iterator[None]:
    """Context that reads a file of a step.

    Args:
      step: step of the checkpoint.
      what: part of the checkpoint that is read, for the message.
      path: file or directory that is read.

    Raises:
      Damaged: it is missing.
      RunError: it is out of reach.
    """
    try:
      with places.reading(path):
        yield
    except places.MISSING as e:
      raise self._damage(step, what, e) from e

  def _manifest(self, step: int) -> dict[str, list[int | str]]:
    """Returns file -> [size, checksum] as written."""
    path = self._path(step) / _MANIFEST
    with self._reading(step, _MANIFEST, path):
      content = path.read_bytes()
    try:
      return dict(json.loads(content))
    except (ValueError, TypeError, RecursionError) as e:
      raise self._damage(step, _MANIFEST, e) from e

  def _check_complete(self, step: int) -> None:
    """Raises Damaged if a file of the manifest is missing."""
    folder, manifest = self._path(step), self._manifest(step)
    with self._reading(step, "the files", folder):
      present = {str(p.relative_to(folder)) for p in _files(folder)}
    for name in manifest:
      if name not in present:
        raise self._damage(step, name, FileNotFoundError("it is missing"))

  def _read_meta(self, step: int) -> dict[str, Any]:
    """Returns the JSON record of a step, compared with the manifest."""
    manifest = self._manifest(step)
    names = {n for n in manifest if n.startswith("meta/")} | {_META}
    self._compare(step, "meta", sorted(names), manifest)
    path = self._path(step) / _META
    with self._reading(step, "meta", path):
      content = path.read_bytes()
    return json.loads(content)

  def _compare(
    self,
    step: int,
    what: str,
    names: Sequence[str],
    manifest: dict[str, list[int | str]],
  ) -> None:
    """Raises Damaged if a file differs from the manifest."""

    def compare(name: str) -> None:
      path, written = self._path(step) / name, manifest.get(name)
      with self._reading(step, what, path):
        found = _digest(path, written)
      if found != written:
        wrong = ValueError(f"{name} is not what was written")
        raise self._damage(step, what, wrong)

    _in_parallel(compare, names)

  def _restore(self, step: int, items: dict[str, Any]) -> Any:
    """Reads items after comparing their files with the manifest."""
    names = ", ".join(items)

    def compare():
      manifest = self._manifest(step)
      # Each host compares its share of the files: checksums read all bytes.
      files = sorted(n for n in manifest if n.partition("/")[0] in items)
      self._compare(
        step, names, files[hosts.index() :: hosts.count()], manifest
      )

    hosts.agree(compare)
    # All bytes are those that were written, so what fails now is the reading
    # itself, or what they are read into.
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except (ValueError, OSError, KeyError, TypeError) as e:
      if _is_away(e):
        raise errors.RunError(
          f"{self._path(step)}: cannot be reached: {errors.one_line(e)}; the "
          "same command tries again"
        ) from e
      raise errors.InputError(
        f"cannot read {names} of checkpoint {self._path(step)}: "
        f"{_first_line(e)}; its files are undamaged, but were written with "
        "another model or optimiser: restore these settings of the config, "
        "or start a new run from it with "
        f"--config.model.init_from={self._path(step)} and another --workdir"
      ) from e

  def _damage(self, step: int, what: str, error: Exception) -> Damaged:
    """Returns the error for a checkpoint that is damaged."""
    return Damaged(
      f"cannot read {what} of checkpoint {self._path(step)}: "
      f"{_first_line(error)}; it is damaged"
    )


def newest_meta(directory: str | os.PathLike) -> dict[str, Any] | None:
  """Returns the JSON record of the newest readable step, or None.

  For messages before a run starts: it opens no `Checkpointer`, changes nothing
  on disk and compares no checksums.

  Args:
    directory: directory of checkpoints, which need not exist.
  """
  for folder in reversed(_committed(directory)):
    try:
      meta = json.loads((folder / _META).read_text())
    except (OSError, ValueError):
      continue
    if isinstance(meta, dict):
      return meta
  return None


def newest(directory: str | os.PathLike) -> int | None:
  """Returns the newest step that was saved completely, or None.

  Args:
    directory: directory of checkpoints, which need not exist.
  """
  return max((int(p.name) for p in _committed(directory)), default=None)


def _committed(directory: str | os.PathLike) -> list[epath.Path]:
  """Returns the checkpoints that were saved completely, by rising step."""
  directory = epath.Path(directory)
  folders = directory.iterdir() if directory.is_dir() else ()
  return sorted(
    (p for p in folders if p.name.isdigit() and is_committed(p)),
    key=lambda p: int(p.name),
  )


def _sweep(directory: epath.Path) -> None:
  """Deletes what killed saves and killed deletions have left behind."""
  # A bucket has no empty directories, so this one may not exist yet.
  for path in list(directory.iterdir()) if directory.is_dir() else ():
    if places.is_remote(path):
      partial = path.name.isdigit() and not is_committed(path)
    else:
      partial = _UNFINISHED in path.name
    if partial:
      path.rmtree()


def _delete(folder: epath.Path) -> None:
  """Deletes a checkpoint; from the first change on it does not count as one.

  Raises:
    InputError: the bucket refuses the deletion.
    RunError: the bucket cannot be reached; the next start deletes the rest.
  """
  # FileNotFoundError: somebody may have deleted it by hand.
  with places.reaching(folder), contextlib.suppress(FileNotFoundError):
    if places.is_remote(folder):
      (folder / _COMMITTED).unlink(missing_ok=True)
      folder.rmtree()
      return
    nameless = folder.with_name(f"{folder.name}{_UNFINISHED}-deleted")
    folder.rename(nameless)
    nameless.rmtree()


def is_committed(folder: epath.Path) -> bool:
  """Returns whether a checkpoint was saved completely.

  A file system renames a complete checkpoint to its step; in a bucket, where
  a partial one has that name too, a marker file says so.
  """
  return ocp.utils.is_checkpoint_finalized(folder)


def _files(folder: epath.Path) -> list[epath.Path]:
  """Returns all files under a directory, sorted within each directory."""
  files = []
  for path in sorted(folder.iterdir()):
    files += _files(path) if path.is_dir() else [path]
  return files


def _in_parallel(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
  """Calls `work` on each item, in threads, and returns the results in order.

  Raises:
    Exception: raised by `work` on the first item of those it fails on.
  """
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    calls = [pool.submit(work, item) for item in items]
    try:
      return [call.result() for call in calls]
    finally:
      pool.shutdown(cancel_futures=True)


def _digest(path: epath.Path, written: Any = None) -> list[int | str]:
  """Returns [size in bytes, checksum] of a file.

  Args:
    path: the file.
    written: entry of the manifest, whose kind of checksum is computed; None
      where a new manifest is written.
  """
  of_store = isinstance(written, list) and any(
    isinstance(value, str) and value.startswith(_OF_STORE) for value in written
  )
  if of_store or written is None:
    stored = places.stored_checksum(path)
    if stored is not None:
      return [stored[0], _OF_STORE + stored[1]]
  extend = _extend_crc32
  if of_store:  # a checkpoint that was copied out of its bucket
    with errors.of_extra("gcs"):
      import google_crc32c
    extend = google_crc32c.extend
  size = checksum = 0
  with path.open("rb") as f:
    while block := f.read(_BLOCK):
      size += len(block)
      checksum = extend(checksum, block)
  if of_store:
    text = base64.b64encode(checksum.to_bytes(4, "big")).decode()
    return [size, _OF_STORE + text]
  return [size, checksum]


def _extend_crc32(checksum: int, block: bytes) -> int:
  """Returns the CRC-32 of what had a checksum, followed by a block."""
  return zlib.crc32(block, checksum)


def _is_away(error: Exception) -> bool:
  """Returns whether an error of Orbax says that files are out of reach."""
  if places.lacks_files(error):  # of which the command line knows what to do
    return False
  if isinstance(error, OSError):
    return not isinstance(error, places.MISSING)
  return bool(_AWAY.search(str(error)))


def _first_line(error: Exception) -> str:
  """Returns the first line of an error's message, or the error's type."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]
