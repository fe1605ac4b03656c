"""Answers of methods side by side: what is counted, marked and left out."""

import json

import pytest

from progrpo_jax.report import answers
from progrpo_jax.report import html as pages
from progrpo_jax.storage import metrics


def _write(workdir, problems):
  """Writes a run whose one evaluation has these problems.

  Args:
    workdir: workdir of the run.
    problems: {prompt: [(text, whether correct), ...]}.
  """
  rows = [
    {
      "step": 5,
      "set": "sums",
      "prompt": prompt,
      "reference": "7",
      "completions": [
        {"text": text, "correct": correct, "status": "ok"}
        for text, correct in samples
      ],
    }
    for prompt, samples in problems.items()
  ]
  (workdir / "evals").mkdir(parents=True)
  (workdir / "evals" / "000005.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )
  (workdir / "eval.jsonl").write_text('{"step": 5, "eval/sums/pass@1": 0.5}\n')
  (workdir / "metrics.jsonl").write_text('{"step": 5, "reward": 0.5}\n')
  return metrics.load(workdir)


@pytest.fixture
def two(tmp_path):
  """Two methods with two shared prompts, of which one differs."""
  return {
    "one": [
      _write(
        tmp_path / "one",
        {
          "same": [("3+4", True), ("1", False)],
          "apart": [
            ("1+6", True),
            ("1 + 6", True),
            ("2+5", True),
            ("9", False),
          ],
          "only one": [("3+4", True)],
        },
      )
    ],
    "two": [
      _write(
        tmp_path / "two",
        {
          "same": [("4+3", True), ("1", False)],
          "apart": [("2+5", True), ("8", False), ("8", False), ("9", False)],
        },
      )
    ],
  }


def test_equal_answers_stand_once_and_keep_their_letter(two):
  data = answers.collect(two)
  assert data["labels"] == ["one", "two"] and data["prompts"] == 2
  # First the prompt where the numbers of different right answers differ.
  assert [row["prompt"] for row in data["rows"]] == ["apart", "same"]
  one, two_ = data["rows"][0]["sides"]
  assert one["right"] == [
    {"letter": "A", "count": 2, "text": "1+6"},
    {"letter": "B", "count": 1, "text": "2+5"},
  ]
  assert two_["right"] == [{"letter": "B", "count": 1, "text": "2+5"}]
  assert two_["wrong"] == [{"count": 2, "text": "8"}, {"count": 1, "text": "9"}]
  assert (one["correct"], one["samples"], one["distinct"]) == (3, 4, 2)
  # Another way to write a sum is another answer.
  assert [side["letters"] for side in data["rows"][1]["sides"]] == [
    ["A"],
    ["B"],
  ]


def test_seeds_are_pooled_and_failures_of_the_verifier_are_neither(
  two, tmp_path
):
  more = _write(tmp_path / "more", {"same": [("5+2", True), ("?", False)]})
  path = tmp_path / "more" / "evals" / "000005.jsonl"
  row = json.loads(path.read_text())
  row["completions"][1]["status"] = "timeout"
  path.write_text(json.dumps(row) + "\n")
  data = answers.collect({"one": [*two["one"], more], "two": two["two"]})
  (row,) = data["rows"]  # the prompt that both seeds have
  side = row["sides"][0]
  assert (side["samples"], side["correct"], side["unknown"]) == (4, 2, 1)
  assert side["distinct"] == 2 and len(side["wrong"]) == 1


def test_what_is_cut_is_counted(two, monkeypatch):
  monkeypatch.setattr(answers, "MAX_PROMPTS", 1)
  monkeypatch.setattr(answers, "MAX_RIGHT", 1)
  monkeypatch.setattr(answers, "MAX_WRONG", 1)
  data = answers.collect(two)
  assert len(data["rows"]) == 1 and data["prompts"] == 2
  one, two_ = data["rows"][0]["sides"]
  assert len(one["right"]) == 1 and one["letters"] == ["A", "B"]
  assert len(two_["wrong"]) == 1 and two_["kinds_wrong"] == 2
  assert "1 of 2 prompts" in answers.browser(data)


def test_the_base_is_a_side_that_does_not_choose_the_prompts(two):
  (base,) = two["one"]
  data = answers.collect({"two": two["two"], "again": two["two"]}, base=base)
  assert data["labels"] == ["two", "again", "base"]
  assert [row["prompt"] for row in data["rows"]] == ["same", "apart"]


def test_one_method_alone_has_no_sides(two, make_run, tmp_path):
  assert answers.browser(answers.collect({"one": two["one"]})) == ""
  bare = metrics.load(make_run("bare", samples=False))
  page = pages.write_comparison({"a": [bare]}, tmp_path / "x.html")
  assert 'id="answers"' not in page.read_text()


def test_letters_go_on_after_z():
  names = [answers.letter(number) for number in (0, 25, 26, 52)]
  assert names == ["A", "Z", "A2", "A3"]


def test_hostile_answers_stay_data(tmp_path, hostile):
  groups = {
    name: [_write(tmp_path / name, {hostile: [(hostile, name == "a")]})]
    for name in ("a", "b")
  }
  page = pages.write_comparison(groups, tmp_path / "x.html")
  text = page.read_text()
  assert "</script><script>alert" not in text
  assert text.count("<script") == 2
