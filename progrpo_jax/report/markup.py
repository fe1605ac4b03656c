"""Text, JSON and tables as HTML, escaped.

Labels, settings, reasons and completions may hold anything, markup included.
Whatever enters a page from a run passes through `text`, `embed` or `table`.
"""

from collections.abc import Sequence
import html
import itertools
import json
from typing import Any, NamedTuple

from progrpo_jax.report import live
from progrpo_jax.storage import metrics

# Rows of the longest table that a narrow page shows as blocks.
_MAX_BLOCKS = 5


class Cell(NamedTuple):
  """One cell of a table.

  Attributes:
    shown: main text of the cell.
    small: small print below or beside the text; "" for none.
    is_best: whether the cell holds the best value of its column (bold).
    link: relative address the text links to, already quoted; "" for none.
    color: CSS colour of a swatch before the text; "" for none.
  """

  shown: str
  small: str = ""
  is_best: bool = False
  link: str = ""
  color: str = ""


def text(value: object) -> str:
  """Returns any text as HTML, escaped, without characters HTML forbids."""
  clean = "".join(
    c if c in "\n\t" or c.isprintable() else live.printable(c)
    for c in str(value)
  )
  return html.escape(clean)


def embed(value: Any) -> str:
  """Returns JSON that cannot end the <script> element that holds it."""
  coded = json.dumps(metrics.plain(value), separators=(",", ":"))
  return coded.replace("<", "\\u003c")


def table(
  columns: Sequence[str],
  rows: Sequence[Sequence[str | Cell]],
  *,
  words: bool = False,
) -> str:
  """Returns a table as HTML with every cell escaped.

  Args:
    columns: names of the columns; empty for a table without a head.
    rows: lists of cells, each a string or a `Cell`; the first cell of a row
      names the row.
    words: whether the cells hold text rather than numbers (aligned left).
  """
  # On a narrow page the rows of a short table become blocks, in which each
  # number stands beside the name of its column.
  is_short = bool(columns) and not words and len(rows) <= _MAX_BLOCKS
  names = columns[1:] if is_short else ()
  head = "".join(f'<th scope="col">{text(name)}</th>' for name in columns)
  body = "".join(
    f"<tr>{_cell(row[0], is_head=True)}"
    + "".join(
      _cell(cell, name=name)
      for cell, name in itertools.zip_longest(row[1:], names, fillvalue="")
    )
    + "</tr>"
    for row in rows
  )
  head = f"<thead><tr>{head}</tr></thead>" if head else ""
  kind = ' class="words"' if words else ' class="short"' if is_short else ""
  # Wide tables scroll sideways inside this box, not with the whole page; the
  # page's script shows the note where the table is cut.
  return (
    f'<div class="scroll"><table{kind}>{head}<tbody>{body}</tbody></table>'
    '</div><p class="cut">The table is wider than the page: scroll it sideways '
    "for its other columns.</p>"
  )


def _cell(cell: str | Cell, is_head: bool = False, name: str = "") -> str:
  if isinstance(cell, str):
    cell = Cell(cell)
  content = text(cell.shown)
  if cell.link:
    content = f'<a href="{html.escape(cell.link)}">{content}</a>'
  if cell.color:
    style = f"background:{html.escape(cell.color)}"
    content = f'<span class="swatch" style="{style}"></span>{content}'
  small = f"<small>{text(cell.small)}</small>" if cell.small else ""
  if is_head:
    # Small print follows a row's name on the same line, hence the space.
    space = " " if small else ""
    return f'<th scope="row">{content}{space}{small}</th>'
  best = ' class="best"' if cell.is_best else ""
  name = f' data-name="{text(name)}"' if name else ""
  return f"<td{best}{name}>{content}{small}</td>"
