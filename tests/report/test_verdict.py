"""The verdict of a comparison, on problems counted by hand."""

import json

import numpy as np
import pytest

from progrpo_jax import errors
from progrpo_jax.cli import compare
from progrpo_jax.evaluators import intervals
from progrpo_jax.report import compared, comparison, tables, verdict
from progrpo_jax.storage import metrics

_SAMPLES = 4  # of each problem, so that methods are judged by pass@2


def _write(workdir, **solved):
  """Writes a run of two evaluations, `start` and `end`, each a list.

  A problem's entry is how many of its four samples are right.
  """
  rows = []
  for step, correct in ((0, solved["start"]), (10, solved["end"])):
    samples = [
      {
        "step": step,
        "set": "sums",
        "prompt": f"problem {problem}",
        "reference": "7",
        "completions": [
          {"text": f"{sample}+{7 - sample}", "correct": sample < right}
          for sample in range(_SAMPLES)
        ],
      }
      for problem, right in enumerate(correct)
    ]
    path = workdir / "evals" / f"{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in samples))
    shares = np.array(correct) / _SAMPLES
    rows.append({"step": step, "eval/sums/pass@1": float(shares.mean())})
    rows[-1]["eval/sums/entropy"] = 0.5
  for name, lines in (("eval", rows), ("metrics", [{"step": 10, "kl": 0.1}])):
    (workdir / f"{name}.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in lines)
    )
  return workdir


# Of 64 problems the base policy solves 40 in every sample, and 24 in none.
_BASE = [4] * 40 + [0] * 24
# Methods solve whole problems too, so that pass@2 and pass@1 are equal.
_CASES = {
  # 20 of the 64 are lost, which is 31.25 points.
  "sure loss": ([4] * 20 + [0] * 44, "m lost 31 points of pass@2"),
  # Four are lost and two are gained: a loss of 3.125 points.
  "unsure loss": (
    [4] * 36 + [0] * 4 + [4] * 2 + [0] * 22,
    "m's loss of 3 points of pass@2 is not certain",
  ),
  # 16 are gained, which is 25 points.
  "gain": ([4] * 56 + [0] * 8, "m gained 25 points of pass@2"),
  "nothing": (_BASE, "m shows no change in pass@2"),
}


def _expected(after):
  """The interval in percentage points, from the two lists alone."""
  _, low, high = intervals.difference(
    np.array(after) == 4, np.array(_BASE) == 4
  )
  return [
    f"{'−' if end < 0 else '+'}{abs(100 * end):.0f}" for end in (low, high)
  ]


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("with_base", [True, False])
def test_a_verdict_says_what_the_intervals_allow(tmp_path, case, with_base):
  after, words = _CASES[case]
  run = metrics.load(_write(tmp_path / "m", start=_BASE, end=after))
  base = None
  if with_base:
    base = metrics.load(_write(tmp_path / "b", start=_BASE, end=_BASE))
  told = verdict.of(comparison.analyse({"m": [run]}, base=base))
  low, high = _expected(after)
  assert told.headline == f"{words} ({low} to {high}); one seed."
  # Problems are solved in all samples or in none.
  assert told.more == [f"{words.replace('@2', '@1')} ({low} to {high})."]
  assert "64 problems" in told.limits and "on sums" in told.limits
  start = "the base policy" if with_base else "own evaluation at step 0"
  assert start in told.limits
  assert "nothing is known about other seeds" in told.limits


def test_certain_is_an_interval_beside_zero():
  assert verdict.is_certain(0.01, 0.2) and verdict.is_certain(-0.2, -0.01)
  assert not verdict.is_certain(-0.01, 0.2)
  assert not verdict.is_certain(0.0, 0.2) and not verdict.is_certain(-0.2, 0.0)


@pytest.mark.parametrize(
  ("value", "text"),
  [
    (0.0, "0"),
    (0.31, "+31"),
    (-0.0951, "−10"),
    (0.0096, "+1"),
    (-0.0042, "−0.4"),
    (0.000042, "+0.004"),
  ],
)
def test_what_is_not_zero_is_not_shown_as_zero(value, text):
  assert verdict._signed(value) == text


@pytest.fixture
def two(tmp_path):
  """Workdirs: a method that lost, in two seeds, and one that gained."""
  lost, gained = _CASES["sure loss"][0], _CASES["gain"][0]
  return [
    str(_write(tmp_path / "lost0", start=_BASE, end=lost)),
    str(_write(tmp_path / "lost1", start=_BASE, end=_BASE)),
    str(_write(tmp_path / "won", start=_BASE, end=gained)),
  ]


def test_methods_are_compared_with_the_first_and_seeds_are_counted(two):
  lost0, lost1, won = map(metrics.load, two)
  told = verdict.of(
    comparison.analyse({"lost": [lost0, lost1], "won": [won]}, base=lost1)
  )
  # Half of 31.25, as the second seed stayed where it was.
  assert told.headline.startswith("lost lost 16 points of pass@2 (")
  assert "; 1 of 2 seeds); won gained 25 points of pass@2 (" in told.headline
  assert told.headline.endswith("; seeds: lost 2, won 1.")
  # 15.625 points below the base, and 25 above it.
  assert any(
    line.startswith("won ends 41 points above lost in pass@2 (")
    for line in told.more
  )
  assert "do not cover what other seeds would do" in told.limits


def test_many_methods_are_counted_in_the_headline(two):
  lost, same, won = map(metrics.load, two)
  groups = {"a": [lost], "b": [same], "c": [won], "d": [lost]}
  told = verdict.of(comparison.analyse(groups, base=same))
  assert told.headline == (
    "of 4 methods 2 lost and 1 gained in pass@2; for 1 the sign is not "
    "certain; one seed."
  )
  assert sum(line.startswith("a ") for line in told.more) == 2
  assert len(told.more) == 4 + 4 + 2 * 3


def test_many_sentences_are_folded(two, tmp_path):
  def opening(groups):
    page = compared.Comparison(groups).write_page(tmp_path / "page.html")
    return page.read_text().split("<nav")[0]

  many = {name: [path] for name in "abcd" for path in two[:1]}
  assert "<details><summary>Each method</summary><ul>" in opening(many)
  few = opening({"a": two[:1], "b": two[2:]})
  assert "<details>" not in few and few.count("<li>") == 4


def test_without_samples_there_is_no_verdict(make_run):
  run = metrics.load(make_run("a", samples=False))
  told = verdict.of(comparison.analyse({"a": [run], "b": [run]}))
  assert told.headline.startswith("No verdict: ") and not told.more


def test_the_verdict_opens_terminal_page_and_json(two, tmp_path, capsys):
  json_path, page = tmp_path / "c.json", tmp_path / "page.html"
  assert (
    compare.run(
      [*two[:1], two[2], "--labels", "<i>lost,won", "--json", str(json_path)]
      + ["--output", str(page)]
    )
    == 0
  )
  out = " ".join(capsys.readouterr().out.split())
  assert out.startswith("<i>lost lost 31 points of pass@2 (")
  assert out.index("won gained 25 points of pass@2") < out.index("entropy")
  result = json.loads(json_path.read_text())
  assert list(result) == ["<i>lost", "won"]
  assert result["won"]["verdict"].startswith("won gained 25 points of pass@2")
  assert (
    "won ends 56 points above <i>lost in pass@2" in result["won"]["verdict"]
  )
  text = page.read_text()
  opening = text[: text.index("<nav")]
  assert '<p class="headline">&lt;i&gt;lost lost 31 points' in opening
  # Then pass@k and entropy; bounds and bins are folded away.
  sections = [s.split('"')[0] for s in text.split('<section id="')[1:]]
  assert sections[:4] == ["glance", "answers", "table", "boundary"]
  folded = text[text.index('<section id="boundary">') :]
  assert folded.index("<details>") < folded.index("Problems by pass@1")


def test_bold_is_only_where_intervals_part(two, tmp_path):
  def best(groups, name):
    path = compared.Comparison(groups).write_page(tmp_path / name)
    table = path.read_text().split('<section id="table">')[1]
    return table.split("</table>")[0].count('class="best"')

  # 31 % and 88 % of 64 problems; then 63 % twice.
  assert best({"lost": two[:1], "won": two[2:]}, "a.html") == 1
  assert best({"a": two[1:2], "b": two[1:2]}, "b.html") == 0


def _at_step(workdir, step):
  """The run as it was when its last evaluation was that of a step."""
  path = workdir / "eval.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  kept = [row for row in rows if row["step"] <= step]
  path.write_text("".join(json.dumps(row) + "\n" for row in kept))
  return metrics.load(workdir)


def test_seeds_are_compared_at_the_last_step_that_all_have(make_run):
  done, behind, other = make_run("done"), make_run("behind"), make_run("other")
  runs = [metrics.load(done), _at_step(behind, 60)]
  found = comparison.analyse({"m": runs})["m"]
  assert (found["step"], found["steps"]) == (60, [60])
  earlier = [_at_step(place, 60) for place in (done, behind)]
  expected = comparison.analyse({"m": earlier})["m"]
  for name in ("pass@k", "curve", "histogram", "change"):
    assert found[name] == expected[name]
  # The step before training is none that seeds are compared at.
  both = [metrics.load(other), _at_step(make_run("none"), 0)]
  assert comparison.summarise({"m": both})["m"]["steps"] == [0, 100]
  # Seeds without a common step keep their own, and say so.
  alone = metrics.load(other)
  alone.evals[:] = [{**alone.evals[-1], "step": 90}]
  assert comparison.summarise({"m": [earlier[0], alone]})["m"]["steps"] == [
    60,
    90,
  ]


def test_a_comparison_says_in_what_evaluations_differ(make_run):
  runs = {}
  for name, step, temperature in (("a", 100, 0.6), ("b", 60, 1.0)):
    place = make_run(name)
    path = place / "config.json"
    config = json.loads(path.read_text())
    config["eval"] = {"temperature": temperature, "top_p": 0.95}
    path.write_text(json.dumps(config))
    runs[name] = [_at_step(place, step)]
  base = metrics.load(make_run("start"))
  base.evals[:] = base.evals[:1]
  found = comparison.analyse(runs, base=base)
  words = [
    "evaluations differ in step: a 100, b 60",
    "evaluations differ in eval.temperature: a 0.6, b 1.0",
  ]
  assert comparison.unlike(found) == words
  told = verdict.of(found).more
  assert told[:2] == [f"Take care: {sentence}." for sentence in words]
  assert all(sentence in tables.problems_note(found) for sentence in words)
  assert not comparison.unlike(comparison.analyse({"a": runs["a"]}, base=base))


def test_a_run_is_no_second_seed_of_itself(make_run, tmp_path):
  run = make_run("a")
  (tmp_path / "link").symlink_to(run)
  for again in (run, f"{run}/", tmp_path / "link"):
    with pytest.raises(errors.InputError, match="twice under the label 'm'"):
      compared.Comparison([run, again], labels=["m", "m"])
  two = compared.Comparison([run, run], labels=["m", "n"])
  assert list(two.summary) == ["m", "n"]
