"""Counts what makes a package easy or hard to read.

  python tools/count_house.py [--root CHECKOUT] [--trace]

--root counts another checkout, for instance a worktree of an older commit: two
runs compare the code before and after a redesign. --trace follows a training
run of two steps on a tiny policy call by call. It counts the files through
which a config and the tokens of a batch pass, and how often they return to a
file that they had left. That takes a minute.
"""

import argparse
import ast
import collections
import importlib
import io
import os
import pathlib
import re
import runpy
import sys
import tempfile
import tokenize

LONG = 60  # lines; a longer function is counted
RIDDLES = {"found", "known", "one", "made", "own"}
# An entry of Args that does not begin with a noun.
_EMPTY = re.compile(
  r"^ +\w+: (?:of|for|from|as|in|to|by|those|that|what|which|the others|see)"
  r"\b.*$",
  re.MULTILINE,
)
# A read of a config: an attribute of `_GROUPS` on a variable of `_CONFIGS`.
_GROUPS = {
  "algo",
  "train",
  "sampling",
  "rewards",
  "optim",
  "eval",
  "checkpoint",
  "hosts",
  "log",
  "warmup",
  "mesh",
  "schedule",
  "model",
}
_CONFIGS = {"c", "cfg", "config"}
# Files that may read a config: rooms, and files of the time before rooms.
_READERS = (
  "settings/",
  "config/",
  "build/",
  "plan/",
  "cli/",
  "report/",
  "parts.py",
  "checks.py",
  "schedule.py",
  "identity.py",
  "isolation.py",
  "memory.py",
)
# Names that many files share by convention: the entry points of tasks,
# verifiers, commands and evaluators.
_SHARED = {"load", "score", "canonical", "run", "measure", "start"}


def main() -> None:
  """Prints the counts, one per line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--root",
    type=pathlib.Path,
    default=pathlib.Path(__file__).resolve().parent.parent,
  )
  parser.add_argument("--trace", action="store_true")
  args = parser.parse_args()
  root = args.root.resolve()
  counts = count(root) | (trace(root) if args.trace else {})
  for name, value in counts.items():
    print(f"{name}: {value}")


def count(root: pathlib.Path) -> dict[str, object]:
  """Returns the counts that need no run."""
  files = {
    str(path.relative_to(root / "progrpo_jax")): path.read_text("utf-8")
    for path in sorted((root / "progrpo_jax").rglob("*.py"))
  }
  code = comments = riddles = long = 0
  meanings = collections.defaultdict(set)
  for name, text in files.items():
    tree = ast.parse(text)
    code += _code_lines(text, tree)
    for node in ast.walk(tree):
      if not isinstance(node, ast.FunctionDef):
        continue
      lines = node.end_lineno - node.lineno + 1
      long += lines > LONG
      comments += sum(
        line.lstrip().startswith("#")
        for line in text.splitlines()[node.lineno : node.end_lineno]
      )
      riddles += sum(
        isinstance(n, ast.Name)
        and isinstance(n.ctx, ast.Store)
        and n.id in RIDDLES
        for n in ast.walk(node)
      )
    # methods.py names its functions after the methods, as algos/ does.
    for node in tree.body if not name.endswith("/methods.py") else ():
      if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (
        not node.name.startswith("_") and node.name not in _SHARED
      ):
        meanings[node.name].add(name)
  several = sorted(n for n, places in meanings.items() if len(places) > 1)
  reads = sum(
    isinstance(node, ast.Attribute)
    and node.attr in _GROUPS
    and isinstance(node.value, ast.Name)
    and node.value.id in _CONFIGS
    for name, text in files.items()
    if not name.startswith(_READERS)
    for node in ast.walk(ast.parse(text))
  )
  return {
    "files": len(files),
    "lines of code": code,
    "files of the package itself": sum("/" not in name for name in files),
    "functions above 60 lines": long,
    "comment lines in bodies": comments,
    "comment lines a line of code": round(comments / code, 3),
    "public names with several meanings": f"{len(several)} {several}",
    "locals called found, known, one, made or own": riddles,
    "Args entries that name no thing": sum(
      len(_EMPTY.findall(text)) for text in files.values()
    ),
    "config reads outside of its rooms": reads,
    "config keys": _keys(root),
  }


def _code_lines(text: str, tree: ast.AST) -> int:
  """Returns the number of lines with code, without comments and docstrings."""
  lines = set()
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type not in (
      tokenize.COMMENT,
      tokenize.NL,
      tokenize.NEWLINE,
      tokenize.INDENT,
      tokenize.DEDENT,
      tokenize.ENDMARKER,
    ):
      lines |= set(range(token.start[0], token.end[0] + 1))
  for node in ast.walk(tree):
    if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and (
      ast.get_docstring(node, clean=False) is not None
    ):
      doc = node.body[0]
      lines -= set(range(doc.lineno, doc.end_lineno + 1))
  return len(lines)


def _keys(root: pathlib.Path) -> int:
  """Returns the number of config keys."""
  sys.path.insert(0, str(root))
  for place in (
    "progrpo_jax/settings/defaults.py",
    "progrpo_jax/config/defaults.py",
    "configs/common.py",
  ):
    if (root / place).exists():
      keys = runpy.run_path(str(root / place))["keys"]()
      return _leaves(keys)
  raise SystemExit(f"no declared keys under {root}")


def _leaves(group) -> int:
  """Returns the keys of a group; an empty group is a key that takes a dict."""
  if not hasattr(group, "items"):
    return 1
  return sum(map(_leaves, group.values())) or 1


def trace(root: pathlib.Path) -> dict[str, object]:
  """Returns the files that a config and a batch pass in a run of two steps."""
  sys.path.insert(0, str(root))
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  main_ = importlib.import_module("progrpo_jax.main").main
  small = str(root / "tests" / "small.py")
  with tempfile.TemporaryDirectory() as folder:
    common = [
      "--config",
      small,
      f"--config.data.dir={folder}/data",
      "--config.warmup.steps=2",
    ]
    main_(
      [
        "warmup",
        *common,
        "--config.model.init_from=",
        "--output",
        f"{folder}/base",
      ]
    )
    walks = {"config": [], "tokens": []}
    package = str(root / "progrpo_jax") + os.sep

    def follow(frame, event, _):
      if event != "call" or not frame.f_code.co_filename.startswith(package):
        return
      name = frame.f_code.co_filename.removeprefix(package)
      arguments = frame.f_code.co_varnames[: frame.f_code.co_argcount]
      values = [frame.f_locals.get(name_) for name_ in arguments]
      # A record that holds a config hands it on as well.
      kinds = {type(value).__name__ for value in values} | {
        type(vars(value).get("config")).__name__
        for value in values
        if hasattr(value, "__dict__")
      }
      for walk, what in (
        ("config", {"ConfigDict"}),
        ("tokens", {"Prompts", "Rollout", "Groups", "Sequences", "TrainBatch"}),
      ):
        if kinds & what and walks[walk][-1:] != [name]:
          walks[walk].append(name)

    sys.setprofile(follow)
    main_(
      [
        "train",
        *common,
        f"--config.model.init_from={folder}/base",
        "--config.train.total_steps=2",
        "--workdir",
        f"{folder}/run",
      ]
    )
    sys.setprofile(None)
  counts = {}
  for what, walk in walks.items():
    returns = sum(name in walk[:i] for i, name in enumerate(walk))
    counts[f"files that the {what} pass"] = len(set(walk))
    counts[f"returns of the {what} to a file already left"] = returns
  return counts


if __name__ == "__main__":
  main()
