"""Writes docs/configs.md: the comment, default and range of every key.

  python tools/make_configs.py

The source is progrpo_jax/settings/defaults.py. tests/test_docs.py fails if the
page is not up to date.
"""

import ast
import functools
import pathlib

from progrpo_jax import ranges

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "progrpo_jax" / "settings" / "defaults.py"
PAGE = ROOT / "docs" / "configs.md"

INTRO = """\
# Every key of a config

This page is made from [defaults.py](../progrpo_jax/settings/defaults.py) by
`python tools/make_configs.py`; change the keys there. A value outside of the
range of its key is refused before anything is built. Numbers must be finite,
and whole numbers below 2^31 unless the range says otherwise.

A config is a Python file with a function `get_config()` that returns an
`ml_collections.ConfigDict`. It starts from `defaults.get_config()`, usually
applies a method of [methods.py](../progrpo_jax/settings/methods.py), and sets
the keys that differ in its run:

```
progrpo train --config FILE[:ARGUMENT] --config.group.key=VALUE --workdir DIR
```

`ARGUMENT` is passed to `get_config`. `FILE` may also be the name of a config
file that comes with the package; `progrpo configs` lists these. A value on the
command line is read in the type of the default; a tuple is written as in
Python: `--config.algo.reset.modes="('every',)"`. An unknown key is an error
that names the nearest key. Only these keys accept entries of any name, and are
empty by default: `data.tasks`, the options of loss, advantage and correction
(`algo.loss_options`, `algo.advantage_options`, `algo.correction_options`) and
those of the chat template (`model.chat_template_options`):

```python
c.data.tasks = {
  "sums": {  # a label, or the name of a task
    "module": "file",  # name of a task, or import path of a module;
    # by default the label
    "weight": 1.0,  # share of the prompts, relative to the others
    "options": {"file": "sums.jsonl"},  # arguments of the task's `load`
  }
}
c.model.chat_template_options = {"enable_thinking": False}  # Qwen3's
```
"""


def page(source: str) -> str:
  """Returns the page, given the text of progrpo_jax/settings/defaults.py."""
  lines = source.splitlines()
  module: dict = {}
  exec(compile(source, str(SOURCE), "exec"), module)
  keys = module["keys"]()
  groups: dict[str, dict] = {"": dict(note="", rows=[])}
  for statement in _assignments(source):
    name = ast.unparse(statement.targets[0]).removeprefix("c.")
    note = _comment(lines, statement.lineno - 1)
    key = functools.reduce(getattr, name.split("."), keys)
    parent = name.rpartition(".")[0]
    if not isinstance(key, ranges.Range):
      if key:
        groups[name] = dict(note=note, rows=[])
      else:
        groups[parent]["rows"].append((name, "{}", "a dict", note))
      continue
    groups[parent]["rows"].append(
      (name, _default(source, statement.value, key), key.words(), note)
    )
  parts = [INTRO]
  for name, group in groups.items():
    if group["rows"]:
      parts.append(_section(name, **group))
  return "\n".join(parts)


def _assignments(source: str) -> list[ast.Assign]:
  """Returns the statements `c.<key> = ...` of the file, in order."""
  return [
    n
    for function in ast.parse(source).body
    if isinstance(function, ast.FunctionDef)
    for n in function.body
    if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Attribute)
  ]


def _default(source: str, call: ast.Call, key: ranges.Range) -> str:
  """Returns a default as the file writes it: 1e-6, where repr has 1e-06."""
  first = call.args[0]
  if isinstance(first, ast.Name):  # a constant of the file: show its value
    return repr(key.default).replace("'", '"')
  return " ".join(ast.get_source_segment(source, first).split())


def _comment(lines: list[str], at: int) -> str:
  """Returns the comment right above a line, its lines joined."""
  comment = []
  while at and lines[at - 1].strip().startswith("#"):
    at -= 1
    comment.insert(0, lines[at].strip().removeprefix("#").strip())
  return " ".join(comment)


def _section(
  name: str, note: str, rows: list[tuple[str, str, str, str]]
) -> str:
  """Returns a group of keys: heading, note and table."""
  out = [f"## {name or 'The run'}", ""]
  if note:
    out += [note, ""]
  out += ["| key | default | range | |", "|---|---|---|---|"]
  for key, value, *words in rows:
    range_, words = (w.replace("|", "\\|").replace("<", "&lt;") for w in words)
    out.append(f"| `{key}` | `{value}` | {range_} | {words} |")
  return "\n".join([*out, ""])


if __name__ == "__main__":
  PAGE.write_text(page(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
  print(f"wrote {PAGE.relative_to(ROOT)}")
