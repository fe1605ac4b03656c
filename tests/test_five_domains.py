"""Five domains in one run, from files as they are published.

A tiny policy is warmed up on the demonstrations of five tasks, one a domain,
and then trained on all of them: its answers go through all five verifiers,
its programs through the jail.
"""

import json
import math

import pyarrow as pa
from pyarrow import parquet
import pytest

from progrpo_jax import errors, loop
from progrpo_jax.build import base_policy, problems
from progrpo_jax.devices import stopping
from progrpo_jax.rewards import sandbox
from progrpo_jax.tasks import base
from progrpo_jax.text import tokenizer as tokenizer_lib

STEPS, HALF = 20, 10
# Limits that no busy machine reaches: the clock must not decide a reward.
TIME_LIMIT_S, DEADLINE_S = 60.0, 120.0
OURS = {"manual_dir": "files", "template": "{question}", "ngram": 0}
TASKS = {
  "gsm8k": OURS,
  "apps": OURS | {"verifier_options": {"time_limit_s": TIME_LIMIT_S}},
  "choice": OURS,
  "chain_sum": {
    "template": "compact",
    "max_terms": 2,
    "max_digits": 1,
    "num_train": 16,
    "num_validation": 4,
  },
  "instruction_following": {
    "template": "compact",
    "num_train": 16,
    "num_validation": 4,
    "max_instructions": 1,
    "max_count": 2,
    "instructions": ["keywords:existence"],
  },
}
MODULES = {"choice": "tests.trained_choice"}
OPTIONS = ["A" * n for n in range(1, 4)]


def _write(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".parquet":
    parquet.write_table(pa.Table.from_pylist(rows), path)
  else:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _sum(i):
  return {"question": f"{i} and {i}", "answer": f"#### {2 * i}"}


def _program(i):
  tests = {"inputs": [f"{i}\n", "7\n"], "outputs": [f"{i}\n", "7\n"]}
  return {
    "question": f"echo {i}",
    "input_output": json.dumps(tests),
    "solutions": json.dumps(["print(input())"]),
  }


def _choice(i):
  return {
    "question": f"longest {i}",
    "options": OPTIONS,
    "answer_index": 2,
    "category": "physics",
  }


def _files(folder):
  """Writes the published files of the three sets; 8 and 4 problems each.

  One more, of GSM8K, is too long for the policy.
  """
  for split, name, rows in (
    ("train", "train", range(8)),
    ("test", "test", range(10, 14)),
  ):
    long = {"question": "one and " * 99, "answer": "#### 100"}
    _write(
      folder / f"gsm8k/main/{name}-00000-of-00001.parquet",
      [*map(_sum, rows), long],
    )
    _write(folder / f"apps/{split}.jsonl", [_program(i) for i in rows])
    _write(
      folder / f"tests.trained_choice/{name}.parquet",
      [_choice(i) for i in rows],
    )


@pytest.fixture(scope="module")
def make(small, tmp_path_factory):
  """A function from overrides to a config of all domains there can be.

  The policy that it starts from knows the demonstrations of each.
  """
  folder = tmp_path_factory.mktemp("five")
  _files(folder / "files")
  tasks = {
    name: {
      "weight": 1.0,
      "module": MODULES.get(name, name),
      "options": {
        k: str(folder / v) if k == "manual_dir" else v
        for k, v in options.items()
      },
    }
    for name, options in TASKS.items()
  }
  if not sandbox.best().grade:
    del tasks["apps"]

  def config(*overrides):
    c = small.config(*overrides, method="grpo")
    with c.unlocked():
      c.data.tasks = tasks
    c.data.max_prompt_length = 48
    c.data.filter_overlong_prompts = True
    c.eval.partial_sets = True
    c.sampling.max_new_tokens = 32
    c.sampling.chunk = 32
    c.sampling.batch_prompts = 2
    c.rewards.deadline_s = DEADLINE_S
    c.train.prompts_per_step = len(tasks)
    c.train.num_minibatches = 1
    c.train.num_iterations = 1
    c.train.total_steps = STEPS
    c.optim.learning_rate = 1e-3
    c.eval.every = STEPS
    c.eval.at_start = False
    c.eval.num_problems = 4
    c.eval.num_samples = 2
    c.checkpoint.every = HALF
    c.checkpoint.keep = 3
    c.log.rollouts_every = HALF
    c.warmup.embed_dim = 32
    c.warmup.mlp_dim = 64
    c.warmup.steps = 300
    return c

  path = folder / "base"
  if not path.exists():
    c = config("model.init_from=")
    base_policy.warm_up(c, path, lambda count, note: None)

  def started(*overrides):
    return config(f"model.init_from={path}", *overrides)

  return started


@pytest.fixture(scope="module")
def unbroken(make, tmp_path_factory):
  """(its workdir, its view)."""
  workdir = tmp_path_factory.mktemp("unbroken")
  view = View()
  assert loop.train(make(), workdir, view) == loop.DONE
  return workdir, view


class View:
  """Keeps the steps; may have the run stop after some."""

  def __init__(self, stop_after=0):
    self.steps, self.stop_after, self.stop = {}, stop_after, None
    self.messages = []

  def phase(self, name):
    pass

  def step(self, step, metrics):
    self.steps[step] = dict(metrics)
    if step == self.stop_after:
      self.stop.asked = True

  def eval(self, step, metrics):
    self.evaluated = metrics

  def message(self, text):
    self.messages.append(text)


def names():
  known = list(TASKS)
  return known if sandbox.best().grade else [n for n in known if n != "apps"]


def test_each_domain_is_rewarded_and_nothing_is_masked(unbroken):
  steps = unbroken[1].steps
  assert sorted(steps) == list(range(1, STEPS + 1))
  for name in names():
    key = f"rewards/{name}/mean"
    rewards = [m[key] for m in steps.values() if key in m]
    assert len(rewards) > HALF, name
    assert all(math.isfinite(r) and 0 <= r <= 1 for r in rewards), name
    assert max(rewards) > 0, name
  for metrics in steps.values():
    for name in ("masked", "timeouts", "crashes", "refused"):
      assert metrics[f"verifier/{name}"] == 0
    assert metrics["timing_s/verify"] <= metrics["timing_s/step"]


def test_the_run_says_how_programs_are_isolated(unbroken):
  said = [m for m in unbroken[1].messages if "isolation of code" in m]
  grade = sandbox.best().grade
  assert len(said) == bool(grade)
  assert all(f"grade {grade}" in m for m in said)


def test_the_run_says_what_is_left_out(unbroken):
  said = [m for m in unbroken[1].messages if "gsm8k" in m]
  assert said == [
    "gsm8k: 1 of 9 prompts are longer than 48 tokens and left out",
    "gsm8k: 4 problems evaluated; 1 more left out, with prompts of more "
    "than 48 tokens",
  ]
  workdir, view = unbroken
  last = json.loads((workdir / "eval.jsonl").read_text().splitlines()[-1])
  assert last["eval/gsm8k/left_out"] == 1
  assert last["eval/gsm8k/num_problems"] == 4
  assert last["eval/chain_sum/left_out"] == 0


def test_a_published_test_set_is_not_cut_down_by_itself(make):
  c = make()
  c.eval.partial_sets = False
  tokenizer = tokenizer_lib.load(c.model.init_from)

  def check():
    for name, task in c.data.tasks.items():
      one = c.copy_and_resolve_references()
      with one.unlocked():
        one.data.tasks = {name: task}
      source = problems.make_prompter(one, tokenizer, "validation").source
      problems.check_whole(one, tokenizer, source)

  with pytest.raises(errors.InputError) as caught:
    check()
  longest = len(tokenizer.encode_prompt("one and " * 99)[0])
  assert str(caught.value).startswith(
    "gsm8k: 1 of the 5 problems of this published test set have prompts of "
    "more than data.max_prompt_length = 48 tokens"
  )
  assert f"raise that to {longest}," in str(caught.value)
  # As said: with that, or with the key, it is evaluated.
  c.data.max_prompt_length = longest
  check()
  c.data.max_prompt_length, c.eval.partial_sets = 48, True
  check()


def test_each_domain_is_evaluated(unbroken):
  workdir, _ = unbroken
  last = json.loads((workdir / "eval.jsonl").read_text().splitlines()[-1])
  for name in names():
    assert 0 <= last[f"eval/{name}/pass@1"] <= 1


def test_a_run_stopped_in_the_middle_is_the_unbroken_one(
  unbroken, make, recorded, tmp_path, monkeypatch
):
  workdir, _ = unbroken
  view = View(stop_after=HALF)
  stop = stopping.Stop

  def watched():
    view.stop = stop()
    return view.stop

  with monkeypatch.context() as patch:
    patch.setattr(stopping, "Stop", watched)
    assert loop.train(make(), tmp_path, view) == loop.PREEMPTED
  assert max(view.steps) == HALF
  again = View()
  assert loop.train(make(), tmp_path, again) == loop.DONE
  assert min(again.steps) == HALF + 1
  expected, found = recorded(workdir), recorded(tmp_path)
  for one, other in zip(
    expected["metrics.jsonl"], found["metrics.jsonl"], strict=True
  ):
    assert one == other
  assert found.keys() == expected.keys()
  assert [k for k in expected if found[k] != expected[k]] == []


def test_code_goes_through_the_jail(make):
  """A right program is right, and what reads the disk is not."""
  if not sandbox.best().grade:
    pytest.skip(f"no isolation here: {sandbox.best().reason}")
  c = make()
  spec = c.data.tasks.apps
  source = base.load(
    "apps", "train", data_dir=c.data.dir, seed=0, **dict(spec.options)
  )
  row = source[0]
  texts = [
    row.demonstrations[0],
    "```python\nprint(open('/etc/passwd').read())\n```",
  ]
  with problems.make_pool(c) as pool:
    found = pool.score([base.item(row, text) for text in texts])
  assert [score.correct for score in found] == [True, False]
  assert [score.status for score in found] == ["ok", "ok"]
