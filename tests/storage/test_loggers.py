"""Loggers, with modules that stand in for the packages."""

import hashlib
import json
import shutil
import sys
import types

import pytest

from progrpo_jax import errors
from progrpo_jax.build import functions, stages
from progrpo_jax.settings import defaults
from progrpo_jax.storage import metrics


class _NoLogin(Exception):
  """Stands in for wandb.errors.UsageError."""


class _Package:
  """Stands in for wandb or trackio, and keeps what it is told."""

  def __init__(self):
    self.calls = []
    self.errors = types.SimpleNamespace(UsageError=_NoLogin)
    self.failure = None
    self.Table = lambda columns, data: (columns, data)

  def login(self, verify):
    self.calls.append("login")
    if self.failure:
      raise self.failure

  def init(self, **options):
    self.calls.append(options)
    if self.failure:
      raise self.failure
    return types.SimpleNamespace(
      log=lambda values, step: self.calls.append((step, values)),
      finish=lambda: self.calls.append("finish"),
    )


def _start(name, workdir, resume_step):
  metrics.MetricWriter(
    workdir, tensorboard=False, resume_step=resume_step, **{name: True}
  ).close()


_RECORD = {
  "step": 2,
  "task": "sums",
  "prompt": "1+1=",
  "completions": [
    {"text": "2", "reward": 1.0, "correct": True, "advantage": 0.7},
    {"text": "3", "reward": 0.0, "correct": False, "length": 1},
  ],
}
_TABLE = (
  [
    "step",
    "task",
    "prompt",
    "completion",
    "reward",
    "correct",
    "advantage",
    "length",
  ],
  [
    [2, "sums", "1+1=", "2", 1.0, True, 0.7, None],
    [2, "sums", "1+1=", "3", 0.0, False, None, 1],
  ],
)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_package_is_named_with_the_command(
  tmp_path, monkeypatch, name
):
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(
    errors.InputError,
    match=rf"pip install 'progrpo_jax\[{name}\]'.*log\.{name}",
  ):
    metrics.MetricWriter(tmp_path, tensorboard=False, **{name: True})


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_config_numbers_and_completions(
  tmp_path, monkeypatch, name
):
  package = _Package()
  monkeypatch.setitem(sys.modules, name, package)
  # Of the run of before, which goes on with another seed.
  (tmp_path / "config.json").write_text('{"seed": 2}')
  with metrics.MetricWriter(
    tmp_path, tensorboard=False, config={"seed": 3}, **{name: True}
  ) as writer:
    writer.write_rollouts(2, [_RECORD])
    writer.write(2, {"reward": 1.0, "kl": float("nan"), "reason": "words"})
    writer.write_eval(2, {"eval/sums/pass@1": 0.5})
  started, *calls = package.calls
  assert started["config"] == {"seed": 3}
  assert started["project"] == "progrpo_jax"
  assert started["resume"] == "allow"
  assert calls == [
    (2, {"completions": _TABLE}),
    (2, {"reward": 1.0}),
    (2, {"eval/sums/pass@1": 0.5}),
    "finish",
  ]


@pytest.mark.parametrize(
  ("name", "key"), [("wandb", "id"), ("trackio", "name")]
)
def test_a_workdir_finds_its_run_again(tmp_path, monkeypatch, name, key):
  package = _Package()
  monkeypatch.setitem(sys.modules, name, package)
  _start(name, tmp_path / "a/run", None)
  _start(name, tmp_path / "a/run", -1)  # killed before its first checkpoint
  _start(name, tmp_path / "a/run", 4)
  _start(name, tmp_path / "b/run", -1)
  first, *again, other = (c[key] for c in package.calls if c != "finish")
  assert again == [first, first] and other != first


@pytest.mark.parametrize(
  ("name", "key"), [("wandb", "id"), ("trackio", "name")]
)
def test_a_workdir_that_begins_anew_is_another_run(
  tmp_path, monkeypatch, name, key
):
  """As is another machine's workdir of the same path."""
  package = _Package()
  monkeypatch.setitem(sys.modules, name, package)
  for _ in range(2):
    _start(name, tmp_path / "run", -1)
    shutil.rmtree(tmp_path / "run")
  first, second = (c[key] for c in package.calls if c != "finish")
  assert first != second


@pytest.mark.parametrize("logged", [True, False])
def test_a_run_without_an_id_keeps_its_old_one(tmp_path, monkeypatch, logged):
  """The path's digest, if it logged; else none of its steps is anywhere."""
  package = _Package()
  monkeypatch.setitem(sys.modules, "wandb", package)
  config = {"log": {"wandb": logged}}
  (tmp_path / "config.json").write_text(json.dumps(config))
  digest = hashlib.sha256(str(tmp_path.resolve()).encode()).hexdigest()[:16]
  _start("wandb", tmp_path, 4)
  _start("wandb", tmp_path, 5)
  first, again = (c["id"] for c in package.calls if c != "finish")
  assert first == again and (first == digest) == logged


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_does_not_start_costs_copies_alone(
  tmp_path, monkeypatch, capsys, name
):
  package = _Package()
  package.failure = OSError("no route\nto host")
  monkeypatch.setitem(sys.modules, name, package)
  with metrics.MetricWriter(
    tmp_path, tensorboard=False, **{name: True}
  ) as writer:
    writer.write_rollouts(2, [_RECORD])
    writer.write(2, {"reward": 1.0})
    writer.write(3, {"reward": 2.0})
  assert capsys.readouterr().err.splitlines() == [
    f"logger {name}: did not start, and gets nothing (no route to host); the "
    "run goes on, and its own files have everything"
  ]
  assert [row["reward"] for row in metrics.load(tmp_path).metrics] == [1.0, 2.0]


def test_what_a_tracker_needs_is_asked_before_anything_is_loaded(monkeypatch):
  c = defaults.get_config()
  c.log.wandb = True
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(errors.InputError, match="wandb is not installed"):
    stages.check_trackers(c)
  package = _Package()
  monkeypatch.setitem(sys.modules, "wandb", package)
  stages.check_trackers(c)
  assert package.calls == ["login"]
  package.failure = _NoLogin("No API key configured.")
  with pytest.raises(errors.InputError, match="No API key.*`wandb login`"):
    stages.check_trackers(c)
  package.failure = OSError("no route")  # the start will say so
  stages.check_trackers(c)


MINE = """
calls = []

class Logger:
  def __init__(self, workdir):
    self.workdir = workdir

  def log(self, step, numbers):
    calls.append((self.workdir.name, step, numbers))

class Full(Logger):
  def table(self, step, name, columns, rows):
    calls.append((step, name, columns, rows))

  def close(self):
    calls.append("closed")

class Broken(Logger):
  def log(self, step, numbers):
    raise OSError("no\\nroute")

def nothing(workdir):
  return 7

def fails(workdir):
  raise KeyError("token")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A function from a name to what the writer takes; the user's module."""
  (tmp_path / "my_loggers.py").write_text(MINE)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "my_loggers", raising=False)

  def make(name):
    c = defaults.get_config()
    c.log.logger = f"my_loggers.{name}"
    return functions.make_logger(c)

  return make


def _run(workdir, logger):
  with metrics.MetricWriter(
    workdir, tensorboard=False, logger=logger
  ) as writer:
    writer.write_rollouts(2, [_RECORD])
    writer.write(2, {"reward": 1.0})
    writer.write(3, {"reward": 2.0})


def test_a_users_logger_gets_what_it_has_methods_for(tmp_path, mine):
  _run(tmp_path / "run", mine("Logger"))
  calls = sys.modules["my_loggers"].calls
  assert calls == [("run", 2, {"reward": 1.0}), ("run", 3, {"reward": 2.0})]
  calls.clear()
  _run(tmp_path / "run2", mine("Full"))
  assert calls[0] == (2, "completions", *_TABLE)
  assert calls[-1] == "closed" and len(calls) == 4


def test_a_logger_that_fails_costs_no_line_of_the_record(
  tmp_path, mine, capsys
):
  _run(tmp_path, mine("Broken"))
  said = capsys.readouterr().err.splitlines()
  assert said[0].startswith(
    "logger my_loggers.Broken: step 2 was not logged (no route); the run goes"
  )
  assert said[1:] == ["logger my_loggers.Broken: failed 2 times in all"]
  assert [row["reward"] for row in metrics.load(tmp_path).metrics] == [1.0, 2.0]


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("nothing", "log.logger = 'my_loggers.nothing' returned int, which has no"),
    ("fails", "log.logger = 'my_loggers.fails'.*KeyError: 'token'"),
    ("absent", "cannot import my_loggers.absent"),
  ],
)
def test_a_users_logger_that_cannot_be_made_is_named(
  tmp_path, mine, name, words
):
  with pytest.raises(errors.InputError, match=words):
    _run(tmp_path / "run", mine(name))


def test_a_name_is_no_import_path():
  c = defaults.get_config()
  assert functions.make_logger(c) is None
  c.log.logger = "mlflow"
  with pytest.raises(errors.InputError, match="'mlflow' is no import path"):
    functions.make_logger(c)
