"""What a notebook shows: pictures, tables, and a run while it trains.

Pictures are PNG on white: a page that shows a notebook may be dark, and may
drop all but plain images.
"""

import io
import time

import matplotlib.image
import numpy as np

from progrpo_jax import errors
from progrpo_jax import run as run_lib
from progrpo_jax.report import figures as figures_lib
from progrpo_jax.storage import metrics as metrics_lib

_BEFORE = "starting"
_DPI, _GAP = 72, 12  # dots an inch; dots between two figures
_WATCHED = (
  figures_lib.reward,
  figures_lib.entropy,
  figures_lib.pass_at_k_over_steps,
)


def png(*figures, dpi=_DPI):
  """Figures side by side as one PNG; those that are None are left out.

  Raises InputError if nothing is left to show.
  """
  images = [_pixels(figure, dpi) for figure in figures if figure is not None]
  if not images:
    raise errors.InputError("the runs hold nothing of what is to be shown")
  height = max(len(image) for image in images)
  width = sum(image.shape[1] for image in images) + _GAP * (len(images) - 1)
  page, left = np.full((height, width, 3), 255, np.uint8), 0
  for image in images:
    page[: len(image), left : left + image.shape[1]] = image
    left += image.shape[1] + _GAP
  made = io.BytesIO()
  matplotlib.image.imsave(made, page, format="png")
  return made.getvalue()


def show(*figures, dpi=_DPI):
  """Shows figures side by side below the cell."""
  _display({"image/png": png(*figures, dpi=dpi)})


def table(made):
  """A table of `report.tables` as one that a notebook shows."""
  cells = [
    [f"{text} ({small})" if small else text for text, small in row]
    for row in made.rows
  ]
  return run_lib.Table(
    {
      name: [row[index] for row in cells]
      for index, name in enumerate(made.columns)
    }
  )


class NotebookView:
  """Draws runs below a cell while one of them trains.

  `workdirs` is {label: workdir} of all that are to be seen side by side: the
  one that trains, those that have, and those that have not begun. Curves are
  read from the files, so a resumed run shows what it did before. At least
  `every_s` seconds lie between two pictures. A context manager; what it shows
  last stays.
  """

  def __init__(
    self, workdirs, total_steps, *, figures=_WATCHED, every_s=5.0, dpi=_DPI
  ):
    self._workdirs = dict(workdirs)
    self._total = total_steps
    self._figures, self._every_s, self._dpi = figures, every_s, dpi
    self._line, self._messages = _BEFORE, []
    self._drawn = None  # when, by the monotonic clock
    self._text = self._picture = None

  def __enter__(self):
    self._text = _display(_plain(self._line))
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self._say("nothing left to do" if self._line == _BEFORE else self._line)
      self._draw()

  def phase(self, name):
    """Says what runs now; too often to be worth a picture."""

  def step(self, step, metrics):
    """A step is done: draws, if it is time."""
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

  def eval(self, step, metrics):
    """An evaluation is done; the next step draws it."""

  def message(self, text):
    """Adds an event below the line of the step."""
    self._messages.append(text)
    self._say(self._line)

  def _say(self, line):
    self._line = line
    text = "\n".join([line, *(f"• {text}" for text in self._messages)])
    self._text = _display(_plain(text), self._text)

  def _draw(self):
    """Draws every run that has something to show."""
    groups = {}
    for label, workdir in self._workdirs.items():
      try:
        groups[label] = [metrics_lib.load(workdir)]
      except errors.InputError:
        continue  # not begun
    made = [figure(groups) for figure in self._figures] if groups else ()
    if any(figure is not None for figure in made):
      bundle = {"image/png": png(*made, dpi=self._dpi)}
      self._picture = _display(bundle, self._picture)


def _plain(text):
  return {"text/plain": text}


def _pixels(figure, dpi):
  """A figure as uint8 [height, width, 3]."""
  made = io.BytesIO()
  figure.savefig(made, format="png", dpi=dpi, facecolor="white")
  made.seek(0)
  drawn = matplotlib.image.imread(made)[..., :3]
  return np.round(255 * drawn).astype(np.uint8)


def _display(bundle, handle=None):
  """Shows a bundle of MIME types, or puts it where an earlier one stood."""
  try:
    from IPython import display
  except ImportError as error:
    raise errors.InputError(
      "showing something in a notebook needs Jupyter: "
      "run `pip install progrpo_jax[notebooks]`"
    ) from error
  if handle is None:
    return display.display(bundle, raw=True, display_id=True)
  handle.update(bundle, raw=True)
  return handle
