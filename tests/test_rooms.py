"""Who may import whom.

The package is built in rooms, one above the other. A file imports from lower
rooms, and from files of its own room that stand before it in the list of the
room. Each heavy dependency has few importers, the lowest rooms see neither
files nor clocks, verifiers and tasks do without JAX, so that their processes
start fast, and no room below `settings` sees a config.
"""

import ast
import fnmatch
import pathlib

import pytest

from progrpo_jax.settings import defaults

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Room by room from the ground: name -> its files, in order. Patterns stand for
# files that do not import each other. Rooms are folders; the ground, the run
# and the top are files of the package itself.
ROOMS = {
  "ground": [
    "errors.py",
    "ranges.py",
    "ops.py",
    "batch.py",
    "packing.py",
    "groups.py",
    "progress.py",
    "randomness.py",
    "places.py",
    "user_file.py",
  ],
  "algos": [
    "terms.py",
    "shaping.py",
    "advantages.py",
    "arm.py",
    "kl.py",
    "distill.py",
    "correction.py",
    "ranked.py",
    "losses.py",
    "aggregate.py",
    "diagnostics.py",
    "objective.py",
    "reset.py",
    "control.py",
    "collapse.py",
  ],
  "devices": [
    "sharding.py",
    "hosts.py",
    "compilation.py",
    "peak.py",
    "timing.py",
    "stopping.py",
    "agreement.py",
  ],
  "rewards": [
    "score.py",
    "thinking.py",
    "sandbox.py",
    "serving.py",
    "pool.py",
    "gym.py",
    "characters.py",
    "presentation.py",
    "units.py",
    "words.py",
    "answers.py",
    "expressions.py",
    "evaluation.py",
    "latex.py",
    "notation.py",
    "symbolic.py",
    "identity.py",
    "equality.py",
    "math.py",
    "language.py",
    "*.py",
  ],
  "text": [
    "rendering.py",
    "baked.py",
    "chat.py",
    "files.py",
    "inputs.py",
    "sentencepiece_tokenizer.py",
    "user_part.py",
    "hf_tokenizer.py",
    "tokenizer.py",
  ],
  "models": [
    "fields.py",
    "rope.py",
    "config.py",
    "flops.py",
    "layers.py",
    "fused_attention.py",
    "attention.py",
    "lora.py",
    "cache.py",
    "modules.py",
    "parameters.py",
    "transformer.py",
    "scoring.py",
    "tensors.py",
    "hf_names.py",
    "hf_read.py",
    "hf_write.py",
    "hf.py",
  ],
  "tasks": [
    "base.py",
    "sets/builder.py",
    "sets/rejects.py",
    "sets/files.py",
    "sets/overlap.py",
    "sets/schema.py",
    "sets/testcases.py",
    "sets/texts.py",
    "sets/programs.py",
    "sets/instructions.py",
    "sets/reader.py",
    "sets/published.py",
    "sets/asking.py",
    "sets/writing.py",
    "reasoning_gym.py",
    "*.py",
  ],
  "rollout": [
    "prompts.py",
    "verify.py",
    "decoding.py",
    "resizing.py",
    "sampler.py",
    "turns.py",
    "rewarding.py",
    "measure.py",
    "draw.py",
    "rephrase.py",
    "collect.py",
  ],
  "learn": [
    "optim.py",
    "state.py",
    "update.py",
    "advantage.py",
    "teacher.py",
    "prepare.py",
    "adaptive.py",
    "improve.py",
    "history.py",
    "speed.py",
    "reference.py",
    "warmup.py",
  ],
  "evaluators": [
    "samples.py",
    "intervals.py",
    "passk.py",
    "diversity.py",
    "tolerant.py",
    "entropy.py",
    "rating.py",
    "boundary.py",
    "creativity.py",
    "held_out.py",
    "validate.py",
  ],
  "storage": [
    "lines.py",
    "loggers.py",
    "metrics.py",
    "lock.py",
    "shared.py",
    "checkpoint.py",
    "hub_names.py",
    "hub.py",
    "policy.py",
    "outputs.py",
    "log.py",
  ],
  "settings": [
    "defaults.py",
    "methods.py",
    "named.py",
    "scales.py",
    "derived.py",
    "checks.py",
    "schedule.py",
    "identity.py",
    "isolation.py",
    "files.py",
  ],
  "build": [
    "functions.py",
    "problems.py",
    "stages.py",
    "answers.py",
    "base_policy.py",
  ],
  "plan": [
    "memory.py",
    "programs.py",
    "hlo.py",
    "counts.py",
    "roofline.py",
    "kept.py",
    "ahead.py",
  ],
  "run": ["workdir.py", "loop.py", "run.py"],
  "report": [
    "readings.py",
    "comparison.py",
    "tables.py",
    "verdict.py",
    "drawing.py",
    "svg.py",
    "curves.py",
    "passk.py",
    "live.py",
    "markup.py",
    "rollouts.py",
    "answers.py",
    "sections.py",
    "card.py",
    "html.py",
    "compared.py",
    "notebook.py",
    "views.py",
  ],
  "api": ["api.py"],
  "cli": ["exits.py", "arguments.py", "*.py", "quickstart.py"],
  "top": ["main.py"],
}

# Dependency -> its only importers.
IMPORTERS = {
  "flax": ["models/*.py", "batch.py", "learn/state.py", "rollout/decoding.py"],
  "optax": ["learn/optim.py", "learn/update.py"],
  "orbax": ["storage/checkpoint.py"],
  "transformers": ["text/hf_tokenizer.py", "text/rendering.py"],
  "sentencepiece": ["text/sentencepiece_tokenizer.py"],
  "huggingface_hub": ["storage/hub.py", "report/card.py"],
  "safetensors": [],
  "tensorflow_datasets": [
    "tasks/reasoning_gym.py",
    "tasks/sets/builder.py",
    "tasks/sets/reader.py",
  ],
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
  "tensorboardX": ["storage/loggers.py"],
  "wandb": ["storage/loggers.py"],
  "trackio": ["storage/loggers.py"],
  "tensorflow": [],
  "torch": [],
}

# What the ground, algos and models' arithmetic never see: files and clocks.
BLIND = {"ground", "algos", "rewards"}
UNSEEN = {
  "ml_collections",
  "absl",
  "etils",
  "pathlib",
  "os",
  "io",
  "shutil",
  "tempfile",
  "time",
  "datetime",
}
# The process pool and the jail are made of processes and deadlines, and
# places.py and user_file.py know where files lie.
SEEING = {
  "rewards/serving.py",
  "rewards/pool.py",
  "rewards/sandbox.py",
  "rewards/jail.py",
  "places.py",
  "user_file.py",
}

# The rooms that read a config, and what a read looks like.
READERS = {"settings", "build", "plan", "cli", "report", "api"}
CONFIG_NAMES = {"c", "cfg", "config"}
GROUPS = set(defaults.keys()) - {"seed", "method", "data"}

JAX = {"jax", "jaxlib", "flax", "optax", "chex", "orbax"}
WITHOUT_JAX = ["rewards/*.py", "tasks/*.py"]

MESH_AXES = {"data", "fsdp", "tensor"}
MESH_CALLS = {"P", "PartitionSpec", "Mesh", "make_mesh", "AbstractMesh"}

# Spelled in two halves, so that this file does not hold them.
MARKS = [
  a + b
  for a, b in (
    ("no", "qa"),
    ("type: ", "ignore"),
    ("py", "lint:"),
    ("TO", "DO"),
    ("FIX", "ME"),
    ("pragma: ", "no cover"),
    ("fmt: ", "off"),
  )
]


def fits(path, patterns):
  return any(fnmatch.fnmatchcase(path, p) for p in patterns)


def room_of(path):
  """Name of a file's room; of a file of the package itself by the lists."""
  folder, _, name = path.partition("/")
  if name:
    return folder
  return next((room for room, names in ROOMS.items() if path in names), None)


def place(path):
  """(room, rank within it), each as a number, of a file; None if unlisted."""
  room = room_of(path)
  if room not in ROOMS:
    return None
  name = path.removeprefix(f"{room}/")
  ranks = [
    (pattern != name, rank)
    for rank, pattern in enumerate(ROOMS[room])
    if fnmatch.fnmatchcase(name, pattern)
  ]
  return (list(ROOMS).index(room), min(ranks)[1]) if ranks else None


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
  """Whether the rooms allow it."""
  return place(imported) < place(importer)


def config_reads(tree):
  """Lines that read a key of a config, such as `c.algo.loss`."""
  return sorted(
    {
      node.lineno
      for node in ast.walk(tree)
      if isinstance(node, ast.Attribute)
      and node.attr in GROUPS
      and isinstance(node.value, ast.Name)
      and node.value.id in CONFIG_NAMES
    }
  )


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
    strings = (
      {
        n.value
        for n in ast.walk(node)
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
      }
      if isinstance(node, ast.Call)
      and (
        getattr(node.func, "id", getattr(node.func, "attr", None)) in MESH_CALLS
      )
      else set()
    )
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
    isinstance(node, ast.FunctionDef) and node.name in hooks
  )


def violations_of_package(files):
  """Of files {path: source} under `progrpo_jax/`."""
  trees = {
    p.removeprefix("progrpo_jax/"): ast.parse(s)
    for p, s in files.items()
    if p.startswith("progrpo_jax/")
  }
  graph = {p: imports(t) for p, t in trees.items()}
  for path, tree in sorted(trees.items()):
    if path.rpartition("/")[2] == "__init__.py":
      if not all(bare(node, path) for node in tree.body):
        yield f"{path}: holds more than a docstring and constants"
      continue
    if place(path) is None:
      yield (
        f"{path}: in no room; add it to ROOMS in tests/test_rooms.py, in "
        "the lowest room that is above all it imports"
      )
      continue
    room = room_of(path)
    blind = room in BLIND and path not in SEEING
    for name in graph[path]:
      top = name.split(".")[0]
      if top == "":
        yield f"{path}: relative import {name}"
      if top == "configs":
        yield f"{path}: imports {name}; config files are read, not imported"
      if top in IMPORTERS and not fits(path, IMPORTERS[top]):
        yield (
          f"{path}: imports {top}, which is for "
          f"{', '.join(IMPORTERS[top]) or 'nobody'}"
        )
      if blind and top in UNSEEN:
        yield f"{path}: imports {top}, which {room} does without"
      if top == "ml_collections" and room not in READERS:
        yield f"{path}: imports ml_collections; {room} sees no config"
      other = target(name, files) if top == "progrpo_jax" else None
      if other and place(other) and not may_import(path, other):
        yield f"{path} imports {other}, which stands above it"
    if room not in READERS:
      for number in config_reads(tree):
        yield f"{path}:{number}: reads a config; {room} gets numbers"
    if blind:
      for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (
          getattr(node.func, "id", None) == "open"
        ):
          yield f"{path}: opens a file, which {room} does without"
    if path != "devices/hosts.py":
      for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "process_index":
          yield f"{path}: asks for process_index; devices/hosts.py does"
    if fits(path, WITHOUT_JAX):
      for reached in sorted(reaches(path, files, graph)):
        heavy = {n.split(".")[0] for n in graph.get(reached, ())} & JAX
        if heavy:
          yield f"{path}: reaches {min(heavy)} through {reached}"
    if path != "devices/sharding.py":
      for axis in sorted(mesh_literals(tree)):
        yield (
          f"{path}: names mesh axis {axis!r}; devices/sharding.py alone does"
        )


def violations(files):
  """Of files {path: source}, relative to the root of the repository."""
  yield from violations_of_package(files)
  for path, source in sorted(files.items()):
    for number, line in enumerate(source.splitlines(), 1):
      for mark in MARKS:
        if mark in line:
          yield f"{path}:{number}: {mark!r}"
    if path in DATA or path.startswith("configs/"):
      for name in imports(ast.parse(source)):
        if (
          name.split(".")[0] in JAX
          or name.startswith("progrpo_jax")
          and (name not in ALLOWED)
        ):
          yield f"{path}: imports {name}; configs are data"


# Configs are data: these files start without JAX.
_PLAIN = ("defaults", "methods", "named", "scales")
DATA = {f"progrpo_jax/settings/{n}.py" for n in _PLAIN}
ALLOWED = {
  "progrpo_jax.errors",
  "progrpo_jax.ranges",
  *(f"progrpo_jax.settings.{n}" for n in _PLAIN),
}


def sources():
  return {
    str(p.relative_to(ROOT)): p.read_text(encoding="utf-8")
    for folder in ("progrpo_jax", "configs", "tests")
    for p in (ROOT / folder).rglob("*.py")
  }


def test_the_code_keeps_the_rules():
  files = sources()
  assert len(files) > 20
  assert list(violations(files)) == []


GOOD = {
  "progrpo_jax/__init__.py": (
    '"""Doc."""\n\n__version__ = "1"\n\n'
    "def __getattr__(name):\n  from progrpo_jax import loop\n"
  ),
  "progrpo_jax/errors.py": "",
  "progrpo_jax/ops.py": "import jax\n",
  "progrpo_jax/algos/kl.py": "from progrpo_jax import ops\n",
  "progrpo_jax/algos/losses.py": "from progrpo_jax.algos import kl\n",
  "progrpo_jax/rewards/score.py": "import typing\n",
  "progrpo_jax/rewards/pool.py": "import os, time\n",
  "progrpo_jax/rewards/logic.py": (
    "from progrpo_jax.rewards.score import Score\n"
  ),
  "progrpo_jax/devices/sharding.py": 'AXES = ("data", "fsdp", "tensor")\n',
  "progrpo_jax/tasks/base.py": (
    "from progrpo_jax import tasks\n"
    "from progrpo_jax.rewards import logic, pool\n"
  ),
  "progrpo_jax/tasks/__init__.py": "",
  "progrpo_jax/models/transformer.py": "from flax import linen\n",
  "progrpo_jax/learn/state.py": (
    "from flax import struct\nfrom progrpo_jax.models import transformer"
  ),
  "progrpo_jax/storage/checkpoint.py": (
    "import orbax.checkpoint as ocp\n"
    "from progrpo_jax.learn import state as state_lib\n"
    'ITEMS = ("params", "data")\n'
  ),
  "progrpo_jax/loop.py": (
    "from progrpo_jax.learn import state\n"
    "from progrpo_jax.storage import checkpoint\n"
  ),
  "progrpo_jax/report/html.py": "",
  "progrpo_jax/cli/train.py": (
    "from progrpo_jax.settings import defaults\n"
    "from progrpo_jax import loop\n"
    "from progrpo_jax.report import html\nx = c.algo.loss\n"
  ),
  "progrpo_jax/main.py": "from progrpo_jax.cli import train\n",
  "progrpo_jax/settings/checks.py": (
    "from progrpo_jax.settings import defaults\n"
  ),
  "configs/tiny.py": "from progrpo_jax.settings import methods, scales\n",
  "progrpo_jax/settings/defaults.py": (
    "import ml_collections\nfrom progrpo_jax import ranges\n"
  ),
}


def test_made_up_code_that_keeps_the_rules():
  assert list(violations(GOOD)) == []


@pytest.mark.parametrize(
  ("path", "source", "words"),
  [
    (
      "progrpo_jax/ops.py",
      "from progrpo_jax.learn import state",
      "ops.py imports learn/state.py, which stands above it",
    ),
    (
      "progrpo_jax/ops.py",
      "import progrpo_jax.learn.state",
      "imports learn/state.py",
    ),
    (
      "progrpo_jax/ops.py",
      "from progrpo_jax.learn.state import State",
      "imports learn/state.py",
    ),
    (
      "progrpo_jax/ops.py",
      "def f():\n  from progrpo_jax import loop",
      "imports loop.py",
    ),
    ("progrpo_jax/ops.py", "from . import errors", "relative import"),
    (
      "progrpo_jax/errors.py",
      "from progrpo_jax import ops",
      "errors.py imports ops.py",
    ),
    (
      "progrpo_jax/algos/kl.py",
      "from progrpo_jax.algos import losses",
      "imports algos/losses.py",
    ),
    (
      "progrpo_jax/algos/kl.py",
      "from progrpo_jax.rewards import score",
      "imports rewards/score.py",
    ),
    (
      "progrpo_jax/learn/state.py",
      "from progrpo_jax.storage import checkpoint",
      "imports storage/checkpoint.py",
    ),
    (
      "progrpo_jax/report/html.py",
      "from progrpo_jax.cli import train",
      "imports cli/train.py",
    ),
    (
      "progrpo_jax/cli/train.py",
      "from progrpo_jax import main",
      "imports main.py",
    ),
    ("progrpo_jax/extras.py", "", "extras.py: in no room; add it"),
    (
      "progrpo_jax/algos/__init__.py",
      "from progrpo_jax.algos import kl",
      "more than a docstring",
    ),
    (
      "progrpo_jax/__init__.py",
      "from progrpo_jax import loop",
      "more than a docstring",
    ),
    (
      "progrpo_jax/__init__.py",
      "def load_run():\n  pass",
      "more than a docstring",
    ),
    (
      "progrpo_jax/algos/__init__.py",
      "def __getattr__(name):\n  pass",
      "more than a docstring",
    ),
    (
      "progrpo_jax/cli/train.py",
      "def f():\n  import IPython",
      "imports IPython",
    ),
    ("progrpo_jax/loop.py", "import optax", "imports optax, which is for"),
    ("progrpo_jax/loop.py", "from orbax import checkpoint", "imports orbax"),
    ("progrpo_jax/storage/checkpoint.py", "import flax.struct", "imports flax"),
    (
      "progrpo_jax/cli/train.py",
      "def f():\n  import matplotlib.pyplot",
      "imports matplotlib",
    ),
    ("progrpo_jax/text/tokenizer.py", "import torch", "for nobody"),
    ("progrpo_jax/tasks/base.py", "import tensorflow as tf", "for nobody"),
    (
      "progrpo_jax/algos/kl.py",
      "import time",
      "imports time, which algos does without",
    ),
    (
      "progrpo_jax/ops.py",
      "from ml_collections import ConfigDict",
      "imports ml_collections; ground sees no config",
    ),
    ("progrpo_jax/loop.py", "import ml_collections", "sees no config"),
    (
      "progrpo_jax/learn/state.py",
      "def f(c):\n  return c.optim.b1",
      "learn/state.py:2: reads a config; learn gets numbers",
    ),
    ("progrpo_jax/rewards/logic.py", "import os.path", "imports os"),
    ("progrpo_jax/ops.py", "x = open('a')", "opens a file"),
    (
      "progrpo_jax/devices/sharding.py",
      "import jax\ni = jax.process_index()",
      "process_index",
    ),
    (
      "progrpo_jax/rewards/logic.py",
      "import jax.numpy as jnp",
      "rewards/logic.py: reaches jax through rewards/logic.py",
    ),
    (
      "progrpo_jax/rewards/score.py",
      "import chex",
      "tasks/base.py: reaches chex through rewards/score.py",
    ),
    ("progrpo_jax/loop.py", "x = P('data')", "mesh axis 'data'"),
    (
      "progrpo_jax/loop.py",
      "x = sharding.PartitionSpec(('data', None))",
      "mesh axis 'data'",
    ),
    ("progrpo_jax/loop.py", "x = {'fsdp': 1}", "mesh axis 'fsdp'"),
    ("progrpo_jax/loop.py", "axis = 'tensor'", "mesh axis 'tensor'"),
    ("progrpo_jax/loop.py", "x = 1  # " + MARKS[0], MARKS[0]),
    ("tests/test_x.py", "x = 1  # " + MARKS[3], "test_x.py:1"),
    (
      "progrpo_jax/cli/train.py",
      "from configs import tiny",
      "read, not imported",
    ),
    (
      "progrpo_jax/settings/defaults.py",
      "import jax.numpy as jnp",
      "configs are data",
    ),
    ("configs/tiny.py", "from progrpo_jax import loop", "configs are data"),
    (
      "progrpo_jax/settings/defaults.py",
      "from progrpo_jax import loop",
      "configs are data",
    ),
  ],
)
def test_made_up_code_that_breaks_a_rule(path, source, words):
  found = list(violations(GOOD | {path: source}))
  assert any(words in v for v in found), found
