"""`progrpo compare`."""

import json

import pytest

from progrpo_jax import errors
from progrpo_jax.cli import compare


@pytest.fixture
def runs(make_run):
  return [
    str(make_run("progrpo")),
    *(str(make_run(f"grpo{i}", shift=i)) for i in (1, 2)),
  ]


def test_json_has_the_promised_form(runs, tmp_path):
  output = tmp_path / "comparison.json"
  base = tmp_path / "base.json"
  with open(f"{runs[0]}/eval.jsonl") as file:
    base.write_text(file.readline())
  code = compare.run(
    [*runs, "--labels", "progrpo,grpo,grpo", "--base", str(base)]
    + ["--json", str(output)]
  )
  assert code == 0
  result = json.loads(output.read_text())
  assert list(result) == ["base", "progrpo", "grpo"]
  for entry in result.values():
    assert list(entry["pass@k"]) == ["1", "2", "4", "8", "16"]
    for mean, low, high in entry["pass@k"].values():
      assert 0 <= low <= mean <= high <= 1
    assert isinstance(entry["entropy"], float)
    assert isinstance(entry["distinct_correct"], float)
  assert result["grpo"]["seeds"] == 2
  singles = tmp_path / "singles.json"
  compare.run([*runs[1:], "--json", str(singles)])
  ones = json.loads(singles.read_text())
  means = [ones[f"grpo{i}"]["pass@k"]["4"][0] for i in (1, 2)]
  assert result["grpo"]["pass@k"]["4"][0] == pytest.approx(sum(means) / 2)


def test_table_has_a_row_a_method_with_intervals(runs, capsys):
  assert compare.run(runs) == 0
  # Once in the text below the verdict, once above the table.
  table = capsys.readouterr().out.split("pass@k on countdown")[2]
  lines = table.split("pass@k and its bound")[0].splitlines()
  (row,) = [line for line in lines if line.strip().startswith("progrpo")]
  assert "0.594 [0.534,\u00a00.654]" in row
  assert "0.600" in row and "0.70" in row
  assert any("pass@16" in line and "s/step" in line for line in lines)
  assert sum("grpo" in line for line in lines) == 3


def test_what_the_samples_tell_follows_in_tables(runs, capsys):
  assert compare.run(runs) == 0
  out = capsys.readouterr().out
  titles = [
    "pass@k and its bound",
    "pass@k less that of progrpo",
    "Regimes",
    "Problems by pass@1",
  ]
  places = [out.index(title) for title in titles]
  assert places == sorted(places)
  bounds, _, regimes, _ = (
    out[a:b] for a, b in zip(places, [*places[1:], None])
  )
  (row,) = [x for x in bounds.splitlines() if x.strip().startswith("progrpo")]
  assert row.split()[:3] == ["progrpo", "0.829", "0.829"]
  assert regimes.count("Plateau") == 3 + 1  # a run each, and the note
  assert "step 40" in regimes and "k = 8, 8 problems" in regimes


def test_json_holds_the_analysis_beside_what_is_promised(runs, tmp_path):
  output = tmp_path / "c.json"
  compare.run([*runs, "--json", str(output), "--base", runs[0]])
  result = json.loads(output.read_text())
  entry = result["grpo1"]
  assert list(entry["bound"]) == ["2", "4", "8", "16"]
  assert entry["bound"]["2"] == pytest.approx(entry["pass@k"]["2"][0])
  assert len(entry["curve"]) == 16 and sum(entry["histogram"]) == 8
  assert entry["difference"]["against"] == "base"
  assert entry["regimes"]["countdown"]["regime"] in (
    "Diminish",
    "No change shown",
    "Plateau",
    "Sustained",
  )
  assert result["base"]["regimes"] == {}
  assert result["base"]["difference"] is None


def test_page_is_written_where_asked(runs, tmp_path, capsys):
  page = tmp_path / "out" / "report.html"
  assert compare.run([*runs, "--output", str(page)]) == 0
  assert page.read_text().startswith("<!doctype html>")
  assert f"wrote {page}" in capsys.readouterr().out


def test_page_shows_what_the_samples_tell(runs, tmp_path):
  page = tmp_path / "report.html"
  compare.run([*runs, "--output", str(page), "--base", runs[1]])
  text = page.read_text()
  for name in ("bound", "difference", "regimes", "histogram"):
    assert text.count(f'<h3 id="boundary-{name}">') == 1
  assert "pass@k less that of base" in text
  assert "<small>k = 8, 8 problems</small>" in text
  assert 'aria-label="Problems by pass@1 on countdown"' in text


def test_runs_of_one_name_in_several_places_are_not_seeds(make_run, tmp_path):
  output = tmp_path / "c.json"
  runs = [str(make_run("a/run")), str(make_run("b/run"))]
  compare.run([*runs, "--json", str(output)])
  assert list(json.loads(output.read_text())) == runs


def test_bad_input_is_named(runs, tmp_path):
  with pytest.raises(errors.InputError, match="2 names for 3 workdirs"):
    compare.run([*runs, "--labels", "a,b"])
  with pytest.raises(errors.InputError, match="no such workdir: .*absent"):
    compare.run([str(tmp_path / "absent")])
  with pytest.raises(errors.InputError, match="no such evaluation"):
    compare.run([*runs, "--base", str(tmp_path / "absent.json")])
  with pytest.raises(errors.InputError, match="no evaluation set 'maths'"):
    compare.run([*runs, "--set", "maths"])
