"""The style of the tools' pictures, and how they are written."""

import pathlib

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

plt.rcParams.update(
  {
    "font.size": 9,
    "svg.hashsalt": "progrpo",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
  }
)


def save(figure: plt.Figure, path: pathlib.Path) -> None:
  """Writes a picture; the same data gives the same bytes."""
  figure.savefig(path, metadata={"Date": None}, facecolor="white")
  plt.close(figure)
