"""The study: what is kept of a run, and that the page is what is kept."""

import pathlib
import runpy
import sys

import numpy as np
import pytest

from progrpo_jax.evaluators import passk

TOOLS = pathlib.Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture(scope="module")
def study():
  """The names of tools/study.py."""
  return _tool("study.py")


@pytest.fixture(scope="module")
def make_study():
  """The names of tools/make_study.py."""
  return _tool("make_study.py")


def _tool(name):
  # A tool may import the one beside it, as it can when it is run.
  sys.path.insert(0, str(TOOLS))
  try:
    return runpy.run_path(str(TOOLS / name))
  finally:
    sys.path.remove(str(TOOLS))


def _kept(seed, right, *, arm="grpo", samples=8):
  """What is kept of a run, as far as tables of pass@k read it."""
  return {
    "arm": arm,
    "seed": seed,
    "steps": {},
    "evals": [
      {
        "step": 4,
        "samples": [samples] * len(right),
        "right": right,
        "distinct": [min(r, 2) for r in right],
        "entropy": 0.5,
      }
    ],
  }


def test_the_page_is_what_the_results_give(make_study, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["make_study.py", "--check"])
  assert make_study["main"]() == 0
  assert "up to date" in capsys.readouterr().out


def test_pictures_are_drawn_of_what_is_kept(study, make_study, tmp_path):
  pictures = make_study["study_pictures"].PICTURES
  for name in ("masses", "entropies", "methods"):
    pictures[name](study["RESULTS"], tmp_path / f"{name}.svg")
    drawn = (tmp_path / f"{name}.svg").read_text()
    assert "progrpo" in drawn and "maxrl" in drawn


def test_long_runs_are_drawn_with_their_resets(study, make_study, tmp_path):
  results = tmp_path / "results"
  draw = make_study["study_pictures"].PICTURES["long"]
  draw(results, tmp_path / "none.svg")  # before any run is there
  runs = {
    "base": _kept(0, [0, 8, 32], samples=32),
    "grpo-seed0": _kept(0, [4, 32, 32], samples=32),
    "prorl-seed0": _kept(0, [8, 16, 32], samples=32),
  }
  runs["prorl-seed0"]["steps"] = {"ref_reset/reset": [0.0, 1.0, None, 0.0]}
  for name, run in runs.items():
    study["write"](results / "long" / f"{name}.json.gz", run)
  draw(results, tmp_path / "long.svg")
  drawn = (tmp_path / "long.svg").read_text()
  assert "pass@32" in drawn and "prorl" in drawn
  # Of the first problem alone, which the base never solved.
  table = make_study["TABLES"]["long-unsolved"](results)
  assert "| grpo | 1 | 0.125 | 0.705 | 1.000 |" in table
  assert "| prorl | 1 | 0.250 | 0.930 | 1.000 |" in table


def test_the_list_counts_what_is_kept(study, monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(
    sys, "argv", ["study.py", "list", "--results", str(tmp_path)]
  )
  assert study["main"]() == 0
  part = study["PARTS"]["arm"]
  runs = len(part.arms) * part.seeds
  assert f"arm: 0 of {runs} runs" in capsys.readouterr().out


def test_every_arm_of_the_plan_is_a_config(study):
  """Its keys exist and its values are allowed."""
  from progrpo_jax.settings import files

  for part in study["PARTS"].values():
    for arm in part.arms.values():
      c = files.load(str(study["ROOT"] / f"{part.config}:{arm.method}"))
      for key in {**part.keys, **arm.keys}:
        group, _, name = key.rpartition(".")
        at = c
        for word in filter(None, group.split(".")):
          at = at[word]
        assert name in at, key


def test_runs_are_named_apart(study):
  for part in study["PARTS"].values():
    names = {
      study["result_file"](pathlib.Path("x"), arm, seed)
      for arm in part.arms
      for seed in range(part.seeds)
    }
    assert len(names) == len(part.arms) * part.seeds
  runs = list(study["runs_of"](study["PARTS"]["arm"], seeds=2))
  # All arms of a seed come before the next seed.
  assert [seed for _, seed in runs] == sorted(seed for _, seed in runs)
  with pytest.raises(ValueError, match="no arm 'a'"):
    list(study["runs_of"](study["PARTS"]["arm"], ["a"]))


def test_a_run_is_kept_whole(study, small, tmp_path):
  small.train(tmp_path / "run", "checkpoint.every=2", "checkpoint.keep_every=2")
  kept = study["summary"](tmp_path / "run", "the command")
  study["write"](tmp_path / "kept.json.gz", kept)
  assert study["read"](tmp_path / "kept.json.gz") == kept
  assert kept["command"] == "the command" and kept["commit"]
  assert len(kept["steps"]["entropy"]) == 4
  # The counts are those that the run itself reported.
  from progrpo_jax import load_run

  table = load_run(tmp_path / "run").evals()
  for number, entry in enumerate(kept["evals"]):
    name = f"eval/{entry['set']}"
    n, c = np.array(entry["samples"]), np.array(entry["right"])
    assert entry["step"] == table["step"][number]
    np.testing.assert_allclose(
      passk.pass_at_k(n, c, 1).mean(), table[f"{name}/pass@1"][number]
    )
    np.testing.assert_allclose(
      np.mean(entry["distinct"]), table[f"{name}/distinct_correct"][number]
    )


def test_the_commits_of_a_run_are_those_it_began_with(
  study, monkeypatch, tmp_path
):
  checked_out = iter(["aaa", "bbb", "bbb"])
  monkeypatch.setitem(
    study["begun_with"].__globals__, "commit", lambda: next(checked_out)
  )
  assert study["begun_with"](tmp_path) == ["aaa"]
  assert study["begun_with"](tmp_path) == ["aaa", "bbb"]
  assert study["begun_with"](tmp_path) == ["aaa", "bbb"]


def test_answers_of_the_base_are_followed(study, small, tmp_path):
  """At step 0 a policy is the base, whose masses are those of its texts."""
  small.train(
    tmp_path / "run",
    "checkpoint.every=2",
    "checkpoint.keep_every=2",
    "eval.num_samples=64",
    "sampling.temperature=1.0",
  )
  followed = study["follow"](tmp_path / "run", tmp_path / "run", 2)
  assert followed["step"] == [0, 2, 4]
  for kind in ("commonest", "rarest", "right", "wrong"):
    values = np.array(followed[kind])
    assert values.shape[0] == 3 and np.all((values >= 0) & (values <= 1))
  assert np.all(
    np.array(followed["commonest"]) <= np.array(followed["right"]) + 1e-6
  )


def test_problems_are_lost_below_the_line(make_study):
  assert make_study["dead"]([0.0, 0.004, 0.006, 0.5]) == 0.5
  followed = {
    "right": [[0.1, 0.2], [0.001, 0.9]],
    "wrong": [[0.5, 0.5], [0.4, 0.0]],
    "commonest": [[0.1, 0.1], [0.001, 0.001]],
  }
  assert make_study["left"]([followed], 0) == ["0.15", "0.50", "0.00", "0.00"]
  assert make_study["left"]([followed], -1) == ["0.45", "0.20", "0.50", "1.00"]


def test_texts_are_counted_from_the_commonest(study):
  right, wrong = study["counted"](
    [
      {"text": text, "correct": correct, "status": status}
      for text, correct, status in [
        ("a", True, "ok"),
        ("b", True, "ok"),
        ("b", True, "ok"),
        ("c", False, "ok"),
        ("d", True, "masked"),
      ]
    ]
  )
  assert (right, wrong) == (["b", "a"], ["c"])
  masses = study["masses"](np.array([0.4, 0.1, 0.2]), [(0, 2, 1)])
  assert masses["commonest"] == [0.4] and masses["rarest"] == [0.1]
  assert masses["right"] == [0.5] and masses["wrong"] == [0.2]


def test_differences_pair_seeds_and_correct_for_their_number(make_study):
  rng = np.random.default_rng(0)
  base = [rng.integers(0, 5, 40).tolist() for _ in range(3)]
  early = [_kept(s, x, samples=32) for s, x in enumerate(base)]
  runs = {
    "base": [_kept(0, base[0], samples=32)],
    "grpo": early,
    # Better by four samples of 32, whatever the seed and the problem.
    "better": [
      _kept(s, [r + 4 for r in x], samples=32) for s, x in enumerate(base)
    ],
    "same": [_kept(s, x, samples=32) for s, x in enumerate(base)],
    "alone": [_kept(0, base[0], samples=32)],
  }
  found = make_study["differences"](runs)
  assert set(found) == {"better", "same"}
  centre, low, high, p = found["better"]["pass@1"]
  assert centre == pytest.approx(1 / 8) and low <= centre <= high and p < 0.05
  assert found["same"]["pass@1"][3] == 1
  # Two arms in four columns are a family of eight.
  alone = make_study["differences"]({k: runs[k] for k in ("grpo", "better")})
  for column, row in alone["better"].items():
    assert row[3] <= found["better"][column][3]
  text = make_study["difference_cell"]
  assert text(found["better"]["pass@1"], 3).startswith("**+0.125 (")
  assert not text(found["same"]["pass@1"], 3).startswith("**")
  # GRPO at another of its steps.
  for run in early:
    run["evals"] += [{**run["evals"][0], "step": 2, "right": [0] * 40}]
  before = make_study["differences"](runs, step=2)["same"]["pass@1"]
  assert before[0] == pytest.approx(np.mean(base) / 32)


def test_late_evaluations_are_averaged(make_study):
  run = _kept(0, [0, 8])
  run["evals"] = [
    {**run["evals"][0], "step": step, "right": right}
    for step, right in ((1, [8, 8]), (2, [0, 4]), (3, [4, 8]))
  ]
  late = make_study["late"]
  for name, expected in (("pass@1", [0.25, 0.75]), ("pass@8", [0.5, 1.0])):
    values_SX = late([run, run], make_study["COLUMNS"][name], since=2)
    assert values_SX.tolist() == [expected, expected]


def test_sets_are_told_apart(study, make_study, tmp_path):
  run = _kept(0, [8, 8], samples=32)
  run["evals"] = [
    {**run["evals"][0], "set": name, "right": right}
    for name, right in (("queens", [0, 16]), ("sums", [32, 32]))
  ]
  for arm in ("grpo", "maxrl"):
    file = study["result_file"](tmp_path / "puzzles", arm, 0)
    file.parent.mkdir(exist_ok=True)
    study["write"](file, {**run, "arm": arm})
  head, _, *rows = make_study["TABLES"]["puzzles-sets"](tmp_path).splitlines()
  assert head.count("queens: pass@") == head.count("sums: pass@") == 2
  assert rows == [
    f"| {arm} | 1 | 0.250 | 0.500 | 1.000 | 1.000 |"
    for arm in ("grpo", "maxrl")
  ]


def test_an_interval_covers_seeds_where_there_are_some(make_study):
  one = make_study["cell"](np.full((1, 20), 0.5))
  two = make_study["cell"](np.array([[0.4] * 20, [0.6] * 20]))
  assert one.startswith("0.500 [0.") and two.startswith("0.500 (0.000")
  # Seeds and problems that all agree are no proof.
  assert make_study["cell"](np.ones((2, 20))).startswith("1.000 (0.8")
  # A number of answers needs seeds for an interval, and cannot exceed the
  # samples.
  count = make_study["distinct_cell"]
  assert count(np.full((1, 20), 7.5), 8) == "7.50"
  assert count(np.array([[3.0] * 20, [3.2] * 20]), 8) == "3.10 (1.83 – 4.37)"
  assert count(np.array([[3.0] * 20, [5.0] * 20]), 8) == "4.00 (0.00 – 8.00)"


def test_a_table_has_the_runs_of_one_base(study, make_study, tmp_path):
  """Those of another base are in the differences, with their pairs."""
  for folder, right in (("countdown", 8), ("countdown_first", 16)):
    for name in ("base", *(f"grpo-seed{s}" for s in range(3))):
      run = _kept(0, [right] * 4, samples=32)
      study["write"](tmp_path / folder / f"{name}.json.gz", run)
  table = make_study["TABLES"]["countdown"](tmp_path)
  assert "| grpo | 3 | 0.250 (" in table


def test_policies_are_compared_at_their_best_temperatures(
  study, make_study, tmp_path
):
  """At 1 both are alike; at 2 one of them solves all problems."""
  for name in ("base", "grpo", "progrpo"):
    for seed in range(1 if name == "base" else 3):
      right = [0, 1] * 20
      kept = _kept(seed, right, samples=32)
      better = [8] * 40 if name == "progrpo" else right
      hot = [
        {**e, "step": 0, "right": better, "temperature": 2.0}
        for e in kept["evals"]
      ]
      run = name if name == "base" else f"{name}-seed{seed}"
      study["write"](tmp_path / "countdown" / f"{run}.json.gz", kept)
      study["write"](
        tmp_path / "countdown_temperatures" / f"{run}.json.gz",
        {"evals": hot, "commit": "abcdef0"},
      )
  table = make_study["TABLES"]["countdown-temperatures"](tmp_path)
  assert table.endswith("\nEvaluated with the code of abcdef0.\n")
  lines = [line for line in table.splitlines() if line.startswith("| ")]
  rows = [line.split(" | ")[:3] for line in lines[2:]]
  assert rows == [
    [f"| {arm}", seeds, temperature]
    for arm, seeds in (("base", "1"), ("grpo", "3"), ("progrpo", "3"))
    for temperature in ("1", "2")
  ]
  best = make_study["TABLES"]["countdown-best"](tmp_path)
  assert "| progrpo, 2 | 3 | **+0.234 (" in best


def test_a_run_without_other_temperatures_is_left_out(
  study, make_study, tmp_path
):
  run = _kept(0, [1] * 4, samples=32)
  study["write"](tmp_path / "countdown" / "grpo-seed0.json.gz", run)
  table = make_study["TABLES"]["countdown-temperatures"](tmp_path)
  assert len(table.splitlines()) == 2


def test_a_large_base_is_rounded_before_it_is_kept(
  study, tmp_path, monkeypatch
):
  called = []

  def progrpo(command, *words):
    called.append(command)
    if command in ("warmup", "export"):
      folder = words[words.index("--output") + 1]
      folder.mkdir(parents=True)
      (folder / "config.json").write_text(command)

  make_base = study["make_base"]
  monkeypatch.setitem(make_base.__globals__, "progrpo", progrpo)
  monkeypatch.setitem(make_base.__globals__, "summary", lambda *_: {})
  results = tmp_path / "results"
  for part in ("puzzles", "countdown"):
    base = make_base(study["PARTS"][part], tmp_path, results, part)
    kept = results / "policies" / base.name / "config.json"
    assert kept.read_text() == (base / "config.json").read_text()
  assert called == ["warmup", "export", "evaluate", "warmup", "evaluate"]
  # Elsewhere the runs begin at what is kept.
  called.clear()
  make_base(
    study["PARTS"]["puzzles"], tmp_path / "elsewhere", results, "puzzles"
  )
  assert called == []


def test_an_arm_that_there_is_not_is_refused_before_anything_is_made(
  study, tmp_path, monkeypatch, capsys
):
  words = ["run", "puzzles", "--arms", "grp", "--output", str(tmp_path / "new")]
  monkeypatch.setattr(sys, "argv", ["study.py", *words])
  with pytest.raises(SystemExit):
    study["main"]()
  assert "no arm 'grp'; known: grpo" in capsys.readouterr().err
  assert not (tmp_path / "new").exists()
