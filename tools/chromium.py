"""Chromium or Chrome without a window: for pictures of pages, and for tests."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Without the services that ask a network.
FLAGS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
)


def find() -> str | None:
  """Returns the path of the browser; None if there is none on PATH."""
  return next(filter(None, map(shutil.which, NAMES)), None)
