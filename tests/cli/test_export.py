import json

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from progrpo_jax import main
from progrpo_jax.build import stages as build
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf, transformer
from progrpo_jax.text import tokenizer as tokenizer_lib


def test_transformers_reads_a_run_as_we_do(small, tmp_path, capfd):
  workdir, output = tmp_path / "run", tmp_path / "hf"
  small.train(workdir, "train.total_steps=1", "eval.every=0", method="grpo")
  argv = ["export", "--policy", str(workdir), "--output", str(output)]
  assert main.main(argv) == 0
  assert f"wrote {output}" in capfd.readouterr().out
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  policy = build.load_policy(small.config(f"model.init_from={workdir}"), mesh)
  tokens = np.random.default_rng(0).integers(
    4, policy.config.vocab_size, (2, 11)
  )
  ours = transformer.logits(
    policy.config, policy.params, tokens, np.ones(tokens.shape, bool)
  )
  model = transformers.AutoModelForCausalLM.from_pretrained(
    output, dtype=torch.float32
  )
  with torch.no_grad():
    theirs = model(torch.tensor(tokens)).logits.numpy()
  assert np.allclose(ours, theirs, atol=2e-5)
  # Without the tokenizer's prefix the same text has the same ids.
  again = tokenizer_lib.load(str(output))
  assert again.encode_prompt("12-3=") == policy.tokenizer.encode_prompt("12-3=")
  # Not over the policy that the run began at.
  argv = ["export", "--policy", str(workdir), "--output", str(small.base)]
  assert main.main(argv) == 2
  assert "what the run began at" in capfd.readouterr().err
  # A single checkpoint, in half precision.
  argv = [
    "export",
    "--policy",
    str(workdir / "checkpoints" / "0"),
    "--output",
    str(output),
    "--dtype",
    "bfloat16",
  ]
  assert main.main(argv) == 0
  _, base = hf.load(str(small.base))
  _, found = hf.load(str(output))
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(base)):
    assert np.array_equal(x, y.astype("bfloat16"))


def _exported(output, *argv):
  assert main.main(["export", "--output", str(output), *map(str, argv)]) == 0
  return {x.dtype.name for x in jax.tree.leaves(hf.load(output)[1])}


def test_weights_are_written_in_the_type_that_computes(small, tmp_path):
  workdir = tmp_path / "run"
  keys = ("train.total_steps=1", "eval.every=0", "model.dtype=bfloat16")
  small.train(workdir, *keys, method="grpo")
  policy, out = ["--policy", workdir], tmp_path / "out"
  assert _exported(out, *policy) == {"bfloat16"}
  half = hf.load(out)[1]
  assert _exported(out, *policy, "--dtype", "float32") == {"float32"}
  # The same as of the masters, rounded.
  for x, y in zip(jax.tree.leaves(half), jax.tree.leaves(hf.load(out)[1])):
    np.testing.assert_array_equal(x, y.astype(jnp.bfloat16))
  # A directory that is no run's stays as it is.
  _exported(tmp_path / "half", *policy)
  policy = ["--policy", tmp_path / "half"]
  assert _exported(tmp_path / "again", *policy) == {"bfloat16"}


def test_the_sampling_of_the_training_is_written(small, tmp_path):
  base, file = tmp_path / "base", "generation_config.json"
  _exported(base, "--policy", small.base)
  told = json.loads((base / file).read_text())
  assert "temperature" not in told  # nothing is known of it
  workdir, keys = tmp_path / "run", ("sampling.temperature=0.7", "eval.every=0")
  small.train(workdir, *keys, "train.total_steps=1", method="grpo")
  _exported(tmp_path / "out", "--policy", workdir)
  config = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
  assert config.do_sample and config.temperature == 0.7
  assert (config.top_p, config.top_k) == (1.0, 0)
  assert config.eos_token_id == told["eos_token_id"]


def test_bad_places_are_named(small, tmp_path, capfd):
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("years of work")
  for policy, output, said in (
    (tmp_path / "none", tmp_path / "out", "no such directory"),
    (small.base, tmp_path / "mine", "is not a model directory"),
    (small.base, small.base, "is the policy itself, which would be lost"),
  ):
    argv = ["export", "--policy", str(policy), "--output", str(output)]
    assert main.main(argv) == 2
    assert said in capfd.readouterr().err
