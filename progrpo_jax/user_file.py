"""Python files of users: configs and reward functions.

Workers of verifiers import this too, so it imports nothing of the package.
"""

import importlib.util
import os
import sys
import types


def run(path: str, name: str) -> types.ModuleType:
  """Runs a file as a module; at its top it may import what lies beside it.

  Args:
    path: path of the file on this machine.
    name: name of the module.

  Raises:
    Exception: any error of the file's own code.
  """
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module  # dataclasses look their module up
  # Last and for this moment alone, so that no file beside it hides a module of
  # others, now or later.
  folder = os.path.dirname(os.path.abspath(path))
  is_new = folder not in sys.path
  if is_new:
    sys.path.append(folder)
  try:
    spec.loader.exec_module(module)
  finally:
    if is_new:
      sys.path.remove(folder)
  return module
