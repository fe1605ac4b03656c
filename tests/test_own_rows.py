"""Scripts of users who bring their own rows and reward functions.

The functions have the signatures that TRL documents, and run as they are.
"""

from http import server
import json
import threading

import pyarrow as pa
from pyarrow import parquet
import pytest

from progrpo_jax import errors, loop, main

REWARDS = '''
import asyncio
import json
import re
import urllib.request

ADDRESS = "{address}"

def format_reward(completions, **kwargs):
  """A completion is a list of messages where the prompt is one."""
  contents = [completion[0]["content"] for completion in completions]
  return [1.0 if re.fullmatch(r"\\d+", text) else 0.0 for text in contents]

def right_sum(prompts, completions, ground_truth, **kwargs):
  assert prompts[0][-1]["role"] == "user"
  contents = [completion[0]["content"] for completion in completions]
  return [
    1.0 if text == truth else 0.0 for text, truth in zip(contents, ground_truth)
  ]

async def slow_judge(prompts, completions, **kwargs):
  await asyncio.sleep(0.001)
  return [0.5 for _ in completions]

def brevity(completions, completion_ids, trainer_state, log_extra=None,
            log_metric=None, **kwargs):
  lengths = [len(ids) for ids in completion_ids]
  log_extra("length", lengths)
  log_metric("progress", trainer_state.global_step / trainer_state.max_steps)
  return [-0.1 * length for length in lengths]

def only_small(prompts, completions, task, **kwargs):
  return [1.0 if name == "small" else None for name in task]

def served(prompts, completions, **kwargs):
  """A model that judges behind an address."""
  body = json.dumps([completion[0]["content"] for completion in completions])
  request = urllib.request.Request(ADDRESS, body.encode(), method="POST")
  with urllib.request.urlopen(request) as answer:
    return json.load(answer)
'''


class Judge(server.BaseHTTPRequestHandler):
  """Answers a list of texts with a reward for each."""

  asked: list[int] = []

  def do_POST(self):
    texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    self.asked.append(len(texts))
    self.send_response(200)
    self.end_headers()
    self.wfile.write(json.dumps([len(t) / 8 for t in texts]).encode())

  def log_message(self, *_):
    """Says nothing."""


@pytest.fixture(scope="module")
def address():
  with server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as judge:
    threading.Thread(target=judge.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{judge.server_port}"
    judge.shutdown()


def _chats(path):
  """Rows as verl has them, in parquet."""
  rows = [
    {
      "data_source": "sums",
      "prompt": [{"role": "user", "content": f"{i}+{j}="}],
      "reward_model": {"style": "rule", "ground_truth": str(i + j)},
      "task": "small" if i < 3 else "large",
    }
    for i in range(1, 6)
    for j in range(1, 5)
  ]
  parquet.write_table(pa.Table.from_pylist(rows), path)
  return str(path)


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_functions_written_for_trl_train_on_chats(small, address, tmp_path):
  functions = tmp_path / "my_rewards.py"
  functions.write_text(REWARDS.replace("{address}", address))
  names = (
    "format_reward",
    "right_sum",
    "slow_judge",
    "brevity",
    "only_small",
    "served",
  )
  path = small.write(
    tmp_path / "config.py",
    data=dict(
      tasks={
        "sums": {
          "module": "file",
          "options": {
            "file": _chats(tmp_path / "train.parquet"),
            "reward_functions": tuple(f"{functions}:{name}" for name in names),
            "reward_weights": (0.5, 1.0, 0.1, 1.0, 0.0, 0.2),
            "correct_by": "right_sum",
          },
        }
      }
    ),
    train=dict(total_steps=2),
  )
  run = tmp_path / "run"
  argv = ["train", "--config", str(path), "--workdir", str(run)]
  assert main.main(argv) == 0
  assert Judge.asked
  for step, row in enumerate(_lines(run / "metrics.jsonl")):
    assert row["logged/progress"] == step / 2
    assert row["rewards/sums/slow_judge/mean"] == 0.5
    assert row["rewards/sums/only_small/mean"] == 1.0
    for group in _lines(run / f"rollouts/{step + 1:06d}.jsonl"):
      truth = eval(group["prompt"].rstrip("="))
      for sample in group["completions"]:
        text = sample["text"]
        length = sample["extra"]["length"]
        assert length == sample["length"]
        assert sample["correct"] == (text == str(truth))
        assert sample["reward"] == pytest.approx(
          0.5 * (text.isascii() and text.isdecimal())
          + (text == str(truth))
          + 0.05
          - 0.1 * length
          + 0.2 * len(text) / 8
        )
  assert "eval/sums/logged/progress" in _lines(run / "eval.jsonl")[0]


def test_a_function_of_a_notebook_cell_and_a_verifier_by_name(small, tmp_path):
  seen = []

  def counts(completions, answer, **_):
    seen.append(len(completions))
    return [
      0.1 * text.count(str(right)) for text, right in zip(completions, answer)
    ]

  rows = [
    {"prompt": f"{i}+{j}=", "answer": i + j}
    for i in range(1, 6)
    for j in range(1, 5)
  ]
  (tmp_path / "rows.json").write_text(json.dumps(rows))
  c = small.config("train.total_steps=1", "eval.every=0", method="grpo")
  options = {
    "file": str(tmp_path / "rows.json"),
    "verifier": "math",
    "verifier_options": {"forms": ("whole",)},
  }
  with c.unlocked():
    c.data.tasks = {"sums": {"module": "file", "options": options}}
  assert loop.train(c, tmp_path / "run", View(), rewards=[counts]) == 0
  assert sum(seen) == 16
  assert "reward_functions" not in c.data.tasks.sums.options
  row = _lines(tmp_path / "run" / "metrics.jsonl")[0]
  assert {"rewards/sums/math/mean", "rewards/sums/counts/mean"} <= set(row)
  with pytest.raises(errors.InputError, match="config.data.tasks has none"):
    loop.train(small.config(), tmp_path / "no", View(), rewards=[counts])


class View:
  """Shows nothing."""

  def __getattr__(self, name):
    return lambda *_: None


def test_chats_for_fine_tuning_warm_a_policy_up(small, tmp_path):
  chats = [
    {
      "messages": [
        {"role": "user", "content": f"{i}+{j}="},
        {"role": "assistant", "content": str(i + j)},
      ]
    }
    for i in range(1, 6)
    for j in range(1, 5)
  ]
  (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, chats)))
  path = small.write(
    tmp_path / "config.py",
    data=dict(
      tasks={
        "sums": {
          "module": "file",
          "options": {"file": str(tmp_path / "sft.jsonl")},
        }
      }
    ),
    warmup=dict(steps=25),
  )
  argv = ["--config", str(path), "--output", str(tmp_path / "base")]
  assert main.main(["warmup", *argv]) == 0
  assert (tmp_path / "base" / "model.safetensors").exists()


def test_rows_that_nothing_scores_do_not_train(small, tmp_path, capfd):
  row = {"prompt": "1+1=", "completion": "2"}
  (tmp_path / "sft.jsonl").write_text(f"{json.dumps(row)}\n" * 9)
  options = {
    "file": str(tmp_path / "sft.jsonl"),
    "validation_file": str(tmp_path / "sft.jsonl"),
  }
  path = small.write(
    tmp_path / "config.py",
    data=dict(tasks={"sums": {"module": "file", "options": options}}),
  )
  run = str(tmp_path / "run")
  assert main.main(["train", "--config", str(path), "--workdir", run]) == 2
  assert "task sums: nothing scores its completions" in capfd.readouterr().err
