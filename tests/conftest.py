"""Fixtures that the tests of several folders share."""

import collections
import importlib.metadata
import json
import math
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import types

import pytest

# Tests compile far more than they compute. Without most of LLVM's passes, and
# with XLA's older emitters for a CPU, a program compiles in a quarter of the
# time; what is computed is the same up to rounding. Set before jax is
# imported, and for children too. `make test-slow` sets 0: there programs are
# compiled as users compile them.
_PLAIN = "--xla_cpu_use_fusion_emitters=false"
# Eight devices on a busy machine may wait longer for each other than 40 s.
_PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=600"


def _flags(version):
  """XLA's flags for tests: an unknown one makes jaxlib abort the process.

  The older emitters, and the flag that asks for them, were taken out of jaxlib
  after 0.10; whether the other is there still was not tried.
  """
  release = tuple(int(part) for part in version.split(".")[:2])
  return [_PLAIN, _PATIENT] if release <= (0, 10) else []


if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
  os.environ["XLA_FLAGS"] = " ".join(
    dict.fromkeys(
      [
        *os.environ.get("XLA_FLAGS", "").split(),
        *_flags(importlib.metadata.version("jaxlib")),
      ]
    )
  )

# A file of tests forgets its programs when it ends (see `forget_programs`), and
# many have programs in common: all workers and children read what one of them
# compiled. The folder goes when pytest ends.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _PROGRAMS = tempfile.TemporaryDirectory(prefix="programs-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

HOSTILE = (
  "</script><script>alert(1)</script><!-- <script> \x1b[31mred\x1b[0m "
  "\x00\x07 lone \ud800 \u202egnp.exe <img src=x onerror=alert(2)> "
  "{{scripts}} $title \\g<1> &amp; \u2028"
)
_KS = (1, 2, 4, 8, 16, 32)
_PROMPTS = 8
_SMALL = pathlib.Path(__file__).with_name("small.py")
_GROUP = 8


def _lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _metrics(step, steps, shift):
  """One step's line, by formula: reward rises, entropy falls, KL is reset."""
  part = step / steps
  wave = math.sin(1.7 * step + shift)
  reward = 0.15 + 0.6 * (1 - math.exp(-3 * part)) + 0.04 * wave
  return {
    "step": step,
    "reward": reward,
    "reward_std": 0.4,
    "correct": reward - 0.05,
    "entropy": 0.9 * math.exp(-(1.2 + shift) * part) + 0.02 * wave,
    "kl": 0.0008 * (step % 40) + 0.001 * abs(wave),
    "clip_ratio/low_mean": 0.01 + 0.002 * wave,
    "clip_ratio/high_mean": 0.02 + 0.003 * wave,
    "completions/mean_length": 30 + 25 * part + 2 * wave,
    "completions/clipped_ratio": 0.1 * math.exp(-4 * part),
    "arm/active_groups": 0.7 + 0.05 * wave,
    "arm/gap_mean": 0.1 * math.exp(-2 * part) + 0.02 * wave,
    "arm/gap_std": 0.08,
    "arm/sign_flip": 0.05 + 0.01 * wave,
    "ref_reset/reset": float(step % 40 == 0),
    "ref_reset/count": step // 40,
    "perf/tokens_per_second": 2400.0 + 80 * wave,
    "timing_s/sample": 0.31,
    "timing_s/verify": 0.02,
    "timing_s/score": 0.11,
    "timing_s/update": 0.24,
    "timing_s/step": 0.7 + 0.02 * wave,
    "num_tokens": 2100 * step,
  }


def _samples(step, steps, shift):
  """Evaluation samples: problem i has more right answers later and for low i.

  Sixteen samples a problem, so that pass@k of k up to 16 can be recomputed.
  """
  rows = []
  for i in range(_PROMPTS):
    right = min(16, max(0, round(16 * (0.1 + 0.7 * step / steps) - i + shift)))
    rows.append(
      {
        "step": step,
        "set": "countdown",
        "prompt": f"Use {i + 2}, 3 and 7 to make {i + 12}.",
        "reference": {"target": i + 12},
        "completions": [
          {
            "text": f"<answer>{i + 2} + 3 + {j % 3}</answer>",
            "correct": j < right,
          }
          for j in range(16)
        ],
      }
    )
  return rows


def _evaluation(step, rows):
  """The line of an evaluation, pass@k by counting subsets."""
  line = {"step": step}
  for k in (k for k in _KS if k <= 16):
    values = []
    for row in rows:
      wrong = sum(not c["correct"] for c in row["completions"])
      values.append(1 - math.comb(wrong, k) / math.comb(16, k))
    mean = sum(values) / len(values)
    line[f"eval/countdown/pass@{k}"] = mean
    line[f"eval/countdown/pass@{k}/low"] = max(mean - 0.06, 0.0)
    line[f"eval/countdown/pass@{k}/high"] = min(mean + 0.06, 1.0)
  line["eval/countdown/entropy"] = 0.8 - 0.002 * step
  line["eval/countdown/distinct_correct"] = 1.5 + 0.01 * step
  line["eval/countdown/mean_length"] = 40.0
  line["eval/countdown/num_problems"] = len(rows)
  line["eval/countdown/num_samples"] = 16
  return line


def _rollouts(step, steps, hostile):
  rows = []
  for p in range(_PROMPTS):
    right = round(_GROUP * (0.1 + 0.6 * step / steps)) - p // 2
    completions = []
    for g in range(_GROUP):
      base = 1.0 if g < right else -0.6
      text = (
        f"Let me try {p + 2} + 3 first, then 7.\nThat gives {p + 12 + g}, so "
        f"step {g} is to multiply.\n<answer>{p + 2} + 3 * {g % 3}</answer>"
      )
      completions.append(
        {
          "text": HOSTILE if hostile and g == 0 else text * (1 + g % 3),
          "reward": float(g < right),
          "correct": g < right,
          "status": "timeout" if (p, g) == (2, 7) else "ok",
          "advantage": base + 0.1 * math.sin(g),
          "base_advantage": base,
          "c_answer": 0.3 + 0.05 * g,
          "length": 34 + g,
          "finished": g != 6,
        }
      )
    new = [] if p < _PROMPTS // 2 else [f" (step {step})"]
    rows.append(
      {
        "step": step,
        "id": 100 * step + p,
        "task": ("countdown", "chain_sum")[p % 2],
        "prompt": f"Use {p + 2}, 3 and 7 to make {p + 12}."
        + "".join(new)
        + (HOSTILE if hostile else ""),
        "reference": {"target": p + 12},
        "c_prompt": 0.55,
        "completions": completions,
      }
    )
  return rows


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
  """Drops what a file compiled: that of hundreds of files takes 6 GB."""
  yield
  if "jax" in sys.modules:
    sys.modules["jax"].clear_caches()


@pytest.fixture
def run_python(run_python):
  """The same for a child that compiles as the tests do."""

  def run(code_or_args, *, devices=8, env=None, **options):
    flags = os.environ.get("XLA_FLAGS", "").split()
    count = f"--xla_force_host_platform_device_count={devices}"
    env = {"XLA_FLAGS": " ".join([*flags, count])} | (env or {})
    return run_python(code_or_args, devices=devices, env=env, **options)

  return run


@pytest.fixture
def make_run(tmp_path):
  """A function that writes the workdir of a made-up run and returns it."""

  def make(name="progrpo", *, steps=100, shift=0, hostile=False, samples=True):
    workdir = pathlib.Path(tmp_path / name)
    config = {
      "seed": shift,
      "algo": {
        "advantage": "grpo",
        "loss": "clip",
        "num_generations": _GROUP,
        "arm": {"alpha": 0.3},
      },
      "note": HOSTILE if hostile else "",
    }
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(config))
    numbers = range(1, steps + 1)
    _lines(
      workdir / "metrics.jsonl", [_metrics(s, steps, shift) for s in numbers]
    )
    evals = []
    for step in range(0, steps + 1, max(steps // 5, 1)):
      rows = _samples(step, steps, shift)
      evals.append(_evaluation(step, rows))
      if samples:
        _lines(workdir / "evals" / f"{step:06d}.jsonl", rows)
      if step:
        rows = _rollouts(step, steps, hostile)
        _lines(workdir / "rollouts" / f"{step:06d}.jsonl", rows)
    _lines(workdir / "eval.jsonl", evals)
    return workdir

  return make


@pytest.fixture
def hostile():
  """What a model might write to break out of a page or steer a terminal."""
  return HOSTILE


@pytest.fixture(scope="session")
def random_params():
  """A function (config, seed=0, scale=0.3) -> parameters, none of them trivial.

  Biases are not 0, norms not 1, and logits far from flat.
  """
  import jax
  import numpy as np

  from progrpo_jax.models import parameters

  def make(config, seed=0, scale=0.3):
    rng = np.random.default_rng(seed)

    def leaf(path, x):
      base = 1.0 if path[-1].key == "scale" else 0.0
      noise = rng.normal(size=x.shape) * scale
      return jax.numpy.asarray(base + noise, x.dtype)

    return jax.tree_util.tree_map_with_path(
      leaf, parameters.abstract_params(config)
    )

  return make


class Quiet:
  """A view that keeps what it is told."""

  def __init__(self):
    self.steps, self.evals, self.messages = [], [], []

  def phase(self, name):
    pass

  def step(self, step, metrics):
    self.steps.append((step, dict(metrics)))

  def eval(self, step, metrics):
    self.evals.append((step, dict(metrics)))

  def message(self, text):
    self.messages.append(text)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """gs:// is a folder; the test fails if it is taken for a local path.

  Returns:
    The folder of gs://bucket.
  """
  from etils.epath import backend
  from fsspec.implementations import dirfs
  from fsspec.implementations import local as local_files

  place = tmp_path / "gs:" / "bucket"
  place.mkdir(parents=True)
  (tmp_path / "cwd").mkdir()
  monkeypatch.chdir(tmp_path / "cwd")
  files = dirfs.DirFileSystem(
    path=str(tmp_path), fs=local_files.LocalFileSystem(auto_mkdir=True)
  )
  monkeypatch.setattr(
    backend.fsspec_backend, "_get_filesystem", lambda _: files
  )
  yield place
  assert list((tmp_path / "cwd").iterdir()) == []


@pytest.fixture(scope="session")
def small(tmp_path_factory):
  """A warmed-up policy and how to train it; the config is `small.py`.

  base: its directory.
  args(*overrides, method): the command line of a config, `group.key=value`
    changing it.
  config(*overrides, method): the config.
  train(workdir, *overrides, method): trains; (exit code, view).
  view(): a view that keeps what it is told.
  write(path, **groups): writes a config file that changes keys of the groups,
    such as data=dict(tasks={...}).
  """
  from progrpo_jax import loop
  from progrpo_jax.build import base_policy
  from progrpo_jax.cli import arguments

  folder = tmp_path_factory.mktemp("small")
  base = folder / "base"

  def args(*overrides, method="prorl"):
    return [
      "--config",
      f"{_SMALL}:{method}",
      f"--config.model.init_from={base}",
      f"--config.data.dir={folder / 'data'}",
      *(f"--config.{override}" for override in overrides),
    ]

  def config(*overrides, method="prorl"):
    parser = arguments.parser("train", "")
    return arguments.parse(parser, args(*overrides, method=method))[0]

  def run(workdir, *overrides, method="prorl"):
    view = Quiet()
    made = config(*overrides, method=method)
    return loop.train(made, workdir, view), view

  def write(path, **groups):
    changes = {"model": dict(init_from=str(base)), "data": {}} | groups
    changes["data"] = dict(dir=str(folder / "data")) | changes["data"]
    path.write_text(
      f"import runpy\nsmall = runpy.run_path({str(_SMALL)!r})\n"
      "def get_config(method='grpo'):\n"
      "  c = small['get_config'](method)\n"
      f"  for group, keys in {changes!r}.items():\n"
      "    if not isinstance(keys, dict):\n"
      "      c[group] = keys\n"
      "      continue\n"
      "    for key, value in keys.items():\n"
      "      c[group][key] = value\n"
      "  return c\n"
    )
    return path

  losses = []
  base_policy.warm_up(
    config("model.init_from="), base, lambda count, note: losses.append(note)
  )
  return types.SimpleNamespace(
    base=base,
    args=args,
    config=config,
    train=run,
    view=Quiet,
    write=write,
    losses=losses,
  )


class Host:
  """One process of several that run together."""

  def __init__(self, argv, env, log):
    self.log = log
    with log.open("w") as out:
      self.process = subprocess.Popen(
        [sys.executable, *map(str, argv)],
        stdout=out,
        stderr=out,
        env=os.environ | env,
      )

  def end(self, timeout):
    """Its exit code, and what it printed."""
    return self.process.wait(timeout), self.log.read_text()

  def wait_for(self, text, timeout):
    """Returns when it has printed a text."""
    end = time.monotonic() + timeout
    while text not in self.log.read_text():
      assert self.process.poll() is None, self.log.read_text()
      assert time.monotonic() < end, self.log.read_text()
      time.sleep(0.02)


@pytest.fixture
def start_hosts(tmp_path_factory):
  """A function that starts n processes of one program with devices each.

  They know of each other by JAX's variables. Nothing outlives the test.
  """
  started = []

  def start(count, argv, *, devices=2):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("hosts")
    env = dict(
      JAX_PLATFORMS="cpu",
      JAX_NUM_CPU_DEVICES=str(devices),
      JAX_NUM_PROCESSES=str(count),
      PYTHONHASHSEED="0",
      JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
    )
    made = [
      Host(argv, env | dict(JAX_PROCESS_ID=str(i)), folder / f"{i}.log")
      for i in range(count)
    ]
    started.extend(made)
    return made

  yield start
  for host in started:
    host.process.kill()
    host.process.wait()


@pytest.fixture(scope="session")
def recorded():
  """A function from a workdir to everything in it that resuming must keep.

  All files but for timings, and the newest checkpoint's arrays and position.
  """
  import jax
  import numpy as np
  import orbax.checkpoint as ocp

  def timeless(line):
    row = json.loads(line)
    return {
      k: v for k, v in row.items() if not k.startswith(("timing_s", "perf/"))
    }

  def read(workdir):
    workdir = pathlib.Path(workdir)
    found = collections.defaultdict(str)
    for path in sorted(workdir.rglob("*.jsonl")):
      name = path.relative_to(workdir)
      if name.parts[0] in ("metrics", "eval"):  # parts, in a bucket
        name = name.parent.with_suffix(".jsonl")
      found[str(name)] += path.read_text()
    lines = found["metrics.jsonl"].splitlines()
    found["metrics.jsonl"] = [timeless(line) for line in lines]
    steps = sorted(
      int(p.name)
      for p in (workdir / "checkpoints").iterdir()
      if p.name.isdigit()
    )
    found["steps"] = steps
    last = workdir / "checkpoints" / str(steps[-1])
    found["meta"] = (last / "meta" / "metadata").read_text()
    for item in ("params", "opt_state"):
      tree = ocp.StandardCheckpointer().restore(last / item)
      found[item] = [
        (jax.tree_util.keystr(path), np.asarray(x).tobytes())
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
      ]
    return found

  return read
