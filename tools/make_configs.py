"""Writes docs/configs.md: the comment, default and range of every key.

  python tools/make_configs.py

A test fails when the page is not what this makes of the file.
"""

import ast
import functools
import pathlib

from progrpo_jax import ranges

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "progrpo_jax" / "config" / "defaults.py"
PAGE = ROOT / "docs" / "configs.md"

INTRO = """\
# Every key of a config

Made from [defaults.py](../progrpo_jax/config/defaults.py) by
`python tools/make_configs.py`; change it there. A row without words goes with
the row above it, or says nothing that its name does not. A value out of the
range of its key is refused before anything is built; numbers are finite, and
whole ones below 2^31 where no range says otherwise.

A config is a Python file with a `get_config()` that returns an
`ml_collections.ConfigDict`. It starts from `defaults.get_config()`, usually
applies a method of [methods.py](../progrpo_jax/config/methods.py), and changes
what its run needs:

```
progrpo train --config FILE[:ARGUMENT] --config.group.key=VALUE --workdir DIR
```

`ARGUMENT` is handed to `get_config`. A value on the command line is read in
the type of the default; a tuple is written as in Python:
`--config.algo.reset.modes="('every',)"`. A key that is not below is an error
that names the nearest one. The exceptions are `data.tasks`, the options of
loss, advantage and correction (`algo.loss_options`, `algo.advantage_options`,
`algo.correction_options`) and those of the chat template
(`model.chat_template_options`), which are empty here and take what a config
file puts into them:

```python
c.data.tasks = {
    "sums": {                     # a label, or the name of a task
        "module": "jsonl",        # the task or the import path of a module;
                                  # left out, the label is the name
        "weight": 1.0,            # share of the prompts, relative
        "options": {"file": "sums.jsonl"},  # the task's own
    },
}
c.model.chat_template_options = {"enable_thinking": False}  # Qwen3's
```
"""


def page(source: str) -> str:
  """The whole page, from the text of progrpo_jax/config/defaults.py."""
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
        (name, _default(source, statement.value, key), key.words(), note))
  parts = [INTRO]
  for name, group in groups.items():
    if group["rows"]:
      parts.append(_section(name, **group))
  return "\n".join(parts)


def _assignments(source: str) -> list[ast.Assign]:
  """The statements `c.<key> = ...` of the file's functions, in order."""
  return [
      n for function in ast.parse(source).body
      if isinstance(function, ast.FunctionDef) for n in function.body
      if isinstance(n, ast.Assign)
      and isinstance(n.targets[0], ast.Attribute)]


def _default(source: str, call: ast.Call, key: ranges.Range) -> str:
  """A default as the file writes it; 1e-06 is not what one types."""
  first = call.args[0]
  if isinstance(first, ast.Name):  # of a constant
    return repr(key.default).replace("'", '"')
  return " ".join(ast.get_source_segment(source, first).split())


def _comment(lines: list[str], at: int) -> str:
  """The comment right above a line, as one text."""
  found = []
  while at and lines[at - 1].strip().startswith("#"):
    at -= 1
    found.insert(0, lines[at].strip().removeprefix("#").strip())
  return " ".join(found)


def _section(
    name: str, note: str, rows: list[tuple[str, str, str, str]]) -> str:
  """One group as a heading, what is said of it, and a table."""
  out = [f"## {name or 'The run'}", ""]
  if note:
    out += [note, ""]
  out += ["| key | default | range | |", "|---|---|---|---|"]
  for key, value, *words in rows:
    range_, words = (
        w.replace("|", "\\|").replace("<", "&lt;") for w in words)
    out.append(f"| `{key}` | `{value}` | {range_} | {words} |")
  return "\n".join([*out, ""])


if __name__ == "__main__":
  PAGE.write_text(page(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
  print(f"wrote {PAGE.relative_to(ROOT)}")
