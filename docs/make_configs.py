"""Writes docs/configs.md from the comments of configs/common.py.

  python docs/make_configs.py

A test fails when the page is not what this makes of the file.
"""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "configs" / "common.py"
PAGE = ROOT / "docs" / "configs.md"

INTRO = """\
# Every key of a config

Made from the comments of [configs/common.py](../configs/common.py) by
`python docs/make_configs.py`; change it there. A row without words goes with
the row above it, or says nothing that its name does not.

A config is a Python file with a `get_config()` that returns an
`ml_collections.ConfigDict`. It starts from `common.get_config()`, usually
applies a method of [configs/methods.py](../configs/methods.py), and changes
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
  """The whole page, from the text of configs/common.py."""
  lines = source.splitlines()
  groups: dict[str, dict] = {"": dict(note="", rows=[])}
  found = [
      (ast.unparse(s.targets[0]).removeprefix("c."), s)
      for s in _assignments(source)]
  for name, statement in found:
    note = _comment(lines, statement.lineno - 1)
    parent = name.rpartition(".")[0]
    value = " ".join(
        ast.get_source_segment(source, statement.value).split()
    ).replace("( ", "(")
    if isinstance(statement.value, ast.Call):
      inner = _inner(statement)
      if inner or any(other.startswith(f"{name}.") for other, _ in found):
        groups[name] = dict(note=note, rows=[
            (f"{name}.{key}", text, "") for key, text in inner])
        continue
      value = "{}"
    groups[parent]["rows"].append((name, value, note))
  parts = [INTRO]
  for name, group in groups.items():
    if group["rows"]:
      parts.append(_section(name, **group))
  return "\n".join(parts)


def _assignments(source: str) -> list[ast.Assign]:
  """The statements `c.<key> = ...` of get_config, in order."""
  function = next(
      n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef))
  return [
      n for n in function.body if isinstance(n, ast.Assign)
      and isinstance(n.targets[0], ast.Attribute)]


def _inner(statement: ast.Assign) -> list[tuple[str, str]]:
  """Keys that a group is made with: `ConfigDict(dict(a=1))`."""
  return [
      (k.arg, ast.unparse(k.value)) for call in statement.value.args
      for k in call.keywords]


def _comment(lines: list[str], at: int) -> str:
  """The comment right above a line, as one text."""
  found = []
  while at and lines[at - 1].strip().startswith("#"):
    at -= 1
    found.insert(0, lines[at].strip().removeprefix("#").strip())
  return " ".join(found)


def _section(name: str, note: str, rows: list[tuple[str, str, str]]) -> str:
  """One group as a heading, what is said of it, and a table."""
  out = [f"## {name or 'The run'}", ""]
  if note:
    out += [note, ""]
  out += ["| key | default | |", "|---|---|---|"]
  for key, value, words in rows:
    words = words.replace("|", "\\|").replace("<", "&lt;")
    out.append(f"| `{key}` | `{value}` | {words} |")
  return "\n".join([*out, ""])


if __name__ == "__main__":
  PAGE.write_text(page(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
  print(f"wrote {PAGE.relative_to(ROOT)}")
