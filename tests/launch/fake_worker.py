"""The `progrpo` of a fake worker: it does what the test has planned.

$FAKE/plan.json is a list; the n-th start of a worker does what its n-th entry
says: {"step": N} writes checkpoint N, {"lines": N} prints as many of 20 bytes
in two seconds, then none in three; then it does one of {"code": C},
{"codes": [of each worker]}, {"preempt": true}, {"wait": true} (for a signal,
then 75) and {"hang": true}.
"""

import fcntl
import json
import os
import pathlib
import signal
import sys
import time

FAKE = pathlib.Path(os.environ["FAKE"])


def progrpo(argv):
  """Does what the plan says; worker 0 alone writes and preempts."""
  worker = int(os.environ["FAKE_WORKER"])
  count = FAKE / f"starts-{worker}"
  n = int(count.read_text()) if count.exists() else 0
  count.write_text(str(n + 1))
  with open(FAKE / f"runs-{worker}.jsonl", "a") as f:
    f.write(json.dumps(argv) + "\n")
  (FAKE / f"environment-{worker}.json").write_text(json.dumps(dict(os.environ)))
  plan = json.loads((FAKE / "plan.json").read_text())[n]
  print(f"start {n} of worker {worker}", flush=True)
  if "step" in plan and worker == 0:
    workdir = argv[argv.index("--workdir") + 1]
    folder = FAKE / "buckets" / workdir[5:] / "checkpoints" / str(plan["step"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commit_success.txt").write_text("")
  for line in range(plan.get("lines", 0)):
    print(f"{line:19}", flush=True)
    time.sleep(2 / plan["lines"])
  if "lines" in plan:
    time.sleep(3)
  if plan.get("preempt"):
    return preempt(worker)
  if plan.get("hang"):
    time.sleep(30)
  if plan.get("wait"):
    for number in (signal.SIGTERM, signal.SIGUSR1):
      signal.signal(number, lambda *_: sys.exit(75))
    (FAKE / f"waiting-{worker}").write_text("")
    time.sleep(30)
  return plan["codes"][worker] if "codes" in plan else plan["code"]


def preempt(worker):
  """The machines go without a word to anybody."""
  if worker:
    time.sleep(30)
  path = FAKE / "state.json"
  with open(FAKE / "lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    state = json.loads(path.read_text())
    state["nodes"][os.environ["FAKE_NODE"]] = ["PREEMPTED"]
    path.write_text(json.dumps(state))
  os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
  sys.exit(progrpo(sys.argv[1:]))
