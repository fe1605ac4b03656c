"""Orbax checkpoints: what a run resumes from, and what its reference is.

A checkpoint has the items `params`, `opt_state`, `data` and `meta`. The
reference policy is the `params` of one of them, named by `ref_step` in every
`meta`: it is read back from the disk in the policy's shardings and in the
compute type. It is never an alias of live parameters, which the next donated
update would overwrite.

A reset at step s writes `ref_step = s` into checkpoint s itself. The commit of
a checkpoint is atomic, so no kill can leave a run between two references.

Orbax reads a committed checkpoint of which a byte has changed without a word.
A list of all files with their sizes and checksums therefore stands in each
checkpoint, written before its commit and held against what is read.
"""

from collections.abc import Sequence
import json
import os
from typing import Any
import zlib

from etils import epath
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from progrpo_jax import errors, hosts, places
from progrpo_jax import state as state_lib
from progrpo_jax.models import lora, transformer

_Policy = ocp.checkpoint_managers.PreservationPolicy
_MANIFEST = "manifest.json"
_BLOCK = 1 << 24


class KeepReferences(_Policy):
  """Keeps the newest steps, every n-th, and the reference of each kept one."""

  def __init__(self, latest: int, every: int, reference_of: dict[int, int]):
    self.latest = latest
    self.every = every
    self.reference_of = reference_of

  def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
    """One decision a checkpoint, oldest first."""
    del context
    steps = [c.step for c in checkpoints]
    kept = set(steps[-self.latest:])
    kept |= {s for s in steps if self.every and s % self.every == 0}
    kept |= {self.reference_of[s] for s in kept}
    return [s in kept for s in steps]


class Checkpointer:
  """Saves and restores the steps of one run."""

  def __init__(
      self, directory, *, keep: int = 2, keep_every: int = 0,
      background: bool = True, read_only: bool = False):
    """Opens a directory of checkpoints, made if it does not exist.

    Args:
      directory: local path or gs:// URL.
      keep: newest steps kept (their references are kept beside them).
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
    self._reference_of: dict[int, int] = {}
    self._background = background
    self._saving = None
    try:
      with places.reaching(self.directory):
        self._manager = ocp.CheckpointManager(
            self.directory,
            item_names=("params", "opt_state", "data", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=KeepReferences(
                    keep, keep_every, self._reference_of),
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._seal),
                read_only=read_only, create=not read_only,
                cleanup_tmp_directories=not read_only))
    except OSError as e:
      raise errors.InputError(
          f"cannot write checkpoints to {directory}: {e}") from e
    for step in self._manager.all_steps():
      self._reference_of[step] = self.load_meta(step)["ref_step"]

  def latest(self) -> int | None:
    """The newest committed step, or None."""
    return self._manager.latest_step()

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
    self._reference_of[step] = reference
    items = dict(
        params=ocp.args.StandardSave(state.params),
        opt_state=ocp.args.StandardSave(
            dict(opt_state=state.opt_state, skipped=state.skipped)),
        meta=ocp.args.JsonSave(meta))
    if data:
      items["data"] = ocp.args.StandardSave(data)
    self.wait()  # `_seal` of the save before still reads `_saving`
    self._saving = step
    self._manager.save(step, args=ocp.args.Composite(**items))
    if not self._background:
      self.wait()

  def wait(self) -> None:
    """Returns when everything saved so far is committed."""
    self._manager.wait_until_finished()

  def restore(
      self, step: int, like: state_lib.TrainState,
  ) -> tuple[state_lib.TrainState, dict[str, Any], dict[str, Any]]:
    """Restores a step into the shapes, types and shardings of `like`.

    Returns:
      (state, meta, data).

    Raises:
      InputError: the checkpoint cannot be read, or is of another model.
    """
    meta = self.load_meta(step)
    items = dict(
        params=ocp.args.StandardRestore(like.params),
        opt_state=ocp.args.StandardRestore(
            dict(opt_state=like.opt_state, skipped=like.skipped)))
    if any(name.startswith("data/") for name in self._listed(step)):
      items["data"] = ocp.args.StandardRestore()
    out = self._restore(step, items)
    state = state_lib.TrainState(params=out["params"], **out["opt_state"])
    return state, meta, out.get("data") or {}

  def load_meta(self, step: int) -> dict[str, Any]:
    """The JSON record of a step."""
    return self._restore(step, dict(meta=ocp.args.JsonRestore()))["meta"]

  def load_params(self, step: int, like) -> Any:
    """The parameters of a step, in the shapes, types and shardings given."""
    if step not in self._manager.all_steps():
      raise errors.InputError(
          f"{self.directory} has no checkpoint of step {step}; it has "
          f"{sorted(self._manager.all_steps())}")
    return self._restore(
        step, dict(params=ocp.args.StandardRestore(like)))["params"]

  def load_reference(self, step: int, config, mesh) -> Any:
    """The trained parameters of a step as a reference policy.

    They come in the compute type of the policy, to which the policy's own
    masters are cast in the forward: right after a reset both are equal bit
    for bit.

    Raises:
      InputError: there is no such checkpoint. Training on without its
        reference, or with another, would silently change the objective.
    """
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(
            x.shape, jnp.dtype(config.dtype), sharding=s),
        *(lora.split(config, tree)[0] for tree in (
            transformer.abstract_params(config),
            transformer.shardings(config, mesh))))
    self.wait()
    if step not in self._manager.all_steps():
      raise errors.InputError(
          f"the reference policy is step {step}, but {self.directory} has "
          f"no checkpoint of that step (it has "
          f"{sorted(self._manager.all_steps())}); restore it from a copy of "
          "the run, or start a new run from a checkpoint that is there")
    return self.load_params(step, like)

  def close(self) -> None:
    """Waits for background writes and releases the directory."""
    self._manager.close()

  def _path(self, step: int) -> epath.Path:
    return self.directory / str(step)

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
      raise errors.InputError(_damaged(self._path(step), _MANIFEST, e)) from e

  def _restore(self, step, items):
    """Reads items, their files compared with the list; hosts share that."""
    listed = self._listed(step)
    mine = sorted(
        n for n in listed if n.partition("/")[0] in items
    )[hosts.index()::hosts.count()]

    def compare():
      for name in mine:
        if _digest(self._path(step) / name) != listed[name]:
          raise ValueError(f"{name} is not what was written")

    hosts.agree(lambda: self._read(step, items, compare))
    return self._read(step, items, lambda: self._manager.restore(
        step, args=ocp.args.Composite(**items)))

  def _read(self, step, items, work):
    """Does a part of the reading; what it raises names the checkpoint."""
    try:
      return work()
    except (ValueError, OSError, KeyError, TypeError) as e:
      raise errors.InputError(_damaged(
          self._path(step), ", ".join(items), e)) from e


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


def _damaged(folder: epath.Path, what: str, error: Exception) -> str:
  """The message for a checkpoint that cannot be read."""
  reason = (str(error).strip() or type(error).__name__).splitlines()[0]
  return (
      f"cannot read {what} of checkpoint {folder}: {reason}; if it is damaged, "
      "remove that folder to go on from the step before it")
