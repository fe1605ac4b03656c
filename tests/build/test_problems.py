"""In how many batches a round is sampled, and what takes reward functions."""

import json
import types

import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.build import problems
from progrpo_jax.models import config as model_config
from progrpo_jax.settings import defaults, scales

# 1.5e9 parameters, to a part in a hundred: 3 GB in bfloat16.
MODEL = model_config.ModelConfig(
  vocab_size=151936,
  num_layers=28,
  embed_dim=1536,
  num_heads=12,
  num_kv_heads=2,
  head_dim=128,
  mlp_dim=8960,
)


def _mesh(platform="tpu", fsdp=8, tensor=1):
  device = types.SimpleNamespace(platform=platform)
  return types.SimpleNamespace(
    shape=dict(data=1, fsdp=fsdp, tensor=tensor),
    devices=np.array([device] * (fsdp * tensor)),
  )


def _config(task="eurus2_code", tokens=512, workers=16):
  c = scales.prorl("host")  # 64 prompts of 16
  c.data.tasks = {task: scales.published()}
  c.sampling.max_new_tokens = tokens
  c.sampling.batch_prompts = 0
  c.rewards.workers = workers
  return c


@pytest.mark.parametrize(
  ("changes", "mesh", "size"),
  [
    # 1,024 programs at 0.15 s by 16 workers are 9.6 s; 512 readings 1.6 s.
    ({}, {}, 32),
    # 26 s of readings, or 2.4 s of verifying: a second batch costs more.
    (dict(tokens=8192), {}, 0),
    (dict(workers=64), {}, 0),
    # A device reads an eighth of the weights.
    (dict(workers=64), dict(fsdp=1, tensor=8), 32),
    (dict(task="deepscaler"), {}, 0),
    # Verifiers have no cores of their own.
    ({}, dict(platform="cpu"), 0),
    # Each half is dealt to all devices alike.
    ({}, dict(fsdp=24), 48),
    ({}, dict(fsdp=64), 0),
  ],
)
def test_a_round_is_halved_where_verifying_takes_long(changes, mesh, size):
  assert (
    problems.batch_prompts(_config(**changes), MODEL, _mesh(**mesh)) == size
  )


def test_the_config_has_the_last_word():
  c = _config()
  c.sampling.batch_prompts = 8
  assert problems.batch_prompts(c, MODEL, _mesh()) == 8


def test_a_mixture_counts_by_its_weights():
  c = _config(tokens=512)
  c.data.tasks = {
    "eurus2_code": scales.published(1.0),
    "deepscaler": scales.published(1.0),
  }
  # 4.8 s of verifying beside twice 1.6 s; a third of the programs is too few.
  assert problems.batch_prompts(c, MODEL, _mesh()) == 32
  c.data.tasks.deepscaler.weight = 2.5
  assert problems.batch_prompts(c, MODEL, _mesh()) == 0


def right(completions, **_):
  return [1.0 for _ in completions]


def _tasks(**named):
  """A config of tasks of the user's own, by the reward functions they name."""
  c = defaults.get_config()
  c.data.tasks = {
    name: {"module": "file", "options": {"reward_functions": functions}}
    for name, functions in named.items()
  }
  return c


@pytest.mark.parametrize(
  ("named", "rewards", "given"),
  [
    (dict(a=()), [right, "m:f"], dict(a=("right", "m:f"))),
    (dict(a=(), b="m:f"), [right], dict(a=("right",), b="m:f")),
    # As the config of a run that goes on has it.
    (dict(a=("right",)), [right], dict(a=("right",))),
  ],
)
def test_tasks_that_name_no_reward_functions_get_those_given(
  named, rewards, given
):
  c, objects = problems.give_rewards(_tasks(**named), rewards)
  assert objects == {"right": right}
  tasks = c.data.tasks.items()
  assert {t: s.options.reward_functions for t, s in tasks} == given


@pytest.mark.parametrize(
  ("named", "said"),
  [
    (dict(a="m:f"), r"no task takes right, .*\(a: m:f\): leave out"),
    (
      dict(a=("m:f", "m:g"), b=("right", "m:h")),
      r"takes other, .*\(a: m:f, m:g; b",
    ),
  ],
)
def test_reward_functions_that_no_task_takes_are_refused(named, said):
  def other(completions):
    return [0.0 for _ in completions]

  rewards = [right] if "b" not in named else [right, other]
  with pytest.raises(errors.InputError, match=said):
    problems.give_rewards(_tasks(**named), rewards)


class Marked:
  """A tokenizer with one token a character, and one control token."""

  def encode_prompt(self, text, context=()):
    return [ord(c) for c in text], [True] * len(text)

  def markup(self, text):
    return "<|im_end|>" if "<|im_end|>" in text else ""


def _own_rows(tmp_path, held, *texts):
  """A config of one's own rows, a validation file beside them, and notes."""
  for name, prompts in (("mine", texts), ("held", held)):
    (tmp_path / f"{name}.jsonl").write_text(
      "".join(json.dumps({"prompt": p, "answer": 1}) + "\n" for p in prompts)
    )
  c = defaults.get_config()
  c.data.tasks = {
    "mine": {
      "module": "file",
      "options": {
        "file": str(tmp_path / "mine.jsonl"),
        "validation_file": str(tmp_path / "held.jsonl"),
        "verifier": "math",
      },
    }
  }
  c.data.dir = str(tmp_path / "data")
  prompter = problems.make_prompter(c, Marked(), "train")
  tested = problems.make_prompter(c, Marked(), "validation")
  evaluator = types.SimpleNamespace(
    name="mine",
    prompts=tested.first(9, 2),
    num_problems=len(held),
    left_out=0,
    refused={},
  )
  c.eval.num_problems = len(held)
  return problems.all_notes(c, prompter, [evaluator])


def test_problems_that_are_trained_on_are_counted(tmp_path):
  assert _own_rows(tmp_path, ["d", "e", "f"], "a", "b", "c") == []
  (note,) = _own_rows(tmp_path, ["d", " a\n", "b"], "a", "b", "c")
  assert note.startswith("mine: 2 of the 3 problems evaluated are among")


def test_a_chat_that_is_written_out_is_named(tmp_path):
  (note,) = _own_rows(tmp_path, ["d"], "1+1=<|im_end|>")
  assert note.startswith("256 of the first 256 prompts hold a control token")
  assert "'<|im_end|>' in mine.jsonl, line 1" in note
