"""Who may import whom.

The package is built in floors; a file imports from lower floors, and from
files of its own folder that stand above it in the list of its floor. Each
heavy dependency has few importers, the lowest floors see neither configs nor
files nor clocks, and verifiers and tasks do without JAX, so that their
processes start fast.
"""

import ast
import fnmatch
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Floor -> its files, in order; a file's own name counts before a pattern.
FLOORS = [
    ["errors.py", "ranges.py", "ops.py", "batch.py", "places.py"],
    [
        "algos/advantages.py", "algos/arm.py", "algos/kl.py",
        "algos/correction.py", "algos/losses.py", "algos/aggregate.py",
        "algos/diagnostics.py", "algos/objective.py",
        "algos/shaping.py", "algos/reset.py", "algos/control.py",
        "algos/collapse.py",
        "rewards/score.py", "rewards/thinking.py", "rewards/sandbox.py",
        "rewards/serving.py", "rewards/pool.py", "rewards/gym.py",
        "rewards/answers.py", "rewards/characters.py",
        "rewards/presentation.py", "rewards/words.py", "rewards/latex.py",
        "rewards/notation.py",
        "rewards/symbolic.py", "rewards/math.py",
        "rewards/language.py", "rewards/*.py",
        "devices/sharding.py",
        "models/fields.py", "models/rope.py", "models/config.py",
        "models/layers.py",
    ],
    [
        "devices/hosts.py",
        "models/fused_attention.py", "models/attention.py",
        "models/lora.py", "models/cache.py", "models/transformer.py",
        "models/scoring.py", "models/tensors.py", "models/hf.py",
        "text/rendering.py", "text/chat.py", "text/tokenizer.py",
        "learn/optim.py",
    ],
    [
        "tasks/sets/builder.py", "tasks/sets/rejects.py",
        "tasks/sets/files.py", "tasks/sets/overlap.py", "tasks/sets/schema.py",
        "tasks/sets/testcases.py", "tasks/sets/texts.py",
        "tasks/sets/programs.py", "tasks/sets/instructions.py",
        "tasks/base.py", "tasks/sets/reader.py", "tasks/sets/published.py",
        "tasks/sets/asking.py", "tasks/sets/writing.py",
        "tasks/reasoning_gym.py", "tasks/*.py",
    ],
    [
        "rollout/sampler.py", "rollout/groups.py", "rollout/data.py",
        "learn/state.py", "learn/update.py",
        "storage/lines.py", "storage/metrics.py", "storage/lock.py",
        "storage/checkpoint.py",
    ],
    [
        "evaluators/intervals.py", "evaluators/passk.py",
        "evaluators/diversity.py", "evaluators/*.py",
        "evaluators/held_out.py",
    ],
    [
        "config/defaults.py", "config/methods.py", "config/scales.py",
        "config/checks.py", "config/identity.py", "config/schedule.py",
        "config/isolation.py", "config/files.py", "storage/policy.py",
        "parts.py", "plan/memory.py", "progress.py",
        "records.py", "rollout/rounds.py", "rollout/rephrase.py",
        "learn/signals.py", "stages.py", "train.py",
        "warmup.py", "inference.py", "run.py",
    ],
    [
        "report/comparison.py", "report/tables.py", "report/figures.py",
        "report/live.py",
        "report/*.py", "cli/exits.py", "cli/arguments.py", "cli/*.py",
        "cli/quickstart.py", "main.py",
    ],
]

# Imports within a floor and across folders, each for a reason.
SAME_FLOOR = {
    ("cli/*.py", "report/*.py"),  # commands that show
    ("main.py", "cli/*.py"),  # the commands
    ("models/*.py", "places.py"),  # files, wherever they lie
}

# Dependency -> its only importers.
IMPORTERS = {
    "flax": ["models/*.py", "batch.py", "learn/state.py"],
    "optax": ["learn/optim.py", "learn/update.py"],
    "orbax": ["storage/checkpoint.py"],
    "transformers": ["text/tokenizer.py", "text/rendering.py"],
    "sentencepiece": ["text/tokenizer.py"],
    "safetensors": [],
    "tensorflow_datasets": ["tasks/sets/builder.py"],
    "grain": ["rollout/prompts.py"],
    "pyarrow": ["tasks/sets/files.py"],
    "reasoning_gym": [],  # by name alone, in rewards/gym.py
    "py3langid": ["rewards/language.py"],
    "scipy": ["evaluators/intervals.py"],
    "math_verify": ["rewards/symbolic.py"],
    "sympy": ["rewards/symbolic.py"],
    "matplotlib": ["report/*.py"],
    "IPython": ["report/notebook.py"],
    "fsspec": ["places.py"],
    "gcsfs": [],
    "tensorboardX": ["storage/metrics.py"],
    "wandb": ["storage/metrics.py"],
    "tensorflow": [],
    "torch": [],
}

# What floors 0 and 1 never see: configs, files, clocks.
UNSEEN = {
    "ml_collections", "absl", "etils", "pathlib", "os", "io", "shutil",
    "tempfile", "time", "datetime"}
# The process pool and the jail are made of processes and deadlines.
SEEING = {
    "rewards/serving.py", "rewards/pool.py", "rewards/sandbox.py",
    "rewards/jail.py"}

JAX = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}
WITHOUT_JAX = ["rewards/*.py", "tasks/*.py"]

MESH_AXES = {"data", "fsdp", "tensor"}
MESH_CALLS = {"P", "PartitionSpec", "Mesh", "make_mesh", "AbstractMesh"}

# Spelled in two halves, so that this file does not hold them.
MARKS = [
    a + b for a, b in (
        ("no", "qa"), ("type: ", "ignore"), ("py", "lint:"), ("TO", "DO"),
        ("FIX", "ME"), ("pragma: ", "no cover"), ("fmt: ", "off"))]


def fits(path, patterns):
  return any(fnmatch.fnmatchcase(path, p) for p in patterns)


def place(path):
  """(floor, rank within it) of a file of the package, or None."""
  found = [
      (pattern != path, floor, rank)
      for floor, patterns in enumerate(FLOORS)
      for rank, pattern in enumerate(patterns)
      if fnmatch.fnmatchcase(path, pattern)]
  return min(found)[1:] if found else None


def imports(tree):
  """Dotted names that a module imports, anywhere in it."""
  names = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names += [a.name for a in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = "." * node.level + (node.module or "")
      names += [f"{base}.{a.name}" for a in node.names]
  return names


def target(name, files):
  """The file of the package that a dotted name means, or None."""
  parts = name.split(".")[1:]
  for end in (len(parts), len(parts) - 1):
    path = "/".join(parts[:end]) + ".py"
    if end > 0 and f"progrpo_jax/{path}" in files:
      return path
  return None


def may_import(importer, imported):
  """Whether the floors allow it."""
  here, there = place(importer), place(imported)
  if there[0] != here[0]:
    return there[0] < here[0]
  if any(fits(importer, [a]) and fits(imported, [b]) for a, b in SAME_FLOOR):
    return True
  folder = importer.rpartition("/")[0]
  return folder == imported.rpartition("/")[0] and there[1] < here[1]


def reaches(path, files, graph):
  """The file and all of the package that it imports, however far."""
  seen, queue = set(), [path]
  while queue:
    at = queue.pop()
    if at not in seen:
      seen.add(at)
      queue += [t for n in graph.get(at, ()) if (t := target(n, files))]
  return seen


def mesh_literals(tree):
  """Names of mesh axes that stand in the source as strings."""
  found = set()
  for node in ast.walk(tree):
    strings = {
        n.value for n in ast.walk(node)
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
    } if isinstance(node, ast.Call) and (
        getattr(node.func, "id", getattr(node.func, "attr", None))
        in MESH_CALLS) else set()
    found |= strings & MESH_AXES
    if isinstance(node, ast.Constant) and node.value in ("fsdp", "tensor"):
      found.add(node.value)
  return found


def bare(node, path):
  """Whether a statement of an `__init__.py` may stand there.

  The package's own also has the two hooks by which it hands out `load_run`
  when it is asked for. A plain import would cost every verifier process JAX.
  """
  hooks = {"__getattr__", "__dir__"} if path == "__init__.py" else set()
  return isinstance(node, (ast.Expr, ast.Assign)) or (
      isinstance(node, ast.FunctionDef) and node.name in hooks)


def violations_of_package(files):
  """Of files {path: source} under `progrpo_jax/`."""
  trees = {
      p.removeprefix("progrpo_jax/"): ast.parse(s) for p, s in files.items()
      if p.startswith("progrpo_jax/")}
  graph = {p: imports(t) for p, t in trees.items()}
  for path, tree in sorted(trees.items()):
    if path.rpartition("/")[2] == "__init__.py":
      if not all(bare(node, path) for node in tree.body):
        yield f"{path}: holds more than a docstring and constants"
      continue
    if place(path) is None:
      yield (f"{path}: on no floor; add it to FLOORS in tests/test_floors.py, "
             "on the lowest floor that is above all it imports")
      continue
    floor = place(path)[0]
    for name in graph[path]:
      top = name.split(".")[0]
      if top == "":
        yield f"{path}: relative import {name}"
      if top == "configs" and floor < len(FLOORS) - 1 and not (
          path == "checks.py" and name == "configs.common"):
        yield (f"{path}: imports {name}; only the command line reads configs, "
               "and checks.py what they may be")
      if top in IMPORTERS and not fits(path, IMPORTERS[top]):
        yield (f"{path}: imports {top}, which is for "
               f"{', '.join(IMPORTERS[top]) or 'nobody'}")
      if floor < 2 and top in UNSEEN and path not in SEEING:
        yield f"{path}: imports {top} on floor {floor}"
      other = target(name, files) if top == "progrpo_jax" else None
      if other and place(other) and not may_import(path, other):
        yield (f"{path} (floor {floor}) imports {other} "
               f"(floor {place(other)[0]})")
    if floor < 2 and path not in SEEING:
      for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (
            getattr(node.func, "id", None) == "open"):
          yield f"{path}: opens a file on floor {floor}"
        if isinstance(node, ast.Attribute) and node.attr == "process_index":
          yield f"{path}: asks for process_index on floor {floor}"
    if fits(path, WITHOUT_JAX):
      for reached in sorted(reaches(path, files, graph)):
        heavy = {n.split(".")[0] for n in graph.get(reached, ())} & JAX
        if heavy:
          yield f"{path}: reaches {min(heavy)} through {reached}"
    if path != "devices/sharding.py":
      for axis in sorted(mesh_literals(tree)):
        yield f"{path}: names mesh axis {axis!r}; devices/sharding.py alone does"


def violations(files):
  """Of files {path: source}, relative to the root of the repository."""
  yield from violations_of_package(files)
  for path, source in sorted(files.items()):
    for number, line in enumerate(source.splitlines(), 1):
      for mark in MARKS:
        if mark in line:
          yield f"{path}:{number}: {mark!r}"
    if path.startswith("configs/"):
      for name in imports(ast.parse(source)):
        if name != "progrpo_jax.ranges" and (
            name.split(".")[0] in JAX | {"progrpo_jax"}):
          yield f"{path}: imports {name}; configs are data"


def sources():
  return {
      str(p.relative_to(ROOT)): p.read_text(encoding="utf-8")
      for folder in ("progrpo_jax", "configs", "tests")
      for p in (ROOT / folder).rglob("*.py")}


def test_the_code_keeps_the_rules():
  files = sources()
  assert len(files) > 20
  assert list(violations(files)) == []


GOOD = {
    "progrpo_jax/__init__.py": (
        '"""Doc."""\n\n__version__ = "1"\n\n'
        "def __getattr__(name):\n  from progrpo_jax import train\n"),
    "progrpo_jax/errors.py": "",
    "progrpo_jax/ops.py": "import jax\n",
    "progrpo_jax/algos/kl.py": "from progrpo_jax import ops\n",
    "progrpo_jax/algos/losses.py": "from progrpo_jax.algos import kl\n",
    "progrpo_jax/rewards/score.py": "import typing\n",
    "progrpo_jax/rewards/pool.py": "import os, time\n",
    "progrpo_jax/rewards/logic.py": (
        "from progrpo_jax.rewards.score import Score\n"),
    "progrpo_jax/devices/sharding.py": 'AXES = ("data", "fsdp", "tensor")\n',
    "progrpo_jax/tasks/base.py": (
        "from progrpo_jax import tasks\n"
        "from progrpo_jax.rewards import logic, pool\n"),
    "progrpo_jax/tasks/__init__.py": "",
    "progrpo_jax/models/transformer.py": "from flax import linen\n",
    "progrpo_jax/learn/state.py": (
        "from flax import struct\nfrom progrpo_jax.models import transformer"),
    "progrpo_jax/storage/checkpoint.py": (
        "import orbax.checkpoint as ocp\n"
        "from progrpo_jax import state as state_lib\n"
        'ITEMS = ("params", "data")\n'),
    "progrpo_jax/train.py": "from progrpo_jax import checkpoint, state\n",
    "progrpo_jax/report/html.py": "",
    "progrpo_jax/cli/train.py": (
        "from configs import common\nfrom progrpo_jax import train\n"
        "from progrpo_jax.report import html\n"),
    "progrpo_jax/main.py": "from progrpo_jax.cli import train\n",
    "progrpo_jax/config/checks.py": "from configs import common\n",
    "progrpo_jax/config/defaults.py": (
        "import ml_collections\nfrom progrpo_jax import ranges\n"),
}


def test_made_up_code_that_keeps_the_rules():
  assert list(violations(GOOD)) == []


@pytest.mark.parametrize(("path", "source", "words"), [
    ("progrpo_jax/ops.py", "from progrpo_jax import state",
     "ops.py (floor 0) imports state.py (floor 3)"),
    ("progrpo_jax/ops.py", "import progrpo_jax.learn.state",
     "imports learn/state.py"),
    ("progrpo_jax/ops.py", "from progrpo_jax.learn.state import State",
     "imports state.py"),
    ("progrpo_jax/ops.py", "def f():\n  from progrpo_jax import train",
     "imports train.py"),
    ("progrpo_jax/ops.py", "from . import errors", "relative import"),
    ("progrpo_jax/errors.py", "from progrpo_jax import ops",
     "(floor 0) imports ops.py (floor 0)"),
    ("progrpo_jax/algos/kl.py", "from progrpo_jax.algos import losses",
     "imports algos/losses.py"),
    ("progrpo_jax/algos/kl.py", "from progrpo_jax.rewards import score",
     "imports rewards/score.py"),
    ("progrpo_jax/learn/state.py", "from progrpo_jax import checkpoint",
     "imports checkpoint.py"),
    ("progrpo_jax/report/html.py", "from progrpo_jax.cli import train",
     "imports cli/train.py"),
    ("progrpo_jax/cli/train.py", "from progrpo_jax import main",
     "imports main.py"),
    ("progrpo_jax/extras.py", "", "extras.py: on no floor; add it"),
    ("progrpo_jax/algos/__init__.py", "from progrpo_jax.algos import kl",
     "more than a docstring"),
    ("progrpo_jax/__init__.py", "from progrpo_jax import train",
     "more than a docstring"),
    ("progrpo_jax/__init__.py", "def load_run():\n  pass",
     "more than a docstring"),
    ("progrpo_jax/algos/__init__.py", "def __getattr__(name):\n  pass",
     "more than a docstring"),
    ("progrpo_jax/cli/train.py", "def f():\n  import IPython",
     "imports IPython"),
    ("progrpo_jax/train.py", "import optax", "imports optax, which is for"),
    ("progrpo_jax/train.py", "from orbax import checkpoint", "imports orbax"),
    ("progrpo_jax/storage/checkpoint.py", "import flax.struct", "imports flax"),
    ("progrpo_jax/cli/train.py", "def f():\n  import matplotlib.pyplot",
     "imports matplotlib"),
    ("progrpo_jax/text/tokenizer.py", "import torch", "for nobody"),
    ("progrpo_jax/tasks/base.py", "import tensorflow as tf", "for nobody"),
    ("progrpo_jax/algos/kl.py", "import time", "imports time on floor 1"),
    ("progrpo_jax/ops.py", "from ml_collections import ConfigDict",
     "imports ml_collections on floor 0"),
    ("progrpo_jax/rewards/logic.py", "import os.path", "imports os"),
    ("progrpo_jax/ops.py", "x = open('a')", "opens a file"),
    ("progrpo_jax/devices/sharding.py", "import jax\ni = jax.process_index()",
     "process_index"),
    ("progrpo_jax/rewards/logic.py", "import jax.numpy as jnp",
     "rewards/logic.py: reaches jax through rewards/logic.py"),
    ("progrpo_jax/rewards/score.py", "import chex",
     "tasks/base.py: reaches chex through rewards/score.py"),
    ("progrpo_jax/train.py", "x = P('data')", "mesh axis 'data'"),
    ("progrpo_jax/train.py", "x = sharding.PartitionSpec(('data', None))",
     "mesh axis 'data'"),
    ("progrpo_jax/train.py", "x = {'fsdp': 1}", "mesh axis 'fsdp'"),
    ("progrpo_jax/train.py", "axis = 'tensor'", "mesh axis 'tensor'"),
    ("progrpo_jax/train.py", "x = 1  # " + MARKS[0], MARKS[0]),
    ("tests/test_x.py", "x = 1  # " + MARKS[3], "test_x.py:1"),
    ("progrpo_jax/train.py", "from configs import common",
     "only the command line"),
    ("progrpo_jax/config/checks.py", "from configs import methods",
     "only the command line"),
    ("progrpo_jax/config/defaults.py", "import jax.numpy as jnp", "configs are data"),
    ("progrpo_jax/config/defaults.py", "from progrpo_jax import train",
     "configs are data"),
])
def test_made_up_code_that_breaks_a_rule(path, source, words):
  found = list(violations(GOOD | {path: source}))
  assert any(words in v for v in found), found
