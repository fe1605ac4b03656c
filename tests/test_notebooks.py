"""Notebooks hold no logic of their own, and pages can show them."""

import ast
import json
import pathlib
import re

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "notebooks"
NAMES = ("analysis", "arm", "quickstart")
IMPORTS = {"progrpo_jax", "numpy", "matplotlib", "os"}
MAX_BYTES = 300_000
MAX_OUTPUT_BYTES = 120_000
MAX_DEFINITION_LINES = 5
MAX_CELL_LINES = 30


def read(name):
  return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def definitions(source):
  """(name, lines) of every function and class."""
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
  return [
    (node.name, node.end_lineno - node.lineno + 1)
    for node in ast.walk(ast.parse(source))
    if isinstance(node, kinds)
  ]


def imported(source):
  """Top names of what a cell imports."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {a.name.split(".")[0] for a in node.names}
    elif isinstance(node, ast.ImportFrom):
      found.add("." * node.level + (node.module or "").split(".")[0])
  return found


def problems(notebook):
  """What a notebook here must not be, in words."""
  ids = [cell.id for cell in notebook.cells]
  if len(set(ids)) < len(ids):
    yield "cells share an id"
  for cell in notebook.cells:
    # A name of its own, not nbformat's random eight digits: an edit then
    # shows as an edit.
    if not re.fullmatch(r"[a-z]+(-[a-z]+)*", cell.id):
      yield f"{cell.id}: an id that is no name"
  for cell in code(notebook):
    size = len(json.dumps(cell.outputs))
    if size > MAX_OUTPUT_BYTES:
      yield f"{cell.id}: outputs of {size} bytes"
    if any(o.output_type == "error" for o in cell.outputs):
      yield f"{cell.id}: an error among its outputs"
    if cell.source.count("\n") >= MAX_CELL_LINES:
      yield f"{cell.id}: more than {MAX_CELL_LINES} lines"
    for name, lines in definitions(cell.source):
      if lines > MAX_DEFINITION_LINES:
        yield f"{cell.id}: defines {name} in {lines} lines"
    for name in imported(cell.source) - IMPORTS:
      yield f"{cell.id}: imports {name}"


def test_all_notebooks_are_looked_at():
  assert sorted(p.stem for p in FOLDER.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_keeps_the_rules(name):
  notebook = read(name)
  nbformat.validate(notebook)
  assert list(problems(notebook)) == []
  assert notebook.metadata.kernelspec.name == "python3"
  assert (FOLDER / f"{name}.ipynb").stat().st_size < MAX_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_of_the_page_sees_pictures(name):
  """Each was run from its top, once, and pictures are in it."""
  cells = code(read(name))
  assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
  shown = [
    o
    for c in cells
    for o in c.outputs
    if o.output_type in ("display_data", "execute_result")
  ]
  assert sum("image/png" in o.data for o in shown) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_machine_is_in_it(name):
  text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
  assert not re.search(r"/(home|root|tmp|work|Users)/", text)
  assert "\x1b[" not in text and "\\u001b" not in text


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
  for cell in read(name).cells:
    if cell.cell_type == "markdown":
      for link in re.findall(r"\]\(([^)\s]+)\)", cell.source):
        file = FOLDER / link.partition("#")[0]
        assert link.startswith("https://") or file.exists(), link


CELL = {"id": "a", "source": "from progrpo_jax import loop"}
LONG = "def f():\n" + "  x = 1\n" * 5


@pytest.mark.parametrize(
  ("cell", "said"),
  [
    ({}, None),
    ({"source": "import matplotlib.pyplot as plt\nimport numpy"}, None),
    ({"source": "def f():\n  return 1"}, None),
    ({"source": "import jax"}, "a: imports jax"),
    ({"source": "def f():\n  from sys import path"}, "a: imports sys"),
    ({"source": "from . import helpers"}, "a: imports ."),
    ({"source": LONG}, "a: defines f in 6 lines"),
    ({"source": LONG.replace("def f()", "class F")}, "defines F in 6 lines"),
    ({"source": "x = 1\n" * 31}, "more than 30 lines"),
    ({"id": "3f9a01bc"}, "3f9a01bc: an id that is no name"),
    (
      {
        "outputs": [
          nbformat.v4.new_output("stream", text="x" * MAX_OUTPUT_BYTES)
        ]
      },
      "a: outputs of",
    ),
    (
      {
        "outputs": [
          nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
        ]
      },
      "a: an error",
    ),
  ],
)
def test_a_made_up_notebook(cell, said):
  made = nbformat.v4.new_notebook(
    cells=[nbformat.v4.new_code_cell(**CELL | cell)]
  )
  found = list(problems(made))
  if said is None:
    assert found == []
  else:
    assert any(said in problem for problem in found)
  made.cells.append(made.cells[0])
  assert "cells share an id" in list(problems(made))
