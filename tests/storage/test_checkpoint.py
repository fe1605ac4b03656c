import base64
import errno
import json
import os
import shutil
import threading
import types

from etils import epath
import google_crc32c
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from progrpo_jax import errors, places
from progrpo_jax.devices import sharding
from progrpo_jax.learn import optim, state
from progrpo_jax.models import config, parameters
from progrpo_jax.storage import checkpoint
from progrpo_jax.storage import policy as policy_lib

MODEL = config.ModelConfig.tiny(
  embed_dim=16, num_layers=2, head_dim=4, mlp_dim=32
)
TX = optim.adamw(1e-3)
MESH = sharding.make_mesh(devices=jax.devices()[:1])
LIKE = state.abstract(MODEL, TX, MESH)


def _state(seed):
  key = jax.random.key(seed)
  return state.create(MODEL, TX, parameters.init(MODEL, key, MESH), MESH)


def _equal(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def _save(keeper, step, ref, seed=None, data=None):
  keeper.save(
    step,
    _state(step if seed is None else seed),
    dict(ref_step=ref, step=step),
    data,
  )


def _steps(folder):
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Steps 0 and 1; step 1 holds carried data."""
  folder = tmp_path_factory.mktemp("saved")
  keeper = checkpoint.Checkpointer(folder, background=False)
  _save(keeper, 0, 0)
  _save(keeper, 1, 0, data=dict(ids_P=np.arange(3), ok=np.array([True, False])))
  keeper.close()
  return folder


def test_restores_what_was_saved(saved):
  keeper = checkpoint.Checkpointer(saved)
  assert keeper.latest() == 1
  found, meta, data = keeper.restore(1, LIKE)
  assert _equal(found, _state(1))
  assert meta == dict(ref_step=0, step=1)
  assert data["ids_P"].tolist() == [0, 1, 2]
  assert data["ids_P"].dtype == np.int64
  assert data["ok"].dtype == bool
  assert keeper.restore(0, LIKE)[2] == {}
  reference = keeper.load_reference(0, MODEL, MESH)
  assert _equal(reference, _state(0).params)
  keeper.close()


def test_reference_comes_in_the_compute_type(saved):
  keeper = checkpoint.Checkpointer(saved, read_only=True)
  model = config.dataclasses.replace(MODEL, dtype="bfloat16")
  reference = keeper.load_reference(1, model, MESH)
  masters = _state(1).params
  assert _equal(
    reference, jax.tree.map(lambda x: x.astype(jnp.bfloat16), masters)
  )


def test_a_policy_that_cannot_be_read_leaves_no_checkpointer_open(
  saved, tmp_path, monkeypatch
):
  closed, close = [], checkpoint.Checkpointer.close

  def note(self):
    closed.append(self.directory)
    close(self)

  monkeypatch.setattr(checkpoint.Checkpointer, "close", note)
  shutil.copytree(
    saved / "1", tmp_path / "damaged" / policy_lib.CHECKPOINTS / "1"
  )
  folder = tmp_path / "damaged" / policy_lib.CHECKPOINTS
  (folder / "1" / "manifest.json").write_text("{")
  with pytest.raises(checkpoint.Damaged, match="manifest"):
    policy_lib._read_checkpoint(tmp_path / "damaged", 1, MODEL, MESH, "float32")
  empty = tmp_path / "new" / policy_lib.CHECKPOINTS
  empty.mkdir(parents=True)
  with pytest.raises(errors.InputError, match="holds no checkpoint yet"):
    policy_lib._read_checkpoint(tmp_path / "new", None, MODEL, MESH, "float32")
  assert closed == [folder, empty]


def test_empty_directory_has_no_latest(tmp_path):
  keeper = checkpoint.Checkpointer(tmp_path / "new")
  assert keeper.latest() is None
  keeper.close()


def test_read_only_touches_nothing(saved, tmp_path):
  copy = tmp_path / "copy"
  shutil.copytree(saved, copy)
  left_by_a_kill = copy / "2.orbax-checkpoint-tmp"
  left_by_a_kill.mkdir()
  before = sorted((str(p), p.stat().st_mtime_ns) for p in copy.rglob("*"))
  keeper = checkpoint.Checkpointer(copy, read_only=True)
  assert keeper.latest() == 1
  keeper.restore(1, LIKE)
  keeper.close()
  assert before == sorted(
    (str(p), p.stat().st_mtime_ns) for p in copy.rglob("*")
  )
  checkpoint.Checkpointer(copy).close()
  assert not left_by_a_kill.exists()


def test_policy_keeps_the_reference_of_every_kept_step():
  reference_of, there = {}, []
  keep = checkpoint.KeepReferences(2, 10, reference_of)
  reference = 0
  for step in range(200):
    if step % 7 == 4 or step % 23 == 5:
      reference = step
    reference_of[step] = reference
    there.append(step)
    kept = keep.should_preserve(
      [types.SimpleNamespace(step=s) for s in there], context=None
    )
    there = [s for s, keep in zip(there, kept, strict=True) if keep]
    assert set(there[-2:]) == {step, max(step - 1, 0)} & set(there)
    assert set(range(0, step + 1, 10)) <= set(there)
    assert {reference_of[s] for s in there} <= set(there)
    # Nothing else is kept.
    wanted = set(range(0, step + 1, 10)) | {step, max(step - 1, 0)}
    assert set(there) == wanted | {reference_of[s] for s in wanted}


def _save_unfinished(keeper, step, ref):
  meta = dict(ref_step=ref, step=step, measured=dict(reward=0.5))
  keeper.save(step, _state(step), meta)


def test_an_unfinished_step_is_replaced_or_goes_and_displaces_none(tmp_path):
  keeper = checkpoint.Checkpointer(tmp_path, keep=1, background=False)
  _save(keeper, 0, 0)
  _save(keeper, 2, 0)
  _save_unfinished(keeper, 3, 0)
  assert (_steps(tmp_path), keeper.unfinished) == ([0, 2, 3], {3})
  keeper.close()
  # Opened again it is known for what it is, and its own reset replaces it.
  keeper = checkpoint.Checkpointer(tmp_path, keep=1, background=False)
  assert keeper.unfinished == {3}
  keeper.go_on_from(3)
  _save(keeper, 3, 3, seed=7)
  assert (_steps(tmp_path), keeper.unfinished) == ([3], set())
  found, meta, _ = keeper.restore(3, LIKE)
  assert meta == dict(ref_step=3, step=3) and _equal(found, _state(7))
  # One that is not saved anew goes when a later step is.
  _save_unfinished(keeper, 4, 3)
  _save(keeper, 5, 3)
  assert (_steps(tmp_path), keeper.unfinished) == ([3, 5], set())
  keeper.close()


def test_old_steps_go_and_references_stay(tmp_path):
  keeper = checkpoint.Checkpointer(tmp_path, keep=2, keep_every=3)
  for step, reference in enumerate((0, 0, 2, 2, 4, 4, 4)):
    _save(keeper, step, reference, seed=0)
  keeper.close()
  assert _steps(tmp_path) == [0, 2, 3, 4, 5, 6]
  # A run that was started again knows what each step rests on.
  again = checkpoint.Checkpointer(tmp_path, keep=1, background=False)
  _save(again, 7, 4, seed=0)
  assert _steps(tmp_path) == [4, 7]
  again.close()


def test_an_old_step_may_be_deleted_by_hand(tmp_path):
  keeper = checkpoint.Checkpointer(tmp_path, keep=1, background=False)
  _save(keeper, 0, 0)
  shutil.rmtree(tmp_path / "0")
  _save(keeper, 1, 1)
  assert _steps(tmp_path) == keeper.steps() == [1]
  keeper.close()


def test_missing_reference_is_named(saved, tmp_path):
  keeper = checkpoint.Checkpointer(saved, read_only=True)
  with pytest.raises(errors.InputError, match="reference policy is step 7"):
    keeper.load_reference(7, MODEL, MESH)
  with pytest.raises(errors.InputError, match="no checkpoint of step 7"):
    keeper.load_params(7, LIKE.params)
  own = checkpoint.Checkpointer(tmp_path)
  with pytest.raises(ValueError, match="names step 3 as its reference"):
    _save(own, 4, 3)
  own.close()


def test_update_may_take_the_buffers_while_they_are_written(tmp_path):
  """What is saved is what was, though its memory is used again at once."""
  spoil = jax.jit(
    lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0
  )
  keeper = checkpoint.Checkpointer(tmp_path, keep=10)
  for step in range(4):
    live = _state(step)
    keeper.save(step, live, dict(ref_step=step))
    live = spoil(live)
    live = spoil(live)
  keeper.close()
  keeper = checkpoint.Checkpointer(tmp_path, read_only=True)
  for step in range(4):
    assert _equal(keeper.restore(step, LIKE)[0], _state(step))


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _truncate(path):
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


def test_damaged_file_is_named(saved, tmp_path):
  """A flipped bit, half a file, no file: none is ever read as if it were good.

  Two files beside the items are Orbax's own notes, and not read here.
  """
  found = 0
  for path in sorted((saved / "1").rglob("*")):
    name = path.relative_to(saved)
    if not path.is_file() or str(name) in (
      "1/_CHECKPOINT_METADATA",
      "1/commit_success.txt",
    ):
      continue
    for number, damage in enumerate((_flip, _truncate, lambda p: p.unlink())):
      copy = tmp_path / f"{found}-{number}"
      shutil.copytree(saved, copy)
      damage(copy / name)
      with pytest.raises(errors.InputError, match=f"{copy}/1: .*damaged"):
        keeper = checkpoint.Checkpointer(copy, read_only=True)
        keeper.restore(1, LIKE)
    found += 1
  assert found > 20


def test_checksums_of_a_bucket_are_those_of_its_objects(
  saved, tmp_path, monkeypatch
):
  """Nothing is read for them; a copy on a disk is compared by its bytes."""
  stored, opened = {}, []

  def of_store(path):
    value = google_crc32c.value(path.read_bytes()).to_bytes(4, "big")
    stored[str(path)] = (path.stat().length, base64.b64encode(value).decode())
    return stored[str(path)]

  copy = tmp_path / "copy"
  with monkeypatch.context() as patch:
    patch.setattr(places, "stored_checksum", of_store)
    patch.setattr(checkpoint, "_extend_crc32", opened.append)
    keeper = checkpoint.Checkpointer(copy, background=False)
    _save(keeper, 1, 1)
    assert _equal(keeper.restore(1, LIKE)[0], _state(1))
    keeper.close()
  manifest = json.loads((copy / "1" / "manifest.json").read_text())
  assert stored and not opened
  assert {c.partition(":")[0] for _, c in manifest.values()} == {"crc32c"}
  keeper = checkpoint.Checkpointer(copy, read_only=True)
  assert _equal(keeper.restore(1, LIKE)[0], _state(1))
  _flip(max((copy / "1" / "params").rglob("*"), key=lambda p: p.stat().st_size))
  with pytest.raises(checkpoint.Damaged, match="is not what was written"):
    keeper.restore(1, LIKE)
  keeper.close()


def test_older_checkpoints_of_a_bucket_are_read_for_their_checksums(
  saved, monkeypatch
):
  monkeypatch.setattr(places, "stored_checksum", lambda _: (0, "other"))
  keeper = checkpoint.Checkpointer(saved, read_only=True)
  assert keeper.steps() == [0, 1] and not keeper.damaged
  assert _equal(keeper.restore(1, LIKE)[0], _state(1))
  keeper.close()


def test_checksums_are_computed_side_by_side(tmp_path, monkeypatch):
  """In the order of the files; of several failures the first is raised."""
  monkeypatch.setattr(checkpoint, "_THREADS", 3)
  meet = threading.Barrier(3, timeout=60)

  def work(item):
    meet.wait()
    if item > 2:
      raise ValueError(item)
    return item * item

  assert checkpoint._in_parallel(work, [2, 0, 1]) == [4, 0, 1]
  with pytest.raises(ValueError, match="5"):
    checkpoint._in_parallel(work, [1, 5, 4])
  assert checkpoint._in_parallel(work, []) == []


@pytest.mark.parametrize("item", ["meta", "params"])
def test_what_is_out_of_reach_is_not_damaged(saved, monkeypatch, item):
  """Neither when steps are listed, which reads `meta`, nor at a restore."""
  digest = checkpoint._digest

  def away(path, written=None):
    if f"/1/{item}/" in str(path):
      raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
    return digest(path, written)

  monkeypatch.setattr(checkpoint, "_digest", away)
  with pytest.raises(
    errors.RunError,
    match=f"/1/{item}/.*: cannot be reached: .*the same command tries again",
  ):
    keeper = checkpoint.Checkpointer(saved, read_only=True)
    assert not keeper.damaged
    keeper.restore(1, LIKE)
  if item == "params":  # of a reference no more than of the policy
    with pytest.raises(errors.RunError, match="cannot be reached"):
      keeper.load_reference(1, MODEL, MESH)


def test_a_manifest_out_of_reach_is_not_damaged(saved, monkeypatch):
  read = type(epath.Path(saved)).read_bytes

  def away(path):
    if path.name == "manifest.json":
      raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return read(path)

  monkeypatch.setattr(type(epath.Path(saved)), "read_bytes", away)
  with pytest.raises(errors.RunError, match="manifest.json: cannot be reached"):
    checkpoint.Checkpointer(saved, read_only=True)


def test_lost_item_is_named_and_the_step_before_is_there(saved, tmp_path):
  for item in ("data", "params"):
    copy = tmp_path / item
    shutil.copytree(saved, copy)
    shutil.rmtree(copy / "1" / item)
    keeper = checkpoint.Checkpointer(copy, read_only=True)
    with pytest.raises(errors.InputError, match=f"{item}/"):
      keeper.restore(1, LIKE)
    shutil.rmtree(copy / "1")
    keeper = checkpoint.Checkpointer(copy, read_only=True)
    assert keeper.latest() == 0
    assert _equal(keeper.restore(0, LIKE)[0], _state(0))


def test_checkpoint_of_another_model_is_refused(saved):
  keeper = checkpoint.Checkpointer(saved, read_only=True)
  other = config.dataclasses.replace(MODEL, mlp_dim=48)
  with pytest.raises(errors.InputError, match="cannot read params, opt_state"):
    keeper.restore(1, state.abstract(other, TX, MESH))


def test_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  for place in (tmp_path / "file" / "checkpoints", "/proc/checkpoints"):
    with pytest.raises(errors.InputError, match="cannot write checkpoints"):
      checkpoint.Checkpointer(place)


MESHES = """
import json, sys
import jax, numpy as np
from progrpo_jax.storage import checkpoint
from progrpo_jax.learn import optim, state
from progrpo_jax.devices import sharding
from progrpo_jax.models import config

model = config.ModelConfig.tiny(
    embed_dim=16, num_layers=2, head_dim=4, mlp_dim=32)
mesh = sharding.make_mesh(2, 2, 2)
like = state.abstract(model, optim.adamw(1e-3), mesh)
keeper = checkpoint.Checkpointer(sys.argv[1], read_only=True)
found, meta, data = keeper.restore(1, like)
for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(like)):
  assert x.sharding == y.sharding and x.dtype == y.dtype
assert data["ids_P"].tolist() == [0, 1, 2]
split = max(len({str(s.index) for s in x.addressable_shards})
            for x in jax.tree.leaves(found.params))
sums = [np.asarray(x, np.float64).sum() for x in jax.tree.leaves(found)]
again = checkpoint.Checkpointer(sys.argv[2])
again.save(1, found, dict(ref_step=1), data)
again.close()
print(json.dumps([split, sums]))
"""


def test_restores_onto_another_mesh_and_back(saved, tmp_path, run_python):
  done = run_python(["-c", MESHES, saved, tmp_path / "sharded"])
  split, sums = json.loads(done.stdout)
  assert split >= 4
  whole = _state(1)
  assert sums == [
    np.asarray(x, np.float64).sum() for x in jax.tree.leaves(whole)
  ]
  keeper = checkpoint.Checkpointer(tmp_path / "sharded", read_only=True)
  found, _, data = keeper.restore(1, LIKE)
  assert _equal(found, whole)
  assert data["ids_P"].tolist() == [0, 1, 2]
