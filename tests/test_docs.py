"""The documentation says what is in the tree."""

import importlib.util
import pathlib
import re
import runpy
import subprocess

import pytest

from progrpo_jax import main
from progrpo_jax.settings import defaults

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [
  README,
  ROOT / "CONTRIBUTING.md",
  ROOT / "CHANGELOG.md",
  *sorted((ROOT / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def names(pages):
  return [str(p.relative_to(ROOT)) for p in pages]


def blocks(text):
  return BLOCK.findall(text)


def anchors(text):
  """Of the headings, as GitHub makes them."""
  headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
  return {
    re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings
  }


def tree(text):
  """Paths of the annotated tree; an indented line lies in the folder above."""
  block = next(b for b in blocks(text) if "\nprogrpo_jax/\n" in b)
  folders = []
  for line in block.splitlines():
    name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
    folders[depth:] = [name]
    yield "".join(folders)


def test_the_page_of_keys_is_what_the_script_makes():
  spec = importlib.util.spec_from_file_location(
    "make_configs", ROOT / "tools" / "make_configs.py"
  )
  script = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(script)
  made = script.page(script.SOURCE.read_text(encoding="utf-8"))
  assert script.PAGE.read_text(encoding="utf-8") == made, (
    "run `python tools/make_configs.py`"
  )


def test_the_page_of_keys_has_every_key_with_its_default():
  page = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
  rows = dict(re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", page, re.MULTILINE))
  config = defaults.get_config()

  def leaves(group, prefix=""):
    for key, value in group.items():
      if hasattr(value, "items") and len(value):
        yield from leaves(value, f"{prefix}{key}.")
      else:
        yield f"{prefix}{key}", value

  expected = dict(leaves(config))
  assert set(rows) == set(expected)
  for key, value in expected.items():
    default = {} if hasattr(value, "items") else value
    assert eval(rows[key], {}) == default, key


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page):
  text = page.read_text(encoding="utf-8")
  for link in LINK.findall(BLOCK.sub("", text)):
    if link.startswith(("http://", "https://")):
      continue
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    assert target.exists(), link
    if anchor:
      assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_and_targets_exist(page):
  text = page.read_text(encoding="utf-8")
  inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
  code = "\n".join(blocks(text) + inline)
  named = set(re.findall(r"(?:^|\| )progrpo ([a-z]\w*)", code, re.MULTILINE))
  assert named <= set(main.COMMANDS)
  makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
  for target in re.findall(r"^make ([a-z-]+)", code, re.MULTILINE):
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_makefile_names_tests_that_are_there():
  makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
  named = re.findall(r"\btests/[\w/.]+", makefile)
  assert named
  assert not [path for path in named if not (ROOT / path).exists()]


def test_the_table_of_commands_is_whole():
  text = README.read_text(encoding="utf-8")
  rows = re.findall(r"^\| `progrpo (\w+)` \|", text, re.MULTILINE)
  assert rows == list(main.COMMANDS)


def test_the_tree_holds_what_is_there():
  paths = list(tree(README.read_text(encoding="utf-8")))
  missing = [p for p in paths if not (ROOT / p).exists()]
  assert not missing
  # The package, and each of its rooms whose files are listed, is whole.
  for folder in {
    str(pathlib.Path(p).parent)
    for p in paths
    if p.startswith("progrpo_jax/") and p != "progrpo_jax/"
  }:
    listed = {p for p in paths if str(pathlib.Path(p).parent) == folder}
    assert listed == {
      f"{folder}/{p.name}" + "/" * p.is_dir()
      for p in (ROOT / folder).iterdir()
      if not p.name.startswith("__")
    }


def test_the_tree_holds_all_that_git_holds():
  files = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
  ).stdout.split()
  top = {f.split("/")[0] + "/" * ("/" in f) for f in files}
  assert top <= set(tree(README.read_text(encoding="utf-8")))


def test_the_figure_of_the_rooms_is_the_table():
  made = runpy.run_path(str(ROOT / "tools" / "make_rooms.py"))
  table = runpy.run_path(str(ROOT / "tests" / "test_rooms.py"))["ROOMS"]
  assert made["FIGURE"].read_text(encoding="utf-8") == made["draw"](table)


def sections(page):
  """Texts between headings of a page."""
  text = (ROOT / "docs" / page).read_text(encoding="utf-8")
  return re.split(r"^#+ ", text, flags=re.MULTILINE)


@pytest.mark.skipif(
  not (ROOT / ".git").exists(), reason="needs the history of the project"
)
@pytest.mark.parametrize("page", ["results.md", "benchmarks.md"])
def test_measured_figures_name_the_commit_that_made_them(page):
  measured = [s for s in sections(page) if re.search(r"^\|.*\d\.\d", s, re.M)]
  assert len(measured) >= 3
  for section in measured:
    commits = re.findall(r"\b[Cc]ommits? ([0-9a-f]{7})\b", section)
    assert commits, section.splitlines()[0]
    for commit in commits:
      known = subprocess.run(
        ["git", "merge-base", "--is-ancestor", commit, "HEAD"],
        cwd=ROOT,
        capture_output=True,
      )
      assert known.returncode == 0, f"no commit {commit} before this one"


def test_the_table_of_the_readme_is_that_of_the_results():
  """Rows of figures in the README, of a table that the page has too."""
  rows = re.findall(
    r"^\|.*\d\.\d.*$", (ROOT / "docs" / "results.md").read_text(), re.MULTILINE
  )
  readme = re.findall(r"^\|.*\d\.\d.*$", README.read_text(), re.MULTILINE)
  start = next(i for i, row in enumerate(readme) if row.startswith("| base "))
  for row in readme[start : start + 3]:
    assert row in rows, row
