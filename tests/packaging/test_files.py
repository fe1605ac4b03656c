"""Files for those who install, cite and change the project."""

import pathlib
import re

import pytest
import yaml

import progrpo_jax

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETUP = (ROOT / "setup.py").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())


def locked(name):
  text = (ROOT / "requirements-test.lock").read_text()
  return re.search(rf"^{re.escape(name)}==(.+)$", text, re.MULTILINE)[1]


def test_the_workflow_lints_tests_and_builds():
  jobs = WORKFLOW["jobs"]
  runs = "\n".join(
    step.get("run", "") for job in jobs.values() for step in job["steps"]
  )
  makefile = (ROOT / "Makefile").read_text()
  targets = re.findall(r"make ([a-z-]+)", runs)
  assert {"lint", "test", "docs"} <= set(targets)
  for target in targets:
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
  assert "python -m build" in runs
  # The Pythons that the package says it runs on.
  told = re.findall(r"Python :: (3\.\d+)", SETUP)
  for job in ("test", "wheel"):
    assert jobs[job]["strategy"]["matrix"]["python"] == told
  assert True in WORKFLOW or "on" in WORKFLOW  # YAML reads `on` as true


def test_the_hooks_run_the_locked_versions():
  hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
  for hook in hooks["repos"][0]["hooks"]:
    (wanted,) = hook["additional_dependencies"]
    name, _, version = wanted.partition("==")
    assert version == locked(name)


def test_the_image_copies_what_is_there_and_installs_known_extras():
  text = (ROOT / "Dockerfile").read_text()
  copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
  assert copied
  for name in " ".join(copied).split():
    assert (ROOT / name).exists(), name
  extras = set(re.findall(r'^    "([\w-]+)": ', SETUP, re.MULTILINE))
  for named in re.findall(r"EXTRAS=([\w,]+)", text):
    assert set(named.split(",")) <= extras
  # setup.py reads the README, and the wheel has the licence.
  assert {"setup.py", "README.md", "LICENSE", "configs"} <= set(
    " ".join(copied).split()
  )
  version = re.search(r"FROM python:(\d\.\d+)", text)[1]
  assert f"requirements-{version}.lock" in text


def test_versions_agree():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  needed = {"cff-version", "message", "title", "authors", "version", "license"}
  assert needed <= set(citation)
  changes = (ROOT / "CHANGELOG.md").read_text()
  newest = re.search(r"^## (\S+)", changes, re.MULTILINE)[1]
  assert progrpo_jax.__version__ == str(citation["version"]) == newest


@pytest.mark.parametrize(
  "lock", ["requirements.lock", "requirements-3.12.lock"]
)
def test_a_lock_has_all_that_the_base_install_and_the_tasks_need(lock):
  pinned = {
    line.partition("==")[0].lower().replace("_", "-")
    for line in (ROOT / lock).read_text().splitlines()
    if "==" in line
  }
  tests = {
    "gcsfs",
    "google-cloud-storage",
    "google-crc32c",
    "nbclient",
    "ipykernel",
  }
  lists = re.split(r'^    "tpu": ', SETUP, flags=re.MULTILINE)[0]
  named = re.findall(r'^\s+"([A-Za-z][\w-]*)(?:\[\w+\])?[>=]=', lists, re.M)
  wanted = {n.lower().replace("_", "-") for n in named} - tests
  assert len(wanted) > 30
  assert not wanted - pinned
