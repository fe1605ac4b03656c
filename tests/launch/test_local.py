"""One machine with GPUs, and Slurm: fakes of nvidia-smi, srun and the like."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"

# Takes its exit codes from $FAKE/codes, one a start; "wait" is 75 after TERM. A
# number behind a code is the step of a checkpoint that this start has saved.
STUB = """#!/bin/bash
printf '%s\\n' "$*" >>"$FAKE/runs"
env >"$FAKE/env"
n=$(wc -l <"$FAKE/runs")
read -r code step <<<"$(sed -n "${n}p" "$FAKE/codes")"
[[ -z $step ]] || mkdir -p "$FAKE/w/checkpoints/$step"
[[ $code == wait ]] || exit "$code"
trap 'exit 75' TERM
touch "$FAKE/waiting"
for _ in {1..200}; do sleep 0.1; done
"""


def executable(path, text):
  path.parent.mkdir(exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


def record(name):
  return f'#!/bin/bash\necho "{name} $*" >>"$FAKE/calls"\n'


def _interruptible():
  """No shell can trap a signal that its parent ignored, as nohup's do."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)


class Machine:
  """Runs the scripts with the stubs before everything else on the PATH."""

  def __init__(self, folder):
    self.folder = folder
    tools = folder / "bin"
    executable(tools / "progrpo", STUB)
    executable(tools / "nap", '#!/bin/bash\necho "$1" >>"$FAKE/naps"\n')
    executable(tools / "nvidia-smi", "#!/bin/bash\necho GPU 0\n")
    executable(tools / "scontrol", record("scontrol"))
    # As Slurm: a signal for the steps goes to what srun runs.
    executable(
      tools / "scancel", record("scancel") + ('kill -TERM "$(<"$FAKE/step")"\n')
    )
    executable(
      tools / "srun",
      record("srun") + ('echo $$ >"$FAKE/step"\nshift\nexec "$@"\n'),
    )
    self.env = {
      "PATH": f"{tools}:{os.environ['PATH']}",
      "FAKE": str(folder),
      "SLEEP": "nap",
      "PROGRPO": str(tools / "progrpo"),
      "BACKOFF_S": "4",
      "BACKOFF_MAX_S": "10",
    }

  def start(self, codes, script, *args, **env):
    (self.folder / "codes").write_text("\n".join(map(str, codes)) + "\n")
    return subprocess.Popen(
      ["bash", str(LAUNCH / script), *args],
      env=self.env | env,
      text=True,
      cwd=self.folder,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      preexec_fn=_interruptible,
    )

  def run(self, *args, **env):
    process = self.start(*args, **env)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out

  def lines(self, name):
    path = self.folder / name
    return path.read_text().splitlines() if path.exists() else []

  def wait_for(self, name):
    end = time.monotonic() + 30
    while not (self.folder / name).exists():
      assert time.monotonic() < end
      time.sleep(0.05)

  def environment(self):
    return dict(x.split("=", 1) for x in self.lines("env") if "=" in x)


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path)


GPU = ("gpu.sh", "--config", "a b.py", "--workdir=w", "--config.x=1")
SLURM = {
  "SLURM_JOB_ID": "7",
  "CONFIG": "c.py:a",
  "WORKDIR": "w",
  "SLURM_GPUS_ON_NODE": "4",
  "SLURM_SUBMIT_DIR": str(LAUNCH.parent),
}


def test_one_machine_starts_again_what_was_saved(machine):
  code, out = machine.run([75, 75, 75, 0], *GPU)
  assert code == 0, out
  assert machine.lines("runs") == 4 * [
    "train --config a b.py --workdir=w --config.x=1"
  ]
  assert machine.lines("naps") == ["4", "8", "10"]
  assert machine.environment()["PYTHONHASHSEED"] == "0"
  assert machine.environment()["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.9"


@pytest.mark.parametrize("code", [0, 1, 2, 139])
def test_one_machine_ends_with_the_code_of_the_run(machine, code):
  assert machine.run([code], *GPU)[0] == code
  assert len(machine.lines("runs")) == 1


# (codes and checkpoints of the starts, exit code at the end, number of starts)
FAILURES = [
  (["1 5", 0], 0, 2),  # a failure with a checkpoint behind it
  ([139, 0], 139, 1),  # one that has never saved
  (["1 5", 1, 1, 0], 0, 4),
  (["1 5", 1, 1, 1], 1, 4),  # three in a row without a new checkpoint
  (["1 5", 1, 1, "1 9", 1, 1, 0], 0, 7),
  (["1 5", 2], 2, 2),  # bad input
  (["75 5", 1, 0], 0, 3),
]


@pytest.mark.parametrize(("codes", "end", "starts"), FAILURES)
def test_one_machine_goes_on_from_a_checkpoint(machine, codes, end, starts):
  code, out = machine.run(codes, *GPU)
  assert code == end, out
  assert len(machine.lines("runs")) == starts


def test_an_unfinished_checkpoint_is_none(machine):
  (machine.folder / "w/checkpoints/5.orbax-checkpoint-tmp-1").mkdir(
    parents=True
  )
  assert machine.run([1, 0], *GPU)[0] == 1


# Shows a new checkpoint after each start of the run.
GCLOUD = """#!/bin/bash
[[ $3 == gs://b ]] && exit
[[ $3 == "gs://b/w/checkpoints/*/commit_success.txt" ]] || exit 1
echo gs://b/w/checkpoints/$(wc -l <"$FAKE/runs")/commit_success.txt
"""


@pytest.mark.parametrize("workdir", ["gs://b/w", "gs://b/w/"])
def test_checkpoints_in_a_bucket_count_too(machine, workdir):
  executable(machine.folder / "bin" / "gcloud", GCLOUD)
  (machine.folder / "runs").touch()
  code, out = machine.run([1, 1, 0], "gpu.sh", "--workdir", workdir)
  assert code == 0 and "gcloud" not in out


@pytest.mark.parametrize("script", ["gpu.sh", "slurm.sbatch"])
def test_a_bucket_that_the_shell_cannot_list_is_named(machine, script):
  executable(machine.folder / "bin" / "gcloud", "#!/bin/bash\nexit 1\n")
  args = ("--workdir", "gs://b/w") if script == "gpu.sh" else ()
  code, out = machine.run([1], script, *args, **SLURM | {"WORKDIR": "gs://b/w"})
  assert code == 1 and "gcloud cannot list gs://b: a run that fails" in out


# A signal comes while checkpoints are looked for after the first start.
LOOKING = """#!/bin/bash
[[ $(wc -l <"$FAKE/runs") == 1 ]] && kill -%s $(<"$FAKE/shell") && sleep 0.3
echo gs://b/w/checkpoints/1/commit_success.txt
"""


def test_who_stops_one_machine_between_starts_does_not_wait(machine):
  executable(machine.folder / "bin" / "gcloud", LOOKING % "TERM")
  (machine.folder / "runs").touch()
  process = machine.start([1, 0], "gpu.sh", "--workdir", "gs://b/w")
  (machine.folder / "shell").write_text(str(process.pid))
  process.communicate(timeout=30)
  assert process.returncode == 1 and not machine.lines("naps")


def test_a_job_whose_limit_comes_between_starts_is_requeued(machine):
  executable(machine.folder / "bin" / "gcloud", LOOKING % "USR1")
  (machine.folder / "runs").touch()
  env = SLURM | {"WORKDIR": "gs://b/w"}
  process = machine.start([1, 0], "slurm.sbatch", **env)
  (machine.folder / "shell").write_text(str(process.pid))
  process.communicate(timeout=30)
  assert process.returncode == 0 and not machine.lines("naps")
  assert machine.lines("calls")[-1] == "scontrol requeue 7"


def test_several_machines_start_again_when_all_have_noticed(machine):
  code, out = machine.run(
    ["1 5", 0], *GPU, JAX_NUM_PROCESSES="2", TOGETHER_S="150"
  )
  assert code == 0, out
  assert machine.lines("naps") == ["150"]


def test_no_start_at_all_is_refused(machine):
  code, out = machine.run([0], *GPU, MAX_TRIES="0")
  assert code == 2 and "MAX_TRIES is 0" in out


def test_the_starts_on_one_machine_are_bounded(machine):
  code, out = machine.run([75] * 9, *GPU, MAX_TRIES="3")
  assert code == 75 and "MAX_TRIES" in out
  assert len(machine.lines("runs")) == 3
  assert machine.lines("naps") == ["4", "8"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_one_machine_means_it(machine, number):
  process = machine.start(["wait", 0], *GPU)
  machine.wait_for("waiting")
  process.send_signal(number)
  process.communicate(timeout=30)
  assert process.returncode == 75
  assert len(machine.lines("runs")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_one_machine_in_a_pause_does_not_wait(machine, number):
  executable(
    machine.folder / "bin" / "nap",
    '#!/bin/bash\necho "$1" >>"$FAKE/naps"\nexec sleep 300\n',
  )
  process = machine.start([75, 0], *GPU)
  machine.wait_for("naps")
  process.send_signal(number)
  process.communicate(timeout=30)
  assert process.returncode == 75
  assert len(machine.lines("runs")) == 1


def test_one_machine_needs_a_workdir(machine):
  code, out = machine.run([0], "gpu.sh", "--config", "c")
  assert code == 2 and "no --workdir FOLDER" in out
  assert not machine.lines("runs")


def test_one_machine_goes_on_with_a_workdir_alone(machine):
  """A workdir keeps its config."""
  code, _ = machine.run([0], "gpu.sh", "--workdir", "w")
  assert code == 0 and machine.lines("runs") == ["train --workdir w"]


def test_one_machine_without_the_program(machine):
  code, out = machine.run([0], *GPU, PROGRPO="/nowhere/progrpo")
  assert code == 2 and "make setup" in out


def test_one_machine_dry(machine):
  code, out = machine.run([0], GPU[0], "--dry-run", *GPU[1:])
  assert code == 0 and "train --config a\\ b.py" in out
  assert not machine.lines("runs")


def test_a_job_runs_one_process_a_node_on_all_its_gpus(machine):
  code, out = machine.run([0], "slurm.sbatch", "--config.x=1", **SLURM)
  assert code == 0, out
  assert machine.lines("runs") == [
    "train --config c.py:a --workdir w --config.x=1"
  ]
  assert machine.environment()["JAX_LOCAL_DEVICE_IDS"] == "0,1,2,3"
  assert machine.environment()["PYTHONHASHSEED"] == "0"
  assert [x.split()[0] for x in machine.lines("calls")] == ["srun"]


@pytest.mark.parametrize("cores", ["32", None])
def test_the_tasks_get_the_cores_of_the_job(machine, cores):
  """srun does not take them over from sbatch by itself."""
  env = SLURM | ({"SLURM_CPUS_PER_TASK": cores} if cores else {})
  assert machine.run([0], "slurm.sbatch", **env)[0] == 0
  assert machine.environment().get("SRUN_CPUS_PER_TASK") == cores


def test_a_job_that_saved_is_requeued(machine):
  code, out = machine.run([75], "slurm.sbatch", **SLURM)
  assert code == 0 and "requeued" in out
  assert machine.lines("calls")[-1] == "scontrol requeue 7"


def test_requeues_are_bounded(machine):
  code, out = machine.run(
    [75], "slurm.sbatch", **SLURM, SLURM_RESTART_COUNT="3", MAX_REQUEUES="3"
  )
  assert code == 75 and "MAX_REQUEUES" in out
  assert not any(x.startswith("scontrol") for x in machine.lines("calls"))


@pytest.mark.parametrize(
  ("codes", "end", "starts"),
  [x for x in FAILURES if x[0][0] != "75 5"],  # which requeues the job
)
def test_a_job_goes_on_from_a_checkpoint(machine, codes, end, starts):
  code, out = machine.run(codes, "slurm.sbatch", **SLURM)
  assert code == end, out
  assert len(machine.lines("runs")) == starts
  assert not any(x.startswith("scontrol") for x in machine.lines("calls"))


def test_a_job_whose_limit_comes_in_a_pause_is_requeued(machine):
  executable(
    machine.folder / "bin" / "nap",
    '#!/bin/bash\necho "$1" >>"$FAKE/naps"\nexec sleep 300\n',
  )
  executable(machine.folder / "bin" / "scancel", "#!/bin/bash\nexit 1\n")
  process = machine.start(["1 5", 0], "slurm.sbatch", **SLURM)
  machine.wait_for("naps")
  process.send_signal(signal.SIGUSR1)
  process.communicate(timeout=30)
  assert process.returncode == 0
  assert machine.lines("calls")[-1] == "scontrol requeue 7"


def test_before_the_limit_the_tasks_are_told_once(machine):
  process = machine.start(["wait"], "slurm.sbatch", **SLURM)
  machine.wait_for("waiting")
  process.send_signal(signal.SIGUSR1)
  out, _ = process.communicate(timeout=30)
  assert process.returncode == 0, out
  assert machine.lines("calls")[1:] == [
    "scancel --signal=TERM 7",
    "scontrol requeue 7",
  ]


def test_at_a_preemption_slurm_tells_the_tasks(machine):
  process = machine.start(["wait"], "slurm.sbatch", **SLURM)
  machine.wait_for("waiting")
  process.send_signal(signal.SIGTERM)
  os.kill(int((machine.folder / "step").read_text()), signal.SIGTERM)
  out, _ = process.communicate(timeout=30)
  assert process.returncode == 0, out
  assert machine.lines("calls")[1:] == ["scontrol requeue 7"]


@pytest.mark.parametrize("name", ["CONFIG", "WORKDIR", "SLURM_JOB_ID"])
def test_a_job_names_what_is_missing(machine, name):
  env = {k: v for k, v in SLURM.items() if k != name}
  code, out = machine.run([0], "slurm.sbatch", **env)
  words = "not under Slurm" if name == "SLURM_JOB_ID" else f"{name} is not set"
  assert code == 2 and words in out and not machine.lines("calls")


def test_a_job_is_submitted_from_the_repository(machine):
  env = SLURM | {"SLURM_SUBMIT_DIR": str(machine.folder)}
  code, out = machine.run([0], "slurm.sbatch", **env)
  assert code == 2 and "submit from the repository" in out


def test_the_directives_ask_for_what_the_script_relies_on():
  lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
  directives = [x for x in lines if x.startswith("#SBATCH ")]
  commands = [i for i, x in enumerate(lines) if x and not x.startswith("#")]
  # Slurm reads none behind the first command.
  assert lines.index(directives[-1]) < commands[0]
  for wanted in (
    "--requeue",
    "--signal=B:USR1@600",
    "--ntasks-per-node=1",
    "--open-mode=append",
  ):
    assert f"#SBATCH {wanted}" in directives
