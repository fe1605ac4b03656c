"""Reasoning Gym, which is installed on its own and imported here alone.

It requires pycosat, a solver in C that has no wheel for every Python, and so
a C compiler. One of its hundred generators uses it (`NEEDS_SOLVER`), yet all
of them import it. Where it is missing an empty module stands in its place,
and that generator alone is not to be had.
"""

import functools
import importlib
import sys
import types

from progrpo_jax.errors import InputError

NEEDS_SOLVER = ("zebra_puzzles",)

_GYM, _SOLVER = "reasoning_gym", "pycosat"
INSTALL = "pip install --no-deps reasoning-gym"
INSTALL_SOLVER = f"pip install {_SOLVER}"


def load(name: str = "") -> types.ModuleType:
  """Imports Reasoning Gym, or a module of it by its name, such as "factory".

  Raises:
    InputError: it is not installed; the message has the command.
  """
  has_solver()
  try:
    # The whole first: an import that failed half way leaves modules behind.
    whole = importlib.import_module(_GYM)
    return importlib.import_module(f"{_GYM}.{name}") if name else whole
  except ModuleNotFoundError as error:
    raise InputError(
        f"this task is made with Reasoning Gym ({error}): {INSTALL}") from error


def check(dataset: str) -> None:
  """Refuses a generator that cannot work here.

  Raises:
    InputError: it needs the solver; the message has the command.
  """
  if dataset in NEEDS_SOLVER and not has_solver():
    raise InputError(
        f"{dataset} needs {_SOLVER}, which is not installed and may have to be"
        f" compiled: install a C compiler, then {INSTALL_SOLVER}; or leave the"
        " task out")


@functools.cache
def has_solver() -> bool:
  """Whether the solver is there; if not, puts a module in its place."""
  try:
    importlib.import_module(_SOLVER)
  except ImportError:
    sys.modules[_SOLVER] = types.ModuleType(_SOLVER, "Stands in for a solver.")
    return False
  return True
