"""Figures as elements of an HTML page."""

import html
import io
import json
import re
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.lines
import matplotlib.ticker
import numpy as np

from progrpo_jax.report import drawing

_VARIABLES = {color: f"--c{i}" for i, color in enumerate(drawing.PALETTE)}
_VARIABLES |= {
  drawing.INK: "--ink",
  drawing.GRID: "--grid",
  drawing.BASE: "--base",
}


def to_svg(figure: matplotlib.figure.Figure, name: str, label: str) -> str:
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
  with matplotlib.rc_context(drawing.STYLE):
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


def css(color: str) -> str:
  """CSS of a colour, which a dark page replaces if it has a variable."""
  variable = _VARIABLES.get(color)
  return f"var({variable}, {color})" if variable else color


def _labelled_lines(
  figure: matplotlib.figure.Figure, name: str
) -> dict[matplotlib.axes.Axes, list[tuple[str, matplotlib.lines.Line2D]]]:
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


def _curves(
  figure: matplotlib.figure.Figure,
  lines: dict[matplotlib.axes.Axes, list[tuple[str, matplotlib.lines.Line2D]]],
) -> list[dict[str, Any]]:
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
          "label": drawing.unshown(line.get_label()),
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


def _short_numbers(match: re.Match[str]) -> str:
  """Cuts coordinates to two decimals: 1/100 pt is not visible."""
  return re.sub(r"(\.\d\d)\d+", r"\1", match[0])
