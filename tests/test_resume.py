"""A run that was killed anywhere goes on as if it had not been.

One run is copied in the middle of its stages: what a kill at that moment
would have left on the disk. Each copy is then trained to its end.
"""

import json
import os
import shutil
import signal
import subprocess
import sys

from etils import epath
import pytest

from progrpo_jax import errors, loop, main
from progrpo_jax.build import stages
from progrpo_jax.evaluators import held_out
from progrpo_jax.learn import improve, prepare
from progrpo_jax.rollout import collect as collect_lib
from progrpo_jax.rollout import decoding, sampler, verify
from progrpo_jax.storage import checkpoint, log, metrics


@pytest.fixture(scope="module")
def unbroken(small, tmp_path_factory):
  """(workdir, its copies by name)."""
  folder = tmp_path_factory.mktemp("unbroken")
  workdir, copies, calls = folder / "run", {}, {}

  def copy(name):
    calls[name] = calls.get(name, 0) + 1
    place = folder / f"{name}-{calls[name]}"
    shutil.copytree(workdir, place)
    copies[place.name] = place

  def before(module, function, name):
    original = getattr(module, function)

    def call(*args, **kwargs):
      copy(name)
      return original(*args, **kwargs)

    patch.setattr(module, function, call)

  def half_a_line(path, record):
    line = metrics.dumps(record)
    with open(path, "a") as file:
      file.write(line[: len(line) // 2])
    copy("line")
    with open(path, "a") as file:
      file.write(line[len(line) // 2 :] + "\n")

  replace = os.replace

  def replaced(old, new):
    if str(new).endswith(".jsonl"):
      copy("file")
    replace(old, new)

  with pytest.MonkeyPatch.context() as patch:
    before(sampler, "batches", "sample")
    before(verify, "verify", "verify")
    before(prepare.Prepare, "__call__", "score")
    before(improve.Improve, "__call__", "update")
    before(log.Log, "__call__", "log")
    before(checkpoint.Checkpointer, "save", "save")
    before(checkpoint.Checkpointer, "_seal", "commit")
    before(checkpoint.Checkpointer, "load_reference", "reference")
    patch.setattr(metrics, "_append", half_a_line)
    patch.setattr(metrics.os, "replace", replaced)
    code, view = small.train(workdir)
  assert code == loop.DONE
  return workdir, copies, view


def test_unbroken_run_has_what_is_hard_to_resume(unbroken, recorded):
  workdir, copies, view = unbroken
  rows = recorded(workdir)["metrics.jsonl"]
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  assert [row["ref_reset/reset"] for row in rows] == [0, 1, 0, 1]
  assert [row["ref_reset/ref_step"] for row in rows] == [0, 2, 2, 4]
  assert [row["ref_reset/steps_since"] for row in rows] == [1, 0, 1, 0]
  carried = [
    (copies[name] / "checkpoints").glob("*/data")
    for name in copies
    if name.startswith("update")
  ]
  assert any(list(found) for found in carried)
  assert any(row["dynamic_sampling/rounds"] > 1 for row in rows)
  assert [step for step, _ in view.evals] == [0, 2, 4]


def test_kl_is_zero_right_after_each_reset_and_not_before(unbroken, recorded):
  rows = recorded(unbroken[0])["metrics.jsonl"]
  assert [row["kl"] == 0 for row in rows] == [True, False] * 2


def _content(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def _moments(copies):
  """Names of copies, one of each kind, no two with the same files.

  Of the updates those of steps 2 and 3: the reference is the first one, and
  one that was reset.
  """
  kinds = {}
  for name in copies:
    kinds.setdefault(name.partition("-")[0], []).append(name)
  assert len(kinds) == 10
  names = kinds["update"][1:3] + [
    found[len(found) // 2]
    for kind, found in kinds.items()
    if kind not in ("update", "verify", "save")
  ]
  seen = []
  for name in names:
    content = _content(copies[name])
    if content not in seen:
      seen.append(content)
      yield name


def test_killed_anywhere_it_ends_alike(small, unbroken, recorded):
  workdir, copies, _ = unbroken
  expected = recorded(workdir)
  for name in _moments(copies):
    assert small.train(copies[name])[0] == loop.DONE
    found = recorded(copies[name])
    assert [k for k in expected if found.get(k) != expected[k]] == [], name
    assert found.keys() == expected.keys(), name


def test_stopped_it_saves_and_goes_on_alike(
  small, unbroken, recorded, tmp_path, monkeypatch, capsys
):
  expected = recorded(unbroken[0])
  # Only resets and the end are saved by themselves here.
  argv = [
    "train",
    *small.args("checkpoint.every=1000"),
    "--workdir",
    str(tmp_path),
  ]
  # Two batches of problems are sampled before the first step.
  for module, name, number, which in (
    (sampler, "batches", signal.SIGTERM, 3),
    (improve.Improve, "__call__", signal.SIGINT, 1),
  ):
    original, calls = getattr(module, name), []

    def call(*args, original=original, calls=calls, number=number, which=which):
      calls.append(1)
      if len(calls) == which:
        os.kill(os.getpid(), number)
      return original(*args)

    with monkeypatch.context() as patch:
      patch.setattr(module, name, call)
      assert main.main(argv) == loop.PREEMPTED == 75
    steps = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert steps[-1] == ("0" if name == "batches" else "1")
  assert "SIGTERM: saving, then stopping" in capsys.readouterr().out
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
  assert main.main(argv) == 0
  found = recorded(tmp_path)
  assert [k for k in expected if found.get(k) != expected[k]] == ["steps"]


def test_without_the_base_it_began_with_it_goes_on_alike(
  small, unbroken, recorded, tmp_path
):
  expected = recorded(unbroken[0])
  base, workdir = tmp_path / "base", tmp_path / "run"
  shutil.copytree(small.base, base)
  begins_at = f"model.init_from={base}"
  assert small.train(workdir, begins_at, "train.total_steps=2")[0] == loop.DONE
  shutil.rmtree(base)
  assert small.train(workdir, begins_at)[0] == loop.DONE
  found = recorded(workdir)
  assert [k for k in expected if found.get(k) != expected[k]] == []


def test_a_run_whose_tokenizer_is_damaged_reads_its_base(
  small, unbroken, tmp_path
):
  workdir = epath.Path(tmp_path / "run")
  shutil.copytree(unbroken[0], workdir)
  c, file = small.config(), workdir / "model" / "tokenizer.model"
  assert stages.own_policy(c, workdir).params is None
  whole = file.read_bytes()
  for content in (whole[:20], b""):
    file.write_bytes(content)
    with pytest.raises(errors.InputError, match="sentencepiece model"):
      stages.own_policy(c, workdir)
  code, view = small.train(workdir)
  assert code == loop.DONE
  assert any("config.model.init_from says what" in m for m in view.messages)
  assert file.read_bytes() == whole
  file.write_bytes(b"")
  lost = f"model.init_from={tmp_path / 'nothing'}"
  with pytest.raises(errors.InputError, match="nothing'?: no such directory"):
    small.train(workdir, lost)


def test_a_model_that_was_tampered_with_is_not_trained_on(
  small, unbroken, tmp_path
):
  """Shapes do not tell another base of the rotary frequencies."""
  workdir = epath.Path(tmp_path / "run")
  shutil.copytree(unbroken[0], workdir)
  file = workdir / "model" / "config.json"
  described = json.loads(file.read_text())
  file.write_text(json.dumps(described | {"rope_theta": 5e5}))
  with pytest.raises(errors.InputError, match="not known to hold the model"):
    stages.own_policy(small.config(), workdir)
  with pytest.raises(errors.InputError, match="a run of another model"):
    small.train(workdir, "train.total_steps=5")


def test_with_override_the_base_is_read_where_there_is_one(
  small, tmp_path, monkeypatch
):
  """Its tokenizer, say, may have been mended since."""
  base, workdir = tmp_path / "base", tmp_path / "run"
  shutil.copytree(small.base, base)
  keys = [f"model.init_from={base}", "train.total_steps=1"]
  assert small.train(workdir, *keys)[0] == loop.DONE
  read = []
  load_policy = stages.load_policy
  monkeypatch.setattr(
    stages, "load_policy", lambda *args: read.append(1) or load_policy(*args)
  )
  c = small.config(*keys, "algo.beta=0.5")
  with pytest.raises(errors.InputError, match="algo.beta: .*--override"):
    loop.train(c, workdir, small.view())
  assert not read
  for is_there in (True, False):
    if not is_there:
      shutil.rmtree(base)
    assert loop.train(c, workdir, small.view(), override=True) == loop.DONE
    assert len(read) == 1


@pytest.mark.parametrize(
  ("key", "steps"), [("eval.num_problems=3", [4]), ("eval.every=4", [0, 2, 4])]
)
def test_evaluations_that_measure_something_else_are_not_compared(
  small, tmp_path, key, steps
):
  assert small.train(tmp_path, "train.total_steps=2")[0] == loop.DONE
  assert small.train(tmp_path, key)[0] == loop.DONE
  meta = checkpoint.newest_meta(tmp_path / "checkpoints")
  assert [row["step"] for row in meta["evals"]] == steps
  assert all(step in steps for step, _ in meta["scores"])


def test_an_entry_is_appended_for_what_is_still_to_come(
  small, recorded, tmp_path
):
  """What an entry sets holds from its step on, also where nothing crashes."""
  workdir, groups = tmp_path / "run", {"algo.num_generations": 8}

  def train(step, **options):
    entries = [{"at_step": step, "set": groups}]
    c = small.config("train.total_steps=4", f"schedule={entries!r}")
    return loop.train(c, workdir, small.view(), **options)

  assert small.train(workdir, "train.total_steps=2")[0] == loop.DONE
  before = recorded(workdir)
  with pytest.raises(errors.InputError, match="begins after step 2"):
    train(2)
  assert recorded(workdir) == before
  # Who insists goes on without the groups that were carried over.
  assert train(2, override=True) == loop.DONE
  assert recorded(workdir)["steps"][-1] == 4


def test_stopped_between_two_calls_of_decoding_it_ends_alike(
  small, recorded, tmp_path, monkeypatch
):
  """No call comes after the signal, and the rollout begun is drawn again."""
  options = (
    "train.total_steps=3",
    "eval.every=0",
    "checkpoint.every=1000",
    "sampling.max_new_tokens=48",
    "sampling.temperature=50",  # nearly any token, so that few end a response
  )
  unbroken, stopped = tmp_path / "unbroken", tmp_path / "stopped"
  assert small.train(unbroken, *options, method="grpo")[0] == loop.DONE
  argv = ["train", *small.args(*options, method="grpo"), "--workdir"]
  run, collect, calls = decoding.run, collect_lib.Collect.__call__, []

  def begun(*args):
    calls.append(0)  # of the step
    return collect(*args)

  def one(*args):
    calls[-1] += 1
    if calls[1:] == [1]:  # the first call of the second step
      os.kill(os.getpid(), signal.SIGTERM)
    return run(*args)

  with monkeypatch.context() as patch:
    patch.setattr(sampler, "CALL_S", 0.0)  # one chunk a call
    patch.setattr(decoding, "run", one)
    patch.setattr(collect_lib.Collect, "__call__", begun)
    assert main.main([*argv, str(stopped)]) == loop.PREEMPTED
  # 47 tokens after the first, in chunks of 4.
  assert calls == [12, 1]
  assert _kept(stopped) == [0, 1]
  assert main.main([*argv, str(stopped)]) == loop.DONE
  expected, found = recorded(unbroken), recorded(stopped)
  assert [k for k in expected if found.get(k) != expected[k]] == ["steps"]
  assert found["steps"] == [0, 1, 3]


def _stop_in_evaluation(monkeypatch, at, argv):
  """Runs the command until it is stopped in the second batch of problems.

  Args:
    monkeypatch: undone before it returns.
    at: number of the evaluation, from 0.
    argv: command line.
  """
  calls, begun = [], []
  sample, sample_batch = (
    held_out.HeldOut.sample,
    held_out.HeldOut._sample_batch,
  )

  def begin(*args, **kwargs):
    begun.append(1)
    return sample(*args, **kwargs)

  def batch(*args):
    if len(begun) == at + 1:
      calls.append(1)
      if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return sample_batch(*args)

  with monkeypatch.context() as patch:
    patch.setattr(held_out.HeldOut, "sample", begin)
    patch.setattr(held_out.HeldOut, "_sample_batch", batch)
    assert main.main(argv) == loop.PREEMPTED
  # Of six batches the one in which the signal came is the last.
  assert len(begun) == at + 1 and len(calls) == 2


def _evaluated(workdir):
  path = workdir / "eval.jsonl"
  rows = path.read_text().splitlines() if path.exists() else []
  return [json.loads(row)["step"] for row in rows]


def _kept(workdir):
  folder = workdir / "checkpoints"
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def test_stopped_in_each_evaluation_it_ends_alike(
  small, recorded, tmp_path, monkeypatch, capsys
):
  """At the start, at a step that resets the reference, and at the last one."""
  argv = [
    "train",
    *small.args("checkpoint.every=1000", "eval.batch_prompts=1"),
    "--workdir",
    str(tmp_path),
  ]
  unbroken = tmp_path.with_name(f"{tmp_path.name}-unbroken")
  assert main.main([*argv[:-1], str(unbroken)]) == loop.DONE
  for at, evaluated, kept in (
    (0, [], []),
    (1, [0], [0, 2]),
    (1, [0, 2], [0, 2, 4]),
  ):
    _stop_in_evaluation(monkeypatch, at, argv)
    # At the start there is nothing to go on from, and that is said.
    said = capsys.readouterr().out
    assert ("a step was saved: the run begins anew" in said) == (kept == [])
    assert (_evaluated(tmp_path), _kept(tmp_path)) == (evaluated, kept)
    rows = recorded(tmp_path)["metrics.jsonl"] if kept else []
    assert [row["step"] for row in rows] == list(range(1, max(kept or [1])))
  # Killed after the evaluation is written and before the step is saved.
  copy = tmp_path.with_name(f"{tmp_path.name}-killed")
  save = checkpoint.Checkpointer.save

  def killed(self, step, *args):
    shutil.copytree(tmp_path, copy)
    save(self, step, *args)

  monkeypatch.setattr(checkpoint.Checkpointer, "save", killed)
  assert main.main(argv) == loop.DONE
  monkeypatch.undo()
  assert _evaluated(copy) == [0, 2, 4] and _kept(copy) == [0, 2, 4]
  assert main.main([*argv[:-1], str(copy)]) == loop.DONE
  expected = recorded(unbroken)
  for workdir in (tmp_path, copy):
    found = recorded(workdir)
    # Other steps are kept than without the stops.
    different = {k for k in expected if found.get(k) != expected[k]}
    assert different <= {"steps"}
    assert found.keys() == expected.keys() and _kept(workdir) == [2, 4]


def test_stopped_in_an_evaluation_of_a_step_that_is_not_saved(
  small, recorded, tmp_path, monkeypatch
):
  """The step stays unfinished on the disk until a later one is saved."""
  options = (
    "train.total_steps=3",
    "eval.every=1",
    "eval.at_start=False",
    "eval.batch_prompts=1",
    "checkpoint.every=1000",
  )
  unbroken, stopped = tmp_path / "unbroken", tmp_path / "stopped"
  assert small.train(unbroken, *options, method="grpo")[0] == loop.DONE
  argv = ["train", *small.args(*options, method="grpo"), "--workdir"]
  argv.append(str(stopped))
  _stop_in_evaluation(monkeypatch, 0, argv)
  assert (_evaluated(stopped), _kept(stopped)) == ([], [0, 1])
  # Stopped again once the evaluation is done: the step is saved whole.
  records = held_out.HeldOut.records

  def stop(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return records(*args)

  with monkeypatch.context() as patch:
    patch.setattr(held_out.HeldOut, "records", stop)
    assert main.main(argv) == loop.PREEMPTED
  assert (_evaluated(stopped), _kept(stopped)) == ([1], [0, 1])
  keeper = checkpoint.Checkpointer(stopped / "checkpoints", read_only=True)
  assert keeper.unfinished == set()
  _stop_in_evaluation(monkeypatch, 0, argv)
  assert (_evaluated(stopped), _kept(stopped)) == ([1], [0, 1, 2])
  assert main.main(argv) == loop.DONE
  expected, found = recorded(unbroken), recorded(stopped)
  assert [k for k in expected if found.get(k) != expected[k]] == ["steps"]
  assert _evaluated(stopped) == [1, 2, 3]


SECOND = """
import sys, time
from progrpo_jax import main
from progrpo_jax.learn.improve import Improve
improve, calls = Improve.__call__, []

def slow(*args):
  calls.append(1)
  if len(calls) == 3:
    print("in step 3", flush=True)
    time.sleep(100)
  return improve(*args)

Improve.__call__ = slow
sys.exit(main.main(sys.argv[1:]))
"""


def test_second_signal_stops_at_once(small, unbroken, recorded, tmp_path):
  child = subprocess.Popen(
    [
      sys.executable,
      "-c",
      SECOND,
      "train",
      *small.args(),
      "--workdir",
      str(tmp_path),
    ],
    stdout=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONHASHSEED": "0"},
  )
  seen = []
  for line in child.stdout:
    seen.append(line)
    if "in step 3" in line:
      child.send_signal(signal.SIGTERM)
    if "once more stops at once" in line:
      break
  child.send_signal(signal.SIGTERM)
  # It waits for nothing: a run that saved itself would end with PREEMPTED.
  assert child.wait(timeout=60) == -signal.SIGTERM, seen
  child.stdout.close()
  assert small.train(tmp_path)[0] == loop.DONE
  assert recorded(tmp_path) == recorded(unbroken[0])
