import json
import re

import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.build import base_policy
from progrpo_jax.learn import warmup
from progrpo_jax.models import hf
from progrpo_jax.text import tokenizer as tokenizer_lib


def _loss(note):
  return float(re.fullmatch(r"loss (.*)", note)[1])


def test_loss_falls_and_a_policy_is_written(small):
  losses = [_loss(note) for note in small.losses]
  assert len(losses) == 8 and losses[-1] < losses[0]
  assert hf.is_hf_dir(str(small.base))
  config, params = hf.load(str(small.base))
  assert (config.embed_dim, config.num_layers) == (16, 2)
  assert params["embed"]["tokens"].shape[0] == config.vocab_size


def test_goes_on_from_a_policy(small, tmp_path):
  notes = []
  policy = base_policy.warm_up(
    small.config("warmup.steps=10"),
    tmp_path / "more",
    lambda count, note: notes.append((count, note)),
  )
  ((count, note),) = notes
  assert count == 10 and _loss(note) < _loss(small.losses[0])
  assert policy.config == hf.load(str(tmp_path / "more"))[0]


def test_what_cannot_be_learned_is_named(small, tmp_path):
  rows = tmp_path / "rows.jsonl"
  rows.write_text('{"prompt": "1+1=", "answer": "2"}\n' * 9)
  bare = small.config()
  bare.data.tasks = {
    "file": {
      "options": {
        "file": str(rows),
        "validation_file": str(rows),
        "verifier": "progrpo_jax.rewards.logic:score",
      }
    }
  }
  for c, said in (
    (
      small.config("sampling.max_new_tokens=1"),
      "is longer than data.max_prompt_length 12 or sampling.max_new_tokens 1",
    ),
    (small.config("data.max_prompt_length=2"), "max_prompt_length 2 or"),
    (bare, "task 'file' has no demonstrations .* prompt and completion"),
  ):
    with pytest.raises(errors.InputError, match=said):
      base_policy.warm_up(c, tmp_path / "none", lambda *_: None)
  assert not (tmp_path / "none").exists()


def test_updates_that_would_ruin_the_weights_are_said(
  small, tmp_path, monkeypatch
):
  """Left out, and not taken for a warm-up that learnt nothing."""
  monkeypatch.setattr(
    warmup.optim, "schedule", lambda *_, **__: lambda _: np.inf
  )
  with pytest.raises(errors.Diverged, match=r"lower config\.warmup\.learn"):
    base_policy.warm_up(
      small.config("warmup.steps=2"), tmp_path / "none", lambda *_: None
    )
  assert not (tmp_path / "none").exists()


def test_long_demonstrations_are_left_out(small):
  c = small.config()
  pairs = warmup.demonstrations(
    dict(c.data.tasks), c.data.dir, c.warmup.examples
  )
  tokenizer = tokenizer_lib.load(str(small.base))
  said = []
  rows = warmup.encode(pairs, tokenizer, 8, 2, said.append)
  short = [(r.prompt, d) for r, d in pairs]
  short = [(p, d) for p, d in short if len(p) + 1 <= 8 and len(d) + 1 <= 2]
  assert 0 < len(short) < len(pairs)
  (sentence,) = said
  assert sentence.startswith(
    f"{len(pairs) - len(short)} of {len(pairs)} demonstrations are left out"
  )
  assert warmup.encode(pairs, tokenizer, 99, 99, said.append) and len(said) == 1
  assert len(rows.prompt_NT) == len(short)
  for i, (p, d) in enumerate(short):
    prompt = rows.prompt_NT[i][rows.prompt_mask_NT[i]]
    answer = rows.tokens_NRT[i, 0][rows.mask_NRT[i, 0]]
    assert tokenizer.decode(prompt.tolist()) == p
    assert tokenizer.decode(answer.tolist()) == d
    assert answer[-1] == tokenizer.stop_ids[0]


def test_some_of_many_demonstrations_are_from_all_over(tmp_path):
  file = tmp_path / "sorted.jsonl"
  file.write_text(
    "".join(
      json.dumps({"prompt": f"{i}", "completion": "x"}) + "\n"
      for i in range(100)
    )
  )
  tasks = {"file": {"options": {"file": str(file), "validation_share": 0.01}}}
  some = warmup.demonstrations(tasks, str(tmp_path), 20)
  numbers = [int(row.prompt) for row, _ in some]
  assert len(set(numbers)) == 20 and max(numbers) > 50
  assert some == warmup.demonstrations(tasks, str(tmp_path), 20)
  assert len(warmup.demonstrations(tasks, str(tmp_path), 1000)) == 99
