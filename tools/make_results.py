"""Table and figure of the runs of `make methods`.

  .venv/bin/python tools/make_results.py runs/methods entropy.svg

Prints the table in Markdown, and draws the entropies in the file that the
second argument names, if there is one.
"""

import collections
import pathlib
import sys

from etils import epath
from matplotlib import pyplot as plt
import numpy as np
import plots

from progrpo_jax.report import comparison, readings, tables
from progrpo_jax.storage import lines, metrics

NAMES = {
  "base": "base",
  "grpo": "GRPO",
  "dr_grpo": "Dr. GRPO",
  "dapo": "DAPO",
  "progrpo": "ProGRPO",
  "prorl": "ProRL",
  "prorl_v2": "ProRL v2",
  "gspo": "GSPO",
  "cispo": "CISPO",
  "vespo": "VESPO",
  "dppo": "DPPO",
  "sapo": "SAPO",
  "flowrl": "FlowRL",
  "clip_cov": "Clip-Cov",
  "kl_cov": "KL-Cov",
  "high_entropy": "80/20",
  "entropy_bonus": "entropy bonus",
  "adaptive_entropy": "adaptive entropy",
  "reinforce_pp": "REINFORCE++",
  "rloo": "RLOO",
  "repo": "RePO",
  "maxrl": "MaxRL",
  "passk": "Pass@k training",
  "ucpo": "UCPO",
  "unlikeliness": "unlikeliness",
  "f_grpo": "F-GRPO",
  "dra_grpo": "DRA-GRPO",
  "qae": "QAE",
  "nsr": "NSR",
  "gdpo": "GDPO",
  "brorl": "BroRL",
}
PANELS = {
  "advantages": ("dr_grpo", "rloo", "reinforce_pp", "repo"),
  "losses": ("gspo", "cispo", "vespo", "dppo", "sapo", "flowrl"),
  "entropy and covariance": (
    "entropy_bonus",
    "adaptive_entropy",
    "clip_cov",
    "kl_cov",
    "high_entropy",
  ),
  "whole recipes": ("dapo", "progrpo", "prorl", "prorl_v2", "brorl"),
  "groups weighed anew": ("maxrl", "passk", "f_grpo", "qae", "gdpo"),
  "responses weighed anew": ("ucpo", "unlikeliness", "dra_grpo", "nsr"),
}
WINDOW = 5


def main() -> None:
  """Prints the table, and draws the figure if that is asked."""
  place, *figure = map(pathlib.Path, sys.argv[1:])
  groups = collections.defaultdict(list)
  for name in NAMES:
    for workdir in sorted(place.glob(f"{name}*")):
      if workdir.name.partition("-")[0] == name and lines.files(
        epath.Path(workdir) / metrics.METRICS
      ):
        groups[name].append(metrics.load(workdir))
  base = readings.load_base(place / "base-eval")
  summary = comparison.summarise(dict(groups), base=base)
  print(
    "| method | pass@1 | pass@8 | pass@32 | entropy | distinct right "
    "answers | signs of collapse |\n|---|---|---|---|---|---|---|"
  )
  for name, entry in summary.items():
    cells = [NAMES[name]]
    cells += [
      f"{value} ({small.replace(' to ', ' – ')})"
      for value, small in (tables.pass_cell(entry, k) for k in ("1", "8", "32"))
    ]
    cells += [f"{entry['entropy']:.3f}", f"{entry['distinct_correct']:.2f}"]
    cells.append(
      ", ".join(level(run) for run in groups[name]) if name in groups else ""
    )
    print("| " + " | ".join(cells) + " |")
  for path in figure:
    print(f"wrote {draw(groups, path)}")


def level(run) -> str:
  """Returns the last `collapse/level` of a run, in a word."""
  _, values = metrics.series(run.metrics, "collapse/level")
  return ("–", "warning", "collapse")[int(values[-1])]


def entropies(runs) -> np.ndarray:
  """Returns smoothed entropies, [seeds, steps]."""
  rows = [metrics.series(run.metrics, "entropy")[1] for run in runs]
  length = min(map(len, rows))
  window = smoothing(length)
  kernel = np.ones(window) / window
  return np.stack(
    [np.convolve(row[:length], kernel, mode="valid") for row in rows]
  )


def smoothing(length: int) -> int:
  """Returns the width of the running mean; 1 for runs shorter than it."""
  return WINDOW if length >= WINDOW else 1


def draw(groups, path: pathlib.Path) -> pathlib.Path:
  """Draws `PANELS`, GRPO in each: mean and range over the seeds."""
  rows = -(-len(PANELS) // 2)
  figure, axes = plt.subplots(
    rows,
    2,
    figsize=(9, 3 * rows),
    sharex=True,
    sharey=True,
    squeeze=False,
    layout="constrained",
  )
  for panel in axes.flat[len(PANELS) :]:
    panel.set_visible(False)
  for panel, (title, names) in zip(axes.flat, PANELS.items()):
    colors = ["0.45", *(f"C{i}" for i in range(len(names)))]
    for color, name in zip(colors, ("grpo", *names), strict=True):
      if name not in groups:
        continue
      values = entropies(groups[name])
      done = min(len(run.metrics) for run in groups[name])
      steps = np.arange(values.shape[1]) + (smoothing(done) + 1) / 2
      panel.fill_between(
        steps, values.min(0), values.max(0), color=color, alpha=0.15, lw=0
      )
      panel.plot(steps, values.mean(0), color=color, lw=1.6, label=NAMES[name])
    panel.set_title(title, loc="left", fontweight="bold")
    panel.legend(frameon=False)
  axes[0, 0].set_ylim(bottom=0)  # all panels share this axis
  for panel in axes[-1]:
    panel.set_xlabel("step")
  for panel in axes[:, 0]:
    panel.set_ylabel("entropy, nats a token")
  plots.save(figure, path)
  return path


if __name__ == "__main__":
  main()
