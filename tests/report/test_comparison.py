"""The numbers of a comparison, and their intervals."""

import json

import numpy as np
import pytest

from progrpo_jax import errors, metrics
from progrpo_jax.report import comparison


def test_one_run_keeps_the_interval_that_it_reported(make_run):
  run = metrics.load(make_run("a"))
  entry = comparison.summarise({"a": [run]})["a"]
  row = run.evals[-1]
  assert entry["pass@k"]["8"] == [
    row["eval/countdown/pass@8"],
    row["eval/countdown/pass@8/low"],
    row["eval/countdown/pass@8/high"],
  ]
  assert entry["interval"] == "the run's own"
  assert entry["entropy"] == row["eval/countdown/entropy"]
  assert entry["step"] == 100


def test_seeds_get_a_bootstrap_of_their_per_problem_means(make_run):
  runs = [metrics.load(make_run(f"s{i}", shift=i)) for i in range(3)]
  entry = comparison.summarise({"m": runs})["m"]
  assert entry["interval"] == "bootstrap over problems"
  values = np.array(
    [
      [
        np.mean([c["correct"] for c in row["completions"]])
        for row in run.eval_samples(100)
      ]
      for run in runs
    ]
  ).mean(axis=0)
  mean, low, high = entry["pass@k"]["1"]
  assert mean == pytest.approx(values.mean())
  # The normal interval of the mean over the eight problems.
  half = 1.96 * values.std() / np.sqrt(len(values))
  assert low == pytest.approx(mean - half, abs=0.03)
  assert high == pytest.approx(mean + half, abs=0.03)
  assert entry == comparison.summarise({"m": runs})["m"]


def test_without_samples_seeds_get_the_range_of_their_intervals(make_run):
  runs = [
    metrics.load(make_run(f"s{i}", shift=i, samples=False)) for i in range(2)
  ]
  entry = comparison.summarise({"m": runs})["m"]
  assert entry["interval"] == "range of the seeds' intervals"
  lows = [run.evals[-1]["eval/countdown/pass@1/low"] for run in runs]
  assert entry["pass@k"]["1"][1] == min(lows)


def test_samples_that_do_not_reproduce_the_mean_are_not_used(make_run):
  workdirs = [make_run(f"s{i}", shift=i) for i in range(2)]
  path = workdirs[0] / "evals" / "000100.jsonl"
  rows = path.read_text().splitlines()
  path.write_text("\n".join(rows[:3]) + "\n")
  runs = [metrics.load(workdir) for workdir in workdirs]
  entry = comparison.summarise({"m": runs})["m"]
  assert entry["interval"] == "range of the seeds' intervals"


def test_base_comes_from_a_file_or_a_workdir(make_run, tmp_path):
  workdir = make_run("a")
  row = metrics.load(workdir).evals[0]
  path = tmp_path / "eval.json"
  path.write_text(json.dumps(row, indent=2))
  run = metrics.load(workdir)
  for where in (path, workdir / "eval.jsonl", workdir):
    base = comparison.load_base(where)
    summary = comparison.summarise({"a": [run]}, base=base)
    assert list(summary) == ["base", "a"]
  first = comparison.summarise({"a": [run]}, base=comparison.load_base(path))
  assert first["base"]["pass@k"]["1"][0] == row["eval/countdown/pass@1"]


def test_base_that_is_none_is_refused(make_run, tmp_path):
  with pytest.raises(errors.InputError, match="no such evaluation"):
    comparison.load_base(tmp_path / "absent.json")
  path = tmp_path / "x.json"
  path.write_text("{")
  with pytest.raises(errors.InputError, match="x.json is not JSON"):
    comparison.load_base(path)
  path.write_text("{}")
  with pytest.raises(errors.InputError, match="holds no eval"):
    comparison.load_base(path)
  run = metrics.load(make_run("a"))
  with pytest.raises(errors.InputError, match="'base' is taken"):
    comparison.summarise({"base": [run]}, base=run)


def test_a_run_without_evaluations_has_training_numbers_only(make_run):
  workdir = make_run("a")
  (workdir / "eval.jsonl").unlink()
  entry = comparison.summarise({"a": [metrics.load(workdir)]})["a"]
  assert entry["pass@k"] == {}
  assert entry["entropy"] == pytest.approx(0.28, abs=0.05)
  assert entry["distinct_correct"] is None


def test_tables_show_three_k():
  assert comparison.pick_ks({1, 2, 4, 8, 16, 32}) == [1, 8, 32]
  assert comparison.pick_ks({1, 2, 4, 8}) == [1, 4, 8]
  assert comparison.pick_ks({1, 8}) == [1, 8]
  assert comparison.pick_ks({2}) == [2]
  assert comparison.pick_ks(set()) == []
