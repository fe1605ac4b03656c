"""Orbax checkpoints: what a run resumes from, and what its reference is.

A checkpoint has the items `params`, `opt_state`, `data` and `meta`. The
reference policy is the `params` of one of them, named by `ref_step` in every
`meta`: it is read back from the disk in the policy's shardings and in the
compute type. It is never an alias of live parameters, which the next donated
update would overwrite.

A reset at step s writes `ref_step = s` into checkpoint s itself. The commit of
a checkpoint is atomic, so no kill can leave a run between two references. Its
end is too: a checkpoint loses its name (in a bucket its mark of being whole)
before its first file goes, and what a kill leaves of it is swept up when the
run goes on. Orbax would delete it in place, and half of it would still look
like a checkpoint.

Orbax reads a committed checkpoint of which a byte has changed without a word.
A list of all files with their sizes and checksums therefore stands in each
checkpoint, written before its commit and held against what is read.
"""

from collections.abc import Sequence
import contextlib
import json
import os
import types
from typing import Any
import zlib

from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from progrpo_jax import errors, places
from progrpo_jax.devices import hosts
from progrpo_jax.learn import state as state_lib
from progrpo_jax.models import lora, transformer

_MANIFEST = "manifest.json"
_META = "meta/metadata"
# Of a bucket's checkpoint: written last, and taken away first.
_COMMITTED = "commit_success.txt"
# Part of the name by which Orbax knows what it may sweep up.
_UNFINISHED = ".orbax-checkpoint-tmp"
_BLOCK = 1 << 24


class Damaged(errors.InputError):
  """Files of a checkpoint are not what was written, or not there."""


class ReferenceDamaged(Damaged):
  """A checkpoint is whole; the one that its reference is read from is not."""


class KeepReferences:
  """Keeps the newest steps, every n-th, and the reference of each kept one."""

  def __init__(self, latest: int, every: int, reference_of: dict[int, int]):
    self.latest = latest
    self.every = every
    self.reference_of = reference_of

  def should_preserve(self, checkpoints, *, context=None) -> Sequence[bool]:
    """One decision a checkpoint, oldest first."""
    del context
    steps = [c.step for c in checkpoints]
    kept = set(steps[-self.latest:])
    kept |= {s for s in steps if self.every and s % self.every == 0}
    # Of a damaged one nobody can tell the reference.
    kept |= {self.reference_of.get(s, s) for s in kept}
    return [s in kept for s in steps]


class Checkpointer:
  """Saves and restores the steps of one run.

  Attributes:
    damaged: step -> why it cannot be read, of those that stand where a
      checkpoint does.
  """

  def __init__(
      self, directory, *, keep: int = 2, keep_every: int = 0,
      background: bool = True, read_only: bool = False):
    """Opens a directory of checkpoints, made if it does not exist.

    Args:
      directory: local path or gs:// URL.
      keep: newest steps kept (their references are kept beside them); in the
        background one more, until the next save.
      keep_every: also keep steps that this divides; 0 for none.
      background: write in the background while training goes on.
      read_only: only restore; nothing is made or tidied up.

    Raises:
      InputError: the directory cannot be written.
    """
    # Orbax takes absolute places only; a gs:// URL is one as it stands.
    place = os.fspath(directory)
    self.directory = epath.Path(
        place if "://" in place else os.path.abspath(place))
    self._background = background
    self._saving = None
    try:
      with places.reaching(self.directory):
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_names=("params", "opt_state", "data", "meta"),
            options=ocp.CheckpointManagerOptions(
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._seal),
                read_only=read_only, create=not read_only))
        if not read_only and hosts.is_first():
          _sweep(self.directory)
    except OSError as e:
      raise errors.InputError(
          f"cannot write checkpoints to {directory}: {e}") from e
    self._reference_of: dict[int, int] = {}
    self.damaged: dict[int, str] = {}
    # What the first host sees holds for all: it may be tidying up by now.
    for step, (reference, reason) in hosts.from_first(self._look()).items():
      if reason:
        self.damaged[step] = reason
      else:
        self._reference_of[step] = reference
    self._policy = KeepReferences(keep, keep_every, self._reference_of)

  def _look(self) -> dict[int, tuple[int | None, str]]:
    """Step -> (its reference, "") or (None, what is wrong with it)."""
    seen = {}
    for step in self._manager.all_steps() if hosts.is_first() else ():
      try:
        self._check_there(step)
        seen[step] = self._read_meta(step)["ref_step"], ""
      except Damaged as e:
        # A run that goes on meanwhile may have deleted it.
        if self._path(step).exists():
          seen[step] = None, str(e)
    return seen

  def steps(self) -> list[int]:
    """Steps of which all files are there, oldest first."""
    return sorted(self._reference_of)

  def latest(self) -> int | None:
    """The newest of them, or None."""
    return max(self._reference_of, default=None)

  def reference_of(self, step: int) -> int:
    """The step whose parameters are the reference of a step."""
    return self._reference_of[step]

  def save(
      self, step: int, state: state_lib.TrainState, meta: dict[str, Any],
      data: dict[str, Any] | None = None) -> None:
    """Saves a step; `meta` is JSON-able and names its `ref_step`.

    The arrays of `state` may be donated once this returns.

    Raises:
      ValueError: the reference of this step is not among the checkpoints.
      OSError: the disk is full or gone; earlier steps are untouched.
    """
    reference = meta["ref_step"]
    if reference != step and reference not in self._reference_of:
      raise ValueError(
          f"step {step} names step {reference} as its reference, of which "
          "there is no checkpoint")
    items = dict(
        params=ocp.args.StandardSave(state.params),
        opt_state=ocp.args.StandardSave(
            dict(opt_state=state.opt_state, skipped=state.skipped)),
        meta=ocp.args.JsonSave(meta))
    if data:
      items["data"] = ocp.args.StandardSave(data)
    self.wait()  # `_seal` of the save before still reads `_saving`
    self._reference_of[step] = reference
    self._saving = step
    self._manager.save(step, args=ocp.args.Composite(**items))
    if not self._background:
      self.wait()

  def wait(self) -> None:
    """Returns when all is committed, and what is not to be kept is gone."""
    self._manager.wait_until_finished()
    if self._saving is not None:
      self._prune()
      self._saving = None

  def go_on_from(self, step: int) -> None:
    """Makes a step the newest one and leaves only what a run keeps.

    Later ones are moved to a folder beside this one, and so are damaged ones
    that would be kept if they were whole. The rest goes, as it would have gone
    before the last run was killed.
    """
    all_steps = sorted({*self._reference_of, *self.damaged})
    aside = [s for s in all_steps if s > step]
    aside += [
        s for s in self._kept([s for s in all_steps if s <= step])
        if s in self.damaged]
    hosts.on_first(lambda: [self._set_aside(s) for s in aside])
    for s in aside:
      self._reference_of.pop(s, None)
      self.damaged.pop(s, None)
    self._prune()
    # Orbax would not write a step anew of which it remembers another.
    hosts.gather(None)
    self._manager.reload()

  def restore(
      self, step: int, like: state_lib.TrainState,
  ) -> tuple[state_lib.TrainState, dict[str, Any], dict[str, Any]]:
    """Restores a step into the shapes, types and shardings of `like`.

    Returns:
      (state, meta, data).

    Raises:
      Damaged: a file is not what was written.
      InputError: the checkpoint is of another model or optimiser.
    """
    items = dict(
        params=ocp.args.StandardRestore(like.params),
        opt_state=ocp.args.StandardRestore(
            dict(opt_state=like.opt_state, skipped=like.skipped)))
    if step in self.damaged:
      raise Damaged(self.damaged[step])
    meta = self.load_meta(step)
    if any(name.startswith("data/") for name in self._listed(step)):
      items["data"] = ocp.args.StandardRestore()
    out = self._restore(step, items)
    state = state_lib.TrainState(params=out["params"], **out["opt_state"])
    return state, meta, out.get("data") or {}

  def load_meta(self, step: int) -> dict[str, Any]:
    """The JSON record of a step."""
    return hosts.agree(lambda: self._read_meta(step))

  def load_params(self, step: int, like) -> Any:
    """The parameters of a step, in the shapes, types and shardings given."""
    if step in self.damaged:
      raise Damaged(self.damaged[step])
    if step not in self._reference_of:
      raise errors.InputError(
          f"{self.directory} has no checkpoint of step {step}; it has "
          f"{self.steps()}")
    return self._restore(
        step, dict(params=ocp.args.StandardRestore(like)))["params"]

  def load_reference(self, step: int, config, mesh) -> Any:
    """The trained parameters of a step as a reference policy.

    They come in the compute type of the policy, to which the policy's own
    masters are cast in the forward: right after a reset both are equal bit
    for bit.

    Raises:
      ReferenceDamaged: there is no such checkpoint, or it cannot be read.
        Training on without its reference, or with another, would silently
        change the objective.
    """
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(
            x.shape, jnp.dtype(config.dtype), sharding=s),
        *(lora.split(config, tree)[0] for tree in (
            transformer.abstract_params(config),
            transformer.shardings(config, mesh))))
    self.wait()
    if step not in self._reference_of and step not in self.damaged:
      raise ReferenceDamaged(
          f"the reference policy is step {step}, but {self.directory} has "
          f"no checkpoint of that step (it has {self.steps()})")
    try:
      return self.load_params(step, like)
    except Damaged as e:
      raise ReferenceDamaged(
          f"the reference policy is step {step}: {e}") from e

  def close(self) -> None:
    """Waits for background writes and releases the directory."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def _path(self, step: int) -> epath.Path:
    return self.directory / str(step)

  def _kept(self, steps: list[int]) -> list[int]:
    """Those of the steps, oldest first, that are not to be deleted."""
    infos = [types.SimpleNamespace(step=s) for s in steps]
    return [
        s for s, kept in zip(
            steps, self._policy.should_preserve(infos), strict=True) if kept]

  def _prune(self) -> None:
    """Deletes what is not to be kept, a step before its reference."""
    steps = sorted({*self._reference_of, *self.damaged})
    for step in sorted({*steps} - {*self._kept(steps)}, reverse=True):
      self._reference_of.pop(step, None)
      self.damaged.pop(step, None)
      if hosts.is_first():
        _delete(self._path(step))

  def _set_aside(self, step: int) -> None:
    """Moves a step out of the way of one that will be written in its place."""
    home = self.directory.with_name(f"{self.directory.name}-damaged")
    home.mkdir(parents=True, exist_ok=True)
    if places.is_remote(home):
      # A bucket cannot rename. The step goes once all of it is copied, so that
      # a kill leaves it whole here or there; a copy begun before is renewed.
      places.copy(self._path(step), home / str(step))
      _delete(self._path(step))
      return
    place, number = home / str(step), 1
    while place.exists():
      number += 1
      place = home / f"{step}-{number}"
    self._path(step).rename(place)

  def _seal(self) -> None:
    """Lists the files of the step that is about to be committed."""
    if hosts.is_first():
      # Object stores have no renaming: there it is written in its place.
      unfinished = list(self.directory.glob(f"{self._saving}.*-tmp*"))
      folder, = unfinished or [self._path(self._saving)]
      (folder / _MANIFEST).write_text(json.dumps({
          str(p.relative_to(folder)): _digest(p) for p in _files(folder)}))

  def _listed(self, step: int) -> dict[str, list[int]]:
    """File -> its size and checksum when it was written."""
    try:
      return dict(json.loads((self._path(step) / _MANIFEST).read_text()))
    except (OSError, ValueError, TypeError) as e:
      raise self._damage(step, _MANIFEST, e) from e

  def _check_there(self, step: int) -> None:
    """Refuses a step of which a file is gone."""
    folder, listed = self._path(step), self._listed(step)
    try:
      there = {str(p.relative_to(folder)) for p in _files(folder)}
    except OSError as e:
      raise self._damage(step, "the files", e) from e
    for name in listed:
      if name not in there:
        raise self._damage(step, name, FileNotFoundError("it is gone"))

  def _read_meta(self, step: int) -> dict[str, Any]:
    """The JSON record of a step, compared with the list."""
    listed = self._listed(step)
    names = {n for n in listed if n.startswith("meta/")} | {_META}
    self._compare(step, "meta", sorted(names), listed)
    return json.loads((self._path(step) / _META).read_text())

  def _compare(
      self, step: int, what: str, names: Sequence[str],
      listed: dict[str, list[int]]) -> None:
    """Refuses files that are not what the list says."""
    for name in names:
      try:
        if _digest(self._path(step) / name) != listed.get(name):
          raise ValueError(f"{name} is not what was written")
      except (OSError, ValueError) as e:
        raise self._damage(step, what, e) from e

  def _restore(self, step, items):
    """Reads items, their files compared with the list; hosts share that."""
    names = ", ".join(items)

    def compare():
      listed = self._listed(step)
      mine = sorted(
          n for n in listed if n.partition("/")[0] in items
      )[hosts.index()::hosts.count()]
      self._compare(step, names, mine, listed)

    hosts.agree(compare)
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except (ValueError, OSError, KeyError, TypeError) as e:
      raise errors.InputError(
          f"cannot read {names} of checkpoint {self._path(step)}: "
          f"{_first_line(e)}; its files are whole, but made with another model "
          "or optimiser: put back what the config said of them, or start a new "
          f"run from it with --config.model.init_from={self._path(step)} and "
          "another --workdir") from e

  def _damage(self, step: int, what: str, error: Exception) -> Damaged:
    """The error for a checkpoint that is not what was written."""
    return Damaged(
        f"cannot read {what} of checkpoint {self._path(step)}: "
        f"{_first_line(error)}; it is damaged")


def newest_meta(directory) -> dict[str, Any] | None:
  """The JSON record of the newest step that has one, without opening them.

  Nothing is made, tidied up or compared: it is for a look before the start.
  """
  directory = epath.Path(directory)
  folders = directory.iterdir() if directory.is_dir() else ()
  for folder in sorted(
      (p for p in folders if p.name.isdigit() and is_committed(p)),
      key=lambda p: -int(p.name)):
    try:
      meta = json.loads((folder / _META).read_text())
    except (OSError, ValueError):
      continue
    if isinstance(meta, dict):
      return meta
  return None


def _sweep(directory: epath.Path) -> None:
  """Deletes what killed saves and deletions have left."""
  # In a bucket there is no folder before the first file in it.
  for path in list(directory.iterdir()) if directory.is_dir() else ():
    if places.is_remote(path):
      left = path.name.isdigit() and not is_committed(path)
    else:
      left = _UNFINISHED in path.name
    if left:
      path.rmtree()


def _delete(folder: epath.Path) -> None:
  """Deletes a checkpoint, which from the first moment on is none.

  Raises:
    InputError: the bucket refuses it.
    RunError: the bucket cannot be reached; what is left goes at the next start.
  """
  # Somebody may have deleted it by hand.
  with places.reaching(folder), contextlib.suppress(FileNotFoundError):
    if places.is_remote(folder):
      (folder / _COMMITTED).unlink(missing_ok=True)
      folder.rmtree()
      return
    nameless = folder.with_name(f"{folder.name}{_UNFINISHED}-deleted")
    folder.rename(nameless)
    nameless.rmtree()


def is_committed(folder: epath.Path) -> bool:
  """Whether a step was saved to its end; in a bucket half a one has its name.

  A file system renames a step when it is whole.
  """
  return ocp.utils.is_checkpoint_finalized(folder)


def _files(folder: epath.Path) -> list[epath.Path]:
  """All files under a folder."""
  files = []
  for path in sorted(folder.iterdir()):
    files += _files(path) if path.is_dir() else [path]
  return files


def _digest(path: epath.Path) -> list[int]:
  """Size and checksum of a file."""
  size = checksum = 0
  with path.open("rb") as f:
    while block := f.read(_BLOCK):
      size += len(block)
      checksum = zlib.crc32(block, checksum)
  return [size, checksum]


def _first_line(error: Exception) -> str:
  """What an error says, in short."""
  return (str(error).strip() or type(error).__name__).splitlines()[0]
