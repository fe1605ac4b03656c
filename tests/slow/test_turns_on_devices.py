"""A run of several turns on eight devices is that on one."""

import json

import numpy as np
import pytest

import progrpo_jax

TRAIN = """
import json, sys, jax, progrpo_jax
keys = json.loads(sys.argv[1])
c = progrpo_jax.config("guess_number", keys=keys)
progrpo_jax.train(c, sys.argv[2])
print(jax.device_count(), "devices")
"""
# Measures of a run that no mesh may change.
MEASURES = ("reward", "entropy", "grad_norm", "completions/mean_length")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
  """Keys of a short run, whose base has learnt to write one number."""
  folder = tmp_path_factory.mktemp("turns")
  keys = {
    "data.dir": str(folder / "data"),
    "sampling.max_new_tokens": 10,
    "sampling.max_turns": 3,
    "warmup.steps": 60,
    "warmup.examples": 64,
  }
  base = progrpo_jax.warmup(
    progrpo_jax.config("guess_number:base", keys=keys), folder / "base"
  )
  return keys | {
    "model.init_from": base,
    "train.total_steps": 2,
    "train.prompts_per_step": 16,
    "train.num_minibatches": 1,
    "eval.every": 2,
    "eval.num_problems": 8,
    "eval.batch_prompts": 8,
    "log.rollouts_every": 1,
    "log.tensorboard": False,
  }


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(1800)
def test_a_run_with_turns_on_eight_devices_equals_that_on_one(
  run_python, keys, tmp_path
):
  runs = {}
  for devices, mesh in ((1, {}), (8, {"mesh.data": 2, "mesh.fsdp": 4})):
    workdir = tmp_path / str(devices)
    argv = ["-c", TRAIN, json.dumps(keys | mesh), str(workdir)]
    out = run_python(argv, devices=devices, timeout=850).stdout
    assert f"{devices} devices" in out
    runs[devices] = workdir
  one, eight = runs[1], runs[8]
  groups = [lines(run / "rollouts/000001.jsonl") for run in (one, eight)]
  talks = [
    [
      (completion["text"], completion.get("turns"), completion["reward"])
      for group in of_run
      for completion in group["completions"]
    ]
    for of_run in groups
  ]
  assert talks[0] == talks[1]
  assert any(turns for _, turns, _ in talks[0])
  for name in ("metrics.jsonl", "eval.jsonl"):
    rows = [lines(run / name) for run in (one, eight)]
    assert len(rows[0]) == len(rows[1]) == 2
    for a, b in zip(*rows, strict=True):
      shared = [n for n in a if n in MEASURES or "/pass@" in n]
      assert shared
      for measure in shared:
        np.testing.assert_allclose(
          a[measure], b[measure], rtol=1e-4, atol=1e-5, err_msg=measure
        )
