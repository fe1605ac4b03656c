"""Makes the screens of docs/: a comparison, a run's report, the live view.

  python tools/make_screens.py runs/quickstart

reads what the quickstart left and writes docs/figures/screen_*.png. Needs
Chromium.
"""

import argparse
import io
import pathlib
import re
import subprocess
import sys
import tempfile
from unittest import mock

import chromium
import PIL.Image
import rich.console
import rich.terminal_theme

from progrpo_jax.report import compared, html, live
from progrpo_jax.storage import metrics

FIGURES = pathlib.Path(__file__).parent.parent / "docs" / "figures"
_COLORS = 160  # of each image, so that it stays small
_METHODS = ("progrpo", "grpo")


def main(argv):
  """Makes the screens; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("quickstart", type=pathlib.Path)
  place = parser.parse_args(argv).quickstart
  browser = chromium.find()
  if browser is None:
    parser.error("Chromium is not on the PATH")
  workdirs = {
    method: sorted(
      path
      for path in place.iterdir()
      if re.fullmatch(rf"{method}(-seed\d+)?", path.name)
    )
    for method in _METHODS
  }
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    comparison = compared.Comparison(
      workdirs, base=place / "base-eval"
    ).write_page(folder / "comparison.html")
    report = html.write_report(place / _METHODS[0], folder / "report.html")
    view = folder / "live.html"
    view.write_text(_live(place / _METHODS[0]))
    for name, page, width, height in (
      ("comparison", comparison, 1280, 1380),
      ("report", report, 1280, 900),
      ("live", view, 900, 330),
    ):
      path = FIGURES / f"screen_{name}.png"
      _shoot(browser, pathlib.Path(page), folder, path, width, height)
      print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
  return 0


def _live(workdir):
  """Returns the live view of a run half way through, as a page."""
  run = metrics.load(workdir)
  total = run.metrics[-1]["step"]
  console = rich.console.Console(
    file=io.StringIO(), record=True, width=96, force_terminal=True
  )
  now = 0.0
  with mock.patch.object(live.time, "monotonic", lambda: now):
    view = live.LiveView(total, workdir.name, console=console)
    # The clock of the view stands where that of the run stood.
    with mock.patch.object(live.rich.live, "Live"), view:
      evals = {row["step"]: row for row in run.evals}
      for row in run.metrics:
        if row["step"] > 0.8 * total:
          break
        now += row["timing_s/step"]
        view.step(row["step"], row)
        if row["step"] in evals:
          view.eval(row["step"], evals[row["step"]])
      view.phase("sample")
      console.print(view._render())
  svg = console.export_svg(
    title="progrpo train", theme=rich.terminal_theme.MONOKAI
  )
  # Only this machine's fonts.
  svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
  return f'<body style="margin: 0; background: white">{svg}</body>'


def _shoot(browser, page, folder, path, width, height):
  """Writes a picture of the top of a page."""
  picture = folder / path.name
  subprocess.run(
    [
      browser,
      *chromium.FLAGS,
      "--hide-scrollbars",
      "--virtual-time-budget=3000",
      f"--user-data-dir={folder / 'profile'}",
      f"--window-size={width},{height}",
      f"--screenshot={picture}",
      page.as_uri(),
    ],
    check=True,
    capture_output=True,
  )
  image = PIL.Image.open(picture).convert("RGB")
  image.quantize(_COLORS, dither=PIL.Image.Dither.NONE).save(
    path, optimize=True
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
