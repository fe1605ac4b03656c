"""Draws prolonged training with and without resets, for docs/results.md.

  .venv/bin/python tools/make_prorl.py runs/prorl_tiny

Prints the table in Markdown and writes docs/figures/prorl.svg; a second
argument names another file. Values of an evaluation are means over the tasks.
"""

import pathlib
import sys

from matplotlib import pyplot as plt
import numpy as np
import plots

from progrpo_jax.storage import metrics

RUNS = {"prorl": ("ProRL", "C0"), "no_reset": ("no resets, no KL", "0.45")}
TASKS = ("chain_sum", "countdown", "graph_color", "n_queens")
_ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = _ROOT / "docs" / "figures" / "prorl.svg"
WINDOW = 25
SHOWN = ("pass@1", "pass@8", "pass@32", "distinct_correct")


def main() -> None:
  """Prints the table and writes the figure."""
  place, *figure = map(pathlib.Path, sys.argv[1:])
  runs = {name: metrics.load(place / name) for name in RUNS}
  print(
    "| run | step | entropy | "
    + " | ".join(SHOWN)
    + " |\n"
    + "|---" * (3 + len(SHOWN))
    + "|"
  )
  for name, run in runs.items():
    steps, curves = tried(run)
    _, entropy = metrics.series(run.metrics, "entropy")
    # The first, the last and three between: every 500 of 2,000 steps.
    for i in np.unique(np.linspace(0, len(steps) - 1, 5).astype(int)):
      step = int(steps[i])
      around = entropy[max(0, step - 50) : step + 50]
      cells = [RUNS[name][0], str(step), f"{np.mean(around):.3f}"]
      cells += [f"{curves[k][i]:.3f}" for k in SHOWN]
      print("| " + " | ".join(cells) + " |")
  print(f"wrote {draw(runs, *figure)}")


def tried(run):
  """Returns (steps of the evaluations, measure -> its means over the tasks)."""
  curves = {}
  for k in SHOWN:
    by_task = [metrics.series(run.evals, f"eval/{t}/{k}") for t in TASKS]
    steps = by_task[0][0]
    curves[k] = np.mean([values for _, values in by_task], axis=0)
  return steps, curves


def draw(runs, path: pathlib.Path = FIGURE) -> pathlib.Path:
  """Draws entropy, pass@1 and pass@32, with resets as vertical lines."""
  figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
  # A run shorter than the window is not smoothed.
  shortest = min(len(run.metrics) for run in runs.values())
  window = WINDOW if shortest >= WINDOW else 1
  kernel = np.ones(window) / window
  for name, run in runs.items():
    label, color = RUNS[name]
    steps, entropy = metrics.series(run.metrics, "entropy")
    axes[0].plot(
      steps[window - 1 :],
      np.convolve(entropy, kernel, "valid"),
      color=color,
      lw=1.4,
    )
    steps, curves = tried(run)
    for panel, k in zip(axes[1:], ("pass@1", "pass@32"), strict=True):
      panel.plot(steps, curves[k], color=color, lw=1.6, label=label)
  steps, reset = metrics.series(runs["prorl"].metrics, "ref_reset/reset")
  for panel, title in zip(
    axes, ("entropy, nats a token", "pass@1", "pass@32"), strict=True
  ):
    for step in np.asarray(steps)[np.asarray(reset) > 0]:
      panel.axvline(step, color="C0", lw=0.6, ls=":")
    panel.set_title(title, loc="left", fontweight="bold")
    panel.set_xlabel("step")
    panel.set_ylim(bottom=0)
  axes[1].legend(frameon=False, loc="lower right")
  plots.save(figure, path)
  return path


if __name__ == "__main__":
  main()
