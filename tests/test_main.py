"""Bad input ends with code 2 and one line that names the thing."""

import json
import shutil

import pytest

from progrpo_jax import main
from progrpo_jax.cli import exits


@pytest.fixture(scope="module")
def run_of_another_day(small, tmp_path_factory):
  """The workdir of a short run: nothing that is refused may touch it."""
  workdir = tmp_path_factory.mktemp("other") / "run"
  small.train(workdir, "train.total_steps=1", "eval.every=0", method="grpo")
  return workdir


def _files(workdir):
  return {
    str(p.relative_to(workdir)): p.read_bytes()
    for p in sorted(workdir.rglob("*"))
    if p.is_file()
  }


@pytest.fixture
def refuses(run_of_another_day, capfd):
  """A function that trains into that workdir and is refused."""

  def check(args, *said, workdir=run_of_another_day, code=2):
    before = _files(run_of_another_day)
    capfd.readouterr()
    assert main.main(["train", *args, "--workdir", str(workdir)]) == code
    lines = [
      line
      for line in capfd.readouterr().err.splitlines()
      if line.startswith("progrpo")
    ]
    assert len(lines) == 1
    for words in said:
      assert words in lines[0]
    assert _files(run_of_another_day) == before
    return lines[0]

  return check


@pytest.mark.parametrize(
  ("override", "said"),
  [
    ("algo.num_generation=4", "did you mean config.algo.num_generations?"),
    ("train.total_steps=soon", "'soon' is not of type int"),
    ("algo.loss=clpi", "did you mean 'clip'?"),
    ("algo.advantage=gpro", "did you mean 'grpo'?"),
    ("algo.num_generations=1", "at least 2 samples"),
    ("model.init_from=/nowhere/base", "'/nowhere/base': no such directory"),
    ("data.max_prompt_length=5", "task chain_sum, row"),
    ("data.tasks.chain_sum.options.num_train=32", "another config: data.tasks"),
  ],
)
def test_key_or_name(small, refuses, override, said):
  refuses(small.args(override, method="grpo"), said)


def test_damaged_base(small, refuses, tmp_path):
  for name, damage, said in (
    ("model.safetensors", lambda b: b[: len(b) // 2], "damaged or cut short"),
    ("config.json", lambda b: b"{not json", "not JSON"),
    ("config.json", lambda b: b'{"model_type": "gpt9"}', "'gpt9'"),
    ("tokenizer.model", lambda b: b[:9], "not a sentencepiece model"),
  ):
    base = tmp_path / "base"
    shutil.copytree(small.base, base)
    (base / name).write_bytes(damage((base / name).read_bytes()))
    refuses(small.args(f"model.init_from={base}"), str(base / name), said)
    shutil.rmtree(base)


def test_tasks(small, refuses, tmp_path):
  (tmp_path / "empty.jsonl").write_text("")
  (tmp_path / "bad.jsonl").write_text('{"prompt": "1+1="}\n{"promt": 3}\n')
  judge = "progrpo_jax.rewards.logic:score"
  for tasks, said in (
    ({"chain_smu": {}}, "did you mean 'chain_sum'?"),
    ({"chain_sum": {"options": {"max_term": 3}}}, "'max_term'"),
    ({"file": {"options": {}}}, "needs the option 'file'"),
    (
      {
        "file": {
          "options": {"file": str(tmp_path / "empty.jsonl"), "verifier": judge}
        }
      },
      "empty.jsonl holds no rows",
    ),
    (
      {
        "file": {
          "options": {"file": str(tmp_path / "none.jsonl"), "verifier": judge}
        }
      },
      "cannot read",
    ),
    (
      {
        "file": {
          "options": {"file": str(tmp_path / "bad.jsonl"), "verifier": judge}
        }
      },
      "line 2: no prompt",
    ),
    ({}, "name at least one task"),
  ):
    path = small.write(
      tmp_path / "config.py", data=dict(tasks=tasks, dir=str(tmp_path / "data"))
    )
    refuses(["--config", str(path)], said)


def test_workdir(small, refuses, run_of_another_day, tmp_path):
  (tmp_path / "file").write_text("mine")
  for place in (tmp_path / "file", "/proc/nothing"):
    refuses(small.args(), f"cannot write to --workdir {place}", workdir=place)
  assert (tmp_path / "file").read_text() == "mine"
  # A run of another model.
  base = tmp_path / "base"
  shutil.copytree(small.base, base)
  described = json.loads((base / "config.json").read_text())
  described["rms_norm_eps"] = 1e-5
  (base / "config.json").write_text(json.dumps(described))
  refuses(
    small.args(f"model.init_from={base}", method="grpo"),
    str(run_of_another_day),
    "holds a run of another model",
  )


REWARDS = """
import time

def raises(prompts, completions, **columns):
  raise KeyError("no such thing")

def hangs(prompts, completions, **columns):
  time.sleep(1000)

def short(prompts, completions, **columns):
  return [1.0]

def nan(prompts, completions, **columns):
  return [float("nan")] * len(prompts)
"""


def test_reward_functions(small, refuses, tmp_path):
  (tmp_path / "rows.jsonl").write_text(
    "".join(json.dumps({"prompt": f"{i}+1="}) + "\n" for i in range(9))
  )
  (tmp_path / "own.py").write_text(REWARDS)
  for name, said in (
    ("raises", "own.py, line 5: KeyError: 'no such thing'"),
    ("hangs", "did not return within 1 s on 16 completions"),
    ("short", "returned 1 values for 16 completions"),
    ("nan", "returned nan for completion 0"),
    ("missing", "cannot be loaded"),
  ):
    function = f"{tmp_path / 'own.py'}:{name}"
    path = small.write(
      tmp_path / "config.py",
      data=dict(
        tasks={
          "file": {
            "options": {
              "file": str(tmp_path / "rows.jsonl"),
              "reward_functions": (function,),
            }
          }
        }
      ),
      rewards=dict(batch_deadline_s=1.0),
      eval=dict(every=0),
    )
    refuses(
      ["--config", str(path)],
      f"reward function {function}",
      said,
      workdir=tmp_path / name,
      # What a function waits for may answer the next time.
      code=exits.GAVE_UP if name == "hangs" else exits.BAD_INPUT,
    )
    # What is there is a run: with the function mended it goes on. One that
    # cannot be loaded is refused before.
    first = tmp_path / name / "checkpoints" / "0"
    assert first.is_dir() == (name != "missing")


BATCH = """
import sys
from progrpo_jax import main
codes = []
for command, override in (
    ("train", "train.prompts_per_step=4"), ("train", "eval.batch_prompts=4"),
    ("evaluate", "eval.batch_prompts=4")):
  rest = ["--workdir", sys.argv[1]] if command == "train" else []
  codes.append(main.main([
      command, *sys.argv[2:], "--config.train.prompts_per_step=8",
      "--config.eval.batch_prompts=8", "--config.train.num_minibatches=1",
      f"--config.{override}", *rest]))
print(codes)
"""


def test_batch_that_the_mesh_cannot_divide(small, tmp_path, run_python):
  done = run_python(["-c", BATCH, tmp_path / "run", *small.args(method="grpo")])
  assert done.stdout.splitlines()[-1] == "[2, 2, 2]"
  lines = [x for x in done.stderr.splitlines() if x.startswith("progrpo")]
  for line, said in zip(
    lines,
    (
      "config.train.prompts_per_step = 4",
      "config.eval.batch_prompts = 4",
      "config.eval.batch_prompts = 4",
    ),
    strict=True,
  ):
    assert said in line and "8 batch shards" in line
  assert not (tmp_path / "run").exists()
