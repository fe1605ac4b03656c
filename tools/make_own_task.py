"""Draws the run of the README's own task, for the README.

  .venv/bin/python tools/make_own_task.py runs/sums

Writes docs/figures/own_task.svg; a second argument names another file.
"""

import pathlib
import sys

from matplotlib import pyplot as plt
import numpy as np
import plots

from progrpo_jax.storage import metrics

_ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = _ROOT / "docs" / "figures" / "own_task.svg"
KS = (1, 8)
WINDOW = 5


def main() -> None:
  """Writes the figure."""
  place, *figure = map(pathlib.Path, sys.argv[1:])
  print(f"wrote {draw(metrics.load(place), *figure)}")


def draw(run, path: pathlib.Path = FIGURE) -> pathlib.Path:
  """Draws the reward of each step, and pass@k of each evaluation."""
  figure, (left, right) = plt.subplots(
    1, 2, figsize=(7, 2.6), layout="constrained"
  )
  steps, reward = metrics.series(run.metrics, "reward")
  left.plot(steps, reward, color="C0", lw=0.8, alpha=0.4)
  window = min(WINDOW, len(steps))
  mean = np.convolve(reward, np.ones(window) / window, "valid")
  left.plot(steps[window - 1 :], mean, color="C0", lw=1.8)
  left.set_title(f"reward of training; thick: mean of {window} steps")
  for color, k in zip(("C0", "C1"), KS, strict=True):
    name = f"eval/sums/pass@{k}"
    steps, value = metrics.series(run.evals, name)
    _, low = metrics.series(run.evals, f"{name}/low")
    _, high = metrics.series(run.evals, f"{name}/high")
    right.errorbar(
      steps,
      value,
      (value - low, high - value),
      color=color,
      marker="o",
      ms=4,
      capsize=3,
      label=f"pass@{k}",
    )
  right.set_title("held-out problems, 95% intervals")
  right.set_ylim(0, 1.02)
  right.legend(frameon=False, loc="lower right")
  for axes in (left, right):
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
  plots.save(figure, path)
  return path


if __name__ == "__main__":
  main()
