"""A cloud in a folder: what `gcloud` and its TPU workers do, for the tests.

$FAKE/state.json  the nodes and queues, and the failures to come
$FAKE/calls.jsonl every call's arguments
$FAKE/buckets/    what gs://NAME/... is
$FAKE/homes/      the home directories of the workers: NAME/0, NAME/1, ...
"""

import contextlib
import fcntl
import glob
import json
import os
import pathlib
import shutil
import signal
import sys

FAKE = pathlib.Path(os.environ["FAKE"])
EMPTY = {"nodes": {}, "queues": {}, "failures": [], "workers": 2}


@contextlib.contextmanager
def cloud():
  """The state, changed by nobody else meanwhile."""
  with open(FAKE / "lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    path = FAKE / "state.json"
    state = json.loads(path.read_text()) if path.exists() else dict(EMPTY)
    yield state
    path.write_text(json.dumps(state))


def fail(text, code=1):
  print(text, file=sys.stderr)
  sys.exit(code)


def missing(kind, name):
  fail(
    f"ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource "
    f"'projects/p/locations/z/{kind}/{name}' was not found"
  )


def planned_failure(line):
  """Fails as a test has asked for."""
  with cloud() as state:
    for failure in state["failures"]:
      if failure["match"] in line and failure["times"] > 0:
        failure["times"] -= 1
        break
    else:
      return
  fail(failure["text"], failure.get("code", 1))


def split(argv):
  """Positional words and options; what follows -- is left out."""
  argv = argv[: argv.index("--")] if "--" in argv else argv
  options = dict(a[2:].partition("=")[::2] for a in argv if a.startswith("--"))
  return [a for a in argv if not a.startswith("--")], options


def end_of(name):
  """Takes the machines of a node away, with all that runs on them."""
  for pid in FAKE.glob(f"homes/{name}/*/tmux"):
    with contextlib.suppress(ProcessLookupError, ValueError):
      os.killpg(int(pid.read_text()), signal.SIGKILL)
  shutil.rmtree(FAKE / "homes" / name, ignore_errors=True)


def node(verb, name, options):
  with cloud() as state:
    nodes = state["nodes"]
    if verb == "create":
      if name in nodes:
        fail(f"ERROR: (gcloud.x) ALREADY_EXISTS: {name} already exists")
      nodes[name] = state.get("first_states", []) + ["READY"]
    elif name not in nodes:
      missing("nodes", name)
    elif verb == "delete":
      del nodes[name]
      end_of(name)
    elif verb == "describe":
      print(nodes[name][0])
      if len(nodes[name]) > 1:
        del nodes[name][0]


def queue(verb, name, options):
  with cloud() as state:
    queues = state["queues"]
    if verb == "create":
      queues[name] = {
        "node": options["node-id"],
        "states": ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
      }
    elif name not in queues:
      missing("queuedResources", name)
    elif verb == "delete":
      made = queues.pop(name)["node"]
      state["nodes"].pop(made, None)
      end_of(made)
    elif verb == "describe":
      states = queues[name]["states"]
      print(states[0])
      if len(states) > 1:
        del states[0]
        if states[0] == "ACTIVE":
          state["nodes"][queues[name]["node"]] = ["READY"]


def machines(name, options):
  """(number, environment) of the workers that are meant."""
  with cloud() as state:
    if state["nodes"].get(name, [""])[0] != "READY":
      fail(
        "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [255] connection refused", 255
      )
    count = state["workers"]
  worker = options["worker"]
  for i in range(count) if worker == "all" else [int(worker)]:
    home = FAKE / "homes" / name / str(i)
    home.mkdir(parents=True, exist_ok=True)
    yield (
      i,
      os.environ
      | {
        "HOME": str(home),
        "FAKE_WORKER": str(i),
        "FAKE_NODE": name,
        "COPY_S": "1",
        "NOTICE_S": "0.1",
        "DRY_RUN": "",
        "PATH": f"{FAKE}/worker_bin:{os.environ['PATH']}",
      },
    )


def ssh(name, options):
  started = []
  for _, env in machines(name, options):
    os.chdir(env["HOME"])
    started.append(
      os.posix_spawnp(
        "bash",
        ["bash", "-c", options["command"]],
        env,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
      )
    )
  sys.exit(
    max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started)
  )


def scp(source, target, options):
  name, _, path = target.partition(":")
  for _, env in machines(name, options):
    # As scp: a file that is there keeps its mode.
    there = pathlib.Path(env["HOME"]) / path
    is_new = not there.exists()
    shutil.copyfile(source, there)
    if is_new:
      shutil.copymode(source, there)
    with open(FAKE / "modes.jsonl", "a") as f:
      f.write(json.dumps([there.name, there.stat().st_mode & 0o777]) + "\n")


def place(url):
  """The path of a gs:// URL, or of a local file."""
  return str(FAKE / "buckets" / url[5:]) if url.startswith("gs://") else url


def storage(verb, paths, options):
  if verb == "buckets":
    bucket = paths[1]
    if not os.path.isdir(place(bucket)):
      fail(f"ERROR: (gcloud.storage.buckets.describe) {bucket} not found: 404.")
    return
  found = sorted(glob.glob(place(paths[0])))
  if not found:
    fail("ERROR: (gcloud.storage) One or more URLs matched no objects.")
  for path in found:
    if verb == "ls":
      print("gs://" + os.path.relpath(path, FAKE / "buckets"))
    elif verb == "cat":
      print(pathlib.Path(path).read_text(), end="")
    else:
      copy(path, paths[1])


def copy(path, target):
  """Copies, and notes [target, size] of each file in uploads.jsonl."""
  into = pathlib.Path(place(target))
  if target.endswith("/"):
    into = into / os.path.basename(path)
  into.parent.mkdir(parents=True, exist_ok=True)
  if os.path.isdir(path):
    shutil.copytree(path, into, dirs_exist_ok=True)
  else:
    shutil.copy(path, into)
    with open(FAKE / "uploads.jsonl", "a") as f:
      f.write(json.dumps([target, into.stat().st_size]) + "\n")


def main(argv):
  with open(FAKE / "calls.jsonl", "a") as f:
    f.write(json.dumps(argv) + "\n")
  planned_failure(" ".join(argv))
  words, options = split(argv)
  if words[0] == "storage":
    storage(words[1], words[2:], options)
  elif words[2] == "queued-resources":
    queue(words[3], words[4], options)
  elif words[3] == "ssh":
    ssh(words[4], options)
  elif words[3] == "scp":
    scp(words[4], words[5], options)
  else:
    node(words[3], words[4], options)


if __name__ == "__main__":
  main(sys.argv[1:])
