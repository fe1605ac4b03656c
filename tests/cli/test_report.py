"""`progrpo report`."""

import pytest

from progrpo_jax import errors
from progrpo_jax.cli import report


def test_writes_the_page_into_the_workdir(make_run, capsys):
  workdir = make_run()
  assert report.run(["--workdir", str(workdir)]) == 0
  assert (workdir / "report.html").read_text().startswith("<!doctype html>")
  assert str(workdir / "report.html") in capsys.readouterr().out


def test_writes_the_page_where_asked(make_run, tmp_path):
  workdir, page = make_run(), tmp_path / "deep" / "page.html"
  assert report.run(["--workdir", str(workdir), "--output", str(page)]) == 0
  assert page.exists()
  assert not (workdir / "report.html").exists()


def test_bad_input_is_named(tmp_path):
  with pytest.raises(errors.InputError, match="no such workdir: .*absent"):
    report.run(["--workdir", str(tmp_path / "absent")])
  with pytest.raises(errors.InputError, match="holds no metrics yet"):
    report.run(["--workdir", str(tmp_path)])
  with pytest.raises(errors.InputError, match="required: --workdir"):
    report.run([])
  with pytest.raises(errors.InputError, match="--workdir: '' must be a path"):
    report.run(["--workdir", ""])
