"""Kept programs, and the clock of compiling."""

import os
import shutil
import stat
import types

import jax
import numpy as np
import pytest

from progrpo_jax import places
from progrpo_jax.devices import compilation, timing


@pytest.fixture
def fresh(monkeypatch, tmp_path):
  """JAX's settings as they are before anybody sets them, and what was said.

  Attributes: config, settings (what was set), said.
  """
  settings = {}
  config = types.SimpleNamespace(
    jax_enable_compilation_cache=True,
    jax_compilation_cache_dir=None,
    update=settings.__setitem__,
  )
  monkeypatch.setattr(compilation.jax, "config", config)
  monkeypatch.setattr(compilation, "HOME", str(tmp_path / "home" / "xla"))
  monkeypatch.delenv(
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False
  )
  return types.SimpleNamespace(config=config, settings=settings, said=[])


def test_programs_are_kept_at_home_for_this_user_alone(fresh, tmp_path):
  compilation.keep("runs/a", fresh.said.append)
  folder = fresh.settings["jax_compilation_cache_dir"]
  assert os.path.dirname(folder) == str(tmp_path / "home" / "xla")
  assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
  assert os.listdir(folder) == [] and fresh.said == []
  assert fresh.settings["jax_persistent_cache_min_compile_time_secs"] == 0


def test_each_kind_of_processor_has_its_folder(fresh, monkeypatch):
  folders = set()
  for machine in ("x86_64", "aarch64", "x86_64"):
    monkeypatch.setattr(compilation.platform, "machine", lambda m=machine: m)
    compilation.keep(None, fresh.said.append)
    folders.add(fresh.settings["jax_compilation_cache_dir"])
  assert len(folders) == 2


def test_the_environment_has_the_last_word(fresh, monkeypatch):
  fresh.config.jax_compilation_cache_dir = "/elsewhere"
  compilation.keep(None, fresh.said.append)
  fresh.config.jax_compilation_cache_dir = None
  fresh.config.jax_enable_compilation_cache = False
  compilation.keep(None, fresh.said.append)
  assert fresh.settings == {} and fresh.said == []
  fresh.config.jax_enable_compilation_cache = True
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "5")
  compilation.keep(None, fresh.said.append)
  assert list(fresh.settings) == ["jax_compilation_cache_dir"]


def test_several_hosts_keep_in_a_bucket_alone(fresh, monkeypatch):
  monkeypatch.setattr(compilation.hosts, "expected", lambda: 2)
  monkeypatch.setattr(places, "check_bucket", lambda path: None)
  compilation.keep("runs/a", fresh.said.append)
  assert fresh.settings == {} and fresh.said == []
  compilation.keep("gs://bucket/runs/a", fresh.said.append)
  assert fresh.settings


def test_a_bad_place_costs_a_message(fresh, monkeypatch, tmp_path):
  (tmp_path / "home").write_text("a file")
  compilation.keep(None, fresh.said.append)
  (tmp_path / "home").unlink()
  monkeypatch.setattr(
    compilation.shutil,
    "disk_usage",
    lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 5 << 20),
  )
  compilation.keep(None, fresh.said.append)
  assert fresh.settings == {}
  assert "Not a directory" in fresh.said[0]
  assert "5 MiB are left on its disk" in fresh.said[1]


@pytest.mark.parametrize(
  ("workdir", "home"),
  [
    ("gs://bucket/runs/a", "gs://bucket/runs/.xla"),
    ("gs://bucket/a/", "gs://bucket/.xla"),
    ("gs://bucket", "gs://bucket/.xla"),
  ],
)
def test_beside_a_workdir_in_a_bucket(fresh, monkeypatch, workdir, home):
  monkeypatch.setattr(places, "check_bucket", lambda path: None)
  compilation.keep(workdir, fresh.said.append)
  folder = fresh.settings["jax_compilation_cache_dir"]
  assert folder.rpartition("/")[0] == home
  # Small programs compile faster than an object is written.
  assert fresh.settings["jax_persistent_cache_min_compile_time_secs"] == 1


KEPT = """
import os
for name in list(os.environ):
  if name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")):
    del os.environ[name]
import jax, jax.numpy as jnp, numpy as np
from progrpo_jax.devices import compilation
hits = []
jax.monitoring.register_event_listener(
  lambda event, **_: hits.append(event.endswith("/cache_hits")))
compilation.keep(None, print)
x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
y = jax.jit(lambda x: jnp.tanh(x @ x).sum(0))(x)
print(sum(hits), np.asarray(y).tobytes().hex())
"""


def test_the_second_process_reads_the_same_bits(run_python, tmp_path):
  outputs = [
    run_python(KEPT, devices=1, env={"HOME": str(tmp_path)}).stdout.split()
    for _ in range(2)
  ]
  assert [int(hits) for hits, _ in outputs] == [0, 1]
  assert outputs[0][1] == outputs[1][1]


def test_compiling_is_timed_and_said_in_the_stage_that_does():
  phases = []
  timer = timing.Timer(phases.append)
  double = jax.jit(lambda x: 2 * x + 0.123)
  with timer.stage("sample"):
    double(np.float32(1))
  assert phases == ["sample", "compiling sample", "sample"]
  seconds = timer.take()
  assert 0 < seconds["timing_s/compile"] <= seconds["timing_s/sample"]
  with timer.stage("sample"):
    double(np.float32(2))
  assert timer.take()["timing_s/compile"] == 0 and phases[3:] == ["sample"]
  # Outside of the stages it counts in the step, and has no phase.
  jax.jit(lambda x: 3 * x + 0.123)(np.float32(1))
  assert timer.take()["timing_s/compile"] > 0 and len(phases) == 4
