"""The pages in a real browser, where there is one."""

import html
import json
import pathlib
import re
import runpy
import subprocess

import pytest

from progrpo_jax.report import compared
from progrpo_jax.report import html as pages

ROOT = pathlib.Path(__file__).resolve().parents[2]
BROWSER = runpy.run_path(str(ROOT / "tools" / "chromium.py"))
CHROMIUM = BROWSER["find"]()
WIDTH = 420
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")

# Numbers that are broken over two lines, or that lie beyond the page without
# a note on it.
CUT = r"""
function cut() {
  const found = [];
  const walker = document.createTreeWalker(document.body,
                                           NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement.checkVisibility()) continue;
    if (node.parentElement.closest("script, svg, nav, .words")) continue;
    for (const match of node.data.matchAll(/[+−-]?\d+\.\d+/g)) {
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const boxes = [...range.getClientRects()];
      const box = node.parentElement.closest(".scroll");
      const note = box && box.nextElementSibling.checkVisibility();
      if (boxes.length > 1) found.push("broken " + match[0]);
      else if (boxes[0].right > innerWidth && !note) {
        found.push("beyond " + match[0]);
      }
    }
  }
  return found;
}
"""


def _ask(page, tmp_path, script):
  """Opens a page at 420 px and returns what a function body returns there."""
  text = page.read_text()
  # The page's own policy would not run this script.
  text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
  probe = (
    f"<script>{CUT} onload = () => {{ const out = (() => {{ {script} }})();"
    'const node = document.createElement("pre"); node.id = "out";'
    "node.textContent = JSON.stringify({ width: innerWidth, out });"
    "parent.document.body.append(node); }</script>"
  )
  # A window has a least width, a frame has not.
  inner = html.escape(text.replace("</body>", probe + "</body>"))
  copy = tmp_path / "probe.html"
  copy.write_text(
    f'<!doctype html><meta charset="utf-8"><body><iframe width="{WIDTH}" '
    f'height="900" style="border: 0" srcdoc="{inner}"></iframe></body>'
  )
  done = subprocess.run(
    [
      CHROMIUM,
      *BROWSER["FLAGS"],
      f"--user-data-dir={tmp_path / 'profile'}",
      "--window-size=900,1000",
      "--virtual-time-budget=2000",
      "--dump-dom",
      copy.as_uri(),
    ],
    capture_output=True,
    text=True,
    check=True,
  )
  (answer,) = re.findall(r'<pre id="out">(.*?)</pre>', done.stdout)
  answer = json.loads(html.unescape(answer))
  assert answer["width"] == WIDTH
  return answer["out"]


def test_a_narrow_comparison_keeps_numbers_whole_and_answers(
  make_run, tmp_path
):
  page = compared.Comparison(
    {"a": [make_run("a")], "b": [make_run("b", shift=2)]},
    base=make_run("base", steps=10),
  ).write_page(tmp_path / "c.html")
  out = _ask(
    page,
    tmp_path,
    """
    document.querySelector("#boundary details").open = true;
    const svg = document.querySelectorAll("#glance svg")[2];
    const place = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent("pointermove", {
      clientX: place.left + place.width * 0.55,
      clientY: place.top + place.height * 0.4 }));
    const tip = svg.parentElement.querySelector(".tip");
    const sides = () => [...document.querySelectorAll("#pair section")].map(
      (side) => [...side.querySelectorAll(".card.correct")].map((card) =>
        card.querySelector(".answer").textContent +
        (card.querySelector(".flag") ? "*" : "")));
    const first = { titles: [...document.querySelectorAll("#pair h3")].map(
      (h) => h.textContent), answers: sides() };
    return { cut: cut(), tip: tip.hidden ? null : tip.innerText, first,
             width: document.documentElement.scrollWidth };
    """,
  )
  assert out["cut"] == []
  assert out["width"] <= WIDTH
  step, *lines = out["tip"].splitlines()
  assert re.fullmatch(r"step \d+", step)
  assert sorted(line.split()[0] for line in lines) == ["a", "b"]
  assert all(0 < float(line.split()[1]) < 1 for line in lines)
  left, right = out["first"]["answers"]
  assert left and right
  # An answer is marked where the other side lacks it, and nowhere else.
  for own, other in ((left, right), (right, left)):
    plain = {name.rstrip("*") for name in other}
    assert all(
      name.endswith("*") == (name[:-1] not in plain)
      for name in own
      if name.endswith("*")
    )
    assert all(name in plain for name in own if not name.endswith("*"))
  assert [title.split()[0] for title in out["first"]["titles"]] == ["a", "b"]


def test_a_narrow_report_opens_on_a_mixed_prompt(make_run, tmp_path):
  workdir = make_run()
  # The last step's first prompt is solved in no sample, its confidence small.
  path = workdir / "rollouts" / "000100.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for completion in rows[0]["completions"]:
    completion["correct"] = False
  for row in rows:
    row["c_prompt"] = 0.000234
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  out = _ask(
    pages.write_report(workdir),
    tmp_path,
    """
    const current = document.querySelector('[aria-current="true"]');
    return { cut: cut(), count: current.querySelector(".dots").innerText,
             first: document.querySelector("#prompts .dots").innerText,
             facts: document.querySelector(".question dl").innerText,
             notes: [...document.querySelectorAll(".scroll")].filter((box) =>
               box.scrollWidth > box.clientWidth + 1 &&
               !box.nextElementSibling.checkVisibility()).length,
             width: document.documentElement.scrollWidth };
    """,
  )
  assert out["cut"] == [] and out["notes"] == 0
  assert out["width"] <= WIDTH
  assert out["first"].strip() == "0/8"
  right, samples = map(int, out["count"].strip().split("/"))
  assert 0 < right < samples
  assert "2e-4" in out["facts"]
