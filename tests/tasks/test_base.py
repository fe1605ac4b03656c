import subprocess
import sys

import pytest

from progrpo_jax.errors import InputError
from progrpo_jax.tasks import base, chain_sum, guess_number


def test_names_are_the_modules():
  assert {"countdown", "file", "reasoning_gym"} <= set(base.names())
  assert "base" not in base.names()
  for name in base.names():
    module = base.resolve(name)
    assert ":" in module.VERIFIER
    assert "prompt" in module.__doc__ and "answer" in module.__doc__
    assert name == "file" or hasattr(module, "SET") or module.DOMAIN


@pytest.mark.parametrize(
  "text, number",
  [
    ("4", 4),
    ("I say 4.", 4),
    ("-4", -4),
    ("\u22124", -4),
    ("4 or 5", None),
    ("1-7", None),
    ("none", None),
  ],
)
def test_a_guess_is_the_only_number(text, number):
  assert guess_number.guessed(text) == number


def test_unknown_name_names_the_nearest():
  with pytest.raises(InputError, match="did you mean 'countdown'"):
    base.resolve("countdwn")
  with pytest.raises(
    InputError, match="no task 'no.such.module'.*'module': 'file'"
  ):
    base.resolve("no.such.module")


def test_import_path_resolves():
  assert base.resolve("progrpo_jax.tasks.chain_sum") is chain_sum


def test_task_that_fails_to_import_shows_why(tmp_path, monkeypatch):
  (tmp_path / "my_task_package").mkdir()
  (tmp_path / "my_task_package" / "one.py").write_text("import not_installed")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(InputError, match="one.py, line 1: .*'not_installed'"):
    base.resolve("my_task_package.one")


def test_task_of_the_user(tmp_path, monkeypatch):
  (tmp_path / "my_package").mkdir()
  (tmp_path / "my_package" / "echo.py").write_text(
    "from progrpo_jax.tasks import base\n"
    "VERIFIER = 'my_package.echo:score'\n"
    "def load(split, *, data_dir, seed, size=3):\n"
    "  return [base.Row('my_package.echo', str(i), i, {'k': 1})\n"
    "          for i in range(size)]\n"
    "def score(completion, reference, *, k):\n"
    "  return (1.0, completion == str(reference), 'ok')\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  rows = base.load("my_package.echo", "train", data_dir="", seed=0, size=2)
  assert len(rows) == 2
  item = base.item(rows[1], "1")
  assert item == ("my_package.echo:score", "1", 1, {"k": 1})
  assert base.canonical(" a ", rows[0]) == "a"
  for thought in ("<think>b</think>", "c</think>\n\n"):
    assert base.canonical(thought + "a", rows[0]) == "a"
  assert base.canonical("<think>a", rows[0]) == "<think>a"
  with pytest.raises(InputError, match="no option 'sise'; did you mean 'size'"):
    base.load("my_package.echo", "train", data_dir="", seed=0, sise=2)


def test_unknown_split():
  with pytest.raises(InputError, match="did you mean 'validation'"):
    base.load("countdown", "valid", data_dir="", seed=0)


def test_tensorflow_stays_out(tmp_path):
  code = (
    "import sys; from progrpo_jax.tasks import base;"
    f"s = base.load('chain_sum', 'train', data_dir={str(tmp_path)!r}, seed=0,"
    "num_train=20, num_validation=5); s[0];"
    "assert 'tensorflow' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
