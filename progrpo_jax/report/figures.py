"""Figures of one run or of several runs, in one style.

Every public figure function takes `groups`, an ordered dict from a label to
the loaded runs (seeds) of that label, and returns a matplotlib figure, or None
if the runs have no data for it. A single run is `{name: [run]}`.
"""

import html
import io
import json
import re

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from progrpo_jax.report import comparison
from progrpo_jax.storage import metrics

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
STAGES = ("sample", "verify", "score", "update")
_VARIABLES = {color: f"--c{i}" for i, color in enumerate(PALETTE)}
_VARIABLES |= {INK: "--ink", GRID: "--grid", BASE: "--base"}
_MARKERS = "osD^vPX*"
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
_MAX_POINTS = 300
# With more labels than this the legend stands below the figure.
_MAX_INSIDE = 4
# Columns of a legend below, and the inches that each of its rows takes.
_BELOW, _ROW = 4, 0.18
_STYLE = {
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


def reward(groups):
  """Mean reward of the sampled completions over steps."""
  return _curve(groups, "reward", "Reward", "mean reward")


def correct(groups):
  """Share of the sampled completions that the verifier accepts."""
  return _curve(groups, "correct", "Correct completions", "share", share=True)


def rewards_by_task(groups):
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


def rewards_by_function(groups):
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


def _reward_lines(runs, names, title, unit):
  """Draws `rewards/<name>/mean` over steps, one line per name."""
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
    for rank, name in enumerate(names):
      _line(
        axes,
        _gather(runs, f"rewards/{name}/mean"),
        PALETTE[rank % len(PALETTE)],
        label=_shown(name),
        linestyle=_DASHES[rank // len(PALETTE) % len(_DASHES)],
      )
    axes.set_title(title)
    _finish(axes, unit)
    _legend_below(axes, min(len(names), 3))
  return figure


def entropy(groups):
  """Entropy of the policy at the sampled tokens over steps."""
  return _curve(groups, "entropy", "Policy entropy", "nats per token", floor=0)


def kl(groups):
  """KL to the reference, with a vertical line where the reference was reset."""
  # A running mean would blur the sudden fall to 0 at a reset.
  figure = _curve(
    groups, "kl", "KL to the reference", "nats per token", smooth=False
  )
  if figure is None:
    return None
  _reset_lines(figure.axes[0], groups)
  return figure


def completion_length(groups):
  """Tokens per completion, and the share cut off at the limit."""
  parts = (
    ("completions/mean_length", "Completion length", "tokens", False),
    ("completions/clipped_ratio", None, "cut off", True),
  )
  return _stacked(groups, parts, heights=(2, 1))


def clip_ratio(groups):
  """Share of clipped tokens, below and above the trust region."""
  parts = (("clip_ratio/low_mean", "below"), ("clip_ratio/high_mean", "above"))
  if not any(_gather(runs, parts[0][0]) for runs in groups.values()):
    return None
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
    _sides(axes, _colored(groups), parts)
    axes.set_title("Clipped tokens")
    alone = len(groups) == 1
    _finish(axes, "share of tokens", share=True, legend=alone)
    if not alone:  # one legend column per label
      _legend_below(axes, len(groups))
  return figure


def arm(groups):
  """ARM's confidence gap (top), active groups and sign flips (bottom)."""
  gap, spread = "arm/gap_mean", "arm/gap_std"
  colored = [item for item in _colored(groups) if _gather(item[1], gap)]
  if not colored:
    return None
  with matplotlib.rc_context(_STYLE):
    figure, (top, bottom) = _axes(2, heights=(3, 2))
    alone = len(colored) == 1
    for label, runs, color in colored:
      # Seeds are averaged per step; the band is mean ± std over completions.
      means, stds = _gather(runs, gap), _gather(runs, spread)
      steps = [step for step in means if step in stds]
      x, mean = _bins(steps, [np.mean(means[step]) for step in steps])
      _, std = _bins(steps, [np.mean(stds[step]) for step in steps])
      mean, std = _smooth(mean), _smooth(std)
      top.fill_between(
        x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0
      )
      _line(top, means, color, label="mean ± std" if alone else label)
    top.axhline(0, color=BASE, linewidth=1)
    top.set_title("ARM: confidence gap, prompt − answer")
    _finish(top, "gap", legend=alone, steps=False)
    parts = (("arm/active_groups", "active"), ("arm/sign_flip", "sign flips"))
    _sides(bottom, colored, parts, first=1)
    _finish(bottom, "share", share=True, legend=alone)
    if not alone:
      _legend_below(bottom, len(colored))
  return figure


def timing(groups):
  """Median seconds per stage, over steps or, with several labels, in total."""
  table = {
    # Labels without timings get no empty bar.
    label: runs
    for label, runs, _ in _colored(groups)
    if any(_gather(runs, f"timing_s/{stage}") for stage in STAGES)
  }
  if not table:
    return None
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
    axes.set_title("Time per step")
    if len(table) == 1:
      _bars_over_steps(axes, next(iter(table.values())))
    else:
      _bars_by_label(axes, table)
    _legend_below(axes, len(STAGES))
  return figure


def pass_at_k(groups, base=None, dataset=None):
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
  curves = {_shown(name): comparison.curve(c) for name, c in counts.items()}
  summary = {
    _shown(name): e
    for name, e in summary.items()
    if e["pass@k"] or e["between"]
  }
  if not summary:
    return None
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
    colors = {label: color for label, _, color in _colored(groups)}
    colors[comparison.BASE] = BASE
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
        if label == comparison.BASE
        else _dashes(list(groups).index(_unshown(label))),
        marker=_MARKERS[index % len(_MARKERS)],
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
    _finish(
      axes, "pass@k", share=True, legend=len(summary) > 1, steps=False, fit=True
    )
  return figure


def _bars_between(axes, between, color):
  """Draws bounds {x: (least, most)} as vertical bars."""
  for x, (least, most) in between.items():
    axes.plot([int(x)] * 2, [least, most], color=color, marker="_", alpha=0.6)


def pass_at_k_over_steps(groups, dataset=None):
  """pass@k of each evaluation over steps; a line for each of up to three k."""
  dataset = dataset or comparison.default_set(groups)
  runs_all = [run for runs in groups.values() for run in runs]
  ks = comparison.shown_ks(runs_all, dataset)
  if not ks or max(len(run.evals) for run in runs_all) < 2:
    return None
  alone = len(groups) == 1
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
    for index, (label, runs, color) in enumerate(_colored(groups)):
      for rank, k in enumerate(ks):
        values = _gather(runs, f"eval/{dataset}/pass@{k}", rows="evals")
        steps = sorted(values)
        least, most = (
          _gather(runs, f"eval/{dataset}/pass@{k}/{end}", rows="evals")
          for end in ("at_least", "at_most")
        )
        _bars_between(
          axes,
          {x: (np.mean(least[x]), np.mean(most[x])) for x in least},
          PALETTE[rank] if alone else color,
        )
        axes.plot(
          steps,
          [np.mean(values[step]) for step in steps],
          color=PALETTE[rank] if alone else color,
          linestyle="-" if alone else _DASHES[rank],
          marker=_MARKERS[rank if alone else index % len(_MARKERS)],
          markersize=4.5,
          label=f"pass@{k}" if alone else f"{label}, pass@{k}",
        )
    axes.set_title(f"pass@k over training, {dataset}")
    _finish(axes, "pass@k", share=True, legend=alone, fit=True)
    if not alone:  # one legend column per label
      _legend_below(axes, len(groups))
  return figure


def pass1_histogram(groups, base=None, dataset=None):
  """Histogram of problems by pass@1, the labels' bars side by side."""
  everything = {**({comparison.BASE: [base]} if base else {}), **groups}
  dataset = dataset or comparison.default_set(everything)
  counts = comparison.last_counts(groups, base=base, dataset=dataset)
  histograms = {
    _shown(label): bars
    for label, runs in counts.items()
    if (bars := comparison.histogram(runs))
  }
  if not histograms:
    return None
  colors = {label: color for label, _, color in _colored(groups)}
  colors[comparison.BASE] = BASE
  # Bars fill 90% of a bin, 5% is left free on either side.
  width = 0.9 / comparison.BINS / len(histograms)
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
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
    _finish(axes, "problems", legend=len(histograms) > 1, steps=False)
  return figure


def reset_steps(run):
  """Steps of a run after which the reference was reset."""
  steps, values = metrics.series(run.metrics, "ref_reset/reset")
  return [int(step) for step in steps[values > 0]]


def to_svg(figure, name, label):
  """Returns a figure as an SVG element for an HTML page.

  Colours become CSS variables with the original colour as the fallback, so
  that the same drawing suits light and dark pages. The attribute
  `data-curves` holds the lines' points, for the page's script.

  Args:
    figure: matplotlib figure.
    name: prefix that makes the SVG's ids unique on the page.
    label: description for screen readers, already escaped.
  """
  text = io.StringIO()
  lines = _labelled_lines(figure, name)
  with matplotlib.rc_context(_STYLE):
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)
  # Only the element: no XML header, metadata or namespaces.
  svg = text.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
  svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
  svg = re.sub(r'\s(?:d|x|y|points)="[^"]*"', _short_numbers, svg)
  for color in _VARIABLES:
    svg = re.sub(rf"((?:fill|stroke): ){color}", rf"\1{css(color)}", svg)
  # The page sets the size; the drawing's own width is the upper limit.
  size = re.search(r'width="([\d.]+)pt"', svg)[1]
  svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
  # The axes have their final places now that the figure is drawn.
  data = json.dumps(_curves(figure, lines), separators=(",", ":"))
  curves = f' data-curves="{html.escape(data)}"' if lines else ""
  return svg.replace(
    "<svg",
    f'<svg role="img" aria-label="{label}" style="max-width: {size}pt"{curves}',
    1,
  )


def css(color):
  """CSS of a colour, which a dark page replaces if it has a variable."""
  variable = _VARIABLES.get(color)
  return f"var({variable}, {color})" if variable else color


def _labelled_lines(figure, name):
  """{axes: [(id in the SVG, line)]} of the lines with points in data units."""
  found = {}
  for row, axes in enumerate(figure.axes):
    for index, line in enumerate(axes.get_lines()):
      # Lines across the whole axes are in other units.
      in_data = line.get_transform() == axes.transData
      if in_data and not line.get_label().startswith("_"):
        line.set_gid(f"series-{row}-{index}")
        found.setdefault(axes, []).append((f"{name}-{line.get_gid()}", line))
  return found


def _curves(figure, lines):
  """Returns what the page's script needs to know of a figure's lines.

  Args:
    figure: figure that has been drawn.
    lines: result of `_labelled_lines`.

  Returns:
    A list with a dict for each axes: `box`, its left, top, right and bottom in
    the SVG; `x` and `y`, each [low, high, whether it is logarithmic]; `name` of
    the x axis; whether y is a `share`; `steps`, the different lists of x; and
    `lines` with id, label, color, y and `at`, the index of its x in `steps`.
  """
  width, height = (72 * inches for inches in figure.get_size_inches())
  name = figure.axes[-1].get_xlabel().partition(" (")[0]
  panels = []
  for axes, members in lines.items():
    place = axes.get_position()
    steps, parts = [], []
    for identity, line in members:
      x = [float(f"{value:.6g}") for value in line.get_xdata()]
      if x not in steps:
        steps.append(x)
      parts.append(
        {
          "id": identity,
          "label": _unshown(line.get_label()),
          "color": css(line.get_color()),
          "at": steps.index(x),
          "y": [
            float(f"{value:.4g}") if np.isfinite(value) else None
            for value in line.get_ydata()
          ],
        }
      )
    sides = (
      place.x0 * width,
      (1 - place.y1) * height,
      place.x1 * width,
      (1 - place.y0) * height,
    )
    panels.append(
      {
        "box": [round(side, 2) for side in sides],
        "x": [*axes.get_xlim(), axes.get_xscale() == "log"],
        "y": [*axes.get_ylim(), axes.get_yscale() == "log"],
        "name": name,
        "share": isinstance(
          axes.yaxis.get_major_formatter(), matplotlib.ticker.PercentFormatter
        ),
        "steps": steps,
        "lines": parts,
      }
    )
  return panels


def _short_numbers(match):
  """Cuts coordinates to two decimals: 1/100 pt is not visible."""
  return re.sub(r"(\.\d\d)\d+", r"\1", match[0])


def _curve(groups, name, title, unit, **options):
  """Draws one metric over steps, one line per label."""
  share = options.pop("share", False)
  return _stacked(groups, ((name, title, unit, share),), **options)


def _stacked(groups, parts, heights=(1,), floor=None, smooth=True):
  """Draws metrics over the same steps, one above the other.

  Args:
    groups: {label: loaded runs}.
    parts: (metric, title or None, unit, whether it is a share) of each row;
      None if the first metric is missing, other missing ones are left out.
    heights: relative heights of the rows.
    floor: lower limit of the y axes, or None.
    smooth: whether to draw a running mean.
  """
  if not any(_gather(runs, parts[0][0]) for runs in groups.values()):
    return None
  parts = [
    (part, height)
    for part, height in zip(parts, heights, strict=True)
    if any(_gather(runs, part[0]) for runs in groups.values())
  ]
  with matplotlib.rc_context(_STYLE):
    figure, rows = _axes(len(parts), heights=[height for _, height in parts])
    # The legend is in the top row only, the step axis is labelled below.
    for axes, ((name, title, unit, share), _) in zip(rows, parts, strict=True):
      for index, (label, runs, color) in enumerate(_colored(groups)):
        _line(
          axes,
          _gather(runs, name),
          color,
          label=label,
          linestyle=_dashes(index),
          smooth=smooth,
        )
      if title:
        axes.set_title(title)
      last = axes is rows[-1]
      legend = len(groups) > 1 and axes is rows[0]
      _finish(axes, unit, share=share, legend=legend, steps=last, floor=floor)
  return figure


def _sides(axes, colored, parts, first=0):
  """Draws two metrics in one plot, told apart by colour or by dashes.

  With one label each metric has a colour, from `first` in the palette; with
  several, colours are the labels' and the second metric is dashed.
  """
  alone = len(colored) == 1
  for label, runs, color in colored:
    for index, (name, word) in enumerate(parts):
      _line(
        axes,
        _gather(runs, name),
        PALETTE[first + index] if alone else color,
        label=word if alone else f"{label}, {word}",
        linestyle=("-", (0, (3, 2)))[index],
      )


def _axes(rows=1, heights=None):
  """Returns a new figure and its axes, one per row, with a common x axis."""
  figure = matplotlib.figure.Figure(figsize=(5.1, 3.1))
  grid = figure.subplots(
    rows, sharex=True, squeeze=False, height_ratios=heights
  )
  return figure, grid[:, 0]


def _colored(groups):
  """[(label, runs, colour)]; a label has the same colour in every figure."""
  return [
    (_shown(label), runs, PALETTE[index % len(PALETTE)])
    for index, (label, runs) in enumerate(groups.items())
  ]


def _dashes(index):
  """Line style of a label: each round through the palette has its own."""
  return _DASHES[index // len(PALETTE) % len(_DASHES)]


def _shown(label):
  """Makes a label safe for matplotlib.

  Dollars would start mathtext, and a leading underscore would hide the label
  from the legend; a thin space before it prevents that.
  """
  label = label.replace("$", r"\$")
  return f"\u2009{label}" if label.startswith("_") else label


def _unshown(label):
  """Returns the text that `_shown` made safe."""
  return label.removeprefix("\u2009").replace(r"\$", "$")


def _gather(runs, name, rows="metrics"):
  """{step: values of the runs that logged one}, sorted by step."""
  by_step = {}
  for run in runs:
    steps, values = metrics.series(getattr(run, rows), name)
    for step, value in zip(steps, values, strict=True):
      by_step.setdefault(int(step), []).append(float(value))
  return {step: by_step[step] for step in sorted(by_step)}


def _bins(steps, values):
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


def _smooth(values):
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


def _line(axes, values, color, *, label, linestyle="-", smooth=True):
  """Draws a metric over steps: running mean, on single values or a range.

  Args:
    axes: matplotlib axes.
    values: {step: values of the seeds}, from `_gather`. With several seeds
      their range is shaded, with one its values are drawn faintly.
    color: colour of the line.
    label: label in the legend.
    linestyle: matplotlib line style.
    smooth: whether to draw the running mean rather than the mean.
  """
  if not values:
    return
  x, mean = _bins(list(values), [np.mean(v) for v in values.values()])
  if max(map(len, values.values())) > 1:
    _, low = _bins(list(values), [min(v) for v in values.values()])
    _, high = _bins(list(values), [max(v) for v in values.values()])
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
  elif smooth and len(x) >= 40:
    axes.plot(x, mean, color=color, linewidth=0.8, alpha=0.3)
  thick = _smooth(mean) if smooth else mean
  axes.plot(x, thick, color=color, label=label, linestyle=linestyle)


def _finish(
  axes, unit, *, share=False, legend=False, steps=True, floor=None, fit=False
):
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
    _legend_below(axes, _BELOW)
  elif legend:
    axes.legend(loc="best")


def _legend_below(axes, columns):
  """Adds a legend below the whole figure, which grows by its further rows."""
  handles, labels = axes.get_legend_handles_labels()
  columns = min(columns, _BELOW if len(labels) <= 2 * _BELOW else 3)
  rows = -(-len(labels) // columns)
  figure = axes.figure
  figure.set_figheight(figure.get_figheight() + _ROW * max(rows - 2, 0))
  figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _bars_over_steps(axes, runs):
  """Draws seconds per stage, stacked, in at most 40 bars over steps."""
  stages = {stage: _gather(runs, f"timing_s/{stage}") for stage in STAGES}
  steps = sorted(set.union(*(set(values) for values in stages.values())))
  # Each bar covers `size` logged steps and is as wide as the steps it spans.
  size = -(-len(steps) // 40)
  parts = np.split(np.array(steps), range(size, len(steps), size))
  middle = np.array([part.mean() for part in parts])
  width = 0.92 * np.array([part[-1] - part[0] + 1 for part in parts])
  bottom = np.zeros(len(parts))
  for stage, color in zip(STAGES, PALETTE, strict=False):
    seconds = {step: np.mean(values) for step, values in stages[stage].items()}
    height = np.array(
      [np.median([seconds.get(int(s), 0.0) for s in p]) for p in parts]
    )
    axes.bar(middle, height, width, bottom, color=color, label=stage)
    bottom += height
  _finish(axes, "seconds")


def _bars_by_label(axes, table):
  """Draws one stacked bar per label, of medians over steps as in tables."""
  names = list(table)
  left = np.zeros(len(names))
  for stage, color in zip(STAGES, PALETTE, strict=False):
    width = np.array(
      [comparison.median_seconds(table[name], stage) or 0.0 for name in names]
    )
    axes.barh(names, width, 0.6, left, color=color, label=stage)
    left += width
  axes.invert_yaxis()
  axes.grid(axis="y", visible=False)
  axes.set_xlabel("seconds")


def entropy_quantiles(groups):
  """Quantiles of the entropy over tokens (top) and decided tokens (bottom)."""
  if not any(_gather(runs, "entropy/q50") for runs in groups.values()):
    return None
  with matplotlib.rc_context(_STYLE):
    figure, (top, bottom) = _axes(2, heights=(2, 1))
    names = ("entropy/q10", "entropy/q50", "entropy/q90")
    _banded(top, groups, names, "median, 10% to 90%")
    top.set_title("Entropy of tokens")
    _finish(top, "nats", legend=True, steps=False, floor=0)
    for label, runs, color in _colored(groups):
      _line(bottom, _gather(runs, "entropy/low_share"), color, label=label)
    _finish(bottom, "decided", share=True)
  return figure


def covariance(groups):
  """Covariance of log-prob and advantage: mean (top), large ones (bottom)."""
  parts = (
    ("covariance/logp_advantage", "Covariance", "log-prob, advantage", False),
    ("covariance/high_share", None, "large", True),
  )
  figure = _stacked(groups, parts, heights=(2, 1))
  if figure is not None:
    figure.axes[0].axhline(0, color=BASE, linewidth=1)
  return figure


def reward_spread(groups):
  """Standard deviation of the rewards within groups."""
  if not any(_gather(runs, "reward_spread/mean") for runs in groups.values()):
    return None
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
    names = [f"reward_spread/{part}" for part in ("q10", "mean", "q90")]
    _banded(axes, groups, names, "mean, 10% to 90%")
    axes.set_title("Reward spread within groups")
    _finish(axes, "standard deviation", legend=True, floor=0)
  return figure


def kl_share(groups):
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


def shade(figure, spans):
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


def _reset_lines(axes, groups):
  """Draws a vertical line at each reset of the reference."""
  alone = len(groups) == 1
  for label, runs, color in _colored(groups):
    steps = sorted({step for run in runs for step in reset_steps(run)})
    for step in steps:
      line = axes.axvline(
        step,
        color=INK if alone else color,
        linewidth=1,
        linestyle=(0, (4, 3)),
        alpha=0.75,
        label="reference reset",
      )
      # The id of the line in the SVG, to find it by.
      line.set_gid(f"reset-{step}" if alone else f"reset-{label}-{step}")
    # The legend is taken by the labels; a reset has its label's colour.
    if alone and steps:
      with matplotlib.rc_context(_STYLE):
        axes.legend(handles=[line], loc="best")


def _banded(axes, groups, names, word):
  """Draws a line in a band for each label.

  Args:
    axes: matplotlib axes.
    groups: {label: loaded runs}.
    names: metrics of the lower edge, the line and the upper edge.
    word: label in the legend if there is only one label.
  """
  for label, runs, color in _colored(groups):
    low, middle, high = (_gather(runs, name) for name in names)
    steps = [step for step in middle if step in low and step in high]
    if steps:
      x, bottom = _bins(steps, [np.mean(low[step]) for step in steps])
      _, top = _bins(steps, [np.mean(high[step]) for step in steps])
      axes.fill_between(
        x, _smooth(bottom), _smooth(top), color=color, alpha=0.15, linewidth=0
      )
    shown = word if len(groups) == 1 else label
    _line(axes, middle, color, label=shown)
