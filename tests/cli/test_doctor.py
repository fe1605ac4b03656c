import importlib.util
import json
import shutil
import types

import jax
import pytest

from progrpo_jax import main
from progrpo_jax.devices import sharding
from progrpo_jax.models import parameters
from progrpo_jax.plan import ahead, memory

# In a process of its own, where nothing else can compile. Optax converts a
# number when it is asked for the tree of its state.
LISTENING = """
import sys
import jax
from progrpo_jax import main

compiled = []

def hear(event, *_, fun_name="", **__):
  if "backend_compile" in event:
    compiled.append(fun_name)

jax.monitoring.register_event_duration_secs_listener(hear)
jax.jit(lambda x: x * 3)(2.0)
assert compiled
compiled.clear()
assert main.main(["doctor", *sys.argv[1:]]) == 0
assert set(compiled) <= {"jit(convert_element_type)"}, compiled
"""


def test_prints_without_compiling(small, run_python):
  out = run_python(["-c", LISTENING, *small.args()], devices=1).stdout
  for name in ("devices", "jax", "optimiser", "sum"):
    assert name in out


def test_knows_every_kind_of_policy(small, tmp_path, capfd):
  expected = memory.model_of(small.config())
  for place in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "3"):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    described = (small.base / "config.json").read_text()
    (tmp_path / "run" / "config.json").write_text("{}")  # the run's own
    (model / "config.json").write_text(described)
    assert memory.model_of(small.config(f"model.init_from={place}")) == expected
  (model / "config.json").write_text(json.dumps({"model_type": "gpt9"}))
  argv = ["doctor", *small.args(f"model.init_from={place}")]
  assert main.main(argv) == 2
  assert "model_type 'gpt9' is not supported" in capfd.readouterr().err
  # A run that goes on needs its base no more.
  (model / "config.json").write_text(described)
  gone = small.config(f"model.init_from={tmp_path / 'gone'}")
  assert memory.model_of(gone, str(tmp_path / "run")) == expected
  assert main.main(["doctor"]) == 0


def test_refuses_adapters_on_a_workdir_as_training_does(small, tmp_path, capfd):
  run = tmp_path / "run"
  small.train(run)
  argv = small.args(f"model.init_from={run}", "model.lora.rank=2")
  for command in (["doctor"], ["train", "--workdir", str(tmp_path / "lora")]):
    assert main.main([*command, *argv]) == 2
    assert f"as in {run}/checkpoints/" in capfd.readouterr().err


def test_plans_adapters_of_a_config_alone(small, tmp_path, capfd):
  """Of a model of the hub, its config.json is enough to plan for."""
  described = (small.base / "config.json").read_text()
  (tmp_path / "config.json").write_text(described)
  argv = small.args(f"model.init_from={tmp_path}", "model.lora.rank=2")
  assert main.main(["doctor", *argv]) == 0
  assert "optimiser" in capfd.readouterr().out


def test_refuses_more_positions_than_the_model_has(small, tmp_path, capfd):
  argv = small.args("sampling.max_new_tokens=5000")
  for command in (["doctor"], ["train", "--workdir", str(tmp_path / "run")]):
    assert main.main([*command, *argv]) == 2
    assert "positions of the model" in capfd.readouterr().err


def test_plans_for_chips_that_are_not_here(small, capfd, monkeypatch):
  argv = ["doctor", *small.args(), "--chip", "v5e", "--devices", "2"]
  assert main.main(argv) == 0
  out = capfd.readouterr().out
  assert "mesh data 2 x fsdp 1 x tensor 1" in out
  assert "A device has 15.75 GiB" in out and "does not fit" not in out
  # A chip so small that the weights must be cut.
  c = small.config("eval.every=0", "eval.at_start=False")
  whole, cut = (
    memory.peak(
      memory.estimate(
        c, memory.model_of(c), sharding.abstract_mesh(2, *sizes), "tpu"
      )
    )
    for sizes in ((2, 1, 1), (1, 2, 1))
  )
  between = (whole + cut) / 2 / memory.USABLE
  for size, words in (
    (between, "--config.mesh.fsdp=2"),
    (between / 99, "any other mesh"),
  ):
    monkeypatch.setitem(memory.CHIPS, "v5e", memory.Chip("tpu", int(size)))
    assert (
      main.main(
        [*argv, "--config.eval.every=0", "--config.eval.at_start=False"]
      )
      == 0
    )
    out = " ".join(capfd.readouterr().out.split())
    assert "It does not fit" in out and words in out


def test_the_remedies_leave_out_what_is_done(small, capfd, monkeypatch):
  monkeypatch.setitem(memory.CHIPS, "H100", memory.Chip("gpu", 1))
  argv = ["doctor", *small.args(), "--chip", "H100", "--devices", "1"]
  assert main.main([*argv, "--config.model.remat=none"]) == 0
  said = " ".join(capfd.readouterr().out.split())
  assert "or set model.remat to 'layer', or model.lora.rank, or optim" in said
  # The share of the GPU that the plan is for.
  assert (
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" in said and "0.75 if none" in said
  )
  done = ["--config.model.remat=layer", "--config.optim.mu_dtype=bfloat16"]
  assert main.main([*argv, *done, "--config.eval.every=0"]) == 0
  said = " ".join(capfd.readouterr().out.split())
  assert "(sample); or set model.lora.rank." in said
  assert "remat" not in said and "(evaluate)" not in said


def test_counts_the_disk_of_the_checkpoints(
  small, tmp_path, capfd, monkeypatch
):
  model = memory.model_of(small.config())
  mesh = sharding.abstract_mesh(1, 1, 1, 1)
  numbers = sum(
    x.size for x in jax.tree.leaves(parameters.abstract_params(model))
  )

  def count(*keys):
    return memory.checkpoints(small.config(*keys), model, mesh)

  size, most = count("checkpoint.keep=3")
  assert 12 * numbers <= size < 12 * numbers + 1000 and most == 5
  keys = "checkpoint.keep=1", "checkpoint.keep_every=2", "train.total_steps=7"
  assert count(*keys, "algo.reset.modes=()")[1] == 6
  monkeypatch.setattr(
    shutil, "disk_usage", lambda place: types.SimpleNamespace(free=size)
  )
  argv = ["doctor", *small.args(), "--workdir"]
  assert main.main([*argv, str(tmp_path / "not" / "yet")]) == 0
  said = " ".join(capfd.readouterr().out.split())
  assert "A checkpoint takes" in said and "WHICH IS TOO LITTLE" in said
  assert main.main([*argv, "gs://bucket/run"]) == 0
  said = capfd.readouterr().out
  assert "A checkpoint takes" in said and "free" not in said


def test_refuses_a_plan_without_a_config(capfd):
  assert main.main(["doctor", "--chip", "v5e"]) == 2
  assert "--chip, --devices and --compile need a --config" in (
    capfd.readouterr().err
  )
  assert main.main(["doctor", "--chip", "v9"]) == 2
  assert "v9" in capfd.readouterr().err


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (["--compile"], "--compile needs a --chip"),
    (["--json", "a.json"], "--json needs --compile"),
    (["--price", "2"], "--price needs --compile"),
    (["--compile", "--chip", "H100"], "no such compiler is at hand for H100"),
    (["--compile", "--chip", "v5e", "--devices", "6"], "a power of two"),
  ],
)
def test_refuses_what_it_cannot_compile(small, capfd, words, said):
  assert main.main(["doctor", *small.args(), *words]) == 2
  assert said in capfd.readouterr().err


def test_says_how_to_get_the_compiler(small, capfd, monkeypatch):
  monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  argv = ["doctor", *small.args(), "--compile", "--chip", "v5e"]
  assert main.main([*argv, "--devices", "4"]) == 2
  err = capfd.readouterr().err
  assert len(err.strip().splitlines()) == 1
  assert f"pip install libtpu=={ahead.LIBTPU}" in err


def test_compiles_on_request(small, capfd, tmp_path, monkeypatch):
  """With this machine's compiler in the place of the TPU's."""
  monkeypatch.setattr(ahead, "devices", lambda chip, n: jax.devices()[:n])
  monkeypatch.setattr(ahead, "SHALLOW", (1, 2))
  argv = ["doctor", *small.args(), "--compile", "--chip", "v5e"]
  argv += ["--devices", "1", "--price", "1.5"]
  figures, texts = tmp_path / "figures.json", tmp_path / "hlo"
  argv += ["--json", str(figures), "--hlo", str(texts)]
  assert main.main(argv) == 0
  out = " ".join(capfd.readouterr().out.split())
  assert "By the compiler the run fits" in out and "at 1.5 dollars" in out
  assert {p.name for p in texts.iterdir()} == {
    "prefill.hlo",
    "sample.hlo",
    "score.hlo",
    "update.hlo",
  }
  said = json.loads(figures.read_text())
  assert set(said["programs"]) == {"prefill", "sample", "score", "update"}
  for name, program in said["programs"].items():
    for key in ("memory_bytes", "estimated_memory_bytes", "flops"):
      assert program[key] > 0, (name, key)
    assert program["ratio"] == pytest.approx(
      program["lower_bound_s"] / program["roofline_s"]
    )
  sample = said["programs"]["sample"]
  assert sample["hbm_bytes_per_token"] > 0
  assert sample["ici_bytes_per_token"] == 0  # there is one device
  run = said["run"]
  assert run["hours"] == pytest.approx(
    run["steps"] * said["step"]["lower_bound_s"] / 3600
  )
  assert run["dollars"] == pytest.approx(1.5 * run["hours"])
