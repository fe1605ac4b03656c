"""Draws the rooms of the package from the table that the tests enforce.

  python tools/make_rooms.py
"""

import pathlib
import runpy
from xml.sax import saxutils

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "figures" / "rooms.svg"

# What each room is for.
_WORDS = {
    "ground": "records that travel, reductions, errors",
    "algos": "the mathematics, pure functions",
    "devices": "mesh, hosts, time",
    "rewards": "verifiers and their processes",
    "text": "tokenizers and chat templates",
    "models": "one decoder, Hugging Face weights",
    "tasks": "one file a task",
    "rollout": "prompts to verified groups",
    "learn": "groups to a better policy",
    "evaluators": "held-out problems",
    "storage": "checkpoints, policies, metrics",
    "config": "what a run is told",
    "build": "from a config to the stages",
    "plan": "memory before a run",
    "run": "the loop; a run seen from a notebook",
    "report": "what people look at",
    "cli": "commands",
    "top": "the command line",
}
_COLOURS = ("#f3eaf3", "#f8f0ea", "#f6f1e4", "#eef5ee", "#e9f1ea", "#e3ecf7")
_MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_LEFT, _RIGHT, _LINE = 74, 956, 33


def draw(rooms) -> str:
  """The figure of a table of rooms, each a list of files or patterns."""
  body, y = [], 76
  for number, name in reversed(list(enumerate(rooms))):
    lines = _wrap(rooms[name])
    height = 45 + _LINE * len(lines)
    body += _room(number, name, y, height, lines)
    y += height + 10
  head = (
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {y + 50}" '
      f'width="1000" height="{y + 50}" role="img" aria-labelledby="t d" '
      'font-family="DejaVu Sans, Verdana, Arial, sans-serif">',
      '<title id="t">The rooms of progrpo_jax</title>',
      '<desc id="d">Rooms of files, one above the other. A file imports from '
      'lower rooms, and from files of its own that stand before it.</desc>',
      f'<rect x="1" y="1" width="998" height="{y + 48}" rx="12" '
      'fill="#ffffff" stroke="#c9ced6"/>',
      _text(24, 36, 18, "The rooms", bold=True),
      _text(24, 57, 12.5, "A file imports from the rooms below its own, and "
            "from files of its room that stand before it.", soft=True))
  foot = _text(
      24, y + 28, 12.5, "Beside the package: configs/ (run files, which import "
      "config/ alone), tools/, tests/, docs/.", soft=True)
  return "\n".join((*head, *body, foot, "</svg>\n"))


def _wrap(files) -> list[list[tuple[str, int, int]]]:
  """Lines of (file, x, width)."""
  lines, x = [[]], _LEFT
  for name in files:
    width = 14 + round(7.05 * len(name))
    if x + width > _RIGHT:
      lines.append([])
      x = _LEFT
    lines[-1].append((name, x, width))
    x += width + 7
  return lines


def _room(number, name, y, height, lines) -> list[str]:
  words, colour = _WORDS[name], _COLOURS[number % len(_COLOURS)]
  out = [
      f'<rect x="24" y="{y}" width="952" height="{height}" rx="8" '
      f'fill="{colour}" stroke="#b9c2ce"/>',
      _text(48, y + height / 2 + 8, 24, str(number), bold=True,
            anchor="middle"),
      _text(_LEFT, y + 25, 14, name, bold=True),
      _text(_RIGHT, y + 25, 12.5, words, soft=True, anchor="end")]
  for row, line in enumerate(lines):
    top = y + 38 + _LINE * row
    for file, x, width in line:
      out += [
          f'<rect x="{x}" y="{top}" width="{width}" height="26" rx="5" '
          'fill="#ffffff" stroke="#aab4c2"/>',
          _text(x + width / 2, top + 17.5, 11.5, file, anchor="middle",
                mono=True)]
  return out


def _text(x, y, size, words, *, bold=False, soft=False, mono=False,
          anchor="start") -> str:
  style = ' font-weight="bold"' if bold else ""
  if mono:
    style += f' font-family="{_MONO}"'
  colour = "#55606e" if soft else "#1c2430"
  return (
      f'<text x="{x}" y="{y}" font-size="{size}"{style} fill="{colour}" '
      f'text-anchor="{anchor}">{saxutils.escape(words)}</text>')


def main() -> None:
  """Writes the figure."""
  table = runpy.run_path(str(ROOT / "tests" / "test_rooms.py"))["ROOMS"]
  FIGURE.write_text(draw(table), encoding="utf-8")
  print(f"wrote {FIGURE.relative_to(ROOT)}")


if __name__ == "__main__":
  main()
