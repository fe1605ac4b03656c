"""Imports Reasoning Gym, which only logic tasks need.

Reasoning Gym requires pycosat, a solver in C without wheels for every Python,
so installing it may need a C compiler. All generators import it, but only one
of a hundred uses it (`NEEDS_SOLVER`). If it is missing, an empty module takes
its place, and only that generator is unavailable.
"""

import functools
import importlib
import sys
import types

from progrpo_jax import errors
from progrpo_jax.errors import InputError

NEEDS_SOLVER = ("zebra_puzzles",)

_GYM, _SOLVER = "reasoning_gym", "pycosat"
INSTALL = (
  f"{errors.install('logic')}; without a C compiler"
  f" {errors.install('logic-without-solver')} &&"
  " pip install --no-deps reasoning-gym"
)
INSTALL_SOLVER = f"pip install {_SOLVER}"


def load(name: str = "") -> types.ModuleType:
  """Imports Reasoning Gym or a module of it.

  Args:
    name: name of a module, such as "factory"; "" for the package.

  Raises:
    InputError: it is not installed; the message has the command.
  """
  has_solver()
  try:
    # The package first, since a failed import of a module leaves parts behind.
    package = importlib.import_module(_GYM)
    return importlib.import_module(f"{_GYM}.{name}") if name else package
  except ModuleNotFoundError as error:
    raise InputError(
      f"this task is made with Reasoning Gym ({error}): {INSTALL}"
    ) from error


def check(dataset: str) -> None:
  """Checks that a dataset's generator works here.

  Raises:
    InputError: it needs the missing solver; the message has the command.
  """
  if dataset in NEEDS_SOLVER and not has_solver():
    raise InputError(
      f"{dataset} needs {_SOLVER}, which is not installed and may have to be"
      f" compiled: install a C compiler, then {INSTALL_SOLVER}; or leave the"
      " task out"
    )


@functools.cache
def has_solver() -> bool:
  """Returns whether the solver is installed; else installs an empty module."""
  try:
    importlib.import_module(_SOLVER)
  except ImportError:
    sys.modules[_SOLVER] = types.ModuleType(_SOLVER, "Stands in for a solver.")
    return False
  return True
