"""The writer's files after kills and resumes, and what the reader refuses."""

import errno
import json

from etils import epath
import jax.numpy as jnp
import numpy as np
import pytest
import tensorboardX
from tensorboardX.proto import event_pb2

from progrpo_jax import errors, run
from progrpo_jax.storage import lines, metrics


def _write(workdir, steps, resume_step=None):
  """Writes what a run of these steps writes; evaluation every second step."""
  with metrics.MetricWriter(
    workdir, tensorboard=False, resume_step=resume_step
  ) as writer:
    for step in steps:
      writer.write(step, {"reward": step / 7, "num_tokens": 10 * step})
      writer.write_rollouts(step, [{"step": step, "completions": []}])
      if step % 2 == 0:
        writer.write_eval(step, {"eval/a/pass@1": step / 100})
        writer.write_eval_samples(step, [{"step": step, "set": "a"}])


def _contents(workdir):
  files = (path for path in workdir.rglob("*") if path.is_file())
  return {str(path.relative_to(workdir)): path.read_bytes() for path in files}


def test_values_of_numpy_and_jax_become_plain_json(tmp_path):
  with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(
      np.int64(3),
      {
        "a": jnp.float32(0.5),
        "b": np.int32(4),
        "c": jnp.ones((1, 1), jnp.bfloat16),
        "d": float("nan"),
        "e": np.float32("inf"),
        "f": True,
      },
    )
  line = (tmp_path / "metrics.jsonl").read_text()
  assert json.loads(line) == {
    "step": 3,
    "a": 0.5,
    "b": 4,
    "c": 1.0,
    "d": None,
    "e": None,
    "f": True,
  }
  assert line.endswith("\n")


def test_a_metric_with_a_shape_is_refused_by_name(tmp_path):
  with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
    with pytest.raises(ValueError, match="'reward' must be one number"):
      writer.write(1, {"reward": np.zeros(3)})
    with pytest.raises(ValueError, match="'reward' must be one number"):
      writer.write(1, {"reward": {"mean": 1.0}})


@pytest.mark.parametrize("local", [True, False])
def test_a_resumed_run_has_the_files_of_the_unbroken_one(
  bucket, monkeypatch, local
):
  monkeypatch.setattr(lines, "PART_STEPS", 3)
  place = epath.Path(bucket if local else "gs://bucket")
  _write(place / "unbroken", range(1, 9))
  _write(place / "resumed", range(1, 7))
  _write(place / "resumed", range(5, 9), resume_step=4)
  unbroken = _contents(bucket / "unbroken")
  assert _contents(bucket / "resumed") == unbroken
  records = {
    name
    for name in unbroken
    if name.count("/") == 0 or (name.startswith(("metrics/", "eval/")))
  }
  assert records == (
    {"metrics.jsonl", "eval.jsonl"}
    if local
    else {
      f"{name}/{part:06d}.jsonl"
      for name in ("metrics", "eval")
      for part in (0, 3, 6)
    }
  )
  assert len(unbroken) == len(records) + 8 + 4


@pytest.mark.parametrize("zeros", [b"\0" * 100, b"\0" * 9 + b"\n" + b"\0" * 9])
def test_what_a_power_cut_left_is_computed_again(tmp_path, zeros):
  _write(tmp_path / "unbroken", range(1, 9))
  _write(tmp_path / "resumed", range(1, 7))
  file = tmp_path / "resumed" / metrics.METRICS
  file.write_bytes(file.read_bytes() + zeros)
  _write(tmp_path / "resumed", range(5, 9), resume_step=4)
  assert _contents(tmp_path / "resumed") == _contents(tmp_path / "unbroken")
  # What stands before a readable line is damage.
  file.write_bytes(zeros + b"\n" + file.read_bytes())
  with pytest.raises(errors.InputError, match="line 1 is not JSON"):
    _write(tmp_path / "resumed", [9], resume_step=8)


def test_a_record_in_parts_is_read_as_one_file_is(
  tmp_path, bucket, monkeypatch
):
  """Also that of a run which began on a disk and went on in a bucket."""
  monkeypatch.setattr(lines, "PART_STEPS", 3)
  _write(tmp_path / "whole", range(1, 13))
  _write(tmp_path / "moved", range(1, 7))
  (tmp_path / "moved").rename(bucket / "moved")
  place = epath.Path("gs://bucket")
  _write(place / "parts", range(1, 13))
  # Cut in the old file, and once more in the parts.
  _write(place / "moved", range(6, 12), resume_step=5)
  _write(place / "moved", range(11, 13), resume_step=10)
  _write(place / "parts", [], resume_step=12)
  whole = metrics.load(tmp_path / "whole")
  assert [row["step"] for row in whole.metrics] == list(range(1, 13))
  for name in ("parts", "moved"):
    read = metrics.load(place / name)
    assert (read.metrics, read.evals) == (whole.metrics, whole.evals)
    assert run.load_run(place / name).metrics()["reward"].tolist() == [
      row["reward"] for row in whole.metrics
    ]
  assert not (bucket / "parts/metrics.jsonl").exists()
  assert sorted(p.name for p in (bucket / "moved/metrics").iterdir()) == [
    "000006.jsonl",
    "000009.jsonl",
    "000012.jsonl",
  ]
  (bucket / "parts/metrics/000003.jsonl").write_text("{}\n")
  with pytest.raises(errors.InputError, match="000003.jsonl, line 1 is with"):
    metrics.load(place / "parts")
  # Over again.
  _write(place / "moved", [1], resume_step=-1)
  assert [row["step"] for row in metrics.load(place / "moved").metrics] == [1]


def test_the_evaluation_at_the_resumed_step_stays(tmp_path):
  _write(tmp_path, range(1, 7))
  metrics.MetricWriter(tmp_path, tensorboard=False, resume_step=4)
  record = metrics.load(tmp_path)
  assert [row["step"] for row in record.evals] == [2, 4]
  assert [row["step"] for row in record.metrics] == [1, 2, 3, 4]
  assert record.rollout_steps() == [1, 2, 3, 4]
  assert record.eval_sample_steps() == [2, 4]


@pytest.mark.parametrize("cut", [1, 5, 17])
def test_a_line_torn_by_a_kill_is_dropped(tmp_path, cut):
  _write(tmp_path / "whole", range(1, 5))
  _write(tmp_path / "torn", range(1, 6))
  for name in ("metrics.jsonl", "eval.jsonl"):
    path = tmp_path / "torn" / name
    path.write_bytes(path.read_bytes()[:-cut])
  # Read while it lies there torn, then resumed.
  steps = [row["step"] for row in metrics.load(tmp_path / "torn").metrics]
  assert steps == ([1, 2, 3, 4, 5] if cut == 1 else [1, 2, 3, 4])
  _write(tmp_path / "torn", [4], resume_step=3)
  assert (
    _contents(tmp_path / "torn").keys() - {"rollouts/000005.jsonl"}
    == _contents(tmp_path / "whole").keys()
  )
  assert (tmp_path / "torn/metrics.jsonl").read_bytes() == (
    tmp_path / "whole/metrics.jsonl"
  ).read_bytes()


def test_without_a_resume_step_a_torn_line_does_not_spoil_the_next(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 1}\n{"st')
  _write(tmp_path, [2])
  assert [row["step"] for row in metrics.load(tmp_path).metrics] == [1, 2]


def test_minus_one_starts_over_and_leftovers_of_a_kill_go(tmp_path):
  _write(tmp_path, range(0, 4))
  (tmp_path / "rollouts" / ".000002.jsonl.7.part").write_text("{")
  (tmp_path / "rollouts" / "notes.txt").write_text("mine")
  metrics.MetricWriter(tmp_path, tensorboard=False, resume_step=-1)
  left = _contents(tmp_path)
  assert left == {
    "metrics.jsonl": b"",
    "eval.jsonl": b"",
    "rollouts/notes.txt": b"mine",
  }


def test_samples_of_a_set_written_again_replace_the_old_ones(tmp_path):
  writer = metrics.MetricWriter(tmp_path, tensorboard=False)
  writer.write_eval_samples(5, [{"set": "a", "n": 1}])
  writer.write_eval_samples(5, [{"set": "b", "n": 2}])
  writer.write_eval_samples(5, [{"set": "a", "n": 3}])
  rows = metrics.load(tmp_path, require_metrics=False).eval_samples(5)
  assert rows == [{"set": "b", "n": 2}, {"set": "a", "n": 3}]


def test_any_text_of_a_model_survives_the_file(tmp_path, hostile):
  writer = metrics.MetricWriter(tmp_path, tensorboard=False)
  writer.write_rollouts(1, [{"completions": [{"text": hostile}]}])
  record = metrics.load(tmp_path, require_metrics=False)
  assert record.rollouts(1)[0]["completions"][0]["text"] == hostile


def test_tensorboard_mirrors_the_numbers(tmp_path):
  with metrics.MetricWriter(tmp_path) as writer:
    writer.write(7, {"reward": 0.25, "kl": float("nan")})
  (path,) = (tmp_path / "tb").iterdir()
  data, at, found = path.read_bytes(), 0, []
  while at < len(data):  # TFRecord: length, its checksum, data, its checksum
    size = int.from_bytes(data[at : at + 8], "little")
    event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
    found += [
      (event.step, value.tag, value.simple_value)
      for value in event.summary.value
    ]
    at += size + 16
  assert found == [(7, "reward", 0.25)]


def test_a_run_outlives_its_tensorboard(tmp_path, monkeypatch, capsys):
  calls = []

  def flush(self):
    calls.append(self)
    raise OSError(errno.EIO, "Input/output error")

  with metrics.MetricWriter(tmp_path) as writer:
    monkeypatch.setattr(tensorboardX.SummaryWriter, "flush", flush)
    for step in (1, 2):
      writer.write(step, {"reward": 0.25})
  assert [row["step"] for row in metrics.load(tmp_path).metrics] == [1, 2]
  said = capsys.readouterr().err
  assert "logger tensorboard: step 1 was not logged (" in said
  # A writer that failed is asked nothing more: it might never answer.
  assert len(calls) == 1


def test_load_names_what_is_wrong(tmp_path):
  with pytest.raises(errors.InputError, match="no such workdir: .*absent"):
    metrics.load(tmp_path / "absent")
  with pytest.raises(errors.InputError, match="holds no metrics yet"):
    metrics.load(tmp_path)
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n{"step": 2\n{"step": 3}\n')
  with pytest.raises(errors.InputError, match=r"metrics.jsonl, line 2 is not"):
    metrics.load(tmp_path)
  path.write_text("[1]\n")
  with pytest.raises(errors.InputError, match="line 1 is not a JSON object"):
    metrics.load(tmp_path)
  path.write_text('{"reward": 1}\n')
  with pytest.raises(errors.InputError, match="without a step"):
    metrics.load(tmp_path)


def test_lines_of_one_step_are_merged(tmp_path):
  (tmp_path / "eval.jsonl").write_text(
    '{"step": 4, "x": 1}\n{"step": 2, "x": 5}\n{"step": 4, "y": 2, "x": 3}\n'
  )
  record = metrics.load(tmp_path, require_metrics=False)
  assert record.evals == [{"step": 2, "x": 5}, {"step": 4, "x": 3, "y": 2}]


def test_series_leaves_out_absent_and_null():
  rows = [{"step": 1, "a": 2.0}, {"step": 2, "a": None}, {"step": 3}]
  steps, values = metrics.series(rows, "a")
  assert steps.tolist() == [1]
  assert values.tolist() == [2.0]
  assert metrics.series([], "a")[0].shape == (0,)


def test_what_a_disk_has_lost_is_said_by_step(tmp_path):
  _write(tmp_path, range(1, 13))
  assert metrics.lost(tmp_path, 12) == [] == metrics.lost(tmp_path, -1)
  for name, kept in (("metrics.jsonl", 5), ("eval.jsonl", 5)):
    path = tmp_path / name
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[:kept]))
  metric, evaluation = metrics.lost(tmp_path, 12)
  assert metric.startswith("metrics.jsonl lacks step 6, 7, 8, 9, 10 and 2 more")
  assert evaluation.startswith("eval.jsonl lacks step 12, ")
  assert metrics.lost(tmp_path, 5) == []


def test_bytes_that_are_no_text_are_damage(tmp_path):
  """In a name they would make another metric of it."""
  (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "re\xf7ard": 1}\n')
  with pytest.raises(errors.InputError, match="line 1 is not JSON: it holds"):
    metrics.load(tmp_path)
