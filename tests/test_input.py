"""A hundred kinds of bad input, thrown at every command that takes them.

Each ends with code 2 and one line that names the thing: no traceback, and
nothing is built first. All in one process.
"""

import json

import pytest

from progrpo_jax import main
from progrpo_jax.cli import quickstart
from progrpo_jax.settings import defaults

CONFIG = ["--config", "configs/tiny.py:progrpo"]
# The commands that read a config, as far as they go without bad input.
WITH_CONFIG = {
  "train": ["--workdir", "never"],
  "evaluate": ["--policy", "never"],
  "sample": ["--policy", "never"],
  "warmup": ["--output", "never"],
  "export": ["--policy", "never", "--output", "never"],
  "doctor": [],
}
BAD_CONFIGS = {
  "": "no such file",
  "nowhere.py": "no such file",
  "configs": "a directory",
  "README.md": "not a Python file",
  "configs/tiny.py:grop": "no method 'grop'",
  "progrpo_jax/settings/methods.py": "defines no get_config()",
  "progrpo_jax/settings/defaults.py:x": "takes no argument 'x'",
}
BAD_KEYS = {
  "algo.bta=1": "did you mean config.algo.beta?",
  "algo=1": "config.algo is a group",
  "seed=-1": "config.seed = -1: must be in [0, 4294967295]",
  "seed=12345678901234567890": "config.seed = ",
  "optim.learning_rate=-1": "config.optim.learning_rate = -1.0",
  "optim.b2=2": "config.optim.b2 = 2.0",
  "optim.max_grad_norm=-1": "config.optim.max_grad_norm = -1.0",
  "algo.epsilon=nan": "config.algo.epsilon = nan",
  "sampling.temperature=inf": "config.sampling.temperature = inf",
  "train.micro_batch_rows=-1": "config.train.micro_batch_rows = -1",
  "rewards.workers=1e3": "'1e3' is not of type int",
  "rewards.thinking=yes": "config.rewards.thinking = 'yes'",
  "data.prompt_buckets=(0,)": "config.data.prompt_buckets = (0,)",
  "data.tasks.countdown.weight=-1": "config.data.tasks.countdown.weight = -1",
  "data.tasks.countdown.wieght=1": "did you mean config.data.tasks.countdown",
  "data.dir=": "config.data.dir = ''",
  "schedule=({},)": "config.schedule[0]",
  "schedule=7": "config.schedule[0]",
}


def throw(argv, said, capfd):
  """A command with bad input."""
  capfd.readouterr()
  code = main.main([str(word) for word in argv])
  err = capfd.readouterr().err
  lines = [x for x in err.splitlines() if x.startswith(f"progrpo {argv[0]}: ")]
  assert code == 2, (argv, code, err)
  assert "Traceback" not in err and len(lines) == 1, err
  assert said in lines[0], lines[0]


@pytest.mark.parametrize("command", WITH_CONFIG)
def test_configs(command, capfd):
  rest = WITH_CONFIG[command]
  for spec, said in BAD_CONFIGS.items():
    throw([command, "--config", spec, *rest], said, capfd)
  for key, said in BAD_KEYS.items():
    if key.startswith("schedule") and command not in ("train", "doctor"):
      continue
    throw([command, *CONFIG, f"--config.{key}", *rest], said, capfd)
  throw([command, *CONFIG, "--config.seed"], "--config.seed needs a", capfd)
  throw([command, *CONFIG, "--wrong", *rest], "arguments: --wrong", capfd)


def test_names_that_are_looked_up(small, capfd):
  for override, said in (
    ("algo.loss=clpi", "did you mean 'clip'?"),
    ("algo.loss=os.path", "os.path is no function"),
    ("algo.loss=math.sin", "math.sin: TypeError"),
    ("algo.loss=a..b", "cannot import a..b"),
    ("algo.loss=..b", "cannot import ..b"),
    ("algo.advantage=os.environ", "os.environ is no function"),
    ("algo.advantage=json.dumpss", "did you mean 'dumps'?"),
    ("algo.kl=k4", "known: k1, k2, k3"),
    ("algo.correction=math.pi", "math.pi is no function"),
    ("model.init_from=/nowhere", "no such directory"),
    ("mesh.data=7", "does not fit 1 device"),
    ("train.num_minibatches=3", "must divide"),
  ):
    throw(["train", *small.args(override), "--workdir", "never"], said, capfd)


def test_places(small, tmp_path, capfd):
  file = tmp_path / "file"
  file.write_text("mine")
  argv = small.args(method="grpo")
  for place, said in (
    (file, "Not a directory"),
    (file / "deeper", "Not a directory"),
    (tmp_path / ("x" * 300), "File name too long"),
  ):
    throw(["train", *argv, "--workdir", place], said, capfd)
    throw(["evaluate", *argv, "--workdir", place], said, capfd)
    throw(["warmup", *argv, "--output", place], said, capfd)
    throw(["export", "--policy", small.base, "--output", place], said, capfd)
  for place, said in (
    (file, "is neither an HF directory"),
    (file / "deeper", "no such directory"),
    (tmp_path, "is neither an HF directory"),
    (tmp_path / ("x" * 300), "no such directory"),
  ):
    throw(["evaluate", *argv, "--policy", place], said, capfd)
    throw(["sample", *argv, "--policy", place], said, capfd)
    throw(
      ["export", "--policy", place, "--output", tmp_path / "new"], said, capfd
    )
  assert file.read_text() == "mine"


def test_pages(make_run, tmp_path, capfd):
  run, file = make_run(steps=10), tmp_path / "file"
  file.write_text("mine")
  for argv, said in (
    (["report"], "required: --workdir"),
    (["report", "--workdir", tmp_path / "no"], "no such workdir"),
    (["report", "--workdir", file], "no such workdir"),
    (["report", "--workdir", tmp_path], "holds no metrics yet"),
    (["report", "--workdir", run, "--output", file / "x"], "file"),
    (["report", "--workdir", run, "--output", tmp_path], "Is a directory"),
    (["report", run], "required: --workdir"),
    (["compare"], "required: DIR"),
    (["compare", tmp_path / "no"], "no such workdir"),
    (["compare", run, "--labels", "a,b"], "2 names for 1 workdirs"),
    (["compare", run, "--labels", ","], "2 names for 1 workdirs"),
    (["compare", run, "--set", "nope"], "no evaluation set 'nope'"),
    (["compare", run, "--base", tmp_path / "no"], "no such evaluation"),
    (["compare", run, "--base", file], "is not JSON"),
    (["compare", run, "--json", tmp_path], "Is a directory"),
    (["compare", run, "--output", file / "x"], "file"),
  ):
    throw(argv, said, capfd)


def write(path, *rows):
  path.write_text("".join(f"{row}\n" for row in rows))
  return path


def test_tasks(tmp_path, monkeypatch, capfd):
  monkeypatch.syspath_prepend(tmp_path)
  write(tmp_path / "broken_task.py", "1 / 0")
  write(tmp_path / "needy_task.py", "import no_such_library")
  write(tmp_path / "half_task.py", "VERIFIER = 'a:b'", "load = 3")
  write(
    tmp_path / "raising_task.py",
    "VERIFIER = 'a:b'",
    "def load(split, *, data_dir, seed):",
    "  return {}['x']",
  )
  for name, said in (
    ("nope", "no task 'nope'"),
    ("countdwn", "did you mean 'countdown'?"),
    ("", "no task ''"),
    (".", "no task '.'"),
    ("a..b", "no task 'a..b'"),
    ("os.path", "os.path is not a task"),
    ("json.decoder", "is not a task"),
    ("no.such.module", "no task 'no.such.module'"),
    ("progrpo_jax.tasks.base", "is not a task"),
  ):
    for action in ("show", "build"):
      throw(["tasks", action, name], said, capfd)
  for name, said in (
    ("broken_task", "broken_task.py, line 1: ZeroDivisionError"),
    ("needy_task", "No module named 'no_such_library'"),
    ("half_task", "is not a task"),
    ("raising_task", "raising_task.py, line 3: KeyError: 'x'"),
  ):
    package = tmp_path / f"of_{name}"
    package.mkdir()
    (tmp_path / f"{name}.py").rename(package / f"{name}.py")
    throw(["tasks", "build", f"of_{name}.{name}"], said, capfd)
  for argv, said in (
    ([], "required"),
    (["shwo"], "invalid choice: 'shwo'"),
    (["show"], "required: name"),
    (["show", "countdown", "--split", "test"], "no split 'test'"),
    (["show", "countdown", "--option", "x"], "KEY=VALUE"),
    (["show", "countdown", "--option", "min_numbers=[]"], "countdown"),
    (["show", "countdown", "--option", "num_train=0"], "option num_train"),
    (["show", "countdown", "--option", "num_train=1e30"], "num_train"),
    (["show", "countdown", "--template", "x"], "no template 'x'"),
    (["show", "reasoning_gym", "--option", "dataset=3"], "dataset"),
    (["list", "--data_dir", ""], "--data_dir"),
  ):
    throw(["tasks", *argv], said, capfd)


JUDGE = "progrpo_jax.rewards.logic:score"


def test_file(tmp_path, capfd):
  good = write(
    tmp_path / "good.jsonl",
    *(json.dumps({"prompt": f"{i}+1=", "answer": i}) for i in range(20)),
  )
  files = {
    "empty": write(tmp_path / "empty.jsonl"),
    "array": write(tmp_path / "array.jsonl", '[{"prompt": "a"}]'),
    "words": write(tmp_path / "words.jsonl", "hello"),
    "other": write(tmp_path / "other.jsonl", '{"question": "a"}'),
    "typed": write(tmp_path / "typed.jsonl", '{"prompt": 3}'),
    "blank": write(tmp_path / "blank.jsonl", '{"prompt": " "}'),
    "silent": write(tmp_path / "silent.jsonl", '{"prompt": "a"}'),
    "deep": write(tmp_path / "deep.jsonl", "[" * 100_000),
    "single": write(
      tmp_path / "single.jsonl", '{"prompt": "a", "answer": "b"}'
    ),
  }
  (tmp_path / "binary.jsonl").write_bytes(b"\0\xff\n")
  for options, said in (
    ({}, "needs the option 'file'"),
    ({"file": good}, "give either reward_functions or a verifier"),
    ({"file": good, "verifier": "maths"}, "did you mean 'math'?"),
    *(
      ({"file": files[name], "verifier": JUDGE}, words)
      for name, words in (
        ("empty", "holds no rows"),
        ("array", "a list, not an object"),
        ("words", "not JSON"),
        ("other", "no prompt"),
        ("typed", "prompt is an int"),
        ("blank", "prompt is empty"),
        ("silent", "no answer for the verifier"),
        ("deep", "not JSON"),
        ("single", "no rows are left for the split"),
      )
    ),
    ({"file": tmp_path / "binary.jsonl", "verifier": JUDGE}, "not UTF-8"),
    ({"file": tmp_path, "verifier": JUDGE}, "Is a directory"),
    ({"file": tmp_path / "no", "verifier": JUDGE}, "No such file"),
    ({"file": "x" * 5000, "verifier": JUDGE}, "File name too long"),
    ({"file": '"a\\u0000b"', "verifier": JUDGE}, "cannot read"),
    *(
      ({"file": good, "verifier": JUDGE} | odd, next(iter(odd)))
      for odd in (
        {"file": 3},
        {"file": "null"},
        {"file": "[]"},
        {"file": "{}"},
        {"validation_file": 3},
        {"validation_file": tmp_path},
        {"validation_share": 0},
        {"validation_share": "NaN"},
        {"validation_share": "x"},
        {"validation_share": "[0.1]"},
        {"max_bad_share": -1},
        {"max_bad_share": "Infinity"},
        {"max_bad_share": "true"},
        {"verifier_options": "[]"},
        {"verifier_options": 3},
        {"verifer": JUDGE},
        {"shuffle": "true"},
      )
    ),
    *(
      ({"file": good} | odd, next(iter(odd)))
      for odd in (
        {"verifier": 3},
        {"verifier": '["a"]'},
        {"reward_functions": "[3]"},
        {"reward_functions": '{"a": 1}'},
        {"reward_weights": "x", "reward_functions": '["a:b"]'},
        {"reward_weights": "[NaN]", "reward_functions": '["a:b"]'},
        {"reward_weights": '["x"]', "reward_functions": '["a:b"]'},
      )
    ),
  ):
    words = [w for k, v in options.items() for w in ("--option", f"{k}={v}")]
    if "validation_file" in options and options["validation_file"] == tmp_path:
      said = "Is a directory"
    throw(
      ["tasks", "build", "file", "--data_dir", tmp_path / "data", *words],
      said,
      capfd,
    )


def test_quickstart_refuses_before_it_trains(tmp_path):
  output = tmp_path / "out"
  for argv in (
    ["--methods", "grop"],
    ["--seeds", "0"],
    ["--steps=-1"],
    ["--output", ""],
    ["--methods", ""],
  ):
    with pytest.raises(ValueError):
      quickstart.run(["--output", str(output), *argv])
  assert not output.exists()


def test_it_was_a_hundred_and_more():
  assert len(WITH_CONFIG) * (len(BAD_CONFIGS) + len(BAD_KEYS)) > 100
  assert defaults.get_config().algo.beta == 0.0
