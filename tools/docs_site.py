"""Hook of MkDocs: README and linked files of the repository become pages.

Pages of docs/ link to each other, to README and to files of the repository
(`../progrpo_jax/ops.py`). In the site README is the first page, and each linked
file a page below source/ that shows its text; of a folder it lists the files.
Used by mkdocs.yml; `make docs` builds the site.
"""

import pathlib
import posixpath
import re
import subprocess

from mkdocs.structure import files as files_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME, SOURCE = "index.md", "source/"

_BLOCK = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def linked(text: str, folder: str) -> set[str]:
  """Paths of the repository that a page links to, outside of its pages.

  Args:
    text: Markdown of the page.
    folder: folder of its file in the repository, "" or "docs".
  """
  found = set()
  for part in _BLOCK.split(text)[::2]:
    for _, link, _ in _LINK.findall(part):
      path = _path(link, folder)
      if path and not _page(path):
        found.add(path)
  return found


def moved(text: str, folder: str, here: str) -> str:
  """The Markdown of a page with the links that it needs in the site.

  Args:
    text: Markdown of the page.
    folder: folder of its file in the repository, "" or "docs".
    here: path of the page in the site.
  """

  def replace(match):
    path = _path(match[2], folder)
    if not path:
      return match[0]
    page = _page(path) or f"{SOURCE}{path}.md"
    start = posixpath.dirname(here) or "."
    _, mark, anchor = match[2].partition("#")
    return f"{match[1]}{posixpath.relpath(page, start)}{mark}{anchor}{match[3]}"

  parts = _BLOCK.split(text)
  parts[::2] = [_LINK.sub(replace, part) for part in parts[::2]]
  return "".join(parts)


def shown(path: str) -> str:
  """Markdown that shows a file, or lists the files of a folder."""
  if (ROOT / path).is_dir():
    names = subprocess.run(
      ["git", "ls-files", path],
      cwd=ROOT,
      check=True,
      capture_output=True,
      text=True,
    ).stdout
    return f"# {path}\n\n```text\n{names}```\n"
  text = (ROOT / path).read_text(encoding="utf-8")
  # One more mark than any of the file's own.
  fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
  return f"# {path}\n\n{fence}text\n{text.rstrip()}\n{fence}\n"


def on_files(files, config):
  """Adds the pages that are not in docs/."""
  readme = (ROOT / "README.md").read_text(encoding="utf-8")
  paths = linked(readme, "")
  for page in files.documentation_pages():
    paths |= linked(page.content_string, "docs")
  made = {HOME: readme} | {f"{SOURCE}{p}.md": shown(p) for p in sorted(paths)}
  for name, text in made.items():
    file = files_lib.File.generated(config, name, content=text)
    if name != HOME:
      # Reached by links; the navigation would be longer than the pages.
      file.inclusion = files_lib.InclusionLevel.NOT_IN_NAV
    files.append(file)
  return files


def on_page_markdown(markdown, page, config, files):
  """Points the links of a page at the pages of the site."""
  del config, files
  name = page.file.src_uri
  if name.startswith(SOURCE):
    return markdown
  return moved(markdown, "" if name == HOME else "docs", name)


def _path(link: str, folder: str) -> str:
  """Path in the repository that a link means; "" for the web, or an anchor."""
  path = link.partition("#")[0]
  if not path or "://" in path or path.startswith("mailto:"):
    return ""
  return posixpath.normpath(posixpath.join(folder, path))


def _page(path: str) -> str:
  """Place in the site of a page or figure of docs/, or of README; else ""."""
  if path == "README.md":
    return HOME
  return path.removeprefix("docs/") if path.startswith("docs/") else ""
