import json

import jax
import numpy as np

from progrpo_jax import main
from progrpo_jax.devices import sharding
from progrpo_jax.plan import memory


def test_prints_without_compiling(small, capfd, monkeypatch):
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event)
  )
  jax.jit(lambda x: x * 3 + np.float32(len(compiled)))(2.0)
  assert any("compile" in event for event in compiled)
  compiled.clear()
  assert main.main(["doctor", *small.args()]) == 0
  assert not [event for event in compiled if "backend_compile" in event]
  out = capfd.readouterr().out
  for name in ("devices", "jax", "optimiser", "sum"):
    assert name in out


def test_knows_every_kind_of_policy(small, tmp_path, capfd):
  expected = memory.model_of(small.config())
  for place in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "3"):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    described = (small.base / "config.json").read_text()
    (model / "config.json").write_text(described)
    assert memory.model_of(small.config(f"model.init_from={place}")) == expected
  (model / "config.json").write_text(json.dumps({"model_type": "gpt9"}))
  argv = ["doctor", *small.args(f"model.init_from={place}")]
  assert main.main(argv) == 2
  assert "model_type 'gpt9' is not supported" in capfd.readouterr().err
  assert main.main(["doctor"]) == 0


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


def test_refuses_a_plan_without_a_config(capfd):
  assert main.main(["doctor", "--chip", "v5e"]) == 2
  assert "--chip and --devices need a --config" in capfd.readouterr().err
  assert main.main(["doctor", "--chip", "v9"]) == 2
  assert "v9" in capfd.readouterr().err
