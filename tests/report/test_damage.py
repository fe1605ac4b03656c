"""What cannot be read of a run is left out of its page, and said."""

import re

import pytest

from progrpo_jax import errors
from progrpo_jax.cli import compare
from progrpo_jax.report import html
from progrpo_jax.storage import metrics

DEEP = b"[" * 100_000
METRIC_LINES = [
  b"{torn",
  b"[1]",
  b"3",
  b"null",
  b"\xff\xfe\0",
  DEEP,
  b'{"reward": 1}',
  b'{"step": "7"}',
  b'{"step": true}',
  b'{"step": -3}',
  b'{"step": 1e300}',
  b'{"step": null}',
  b'{"step": ' + b"9" * 5000 + b"}",
  b'{"step": 50, "reward": [1]}',
  b'{"step": 51, "entropy": {"a": 1}}',
  b'{"step": 52, "kl": 1e999}',
  b'{"step": 53, "kl": ' + b"9" * 400 + b"}",
  b'{"step": 54, "eval/countdown/pass@1": "high"}',
  b'{"step": 55, "eval/countdown/pass@1/low": "deep"}',
]
SAMPLE_LINES = [
  b"{torn",
  b"[]",
  b"{}",
  DEEP,
  b'{"completions": 3}',
  b'{"completions": [3]}',
  b'{"completions": [{"text": 3}]}',
  b'{"completions": [{"reward": "x"}]}',
  b'{"completions": [], "c_prompt": "x"}',
]


def test_damaged_lines_are_left_out_and_said(make_run, tmp_path, capsys):
  """The rest of the run is on the page as it was."""
  workdir = make_run(steps=40)
  whole = html.write_report(workdir, tmp_path / "whole.html").read_text()
  assert "damaged" not in whole and capsys.readouterr().err == ""
  for name in ("metrics.jsonl", "eval.jsonl"):
    path = workdir / name
    first, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(b"\n".join([*METRIC_LINES, first, rest]))
  for folder in ("rollouts", "evals"):
    path = workdir / folder / "000040.jsonl"
    path.write_bytes(b"\n".join([*SAMPLE_LINES, path.read_bytes()]))
  page = html.write_report(workdir, tmp_path / "page.html").read_text()
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 2 * len(METRIC_LINES) + 2 * len(SAMPLE_LINES)
  assert all(line.startswith("damaged, left out: ") for line in said)
  for place in (
    "metrics.jsonl, line 1 is not JSON",
    "eval.jsonl, line 7 is",
    "rollouts/000040.jsonl, line 3 is not a problem",
  ):
    assert any(place in line for line in said), place
  assert "Files are damaged" in page and "metrics.jsonl, line 1 is" in page
  for section in ("resets", "rollouts"):
    found, before = (
      re.search(rf'<section id="{section}">(.*?)</section>', text, re.DOTALL)[1]
      for text in (page, whole)
    )
    assert found == before
  data = [
    re.search(r'id="rollouts-data">(.*?)</script>', text)[1]
    for text in (page, whole)
  ]
  assert data[0] == data[1]


FILES = (
  "config.json",
  "eval.jsonl",
  "rollouts/000040.jsonl",
  "evals/000040.jsonl",
)
WAYS = {
  "zeros": lambda data: bytes(len(data)),
  "half": lambda data: data[: len(data) // 2 + 9],
  "empty": lambda data: b"",
  "bits": lambda data: bytes(b ^ (i % 97 == 5) for i, b in enumerate(data)),
}


def _damage(path, way):
  data = path.read_bytes()
  path.unlink()
  if way in WAYS:
    path.write_bytes(WAYS[way](data))
  elif way == "folder":
    path.mkdir()


@pytest.mark.parametrize("way", [*WAYS, "folder", "gone"])
def test_a_page_of_damaged_files(way, make_run, tmp_path, capsys):
  workdir = make_run(steps=40)
  for name in FILES:
    _damage(workdir / name, way)
  assert html.write_report(workdir, tmp_path / "page.html").exists()
  said = capsys.readouterr().err
  if way == "folder":
    for name in FILES:
      assert f"{workdir / name} cannot be read: Is a directory" in said
  elif way not in ("gone", "empty"):
    assert "config.json, line 1 is not JSON" in said


@pytest.mark.parametrize("way", [*WAYS, "folder", "gone"])
def test_metrics_of_which_nothing_is_left(way, make_run):
  """Half of them, or some bits of each line, leave something."""
  workdir = make_run(steps=40)
  _damage(workdir / "metrics.jsonl", way)
  damage = []
  if way in ("half", "bits"):
    run = metrics.load(workdir, damage=damage)
    assert 0 < len(run.metrics) < 40
    return
  with pytest.raises(errors.InputError, match="holds no metrics"):
    metrics.load(workdir, damage=damage)


def test_a_comparison_with_a_damaged_run(make_run, tmp_path, capsys):
  whole, broken = make_run("whole", steps=40), make_run("broken", steps=40)
  for name in ("metrics.jsonl", *FILES):
    _damage(broken / name, "bits")
  page = tmp_path / "page.html"
  assert compare.run([str(whole), str(broken), "--output", str(page)]) == 0
  assert "Files are damaged" in page.read_text()
  said = capsys.readouterr().err
  assert f"damaged, left out: {broken}" in said
