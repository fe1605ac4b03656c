"""The pages: self-contained, honest about cuts, deaf to hostile text."""

import base64
import hashlib
import html.parser
import json
import re

import pytest

from progrpo_jax import errors
from progrpo_jax.report import compared, drawing, markup, rollouts
from progrpo_jax.report import html as pages


class _Reader(html.parser.HTMLParser):
  """Collects elements, their attributes and the text of scripts."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.scripts, self.text = [], [], []
    self._within = None
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag in ("script", "style"):
      self._within = tag
      if tag == "script":
        self.scripts.append("")

  def handle_endtag(self, tag):
    if tag == self._within:
      self._within = None

  def handle_data(self, data):
    if self._within == "script":
      self.scripts[-1] += data
    elif self._within is None:
      self.text.append(data)

  @property
  def rollouts(self):
    return json.loads(self.scripts[0])


def _report(workdir):
  path = pages.write_report(workdir)
  assert path == pages.epath.Path(workdir) / "report.html"
  raw = path.read_bytes()
  return raw.decode("utf-8"), _Reader(raw.decode("utf-8"))


def _assert_self_contained(text, page):
  assert not re.search(r"(https?:)?//[a-z]", text.split("<script")[0])
  for tag, attributes in page.elements:
    assert tag not in ("link", "img", "iframe", "object", "embed", "base")
    assert "src" not in attributes
    for name, value in attributes.items():
      assert not name.startswith("on")
      if name in ("href", "xlink:href"):
        assert "://" not in value
      assert "url(" not in (value or "") or "url(#" in value
  assert "@import" not in text
  (policy,) = [
    attributes["content"]
    for tag, attributes in page.elements
    if attributes.get("http-equiv") == "Content-Security-Policy"
  ]
  assert policy.startswith("default-src 'none'")
  for script in page.scripts[1:]:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest())
    assert f"'sha256-{digest.decode()}'" in policy


def test_a_report_needs_nothing_from_outside(make_run):
  text, page = _report(make_run())
  _assert_self_contained(text, page)
  assert len(text) < 1_500_000


def test_a_report_shows_the_key_numbers(make_run):
  _, page = _report(make_run())
  shown = " ".join(" ".join(page.text).split())
  assert "progrpo" in shown
  for part in (
    "final reward 0.712",
    "pass@1 0.594",
    "entropy 0.2",
    "resets 2",
    "last at step 80",
    "tokens 210 k",
    "time 1 min",
  ):
    assert part in shown
  assert "advantage grpo" in shown
  assert "step 100" in shown
  assert sum(tag == "figure" for tag, _ in page.elements) == 10


def test_ids_are_unique(make_run):
  _, page = _report(_judge(make_run(), _collapsing))
  ids = [a["id"] for _, a in page.elements if "id" in a]
  assert len(ids) == len(set(ids))
  assert any(identity.startswith("e0-") for identity in ids)


def _judge(workdir, level_of):
  """Adds to a run what the diagnostics of each step log."""
  path = workdir / "metrics.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows:
    level, reason = level_of(row["step"])
    row |= {
      "collapse/level": level,
      "collapse/reason": reason,
      "entropy/q10": 0.1 * row["entropy"],
      "entropy/q50": 0.8 * row["entropy"],
      "entropy/q90": 2.5 * row["entropy"],
      "entropy/low_share": 0.9 - 0.5 * row["entropy"],
      "covariance/logp_advantage": 0.1 * row["entropy"] - 0.02,
      "covariance/high_share": 0.01,
      "reward_spread/mean": 0.3 * row["entropy"],
      "reward_spread/q10": 0.0,
      "reward_spread/q90": 0.5 * row["entropy"],
      "kl_share": 0.6 * (1 - 0.9 ** (row["step"] % 40)),
    }
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return workdir


def _collapsing(step):
  if step < 60:
    return (1, "an early scare") if 20 <= step < 25 else (0, "")
  return (1, "30% left") if step < 81 else (2, f"<b>{101 - step}</b>% left")


def _alarm(page):
  """The style of the banner and the text that begins with it, or None."""
  found = [a for _, a in page.elements if a.get("class") == "alarm"]
  if not found:
    return None
  (attributes,) = found
  return attributes["style"]


def test_a_collapse_is_told_with_its_reason_and_its_beginning(make_run):
  text, page = _report(_judge(make_run(), _collapsing))
  _assert_self_contained(text, page)
  shown = " ".join(" ".join(page.text).split())
  assert "Collapse at the last step, 100, since step 81" in shown
  told = shown[shown.index("Collapse at") : shown.index("These steps")]
  assert re.findall(
    r"(collapse|warning) , steps (\d+ to \d+): ([^,]*?) "
    r"(?=warning|$)",
    told,
  ) == [
    ("collapse", "81 to 100", "<b>1</b>% left"),  # the last word counts
    ("warning", "60 to 80", "30% left"),
    ("warning", "20 to 24", "an early scare"),
  ]
  assert "<b>1</b>% left" not in text  # it is text, not markup
  assert f"var(--c1, {drawing.PALETTE[1]})" in _alarm(page)


def test_a_warning_and_a_recovery_have_their_own_words(make_run):
  _, page = _report(_judge(make_run("a"), lambda step: (int(step > 90), "low")))
  shown = " ".join(" ".join(page.text).split())
  assert "Warning at the last step, 100, since step 91" in shown
  assert f"var(--c4, {drawing.PALETTE[4]})" in _alarm(page)
  _, page = _report(_judge(make_run("b"), lambda step: (2 * (step == 7), "")))
  shown = " ".join(" ".join(page.text).split())
  assert "Flagged on the way, but not at the last step, 100" in shown
  assert "collapse , step 7 These" in shown


def test_a_run_that_is_well_or_not_judged_has_no_banner(make_run):
  for workdir in (make_run("a"), _judge(make_run("b"), lambda step: (0, ""))):
    _, page = _report(workdir)
    assert _alarm(page) is None
    assert "since step" not in " ".join(page.text)


def test_many_alarms_are_cut(make_run):
  _, page = _report(_judge(make_run(), lambda step: (step % 2, "odd")))
  shown = " ".join(" ".join(page.text).split())
  assert "steps 99" not in shown and "step 99: odd" in shown
  assert "and 45 earlier" in shown and "step 91: odd" in shown
  assert "step 89: odd" not in shown


def test_alarms_are_shaded_in_the_figures_over_steps(make_run):
  plain, _ = _report(_judge(make_run("a"), lambda step: (0, "")))
  shaded, page = _report(_judge(make_run("b"), _collapsing))

  def shades(text):
    return len(re.findall(r"fill: var\(--c[14], #\w+\); opacity: 0.14", text))

  # pass@k over k has no steps; three stretches on each axes of the others.
  assert shades(plain) == 0
  figures = sum(tag == "figure" for tag, _ in page.elements)
  assert figures == 14
  # 13 figures over steps, four of which have two axes.
  assert shades(shaded) == 3 * (13 + 4)


def test_the_diagnostics_have_their_part(make_run):
  text, page = _report(_judge(make_run(), _collapsing))
  part = text[text.index('<section id="exploration">') :]
  part = part[: part.index("</section>")]
  labels = re.findall(r'role="img" aria-label="(.*?)"', part)
  assert labels == [
    "Entropy of tokens",
    "Covariance",
    "Reward spread within groups",
    "KL&#x27;s part in the gradient",
  ]
  assert 'id="e3-reset-40"' in part and 'id="e3-reset-80"' in part
  assert 'href="#exploration"' in text
  # Without what they show, neither part nor link.
  text, _ = _report(make_run("plain"))
  assert 'id="exploration"' not in text and "#exploration" not in text


def test_resets_are_listed_with_what_led_to_them(make_run):
  workdir = _judge(make_run(), _collapsing)
  with (workdir / "metrics.jsonl").open("a") as file:
    line = {"step": 80, "ref_reset/reason": "KL <b> stands out"}
    file.write(json.dumps(line) + "\n")
  text, _ = _report(workdir)
  part = text[text.index('<section id="resets">') :]
  part = part[: part.index("</section>")]
  rows = [
    re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)
    for row in re.findall(r"<tr>(.*?)</tr>", part, flags=re.DOTALL)
  ]
  assert rows[0] == [
    "",
    "after steps",
    "KL before",
    "its part in the gradient",
    "entropy",
    "reward",
    "because",
  ]
  assert rows[1][:2] == ["step 40", "40"] and rows[1][-1] == ""
  assert rows[2][:2] == ["step 80", "40"]
  assert rows[2][-1] == "KL &lt;b&gt; stands out"
  assert rows[1][3] == "0.000"  # 40 % 40
  assert len(rows) == 3
  # A run that never resets has no such part.
  text, _ = _report(make_run("short", steps=20))
  assert 'id="resets"' not in text


def test_a_comparison_says_how_its_runs_stand(make_run, tmp_path):
  runs = {
    "a": [_judge(make_run("a"), _collapsing)],
    "b": [_judge(make_run("b"), lambda step: (0, ""))],
    "c": [make_run("c")],
  }
  text = (
    compared.Comparison(runs).write_page(tmp_path / "page.html").read_text()
  )
  part = text[text.index('<section id="runs">') :]
  assert re.findall(r"100 steps</td><td>(.*?)</td>", part) == [
    "collapse since step 81: &lt;b&gt;1&lt;/b&gt;% left",
    "ok",
    "–",
  ]
  assert '<section id="exploration">' in text
  page = _Reader(text)
  _assert_self_contained(text, page)
  ids = [a["id"] for _, a in page.elements if "id" in a]
  assert len(ids) == len(set(ids))


def test_words_among_the_measurements_are_shown_as_words(make_run):
  workdir = make_run()
  with (workdir / "eval.jsonl").open("a") as file:
    line = {"step": 100, "eval/countdown/regime": "<i>narrow"}
    file.write(json.dumps(line) + "\n")
  with (workdir / "metrics.jsonl").open("a") as file:
    line = {"step": 100, "collapse/level": "odd", "collapse/reason": 3}
    file.write(json.dumps(line) + "\n")
  text, page = _report(workdir)
  assert "<td>&lt;i&gt;narrow</td>" in text
  assert _alarm(page) is None


def test_every_control_has_a_label(make_run):
  text, page = _report(make_run())
  controls = [a["id"] for t, a in page.elements if t in ("select", "input")]
  assert len(controls) == 7
  labels = re.findall(r"<label.*?</label>", text, flags=re.DOTALL)
  for control in controls:
    assert any(f'id="{control}"' in label for label in labels)


def test_hostile_text_stays_data(make_run, hostile):
  text, page = _report(make_run("hostile", hostile=True))
  _assert_self_contained(text, page)
  assert len(page.scripts) == 2
  assert "alert(1)" not in page.scripts[1]
  assert "</script><script>alert" not in text
  assert not any(ord(c) < 32 and c not in "\n\t" for c in text)
  rows = page.rollouts["groups"][0]["rows"]
  assert rows[0]["completions"][0]["text"] == hostile
  assert rows[0]["prompt"].endswith(hostile)


@pytest.mark.parametrize("name", ["<i>&x", "a'b\"c"])
def test_a_hostile_name_is_escaped(make_run, name):
  text, page = _report(make_run(name))
  assert "<i>" not in text.split("<main")[0]
  assert name in "".join(page.text)


def test_text_loses_what_html_forbids():
  assert markup.text("<a&\x00\x1b\ud800\u202e>\n") == (
    "&lt;a&amp;␀␛\ufffd\ufffd&gt;\n"
  )


def test_embedded_json_cannot_end_its_element():
  coded = markup.embed({"x": "</script><!--", "nan": float("nan")})
  assert "<" not in coded
  assert json.loads(coded) == {"x": "</script><!--", "nan": None}


def test_the_browser_says_what_it_leaves_out(make_run, monkeypatch):
  monkeypatch.setattr(rollouts, "MAX_STEPS", 2)
  monkeypatch.setattr(rollouts, "MAX_PROMPTS", 3)
  monkeypatch.setattr(rollouts, "MAX_COMPLETIONS", 4)
  monkeypatch.setattr(rollouts, "MAX_CHARACTERS", 50)
  _, page = _report(make_run())
  shown = " ".join(page.text)
  assert "2 of 5 steps of training" in shown
  assert "3 of 8 prompts of training step 20" in shown
  groups = page.rollouts["groups"]
  assert [(g["source"], g["step"]) for g in groups] == [
    ("training", 20),
    ("training", 100),
    ("evaluation", 0),
    ("evaluation", 100),
  ]
  # Counts are of all samples, shown or not.
  row = groups[1]["rows"][0]
  assert (row["samples"], row["correct"], row["distinct"]) == (8, 6, 3)
  row = groups[0]["rows"][0]
  assert row["samples"] == 8
  assert len(row["completions"]) == 4
  assert re.search(
    r"\[… \d+ characters left out\]", row["completions"][1]["text"]
  )
  # Prompts that can be compared between steps come first.
  keys = [{row["key"] for row in group["rows"]} for group in groups[:2]]
  assert keys[0] == keys[1]


def test_distinct_correct_answers_get_their_letters(make_run):
  _, page = _report(make_run())
  (last,) = [
    group
    for group in page.rollouts["groups"]
    if (group["source"], group["step"]) == ("training", 100)
  ]
  row = last["rows"][0]
  letters = [c["answer"] for c in row["completions"]]
  assert letters == [*"ABCABC", None, None]
  for group in page.rollouts["groups"]:
    for row in group["rows"]:
      right = [c for c in row["completions"] if c["verdict"] == "correct"]
      assert len(right) == row["correct"]
      assert len({c["answer"] for c in right}) == row["distinct"]
      assert all(
        c["answer"] is None
        for c in row["completions"]
        if c["verdict"] != "correct"
      )


def test_a_sample_without_a_verdict_is_neither_right_nor_wrong():
  row = rollouts._row(
    {
      "prompt": "p",
      "completions": [
        {"text": "1", "correct": True, "status": "ok"},
        {"text": "2", "correct": False, "status": "ok"},
        {"text": "3", "correct": False, "status": "masked"},
      ],
    }
  )
  assert [c["verdict"] for c in row["completions"]] == [
    "correct",
    "wrong",
    "unknown",
  ]
  assert (row["samples"], row["correct"], row["unknown"]) == (3, 1, 1)


def test_answers_are_compared_without_the_prose():
  completions = [
    {"text": "so <answer>2 + 3</answer>", "correct": True},
    {"text": "thus\n<answer>2+3 </answer> done", "correct": True},
    {"text": r"it is \boxed{\frac{1}{2}}", "correct": True},
    {"text": r"then \boxed{7} or \boxed{\frac{1}{2}}.", "correct": True},
    {"text": "no tag", "correct": True},
    {"text": "no tag", "correct": False},
  ]
  assert rollouts._answer_letters(completions) == {
    0: "A",
    1: "A",
    2: "B",
    3: "B",
    4: "C",
  }


def test_a_run_of_one_step_without_anything_else_has_a_page(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1, "reward": null, "entropy": 0.5, "kl": 0.0}\n'
  )
  text, page = _report(tmp_path)
  shown = " ".join(page.text)
  assert "holds no rollouts" in shown
  assert "holds no config.json" in shown
  assert len(page.scripts) == 1  # that of the curves: there are no data
  _assert_self_contained(text, page)


def test_config_shows_what_differs_from_the_defaults(make_run):
  workdir = make_run()
  path = workdir / "config.json"
  config = json.loads(path.read_text())
  config["defaults"] = {
    "seed": 0,
    "algo": {"advantage": "grpo", "loss": "gspo", "num_generations": 8},
    "note": "",
  }
  path.write_text(json.dumps(config))
  text, _ = _report(workdir)
  table = re.search(r"changed</th>.*?</table>", text, flags=re.DOTALL)[0]
  assert re.findall(r'<tr><th scope="row">(.*?)</th>', table) == [
    "algo.loss",
    "algo.arm.alpha",
  ]
  assert "defaults." not in text


def test_a_comparison_links_its_runs_and_needs_nothing(make_run, tmp_path):
  first, second = make_run("a <1>"), make_run("b", shift=1)
  seed = make_run("b2", shift=2)
  pages.write_report(first)
  path = compared.Comparison(
    {"ARM & co": [first], "grpo": [second, seed]}, base=first / "eval.jsonl"
  ).write_page(tmp_path / "out" / "page.html")
  text = path.read_text()
  page = _Reader(text)
  _assert_self_contained(text, page)
  links = [a["href"] for t, a in page.elements if t == "a"]
  assert "../a%20%3C1%3E/report.html" in links
  shown = " ".join(" ".join(page.text).split())
  for part in (
    "base",
    "ARM & co",
    "grpo 2 seeds",
    "over problems",
    "pass@16",
    "s/step",
    "3 runs, 2 methods",
  ):
    assert part in shown
  # The methods' intervals overlap, so that none is the best.
  assert 'class="best"' not in text


def test_a_page_is_replaced_and_not_written_over(make_run, tmp_path):
  """A browser, or a copy that is under way, reads one page and not two."""
  both = compared.Comparison({"a": [make_run("a")], "b": [make_run("b")]})
  for write, name in (
    (lambda path: pages.write_report(make_run(), path), "report.html"),
    (both.write_page, "page.html"),
    (both.write_json, "numbers.json"),
  ):
    (tmp_path / name).write_text("before")
    (tmp_path / f"other-{name}").hardlink_to(tmp_path / name)
    write(tmp_path / name)
    assert (tmp_path / f"other-{name}").read_text() == "before"
    assert (tmp_path / name).read_text() != "before"


def test_a_missing_run_is_named(make_run, tmp_path):
  with pytest.raises(errors.InputError, match="no such workdir: .*nowhere"):
    pages.write_report(tmp_path / "nowhere")
  with pytest.raises(errors.InputError, match="nowhere"):
    compared.Comparison({"a": [make_run()], "b": [tmp_path / "nowhere"]})


def test_bounds_stand_where_a_pass_at_k_would(make_run, tmp_path):
  workdir = make_run("few")
  path = workdir / "eval.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for line in lines:
    name = "eval/countdown/pass@16"
    for end in ("", "/low", "/high"):
      del line[name + end]
    line |= {
      f"{name}/at_least": 0.251,
      f"{name}/at_most": 0.752,
      f"{name}/num_problems": 6,
      "eval/countdown/left_out": 5,
    }
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  page = pages.write_report(workdir).read_text()
  assert "0.251 to 0.752<small>not enough samples" in page
  assert "5 more were left out" in page
  both = compared.Comparison({"few": [workdir], "all": [make_run("all")]})
  page = both.write_page(tmp_path / "c.html").read_text()
  assert "0.251 to 0.752<small>not enough samples" in page
