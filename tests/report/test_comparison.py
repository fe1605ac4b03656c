"""The numbers of a comparison, and their intervals."""

import json
import types

import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.evaluators import intervals, passk
from progrpo_jax.report import comparison, readings, tables
from progrpo_jax.storage import metrics


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


def test_seeds_get_the_interval_of_their_per_problem_means(make_run):
  runs = [metrics.load(make_run(f"s{i}", shift=i)) for i in range(3)]
  entry = comparison.summarise({"m": runs})["m"]
  assert entry["interval"] == "over problems"
  values = np.array(
    [
      [
        np.mean([c["correct"] for c in row["completions"]])
        for row in run.eval_samples(100)
      ]
      for run in runs
    ]
  ).mean(axis=0)
  assert entry["pass@k"]["1"] == pytest.approx(intervals.mean(values))
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
    base = readings.load_base(where)
    summary = comparison.summarise({"a": [run]}, base=base)
    assert list(summary) == ["base", "a"]
  first = comparison.summarise({"a": [run]}, base=readings.load_base(path))
  assert first["base"]["pass@k"]["1"][0] == row["eval/countdown/pass@1"]


def test_base_that_is_none_is_refused(make_run, tmp_path):
  with pytest.raises(errors.InputError, match="no such evaluation"):
    readings.load_base(tmp_path / "absent.json")
  path = tmp_path / "x.json"
  path.write_text("{")
  with pytest.raises(errors.InputError, match="x.json is not JSON"):
    readings.load_base(path)
  path.write_text("{}")
  with pytest.raises(errors.InputError, match="holds no eval"):
    readings.load_base(path)
  run = metrics.load(make_run("a"))
  for base in (run, None):
    with pytest.raises(
      errors.InputError, match="'base' is for the base policy"
    ):
      comparison.summarise({"base": [run]}, base=base)


def test_a_run_without_evaluations_has_training_numbers_only(make_run):
  workdir = make_run("a")
  (workdir / "eval.jsonl").unlink()
  entry = comparison.summarise({"a": [metrics.load(workdir)]})["a"]
  assert entry["pass@k"] == {}
  assert entry["entropy"] == pytest.approx(0.28, abs=0.05)
  assert entry["distinct_correct"] is None


def test_tables_show_three_k():
  assert readings.pick_ks({1, 2, 4, 8, 16, 32}) == [1, 8, 32]
  assert readings.pick_ks({1, 2, 4, 8}) == [1, 4, 8]
  assert readings.pick_ks({1, 8}) == [1, 8]
  assert readings.pick_ks({2}) == [2]
  assert readings.pick_ks(set()) == []


def _right(shift=0, part=1.0):
  """Right answers of 16 to each problem, as `make_run` writes them."""
  return np.array(
    [
      min(16, max(0, round(16 * (0.1 + 0.7 * part) - i + shift)))
      for i in range(8)
    ]
  )


def _add_evaluation(workdir, values, step=100):
  """Adds values to the line of an evaluation."""
  path = workdir / "eval.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows:
    if row["step"] == step:
      row |= values
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_analysis_adds_to_the_summary_and_changes_nothing(make_run):
  groups = {name: [metrics.load(make_run(name))] for name in ("a", "b")}
  summary = comparison.summarise(groups)
  for label, entry in comparison.analyse(groups).items():
    assert {key: entry[key] for key in summary[label]} == summary[label]
    json.dumps(entry)


def test_curve_has_every_k_and_agrees_with_the_reported_ones(make_run):
  entry = comparison.analyse({"a": [metrics.load(make_run())]})["a"]
  assert len(entry["curve"]) == 16
  for k, (mean, _, _) in entry["pass@k"].items():
    assert entry["curve"][int(k) - 1][0] == pytest.approx(mean)
  for mean, low, high in entry["curve"]:
    assert low <= mean <= high


def test_bound_stands_beside_pass_at_k_from_two_on(make_run):
  entry = comparison.analyse({"a": [metrics.load(make_run())]})["a"]
  c = _right()
  pass2 = np.mean(passk.pass_at_k(16, c, 2))
  expected = passk.bound_from_pass2(pass2, np.array([2, 4, 8, 16]))
  assert list(entry["bound"]) == ["2", "4", "8", "16"]
  np.testing.assert_allclose(list(entry["bound"].values()), expected)
  # It needs no samples.
  run = metrics.load(make_run("none", samples=False))
  assert comparison.analyse({"a": [run]})["a"]["bound"] == entry["bound"]


def test_histogram_counts_problems(make_run):
  runs = [metrics.load(make_run(f"s{i}", shift=2 * i)) for i in range(2)]
  entries = comparison.analyse({"a": runs[:1], "both": runs})
  np.testing.assert_array_equal(
    entries["a"]["histogram"], np.histogram(_right() / 16, 10, (0, 1))[0]
  )
  # Seeds together: 32 samples of each problem.
  np.testing.assert_array_equal(
    entries["both"]["histogram"],
    np.histogram((_right() + _right(2)) / 32, 10, (0, 1))[0],
  )


def test_differences_are_paired_by_problem(make_run):
  workdirs = [make_run("a"), make_run("b", shift=2)]
  # The order of a file means nothing.
  path = workdirs[1] / "evals" / "000100.jsonl"
  path.write_text("\n".join(path.read_text().splitlines()[::-1]) + "\n")
  a, b = (metrics.load(workdir) for workdir in workdirs)
  entries = comparison.analyse({"a": [a], "b": [b]})
  assert entries["a"]["difference"] is None
  found = entries["b"]["difference"]
  assert found["against"] == "a" and found["problems"] == 8
  # Two more of 16 right on each problem: 1/8, whatever the problems.
  np.testing.assert_allclose(found["pass@k"]["1"][0], 0.125)
  gain = passk.pass_at_k(16, _right(2), 4) - passk.pass_at_k(16, _right(), 4)
  mean, low, high = found["pass@k"]["4"]
  assert mean == pytest.approx(gain.mean())
  assert low < mean < high
  with_base = comparison.analyse({"b": [b]}, base=a)
  assert with_base["b"]["difference"] == {**found, "against": "base"}


def test_runs_on_other_problems_have_no_difference(make_run):
  workdirs = [make_run("a"), make_run("b")]
  path = workdirs[1] / "evals" / "000100.jsonl"
  path.write_text(path.read_text().replace("Use ", "Take "))
  groups = {w.name: [metrics.load(w)] for w in workdirs}
  assert comparison.analyse(groups)["b"]["difference"] is None


def test_regimes_compare_base_middle_and_final(make_run):
  run = metrics.load(make_run())
  found = comparison.regimes([run], "countdown")
  # Evaluated at 0, 20, ..., 100; 40 and 60 are as near to the middle.
  assert found["steps"] == [40, 100]
  assert found["k"] == 8 and found["problems"] == 8
  values = [passk.pass_at_k(16, _right(part=part), 8) for part in (0, 0.4, 1)]
  np.testing.assert_allclose(
    [found["base"], found["middle"], found["final"]],
    [value.mean() for value in values],
  )
  np.testing.assert_allclose(
    found["gain"], intervals.difference(values[2], values[0])
  )
  # Of eight problems, the gain of the second half is not beyond doubt.
  assert found["gain"][1] > 0 and found["late"][1] < 0
  assert found["regime"] == "Plateau"
  assert found["gain@1"][0] == pytest.approx(
    (_right().mean() - _right(part=0).mean()) / 16
  )


def test_regimes_take_the_base_that_is_given(make_run):
  run = metrics.load(make_run())
  # A base that is as good as the final policy leaves nothing to gain.
  found = comparison.regimes([run], "countdown", run)
  assert found["base"] == found["final"]
  assert found["regime"] == "No change shown"
  mean, low, high = found["gain"]
  assert mean == 0 and low < 0 < high
  entries = comparison.analyse({"a": [run]}, base=run)
  assert entries["a"]["regimes"] == {"countdown": found}
  assert entries["base"]["regimes"] == {}


def test_regimes_need_three_evaluations_with_samples(make_run):
  run = metrics.load(make_run("a", samples=False))
  assert comparison.regimes([run], "countdown") is None
  workdir = make_run("b")
  (workdir / "evals" / "000040.jsonl").unlink()
  run = metrics.load(workdir)
  assert comparison.regimes([run], "countdown") is None
  few = metrics.Record(run.path, {}, run.metrics, run.evals[:2])
  assert comparison.regimes([few], "countdown") is None
  # Without step 0 there is no base, unless it is given.
  late = metrics.load(make_run("c"))
  late = metrics.Record(late.path, {}, late.metrics, late.evals[1:])
  assert comparison.regimes([late], "countdown") is None
  assert comparison.regimes([late], "countdown", late) is not None


def test_seeds_are_averaged_problem_by_problem(make_run):
  runs = [metrics.load(make_run(f"s{i}", shift=i)) for i in range(2)]
  found = comparison.regimes(runs, "countdown")
  values = [
    (
      passk.pass_at_k(16, _right(0, part), 8)
      + passk.pass_at_k(16, _right(1, part), 8)
    )
    / 2
    for part in (0, 0.4, 1)
  ]
  np.testing.assert_allclose(
    [found["base"], found["middle"], found["final"]],
    [value.mean() for value in values],
  )


def test_samples_that_the_verifier_failed_on_do_not_count(make_run):
  workdir = make_run()
  path = workdir / "evals" / "000100.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows:
    row["completions"][-1]["status"] = "masked"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  # The sixteenth answer of each problem was wrong.
  _add_evaluation(workdir, {"eval/countdown/pass@1": _right().mean() / 15})
  run = metrics.load(workdir)
  counts = readings.step_counts(run, "countdown", 100)
  assert sorted(counts.values()) == [(15, c) for c in sorted(_right())]


def _mask(workdir, step, problems, count):
  """Masks the last samples of some problems; reports what is left.

  As `passk.measure` would: bounds where it gives no number.
  """
  path = workdir / "evals" / f"{step:06d}.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows[:problems]:
    for completion in row["completions"][16 - count :]:
      completion |= {"status": "masked", "correct": False}
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  correct, valid = (
    np.array([[f(c) for c in row["completions"]] for row in rows])
    for f in (lambda c: c["correct"], lambda c: c.get("status") != "masked")
  )
  samples = types.SimpleNamespace(
    rows=rows, correct_XG=correct, valid_XG=valid, tolerant_XG=None
  )
  path = workdir / "eval.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for line in lines:
    if line["step"] == step:
      for name in [name for name in line if "/pass@" in name]:
        del line[name]
      line |= {
        f"eval/countdown/{name}": value
        for name, value in passk.measure(samples)
      }
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_bounds_stand_where_samples_are_not_enough(make_run):
  workdir = make_run("few")
  _mask(workdir, 100, 2, 1)
  groups = {"few": [metrics.load(workdir)], "all": [metrics.load(make_run())]}
  entries = comparison.analyse(groups)
  few, whole = entries["few"], entries["all"]
  assert list(few["pass@k"]) == ["1", "2", "4", "8"]
  assert list(few["between"]) == ["16"] and whole["between"] == {}
  least, most = few["between"]["16"]
  assert least <= whole["pass@k"]["16"][0] <= most
  assert few["num_problems"] == {"1": 8, "2": 8, "4": 8, "8": 8, "16": 6}
  # What rests on more samples than there are stops with them.
  assert len(few["curve"]) == 15 and len(whole["curve"]) == 16
  assert list(whole["difference"]["pass@k"]) == ["1", "2", "4", "8"]
  assert list(few["bound"]) == ["2", "4", "8"]
  assert few["regimes"]["countdown"]["regime"] == "Plateau"
  found = {t.name: t for t in tables.of(entries)}
  row = next(r for r in found["bound"].rows if r[0][0] == "few")
  assert row[-2:] == (
    (f"{least:.3f} to {most:.3f}", "not enough samples, 6 problems"),
    ("–", ""),
  )
  json.dumps(entries)


def test_regimes_and_bound_say_that_samples_are_not_enough(make_run):
  workdir = make_run("few")
  for step in (0, 40, 100):
    _mask(workdir, step, 2, 16)
  run = metrics.load(workdir)
  entry = comparison.analyse({"few": [run]})["few"]
  assert readings.sets(run) == ["countdown"]
  assert entry["pass@k"] == {} and list(entry["between"]) == [
    "1",
    "2",
    "4",
    "8",
    "16",
  ]
  assert entry["curve"] == [] and sum(entry["histogram"]) == 6
  assert entry["bound"] == {}
  found = entry["regimes"]["countdown"]
  assert found["regime"] == "Not enough samples"
  assert found["problems"] == 6 and found["gain"] is None
  shown = {t.name: t for t in tables.of({"few": entry})}
  assert shown["bound"].rows[0][2] == ("not enough samples", "")
  assert shown["regimes"].rows[0][1][0] == "Not enough samples"
  assert shown["regimes"].rows[0][2] == ("–", "")
  assert tables.problems_note({"few": entry}) == "6 problems"


def test_seeds_of_which_one_has_bounds_have_bounds(make_run):
  workdirs = [make_run("a"), make_run("b", shift=1)]
  _mask(workdirs[1], 100, 2, 1)
  runs = [metrics.load(workdir) for workdir in workdirs]
  ones = comparison.summarise({w.name: [r] for w, r in zip(workdirs, runs)})
  entry = comparison.summarise({"m": runs})["m"]
  mean = ones["a"]["pass@k"]["16"][0]
  assert entry["between"]["16"] == pytest.approx(
    [(mean + end) / 2 for end in ones["b"]["between"]["16"]]
  )
  assert entry["interval"] == "over problems"


def test_problems_that_were_not_tried_are_told(make_run):
  workdirs = [make_run("a"), make_run("b")]
  _add_evaluation(workdirs[1], {"eval/countdown/left_out": 3})
  summary = comparison.summarise({w.name: [metrics.load(w)] for w in workdirs})
  assert [e["left_out"] for e in summary.values()] == [0, 3]
  assert tables.problems_note(summary) == (
    "b: 3 more were left out, with prompts longer than data.max_prompt_length"
  )


def test_samples_that_do_not_reproduce_pass_at_1_are_left_out(make_run):
  workdir = make_run()
  _add_evaluation(workdir, {"eval/countdown/pass@1": 0.123})
  run = metrics.load(workdir)
  assert readings.step_counts(run, "countdown", 100) == {}
  assert readings.step_counts(run, "countdown", 80) != {}
  assert readings.step_counts(run, "countdown", 81) == {}
  entry = comparison.analyse({"a": [run]})["a"]
  assert entry["curve"] == [] and entry["histogram"] == []


def test_the_tolerant_verdict_stands_beside_its_set(make_run):
  workdir = make_run()
  name = "eval/countdown/tolerant/pass@1"
  values = {name: 0.9, f"{name}/low": 0.8, f"{name}/high": 0.95}
  _add_evaluation(workdir, values)
  run = metrics.load(workdir)
  assert readings.sets(run) == ["countdown"]
  entry = comparison.analyse({"a": [run]})["a"]
  assert entry["tolerant"] == {"1": [0.9, 0.8, 0.95]}
  assert entry["pass@k"]["1"][0] == pytest.approx(_right().mean() / 16)
  (table,) = [t for t in tables.of({"a": entry}) if t.name == "tolerant"]
  assert table.rows[0][2] == ("0.900", "0.800 to 0.950")


def test_tables_show_what_there_is(make_run):
  groups = {
    "a": [metrics.load(make_run("a"))],
    "b": [metrics.load(make_run("b", shift=2))],
  }
  found = {t.name: t for t in tables.of(comparison.analyse(groups))}
  assert list(found) == ["bound", "difference", "regimes", "histogram"]
  for table in found.values():
    assert all(len(row) == len(table.columns) for row in table.rows)
  assert found["bound"].columns == (
    "method",
    "pass@2",
    "bound@2",
    "pass@8",
    "bound@8",
    "pass@16",
    "bound@16",
  )
  assert found["difference"].title == "pass@k less that of a"
  assert found["difference"].rows[0][:2] == (
    ("b", "8 problems"),
    ("+0.125", "+0.026 to +0.197"),
  )
  row = found["regimes"].rows[0]
  assert row[:2] == (("a", "countdown"), ("Plateau", "k = 8, 8 problems"))
  assert all(" to " in small for _, small in row[-3:])
  assert [int(text) for text, _ in found["histogram"].rows[0][1:]] == list(
    np.histogram(_right() / 16, 10, (0, 1))[0]
  )


def test_a_run_without_samples_has_its_bound_only(make_run):
  run = metrics.load(make_run("a", samples=False))
  entry = comparison.analyse({"a": [run], "b": [run]})["b"]
  assert entry["difference"] is None and entry["regimes"] == {}
  found = tables.of({"b": entry})
  assert [table.name for table in found] == ["bound"]


def test_a_run_without_evaluations_is_analysed_too(make_run):
  workdir = make_run()
  (workdir / "eval.jsonl").unlink()
  run = metrics.load(workdir)
  summary = comparison.analyse({"a": [run]})
  assert summary["a"]["bound"] == {} and summary["a"]["histogram"] == []
  assert tables.of(summary) == []
