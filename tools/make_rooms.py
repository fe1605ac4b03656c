"""Draws the rooms of the package from the table that the tests enforce.

Run it after a file was added, moved or removed:

  python tools/make_rooms.py
"""

import pathlib
import runpy
from xml.sax import saxutils

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "figures" / "rooms.svg"

# What each room holds; about 36 characters fit beside the files.
_WORDS = {
  "ground": "records, reductions, paths, errors",
  "algos": "the mathematics, as pure functions",
  "devices": "mesh axes, hosts, timing, stopping",
  "rewards": "verifiers, worker processes, the jail",
  "text": "tokenizers and chat templates",
  "models": "the decoder, Hugging Face weights",
  "tasks": "one file for each task",
  "rollout": "from prompts to verified groups",
  "learn": "from groups to an updated policy",
  "evaluators": "measures of held-out problems",
  "storage": "checkpoints, policies, metrics",
  "settings": "keys, methods, checks of a config",
  "build": "from a config to the stages",
  "plan": "estimate of a run's memory",
  "run": "the training loop; reading a run",
  "report": "pages, figures, the live view",
  "api": "the calls from Python",
  "cli": "one file for each command",
  "top": "the command line",
}
_COLOURS = ("#f3eaf3", "#f8f0ea", "#f6f1e4", "#eef5ee", "#e9f1ea", "#e3ecf7")
_MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
# Left edges of a room's words and of its files, right edge, height of a line.
_NAMES, _FILES, _RIGHT, _LINE = 74, 292, 964, 33


def draw(rooms) -> str:
  """Returns the SVG of a table of rooms: name -> its files or patterns."""
  body, y = [], 76
  # The ground is the first of the table, and the lowest of the figure.
  for number, name in reversed(list(enumerate(rooms))):
    lines = _wrap(rooms[name])
    height = max(58, 17 + _LINE * len(lines))
    body += _room(number, name, y, height, lines)
    y += height + 7
  head = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {y + 50}" '
    f'width="1000" height="{y + 50}" role="img" aria-labelledby="t d" '
    'font-family="DejaVu Sans, Verdana, Arial, sans-serif">',
    '<title id="t">The rooms of progrpo_jax</title>',
    '<desc id="d">Rooms of files, one above the other. A file imports from '
    "lower rooms, and from files listed before it in its own room.</desc>",
    f'<rect x="1" y="1" width="998" height="{y + 48}" rx="12" '
    'fill="#ffffff" stroke="#c9ced6"/>',
    _text(24, 36, 18, "The rooms", bold=True),
    _text(
      24,
      57,
      12.5,
      "A file imports from lower rooms, and from files "
      "listed before it in its own room.",
      soft=True,
    ),
  )
  foot = _text(
    24,
    y + 28,
    12.5,
    "Outside of the package: configs/ (config files, which "
    "import only from settings/), tools/, tests/, docs/.",
    soft=True,
  )
  return "\n".join((*head, *body, foot, "</svg>\n"))


def _wrap(files) -> list[list[tuple[str, int, int]]]:
  """Returns lines of (label, x, width)."""
  lines, x = [[]], _FILES
  for name in files:
    label = "all other files" if name == "*.py" else name
    width = 14 + round(7.05 * len(label))
    if x + width > _RIGHT:
      lines.append([])
      x = _FILES
    lines[-1].append((label, x, width))
    x += width + 7
  return lines


def _room(number, name, y, height, lines) -> list[str]:
  """Returns the SVG elements of one room."""
  middle, colour = y + height / 2, _COLOURS[number % len(_COLOURS)]
  out = [
    f'<rect x="24" y="{y}" width="952" height="{height}" rx="8" '
    f'fill="{colour}" stroke="#b9c2ce"/>',
    _text(48, middle + 7, 20, str(number), bold=True, anchor="middle"),
    _text(_NAMES, middle - 4, 14, name, bold=True),
    _text(_NAMES, middle + 14, 11.5, _WORDS[name], soft=True),
  ]
  top = middle - _LINE * len(lines) / 2 + 3.5
  for row, line in enumerate(lines):
    for label, x, width in line:
      out += [
        f'<rect x="{x}" y="{top + _LINE * row}" width="{width}" height="26" '
        'rx="5" fill="#ffffff" stroke="#aab4c2"/>',
        _text(
          x + width / 2,
          top + _LINE * row + 17.5,
          11.5,
          label,
          anchor="middle",
          mono=True,
        ),
      ]
  return out


def _text(
  x, y, size, words, *, bold=False, soft=False, mono=False, anchor="start"
) -> str:
  """Returns one line of text, its baseline at (x, y)."""
  style = ' font-weight="bold"' if bold else ""
  if mono:
    style += f' font-family="{_MONO}"'
  colour = "#55606e" if soft else "#1c2430"
  return (
    f'<text x="{x}" y="{y}" font-size="{size}"{style} fill="{colour}" '
    f'text-anchor="{anchor}">{saxutils.escape(words)}</text>'
  )


def main() -> None:
  """Writes the figure."""
  table = runpy.run_path(str(ROOT / "tests" / "test_rooms.py"))["ROOMS"]
  FIGURE.write_text(draw(table), encoding="utf-8")
  print(f"wrote {FIGURE.relative_to(ROOT)}")


if __name__ == "__main__":
  main()
