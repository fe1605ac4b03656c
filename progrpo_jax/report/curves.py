"""Figures of what a run logs over its steps.

What `groups` is: see `drawing`.
"""

from collections.abc import Iterable, Sequence
import re
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.figure
import numpy as np

from progrpo_jax.report import drawing, readings
from progrpo_jax.storage import metrics

STAGES = ("sample", "verify", "score", "update")


def reward(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """Mean reward of the sampled completions over steps."""
  return _curve(groups, "reward", "Reward", "mean reward")


def correct(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """Share of the sampled completions that the verifier accepts."""
  return _curve(groups, "correct", "Correct completions", "share", share=True)


def rewards_by_task(
  groups: readings.RunsByLabel,
) -> matplotlib.figure.Figure | None:
  """Mean reward of each task, for a single run with more than one task."""
  if len(groups) > 1:  # one line per task and label would be unreadable
    return None
  (runs,) = groups.values()
  names = {name for run in runs for row in run.metrics for name in row}
  tasks = {
    match[1]
    for name in names
    if (match := re.fullmatch(r"rewards/(.+)/mean", name))
  }
  # Reward functions log under the same pattern.
  tasks -= set(metrics.functions(names))
  if len(tasks) < 2:
    return None
  return _reward_lines(runs, sorted(tasks), "Reward by task", "mean reward")


def rewards_by_function(
  groups: readings.RunsByLabel,
) -> matplotlib.figure.Figure | None:
  """Mean value of each user-defined reward function, for a single run."""
  if len(groups) > 1:
    return None
  (runs,) = groups.values()
  names = {name for run in runs for row in run.metrics for name in row}
  functions = metrics.functions(names)
  if not functions:
    return None
  return _reward_lines(
    runs, functions, "Reward functions", "mean before weighting"
  )


def entropy(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """Entropy of the policy at the sampled tokens over steps."""
  return _curve(groups, "entropy", "Policy entropy", "nats per token", floor=0)


def entropy_quantiles(
  groups: readings.RunsByLabel,
) -> matplotlib.figure.Figure | None:
  """Quantiles of the entropy over tokens (top) and decided tokens (bottom)."""
  if not any(drawing.gather(runs, "entropy/q50") for runs in groups.values()):
    return None
  with matplotlib.rc_context(drawing.STYLE):
    figure, (top, bottom) = drawing.axes(2, heights=(2, 1))
    names = ("entropy/q10", "entropy/q50", "entropy/q90")
    _banded(top, groups, names, "median, 10% to 90%")
    top.set_title("Entropy of tokens")
    drawing.finish(top, "nats", legend=True, steps=False, floor=0)
    for label, runs, color in drawing.colored(groups):
      drawing.line(
        bottom, drawing.gather(runs, "entropy/low_share"), color, label=label
      )
    drawing.finish(bottom, "decided", share=True)
  return figure


def kl(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """KL to the reference, with a vertical line where the reference was reset."""
  # A running mean would blur the sudden fall to 0 at a reset.
  figure = _curve(
    groups, "kl", "KL to the reference", "nats per token", smooth=False
  )
  if figure is None:
    return None
  _reset_lines(figure.axes[0], groups)
  return figure


def kl_share(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """The KL's share of the gradient, with a line at each reset."""
  figure = _curve(
    groups,
    "kl_share",
    "KL's part in the gradient",
    "share",
    share=True,
    smooth=False,
  )
  if figure is not None:
    _reset_lines(figure.axes[0], groups)
  return figure


def completion_length(
  groups: readings.RunsByLabel,
) -> matplotlib.figure.Figure | None:
  """Tokens per completion, and the share cut off at the limit."""
  parts = (
    ("completions/mean_length", "Completion length", "tokens", False),
    ("completions/clipped_ratio", None, "cut off", True),
  )
  return _stacked(groups, parts, heights=(2, 1))


def clip_ratio(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """Share of clipped tokens, below and above the trust region."""
  parts = (("clip_ratio/low_mean", "below"), ("clip_ratio/high_mean", "above"))
  if not any(drawing.gather(runs, parts[0][0]) for runs in groups.values()):
    return None
  with matplotlib.rc_context(drawing.STYLE):
    figure, (axes,) = drawing.axes()
    _sides(axes, drawing.colored(groups), parts)
    axes.set_title("Clipped tokens")
    alone = len(groups) == 1
    drawing.finish(axes, "share of tokens", share=True, legend=alone)
    if not alone:  # one legend column per label
      drawing.legend_below(axes, len(groups))
  return figure


def arm(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """ARM's confidence gap (top), active groups and sign flips (bottom)."""
  gap, spread = "arm/gap_mean", "arm/gap_std"
  colored = [
    item for item in drawing.colored(groups) if drawing.gather(item[1], gap)
  ]
  if not colored:
    return None
  with matplotlib.rc_context(drawing.STYLE):
    figure, (top, bottom) = drawing.axes(2, heights=(3, 2))
    alone = len(colored) == 1
    for label, runs, color in colored:
      # Seeds are averaged per step; the band is mean ± std over completions.
      means, stds = drawing.gather(runs, gap), drawing.gather(runs, spread)
      steps = [step for step in means if step in stds]
      x, mean = drawing.bins(steps, [np.mean(means[step]) for step in steps])
      _, std = drawing.bins(steps, [np.mean(stds[step]) for step in steps])
      mean, std = drawing.running_mean(mean), drawing.running_mean(std)
      top.fill_between(
        x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0
      )
      drawing.line(top, means, color, label="mean ± std" if alone else label)
    top.axhline(0, color=drawing.BASE, linewidth=1)
    top.set_title("ARM: confidence gap, prompt − answer")
    drawing.finish(top, "gap", legend=alone, steps=False)
    parts = (("arm/active_groups", "active"), ("arm/sign_flip", "sign flips"))
    _sides(bottom, colored, parts, first=1)
    drawing.finish(bottom, "share", share=True, legend=alone)
    if not alone:
      drawing.legend_below(bottom, len(colored))
  return figure


def timing(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """Median seconds per stage, over steps or, with several labels, in total."""
  table = {
    # Labels without timings get no empty bar.
    label: runs
    for label, runs, _ in drawing.colored(groups)
    if any(drawing.gather(runs, f"timing_s/{stage}") for stage in STAGES)
  }
  if not table:
    return None
  with matplotlib.rc_context(drawing.STYLE):
    figure, (axes,) = drawing.axes()
    axes.set_title("Time per step")
    if len(table) == 1:
      _bars_over_steps(axes, next(iter(table.values())))
    else:
      _bars_by_label(axes, table)
    drawing.legend_below(axes, len(STAGES))
  return figure


def covariance(groups: readings.RunsByLabel) -> matplotlib.figure.Figure | None:
  """Covariance of log-prob and advantage: mean (top), large ones (bottom)."""
  parts = (
    ("covariance/logp_advantage", "Covariance", "log-prob, advantage", False),
    ("covariance/high_share", None, "large", True),
  )
  figure = _stacked(groups, parts, heights=(2, 1))
  if figure is not None:
    figure.axes[0].axhline(0, color=drawing.BASE, linewidth=1)
  return figure


def reward_spread(
  groups: readings.RunsByLabel,
) -> matplotlib.figure.Figure | None:
  """Standard deviation of the rewards within groups."""
  if not any(
    drawing.gather(runs, "reward_spread/mean") for runs in groups.values()
  ):
    return None
  with matplotlib.rc_context(drawing.STYLE):
    figure, (axes,) = drawing.axes()
    names = [f"reward_spread/{part}" for part in ("q10", "mean", "q90")]
    _banded(axes, groups, names, "mean, 10% to 90%")
    axes.set_title("Reward spread within groups")
    drawing.finish(axes, "standard deviation", legend=True, floor=0)
  return figure


def reset_steps(run: metrics.Record) -> list[int]:
  """Steps of a run after which the reference was reset."""
  steps, values = metrics.series(run.metrics, "ref_reset/reset")
  return [int(step) for step in steps[values > 0]]


def shade(
  figure: matplotlib.figure.Figure, spans: Iterable[tuple[int, int, str]]
) -> None:
  """Shades steps in all axes of a figure over steps.

  Args:
    figure: matplotlib figure; unchanged if its x axis is not in steps.
    spans: (first step, last step, colour) of each stretch to shade.
  """
  if figure.axes[-1].get_xlabel() != "step":
    return
  for axes in figure.axes:
    # Shading must not widen the axis.
    limits = axes.get_xlim()
    for first, last, color in spans:
      axes.axvspan(
        first - 0.5, last + 0.5, color=color, alpha=0.14, linewidth=0, zorder=0
      )
    axes.set_xlim(limits)


def _reward_lines(
  runs: Sequence[metrics.Record], names: Sequence[str], title: str, unit: str
) -> matplotlib.figure.Figure:
  """Draws `rewards/<name>/mean` over steps, one line per name."""
  with matplotlib.rc_context(drawing.STYLE):
    figure, (axes,) = drawing.axes()
    for rank, name in enumerate(names):
      drawing.line(
        axes,
        drawing.gather(runs, f"rewards/{name}/mean"),
        drawing.PALETTE[rank % len(drawing.PALETTE)],
        label=drawing.shown(name),
        linestyle=drawing.DASHES[
          rank // len(drawing.PALETTE) % len(drawing.DASHES)
        ],
      )
    axes.set_title(title)
    drawing.finish(axes, unit)
    drawing.legend_below(axes, min(len(names), 3))
  return figure


def _curve(
  groups: readings.RunsByLabel, name: str, title: str, unit: str, **options: Any
) -> matplotlib.figure.Figure | None:
  """Draws one metric over steps, one line per label."""
  share = options.pop("share", False)
  return _stacked(groups, ((name, title, unit, share),), **options)


def _stacked(
  groups: readings.RunsByLabel,
  parts: Sequence[tuple[str, str | None, str, bool]],
  heights: Sequence[float] = (1,),
  floor: float | None = None,
  smooth: bool = True,
) -> matplotlib.figure.Figure | None:
  """Draws metrics over the same steps, one above the other.

  Args:
    groups: {label: loaded runs}.
    parts: (metric, title or None, unit, whether it is a share) of each row;
      None if the first metric is missing, other missing ones are left out.
    heights: relative heights of the rows.
    floor: lower limit of the y axes, or None.
    smooth: whether to draw a running mean.
  """
  if not any(drawing.gather(runs, parts[0][0]) for runs in groups.values()):
    return None
  present = [
    (part, height)
    for part, height in zip(parts, heights, strict=True)
    if any(drawing.gather(runs, part[0]) for runs in groups.values())
  ]
  with matplotlib.rc_context(drawing.STYLE):
    figure, rows = drawing.axes(
      len(present), heights=[height for _, height in present]
    )
    # The legend is in the top row only, the step axis is labelled below.
    for axes, ((name, title, unit, share), _) in zip(
      rows, present, strict=True
    ):
      for index, (label, runs, color) in enumerate(drawing.colored(groups)):
        drawing.line(
          axes,
          drawing.gather(runs, name),
          color,
          label=label,
          linestyle=drawing.dashes(index),
          smooth=smooth,
        )
      if title:
        axes.set_title(title)
      last = axes is rows[-1]
      legend = len(groups) > 1 and axes is rows[0]
      drawing.finish(
        axes, unit, share=share, legend=legend, steps=last, floor=floor
      )
  return figure


def _sides(
  axes: matplotlib.axes.Axes,
  colored: Sequence[tuple[str, Sequence[metrics.Record], str]],
  parts: Sequence[tuple[str, str]],
  first: int = 0,
) -> None:
  """Draws two metrics in one plot, told apart by colour or by dashes.

  With one label each metric has a colour, from `first` in the palette; with
  several, colours are the labels' and the second metric is dashed.
  """
  alone = len(colored) == 1
  for label, runs, color in colored:
    for index, (name, word) in enumerate(parts):
      drawing.line(
        axes,
        drawing.gather(runs, name),
        drawing.PALETTE[first + index] if alone else color,
        label=word if alone else f"{label}, {word}",
        linestyle=("-", (0, (3, 2)))[index],
      )


def _reset_lines(
  axes: matplotlib.axes.Axes, groups: readings.RunsByLabel
) -> None:
  """Draws a vertical line at each reset of the reference."""
  alone = len(groups) == 1
  for label, runs, color in drawing.colored(groups):
    steps = sorted({step for run in runs for step in reset_steps(run)})
    for step in steps:
      line = axes.axvline(
        step,
        color=drawing.INK if alone else color,
        linewidth=1,
        linestyle=(0, (4, 3)),
        alpha=0.75,
        label="reference reset",
      )
      # The id of the line in the SVG, to find it by.
      line.set_gid(f"reset-{step}" if alone else f"reset-{label}-{step}")
    # The legend is taken by the labels; a reset has its label's colour.
    if alone and steps:
      with matplotlib.rc_context(drawing.STYLE):
        axes.legend(handles=[line], loc="best")


def _banded(
  axes: matplotlib.axes.Axes,
  groups: readings.RunsByLabel,
  names: Sequence[str],
  word: str,
) -> None:
  """Draws a line in a band for each label.

  Args:
    axes: matplotlib axes.
    groups: {label: loaded runs}.
    names: metrics of the lower edge, the line and the upper edge.
    word: label in the legend if there is only one label.
  """
  for label, runs, color in drawing.colored(groups):
    low, middle, high = (drawing.gather(runs, name) for name in names)
    steps = [step for step in middle if step in low and step in high]
    if steps:
      x, bottom = drawing.bins(steps, [np.mean(low[step]) for step in steps])
      _, top = drawing.bins(steps, [np.mean(high[step]) for step in steps])
      axes.fill_between(
        x,
        drawing.running_mean(bottom),
        drawing.running_mean(top),
        color=color,
        alpha=0.15,
        linewidth=0,
      )
    shown = word if len(groups) == 1 else label
    drawing.line(axes, middle, color, label=shown)


def _bars_over_steps(
  axes: matplotlib.axes.Axes, runs: Sequence[metrics.Record]
) -> None:
  """Draws seconds per stage, stacked, in at most 40 bars over steps."""
  stages = {
    stage: drawing.gather(runs, f"timing_s/{stage}") for stage in STAGES
  }
  steps = sorted(set.union(*(set(values) for values in stages.values())))
  # Each bar covers `size` logged steps and is as wide as the steps it spans.
  size = -(-len(steps) // 40)
  parts = np.split(np.array(steps), range(size, len(steps), size))
  middle = np.array([part.mean() for part in parts])
  width = 0.92 * np.array([part[-1] - part[0] + 1 for part in parts])
  bottom = np.zeros(len(parts))
  for stage, color in zip(STAGES, drawing.PALETTE, strict=False):
    seconds = {step: np.mean(values) for step, values in stages[stage].items()}
    height = np.array(
      [np.median([seconds.get(int(s), 0.0) for s in p]) for p in parts]
    )
    axes.bar(middle, height, width, bottom, color=color, label=stage)
    bottom += height
  drawing.finish(axes, "seconds")


def _bars_by_label(
  axes: matplotlib.axes.Axes, table: readings.RunsByLabel
) -> None:
  """Draws one stacked bar per label, of medians over steps as in tables."""
  names = list(table)
  left = np.zeros(len(names))
  for stage, color in zip(STAGES, drawing.PALETTE, strict=False):
    width = np.array(
      [readings.median_seconds(table[name], stage) or 0.0 for name in names]
    )
    axes.barh(names, width, 0.6, left, color=color, label=stage)
    left += width
  axes.invert_yaxis()
  axes.grid(axis="y", visible=False)
  axes.set_xlabel("seconds")
