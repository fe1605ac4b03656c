"""A run in a bucket, beside the same run in a directory.

The bucket is a server on this machine (fake_gcs.py). The processes that use it
are children, told by their environment where it is; it is the store that tells
when they are stopped, and how.
"""

import collections
import contextlib
import importlib.util
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest

from progrpo_jax import loop, main

_HERE = pathlib.Path(__file__)
# The runs compile for a minute or two; on a busy machine that is many.
pytestmark = pytest.mark.timeout(900)


def _load(name):
  """A module that lies beside this one."""
  spec = importlib.util.spec_from_file_location(
    name, _HERE.parent.with_name(f"{name}.py")
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


fake_gcs = _load("fake_gcs")


@pytest.fixture
def store():
  """A server with pages so short that listings have several."""
  with fake_gcs.serving("bucket", page=3) as made:
    yield made


@pytest.fixture
def ask(store):
  """A function (method, path, data, **headers) -> status, headers, body."""

  def call(method, path, data=None, **headers):
    headers = {k.replace("_", "-"): v for k, v in headers.items()}
    request = urllib.request.Request(
      store.url + path, data, headers, method=method
    )
    try:
      with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as e:
      with e:
        return e.code, e.headers, e.read()

  return call


OBJECTS = "/storage/v1/b/bucket/o"
UPLOAD = "/upload/storage/v1/b/bucket/o"


def _put(ask, name, data, query=""):
  return ask("POST", f"{UPLOAD}?uploadType=media&name={name}{query}", data)


def test_fake_replaces_objects_whole_and_on_conditions(ask, store):
  status, _, body = _put(ask, "a", b"one", "&ifGenerationMatch=0")
  first = json.loads(body)
  assert status == 200 and first["size"] == "3"
  assert _put(ask, "a", b"no", "&ifGenerationMatch=0")[0] == 412
  here = f"&ifGenerationMatch={first['generation']}"
  second = json.loads(_put(ask, "a", b"two!", here)[2])
  assert int(second["generation"]) > int(first["generation"])
  assert _put(ask, "a", b"no", here)[0] == 412
  assert ask("DELETE", f"{OBJECTS}/a?x{here}")[0] == 412
  status, headers, body = ask("GET", f"{OBJECTS}/a?alt=media")
  assert (status, body) == (200, b"two!")
  assert headers["X-Goog-Generation"] == second["generation"]
  same = f"{OBJECTS}/a?ifGenerationNotMatch={second['generation']}"
  assert ask("GET", same)[0] == 304
  assert ask("DELETE", f"{OBJECTS}/a")[0] == 204
  assert ask("GET", f"{OBJECTS}/a")[0] == 404
  assert store.counts["insert"] == 4 and store.refused == []


def test_fake_reads_ranges(ask):
  _put(ask, "a%2Fb", bytes(range(10)))
  path = f"{OBJECTS}/a%2Fb?alt=media"
  for span, expected in (
    ("2-4", b"\2\3\4"),
    ("8-99", b"\10\11"),
    ("-2", b"\10\11"),
    ("9-", b"\11"),
  ):
    status, headers, body = ask("GET", path, Range=f"bytes={span}")
    assert (status, body) == (206, expected)
    assert headers["Content-Range"].endswith("/10")
  assert ask("GET", path, Range="bytes=10-")[0] == 416


def test_fake_lists_prefixes_page_by_page(ask):
  names = ["a", "b/1", "b/2", "b/c/3", "b-", "d/4", "e"]
  for name in names:
    _put(ask, urllib.parse.quote(name, safe=""), b"")

  def listing(query):
    items, prefixes, token, pages = [], [], "", 0
    while token is not None:
      page = json.loads(ask("GET", f"{OBJECTS}?{query}&pageToken={token}")[2])
      items += [i["name"] for i in page["items"]]
      prefixes += page["prefixes"]
      token, pages = page.get("nextPageToken"), pages + 1
    return items, prefixes, pages

  assert listing("") == (sorted(names), [], 3)
  assert listing("delimiter=/") == (["a", "b-", "e"], ["b/", "d/"], 2)
  assert listing("delimiter=/&prefix=b/") == (["b/1", "b/2"], ["b/c/"], 1)
  assert listing("startOffset=b&endOffset=d") == (
    ["b-", "b/1", "b/2", "b/c/3"],
    [],
    2,
  )


def test_fake_takes_multipart_and_resumable_uploads(ask, store):
  data = b"\r\n--x\n\r\n"
  body = (
    b'--=b=\r\nContent-Type: application/json\r\n\r\n{"name": "m"}\r\n--=b='
    b"\r\nContent-Type: text/x\r\n\r\n" + data + b"\r\n--=b=--"
  )
  kind = 'multipart/related; boundary="=b="'
  assert (
    ask("POST", f"{UPLOAD}?uploadType=multipart", body, Content_Type=kind)[0]
    == 200
  )
  assert store.buckets["bucket"]["m"].content_type == "text/x"
  assert store.read("bucket", "m") == data
  _, headers, _ = ask("POST", f"{UPLOAD}?uploadType=resumable&name=r", b"{}")
  place = headers["Location"].removeprefix(store.url)
  part = bytes(256 * 1024)
  assert ask("PUT", place, b"few", Content_Range="bytes 0-2/*")[0] == 400
  status, headers, _ = ask(
    "PUT", place, part, Content_Range=f"bytes 0-{len(part) - 1}/*"
  )
  assert (status, headers["Range"]) == (308, f"bytes=0-{len(part) - 1}")
  assert "r" not in store.buckets["bucket"]  # nothing, until all is there
  assert ask("PUT", place, b"x", Content_Range="bytes 5-5/6")[0] == 400
  last = f"bytes {len(part)}-{len(part)}/{len(part) + 1}"
  assert ask("PUT", place, b"x", Content_Range=last)[0] == 200
  assert store.read("bucket", "r") == part + b"x"
  assert ask("PUT", place, b"x", Content_Range=last)[0] == 410


def test_fake_refuses_what_no_store_can_and_fails_when_told(ask, store):
  _put(ask, "a", b"")
  assert ask("POST", f"{OBJECTS}/a/moveTo/o/b", b"")[0] == 400
  assert store.refused == [f"POST {OBJECTS}/a/moveTo/o/b"]
  store.fail_next(2)
  assert [ask("GET", f"{OBJECTS}/a")[0] for _ in range(3)] == [503, 503, 200]
  store.buckets["closed"] = {}
  store.forbid("closed")
  assert ask("GET", "/storage/v1/b/closed/o")[0] == 403
  assert ask("GET", "/storage/v1/b/closed")[0] == 403
  assert ask("GET", "/storage/v1/b/nothing/o")[0] == 404


# What is said of a run, by commands and in a notebook. The last line printed
# is {name: what}, of what does not name the place that the run lies at.
READ = """
import contextlib, io, json, sys
from progrpo_jax import load_run, main

def read(workdir, evaluated, output, config):
  said = io.StringIO()
  with contextlib.redirect_stdout(said):
    codes = [
        main.main(["report", "--workdir", workdir]),
        main.main(["evaluate", *config, "--policy", workdir,
                   "--workdir", evaluated])]
  sys.stdin = io.StringIO("1+2=\\n3+4+5=\\n")
  answers = io.StringIO()
  with contextlib.redirect_stdout(answers):
    codes.append(main.main([
        "sample", *config, "--policy", workdir + "/checkpoints/3",
        "--num_samples", "4", "--temperature", "1"]))
  with contextlib.redirect_stdout(said):
    codes.append(main.main(
        ["export", "--policy", workdir, "--output", output]))
  run = load_run(workdir)
  return {
      "codes": codes, "answers": answers.getvalue(),
      "reward": run.metrics()["reward"].tolist(),
      "resets": run.resets()["step"].tolist(),
      "checkpoints": run.checkpoints(), "rollouts": run.rollouts(),
      "evaluated": run.eval_samples(), "name": run.record.name}
"""
RESUME = (
  READ
  + """
code = main.main(json.loads(sys.argv[1]))
print(json.dumps([code, read(*json.loads(sys.argv[2]))]))
"""
)


def _args(small):
  """The small run; a busy machine must not make a verifier seem too slow."""
  return small.args("log.tensorboard=True", "rewards.deadline_s=100")


def _train(small, workdir):
  return ["train", *_args(small), "--workdir", workdir]


@contextlib.contextmanager
def _child(server, *args):
  """A process that takes the server for Google's; it ends with the block."""
  child = subprocess.Popen(
    [sys.executable, *args],
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | server.environment(),
  )
  with child:
    try:
      yield child
    finally:
      child.kill()


def _stopped_after(server, name, argv):
  """Exit code and words of a run that gets SIGTERM when an object is there."""
  with _child(server, "-m", "progrpo_jax.main", *argv) as child:

    def watch(bucket, written):
      if f"{bucket}/{written}" == name:
        child.send_signal(signal.SIGTERM)

    server.watch = watch
    said = "".join(child.communicate())
  return child.returncode, said


def _mirror(server, bucket, folder):
  """The objects of a bucket as files."""
  for name, found in server.buckets[bucket].items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.data)
  return folder


def _joined(files):
  """Files of a short run in a bucket, its only parts named as on a disk."""
  parts = {
    f"{name}/000000.jsonl": f"{name}.jsonl" for name in ("metrics", "eval")
  }
  return {parts.get(name, name): data for name, data in files.items()}


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
  """The run in a directory and in a bucket, and what is read of both.

  In the bucket it is stopped in its third step. What a killed save of that
  step would have left is then put there, and the store fails now and then.
  """
  folder = tmp_path_factory.mktemp("bucket")
  with fake_gcs.serving("bucket", page=20) as server:
    argv = _train(small, "gs://bucket/runs/run")
    code, said = _stopped_after(
      server, "bucket/runs/run/rollouts/000002.jsonl", argv
    )
    assert code == loop.PREEMPTED == 75, said
    left = [
      n
      for n in server.names("bucket", "runs/run/checkpoints/2/")
      if not n.endswith("/2/commit_success.txt")
    ]
    assert len(left) > 20
    stopped = server.names("bucket")
    with server.lock:
      for name in left[::2]:
        server.buckets["bucket"][name.replace("points/2/", "points/3/")] = (
          server.buckets["bucket"][name]
        )
    server.watch = lambda bucket, name: (
      name.endswith(("rollouts/000003.jsonl", "4/params/_METADATA"))
      and server.fail_next(2)
    )
    where = [
      "gs://bucket/runs/run",
      "gs://bucket/evaluated",
      str(folder / "hf"),
      _args(small),
    ]
    local = str(folder / "runs" / "run")
    with _child(
      server, "-c", RESUME, json.dumps(argv), json.dumps(where)
    ) as child:
      with contextlib.redirect_stdout(io.StringIO()):
        assert main.main(_train(small, local)) == 0
      out, err = child.communicate()
    assert child.returncode == 0, out + err
    code, read = json.loads(out.splitlines()[-1])
    assert code == 0
    namespace = {}
    exec(READ, namespace)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(sys, "stdin", None)
      expected = namespace["read"](
        local, str(folder / "evaluated"), str(folder / "local-hf"), _args(small)
      )
    mirror = _mirror(server, "bucket", folder / "mirror")
    yield dict(
      server=server,
      local=folder,
      bucket=mirror,
      read=read,
      words=err + out,
      expected=json.loads(json.dumps(expected)),
      stopped=stopped,
    )


def test_a_run_in_a_bucket_ends_like_one_in_a_directory(runs, recorded):
  expected = recorded(runs["local"] / "runs" / "run")
  found = recorded(runs["bucket"] / "runs" / "run")
  assert found.keys() == expected.keys()
  assert [k for k in expected if found[k] != expected[k]] == []
  assert [r["ref_reset/ref_step"] for r in found["metrics.jsonl"]] == [
    0,
    2,
    2,
    4,
  ]
  assert [r["kl"] == 0 for r in found["metrics.jsonl"]] == [True, False] * 2


def test_it_was_stopped_between_its_steps(runs):
  steps = {
    name.split("/")[3] for name in runs["stopped"] if "/checkpoints/" in name
  }
  assert max(steps) == "2"
  assert "resuming from step 2" in runs["words"]
  assert "runs/run/.lock" not in runs["stopped"]


def test_a_bucket_holds_the_files_that_a_directory_does(runs):
  def files(folder):
    return {
      str(p.relative_to(folder)): p.read_bytes()
      for p in folder.rglob("*")
      if p.is_file()
      and not ({"checkpoints", "tb"} & set(p.relative_to(folder).parts))
    }

  found = _joined(files(runs["bucket"] / "runs" / "run"))
  expected = files(runs["local"] / "runs" / "run")
  assert found.keys() | {".lock"} == expected.keys() | {".lock"}
  for name in found:
    if name not in ("metrics.jsonl", "report.html", ".lock"):
      assert found[name] == expected[name], name
  events = (runs["bucket"] / "runs" / "run" / "tb").iterdir()
  assert len([p for p in events if p.stat().st_size > 1000]) == 2


WRITE = """
import os, sys
from progrpo_jax.storage import loggers, metrics
from progrpo_jax.storage.metrics import MetricWriter
loggers.COPY_S, loggers.EVENTS_BYTES = 0, 50_000
values = {f"some/metric/{i}": i / 7 for i in range(20)}
with MetricWriter("gs://bucket/run", resume_step=-1) as writer:
  for step in range(1, 251):
    writer.write(step, values)
    if step % 10 == 0:
      writer.write_eval(step, values)
with MetricWriter("gs://bucket/run", resume_step=240) as writer:
  for step in range(241, 251):
    writer.write(step, values)
run = metrics.load("gs://bucket/run")
assert [row["step"] for row in run.metrics] == list(range(1, 251))
assert [row["step"] for row in run.evals] == list(range(10, 241, 10))
"""


def test_what_a_step_writes_does_not_grow_with_the_run(store):
  """Records are of 100 steps, the last of fifty; a line has 720 bytes."""
  sizes = collections.defaultdict(list)

  def watch(bucket, name):
    kind = name.removeprefix("run/").partition("/")[0]
    sizes[kind].append(len(store.read(bucket, name)))

  store.watch = watch
  with _child(store, "-c", WRITE) as child:
    _, err = child.communicate()
  assert child.returncode == 0, err
  assert len(sizes["metrics"]) > 250
  assert 99 * 718 < max(sizes["metrics"]) <= 100 * 720
  assert sizes["metrics"][-1] < 51 * 720 + 1
  assert max(sizes["eval"]) <= 10 * 720
  assert (
    max(sizes["tb"])
    < 60_000
    < sum(
      len(store.read("bucket", name))
      for name in store.names("bucket", "run/tb/")
    )
  )
  assert len(store.names("bucket", "run/metrics/")) == 3
  assert store.refused == []


def test_nothing_but_an_object_store_was_asked_for(runs):
  server = runs["server"]
  assert server.refused == []
  assert server.counts["copy"] == server.counts["make_bucket"] == 0
  assert server.counts["failed"] == 4
  assert set(server.buckets) == {"bucket"}


def test_what_reads_a_run_reads_it_in_a_bucket(runs):
  read = runs["read"]
  assert read == runs["expected"]
  assert read["codes"] == [0] * 4 and read["name"] == "run"
  assert read["checkpoints"] == [2, 3, 4] and read["resets"] == [2, 4]
  assert len(read["answers"].splitlines()) == 8
  page = (runs["bucket"] / "runs" / "run" / "report.html").read_text()
  assert page.startswith("<!") and "Reference resets" in page


def test_evaluations_and_exports_are_alike(runs):
  def files(folder):
    return {
      str(p.relative_to(folder)): p.read_bytes()
      for p in folder.rglob("*")
      if p.is_file()
    }

  assert _joined(files(runs["bucket"] / "evaluated")) == files(
    runs["local"] / "evaluated"
  )
  exported, local = runs["local"] / "hf", runs["local"] / "local-hf"
  first, second = files(exported), files(local)
  assert "model.safetensors" in first
  # A card says where its model is, and holds the config with its places.
  cards = [x.pop("README.md").decode() for x in (first, second)]
  assert first == second
  heads = [
    card.partition("<details>")[0].replace(str(place), "PLACE")
    for card, place in zip(cards, (exported, local))
  ]
  assert heads[0] == heads[1] and "PLACE" in heads[0]


STORED = """
import base64, json, sys
import google_crc32c
from progrpo_jax import errors, places
path = "gs://bucket/run/checkpoints/1/params/d/1"
places.write(path, b"weights")
size, checksum = places.stored_checksum(path)
assert size == 7
assert base64.b64decode(checksum) == google_crc32c.value(
    b"weights").to_bytes(4, "big")
for name, error in (("run/none", FileNotFoundError),
                    ("closed", errors.RunError)):
  place = f"gs://{name}/x" if name == "closed" else f"gs://bucket/{name}"
  try:
    with places.reading(place):
      places.stored_checksum(place)
  except error as e:
    print(e)
"""


def test_a_bucket_keeps_checksums_and_a_refusal_is_no_loss(store):
  """As gcsfs tells it: of a missing object, and of one that it may not see."""
  store.buckets["closed"] = {}
  store.forbid("closed")
  with _child(store, "-c", STORED) as child:
    out, err = child.communicate(timeout=200)
  assert child.returncode == 0, err
  lost, away = out.splitlines()
  assert "none" in lost  # with its place, escaped as in a URL
  assert away.startswith("gs://closed/x: cannot be reached: ")
  assert away.endswith("the same command tries again")


LIVE = """
import json, sys, urllib.request
from progrpo_jax import load_run
url = sys.argv[1]

def write(name, text):
  urllib.request.urlopen(
      url + "/upload/storage/v1/b/bucket/o?uploadType=media&name=run/" + name,
      text.encode()).close()

seen = []
for step in (1, 2):
  write("metrics.jsonl", "".join(
      json.dumps({"step": s, "reward": s}) + "\\n" for s in range(step + 1)))
  write(f"rollouts/00000{step}.jsonl", "{}\\n")
  write(f"checkpoints/{step}/params/x", "")
  if step == 1:
    run = load_run("gs://bucket/run")
    write("checkpoints/1/commit_success.txt", "")
  seen.append([len(run.metrics()), run.record.rollout_steps(),
               run.checkpoints()])
print(json.dumps(seen))
"""


def test_what_others_write_is_seen_and_half_a_checkpoint_is_not(store):
  with _child(store, "-c", LIVE, store.url) as child:
    out, err = child.communicate(timeout=200)
  assert child.returncode == 0, err
  assert json.loads(out) == [[2, [1], [1]], [3, [1, 2], [1]]]


ERRORS = """
import sys
from progrpo_jax import main
config = sys.argv[1:]
commands = {
    "train": ["train", *config, "--workdir"], "report": ["report", "--workdir"],
    "evaluate": ["evaluate", *config, "--policy"], "compare": ["compare"]}

def say(place):
  for name, argv in commands.items():
    code = main.main([*argv, f"gs://{place}/run"])
    print(place, name, code, file=sys.stderr)

sys.modules["gcsfs"] = None
say("bucket")
del sys.modules["gcsfs"]
for place in ("nothing", "closed", "unseen"):
  say(place)
"""
WORDS = {
  "bucket": "run `pip install 'progrpo_jax[gcs]'`",
  "nothing": "gcloud storage buckets create gs://nothing ",
  "closed": "roles/storage.objectAdmin and roles/storage.legacyBucketReader",
  "unseen": "the role roles/storage.legacyBucketReader",
}


def test_a_bucket_that_cannot_be_used_is_one_line(small, store):
  """No gcsfs; no such bucket; no rights at all; none on the bucket itself."""
  store.buckets |= {"closed": {}, "unseen": {}}
  store.forbid("closed")
  store.forbid("unseen", ["bucket"])
  with _child(store, "-c", ERRORS, *small.args()) as child:
    _, err = child.communicate(timeout=200)
  assert child.returncode == 0, err
  lines = err.splitlines()
  for place, words in WORDS.items():
    for name in ("train", "report", "evaluate", "compare"):
      said, code = lines.pop(0), lines.pop(0)
      assert code == f"{place} {name} 2", err
      assert said.startswith(f"progrpo {name}: ") and f"gs://{place}" in said
      reads = name != "train" and place in ("nothing", "unseen")
      assert ("no such" if reads else words) in said
  assert lines == []
  assert set(store.buckets) == {"bucket", "closed", "unseen"}
