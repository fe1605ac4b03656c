"""Figures of pass@k on held-out problems.

What `groups` is: see `drawing`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from progrpo_jax.report import comparison, drawing, readings
from progrpo_jax.storage import metrics


def pass_at_k(
  groups: readings.RunsByLabel,
  base: metrics.Record | None = None,
  dataset: str | None = None,
) -> matplotlib.figure.Figure | None:
  """pass@k of the last evaluation against k, with intervals, on a log2 axis.

  The line has a point at every k if the samples were written, else only at the
  reported k, which have markers. Vertical bars are bounds, where there are too
  few samples for pass@k.

  Args:
    groups: {label: loaded runs}.
    base: loaded run of the base policy, or None.
    dataset: evaluation set; None for the first one in the runs.
  """
  summary = comparison.summarise(groups, base=base, dataset=dataset)
  counts = comparison.last_counts(groups, base=base, dataset=dataset)
  curves = {
    drawing.shown(name): comparison.curve(c) for name, c in counts.items()
  }
  summary = {
    drawing.shown(name): e
    for name, e in summary.items()
    if e["pass@k"] or e["between"]
  }
  if not summary:
    return None
  with matplotlib.rc_context(drawing.STYLE):
    figure, (axes,) = drawing.axes()
    colors = {label: color for label, _, color in drawing.colored(groups)}
    colors[readings.BASE] = drawing.BASE
    for index, (label, entry) in enumerate(summary.items()):
      _bars_between(axes, entry["between"], colors[label])
      if not entry["pass@k"]:
        continue
      # Points at every k from the samples, or at the reported k.
      ks = sorted(entry["pass@k"], key=int)
      points = curves[label] or [entry["pass@k"][k] for k in ks]
      mean, low, high = np.array(points, float).T
      x = np.array([int(k) for k in ks])
      marked = slice(None)
      if curves[label]:
        marked = [int(k) - 1 for k in ks if int(k) <= len(points)]
        x = np.arange(1, len(points) + 1)
      color = colors[label]
      axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
      axes.plot(
        x,
        mean,
        color=color,
        label=label,
        linestyle=(0, (4, 2))
        if label == readings.BASE
        else drawing.dashes(list(groups).index(drawing.unshown(label))),
        marker=drawing.MARKERS[index % len(drawing.MARKERS)],
        markersize=5,
        markevery=marked,
      )
    axes.set_xscale("log", base=2)
    # Ticks at the reported k only.
    every = sorted(
      {int(k) for e in summary.values() for k in (*e["pass@k"], *e["between"])}
    )
    axes.set_xticks(every, [str(k) for k in every])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    dataset = next(iter(summary.values()))["set"]
    axes.set_title(f"pass@k on {dataset}")
    axes.set_xlabel("k (samples per problem)")
    drawing.finish(
      axes, "pass@k", share=True, legend=len(summary) > 1, steps=False, fit=True
    )
  return figure


def pass_at_k_over_steps(
  groups: readings.RunsByLabel, dataset: str | None = None
) -> matplotlib.figure.Figure | None:
  """pass@k of each evaluation over steps; a line for each of up to three k."""
  dataset = dataset or readings.default_set(groups)
  runs_all = [run for runs in groups.values() for run in runs]
  ks = readings.shown_ks(runs_all, dataset)
  if not ks or max(len(run.evals) for run in runs_all) < 2:
    return None
  alone = len(groups) == 1
  with matplotlib.rc_context(drawing.STYLE):
    figure, (axes,) = drawing.axes()
    for index, (label, runs, color) in enumerate(drawing.colored(groups)):
      for rank, k in enumerate(ks):
        values = drawing.gather(runs, f"eval/{dataset}/pass@{k}", rows="evals")
        steps = sorted(values)
        least, most = (
          drawing.gather(runs, f"eval/{dataset}/pass@{k}/{end}", rows="evals")
          for end in ("at_least", "at_most")
        )
        _bars_between(
          axes,
          {x: (np.mean(least[x]), np.mean(most[x])) for x in least},
          drawing.PALETTE[rank] if alone else color,
        )
        axes.plot(
          steps,
          [np.mean(values[step]) for step in steps],
          color=drawing.PALETTE[rank] if alone else color,
          linestyle="-" if alone else drawing.DASHES[rank],
          marker=drawing.MARKERS[
            rank if alone else index % len(drawing.MARKERS)
          ],
          markersize=4.5,
          label=f"pass@{k}" if alone else f"{label}, pass@{k}",
        )
    axes.set_title(f"pass@k over training, {dataset}")
    drawing.finish(axes, "pass@k", share=True, legend=alone, fit=True)
    if not alone:  # one legend column per label
      drawing.legend_below(axes, len(groups))
  return figure


def pass1_histogram(
  groups: readings.RunsByLabel,
  base: metrics.Record | None = None,
  dataset: str | None = None,
) -> matplotlib.figure.Figure | None:
  """Histogram of problems by pass@1, the labels' bars side by side."""
  everything = {**({readings.BASE: [base]} if base else {}), **groups}
  dataset = dataset or readings.default_set(everything)
  counts = comparison.last_counts(groups, base=base, dataset=dataset)
  histograms = {
    drawing.shown(label): bars
    for label, runs in counts.items()
    if (bars := comparison.histogram(runs))
  }
  if not histograms:
    return None
  colors = {label: color for label, _, color in drawing.colored(groups)}
  colors[readings.BASE] = drawing.BASE
  # Bars fill 90% of a bin, 5% is left free on either side.
  width = 0.9 / comparison.BINS / len(histograms)
  with matplotlib.rc_context(drawing.STYLE):
    figure, (axes,) = drawing.axes()
    left = np.arange(comparison.BINS) / comparison.BINS
    for index, (label, bars) in enumerate(histograms.items()):
      axes.bar(
        left + 0.05 / comparison.BINS + index * width,
        bars,
        width,
        align="edge",
        color=colors[label],
        label=label,
      )
    axes.set_title(f"Problems by pass@1 on {dataset}")
    axes.set_xlabel("pass@1")
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    drawing.finish(axes, "problems", legend=len(histograms) > 1, steps=False)
  return figure


def _bars_between(
  axes: matplotlib.axes.Axes, between: Mapping[Any, Sequence[float]], color: str
) -> None:
  """Draws bounds {x: (least, most)} as vertical bars."""
  for x, (least, most) in between.items():
    axes.plot([int(x)] * 2, [least, most], color=color, marker="_", alpha=0.6)
