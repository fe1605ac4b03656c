"""No local hides a module-level name, and none is used as if it were a module.

A local that is called as an imported module makes every line that wants the
module read the local, and only running the line shows it.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted(
  p
  for folder in ("progrpo_jax", "configs", "tools", "notebooks")
  for p in (ROOT / folder).rglob("*.py")
)
MODULES = {p.stem for p in (ROOT / "progrpo_jax").rglob("*.py")}
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _bound(statement):
  """Names that a statement of a module's top level defines."""
  if isinstance(statement, (ast.Import, ast.ImportFrom)):
    return {a.asname or a.name.split(".")[0] for a in statement.names}
  if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
    return {statement.name}
  targets = getattr(statement, "targets", None) or [
    getattr(statement, "target", None)
  ]
  if isinstance(statement, ast.For) or None in targets:
    return set()
  return set().union(*map(_stored, targets))


def _stored(node):
  return {
    n.id
    for n in ast.walk(node)
    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
  }


def _read(node):
  return {
    n.id
    for n in ast.walk(node)
    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
  }


def _used_before_it_is_there(function, parameters):
  """Names of modules whose every assignment reads the name itself."""
  named = [n for n in ast.walk(function) if isinstance(n, ast.Assign)]
  candidates = {
    name for n in named for name in _stored(n) & _read(n.value) & MODULES
  }
  elsewhere = {
    name
    for n in ast.walk(function)
    if isinstance(n, (ast.For, ast.comprehension, ast.withitem))
    for name in _stored(n)
  }
  first = {name for n in named for name in _stored(n) - _read(n.value)}
  return candidates - first - elsewhere - parameters


def imported(source):
  """Names that the imports at the top of a file's text bind."""
  return set().union(
    set(),
    *(
      _bound(statement)
      for statement in ast.parse(source).body
      if isinstance(statement, (ast.Import, ast.ImportFrom))
    ),
  )


def hidden(source):
  """(line, name) of each local that hides something, of a file's text.

  A parameter may have the name of a function or constant of its file, since
  callers name it; not of an import.
  """
  tree = ast.parse(source)
  imports = imported(source)
  top = set().union(set(), *map(_bound, tree.body))
  for outer in ast.walk(tree):
    if not isinstance(outer, _SCOPES):
      continue
    shared = {
      name
      for n in ast.walk(outer)
      if isinstance(n, (ast.Global, ast.Nonlocal))
      for name in n.names
    }
    parameters = {n.arg for n in ast.walk(outer) if isinstance(n, ast.arg)}
    for name in (
      ((_stored(outer) - shared) & top)
      | (parameters & imports)
      | _used_before_it_is_there(outer, parameters | shared)
    ):
      yield outer.lineno, name


@pytest.mark.parametrize(
  "path", FILES, ids=[str(p.relative_to(ROOT)) for p in FILES]
)
def test_no_local_hides_a_name_of_its_file(path):
  text = path.read_text(encoding="utf-8")
  assert not sorted(set(hidden(text)))


def test_no_local_of_a_test_hides_an_import():
  """It may hide a helper or a fixture of its file, which has short names."""
  for path in sorted((ROOT / "tests").rglob("*.py")):
    text = path.read_text(encoding="utf-8")
    imports = imported(text)
    assert not [h for h in hidden(text) if h[1] in imports], path


@pytest.mark.parametrize(
  "source",
  [
    "import signal\ndef f():\n  signal = 1\n",
    "import signal\ndef f(signal):\n  pass\n",
    "from progrpo_jax import metrics\ndef f():\n  for metrics in (): pass\n",
    "def g(): pass\ndef f():\n  g = 1\n",
    "def f(t):\n  prepare = t(lambda: prepare.advantages(1))\n",
    "LIMIT = 1\ndef f():\n  with open('x') as LIMIT: pass\n",
  ],
)
def test_each_way_of_hiding_is_seen(source):
  assert list(hidden(source))


@pytest.mark.parametrize(
  "source",
  [
    "import signal\ndef f():\n  return signal.SIGTERM\n",
    "count = 0\ndef f():\n  global count\n  count = 1\n",
    "def text(x): pass\ndef f(text):\n  return text\n",
    "def f(batch):\n  batch = batch.take(1)\n  return batch\n",
  ],
)
def test_what_hides_nothing_is_let_through(source):
  assert not list(hidden(source))
