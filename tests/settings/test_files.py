"""Run files: how they are found, by path and by name."""

import json
import sys

import pytest

from progrpo_jax import errors, main
from progrpo_jax.settings import files


def test_a_run_file_is_found_by_path_and_by_name(tmp_path, monkeypatch):
  (tmp_path / "tiny.py").write_text("mine")
  monkeypatch.chdir(tmp_path)
  shipped = files.shipped()["tiny"]
  assert files.find("tiny.py").read_text() == "mine"
  assert files.find("tiny") == files.find("configs/tiny.py") == shipped
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "tiny.py").write_text("own")
  assert files.find("configs/tiny.py").read_text() == "own"
  assert files.load("tiny:grpo").method == "grpo"


def test_a_config_may_import_what_lies_beside_it(tmp_path):
  (tmp_path / "my_steps_of_a_run.py").write_text("STEPS = 7\n")
  # No file beside it takes the place of an installed module.
  (tmp_path / "calendar.py").write_text("raise ImportError\n")
  (tmp_path / "mine.py").write_text(
    "import calendar\nimport my_steps_of_a_run\n"
    "from progrpo_jax.settings import defaults\n\n"
    "def get_config():\n  c = defaults.get_config()\n"
    "  c.train.total_steps = my_steps_of_a_run.STEPS\n  return c\n"
  )
  before = list(sys.path)
  assert files.load(str(tmp_path / "mine.py")).train.total_steps == 7
  assert sys.path == before


def test_an_installed_package_has_them_inside(tmp_path, monkeypatch):
  inside = tmp_path / "progrpo_jax" / "configs"
  inside.mkdir(parents=True)
  (inside / "one.py").write_text("")
  monkeypatch.setattr(files, "_SHIPPED", (inside, files._SHIPPED[1]))
  assert list(files.shipped()) == ["one"]


@pytest.mark.parametrize("name", ["", "none", "a" * 300, "a\0b", "/no/such.py"])
def test_what_is_no_run_file_is_refused(name):
  with pytest.raises(errors.InputError, match="--config"):
    files.find(name)


def test_they_are_listed_and_printed(capsys):
  assert main.main(["configs"]) == 0
  listed = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in listed] == sorted(files.shipped())
  assert all(len(line.split()) > 3 for line in listed)  # and what each is
  assert main.main(["configs", "tiny"]) == 0
  assert capsys.readouterr().out == files.shipped()["tiny"].read_text()
  assert main.main(["configs", "tyni"]) == 2
  assert "did you mean tiny?" in capsys.readouterr().err
  assert main.main(["configs", "nope"]) == 2
  assert "did you mean" not in capsys.readouterr().err


def test_a_misspelt_name_names_the_nearest():
  with pytest.raises(errors.InputError, match=r"did you mean tiny\?"):
    files.load("tinny:grpo")
  with pytest.raises(errors.InputError, match="no method 'base' "):
    files.load("tiny:base")


def test_a_config_of_a_workdir_is_what_was_written():
  c = files.load("tiny:progrpo")
  again = files.from_json(json.loads(c.to_json_best_effort()))
  assert again == c and again.is_locked
