"""The example of docs/extending.md, as it stands there."""

import json
import pathlib
import re

import pytest

from progrpo_jax import main

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs/extending.md"
FILE = re.compile(r"^```python\n(# (mine/\w+\.py)\n.*?)^```", re.M | re.S)
SMALL = [
  "--config.data.max_prompt_length=12",
  "--config.sampling.max_new_tokens=4",
  "--config.sampling.chunk=4",
  "--config.warmup.embed_dim=16",
  "--config.warmup.num_heads=2",
  "--config.warmup.num_kv_heads=1",
  "--config.warmup.num_layers=1",
  "--config.warmup.mlp_dim=32",
  "--config.warmup.steps=100",
  "--config.warmup.batch_size=16",
  "--config.warmup.learning_rate=1e-2",
  "--config.train.prompts_per_step=8",
  "--config.algo.num_generations=4",
  "--config.train.total_steps=2",
  "--config.eval.num_problems=4",
  "--config.eval.num_samples=2",
  "--config.eval.batch_prompts=4",
  "--config.eval.every=2",
  "--config.log.rollouts_every=1",
  "--config.log.tensorboard=False",
  "--config.rewards.workers=1",
]


@pytest.fixture
def mine(tmp_path, monkeypatch):
  files = FILE.findall(PAGE.read_text(encoding="utf-8"))
  for text, name in files:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
  assert len(files) == 3
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setenv("PYTHONPATH", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_the_example_runs(mine, capsys):
  assert main.main(["tasks", "show", "mine.doubles"]) == 0
  shown = capsys.readouterr().out
  assert "1+1=" in shown
  assert (
    main.main(
      [
        "warmup",
        "--config",
        "mine/config.py",
        "--output",
        "runs/doubles/base",
        "--config.model.init_from=",
        *SMALL,
      ]
    )
    == 0
  )
  assert (
    main.main(
      ["train", "--config", "mine/config.py", "--workdir", "run", *SMALL]
    )
    == 0
  )
  rows = [json.loads(line) for line in open("run/metrics.jsonl")]
  assert [row["step"] for row in rows] == [1, 2]
  for row in rows:
    assert 0 <= row["bounded/over"] <= 1
    assert 0 <= row["rewards/doubles/mean"] <= 1
    assert row["verifier/masked"] == 0
  found = [
    json.loads(line)
    for step in (1, 2)
    for line in open(f"run/rollouts/{step:06d}.jsonl")
  ]
  samples = [(row, c) for row in found for c in row["completions"]]
  for row, sample in samples:
    right = sample["text"].strip() == str(row["reference"])
    assert sample["correct"] == right
    # Rewards less the group's best.
    best = max(c["reward"] for c in row["completions"])
    assert sample["base_advantage"] == sample["reward"] - best
  assert any(sample["correct"] for _, sample in samples)
