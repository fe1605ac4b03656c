"""The site of docs/: every page is in it, and every link leads somewhere."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages(nav):
  """Pages of a navigation, in order."""
  for entry in nav:
    for place in entry.values():
      yield from [place] if isinstance(place, str) else pages(place)


def build(folder, target):
  pytest.importorskip("mkdocs", reason="mkdocs is in the extra `docs`")
  return subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", target],
    cwd=folder,
    capture_output=True,
    text=True,
  )


def test_the_navigation_has_every_page_once():
  there = {p.name for p in (ROOT / "docs").glob("*.md")}
  assert sorted(pages(SETTINGS["nav"])) == sorted({"index.md", *there})
  for hook in SETTINGS["hooks"]:
    assert (ROOT / hook).exists()


def test_the_site_is_built_strictly(tmp_path):
  done = build(ROOT, tmp_path)
  assert not done.returncode, done.stderr
  home = (tmp_path / "index.html").read_text()
  assert "One step in seven calls" in home
  # A file of the repository is a page that shows it.
  link = "source/progrpo_jax/loop.py.html"
  assert f'href="{link}"' in home
  assert "def loop(" in (tmp_path / link).read_text()
  for page in pages(SETTINGS["nav"]):
    text = (tmp_path / page).with_suffix(".html").read_text()
    assert not re.search(r'<(script|link|img)[^>]*(src|href)="https?:', text)


@pytest.mark.parametrize(
  ("link", "words"),
  [
    ("architecture.md#no-such-heading", "no-such-heading"),
    ("nowhere.md", "nowhere.md"),
  ],
)
def test_a_link_that_leads_nowhere_ends_the_build(link, words, tmp_path):
  source = tmp_path / "source"
  source.mkdir()
  (source / "tools").symlink_to(ROOT / "tools")
  shutil.copy(ROOT / "mkdocs.yml", source)
  shutil.copytree(ROOT / "docs", source / "docs")
  page = source / "docs" / "gpu.md"
  page.write_text(page.read_text() + f"\n[somewhere]({link})\n")
  done = build(source, tmp_path / "site")
  assert done.returncode and words in done.stderr + done.stdout
