"""The package as a user's script or notebook calls it."""

import asyncio
import dataclasses
import functools
import gc
import http.server
import io
import json
import os
import pathlib
import re
import signal
import threading
import traceback
import typing
import urllib.request

import jax
import numpy as np
import pytest

import progrpo_jax
from progrpo_jax import api, errors, loop, main
from progrpo_jax.build import answers as answers_lib
from progrpo_jax.devices import stopping
from progrpo_jax.report import live, views
from progrpo_jax.rollout import sampler
from progrpo_jax.tasks import guess_number

FOLDER = pathlib.Path(progrpo_jax.__file__).parent
SMALL = str(pathlib.Path(__file__).with_name("small.py"))
CALLS = (
  "compare",
  "config",
  "evaluate",
  "load_policy",
  "load_run",
  "sample",
  "train",
  "warmup",
)


@pytest.fixture
def config(small, tmp_path):
  """A function that makes the small config from Python, with other keys."""

  def make(method="grpo", **keys):
    return progrpo_jax.config(
      SMALL,
      method=method,
      keys={"model.init_from": small.base, "data.dir": tmp_path / "data"}
      | {name.replace("__", "."): value for name, value in keys.items()},
    )

  return make


@pytest.fixture
def sums(config, tmp_path):
  """A config of rows of the user's own, which name nothing that scores."""
  rows = [
    {"prompt": f"{i}+{j}=", "answer": i + j}
    for i in range(1, 6)
    for j in range(1, 5)
  ]
  (tmp_path / "rows.json").write_text(json.dumps(rows))
  options = {"file": str(tmp_path / "rows.json")}
  return config(
    train__total_steps=3,
    eval__every=0,
    data__tasks={"sums": {"module": "file", "options": options}},
  )


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def timeless(path):
  return [
    {k: v for k, v in row.items() if not k.startswith(("timing_s/", "perf/"))}
    for row in lines(path)
  ]


def test_calls_are_offered_and_no_module_hides_one():
  assert set(CALLS) <= set(dir(progrpo_jax))
  stub = (FOLDER / "__init__.pyi").read_text()
  for name in CALLS:
    call = getattr(progrpo_jax, name)
    assert callable(call) and call.__doc__
    assert f'  "{name}",\n' in stub
    assert not (FOLDER / name).exists()
    assert not (FOLDER / f"{name}.py").exists()
    typing.get_type_hints(call)


def test_a_config_is_of_a_name_a_file_or_keys(config, tmp_path):
  c = progrpo_jax.config("tiny", method="progrpo")
  assert c.method == "progrpo" and c.algo.arm.centre is True
  assert c.to_dict() == progrpo_jax.config("tiny:progrpo").to_dict()
  assert c.is_locked
  c = config("prorl", train__total_steps="7", optim={"learning_rate": 1})
  assert c.train.total_steps == 7 and c.algo.reset.period == 2
  assert c.optim.learning_rate == 1 and c.optim.b1 == 0.9
  c = progrpo_jax.config(
    method="dapo",
    keys={"data.tasks": {"countdown": {"weight": 2.0}}, "seed": 3},
  )
  assert c.algo.dynamic_sampling.enabled and c.seed == 3
  assert c.data.tasks.countdown.weight == 2.0
  assert api.resolved({"seed": 3}).seed == 3
  assert api.resolved(pathlib.Path(SMALL)).train.total_steps == 4
  made = progrpo_jax.config(c, keys={"train.total_steps": 9})
  assert made.train.total_steps == 9 and made.method == c.method
  assert c.train.total_steps != 9 and made.is_locked
  assert progrpo_jax.config(method="GRPO").to_dict() == (
    progrpo_jax.config(method="grpo").to_dict()
  )
  spec = {"module": "file", "options": {"file": pathlib.Path("a.json")}}
  made = progrpo_jax.config(
    keys={
      "train.total_steps": np.int64(20),
      "sampling.temperature": np.float32(0.5),
      "log.tensorboard": np.bool_(False),
      "data.tasks": {"s": {**spec, "weight": np.float64(2)}},
    }
  )
  assert made.train.total_steps == 20 and made.sampling.temperature == 0.5
  assert made.log.tensorboard is False and made.data.tasks.s.weight == 2
  assert made.data.tasks.s.options.file == "a.json"
  made = progrpo_jax.config({"seed": 3}, method="dapo", keys={"seed": 4})
  assert made.seed == 4 and made.method == "dapo"
  # A copy: what a call changes stays with it.
  assert api.resolved(c) is not c and api.resolved(c).to_dict() == c.to_dict()


@pytest.mark.parametrize(
  ("source", "options", "said"),
  [
    ("tinny", {}, "did you mean tiny?"),
    ("tiny", dict(method="progpro"), "'progpro'; did you mean 'progrpo'?"),
    ("", dict(method="progpro"), "no method 'progpro'; did you mean 'progrpo'"),
    ("", dict(keys={"train.total_step": 3}), "mean config.train.total_steps?"),
    ("", dict(keys={"train": {"steps": 3}}), "no key config.train.steps"),
    ("", dict(keys={"train": 3}), "config.train = 3: must be a group of keys"),
    ("", dict(keys={"train.total_steps": 0}), "train.total_steps = 0: must be"),
    ("", dict(keys={"train.total_steps": "x"}), "'x' is not of type int"),
    ("", dict(keys={"train.total_steps": 1.5}), "total_steps = 1.5: must be"),
    ("tiny", dict(keys=["a"]), "keys = ['a']: must be a dict"),
    (
      "",
      dict(keys={"max_completion_length": 4}),
      "no key config.max_completion_length; for TRL's max_completion_length, "
      "did you mean config.sampling.max_new_tokens?",
    ),
    (
      "",
      dict(keys={"data.tasks": {"a.b": {"module": "file"}}}),
      "config.data.tasks: the name 'a.b' must be a text without a dot",
    ),
    (
      "",
      dict(keys={"data.tasks": {"s": {"module": "file", "file": "x"}}}),
      "no key config.data.tasks.s.file; options of a task go into options, as "
      'in {"options": {"file": ...}}',
    ),
    ("tiny", dict(keys={5: 1}), "keys = {5: 1}: must be a dict"),
    ("tiny", dict(method=5), "method = 5: must be a name"),
    (5, {}, "config = 5: must be the name or path"),
    (None, {}, "config = None: must be the name or path"),
    ({5: 1}, {}, "keys = {5: 1}: must be a dict"),
    (
      progrpo_jax.config(),
      dict(method="grpo"),
      "method = 'grpo': this config is made already",
    ),
  ],
)
def test_a_config_that_cannot_be_names_what_to_mend(source, options, said):
  with pytest.raises(errors.InputError) as told:
    progrpo_jax.config(source, **options)
  assert said in str(told.value)


class Server(http.server.BaseHTTPRequestHandler):
  """Answers each text with the number of its digits."""

  def do_POST(self):
    body = self.rfile.read(int(self.headers["Content-Length"]))
    counts = [sum(c.isdigit() for c in text) for text in json.loads(body)]
    self.send_response(200)
    self.end_headers()
    self.wfile.write(json.dumps(counts).encode())

  def log_message(self, *_):
    pass


@pytest.fixture
def judge():
  """The URL of a server that judges."""
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  yield f"http://127.0.0.1:{server.server_port}"
  server.shutdown()
  thread.join()
  server.server_close()


def test_an_interrupted_script_goes_on_as_the_unbroken_one(
  sums, judge, tmp_path, capsys
):
  """With a function of a cell, one over HTTP and one that is awaited."""
  stops = []

  def right(completions, answer, trainer_state, **_):
    if stops and trainer_state.global_step == stops[0]:
      stops.pop()
      os.kill(os.getpid(), signal.SIGINT)
    return [float(c == str(a)) for c, a in zip(completions, answer)]

  def over_http(completions, **_):
    request = urllib.request.Request(judge, json.dumps(completions).encode())
    with urllib.request.urlopen(request) as answer:
      return [0.1 * count for count in json.load(answer)]

  async def awaited(completions, **_):
    await asyncio.sleep(0.001)
    return [-0.01 * len(c) for c in completions]

  rewards = [right, over_http, awaited]
  with sums.unlocked():
    sums.data.tasks.sums.options.correct_by = "right"
  whole = progrpo_jax.train(sums, tmp_path / "whole", rewards=rewards)
  assert len(whole.metrics()) == 3
  assert {f"rewards/sums/{f.__name__}/mean" for f in rewards} <= set(
    whole.metrics()
  )
  assert any(row["rewards/sums/over_http/mean"] for row in whole.record.metrics)

  before = signal.getsignal(signal.SIGINT)
  stops.append(1)
  with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
    progrpo_jax.train(sums, tmp_path / "broken", rewards=rewards)
  assert signal.getsignal(signal.SIGINT) is before is not None
  broken = progrpo_jax.load_run(tmp_path / "broken")
  assert broken.checkpoints()[-1] == len(broken.metrics()) < 3
  assert "SIGINT: saving, then stopping" in capsys.readouterr().out
  broken = progrpo_jax.train(sums, tmp_path / "broken", rewards=rewards)
  assert "resuming from step" in capsys.readouterr().out
  for name in ("metrics.jsonl", "rollouts/000003.jsonl"):
    assert timeless(broken.path / name) == timeless(whole.path / name)
  # The config of the run stands in for one that is not given.
  again = progrpo_jax.train(None, broken, rewards=rewards)
  assert again == broken and len(again.metrics()) == 3


def test_a_function_is_tried_on_before_anything_is_sampled(
  sums, tmp_path, monkeypatch
):
  def never(*_):
    raise AssertionError("sampled")

  monkeypatch.setattr(sampler.Engine, "generate", never)

  def compute(completions, solution_str):
    return [1.0] * len(completions)

  (tmp_path / "mine.py").write_text("def right(completions):\n  return []\n")
  for function, said in (
    (compute, "compute cannot be called: .*'solution_str'; the arguments are"),
    (f"{tmp_path}/mine.py:rihgt", "cannot be loaded: .*did you mean 'right'"),
    (f"{tmp_path}/yours.py:right", "cannot be loaded: .*yours.py"),
  ):
    with pytest.raises(errors.InputError, match=said):
      progrpo_jax.train(sums, tmp_path / "run", rewards=[function])


def test_a_run_says_that_no_reward_counts_as_right(sums, tmp_path, capsys):
  def graded(completions, **_):
    return [0.5 * (i % 2) for i, _ in enumerate(completions)]

  def doubled(completions, **_):
    return [float(i % 3) for i, _ in enumerate(completions)]

  def right(completions, **_):
    return [float(i % 2) for i, _ in enumerate(completions)]

  for function, said in (
    (graded, "graded in a step was 0.5, and 1 or more counts as right: until"),
    (
      doubled,
      "doubled in a step was 2, and 1 or more counts as right; if only",
    ),
    (right, None),
  ):
    progrpo_jax.train(sums, tmp_path / function.__name__, rewards=function)
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("counts as right") == (said is not None)
    assert said is None or f"task sums: the highest value of {said}" in out


def test_a_run_whose_rows_have_changed_goes_on_with_override(
  sums, tmp_path, capsys
):
  right = [lambda completions, answer, **_: [1.0] * len(completions)]
  sums.train.total_steps = 1
  progrpo_jax.train(sums, tmp_path / "run", rewards=right)
  file = tmp_path / "rows.json"
  rows = json.loads(file.read_text())
  for row in rows:
    row["answer"] += 1
  file.write_text(json.dumps(rows))
  sums.train.total_steps = 2
  with pytest.raises(errors.InputError, match="trained on other rows: .*overr"):
    progrpo_jax.train(sums, tmp_path / "run", rewards=right)
  run = progrpo_jax.train(sums, tmp_path / "run", rewards=right, override=True)
  assert len(run.metrics()) == 2


def test_other_signals_end_a_script_with_the_code_of_the_command(
  sums, tmp_path
):
  def stopping_reward(completions, **_):
    os.kill(os.getpid(), signal.SIGTERM)
    return [1.0] * len(completions)

  with pytest.raises(SystemExit) as ended:
    progrpo_jax.train(sums, tmp_path / "run", rewards=stopping_reward)
  assert ended.value.code == loop.PREEMPTED == 75
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_thread_trains_without_touching_signals(sums, tmp_path):
  before, seen, ended = signal.getsignal(signal.SIGTERM), [], []

  def reward(completions, **_):
    seen.append(signal.getsignal(signal.SIGTERM))
    return [1.0] * len(completions)

  def work():
    ended.append(progrpo_jax.train(sums, tmp_path / "run", rewards=[reward]))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert len(ended[0].metrics()) == 3 and set(seen) == {before}


def test_a_second_interrupt_ends_a_process_but_not_a_kernel():
  for ends, expected in ((True, signal.SIG_DFL), (False, None)):
    said = []
    before = signal.getsignal(signal.SIGINT)
    stop = stopping.Stop(ends_process=ends)
    with stop.on_signals(said.append):
      os.kill(os.getpid(), signal.SIGINT)
      assert stop.asked and stop.signal is signal.SIGINT
      now = signal.getsignal(signal.SIGINT)
      assert now is (before if expected is None else expected)
    assert signal.getsignal(signal.SIGINT) is before
    assert said == ["SIGINT: saving, then stopping; once more stops at once"]


def test_bad_input_has_the_sentences_of_the_command(config, tmp_path, capsys):
  (tmp_path / "file").write_text("")
  c = config()
  options = {"file": "a.json", "reward_functions": [len]}
  own = config(data__tasks={"a": {"module": "file", "options": options}})
  for call, said in (
    (lambda: progrpo_jax.train(c, tmp_path / "file" / "run"), "cannot write"),
    (lambda: progrpo_jax.train(None, tmp_path / "no"), "holds no run yet"),
    (lambda: progrpo_jax.train(c, tmp_path / "x", rewards=[len]), "has none"),
    (
      lambda: progrpo_jax.evaluate(tmp_path / "no", c),
      f"policy = '{tmp_path}/no': no such directory",
    ),
    (lambda: progrpo_jax.sample(tmp_path / "no", "1+1="), "no directory"),
    (lambda: progrpo_jax.sample(tmp_path, "1+1="), "is not a run, which"),
    (lambda: progrpo_jax.compare([tmp_path / "no"]), "no such workdir"),
    (lambda: progrpo_jax.load_run(tmp_path / "file"), "file is a file: name"),
    (
      lambda: progrpo_jax.train(own, tmp_path / "x", rewards=[len]),
      "task a: reward_functions takes names, not <built-in function len>; give "
      "functions by rewards=[len]",
    ),
    (lambda: progrpo_jax.train(c, tmp_path / "x", rewards=3), "rewards = 3: "),
    (lambda: progrpo_jax.sample(tmp_path, 5), "prompts = 5: must be a text"),
    (lambda: progrpo_jax.train(5, tmp_path / "x"), "config = 5: must be"),
    (lambda: progrpo_jax.train(c, None), "workdir = None: must be a path"),
    (lambda: progrpo_jax.load_run(None), "workdir = None: must be a path"),
    (lambda: progrpo_jax.load_policy(5, c), "policy = 5: must be a path"),
    (lambda: progrpo_jax.evaluate(None, c, workdir=5), "workdir = 5: must be"),
    (lambda: progrpo_jax.evaluate(None, c, output=5), "output = 5: must be a"),
    (lambda: progrpo_jax.warmup(c, None), "output = None: must be a path"),
    (lambda: progrpo_jax.compare(None), "workdirs = None: must be runs"),
    (lambda: progrpo_jax.compare([5]), "workdirs = 5: must be a path"),
    (lambda: progrpo_jax.compare({"a": 5}), "workdirs = 5: must be runs"),
    (lambda: progrpo_jax.compare([tmp_path], labels="a"), "labels = 'a': must"),
    (lambda: progrpo_jax.compare([]), "no workdirs to compare"),
    (lambda: progrpo_jax.compare([tmp_path], labels=["a", "b"]), "2 names for"),
  ):
    with pytest.raises(errors.InputError) as told:
      call()
    assert said in str(told.value)


def test_the_script_of_the_docs_runs(tmp_path, monkeypatch):
  page = pathlib.Path(__file__).parent.parent / "docs" / "python.md"
  text = page.read_text(encoding="utf-8")
  script = re.search(r"```python\n(import json\n.*?)```", text, re.DOTALL)[1]
  one, count = re.subn(r'(_steps|\.steps)": \d+', r'\1": 1', script)
  assert count == 2
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(one, names)
  assert names["base"] == "runs/base" and len(names["run"].metrics()) == 1
  # The functions that were handed over judge an evaluation, too.
  asked = re.search(r"^(progrpo_jax\.evaluate\(run.*)$", text, re.MULTILINE)[1]
  assert 0 <= eval(asked, names) <= 1
  with pytest.raises(errors.InputError, match="right cannot be loaded"):
    progrpo_jax.evaluate(names["run"])


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
  """A run of two steps."""
  folder = tmp_path_factory.mktemp("api")
  c = small.config("train.total_steps=2", method="grpo")
  return progrpo_jax.train(c, folder / "run", view=View())


class View:
  """Shows nothing."""

  def phase(self, name):
    """Says nothing."""

  step = eval = message = lambda *_: None


def test_an_evaluation_is_what_the_command_writes(
  trained, small, tmp_path, capsys
):
  done = progrpo_jax.evaluate(
    trained, workdir=tmp_path / "eval", output=tmp_path / "python.json"
  )
  assert json.loads((tmp_path / "python.json").read_text()) == done
  argv = ["evaluate", "--policy", str(trained.path)]
  argv += ["--output", str(tmp_path / "command.json")]
  assert main.main(argv) == 0
  command = json.loads((tmp_path / "command.json").read_text())
  assert command["measures"] == done["measures"]
  assert command["tokens"] == done["tokens"] > 0
  last = lines(trained.path / "eval.jsonl")[-1]
  name = "eval/chain_sum/pass@1"
  assert done["measures"][name] == last[name]
  assert done["step"] == command["step"] == trained.checkpoints()[-1]
  (row,) = lines(tmp_path / "eval" / "eval.jsonl")
  assert row[name] == last[name]
  # A directory of Hugging Face's has no config of its own.
  base = progrpo_jax.evaluate(small.base, small.config(method="grpo"))
  assert base["policy"] == str(small.base) and base["step"] is None


def _held():
  gc.collect()
  return sum(x.nbytes for x in jax.live_arrays())


def test_a_notebook_does_not_keep_what_a_failed_run_held(
  sums, tmp_path, monkeypatch
):
  """Its last traceback holds the frames; the cell is run again beside them."""
  monkeypatch.setattr(views, "is_interactive", lambda: True)

  def reward(prompts, completions, **columns):
    mine = "a variable"
    raise KeyError(mine)

  before = _held()
  for call in (
    lambda: progrpo_jax.train(sums, tmp_path / "run", rewards=reward),
    lambda: progrpo_jax.evaluate(None, sums, rewards=reward),
  ):
    with pytest.raises(errors.InputError) as kept:
      call()
    assert _held() <= before
  # What the person wrote can still be looked at.
  with pytest.raises(KeyError) as kept, errors.without_frames():
    reward([], [])
  *_, last = (frame for frame, _ in traceback.walk_tb(kept.tb))
  assert last.f_locals["mine"] == "a variable"


def test_answers_are_the_run_s(trained, small):
  texts = progrpo_jax.sample(trained, ["1+2=", "3+4="], n=3)
  assert texts == trained.sample(["1+2=", "3+4="], n=3)
  assert progrpo_jax.sample(trained.path, "1+2=", n=3) == texts[0]
  for prompts, options, said in (
    ([1], {}, "prompts has 1: each must be a text"),
    (["1+2=", None], {}, "prompts has None: each must be a text"),
    ("1+2=", dict(n="x"), "n = 'x': at least 1"),
    ("1+2=", dict(temperature="hot"), "temperature = 'hot' must be"),
  ):
    with pytest.raises(errors.InputError, match=said):
      progrpo_jax.sample(trained, prompts, **options)
  policy = progrpo_jax.load_policy(trained)
  assert progrpo_jax.sample(policy, "1+2=", n=3) == texts[0]
  base = progrpo_jax.load_policy(small.base, small.config(method="grpo"))
  step0 = trained.policy(0) if 0 in trained.checkpoints() else base
  assert isinstance(step0, answers_lib.Responder)
  assert (
    progrpo_jax.sample(base, "1+2=", temperature=0)
    == step0.sample(["1+2="], temperature=0)[0]
  )


SHARED = """
import sys
import progrpo_jax
asked = []
for tensor in (0, 2, 64):
  policy = progrpo_jax.load_policy(sys.argv[1], {"sampling.tensor": tensor})
  answers = policy.sample(["1+2=", "3+4="], temperature=0)
  logps = policy.log_probs([("1+2=", "3"), ("3+4=", "7")])
  asked.append((policy.mesh.size, answers, [round(x, 3) for x in logps]))
print([size for size, *_ in asked])
print(all(rest == list(asked[0][1:]) for _, *rest in asked)
      or [rest for _, *rest in asked])
"""


def test_devices_share_the_weights_of_a_policy_that_is_asked(small, run_python):
  """A machine with fewer devices than the run had takes one."""
  done = run_python(["-c", SHARED, small.base], devices=4)
  assert done.stdout.splitlines() == ["[1, 2, 1]", "True"]


class Frame(list):
  """What a table is: a loop over it gives the names of its columns."""

  columns = ("prompt",)


def test_what_is_no_list_of_prompts_is_refused(trained):
  policy = trained.policy()
  for prompts in ({"prompt": "1+2="}, {"1+2="}, b"1+2=", Frame(["prompt"]), 3):
    for call in (
      functools.partial(progrpo_jax.sample, policy),
      trained.sample,
      policy.converse,
    ):
      with pytest.raises(errors.InputError, match="must be a text, a row of"):
        call(prompts)
  row = guess_number.load("validation", data_dir="", seed=0)[0]
  row = dataclasses.replace(row, prompt="1+2=")
  assert trained.sample(row, n=2) == trained.sample("1+2=", n=2)
  assert policy.sample(f"{a}+2=" for a in (1,)) == policy.sample(["1+2="])
  with pytest.raises(errors.InputError, match="config: this policy is in mem"):
    progrpo_jax.sample(policy, "1+2=", config={"seed": 3})


def test_a_dict_changes_keys_of_the_run_s_own_config(sums, trained, tmp_path):
  own = trained.config
  responder = progrpo_jax.load_policy(trained, {"sampling.top_k": 7})
  assert responder.config.sampling.top_k == 7
  with own.unlocked():
    own.sampling.top_k = 7
    own.model.init_from = str(trained.path)
  assert responder.config.to_dict() == own.to_dict()
  responder = progrpo_jax.load_policy(
    trained.path / "checkpoints" / "2", {"seed": 5}
  )
  assert responder.config.data.tasks == own.data.tasks

  def right(completions, **_):
    return [1.0] * len(completions)

  sums.train.total_steps = 1
  progrpo_jax.train(sums, tmp_path / "run", rewards=right)
  run = progrpo_jax.train(
    {"train.total_steps": 2}, tmp_path / "run", rewards=right
  )
  assert len(run.metrics()) == 2


def test_many_questions_are_asked_in_batches_and_answered_the_same(trained):
  prompts = [f"{a}+2=" for a in range(1, 6)]
  few = trained.policy().config.copy_and_resolve_references()
  assert not few.sampling.batch_prompts
  few.eval.batch_prompts = 2
  policy = dataclasses.replace(trained.policy(), config=few)
  assert policy.sample(prompts, n=2) == trained.sample(prompts, n=2)


def test_one_question_is_not_decoded_as_a_batch_of_training(
  trained, monkeypatch
):
  c = trained.policy().config.copy_and_resolve_references()
  c.sampling.batch_prompts = 4
  policy = dataclasses.replace(trained.policy(), config=c)
  drawn = []
  generate = sampler.Engine.generate

  def counted(engine, prompts, rows, *args):
    drawn.append(len(rows))
    return generate(engine, prompts, rows, *args)

  monkeypatch.setattr(sampler.Engine, "generate", counted)
  policy.sample(["1+2="])
  policy.sample(["1+2="] * 6)
  assert drawn == [1, 4, 4]


def test_a_comparison_shows_itself(make_run, tmp_path, capsys):
  runs = [make_run("grpo"), make_run("progrpo", shift=1)]
  shown = progrpo_jax.compare(runs, base=runs[0])
  assert list(shown.summary) == ["base", "grpo", "progrpo"]
  page = shown._repr_html_()
  assert "pass@1" in page and shown.verdict.headline.split()[0] in page
  assert page.count("<table") == page.count("</table>") >= 2
  assert shown.verdict.headline in repr(shown)
  seeds = progrpo_jax.compare({"both": runs})
  assert seeds.summary["both"]["seeds"] == 2
  assert shown.write_page(tmp_path / "page.html").read_text().startswith("<!")
  shown.write_json(tmp_path / "python.json")
  argv = ["compare", *map(str, runs), "--base", str(runs[0])]
  assert main.main([*argv, "--json", str(tmp_path / "command.json")]) == 0
  assert (tmp_path / "python.json").read_text() == (
    tmp_path / "command.json"
  ).read_text()
  assert " ".join(shown.verdict.headline.split()) in " ".join(
    capsys.readouterr().out.split()
  )


@pytest.fixture(scope="module")
def guesser(tmp_path_factory):
  """(policy, flags of the command line) of a task that replies."""
  folder = tmp_path_factory.mktemp("guesser")
  keys = {"sampling.max_new_tokens": 10, "sampling.max_turns": 3}
  c = progrpo_jax.config(
    "guess_number:base", keys=keys | {"warmup.steps": 60, "warmup.examples": 64}
  )
  base = progrpo_jax.warmup(c, folder / "base")
  flags = [f"--config.{key}={value}" for key, value in keys.items()]
  flags += ["--config", "guess_number", "--policy", base]
  return progrpo_jax.load_policy(base, c), flags


def test_a_function_replies_and_the_policy_reads_it(guesser):
  policy, _ = guesser
  asked = []

  def reply(messages):
    asked.append(messages)
    return "+" if len(messages) < 4 else None

  talks = sum(policy.converse(["1-3:"] * 4, n=2, reply=reply), [])
  longer = [talk for talk in talks if len(talk) > 1]
  assert len(talks) == 8 and longer
  for talk in longer:
    assert [m["role"] for m in talk] == ["assistant", "user", "assistant"]
    assert talk[1]["content"] == "+"
  assert {messages[0]["content"] for messages in asked} == {"1-3:"}
  assert {m[-1]["role"] for m in asked} == {"assistant"}
  said = {m[-1]["content"] for m in asked if len(m) == 4}
  assert said <= {talk[-1]["content"] for talk in longer}
  texts = progrpo_jax.sample(policy, ["1-3:"] * 4, n=2, reply=reply)
  assert sum(texts, []) == [talk[-1]["content"] for talk in talks]

  def fails(messages):
    raise KeyError("no")

  with pytest.raises(errors.InputError, match="KeyError"):
    policy.sample(["1-3:"] * 4, n=2, reply=fails)
  one_turn = progrpo_jax.config("guess_number", keys={"sampling.max_turns": 1})
  with pytest.raises(errors.InputError, match="max_turns = 1"):
    progrpo_jax.sample(
      policy.config.model.init_from, "1-3:", config=one_turn, reply=reply
    )


def test_the_task_of_a_row_replies(guesser):
  policy, _ = guesser
  rows = guess_number.load(
    "validation", data_dir="", seed=0, most=3, template="compact"
  )
  rows = [rows[i] for i in range(4)]
  for row, talks in zip(rows, policy.converse(rows, n=2), strict=True):
    for talk in talks:
      before = [{"role": "user", "content": row.prompt}]
      for message in talk:
        if message["role"] == "user":
          assert message["content"] == guess_number.reply(
            before, row.reference, **row.meta
          )
        before.append(message)


def test_the_command_plays_the_turns(guesser, capsys, monkeypatch):
  policy, flags = guesser
  argv = ["sample", *flags]
  # Each conversation is ended by an empty line or by its last turn.
  typed = io.StringIO("1-3:\n+\n\n1-3:\n\n")
  monkeypatch.setattr("sys.stdin", typed)
  assert main.main(argv) == 0
  shown = capsys.readouterr().out.splitlines()
  replies = iter(["+", None])
  first = policy.converse(["1-3:"], reply=lambda _: next(replies))[0][0]
  second = policy.converse(["1-3:"], first=1, reply=lambda _: None)[0][0]
  texts = [m["content"] for m in first + second if m["content"] != "+"]
  # The policy may write anything, control codes too.
  assert shown == [live.printable(text) for text in texts]
  assert len(shown) == 3
  asked = ["--task", "guess_number", "--num_problems", "3"]
  assert main.main([*argv, *asked]) == 0
  shown = capsys.readouterr().out.splitlines()
  assert sum(line == "> 1-3:" for line in shown) == 3
  assert any(line in ("> +", "> -", "> ?") for line in shown)
  assert main.main([*argv, "--task", "countdown"]) == 2
  assert "no task 'countdown' in config.data.tasks" in capsys.readouterr().err
  assert main.main([*argv, "--num_samples", "2"]) == 2
  assert "has one answer" in capsys.readouterr().err


def test_a_warm_up_gives_a_policy_to_begin_from(config, tmp_path):
  c = config(model__init_from="", warmup__steps=5)
  place = progrpo_jax.warmup(c, tmp_path / "base")
  texts = progrpo_jax.sample(place, ["1+2="], config=c)
  assert np.shape(texts) == (1, 1)
  with pytest.raises(errors.InputError, match="base holds a policy already"):
    progrpo_jax.warmup(c, place)
