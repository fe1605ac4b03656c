"""Figures, tables and live runs in a notebook.

Figures are shown as PNG on white, since a page that renders a notebook may be
dark and may support plain images only.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import io
import os
import time
from typing import Any

import matplotlib.figure
import matplotlib.image
import numpy as np

from progrpo_jax import errors
from progrpo_jax import run as run_lib
from progrpo_jax.report import curves, passk, readings, tables
from progrpo_jax.storage import metrics as metrics_lib

_BEFORE = "starting"
_DPI, _GAP = 72, 12  # dots per inch; pixels between two figures
_LEAST_S = 0.5  # between two drawings of a line of progress
_WATCHED = (curves.reward, curves.entropy, passk.pass_at_k_over_steps)


def png(*figures: matplotlib.figure.Figure | None, dpi: float = _DPI) -> bytes:
  """Returns figures side by side as one PNG.

  Args:
    *figures: matplotlib figures; None is left out.
    dpi: dots per inch.

  Raises:
    InputError: every figure is None.
  """
  images = [_pixels(figure, dpi) for figure in figures if figure is not None]
  if not images:
    raise errors.InputError("the runs hold nothing of what is to be shown")
  height = max(len(image) for image in images)
  width = sum(image.shape[1] for image in images) + _GAP * (len(images) - 1)
  # White canvas; figures are aligned at the top.
  page, left = np.full((height, width, 3), 255, np.uint8), 0
  for image in images:
    page[: len(image), left : left + image.shape[1]] = image
    left += image.shape[1] + _GAP
  file = io.BytesIO()
  matplotlib.image.imsave(file, page, format="png")
  return file.getvalue()


def show(*figures: matplotlib.figure.Figure | None, dpi: float = _DPI) -> None:
  """Shows figures side by side below the cell."""
  _display({"image/png": png(*figures, dpi=dpi)})


def table(data: tables.Table) -> run_lib.Table:
  """Returns a `report.tables.Table` as a table a notebook can show."""
  cells = [
    [f"{text} ({small})" if small else text for text, small in row]
    for row in data.rows
  ]
  return run_lib.Table(
    {
      name: [row[index] for row in cells]
      for index, name in enumerate(data.columns)
    }
  )


class NotebookView:
  """Draws runs below a notebook cell while one of them trains.

  A context manager; the last drawing stays. Curves are read from the runs'
  files, so a resumed run also shows its earlier steps.
  """

  def __init__(
    self,
    workdirs: Mapping[str, str | os.PathLike],
    total_steps: int,
    *,
    figures: Sequence[
      Callable[[readings.RunsByLabel], matplotlib.figure.Figure | None]
    ] = _WATCHED,
    every_s: float = 5.0,
    dpi: float = _DPI,
  ):
    """Prepares a view.

    Args:
      workdirs: {label: workdir} of the runs to compare, including the training
        one; runs without metrics are skipped until they have some.
      total_steps: number of steps of the training run.
      figures: functions from {label: loaded runs} to a figure or None.
      every_s: least time between two drawings, in seconds.
      dpi: dots per inch.
    """
    self._workdirs = dict(workdirs)
    self._total = total_steps
    self._figures, self._every_s, self._dpi = figures, every_s, dpi
    self._line, self._messages = _BEFORE, []
    self._compiled = set()  # phases that were shown as compiling
    self._drawn = None  # monotonic time of the last drawing
    self._text = self._picture = None

  def __enter__(self) -> "NotebookView":
    self._text = _display(_plain(self._line))
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is None:
      self._say("nothing left to do" if self._line == _BEFORE else self._line)
      self._draw()

  def phase(self, name: str) -> None:
    """Shows that a phase is compiled, once; others change too often."""
    if name.startswith("compiling ") and name not in self._compiled:
      self._compiled.add(name)
      self._say(f"{name} …")

  def step(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Shows a finished step, with a new drawing if one is due."""
    numbers = [
      f"{name} {metrics[name]:.3f}"
      for name in ("reward", "entropy")
      if metrics.get(name) is not None
    ]
    self._say("  ".join([f"step {step}/{self._total}", *numbers]))
    now = time.monotonic()
    if self._drawn is None or now - self._drawn >= self._every_s:
      self._draw()
      self._drawn = time.monotonic()

  def eval(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Ignored: the next step's drawing includes the evaluation."""

  def message(self, text: str) -> None:
    """Adds a message below the line of the step."""
    self._messages.append(text)
    self._say(self._line)

  def _say(self, line: str) -> None:
    self._line = line
    text = "\n".join([line, *(f"• {text}" for text in self._messages)])
    self._text = _display(_plain(text), self._text)

  def _draw(self) -> None:
    """Draws every run that has metrics."""
    groups = {}
    for label, workdir in self._workdirs.items():
      try:
        groups[label] = [metrics_lib.load(workdir)]
      except errors.InputError:
        continue  # the run has not started
    drawn = [figure(groups) for figure in self._figures] if groups else ()
    if any(figure is not None for figure in drawn):
      bundle = {"image/png": png(*drawn, dpi=self._dpi)}
      self._picture = _display(bundle, self._picture)


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Callable[..., None]]:
  """Yields `tick(n=1, note="")`, which rewrites a line below the cell.

  Args:
    title: title of the work.
    total: number of its parts.
  """
  handle = _display(_plain(f"{title} 0/{total}"))
  done, shown = 0, time.monotonic()

  def tick(n=1, note=""):
    nonlocal done, shown
    done += n
    now = time.monotonic()
    if done >= total or now - shown >= _LEAST_S:
      shown = now
      _display(_plain(f"{title} {done}/{total} {note}".rstrip()), handle)

  yield tick


def _plain(text: str) -> dict[str, str]:
  return {"text/plain": text}


def _pixels(figure: matplotlib.figure.Figure, dpi: float) -> np.ndarray:
  """Renders a figure as uint8 [height, width, 3]."""
  file = io.BytesIO()
  figure.savefig(file, format="png", dpi=dpi, facecolor="white")
  file.seek(0)
  pixels = matplotlib.image.imread(file)[..., :3]  # without the alpha channel
  return np.round(255 * pixels).astype(np.uint8)


def _display(bundle: Mapping[str, Any], handle: Any = None) -> Any:
  """Shows a bundle of MIME types, in place of an earlier one if given.

  Args:
    bundle: {MIME type: data}.
    handle: handle of the output to replace, or None for a new output.

  Returns:
    The handle of the output.
  """
  try:
    from IPython import display
  except ImportError as error:
    raise errors.InputError(
      "showing something in a notebook needs Jupyter: "
      f"run `{errors.install('notebooks')}`"
    ) from error
  if handle is None:
    return display.display(bundle, raw=True, display_id=True)
  handle.update(bundle, raw=True)
  return handle
