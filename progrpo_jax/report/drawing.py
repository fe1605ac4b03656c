"""What all figures share: their style, colours, lines, axes and legends.

A figure function takes `groups`, an ordered dict from a label to the loaded
runs (seeds) of that label, and returns a matplotlib figure, or None if the runs
have no data for it. A single run is `{name: [run]}`.
"""

from collections.abc import Mapping, Sequence

import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from progrpo_jax.report import readings
from progrpo_jax.storage import metrics

# Name of a line style, or (offset, lengths of dashes and gaps) in points.
LineStyle = str | tuple[float, tuple[float, ...]]

# Okabe and Ito's palette for colour-blind readers, without its yellow, which is
# too faint on white.
PALETTE = (
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#7f5539",
  "#6c6f7d",
)
INK, GRID, BASE = "#1b1f24", "#dde1e6", "#5f6670"
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
_MAX_POINTS = 300
# With more labels than this the legend stands below the figure.
_MAX_INSIDE = 4
# Columns of a legend below, and the inches that each of its rows takes.
_BELOW, _ROW = 4, 0.18
STYLE = {
  "axes.axisbelow": True,
  "axes.edgecolor": GRID,
  "axes.grid": True,
  "axes.labelcolor": INK,
  "axes.labelsize": 10,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlelocation": "left",
  "axes.titlesize": 11,
  "axes.titleweight": "bold",
  "axes.titlecolor": INK,
  "figure.constrained_layout.use": True,
  "figure.facecolor": "none",
  "axes.facecolor": "none",
  "font.size": 10,
  "grid.color": GRID,
  "grid.linewidth": 0.8,
  "legend.fontsize": 9,
  "legend.frameon": False,
  "legend.labelcolor": INK,
  "lines.linewidth": 1.8,
  "svg.fonttype": "none",
  "svg.hashsalt": "progrpo",
  "text.color": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "xtick.major.size": 0,
  "ytick.major.size": 0,
}


def axes(
  rows: int = 1, heights: Sequence[float] | None = None
) -> tuple[matplotlib.figure.Figure, np.ndarray]:
  """Returns a new figure and its axes, one per row, with a common x axis."""
  figure = matplotlib.figure.Figure(figsize=(5.1, 3.1))
  grid = figure.subplots(
    rows, sharex=True, squeeze=False, height_ratios=heights
  )
  return figure, grid[:, 0]


def colored(
  groups: readings.RunsByLabel,
) -> list[tuple[str, Sequence[metrics.Record], str]]:
  """[(label, runs, colour)]; a label has the same colour in every figure."""
  return [
    (shown(label), runs, PALETTE[index % len(PALETTE)])
    for index, (label, runs) in enumerate(groups.items())
  ]


def dashes(index: int) -> LineStyle:
  """Line style of a label: each round through the palette has its own."""
  return DASHES[index // len(PALETTE) % len(DASHES)]


def shown(label: str) -> str:
  """Makes a label safe for matplotlib.

  Dollars would start mathtext, and a leading underscore would hide the label
  from the legend; a thin space before it prevents that.
  """
  label = label.replace("$", r"\$")
  return f"\u2009{label}" if label.startswith("_") else label


def unshown(label: str) -> str:
  """Returns the text that `shown` made safe."""
  return label.removeprefix("\u2009").replace(r"\$", "$")


def gather(
  runs: Sequence[metrics.Record], name: str, rows: str = "metrics"
) -> dict[int, list[float]]:
  """{step: values of the runs that logged one}, sorted by step."""
  by_step = {}
  for run in runs:
    steps, values = metrics.series(getattr(run, rows), name)
    for step, value in zip(steps, values, strict=True):
      by_step.setdefault(int(step), []).append(float(value))
  return {step: by_step[step] for step in sorted(by_step)}


def bins(
  steps: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Averages neighbours to at most `_MAX_POINTS` points, for small files."""
  steps, values = np.asarray(steps, float), np.asarray(values, float)
  if len(steps) <= _MAX_POINTS:
    return steps, values
  # `edges` are the first indices of the bins.
  edges = np.linspace(0, len(steps), _MAX_POINTS + 1).astype(int)[:-1]
  counts = np.diff(np.append(edges, len(steps)))
  return (
    np.add.reduceat(steps, edges) / counts,
    np.add.reduceat(values, edges) / counts,
  )


def running_mean(values: np.ndarray) -> np.ndarray:
  """Centred running mean over a twentieth of the series."""
  half = len(values) // 40
  if half == 0:
    return values
  # Differences of the cumulative sum; windows are shorter at both ends.
  total = np.cumsum(np.concatenate([[0.0], values]))
  index = np.arange(len(values))
  low = np.maximum(index - half, 0)
  high = np.minimum(index + half + 1, len(values))
  return (total[high] - total[low]) / (high - low)


def line(
  axes: matplotlib.axes.Axes,
  values: Mapping[int, Sequence[float]],
  color: str,
  *,
  label: str,
  linestyle: LineStyle = "-",
  smooth: bool = True,
) -> None:
  """Draws a metric over steps: running mean, on single values or a range.

  Args:
    axes: matplotlib axes.
    values: {step: values of the seeds}, from `gather`. With several seeds
      their range is shaded, with one its values are drawn faintly.
    color: colour of the line.
    label: label in the legend.
    linestyle: matplotlib line style.
    smooth: whether to draw the running mean rather than the mean.
  """
  if not values:
    return
  x, mean = bins(list(values), [np.mean(v) for v in values.values()])
  if max(map(len, values.values())) > 1:
    _, low = bins(list(values), [min(v) for v in values.values()])
    _, high = bins(list(values), [max(v) for v in values.values()])
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
  elif smooth and len(x) >= 40:
    axes.plot(x, mean, color=color, linewidth=0.8, alpha=0.3)
  thick = running_mean(mean) if smooth else mean
  axes.plot(x, thick, color=color, label=label, linestyle=linestyle)


def finish(
  axes: matplotlib.axes.Axes,
  unit: str,
  *,
  share: bool = False,
  legend: bool = False,
  steps: bool = True,
  floor: float | None = None,
  fit: bool = False,
) -> None:
  """Sets labels, limits and legend.

  Args:
    axes: matplotlib axes.
    unit: label of the y axis.
    share: whether values are shares, shown as percentages from 0 to 100%.
    legend: whether to add a legend, inside the axes if it is short.
    steps: whether the x axis is labelled as steps.
    floor: lower limit of the y axis, or None.
    fit: whether a share's axis may start above 0.
  """
  axes.set_ylabel(unit)
  if steps:
    axes.set_xlabel("step")
  if share:
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0) if fit else 0.0, min(max(high, 1e-3), 1.02))
  if floor is not None:
    axes.set_ylim(bottom=floor)
  axes.margins(x=0.02)
  if legend and len(axes.get_legend_handles_labels()[1]) > _MAX_INSIDE:
    legend_below(axes, _BELOW)
  elif legend:
    axes.legend(loc="best")


def legend_below(axes: matplotlib.axes.Axes, columns: int) -> None:
  """Adds a legend below the whole figure, which grows by its further rows."""
  handles, labels = axes.get_legend_handles_labels()
  columns = min(columns, _BELOW if len(labels) <= 2 * _BELOW else 3)
  rows = -(-len(labels) // columns)
  figure = axes.figure
  figure.set_figheight(figure.get_figheight() + _ROW * max(rows - 2, 0))
  figure.legend(handles, labels, loc="outside lower center", ncols=columns)
