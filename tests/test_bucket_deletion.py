"""Kills and refusals while a checkpoint is being deleted from a bucket.

There a deletion takes a request an object, so that it can end between any two.
The bucket is a server on this machine (fake_gcs.py), which kills its client,
or refuses it, at the n-th deletion. What deletes, and every start after it, is
a process of its own, forked from one that has imported all it needs.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

_spec = importlib.util.spec_from_file_location(
  "fake_gcs", pathlib.Path(__file__).with_name("fake_gcs.py")
)
fake_gcs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_gcs)

pytestmark = pytest.mark.timeout(900)

FOLDER = "run/checkpoints"
POINTS = (1, 20, 45)  # of some sixty deletions
# What is kept when a run goes on from a step, with `keep` of 1: the step and
# its reference. The other steps are deleted, and one after it is set aside.
KEPT = {4: [2, 4], 3: [1, 3]}

# Reads lines [where, function, arguments ...] and says what each returns. A
# fork says its process id first and waits for a line, so that it can be killed
# at the right moment. A process that forks does nothing else: JAX and gcsfs
# must not have begun before a fork.
WORKER = """
import json, os, sys
import jax
import numpy as np
from progrpo_jax import errors
from progrpo_jax.devices import sharding
from progrpo_jax.learn import optim, state
from progrpo_jax.models import config
from progrpo_jax.storage import checkpoint

PLACE = "gs://bucket/run/checkpoints"
MODEL = config.ModelConfig.tiny(
    vocab_size=16, embed_dim=8, num_layers=1, head_dim=4, mlp_dim=8)
TX = optim.adamw(1e-3)

def mesh():
  return sharding.make_mesh(devices=jax.devices()[:1])

def like():
  return state.abstract(MODEL, TX, mesh())

def filled(step):
  return jax.tree.map(
      lambda x: jax.device_put(np.full(x.shape, step, x.dtype), x.sharding),
      like())

def save(keeper, step, reference, value):
  keeper.save(step, filled(value), dict(ref_step=reference, step=step))

def open_keeper(keep):
  return checkpoint.Checkpointer(PLACE, keep=keep, background=False)

def is_filled(tree, step):
  return all(bool((np.asarray(x) == step).all()) for x in jax.tree.leaves(tree))

def make():
  keeper = open_keeper(9)
  for step, reference in ((1, 1), (2, 2), (3, 1), (4, 2)):
    save(keeper, step, reference, step)
  keeper.close()

def delete(step):
  # What goes on from a step deletes all that it does not keep.
  keeper = open_keeper(1)
  keeper.go_on_from(step)
  keeper.close()

def start():
  # What a run does when it goes on, see `loop.recover`, and its next save.
  keeper = open_keeper(1)
  said = {"steps": keeper.steps(), "damaged": sorted(keeper.damaged)}
  for step in reversed(keeper.steps()):
    try:
      whole, meta, _ = keeper.restore(step, like())
      reference = keeper.load_reference(meta["ref_step"], MODEL, mesh())
    except checkpoint.Damaged:
      continue
    said |= {"from": step, "whole": is_filled(whole, step),
             "reference": is_filled(reference, meta["ref_step"])}
    keeper.go_on_from(step)
    said["kept"] = keeper.steps()
    save(keeper, step + 1, meta["ref_step"], 9)
    again, _, _ = keeper.restore(step + 1, like())
    said["saved"] = is_filled(again, 9)
    break
  keeper.close()
  return said

def call(name, *arguments):
  try:
    result = globals()[name](*arguments)
  except (errors.InputError, errors.RunError) as e:
    result = str(e)
  print(json.dumps(result), flush=True)

for line in sys.stdin:
  where, *words = json.loads(line)
  if where == "here":
    call(*words)
    continue
  child = os.fork()
  if not child:
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    call(*words)
    os._exit(0)
  status = os.waitpid(child, 0)[1]
  if status:
    print(json.dumps({"status": status}), flush=True)
"""


class Worker:
  """The process that works on the bucket; a context manager.

  Attributes:
    pid: of its last fork.
  """

  def __init__(self, server):
    self.pid = None
    self._process = subprocess.Popen(
      [sys.executable, "-c", WORKER],
      text=True,
      bufsize=1,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=os.environ | server.environment() | {"JAX_PLATFORMS": "cpu"},
    )

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._process.communicate()

  def call(self, *words):
    """What a function returns, or the words of its error."""
    self._tell("here", *words)
    return json.loads(self._process.stdout.readline())

  def fork(self, *words):
    """The same in a fork; {"status": ...} if it was killed."""
    self._tell("fork", *words)
    self.pid = int(self._process.stdout.readline())
    self._process.stdin.write("go\n")
    return json.loads(self._process.stdout.readline())

  def _tell(self, *words):
    self._process.stdin.write(json.dumps(words) + "\n")


@pytest.fixture(scope="module")
def bucket():
  """Namespace: server, a worker to kill, one that starts anew, objects.

  The objects are the steps 1 to 4. Of step 3 the reference is 1, of 4 it is 2.
  """
  with (
    fake_gcs.serving("bucket") as server,
    Worker(server) as victim,
    Worker(server) as starter,
  ):
    assert starter.call("make") is None
    yield types.SimpleNamespace(
      server=server,
      victim=victim,
      starter=starter,
      objects=dict(server.buckets["bucket"]),
    )


def put(bucket, step):
  """Fills the bucket for a run that will go on from a step; its objects.

  If that is not the newest one, the newest is damaged.
  """
  objects = dict(bucket.objects)
  if step == 3:
    name = max(
      (n for n in objects if n.startswith(f"{FOLDER}/4/params/")),
      key=lambda n: len(objects[n].data),
    )
    data = bytearray(objects[name].data)
    data[len(data) // 2] ^= 1
    objects[name] = dataclasses.replace(objects[name], data=bytes(data))
  bucket.server.buckets["bucket"] = dict(objects)
  return objects


def part(objects, folder):
  """The data under a folder, by the rest of their names."""
  return {
    name.removeprefix(f"{folder}/"): found.data
    for name, found in objects.items()
    if name.startswith(f"{folder}/")
  }


def count(bucket, step):
  """How many objects are deleted when a run goes on from a step."""
  put(bucket, step)
  names = []
  bucket.server.deleting = lambda _, name: names.append(name)
  try:
    assert bucket.starter.call("delete", step) is None
  finally:
    bucket.server.deleting = lambda *_: None
  return len(names)


@contextlib.contextmanager
def cut(server, number, what):
  """Calls a function at the n-th deletion (from 0), which is not carried out.

  Nor is any after it.
  """
  left = number

  def deleting(*_):
    nonlocal left
    left -= 1
    if left == -1:
      what()
    if left < 0:
      raise fake_gcs.Refused(403, "storage.objects.delete is denied.")

  server.deleting = deleting
  try:
    yield
  finally:
    server.deleting = lambda *_: None
  assert left < 0


def check_next_start(bucket, before, step):
  """A run goes on from a step, whatever is left of others, and saves."""
  found = dict(bucket.server.buckets["bucket"])
  said = bucket.starter.call("start")
  # A step is there with all that was written of it, or is not there.
  for number in said["steps"]:
    folder = f"{FOLDER}/{number}"
    assert part(found, folder) == part(before, folder)
  assert {*KEPT[step]} <= {*said["steps"]} and said["damaged"] == []
  assert said == said | {
    "from": step,
    "whole": True,
    "reference": True,
    "kept": KEPT[step],
    "saved": True,
  }
  # Nothing is left of the others, and of the step saved nothing but its own.
  after, saved = bucket.server.buckets["bucket"], f"{FOLDER}/{step + 1}"
  assert {n.split("/")[2] for n in after if n.startswith(f"{FOLDER}/")} == {
    str(KEPT[step][0]),
    str(step + 1),
  }
  listed = json.loads(after[f"{saved}/manifest.json"].data)
  assert {*part(after, saved)} <= {*listed} | {
    "manifest.json",
    "commit_success.txt",
    "_CHECKPOINT_METADATA",
  }
  if step == 3:
    assert part(after, f"{FOLDER}-damaged/4") == part(before, f"{FOLDER}/4")


def check_kill(bucket, step, number):
  """Kills what goes on from a step before its n-th deletion; starts again."""
  before = put(bucket, step)

  def kill():
    os.kill(bucket.victim.pid, signal.SIGKILL)

  with cut(bucket.server, number, kill):
    assert bucket.victim.fork("delete", step) == {"status": signal.SIGKILL}
  check_next_start(bucket, before, step)


@pytest.mark.parametrize("step", [4, 3])
def test_killed_while_it_deletes_a_run_goes_on(bucket, step):
  """At three points; tests/slow has twenty for each step."""
  for number in POINTS:
    check_kill(bucket, step, number)


def test_a_refused_deletion_is_one_line_and_the_run_goes_on_later(bucket):
  """Refused are the mark of being whole, what comes next, and the middle."""
  for number in (0, 1, 40):
    before = put(bucket, 4)
    with cut(bucket.server, number, lambda: None):
      said = bucket.starter.call("delete", 4)
    assert f"gs://bucket/{FOLDER}/" in said and "\n" not in said
    assert "cannot be reached" in said and "roles/storage.objectAdmin" in said
    check_next_start(bucket, before, 4)


def test_a_step_deleted_by_hand_is_no_matter(bucket):
  """While a deletion has begun: after it, nothing is left to delete."""
  put(bucket, 4)
  objects = bucket.server.buckets["bucket"]

  def deleting(_, name):
    if name == f"{FOLDER}/3/commit_success.txt":
      for other in bucket.server.names("bucket", f"{FOLDER}/3/"):
        if other != name:
          del objects[other]

  bucket.server.deleting = deleting
  try:
    assert bucket.starter.call("delete", 4) is None
  finally:
    bucket.server.deleting = lambda *_: None
  assert {n.split("/")[2] for n in objects} == {"2", "4"}
