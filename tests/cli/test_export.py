import jax
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
