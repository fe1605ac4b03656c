"""Each command of README, docs, configs and notebooks runs."""

import io
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from progrpo_jax import main
from progrpo_jax.cli import bench, quickstart
from progrpo_jax.rewards import sandbox

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = runpy.run_path(str(ROOT / "tests" / "commands.py"))
DOCUMENTED = TABLE["documented"]()
STORIES = TABLE["STORIES"]
PAPER = sorted(filter(TABLE["PAPER"].fullmatch, DOCUMENTED))
MODULES = {"quickstart": quickstart, "bench": bench}
FILE = re.compile(r"^`([\w.]+)`:\n\n```python\n(.*?)^```", re.M | re.S)


def test_no_documented_command_is_missing_here():
  told = [command for story in STORIES.values() for command, _ in story]
  listed = [*told, *TABLE["ELSEWHERE"], *TABLE["NOT_RUN"], *PAPER]
  assert len(listed) == len(set(listed))
  assert not set(DOCUMENTED) - set(listed)
  assert not set(listed) - set(DOCUMENTED), "documented nowhere any more"


@pytest.mark.parametrize("path", sorted(set(TABLE["ELSEWHERE"].values())))
def test_what_runs_elsewhere_is_there(path):
  assert (ROOT / path).exists()


def recipe(target):
  """Words of the program that a target of the Makefile starts."""
  # The tests may themselves be started by make, which tells a make below it
  # so through these variables; that one would then print its directories, and
  # take the arguments of the tests for those of its program.
  environment = {
    key: value
    for key, value in os.environ.items()
    if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS")
  }
  shown = subprocess.run(
    ["make", "-n", "-o", "setup", *shlex.split(target)],
    cwd=ROOT,
    env=environment,
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  return shlex.split(shown.replace("\\\n", " ").splitlines()[-1])


def run(command, words, monkeypatch):
  """Runs a documented command with further words, in this process."""
  text = re.sub(r" \[.*\]", "", command)
  text = text.replace("KEY=VALUE", "alpha=0.1").partition(" > ")[0]
  piped, _, after = text.partition(" | ")
  if after:
    monkeypatch.setattr(sys, "stdin", io.StringIO(shlex.split(piped)[1] + "\n"))
    text = after
  program, *rest = shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", text))
  if program == "make":
    program, *rest = recipe(text.removeprefix("make "))
  words = [*rest, *shlex.split(words)]
  if program == "progrpo":
    return main.main(words)
  if words[0] == "-m":
    module = MODULES[words[1].rpartition(".")[2]]
    return module.run(words[2:])
  path = pathlib.Path(words[0])
  path = path if path.exists() else ROOT / path
  monkeypatch.setattr(sys, "argv", [str(path), *words[1:]])
  # As Python does for a script: a tool may import the one beside it.
  monkeypatch.syspath_prepend(str(path.resolve().parent))
  runpy.run_path(str(path), run_name="__main__")
  return 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """An empty folder with the files that the README says to write."""
  place = tmp_path / "here"
  place.mkdir()
  for name, text in FILE.findall((ROOT / "README.md").read_text()):
    (place / name).write_text(text)
  monkeypatch.chdir(place)
  return place


@pytest.mark.parametrize("story", STORIES)
def test_documented_commands_run(story, folder, small, monkeypatch, capsys):
  if story == "programs a minute" and not sandbox.best().grade:
    pytest.skip("no jail on this machine")
  config = small.write(
    folder / "config.py",
    train=dict(num_iterations=1),
    data=dict(max_prompt_length=12),
    log=dict(tensorboard=False),
  )
  for command, words in STORIES[story]:
    words = words.format(
      small=config, base=small.base, root=ROOT, python=sys.executable
    )
    assert run(command, words, monkeypatch) == 0, command
    capsys.readouterr()


@pytest.mark.parametrize("command", PAPER)
def test_runs_at_paper_scale_ask_for_what_is_not_here(command, folder, capsys):
  """All their words are understood; model or devices are missing."""
  assert main.main(shlex.split(command)[1:]) == 2
  said = capsys.readouterr().err
  assert re.search(
    r"models/[\w.-]+': no such directory|runs/\w+.?: no such directory|"
    r"mesh \{.*\} does not fit 1 device",
    said,
  ), said
