"""The wheel, where it and what it requires are all that is installed.

An environment is made of links to the packages of this one that the wheel
requires, and those that they require, and no others.
"""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import nbclient
import nbformat
from packaging import requirements
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "README.md", "LICENSE", "progrpo_jax", "configs")
# No path of the checkout, which the tests' own environment holds.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


def run(*command, cwd):
  return subprocess.run(
    [str(word) for word in command],
    cwd=cwd,
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
  )


def build(kind, source, target):
  """Builds as pip does, with what is installed, and returns the file."""
  target.mkdir()
  code = (
    "from setuptools import build_meta;"
    f" build_meta.build_{kind}({str(target)!r})"
  )
  done = run(sys.executable, "-c", code, cwd=source)
  assert not done.returncode, done.stderr[-2000:]
  (made,) = target.iterdir()
  return made


@pytest.fixture(scope="session")
def built(tmp_path_factory):
  """(sdist, wheel); the wheel is built of what the sdist holds."""
  folder = tmp_path_factory.mktemp("built")
  source = folder / "source"
  source.mkdir()
  skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
  for name in SOURCES:
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, source / name, ignore=skipped)
    else:
      shutil.copy(ROOT / name, source)
  sdist = build("sdist", source, folder / "sdist")
  with tarfile.open(sdist) as archive:
    archive.extractall(folder / "unpacked", filter="data")
  (unpacked,) = (folder / "unpacked").iterdir()
  return sdist, build("wheel", unpacked, folder / "wheel")


def metadata(wheel):
  with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
    return importlib.metadata.PathDistribution(
      zipfile.Path(archive, name.rpartition("/")[0] + "/")
    ).metadata


def required(requires, extras=()):
  """Distributions of a list of requirements, and of what those require."""
  found, todo = {}, [(r, frozenset(extras)) for r in requires]
  while todo:
    text, active = todo.pop()
    needed = requirements.Requirement(text)
    if needed.marker and not any(
      needed.marker.evaluate({"extra": e}) for e in ("", *active)
    ):
      continue
    key = needed.name, frozenset(needed.extras)
    if key not in found:
      found[key] = importlib.metadata.distribution(needed.name)
      todo += [(r, key[1]) for r in found[key].requires or ()]
  return found.values()


def link(distributions, site):
  """Links the files of distributions into a folder of packages."""
  for distribution in distributions:
    for top in {f.parts[0] for f in distribution.files}:
      if top not in ("..", "__pycache__") and not (site / top).exists():
        (site / top).symlink_to(distribution.locate_file(top))


def install(wheel, folder, extras=(), others=()):
  """Makes an environment of the wheel; returns the folder of its programs.

  Args:
    wheel: the wheel.
    folder: an empty folder.
    extras: names of its extras.
    others: requirements that are there besides.
  """
  done = run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
  assert not done.returncode, done.stderr
  python = folder / "bin" / "python"
  (site,) = folder.glob("lib/python*/site-packages")
  requires = [*metadata(wheel).get_all("Requires-Dist"), *others]
  link(required(requires, extras), site)
  pip = (sys.executable, "-m", "pip", "--python", python, "install")
  done = run(*pip, "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
  assert not done.returncode, done.stderr
  return folder / "bin"


@pytest.fixture(scope="session")
def base(built, tmp_path_factory):
  """A folder with python and progrpo of an environment without extras."""
  return install(built[1], tmp_path_factory.mktemp("environment"))


def test_both_files_hold_the_package(built):
  sdist, wheel = built
  with zipfile.ZipFile(wheel) as archive:
    inside = set(archive.namelist())
  with tarfile.open(sdist) as archive:
    packed = {n.partition("/")[2] for n in archive.getnames()}
  here = {
    str(p.relative_to(ROOT))
    for p in (ROOT / "progrpo_jax").rglob("*")
    if p.is_file() and "__pycache__" not in p.parts
  }
  assert "progrpo_jax/py.typed" in here
  assert not here - inside and not here - packed
  assert "progrpo_jax/configs/tiny.py" in inside
  assert "configs/tiny.py" in packed and "LICENSE" in packed
  assert not {n.partition("/")[0] for n in inside} - {
    "progrpo_jax",
    f"{wheel.name.partition('-py3')[0]}.dist-info",
  }


def test_the_wheel_says_what_it_is(built):
  import progrpo_jax

  told = metadata(built[1])
  assert told["Version"] == progrpo_jax.__version__
  assert told["License"] == "Apache-2.0"
  assert told["Author"] and told.get_all("Project-URL")
  known = set(told.get_all("Classifier"))
  for minor in (11, 12):
    assert f"Programming Language :: Python :: 3.{minor}" in known
  assert "# progrpo_jax" in told.get_payload()


def test_extras_are_those_that_messages_name(built):
  """Every message gets its command from `errors.install`."""
  from progrpo_jax import errors

  offered = set(metadata(built[1]).get_all("Provides-Extra"))
  assert set(errors.EXTRAS) <= offered
  for extra in errors.EXTRAS:
    assert errors.install(extra) == f"pip install 'progrpo_jax[{extra}]'"
  for refuses in (
    errors.install,
    lambda name: errors.of_extra(name).__enter__(),
  ):
    with pytest.raises(ValueError, match="'logics' is none of errors.EXTRAS"):
      refuses("logics")
  written_out = {
    path.name
    for path in (ROOT / "progrpo_jax").rglob("*.py")
    if "progrpo_jax[" in path.read_text(encoding="utf-8")
  }
  assert written_out == {"errors.py"}


def test_extras_are_those_that_the_readme_names(built):
  told = metadata(built[1])
  table = told.get_payload().partition("| extra | for |")[2].partition("\n\n")
  named = {
    extra
    for line in table[0].splitlines()
    for extra in re.findall(r"`([\w-]+)`", line.split("|")[1] if line else "")
  }
  assert {"logic", "tfds", "wandb", "cuda13"} <= named
  assert named <= set(told.get_all("Provides-Extra"))


def test_all_is_what_the_tasks_of_the_package_need(built):
  """And nothing that the base install has left out is required by it."""
  requires = metadata(built[1]).get_all("Requires-Dist")
  optional = {"reasoning-gym", "tensorflow-datasets", "pyarrow", "py3langid"}

  def names(*extras):
    return {
      requirements.Requirement(r).name
      for r in requires
      if (marker := requirements.Requirement(r).marker) is None
      or any(marker.evaluate({"extra": e}) for e in ("", *extras))
    }

  assert not optional & names()
  assert optional <= names("all")
  assert names("logic", "tfds", "language") == names("all")


def test_commands_run_outside_of_the_checkout(base, tmp_path):
  done = run(base / "progrpo", "configs", cwd=tmp_path)
  assert not done.returncode and "tiny" in done.stdout, done.stderr
  done = run(base / "progrpo", "tasks", "list", cwd=tmp_path)
  assert not done.returncode, done.stderr
  said = re.sub(r"[\s│]+", " ", done.stdout)
  assert "file" in said and "pip install 'progrpo_jax[" in said


def test_every_module_but_those_of_optional_tasks_imports(base, tmp_path):
  code = """
import importlib, json, pkgutil, progrpo_jax
from progrpo_jax import errors
missing = {}
for module in pkgutil.walk_packages(progrpo_jax.__path__, "progrpo_jax."):
  if ".configs" in module.name or module.name.endswith("jail"):
    continue
  try:
    importlib.import_module(module.name)
  except errors.InputError as error:
    missing[module.name] = str(error)
  except ModuleNotFoundError as error:
    assert error.name == "IPython", module.name
print(json.dumps(missing), progrpo_jax.__file__)
"""
  done = run(base / "python", "-c", code, cwd=tmp_path)
  assert not done.returncode, done.stderr[-2000:]
  assert str(ROOT) not in done.stdout
  assert "progrpo_jax.tasks.gsm8k" in done.stdout
  for name in ("cli.", "build.", "settings.", "rollout.", "report.", "file"):
    assert f"progrpo_jax.{name}" not in done.stdout
    assert f"tasks.{name}" not in done.stdout


@pytest.mark.parametrize(
  ("task", "extra"),
  [
    ("gsm8k", "tfds"),
    ("countdown", "logic"),
    ("instruction_following", "language"),
  ],
)
def test_a_task_whose_extra_is_missing_names_the_command(
  base, task, extra, tmp_path
):
  done = run(base / "progrpo", "tasks", "show", task, cwd=tmp_path)
  assert done.returncode == 2, done.stderr
  assert f"pip install 'progrpo_jax[{extra}]'" in done.stderr
  assert "Traceback" not in done.stderr


# What the notebook trains, with less of everything.
SHRUNK = """
import progrpo_jax

def get_config(method="progrpo"):
  return progrpo_jax.config("notebook", method=method, keys={
    "train.total_steps": 2, "train.prompts_per_step": 8, "eval.every": 2,
    "eval.num_problems": 4, "eval.batch_prompts": 4, "checkpoint.every": 2,
    "log.rollouts_every": 1, "warmup.steps": 40, "warmup.examples": 64})
"""


@pytest.mark.timeout(900)  # it compiles as a user's notebook does
def test_the_quickstart_runs_on_a_fresh_kernel(built, tmp_path, monkeypatch):
  """As on Colab: pip is all that was run, and no checkout is near."""
  environment = tmp_path / "environment"
  environment.mkdir()
  programs = install(built[1], environment, ["logic"], ["ipykernel"])
  python = programs / "python"
  spec = tmp_path / "jupyter" / "kernels" / "fresh"
  spec.mkdir(parents=True)
  argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
  (spec / "kernel.json").write_text(
    json.dumps({"argv": argv, "display_name": "fresh", "language": "python"})
  )
  monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
  monkeypatch.delenv("PYTHONPATH", raising=False)
  folder = tmp_path / "content"
  folder.mkdir()
  (folder / "shrunk.py").write_text(SHRUNK)
  notebook = nbformat.read(ROOT / "notebooks/quickstart.ipynb", as_version=4)
  for cell in notebook.cells:
    if cell.cell_type == "code":
      cell.outputs, cell.execution_count = [], None
      cell.source = re.sub(
        r'config\(\s*"notebook"', 'config("shrunk.py"', cell.source
      )
  asked = nbformat.v4.new_code_cell("print(progrpo_jax.__file__)", id="where")
  notebook.cells.append(asked)
  client = nbclient.NotebookClient(
    notebook,
    timeout=600,
    kernel_name="fresh",
    resources={"metadata": {"path": str(folder)}},
  )
  client.execute(env=ENVIRONMENT | {"JAX_PLATFORMS": "cpu"})
  shown = {c.id: c.outputs for c in notebook.cells if c.cell_type == "code"}
  assert str(environment) in shown["where"][0].text
  assert any("image/png" in o.data for o in shown["train"])
  (compared,) = [o for o in shown["compare"] if "data" in o]
  assert "<table" in compared.data["text/html"]
  for method in ("grpo", "progrpo"):
    text = (folder / "runs/notebooks" / method / "metrics.jsonl").read_text()
    assert len(text.splitlines()) == 2
