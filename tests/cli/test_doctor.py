import json

import jax
import numpy as np

from progrpo_jax import main, sharding, state
from progrpo_jax import parts as parts_lib
from progrpo_jax import policy as policy_lib
from progrpo_jax.cli import doctor
from progrpo_jax.models import cache


def _bytes(tree):
  return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_exact_parts_equal_real_arrays(small):
  """In bfloat16, so that masters, compute copy and reference differ."""
  c = small.config("model.dtype=bfloat16")
  estimate = doctor.memory(c)
  mesh = sharding.make_mesh(1, 1, 1)
  policy = policy_lib.load(c, mesh)
  tx = parts_lib.make_optimizer(c, parts_lib.make_schedule(c))
  made = state.create(policy.config, tx, policy.params, mesh)
  assert estimate["weights (float32 masters)"] == _bytes(made.params)
  assert estimate["gradient"] == _bytes(made.params)
  assert estimate["optimiser"] == _bytes(made.opt_state)
  half = jax.tree.map(lambda x: x.astype("bfloat16"), made.params)
  assert estimate["reference"] == _bytes(half)
  assert estimate["weights in compute type"] == _bytes(half)
  # Eight prompts of twelve tokens, four answers of four to each.
  whole = cache.empty(policy.config, 8, 4, 4)
  stored = [x for x in jax.tree.leaves(whole) if x.ndim > 1]
  per_token = _bytes(stored) / (8 * 4 * 4)
  assert estimate["KV cache of a rollout"] == 8 * (12 + 4 * 4) * per_token
  assert "reference" not in doctor.memory(small.config("algo.beta=0"))
  # Later stages count: here four times the cache, and a reference.
  staged = doctor.memory(small.config(
      "algo.beta=0", "schedule=({'at_step': 1, 'set': {'algo.beta': 0.1, "
      "'algo.num_generations': 16}},)"))
  assert staged["reference"] == _bytes(made.params)  # in float32 here
  assert staged["KV cache of a rollout"] == (
      8 * (12 + 16 * 4) * 2 * per_token)


def test_prints_without_compiling(small, capfd, monkeypatch):
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
      lambda event, *_, **__: compiled.append(event))
  jax.jit(lambda x: x * 3 + np.float32(len(compiled)))(2.0)
  assert any("compile" in event for event in compiled)
  compiled.clear()
  assert main.main(["doctor", *small.args()]) == 0
  assert not [event for event in compiled if "backend_compile" in event]
  out = capfd.readouterr().out
  for name in ("devices", "jax", "weights (float32 masters)", "sum"):
    assert name in out


def test_knows_every_kind_of_policy(small, tmp_path, capfd):
  for place in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "3"):
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    described = (small.base / "config.json").read_text()
    (model / "config.json").write_text(described)
    assert doctor.memory(
        small.config(f"model.init_from={place}")) == doctor.memory(
            small.config())
  (model / "config.json").write_text(json.dumps({"model_type": "gpt9"}))
  argv = ["doctor", *small.args(f"model.init_from={place}")]
  assert main.main(argv) == 2
  assert "model_type 'gpt9' is not supported" in capfd.readouterr().err
  assert main.main(["doctor"]) == 0
