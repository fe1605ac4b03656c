"""Pictures of docs/study.md; `make_study.py` draws them with its tables."""

import functools
import pathlib
from typing import Any

from matplotlib import pyplot as plt
import numpy as np
import plots
import study
from study_results import (
  at_temperatures,
  dead,
  distinct_SX,
  evaluation,
  load,
  of_plan,
  pass_SX,
  steps,
)

# Of these the probabilities of the base's own answers are drawn.
FOLLOWED = ("grpo", "progrpo", "maxrl", "passk")
# Of all methods' lines these stand out, the others are grey.
COLOURED = (*FOLLOWED, "prorl", "nsr", "adaptive_entropy", "high_entropy")
# Temperature -> marker of its points.
_MARKERS = {
  1.0: "o",
  **dict(zip(study.TEMPERATURES, ("v", "s", "^"), strict=True)),
}


def draw_masses(results: pathlib.Path, path: pathlib.Path) -> None:
  """Draws how probable the base's own answers stay, arm by arm."""
  # Another base has other answers, to other problems.
  runs = of_plan(results, "countdown")
  arms = [
    a for a in FOLLOWED if any(r.get("followed") for r in runs.get(a, []))
  ]
  panels = (
    ("right", np.mean, "right answers of the base"),
    ("wrong", np.mean, "wrong answers of the base"),
    ("right", dead, "all its right answers lost"),
    ("commonest", dead, "its commonest one lost"),
  )
  figure, axes = plt.subplots(
    1, len(panels), figsize=(11, 3.2), layout="constrained"
  )
  for axis, (kind, over_problems, title) in zip(axes, panels, strict=True):
    for number, arm in enumerate(arms):
      followed = [r["followed"] for r in runs[arm] if r.get("followed")]
      shared = sorted(set.intersection(*(set(f["step"]) for f in followed)))
      lines = np.array(
        [
          [over_problems(f[kind][f["step"].index(step)]) for step in shared]
          for f in followed
        ]
      )
      color = f"C{number}"
      axis.plot(shared, lines.mean(0), color=color, lw=1.6, label=arm)
      axis.fill_between(
        shared, lines.min(0), lines.max(0), color=color, alpha=0.15, lw=0
      )
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlabel("step")
    axis.set_ylabel(
      "share of problems" if over_problems is dead else "mean probability"
    )
    axis.set_ylim(bottom=0)
  if arms:
    axes[0].legend(frameon=False, fontsize=8)
  plots.save(figure, path)


def draw_entropies(results: pathlib.Path, path: pathlib.Path) -> None:
  """Draws the entropy of the rollouts, one line per arm, most of them grey."""
  runs = load(results, "countdown")
  figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
  for arm, own in runs.items():
    series = [r["steps"]["entropy"] for r in own if "entropy" in r["steps"]]
    if not series:
      continue
    length = min(map(len, series))
    window = max(1, length // 20)
    smooth = np.convolve(
      np.mean([s[:length] for s in series], axis=0),
      np.ones(window) / window,
      mode="valid",
    )
    axis.plot(np.arange(len(smooth)) + (window + 1) / 2, smooth, **_line(arm))
  axis.plot([], [], color="0.75", lw=0.8, label="the others")
  axis.set_xlabel("step")
  axis.set_ylabel("entropy, nats a token")
  axis.set_ylim(bottom=0)
  figure.legend(loc="outside right center", frameon=False, fontsize=8)
  plots.save(figure, path)


def draw_methods(results: pathlib.Path, path: pathlib.Path) -> None:
  """Draws pass@1 and pass@32 of every arm, in the order of pass@32.

  A point is the mean over the runs, each of which is a stroke. Arms of one run
  have a hollow point.
  """
  runs = of_plan(results, "countdown")
  base = runs.pop("base", [])
  names = sorted(runs, key=lambda arm: pass_SX(runs[arm], 32).mean())
  figure, axis = plt.subplots(
    figsize=(8, 1.2 + 0.2 * len(names)), layout="constrained"
  )
  for number, k in enumerate((1, 32)):
    color = f"C{number}"
    for row, arm in enumerate(names):
      each = pass_SX(runs[arm], k).mean(axis=1)
      axis.plot(each, np.full(len(each), row), "|", color=color, ms=8)
      axis.plot(
        each.mean(),
        row,
        "o",
        color=color,
        mfc=color if len(each) > 1 else "white",
        ms=5,
      )
    axis.plot([], [], "o", color=color, label=f"pass@{k}")
    if base:
      axis.axvline(
        pass_SX(base, k).mean(),
        color=color,
        lw=1,
        ls=":",
        label=f"pass@{k} of the base",
      )
  axis.set_yticks(range(len(names)), names, fontsize=8)
  axis.grid(axis="y", lw=0.4)
  axis.set_xlim(left=0)
  figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
  plots.save(figure, path)


def _line(arm: str) -> dict[str, Any]:
  """Colour, width and label of an arm's line among those of all methods."""
  if arm not in COLOURED:
    return {"color": "0.75", "lw": 0.8}
  color = f"C{COLOURED.index(arm)}"
  return {"color": color, "lw": 1.6, "label": arm, "zorder": 3}


def draw_temperatures(results: pathlib.Path, path: pathlib.Path) -> None:
  """Draws pass@32 against pass@1, a line per arm through its temperatures."""
  points: dict[str, list] = {}
  for temperature, runs in at_temperatures(results, "countdown").items():
    for arm, own in runs.items():
      at = pass_SX(own, 1).mean(), pass_SX(own, 32).mean()
      points.setdefault(arm, []).append((temperature, *at))
  figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
  shown: set[float] = set()
  for number, (arm, rows) in enumerate(points.items()):
    temperatures, ones, many = zip(*rows, strict=True)
    color = "0.6" if arm == "base" else f"C{number - 1}"
    axis.plot(ones, many, color=color, lw=1.4, label=arm)
    for temperature, x, y in rows:
      axis.plot(x, y, _MARKERS[temperature], color=color, ms=6)
    shown.update(temperatures)
  for temperature in sorted(shown):
    axis.plot(
      [],
      [],
      _MARKERS[temperature],
      color="0.3",
      label=f"temperature {temperature:g}",
    )
  axis.set_xlabel("pass@1")
  axis.set_ylabel("pass@32")
  axis.set_xlim(left=0)
  if points:
    axis.legend(frameon=False, fontsize=8, loc="lower left")
  plots.save(figure, path)


def draw_long(results: pathlib.Path, path: pathlib.Path) -> None:
  """Draws the evaluations of the long runs, and when the reference was reset.

  A line is the mean over the seeds, a band their range, and a triangle a reset
  of the first seed's reference.
  """
  runs = load(results, "long")
  base = runs.pop("base", [])
  panels = (
    ("pass@1", functools.partial(pass_SX, k=1)),
    ("pass@32", functools.partial(pass_SX, k=32)),
    ("different right answers", distinct_SX),
    ("entropy, nats a token", entropy_SX),
  )
  figure, axes = plt.subplots(
    1, len(panels), figsize=(11, 3.4), layout="constrained"
  )
  for axis, (title, values) in zip(axes, panels, strict=True):
    for number, (arm, own) in enumerate(runs.items()):
      shared = sorted(set.intersection(*(set(steps(r)) for r in own)))
      lines = np.array([values(own, step=x).mean(axis=1) for x in shared])
      if base:
        # Before the first step a policy is its base.
        shared = [0, *shared]
        start = np.full((1, len(own)), values(base).mean())
        lines = np.concatenate([start, lines])
      color = f"C{number}"
      axis.plot(shared, lines.mean(1), color=color, lw=1.6, label=arm)
      axis.fill_between(
        shared, lines.min(1), lines.max(1), color=color, alpha=0.15, lw=0
      )
      resets = np.flatnonzero(own[0]["steps"].get("ref_reset/reset", [])) + 1
      heights = np.interp(resets, shared, lines.mean(1))
      axis.plot(resets, heights, "^", color=color, ms=4)
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlabel("step")
    axis.set_ylim(bottom=0)
  if runs:
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
      handles, labels, loc="outside lower center", ncols=6, frameon=False
    )
  plots.save(figure, path)


def entropy_SX(runs, step=None) -> np.ndarray:
  """Entropy by seed, as a column: it is kept for all problems together."""
  return np.array([[evaluation(run, step)["entropy"]] for run in runs])


PICTURES = {
  "masses": draw_masses,
  "entropies": draw_entropies,
  "methods": draw_methods,
  "long": draw_long,
  "temperatures": draw_temperatures,
}
