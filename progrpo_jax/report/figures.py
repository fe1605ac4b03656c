"""Figures of one run or of several, with one look.

Every function takes `groups`, an ordered dict from a label to the loaded runs
(seeds) of that label, and returns a matplotlib figure, or None when the runs
hold nothing to show. One run alone is `{name: [run]}`.
"""

import io
import re

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from progrpo_jax.report import comparison
from progrpo_jax.storage import metrics

# Okabe and Ito's palette, without its yellow, which white paper swallows.
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
_MARKERS = "osD^vPX*"
_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
_MAX_POINTS = 300
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
  """Mean reward of each task of one run, where it has more than one."""
  if len(groups) > 1:  # a line a task and a label would be a tangle
    return None
  (runs,) = groups.values()
  names = {name for run in runs for row in run.metrics for name in row}
  tasks = {
    found[1]
    for name in names
    if (found := re.fullmatch(r"rewards/(.+)/mean", name))
  }
  tasks -= set(metrics.functions(names))
  if len(tasks) < 2:
    return None
  return _reward_lines(runs, sorted(tasks), "Reward by task", "mean reward")


def rewards_by_function(groups):
  """Mean value of each reward function of the user, of one run."""
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
  """A line for `rewards/<name>/mean` of each name."""
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
  # A running mean would round off the fall to 0 at a reset.
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
  """Share of the tokens whose ratio left the trust region, by side."""
  parts = (("clip_ratio/low_mean", "below"), ("clip_ratio/high_mean", "above"))
  if not any(_gather(runs, parts[0][0]) for runs in groups.values()):
    return None
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
    _sides(axes, _colored(groups), parts)
    axes.set_title("Clipped tokens")
    alone = len(groups) == 1
    _finish(axes, "share of tokens", share=True, legend=alone)
    if not alone:  # a column a label
      _legend_below(axes, len(groups))
  return figure


def arm(groups):
  """What ARM did: the confidence gap, active groups and flipped signs."""
  gap, spread = "arm/gap_mean", "arm/gap_std"
  colored = [item for item in _colored(groups) if _gather(item[1], gap)]
  if not colored:
    return None
  with matplotlib.rc_context(_STYLE):
    figure, (top, bottom) = _axes(2, heights=(3, 2))
    alone = len(colored) == 1
    for _, runs, color in colored:
      means, stds = _gather(runs, gap), _gather(runs, spread)
      steps = [step for step in means if step in stds]
      x, mean = _bins(steps, [np.mean(means[step]) for step in steps])
      _, std = _bins(steps, [np.mean(stds[step]) for step in steps])
      mean, std = _smooth(mean), _smooth(std)
      top.fill_between(
        x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0
      )
      _line(top, means, color, label="mean ± std")
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
  """Median seconds by stage: over steps for one label, else one bar a label."""
  table = {
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
  """Last evaluation's pass@k against k with its interval, log2 axis.

  Where the samples were written the line goes through every k, else from one
  reported k to the next; markers are on the reported ones. Upright bars are
  bounds, where there are not samples enough for a number.
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
        linestyle=(0, (4, 2)) if label == comparison.BASE else "-",
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=5,
        markevery=marked,
      )
    axes.set_xscale("log", base=2)
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
  """Bounds, {x: (least, most)}, as upright bars."""
  for x, (least, most) in between.items():
    axes.plot([int(x)] * 2, [least, most], color=color, marker="_", alpha=0.6)


def pass_at_k_over_steps(groups, dataset=None):
  """pass@k of each evaluation over steps: a line for each of three k."""
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
        found = _gather(runs, f"eval/{dataset}/pass@{k}", rows="evals")
        steps = sorted(found)
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
          [np.mean(found[step]) for step in steps],
          color=PALETTE[rank] if alone else color,
          linestyle="-" if alone else _DASHES[rank],
          marker=_MARKERS[rank if alone else index % len(_MARKERS)],
          markersize=4.5,
          label=f"pass@{k}" if alone else f"{label}, pass@{k}",
        )
    axes.set_title(f"pass@k over training, {dataset}")
    _finish(axes, "pass@k", share=True, legend=alone, fit=True)
    if not alone:  # a column a label
      _legend_below(axes, len(groups))
  return figure


def pass1_histogram(groups, base=None, dataset=None):
  """Problems by their pass@1: bars of all labels side by side in each bin."""
  everything = {**({comparison.BASE: [base]} if base else {}), **groups}
  dataset = dataset or comparison.default_set(everything)
  counts = comparison.last_counts(groups, base=base, dataset=dataset)
  found = {
    _shown(label): bars
    for label, runs in counts.items()
    if (bars := comparison.histogram(runs))
  }
  if not found:
    return None
  colors = {label: color for label, _, color in _colored(groups)}
  colors[comparison.BASE] = BASE
  width = 0.9 / comparison.BINS / len(found)
  with matplotlib.rc_context(_STYLE):
    figure, (axes,) = _axes()
    left = np.arange(comparison.BINS) / comparison.BINS
    for index, (label, bars) in enumerate(found.items()):
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
    _finish(axes, "problems", legend=len(found) > 1, steps=False)
  return figure


def reset_steps(run):
  """Steps that ended in a reset of the reference."""
  steps, values = metrics.series(run.metrics, "ref_reset/reset")
  return [int(step) for step in steps[values > 0]]


def to_svg(figure, name, label):
  """The figure as a fragment of HTML: `label` for readers, ids made unique.

  Colours become CSS variables of the page with the printed colour as the
  fallback, so that one drawing serves light and dark pages.
  """
  text = io.StringIO()
  with matplotlib.rc_context(_STYLE):
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=nothing)
  svg = text.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
  svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
  svg = re.sub(r'\s(?:d|x|y|points)="[^"]*"', _short_numbers, svg)
  names = {color: f"--c{i}" for i, color in enumerate(PALETTE)}
  names |= {INK: "--ink", GRID: "--grid", BASE: "--base"}
  for color, variable in names.items():
    svg = re.sub(
      rf"((?:fill|stroke): ){color}", rf"\1var({variable}, {color})", svg
    )
  size = re.search(r'width="([\d.]+)pt"', svg)[1]
  svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
  return svg.replace(
    "<svg",
    f'<svg role="img" aria-label="{label}" style="max-width: {size}pt"',
    1,
  )


def _short_numbers(match):
  """Coordinates with two digits: a hundredth of a point is not visible."""
  return re.sub(r"(\.\d\d)\d+", r"\1", match[0])


def _curve(groups, name, title, unit, **options):
  """One metric over steps, a line a label."""
  share = options.pop("share", False)
  return _stacked(groups, ((name, title, unit, share),), **options)


def _stacked(groups, parts, heights=(1,), floor=None, smooth=True):
  """Metrics over the same steps, one above the other."""
  if not any(_gather(runs, parts[0][0]) for runs in groups.values()):
    return None
  parts = [
    (part, height)
    for part, height in zip(parts, heights, strict=True)
    if any(_gather(runs, part[0]) for runs in groups.values())
  ]
  with matplotlib.rc_context(_STYLE):
    figure, rows = _axes(len(parts), heights=[height for _, height in parts])
    for axes, ((name, title, unit, share), _) in zip(rows, parts, strict=True):
      for label, runs, color in _colored(groups):
        _line(axes, _gather(runs, name), color, label=label, smooth=smooth)
      if title:
        axes.set_title(title)
      last = axes is rows[-1]
      legend = len(groups) > 1 and axes is rows[0]
      _finish(axes, unit, share=share, legend=legend, steps=last, floor=floor)
  return figure


def _sides(axes, colored, parts, first=0):
  """Two metrics in one drawing: a colour each for one run, else a dash."""
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
  figure = matplotlib.figure.Figure(figsize=(5.1, 3.1))
  grid = figure.subplots(
    rows, sharex=True, squeeze=False, height_ratios=heights
  )
  return figure, grid[:, 0]


def _colored(groups):
  """(label, runs, colour) of every label; a label keeps its colour."""
  return [
    (_shown(label), runs, PALETTE[index % len(PALETTE)])
    for index, (label, runs) in enumerate(groups.items())
  ]


def _shown(label):
  """A label as matplotlib shows it: no mathtext, and no hidden `_name`."""
  label = label.replace("$", r"\$")
  return f"\u2009{label}" if label.startswith("_") else label


def _gather(runs, name, rows="metrics"):
  """{step: the values of the runs that have one}, by rising step."""
  found = {}
  for run in runs:
    steps, values = metrics.series(getattr(run, rows), name)
    for step, value in zip(steps, values, strict=True):
      found.setdefault(int(step), []).append(float(value))
  return {step: found[step] for step in sorted(found)}


def _bins(steps, values):
  """At most `_MAX_POINTS` points: means over neighbours, for small files."""
  steps, values = np.asarray(steps, float), np.asarray(values, float)
  if len(steps) <= _MAX_POINTS:
    return steps, values
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
  total = np.cumsum(np.concatenate([[0.0], values]))
  index = np.arange(len(values))
  low = np.maximum(index - half, 0)
  high = np.minimum(index + half + 1, len(values))
  return (total[high] - total[low]) / (high - low)


def _line(axes, found, color, *, label, linestyle="-", smooth=True):
  """One run: its values faint under their running mean. Seeds: their range."""
  if not found:
    return
  x, mean = _bins(list(found), [np.mean(v) for v in found.values()])
  if max(map(len, found.values())) > 1:
    _, low = _bins(list(found), [min(v) for v in found.values()])
    _, high = _bins(list(found), [max(v) for v in found.values()])
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
  elif smooth and len(x) >= 40:
    axes.plot(x, mean, color=color, linewidth=0.8, alpha=0.3)
  thick = _smooth(mean) if smooth else mean
  axes.plot(x, thick, color=color, label=label, linestyle=linestyle)


def _finish(
  axes, unit, *, share=False, legend=False, steps=True, floor=None, fit=False
):
  """Labels, limits and legend that all figures share."""
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
  if legend:
    axes.legend(loc="best")


def _legend_below(axes, columns):
  handles, labels = axes.get_legend_handles_labels()
  axes.figure.legend(
    handles, labels, loc="outside lower center", ncols=columns
  )


def _bars_over_steps(axes, runs):
  """One label: seconds by stage, stacked, in at most 40 bars."""
  stages = {stage: _gather(runs, f"timing_s/{stage}") for stage in STAGES}
  steps = sorted(set.union(*(set(found) for found in stages.values())))
  size = -(-len(steps) // 40)
  parts = np.split(np.array(steps), range(size, len(steps), size))
  middle = np.array([part.mean() for part in parts])
  width = 0.92 * np.array([part[-1] - part[0] + 1 for part in parts])
  bottom = np.zeros(len(parts))
  for stage, color in zip(STAGES, PALETTE, strict=False):
    found = stages[stage]
    height = np.array(
      [np.median([np.mean(found.get(int(s), [0.0])) for s in p]) for p in parts]
    )
    axes.bar(middle, height, width, bottom, color=color, label=stage)
    bottom += height
  _finish(axes, "seconds")


def _bars_by_label(axes, table):
  """Several labels: a stacked bar each of medians over steps, as in tables."""
  names = list(table)
  left = np.zeros(len(names))
  for stage, color in zip(STAGES, PALETTE, strict=False):
    width = np.array(
      [
        comparison.median_seconds(table[name], stage) or 0.0 for name in names
      ]
    )
    axes.barh(names, width, 0.6, left, color=color, label=stage)
    left += width
  axes.invert_yaxis()
  axes.grid(axis="y", visible=False)
  axes.set_xlabel("seconds")


def entropy_quantiles(groups):
  """How the entropy is spread over the tokens, and how many are decided."""
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
  """How far what is probable is also what is rewarded."""
  parts = (
    ("covariance/logp_advantage", "Covariance", "log-prob, advantage", False),
    ("covariance/high_share", None, "large", True),
  )
  figure = _stacked(groups, parts, heights=(2, 1))
  if figure is not None:
    figure.axes[0].axhline(0, color=BASE, linewidth=1)
  return figure


def reward_spread(groups):
  """How much rewards differ within a group."""
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
    groups, "kl_share", "KL's part in the gradient", "share", share=True,
    smooth=False,
  )
  if figure is not None:
    _reset_lines(figure.axes[0], groups)
  return figure


def shade(figure, spans):
  """Shades stretches of steps, (first, last, colour) each, over all axes."""
  if figure.axes[-1].get_xlabel() != "step":
    return
  for axes in figure.axes:
    limits = axes.get_xlim()
    for first, last, color in spans:
      axes.axvspan(
        first - 0.5, last + 0.5, color=color, alpha=0.14, linewidth=0, zorder=0
      )
    axes.set_xlim(limits)


def _reset_lines(axes, groups):
  """A vertical line where the reference was reset."""
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
      line.set_gid(f"reset-{step}" if alone else f"reset-{label}-{step}")
    if alone and steps:
      with matplotlib.rc_context(_STYLE):
        axes.legend(handles=[line], loc="best")


def _banded(axes, groups, names, word):
  """A line within its band for each label; `names` are low, middle, high."""
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
