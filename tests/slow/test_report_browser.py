"""The page in a real browser: its script, and what hostile text does to it.

Needs Chromium or Chrome on PATH (`apt-get install chromium`).
"""

import html.parser
import pathlib
import runpy
import shutil
import subprocess

import pytest

from progrpo_jax.report import html as pages
from progrpo_jax.report import rollouts

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_BROWSER = runpy.run_path(str(_ROOT / "tools" / "chromium.py"))
_FLAGS = (
  *_BROWSER["FLAGS"],
  "--enable-logging=stderr",
  "--virtual-time-budget=4000",
  "--dump-dom",
)


class _Dom(html.parser.HTMLParser):
  """Texts of the elements of each class, and the values of the controls."""

  def __init__(self, text):
    super().__init__()
    self.texts, self._open = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    entry = [tag, dict(attrs), ""]
    self.texts.append(entry)
    if tag not in ("meta", "input", "br", "use", "path"):
      self._open.append(entry)

  def handle_endtag(self, tag):
    while self._open and self._open.pop()[0] != tag:
      pass

  def handle_data(self, data):
    for entry in self._open:
      entry[2] += data

  def of(self, name):
    return [
      text for _, a, text in self.texts if name in a.get("class", "").split()
    ]

  def within(self, identity):
    (text,) = [t for _, a, t in self.texts if a.get("id") == identity]
    return text


@pytest.fixture
def browse(tmp_path):
  """Opens a page at a hash; returns its DOM and what the console said."""
  found = _BROWSER["find"]()
  if not found:
    names = ", ".join(_BROWSER["NAMES"])
    pytest.fail(f"none of {names} is on PATH: install Chromium")

  def browse(path, state):
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    address = f"{path.as_uri()}#{state}"
    done = subprocess.run(
      [found, *_FLAGS, f"--user-data-dir={profile}", address],
      capture_output=True,
      timeout=120,
      check=True,
    )
    errors = [
      line for line in done.stderr.decode().splitlines() if "CONSOLE" in line
    ]
    return _Dom(done.stdout.decode("utf-8", errors="replace")), errors

  return browse


def _page(workdir):
  pages.write_report(workdir)
  return workdir / "report.html"


def test_the_script_draws_the_last_step_first(browse, make_run):
  dom, errors = browse(_page(make_run()), "")
  assert errors == []
  assert "8 of 8 prompts" in dom.within("count")
  assert "Step 100" in dom.within("detail")
  assert len(dom.of("card")) == 8
  assert len(dom.of("verdict")) == 8


def test_counts_are_of_all_samples(browse, make_run, monkeypatch):
  monkeypatch.setattr(rollouts, "MAX_COMPLETIONS", 4)
  dom, errors = browse(_page(make_run()), "")
  assert errors == []
  assert len(dom.of("card")) == 4
  detail = dom.within("detail")
  assert "6 of 8 correct, 3 different answers; 4 of 8 shown" in detail
  assert "6/8" in dom.within("prompts")


def test_filters_and_search_select(browse, make_run):
  page = _page(make_run())
  dom, errors = browse(
    page, "source=training&step=60&show=wrong&task=chain_sum"
  )
  assert errors == []
  assert "4 of 8 prompts" in dom.within("count")
  assert set(dom.of("verdict")) == {"✗ wrong"}
  dom, _ = browse(page, "source=training&step=60&search=make+13")
  assert "1 of 8 prompts" in dom.within("count")
  assert [t for tag, _, t in dom.texts if tag == "mark"] == ["make 13"]
  dom, _ = browse(page, "source=training&step=60&search=nowhere")
  assert "Nothing matches." in dom.within("detail")
  dom, _ = browse(page, "source=training&step=60&group=correct")
  assert "0 of 8 prompts" in dom.within("count")


def test_two_steps_stand_side_by_side(browse, make_run):
  dom, errors = browse(
    _page(make_run()), "source=evaluation&step=20&prompt=1&with=100"
  )
  assert errors == []
  detail = dom.within("detail")
  assert "Step 20" in detail and "Step 100" in detail
  assert len(dom.of("card")) == 32


def test_a_state_that_does_not_exist_falls_back(browse, make_run):
  dom, errors = browse(
    _page(make_run()), "source=x&step=7&prompt=99&with=3&task=y&show=z&group=w"
  )
  assert errors == []
  assert "Step 100" in dom.within("detail")


def test_hostile_text_is_shown_and_does_nothing(browse, make_run):
  dom, errors = browse(
    _page(make_run("hostile", hostile=True)), "source=training&step=60"
  )
  # A script or image that had got in would be refused by the page's policy,
  # and the refusal would stand in the console.
  assert errors == []
  assert "</script><script>alert(1)</script>" in dom.of("card")[0]
  assert "␛[31mred" in dom.of("card")[0]
  assert "⟦U+202E⟧gnp.exe" in dom.of("card")[0]
  assert sum(tag == "script" for tag, _, _ in dom.texts) == 2
  assert not any(tag == "img" for tag, _, _ in dom.texts)
