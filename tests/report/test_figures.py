"""What the figures hold, and what becomes of them in a page."""

import json
import re

import numpy as np
import pytest

from progrpo_jax.report import comparison, curves, drawing, passk
from progrpo_jax.report import svg as svg_lib
from progrpo_jax.storage import metrics

ALL = (
  curves.reward,
  curves.correct,
  curves.entropy,
  curves.kl,
  curves.completion_length,
  curves.clip_ratio,
  curves.arm,
  curves.timing,
  passk.pass_at_k,
  passk.pass_at_k_over_steps,
)


@pytest.fixture
def groups(make_run):
  return {
    "progrpo": [metrics.load(make_run("progrpo", samples=False))],
    "grpo": [
      metrics.load(make_run(f"grpo{i}", shift=i, samples=False)) for i in (1, 2)
    ],
  }


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_every_figure_draws_one_run_and_several(draw, groups):
  for chosen in (groups, {"progrpo": groups["progrpo"]}):
    figure = draw(chosen)
    assert figure.axes[0].get_title(loc="left")
    svg = svg_lib.to_svg(figure, "f1", "a figure")
    assert svg.startswith('<svg role="img" aria-label="a figure"')
    assert "http" not in svg
    assert len(svg) < 120_000


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_a_run_without_the_metric_has_no_figure(draw, tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 1, "x": 1}\n')
  assert draw({"a": [metrics.load(tmp_path)]}) is None


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_one_step_is_enough_for_a_figure(draw, make_run):
  run = metrics.load(make_run(steps=1))
  figure = draw({"a": [run]})
  if figure is not None:
    svg_lib.to_svg(figure, "f", "one step")


def test_kl_marks_every_reset(groups):
  figure = curves.kl({"progrpo": groups["progrpo"]})
  lines = [
    line
    for line in figure.axes[0].lines
    if (line.get_gid() or "").startswith("reset-")
  ]
  assert [line.get_xdata()[0] for line in lines] == [40, 80]
  svg = svg_lib.to_svg(figure, "k", "KL")
  assert re.findall(r'id="(k-reset-\d+)"', svg) == ["k-reset-40", "k-reset-80"]


def test_kl_is_shown_as_measured(groups):
  # A running mean would hide the fall to 0.
  run = groups["progrpo"][0]
  line = curves.kl({"progrpo": [run]}).axes[0].lines[0]
  _, values = metrics.series(run.metrics, "kl")
  np.testing.assert_allclose(line.get_ydata(), values)


def test_seeds_are_drawn_as_their_mean(groups):
  figure = curves.entropy({"grpo": groups["grpo"]})
  (line,) = figure.axes[0].lines
  first = np.mean([run.metrics[0]["entropy"] for run in groups["grpo"]])
  second = np.mean([run.metrics[1]["entropy"] for run in groups["grpo"]])
  third = np.mean([run.metrics[2]["entropy"] for run in groups["grpo"]])
  # At the edge the running mean has the point and its two later neighbours.
  assert line.get_ydata()[0] == pytest.approx((first + second + third) / 3)
  assert figure.axes[0].collections


def test_pass_at_k_has_a_log2_axis_with_plain_labels(groups):
  axes = passk.pass_at_k(groups, base=groups["progrpo"][0]).axes[0]
  assert axes.get_xscale() == "log"
  labels = [label.get_text() for label in axes.get_xticklabels()]
  assert labels == ["1", "2", "4", "8", "16"]
  assert [line.get_label() for line in axes.lines] == [
    "base",
    "progrpo",
    "grpo",
  ]


def test_pass_at_k_goes_through_every_k_of_the_samples(make_run):
  run = metrics.load(make_run())
  (line,) = passk.pass_at_k({"a": [run]}).axes[0].lines
  np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 17))
  marked = [line.get_xdata()[i] for i in line.get_markevery()]
  assert marked == [1, 2, 4, 8, 16]
  reported = [run.evals[-1][f"eval/countdown/pass@{k}"] for k in marked]
  np.testing.assert_allclose(line.get_ydata()[line.get_markevery()], reported)


def test_histograms_stand_side_by_side(make_run):
  groups = {
    name: [metrics.load(make_run(name, shift=shift))]
    for name, shift in (("a", 0), ("b", 2))
  }
  base = groups["a"][0]
  figure = passk.pass1_histogram(groups, base=base)
  axes = figure.axes[0]
  labels = [t.get_text() for t in axes.get_legend().get_texts()]
  assert labels == ["base", "a", "b"]
  heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
  assert all(len(bars) == 10 and sum(bars) == 8 for bars in heights)
  assert heights[0] == heights[1] != heights[2]
  # No two bars cover each other.
  edges = sorted(
    (bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches
  )
  assert all(a[1] <= b[0] + 1e-9 for a, b in zip(edges, edges[1:]))
  svg = svg_lib.to_svg(figure, "h", "x")
  assert drawing.BASE in svg and len(svg) < 40_000


def test_a_histogram_needs_samples(groups):
  assert passk.pass1_histogram(groups) is None


def test_labels_are_shown_as_they_are(groups):
  runs = groups["progrpo"]
  figure = curves.entropy({"_a$^2$": runs, "<b>&": groups["grpo"]})
  shown = figure.axes[0].get_legend().get_texts()
  assert shown[0].get_text().strip() == r"_a\$^2\$"
  svg = svg_lib.to_svg(figure, "f", "x")
  assert "_a$^2$<" in svg and "&lt;b&gt;&amp;<" in svg


def test_long_runs_make_small_files(make_run):
  run = metrics.load(make_run(steps=3000, samples=False))
  svg = svg_lib.to_svg(curves.reward({"a": [run]}), "f", "reward")
  assert len(svg) < 40_000


def test_ids_of_two_figures_do_not_collide(groups):
  ids = [
    set(re.findall(r'\sid="([^"]+)"', svg_lib.to_svg(draw(groups), name, "x")))
    for draw, name in ((curves.reward, "f0"), (curves.entropy, "f1"))
  ]
  assert ids[0] and not ids[0] & ids[1]


def test_labels_of_ticks_are_not_cut(groups):
  # Coordinates are shortened; a tick of 0.005 must stay one.
  svg = svg_lib.to_svg(curves.kl({"a": groups["progrpo"]}), "k", "KL")
  assert ">0.005<" in svg


def test_times_are_medians_in_bars_and_tables(tmp_path):
  """The step that compiles takes a hundred times as long and moves nothing."""
  groups = {}
  for label, seconds in (("a", 1.0), ("b", 3.0)):
    rows = [
      {
        "step": s,
        "reward": 0.5,
        "timing_s/sample": t,
        "timing_s/update": t,
        "timing_s/step": 2 * t,
      }
      for s, t in enumerate([100 * seconds, seconds, seconds], start=1)
    ]
    place = tmp_path / label
    place.mkdir()
    (place / "metrics.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows)
    )
    groups[label] = [metrics.load(place)]
  table = comparison.summarise(groups)
  assert [e["seconds_per_step"] for e in table.values()] == [2.0, 6.0]
  (axes,) = curves.timing(groups).axes
  ends = [
    bars[i].get_x() + bars[i].get_width()
    for i in range(2)
    for bars in axes.containers[-1:]
  ]
  assert ends == [2.0, 6.0]
  # Of one run over steps, each bar is the median of its own steps.
  many = [
    dict(row, step=s)
    for s, row in enumerate(30 * groups["a"][0].metrics, start=1)
  ]
  (tmp_path / "a" / "metrics.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in many)
  )
  (axes,) = curves.timing({"a": [metrics.load(tmp_path / "a")]}).axes
  assert {bar.get_height() for bar in axes.containers[0]} == {1.0}


def test_reward_functions_are_no_tasks(tmp_path):
  rows = [
    {"step": s, "rewards/sums/mean": 0.5, "rewards/gsm8k/mean": 0.2}
    | {
      f"rewards/sums/{name}/{of}": 0.1 * s
      for name in ("close", "short")
      for of in ("mean", "std")
    }
    for s in (1, 2, 3)
  ]
  (tmp_path / "metrics.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows)
  )
  run = metrics.load(tmp_path)

  def lines(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]

  assert lines(curves.rewards_by_task({"a": [run]})) == ["gsm8k", "sums"]
  figure = curves.rewards_by_function({"a": [run]})
  assert lines(figure) == ["sums/close", "sums/short"]
  assert curves.rewards_by_function({"a": [run], "b": [run]}) is None


def test_rewards_by_task_need_several_tasks_of_one_run(tmp_path):
  def run(name, tasks):
    rows = [
      {"step": s}
      | {
        f"rewards/{t}/mean": 0.1 * i * (s % 2)
        for i, t in enumerate(tasks)
        if s % (i + 2)
      }
      for s in range(1, 9)
    ]
    (tmp_path / name).mkdir()
    (tmp_path / name / "metrics.jsonl").write_text(
      "".join(json.dumps(row) + "\n" for row in rows)
    )
    return metrics.load(tmp_path / name)

  tasks = [f"task_{i:02d}" for i in range(12)]
  one, many = run("one", ["gsm8k"]), run("many", tasks)
  assert curves.rewards_by_task({"a": [one]}) is None
  assert curves.rewards_by_task({"a": [many], "b": [many]}) is None
  figure = curves.rewards_by_task({"a": [many]})
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == tasks
  looks = {
    (line.get_color(), line.get_linestyle())
    for line in figure.axes[0].get_lines()
  }
  assert len(looks) == len(tasks)
  # A step that drew nothing of a task is no 0.
  assert list(figure.axes[0].get_lines()[0].get_xdata()) == [1, 3, 5, 7]
