"""Draws the floors of the package from the table that the tests enforce.

  python tools/make_floors.py
"""

import pathlib
import runpy
from xml.sax import saxutils

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURE = ROOT / "docs" / "figures" / "floors.svg"

# Floor by floor from the ground: name, what stands there, colour.
_WORDS = (
    ("ground", "reductions, and the records that travel", "#f3eaf3"),
    ("mathematics, verifiers, mesh", "no configs, files or clocks (but the "
     "worker processes of rewards/pool.py)", "#f8f0ea"),
    ("policy, text, problems", "one decoder, tokenizers, one file a task",
     "#f6f1e4"),
    ("the pieces of a step", "one file a piece; the loop stands above them",
     "#eef5ee"),
    ("evaluators", "held-out problems, sampled once, measured by each",
     "#e9f1ea"),
    ("the run", "the loop, its stages, and what a config becomes", "#e3ecf7"),
    ("commands and pages", "what people type and read", "#dbe7f5"),
)
_MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_LEFT, _RIGHT, _LINE = 74, 956, 33


def draw(floors) -> str:
  """The figure of a table of floors, each a list of files or patterns."""
  body, y = [], 76
  for number in reversed(range(len(floors))):
    lines = _wrap(floors[number])
    height = 45 + _LINE * len(lines)
    body += _floor(number, y, height, lines)
    y += height + 10
  head = (
      f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {y + 50}" '
      f'width="1000" height="{y + 50}" role="img" aria-labelledby="t d" '
      'font-family="DejaVu Sans, Verdana, Arial, sans-serif">',
      '<title id="t">The floors of progrpo_jax</title>',
      '<desc id="d">Seven floors of files. A file imports from lower floors, '
      'and from files of its own folder that stand before it.</desc>',
      f'<rect x="1" y="1" width="998" height="{y + 48}" rx="12" '
      'fill="#ffffff" stroke="#c9ced6"/>',
      _text(24, 36, 18, "The floors", bold=True),
      _text(24, 57, 12.5, "A file imports from the floors below it, and from "
            "files of its own folder that stand before it.", soft=True))
  foot = _text(
      24, y + 28, 12.5, "Beside the package: configs/ (data, and of the "
      "package ranges.py alone), tests/, docs/.", soft=True)
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


def _floor(number, y, height, lines) -> list[str]:
  name, words, colour = _WORDS[number]
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
  table = runpy.run_path(str(ROOT / "tests" / "test_floors.py"))["FLOORS"]
  FIGURE.write_text(draw(table), encoding="utf-8")
  print(f"wrote {FIGURE.relative_to(ROOT)}")


if __name__ == "__main__":
  main()
